"""Operators with data-dependent indices: gathers, scatters, running sums, selection.

Negative indices count from the end; an index out of range fails the call.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

import numpy as np

from pjit.ir import expr
from pjit.ir.core import Value
from pjit.ir.errors import require
from pjit.ir.expr import Dim, Expr
from pjit.ir.loops import Puller
from pjit.ir.opdef import Arg, OpDef, Sample, attr, operand, same_dim, sample
from pjit.ir.ops.elementwise import ALL, SPECIAL, in_f32
from pjit.ir.types import FLOATS, NUMERIC, TensorType, bool_, f32, i32, i64, tensor

INDICES = (i64, i32)
REDUCTIONS: dict[str, Any] = {
    "none": None,
    "add": np.add,
    "mul": np.multiply,
    "min": np.minimum,
    "max": np.maximum,
}


def _require_axis(x: TensorType, axis: int) -> None:
    require(0 <= axis < x.rank, "(C1) the axis is a dimension", expected=f"of {x}", got=axis)


def _require_equal(a: Sequence[Dim], b: Sequence[Dim], constraint: str) -> None:
    equal = len(a) == len(b) and all(same_dim(x, y) for x, y in zip(a, b, strict=True))
    require(equal, constraint, expected=list(a), got=list(b))


def _wide(k: Puller, indices: Value, at: Sequence[Dim]) -> Value:
    return k.b.cast(k.read(indices, at), i64)


def _index_arg(shape: tuple[int, ...], extent: int, dt: Any = i64) -> Arg:
    return Arg(shape, dt, -extent, extent)


class Gather(OpDef, name="gather"):
    """Elements along an axis by their indices (np.take).

    The shape of the indices replaces the axis.

    Constraints:
        (C1) ``axis`` is a dimension of x.
    """

    x = operand(ALL)
    indices = operand(INDICES)
    axis = attr()
    __slots__ = ()

    @staticmethod
    def infer(x: TensorType, indices: TensorType, *, axis: int) -> TensorType:
        """The axis becomes the shape of the indices."""
        _require_axis(x, axis)
        return x.with_shape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))

    @staticmethod
    def ref(x: np.ndarray, indices: np.ndarray, *, axis: int) -> np.ndarray:
        """NumPy's take."""
        return np.asarray(np.take(x, indices, axis))

    def element(self, k: Puller, index: Sequence[Dim]) -> Value:
        """Reads the index, then the element."""
        axis, end = self.axis, self.axis + len(self.indices.shape)
        value = _wide(k, self.indices, index[axis:end])
        at = k.to_index(value, self.x.shape[axis], "gather index")
        return k.read(self.x, [*index[:axis], at, *index[end:]])

    samples = (
        sample((5, 7), _index_arg((2, 3), 5), dtypes=ALL, axis=0),
        sample((5, 7), _index_arg((4,), 7, i32), dtypes=(f32,), axis=1),
        sample((67,), _index_arg((), 67), dtypes=(f32,), axis=0),
        sample((2, 3, 1, 7), _index_arg((1, 2), 3), dtypes=(f32,), axis=1),
        sample((3, 4), _index_arg((0,), 3), dtypes=(f32,), axis=0),
    )


class GatherElements(OpDef, name="gather_elements"):
    """``out[i, j] = x[indices[i, j], j]`` for axis 0, and likewise for other axes and ranks.

    Constraints:
        (C1) ``axis`` is a dimension of x.
        (C2) x and the indices have one rank.
        (C3) beside the axis no dimension of the indices is larger than that of x.
    """

    x = operand(ALL)
    indices = operand(INDICES)
    axis = attr()
    __slots__ = ()

    @staticmethod
    def infer(x: TensorType, indices: TensorType, *, axis: int) -> TensorType:
        """The shape of the indices."""
        _check_elements(x, indices, axis)
        return x.with_shape(indices.shape)

    @staticmethod
    def ref(x: np.ndarray, indices: np.ndarray, *, axis: int) -> np.ndarray:
        """Indexes with the indices along the axis and the own position elsewhere."""
        return x[_element_positions(indices, axis)]

    def element(self, k: Puller, index: Sequence[Dim]) -> Value:
        """Reads the index, then the element."""
        at = list(index)
        value = _wide(k, self.indices, index)
        at[self.axis] = k.to_index(value, self.x.shape[self.axis], "gather_elements index")
        return k.read(self.x, at)

    samples = (
        sample((5, 7), _index_arg((3, 7), 5), dtypes=ALL, axis=0),
        sample((5, 7), _index_arg((4, 9), 7, i32), dtypes=(f32,), axis=1),
        sample((67,), _index_arg((5,), 67), dtypes=(f32,), axis=0),
        sample((2, 3, 1, 7), _index_arg((2, 4, 1, 6), 3), dtypes=(f32,), axis=1),
        sample((3, 4), _index_arg((0, 4), 3), dtypes=(f32,), axis=0),
    )


def _check_elements(x: TensorType, indices: TensorType, axis: int) -> None:
    _require_axis(x, axis)
    require(x.rank == indices.rank, "(C2) the indices have the rank of x", expected=x, got=indices)
    require(
        not any(
            d != axis and expr.at_least(m - n, 1)
            for d, (n, m) in enumerate(zip(x.shape, indices.shape, strict=True))
        ),
        "(C3) beside the axis the indices are not larger than x",
        expected=x,
        got=indices,
    )


def _element_positions(indices: np.ndarray, axis: int) -> tuple[np.ndarray, ...]:
    positions: list[np.ndarray] = list(np.indices(indices.shape, sparse=True))
    positions[axis] = indices
    return tuple(positions)


class GatherNd(OpDef, name="gather_nd"):
    """Slices of x by the vectors of their leading coordinates, the last dimension of the indices.

    The first ``batch_dims`` dimensions of x and of the indices go along with each other.

    Constraints:
        (C1) the last dimension of the indices, n, is static and at least 1; batch_dims + n is at
            most the rank of x.
        (C2) batch_dims is less than the rank of the indices.
        (C3) the batch dimensions are equal.
    """

    x = operand(ALL)
    indices = operand(INDICES)
    batch_dims = attr(0)
    __slots__ = ()

    @staticmethod
    def infer(x: TensorType, indices: TensorType, *, batch_dims: int) -> TensorType:
        """The leading dimensions of the indices, then the dimensions of x that are left."""
        require(
            0 <= batch_dims < max(indices.rank, 1) and indices.rank > 0,
            "(C2) batch_dims is less than the rank of the indices",
            got=f"{batch_dims} for {indices}",
        )
        n = indices.shape[-1]
        require(
            isinstance(n, int) and 1 <= n <= x.rank - batch_dims,
            "(C1) the last dimension of the indices counts coordinates of x",
            expected=f"1 to {x.rank - batch_dims}",
            got=n,
        )
        assert isinstance(n, int)
        _require_equal(
            x.shape[:batch_dims], indices.shape[:batch_dims], "(C3) the batch dimensions are equal"
        )
        return x.with_shape((*indices.shape[:-1], *x.shape[batch_dims + n :]))

    @staticmethod
    def ref(x: np.ndarray, indices: np.ndarray, *, batch_dims: int) -> np.ndarray:
        """Indexes with the coordinates and the own position in the batch dimensions."""
        outer = indices.shape[:-1]
        own = np.indices(outer, sparse=True)[:batch_dims]
        return np.asarray(x[(*own, *np.moveaxis(indices, -1, 0))])

    def element(self, k: Puller, index: Sequence[Dim]) -> Value:
        """Reads the coordinates, then the element."""
        x, indices, batch = self.x, self.indices, self.batch_dims
        outer = len(indices.shape) - 1
        at: list[Dim] = list(index[:batch])
        for j in range(indices.shape[-1]):
            value = _wide(k, indices, [*index[:outer], j])
            at.append(k.to_index(value, x.shape[batch + j], "gather_nd index"))
        return k.read(x, [*at, *index[outer:]])

    samples = (
        sample((4, 5), _index_arg((3, 2), 4), dtypes=ALL),
        sample((4, 5, 6), _index_arg((2, 3, 1), 4), dtypes=(f32,)),
        sample((2, 4, 5), _index_arg((2, 3, 1), 4), dtypes=(f32,), batch_dims=1),
        sample((2, 3, 4, 5), _index_arg((2, 3, 1, 2), 4), dtypes=(f32,), batch_dims=2),
        sample((67,), _index_arg((1,), 67, i32), dtypes=(f32,)),
        sample((3, 4), _index_arg((0, 1), 3), dtypes=(f32,)),
    )


def _require_reduction(x: TensorType, updates: TensorType, reduction: str) -> None:
    require(
        reduction in REDUCTIONS,
        f"(C4) reduction is one of {', '.join(REDUCTIONS)}",
        got=reduction,
    )
    require(
        updates.dtype == x.dtype, "(C5) the updates have the dtype of x", expected=x, got=updates
    )
    require(reduction == "none" or x.dtype != bool_, "(C6) a reduction is of numbers", got=x)


def _scatter(
    x: np.ndarray, positions: tuple[np.ndarray, ...], updates: np.ndarray, reduction: str
) -> np.ndarray:
    out = x.copy()
    if reduction == "none":
        out[positions] = updates
    else:
        REDUCTIONS[reduction].at(out, positions, updates)
    return out


class ScatterElements(OpDef, name="scatter_elements"):
    """A copy of x with elements replaced: for axis 0, ``out[indices[i, j], j] = updates[i, j]``.

    ``reduction`` joins the updates with what is there; ``none`` replaces, in row-major order. Sums
    and products of f16 and bf16 accumulate in f32.

    Constraints:
        (C1) ``axis`` is a dimension of x.
        (C2) x and the indices have one rank.
        (C3) beside the axis no dimension of the indices is larger than that of x.
        (C4) reduction is none, add, mul, min or max.
        (C5) x and the updates have one dtype.
        (C6) a reduction is of numbers.
        (C7) the indices and the updates have one shape.
    """

    host = "several updates may meet in one element, in any order of the indices"
    x = operand(ALL)
    indices = operand(INDICES)
    updates = operand(ALL)
    axis = attr()
    reduction = attr("none")
    __slots__ = ()

    @staticmethod
    def infer(
        x: TensorType, indices: TensorType, updates: TensorType, *, axis: int, reduction: str
    ) -> TensorType:
        """The type of x."""
        _check_elements(x, indices, axis)
        _require_reduction(x, updates, reduction)
        _require_equal(indices.shape, updates.shape, "(C7) indices and updates have one shape")
        return x

    @staticmethod
    @in_f32
    def ref(
        x: np.ndarray, indices: np.ndarray, updates: np.ndarray, *, axis: int, reduction: str
    ) -> np.ndarray:
        """Assigns or reduces in place on a copy."""
        return _scatter(x, _element_positions(indices, axis), updates, reduction)

    samples = (
        sample((5, 7), _index_arg((3, 7), 5), (3, 7), dtypes=ALL, axis=0),
        *(
            sample((5, 7), _index_arg((5, 9), 7, i32), (5, 9), dtypes=NUMERIC, axis=1, reduction=r)
            for r in ("add", "mul", "min", "max")
        ),
        sample((67,), _index_arg((5,), 67), (5,), dtypes=(f32,), axis=0),
        sample((2, 3, 1, 7), _index_arg((2, 2, 1, 6), 3), (2, 2, 1, 6), dtypes=(f32,), axis=1),
        sample((3, 4), _index_arg((0, 4), 3), (0, 4), dtypes=(f32,), axis=0),
    )


class ScatterNd(OpDef, name="scatter_nd"):
    """A copy of x with slices replaced, by the vectors of their leading coordinates.

    ``reduction`` joins the updates with what is there; ``none`` replaces, in row-major order. Sums
    and products of f16 and bf16 accumulate in f32.

    Constraints:
        (C1) the last dimension of the indices, n, is static, at least 1 and at most the rank of x.
        (C4) reduction is none, add, mul, min or max.
        (C5) x and the updates have one dtype.
        (C6) a reduction is of numbers.
        (C7) the shape of the updates is that of the indices without the last dimension, then that
            of x from n on.
    """

    host = "several updates may meet in one element, in any order of the indices"
    x = operand(ALL)
    indices = operand(INDICES)
    updates = operand(ALL)
    reduction = attr("none")
    __slots__ = ()

    @staticmethod
    def infer(
        x: TensorType, indices: TensorType, updates: TensorType, *, reduction: str
    ) -> TensorType:
        """The type of x."""
        n = indices.shape[-1] if indices.rank else 0
        require(
            isinstance(n, int) and 1 <= n <= x.rank,
            "(C1) the last dimension of the indices counts coordinates of x",
            expected=f"1 to {x.rank}",
            got=indices,
        )
        assert isinstance(n, int)
        _require_reduction(x, updates, reduction)
        _require_equal(
            (*indices.shape[:-1], *x.shape[n:]),
            updates.shape,
            "(C7) the updates have one slice of x for each index vector",
        )
        return x

    @staticmethod
    @in_f32
    def ref(
        x: np.ndarray, indices: np.ndarray, updates: np.ndarray, *, reduction: str
    ) -> np.ndarray:
        """Assigns or reduces in place on a copy."""
        return _scatter(x, tuple(np.moveaxis(indices, -1, 0)), updates, reduction)

    samples = (
        sample((4, 5), _index_arg((3, 2), 4), (3,), dtypes=ALL),
        *(
            sample((4, 5, 6), _index_arg((2, 3, 1), 4), (2, 3, 5, 6), dtypes=NUMERIC, reduction=r)
            for r in ("add", "mul", "min", "max")
        ),
        sample((67,), _index_arg((1,), 67, i32), (), dtypes=(f32,)),
        sample((3, 4), _index_arg((0, 1), 3), (0, 4), dtypes=(f32,)),
    )


class Cumsum(OpDef, name="cumsum"):
    """The running sum along an axis.

    ``exclusive`` leaves the element itself out, ``reverse`` sums from the end. f16 and bf16
    accumulate in f32; integers wrap.

    Constraints:
        (C1) ``axis`` is a dimension of x.
    """

    host = "the kernel level has no scan; summing anew for each element would take quadratic time"
    x = operand(NUMERIC)
    axis = attr()
    exclusive = attr(False)
    reverse = attr(False)
    __slots__ = ()

    @staticmethod
    def infer(x: TensorType, *, axis: int, exclusive: bool, reverse: bool) -> TensorType:
        """The type of x."""
        _require_axis(x, axis)
        return x

    @staticmethod
    @in_f32
    def ref(x: np.ndarray, *, axis: int, exclusive: bool, reverse: bool) -> np.ndarray:
        """NumPy's cumsum, shifted when exclusive and flipped when reversed."""
        x = np.flip(x, axis) if reverse else x
        out = np.cumsum(x, axis, x.dtype)
        if exclusive and x.shape[axis]:
            first = np.zeros_like(np.take(out, [0], axis))
            out = np.concatenate([first, np.delete(out, -1, axis)], axis)
        return np.flip(out, axis) if reverse else out

    samples = (
        sample((3, 5), dtypes=NUMERIC, axis=1),
        *(
            sample((2, 3, 4), dtypes=(f32,), axis=1, exclusive=e, reverse=r)
            for e, r in ((True, False), (False, True), (True, True))
        ),
        sample((67,), dtypes=(f32,), axis=0),
        sample((3, 0), dtypes=(f32,), axis=1, exclusive=True),
        sample((1, 4), dtypes=(f32,), axis=0, exclusive=True),
    )


class Topk(OpDef, name="topk"):
    """The k largest (or smallest) elements along an axis in order, and their positions as i64.

    Equal elements keep their order. NaN counts as the largest.

    Constraints:
        (C1) ``axis`` is a dimension of x.
        (C2) 0 <= k <= the dimension.
    """

    host = "a selection needs a sort, which the kernel level does not have"
    x = operand(NUMERIC)
    k = attr(doc="dim: how many")
    axis = attr()
    largest = attr(True, "the largest first, else the smallest first")
    __slots__ = ()

    @staticmethod
    def infer(x: TensorType, *, k: Dim, axis: int, largest: bool) -> tuple[TensorType, TensorType]:
        """Values and positions with k in place of the axis."""
        _require_axis(x, axis)
        require(
            not expr.at_least(-k, 1) and not expr.at_least(k - x.shape[axis], 1),
            "(C2) k is at most the dimension",
            expected=f"0 to {x.shape[axis]}",
            got=k,
        )
        shape = (*x.shape[:axis], k, *x.shape[axis + 1 :])
        return x.with_shape(shape), TensorType(i64, shape)

    @staticmethod
    def ref(x: np.ndarray, *, k: int, axis: int, largest: bool) -> tuple[np.ndarray, np.ndarray]:
        """A stable sort of the positions."""
        keys = x.astype(np.float32) if x.dtype.itemsize == 2 and x.dtype.kind not in "iu" else x
        if largest:
            backwards = np.argsort(np.flip(keys, axis), axis, kind="stable")
            order = np.flip(x.shape[axis] - 1 - backwards, axis)
        else:
            order = np.argsort(keys, axis, kind="stable")
        positions = np.take(order, np.arange(k), axis).astype(np.int64)
        return np.take_along_axis(x, positions, axis), positions

    samples = (
        sample((3, 7), dtypes=NUMERIC, k=4, axis=1),
        sample((3, 7), dtypes=NUMERIC, k=4, axis=1, largest=False),
        sample((67,), dtypes=(f32,), k=67, axis=0),
        sample((2, 3, 1, 7), dtypes=(f32,), k=2, axis=1),
        sample((3, 7), dtypes=(f32,), k=0, axis=1),
        Sample((Arg((6,), values=SPECIAL),), {"k": 6, "axis": 0}, FLOATS),
        Sample((Arg((6,), values=SPECIAL),), {"k": 6, "axis": 0, "largest": False}, FLOATS),
    )


_counter = count()


def fresh_count() -> Expr:
    """A symbol for a count that only the data decides; it may be 0."""
    return expr.sym(f"nz{next(_counter)}", 0)


class Nonzero(OpDef, name="nonzero", onnx="NonZero"):
    """The indices of the elements that are not 0 as columns, in row-major order: i64[rank, count].

    Constraints:
        (C1) x has at least one dimension.
    """

    host = "how many elements there are depends on the data"
    x = operand(ALL)
    __slots__ = ()

    @staticmethod
    def infer(x: TensorType) -> TensorType:
        """A fresh symbol for the count."""
        require(x.rank > 0, "(C1) the operand has a dimension", got=x)
        return tensor(i64, x.rank, fresh_count())

    @staticmethod
    def ref(x: np.ndarray) -> np.ndarray:
        """NumPy's nonzero, stacked."""
        return np.stack(np.nonzero(x)).astype(np.int64)

    samples = (
        sample((3, 7), dtypes=ALL),
        sample((67,), dtypes=(bool_,)),
        sample((0, 4), dtypes=(f32,)),
        sample((2, 3, 1, 7), dtypes=(bool_,)),
    )


__all__ = [
    "Cumsum",
    "Gather",
    "GatherElements",
    "GatherNd",
    "Nonzero",
    "ScatterElements",
    "ScatterNd",
    "Topk",
]
