"""Sizes of dimensions that vary between calls.

To the user's code a ``Size`` is an int that is traced: a question about it is answered when the
function runs. To our own code it is a symbolic dimension, and what does not follow for all sizes is
``Undecided``: then the function is compiled for one size.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from pjit.ir import expr, opdef, ops
from pjit.ir.core import Value
from pjit.ir.errors import ConstraintError
from pjit.ir.expr import Dim, Expr
from pjit.tracing.location import internal
from pjit.tracing.scalar import Scalar
from pjit.tracing.trace import Trace

SMALLEST = 2  # what a size is at least: 1 broadcasts, and 0 has no elements


class Undecided(Exception):
    """Something depends on a size in a way that has no answer for all sizes."""


class Size(Scalar):
    """A size that varies."""

    __slots__ = ("dim",)

    def __init__(self, trace: Trace, dim: Expr) -> None:
        self.context, self.dim = trace, dim
        self.argument = str(dim)
        self.version = self.seen = 0
        self.base = self.window = None
        self.aliases = []
        self.weak, self.origins = int, frozenset()
        self.low, self.high = expr.lower_bound(dim), None
        self.below, self.loop = frozenset(), None

    @property
    def raw(self) -> Value:  # type: ignore[override]
        """The size as a scalar of the graph."""
        return self.context.size(self.dim)

    @property
    def value(self) -> Value:
        """The size as a scalar of the graph."""
        return self.raw

    def signature(self) -> Any:
        """The dimension."""
        return self.dim

    def __repr__(self) -> str:
        return f"<traced size {self.dim}>"

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(self.dim)

    def __index__(self) -> int:
        raise self.context.stop(Unsized())

    __int__ = __index__

    def __bool__(self) -> bool:
        if _ours():
            return not _decided(expr.same(self.dim, 0))
        return super().__bool__()


class Unsized(BaseException):
    """The number of a size is asked for: the function is compiled for one size."""


def _ours() -> bool:
    """Whether our code asks, not the user's."""
    return internal(sys._getframe(2).f_code.co_filename)


def dim_of(x: Any) -> Dim | None:
    """A size as a symbolic dimension; None of what is not an integer."""
    if isinstance(x, Size):
        return x.dim
    if isinstance(x, Expr) or type(x) is int:
        return x
    return int(x) if isinstance(x, np.integer) else None


def size(t: Trace, dim: Dim) -> Any:
    """A dimension as an int or a size."""
    return Size(t, dim) if isinstance(dim, Expr) else dim


def dims(shape: Iterable[Any]) -> tuple[Dim, ...]:
    """A shape with symbolic dimensions."""
    return tuple(x.dim if isinstance(x, Size) else x for x in shape)


def plain(x: Any) -> Any:
    """An attribute of an operation: sizes are dimensions."""
    if isinstance(x, Size):
        return x.dim
    return tuple(plain(i) for i in x) if isinstance(x, tuple | list) else x


def index(x: Any) -> Any:
    """An integer, or a size."""
    return x if isinstance(x, Size | Expr) else operator.index(x)


def product(shape: Iterable[Any]) -> Any:
    """The number of elements of a shape."""
    total: Any = 1
    for n in shape:
        total = n * total
    return total


def broadcast(*shapes: Iterable[Any]) -> tuple[Any, ...]:
    """As ``np.broadcast_shapes``."""
    found = [tuple(s) for s in shapes]
    sizes = [x for s in found for x in s if isinstance(x, Size)]
    if not sizes:
        return np.broadcast_shapes(*found)
    try:
        common = opdef.broadcast_shapes(*map(dims, found))
    except ConstraintError as e:
        raise ValueError(f"shape mismatch: {e.what}") from None
    return tuple(size(sizes[0].context, d) for d in common)


def span(s: slice, extent: Any) -> tuple[Any, Any, int]:
    """First index, number and step of a slice of a dimension."""
    bounds = (s.start, s.stop, s.step)
    if not isinstance(extent, Size) and not any(isinstance(b, Size) for b in bounds):
        start, stop, step = s.indices(extent)
        count = len(range(start, stop, step))
        return (start if count else 0), count, step
    step = 1 if s.step is None else operator.index(s.step)
    if step not in (1, -1):
        raise Undecided
    if step == -1:
        if (s.start, s.stop) != (None, None):
            raise Undecided
        return extent - 1, extent, -1
    start = _bound(s.start, extent, 0)
    stop = _bound(s.stop, extent, extent)
    return start, stop - start, 1


def _bound(x: Any, extent: Any, default: Any) -> Any:
    """A bound of a slice, where it lies within the dimension for all sizes."""
    if x is None:
        return default
    n = x if isinstance(x, Size) else operator.index(x)
    at = n if n >= 0 else extent + n
    if not (at >= 0 and extent - at >= 0):
        raise Undecided
    return at


def _decided(x: bool | None) -> bool:
    if x is None:
        raise Undecided
    return x


def _arithmetic(name: str, apply: Callable[[Any, Any], Any]) -> Any:
    plainly = getattr(Scalar, name)
    reflected = name.startswith("__r")

    def operator_(self: Size, other: Any) -> Any:
        d = dim_of(other)
        if d is None or (
            apply in (operator.floordiv, operator.mod) and not _positive(d, self, reflected)
        ):
            return plainly(self, other)
        a, b = (d, self.dim) if reflected else (self.dim, d)
        return size(self.context, apply(a, b))

    return operator_


def _positive(d: Dim, self: Size, reflected: bool) -> bool:
    low = expr.lower_bound(self.dim if reflected else d)
    return low is not None and low > 0


def _comparison(name: str, answer: Callable[[Dim, Dim], bool | None]) -> Any:
    plainly = getattr(Scalar, name)

    def compare(self: Size, other: Any) -> Any:
        d = dim_of(other)
        if d is None:
            return plainly(self, other)
        known = answer(self.dim, d)
        if known is None and not _ours():
            return plainly(self, other)
        return _decided(known)

    return compare


def _least(a: Dim, b: Dim, low: int) -> bool | None:
    """Whether ``a - b`` is at least ``low``."""
    if expr.at_least(a - b, low):
        return True
    return False if expr.at_least(b - a, 1 - low) else None


def _not(x: bool | None) -> bool | None:
    return None if x is None else not x


for _name, _apply in {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul,
    "floordiv": operator.floordiv, "mod": operator.mod,
}.items():  # fmt: skip
    setattr(Size, f"__{_name}__", _arithmetic(f"__{_name}__", _apply))
    setattr(Size, f"__r{_name}__", _arithmetic(f"__r{_name}__", _apply))
for _name, _answer in {
    "eq": expr.same,
    "ne": lambda a, b: _not(expr.same(a, b)),
    "ge": lambda a, b: _least(a, b, 0),
    "gt": lambda a, b: _least(a, b, 1),
    "le": lambda a, b: _least(b, a, 0),
    "lt": lambda a, b: _least(b, a, 1),
}.items():
    setattr(Size, f"__{_name}__", _comparison(f"__{_name}__", _answer))


def scalar_of(t: Trace, dim: Dim) -> Value:
    """A dimension as a scalar of the graph."""
    vector = t(ops.Sizes, dims=(dim,))
    return t(ops.Reshape, vector, shape=())
