"""The tile contraction as a register-tiled micro-kernel.

The accumulators of ``mr`` rows and ``nr`` columns stay in vector registers over all taps and the
whole depth. Each step loads the ``nr`` consecutive elements of the packed operand B and multiplies
them with one element of A per row, broadcast.

Rows of A are addressed in one of three ways. Where the offset is affine in the row, they are a
fixed distance apart. Otherwise (convolutions) each has an address, computed with one row in each
lane, and all are as far on for another tap. Where guards may fail, a table on the stack holds the
address of each (tap, row), and that of a row of zeros where one does.

Where B comes from beyond the L2 cache, the tiles that share a column block of it ask for the block
that comes next, each for a part.

A tile at the end is moved back so that it has all its rows; the region runs for its own rows only.
"""

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
    VOID,
    both,
    constant,
    constant_array,
    declare,
    element_of,
    gep,
    intrinsic,
    lanes_of,
    memory_type,
    splat,
    stack,
    vector,
)
from pjit.backends.llvm.memory import linear_offset
from pjit.ir import expr
from pjit.ir.core import Op
from pjit.ir.errors import IRError
from pjit.ir.expr import Dim
from pjit.ir.loops import Contraction, Prim
from pjit.ir.target import LINE

if TYPE_CHECKING:
    from pjit.backends.llvm.emit import KernelEmitter

MANY_TILES = 32  # tiles of a symbolic number of rows
FAR = 32  # steps between two requests at most
ZEROS = 4096  # elements of the row of zeros: the depth is walked in pieces of this length
INLINE_REGION = 12  # cost of a region that is repeated for each vector of the tile
_COSTLY = 25  # the cost of a primitive that is a polynomial
_CHEAP = {"add", "sub", "mul", "div", "neg", "abs", "min", "max", "select", "fma", "and", "or"}
_CHEAP |= {"eq", "ne", "lt", "le", "gt", "ge", "sqrt", "floor", "ceil", "round", "trunc"}


def emit_contraction(e: KernelEmitter, op: Contraction) -> None:
    """Emits a tile where the emitter's builder is; nothing when there are no rows."""
    if expr.product(op.rows) != 0:
        _Contract(e, op).emit()


class _Contract:
    """The emission of one tile."""

    def __init__(self, e: KernelEmitter, op: Contraction) -> None:
        self.e, self.op, self.b = e, op, e.b
        self.of = e.mapped(op.index)
        self.a_type, self.b_type = op.a.type, op.b.type
        self.dtype = op.b.dtype
        self.lanes = min(e.machine.lanes(self.dtype.bits), op.nr)
        if op.nr % self.lanes:
            raise IRError("the columns of a tile fill whole vectors", got=f"nr={op.nr}")
        self.vectors = op.nr // self.lanes
        self.total = expr.product(op.rows)
        self.mr = min(op.mr, self.total) if isinstance(self.total, int) else op.mr
        self.element = element_of(constant(memory_type(self.dtype), 0))
        self.cells = [(i, j) for i in range(self.mr) for j in range(self.vectors)]
        self.k = expr.sym("#k", 0, op.depth)
        self.a_offset = linear_offset([self.of(x) for x in op.a_map], self.a_type.shape)
        self.b_offset = linear_offset([self.of(x) for x in op.b_map], self.b_type.shape)
        self.row_names = [f"#r{i}" for i in range(len(op.rows))]
        self.tap_names = [f"#t{i}" for i in range(len(op.taps))]
        self.a_step = self._coefficient(self.a_offset, "#k")
        self.tiles = -(-self.total // self.mr) if isinstance(self.total, int) else MANY_TILES
        self.every, self.lines = self._requests() if self._waits_for_b() else (0, 0)
        self.guards = self._open_guards()

    def emit(self) -> None:
        """Emits the tile: addresses, sums, region."""
        self._place_rows()
        sums = self._sums()
        _Finish(self, sums).emit()

    def _waits_for_b(self) -> bool:
        """Whether B comes from beyond the L2 cache: it is larger, or it is one of a few of its size
        that would fill it, and so few rows use it that its loads take longer than the arithmetic.
        A single tile reads it in order, which the processor foresees.
        """
        size, machine = expr.product(self.b_type.shape) * self.dtype.itemsize, self.e.machine
        if not isinstance(size, int) or self.tiles == 1:
            return False
        loading = machine.vector_bits // 8 / machine.l2_bytes_per_cycle
        return size > machine.l2 or (size > machine.l2 // 4 and self.mr / 2 < loading)

    def _requests(self) -> tuple[int, int]:
        """After how many steps, a divisor of the depth, a tile asks for how many lines of B, such
        that all tiles ask for a whole column block; (0, 0) where it does not ask.
        """
        depth, row = self.op.depth, self.op.nr * self.dtype.itemsize
        if not isinstance(depth, int):
            return 0, 0
        most = min(FAR, self.tiles * LINE // row)
        if most < 2:
            return 1, -(-row // (self.tiles * LINE))
        every = next((n for n in range(most, most // 2, -1) if n > 1 and depth % n == 0), 0)
        return every, int(every > 0)

    def _open_guards(self) -> list[tuple[Dim, Dim]]:
        """The guards of A that may fail for some row and tap."""
        names = [*self.row_names, *self.tap_names]
        ranged: dict[str, Dim] = {
            name: expr.sym(name, 0, extent)
            for name, extent in zip(names, (*self.op.rows, *self.op.taps), strict=True)
        }
        guards = [
            tuple(expr.substitute(self.of(x), ranged) for x in guard) for guard in self.op.a_guards
        ]
        return [(x, bound) for x, bound in guards if not expr.within(x, 0, bound)]

    def _coefficient(self, x: Dim, name: str) -> Dim:
        found = expr.linear(x, name)
        if found is None:
            raise IRError(
                "the offset of A is affine in taps and depth", where=str(self.op.loc), got=x
            )
        return found[0]

    def _place_rows(self) -> None:
        """``first``: the first row computed; ``own``: the first of the tile's own among those."""
        e, b = self.e, self.b
        row0 = self.of(self.op.row0)
        fits = isinstance(self.total, int) and self.total % self.mr == 0
        if (fits and expr.mod(row0, self.mr) == 0) or self.mr == 1 or self.total == self.mr:
            self.first = row0 if self.total != self.mr else 0
            self.own: Any = None
            return
        start, total = e.index.scalar(row0), e.index.scalar(self.total)
        moved = intrinsic(b, "smin", start, b.sub(total, I64(self.mr)))
        if not isinstance(self.total, int):
            moved = intrinsic(b, "smax", moved, I64(0))
        self.first = e.index.fresh(moved, 0, self.total)
        self.own = b.sub(start, moved)

    def _sums(self) -> dict[tuple[int, int], Any]:
        e, op = self.e, self.op
        zero = constant(self.element, 0.0, self.lanes)
        sums = [zero] * len(self.cells)
        base = self.substituted(self.b_offset, taps=[0] * len(op.taps), k=0, column=0)
        panel = gep(self.b, e.buffers[op.b], e.index.scalar(base), self.element)
        rows = _affine_rows(self) or _scattered_rows(self) or _TableRows(self)
        state = rows.walk([panel, self._next_block(panel), *sums])
        return dict(zip(self.cells, state[2:], strict=True))

    def _next_block(self, panel: Any) -> Any:
        """Where the part of the next column block is that this tile asks for."""
        if not self.every:
            return panel
        line = LINE // self.dtype.itemsize
        steps = self.op.depth * prod(self.op.taps)
        part, block = steps // self.every * self.lines * line, steps * self.op.nr
        tile = expr.floordiv(self.of(self.op.row0), self.op.mr)
        at = block + expr.mod(tile, -(-block // part)) * part
        return gep(self.b, panel, self.e.index.scalar(at), self.element)

    def substituted(
        self, x: Dim, taps: Sequence[Dim] | None = None, k: Dim | None = None, column: Dim = 0
    ) -> Dim:
        known: dict[str, Dim] = {"#c": column}
        if taps is not None:
            known |= dict(zip(self.tap_names, taps, strict=True))
        if k is not None:
            known["#k"] = k
        return expr.substitute(x, known)

    def depth(self, pointers: Sequence[Any], state: list[Any], depth: Dim) -> list[Any]:
        """Adds ``depth`` steps from the given row addresses on; state is the panel, what to ask for
        next, and the sums.
        """
        if not self.every or depth != self.op.depth:
            return self._steps(pointers, state, depth)
        b, memory = self.b, memory_type(self.op.a.dtype)
        stride = self.e.index.scalar(self.a_step)

        def some(k: Any, state: list[Any]) -> list[Any]:
            panel, following, *sums = state
            for _ in range(self.lines):
                self._fetch(following)
                following = gep(b, following, I64(LINE // self.dtype.itemsize), self.element)
            at = k if self.a_step == 1 else b.mul(k, stride)
            moved = [gep(b, p, at, memory) for p in pointers]
            return self._steps(moved, [panel, following, *sums], self.every)

        return self.e.loop(0, depth, self.every, state, some)

    def _steps(self, pointers: Sequence[Any], state: list[Any], depth: Dim) -> list[Any]:
        """One step an iteration: LLVM would mix the steps of a longer body and run out of
        registers.
        """
        b, e = self.b, self.e
        stride = e.index.scalar(self.a_step)
        memory, wide = memory_type(self.op.a.dtype), vector(self.element, self.lanes)

        def step(k: Any, state: list[Any]) -> list[Any]:
            panel, following, *sums = state
            at = k if self.a_step == 1 else b.mul(k, stride)
            columns = [
                b.load(
                    gep(b, panel, I64(j * self.lanes), self.element),
                    typ=wide,
                    align=self.dtype.itemsize,
                )
                for j in range(self.vectors)
            ]
            out = []
            for i, pointer in enumerate(pointers):
                raw = b.load(
                    gep(b, pointer, at, memory), typ=memory, align=self.op.a.dtype.itemsize
                )
                x = splat(b, self._widened(raw), self.lanes)
                for j, column in enumerate(columns):
                    out.append(self._fma(x, column, sums[i * self.vectors + j]))
            return [gep(b, panel, I64(self.op.nr), self.element), following, *out]

        return e.loop(0, depth if isinstance(depth, int) else e.index.scalar(depth), 1, state, step)

    def _fetch(self, address: Any) -> None:
        """Asks for a line of B, into the L2 cache."""
        fetch = declare(self.b.module, "llvm.prefetch.p0", VOID, [PTR, I32, I32, I32])
        self.b.call(fetch, [address, I32(0), I32(2), I32(1)])

    def _widened(self, raw: Any) -> Any:
        prims = self.e.prims
        return prims.cast(prims.from_memory(self.op.a.dtype, raw), self.op.a.dtype, self.dtype)

    def _fma(self, x: Any, y: Any, z: Any) -> Any:
        if self.e.machine.fma:
            return intrinsic(self.b, "fma", x, y, z)
        return self.b.fadd(self.b.fmul(x, y), z)

    def coordinates(self, row: Dim) -> list[Dim]:
        """The coordinates of a row, as expressions of its number."""
        out: list[Dim] = []
        step: Dim = 1
        for at, extent in reversed(list(enumerate(self.op.rows))):
            x = expr.floordiv(row, step)
            out.insert(0, expr.mod(x, extent) if at else x)
            step = step * extent
        return out

    def clamped(self, i: int) -> Any:
        """Row ``i`` of the tile, or the last one that exists when there are fewer than ``mr``."""
        if isinstance(self.total, int) or i == 0:
            return I64(i)
        last = self.e.index.scalar(self.total - 1)
        return intrinsic(self.b, "smin", I64(i), last)


@dataclass
class _AffineRows:
    """Rows a fixed distance apart."""

    c: _Contract
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


def _affine_rows(c: _Contract) -> _AffineRows | None:
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


def _for_taps(c: _Contract, body: Callable, state: list[Any]) -> list[Any]:
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

    def __init__(self, c: _Contract) -> None:
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

    c: _Contract
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


def _scattered_rows(c: _Contract) -> _ScatteredRows | None:
    """The rows by an address each, when nothing is guarded and the taps do not depend on rows."""
    if c.guards:
        return None
    start = c.substituted(c.a_offset, [0] * len(c.op.taps))
    along = c.a_offset - start
    return None if expr.symbols(along) & {*c.row_names, "#k"} else _ScatteredRows(c, along)


class _TableRows:
    """Rows anywhere, by a table of the address of each (tap, row)."""

    def __init__(self, c: _Contract) -> None:
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


class _Finish:
    """Runs the region on every element of a tile: a vector of columns at a time."""

    def __init__(self, c: _Contract, sums: dict[tuple[int, int], Any]) -> None:
        self.c, self.e, self.b, self.op, self.sums = c, c.e, c.b, c.op, sums
        self.n = c.lanes

    def emit(self) -> None:
        op = self.op
        col0 = self.c.of(op.col0)
        even = isinstance(op.cols, int) and op.cols % op.nr == 0 and expr.mod(col0, op.nr) == 0
        if even:
            self._rows(col0, False, _cost(op) > INLINE_REGION)
        elif self.e.machine.masked:
            self._rows(col0, True, _cost(op) > INLINE_REGION)
        else:
            self._either(col0)

    def _either(self, col0: Dim) -> None:
        """Without masks for a tile that has all its columns."""
        b = self.b
        full = b.icmp_signed("<=", self.e.index.scalar(col0 + self.op.nr), self._cols())
        with b.if_else(full) as (then, otherwise):
            with then:
                self._rows(col0, False, _cost(self.op) > INLINE_REGION)
            with otherwise:
                self._rows(col0, True, True)

    def _cols(self) -> Any:
        return self.e.index.scalar(self.op.cols)

    def _rows(self, col0: Dim, masked: bool, looped: bool) -> None:
        if looped:
            self._looped(col0, masked)
            return
        c, b = self.c, self.b
        missing = not isinstance(c.total, int)
        for i in range(c.mr):
            mine = None
            if c.own is not None:
                mine = b.icmp_signed(">=", I64(i), c.own)
                if missing and i:
                    there = b.icmp_signed("<", I64(i), self.e.index.scalar(c.total))
                    mine = b.and_(mine, there)
            values = [(j * self.n, self.sums[i, j]) for j in range(c.vectors)]
            if mine is None:
                self._row(c.first + i, col0, masked, values)
            else:
                with b.if_then(mine):
                    self._row(c.first + i, col0, masked, values)

    def _looped(self, col0: Dim, masked: bool) -> None:
        """Through memory, one row after the other; of two vectors at once a polynomial takes about
        as long as of one, for its operations wait for each other.
        """
        c, b, e = self.c, self.b, self.e
        nr = self.op.nr
        pairs = [(2 * j * self.n, 2 * self.n) for j in range(c.vectors // 2)]
        parts = [*pairs, *([(nr - self.n, self.n)] if c.vectors % 2 else [])]
        with b.goto_entry_block():
            tile = stack(b, c.element, c.mr * nr)
        for (i, j), value in self.sums.items():
            b.store(value, gep(b, tile, I64(i * nr + j * self.n), c.element), align=self._align())
        start: Any = 0 if c.own is None else c.own
        stop: Any = c.mr
        if not isinstance(c.total, int):
            stop = e.index.scalar(expr.minimum(c.total, c.mr))

        def row(i: Any, state: list[Any]) -> list[Any]:
            base = gep(b, tile, b.mul(i, I64(nr)), c.element)
            values = [
                (
                    column,
                    b.load(
                        gep(b, base, I64(column), c.element),
                        typ=vector(c.element, n),
                        align=self._align(),
                    ),
                )
                for column, n in parts
            ]
            at = e.index.fresh(i, 0, c.mr)
            first = c.first
            variable = e.index.fresh(e.index.scalar(first + at), 0, c.total)
            self._row(variable, col0, masked, values)
            return []

        e.loop(start, stop, 1, [], row)

    def _align(self) -> int:
        return min(64, self.n * self.c.dtype.itemsize)

    def _row(self, row: Dim, col0: Dim, masked: bool, values: list[tuple[int, Any]]) -> None:
        """Runs the region on vectors of a row, each at its column of the tile."""
        c, e, op = self.c, self.e, self.op
        acc, *coordinates, column = op.regions[0].args
        e.exprs.update(zip(coordinates, c.coordinates(row), strict=True))
        saved = e.index.lane, e.memory.mask
        for at, value in values:
            n = lanes_of(value)
            base = e.index.scalar(col0 + at)
            variable = e.index.fresh(base, 0, op.cols)
            e.index.lane = Lane(n, str(variable) if n > 1 else None)
            if masked:
                e.memory.mask = e.index.below(base, self._cols())
            e.exprs[column] = variable
            e.scalars[acc] = value
            e.block(op.regions[0])
            e.index.lane, e.memory.mask = saved


def _cost(op: Contraction) -> int:
    """A rough count of the instructions of the region."""
    return sum(_op_cost(x) for x in op.regions[0].ops)


def _op_cost(x: Op) -> int:
    if not isinstance(x, Prim):
        return 1
    return 1 if x.op_name.removeprefix("k.") in _CHEAP else _COSTLY
