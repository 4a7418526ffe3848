"""Python numbers that are traced, and the loops over ranges that they come from.

A ``Scalar`` behaves as an int, a float or a bool of Python: beside an array it takes the dtype of
the array, and among themselves they follow Python's arithmetic. Integers have 64 bits.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np

from pjit.ir import ops
from pjit.ir.core import Value
from pjit.ir.expr import Dim
from pjit.ir.types import DType, bool_, f64, i64
from pjit.tracing.bytecode import opname
from pjit.tracing.elementwise import UFUNCS, cast
from pjit.tracing.policy import UNROLLED, Restart
from pjit.tracing.trace import Trace
from pjit.tracing.tracer import Tracer, xp

if TYPE_CHECKING:
    from collections.abc import Sequence

ELEMENTS: dict[type, DType] = {bool: bool_, int: i64, float: f64}
Number = bool | int | float


class Scalar(Tracer):
    """A number of Python that is traced.

    Attributes:
        weak: ``bool``, ``int`` or ``float``: what it would be.
        origins: The promotions and ranges that made it traced, by their points.
        low: A number that it is not below; None: unknown.
        high: A number that it is not above; None: unknown.
        answer: Its value, once it was hashed.
        below: Sizes that it is below.
        loop: The point of the loop whose index it is; None: it is no index.
    """

    weak: type
    __slots__ = ("answer", "below", "high", "loop", "low", "origins", "weak")

    def __init__(
        self,
        trace: Trace,
        value: Value,
        weak: type,
        origins: frozenset[Hashable] = frozenset(),
        low: int | None = None,
        high: int | None = None,
    ) -> None:
        super().__init__(trace, value)
        self.weak, self.origins, self.low, self.high = weak, origins, low, high
        self.answer: Number | None = None
        self.below: frozenset[Dim] = frozenset()
        self.loop: tuple | None = None

    def signature(self) -> tuple:
        """What two of them have in common that a trace treats alike."""
        return (
            super().signature(),
            self.weak,
            self.origins,
            self.low,
            self.high,
            self.below,
            self.loop,
        )

    def __hash__(self) -> int:  # type: ignore[override]
        if self.answer is None:
            asks = bool if self.weak is bool else self.context.demand
            self.answer = asks(self) if asks is bool else asks(self, self.weak)
        return hash(self.answer)

    def __round__(self, digits: int | None = None) -> Any:
        if self.weak is not float:
            return self
        rounded = Tracer(self.context, self.context(ops.Round, self.value))
        if digits is None:
            return number(self.context, rounded, int, self.origins)
        return number(self.context, xp.round(Tracer(self.context, self.value), digits), float)

    def __trunc__(self) -> Scalar:
        return number(self.context, self, int, self.origins)

    def is_integer(self) -> Any:
        """Whether a float has no fraction."""
        return self == (self // 1)

    def __pow__(self, other: Any) -> Any:
        return _power(self, other)

    def __rpow__(self, other: Any) -> Any:
        return _power(other, self)

    def __abs__(self) -> Scalar:
        kind = int if self.weak is bool else self.weak
        return _made(self, np.absolute, (self,), kind, kind)

    def __neg__(self) -> Scalar:
        kind = int if self.weak is bool else self.weak
        return _made(self, np.negative, (self,), kind, kind)

    def __pos__(self) -> Scalar:
        return number(self.context, self, int, self.origins) if self.weak is bool else self

    def __invert__(self) -> Scalar:
        return -self - 1

    def __divmod__(self, other: Any) -> tuple[Any, Any]:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> tuple[Any, Any]:
        return other // self, other % self


def without_keys(x: Any) -> Any:
    """A result in which keys of dicts and elements of sets are numbers, not traced ones."""
    kind = type(x)
    if kind is dict:
        return {_key(k): without_keys(v) for k, v in x.items()}
    if kind in (set, frozenset):
        return kind(map(_key, x)) if any(isinstance(k, Scalar) for k in x) else x
    if kind in (list, tuple):
        return kind(map(without_keys, x))
    return x


def _key(k: Any) -> Any:
    return k.answer if isinstance(k, Scalar) else without_keys(k)


def number(t: Trace, x: Tracer, kind: type, origins: frozenset[Hashable] = frozenset()) -> Scalar:
    """An array of one element as a number of Python.

    Raises:
        ValueError: A float that is not finite is to be an integer.
    """
    from pjit.tracing.indexing import reshaped

    if kind is int and x.dtype.kind == "f" and not t.ask(xp.isfinite(x), "integer"):
        raise ValueError("cannot convert float NaN or infinity to integer")
    value = cast(t, reshaped(t, x.value, ()), ELEMENTS[kind])
    return Scalar(t, value, kind, origins | getattr(x, "origins", frozenset()))


PYTHON = {"b": bool, "i": int, "u": int, "f": float}  # types by the kind of a dtype


def element(x: Tracer, index: tuple) -> Scalar:
    """``x.item(*index)``."""
    if len(index) == 1 and isinstance(index[0], tuple):
        (index,) = index
    if len(index) == 1:
        x = xp.ravel(x)[index[0]]
    elif index:
        x = x[index]
    if x.size != 1:
        raise ValueError("can only convert an array of size 1 to a Python scalar")
    return number(x.context, x, PYTHON[x.dtype.kind])


def kind_of(x: Any) -> type | None:
    """The type of a number of Python, traced or not; None of anything else."""
    if isinstance(x, Scalar):
        return x.weak
    return type(x) if type(x) in ELEMENTS else None


def _value(t: Trace, x: Any, element: DType) -> Value:
    return cast(t, x.value, element) if isinstance(x, Scalar) else t.scalar(x, element)


def _made(
    like: Scalar, ufunc: np.ufunc, operands: Sequence[Any], kind: type, result: type
) -> Scalar:
    """A ufunc of numbers, computed as ``kind``."""
    t, element = like.context, ELEMENTS[kind]
    value = UFUNCS[ufunc](t, *(_value(t, x, element) for x in operands))
    origins = frozenset[Hashable]().union(*(getattr(x, "origins", ()) for x in operands))
    return Scalar(t, cast(t, value, ELEMENTS[result]), result, origins)


def _binary(ufunc: np.ufunc, reflected: bool) -> Any:
    divides = ufunc in (np.divide, np.floor_divide, np.remainder)
    logical = ufunc in (np.bitwise_and, np.bitwise_or, np.bitwise_xor)
    compares = ufunc in _COMPARES

    def operator(self: Scalar, other: Any) -> Any:
        a, b = (other, self) if reflected else (self, other)
        kinds = (kind_of(a), kind_of(b))
        if isinstance(other, list | tuple):
            return other * (+self).__index__() if ufunc is np.multiply else _unlike(ufunc, other)
        if None in kinds:
            if not isinstance(other, Tracer | np.ndarray | np.generic):
                return _unlike(ufunc, other)
            return ufunc(a, b)
        kind = float if float in kinds or ufunc is np.divide else int
        if logical and kinds == (bool, bool):
            kind = bool
        if divides and constant_is_zero(self.context, b):
            raise ZeroDivisionError("division by zero")
        made = _made(self, ufunc, (a, b), kind, bool if compares else kind)
        _bound(made, ufunc, a, b)
        return made

    return operator


def _unlike(ufunc: np.ufunc, other: Any) -> Any:
    if other is None or isinstance(other, str | bytes | list | tuple):
        if ufunc is np.equal:
            return False
        if ufunc is np.not_equal:
            return True
    return NotImplemented


def _bound(made: Scalar, ufunc: np.ufunc, a: Any, b: Any) -> None:
    """Bounds of sums with constants."""
    if made.weak is not int or ufunc not in (np.add, np.subtract):
        return
    low_a, high_a = _bounds(a)
    low_b, high_b = _bounds(b)
    if ufunc is np.subtract:
        low_b, high_b = (None if x is None else -x for x in (high_b, low_b))
    made.low = None if low_a is None or low_b is None else low_a + low_b
    made.high = None if high_a is None or high_b is None else high_a + high_b


def _bounds(x: Any) -> tuple[int | None, int | None]:
    return (x.low, x.high) if isinstance(x, Scalar) else (int(x), int(x))


def constant_is_zero(t: Trace, x: Any) -> bool:
    """Whether a divisor is zero; asks if it is traced."""
    if not isinstance(x, Scalar):
        return bool(x == 0)
    if x.low is not None and x.low > 0:
        return False
    zero = _made(x, np.equal, (x, 0), x.weak, bool)
    return t.ask(zero, "division")


def _power(a: Any, b: Any) -> Any:
    kinds = (kind_of(a), kind_of(b))
    like = a if isinstance(a, Scalar) else b
    if None in kinds:
        return np.power(a, b)
    if float not in kinds:
        if not isinstance(b, Scalar) and b >= 0:
            return _made(like, np.power, (a, b), int, int)
        if isinstance(b, Scalar):
            negative = _made(b, np.less, (b, 0), int, bool)
            if not like.context.ask(negative, "power"):
                return _made(like, np.power, (a, b), int, int)
    return _made(like, np.power, (a, b), float, float)


_COMPARES = {np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal}
_OPERATORS = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.divide,
    "floordiv": np.floor_divide, "mod": np.remainder, "and": np.bitwise_and,
    "or": np.bitwise_or, "xor": np.bitwise_xor, "lshift": np.left_shift,
    "rshift": np.right_shift,
}  # fmt: skip
for _name, _ufunc in _OPERATORS.items():
    setattr(Scalar, f"__{_name}__", _binary(_ufunc, False))
    setattr(Scalar, f"__r{_name}__", _binary(_ufunc, True))
    setattr(Scalar, f"__i{_name}__", _binary(_ufunc, False))
for _name, _ufunc in {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal,
    "gt": np.greater, "ge": np.greater_equal,
}.items():  # fmt: skip
    setattr(Scalar, f"__{_name}__", _binary(_ufunc, False))


# Ranges


class Range:
    """``range`` in a traced function: its loops may run natively, and its end may be traced."""

    def __init__(self, trace: Trace, *bounds: Any) -> None:
        start, stop, step = (0, bounds[0], 1) if len(bounds) == 1 else (*bounds, 1)[:3]
        self.trace, self.start, self.stop, self.step = trace, start, stop, step

    @property
    def known(self) -> range | None:
        """The range, when its bounds are known."""
        if any(isinstance(x, Tracer) for x in (self.start, self.stop, self.step)):
            return None
        return range(self.start, self.stop, self.step)

    def _concrete(self) -> range:
        return range(*(x.__index__() for x in (self.start, self.stop, self.step)))

    def __iter__(self) -> Iterator:
        frame = sys._getframe(1)
        return RangeIterator(self, opname(frame.f_code, frame.f_lasti) == "GET_ITER")

    def __len__(self) -> int:
        return len(self._concrete())

    def __getitem__(self, index: Any) -> Any:
        return self._concrete()[index]

    def __contains__(self, item: Any) -> bool:
        return item in self._concrete()

    def __reversed__(self) -> Iterator:
        known = self._concrete()[::-1]
        return iter(Range(self.trace, known.start, known.stop, known.step))

    def __eq__(self, other: object) -> bool:
        return self._concrete() == (other._concrete() if isinstance(other, Range) else other)

    def __hash__(self) -> int:
        return hash(self._concrete())

    def __repr__(self) -> str:
        return f"range({self.start}, {self.stop}, {self.step})"


class RangeIterator:
    """A loop over a range: unrolled, or with a traced index.

    Attributes:
        frame: The frame of the loop.
        point: Where the loop is.
        rolled: Whether the index is traced.
        known: The range, when its bounds are known.
        count: The number of iterations; a large number when it is not known.
        direct: Whether a ``for`` loop is over it itself, not over ``zip`` or ``enumerate`` of it.
        over: Whether it has ended.
    """

    def __init__(self, source: Range, direct: bool) -> None:
        self.trace, self.source, self.direct = source.trace, source, direct
        self.known = source.known
        self.count = len(self.known) if self.known is not None else sys.maxsize
        self.frame: FrameType | None = None
        self.point: tuple = ()
        self.rolled = False
        self.at: Any = source.start
        self.below: frozenset[Dim] = frozenset()
        self.done = 0
        self.over = False

    def __iter__(self) -> RangeIterator:
        return self

    def state(self) -> tuple:
        """What the iterations to come depend on."""
        if self.rolled:
            below = tuple(sorted(map(str, self.below)))
            return (self.at, self.source.stop, self.source.step, below)
        return ("unrolled", str(self.done), repr(self.known))

    def _begin(self) -> None:
        frames = self.trace.frames()
        self.frame, self.point = frames.frames[-1], frames.point
        self.trace.open(self)
        pinned = self.point in self.trace.policy.pinned
        self.rolled = self.point in self.trace.policy.rolled or (self.known is None and not pinned)
        if self.known is None and pinned:
            self.known = self.source._concrete()
            self.count = len(self.known)
        if self.rolled:
            self.at = self._index(self.source.start)
            self._limit()

    def _limit(self) -> None:
        """Asks whether the loop ends within the dimensions that its index is used for."""
        stop = self.source.stop
        found = {stop.dim} if hasattr(stop, "dim") else set()
        for size in self.trace.policy.limits.get(self.point, ()):
            fits = dimension(self.trace, size) >= stop
            if self.trace.ask(fits, f"limit {size}", likely=True):
                found.add(size)
        self.below = frozenset(found)

    def _index(self, x: Any) -> Scalar:
        """The index as a number that is traced."""
        t, known = self.trace, self.known
        value = x.value if isinstance(x, Tracer) else t.scalar(x, i64)
        low = high = None
        if known is not None and len(known):
            low, high = sorted((known[0], known[-1] + known.step))
        elif not isinstance(self.source.start, Tracer) and not isinstance(self.source.step, Tracer):
            if self.source.step > 0:
                low = self.source.start
        return Scalar(t, cast(t, value, i64), int, frozenset([self.point]), low, high)

    def _end(self) -> None:
        """Leaves the loop; lets go of the frame, whose variables may refer to the iterator."""
        self.over, self.frame = True, None
        self.trace.leave(self)

    def __next__(self) -> Any:
        if self.over:
            raise StopIteration
        if self.frame is None:
            self._begin()
        if not self.rolled:
            return self._unrolled()
        t, step = self.trace, self.source.step
        if isinstance(step, Tracer):
            step = self.source.step = step.__index__()
        going = self.at < self.source.stop if step > 0 else self.at > self.source.stop
        if not t.ask(going, "range"):
            self._end()
            raise StopIteration
        index = self.at
        self.at = self._index(index + step)
        known = self.known
        if known is not None:
            low, high = sorted((known[0], known[-1]))
            return Scalar(t, index.value, int, index.origins, low, high)
        made = Scalar(t, index.value, int, index.origins, index.low)
        if step > 0:
            made.below, made.loop = self.below, self.point
        return made

    def _unrolled(self) -> int:
        assert self.known is not None
        if self.done == len(self.known):
            self._end()
            raise StopIteration
        if self.done == UNROLLED and self.trace.policy.roll(self.point):
            raise self.trace.stop(Restart())
        self.done += 1
        return self.known[self.done - 1]


def to_number(kind: type) -> Callable[[Trace, Any], Any]:
    """``int``, ``float`` and ``bool`` of a traced value."""

    def convert(t: Trace, x: Any) -> Any:
        if isinstance(x, Tracer):
            if x.size != 1:
                raise TypeError("only length-1 arrays can be converted to Python scalars")
            return number(t, x, kind)
        return kind(x)

    return convert


def dimension(t: Trace, size: Dim) -> Any:
    """A size as a number: an int, or one that is traced."""
    from pjit.tracing.sizes import size as sized

    found = sized(t, size)
    return found if isinstance(found, Scalar) else Scalar(t, t.scalar(found, i64), int)


def promoted(t: Trace, x: Number, path: tuple, point: tuple) -> Scalar:
    """A number that varies, as a traced one."""
    kind = type(x)
    return Scalar(t, t.scalar(x, ELEMENTS[kind]), kind, frozenset([(point, path)]))
