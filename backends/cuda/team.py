"""Kernels of teams: vector loops over threads, reductions, scratch memory and barriers."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from pjit.backends.cuda.mapping import Team, linear_offset, vector_loops
from pjit.backends.cuda.prims import identity, register
from pjit.ir import expr
from pjit.ir.core import Block, Function, Op, Value
from pjit.ir.expr import Dim
from pjit.ir.loops import For, Load, Scratch, Store
from pjit.ir.types import DType

if TYPE_CHECKING:
    from pjit.backends.cuda.emit import KernelEmitter

_ALL = "0xffffffff"  # the mask of all lanes of a warp


class TeamState:
    """Loops, scratch memory and barriers of a kernel of teams.

    Attributes:
        uniform: Whether all threads of the team compute the same: outside of the vector loops.
        declarations: The allocations of shared memory, one a line.
    """

    def __init__(self, emitter: KernelEmitter, m: Team) -> None:
        self.e, self.m = emitter, m
        self.uniform = True
        self.declarations: list[str] = []
        self.own = _own(emitter.kernel, m.body)
        loaded = {o.buffer for o in emitter.kernel.walk() if isinstance(o, Load)}
        stored = {o.buffer for o in emitter.kernel.walk() if isinstance(o, Store)}
        self.passed = loaded & stored  # memory through which threads pass elements
        # Memory that the threads touched since the last barrier: such buffers, or names of arrays
        # of partial results.
        self.read: set[Value | str] = set()
        self.written: set[Value | str] = set()

    # Shared memory

    def scratch(self, op: Scratch) -> None:
        """Allocates a scratch buffer for each team of the block."""
        size = expr.product(op.shape)
        assert isinstance(size, int)
        self.e.memory[op.result] = self._allocate("s", self.m.count * size, op.dtype)

    def _allocate(self, prefix: str, count: int, dt: DType) -> str:
        name, kind = self.e.names.next(prefix), np.dtype(register(dt))
        self.declarations.append(f"{name} = cuda.shared.array({count}, np.{kind.name})")
        self.e.shared += count * kind.itemsize
        return name

    def touch(self, op: Load | Store) -> Dim:
        """Notes an access; where the part of the buffer begins that is the team's."""
        buffer = op.buffer
        if self.uniform and buffer in self.passed:
            self._segment({(buffer, isinstance(op, Store))})
        if self.m.count == 1 or not isinstance(buffer.owner, Op):
            return 0
        self.e.index.variables["%team"] = "team"
        return expr.sym("%team", 0, self.m.count) * expr.product(buffer.shape)

    # Barriers

    def _barrier(self) -> None:
        warp = self.m.size <= self.e.machine.warp
        self.e.out.add("cuda.syncwarp()" if warp else "cuda.syncthreads()")
        self.read.clear()
        self.written.clear()

    def _segment(self, accesses: set[tuple[Any, bool]]) -> None:
        """Puts a barrier before code whose accesses depend on those of other threads."""
        accesses = {(b, w) for b, w in accesses if b not in self.own}
        reads = {b for b, writes in accesses if not writes}
        writes = {b for b, writes in accesses if writes}
        if reads & self.written or writes & (self.written | self.read):
            self._barrier()
        self.read |= reads
        self.written |= writes

    def finish_iteration(self) -> None:
        """Before the next iteration uses the same memory."""
        if self.read or self.written:
            self._barrier()

    # Loops

    def loop(self, op: For) -> None:
        """A loop of the whole team."""
        if op.kind != "vector":
            read, written = set(self.read), set(self.written)
            self.e.counted(op)
            self.read |= read  # the loop may have had no iteration
            self.written |= written
            return
        self._segment(
            {
                (o.buffer, isinstance(o, Store))
                for o in op.walk()
                if isinstance(o, Load | Store) and o.buffer in self.passed
            }
        )
        dtypes = [v.dtype for v in op.carried]
        names = [self.e.let("c", identity(c, d)) for c, d in zip(op.combine, dtypes, strict=True)]
        self._lanes(op, names)
        reductions = list(zip(op.combine, dtypes, names, strict=True))
        for combine, dt, name in reductions:
            self._butterfly(combine, dt, name)
        if self.m.size > self.e.machine.warp:
            self._join_warps(reductions)
        for (combine, dt, name), init, result in zip(
            reductions, op.carried, op.results, strict=True
        ):
            text = self.e.prims.emit(combine, dt, self.e.scalars[init], name)
            self.e.scalars[result] = self.e.let("v", text)

    def _lanes(self, op: For, carried: list[str]) -> None:
        """The thread's iterations of a vector loop."""
        e, size = self.e, self.m.size
        of = e.mapped(op.operands[: op.n_index])
        lo, hi = of(op.lo), of(op.hi)
        trips = hi - lo
        self.uniform = False
        if isinstance(trips, int) and trips <= size:
            e.index.variables["%lane"] = "lane"
            head = e.out.block(f"if lane < {trips}:") if trips < size else nullcontext()
            with head:
                e.iterate(op, lo + expr.sym("%lane", 0, trips), carried)
        else:
            name, j = e.index.next("j", trips)
            e.out.add(f"{name} = lane")
            with e.out.block(f"while {name} < {e.index.sum(trips)}:"):
                e.iterate(op, lo + j, carried)
                e.out.add(f"{name} += {size}")
        self.uniform = True

    def _butterfly(self, combine: str, dt: DType, name: str) -> None:
        """Combines the lanes of the team that are in one warp; all of them get the result."""
        step = min(self.m.size, self.e.machine.warp) // 2
        while step:
            other = _shuffled(dt, name, step)
            if dt.name != "f32":
                other = self.e.let("x", other)
            self.e.out.add(f"{name} = {self.e.prims.emit(combine, dt, name, other)}")
            step //= 2

    def _join_warps(self, reductions: list[tuple[str, DType, str]]) -> None:
        """Combines the results of the warps, in their order."""
        out, warps = self.e.out, self.m.size // self.e.machine.warp
        shared = [self._allocate("w", warps, dt) for _, dt, _ in reductions]
        if not shared:
            return
        self._segment({(w, True) for w in shared})
        with out.block("if lane & 31 == 0:"):
            for (_, _, name), w in zip(reductions, shared, strict=True):
                out.add(f"{w}[lane >> 5] = {name}")
        self._segment({(w, False) for w in shared})
        for (combine, dt, name), w in zip(reductions, shared, strict=True):
            out.add(f"{name} = {w}[0]")
            k = self.e.names.next("k")
            with out.block(f"for {k} in range(1, {warps}):"):
                other = self.e.let("x", f"{w}[{k}]")
                out.add(f"{name} = {self.e.prims.emit(combine, dt, name, other)}")


def _shuffled(dt: DType, x: str, step: int) -> str:
    """The value of the lane whose number differs in one bit."""
    carrier = {"f64": "", "i64": "", "i32": "", "u64": "int64"}.get(dt.name, "int32")
    if dt.is_float or not carrier:
        return f"cuda.shfl_xor_sync({_ALL}, {x}, {step})"
    moved = f"cuda.shfl_xor_sync({_ALL}, np.{carrier}({x}), {step})"
    return f"{moved} != 0" if dt.kind == "b" else f"np.{register(dt)}({moved})"


def _own(kernel: Function, body: Block) -> set[Value]:
    """Scratch buffers whose elements only the thread that wrote them reads: iteration j of every
    vector loop touches element j.
    """
    shared = {
        o.buffer
        for o in kernel.walk()
        if isinstance(o, Load | Store) and isinstance(o.buffer.owner, Op)
    }
    apart: dict[Value, int] = dict.fromkeys(shared, 0)
    for loop in vector_loops(body):
        for o in loop.walk():
            if isinstance(o, Load | Store) and o.buffer in shared and loop.lo == 0:
                offset = str(linear_offset(o.map, o.buffer.shape))
                own = [f"#{i}" for i, v in enumerate(o.index) if v is loop.body.args[0]]
                apart[o.buffer] += offset in own
    return {b for b, n in apart.items() if n == len(b.uses)}


def describe(m: Team) -> str:
    """The mapping in words."""
    threads = f"{m.size} threads" if m.size > 1 else "one thread"
    return f"{threads} for each iteration of the parallel nest"
