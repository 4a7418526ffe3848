"""Time one workload on several runtimes, interleaved in rounds."""

from __future__ import annotations

import gc
import math
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import machine
import numpy as np
from peers import PEERS, RUNTIMES, Pjit, Runtime
from workloads import Feed, Workload

from pjit.runtime import cache

BLOCK_S = 0.02  # a block of calls lasts at least this long
IDLE_WINDOW_S = 0.005
IDLE_LIMIT_S = 0.5


@dataclass
class Timing:
    """One runtime on one workload; what could not be measured is None.

    ``seconds`` is the minimum over rounds of a block's mean; ``load_s`` is loading and the first
    run, ``cached_load_s`` the same again with the disk cache that the first left (pjit alone has
    one); ``difference`` is max|a-b| / max|b| over the outputs, b being the first peer's.
    ``peak_bytes`` and ``cached_peak_bytes`` are peaks of the resident set, with an empty and with a
    filled disk cache, ``imports_bytes`` that of a process that has only imported the runtime.
    """

    seconds: float | None = None
    load_s: float | None = None
    cached_load_s: float | None = None
    difference: float | None = None
    peak_bytes: int | None = None
    cached_peak_bytes: int | None = None
    imports_bytes: int | None = None
    error: str | None = None


@dataclass
class Result:
    """One workload at one thread count."""

    model: str
    threads: int
    fma_limit_gflops: float = 0.0
    flops: float | None = None
    runtimes: dict[str, Timing] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """Time of pjit over the time of the fastest peer: below 1, pjit is faster."""
        ours = self.runtimes[Pjit.name].seconds if Pjit.name in self.runtimes else None
        peers = [self.runtimes[name].seconds for name in PEERS if name in self.runtimes]
        times = [seconds for seconds in peers if seconds is not None]
        return ours / min(times) if ours is not None and times else None

    @property
    def gflops(self) -> float | None:
        """GFLOP/s that pjit achieves."""
        ours = self.runtimes[Pjit.name].seconds if Pjit.name in self.runtimes else None
        return self.flops / ours / 1e9 if ours and self.flops else None

    @property
    def share_of_limit(self) -> float | None:
        """The achieved GFLOP/s over the FMA limit of the same run."""
        return self.gflops / self.fma_limit_gflops if self.gflops else None

    def to_json(self) -> dict[str, Any]:
        """All fields and derived figures as plain data."""
        return {
            "model": self.model,
            "threads": self.threads,
            "ratio": self.ratio,
            "flops": self.flops,
            "gflops": self.gflops,
            "fma_limit_gflops": self.fma_limit_gflops,
            "share_of_limit": self.share_of_limit,
            "runtimes": {name: vars(timing) for name, timing in self.runtimes.items()},
        }


def geometric_mean(values: Sequence[float]) -> float | None:
    """The geometric mean, or None of no values."""
    return statistics.geometric_mean(values) if values else None


def measure(
    workload: Workload, names: Sequence[str], threads: int, rounds: int, scratch: Path
) -> Result:
    """Load the workload on every runtime, check the results against each other and time them.

    A runtime that fails is recorded with its error and left out of the rounds. Caches go to new
    folders below ``scratch``.
    """
    result = Result(workload.name, threads, runtimes={name: Timing() for name in names})
    loaded: dict[str, Runtime] = {}
    outputs: dict[str, list[np.ndarray]] = {}
    os.environ["PJIT_CACHE_DIR"] = tempfile.mkdtemp(dir=scratch)
    for name in names:
        timing = result.runtimes[name]
        try:
            loaded[name], outputs[name] = _load(name, workload, threads, timing)
        except Exception as error:  # any runtime may refuse any model: report it, go on
            timing.error = f"{type(error).__name__}: {error}".strip()
    _compare(result, outputs)
    if Pjit.name in loaded:
        result.flops = loaded[Pjit.name].flops()
    _time_rounds(result, loaded, workload.feed, rounds)
    return result


def _load(
    name: str, workload: Workload, threads: int, timing: Timing
) -> tuple[Runtime, list[np.ndarray]]:
    """Load a model and run it once, timed; pjit again from its cache."""
    __import__(name)  # importing is not loading
    kind = RUNTIMES[name]

    def ready() -> tuple[Runtime, Any, float]:
        wait_idle()
        start = time.perf_counter()
        model = kind(workload.path, threads)
        result = model.run(workload.feed)
        return model, result, time.perf_counter() - start

    model, result, timing.load_s = ready()
    if kind is Pjit:
        del model, result
        gc.collect()
        cache.flush()
        model, result, timing.cached_load_s = ready()
    return model, [np.array(output) for output in model.outputs(result)]


def _compare(result: Result, outputs: dict[str, list[np.ndarray]]) -> None:
    reference = next((outputs[name] for name in PEERS if name in outputs), None)
    if reference is None:
        return
    for name, found in outputs.items():
        if found is not reference:
            result.runtimes[name].difference = _difference(found, reference)


def _difference(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """max|a-b| / max|b|, the worst of all outputs; NaN must coincide, or it is infinite."""
    worst = 0.0
    for a, b in zip(found, expected, strict=True):
        if a.shape != b.shape or not np.array_equal(np.isnan(a), np.isnan(b)):
            return math.inf
        if a.size:
            wide_a, wide_b = (np.nan_to_num(x.astype(np.float64)) for x in (a, b))
            error, scale = np.abs(wide_a - wide_b).max(), np.abs(wide_b).max()
            worst = max(worst, float(error / scale) if scale else float(error > 0) * math.inf)
    return worst


def _time_rounds(result: Result, loaded: dict[str, Runtime], feed: Feed, rounds: int) -> None:
    calls = {name: _calls_per_block(model, feed) for name, model in loaded.items()}
    best = dict.fromkeys(loaded, math.inf)
    for round_index in range(rounds):
        wait_idle()
        rate = machine.fma_rate(result.threads)
        result.fma_limit_gflops = max(result.fma_limit_gflops, rate)
        order = list(loaded)
        shift = round_index % max(len(order), 1)
        for name in order[shift:] + order[:shift]:
            model, count = loaded[name], calls[name]
            wait_idle()
            model.run(feed)
            start = time.perf_counter()
            for _ in range(count):
                model.run(feed)
            best[name] = min(best[name], (time.perf_counter() - start) / count)
    for name, seconds in best.items():
        result.runtimes[name].seconds = seconds


def _calls_per_block(model: Runtime, feed: Feed) -> int:
    """How many runs last ``BLOCK_S``, judged by warm-up runs."""
    model.run(feed)
    count = 1
    while True:
        start = time.perf_counter()
        for _ in range(count):
            model.run(feed)
        elapsed = time.perf_counter() - start
        if elapsed >= BLOCK_S:
            return count
        count = max(count + 1, math.ceil(count * BLOCK_S / max(elapsed, 1e-9)))


def wait_idle() -> None:
    """Wait until this process burns no CPU: a runtime's idle workers spin on after a run.

    (ONNX Runtime's do for some 50 ms.) Without this the next runtime would share its cores.
    """
    deadline = time.perf_counter() + IDLE_LIMIT_S
    while time.perf_counter() < deadline:
        cpu = time.process_time()
        start = time.perf_counter()
        time.sleep(IDLE_WINDOW_S)
        if time.process_time() - cpu < 0.1 * (time.perf_counter() - start):
            return
