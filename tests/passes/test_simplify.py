"""Folding, common subexpressions, dead code and decomposition."""

import numpy as np
import pytest
from graphs import graph
from rewriting import check_pass, find, names

from pjit.ir import Block, Builder, ops, sym, tensor
from pjit.ir.target import Machine
from pjit.ir.text import print_module
from pjit.ir.types import f32, i64
from pjit.passes.context import Context
from pjit.passes.cse import Cse
from pjit.passes.dce import Dce
from pjit.passes.decompose import Decompose
from pjit.passes.fold import Fold
from pjit.passes.manager import run_pipeline
from pjit.passes.pipelines import GRAPH, KERNEL

X = tensor(f32, 2, 3)


def conditional(b, cond, build):
    regions = []
    for at in range(2):
        region = Block()
        inner = Builder(region, b.loc, b.module)
        result = build(inner, at)
        inner(ops.Yield, result)
        regions.append(region)
    return b.build(ops.If, [cond], {}, regions, [result.type]).result


def test_fold_computes_and_prunes():
    def build(b, x):
        c = b.constant(np.arange(3, dtype=np.float32), name="weight")
        return b(ops.Add, x, b(ops.Exp, b(ops.Neg, c)))

    m = graph(build, [X])
    assert check_pass(m, Fold().run)
    assert names(m) == ["add"]
    ((name, array),) = m.constants.items()
    assert name.startswith("weight")
    np.testing.assert_allclose(array, np.exp(-np.arange(3)), rtol=1e-6)
    assert not Fold().run(m, Context())


def test_fold_without_operands():
    m = graph(lambda b: (b(ops.Iota, size=5, dtype=i64), b(ops.Sizes, dims=(2, 3))), [])
    assert check_pass(m, Fold().run)
    assert names(m) == []


def test_fold_leaves_what_grows():
    def build(b):
        c = b.constant(np.ones((1, 100), np.float32))
        return b(ops.Broadcast, c, shape=(100, 100)), b(ops.Iota, size=1 << 20, dtype=i64)

    m = graph(build, [])
    assert not check_pass(m, Fold().run)
    assert names(m) == ["broadcast", "iota"]


def test_large_weights_are_packed_when_their_array_is_asked_for():
    """No pass looks at them: they take memory once the code is made."""
    weight = np.random.default_rng(0).standard_normal((300, 310)).astype(np.float32)
    m = graph(lambda b, x: b(ops.Matmul, x, b.constant(weight)), [tensor(f32, 50, 300)])
    run_pipeline(m, [*GRAPH, *KERNEL], Context(Machine("m")))
    print_module(m)
    (name,) = m.constants
    assert callable(m.constants.stored(name))
    packed = m.constants[name]
    assert m.constants.stored(name) is packed
    nr = packed.shape[-1]
    np.testing.assert_array_equal(packed, ops.Pack.ref(weight, nr=nr))
    assert packed.ctypes.data % 64 == 0


def test_packing_what_is_packed_later():
    weight = np.random.default_rng(0).standard_normal((64, 70)).astype(np.float32)

    def build(b):
        once = b(ops.Pack, b.constant(weight), nr=16)
        return b(ops.Pack, once, nr=4), once

    m = graph(build, [])
    assert Fold().run(m, Context())
    twice, once = (m.constants[v.op.value] for v in m.main.results)
    np.testing.assert_array_equal(once, ops.Pack.ref(weight, nr=16))
    np.testing.assert_array_equal(twice, ops.Pack.ref(once, nr=4))


def test_fold_packs_narrow_weights():
    """Packing one column of 5000 to 16 grows it 16 times, and is folded all the same."""
    m = graph(lambda b: b(ops.Pack, b.constant(np.ones((5000, 1), np.float32)), nr=16), [])
    assert check_pass(m, Fold().run)
    assert names(m) == []


@pytest.mark.parametrize("dt", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("depth", [8, 5000], ids=["at once", "later"])
def test_packed_weights_are_normal_numbers(dt, depth):
    """But for f16, whose subnormal numbers are normal ones of the type that it is computed in."""
    limits = np.finfo(dt)
    tiny = limits.tiny
    edge = np.array([limits.smallest_subnormal, np.nextafter(tiny, dt(0)), tiny, 0, np.inf, np.nan])
    weight = np.ones((depth, 12), dt)
    weight[depth // 2] = np.concatenate([edge, -edge])
    m = graph(lambda b: b(ops.Pack, b.constant(weight), nr=12), [])
    assert Fold().run(m, Context())
    (packed,) = (m.constants[v.op.value] for v in m.main.results)
    want = weight.copy()
    if dt != np.float16:
        want[depth // 2, [0, 1, 6, 7]] = 0
    np.testing.assert_array_equal(packed, want[None])
    assert packed.ctypes.data % 64 == 0


def test_fold_leaves_sizes_and_failures():
    n = sym("N")

    def build(b, x):
        c = b.constant(np.arange(3.0), name="c")
        bad = b(ops.Gather, c, b.constant([7], np.int64), axis=0)
        return b(ops.Sizes, dims=(n, 2)), b(ops.Broadcast, c, shape=(n, 3)), bad

    m, lines = graph(build, [tensor(f32, n)]), []
    assert not Fold().run(m, Context(log=lines.append))
    assert names(m) == ["gather", "sizes", "broadcast"]
    assert "gather at test.py:1 left as it is" in lines[0]


def test_fold_several_results():
    m = graph(lambda b: b(ops.Topk, b.constant([3.0, 1.0, 2.0], f32), k=2, axis=0), [])
    assert check_pass(m, Fold().run)
    assert names(m) == []


def test_cse_merges_chains_and_constants():
    def build(b, x):
        one, two = (b(ops.Add, b(ops.Exp, x), b.constant(np.ones(3, np.float32))) for _ in "ab")
        return b(ops.Mul, one, two), b(ops.Add, b(ops.Exp, x), b.constant(np.zeros(3, np.float32)))

    m = graph(build, [X])
    assert check_pass(m, Cse().run)
    assert names(m) == ["exp", "add", "mul", "add"]
    assert len(m.constants) == 2
    assert not Cse().run(m, Context())


def test_cse_tells_attributes_apart():
    def build(b, x):
        zeros = [b(ops.Pad, x, low=(1, 0), high=(0, 0), value=v) for v in (0.0, -0.0, 0.0)]
        return (*zeros, b(ops.Cast, x, dtype=i64), b(ops.ReduceSum, x, axes=(0,)))

    m = graph(build, [X])
    assert check_pass(m, Cse().run)
    assert names(m) == ["pad", "pad", "cast", "reduce.sum"]


def test_cse_tells_dtypes_of_constants_apart():
    m = graph(lambda b: (b.constant(0, f32), b.constant(0, np.int32)), [])
    assert not check_pass(m, Cse().run)


def test_cse_in_regions():
    """A region uses what was computed before it; the two regions share nothing."""

    def build(b, x):
        outer = b(ops.Exp, x)
        cond = b(ops.Lt, b(ops.ReduceSum, outer, axes=(0, 1)), b.constant(1, f32))
        chosen = conditional(b, cond, lambda i, _: i(ops.Sin, i(ops.Exp, x)))
        return b(ops.Add, outer, chosen), b(ops.Sin, x)

    m = graph(build, [X])
    assert check_pass(m, Cse().run)
    assert names(m).count("exp") == 1
    assert names(m).count("sin") == 3


def test_dce():
    def build(b, x):
        b(ops.Exp, b(ops.Add, x, b.constant(1, f32)))
        cond = b(ops.Lt, b(ops.ReduceSum, x, axes=(0, 1)), b.constant(1, f32))
        conditional(b, cond, lambda i, _: i(ops.Sin, x))

        def branch(i, at):
            i(ops.Cos, x)
            return i(ops.Neg, x) if at else i(ops.Abs, x)

        return conditional(b, cond, branch)

    m = graph(build, [X])
    assert check_pass(m, Dce().run)
    assert names(m) == ["reduce.sum", "lt", "if", "abs", "yield", "neg", "yield"]
    assert len(m.constants) == 1
    assert not Dce().run(m, Context())


@pytest.mark.parametrize(
    ("build", "types"),
    [
        (lambda b, x: b(ops.Softmax, x, axis=1), [X]),
        (lambda b, x, s: b(ops.LayerNorm, x, s, axis=1), [X, tensor(f32, 3)]),
        (
            lambda b, x, w: b(
                ops.ConvTranspose,
                x,
                w,
                strides=(2,),
                pads=(1, 0),
                dilations=(1,),
                output_padding=(1,),
            ),
            [tensor(f32, 2, 3, 5), tensor(f32, 3, 2, 3)],
        ),
    ],
)
def test_decompose(build, types):
    m = graph(build, types)
    assert check_pass(m, Decompose().run)
    assert not any(hasattr(op, "decompose") for op in m.main.walk())
    assert {str(op.loc) for op in m.main.walk()} == {"test.py:1"}


def test_decompose_skips():
    def build(b, x):
        return b(ops.Softmax, b(ops.LogSoftmax, x, axis=0), axis=0)

    m = graph(build, [X])
    assert check_pass(m, Decompose(skip=("softmax",)).run)
    assert find(m, "softmax")
    assert not find(m, "log_softmax")
