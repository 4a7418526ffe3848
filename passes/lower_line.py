"""Kernels of operators that write lines of their result in order: scatters and running sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pjit.ir.core import Value
from pjit.ir.expr import Dim
from pjit.ir.loops import Guards
from pjit.passes.lower import KernelBuild
from pjit.passes.pull import GroupPuller


def lower_line(k: KernelBuild) -> None:
    """Parallel over the lines; the last dimension is the vector unless it is walked."""
    op = k.root.op
    assert op is not None
    shape = k.root.shape
    walked: tuple[int, ...] = op.walked  # type: ignore[attr-defined]
    lines = [shape[d] for d in range(len(shape)) if d not in walked]
    last_is_free = bool(lines) and len(shape) - 1 not in walked

    def one(at: Sequence[Dim]) -> None:
        op.line(_Writer(k), tuple(at))  # type: ignore[attr-defined]

    if last_is_free:
        k.parallel(lines[:-1], lambda at: k.serial(lines[-1:], lambda j: one([*at, *j])))
    else:
        k.parallel(lines, one)


class _Writer(GroupPuller):
    """Implements ``pjit.ir.loops.LineWriter`` in a kernel."""

    def __init__(self, k: KernelBuild) -> None:
        super().__init__(k.b, k.puller.constants, k.puller.given)
        self.output = k.output
        for value, memory in k.memory.items():
            self.given[value] = self.buffer(memory)

    def write(self, index: Sequence[Dim], value: Value) -> None:
        """Writes an element of the result."""
        self.b.store(value, self.output, tuple(index), self._guards)

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
                return list(
                    self.b.loop(0, extent, lambda i, *c: nest([*done, i], list(c)), init=carried)
                )
            result = body(done, *carried)
            return [] if result is None else [result]

        results = nest([], [] if carry is None else [carry])
        return results[0] if results else None

    def where(self, guards: Guards, body: Callable[[], object]) -> None:
        """Runs the body under more guards."""
        saved = self._guards
        self._guards = [*saved, *guards]
        try:
            body()
        finally:
            self._guards = saved
