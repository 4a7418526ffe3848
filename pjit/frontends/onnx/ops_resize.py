"""Resize and Upsample."""

from __future__ import annotations

from collections.abc import Sequence

from pjit.frontends.onnx.exact import Ratio, from_float
from pjit.frontends.onnx.reader import Refused
from pjit.frontends.onnx.registry import Node, onnx_op
from pjit.ir.core import Value
from pjit.ir.expr import Dim

MODES = ("nearest", "linear", "cubic")
COORDINATES = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


def _scaled(n: Node, x: Value, scales: Sequence[Ratio]) -> tuple[list[Dim], tuple[float, ...]]:
    """The output shape for scales, and the scales when they are numbers."""
    if len(scales) != x.tensor.rank:
        raise Refused(f"{len(scales)} scales for a tensor of rank {x.tensor.rank}")
    shape = [(Ratio(d) * s).floor() for d, s in zip(x.shape, scales, strict=True)]
    if all(s.is_constant for s in scales):
        factors = tuple(float(s) for s in scales)
        if min(factors) <= 0:
            raise Refused(f"the scales {list(factors)} are not positive")
        return shape, factors
    return shape, ()


def _scales(n: Node, i: int) -> list[Ratio]:
    known = n.known(i, "the scales")
    if not known.dtype.is_float:
        raise Refused(f"the scales have the element type {known.dtype}")
    return list(known.numbers().reshape(-1))


def _legacy(n: Node, x: Value, scales: Sequence[Ratio]) -> Value:
    """Before opset 11: asymmetric coordinates; nearest rounds down to enlarge and up to shrink."""
    shape, factors = _scaled(n, x, scales)
    mode = n.choice("mode", "nearest", ("nearest", "linear", "bilinear"))
    if not factors:
        raise Refused("the scales depend on a symbolic dimension", "fix that dimension")
    shrinks, grows = any(f < 1 for f in factors), any(f > 1 for f in factors)
    if mode == "nearest" and shrinks and grows and n.op == "Resize":
        raise Refused("nearest that enlarges one axis and shrinks another is not supported")
    return n.b(
        "nn.resize", x, shape=shape, scales=factors,
        mode="nearest" if mode == "nearest" else "linear", coordinates="asymmetric",
        nearest="ceil" if shrinks and n.op == "Resize" else "floor",
    )  # fmt: skip


@onnx_op("Upsample")
def upsample(n: Node) -> Value:
    """Enlarges by scales, an attribute before opset 9 and then an input."""
    if n.version < 7:
        raise Refused("Upsample of operator set 6 and below is not supported")
    if n.version < 9:
        scales = [from_float(s) for s in n.attr("scales", "floats")]
    else:
        scales = _scales(n, 1)
    return _legacy(n, n[0], scales)


@onnx_op("Resize")
def resize(n: Node) -> Value:
    """Resamples to given sizes or by given scales."""
    x = n[0]
    if n.version < 11:
        return _legacy(n, x, _scales(n, 1))
    mode = n.choice("mode", "nearest", MODES)
    coordinates = n.choice("coordinate_transformation_mode", "half_pixel", COORDINATES)
    nearest = n.choice("nearest_mode", "round_prefer_floor", NEAREST)
    if n.flag("antialias"):
        raise Refused("antialias=1 is not supported", "export without antialiasing")
    rank = x.tensor.rank
    axes = [n.axis(a, rank) for a in n.attr("axes", "ints", tuple(range(rank)))]
    factors: tuple[float, ...] = ()
    shape: list[Dim] = list(x.shape)
    if n.has(3) and n.type(3).shape != (0,):
        n.choice("keep_aspect_ratio_policy", "stretch", ("stretch",))
        sizes = n.dims(3, "the sizes")
        if len(sizes) != len(axes):
            raise Refused(f"{len(sizes)} sizes for {len(axes)} axes")
        for a, size in zip(axes, sizes, strict=True):
            shape[a] = size
    elif n.has(2) and n.type(2).shape != (0,):
        given = _scales(n, 2)
        if len(given) != len(axes):
            raise Refused(f"{len(given)} scales for {len(axes)} axes")
        scales = [Ratio(1)] * rank
        for a, s in zip(axes, given, strict=True):
            scales[a] = s
        shape, factors = _scaled(n, x, scales)
    else:
        raise Refused("neither scales nor sizes are given")
    if any(isinstance(d, int) and d < 1 for d in shape):
        raise Refused(f"the output shape {shape} is empty")
    return n.b(
        "nn.resize", x, shape=shape, scales=factors, mode=mode, coordinates=coordinates,
        nearest=nearest, cubic_a=n.attr("cubic_coeff_a", "float", -0.75),
        exclude_outside=n.flag("exclude_outside"),
    )  # fmt: skip
