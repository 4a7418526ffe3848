"""What a pass may know beside the module: the machine, and where to report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pjit.ir.core import Loc, Module
from pjit.ir.target import Machine


class RuleEvent(NamedTuple):
    """A rule whose pattern matched; ``reason`` says why it was not applied, or is empty."""

    rule: str
    loc: Loc
    reason: str


@dataclass
class Context:
    """Given to every pass of a pipeline.

    Attributes:
        machine: The target.
        verify: Verify the module after each pass, and check what the pass says of its changes.
        dump: Folder for the IR after each pass that changed it, or None.
        log: Takes one line of progress.
        rule_events: Collects what became of each rule that matched, when it is a list.
    """

    machine: Machine = field(default_factory=lambda: Machine("generic"))
    verify: bool = False
    dump: Path | None = None
    log: Callable[[str], None] = lambda line: None
    rule_events: list[RuleEvent] | None = None


@dataclass(frozen=True)
class Pass:
    """A transformation of a module; the fields of a subclass are its options.

    Attributes:
        name: How pipelines and reports call it.
        requires: The levels that the main function may have before.
        ensures: The level that the main function has after; empty when it stays.
    """

    name: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ("graph",)
    ensures: ClassVar[str] = ""

    def run(self, module: Module, context: Context) -> bool:
        """Transforms the module in place and returns whether it changed.

        The module is valid before and has to be valid after.
        """
        raise NotImplementedError

    def options(self) -> dict[str, Any]:
        """The options that differ from their defaults."""
        default = type(self)()
        return {k: v for k, v in vars(self).items() if v != getattr(default, k)}

    def __str__(self) -> str:
        given = ",".join(f"{k}={_option_text(v)}" for k, v in self.options().items())
        return f"{self.name}{{{given}}}" if given else self.name


def _option_text(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, tuple) else str(value)
