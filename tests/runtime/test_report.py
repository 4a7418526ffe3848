"""Reports of programs: what they count, and that timing a program does not change it."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from pjit.compiler import Program
from pjit.errors import ExecutionError, InputError
from pjit.explain import Step
from pjit.ir.program import Segment
from pjit.profile import TimedProgram
from pjit.report import _choices, _problem

MATMUL = """graph @main(%x: f32[N,64], %w: f32[64,48]) -> f32[N,48] {
  %0 = matmul %x, %w : f32[N,48]
  %1 = neg %0 : f32[N,48]
  %2 = exp %x : f32[N,64]
  %3 = matmul %2, %w : f32[N,48]
  %4 = neg %3 : f32[N,48]
  %5 = sub %1, %4 : f32[N,48]
  return %5
}
"""
CONV = """graph @main(%x: f32[1,3,10,12], %w: f32[16,3,3,3]) -> f32[1,16,10,12] {
  %0 = nn.conv %x, %w {strides=[1,1], pads=[1,1,1,1], dilations=[1,1], groups=1} : f32[1,16,10,12]
  return %0
}
"""
LOOPS = """graph @main(%s: f32[M,80], %x: f32[N,M,80], %n: f32[]) -> (f32[M,80], f32[M,80], f32[]) {
  %a = scan %s, %x {n_carry=1} : f32[M,80] { (%c: f32[M,80], %xi: f32[M,80]):
    %1 = add %c, %xi : f32[M,80]
    %2 = tanh %1 : f32[M,80]
    yield %2
  }
  %b = scan %s, %x {n_carry=1} : f32[M,80] { (%c: f32[M,80], %xi: f32[M,80]):
    %1 = mul %c, %xi : f32[M,80]
    %2 = sin %1 : f32[M,80]
    yield %2
  }
  %one = const @one = 1.0 : f32[]
  %zero = const @zero = 0.0 : f32[]
  %d = while %n : f32[] { (%i: f32[]):
    %go = gt %i, %zero : bool[]
    yield %go
  } { (%i: f32[]):
    %less = sub %i, %one : f32[]
    yield %less
  }
  return %a, %b, %d
}
"""
HOST = """graph @main(%x: f32[N,4]) -> f32[K,2] {
  %0 = relu %x : f32[N,4]
  %1 = nonzero %0 : i64[2,K]   // net.py:3
  %2 = transpose %1 {perm=[1,0]} : i64[K,2]
  %3 = cast %2 {dtype=f32} : f32[K,2]
  return %3
}
"""


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


W = random(64, 48, seed=1)


@pytest.fixture(autouse=True)
def few_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pjit.profile.SECONDS", 0.0)
    monkeypatch.setattr("pjit.profile.ROUNDS", 1)


@pytest.fixture
def timed() -> Callable[[Program], TimedProgram]:
    def make_timed(p: Program) -> TimedProgram:
        return TimedProgram(p, p._kernels, "cpu", p.origin.machine)

    return make_timed


def test_free_sizes_are_formulas_until_inputs_are_given(make) -> None:
    p = make(MATMUL)
    free = p.report()
    products = [s for s in free.steps if s.kind == "tile"]
    assert len(products) == 2
    assert all(s.predicted is None and s.measured is None and not s.limit for s in products)
    assert "free sizes: N" in str(free)
    json.dumps(free.to_dict())

    known = p.report(random(50, 64), W)
    assert known.profile is not None
    assert known.profile.sizes == {"N": 50}
    assert sum(s.flops for s in known.steps) == known.flops
    for s in known.steps:
        if s.kind == "tile":
            assert s.problem is not None
            assert (s.problem["rows"], s.problem["depth"], s.problem["cols"]) == (50, 64, 48)
            assert s.flops >= 2 * 50 * 64 * 48
            assert s.nbytes >= 4 * (50 * 64 + 50 * 48)
            assert s.limit in ("FMA", "memory")
        assert s.predicted is not None
        assert s.predicted > 0
        assert s.share is not None
    json.dumps(known.to_dict())
    text = str(known)
    assert "50x64x48" in text
    assert "total" in text
    assert "free sizes" not in text


def test_a_step_takes_what_its_slowest_thread_takes(make, timed) -> None:
    """The first thread may come when another one has done all, or have no part in the step."""
    program = timed(make(MATMUL, threads=2))
    cells = program.clocks._cells
    cells[0, :12] = (3, 1, 0, 50, 1, 0, 0, 0, 0, 8, 0, 5)
    cells[1, :12] = (90, 1, 0, 40, 1, 0, 7, 2, 0, 6, 0, 4)  # the last one each for itself
    np.testing.assert_array_equal(program.clocks.read()[:4], [(90, 1), (50, 1), (7, 2), (8, 9)])
    program.close()


def test_operations_of_a_convolution(make) -> None:
    report = make(CONV).report()
    (conv,) = [s for s in report.steps if "conv_packed" in s.operators]
    assert conv.problem is not None
    sizes = [conv.problem[k] for k in ("batch", "rows", "depth", "cols")]
    assert sizes == [1, 10 * 12, 3 * 3 * 3, 16]
    product = 2 * 120 * 27 * 16
    assert product <= conv.flops < 1.1 * product  # it also moves its input and result
    assert conv.predicted is not None
    assert report.flops >= conv.flops


def test_launches_of_one_kernel_are_one_row(make) -> None:
    report = make(MATMUL).report(random(20, 64), W)
    assert len(report.by_kernel) <= len(report.steps)
    assert sum(s.count for s in report.by_kernel) == sum(s.count for s in report.steps)
    assert sum(s.measured for s in report.by_kernel) == pytest.approx(
        sum(s.measured for s in report.steps)
    )
    assert all(s in report.by_kernel for s in report.worst)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("m", [3, 900])  # small loops run on one thread, large ones on all
def test_counts_in_loops(make, threads: int, m: int) -> None:
    p = make(LOOPS, threads=threads)
    report = p.report(random(m, 80), random(7, m, 80), np.float32(5))
    inner = {s.operators: s for s in report.steps if s.kind == "loop"}
    assert inner[("add", "tanh")].count == 7
    assert inner[("mul", "sin")].count == 7
    assert inner[("gt",)].count == 6
    assert inner[("add",)].count == 5
    assert inner[("add", "tanh")].flops == 7 * 2 * m * 80
    launches = [s for s in report.steps if s.kind not in ("control", "copy")]
    assert launches
    assert all(s.measured > 0 for s in launches)


APART = """
graph @main(%x: f32[40,900,80], %w: f32[80,80]) -> f32[40,900,80] {
  %ys = scan %x {n_carry=0} : f32[40,900,80] { (%xi: f32[900,80]):
    %a = matmul %xi, %w : f32[900,80]
    %m = reduce.max %a {axes=[0], keepdims=true} : f32[1,80]
    %d = sub %a, %m : f32[900,80]
    yield %d
  }
  return %ys
}
"""


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_counts_of_iterations_that_threads_run_each_for_itself(make, threads: int) -> None:
    program = make(APART, threads=threads)
    report = program.report(random(40, 900, 80), random(80, 80))
    counts = {s.count for s in report.steps if s.kind == "tile" or "sub" in s.operators}
    assert counts == {40}


def test_a_count_that_the_data_decide_is_not_known(make) -> None:
    report = make(LOOPS).report()
    assert {s.operators: s.count for s in report.steps}[("add",)] is None
    assert " ? " in str(report)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_timed_program_gives_the_same_results(make, timed, threads: int) -> None:
    cases = [
        (MATMUL, [random(33, 64), W]),
        (CONV, [random(1, 3, 10, 12), random(16, 3, 3, 3)]),
        (LOOPS, [random(4, 80), random(5, 4, 80), np.float32(3)]),
        (HOST, [random(9, 4)]),
    ]
    for text, inputs in cases:
        p = make(text, threads=threads)
        t = timed(p)
        results, _ = t.run(inputs)
        for mine, theirs in zip(results, p(inputs), strict=True):
            assert mine.tobytes() == np.asarray(theirs).tobytes()
        rows = t.read()
        steps = sum(len(list(s.walk())) if isinstance(s, Segment) else 1 for s in p.view.steps)
        assert len(rows) == steps == len(p.report().steps)
        assert (rows[:, 1] > 0).all()
        t.close()
        assert np.asarray(p(inputs)[0]).size  # its kernels are still loaded


def test_a_branch_that_is_not_taken_does_not_count(make) -> None:
    text = """graph @main(%c: bool[], %x: f32[M,80]) -> f32[M,80] {
      %y = if %c : f32[M,80] {
        %p = exp %x : f32[M,80]
        yield %p
      } {
        %q = tanh %x : f32[M,80]
        yield %q
      }
      return %y
    }
    """
    report = make(text).report(np.bool_(True), random(900, 80))
    counts = {s.operators: (s.count, s.flops) for s in report.steps if s.kind == "loop"}
    assert counts == {("exp",): (1, 900 * 80), ("tanh",): (0, 0)}


def test_steps_on_the_host_are_timed(make) -> None:
    report = make(HOST).report(np.abs(random(6, 4)) + 1)
    assert report.profile is not None
    assert report.profile.sizes["K"] == 24
    (host,) = report.fallbacks
    assert host.measured is not None
    assert host.measured > 0
    cast = next(s for s in report.steps if "cast" in s.operators)
    assert cast.nbytes == 24 * 2 * (8 + 4)
    assert "on the host: nonzero" in str(report)


def test_wrong_inputs_and_closed_programs(make) -> None:
    p = make(MATMUL)
    with pytest.raises(InputError):
        p.report(random(5, 63), W)
    with pytest.raises(InputError):
        p.report(random(5, 64))
    p.close()
    with pytest.raises(ExecutionError, match="closed"):
        p.report(random(5, 64), W)


@pytest.mark.parametrize(
    ("taps", "strides", "text"),
    [
        ((3, 3), (1, 1), ""),
        ((3, 3), (2, 2), ", stride 2x2"),
        ((5, 3), (1, 2), ", taps 5x3, stride 1x2"),
    ],
)
def test_a_convolution_in_blocks_of_tiles(taps, strides, text):
    sizes = {"count": 1, "height": 56, "width": 56, "channels": 64, "out_channels": 8}
    for name, pair in (("size", (4, 2)), ("taps", taps), ("stride", strides)):
        sizes |= {f"{name} down": pair[0], f"{name} across": pair[1]}
    s = Step("k", "winograd", problem=sizes, schedule={"kind": "winograd", "block": 25})
    assert _problem(s) == f"56x56, 64 to 8{text}"
    assert _choices(s) == "winograd F(4x2) kind=winograd block=25"


def test_a_convolution_in_blocks_of_a_file_of_an_earlier_version():
    sizes = {"tile": 4, "count": 1, "height": 56, "width": 56, "channels": 64, "out_channels": 8}
    s = Step("k", "winograd", problem=sizes, schedule={"kind": "winograd", "block": 25})
    assert _problem(s) == "56x56, 64 to 8"
    assert _choices(s) == "winograd kind=winograd block=25"


def test_products_with_different_numbers_of_rows():
    sizes = {"batch": 25, "rows": 16, "cols": 8, "depth": 4, "batch.0": 10, "rows.0": 12}
    sizes |= {"batch.1": 1, "rows.1": 9, "scattered": 0, "bits": 32}
    schedule = {"kind": "tile", "mr": 8, "nr": 32, "order": "columns", "fewer": (12, 8), "few": 0}
    s = Step("k", "tile", problem=sizes, schedule=schedule)
    assert _problem(s) == "(25 * 16 + 10 * 12 + 9)x4x8"
    assert _choices(s) == "tile 8,12x32 by columns kind=tile"
