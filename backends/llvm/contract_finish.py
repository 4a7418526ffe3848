"""The end of a tile contraction: the region on every element; see ``contract``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pjit.backends.llvm.indexing import Lane
from pjit.backends.llvm.lanes import (
    I64,
    fetch,
    gep,
    lanes_of,
    memory_type,
    stack,
    vector,
)
from pjit.backends.llvm.memory import linear_offset
from pjit.ir import expr
from pjit.ir.core import Op
from pjit.ir.expr import Dim
from pjit.ir.loops import Contraction, Load, Prim, Store
from pjit.ir.target import LINE

if TYPE_CHECKING:
    from pjit.backends.llvm.contract import TileEmitter

INLINE_REGION = 12  # cost of a region that is repeated for each vector of the tile
_COSTLY = 25  # the cost of a primitive that is a polynomial
_CHEAP = {"add", "sub", "mul", "div", "neg", "abs", "min", "max", "select", "fma", "and", "or"}
_CHEAP |= {"eq", "ne", "lt", "le", "gt", "ge", "sqrt", "floor", "ceil", "round", "trunc"}


class Finish:
    """Runs the region on every element of a tile: a vector of columns at a time."""

    def __init__(self, c: TileEmitter) -> None:
        self.c, self.e, self.b, self.op = c, c.e, c.b, c.op
        self.n = c.lanes
        self.sums: dict[tuple[int, int], Any] = {}

    def fetch(self) -> None:
        """Where the region reads tensors that the L2 cache does not hold, asks for what it reads of
        them and for where it writes: that comes while the sums are made.
        """
        ops = self.op.regions[0].ops
        far: list[Load | Store] = [x for x in ops if isinstance(x, Load) and self._is_far(x)]
        stores = [x for x in ops if isinstance(x, Store)]
        for x in (*far, *stores) if far else ():
            self._fetch_rows(x)

    def _is_far(self, x: Load) -> bool:
        size = expr.product(x.buffer.type.shape) * x.buffer.dtype.itemsize
        return not isinstance(size, int) or size > self.e.machine.l2 // 2

    def _fetch_rows(self, op: Load | Store) -> None:
        """Asks for the lines of the tile's rows, if they are rows there."""
        c, b, e, dt = self.c, self.b, self.e, op.buffer.dtype
        region = self.op.regions[0]
        _, *coordinates, column = region.args
        outside = {v: x for v, x in e.exprs.items() if v.owner not in region.ops}
        row, along = expr.sym("#row", 0, c.total), expr.sym("#column", 0, self.op.cols)
        known = dict(zip((*coordinates, column), (*c.coordinates(row), along), strict=True))
        if not all(v in known or v in outside for v in op.index):
            return
        names = {f"#{i}": known.get(v, outside.get(v, 0)) for i, v in enumerate(op.index)}
        index = [expr.substitute(x, names) for x in op.map]
        offset = expr.linear(linear_offset(index, op.buffer.type.shape), "#column")
        start = expr.linear(offset[1], "#row") if offset and offset[0] == 1 else None
        if start is None or start[0] == 0:
            return
        first = e.index.scalar(start[1] + start[0] * c.first + c.of(self.op.col0))
        base = gep(b, e.buffers[op.buffer], first, memory_type(dt))
        for i in range(c.mr):
            at = b.mul(c.clamped(i), e.index.scalar(start[0]))
            for j in range(0, self.op.nr * dt.itemsize, LINE):
                address = gep(b, base, b.add(at, I64(j // dt.itemsize)), memory_type(dt))
                fetch(b, address, 1, write=isinstance(op, Store))

    def emit(self, sums: dict[tuple[int, int], Any]) -> None:
        """Runs the region on the sums."""
        op, self.sums = self.op, sums
        col0 = self.c.of(op.col0)
        even = isinstance(op.cols, int) and op.cols % op.nr == 0 and expr.mod(col0, op.nr) == 0
        if even:
            self._rows(col0, False, _cost(op) > INLINE_REGION)
        elif self.e.machine.masked:
            self._rows(col0, True, _cost(op) > INLINE_REGION)
        else:
            self._either(col0)

    def _either(self, col0: Dim) -> None:
        """Without masks for a tile that has all its columns."""
        b = self.b
        full = b.icmp_signed("<=", self.e.index.scalar(col0 + self.op.nr), self._cols())
        with b.if_else(full) as (then, otherwise):
            with then:
                self._rows(col0, False, _cost(self.op) > INLINE_REGION)
            with otherwise:
                self._rows(col0, True, True)

    def _cols(self) -> Any:
        return self.e.index.scalar(self.op.cols)

    def _rows(self, col0: Dim, masked: bool, looped: bool) -> None:
        if looped:
            self._looped(col0, masked)
            return
        c, b = self.c, self.b
        missing = not isinstance(c.total, int)
        for i in range(c.mr):
            mine = None
            if c.own is not None:
                mine = b.icmp_signed(">=", I64(i), c.own)
                if missing and i:
                    there = b.icmp_signed("<", I64(i), self.e.index.scalar(c.total))
                    mine = b.and_(mine, there)
            values = [(j * self.n, self.sums[i, j]) for j in range(c.vectors)]
            if mine is None:
                self._row(c.first + i, col0, masked, values)
            else:
                with b.if_then(mine):
                    self._row(c.first + i, col0, masked, values)

    def _looped(self, col0: Dim, masked: bool) -> None:
        """Through memory, one row after the other, and two vectors at once: a polynomial of both
        takes about as long as of one, for its operations wait for each other.
        """
        c, b, e = self.c, self.b, self.e
        nr = self.op.nr
        pairs = [(2 * j * self.n, 2 * self.n) for j in range(c.vectors // 2)]
        parts = [*pairs, *([(nr - self.n, self.n)] if c.vectors % 2 else [])]
        with b.goto_entry_block():
            tile = stack(b, c.element, c.mr * nr)
        for (i, j), value in self.sums.items():
            b.store(value, gep(b, tile, I64(i * nr + j * self.n), c.element), align=self._align())
        start: Any = 0 if c.own is None else c.own
        stop: Any = c.mr
        if not isinstance(c.total, int):
            stop = e.index.scalar(expr.minimum(c.total, c.mr))

        def row(i: Any, state: list[Any]) -> list[Any]:
            base = gep(b, tile, b.mul(i, I64(nr)), c.element)
            values = [
                (
                    column,
                    b.load(
                        gep(b, base, I64(column), c.element),
                        typ=vector(c.element, n),
                        align=self._align(),
                    ),
                )
                for column, n in parts
            ]
            at = e.index.fresh(i, 0, c.mr)
            variable = e.index.fresh(e.index.scalar(c.first + at), 0, c.total)
            self._row(variable, col0, masked, values)
            return []

        e.loop(start, stop, 1, [], row)

    def _align(self) -> int:
        return min(64, self.n * self.c.dtype.itemsize)

    def _row(self, row: Dim, col0: Dim, masked: bool, values: list[tuple[int, Any]]) -> None:
        """Runs the region on vectors of a row, each at its column of the tile."""
        c, e, op = self.c, self.e, self.op
        acc, *coordinates, column = op.regions[0].args
        e.exprs.update(zip(coordinates, c.coordinates(row), strict=True))
        saved = e.index.lane, e.memory.mask
        for at, value in values:
            n = lanes_of(value)
            base = e.index.scalar(col0 + at)
            variable = e.index.fresh(base, 0, op.cols)
            e.index.lane = Lane(n, str(variable) if n > 1 else None)
            if masked:
                e.memory.mask = e.index.below(base, self._cols())
            e.exprs[column] = variable
            e.scalars[acc] = value
            e.block(op.regions[0])
            e.index.lane, e.memory.mask = saved


def _cost(op: Contraction) -> int:
    """A rough count of the instructions of the region."""
    return sum(_op_cost(x) for x in op.regions[0].ops)


def _op_cost(x: Op) -> int:
    if not isinstance(x, Prim):
        return 1
    return 1 if x.op_name.removeprefix("k.") in _CHEAP else _COSTLY
