"""What this machine can do: the FMA rate and the read bandwidth of some threads at once.

``python tests/perf/machine.py`` prints both; ``bench.py`` measures the FMA rate in every run.
"""

from __future__ import annotations

import os
import platform
from functools import cache
from typing import Any

import llvmlite.binding as llvm

from pjit.backends.llvm.limits import READ_SIZES, Probe
from pjit.backends.llvm.pool import Pool
from pjit.backends.llvm.target import host_machine

BURSTS = 8  # FMA measurements of half a millisecond that make one


@cache
def _probe(threads: int, n_bytes: int) -> Probe:
    pool = Pool(threads)
    return Probe(lambda entry, job: pool.wait(pool.submit(entry, job)), threads, n_bytes)


def fma_rate(threads: int) -> float:
    """f32 GFLOP/s (an FMA counts as two) of ``threads`` threads at once, in registers only.

    The maximum over calls is the limit.
    """
    probe = _probe(threads, READ_SIZES[0])
    return max(probe.fma() for _ in range(BURSTS)) / 1e9


def describe() -> dict[str, Any]:
    """The processor's name, its usable core count and the vector width in bits."""
    return {
        "cpu": llvm.get_host_cpu_name(),
        "cores": available_cores(),
        "vector_bits": host_machine().vector_bits,
        "system": platform.platform(),
    }


def available_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def main() -> None:
    """Print the limits of one thread and of all."""
    print(describe())
    for threads in sorted({1, available_cores()}):
        best = max(fma_rate(threads) for _ in range(10))
        print(f"{threads} thread(s): {best:.0f} GFLOP/s f32")
        probe = _probe(threads, READ_SIZES[-1])
        for n_bytes in READ_SIZES:
            rate = max(probe.read(n_bytes) for _ in range(15)) / 1e9
            print(f"  reads of {n_bytes >> 10} KiB a thread: {rate:.0f} GB/s")


if __name__ == "__main__":
    main()
