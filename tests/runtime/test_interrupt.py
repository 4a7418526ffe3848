"""Loops that do not end: a signal handler that raises ends them, and so does the end of Python."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import pjit
from pjit.errors import ExecutionError
from pjit.runtime.pace import PROOFS

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")

SECONDS = 0.15


class Late(Exception):
    """What the handler of the test raises."""


def doubled(x: Any, limit: Any) -> Any:
    """Does not end where x is 0."""
    while x.sum() < limit:
        x = x * 2
    return x


@pytest.fixture
def alarm() -> Iterator[Any]:
    """Sets an alarm that raises."""

    def handler(*_: Any) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, handler)
    yield lambda: signal.setitimer(signal.ITIMER_REAL, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", [4, 1 << 19], ids=["one thread's", "shared"])
def test_a_call_that_is_waited_for(alarm: Any, threads: int, size: int) -> None:
    f = pjit.compile(doubled, threads=threads)
    x, limit = np.ones(size), np.float64(1e9)
    expected = doubled(x, limit)
    np.testing.assert_array_equal(f(x, limit), expected)
    result = f(x * 0, limit)
    alarm()
    with pytest.raises(Late):
        result.block_until_ready()
    with pytest.raises(ExecutionError, match="the call was interrupted"):
        result.block_until_ready()
    np.testing.assert_array_equal(f(x, limit), expected)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_call_on_the_thread_of_the_caller(alarm: Any, threads: int) -> None:
    f = pjit.compile(doubled, threads=threads)
    x, limit = np.ones(4), np.float64(100)
    for _ in range(2):
        for _ in range(PROOFS + 20):
            f(x, limit).block_until_ready()
        alarm()
        with pytest.raises(Late):
            f(x * 0, limit).block_until_ready()  # in the queue if the machine was busy
        np.testing.assert_array_equal(f(x, limit), doubled(x, limit))


def test_loops_inside_of_loops(alarm: Any) -> None:
    @pjit.compile
    def f(x: Any, limit: Any) -> Any:
        while x.sum() < limit:
            while x.max() < 3:
                x = x + 0 * x
            x = x + 1
        return x

    result = f(np.zeros(4), np.float64(10))
    alarm()
    with pytest.raises(Late):
        result.block_until_ready()


def test_an_index_out_of_range_ends_the_loop() -> None:
    @pjit.compile
    def f(x: Any, i: Any) -> Any:
        while x.sum() < 5:
            x = x[i] * 1
        return x

    result = f(np.zeros(4), np.array([0, 1, 2, 4]))
    with pytest.raises(ExecutionError, match="index is out of range"):
        result.block_until_ready()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_handler_that_calls_the_function(threads: int) -> None:
    @pjit.compile(threads=threads)
    def f(x: Any, n: Any) -> Any:
        y = np.cumsum(x)
        i = 0
        while i < n:
            y = y + x
            i = i + 1
        return y

    x, x2 = np.ones(64), np.arange(64.0)
    seen: list[np.ndarray] = []
    before = signal.signal(signal.SIGALRM, lambda *_: seen.append(np.asarray(f(x2, np.int64(1)))))
    try:
        rounds = 1 << 20
        while not seen:  # in a call, not after it
            for _ in range(PROOFS + 20):
                f(x, np.int64(3)).block_until_ready()
            signal.setitimer(signal.ITIMER_REAL, SECONDS / 2)
            y = np.asarray(f(x, np.int64(rounds)))
            signal.setitimer(signal.ITIMER_REAL, 0)
            np.testing.assert_array_equal(y, np.cumsum(x) + rounds)
            rounds *= 2
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    np.testing.assert_array_equal(seen[0], np.cumsum(x2) + x2)


SCRIPT = """
import numpy as np, pjit

@pjit.compile
def f(x, limit):
    while x.sum() < limit:
        x = x * 2
    return x

print(f(np.ones(4), np.float64(9)))
f(np.zeros(4), np.float64(9))
"""


def test_python_ends_while_a_loop_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


FORKED = """
import numpy as np, os, pjit

@pjit.compile
def f(x, limit):
    while x.sum() < limit:
        x = x * 2
    return x

f(np.ones(4), np.float64(9)).block_until_ready()
pid = os.fork()
if pid:
    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
f(np.zeros(4), np.float64(9))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_ends_while_a_loop_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
