"""Gathers and scatters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pjit.frontends.torch.registry import Node, Refused, aten, axis
from pjit.ir.core import Value
from pjit.ir.expr import Dim
from pjit.ir.opdef import broadcast_shapes
from pjit.ir.types import bool_, i32, i64

REDUCTIONS = {"sum": "add", "add": "add", "prod": "mul", "multiply": "mul", "amax": "max",
              "amin": "min"}  # fmt: skip


def strict(n: Node, index: Value, size: Dim) -> Value:
    """Indices of which negative ones are out of range, as they are in torch for all but ``[]``."""
    index = index if index.dtype in (i32, i64) else n.cast(index, i64)
    m = n.math(index)
    return m.where(m.lt(index, 0), n.operand(size, index.dtype), index)


@aten("embedding")
def embedding(n: Node, weight: Value, index: Value, *_: Any) -> Value:
    """Rows of a table."""
    return n.b("gather", weight, strict(n, index, weight.shape[0]), axis=0)


@aten("index_select")
def index_select(n: Node, x: Value, dim: int, index: Value) -> Value:
    """Slices of a dimension."""
    if not x.tensor.rank:
        return x
    dim = axis(dim, x.tensor.rank)
    at = n.reshape(strict(n, index, x.shape[dim]), index.shape or (1,))
    return n.b("gather", x, at, axis=dim)


@aten("gather")
def gather(n: Node, x: Value, dim: int, index: Value, *_: Any) -> Value:
    """An element for each index along a dimension."""
    if not x.tensor.rank or not index.tensor.rank:
        raise Refused("gather on a number is not supported")
    dim = axis(dim, x.tensor.rank)
    return n.b("gather_elements", x, strict(n, index, x.shape[dim]), axis=dim)


def _coordinates(
    n: Node, x: Value, indices: Sequence[Value | None]
) -> tuple[list[int], tuple[Dim, ...], Value]:
    """The dimensions that are indexed, the shape of their indices, and these as vectors."""
    if any(i is not None and i.dtype.bits == 8 for i in indices):
        raise Refused("the shape of a selection by a mask depends on data")
    dims = [d for d, i in enumerate(indices) if i is not None]
    given = [n.cast(i, i64) for i in indices if i is not None]
    shape = broadcast_shapes(*(i.shape for i in given))
    columns = [n.reshape(n.broadcast(i, shape), (*shape, 1)) for i in given]
    stacked = n.b("concat", *columns, axis=len(shape)) if len(columns) > 1 else columns[0]
    return dims, shape, stacked


def _order(dims: Sequence[int], rank: int) -> list[int]:
    """The permutation that brings indexed dimensions to the front."""
    return [*dims, *(d for d in range(rank) if d not in dims)]


@aten("index.Tensor", "_unsafe_index")
def index(n: Node, x: Value, indices: Sequence[Value | None]) -> Value:
    """Indexing with tensors; their shape comes where they are, or first if they are apart."""
    given = [(d, i) for d, i in enumerate(indices) if i is not None]
    if len(given) == 1 and given[0][1].dtype in (i32, i64):
        return n.b("gather", x, given[0][1], axis=given[0][0])
    dims, shape, at = _coordinates(n, x, indices)
    y = n.b("gather_nd", n.transpose(x, _order(dims, x.tensor.rank)), at)
    if dims == list(range(dims[0], dims[-1] + 1)) and dims[0]:
        k, lead = len(shape), dims[0]
        rest = range(k + lead, y.tensor.rank)
        y = n.transpose(y, (*range(k, k + lead), *range(k), *rest))
    return y


@aten("index_put", "_unsafe_index_put")
def index_put(
    n: Node, x: Value, indices: Sequence[Value | None], values: Value, accumulate: bool = False
) -> Value:
    """A copy with the elements at indices replaced, or added to."""
    mask = indices[0]
    if len(indices) == 1 and mask is not None and mask.dtype == bool_ and not values.tensor.rank:
        lead = n.reshape(mask, (*mask.shape, *(1,) * (x.tensor.rank - mask.tensor.rank)))
        m = n.math(x)
        return n.b("where", lead, m.add(x, values) if accumulate else values, x)
    dims, shape, at = _coordinates(n, x, indices)
    order = _order(dims, x.tensor.rank)
    moved = n.transpose(x, order)
    rest = moved.shape[len(dims) :]
    if dims == list(range(dims[0], dims[-1] + 1)) and dims[0]:
        full = (*x.shape[: dims[0]], *shape, *x.shape[dims[-1] + 1 :])
        k, before = len(shape), dims[0]
        values = n.transpose(
            n.broadcast(values, full),
            (*range(before, before + k), *range(before), *range(before + k, len(full))),
        )
    values = n.broadcast(values, (*shape, *rest))
    y = n.b("scatter_nd", moved, at, values, reduction="add" if accumulate else "none")
    return n.transpose(y, [order.index(d) for d in range(len(order))])


@aten("scatter", "scatter_add", "scatter_reduce")
def scatter(
    n: Node, x: Value, dim: int, index: Value, source: Any, reduce: str = "", *rest: Any
) -> Value:
    """A copy with an element for each index along a dimension replaced, or combined."""
    if not x.tensor.rank or not index.tensor.rank:
        raise Refused("scatter on a number is not supported")
    if n.op == "scatter_reduce" and (reduce == "mean" or not rest[0]):
        raise Refused(f"scatter_reduce with {reduce!r} and include_self={rest[0]}")
    reduction = "add" if n.op == "scatter_add" else REDUCTIONS.get(reduce, "none")
    if reduction != "none" and x.dtype == bool_:
        raise Refused("a scatter that combines truth values is not supported")
    dim = axis(dim, x.tensor.rank)
    source = n.operand(source, x.dtype)
    if source.tensor.rank:
        source = n.cut(source, {d: (0, size, 1) for d, size in enumerate(index.shape)})
    source = n.broadcast(source, index.shape)
    at = strict(n, index, x.shape[dim])
    return n.b("scatter_elements", x, at, source, axis=dim, reduction=reduction)
