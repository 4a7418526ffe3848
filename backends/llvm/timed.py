"""Programs whose native functions time each of their steps.

A thread has a row of cells: for each step the ticks that passed in it and how often it began, with
all threads or by itself. What
is in a step lasts until the next one begins, behind the barrier before that: so it includes the
wait for threads that were slower. What holds steps gets what is left between them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import numpy as np
from llvmlite import ir as ll

from pjit.backends.llvm.module import NativeCode, compile_module, new_module
from pjit.backends.llvm.segment import SegmentFunction
from pjit.backends.llvm.sync import declare, define
from pjit.backends.llvm.target import LlvmMachine
from pjit.ir.program import NativeStep, ProgramView, Segment, children

CLOCK = "pjit_clock"
_CELLS = 3  # of a step: ticks, how often all threads began it, how often this one did by itself
_LINE = 16  # words of two cache lines, which no two rows share
_I64, _PTR = ll.IntType(64), ll.PointerType()


class TimedCode:
    """The segments of a program, compiled with a clock, around kernels that are loaded.

    Args:
        view: The program.
        kernels: The addresses of its kernels.
        machine: The machine that they were compiled for.
        threads: The threads that will run the segments.
    """

    def __init__(
        self, view: ProgramView, kernels: Mapping[str, int], machine: LlvmMachine, threads: int
    ) -> None:
        segments = [s for s in view.steps if isinstance(s, Segment)]
        self.steps = [step for s in segments for step in s.walk()]
        width = -(-_CELLS * (len(self.steps) + 1) // _LINE) * _LINE
        self._cells = np.zeros((threads, width), np.int64)
        cells = {id(step): _CELLS * i for i, step in enumerate(self.steps)}
        module = new_module(machine, "timed")
        declared: dict[str, ll.Function] = {}
        for launch, _ in view.launches():
            types = [_PTR] * len(launch.slots) + [_I64] * len(launch.sizes) + [_PTR, _I64, _I64]
            if launch.kernel not in declared:
                kind = ll.FunctionType(ll.VoidType(), types)
                declared[launch.kernel] = ll.Function(module, kind, launch.kernel)
        for segment in segments:
            TimedSegment(module, view, segment, declared, self._cells, cells).emit()
        _emit_clock(module)
        entries = (*(s.entry for s in segments), CLOCK)
        used = {name: kernels[name] for name in declared}
        self._code = NativeCode([compile_module(module, machine)], entries, used)
        self.clock = ctypes.PYFUNCTYPE(ctypes.c_int64)(self._code.address(CLOCK))

    def address(self, symbol: str) -> int:
        """The address of a segment's function."""
        return self._code.address(symbol)

    def close(self) -> None:
        """Frees the code; nothing may be running it."""
        self._code.close()

    def reset(self) -> None:
        """Sets all cells to zero; no segment may be running."""
        self._cells[:] = 0

    def read(self) -> np.ndarray:
        """Of each step in the order of ``Segment.walk``: ticks, and how often it ran.

        The ticks are those of the thread that was in the step for the longest time: another one may
        leave the work to it, if it comes late, or have no part in the step. What threads ran each
        for itself ran as often as all of them did it together.
        """
        shape = (len(self._cells), len(self.steps), _CELLS)
        cells = self._cells[:, : _CELLS * len(self.steps)].reshape(shape)
        ticks, together = cells[..., :2].max(axis=0).T
        return np.stack([ticks, together + cells[..., 2].sum(axis=0)], axis=1)


class TimedSegment(SegmentFunction):
    """The emission of one segment's function, with a clock.

    Args:
        module, view, segment, kernels: As for ``SegmentFunction``.
        memory: A row of cells for each thread; it has to stay where it is.
        cells: Where the cells of a step are in its row, by the ``id`` of the step.
    """

    def __init__(
        self,
        module: ll.Module,
        view: ProgramView,
        segment: Segment,
        kernels: Mapping[str, ll.Function],
        memory: np.ndarray,
        cells: Mapping[int, int],
    ) -> None:
        super().__init__(module, view, segment, kernels)
        self.memory, self.cells = memory, cells

    def _body(self) -> None:
        b = self.b
        start = _I64(self.memory.ctypes.data).inttoptr(_PTR)
        row = b.mul(self.thread, _I64(self.memory.shape[1]))
        self.row = b.gep(start, [row], source_etype=_I64)
        self.running, self.since = b.alloca(_PTR), b.alloca(_I64)
        b.store(self._cell(_CELLS * len(self.cells)), self.running)  # what no step is charged with
        b.store(_read_clock(b), self.since)
        super()._body()
        self._meet()
        self._charge()

    def _step(self, step: NativeStep) -> None:
        self._begin(step, 1)
        super()._step(step)
        if children(step):
            self._begin(step, 0)

    def _begin(self, step: NativeStep, count: int) -> None:
        """Ends the step that is running, and lets time go to another one."""
        b = self.b
        self._charge()
        cell = self._cell(self.cells[id(step)])
        b.store(cell, self.running)
        if count:
            counter = self._cell(self.cells[id(step)] + (2 if self.alone else 1))
            b.store(b.add(b.load(counter, typ=_I64), _I64(count)), counter)

    def _charge(self) -> None:
        """Adds the ticks since the last time to the step that is running."""
        b = self.b
        now, cell = _read_clock(b), b.load(self.running, typ=_PTR)
        passed = b.sub(now, b.load(self.since, typ=_I64))
        b.store(b.add(b.load(cell, typ=_I64), passed), cell)
        b.store(now, self.since)

    def _cell(self, at: int) -> ll.Value:
        return self.b.gep(self.row, [_I64(at)], source_etype=_I64)


def _emit_clock(module: ll.Module) -> None:
    """``i64 pjit_clock()``."""
    function = define(module, CLOCK, _I64, [], internal=False)
    b = ll.IRBuilder(function.append_basic_block())
    b.ret(_read_clock(b))


def _read_clock(b: ll.IRBuilder) -> ll.Value:
    """The counter of the processor that runs at a constant rate and may be read by programs."""
    arm = b.module.triple.startswith(("aarch64", "arm64"))
    name = "llvm.readsteadycounter" if arm else "llvm.readcyclecounter"
    return b.call(declare(b.module, name, _I64, []), [])
