"""Symbolic integers: dimensions of tensors and indices of kernels.

An expression is a polynomial with integer coefficients over atoms. An atom is a symbol, or the
floor division, remainder, minimum or maximum of two expressions. Arithmetic keeps the normal
form, so equal polynomials compare equal, and a constant is a plain ``int``. Division follows
Python: it rounds down, and the remainder has the sign of the divisor. Divisors are positive.

A symbol knows its range: a dimension is at least 1, a loop variable lies in ``[0, extent)``.
Simplifications that need a range (``(i*W + j) // W == i``) use it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import gcd
from typing import Union

Dim = Union[int, "Expr"]
Monomial = tuple["Atom", ...]  # sorted; empty for the constant term


@dataclass(frozen=True)
class Sym:
    """A named integer in ``[low, low + extent)``; ``extent`` None means unbounded above."""

    name: str
    low: int = 1
    extent: Dim | None = None

    @cached_property
    def key(self) -> str:
        """Orders atoms and identifies them."""
        return self.name

    def __str__(self) -> str:
        return self.name

    @cached_property
    def _hash(self) -> int:
        return hash((self.name, self.low, self.extent))

    def __hash__(self) -> int:
        return self._hash


@dataclass(frozen=True)
class Call:
    """A non-polynomial operation on two expressions: one of ``//``, ``%``, ``min``, ``max``."""

    op: str
    lhs: Dim
    rhs: Dim

    @cached_property
    def key(self) -> str:
        """Orders atoms and identifies them."""
        return str(self)

    @cached_property
    def _hash(self) -> int:
        return hash((self.op, self.lhs, self.rhs))

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        if self.op in ("min", "max"):
            return f"{self.op}({self.lhs}, {self.rhs})"
        return f"{_paren(self.lhs)}{self.op}{_paren(self.rhs)}"


Atom = Sym | Call


def _paren(x: Dim) -> str:
    text = str(x)
    return text if re.fullmatch(r"[\w#.%]+|(min|max)\([^()]*\)", text) else f"({text})"


class Expr:
    """A polynomial that is not a constant. Make one with ``sym`` and arithmetic."""

    __slots__ = ("_hash", "_symbols", "_text", "terms")

    def __init__(self, terms: tuple[tuple[Monomial, int], ...]) -> None:
        self.terms = terms
        self._hash = hash(terms)
        self._text: str | None = None
        self._symbols: frozenset[str] | None = None

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Expr) and self._hash == other._hash and self.terms == other.terms
        )

    def __add__(self, other: Dim) -> Dim:
        return _add(self, other)

    def __mul__(self, other: Dim) -> Dim:
        return _mul(self, other)

    def __sub__(self, other: Dim) -> Dim:
        return _add(self, _mul(other, -1))

    def __rsub__(self, other: Dim) -> Dim:
        return _add(other, _mul(self, -1))

    def __neg__(self) -> Dim:
        return _mul(self, -1)

    def __floordiv__(self, other: Dim) -> Dim:
        return floordiv(self, other)

    def __rfloordiv__(self, other: Dim) -> Dim:
        return floordiv(other, self)

    def __mod__(self, other: Dim) -> Dim:
        return mod(self, other)

    def __rmod__(self, other: Dim) -> Dim:
        return mod(other, self)

    __radd__ = __add__
    __rmul__ = __mul__

    def __bool__(self) -> bool:
        raise TypeError(f"the truth of the symbolic dimension {self} is not known")

    def __str__(self) -> str:
        if self._text is None:
            out = ""
            for monomial, c in self.terms:
                alone = len(self.terms) == len(monomial) == c == 1
                body = "*".join(str(a) if alone else _factor(a) for a in monomial)
                if not monomial:
                    piece = str(abs(c))
                elif abs(c) == 1:
                    piece = body
                else:
                    piece = f"{abs(c)}*{body}"
                sign = "-" if c < 0 else ""
                out += (f" {'-' if c < 0 else '+'} " if out else sign) + piece
            self._text = out
        return self._text

    __repr__ = __str__


def _factor(a: Atom) -> str:
    return f"({a})" if isinstance(a, Call) and a.op in ("//", "%") else str(a)


def _terms(x: Dim) -> dict[Monomial, int]:
    if isinstance(x, Expr):
        return dict(x.terms)
    return {(): int(x)} if x else {}


def _make(terms: dict[Monomial, int]) -> Dim:
    kept = {m: c for m, c in terms.items() if c}
    if any(isinstance(a, Call) for m in kept for a in m):
        kept = _recombine(kept)
    if not kept:
        return 0
    if len(kept) == 1 and () in kept:
        return kept[()]
    order = sorted(kept.items(), key=lambda t: (not t[0], [a.key for a in t[0]]))
    return Expr(tuple(order))


def _recombine(terms: dict[Monomial, int]) -> dict[Monomial, int]:
    """Applies ``c*s*(x//s) + c*(x%s) = c*x``."""
    for monomial, c in list(terms.items()):
        for at, a in enumerate(monomial):
            if not (isinstance(a, Call) and a.op == "%"):
                continue
            rest = monomial[:at] + monomial[at + 1 :]
            whole = _mul(_mul(floordiv(a.lhs, a.rhs), a.rhs), c)
            for other in rest:
                whole = _mul(whole, atom(other))
            wanted = _terms(whole)
            if all(terms.get(m) == k for m, k in wanted.items()):
                left = dict(terms)
                del left[monomial]
                for m in wanted:
                    del left[m]
                value = _mul(a.lhs, c)
                for other in rest:
                    value = _mul(value, atom(other))
                return _terms(_add(_make(left), value))
    return terms


def atom(a: Atom) -> Expr:
    """The expression that is one atom."""
    return Expr((((a,), 1),))


def sym(name: str, low: int = 1, extent: Dim | None = None) -> Expr:
    """A symbol: a dimension by default; a loop variable with ``low=0`` and its extent."""
    return atom(Sym(name, low, extent))


@lru_cache(maxsize=1 << 16)
def _add(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    if isinstance(b, int) and b == 0:
        return a
    if isinstance(a, int) and a == 0:
        return b
    terms = _terms(a)
    for m, c in _terms(b).items():
        terms[m] = terms.get(m, 0) + c
    return _make(terms)


@lru_cache(maxsize=1 << 16)
def _mul(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    if (isinstance(a, int) and a == 0) or (isinstance(b, int) and b == 0):
        return 0
    if isinstance(b, int) and b == 1:
        return a
    if isinstance(a, int) and a == 1:
        return b
    terms: dict[Monomial, int] = {}
    for m, c in _terms(a).items():
        for n, d in _terms(b).items():
            key = tuple(sorted(m + n, key=lambda x: x.key))
            terms[key] = terms.get(key, 0) + c * d
    return _make(terms)


def _divide_exactly(m: Monomial, c: int, d: Dim) -> Dim | None:
    """The term ``c*m`` divided by ``d`` when ``d`` is one term that divides it."""
    if isinstance(d, int):
        return _make({m: c // d}) if c % d == 0 else None
    if len(d.terms) != 1:
        return None
    (dm, dc), rest = d.terms[0], list(m)
    for a in dm:
        if a not in rest:
            return None
        rest.remove(a)
    return _make({tuple(rest): c // dc}) if c % dc == 0 else None


def _split(x: Dim, d: Dim) -> tuple[Dim, Dim]:
    """``x = q*d + r`` with every term that ``d`` divides moved into ``q``."""
    quotient: Dim = 0
    rest: dict[Monomial, int] = {}
    for m, c in _terms(x).items():
        q = _divide_exactly(m, c, d)
        if q is not None:
            quotient = _add(quotient, q)
        elif isinstance(d, int) and not m:
            quotient = _add(quotient, c // d)
            rest[m] = c % d
        else:
            rest[m] = c
    return quotient, _make(rest)


@lru_cache(maxsize=1 << 16)
def floordiv(a: Dim, b: Dim) -> Dim:
    """``a // b`` for a positive ``b``."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    if isinstance(b, int) and b == 1:
        return a
    if isinstance(b, Expr) and a == b:
        return 1
    q, r = _split(a, b)
    coarse = _coarsened(r, b)
    if coarse is not None:  # (g*x + k)//(g*y) == x//y for 0 <= k < g
        g, x, _ = coarse
        assert isinstance(b, int)
        return q + floordiv(x, b // g)
    if within(r, 0, b):
        return q
    nested = _nested(r)
    if nested is not None:  # (y + x//a)//b == (a*y + x)//(a*b)
        inner, y = nested
        return q + floordiv(_add(_mul(y, inner.rhs), inner.lhs), _mul(inner.rhs, b))
    if r == 0:
        return q
    return q + atom(Call("//", r, b))


@lru_cache(maxsize=1 << 16)
def mod(a: Dim, b: Dim) -> Dim:
    """``a % b`` for a positive ``b``."""
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    if isinstance(b, int) and b == 1:
        return 0
    if isinstance(b, Expr) and a == b:
        return 0
    _, r = _split(a, b)
    if isinstance(r, int) and isinstance(b, int):
        return r % b
    if within(r, 0, b):
        return r
    coarse = _coarsened(r, b)
    if coarse is not None:  # (g*x + k) % (g*y) == g*(x % y) + k for 0 <= k < g
        g, x, k = coarse
        assert isinstance(b, int)
        return mod(x, b // g) * g + k
    return atom(Call("%", r, b))


def _nested(r: Dim) -> tuple[Call, Dim] | None:
    """``(x//a, y)`` where ``r = y + x//a`` and there is no other quotient in the sum."""
    if not isinstance(r, Expr):
        return None
    found = [m for m, c in r.terms if c == 1 and len(m) == 1 and _is_quotient(m[0])]
    if len(found) != 1 or any(isinstance(a, Call) for m, _ in r.terms if m != found[0] for a in m):
        return None
    return found[0][0], _make({m: c for m, c in r.terms if m != found[0]})  # type: ignore[return-value]


def _is_quotient(a: Atom) -> bool:
    return isinstance(a, Call) and a.op == "//"


def _coarsened(r: Dim, b: Dim) -> tuple[int, Dim, Dim] | None:
    """``(g, x, k)``: ``r = g*x + k`` and ``0 <= k < g`` for a common factor g of b and of terms."""
    if not isinstance(r, Expr) or not isinstance(b, int):
        return None
    factors = {gcd(b, c) for m, c in r.terms if m}
    for g in sorted((f for f in factors if f > 1), reverse=True):
        terms = dict(r.terms)
        constant = terms.pop((), 0)
        k = _make({m: c for m, c in terms.items() if c % g}) + constant % g
        if within(k, 0, g):
            x = _make({m: c // g for m, c in terms.items() if c % g == 0}) + constant // g
            return g, x, k
    return None


def minimum(a: Dim, b: Dim) -> Dim:
    """The smaller of two expressions."""
    if at_least(b - a, 0):
        return a
    if at_least(a - b, 0):
        return b
    return atom(Call("min", *sorted((a, b), key=str)))


def maximum(a: Dim, b: Dim) -> Dim:
    """The larger of two expressions."""
    if at_least(a - b, 0):
        return a
    if at_least(b - a, 0):
        return b
    return atom(Call("max", *sorted((a, b), key=str)))


def flatten(index: Sequence[Dim], shape: Sequence[Dim]) -> Dim:
    """The row-major position of an index in a shape."""
    position: Dim = 0
    for i, d in zip(index, shape, strict=True):
        position = position * d + i
    return position


def unflatten(position: Dim, shape: Sequence[Dim]) -> tuple[Dim, ...]:
    """The index at a row-major position, which must lie inside the shape."""
    if 0 in shape and len(shape) > 1:
        return (0,) * len(shape)
    index: list[Dim] = []
    outermost = True
    for at, d in enumerate(shape):
        stride = product(shape[at + 1 :])
        quotient = floordiv(position, stride)
        index.append(0 if d == 1 else quotient if outermost else mod(quotient, d))
        outermost = outermost and d == 1
    return tuple(index)


def ceildiv(a: Dim, b: Dim) -> Dim:
    """``a / b`` rounded up."""
    return floordiv(a + b - 1, b)


def product(dims: Iterable[Dim]) -> Dim:
    """The product of dimensions; 1 for none."""
    total: Dim = 1
    for d in dims:
        total = total * d
    return total


def at_least(x: Dim, low: int) -> bool:
    """Whether ``x >= low`` can be proven from the ranges of the symbols."""
    bound = lower_bound(x)
    return bound is not None and bound >= low


def within(x: Dim, low: int, high: Dim) -> bool:
    """Whether ``low <= x < high`` can be proven."""
    if not at_least(x - low, 0):
        return False
    if isinstance(x, Expr) and len(x.terms) == 1 and x.terms[0][1] == len(x.terms[0][0]) == 1:
        a = x.terms[0][0][0]
        if isinstance(a, Call) and a.op == "//":  # a//b < high when a < high*b
            return at_least(high * a.rhs - a.lhs, 1)
    return at_least(high - x, 1)


@lru_cache(maxsize=1 << 16)
def lower_bound(x: Dim) -> int | None:
    """A provable lower bound of an expression, or None."""
    if isinstance(x, int):
        return x
    ranged = [a for m, _ in x.terms for a in m if isinstance(a, Sym) and a.extent is not None]
    for a in ranged:  # a loop variable occurs linearly: take the end that makes the term small
        coefficient = _coefficient(x, a)
        if coefficient is None:
            continue
        assert a.extent is not None
        if at_least(coefficient, 0):
            return lower_bound(substitute(x, {a.name: a.low}))
        if at_least(-coefficient, 0):
            return lower_bound(substitute(x, {a.name: a.low + a.extent - 1}))
    total = 0
    for m, c in x.terms:
        if not m:
            total += c
            continue
        low, high = 1, 1
        for factor in m:
            lo, hi = _atom_range(factor)
            if lo is None or lo < 0 or (c < 0 and hi is None):
                return None
            low, high = low * lo, high * (hi or 0)
        total += c * (low if c > 0 else high)
    return total


def constant_term(x: Dim) -> int:
    """What an expression is when all its terms with symbols are 0."""
    return x if isinstance(x, int) else dict(x.terms).get((), 0)


def _coefficient(x: Expr, a: Sym) -> Dim | None:
    """The factor of ``a`` in ``x`` when ``a`` occurs linearly and in no other atom."""
    total: Dim = 0
    for m, c in x.terms:
        count = m.count(a)
        if count > 1 or any(isinstance(b, Call) and a.name in _call_symbols(b) for b in m):
            return None
        if count:
            rest = list(m)
            rest.remove(a)
            total = total + _make({tuple(rest): c})
    return total


def _call_symbols(c: Call) -> frozenset[str]:
    return symbols(c.lhs) | symbols(c.rhs)


def _atom_range(a: Atom) -> tuple[int | None, int | None]:
    if isinstance(a, Sym):
        extent = a.extent
        return a.low, a.low + extent - 1 if isinstance(extent, int) else None
    lo, lo2 = lower_bound(a.lhs), lower_bound(a.rhs)
    hi, hi2 = upper_bound(a.lhs), upper_bound(a.rhs)
    if a.op == "%":
        return 0, None if hi2 is None else hi2 - 1
    if a.op == "//":
        low = None if lo is None else (0 if lo >= 0 else lo)
        if lo is not None and isinstance(a.rhs, int):
            low = lo // a.rhs
        return low, None if hi is None or lo2 is None or lo2 < 1 else max(
            hi // lo2, hi // (hi2 or lo2)
        )
    if a.op == "min":
        known = [h for h in (hi, hi2) if h is not None]
        return None if lo is None or lo2 is None else min(lo, lo2), min(known) if known else None
    known = [v for v in (lo, lo2) if v is not None]
    return max(known) if known else None, None if hi is None or hi2 is None else max(hi, hi2)


def upper_bound(x: Dim) -> int | None:
    """A provable upper bound of an expression, or None."""
    low = lower_bound(-x)
    return None if low is None else -low


def symbols(x: Dim) -> frozenset[str]:
    """The names of all symbols in an expression."""
    if isinstance(x, int):
        return _NO_SYMBOLS
    if x._symbols is None:
        names: set[str] = set()
        for m, _ in x.terms:
            for a in m:
                if isinstance(a, Sym):
                    names.add(a.name)
                else:
                    names |= _call_symbols(a)
        x._symbols = frozenset(names)
    return x._symbols


_NO_SYMBOLS: frozenset[str] = frozenset()


_APPLY: dict[str, Callable[[Dim, Dim], Dim]] = {
    "//": floordiv,
    "%": mod,
    "min": minimum,
    "max": maximum,
}


def substitute(x: Dim, values: Mapping[str, Dim]) -> Dim:
    """Replaces symbols by expressions; an ``int`` results when all are known."""
    if isinstance(x, int) or symbols(x).isdisjoint(values):
        return x
    total: Dim = 0  # sums and products are cached, so this is faster than to collect the terms
    for m, c in x.terms:
        term: Dim = c
        for a in m:
            if isinstance(a, Sym):
                term = term * values.get(a.name, atom(a))
            elif _call_symbols(a).isdisjoint(values):
                term = term * atom(a)
            else:
                left, right = substitute(a.lhs, values), substitute(a.rhs, values)
                term = term * _APPLY[a.op](left, right)
        total = total + term
    return total


def linear(x: Dim, name: str) -> tuple[Dim, Dim] | None:
    """``(c, r)`` with ``x = c*name + r`` and ``name`` in neither, or None when not linear."""
    if name not in symbols(x):
        return 0, x
    assert isinstance(x, Expr)
    atom = next((a for m, _ in x.terms for a in m if isinstance(a, Sym) and a.name == name), None)
    c = None if atom is None else _coefficient(x, atom)
    return None if c is None else (c, substitute(x, {name: 0}))


def same(a: Dim, b: Dim) -> bool | None:
    """True or False when provable, None when it depends on the symbols."""
    if a == b:
        return True
    d = a - b
    if isinstance(d, int) or at_least(d, 1) or at_least(-d, 1):
        return False
    return None


_TOKEN = re.compile(r"\s*(//|[%*+\-(),]|[#%]?[A-Za-z_?][\w.?]*|#\d+|\d+)")


def parse(text: str, make: Callable[[str], Dim] = sym) -> Dim:
    """Parses the printed form; ``make`` turns a name into a symbol.

    Raises:
        ValueError: The text is not an expression.
    """
    tokens, at = [], 0
    while at < len(text.rstrip()):
        match = _TOKEN.match(text, at)
        if not match:
            raise ValueError(f"not an expression: {text!r}")
        tokens.append(match[1])
        at = match.end()
    tokens.append("")
    pos = 0

    def take(expected: str | None = None) -> str:
        nonlocal pos
        token = tokens[pos]
        if expected is not None and token != expected:
            raise ValueError(f"expected {expected!r} in {text!r}, got {token!r}")
        pos += 1
        return token

    def primary() -> Dim:
        token = take()
        if token == "(":
            value = total()
            take(")")
            return value
        if token == "-":
            return -primary()
        if token.isdigit():
            return int(token)
        if token in ("min", "max") and tokens[pos] == "(":
            take("(")
            left = total()
            take(",")
            right = total()
            take(")")
            return _APPLY[token](left, right)
        if not token or token in ")+*,%//":
            raise ValueError(f"not an expression: {text!r}")
        return make(token)

    def factor() -> Dim:
        value = primary()
        while tokens[pos] in ("*", "//", "%"):
            op = take()
            right = primary()
            value = value * right if op == "*" else _APPLY[op](value, right)
        return value

    def total() -> Dim:
        value = factor()
        while tokens[pos] in ("+", "-"):
            value = value + factor() if take() == "+" else value - factor()
        return value

    result = total()
    take("")
    return result
