"""``x[index]``, ``x[index] = new`` and ``ufunc.at`` on tracers."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pjit.ir import ops
from pjit.ir.core import Value
from pjit.ir.expr import Dim
from pjit.ir.types import i32, i64
from pjit.tracing.elementwise import cast
from pjit.tracing.policy import Restart
from pjit.tracing.scalar import Scalar
from pjit.tracing.sizes import Undecided, broadcast, dim_of, dims, span
from pjit.tracing.trace import Trace, refuse
from pjit.tracing.tracer import Tracer, as_tracer, tracers, value_of

Entry = Any  # None, a slice, an int, or an index array (ndarray or Tracer)


@dataclass(frozen=True)
class Basic:
    """An index of slices, integers and new axes: a strided part of the array in a new shape.

    Attributes:
        source: The shape of the array.
        starts: The first index, per dimension of the array.
        sizes: How many indices.
        steps: The distance of two indices.
        shape: The shape of the part: ``sizes`` without the dimensions of integers, with new axes.
    """

    source: tuple[Dim, ...]
    starts: tuple[Dim, ...]
    sizes: tuple[Dim, ...]
    steps: tuple[int, ...]
    shape: tuple[Dim, ...]
    writable = True

    def whole(self, d: int) -> bool:
        """Whether dimension d is taken as it is."""
        return (self.starts[d], self.sizes[d], self.steps[d]) == (0, self.source[d], 1)

    def is_all(self) -> bool:
        """Whether the part is the array itself."""
        return self.shape == self.source and all(map(self.whole, range(len(self.source))))

    def read(self, t: Trace, x: Value) -> Value:
        """The part."""
        if not all(map(self.whole, range(len(self.source)))):
            x = t(ops.Slice, x, starts=self.starts, sizes=self.sizes, steps=self.steps)
        return reshaped(t, x, self.shape)

    def write(self, t: Trace, x: Value, new: Value) -> Value:
        """The array with another part: spread to the whole shape, and selected by a mask."""
        if 0 in self.sizes:
            return x
        new = reshaped(t, new, self.sizes)
        masks = []
        for d, extent in enumerate(self.source):
            if self.whole(d):
                continue
            start, size = self.starts[d], self.sizes[d]
            if not (isinstance(extent, int) and isinstance(start, int) and isinstance(size, int)):
                raise Undecided
            at = start + self.steps[d] * np.arange(size)
            if self.steps[d] == 1:
                low, high = [0] * len(self.source), [0] * len(self.source)
                low[d], high[d] = start, extent - start - size
                new = t(ops.Pad, new, low=low, high=high)
            else:
                origin = np.zeros(extent, np.int64)
                origin[at] = np.arange(size)
                new = t(ops.Gather, new, t.constant(origin), axis=d)
            if size < extent:
                mask = np.zeros(extent, bool)
                mask[at] = True
                masks.append(t.constant(mask.reshape(-1, *(1,) * (len(self.source) - d - 1))))
        if not masks:
            return new
        both = masks[0]
        for m in masks[1:]:
            both = t(ops.And, both, m)
        return t(ops.Where, both, new, x)


class Picked:
    """A view of what is at an index that is traced, along one dimension.

    Two of them are equal for the same dimension: the index is one of ``parts``.
    """

    writable = True

    def __init__(self, axis: int, index: Scalar) -> None:
        self.axis, self.parts = axis, (index,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Picked) and self.axis == other.axis

    def __hash__(self) -> int:
        return hash(self.axis)

    def read(self, t: Trace, base: Value) -> Value:
        """What is at the index."""
        return t(ops.Gather, base, self.parts[0].value, axis=self.axis)

    def write(self, t: Trace, base: Value, new: Value) -> Value:
        """The base with another part there."""
        rank, extent = base.tensor.rank, base.shape[self.axis]
        places = t(ops.Iota, size=extent, dtype=i64)
        here = t(ops.Eq, places, self.parts[0].value)
        here = t(ops.Reshape, here, shape=(extent, *(1,) * (rank - self.axis - 1)))
        shape = (*base.shape[: self.axis], 1, *base.shape[self.axis + 1 :])
        return t(ops.Where, here, t(ops.Reshape, new, shape=shape), base)


def _placed(x: Tracer, index: Scalar, d: int) -> Scalar:
    """An index within the dimension: asks, unless it is known to be there; negative ones count
    from the end.
    """
    extent = x.shape[d]
    t = x.context
    low, high = index.low, index.high
    below = dim_of(extent) in index.below
    fits = low is not None and low >= 0 and (below or (high is not None and _less(high, extent)))
    if not fits:
        if index.loop is not None and low is not None and low >= 0:
            size = dim_of(extent)
            assert size is not None
            if t.policy.limit(index.loop, size):
                raise t.stop(Restart())
        outside = (
            (index < -extent) | (index >= extent) if low is None or low < 0 else index >= extent
        )
        if t.ask(outside, f"index {d}"):
            raise IndexError(f"index is out of bounds for axis {d} with size {extent}")
    if low is not None and low >= 0:
        return index
    wrapped = t(ops.Where, (index < 0).value, (index + extent).value, index.value)
    return Scalar(t, wrapped, int, index.origins)


def _less(high: int, extent: Any) -> bool:
    return isinstance(extent, int) and high < extent


def _picked(x: Tracer, entries: list[Entry]) -> tuple[Tracer, list[Entry]]:
    """Takes what is at the traced integers of an index; the rest of the index is left."""
    d, rest = 0, []
    for e in entries:
        if isinstance(e, Scalar):
            x = x.derive(Picked(d, e))
            continue
        rest.append(e)
        d += e is not None
    return x, rest


def reshaped(t: Trace, x: Value, shape: tuple[Dim, ...]) -> Value:
    """The value in a shape; nothing is built when it has it."""
    return x if x.shape == tuple(shape) else t(ops.Reshape, x, shape=shape)


def getitem(x: Tracer, index: Any) -> Tracer:
    """``x[index]``; a view for basic indices.

    Raises:
        TraceError: The shape of the result depends on data.
        IndexError: As in NumPy.
    """
    entries = parse(x, index)
    t = x.context
    if not any(_is_array(e) for e in entries):
        x, entries = _picked(x, entries)
        part = basic(x.shape, entries)
        integers_only = _all_integers(index)
        if not part.shape and integers_only:
            return Tracer(t, part.read(t, x.value))
        picked = isinstance(x.window, Picked) and part.is_all()
        return x if picked else x.derive(part)
    return _gather(x, entries)


def _all_integers(index: Any) -> bool:
    return all(
        isinstance(e, int | np.integer | Scalar)
        for e in (index if isinstance(index, tuple) else (index,))
    )


def setitem(x: Tracer, index: Any, new: Any) -> None:
    """``x[index] = new``.

    Raises:
        TraceError: x is an argument or may share memory with another array, or which elements are
            written depends on data in a way that is not elementwise.
        IndexError: As in NumPy.
        ValueError: ``new`` does not broadcast.
    """
    t = x.context
    mask = index[0] if isinstance(index, tuple) and len(index) == 1 else index
    if _is_mask(mask) and _assign_where(x, mask, new):
        return
    entries = parse(x, index)
    if any(_is_array(e) for e in entries):
        update(x, index, new, "none")
        return
    x, entries = _picked(x, entries)
    part = basic(x.shape, entries)
    value = _fitted(t, value_of(t, new, x.dtype), part.shape)
    x.assign(part.write(t, x.value, value))


def update(x: Tracer, index: Any, new: Any, reduction: str) -> None:
    """Writes or reduces into the elements at an index with arrays, in place.

    The index selects from the positions of the elements, and a scatter writes to the positions.
    """
    t = x.context
    positions = Tracer(t, reshaped(t, t(ops.Iota, size=x.size, dtype=i64), x.shape))
    at = getitem(positions, index)
    value = reshaped(t, _fitted(t, value_of(t, new, x.dtype), at.shape), (at.size,))
    flat = reshaped(t, x.value, (x.size,))
    where = reshaped(t, at.value, (at.size, 1))
    flat = t(ops.ScatterNd, flat, where, value, reduction=reduction)
    x.assign(reshaped(t, flat, x.shape))


def _fitted(t: Trace, value: Value, shape: tuple[Dim, ...]) -> Value:
    """Broadcasts a value that is assigned; superfluous leading dimensions of size 1 are dropped."""
    own = list(value.shape)
    while len(own) > len(shape) and own[0] == 1:
        del own[0]
    try:
        fits = broadcast(tuple(own), shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"could not broadcast input array from shape {value.shape} into shape {shape}"
        )
    value = reshaped(t, value, tuple(own))
    return value if value.shape == shape else t(ops.Broadcast, value, shape=shape)


def _assign_where(x: Tracer, mask: Any, new: Any) -> bool:
    """``x[mask] = new`` as a selection, if ``new`` is the same for every selected place."""
    t = x.context
    flags = value_of(t, mask)
    rank = len(flags.shape)
    if flags.shape != x.shape[:rank]:
        raise IndexError(
            f"boolean index of shape {flags.shape} did not match the indexed array of shape "
            f"{x.shape}"
        )
    value = value_of(t, new, x.dtype)
    rest = x.shape[rank:]
    own = list(value.shape)
    while len(own) > len(rest) and own[0] == 1:
        del own[0]
    if len(own) > len(rest):
        return False
    value = _fitted(t, value, rest)
    flags = reshaped(t, flags, (*flags.shape, *(1,) * len(rest)))
    x.assign(t(ops.Where, flags, value, x.value))
    return True


# Parsing


def _is_array(e: Entry) -> bool:
    return isinstance(e, np.ndarray | Tracer) and not isinstance(e, Scalar)


def _is_mask(e: Any) -> bool:
    return _is_array(e) and e.dtype == bool and e.ndim > 0


def parse(x: Tracer, index: Any) -> list[Entry]:
    """The index: an entry per dimension of x, beside None; masks that are known become positions.

    Raises:
        IndexError: As in NumPy.
        TraceError: A mask is traced.
    """
    entries: list[Entry] = []
    for e in index if isinstance(index, tuple) else (index,):
        entries += _entry(x.context, e)
    if sum(e is Ellipsis for e in entries) > 1:
        raise IndexError("an index can only have a single ellipsis ('...')")
    used = sum(e is not None and e is not Ellipsis for e in entries)
    if used > x.ndim:
        raise IndexError(
            f"too many indices for array: array is {x.ndim}-dimensional, but {used} were indexed"
        )
    if not any(e is Ellipsis for e in entries):
        entries.append(Ellipsis)
    at = next(i for i, e in enumerate(entries) if e is Ellipsis)
    entries[at : at + 1] = [slice(None)] * (x.ndim - used)
    d = 0
    for i, e in enumerate(entries):
        if e is None:
            continue
        if isinstance(e, Scalar):
            entries[i] = _placed(x, e, d)
        elif isinstance(e, int):
            entries[i] = _checked(e, d, x.shape)
        elif isinstance(e, np.ndarray) and e.size:
            _checked(int(e.min()), d, x.shape)
            _checked(int(e.max()), d, x.shape)
        d += 1
    return entries


def _checked(i: int, d: int, shape: tuple[int, ...]) -> int:
    if not -shape[d] <= i < shape[d]:
        raise IndexError(f"index {i} is out of bounds for axis {d} with size {shape[d]}")
    return i % shape[d]


def _entry(t: Trace, e: Any) -> list[Entry]:
    if e is None or e is Ellipsis or isinstance(e, slice):
        return [e]
    if isinstance(e, Scalar) and e.weak is int:
        return [e]
    if isinstance(e, int | np.integer) and not isinstance(e, bool | np.bool_):
        return [operator.index(e)]
    if not isinstance(e, Tracer):
        array = as_tracer(t, e) if any(True for _ in tracers(e)) else np.asarray(e)
        if isinstance(array, np.ndarray) and not array.size and not isinstance(e, np.ndarray):
            array = array.astype(np.int64)
        e = array
    if e.dtype == bool:
        if isinstance(e, Tracer) or not e.ndim:
            refuse(
                "an index with a traced mask gives a shape that depends on data",
                got=f"a mask of shape {e.shape}",
                remedy="keep the shape with np.where(mask, x, other); sum over a selection with "
                "np.sum(x, where=mask)",
            )
        return list(np.nonzero(e))
    if e.dtype.kind not in "iu":
        raise IndexError("arrays used as indices must be of integer (or boolean) type")
    if isinstance(e, np.ndarray) and not e.ndim:
        return [int(e)]
    return [e]


def basic(shape: tuple[int, ...], entries: list[Entry]) -> Basic:
    """The part that slices, integers and new axes select."""
    starts, sizes, steps, out = [], [], [], []
    d = 0
    for e in entries:
        if e is None:
            out.append(1)
            continue
        if isinstance(e, slice):
            start, size, step = span(e, shape[d])
            starts.append(start)
            sizes.append(size)
            steps.append(step)
            out.append(size)
        else:
            starts.append(e)
            sizes.append(1)
            steps.append(1)
        d += 1
    return Basic(dims(shape), dims(starts), dims(sizes), tuple(steps), dims(out))


# Index arrays


def _gather(x: Tracer, entries: list[Entry]) -> Tracer:
    """An index with arrays: slices, then a gather along the dimensions of arrays and integers."""
    t = x.context
    advanced = [i for i, e in enumerate(entries) if _is_array(e) or isinstance(e, int | Scalar)]
    kept = [slice(None) if i in advanced else e for i, e in enumerate(entries)]
    value = basic(x.shape, kept).read(t, x.value)
    arrays = [_index_value(t, entries[i]) for i in advanced]
    first, count = advanced[0], len(advanced)
    adjacent = advanced == list(range(first, first + count))
    if count == 1:
        return Tracer(t, t(ops.Gather, value, arrays[0], axis=first))
    if len({a.dtype for a in arrays}) > 1:
        arrays = [cast(t, a, i64) for a in arrays]
    perm = [*advanced, *(i for i in range(len(entries)) if i not in advanced)]
    shape = broadcast(*(a.shape for a in arrays))
    columns = [
        reshaped(t, t(ops.Broadcast, a, shape=shape) if a.shape != shape else a, (*shape, 1))
        for a in arrays
    ]
    index = t(ops.Concat, *columns, axis=len(shape))
    out = t(ops.GatherNd, transposed(t, value, perm), index)
    if adjacent and first:
        rank = len(shape)
        order = [*range(rank, rank + first), *range(rank), *range(rank + first, len(out.shape))]
        out = transposed(t, out, order)
    return Tracer(t, out)


def transposed(t: Trace, x: Value, perm: list[int]) -> Value:
    """The value with permuted dimensions; nothing is built for the identity."""
    return x if perm == sorted(perm) else t(ops.Transpose, x, perm=perm)


def _index_value(t: Trace, e: Any) -> Value:
    value = value_of(t, np.asarray(e, np.int64) if not isinstance(e, Tracer) else e)
    if value.dtype not in (i32, i64):
        value = t(ops.Cast, value, dtype=i64)
    return value
