"""NumPy's functions that select, gather and copy elements, and arrays like another, on tracers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from pjit.ir import ops
from pjit.ir.core import Value
from pjit.ir.types import i32, i64
from pjit.tracing.elementwise import as_bool
from pjit.tracing.refusals import DATA
from pjit.tracing.shaping import broadcast_arrays, moveaxis
from pjit.tracing.sizes import broadcast
from pjit.tracing.trace import Trace, refuse
from pjit.tracing.tracer import (
    Tracer,
    as_tracer,
    constant_like,
    implements,
    trace_of,
    value_of,
    weak,
    xp,
)

NOTHING = np._NoValue


@implements(np.where)
def where(condition: Any, x: Any = NOTHING, y: Any = NOTHING, /) -> Tracer:
    """np.where with three arguments."""
    if x is NOTHING or y is NOTHING:
        refuse(f"np.where(condition) is not traced: {DATA.why}", remedy=DATA.remedy)
    t = trace_of(condition, x, y)
    element = np.result_type(*(_typed(t, v) for v in (x, y)))
    flags = as_bool(t, value_of(t, condition))
    return Tracer(t, t(ops.Where, flags, value_of(t, x, element), value_of(t, y, element)))


def _typed(t: Trace, x: Any) -> Any:
    return as_tracer(t, x).dtype if (n := weak(x)) is None else n


@implements(np.select)
def select(condlist: Any, choicelist: Any, default: Any = 0) -> Tracer:
    """np.select."""
    if len(condlist) != len(choicelist):
        raise ValueError("list of cases must be same length as list of conditions")
    t = trace_of(list(condlist), list(choicelist), default)
    element = np.result_type(*(_typed(t, v) for v in (*choicelist, default)))
    result = as_tracer(t, default, element)
    for condition, choice in reversed(list(zip(condlist, choicelist, strict=True))):
        result = where(condition, as_tracer(t, choice, element), result)
    return result


@implements(np.take)
def take(a: Any, indices: Any, axis: Any = None, out: Any = None, mode: str = "raise") -> Tracer:
    """np.take; modes wrap and clip map the indices first."""
    t = trace_of(a, indices, out)
    x = as_tracer(t, a)
    if axis is None or (not x.ndim and axis in (0, -1)):
        x, axis = xp.ravel(x), 0
    at = normalize_axis_index(axis, x.ndim)
    if mode == "wrap":
        indices = xp.remainder(indices, x.shape[at])
    elif mode == "clip":
        indices = xp.clip(indices, 0, x.shape[at] - 1)
    elif not isinstance(indices, Tracer) and xp.size(indices):
        known = np.asarray(indices)
        if known.min() < -x.shape[at] or known.max() >= x.shape[at]:
            raise IndexError(f"index out of bounds for axis {at} with size {x.shape[at]}")
    i = index_values(t, indices)
    result = Tracer(t, t(ops.Gather, x.value, i, axis=at))
    if out is not None:
        out[...] = result
        return out
    return result


def index_values(t: Trace, indices: Any, casting: Any = "same_kind") -> Value:
    """Indices as a value of i32 or i64.

    Raises:
        TypeError: The rule does not cast them to int64.
    """
    if isinstance(indices, list) and not indices:
        indices = xp.zeros(0, np.int64)
    i = value_of(t, indices)
    if not np.can_cast(i.dtype.numpy, np.int64, casting):
        raise TypeError(
            f"Cannot cast array data from {i.dtype.numpy!r} to dtype('int64') according to the "
            f"rule {casting!r}"
        )
    return i if i.dtype in (i32, i64) else t(ops.Cast, i, dtype=i64)


def along_axis(t: Trace, indices: Any) -> Tracer:
    """The indices of take_along_axis and put_along_axis, as i32 or i64.

    Raises:
        IndexError: They are no integers.
    """
    if as_tracer(t, indices).dtype.kind not in "iu":
        raise IndexError("`indices` must be an integer array")
    return Tracer(t, index_values(t, indices))


@implements(np.take_along_axis)
def take_along_axis(arr: Any, indices: Any, axis: Any = -1) -> Tracer:
    """np.take_along_axis."""
    t = trace_of(arr, indices)
    x, i = as_tracer(t, arr), along_axis(t, indices)
    if axis is None:
        x, axis = xp.ravel(x), 0
    at = normalize_axis_index(axis, x.ndim)
    if x.ndim != i.ndim:
        raise ValueError("`indices` and `arr` must have the same number of dimensions")
    beside = [d for d in range(x.ndim) if d != at]
    common = {d: broadcast((x.shape[d],), (i.shape[d],))[0] for d in beside}
    x = xp.broadcast_to(x, tuple(common.get(d, n) for d, n in enumerate(x.shape)))
    i = xp.broadcast_to(i, tuple(common.get(d, n) for d, n in enumerate(i.shape)))
    return x.emit(ops.GatherElements, i, axis=at)


@dataclass(frozen=True)
class Diagonal:
    """A diagonal of the dimensions i and j, as the last dimension; read-only."""

    offset: int
    i: int
    j: int
    writable = False

    def read(self, t: Trace, base: Value) -> Value:
        """The diagonal."""
        rows, cols = base.tensor.static_shape[self.i], base.tensor.static_shape[self.j]
        low, high = max(-self.offset, 0), max(self.offset, 0)
        at = np.arange(max(min(rows - low, cols - high), 0))
        moved = moveaxis(Tracer(t, base), (self.i, self.j), (-2, -1))
        return moved[(..., at + low, at + high)].value

    def write(self, t: Trace, base: Value, new: Value) -> Value:
        """Not called."""
        raise NotImplementedError


@implements(np.diagonal)
def diagonal(a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tracer:
    """np.diagonal; a read-only view."""
    i, j = normalize_axis_index(axis1, a.ndim), normalize_axis_index(axis2, a.ndim)
    if i == j:
        raise ValueError("axis1 and axis2 cannot be the same")
    return a.derive(Diagonal(offset, i, j))


@implements(np.diag)
def diag(v: Any, k: int = 0) -> Tracer:
    """np.diag."""
    if v.ndim == 2:
        return diagonal(v, k)
    if v.ndim != 1:
        raise ValueError("Input must be 1- or 2-d.")
    n = v.shape[0] + abs(k)
    padded = xp.pad(v, (max(k, 0), max(-k, 0)))  # by column for k >= 0
    return xp.where(
        xp.eye(n, k=k, dtype=bool), padded if k >= 0 else padded[None, :], v.dtype.type(0)
    )


@implements(np.trace)
def trace(
    a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1, dtype: Any = None, out: Any = None
) -> Tracer:
    """np.trace."""
    return xp.sum(diagonal(a, offset, axis1, axis2), -1, dtype, out)


def _triangle(m: Any, k: int, lower: bool) -> Tracer:
    x = as_tracer(trace_of(m), m)
    mask = xp.tri(*x.shape[-2:], k=k if lower else k - 1, dtype=bool)
    return xp.where(mask if lower else ~mask, x, x.dtype.type(0))


@implements(np.tril)
def tril(m: Any, k: int = 0) -> Tracer:
    """np.tril."""
    return _triangle(m, k, True)


@implements(np.triu)
def triu(m: Any, k: int = 0) -> Tracer:
    """np.triu."""
    return _triangle(m, k, False)


@implements(np.meshgrid, copy=(True, False))
def meshgrid(*xi: Any, sparse: bool = False, indexing: str = "xy") -> tuple:
    """np.meshgrid."""
    t = trace_of(xi)
    n = len(xi)
    made = []
    for d, x in enumerate(xi):
        at = 1 - d if indexing == "xy" and n > 1 and d < 2 else d
        made.append(xp.ravel(as_tracer(t, x)).reshape([-1 if i == at else 1 for i in range(n)]))
    return tuple(made) if sparse else tuple(x.copy() for x in broadcast_arrays(*made))


@implements(np.delete)
def delete(arr: Any, obj: Any, axis: Any = None) -> Tracer:
    """np.delete of places that are known."""
    if axis is None:
        arr, axis = xp.ravel(arr), 0
    at = normalize_axis_index(axis, arr.ndim)
    return xp.take(arr, xp.delete(np.arange(arr.shape[at]), obj), at)


# Copies and arrays like another one


@implements(np.copy, subok=(False,))
def copy(a: Any, order: str = "K") -> Tracer:
    """np.copy."""
    return a.copy()


@implements(np.copyto)
def copyto(dst: Any, src: Any, casting: str = "same_kind", where: Any = True) -> None:
    """np.copyto into a traced array."""
    if not isinstance(dst, Tracer):
        refuse(
            "a NumPy array cannot hold traced values",
            remedy="np.full_like(x, value), np.broadcast_to or np.stack make a traced array",
        )
    number = weak(src)
    source = np.result_type(as_tracer(dst.context, src).dtype if number is None else number)
    if number is None and not np.can_cast(source, dst.dtype, casting):  # type: ignore[arg-type]
        raise TypeError(f"Cannot cast array data from {source!r} to {dst.dtype!r}")
    if where is True:
        dst[...] = src
    else:
        dst[...] = xp.where(where, as_tracer(dst.context, src, dst.dtype), dst)


def _like(a: Any, number: Any, dtype: Any, shape: Any) -> Tracer:
    t = trace_of(a, number)
    dims = xp.shape(a) if shape is None else tuple(xp.atleast_1d(shape).tolist())
    element = np.dtype(dtype) if dtype is not None else as_tracer(t, a).dtype
    return constant_like(t, number, dims, element)


@implements(
    np.zeros_like, np.empty_like, order=("K", "C", "A"), subok=(True, False), device=("cpu", None)
)
def zeros_like(a: Any, dtype: Any = None, shape: Any = None) -> Tracer:
    """np.zeros_like."""
    return _like(a, 0, dtype, shape)


@implements(np.ones_like, order=("K", "C", "A"), subok=(True, False), device=("cpu", None))
def ones_like(a: Any, dtype: Any = None, shape: Any = None) -> Tracer:
    """np.ones_like."""
    return _like(a, 1, dtype, shape)


@implements(np.full_like, order=("K", "C", "A"), subok=(True, False), device=("cpu", None))
def full_like(a: Any, fill_value: Any, dtype: Any = None, shape: Any = None) -> Tracer:
    """np.full_like; the number may be traced."""
    return _like(a, fill_value, dtype, shape)
