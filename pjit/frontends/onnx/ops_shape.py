"""Operators that rearrange, cut and extend tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pjit.frontends.onnx.exact import greatest, least, not_negative
from pjit.frontends.onnx.reader import Refused
from pjit.frontends.onnx.registry import Node, onnx_op
from pjit.frontends.onnx.shapes import axes_of
from pjit.ir import expr
from pjit.ir.core import Value
from pjit.ir.expr import Dim, ceildiv, product
from pjit.ir.opdef import broadcast_shapes

UNBOUNDED = (1 << 31) - 1  # exporters write INT32_MAX or INT64_MAX for "to the end"
_SIGN_BIT = 1 << 40  # above every size


@onnx_op("Reshape")
def reshape(n: Node) -> Value:
    """Another shape: 0 keeps a dimension, -1 takes what is left."""
    x = n[0]
    target = n.attr("shape", "ints") if n.version < 5 else n.dims(1, "the target shape")
    return n.b("reshape", x, shape=resolve_shape(x.shape, target, n.flag("allowzero")))


def resolve_shape(shape: Sequence[Dim], target: Sequence[Dim], allow_zero: bool) -> tuple[Dim, ...]:
    """The shape that a reshape asks for; raises Refused."""
    out: list[Dim] = []
    for i, d in enumerate(target):
        if d == 0 and not allow_zero:
            if i >= len(shape):
                raise Refused(f"the 0 at position {i} of the target shape has no dimension to keep")
            d = shape[i]
        elif isinstance(d, int) and d < -1:
            raise Refused(f"the target shape {list(target)} has a negative size")
        out.append(d)
    free = [i for i, d in enumerate(out) if d == -1]
    if len(free) > 1:
        raise Refused(f"the target shape {list(target)} has more than one -1")
    if free:
        rest, have = [d for d in out if d != -1], list(shape)
        for d in list(rest):  # equal factors cancel, whatever they are made of
            if d in have and d != 0:
                have.remove(d)
                rest.remove(d)
        divisor = product(rest)
        if divisor == 0:
            raise Refused(
                f"-1 is not determined in the target shape {list(target)} of {list(shape)}"
            )
        out[free[0]] = expr.floordiv(product(have), divisor)
    return tuple(out)


@onnx_op("Flatten")
def flatten(n: Node) -> Value:
    """A matrix: the dimensions before ``axis``, and the others."""
    x = n[0]
    rank, axis = x.tensor.rank, n.attr("axis", "int", 1)
    if not -rank <= axis <= rank:
        raise Refused(f"axis {axis} is out of range for a tensor of rank {rank}")
    axis += rank if axis < 0 else 0
    return n.b("reshape", x, shape=(product(x.shape[:axis]), product(x.shape[axis:])))


@onnx_op("Squeeze")
def squeeze(n: Node) -> Value:
    """Without some dimensions of size 1."""
    x, axes = n[0], axes_of(n, 1)
    if axes is None:
        unknown = [d for d in x.shape if not isinstance(d, int)]
        if unknown:
            raise Refused(
                f"Squeeze without axes needs static sizes, {unknown[0]} is symbolic", "give axes"
            )
        chosen = tuple(i for i, d in enumerate(x.shape) if d == 1)
    else:
        chosen = n.axes(axes, x.tensor.rank)
        wrong = [x.shape[a] for a in chosen if isinstance(x.shape[a], int) and x.shape[a] != 1]
        if wrong:
            raise Refused(f"a squeezed axis has the size {wrong[0]}, not 1")
    return n.b("reshape", x, shape=[d for i, d in enumerate(x.shape) if i not in chosen])


@onnx_op("Unsqueeze")
def unsqueeze(n: Node) -> Value:
    """With new dimensions of size 1."""
    x, axes = n[0], axes_of(n, 1)
    if axes is None:
        raise Refused("axes is missing")
    rank = x.tensor.rank + len(axes)
    chosen, old = n.axes(axes, rank), iter(x.shape)
    return n.b("reshape", x, shape=[1 if i in chosen else next(old) for i in range(rank)])


@onnx_op("Transpose")
def transpose(n: Node) -> Value:
    """Permutes the dimensions."""
    x = n[0]
    perm = n.attr("perm", "ints", tuple(reversed(range(x.tensor.rank))))
    return n.b("transpose", x, perm=perm)


@onnx_op("Expand")
def expand(n: Node) -> Value:
    """Broadcasts to a shape, in both directions."""
    x, target = n[0], n.dims(1, "the target shape")
    shape = broadcast_shapes(x.shape, target)
    return x if shape == x.shape else n.b("broadcast", x, shape=shape)


@onnx_op("Tile")
def tile(n: Node) -> Value:
    """Repeats the tensor along its dimensions."""
    x = n[0]
    if n.version < 6:
        raise Refused("Tile of operator set 5 and below is not supported", "use a later one")
    repeats = n.dims(1, "repeats")
    if len(repeats) != x.tensor.rank:
        raise Refused(f"{len(repeats)} repeats for a tensor of rank {x.tensor.rank}")
    split: list[Dim] = []
    wide: list[Dim] = []
    for d, r in zip(x.shape, repeats, strict=True):
        split += [d] if r == 1 else [1, d]
        wide += [d] if r == 1 else [r, d]
    if len(split) == x.tensor.rank:
        return x
    y = n.b("broadcast", n.b("reshape", x, shape=split), shape=wide)
    return n.b("reshape", y, shape=[d * r for d, r in zip(x.shape, repeats, strict=True)])


@onnx_op("Concat")
def concat(n: Node) -> Value:
    """Joins tensors along an axis."""
    xs = n.data
    if not xs:
        raise Refused("it has no inputs")
    axis = n.axis(n.attr("axis", "int", 1), xs[0].tensor.rank)
    return xs[0] if len(xs) == 1 else n.b("concat", *xs, axis=axis)


@onnx_op("Split")
def split(n: Node) -> list[Value]:
    """Cuts a tensor into parts along an axis."""
    x = n[0]
    axis = n.axis(n.attr("axis", "int", 0), x.tensor.rank)
    size = x.shape[axis]
    parts: list[Dim] = list(n.attr("split", "ints", ()))
    if not parts and n.has(1):
        parts = list(n.dims(1, "split"))
    if not parts:
        count = len(n.proto.output)
        if n.attr("num_outputs", "int", count) != count:
            raise Refused(f"num_outputs differs from its {count} outputs")
        each = ceildiv(size, count)
        parts = [each] * (count - 1)
        parts.append(size - each * (count - 1))
    if expr.same(sum(parts, 0), size) is False:
        raise Refused(f"the parts {parts} do not add up to the size {size} of axis {axis}")
    out: list[Value] = []
    start: Dim = 0
    for part in parts:
        out.append(cut(n, x, {axis: (start, part, 1)}))
        start = start + part
    return out


def cut(n: Node, x: Value, pieces: dict[int, tuple[Dim, Dim, int]]) -> Value:
    """A slice: ``(start, size, step)`` by axis; the other axes stay whole."""
    if all(p == (0, x.shape[a], 1) for a, p in pieces.items()):
        return x
    rows = [pieces.get(a, (0, d, 1)) for a, d in enumerate(x.shape)]
    starts, sizes, steps = zip(*rows, strict=True)
    return n.b("slice", x, starts=starts, sizes=sizes, steps=steps)


@onnx_op("Slice")
def slice_(n: Node) -> Value:
    """Cuts out a part, with steps; starts and ends may be symbolic."""
    x = n[0]
    rank = x.tensor.rank
    starts: Sequence[Dim]
    ends: Sequence[Dim]
    if n.version < 10:
        starts, ends = n.attr("starts", "ints"), n.attr("ends", "ints")
        axes = n.attr("axes", "ints", tuple(range(len(starts))))
        steps: Sequence[int] = (1,) * len(starts)
    else:
        starts, ends = n.dims(1, "starts"), n.dims(2, "ends")
        axes = n.ints(3, "axes") if n.has(3) else tuple(range(len(starts)))
        steps = n.ints(4, "steps") if n.has(4) else (1,) * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise Refused("starts, ends, axes and steps have different lengths")
    pieces = {}
    for s, e, a, k in zip(starts, ends, axes, steps, strict=True):
        axis = n.axis(a, rank)
        if k == 0:
            raise Refused("a step of a slice is 0")
        if axis in pieces:
            raise Refused(f"axis {axis} occurs twice")
        pieces[axis] = slice_range(s, e, k, x.shape[axis])
    return cut(n, x, pieces)


def _from_front(i: Dim, size: Dim) -> Dim:
    """An index that counts from the end when it is negative, as one from the front."""
    if not_negative(i):
        return i
    if not_negative(-i - 1):
        return i + size
    return i - size * (i // _SIGN_BIT)  # i // 2**40 is -1 for a negative i, else 0


def slice_range(start: Dim, end: Dim, step: int, size: Dim) -> tuple[Dim, Dim, int]:
    """``(start, size, step)`` of ``x[start:end:step]`` on a dimension; both ends are clamped."""
    high = size if step > 0 else size - 1

    def place(i: Dim, low: int) -> Dim:
        if isinstance(i, int) and abs(i) >= UNBOUNDED:
            return high if i > 0 else low
        return greatest(least(_from_front(i, size), high), low)

    first, last = place(start, 0), place(end, 0 if step > 0 else -1)
    span = last - first if step > 0 else first - last
    count = greatest(ceildiv(span, abs(step)), 0)
    return (0, 0, step) if count == 0 else (first, count, step)


@onnx_op("Pad")
def pad(n: Node) -> Value:
    """Adds elements around a tensor; negative pads cut some off."""
    x = n[0]
    rank = x.tensor.rank
    mode = n.choice("mode", "constant", ("constant", "reflect", "edge"))
    value: Any = 0.0
    if n.version < 11:
        pads: Sequence[Dim] = n.attr("pads" if n.version >= 2 else "paddings", "ints")
        value = n.attr("value", "float", 0.0)
    else:
        pads = n.dims(1, "pads")
        if n.has(2) and mode == "constant":
            value = n.scalar(2, "the value of the padding")
    axes = [n.axis(a, rank) for a in n.ints(3, "axes")] if n.has(3) else list(range(rank))
    if len(pads) != 2 * len(axes):
        raise Refused(f"{len(pads)} pads for {len(axes)} axes")
    low: list[Dim] = [0] * rank
    high: list[Dim] = [0] * rank
    for i, a in enumerate(axes):
        low[a], high[a] = pads[i], pads[i + len(axes)]
    return padded(n, x, low, high, value, mode)


def padded(
    n: Node,
    x: Value,
    low: Sequence[Dim],
    high: Sequence[Dim],
    value: Any = 0.0,
    mode: str = "constant",
) -> Value:
    """Pads where pads are positive, and cuts where they are negative."""
    pieces: dict[int, tuple[Dim, Dim, int]] = {}
    for a, (lo, hi) in enumerate(zip(low, high, strict=True)):
        less = [-p if isinstance(p, int) and p < 0 else 0 for p in (lo, hi)]
        if any(less):
            pieces[a] = (less[0], x.shape[a] - sum(less), 1)
    x = cut(n, x, pieces)
    low, high = ([0 if isinstance(p, int) and p < 0 else p for p in ps] for ps in (low, high))
    if all(p == 0 for p in (*low, *high)):
        return x
    return n.b("pad", x, low=low, high=high, value=value, mode=mode)


@onnx_op("ConstantOfShape")
def constant_of_shape(n: Node) -> Value:
    """A tensor of one value."""
    shape = n.dims(0, "the shape")
    value = n.attr("value", "tensor", None)
    fill = n.b.constant(0.0, "float32") if value is None else n.b.constant(value.reshape(()))
    return n.b("broadcast", fill, shape=shape)


@onnx_op("Range")
def range_(n: Node) -> Value:
    """start, start + delta, ...; the length must follow from shapes."""
    dt = n.type(0).dtype
    known = [n.known(i, what) for i, what in enumerate(("start", "limit", "delta"))]
    start, limit, delta = (k.numbers().reshape(-1)[0] for k in known)
    span = limit - start
    if dt.is_float:
        size = (span / delta).ceil()
    elif isinstance(delta, int) and delta != 0:
        size = ceildiv(span if delta > 0 else -span, abs(delta))
    else:
        raise Refused("the step of Range is symbolic or 0")
    y = n.b("iota", size=greatest(size, 0), dtype=dt)
    step, first = n[2], n[0]
    if float_or_int(delta) != 1:
        y = n.b("mul", y, step)
    return y if float_or_int(start) == 0 else n.b("add", y, first)


def float_or_int(x: Any) -> Any:
    """The numerator of a whole fraction, or the number itself."""
    return x.num if getattr(x, "den", 0) == 1 else x


@onnx_op("DepthToSpace")
def depth_to_space(n: Node) -> Value:
    """Moves blocks of channels into the image."""
    x, block = n[0], n.attr("blocksize", "int")
    mode = n.choice("mode", "DCR", ("DCR", "CRD"))
    if x.tensor.rank != 4 or block < 1:
        raise Refused(f"DepthToSpace with blocks of {block} of {x.type}")
    batch, channels, height, width = x.shape
    each = channels // (block * block)
    if mode == "DCR":
        y = n.b("reshape", x, shape=(batch, block, block, each, height, width))
        y = n.b("transpose", y, perm=(0, 3, 4, 1, 5, 2))
    else:
        y = n.b("reshape", x, shape=(batch, each, block, block, height, width))
        y = n.b("transpose", y, perm=(0, 1, 4, 2, 5, 3))
    return n.b("reshape", y, shape=(batch, each, height * block, width * block))


@onnx_op("SpaceToDepth")
def space_to_depth(n: Node) -> Value:
    """Moves blocks of the image into channels."""
    x, block = n[0], n.attr("blocksize", "int")
    if x.tensor.rank != 4 or block < 1:
        raise Refused(f"SpaceToDepth with blocks of {block} of {x.type}")
    batch, channels, height, width = x.shape
    rows, columns = height // block, width // block
    y = n.b("reshape", x, shape=(batch, channels, rows, block, columns, block))
    y = n.b("transpose", y, perm=(0, 3, 5, 1, 2, 4))
    return n.b("reshape", y, shape=(batch, channels * block * block, rows, columns))
