"""NumPy's functions that put arrays together from blocks, windows and repetitions, on tracers."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple

from pjit.tracing.tracer import Tracer, as_tracer, implements, trace_of, xp


@implements(np.block)
def block(arrays: Any) -> Tracer:
    """np.block."""
    t = trace_of(arrays)
    depth = _depth(arrays)
    rank = max(depth, _rank(arrays))

    def joined(part: Any, axis: int) -> Tracer:
        if not isinstance(part, list):
            x = as_tracer(t, part)
            return x[(*(None,) * (rank - x.ndim), ...)]
        return xp.concatenate([joined(p, axis + 1) for p in part], axis)

    return joined(arrays, -depth).copy()


def _depth(part: Any) -> int:
    if not isinstance(part, list):
        return 0
    if not part:
        raise ValueError("List at arrays cannot be empty")
    depths = {_depth(p) for p in part}
    if len(depths) != 1:
        raise ValueError("List depths are mismatched.")
    return depths.pop() + 1


def _rank(part: Any) -> int:
    return max(map(_rank, part)) if isinstance(part, list) else xp.ndim(part)


@implements(np.dsplit)
def dsplit(ary: Any, indices_or_sections: Any) -> list:
    """np.dsplit."""
    if ary.ndim < 3:
        raise ValueError("dsplit only works on arrays of 3 or more dimensions")
    return xp.split(ary, indices_or_sections, 2)


@implements(np.insert)
def insert(arr: Any, obj: Any, values: Any, axis: Any = None) -> Tracer:
    """np.insert at places that are known."""
    t = trace_of(arr, values)
    x = as_tracer(t, arr)
    if axis is None:
        x, axis = xp.ravel(x), 0
    at = normalize_axis_index(axis, x.ndim)
    n = x.shape[at]
    new = as_tracer(t, values, x.dtype)
    known = np.arange(*obj.indices(n)) if isinstance(obj, slice) else np.asarray(obj)
    if known.size == 1 and known.dtype != bool:
        new = new[(*(None,) * (x.ndim - new.ndim), ...)]
        new = xp.moveaxis(new, 0, at) if not known.ndim else new
        count = new.shape[at]
        places = np.full(count, known.item())
    else:
        places = np.flatnonzero(known) if known.dtype == bool else known.astype(np.int64)
        count = places.size
    shape = [count if d == at else m for d, m in enumerate(x.shape)]
    joined = xp.concatenate([x, xp.broadcast_to(new, shape)], at)
    order = np.insert(np.arange(n), places, np.arange(n, n + count))
    return xp.take(joined, order, at)


@implements(np.resize)
def resize(a: Any, new_shape: Any) -> Tracer:
    """np.resize."""
    shape = tuple(new_shape) if isinstance(new_shape, list | tuple) else (new_shape,)
    if any(n < 0 for n in shape):
        raise ValueError("all elements of `new_shape` must be non-negative")
    flat = xp.ravel(a)
    size = math.prod(shape)
    if not flat.shape[0] or not size:
        return xp.zeros_like(flat, shape=shape)
    return xp.take(flat, np.arange(size) % flat.shape[0]).reshape(shape).copy()


@implements(np.diagflat)
def diagflat(v: Any, k: int = 0) -> Tracer:
    """np.diagflat."""
    return xp.diag(xp.ravel(v), k)


@implements(np.lib.stride_tricks.sliding_window_view, subok=(False,), writeable=(False,))
def sliding_window_view(x: Any, window_shape: Any, axis: Any = None) -> Tracer:
    """np.lib.stride_tricks.sliding_window_view; a copy."""
    sizes = tuple(window_shape) if isinstance(window_shape, list | tuple) else (window_shape,)
    axes = range(x.ndim) if axis is None else normalize_axis_tuple(axis, x.ndim, None, True)
    if len(sizes) != len(axes):
        raise ValueError("Must provide matching length window_shape and axis")
    if any(n < 0 for n in sizes):
        raise ValueError("`window_shape` cannot contain negative values")
    result = x
    for d, n in zip(axes, map(operator.index, sizes), strict=True):
        count = result.shape[d] - n + 1
        if count < 1:
            raise ValueError("window shape cannot be larger than input array shape")
        places = np.arange(count)[:, None] + np.arange(n)
        result = xp.moveaxis(xp.take(result, places, d), d + 1, -1)
    return result.copy()


def _half_roll(x: Any, axes: Any, back: bool) -> Tracer:
    dims = range(x.ndim) if axes is None else normalize_axis_tuple(axes, x.ndim)
    shifts = [-(x.shape[d] // 2) if back else x.shape[d] // 2 for d in dims]
    return xp.roll(x, tuple(shifts), tuple(dims))


@implements(np.fft.fftshift)
def fftshift(x: Any, axes: Any = None) -> Tracer:
    """np.fft.fftshift."""
    return _half_roll(x, axes, False)


@implements(np.fft.ifftshift)
def ifftshift(x: Any, axes: Any = None) -> Tracer:
    """np.fft.ifftshift."""
    return _half_roll(x, axes, True)
