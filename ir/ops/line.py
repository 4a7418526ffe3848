"""Operators that walk along dimensions in order: scatters and running sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from pjit.ir.core import Value
from pjit.ir.errors import require
from pjit.ir.expr import Dim
from pjit.ir.kernel_builder import LineWriter
from pjit.ir.loops import identity
from pjit.ir.opdef import OpDef, attr, operand, sample
from pjit.ir.ops.elementwise import ALL, in_f32
from pjit.ir.ops.index import (
    INDICES,
    check_elements,
    element_positions,
    index_arg,
    require_axis,
    require_equal,
    widened,
)
from pjit.ir.types import NUMERIC, TensorType, bool_, dtype, f32, i32

REDUCTIONS: dict[str, Any] = {
    "none": None,
    "add": np.add,
    "mul": np.multiply,
    "min": np.minimum,
    "max": np.maximum,
}


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


def _without(shape: Sequence[Dim], axis: int) -> tuple[Dim, ...]:
    return (*shape[:axis], *shape[axis + 1 :])


def _join(k: LineWriter, reduction: str, index: Sequence[Dim], value: Value) -> None:
    """Writes a value, joined with what is there."""
    if reduction != "none":
        value = getattr(k.b, reduction)(k.written(index), value)
    k.write(index, value)


def _scatter(
    x: np.ndarray, positions: tuple[np.ndarray, ...], updates: np.ndarray, reduction: str
) -> np.ndarray:
    out = x.copy()
    if reduction == "none":
        out[positions] = updates
    else:
        REDUCTIONS[reduction].at(out, positions, updates)
    return out


class LineOp(OpDef):
    """Base of the operators with a ``line``.

    By default there is a line at each coordinate of the dimensions that are not walked. An operator
    whose line is a part of the walked dimensions (a tile) overrides ``lines``. When the last
    dimension is not walked, it is the last one of ``lines``.
    """

    __slots__ = ()

    @property
    def rereads(self) -> bool:
        """Whether a line reads back what it wrote."""
        return False

    @property
    def room(self) -> int:
        """How many values of its dtype a line may keep beside its variables."""
        return 0

    @property
    def walked(self) -> tuple[int, ...]:
        """The dimensions that a line runs along."""
        raise NotImplementedError

    @property
    def lines(self) -> tuple[Dim, ...]:
        """The extents over which ``line`` runs."""
        shape = self.type.shape
        return tuple(d for i, d in enumerate(shape) if i not in self.walked)


class ScatterElements(LineOp, name="scatter_elements"):
    """A copy of x with elements replaced: for axis 0, ``out[indices[i, j], j] = updates[i, j]``.

    ``reduction`` joins the updates with what is there; ``none`` replaces, in row-major order. Each
    update rounds to the dtype.

    Constraints:
        (C1) ``axis`` is a dimension of x.
        (C2) x and the indices have one rank.
        (C3) beside the axis no dimension of the indices is larger than that of x.
        (C4) reduction is none, add, mul, min or max.
        (C5) x and the updates have one dtype.
        (C6) a reduction is of numbers.
        (C7) the indices and the updates have one shape.
    """

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
        check_elements(x, indices, axis)
        _require_reduction(x, updates, reduction)
        require_equal(indices.shape, updates.shape, "(C7) indices and updates have one shape")
        return x

    @staticmethod
    @in_f32
    def ref(
        x: np.ndarray, indices: np.ndarray, updates: np.ndarray, *, axis: int, reduction: str
    ) -> np.ndarray:
        """Assigns or reduces in place on a copy."""
        return _scatter(x, element_positions(indices, axis), updates, reduction)

    @property
    def walked(self) -> tuple[int, ...]:
        """The axis."""
        return (self.axis,)

    @property
    def rereads(self) -> bool:
        """Whether updates join what is there."""
        return self.reduction != "none"

    def line(self, k: LineWriter, at: Sequence[Dim]) -> None:
        """Copies a line of x along the axis, then updates it in order."""
        x, indices, axis = self.x, self.indices, self.axis

        def place(i: Dim) -> tuple[Dim, ...]:
            return (*at[:axis], i, *at[axis:])

        k.copy([x.shape[axis]], lambda i: place(i[0]), x)
        beside = zip(at, _without(indices.shape, axis), _without(x.shape, axis), strict=True)
        guards = [(i, n) for i, n, whole in beside if n != whole]

        def update(i: Sequence[Dim]) -> None:
            source = place(i[0])
            target = k.to_index(
                widened(k, indices, source), x.shape[axis], "scatter_elements index"
            )
            _join(k, self.reduction, place(target), k.read(self.updates, source))

        k.where(guards, lambda: k.each([indices.shape[axis]], update))

    samples = (
        sample((5, 7), index_arg((3, 7), 5), (3, 7), dtypes=ALL, axis=0),
        *(
            sample((5, 7), index_arg((5, 9), 7, i32), (5, 9), dtypes=NUMERIC, axis=1, reduction=r)
            for r in ("add", "mul", "min", "max")
        ),
        sample((67,), index_arg((5,), 67), (5,), dtypes=(f32,), axis=0),
        sample((2, 3, 1, 7), index_arg((2, 2, 1, 6), 3), (2, 2, 1, 6), dtypes=(f32,), axis=1),
        sample((3, 4), index_arg((0, 4), 3), (0, 4), dtypes=(f32,), axis=0),
    )


class ScatterNd(LineOp, name="scatter_nd"):
    """A copy of x with slices replaced, by the vectors of their leading coordinates.

    ``reduction`` joins the updates with what is there; ``none`` replaces, in row-major order. Each
    update rounds to the dtype.

    Constraints:
        (C1) the last dimension of the indices, n, is static, at least 1 and at most the rank of x.
        (C4) reduction is none, add, mul, min or max.
        (C5) x and the updates have one dtype.
        (C6) a reduction is of numbers.
        (C7) the shape of the updates is that of the indices without the last dimension, then that
            of x from n on.
    """

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
        require_equal(
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

    @property
    def walked(self) -> tuple[int, ...]:
        """The dimensions that the index vectors point into."""
        return tuple(range(self.indices.shape[-1]))

    @property
    def rereads(self) -> bool:
        """Whether updates join what is there."""
        return self.reduction != "none"

    def line(self, k: LineWriter, at: Sequence[Dim]) -> None:
        """Copies what the index vectors may point at, then updates in order."""
        x, indices = self.x, self.indices
        lead = x.shape[: indices.shape[-1]]
        k.copy(lead, lambda i: (*i, *at), x)

        def update(i: Sequence[Dim]) -> None:
            target = [
                k.to_index(widened(k, indices, (*i, j)), extent, "scatter_nd index")
                for j, extent in enumerate(lead)
            ]
            _join(k, self.reduction, (*target, *at), k.read(self.updates, (*i, *at)))

        k.each(indices.shape[:-1], update)

    samples = (
        sample((4, 5), index_arg((3, 2), 4), (3,), dtypes=ALL),
        *(
            sample((4, 5, 6), index_arg((2, 3, 1), 4), (2, 3, 5, 6), dtypes=NUMERIC, reduction=r)
            for r in ("add", "mul", "min", "max")
        ),
        sample((67,), index_arg((1,), 67, i32), (), dtypes=(f32,)),
        sample((3, 4), index_arg((0, 1), 3), (0, 4), dtypes=(f32,)),
    )


class Cumulative(LineOp):
    """Base of the running reductions along an axis.

    ``exclusive`` leaves the element itself out, ``reverse`` runs from the end. Sums and products of
    f16 and bf16 accumulate in f32; integers wrap.

    Constraints:
        (C1) ``axis`` is a dimension of x.
    """

    x = operand(NUMERIC)
    axis = attr()
    exclusive = attr(False)
    reverse = attr(False)
    combine: ClassVar[str]
    __slots__ = ()

    @staticmethod
    def infer(x: TensorType, *, axis: int, exclusive: bool, reverse: bool) -> TensorType:
        """The type of x."""
        require_axis(x, axis)
        return x

    @property
    def walked(self) -> tuple[int, ...]:
        """The axis."""
        return (self.axis,)

    def line(self, k: LineWriter, at: Sequence[Dim]) -> None:
        """Carries the result along the axis."""
        x, axis = self.x, self.axis
        extent, wide = x.shape[axis], f32 if x.dtype.is_float and x.dtype.bits < 32 else x.dtype
        join = getattr(k.b, self.combine)

        def step(i: Sequence[Dim], total: Value) -> Value:
            j = extent - 1 - i[0] if self.reverse else i[0]
            index = (*at[:axis], j, *at[axis:])
            after = join(total, k.b.cast(k.read(x, index), wide))
            k.write(index, k.b.cast(total if self.exclusive else after, x.dtype))
            return after

        k.each([extent], step, k.b.const(identity(self.combine, wide), wide))


def _cumulative(name: str, combine: str, doc: str) -> Any:
    ufunc = REDUCTIONS[combine]

    def ref(x: np.ndarray, *, axis: int, exclusive: bool, reverse: bool) -> np.ndarray:
        x = np.flip(x, axis) if reverse else x
        out = ufunc.accumulate(x, axis, x.dtype)
        if exclusive and x.shape[axis]:
            first = np.full_like(np.take(out, [0], axis), identity(combine, dtype(x.dtype)))
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
    body: dict[str, Any] = {
        "__doc__": doc,
        "__module__": __name__,
        "__slots__": (),
        "combine": combine,
    }
    body |= {"ref": staticmethod(in_f32(ref)), "samples": samples}
    return type(name.capitalize(), (Cumulative,), body, name=name)


Cumsum = _cumulative("cumsum", "add", "The running sum along an axis.")
Cumprod = _cumulative("cumprod", "mul", "The running product along an axis.")
Cummax = _cumulative("cummax", "max", "The largest element so far; NaN propagates.")
Cummin = _cumulative("cummin", "min", "The smallest element so far; NaN propagates.")
