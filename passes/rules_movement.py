"""Simplifications of data movement: views that do nothing, merge, cancel or are simpler."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from pjit.ir import expr
from pjit.ir.builder import Builder
from pjit.ir.core import Value
from pjit.ir.errors import ConstraintError
from pjit.ir.expr import Dim
from pjit.ir.opdef import Elementwise, broadcast_shapes
from pjit.ir.ops import (
    Broadcast,
    Concat,
    Conv,
    Gather,
    If,
    Pad,
    ReduceMax,
    ReduceMin,
    ReduceProd,
    ReduceSum,
    Reshape,
    Slice,
    Transpose,
)
from pjit.passes.pattern import Match, const, keeps_type, op, p, rule, single_use


def compose(inner: Sequence[int], outer: Sequence[int]) -> tuple[int, ...]:
    """The permutation of ``transpose(transpose(x, inner), outer)``."""
    return tuple(inner[i] for i in outer)


def inverse(perm: Sequence[int]) -> tuple[int, ...]:
    """The permutation that undoes one."""
    return tuple(int(i) for i in np.argsort(perm))


def moves_units_only(perm: Sequence[int], shape: Sequence[Dim]) -> bool:
    """Whether a transposition of a shape keeps the order of all dimensions but those of size 1."""
    kept = [i for i in perm if shape[i] != 1]
    return kept == sorted(kept)


def identity_slice(starts: Sequence[Dim], steps: Sequence[int]) -> bool:
    """Whether a slice begins at 0 everywhere and takes each element."""
    return all(s == 0 for s in starts) and all(s == 1 for s in steps)


def _slice_slice(b: Builder, m: Match) -> Value:
    outer = m.root
    starts = tuple(s + t * k for s, k, t in zip(m.s, m.k, outer.starts, strict=True))
    steps = tuple(k * j for k, j in zip(m.k, outer.steps, strict=True))
    return b(Slice, m.x, starts=starts, sizes=outer.sizes, steps=steps)


def _zero_pad(m: Match) -> bool | str:
    zero = all(d == 0 for d in (*m.root.low, *m.root.high))
    return zero or "something is padded"


def _pad_pad(b: Builder, m: Match) -> Value:
    inner, outer = m.y.op, m.root
    low = tuple(a + c for a, c in zip(inner.low, outer.low, strict=True))
    high = tuple(a + c for a, c in zip(inner.high, outer.high, strict=True))
    return b(Pad, m.x, low=low, high=high, value=m.v, mode="constant")


def _same_value(m: Match) -> bool | str:
    equal = m.y.op.value == m.v and np.signbit(m.y.op.value) == np.signbit(m.v)
    return bool(equal) or "the values differ"


def _pads_space_only(m: Match) -> bool | str:
    pad = m.y.op
    if pad.value != 0:
        return "the value is not 0"
    if any(d != 0 for d in (*pad.low[:2], *pad.high[:2])):
        return "the batch or the channels are padded"
    static = all(isinstance(d, int) for d in (*pad.low, *pad.high))
    return static or "the pads are not static"


def _conv_pad(b: Builder, m: Match) -> Value:
    pad, attrs = m.y.op, dict(m.root.attrs)
    extra = (*pad.low[2:], *pad.high[2:])
    attrs["pads"] = tuple(a + e for a, e in zip(attrs["pads"], extra, strict=True))
    return b(Conv, m.x, m.w, **attrs)


def _without_broadcasts(m: Match) -> list[Value]:
    """The operands with as many broadcasts taken off as the shape of the result allows."""
    operands = list(m.root.operands)
    for i, v in enumerate(operands):
        if isinstance(v.owner, Broadcast):
            shapes = [x.shape for x in operands]
            shapes[i] = v.owner.x.shape
            try:
                if broadcast_shapes(*shapes) == m.root.type.shape:
                    operands[i] = v.owner.x
            except ConstraintError:
                continue
    return operands


def _broadcasts_again(m: Match) -> bool | str:
    if not any(isinstance(v.owner, Broadcast) for v in m.root.operands):
        return "no operand is a broadcast"
    changed = tuple(_without_broadcasts(m)) != m.root.operands
    return changed or "the broadcast makes the shape of the result"


def _constant_position(i: int, d: Dim) -> Dim | None:
    """A constant index as a position in a dimension; None unless it is provably inside."""
    at: Dim = i if i >= 0 else d + i
    return at if expr.within(at, 0, d) else None


def _progression(m: Match) -> tuple[Dim, int, int] | None:
    """First position, count and step of constant indices at equal distances."""
    values = [int(i) for i in m.array(m.i).reshape(-1)[:4097]]
    d = m.x.shape[m.axis]
    if not 0 < len(values) <= 4096:
        return None
    positions = [_constant_position(i, d) for i in (values[0], values[-1])]
    if positions[0] is None or positions[1] is None:
        return None
    step = values[1] - values[0] if len(values) > 1 else 1
    regular = all(b - a == step for a, b in pairwise(values))
    one_sign = (min(values) >= 0) == (max(values) >= 0)
    return (positions[0], len(values), step) if regular and one_sign and step else None


def _gather_slice(b: Builder, m: Match) -> Value:
    found = _progression(m)
    assert found is not None
    starts: list[Dim] = [0] * len(m.x.shape)
    sizes, steps = list(m.x.shape), [1] * len(m.x.shape)
    starts[m.axis], sizes[m.axis], steps[m.axis] = found
    part = b(Slice, m.x, starts=tuple(starts), sizes=tuple(sizes), steps=tuple(steps))
    return b(Reshape, part, shape=m.root.type.shape)


def _rebuilds(m: Match) -> bool | str:
    parts, axis = [v.op for v in m.root.xs], m.root.axis
    if not all(isinstance(s, Slice) for s in parts):
        return "not all operands are slices"
    x = parts[0].x
    at: Dim = 0
    for s in parts:
        if s.x is not x:
            return "the slices are of different values"
        starts = list(s.starts)
        starts[axis] = starts[axis] - at
        if not identity_slice(starts, s.steps):
            return "the slices are not next to each other"
        at = at + s.sizes[axis]
    return x.type == m.root.type or "the slices are a part of the value"


def _part_of_concat(m: Match) -> tuple[Value, Dim] | None:
    """The operand of a concatenation that a slice lies in, and where it begins in it."""
    concat, s = m.y.op, m.root
    axis = concat.axis
    first = s.starts[axis]
    last = first + (s.sizes[axis] - 1) * s.steps[axis]
    for x, offset in zip(concat.xs, concat.offsets, strict=True):
        d = x.shape[axis]
        if expr.within(first - offset, 0, d) and expr.within(last - offset, 0, d):
            return x, first - offset
    return None


def _slice_concat(b: Builder, m: Match) -> Value:
    found = _part_of_concat(m)
    assert found is not None
    starts = list(m.root.starts)
    starts[m.y.op.axis] = found[1]
    return b(Slice, found[0], **{**m.root.attrs, "starts": tuple(starts)})


def _has_empty(m: Match) -> bool | str:
    empty = [v.shape[m.root.axis] == 0 for v in m.root.xs]
    return (any(empty) and not all(empty)) or "no operand, or every operand, is empty"


def _drop_empty(b: Builder, m: Match) -> Value:
    axis = m.root.axis
    return b(Concat, *(v for v in m.root.xs if v.shape[axis] != 0), axis=axis)


def _nested_concat(m: Match) -> bool | str:
    for v in m.root.xs:
        if isinstance(v.owner, Concat) and v.owner.axis == m.root.axis and single_use(v):
            return True
    return "no operand is a concatenation along the same axis that is used here only"


def _flatten_concat(b: Builder, m: Match) -> Value:
    axis = m.root.axis
    out: list[Value] = []
    for v in m.root.xs:
        nested = isinstance(v.owner, Concat) and v.owner.axis == axis and single_use(v)
        out += v.owner.operands if nested else [v]
    return b(Concat, *out, axis=axis)


def _inline_branch(b: Builder, m: Match) -> list[Value]:
    branch = m.root.regions[0 if bool(m.uniform(m.c)) else 1]
    results = list(branch.last.operands)
    for inner in branch.ops[:-1]:
        inner.parent = None
        b.block.append(inner)
    branch.ops = branch.ops[-1:]
    return results


def _reduces_units(m: Match) -> bool | str:
    return all(m.x.shape[a] == 1 for a in m.root.axes) or "an axis has not size 1"


def _to_reshape(b: Builder, m: Match) -> Value:
    return b(Reshape, m.x, shape=m.root.type.shape)


RULES = (
    rule("reshape-same", op(Reshape, p.x), p.x, when=keeps_type),
    rule("reshape-reshape", op(Reshape, op(Reshape, p.x), shape=p.s), op(Reshape, p.x, shape=p.s)),
    rule(
        "transpose-same",
        op(Transpose, p.x, perm=p.a),
        p.x,
        when=lambda m: m.a == tuple(range(len(m.a))) or "dimensions move",
    ),
    rule(
        "transpose-transpose",
        op(Transpose, op(Transpose, p.x, perm=p.a), perm=p.b),
        lambda b, m: b(Transpose, m.x, perm=compose(m.a, m.b)),
    ),
    rule(
        "transpose-units",
        op(Transpose, p.x, perm=p.a),
        _to_reshape,
        when=lambda m: moves_units_only(m.a, m.x.shape) or "dimensions of more than one move",
    ),
    rule(
        "slice-same",
        op(Slice, p.x, starts=p.s, steps=p.k),
        p.x,
        when=lambda m: keeps_type(m) if identity_slice(m.s, m.k) else "not all is taken",
    ),
    rule("slice-slice", op(Slice, op(Slice, p.x, starts=p.s, steps=p.k)), _slice_slice),
    rule(
        "slice-concat",
        op(Slice, op(Concat, ...).named("y")),
        _slice_concat,
        when=lambda m: _part_of_concat(m) is not None or "the slice spans several operands",
    ),
    rule("pad-nothing", op(Pad, p.x), p.x, when=_zero_pad),
    rule(
        "pad-pad",
        op(Pad, op(Pad, p.x, mode="constant").named("y"), mode="constant", value=p.v),
        _pad_pad,
        when=_same_value,
    ),
    rule(
        "conv-pad",
        op(Conv, op(Pad, p.x, mode="constant").named("y"), p.w),
        _conv_pad,
        when=_pads_space_only,
    ),
    rule("broadcast-same", op(Broadcast, p.x), p.x, when=keeps_type),
    rule(
        "broadcast-broadcast",
        op(Broadcast, op(Broadcast, p.x), shape=p.s),
        op(Broadcast, p.x, shape=p.s),
    ),
    rule(
        "broadcast-units",
        op(Broadcast, p.x),
        _to_reshape,
        when=lambda m: m.x.tensor.size == m.root.type.size or "elements are repeated",
    ),
    rule(
        "broadcast-elementwise",
        op(Elementwise, ...),
        lambda b, m: b(type(m.root), *_without_broadcasts(m), **m.root.attrs),
        when=_broadcasts_again,
    ),
    rule("concat-one", op(Concat, p.x), p.x),
    rule("concat-empty", op(Concat, ...), _drop_empty, when=_has_empty),
    rule("concat-slices", op(Concat, ...), lambda b, m: m.root.xs[0].op.x, when=_rebuilds),
    rule("concat-concat", op(Concat, ...), _flatten_concat, when=_nested_concat),
    rule(
        "gather-slice",
        op(Gather, p.x, const("i"), axis=p.axis),
        _gather_slice,
        when=lambda m: _progression(m) is not None or "the indices are not a range inside x",
    ),
    rule(
        "reduce-units",
        op((ReduceSum, ReduceProd, ReduceMax, ReduceMin), p.x),
        _to_reshape,
        when=_reduces_units,
    ),
    rule(
        "if-constant",
        op(If, const("c")),
        _inline_branch,
        when=lambda m: m.uniform(m.c) is not None or "the condition is not one element",
    ),
)
