"""Turns the operations of a group into scalar code by pulling elements from the results to the
inputs.

To compute one element of a value, read the elements of its operands that it needs: the operator's
``scalar`` or ``element`` says which. Data movement becomes index arithmetic, and fusion is the
choice of which values are computed in place and which are read from memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod

import numpy as np

from pjit.ir import expr
from pjit.ir.core import Block, Op, Value
from pjit.ir.expr import Dim, Expr
from pjit.ir.kernel_builder import ScalarBuilder
from pjit.ir.loops import Guards, KCast, Load, identity
from pjit.ir.opdef import Elementwise
from pjit.ir.ops.basic import Const
from pjit.ir.types import DType, bool_, i64
from pjit.passes.bounds import is_below

UNROLL_LIMIT = 64  # reductions over at most this many elements are written out
Read = Callable[[Sequence[Dim]], Value]


def broadcast_index(index: Sequence[Dim], shape: Sequence[Dim]) -> tuple[Dim, ...]:
    """The index into an operand of ``shape`` that broadcasts to where ``index`` points."""
    tail = index[len(index) - len(shape) :]
    return tuple(
        0 if isinstance(d, int) and d == 1 else i for i, d in zip(tail, shape, strict=True)
    )


class GroupPuller:
    """Implements ``pjit.ir.kernel_builder.Puller`` for the operations of one group.

    Args: b: Where the code goes. constants: The module's constants, for those of one element.
        given: How to read values that have an element at hand: inputs of the group, and what was
        computed before. bounds: Buffers whose elements are indices below a known size.
    """

    def __init__(
        self,
        b: ScalarBuilder,
        constants: Mapping[str, np.ndarray],
        given: dict[Value, Read],
        bounds: Mapping[Value, Dim],
    ) -> None:
        self.b, self.constants, self.given, self.bounds = b, constants, given, bounds
        self._guards: list[tuple[Dim, Dim]] = []
        self._op: Op | None = None  # the operation that is asked for an element
        self._settled: tuple[Op, str | None] | None = None  # whose guards of what hold
        self._memo: dict[Block, dict[tuple, Value]] = {}

    def buffer(self, memory: Value) -> Read:
        """Reads elements of a buffer, under the guards in force."""
        return lambda index: self.b.load(memory, tuple(index), self._guards)

    def forget(self) -> None:
        """Forgets computed elements: what follows sees memory that has changed."""
        self._memo.clear()

    def read(self, value: Value, index: Sequence[Dim]) -> Value:
        """The element of a value at an index."""
        index = tuple(index)
        key = (value, index, tuple(self._guards))
        block: Block | None = self.b.block
        while block is not None:
            found = self._memo.get(block, {}).get(key)
            if found is not None:
                return found
            block = self.b.enclosing.get(block)
        result = self._compute(value, index)
        self._memo.setdefault(self.b.block, {})[key] = result
        return result

    def _compute(self, value: Value, index: tuple[Dim, ...]) -> Value:
        if value in self.given:
            return self.given[value](index)
        op = value.op
        assert op is not None, f"{value} is not computed in the group"
        with self.b.located(op.loc):
            if isinstance(op, Const):
                return self.b.const(self.constants[op.value].reshape(-1)[0], op.dtype)
            if isinstance(op, Elementwise):
                xs = [self.read(x, broadcast_index(index, x.shape)) for x in op.operands]
                return op.scalar(self.b, *xs, **op.attrs)  # type: ignore[attr-defined]
            asking, self._op = self._op, op
            try:
                return op.element(self, index)  # type: ignore[attr-defined]
            finally:
                self._op = asking

    def guarded(self, guards: Guards, make: Callable[[], Value], otherwise: float) -> Value:
        """What ``make`` builds where the guards hold, else the constant."""
        open_guards = [g for g in guards if not self._holds(g)]
        if not open_guards:
            return make()
        saved = self._guards
        self._guards = [*saved, *open_guards]
        try:
            value = make()
        finally:
            self._guards = saved
        load = value.op
        if isinstance(load, Load) and not saved and not value.uses:
            if len(load.guards) == len(open_guards):
                load.attrs["otherwise"] = float(otherwise)
                return value
        condition = self.b.inside(open_guards)
        return self.b.select(condition, value, self.b.const(otherwise, value))

    def _holds(self, guard: tuple[Dim, Dim]) -> bool:
        if self._settled is not None:
            op, variable = self._settled
            if op is self._op and variable in expr.symbols(guard[0]):
                return True
        return expr.within(guard[0], 0, guard[1])

    @contextmanager
    def inside_along(self, op: Op, variable: str | None) -> Iterator[None]:
        """Takes an operation's guards of a loop variable to hold: the caller has chosen its range
        so.
        """
        saved, self._settled = self._settled, (op, variable)
        try:
            yield
        finally:
            self._settled = saved

    def inside(self, guards: Guards) -> Value:
        """Whether all guards hold, as a bool."""
        known = self.b.inside(guards)
        return known if known is not None else self.b.const(True, bool_)

    def index(self, e: Dim) -> Value:
        """An index expression as an i64 scalar."""
        return self.b.index(e)

    def to_index(self, x: Value, extent: Dim, what: str) -> Expr:
        """A data-dependent index; it is checked unless its buffer is known to hold such indices."""
        return self.b.to_index(x, extent, what, is_below(self._bound(x), extent))

    def _bound(self, x: Value) -> Dim | None:
        """What a scalar is below if it was read from a buffer as it is there."""
        op = x.op
        while isinstance(op, KCast) and op.attrs["dtype"] == i64:  # which is as wide as any index
            op = op.operands[0].op
        return self.bounds.get(op.buffer) if isinstance(op, Load) and not op.guards else None

    def reduce(
        self,
        combine: str,
        extents: Sequence[Dim],
        body: Callable[[Sequence[Dim]], Value],
        dtype: DType,
    ) -> Value:
        """Combines the body over all indices below the extents, in row-major order."""
        known = [e for e in extents if isinstance(e, int)]
        if len(known) == len(extents) and prod(known) <= UNROLL_LIMIT:
            return self._written_out(combine, known, body, dtype)
        start = self.b.const(identity(combine, dtype), dtype)

        def nest(done: list[Dim], carry: Value) -> Value:
            if len(done) == len(extents):
                return self.join(combine, carry, body(done))
            return self.b.loop(
                0, extents[len(done)], lambda i, c: [nest([*done, i], c)], init=[carry]
            )[0]

        return nest([], start)

    def _written_out(
        self, combine: str, extents: list[int], body: Callable[[Sequence[Dim]], Value], dt: DType
    ) -> Value:
        total: Value | None = None
        for at in np.ndindex(*extents):
            x = body([int(i) for i in at])
            total = x if total is None else self.join(combine, total, x)
        return total if total is not None else self.b.const(identity(combine, dt), dt)

    def join(self, combine: str, carry: Value, x: Value) -> Value:
        """``carry combine x``; a product that is added becomes a fused multiply-add."""
        op = x.op
        if combine == "add" and op is not None and op.op_name == "k.mul" and not x.uses:
            if x.dtype.is_float and x.dtype.bits >= 32 and op.parent is self.b.block:
                factors = op.operands
                self._drop(x)
                op.erase()
                return self.b.fma(*factors, carry)
        return getattr(self.b, combine + "_" if combine in ("and", "or") else combine)(carry, x)

    def _drop(self, x: Value) -> None:
        memo = self._memo.get(self.b.block, {})
        for key in [k for k, v in memo.items() if v is x]:
            del memo[key]
