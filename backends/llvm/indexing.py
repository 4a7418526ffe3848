"""Index expressions as LLVM integers of 64 bits, uniform or with one value per lane."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from llvmlite import ir

from pjit.backends.llvm.lanes import F64, I32, I64, constant, intrinsic, iota, lanes_of, splat
from pjit.ir import expr
from pjit.ir.expr import Call, Dim, Expr, Sym

_SMALL = 1 << 30  # bounds of quantities that are computed in 32 bits


@dataclass
class Lane:
    """The vector loop being emitted: ``n`` lanes; ``name`` is the symbol of its variable."""

    n: int = 1
    name: str | None = None
    aligned: bool = False  # whether the variable is a multiple of n in the first lane


@dataclass
class Indexing:
    """Symbols with their values, and the evaluation of expressions over them.

    A symbol's value is a scalar, or a vector for an index that differs between the lanes. The
    variable of the vector loop has the value of the first lane.

    Uniform values are computed once in a block: not again where they are known from the same block
    or from one before a loop that is open. LLVM would find them equal too, but takes its time.
    """

    b: ir.IRBuilder
    values: dict[str, Any] = field(default_factory=dict)
    lane: Lane = field(default_factory=Lane)
    count: int = 0
    known: dict[int, dict[Hashable, Any]] = field(default_factory=dict)  # by the id of a block
    before: list[int] = field(default_factory=list)  # the blocks that lead to the open loops

    def once(self, make: Callable[..., Any], *key: Hashable) -> Any:
        """``make(*key)``, unless it is known; its value depends on the key alone."""
        here = id(self.b.block)
        for block in (here, *self.before):
            found = self.known.get(block, {}).get((make, key))
            if found is not None:
                return found
        value = make(*key)
        if id(self.b.block) == here:
            self.known.setdefault(here, {})[make, key] = value
        return value

    @contextmanager
    def loop(self, before: ir.Block) -> Iterator[None]:
        """While what is emitted is in a loop that the end of a block leads to."""
        self.before.append(id(before))
        yield
        self.before.pop()

    def fresh(self, value: Any, low: int = 0, extent: Dim | None = None) -> Expr:
        """A new symbol with a value."""
        self.count += 1
        name = f"%{self.count}"
        self.values[name] = value
        return expr.sym(name, low, extent)

    def varies(self, e: Dim) -> bool:
        """Whether an expression may differ between the lanes."""
        return self.lane.n > 1 and any(
            s == self.lane.name or lanes_of(self.values[s]) > 1 for s in expr.symbols(e)
        )

    def stride(self, e: Dim) -> int | None:
        """How much an expression grows from lane to lane, when that is constant."""
        if not self.varies(e):
            return 0
        step = self._affine(e)
        return step[0] if step is not None and isinstance(step[0], int) else None

    def _affine(self, e: Dim) -> tuple[Dim, Dim] | None:
        """``(c, e at the first lane)`` when lane ``l`` has ``e + c*l``."""
        name = self.lane.name
        if name is None:
            return None
        others = expr.symbols(e) - {name}
        if any(lanes_of(self.values[s]) > 1 for s in others):
            return None
        found = expr.linear(e, name)
        if found is not None:
            return found[0], e
        return self._affine_blocks(e, name)

    def _affine_blocks(self, e: Dim, name: str) -> tuple[Dim, Dim] | None:
        """The same for ``x % d`` and ``x // d`` where the lanes never straddle a multiple of d."""
        assert isinstance(e, Expr)
        total: Dim = 0
        for monomial, c in e.terms:
            slopes = [self._atom_slope(a, name) for a in monomial]
            if None in slopes:
                return None
            moving = [i for i, s in enumerate(slopes) if s != 0]
            if len(moving) > 1:
                return None
            if moving:
                rest = tuple(a for i, a in enumerate(monomial) if i != moving[0])
                slope = slopes[moving[0]]
                assert slope is not None
                factor = expr.product(Expr((((a,), 1),)) for a in rest)
                total = total + slope * factor * c
        return total, e

    def _atom_slope(self, a: Sym | Call, name: str) -> Dim | None:
        if isinstance(a, Sym):
            return int(a.name == name)
        if name not in expr.symbols(a.lhs) | expr.symbols(a.rhs):
            return 0
        if a.op not in ("//", "%") or not self.lane.aligned or not isinstance(a.rhs, int):
            return None
        inner = expr.linear(a.lhs, name)
        if inner is None or inner[0] != 1 or a.rhs % self.lane.n:
            return None
        if expr.mod(inner[1], self.lane.n) != 0:
            return None
        return 1 if a.op == "%" else 0

    def scalar(self, e: Dim) -> Any:
        """An expression that does not vary, or its value in the first lane."""
        return I64(e) if isinstance(e, int) else self.once(self._scalar, e)

    def _scalar(self, e: Expr) -> Any:
        return self._sum(e, 1)

    def address(self, base: Any, offset: Dim, element: ir.Type) -> Any:
        """The address of the element of a buffer in the first lane."""
        return self.once(self._address, base, self.scalar(offset), element)

    def _address(self, base: Any, offset: Any, element: ir.Type) -> Any:
        return self.b.gep(base, [offset], source_etype=element)

    def either(self, condition: Any, x: Any, y: Any) -> Any:
        """The first value where the condition holds, else the second."""
        return self.once(self.b.select, condition, x, y)

    def lanes(self, e: Dim) -> Any:
        """An expression in every lane."""
        n = self.lane.n
        if n == 1:
            return self.scalar(e)
        if not self.varies(e):
            return splat(self.b, self.scalar(e), n)
        step = self._affine(e)
        if step is None:
            return self._sum(e, n)
        base = splat(self.b, self.scalar(step[1]), n)
        if isinstance(step[0], int):
            return self._add(base, iota(I64, n, step[0]))
        grown = self._mul(splat(self.b, self.scalar(step[0]), n), iota(I64, n))
        return self._add(base, grown)

    def value(self, e: Dim) -> Any:
        """An expression: a scalar when it does not vary."""
        return self.lanes(e) if self.varies(e) else self.scalar(e)

    def inside(self, e: Dim, bound: Dim) -> Any:
        """Whether ``0 <= e < bound``; a scalar when that does not vary."""
        b, n = self.b, self.lane.n
        if not self.varies(e) and not self.varies(bound):
            return self.once(self._inside, e, bound)
        step = None if self.varies(bound) else self.stride(e)
        if step is None or abs(step) * n > 1 << 20:
            return b.icmp_unsigned("<", self.lanes(e), self.lanes(bound))
        # lane l holds e + step*l: compare step*l with what is left on both sides, in 32 bits
        base, steps = self.scalar(e), iota(I32, n, step)
        mask = b.icmp_signed("<", steps, self._narrow(b.sub(self.scalar(bound), base)))
        if step >= 0 and expr.at_least(e, 0):
            return mask
        return b.and_(mask, b.icmp_signed(">=", steps, self._narrow(b.neg(base))))

    def _inside(self, e: Dim, bound: Dim) -> Any:
        return self.b.icmp_unsigned("<", self.scalar(e), self.scalar(bound))

    def below(self, base: Any, stop: Any) -> Any:
        """The mask of the lanes whose number is below ``stop - base``."""
        steps = iota(I32, self.lane.n)
        return self.b.icmp_signed("<", steps, self._narrow(self.b.sub(stop, base)))

    def _narrow(self, x: Any) -> Any:
        """A 64-bit integer clamped to 32 bits, in every lane."""
        x = intrinsic(self.b, "smin", intrinsic(self.b, "smax", x, I64(-_SMALL)), I64(_SMALL))
        return splat(self.b, self.b.trunc(x, I32), self.lane.n)

    def _add(self, x: Any, y: Any) -> Any:
        return self.once(self._new_add, x, y)

    def _new_add(self, x: Any, y: Any) -> Any:
        return self.b.add(x, y, flags=("nsw",))

    def _mul(self, x: Any, y: Any) -> Any:
        return self.once(self._new_mul, x, y)

    def _new_mul(self, x: Any, y: Any) -> Any:
        return self.b.mul(x, y, flags=("nsw",))

    def _sum(self, e: Dim, n: int) -> Any:
        if isinstance(e, int):
            return constant(I64, e, n)
        total = None
        terms = e.terms
        if n > 1:  # what all lanes share is summed once
            terms = tuple(t for t in terms if self.varies(Expr((t,))))
            shared = e - Expr(terms)
            if shared != 0:
                total = splat(self.b, self.scalar(shared), n)
        for monomial, c in terms:
            term = None
            for a in monomial:
                v = self._atom(a, n)
                term = v if term is None else self._mul(term, v)
            if term is None:
                term = constant(I64, c, n)
            elif c != 1:
                term = self._mul(term, constant(I64, c, n))
            total = term if total is None else self._add(total, term)
        return total

    def _atom(self, a: Sym | Call, n: int) -> Any:
        if isinstance(a, Sym):
            v = self.values[a.name]
            if n > 1 and a.name == self.lane.name:
                return self._add(splat(self.b, v, n), iota(I64, n))
            return splat(self.b, v, n)
        if n > 1 and not self.varies(Expr((((a,), 1),))):
            return splat(self.b, self._atom(a, 1), n)
        return self.once(self._call, a, n) if n == 1 else self._call(a, n)

    def _call(self, a: Call, n: int) -> Any:
        x, y = self._sum(a.lhs, n), self._sum(a.rhs, n)
        if a.op in ("min", "max"):
            return intrinsic(self.b, "s" + a.op, x, y)
        return self._divide(a, x, y, n)

    def _divide(self, a: Call, x: Any, y: Any, n: int) -> Any:
        """Quotient or remainder of floor division by a positive divisor."""
        b = self.b
        positive = expr.at_least(a.lhs, 0)
        d = a.rhs
        if isinstance(d, int) and d & (d - 1) == 0:
            if a.op == "//":
                return b.ashr(x, constant(I64, d.bit_length() - 1, n))
            return b.and_(x, constant(I64, d - 1, n))
        if n > 1:
            return self._divide_lanes(a, x, y, n, positive)
        if positive:
            return b.udiv(x, y) if a.op == "//" else b.urem(x, y)
        r = b.srem(x, y)
        below = b.icmp_signed("<", r, I64(0))
        if a.op == "%":
            return b.select(below, b.add(r, y), r)
        return b.sub(b.sdiv(x, y), b.zext(below, I64))

    def _divide_lanes(self, a: Call, x: Any, y: Any, n: int, positive: bool) -> Any:
        """In f64, whose quotient of integers below 2**53 rounds down to the right one."""
        b = self.b
        high = expr.upper_bound(a.lhs)
        narrow = positive and high is not None and high < _SMALL and isinstance(a.rhs, int)
        if narrow:  # LLVM turns the division by a constant into a multiplication
            x32 = b.trunc(x, ir.VectorType(I32, n))
            d = constant(I32, a.rhs, n)  # type: ignore[arg-type]
            return b.zext(b.udiv(x32, d) if a.op == "//" else b.urem(x32, d), x.type)
        wide = ir.VectorType(F64, n)
        ratio = b.fdiv(b.sitofp(x, wide), b.sitofp(y, wide))
        if not positive:
            ratio = intrinsic(b, "floor", ratio)
        q = b.fptosi(ratio, x.type)
        return q if a.op == "//" else b.sub(x, self._mul(q, y))
