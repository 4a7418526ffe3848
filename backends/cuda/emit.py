"""Kernels as numba.cuda source.

``emit_source`` turns a kernel of loops (no tile contraction yet) into readable Python for
numba-cuda and says how to launch it. It needs neither numba nor a GPU, and what it makes has been
compiled, assembled and emulated, but not run on a GPU.

How loops map to threads is in ``mapping``. A reduction in a vector loop is a partial result for
each thread, then a butterfly of warp shuffles, then the warps' results from shared memory in order:
all threads of the team get the same value, and the order is always the same. Scratch memory is
shared memory; between vector loops that pass elements from thread to thread the team meets at a
barrier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any

from pjit.backends.cuda.index import Indexing, Lines, Names, never
from pjit.backends.cuda.mapping import Flat, Team, choose, linear_offset
from pjit.backends.cuda.prims import Prims, literal
from pjit.backends.cuda.source import Check, CudaSource, Launch
from pjit.backends.cuda.target import CudaMachine
from pjit.backends.cuda.team import TeamState, describe
from pjit.backends.cuda.wide import WideWriter, plan
from pjit.ir import expr
from pjit.ir.core import Block, Function, Op, Value
from pjit.ir.errors import IRError, PjitError
from pjit.ir.expr import Call, Dim, Expr
from pjit.ir.loops import (
    Contraction,
    For,
    IndexValue,
    Inside,
    KCast,
    KConst,
    KYield,
    Load,
    Prim,
    Scratch,
    Store,
    ToIndex,
)
from pjit.ir.ops.basic import Return

_RESERVED = (  # names that the source uses
    *("np", "cuda", "libdevice", "min", "max", "abs", "range", "error", "lane", "team"),
    *("minimum", "maximum", "udiv", "urem", "udiv32", "urem32", "power", "fail"),
    *("f16_to_f32", "f32_to_f16", "bf16_to_f32", "f32_to_bf16", "load4", "store4"),
)
_WIDE_LEAST = 256  # elements for each multiprocessor from which on threads take four at once


def emit_source(kernel: Function, machine: CudaMachine) -> CudaSource:
    """The source of a kernel.

    Args:
        kernel: A function of the kernel level.
        machine: The GPU.

    Raises:
        PjitError: The kernel has something that the back end has no code for yet: a tile
            contraction, a primitive of a dtype, more scratch memory than fits.
    """
    _refuse(kernel)
    return KernelEmitter(kernel, machine).emit()


def _refuse(kernel: Function) -> None:
    for op in kernel.walk():
        if isinstance(op, Contraction):
            raise PjitError("the CUDA back end has no tile contractions yet", where=str(op.loc))


class KernelEmitter:
    """The emission of one kernel.

    Attributes:
        machine: The GPU.
        out: The lines of the function's body.
        names: Makes identifiers.
        index: The text of index expressions.
        prims: The text of primitives.
        memory: The name of each buffer.
        scalars: The text of each scalar: a name or a literal.
        exprs: What each index value is, as an expression over the symbols of ``index``.
        shared: Bytes of shared memory.
        live: The condition under which a team's stores happen; empty for always.
        team: What a kernel of teams needs beyond that; None for flat kernels.
    """

    def __init__(self, kernel: Function, machine: CudaMachine) -> None:
        self.kernel, self.machine = kernel, machine
        self.functions: set[str] = set()  # device functions that the source imports
        self.out = Lines()
        self.names = Names(_RESERVED)
        self.index = Indexing(self.out, self.names, self.functions.add)
        self.prims = Prims(lambda text: self.let("u", text), self.functions.add)
        self.name = self.names.fresh(kernel.name)
        self.memory = {v: self.names.fresh(v.name or f"b{v.index}") for v in kernel.args}
        for s in kernel.attrs["symbols"]:
            self.index.variables[s] = self.names.fresh(s)
        self.sizes = [self.index.variables[s] for s in kernel.attrs["symbols"]]
        self.scalars: dict[Value, str] = {}
        self.exprs: dict[Value, Dim] = {}
        self.checks: list[Check] = []
        self.shared = 0
        self.aligned = False
        self.live = ""
        self.team: TeamState | None = None

    def emit(self) -> CudaSource:
        """Emits the whole kernel."""
        mapping = choose(self.kernel, self.machine)
        if expr.product(mapping.extents) == 0:
            self.out.add("pass")
            launch, how = Launch((self.machine.warp, 1), 0, 1, 1), "nothing to do"
        elif isinstance(mapping, Flat):
            launch = self._flat(mapping)
            how = f"one thread for {'four elements' if self.aligned else 'each element'}"
        else:
            launch, how = self._team(mapping), describe(mapping)
        parameters = [
            *(self.memory[v] for v in self.kernel.args),
            *self.sizes,
            *(["error"] if self.checks else []),
        ]
        return CudaSource(
            self.name,
            self._module(how, parameters, launch),
            tuple(v.dtype for v in self.kernel.args),
            tuple(self.kernel.attrs["symbols"]),
            launch,
            tuple(self.checks),
            self.aligned,
        )

    def _module(self, how: str, parameters: Sequence[str], launch: Launch) -> str:
        types = ", ".join(f"{self.memory[v]}: {v.type}" for v in self.kernel.args)
        x, y = launch.block
        device = sorted(self.functions - {"libdevice"})
        lines = [
            f'"""{self.name}({types})',
            "",
            f"{how}; blocks of {f'{x} x {y}' if y > 1 else x} threads, {self.machine.arch}.",
            '"""',
            "",
            "import numpy as np",
            "from numba import cuda",
            *(["from numba.cuda import libdevice"] if "libdevice" in self.functions else []),
            *([f"from pjit.backends.cuda.intrinsics import {', '.join(device)}"] if device else []),
            "",
            "",
            f"def {self.name}({', '.join(parameters)}):",
            *self.out.lines,
        ]
        return "\n".join(lines) + "\n"

    def let(self, prefix: str, text: str) -> str:
        """Names the value of an expression."""
        name = self.names.next(prefix)
        self.out.add(f"{name} = {text}")
        return name

    # Flat kernels

    def _flat(self, m: Flat) -> Launch:
        total = expr.product(m.extents)
        name = self.names.fresh("t")
        self.index.variables["%t"] = name
        found = self._bound(m, total)
        total = found if found is not None else total
        t = expr.sym("%t", 0, total)
        wide = self._wide(m, total)
        if wide is not None:
            return wide
        self.out.add(f"{name} = cuda.grid(1)")
        with self.out.block(f"while {name} < {self.index.sum(total)}:"):
            conditions = self._decode(m, t)
            text = self.index.condition(conditions)
            with self.out.block(f"if {text}:") if text else nullcontext():
                self.ops(m.before)
                self.block(m.body)
            self.out.add(f"{name} += cuda.gridsize(1)")
        return self._launch(total)

    def _launch(self, total: Dim) -> Launch:
        threads = self.machine.block_threads
        if isinstance(total, int):
            threads = min(threads, max(self.machine.warp, 1 << (total - 1).bit_length()))
        most = self.machine.threads * (self.machine.resident_threads // threads)
        return Launch((threads, 1), total, threads, most)

    def _wide(self, m: Flat, total: Dim) -> Launch | None:
        """A kernel of four elements a thread, where that is possible and there is work enough."""
        conditions = self._decode(m, expr.sym("%t", 0, total))
        ragged = any(not expr.at_least(hi - i, 1) for i, hi in conditions)
        if ragged or (isinstance(total, int) and total < self.machine.threads * _WIDE_LEAST):
            return None
        found = plan([*m.before, *(o for o in m.body.ops if not o.terminator)], self.exprs, total)
        if found is None:
            return None
        self.aligned = True
        q = self.index.variables["%q"] = self.names.fresh("q")
        self.out.add(f"{q} = cuda.grid(1)")
        with self.out.block(f"while {q} < {self.index.sum(found.work)}:"):
            WideWriter(
                self.out, self.names, self.index, self.prims, self.functions, self.memory
            ).write(found)
            self.out.add(f"{q} += cuda.gridsize(1)")
        return self._launch(found.work)

    def _decode(self, m: Flat | Team, t: Dim) -> list[tuple[Dim, Dim]]:
        """Defines the loops' variables; what must hold, as (expression, bound) pairs."""
        conditions: list[tuple[Dim, Dim]] = []
        for loop, extent, i in zip(m.loops, m.extents, _coordinates(t, m.extents), strict=True):
            of = self.mapped(loop.operands[: loop.n_index])
            self.exprs[loop.body.args[0]] = i + of(loop.lo)
            trips = of(loop.hi) - of(loop.lo)
            if trips != extent:
                conditions += [(i, part) for part in _parts(trips)]
        return conditions

    def _bound(self, m: Flat, total: Dim) -> Dim | None:
        """``n`` when the ragged loops end exactly where the flat index is n."""
        conditions = self._decode(m, expr.sym("%t", 0, total))
        left = [hi - i for i, hi in conditions if not expr.at_least(hi - i, 1)]
        if len(left) != 1:
            return None
        found = expr.linear(left[0], "%t")
        if found is None or found[0] != -1 or "%t" in expr.symbols(found[1]):
            return None
        return found[1]

    # Kernels of teams

    def _team(self, m: Team) -> Launch:
        team = self.team = TeamState(self, m)
        size, count = m.size, m.count
        total = expr.product(m.extents)
        self.out.add("lane = np.int64(cuda.threadIdx.x)")
        if count > 1:
            self.out.add("team = np.int64(cuda.threadIdx.y)")
        for op in self.kernel.body.ops:
            if isinstance(op, Scratch):
                team.scratch(op)
        work = self.index.sum(total)
        first = "np.int64(cuda.blockIdx.x)" + (f" * {count}" if count > 1 else "")
        step = "np.int64(cuda.gridDim.x)" + (f" * {count}" if count > 1 else "")
        p = self.names.fresh("p")
        self.index.variables["%p"] = p
        apart = count == 1 or size == self.machine.warp  # no barrier spans teams
        head = p if apart else self.names.fresh("first")
        self.out.add(f"{head} = {first}{' + team' if apart and count > 1 else ''}")
        at = len(self.out.lines)
        with self.out.block(f"while {head} < {work}:"):
            if not apart:  # teams past the end repeat the last iteration and store nothing
                self.out.add(f"{p} = min({head} + team, {self.index.sum(total - 1)})")
                if not (isinstance(total, int) and total % count == 0):
                    self.live = self.names.fresh("live")
                    self.out.add(f"{self.live} = {head} + team < {work}")
            conditions = self._decode(m, expr.sym("%p", 0, total))
            if self.index.condition(conditions):
                where = str(m.loops[0].loc)
                raise PjitError("the CUDA back end has no ragged rows yet", where=where)
            self.ops(m.before)
            self.block(m.body)
            team.finish_iteration()
            self.out.add(f"{head} += {step}")
        self.out.lines[at:at] = ["    " + line for line in team.declarations]
        threads = size * count
        most = self.machine.threads * max(1, self.machine.resident_threads // threads)
        return Launch((size, count), total, count, most, self.shared)

    # Operations

    def ops(self, ops: Iterable[Op]) -> None:
        """Emits operations."""
        for op in ops:
            self.op(op)

    def block(self, block: Block) -> list[str]:
        """Emits a region; what it yields."""
        self.ops(op for op in block.ops if not op.terminator)
        return [self.scalars[v] for v in block.last.operands]

    def op(self, op: Op) -> None:
        """Emits one operation."""
        if isinstance(op, Prim):
            xs = [self.scalars[v] for v in op.operands]
            name = op.op_name.removeprefix("k.")
            self._define(op, self.prims.emit(name, op.operands[-1].dtype, *xs))
            return
        handlers: dict[type, Callable[[Any], None]] = {
            For: self._for,
            Load: self._load,
            Store: self._store,
            KConst: self._const,
            KCast: self._cast,
            IndexValue: self._index_value,
            Inside: self._inside,
            ToIndex: self._to_index,
            Scratch: lambda op: None,
            Return: lambda op: None,
            KYield: lambda op: None,
        }
        if type(op) not in handlers:
            raise IRError(
                "an operation is not of the kernel level", where=str(op.loc), got=op.op_name
            )
        handlers[type(op)](op)

    def _define(self, op: Op, text: str) -> None:
        self.scalars[op.result] = self.let("v", text)

    def mapped(self, operands: Sequence[Value]) -> Callable[[Dim], Dim]:
        """Replaces ``#0 ..`` in expressions by what the index operands are."""
        known = {f"#{i}": self.exprs[v] for i, v in enumerate(operands)}
        return lambda e: expr.substitute(e, known)

    def _access(self, op: Load | Store) -> tuple[str, str]:
        """The text of the element, and the condition under which it may be touched."""
        of = self.mapped(op.index)
        offset = linear_offset([of(e) for e in op.map], op.buffer.shape)
        condition = self.index.condition((of(e), of(bound)) for e, bound in op.guards)
        if self.team is not None:
            offset = offset + self.team.touch(op)
        return f"{self.memory[op.buffer]}[{self.index.sum(offset)}]", condition

    def _load(self, op: Load) -> None:
        dt = op.buffer.dtype
        of = self.mapped(op.index)
        if any(never(of(e), of(bound)) for e, bound in op.guards):
            self.scalars[op.result] = literal(op.otherwise, dt)
            return
        element, condition = self._access(op)
        if isinstance(op.buffer.owner, Op):
            text = element
        else:
            text = self.prims.from_memory(dt, element)
        if condition:
            text = f"{text} if {condition} else {literal(op.otherwise, dt)}"
        self._define(op, text)

    def _store(self, op: Store) -> None:
        of = self.mapped(op.index)
        if any(never(of(e), of(bound)) for e, bound in op.guards):
            return
        element, condition = self._access(op)
        value, dt = self.scalars[op.value], op.buffer.dtype
        conditions = [condition] if condition else []
        if isinstance(op.buffer.owner, Op):
            text = value
        else:
            text = self.prims.to_memory(dt, value)
            conditions += [self.live] if self.live else []
        if self.team is not None and self.team.uniform:
            conditions.append("lane == 0")
        with self.out.block(f"if {' and '.join(conditions)}:") if conditions else nullcontext():
            self.out.add(f"{element} = {text}")

    def _const(self, op: KConst) -> None:
        self.scalars[op.result] = literal(op.value, op.dtype)

    def _cast(self, op: KCast) -> None:
        self._define(op, self.prims.cast(self.scalars[op.x], op.x.dtype, op.dtype))

    def _index_value(self, op: IndexValue) -> None:
        self._define(op, f"np.int64({self.index.sum(self.mapped(op.index)(op.map[0]))})")

    def _inside(self, op: Inside) -> None:
        of = self.mapped(op.index)
        if any(never(of(e), of(bound)) for e, bound in op.guards):
            self.scalars[op.result] = "False"
            return
        condition = self.index.condition((of(e), of(bound)) for e, bound in op.guards)
        self._define(op, condition or "True")

    def _to_index(self, op: ToIndex) -> None:
        extent = self.mapped(op.index)(op.extent)
        bound = self.index.sum(extent)
        x = self.let("i", f"np.int64({self.scalars[op.value]})")
        if op.known:
            name, self.exprs[op.result] = self.index.next("i", extent)
            self.out.add(f"{name} = {x}")
            return
        if op.value.dtype.kind == "i":
            x = self.let("i", f"{x} + {self.index.text(extent)} if {x} < 0 else {x}")
        self.checks.append(Check(op.what, op.loc))
        self.functions.add("fail")
        with self.out.block(f"if not 0 <= {x} < {bound}:"):
            self.out.add(f"fail(error, {len(self.checks)})")
        name, symbol = self.index.next("i", extent)
        self.out.add(f"{name} = max(0, min({x}, {self.index.sum(extent - 1)}))")
        self.exprs[op.result] = symbol

    # Loops

    def _for(self, op: For) -> None:
        if self.team is not None and self.team.uniform:
            self.team.loop(op)
        else:
            self.counted(op)

    def counted(self, op: For) -> None:
        """A loop that each thread runs for itself."""
        of = self.mapped(op.operands[: op.n_index])
        lo, hi = of(op.lo), of(op.hi)
        carried = [self.let("c", self.scalars[v]) for v in op.carried]
        trips = hi - lo
        if trips == 1:
            self.iterate(op, lo, carried)
        else:
            name, j = self.index.next("j", trips)
            with self.out.block(f"for {name} in range({self.index.sum(trips)}):"):
                self.iterate(op, lo + j, carried)
        self.scalars.update(zip(op.results, carried, strict=True))

    def iterate(self, op: For, i: Dim, carried: Sequence[str]) -> None:
        """One run of a loop's body, and the assignment of what it carries on."""
        variable, *arguments = op.body.args
        self.exprs[variable] = i
        self.scalars.update(zip(arguments, carried, strict=True))
        following = self.block(op.body)
        if self.team is not None and self.team.uniform:
            self.team.finish_iteration()
        if carried:
            self.out.add(f"{', '.join(carried)} = {', '.join(following)}")


def _coordinates(linear: Dim, extents: Sequence[Dim]) -> list[Dim]:
    """The row-major coordinates of a linear index."""
    index: list[Dim] = []
    step: Dim = 1
    for at, d in reversed(list(enumerate(extents))):
        x = expr.floordiv(linear, step)
        index.insert(0, expr.mod(x, d) if at else x)
        step = step * d
    return index


def _parts(bound: Dim) -> list[Dim]:
    """What an index has to be below, one by one, to be below a minimum."""
    if isinstance(bound, Expr) and len(bound.terms) == 1:
        (monomial, c) = bound.terms[0]
        if c == 1 and len(monomial) == 1 and isinstance(monomial[0], Call):
            if monomial[0].op == "min":
                return [*_parts(monomial[0].lhs), *_parts(monomial[0].rhs)]
    return [bound]
