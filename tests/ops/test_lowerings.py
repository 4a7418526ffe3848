"""The lowering of each operator, evaluated in NumPy, against its reference.

Every element of a result is a lane. Indices pass through the lowering as symbols with ranges, as in
a kernel, and get numbers where memory is read, so that the index arithmetic is tested as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import pytest

from pjit.ir import expr
from pjit.ir.builder import Builder
from pjit.ir.core import Block, Loc, Module, Op, Value
from pjit.ir.errors import ConstraintError
from pjit.ir.expr import Dim, Expr, Sym, sym
from pjit.ir.loops import COMBINE, PRIMS, Guards
from pjit.ir.opdef import OpDef, Sample, operators
from pjit.ir.ops import Const
from pjit.ir.ops.elementwise import in_f32
from pjit.ir.types import DType, dtype, f32, i64, type_of

TOLERANCE = {"f64": 1e-12, "f32": 1e-5, "f16": 2e-3, "bf16": 1.6e-2}
DIVISIONS: dict[str, Callable] = {
    "//": np.floor_divide,
    "%": np.mod,
    "min": np.minimum,
    "max": np.maximum,
}
CASES = [
    pytest.param(cls, s, dt, id=f"{cls.op_name}-{i}-{dt}")
    for cls in operators()
    if cls.lowering() in ("scalar", "element", "decompose", "tile")
    for i, s in enumerate(cls.samples)
    for dt in s.dtypes or (f32,)
]
SYMBOLIC = [
    pytest.param(cls, s, id=f"{cls.op_name}-{i}")
    for cls in operators()
    if cls.lowering() in ("scalar", "element", "decompose", "tile")
    for i, s in enumerate(cls.samples)
    if any(d > 1 for a in s.args for d in a.shape)
]


@dataclass
class Lanes:
    """A scalar of the kernel level, one number a lane."""

    array: np.ndarray

    @property
    def dtype(self) -> DType:
        return dtype(self.array.dtype)


class Scalars:
    """The scalar primitives, on lanes."""

    def __getattr__(self, name: str) -> Callable[..., Lanes]:
        ref = in_f32(PRIMS[name.rstrip("_")].ref)
        return lambda *xs: Lanes(ref(*(x.array for x in xs)))

    def const(self, value: Any, like: Lanes | DType) -> Lanes:
        dt = like if isinstance(like, DType) else like.dtype
        return Lanes(np.asarray(value).astype(dt.numpy))

    def zero(self, x: Lanes) -> Lanes:
        return self.const(0, x)

    def one(self, x: Lanes) -> Lanes:
        return self.const(1, x)

    def cast(self, x: Lanes, dt: DType) -> Lanes:
        with np.errstate(all="ignore"):
            return Lanes(x.array.astype(dt.numpy))


class LanePuller:
    """A ``pjit.ir.kernel_builder.Puller`` that computes."""

    def __init__(
        self, memory: dict[Value, np.ndarray], lanes: tuple[int, ...], sizes: dict[str, int]
    ) -> None:
        self.b, self.memory = Scalars(), memory
        self.numbers: dict[str, Any] = dict(sizes)
        self.active = np.ones(lanes, bool)
        self.fresh = count()

    def variable(self, numbers: Any, extent: Dim) -> Expr:
        name = f"v{next(self.fresh)}"
        self.numbers[name] = numbers
        return sym(name, 0, extent)

    def number(self, e: Dim) -> Any:
        """The value of an index expression in each lane."""
        if isinstance(e, int):
            return e
        total: Any = 0
        for monomial, c in e.terms:
            term: Any = c
            for a in monomial:
                if isinstance(a, Sym):
                    term = term * self.numbers[a.name]
                else:
                    term = term * DIVISIONS[a.op](self.number(a.lhs), self.number(a.rhs))
            total = total + term
        return total

    def read(self, value: Value, index: Sequence[Dim]) -> Lanes:
        array = self.memory[value]
        assert len(index) == array.ndim
        at = [np.asarray(self.number(e)) for e in index]
        inside = np.asarray(True)
        for i, d in zip(at, array.shape, strict=True):
            inside = inside & (i >= 0) & (i < d)
        assert np.all(inside | ~self.active), f"{index} is outside {array.shape}"
        if array.size == 0:
            return Lanes(np.zeros(np.broadcast_shapes(inside.shape), array.dtype))
        return Lanes(np.asarray(array[tuple(np.where(inside, i, 0) for i in at)]))

    def guarded(self, guards: Guards, make: Callable[[], Lanes], otherwise: float) -> Lanes:
        saved, holds = self.active, self.inside(guards)
        self.active = saved & holds.array
        value = make()
        self.active = saved
        return self.b.select(holds, value, self.b.const(otherwise, value))

    def inside(self, guards: Guards) -> Lanes:
        out = np.asarray(True)
        for e, bound in guards:
            at = np.asarray(self.number(e))
            out = out & (at >= 0) & (at < self.number(bound))
        return Lanes(out)

    def index(self, e: Dim) -> Lanes:
        return Lanes(np.asarray(self.number(e), i64.numpy))

    def to_index(self, x: Lanes, extent: Dim, what: str) -> Expr:
        at = np.where(x.array < 0, x.array + self.number(extent), x.array)
        assert np.all((at >= 0) & (at < self.number(extent)))
        return self.variable(at, extent)

    def reduce(
        self,
        combine: str,
        extents: Sequence[Dim],
        body: Callable[[Sequence[Expr]], Lanes],
        dtype: DType,
    ) -> Lanes:
        value = COMBINE[combine]
        if np.isinf(value) and dtype.is_int:
            info = np.iinfo(dtype.numpy)
            value = info.min if value < 0 else info.max
        total = self.b.const(value, dtype)
        variables = [self.variable(0, e) for e in extents]
        for at in np.ndindex(*(int(self.number(e)) for e in extents)):
            for v, i in zip(variables, at, strict=True):
                self.numbers[str(v)] = i
            x = body(variables)
            assert x.dtype == dtype
            total = getattr(self.b, combine + "_")(total, x)
        return total


def broadcast(index: Sequence[Expr], shape: tuple[Dim, ...]) -> list[Dim]:
    own = index[len(index) - len(shape) :]
    return [0 if d == 1 else i for i, d in zip(own, shape, strict=True)]


class Run:
    """Runs operations by their lowerings; ``sizes`` are the numbers of symbolic dimensions."""

    def __init__(self, module: Module, sizes: dict[str, int]) -> None:
        self.module, self.sizes = module, sizes
        self.memory: dict[Value, np.ndarray] = {}

    def block(self, block: Block) -> None:
        for op in block.ops:
            if isinstance(op, Const):
                self.memory[op.result] = self.module.constants[op.value]
            elif isinstance(op, OpDef):
                self.memory[op.result] = getattr(self, op.lowering())(op)

    def lanes(self, extents: Sequence[Dim]) -> tuple[LanePuller, list[Expr]]:
        """A puller with a lane for each index below the extents, and the index."""
        numbers = tuple(expr.substitute(e, self.sizes) for e in extents)
        k = LanePuller(self.memory, numbers, self.sizes)
        lanes = np.indices(numbers)
        return k, [k.variable(lanes[d], e) for d, e in enumerate(extents)]

    def filled(self, op: Op, out: Lanes) -> np.ndarray:
        assert out.dtype == op.type.dtype
        return np.broadcast_to(out.array, op.type.substitute(self.sizes).static_shape)

    def scalar(self, op: Any) -> np.ndarray:
        k, index = self.lanes(op.type.shape)
        xs = [k.read(x, broadcast(index, x.shape)) for x in op.operands]
        return self.filled(op, op.scalar(k.b, *xs, **op.attrs))

    def element(self, op: Any) -> np.ndarray:
        k, index = self.lanes(op.type.shape)
        return self.filled(op, op.element(k, index))

    def decompose(self, op: Any) -> np.ndarray:
        inner = Builder(Block(), op.loc, self.module)
        out = op.decompose(inner, *op.operands, **op.attrs)
        self.block(inner.block)
        assert out.type.substitute(self.sizes) == op.type.substitute(self.sizes)
        return self.memory[out]

    def tile(self, op: Any) -> np.ndarray:
        """Accumulates all elements of a contraction, each lane one of them."""
        tile = op.tile()
        a, b = op.operands[:2]
        nr = expr.substitute(b.shape[-1], self.sizes)
        k, index = self.lanes((*tile.batch, *tile.rows, tile.cols))
        batch, rows, col = index[: len(tile.batch)], index[len(tile.batch) : -1], index[-1]
        block = k.variable(k.number(col) // nr, expr.ceildiv(tile.cols, nr))
        column = k.variable(k.number(col) % nr, nr)
        acc = f32 if b.dtype.bits == 16 else b.dtype
        own: list[tuple[Dim, Dim]] = []  # the rows that an item of the batch has
        if tile.ragged:
            every = [np.asarray(k.number(items.chosen(batch))) for items in tile.ragged]
            assert np.all(sum(every) <= 1), "an item is of one kind, or has no rows"
            own = [(rows[0], sum(items.chosen(batch) * items.rows for items in tile.ragged))]

        def body(inner: Sequence[Expr]) -> Lanes:
            *taps, depth = inner
            x = k.guarded(
                [*tile.a_guards(batch, rows, taps), *own],
                lambda: k.read(a, tile.a_index(batch, rows, taps, depth)),
                0.0,
            )
            y = k.read(b, tile.b_index(batch, block, taps, depth, column))
            return k.b.mul(k.b.cast(x, acc), k.b.cast(y, acc))

        total = k.b.cast(k.reduce("add", [*tile.taps, tile.depth], body, acc), op.type.dtype)
        shape = op.type.substitute(self.sizes).static_shape
        out, seen = np.zeros(shape, total.array.dtype), np.zeros(shape, int)
        at = [np.asarray(k.number(e)) for e in tile.out_index(batch, rows, col)]
        if own:
            mine = np.broadcast_to(k.number(own[0][0]) < k.number(own[0][1]), total.array.shape)
            total = Lanes(total.array[mine])
            at = [np.broadcast_to(x, mine.shape)[mine] for x in at]
        out[tuple(at)] = total.array
        np.add.at(seen, tuple(at), 1)
        assert np.all(seen == 1), "each element is written once"
        return out


def compare(cls: type[OpDef], s: Sample, dt: DType, symbols: dict[int, Dim]) -> None:
    rng = np.random.default_rng(0)
    xs = [a.make(rng, dt) for a in s.args]
    types = [t.with_shape(tuple(symbols.get(d, d) for d in t.shape)) for t in map(type_of, xs)]
    module, block = Module(), Block(types)
    op = Builder(block, Loc("test"), module).build(cls, block.args, dict(s.attrs))
    run = Run(module, {str(d): n for n, d in symbols.items()})
    run.memory.update(zip(block.args, xs, strict=True))
    with np.errstate(all="ignore"):
        run.block(block)
    got, want = run.memory[op.result], np.asarray(cls.ref(*xs, **op.attrs))  # type: ignore[attr-defined]
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    if not dtype(want.dtype).is_float:
        np.testing.assert_array_equal(got, want)
        return
    wide = want.astype(np.float64)
    largest = np.max(np.abs(wide), initial=0.0, where=np.isfinite(wide))
    name = str(op.type.dtype)
    tolerance = s.tolerance.get(name, TOLERANCE[name]) * max(largest, 1e-30)
    np.testing.assert_allclose(got.astype(np.float64), wide, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("cls", "s", "dt"), CASES)
def test_lowering_agrees_with_reference(cls: type[OpDef], s: Sample, dt: DType) -> None:
    compare(cls, s, dt, {})


@pytest.mark.parametrize(("cls", "s"), SYMBOLIC)
def test_lowering_with_symbolic_sizes(cls: type[OpDef], s: Sample) -> None:
    """All sizes of the operands are symbols, then one at a time; an operator may refuse some."""
    sizes = sorted({d for a in s.args for d in a.shape if d > 1})
    accepted = 0
    for chosen in [sizes, *([n] for n in sizes)]:
        symbols: dict[int, Dim] = {n: sym(f"s{n}") for n in chosen}
        try:
            compare(cls, s, (s.dtypes or (f32,))[0], symbols)
        except ConstraintError:
            continue
        accepted += 1
    if not accepted:
        pytest.skip("the operator needs the sizes of this sample")
