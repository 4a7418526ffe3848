"""Loop-invariant code: what a loop computes alike in each iteration moves in front of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pjit.ir import ops
from pjit.ir.core import Block, Module, Op, Value
from pjit.ir.opdef import OpDef
from pjit.passes.context import Context, Pass

LOOPS = (ops.Scan, ops.While)
# Cheap to read through and costly to store: they move only together with what needs them.
CHEAP = (
    ops.Const,
    ops.Sizes,
    ops.Iota,
    ops.Reshape,
    ops.Transpose,
    ops.Broadcast,
    ops.Slice,
    ops.Pad,
)
# An index may be out of range, which is no error in a loop that runs no iteration.
FAILING = (
    ops.Gather,
    ops.GatherElements,
    ops.GatherNd,
    ops.ScatterElements,
    ops.ScatterNd,
)


@dataclass(frozen=True)
class Hoist(Pass):
    """Moves operations out of ``scan`` and ``while`` that use only values from outside of them.

    Operations without effects move, unless they can fail or run on the host. Data movement moves
    where a moved operation or the right operand of a matrix product needs it. Nothing leaves an
    ``if``, which may not run it.
    """

    name: ClassVar[str] = "hoist"
    requires: ClassVar[tuple[str, ...]] = ("graph",)

    def run(self, module: Module, context: Context) -> bool:
        """Walks from the innermost loops outwards."""
        return any([_from_loops(f.body) for f in module.functions.values()])


def _from_loops(block: Block) -> bool:
    changed = False
    for op in list(block.ops):
        for region in op.regions:
            changed |= _from_loops(region)
            if not isinstance(op, LOOPS):
                continue
            moving = invariants(region)
            at = block.ops.index(op)
            for inner in moving:
                inner.parent = block
            block.ops[at:at] = moving
            gone = set(moving)
            region.ops = [o for o in region.ops if o not in gone]
            changed |= bool(moving)
    return changed


def invariants(region: Block) -> list[Op]:
    """The operations of a loop's region that should move in front of the loop, in order."""
    fixed: list[Op] = []
    varying: set[Value] = set(region.args)
    for op in region.ops:
        if not op.regions and not varying & set(op.operands) and _movable(op):
            fixed.append(op)
        else:
            varying.update(op.results)
    moving: set[Op] = set()
    for op in reversed(fixed):
        if not isinstance(op, CHEAP) or any(u in moving for u in op.result.users):
            moving.add(op)
        elif not isinstance(op, ops.Const) and _is_weight(op.result):
            moving.add(op)
    return [op for op in fixed if op in moving]


def _movable(op: Op) -> bool:
    if op.terminator or isinstance(op, FAILING) or not isinstance(op, OpDef):
        return False
    return op.pure and op.lowering() != "host"


def _is_weight(v: Value) -> bool:
    """Whether a value is the right operand of a matrix product."""
    return any(isinstance(u, ops.Matmul) and u.operands[1] is v for u in v.users)


def is_invariant(v: Value, op: Op) -> bool:
    """Whether a value stays the same while the innermost loop runs that an operation is in."""
    block = op.parent
    inside = set()
    while block is not None and isinstance(block.owner, Op):
        inside.add(block)
        if isinstance(block.owner, LOOPS):
            home = v.owner.parent if isinstance(v.owner, Op) else v.owner
            return home not in inside
        block = block.owner.parent
    return False
