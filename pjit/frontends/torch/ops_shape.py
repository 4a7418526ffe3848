"""Views, movement of elements, and tensors made of nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pjit.frontends.building import diagonal
from pjit.frontends.torch.registry import Node, Refused, aten, axes, axis
from pjit.ir.core import Value
from pjit.ir.expr import Dim, Expr, at_least
from pjit.ir.types import f64, i64

END = (1 << 63) - 1  # the end of a slice that goes to the end


@aten(
    "view.default", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "flatten", "unflatten.int"
)  # fmt: skip
def reshape(n: Node, x: Value, *_: Any) -> Value:
    """Another shape, which torch has computed."""
    return n.reshape(x, n.shape)


@aten(
    "alias", "clone", "detach", "detach_", "lift_fresh_copy", "lift_fresh", "contiguous",
    "device_put", "view_of",
)  # fmt: skip
def same(n: Node, x: Value, *_: Any) -> Value:
    """The tensor itself: values do not change here."""
    return x


@aten("copy")
def copy(n: Node, x: Value, source: Value, *_: Any) -> Value:
    """The values of another tensor in the type and shape of this one."""
    return n.broadcast(n.cast(source, x.dtype), x.shape)


@aten("permute")
def permute(n: Node, x: Value, dims: Sequence[int]) -> Value:
    """Permutes the dimensions."""
    return n.transpose(x, [axis(d, x.tensor.rank) for d in dims])


@aten("t")
def t(n: Node, x: Value) -> Value:
    """The transposed matrix."""
    return n.transpose(x, range(x.tensor.rank)[::-1])


@aten("transpose.int")
def transpose(n: Node, x: Value, a: int, c: int) -> Value:
    """Swaps two dimensions."""
    rank = x.tensor.rank
    perm = list(range(rank))
    if rank:
        a, c = axis(a, rank), axis(c, rank)
        perm[a], perm[c] = perm[c], perm[a]
    return n.transpose(x, perm)


@aten("expand")
def expand(n: Node, x: Value, *_: Any) -> Value:
    """Repeats dimensions of size 1."""
    return n.broadcast(x, n.shape)


@aten("repeat")
def repeat(n: Node, x: Value, times: Sequence[Dim]) -> Value:
    """Repeats the whole along each dimension."""
    lead = len(times) - x.tensor.rank
    shape = [*(1,) * lead, *x.shape]
    split = [d for size in shape for d in (1, size)]
    wide = [d for size, k in zip(shape, times, strict=True) for d in (k, size)]
    return n.reshape(n.broadcast(n.reshape(x, split), wide), n.shape)


@aten("select.int")
def select(n: Node, x: Value, dim: int, index: Dim) -> Value:
    """One slice of a dimension."""
    dim = axis(dim, x.tensor.rank)
    if isinstance(index, int) and index < 0:
        index = x.shape[dim] + index
    return n.reshape(n.cut(x, {dim: (index, 1, 1)}), n.shape)


def _range(n: Node, size: Dim, result: Dim, start: Dim | None, end: Dim | None, step: int) -> tuple:
    """Start, size and step of a slice along a dimension, whose size torch has computed."""
    if start is None:
        start = 0
    elif isinstance(start, int) and start < 0:
        to_the_end = end is None or (isinstance(end, int) and end >= END)
        start = size - result if to_the_end and step == 1 else size + start
        if not isinstance(start, int) and not at_least(start, 0) and not to_the_end:
            raise Refused(f"a slice from {start} of a dimension of {size} may begin before it")
    if isinstance(start, int) and isinstance(size, int):
        start = min(max(start, 0), size)
    return start, result, step


@aten("slice.Tensor")
def slice_(
    n: Node, x: Value, dim: int, start: Dim | None, end: Dim | None, step: int
) -> Value:  # fmt: skip
    """A part of a dimension."""
    dim = axis(dim, x.tensor.rank)
    return n.cut(x, {dim: _range(n, x.shape[dim], n.shape[dim], start, end, step)})


@aten("slice_scatter", "select_scatter")
def slice_scatter(n: Node, x: Value, source: Value, dim: int, *rest: Any) -> Value:
    """A copy with a part of a dimension replaced."""
    dim = axis(dim, x.tensor.rank)
    size = x.shape[dim]
    start: Dim
    count: Dim
    if n.op == "select_scatter":
        index = rest[0]
        start = size + index if isinstance(index, int) and index < 0 else index
        count, step = 1, 1
        source = n.reshape(source, (*x.shape[:dim], 1, *x.shape[dim + 1 :]))
    else:
        start, count, step = _range(n, size, source.shape[dim], *rest)
    source = n.cast(source, x.dtype)
    if step == 1:
        parts = [n.cut(x, {dim: (0, start, 1)}), source]
        parts.append(n.cut(x, {dim: (start + count, size - start - count, 1)}))
        return n.b("concat", *(p for p in parts if p.shape[dim] != 0), axis=dim)
    m = n.math(n.b.constant(0, i64))
    at = m.add(m.mul(n.b("iota", size=count, dtype=i64), step), n.operand(start, i64))
    line: list[Dim] = [1] * x.tensor.rank
    line[dim] = count
    index = n.broadcast(n.reshape(at, line), source.shape)
    return n.b("scatter_elements", x, index, source, axis=dim)


@aten("cat")
def cat(n: Node, xs: Sequence[Value], dim: int) -> Value:
    """Joins tensors; empty vectors among them do not count."""
    rank = len(n.shape)
    kept = [n.cast(x, n.dtype) for x in xs if x.tensor.rank == rank and x.shape != (0,)]
    if not kept:
        return n.cast(xs[0], n.dtype)
    return n.b("concat", *kept, axis=axis(dim, rank)) if len(kept) > 1 else kept[0]


@aten("split_with_sizes", "split.Tensor", "unbind.int", "chunk")
def split(n: Node, x: Value, *rest: Any) -> list[Value]:
    """Parts of a dimension one behind the other."""
    dim = axis(rest[-1], x.tensor.rank)
    parts: list[Value] = []
    start: Dim = 0
    for i in range(len(n.fx.meta["val"])):
        shape = n.shape_of(i)
        size = 1 if n.op == "unbind" else shape[dim]
        parts.append(n.reshape(n.cut(x, {dim: (start, size, 1)}), shape))
        start = start + size
    return parts


@aten("flip")
def flip(n: Node, x: Value, dims: Sequence[int]) -> Value:
    """Reverses dimensions."""
    found = axes(dims, x.tensor.rank) if dims else ()
    return n.cut(x, {d: (x.shape[d] - 1, x.shape[d], -1) for d in found})


@aten(
    "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d",
    "replication_pad1d", "replication_pad2d", "replication_pad3d",
)  # fmt: skip
def pad(n: Node, x: Value, pads: Sequence[Dim], value: Any = 0) -> Value:
    """Adds elements around the last dimensions; negative pads cut them off."""
    rank = x.tensor.rank
    low: list[Dim] = [0] * rank
    high: list[Dim] = [0] * rank
    pieces: dict[int, tuple[Dim, Dim, int]] = {}
    for i in range(len(pads) // 2):
        d = rank - 1 - i
        low[d], high[d] = pads[2 * i], pads[2 * i + 1]
        cuts = [min(p, 0) if isinstance(p, int) else 0 for p in (low[d], high[d])]
        if any(cuts):
            pieces[d] = (-cuts[0], x.shape[d] + cuts[0] + cuts[1], 1)
            low[d], high[d] = low[d] - cuts[0], high[d] - cuts[1]
    x = n.cut(x, pieces)
    if not any(p != 0 for p in (*low, *high)):
        return x
    mode = {"c": "constant", "ref": "reflect", "rep": "edge"}
    kind = next(m for start, m in mode.items() if n.op.startswith(start))
    if isinstance(value, Value):
        raise Refused("a pad with a value that is computed is not supported")
    return n.b("pad", x, low=low, high=high, mode=kind, value=float(value))


@aten("tril", "triu")
def triangle(n: Node, x: Value, offset: int) -> Value:
    """The lower or upper triangle of matrices; 0 elsewhere."""
    keep = diagonal(n.b, x.shape, n.operand(offset, i64), "le" if n.op == "tril" else "ge")
    return n.b("where", keep, x, n.b.constant(0, x.dtype))


# Made of nothing


@aten("full", "full_like", "new_full")
def full(n: Node, *rest: Any) -> Value:
    """One value everywhere."""
    value = rest[2] if n.op == "new_full" else rest[1]
    return n.broadcast(n.operand(value, n.dtype), n.shape)


@aten("zeros", "ones", "zeros_like", "ones_like", "new_zeros", "new_ones")
def filled(n: Node, *_: Any) -> Value:
    """Zeros or ones."""
    return n.broadcast(n.b.constant("ones" in n.op, n.dtype), n.shape)


@aten("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "empty_permuted")
def empty(n: Node, *_: Any) -> Value:
    """Any values: zeros."""
    return n.broadcast(n.b.constant(0, n.dtype), n.shape)


@aten("scalar_tensor")
def scalar_tensor(n: Node, value: Any, *_: Any) -> Value:
    """A number as a tensor."""
    return n.operand(value, n.dtype)


@aten("fill")
def fill(n: Node, x: Value, value: Any) -> Value:
    """One value everywhere."""
    return n.broadcast(n.operand(value, x.dtype), x.shape)


@aten("arange.start_step")
def arange(n: Node, start: Any, end: Any, step: Any, *_: Any) -> Value:
    """Numbers at equal distances."""
    return _steps(n, n.shape[0], start, step)


@aten("iota")
def iota(n: Node, length: Dim, start: Any, step: Any, *_: Any) -> Value:
    """The same, by the number of steps."""
    return _steps(n, length, start, step)


def _steps(n: Node, count: Dim, start: Any, step: Any) -> Value:
    dt = n.wide(n.dtype)
    if not isinstance(step, int) or not isinstance(start, int | Expr):  # torch computes in double
        dt = f64 if n.dtype.is_float else i64
    at = n.b("iota", size=count, dtype=i64)
    m = n.math(n.operand(0, dt))
    at = n.cast(at, dt)
    if step != 1:
        at = m.mul(at, n.operand(step, dt))
    if start != 0:
        at = m.add(at, n.operand(start, dt))
    return n.cast(at, n.dtype)


@aten("linspace")
def linspace(n: Node, start: Any, end: Any, steps: int, *_: Any) -> Value:
    """Numbers at equal distances from start to end."""
    if not all(isinstance(v, int | float) for v in (start, end, steps)):
        raise Refused("linspace between numbers that depend on sizes")
    return n.b.constant(np.linspace(start, end, steps), n.dtype)


@aten("eye")
def eye(n: Node, *_: Any) -> Value:
    """The identity matrix."""
    return n.cast(diagonal(n.b, n.shape, n.b.constant(0, i64), "eq"), n.dtype)


@aten("diagonal")
def diagonal_of(n: Node, x: Value, offset: int, dim1: int, dim2: int) -> Value:
    """The elements of a diagonal, in a last dimension."""
    rank = x.tensor.rank
    a, c = axis(dim1, rank), axis(dim2, rank)
    x = n.transpose(x, (a, c, *(d for d in range(rank) if d not in (a, c))))
    size = n.shape[-1]
    at = n.reshape(n.b("iota", size=size, dtype=i64), (size, 1))
    m = n.math(at)
    pair = n.b("concat", m.add(at, max(-offset, 0)), m.add(at, max(offset, 0)), axis=1)
    y = n.b("gather_nd", x, pair)
    return n.transpose(y, (*range(1, y.tensor.rank), 0))
