"""The program level read as what a runtime needs: slots of memory, sizes, and steps in epochs.

A program is a function of ``launch``, control flow and host operations. Its values live in slots; a
``reshape`` is the same slot under another shape. What follows each other without a host operation
forms a native segment, in which every thread runs its share of each launch and all meet at a
barrier where a step needs what another one wrote. The stretches between barriers are epochs, and a
slot's memory may be used again only in a later epoch than its last use.

``scan``, ``while`` and ``if`` are steps of a segment that hold steps. A slot of kind ``pointer``
has no memory: it is a place in the memory of others that a loop moves on with each iteration. What
a loop uses of others lives as long as the loop. A loop or branch whose launches are all small runs
on one thread, without barriers inside, beside others that do not need it: where the ``share`` of
its schedule is 0, which sizes may decide.

Iterations of a loop that carries nothing do not need each other. If it has large launches, and no
fewer iterations than there are threads, each thread runs iterations of its own, without barriers,
and what an iteration makes lies in memory that the thread has for itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pjit.ir import expr, ops
from pjit.ir.core import Block, Function, Module, Op, Value
from pjit.ir.expr import Dim
from pjit.ir.loops import For
from pjit.ir.ops.control import host_reason
from pjit.ir.ops.program import Launch
from pjit.ir.types import TensorType


@dataclass
class Slot:
    """A piece of memory. ``kind`` is ``input``, ``output``, ``constant``, ``arena`` or ``pointer``.

    ``name`` is the name of the input, output or constant; ``first`` and ``last`` are the epochs
    of the first write and the last use (arena slots). ``room`` is the room that it lies in.
    """

    index: int
    kind: str
    type: TensorType
    name: str = ""
    first: int = 0
    last: int = 0
    room: Room | None = None

    @property
    def nbytes(self) -> Dim:
        """The size in bytes."""
        return self.type.size * self.type.dtype.itemsize


@dataclass(eq=False)
class Room:
    """The slots of what is made in the iterations of a loop, when threads run them each for itself:
    every thread has a room of its own, one behind the other.

    ``count`` is the position of the number of iterations, ``size`` that of the bytes of one room,
    which a runtime puts there; ``first`` and ``last`` are the epochs of the loop.
    """

    slots: tuple[int, ...]
    count: int
    size: int
    first: int
    last: int


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
class CopyStep:
    """Copies ``nbytes`` (a position in the sizes) from one slot to another."""

    source: int
    target: int
    nbytes: int
    barrier: bool


@dataclass(frozen=True)
class Carry:
    """A value that a loop carries, as slots.

    An iteration reads it at the pointer ``before`` and writes the next one at the pointer
    ``after``. The first one is in ``init``. The others go in turn to the two ``buffers``, the first
    of which is the result's; without buffers ``after`` is the pointer of a stacked result. The last
    one ends in ``result`` (None when nobody uses it).
    """

    before: int
    after: int
    init: int
    buffers: tuple[int, int] | None
    result: int | None
    nbytes: int


@dataclass(frozen=True)
class Slice:
    """A pointer that is ``stride`` bytes (a position in the sizes) further in each iteration."""

    pointer: int
    base: int
    stride: int


@dataclass(frozen=True)
class LoopStep:
    """A loop.

    ``count`` is the position of the number of iterations, or None: then ``test`` runs before each
    iteration, and the bool in the slot ``condition`` says whether there is one. Threads meet at the
    start of each iteration, before they look at the condition, and at the end of the loop, unless
    one thread runs it all.

    Where there is a ``room``, and there are no fewer iterations than threads, threads run
    iterations each for itself.
    """

    count: int | None
    test: tuple[NativeStep, ...]
    condition: int
    body: tuple[NativeStep, ...]
    carries: tuple[Carry, ...]
    slices: tuple[Slice, ...]
    barrier: bool
    op: Op
    room: Room | None = None


@dataclass(frozen=True)
class SizeCheck:
    """Two sizes (positions in the sizes) that have to be equal, else the call fails with a code."""

    left: int
    right: int
    code: int


@dataclass(frozen=True)
class BranchStep:
    """Runs ``then`` where the bool in the slot ``condition`` holds, else ``otherwise``; ``checks``
    come before the steps of the one and of the other.
    """

    condition: int
    then: tuple[NativeStep, ...]
    otherwise: tuple[NativeStep, ...]
    barrier: bool
    op: Op
    checks: tuple[tuple[SizeCheck, ...], tuple[SizeCheck, ...]] = ((), ())


@dataclass(frozen=True)
class TeamStep:
    """Loops and branches that do not need each other. Where ``share`` (a position in the sizes) is
    0, or there are no more threads than steps, one thread runs each of them, side by side; else all
    threads run one after the other.

    Threads meet before and after it unless ``share`` is known to be 0.
    """

    share: int
    steps: tuple[LoopStep | BranchStep, ...]
    barrier: bool


NativeStep = LaunchStep | CopyStep | LoopStep | BranchStep | TeamStep


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
    """Steps that run as one native function; ``entry`` is its symbol."""

    entry: str
    steps: list[NativeStep] = field(default_factory=list)

    def walk(self) -> Iterator[NativeStep]:
        """All steps, those inside of others after what holds them."""
        yield from _walk(self.steps)

    def shared(self) -> list[LaunchStep | LoopStep]:
        """What threads take piece by piece as they come: launches outside of loops, and loops whose
        iterations do not need each other.
        """

        def found(steps: Iterable[NativeStep]) -> Iterator[LaunchStep | LoopStep]:
            for step in steps:
                if isinstance(step, LoopStep):
                    if step.room is not None:
                        yield step
                elif isinstance(step, LaunchStep):
                    yield step
                else:
                    yield from found(children(step))

        return list(found(self.steps))

    def slots(self) -> list[int]:
        """The slots that the steps use, each once."""
        found: dict[int, None] = {}
        for step in self.walk():
            found.update(dict.fromkeys(_slots_of(step)))
        return list(found)


def children(step: NativeStep) -> tuple[NativeStep, ...]:
    """The steps that a step holds."""
    if isinstance(step, LoopStep):
        return (*step.test, *step.body)
    if isinstance(step, TeamStep):
        return step.steps
    return (*step.then, *step.otherwise) if isinstance(step, BranchStep) else ()


def _walk(steps: Iterable[NativeStep]) -> Iterator[NativeStep]:
    for step in steps:
        yield step
        yield from _walk(children(step))


def _slots_of(step: NativeStep) -> Iterable[int]:
    if isinstance(step, LaunchStep):
        return step.slots
    if isinstance(step, CopyStep):
        return step.source, step.target
    if isinstance(step, BranchStep):
        return (step.condition,)
    if isinstance(step, TeamStep):
        return ()
    found = [s.base for s in step.slices]
    for c in step.carries:
        found += [c.init, *(c.buffers or ()), *([] if c.result is None else [c.result])]
    return found


@dataclass
class ProgramView:
    """Everything about a program but its code.

    ``symbols`` are bound from the input shapes; ``sizes`` are evaluated from them at each call;
    ``results`` are (name, slot, type) in order: a result whose slot is not its own (an input, a
    constant, a slot that an earlier result has) is copied. ``failures`` say what is wrong, where
    and what helps, by the error codes from 1 on.
    """

    inputs: list[tuple[str, TensorType]]
    results: list[tuple[str, int, TensorType]]
    symbols: list[str]
    sizes: list[Dim]
    slots: list[Slot]
    steps: list[Segment | HostStep]
    checks: list[tuple[Dim, Dim]]
    failures: list[tuple[str, str, str]]

    def launches(self) -> Iterator[tuple[LaunchStep, Dim | None]]:
        """All launches, each with how often it runs; None where data decides. Both branches
        count.
        """

        def counted(
            steps: Iterable[NativeStep], times: Dim | None
        ) -> Iterator[tuple[LaunchStep, Dim | None]]:
            for step in steps:
                if isinstance(step, LaunchStep):
                    yield step, times
                elif isinstance(step, LoopStep):
                    often = None
                    if times is not None and step.count is not None:
                        often = times * self.sizes[step.count]
                    yield from counted(children(step), often)
                else:
                    yield from counted(children(step), times)

        for part in self.steps:
            if isinstance(part, Segment):
                yield from counted(part.steps, 1)


Control = ops.Scan | ops.While | ops.If


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
        self.placed: dict[Value, int] = {}  # values that are computed where they are wanted
        self.sizes: list[Dim] = []
        self.size_at: dict[Dim, int] = {}
        self.steps: list[Segment | HostStep] = []
        self.inner: list[list[NativeStep]] = []  # the blocks that are being read
        self.epoch = 0
        self.written: set[int] = set()  # in this epoch
        self.must_meet = False  # before the next step, whatever it reads
        self.alone = False  # inside of what one thread runs
        self.loops = 0  # around what is being read
        known: Sequence = self.main.attrs.get("failures", ())  # type: ignore[assignment]
        self.failures: list[tuple[str, str, str]] = [tuple(f) for f in known]  # type: ignore[misc]

    def read(self) -> ProgramView:
        names = self.main.attrs.get("inputs") or [v.name for v in self.main.args]
        for v, name in zip(self.main.args, names, strict=True):
            self._new(v, "input", name)
        self._ops(self.main.body)
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
            self.failures,
        )

    def _slot(self, kind: str, t: TensorType, name: str = "") -> int:
        self.slots.append(Slot(len(self.slots), kind, t, name, self.epoch, self.epoch))
        return len(self.slots) - 1

    def _new(self, v: Value, kind: str, name: str = "") -> int:
        self.slot_of[v] = self._slot(kind, v.tensor, name)
        return self.slot_of[v]

    def _made(self, v: Value) -> int:
        """The slot of a value that a native step writes."""
        if v not in self.placed:
            return self._new(v, "arena")
        self.slot_of[v] = self.placed[v]
        return self.placed[v]

    def _size(self, d: Dim) -> int:
        if d not in self.size_at:
            self.size_at[d] = len(self.sizes)
            self.sizes.append(d)
        return self.size_at[d]

    def _nbytes(self, t: TensorType) -> int:
        return self._size(t.size * t.dtype.itemsize)

    def _ops(self, block: Block) -> None:
        """Reads a block, runs of independent control flow together."""
        team: list[Control] = []
        for op in block.ops:
            joins = isinstance(op, ops.Scan | ops.While | ops.If) and not host_reason(op)
            if team and not (joins and self._joins(team, op)):
                self._team(team)
                team = []
            if joins:
                team.append(op)  # type: ignore[arg-type]
            else:
                self._step(op)

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

    # Native steps

    def _begin(self, reads: Iterable[int]) -> bool:
        """Begins a native step; whether all threads must meet before it."""
        if not self.inner and not (self.steps and isinstance(self.steps[-1], Segment)):
            self.steps.append(Segment(f"run{len(self.steps)}"))
            self.must_meet = False
        if self.alone or not (self.must_meet or self.written & set(reads)):
            return False
        self._next_epoch()
        return True

    def _add(self, step: NativeStep) -> None:
        if self.inner:
            self.inner[-1].append(step)
            return
        segment = self.steps[-1]
        assert isinstance(segment, Segment)
        segment.steps.append(step)

    def _launch(self, op: Launch) -> None:
        kernel = self.module.functions[op.kernel]
        inputs = [self.slot_of[v] for v in op.operands]
        barrier = self._begin(inputs)
        outputs = [self._made(r) for r in op.results]
        self._use([*inputs, *outputs])
        self.written.update(outputs)
        bind = dict(zip(kernel.attrs["symbols"], op.sizes, strict=True))
        sizes = tuple(self._size(d) for d in op.sizes)
        extent = self._size(expr.substitute(parallel_extent(kernel), bind))
        grain = int(dict(op.schedule).get("grain", 1))
        slots = (*inputs, *outputs)
        self._add(LaunchStep(op.kernel, slots, sizes, extent, grain, barrier, op))

    def _copy(self, source: int, target: int, t: TensorType) -> None:
        barrier = self._begin([source])
        self._use([source, target])
        self.written.add(target)
        self._add(CopyStep(source, target, self._nbytes(t), barrier))

    def _joins(self, team: Sequence[Control], op: Op) -> bool:
        """Whether control flow can run beside that before it: little work, or as much as that."""
        if self.alone or any(v.op in team for v in (*op.operands, *_captured(op))):
            return False
        first = team[0]
        if _share(op) != _share(first) or self._apart(op) or self._apart(first):
            return False
        if isinstance(op, ops.Scan) and isinstance(first, ops.Scan):
            return _share(op) == 0 or op.sliced[0].shape[0] == first.sliced[0].shape[0]
        return _share(op) == 0

    def _team(self, team: Sequence[Control]) -> None:
        """Control flow: for one thread each, for all, or as sizes and threads decide."""
        share = _share(team[0])
        if self.alone or (isinstance(share, int) and share > 0 and len(team) == 1):
            for op in team:
                self._add(self._control(op))
            return
        outer = [self.slot_of[v] for op in team for v in (*op.operands, *_captured(op))]
        start, first = self.epoch, len(self.slots)
        self.alone = share == 0
        barrier = self.alone and self._begin_alone(outer)
        steps = tuple(self._control(op) for op in team)
        if not self.alone:
            self._live_from(start, first)
        self.alone = False
        self._add(TeamStep(self._size(share), steps, barrier))

    def _begin_alone(self, reads: Iterable[int]) -> bool:
        self.alone = False
        barrier = self._begin(reads)
        self.alone = True
        return barrier

    def _live_from(self, start: int, first: int, inner: Iterable[Slot] = ()) -> None:
        """Lets all slots that were used since an epoch live from it until now; ``first`` is the
        first slot made since. The ``inner`` ones stay as they are.
        """
        kept = {s.index for s in inner}
        for s in self.slots:
            if s.index not in kept and (s.last >= start or s.index >= first):
                s.first, s.last = min(s.first, start), self.epoch

    def _apart(self, op: Op) -> bool:
        """Whether threads may run iterations each for itself: they carry nothing, and it pays."""
        share = _share(op)
        pays = isinstance(share, int) and share > 0
        return isinstance(op, ops.Scan) and op.n_carry == 0 and pays and not self.loops

    def _control(self, op: Control) -> LoopStep | BranchStep:
        """A loop or a branch that all threads run, or one of them."""
        outer = [self.slot_of[v] for v in (*op.operands, *_captured(op))]
        branch = isinstance(op, ops.If)
        barrier = self._begin(outer[:1] if branch else ())  # loops begin with a meeting
        self._use(outer)
        step = self._branch(op, barrier) if isinstance(op, ops.If) else self._loop(op, barrier)
        results = [self.slot_of[r] for r in op.results if r in self.slot_of]
        self.written.update(results)
        self._use([*outer, *results])
        return step

    def _block(self, block: Block, targets: Sequence[int] | None) -> tuple[NativeStep, ...]:
        """The steps of a region, which leaves what it yields in slots; None: wherever it is."""
        self.inner.append([])
        pairs = [] if targets is None else list(zip(block.last.operands, targets, strict=True))
        for v, target in pairs:
            source = _behind_reshapes(v)
            if source.op is not None and source.op.parent is block:
                if not isinstance(source.op, ops.Const):
                    self.placed.setdefault(source, target)
        self._ops(block)
        for v, target in pairs:
            if self.slot_of[v] != target:
                self._copy(self.slot_of[v], target, v.tensor)
        return tuple(self.inner.pop())

    def _branch(self, op: ops.If, barrier: bool) -> BranchStep:
        targets = [self._made(r) for r in op.results]
        start, before = self.epoch, set(self.written)
        then = self._block(op.branches[0], targets)
        after, pending, self.written = self.written, self.must_meet, before
        self.must_meet = self.epoch != start  # the barriers so far are on the other way
        otherwise = self._block(op.branches[1], targets)
        self.written |= after
        self.must_meet = pending or self.must_meet or self.epoch != start
        checks = [tuple(self._check(a, b, op) for a, b in pairs) for pairs in op.checks or ((), ())]
        return BranchStep(
            self.slot_of[op.cond], then, otherwise, barrier, op, (checks[0], checks[1])
        )

    def _check(self, a: Dim, b: Dim, op: Op) -> SizeCheck:
        what = f"{a} has to be equal to {b} in the branch that was taken"
        self.failures.append((what, str(op.loc), "check the shapes of the inputs"))
        return SizeCheck(self._size(a), self._size(b), len(self.failures))

    def _loop(self, op: ops.Scan | ops.While, barrier: bool) -> LoopStep:
        self._meet()  # where an iteration begins
        start, first = self.epoch, len(self.slots)
        n = op.n_carry if isinstance(op, ops.Scan) else len(op.operands)
        body = op.regions[-1]
        slices = [self._sliced(v, x) for v, x in zip(body.args[n:], op.operands[n:], strict=True)]
        stacks = [
            Slice(self._slot("pointer", v.tensor), self._made(r), self._nbytes(v.tensor))
            for v, r in zip(body.last.operands[n:], op.results[n:], strict=True)
        ]
        carries = [self._carry(op, i, stacks) for i in range(n)]
        apart, own = not self.alone and self._apart(op), len(self.slots)
        self.loops += 1
        count, condition = None, -1
        test: tuple[NativeStep, ...] = ()
        if isinstance(op, ops.While):
            test = self._block(op.cond, None)
            condition = self.slot_of[op.cond.last.operands[0]]
            self._meet()
            self._use([condition])
        else:
            count = self._size(op.sliced[0].shape[0])
        steps = self._block(body, [*(c.after for c in carries), *(s.pointer for s in stacks)])
        self._meet()  # at the end of the loop
        self.loops -= 1
        inner = [s for s in self.slots[own:] if s.kind == "arena"]
        self._live_from(start, first, () if self.alone else inner)
        room = self._room(inner, count, start) if apart and count is not None else None
        moving = (*slices, *stacks)
        return LoopStep(count, test, condition, steps, tuple(carries), moving, barrier, op, room)

    def _room(self, inner: Sequence[Slot], count: int, start: int) -> Room | None:
        """A room for what a loop makes, unless its size is only known during the call."""
        known = {s for v in self.main.args for d in v.shape for s in expr.symbols(d)}
        if not all(expr.symbols(s.nbytes) <= known for s in inner):
            return None
        self.sizes.append(0)
        slots, size = tuple(s.index for s in inner), len(self.sizes) - 1
        room = Room(slots, count, size, start, self.epoch)
        for s in inner:
            s.room = room
        return room

    def _meet(self) -> None:
        if not self.alone:
            self._next_epoch()

    def _sliced(self, v: Value, source: Value) -> Slice:
        return Slice(self._new(v, "pointer"), self.slot_of[source], self._nbytes(v.tensor))

    def _carry(self, op: ops.Scan | ops.While, i: int, stacks: Sequence[Slice]) -> Carry:
        yielded, result = op.regions[-1].last.operands, op.results[i]
        init, t = self.slot_of[op.operands[i]], op.operands[i].tensor
        before, nbytes = self._new(op.regions[-1].args[i], "pointer"), self._nbytes(t)
        if isinstance(op, ops.While):
            self.slot_of[op.cond.args[i]] = before
        for v, stack in zip(yielded[len(yielded) - len(stacks) :], stacks, strict=True):
            if _behind_reshapes(v) is _behind_reshapes(yielded[i]):
                last = self._made(result) if result.uses else None
                return Carry(before, stack.pointer, init, None, last, nbytes)
        buffers = self._made(result), self._slot("arena", t)
        last = buffers[0] if result.uses else None
        return Carry(before, self._slot("pointer", t), init, buffers, last, nbytes)

    # Operations on the host

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
        self.must_meet = False

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


def _share(op: Op) -> Dim:
    """How many shares of work a loop or a branch has for threads; 0: too little for a second."""
    return dict(op.attrs["schedule"]).get("share", 1)


def _behind_reshapes(v: Value) -> Value:
    """The value whose memory a value is, as far as reshapes say."""
    while isinstance(v.op, ops.Reshape):
        v = v.op.operands[0]
    return v


def _captured(op: Op) -> list[Value]:
    """Values from outside that the regions of an operation use."""
    inner = [o for r in op.regions for o in r.walk()]
    local = {v for o in inner for v in o.results}
    local |= {a for o in (op, *inner) for r in o.regions for a in r.args}
    return list(dict.fromkeys(v for o in inner for v in o.operands if v not in local))
