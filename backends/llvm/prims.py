"""The scalar primitives of the kernel level on LLVM values of any number of lanes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from pjit.backends.llvm import vecmath
from pjit.backends.llvm.lanes import (
    F16,
    F32,
    F64,
    I1,
    I16,
    I32,
    I64,
    any_lane,
    constant,
    element_of,
    intrinsic,
    lanes_of,
    register_type,
    splat,
    vector,
)
from pjit.ir.target import Machine
from pjit.ir.types import DType

_COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_MATH = {"min": "minimum", "max": "maximum"}
_ARITHMETIC = {"add", "sub", "mul", "div"}
# Results that a narrow float represents whenever its operands are of its type.
_EXACT = {"neg", "abs", "floor", "ceil", "round", "trunc", "min", "max", "copysign", "select"}
_BOOL = {"add": "or", "max": "or", "mul": "and", "min": "and"}


class Prims:
    """Emits primitives at a builder; operands with and without lanes mix.

    Args:
        b: The builder.
        machine: The target.
    """

    def __init__(self, b: ir.IRBuilder, machine: Machine) -> None:
        self.b, self.machine = b, machine

    def emit(self, name: str, dt: DType, *xs: Any) -> Any:
        """A primitive on operands of a dtype (for ``select``: that of the values)."""
        n = max(lanes_of(x) for x in xs)
        if name == "select":
            condition, *values = xs
            values = [splat(self.b, v, n) for v in values]
            return self.b.select(condition, *values)
        xs = tuple(splat(self.b, x, n) for x in xs)
        if name in _COMPARE:
            return self._compare(_COMPARE[name], dt, *xs)
        if dt.kind == "b":
            return self._bool(name, *xs)
        if dt.is_int:
            return self._int(name, dt, *xs)
        value = self._float(name, *xs)
        return value if name in _EXACT else self.round(dt, value)

    def const(self, value: Any, dt: DType) -> ir.Constant:
        """A scalar constant, rounded to the dtype."""
        with np.errstate(all="ignore"):
            rounded = np.asarray(value).astype(dt.numpy)
        return constant(register_type(dt), float(rounded) if dt.is_float else int(rounded))

    # Floats

    def _float(self, name: str, *xs: Any) -> Any:
        b = self.b
        if name in _ARITHMETIC:
            return getattr(b, "f" + name)(*xs)
        if name == "neg":
            return b.fneg(*xs)
        if name == "abs":
            return intrinsic(b, "fabs", *xs)
        if name == "floordiv":
            return self._float_floordiv(*xs)
        return vecmath.emit(_MATH.get(name, name), b, *xs, has_fma=self.machine.fma)

    def _float_floordiv(self, x: Any, y: Any) -> Any:
        """As NumPy: from the quotient less the remainder."""
        b, n = self.b, lanes_of(x)
        zero, one = (constant(element_of(x), v, n) for v in (0.0, 1.0))
        r = vecmath.emit("fmod", b, x, y, has_fma=self.machine.fma)
        q = b.fdiv(b.fsub(x, r), y)
        opposite = b.xor(b.fcmp_ordered("<", r, zero), b.fcmp_ordered("<", y, zero))
        below = b.and_(opposite, b.fcmp_unordered("!=", r, zero))
        q = intrinsic(b, "rint", b.select(below, b.fsub(q, one), q))
        plain = b.fdiv(x, y)
        signed_zero = vecmath.emit("copysign", b, zero, plain)
        q = b.select(b.fcmp_ordered("==", q, zero), signed_zero, q)
        return b.select(b.fcmp_ordered("==", y, zero), plain, q)

    def round(self, dt: DType, x: Any) -> Any:
        """An f32 rounded to what the dtype holds; others as they are."""
        if not dt.is_float or dt.bits > 16:
            return x
        return self.widen(dt, self.narrow(dt, x))

    def narrow(self, dt: DType, x: Any) -> Any:
        """The 16 bits of an f32 rounded to f16 or bf16."""
        b, n = self.b, lanes_of(x)
        i16 = vector(I16, n)
        if dt.name == "f16" and getattr(self.machine, "f16c", True):
            return b.bitcast(b.fptrunc(x, vector(F16, n)), i16)
        bits = b.bitcast(x, vector(I32, n))
        return b.trunc(
            self._f16_bits(bits, n) if dt.name == "f16" else self._bf16_bits(bits, n), i16
        )

    def widen(self, dt: DType, x: Any) -> Any:
        """The f32 of the 16 bits of an f16 or bf16."""
        b, n = self.b, lanes_of(x)
        f32 = vector(F32, n)
        if dt.name == "f16" and getattr(self.machine, "f16c", True):
            return b.fpext(b.bitcast(x, vector(F16, n)), f32)
        wide = b.zext(x, vector(I32, n))
        if dt.name == "bf16":
            return b.bitcast(b.shl(wide, constant(I32, 16, n)), f32)
        return self._f16_value(wide, n)

    def _bf16_bits(self, bits: Any, n: int) -> Any:
        """Round to nearest even on the bit pattern; NaN stays a quiet NaN."""
        b = self.b
        odd = b.and_(b.lshr(bits, constant(I32, 16, n)), constant(I32, 1, n))
        rounded = b.add(bits, b.add(odd, constant(I32, 0x7FFF, n)))
        magnitude = b.and_(bits, constant(I32, 0x7FFFFFFF, n))
        nan = b.icmp_unsigned(">", magnitude, constant(I32, 0x7F800000, n))
        quiet = b.or_(bits, constant(I32, 0x00400000, n))
        return b.lshr(b.select(nan, quiet, rounded), constant(I32, 16, n))

    def _f16_bits(self, bits: Any, n: int) -> Any:
        """f32 to f16 in integers: for targets without the instruction."""
        b = self.b

        def c(v: int) -> Any:
            return constant(I32, v, n)

        sign = b.and_(b.lshr(bits, c(16)), c(0x8000))
        magnitude = b.and_(bits, c(0x7FFFFFFF))
        odd = b.and_(b.lshr(magnitude, c(13)), c(1))
        normal = b.lshr(b.add(b.add(magnitude, c(0xC8000FFF)), odd), c(13))
        # below 2**-14 adding 1/2 leaves the subnormal's bits, rounded, at the end of the mantissa
        f32 = vector(F32, n)
        half = b.fadd(b.bitcast(magnitude, f32), constant(F32, 0.5, n))
        subnormal = b.sub(b.bitcast(half, vector(I32, n)), c(0x3F000000))
        out = b.select(b.icmp_unsigned("<", magnitude, c(0x38800000)), subnormal, normal)
        out = b.select(b.icmp_unsigned(">=", magnitude, c(0x477FF000)), c(0x7C00), out)
        out = b.select(b.icmp_unsigned(">", magnitude, c(0x7F800000)), c(0x7E00), out)
        return b.or_(out, sign)

    def _f16_value(self, wide: Any, n: int) -> Any:
        """f16 to f32 in integers and one exact multiplication."""
        b = self.b
        f32, i32 = vector(F32, n), vector(I32, n)

        def c(v: int) -> Any:
            return constant(I32, v, n)

        magnitude = b.shl(b.and_(wide, c(0x7FFF)), c(13))
        scaled = b.fmul(b.bitcast(magnitude, f32), constant(F32, 2.0**112, n))
        special = b.icmp_unsigned(">=", magnitude, c(0x0F800000))
        value = b.select(special, b.or_(magnitude, c(0x7F800000)), b.bitcast(scaled, i32))
        return b.bitcast(b.or_(value, b.shl(b.and_(wide, c(0x8000)), c(16))), f32)

    # Bools and integers

    def _bool(self, name: str, *xs: Any) -> Any:
        name = _BOOL.get(name, name)
        if name == "not":
            return self.b.not_(*xs)
        methods = {"and": self.b.and_, "or": self.b.or_, "xor": self.b.xor}
        return methods[name](*xs)

    def _compare(self, op: str, dt: DType, x: Any, y: Any) -> Any:
        if dt.is_float:
            method = self.b.fcmp_unordered if op == "!=" else self.b.fcmp_ordered
        else:
            method = self.b.icmp_signed if dt.kind == "i" else self.b.icmp_unsigned
        return method(op, x, y)

    def _int(self, name: str, dt: DType, *xs: Any) -> Any:
        b, n, signed = self.b, lanes_of(xs[0]), dt.kind == "i"
        element = element_of(xs[0])
        if name in ("min", "max"):
            return intrinsic(b, ("s" if signed else "u") + name, *xs)
        if name in ("shl", "shr"):
            return self._shift(name, signed, *xs)
        if name in ("div", "floordiv", "mod", "fmod"):
            return self._divide(name, signed, *xs)
        if name == "pow":
            return self._power(signed, *xs)
        if name == "abs":
            negative = b.icmp_signed("<", xs[0], constant(element, 0, n))
            return b.select(negative, b.neg(*xs), xs[0]) if signed else xs[0]
        if name == "fma":
            return b.add(b.mul(xs[0], xs[1]), xs[2])
        if name in ("floor", "ceil", "round", "trunc"):
            return xs[0]
        methods: dict[str, Callable] = {
            "add": b.add,
            "sub": b.sub,
            "mul": b.mul,
            "and": b.and_,
            "or": b.or_,
            "xor": b.xor,
            "neg": b.neg,
            "not": b.not_,
        }
        return methods[name](*xs)

    def _shift(self, name: str, signed: bool, x: Any, y: Any) -> Any:
        b, n, element = self.b, lanes_of(x), element_of(x)
        last = constant(element, element.width - 1, n)
        inside = b.icmp_unsigned("<=", y, last)
        amount = b.select(inside, y, last)
        if name == "shr" and signed:
            return b.ashr(x, amount)
        shifted = b.shl(x, amount) if name == "shl" else b.lshr(x, amount)
        return b.select(inside, shifted, constant(element, 0, n))

    def _divide(self, name: str, signed: bool, x: Any, y: Any) -> Any:
        """Quotient or remainder; 0 for y = 0, and the smallest integer / -1 wraps."""
        b, n, element = self.b, lanes_of(x), element_of(x)
        zero, one = constant(element, 0, n), constant(element, 1, n)
        by_zero = b.icmp_unsigned("==", y, zero)
        if not signed:
            q = self._quotient(x, b.select(by_zero, one, y), signed)
            value = b.sub(x, b.mul(q, y)) if name in ("mod", "fmod") else q
            return b.select(by_zero, zero, value)
        minus = b.icmp_signed("==", y, constant(element, -1, n))
        q = self._quotient(x, b.select(b.or_(by_zero, minus), one, y), signed)
        q = b.select(minus, b.neg(x), q)
        r = b.sub(x, b.mul(q, y))
        if name in ("floordiv", "mod"):
            opposite = b.icmp_signed("<", b.xor(r, y), zero)
            below = b.and_(opposite, b.icmp_signed("!=", r, zero))
            q = b.select(below, b.sub(q, one), q)
            r = b.select(below, b.add(r, y), r)
        return b.select(by_zero, zero, r if name in ("mod", "fmod") else q)

    def _quotient(self, x: Any, y: Any, signed: bool) -> Any:
        """Truncated; for narrow integers in lanes by floats, which are exact enough."""
        b, n, bits = self.b, lanes_of(x), element_of(x).width
        if n == 1 or bits == 64:
            return b.sdiv(x, y) if signed else b.udiv(x, y)
        f = vector(F32 if bits <= 16 else F64, n)
        to_float, to_int = (b.sitofp, b.fptosi) if signed else (b.uitofp, b.fptoui)
        return to_int(b.fdiv(to_float(x, f), to_float(y, f)), x.type)

    def _power(self, signed: bool, x: Any, y: Any) -> Any:
        """By squaring; a negative exponent gives 1/x**-y rounded towards zero."""
        b, n, element = self.b, lanes_of(x), element_of(x)
        zero, one = constant(element, 0, n), constant(element, 1, n)
        before, loop = b.block, b.append_basic_block("power")
        done = b.append_basic_block("power.end")
        b.branch(loop)
        b.position_at_end(loop)
        result, base, left = (b.phi(x.type) for _ in range(3))
        odd = b.icmp_unsigned("!=", b.and_(left, one), zero)
        next_result = b.select(odd, b.mul(result, base), result)
        next_base, next_left = b.mul(base, base), b.lshr(left, one)
        more = any_lane(b, b.icmp_unsigned("!=", next_left, zero))
        for phi, first, again in (
            (result, one, next_result),
            (base, x, next_base),
            (left, y, next_left),
        ):
            phi.add_incoming(first, before)
            phi.add_incoming(again, loop)
        b.cbranch(more, loop, done)
        b.position_at_end(done)
        if not signed:
            return next_result
        unit = b.or_(b.icmp_signed("==", x, one), b.icmp_signed("==", x, constant(element, -1, n)))
        sign = b.select(b.icmp_unsigned("!=", b.and_(y, one), zero), x, one)
        inverse = b.select(unit, sign, zero)
        return b.select(b.icmp_signed("<", y, zero), inverse, next_result)

    # Conversions

    def cast(self, x: Any, source: DType, target: DType) -> Any:
        """Converts between dtypes; see ``k.cast``."""
        b, n = self.b, lanes_of(x)
        out = register_type(target, n)
        if target.kind == "b":
            return self._compare("!=", source, x, constant(element_of(x), 0, n))
        if source.is_float and target.is_float:
            return self._cast_float(x, source, target, out)
        if source.is_float:
            return self._float_to_int(x, target, n)
        if target.is_float:
            to_float = b.sitofp if source.kind == "i" else b.uitofp
            return self.round(target, to_float(x, out))
        return self._resize(x, out, source.kind == "i")

    def _resize(self, x: Any, out: ir.Type, signed: bool) -> Any:
        have, want = element_of(x).width, (out.element if lanes_of(x) > 1 else out).width
        if have == want:
            return x
        if have > want:
            return self.b.trunc(x, out)
        return self.b.sext(x, out) if signed else self.b.zext(x, out)

    def _cast_float(self, x: Any, source: DType, target: DType, out: ir.Type) -> Any:
        wide = source.name == "f64"
        if target.bits > 16:
            if wide == (target.name == "f64"):
                return x
            return self.b.fptrunc(x, out) if wide else self.b.fpext(x, out)
        return self.round(target, self._to_odd(x) if wide else x)

    def _to_odd(self, x: Any) -> Any:
        """f64 to f32 rounded to odd, so that rounding once more is as good as rounding once."""
        b, n = self.b, lanes_of(x)
        y = b.fptrunc(x, vector(F32, n))
        back = b.fpext(y, x.type)
        bits = b.bitcast(y, vector(I32, n))
        above = b.fcmp_ordered(">", intrinsic(b, "fabs", back), intrinsic(b, "fabs", x))
        down = b.select(above, b.sub(bits, constant(I32, 1, n)), bits)
        inexact = b.fcmp_ordered("!=", back, x)
        odd = b.select(inexact, b.or_(down, constant(I32, 1, n)), bits)
        return b.bitcast(odd, vector(F32, n))

    def _float_to_int(self, x: Any, target: DType, n: int) -> Any:
        """Narrow and unsigned integers go through a wider signed one, as C compilers do."""
        b = self.b
        if target.name == "u64":
            high = b.fcmp_ordered(">=", x, constant(element_of(x), 2.0**63, n))
            unsigned = intrinsic(b, "fptoui.sat", x, result=vector(I64, n))
            return b.select(high, unsigned, intrinsic(b, "fptosi.sat", x, result=vector(I64, n)))
        through = I64 if target.bits == 64 or target.name == "u32" else I32
        value = intrinsic(b, "fptosi.sat", x, result=vector(through, n))
        return self._resize(value, register_type(target, n), True)

    # Memory

    def from_memory(self, dt: DType, x: Any) -> Any:
        """A value as loaded, as it is in registers."""
        if dt.kind == "b":
            return self.b.icmp_unsigned("!=", x, constant(element_of(x), 0, lanes_of(x)))
        return self.widen(dt, x) if dt.is_float and dt.bits == 16 else x

    def to_memory(self, dt: DType, x: Any) -> Any:
        """A value as in registers, as it is stored."""
        if dt.kind == "b":
            return self.b.zext(x, vector(ir.IntType(8), lanes_of(x)))
        return self.narrow(dt, x) if dt.is_float and dt.bits == 16 else x

    def identity(self, combine: str, dt: DType) -> ir.Constant:
        """The value that a combining primitive leaves others unchanged with."""
        if dt.kind == "b":
            return constant(I1, combine in ("and", "mul", "min"))
        if dt.is_int and combine in ("min", "max", "and"):
            info = np.iinfo(dt.numpy)
            values = {"min": info.max, "max": info.min, "and": -1}
            return constant(register_type(dt), int(values[combine]))
        floats = {"add": -0.0, "mul": 1.0, "max": float("-inf"), "min": float("inf"), "or": 0.0}
        return constant(register_type(dt), floats[combine] if dt.is_float else int(floats[combine]))
