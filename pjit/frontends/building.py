"""What the front ends share to build IR."""

from __future__ import annotations

from typing import Any

from pjit.ir.builder import Builder
from pjit.ir.core import Value
from pjit.ir.types import i64


class Math:
    """Builds elementwise operations by name; numbers become constants of the dtype of ``like``."""

    def __init__(self, b: Builder, like: Value) -> None:
        self.b, self.dtype = b, like.dtype

    def __getattr__(self, name: str) -> Any:
        return lambda *xs: self.b(name, *(self.value(x) for x in xs))

    def value(self, x: Value | float) -> Value:
        """A value, or a number as a constant."""
        return x if isinstance(x, Value) else self.b.constant(x, self.dtype)

    def not_(self, x: Value) -> Value:
        """Logical or bitwise not."""
        return self.b("not", x)

    def clamp(self, x: Value, low: Value | float | None, high: Value | float | None) -> Value:
        """``x`` limited to [low, high]; the upper limit wins when they cross."""
        if low is not None:
            x = self.b("max", x, self.value(low))
        return x if high is None else self.b("min", x, self.value(high))


def diagonal(b: Builder, shape: tuple, k: Value, relation: str) -> Value:
    """Where ``column - row`` relates to ``k``, as a matrix of bool."""
    row = b("reshape", b("iota", size=shape[-2], dtype=i64), shape=(shape[-2], 1))
    column = b("reshape", b("iota", size=shape[-1], dtype=i64), shape=(1, shape[-1]))
    return b(relation, b("sub", column, row), b("reshape", k, shape=(1, 1)))
