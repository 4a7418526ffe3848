"""The errors that pjit raises, all ``PjitError``s: what, where, expected and got, remedy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pjit.ir.errors import (
    ConstraintError,
    IRError,
    OpDefError,
    ParseError,
    PassError,
    PjitError,
    VerifyError,
)

MESSAGE_LINES = 12


@dataclass(frozen=True)
class Problem:
    """One reason why a model cannot be converted.

    Attributes:
        node: The node, layer, input or file that it is about.
        operator: The operator of the node; empty when the problem is not about a node.
        reason: What is wrong.
        help: What would help; empty when nothing is known.
    """

    node: str
    operator: str
    reason: str
    help: str = ""

    def line(self, others: Sequence[str] = ()) -> str:
        """The problem as one line; ``others`` are nodes that have the same one."""
        where = " ".join(self.node.split())
        if others:
            where += f" and {len(others)} more"
        operator = f" ({self.operator})" if self.operator else ""
        remedy = f" [{self.help}]" if self.help else ""
        return " ".join(f"{where}{operator}: {self.reason}{remedy}".split())


class ModelError(PjitError):
    """A model file cannot be converted. It lists every problem that was found.

    Args:
        problems: All problems, in the order of the nodes; at least one.
        model: The file, when the model has one.
    """

    def __init__(self, problems: Sequence[Problem], model: str | None = None) -> None:
        self.problems = list(problems)
        self.model = model
        count = len(self.problems)
        subject = f"the model {model!r}" if model else "the model"
        plural = "s" if count > 1 else ""
        super().__init__(f"{subject} cannot be converted: {count} problem{plural}", where=model)

    def message(self) -> str:
        """The problems, one a line; nodes with the same problem share one; at most twelve lines."""
        groups: dict[tuple[str, str, str], list[Problem]] = {}
        for p in self.problems:
            groups.setdefault((p.operator, p.reason, p.help), []).append(p)
        lines = [same[0].line([p.node for p in same[1:]]) for same in groups.values()]
        room = MESSAGE_LINES - 1
        if len(lines) > room:
            shown = list(groups.values())[: room - 1]
            left = len(self.problems) - sum(map(len, shown))
            lines = [*lines[: room - 1], f"... and {left} more"]
        return "\n  ".join([self.what, *lines])

    def __reduce__(self):
        return ModelError, (self.problems, self.model)


class InputError(PjitError):
    """An input has the wrong name, type or shape."""


class TraceError(PjitError):
    """A Python function cannot be traced."""


class ExecutionError(PjitError):
    """A compiled program failed while it ran."""


class FormatError(PjitError):
    """A file has the wrong format or version."""


class CacheWarning(UserWarning):
    """The compile cache cannot be written, so programs are compiled again in each process."""


class FallbackWarning(UserWarning):
    """A part of a model or function is not compiled: what runs it is slower, but right."""


class SettingError(PjitError):
    """A setting has a value that it cannot have."""


__all__ = [
    "CacheWarning",
    "ConstraintError",
    "ExecutionError",
    "FallbackWarning",
    "FormatError",
    "IRError",
    "InputError",
    "ModelError",
    "OpDefError",
    "ParseError",
    "PassError",
    "PjitError",
    "Problem",
    "SettingError",
    "TraceError",
    "VerifyError",
]
