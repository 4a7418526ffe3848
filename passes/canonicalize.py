"""Canonicalization: one form for what has several, and nothing that does nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pjit.ir.core import Module
from pjit.passes import rules_arithmetic, rules_movement
from pjit.passes.context import Context, Pass
from pjit.passes.pattern import RuleTable

TABLE = RuleTable("canonicalize", (*rules_movement.RULES, *rules_arithmetic.RULES))


@dataclass(frozen=True)
class Canonicalize(Pass):
    """Applies the rules of ``rules_movement`` and ``rules_arithmetic`` until none applies."""

    name: ClassVar[str] = "canonicalize"
    requires: ClassVar[tuple[str, ...]] = ("graph",)

    def run(self, module: Module, context: Context) -> bool:
        """Rewrites to a fixpoint."""
        return TABLE.apply(module, context)
