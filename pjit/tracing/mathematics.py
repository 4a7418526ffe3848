"""NumPy functions that are compositions, and questions about dtypes and shapes, on tracers."""

from __future__ import annotations

from typing import Any

import numpy as np

from pjit.tracing.reductions import finish
from pjit.tracing.scalar import number
from pjit.tracing.sizes import broadcast, product
from pjit.tracing.tracer import Tracer, as_tracer, implements, trace_of, tracers, weak, xp

NOTHING = np._NoValue


@implements(np.clip)
def clip(
    a: Any,
    a_min: Any = None,
    a_max: Any = None,
    out: Any = None,
    *,
    min: Any = NOTHING,
    max: Any = NOTHING,
    **options: Any,
) -> Tracer:
    """np.clip."""
    low = a_min if min is NOTHING else min
    high = a_max if max is NOTHING else max
    t = trace_of(a, low, high, out)
    x = as_tracer(t, a)
    if x.dtype.kind in "iu":  # Python integers beyond the dtype are no bounds
        limits = np.iinfo(x.dtype)
        low = None if type(low) is int and low <= limits.min else low
        high = None if type(high) is int and high >= limits.max else high
    bounds = [b for b in (low, high) if b is not None]
    if not bounds:
        return finish(xp.positive(x, **options) if x.dtype != bool else x.copy(), out)
    kinds = (as_tracer(t, b).dtype if (n := weak(b)) is None else n for b in bounds)
    x = x.astype(np.result_type(x.dtype, *kinds))
    x = x if low is None else xp.maximum(x, low, **options)
    return finish(x if high is None else xp.minimum(x, high, **options), out)


@implements(np.round, np.around)
def round_(a: Any, decimals: int = 0, out: Any = None) -> Tracer:
    """np.round."""
    x = as_tracer(trace_of(a, out), a)
    if x.dtype == bool:
        if decimals:
            raise TypeError("bool is rounded to whole numbers only")
        result = x.astype(np.float16)
        return finish(xp.rint(result), out)
    if x.dtype.kind in "iu":
        if decimals >= 0:
            return finish(x.copy(), out)
        unit = 10**-decimals
        return finish((xp.rint(x / unit) * unit).astype(x.dtype), out)
    if decimals == 0:
        return finish(xp.rint(x), out)
    unit = 10 ** abs(decimals)
    scaled = xp.rint(x * unit if decimals > 0 else x / unit)
    return finish(scaled / unit if decimals > 0 else scaled * unit, out)


@implements(np.fix)
def fix(x: Any, out: Any = None) -> Tracer:
    """np.fix."""
    return finish(xp.trunc(x), out)


@implements(np.nan_to_num, copy=(True, False))
def nan_to_num(x: Any, nan: float = 0.0, posinf: Any = None, neginf: Any = None) -> Tracer:
    """np.nan_to_num."""
    if x.dtype.kind in "biu":
        return x.copy()
    limits = np.finfo(x.dtype)
    kind = x.dtype.type
    result = xp.where(xp.isnan(x), kind(nan), x)
    result = xp.where(x == np.inf, kind(limits.max if posinf is None else posinf), result)
    return xp.where(x == -np.inf, kind(limits.min if neginf is None else neginf), result)


@implements(np.isclose)
def isclose(
    a: Any, b: Any, rtol: Any = 1e-05, atol: Any = 1e-08, equal_nan: bool = False
) -> Tracer:
    """np.isclose."""
    t = trace_of(a, b, rtol, atol)
    x, y = as_tracer(t, a), as_tracer(t, b)
    if y.dtype.kind in "biu":
        y = y.astype(np.float64)
    near = (xp.abs(x - y) <= atol + rtol * xp.abs(y)) & xp.isfinite(y) | (x == y)
    return near | (xp.isnan(x) & xp.isnan(y)) if equal_nan else near


@implements(np.allclose)
def allclose(a: Any, b: Any, *args: Any, **kwargs: Any) -> Tracer:
    """np.allclose, as a traced bool."""
    return _bool(xp.all(isclose(a, b, *args, **kwargs)))


def _bool(x: Tracer) -> Tracer:
    """What is a bool of Python in NumPy."""
    return number(x.context, x, bool)


@implements(np.array_equal)
def array_equal(a1: Any, a2: Any, equal_nan: bool = False) -> Any:
    """np.array_equal, as a traced bool; False when the shapes differ."""
    if xp.shape(a1) != xp.shape(a2):
        return False
    equal = xp.equal(a1, a2)
    if equal_nan:
        equal = equal | ((a1 != a1) & (a2 != a2))
    return _bool(xp.all(equal))


@implements(np.isposinf)
def isposinf(x: Any, out: Any = None) -> Tracer:
    """np.isposinf."""
    return finish(xp.isinf(x) & ~xp.signbit(x), out)


@implements(np.isneginf)
def isneginf(x: Any, out: Any = None) -> Tracer:
    """np.isneginf."""
    return finish(xp.isinf(x) & xp.signbit(x), out)


@implements(np.isin, assume_unique=(True, False), kind=(None, "sort", "table"))
def isin(element: Any, test_elements: Any, *, invert: bool = False) -> Tracer:
    """np.isin, by comparing every element with every test element."""
    t = trace_of(element, test_elements)
    found = xp.any(as_tracer(t, element)[..., None] == xp.ravel(as_tracer(t, test_elements)), -1)
    return ~found if invert else found


@implements(np.sinc)
def sinc(x: Any) -> Tracer:
    """np.sinc."""
    if x.dtype.kind in "biu":
        x = x.astype(np.float64)
    tiny = x.dtype.type(1e-20 if x.dtype.itemsize > 2 else np.finfo(x.dtype).eps)
    y = x.dtype.type(np.pi) * xp.where(x == 0, tiny, x)
    return xp.sin(y) / y


@implements(np.angle)
def angle(z: Any, deg: bool = False) -> Tracer:
    """np.angle: of real numbers, 0 or pi."""
    result = xp.arctan2(0, z)
    return result * (180 / np.pi) if deg else result


@implements(np.isreal)
def isreal(x: Any) -> Tracer:
    """np.isreal: all are."""
    return xp.ones_like(x, bool)


@implements(np.iscomplex)
def iscomplex(x: Any) -> Tracer:
    """np.iscomplex: none is."""
    return xp.zeros_like(x, bool)


@implements(np.array_equiv)
def array_equiv(a1: Any, a2: Any) -> Any:
    """np.array_equiv, as a traced bool; False when the shapes do not broadcast."""
    try:
        broadcast(xp.shape(a1), xp.shape(a2))
    except ValueError:
        return False
    return _bool(xp.all(xp.equal(a1, a2)))


if hasattr(np, "astype"):

    @implements(np.astype, device=("cpu", None))
    def astype(x: Any, dtype: Any, /, *, copy: bool = True) -> Tracer:
        """np.astype."""
        return x.astype(dtype, copy=copy)


@implements(np.real)
def real(val: Any) -> Tracer:
    """np.real."""
    return val.real


@implements(np.imag)
def imag(val: Any) -> Tracer:
    """np.imag."""
    return val.imag


@implements(np.real_if_close)
def real_if_close(a: Any, tol: float = 100) -> Tracer:
    """np.real_if_close."""
    return a


# What is known without numbers


@implements(np.shape)
def shape(a: Any) -> tuple[int, ...]:
    """np.shape."""
    return as_tracer(trace_of(a), a).shape


@implements(np.ndim)
def ndim(a: Any) -> int:
    """np.ndim."""
    return as_tracer(trace_of(a), a).ndim


@implements(np.size)
def size(a: Any, axis: Any = None) -> int:
    """np.size."""
    dims = shape(a)
    axes = range(len(dims)) if axis is None else (axis if isinstance(axis, tuple) else (axis,))
    return product(dims[d] for d in axes)


@implements(np.iscomplexobj)
def iscomplexobj(x: Any) -> bool:
    """np.iscomplexobj: never."""
    return False


@implements(np.isrealobj)
def isrealobj(x: Any) -> bool:
    """np.isrealobj: always."""
    return True


@implements(np.result_type)
def result_type(*arrays_and_dtypes: Any) -> np.dtype:
    """np.result_type."""
    return np.result_type(*(x.dtype if isinstance(x, Tracer) else x for x in arrays_and_dtypes))


@implements(np.common_type)
def common_type(*arrays: Any) -> Any:
    """np.common_type."""
    return np.common_type(*(np.empty(0, x.dtype) for x in arrays))


@implements(np.can_cast)
def can_cast(from_: Any, to: Any, casting: Any = "safe") -> bool:
    """np.can_cast."""
    source, target = (x.dtype if isinstance(x, Tracer) else x for x in (from_, to))
    return np.can_cast(source, target, casting)


@implements(np.array_repr, np.array_str, np.array2string)
def array_repr(a: Any, *args: Any, **kwargs: Any) -> str:
    """The text of a traced array, which has no numbers."""
    return repr(next(tracers(a)))
