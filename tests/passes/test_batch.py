"""Batches in parts: where that is expected to be faster, and the same bits either way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from graphs import graph
from rewriting import find

from pjit.backends.llvm import target
from pjit.compiler import compile_module
from pjit.ir import ops, tensor
from pjit.ir.core import Module
from pjit.ir.expr import sym
from pjit.ir.interp import interpret
from pjit.ir.program import LoopStep, Segment
from pjit.ir.target import Machine
from pjit.ir.types import f32, i64
from pjit.passes.batch import Batch, choose, reach, split
from pjit.passes.context import Context
from pjit.passes.manager import run_pipeline
from pjit.passes.pipelines import GRAPH

MACHINE = Machine("test", l2=1 << 19, l3=1 << 23, threads=2)


def array(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).uniform(-1, 1, shape).astype(np.float32)


def network(size: int, side: int = 64, channels: int = 32, units: int = 8) -> Module:
    """Little arithmetic on much memory: 1x1 convolutions, pooling, the sum of each image; then a
    product.
    """

    def build(b, x, y):
        plain = {"strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1)}
        for c in (3, channels):
            x = b(ops.Relu, b(ops.Conv, x, b.constant(array(channels, c, 1, 1)), **plain))
            x = b(ops.MaxPool, x, kernel=(3, 3), **plain | {"pads": (1,) * 4})
        x = b(ops.ReduceSum, x, axes=(2, 3))
        return b(ops.Add, b(ops.Matmul, x, b.constant(array(channels, units))), y)

    return graph(build, [tensor(f32, size, 3, side, side), tensor(f32, units)])


def after(module: Module, machine: Machine) -> list[str]:
    Batch().run(module, Context(machine))
    return [op.op_name for op in module.main.body.ops if not isinstance(op, ops.Const)]


def test_what_leaves_the_caches_runs_in_parts():
    module = network(8)
    names = after(module, MACHINE)
    (loop,) = find(module, "scan")
    inside = {op.op_name for op in loop.body.ops}
    assert inside >= {"nn.conv", "relu", "nn.max_pool"}
    assert inside.isdisjoint(names)
    assert loop.sliced[0].shape == (8, 1, 3, 64, 64)


@pytest.mark.parametrize(
    ("module", "machine"),
    [
        pytest.param(network(8, side=8), MACHINE, id="all tensors stay in the caches"),
        pytest.param(network(8), replace(MACHINE, l3=1 << 30), id="the last cache is large"),
        pytest.param(network(8), replace(MACHINE, threads=9), id="more threads than items"),
        pytest.param(network(8), replace(MACHINE, simd=False), id="a GPU"),
        pytest.param(network(1), MACHINE, id="one item"),
    ],
)
def test_what_gains_nothing_runs_as_a_whole(module, machine):
    assert "scan" not in after(module, machine)


def test_large_weights_of_few_rows_are_read_once():
    module = network(8, units=1 << 16)
    region = reach(module, 8)
    count, part = choose(region, MACHINE)
    assert count
    assert part == 1
    assert {op.op_name for op in region.ops[count:]} >= {"matmul"}


def test_parts_are_as_large_as_the_caches_allow():
    region = reach(network(64, side=32), 64)
    parts = [choose(region, replace(MACHINE, l2=1 << n))[1] for n in (18, 19, 20)]
    assert parts == [1, 2, 4]


def test_what_one_operation_needs_whole_is_not_sliced_for_another():
    """The table is looked up in at the start, and added by item at the end."""

    def build(b, x, indices):
        table = b.constant(array(8, 8))
        return b(ops.Add, b(ops.Add, x, b(ops.Gather, table, indices, axis=0)), table)

    module = graph(build, [tensor(f32, 8, 8), tensor(i64, 8)])
    region = reach(module, 8)
    assert [op.op_name for op in region.ops] == ["gather", "add"]
    split(module, region, 2)
    x, indices = array(8, 8), np.zeros(8, np.int64)
    want = x + array(8, 8)[indices] + array(8, 8)
    np.testing.assert_allclose(interpret(module, x, indices)[0], want, rtol=1e-6)


def test_weights_that_each_item_has_of_its_own_stay_whole():
    """They are packed when the module is compiled, not in each call."""

    def build(b, x):
        return b(ops.Matmul, b(ops.Relu, x), b.constant(array(8, 256, 512)))

    module = graph(build, [tensor(f32, 8, 64, 256)])
    assert choose(reach(module, 8), MACHINE) == (0, 0)
    run_pipeline(module, GRAPH, Context(MACHINE))
    assert not find(module, "pack")


def test_free_sizes_beside_the_batch_are_left_alone():
    def build(b, x):
        plain = {"strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1)}
        return b(ops.Conv, x, b.constant(array(32, 3, 1, 1)), **plain)

    assert not reach(graph(build, [tensor(f32, 8, 3, sym("H"), 64)]), 8).ops


@pytest.mark.parametrize("part", [1, 2, 4])
def test_infinities_spread_as_they_do_in_the_whole_batch(part):
    """Positions of few channels are computed side by side: how many is chosen for all items."""

    def build(b, x):
        conv = {"strides": (1, 1), "pads": (2,) * 4, "dilations": (1, 1)}
        return b(ops.Conv, x, b.constant(array(3, 4, 5, 5)), **conv)

    x, results = array(8, 4, 12, 12), []
    x[3, 1, 5, 5] = np.inf
    for n in (None, part):
        module = graph(build, [tensor(f32, 8, 4, 12, 12)])
        if n:
            split(module, reach(module, 8), n)
        program = compile_module(module, threads=1, cache=False)
        results.append(np.asarray(program([x])[0]))
        program.close()
    np.testing.assert_array_equal(*results)


def test_transpositions_of_layouts_do_not_stay_at_the_border():
    module = network(8)
    region = reach(module, 8)
    at = next(i for i, op in enumerate(region.ops) if isinstance(op, ops.MaxPool))
    split(module, region.until(at), 1)
    run_pipeline(module, GRAPH, Context(MACHINE, verify=True))
    assert not find(module, "transpose")


def test_a_batch_has_the_same_bits_for_any_number_of_threads(monkeypatch):
    caches = {"l1": 32 << 10, "l2": 1 << 19, "l3": 32 << 20}
    monkeypatch.setattr(target, "_cache_sizes", lambda: caches)
    x, y = array(8, 3, 160, 160), array(8)
    results, loops = [], []
    for threads in (1, 2, 3, 9):
        program = compile_module(network(8, side=160), threads=threads, cache=False)
        results.append(np.asarray(program([x, y])[0]).tobytes())
        steps = [s for part in program.view.steps if isinstance(part, Segment) for s in part.walk()]
        loops.append(any(isinstance(s, LoopStep) and s.room for s in steps))
        program.close()
    assert len(set(results)) == 1
    assert loops[1], "two threads should run parts each for itself"
    assert not loops[3]
