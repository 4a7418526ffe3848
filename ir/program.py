"""The program level read as what a runtime needs: slots of memory, sizes, and steps in epochs.

A program is a function of ``launch`` and host operations. Its values live in slots; a ``reshape``
is the same slot under another shape. Launches that follow each other form a native segment, in
which every thread runs its share of each launch and all meet at a barrier where a launch needs
what another one wrote. The stretches between barriers are epochs, and a slot's memory may be used
again only in a later epoch than its last use.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pjit.ir import expr, ops
from pjit.ir.core import Function, Module, Op, Value
from pjit.ir.expr import Dim
from pjit.ir.loops import For
from pjit.ir.ops.program import Launch
from pjit.ir.types import TensorType


@dataclass
class Slot:
    """A piece of memory. ``kind`` is ``input``, ``output``, ``constant`` or ``arena``.

    ``name`` is the name of the input, output or constant; ``first`` and ``last`` are the epochs
    of the first write and the last use (arena slots).
    """

    index: int
    kind: str
    type: TensorType
    name: str = ""
    first: int = 0
    last: int = 0

    @property
    def nbytes(self) -> Dim:
        """The size in bytes."""
        return self.type.size * self.type.dtype.itemsize


@dataclass(frozen=True)
class LaunchStep:
    """One launch: the kernel, the slots of its buffers, its size arguments, its parallel
    iterations.

    ``sizes`` and ``extent`` are positions in ``ProgramView.sizes``. A thread gets at least
    ``grain`` iterations. ``barrier`` says that all threads must meet before it.
    """

    kernel: str
    slots: tuple[int, ...]
    sizes: tuple[int, ...]
    extent: int
    grain: int
    barrier: bool
    op: Op


@dataclass(frozen=True)
class HostStep:
    """An operation that runs as its reference on the host; ``inputs`` and ``outputs`` are (slot,
    type).
    """

    op: Op
    inputs: tuple[tuple[int, TensorType], ...]
    outputs: tuple[tuple[int, TensorType], ...]
    captured: tuple[tuple[Value, int], ...] = ()  # outer values that the regions use


@dataclass
class Segment:
    """Launches that run as one native function; ``entry`` is its symbol."""

    entry: str
    steps: list[LaunchStep] = field(default_factory=list)


@dataclass
class ProgramView:
    """Everything about a program but its code.

    ``symbols`` are bound from the input shapes; ``sizes`` are evaluated from them at each call;
    ``results`` are (name, slot, type) in order: a result whose slot is not its own (an input, a
    constant, a slot that an earlier result has) is copied.
    """

    inputs: list[tuple[str, TensorType]]
    results: list[tuple[str, int, TensorType]]
    symbols: list[str]
    sizes: list[Dim]
    slots: list[Slot]
    steps: list[Segment | HostStep]
    checks: list[tuple[Dim, Dim]]
    failures: list[str]


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


def view(module: Module) -> ProgramView:
    """Reads the main function of a module at program level."""
    return _Reader(module).read()


class _Reader:
    def __init__(self, module: Module) -> None:
        self.module, self.main = module, module.main
        self.slots: list[Slot] = []
        self.slot_of: dict[Value, int] = {}
        self.sizes: list[Dim] = []
        self.size_at: dict[Dim, int] = {}
        self.steps: list[Segment | HostStep] = []
        self.epoch = 0
        self.written: set[int] = set()  # in this epoch

    def read(self) -> ProgramView:
        names = self.main.attrs.get("inputs") or [v.name for v in self.main.args]
        for v, name in zip(self.main.args, names, strict=True):
            self._new(v, "input", name)
        for op in self.main.body.ops:
            self._step(op)
        results = self._results()
        symbols: dict[str, None] = {}
        for v in self.main.args:
            for d in v.shape:
                symbols.update(dict.fromkeys(sorted(expr.symbols(d))))
        return ProgramView(
            [(n, v.tensor) for n, v in zip(names, self.main.args, strict=True)],
            results,
            list(symbols),
            self.sizes,
            self.slots,
            self.steps,
            [tuple(c) for c in self.main.attrs.get("checks", ())],  # type: ignore[misc]
            list(self.main.attrs.get("failures", ())),
        )

    def _new(self, v: Value, kind: str, name: str = "") -> int:
        self.slots.append(Slot(len(self.slots), kind, v.tensor, name, self.epoch, self.epoch))
        self.slot_of[v] = len(self.slots) - 1
        return len(self.slots) - 1

    def _size(self, d: Dim) -> int:
        if d not in self.size_at:
            self.size_at[d] = len(self.sizes)
            self.sizes.append(d)
        return self.size_at[d]

    def _step(self, op: Op) -> None:
        if isinstance(op, ops.Const):
            self._new(op.result, "constant", op.value)
        elif isinstance(op, ops.Reshape):
            self.slot_of[op.result] = self.slot_of[op.operands[0]]
        elif isinstance(op, Launch):
            self._launch(op)
        elif not op.terminator:
            self._host(op)

    def _use(self, slots: Iterable[int]) -> None:
        for s in slots:
            self.slots[s].last = self.epoch

    def _launch(self, op: Launch) -> None:
        kernel = self.module.functions[op.kernel]
        inputs = [self.slot_of[v] for v in op.operands]
        barrier = bool(self.written & set(inputs))
        if barrier:
            self._next_epoch()
        outputs = [self._new(r, "arena") for r in op.results]
        self._use([*inputs, *outputs])
        self.written.update(outputs)
        bind = symbol_binding(kernel, [v.tensor for v in (*op.operands, *op.results)])
        sizes = tuple(self._size(bind[s]) for s in kernel.attrs["symbols"])
        extent = self._size(expr.substitute(parallel_extent(kernel), bind))
        grain = int(dict(op.schedule).get("grain", 1))
        if not self.steps or not isinstance(self.steps[-1], Segment):
            self.steps.append(Segment(f"run{len(self.steps)}"))
            barrier = False
        segment = self.steps[-1]
        assert isinstance(segment, Segment)
        slots = (*inputs, *outputs)
        segment.steps.append(LaunchStep(op.kernel, slots, sizes, extent, grain, barrier, op))

    def _host(self, op: Op) -> None:
        self._next_epoch()
        captured = _captured(op)
        inputs = [(self.slot_of[v], v.tensor) for v in op.operands]
        outputs = [(self._new(r, "arena"), r.tensor) for r in op.results]
        outer = tuple((v, self.slot_of[v]) for v in captured)
        self._use([s for s, _ in (*inputs, *outputs)] + [s for _, s in outer])
        self.steps.append(HostStep(op, tuple(inputs), tuple(outputs), outer))
        self._next_epoch()

    def _next_epoch(self) -> None:
        self.epoch += 1
        self.written.clear()

    def _results(self) -> list[tuple[str, int, TensorType]]:
        values = self.main.results
        names = self.main.attrs.get("outputs") or [f"y{i}" for i in range(len(values))]
        results = []
        for v, name in zip(values, names, strict=True):
            slot = self.slots[self.slot_of[v]]
            if slot.kind == "arena":
                slot.kind, slot.name = "output", name
            results.append((name, slot.index, v.tensor))
        return results


def _captured(op: Op) -> list[Value]:
    """Values from outside that the regions of an operation use."""
    inner = [o for r in op.regions for o in r.walk()]
    local = {v for o in inner for v in o.results}
    local |= {a for o in (op, *inner) for r in o.regions for a in r.args}
    return list(dict.fromkeys(v for o in inner for v in o.operands if v not in local))


def symbol_binding(kernel: Function, types: list[TensorType]) -> dict[str, Dim]:
    """What the kernel's symbols are at a launch, from the types of its buffers there."""
    bind: dict[str, Dim] = {}
    for arg, t in zip(kernel.args, types, strict=True):
        for d, actual in zip(arg.shape, t.shape, strict=True):
            if isinstance(d, expr.Expr) and len(d.terms) == 1 and expr.symbols(d) == {str(d)}:
                bind.setdefault(str(d), actual)
    for s in kernel.attrs["symbols"]:
        bind.setdefault(s, expr.sym(s))  # a symbol of the program itself
    return bind
