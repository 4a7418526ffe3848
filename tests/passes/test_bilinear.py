"""Products of blocks of matrices: the schemes, where they are chosen, values, how accurate."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from graphs import close, graph
from hypothesis import given, settings
from hypothesis import strategies as st
from native import NativeProgram
from rewriting import check_pass, find

from pjit.backends.llvm.target import machine, runs_here
from pjit.ir import interpret, ops, sym, tensor
from pjit.ir.core import Module
from pjit.ir.ops.bilinear_schemes import SCHEMES, Split
from pjit.ir.target import Machine
from pjit.ir.types import f16, f32, f64
from pjit.passes import bilinear, cost
from pjit.passes.bilinear import Bilinear
from pjit.passes.context import Context
from pjit.passes.manager import run_pipeline
from pjit.passes.pipelines import GRAPH, KERNEL

WIDE = Machine(  # as an AMD Zen 4
    "wide",
    vector_bits=512,
    vector_registers=32,
    flops_per_cycle=32,
    l1_bytes_per_cycle=64.0,
    l2_bytes_per_cycle=22.0,
    memory_bytes_per_cycle=12.0,
    weights_bytes_per_cycle=9.0,
)
HOST = machine("host")
THIRDS, HALVES = (2, 3, 3), (2, 2, 2)
rng = np.random.default_rng(0)


def net(x: tuple, columns: int, dtype=f32, weight=None) -> Module:
    """``relu(x @ w + bias)``."""
    w = rng.standard_normal((x[-1], columns)) if weight is None else weight

    def build(b, a):
        y = b(ops.Matmul, a, b.constant(w, dtype.numpy, "w"))
        return b(ops.Relu, b(ops.Add, y, b.constant(w[0], dtype.numpy, "bias")))

    return graph(build, [tensor(dtype, *x)])


def chosen(m: Module) -> list[Split]:
    Bilinear().run(m, Context(WIDE))
    return [op.split for op in find(m, "nn.bilinear_output")]


@pytest.mark.parametrize("split", SCHEMES)
def test_a_scheme_makes_the_products(split: Split) -> None:
    m, k, n = split
    want = np.zeros((m, k, k, n, m, n), int)
    for i, j, c in product(range(m), range(k), range(n)):
        want[i, j, j, c, i, c] = 1
    s = SCHEMES[split]
    made = np.einsum("pa,pb,pc->abc", *(x.astype(int) for x in (s.a, s.b, s.c)))
    np.testing.assert_array_equal(made.reshape(want.shape), want)
    assert s.products < m * k * n


@pytest.mark.parametrize(
    ("x", "columns", "split"),
    [
        ((1, 128, 768), 3072, THIRDS),
        ((1, 128, 3072), 768, THIRDS),
        ((8, 128, 768), 768, THIRDS),
        ((sym("N"), 128, 768), 2304, THIRDS),
        ((1, 128, 1024), 4096, HALVES),
        ((2, 2, 256, 1024), 1024, HALVES),
    ],
)
def test_where_it_pays(x: tuple, columns: int, split: Split) -> None:
    assert chosen(net(x, columns)) == [split]


@pytest.mark.parametrize(
    ("x", "columns", "dtype"),
    [
        ((128, 768), 3072, f32),
        ((1, 129, 768), 3072, f32),
        ((1, sym("T"), 768), 3072, f32),
        ((1, 16, 768), 3072, f32),
        ((1, 128, 96), 96, f32),
        ((1, 128, 1025), 1024, f32),
        ((1, 128, 768), 3072, f64),
        ((1, 128, 768), 3072, f16),
    ],
    ids=[
        *("rows may be a batch", "odd rows", "free rows", "few rows"),
        *("small", "odd depth", "f64", "f16"),
    ],
)
def test_where_it_is_not_used(x: tuple, columns: int, dtype) -> None:
    assert not chosen(net(x, columns, dtype))


def test_not_with_weights_that_are_no_constants() -> None:
    types = [tensor(f32, 1, 128, 768), tensor(f32, 768, 3072)]
    assert not chosen(graph(lambda b, x, w: b(ops.Matmul, x, w), types))


def test_not_where_lanes_are_threads() -> None:
    m = net((1, 128, 768), 3072)
    Bilinear().run(m, Context(replace(WIDE, simd=False)))
    assert not find(m, "nn.bilinear_output")


def test_not_where_products_are_to_be_direct() -> None:
    m = net((1, 128, 768), 3072)
    Bilinear().run(m, Context(replace(WIDE, direct=True)))
    assert not find(m, "nn.bilinear_output")


def test_more_weights_must_save_time(monkeypatch) -> None:
    monkeypatch.setattr(cost, "MEMORY_WORTH", 1e-4)
    assert not chosen(net((1, 128, 768), 3072))


@pytest.mark.parametrize("split", SCHEMES)
def test_the_graph_keeps_its_meaning(monkeypatch, split: Split) -> None:
    monkeypatch.setattr(bilinear, "split_of", lambda *_: split)
    m, k, n = split
    check_pass(net((2, 3 * m, 5 * k), 7 * n), Bilinear().run, Context(WIDE))


def compiled(monkeypatch, m: Module, split: Split | None, target=HOST) -> NativeProgram:
    monkeypatch.setattr(bilinear, "split_of", lambda *_: split)
    run_pipeline(m, [*GRAPH, *KERNEL], Context(target))
    return NativeProgram(m, target)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(list(SCHEMES)),
    st.tuples(st.integers(1, 2), st.integers(1, 30), st.integers(1, 20), st.integers(1, 70)),
    st.integers(0, 14),
    st.sampled_from([1, 4]),
)
def test_values(split: Split, sizes: tuple[int, ...], room: int, threads: int) -> None:
    """Parts of any size; the same bits for any number of threads."""
    items, *blocks = sizes
    m, k, n = (a * b for a, b in zip(blocks, split, strict=True))
    x = rng.standard_normal((items, m, k)).astype(np.float32)
    module = net(x.shape, n)
    (want,) = interpret(module, x)
    with pytest.MonkeyPatch.context() as monkeypatch:
        run = compiled(
            monkeypatch, module, split, replace(HOST, scratch=4096 << room, threads=threads)
        )
    assert any(dict(op.schedule)["kind"] == "bilinear" for op in find(module, "launch"))
    one, two = (run(x, threads=t)[0] for t in (1, 2))
    assert close(one, want, 1e-5)
    assert one.tobytes() == two.tobytes()


@pytest.mark.parametrize("split", SCHEMES)
@pytest.mark.parametrize("depth", [96, 768])
def test_the_error_is_at_most_four_times_the_direct_one(monkeypatch, split, depth) -> None:
    x = rng.standard_normal((1, 64, depth)).astype(np.float32)
    w = rng.standard_normal((depth, 96)).astype(np.float32)
    exact = np.maximum(x.astype(np.float64) @ w.astype(np.float64) + w[0], 0)
    errors = []
    for way in (None, split):
        run = compiled(monkeypatch, net(x.shape, 96, weight=w), way)
        errors.append(run(x, threads=1)[0] - exact)
    direct, ours = errors
    assert np.sqrt((ours**2).mean()) <= 4 * np.sqrt((direct**2).mean())
    assert np.abs(ours).max() <= 4 * np.abs(direct).max()


@pytest.mark.parametrize("split", SCHEMES)
def test_items_of_a_batch_do_not_depend_on_each_other(monkeypatch, split: Split) -> None:
    x = rng.standard_normal((3, 12, 36)).astype(np.float32)
    x[1, 5, 7] = np.nan
    w = rng.standard_normal((36, 36)).astype(np.float32)
    together = compiled(monkeypatch, net(x.shape, 36, weight=w), split)(x, threads=1)[0]
    assert np.isnan(together[1]).any()
    for i in (0, 2):
        alone = compiled(monkeypatch, net((1, 12, 36), 36, weight=w), split)
        assert alone(x[i : i + 1], threads=1)[0].tobytes() == together[i].tobytes()


def seconds_first(shape: tuple, columns: int) -> Module:
    """Two products of a transposed input: their rows are the first dimension of the input."""
    depth = shape[-1]
    weights = [rng.standard_normal(s) for s in ((depth, columns), (columns, depth))]

    def build(b, x):
        y = b(ops.Transpose, x, perm=(1, 0, 2))
        for w in weights:
            y = b(ops.Relu, b(ops.Matmul, y, b.constant(w, np.float32)))
        return b(ops.Transpose, y, perm=(1, 0, 2))

    return graph(build, [tensor(f32, *shape)])


@pytest.mark.parametrize("items", [256, sym("N")])
def test_items_that_are_rows_are_not_added(items) -> None:
    assert not chosen(seconds_first((items, 128, 768), 3072))


def test_rows_as_many_as_items_of_which_nothing_is_known() -> None:
    w = rng.standard_normal((768, 3072))

    def build(b, x):
        y = b(ops.Reshape, x, shape=(1, 128, 768))  # the items may be anywhere
        return b(ops.Matmul, y, b.constant(w, np.float32))

    assert not chosen(graph(build, [tensor(f32, 128, 768)]))


def test_what_is_chosen_does_not_depend_on_how_a_batch_is_split() -> None:
    """The same bits when compiled for any number of threads, which choose the parts."""
    x = rng.standard_normal((32, 64, 96)).astype(np.float32)
    w = rng.standard_normal((96, 96)).astype(np.float32)
    results = set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bilinear, "BILINEAR_GAIN", 10.0)
        for threads in (1, 2, 8):
            m = net(x.shape, 96, weight=w)
            target = replace(HOST, threads=threads, l2=1 << 16, l3=1 << 20)
            run_pipeline(m, [*GRAPH, *KERNEL], Context(target))
            results.add(NativeProgram(m, target)(x, threads=2)[0].tobytes())
    assert len(results) == 1


@pytest.mark.parametrize("split", SCHEMES)
def test_the_results_may_move(monkeypatch, split: Split) -> None:
    """As the heads of attention: no kernel for that alone."""
    w = rng.standard_normal((36, 96))

    def build(b, x):
        y = b(ops.Add, b(ops.Matmul, x, b.constant(w, np.float32)), b.constant(w[0], np.float32))
        y = b(ops.Reshape, y, shape=(2, 12, 3, 32))
        return b(ops.Transpose, y, perm=(0, 2, 1, 3))

    m = graph(build, [tensor(f32, 2, 12, 36)])
    x = rng.standard_normal((2, 12, 36)).astype(np.float32)
    (want,) = interpret(m, x)
    run = compiled(monkeypatch, m, split)
    assert [dict(op.schedule)["kind"] for op in find(m, "launch")] == ["line", "bilinear"]
    assert close(run(x, threads=2)[0], want, 1e-5)


@pytest.mark.parametrize("isa", ["x86-64-v2", "x86-64-v3"])
def test_other_instruction_sets(monkeypatch, isa: str) -> None:
    if not runs_here(machine(isa)):
        pytest.skip(f"this processor does not run {isa}")
    x = rng.standard_normal((2, 20, 39)).astype(np.float32)
    m = net(x.shape, 51)
    (want,) = interpret(m, x)
    assert close(compiled(monkeypatch, m, THIRDS, machine(isa))(x, threads=2)[0], want, 1e-5)


@pytest.mark.parametrize("items", [0, 1, 3])
def test_any_number_of_items(monkeypatch, items: int) -> None:
    m = net((sym("N"), 20, 39), 51)
    x = rng.standard_normal((items, 20, 39)).astype(np.float32)
    (want,) = interpret(m, x)
    assert close(compiled(monkeypatch, m, THIRDS)(x, threads=2)[0], want, 1e-5)


def parts(threads: int, x: tuple, columns: int, target: Machine = WIDE) -> dict:
    target = replace(target, threads=threads)
    m = net(x, columns)
    run_pipeline(m, [*GRAPH, *KERNEL], Context(target))
    return next(s for op in find(m, "launch") if (s := dict(op.schedule))["kind"] == "bilinear")


def test_the_products_of_a_part_fit_the_cache() -> None:
    choices = parts(1, (8, 128, 768), 3072)
    held = 15 * choices["rows"] * choices["blocks"] * choices["nr"] * 4
    assert WIDE.scratch / 8 < held <= WIDE.scratch / 2
    assert choices["rows"] % choices["mr"] == 0


def test_there_are_parts_for_all_threads() -> None:
    choices = parts(8, (1, 128, 768), 768)
    rows, columns = -(-64 // choices["rows"]), -(-256 // (choices["blocks"] * choices["nr"]))
    assert rows * columns >= 8


def test_one_item_has_parts_for_all_threads_where_their_number_is_free() -> None:
    assert parts(8, (sym("N"), 128, 3072), 768) == parts(8, (1, 128, 3072), 768)


def test_a_part_is_at_least_a_tile() -> None:
    choices = parts(1, (1, 128, 768), 768, replace(WIDE, scratch=0))
    assert (choices["rows"], choices["blocks"]) == (choices["mr"], 1)
