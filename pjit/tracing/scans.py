"""NumPy's running sums, products and extremes on tracers, ``ufunc.accumulate`` included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from pjit.ir import ops
from pjit.ir.core import Op
from pjit.tracing.reductions import finish, flat, sum_dtype
from pjit.tracing.trace import Trace, refuse_function
from pjit.tracing.tracer import UFUNC_METHODS, Tracer, as_tracer, implements, trace_of, xp

SCANS = {
    np.add: ops.Cumsum,
    np.multiply: ops.Cumprod,
    np.maximum: ops.Cummax,
    np.minimum: ops.Cummin,
    np.logical_and: ops.Cummin,
    np.logical_or: ops.Cummax,
}


def scanned(cls: type[Op], a: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> Tracer:
    """A running reduction; axis None is that of the flattened array."""
    t = trace_of(a, out)
    x = as_tracer(t, a)
    wanted = x.dtype if dtype is None else np.dtype(dtype)
    if dtype is None and cls in (ops.Cumsum, ops.Cumprod):
        wanted = sum_dtype(x.dtype)
    x = as_tracer(t, x, np.int8 if wanted.kind == "b" else wanted)
    if axis is None or not x.ndim:
        x, axis = flat(x, axis)
    at = normalize_axis_index(axis, x.ndim)
    result = x.emit(cls, axis=at, exclusive=False, reverse=False)
    return finish(as_tracer(t, result, wanted), out)


@implements(np.cumsum)
def cumsum(a: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> Tracer:
    """np.cumsum."""
    return scanned(ops.Cumsum, a, axis, dtype, out)


@implements(np.cumprod)
def cumprod(a: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> Tracer:
    """np.cumprod."""
    return scanned(ops.Cumprod, a, axis, dtype, out)


def _cumulative(scan: Callable[..., Tracer], first: int) -> Callable[..., Tracer]:
    def cumulative(
        x: Any,
        /,
        *,
        axis: Any = None,
        dtype: Any = None,
        out: Any = None,
        include_initial: bool = False,
    ) -> Tracer:
        if axis is None and x.ndim != 1:
            raise ValueError(
                "For arrays which have more than one dimension ``axis`` argument is required."
            )
        axis = axis or 0
        result = scan(x, axis, dtype)
        if include_initial:
            shape = [1 if d == axis % x.ndim else n for d, n in enumerate(x.shape)]
            result = xp.concatenate([xp.full(shape, first, result.dtype), result], axis)
        return finish(result, out)

    return cumulative


if hasattr(np, "cumulative_sum"):
    implements(np.cumulative_sum)(_cumulative(cumsum, 0))
    implements(np.cumulative_prod)(_cumulative(cumprod, 1))


def _without_nan(function: Callable, number: int) -> Callable[..., Tracer]:
    def handler(a: Any, *args: Any, **kwargs: Any) -> Tracer:
        x = as_tracer(trace_of(a), a)
        return function(
            xp.where(xp.isnan(x), x.dtype.type(number), x) if x.dtype.kind not in "biu" else x,
            *args,
            **kwargs,
        )

    return handler


implements(np.nancumsum)(_without_nan(np.cumsum, 0))
implements(np.nancumprod)(_without_nan(np.cumprod, 1))


def accumulate(
    t: Trace, ufunc: np.ufunc, x: Any, axis: int = 0, dtype: Any = None, out: Any = None
) -> Any:
    """``ufunc.accumulate``."""
    if ufunc not in SCANS:
        refuse_function(f"np.{ufunc.__name__}.accumulate")
    if isinstance(out, tuple):
        (out,) = out
    if ufunc in (np.logical_and, np.logical_or):
        x = as_tracer(t, x, bool)
    return scanned(SCANS[ufunc], as_tracer(t, x), axis, dtype, out)


UFUNC_METHODS["accumulate"] = accumulate
