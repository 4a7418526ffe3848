"""Gathers, scatters and other operators with indices."""

from __future__ import annotations

import numpy as np

from pjit.frontends.onnx.ops_math import Math
from pjit.frontends.onnx.ops_shape import cut
from pjit.frontends.onnx.reader import Refused
from pjit.frontends.onnx.registry import Node, onnx_op
from pjit.ir.core import Value
from pjit.ir.expr import at_least
from pjit.ir.types import i64

REDUCTIONS = ("none", "add", "mul", "min", "max")


@onnx_op("Gather")
def gather(n: Node) -> Value:
    """Takes slices of an axis; one constant index is a slice."""
    x = n[0]
    axis = n.axis(n.attr("axis", "int", 0), x.tensor.rank)
    size, known = x.shape[axis], n.input(1).known
    if known is not None and not known.is_symbolic and not known.shape:
        index = int(known.array)
        at = index if index >= 0 else size + index
        if at_least(at, 0) and at_least(size - at, 1):
            one = cut(n, x, {axis: (at, 1, 1)})
            return n.b("reshape", one, shape=[d for i, d in enumerate(x.shape) if i != axis])
    return n.b("gather", x, n[1], axis=axis)


@onnx_op("GatherElements")
def gather_elements(n: Node) -> Value:
    """Takes an element for each index along an axis."""
    axis = n.axis(n.attr("axis", "int", 0), n.rank())
    return n.b("gather_elements", n[0], n[1], axis=axis)


@onnx_op("GatherND")
def gather_nd(n: Node) -> Value:
    """Takes slices at index vectors."""
    return n.b("gather_nd", n[0], n[1], batch_dims=n.attr("batch_dims", "int", 0))


@onnx_op("ScatterElements", "Scatter")
def scatter_elements(n: Node) -> Value:
    """Replaces or combines an element for each index along an axis."""
    axis = n.axis(n.attr("axis", "int", 0), n.rank())
    reduction = n.choice("reduction", "none", REDUCTIONS)
    return n.b("scatter_elements", n[0], n[1], n[2], axis=axis, reduction=reduction)


@onnx_op("ScatterND")
def scatter_nd(n: Node) -> Value:
    """Replaces or combines slices at index vectors."""
    reduction = n.choice("reduction", "none", REDUCTIONS)
    return n.b("scatter_nd", n[0], n[1], n[2], reduction=reduction)


@onnx_op("OneHot")
def one_hot(n: Node) -> Value:
    """The second of two values where the position is the index, else the first."""
    indices = n[0]
    depth = n.known(1, "depth")
    if depth.array.size != 1:
        raise Refused("depth is not one number")
    number = depth.numbers().reshape(-1)[0]
    size = number.truncate() if depth.dtype.is_float else number
    rank = indices.tensor.rank + 1
    axis = n.axis(n.attr("axis", "int", -1), rank)
    if indices.dtype != i64:
        indices = n.b("cast", indices, dtype=i64)
    m = Math(n.b, indices)
    count = n.b("reshape", n.b("sizes", dims=[size]), shape=())
    indices = m.where(m.lt(indices, 0), m.add(indices, count), indices)
    shape = list(indices.shape)
    shape.insert(axis, 1)
    line = [1] * rank
    line[axis] = size
    position = n.b("reshape", n.b("iota", size=size, dtype=i64), shape=line)
    hit = m.eq(n.b("reshape", indices, shape=shape), position)
    values = n[2]
    off, on = (n.b("reshape", cut(n, values, {0: (i, 1, 1)}), shape=()) for i in (0, 1))
    return n.b("where", hit, on, off)


@onnx_op("Compress")
def compress(n: Node) -> Value:
    """Takes the slices where a condition holds, which must be constant."""
    x, condition = n[0], n.known(1, "the condition")
    if condition.is_symbolic:
        raise Refused("the condition depends on a symbolic dimension")
    axis = n.attr("axis", "int", None)
    if axis is None:
        x, axis = n.b("reshape", x, shape=(x.tensor.size,)), 0
    indices = np.nonzero(condition.array.reshape(-1))[0].astype(np.int64)
    return n.b("gather", x, n.b.constant(indices), axis=n.axis(axis, x.tensor.rank))
