"""What random graphs are drawn with: values with known ranges and error bounds, and their sources.

A range decides which operators may follow (no division by zero, no overflow). An error bound says
how far two correct evaluations may lie apart; where it is 0, they agree in every bit, and only such
values go into operators with jumps (comparisons, rounding, conversions to integers).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from pjit.ir import expr
from pjit.ir.builder import Builder
from pjit.ir.core import Block, Function, Loc, Module, Value
from pjit.ir.expr import Dim
from pjit.ir.types import DTYPES, DType, TensorType, bf16, bool_, f16, f32, f64

EPSILON = {"f64": 1e-14, "f32": 1.2e-7, "f16": 1e-3, "bf16": 8e-3}
LARGEST_SYMBOL = 9  # the sizes that a symbolic dimension gets are at most this
LARGEST_VALUE = 6000  # elements of a value that is used further
SIZES = (1, 2, 3, 5, 7, 4, 6, 9, 8, 11, 13, 16, 17, 19, 20)
Shape = tuple[Dim, ...]


@dataclass(frozen=True)
class Known:
    """A value and what is known of its elements.

    Attributes:
        value: The value.
        low, high: The range of the elements that are numbers.
        error: How far correct evaluations may lie apart, absolutely; 0: they are equal.
        nan: Whether there may be NaN.
        whole: Whether the elements are whole numbers.
    """

    value: Value
    low: float
    high: float
    error: float = 0.0
    nan: bool = False
    whole: bool = False

    @property
    def shape(self) -> Shape:
        """The shape."""
        return self.value.shape

    @property
    def rank(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    @property
    def dtype(self) -> DType:
        """The element type."""
        return self.value.dtype

    @property
    def bound(self) -> float:
        """The largest magnitude."""
        return max(abs(self.low), abs(self.high))

    @property
    def exact(self) -> bool:
        """Whether all correct evaluations are equal."""
        return self.error == 0

    @property
    def positive(self) -> bool:
        """Whether the elements are well above 0."""
        return self.low >= 0.1


@dataclass(frozen=True)
class Input:
    """An argument of the graph: its type, and how its elements are drawn."""

    type: TensorType
    low: float
    high: float
    whole: bool
    nan: bool

    def make(self, rng: np.random.Generator, sizes: dict[str, int]) -> np.ndarray:
        """Draws the array for some sizes of the symbols."""
        t = self.type.substitute(sizes)
        return random_array(rng, t.dtype, t.static_shape, self.low, self.high, self.whole, self.nan)


def random_array(
    rng: np.random.Generator,
    dt: DType,
    shape: tuple[int, ...],
    low: float,
    high: float,
    whole: bool,
    nan: bool = False,
) -> np.ndarray:
    """An array of elements in ``[low, high]``."""
    if whole or not dt.is_float:
        return rng.integers(int(low), int(high) + 1, shape).astype(dt.numpy)
    out = np.asarray(rng.uniform(low, high, shape)).astype(dt.numpy)
    if nan:
        out = np.where(rng.random(shape) < 0.1, np.array(np.nan, dt.numpy), out)
    return out


def capped(d: Dim) -> int:
    """A dimension, with the largest size for symbols."""
    names = dict.fromkeys(expr.symbols(d), LARGEST_SYMBOL) if isinstance(d, expr.Expr) else {}
    return int(expr.substitute(d, names))  # type: ignore[arg-type]


def count(dims: Sequence[Dim]) -> int:
    """The number of elements, with the largest sizes for symbols."""
    return int(np.prod([capped(d) for d in dims], dtype=np.int64))


def broadcastable(a: Shape, b: Shape) -> bool:
    """Whether two shapes broadcast for all sizes of the symbols."""
    return all(x == y or 1 in (x, y) for x, y in zip(reversed(a), reversed(b), strict=False))


class Drawing:
    """A graph that is being drawn: its values so far, and ways to get more."""

    def __init__(self, draw: Callable[[Any], Any], symbol: expr.Expr | None, nan: bool) -> None:
        self.draw, self.symbol, self.nan = draw, symbol, nan
        self.module, self.block = Module(), Block()
        self.module.add(Function("main", self.block))
        self.b = Builder(self.block, Loc("fuzz.py:1"), self.module)
        self.values: list[Known] = []
        self.inputs: list[Input] = []

    # Choices

    def one_of(self, choices: Sequence[Any]) -> Any:
        """One of several; the first is the simplest."""
        return self.draw(st.sampled_from(list(choices)))

    def number(self, low: int, high: int) -> int:
        """An int of a closed range."""
        return self.draw(st.integers(low, high))

    def chance(self, percent: int) -> bool:
        """True in a share of the cases; False is simpler."""
        return self.number(0, 99) >= 100 - percent

    def pick(self, accept: Callable[[Known], bool] = lambda k: True) -> Known | None:
        """A value with a property, often the latest; None if there is none."""
        found = [k for k in reversed(self.values) if accept(k)]
        if not found:
            return None
        return found[0] if self.chance(55) else self.one_of(found)

    def shape(self, rank: int, limit: int = 1500) -> Shape:
        """A shape; the first dimension is the symbol if the graph has one."""
        out: list[Dim] = []
        left = limit
        for d in range(rank):
            if d == 0 and self.symbol is not None:
                out.append(self.symbol)
                left //= LARGEST_SYMBOL
                continue
            out.append(self.one_of([s for s in SIZES if s <= max(1, left)]))
            left //= capped(out[-1])
        return tuple(out)

    def part_of(self, shape: Shape) -> Shape:
        """A shape that broadcasts to another one."""
        dropped = self.number(0, len(shape))
        return tuple(1 if self.chance(30) else d for d in shape[dropped:])

    # Sources

    def add(self, k: Known) -> Known | None:
        """Takes a value into the pool, unless it is large or its bounds are useless."""
        if count(k.shape) > LARGEST_VALUE:
            return None
        if k.dtype.is_float:
            most = 1e3 if k.dtype.bits == 16 else 1e5
            if k.bound > most or k.error > 0.03 * max(1.0, k.bound):
                return None
        self.values.append(k)
        return k

    def input(self, dt: DType, shape: Shape, low: float | None = None, high: float = 3) -> Known:
        """An argument of the graph."""
        low, high, whole = self.range_of(dt, low, high)
        nan = dt.is_float and not whole and self.nan
        t = TensorType(dt, shape)
        value = self.block.add_arg(t, f"x{len(self.inputs)}")
        self.inputs.append(Input(t, low, high, whole, nan))
        k = Known(value, low, high, 0.0, nan, whole)
        self.values.append(k)
        return k

    def constant(self, dt: DType, shape: Shape, low: float | None = None, high: float = 3) -> Known:
        """A constant; symbolic dimensions become 1."""
        shape = tuple(d if isinstance(d, int) else 1 for d in shape)
        if count(shape) == 1 and low is None and self.chance(60):
            choice = self.one_of((0, 1, 2, -1, 3, 0.5) if dt.is_float else (0, 1, 2, 3))
            array = np.full(shape, choice).astype(dt.numpy)
        else:
            low, high, whole = self.range_of(dt, low, high)
            rng = np.random.default_rng(self.number(0, 999))
            array = random_array(rng, dt, shape, low, high, whole)
        numbers = array.astype(np.float64)
        whole = bool(np.all(numbers == np.round(numbers)))
        low, high = float(numbers.min(initial=0)), float(numbers.max(initial=0))
        if array.size:
            low, high = float(numbers.min()), float(numbers.max())
        return Known(self.b.constant(array), low, high, 0.0, False, whole)

    def range_of(self, dt: DType, low: float | None, high: float) -> tuple[float, float, bool]:
        """A range of elements, and whether they are whole numbers."""
        if dt == bool_:
            return 0, 1, True
        if dt.is_int:
            smallest = 0 if dt.kind == "u" else -9
            return (smallest, 9, True) if low is None else (low, high, True)
        if low is not None:
            return low, high, False
        return self.one_of(((-3.0, 3.0, False), (0.1, 2.0, False), (-3.0, 3.0, True)))

    def source(self, dt: DType, shape: Shape, low: float | None = None, high: float = 3) -> Known:
        """A constant or an argument."""
        if len(self.inputs) < 6 and self.chance(40):
            return self.input(dt, shape, low, high)
        return self.constant(dt, shape, low, high)

    def partner(self, x: Known, accept: Callable[[Known], bool] = lambda k: True) -> Known | None:
        """A second operand for an elementwise operator: another value or a new source."""
        if self.chance(50):
            k = self.pick(
                lambda k: k.dtype == x.dtype and broadcastable(k.shape, x.shape) and accept(k)
            )
            if k is not None:
                return k
        k = self.source(x.dtype, self.part_of(x.shape))
        return k if accept(k) else None

    # Operations

    def emit(
        self,
        op: Any,
        operands: Sequence[Known],
        low: float,
        high: float,
        error: float,
        whole: bool = False,
        **attrs: Any,
    ) -> Known | None:
        """Builds an operation of one result and takes it into the pool."""
        value = self.b(op, *(k.value for k in operands), **attrs)
        return self.take(value, operands, low, high, error, whole)

    def take(
        self,
        value: Value,
        operands: Sequence[Known],
        low: float,
        high: float,
        error: float,
        whole: bool = False,
    ) -> Known | None:
        """Takes a value that was built into the pool."""
        dt = value.dtype
        nan = dt.is_float and any(k.nan for k in operands)
        if dt.is_int:
            info = np.iinfo(dt.numpy)
            if low < info.min or high > info.max:
                low, high = float(info.min), float(info.max)
        return self.add(Known(value, low, high, error, nan, whole or not dt.is_float))

    def moved(self, op: Any, k: Known, **attrs: Any) -> Known | None:
        """Builds an operation whose result has elements of its operand."""
        return self.add(replace(k, value=self.b(op, k.value, **attrs)))


def rounding(dt: DType, bound: float, steps: float = 2, stored: int = 2) -> float:
    """The error of roundings of numbers up to a magnitude.

    Args:
        dt: The element type; no integer rounds.
        bound: The magnitude.
        steps: Roundings in the type that the operators compute in (f32 for 16-bit floats).
        stored: Roundings to the type itself.
    """
    if not dt.is_float:
        return 0.0
    if dt.bits == 16:
        return bound * (stored * EPSILON[dt.name] + steps * EPSILON["f32"])
    return steps * EPSILON[dt.name] * bound


FLOAT_TYPES = (f32, f32, f32, f64, f16, bf16)
ALL_TYPES = (*FLOAT_TYPES, *(DTYPES[n] for n in ("i32", "i64", "bool", "i8", "u8")))
