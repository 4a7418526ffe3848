"""What a program needs for one choice of sizes: the context of its code, places for its buffers.

The context is an array of 8-byte words: the barrier counter, the error word, the sizes of the
program, then a pointer per slot. A frame is a context for one call that is under way; plans keep a
few for the next calls.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pjit.ir import expr
from pjit.ir.interp import evaluate
from pjit.ir.program import HostStep, ProgramView, Slot
from pjit.ir.types import TensorType
from pjit.runtime.memory import Interval, Placement, address_of, allocate, place

BARRIER_WORD, ERROR_WORD, FIRST_SIZE = 0, 8, 16
IDLE_FRAMES = 8  # contexts that a plan keeps
_BYTES_A_SECOND, _FLOPS_A_SECOND = 10e9, 20e9  # for guesses: one core, data in its caches
_CACHE_LINES = 128  # contexts begin on a pair of cache lines of their own


class Arena:
    """Memory for intermediate results, shared by the calls of a program, which run in turn."""

    __slots__ = ("__weakref__", "address", "memory", "nbytes")

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.memory, self.address = allocate((nbytes,), np.dtype(np.uint8), nbytes)


class Frame:
    """The context of one call."""

    __slots__ = ("_memory", "address", "arena", "words")

    def __init__(self, words: np.ndarray, arena: Arena | None) -> None:
        self._memory = ctypes.create_string_buffer(words.nbytes + _CACHE_LINES)
        start = ctypes.addressof(self._memory)
        self.address = start + -start % _CACHE_LINES
        self.words = (ctypes.c_int64 * len(words)).from_address(self.address)
        ctypes.memmove(self.address, words.ctypes.data, words.nbytes)
        self.arena = arena


@dataclass(frozen=True)
class Layout:
    """What is the same for every size: where things are in the context, and what is known when.

    Attributes:
        view: The program.
        constants: The arrays of the constants, row-major and aligned.
        late: Slots whose memory is made during a call: results of host operations and what depends
            on their sizes.
        late_sizes: Positions in ``view.sizes`` that host operations determine.
        arena: The slots that lie in the arena.
        inputs: The word of each input's pointer.
    """

    view: ProgramView
    constants: Mapping[str, np.ndarray]
    late: frozenset[int]
    late_sizes: tuple[int, ...]
    arena: tuple[int, ...]
    inputs: tuple[int, ...]

    @staticmethod
    def of(view: ProgramView, constants: Mapping[str, np.ndarray]) -> Layout:
        """Reads a program."""
        known = set(view.symbols)
        hosted = {s for step in view.steps if isinstance(step, HostStep) for s, _ in step.outputs}

        def is_late(slot: Slot) -> bool:
            return slot.index in hosted or not expr.symbols(slot.nbytes) <= known

        made = [s for s in view.slots if s.kind in ("arena", "output")]
        late = frozenset(s.index for s in made if is_late(s))
        first = FIRST_SIZE + len(view.sizes)
        return Layout(
            view,
            constants,
            late,
            tuple(i for i, d in enumerate(view.sizes) if not expr.symbols(d) <= known),
            tuple(s.index for s in made if s.kind == "arena" and s.index not in late),
            tuple(first + i for i in range(len(view.inputs))),
        )

    def word(self, slot: int) -> int:
        """The word that holds the pointer of a slot."""
        return FIRST_SIZE + len(self.view.sizes) + slot


@dataclass(frozen=True)
class Output:
    """A slot that a call makes an array for: its word, and shape, dtype and bytes of the array."""

    slot: int
    word: int
    shape: tuple[int, ...]
    dtype: np.dtype
    nbytes: int


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
        placement: Where the slots of the arena lie.
        outputs: The slots that each call makes arrays for.
        results: The results in order; only for a program whose sizes are all known.
        seconds: The estimated time of one call on one thread, while that is worth knowing, else
            infinity.
        cold: Whether no call has been timed yet.
        stamp: When the plan was used last.
    """

    layout: Layout
    values: dict[str, int]
    seconds: float
    placement: Placement = field(init=False)
    outputs: tuple[Output, ...] = field(init=False)
    results: tuple[Result, ...] = field(init=False)
    cold: bool = True
    stamp: int = 0
    _words: np.ndarray = field(init=False)
    _arena: Arena | None = None
    _idle: list[Frame] = field(default_factory=list)

    def __post_init__(self) -> None:
        layout, view, values = self.layout, self.layout.view, self.values
        self.placement = place([self._interval(view.slots[i]) for i in layout.arena])
        self.outputs = tuple(
            self._output(s) for s in view.slots if s.kind == "output" and s.index not in layout.late
        )
        self.results = () if layout.late else tuple(map(self._result, view.results))
        self._words = np.zeros(FIRST_SIZE + len(view.sizes) + len(view.slots), np.int64)
        for i, d in enumerate(view.sizes):
            if i not in layout.late_sizes:
                self._words[FIRST_SIZE + i] = evaluate(d, values)
        for s in view.slots:
            if s.kind == "constant":
                self._words[layout.word(s.index)] = address_of(layout.constants[s.name])

    def _interval(self, slot: Slot) -> Interval:
        nbytes = max(0, evaluate(slot.nbytes, self.values))  # negative where no branch leads
        return Interval(nbytes, slot.first, slot.last)

    def _output(self, slot: Slot) -> Output:
        t = slot.type
        shape = sizes_of(t.shape, self.values)
        nbytes = evaluate(slot.nbytes, self.values)
        return Output(slot.index, self.layout.word(slot.index), shape, t.dtype.numpy, nbytes)

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
        return self._words.nbytes * (1 + IDLE_FRAMES)

    def take(self, arena: Arena | None) -> Frame:
        """A context for a call, with fresh counters."""
        if arena is not self._arena:
            self._idle, self._arena = [], arena
        frame = self._idle.pop() if self._idle else self._new_frame(arena)
        frame.words[BARRIER_WORD] = frame.words[ERROR_WORD] = 0
        return frame

    def give(self, frame: Frame) -> None:
        """Takes back the context of a call that has ended."""
        if frame.arena is self._arena and len(self._idle) < IDLE_FRAMES:
            self._idle.append(frame)

    def _new_frame(self, arena: Arena | None) -> Frame:
        words = self._words
        if arena is not None:
            words = words.copy()
            for slot, offset in zip(self.layout.arena, self.placement.offsets, strict=True):
                words[self.layout.word(slot)] = arena.address + offset
        return Frame(words, arena)


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
