"""Arithmetic on lanes, to write the elementary functions of ``vecmath`` with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.ir as llir

from pjit.backends.llvm.vecmath_poly import F32, F64, Format

LONG = 6  # coefficients of a polynomial that is worth splitting


class Lanes:
    """A float value of one or more lanes with Python's arithmetic; numbers are splatted."""

    __slots__ = ("m", "value")

    def __init__(self, m: Math, value: Any):
        self.m = m
        self.value = value

    def __add__(self, other: Lanes | float) -> Lanes:
        return self.m.wrap(self.m.b.fadd(self.value, self.m.unwrap(other)))

    def __radd__(self, other: float) -> Lanes:
        return self.m.wrap(self.m.b.fadd(self.m.unwrap(other), self.value))

    def __sub__(self, other: Lanes | float) -> Lanes:
        return self.m.wrap(self.m.b.fsub(self.value, self.m.unwrap(other)))

    def __rsub__(self, other: float) -> Lanes:
        return self.m.wrap(self.m.b.fsub(self.m.unwrap(other), self.value))

    def __mul__(self, other: Lanes | float) -> Lanes:
        return self.m.wrap(self.m.b.fmul(self.value, self.m.unwrap(other)))

    __rmul__ = __mul__

    def __truediv__(self, other: Lanes | float) -> Lanes:
        return self.m.wrap(self.m.b.fdiv(self.value, self.m.unwrap(other)))

    def __rtruediv__(self, other: float) -> Lanes:
        return self.m.wrap(self.m.b.fdiv(self.m.unwrap(other), self.value))

    def __neg__(self) -> Lanes:
        return self.m.wrap(self.m.b.fneg(self.value))

    def __abs__(self) -> Lanes:
        return self.m.intrinsic("fabs", self)

    def compare(self, operator: str, other: Lanes | float) -> Any:
        """A mask that is false where either side is NaN (except for `!=`, which is true)."""
        ordered = self.m.b.fcmp_unordered if operator == "!=" else self.m.b.fcmp_ordered
        return ordered(operator, self.value, self.m.unwrap(other))

    def __lt__(self, other: Lanes | float) -> Any:
        return self.compare("<", other)

    def __gt__(self, other: Lanes | float) -> Any:
        return self.compare(">", other)

    def __ge__(self, other: Lanes | float) -> Any:
        return self.compare(">=", other)

    def equals(self, other: Lanes | float) -> Any:
        """The mask of lanes that compare equal."""
        return self.compare("==", other)


class Math:
    """The builder, format and width of one emission, and what all functions share."""

    def __init__(self, b: Any, fmt: Format, lanes: int | None, has_fma: bool):
        self.b = b
        self.fmt = fmt
        self.lanes = lanes
        self.has_fma = has_fma
        self.float_type = self._widen(fmt.element)
        self.int_type = self._widen(llir.IntType(fmt.bits))

    def _widen(self, element: Any) -> Any:
        return element if self.lanes is None else llir.VectorType(element, self.lanes)

    def wrap(self, value: Any) -> Lanes:
        """An IR value as lanes."""
        return Lanes(self, value)

    def unwrap(self, x: Lanes | float) -> Any:
        """The IR value of lanes, or a splatted number."""
        if isinstance(x, Lanes):
            return x.value
        value = float(x)
        return llir.Constant(self.float_type, value if self.lanes is None else [value] * self.lanes)

    def lift(self, x: Lanes | float) -> Lanes:
        """Lanes as they are; a number in every lane."""
        return self.wrap(self.unwrap(x))

    def integer(self, value: int) -> Any:
        """A splatted integer of the format's width."""
        return llir.Constant(self.int_type, value if self.lanes is None else [value] * self.lanes)

    def intrinsic(self, name: str, *xs: Lanes, flags: Sequence[str] = ()) -> Lanes:
        """`llvm.<name>` for this type."""
        suffix = self.fmt.name if self.lanes is None else f"v{self.lanes}{self.fmt.name}"
        fn = _declare(self.b.module, f"llvm.{name}.{suffix}", self.float_type, len(xs))
        return self.wrap(self.b.call(fn, [x.value for x in xs], fastmath=flags))

    def libm(self, name: str, *xs: Lanes) -> Lanes:
        """A call of the C library's function for each lane."""
        symbol = name + ("f" if self.fmt is F32 else "")
        fn = _declare(self.b.module, symbol, self.fmt.element, len(xs))
        if self.lanes is None:
            return self.wrap(self.b.call(fn, [x.value for x in xs]))
        result: Any = llir.Constant(self.float_type, llir.Undefined)
        for i in range(self.lanes):
            index = llir.IntType(32)(i)
            parts = [self.b.extract_element(x.value, index) for x in xs]
            result = self.b.insert_element(result, self.b.call(fn, parts), index)
        return self.wrap(result)

    def fma(self, x: Lanes, y: Lanes | float, z: Lanes | float) -> Lanes:
        """The sum x * y + z, rounded once where the target has the instruction."""
        if not self.has_fma:
            return x * y + z
        return self.intrinsic("fma", x, self.lift(y), self.lift(z))

    def polynomial(self, x: Lanes, coefficients: Sequence[float]) -> Lanes:
        """The polynomial with these coefficients, lowest power first.

        The even and the odd powers of a long one are summed apart, which takes half as long: the
        steps of Horner's scheme wait for each other.
        """
        if len(coefficients) < LONG or not self.has_fma:
            return self.horner(x, coefficients)
        even, odd = (self.horner(x * x, coefficients[i::2]) for i in (0, 1))
        return self.fma(odd, x, even)

    def horner(self, x: Lanes, coefficients: Sequence[float]) -> Lanes:
        """The same by Horner's scheme."""
        acc = self.fma(x, coefficients[-1], coefficients[-2])
        for c in coefficients[-3::-1]:
            acc = self.fma(acc, x, c)
        return acc

    def poly(self, name: str, x: Lanes) -> Lanes:
        """A fitted polynomial of this format."""
        return self.polynomial(x, self.fmt.poly[name])

    def odd_poly(self, name: str, x: Lanes, z: Lanes) -> Lanes:
        """The sum x + x * z * p(z)."""
        return self.fma(x * z, self.poly(name, z), x)

    def select(self, mask: Any, x: Lanes | float, y: Lanes | float) -> Lanes:
        """Lanes of x where the mask is set, else of y."""
        return self.wrap(self.b.select(mask, self.unwrap(x), self.unwrap(y)))

    def maximum(self, x: Lanes, y: Lanes | float) -> Lanes:
        """The greater, NaN if either is; zeros of both signs are equal."""
        return self.intrinsic("maximum", x, self.lift(y), flags=("nsz",))

    def minimum(self, x: Lanes, y: Lanes | float) -> Lanes:
        """The smaller, NaN if either is; zeros of both signs are equal."""
        return self.intrinsic("minimum", x, self.lift(y), flags=("nsz",))

    def copysign(self, x: Lanes, sign: Lanes) -> Lanes:
        """The magnitude of x with the other sign bit."""
        return self.intrinsic("copysign", x, sign)

    def bits(self, x: Lanes) -> Any:
        """The bit patterns as integers."""
        return self.b.bitcast(x.value, self.int_type)

    def from_bits(self, value: Any) -> Lanes:
        """Integers taken as bit patterns."""
        return self.wrap(self.b.bitcast(value, self.float_type))

    def convert(self, fmt: Format) -> Math:
        """The same emission in another format."""
        return Math(self.b, fmt, self.lanes, self.has_fma)


def _declare(module: Any, name: str, ty: Any, arity: int) -> Any:
    fn = module.globals.get(name)
    return fn or llir.Function(module, llir.FunctionType(ty, [ty] * arity), name)


def through_f64(function: Callable[..., Lanes]) -> Callable[..., Lanes]:
    """The function of f32 computed in f64."""

    def wrapped(m: Math, *xs: Lanes) -> Lanes:
        if m.fmt is F64:
            return function(m, *xs)
        wide = m.convert(F64)
        result = function(wide, *[wide.wrap(m.b.fpext(x.value, wide.float_type)) for x in xs])
        return m.wrap(m.b.fptrunc(result.value, m.float_type))

    return wrapped
