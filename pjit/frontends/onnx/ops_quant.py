"""Quantised operators, as the arithmetic that they stand for."""

from __future__ import annotations

from pjit.frontends.onnx.ops_math import Math
from pjit.frontends.onnx.ops_nn import convolution
from pjit.frontends.onnx.reader import Refused, element_type
from pjit.frontends.onnx.registry import Node, onnx_op
from pjit.ir.core import Value
from pjit.ir.types import DType, f32, i32, u8


def _along(n: Node, v: Value, axis: int, rank: int) -> Value:
    """A vector shaped to broadcast along an axis; one number broadcasts anyway."""
    if v.tensor.rank == 0 or v.shape == (1,):
        return n.b("reshape", v, shape=())
    if v.tensor.rank != 1:
        raise Refused("quantisation in blocks is not supported", "quantise per tensor or per axis")
    return n.b("reshape", v, shape=(*v.shape, *(1,) * (rank - axis - 1)))


def _parameters(n: Node, rank: int) -> tuple[Value, Value | None]:
    """Scale and zero point, shaped to broadcast."""
    if n.attr("block_size", "int", 0):
        raise Refused("quantisation in blocks is not supported", "quantise per tensor or per axis")
    axis = n.attr("axis", "int", 1)
    axis = n.axis(axis, rank) if -rank <= axis < rank else 0
    zero = n.optional(2)
    return _along(n, n[1], axis, rank), None if zero is None else _along(n, zero, axis, rank)


def _saturated(n: Node, real: Value, zero: Value | None, dt: DType) -> Value:
    """Rounds to even, adds the zero point and limits to the range of an integer type."""
    if not dt.is_int or dt.bits > 16:
        raise Refused(f"quantisation to {dt} is not supported")
    m = Math(n.b, real)
    y = m.round(real)
    if zero is not None:
        y = m.add(y, n.b("cast", zero, dtype=real.dtype))
    low, high = (
        (0, (1 << dt.bits) - 1) if dt.kind == "u" else (-(1 << dt.bits - 1), (1 << dt.bits - 1) - 1)
    )
    return n.b("cast", m.clamp(y, low, high), dtype=dt)


@onnx_op("QuantizeLinear")
def quantize(n: Node) -> Value:
    """Computes ``round(x / scale) + zero``, saturated."""
    x = n[0]
    scale, zero = _parameters(n, x.tensor.rank)
    number = n.attr("output_dtype", "int", 0)
    dt = zero.dtype if zero is not None else element_type(number) if number else u8
    if x.dtype != scale.dtype:
        x = n.b("cast", x, dtype=scale.dtype)
    return _saturated(n, n.b("div", x, scale), zero, dt)


@onnx_op("DequantizeLinear")
def dequantize(n: Node) -> Value:
    """Computes ``(x - zero) * scale``."""
    x = n[0]
    scale, zero = _parameters(n, x.tensor.rank)
    y = n.b("cast", x, dtype=scale.dtype)
    if zero is not None:
        y = n.b("sub", y, n.b("cast", zero, dtype=scale.dtype))
    return n.b("mul", y, scale)


def _centred(n: Node, x: Value, zero: Value | None) -> Value:
    """``x - zero`` as i32."""
    y = n.b("cast", x, dtype=i32)
    return y if zero is None else n.b("sub", y, n.b("cast", zero, dtype=i32))


def _row_zero(n: Node, i: int, x: Value) -> Value | None:
    """The zero point of the left matrix: one number, or one for each row."""
    zero = n.optional(i)
    if zero is None or zero.tensor.rank != 1 or zero.shape == (1,):
        return zero if zero is None else n.b("reshape", zero, shape=())
    return n.b("reshape", zero, shape=(*zero.shape, 1))


@onnx_op("MatMulInteger")
def matmul_integer(n: Node) -> Value:
    """The product of two integer matrices without their zero points, i32."""
    a, b = n[0], n[1]
    return n.b("matmul", _centred(n, a, _row_zero(n, 2, a)), _centred(n, b, n.optional(3)))


@onnx_op("QLinearMatMul")
def qlinear_matmul(n: Node) -> Value:
    """A quantised matrix product."""
    a, b = n[0], n[3]
    total = n.b("matmul", _centred(n, a, _row_zero(n, 2, a)), _centred(n, b, n.optional(5)))
    scale = n.b("div", n.b("mul", n[1], n[4]), n[6])
    real = n.b("mul", n.b("cast", total, dtype=f32), scale)
    return _saturated(n, real, n[7], n[7].dtype)


def _channels_first(n: Node, v: Value | None, rank: int) -> Value | None:
    """A number for each output channel, shaped for a weight [O, I, kernel...]."""
    if v is None or v.tensor.rank == 0:
        return v
    return n.b("reshape", v, shape=(*v.shape, *(1,) * (rank - 1)))


@onnx_op("ConvInteger")
def conv_integer(n: Node) -> Value:
    """The convolution of integers without their zero points, i32."""
    x, w = _centred(n, n[0], n.optional(2)), n[1]
    return convolution(n, x, _centred(n, w, _channels_first(n, n.optional(3), w.tensor.rank)), None)


@onnx_op("QLinearConv")
def qlinear_conv(n: Node) -> Value:
    """A quantised convolution; the bias is i32."""
    x, w = n[0], n[3]
    rank = w.tensor.rank
    weight = _centred(n, w, _channels_first(n, n.optional(5), rank))
    total = convolution(n, _centred(n, x, n.optional(2)), weight, n.optional(8))
    scale = n.b("div", n.b("mul", n[1], n[4]), n[6])
    if scale.tensor.rank:
        scale = n.b("reshape", scale, shape=(*scale.shape, *(1,) * (rank - 2)))
    real = n.b("mul", n.b("cast", total, dtype=f32), scale)
    return _saturated(n, real, n[7], n[7].dtype)
