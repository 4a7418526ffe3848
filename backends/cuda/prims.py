"""Scalar primitives, literals and conversions as Python text for numba.

In registers f16 and bf16 are f32 that are rounded after each operation, and bool is Python's; numba
widens narrow integers in arithmetic, so that their results are cast back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from pjit.ir.errors import PjitError
from pjit.ir.types import DType

_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
_COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_BITS = {"and": "&", "or": "|", "xor": "^"}
_LIBDEVICE = {"abs": "fabs", "round": "rint"}
_LIBDEVICE |= {
    n: n
    for n in "sqrt exp expm1 log log1p tanh sinh cosh erf sin cos tan asin acos atan asinh acosh "
    "atanh floor ceil trunc pow atan2 copysign fmod fma".split()
}
# Results that a narrow float represents whenever its operands are of its type.
_EXACT = {"neg", "abs", "floor", "ceil", "round", "trunc", "min", "max", "copysign", "fmod"}
_BOOL = {"add": "or", "max": "or", "or": "or", "mul": "and", "min": "and", "and": "and"}


def register(dt: DType) -> str:
    """NumPy's name of the type that a value of the dtype has in registers."""
    if dt.kind == "b":
        return "bool_"
    return "float32" if dt.is_float and dt.bits < 32 else dt.numpy.name


def memory(dt: DType) -> str:
    """NumPy's name of the type that an element of the dtype has in memory."""
    if dt.kind == "b":
        return "uint8"
    return "uint16" if dt.is_float and dt.bits == 16 else dt.numpy.name


def literal(value: Any, dt: DType) -> str:
    """A constant of the dtype."""
    if dt.kind == "b":
        return str(bool(value))
    if not dt.is_float:
        whole = int(value)
        text = str(whole) if whole > -(2**63) else f"{whole + 1} - 1"
        return f"np.{register(dt)}({text})"
    number = float(np.asarray(value, dt.numpy))
    if math.isfinite(number):
        text = str(getattr(np, register(dt))(number))
    else:
        text = "np.nan" if number != number else ("np.inf" if number > 0 else "-np.inf")
    return f"np.{register(dt)}({text})"


def identity(combine: str, dt: DType) -> str:
    """The value that a combining primitive leaves others unchanged with."""
    if dt.kind == "b":
        return str(combine in ("and", "mul", "min"))
    if dt.is_float:
        values = {"add": -0.0, "mul": 1.0, "max": -math.inf, "min": math.inf}
        return literal(values[combine], dt)
    info = np.iinfo(dt.numpy)
    ints = {"add": 0, "mul": 1, "max": info.min, "min": info.max, "or": 0}
    return literal(ints.get(combine, -1 if dt.kind == "i" else info.max), dt)


class Prims:
    """Writes primitives.

    Args:
        let: Gives an expression a name, in a line of its own.
        used: Called with the name of each device function that a text needs.
    """

    def __init__(self, let: Callable[[str], str], used: Callable[[str], None]) -> None:
        self.let, self.used = let, used

    def emit(self, name: str, dt: DType, *xs: str) -> str:
        """A primitive on operands of a dtype (for ``select``: that of the values).

        Raises:
            PjitError: The back end does not have it for this dtype.
        """
        if name == "select":
            return f"{xs[1]} if {xs[0]} else {xs[2]}"
        if name in _COMPARE:
            return f"{xs[0]} {_COMPARE[name]} {xs[1]}"
        if dt.kind == "b":
            return self._bool(name, *xs)
        if dt.is_int:
            return self._int(name, dt, *xs)
        value = self._float(name, dt, *xs)
        return value if name in _EXACT else self.rounded(dt, value)

    def rounded(self, dt: DType, x: str) -> str:
        """An f32 rounded to what the dtype holds; others as they are."""
        if not dt.is_float or dt.bits >= 32:
            return x
        return self.widen(dt, self.narrow(dt, x))

    def widen(self, dt: DType, x: str) -> str:
        """The f32 of the bits of an f16 or bf16."""
        self.used(f"{dt.name}_to_f32")
        return f"{dt.name}_to_f32({x})"

    def narrow(self, dt: DType, x: str) -> str:
        """The bits of an f32 rounded to f16 or bf16."""
        self.used(f"f32_to_{dt.name}")
        return f"f32_to_{dt.name}({x})"

    def from_memory(self, dt: DType, x: str) -> str:
        """A value as loaded, as it is in registers."""
        if dt.kind == "b":
            return f"{x} != 0"
        return self.widen(dt, x) if dt.is_float and dt.bits == 16 else x

    def to_memory(self, dt: DType, x: str) -> str:
        """A value as in registers, as it is stored."""
        if dt.kind == "b":
            return f"np.uint8({x})"
        return self.narrow(dt, x) if dt.is_float and dt.bits == 16 else x

    def cast(self, x: str, source: DType, target: DType) -> str:
        """Converts between dtypes; see ``k.cast``."""
        if target.kind == "b":
            return f"{x} != {literal(0, source)}"
        if source.is_float and target.is_int and target.bits < 32:
            x = f"np.int32({x})"
        if source.is_float and target.is_float and register(source) == register(target):
            return self.rounded(target, x)
        return self.rounded(target, f"np.{register(target)}({x})")

    # Floats

    def _float(self, name: str, dt: DType, *xs: str) -> str:
        of = register(dt)
        if name in _INFIX:
            return f"{xs[0]} {_INFIX[name]} {xs[1]}"
        if name == "neg":
            return f"-{xs[0]}"
        if name == "sigmoid":
            one, e = f"np.{of}(1.0)", self._call("exp", of, f"-{xs[0]}")
            return f"{one} / ({one} + {e})"
        if name == "gelu":
            return f"{xs[0]} * {self._call('normcdf', of, xs[0])}"
        if name in ("min", "max"):
            return self._extremum(name, of, *xs)
        if name in ("mod", "floordiv"):
            return getattr(self, "_float_" + name)(of, *xs)
        if name in _LIBDEVICE:
            return self._call(_LIBDEVICE[name], of, *xs)
        raise _missing(name, dt)

    def _call(self, name: str, of: str, *xs: str) -> str:
        self.used("libdevice")
        return f"libdevice.{name}{'f' if of == 'float32' else ''}({', '.join(xs)})"

    def _extremum(self, name: str, of: str, x: str, y: str) -> str:
        if of == "float32":
            self.used(name + "imum")
            return f"{name}imum({x}, {y})"
        sign = "<" if name == "min" else ">"
        return f"{x} if {x} {sign} {y} or {x} != {x} else {y}"

    def _float_mod(self, of: str, x: str, y: str) -> str:
        """As NumPy: the remainder of ``fmod``, moved to the sign of y."""
        zero = f"np.{of}(0.0)"
        r = self.let(self._call("fmod", of, x, y))
        moved = self.let(f"{r} + {y} if ({r} < {zero}) != ({y} < {zero}) else {r}")
        return f"{moved} if {r} != {zero} else {self._call('copysign', of, zero, y)}"

    def _float_floordiv(self, of: str, x: str, y: str) -> str:
        """As NumPy: from the quotient less the remainder."""
        zero, one = f"np.{of}(0.0)", f"np.{of}(1.0)"
        r = self.let(self._call("fmod", of, x, y))
        q = self.let(f"({x} - {r}) / {y}")
        below = f"{r} != {zero} and ({r} < {zero}) != ({y} < {zero})"
        q = self.let(f"{q} - {one} if {below} else {q}")
        q = self.let(self._call("rint", of, q))
        plain = self.let(f"{x} / {y}")
        signed = self._call("copysign", of, zero, plain)
        return f"{plain} if {y} == {zero} else ({signed} if {q} == {zero} else {q})"

    # Bools and integers

    def _bool(self, name: str, *xs: str) -> str:
        if name == "not":
            return f"not {xs[0]}"
        if name == "xor":
            return f"{xs[0]} != {xs[1]}"
        return f"{xs[0]} {_BOOL[name]} {xs[1]}"

    def _int(self, name: str, dt: DType, *xs: str) -> str:
        of = f"np.{register(dt)}"
        if name in ("floor", "ceil", "round", "trunc"):
            return xs[0]
        if name in ("min", "max"):
            return f"{name}({xs[0]}, {xs[1]})"
        if name in ("div", "floordiv", "mod", "fmod"):
            return self._int_divide(name, dt, *xs)
        simple = {"neg": "-{0}", "not": "~{0}", "abs": "abs({0})", "fma": "{0} * {1} + {2}"}
        simple |= {k: f"{{0}} {v} {{1}}" for k, v in (_INFIX | _BITS).items()}
        if name == "abs" and dt.kind == "u":
            return xs[0]
        if name in simple:
            return f"{of}({simple[name].format(*xs)})"
        if name in ("shl", "shr"):
            return self._shift(name, dt, *xs)
        if name == "pow":
            return self._power(dt, *xs)
        raise _missing(name, dt)

    def _shift(self, name: str, dt: DType, x: str, y: str) -> str:
        of, zero, last = f"np.{register(dt)}", literal(0, dt), literal(dt.bits - 1, dt)
        inside = f"{y} <= {last}" if dt.kind == "u" else f"{zero} <= {y} <= {last}"
        amount = self.let(f"{y} if {inside} else {last}")
        if name == "shr" and dt.kind == "i":
            return f"{of}({x} >> {amount})"
        return f"{of}({x} {'<<' if name == 'shl' else '>>'} {amount}) if {inside} else {zero}"

    def _int_divide(self, name: str, dt: DType, x: str, y: str) -> str:
        """Quotient or remainder; 0 for y = 0, and the smallest integer / -1 wraps."""
        of, zero, one = f"np.{register(dt)}", literal(0, dt), literal(1, dt)
        if dt.kind == "u":
            d = self.let(f"{y} if {y} != {zero} else {one}")
            sign = "%" if name in ("mod", "fmod") else "//"
            return f"{of}({x} {sign} {d}) if {y} != {zero} else {zero}"
        minus = literal(-1, dt)
        d = self.let(f"{one} if {y} == {zero} or {y} == {minus} else {y}")
        q = self.let(f"{of}({x} // {d})")  # rounded down
        if name in ("div", "fmod"):
            q = self.let(f"{of}({q} + {one}) if {q} < {zero} and {q} * {d} != {x} else {q}")
        q = self.let(f"{of}(-{x}) if {y} == {minus} else {q}")
        value = f"{of}({x} - {q} * {y})" if name in ("mod", "fmod") else q
        return f"{value} if {y} != {zero} else {zero}"

    def _power(self, dt: DType, x: str, y: str) -> str:
        """Wraps; a negative exponent gives 1 / x**-y rounded towards zero."""
        of, zero, one = f"np.{register(dt)}", literal(0, dt), literal(1, dt)
        self.used("power")
        result = f"{of}(power(np.uint64({x}), np.uint64({y})))"
        if dt.kind == "u":
            return result
        minus = literal(-1, dt)
        sign = self.let(f"{x} if {y} & {one} else {one}")
        inverse = self.let(f"{sign} if {x} == {one} or {x} == {minus} else {zero}")
        return f"{result} if {y} >= {zero} else {inverse}"


def _missing(name: str, dt: DType) -> PjitError:
    return PjitError(f"the CUDA back end has no {name} of {dt} yet")
