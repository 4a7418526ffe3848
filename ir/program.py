"""A program as a runtime needs it: slots of memory, sizes, steps in epochs; read by ``ir/view.py``.

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

A chain of launches may run in bands, see ``ir/ops/program.py``: parts of one launch after the other
by the same thread, in memory that it has for itself, in a loop as elsewhere.

Iterations of a loop that carries nothing do not need each other. If they are worth it,
and about as many for each thread, each runs iterations of its own, without barriers, and what an
iteration makes lies in memory that the thread has for itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pjit.ir.core import Op, Value
from pjit.ir.expr import Dim
from pjit.ir.types import TensorType

EVEN = 4  # threads wait for at most the 4th part of what they do when each runs its iterations


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
    """The slots of what is made in iterations of a loop, or in bands, that threads run each for
    itself: every thread has a room of its own, one behind the other.

    ``count`` is the position of the number of iterations, or None where threads always do, as for
    bands; ``first`` and ``last`` are the epochs in which it is used. In the position ``size`` of
    the sizes a runtime puts the bytes of one room, which no dimension says.
    """

    slots: tuple[int, ...]
    count: int | None
    size: int
    first: int
    last: int

    @staticmethod
    def used(count: int, threads: int) -> bool:
        """Whether so many threads run iterations each for itself: none of them has much less to do
        than another one. ``backends/llvm/segment.py`` decides alike.
        """
        return -(-count // threads) * threads * EVEN <= count * (EVEN + 1)


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

    Where there is a ``room``, threads may run iterations each for itself (``Room.used``).
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


@dataclass(frozen=True)
class BandStep:
    """Launches that run part by part: each thread takes bands, and runs in each of them the
    ``ranges`` of one launch after the other, without barriers.

    The slots of the ``room`` hold a part of a value: ``kept`` says for each of them how many bytes
    these are, and ``firsts`` for each band how many bytes of it come before that part. In a band
    behind its last one a thread begins each launch where it ended, and moves what is kept.
    """

    launches: tuple[LaunchStep, ...]
    ranges: tuple[tuple[tuple[int, int], ...], ...]
    kept: tuple[int, ...]
    firsts: tuple[tuple[int, ...], ...]
    barrier: bool
    op: Op
    room: Room

    @property
    def count(self) -> int:
        """How many bands there are."""
        return len(self.ranges[0])


NativeStep = LaunchStep | CopyStep | LoopStep | BranchStep | TeamStep | BandStep


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

    def shared(self) -> list[LaunchStep | LoopStep | BandStep]:
        """What threads take piece by piece as they come, outside of loops: launches, bands, and
        the loops whose iterations do not need each other.
        """

        def found(steps: Iterable[NativeStep]) -> Iterator[LaunchStep | LoopStep | BandStep]:
            for step in steps:
                if isinstance(step, LoopStep):
                    if step.room is not None:
                        yield step
                elif isinstance(step, LaunchStep | BandStep):
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
    if isinstance(step, BandStep):
        return step.launches
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
    if isinstance(step, TeamStep | BandStep):
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
