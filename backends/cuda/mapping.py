"""How the loops of a kernel map to the threads of a GPU.

Two mappings. In the flat one each thread computes one iteration of the parallel nest and of the
loops directly inside it, down to the vector loop, all flattened into one index. Kernels that reduce
in a vector loop, keep scratch memory or run several loops one after the other have teams: the
threads of a team share one iteration of the parallel nest, and the lanes of a vector loop are its
threads. A team is part of a warp, a warp or a block, by the length of its vector loops; short teams
share a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pjit.backends.cuda.target import CudaMachine
from pjit.ir import expr
from pjit.ir.core import Block, Function, Op, Value
from pjit.ir.errors import PjitError
from pjit.ir.expr import Dim
from pjit.ir.loops import (
    For,
    IndexValue,
    Inside,
    KCast,
    KConst,
    Load,
    Prim,
    Scratch,
    Store,
    ToIndex,
)

_PURE = (KConst, IndexValue, Inside, KCast, Load, ToIndex, Prim)
_WARP_ROW = 1024  # a row of at most this many elements is one warp's
_LONG_ROW = 4096  # one of more is a whole block's, and below this of half a block's


@dataclass(frozen=True)
class Flat:
    """Each thread computes one iteration of ``loops``, outermost first, whose innermost body is
    ``body``; ``before`` are operations between them, outermost first.
    """

    loops: tuple[For, ...]
    before: tuple[Op, ...]
    body: Block


@dataclass(frozen=True)
class Team:
    """``size`` threads share an iteration of the parallel nest ``loops``; ``count`` teams are in
    a block.
    """

    loops: tuple[For, ...]
    size: int
    count: int


def choose(kernel: Function, machine: CudaMachine) -> Flat | Team:
    """The mapping of a kernel.

    Raises:
        PjitError: Its scratch memory does not fit.
    """
    nest, body = parallel_nest(kernel)
    if not any(isinstance(o, Scratch) for o in kernel.walk()):
        flat = _flat(nest, body)
        if flat is not None:
            return flat
    return _team(kernel, nest, machine)


def parallel_nest(kernel: Function) -> tuple[list[For], Block]:
    """The parallel loops, outermost first, and what is inside; none when the kernel has no nest."""
    loops: list[For] = []
    block = kernel.body
    while True:
        ops = [o for o in block.ops if not o.terminator and not isinstance(o, Scratch | KConst)]
        if len(ops) != 1 or not isinstance(ops[0], For) or ops[0].kind != "parallel":
            return loops, block
        loops.append(ops[0])
        block = ops[0].body


def vector_loops(block: Block) -> list[For]:
    """The vector loops of a block that are in no other one."""
    found: list[For] = []
    for op in block.ops:
        if isinstance(op, For):
            found += [op] if op.kind == "vector" else vector_loops(op.body)
    return found


def _flat(nest: list[For], block: Block) -> Flat | None:
    loops, before = list(nest), []
    outer = list(nest)
    while True:
        ops = [o for o in block.ops if not o.terminator]
        inner = [o for o in ops if isinstance(o, For)]
        if not inner and not any(loop.kind == "serial" for loop in loops[len(outer) :]):
            return Flat(tuple(loops), tuple(before), block)
        others = [o for o in ops if not isinstance(o, For)]
        if len(inner) != 1 or inner[0].carried or not all(isinstance(o, _PURE) for o in others):
            break
        before += others
        loops.append(inner[0])
        block = inner[0].body
        if inner[0].kind == "vector":
            serial = any(loop.kind != "vector" for loop in loops[len(outer) : -1])
            return Flat(tuple(loops), tuple(before), block) if not serial or _scattered(block) else None
    if not vector_loops(loops[len(outer) - 1].body if outer else block):
        ops = nest[-1].body if nest else block
        return Flat(tuple(outer), (), ops)
    return None
