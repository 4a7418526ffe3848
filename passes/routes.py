"""How operators carry a permutation of dimensions from operands to results.

``route(op, q)`` says what ``op`` becomes when its data operand x is replaced by ``transpose(x,
q)``: its attributes, the permutations of all operands, and the permutation r such that the new
result is ``transpose(old result, r)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pjit.ir import expr
from pjit.ir.core import Op
from pjit.ir.expr import Dim
from pjit.ir.opdef import Elementwise
from pjit.ir.ops import (
    Argmax,
    Argmin,
    AvgPool,
    Broadcast,
    Concat,
    Cummax,
    Cummin,
    Cumprod,
    Cumsum,
    Gather,
    GatherElements,
    MaxPool,
    Pad,
    ReduceMax,
    ReduceMin,
    ReduceProd,
    ReduceSum,
    Reshape,
    Resize,
    ScatterElements,
    Slice,
    Topk,
)

Perm = tuple[int, ...]


@dataclass(frozen=True)
class Route:
    """An operation on permuted operands.

    Attributes:
        attrs: Its attributes.
        operands: The permutation of each operand; None leaves it as it is. An operand of lower rank
            than its permutation is thought to have leading dimensions of size 1.
        result: The permutation of the results.
    """

    attrs: dict[str, Any]
    operands: tuple[Perm | None, ...]
    result: Perm


def to_last(rank: int) -> Perm:
    """Moves dimension 1 (the channels) to the end."""
    return (0, *range(2, rank), 1)


def to_first(rank: int) -> Perm:
    """Moves the last dimension (the channels) to place 1."""
    return (0, rank - 1, *range(1, rank - 1))


def _same_rank(op: Op, q: Perm, **attrs: Any) -> Route:
    return Route({**op.attrs, **attrs}, (q,) * len(op.operands), q)


def _permuted(values: Sequence[Any], q: Perm) -> tuple:
    return tuple(values[i] for i in q)


def _elementwise(op: Op, q: Perm) -> Route | None:
    return _same_rank(op, q)


def _along_axis(op: Op, q: Perm) -> Route | None:
    return _same_rank(op, q, axis=q.index(op.attrs["axis"]))


def _per_dimension(*names: str) -> Callable[[Op, Perm], Route | None]:
    def make(op: Op, q: Perm) -> Route | None:
        attrs = {n: _permuted(op.attrs[n], q) for n in names if op.attrs[n] != ()}
        return _same_rank(op, q, **attrs)

    return make


def _broadcast(op: Op, q: Perm) -> Route | None:
    shape = op.attrs["shape"]
    new = len(shape) - len(q)  # dimensions that the broadcast adds in front
    q = (*range(new), *(new + i for i in q))
    return _same_rank(op, q, shape=_permuted(shape, q))


def _reduction(op: Op, q: Perm) -> Route | None:
    single = "axis" in op.attrs
    axes = (op.attrs["axis"],) if single else op.attrs["axes"]
    moved = sorted(q.index(a) for a in axes)
    attrs = {"axis": moved[0]} if single else {"axes": tuple(moved)}
    if op.attrs["keepdims"]:
        return _same_rank(op, q, **attrs)
    kept = [d for d in range(len(q)) if d not in axes]
    result = tuple(kept.index(d) for d in q if d not in axes)
    return Route({**op.attrs, **attrs}, (q,), result)


def _pool(op: Op, q: Perm) -> Route | None:
    last = op.attrs["channels_last"]
    if q != (to_first if last else to_last)(len(q)):
        return None
    return _same_rank(op, q, channels_last=not last)


def _gather(op: Op, q: Perm) -> Route | None:
    axis, k = op.attrs["axis"], len(op.operands[1].shape)
    result: list[int] = []
    for d in q:
        result += range(axis, axis + k) if d == axis else [d if d < axis else d - 1 + k]
    return Route({**op.attrs, "axis": q.index(axis)}, (q, None), tuple(result))


def _reshape(op: Op, q: Perm) -> Route | None:
    r = reshape_perm(op.operands[0].shape, op.attrs["shape"], q)
    return None if r is None else Route({"shape": _permuted(op.attrs["shape"], r)}, (q,), r)


_ROUTES: dict[type[Op], Callable[[Op, Perm], Route | None]] = {
    Concat: _along_axis,
    Cummax: _along_axis,
    Cummin: _along_axis,
    Cumprod: _along_axis,
    Cumsum: _along_axis,
    GatherElements: _along_axis,
    ScatterElements: _along_axis,
    Topk: _along_axis,
    Slice: _per_dimension("starts", "sizes", "steps"),
    Pad: _per_dimension("low", "high"),
    Broadcast: _broadcast,
    Resize: _per_dimension("shape", "scales"),
    ReduceSum: _reduction,
    ReduceProd: _reduction,
    ReduceMax: _reduction,
    ReduceMin: _reduction,
    Argmax: _reduction,
    Argmin: _reduction,
    MaxPool: _pool,
    AvgPool: _pool,
    Gather: _gather,
    Reshape: _reshape,
}
ANY_OPERAND = (Elementwise, Concat)  # their data operands are all alike


def route(op: Op, q: Perm) -> Route | None:
    """The operation on permuted operands, or None when it cannot carry the permutation."""
    if isinstance(op, Elementwise):
        return _elementwise(op, q)
    make = _ROUTES.get(type(op))
    return make(op, q) if make else None


def route_back(op: Op, r: Perm) -> Route | None:
    """The route whose results are permuted by ``r``, or None."""
    q: Perm | None = r
    if isinstance(op, Reshape):
        q = reshape_perm(op.shape, op.x.shape, r)
    elif "keepdims" in op.attrs and not op.attrs["keepdims"]:
        axes = (op.attrs["axis"],) if "axis" in op.attrs else op.attrs["axes"]
        rank = len(op.operands[0].shape)
        kept = [d for d in range(rank) if d not in axes]
        order = iter(kept[i] for i in r)
        q = tuple(d if d in axes else next(order) for d in range(rank))
    elif isinstance(op, Gather) and len(op.indices.shape) != 1:
        return None
    found = None if q is None else route(op, q)
    return found if found is not None and found.result == r else None


def reshape_perm(source: Sequence[Dim], target: Sequence[Dim], q: Perm) -> Perm | None:
    """How a permutation of a value goes through a reshape.

    Args:
        source: The shape before the reshape.
        target: The shape after it.
        q: A permutation of the source.

    Returns:
        r such that ``transpose(reshape(x, target), r)`` is ``transpose(x, q)`` reshaped, or None
        when there is none.

    Dimensions of size 1 are left aside. The others fall into groups: the source dimensions and the
    target dimensions of a group have the same number of elements. The permutation has to keep each
    group in one piece.
    """
    if any(d == 0 for d in (*source, *target)):
        return None
    src = [i for i, d in enumerate(source) if d != 1]
    dst = [i for i, d in enumerate(target) if d != 1]
    groups = _groups([source[i] for i in src], [target[i] for i in dst])
    group_of = {src[i]: g for g, (s, _) in enumerate(groups) for i in s}
    moved = [d for d in q if d in group_of]
    order = list(dict.fromkeys(group_of[d] for d in moved))
    if moved != [src[i] for g in order for i in groups[g][0]]:
        return None
    order += [g for g in range(len(groups)) if g not in order]
    rest = iter(dst[i] for g in order for i in groups[g][1])
    return tuple(i if d == 1 else next(rest) for i, d in enumerate(target))


def _groups(a: list[Dim], b: list[Dim]) -> list[tuple[range, range]]:
    """Splits lists of dimensions with one product into the shortest parts with equal ones."""
    groups: list[tuple[range, range]] = []
    i = j = 0
    while i < len(a) and j < len(b):
        i0, j0, x, y = i, j, a[i], b[j]
        i, j = i + 1, j + 1
        while x != y:
            left = x < y if isinstance(x, int) and isinstance(y, int) else _divides(x, y)
            if left and i < len(a):
                x, i = x * a[i], i + 1
            elif not left and j < len(b):
                y, j = y * b[j], j + 1
            else:
                i, j = len(a), len(b)
                break
        groups.append((range(i0, i), range(j0, j)))
    if i < len(a) or j < len(b):  # sizes that are equal only for some values of the symbols
        return [(range(len(a)), range(len(b)))]
    return groups


def _divides(x: Dim, y: Dim) -> bool:
    return expr.mod(y, x) == 0
