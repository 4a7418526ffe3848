"""What a program needs for one choice of sizes: the context of its code, places for its buffers.

``ir/call.py`` says what is in the context. A frame is a context for one call that is under way,
with memory for copies of small inputs; plans keep a few for the next calls.
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

import numpy as np

from pjit.ir import expr
from pjit.ir.call import BARRIER_WORD, ERROR_WORD, CallWords
from pjit.ir.interp import evaluate
from pjit.ir.program import HostStep, ProgramView, Room, Slot
from pjit.ir.types import TensorType
from pjit.runtime.memory import (
    Interval,
    Placement,
    address_of,
    allocate,
    place,
    reserve,
    rounded,
)
from pjit.runtime.pace import Pace

IDLE_FRAMES = 8  # contexts that a plan keeps
STAGED_BYTES = (
    8 << 10
)  # to copy an input of so many bytes costs no more than to ask for its address
SHARED_BYTES = 4 << 10  # results up to this size share one piece of memory
_BYTES_A_SECOND, _FLOPS_A_SECOND = 10e9, 20e9  # for guesses: one core, data in its caches
REUSED_BYTES = 64 << 10  # results up to this size serve the next call when they are gone
COUNTS_REFERENCES = getattr(sys, "_is_gil_enabled", lambda: True)()
_CACHE_LINES = 128  # contexts begin on a pair of cache lines of their own


class Arena:
    """Memory for intermediate results, shared by the calls of a program, which run in turn."""

    __slots__ = ("__weakref__", "address", "memory", "nbytes")

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.memory, self.address = allocate((nbytes,), np.dtype(np.uint8), nbytes)


class Made:
    """Arrays for the results of a call, and the memory that they lie in.

    NumPy says of a view only what memory it is in: so the arrays are free again when nobody but
    this has them nor their memory.
    """

    __slots__ = ("_counts", "_objects", "arrays")

    def __init__(self, arrays: list[np.ndarray], memory: list[Any]) -> None:
        self.arrays, self._objects = arrays, [*arrays, *memory]
        self._counts: list[int] = []

    def keep(self) -> None:
        """Notes how often everything is referred to now, when nobody else has it."""
        self._counts = [*map(sys.getrefcount, self._objects)]

    def free(self) -> bool:
        """Whether nobody else has the arrays or views of them, nor has made them writable."""
        return [*map(sys.getrefcount, self._objects)] == self._counts and not any(
            [a.flags.writeable for a in self.arrays]
        )


class Frame:
    """The context of one call.

    Attributes:
        words: The context.
        address: Where it is; ``pointer`` is the same for ctypes.
        staged: For each input an array for its copy, or None, and the address of that.
        arena: The arena that the context points to.
        made: The arrays of the last call, for the next one when nobody else has them any more.
    """

    __slots__ = ("_memory", "address", "arena", "made", "pointer", "staged", "words")

    def __init__(
        self, words: np.ndarray, inputs: Sequence[tuple[tuple, np.dtype]], arena: Arena | None
    ) -> None:
        sizes = [rounded(math.prod(shape) * dtype.itemsize) for shape, dtype in inputs]
        kept = [n if n <= STAGED_BYTES else 0 for n in sizes]
        length = rounded(words.nbytes)
        self._memory, offset, start = reserve(_CACHE_LINES + length + sum(kept))
        first = -start % _CACHE_LINES
        at = first + length
        self.address = start + first
        self.pointer = ctypes.c_void_p(self.address)
        self.words = (ctypes.c_int64 * len(words)).from_address(self.address)
        ctypes.memmove(self.address, words.ctypes.data, words.nbytes)
        self.staged: list[tuple[np.ndarray | None, int]] = []
        for (shape, dtype), size, keep in zip(inputs, sizes, kept, strict=True):
            copy = np.ndarray(shape, dtype, self._memory, offset + at) if keep == size else None
            self.staged.append((copy, start + at))
            at += keep
        self.arena = arena
        self.made: Made | None = None


@dataclass(frozen=True)
class Layout:
    """What is the same for every size: where things are in the context, and what is known when.

    Attributes:
        view: The program.
        constants: The arrays of the constants, row-major and aligned.
        late: Slots whose memory is made during a call: results of host operations and what depends
            on their sizes.
        late_sizes: Positions in ``view.sizes`` that host operations determine.
        arena: The slots that lie in the arena, but not in a room.
        rooms: The rooms that lie in the arena.
        inputs: The word of each input's pointer.
        words: Where things are in the context.
        threads: The threads that it has room for.
    """

    view: ProgramView
    constants: Mapping[str, np.ndarray]
    late: frozenset[int]
    late_sizes: tuple[int, ...]
    arena: tuple[int, ...]
    rooms: tuple[Room, ...]
    inputs: tuple[int, ...]
    words: CallWords
    threads: int

    @staticmethod
    def of(view: ProgramView, constants: Mapping[str, np.ndarray], threads: int) -> Layout:
        """Reads a program that runs on at most so many threads."""
        known = set(view.symbols)
        hosted = {s for step in view.steps if isinstance(step, HostStep) for s, _ in step.outputs}

        def is_late(slot: Slot) -> bool:
            return slot.index in hosted or not expr.symbols(slot.nbytes) <= known

        made = [s for s in view.slots if s.kind in ("arena", "output")]
        late = frozenset(s.index for s in made if is_late(s))
        words = CallWords.of(view)
        own = [s.index for s in made if s.kind == "arena" and s.index not in late and not s.room]
        return Layout(
            view,
            constants,
            late,
            tuple(i for i, d in enumerate(view.sizes) if not expr.symbols(d) <= known),
            tuple(own),
            tuple(dict.fromkeys(s.room for s in made if s.room)),
            tuple(words.slot(i) for i in range(len(view.inputs))),
            words,
            threads,
        )


@dataclass(frozen=True)
class Output:
    """A slot that a call makes an array for: its word, and shape, dtype and bytes of the array."""

    slot: int
    word: int
    shape: tuple[int, ...]
    dtype: np.dtype
    nbytes: int


@dataclass(frozen=True)
class Block:
    """Outputs in one piece of memory: their offsets, and how many bytes they take together."""

    outputs: tuple[tuple[Output, int], ...]
    nbytes: int

    @staticmethod
    def of(outputs: Sequence[Output]) -> Block:
        """Places outputs one behind the other."""
        ends = list(accumulate((rounded(o.nbytes) for o in outputs), initial=0))
        return Block(tuple(zip(outputs, ends, strict=False)), ends[-1])


@dataclass(frozen=True)
class Result:
    """Where a result of a native program comes from.

    Attributes:
        kind: ``made`` (an array of the call), ``input`` or ``constant``.
        at: Which one: a position in ``Plan.outputs``, an input, a slot.
        shape: The shape of the result.
        reshaped: Whether the array there has another shape.
    """

    kind: str
    at: int
    shape: tuple[int, ...]
    reshaped: bool


@dataclass(eq=False)
class Plan:
    """A program with its sizes known.

    Attributes:
        values: The symbols.
        pace: How its calls run.
        placement: How the arena is used.
        places: The offset in the arena of each slot there.
        outputs: The slots that each call makes arrays for, in the order of ``blocks``.
        blocks: The pieces of memory that they lie in.
        results: The results in order; only for a program whose sizes are all known.
        stamp: When the plan was used last.
    """

    layout: Layout
    values: dict[str, int]
    pace: Pace
    placement: Placement = field(init=False)
    places: dict[int, int] = field(init=False)
    outputs: tuple[Output, ...] = field(init=False)
    blocks: tuple[Block, ...] = field(init=False)
    results: tuple[Result, ...] = field(init=False)
    stamp: int = 0
    _inputs: tuple[tuple[tuple[int, ...], np.dtype], ...] = field(init=False)
    _words: np.ndarray = field(init=False)
    _arena: Arena | None = None
    _idle: list[Frame] = field(default_factory=list)
    _reuses: bool = field(init=False)

    def __post_init__(self) -> None:
        layout, view, values = self.layout, self.layout.view, self.values
        rooms = [place([self._interval(view.slots[i]) for i in r.slots]) for r in layout.rooms]
        self._place(rooms)
        made = [
            self._output(s) for s in view.slots if s.kind == "output" and s.index not in layout.late
        ]
        small = [o for o in made if o.nbytes <= SHARED_BYTES]
        alone = [[o] for o in made if o.nbytes > SHARED_BYTES]
        self.blocks = tuple(Block.of(outputs) for outputs in ([small, *alone] if small else alone))
        self.outputs = tuple(o for block in self.blocks for o, _ in block.outputs)
        self._inputs = tuple((sizes_of(t.shape, values), t.dtype.numpy) for _, t in view.inputs)
        self._reuses = COUNTS_REFERENCES and sum(b.nbytes for b in self.blocks) <= REUSED_BYTES
        self.results = () if layout.late else tuple(map(self._result, view.results))
        self._words = np.zeros(layout.words.count(layout.threads), np.int64)
        for i, d in enumerate(view.sizes):
            if i not in layout.late_sizes:
                self._words[layout.words.size(i)] = evaluate(d, values)
        for room, inner in zip(layout.rooms, rooms, strict=True):
            self._words[layout.words.size(room.size)] = inner.peak
        for s in view.slots:
            if s.kind == "constant":
                self._words[layout.words.slot(s.index)] = address_of(layout.constants[s.name])

    def _place(self, rooms: Sequence[Placement]) -> None:
        """Places the slots of the arena, and the rooms with what is in them."""
        layout, slots = self.layout, self.layout.view.slots
        whole, unshared = [], 0
        for room, inner in zip(layout.rooms, rooms, strict=True):
            copies = layout.threads
            if room.count is not None:
                count = evaluate(layout.view.sizes[room.count], self.values)
                copies = copies if Room.used(count, copies) else 1
            whole.append(Interval(copies * inner.peak, room.first, room.last))
            unshared += copies * (inner.total - inner.peak)
        found = place([*(self._interval(slots[i]) for i in layout.arena), *whole])
        self.placement = replace(found, total=found.total + unshared)
        alone = len(layout.arena)
        self.places = dict(zip(layout.arena, found.offsets[:alone], strict=True))
        for room, inner, start in zip(layout.rooms, rooms, found.offsets[alone:], strict=True):
            self.places |= {i: start + at for i, at in zip(room.slots, inner.offsets, strict=True)}

    def _interval(self, slot: Slot) -> Interval:
        nbytes = max(0, evaluate(slot.nbytes, self.values))  # negative where no branch leads
        return Interval(nbytes, slot.first, slot.last)

    def _output(self, slot: Slot) -> Output:
        t = slot.type
        shape = sizes_of(t.shape, self.values)
        nbytes = evaluate(slot.nbytes, self.values)
        return Output(slot.index, self.layout.words.slot(slot.index), shape, t.dtype.numpy, nbytes)

    def _result(self, result: tuple[str, int, TensorType]) -> Result:
        _, slot, t = result
        shape = sizes_of(t.shape, self.values)
        kind = self.layout.view.slots[slot].kind
        if kind != "output":
            return Result(kind, slot, shape, True)
        at = next(i for i, o in enumerate(self.outputs) if o.slot == slot)
        return Result("made", at, shape, self.outputs[at].shape != shape)

    @property
    def nbytes(self) -> int:
        """Bytes that the plan itself takes, at most."""
        each = self._words.nbytes + STAGED_BYTES * len(self._inputs)
        return self._words.nbytes + IDLE_FRAMES * each

    def take(self, arena: Arena | None) -> Frame:
        """A context for a call, with fresh counters."""
        if arena is not self._arena:
            self._idle, self._arena = [], arena
        frame = self._idle.pop() if self._idle else self._new_frame(arena)
        frame.words[BARRIER_WORD] = frame.words[ERROR_WORD] = 0
        return frame

    def give(self, frame: Frame) -> None:
        """Takes back the context of a call that has ended; not of one that stopped half-way."""
        if frame.words[ERROR_WORD]:
            return
        if frame.arena is self._arena and len(self._idle) < IDLE_FRAMES:
            self._idle.append(frame)

    def make(self, frame: Frame) -> list[np.ndarray]:
        """Arrays for ``outputs``, read-only, whose addresses go into a context.

        They are in use, and stay so when the context is given back, as long as the list exists.
        """
        made = frame.made
        if made is not None and made.free():
            return [*made.arrays]
        frame.made = None
        made = self._new_arrays(frame)
        if self._reuses:
            frame.made = made
            made.keep()
        return [*made.arrays]

    def _new_arrays(self, frame: Frame) -> Made:
        arrays, places = [], []
        for block in self.blocks:
            memory, offset, address = reserve(block.nbytes)
            places.append(memory)
            for o, at in block.outputs:
                frame.words[o.word] = address + at
                array = np.ndarray(o.shape, o.dtype, memory, offset + at)
                array.setflags(write=False)
                arrays.append(array)
        return Made(arrays, places)

    def _new_frame(self, arena: Arena | None) -> Frame:
        words = self._words
        if arena is not None:
            words = words.copy()
            for slot, offset in self.places.items():
                words[self.layout.words.slot(slot)] = arena.address + offset
        return Frame(words, self._inputs, arena)


def estimated_seconds(view: ProgramView, values: Mapping[str, int]) -> float:
    """A guess of the time of a call on one thread, from its memory traffic and its operations;
    infinite where data decides how often something runs.
    """
    counts: list[expr.Dim] = []
    for step, times in view.launches():
        if times is None:
            return float("inf")
        counts.append(step.op.attrs["flops"] * times)
    sizes = [s.nbytes for s in view.slots if s.kind != "pointer"]
    known = [[d for d in ds if expr.symbols(d) <= values.keys()] for ds in (sizes, counts)]
    nbytes, flops = (sum(max(0, evaluate(d, values)) for d in ds) for ds in known)
    return 2 * nbytes / _BYTES_A_SECOND + flops / _FLOPS_A_SECOND


def sizes_of(shape: Sequence[expr.Dim], values: Mapping[str, int]) -> tuple[int, ...]:
    """A shape with its symbols known."""
    return tuple(evaluate(d, values) for d in shape)


__all__ = ["Arena", "Frame", "Layout", "Output", "Plan", "Result", "estimated_seconds", "sizes_of"]
