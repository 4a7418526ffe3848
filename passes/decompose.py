"""Expands operators that have no kernel of their own into the operators that they are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from pjit.ir.builder import Builder
from pjit.ir.core import Module, Op
from pjit.passes.context import Context, Pass
from pjit.passes.rewrite import rewrite


@dataclass(frozen=True)
class Decompose(Pass):
    """Replaces each operation that has a ``decompose`` by what it gives, until none is left.

    Attributes:
        skip: Names of operators that stay.
    """

    name: ClassVar[str] = "decompose"
    requires: ClassVar[tuple[str, ...]] = ("graph",)
    skip: tuple[str, ...] = ()

    def run(self, module: Module, context: Context) -> bool:
        """Expands; what is built has the location of the operation."""
        return rewrite(module, self._expand, "decomposition")

    def _expand(self, op: Op, b: Builder) -> Any:
        if op.op_name in self.skip or not hasattr(op, "decompose"):
            return None
        return op.decompose(b, *op.operands, **op.attrs)
