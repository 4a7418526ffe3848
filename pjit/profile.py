"""Times the steps of a program on given inputs: what ``report(*inputs)`` measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from pjit.array import Array
from pjit.backends.base import backend
from pjit.ir.program import HostStep, Segment
from pjit.ir.target import Limits, Machine
from pjit.runtime.hosted import HostedCall, HostOperation
from pjit.runtime.program import Runnable

SECONDS = 1.0  # how long a program is timed
FEWEST, MOST = 5, 200  # calls that are timed, beside one to warm up
ROUNDS = 15  # measurements of the bandwidth, before and after


@dataclass(frozen=True)
class StepTime:
    """What a step took in one call, at least, and how often it ran."""

    seconds: float
    count: int


@dataclass(frozen=True)
class Profile:
    """What the steps of a program took.

    Attributes:
        steps: Those of all segments and of the host, in the order of the program; what a step holds
            comes after it.
        sizes: The symbols of the call.
        call_seconds: A call from its start until its results are there, without the clocks.
        calls: How many calls were timed; the least time of each step counts.
        limits: What the threads of the program can do on this machine.
    """

    steps: tuple[StepTime, ...]
    sizes: Mapping[str, int]
    call_seconds: float
    calls: int
    limits: Limits


class TimedProgram(Runnable):
    """A program whose steps are timed; all threads run it, and a call waits for its end.

    Args:
        program: The program, which stays open.
        kernels: The addresses of its kernels, which are those that run.
        target: Its back end.
        machine: What it was compiled for.
    """

    def __init__(
        self, program: Runnable, kernels: Mapping[str, int], target: str, machine: Machine
    ) -> None:
        view, engine = program.view, program.engine
        self.clocks = backend(target).TimedCode(view, kernels, machine, engine.threads)
        super().__init__(view, self.clocks, program.constants, engine, sync=True)
        self._timed = tuple(
            _TimedOperation(step, self.constants)
            for step in view.steps
            if isinstance(step, HostStep)
        )

    def run(self, args: Sequence[Any]) -> tuple[list[np.ndarray], dict[str, int]]:
        """Runs the program step by step; returns its results and all sizes.

        Raises:
            InputError: An input is missing, or its type or shape is wrong.
            ExecutionError: A step failed.
        """
        if len(args) != len(self.inputs):
            raise self._wrong_count(len(args))
        ready = [a.block_until_ready() if isinstance(a, Array) else a for a in args]
        values = [self._converted(at, a) for at, a in enumerate(ready)]
        values = [v if v.flags.carray else np.array(v, order="C") for v in values]
        key = tuple([v.shape for v in values])
        plan = self._plans.get(key) or self._new_plan(key)
        self.clocks.reset()
        with self.engine.lock:
            native = self._open()
            frame, made = self._frame(plan)
        try:
            call = HostedCall(self, plan, frame, made, values)
            results = call.run(native.entries, self._timed)
        finally:
            with self.engine.lock:
                plan.give(frame)
        return results, call.values

    def read(self) -> np.ndarray:
        """Ticks and counts of the steps in the last call; of the host's, seconds and counts."""
        native, hosted = iter(self.clocks.read()), iter(self._timed)
        rows: list[Sequence[float]] = []
        for part in self.view.steps:
            if isinstance(part, Segment):
                rows += [next(native) for _ in part.walk()]
            else:
                rows.append((next(hosted).seconds, 1))
        return np.array(rows, np.float64).reshape(-1, 2)


class _TimedOperation(HostOperation):
    """An operation on the host that keeps the time of its last run."""

    seconds = 0.0

    def run(self, arrays: Sequence[np.ndarray], values: Mapping[str, int]) -> list[np.ndarray]:
        """The results."""
        start = perf_counter()
        results = super().run(arrays, values)
        self.seconds = perf_counter() - start
        return results


def profile(
    program: Runnable,
    kernels: Mapping[str, int],
    args: Sequence[Any],
    target: str,
    machine: Machine,
) -> Profile:
    """Times the steps of a program, for a second or a few calls.

    Args:
        program: The program.
        kernels: The addresses of its kernels.
        args: Its inputs.
        target: Its back end.
        machine: What it was compiled for.

    Raises:
        InputError: An input is missing, or its type or shape is wrong.
        ExecutionError: The program is closed, or a call failed.
    """
    _wait(program(args))
    engine = program.engine
    probe = backend(target).Probe(engine.run, engine.threads)
    with closing(TimedProgram(program, kernels, target, machine)) as timed:
        for _ in range(ROUNDS):
            probe.read_all()
        _, sizes = timed.run(args)
        least, calls, whole = timed.read(), 0, float("inf")
        start, first = perf_counter(), timed.clocks.clock()
        while calls < FEWEST or (calls < MOST and perf_counter() < start + SECONDS):
            timed.run(args)
            least = np.minimum(least, timed.read())
            began = perf_counter()
            _wait(program(args))
            whole = min(whole, perf_counter() - began)
            probe.fma()
            calls += 1
        ticks = timed.clocks.clock() - first
        rates = _rates(timed, ticks / (perf_counter() - start))
        for _ in range(ROUNDS):
            probe.read_all()
            probe.fma()
        limits = probe.limits()
    steps = tuple(StepTime(t / rate, int(n)) for (t, n), rate in zip(least, rates, strict=True))
    return Profile(steps, sizes, whole, calls, limits)


def _wait(results: Sequence[Array]) -> None:
    for r in results:
        r.block_until_ready()


def _rates(timed: TimedProgram, ticks_a_second: float) -> list[float]:
    """What to divide the rows of ``TimedProgram.read`` by to get seconds."""
    rates: list[float] = []
    for part in timed.view.steps:
        if isinstance(part, Segment):
            rates += [ticks_a_second] * len(list(part.walk()))
        else:
            rates.append(1.0)
    return rates
