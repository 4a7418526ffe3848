"""Programs with operations that run on the host."""

from __future__ import annotations

import numpy as np
import pytest

from pjit.errors import ExecutionError, InputError

NONZERO = """graph @main(%x: f32[N,4]) -> (f32[K,2], i64[2,K], f32[N,4]) {
  %0 = relu %x : f32[N,4]
  %1 = nonzero %0 : i64[2,K]   // net.py:3
  %2 = transpose %1 {perm=[1,0]} : i64[K,2]
  %3 = cast %2 {dtype=f32} : f32[K,2]
  %4 = add %3, %3 : f32[K,2]
  return %4, %1, %0
}
"""
BRANCH = """graph @main(%x: f32[N,4], %c: bool[]) -> f32[N,4] {
  %w = const @w = [1.0, 2.0, 3.0, 4.0] : f32[4]
  %0 = exp %x : f32[N,4]
  %1 = if %c : f32[N,4] {   // net.py:5
    %2 = mul %0, %w : f32[N,4]
    yield %2
  } {
    %3 = neg %x : f32[N,4]
    yield %3
  }
  %4 = add %1, %x : f32[N,4]
  return %4
}
"""
LOOP = """graph @main(%n: i64[], %x: f32[4]) -> (i64[], f32[4]) {
  %one = const @one = 1 : i64[]
  %0, %1 = while %n, %x : i64[], f32[4] { (%i: i64[], %y: f32[4]):
    %zero = const @zero = 0 : i64[]
    %2 = gt %i, %zero : bool[]
    yield %2
  } { (%i: i64[], %y: f32[4]):
    %3 = sub %i, %one : i64[]
    %4 = add %y, %y : f32[4]
    yield %3, %4
  }
  return %0, %1
}
"""

SUM = "graph @main(%x: f32[2,K]) -> f32[2,K] {\n  %0 = add %x, %x : f32[2,K]\n  return %0\n}\n"


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_sizes_that_depend_on_the_data(make, mode: str) -> None:
    p = make(NONZERO, exec_mode=mode)
    for n in (3, 17, 0):
        x = random(n, 4)
        doubled, indices, kept = p([x])
        wanted = np.argwhere(x > 0)
        assert kept.shape == (n, 4)
        assert doubled.shape == (len(wanted), 2)
        np.testing.assert_array_equal(indices, wanted.T)
        np.testing.assert_array_equal(doubled, 2 * wanted)
        np.testing.assert_array_equal(kept, np.maximum(x, 0))


def test_many_calls_keep_apart(make) -> None:
    p = make(NONZERO)
    xs = [random(20, 4, seed=i) for i in range(30)]
    for x, (doubled, _, kept) in zip(xs, [p([x]) for x in xs], strict=True):
        np.testing.assert_array_equal(doubled, 2 * np.argwhere(x > 0))
        np.testing.assert_array_equal(kept, np.maximum(x, 0))


def test_results_of_the_host_go_into_other_calls(make, queued) -> None:
    p = make(NONZERO)
    double = "graph @main(%x: f32[M,2]) -> f32[M,2] {\n  %0 = add %x, %x : f32[M,2]\n"
    q = queued(make(double + "  return %0\n}\n"))
    other_engine = make(double + "  return %0\n}\n", threads=1)
    x = random(9, 4)
    (y,) = other_engine([q([p([x])[0]])[0]])
    np.testing.assert_array_equal(y, 8 * np.argwhere(x > 0))


def test_branches_use_outer_values(make) -> None:
    p = make(BRANCH)
    x = random(5, 4)
    np.testing.assert_allclose(p([x, True])[0], np.exp(x) * [1, 2, 3, 4] + x, rtol=1e-6)
    np.testing.assert_array_equal(p([x, False])[0], np.zeros_like(x))


def test_loops(make) -> None:
    n, y = make(LOOP)([3, np.ones(4, np.float32)])
    assert int(n) == 0
    np.testing.assert_array_equal(y, np.full(4, 8))


def test_report_says_what_runs_on_the_host_and_why(make) -> None:
    r = make(NONZERO).report()
    (step,) = r.fallbacks
    assert step.kernel == "nonzero"
    assert step.where == "net.py:3"
    assert step.reason in str(r)
    assert not make(BRANCH).report().fallbacks


def test_wrong_inputs_are_refused_at_the_call(make) -> None:
    with pytest.raises(InputError, match="dimension 1 has to be 4"):
        make(NONZERO)([np.ones((2, 3), np.float32)])
    kept = make(NONZERO)([random(2, 4)])[2]
    with pytest.raises(InputError, match="2 dimensions, not 1"):
        make(LOOP)([np.int64(1), kept])


def test_wrong_inputs_that_are_known_late(make) -> None:
    doubled, indices, _ = make(NONZERO)([random(2, 4)])
    (y,) = make(
        "graph @main(%x: f32[M,3]) -> f32[M,3] {\n  %0 = exp %x : f32[M,3]\n  return %0\n}\n"
    )([doubled])
    with pytest.raises(InputError, match="dimension 1 has to be 3"):
        y.block_until_ready()
    (z,) = make(SUM)([indices])
    with pytest.raises(InputError, match="wrong type"):
        z.block_until_ready()


def test_errors_of_the_host_say_where(make, monkeypatch: pytest.MonkeyPatch) -> None:
    from pjit.ir.ops import Nonzero

    p = make(NONZERO)
    (first, _, _) = p([random(2, 4)])
    assert first.shape[1] == 2

    def broken(x: np.ndarray) -> np.ndarray:
        raise MemoryError("no room")

    monkeypatch.setattr(Nonzero, "ref", staticmethod(broken))
    results = p([random(2, 4)])
    for r in results:
        with pytest.raises(ExecutionError) as e:
            np.asarray(r)
        assert e.value.where == "net.py:3"
        assert "no room" in str(e.value)
    monkeypatch.undo()
    assert p([random(2, 4)])[0].shape[1] == 2


def test_close_waits_for_calls(make) -> None:
    p = make(NONZERO)
    x = random(30, 4)
    results = [p([x])[0] for _ in range(5)]
    p.close()
    for r in results:
        np.testing.assert_array_equal(r, 2 * np.argwhere(x > 0))
    with pytest.raises(ExecutionError, match="closed"):
        p([x])
