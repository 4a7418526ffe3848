"""NumPy's functions of sampled curves and signals, and polynomials, on tracers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple

from pjit.ir import ops
from pjit.tracing.tracer import Tracer, as_tracer, implements, trace_of
from pjit.tracing.tracer import xp as nx

NOTHING = np._NoValue


@implements(np.linspace, device=("cpu", None))
def linspace(
    start: Any,
    stop: Any,
    num: int = 50,
    endpoint: bool = True,
    retstep: bool = False,
    dtype: Any = None,
    axis: int = 0,
) -> Any:
    """np.linspace between traced ends."""
    if num < 0:
        raise ValueError(f"Number of samples, {num}, must be non-negative.")
    t = trace_of(start, stop)
    kinds = [x if type(x) in (int, float) else as_tracer(t, x).dtype for x in (start, stop)]
    inner = np.result_type(*kinds, float(num))
    first, last = as_tracer(t, start, inner), as_tracer(t, stop, inner)
    count = num - 1 if endpoint else num
    step = (last - first) / count if count > 0 else (last - first) * np.nan
    i = np.arange(num, dtype=inner).reshape(-1, *(1,) * step.ndim)
    result = i * step + first if count > 0 else i * (last - first) + first
    if endpoint and num > 1:
        result = nx.where(i == num - 1, last, result)
    wanted = inner if dtype is None else np.dtype(dtype)
    if wanted.kind in "iu":
        result = nx.floor(result)
    result = nx.moveaxis(result.astype(wanted), 0, axis) if axis else result.astype(wanted)
    return (result, step) if retstep else result


@implements(np.logspace)
def logspace(
    start: Any,
    stop: Any,
    num: int = 50,
    endpoint: bool = True,
    base: Any = 10.0,
    dtype: Any = None,
    axis: int = 0,
) -> Tracer:
    """np.logspace of a base of rank 0."""
    result = nx.power(base, nx.linspace(start, stop, num, endpoint, axis=axis))
    return result if dtype is None else result.astype(dtype)


@implements(np.interp)
def interp(
    x: Any, xp: Any, fp: Any, left: Any = None, right: Any = None, period: Any = None
) -> Tracer:
    """np.interp."""
    t = trace_of(x, xp, fp, left, right)
    at, xs, ys = (as_tracer(t, v, np.float64) for v in (x, xp, fp))
    if xs.ndim != 1 or xs.shape != ys.shape:
        raise ValueError("fp and xp are not of the same length.")
    if not xs.size:
        raise ValueError("array of sample points is empty")
    if period is not None:
        if period == 0:
            raise ValueError("period must be a non-zero value")
        period, left, right = abs(period), None, None
        at, xs = at % period, xs % period
        order = nx.argsort(xs)
        xs, ys = nx.take(xs, order), nx.take(ys, order)
        xs = nx.concatenate([xs[-1:] - period, xs, xs[:1] + period])
        ys = nx.concatenate([ys[-1:], ys, ys[:1]])
    n = xs.shape[0]
    place = nx.searchsorted(xs, at, "right") - 1
    low = nx.clip(place, 0, max(n - 2, 0))
    high = nx.minimum(low + 1, n - 1)
    x0, x1, y0, y1 = nx.take(xs, low), nx.take(xs, high), nx.take(ys, low), nx.take(ys, high)
    slope = (y1 - y0) / (x1 - x0)
    result = slope * (at - x0) + y0
    result = nx.where(nx.isnan(result), slope * (at - x1) + y1, result)
    result = nx.where(nx.isnan(result) & (y0 == y1), y0, result)
    result = nx.where(at == x0, y0, result)
    result = nx.where(place >= n - 1, ys[-1], result)
    result = nx.where(at > xs[-1], ys[-1] if right is None else right, result)
    result = nx.where(at < xs[0], ys[0] if left is None else left, result)
    return nx.where(nx.isnan(at), at, result) if n > 1 else result


@implements(np.gradient)
def gradient(f: Any, *varargs: Any, axis: Any = None, edge_order: int = 1) -> Any:
    """np.gradient."""
    t = trace_of(f, varargs)
    x = as_tracer(t, f)
    if x.dtype == bool:
        raise TypeError("numpy boolean subtract, the `-` operator, is not supported")
    x = x if x.dtype.kind == "f" else x.astype(np.float64)
    axes = range(x.ndim) if axis is None else normalize_axis_tuple(axis, x.ndim)
    spacings = tuple(np.asarray(s) if isinstance(s, list | tuple) else s for s in varargs) or (1.0,)
    if len(spacings) == 1 and not nx.ndim(spacings[0]):
        spacings = spacings * len(axes)
    if len(spacings) != len(axes):
        raise TypeError("invalid number of arguments")
    if edge_order not in (1, 2):
        raise ValueError("'edge_order' greater than 2 not supported")
    made = []
    for d, spacing in zip(axes, spacings, strict=True):
        if x.shape[d] < edge_order + 1:
            raise ValueError(
                "Shape of array too small to calculate a numerical gradient, at least (edge_order "
                "+ 1) elements are required."
            )
        step = spacing
        if nx.ndim(spacing):
            if nx.shape(spacing) != (x.shape[d],):
                raise ValueError(
                    "when 1d, distances must match the length of the corresponding dimension"
                )
            step = nx.diff(spacing if nx.result_type(spacing).kind == "f" else spacing * 1.0)
        slope = _slope(nx.moveaxis(x, d, -1), step, edge_order)
        made.append(nx.moveaxis(slope.astype(x.dtype), -1, d).copy())
    return made[0] if len(made) == 1 else tuple(made)


def _slope(f: Tracer, step: Any, order: int) -> Tracer:
    """The gradient along the last axis; ``step`` is a number, or the distances of the samples."""
    even = not nx.ndim(step)
    h = (step, step) if even else (step[0], step[-1])
    ends = [(f[..., 1:2] - f[..., :1]) / h[0], (f[..., -1:] - f[..., -2:-1]) / h[1]]
    if even:
        inner = (f[..., 2:] - f[..., :-2]) / (2.0 * step)
    else:
        a, b = step[:-1], step[1:]
        inner = (
            -b / (a * (a + b)) * f[..., :-2]
            + (b - a) / (a * b) * f[..., 1:-1]
            + a / (b * (a + b)) * f[..., 2:]
        )
    if order == 2:
        a, b = (step, step) if even else (step[0], step[1])
        low = -(2.0 * a + b) / (a * (a + b)), (a + b) / (a * b), -a / (b * (a + b))
        ends[0] = low[0] * f[..., :1] + low[1] * f[..., 1:2] + low[2] * f[..., 2:3]
        a, b = (step, step) if even else (step[-2], step[-1])
        high = b / (a * (a + b)), -(b + a) / (a * b), (2.0 * b + a) / (b * (a + b))
        ends[1] = high[0] * f[..., -3:-2] + high[1] * f[..., -2:-1] + high[2] * f[..., -1:]
    return nx.concatenate([ends[0], inner, ends[1]], -1)


# Signals


def _pair(a: Any, v: Any, name: str) -> tuple[Tracer, Tracer]:
    t = trace_of(a, v)
    x, y = (nx.atleast_1d(as_tracer(t, s)) for s in (a, v))
    for s, which in ((x, "a"), (y, "v")):
        if s.ndim != 1:
            raise ValueError("object too deep for desired array")
        if not s.size:
            raise ValueError(
                f"{which} cannot be empty" if name == "convolve" else "array cannot be empty"
            )
    wanted = np.result_type(x.dtype, y.dtype)
    return x.astype(wanted), y.astype(wanted)


def _slid(x: Tracer, y: Tracer, mode: str) -> Tracer:
    """The sums of products of y with the parts of x, which is at least as long."""
    n = y.shape[0]
    pads = {"full": (n - 1, n - 1), "same": (n // 2, n - n // 2 - 1), "valid": (0, 0)}
    if mode not in pads:
        raise ValueError(f"mode must be one of 'valid', 'same', or 'full' (got {mode!r})")
    inner = np.int64 if x.dtype == bool else x.dtype
    signal, kernel = (s.astype(inner).reshape(1, 1, -1) for s in (x, y))
    out = signal.emit(ops.Conv, kernel, strides=(1,), pads=pads[mode], dilations=(1,), groups=1)
    return out.reshape(-1).astype(x.dtype)


@implements(np.convolve)
def convolve(a: Any, v: Any, mode: str = "full") -> Tracer:
    """np.convolve."""
    x, y = _pair(a, v, "convolve")
    if y.shape[0] > x.shape[0]:
        x, y = y, x
    return _slid(x, nx.flip(y), mode)


@implements(np.correlate)
def correlate(a: Any, v: Any, mode: str = "valid") -> Tracer:
    """np.correlate."""
    x, y = _pair(a, v, "correlate")
    if y.shape[0] > x.shape[0]:
        return nx.flip(_slid(y, x, mode)).copy()
    return _slid(x, y, mode)


@implements(np.unwrap)
def unwrap(p: Any, discont: Any = None, axis: int = -1, *, period: Any = 2 * np.pi) -> Tracer:
    """np.unwrap."""
    x = as_tracer(trace_of(p), p)
    at = normalize_axis_index(axis, x.ndim)
    steps = nx.diff(x, axis=at)
    wanted = np.result_type(steps.dtype, period)
    half, rest = divmod(period, 2) if wanted.kind in "iu" else (period / 2, 0)
    jump = nx.mod(steps + half, period) - half
    if not rest:
        jump = nx.where((jump == -half) & (steps > 0), half, jump)
    change = nx.where(nx.abs(steps) < (period / 2 if discont is None else discont), 0, jump - steps)
    lead = (slice(None),) * at
    first, others = x[(*lead, slice(None, 1))], x[(*lead, slice(1, None))]
    return nx.concatenate([first, others + nx.cumsum(change, at)], at).astype(wanted)


@implements(np.ediff1d)
def ediff1d(ary: Any, to_end: Any = None, to_begin: Any = None) -> Tracer:
    """np.ediff1d."""
    t = trace_of(ary, to_end, to_begin)
    x = nx.ravel(as_tracer(t, ary))
    parts = [x[1:] - x[:-1]]
    for extra, place, name in ((to_begin, 0, "to_begin"), (to_end, 2, "to_end")):
        if extra is not None:
            if not np.can_cast(as_tracer(t, extra).dtype, x.dtype, "same_kind"):
                raise TypeError(
                    f"dtype of `{name}` must be compatible with input `ary` under the `same_kind` "
                    "rule."
                )
            parts.insert(place, nx.ravel(as_tracer(t, extra, x.dtype)))
    return nx.concatenate(parts) if len(parts) > 1 else parts[0]


@implements(np.trapezoid)
def trapezoid(y: Any, x: Any = None, dx: Any = 1.0, axis: int = -1) -> Tracer:
    """np.trapezoid."""
    t = trace_of(y, x, dx)
    values = as_tracer(t, y)
    width: Any = dx
    if x is not None:
        steps = nx.diff(as_tracer(t, x), axis=axis if nx.ndim(x) > 1 else -1)
        shape = [1] * values.ndim
        shape[axis] = steps.shape[0] if steps.ndim == 1 else 1
        width = steps.reshape(shape) if steps.ndim == 1 else steps
    lead = (slice(None),) * (axis % values.ndim)
    upper, lower = values[(*lead, slice(1, None))], values[(*lead, slice(None, -1))]
    return nx.sum(width * (upper + lower) / 2.0, axis)


# Polynomials


@implements(np.polyval)
def polyval(p: Any, x: Any) -> Tracer:
    """np.polyval, by Horner's rule."""
    t = trace_of(p, x)
    result = nx.zeros_like(as_tracer(t, x))
    for c in as_tracer(t, p):
        result = result * x + c
    return result


def _aligned(a1: Any, a2: Any) -> tuple[Tracer, Tracer]:
    t = trace_of(a1, a2)
    x, y = (nx.atleast_1d(as_tracer(t, a)) for a in (a1, a2))
    more = y.shape[0] - x.shape[0]
    return nx.pad(x, (max(more, 0), 0)), nx.pad(y, (max(-more, 0), 0))


@implements(np.polyadd)
def polyadd(a1: Any, a2: Any) -> Tracer:
    """np.polyadd."""
    return nx.add(*_aligned(a1, a2))


@implements(np.polysub)
def polysub(a1: Any, a2: Any) -> Tracer:
    """np.polysub."""
    return nx.subtract(*_aligned(a1, a2))


@implements(np.polyder)
def polyder(p: Any, m: int = 1) -> Tracer:
    """np.polyder."""
    if m < 0:
        raise ValueError("Order of derivative must be positive (see polyint)")
    return p if m == 0 else polyder(p[:-1] * np.arange(p.shape[0] - 1, 0, -1), m - 1)


@implements(np.polyint)
def polyint(p: Any, m: int = 1, k: Any = None) -> Tracer:
    """np.polyint."""
    if m < 0:
        raise ValueError("Order of integral must be positive (see polyder)")
    t = trace_of(p, k)
    result = as_tracer(t, p)
    constants = nx.atleast_1d(as_tracer(t, np.zeros(m) if k is None else k))
    if constants.shape[0] == 1:
        constants = nx.broadcast_to(constants * 1.0, (m,))
    if constants.shape[0] < m:
        raise ValueError("k must be a scalar or a rank-1 array of length 1 or >m.")
    for i in range(m):
        result = result / np.arange(result.shape[0], 0, -1)
        result = nx.concatenate([result, constants[i : i + 1]])
    return result


@implements(np.vander)
def vander(x: Any, N: int | None = None, increasing: bool = False) -> Tracer:
    """np.vander."""
    if x.ndim != 1:
        raise ValueError("x must be a one-dimensional array or sequence.")
    columns = x.shape[0] if N is None else N
    values = x.astype(np.promote_types(x.dtype, int))
    if not columns:
        return values[:, None][:, :0].copy()
    ones = nx.ones_like(values)[:, None]
    factors = nx.broadcast_to(values[:, None], (x.shape[0], columns - 1))
    result = nx.concatenate([ones, nx.cumprod(factors, 1, values.dtype)], 1)
    return result if increasing else nx.flip(result, 1).copy()
