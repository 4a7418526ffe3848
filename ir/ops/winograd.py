"""Convolution of images by short polynomial products (Winograd), with stride 1 or 2.

A tile of ``m x m`` outputs of 3x3 taps comes from ``(m+2)^2`` products instead of ``9*m^2``, with
stride 2 from ``(2*m+1)^2``: the windows and the weights are evaluated at points in each direction,
multiplied, and interpolated (``winograd_lines``). ``nn.winograd_input``, a batch of matrix products
(one for each pair of points) and ``nn.winograd_output`` make a convolution; ``nn.winograd_weights``
folds for a constant weight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

MOST_POINTS = 6  # in a direction; more lose too much accuracy in two
_CHANNELS_AT_ONCE = 32  # of the weights, so that what is computed in double precision stays small
_ROOM = 20  # points from which on they are made by loops, which share code

Pair = tuple[int, int]
Transform = Callable[[Sequence[Value]], list[Value]]


def _both_ways(
    k: LineWriter,
    down: Transform,
    across: Transform,
    extents: tuple[int, int, int],
    read: Callable[[int, Dim], Value],
    write: Callable[[Dim, list[Value]], None],
) -> None:
    """The transforms of the columns of a rectangle, then of its rows.

    Args:
        k: Where to build them.
        down: The transform of a column.
        across: The transform of a row.
        extents: Rows and columns, and the rows after the first transform.
        read: The element in a row and a column.
        write: Takes a row of the result.
    """
    height, width, count = extents
    if not k.has_room:
        columns = [down([read(y, x) for y in range(height)]) for x in range(width)]
        for p, row in enumerate(zip(*columns, strict=True)):
            write(p, across(row))
        return

    def column(x: Dim) -> None:
        for p, value in enumerate(down([read(y, x) for y in range(height)])):
            k.keep(p * width + x, value)

    k.b.loop(0, width, column)
    k.b.loop(0, count, lambda p: write(p, across([k.kept(p * width + x) for x in range(width)])))


@dataclass(frozen=True)
class Tiling:
    """How an image is convolved: the transforms in both directions, down and across."""

    down: Lines
    across: Lines

    @staticmethod
    def of(sizes: Pair, taps: Pair, strides: Pair) -> Tiling:
        """The transforms for outputs of a tile, taps and strides in both directions."""
        pair = zip(sizes, strides, taps, strict=True)
        return Tiling(*(Lines(*x) for x in pair))

    @property
    def valid(self) -> bool:
        """Whether there are such transforms."""
        return self.down.valid(MOST_POINTS) and self.across.valid(MOST_POINTS)

    @property
    def points(self) -> int:
        """How many products a tile takes."""
        return self.down.points * self.across.points

    @property
    def steps(self) -> tuple[int, int]:
        """How far tiles are apart in the input."""
        return self.down.size * self.down.stride, self.across.size * self.across.stride

    def tiles(self, extents: Sequence[Dim], pads: Sequence[int]) -> tuple[Dim, ...]:
        """How many tiles cover the outputs of an image."""
        counts = []
        for lines, extent, low, high in zip(
            (self.down, self.across), extents, pads[:2], pads[2:], strict=True
        ):
            outputs = expr.floordiv(extent + low + high - lines.taps, lines.stride) + 1
            counts.append(expr.ceildiv(outputs, lines.size))
        return tuple(counts)


def _tiling(sizes: Pair, taps: Pair, strides: Pair) -> Tiling:
    pairs = all(len(x) == 2 for x in (sizes, taps, strides))
    require(pairs, "(C1) sizes, taps and strides have two entries", got=(sizes, taps, strides))
    tiling = Tiling.of(sizes, taps, strides)
    require(tiling.valid, "(C2) up to 6 points, stride 1 or 2, more taps than that", got=tiling)
    return tiling


class _TileOp(LineOp):
    """Base of the operators on tiles of an image."""

    sizes = attr(doc="outputs of a tile down and across")
    taps = attr((3, 3))
    strides = attr((1, 1))
    __slots__ = ()

    @property
    def tiling(self) -> Tiling:
        """How the image is convolved."""
        return Tiling.of(self.sizes, self.taps, self.strides)


class WinogradInput(_TileOp, name="nn.winograd_input"):
    """The windows of the tiles at the points.

    ``x`` is ``[N, H, W, C]``; the result is ``[points, N, tiles down, tiles across, C]``. Tile
    ``(i, j)`` has the window from ``(i, j) * sizes * strides - (top, left)`` on; x is zero outside.

    (C1) sizes, taps and strides have two entries.
    (C2) There are such transforms.
    (C3) x has a batch, two spatial dimensions and channels.
    (C4) pads has four entries of at least 0: top, left, bottom, right.
    (C5) A window of the taps fits into the padded input.
    """

    x = operand(PACKED)
    pads = attr()
    __slots__ = ()

    @staticmethod
    def infer(
        x: TensorType, *, sizes: Pair, taps: Pair, strides: Pair, pads: tuple[int, ...]
    ) -> TensorType:
        """``[points, N, tiles down, tiles across, C]``."""
        tiling = _tiling(sizes, taps, strides)
        require(x.rank == 4, "(C3) x has four dimensions", got=x)
        require(len(pads) == 4 and min(pads) >= 0, "(C4) pads has four entries", got=pads)
        for extent, n, low, high in zip(x.shape[1:3], taps, pads[:2], pads[2:], strict=True):
            padded = extent + low + high
            fits = not isinstance(padded, int) or padded >= n
            require(fits, "(C5) the window fits into the padded input", got=padded)
        tiles = tiling.tiles(x.shape[1:3], pads)
        return x.with_shape((tiling.points, x.shape[0], *tiles, x.shape[3]))

    @staticmethod
    def ref(
        x: np.ndarray, *, sizes: Pair, taps: Pair, strides: Pair, pads: tuple[int, ...]
    ) -> np.ndarray:
        """Pads, takes the windows and multiplies with the matrices of the points."""
        tiling = Tiling.of(sizes, taps, strides)
        lines, steps = (tiling.down, tiling.across), tiling.steps
        tiles = tiling.tiles(x.shape[1:3], pads)
        covered = [
            int(n * step + line.extent - step)  # type: ignore[arg-type]
            for n, step, line in zip(tiles, steps, lines, strict=True)
        ]
        padded = np.zeros((x.shape[0], *covered, x.shape[3]), np.float64)
        inside = padded[:, pads[0] :, pads[1] :]
        h, w = min(x.shape[1], inside.shape[1]), min(x.shape[2], inside.shape[2])
        inside[:, :h, :w] = x[:, :h, :w]
        window = (lines[0].extent, lines[1].extent)
        views = np.lib.stride_tricks.sliding_window_view(padded, window, (1, 2))
        b = [line.matrices()[2] for line in lines]
        views = views[:, :: steps[0], :: steps[1]]
        y = np.einsum("pi,qj,nhwcij->pqnhwc", *b, views, optimize=True)
        return y.reshape(tiling.points, *y.shape[2:]).astype(x.dtype)

    @property
    def walked(self) -> tuple[int, ...]:
        """The points."""
        return (0,)

    @property
    def room(self) -> int:
        """The transforms of the columns, where there are many."""
        t = self.tiling
        return t.down.points * t.across.extent if t.points >= _ROOM else 0

    def line(self, k: LineWriter, at: Sequence[Dim]) -> None:
        """The values at the points of one window in one channel."""
        n, i, j, c = at
        _, height, width, _ = self.x.shape
        t = self.tiling
        top, left = i * t.steps[0] - self.pads[0], j * t.steps[1] - self.pads[1]

        def read(y: int, x: Dim) -> Value:
            inside = ((top + y, height), (left + x, width))
            return k.guarded(inside, lambda: k.read(self.x, (n, top + y, left + x, c)), 0.0)

        def write(p: Dim, values: list[Value]) -> None:
            for q, value in enumerate(values):
                k.write((p * t.across.points + q, *at), value)

        _both_ways(
            k,
            lambda d: t.down.samples(k.b, d),
            lambda d: t.across.samples(k.b, d),
            (t.down.extent, t.across.extent, t.down.points),
            read,
            write,
        )

    samples = (
        sample((1, 8, 8, 5), sizes=(4, 4), pads=(1, 1, 1, 1), dtypes=PACKED),
        sample((2, 7, 9, 3), sizes=(4, 4), pads=(1, 0, 2, 1), dtypes=(f32,)),
        sample((2, 5, 6, 18), sizes=(2, 2), pads=(1, 1, 1, 1), dtypes=PACKED),
        sample((1, 3, 3, 4), sizes=(2, 2), pads=(0, 0, 0, 0), dtypes=(f32,)),
        sample((0, 6, 6, 4), sizes=(4, 4), pads=(0, 0, 0, 0), dtypes=(f32,)),
        # points 4096 bytes apart
        sample((1, 8, 8, 256), sizes=(4, 4), pads=(1, 1, 1, 1), dtypes=(f32,)),
        sample((2, 9, 12, 5), sizes=(2, 2), strides=(2, 2), pads=(1, 1, 1, 1), dtypes=PACKED),
        sample((1, 17, 15, 18), sizes=(4, 4), strides=(2, 2), pads=(1, 0, 0, 2), dtypes=PACKED),
        sample((1, 9, 8, 5), sizes=(4, 2), pads=(1, 1, 1, 1), dtypes=PACKED),
        sample((1, 9, 8, 5), sizes=(3, 4), taps=(2, 3), strides=(1, 2), pads=(1, 1, 0, 1)),
        sample((1, 6, 7, 5), sizes=(2, 3), taps=(5, 4), pads=(2, 1, 2, 2), dtypes=(f32,)),
    )


class WinogradWeights(_TileOp, name="nn.winograd_weights"):
    """The weight of a convolution at the points: ``[O, C, taps]`` becomes ``[points, C, O]``.

    Computed in f64 and rounded once.

    (C1) sizes, taps and strides have two entries.
    (C2) There are such transforms.
    (C3) w has output channels, input channels and the taps.
    """

    w = operand(PACKED)
    __slots__ = ()

    @staticmethod
    def infer(w: TensorType, *, sizes: Pair, taps: Pair, strides: Pair) -> TensorType:
        """``[points, C, O]``."""
        tiling = _tiling(sizes, taps, strides)
        require(w.rank == 4 and w.shape[2:] == taps, "(C3) w has the taps", expected=taps, got=w)
        return w.with_shape((tiling.points, w.shape[1], w.shape[0]))

    @staticmethod
    def ref(w: np.ndarray, *, sizes: Pair, taps: Pair, strides: Pair) -> np.ndarray:
        """Multiplies with the matrices of the points from both sides, as one matrix."""
        t = Tiling.of(sizes, taps, strides)
        both = np.kron(t.down.matrices()[1], t.across.matrices()[1])  # [points, taps]
        kernel = w.transpose(2, 3, 1, 0).reshape(both.shape[1], w.shape[1], w.shape[0])
        y = np.empty((t.points, *kernel.shape[1:]), w.dtype)
        for at in range(0, w.shape[1], _CHANNELS_AT_ONCE):
            some = kernel[:, at : at + _CHANNELS_AT_ONCE].astype(np.float64)
            y[:, at : at + _CHANNELS_AT_ONCE] = np.tensordot(both, some, 1)
        return y

    @property
    def walked(self) -> tuple[int, ...]:
        """The points."""
        return (0,)

    def line(self, k: LineWriter, at: Sequence[Dim]) -> None:
        """The values at the points of one kernel."""
        c, o = at
        t = self.tiling

        def read(y: int, x: Dim) -> Value:
            return k.b.cast(k.read(self.w, (o, c, y, x)), f64)

        def write(p: Dim, values: list[Value]) -> None:
            for q, value in enumerate(values):
                k.write((p * t.across.points + q, *at), k.b.cast(value, self.w.dtype))

        _both_ways(
            k,
            lambda g: t.down.weights(k.b, g),
            lambda g: t.across.weights(k.b, g),
            (t.down.taps, t.across.taps, t.down.points),
            read,
            write,
        )

    samples = (
        sample((5, 6, 3, 3), sizes=(4, 4), dtypes=PACKED),
        sample((18, 3, 3, 3), sizes=(2, 2), dtypes=PACKED),
        sample((5, 6, 3, 3), sizes=(4, 4), strides=(2, 2), dtypes=PACKED),
        sample((3, 4, 3, 3), sizes=(2, 2), strides=(2, 2), dtypes=PACKED),
        sample((3, 4, 5, 2), sizes=(2, 4), taps=(5, 2), dtypes=(f32,)),
    )


class WinogradOutput(_TileOp, name="nn.winograd_output"):
    """The outputs of the tiles from their products at the points.

    ``m`` is ``[points, N, tiles down, tiles across, O]``, the result is ``[N, *shape, O]``; of
    tiles that reach beyond it the rest is left out.

    (C1) sizes, taps and strides have two entries.
    (C2) There are such transforms.
    (C3) m has points, a batch, two dimensions of tiles and channels.
    (C4) The tiles cover the shape: ``ceil(extent / size)`` of them along each dimension.
    """

    m = operand(PACKED)
    shape = attr(doc="output height and width")
    __slots__ = ()

    @staticmethod
    def infer(
        m: TensorType, *, sizes: Pair, taps: Pair, strides: Pair, shape: tuple[Dim, ...]
    ) -> TensorType:
        """``[N, height, width, O]``."""
        points = _tiling(sizes, taps, strides).points
        require(m.rank == 5 and m.shape[0] == points, "(C3) m has five dimensions", got=m)
        require(
            len(shape) == 2
            and all(
                same_dim(expr.ceildiv(s, n), d)
                for s, n, d in zip(shape, sizes, m.shape[2:4], strict=True)
            ),
            "(C4) the tiles cover the shape",
            expected=list(m.shape[2:4]),
            got=list(shape),
        )
        return m.with_shape((m.shape[1], *shape, m.shape[4]))

    @staticmethod
    def ref(
        m: np.ndarray, *, sizes: Pair, taps: Pair, strides: Pair, shape: tuple[int, ...]
    ) -> np.ndarray:
        """Interpolates each tile and puts the tiles side by side."""
        t = Tiling.of(sizes, taps, strides)
        rectangle = m.reshape(t.down.points, t.across.points, *m.shape[1:]).astype(np.float64)
        a = t.down.matrices()[0], t.across.matrices()[0]
        y = np.einsum("ip,jq,pqnhwc->nhiwjc", *a, rectangle, optimize=True)
        y = y.reshape(y.shape[0], y.shape[1] * sizes[0], y.shape[3] * sizes[1], y.shape[5])
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
        t = self.tiling
        return t.down.size * t.across.points if t.points >= _ROOM else 0

    def line(self, k: LineWriter, at: Sequence[Dim]) -> None:
        """The outputs of one tile in one channel."""
        n, i, j, c = at
        t = self.tiling
        height, width = self.attrs["shape"]

        def read(p: int, q: Dim) -> Value:
            return k.read(self.m, (p * t.across.points + q, *at))

        def write(dy: Dim, values: list[Value]) -> None:
            y = i * t.down.size + dy
            for dx, value in enumerate(values):
                x = j * t.across.size + dx

                def one(index: tuple[Dim, ...] = (n, y, x, c), value: Value = value) -> None:
                    k.write(index, value)

                k.where(((y, height), (x, width)), one)

        _both_ways(
            k,
            lambda m: t.down.outputs(k.b, m),
            lambda m: t.across.outputs(k.b, m),
            (t.down.points, t.across.points, t.down.size),
            read,
            write,
        )

    samples = (
        sample((36, 1, 2, 2, 5), sizes=(4, 4), shape=(8, 8), dtypes=PACKED),
        sample((36, 2, 1, 2, 3), sizes=(4, 4), shape=(3, 7), dtypes=(f32,)),
        # points 4096 bytes apart
        sample((36, 1, 2, 2, 256), sizes=(4, 4), shape=(8, 7), dtypes=(f32,)),
        sample((16, 2, 3, 2, 18), sizes=(2, 2), shape=(5, 4), dtypes=PACKED),
        sample((25, 2, 3, 2, 18), sizes=(2, 2), strides=(2, 2), shape=(5, 4), dtypes=PACKED),
        sample((81, 1, 2, 1, 5), sizes=(4, 4), strides=(2, 2), shape=(7, 3), dtypes=PACKED),
        sample((24, 1, 2, 4, 5), sizes=(4, 2), shape=(7, 7), dtypes=PACKED),
        sample((36, 1, 2, 3, 5), sizes=(2, 3), taps=(5, 4), shape=(4, 8), dtypes=(f32,)),
    )


__all__ = ["Tiling", "WinogradInput", "WinogradOutput", "WinogradWeights"]
