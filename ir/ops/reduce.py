"""Reductions over axes.

``axes`` are sorted, distinct and not negative; no axes means that nothing is reduced. Sums and
products of f16 and bf16 accumulate in f32; integers wrap in their own dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from pjit.ir import expr
from pjit.ir.core import Value
from pjit.ir.errors import require
from pjit.ir.expr import Dim
from pjit.ir.kernel_builder import Puller
from pjit.ir.opdef import Arg, OpDef, Sample, attr, operand, sample
from pjit.ir.ops.basic import Sizes
from pjit.ir.ops.elementwise import NARROW, SPECIAL, Cast, Div, in_f32, truncated_quotient
from pjit.ir.ops.movement import Reshape
from pjit.ir.types import FLOATS, NUMERIC, DType, TensorType, bool_, dtype, f32, i8, i64, u8

Axes = tuple[int, ...]


def reduced_shape(x: TensorType, axes: Axes, keepdims: bool) -> tuple[Dim, ...]:
    """The shape without the axes, or with 1 in their place; raises ConstraintError."""
    require(
        list(axes) == sorted(set(axes)) and all(0 <= a < x.rank for a in axes),
        "(C1) axes are sorted, distinct dimensions of the operand",
        expected=f"dimensions of {x}",
        got=axes,
    )
    if keepdims:
        return tuple(1 if d in axes else n for d, n in enumerate(x.shape))
    return tuple(n for d, n in enumerate(x.shape) if d not in axes)


def merged_index(
    index: Sequence[Dim], inner: Sequence[Dim], axes: Axes, rank: int, keepdims: bool
) -> list[Dim]:
    """The index into the operand: ``inner`` along the axes, ``index`` of the result elsewhere."""
    along = dict(zip(axes, inner, strict=True))
    if keepdims:
        return [along.get(d, i) for d, i in enumerate(index)]
    outer = iter(index)
    return [along[d] if d in along else next(outer) for d in range(rank)]


def reduction_samples(dtypes: Sequence[DType]) -> tuple[Sample, ...]:
    """All dtypes on one shape, the first one on others of rank 0 to 4."""
    one = dtypes[:1]
    cases: list[tuple[tuple[int, ...], Axes, bool]] = [
        ((), (), False),
        ((67,), (0,), False),
        ((5, 3), (0,), True),
        ((2, 3, 1, 7), (1, 3), False),
        ((2, 3, 5), (0, 1, 2), True),
        ((0, 4), (1,), False),
        ((3, 5), (), False),
        ((3, 0), (1,), False),
    ]
    return (
        sample((3, 19), dtypes=dtypes, axes=(1,)),
        *(sample(s, dtypes=one, axes=a, keepdims=keep) for s, a, keep in cases),
    )


class Reduction(OpDef):
    """Base of the reductions with an associative primitive.

    Constraints:
        (C1) ``axes`` are sorted, distinct dimensions of x.
    """

    x = operand(NUMERIC)
    axes = attr(doc="ints, sorted, distinct, not negative")
    keepdims = attr(False, "whether the axes stay as dimensions of size 1")
    combine: ClassVar[str]
    __slots__ = ()

    @staticmethod
    def infer(x: TensorType, *, axes: Axes, keepdims: bool) -> TensorType:
        """The dtype of x without the axes."""
        return x.with_shape(reduced_shape(x, axes, keepdims))

    @property
    def accumulator(self) -> DType:
        """The dtype of partial results; those of bools are bytes."""
        if self.x.dtype == bool_:
            return u8
        narrow = self.combine in ("add", "mul") and self.x.dtype in NARROW
        return f32 if narrow else self.x.dtype

    @property
    def primitive(self) -> str:
        """The scalar primitive that joins partial results."""
        if self.x.dtype == bool_:
            return {"max": "or", "min": "and"}[self.combine]
        return self.combine

    def element(self, k: Puller, index: Sequence[Dim]) -> Value:
        """Combines the elements along the axes."""
        x, axes, dt = self.x, self.axes, self.accumulator
        if not axes:
            return k.read(x, index)

        def body(inner: Sequence[Dim]) -> Value:
            at = merged_index(index, inner, axes, len(x.shape), self.keepdims)
            return k.b.cast(k.read(x, at), dt)

        return k.b.cast(k.reduce(self.primitive, [x.shape[a] for a in axes], body, dt), x.dtype)


class ReduceSum(Reduction, name="reduce.sum"):
    """The sum over the axes; 0 for no elements."""

    combine = "add"
    __slots__ = ()

    @staticmethod
    @in_f32
    def ref(x: np.ndarray, *, axes: Axes, keepdims: bool) -> np.ndarray:
        """NumPy's sum in the dtype of x."""
        return np.sum(x, axes, x.dtype, keepdims=keepdims)

    samples = reduction_samples(NUMERIC)


class ReduceProd(Reduction, name="reduce.prod"):
    """The product over the axes; 1 for no elements."""

    combine = "mul"
    __slots__ = ()

    @staticmethod
    @in_f32
    def ref(x: np.ndarray, *, axes: Axes, keepdims: bool) -> np.ndarray:
        """NumPy's product in the dtype of x."""
        return np.prod(x, axes, x.dtype, keepdims=keepdims)

    samples = reduction_samples(NUMERIC)


def _limit(dt: np.dtype, sign: int) -> Any:
    if dt.kind == "b":
        return sign > 0
    if dt.kind in "iu":
        return np.iinfo(dt).max if sign > 0 else np.iinfo(dt).min
    return sign * np.inf


_NAN_SAMPLES = (
    Sample(
        (Arg((2, 6), values=(*SPECIAL, 1.0, 2.0, 0.5, -1.0, 7.0, 3.0)),), {"axes": (1,)}, FLOATS
    ),
)


class ReduceMax(Reduction, name="reduce.max"):
    """The largest over the axes; NaN propagates.

    Of no elements it is the lowest value of the dtype: -inf, the least integer, false.
    """

    x = operand((*NUMERIC, bool_))
    combine = "max"
    __slots__ = ()

    @staticmethod
    @in_f32
    def ref(x: np.ndarray, *, axes: Axes, keepdims: bool) -> np.ndarray:
        """NumPy's max with an initial value."""
        return np.max(x, axes, keepdims=keepdims, initial=_limit(x.dtype, -1))

    samples = reduction_samples((*NUMERIC, bool_)) + _NAN_SAMPLES


class ReduceMin(Reduction, name="reduce.min"):
    """The smallest over the axes; NaN propagates.

    Of no elements it is the highest value of the dtype: inf, the largest integer, true.
    """

    x = operand((*NUMERIC, bool_))
    combine = "min"
    __slots__ = ()

    @staticmethod
    @in_f32
    def ref(x: np.ndarray, *, axes: Axes, keepdims: bool) -> np.ndarray:
        """NumPy's min with an initial value."""
        return np.min(x, axes, keepdims=keepdims, initial=_limit(x.dtype, 1))

    samples = reduction_samples((*NUMERIC, bool_)) + _NAN_SAMPLES


class ReduceMean(OpDef, name="reduce.mean"):
    """The sum over the axes divided by the number of elements; NaN for none.

    f16 and bf16 compute in f32 throughout. Integers are summed and counted in 64 bits; the mean is
    rounded towards zero.

    Constraints:
        (C1) ``axes`` are sorted, distinct dimensions of x.
    """

    x = operand(NUMERIC)
    axes = attr(doc="ints, sorted, distinct, not negative")
    keepdims = attr(False, "whether the axes stay as dimensions of size 1")
    __slots__ = ()

    @staticmethod
    def infer(x: TensorType, *, axes: Axes, keepdims: bool) -> TensorType:
        """The dtype of x without the axes."""
        return x.with_shape(reduced_shape(x, axes, keepdims))

    @staticmethod
    @in_f32
    def ref(x: np.ndarray, *, axes: Axes, keepdims: bool) -> np.ndarray:
        """The sum divided by the count."""
        wide = _mean_dtype(dtype(x.dtype)).numpy
        total = np.asarray(np.sum(x, axes, wide, keepdims=keepdims))
        count = np.asarray(np.prod([x.shape[a] for a in axes], dtype=np.int64))
        return truncated_quotient(total, count.astype(wide)).astype(x.dtype)

    @staticmethod
    def decompose(b: Any, x: Value, *, axes: Axes, keepdims: bool) -> Value:
        """A sum and a division."""
        dt = _mean_dtype(x.dtype)
        total = b(ReduceSum, _as_dtype(b, x, dt), axes=axes, keepdims=keepdims)
        mean = b(Div, total, size_value(b, [x.shape[a] for a in axes], dt))
        return _as_dtype(b, mean, x.dtype)

    samples = (
        *reduction_samples(NUMERIC),
        sample((3, 9, 10), dtypes=(i8, u8), low=-100, high=100, axes=(0, 1, 2)),
    )


def _mean_dtype(dt: DType) -> DType:
    """The dtype that a mean is computed in: narrow integers overflow as sums and as counts."""
    if dt in NARROW:
        return f32
    return i64 if dt.is_int and dt.bits < 64 else dt


def _as_dtype(b: Any, x: Value, dt: DType) -> Value:
    return x if x.dtype == dt else b(Cast, x, dtype=dt)


def size_value(b: Any, dims: Sequence[Dim], dt: DType) -> Value:
    """The product of dimensions as a tensor of rank 0: a constant when it is known."""
    n = expr.product(dims)
    if isinstance(n, int):
        return b.constant(n, dt)
    return b(Cast, b(Reshape, b(Sizes, dims=(n,)), shape=()), dtype=dt)


def arg_samples() -> tuple[Sample, ...]:
    """Samples with ties (integers of a small range) and NaN."""
    cases: list[tuple[tuple[int, ...], dict[str, Any]]] = [
        ((67,), {"axis": 0}),
        ((5, 3), {"axis": 0, "keepdims": True}),
        ((2, 3, 1, 7), {"axis": 1}),
        ((0, 4), {"axis": 1}),
        ((1,), {"axis": 0, "last": True}),
    ]
    ties = (*SPECIAL, 1.0, 2.0, 2.0, -1.0, -1.0, 2.0)
    return (
        sample((3, 19), dtypes=NUMERIC, axis=1),
        sample((3, 19), dtypes=(f32, i8, i64), axis=1, last=True),
        *(sample(s, dtypes=(f32,), **attrs) for s, attrs in cases),
        *(
            Sample((Arg((2, 6), values=ties),), {"axis": 1, "last": last}, FLOATS)
            for last in (False, True)
        ),
    )


class ArgReduction(OpDef):
    """Base of argmax and argmin.

    Constraints:
        (C1) ``axis`` is a dimension of x.
        (C2) it is not empty.
    """

    x = operand(NUMERIC)
    axis = attr()
    keepdims = attr(False, "whether the axis stays as a dimension of size 1")
    last = attr(False, "which of equal elements counts: the last one instead of the first")
    combine: ClassVar[str]
    __slots__ = ()

    @staticmethod
    def infer(x: TensorType, *, axis: int, keepdims: bool, last: bool) -> TensorType:
        """I64 without the axis."""
        shape = reduced_shape(x, (axis,), keepdims)
        require(x.shape[axis] != 0, "(C2) the axis is not empty", got=x)
        return TensorType(i64, shape)

    def element(self, k: Puller, index: Sequence[Dim]) -> Value:
        """Reduces the values, then the positions that hold the result (or NaN, where it is NaN)."""
        x, b = self.x, k.b
        extent = [x.shape[self.axis]]

        def read(inner: Sequence[Dim]) -> Value:
            return k.read(x, merged_index(index, inner, (self.axis,), len(x.shape), self.keepdims))

        best = k.reduce(self.combine, extent, read, x.dtype)

        def position(inner: Sequence[Dim]) -> Value:
            value = read(inner)
            match = b.eq(value, best)
            if x.dtype.is_float:
                match = b.or_(match, b.ne(value, value))
            outside = b.const(-1, i64) if self.last else k.index(extent[0])
            return b.select(match, k.index(inner[0]), outside)

        return k.reduce("max" if self.last else "min", extent, position, i64)


def _arg_ref(f: Callable) -> Callable[..., np.ndarray]:
    def ref(x: np.ndarray, *, axis: int, keepdims: bool, last: bool) -> np.ndarray:
        if last:
            found = x.shape[axis] - 1 - f(np.flip(x, axis), axis, keepdims=keepdims)
        else:
            found = f(x, axis, keepdims=keepdims)
        return np.asarray(found, np.int64)

    return in_f32(ref)


class Argmax(ArgReduction, name="argmax"):
    """The position of the largest element along an axis, as i64; that of NaN if there is one."""

    combine = "max"
    ref = staticmethod(_arg_ref(np.argmax))
    samples = arg_samples()
    __slots__ = ()


class Argmin(ArgReduction, name="argmin"):
    """The position of the smallest element along an axis, as i64; that of NaN if there is one."""

    combine = "min"
    ref = staticmethod(_arg_ref(np.argmin))
    samples = arg_samples()
    __slots__ = ()


__all__ = [
    "Argmax",
    "Argmin",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "merged_index",
    "reduced_shape",
    "size_value",
]
