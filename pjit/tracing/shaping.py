"""NumPy's functions that move elements, on tracers: shapes, joins, splits, padding, selection."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple

from pjit.ir import ops
from pjit.ir.core import Value
from pjit.ir.types import i32, i64
from pjit.tracing.elementwise import as_bool
from pjit.tracing.indexing import reshaped, transposed
from pjit.tracing.trace import Trace, refuse, refuse_function
from pjit.tracing.tracer import (
    WEAK,
    Tracer,
    as_tracer,
    constant_like,
    implements,
    trace_of,
    value_of,
)

NOTHING = np._NoValue


# Shapes


@implements(np.reshape)
def reshape(a: Any, /, shape: Any, order: str = "C", *, copy: bool | None = None) -> Tracer:
    """np.reshape, in the orders C and F."""
    x = as_tracer(trace_of(a), a)
    if order not in ("C", "F"):
        refuse_function(f"np.reshape with order={order!r}")
    wanted = _full_shape(x, shape)
    if order == "F":
        return np.reshape(x.T, wanted[::-1], copy=copy).T
    return _reshape(x, wanted, copy)


def _full_shape(x: Tracer, shape: Any) -> tuple[int, ...]:
    dims = [operator.index(d) for d in (shape if isinstance(shape, list | tuple) else [shape])]
    known = int(np.prod([d for d in dims if d != -1], dtype=np.int64))
    if dims.count(-1) > 1:
        raise ValueError("can only specify one unknown dimension")
    if -1 in dims and known and x.size % known == 0:
        dims[dims.index(-1)] = x.size // known
    if any(d < 0 for d in dims) or np.prod(dims, dtype=np.int64) != x.size:
        raise ValueError(f"cannot reshape array of size {x.size} into shape {tuple(dims)}")
    return tuple(dims)


def _reshape(x: Tracer, shape: tuple[int, ...], copy: bool | None) -> Tracer:
    """A view where only dimensions of size 1 change; else NumPy may copy or not."""
    t, own = x.context, x.shape
    if copy:
        return Tracer(t, reshaped(t, x.value, shape))
    fresh = x.base is None and x.ndim <= 1
    if fresh or [d for d in own if d != 1] == [d for d in shape if d != 1]:
        return x.derive(lambda v: reshaped(t, v, shape), lambda v, new: reshaped(t, new, own))
    return x.alias(reshaped(t, x.value, shape))


@implements(np.ravel)
def ravel(a: Any, order: str = "C") -> Tracer:
    """np.ravel."""
    return np.reshape(a, -1, order="C" if order in ("K", "A") else order)  # type: ignore[call-overload]


@implements(np.transpose)
def transpose(a: Any, axes: Any = None) -> Tracer:
    """np.transpose."""
    x = as_tracer(trace_of(a), a)
    perm = list(reversed(range(x.ndim))) if axes is None else list(normalize_axis_tuple(axes, x.ndim))
    if len(perm) != x.ndim:
        raise ValueError("axes don't match array")
    back = list(np.argsort(perm))
    t = x.context
    inverse = [int(d) for d in back]
    return x.derive(lambda v: transposed(t, v, perm), lambda v, new: transposed(t, new, inverse))


@implements(np.matrix_transpose, np.linalg.matrix_transpose)
def matrix_transpose(x: Any, /) -> Tracer:
    """np.matrix_transpose."""
    if x.ndim < 2:
        raise ValueError(f"Input array must be at least 2-dimensional, but it is {x.ndim}")
    return np.swapaxes(x, -1, -2)


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
        raise ValueError("`source` and `destination` arguments must have the same number of elements")
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
    wanted = tuple(shape) if isinstance(shape, list | tuple) else (operator.index(shape),)
    if np.broadcast_shapes(x.shape, wanted) != wanted:
        raise ValueError(f"cannot broadcast an array of shape {x.shape} to {wanted}")
    t = x.context
    return x.derive(lambda v: broadcasted(t, v, wanted), None)


def broadcasted(t: Trace, x: Value, shape: tuple[int, ...]) -> Value:
    """The value broadcast to a shape; nothing is built when it has it."""
    return x if x.shape == tuple(shape) else t(ops.Broadcast, x, shape=shape)


@implements(np.broadcast_arrays, subok=(False,))
def broadcast_arrays(*arrays: Any) -> tuple:
    """np.broadcast_arrays."""
    t = trace_of(arrays)
    made = [as_tracer(t, a) for a in arrays]
    shape = np.broadcast_shapes(*(x.shape for x in made))
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
        made, axis = [np.ravel(x) for x in made], 0
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
    return [x[(*lead, slice(a, b))] for a, b in zip(cuts, cuts[1:], strict=False)]


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
    counts = [operator.index(r) for r in (reps if isinstance(reps, list | tuple | np.ndarray) else [reps])]
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
        x, axis = np.ravel(x), 0
    at = normalize_axis_index(axis, x.ndim)
    return np.take(x, np.repeat(np.arange(x.shape[at]), repeats), at)


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
        return roll(np.ravel(a), shift, 0).reshape(a.shape).copy()
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
        widths = np.broadcast_to(np.asarray(pad_width), (x.ndim, 2)).tolist()
    if any(n < 0 for w in widths for n in w):
        raise ValueError("index can't contain negative values")
    values: Any = options.pop("constant_values", 0)
    if options and options != {"reflect_type": "even"} or not isinstance(mode, str):
        refuse_function(f"np.pad with {', '.join(options) or 'a function'}")
    if mode in ("constant", "empty"):
        return _pad_constant(x, widths, values)
    if mode not in ("edge", "reflect", "symmetric", "wrap"):
        refuse_function(f"np.pad with mode={mode!r}")
    for d, (low, high) in enumerate(widths):
        if low or high:
            x = np.take(x, np.pad(np.arange(x.shape[d]), (low, high), mode), d)  # type: ignore[call-overload]
    return x.copy()


def _pad_constant(x: Tracer, widths: list, values: Any) -> Tracer:
    if np.ndim(values) == 0 and not isinstance(values, Tracer):
        number = np.asarray(values).astype(x.dtype).item()
        low, high = zip(*widths, strict=True) if widths else ((), ())
        return x.emit(ops.Pad, low=low, high=high, value=float(number), mode="constant")
    ends = np.broadcast_to(values, (x.ndim, 2))
    for d, sides in enumerate(widths):
        parts = [x]
        for side, n in enumerate(sides):
            if n:
                shape = [n if i == d else m for i, m in enumerate(x.shape)]
                part = np.broadcast_to(ends[d, side], shape).astype(x.dtype)
                parts.insert(0 if side == 0 else len(parts), part)
        x = concatenate(parts, d) if len(parts) > 1 else x
    return x.copy()


# Selection


@implements(np.where)
def where(condition: Any, x: Any = NOTHING, y: Any = NOTHING, /) -> Tracer:
    """np.where with three arguments."""
    if x is NOTHING or y is NOTHING:
        refuse_shape("np.where(condition)")
    t = trace_of(condition, x, y)
    element = np.result_type(*(_typed(t, v) for v in (x, y)))
    flags = as_bool(t, value_of(t, condition))
    return Tracer(t, t(ops.Where, flags, value_of(t, x, element), value_of(t, y, element)))


def _typed(t: Trace, x: Any) -> Any:
    return x if type(x) in WEAK else as_tracer(t, x).dtype


def refuse_shape(name: str) -> None:
    """Refuses a function whose result has a shape that depends on data."""
    refuse(
        f"{name} is not traced: the shape of its result depends on data",
        remedy="keep the shape with np.where(condition, a, b); sum over a selection with "
        "np.sum(x, where=mask)",
    )


def _depends_on_data(name: str) -> Any:
    return lambda *args, **kwargs: refuse_shape(name)


for _function in (np.nonzero, np.flatnonzero, np.argwhere, np.unique, np.compress, np.extract):
    implements(_function)(_depends_on_data(f"np.{_function.__name__}"))


@implements(np.select)
def select(condlist: Any, choicelist: Any, default: Any = 0) -> Tracer:
    """np.select."""
    if len(condlist) != len(choicelist):
        raise ValueError("list of cases must be same length as list of conditions")
    t = trace_of(list(condlist), list(choicelist), default)
    element = np.result_type(*(_typed(t, v) for v in (*choicelist, default)))
    result = as_tracer(t, default, element)
    for condition, choice in reversed(list(zip(condlist, choicelist, strict=True))):
        result = where(condition, as_tracer(t, choice, element), result)
    return result


@implements(np.take)
def take(a: Any, indices: Any, axis: Any = None, out: Any = None, mode: str = "raise") -> Tracer:
    """np.take; modes wrap and clip map the indices first."""
    t = trace_of(a, indices, out)
    x = as_tracer(t, a)
    if axis is None:
        x, axis = np.ravel(x), 0
    at = normalize_axis_index(axis, x.ndim)
    if mode == "wrap":
        indices = np.remainder(indices, x.shape[at])
    elif mode == "clip":
        indices = np.clip(indices, 0, x.shape[at] - 1)
    elif not isinstance(indices, Tracer) and np.size(indices):
        known = np.asarray(indices)
        if known.min() < -x.shape[at] or known.max() >= x.shape[at]:
            raise IndexError(f"index out of bounds for axis {at} with size {x.shape[at]}")
    i = _indices(t, indices)
    result = Tracer(t, t(ops.Gather, x.value, i, axis=at))
    if out is not None:
        out[...] = result
        return out
    return result


def _indices(t: Trace, indices: Any) -> Value:
    if isinstance(indices, list) and not indices:
        indices = np.zeros(0, np.int64)
    i = value_of(t, indices)
    if not i.dtype.is_int:
        raise TypeError(f"Cannot cast array data from {i.dtype.numpy!r} to dtype('int64')")
    return i if i.dtype in (i32, i64) else t(ops.Cast, i, dtype=i64)


@implements(np.take_along_axis)
def take_along_axis(arr: Any, indices: Any, axis: Any = -1) -> Tracer:
    """np.take_along_axis."""
    t = trace_of(arr, indices)
    x, i = as_tracer(t, arr), Tracer(t, _indices(t, indices))
    if axis is None:
        x, axis = np.ravel(x), 0
    at = normalize_axis_index(axis, x.ndim)
    if x.ndim != i.ndim:
        raise ValueError("`indices` and `arr` must have the same number of dimensions")
    beside = [d for d in range(x.ndim) if d != at]
    common = {d: np.broadcast_shapes((x.shape[d],), (i.shape[d],))[0] for d in beside}
    x = np.broadcast_to(x, tuple(common.get(d, n) for d, n in enumerate(x.shape)))
    i = np.broadcast_to(i, tuple(common.get(d, n) for d, n in enumerate(i.shape)))
    return x.emit(ops.GatherElements, i, axis=at)


@implements(np.diagonal)
def diagonal(a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tracer:
    """np.diagonal; a copy."""
    i, j = normalize_axis_index(axis1, a.ndim), normalize_axis_index(axis2, a.ndim)
    if i == j:
        raise ValueError("axis1 and axis2 cannot be the same")
    x = moveaxis(a, (i, j), (-2, -1))
    rows, cols = x.shape[-2:]
    n = max(min(rows + min(offset, 0), cols - max(offset, 0)), 0)
    at = np.arange(n)
    return x[..., at + max(-offset, 0), at + max(offset, 0)]


@implements(np.diag)
def diag(v: Any, k: int = 0) -> Tracer:
    """np.diag."""
    if v.ndim == 2:
        return diagonal(v, k)
    if v.ndim != 1:
        raise ValueError("Input must be 1- or 2-d.")
    n = v.shape[0] + abs(k)
    padded = np.pad(v, (max(k, 0), max(-k, 0)))  # by column for k >= 0
    return np.where(np.eye(n, k=k, dtype=bool), padded if k >= 0 else padded[None, :], v.dtype.type(0))


@implements(np.trace)
def trace(
    a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1, dtype: Any = None, out: Any = None
) -> Tracer:
    """np.trace."""
    return np.sum(diagonal(a, offset, axis1, axis2), -1, dtype, out)


def _triangle(m: Any, k: int, lower: bool) -> Tracer:
    x = as_tracer(trace_of(m), m)
    mask = np.tri(*x.shape[-2:], k=k if lower else k - 1, dtype=bool)
    return np.where(mask if lower else ~mask, x, x.dtype.type(0))


@implements(np.tril)
def tril(m: Any, k: int = 0) -> Tracer:
    """np.tril."""
    return _triangle(m, k, True)


@implements(np.triu)
def triu(m: Any, k: int = 0) -> Tracer:
    """np.triu."""
    return _triangle(m, k, False)


@implements(np.meshgrid, copy=(True, False))
def meshgrid(*xi: Any, sparse: bool = False, indexing: str = "xy") -> tuple:
    """np.meshgrid."""
    t = trace_of(xi)
    n = len(xi)
    made = []
    for d, x in enumerate(xi):
        at = 1 - d if indexing == "xy" and n > 1 and d < 2 else d
        made.append(np.ravel(as_tracer(t, x)).reshape([-1 if i == at else 1 for i in range(n)]))
    return tuple(made) if sparse else tuple(x.copy() for x in broadcast_arrays(*made))


@implements(np.delete)
def delete(arr: Any, obj: Any, axis: Any = None) -> Tracer:
    """np.delete of places that are known."""
    if axis is None:
        arr, axis = np.ravel(arr), 0
    at = normalize_axis_index(axis, arr.ndim)
    return np.take(arr, np.delete(np.arange(arr.shape[at]), obj), at)


# Copies and arrays like another one


@implements(np.copy, subok=(False,))
def copy(a: Any, order: str = "K") -> Tracer:
    """np.copy."""
    return a.copy()


@implements(np.copyto)
def copyto(dst: Any, src: Any, casting: str = "same_kind", where: Any = True) -> None:
    """np.copyto into a traced array."""
    if not isinstance(dst, Tracer):
        refuse(
            "a NumPy array cannot hold traced values",
            remedy="np.full_like(x, value), np.broadcast_to(value, shape) or np.stack make a traced array",
        )
    source = np.result_type(src if type(src) in WEAK else as_tracer(dst.context, src).dtype)
    if type(src) not in WEAK and not np.can_cast(source, dst.dtype, casting):  # type: ignore[arg-type]
        raise TypeError(f"Cannot cast array data from {source!r} to {dst.dtype!r}")
    if where is True:
        dst[...] = src
    else:
        dst[...] = np.where(where, as_tracer(dst.context, src, dst.dtype), dst)


def _like(a: Any, number: Any, dtype: Any, shape: Any) -> Tracer:
    t = trace_of(a, number)
    dims = np.shape(a) if shape is None else tuple(np.atleast_1d(shape).tolist())
    element = np.dtype(dtype) if dtype is not None else as_tracer(t, a).dtype
    return constant_like(t, number, dims, element)


@implements(np.zeros_like, np.empty_like, order=("K", "C", "A"), subok=(True, False), device=("cpu", None))
def zeros_like(a: Any, dtype: Any = None, shape: Any = None) -> Tracer:
    """np.zeros_like, np.empty_like."""
    return _like(a, 0, dtype, shape)


@implements(np.ones_like, order=("K", "C", "A"), subok=(True, False), device=("cpu", None))
def ones_like(a: Any, dtype: Any = None, shape: Any = None) -> Tracer:
    """np.ones_like."""
    return _like(a, 1, dtype, shape)


@implements(np.full_like, order=("K", "C", "A"), subok=(True, False), device=("cpu", None))
def full_like(a: Any, fill_value: Any, dtype: Any = None, shape: Any = None) -> Tracer:
    """np.full_like; the number may be traced."""
    return _like(a, fill_value, dtype, shape)
