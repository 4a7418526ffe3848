"""NumPy's order statistics, histograms and correlations on tracers."""

from __future__ import annotations

from typing import Any

import numpy as np

from pjit.tracing.reductions import axes_of, finish, kept
from pjit.tracing.tracer import Tracer, as_tracer, implements, trace_of, xp


@implements(np.median, overwrite_input=(False,))
def median(a: Any, axis: Any = None, out: Any = None, keepdims: Any = False) -> Tracer:
    """np.median."""
    t = trace_of(a, out)
    x = as_tracer(t, a)
    axes = axes_of(x, axis)
    rest = [d for d in range(x.ndim) if d not in axes]
    flat = xp.transpose(x, [*rest, *axes])
    flat = flat.reshape(*(x.shape[d] for d in rest), int(xp.prod([x.shape[d] for d in axes])))
    n = flat.shape[-1]
    ordered = xp.sort(flat, -1)
    result = xp.mean(ordered[..., (n - 1) // 2 : n // 2 + 1], -1)
    if x.dtype.kind not in "biu":  # NaN sorts last
        result = xp.where(xp.isnan(ordered[..., -1]), ordered[..., -1], result)
    if kept(keepdims):
        result = result.reshape([1 if d in axes else n for d, n in enumerate(x.shape)])
    return finish(result, out)
