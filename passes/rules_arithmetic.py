"""Simplifications of elementwise arithmetic.

All but ``pow-half`` (for -0.0 and -inf), ``pow-three`` (whose result is rounded twice) and ``gelu``
(whose result is rounded less often) give the same bits as before.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pjit.ir.builder import Builder
from pjit.ir.core import Value
from pjit.ir.ops import (
    Add,
    And,
    Cast,
    Const,
    Div,
    Eq,
    Erf,
    Gelu,
    Max,
    Min,
    Mul,
    Ne,
    Neg,
    Not,
    Or,
    Pow,
    Reciprocal,
    Relu,
    Sqrt,
    Sub,
    Where,
    Xor,
)
from pjit.ir.types import DType, f32, f64
from pjit.passes.pattern import Match, const, is_constant, keeps_type, op, p, rule, single_use

COMMUTATIVE = (Add, Mul, Min, Max, And, Or, Xor, Eq, Ne)
EXACT_EXPONENT = {16: 13, 32: 100, 64: 1000}  # 2**±n and its reciprocal are normal numbers
MANTISSA = {"f64": 53, "f32": 24, "f16": 11, "bf16": 8}
EXPONENT = {"f64": 11, "f32": 8, "f16": 5, "bf16": 8}


def _constant_is(m: Match, *wanted: float) -> bool | str:
    found = m.uniform(m.c)
    if found is None or not any(found == w for w in wanted):
        return f"the constant is not {' or '.join(f'{w:g}' for w in wanted)}"
    return keeps_type(m)


def _is(*wanted: float) -> Callable[[Match], bool | str]:
    return lambda m: _constant_is(m, *wanted)


def _float_is(*wanted: float) -> Callable[[Match], bool | str]:
    return lambda m: _constant_is(m, *wanted) if m.x.dtype.is_float else "not a float"


def _is_zero(negative: bool) -> Callable[[Match], bool | str]:
    """A zero of the sign that leaves every float as it is; any zero of an integer."""

    def when(m: Match) -> bool | str:
        verdict = _constant_is(m, 0.0)
        if verdict is not True or not m.x.dtype.is_float:
            return verdict
        right = bool(np.signbit(m.uniform(m.c))) == negative
        return right or "adding this zero changes a zero of the other sign"

    return when


def _exact_reciprocal(m: Match) -> bool | str:
    if not m.x.dtype.is_float:
        return "not a float"
    values = m.array(m.c).astype(np.float64)
    mantissa, exponent = np.frexp(values)
    if not (np.isfinite(values).all() and (np.abs(mantissa) == 0.5).all()):
        return "the divisor is not a power of two"
    limit = EXACT_EXPONENT[m.x.dtype.bits]
    return bool((np.abs(exponent - 1) <= limit).all()) or "the reciprocal may not be exact"


def _multiply_by_reciprocal(b: Builder, m: Match) -> Value:
    values = 1.0 / m.array(m.c).astype(np.float64)
    return b(Mul, m.x, constant_like(b, values, m.c))


def constant_like(b: Builder, values: np.ndarray, like: Value) -> Value:
    """A constant with the dtype of another one and a name made from its name."""
    assert isinstance(like.owner, Const)
    return Const.of(b, values.astype(like.dtype.numpy), like.owner.value)


def _widens(m: Match) -> bool | str:
    inner = m.y.op.operands[0].dtype
    return lossless(inner, m.y.dtype) or f"{inner} to {m.y.dtype} loses values"


def lossless(a: DType, b: DType) -> bool:
    """Whether every value of one dtype is a value of the other."""
    if a == b or a.kind == "b":
        return True
    if a.is_int and b.is_int:
        if a.kind == b.kind:
            return a.bits <= b.bits
        return a.kind == "u" and a.bits < b.bits
    if a.is_int and b.is_float:
        digits = a.bits - (a.kind == "i")
        return digits <= MANTISSA[b.name] and digits < 1 << EXPONENT[b.name] - 1
    if a.is_float and b.is_float:
        return MANTISSA[a.name] <= MANTISSA[b.name] and EXPONENT[a.name] <= EXPONENT[b.name]
    return False


def _chosen(m: Match) -> Value:
    return m.x if bool(m.uniform(m.c)) else m.y


def _one_choice(m: Match) -> bool | str:
    if m.uniform(m.c) is None:
        return "the condition differs from element to element"
    return _chosen(m).type == m.root.result.type or "the choice has to be broadcast"


def _is_gelu(m: Match) -> bool | str:
    x = _gelu_input(m)
    if x is None:
        return "not x * (1 + erf(x / sqrt(2))) / 2"
    m.bound["x"] = x
    return True


def _gelu_input(m: Match) -> Value | None:
    """The x of ``x * (1 + erf(x / sqrt(2))) / 2``, the factors in any order.

    (Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016.)
    """
    result = m.root.result
    factors = _factors(result, 2) if result.dtype in (f32, f64) else []
    sums = [v for v in factors if isinstance(v.owner, Add) and isinstance(_left(v).owner, Erf)]
    if len(factors) != 3 or not sums:
        return None
    factors.remove(sums[0])
    scaled, one = _left(_left(sums[0])).owner, sums[0].owner.operands[1]  # type: ignore[union-attr]
    if not isinstance(scaled, Mul | Div) or scaled.operands[0] not in factors:
        return None
    x, scale = scaled.operands
    factors.remove(x)
    wanted = 0.5**0.5 if isinstance(scaled, Mul) else 2**0.5
    found = m.uniform(scale)
    if found is None or abs(found / wanted - 1) > np.finfo(result.dtype.numpy).eps:
        return None
    known = m.uniform(one) == 1 and m.uniform(factors[0]) == 0.5
    return x if known and x.type == result.type else None


def _left(v: Value) -> Value:
    return v.owner.operands[0]  # type: ignore[union-attr]


def _factors(product: Value, depth: int) -> list[Value]:
    """What is multiplied, through products that nothing else uses."""
    owner = product.owner
    if not depth or not isinstance(owner, Mul):
        return [product]
    found: list[Value] = []
    for x in owner.operands:
        found += _factors(x, depth - 1) if single_use(x) else [x]
    return found


RULES = (
    rule("gelu", op(Mul, ...), op(Gelu, p.x), when=_is_gelu),
    rule(
        "constant-right",
        op(COMMUTATIVE, const("c"), p.x),
        lambda b, m: b(type(m.root), m.x, m.c),
        when=lambda m: not is_constant(m.x) or "both operands are constants",
    ),
    rule("mul-one", op(Mul, p.x, const("c")), p.x, when=_is(1)),
    rule("div-one", op(Div, p.x, const("c")), p.x, when=_is(1)),
    rule("pow-one", op(Pow, p.x, const("c")), p.x, when=_is(1)),
    rule("add-zero", op(Add, p.x, const("c")), p.x, when=_is_zero(negative=True)),
    rule("sub-zero", op(Sub, p.x, const("c")), p.x, when=_is_zero(negative=False)),
    rule(
        "sub-constant",
        op(Sub, p.x, const("c")),
        lambda b, m: b(Add, m.x, constant_like(b, -m.array(m.c), m.c)),
        when=lambda m: m.x.dtype.is_float or "not a float",
    ),
    rule("pow-two", op(Pow, p.x, const("c")), op(Mul, p.x, p.x), when=_is(2)),
    rule("pow-half", op(Pow, p.x, const("c")), op(Sqrt, p.x), when=_float_is(0.5)),
    rule(
        "pow-three",
        op(Pow, p.x, const("c")),
        op(Mul, op(Mul, p.x, p.x), p.x),
        when=_is(3),
    ),
    rule("pow-minus-one", op(Pow, p.x, const("c")), op(Reciprocal, p.x), when=_float_is(-1)),
    rule(
        "div-power-of-two",
        op(Div, p.x, const("c")),
        _multiply_by_reciprocal,
        when=_exact_reciprocal,
    ),
    rule("neg-neg", op(Neg, op(Neg, p.x)), p.x),
    rule("not-not", op(Not, op(Not, p.x)), p.x),
    rule("relu-relu", op(Relu, op(Relu, p.x)), op(Relu, p.x)),
    rule("max-zero", op(Max, p.x, const("c")), op(Relu, p.x), when=_is(0)),
    rule(
        "where-constant",
        op(Where, const("c"), p.x, p.y),
        lambda b, m: _chosen(m),
        when=_one_choice,
    ),
    rule("cast-same", op(Cast, p.x), p.x, when=keeps_type),
    rule(
        "cast-cast",
        op(Cast, op(Cast, p.x).named("y"), dtype=p.to),
        op(Cast, p.x, dtype=p.to),
        when=_widens,
    ),
)
