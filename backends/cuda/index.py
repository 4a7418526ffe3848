"""Index expressions as Python text for numba, in 64-bit integers."""

from __future__ import annotations

import keyword
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from pjit.ir import expr
from pjit.ir.expr import Call, Dim, Expr, Sym

_NARROW = 1 << 31  # quotients of what is below this are computed in 32 bits


class Lines:
    """Lines of Python under construction, with the quotients that are at hand in each scope."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.depth = 1
        self.scopes: list[dict[Call, str]] = [{}]

    def add(self, line: str) -> None:
        """Appends a line at the current indentation."""
        self.lines.append("    " * self.depth + line)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """A compound statement around what is added meanwhile."""
        self.add(head)
        self.depth += 1
        self.scopes.append({})
        yield
        self.scopes.pop()
        self.depth -= 1


class Names:
    """Fresh Python identifiers."""

    def __init__(self, taken: Iterable[str]) -> None:
        self.used = set(taken)
        self.counts: dict[str, int] = {}

    def fresh(self, wanted: str) -> str:
        """The wanted name made an identifier that is not used yet."""
        base = "".join(ch if ch.isalnum() else "_" for ch in wanted) or "n"
        if not base.isascii() or not base.isidentifier() or keyword.iskeyword(base):
            base = "n_" + "".join(ch for ch in base if ch.isascii())
        name, n = base, 1
        while name in self.used:
            name, n = f"{base}_{n}", n + 1
        self.used.add(name)
        return name

    def next(self, prefix: str) -> str:
        """The prefix with the next number that makes it unused."""
        while True:
            n = self.counts[prefix] = self.counts.get(prefix, -1) + 1
            if f"{prefix}{n}" not in self.used:
                self.used.add(f"{prefix}{n}")
                return f"{prefix}{n}"


def never(e: Dim, bound: Dim) -> bool:
    """Whether ``0 <= e < bound`` can be ruled out."""
    return expr.at_least(-1 - e, 0) or expr.at_least(e - bound, 0)


class Indexing:
    """The text of expressions; quotients and remainders become variables of their own.

    Args:
        out: Where those go.
        names: Makes their names.
        used: Called with the name of each device function that a text needs.
    """

    def __init__(self, out: Lines, names: Names, used: Callable[[str], None]) -> None:
        self.out, self.names, self.used = out, names, used
        self.variables: dict[str, str] = {}  # symbol -> Python name

    def next(self, prefix: str, extent: Dim) -> tuple[str, Expr]:
        """A new variable below an extent: its Python name, and the symbol that stands for it."""
        name = self.names.next(prefix)
        self.variables["%" + name] = name
        return name, expr.sym("%" + name, 0, extent)

    def text(self, e: Dim) -> str:
        """An expression, in parentheses unless it is a name or a number."""
        plain = self.sum(e)
        return plain if plain.isidentifier() or plain.isdigit() else f"({plain})"

    def sum(self, e: Dim) -> str:
        """An expression as a sum of products."""
        if isinstance(e, int):
            return str(e)
        out = ""
        for monomial, c in e.terms:
            factors = [self._atom(a) for a in monomial]
            if abs(c) != 1 or not factors:
                factors.insert(0, str(abs(c)))
            sign = "-" if c < 0 else ""
            out += (f" {sign or '+'} " if out else sign) + " * ".join(factors)
        return out

    def condition(self, pairs: Iterable[tuple[Dim, Dim]]) -> str:
        """Whether ``0 <= e < bound`` for all pairs, less what can be proven; empty when all is."""
        parts = []
        for e, bound in pairs:
            low, high = expr.at_least(e, 0), expr.at_least(bound - e, 1)
            if low and high:
                continue
            text = self.sum(e)
            left = "" if low else "0 <= "
            parts.append(f"{left}{text}" + ("" if high else f" < {self.sum(bound)}"))
        return " and ".join(dict.fromkeys(parts))

    def _atom(self, a: Sym | Call) -> str:
        if isinstance(a, Sym):
            return self.variables[a.name]
        if a.op in ("min", "max"):
            return f"{a.op}({self.sum(a.lhs)}, {self.sum(a.rhs)})"
        for scope in self.out.scopes:
            if a in scope:
                return scope[a]
        value = self._divided(a)
        name = self.names.next("q" if a.op == "//" else "r")
        self.out.add(f"{name} = {value}")
        self.out.scopes[-1][a] = name
        return name

    def _divided(self, a: Call) -> str:
        d = a.rhs
        if isinstance(d, int) and d & (d - 1) == 0:
            x = self.text(a.lhs)
            return f"{x} >> {d.bit_length() - 1}" if a.op == "//" else f"{x} & {d - 1}"
        if not expr.at_least(a.lhs, 0):
            return f"{self.text(a.lhs)} {a.op} {self.text(d)}"
        bounds = [expr.upper_bound(a.lhs), expr.upper_bound(d)]
        narrow = all(h is not None and h < _NARROW for h in bounds)
        function = ("udiv" if a.op == "//" else "urem") + ("32" if narrow else "")
        self.used(function)
        return f"{function}({self.sum(a.lhs)}, {self.sum(d)})"
