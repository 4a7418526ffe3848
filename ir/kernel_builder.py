"""Building kernels, and what operators may use to write the code of their elements."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from pjit.ir import expr
from pjit.ir.core import Block, Function, Loc, Op, Value
from pjit.ir.expr import Dim, Expr
from pjit.ir.loops import (
    PRIMS,
    Contraction,
    For,
    Guards,
    IndexValue,
    Inside,
    KCast,
    KConst,
    KYield,
    Load,
    Scratch,
    Store,
    ToIndex,
    kernel_symbols,
)
from pjit.ir.types import INDEX, BufferType, DType, ScalarType


class ScalarBuilder:
    """Builds kernel operations at the end of a block: ``b.add(x, y)``, loops, loads and stores.

    Index expressions are written with the symbols of the loop variables; the builder makes them
    operands and maps.
    """

    def __init__(self, block: Block, loc: Loc) -> None:
        self.block, self.loc = block, loc
        self.variables: dict[str, Value] = {}
        self.enclosing: dict[Block, Block] = {}  # of blocks whose operation is not built yet
        self._fresh = 0

    def emit(
        self, cls: type[Op], operands: Sequence[Value], attrs: dict, regions: Sequence[Block] = ()
    ) -> Op:
        """Builds one operation at the end of the current block."""
        from pjit.ir.opdef import complete_attrs, infer_types

        full = complete_attrs(cls, attrs)
        return self.block.append(
            cls(operands, full, infer_types(cls, operands, full), self.loc, regions)
        )

    def __getattr__(self, name: str) -> Callable[..., Value]:
        key = name.rstrip("_")
        if key not in PRIMS:
            raise AttributeError(f"no scalar primitive is called {key!r}")
        return lambda *xs: self.emit(PRIMS[key], xs, {}).result

    # Scalars

    def const(self, value: Any, like: Value | DType) -> Value:
        """A constant with the dtype of ``like``."""
        dt = like if isinstance(like, DType) else like.dtype
        value = bool(value) if dt.kind == "b" else float(value) if dt.is_float else int(value)
        return self.emit(KConst, (), {"value": value, "dtype": dt}).result

    def zero(self, x: Value) -> Value:
        """0 with the dtype of x."""
        return self.const(0, x)

    def one(self, x: Value) -> Value:
        """1 with the dtype of x."""
        return self.const(1, x)

    def cast(self, x: Value, dt: DType) -> Value:
        """Converts; nothing is emitted when x has the dtype."""
        return x if x.dtype == dt else self.emit(KCast, (x,), {"dtype": dt}).result

    # Indices

    def _fresh_name(self) -> str:
        self._fresh += 1
        return f"%i{self._fresh}"

    def _mapped(
        self, exprs: Sequence[Dim], keep: Mapping[str, Dim] = {}
    ) -> tuple[list[Value], list[Dim]]:
        """Index operands and the expressions over their positions."""
        names = sorted(
            set().union(*(expr.symbols(e) for e in exprs), set()) & self.variables.keys()
        )
        rename: dict[str, Dim] = {n: expr.sym(f"#{i}", 0) for i, n in enumerate(names)}
        return [self.variables[n] for n in names], [
            expr.substitute(e, {**rename, **keep}) for e in exprs
        ]

    def variable(self, value: Value, extent: Dim | None) -> Expr:
        """The symbol that stands for an index value in expressions."""
        name = self._fresh_name()
        self.variables[name] = value
        return expr.sym(name, 0, extent)

    def index(self, e: Dim) -> Value:
        """An index expression as an i64 scalar."""
        values, mapped = self._mapped([e])
        return self.emit(IndexValue, values, {"map": tuple(mapped)}).result

    def to_index(self, x: Value, extent: Dim, what: str = "index", known: bool = False) -> Expr:
        """A data-dependent index, as a symbol for expressions; a ``known`` one is not checked."""
        values, mapped = self._mapped([extent])
        attrs = {"extent": mapped[0], "what": what, "known": known}
        op = self.emit(ToIndex, (x, *values), attrs)
        return self.variable(op.result, extent)

    def _guards(self, guards: Guards) -> tuple[list[Dim], list[tuple[Dim, Dim]]]:
        kept = [g for g in guards if not expr.within(g[0], 0, g[1])]
        return [e for g in kept for e in g], kept

    def inside(self, guards: Guards) -> Value | None:
        """Whether all guards hold; None when that can be proven."""
        flat, kept = self._guards(guards)
        if not kept:
            return None
        values, mapped = self._mapped(flat)
        pairs = tuple(zip(mapped[::2], mapped[1::2], strict=True))
        return self.emit(Inside, values, {"guards": pairs}).result

    # Memory

    def load(
        self, buffer: Value, index: Sequence[Dim], guards: Guards = (), otherwise: float = 0.0
    ) -> Value:
        """Reads an element."""
        flat, _ = self._guards(guards)
        values, mapped = self._mapped([*index, *flat])
        n = len(index)
        attrs = {"map": tuple(mapped[:n]), "otherwise": otherwise}
        attrs["guards"] = tuple(zip(mapped[n::2], mapped[n + 1 :: 2], strict=True))
        return self.emit(Load, (buffer, *values), attrs).result

    def store(self, value: Value, buffer: Value, index: Sequence[Dim], guards: Guards = ()) -> None:
        """Writes an element."""
        flat, _ = self._guards(guards)
        values, mapped = self._mapped([*index, *flat])
        n = len(index)
        attrs: dict[str, Any] = {"map": tuple(mapped[:n])}
        attrs["guards"] = tuple(zip(mapped[n::2], mapped[n + 1 :: 2], strict=True))
        self.emit(Store, (value, buffer, *values), attrs)

    def scratch(self, dt: DType, shape: Sequence[int]) -> Value:
        """Memory private to the thread; call it before the first loop."""
        return self.emit(Scratch, (), {"dtype": dt, "shape": tuple(shape)}).result

    @contextmanager
    def located(self, loc: Loc) -> Iterator[None]:
        """Uses another location for a while."""
        saved, self.loc = self.loc, loc
        try:
            yield
        finally:
            self.loc = saved

    # Loops

    @contextmanager
    def inside_block(self, block: Block) -> Iterator[None]:
        """Builds into another block for a while."""
        self.enclosing[block] = self.block
        saved, self.block = self.block, block
        try:
            yield
        finally:
            self.block = saved

    def loop(
        self,
        lo: Dim,
        hi: Dim,
        body: Callable[..., Sequence[Value] | None],
        *,
        kind: str = "serial",
        init: Sequence[Value] = (),
        combine: Sequence[str] = (),
        unroll: int = 1,
    ) -> tuple[Value, ...]:
        """A loop; ``body(i, *carried)`` gets the loop variable as an expression and returns the
        next carried values.
        """
        values, (lo_, hi_) = self._mapped([lo, hi])
        block = Block([INDEX, *(v.type for v in init)])
        name = self._fresh_name()
        self.variables[name] = block.args[0]
        extent = hi if isinstance(lo, int) and lo == 0 else None
        i = expr.sym(name, 0, extent) if extent is not None else expr.sym(name, 0)
        with self.inside_block(block):
            result = body(i, *block.args[1:])
            self.emit(KYield, tuple(result or ()), {})
        attrs: dict[str, Any] = {"lo": lo_, "hi": hi_, "kind": kind, "n_index": len(values)}
        attrs |= {"unroll": unroll, "combine": tuple(combine)}
        return self.emit(For, (*values, *init), attrs, [block]).results

    def contract(
        self,
        a: Value,
        b: Value,
        *,
        rows: Sequence[Dim],
        taps: Sequence[int],
        depth: Dim,
        cols: Dim,
        tile: tuple[int, int],
        sharing: int = 1,
        row0: Dim,
        col0: Dim,
        a_index: Callable[[Sequence[Expr], Sequence[Expr], Expr], Sequence[Dim]],
        a_guards: Callable[[Sequence[Expr], Sequence[Expr]], Guards],
        b_index: Callable[[Sequence[Expr], Expr, Expr], Sequence[Dim]],
        finish: Callable[[Value, Sequence[Expr], Expr], None],
    ) -> None:
        """One tile of a contraction; ``finish(acc, row coordinates, column)`` builds the region."""
        r = [expr.sym(f"#r{i}", 0, e) for i, e in enumerate(rows)]
        t = [expr.sym(f"#t{i}", 0, e) for i, e in enumerate(taps)]
        k, c = expr.sym("#k", 0, depth), expr.sym("#c", 0, tile[1])
        am, ag = list(a_index(r, t, k)), [e for g in a_guards(r, t) for e in g]
        bm = list(b_index(t, k, c))
        values, mapped = self._mapped([*am, *ag, *bm, row0, col0])
        na, ng, nb = len(am), len(ag), len(bm)
        guards = mapped[na : na + ng]
        block = Block([ScalarType(b.dtype), *[INDEX] * (len(rows) + 1)])
        acc, *coordinates = block.args
        syms = []
        for v, e in zip(coordinates, [*rows, cols], strict=True):
            name = self._fresh_name()
            self.variables[name] = v
            syms.append(expr.sym(name, 0, e))
        with self.inside_block(block):
            finish(acc, syms[:-1], syms[-1])
            self.emit(KYield, (), {})
        attrs = {
            "rows": tuple(rows),
            "taps": tuple(taps),
            "depth": depth,
            "cols": cols,
            "mr": tile[0],
            "nr": tile[1],
            "sharing": sharing,
            "row0": mapped[-2],
            "col0": mapped[-1],
            "a_map": tuple(mapped[:na]),
            "a_guards": tuple(zip(guards[::2], guards[1::2], strict=True)),
            "b_map": tuple(mapped[na + ng : na + ng + nb]),
        }
        self.emit(Contraction, (a, b, *values), attrs, [block])


class Puller(Protocol):
    """What ``element(self, k, index)`` of an operator may use; a lowering pass implements it.

    Indices are expressions (``Dim``), one per dimension of the value; scalars are kernel values.
    """

    b: ScalarBuilder

    def read(self, value: Value, index: Sequence[Dim]) -> Value:
        """The element of a value at an index: a load, or the inlined expression of its producer."""

    def guarded(self, guards: Guards, make: Callable[[], Value], otherwise: float) -> Value:
        """What ``make`` builds where the guards hold, else the constant; nothing out of bounds is
        read.
        """

    def inside(self, guards: Guards) -> Value:
        """Whether all guards hold, as a bool."""

    def index(self, e: Dim) -> Value:
        """An index expression as an i64 scalar."""

    def to_index(self, x: Value, extent: Dim, what: str) -> Expr:
        """A data-dependent index; negative counts from the end; out of range fails the call."""

    def reduce(
        self,
        combine: str,
        extents: Sequence[Dim],
        body: Callable[[Sequence[Dim]], Value],
        dtype: DType,
    ) -> Value:
        """Combines ``body(indices)`` over all indices below the extents with a key of COMBINE."""


class LineWriter(Puller, Protocol):
    """What ``line(self, k, at)`` of an operator may use, beside reading.

    ``line`` runs once for each coordinate ``at`` of the result's dimensions that are not in
    ``walked``, and writes all elements there.
    """

    def write(self, index: Sequence[Dim], value: Value) -> None:
        """Writes an element of the result."""

    def written(self, index: Sequence[Dim]) -> Value:
        """Reads an element of the result that was written before."""

    def each(
        self, extents: Sequence[Dim], body: Callable[..., Value | None], carry: Value | None = None
    ) -> Value | None:
        """Runs ``body(indices)`` in row-major order; with a carry, ``body(indices, carry)``
        returns the next.
        """

    def copy(self, extents: Sequence[Dim], index: Callable[..., tuple[Dim, ...]], x: Value) -> None:
        """Writes the elements of ``x`` at ``index(indices)``, for all indices in any order."""

    def where(self, guards: Guards, body: Callable[[], object]) -> None:
        """Runs the body; where a guard does not hold it reads and writes nothing."""

    @property
    def has_room(self) -> bool:
        """Whether a line can keep the ``room`` values that its operator asks for in memory, so that
        loops can share them; else variables are better.
        """

    def keep(self, i: Dim, value: Value) -> None:
        """Keeps a value in place ``i`` of the room."""

    def kept(self, i: Dim) -> Value:
        """The value in place ``i``."""


def kernel_function(
    name: str, buffers: Sequence[tuple[str, BufferType]], outputs: int, **attrs: Any
) -> Function:
    """An empty kernel; the last ``outputs`` buffers are the ones it writes.

    Whoever fills it with code that uses sizes which no buffer has sets ``symbols`` anew.
    """
    block = Block([t for _, t in buffers], [n for n, _ in buffers])
    function = Function(name, block, "kernel", {"symbols": (), "outputs": outputs, **attrs})
    function.attrs["symbols"] = kernel_symbols(function)
    return function
