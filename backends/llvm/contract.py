"""The tile contraction as a register-tiled micro-kernel.

The accumulators of ``mr`` rows and ``nr`` columns stay in vector registers over all taps and the
whole depth. Each step loads the ``nr`` consecutive elements of the packed operand B and multiplies
them with one element of A per row, broadcast.

Rows of A are addressed in one of three ways. Where the offset is affine in the row, they are a
fixed distance apart. Otherwise (convolutions) each has an address, computed with one row in each
lane, and another tap moves all by the same distance. Where guards may fail, a table on the stack
holds the address of each (tap, row), and that of a row of zeros where one does.

Where B comes from beyond the L2 cache, the tiles that share a column block of it ask for the block
that comes next, each for a part. What the region reads of large tensors, and where it writes then,
is asked for before the sums are made.

A tile at the end is moved back so that it has all its rows; the region runs for its own rows only.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from llvmlite import ir

from pjit.backends.llvm.contract_finish import Finish
from pjit.backends.llvm.contract_rows import walk_rows
from pjit.backends.llvm.lanes import (
    I64,
    VOID,
    constant,
    element_of,
    fetch,
    gep,
    intrinsic,
    memory_type,
    splat,
    vector,
)
from pjit.backends.llvm.memory import linear_offset
from pjit.ir import expr
from pjit.ir.errors import IRError
from pjit.ir.expr import Dim
from pjit.ir.loops import Contraction
from pjit.ir.target import LINE

if TYPE_CHECKING:
    from pjit.backends.llvm.emit import KernelEmitter

FAR = 32  # steps between two requests at most
UNROLL = 4  # steps in an iteration: counting is 3 of 23 instructions that a step would start
LATE = 1.5  # times as long as reading a row of B takes, multiplying with it
FEW = 8  # operands that share the L2 cache from call to call


def emit_contraction(e: KernelEmitter, op: Contraction) -> None:
    """Emits a tile where the emitter's builder is; nothing when there are no rows."""
    if expr.product(op.rows) != 0:
        TileEmitter(e, op).emit()


class TileEmitter:
    """The emission of one tile."""

    def __init__(self, e: KernelEmitter, op: Contraction) -> None:
        self.e, self.op, self.b = e, op, e.b
        self.of = e.mapped(op.index)
        self.a_type, self.b_type = op.a.type, op.b.type
        self.dtype = op.b.dtype
        self.lanes = e.machine.filled(op.nr, self.dtype.bits)
        if self.lanes == 1:
            raise IRError("the columns of a tile fill vectors of two at least", got=f"nr={op.nr}")
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
        self.every, self.lines = self._requests() if self._waits_for_b() else (0, 0)
        self.guards = self._open_guards()

    def emit(self) -> None:
        """Emits the tile: addresses, sums, region."""
        self._place_rows()
        finish = Finish(self)
        finish.fetch()
        finish.emit(self._sums())

    def _waits_for_b(self) -> bool:
        """Whether to ask for B, which may come from beyond the L2 cache: it is one of a few of its
        size that would fill it. A single tile reads it in order, which the processor foresees, but
        not far enough where it has much to multiply with each row.
        """
        size = expr.product(self.b_type.shape) * self.dtype.itemsize
        if not isinstance(size, int) or size <= self.e.machine.l2 // FEW:
            return False
        machine, bits = self.e.machine, self.dtype.bits
        multiplying = self.mr * self.vectors / machine.fmas(self.lanes, bits)
        reading = self.op.nr * self.dtype.itemsize / machine.weights_bytes_per_cycle
        return self.op.sharing > 1 or multiplying > LATE * reading

    def _requests(self) -> tuple[int, int]:
        """After how many steps, a divisor of the depth, a tile asks for how many lines of B, such
        that the tiles that share a column block ask for a whole one; (0, 0) where it does not ask.
        """
        depth, row = self.op.depth, self.op.nr * self.dtype.itemsize
        if not isinstance(depth, int):
            return 0, 0
        most = min(FAR, self.op.sharing * LINE // row)
        if most < 2:
            return 1, -(-row // (self.op.sharing * LINE))
        counts = [n for n in range(most, most // 2, -1) if n > 1 and depth % n == 0]
        every = next((n for n in counts if n % UNROLL == 0), counts[0] if counts else 0)
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
        state = walk_rows(self, [panel, self._next_block(panel), *sums])
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
        """An expression at taps, a place in the depth and a column; None leaves the symbols."""
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
                fetch(b, following, 2)
                following = gep(b, following, I64(LINE // self.dtype.itemsize), self.element)
            at = k if self.a_step == 1 else b.mul(k, stride)
            moved = [gep(b, p, at, memory) for p in pointers]
            return self._steps(moved, [panel, following, *sums], self.every)

        return self.e.loop(0, depth, self.every, state, some)

    def _steps(self, pointers: Sequence[Any], state: list[Any], depth: Dim) -> list[Any]:
        """One step an iteration, of which LLVM makes ``UNROLL``. It would mix those and run out of
        registers, but what may touch any memory stands between them.
        """
        b, e = self.b, self.e
        stride = e.index.scalar(self.a_step)
        memory, wide = memory_type(self.op.a.dtype), vector(self.element, self.lanes)
        nothing = ir.FunctionType(VOID, ())

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
            b.asm(nothing, "", "~{memory}", (), True)
            return [gep(b, panel, I64(self.op.nr), self.element), following, *out]

        extent = depth if isinstance(depth, int) else e.index.scalar(depth)
        return e.loop(0, extent, 1, state, step, unroll=UNROLL)

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
