"""Elementwise operators."""

from __future__ import annotations

import math
from functools import reduce
from typing import Any

from pjit.frontends.building import Math, diagonal
from pjit.frontends.onnx.reader import Refused, element_type
from pjit.frontends.onnx.registry import Node, onnx_op
from pjit.ir.core import Value
from pjit.ir.types import bool_, i64


def math_of(n: Node) -> tuple[Value, Math]:
    """The first operand and the builder of operations on its dtype."""
    x = n[0]
    return x, Math(n.b, x)


def legacy_operands(n: Node) -> list[Value]:
    """The operands of a binary operator; before opset 7 ``axis`` said where the second one lies."""
    xs = n.data
    if n.version >= 7 or not n.flag("broadcast"):
        return xs
    rank, small = xs[0].tensor.rank, xs[1].tensor.rank
    axis = n.axis(n.attr("axis", "int", rank - small), rank) if rank else 0
    shape = (*xs[1].shape, *(1,) * (rank - small - axis))
    return [xs[0], n.b("reshape", xs[1], shape=shape)]


_BINARY = {
    "Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Equal": "eq", "Less": "lt",
    "Greater": "gt", "LessOrEqual": "le", "GreaterOrEqual": "ge", "And": "and", "Or": "or",
    "Xor": "xor", "BitwiseAnd": "and", "BitwiseOr": "or", "BitwiseXor": "xor",
}  # fmt: skip


@onnx_op(*_BINARY)
def binary(n: Node) -> Value:
    """Operators of two operands."""
    return n.b(_BINARY[n.op], *legacy_operands(n))


@onnx_op("BitwiseNot")
def bitwise_not(n: Node) -> Value:
    """Inverts all bits."""
    return n.b("not", n[0])


@onnx_op("BitShift")
def bit_shift(n: Node) -> Value:
    """Shifts left or right."""
    way = n.choice("direction", "", ("LEFT", "RIGHT"))
    return n.b("shl" if way == "LEFT" else "shr", n[0], n[1])


@onnx_op("Pow")
def power(n: Node) -> Value:
    """Computes ``x ** y; the dtypes may differ, the result has that of x``."""
    x, y = legacy_operands(n)
    if x.dtype == y.dtype:
        return n.b("pow", x, y)
    if x.dtype.is_int and y.dtype.is_float:
        wide = n.b("pow", n.b("cast", x, dtype=y.dtype), y)
        return n.b("cast", wide, dtype=x.dtype)
    return n.b("pow", x, n.b("cast", y, dtype=x.dtype))


@onnx_op("Mod")
def mod(n: Node) -> Value:
    """Remainder; ``fmod`` gives it the sign of the dividend."""
    if n.flag("fmod"):
        return n.b("fmod", n[0], n[1])
    if n.type(0).dtype.is_float:
        raise Refused("Mod of floats needs fmod=1", "set fmod")
    return n.b("mod", n[0], n[1])


@onnx_op("Min", "Max", "Sum", "Mean")
def variadic(n: Node) -> Value:
    """Operators of any number of operands."""
    name = {"Min": "min", "Max": "max"}.get(n.op, "add")
    xs = n.data
    if not xs:
        raise Refused("it has no inputs")
    total = reduce(lambda a, b: n.b(name, a, b), xs)
    if n.op == "Mean":
        total = n.b("div", total, n.const(len(xs), total.dtype))
    return total


@onnx_op("Cast")
def cast(n: Node) -> Value:
    """Converts the element type."""
    return _cast(n, element_type(n.attr("to", "int")))


@onnx_op("CastLike")
def cast_like(n: Node) -> Value:
    """Converts to the element type of the second operand."""
    return _cast(n, n.type(1).dtype)


def _cast(n: Node, to: Any) -> Value:
    x = n[0]
    return x if x.dtype == to else n.b("cast", x, dtype=to)


@onnx_op("IsInf")
def is_inf(n: Node) -> Value:
    """Which elements are infinite."""
    return n.b(
        "isinf", n[0],
        detect_negative=n.flag("detect_negative", True),
        detect_positive=n.flag("detect_positive", True),
    )  # fmt: skip


@onnx_op("Identity")
def identity(n: Node) -> Any:
    """The operand itself."""
    return n.input(0)


@onnx_op("Dropout")
def dropout(n: Node) -> Any:
    """The operand itself: models are imported for inference. The mask is all true."""
    if n.has(2) and n.scalar(2, "training_mode"):
        raise Refused("training mode is not supported", "export the model for inference")
    if n.result_count() == 1:
        return n.input(0)
    dt = bool_ if n.version >= 10 else n.type(0).dtype
    mask = n.b("broadcast", n.const(True, dt), shape=n.type(0).shape)
    return [n.input(0), mask]


# Activations


@onnx_op("LeakyRelu")
def leaky_relu(n: Node) -> Value:
    """``x`` above zero, else alpha * x."""
    x, m = math_of(n)
    return m.where(m.lt(x, 0.0), m.mul(x, n.attr("alpha", "float", 0.01)), x)


@onnx_op("PRelu")
def prelu(n: Node) -> Value:
    """``x`` above zero, else slope * x; the slope broadcasts to x."""
    x, m = math_of(n)
    slope = n[1]
    if n.version < 7 and slope.tensor.rank == 1 and x.tensor.rank > 1:
        slope = n.b("reshape", slope, shape=(*slope.shape, *(1,) * (x.tensor.rank - 2)))
    return m.where(m.lt(x, 0.0), m.mul(x, slope), x)


@onnx_op("Elu")
def elu(n: Node) -> Value:
    """``x`` above zero, else alpha * (exp(x) - 1)."""
    x, m = math_of(n)
    low = m.mul(m.expm1(m.min(x, 0.0)), n.attr("alpha", "float", 1.0))
    return m.where(m.gt(x, 0.0), x, low)


@onnx_op("Selu")
def selu(n: Node) -> Value:
    """Scaled Elu."""
    x, m = math_of(n)
    alpha = n.attr("alpha", "float", 1.67326319217681884765625)
    low = m.mul(m.expm1(m.min(x, 0.0)), alpha)
    return m.mul(m.where(m.gt(x, 0.0), x, low), n.attr("gamma", "float", 1.05070102214813232421875))


@onnx_op("Celu")
def celu(n: Node) -> Value:
    """max(0, x) + min(0, alpha * (exp(x / alpha) - 1))."""
    x, m = math_of(n)
    alpha = n.attr("alpha", "float", 1.0)
    low = m.mul(m.expm1(m.div(m.min(x, 0.0), alpha)), alpha)
    return m.where(m.gt(x, 0.0), x, low)


@onnx_op("Gelu")
def gelu(n: Node) -> Value:
    """Computes ``x * Phi(x), by erf or by the tanh approximation (Hendrycks and Gimpel, 2016)``."""
    x, m = math_of(n)
    if n.choice("approximate", "none", ("none", "tanh")) == "none":
        return m.gelu(x)
    cube = m.mul(m.mul(x, x), x)
    inner = m.tanh(m.mul(m.add(x, m.mul(cube, 0.044715)), math.sqrt(2 / math.pi)))
    return m.mul(m.mul(x, 0.5), m.add(inner, 1.0))


@onnx_op("HardSigmoid")
def hard_sigmoid(n: Node) -> Value:
    """Computes ``alpha * x + beta, limited to [0, 1]``."""
    x, m = math_of(n)
    line = m.add(m.mul(x, n.attr("alpha", "float", 0.2)), n.attr("beta", "float", 0.5))
    return m.clamp(line, 0.0, 1.0)


@onnx_op("HardSwish")
def hard_swish(n: Node) -> Value:
    """Computes ``x * clip(x / 6 + 1/2, 0, 1)``."""
    x, m = math_of(n)
    return m.mul(x, m.clamp(m.add(m.mul(x, 1 / 6), 0.5), 0.0, 1.0))


@onnx_op("Swish")
def swish(n: Node) -> Value:
    """Computes ``x * sigmoid(alpha * x)``."""
    x, m = math_of(n)
    return m.mul(x, m.sigmoid(m.mul(x, n.attr("alpha", "float", 1.0))))


def _softplus(m: Math, x: Value) -> Value:
    return m.add(m.log1p(m.exp(m.neg(m.abs(x)))), m.max(x, 0.0))


@onnx_op("Softplus")
def softplus(n: Node) -> Value:
    """log(1 + exp(x)), without overflow."""
    x, m = math_of(n)
    return _softplus(m, x)


@onnx_op("Mish")
def mish(n: Node) -> Value:
    """Computes ``x * tanh(softplus(x))``."""
    x, m = math_of(n)
    return m.mul(x, m.tanh(_softplus(m, x)))


@onnx_op("Softsign")
def softsign(n: Node) -> Value:
    """Computes ``x / (1 + |x|)``."""
    x, m = math_of(n)
    return m.div(x, m.add(m.abs(x), 1.0))


@onnx_op("ThresholdedRelu")
def thresholded_relu(n: Node) -> Value:
    """``x`` above alpha, else 0."""
    x, m = math_of(n)
    return m.where(m.gt(x, n.attr("alpha", "float", 1.0)), x, 0.0)


@onnx_op("Shrink")
def shrink(n: Node) -> Value:
    """``x`` moved towards zero by bias, and 0 within [-lambd, lambd]."""
    x, m = math_of(n)
    lambd, bias = n.attr("lambd", "float", 0.5), n.attr("bias", "float", 0.0)
    above = m.where(m.gt(x, lambd), m.sub(x, bias), 0)
    return m.where(m.lt(x, -lambd), m.add(x, bias), above)


@onnx_op("Clip")
def clip(n: Node) -> Value:
    """Limits x to [min, max]; attributes before opset 11, then inputs."""
    x, m = math_of(n)
    if n.version < 11:
        return m.clamp(x, n.attr("min", "float", None), n.attr("max", "float", None))
    return m.clamp(x, n.optional(1), n.optional(2))


# Matrix products


@onnx_op("Gemm")
def gemm(n: Node) -> Value:
    """Computes ``alpha * A' @ B' + beta * C``."""
    a, b = n[0], n[1]
    if n.flag("transA"):
        a = n.b("transpose", a, perm=(1, 0))
    if n.flag("transB"):
        b = n.b("transpose", b, perm=(1, 0))
    if a.tensor.rank != 2 or b.tensor.rank != 2:
        raise Refused(f"Gemm multiplies matrices, not {a.type} and {b.type}")
    y = n.b("matmul", a, b)
    m = Math(n.b, y)
    alpha, beta = n.attr("alpha", "float", 1.0), n.attr("beta", "float", 1.0)
    if alpha != 1.0:
        y = m.mul(y, alpha)
    c = n.optional(2)
    if c is None or beta == 0.0:
        return y
    return m.add(y, c if beta == 1.0 else m.mul(c, beta))


@onnx_op("CumSum")
def cumsum(n: Node) -> Value:
    """Running sums along an axis."""
    axis = n.axis(n.scalar(1, "axis"), n.rank())
    return n.b("cumsum", n[0], axis=axis, exclusive=n.flag("exclusive"), reverse=n.flag("reverse"))


@onnx_op("EyeLike")
def eye_like(n: Node) -> Value:
    """Ones on a diagonal."""
    if n.rank() != 2:
        raise Refused(f"EyeLike needs a matrix, got {n.type(0)}")
    number = n.attr("dtype", "int", None)
    dt = n.type(0).dtype if number is None else element_type(number)
    on = diagonal(n.b, n.type(0).shape, n.const(n.attr("k", "int", 0), i64), "eq")
    return n.b("cast", on, dtype=dt)


@onnx_op("Trilu")
def trilu(n: Node) -> Value:
    """The upper or lower triangle; zero elsewhere."""
    x = n[0]
    if x.tensor.rank < 2:
        raise Refused(f"Trilu needs matrices, got {x.type}")
    k = n[1] if n.has(1) else n.const(0, i64)
    keep = diagonal(n.b, x.shape, k, "ge" if n.flag("upper", True) else "le")
    return n.b("where", keep, x, n.const(0, x.dtype))
