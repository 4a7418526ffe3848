"""Reductions, softmax, running sums and sorting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pjit.frontends.torch.registry import Node, Refused, aten, axes, axis
from pjit.ir.core import Value
from pjit.ir.expr import product
from pjit.ir.types import bool_, f32, i64

Axes = int | Sequence[int] | None


def reduced(n: Node, name: str, x: Value, dims: Axes, keep: bool) -> Value:
    """A reduction over dimensions; all of them by default."""
    found = axes(dims, x.tensor.rank)
    return n.b(name, x, axes=found, keepdims=keep) if found else x


@aten("sum", "mean")
def total(n: Node, x: Value, dims: Axes = None, keep: bool = False, *_: Any) -> Value:
    """Sums and means, in the type that torch chooses."""
    if not isinstance(dims, Sequence | int):
        dims, keep = None, False
    wide = n.wide(n.dtype)
    return n.cast(reduced(n, f"reduce.{n.op}", n.cast(x, wide), dims, keep), n.dtype)


@aten("prod")
def prod(n: Node, x: Value, *rest: Any) -> Value:
    """Products, over all dimensions or one."""
    dims, keep = (rest[0], rest[1]) if n.overload == "dim_int" else (None, False)
    return reduced(n, "reduce.prod", n.cast(x, n.dtype), dims, keep)


@aten("amax", "amin")
def extreme(n: Node, x: Value, dims: Axes = None, keep: bool = False) -> Value:
    """The largest or smallest element."""
    return reduced(n, f"reduce.{n.op[1:]}", x, dims, keep)


@aten("max.default", "min.default")
def extreme_of_all(n: Node, x: Value) -> Value:
    """The largest or smallest of all."""
    return reduced(n, f"reduce.{n.op}", x, None, False)


@aten("max.dim", "min.dim")
def extreme_and_position(n: Node, x: Value, dim: int, keep: bool) -> list[Value | None]:
    """The largest or smallest element along a dimension, and where it is."""
    if not x.tensor.rank:
        return [x, n.b.constant(0, i64)]
    dim = axis(dim, x.tensor.rank)
    y = n.b(f"reduce.{n.op}", x, axes=(dim,), keepdims=keep)
    if not n.used(1):
        return [y, None]
    x = n.cast(x, i64) if x.dtype == bool_ else x
    return [y, n.b(f"arg{n.op}", x, axis=dim, keepdims=keep)]


@aten("argmax", "argmin")
def position(n: Node, x: Value, dim: int | None, keep: bool) -> Value:
    """Where the largest or smallest element is."""
    if dim is None or not x.tensor.rank:
        x = n.reshape(x, (product(x.shape),))
        return n.reshape(n.b(n.op, x, axis=0), n.shape)
    return n.b(n.op, x, axis=axis(dim, x.tensor.rank), keepdims=keep)


@aten("any", "all")
def truth(n: Node, x: Value, dims: Axes = None, keep: bool = False) -> Value:
    """Whether any or all elements are true."""
    name = "reduce.max" if n.op == "any" else "reduce.min"
    return n.cast(reduced(n, name, n.cast(x, bool_), dims, keep), n.dtype)


@aten("var", "var_mean")
def variance(
    n: Node, x: Value, dims: Axes = None, correction: Any = None, keep: bool = False
) -> Any:
    """The variance, and the mean with it."""
    correction = 1 if correction is None else correction
    found = axes(dims, x.tensor.rank)
    if not found:
        raise Refused("the variance of a number is not supported")
    dt = x.dtype
    x = n.cast(x, n.wide(dt))
    m = n.math(x)
    mean = n.b("reduce.mean", x, axes=found, keepdims=True)
    centred = m.sub(x, mean)
    total = n.b("reduce.sum", m.mul(centred, centred), axes=found, keepdims=keep)
    count = product(x.shape[a] for a in found)
    if isinstance(count, int):
        divisor = max(count - correction, 0)
        y = m.div(total, float(divisor))
    else:
        y = m.div(total, m.max(m.sub(n.operand(count, x.dtype), float(correction)), 0.0))
    y = n.cast(y, dt)
    if n.op == "var":
        return y
    if not keep:
        mean = n.reshape(mean, y.shape)
    return [y, n.cast(mean, dt)]


@aten("linalg_vector_norm")
def norm(n: Node, x: Value, order: Any, dims: Axes, keep: bool, *_: Any) -> Value:
    """The norm of vectors."""
    dt = n.dtype
    x = n.cast(x, n.wide(dt))
    m = n.math(x)
    if math.isinf(order):
        y = reduced(n, "reduce.max" if order > 0 else "reduce.min", m.abs(x), dims, keep)
    elif order == 0:
        y = reduced(n, "reduce.sum", n.cast(m.ne(x, 0), x.dtype), dims, keep)
    elif order == 1:
        y = reduced(n, "reduce.sum", m.abs(x), dims, keep)
    elif order == 2:
        y = m.sqrt(reduced(n, "reduce.sum", m.mul(x, x), dims, keep))
    else:
        y = reduced(n, "reduce.sum", m.pow(m.abs(x), order), dims, keep)
        y = m.pow(y, 1 / order)
    return n.cast(y, dt)


@aten("_softmax", "_log_softmax")
def softmax(n: Node, x: Value, dim: int, half_to_float: bool) -> Value:
    """Softmax along a dimension, or its logarithm."""
    name = n.op.removeprefix("_")
    if not x.tensor.rank:
        return n.reshape(n.b(name, n.reshape(n.cast(x, n.dtype), (1,)), axis=0), ())
    return n.b(name, n.cast(x, f32 if half_to_float else x.dtype), axis=axis(dim, x.tensor.rank))


@aten("cumsum")
def cumsum(n: Node, x: Value, dim: int, *_: Any) -> Value:
    """The running sum along a dimension."""
    x = n.cast(x, n.dtype)
    if not x.tensor.rank:
        return x
    wide = n.cast(x, n.wide(x.dtype))
    return n.cast(n.b("cumsum", wide, axis=axis(dim, x.tensor.rank)), x.dtype)


@aten("topk")
def topk(n: Node, x: Value, k: Any, dim: int, largest: bool, _sorted: bool) -> Any:
    """The largest or smallest elements in order, and where they are."""
    if not x.tensor.rank:
        return [x, n.b.constant(0, i64)]
    return n.b("topk", x, k=k, axis=axis(dim, x.tensor.rank), largest=largest)


@aten("sort.default", "sort.stable")
def sort(n: Node, x: Value, *rest: Any) -> Any:
    """All elements in order, and where they were."""
    dim, descending = rest[-2:]
    if not x.tensor.rank or x.dtype == bool_:
        raise Refused("sorting a number or truth values is not supported")
    dim = axis(dim, x.tensor.rank)
    return n.b("topk", x, k=x.shape[dim], axis=dim, largest=descending)
