"""The native function of a segment of a program.

A segment function ``void entry(ptr ctx, i64 thread, i64 threads)`` is entered by all threads; they
meet where a launch needs what another one wrote. Loops and branches are those of the function; a
small one is run by one thread (see ``ir/program.py``). ``ir/call.py`` says what is in the context.

In a loop each thread computes its contiguous share of a launch; outside of loops it also helps the
others (``launch.py``). Of a loop with a room it takes whole iterations, its share and then those of
others, and all of each launch in them. So it takes bands, with a part of each launch: what the band
before it left in the thread's memory is not made again. A thread sets its cursors back behind the
next meeting, when nobody looks at them any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise

from llvmlite import ir as ll

from pjit.backends.llvm.lanes import intrinsic
from pjit.backends.llvm.launch import emit_launcher, part, plan, shares, taken
from pjit.backends.llvm.sync import emit_barrier
from pjit.ir.call import BARRIER_WORD, ERROR_WORD, POLL_WORD, STOP_WORD, CallWords
from pjit.ir.program import (
    EVEN,
    BandStep,
    BranchStep,
    Carry,
    CopyStep,
    LaunchStep,
    LoopStep,
    NativeStep,
    ProgramView,
    Room,
    Segment,
    SizeCheck,
    TeamStep,
)

COPY_GRAIN = 1 << 16  # bytes that a thread copies at least
POLL_PERIOD = 64  # iterations of a loop from one poll to the next; a power of two
_I8, _I64, _PTR = ll.IntType(8), ll.IntType(64), ll.PointerType()


class SegmentFunction:
    """The emission of one segment's function.

    Args:
        module: Where to define it.
        view: The program.
        segment: The segment.
        kernels: The functions of the kernels, in this module.
    """

    def __init__(
        self,
        module: ll.Module,
        view: ProgramView,
        segment: Segment,
        kernels: Mapping[str, ll.Function],
    ) -> None:
        self.module, self.view, self.segment, self.kernels = module, view, segment, kernels
        kind = ll.FunctionType(ll.VoidType(), [_PTR, _I64, _I64])
        self.function = ll.Function(module, kind, segment.entry)
        self.ctx, self.thread, self.threads = self.function.args
        self.b = ll.IRBuilder(self.function.append_basic_block())
        self.barrier = emit_barrier(module)
        self.words = CallWords.of(view)
        self.cursors = {id(step): i for i, step in enumerate(segment.shared())}
        self.moved: set[int] = set()  # cursors that may not be zero
        self.pointers: dict[int, ll.Value] = {}  # where the pointer slots are
        self.alone = False  # whether one thread runs the steps that are being emitted
        self.part: tuple[ll.Value, ll.Value] | None = None  # what it runs of a launch, if not all

    def emit(self) -> None:
        """Defines the function, under the segment's entry."""
        self.target = self.b.alloca(_I64)  # what the barrier counter has reached
        self.b.store(_I64(0), self.target)
        self._body()
        self.b.ret_void()

    def _body(self) -> None:
        self._steps(self.segment.steps)
        if self.moved:
            self._meet()

    def _steps(self, steps: Iterable[NativeStep]) -> None:
        for step in steps:
            if step.barrier and not self.alone:
                self._meet()
            self._step(step)

    def _step(self, step: NativeStep) -> None:
        if isinstance(step, LaunchStep):
            self._launch(step)
        elif isinstance(step, CopyStep):
            self._copy(self._slot(step.source), self._slot(step.target), step.nbytes)
        elif isinstance(step, BandStep):
            self._bands(step)
        elif isinstance(step, LoopStep):
            self._loop(step)
        elif isinstance(step, BranchStep):
            self._branch(step)
        else:
            self._team(step)

    def _word(self, at: int) -> ll.Value:
        return self.b.gep(self.ctx, [_I64(at)], source_etype=_I64)

    def _size(self, at: int) -> ll.Value:
        known = self.view.sizes[at]
        if isinstance(known, int):
            return _I64(known)
        return self.b.load(self._word(self.words.size(at)), typ=_I64)

    def _slot(self, at: int) -> ll.Value:
        if at in self.pointers:
            return self.pointers[at]
        return self.b.load(self._word(self.words.slot(at)), typ=_PTR)

    def _cursor(self, at: int) -> ll.Value:
        """The address of this thread's cursor."""
        row = self.b.mul(self.thread, _I64(self.words.cursors))
        return self.b.gep(self._word(self.words.cursor(at)), [row], source_etype=_I64)

    def _meet(self) -> None:
        target = self.b.add(self.b.load(self.target, typ=_I64), self.threads)
        self.b.store(target, self.target)
        self.b.call(self.barrier, [self._word(BARRIER_WORD), target])
        for at in sorted(self.moved):
            self.b.store(_I64(0), self._cursor(at))
        self.moved.clear()

    @contextmanager
    def _shared(self, extent: ll.Value, grain: int) -> Iterator[tuple[ll.Value, ll.Value]]:
        """Emits what follows for this thread's share ``[lo, hi)``, unless it is empty."""
        b = self.b
        if self.part is not None:
            yield self.part
            return
        if self.alone:
            with b.if_then(b.icmp_signed("<", _I64(0), extent)):
                yield _I64(0), extent
            return
        sharing, _ = shares(b, extent, _I64(grain), self.threads, 1)
        with (
            b.if_then(b.icmp_signed("<", self.thread, sharing)),
            part(b, extent, self.thread, sharing) as bounds,
        ):
            yield bounds

    def _launch(self, step: LaunchStep) -> None:
        """Calls the kernel on what this thread does of it."""
        kernel, cursor = self.kernels[step.kernel], self.cursors.get(id(step))
        if cursor is not None and not self.alone:
            launcher = emit_launcher(kernel, len(step.slots), self.words.cursors)
            its_plan = plan(self.module, step, self.words, cursor)
            self.b.call(launcher, [kernel, its_plan, self.ctx, self.thread, self.threads])
            self.moved.add(cursor)
            return
        with self._shared(self._size(step.extent), step.grain) as (lo, hi):
            buffers = [self._slot(s) for s in step.slots]
            sizes = [self._size(s) for s in step.sizes]
            self.b.call(kernel, [*buffers, *sizes, self._word(ERROR_WORD), lo, hi])

    def _bands(self, step: BandStep) -> None:
        """Threads take bands, and run in each of them a part of every launch."""
        b, known, alone = self.b, dict(self.pointers), self.alone
        rooms = self._rooms(step.room)
        bounds = [self._table(x for part in r for x in part) for r in step.ranges]
        firsts = [self._table(f) for f in step.firsts]
        with b.goto_entry_block():
            behind = b.alloca(_I64)  # the band behind the last one of this thread
        b.store(_I64(-1), behind)
        with self._pieces(step, _I64(step.count)) as (lo, hi), self._each(lo, hi) as band:
            follows = b.icmp_signed("==", band, b.load(behind, typ=_I64))
            b.store(b.add(band, _I64(1)), behind)
            with b.if_then(follows):
                self._move_on(step, rooms, firsts, band)
            for slot, first in zip(step.room.slots, firsts, strict=True):
                ahead = b.neg(self._entry(first, band))
                self.pointers[slot] = b.gep(rooms[slot], [ahead], source_etype=_I8)
            self.alone = True
            start = b.mul(band, _I64(2))
            before = b.select(follows, b.sub(start, _I64(1)), start)  # the end of the last band
            for launch, table in zip(step.launches, bounds, strict=True):
                begin = intrinsic(b, "smax", self._entry(table, start), self._entry(table, before))
                self.part = begin, self._entry(table, b.add(start, _I64(1)))
                self._step(launch)
            self.part = None
            self.alone = alone
        self.pointers = known

    @contextmanager
    def _pieces(
        self, step: BandStep | LoopStep, count: ll.Value
    ) -> Iterator[tuple[ll.Value, ll.Value]]:
        """Emits what follows for what this thread takes of a step: its share or, where it is alone,
        all; outside of loops then of the others' shares.
        """
        at = self.cursors.get(id(step))
        if at is None or self.alone:
            with self._shared(count, 1) as bounds:
                yield bounds
            return
        cursors = self._word(self.words.cursor(at)), _I64(self.words.cursors)
        with taken(self.b, count, _I64(1), self.thread, self.threads, cursors) as bounds:
            yield bounds
        self.moved.add(at)

    def _move_on(
        self, step: BandStep, rooms: dict[int, ll.Value], tables: list[ll.Value], band: ll.Value
    ) -> None:
        """Moves what a thread keeps of the band before to where it lies in this one."""
        rows = zip(step.room.slots, step.kept, step.firsts, tables, strict=True)
        for slot, kept, firsts, table in rows:
            if all(y - x >= kept for x, y in pairwise(firsts)):
                continue
            before = self._entry(table, self.b.sub(band, _I64(1)))
            ahead = self.b.sub(self._entry(table, band), before)
            nbytes = intrinsic(self.b, "smax", self.b.sub(_I64(kept), ahead), _I64(0))
            source = self.b.gep(rooms[slot], [ahead], source_etype=_I8)
            self._transfer("memmove", rooms[slot], source, nbytes)

    def _transfer(self, name: str, to: ll.Value, source: ll.Value, nbytes: ll.Value) -> None:
        kind = ll.FunctionType(ll.VoidType(), [_PTR, _PTR, _I64, ll.IntType(1)])
        full = f"llvm.{name}.p0.p0.i64"
        function = self.module.globals.get(full) or ll.Function(self.module, kind, full)
        self.b.call(function, [to, source, nbytes, ll.IntType(1)(0)])

    def _table(self, numbers: Iterable[int]) -> ll.GlobalVariable:
        """A constant array of integers."""
        values = [*numbers]
        kind = ll.ArrayType(_I64, len(values))
        found = ll.GlobalVariable(self.module, kind, self.module.get_unique_name("table"))
        found.initializer = ll.Constant(kind, values)
        found.global_constant, found.linkage = True, "internal"
        return found

    def _entry(self, table: ll.Value, at: ll.Value) -> ll.Value:
        return self.b.load(self.b.gep(table, [at], source_etype=_I64), typ=_I64)

    def _rooms(self, room: Room) -> dict[int, ll.Value]:
        """Where the slots of this thread's room are."""
        size = self.b.load(self._word(self.words.size(room.size)), typ=_I64)
        offset = self.b.mul(self.thread, size)
        return {s: self.b.gep(self._slot(s), [offset], source_etype=_I8) for s in room.slots}

    @contextmanager
    def _each(self, lo: ll.Value, hi: ll.Value) -> Iterator[ll.Value]:
        """Emits what follows for each number from ``lo`` to before ``hi``, of which there are."""
        b, before = self.b, self.b.block
        body, end = (self.function.append_basic_block() for _ in range(2))
        b.branch(body)
        b.position_at_end(body)
        i = b.phi(_I64)
        i.add_incoming(lo, before)
        yield i
        following = b.add(i, _I64(1))
        i.add_incoming(following, b.block)
        b.cbranch(b.icmp_signed("<", following, hi), body, end)
        b.position_at_end(end)

    def _copy(self, source: ll.Value, target: ll.Value, nbytes: int) -> None:
        with self._shared(self._size(nbytes), COPY_GRAIN) as (lo, hi):
            to, there = (self.b.gep(p, [lo], source_etype=_I8) for p in (target, source))
            self._transfer("memcpy", to, there, self.b.sub(hi, lo))

    # Control flow: all threads that run it go the same way

    def _team(self, step: TeamStep) -> None:
        share = self.view.sizes[step.share]
        if self.alone:
            self._steps(step.steps)
        elif share == 0:
            self._side_by_side(step.steps)
        else:
            little = self.b.icmp_signed("==", self._size(step.share), _I64(0))
            few = self.b.icmp_signed("<=", self.threads, _I64(len(step.steps)))
            single = self.b.or_(little, few)
            before = set(self.moved)
            with self.b.if_else(single) as (then, otherwise):
                with then:
                    self._meet()
                    self._side_by_side(step.steps)
                    self._meet()
                with otherwise:
                    self.moved = before
                    self._steps(step.steps)

    def _side_by_side(self, steps: Iterable[NativeStep]) -> None:
        """Each step by one thread."""
        for i, step in enumerate(steps):
            mine = self.b.urem(_I64(i), self.threads)
            with self.b.if_then(self.b.icmp_signed("==", self.thread, mine)):
                self.alone = True
                self._steps([step])
                self.alone = False

    def _branch(self, step: BranchStep) -> None:
        before = set(self.moved)
        with self.b.if_else(self._holds(step.condition)) as (then, otherwise):
            with then:
                self._checked(step.checks[0], step.then)
            after, self.moved = self.moved, before
            with otherwise:
                self._checked(step.checks[1], step.otherwise)
        self.moved |= after

    def _checked(self, checks: tuple[SizeCheck, ...], steps: Iterable[NativeStep]) -> None:
        """The steps of a branch, if sizes are as they have to be. Otherwise the call ends here, for
        all threads alike; what one thread runs beside others goes on behind the branch.
        """
        if not checks:
            self._steps(steps)
            return
        b, before = self.b, set(self.moved)
        code: ll.Value = _I64(0)
        for c in checks:
            same = b.icmp_signed("==", self._size(c.left), self._size(c.right))
            code = b.select(same, code, _I64(c.code))
        with b.if_else(b.icmp_signed("!=", code, _I64(0)), likely=False) as (fails, holds):
            with fails:
                b.cmpxchg(self._word(ERROR_WORD), _I64(0), code, "monotonic", "monotonic")
                if not self.alone:
                    b.ret_void()
            with holds:
                self._steps(steps)
        self.moved |= before

    def _holds(self, slot: int) -> ll.Value:
        return self.b.icmp_unsigned("!=", self.b.load(self._slot(slot), typ=_I8), _I8(0))

    def _loop(self, step: LoopStep) -> None:
        """All threads run each iteration; or each thread its own, see ``Room.used``."""
        if step.room is None or self.alone:
            self._together(step)
            return
        assert step.count is not None
        b, count = self.b, self._size(step.count)
        last = b.sub(self.threads, _I64(1))
        rounds = b.sdiv(b.add(count, last), self.threads)
        needed = b.mul(b.mul(rounds, self.threads), _I64(EVEN))
        used = b.icmp_signed("<=", needed, b.mul(count, _I64(EVEN + 1)))
        before = set(self.moved)
        with b.if_else(used) as (then, otherwise):
            with then:
                self._apart(step, step.room, count)
            self.moved = before
            with otherwise:
                self._together(step)

    def _apart(self, step: LoopStep, room: Room, count: ll.Value) -> None:
        """Threads take iterations piece by piece; each runs its own in its own room."""
        b = self.b
        self._meet()
        known = dict(self.pointers)
        self.pointers |= self._rooms(room)
        bases = [(s.pointer, self._slot(s.base), self._size(s.stride)) for s in step.slices]
        with self._pieces(step, count) as (lo, hi), self._each(lo, hi) as i:
            for pointer, base, stride in bases:
                self.pointers[pointer] = b.gep(base, [b.mul(i, stride)], source_etype=_I8)
            self.alone = True
            self._steps(step.body)
            self.alone = False
        self.pointers = known
        self._meet()

    def _together(self, step: LoopStep) -> None:
        b = self.b
        head, body, end = (self.function.append_basic_block() for _ in range(3))
        count = None if step.count is None else self._size(step.count)
        starts = [self._start(c, count) for c in step.carries]
        bases = [self._slot(s.base) for s in step.slices]
        strides = [self._size(s.stride) for s in step.slices]
        before, moved = b.block, set(self.moved)
        b.branch(head)
        b.position_at_end(head)
        i = b.phi(_I64)
        i.add_incoming(_I64(0), before)
        moving = [[b.phi(_PTR) for _ in start] for start in starts]
        for phis, start in zip(moving, starts, strict=True):
            for phi, value in zip(phis, start, strict=True):
                phi.add_incoming(value, before)
        for c, phis in zip(step.carries, moving, strict=True):
            self.pointers[c.before] = phis[0]
            if c.buffers:
                self.pointers[c.after] = phis[1]
        if count is not None:
            b.cbranch(b.icmp_signed("<", i, count), body, end)
            b.position_at_end(body)
            self._meet_in_loop()
        else:
            self._meet_in_loop()
            self._steps(step.test)
            self._look_up(i)
            self._meet_in_loop()
            b.cbranch(b.and_(self._holds(step.condition), self._no_error()), body, end)
            b.position_at_end(body)
        for s, base, stride in zip(step.slices, bases, strides, strict=True):
            self.pointers[s.pointer] = b.gep(base, [b.mul(i, stride)], source_etype=_I8)
        self._steps(step.body)
        i.add_incoming(b.add(i, _I64(1)), b.block)
        for c, phis in zip(step.carries, moving, strict=True):
            following = [self.pointers[c.after], *phis[:0:-1]]  # the two buffers change places
            for phi, value in zip(phis, following, strict=True):
                phi.add_incoming(value, b.block)
        b.branch(head)
        b.position_at_end(end)
        self.moved |= moved  # there may have been no iteration
        self._meet_in_loop()
        for c, phis in zip(step.carries, moving, strict=True):
            if c.result is not None:
                result = self._slot(c.result)
                with b.if_then(b.icmp_unsigned("!=", phis[0], result)):
                    self._copy(phis[0], result, c.nbytes)

    def _look_up(self, i: ll.Value) -> None:
        """The first thread polls, and tells the others whether there is an error."""
        b = self.b
        with b.if_then(b.icmp_signed("==", self.thread, _I64(0))):
            due = b.icmp_signed("==", b.and_(i, _I64(POLL_PERIOD - 1)), _I64(POLL_PERIOD - 1))
            with b.if_then(due, likely=False):
                poll = b.load(self._word(POLL_WORD), typ=_I64)
                with b.if_then(b.icmp_signed("!=", poll, _I64(0))):
                    kind = ll.FunctionType(ll.VoidType(), [_PTR])
                    b.call(b.inttoptr(poll, kind.as_pointer()), [self.ctx])
            if not self.alone:
                b.store(self._error(), self._word(STOP_WORD))

    def _error(self) -> ll.Value:
        return self.b.load_atomic(self._word(ERROR_WORD), "monotonic", 8, typ=_I64)

    def _no_error(self) -> ll.Value:
        """What all threads that run a loop see alike."""
        stop = self._error() if self.alone else self.b.load(self._word(STOP_WORD), typ=_I64)
        return self.b.icmp_signed("==", stop, _I64(0))

    def _start(self, c: Carry, count: ll.Value | None) -> list[ll.Value]:
        """The pointers of a carried value before the first iteration: where it is, where the next
        one goes, and the one after it.
        """
        init = self._slot(c.init)
        if c.buffers is None:
            return [init]
        first, second = map(self._slot, c.buffers)
        if count is not None:  # such that the last one goes to the first buffer
            b = self.b
            odd = b.trunc(count, ll.IntType(1))
            first, second = b.select(odd, first, second), b.select(odd, second, first)
        return [init, first, second]

    def _meet_in_loop(self) -> None:
        if not self.alone:
            self._meet()
