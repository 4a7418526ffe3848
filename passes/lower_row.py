"""Kernels for reductions over trailing dimensions and what surrounds them, one row at a time."""

from __future__ import annotations

from collections.abc import Sequence

from pjit.ir import expr, ops
from pjit.ir.core import Op, Value
from pjit.ir.expr import Dim, flatten, unflatten
from pjit.ir.loops import identity
from pjit.ir.opdef import Elementwise
from pjit.ir.types import DType, bool_, dtype
from pjit.passes.fuse import ROW_REDUCTIONS
from pjit.passes.lower import KernelBuild

EXPENSIVE = (ops.Exp, ops.Log, ops.Tanh, ops.Erf, ops.Gelu, ops.Sigmoid, ops.Pow, ops.Sin, ops.Cos)
SCRATCH_LIMIT = 16384  # elements of a row that are kept between two passes over it


def lower_row(k: KernelBuild) -> None:
    """A parallel loop over rows; in it a vector loop for each reduction and one for the result."""
    _Row(k).lower()


class _Row:
    def __init__(self, k: KernelBuild) -> None:
        self.k, self.b = k, k.b
        self.ops = [o for o in k.fused.body.ops if not o.terminator]
        first = next(o for o in self.ops if isinstance(o, ROW_REDUCTIONS))
        depth, full = k.fused.choice("depth"), first.operands[0].shape
        self.full, self.lead, self.tail = full, full[: len(full) - depth], full[len(full) - depth :]
        self.length = expr.product(self.tail)
        self.kept: dict[Value, Value] = {}  # values of a row -> scratch
        for v in self._kept_values():
            self.kept[v] = self.b.scratch(v.dtype, [self.length])  # type: ignore[list-item]

    def _kept_values(self) -> list[Value]:
        """Values too costly to compute again that a reduction and a later loop both read."""
        if not isinstance(self.length, int) or self.length > SCRATCH_LIMIT:
            return []
        return [
            o.result
            for o in self.ops
            if isinstance(o, EXPENSIVE) and o.type.shape == self.full and len(o.result.uses) > 1
        ]

    def lower(self) -> None:
        self.k.parallel(self.lead, self._row)

    def _row(self, row: Sequence[Dim]) -> None:
        root = self.k.root
        for op in self.ops:
            if isinstance(op, ROW_REDUCTIONS):
                self._reduce(op, row)
            elif self._per_row(op.result):
                self._read_row(op.result, row)
        if self._per_row(root):
            index = self._row_index(root, row)
            self.b.store(self._read_row(root, row), self.k.output, index)
            return

        def last(j: Dim) -> None:
            index = self._index(row, j)
            self.b.store(self.k.puller.read(root, index), self.k.output, index)

        self.b.loop(0, self.length, last, kind="vector")

    def _index(self, row: Sequence[Dim], j: Dim) -> tuple[Dim, ...]:
        return (*row, *unflatten(j, self.tail))

    def _per_row(self, v: Value) -> bool:
        """Whether the value has one element per row (and is not a row of one element in full
        shape).
        """
        n = len(self.lead)
        return (
            v.shape != self.full and v.shape[:n] == self.lead and all(d == 1 for d in v.shape[n:])
        )

    def _row_index(self, v: Value, row: Sequence[Dim]) -> tuple[Dim, ...]:
        return (*row, *[0] * (len(v.shape) - len(row)))

    def _read_row(self, v: Value, row: Sequence[Dim]) -> Value:
        return self.k.puller.read(v, self._row_index(v, row))

    def _reduce(self, op: Op, row: Sequence[Dim]) -> None:
        source, combine = op.operands[0], op.primitive  # type: ignore[attr-defined]
        acc: DType = op.accumulator  # type: ignore[attr-defined]
        if source.dtype == bool_:
            acc = dtype(f"u{self._width(source)}")  # as wide as what the bools come from
        fresh = [v for v in self.kept if v not in self.k.puller.given and self._reaches(v, source)]

        def step(j: Dim, carry: Value) -> list[Value]:
            index = self._index(row, j)
            x = self.k.puller.read(source, index)
            for v in fresh:
                self.b.store(self.k.puller.read(v, index), self.kept[v], [j])
            return [self.k.puller.join(combine, carry, self.b.cast(x, acc))]

        start = self.b.const(identity(combine, acc), acc)
        total = self.b.loop(
            0, self.length, step, kind="vector", init=[start], combine=[combine], unroll=4
        )[0]
        result = self.b.cast(total, op.result.dtype)
        self.k.puller.given[op.result] = lambda index: result
        for v in fresh:
            self._read_from_scratch(v)

    def _read_from_scratch(self, v: Value) -> None:
        n = len(self.lead)
        memory = self.kept[v]
        self.k.puller.given[v] = lambda index: self.b.load(memory, [flatten(index[n:], self.tail)])

    def _width(self, v: Value) -> int:
        """Bits of the widest number that a value is computed from within the row."""
        seen, queue = {v}, [v]
        while queue:
            op = queue.pop().op
            new = set(op.operands) - seen if isinstance(op, Elementwise) else set()
            seen |= new
            queue += new
        return max(x.dtype.bits for x in seen)

    def _reaches(self, v: Value, end: Value) -> bool:
        """Whether ``end`` is computed from ``v`` within the row, without another reduction."""
        if v is end:
            return True
        op = end.op
        return isinstance(op, Elementwise) and any(self._reaches(v, x) for x in op.operands)
