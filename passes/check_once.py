"""Indices that are used again in a loop are checked once, in front of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pjit.ir import ops
from pjit.ir.builder import Builder
from pjit.ir.core import Block, Module, Op, Value
from pjit.ir.expr import Dim
from pjit.ir.types import i64
from pjit.passes.bounds import bound_of, is_below
from pjit.passes.context import Context, Pass
from pjit.passes.hoist import LOOPS

# The position of the operand that holds the indices.
INDEXING: dict[type[Op], int] = {
    ops.Gather: 1,
    ops.GatherElements: 1,
    ops.GatherNd: 1,
    ops.ScatterElements: 1,
    ops.ScatterNd: 1,
}


def indexed_size(op: Op) -> Dim | None:
    """The size that an operation checks its indices against; None where there are several."""
    shape, indices = op.operands[0].shape, op.operands[INDEXING[type(op)]]
    if isinstance(op, ops.Gather | ops.GatherElements | ops.ScatterElements):
        return shape[op.attrs["axis"]]
    return shape[op.attrs.get("batch_dims", 0)] if indices.shape[-1] == 1 else None


@dataclass(frozen=True)
class CheckOnce(Pass):
    """Replaces indices by checked ones where a loop uses what was used in front of it.

    ``gather iota, indices`` is the indices, counted from the start and known to be in range
    (``passes.bounds``): who reads it need not check. It is put in front of the first use, which
    would fail just so, and the loop gets it too.
    """

    name: ClassVar[str] = "check_once"
    requires: ClassVar[tuple[str, ...]] = ("graph",)

    def run(self, module: Module, context: Context) -> bool:
        """Walks blocks from the outermost to the innermost."""
        return any([_Walk(module).block(f.body, {}, 0) for f in module.functions.values()])


class _Use:
    """The first use of indices on the way: in how many loops, and what they are once checked."""

    def __init__(self, op: Op, depth: int) -> None:
        self.op, self.depth = op, depth
        self.checked: Value | None = None

    def check(self, module: Module) -> Value:
        """The checked indices."""
        if self.checked is None:
            at = INDEXING[type(self.op)]
            b = Builder.before_op(self.op, module)
            iota = b(ops.Iota, size=indexed_size(self.op), dtype=i64)
            self.checked = b(ops.Gather, iota, self.op.operands[at], axis=0)
            self.op.set_operand(at, self.checked)
        return self.checked


class _Walk:
    """Walks blocks from the outermost to the innermost."""

    def __init__(self, module: Module) -> None:
        self.module = module

    def block(self, block: Block, outer: dict[tuple, _Use], depth: int) -> bool:
        """Walks a block in ``depth`` loops; returns whether anything changed."""
        known, changed = dict(outer), False
        for op in list(block.ops):
            for region in op.regions:
                changed |= self.block(region, known, depth + isinstance(op, LOOPS))
            if type(op) not in INDEXING:
                continue
            changed |= self.count(op)
            indices, size = op.operands[INDEXING[type(op)]], indexed_size(op)
            if size is None or is_below(bound_of(indices, self.module.constants), size):
                continue
            first = known.setdefault((indices, str(size)), _Use(op, depth))
            if first.depth < depth:
                op.set_operand(INDEXING[type(op)], first.check(self.module))
                changed = True
        return changed

    def count(self, op: Op) -> bool:
        """Makes a constant 0, 1, 2 .. that is gathered from a count: it takes no memory."""
        source = op.operands[0].op
        if not isinstance(op, ops.Gather) or not isinstance(source, ops.Const):
            return False
        values = self.module.constants[source.attrs["value"]]
        if values.ndim != 1 or values.dtype.kind not in "iu":
            return False
        if not np.array_equal(values, np.arange(len(values))):
            return False
        b = Builder.before_op(op, self.module)
        op.set_operand(0, b(ops.Iota, size=len(values), dtype=source.dtype))
        return True
