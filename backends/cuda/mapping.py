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
    """Each thread computes one iteration of ``loops``, outermost first: ``before``, the operations
    between the loops, then ``body``, that of the innermost loop. ``extents`` bound the loops'
    iterations, for ragged loops from above.
    """

    loops: tuple[For, ...]
    extents: tuple[Dim, ...]
    before: tuple[Op, ...]
    body: Block


@dataclass(frozen=True)
class Team:
    """``size`` threads share an iteration of the parallel nest ``loops``, that is ``before`` and
    then ``body``; ``count`` teams are in a block.
    """

    loops: tuple[For, ...]
    extents: tuple[Dim, ...]
    before: tuple[Op, ...]
    body: Block
    size: int
    count: int


def choose(kernel: Function, machine: CudaMachine) -> Flat | Team:
    """The mapping of a kernel.

    Raises:
        PjitError: Its scratch memory does not fit, or its parallel loops depend on each other in
            a way that has no bound.
    """
    loops, before, body = parallel_nest(kernel)
    nest = Flat(tuple(loops), _extents(loops), tuple(before), body)
    if not any(isinstance(o, Scratch) for o in kernel.walk()):
        flat = _flat(nest)
        if flat is not None:
            return flat
    return _team(kernel, nest, machine)


def parallel_nest(kernel: Function) -> tuple[list[For], list[Op], Block]:
    """The parallel loops, outermost first, the operations between them, and the innermost body."""
    loops: list[For] = []
    before: list[Op] = []
    block = kernel.body
    while True:
        ops = [o for o in block.ops if not o.terminator]
        others = [o for o in ops if isinstance(o, Scratch | KConst | IndexValue)]
        rest = [o for o in ops if o not in others]
        if len(rest) != 1 or not isinstance(rest[0], For) or rest[0].kind != "parallel":
            return loops, before, block
        before += others
        loops.append(rest[0])
        block = rest[0].body


def vector_loops(block: Block) -> list[For]:
    """The vector loops of a block that are in no other one."""
    found: list[For] = []
    for op in block.ops:
        if isinstance(op, For):
            found += [op] if op.kind == "vector" else vector_loops(op.body)
    return found


def _flat(nest: Flat) -> Flat | None:
    """The loops below the nest that can join it; None when only teams can run them."""
    loops, before, block = list(nest.loops), list(nest.before), nest.body
    while True:
        inner = [o for o in block.ops if isinstance(o, For)]
        others = [o for o in block.ops if not isinstance(o, For) and not o.terminator]
        if len(inner) != 1 or inner[0].carried or not all(isinstance(o, _PURE) for o in others):
            break
        before += others
        loops.append(inner[0])
        block = inner[0].body
        if inner[0].kind == "vector":
            extents = _bounded(loops)
            if extents is None:
                return None
            serial = len(loops) > len(nest.loops) + 1
            if serial and not _independent(loops, extents, block):
                return None
            return Flat(tuple(loops), extents, tuple(before), block)
    return None if vector_loops(nest.body) else nest


def _extents(loops: Sequence[For]) -> tuple[Dim, ...]:
    found = _bounded(loops)
    if found is None:
        where = str(loops[0].loc) if loops else None
        raise PjitError("the CUDA back end has no parallel loops without bounds yet", where=where)
    return found


def _bounded(loops: Sequence[For]) -> tuple[Dim, ...] | None:
    """Bounds of the loops' numbers of iterations over the kernel's symbols alone; None without."""
    variables: dict[Value, Dim] = {}
    extents: list[Dim] = []
    for k, loop in enumerate(loops):
        indices = loop.operands[: loop.n_index]
        if not all(v in variables for v in indices):
            return None
        known = {f"#{i}": variables[v] for i, v in enumerate(indices)}
        lo, hi = (expr.substitute(e, known) for e in (loop.lo, loop.hi))
        extent = hi - lo
        if any(s.startswith("%") for s in expr.symbols(extent)):
            bound = expr.upper_bound(extent)
            if bound is None:
                return None
            extent = bound
        extents.append(extent)
        variables[loop.body.args[0]] = lo + expr.sym(f"%{k}", 0, extent)
    return tuple(extents)


def _independent(loops: Sequence[For], extents: Sequence[Dim], body: Block) -> bool:
    """Whether each iteration of the loops stores to elements of its own."""
    symbols = {loop.body.args[0]: f"%{k}" for k, loop in enumerate(loops)}
    written: list[Value] = []
    loaded = {op.buffer for op in body.walk() if isinstance(op, Load)}
    for op in body.walk():
        if not isinstance(op, Store):
            continue
        if op.buffer in loaded or op.buffer in written:
            return False
        if not all(v in symbols for v in op.index):
            return False
        written.append(op.buffer)
        known: dict[str, Dim] = {}
        for i, v in enumerate(op.index):
            k = int(symbols[v][1:])
            known[f"#{i}"] = expr.sym(symbols[v], 0, extents[k])
        offset = linear_offset([expr.substitute(e, known) for e in op.map], op.buffer.shape)
        if not _injective(offset, [(f"%{k}", e) for k, e in enumerate(extents)]):
            return False
    return True


def linear_offset(index: Sequence[Dim], shape: Sequence[Dim]) -> Dim:
    """The row-major offset of an element."""
    offset: Dim = 0
    for i, d in zip(index, shape, strict=True):
        offset = offset * d + i
    return offset


def _injective(offset: Dim, variables: Sequence[tuple[str, Dim]]) -> bool:
    """Whether an offset is affine in the variables and differs for all their values."""
    steps: list[tuple[Dim, Dim]] = []
    for name, extent in variables:
        found = expr.linear(offset, name)
        if found is None:
            return False
        if extent != 1:
            steps.append((found[0], extent))
        offset = found[1]
    reach: Dim = 0  # the largest offset that the variables taken so far can make
    while steps:
        least = next((s for s in steps if all(expr.at_least(t[0] - s[0], 0) for t in steps)), None)
        if least is None or not expr.at_least(least[0] - reach, 1):
            return False
        steps.remove(least)
        reach = reach + least[0] * (least[1] - 1)
    return True


def _team(kernel: Function, nest: Flat, machine: CudaMachine) -> Team:
    rows = expr.product(nest.extents)
    longest = max((_length(loop) for loop in vector_loops(nest.body)), default=1)
    size = 1 << max(longest - 1, 0).bit_length() if longest <= machine.warp else machine.warp
    if longest > _WARP_ROW or (longest > machine.block_threads and _few(rows, machine)):
        size = machine.block_threads // 2 if longest <= _LONG_ROW else machine.block_threads
    if any(isinstance(o, For) and o.kind != "vector" and o.n_index for o in nest.body.walk()):
        size = max(size, machine.warp)  # the threads of a warp pass the same loops
    count = machine.block_threads // size if size <= machine.warp else 1
    scratch = [o for o in kernel.body.ops if isinstance(o, Scratch)]
    each: Dim = 0
    for o in scratch:
        each = each + expr.product(o.shape) * o.dtype.itemsize
    assert isinstance(each, int), "the sizes of scratch memory are static"
    least = max(1, machine.warp // size)
    while count > least and count * each > machine.shared - 1024:
        count //= 2
    if count * each > machine.shared - 1024:
        raise PjitError(
            "the CUDA back end has no scratch memory beyond the static shared memory yet",
            where=str(scratch[0].loc),
            expected=f"at most {machine.shared - 1024} bytes a block",
            got=count * each,
        )
    return Team(nest.loops, nest.extents, nest.before, nest.body, size, count)


def _few(rows: Dim, machine: CudaMachine) -> bool:
    return isinstance(rows, int) and rows <= machine.threads


def _length(loop: For) -> int:
    """The number of iterations of a vector loop, for planning."""
    indices = {f"#{i}": expr.sym(f"%{i}", 0) for i in range(loop.n_index)}
    bound = expr.upper_bound(expr.substitute(loop.hi - loop.lo, indices))
    return _LONG_ROW if bound is None else bound
