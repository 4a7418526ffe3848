"""Elementwise operators and matrix products."""

from __future__ import annotations

import math
from typing import Any

from pjit.frontends.building import diagonal
from pjit.frontends.torch.registry import Node, Refused, aten
from pjit.ir.core import Value
from pjit.ir.types import DType, bool_, i64

_FLOAT = (
    "exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "sigmoid", "tanh", "sin", "cos", "tan", "asin",
    "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh", "erf", "reciprocal",
)  # fmt: skip


@aten(*_FLOAT)
def float_function(n: Node, x: Value) -> Value:
    """Functions of floats; integers become floats first."""
    return n.b(n.op, n.cast(x, n.dtype))


@aten("log2", "log10", "exp2")
def other_base(n: Node, x: Value) -> Value:
    """Logarithms and exponentials of another base than e, in a wider type where there is one."""
    wide = n.wide(n.dtype)
    x = n.cast(x, wide)
    if n.op == "exp2":
        y = n.b("pow", n.operand(2, wide), x)
    else:
        y = n.math(x).mul(n.b("log", x), 1 / math.log(2 if n.op == "log2" else 10))
    return n.cast(y, n.dtype)


@aten("abs", "neg", "relu")
def same_type(n: Node, x: Value) -> Value:
    """Functions that keep the type."""
    return n.b(n.op, x)


@aten("sign")
def sign(n: Node, x: Value) -> Value:
    """-1, 0 or 1; 0 for NaN."""
    if x.dtype == bool_:
        return x
    y = n.b("sign", x)
    return n.math(x).where(n.b("isnan", x), 0, y) if x.dtype.is_float else y


@aten("ceil", "floor", "round.default", "trunc")
def rounding(n: Node, x: Value) -> Value:
    """Rounding; integers are what they are."""
    return n.b(n.op, x) if x.dtype.is_float else x


@aten("bitwise_not", "logical_not")
def negation(n: Node, x: Value) -> Value:
    """Inverts bits, or truth."""
    return n.b("not", x if n.op == "bitwise_not" else n.cast(x, bool_))


@aten("isnan", "isinf")
def is_special(n: Node, x: Value) -> Value:
    """Which elements are NaN or infinite."""
    if x.dtype.is_float:
        return n.b(n.op, x)
    return n.broadcast(n.b.constant(False, bool_), x.shape)


_BOOL = {"add": "or", "mul": "and", "maximum": "or", "minimum": "and"}
_BINARY = {
    "add": "add", "sub": "sub", "mul": "mul", "maximum": "max", "minimum": "min", "fmod": "fmod",
    "remainder": "mod", "atan2": "atan2", "bitwise_and": "and", "bitwise_or": "or",
    "bitwise_xor": "xor", "__lshift__": "shl", "__rshift__": "shr", "bitwise_left_shift": "shl",
    "bitwise_right_shift": "shr", "copysign": "copysign",
}  # fmt: skip


def binary(n: Node, name: str, x: Any, y: Any, dt: DType | None = None) -> Value:
    """An operation on two operands in the type that torch promotes them to.

    Where a 16-bit float meets a number, torch computes in f32.
    """
    dt = dt or n.dtype
    number = not (isinstance(x, Value) and isinstance(y, Value))
    at = n.wide(dt) if number else dt
    return n.cast(n.b(name, n.operand(x, at), n.operand(y, at)), dt)


@aten("add", "sub")
def addition(n: Node, x: Any, y: Any, alpha: Any = 1) -> Value:
    """``x + alpha * y`` or ``x - alpha * y``."""
    if n.dtype == bool_:
        return _of_bools(n, x, y)
    if alpha != 1:
        y = binary(n, "mul", y, alpha)
    return binary(n, n.op, x, y)


@aten("mul", "maximum", "minimum")
def of_numbers_or_bools(n: Node, x: Any, y: Any) -> Value:
    """Operators that mean something else for truth values."""
    return _of_bools(n, x, y) if n.dtype == bool_ else binary(n, _BINARY[n.op], x, y)


def _of_bools(n: Node, x: Any, y: Any) -> Value:
    return n.b(_BOOL[n.op], n.operand(x, bool_), n.operand(y, bool_))


@aten("atan2", "bitwise_and", "bitwise_or", "bitwise_xor", "copysign")
def plain_binary(n: Node, x: Any, y: Any) -> Value:
    """Operators of two operands."""
    return binary(n, _BINARY[n.op], x, y)


@aten("fmod", "remainder")
def remainder(n: Node, x: Any, y: Any) -> Value:
    """The remainder with the sign of the dividend, or of the divisor."""
    _require_divisor(n, y)
    return binary(n, _BINARY[n.op], x, y)


def _require_divisor(n: Node, y: Any) -> None:
    """Refuses a division that torch refuses for some values: that of integers by 0."""
    if n.dtype.is_int and (isinstance(y, Value) or y == 0):
        raise Refused("integers are divided by a tensor, which torch refuses if it has a 0")


@aten("__lshift__", "__rshift__", "bitwise_left_shift", "bitwise_right_shift")
def shift(n: Node, x: Any, y: Any) -> Value:
    """Shifts by a number of bits."""
    if isinstance(y, Value) or not 0 <= y < n.dtype.bits:
        raise Refused("a shift by other than a constant number of bits is not supported")
    return binary(n, _BINARY[n.op], x, y)


@aten("div")
def divide(n: Node, x: Any, y: Any, rounding_mode: str | None = None) -> Value:
    """``x / y``, and the same rounded down or towards zero."""
    if rounding_mode is None:
        return binary(n, "div", x, y)
    _require_divisor(n, y)
    if rounding_mode == "floor":
        return binary(n, "floordiv", x, y)
    if n.dtype.is_int:
        return binary(n, "div", x, y)
    wide = n.wide(n.dtype)
    return n.cast(n.b("trunc", binary(n, "div", x, y, wide)), n.dtype)


@aten("eq", "ne", "lt", "le", "gt", "ge")
def comparison(n: Node, x: Any, y: Any) -> Value:
    """Comparisons, in the type that both operands are promoted to."""
    dt = n.common(0, 1)
    if dt == bool_ and n.op not in ("eq", "ne"):
        dt = i64
    elif not (isinstance(x, Value) and isinstance(y, Value)):
        dt = n.wide(dt)
    return n.b(n.op, n.operand(x, dt), n.operand(y, dt))


@aten("logical_and", "logical_or", "logical_xor")
def logical(n: Node, x: Any, y: Any) -> Value:
    """Operators of truth values."""
    name = n.op.removeprefix("logical_")
    return n.b(name, n.operand(x, bool_), n.operand(y, bool_))


@aten("pow")
def power(n: Node, x: Any, y: Any) -> Value:
    """``x ** y``."""
    if n.dtype.is_int and (isinstance(y, Value) or (isinstance(y, int) and y < 0)):
        raise Refused("an integer power of integers, which torch refuses if it is negative")
    if isinstance(x, Value) and isinstance(y, int | float) and y in (0.5, 1, 2, 3):
        wide = n.wide(n.dtype)
        x = n.cast(x, wide)
        m = n.math(x)
        known = {0.5: lambda: m.sqrt(x), 1: lambda: x, 2: lambda: m.mul(x, x)}
        known[3] = lambda: m.mul(m.mul(x, x), x)
        if y != 0.5 or wide.is_float:
            return n.cast(known[y](), n.dtype)
    return binary(n, "pow", x, y)


@aten("where.self")
def where(n: Node, condition: Value, x: Any, y: Any) -> Value:
    """Selects by a condition."""
    dt = n.dtype
    return n.b("where", n.cast(condition, bool_), n.operand(x, dt), n.operand(y, dt))


@aten("clamp", "clamp_min", "clamp_max", "hardtanh")
def clamp(n: Node, x: Value, low: Any = None, high: Any = None) -> Value:
    """Limits to a range; the upper limit wins."""
    if n.op == "clamp_max":
        low, high = None, low
    if n.op == "hardtanh":
        low, high = -1.0 if low is None else low, 1.0 if high is None else high
    for name, bound in (("max", low), ("min", high)):
        if bound is not None:
            x = binary(n, name, x, bound)
    return n.cast(x, n.dtype)


# Activations


def _activation(n: Node, x: Value, build: Any) -> Value:
    """An activation, for which torch computes on 16-bit floats in f32."""
    wide = n.cast(x, n.wide(x.dtype))
    return n.cast(build(n.math(wide), wide), x.dtype)


@aten("leaky_relu")
def leaky_relu(n: Node, x: Value, slope: Any) -> Value:
    """``x`` above zero, else slope * x."""
    return _activation(n, x, lambda m, x: m.where(m.gt(x, 0), x, m.mul(x, slope)))


@aten("elu")
def elu(n: Node, x: Value, alpha: Any, scale: Any, input_scale: Any) -> Value:
    """``scale * x`` above zero, else ``scale * alpha * (exp(input_scale * x) - 1)``."""

    def build(m: Any, x: Value) -> Value:
        low = m.mul(m.expm1(m.mul(m.min(x, 0.0), input_scale)), alpha * scale)
        return m.where(m.gt(x, 0), m.mul(x, scale), low)

    return _activation(n, x, build)


@aten("gelu")
def gelu(n: Node, x: Value, approximate: str) -> Value:
    """``x`` times the normal distribution's integral, or its approximation by tanh."""

    def build(m: Any, x: Value) -> Value:
        if approximate == "none":
            return m.gelu(x)
        cube = m.mul(m.mul(x, x), x)
        inner = m.tanh(m.mul(m.add(x, m.mul(cube, 0.044715)), math.sqrt(2 / math.pi)))
        return m.mul(m.mul(x, 0.5), m.add(inner, 1.0))

    return _activation(n, x, build)


@aten("silu")
def silu(n: Node, x: Value) -> Value:
    """``x * sigmoid(x)``."""
    return _activation(n, x, lambda m, x: m.mul(x, m.sigmoid(x)))


@aten("softplus")
def softplus(n: Node, x: Value, beta: Any, threshold: Any) -> Value:
    """``log(1 + exp(beta * x)) / beta``; ``x`` where beta * x is above the threshold."""

    def build(m: Any, x: Value) -> Value:
        scaled = m.mul(x, beta)
        soft = m.add(m.log1p(m.exp(m.neg(m.abs(scaled)))), m.max(scaled, 0.0))
        return m.where(m.gt(scaled, threshold), x, m.mul(soft, 1 / beta))

    return _activation(n, x, build)


# Matrix products


@aten("mm", "bmm")
def product(n: Node, x: Value, y: Value) -> Value:
    """A matrix product, or a batch of them."""
    return _matmul(n, x, y)


def _matmul(n: Node, x: Value, y: Value) -> Value:
    if x.dtype == bool_:
        raise Refused("a matrix product of truth values is not supported")
    return n.b("matmul", x, y)


@aten("addmm", "baddbmm")
def add_product(n: Node, c: Value, x: Value, y: Value, beta: Any, alpha: Any) -> Value:
    """``beta * c + alpha * (x @ y)``."""
    product = _matmul(n, x, y)
    if alpha != 1:
        product = binary(n, "mul", product, alpha)
    if beta == 0:
        return product
    return n.b("add", product, c if beta == 1 else binary(n, "mul", c, beta))


@aten("_to_copy", "convert_element_type")
def to_copy(n: Node, x: Value, *_: Any) -> Value:
    """Another element type."""
    if x.dtype.is_float and n.dtype.is_int and n.dtype.bits < 32:
        return n.cast(n.cast(x, i64), n.dtype)  # out of range values wrap, as they do in torch
    return n.cast(x, n.dtype)


@aten("_scaled_dot_product_flash_attention_for_cpu")
def attention(
    n: Node, q: Value, k: Value, v: Value, dropout: float, causal: bool, mask: Value | None,
    scale: float | None,
) -> list[Value | None]:  # fmt: skip
    """Softmax of ``q @ k'`` times ``v``; the second result serves the gradient."""
    if dropout:
        raise Refused("attention with dropout is random")
    if n.used(1):
        raise Refused("the logarithm of the sum of an attention is not supported")
    dt, wide = q.dtype, n.wide(q.dtype)
    q, k, v = (n.cast(x, wide) for x in (q, k, v))
    size = q.shape[-1]
    if scale is None:
        if not isinstance(size, int):
            raise Refused("attention over a symbolic size of the head")
        scale = 1 / math.sqrt(size)
    m = n.math(q)
    keys = n.transpose(k, (*range(k.tensor.rank - 2), k.tensor.rank - 1, k.tensor.rank - 2))
    scores = m.mul(n.b("matmul", q, keys), scale)
    if mask is not None:
        if mask.dtype == bool_:
            mask = m.where(mask, 0.0, -math.inf)
        scores = m.add(scores, n.cast(mask, wide))
    if causal:
        keep = diagonal(n.b, scores.shape[-2:], n.b.constant(0, i64), "le")
        scores = m.where(keep, scores, -math.inf)
    last = scores.tensor.rank - 1
    weights = n.b("softmax", scores, axis=last)
    if mask is not None:  # a query that sees no key gives 0
        top = n.b("reduce.max", scores, axes=(last,), keepdims=True)
        weights = m.where(m.eq(top, -math.inf), 0.0, weights)
    return [n.cast(n.b("matmul", weights, v), dt), None]
