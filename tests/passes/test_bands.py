"""Launches in bands: where that is expected to be faster, and the same bits either way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from graphs import graph
from hypothesis import HealthCheck, Phase, given, settings
from random_graphs import Case, cases
from rewriting import find, random_arrays

from pjit.backends.llvm.build import emit
from pjit.backends.llvm.target import machine
from pjit.compiler import compile_module
from pjit.errors import ExecutionError, VerifyError
from pjit.ir import ops, tensor
from pjit.ir.core import Module
from pjit.ir.expr import sym
from pjit.ir.interp import interpret
from pjit.ir.program import BandStep, LoopStep, Segment
from pjit.ir.target import Machine
from pjit.ir.text import parse_module, print_module
from pjit.ir.types import f32, i64
from pjit.ir.verify import verify
from pjit.ir.view import view
from pjit.passes import bands, batch
from pjit.passes.context import Context
from pjit.passes.footprint import footprint
from pjit.passes.manager import run_pipeline
from pjit.passes.pipelines import GRAPH, KERNEL
from pjit.passes.snapshot import clone
from pjit.tracing.function import CompiledFunction

MACHINE = Machine("test", l1=1 << 13, l2=1 << 16, l3=1 << 20, threads=2)
LOWERED = KERNEL[:-1]
PLAIN = {"strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1)}


def array(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).uniform(-1, 1, shape).astype(np.float32)


def block(side: int = 32, stride: int = 1, also: bool = False, batch=1) -> Module:
    """A small convolution, a depthwise one of six times the channels, a projection."""

    def conv(b, x, *shape):
        return b(ops.Relu, b(ops.Conv, x, b.constant(array(*shape)), **PLAIN))

    def build(b, x):
        wide = conv(b, x, 48, 8, 1, 1)
        geometry = PLAIN | {"strides": (stride,) * 2, "pads": (1,) * 4, "groups": 48}
        y = b(ops.Relu, b(ops.Conv, wide, b.constant(array(48, 1, 3, 3)), **geometry))
        y = conv(b, y, 8, 48, 1, 1)
        return [y, wide] if also else y

    return graph(build, [tensor(f32, batch, 8, side, side)])


def attention(heads: int = 6, size: int = 32) -> Module:
    def build(b, q, k, v):
        scores = b(ops.Matmul, q, b(ops.Transpose, k, perm=(0, 2, 1)))
        return b(ops.Matmul, b(ops.Softmax, scores, axis=2), v)

    return graph(build, [tensor(f32, heads, 4 * size, size)] * 3)


def lowered(module: Module, machine: Machine) -> Module:
    """The module after all passes but the last; then that."""
    run_pipeline(module, [*GRAPH, *LOWERED], Context(machine))
    bands.Banding().run(module, Context(machine, verify=True))
    verify(module)
    return module


@contextmanager
def anywhere() -> Iterator[None]:
    """Whatever can run in bands does, the more the better."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bands.Chain, "ideal", 0.0)
        patch.setattr(bands.Chain, "banded", lambda self, again, more, count, rate: -float(count))
        patch.setattr(bands, "TRIES", 1 << 30)
        yield


@contextmanager
def nowhere() -> Iterator[None]:
    """Nothing runs in bands."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bands, "GAIN", 1.0)
        yield


@contextmanager
def in_parts() -> Iterator[None]:
    """What can run in bands does, in a loop over the items of a batch too."""

    def whole(region: batch.Region, machine: Machine) -> tuple[int, int]:
        return (len(region.ops), 1) if any(map(batch._is_heavy, region.ops)) else (0, 0)

    with pytest.MonkeyPatch.context() as patch, anywhere():
        patch.setattr(batch, "choose", whole)
        yield


def band_steps(program) -> list[BandStep]:
    segments = [s for s in program.view.steps if isinstance(s, Segment)]
    return [step for s in segments for step in s.walk() if isinstance(step, BandStep)]


@pytest.mark.parametrize("stride", [1, 2])
def test_what_leaves_the_cache_runs_in_bands(stride):
    module = lowered(block(side=48, stride=stride), MACHINE)
    (found,) = find(module, "bands")
    names = [op.kernel for op in found.launches]
    (first,) = [i for i, name in enumerate(names[:-1]) if "depthwise" in names[i + 1]]
    assert "conv_packed" in names[first]
    for made, op in zip(found.ranges, found.launches, strict=True):
        extent = len(footprint(module.functions[op.kernel])[0].first)
        assert {i for lo, hi in made for i in range(lo, hi)} == set(range(extent))
    again = sum(hi - lo for lo, hi in found.ranges[first]) / found.ranges[first][-1][1]
    assert again > 1, "rows between bands are in both"
    assert sum(n for n, _ in found.kept) < 48 * 48 * 48 / 4


def test_the_heads_of_attention_run_each_for_itself():
    module = lowered(attention(), replace(MACHINE, l2=1 << 18))
    (found,) = find(module, "bands")
    assert found.count % 6 == 0


@pytest.mark.parametrize(
    ("module", "machine"),
    [
        pytest.param(block(side=8), MACHINE, id="all tensors stay in the cache"),
        pytest.param(block(also=True), MACHINE, id="the largest tensor is a result"),
        pytest.param(block(batch=sym("N")), MACHINE, id="a free size"),
        pytest.param(block(), replace(MACHINE, l2=1 << 24), id="the cache is large"),
    ],
)
def test_what_gains_nothing_runs_as_a_whole(module, machine):
    found = find(lowered(module, machine), "bands")
    assert not any("conv_packed_relu" in op.kernel for b in found for op in b.launches[:-1])


def test_bands_have_a_text_and_a_meaning():
    with anywhere():
        module = lowered(block(side=6), MACHINE)
    assert find(module, "bands")
    text = print_module(module)
    again = parse_module(text, constants=module.constants)
    assert print_module(again) == text
    (x,) = random_arrays(module)
    np.testing.assert_array_equal(interpret(again, x)[0], interpret(module, x)[0])
    np.testing.assert_allclose(interpret(module, x)[0], interpret(block(side=6), x)[0], rtol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 6])
def test_what_runs_in_bands_stays_as_it_is(batch_size: int):
    with in_parts():
        module = lowered(block(batch=batch_size), MACHINE)
        text = print_module(module)
        assert not bands.Banding().run(module, Context(MACHINE, verify=True))
    assert print_module(module) == text


@pytest.mark.parametrize("make", [block, attention])
def test_bits_are_those_of_launches_one_after_the_other(make: Callable[[], Module]):
    arrays = random_arrays(make())
    with nowhere():
        program = compile_module(make(), threads=1, cache=False)
    assert not band_steps(program)
    want = np.asarray(program(arrays)[0]).tobytes()
    program.close()
    for threads in (1, 2, 3, 9):
        with anywhere():
            program = compile_module(make(), threads=threads, cache=False)
        assert band_steps(program)
        for _ in range(3):
            assert np.asarray(program(arrays)[0]).tobytes() == want, threads
        program.close()


@pytest.mark.parametrize("threads", [1, 2, 3, 9])
def test_loops_have_bands(threads: int):
    """Nine threads run six items together, fewer run items each for itself."""
    arrays = random_arrays(block(batch=6))
    with nowhere():
        program = compile_module(block(batch=6), threads=1, cache=False)
    want = np.asarray(program(arrays)[0]).tobytes()
    program.close()
    with in_parts():
        program = compile_module(block(batch=6), threads=threads, cache=False)
    segments = [s for s in program.view.steps if isinstance(s, Segment)]
    (loop,) = [step for s in segments for step in s.steps if isinstance(step, LoopStep)]
    (found,) = [step for step in loop.body if isinstance(step, BandStep)]
    assert (found.room.first, found.room.last) == (loop.room.first, loop.room.last)
    assert not {*found.room.slots} & {*loop.room.slots}
    for _ in range(3):
        assert np.asarray(program(arrays)[0]).tobytes() == want
    program.close()


def test_loops_that_carry_and_branches_have_bands(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
):
    w, v, x = array(32, 96), array(96, 32), array(320, 32)

    def program(x):
        n = 0
        while np.abs(x).max() > 0.05 and n < 5:
            x = np.tanh(np.maximum(x @ w, 0) @ v) * 0.9
            n += 1
        return np.maximum(x @ w, 0) @ v if x.sum() > 0 else np.tanh(x @ w) @ v

    results = set()
    for where, threads in ((nowhere, 1), (anywhere, 1), (anywhere, 2), (anywhere, 3)):
        monkeypatch.setenv("PJIT_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        with where():
            compiled = CompiledFunction(program, threads=threads)
            results |= {np.asarray(compiled(x)).tobytes() for _ in range(3)}
        found = [s for s in compiled.report().steps if s.kernel == "bands"]
        assert bool(found) == (where is anywhere)
    assert len(results) == 1


def test_a_thread_goes_on_where_its_last_band_ended():
    """What two of its bands need is moved, and not made again."""
    target = machine("host", 1)
    with anywhere():
        module = lowered(block(), target)
    (found,) = find(module, "bands")
    *_, segments = emit(module, view(module), target)
    code = str(segments)
    moved = [starts for n, starts in found.kept if np.diff(starts).min() < n]
    assert code.count('call void @"llvm.memmove') == len(moved) > 0
    assert code.count('call i64 @"llvm.smax.i64"') >= len(found.launches)


def test_what_nobody_reads_is_checked_all_the_same():
    """A window of stride 2 does not see the last row, in which an index is out of range."""

    def build(b, indices):
        x = b(ops.Gather, b.constant(array(50)), indices, axis=0)
        geometry = {"strides": (2, 2), "pads": (0,) * 4, "dilations": (1, 1)}
        return b(ops.MaxPool, x, kernel=(3, 3), **geometry)

    indices = np.zeros((1, 8, 16, 16), np.int64)
    indices[0, 0, 15, 15] = 1000
    with anywhere():
        program = compile_module(graph(build, [tensor(i64, 1, 8, 16, 16)]), threads=1, cache=False)
    with pytest.raises(ExecutionError, match="out of range"):
        np.asarray(program([indices])[0])
    program.close()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda r, k: ([[[0, 9999], *p[1:]] for p in r], k), "a range for each band"),
        (lambda r, k: ([*r[:-1], [[0, 1], *r[-1][1:]]], k), "follow each other"),
        (lambda r, k: ([[[3, 3], *p[1:]] for p in r], k), "a range for each band"),
        (lambda r, k: (r[1:], k), "a range for each band"),
        (lambda r, k: (r, k[1:]), "is kept"),
        (lambda r, k: (r, [(n, starts[:1]) for n, starts in k]), "is kept"),
        (lambda r, k: (r, [(0, starts) for _, starts in k]), "is kept"),
        (lambda r, k: (r, [(n, starts[::-1]) for n, starts in k]), "is kept"),
    ],
)
def test_wrong_bands_are_refused(edit, message):
    module = lowered(block(side=48), MACHINE)
    (found,) = find(module, "bands")
    ranges, kept = edit([list(r) for r in found.ranges], list(found.kept))
    found.attrs["ranges"], found.attrs["kept"] = tuple(map(tuple, ranges)), tuple(kept)
    with pytest.raises(VerifyError, match=message):
        verify(module)


def test_what_is_kept_takes_little_memory():
    sizes = []
    for where in (anywhere, nowhere):
        with where():
            program = compile_module(block(side=128), threads=1, cache=False)
        program(random_arrays(block(side=128)))[0].block_until_ready()
        sizes.append(program.memory()["arena"])
        program.close()
    assert sizes[0] < sizes[1] / 2


def test_a_report_counts_a_launch_in_bands_once():
    with anywhere():
        program = compile_module(block(side=64), threads=2, cache=False)
    arrays = random_arrays(block(side=64))
    plain, timed = (r.to_dict()["steps"] for r in (program.report(), program.report(*arrays)))
    (group,) = [s for s in timed if s["kernel"] == "bands"]
    assert group["schedule"]["bands"] > 1
    flops = [s["flops"] for s in plain]
    assert [s["flops"] for s in timed] == flops
    assert sum(flops) >= 2 * 64 * 64 * 48 * (8 + 9 + 8)
    assert all(s["count"] == 1 for s in timed)
    assert all(s["measured"] > 0 for s in timed if s["kernel"].startswith("k"))
    program.close()


@pytest.mark.parametrize("theme", ["images", "rows"])
def test_any_graph_may_run_in_bands(theme):
    found = []

    def test(case: Case) -> None:
        if any(case.sizes):
            return
        arrays, results = case.arrays({}), []
        for where, threads in ((nowhere, 1), (anywhere, 1), (anywhere, 2), (in_parts, 2)):
            with where():
                program = compile_module(clone(case.module), threads=threads, cache=False)
            found.append(len(band_steps(program)))
            results.append([np.asarray(a).tobytes() for a in program(arrays)])
            program.close()
        assert all(result == results[0] for result in results)

    often = settings(
        max_examples=40,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],  # to look for a smaller case takes minutes
        suppress_health_check=list(HealthCheck),
    )
    often(given(cases(theme))(test))()
    assert any(found), "nothing ran in bands"
