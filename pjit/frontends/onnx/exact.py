"""Exact arithmetic on shape values: integers with symbols, and quotients of them for float chains.

Exporters compute shapes with ordinary nodes: ``Shape -> Gather -> Cast -> Mul -> Floor -> Cast``.
The numbers in such a chain are ``Dim``s (ints and symbolic integers) and ``Ratio``s (floats:
quotients of ``Dim``s). An operation whose outcome depends on the symbols raises ``Unknown``; the
chain is then computed at run time instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import gcd, isfinite
from typing import TypeAlias

import numpy as np

from pjit.ir import expr
from pjit.ir.expr import Call, Dim, Expr

SIMPLE_DENOMINATOR = 1000


class Unknown(Exception):
    """The outcome depends on the symbols or on data."""


def exact_divide(a: Dim, b: Dim) -> Dim | None:
    """``a / b`` when it provably leaves no remainder."""
    if a == b:
        return 1
    if isinstance(b, int) and b < 0:
        a, b = -a, -b
    if isinstance(b, int) and b == 0:
        return None
    return expr.floordiv(a, b) if expr.mod(a, b) == 0 else None


@dataclass(frozen=True)
class Ratio:
    """A quotient of symbolic integers; the denominator is positive. Make one with ``ratio``."""

    num: Dim
    den: Dim = 1

    @property
    def is_constant(self) -> bool:
        """Whether no symbol occurs."""
        return isinstance(self.num, int) and isinstance(self.den, int)

    def __add__(self, other: Ratio) -> Ratio:
        if self.den == other.den:
            return ratio(self.num + other.num, self.den)
        return ratio(self.num * other.den + other.num * self.den, self.den * other.den)

    def __neg__(self) -> Ratio:
        return Ratio(-self.num, self.den)

    def __sub__(self, other: Ratio) -> Ratio:
        return self + -other

    def __mul__(self, other: Ratio) -> Ratio:
        left, right = ratio(self.num, other.den), ratio(other.num, self.den)
        return ratio(left.num * right.num, left.den * right.den)

    def __truediv__(self, other: Ratio) -> Ratio:
        if expr.at_least(other.num, 1):
            return self * Ratio(other.den, other.num)
        if expr.at_least(-other.num, 1):
            return self * Ratio(-other.den, -other.num)
        raise Unknown

    def floor(self) -> Dim:
        """The largest integer that is not above it."""
        return expr.floordiv(self.num, self.den)

    def ceil(self) -> Dim:
        """The smallest integer that is not below it."""
        return expr.ceildiv(self.num, self.den)

    def truncate(self) -> Dim:
        """The integer part."""
        if self.den == 1:
            return self.num
        if expr.at_least(self.num, 0):
            return self.floor()
        if expr.at_least(-self.num, 0):
            return self.ceil()
        raise Unknown

    def __float__(self) -> float:
        if not (isinstance(self.num, int) and isinstance(self.den, int)):
            raise Unknown
        return float(Fraction(self.num, self.den))


def ratio(num: Dim, den: Dim = 1) -> Ratio:
    """``num / den`` in lowest terms as far as that can be told; ``den`` is positive."""
    if isinstance(num, int) and isinstance(den, int):
        g = gcd(num, den)
        return Ratio(num // g, den // g)
    whole = exact_divide(num, den)
    if whole is not None:
        return Ratio(whole)
    if isinstance(den, Expr) and (inverse := exact_divide(den, num)) is not None:
        if expr.at_least(inverse, 1):
            return Ratio(1, inverse)
    if isinstance(den, int) and isinstance(num, Expr):
        g = gcd(den, *(c for _, c in num.terms))
        if g > 1:
            return Ratio(expr.floordiv(num, g), den // g)
    return Ratio(num, den)


def from_float(x: float | np.floating) -> Ratio:
    """The simple fraction that rounds to ``x`` in its own precision, or else ``x`` itself.

    A scale of 0.7 is meant as 7/10, so that ``floor(10 * 0.7)`` is 7; its nearest float is a
    little less.
    """
    if not isfinite(x):
        raise Unknown
    value = Fraction(float(x))
    simple = value.limit_denominator(SIMPLE_DENOMINATOR)
    if type(x)(float(simple)) == x:
        value = simple
    return Ratio(value.numerator, value.denominator)


Number: TypeAlias = Dim | Ratio | bool


def divide_ints(a: Dim, b: Dim) -> Dim:
    """``a / b`` rounded towards zero."""
    if isinstance(a, int) and isinstance(b, int):
        if b == 0:
            raise Unknown
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    if not expr.at_least(b, 1):
        raise Unknown
    whole = exact_divide(a, b)
    if whole is not None:
        return whole
    if expr.at_least(a, 0):
        return expr.floordiv(a, b)
    if expr.at_least(-a, 0):
        return -expr.floordiv(-a, b)
    raise Unknown


def divide(a: Number, b: Number) -> Number:
    """Division as ONNX has it: exact for floats, towards zero for integers."""
    if isinstance(a, Ratio) and isinstance(b, Ratio):
        return a / b
    assert not isinstance(a, Ratio)
    assert not isinstance(b, Ratio)
    return divide_ints(a, b)


def remainder(a: Number, b: Number) -> Number:
    """``a % b`` with the sign of the divisor; integers only."""
    if isinstance(a, Ratio) or isinstance(b, Ratio) or not expr.at_least(b, 1):
        raise Unknown
    return expr.mod(a, b)


def truncated_remainder(a: Number, b: Number) -> Number:
    """``a % b`` with the sign of the dividend; integers only."""
    if isinstance(a, Ratio) or not expr.at_least(a, 0):
        raise Unknown
    return remainder(a, b)


def _difference(a: Number, b: Number) -> Dim:
    if isinstance(a, Ratio) and isinstance(b, Ratio):
        return a.num * b.den - b.num * a.den
    return a - b  # type: ignore[operator,return-value]


def equal(a: Number, b: Number) -> bool:
    """``a == b``; raises Unknown when it depends on the symbols."""
    if isinstance(a, bool) and isinstance(b, bool):
        return a == b
    d = _difference(a, b)
    if isinstance(d, int):
        return d == 0
    if not_negative(d - 1) or not_negative(-d - 1):
        return False
    raise Unknown


def less(a: Number, b: Number) -> bool:
    """``a < b``; raises Unknown when it depends on the symbols."""
    d = _difference(b, a)
    if not_negative(d - 1):
        return True
    if not_negative(-d):
        return False
    raise Unknown


def not_negative(x: Dim) -> bool:
    """Whether ``x >= 0`` can be proven; knows that ``e//d <= e/d``."""
    if expr.at_least(x, 0):
        return True
    if isinstance(x, int):
        return False
    for monomial, c in x.terms:
        atom = monomial[0] if len(monomial) == 1 else None
        if c < 0 and isinstance(atom, Call) and atom.op == "//":
            quotient = expr.floordiv(atom.lhs, atom.rhs)
            return not_negative((x - quotient * c) * atom.rhs + atom.lhs * c)
    return False


def least(a: Dim, b: Dim) -> Dim:
    """The smaller size."""
    if not_negative(b - a):
        return a
    return b if not_negative(a - b) else expr.minimum(a, b)


def greatest(a: Dim, b: Dim) -> Dim:
    """The larger size."""
    if not_negative(a - b):
        return a
    return b if not_negative(b - a) else expr.maximum(a, b)


def minimum(a: Number, b: Number) -> Number:
    """The smaller number."""
    if isinstance(a, Ratio) or isinstance(b, Ratio):
        return a if less(a, b) else b
    return least(a, b)


def maximum(a: Number, b: Number) -> Number:
    """The larger number."""
    if isinstance(a, Ratio) or isinstance(b, Ratio):
        return b if less(a, b) else a
    return greatest(a, b)


def power(a: Number, b: Number) -> Number:
    """``a ** b`` for a small non-negative constant integer ``b``."""
    n = b.num if isinstance(b, Ratio) and b.den == 1 else b
    if not isinstance(n, int) or not 0 <= n <= 8:
        raise Unknown
    out: Number = Ratio(1) if isinstance(a, Ratio) else 1
    for _ in range(n):
        out = out * a  # type: ignore[operator]
    return out


def absolute(a: Number) -> Number:
    """``|a|``; raises Unknown when the sign depends on the symbols."""
    low = a.num if isinstance(a, Ratio) else a
    if expr.at_least(low, 0):
        return a
    if expr.at_least(-low, 0):
        return -a
    raise Unknown
