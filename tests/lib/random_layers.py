"""Steps that extend a random graph: products, convolutions, pooling, normalisation, layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, sqrt
from typing import Any

from random_steps import apply_arithmetic, floating, number
from random_values import (
    SIZES,
    Drawing,
    Known,
    Shape,
    capped,
    count,
    rounding,
)

from pjit.ir import ops
from pjit.ir.expr import Dim
from pjit.ir.types import bool_

SMALL = (1, 2, 3, 5, 8, 4, 7, 16, 17)


def inner_product(x: Known, y: Known, terms: int) -> tuple[float, float, float]:
    """The range and error of sums of products."""
    bound = terms * x.bound * y.bound
    error = terms * (x.error * y.bound + y.error * x.bound)
    error += rounding(x.dtype, bound, terms + 2)
    return -bound, bound, error if x.dtype.is_float else 0.0


def matmul(g: Drawing) -> None:
    """A matrix product with a value that fits or a new matrix."""
    a = g.pick(lambda k: number(k) and 0 < k.rank < 5)
    if a is None:
        return
    depth = a.shape[-1]

    def fits(k: Known) -> bool:
        if k.dtype != a.dtype or k.rank == 0 or k.shape[-min(2, k.rank)] != depth:
            return False
        lead = zip(reversed(k.shape[:-2]), reversed(a.shape[:-2]), strict=False)
        return all(m == n or 1 in (m, n) for m, n in lead)

    b = g.pick(fits) if g.chance(40) else None
    if b is None and a.rank >= 2 and g.chance(15):
        perm = (*range(a.rank - 2), a.rank - 1, a.rank - 2)
        b = g.moved(ops.Transpose, a, perm=perm)
    if b is None and isinstance(depth, int):
        shape: Shape = (depth,) if g.chance(10) else (depth, g.one_of(SIZES))
        if len(shape) > 1 and g.chance(25):
            shape = (*(1 if g.chance(40) else d for d in a.shape[:-2]), *shape)
        b = g.source(a.dtype, shape, -1, 1)
    if b is not None:
        multiply(g, a, b)


def multiply(g: Drawing, a: Known, b: Known) -> Known | None:
    """The matrix product of two values."""
    return g.emit(ops.Matmul, [a, b], *inner_product(a, b, capped(a.shape[-1])))


@dataclass
class Window:
    """Attributes of a sliding window that fits."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]

    @property
    def attrs(self) -> dict[str, Any]:
        """Without the kernel."""
        return {"strides": self.strides, "pads": self.pads, "dilations": self.dilations}


def window(g: Drawing, spatial: Sequence[Dim], below_kernel: bool = False) -> Window:
    """A window that fits; with ``below_kernel`` no pad reaches its span, and it never skips all."""
    sizes = [d if isinstance(d, int) else 1 for d in spatial]
    kernel = [g.one_of((3, 1, 2, 4, 5)) if g.chance(80) else 1 for _ in sizes]
    strides = [g.one_of((1, 2, 3)) for _ in sizes]
    dilations = [2 if g.chance(15) and (n > 1 or not below_kernel) else 1 for n in sizes]
    low, high = [], []
    for i, size in enumerate(sizes):
        while True:
            span = (kernel[i] - 1) * dilations[i] + 1
            most = min(3, span - 1) if below_kernel else 3
            need = max(0, span - size)
            if need <= 2 * most:
                break
            kernel[i] -= 1
        a = g.number(max(0, need - most), most) if need or g.chance(50) else 0
        b = g.number(max(0, need - a), most) if need > a or g.chance(50) else 0
        low.append(a)
        high.append(b)
    return Window(tuple(kernel), tuple(strides), (*low, *high), tuple(dilations))


def image(g: Drawing) -> Known | None:
    """A value of a batch, channels and one to three spatial dimensions."""
    return g.pick(lambda k: number(k) and k.rank in (3, 4, 5) and isinstance(k.shape[1], int))


def conv(g: Drawing) -> Known | None:
    """A convolution, often grouped or depthwise, often with a bias."""
    x = image(g)
    if x is None:
        return None
    w = window(g, x.shape[2:])
    channels = capped(x.shape[1])
    groups = g.one_of([1, *(d for d in range(1, channels + 1) if channels % d == 0), channels])
    out = groups * g.one_of((1, 2, 3, 4, 7)) if groups > 1 else g.one_of(SMALL)
    kernel = g.source(x.dtype, (out, channels // groups, *w.kernel), -1, 1)
    terms = channels // groups * count(w.kernel)
    if x.nan and kernel.value.op is not None:
        return None  # the layout of a constant kernel may multiply its neighbours by zeros
    y = g.emit(ops.Conv, [x, kernel], *inner_product(x, kernel, terms), groups=groups, **w.attrs)
    if y is None or g.chance(50):
        return y
    bias = g.source(x.dtype, (out, *(1,) * len(w.kernel)), -1, 1)
    return apply_arithmetic(g, g.one_of(("add", "mul")), y, bias, 0.0)


def conv_transpose(g: Drawing) -> None:
    """A transposed convolution whose result has at least one element in each dimension."""
    x = image(g)
    # NaN: its decomposition multiplies by zeros where the operator has no term
    if x is None or not x.dtype.is_float or count(x.shape) > 800 or x.nan:
        return
    n, channels = x.rank - 2, capped(x.shape[1])
    kernel = tuple(g.one_of((3, 1, 2, 4)) for _ in range(n))
    strides = tuple(g.one_of((1, 2, 3)) for _ in range(n))
    dilations = tuple(2 if g.chance(15) else 1 for _ in range(n))
    pads = [0] * 2 * n
    for i, d in enumerate(x.shape[2:]):
        least = d if isinstance(d, int) else 1
        size = (least - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1
        pads[i] = g.number(0, min(2, size - 1))
        pads[n + i] = g.number(0, min(2, size - 1 - pads[i]))
    groups = g.one_of([d for d in range(1, channels + 1) if channels % d == 0])
    out = g.one_of((1, 2, 3, 5))
    w = g.source(x.dtype, (channels, out, *kernel), -1, 1)
    extra = tuple(g.number(0, s - 1) if g.chance(30) else 0 for s in strides)
    attrs = {"strides": strides, "pads": tuple(pads), "dilations": dilations, "groups": groups}
    limits = inner_product(x, w, channels // groups * count(kernel))
    g.emit(ops.ConvTranspose, [x, w], *limits, output_padding=extra, **attrs)


def pool(g: Drawing) -> None:
    """Max or average pooling."""
    x = g.pick(lambda k: number(k) and k.rank in (3, 4, 5))
    if x is None:
        return
    last = g.chance(25)
    w = window(g, x.shape[1:-1] if last else x.shape[2:], below_kernel=True)
    attrs = {"kernel": w.kernel, "ceil": g.chance(25), "channels_last": last, **w.attrs}
    if g.chance(50):
        g.emit(ops.MaxPool, [x], x.low, x.high, x.error, x.whole, **attrs)
        return
    if not x.dtype.is_float:
        return
    error = x.error + rounding(x.dtype, x.bound, count(w.kernel) + 3)
    low, high = min(x.low, 0.0), max(x.high, 0.0)
    g.emit(ops.AvgPool, [x], low, high, error, count_include_pad=g.chance(50), **attrs)


def resize(g: Drawing) -> None:
    """A resampling of some dimensions."""
    x = g.pick(lambda k: k.rank > 0)
    if x is None:
        return
    shape: list[Dim] = []
    for d in x.shape:
        if not g.chance(50):
            shape.append(d)
        elif g.chance(40):
            shape.append(d * g.one_of((2, 3)))
        else:
            shape.append(g.one_of(SIZES[:9]))
    attrs: dict[str, Any] = {
        "shape": tuple(shape),
        "mode": g.one_of(("nearest", "linear", "cubic") if x.dtype.is_float else ("nearest",)),
        "coordinates": g.one_of(
            ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
        ),
        "nearest": g.one_of(("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")),
        "exclude_outside": g.chance(20),
    }
    if attrs["mode"] == "nearest":
        g.emit(ops.Resize, [x], x.low, x.high, x.error, x.whole, **attrs)
        return
    growth = 1.0 if attrs["mode"] == "linear" else 1.6**x.rank
    bound = x.bound * growth
    low, high = (x.low, x.high) if growth == 1 else (-bound, bound)
    # the weights are computed in f32, whatever the dtype is
    error = growth * x.error + rounding(x.dtype, bound, 16) + 1e-5 * bound
    g.emit(ops.Resize, [x], low, high, error, **attrs)


# Normalisation


def softmax(g: Drawing) -> Known | None:
    """Softmax or its logarithm, as an operator or spelled out; sometimes masked."""
    x = g.pick(lambda k: floating(k) and k.rank > 0 and k.error < 0.02)
    if x is None or x.bound > 60:
        return None
    axis = x.rank - 1 if g.chance(70) else g.number(0, x.rank - 1)
    n = capped(x.shape[axis])
    error = 2 * x.error + rounding(x.dtype, 1, n + 30)
    if g.chance(20):
        low = x.low - x.high - log(n)
        error = 2 * x.error + rounding(x.dtype, abs(low) + 1, n + 30)
        return g.emit(ops.LogSoftmax, [x], low - 0.1, 0.1, error, axis=axis)
    if not g.chance(30):
        return g.emit(ops.Softmax, [x], 0, 1, error, axis=axis)
    b, v = g.b, x.value
    if g.chance(50):
        mask = g.source(bool_, g.part_of(x.shape))
        v = b(ops.Where, mask.value, v, b.constant(-1e4, x.dtype))
    error += rounding(x.dtype, max(1.0, x.bound), 4, stored=6)
    axes = {"axes": (axis,), "keepdims": True}
    e = b(ops.Exp, b(ops.Sub, v, b(ops.ReduceMax, v, **axes)))
    total = b(ops.ReduceSum, e, **axes)
    y = b(ops.Div, e, total) if g.chance(60) else b(ops.Mul, e, b(ops.Reciprocal, total))
    return g.take(y, [x], 0, 1, error * 2)


def layer_norm(g: Drawing) -> None:
    """LayerNorm as an operator or spelled out, and RMSNorm."""
    x = g.pick(lambda k: floating(k) and k.rank > 0 and k.bound < 100)
    if x is None:
        return
    axis = x.rank - 1 if g.chance(70) else g.number(0, x.rank - 1)
    inner = x.shape[axis:]
    n = count(inner)
    epsilon = g.one_of((0.1, 1e-2, 1e-3))
    scale = g.source(x.dtype, g.part_of(inner), -2, 2)
    bias = g.source(x.dtype, g.part_of(inner), -2, 2) if g.chance(60) else None
    wide = {"f16": 1e-7, "bf16": 1e-7}.get(x.dtype.name)  # computed in f32
    own = rounding(x.dtype, x.bound, n + 8) if wide is None else wide * x.bound * (n + 8)
    bound = (sqrt(n) + 1) * scale.bound + 2
    kind = g.one_of(("operator", "spelled", "rms"))
    if kind != "operator" and x.dtype.bits == 16:
        return
    error = scale.bound * 3 * (x.error + own) / sqrt(epsilon) + rounding(x.dtype, bound, 8)
    operands = [x, scale] if bias is None else [x, scale, bias]
    if kind == "operator":
        g.emit(ops.LayerNorm, operands, -bound, bound, error, axis=axis, epsilon=epsilon)
        return
    b, centred = g.b, x.value
    axes = {"axes": tuple(range(axis, x.rank)), "keepdims": True}
    if kind == "spelled":
        centred = b(ops.Sub, centred, b(ops.ReduceMean, centred, **axes))
    square = b(ops.ReduceMean, b(ops.Mul, centred, centred), **axes)
    shifted = b(ops.Add, square, b.constant(epsilon, x.dtype))
    if g.chance(50):
        y = b(ops.Div, centred, b(ops.Sqrt, shifted))
    else:
        y = b(ops.Mul, centred, b(ops.Rsqrt, shifted))
    y = b(ops.Mul, y, scale.value)
    if bias is not None:
        y = b(ops.Add, y, bias.value)
    g.take(y, operands, -bound, bound, error * 2)


def batch_norm(g: Drawing) -> None:
    """BatchNorm with constant or given statistics."""
    x = g.pick(lambda k: floating(k) and k.rank >= 2 and isinstance(k.shape[1], int))
    if x is None:
        return
    channels = (x.shape[1],)
    ranges = ((-2, 2), (-2, 2), (-2, 2), (0.2, 2))
    parameters = [g.constant(x.dtype, channels, lo, hi) for lo, hi in ranges]
    if g.chance(20):
        parameters[0] = g.input(x.dtype, channels, -2, 2)
    bound = (x.bound + 2) * 4.6 + 2
    error = 4.6 * x.error + rounding(x.dtype, bound, 16)
    g.emit(ops.BatchNorm, [x, *parameters], -bound, bound, error, epsilon=1e-3)


# Layers: several operators as networks have them


def activation(g: Drawing) -> None:
    """SiLU, GELU, hard swish, leaky ReLU or a clip of the latest value."""
    x = g.pick(lambda k: floating(k) and k.bound < 40)
    if x is None:
        return
    b, v, dt = g.b, x.value, x.dtype

    def c(value: float) -> Any:
        return b.constant(value, dt)

    kind = g.one_of(("silu", "gelu", "hard_swish", "leaky", "clip"))
    if kind == "silu":
        y = b(ops.Mul, v, b(ops.Sigmoid, v))
    elif kind == "gelu":
        half = b(ops.Mul, v, c(0.5))
        y = b(ops.Mul, half, b(ops.Add, b(ops.Erf, b(ops.Div, v, c(sqrt(2)))), c(1.0)))
    elif kind == "hard_swish":
        gate = b(ops.Min, b(ops.Max, b(ops.Add, v, c(3.0)), c(0.0)), c(6.0))
        y = b(ops.Mul, v, b(ops.Div, gate, c(6.0)))
    elif kind == "leaky":
        y = b(ops.Max, v, b(ops.Mul, v, c(0.125)))
    else:
        y = b(ops.Min, b(ops.Max, v, c(-1.0)), c(2.0))
    error = (2 + x.bound) * x.error + rounding(dt, x.bound, 24, stored=8)
    g.take(y, [x], -x.bound, max(x.bound, 2.0), error)


def attention(g: Drawing) -> None:
    """Scores of queries and keys, softmax, and the product with values, by heads."""
    x = g.pick(lambda k: floating(k) and k.rank == 3 and isinstance(k.shape[2], int))
    if x is None or x.bound > 3 or x.dtype.bits == 16 or capped(x.shape[2]) > 20:
        return
    n, length, width = x.shape
    heads, size = g.one_of((1, 2, 3)), g.one_of((1, 2, 4, 5, 8, 16))
    w = g.constant(x.dtype, (width, 3 * heads * size), -0.2, 0.2)
    qkv = multiply(g, x, w)
    if qkv is None or qkv.bound > 30:
        return
    b = g.b
    split = b(ops.Reshape, qkv.value, shape=(n, length, 3, heads, size))
    moved = b(ops.Transpose, split, perm=(2, 0, 3, 1, 4))

    def part(i: int) -> Any:
        given = {"starts": (i, 0, 0, 0, 0), "sizes": (1, *moved.shape[1:]), "steps": (1,) * 5}
        return b(ops.Reshape, b(ops.Slice, moved, **given), shape=moved.shape[1:])

    q, k, v = part(0), part(1), part(2)
    scores = b(ops.Matmul, q, b(ops.Transpose, k, perm=(0, 1, 3, 2)))
    scores = b(ops.Mul, scores, b.constant(0.1, x.dtype))
    if g.chance(40):
        mask = g.source(x.dtype, g.part_of((length, length)), -2, 2)
        scores = b(ops.Add, scores, mask.value)
    weights = b(ops.Softmax, scores, axis=3)
    out = b(ops.Transpose, b(ops.Matmul, weights, v), perm=(0, 2, 1, 3))
    y = b(ops.Reshape, out, shape=(n, length, heads * size))
    terms = 0.1 * size * qkv.bound * (qkv.error + rounding(x.dtype, qkv.bound, size))
    error = qkv.error + qkv.bound * (2 * terms + rounding(x.dtype, 1, 60)) * 2
    g.take(y, [x], -qkv.bound, qkv.bound, error)


def gate(g: Drawing) -> None:
    """Squeeze and excitation: the mean of each channel decides its factor."""
    x = g.pick(lambda k: floating(k) and k.rank == 4 and isinstance(k.shape[1], int))
    if x is None or not all(isinstance(d, int) for d in x.shape[2:]):
        return
    b, channels = g.b, capped(x.shape[1])
    mean = b(ops.ReduceMean, x.value, axes=(2, 3), keepdims=True)
    w = g.constant(x.dtype, (channels, channels, 1, 1), -1, 1)
    given = {"strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1), "groups": 1}
    factor = b(ops.Sigmoid, b(ops.Conv, mean, w.value, **given))
    y = b(ops.Mul, x.value, factor)
    inner = channels * (x.error + rounding(x.dtype, x.bound, count(x.shape[2:]) + channels))
    error = x.error + x.bound * (inner + rounding(x.dtype, 1, 8))
    g.take(y, [x, w], -x.bound, x.bound, error)


def residual(g: Drawing) -> None:
    """The sum of two values of one shape."""
    x = g.pick(floating)
    y = g.pick(lambda k: k.dtype == x.dtype and k.shape == x.shape) if x is not None else None
    if x is not None and y is not None:
        apply_arithmetic(g, "add", x, y, 0.0)
