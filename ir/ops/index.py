"""Operators with data-dependent indices that only read: gathers and selection.

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
from pjit.ir.kernel_builder import Puller
from pjit.ir.opdef import Arg, OpDef, Sample, attr, operand, same_dim, sample
from pjit.ir.ops.elementwise import ALL, SPECIAL
from pjit.ir.types import FLOATS, NUMERIC, TensorType, bool_, f32, i32, i64, tensor

INDICES = (i64, i32)


def require_axis(x: TensorType, axis: int) -> None:
    """Requires an axis to be a dimension."""
    require(0 <= axis < x.rank, "(C1) the axis is a dimension", expected=f"of {x}", got=axis)


def require_equal(a: Sequence[Dim], b: Sequence[Dim], constraint: str) -> None:
    """Requires two shapes to be equal."""
    equal = len(a) == len(b) and all(same_dim(x, y) for x, y in zip(a, b, strict=True))
    require(equal, constraint, expected=list(a), got=list(b))


def widened(k: Puller, indices: Value, at: Sequence[Dim]) -> Value:
    """An index as i64."""
    return k.b.cast(k.read(indices, at), i64)


def index_arg(shape: tuple[int, ...], extent: int, dt: Any = i64) -> Arg:
    """An operand of samples: indices into an extent, negative ones too."""
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
        require_axis(x, axis)
        return x.with_shape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))

    @staticmethod
    def ref(x: np.ndarray, indices: np.ndarray, *, axis: int) -> np.ndarray:
        """NumPy's take."""
        return np.asarray(np.take(x, indices, axis))

    def element(self, k: Puller, index: Sequence[Dim]) -> Value:
        """Reads the index, then the element."""
        axis, end = self.axis, self.axis + len(self.indices.shape)
        value = widened(k, self.indices, index[axis:end])
        at = k.to_index(value, self.x.shape[axis], "gather index")
        return k.read(self.x, [*index[:axis], at, *index[end:]])

    samples = (
        sample((5, 7), index_arg((2, 3), 5), dtypes=ALL, axis=0),
        sample((5, 7), index_arg((4,), 7, i32), dtypes=(f32,), axis=1),
        sample((67,), index_arg((), 67), dtypes=(f32,), axis=0),
        sample((2, 3, 1, 7), index_arg((1, 2), 3), dtypes=(f32,), axis=1),
        sample((3, 4), index_arg((0,), 3), dtypes=(f32,), axis=0),
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
        check_elements(x, indices, axis)
        return x.with_shape(indices.shape)

    @staticmethod
    def ref(x: np.ndarray, indices: np.ndarray, *, axis: int) -> np.ndarray:
        """Indexes with the indices along the axis and the own position elsewhere."""
        return x[element_positions(indices, axis)]

    def element(self, k: Puller, index: Sequence[Dim]) -> Value:
        """Reads the index, then the element."""
        at = list(index)
        value = widened(k, self.indices, index)
        at[self.axis] = k.to_index(value, self.x.shape[self.axis], "gather_elements index")
        return k.read(self.x, at)

    samples = (
        sample((5, 7), index_arg((3, 7), 5), dtypes=ALL, axis=0),
        sample((5, 7), index_arg((4, 9), 7, i32), dtypes=(f32,), axis=1),
        sample((67,), index_arg((5,), 67), dtypes=(f32,), axis=0),
        sample((2, 3, 1, 7), index_arg((2, 4, 1, 6), 3), dtypes=(f32,), axis=1),
        sample((3, 4), index_arg((0, 4), 3), dtypes=(f32,), axis=0),
    )


def check_elements(x: TensorType, indices: TensorType, axis: int) -> None:
    """Requires indices of elements along an axis to fit."""
    require_axis(x, axis)
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


def element_positions(indices: np.ndarray, axis: int) -> tuple[np.ndarray, ...]:
    """NumPy's index arrays for elements along an axis."""
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
        require_equal(
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
            value = widened(k, indices, [*index[:outer], j])
            at.append(k.to_index(value, x.shape[batch + j], "gather_nd index"))
        return k.read(x, [*at, *index[outer:]])

    samples = (
        sample((4, 5), index_arg((3, 2), 4), dtypes=ALL),
        sample((4, 5, 6), index_arg((2, 3, 1), 4), dtypes=(f32,)),
        sample((2, 4, 5), index_arg((2, 3, 1), 4), dtypes=(f32,), batch_dims=1),
        sample((2, 3, 4, 5), index_arg((2, 3, 1, 2), 4), dtypes=(f32,), batch_dims=2),
        sample((67,), index_arg((1,), 67, i32), dtypes=(f32,)),
        sample((3, 4), index_arg((0, 1), 3), dtypes=(f32,)),
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
        require_axis(x, axis)
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
