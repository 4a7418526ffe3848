"""Normalisations and softmax: compositions of reductions and elementwise operators.

16-bit floats are computed in f32 and rounded once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pjit.ir.core import Value
from pjit.ir.errors import require
from pjit.ir.opdef import Arg, OpDef, attr, operand, same_dim, sample
from pjit.ir.ops.windows import accumulator, widen
from pjit.ir.types import FLOATS, DType, TensorType, f16, f32, f64


def _inverse(b: Any, x: Value) -> Value:
    """1/x: what divides a whole row takes one division for all of it."""
    from pjit.ir import ops

    return b(ops.Div, b.constant(1, x.dtype, "one"), x)


def _cast(b: Any, x: Value, dt: DType) -> Value:
    from pjit.ir import ops

    return x if x.dtype == dt else b(ops.Cast, x, dtype=dt)


class BatchNorm(OpDef, name="nn.batch_norm"):
    """``(x - mean)/sqrt(var + epsilon)*scale + bias`` by channel, with given statistics.

    The channels are dimension 1 of x. The parameters may have another float dtype than x.

    (C1) x has at least two dimensions.
    (C2) scale, bias, mean and var are vectors of the channels.
    """

    x = operand(FLOATS)
    scale = operand(FLOATS)
    bias = operand(FLOATS)
    mean = operand(FLOATS)
    var = operand(FLOATS)
    epsilon = attr(1e-5)
    __slots__ = ()

    @staticmethod
    def infer(
        x: TensorType,
        scale: TensorType,
        bias: TensorType,
        mean: TensorType,
        var: TensorType,
        *,
        epsilon: float,
    ) -> TensorType:
        """The type of x."""
        require(x.rank >= 2, "(C1) x has a batch and a channel dimension", got=x)
        for name, t in (("scale", scale), ("bias", bias), ("mean", mean), ("var", var)):
            require(
                t.rank == 1 and same_dim(t.shape[0], x.shape[1]),
                f"(C2) {name} is a vector of the channels",
                expected=x.shape[1],
                got=t,
            )
        return x

    @staticmethod
    def ref(
        x: np.ndarray,
        scale: np.ndarray,
        bias: np.ndarray,
        mean: np.ndarray,
        var: np.ndarray,
        *,
        epsilon: float,
    ) -> np.ndarray:
        """Scale and shift of each channel."""
        wide = widen(x)
        scale, bias, mean, var = (p.astype(wide.dtype) for p in (scale, bias, mean, var))
        factor = scale / np.sqrt(var + wide.dtype.type(epsilon))
        shape = (-1, *(1,) * (x.ndim - 2))
        y = wide * factor.reshape(shape) + (bias - mean * factor).reshape(shape)
        return y.astype(x.dtype)

    @staticmethod
    def decompose(
        b: Any, x: Value, scale: Value, bias: Value, mean: Value, var: Value, *, epsilon: float
    ) -> Value:
        """``x*f + (bias - mean*f)`` with ``f = scale/sqrt(var + epsilon)``.

        With constant parameters, f and the shift fold.
        """
        from pjit.ir import ops

        acc = accumulator(x.dtype)
        scale, bias, mean, var = (_cast(b, p, acc) for p in (scale, bias, mean, var))
        deviation = b(ops.Sqrt, b(ops.Add, var, b.constant(epsilon, acc, "epsilon")))
        factor = b(ops.Div, scale, deviation)
        shift = b(ops.Sub, bias, b(ops.Mul, mean, factor))
        shape = (x.shape[1], *(1,) * (len(x.shape) - 2))
        factor, shift = (b(ops.Reshape, p, shape=shape) for p in (factor, shift))
        y = b(ops.Add, b(ops.Mul, _cast(b, x, acc), factor), shift)
        return _cast(b, y, x.dtype)

    samples = (
        sample(
            (2, 3, 4, 5), (3,), (3,), (3,), Arg((3,), None, 0.1, 2.0), epsilon=1e-3, dtypes=FLOATS
        ),
        sample((4, 6), (6,), (6,), (6,), Arg((6,), None, 0.1, 2.0), epsilon=1e-5, dtypes=(f32,)),
        sample((0, 3, 2), (3,), (3,), (3,), Arg((3,), None, 0.1, 2.0), epsilon=1e-5, dtypes=(f32,)),
    )


class LayerNorm(OpDef, name="nn.layer_norm"):
    """Normalises dimensions ``axis..`` together to mean 0 and variance 1, then scales and shifts.

    (C1) All operands have one dtype.
    (C2) axis is in ``[0, rank)``.
    (C3) scale and bias broadcast to dimensions ``axis..`` of x.
    """

    x = operand(FLOATS)
    scale = operand(FLOATS)
    bias = operand(FLOATS, optional=True)
    axis = attr()
    epsilon = attr(1e-5)
    __slots__ = ()

    @staticmethod
    def infer(
        x: TensorType,
        scale: TensorType,
        bias: TensorType | None = None,
        *,
        axis: int,
        epsilon: float,
    ) -> TensorType:
        """The type of x."""
        parameters = [scale] if bias is None else [scale, bias]
        for t in parameters:
            require(t.dtype == x.dtype, "(C1) the operands have one dtype", got=f"{x} and {t}")
        require(
            0 <= axis < x.rank, "(C2) axis is a dimension", expected=f"0..{x.rank - 1}", got=axis
        )
        inner = x.shape[axis:]
        for t in parameters:
            fits = t.rank <= len(inner) and all(
                d == 1 or same_dim(d, n)
                for d, n in zip(reversed(t.shape), reversed(inner), strict=False)
            )
            require(
                fits,
                "(C3) scale and bias broadcast to the normalised dimensions",
                expected=list(inner),
                got=t,
            )
        return x

    @staticmethod
    def ref(
        x: np.ndarray,
        scale: np.ndarray,
        bias: np.ndarray | None = None,
        *,
        axis: int,
        epsilon: float,
    ) -> np.ndarray:
        """Two passes: the mean, then the mean square of what is left."""
        wide = widen(x)
        axes = tuple(range(axis, x.ndim))
        centred = wide - wide.mean(axes, keepdims=True)
        variance = np.square(centred).mean(axes, keepdims=True)
        y = centred / np.sqrt(variance + wide.dtype.type(epsilon)) * widen(scale)
        return (y if bias is None else y + widen(bias)).astype(x.dtype)

    @staticmethod
    def decompose(
        b: Any, x: Value, scale: Value, bias: Value | None = None, *, axis: int, epsilon: float
    ) -> Value:
        """Two means and a product with the inverse of the standard deviation."""
        from pjit.ir import ops

        acc = accumulator(x.dtype)
        axes = tuple(range(axis, len(x.shape)))
        wide = _cast(b, x, acc)
        centred = b(ops.Sub, wide, b(ops.ReduceMean, wide, axes=axes, keepdims=True))
        square = b(ops.Mul, centred, centred)
        variance = b(ops.ReduceMean, square, axes=axes, keepdims=True)
        deviation = b(ops.Sqrt, b(ops.Add, variance, b.constant(epsilon, acc, "epsilon")))
        y = b(ops.Mul, b(ops.Mul, centred, _inverse(b, deviation)), _cast(b, scale, acc))
        if bias is not None:
            y = b(ops.Add, y, _cast(b, bias, acc))
        return _cast(b, y, x.dtype)

    samples = (
        sample((2, 5, 16), (16,), (16,), axis=2, epsilon=1e-5, dtypes=FLOATS),
        sample((3, 4, 5), (4, 5), axis=1, epsilon=1e-3, dtypes=(f32, f64)),
        sample((7, 33), (1,), (33,), axis=1, epsilon=1e-12, dtypes=(f32,)),
        sample((0, 8), (8,), (8,), axis=1, epsilon=1e-5, dtypes=(f32,)),
    )


class Softmax(OpDef, name="softmax"):
    """``exp(x - m)/sum(exp(x - m))`` along an axis, with m the largest element.

    (C1) axis is in ``[0, rank)``.
    """

    x = operand(FLOATS)
    axis = attr()
    __slots__ = ()

    @staticmethod
    def infer(x: TensorType, *, axis: int) -> TensorType:
        """The type of x."""
        require(
            0 <= axis < x.rank, "(C1) axis is a dimension", expected=f"0..{x.rank - 1}", got=axis
        )
        return x

    @staticmethod
    def ref(x: np.ndarray, *, axis: int) -> np.ndarray:
        """The definition."""
        _, e, total = _exponentials(x, axis)
        return (e / total).astype(x.dtype)

    @staticmethod
    def decompose(b: Any, x: Value, *, axis: int) -> Value:
        """The definition, with one division for all elements along the axis."""
        from pjit.ir import ops

        wide = _cast(b, x, accumulator(x.dtype))
        e = b(ops.Exp, _below_max(b, wide, axis))
        total = b(ops.ReduceSum, e, axes=(axis,), keepdims=True)
        return _cast(b, b(ops.Mul, e, _inverse(b, total)), x.dtype)

    samples = (
        sample((3, 7), axis=1, dtypes=FLOATS, low=-9, high=9),
        sample((2, 5, 4), axis=1, dtypes=(f32, f64)),
        sample((3, 1), axis=0, dtypes=(f32, f16)),
        sample((2, 3, 130), axis=2, dtypes=(f32,), low=-90, high=90),
        sample((0, 4), axis=1, dtypes=(f32,)),
    )


class LogSoftmax(OpDef, name="log_softmax"):
    """``x - m - log(sum(exp(x - m)))`` along an axis, with m the largest element.

    (C1) axis is in ``[0, rank)``.
    """

    x = operand(FLOATS)
    axis = attr()
    __slots__ = ()

    @staticmethod
    def infer(x: TensorType, *, axis: int) -> TensorType:
        """The type of x."""
        require(
            0 <= axis < x.rank, "(C1) axis is a dimension", expected=f"0..{x.rank - 1}", got=axis
        )
        return x

    @staticmethod
    def ref(x: np.ndarray, *, axis: int) -> np.ndarray:
        """The definition."""
        shifted, _, total = _exponentials(x, axis)
        return (shifted - np.log(total)).astype(x.dtype)

    @staticmethod
    def decompose(b: Any, x: Value, *, axis: int) -> Value:
        """The definition."""
        from pjit.ir import ops

        shifted = _below_max(b, _cast(b, x, accumulator(x.dtype)), axis)
        total = b(ops.ReduceSum, b(ops.Exp, shifted), axes=(axis,), keepdims=True)
        return _cast(b, b(ops.Sub, shifted, b(ops.Log, total)), x.dtype)

    samples = (
        sample((3, 7), axis=1, dtypes=FLOATS, low=-9, high=9),
        sample((2, 5, 4), axis=0, dtypes=(f32, f64)),
        sample((2, 3, 130), axis=2, dtypes=(f32,), low=-90, high=90),
        sample((0, 4), axis=1, dtypes=(f32,)),
    )


def _exponentials(x: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    wide = widen(x)
    shifted = wide - wide.max(axis, keepdims=True, initial=-np.inf)
    e = np.exp(shifted)
    return shifted, e, e.sum(axis, keepdims=True)


def _below_max(b: Any, x: Value, axis: int) -> Value:
    from pjit.ir import ops

    return b(ops.Sub, x, b(ops.ReduceMax, x, axes=(axis,), keepdims=True))


__all__ = ["BatchNorm", "LayerNorm", "LogSoftmax", "Softmax"]
