"""Convolutions, pooling, normalisation and resampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pjit.frontends.torch.registry import Node, Refused, aten
from pjit.ir.core import Value
from pjit.ir.expr import Dim, product


def _channels(n: Node, v: Value, rank: int) -> Value:
    """A vector shaped to broadcast along dimension 1."""
    return n.reshape(v, (*v.shape, *(1,) * (rank - 2)))


def _spread(values: Sequence[int], spatial: int, default: Sequence[int] = ()) -> tuple[int, ...]:
    """One number a spatial dimension; one may stand for all, none for the default."""
    found = tuple(values) or tuple(default)
    return found * spatial if len(found) == 1 else found


@aten("convolution")
def convolution(
    n: Node, x: Value, w: Value, bias: Value | None, stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int], transposed: bool,
    output_padding: Sequence[int], groups: int,
) -> Value:  # fmt: skip
    """A convolution, or the gradient of one."""
    spatial = w.tensor.rank - 2
    pads = _spread(padding, spatial)
    attrs: dict[str, Any] = {
        "strides": _spread(stride, spatial), "pads": (*pads, *pads),
        "dilations": _spread(dilation, spatial), "groups": groups,
    }  # fmt: skip
    if transposed:
        attrs["output_padding"] = _spread(output_padding, spatial)
    y = n.b("nn.conv_transpose" if transposed else "nn.conv", x, w, **attrs)
    return y if bias is None else n.b("add", y, _channels(n, bias, y.tensor.rank))


def _unbatched(n: Node, x: Value, spatial: int) -> tuple[Value, bool]:
    """A batch, and whether it was made."""
    if x.tensor.rank == spatial + 2:
        return x, False
    return n.reshape(x, (1, *x.shape)), True


@aten("max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices")
def max_pool(
    n: Node, x: Value, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], ceil: bool,
) -> list[Value | None]:  # fmt: skip
    """The largest element of windows; where it was is not computed."""
    if n.used(1):
        raise Refused("the positions of the largest elements of windows are not supported")
    spatial = int(n.op[8])
    kernel = _spread(kernel, spatial)
    pads = _spread(padding, spatial)
    x, alone = _unbatched(n, x, spatial)
    y = n.b(
        "nn.max_pool", x, kernel=kernel, strides=_spread(stride, spatial, kernel),
        pads=(*pads, *pads), dilations=_spread(dilation, spatial), ceil=ceil,
    )  # fmt: skip
    return [n.reshape(y, y.shape[1:]) if alone else y, None]


@aten("avg_pool1d", "avg_pool2d", "avg_pool3d")
def avg_pool(
    n: Node, x: Value, kernel: Sequence[int], stride: Sequence[int] = (),
    padding: Sequence[int] = (0,), ceil: bool = False, count_include_pad: bool = True,
    divisor: int | None = None,
) -> Value:  # fmt: skip
    """The mean of windows."""
    spatial = int(n.op[8])
    kernel = _spread(kernel, spatial)
    pads = _spread(padding, spatial)
    if divisor is not None and ceil:
        raise Refused("ceil_mode with divisor_override is not supported")
    x, alone = _unbatched(n, x, spatial)
    y = n.b(
        "nn.avg_pool", x, kernel=kernel, strides=_spread(stride, spatial, kernel),
        pads=(*pads, *pads), dilations=(1,) * spatial, ceil=ceil,
        count_include_pad=count_include_pad or divisor is not None,
    )  # fmt: skip
    if divisor is not None:
        y = n.math(y).mul(y, math.prod(kernel) / divisor)
    return n.reshape(y, y.shape[1:]) if alone else y


@aten("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_avg_pool1d")
def adaptive_avg_pool(n: Node, x: Value, out: Sequence[Dim]) -> Value:
    """Means of windows that give an output size."""
    spatial = len(out)
    sizes = x.shape[-spatial:]
    if all(o == 1 for o in out):
        rank = x.tensor.rank
        return n.b("reduce.mean", x, axes=tuple(range(rank - spatial, rank)), keepdims=True)
    kernel = []
    for size, o in zip(sizes, out, strict=True):
        if not isinstance(size, int) or not isinstance(o, int) or size % o:
            raise Refused(f"adaptive pooling of {list(sizes)} to {list(out)}: no whole windows")
        kernel.append(size // o)
    x, alone = _unbatched(n, x, spatial)
    y = n.b(
        "nn.avg_pool", x, kernel=kernel, strides=kernel, pads=(0,) * 2 * spatial,
        dilations=(1,) * spatial,
    )  # fmt: skip
    return n.reshape(y, y.shape[1:]) if alone else y


@aten("_native_batch_norm_legit_no_training")
def batch_norm(
    n: Node, x: Value, scale: Value | None, bias: Value | None, mean: Value, var: Value,
    momentum: float, epsilon: float,
) -> list[Value | None]:  # fmt: skip
    """Normalises channels with given statistics."""
    size = mean.shape
    scale = n.broadcast(n.b.constant(1, mean.dtype), size) if scale is None else scale
    bias = n.broadcast(n.b.constant(0, mean.dtype), size) if bias is None else bias
    empty = n.b.constant(np.zeros(0), x.dtype) if n.used(1) or n.used(2) else None
    return [n.b("nn.batch_norm", x, scale, bias, mean, var, epsilon=epsilon), empty, empty]


@aten("native_layer_norm")
def layer_norm(
    n: Node, x: Value, normalized: Sequence[Dim], scale: Value | None, bias: Value | None,
    epsilon: float,
) -> list[Value | None]:  # fmt: skip
    """Normalises the last dimensions together; mean and deviation serve the gradient."""
    if n.used(1) or n.used(2):
        raise Refused("the statistics of a layer norm are not supported")
    rank = x.tensor.rank
    scale = n.b.constant(1, x.dtype) if scale is None else n.cast(scale, x.dtype)
    operands = [x, scale] if bias is None else [x, scale, n.cast(bias, x.dtype)]
    y = n.b("nn.layer_norm", *operands, axis=rank - len(normalized), epsilon=epsilon)
    return [y, None, None]


@aten("native_group_norm")
def group_norm(
    n: Node, x: Value, scale: Value | None, bias: Value | None, batch: Dim, channels: Dim,
    inner: Dim, groups: int, epsilon: float,
) -> list[Value | None]:  # fmt: skip
    """Normalises groups of channels."""
    if n.used(1) or n.used(2):
        raise Refused("the statistics of a group norm are not supported")
    shape, dt = x.shape, x.dtype
    wide = n.cast(n.reshape(x, (batch, groups, product(shape[1:]) // groups)), n.wide(dt))
    m = n.math(wide)
    centred = m.sub(wide, n.b("reduce.mean", wide, axes=(2,), keepdims=True))
    variance = n.b("reduce.mean", m.mul(centred, centred), axes=(2,), keepdims=True)
    y = n.reshape(m.mul(centred, m.rsqrt(m.add(variance, epsilon))), shape)
    if scale is not None:
        y = m.mul(y, _channels(n, n.cast(scale, y.dtype), y.tensor.rank))
    if bias is not None:
        y = m.add(y, _channels(n, n.cast(bias, y.dtype), y.tensor.rank))
    return [n.cast(y, dt), None, None]


def _resized(n: Node, x: Value, scales: Sequence[float | None], **attrs: Any) -> Value:
    """Resamples the last dimensions to the shape of the result, by given factors or the sizes'."""
    shape = n.shape
    lead = len(shape) - len(scales)
    if all(scales):
        factors: tuple[float, ...] = (*(1.0,) * lead, *(float(s) for s in scales if s))
    elif any(scales):
        raise Refused("scales for some dimensions only are not supported")
    else:
        factors = ()
    return n.b("nn.resize", x, shape=shape, scales=factors, **attrs)


@aten(
    "upsample_nearest1d.default", "upsample_nearest2d.default", "upsample_nearest3d.default",
    "_upsample_nearest_exact1d.default", "_upsample_nearest_exact2d.default",
    "_upsample_nearest_exact3d.default",
)  # fmt: skip
def upsample_nearest(n: Node, x: Value, size: Any, *scales: Any) -> Value:
    """The nearest element."""
    if n.op.startswith("_"):
        how = {"coordinates": "half_pixel", "nearest": "round_prefer_ceil"}
    else:
        how = {"coordinates": "asymmetric", "nearest": "floor"}
    return _resized(n, x, scales, mode="nearest", **how)


@aten(
    "upsample_linear1d.default", "upsample_bilinear2d.default", "upsample_trilinear3d.default",
    "upsample_bicubic2d.default",
)  # fmt: skip
def upsample(n: Node, x: Value, size: Any, align: bool, *scales: Any) -> Value:
    """Linear or cubic interpolation."""
    how = "align_corners" if align else "half_pixel"
    mode = "cubic" if "cubic" in n.op else "linear"
    if align:
        scales = (None,) * len(scales)
    return _resized(n, x, scales, mode=mode, coordinates=how)
