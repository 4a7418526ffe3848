"""Convolutions, pooling, normalisation and embedding-free layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pjit.frontends.onnx.ops_math import Math, math_of
from pjit.frontends.onnx.ops_shape import padded
from pjit.frontends.onnx.reader import Refused
from pjit.frontends.onnx.registry import Node, onnx_op
from pjit.ir.core import Value
from pjit.ir.expr import Dim, maximum, product
from pjit.ir.types import DType, f32

AUTO_PAD = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")


def _window(n: Node, name: str, default: int, spatial: int) -> tuple[int, ...]:
    values = n.attr(name, "ints", None) or (default,) * spatial
    if len(values) != spatial:
        raise Refused(f"{name} has {len(values)} entries for {spatial} spatial dimensions")
    if min(values) < 1:
        raise Refused(f"{name} {list(values)} is not positive")
    return values


def _pads(
    n: Node,
    shape: Sequence[Dim],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> tuple[list[Dim], list[Dim]]:
    """Low and high pads; those of SAME may be symbolic."""
    spatial, auto = len(kernel), n.choice("auto_pad", "NOTSET", AUTO_PAD)
    if auto == "NOTSET":
        pads = n.attr("pads", "ints", (0,) * (2 * spatial)) or (0,) * (2 * spatial)
        if len(pads) != 2 * spatial:
            raise Refused(f"pads has {len(pads)} entries for {spatial} spatial dimensions")
        return list(pads[:spatial]), list(pads[spatial:])
    if auto == "VALID":
        return [0] * spatial, [0] * spatial
    low: list[Dim] = []
    high: list[Dim] = []
    for size, k, s, d in zip(shape[2:], kernel, strides, dilations, strict=True):
        beyond = size * (s - 1) % s  # s*ceil(size/s) - size
        total = maximum((k - 1) * d + 1 - s + beyond, 0)
        half = total // 2
        less, more = half, total - half
        low.append(less if auto == "SAME_UPPER" else more)
        high.append(more if auto == "SAME_UPPER" else less)
    return low, high


def _with_pads(
    n: Node, x: Value, low: list[Dim], high: list[Dim], value: float = 0.0
) -> tuple[Value, list[int]]:
    """The operand and constant pads; symbolic and negative ones become an operation."""
    pads = [*low, *high]
    if all(isinstance(p, int) and p >= 0 for p in pads):
        return x, [int(p) for p in pads if isinstance(p, int)]
    return padded(n, x, [0, 0, *low], [0, 0, *high], value), [0] * len(pads)


def add_channels(n: Node, y: Value, bias: Value | None) -> Value:
    """Adds a vector along dimension 1."""
    if bias is None:
        return y
    return n.b("add", y, channel_vector(n, bias, y.tensor.rank))


def channel_vector(n: Node, v: Value, rank: int) -> Value:
    """A vector shaped to broadcast along dimension 1."""
    return n.b("reshape", v, shape=(*v.shape, *(1,) * (rank - 2)))


def _kernel(n: Node, w: Value, spatial: int) -> tuple[int, ...]:
    shape = w.shape[2:]
    if w.tensor.rank != spatial + 2 or not all(isinstance(d, int) for d in shape):
        raise Refused(f"the weight has the type {w.type}", "the kernel needs static sizes")
    declared = n.attr("kernel_shape", "ints", None)
    if declared and tuple(declared) != tuple(shape):
        raise Refused(f"kernel_shape {list(declared)} differs from the weight {w.type}")
    return tuple(shape)


def _spatial(n: Node, x: Value) -> int:
    spatial = x.tensor.rank - 2
    if spatial < 1:
        raise Refused(f"{n.op} needs an operand [N, C, spatial...], got {x.type}")
    return spatial


@onnx_op("Conv")
def conv(n: Node) -> Value:
    """Convolution in 1, 2 or 3 dimensions, with groups."""
    return convolution(n, n[0], n[1], n.optional(2))


def convolution(n: Node, x: Value, w: Value, bias: Value | None) -> Value:
    """A convolution with the attributes of a node."""
    spatial = _spatial(n, x)
    if spatial > 3:
        raise Refused(f"convolution in {spatial} dimensions is not supported")
    kernel = _kernel(n, w, spatial)
    strides = _window(n, "strides", 1, spatial)
    dilations = _window(n, "dilations", 1, spatial)
    x, pads = _with_pads(n, x, *_pads(n, x.shape, kernel, strides, dilations))
    y = n.b(
        "nn.conv", x, w, strides=strides, pads=pads, dilations=dilations,
        groups=n.attr("group", "int", 1),
    )  # fmt: skip
    return add_channels(n, y, bias)


@onnx_op("ConvTranspose")
def conv_transpose(n: Node) -> Value:
    """The gradient of a convolution with respect to its operand."""
    x, w = n[0], n[1]
    spatial = _spatial(n, x)
    kernel = _kernel(n, w, spatial)
    strides = _window(n, "strides", 1, spatial)
    dilations = _window(n, "dilations", 1, spatial)
    extra = list(n.attr("output_padding", "ints", None) or (0,) * spatial)
    wanted: list[Dim] = list(n.attr("output_shape", "ints", ()))[-spatial:]
    auto = n.choice("auto_pad", "NOTSET", AUTO_PAD)
    if not wanted and auto.startswith("SAME"):
        wanted = [d * s for d, s in zip(x.shape[2:], strides, strict=True)]
    if wanted:
        low, high = [], []
        for i, size in enumerate(wanted):
            reach = (x.shape[2 + i] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1
            total = reach + extra[i] - size
            if not isinstance(total, int):
                raise Refused(f"output_shape needs pads that depend on {total}", "give pads")
            extra[i] += max(-total, 0)
            total = max(total, 0)
            less = total // 2
            low.append(total - less if auto != "SAME_UPPER" else less)
            high.append(less if auto != "SAME_UPPER" else total - less)
        pads = [*low, *high]
    else:
        found = _pads(n, x.shape, kernel, strides, dilations)
        pads = [int(p) for p in (*found[0], *found[1]) if isinstance(p, int)]
    y = n.b(
        "nn.conv_transpose", x, w, strides=strides, pads=pads, dilations=dilations,
        groups=n.attr("group", "int", 1), output_padding=extra,
    )  # fmt: skip
    return add_channels(n, y, n.optional(2))


def _lowest(dt: DType) -> Any:
    if dt.is_float:
        return float("-inf")
    return 0 if dt.kind == "u" else -(1 << (dt.bits - 1))


@onnx_op("MaxPool", "AveragePool")
def pool(n: Node) -> Value:
    """The largest or mean element of windows."""
    x = n[0]
    spatial = _spatial(n, x)
    kernel = n.attr("kernel_shape", "ints")
    if len(kernel) != spatial or min(kernel) < 1:
        raise Refused(f"kernel_shape {list(kernel)} does not fit the operand {x.type}")
    strides = _window(n, "strides", 1, spatial)
    dilations = _window(n, "dilations", 1, spatial)
    low, high = _pads(n, x.shape, kernel, strides, dilations)
    attrs: dict[str, Any] = {
        "kernel": kernel, "strides": strides, "dilations": dilations, "ceil": n.flag("ceil_mode"),
    }  # fmt: skip
    if n.op == "MaxPool":
        x, pads = _with_pads(n, x, low, high, _lowest(x.dtype))
        return n.b("nn.max_pool", x, pads=pads, **attrs)
    counted = n.flag("count_include_pad")
    if not counted and not all(isinstance(p, int) for p in (*low, *high)):
        raise Refused(
            "auto_pad of an average over a symbolic size is not supported", "fix the spatial sizes"
        )
    x, pads = _with_pads(n, x, low, high)
    return n.b("nn.avg_pool", x, pads=pads, count_include_pad=counted, **attrs)


@onnx_op("GlobalAveragePool", "GlobalMaxPool")
def global_pool(n: Node) -> Value:
    """The mean or largest element of each channel."""
    x = n[0]
    _spatial(n, x)
    name = "reduce.mean" if n.op == "GlobalAveragePool" else "reduce.max"
    return n.b(name, x, axes=tuple(range(2, x.tensor.rank)), keepdims=True)


@onnx_op("GlobalLpPool")
def global_lp_pool(n: Node) -> Value:
    """The p-norm of each channel."""
    x, m = math_of(n)
    _spatial(n, x)
    p = n.attr("p", "int", 2)
    axes = tuple(range(2, x.tensor.rank))
    total = n.b("reduce.sum", m.pow(m.abs(x), float(p)), axes=axes, keepdims=True)
    return m.pow(total, 1.0 / p)


# Normalisation


@onnx_op("BatchNormalization")
def batch_normalization(n: Node) -> Any:
    """Normalises with stored means and variances."""
    if n.flag("training_mode"):
        raise Refused("training mode is not supported", "export the model for inference")
    if n.version < 9 and not n.flag("spatial", True):
        raise Refused("spatial=0 is not supported")
    x = n[0]
    stats = [n[i] for i in range(1, 5)]
    stats = [s if s.dtype == x.dtype else n.b("cast", s, dtype=x.dtype) for s in stats]
    y = n.b("nn.batch_norm", x, *stats, epsilon=n.attr("epsilon", "float", 1e-5))
    return y


@onnx_op("InstanceNormalization")
def instance_normalization(n: Node) -> Value:
    """Normalises each channel of each sample."""
    x, m = math_of(n)
    y = _normalised(n, m, x, tuple(range(2, x.tensor.rank)), n.attr("epsilon", "float", 1e-5))
    scale, bias = (channel_vector(n, n[i], x.tensor.rank) for i in (1, 2))
    return m.add(m.mul(y, scale), bias)


def _normalised(n: Node, m: Math, x: Value, axes: tuple[int, ...], epsilon: float) -> Value:
    centred = m.sub(x, n.b("reduce.mean", x, axes=axes, keepdims=True))
    variance = n.b("reduce.mean", m.mul(centred, centred), axes=axes, keepdims=True)
    return m.mul(centred, m.rsqrt(m.add(variance, epsilon)))


@onnx_op("GroupNormalization")
def group_normalization(n: Node) -> Value:
    """Normalises groups of channels; scale and bias are per channel, before opset 21 per group."""
    x, m = math_of(n)
    groups, epsilon = n.attr("num_groups", "int"), n.attr("epsilon", "float", 1e-5)
    _spatial(n, x)
    if groups < 1:
        raise Refused(f"num_groups={groups}")
    each = x.shape[1] // groups
    flat = n.b("reshape", x, shape=(x.shape[0], groups, each * product(x.shape[2:])))
    y = _normalised(n, Math(n.b, flat), flat, (2,), epsilon)
    if n.version < 21:
        scale, bias = (n.b("reshape", n[i], shape=(groups, 1)) for i in (1, 2))
        return n.b("reshape", m.add(m.mul(y, scale), bias), shape=x.shape)
    y = n.b("reshape", y, shape=x.shape)
    scale, bias = (channel_vector(n, n[i], x.tensor.rank) for i in (1, 2))
    return m.add(m.mul(y, scale), bias)


@onnx_op("LayerNormalization")
def layer_normalization(n: Node) -> Any:
    """Normalises the axes from ``axis`` on."""
    axis = n.axis(n.attr("axis", "int", -1), n.rank())
    if n.attr("stash_type", "int", 1) != 1:
        raise Refused("stash_type other than float is not supported")
    return n.b("nn.layer_norm", *n.data, axis=axis, epsilon=n.attr("epsilon", "float", 1e-5))


@onnx_op("RMSNormalization")
def rms_normalization(n: Node) -> Value:
    """``x`` over its root mean square, scaled."""
    x, m = math_of(n)
    axes = tuple(range(n.axis(n.attr("axis", "int", -1), x.tensor.rank), x.tensor.rank))
    wide = x if x.dtype in (f32,) or x.dtype.bits == 64 else n.b("cast", x, dtype=f32)
    w = Math(n.b, wide)
    mean = n.b("reduce.mean", w.mul(wide, wide), axes=axes, keepdims=True)
    y = w.mul(wide, w.rsqrt(w.add(mean, n.attr("epsilon", "float", 1e-5))))
    if y.dtype != x.dtype:
        y = n.b("cast", y, dtype=x.dtype)
    return m.mul(y, n[1])


@onnx_op("LRN")
def lrn(n: Node) -> Value:
    """Local response normalisation across channels (Krizhevsky et al., 2012)."""
    x, m = math_of(n)
    size = n.attr("size", "int")
    _spatial(n, x)
    if size < 1:
        raise Refused(f"size={size}")
    before = (size - 1) // 2
    batch, channels = x.shape[:2]
    squares = n.b("reshape", m.mul(x, x), shape=(batch, 1, channels, product(x.shape[2:])))
    mean = n.b(
        "nn.avg_pool", squares, kernel=(size, 1), strides=(1, 1), dilations=(1, 1),
        pads=(before, 0, size - 1 - before, 0), count_include_pad=True,
    )  # fmt: skip
    mean = n.b("reshape", mean, shape=x.shape)
    alpha, beta = n.attr("alpha", "float", 1e-4), n.attr("beta", "float", 0.75)
    divisor = m.pow(m.add(m.mul(mean, alpha), n.attr("bias", "float", 1.0)), beta)
    return m.div(x, divisor)
