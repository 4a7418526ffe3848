"""The inputs and outputs of a program: checks shapes at a call and binds the symbols."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pjit.errors import InputError
from pjit.ir import expr
from pjit.ir.errors import listing
from pjit.ir.expr import Dim, Expr
from pjit.ir.interp import evaluate
from pjit.ir.types import TensorType


@dataclass(frozen=True)
class Spec:
    """An input or output: name, element type and shape; a symbolic dimension is text, ``"N"``."""

    name: str
    dtype: np.dtype
    shape: tuple[int | str, ...]

    @staticmethod
    def of(name: str, type: TensorType) -> Spec:
        """The spec of a named tensor type."""
        shape = tuple(d if isinstance(d, int) else str(d) for d in type.shape)
        return Spec(name, type.dtype.numpy, shape)

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class _Bind:
    """Binds a symbol: dimension ``axis`` of input ``at`` is ``factor * symbol + rest``."""

    symbol: str
    at: int
    axis: int
    factor: Dim
    rest: Dim


class Signature:
    """What the inputs of a program have to be.

    Args:
        inputs: Names and types.
        symbols: The symbols that the inputs have to determine.
        checks: Pairs of dimensions that have to be equal; those with other symbols are left out.

    Raises:
        InputError: A symbol is not determined by the dimensions of the inputs.
    """

    def __init__(
        self,
        inputs: Sequence[tuple[str, TensorType]],
        symbols: Iterable[str],
        checks: Iterable[tuple[Dim, Dim]],
    ) -> None:
        self.names = [n for n, _ in inputs]
        self.types = [t for _, t in inputs]
        self.dtypes = [t.dtype.numpy for t in self.types]
        self.symbols = frozenset(symbols)
        self.checks = [c for c in checks if _symbols(c) <= self.symbols]
        self.late_checks = [c for c in checks if not _symbols(c) <= self.symbols]
        self._binds = self._order_binds()

    def _order_binds(self) -> list[_Bind]:
        """Bare symbols first, then dimensions that are linear in one unknown symbol."""
        dims = [
            (at, axis, d)
            for at, t in enumerate(self.types)
            for axis, d in enumerate(t.shape)
            if isinstance(d, Expr)
        ]
        known: set[str] = set()
        binds: list[_Bind] = []

        def solve(bare: bool) -> bool:
            for at, axis, d in dims:
                unknown = sorted(expr.symbols(d) - known)
                if len(unknown) != 1 or (bare and str(d) != unknown[0]):
                    continue
                form = expr.linear(d, unknown[0])
                if form is not None:
                    binds.append(_Bind(unknown[0], at, axis, *form))
                    known.add(unknown[0])
                    return True
            return False

        while solve(bare=True) or solve(bare=False):
            pass
        if missing := sorted(self.symbols - known):
            raise InputError(
                f"the shapes of the inputs do not determine {listing(missing)}",
                expected="a dimension of an input that is the symbol",
                got=listing([f"{n}: {t}" for n, t in zip(self.names, self.types, strict=True)]),
                remedy="give the inputs fixed shapes, or a dimension of its own to each symbol",
            )
        return binds

    def bind(self, shapes: Sequence[tuple[int, ...]]) -> dict[str, int]:
        """The values of the symbols for the shapes of the inputs.

        Raises:
            InputError: A shape is not what it has to be.
        """
        for at, (t, s) in enumerate(zip(self.types, shapes, strict=True)):
            if len(s) != t.rank:
                raise self._wrong(at, s, f"the input has {len(s)} dimensions, not {t.rank}")
        values: dict[str, int] = {}
        for b in self._binds:
            n = shapes[b.at][b.axis] - evaluate(b.rest, values)
            factor = evaluate(b.factor, values)
            if factor == 0 or n % factor or n // factor < 0:
                dim = self.types[b.at].shape[b.axis]
                raise self._wrong(b.at, shapes[b.at], f"dimension {b.axis} cannot be {dim}")
            values[b.symbol] = n // factor
        for at, (t, s) in enumerate(zip(self.types, shapes, strict=True)):
            for axis, (d, n) in enumerate(zip(t.shape, s, strict=True)):
                wanted = self._number(d, values)
                if wanted != n:
                    text = f"{d}, which is {wanted}" if isinstance(d, Expr) else str(d)
                    raise self._wrong(at, s, f"dimension {axis} has to be {text}, not {n}", values)
        for left, right in self.checks:
            if self._number(left, values) != self._number(right, values):
                raise self._unequal(left, right, values)
        return values

    def check_late(self, values: dict[str, int]) -> None:
        """Checks the equalities whose symbols became known during the call; raises InputError."""
        for a, b in self.late_checks:
            if _symbols((a, b)) <= values.keys() and evaluate(a, values) != evaluate(b, values):
                raise self._unequal(a, b, values)

    def _number(self, d: Dim, values: dict[str, int]) -> int:
        try:
            return evaluate(d, values)
        except ZeroDivisionError:
            raise InputError(
                f"the dimension {d} has no value for these inputs", got=_sizes(values)
            ) from None

    def _wrong(
        self, at: int, shape: tuple[int, ...], why: str, values: dict[str, int] | None = None
    ) -> InputError:
        t = self.types[at]
        got = f"{t.dtype.numpy}{list(shape)}" + (f", with {_sizes(values)}" if values else "")
        return InputError(
            f"the input {self.names[at]!r} has the wrong shape: {why}",
            where=f"input {at}",
            expected=t,
            got=got,
            remedy=None if values else f"pass an array with {t.rank} dimensions of these sizes",
        )

    def _unequal(self, a: Dim, b: Dim, values: dict[str, int]) -> InputError:
        return InputError(
            f"these inputs do not fit together: {a} has to be equal to {b}",
            expected=f"{a} = {b}",
            got=f"{evaluate(a, values)} and {evaluate(b, values)}, with {_sizes(values)}",
            remedy="pass inputs whose shapes agree in these sizes",
        )


def _symbols(pair: tuple[Dim, Dim]) -> frozenset[str]:
    return expr.symbols(pair[0]) | expr.symbols(pair[1])


def _sizes(values: dict[str, int]) -> str:
    return ", ".join(f"{k} = {v}" for k, v in values.items())
