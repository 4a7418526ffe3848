"""The lowering of each operator, evaluated in NumPy, against its reference.

Every element of a result is a lane. Indices pass through the lowering as symbols with ranges, as in a kernel, and get
numbers where memory is read, so that the index arithmetic is tested as well.
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
from pjit.ir.expr import Dim, Expr, Sym, sym
from pjit.ir.loops import COMBINE, PRIMS, Guards
from pjit.ir.opdef import OpDef, Sample, operators
from pjit.ir.ops import Const
from pjit.ir.ops.elementwise import in_f32
from pjit.ir.types import DType, bool_, dtype, f32, i64, type_of

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
    """A ``pjit.ir.loops.Puller`` that computes."""

    def __init__(self, memory: dict[Value, np.ndarray]) -> None:
        self.b, self.memory = Scalars(), memory
        self.numbers: dict[str, Any] = {}
        self.active: Any = True
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

    def holds(self, guards: Guards) -> Any:
        out: Any = True
        for e, bound in guards:
            at = self.number(e)
            out = out & (np.asarray(at) >= 0) & (np.asarray(at) < self.number(bound))
        return out

    def read(self, value: Value, index: Sequence[Dim]) -> Lanes:
        array = self.memory[value]
        assert len(index) == array.ndim
        at = [np.asarray(self.number(e)) for e in index]
        inside = np.asarray(True)
        for i, d in zip(at, array.shape, strict=True):
            inside = inside & (i >= 0) & (i < d)
        assert np.all(inside | ~np.asarray(self.active)), f"{index} is outside {array.shape}"
        if array.size == 0:
            return Lanes(np.zeros(np.broadcast_shapes(inside.shape), array.dtype))
        return Lanes(np.asarray(array[tuple(np.where(inside, i, 0) for i in at)]))

    def guarded(self, guards: Guards, make: Callable[[], Lanes], otherwise: float) -> Lanes:
        saved, holds = self.active, self.holds(guards)
        self.active = saved & np.asarray(holds)
        value = make()
        self.active = saved
        return self.b.select(Lanes(np.asarray(holds)), value, self.b.const(otherwise, value))

    def inside(self, guards: Guards) -> Lanes:
        return Lanes(np.asarray(self.holds(guards), bool_.numpy))

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


def broadcast(index: Sequence[Expr], shape: tuple[int, ...]) -> list[Dim]:
    own = index[len(index) - len(shape) :]
    return [0 if d == 1 else i for i, d in zip(own, shape, strict=True)]


def run_op(op: Op, memory: dict[Value, np.ndarray]) -> np.ndarray:
    """The result of an operation by its ``scalar``, ``element`` or ``tile``."""
    assert isinstance(op, OpDef)
    shape = op.type.static_shape
    k = LanePuller(memory)
    kind = op.lowering()
    if kind == "tile":
        return run_tile(op, k, shape)
    lanes = np.indices(shape)
    index = [k.variable(lanes[d], n) for d, n in enumerate(shape)]
    if kind == "scalar":
        xs = [k.read(x, broadcast(index, x.tensor.static_shape)) for x in op.operands]
        out = op.scalar(k.b, *xs, **op.attrs)  # type: ignore[attr-defined]
    else:
        out = op.element(k, index)  # type: ignore[attr-defined]
    assert out.dtype == op.type.dtype
    return np.broadcast_to(out.array, shape)


def run_tile(op: Any, k: LanePuller, shape: tuple[int, ...]) -> np.ndarray:
    """Accumulates all elements of a contraction, each lane one of them."""
    tile = op.tile()
    a, b = op.operands[:2]
    nr = b.shape[-1]
    extents = (*tile.batch, *tile.rows, tile.cols)
    lanes = np.indices(extents)
    index = [k.variable(lanes[d], n) for d, n in enumerate(extents)]
    batch, rows = index[: len(tile.batch)], index[len(tile.batch) : -1]
    block = k.variable(lanes[-1] // nr, expr.ceildiv(tile.cols, nr))
    column = k.variable(lanes[-1] % nr, nr)

    def body(inner: Sequence[Expr]) -> Lanes:
        *taps, depth = inner
        x = k.guarded(
            tile.a_guards(batch, rows, taps),
            lambda: k.read(a, tile.a_index(batch, rows, taps, depth)),
            0.0,
        )
        y = k.read(b, tile.b_index(batch, block, taps, depth, column))
        return k.b.mul(k.b.cast(x, acc), k.b.cast(y, acc))

    acc = f32 if b.dtype.bits == 16 else b.dtype
    total = k.b.cast(k.reduce("add", [*tile.taps, tile.depth], body, acc), op.type.dtype)
    out = np.zeros(shape, total.array.dtype)
    seen = np.zeros(shape, int)
    at = tuple(np.asarray(k.number(e)) for e in tile.out_index(batch, rows, index[-1]))
    out[at] = total.array
    np.add.at(seen, at, 1)
    assert np.all(seen == 1), "each element is written once"
    return out


def run_block(block: Block, module: Module, memory: dict[Value, np.ndarray]) -> None:
    """Runs operations by their lowerings; those with none but a reference by that."""
    for op in block.ops:
        if isinstance(op, Const):
            memory[op.result] = module.constants[op.value]
        elif isinstance(op, OpDef) and op.lowering() == "decompose":
            inner = Builder(Block(), op.loc, module)
            out = op.decompose(inner, *op.operands, **op.attrs)  # type: ignore[attr-defined]
            run_block(inner.block, module, memory)
            assert out.type == op.result.type
            memory[op.result] = memory[out]
        else:
            memory[op.result] = run_op(op, memory)


@pytest.mark.parametrize(("cls", "s", "dt"), CASES)
def test_lowering_agrees_with_reference(cls: type[OpDef], s: Sample, dt: DType) -> None:
    rng = np.random.default_rng(0)
    xs = [a.make(rng, dt) for a in s.args]
    module, block = Module(), Block([type_of(x) for x in xs])
    op = Builder(block, Loc("test"), module).build(cls, block.args, dict(s.attrs))
    memory = dict(zip(block.args, xs, strict=True))
    with np.errstate(all="ignore"):
        run_block(block, module, memory)
    got, want = memory[op.result], np.asarray(cls.ref(*xs, **op.attrs))  # type: ignore[attr-defined]
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    if not dtype(want.dtype).is_float:
        np.testing.assert_array_equal(got, want)
        return
    wide = want.astype(np.float64)
    largest = np.max(np.abs(wide), initial=0.0, where=np.isfinite(wide))
    tolerance = s.tolerance.get(str(op.type.dtype), TOLERANCE[str(op.type.dtype)])
    np.testing.assert_allclose(
        got.astype(np.float64), wide, rtol=0, atol=tolerance * max(largest, 1e-30)
    )
