"""Where the rows of a tile contraction are in memory; see ``contract``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from llvmlite import ir

from pjit.backends.llvm.indexing import Lane
from pjit.backends.llvm.lanes import (
    I32,
    I64,
    PTR,
    both,
    constant,
    constant_array,
    gep,
    intrinsic,
    memory_type,
    splat,
    stack,
    vector,
)
from pjit.ir import expr
from pjit.ir.expr import Dim

if TYPE_CHECKING:
    from pjit.backends.llvm.contract import TileEmitter

ZEROS = 4096  # elements of the row of zeros: the depth is walked in pieces of this length


def walk_rows(c: TileEmitter, state: list[Any]) -> list[Any]:
    """Adds up all taps and the whole depth: calls ``c.depth`` with the addresses of the rows."""
    rows = _affine_rows(c) or _scattered_rows(c) or _TableRows(c)
    return rows.walk(state)


@dataclass
class _AffineRows:
    """Rows a fixed distance apart."""

    c: TileEmitter
    stride: Dim

    def walk(self, state: list[Any]) -> list[Any]:
        c = self.c
        e, b, op = c.e, c.b, c.op
        row = dict(zip(c.row_names, c.coordinates(c.first), strict=True))
        memory = memory_type(op.a.dtype)
        stride = e.index.scalar(self.stride)
        apart = [b.mul(c.clamped(i), stride) for i in range(c.mr)]
        offset = expr.substitute(c.a_offset, row)

        def tap(taps: Sequence[Dim], state: list[Any]) -> list[Any]:
            start = e.index.scalar(c.substituted(offset, taps, 0))
            base = gep(b, e.buffers[op.a], start, memory)
            pointers = [gep(b, base, x, memory) for x in apart]
            return c.depth(pointers, state, op.depth)

        return _for_taps(c, tap, state)


def _affine_rows(c: TileEmitter) -> _AffineRows | None:
    """The rows as a fixed stride, when the offset is affine in the row and nothing is guarded."""
    if c.guards:
        return None
    stride: Dim = 0
    scale: Dim = 1
    for name, extent in reversed(list(zip(c.row_names, c.op.rows, strict=True))):
        if extent == 1:
            continue
        found = expr.linear(c.a_offset, name)
        if found is None or expr.symbols(found[0]) & {*c.row_names, *c.tap_names, "#k"}:
            return None
        if stride == 0 and scale == 1:
            stride = found[0]
        elif found[0] != stride * scale:
            return None
        scale = scale * extent
    return _AffineRows(c, stride)


def _for_taps(c: TileEmitter, body: Callable, state: list[Any]) -> list[Any]:
    """Runs ``body(taps, state)`` for every tap, in row-major order."""

    def nest(done: list[Dim], state: list[Any]) -> list[Any]:
        if len(done) == len(c.op.taps):
            return body(done, state)
        extent = c.op.taps[len(done)]

        def inner(i: Any, state: list[Any]) -> list[Any]:
            at = i.constant if isinstance(i, ir.Constant) else c.e.index.fresh(i, 0, extent)
            return nest([*done, at], state)

        return c.e.loop(0, extent, 1, state, inner)

    return nest([], state)


class _Lanes:
    """The rows of a tile, one in each lane of a vector."""

    def __init__(self, c: TileEmitter) -> None:
        self.c, self.b, self.e = c, c.b, c.e
        self.width = max(2, 1 << (c.mr - 1).bit_length())

    def coordinates(self) -> dict[str, Dim]:
        """The coordinates of the rows: symbols for vectors."""
        c, e, b = self.c, self.e, self.b
        n = self.width
        first = [e.index.scalar(x) for x in c.coordinates(c.first)]
        steps = [min(i, c.mr - 1) for i in range(n)]
        ahead = ir.Constant(ir.VectorType(I32, n), steps)
        if not isinstance(c.total, int):
            last = e.index.scalar(expr.minimum(c.total - 1, c.mr))
            ahead = intrinsic(b, "smin", ahead, splat(b, b.trunc(last, I32), n))
        known: dict[str, Dim] = {}
        for at in range(len(first) - 1, -1, -1):
            x = b.add(splat(b, b.trunc(first[at], I32), n), ahead)
            if at:
                x, ahead = self._carry(x, c.op.rows[at])
            wide = b.sext(x, vector(I64, n))
            known[c.row_names[at]] = e.index.fresh(wide, 0, c.op.rows[at])
        return known

    def _carry(self, x: Any, extent: Dim) -> tuple[Any, Any]:
        """What is left of coordinates within their extent, and how often it fits."""
        c, e, b, n = self.c, self.e, self.b, self.width
        size = splat(b, b.trunc(e.index.scalar(extent), I32), n)
        if isinstance(extent, int) and extent >= c.mr:  # at most once
            over = b.icmp_signed(">=", x, size)
            return b.select(over, b.sub(x, size), x), b.zext(over, x.type)
        if isinstance(extent, int):
            times = b.udiv(x, size)
        else:
            wide = ir.VectorType(ir.DoubleType(), n)
            times = b.fptosi(b.fdiv(b.sitofp(x, wide), b.sitofp(size, wide)), x.type)
        return b.sub(x, b.mul(times, size)), times

    def addresses(self, offset: Dim) -> Any:
        """The addresses of the elements of A at an offset, as integers."""
        c, e, b, n = self.c, self.e, self.b, self.width
        base = b.ptrtoint(e.buffers[c.op.a], I64)
        here = b.mul(e.index.lanes(offset), constant(I64, c.op.a.dtype.itemsize, n))
        return b.add(here, splat(b, base, n))

    @contextmanager
    def open(self) -> Iterator[None]:
        """While what is emitted has a value for each row."""
        saved = self.e.index.lane
        self.e.index.lane = Lane(self.width)
        yield
        self.e.index.lane = saved


@dataclass
class _ScatteredRows:
    """Rows anywhere, each as far on for another tap: ``along``."""

    c: TileEmitter
    along: Dim

    def walk(self, state: list[Any]) -> list[Any]:
        c = self.c
        e, b, rows = c.e, c.b, _Lanes(c)
        memory = memory_type(c.op.a.dtype)
        with rows.open():
            start = c.substituted(c.a_offset - self.along, k=0)
            starts = rows.addresses(expr.substitute(start, rows.coordinates()))
        firsts = [b.inttoptr(b.extract_element(starts, I32(i)), PTR) for i in range(c.mr)]

        def tap(taps: Sequence[Dim], state: list[Any]) -> list[Any]:
            ahead = e.index.scalar(c.substituted(self.along, taps))
            return c.depth([gep(b, p, ahead, memory) for p in firsts], state, c.op.depth)

        return _for_taps(c, tap, state)


def _scattered_rows(c: TileEmitter) -> _ScatteredRows | None:
    """The rows by an address each, when nothing is guarded and the taps do not depend on rows."""
    if c.guards:
        return None
    start = c.substituted(c.a_offset, [0] * len(c.op.taps))
    along = c.a_offset - start
    return None if expr.symbols(along) & {*c.row_names, "#k"} else _ScatteredRows(c, along)


class _TableRows:
    """Rows anywhere, by a table of the address of each (tap, row)."""

    def __init__(self, c: TileEmitter) -> None:
        self.c, self.b, self.e, self.rows = c, c.b, c.e, _Lanes(c)
        self.width = self.rows.width
        self.taps = prod(c.op.taps)
        self.memory = memory_type(c.op.a.dtype)
        with self.b.goto_entry_block():
            self.table = stack(self.b, PTR, self.taps * self.width)
        self.zeros = constant_array(self.b.module, self.memory, 0, ZEROS)

    def walk(self, state: list[Any]) -> list[Any]:
        c, e, b = self.c, self.e, self.b
        self._fill()
        step = c.a_step if isinstance(c.a_step, int) and c.a_step > 0 else ZEROS
        piece = ZEROS // step if c.guards else c.op.depth
        whole = piece == c.op.depth or (isinstance(c.op.depth, int) and c.op.depth <= piece)

        def tap(i: Any, state: list[Any]) -> list[Any]:
            at = b.mul(i, I64(self.width))
            pointers = [
                b.load(gep(b, self.table, b.add(at, I64(r)), PTR), typ=PTR, align=8)
                for r in range(c.mr)
            ]
            if whole:
                return c.depth(pointers, state, c.op.depth)
            return e.loop(
                0, e.index.scalar(c.op.depth), piece, state, lambda k, s: part(k, pointers, s)
            )

        def part(k: Any, pointers: list[Any], state: list[Any]) -> list[Any]:
            """As much of the depth as there are zeros."""
            start = e.index.fresh(k, 0, c.op.depth)
            ahead = e.index.scalar(start * c.a_step)
            moved = [
                b.select(b.icmp_unsigned("==", p, self.zeros), p, gep(b, p, ahead, self.memory))
                for p in pointers
            ]
            return c.depth(moved, state, expr.minimum(piece, c.op.depth - start))

        return e.loop(0, self.taps, 1, state, tap)

    def _fill(self) -> None:
        """Computes the addresses, one row in each lane."""
        c, e, b = self.c, self.e, self.b
        n = self.width
        zeros = splat(b, b.ptrtoint(self.zeros, I64), n)
        with self.rows.open():
            known = self.rows.coordinates()
            offset = expr.substitute(c.substituted(c.a_offset, k=0), known)
            guards = [tuple(expr.substitute(x, known) for x in guard) for guard in c.guards]

            def tap(taps: Sequence[Dim], state: list[Any]) -> list[Any]:
                here = self.rows.addresses(c.substituted(offset, taps=taps))
                inside = None
                for x, bound in guards:
                    inside = both(b, inside, e.index.inside(c.substituted(x, taps=taps), bound))
                if inside is not None:
                    here = b.select(splat(b, inside, n), here, zeros)
                b.store(here, state[0], align=64 if n >= 8 else 8 * n)
                return [gep(b, state[0], I64(n), PTR)]

            _for_taps(c, tap, [self.table])
