"""Where the tiles of a Winograd convolution are, and their values at the points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pjit.ir import expr
from pjit.ir.core import Value
from pjit.ir.expr import Dim
from pjit.ir.kernel_builder import LineWriter
from pjit.ir.loops import Guards, Items
from pjit.ir.ops.winograd_lines import Lines

MOST_POINTS = 6  # in a direction; more lose too much accuracy in two

Pair = tuple[int, int]
Transform = Callable[[Sequence[Value]], list[Value]]


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
    def both(self) -> tuple[Lines, Lines]:
        """The transforms down and across."""
        return self.down, self.across

    @property
    def valid(self) -> bool:
        """Whether there are such transforms."""
        return self.down.valid(MOST_POINTS) and self.across.valid(MOST_POINTS)

    @property
    def points(self) -> int:
        """How many products a tile takes."""
        return self.down.points * self.across.points

    def outputs(self, extents: Sequence[Dim], pads: Sequence[int]) -> tuple[Dim, ...]:
        """The height and the width of the result for an image."""
        sides = zip(self.both, extents, pads[:2], pads[2:], strict=True)
        return tuple(
            expr.floordiv(extent + low + high - lines.taps, lines.stride) + 1
            for lines, extent, low, high in sides
        )

    def tiles(self, outputs: Sequence[Dim]) -> tuple[Dim, ...]:
        """How many tiles cover the result."""
        return tuple(expr.ceildiv(n, line.size) for n, line in zip(outputs, self.both, strict=True))

    def shortened(self, outputs: Sequence[Dim]) -> Pair:
        """How many tiles of each direction make one output less, so that all of them make what
        there is; 0 where none do, or that is not known.
        """
        sides = zip(self.both, self.tiles(outputs), outputs, strict=True)
        short = [(n, n * line.size - extent) for line, n, extent in sides]
        down, across = (
            s if isinstance(s, int) and isinstance(n, int) and s <= n else 0 for n, s in short
        )
        return down, across


@dataclass(frozen=True)
class Axis:
    """The tiles along one direction. The last ``short`` make one output less: they need no value at
    infinity, the last point of each of the transforms' parts.
    """

    lines: Lines
    tiles: Dim
    short: int

    def start(self, i: Dim) -> Dim:
        """The first output of a tile."""
        full = i * self.lines.size
        return full - expr.maximum(i - (self.tiles - self.short), 0) if self.short else full

    def makes(self, i: Dim, place: Dim, extent: Dim) -> tuple[Dim, Dim]:
        """The guard of an output, by its place, of a tile; ``extent``: of all outputs."""
        if not self.short:
            return self.start(i) + place, extent
        return i, self.tiles - self.short + (self.lines.size - 1 - place) * self.tiles

    def last(self, p: Dim) -> Dim:
        """1 for a point that short tiles do not need, else 0."""
        return self._lasts_before(p + 1) - self._lasts_before(p)

    def having(self, p: Dim) -> Dim:
        """How many tiles, the first ones, have a value at a point."""
        return self.tiles - self.short * self.last(p)

    def before(self, p: Dim) -> Dim:
        """How many values the tiles have at the points before one."""
        return p * self.tiles - self.short * self._lasts_before(p)

    @property
    def values(self) -> Dim:
        """How many values the tiles have."""
        return self.before(self.lines.points)

    def _lasts_before(self, p: Dim) -> Dim:
        counts = (part.count for part in self.lines.parts)
        total: Dim = 0
        end = 0
        for count in counts:
            end += count
            total = total + expr.minimum(expr.floordiv(p, end), 1)
        return total


@dataclass(frozen=True)
class Grid:
    """The tiles of images, and the matrix of their values at the points: a row for each pair of
    points, image and tile that needs it, in this order.
    """

    tiling: Tiling
    tiles: tuple[Dim, ...]  # images, tiles down and across
    short: Pair

    @property
    def axes(self) -> tuple[Axis, Axis]:
        """The tiles down and across."""
        both = zip(self.tiling.both, self.tiles[1:], self.short, strict=True)
        down, across = (Axis(*x) for x in both)
        return down, across

    @property
    def rows(self) -> Dim:
        """How many there are."""
        down, across = self.axes
        return self.tiles[0] * down.values * across.values

    def first_row(self, p: Dim, q: Dim) -> Dim:
        """The first row of a pair of points."""
        down, across = self.axes
        before = down.before(p) * across.values + down.having(p) * across.before(q)
        return self.tiles[0] * before

    def row(self, p: Dim, q: Dim, tile: Sequence[Dim]) -> Dim:
        """The row of a pair of points for an image and a tile down and across."""
        n, i, j = tile
        down, across = self.axes
        return self.first_row(p, q) + (n * down.having(p) + i) * across.having(q) + j

    def needed(self, p: Dim, q: Dim, tile: Sequence[Dim]) -> Guards:
        """When a tile has a row for a pair of points."""
        places = zip(self.axes, (p, q), tile[1:], strict=True)
        return [
            (i, axis.having(point))
            for axis, point, i in places
            if axis.short and axis.last(point) != 0
        ]

    def items(self) -> tuple[Items, ...]:
        """The pairs of points by their numbers of rows, the largest first."""
        down, across = self.axes
        found: dict[Dim, list[tuple[int, int]]] = {}
        kinds = [(x, y) for x in (0, 1) for y in (0, 1)]
        for x, y in kinds:
            rows = self.tiles[0] * (down.tiles - x * down.short) * (across.tiles - y * across.short)
            found.setdefault(rows, []).append((x, y))

        def count(axis: Axis, last: int) -> int:
            lasts = len(axis.lines.parts)
            return lasts if last else axis.lines.points - lasts

        def chosen(some: list[tuple[int, int]], points: Sequence[Dim]) -> Dim:
            p, q = down.last(points[0]), across.last(points[1])
            return sum(((p if x else 1 - p) * (q if y else 1 - q) for x, y in some), start=0)

        return tuple(
            Items(
                rows,
                sum(count(down, x) * count(across, y) for x, y in some),
                lambda points, some=some: chosen(some, points),  # type: ignore[misc]
            )
            for rows, some in found.items()
            if rows != 0
        )

    def parts(self) -> list[tuple[int, int, int, int]]:
        """The pairs of points where the sizes are known, and how many tiles down and across have a
        row for each.
        """
        down, across = self.axes
        return [
            (p, q, down.having(p), across.having(q))  # type: ignore[misc]
            for p in range(down.lines.points)
            for q in range(across.lines.points)
        ]


def both_ways(
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
