"""Calls on arguments like those of the last ones: the short way gives what the long way gives."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from time import perf_counter
from typing import Any

import numpy as np
import pytest

import pjit
from pjit.errors import ExecutionError
from pjit.tracing.variants import Quick

FACTOR = 2.0


def scaled(x: Any, n: Any) -> Any:
    return x * FACTOR + n


@pytest.fixture
def quick_calls(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each call that tried the short way, whether it went it."""
    taken: list[bool] = []
    original = Quick.__call__

    def call(self: Quick, args: tuple) -> Any:
        made = original(self, args)
        taken.append(made is not None)
        return made

    monkeypatch.setattr(Quick, "__call__", call)
    return taken


X = np.arange(6, dtype=np.float32)


def test_equal_calls_go_the_short_way(quick_calls: list[bool]) -> None:
    f = pjit.compile(scaled)
    for k in range(12):
        x, n = X + k, np.float32(k)
        np.testing.assert_array_equal(f(x, n), scaled(x, n))
    assert quick_calls[-5:] == [True] * 5


@pytest.mark.parametrize(
    "arguments",
    [
        (X.astype(np.float64), np.float32(1)),
        (X[::-1], np.float32(1)),
        (X[:5], np.float32(1)),
        (X.reshape(2, 3), np.float32(1)),
        (X, np.float64(1)),
        (X, 1),
        (X, np.ones(6, np.float32)),
        (pjit.Array(X), np.float32(1)),
    ],
    ids=repr,
)
def test_other_arguments(quick_calls: list[bool], arguments: tuple) -> None:
    f = pjit.compile(scaled)
    for _ in range(12):
        f(X, np.float32(1))
    assert quick_calls[-1]
    quick_calls.clear()
    for _ in range(2):
        actual, expected = f(*arguments), scaled(np.asarray(arguments[0]), arguments[1])
        assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(actual, expected)
    assert not any(quick_calls)
    np.testing.assert_array_equal(f(x=X, n=np.float32(3)), scaled(X, np.float32(3)))


def test_what_the_function_reads_is_compared(
    monkeypatch: pytest.MonkeyPatch, quick_calls: list[bool]
) -> None:
    f = pjit.compile(scaled)
    for _ in range(12):
        f(X, np.float32(1))
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    np.testing.assert_array_equal(f(X, np.float32(1)), X * 3 + 1)
    assert quick_calls[-1] is False


def test_results_are_those_of_their_call() -> None:
    f = pjit.compile(lambda x: (x + 1, x * 2))
    kept: list[tuple[Any, Any]] = []
    for k in range(40):
        x = X + k
        a, b = f(x)
        kind = k % 5
        if kind == 0:
            kept.append((a, x + 1))
        elif kind == 1:
            kept.append((np.asarray(b)[2:], (x * 2)[2:]))
        elif kind == 2:
            kept.append((memoryview(np.asarray(a)), x + 1))
        elif kind == 3:
            kept.append((np.asarray(b).reshape(2, 3).T, (x * 2).reshape(2, 3).T))
        del a, b
        gc.collect()
    for actual, expected in kept:
        np.testing.assert_array_equal(actual, expected)


def test_a_result_that_was_made_writable_stays_the_callers() -> None:
    f = pjit.compile(lambda x: x + 1)
    for _ in range(12):
        result = np.asarray(f(X))
        result.flags.writeable = True
        result[:] = -1
        del result
    last = np.asarray(f(X))
    assert not last.flags.writeable
    np.testing.assert_array_equal(last, X + 1)


def test_no_memory_is_allocated_for_results_that_are_gone() -> None:
    f = pjit.compile(lambda x: x + 1)
    for _ in range(12):
        f(X)
    places = {np.asarray(f(X)).ctypes.data for _ in range(10)}
    assert len(places) == 1


def test_an_index_out_of_range_fails_the_call() -> None:
    f = pjit.compile(lambda x, i: x[i])
    i = np.zeros(3, np.int64)
    for _ in range(12):
        f(X, i)
    result = f(X, np.array([0, 6, 0]))
    with pytest.raises(ExecutionError, match="out of range"):
        result.block_until_ready()
    np.testing.assert_array_equal(f(X, i + 1), X[i + 1])


def test_a_way_that_no_call_went_yet() -> None:
    def f(x: Any) -> Any:
        if x.sum() > 0:
            return x + 1
        if x.sum() < -1e6:
            raise ValueError("far below")
        return {"low": x - 1}

    compiled = pjit.compile(f)
    for _ in range(12):
        np.testing.assert_array_equal(compiled(X), X + 1)
    np.testing.assert_array_equal(compiled(-X)["low"], -X - 1)
    with pytest.raises(ValueError, match="far below"):
        compiled(X - 1e6)
    np.testing.assert_array_equal(compiled(X), X + 1)


def test_threads_get_their_own_results() -> None:
    f = pjit.compile(lambda x: x * 2 + 1)
    for _ in range(12):
        f(np.zeros(8))
    wrong: list[tuple[int, float]] = []

    def calls(k: int) -> None:
        x, end = np.full(8, float(k)), perf_counter() + 1.5
        while perf_counter() < end:
            y = np.asarray(f(x))
            if not (y == 2 * k + 1).all():
                wrong.append((k, y[0]))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=calls, args=(k,)) for k in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong


def test_a_closed_program_frees_its_memory() -> None:
    f = pjit.compile(lambda x: np.cumsum(x) * 2 + x[::-1] + np.cumsum(x[::-1]).sum())
    for _ in range(12):
        f(np.ones(600))
    program = f._shown("program").program
    memory = weakref.ref(program._arena)
    program.close()
    gc.collect()
    assert memory() is None
