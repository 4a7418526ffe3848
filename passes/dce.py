"""Dead code: operations whose results nobody uses, and constants that nobody names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pjit.ir.core import Block, Module, Op
from pjit.passes.context import Context, Pass
from pjit.passes.rewrite import prune_constants, removable


@dataclass(frozen=True)
class Dce(Pass):
    """Removes operations without effects and users, and unused constants of the module."""

    name: ClassVar[str] = "dce"
    requires: ClassVar[tuple[str, ...]] = ("graph", "fused")

    def run(self, module: Module, context: Context) -> bool:
        """Walks each block backwards, so that one walk finds all."""
        changed = False
        for f in module.functions.values():
            if f.level in self.requires:
                changed |= _clean(f.body)
        return prune_constants(module) or changed


def _clean(block: Block) -> bool:
    kept: list[Op] = []
    changed = False
    for op in reversed(block.ops):
        if not any(r.uses for r in op.results) and removable(op):
            for inner in op.walk():
                inner.operands = ()
            op.parent = None
            changed = True
            continue
        for region in op.regions:
            changed |= _clean(region)
        kept.append(op)
    block.ops = kept[::-1]
    return changed
