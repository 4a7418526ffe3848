"""NumPy's order statistics, histograms and correlations on tracers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pjit.tracing.indexing import update
from pjit.tracing.reductions import axes_of, finish, kept
from pjit.tracing.trace import refuse_function
from pjit.tracing.tracer import Tracer, as_tracer, implements, trace_of, xp

# Order statistics


def _ordered(x: Tracer, axis: Any) -> tuple[Tracer, list[int]]:
    """The elements in order in one last dimension, and the shape with 1 for the reduced axes."""
    axes = axes_of(x, axis)
    rest = [d for d in range(x.ndim) if d not in axes]
    rows = xp.transpose(x, [*rest, *axes]).reshape([*(x.shape[d] for d in rest), -1])
    return xp.sort(rows, -1), [1 if d in axes else n for d, n in enumerate(x.shape)]


@implements(np.median, overwrite_input=(False,))
def median(a: Any, axis: Any = None, out: Any = None, keepdims: Any = False) -> Tracer:
    """np.median."""
    x = as_tracer(trace_of(a, out), a)
    ordered, shape = _ordered(x, axis)
    n = ordered.shape[-1]
    result = xp.mean(ordered[..., (n - 1) // 2 : n // 2 + 1], -1)
    if x.dtype.kind not in "biu":  # NaN sorts last
        result = xp.where(xp.isnan(ordered[..., -1]), ordered[..., -1], result)
    return finish(result.reshape(shape) if kept(keepdims) else result, out)


@implements(np.nanmedian, overwrite_input=(False,))
def nanmedian(a: Any, axis: Any = None, out: Any = None, keepdims: Any = False) -> Tracer:
    """np.nanmedian."""
    x = as_tracer(trace_of(a, out), a)
    if x.dtype.kind in "biu":
        return median(x, axis, out, keepdims)
    ordered, shape = _ordered(x, axis)
    n = xp.sum(~xp.isnan(ordered), -1, keepdims=True)
    middle = [xp.maximum(n - 1, 0) // 2, xp.minimum(n // 2, xp.maximum(n - 1, 0))]
    pair = xp.take_along_axis(ordered, xp.concatenate(middle, -1), -1)
    result = xp.mean(pair, -1)
    return finish(result.reshape(shape) if kept(keepdims) else result, out)


def _continuous(alpha: float, beta: float) -> Callable[[Any, float], Any]:
    return lambda n, q: n * q + (alpha + q * (1 - alpha - beta)) - 1


PLACES: dict[str, Callable[[Any, float], Any]] = {  # of a quantile among n elements in order
    "linear": lambda n, q: (n - 1) * q,
    "lower": lambda n, q: np.floor((n - 1) * q),
    "higher": lambda n, q: np.ceil((n - 1) * q),
    "nearest": lambda n, q: np.around((n - 1) * q),
    "midpoint": lambda n, q: 0.5 * (np.floor((n - 1) * q) + np.ceil((n - 1) * q)),
    "interpolated_inverted_cdf": _continuous(0, 1),
    "hazen": _continuous(0.5, 0.5),
    "weibull": _continuous(0, 0),
    "median_unbiased": _continuous(1 / 3, 1 / 3),
    "normal_unbiased": _continuous(3 / 8, 3 / 8),
}
ELEMENTS = ("lower", "higher", "nearest")  # no interpolation: the dtype stays


def _between(lower: Tracer, upper: Tracer, weight: Any) -> Tracer:
    difference = upper - lower
    low, high = lower + difference * weight, upper - difference * (1 - weight)
    return xp.where(weight >= 0.5, high, low)


def _one_quantile(ordered: Tracer, q: Any, method: str, weak: bool) -> Tracer:
    n = ordered.shape[-1]
    place = PLACES[method](n, q)
    if method in ELEMENTS or (method == "linear" and isinstance(q, np.integer)):
        return ordered[..., int(place)]
    first = min(max(int(np.floor(place)), 0), n - 1)
    weight = place - np.floor(place)
    return _between(
        ordered[..., first],
        ordered[..., min(first + 1, n - 1) if place >= 0 else 0],
        float(weight) if weak else weight,
    )


def _one_nanquantile(ordered: Tracer, q: Any, method: str, weak: bool) -> Tracer:
    n = xp.sum(~xp.isnan(ordered), -1, keepdims=True)
    last = xp.maximum(n - 1, 0)
    place = PLACES[method](n, np.float64(q))
    whole = xp.floor(place)

    def element(i: Tracer) -> Tracer:
        at = xp.minimum(xp.maximum(i.astype(np.int64), 0), last)
        return xp.take_along_axis(ordered, at, -1)[..., 0]

    if method in ELEMENTS or (method == "linear" and isinstance(q, np.integer)):
        return element(whole)
    weight = (place - whole)[..., 0]
    upper = element(xp.where(place >= 0, whole + 1, 0.0))
    return _between(element(whole), upper, weight.astype(ordered.dtype if weak else q.dtype))


def _quantiles(name: str, scale: int | None, one: Callable, skips: bool) -> Callable[..., Tracer]:
    def quantiles(
        a: Any,
        q: Any,
        axis: Any = None,
        out: Any = None,
        overwrite_input: bool = False,
        method: str = "linear",
        keepdims: Any = False,
        *,
        weights: Any = None,
    ) -> Tracer:
        if isinstance(q, Tracer) or weights is not None:
            refuse_function(f"np.{name} with {'weights' if weights is not None else 'a traced q'}")
        if method not in PLACES:
            refuse_function(f"np.{name} with method={method!r}")
        weak = type(q) in (int, float)
        wanted = np.asarray(q) if scale is None else np.true_divide(q, scale)
        if wanted.size and not (wanted.min() >= 0 and wanted.max() <= 1):
            what, top = ("Quantiles", 1) if scale is None else ("Percentiles", 100)
            raise ValueError(f"{what} must be in the range [0, {top}]")
        x = as_tracer(trace_of(a, out), a)
        nan = x.dtype.kind not in "biu"
        ordered, shape = _ordered(x, axis)
        made = [
            (one if nan else _one_quantile)(ordered, number, method, weak)
            for number in wanted.ravel()
        ]
        if nan and not skips:  # NaN sorts last
            end = ordered[..., -1]
            made = [xp.where(xp.isnan(end), end, m) for m in made]
        if kept(keepdims):
            made = [m.reshape(shape) for m in made]
        result = made[0] if not wanted.ndim else xp.stack(made)
        return finish(
            result if wanted.ndim < 2 else result.reshape(wanted.shape + made[0].shape), out
        )

    quantiles.__doc__ = f"np.{name} with a known q, in the methods {', '.join(PLACES)}."
    return quantiles


implements(np.quantile)(_quantiles("quantile", None, _one_quantile, False))
implements(np.percentile)(_quantiles("percentile", 100, _one_quantile, False))
implements(np.nanquantile)(_quantiles("nanquantile", None, _one_nanquantile, True))
implements(np.nanpercentile)(_quantiles("nanpercentile", 100, _one_nanquantile, True))


# Histograms


@implements(np.histogram_bin_edges)
def histogram_bin_edges(a: Any, bins: Any = 10, range: Any = None, weights: Any = None) -> Any:
    """np.histogram_bin_edges of a known number of bins."""
    if isinstance(bins, str):
        refuse_function(f"np.histogram with bins={bins!r}", "give the number of bins, or the edges")
    if xp.ndim(bins):
        return bins if isinstance(bins, Tracer) else np.histogram_bin_edges([], bins)
    x = as_tracer(trace_of(a, weights), a)
    if range is not None or not x.size:
        return np.histogram_bin_edges(np.empty(0, x.dtype), bins, range)
    first, last = xp.min(x), xp.max(x)
    wanted = x.dtype if x.dtype.kind == "f" else np.dtype(np.float64)
    first, last = first.astype(wanted), last.astype(wanted)
    width = xp.where(first == last, wanted.type(0.5), wanted.type(0))
    return xp.linspace(first - width, last + width, bins + 1)


@implements(np.histogram)
def histogram(
    a: Any, bins: Any = 10, range: Any = None, density: Any = None, weights: Any = None
) -> tuple:
    """np.histogram of a known number of bins; finite values and rising traced edges are assumed."""
    t = trace_of(a, bins, weights)
    x = xp.ravel(as_tracer(t, a))
    edges = as_tracer(t, histogram_bin_edges(x, bins, range))
    n = edges.shape[0] - 1
    values = x.astype(edges.dtype) if xp.ndim(bins) == 0 else x
    at = xp.clip(xp.searchsorted(edges, values, "right") - 1, 0, n - 1)
    at = xp.where((values >= edges[0]) & (values <= edges[-1]), at, n)
    amounts: Any = np.ones((), np.int64)
    wanted = amounts.dtype
    if weights is not None:
        wanted = as_tracer(t, weights).dtype
        amounts = xp.ravel(as_tracer(t, weights, np.float64))
    counts = as_tracer(t, np.zeros(n + 1, amounts.dtype)).copy()
    update(counts, at, amounts, "add")
    counts = counts[:-1].astype(wanted)
    if density:
        counts = counts / xp.diff(edges).astype(np.float64) / xp.sum(counts)
    return counts, edges


# Correlations


@implements(np.cov)
def cov(
    m: Any,
    y: Any = None,
    rowvar: bool = True,
    bias: bool = False,
    ddof: int | None = None,
    fweights: Any = None,
    aweights: Any = None,
    *,
    dtype: Any = None,
) -> Tracer:
    """np.cov; weights are not checked."""
    t = trace_of(m, y, fweights, aweights)
    parts = [as_tracer(t, p) for p in (m, y) if p is not None]
    if any(p.ndim > 2 for p in parts):
        raise ValueError(f"{'y' if parts[0].ndim <= 2 else 'm'} has more than 2 dimensions")
    wanted = np.result_type(*(p.dtype for p in parts), np.float64) if dtype is None else dtype
    rows = [xp.atleast_2d(as_tracer(t, p, wanted)) for p in parts]
    rows = [r.T if not rowvar and p.ndim != 1 else r for r, p in zip(rows, parts, strict=True)]
    x = xp.concatenate(rows, 0) if len(rows) > 1 else rows[0]
    less = (0 if bias else 1) if ddof is None else ddof
    weights = [as_tracer(t, w, np.float64) for w in (fweights, aweights) if w is not None]
    w = weights[0] * weights[1] if len(weights) > 1 else weights[0] if weights else None
    mean, total = xp.average(x, 1, w, returned=True)
    divisor: Any = max(x.shape[1] - less, 0)
    if w is not None:
        lost = less * (xp.sum(w * weights[-1]) / total[0] if aweights is not None else 1)
        divisor = xp.maximum(total[0] - lost, 0)
    x = (x - mean[:, None]).astype(x.dtype)
    product = xp.matmul(x, (x if w is None else x * w).T)
    return xp.squeeze(product * xp.true_divide(1, divisor).astype(product.dtype)).copy()


@implements(np.corrcoef)
def corrcoef(x: Any, y: Any = None, rowvar: bool = True, *, dtype: Any = None) -> Tracer:
    """np.corrcoef."""
    c = cov(x, y, rowvar, dtype=dtype)
    if not c.ndim:
        return c / c
    deviation = xp.sqrt(xp.diagonal(c))
    return xp.clip(c / deviation[:, None] / deviation[None, :], -1, 1)
