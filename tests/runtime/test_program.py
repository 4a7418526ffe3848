"""Calls of compiled programs: values, copies, errors, memory."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import numpy as np
import pytest

import pjit
from pjit.array import Array
from pjit.compiler import Program
from pjit.errors import ExecutionError, InputError, PjitError
from pjit.ir import expr
from pjit.runtime import pace
from pjit.runtime.engine import Engine
from pjit.runtime.pace import Pace
from pjit.runtime.plan import Arena

SCALE = """graph @main(%x: f32[N,4]) -> f32[N,4] {
  %c = const @c = [1.0, 2.0, 3.0, 4.0] : f32[4]
  %0 = mul %x, %c : f32[N,4]
  return %0
}
"""
SOFTMAX_CHAIN = """graph @main(%x: f32[N,64]) -> f32[N,64] {
  %0 = softmax %x {axis=1} : f32[N,64]
  %1 = matmul %x, %0 : f32[N,64]
  %2 = softmax %1 {axis=1} : f32[N,64]
  return %2
}
"""
GATHER = """graph @main(%x: f32[N,4], %i: i64[K]) -> f32[K,4] {
  %0 = gather %x, %i {axis=0} : f32[K,4]   // net.py:7
  return %0
}
"""
VIEWS = """graph @main(%x: f32[N,4], %y: f32[N,4]) {
  %c = const @c = [5.0, 6.0] : f32[2]
  %1 = reshape %x {shape=[4,N]} : f32[4,N]
  %2 = add %x, %y : f32[N,4]
  %3 = reshape %2 {shape=[N*4]} : f32[N*4]
  return %x, %1, %2, %c, %3
}
"""
WEIGHTS = np.float32([1, 2, 3, 4])


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture(params=["inline", "queued", "sync"])
def scale(request: pytest.FixtureRequest, make, queued) -> Program:
    """``x * [1, 2, 3, 4]``, run each of the three ways."""
    if request.param == "sync":
        return make(SCALE, exec_mode="sync")
    return queued(make(SCALE)) if request.param == "queued" else make(SCALE)


@pytest.mark.parametrize("n", [1, 3, 1000, 0])
def test_values(scale: Program, n: int) -> None:
    x = random(n, 4)
    (y,) = scale([x])
    assert (y.shape, y.dtype) == ((n, 4), np.float32)
    np.testing.assert_array_equal(y, x * WEIGHTS)


@pytest.mark.parametrize("n", [10, 50_000])
def test_the_caller_may_change_its_arrays(scale: Program, n: int) -> None:
    x, results = np.empty((n, 4), np.float32), []
    for i in range(5):
        x[:] = i
        results.append(scale([x])[0])
    x[:] = -1
    for i, y in enumerate(results):
        np.testing.assert_array_equal(y, np.full((n, 4), i, np.float32) * WEIGHTS)


@pytest.mark.parametrize("helped", [False, True])
def test_the_workers_may_help_the_caller(make, monkeypatch, helped: bool) -> None:
    p, x = make(SOFTMAX_CHAIN, threads=3), random(64, 64)
    (expected,) = make(SOFTMAX_CHAIN, threads=1)([x])
    p([x])[0].block_until_ready()
    (plan,) = p._plans.values()
    plan.pace = Pace(0.0, 3)
    plan.pace.helped = helped
    plan.pace._rest = 1000  # no comparison meanwhile
    helps = []
    monkeypatch.setattr(p.engine, "help", lambda *a: helps.append(Engine.help(p.engine, *a)))
    for _ in range(20):
        (y,) = p([x])
        assert y.is_ready()
        np.testing.assert_array_equal(y, expected)
    assert len(helps) == (20 if helped else 0)


@pytest.fixture
def patient(make, monkeypatch):
    """A program none of whose calls is short, what it is called with, and how many calls of those
    that are made by ``call`` went to the workers.
    """
    monkeypatch.setattr(pace, "INLINE_SECONDS", 0.0)
    monkeypatch.setattr(pace, "COPIES", 0.0)
    monkeypatch.setattr("pjit.runtime.program.SOON", 1.0)
    p, x = make(SOFTMAX_CHAIN, threads=2), random(64, 64)
    (expected,) = make(SOFTMAX_CHAIN, threads=1)([x])
    monkeypatch.setattr(p.engine, "_caller", None)
    monkeypatch.setattr(p.engine, "_shared", 0)
    queued = []
    submit = p.engine.submit
    monkeypatch.setattr(p.engine, "submit", lambda *a: (queued.append(1), submit(*a)))

    def call() -> int:
        before = len(queued)
        np.testing.assert_array_equal(np.asarray(p([x])[0]), expected)
        return len(queued) - before

    return p, x, call


def test_a_caller_that_waits_runs_its_calls_unless_others_call(patient, monkeypatch) -> None:
    _, _, call = patient
    monkeypatch.setattr("pjit.runtime.engine.SHARED", 5)
    assert [call() for _ in range(pace.WAITS + 5)] == [1] * pace.WAITS + [0] * 5
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert [call() for _ in range(10)] == [1] * 5 + [0] * 5


def test_a_caller_with_an_event_loop_leaves_its_calls_to_the_workers(patient) -> None:
    p, x, call = patient
    assert [call() for _ in range(pace.WAITS + 1)] == [1] * pace.WAITS + [0]

    async def calls() -> list[int]:
        for _ in range(2 * pace.WAITS):
            await p([x])[0]
        return [call() for _ in range(pace.WAITS + 3)]

    assert asyncio.run(calls()) == [1] * (pace.WAITS + 3)
    assert call() == 0


def test_a_caller_that_does_not_wait_leaves_its_calls_to_the_workers(patient) -> None:
    p, x, _ = patient
    for _ in range(2 * pace.WAITS):
        first, second = p([x])[0], p([x])[0]
        np.testing.assert_array_equal(np.asarray(second), np.asarray(first))
        (plan,) = p._plans.values()
        assert not plan.pace.inline


def test_any_memory_order(scale: Program) -> None:
    x = random(6, 8)
    odd = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(6, 8)
    big_endian = x.astype(">f4")
    readonly = x.copy()
    readonly.flags.writeable = False
    for a in (x[:, ::2], x[::-1, 4:], x.T[:4].T, odd[:, :4], big_endian[:, 1:5], readonly[:, :4]):
        np.testing.assert_array_equal(scale([a])[0], np.asarray(a, np.float32) * WEIGHTS)


def test_misaligned_memory(scale: Program) -> None:
    x = random(5, 4)
    odd = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(5, 4)
    assert not odd.flags.aligned
    np.testing.assert_array_equal(scale([odd])[0], x * WEIGHTS)


def test_whatever_numpy_makes_an_array_of(make) -> None:
    p = make("graph @main(%x: f32[]) -> f32[] {\n  %0 = exp %x : f32[]\n  return %0\n}\n")
    for x in (1.0, np.float32(1), np.array(1, np.float32), pjit.Array(np.float32(1))):
        (y,) = p([x])
        assert y.shape == ()
        assert float(y) == pytest.approx(np.e, rel=1e-6)


def test_results_are_immutable_and_aligned(scale: Program) -> None:
    y = np.asarray(scale([random(3, 4)])[0])
    assert not y.flags.writeable
    assert y.ctypes.data % 64 == 0


def test_arrays_of_a_call_go_into_the_next(scale: Program) -> None:
    x = y = random(2000, 4)
    for _ in range(5):
        (y,) = scale([y])
    np.testing.assert_allclose(y, x * WEIGHTS**5, rtol=1e-6)


def test_results_that_are_inputs_constants_and_the_same_memory(make, queued) -> None:
    p = make(VIEWS)
    for program in (p, queued(p)):
        x, y = random(3, 4), random(3, 4, seed=1)
        results = program([x, pjit.Array(y)])
        wanted = [x.copy(), x.reshape(4, 3).copy(), x + y, [5, 6], (x + y).reshape(12)]
        x[:] = 0
        for r, w in zip(results, wanted, strict=True):
            np.testing.assert_array_equal(r, w)


def test_calls_overlap_and_keep_their_order(make, queued) -> None:
    p = queued(make(SOFTMAX_CHAIN))
    q = make(SOFTMAX_CHAIN, threads=1)
    xs = [random(64, 64, seed=i) for i in range(40)]
    ys = [p([x])[0] for x in xs]
    for x, y in zip(xs, ys, strict=True):
        np.testing.assert_array_equal(y, q([x])[0])


def test_the_thread_count_and_the_way_do_not_change_the_bits(make, queued) -> None:
    x = random(64, 64)
    results = [
        np.asarray(p([x])[0])
        for p in (
            make(SOFTMAX_CHAIN, threads=1),
            make(SOFTMAX_CHAIN, threads=3),
            queued(make(SOFTMAX_CHAIN, threads=2)),
        )
    ]
    assert results[0].tobytes() == results[1].tobytes() == results[2].tobytes()


def test_many_python_threads(make, queued) -> None:
    p, q = make(SOFTMAX_CHAIN), queued(make(SOFTMAX_CHAIN))
    wrong: list[str] = []

    def work(seed: int) -> None:
        for i in range(30):
            x = random(64, 64, seed=seed)
            program = p if i % 2 else q
            if not np.array_equal(program([x])[0], expected[seed]):
                wrong.append(f"{seed} {i}")

    expected = [np.asarray(p([random(64, 64, seed=s)])[0]) for s in range(4)]
    threads = [threading.Thread(target=work, args=(s,)) for s in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_await(make, queued) -> None:
    p = queued(make(SCALE))

    async def main() -> np.ndarray:
        return np.asarray(await p([np.ones((4, 4), np.float32)])[0])

    np.testing.assert_array_equal(asyncio.run(main()), np.ones((4, 4)) * WEIGHTS)


def test_sizes_of_the_arena_follow_the_shapes(make) -> None:
    p = make(SOFTMAX_CHAIN)
    for n in (64, 64):
        p([random(n, 64)])[0].block_until_ready()
    memory = p.memory()
    assert 0 < memory["peak"] <= memory["unshared"]
    assert memory["arena"] == memory["peak"]


def test_plans_are_bounded(make, monkeypatch: pytest.MonkeyPatch) -> None:
    p = make(SCALE)
    monkeypatch.setattr("pjit.runtime.program.MAX_PLANS", 4)
    for n in range(1, 12):
        p([random(n, 4)])
    assert len(p._plans) == 4
    assert ((11, 4),) in p._plans


# Errors


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        ([], ["1 input", "x: float32[N,4]", "0 arrays"]),
        ([0, 1], ["2 arrays"]),
        ([np.ones((2, 4))], ["'x'", "wrong type", "float64", "float32[N,4]", "np.asarray"]),
        ([np.ones((2, 5), np.float32)], ["'x'", "dimension 1 has to be 4, not 5"]),
        ([np.ones(4, np.float32)], ["1 dimensions, not 2"]),
        ([pjit.Array(np.ones((2, 4)))], ["float64"]),
        ([[[1.0, 2.0], [3.0]]], ["'x'", "list"]),
        ([None], ["'x'", "object"]),
        ([3], ["'x'", "dimensions"]),
    ],
)
def test_wrong_inputs(scale: Program, args: list, parts: list[str]) -> None:
    with pytest.raises(InputError) as e:
        scale(args)
    text = str(e.value)
    assert all(p in text for p in parts), text
    assert len(text.splitlines()) <= 12
    np.testing.assert_array_equal(scale([np.ones((1, 4), np.float32)])[0], [WEIGHTS])


def test_sizes_that_have_to_agree(make) -> None:
    p = make(
        """graph @main(%x: f32[N], %y: f32[M]) -> f32[N] {
  %0 = add %x, %y : f32[N]
  return %0
}
"""
    )
    np.testing.assert_array_equal(p([np.ones(3, np.float32)] * 2)[0], [2, 2, 2])
    with pytest.raises(InputError, match="has to be equal to"):
        p([np.ones(3, np.float32), np.ones(4, np.float32)])


def test_an_error_of_the_work_comes_at_the_wait(make, queued) -> None:
    x, good, bad = random(5, 4), np.array([4, -5, 0]), np.array([0, 5])
    for program in (make(GATHER), queued(make(GATHER))):
        (y,) = program([x, bad])
        for _ in range(2):
            with pytest.raises(ExecutionError) as e:
                np.asarray(y)
            assert "index" in e.value.what
            assert e.value.where is not None
            assert "net.py:7" in e.value.where
        np.testing.assert_array_equal(program([x, good])[0], x[good])


def test_an_error_goes_through_later_calls(make, queued) -> None:
    gather, scale = queued(make(GATHER)), queued(make(SCALE))
    (y,) = gather([random(5, 4), np.array([7])])
    (z,) = scale([y])
    (after,) = scale([np.ones((1, 4), np.float32)])
    with pytest.raises(ExecutionError, match="index"):
        z.block_until_ready()
    np.testing.assert_array_equal(after, [WEIGHTS])
    with pytest.raises(ExecutionError, match="index"):
        np.asarray(scale([y])[0])


def test_sync_mode_raises_at_the_call(make, queued) -> None:
    for program in (make(GATHER, exec_mode="sync"), queued(make(GATHER, exec_mode="sync"))):
        with pytest.raises(ExecutionError, match="index"):
            program([random(5, 4), np.array([7])])
        (y,) = program([random(5, 4), np.array([3])])
        assert y.is_ready()


# The end


def test_close(scale: Program) -> None:
    (y,) = scale([np.ones((2, 4), np.float32)])
    scale.close()
    np.testing.assert_array_equal(y, np.ones((2, 4)) * WEIGHTS)
    with pytest.raises(ExecutionError, match="closed"):
        scale([np.ones((2, 4), np.float32)])
    scale.close()


def test_deleting_a_program_frees_what_it_had(make, queued) -> None:
    big = "graph @main(%x: f32[4,64]) -> f32[4,64] {\n  %c = const @c : f32[64,64]\n"
    text = big + "  %0 = matmul %x, %c : f32[4,64]\n  %1 = softmax %0 {axis=1} : f32[4,64]\n"
    from pjit.compiler import compile_module
    from pjit.ir.text import parse_module

    module = parse_module(text + "  return %1\n}\n", {"c": random(64, 64)})
    p = queued(compile_module(module, threads=2, cache=False))
    del module
    (y,) = p([random(4, 64)])
    freed: list[str] = []
    native = p._native
    weakref.finalize(native, freed.append, "code")
    code_closed = native.close
    constants = [weakref.ref(a, lambda _: freed.append("constant")) for a in p.constants.values()]
    arena: Arena | None = p._arena
    arenas = [weakref.ref(arena, lambda _: freed.append("arena"))] if arena else []
    del native, arena
    del p
    y.block_until_ready()
    gc.collect()
    assert freed.count("code") == 1
    assert not code_closed.alive
    assert freed.count("arena") == len(arenas) == 1
    assert freed.count("constant") == len(constants) > 0
    assert np.isfinite(np.asarray(y)).all()


def test_repeated_calls_hold_no_memory(make, queued) -> None:
    p = queued(make(SCALE))
    x = random(10, 4)
    for _ in range(3):
        np.asarray(p([x])[0])
    engine: Engine = p.engine
    before = sum(1 for o in gc.get_objects() if isinstance(o, Array))
    for _ in range(200):
        p([x])
    np.asarray(p([x])[0])
    engine.drain()  # the last call may have run on this thread, beside one that is done
    gc.collect()
    assert sum(1 for o in gc.get_objects() if isinstance(o, Array)) <= before


# Stages and reports


def test_stages(make) -> None:
    p = make(SOFTMAX_CHAIN)
    assert p.stages[0] == "graph"
    assert "softmax" in p.ir()
    assert p.ir("graph") == p.ir()
    assert p.ir("fuse").count("fused") >= 2
    assert "launch" in p.ir("lower")
    assert p.ir("canonicalize.2") != ""
    with pytest.raises(PjitError, match="no stage is called 'fusion'") as e:
        p.ir("fusion")
    assert "fuse" in str(e.value)


def test_report(make) -> None:
    r = make(SOFTMAX_CHAIN).report()
    assert (r.target, r.threads, r.cached) == ("cpu", 2, False)
    assert {s.kind for s in r.steps} <= {"loop", "row", "tile"}
    assert expr.symbols(r.flops) == {"N"}
    assert not r.fallbacks
    assert r.compile_seconds >= r.build_seconds > 0
    assert [p.name for p in r.passes][-1] == "bands"
    assert r.memory["code"] > 0
    assert r.to_dict()["steps"]
    text = str(r)
    assert all(k in text for k in r.kernels)


def test_more_calls_than_the_queue_holds(make, queued) -> None:
    p = queued(make(SCALE))
    x = np.ones((4, 4), np.float32)
    ys = [p([x * i])[0] for i in range(600)]
    for i, y in enumerate(ys):
        np.testing.assert_array_equal(y, x * i * WEIGHTS)
