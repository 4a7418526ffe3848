"""Convolution of images by short polynomial products (Winograd), with stride 1 or 2.

A tile of ``m x m`` outputs of 3x3 taps comes from ``(m+2)^2`` products instead of ``9*m^2``, with
stride 2 from ``(2*m+1)^2``: the windows and the weights are evaluated at points in each direction,
multiplied, and interpolated (``winograd_lines``). Where tiles do not divide an image some make one
output less, from fewer products (``winograd_tiles``). ``nn.winograd_input``, a matrix product for
each pair of points (``nn.winograd_product``) and ``nn.winograd_output`` make a convolution;
``nn.winograd_weights`` folds for a constant weight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pjit.ir.core import Value
from pjit.ir.errors import require
from pjit.ir.expr import Dim
from pjit.ir.kernel_builder import LineWriter
from pjit.ir.opdef import OpDef, attr, operand, same_dim, sample
from pjit.ir.ops.linalg import PACKED
from pjit.ir.ops.line import LineOp
from pjit.ir.ops.winograd_tiles import Grid, Pair, Tiling, both_ways
from pjit.ir.types import TensorType, f32

ROOM = 20  # points from which on they are made by loops, which share code


def tiling_of(sizes: Pair, taps: Pair, strides: Pair) -> Tiling:
    """Checks (C1) and (C2)."""
    pairs = all(len(x) == 2 for x in (sizes, taps, strides))
    require(pairs, "(C1) sizes, taps and strides have two entries", got=(sizes, taps, strides))
    tiling = Tiling.of(sizes, taps, strides)
    require(tiling.valid, "(C2) up to 6 points, stride 1 or 2, more taps than that", got=tiling)
    return tiling


def grid_of(tiling: Tiling, tiles: tuple[Dim, ...], short: Pair) -> Grid:
    """Checks (C3)."""
    possible = len(short) == 2 and all(
        s == 0 or (isinstance(n, int) and 0 < s <= n) for n, s in zip(tiles[1:], short, strict=True)
    )
    require(possible, "(C3) at most as many tiles as there are make one output less", got=short)
    return Grid(tiling, tiles, short)


class TileOp(OpDef):
    """Base of the operators on tiles of an image."""

    sizes = attr(doc="outputs of a tile down and across")
    taps = attr((3, 3))
    strides = attr((1, 1))
    __slots__ = ()

    @property
    def tiling(self) -> Tiling:
        """How the image is convolved."""
        return Tiling.of(self.sizes, self.taps, self.strides)


class WinogradInput(TileOp, LineOp, name="nn.winograd_input"):
    """The windows of the tiles at the points: the rows of a ``Grid``.

    ``x`` is ``[N, H, W, C]``; the result is ``[rows, C]``. A tile whose first output is ``(i, j)``
    has the window from ``(i, j) * strides - (top, left)`` on; x is zero outside.

    (C1) sizes, taps and strides have two entries.
    (C2) There are such transforms.
    (C3) ``short`` has two entries, of at most as many as there are tiles.
    (C4) x has a batch, two spatial dimensions and channels.
    (C5) pads has four entries of at least 0: top, left, bottom, right.
    (C6) A window of the taps fits into the padded input.
    """

    x = operand(PACKED)
    pads = attr()
    short = attr((0, 0), doc="how many tiles down and across make one output less")
    __slots__ = ()

    @staticmethod
    def infer(
        x: TensorType,
        *,
        sizes: Pair,
        taps: Pair,
        strides: Pair,
        pads: tuple[int, ...],
        short: Pair,
    ) -> TensorType:
        """``[rows, C]``."""
        tiling = tiling_of(sizes, taps, strides)
        require(x.rank == 4, "(C4) x has four dimensions", got=x)
        require(len(pads) == 4 and min(pads) >= 0, "(C5) pads has four entries", got=pads)
        for extent, n, low, high in zip(x.shape[1:3], taps, pads[:2], pads[2:], strict=True):
            padded = extent + low + high
            fits = not isinstance(padded, int) or padded >= n
            require(fits, "(C6) the window fits into the padded input", got=padded)
        tiles = tiling.tiles(tiling.outputs(x.shape[1:3], pads))
        return x.with_shape((grid_of(tiling, (x.shape[0], *tiles), short).rows, x.shape[3]))

    @property
    def grid(self) -> Grid:
        """Where the tiles are."""
        tiles = self.tiling.tiles(self.tiling.outputs(self.x.shape[1:3], self.pads))
        return Grid(self.tiling, (self.x.shape[0], *tiles), self.short)

    @staticmethod
    def ref(
        x: np.ndarray,
        *,
        sizes: Pair,
        taps: Pair,
        strides: Pair,
        pads: tuple[int, ...],
        short: Pair,
    ) -> np.ndarray:
        """Pads, takes the windows and multiplies with the matrices of the points."""
        tiling = Tiling.of(sizes, taps, strides)
        tiles = tiling.tiles(tiling.outputs(x.shape[1:3], pads))
        grid = Grid(tiling, (x.shape[0], *tiles), short)
        at = [
            np.add.outer([axis.start(i) * line.stride for i in range(n)], range(line.extent))  # type: ignore[arg-type]
            for axis, line, n in zip(grid.axes, tiling.both, tiles, strict=True)
        ]
        reach = [places.max(initial=0) + 1 for places in at]
        padded = np.zeros((x.shape[0], *reach, x.shape[3]), np.float64)
        inside = padded[:, pads[0] :, pads[1] :]
        h, w = min(x.shape[1], inside.shape[1]), min(x.shape[2], inside.shape[2])
        inside[:, :h, :w] = x[:, :h, :w]
        windows = padded[:, at[0][:, :, None, None], at[1]]  # images, down, rows, across, columns
        b = [line.matrices()[2] for line in tiling.both]
        y = np.einsum("pi,qj,nhiwjc->pqnhwc", *b, windows, optimize=True)
        rows = [y[p, q][:, :d, :a] for p, q, d, a in grid.parts()]
        return np.concatenate([r.reshape(-1, x.shape[3]) for r in rows]).astype(x.dtype)

    @property
    def walked(self) -> tuple[int, ...]:
        """The rows."""
        return (0,)

    @property
    def lines(self) -> tuple[Dim, ...]:
        """The tiles, in every channel."""
        return (*self.grid.tiles, self.x.shape[3])

    @property
    def room(self) -> int:
        """The transforms of the columns, where there are many."""
        t = self.tiling
        return t.down.points * t.across.extent if t.points >= ROOM else 0

    def values(
        self, k: LineWriter, at: Sequence[Dim], write: Callable[[Dim, int, Value], None]
    ) -> None:
        """Calls ``write`` with the values at the points of one window in one channel."""
        n, *tile, c = at
        _, height, width, _ = self.x.shape
        t = self.tiling
        top, left = (
            axis.start(i) * axis.lines.stride - pad
            for axis, i, pad in zip(self.grid.axes, tile, self.pads[:2], strict=True)
        )

        def read(y: int, x: Dim) -> Value:
            inside = ((top + y, height), (left + x, width))
            return k.guarded(inside, lambda: k.read(self.x, (n, top + y, left + x, c)), 0.0)

        def row(p: Dim, values: list[Value]) -> None:
            for q, value in enumerate(values):
                write(p, q, value)

        both_ways(
            k,
            lambda d: t.down.samples(k.b, d),
            lambda d: t.across.samples(k.b, d),
            (t.down.extent, t.across.extent, t.down.points),
            read,
            row,
        )

    def line(self, k: LineWriter, at: Sequence[Dim]) -> None:
        """The values of one window in one channel, in their rows."""
        grid = self.grid
        *tile, c = at

        def write(p: Dim, q: int, value: Value) -> None:
            index = (grid.row(p, q, tile), c)
            k.where(grid.needed(p, q, tile), lambda: k.write(index, value))

        self.values(k, at, write)

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
        # tiles of 4+3+3 and 4+3 outputs, of 3+3, and with stride 2
        sample((1, 6, 6, 5), sizes=(4, 4), pads=(1, 1, 1, 1), short=(2, 2), dtypes=(f32,)),
        sample((2, 10, 7, 18), sizes=(4, 4), pads=(1, 1, 1, 1), short=(2, 1), dtypes=PACKED),
        sample((2, 6, 6, 5), sizes=(2, 2), strides=(2, 2), pads=(0, 0, 1, 2), short=(1, 0)),
        sample((1, 9, 5, 5), sizes=(4, 4), strides=(2, 2), pads=(0, 1, 6, 1), short=(1, 1)),
    )


class WinogradOutput(TileOp, LineOp, name="nn.winograd_output"):
    """The outputs of the tiles from their products at the points.

    ``m`` is ``[rows, O]``, the rows of a ``Grid`` for ``images`` of the shape, the result is
    ``[images, *shape, O]``; of tiles that reach beyond it the rest is left out.

    (C1) sizes, taps and strides have two entries.
    (C2) There are such transforms.
    (C3) ``short`` has two entries, of at most as many as there are tiles.
    (C4) m has the rows of the tiles that cover the shape.
    (C5) Tiles that make one output less leave nothing out.
    """

    m = operand(PACKED)
    images = attr()
    shape = attr(doc="output height and width")
    short = attr((0, 0), doc="how many tiles down and across make one output less")
    __slots__ = ()

    @staticmethod
    def infer(
        m: TensorType,
        *,
        sizes: Pair,
        taps: Pair,
        strides: Pair,
        images: Dim,
        shape: tuple[Dim, ...],
        short: Pair,
    ) -> TensorType:
        """``[images, height, width, O]``."""
        tiling = tiling_of(sizes, taps, strides)
        grid = grid_of(tiling, (images, *tiling.tiles(shape)), short)
        require(
            m.rank == 2 and same_dim(m.shape[0], grid.rows),
            "(C4) m has the rows of the tiles that cover the shape",
            expected=grid.rows,
            got=m,
        )
        exact = all(
            not axis.short or axis.start(axis.tiles) == extent
            for axis, extent in zip(grid.axes, shape, strict=True)
        )
        require(exact, "(C5) tiles that make one output less leave nothing out", got=short)
        return m.with_shape((images, *shape, m.shape[1]))

    @property
    def grid(self) -> Grid:
        """Where the tiles are."""
        tiles = self.tiling.tiles(self.attrs["shape"])
        return Grid(self.tiling, (self.images, *tiles), self.short)

    @staticmethod
    def ref(
        m: np.ndarray,
        *,
        sizes: Pair,
        taps: Pair,
        strides: Pair,
        images: int,
        shape: tuple[int, ...],
        short: Pair,
    ) -> np.ndarray:
        """Interpolates each tile and puts the tiles side by side."""
        t = Tiling.of(sizes, taps, strides)
        grid = Grid(t, (images, *t.tiles(shape)), short)
        lines = t.both
        products = np.zeros((lines[0].points, lines[1].points, *grid.tiles, m.shape[1]))  # type: ignore[arg-type]
        at = 0
        for p, q, down, across in grid.parts():
            n = images * down * across
            products[p, q, :, :down, :across] = m[at : at + n].reshape(
                images, down, across, m.shape[1]
            )
            at += n
        a = [line.matrices()[0] for line in lines]
        y = np.einsum("ip,jq,pqnhwc->nhwijc", *a, products, optimize=True)
        out = np.empty((images, *shape, m.shape[1]), m.dtype)
        for at_tile in np.ndindex(y.shape[1:3]):  # the next one writes what a short one lacks
            top, left = (axis.start(i) for axis, i in zip(grid.axes, at_tile, strict=True))
            place = out[:, top:, left:][:, : sizes[0], : sizes[1]]  # type: ignore[misc]
            place[:] = y[:, *at_tile, : place.shape[1], : place.shape[2]]
        return out

    @property
    def walked(self) -> tuple[int, ...]:
        """The outputs."""
        return (1, 2)

    @property
    def lines(self) -> tuple[Dim, ...]:
        """The tiles, in every channel."""
        return (*self.grid.tiles, self.m.shape[1])

    @property
    def room(self) -> int:
        """The transforms of the columns, where there are many."""
        t = self.tiling
        return t.down.size * t.across.points if t.points >= ROOM else 0

    def outputs(self, k: LineWriter, at: Sequence[Dim], read: Callable[[int, Dim], Value]) -> None:
        """Writes the outputs of one tile in one channel; ``read`` gives the products."""
        n, *tile, c = at
        t = self.tiling
        down, across = self.grid.axes
        height, width = self.attrs["shape"]
        top, left = down.start(tile[0]), across.start(tile[1])

        def write(dy: Dim, values: list[Value]) -> None:
            for dx, value in enumerate(values):
                index = (n, top + dy, left + dx, c)
                guards = [down.makes(tile[0], dy, height), across.makes(tile[1], dx, width)]
                k.where(guards, lambda index=index, value=value: k.write(index, value))  # type: ignore[misc]

        both_ways(
            k,
            lambda m: t.down.outputs(k.b, m),
            lambda m: t.across.outputs(k.b, m),
            (t.down.points, t.across.points, t.down.size),
            read,
            write,
        )

    def line(self, k: LineWriter, at: Sequence[Dim]) -> None:
        """The outputs of one tile in one channel, from their rows."""
        grid = self.grid
        *tile, c = at

        def read(p: int, q: Dim) -> Value:
            index = (grid.row(p, q, tile), c)
            return k.guarded(grid.needed(p, q, tile), lambda: k.read(self.m, index), 0.0)

        self.outputs(k, at, read)

    samples = (
        sample((144, 5), sizes=(4, 4), images=1, shape=(8, 8), dtypes=PACKED),
        sample((144, 3), sizes=(4, 4), images=2, shape=(3, 7), dtypes=(f32,)),
        # points 4096 bytes apart
        sample((144, 256), sizes=(4, 4), images=1, shape=(8, 7), dtypes=(f32,)),
        sample((192, 18), sizes=(2, 2), images=2, shape=(5, 4), dtypes=PACKED),
        sample((300, 18), sizes=(2, 2), strides=(2, 2), images=2, shape=(5, 4), dtypes=PACKED),
        sample((162, 5), sizes=(4, 4), strides=(2, 2), images=1, shape=(7, 3), dtypes=PACKED),
        sample((192, 5), sizes=(4, 2), images=1, shape=(7, 7), dtypes=PACKED),
        sample((216, 5), sizes=(2, 3), taps=(5, 4), images=1, shape=(4, 8), dtypes=(f32,)),
        # tiles of 4+3+3 and 4+3 outputs, of 3+3, and of 2+2+1 with stride 2
        sample((100, 5), sizes=(4, 4), images=1, shape=(6, 6), short=(2, 2), dtypes=(f32,)),
        sample((352, 18), sizes=(4, 4), images=2, shape=(10, 7), short=(2, 1), dtypes=PACKED),
        sample((260, 5), sizes=(2, 2), strides=(2, 2), images=2, shape=(5, 4), short=(1, 0)),
    )


__all__ = ["WinogradInput", "WinogradOutput"]
