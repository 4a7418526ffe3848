"""NumPy's ufuncs in terms of the elementwise operators, on values of the dtypes of the chosen loop.

``np.ufunc.resolve_dtypes`` chooses the loop, so promotion is NumPy's own. An entry of ``UFUNCS``
computes the results from operands of the loop's dtypes; the caller casts them to the loop's result
dtypes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from pjit.ir import ops
from pjit.ir.core import Op, Value
from pjit.ir.types import DType, bf16, bool_, dtype, f16, f32, i32
from pjit.tracing.trace import Trace

Rule = Callable[..., Any]


def cast(t: Trace, x: Value, element: DType) -> Value:
    """The value in a dtype; nothing is built when it has it."""
    return x if x.dtype == element else t(ops.Cast, x, dtype=element)


def as_bool(t: Trace, x: Value) -> Value:
    """Whether each element is not zero (NaN is not)."""
    return x if x.dtype == bool_ else t(ops.Ne, x, t.scalar(0, x.dtype))


def full(t: Trace, value: Any, like: Value, element: DType | None = None) -> Value:
    """One number in the shape of a value."""
    return t(ops.Broadcast, t.scalar(value, element or like.dtype), shape=like.shape)


def _op(cls: type[Op], on_bool: Rule | None = None) -> Rule:
    def rule(t: Trace, *xs: Value) -> Value:
        if xs[0].dtype == bool_ and on_bool is not None:
            return on_bool(t, *xs)
        return t(cls, *xs)

    return rule


def _same(t: Trace, x: Value) -> Value:
    return x


def _unless_float(cls: type[Op]) -> Rule:
    """The operator for floats; integers and bool are what they are."""
    return lambda t, x: t(cls, x) if x.dtype.is_float else x


def _floats_only(cls: type[Op]) -> Rule:
    """A question about floats, which is false for integers."""
    return lambda t, x: t(cls, x) if x.dtype.is_float else full(t, False, x, bool_)


def _in_f32(rule: Rule) -> Rule:
    """Composes operators in f32 on 16-bit floats, which rounds once."""

    def widened(t: Trace, *xs: Value) -> Value:
        element = xs[0].dtype
        if element not in (f16, bf16):
            return rule(t, *xs)
        return cast(t, rule(t, *(cast(t, x, f32) for x in xs)), element)

    return widened


def _times(factor: float) -> Rule:
    return _in_f32(lambda t, x: t(ops.Mul, x, t.scalar(factor, x.dtype)))


def _logarithm(base: float) -> Rule:
    return _in_f32(lambda t, x: t(ops.Div, t(ops.Log, x), t.scalar(math.log(base), x.dtype)))


@_in_f32
def _cbrt(t: Trace, x: Value) -> Value:
    root = t(ops.Pow, t(ops.Abs, x), t.scalar(1 / 3, x.dtype))
    return t(ops.Copysign, root, x)


@_in_f32
def _hypot(t: Trace, x: Value, y: Value) -> Value:
    x, y = t(ops.Abs, x), t(ops.Abs, y)
    large, small = t(ops.Max, x, y), t(ops.Min, x, y)
    one, inf = t.scalar(1, x.dtype), t.scalar(np.inf, x.dtype)
    divisor = t(ops.Where, t(ops.Eq, large, t.scalar(0, x.dtype)), one, large)
    ratio = t(ops.Div, small, divisor)
    norm = t(ops.Mul, large, t(ops.Sqrt, t(ops.Add, one, t(ops.Mul, ratio, ratio))))
    infinite = t(ops.Or, t(ops.Eq, x, inf), t(ops.Eq, y, inf))
    return t(ops.Where, infinite, inf, norm)


def _logaddexp(exp: Rule, log1p: Rule, equal: float) -> Rule:
    @_in_f32
    def rule(t: Trace, x: Value, y: Value) -> Value:
        distance = t(ops.Neg, t(ops.Abs, t(ops.Sub, x, y)))
        unequal = t(ops.Add, t(ops.Max, x, y), log1p(t, exp(t, distance)))
        same = t(ops.Add, x, t.scalar(equal, x.dtype))
        return t(ops.Where, t(ops.Eq, x, y), same, unequal)

    return rule


def _exp2(t: Trace, x: Value) -> Value:
    return t(ops.Pow, t.scalar(2, x.dtype), x)


def _log2_1p(t: Trace, x: Value) -> Value:
    return t(ops.Div, t(ops.Log1p, x), t.scalar(math.log(2), x.dtype))


def _heaviside(t: Trace, x: Value, h: Value) -> Value:
    zero, one = t.scalar(0, x.dtype), t.scalar(1, x.dtype)
    step = t(ops.Where, t(ops.Gt, x, zero), one, zero)
    step = t(ops.Where, t(ops.Eq, x, zero), h, step)
    return t(ops.Where, t(ops.Isnan, x), x, step)


def _ignoring_nan(cls: type[Op], on_bool: Rule) -> Rule:
    def rule(t: Trace, x: Value, y: Value) -> Value:
        if x.dtype == bool_:
            return on_bool(t, x, y)
        if not x.dtype.is_float:
            return t(cls, x, y)
        best = t(ops.Where, t(ops.Isnan, y), x, t(cls, x, y))
        return t(ops.Where, t(ops.Isnan, x), y, best)

    return rule


def _signbit(t: Trace, x: Value) -> Value:
    sign = t(ops.Copysign, t.scalar(1, x.dtype), x)
    return t(ops.Lt, sign, t.scalar(0, x.dtype))


def _isfinite(t: Trace, x: Value) -> Value:
    if not x.dtype.is_float:
        return full(t, True, x, bool_)
    return t(ops.Lt, t(ops.Abs, x), t.scalar(np.inf, x.dtype))


def _modf(t: Trace, x: Value) -> tuple[Value, Value]:
    whole = t(ops.Trunc, x)
    infinite = t(ops.Isinf, x, detect_negative=True, detect_positive=True)
    part = t(ops.Where, infinite, t.scalar(0, x.dtype), t(ops.Sub, x, whole))
    return t(ops.Copysign, part, x), whole


def _nextafter(t: Trace, x: Value, y: Value) -> Value:
    """The next float towards y.

    After S. Rump et al., "Computing predecessor and successor in rounding to nearest" (BIT, 2009):
    away from zero, x + u (1 + 2 u) |x| rounds to the neighbour, where u is half of the precision.
    16-bit floats compute in f32; of the others, numbers that are not large are scaled, so that
    nothing is subnormal on the way.
    """
    element = x.dtype
    info = ml_dtypes.finfo(element.numpy)
    wide = f32 if element.bits < 32 else element
    u, least = float(info.eps) / 2, float(info.smallest_subnormal)

    def number(value: float) -> Value:
        return t.scalar(value, wide)

    x, y = cast(t, x, wide), cast(t, y, wide)
    size, zero = t(ops.Abs, x), t(ops.Eq, x, number(0))
    grows = t(ops.Or, zero, t(ops.Eq, t(ops.Gt, y, x), t(ops.Gt, x, number(0))))

    def moved(size: Value, step: Value) -> Value:
        return t(ops.Add, size, t(ops.Where, grows, step, t(ops.Neg, step)))

    def neighbour(size: Value) -> Value:
        return moved(size, t(ops.Mul, number(u * (1 + 2 * u)), size))

    result = neighbour(size)
    if wide is element:
        scaled = t(ops.Mul, neighbour(t(ops.Mul, size, number(1 / u))), number(u))
        result = t(ops.Where, t(ops.Lt, size, number(1)), scaled, result)
    tiny = t(ops.Lt, size, number(2 * float(info.smallest_normal)))
    result = t(ops.Where, tiny, moved(size, number(least)), result)
    infinite = t(ops.Isinf, x, detect_negative=True, detect_positive=True)
    result = t(ops.Where, infinite, number(float(info.max)), result)
    result = t(ops.Copysign, result, t(ops.Where, zero, y, x))
    same = x if element.bits < 32 else y  # the sign of zero, as NumPy has it
    result = t(ops.Where, t(ops.Eq, x, y), same, result)
    nan = t(ops.Or, t(ops.Isnan, x), t(ops.Isnan, y))
    return cast(t, t(ops.Where, nan, t(ops.Add, x, y), result), element)


def _spacing(t: Trace, x: Value) -> Value:
    up, down = t.scalar(np.inf, x.dtype), t.scalar(-np.inf, x.dtype)
    # Away from zero; of f16 NumPy's is the distance to the next larger one.
    falls = t(ops.Eq, x, down) if x.dtype == f16 else t(ops.Lt, x, t.scalar(0, x.dtype))
    end = t(ops.Where, falls, down, up)
    return t(ops.Sub, _nextafter(t, x, end), x)


def _bitcount(t: Trace, x: Value) -> Value:
    """The number of ones of |x|, by adding neighbours: bits, pairs, fours, ..."""
    unsigned = dtype(np.dtype(f"u{x.dtype.itemsize}"))
    x = cast(t, _absolute(t, x), unsigned)
    shift = 1
    while shift < unsigned.bits:
        every_other = ((1 << unsigned.bits) - 1) // ((1 << shift) + 1)
        mask = t.scalar(every_other, unsigned)
        high = t(ops.And, t(ops.Shr, x, t.scalar(shift, unsigned)), mask)
        x = t(ops.Add, t(ops.And, x, mask), high)
        shift *= 2
    return x


def _divmod(t: Trace, x: Value, y: Value) -> tuple[Value, Value]:
    return t(ops.Floordiv, x, y), t(ops.Mod, x, y)


def _square(t: Trace, x: Value) -> Value:
    return t(ops.And if x.dtype == bool_ else ops.Mul, x, x)


def _reciprocal(t: Trace, x: Value) -> Value:
    return t(ops.Reciprocal, x) if x.dtype.is_float else t(ops.Div, t.scalar(1, x.dtype), x)


def _absolute(t: Trace, x: Value) -> Value:
    return x if x.dtype.kind in "bu" else t(ops.Abs, x)


def _logical(cls: type[Op]) -> Rule:
    return lambda t, *xs: t(cls, *(as_bool(t, x) for x in xs))


def _not(t: Trace, x: Value) -> Value:
    return t(ops.Not, x)


def _compare(cls: type[Op]) -> Rule:
    """A comparison; of a signed with an unsigned integer it is exact, as in NumPy."""

    def rule(t: Trace, x: Value, y: Value) -> Value:
        if x.dtype == y.dtype:
            if x.dtype == bool_ and cls not in (ops.Eq, ops.Ne):
                return t(cls, cast(t, x, i32), cast(t, y, i32))
            return t(cls, x, y)
        signed = x if x.dtype.kind == "i" else y
        negative = t(ops.Lt, signed, t.scalar(0, signed.dtype))
        if signed is x:
            other = t(cls, cast(t, x, y.dtype), y)
        else:
            other = t(cls, x, cast(t, y, x.dtype))
        below = cls in ((ops.Lt, ops.Le, ops.Ne) if signed is x else (ops.Gt, ops.Ge, ops.Ne))
        return t(ops.Where, negative, full(t, below, other), other)

    return rule


def matmul(t: Trace, x: Value, y: Value) -> Value:
    """The product; of bool: whether any pair of elements is true."""
    if x.dtype != bool_:
        return t(ops.Matmul, x, y)
    return as_bool(t, t(ops.Matmul, cast(t, x, i32), cast(t, y, i32)))


def _contract(subscripts: tuple[int, int]) -> Rule:
    """A product with vectors: extra dimensions at the given ends make them matrices."""

    def rule(t: Trace, x: Value, y: Value) -> Value:
        shape_x, shape_y = list(x.shape), list(y.shape)
        if subscripts[0]:
            shape_x.insert(len(shape_x) - 1, 1)
        if subscripts[1]:
            shape_y.append(1)
        product = matmul(t, t(ops.Reshape, x, shape=shape_x), t(ops.Reshape, y, shape=shape_y))
        shape = list(product.shape)
        if subscripts[1]:
            del shape[-1]
        if subscripts[0]:
            del shape[-1 - (not subscripts[1])]
        return t(ops.Reshape, product, shape=shape)

    return rule


_or, _and, _xor = _op(ops.Or), _op(ops.And), _op(ops.Xor)
_power = _op(ops.Pow)

UFUNCS: dict[np.ufunc, Rule] = {
    np.negative: _op(ops.Neg),
    np.positive: _same,
    np.conjugate: _same,
    np.absolute: _absolute,
    np.fabs: _op(ops.Abs),
    np.sign: _op(ops.Sign),
    np.exp: _op(ops.Exp),
    np.exp2: _exp2,
    np.expm1: _op(ops.Expm1),
    np.log: _op(ops.Log),
    np.log2: _logarithm(2),
    np.log10: _logarithm(10),
    np.log1p: _op(ops.Log1p),
    np.logaddexp: _logaddexp(_op(ops.Exp), _op(ops.Log1p), math.log(2)),
    np.logaddexp2: _logaddexp(_exp2, _log2_1p, 1.0),
    np.sqrt: _op(ops.Sqrt),
    np.cbrt: _cbrt,
    np.square: _square,
    np.reciprocal: _reciprocal,
    np.hypot: _hypot,
    np.sin: _op(ops.Sin),
    np.cos: _op(ops.Cos),
    np.tan: _op(ops.Tan),
    np.arcsin: _op(ops.Asin),
    np.arccos: _op(ops.Acos),
    np.arctan: _op(ops.Atan),
    np.arctan2: _op(ops.Atan2),
    np.sinh: _op(ops.Sinh),
    np.cosh: _op(ops.Cosh),
    np.tanh: _op(ops.Tanh),
    np.arcsinh: _op(ops.Asinh),
    np.arccosh: _op(ops.Acosh),
    np.arctanh: _op(ops.Atanh),
    np.deg2rad: _times(math.pi / 180),
    np.radians: _times(math.pi / 180),
    np.rad2deg: _times(180 / math.pi),
    np.degrees: _times(180 / math.pi),
    np.floor: _unless_float(ops.Floor),
    np.ceil: _unless_float(ops.Ceil),
    np.trunc: _unless_float(ops.Trunc),
    np.rint: _op(ops.Round),
    np.isnan: _floats_only(ops.Isnan),
    np.isinf: _floats_only(ops.Isinf),
    np.isfinite: _isfinite,
    np.signbit: _signbit,
    np.copysign: _op(ops.Copysign),
    np.nextafter: _nextafter,
    np.spacing: _spacing,
    np.heaviside: _heaviside,
    np.modf: _modf,
    np.add: _op(ops.Add, _or),
    np.subtract: _op(ops.Sub),
    np.multiply: _op(ops.Mul, _and),
    np.divide: _op(ops.Div),
    np.floor_divide: _op(ops.Floordiv),
    np.remainder: _op(ops.Mod),
    np.fmod: _op(ops.Fmod),
    np.divmod: _divmod,
    np.power: _power,
    np.float_power: _power,
    np.maximum: _op(ops.Max, _or),
    np.minimum: _op(ops.Min, _and),
    np.fmax: _ignoring_nan(ops.Max, _or),
    np.fmin: _ignoring_nan(ops.Min, _and),
    np.bitwise_and: _and,
    np.bitwise_or: _or,
    np.bitwise_xor: _xor,
    np.invert: _not,
    np.bitwise_count: _bitcount,
    np.left_shift: _op(ops.Shl),
    np.right_shift: _op(ops.Shr),
    np.logical_and: _logical(ops.And),
    np.logical_or: _logical(ops.Or),
    np.logical_xor: _logical(ops.Xor),
    np.logical_not: _logical(ops.Not),
    np.equal: _compare(ops.Eq),
    np.not_equal: _compare(ops.Ne),
    np.less: _compare(ops.Lt),
    np.less_equal: _compare(ops.Le),
    np.greater: _compare(ops.Gt),
    np.greater_equal: _compare(ops.Ge),
    np.matmul: matmul,
    np.vecdot: _contract((1, 1)),
}
if hasattr(np, "matvec"):  # NumPy 2.2
    UFUNCS[np.matvec] = _contract((0, 1))
    UFUNCS[np.vecmat] = _contract((1, 0))
COMPARISONS = (
    np.equal,
    np.not_equal,
    np.less,
    np.less_equal,
    np.greater,
    np.greater_equal,
)
