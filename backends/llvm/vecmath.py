"""Elementary functions as LLVM IR, for one lane or any number of them.

`emit` builds a function inline at an `IRBuilder`: straight-line code (selects, no branches, no
fast-math but `nsz` on the extrema) that is the same for scalars and vectors, so a result does not
depend on the width. NaN, infinities, signed zeros and subnormals behave as in NumPy; floating-point
exception flags and `errno` mean nothing.

`has_fma=False` is for targets without a fused multiply-add instruction (x86-64-v2), where
`llvm.fma` is a library call per lane: multiplications and additions then round separately.

Largest distance from the correctly rounded result, in units in the last place, with and without
FMA:

| functions | f32 | f64 |
|---|---|---|
| exp exp2 expm1 log log2 log1p | 2 | 2 |
| tanh sinh cosh erf sigmoid softplus | 2 | 2 |
| atan atan2 rsqrt | 2 | 2 |
| gelu, of the result or of x / 16 | 4 | 5 |
| asin acos asinh acosh atanh | 1, through f64 | 3 |
| sin cos | 2, any argument, reduced in f64 | 1, libm |
| tan | 3, any argument, reduced in f64 | 1, libm |
| pow | 1, through f64 | 1, libm |
| fmod mod | exact, libm | exact, libm |
| sqrt floor ceil trunc round fma copysign maximum minimum | exact | exact |

"libm" is a scalar call per lane (`sin`, `pow`, `fmodf`, ...), which the process must provide; the
figure is then that of the C library.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import llvmlite.ir as llir

from pjit.backends.llvm.vecmath_lanes import Lanes, Math, through_f64
from pjit.backends.llvm.vecmath_poly import F32, F64, TWO_OVER_PI_PARTS

# exp


def _exp_reduce(m: Math, x: Lanes) -> tuple[Lanes, Any, Lanes]:
    """Splits x into n * ln 2 + r, n = rint(x / ln 2).

    Returns:
        expm1(r); n in the low bits of an integer whose other bits leave on a shift by the
        mantissa; n as a float.
    """
    t = m.fma(x, 1 + m.fmt.log2e_minus_1, m.fmt.round_magic)
    n = t - m.fmt.round_magic
    r = m.fma(n, -m.fmt.ln2_lo, m.fma(n, -m.fmt.ln2_hi, x))
    return m.fma(r * r, m.poly("exp", r), r), m.bits(t), n


def _scale(m: Math, x: Lanes, n: Any) -> Lanes:
    """The product x * 2**n with one rounding, for |n| up to twice the exponent range."""
    one = m.integer(m.fmt.pattern(1.0))
    mantissa, exponent = m.integer(m.fmt.mantissa), m.integer(-1 << m.fmt.mantissa)
    half = m.b.and_(m.b.shl(n, m.integer(m.fmt.mantissa - 1)), exponent)
    rest = m.b.sub(m.b.shl(n, mantissa), half)
    return x * m.from_bits(m.b.add(rest, one)) * m.from_bits(m.b.add(half, one))


def _pow2(m: Math, n: Any, factor: float = 1.0) -> Lanes:
    """The product 2**n * factor, for normal results."""
    shifted = m.b.shl(n, m.integer(m.fmt.mantissa))
    return m.from_bits(m.b.add(shifted, m.integer(m.fmt.pattern(factor))))


def _exp(m: Math, x: Lanes) -> Lanes:
    e, n, _ = _exp_reduce(m, m.minimum(m.maximum(x, m.fmt.exp_min), m.fmt.exp_max))
    return _scale(m, 1 + e, n)


def _exp_moderate(m: Math, x: Lanes) -> Lanes:
    """Exp where the result is a normal number."""
    e, n, _ = _exp_reduce(m, x)
    return (1 + e) * _pow2(m, n)


def _half_exp(m: Math, x: Lanes) -> Lanes:
    """exp(x) / 2 for x >= 0, finite where exp(x) alone would overflow."""
    e, n, _ = _exp_reduce(m, m.minimum(x, m.fmt.exp_max))
    return _scale(m, 1 + e, m.b.sub(n, m.integer(1)))


def _exp2(m: Math, x: Lanes) -> Lanes:
    bound = float(m.fmt.bias + m.fmt.mantissa + 3)
    x = m.minimum(m.maximum(x, -bound), bound)
    t = x + m.fmt.round_magic
    r = x - (t - m.fmt.round_magic)
    return _scale(m, m.fma(r, m.poly("exp2", r), 1.0), m.bits(t))


def _expm1(m: Math, x: Lanes) -> Lanes:
    e, n, n_float = _exp_reduce(m, m.minimum(m.maximum(x, m.fmt.expm1_min), m.fmt.expm1_max))
    # n = 1 + the largest exponent occurs, so the scale is 2**(n - 1)
    scale = _pow2(m, m.b.sub(n, m.integer(1)))
    scaled = m.fma(scale, e, scale - 0.5)
    return m.copysign(m.select(n_float.equals(0.0), e, scaled + scaled), x)


def _sigmoid(m: Math, x: Lanes) -> Lanes:
    e = _exp(m, -abs(x))
    return m.select(x < 0.0, e, 1.0) / (1 + e)


def _softplus(m: Math, x: Lanes) -> Lanes:
    return m.maximum(x, 0.0) + _log1p(m, _exp(m, -abs(x)))


def _tanh(m: Math, x: Lanes) -> Lanes:
    a = abs(x)
    small = m.odd_poly("tanh", a, a * a)
    a_bounded = m.minimum(a, m.fmt.tanh_max)
    large = 1 - 2 / (1 + _exp_moderate(m, a_bounded + a_bounded))
    return m.copysign(m.select(a < 0.57, small, large), x)


def _sinh(m: Math, x: Lanes) -> Lanes:
    a = abs(x)
    half = _half_exp(m, a)
    large = half - 0.25 / half
    return m.copysign(m.select(a < 1.0, m.odd_poly("sinh", a, a * a), large), x)


def _cosh(m: Math, x: Lanes) -> Lanes:
    half = _half_exp(m, abs(x))
    return half + 0.25 / half


def _erf(m: Math, x: Lanes) -> Lanes:
    a = abs(x)
    small = m.fma(a, m.poly("erf", a * a), a)
    c = m.minimum(a, m.fmt.erf_max)
    large = 1 - _exp_moderate(m, -m.fma(c, m.poly("erfc", c), c))
    return m.copysign(m.select(a < 0.925, small, large), x)


def _normal_tail(m: Math, a: Lanes) -> Lanes:
    """The normal distribution's integral up to -a, for a >= 0."""
    if m.fmt is F32:
        a = m.minimum(a, 10.48)  # t is -126 there, so that the result is 0
        t = -(a * m.poly("log2_tail", a))
        n = t + m.fmt.round_magic
        r = t - (n - m.fmt.round_magic)
        return m.fma(r, m.poly("exp2", r), 1.0) * _pow2(m, m.bits(n), 0.5)
    c = a * math.sqrt(0.5)
    near = 1 - m.fma(c, m.poly("erf", c * c), c)
    far = _exp_moderate(m, -m.fma(c, m.poly("erfc", c), c))
    tail = m.select(c < 0.925, near, far)
    return 0.5 * m.select(c < m.fmt.erf_max, tail, 0.0)


def _gelu(m: Math, x: Lanes) -> Lanes:
    tail = _normal_tail(m, abs(x))
    return x * m.select(x > 0.0, 1 - tail, tail)


# log


def _log_split(m: Math, x: Lanes) -> tuple[Any, Lanes]:
    """Splits x into 2**k * f with sqrt(1/2) <= f < sqrt(2), for normal x > 0.

    Returns:
        k + the exponent bias as an integer; f - 1.
    """
    root = m.fmt.pattern(math.sqrt(0.5))
    i = m.b.add(m.bits(x), m.integer(m.fmt.pattern(1.0) - root))
    fraction = m.b.and_(i, m.integer((1 << m.fmt.mantissa) - 1))
    f = m.from_bits(m.b.add(fraction, m.integer(root)))
    return m.b.lshr(i, m.integer(m.fmt.mantissa)), f - 1


def _exponent(m: Math, biased: Any, bias: Lanes | float) -> Lanes:
    """A small non-negative integer as a float, less the bias."""
    unit = 2.0**m.fmt.mantissa
    return m.from_bits(m.b.or_(biased, m.integer(m.fmt.pattern(unit)))) - (bias + unit)


def _log_normalised(m: Math, x: Lanes) -> tuple[Lanes, Lanes]:
    """The exponent as a float, and the fraction less 1, of x > 0, subnormal or not."""
    bias = float(m.fmt.bias)
    up = m.fmt.mantissa + 1
    tiny = x < 2.0 ** (1 - m.fmt.bias)
    biased, f = _log_split(m, m.select(tiny, x * 2.0**up, x))
    return _exponent(m, biased, m.select(tiny, bias + up, bias)), f


def _log_tail(m: Math, f: Lanes) -> Lanes:
    """log(1 + f) - f, for the fractions of `_log_split`."""
    square = f * f
    if m.fmt is F32:
        return m.fma(square, -0.5, f * square * m.poly("log", f))
    s = f / (2 + f)
    z = s * s
    half = 0.5 * square
    return s * m.fma(z, m.poly("log", z), half) - half


def _log_ends(m: Math, x: Lanes, result: Lanes, zero: float) -> Lanes:
    """The result with log's values at and below its singularity, at inf and at NaN."""
    result = m.select(x < math.inf, result, x)
    result = m.select(x.equals(zero), -math.inf, result)
    return m.select(x < zero, math.nan, result)


def _log_sum(m: Math, k: Lanes, f: Lanes) -> Lanes:
    """The sum k * ln 2 + log(1 + f)."""
    tail = m.fma(k, m.fmt.ln2_lo, _log_tail(m, f))
    return m.fma(k, m.fmt.ln2_hi, f + tail)


def _log(m: Math, x: Lanes) -> Lanes:
    return _log_ends(m, x, _log_sum(m, *_log_normalised(m, x)), 0.0)


def _log2(m: Math, x: Lanes) -> Lanes:
    k, f = _log_normalised(m, x)
    tail = _log_tail(m, f)
    c = m.fmt.log2e_minus_1
    return _log_ends(m, x, m.fma(f, c, m.fma(tail, c, tail)) + f + k, 0.0)


def _log1p(m: Math, x: Lanes) -> Lanes:
    huge = x > m.fmt.log_huge
    scaled = m.select(huge, x * 2.0**-64, x)
    bias = m.fmt.bias
    biased, _ = _log_split(m, 1 + scaled)
    # the fraction from x itself: (1 + x) / 2**k - 1 without the rounding of 1 + x
    inverse = m.from_bits(m.b.shl(m.b.sub(m.integer(2 * bias), biased), m.integer(m.fmt.mantissa)))
    f = m.fma(scaled, inverse, inverse - 1)
    k = _exponent(m, biased, m.select(huge, bias - 64.0, float(bias)))
    return m.copysign(_log_ends(m, x, _log_sum(m, k, f), -1.0), x)


# trigonometry


def _quarter_turns(m: Math, x: Lanes) -> tuple[Lanes, Any]:
    """An f32 angle x >= 0 of any magnitude as r + q * pi / 2, |r| <= pi / 4.

    Multiplies by 2 / pi in f64, in parts whose products with x are exact (Payne and Hanek). Whole
    turns are dropped from the parts that can hold many; after q is known, the sum of the parts less
    q is exact but for its last addition.

    Returns:
        r; q, of which the two low bits count.
    """
    wide = m.convert(F64)
    x64 = wide.wrap(m.b.fpext(x.value, wide.float_type))
    parts = [x64 * c for c in TWO_OVER_PI_PARTS]
    for i in range(4):
        turns = wide.intrinsic("rint", parts[i] * 0.25)
        parts[i] = parts[i] - turns * 4.0
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    t = total + F64.round_magic
    r = parts[0] - (t - F64.round_magic)
    for part in parts[1:]:
        r = r + part
    r = m.wrap(m.b.fptrunc((r * (math.pi / 2)).value, m.float_type))
    return r, m.b.trunc(wide.bits(t), m.int_type)


def _mask_bit(m: Math, value: Any, bit: int) -> Any:
    return m.b.icmp_unsigned("!=", m.b.and_(value, m.integer(bit)), m.integer(0))


def _flip_sign(m: Math, x: Lanes, sign: Any) -> Lanes:
    """Lanes of x with the sign flipped where the top bit of an integer is set."""
    top = m.b.and_(sign, m.integer(1 << (m.fmt.bits - 1)))
    return m.from_bits(m.b.xor(m.bits(x), top))


def _sin_quadrant(m: Math, r: Lanes, quadrant: Any) -> Lanes:
    """sin(r + quadrant * pi / 2)."""
    z = r * r
    sine = m.odd_poly("sin", r, z)
    cosine = m.fma(z * z, m.poly("cos", z), m.fma(z, -0.5, 1.0))
    result = m.select(_mask_bit(m, quadrant, 1), cosine, sine)
    return _flip_sign(m, result, m.b.shl(quadrant, m.integer(m.fmt.bits - 2)))


def _sin(m: Math, x: Lanes) -> Lanes:
    if m.fmt is F64:
        return m.libm("sin", x)
    return _flip_sign(m, _sin_quadrant(m, *_quarter_turns(m, abs(x))), m.bits(x))


def _cos(m: Math, x: Lanes) -> Lanes:
    if m.fmt is F64:
        return m.libm("cos", x)
    r, quadrant = _quarter_turns(m, abs(x))
    return _sin_quadrant(m, r, m.b.add(quadrant, m.integer(1)))


def _tan(m: Math, x: Lanes) -> Lanes:
    if m.fmt is F64:
        return m.libm("tan", x)
    r, quadrant = _quarter_turns(m, abs(x))
    t = m.odd_poly("tan", r, r * r)
    odd = _mask_bit(m, quadrant, 1)
    return _flip_sign(m, m.select(odd, -1.0, t) / m.select(odd, t, 1.0), m.bits(x))


def _asin_parts(m: Math, x: Lanes) -> tuple[Any, Lanes]:
    """The mask |x| > 1/2; asin(|x|) where it is unset, else asin(sqrt((1 - |x|) / 2))."""
    a = abs(x)
    big = a > 0.5
    z = m.select(big, 0.5 - 0.5 * a, a * a)
    return big, m.odd_poly("asin", m.select(big, m.intrinsic("sqrt", z), a), z)


def _asin(m: Math, x: Lanes) -> Lanes:
    big, p = _asin_parts(m, x)
    return m.copysign(m.select(big, m.fmt.pi_2_hi - (p + p - m.fmt.pi_2_lo), p), x)


def _acos(m: Math, x: Lanes) -> Lanes:
    big, p = _asin_parts(m, x)
    negative = x < 0.0
    hi, lo = m.fmt.pi_2_hi, m.fmt.pi_2_lo
    signed = m.copysign(p, x)
    near_one = m.select(negative, 2 * hi - (p + p - 2 * lo), p + p)
    return m.select(big, near_one, hi - (signed - lo))


def _atan_quotient(m: Math, y: Lanes, x: Lanes) -> Lanes:
    """atan(y / x) for y, x >= 0, in [0, pi / 2]."""
    steep = y > x
    t = m.select(steep, x, y) / m.select(steep, y, x)
    t = m.select(y.equals(x), m.select(x.equals(0.0), 0.0, 1.0), t)  # 0 / 0 and inf / inf
    p = m.odd_poly("atan", t, t * t)
    return m.select(steep, m.fmt.pi_2_hi - (p - m.fmt.pi_2_lo), p)


def _atan(m: Math, x: Lanes) -> Lanes:
    return m.copysign(_atan_quotient(m, abs(x), m.lift(1.0)), x)


def _atan2(m: Math, y: Lanes, x: Lanes) -> Lanes:
    first = _atan_quotient(m, abs(y), abs(x))
    left = m.copysign(m.lift(1.0), x) < 0.0
    reflected = 2 * m.fmt.pi_2_hi - (first - 2 * m.fmt.pi_2_lo)
    return m.copysign(m.select(left, reflected, first), y)


# inverse hyperbolic functions


def _asinh(m: Math, x: Lanes) -> Lanes:
    a = abs(x)
    huge = a > m.fmt.log_huge**0.5
    square = a * a
    t = a + square / (1 + m.intrinsic("sqrt", 1 + square))
    result = _log1p(m, m.select(huge, a, t))
    return m.copysign(m.select(huge, result + math.log(2), result), x)


def _acosh(m: Math, x: Lanes) -> Lanes:
    huge = x > m.fmt.log_huge**0.5
    t = x - 1
    result = _log1p(m, m.select(huge, x, t + m.intrinsic("sqrt", t * (t + 2))))
    return m.select(x < 1.0, math.nan, m.select(huge, result + math.log(2), result))


def _atanh(m: Math, x: Lanes) -> Lanes:
    a = abs(x)
    return m.copysign(0.5 * _log1p(m, (a + a) / (1 - a)), x)


# powers, remainders, extrema


def _pow(m: Math, x: Lanes, y: Lanes) -> Lanes:
    if m.fmt is F64:
        return m.libm("pow", x, y)
    a = abs(x)
    magnitude = through_f64(lambda w, p, q: _exp2(w, q * _log2(w, p)))(m, a, y)
    magnitude = m.select(m.b.or_(a.equals(1.0), y.equals(0.0)), 1.0, magnitude)
    half = y * 0.5
    whole = y.equals(m.intrinsic("trunc", y))
    odd = m.b.and_(whole, half.compare("!=", m.intrinsic("trunc", half)))
    signed = m.select(odd, m.copysign(magnitude, x), magnitude)
    no_root = m.b.and_(m.b.and_(x < 0.0, x > -math.inf), m.b.not_(whole))
    return m.select(no_root, math.nan, signed)


def _fmod(m: Math, x: Lanes, y: Lanes) -> Lanes:
    return m.libm("fmod", x, y)


def _mod(m: Math, x: Lanes, y: Lanes) -> Lanes:
    r = _fmod(m, x, y)
    opposite = m.b.xor(r < 0.0, y < 0.0)
    return m.select(r.equals(0.0), m.copysign(r, y), m.select(opposite, r + y, r))


def _rsqrt(m: Math, x: Lanes) -> Lanes:
    return 1 / m.intrinsic("sqrt", x)


def _intrinsic(name: str) -> Callable[..., Lanes]:
    return lambda m, *xs: m.intrinsic(name, *xs)


_UNARY: dict[str, Callable[..., Lanes]] = {
    "exp": _exp,
    "exp2": _exp2,
    "expm1": _expm1,
    "log": _log,
    "log2": _log2,
    "log1p": _log1p,
    "tanh": _tanh,
    "sinh": _sinh,
    "cosh": _cosh,
    "erf": _erf,
    "gelu": _gelu,
    "sigmoid": _sigmoid,
    "softplus": _softplus,
    "sin": _sin,
    "cos": _cos,
    "tan": _tan,
    "asin": through_f64(_asin),
    "acos": through_f64(_acos),
    "atan": _atan,
    "asinh": through_f64(_asinh),
    "acosh": through_f64(_acosh),
    "atanh": through_f64(_atanh),
    "sqrt": _intrinsic("sqrt"),
    "rsqrt": _rsqrt,
    "floor": _intrinsic("floor"),
    "ceil": _intrinsic("ceil"),
    "trunc": _intrinsic("trunc"),
    "round": _intrinsic("rint"),
}
_BINARY: dict[str, Callable[..., Lanes]] = {
    "atan2": _atan2,
    "pow": _pow,
    "copysign": Math.copysign,
    "mod": _mod,
    "fmod": _fmod,
    "maximum": Math.maximum,
    "minimum": Math.minimum,
}
_TERNARY: dict[str, Callable[..., Lanes]] = {"fma": Math.fma}
_FUNCTIONS = _UNARY | _BINARY | _TERNARY

NAMES: dict[int, tuple[str, ...]] = {1: (*_UNARY,), 2: (*_BINARY,), 3: (*_TERNARY,)}
"""The names that `emit` knows, by number of arguments."""


def emit(name: str, b: llir.IRBuilder, *xs: Any, has_fma: bool = True) -> Any:
    """Builds a function of the table in the module docstring at the builder's position.

    `round` goes to the nearest integer, halves to even. `mod` has the sign of the divisor, `fmod`
    that of the dividend. `maximum` and `minimum` are NaN where an argument is: one instruction if
    LLVM sees that one of them is not NaN (a constant), else three. `sigmoid` is 1 / (1 + exp(-x)),
    `softplus` log(1 + exp(x)).

    Args:
        name: One of `NAMES`.
        b: The builder; its module gets the declarations of intrinsics and libm functions.
        xs: Values of one type: float, double, or a vector of either with any number of lanes.
        has_fma: Whether the target has a fused multiply-add; without, `fma` rounds twice.

    Returns:
        The value, of the type of `xs`.

    Raises:
        ValueError: If the name is unknown or the number of arguments wrong.
        TypeError: If the arguments are not floats of one type.
    """
    if name not in NAMES.get(len(xs), ()):
        raise ValueError(f"no vector math function {name!r} of {len(xs)} arguments")
    ty = xs[0].type
    is_vector = isinstance(ty, llir.VectorType)
    element = ty.element if is_vector else ty
    fmt = next((f for f in (F32, F64) if f.element == element), None)
    if fmt is None or any(x.type != ty for x in xs):
        types = ", ".join(str(x.type) for x in xs)
        raise TypeError(f"{name}: expected float or double arguments of one type, got {types}")
    m = Math(b, fmt, ty.count if is_vector else None, has_fma)
    return _FUNCTIONS[name](m, *[m.wrap(x) for x in xs]).value
