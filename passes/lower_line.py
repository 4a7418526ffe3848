"""Kernels of operators that write lines of their result in order: scatters, running sums, tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from pjit.ir import expr, ops
from pjit.ir.core import Op, Value
from pjit.ir.expr import Dim
from pjit.ir.loops import Guards
from pjit.ir.opdef import Elementwise
from pjit.ir.ops.line import LineOp
from pjit.ir.target import LINE
from pjit.passes.cost import CACHE_PERIOD
from pjit.passes.lower import KernelBuild, pushed
from pjit.passes.pull import GroupPuller, broadcast_index

ROOM_LANES = 16  # lanes of a vector loop at most, of those whose lines keep values


def lower_line(k: KernelBuild) -> None:
    """Parallel over the lines; the last dimension is the vector unless it is walked."""
    op = next(o for o in k.fused.body.ops if isinstance(o, LineOp))
    epilogue, moves = epilogue_of(k, op), moves_of(k, op)
    lines = op.lines
    last_is_free = bool(lines) and op.type.rank - 1 not in op.walked
    room = room_of(k, op) if last_is_free else None

    def one(at: Sequence[Dim]) -> None:
        vector = k.machine.simd and not last_is_free
        writer = Writer(k, op.result, epilogue, moves=moves, vector=vector)
        if room is not None:
            writer.room = (room, at[-1])
        op.line(writer, tuple(at))  # type: ignore[attr-defined]

    if last_is_free:
        n = _vectors_at_once(k, op)
        k.parallel(lines[:-1], lambda at: k.serial(lines[-1:], lambda j: one([*at, *j]), unroll=n))
    else:
        k.parallel(lines, one)


def _vectors_at_once(k: KernelBuild, op: LineOp) -> int:
    """How many vectors make a line of the caches, where the points of a tile lie so far apart that
    the caches cannot keep their lines until the next vector is there; else 1. With tiles that make
    one output less some points are nearer than that.
    """
    if not isinstance(op, ops.WinogradInput | ops.WinogradOutput):
        return 1
    apart = expr.product(op.lines) * op.type.dtype.itemsize
    if expr.mod(apart, CACHE_PERIOD) == 0:
        return max(1, LINE * 8 // k.machine.vector_bits)
    return 1


def room_of(k: KernelBuild, op: LineOp) -> Value | None:
    """Memory for the values that a line keeps, where lanes are one thread."""
    if not op.room or not k.machine.simd:
        return None
    assert k.machine.vector_bits <= ROOM_LANES * 32
    return k.b.scratch(op.type.dtype, (op.room, ROOM_LANES))


def epilogue_of(k: KernelBuild, op: Op) -> tuple[Elementwise, ...]:
    """The elementwise operations of the group that follow an operation."""
    body = k.fused.body.ops
    return tuple(o for o in body[body.index(op) + 1 :] if isinstance(o, Elementwise))


def moves_of(k: KernelBuild, op: Op) -> tuple[Op, ...]:
    """The operations of the group that only move what follows from an operation, at its end."""
    after = k.fused.body.ops[k.fused.body.ops.index(op) + 1 : -1]
    return tuple(o for o in after if not isinstance(o, Elementwise | ops.Const))


class Writer(GroupPuller):
    """Implements ``pjit.ir.kernel_builder.LineWriter`` in a kernel.

    Args:
        k: The kernel.
        result: What the operator writes.
        epilogue: Operations that are applied to each element of it.
        store: Puts a finished element where it belongs; by default into the kernel's output.
        vector: Whether loops may be vectors: no loop around is one.
        moves: Operations that say where a finished element goes.

    Attributes:
        room: Memory for what a line keeps, and the index of its lane.
    """

    room: tuple[Value, Dim] | None = None
    _guards: list[tuple[Dim, Dim]]

    def __init__(
        self,
        k: KernelBuild,
        result: Value,
        epilogue: Sequence[Elementwise],
        store: Callable[[Value, tuple[Dim, ...]], None] | None = None,
        vector: bool = False,
        moves: Sequence[Op] = (),
    ) -> None:
        super().__init__(k.b, k.puller.constants, k.puller.given, k.puller.bounds)
        self.output, self.result = k.output, result
        self.epilogue, self.moves = epilogue, moves
        self.store, self.vector = store or self._to_output, vector
        for value, memory in k.memory.items():
            self.given[value] = self.buffer(memory)

    def write(self, index: Sequence[Dim], value: Value) -> None:
        """Writes an element of the result."""
        index = tuple(index)
        elements = {self.result: value}
        for op in self.epilogue:
            xs = [
                elements[x] if x in elements else self._operand(x, broadcast_index(index, x.shape))
                for x in op.operands
            ]
            with self.b.located(op.loc):
                value = op.scalar(self.b, *xs, **op.attrs)  # type: ignore[attr-defined]
            elements[op.result] = value
        for move in self.moves:
            index = pushed(move, index)
        self.store(value, index)

    def _to_output(self, value: Value, index: tuple[Dim, ...]) -> None:
        self.b.store(value, self.output, index, self._guards)

    def _operand(self, x: Value, index: tuple[Dim, ...]) -> Value:
        """Reads an operand of the epilogue, without guards where it is surely inside."""
        if not all(expr.within(i, 0, d) for i, d in zip(index, x.shape, strict=True)):
            return self.read(x, index)
        with self._guarded_by([]):
            return self.read(x, index)

    def written(self, index: Sequence[Dim]) -> Value:
        """Reads an element of the result."""
        return self.b.load(self.output, tuple(index), self._guards)

    def each(
        self,
        extents: Sequence[Dim],
        body: Callable[..., Value | None],
        carry: Value | None = None,
    ) -> Value | None:
        """Serial loops over the extents."""
        if not extents:
            return body(()) if carry is None else body((), carry)

        def nest(done: list[Dim], carried: list[Value]) -> list[Value]:
            if len(done) < len(extents):
                extent = extents[len(done)]
                last = len(done) == len(extents) - 1
                return list(
                    self.b.loop(
                        0,
                        extent,
                        lambda i, *c: nest([*done, i], list(c)),
                        init=carried,
                        unroll=4 if last else 1,
                    )
                )
            result = body(done, *carried)
            return [] if result is None else [result]

        results = nest([], [] if carry is None else [carry])
        return results[0] if results else None

    def copy(self, extents: Sequence[Dim], index: Callable[..., tuple[Dim, ...]], x: Value) -> None:
        """Loops over the extents, the last one a vector where that may be."""

        def nest(done: list[Dim]) -> None:
            if len(done) == len(extents):
                at = index(done)
                self.write(at, self.read(x, at))
                return
            last = self.vector and len(done) == len(extents) - 1
            kind = "vector" if last else "serial"
            self.b.loop(0, extents[len(done)], lambda i: nest([*done, i]), kind=kind)

        nest([])

    def where(self, guards: Guards, body: Callable[[], object]) -> None:
        """Runs the body under more guards."""
        with self._guarded_by([*self._guards, *guards]):
            body()

    @property
    def has_room(self) -> bool:
        """Whether there is memory for what a line keeps."""
        return self.room is not None

    def _place(self, i: Dim) -> tuple[Value, tuple[Dim, Dim]]:
        assert self.room is not None
        buffer, lane = self.room
        return buffer, (i, expr.mod(lane, ROOM_LANES))

    def keep(self, i: Dim, value: Value) -> None:
        """Keeps a value in place ``i`` of the room."""
        self.b.store(value, *self._place(i))

    def kept(self, i: Dim) -> Value:
        """The value in place ``i``."""
        return self.b.load(*self._place(i))

    @contextmanager
    def _guarded_by(self, guards: list[tuple[Dim, Dim]]) -> Iterator[None]:
        saved = self._guards
        self._guards = guards
        try:
            yield
        finally:
            self._guards = saved
