"""NumPy's functions that put elements in order or look for them in ordered arrays, on tracers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from pjit.ir import ops
from pjit.ir.types import dtype as element_type
from pjit.tracing.elementwise import cast
from pjit.tracing.reductions import flat
from pjit.tracing.tracer import Tracer, as_tracer, implements, trace_of, xp


def _sorted(a: Any, axis: Any) -> tuple[Tracer, Tracer]:
    t = trace_of(a)
    x = as_tracer(t, a)
    if axis is None:
        x, axis = flat(x, axis)
    at = normalize_axis_index(axis, x.ndim)
    keys = x.astype(np.int8) if x.dtype == bool else x
    values, positions = t(ops.Topk, keys.value, k=x.shape[at], axis=at, largest=False)
    return Tracer(t, cast(t, values, element_type(x.dtype))), Tracer(t, positions)


@implements(np.sort, order=(None,))
def sort(a: Any, axis: Any = -1, kind: Any = None, *, stable: Any = None) -> Tracer:
    """np.sort."""
    return _sorted(a, axis)[0]


@implements(np.argsort, order=(None,))
def argsort(a: Any, axis: Any = -1, kind: Any = None, *, stable: Any = None) -> Tracer:
    """np.argsort; equal elements keep their order."""
    return _sorted(a, axis)[1]


@implements(np.partition, order=(None,))
def partition(a: Any, kth: Any, axis: Any = -1, kind: str = "introselect") -> Tracer:
    """np.partition: the whole is sorted, which is a partition by every element."""
    return _sorted(a, axis)[0]


@implements(np.argpartition, order=(None,))
def argpartition(a: Any, kth: Any, axis: Any = -1, kind: str = "introselect") -> Tracer:
    """np.argpartition: the whole is sorted."""
    return _sorted(a, axis)[1]


@implements(np.lexsort)
def lexsort(keys: Any, axis: int = -1) -> Tracer:
    """np.lexsort: by the last key, then by the one before, ..."""
    t = trace_of(keys)
    first, *others = (as_tracer(t, k) for k in keys)
    order = xp.argsort(first, axis)
    for key in others:
        place = xp.argsort(xp.take_along_axis(key, order, axis), axis)
        order = xp.take_along_axis(order, place, axis)
    return order


@implements(np.searchsorted)
def searchsorted(a: Any, v: Any, side: str = "left", sorter: Any = None) -> Tracer:
    """np.searchsorted, by halving the range for all elements at once."""
    if side not in ("left", "right"):
        raise ValueError(f"search side must be 'left' or 'right' (got {side!r})")
    t = trace_of(a, v, sorter)
    x = as_tracer(t, a)
    if x.ndim != 1:
        raise ValueError("object too deep for desired array")
    wanted = np.result_type(x.dtype, as_tracer(t, v).dtype)
    x, y = as_tracer(t, x, wanted), as_tracer(t, v, wanted)
    if sorter is not None:
        x = xp.take(x, sorter)
    n = x.shape[0]
    place = xp.zeros_like(y, np.int64)
    step = 1 << max(n.bit_length() - 1, 0)
    while n and step:
        probe = place + step
        before = _before(xp.take(x, xp.minimum(probe, n) - 1), y, side == "right")
        place = xp.where((probe <= n) & before, probe, place)
        step //= 2
    return place


def _before(x: Tracer, y: Tracer, or_equal: bool) -> Tracer:
    """Whether x stands before y in sorted order, where NaN comes last."""
    before = (x <= y) if or_equal else (x < y)
    if x.dtype.kind in "biu":
        return before
    return before | xp.isnan(y) & (True if or_equal else ~xp.isnan(x))


@implements(np.digitize)
def digitize(x: Any, bins: Any, right: bool = False) -> Tracer:
    """np.digitize; bins that are traced are taken to be monotonic."""
    t = trace_of(x, bins)
    edges, side = as_tracer(t, bins), "left" if right else "right"
    if not isinstance(bins, Tracer):
        known = np.asarray(bins)
        np.digitize(known[:1], known)  # checks them
        if not known.size or known[0] <= known[-1]:
            return searchsorted(edges, x, side)
    falling = edges.shape[0] - searchsorted(edges[::-1], x, side)
    if not isinstance(bins, Tracer) or not edges.shape[0]:
        return falling
    return xp.where(edges[0] <= edges[-1], searchsorted(edges, x, side), falling)
