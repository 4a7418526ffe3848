"""NumPy's functions that write at places, choose by numbers, and make indices, on tracers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from pjit.ir import ops
from pjit.tracing.refusals import DATA
from pjit.tracing.selection import along_axis, index_values
from pjit.tracing.sizes import broadcast
from pjit.tracing.trace import Trace, refuse
from pjit.tracing.tracer import WEAK, Tracer, as_tracer, implements, trace_of, xp


def _written(a: Any) -> Tracer:
    if not isinstance(a, Tracer):
        refuse(
            "a NumPy array cannot hold traced values", remedy="write into a copy of a traced one"
        )
    return a


def _mapped(indices: Any, n: int, mode: str) -> Any:
    """Indices in the modes wrap and clip; in the mode raise they stay."""
    if mode == "wrap":
        return xp.remainder(indices, n)
    return xp.clip(indices, 0, n - 1) if mode == "clip" else indices


def _cycled(values: Tracer, n: int) -> Tracer:
    """The first n elements of the values, repeated as often as needed."""
    flat = xp.ravel(values)
    return flat if flat.shape[0] == n else xp.take(flat, np.arange(n) % max(flat.shape[0], 1))


@implements(np.put)
def put(a: Any, ind: Any, v: Any, mode: str = "raise") -> None:
    """np.put."""
    x = _written(a)
    flat = xp.ravel(x).copy()
    index = Tracer(x.context, index_values(x.context, ind, "safe"))
    at = xp.ravel(_mapped(index, flat.shape[0], mode))
    flat[at] = _cycled(as_tracer(x.context, v, x.dtype), at.shape[0])
    x[...] = flat.reshape(x.shape)


@implements(np.putmask)
def putmask(a: Any, /, mask: Any, values: Any) -> None:
    """np.putmask."""
    x = _written(a)
    values = _cycled(as_tracer(x.context, values, x.dtype), x.size).reshape(x.shape)
    x[...] = xp.where(mask, values, x)


@implements(np.place)
def place(arr: Any, mask: Any, vals: Any) -> None:
    """np.place."""
    x = _written(arr)
    flags = xp.ravel(as_tracer(x.context, mask, bool))
    values = xp.ravel(as_tracer(x.context, vals, x.dtype))
    turn = (xp.cumsum(flags) - 1) % values.shape[0]
    x[...] = xp.where(flags, xp.take(values, turn), xp.ravel(x)).reshape(x.shape)


@implements(np.put_along_axis)
def put_along_axis(arr: Any, indices: Any, values: Any, axis: Any) -> None:
    """np.put_along_axis."""
    x = _written(arr)
    t = x.context
    target = xp.ravel(x).copy() if axis is None else x
    at = 0 if axis is None else normalize_axis_index(axis, x.ndim)
    i = along_axis(t, indices)
    if i.ndim != target.ndim:
        raise ValueError("`indices` and `arr` must have the same number of dimensions")
    beside = [1 if d == at else n for d, n in enumerate(target.shape)]
    shape = broadcast(i.shape, tuple(beside))
    new = xp.broadcast_to(as_tracer(t, values, x.dtype), shape)
    result = target.emit(
        ops.ScatterElements, xp.broadcast_to(i, shape), new, axis=at, reduction="none"
    )
    x[...] = result.reshape(x.shape)


@implements(np.fill_diagonal)
def fill_diagonal(a: Any, val: Any, wrap: bool = False) -> None:
    """np.fill_diagonal."""
    x = _written(a)
    positions = np.zeros(x.shape, np.int8)
    np.fill_diagonal(positions, 1, wrap)
    put(x, np.flatnonzero(positions), val)


@implements(np.choose)
def choose(a: Any, choices: Any, out: Any = None, mode: str = "raise") -> Tracer:
    """np.choose."""
    t = trace_of(a, choices, out)
    wanted = np.result_type(*(c if type(c) in WEAK else as_tracer(t, c).dtype for c in choices))
    options = [as_tracer(t, c, wanted) for c in choices]
    number = _mapped(Tracer(t, index_values(t, a, "safe")), len(options), mode)
    shape = broadcast(number.shape, *(c.shape for c in options))
    stacked = xp.stack([xp.broadcast_to(c, shape) for c in options])
    at = xp.broadcast_to(number, shape)[None]
    result = xp.take_along_axis(stacked, at, 0)[0].copy()
    if out is None:
        return result
    out[...] = result
    return out


@implements(np.piecewise)
def piecewise(x: Any, condlist: Any, funclist: Any, *args: Any, **kw: Any) -> Tracer:
    """np.piecewise; every function is computed for all elements."""
    t = trace_of(x, condlist)
    values = as_tracer(t, x)
    rank = xp.ndim(condlist) if not isinstance(condlist, list | tuple) else 1 + xp.ndim(condlist[0])
    if rank == 0 or (rank == 1 and values.ndim != 0):
        condlist = [condlist]
    conditions = [as_tracer(t, c, bool) for c in condlist]
    if len(conditions) == len(funclist) - 1:
        conditions.append(~xp.any(xp.stack(conditions), 0))
    elif len(conditions) != len(funclist):
        n = len(conditions)
        raise ValueError(f"with {n} condition(s), either {n} or {n + 1} functions are expected")
    result = xp.zeros_like(values)
    for condition, function in zip(conditions, funclist, strict=True):
        part = function(values, *args, **kw) if callable(function) else function
        result = xp.where(condition, as_tracer(t, part, values.dtype), result)
    return result


@implements(np.apply_over_axes)
def apply_over_axes(func: Callable, a: Any, axes: Any) -> Tracer:
    """np.apply_over_axes."""
    result = as_tracer(trace_of(a), a)
    rank = result.ndim
    for axis in axes if isinstance(axes, list | tuple) else [axes]:
        at = axis + rank if axis < 0 else axis
        new = func(result, at)
        result = new if new.ndim == result.ndim else xp.expand_dims(new, at)
        if result.ndim != rank:
            raise ValueError("function is not returning an array of the correct shape")
    return result


# Indices


def _integers(t: Trace, x: Any) -> Tracer:
    if as_tracer(t, x).dtype.kind == "f":
        raise TypeError("only int indices permitted")
    return as_tracer(t, x, np.int64)


@implements(np.unravel_index, order=("C",))
def unravel_index(indices: Any, shape: Any) -> tuple:
    """np.unravel_index; that indices are in range is not checked."""
    rest = _integers(trace_of(indices), indices)
    made = []
    for n in reversed(shape if isinstance(shape, list | tuple) else (shape,)):
        made.append(rest % n)
        rest = rest // n
    return tuple(reversed(made))


@implements(np.ravel_multi_index, order=("C",))
def ravel_multi_index(multi_index: Any, dims: Any, mode: Any = "raise") -> Tracer:
    """np.ravel_multi_index; in the mode raise, that indices are in range is not checked."""
    t = trace_of(multi_index)
    sizes = dims if isinstance(dims, list | tuple) else (dims,)
    modes = mode if isinstance(mode, tuple) else (mode,) * len(sizes)
    result: Any = 0
    for i, n, m in zip(multi_index, sizes, modes, strict=True):
        result = result * n + _mapped(_integers(t, i), n, m)
    return result


@implements(np.ix_)
def ix_(*args: Any) -> tuple:
    """np.ix_ of integers."""
    t = trace_of(args)
    made = []
    for d, a in enumerate(args):
        x = as_tracer(t, a)
        if x.ndim != 1:
            raise ValueError("Cross index must be 1 dimensional")
        if x.dtype == bool:
            refuse(f"np.ix_ of a mask is not traced: {DATA.why}", remedy=DATA.remedy)
        made.append(x.reshape([-1 if i == d else 1 for i in range(len(args))]))
    return tuple(made)


@implements(np.diag_indices_from)
def diag_indices_from(arr: Any) -> tuple:
    """np.diag_indices_from, which are known."""
    return np.diag_indices_from(np.empty(arr.shape, np.int8))


@implements(np.tril_indices_from)
def tril_indices_from(arr: Any, k: int = 0) -> tuple:
    """np.tril_indices_from, which are known."""
    if arr.ndim != 2:
        raise ValueError("input array must be 2-d")
    return np.tril_indices(arr.shape[-2], k=k, m=arr.shape[-1])


@implements(np.triu_indices_from)
def triu_indices_from(arr: Any, k: int = 0) -> tuple:
    """np.triu_indices_from, which are known."""
    if arr.ndim != 2:
        raise ValueError("input array must be 2-d")
    return np.triu_indices(arr.shape[-2], k=k, m=arr.shape[-1])
