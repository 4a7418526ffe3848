"""Flat kernels of f32 whose threads handle four neighbouring elements at once.

Each load and store of four elements is one instruction of 128 bits. A kernel qualifies when it is
straight-line code on f32 without guards, and when in every access four neighbouring iterations
touch four neighbouring elements from a multiple of four on, or all the same one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pjit.backends.cuda.index import Indexing, Lines, Names
from pjit.backends.cuda.mapping import linear_offset
from pjit.backends.cuda.prims import Prims, literal
from pjit.ir import expr
from pjit.ir.core import Op, Value
from pjit.ir.expr import Call, Dim, Sym
from pjit.ir.loops import KCast, KConst, Load, Prim, Store
from pjit.ir.types import f32

LANES = 4


def step(e: Dim, name: str) -> int | None:
    """How much an expression grows from one of four neighbouring values of a symbol to the next;
    the first is a multiple of four. None when that is not constant.
    """
    if isinstance(e, int):
        return 0
    total = 0
    for monomial, c in e.terms:
        steps = [_atom_step(a, name) for a in monomial]
        if None in steps:
            return None
        moving = [s for s in steps if s]
        if moving and len(monomial) > 1:
            return None
        total += c * sum(s for s in moving if s is not None)
    return total


def _atom_step(a: Sym | Call, name: str) -> int | None:
    if isinstance(a, Sym):
        return int(a.name == name)
    if name not in expr.symbols(a.lhs) | expr.symbols(a.rhs):
        return 0
    if a.op not in ("//", "%") or step(a.lhs, name) != 1:
        return None
    if not is_multiple(_at_four(a.lhs, name)) or not is_multiple(a.rhs):
        return None
    return 1 if a.op == "%" else 0  # four neighbours never straddle a multiple of the divisor


def _at_four(e: Dim, name: str) -> Dim:
    return expr.substitute(e, {name: LANES * expr.sym(name, 0)})


def is_multiple(e: Dim) -> bool:
    """Whether an expression is known to be a multiple of four."""
    if isinstance(e, int):
        return e % LANES == 0
    return all(c % LANES == 0 or any(_atom_is_multiple(a) for a in m) for m, c in e.terms)


def _atom_is_multiple(a: Sym | Call) -> bool:
    return isinstance(a, Call) and a.op != "//" and is_multiple(a.lhs) and is_multiple(a.rhs)


@dataclass(frozen=True)
class Plan:
    """What a wide kernel does: its operations, and the offset (over ``%q``, the number of the four)
    and step of each access.
    """

    ops: tuple[Op, ...]
    accesses: Mapping[Op, tuple[Dim, int]]
    work: Dim


def plan(ops: Sequence[Op], exprs: Mapping[Value, Dim], total: Dim) -> Plan | None:
    """The plan for a flat kernel, when it qualifies.

    Args:
        ops: The operations of one iteration.
        exprs: The index values as expressions over ``%t``, the iteration.
        total: The number of iterations.
    """
    work = expr.floordiv(total, LANES)
    if work * LANES != total:
        return None
    accesses: dict[Op, tuple[Dim, int]] = {}
    for op in ops:
        if isinstance(op, Load | Store):
            found = _access(op, exprs, work)
            if found is None:
                return None
            accesses[op] = found
        elif not isinstance(op, Prim | KConst | KCast):
            return None
    return Plan(tuple(ops), accesses, work)


def _access(op: Load | Store, exprs: Mapping[Value, Dim], work: Dim) -> tuple[Dim, int] | None:
    known = {f"#{i}": exprs[v] for i, v in enumerate(op.index)}
    offset = linear_offset([expr.substitute(e, known) for e in op.map], op.buffer.shape)
    grows = step(offset, "%t")
    wide = grows == 1 and op.buffer.dtype == f32
    same = grows == 0 and isinstance(op, Load)
    if op.guards or not (wide or same):
        return None
    at = expr.substitute(offset, {"%t": LANES * expr.sym("%q", 0, work)})
    return (at, int(wide)) if same or is_multiple(at) else None


@dataclass
class WideWriter:
    """Writes the operations of a plan.

    Attributes:
        memory: The Python names of the buffers.
        values: The names of each scalar: one for all four elements, or one for each.
    """

    out: Lines
    names: Names
    index: Indexing
    prims: Prims
    functions: set[str]
    memory: Mapping[Value, str]
    values: dict[Value, list[str]] = field(default_factory=dict)

    def write(self, p: Plan) -> None:
        """Writes the body of the loop."""
        for op in p.ops:
            if isinstance(op, KConst):
                self.values[op.result] = [literal(op.value, op.dtype)]
            elif isinstance(op, Load):
                self._load(op, *p.accesses[op])
            elif isinstance(op, Store):
                self._store(op, *p.accesses[op])
            else:
                self._scalar(op)

    def _names(self, n: int) -> list[str]:
        base = self.names.next("v")
        return [base] if n == 1 else [base + suffix for suffix in "abcd"]

    def _load(self, op: Load, at: Dim, grows: int) -> None:
        buffer, offset = self.memory[op.buffer], self.index.sum(at)
        names = self.values[op.result] = self._names(LANES if grows else 1)
        if grows:
            self.functions.add("load4")
            text = f"load4({buffer}, {offset})"
        else:
            text = self.prims.from_memory(op.buffer.dtype, f"{buffer}[{offset}]")
        self.out.add(f"{', '.join(names)} = {text}")

    def _store(self, op: Store, at: Dim, grows: int) -> None:
        values = self.values[op.value]
        values = values * LANES if len(values) == 1 else values
        self.functions.add("store4")
        self.out.add(f"store4({self.memory[op.buffer]}, {self.index.sum(at)}, {', '.join(values)})")

    def _scalar(self, op: Op) -> None:
        operands = [self.values[v] for v in op.operands]
        n = max((len(xs) for xs in operands), default=1)
        names = self._names(n)
        for k, name in enumerate(names):
            xs = [x[k] if len(x) > 1 else x[0] for x in operands]
            if isinstance(op, KCast):
                text = self.prims.cast(xs[0], op.x.dtype, op.dtype)
            else:
                kind = op.op_name.removeprefix("k.")
                text = self.prims.emit(kind, op.operands[-1].dtype, *xs)
            self.out.add(f"{name} = {text}")
        self.values[op.result] = names
