"""Which elements of its buffers each parallel iteration of a kernel may touch.

Loops and index expressions are followed with intervals, one for each iteration at once. Of a buffer
that is the range from the first element, row-major, to behind the last. Ranges may be larger than
what is touched, never smaller: an index is also within its dimension, as nothing is read or written
outside of a buffer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from pjit.ir.core import Block, Function, Value
from pjit.ir.expr import Call, Dim, Expr, flatten, product
from pjit.ir.loops import Contraction, For, Load, Store, ToIndex, parallel_extent
from pjit.ir.types import BufferType


@dataclass(frozen=True)
class Interval:
    """The least and the greatest integer, for each iteration or for all."""

    low: Any
    high: Any


@dataclass(frozen=True)
class Range:
    """The elements that iterations may touch: those of an iteration and all later ones begin at
    ``first``, those of it and all before end before ``end``. Both are non-decreasing.
    """

    first: np.ndarray
    end: np.ndarray

    def over(self, lo: np.ndarray, hi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The elements of the iterations from ``lo`` to before ``hi``."""
        return self.first[lo], self.end[hi - 1]

    def meeting(self, first: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The iterations, from the first to behind the last, that may touch elements from
        ``first`` to before ``end``.
        """
        return np.searchsorted(self.end, first, "right"), np.searchsorted(self.first, end, "left")


def footprint(kernel: Function) -> list[Range]:
    """The range of each buffer, in order; that of one that is not touched is empty.

    Args:
        kernel: A kernel whose sizes are all known and not 0.
    """
    return _Reader(kernel).ranges()


class _Reader:
    def __init__(self, kernel: Function) -> None:
        self.kernel = kernel
        count = parallel_extent(kernel)
        assert isinstance(count, int)
        self.count = count
        self.indices: dict[Value, Interval] = {}
        self.touched: dict[Value, Interval] = {}

    def ranges(self) -> list[Range]:
        self._block(self.kernel.body, self.count)
        found: list[Range] = []
        none = np.zeros(self.count, np.int64)
        for v in self.kernel.args:
            x = self.touched.get(v, Interval(0, -1))
            first = np.minimum.accumulate((none + x.low)[::-1])[::-1]
            found.append(Range(first, np.maximum.accumulate(none + x.high + 1)))
        return found

    def _block(self, block: Block, inner: int) -> None:
        """Reads a block; ``inner`` counts the parallel iterations in it."""
        for op in block.ops:
            if isinstance(op, For):
                self._loop(op, inner)
            elif isinstance(op, Load | Store):
                self._touch(op.buffer, op.map, self._atoms(op.index))
            elif isinstance(op, Contraction):
                self._contraction(op, inner)
            elif isinstance(op, ToIndex):
                extent = interval(op.extent, self._atoms(op.index))
                self.indices[op.result] = Interval(0, extent.high - 1)

    def _atoms(self, index: Sequence[Value]) -> dict[str, Interval]:
        return {f"#{i}": self.indices[v] for i, v in enumerate(index)}

    def _loop(self, op: For, inner: int) -> None:
        if op.kind == "parallel":
            inner //= op.hi
            at = np.arange(self.count) // inner % op.hi
            self.indices[op.body.args[0]] = Interval(at, at)
        else:
            atoms = self._atoms(op.operands[: op.n_index])
            lo, hi = interval(op.lo, atoms).low, interval(op.hi, atoms).high - 1
            self.indices[op.body.args[0]] = Interval(lo, np.maximum(lo, hi))
        self._block(op.body, inner)

    def _contraction(self, op: Contraction, inner: int) -> None:
        """A tile; one at the end of the rows is moved back and reads rows before its own."""
        atoms = self._atoms(op.index)
        total = _known(product(op.rows))
        row0, col0 = interval(op.row0, atoms), interval(op.col0, atoms)
        last = np.minimum(row0.high + op.mr, total) - 1
        read = Interval(np.maximum(np.minimum(row0.low, total - op.mr), 0), last)
        inside = atoms | {"#k": _below(op.depth), "#c": _below(op.nr)}
        inside |= {f"#t{i}": _below(n) for i, n in enumerate(op.taps)}
        self._touch(op.b, op.b_map, inside)
        _, *coordinates, column = op.regions[0].args
        columns = Interval(col0.low, np.minimum(col0.high + op.nr, op.cols) - 1)
        self.indices[column] = columns
        own = Interval(row0.low, last)
        for read_part, own_part in zip(_parts(read, op.rows), _parts(own, op.rows), strict=True):
            rows = {f"#r{i}": x for i, x in enumerate(_unflatten(read_part, op.rows))}
            self._touch(op.a, op.a_map, inside | rows)
            self.indices |= dict(zip(coordinates, _unflatten(own_part, op.rows), strict=True))
            self._block(op.regions[0], inner)

    def _touch(self, buffer: Value, index: Sequence[Dim], atoms: Mapping[str, Interval]) -> None:
        assert isinstance(buffer.type, BufferType)
        shape = [_known(d) for d in buffer.type.shape]
        low: Any = 0
        high: Any = 0
        for x, extent in zip(index, shape, strict=True):
            along = interval(x, atoms)
            low = low * extent + np.clip(along.low, 0, extent - 1)
            high = high * extent + np.clip(along.high, 0, extent - 1)
        # A position that was taken apart is whole again, but guards may leave it out of bounds.
        flat, most = interval(flatten(index, shape), atoms), math.prod(shape) - 1
        low = np.maximum(low, np.minimum(flat.low, most))
        high = np.maximum(low, np.minimum(high, flat.high))
        before = self.touched.get(buffer)
        if before is not None:
            low, high = np.minimum(low, before.low), np.maximum(high, before.high)
        self.touched[buffer] = Interval(low, high)


def interval(x: Dim, atoms: Mapping[str, Interval]) -> Interval:
    """The interval of an expression from those of its symbols."""
    if not isinstance(x, Expr):
        return Interval(x, x)
    low: Any = 0
    high: Any = 0
    for monomial, coefficient in x.terms:
        term = Interval(coefficient, coefficient)
        for atom in monomial:
            term = _times(term, _call(atom, atoms) if isinstance(atom, Call) else atoms[atom.name])
        low, high = low + term.low, high + term.high
    return Interval(low, high)


def _call(call: Call, atoms: Mapping[str, Interval]) -> Interval:
    x, y = interval(call.lhs, atoms), interval(call.rhs, atoms)
    if call.op == "min":
        return Interval(np.minimum(x.low, y.low), np.minimum(x.high, y.high))
    if call.op == "max":
        return Interval(np.maximum(x.low, y.low), np.maximum(x.high, y.high))
    ends = [a // b for a in (x.low, x.high) for b in (y.low, y.high)]
    low, high = reduce(np.minimum, ends), reduce(np.maximum, ends)
    if call.op == "//":
        return Interval(low, high)
    same = (low == high) & (y.low == y.high)  # within one period
    return Interval(
        np.where(same, x.low - low * y.low, 0), np.where(same, x.high - low * y.low, y.high - 1)
    )


def _times(x: Interval, y: Interval) -> Interval:
    ends = [a * b for a in (x.low, x.high) for b in (y.low, y.high)]
    return Interval(reduce(np.minimum, ends), reduce(np.maximum, ends))


def _known(d: Dim) -> int:
    assert isinstance(d, int)
    return d


def _below(extent: int) -> Interval:
    return Interval(0, extent - 1)


def _parts(position: Interval, extents: Sequence[int]) -> list[Interval]:
    """Positions before the first coordinate gets its last value, and from there on; or all, where
    it does not change.
    """
    if len(extents) == 1 or extents[0] == 1:
        return [position]
    inner = product(extents[1:])
    border = position.high // inner * inner
    low, high = position.low, position.high
    before = np.where(border > low, border - 1, high)
    return [Interval(low, before), Interval(np.maximum(low, border), high)]


def _unflatten(position: Interval, extents: Sequence[int]) -> list[Interval]:
    """The coordinates of positions."""
    out: list[Interval] = []
    step = 1
    for at in range(len(extents) - 1, -1, -1):
        low, high = position.low // step, position.high // step
        if at:
            whole = low // extents[at] == high // extents[at]
            found = Interval(
                np.where(whole, low % extents[at], 0),
                np.where(whole, high % extents[at], extents[at] - 1),
            )
        else:
            found = Interval(low, high)
        out.insert(0, found)
        step *= extents[at]
    return out
