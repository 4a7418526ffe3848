"""NumPy's reductions, scans and sorts on tracers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple

from pjit.ir import ops
from pjit.ir.core import Op
from pjit.ir.types import FLOATS
from pjit.ir.types import dtype as element_type
from pjit.tracing.calls import write
from pjit.tracing.elementwise import as_bool
from pjit.tracing.indexing import reshaped
from pjit.tracing.sizes import product
from pjit.tracing.tracer import Tracer, as_tracer, implements, trace_of, value_of, xp

NOTHING = np._NoValue


def axes_of(x: Tracer, axis: Any) -> tuple[int, ...]:
    """The axes, sorted; None means all.

    Raises:
        AxisError: As in NumPy.
    """
    if axis is None or (not x.ndim and axis in (0, -1)):
        return tuple(range(x.ndim))
    return tuple(sorted(normalize_axis_tuple(axis, x.ndim)))


def flat(x: Tracer, axis: Any) -> tuple[Tracer, int]:
    """One dimension, as for axis None, and its axis; rank 0 also has the axes 0 and -1."""
    if axis is not None:
        normalize_axis_index(axis, max(x.ndim, 1))
    return Tracer(x.context, reshaped(x.context, x.value, (x.size,))), 0


def finish(result: Tracer, out: Any) -> Tracer:
    """Writes the result into ``out`` if there is one."""
    if out is None:
        return result
    write(result.context, as_tracer(result.context, out), result.value)
    return out


def kept(keepdims: Any) -> bool:
    """Whether the reduced axes stay."""
    return keepdims is not NOTHING and bool(keepdims)


def reduced(x: Tracer, cls: type[Op], axis: Any, keepdims: Any) -> Tracer:
    """A reduction operator; none is built when no axis is reduced."""
    axes = axes_of(x, axis)
    return x.emit(cls, axes=axes, keepdims=kept(keepdims)) if axes else x.copy()


def sum_dtype(dtype: np.dtype) -> np.dtype:
    """The dtype of sums, products and their scans: small integers and bool become (u)int64."""
    if dtype.kind in "bi" and dtype.itemsize < 8:
        return np.dtype(np.int64)
    return np.dtype(np.uint64) if dtype.kind == "u" else dtype


def _folded(
    a: Any,
    axis: Any,
    dtype: Any,
    out: Any,
    keepdims: Any,
    initial: Any,
    where: Any,
    cls: type[Op],
    join: np.ufunc,
    neutral: int,
) -> Tracer:
    t = trace_of(a, where, initial, out)
    x = as_tracer(t, a)
    x = as_tracer(t, x, np.dtype(dtype) if dtype is not None else sum_dtype(x.dtype))
    if where is not True and where is not NOTHING:
        x = xp.where(where, x, x.dtype.type(neutral))
    if x.dtype == bool:  # dtype=bool was asked for
        result = reduced(x, ops.ReduceMin if neutral else ops.ReduceMax, axis, keepdims)
    else:
        result = reduced(x, cls, axis, keepdims)
    if initial is not NOTHING and initial is not None:
        result = join(
            result, np.asarray(initial, x.dtype) if not isinstance(initial, Tracer) else initial
        )
    return finish(result, out)


@implements(np.sum)
def sum_(
    a: Any,
    axis: Any = None,
    dtype: Any = None,
    out: Any = None,
    keepdims: Any = False,
    initial: Any = NOTHING,
    where: Any = True,
) -> Tracer:
    """np.sum."""
    return _folded(a, axis, dtype, out, keepdims, initial, where, ops.ReduceSum, np.add, 0)


@implements(np.prod)
def prod(
    a: Any,
    axis: Any = None,
    dtype: Any = None,
    out: Any = None,
    keepdims: Any = False,
    initial: Any = NOTHING,
    where: Any = True,
) -> Tracer:
    """np.prod."""
    return _folded(a, axis, dtype, out, keepdims, initial, where, ops.ReduceProd, np.multiply, 1)


def _limit(dtype: np.dtype, sign: int) -> Any:
    if dtype.kind == "b":
        return sign > 0
    if dtype.kind in "iu":
        return np.iinfo(dtype).max if sign > 0 else np.iinfo(dtype).min
    return sign * np.inf


def _extreme(cls: type[Op], join: np.ufunc, sign: int) -> Callable[..., Tracer]:
    def extreme(
        a: Any,
        axis: Any = None,
        out: Any = None,
        keepdims: Any = False,
        initial: Any = NOTHING,
        where: Any = True,
    ) -> Tracer:
        t = trace_of(a, where, initial, out)
        x = as_tracer(t, a)
        given = initial is not NOTHING and initial is not None
        if where is not True and where is not NOTHING:
            if not given:
                raise ValueError(
                    f"reduction operation '{join.__name__}' does not have an identity, so to use a "
                    "where mask one has to specify 'initial'"
                )
            x = xp.where(where, x, x.dtype.type(_limit(x.dtype, sign)))
        count = product(x.shape[d] for d in axes_of(x, axis))
        if count == 0 and not given:
            raise ValueError(
                f"zero-size array to reduction operation {join.__name__} which has no identity"
            )
        result = reduced(x, cls, axis, keepdims)
        return finish(join(result, initial).astype(x.dtype) if given else result, out)

    return extreme


implements(np.max, np.amax)(_extreme(ops.ReduceMax, np.maximum, -1))
implements(np.min, np.amin)(_extreme(ops.ReduceMin, np.minimum, 1))


@implements(np.ptp)
def ptp(a: Any, axis: Any = None, out: Any = None, keepdims: Any = False) -> Tracer:
    """np.ptp."""
    x = as_tracer(trace_of(a, out), a)
    keep = kept(keepdims)
    return finish(xp.max(x, axis, keepdims=keep) - xp.min(x, axis, keepdims=keep), out)


def _truth(cls: type[Op], neutral: bool) -> Callable[..., Tracer]:
    def truth(
        a: Any, axis: Any = None, out: Any = None, keepdims: Any = False, *, where: Any = True
    ) -> Tracer:
        t = trace_of(a, where, out)
        x = Tracer(t, as_bool(t, value_of(t, a)))
        if where is not True and where is not NOTHING:
            x = xp.where(where, x, neutral)
        return finish(reduced(x, cls, axis, keepdims), out)

    return truth


implements(np.all)(_truth(ops.ReduceMin, True))
implements(np.any)(_truth(ops.ReduceMax, False))


@implements(np.count_nonzero)
def count_nonzero(a: Any, axis: Any = None, *, keepdims: bool = False) -> Tracer:
    """np.count_nonzero."""
    t = trace_of(a)
    return xp.sum(Tracer(t, as_bool(t, value_of(t, a))), axis, np.int64, keepdims=keepdims)


def _mean_dtype(x: Tracer, dtype: Any) -> np.dtype:
    if dtype is not None:
        return np.dtype(dtype)
    return np.dtype(np.float64) if x.dtype.kind in "biu" else x.dtype


@implements(np.mean)
def mean(
    a: Any,
    axis: Any = None,
    dtype: Any = None,
    out: Any = None,
    keepdims: Any = False,
    *,
    where: Any = True,
) -> Tracer:
    """np.mean."""
    t = trace_of(a, where, out)
    x = as_tracer(t, a)
    wanted = _mean_dtype(x, dtype)
    if where is not True and where is not NOTHING:
        keep = kept(keepdims)
        total = xp.sum(x, axis, wanted, keepdims=keep, where=where)
        count = xp.sum(xp.broadcast_to(where, x.shape), axis, np.int64, keepdims=keep)
        return finish((total / count).astype(wanted), out)
    if wanted.kind in "biu":
        total = xp.sum(x, axis, wanted, keepdims=kept(keepdims))
        return finish((total / (x.size // max(total.size, 1))).astype(wanted), out)
    return finish(reduced(as_tracer(t, x, wanted), ops.ReduceMean, axis, keepdims), out)


@implements(np.average)
def average(
    a: Any,
    axis: Any = None,
    weights: Any = None,
    returned: bool = False,
    *,
    keepdims: Any = False,
) -> Any:
    """np.average."""
    t = trace_of(a, weights)
    x, keep = as_tracer(t, a), kept(keepdims)
    if weights is None:
        result = xp.mean(x, axis, keepdims=keep)
        scale = xp.full_like(result, x.size / max(result.size, 1))
        return (result, scale) if returned else result
    w = as_tracer(t, weights)
    if w.shape != x.shape:
        axes = axes_of(x, axis)
        if axis is None or w.shape != tuple(x.shape[d] for d in axes):
            raise TypeError("Axis must be specified when shapes of a and weights differ.")
        w = w.reshape([n if d in axes else 1 for d, n in enumerate(x.shape)])
    wanted = np.result_type(x.dtype, w.dtype, *([np.float64] if x.dtype.kind in "biu" else []))
    w = xp.broadcast_to(w.astype(wanted), x.shape)
    scale = xp.sum(w, axis, keepdims=keep)
    result = xp.sum(x * w, axis, keepdims=keep) / scale
    return (result, scale) if returned else result


@implements(np.var)
def var(
    a: Any,
    axis: Any = None,
    dtype: Any = None,
    out: Any = None,
    ddof: float = 0,
    keepdims: Any = False,
    *,
    where: Any = True,
    mean: Any = NOTHING,
    correction: Any = NOTHING,
) -> Tracer:
    """np.var; 16-bit floats compute in f32."""
    t = trace_of(a, where, mean, out)
    x = as_tracer(t, a)
    wanted = _mean_dtype(x, dtype)
    inner = (
        np.dtype(np.float32) if element_type(wanted) in FLOATS and wanted.itemsize == 2 else wanted
    )
    less = ddof if correction is NOTHING else correction
    masked = where is not True and where is not NOTHING
    x = as_tracer(t, x, inner)
    center = mean if mean is not NOTHING else xp.mean(x, axis, keepdims=True, where=where)
    squares = xp.square(x - center)
    total = xp.sum(squares, axis, keepdims=kept(keepdims), where=where)
    if masked:
        mask = xp.broadcast_to(where, x.shape)
        count: Any = xp.sum(mask, axis, inner, keepdims=kept(keepdims))
        divisor: Any = xp.maximum(count - less, inner.type(0))
    else:
        count = product(x.shape[d] for d in axes_of(x, axis))
        divisor = inner.type(max(count - less, 0))
    return finish((total / divisor).astype(wanted), out)


@implements(np.std)
def std(a: Any, *args: Any, out: Any = None, **kwargs: Any) -> Tracer:
    """np.std."""
    if len(args) > 2:
        out, args = args[2], (*args[:2], None, *args[3:])
    return finish(xp.sqrt(var(a, *args, **kwargs)), out)


def _position(cls: type[Op]) -> Callable[..., Tracer]:
    def position(a: Any, axis: Any = None, out: Any = None, *, keepdims: Any = False) -> Tracer:
        t = trace_of(a, out)
        x = as_tracer(t, a)
        if x.dtype == bool:
            x = x.astype(np.int8)
        shape = x.shape
        if axis is None or not x.ndim:
            x, at = flat(x, axis)
        else:
            at = normalize_axis_index(axis, x.ndim)
        if x.shape[at] == 0:
            raise ValueError(f"attempt to get {cls.op_name} of an empty sequence")
        result = x.emit(cls, axis=at, keepdims=kept(keepdims), last=False)
        if axis is None and kept(keepdims):
            result = result.reshape((1,) * len(shape))
        return finish(result, out)

    return position


implements(np.argmax)(_position(ops.Argmax))
implements(np.argmin)(_position(ops.Argmin))


def _without_nan(function: Callable, number: float) -> Callable[..., Tracer]:
    def handler(a: Any, axis: Any = None, *args: Any, **kwargs: Any) -> Tracer:
        x = as_tracer(trace_of(a), a)
        if x.dtype.kind in "biu":
            return function(x, axis, *args, **kwargs)
        missing = xp.isnan(x)
        result = function(xp.where(missing, x.dtype.type(number), x), axis, *args, **kwargs)
        if xp.isfinite(number):
            return result
        nothing = xp.all(missing, axis, keepdims=kwargs.get("keepdims", False))
        return xp.where(nothing, x.dtype.type(np.nan), result)

    return handler


implements(np.nansum)(_without_nan(np.sum, 0))
implements(np.nanprod)(_without_nan(np.prod, 1))
implements(np.nanmax)(_without_nan(np.max, -np.inf))
implements(np.nanmin)(_without_nan(np.min, np.inf))


def _nan_mean(function: Callable) -> Callable[..., Tracer]:
    def handler(a: Any, *args: Any, **kwargs: Any) -> Tracer:
        return function(a, *args, where=~xp.isnan(a), **kwargs)

    return handler


implements(np.nanmean)(_nan_mean(np.mean))
implements(np.nanvar)(_nan_mean(np.var))
implements(np.nanstd)(_nan_mean(np.std))


@implements(np.diff)
def diff(
    a: Any, n: int = 1, axis: int = -1, prepend: Any = NOTHING, append: Any = NOTHING
) -> Tracer:
    """np.diff."""
    t = trace_of(a, prepend, append)
    x = as_tracer(t, a)
    if n == 0:
        return x
    if n < 0:
        raise ValueError(f"order must be non-negative but got {n!r}")
    at = normalize_axis_index(axis, x.ndim)
    parts = [x]
    for extra, place in ((prepend, 0), (append, len(parts))):
        if extra is not NOTHING:
            e = as_tracer(t, extra)
            if not e.ndim:
                e = xp.broadcast_to(e, [1 if d == at else m for d, m in enumerate(x.shape)])
            parts.insert(place if place == 0 else len(parts), e)
    x = xp.concatenate(parts, at) if len(parts) > 1 else x
    lead = (slice(None),) * at
    for _ in range(n):
        join = np.not_equal if x.dtype == bool else np.subtract
        x = join(x[(*lead, slice(1, None))], x[(*lead, slice(None, -1))])
    return x
