"""The weights and the products of Winograd's convolutions; see ``winograd``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pjit.ir import expr
from pjit.ir.core import Value
from pjit.ir.errors import require
from pjit.ir.expr import Dim
from pjit.ir.kernel_builder import LineWriter
from pjit.ir.loops import Tile
from pjit.ir.opdef import attr, operand, same_dim, sample
from pjit.ir.ops.linalg import PACKED
from pjit.ir.ops.line import LineOp
from pjit.ir.ops.winograd import TileOp, grid_of, tiling_of
from pjit.ir.ops.winograd_tiles import Grid, Pair, Tiling, both_ways
from pjit.ir.types import TensorType, f32, f64

_CHANNELS_AT_ONCE = 32  # of the weights, so that what is computed in double precision stays small


class WinogradWeights(TileOp, LineOp, name="nn.winograd_weights"):
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
        tiling = tiling_of(sizes, taps, strides)
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

        both_ways(
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


class WinogradProduct(TileOp, name="nn.winograd_product"):
    """The products of the tiles' values with the weights at each pair of points.

    ``v`` is ``[rows, C]``, the rows of a ``Grid`` with ``tiles``; ``wp`` is the packed weight,
    ``[points, ceil(cols/nr), C, nr]``. The result is ``[rows, cols]``.

    (C1) sizes, taps and strides have two entries.
    (C2) There are such transforms.
    (C3) ``short`` has two entries, of at most as many as there are tiles.
    (C4) tiles has three entries: images, tiles down and across.
    (C5) v has the rows of such tiles.
    (C6) wp has the points, ceil(cols/nr) blocks and the channels of v, and its dtype.
    """

    v = operand(PACKED)
    wp = operand(PACKED)
    tiles = attr(doc="images, tiles down and across")
    short = attr((0, 0), doc="how many tiles down and across make one output less")
    cols = attr(doc="output channels")
    __slots__ = ()

    @staticmethod
    def infer(
        v: TensorType,
        wp: TensorType,
        *,
        sizes: Pair,
        taps: Pair,
        strides: Pair,
        tiles: tuple[Dim, ...],
        short: Pair,
        cols: int,
    ) -> TensorType:
        """``[rows, cols]``."""
        tiling = tiling_of(sizes, taps, strides)
        require(len(tiles) == 3, "(C4) tiles has three entries", got=tiles)
        rows = grid_of(tiling, tiles, short).rows
        require(
            v.rank == 2 and same_dim(v.shape[0], rows), "(C5) v has the rows", expected=rows, got=v
        )
        require(
            wp.rank == 4
            and wp.dtype == v.dtype
            and wp.shape[0] == tiling.points
            and wp.shape[1] == expr.ceildiv(cols, wp.shape[3])
            and same_dim(wp.shape[2], v.shape[1]),
            "(C6) wp has the points, the blocks and the channels",
            expected=f"{tiling.points} points, {v.shape[1]} channels of {v.dtype}",
            got=wp,
        )
        return v.with_shape((v.shape[0], cols))

    @staticmethod
    def ref(
        v: np.ndarray,
        wp: np.ndarray,
        *,
        sizes: Pair,
        taps: Pair,
        strides: Pair,
        tiles: tuple[int, ...],
        short: Pair,
        cols: int,
    ) -> np.ndarray:
        """Unpacks and multiplies, one pair of points after the other."""
        grid = Grid(Tiling.of(sizes, taps, strides), tiles, short)
        weights = np.moveaxis(wp, 1, 2).reshape(wp.shape[0], wp.shape[2], -1)[..., :cols]
        ends = np.cumsum([tiles[0] * down * across for _, _, down, across in grid.parts()])
        parts = np.split(v, ends[:-1])
        return np.concatenate([x @ w for x, w in zip(parts, weights, strict=True)])

    def tile(self) -> Tile:
        """The batch is of the points down and across."""
        grid = Grid(self.tiling, self.attrs["tiles"], self.short)
        down, across = self.tiling.both
        return Tile(
            batch=(down.points, across.points),
            rows=(expr.product(grid.tiles),),
            taps=(),
            depth=self.v.shape[1],
            cols=self.cols,
            a_index=lambda g, r, t, k: (grid.first_row(*g) + r[0], k),
            a_guards=lambda g, r, t: (),
            b_index=lambda g, n, t, k, c: (g[0] * across.points + g[1], n, k, c),
            out_index=lambda g, r, c: (grid.first_row(*g) + r[0], c),
            ragged=grid.items() if any(self.short) else (),
        )

    samples = (
        sample((72, 5), (36, 2, 5, 4), sizes=(4, 4), tiles=(1, 1, 2), cols=7, dtypes=PACKED),
        sample((1452, 9), (36, 2, 9, 16), sizes=(4, 4), tiles=(3, 4, 4), short=(2, 2), cols=25),
        sample((60, 9), (36, 2, 9, 16), sizes=(4, 4), tiles=(1, 1, 2), short=(0, 2), cols=25),
        sample((0, 9), (36, 2, 9, 16), sizes=(4, 4), tiles=(0, 1, 2), short=(0, 1), cols=25),
        sample((480, 3), (24, 1, 3, 16), sizes=(4, 2), tiles=(2, 2, 5), short=(0, 0), cols=16),
        sample(
            (390, 3),
            (25, 1, 3, 16),
            sizes=(2, 2),
            strides=(2, 2),
            tiles=(2, 3, 3),
            short=(1, 0),
            cols=9,
        ),
    )


__all__ = ["WinogradProduct", "WinogradWeights"]
