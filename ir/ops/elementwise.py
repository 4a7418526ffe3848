"""Operators that compute each element of the result from the elements at the same place.

Operands have one dtype and broadcast as in NumPy. On f16 and bf16 every operator computes in f32
and rounds once, in the reference as in the compiled code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from math import erf, inf, nan
from typing import Any

import numpy as np

from pjit.ir.core import Value
from pjit.ir.errors import require
from pjit.ir.kernel_builder import ScalarBuilder
from pjit.ir.opdef import Arg, Elementwise, Sample, attr, operand, sample
from pjit.ir.types import (
    DTYPES,
    FLOATS,
    INTS,
    NUMERIC,
    DType,
    bf16,
    bool_,
    f16,
    f32,
    f64,
    i8,
    i32,
    i64,
    u8,
    u64,
)

ALL = tuple(DTYPES.values())
BITS = (bool_, *INTS)
NARROW = (f16, bf16)


def in_f32(f: Callable) -> Callable[..., np.ndarray]:
    """A reference that computes f16 and bf16 in f32 and rounds; floating-point warnings are off.

    The dtype of the last operand decides. Results of another dtype than f32 (bool, indices) stay as
    they are.
    """

    @wraps(f, assigned=("__doc__",), updated=())
    def ref(*xs: np.ndarray, **attrs: Any) -> np.ndarray:
        dt = xs[-1].dtype
        narrow = dt in (f16.numpy, bf16.numpy)
        if narrow:
            xs = tuple(x.astype(np.float32) if x.dtype == dt else x for x in xs)
        with np.errstate(all="ignore"):
            out = np.asarray(f(*xs, **attrs))
        return out.astype(dt) if narrow and out.dtype == np.float32 else out

    return ref


def truncated_quotient(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """``x / y``; integers round towards zero and give 0 for y = 0."""
    if x.dtype.kind not in "iu":
        return np.divide(x, y)
    q = np.floor_divide(x, y)
    up = (q * y != x) & ((x < 0) != (y < 0)) & (y != 0)
    return np.add(q, up, dtype=x.dtype)


def unary_samples(
    dtypes: Sequence[DType], low: float = -3.0, high: float = 3.0
) -> tuple[Sample, ...]:
    """All dtypes on one shape, the first dtype on shapes of rank 0 to 4 with sizes 0 and 1."""
    shapes: list[tuple[int, ...]] = [(), (1,), (67,), (0, 4), (2, 3, 1, 7)]
    return (
        sample((3, 5), dtypes=dtypes, low=low, high=high),
        *(sample(s, dtypes=dtypes[:1], low=low, high=high) for s in shapes),
    )


def binary_samples(
    dtypes: Sequence[DType], low: float = -3.0, high: float = 3.0
) -> tuple[Sample, ...]:
    """All dtypes on one pair of shapes, the first dtype on pairs that broadcast differently."""
    pairs: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
        ((), ()),
        ((5,), ()),
        ((67,), (67,)),
        ((3, 1), (1, 4)),
        ((2, 1, 3, 1), (5, 1, 7)),
        ((0, 3), (1, 3)),
    ]
    return (
        sample((2, 3, 5), (5,), dtypes=dtypes, low=low, high=high),
        *(sample(a, b, dtypes=dtypes[:1], low=low, high=high) for a, b in pairs),
    )


def special_samples(*columns: tuple[float, ...]) -> tuple[Sample, ...]:
    """NaN, infinities and signed zeros as operands, in every floating-point dtype."""
    return (sample(*(Arg((len(c),), values=c) for c in columns), dtypes=FLOATS),)


SPECIAL = (nan, inf, -inf, 0.0, -0.0, 2.5)


def _widened(f: Callable[..., Value]) -> Callable[..., Value]:
    """A scalar body of several primitives that computes f16 and bf16 in f32 and rounds once."""

    def scalar(b: ScalarBuilder, *xs: Value) -> Value:
        dt = xs[0].dtype
        if dt not in NARROW:
            return f(b, *xs)
        return b.cast(f(b, *(b.cast(x, f32) for x in xs)), dt)

    return scalar


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


class Unary(Elementwise):
    """Base of operators of one operand."""

    x = operand()
    __slots__ = ()


class Binary(Elementwise):
    """Base of operators of two operands of one dtype."""

    x = operand()
    y = operand()
    __slots__ = ()


class Comparison(Binary):
    """Base of operators of two operands whose result is bool."""

    __slots__ = ()

    @classmethod
    def result_dtype(cls, *dtypes: DType, **attrs: Any) -> DType:
        """Bool, of equal dtypes."""
        super().result_dtype(*dtypes)
        return bool_


def _make(
    base: type[Elementwise],
    name: str,
    ref: Callable,
    dtypes: tuple[DType, ...],
    doc: str,
    samples: Sequence[Sample],
    scalar: Callable[..., Value] | None,
    onnx: str | None = None,
    caffe: str | None = None,
) -> Any:
    """Defines an operator; without ``scalar`` it is the scalar primitive of its name."""

    def primitive(b: ScalarBuilder, *xs: Value) -> Value:
        return getattr(b, name)(*xs)

    body: dict[str, Any] = {n: operand(dtypes) for n in ("x", "y")[: 1 + issubclass(base, Binary)]}
    body |= {"__doc__": doc, "__module__": __name__, "__slots__": (), "samples": tuple(samples)}
    body |= {"ref": staticmethod(in_f32(ref)), "scalar": staticmethod(scalar or primitive)}
    return type(_camel(name), (base,), body, name=name, onnx=onnx, caffe=caffe)


def _unary(
    name: str,
    ref: Callable,
    doc: str,
    dtypes: tuple[DType, ...] = FLOATS,
    low: float = -3.0,
    high: float = 3.0,
    special: bool = False,
    scalar: Callable[..., Value] | None = None,
    onnx: str | None = None,
    caffe: str | None = None,
) -> Any:
    samples = unary_samples(dtypes, low, high) + (special_samples(SPECIAL) if special else ())
    return _make(Unary, name, ref, dtypes, doc, samples, scalar, onnx, caffe)


def _binary(
    name: str,
    ref: Callable,
    doc: str,
    dtypes: tuple[DType, ...] = NUMERIC,
    low: float = -3.0,
    high: float = 3.0,
    special: bool = False,
    base: type[Binary] = Binary,
    onnx: str | None = None,
    caffe: str | None = None,
) -> Any:
    samples = binary_samples(dtypes, low, high)
    if special:
        samples += special_samples(
            (nan, 1.0, nan, inf, -inf, 0.0), (1.0, nan, nan, -inf, -inf, 2.0)
        )
    return _make(base, name, ref, dtypes, doc, samples, None, onnx, caffe)


# Unary operators

Neg = _unary("neg", np.negative, "-x; integers wrap.", NUMERIC, onnx="Neg")
Abs = _unary("abs", np.abs, "|x|; the least integer stays itself.", NUMERIC, onnx="Abs")
Exp = _unary("exp", np.exp, "e**x.", onnx="Exp")
Expm1 = _unary("expm1", np.expm1, "e**x - 1, precise near 0.")
Log = _unary("log", np.log, "Natural logarithm; NaN for x < 0.", low=0.1, onnx="Log")
Log1p = _unary("log1p", np.log1p, "log(1 + x), precise near 0.", low=-0.9)
Sqrt = _unary("sqrt", np.sqrt, "Square root; NaN for x < 0.", low=0.0, onnx="Sqrt")
Rsqrt = _unary(
    "rsqrt",
    lambda x: 1 / np.sqrt(x),
    "1 / sqrt(x).",
    low=0.1,
    scalar=_widened(lambda b, x: b.div(b.one(x), b.sqrt(x))),
)
Reciprocal = _unary(
    "reciprocal",
    lambda x: 1 / x,
    "1 / x.",
    low=0.1,
    scalar=lambda b, x: b.div(b.one(x), x),
    onnx="Reciprocal",
)
Tanh = _unary("tanh", np.tanh, "Hyperbolic tangent.", onnx="Tanh", caffe="TanH")
Sinh = _unary("sinh", np.sinh, "Hyperbolic sine.", onnx="Sinh")
Cosh = _unary("cosh", np.cosh, "Hyperbolic cosine.", onnx="Cosh")
Asinh = _unary("asinh", np.arcsinh, "Inverse hyperbolic sine.", onnx="Asinh")
Acosh = _unary(
    "acosh", np.arccosh, "Inverse hyperbolic cosine; NaN for x < 1.", low=1.0, onnx="Acosh"
)
Atanh = _unary(
    "atanh",
    np.arctanh,
    "Inverse hyperbolic tangent; NaN for |x| > 1.",
    low=-0.9,
    high=0.9,
    onnx="Atanh",
)
Sin = _unary("sin", np.sin, "Sine; radians.", onnx="Sin")
Cos = _unary("cos", np.cos, "Cosine; radians.", onnx="Cos")
Tan = _unary("tan", np.tan, "Tangent; radians.", low=-1.4, high=1.4, onnx="Tan")
Asin = _unary("asin", np.arcsin, "Inverse sine; NaN for |x| > 1.", low=-1.0, high=1.0, onnx="Asin")
Acos = _unary(
    "acos", np.arccos, "Inverse cosine; NaN for |x| > 1.", low=-1.0, high=1.0, onnx="Acos"
)
Atan = _unary("atan", np.arctan, "Inverse tangent.", onnx="Atan")
Floor = _unary("floor", np.floor, "Rounds down.", special=True, onnx="Floor")
Ceil = _unary("ceil", np.ceil, "Rounds up.", special=True, onnx="Ceil")
Round = _unary("round", np.rint, "Rounds to nearest, ties to even.", special=True, onnx="Round")
Trunc = _unary("trunc", np.trunc, "Rounds towards zero.", special=True)
Not = _unary(
    "not", np.invert, "Logical not of bool, bitwise not of integers.", BITS, -100, 100, onnx="Not"
)


def _erf(x: np.ndarray) -> np.ndarray:
    values = np.vectorize(erf, otypes=[np.float64])(x.astype(np.float64))
    return values.astype(x.dtype)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def _gelu(x: np.ndarray) -> np.ndarray:
    wide = x.astype(np.float64)
    return (wide * 0.5 * (1 + _erf(wide * 0.5**0.5))).astype(x.dtype)


Erf = _unary("erf", _erf, "Error function.", onnx="Erf")
Gelu = _unary("gelu", _gelu, "x times the integral of the normal distribution up to x.")
Sigmoid = _unary(
    "sigmoid", _sigmoid, "1 / (1 + exp(-x)).", low=-9, high=9, onnx="Sigmoid", caffe="Sigmoid"
)


class Relu(Unary, name="relu", onnx="Relu"):
    """max(x, 0); NaN propagates."""

    x = operand(NUMERIC)
    __slots__ = ()

    @staticmethod
    @in_f32
    def ref(x: np.ndarray) -> np.ndarray:
        """The larger of x and 0."""
        return np.maximum(x, np.zeros((), x.dtype))

    @staticmethod
    def scalar(b: ScalarBuilder, x: Value) -> Value:
        """The larger of x and 0."""
        return b.max(x, b.zero(x))

    samples = unary_samples(NUMERIC) + special_samples(SPECIAL)


class Sign(Unary, name="sign", onnx="Sign"):
    """-1, 0 or 1; NaN propagates and -0.0 gives 0.0."""

    x = operand(NUMERIC)
    __slots__ = ()

    @staticmethod
    @in_f32
    def ref(x: np.ndarray) -> np.ndarray:
        """NumPy's sign."""
        return np.sign(x)

    @staticmethod
    def scalar(b: ScalarBuilder, x: Value) -> Value:
        """Selects by comparisons with 0."""
        zero = b.zero(x)
        out = b.select(b.eq(x, zero), zero, x) if x.dtype.is_float else zero
        if x.dtype.kind != "u":
            out = b.select(b.lt(x, zero), b.const(-1, x), out)
        return b.select(b.gt(x, zero), b.one(x), out)

    samples = unary_samples(NUMERIC) + special_samples(SPECIAL)


class Isnan(Unary, name="isnan", onnx="IsNaN"):
    """Whether x is NaN, as bool."""

    x = operand(FLOATS)
    __slots__ = ()

    @classmethod
    def result_dtype(cls, *dtypes: DType, **attrs: Any) -> DType:
        """Bool."""
        return bool_

    @staticmethod
    @in_f32
    def ref(x: np.ndarray) -> np.ndarray:
        """NumPy's isnan."""
        return np.isnan(x)

    @staticmethod
    def scalar(b: ScalarBuilder, x: Value) -> Value:
        """Only NaN differs from itself."""
        return b.ne(x, x)

    samples = unary_samples(FLOATS) + special_samples(SPECIAL)


class Isinf(Unary, name="isinf"):
    """Whether x is an infinity of a sign that is looked for, as bool."""

    x = operand(FLOATS)
    detect_negative = attr(True, "whether -inf counts")
    detect_positive = attr(True, "whether inf counts")
    __slots__ = ()

    @classmethod
    def result_dtype(cls, *dtypes: DType, **attrs: Any) -> DType:
        """Bool."""
        return bool_

    @staticmethod
    @in_f32
    def ref(x: np.ndarray, *, detect_negative: bool, detect_positive: bool) -> np.ndarray:
        """Compares with the infinities."""
        return ((x == -np.inf) & detect_negative) | ((x == np.inf) & detect_positive)

    @staticmethod
    def scalar(
        b: ScalarBuilder, x: Value, *, detect_negative: bool, detect_positive: bool
    ) -> Value:
        """Compares with the infinities."""
        signs = [-inf] * detect_negative + [inf] * detect_positive
        if not signs:
            return b.const(False, bool_)
        if len(signs) == 2:
            x, signs = b.abs(x), [inf]
        return b.eq(x, b.const(signs[0], x))

    samples = (
        *unary_samples(FLOATS),
        *special_samples(SPECIAL),
        *(
            Sample(
                (Arg((6,), values=SPECIAL),), {"detect_negative": n, "detect_positive": p}, (f32,)
            )
            for n, p in ((True, False), (False, True), (False, False))
        ),
    )


class Cast(Unary, name="cast"):
    """Converts to another dtype.

    Float to integer rounds towards zero; what does not fit the integer type gives an unspecified
    value. Anything to bool compares with zero. Integers wrap.
    """

    x = operand(ALL)
    dtype = attr(doc="the dtype of the result")
    __slots__ = ()

    @classmethod
    def result_dtype(cls, *dtypes: DType, **attrs: Any) -> DType:
        """The attribute."""
        require(
            isinstance(attrs["dtype"], DType), "(C1) dtype is an element type", got=attrs["dtype"]
        )
        return attrs["dtype"]

    @staticmethod
    def ref(x: np.ndarray, *, dtype: DType) -> np.ndarray:
        """NumPy's astype."""
        with np.errstate(all="ignore"):
            return x.astype(dtype.numpy)

    @staticmethod
    def scalar(b: ScalarBuilder, x: Value, *, dtype: DType) -> Value:
        """The cast primitive."""
        return b.cast(x, dtype)

    samples = (
        sample((3, 5), dtypes=ALL, low=0, high=9, dtype=f32),
        *(
            sample((3, 5), dtypes=(f32,), low=0, high=9, dtype=t)
            for t in (f64, f16, bf16, *INTS, bool_)
        ),
        *(
            sample((7,), dtypes=(f64, f16, bf16, i64, i8, u8, bool_), low=0, high=9, dtype=t)
            for t in (f16, bf16, i32, bool_)
        ),
        sample((7,), dtypes=(f64, f32, f16, bf16, i64, i32), low=-9, high=9, dtype=i8),
        sample((7,), dtypes=(i64, i8), low=-9, high=9, dtype=u64),
        sample((), dtypes=(f32,), dtype=i64),
        sample((0, 4), dtypes=(f32,), dtype=f64),
        sample((2, 3, 1, 7), dtypes=(i8,), low=-100, high=100, dtype=f64),
    )


# Binary operators

Add = _binary("add", np.add, "x + y; integers wrap.", low=-100, high=100, onnx="Add")
Sub = _binary("sub", np.subtract, "x - y; integers wrap.", low=-100, high=100, onnx="Sub")
Mul = _binary("mul", np.multiply, "x * y; integers wrap.", low=-100, high=100, onnx="Mul")
Div = _binary(
    "div",
    truncated_quotient,
    "x / y; integers round towards zero and give 0 for y = 0.",
    low=-9,
    high=9,
    onnx="Div",
)
Floordiv = _binary(
    "floordiv",
    np.floor_divide,
    "x / y rounded down; integers give 0 for y = 0.",
    low=-9,
    high=9,
)
Mod = _binary(
    "mod",
    np.mod,
    "The remainder with the sign of y; integers give 0 for y = 0.",
    low=-9,
    high=9,
)
Fmod = _binary(
    "fmod", np.fmod, "The remainder with the sign of x; integers give 0 for y = 0.", low=-9, high=9
)
Atan2 = _binary("atan2", np.arctan2, "The angle of the point (y=x, x=y), in radians.", FLOATS)
Min = _binary("min", np.minimum, "The smaller of two; NaN propagates.", special=True)
Max = _binary("max", np.maximum, "The larger of two; NaN propagates.", special=True)
Copysign = _binary("copysign", np.copysign, "|x| with the sign of y.", FLOATS)
And = _binary(
    "and",
    np.bitwise_and,
    "Logical and of bool, bitwise and of integers.",
    BITS,
    -99,
    99,
    onnx="And",
)
Or = _binary(
    "or", np.bitwise_or, "Logical or of bool, bitwise or of integers.", BITS, -99, 99, onnx="Or"
)
Xor = _binary(
    "xor", np.bitwise_xor, "Exclusive or of bool, bitwise of integers.", BITS, -99, 99, onnx="Xor"
)
Shl = _binary(
    "shl",
    np.left_shift,
    "x shifted left by y >= 0 bits; 0 where y is the width of the dtype or more.",
    INTS,
    low=0,
    high=11,
)
Shr = _binary(
    "shr",
    np.right_shift,
    "x shifted right by y >= 0 bits, any number of them; the sign of a signed x fills up.",
    INTS,
    low=0,
    high=11,
)


def _compare(
    name: str, ref: Callable, doc: str, dtypes: tuple[DType, ...], onnx: str | None = None
) -> Any:
    return _binary(name, ref, doc, dtypes, special=True, base=Comparison, onnx=onnx)


Eq = _compare("eq", np.equal, "x == y, as bool; false for NaN.", ALL, "Equal")
Ne = _compare("ne", np.not_equal, "x != y, as bool; true for NaN.", ALL)
Lt = _compare("lt", np.less, "x < y, as bool; false for NaN.", NUMERIC, "Less")
Le = _compare("le", np.less_equal, "x <= y, as bool; false for NaN.", NUMERIC, "LessOrEqual")
Gt = _compare("gt", np.greater, "x > y, as bool; false for NaN.", NUMERIC, "Greater")
Ge = _compare("ge", np.greater_equal, "x >= y, as bool; false for NaN.", NUMERIC, "GreaterOrEqual")


class Pow(Binary, name="pow"):
    """x to the power y; 1 for y = 0.

    Integers wrap. For y < 0 they give 1 / x**-y rounded towards zero: 0 unless x is 1 or -1.
    """

    x = operand(NUMERIC)
    y = operand(NUMERIC)
    __slots__ = ()

    @staticmethod
    @in_f32
    def ref(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """NumPy's power, with negative exponents for integers."""
        if x.dtype.kind != "i":
            return np.power(x, y)
        value = np.power(x, np.where(y < 0, y & 1, y))
        return np.where((y < 0) & (x != 1) & (x != -1), np.zeros((), x.dtype), value)

    @staticmethod
    def scalar(b: ScalarBuilder, x: Value, y: Value) -> Value:
        """The primitive; the exponent of a signed integer is made non-negative first."""
        if x.dtype.kind != "i":
            return b.pow(x, y)
        negative = b.lt(y, b.zero(y))
        value = b.pow(x, b.select(negative, b.and_(y, b.one(y)), y))
        no_unit = b.ne(b.abs(x), b.one(x))
        return b.select(b.and_(negative, no_unit), b.zero(x), value)

    samples = (
        sample((2, 3, 5), (5,), dtypes=INTS, low=-3, high=4),
        sample(Arg((3, 5), low=0.1), (5,), dtypes=FLOATS),
        sample(
            Arg((5,), values=(-2.0, -1.5, 0.0, 3.0, -1.0)),
            Arg((2, 1), values=(2.0, 3.0)),
            dtypes=FLOATS,
        ),
        sample(Arg((), low=0.1), Arg(()), dtypes=(f32,)),
        sample(Arg((0, 3), low=0.1), (1, 3), dtypes=(f32,)),
        sample(Arg((2, 1, 3, 1), low=0.1), (5, 1, 7), dtypes=(f32,)),
    )


class Where(Elementwise, name="where", onnx="Where"):
    """x where the condition is true, else y.

    Constraints:
        (C1) x and y have one dtype, which is the result's.
    """

    condition = operand((bool_,))
    x = operand(ALL)
    y = operand(ALL)
    __slots__ = ()

    @classmethod
    def result_dtype(cls, *dtypes: DType, **attrs: Any) -> DType:
        """The dtype of x and y."""
        return super().result_dtype(*dtypes[1:])

    @staticmethod
    def ref(condition: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """NumPy's where."""
        return np.asarray(np.where(condition, x, y))

    @staticmethod
    def scalar(b: ScalarBuilder, condition: Value, x: Value, y: Value) -> Value:
        """The select primitive."""
        return b.select(condition, x, y)

    samples = (
        sample(Arg((3, 5), bool_), (3, 5), (3, 5), dtypes=ALL),
        sample(Arg((), bool_), (), (), dtypes=(f32,)),
        sample(Arg((2, 1), bool_), (67,), (), dtypes=(f32,)),
        sample(Arg((4, 1, 1), bool_), (2, 1, 3, 1), (5,), dtypes=(f32, i8)),
        sample(Arg((1, 4), bool_), (0, 4), (), dtypes=(f32,)),
    )
