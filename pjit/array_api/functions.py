"""The functions of the array API standard, in terms of NumPy's, which also accept tracers."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from pjit.array import Array

STANDARD: dict[str, Callable] = {}
xp: Any = np  # NumPy, with arguments that its stubs do not know

# Arguments and results


def plain(x: Any) -> Any:
    """What NumPy's functions take: ``pjit.Array`` as NumPy arrays, in sequences too."""
    if isinstance(x, Array):
        return np.asarray(x)
    return type(x)(map(plain, x)) if type(x) in (list, tuple) else x


def wrapped(x: Any) -> Any:
    """What the standard's functions give: NumPy arrays as ``pjit.Array``, in sequences too."""
    if isinstance(x, np.ndarray | np.generic):
        return Array(x)
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return type(x)(*map(wrapped, x))
    return type(x)(map(wrapped, x)) if type(x) in (list, tuple) else x


def is_traced(x: Any) -> bool:
    """Whether this is an array that is being traced, or a sequence with one."""
    if isinstance(x, list | tuple):
        return any(map(is_traced, x))
    return hasattr(type(x), "__array_function__") and not isinstance(x, np.ndarray | np.generic)


def standard(function: Callable, name: str = "") -> Callable:
    """Adds a function of NumPy arrays to the namespace, as one of ``pjit.Array``."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        given = {k: plain(v) for k, v in kwargs.items()}
        return wrapped(function(*map(plain, args), **given))

    call.__name__ = call.__qualname__ = name or function.__name__.strip("_")
    call.__doc__ = function.__doc__ or f"``{call.__name__}`` of the array API standard."
    STANDARD[call.__name__] = call
    return call


# Elementwise functions

ELEMENTWISE = """
    abs acos acosh add asin asinh atan atan2 atanh bitwise_and bitwise_invert bitwise_left_shift
    bitwise_or bitwise_right_shift bitwise_xor ceil conj copysign cos cosh divide equal exp expm1
    floor floor_divide greater greater_equal hypot isfinite isinf isnan less less_equal log log10
    log1p log2 logaddexp logical_and logical_not logical_or logical_xor maximum minimum multiply
    negative nextafter not_equal positive pow reciprocal remainder sign signbit sin sinh sqrt square
    subtract tan tanh trunc
""".split()


def _elementwise(ufunc: np.ufunc) -> Callable:
    return (lambda x, /: ufunc(x)) if ufunc.nin == 1 else (lambda x1, x2, /: ufunc(x1, x2))


for _name in ELEMENTWISE:
    standard(_elementwise(getattr(np, _name)), _name)


@standard
def clip(x: Any, /, min: Any = None, max: Any = None) -> Any:
    """Elements below ``min`` become it, those above ``max`` that; the dtype stays."""
    limits = np.iinfo(x.dtype) if x.dtype.kind in "iu" else None
    if limits and type(min) is int and min <= limits.min:
        min = None
    if limits and type(max) is int and max >= limits.max:
        max = None
    element = x.dtype
    for bound, beyond in ((min, np.less), (max, np.greater)):
        if bound is not None:
            limit = bound.astype(element) if hasattr(bound, "astype") else bound
            x = np.where(beyond(x, bound) | (bound != bound), limit, x)
    return x if x.dtype == element else x.astype(element)


def check_device(device: Any) -> None:
    """Raises ValueError unless the device is ``cpu`` or None."""
    if device not in (None, "cpu"):
        raise ValueError(f"arrays are on the device 'cpu', not {device!r}")


# The functions that NumPy has with the same meaning

FUNCTIONS: dict[str, Callable] = {
    # elementwise
    "imag": lambda x, /: np.imag(x),
    "real": lambda x, /: np.real(x),
    "round": lambda x, /: np.round(x),
    # creation
    "empty": lambda shape, *, dtype=None, device=None: np.empty(
        shape, dtype or float, device=device
    ),
    "empty_like": lambda x, /, *, dtype=None, device=None: np.empty_like(x, dtype, device=device),
    "eye": lambda n_rows, n_cols=None, /, *, k=0, dtype=None, device=None: np.eye(
        n_rows, n_cols, k, dtype or float, device=device
    ),
    "full": lambda shape, fill_value, *, dtype=None, device=None: np.full(
        shape, fill_value, dtype, device=device
    ),
    "full_like": lambda x, /, fill_value, *, dtype=None, device=None: np.full_like(
        x, fill_value, dtype, device=device
    ),
    "linspace": lambda start, stop, /, num, *, dtype=None, device=None, endpoint=True: np.linspace(
        start, stop, num, endpoint, dtype=dtype, device=device
    ),
    "meshgrid": lambda *arrays, indexing="xy": list(np.meshgrid(*arrays, indexing=indexing)),
    "ones": lambda shape, *, dtype=None, device=None: np.ones(shape, dtype or float, device=device),
    "ones_like": lambda x, /, *, dtype=None, device=None: np.ones_like(x, dtype, device=device),
    "tril": lambda x, /, *, k=0: np.tril(x, k),
    "triu": lambda x, /, *, k=0: np.triu(x, k),
    "zeros": lambda shape, *, dtype=None, device=None: np.zeros(
        shape, dtype or float, device=device
    ),
    "zeros_like": lambda x, /, *, dtype=None, device=None: np.zeros_like(x, dtype, device=device),
    # manipulation
    "broadcast_arrays": lambda *arrays: list(np.broadcast_arrays(*arrays)),
    "broadcast_to": lambda x, /, shape: np.broadcast_to(x, shape),
    "concat": lambda arrays, /, *, axis=0: np.concatenate(arrays, axis),
    "expand_dims": lambda x, /, axis=0: np.expand_dims(x, axis),
    "flip": lambda x, /, *, axis=None: np.flip(x, axis),
    "moveaxis": lambda x, source, destination, /: np.moveaxis(x, source, destination),
    "permute_dims": lambda x, /, axes: np.transpose(x, axes),
    "repeat": lambda x, repeats, /, *, axis=None: np.repeat(x, repeats, axis),
    "reshape": lambda x, /, shape, *, copy=None: np.reshape(x, shape, copy=copy),
    "roll": lambda x, /, shift, *, axis=None: np.roll(x, shift, axis),
    "squeeze": lambda x, /, axis: np.squeeze(x, axis),
    "stack": lambda arrays, /, *, axis=0: np.stack(arrays, axis),
    "tile": lambda x, repetitions, /: np.tile(x, repetitions),
    "unstack": lambda x, /, *, axis=0: np.unstack(x, axis=axis),
    # indexing, searching, sets
    "argmax": lambda x, /, *, axis=None, keepdims=False: np.argmax(x, axis, keepdims=keepdims),
    "argmin": lambda x, /, *, axis=None, keepdims=False: np.argmin(x, axis, keepdims=keepdims),
    "count_nonzero": lambda x, /, *, axis=None, keepdims=False: np.sum(
        x != 0, axis, np.int64, keepdims=keepdims
    ),
    "nonzero": lambda x, /: np.nonzero(x),
    "searchsorted": lambda x1, x2, /, *, side="left", sorter=None: np.searchsorted(
        x1, x2, side, sorter
    ),
    "take": lambda x, indices, /, *, axis=None: np.take(x, indices, axis),
    "take_along_axis": lambda x, indices, /, *, axis=-1: np.take_along_axis(x, indices, axis),
    "unique_all": lambda x, /: np.unique_all(x),
    "unique_counts": lambda x, /: np.unique_counts(x),
    "unique_inverse": lambda x, /: np.unique_inverse(x),
    "unique_values": lambda x, /: np.unique(x, equal_nan=False),
    "where": lambda condition, x1, x2, /: np.where(condition, x1, x2),
    # statistics and utilities
    "all": lambda x, /, *, axis=None, keepdims=False: np.all(x, axis, keepdims=keepdims),
    "any": lambda x, /, *, axis=None, keepdims=False: np.any(x, axis, keepdims=keepdims),
    "cumulative_prod": lambda x, /, *, axis=None, dtype=None, include_initial=False: (
        np.cumulative_prod(x, axis=axis, dtype=dtype, include_initial=include_initial)
    ),
    "cumulative_sum": lambda x, /, *, axis=None, dtype=None, include_initial=False: (
        np.cumulative_sum(x, axis=axis, dtype=dtype, include_initial=include_initial)
    ),
    "max": lambda x, /, *, axis=None, keepdims=False: np.max(x, axis, keepdims=keepdims),
    "mean": lambda x, /, *, axis=None, keepdims=False: np.mean(x, axis, keepdims=keepdims),
    "min": lambda x, /, *, axis=None, keepdims=False: np.min(x, axis, keepdims=keepdims),
    "prod": lambda x, /, *, axis=None, dtype=None, keepdims=False: np.prod(
        x, axis, dtype, keepdims=keepdims
    ),
    "std": lambda x, /, *, axis=None, correction=0.0, keepdims=False: np.std(
        x, axis, ddof=correction, keepdims=keepdims
    ),
    "sum": lambda x, /, *, axis=None, dtype=None, keepdims=False: np.sum(
        x, axis, dtype, keepdims=keepdims
    ),
    "var": lambda x, /, *, axis=None, correction=0.0, keepdims=False: np.var(
        x, axis, ddof=correction, keepdims=keepdims
    ),
    # linear algebra
    "matmul": lambda x1, x2, /: np.matmul(x1, x2),
    "matrix_transpose": lambda x, /: np.matrix_transpose(x),
    "tensordot": lambda x1, x2, /, *, axes=2: np.tensordot(x1, x2, axes),
    "vecdot": lambda x1, x2, /, *, axis=-1: xp.linalg.vecdot(x1, x2, axis=axis),
}
for _name, _function in FUNCTIONS.items():
    standard(_function, _name)


# Those that it has not, or differently


@standard
def arange(
    start: Any, /, stop: Any = None, step: Any = 1, *, dtype: Any = None, device: Any = None
) -> Any:
    """Evenly spaced numbers in ``start <= x < stop``; one argument is the stop."""
    first, last = (0, start) if stop is None else (start, stop)
    return xp.arange(first, last, step, dtype, device=device)


@standard
def asarray(obj: Any, /, *, dtype: Any = None, device: Any = None, copy: bool | None = None) -> Any:
    """An array of numbers, nested sequences, or another array.

    Raises:
        ValueError: A copy is not allowed and needed; only a ``pjit.Array`` needs none, as it is
            immutable.
    """
    if is_traced(obj):
        return _traced(obj, dtype, copy)
    return np.asarray(obj, dtype, device=device, copy=copy)


def _traced(obj: Any, dtype: Any, copy: bool | None) -> Any:
    from pjit.tracing.tracer import Tracer, as_tracer, trace_of

    result = as_tracer(trace_of(obj), obj, dtype)
    if isinstance(obj, Tracer) and result is obj:
        return obj.copy() if copy else obj
    if copy is False:
        raise ValueError("this array needs a copy")
    return result


@standard
def astype(x: Any, dtype: Any, /, *, copy: bool = True, device: Any = None) -> Any:
    """The array in another dtype; complex numbers only become complex ones."""
    if x.dtype.kind == "c" and np.dtype(dtype).kind != "c":
        raise TypeError(f"an array of {x.dtype} cannot become one of {np.dtype(dtype)}")
    check_device(device)
    return x.astype(dtype, copy=copy)


@standard
def from_dlpack(x: Any, /, *, device: Any = None, copy: bool | None = None) -> Any:
    """An array of the values of another library's array, which are copied.

    Raises:
        BufferError: A copy is not allowed.
    """
    if is_traced(x):
        from pjit.tracing.trace import refuse_function

        refuse_function("array_api.from_dlpack")
    if copy is False and not isinstance(x, Array):
        raise BufferError("a pjit.Array is immutable: it needs a copy of the values")
    return np.from_dlpack(x, device=device)


@standard
def sort(x: Any, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Any:
    """The elements in order along an axis."""
    result = np.sort(x, axis, stable=stable)
    return np.flip(result, axis) if descending else result


@standard
def argsort(x: Any, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Any:
    """The positions of the elements in order along an axis; equal ones keep their order."""
    if not descending:
        return np.argsort(x, axis, stable=stable)
    return x.shape[axis] - 1 - np.flip(np.argsort(np.flip(x, axis), axis, stable=stable), axis)


@standard
def diff(x: Any, /, *, axis: int = -1, n: int = 1, prepend: Any = None, append: Any = None) -> Any:
    """The n-th differences along an axis."""
    ends = {"prepend": prepend, "append": append}
    return np.diff(x, n, axis, **{k: v for k, v in ends.items() if v is not None})
