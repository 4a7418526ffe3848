"""NumPy and ``math`` as a traced function sees them.

NumPy hands functions of traced arrays to pjit, but not those that make an array from a shape, and
not the functions of ``math``. Where a function reads the modules or these functions from its
globals, it gets what makes traced arrays, into which traced values can be written.
"""

from __future__ import annotations

import math
import time
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from pjit.tracing.scalar import Scalar, kind_of, number
from pjit.tracing.sizes import index
from pjit.tracing.trace import Trace, refuse
from pjit.tracing.tracer import Tracer, as_tracer, constant_like, tracers


def _shape(shape: Any) -> tuple[int, ...]:
    dims = shape if isinstance(shape, tuple | list | np.ndarray) else (shape,)
    return tuple(index(d) for d in dims)


def _filled(value: Any) -> Callable:
    function = {0: np.zeros, 1: np.ones}[value]

    def fill(t: Trace, shape: Any, dtype: Any = float, *args: Any, **options: Any) -> Any:
        dims = _shape(shape)
        if args or options or np.dtype(dtype or float).kind not in "biuf":
            return function(dims, dtype, *args, **options)
        return constant_like(t, value, dims, np.dtype(dtype or float))

    return fill


def _full(t: Trace, shape: Any, fill_value: Any, dtype: Any = None, **options: Any) -> Any:
    dims = _shape(shape)
    element = dtype
    if element is None:
        weak = kind_of(fill_value)
        element = np.dtype(weak) if weak else getattr(fill_value, "dtype", None)
    traced = any(True for _ in tracers(fill_value))
    if not traced and (options or element is None or np.dtype(element).kind not in "biuf"):
        return np.full(dims, fill_value, dtype, **options)
    return constant_like(t, fill_value, dims, np.dtype(element))


def _like(function: Callable) -> Callable:
    def like(t: Trace, a: Any, *args: Any, **options: Any) -> Any:
        if isinstance(a, np.ndarray) and a.dtype.kind in "biuf":
            a = as_tracer(t, a)
        return function(a, *args, **options)

    return like


def _array(function: Callable) -> Callable:
    def array(t: Trace, x: Any, dtype: Any = None, **options: Any) -> Any:
        if not any(True for _ in tracers(x)):
            return function(x, dtype, **options)
        made = as_tracer(t, x, _joined(x, dtype))
        fresh = function is np.array and options.get("copy", True) is not False
        return made.copy() if fresh and made is x else made

    return array


def _joined(x: Any, dtype: Any) -> Any:
    """The dtype of an array of numbers of Python, traced or not; None: that of its arrays."""
    if dtype is not None:
        return np.dtype(dtype)
    kinds = {kind_of(item) for item in _items(x)}
    if None in kinds:
        return None
    return np.result_type(*(np.dtype(k) for k in kinds if k is not None))


def _items(x: Any) -> list[Any]:
    if isinstance(x, list | tuple):
        return [y for item in x for y in _items(item)]
    return [x]


def _function(ufunc: np.ufunc) -> Callable:
    """A function of ``math``."""

    def call(t: Trace, *xs: Any) -> Any:
        floats = [number(t, x, float) if isinstance(x, Tracer) else float(x) for x in xs]
        return number(t, ufunc(*floats), float, _origins(floats))

    return call


def _integer(ufunc: np.ufunc) -> Callable:
    def call(t: Trace, x: Any) -> Any:
        return number(t, ufunc(number(t, x, float)), int, _origins([x]))

    return call


def _test(ufunc: np.ufunc) -> Callable:
    def call(t: Trace, x: Any) -> Any:
        return number(t, ufunc(number(t, x, float)), bool, _origins([x]))

    return call


def _origins(xs: list[Any]) -> frozenset:
    return frozenset().union(*(x.origins for x in xs if isinstance(x, Scalar)))


_SAME = "sqrt exp log log2 log10 sin cos tan sinh cosh tanh expm1 log1p hypot cbrt exp2 copysign"
MATH: dict[Callable, Callable] = {
    getattr(math, n): _function(getattr(np, n)) for n in _SAME.split()
}
MATH |= {
    math.floor: _integer(np.floor),
    math.ceil: _integer(np.ceil),
    math.pow: _function(np.power),
}
MATH |= {math.trunc: _integer(np.trunc), math.fabs: _function(np.fabs)}
MATH |= {
    math.isnan: _test(np.isnan),
    math.isinf: _test(np.isinf),
    math.isfinite: _test(np.isfinite),
}
MATH |= {math.asin: _function(np.arcsin), math.acos: _function(np.arccos)}
MATH |= {math.atan: _function(np.arctan), math.atan2: _function(np.arctan2)}

NUMPY: dict[Callable, Callable] = {
    np.zeros: _filled(0), np.empty: _filled(0), np.ones: _filled(1), np.full: _full,
    np.array: _array(np.array), np.asarray: _array(np.asarray),
    np.ascontiguousarray: _array(np.ascontiguousarray), np.asanyarray: _array(np.asanyarray),
    np.zeros_like: _like(np.zeros_like), np.ones_like: _like(np.ones_like),
    np.empty_like: _like(np.empty_like), np.full_like: _like(np.full_like),
}  # fmt: skip


def _generator(t: Trace, seed: Any = None) -> Any:
    if seed is None:
        refuse(
            "np.random.default_rng() without a seed gives other numbers in each call, which a "
            "compiled function would repeat",
            remedy="give it a seed, or draw the numbers outside and pass them as an argument",
        )
    return np.random.default_rng(seed)


def _clock(name: str) -> Callable:
    def read(t: Trace, *args: Any) -> Any:
        refuse(
            f"time.{name}() would give the time of the trace in every call",
            remedy="read the clock outside, and pass the time as an argument if it is needed",
        )

    return read


NUMPY[np.random.default_rng] = _generator
_CLOCKS = "time time_ns monotonic monotonic_ns perf_counter perf_counter_ns process_time"
NUMPY |= {getattr(time, n): _clock(n) for n in _CLOCKS.split()}
_MODULES = (np, math, np.random, time)
_OWNERS = ("numpy", "math", "time", "numpy.random", "numpy.random._generator")


class Module:
    """A module with some functions replaced."""

    def __init__(self, trace: Trace, module: types.ModuleType) -> None:
        self.__dict__["_trace"], self.__dict__["_module"] = trace, module

    @property
    def __pjit_stateless__(self) -> Any:
        """What tells one from another."""
        return self._module

    def __getattr__(self, name: str) -> Any:
        return seen(self._trace, getattr(self._module, name))


def seen(t: Trace, x: Any) -> Any:
    """A module or a function as a traced function sees it."""
    if type(x) is types.ModuleType:
        return Module(t, x) if x in _MODULES else x
    if callable(x) and getattr(x, "__module__", None) in _OWNERS:
        try:
            special = NUMPY.get(x)
            if special is not None:
                return types.MethodType(special, t)
            special = MATH.get(x)
        except TypeError:  # not hashable
            return x
        if special is not None:
            return Either(t, x, special)
    return x


class Either:
    """A function of numbers that may be traced."""

    def __init__(self, trace: Trace, function: Callable, traced: Callable) -> None:
        self._trace, self._function, self._traced = trace, function, traced

    @property
    def __pjit_stateless__(self) -> Any:
        """What tells one from another."""
        return self._function

    def __call__(self, *xs: Any) -> Any:
        """Calls the one or the other."""
        if any(isinstance(x, Tracer) for x in xs):
            return self._traced(self._trace, *xs)
        return self._function(*xs)
