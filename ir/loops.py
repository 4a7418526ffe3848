"""The kernel level: loops over buffers, scalar primitives and the tile contraction.

A kernel is a function whose arguments are buffers. Its body is scratch allocations, one outermost
nest of ``parallel`` loops, and ``return``; the iterations of the parallel nest are independent
and are split over the threads. Inside are ``serial``, ``unroll`` and ``vector`` loops, loads and
stores, and scalar primitives. In a vector loop each scalar stands for one value per lane; what a
target makes of that (SIMD lanes, GPU threads) is its own affair.

Index expressions are attributes: ``#0 .. #n`` are the index operands of the operation by
position, other symbols are the sizes of the kernel, which its argument types name and its
``symbols`` attribute lists in order::

    kernel @scale(%x: buf f32[N,64], %y: buf f32[N,64]) {symbols=["N"], outputs=1} {
      k.for () {lo=0, hi=N, kind="parallel", ...} { (%i: index):
        k.for () {lo=0, hi=64, kind="vector", ...} { (%j: index):
          %a = k.load %x, %i, %j {map=[#0,#1], ...} : f32

Both back ends take this level and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pjit.ir import expr
from pjit.ir.core import Block, Function, Module, Value
from pjit.ir.errors import require
from pjit.ir.expr import Dim, Expr
from pjit.ir.opdef import OpDef, attr, operand, variadic
from pjit.ir.types import (
    FLOATS,
    INDEX,
    BufferType,
    DType,
    IndexType,
    ScalarType,
    Type,
    bool_,
    i64,
)

Guards = Sequence[tuple[Dim, Dim]]  # (expression, bound): holds when 0 <= expression < bound
KINDS = ("parallel", "serial", "unroll", "vector")
COMBINE = {"add": 0.0, "mul": 1.0, "max": float("-inf"), "min": float("inf"), "and": 1.0, "or": 0.0}


def identity(combine: str, dt: DType) -> float | int:
    """The neutral element of a combining primitive in a dtype."""
    value = COMBINE[combine]
    if dt.is_float:
        return value
    if np.isfinite(value):
        return int(value)
    info = np.iinfo(dt.numpy)
    return info.min if value < 0 else info.max


class KernelOp(OpDef):
    """Base of the operations of the kernel level."""

    level = "kernel"
    __slots__ = ()


class For(KernelOp, name="k.for"):
    """A loop ``for i in lo..hi``; carries values from one iteration to the next.

    Operands: index values (``n_index`` of them, for ``lo`` and ``hi``), then the initial carried
    values. The region has the loop variable and the carried values as arguments and yields the
    next ones; the results are the last ones. In a ``vector`` loop carried values are reductions:
    ``combine`` names for each the associative primitive that joins the partial results of the
    lanes, and the region must apply that primitive to the carried value. ``unroll`` is how many
    iterations (of vectors, in a vector loop) are in flight at once.
    """

    inputs = variadic()
    lo = attr(0)
    hi = attr()
    kind = attr("serial")
    n_index = attr(0)
    unroll = attr(1)
    combine = attr(())
    __slots__ = ()

    @staticmethod
    def infer(inputs: list[Type], **attrs: Any) -> tuple[Type, ...]:
        """The carried types."""
        require(
            attrs["kind"] in KINDS, "(C1) kind is one of " + ", ".join(KINDS), got=attrs["kind"]
        )
        n, carried = attrs["n_index"], inputs[attrs["n_index"] :]
        require(
            all(isinstance(t, IndexType) for t in inputs[:n]), "(C2) the bounds use index values"
        )
        require(
            not carried or attrs["kind"] in ("serial", "vector", "unroll"),
            "(C3) a parallel loop carries nothing",
        )
        require(
            attrs["kind"] != "vector" or len(attrs["combine"]) == len(carried),
            "(C4) a vector loop names how each carried value is combined",
            got=attrs["combine"],
        )
        return tuple(carried)

    @property
    def body(self) -> Block:
        """The region."""
        return self.regions[0]

    @property
    def carried(self) -> tuple[Value, ...]:
        """The initial carried values."""
        return self.operands[self.n_index :]


class KYield(KernelOp, name="k.yield"):
    """Ends the region of a loop or of a contraction."""

    terminator = True
    values = variadic()
    __slots__ = ()

    @staticmethod
    def infer(values: list[Type]) -> tuple:
        """No result."""
        return ()


class Load(KernelOp, name="k.load"):
    """The element of a buffer at ``map``; ``otherwise`` where a guard does not hold (nothing is
    read there). An output may be read where the same parallel iteration wrote it: in the same lane,
    or in an earlier loop.
    """

    buffer = operand()
    index = variadic()
    map = attr()
    guards = attr(())
    otherwise = attr(0.0)
    __slots__ = ()

    @staticmethod
    def infer(buffer: BufferType, index: list[Type], **attrs: Any) -> Type:
        """A scalar of the buffer's dtype."""
        require(isinstance(buffer, BufferType), "(C1) the first operand is a buffer", got=buffer)
        require(
            len(attrs["map"]) == len(buffer.shape), "(C2) one index per dimension", got=attrs["map"]
        )
        return ScalarType(buffer.dtype)


class Store(KernelOp, name="k.store"):
    """Writes a scalar to a buffer at ``map``; nothing where a guard does not hold."""

    value = operand()
    buffer = operand()
    index = variadic()
    map = attr()
    guards = attr(())
    pure = False
    __slots__ = ()

    @staticmethod
    def infer(value: Type, buffer: BufferType, index: list[Type], **attrs: Any) -> tuple:
        """No result."""
        require(isinstance(buffer, BufferType), "(C1) the second operand is a buffer", got=buffer)
        require(
            len(attrs["map"]) == len(buffer.shape), "(C2) one index per dimension", got=attrs["map"]
        )
        require(
            value == ScalarType(buffer.dtype), "(C3) the value has the buffer's dtype", got=value
        )
        return ()


class Scratch(KernelOp, name="k.scratch"):
    """Memory of one parallel iteration, 64-byte aligned, with static sizes.

    The lanes of a vector loop share it: what one loop writes the next may read anywhere; within a
    loop a lane sees only what it wrote itself.
    """

    dtype = attr()
    shape = attr()
    pure = False
    __slots__ = ()

    @staticmethod
    def infer(*, dtype: DType, shape: tuple[Dim, ...]) -> Type:
        """A buffer."""
        return BufferType(dtype, shape)


class KConst(KernelOp, name="k.const"):
    """A scalar constant."""

    value = attr()
    dtype = attr()
    __slots__ = ()

    @staticmethod
    def infer(*, value: Any, dtype: DType) -> Type:
        """A scalar."""
        return ScalarType(dtype)


class IndexValue(KernelOp, name="k.index"):
    """An index expression as an i64 scalar."""

    index = variadic()
    map = attr()
    __slots__ = ()

    @staticmethod
    def infer(index: list[Type], *, map: tuple[Dim, ...]) -> Type:
        """An i64 scalar."""
        require(len(map) == 1, "(C1) one expression", got=map)
        return ScalarType(i64)


class ToIndex(KernelOp, name="k.to_index"):
    """A scalar integer as an index; negative ones count from ``extent``. Outside the range the
    call fails.

    ``extent`` is an index expression; ``what`` and the location name the operator in the error.
    The index that the kernel goes on with is clamped into the range, so that nothing is read out
    of bounds. A ``known`` index is taken as it is: it was checked before.
    """

    value = operand()
    index = variadic()
    extent = attr()
    what = attr("index")
    known = attr(False, "whether the index is surely at least 0 and less than the extent")
    pure = False
    __slots__ = ()

    @staticmethod
    def infer(value: Type, index: list[Type], **attrs: Any) -> Type:
        """An index."""
        return INDEX


class Inside(KernelOp, name="k.inside"):
    """Whether all guards hold, as a bool."""

    index = variadic()
    guards = attr()
    __slots__ = ()

    @staticmethod
    def infer(index: list[Type], *, guards: Guards) -> Type:
        """A bool scalar."""
        return ScalarType(bool_)


class KCast(KernelOp, name="k.cast"):
    """Converts a scalar. Float to int rounds towards zero, to bool compares with zero."""

    x = operand()
    dtype = attr()
    __slots__ = ()

    @staticmethod
    def infer(x: ScalarType, *, dtype: DType) -> Type:
        """A scalar of the dtype."""
        return ScalarType(dtype)


class Contraction(KernelOp, name="k.contract"):
    """One tile of a contraction: ``acc[r, c] = sum over taps t and depth k of A[a_map] *
    B[b_map]``.

    It covers a matrix product (one row dimension, no taps), and convolutions on channels-last
    tensors (rows are the output pixels, taps the window): a sum over (kh, kw, channel) without a
    patch matrix.

    The rows are the row-major flattening of ``rows`` (extents, symbolic allowed); the tile holds
    the ``mr`` rows from ``row0``, which is one of them, on that exist, and the ``nr`` columns from
    ``col0`` on that are below ``cols``. ``a_map`` gives the element of A over the atoms ``#0..``
    (index operands), ``#r0..`` (coordinates of the row), ``#t0..`` (taps) and ``#k``; the element's
    linear offset in the buffer must be affine in taps and ``#k``. ``a_guards`` (over rows and taps)
    say where A counts as zero. ``b_map`` is over ``#0..``, ``#t0..``, ``#k`` and ``#c`` (the column
    within the tile: contiguous, and all ``nr`` of them are always readable); its linear offset
    grows by the same step from each (tap, k) to the next in row-major order.

    ``sharing`` tells how many tiles use the columns one after the other, which changes no result.

    The region gets the accumulated element, the row coordinates and the column, and stores the
    finished element; the accumulator has B's dtype, f32 or f64. The sum over k runs in order,
    with fused multiply-adds where the target has them.
    """

    a = operand(FLOATS)
    b = operand(FLOATS)
    index = variadic()
    rows = attr()
    taps = attr(())
    depth = attr()
    cols = attr()
    mr = attr()
    nr = attr()
    sharing = attr(1)
    row0 = attr()
    col0 = attr()
    a_map = attr()
    a_guards = attr(())
    b_map = attr()
    pure = False
    __slots__ = ()

    @staticmethod
    def infer(a: BufferType, b: BufferType, index: list[Type], **attrs: Any) -> tuple:
        """No result: the region stores."""
        require(
            len(attrs["a_map"]) == len(a.shape),
            "(C1) one index per dimension of A",
            got=attrs["a_map"],
        )
        require(
            len(attrs["b_map"]) == len(b.shape),
            "(C2) one index per dimension of B",
            got=attrs["b_map"],
        )
        return ()


@dataclass(frozen=True)
class Items:
    """The items of a batch that have one number of rows.

    Attributes:
        rows: That number.
        count: How many such items there are.
        chosen: 1 for the indices of such an item in the batch, 0 for those of another.
    """

    rows: Dim
    count: int
    chosen: Callable[[Sequence[Dim]], Dim]


@dataclass(frozen=True)
class Tile:
    """How an operator is a tile contraction of its first two operands: A read in place, B packed
    ``[..., nr]``.

    ``batch`` are the extents of independent outer dimensions; ``rows``, ``taps``, ``depth`` and
    ``cols`` as in ``Contraction``. The functions give indices: ``a_index(batch, rows, taps, k)``,
    ``a_guards(batch, rows, taps)``, ``b_index(batch, block, taps, k, column in block)`` where
    block counts column blocks of width nr, and ``out_index(batch, rows, column)`` into the
    result.

    Where items of the batch differ in their one extent of rows, ``ragged`` has them by it, the
    largest first, without those that have no rows; ``rows`` is the largest.
    """

    batch: tuple[Dim, ...]
    rows: tuple[Dim, ...]
    taps: tuple[int, ...]
    depth: Dim
    cols: Dim
    a_index: Callable[..., Sequence[Dim]]
    a_guards: Callable[..., Guards]
    b_index: Callable[..., Sequence[Dim]]
    out_index: Callable[..., Sequence[Dim]]
    ragged: tuple[Items, ...] = ()


class Prim(KernelOp):
    """A scalar primitive; ``ref`` is its meaning for one lane."""

    ref: Callable
    arity: int
    __slots__ = ()


PRIMS: dict[str, type[Prim]] = {}


def _prim(name: str, arity: int, ref: Callable, doc: str, result: str = "same") -> None:
    def infer(*types: ScalarType, **attrs: Any) -> Type:
        first = types[1] if name == "select" else types[0]
        values = types[1:] if name == "select" else types
        require(
            all(t == first for t in values),
            f"the operands of {name} have one dtype",
            got=list(types),
        )
        return ScalarType(bool_) if result == "bool" else first

    body: dict[str, Any] = {f"x{i}": operand() for i in range(arity)}
    body |= {"__doc__": doc, "ref": staticmethod(ref), "infer": staticmethod(infer), "arity": arity}
    body |= {"__slots__": (), "__module__": __name__}
    PRIMS[name] = type(name.title(), (Prim,), body, name=f"k.{name}")


def _erf(x: np.ndarray) -> np.ndarray:
    from math import erf

    x = np.asarray(x)
    return np.vectorize(erf, otypes=[np.float64])(x.astype(np.float64)).astype(x.dtype)


def _gelu(x: np.ndarray) -> np.ndarray:
    wide = np.asarray(x).astype(np.float64)
    return (wide * 0.5 * (1 + _erf(wide * 0.5**0.5))).astype(np.asarray(x).dtype)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return (1 / (1 + np.exp(-x))).astype(x.dtype)


def _trunc_div(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if np.asarray(x).dtype.kind not in "iu":
        return np.divide(x, y)
    down = np.floor_divide(x, y)  # 0 where y is 0
    inexact = (down * y != x) & ((x < 0) != (y < 0)) & (y != 0)
    return (down + inexact).astype(x.dtype)


_UNARY: list[tuple[str, Callable, str]] = [
    ("neg", np.negative, "-x"),
    ("abs", np.abs, "|x|"),
    ("sqrt", np.sqrt, "Square root."),
    ("exp", np.exp, "e**x"),
    ("expm1", np.expm1, "e**x - 1"),
    ("log", np.log, "Natural logarithm."),
    ("log1p", np.log1p, "log(1 + x)"),
    ("tanh", np.tanh, "Hyperbolic tangent."),
    ("sinh", np.sinh, "Hyperbolic sine."),
    ("cosh", np.cosh, "Hyperbolic cosine."),
    ("erf", _erf, "Error function."),
    ("gelu", _gelu, "x times the integral of the normal distribution up to x."),
    ("sigmoid", _sigmoid, "1 / (1 + exp(-x))"),
    ("sin", np.sin, "Sine."),
    ("cos", np.cos, "Cosine."),
    ("tan", np.tan, "Tangent."),
    ("asin", np.arcsin, "Inverse sine."),
    ("acos", np.arccos, "Inverse cosine."),
    ("atan", np.arctan, "Inverse tangent."),
    ("asinh", np.arcsinh, "Inverse hyperbolic sine."),
    ("acosh", np.arccosh, "Inverse hyperbolic cosine."),
    ("atanh", np.arctanh, "Inverse hyperbolic tangent."),
    ("floor", np.floor, "Rounds down."),
    ("ceil", np.ceil, "Rounds up."),
    ("round", np.rint, "Rounds to nearest, ties to even."),
    ("trunc", np.trunc, "Rounds towards zero."),
    ("not", lambda x: ~x, "Bitwise or logical not."),
]
_BINARY: list[tuple[str, Callable, str]] = [
    ("add", np.add, "x + y"),
    ("sub", np.subtract, "x - y"),
    ("mul", np.multiply, "x * y"),
    ("div", _trunc_div, "x / y; integers round towards zero, and x / 0 is 0 for them."),
    ("floordiv", np.floor_divide, "x / y rounded down; integers give 0 for y = 0."),
    ("mod", np.mod, "Remainder with the sign of y; integers give 0 for y = 0."),
    ("fmod", np.fmod, "Remainder with the sign of x; integers give 0 for y = 0."),
    ("min", np.minimum, "The smaller; NaN propagates."),
    ("max", np.maximum, "The larger; NaN propagates."),
    ("pow", np.power, "x to the power y."),
    ("atan2", np.arctan2, "The angle of (y, x)."),
    ("copysign", np.copysign, "x with the sign of y."),
    ("and", np.bitwise_and, "Bitwise or logical and."),
    ("or", np.bitwise_or, "Bitwise or logical or."),
    ("xor", np.bitwise_xor, "Bitwise or logical exclusive or."),
    ("shl", np.left_shift, "x shifted left by y bits; 0 for y >= the width."),
    ("shr", np.right_shift, "x shifted right by y bits, arithmetic for signed x."),
]
_COMPARISONS: list[tuple[str, Callable, str]] = [
    ("eq", np.equal, "x == y"),
    ("ne", np.not_equal, "x != y"),
    ("lt", np.less, "x < y"),
    ("le", np.less_equal, "x <= y"),
    ("gt", np.greater, "x > y"),
    ("ge", np.greater_equal, "x >= y"),
]
for _name, _ref, _doc in _UNARY:
    _prim(_name, 1, _ref, _doc)
for _name, _ref, _doc in _BINARY:
    _prim(_name, 2, _ref, _doc)
for _name, _ref, _doc in _COMPARISONS:
    _prim(_name, 2, _ref, _doc, "bool")
_prim("fma", 3, lambda x, y, z: x * y + z, "x * y + z, rounded once where the target can.")
_prim("select", 3, np.where, "y where x (a bool) is true, else z.")


def kernel_symbols(function: Function) -> tuple[str, ...]:
    """The sizes that a kernel's buffers and index expressions are made of, in order of
    appearance.
    """
    names: dict[str, None] = {}

    def collect(x: Any) -> None:
        if isinstance(x, Expr):
            names.update(dict.fromkeys(sorted(s for s in expr.symbols(x) if s[0] != "#")))
        elif isinstance(x, tuple):
            for part in x:
                collect(part)

    for arg in function.args:
        collect(arg.shape)
    for op in function.walk():
        collect(tuple(op.attrs.values()))
    return tuple(names)


def kernels(module: Module) -> list[Function]:
    """The kernels of a module, in order."""
    return [f for f in module.functions.values() if f.level == "kernel"]


def index_checks(kernel: Function) -> list[ToIndex]:
    """The operations of a kernel that may fail; their codes count from 1 over all kernels in
    order.
    """
    return [op for op in kernel.walk() if isinstance(op, ToIndex) and not op.known]


def parallel_extent(kernel: Function) -> Dim:
    """The number of iterations of a kernel's parallel nest."""
    total: Dim = 1
    block = kernel.body
    while True:
        loop = next((o for o in block.ops if isinstance(o, For) and o.kind == "parallel"), None)
        if loop is None:
            return total
        total = total * loop.hi
        block = loop.body
