"""Convolution by short polynomial products (Winograd) along one dimension.

As ``winograd``, for kernels that are long, dilated or strided in a dimension, or have only one: the
samples of a tile of outputs are evaluated at points along that dimension, and a grouped convolution
with one group for each point, whose kernel has a single tap there, makes the products. A tile of 4
outputs of 3 taps takes 6 products instead of 12, of 5 taps 8 instead of 20. With a dilation the
outputs and the samples of a tile are that far apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pjit.ir import expr
from pjit.ir.core import Value
from pjit.ir.errors import require
from pjit.ir.expr import Dim
from pjit.ir.kernel_builder import LineWriter
from pjit.ir.opdef import attr, operand, same_dim, sample
from pjit.ir.ops.linalg import PACKED
from pjit.ir.ops.line import LineOp
from pjit.ir.ops.winograd_lines import Lines
from pjit.ir.types import TensorType, f32, f64

MOST_POINTS = 8
_METHOD = "(C1) up to 8 points, taps beyond the stride, stride 1 or 2 without dilation"


@dataclass(frozen=True)
class Method:
    """How a dimension is convolved.

    Attributes:
        size: Outputs of a tile.
        taps: Of the kernel.
        stride: 1 or 2.
        dilation: How far taps are apart, and outputs of a tile; 1 with stride 2.
    """

    size: int
    taps: int
    stride: int = 1
    dilation: int = 1

    @property
    def lines(self) -> Lines:
        """The transforms."""
        return Lines(self.size, self.stride, self.taps)

    @property
    def valid(self) -> bool:
        """Whether there are such transforms."""
        steps = self.dilation >= 1 if self.stride == 1 else self.dilation == 1
        return steps and self.lines.valid(MOST_POINTS)

    def tiles(self, outputs: Dim) -> Dim:
        """How many tiles cover the outputs."""
        return expr.ceildiv(outputs, self.size * self.dilation) * self.dilation

    def first(self, tile: Dim) -> Dim:
        """The first output of a tile."""
        apart = self.dilation
        return expr.floordiv(tile, apart) * (apart * self.size) + expr.mod(tile, apart)

    def starts(self, outputs: Dim) -> np.ndarray:
        """The first output of each tile, of all that cover the outputs."""
        count = self.tiles(outputs)
        assert isinstance(count, int)
        return np.array([self.first(t) for t in range(count)], np.int64)

    def outputs(self, extent: Dim, pads: Sequence[int]) -> Dim:
        """How many outputs there are."""
        reach = (self.taps - 1) * self.dilation
        return expr.floordiv(extent + sum(pads) - reach - 1, self.stride) + 1


def _method(**numbers: int) -> Method:
    method = Method(**numbers)
    require(method.valid, _METHOD, got=method)
    return method


def _replaced(shape: Sequence[Dim], axis: int, extent: Dim, channels: Dim) -> tuple[Dim, ...]:
    return (*shape[:axis], extent, *shape[axis + 1 : -1], channels)


class _RowOp(LineOp):
    """Base of the operators with a tile along ``axis`` in each line."""

    size = attr(doc="outputs of a tile")
    taps = attr()
    stride = attr(1)
    dilation = attr(1)
    axis = attr(doc="the dimension")
    __slots__ = ()

    @property
    def method(self) -> Method:
        """How the dimension is convolved."""
        return Method(self.size, self.taps, self.stride, self.dilation)


class WinogradRowInput(_RowOp, name="nn.winograd_row_input"):
    """The samples of tiles at the points.

    ``x`` is ``[..., C]``; in the result the tiles take the place of the dimension ``axis`` and the
    last one is ``points*C``, the channels at one point after the other. x is zero outside.

    (C1) There are transforms for the size, taps, stride and dilation.
    (C2) axis is a dimension of x between the first and the last one.
    (C3) pads has two entries of at least 0.
    (C4) The kernel fits into the padded input, and x has channels.
    """

    x = operand(PACKED)
    pads = attr()
    __slots__ = ()

    @staticmethod
    def infer(x: TensorType, *, axis: int, pads: tuple[int, ...], **numbers: int) -> TensorType:
        """``[..., tiles, ..., points*C]``."""
        method = _method(**numbers)
        require(0 < axis < x.rank - 1, "(C2) axis is a dimension in the middle of x", got=axis)
        require(len(pads) == 2 and min(pads) >= 0, "(C3) pads has two entries", got=pads)
        outputs, channels = method.outputs(x.shape[axis], pads), x.shape[-1]
        fits = not isinstance(outputs, int) or outputs > 0
        require(fits and isinstance(channels, int), "(C4) the kernel fits into x", got=x)
        tiles, points = method.tiles(outputs), method.lines.points
        return x.with_shape(_replaced(x.shape, axis, tiles, points * channels))

    @staticmethod
    def ref(x: np.ndarray, *, axis: int, pads: tuple[int, ...], **numbers: int) -> np.ndarray:
        """Takes the samples of each tile and multiplies with the matrix of the points."""
        method = Method(**numbers)
        lines, extent = method.lines, x.shape[axis]
        first = method.starts(method.outputs(extent, pads))[:, None] * method.stride
        at = first + np.arange(lines.extent) * method.dilation - pads[0]
        moved = np.moveaxis(x.astype(np.float64), axis, 0)
        inside = ((at >= 0) & (at < extent)).reshape(*at.shape, *[1] * (x.ndim - 1))
        samples = np.where(inside, moved[np.clip(at, 0, max(0, extent - 1))], 0)
        y = np.tensordot(lines.matrices()[2], samples, (1, 1))  # [points, tiles, ..., C]
        y = np.moveaxis(np.moveaxis(y, 1, axis + 1), 0, -2)
        return y.reshape(*y.shape[:-2], y.shape[-2] * y.shape[-1]).astype(x.dtype)

    @property
    def walked(self) -> tuple[int, ...]:
        """None: the points are in the last dimension, behind each other."""
        return ()

    @property
    def lines(self) -> tuple[Dim, ...]:
        """The tiles, in every channel."""
        return (*self.type.shape[:-1], self.x.shape[-1])

    def line(self, k: LineWriter, at: Sequence[Dim]) -> None:
        """The values at the points of one tile in one channel."""
        method, axis = self.method, self.axis
        extent, channels = self.x.shape[axis], self.x.shape[-1]
        start = method.first(at[axis]) * self.stride - self.pads[0]

        def read(i: int) -> Value:
            place = start + i * self.dilation
            index = (*at[:axis], place, *at[axis + 1 :])
            return k.guarded(((place, extent),), lambda: k.read(self.x, index), 0.0)

        values = method.lines.samples(k.b, [read(i) for i in range(method.lines.extent)])
        for p, value in enumerate(values):
            k.write((*at[:-1], p * channels + at[-1]), value)

    samples = (
        sample((1, 9, 5), size=4, taps=3, axis=1, pads=(1, 1), dtypes=PACKED),
        sample((2, 3, 17, 6), size=4, taps=5, axis=2, pads=(2, 1), dtypes=(f32,)),
        sample((1, 23, 2, 18), size=2, taps=3, dilation=3, axis=1, pads=(3, 3), dtypes=(f32,)),
        sample((1, 20, 3), size=4, taps=7, stride=2, axis=1, pads=(3, 2), dtypes=PACKED),
        sample((1, 11, 4), size=2, taps=5, stride=2, axis=1, pads=(0, 0), dtypes=(f32,)),
        sample((0, 6, 4), size=4, taps=3, axis=1, pads=(0, 0), dtypes=(f32,)),
    )


class WinogradRowWeights(_RowOp, name="nn.winograd_row_weights"):
    """The weight of a convolution at the points along a dimension, one group for each.

    ``w`` is ``[O, C, ...]``; the result is ``[points*O, C, ...]`` with a single tap at ``axis``.
    Computed in f64 and rounded once.

    (C1) There are transforms for the size, taps, stride and dilation.
    (C2) axis is a dimension of w from the third on, which has the taps.
    """

    w = operand(PACKED)
    __slots__ = ()

    @staticmethod
    def infer(w: TensorType, *, axis: int, **numbers: int) -> TensorType:
        """``[points*O, C, ..., 1, ...]``."""
        method = _method(**numbers)
        require(1 < axis < w.rank and w.shape[axis] == method.taps, "(C2) w has the taps", got=w)
        shape = (method.lines.points * w.shape[0], *w.shape[1:axis], 1, *w.shape[axis + 1 :])
        return w.with_shape(shape)

    @staticmethod
    def ref(w: np.ndarray, *, axis: int, **numbers: int) -> np.ndarray:
        """Multiplies with the matrix of the points."""
        g = Method(**numbers).lines.matrices()[1]
        y = np.tensordot(g, w.astype(np.float64), (1, axis))  # [points, O, C, ...]
        return np.expand_dims(y.reshape(-1, *y.shape[2:]), axis).astype(w.dtype)

    @property
    def walked(self) -> tuple[int, ...]:
        """The points, which are in the first dimension, and the taps."""
        return (0, self.axis)

    @property
    def lines(self) -> tuple[Dim, ...]:
        """The kernels."""
        shape = self.w.shape
        return (*shape[: self.axis], *shape[self.axis + 1 :])

    def line(self, k: LineWriter, at: Sequence[Dim]) -> None:
        """The values at the points of one row of taps."""
        axis, out = self.axis, self.w.shape[0]
        before, after = tuple(at[1:axis]), tuple(at[axis:])

        def read(i: int) -> Value:
            return k.b.cast(k.read(self.w, (at[0], *before, i, *after)), f64)

        values = self.method.lines.weights(k.b, [read(i) for i in range(self.taps)])
        for p, value in enumerate(values):
            k.write((p * out + at[0], *before, 0, *after), k.b.cast(value, self.w.dtype))

    samples = (
        sample((5, 6, 3), size=4, taps=3, axis=2, dtypes=PACKED),
        sample((3, 4, 2, 5), size=4, taps=5, axis=3, dtypes=(f32,)),
        sample((3, 4, 7, 3), size=4, taps=7, stride=2, axis=2, dtypes=(f32,)),
    )


class WinogradRowOutput(_RowOp, name="nn.winograd_row_output"):
    """The outputs of tiles from their products at the points.

    ``m`` is ``[..., points*O]`` with tiles along ``axis``; in the result the outputs take their
    place and the last dimension is O. Of tiles that reach beyond ``extent`` the rest is left out.

    (C1) There are transforms for the size, taps, stride and dilation.
    (C2) axis is a dimension of m between the first and the last one, and m has O at all points.
    (C3) The tiles cover the extent.
    """

    m = operand(PACKED)
    extent = attr(doc="outputs along the dimension")
    __slots__ = ()

    @staticmethod
    def infer(m: TensorType, *, axis: int, extent: Dim, **numbers: int) -> TensorType:
        """``[..., extent, ..., O]``."""
        method = _method(**numbers)
        points, last = method.lines.points, m.shape[-1]
        fits = isinstance(last, int) and last % points == 0
        require(0 < axis < m.rank - 1 and fits, "(C2) m has O at all points", got=m)
        tiles = method.tiles(extent)
        require(same_dim(tiles, m.shape[axis]), "(C3) the tiles cover", expected=m, got=extent)
        return m.with_shape(_replaced(m.shape, axis, extent, expr.floordiv(last, points)))

    @staticmethod
    def ref(m: np.ndarray, *, axis: int, extent: int, **numbers: int) -> np.ndarray:
        """Interpolates each tile and puts the outputs where they belong."""
        method = Method(**numbers)
        a, last = method.lines.matrices()[0], m.shape[-1]
        products = m.astype(np.float64).reshape(*m.shape[:-1], a.shape[1], last // a.shape[1])
        y = np.moveaxis(np.tensordot(a, products, (1, m.ndim - 1)), axis + 1, 1)
        out = np.zeros((extent, *y.shape[2:]), m.dtype)  # y is [size, tiles, ..., O]
        for j in range(method.size):
            places = method.starts(extent) + j * method.dilation
            out[places[places < extent]] = y[j, places < extent]
        return np.ascontiguousarray(np.moveaxis(out, 0, axis))

    @property
    def walked(self) -> tuple[int, ...]:
        """The dimension."""
        return (self.axis,)

    @property
    def lines(self) -> tuple[Dim, ...]:
        """The tiles, in every channel."""
        return (*self.m.shape[:-1], self.type.shape[-1])

    def line(self, k: LineWriter, at: Sequence[Dim]) -> None:
        """The outputs of one tile in one channel."""
        method, axis, channels = self.method, self.axis, self.type.shape[-1]
        first, extent = method.first(at[axis]), self.attrs["extent"]
        products = [
            k.read(self.m, (*at[:-1], p * channels + at[-1])) for p in range(method.lines.points)
        ]
        for j, value in enumerate(method.lines.outputs(k.b, products)):
            place = first + j * self.dilation

            def one(place: Dim = place, value: Value = value) -> None:
                k.write((*at[:axis], place, *at[axis + 1 :]), value)

            k.where(((place, extent),), one)

    samples = (
        sample((1, 3, 30), size=4, taps=3, axis=1, extent=9, dtypes=PACKED),
        sample((2, 3, 4, 48), size=4, taps=5, axis=2, extent=14, dtypes=(f32,)),
        sample((1, 12, 2, 72), size=2, taps=3, dilation=3, axis=1, extent=20, dtypes=(f32,)),
        sample((1, 3, 39), size=4, taps=7, stride=2, axis=1, extent=10, dtypes=PACKED),
        sample((0, 2, 12), size=4, taps=3, axis=1, extent=8, dtypes=(f32,)),
    )


__all__ = ["WinogradRowInput", "WinogradRowOutput", "WinogradRowWeights"]
