"""Reads the program level: which memory a value has, and where threads have to meet.

See ``ir/program.py`` for what comes out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pjit.ir import expr, ops
from pjit.ir.core import Block, Module, Op, Value
from pjit.ir.expr import Dim
from pjit.ir.loops import parallel_extent
from pjit.ir.ops.control import host_reason
from pjit.ir.ops.movement import behind_reshapes
from pjit.ir.ops.program import Bands, Launch
from pjit.ir.program import (
    BandStep,
    BranchStep,
    Carry,
    CopyStep,
    HostStep,
    LaunchStep,
    LoopStep,
    NativeStep,
    ProgramView,
    Room,
    Segment,
    SizeCheck,
    Slice,
    Slot,
    TeamStep,
)
from pjit.ir.types import TensorType

Control = ops.Scan | ops.While | ops.If


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
        elif isinstance(op, Bands):
            self._bands(op)
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
        inputs = [self.slot_of[v] for v in op.operands]
        barrier = self._begin(inputs)
        outputs = [self._made(r) for r in op.results]
        self._use([*inputs, *outputs])
        self.written.update(outputs)
        self._add(self._launched(op, (*inputs, *outputs), barrier))

    def _launched(self, op: Launch, slots: tuple[int, ...], barrier: bool) -> LaunchStep:
        kernel = self.module.functions[op.kernel]
        bind = dict(zip(kernel.attrs["symbols"], op.sizes, strict=True))
        sizes = tuple(self._size(d) for d in op.sizes)
        extent = self._size(expr.substitute(parallel_extent(kernel), bind))
        grain = int(dict(op.schedule).get("grain", 1))
        return LaunchStep(op.kernel, slots, sizes, extent, grain, barrier, op)

    def _bands(self, op: Bands) -> None:
        """Launches whose results, but those of the last one, are kept in parts."""
        barrier = self._begin([self.slot_of[v] for v in _captured(op)])
        kept, inner, sizes, firsts, steps = iter(op.kept), [], [], [], []
        for launch in op.launches:
            last = launch is op.launches[-1]
            results = op.results if last else launch.results
            for r, result in zip(launch.results, results, strict=True):
                if last:
                    self.slot_of[r] = self._made(result)
                    continue
                size, starts = next(kept)
                t = r.tensor.with_shape((size,))
                self.slot_of[r] = self._slot("arena", t)
                inner.append(self.slots[self.slot_of[r]])
                sizes.append(size * t.dtype.itemsize)
                firsts.append(tuple(n * t.dtype.itemsize for n in starts))
            for v in launch.operands:
                self.slot_of.setdefault(v, self.slot_of[behind_reshapes(v)])
            slots = tuple(self.slot_of[v] for v in (*launch.operands, *launch.results))
            steps.append(self._launched(launch, slots, False))
            self._use(slots)
        self.written.update(self.slot_of[r] for r in op.results)
        room = self._room(inner, None, self.epoch)
        assert room is not None
        starts = tuple(sizes), tuple(firsts)
        self._add(BandStep(tuple(steps), op.ranges, *starts, barrier, op, room))

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
                if s.room is not None:
                    s.room.first, s.room.last = min(s.room.first, start), self.epoch

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
            source = behind_reshapes(v)
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
        inner = [s for s in self.slots[own:] if s.kind == "arena" and s.room is None]
        self._live_from(start, first, () if self.alone else inner)  # alone, no epochs pass
        room = self._room(inner, count, start) if apart and count is not None else None
        moving = (*slices, *stacks)
        return LoopStep(count, test, condition, steps, tuple(carries), moving, barrier, op, room)

    def _room(self, inner: Sequence[Slot], count: int | None, start: int) -> Room | None:
        """A room for what a loop makes, unless its size or count is only known during the call."""
        known = {s for v in self.main.args for d in v.shape for s in expr.symbols(d)}
        amounts = [s.nbytes for s in inner]
        if count is not None:
            amounts.append(self.sizes[count])
        if not all(expr.symbols(d) <= known for d in amounts):
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
            if behind_reshapes(v) is behind_reshapes(yielded[i]):
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


def _captured(op: Op) -> list[Value]:
    """Values from outside that the regions of an operation use."""
    inner = [o for r in op.regions for o in r.walk()]
    local = {v for o in inner for v in o.results}
    local |= {a for o in (op, *inner) for r in o.regions for a in r.args}
    return list(dict.fromkeys(v for o in inner for v in o.operands if v not in local))
