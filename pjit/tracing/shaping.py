"""NumPy's functions that move elements, on tracers: shapes, joins, splits, padding, selection."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple

from pjit.ir import ops
from pjit.ir.core import Value
from pjit.ir.expr import Dim
from pjit.tracing.indexing import reshaped, transposed
from pjit.tracing.sizes import broadcast, dims, index, product
from pjit.tracing.trace import Trace, refuse_function
from pjit.tracing.tracer import (
    Tracer,
    as_tracer,
    implements,
    trace_of,
    value_of,
    xp,
)

NOTHING = np._NoValue


@dataclass(frozen=True)
class Reshaped:
    """A view with another shape, of an array of shape ``source``."""

    shape: tuple[Dim, ...]
    source: tuple[Dim, ...]
    writable = True

    def read(self, t: Trace, base: Value) -> Value:
        """The base in the shape of the view."""
        return reshaped(t, base, self.shape)

    def write(self, t: Trace, base: Value, new: Value) -> Value:
        """The view in the shape of the base."""
        return reshaped(t, new, self.source)


@dataclass(frozen=True)
class Permuted:
    """A view with permuted dimensions."""

    perm: tuple[int, ...]
    writable = True

    def read(self, t: Trace, base: Value) -> Value:
        """The base, transposed."""
        return transposed(t, base, list(self.perm))

    def write(self, t: Trace, base: Value, new: Value) -> Value:
        """The view, transposed back."""
        return transposed(t, new, [self.perm.index(d) for d in range(len(self.perm))])


@dataclass(frozen=True)
class Spread:
    """A view that repeats elements, which nobody may write."""

    shape: tuple[Dim, ...]
    writable = False

    def read(self, t: Trace, base: Value) -> Value:
        """The base, broadcast."""
        return broadcasted(t, base, self.shape)

    def write(self, t: Trace, base: Value, new: Value) -> Value:
        """Not called."""
        raise NotImplementedError


# Shapes


@implements(np.reshape)
def reshape(a: Any, /, shape: Any, order: str = "C", *, copy: bool | None = None) -> Tracer:
    """np.reshape, in the orders C and F."""
    x = as_tracer(trace_of(a), a)
    if order not in ("C", "F"):
        refuse_function(f"np.reshape with order={order!r}")
    wanted = _full_shape(x, shape)
    if order == "F":
        return xp.reshape(x.T, wanted[::-1], copy=copy).T
    return _reshape(x, wanted, copy)


def _full_shape(x: Tracer, shape: Any) -> tuple[int, ...]:
    dims = [index(d) for d in (shape if isinstance(shape, list | tuple) else [shape])]
    known = product(d for d in dims if d != -1)
    if dims.count(-1) > 1:
        raise ValueError("can only specify one unknown dimension")
    if -1 in dims and known and x.size % known == 0:
        dims[dims.index(-1)] = x.size // known
    if any(d < 0 for d in dims) or product(dims) != x.size:
        raise ValueError(f"cannot reshape array of size {x.size} into shape {tuple(dims)}")
    return tuple(dims)


def _reshape(x: Tracer, shape: tuple[int, ...], copy: bool | None) -> Tracer:
    """A view where only dimensions of size 1 change; else NumPy may copy or not."""
    t, own = x.context, x.shape
    if copy:
        return Tracer(t, reshaped(t, x.value, shape))
    fresh = x.base is None and x.ndim <= 1
    if fresh or [d for d in own if d != 1] == [d for d in shape if d != 1]:
        return x.derive(Reshaped(dims(shape), dims(own)))
    return x.alias(reshaped(t, x.value, shape))


@implements(np.ravel)
def ravel(a: Any, order: str = "C") -> Tracer:
    """np.ravel."""
    return xp.reshape(a, -1, order="C" if order in ("K", "A") else order)  # type: ignore[call-overload]


@implements(np.transpose)
def transpose(a: Any, axes: Any = None) -> Tracer:
    """np.transpose."""
    x = as_tracer(trace_of(a), a)
    perm = (
        list(reversed(range(x.ndim))) if axes is None else list(normalize_axis_tuple(axes, x.ndim))
    )
    if len(perm) != x.ndim:
        raise ValueError("axes don't match array")
    return x.derive(Permuted(tuple(perm)))


@implements(np.matrix_transpose, np.linalg.matrix_transpose)
def matrix_transpose(x: Any, /) -> Tracer:
    """np.matrix_transpose."""
    if x.ndim < 2:
        raise ValueError(f"Input array must be at least 2-dimensional, but it is {x.ndim}")
    return xp.swapaxes(x, -1, -2)


@implements(np.swapaxes)
def swapaxes(a: Any, axis1: int, axis2: int) -> Tracer:
    """np.swapaxes."""
    perm = list(range(a.ndim))
    i, j = normalize_axis_index(axis1, a.ndim), normalize_axis_index(axis2, a.ndim)
    perm[i], perm[j] = j, i
    return transpose(a, perm)


@implements(np.moveaxis)
def moveaxis(a: Any, source: Any, destination: Any) -> Tracer:
    """np.moveaxis."""
    source = normalize_axis_tuple(source, a.ndim, "source")
    destination = normalize_axis_tuple(destination, a.ndim, "destination")
    if len(source) != len(destination):
        raise ValueError(
            "`source` and `destination` arguments must have the same number of elements"
        )
    perm = [d for d in range(a.ndim) if d not in source]
    for to, d in sorted(zip(destination, source, strict=True)):
        perm.insert(to, d)
    return transpose(a, perm)


@implements(np.rollaxis)
def rollaxis(a: Any, axis: int, start: int = 0) -> Tracer:
    """np.rollaxis."""
    axis = normalize_axis_index(axis, a.ndim)
    start = normalize_axis_index(start, a.ndim + 1)
    return moveaxis(a, axis, start - (axis < start))


@implements(np.expand_dims)
def expand_dims(a: Any, axis: Any) -> Tracer:
    """np.expand_dims."""
    count = len(axis) if isinstance(axis, tuple | list) else 1
    axes = normalize_axis_tuple(axis, a.ndim + count)
    return a[tuple(None if d in axes else slice(None) for d in range(a.ndim + count))]


@implements(np.squeeze)
def squeeze(a: Any, axis: Any = None) -> Tracer:
    """np.squeeze."""
    axes = tuple(d for d, n in enumerate(a.shape) if n == 1)
    if axis is not None:
        axes = normalize_axis_tuple(axis, a.ndim)
        if any(a.shape[d] != 1 for d in axes):
            raise ValueError("cannot select an axis to squeeze out which has size not equal to one")
    return a[(*(0 if d in axes else slice(None) for d in range(a.ndim)), ...)]


def _at_least(x: Any, rank: int) -> Any:
    if not isinstance(x, Tracer):
        return [np.atleast_1d, np.atleast_2d, np.atleast_3d][rank - 1](x)
    if x.ndim >= rank:
        return x
    if rank == 3 and x.ndim == 2:
        return x[:, :, None]
    if rank == 3 and x.ndim == 1:
        return x[None, :, None]
    return x[(*(None,) * (rank - x.ndim), ...)]


def _atleast(rank: int) -> Any:
    def handler(*arrays: Any) -> Any:
        made = tuple(_at_least(x, rank) for x in arrays)
        return made[0] if len(made) == 1 else made

    return handler


implements(np.atleast_1d)(_atleast(1))
implements(np.atleast_2d)(_atleast(2))
implements(np.atleast_3d)(_atleast(3))


@implements(np.broadcast_to, subok=(False,))
def broadcast_to(array: Any, shape: Any) -> Tracer:
    """np.broadcast_to; a read-only view."""
    x = as_tracer(trace_of(array), array)
    wanted = tuple(shape) if isinstance(shape, list | tuple) else (index(shape),)
    if broadcast(x.shape, wanted) != wanted:
        raise ValueError(f"cannot broadcast an array of shape {x.shape} to {wanted}")
    return x.derive(Spread(dims(wanted)))


def broadcasted(t: Trace, x: Value, shape: tuple[Dim, ...]) -> Value:
    """The value broadcast to a shape; nothing is built when it has it."""
    return x if x.shape == tuple(shape) else t(ops.Broadcast, x, shape=shape)


@implements(np.broadcast_arrays, subok=(False,))
def broadcast_arrays(*arrays: Any) -> tuple:
    """np.broadcast_arrays."""
    t = trace_of(arrays)
    made = [as_tracer(t, a) for a in arrays]
    shape = broadcast(*(x.shape for x in made))
    return tuple(broadcast_to(x, shape) for x in made)


# Joins and splits


def _joined_dtype(arrays: Sequence[Any], dtype: Any, casting: Any = "same_kind") -> np.dtype:
    common = np.result_type(*(x.dtype for x in arrays))
    if dtype is not None and not np.can_cast(common, dtype, casting):
        raise TypeError(f"Cannot cast array data from {common!r} to {np.dtype(dtype)!r}")
    return common if dtype is None else np.dtype(dtype)


@implements(np.concatenate)
def concatenate(
    arrays: Any, /, axis: Any = 0, out: Any = None, *, dtype: Any = None, casting: Any = "same_kind"
) -> Tracer:
    """np.concatenate."""
    t = trace_of(list(arrays), out)
    made = [as_tracer(t, a) for a in arrays]
    if axis is None:
        made, axis = [xp.ravel(x) for x in made], 0
    element = _joined_dtype(made, dtype, casting)
    if any(x.ndim == 0 for x in made):
        raise ValueError("zero-dimensional arrays cannot be concatenated")
    at = normalize_axis_index(axis, made[0].ndim)
    result = Tracer(t, t(ops.Concat, *(value_of(t, x, element) for x in made), axis=at))
    if out is not None:
        out[...] = result
        return out
    return result


@implements(np.stack)
def stack(
    arrays: Any, axis: int = 0, out: Any = None, *, dtype: Any = None, casting: Any = "same_kind"
) -> Tracer:
    """np.stack."""
    arrays = list(arrays)
    t = trace_of(arrays, out)
    made = [as_tracer(t, a) for a in arrays]
    if len({x.shape for x in made}) != 1:
        raise ValueError("all input arrays must have the same shape")
    at = normalize_axis_index(axis, made[0].ndim + 1)
    return concatenate([expand_dims(x, at) for x in made], at, out, dtype=dtype, casting=casting)


@implements(np.hstack)
def hstack(tup: Any, *, dtype: Any = None, casting: Any = "same_kind") -> Tracer:
    """np.hstack."""
    made = [_at_least(x, 1) for x in tup]
    return concatenate(made, 0 if made[0].ndim == 1 else 1, dtype=dtype, casting=casting)


@implements(np.vstack)
def vstack(tup: Any, *, dtype: Any = None, casting: Any = "same_kind") -> Tracer:
    """np.vstack."""
    return concatenate([_at_least(x, 2) for x in tup], 0, dtype=dtype, casting=casting)


@implements(np.dstack)
def dstack(tup: Any) -> Tracer:
    """np.dstack."""
    return concatenate([_at_least(x, 3) for x in tup], 2)


@implements(np.column_stack)
def column_stack(tup: Any) -> Tracer:
    """np.column_stack."""
    t = trace_of(list(tup))
    made = [as_tracer(t, x) for x in tup]
    return concatenate([x if x.ndim > 1 else x.reshape(-1, 1) for x in made], 1)


@implements(np.append)
def append(arr: Any, values: Any, axis: Any = None) -> Tracer:
    """np.append."""
    return concatenate((arr, values), axis)


def _pieces(x: Any, sections: Any, axis: int, equal: bool) -> list:
    axis = normalize_axis_index(axis, x.ndim)
    extent = x.shape[axis]
    if isinstance(sections, list | tuple | np.ndarray):
        cuts = [0, *(operator.index(i) for i in sections), extent]
    else:
        n = operator.index(sections)
        if n <= 0:
            raise ValueError("number sections must be larger than 0.")
        if equal and extent % n:
            raise ValueError("array split does not result in an equal division")
        each, extra = divmod(extent, n)
        cuts = [i * each + min(i, extra) for i in range(n + 1)]
    lead = (slice(None),) * axis
    return [x[(*lead, slice(a, b))] for a, b in pairwise(cuts)]


@implements(np.split)
def split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list:
    """np.split."""
    return _pieces(ary, indices_or_sections, axis, True)


@implements(np.array_split)
def array_split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list:
    """np.array_split."""
    return _pieces(ary, indices_or_sections, axis, False)


@implements(np.hsplit)
def hsplit(ary: Any, indices_or_sections: Any) -> list:
    """np.hsplit."""
    return _pieces(ary, indices_or_sections, int(ary.ndim > 1), True)


@implements(np.vsplit)
def vsplit(ary: Any, indices_or_sections: Any) -> list:
    """np.vsplit."""
    return _pieces(ary, indices_or_sections, 0, True)


if hasattr(np, "unstack"):

    @implements(np.unstack)
    def unstack(x: Any, /, *, axis: int = 0) -> tuple:
        """np.unstack."""
        return tuple(moveaxis(x, axis, 0))


# Repeats, flips, rolls, padding


@implements(np.tile)
def tile(A: Any, reps: Any) -> Tracer:
    """np.tile."""
    counts = [
        operator.index(r) for r in (reps if isinstance(reps, list | tuple | np.ndarray) else [reps])
    ]
    rank = max(len(counts), A.ndim)
    counts = [1] * (rank - len(counts)) + counts
    shape = (1,) * (rank - A.ndim) + A.shape
    t = A.context
    inner = [n for d in shape for n in (1, d)]
    outer = [n for c, d in zip(counts, shape, strict=True) for n in (c, d)]
    value = broadcasted(t, reshaped(t, A.value, tuple(inner)), tuple(outer))
    return Tracer(t, reshaped(t, value, tuple(c * d for c, d in zip(counts, shape, strict=True))))


@implements(np.repeat)
def repeat(a: Any, repeats: Any, axis: Any = None) -> Tracer:
    """np.repeat by counts that are known."""
    x = as_tracer(trace_of(a), a)
    if axis is None:
        x, axis = xp.ravel(x), 0
    at = normalize_axis_index(axis, x.ndim)
    return xp.take(x, xp.repeat(np.arange(x.shape[at]), repeats), at)


@implements(np.flip)
def flip(m: Any, axis: Any = None) -> Tracer:
    """np.flip."""
    axes = range(m.ndim) if axis is None else normalize_axis_tuple(axis, m.ndim)
    return m[(*(slice(None, None, -1 if d in axes else 1) for d in range(m.ndim)), ...)]


@implements(np.fliplr)
def fliplr(m: Any) -> Tracer:
    """np.fliplr."""
    return flip(m, 1)


@implements(np.flipud)
def flipud(m: Any) -> Tracer:
    """np.flipud."""
    return flip(m, 0)


@implements(np.rot90)
def rot90(m: Any, k: int = 1, axes: Any = (0, 1)) -> Tracer:
    """np.rot90."""
    a, b = normalize_axis_tuple(axes, m.ndim)
    turned = [m, lambda: flip(swapaxes(m, a, b), a), lambda: flip(m, (a, b))]
    turned.append(lambda: swapaxes(flip(m, a), a, b))
    return m[...] if k % 4 == 0 else turned[k % 4]()


@implements(np.roll)
def roll(a: Any, shift: Any, axis: Any = None) -> Tracer:
    """np.roll."""
    if axis is None:
        return roll(xp.ravel(a), shift, 0).reshape(a.shape).copy()
    axes = axis if isinstance(axis, tuple | list) else (axis,)
    shifts = shift if isinstance(shift, tuple | list) else (shift,) * len(axes)
    x = a
    for n, d in zip(shifts, axes, strict=len(axes) > 1):
        d = normalize_axis_index(d, x.ndim)
        n = operator.index(n) % max(x.shape[d], 1)
        if n:
            lead = (slice(None),) * d
            x = concatenate([x[(*lead, slice(-n, None))], x[(*lead, slice(None, -n))]], d)
    return x.copy()


@implements(np.pad)
def pad(array: Any, pad_width: Any, mode: str = "constant", **options: Any) -> Tracer:
    """np.pad in the modes constant, edge, reflect, symmetric, wrap and empty."""
    x = as_tracer(trace_of(array), array)
    if isinstance(pad_width, dict):
        widths = [(0, 0)] * x.ndim
        for d, w in pad_width.items():
            widths[d] = (w, w) if not isinstance(w, tuple) else w
    else:
        widths = xp.broadcast_to(np.asarray(pad_width), (x.ndim, 2)).tolist()
    if any(n < 0 for w in widths for n in w):
        raise ValueError("index can't contain negative values")
    values: Any = options.pop("constant_values", 0)
    if (options and options != {"reflect_type": "even"}) or not isinstance(mode, str):
        refuse_function(f"np.pad with {', '.join(options) or 'a function'}")
    if mode in ("constant", "empty"):
        return _pad_constant(x, widths, values)
    if mode not in ("edge", "reflect", "symmetric", "wrap"):
        refuse_function(f"np.pad with mode={mode!r}")
    for d, (low, high) in enumerate(widths):
        if low or high:
            x = xp.take(x, xp.pad(np.arange(x.shape[d]), (low, high), mode), d)  # type: ignore[call-overload]
    return x.copy()


def _pad_constant(x: Tracer, widths: list, values: Any) -> Tracer:
    if xp.ndim(values) == 0 and not isinstance(values, Tracer):
        number = np.asarray(values).astype(x.dtype).item()
        low, high = zip(*widths, strict=True) if widths else ((), ())
        return x.emit(ops.Pad, low=low, high=high, value=float(number), mode="constant")
    ends = xp.broadcast_to(values, (x.ndim, 2))
    for d, sides in enumerate(widths):
        parts = [x]
        for side, n in enumerate(sides):
            if n:
                shape = [n if i == d else m for i, m in enumerate(x.shape)]
                part = xp.broadcast_to(ends[d, side], shape).astype(x.dtype)
                parts.insert(0 if side == 0 else len(parts), part)
        x = concatenate(parts, d) if len(parts) > 1 else x
    return x.copy()
