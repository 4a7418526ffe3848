"""Convolution by short polynomial products (Winograd), for 3x3 windows of stride 1 or 2.

A tile of ``m x m`` outputs comes from ``(m+2)^2`` products instead of ``9*m^2``, with stride 2 from
``(2*m+1)^2``: the windows and the weights are evaluated at points in each direction, multiplied,
and interpolated (``winograd_lines``). ``nn.winograd_input``, a batch of matrix products (one for
each pair of points) and ``nn.winograd_output`` make a convolution; ``nn.winograd_weights`` folds
for a constant weight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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

KERNEL = 3
_CHANNELS_AT_ONCE = 32  # of the weights, so that what is computed in double precision stays small
_ROOM_SIDE = 5  # of the smallest squares that are transformed by loops, which share code


def _both_ways(
    k: LineWriter,
    line: Callable[[Sequence[Value]], list[Value]],
    extents: tuple[int, int],
    read: Callable[[int, Dim], Value],
    write: Callable[[Dim, list[Value]], None],
) -> None:
    """A 1-D transform of the columns of a square, then of its rows.

    Args:
        k: Where to build it.
        line: The transform.
        extents: The sides of the square and of its transform.
        read: The element in a row and a column.
        write: Takes a row of the transform.
    """
    n, count = extents
    if not k.has_room:
        columns = [line([read(y, x) for y in range(n)]) for x in range(n)]
        for p, row in enumerate(zip(*columns, strict=True)):
            write(p, line(row))
        return

    def column(x: Dim) -> None:
        for p, value in enumerate(line([read(y, x) for y in range(n)])):
            k.keep(p * n + x, value)

    k.b.loop(0, n, column)
    k.b.loop(0, count, lambda p: write(p, line([k.kept(p * n + x) for x in range(n)])))


def _check_size(size: int, stride: int) -> None:
    require(
        size in (2, 4) and stride in (1, 2),
        "(C1) size is 2 or 4, stride 1 or 2",
        got=(size, stride),
    )


def tiles_of(extent: Dim, pads: tuple[int, int], size: int, stride: int) -> Dim:
    """How many tiles cover the outputs along a dimension."""
    return expr.ceildiv(expr.floordiv(extent + sum(pads) - KERNEL, stride) + 1, size)


class WinogradInput(LineOp, name="nn.winograd_input"):
    """The windows of the tiles at the points.

    ``x`` is ``[N, H, W, C]``; the result is ``[points, N, tiles down, tiles across, C]``. Tile
    ``(i, j)`` has the window from ``(i*size*stride - top, j*size*stride - left)`` on; x is zero
    outside.

    (C1) size is 2 or 4, stride 1 or 2.
    (C2) x has a batch, two spatial dimensions and channels.
    (C3) pads has four entries of at least 0: top, left, bottom, right.
    (C4) A 3x3 window fits into the padded input.
    """

    x = operand(PACKED)
    size = attr(doc="outputs of a tile in each direction")
    stride = attr(1)
    pads = attr()
    __slots__ = ()

    @staticmethod
    def infer(x: TensorType, *, size: int, stride: int, pads: tuple[int, ...]) -> TensorType:
        """``[points, N, tiles down, tiles across, C]``."""
        _check_size(size, stride)
        require(x.rank == 4, "(C2) x has four dimensions", got=x)
        require(len(pads) == 4 and min(pads) >= 0, "(C3) pads has four entries", got=pads)
        counts = []
        for extent, low, high in zip(x.shape[1:3], pads[:2], pads[2:], strict=True):
            padded = extent + low + high
            require(
                not isinstance(padded, int) or padded >= KERNEL,
                "(C4) the window fits into the padded input",
                got=padded,
            )
            counts.append(tiles_of(extent, (low, high), size, stride))
        return x.with_shape((Lines(size, stride).points ** 2, x.shape[0], *counts, x.shape[3]))

    @staticmethod
    def ref(x: np.ndarray, *, size: int, stride: int, pads: tuple[int, ...]) -> np.ndarray:
        """Pads, takes the windows and multiplies with the matrix of the points."""
        n, step = Lines(size, stride).points, size * stride
        down, across = (
            tiles_of(s, (low, high), size, stride)
            for s, low, high in zip(x.shape[1:3], pads[:2], pads[2:], strict=True)
        )
        covered = [int(tiles * step + n - step) for tiles in (down, across)]  # type: ignore[arg-type]
        padded = np.zeros((x.shape[0], *covered, x.shape[3]), np.float64)
        inside = padded[:, pads[0] :, pads[1] :]
        h, w = min(x.shape[1], inside.shape[1]), min(x.shape[2], inside.shape[2])
        inside[:, :h, :w] = x[:, :h, :w]
        views = np.lib.stride_tricks.sliding_window_view(padded, (n, n), (1, 2))[:, ::step, ::step]
        b = Lines(size, stride).matrices()[2]
        y = np.einsum("pi,qj,nhwcij->pqnhwc", b, b, views, optimize=True)
        return y.reshape(n * n, *y.shape[2:]).astype(x.dtype)

    @property
    def walked(self) -> tuple[int, ...]:
        """The points."""
        return (0,)

    @property
    def room(self) -> int:
        """The transforms of the columns, where there are many."""
        n = Lines(self.size, self.stride).points
        return n * n if n >= _ROOM_SIDE else 0

    def line(self, k: LineWriter, at: Sequence[Dim]) -> None:
        """The values at the points of one window in one channel."""
        n, i, j, c = at
        _, height, width, _ = self.x.shape
        lines, step = Lines(self.size, self.stride), self.size * self.stride
        top, left = i * step - self.pads[0], j * step - self.pads[1]

        def read(y: int, x: Dim) -> Value:
            inside = ((top + y, height), (left + x, width))
            return k.guarded(inside, lambda: k.read(self.x, (n, top + y, left + x, c)), 0.0)

        def write(p: Dim, values: list[Value]) -> None:
            for q, value in enumerate(values):
                k.write((p * lines.points + q, *at), value)

        extents = lines.points, lines.points
        _both_ways(k, lambda d: lines.samples(k.b, d), extents, read, write)

    samples = (
        sample((1, 8, 8, 5), size=4, pads=(1, 1, 1, 1), dtypes=PACKED),
        sample((2, 7, 9, 3), size=4, pads=(1, 0, 2, 1), dtypes=(f32,)),
        sample((2, 5, 6, 18), size=2, pads=(1, 1, 1, 1), dtypes=PACKED),
        sample((1, 3, 3, 4), size=2, pads=(0, 0, 0, 0), dtypes=(f32,)),
        sample((0, 6, 6, 4), size=4, pads=(0, 0, 0, 0), dtypes=(f32,)),
        sample((1, 8, 8, 256), size=4, pads=(1, 1, 1, 1), dtypes=(f32,)),  # points 4096 bytes apart
        sample((2, 9, 12, 5), size=2, stride=2, pads=(1, 1, 1, 1), dtypes=PACKED),
        sample((1, 17, 15, 18), size=4, stride=2, pads=(1, 0, 0, 2), dtypes=PACKED),
    )


class WinogradWeights(LineOp, name="nn.winograd_weights"):
    """The weight of a 3x3 convolution at the points: ``[O, C, 3, 3]`` becomes ``[points, C, O]``.

    Computed in f64 and rounded once.

    (C1) size is 2 or 4, stride 1 or 2.
    (C2) w has output channels, input channels and a 3x3 kernel.
    """

    w = operand(PACKED)
    size = attr(doc="outputs of a tile in each direction")
    stride = attr(1)
    __slots__ = ()

    @staticmethod
    def infer(w: TensorType, *, size: int, stride: int) -> TensorType:
        """``[points, C, O]``."""
        _check_size(size, stride)
        require(w.rank == 4 and w.shape[2:] == (KERNEL, KERNEL), "(C2) w has a 3x3 kernel", got=w)
        return w.with_shape((Lines(size, stride).points ** 2, w.shape[1], w.shape[0]))

    @staticmethod
    def ref(w: np.ndarray, *, size: int, stride: int) -> np.ndarray:
        """Multiplies with the matrix of the points from both sides, as one matrix."""
        g, n = Lines(size, stride).matrices()[1], Lines(size, stride).points
        both = np.kron(g, g)  # [points, 9]
        taps = w.transpose(2, 3, 1, 0).reshape(KERNEL**2, w.shape[1], w.shape[0])
        y = np.empty((n * n, *taps.shape[1:]), w.dtype)
        for at in range(0, w.shape[1], _CHANNELS_AT_ONCE):
            some = taps[:, at : at + _CHANNELS_AT_ONCE].astype(np.float64)
            y[:, at : at + _CHANNELS_AT_ONCE] = np.tensordot(both, some, 1)
        return y

    @property
    def walked(self) -> tuple[int, ...]:
        """The points."""
        return (0,)

    def line(self, k: LineWriter, at: Sequence[Dim]) -> None:
        """The values at the points of one kernel."""
        c, o = at
        lines = Lines(self.size, self.stride)

        def read(y: int, x: Dim) -> Value:
            return k.b.cast(k.read(self.w, (o, c, y, x)), f64)

        def write(p: Dim, values: list[Value]) -> None:
            for q, value in enumerate(values):
                k.write((p * lines.points + q, *at), k.b.cast(value, self.w.dtype))

        _both_ways(k, lambda g: lines.weights(k.b, g), (KERNEL, lines.points), read, write)

    samples = (
        sample((5, 6, 3, 3), size=4, dtypes=PACKED),
        sample((18, 3, 3, 3), size=2, dtypes=PACKED),
        sample((5, 6, 3, 3), size=4, stride=2, dtypes=PACKED),
        sample((3, 4, 3, 3), size=2, stride=2, dtypes=PACKED),
    )


class WinogradOutput(LineOp, name="nn.winograd_output"):
    """The outputs of the tiles from their products at the points.

    ``m`` is ``[points, N, tiles down, tiles across, O]``, the result is ``[N, *shape, O]``; of
    tiles that reach beyond it the rest is left out.

    (C1) size is 2 or 4, stride 1 or 2.
    (C2) m has points, a batch, two dimensions of tiles and channels.
    (C3) The tiles cover the shape: ``ceil(extent / size)`` of them along each dimension.
    """

    m = operand(PACKED)
    size = attr(doc="outputs of a tile in each direction")
    stride = attr(1)
    shape = attr(doc="output height and width")
    __slots__ = ()

    @staticmethod
    def infer(m: TensorType, *, size: int, stride: int, shape: tuple[Dim, ...]) -> TensorType:
        """``[N, height, width, O]``."""
        _check_size(size, stride)
        points = Lines(size, stride).points ** 2
        require(m.rank == 5 and m.shape[0] == points, "(C2) m has five dimensions", got=m)
        require(
            len(shape) == 2
            and all(
                same_dim(expr.ceildiv(s, size), d) for s, d in zip(shape, m.shape[2:4], strict=True)
            ),
            "(C3) the tiles cover the shape",
            expected=list(m.shape[2:4]),
            got=list(shape),
        )
        return m.with_shape((m.shape[1], *shape, m.shape[4]))

    @staticmethod
    def ref(m: np.ndarray, *, size: int, stride: int, shape: tuple[int, ...]) -> np.ndarray:
        """Interpolates each tile and puts the tiles side by side."""
        a, n = Lines(size, stride).matrices()[0], Lines(size, stride).points
        square = m.reshape(n, n, *m.shape[1:]).astype(np.float64)
        y = np.einsum("ip,jq,pqnhwc->nhiwjc", a, a, square, optimize=True)
        y = y.reshape(y.shape[0], y.shape[1] * size, y.shape[3] * size, y.shape[5])
        return np.ascontiguousarray(y[:, : shape[0], : shape[1]]).astype(m.dtype)

    @property
    def walked(self) -> tuple[int, ...]:
        """The outputs."""
        return (1, 2)

    @property
    def lines(self) -> tuple[Dim, ...]:
        """The tiles, in every channel."""
        return tuple(self.m.shape[1:])

    @property
    def room(self) -> int:
        """The transforms of the columns, where there are many."""
        n = Lines(self.size, self.stride).points
        return self.size * n if n >= _ROOM_SIDE else 0

    def line(self, k: LineWriter, at: Sequence[Dim]) -> None:
        """The outputs of one tile in one channel."""
        n, i, j, c = at
        lines = Lines(self.size, self.stride)
        height, width = self.attrs["shape"]

        def read(p: int, q: Dim) -> Value:
            return k.read(self.m, (p * lines.points + q, *at))

        def write(dy: Dim, values: list[Value]) -> None:
            y = i * self.size + dy
            for dx, value in enumerate(values):
                x = j * self.size + dx

                def one(index: tuple[Dim, ...] = (n, y, x, c), value: Value = value) -> None:
                    k.write(index, value)

                k.where(((y, height), (x, width)), one)

        extents = lines.points, self.size
        _both_ways(k, lambda m: lines.outputs(k.b, m), extents, read, write)

    samples = (
        sample((36, 1, 2, 2, 5), size=4, shape=(8, 8), dtypes=PACKED),
        sample((36, 2, 1, 2, 3), size=4, shape=(3, 7), dtypes=(f32,)),
        sample((36, 1, 2, 2, 256), size=4, shape=(8, 7), dtypes=(f32,)),  # points 4096 bytes apart
        sample((16, 2, 3, 2, 18), size=2, shape=(5, 4), dtypes=PACKED),
        sample((25, 2, 3, 2, 18), size=2, stride=2, shape=(5, 4), dtypes=PACKED),
        sample((81, 1, 2, 1, 5), size=4, stride=2, shape=(7, 3), dtypes=PACKED),
    )


__all__ = ["WinogradInput", "WinogradOutput", "WinogradWeights"]
