"""The probe of the machine counts what it does. No rate is asserted."""

from __future__ import annotations

import pytest

from pjit.backends.llvm.limits import READ_SIZES, Probe
from pjit.backends.llvm.pool import Pool


@pytest.mark.parametrize("threads", [1, 2])
def test_the_best_of_all_measurements(threads: int) -> None:
    pool = Pool(threads)
    probe = Probe(lambda entry, job: pool.wait(pool.submit(entry, job)), threads, READ_SIZES[1])
    rates = [probe.fma() for _ in range(3)]
    reads = [probe.read(READ_SIZES[0]) for _ in range(3)]
    probe.read_all()
    pool.close()
    limits = probe.limits()
    assert limits.flops == max(rates) > 0
    assert [n for n, _ in limits.bandwidth] == [n * threads for n in READ_SIZES[:2]]
    assert limits.bandwidth[0][1] >= max(reads) > 0
