"""Operators that move elements: views, padding, concatenation; and `iota`, which makes them.

Each maps the index of an element of the result to the index of the element that it copies. A
bijective view also has ``push``, the inverse map, for fusing it into the store of the operation
before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pjit.ir import expr
from pjit.ir.core import Value
from pjit.ir.errors import require
from pjit.ir.expr import Dim, flatten, unflatten
from pjit.ir.kernel_builder import Puller
from pjit.ir.opdef import (
    Arg,
    OpDef,
    Sample,
    attr,
    broadcast_shapes,
    operand,
    same_dim,
    sample,
    variadic,
)
from pjit.ir.ops.elementwise import ALL
from pjit.ir.types import FLOATS, INTS, NUMERIC, DType, TensorType, bf16, f32, i8

Shape = tuple[Dim, ...]
PAD_MODES = ("constant", "edge", "reflect")


def require_not_negative(dims: Shape, constraint: str) -> None:
    """Raises ConstraintError when a dimension is provably negative."""
    require(not any(expr.at_least(-d, 1) for d in dims), constraint, got=list(dims))


def reshaped(index: Sequence[Dim], shape: Shape, to: Shape) -> Shape:
    """Where the element at an index of a shape is in another one of the same size.

    An index outside is used only where a guard does not hold, so all are taken to be inside.
    """
    known: dict[str, Dim] = {}
    inside: list[Dim] = []
    for i, d in zip(index, shape, strict=True):
        if not expr.within(i, 0, d):
            name = f"#inside{len(known)}"
            known[name] = i
            i = expr.sym(name, 0, d)
        inside.append(i)
    return tuple(expr.substitute(x, known) for x in unflatten(flatten(inside, shape), to))


class Reshape(OpDef, name="reshape"):
    """The elements in row-major order with another shape.

    Constraints:
        (C1) the dimensions of ``shape`` are not negative.
        (C2) both shapes have the same number of elements.
    """

    x = operand(ALL)
    shape = attr(doc="dimensions of the result")
    __slots__ = ()

    @staticmethod
    def infer(x: TensorType, *, shape: Shape) -> TensorType:
        """The dtype of x with the new shape."""
        require_not_negative(shape, "(C1) dimensions are not negative")
        require(
            same_dim(x.size, expr.product(shape)),
            "(C2) both shapes have the same number of elements",
            expected=f"{x.size} elements, as {x} has",
            got=list(shape),
        )
        return x.with_shape(shape)

    @staticmethod
    def ref(x: np.ndarray, *, shape: tuple[int, ...]) -> np.ndarray:
        """NumPy's reshape."""
        return np.reshape(x, shape)

    def element(self, k: Puller, index: Sequence[Dim]) -> Value:
        """The element at the same row-major position."""
        return k.read(self.x, reshaped(index, self.shape, self.x.shape))

    def push(self, index: Sequence[Dim]) -> Shape:
        """The index in the result of the element of x at an index."""
        return reshaped(index, self.x.shape, self.shape)

    samples = (
        sample((2, 3, 4), dtypes=ALL, shape=(6, 4)),
        sample((6, 4), dtypes=(f32,), shape=(2, 3, 2, 2)),
        sample((2, 3, 5), dtypes=(f32,), shape=(5, 6)),
        sample((), dtypes=(f32,), shape=(1, 1)),
        sample((1, 1), dtypes=(f32,), shape=()),
        sample((0, 4), dtypes=(f32,), shape=(2, 0, 3)),
        sample((67,), dtypes=(f32,), shape=(1, 67, 1)),
    )


def behind_reshapes(v: Value) -> Value:
    """The value whose memory a value is, as far as reshapes say."""
    while isinstance(v.op, Reshape):
        v = v.op.operands[0]
    return v


class Transpose(OpDef, name="transpose"):
    """Permutes the dimensions: dimension d of the result is dimension ``perm[d]`` of x.

    Constraints:
        (C1) ``perm`` is a permutation of the dimensions of x.
    """

    x = operand(ALL)
    perm = attr(doc="the dimension of x that each dimension of the result is")
    __slots__ = ()

    @staticmethod
    def infer(x: TensorType, *, perm: tuple[int, ...]) -> TensorType:
        """The permuted shape."""
        require(
            sorted(perm) == list(range(x.rank)),
            "(C1) perm is a permutation of the dimensions",
            expected=f"each of 0..{x.rank - 1} once",
            got=perm,
        )
        return x.with_shape(tuple(x.shape[p] for p in perm))

    @staticmethod
    def ref(x: np.ndarray, *, perm: tuple[int, ...]) -> np.ndarray:
        """NumPy's transpose."""
        return np.transpose(x, perm)

    def element(self, k: Puller, index: Sequence[Dim]) -> Value:
        """The element at the index in the order of x."""
        at = dict(zip(self.perm, index, strict=True))
        return k.read(self.x, [at[d] for d in range(len(at))])

    def push(self, index: Sequence[Dim]) -> Shape:
        """The index in the result of the element of x at an index."""
        return tuple(index[p] for p in self.perm)

    samples = (
        sample((3, 5), dtypes=ALL, perm=(1, 0)),
        sample((2, 3, 5), dtypes=(f32,), perm=(2, 0, 1)),
        sample((2, 3, 1, 7), dtypes=(f32,), perm=(0, 2, 3, 1)),
        sample((), dtypes=(f32,), perm=()),
        sample((0, 4), dtypes=(f32,), perm=(1, 0)),
    )


class Broadcast(OpDef, name="broadcast"):
    """Repeats dimensions of size 1, and adds leading ones, to get ``shape`` (np.broadcast_to).

    Constraints:
        (C1) x broadcasts with ``shape`` to ``shape``.
    """

    x = operand(ALL)
    shape = attr(doc="dimensions of the result")
    __slots__ = ()

    @staticmethod
    def infer(x: TensorType, *, shape: Shape) -> TensorType:
        """The dtype of x with the new shape."""
        broadcast_shapes(x.shape, shape)
        lead = len(shape) - x.rank
        require(
            lead >= 0 and all(d == 1 or s != 1 for d, s in zip(x.shape, shape[lead:], strict=True)),
            "(C1) the operand broadcasts to the shape",
            expected=list(shape),
            got=x,
        )
        return x.with_shape(shape)

    @staticmethod
    def ref(x: np.ndarray, *, shape: tuple[int, ...]) -> np.ndarray:
        """NumPy's broadcast_to, as an array of its own."""
        return np.broadcast_to(x, shape).copy()

    def element(self, k: Puller, index: Sequence[Dim]) -> Value:
        """Index 0 in the dimensions that are repeated."""
        own = list(index)[len(index) - len(self.x.shape) :]
        return k.read(self.x, [0 if d == 1 else i for i, d in zip(own, self.x.shape, strict=True)])

    samples = (
        sample((3, 1), dtypes=ALL, shape=(2, 3, 4)),
        sample((), dtypes=(f32,), shape=(3,)),
        sample((5,), dtypes=(f32,), shape=(5,)),
        sample((1, 3, 1), dtypes=(f32,), shape=(2, 4, 3, 7)),
        sample((1, 3), dtypes=(f32,), shape=(0, 3)),
    )


class Slice(OpDef, name="slice"):
    """``out[i] = x[start + i*step]`` in every dimension.

    Constraints:
        (C1) ``starts``, ``sizes`` and ``steps`` have one entry per dimension of x.
        (C2) steps are not 0 and sizes are not negative.
        (C3) in each dimension the first and the last index lie inside x, unless the size is 0.
    """

    x = operand(ALL)
    starts = attr(doc="dims: the first index")
    sizes = attr(doc="dims: the shape of the result")
    steps = attr(doc="ints, not 0")
    __slots__ = ()

    @staticmethod
    def infer(x: TensorType, *, starts: Shape, sizes: Shape, steps: tuple[int, ...]) -> TensorType:
        """The sizes."""
        require(
            len(starts) == len(sizes) == len(steps) == x.rank,
            "(C1) starts, sizes and steps have one entry per dimension",
            got=f"{len(starts)}, {len(sizes)} and {len(steps)} for {x}",
        )
        require(all(s != 0 for s in steps), "(C2) steps are not 0", got=steps)
        require_not_negative(sizes, "(C2) sizes are not negative")
        for d, start, size, step in zip(x.shape, starts, sizes, steps, strict=True):
            if size == 0:
                continue
            for at in (start, start + (size - 1) * step):
                require(
                    not expr.at_least(-at, 1) and not expr.at_least(at - d, 0),
                    "(C3) the first and the last index lie inside the operand",
                    expected=f"0 <= index < {d}",
                    got=at,
                )
        return x.with_shape(sizes)

    @staticmethod
    def ref(
        x: np.ndarray, *, starts: tuple[int, ...], sizes: tuple[int, ...], steps: tuple[int, ...]
    ) -> np.ndarray:
        """Takes the indices of each dimension."""
        ranges = [s + np.arange(n) * p for s, n, p in zip(starts, sizes, steps, strict=True)]
        return x[np.ix_(*ranges)] if ranges else x

    def element(self, k: Puller, index: Sequence[Dim]) -> Value:
        """The element at start + i*step."""
        at = [s + i * p for s, i, p in zip(self.starts, index, self.steps, strict=True)]
        return k.read(self.x, at)

    samples = (
        sample((5, 7), dtypes=ALL, starts=(1, 2), sizes=(3, 4), steps=(1, 1)),
        sample((9, 67), dtypes=(f32,), starts=(8, 0), sizes=(3, 34), steps=(-3, 2)),
        sample((), dtypes=(f32,), starts=(), sizes=(), steps=()),
        sample((4, 3), dtypes=(f32,), starts=(0, 1), sizes=(0, 2), steps=(1, 1)),
        sample(
            (2, 3, 1, 7),
            dtypes=(f32,),
            starts=(0, 2, 0, 6),
            sizes=(2, 3, 1, 7),
            steps=(1, -1, 1, -1),
        ),
    )


class Pad(OpDef, name="pad"):
    """Adds elements at the low and high ends of the dimensions.

    ``mode`` says which: ``constant`` the value, ``edge`` the nearest element of x, ``reflect`` the
    elements of x mirrored at its first and last one (which are not repeated).

    Constraints:
        (C1) ``low`` and ``high`` have one entry per dimension of x, none negative.
        (C2) mode is constant, edge or reflect.
        (C3) edge: no dimension that is padded is empty; reflect: each pad is less than the
            dimension.
    """

    x = operand(ALL)
    low = attr(doc="dims: how many elements come before")
    high = attr(doc="dims: how many come after")
    value = attr(0.0, "for mode constant")
    mode = attr("constant")
    __slots__ = ()

    @staticmethod
    def infer(x: TensorType, *, low: Shape, high: Shape, value: float, mode: str) -> TensorType:
        """Each dimension grows by its pads."""
        require(
            len(low) == len(high) == x.rank,
            "(C1) low and high have one entry per dimension",
            got=f"{len(low)} and {len(high)} for {x}",
        )
        require_not_negative((*low, *high), "(C1) pads are not negative")
        require(mode in PAD_MODES, f"(C2) mode is one of {', '.join(PAD_MODES)}", got=mode)
        for d, lo, hi in zip(x.shape, low, high, strict=True):
            if mode == "edge":
                require(d != 0 or lo == hi == 0, "(C3) an empty dimension has no edge", got=x)
            if mode == "reflect":
                require(
                    not any(p != 0 and expr.at_least(p - d, 0) for p in (lo, hi)),
                    "(C3) a reflected pad is less than the dimension",
                    expected=f"less than {d}",
                    got=f"{lo} and {hi}",
                )
        return x.with_shape(tuple(a + d + b for a, d, b in zip(low, x.shape, high, strict=True)))

    @staticmethod
    def ref(
        x: np.ndarray, *, low: tuple[int, ...], high: tuple[int, ...], value: float, mode: str
    ) -> np.ndarray:
        """NumPy's pad."""
        options: dict[str, Any] = {}
        if mode == "constant":
            options["constant_values"] = np.asarray(value).astype(x.dtype)
        if x.ndim == 0:
            return x
        return np.pad(x, list(zip(low, high, strict=True)), mode, **options)  # type: ignore[call-overload]

    def element(self, k: Puller, index: Sequence[Dim]) -> Value:
        """The element, its mirror image or the nearest one, or the constant outside x."""
        shape = self.x.shape
        source = [i - lo for i, lo in zip(index, self.low, strict=True)]
        if self.mode == "constant":
            guards = list(zip(source, shape, strict=True))
            return k.guarded(guards, lambda: k.read(self.x, source), self.value)
        place = _nearest if self.mode == "edge" else _mirrored
        padded = [lo != 0 or hi != 0 for lo, hi in zip(self.low, self.high, strict=True)]
        at = [place(i, d) if p else i for i, d, p in zip(source, shape, padded, strict=True)]
        return k.read(self.x, at)

    samples = (
        Sample((Arg((3, 5)),), {"low": (1, 0), "high": (2, 3)}, ALL),
        Sample((Arg((3, 5)),), {"low": (0, 2), "high": (1, 0), "value": 3.0}, (f32, bf16, i8)),
        Sample((Arg((4, 7)),), {"low": (2, 0), "high": (1, 5), "mode": "edge"}, (f32, bf16, i8)),
        Sample((Arg((4, 7)),), {"low": (3, 1), "high": (0, 6), "mode": "reflect"}, (f32, bf16, i8)),
        Sample((Arg(()),), {"low": (), "high": ()}, (f32,)),
        Sample((Arg((0, 4)),), {"low": (1, 0), "high": (0, 0), "value": float("-inf")}, (f32,)),
        Sample((Arg((2, 3, 1, 7)),), {"low": (0, 0, 1, 1), "high": (0, 0, 1, 1)}, (f32,)),
        Sample((Arg((3, 0)),), {"low": (1, 1), "high": (0, 2), "value": 1.5}, (f32,)),
        Sample((Arg((2, 19)),), {"low": (0, 1), "high": (1, 9), "value": 1.5}, (f32,)),
        Sample((Arg((1, 5)),), {"low": (2, 0), "high": (0, 1), "mode": "edge"}, (f32,)),
    )


def _nearest(i: Dim, d: Dim) -> Dim:
    return expr.minimum(expr.maximum(i, 0), d - 1)


def _mirrored(i: Dim, d: Dim) -> Dim:
    distance = expr.maximum(i, -i)
    beyond = distance - (d - 1)
    return (d - 1) - expr.maximum(beyond, -beyond)


class Concat(OpDef, name="concat"):
    """Joins tensors along an axis.

    Constraints:
        (C1) there is at least one operand, and all have one dtype and one rank of at least 1.
        (C2) 0 <= axis < rank.
        (C3) the other dimensions are equal.
    """

    xs = variadic(ALL)
    axis = attr()
    __slots__ = ()

    @staticmethod
    def infer(xs: list[TensorType], *, axis: int) -> TensorType:
        """The sum of the dimensions along the axis."""
        require(
            len({(x.dtype, x.rank) for x in xs}) == 1 and xs[0].rank > 0,
            "(C1) the operands have one dtype and one rank of at least 1",
            got=", ".join(map(str, xs)) or "no operand",
        )
        require(0 <= axis < xs[0].rank, "(C2) the axis is a dimension", got=axis)
        shape = list(xs[0].shape)
        for x in xs[1:]:
            require(
                all(
                    d == axis or same_dim(a, b)
                    for d, (a, b) in enumerate(zip(shape, x.shape, strict=True))
                ),
                "(C3) the dimensions beside the axis are equal",
                expected=xs[0],
                got=x,
            )
            shape[axis] = shape[axis] + x.shape[axis]
        return xs[0].with_shape(tuple(shape))

    @staticmethod
    def ref(*xs: np.ndarray, axis: int) -> np.ndarray:
        """NumPy's concatenate."""
        return np.concatenate(xs, axis)

    @property
    def offsets(self) -> list[Dim]:
        """Where each operand begins along the axis."""
        found: list[Dim] = [0]
        for x in self.xs[:-1]:
            found.append(found[-1] + x.shape[self.axis])
        return found

    def element(self, k: Puller, index: Sequence[Dim]) -> Value:
        """Reads the operand whose part of the axis holds the index."""
        out: Value | None = None
        for x, offset in zip(self.xs, self.offsets, strict=True):
            if x.shape[self.axis] == 0 and (out is not None or x is not self.xs[-1]):
                continue
            own = list(index)
            own[self.axis] = index[self.axis] - offset
            guards = [(own[self.axis], x.shape[self.axis])]

            def read(x: Value = x, own: Sequence[Dim] = own) -> Value:
                return k.read(x, own)

            value = k.guarded(guards, read, 0.0)
            out = value if out is None else k.b.select(k.inside(guards), value, out)
        assert out is not None
        return out

    samples = (
        sample((3, 5), (3, 2), dtypes=ALL, axis=1),
        sample((5,), (67,), (1,), dtypes=(f32,), axis=0),
        sample((2, 3, 1, 7), (2, 1, 1, 7), dtypes=(f32,), axis=1),
        sample((0, 4), (2, 4), (0, 4), dtypes=(f32,), axis=0),
        sample((0, 4), (0, 4), dtypes=(f32,), axis=0),
        sample((3, 5), dtypes=(f32,), axis=0),
    )


class Iota(OpDef, name="iota"):
    """0, 1, ... size - 1 (np.arange).

    Constraints:
        (C1) dtype is a number type.
        (C2) size is not negative.
    """

    size = attr(doc="dim")
    dtype = attr()
    __slots__ = ()

    @staticmethod
    def infer(*, size: Dim, dtype: DType) -> TensorType:
        """One dimension."""
        require(dtype in NUMERIC, "(C1) dtype is a number type", got=dtype)
        require_not_negative((size,), "(C2) size is not negative")
        return TensorType(dtype, (size,))

    @staticmethod
    def ref(*, size: int, dtype: DType) -> np.ndarray:
        """NumPy's arange, converted from i64."""
        return np.arange(size, dtype=np.int64).astype(dtype.numpy)

    def element(self, k: Puller, index: Sequence[Dim]) -> Value:
        """The index itself."""
        return k.b.cast(k.index(index[0]), self.dtype)

    samples = (
        *(sample(dtypes=(t,), size=11, dtype=t) for t in FLOATS + INTS),
        sample(dtypes=(f32,), size=0, dtype=f32),
        sample(dtypes=(f32,), size=67, dtype=f32),
    )


__all__ = [
    "Broadcast",
    "Concat",
    "Iota",
    "Pad",
    "Reshape",
    "Slice",
    "Transpose",
    "flatten",
    "unflatten",
]
