"""Resampling to another shape.

The coordinates and weights follow the ONNX operator Resize (opset 19) without antialiasing and
cropping; they are computed in f32, operation by operation the same in the reference and in the
kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pjit.ir import expr
from pjit.ir.core import Value
from pjit.ir.errors import require
from pjit.ir.expr import Dim
from pjit.ir.kernel_builder import Puller, ScalarBuilder
from pjit.ir.opdef import OpDef, attr, operand, sample
from pjit.ir.ops.windows import accumulator, widen
from pjit.ir.types import FLOATS, NUMERIC, TensorType, bool_, f32, f64, i64, u8

MODES = ("nearest", "linear", "cubic")
COORDINATES = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
ROUNDING = ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")


@dataclass(frozen=True)
class Axis:
    """How one dimension is resampled."""

    size: Dim
    out: Dim
    scale: float | None  # None: out/size
    mode: str
    coordinates: str
    nearest: str
    cubic_a: float
    exclude_outside: bool

    @property
    def kept(self) -> bool:
        """Whether the dimension stays as it is."""
        return self.scale in (None, 1.0) and expr.same(self.size, self.out) is True

    def whole(self, i: Dim) -> Dim | None:
        """The source of output position ``i`` as an index expression.

        There is one where the ratio of the sizes is whole and rounding has no special cases.
        """
        if self.mode != "nearest":
            return None
        aligned = self.coordinates == "asymmetric"
        centred = self.coordinates.endswith("half_pixel") and self.nearest.startswith("round")
        up = _ratio(self.out, self.size)
        if up is not None and self.scale in (None, float(up)):
            return i // up if centred or (aligned and self.nearest == "floor") else None
        down = _ratio(self.size, self.out)
        if down is not None and self.scale in (None, 1 / down) and aligned:
            return i * down
        return None


def _ratio(a: Dim, b: Dim) -> int | None:
    """The whole number ``a/b``, if it is one for all values of the symbols."""
    if b == 0:
        return None
    found = a // b
    return found if isinstance(found, int) and found >= 1 and expr.same(found * b, a) else None


class Resize(OpDef, name="nn.resize"):
    """Resamples each dimension to the size in ``shape``; the operator Resize of ONNX.

    Along a dimension with scale s (from ``scales``, or the ratio of the sizes where that is empty),
    output position i reads at coordinate c: ``half_pixel``: (i + 0.5)/s - 0.5;
    ``pytorch_half_pixel``: the same, 0 for an output size of 1; ``asymmetric``: i/s;
    ``align_corners``: i*(size - 1)/(out - 1), 0 for an output size of 1. ``nearest`` rounds c as
    the attribute ``nearest`` says; ``linear`` and ``cubic`` weight 2 and 4 neighbours (cubic
    convolution with parameter ``cubic_a``: Keys, 1981). Positions outside read the nearest element;
    with ``exclude_outside`` they have weight 0 in the cubic mode and the other weights are scaled
    up. A neighbour of weight 0 does not count, whatever it is. 16-bit floats are computed in f32.

    (C1) shape has the rank of x.
    (C2) scales is empty or has a positive entry a dimension.
    (C3) mode, coordinates and nearest are known names.
    (C4) linear and cubic resample floats.
    (C5) An empty dimension stays empty.
    """

    x = operand((*NUMERIC, bool_))
    shape = attr()
    scales = attr(())
    mode = attr("nearest")
    coordinates = attr("half_pixel")
    nearest = attr("round_prefer_floor")
    cubic_a = attr(-0.75)
    exclude_outside = attr(False)
    __slots__ = ()

    @staticmethod
    def infer(
        x: TensorType,
        *,
        shape: tuple[Dim, ...],
        scales: tuple[float, ...],
        mode: str,
        coordinates: str,
        nearest: str,
        cubic_a: float,
        exclude_outside: bool,
    ) -> TensorType:
        """The shape is an attribute."""
        require(
            len(shape) == x.rank, "(C1) shape has the rank of x", expected=x.rank, got=list(shape)
        )
        require(
            not scales or (len(scales) == x.rank and min(scales) > 0),
            "(C2) scales is empty or has a positive entry a dimension",
            got=list(scales),
        )
        for value, known in ((mode, MODES), (coordinates, COORDINATES), (nearest, ROUNDING)):
            require(value in known, "(C3) the name is known", expected=", ".join(known), got=value)
        require(
            mode == "nearest" or x.dtype.is_float, "(C4) linear and cubic resample floats", got=x
        )
        require(
            all(d != 0 or o == 0 for d, o in zip(x.shape, shape, strict=True)),
            "(C5) an empty dimension stays empty",
            got=f"{x} to {list(shape)}",
        )
        return x.with_shape(tuple(shape))

    @staticmethod
    def ref(
        x: np.ndarray,
        *,
        shape: tuple[int, ...],
        scales: tuple[float, ...],
        mode: str,
        coordinates: str,
        nearest: str,
        cubic_a: float,
        exclude_outside: bool,
    ) -> np.ndarray:
        """One dimension after the other."""
        y = x if mode == "nearest" else widen(x)
        rest = (mode, coordinates, nearest, cubic_a, exclude_outside)
        for d, axis in enumerate(_axes(x.shape, shape, scales, *rest)):
            if axis.kept:
                continue
            i = np.arange(shape[d])
            whole = axis.whole(expr.sym("i", 0))
            if whole is not None:
                at = [expr.substitute(whole, {"i": int(j)}) for j in i]
                y = np.take(y, np.array(at, np.int64), d)
                continue
            column = (-1, *(1,) * (y.ndim - d - 1))
            total: Any = None
            for position, weight in _taps_ref(axis, i):
                at = np.clip(position, 0, x.shape[d] - 1).astype(np.int64)
                part = np.take(y, at, d)
                if weight is not None:
                    w = weight.astype(part.dtype).reshape(column)
                    part = np.where(w != 0, part * w, 0).astype(part.dtype)
                total = part if total is None else total + part
            y = total
        return np.ascontiguousarray(y.astype(x.dtype))

    def element(self, k: Puller, index: tuple[Dim, ...]) -> Value:
        """The weighted sum over the taps of the dimensions that are resampled."""
        x, b = self.x.tensor, k.b
        a = self.attrs
        rest = (a["mode"], a["coordinates"], a["nearest"], a["cubic_a"], a["exclude_outside"])
        places = [
            _places(k, axis, i)
            for axis, i in zip(_axes(x.shape, self.shape, self.scales, *rest), index, strict=True)
        ]
        if all(len(p) == 1 for p in places):
            return k.read(self.x, tuple(p[0][0] for p in places))
        acc = accumulator(x.dtype)

        def interpolate(source: tuple[Dim, ...]) -> Value:
            if len(source) == x.rank:
                return b.cast(k.read(self.x, source), acc)
            total: Value | None = None
            for position, weight in places[len(source)]:
                part = interpolate((*source, position))
                if weight is not None:
                    w, zero = b.cast(weight, acc), b.const(0, acc)
                    part = b.select(b.ne(w, zero), b.mul(part, w), zero)
                total = part if total is None else b.add(total, part)
            assert total is not None
            return total

        return b.cast(interpolate(()), x.dtype)

    samples = (
        sample(
            (1, 2, 3, 4),
            shape=(1, 2, 6, 8),
            coordinates="asymmetric",
            nearest="floor",
            dtypes=(*FLOATS, u8, bool_),
        ),
        sample((2, 3, 5), shape=(2, 3, 7), dtypes=(f32,)),
        sample(
            (1, 2, 6, 9),
            shape=(1, 2, 3, 3),
            coordinates="asymmetric",
            nearest="ceil",
            dtypes=(f32,),
        ),
        sample(
            (1, 1, 5, 4),
            shape=(1, 1, 8, 3),
            scales=(1.0, 1.0, 1.6, 0.75),
            nearest="round_prefer_ceil",
            dtypes=(f32,),
        ),
        sample((1, 2, 3, 4), shape=(1, 2, 7, 5), mode="linear", dtypes=FLOATS),
        sample(
            (1, 3, 4, 2),
            shape=(1, 6, 8, 2),
            scales=(1.0, 2.0, 2.0, 1.0),
            mode="linear",
            coordinates="asymmetric",
            dtypes=(f32,),
        ),
        sample(
            (2, 1, 5, 4),
            shape=(2, 1, 1, 7),
            mode="linear",
            coordinates="align_corners",
            dtypes=(f32, f64),
        ),
        sample(
            (1, 1, 6, 5),
            shape=(1, 1, 4, 1),
            mode="linear",
            coordinates="pytorch_half_pixel",
            dtypes=(f32,),
        ),
        sample((1, 1, 4, 5, 3), shape=(1, 1, 3, 7, 5), mode="linear", dtypes=(f32,)),
        sample((1, 2, 4, 5), shape=(1, 2, 9, 3), mode="cubic", dtypes=FLOATS),
        sample(
            (1, 1, 4, 4),
            shape=(1, 1, 8, 3),
            scales=(1.0, 1.0, 2.0, 0.8),
            mode="cubic",
            cubic_a=-0.5,
            exclude_outside=True,
            dtypes=(f32,),
        ),
        sample((0, 1, 4), shape=(0, 1, 6), mode="linear", dtypes=(f32,)),
    )


def _axes(
    shape: tuple[Dim, ...],
    out: tuple[Dim, ...],
    scales: tuple[float, ...],
    mode: str,
    coordinates: str,
    nearest: str,
    cubic_a: float,
    exclude_outside: bool,
) -> list[Axis]:
    given: tuple[float | None, ...] = scales or (None,) * len(shape)
    return [
        Axis(n, o, s, mode, coordinates, nearest, cubic_a, exclude_outside)
        for n, o, s in zip(shape, out, given, strict=True)
    ]


def _cubic(b: Any, r: Any, a: float, constant: Callable[[float], Any]) -> list[Any]:
    """The weights of the four neighbours of a position at distance r past the second one."""
    one, a1, a2, a3 = (constant(v) for v in (1.0, a, a + 2, a + 3))
    a4, a5, a8 = (constant(v * a) for v in (4, 5, 8))

    def near(t: Any) -> Any:  # ((a + 2)*t - (a + 3))*t*t + 1
        return b.add(b.mul(b.mul(b.sub(b.mul(a2, t), a3), t), t), one)

    def far(t: Any) -> Any:  # ((a*t - 5a)*t + 8a)*t - 4a
        return b.sub(b.mul(b.add(b.mul(b.sub(b.mul(a1, t), a5), t), a8), t), a4)

    rest = b.sub(one, r)
    return [far(b.add(r, one)), near(r), near(rest), far(b.add(rest, one))]


class _Arrays:
    """The scalar primitives that resampling uses, on NumPy arrays."""

    add, sub, mul, div = np.add, np.subtract, np.multiply, np.divide
    floor, ceil, select = np.floor, np.ceil, np.where
    gt, ge, lt, and_ = np.greater, np.greater_equal, np.less, np.logical_and


def _coordinate(
    b: Any, axis: Axis, i: Any, size: Any, out: Any, constant: Callable[[float], Any]
) -> Any:
    """The f32 coordinate of output position ``i``; ``size`` and ``out`` are the sizes in f32."""
    if axis.coordinates == "align_corners":
        one = constant(1.0)
        if isinstance(axis.out, int):
            return (
                constant(0.0)
                if axis.out == 1
                else b.div(b.mul(i, b.sub(size, one)), b.sub(out, one))
            )
        several = b.gt(out, one)
        c = b.div(b.mul(i, b.sub(size, one)), b.select(several, b.sub(out, one), one))
        return b.select(several, c, constant(0.0))
    scale = b.div(out, size) if axis.scale is None else constant(axis.scale)
    if axis.coordinates == "asymmetric":
        return b.div(i, scale)
    half = constant(0.5)
    c = b.sub(b.div(b.add(i, half), scale), half)
    if axis.coordinates == "half_pixel":
        return c
    if isinstance(axis.out, int):
        return constant(0.0) if axis.out == 1 else c
    return b.select(b.gt(out, constant(1.0)), c, constant(0.0))


def _taps(
    b: Any, axis: Axis, i: Any, size: Any, out: Any, constant: Callable[[float], Any]
) -> list[tuple[Any, Any]]:
    """Positions (whole f32 numbers, not clamped) and weights (None: 1) of output position i."""
    c = _coordinate(b, axis, i, size, out, constant)
    if axis.mode == "nearest":
        if axis.nearest == "ceil":
            return [(b.ceil(c), None)]
        f = b.floor(c)
        if axis.nearest == "floor":
            return [(f, None)]
        compare = b.gt if axis.nearest == "round_prefer_floor" else b.ge
        return [(b.select(compare(b.sub(c, f), constant(0.5)), b.add(f, constant(1.0)), f), None)]
    f = b.floor(c)
    r = b.sub(c, f)
    one = constant(1.0)
    if axis.mode == "linear":
        return [(f, b.sub(one, r)), (b.add(f, one), r)]
    positions = [b.add(f, constant(float(t))) for t in range(-1, 3)]
    weights = _cubic(b, r, axis.cubic_a, constant)
    if axis.exclude_outside:
        zero = constant(0.0)
        weights = [
            b.select(b.and_(b.ge(p, zero), b.lt(p, size)), w, zero)
            for p, w in zip(positions, weights, strict=True)
        ]
        total = b.add(b.add(weights[0], weights[1]), b.add(weights[2], weights[3]))
        weights = [b.div(w, total) for w in weights]
    return list(zip(positions, weights, strict=True))


def _taps_ref(axis: Axis, i: np.ndarray) -> list[tuple[np.ndarray, np.ndarray | None]]:
    size, out = np.float32(axis.size), np.float32(axis.out)  # type: ignore[arg-type]
    taps = _taps(_Arrays, axis, i.astype(np.float32), size, out, np.float32)
    return [
        (np.broadcast_to(p, i.shape), None if w is None else np.broadcast_to(w, i.shape))
        for p, w in taps
    ]


def _places(k: Puller, axis: Axis, i: Dim) -> list[tuple[Dim, Value | None]]:
    """Source indices and weights of output position ``i`` along a dimension."""
    if axis.kept:
        return [(i, None)]
    whole = axis.whole(i)
    if whole is not None:
        return [(whole, None)]
    b: ScalarBuilder = k.b

    def constant(v: float) -> Value:
        return b.const(float(np.float32(v)), f32)

    def scalar(d: Dim) -> Value:
        return constant(d) if isinstance(d, int) else b.cast(k.index(d), f32)

    size = scalar(axis.size)
    taps = _taps(b, axis, scalar(i), size, scalar(axis.out), constant)
    last = b.sub(size, constant(1.0))
    places: list[tuple[Dim, Value | None]] = []
    for position, weight in taps:
        inside = b.max(b.min(position, last), constant(0.0))
        places.append((k.to_index(b.cast(inside, i64), axis.size, "nn.resize position"), weight))
    return places


__all__ = ["Resize"]
