"""The base of every error that pjit raises, and the errors of the IR itself."""

from __future__ import annotations

from collections.abc import Sequence


class PjitError(Exception):
    """An error with a fixed form: what, where, expected and got, remedy.

    Args:
        what: One sentence that says what went wrong.
        where: The user's line or the node's name.
        expected: What would have been right.
        got: What was there instead.
        remedy: What the user can do.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        expected: object = None,
        got: object = None,
        remedy: str | None = None,
    ) -> None:
        self.what, self.where, self.remedy = what, where, remedy
        self.expected, self.got = expected, got
        super().__init__(self.message())

    def message(self) -> str:
        """The message, at most twelve lines."""
        rows = [("where", self.where), ("expected", self.expected)]
        rows += [("got", self.got), ("remedy", self.remedy)]
        lines = [self.what, *(f"  {k}: {v}" for k, v in rows if v is not None)]
        return "\n".join("\n".join(lines).splitlines()[:12])


class IRError(PjitError):
    """The IR is not well formed."""


class OpDefError(IRError):
    """An operator class is incomplete."""


class VerifyError(IRError):
    """An operation breaks a constraint of its operator or of its level."""


class ParseError(IRError):
    """IR text cannot be parsed."""


class PassError(IRError):
    """A pass failed or left the IR broken."""


class ConstraintError(PjitError):
    """Operand types or attributes break a constraint of an operator (raised by ``infer``)."""


def require(condition: bool, constraint: str, *, expected: object = None, got: object = None):
    """Raises ConstraintError naming the constraint unless the condition holds."""
    if not condition:
        raise ConstraintError(constraint, expected=expected, got=got)


def listing(names: Sequence[str], limit: int = 8) -> str:
    """The names joined with commas, shortened past the limit."""
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown}, ... ({len(names)} in all)"
