"""Programs before, across and after ``os.fork``."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable

import numpy as np
import pytest

from pjit.errors import ExecutionError

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]

WORK = """graph @main(%x: f32[N,256]) -> f32[N,256] {
  %0 = transpose %x {perm=[1,0]} : f32[256,N]
  %1 = matmul %x, %0 : f32[N,N]
  %2 = matmul %1, %x : f32[N,256]
  return %2
}
"""
NONZERO = """graph @main(%x: f32[N]) -> i64[1,K] {
  %0 = nonzero %x : i64[1,K]
  return %0
}
"""


def in_child(check: Callable[[], None]) -> None:
    """Runs a check in a forked child, which must end well within half a minute."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            check()
            status = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(status)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        time.sleep(0.01)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    pytest.fail("the child hangs")


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def test_the_child_runs_programs_of_the_parent(make, queued) -> None:
    p, q = queued(make(WORK)), make(NONZERO)
    expected = np.asarray(p([ones(8, 256)])[0])
    q([ones(3)])[0].block_until_ready()

    def check() -> None:
        for _ in range(3):
            np.testing.assert_array_equal(p([ones(8, 256)])[0], expected)
            np.testing.assert_array_equal(q([ones(3)])[0], [[0, 1, 2]])

    in_child(check)
    np.testing.assert_array_equal(p([ones(8, 256)])[0], expected)


def test_calls_under_way_belong_to_the_parent(make, queued) -> None:
    p, q = queued(make(WORK)), make(NONZERO)
    finished = p([ones(8, 256)])[0].block_until_ready()
    slow = p([ones(1500, 256)])[0]
    (late,) = q([slow.reshape(-1)]) if slow.is_ready() else q([ones(5)])
    running = not slow.is_ready()

    def check() -> None:
        np.testing.assert_array_equal(finished, np.full((8, 256), 256 * 8))
        if running:
            with pytest.raises(ExecutionError, match="fork"):
                np.asarray(slow)
        else:
            np.testing.assert_array_equal(slow, np.full((1500, 256), 256 * 1500))
        np.testing.assert_array_equal(p([ones(8, 256)])[0], finished)

    in_child(check)
    np.testing.assert_array_equal(slow, np.full((1500, 256), 256 * 1500))
    np.testing.assert_array_equal(late, [[0, 1, 2, 3, 4]])


def test_process_pools(make, queued) -> None:
    p = queued(make(WORK))
    expected = np.asarray(p([ones(8, 256)])[0])
    with multiprocessing.get_context("fork").Pool(2) as pool:
        results = [pool.apply_async(_run, (p.ir(),)) for _ in range(2)]
        for r in results:
            np.testing.assert_array_equal(r.get(60), expected)


def _run(text: str) -> np.ndarray:
    from pjit.compiler import compile_module
    from pjit.ir.text import parse_module

    program = compile_module(parse_module(text), threads=2, cache=False)
    return np.asarray(program([ones(8, 256)])[0])
