"""Layouts: packed convolutions and products, and where transpositions end up."""

import numpy as np
import pytest
from graphs import graph
from rewriting import check_pass, find, names

from pjit.ir import interpret, ops, sym, tensor, verify
from pjit.ir.target import Machine
from pjit.ir.types import bf16, f16, f32, f64, i32
from pjit.passes.context import Context
from pjit.passes.cost import worth_packing
from pjit.passes.layout import Layout
from pjit.passes.manager import run_pipeline
from pjit.passes.pipelines import GRAPH
from pjit.passes.snapshot import clone

IMAGE = tensor(f32, 2, 3, 9, 8)
CHANNELS = tensor(f32, 2, 20, 6, 5)
rng = np.random.default_rng(0)
WIDE = Machine("wide", vector_bits=512, vector_registers=32)


def weight(b, *shape, dtype=np.float32):
    return b.constant(rng.standard_normal(shape) * (2 if dtype == i32.numpy else 0.3), dtype, "w")


def conv(b, x, out, k=3, stride=1, pad=1, groups=1, w=None):
    n = len(x.shape) - 2
    if w is None:
        w = weight(b, out, x.shape[1] // groups, *[k] * n, dtype=x.dtype.numpy)
    attrs = {"strides": (stride,) * n, "pads": (pad,) * 2 * n, "dilations": (1,) * n}
    return b(ops.Conv, x, w, groups=groups, **attrs)


def batch_norm(b, x):
    c = x.shape[1]
    statistics = [b.constant(rng.uniform(0.5, 2, c), x.dtype) for _ in range(4)]
    return b(ops.BatchNorm, x, *statistics)


def pipeline(build, *types):
    m = graph(build, types)
    check_pass(m, lambda module, context: bool(run_pipeline(module, GRAPH, context)), Context(WIDE))
    return m


def test_small_residual_network_has_no_transposition():
    """A ResNet in small: stem, pooling, blocks, a strided shortcut, the mean, a matrix product."""

    def block(b, x, out, stride):
        y = b(ops.Relu, batch_norm(b, conv(b, x, out, 1, 1, 0)))
        y = b(ops.Relu, batch_norm(b, conv(b, y, out, 3, stride)))
        y = batch_norm(b, conv(b, y, 2 * out, 1, 1, 0))
        short = x if x.shape == y.shape else batch_norm(b, conv(b, x, 2 * out, 1, stride, 0))
        return b(ops.Relu, b(ops.Add, y, short))

    def build(b, x):
        x = b(ops.Relu, batch_norm(b, conv(b, x, 16, 3, 2)))
        pool = {"kernel": (3, 3), "strides": (2, 2), "pads": (1,) * 4, "dilations": (1, 1)}
        x = b(ops.MaxPool, x, **pool)
        x = block(b, block(b, x, 16, 1), 16, 2)
        x = b(ops.ReduceMean, x, axes=(2, 3), keepdims=True)
        x = b(ops.Reshape, x, shape=(2, 32))
        return b(ops.Add, b(ops.Matmul, x, weight(b, 32, 10)), weight(b, 10))

    m = pipeline(build, IMAGE)
    assert not find(m, "transpose"), "the first convolution reads planes"
    assert find(m, "nn.max_pool")[0].channels_last
    assert len(find(m, "mul")) == 1, "of the mean: batch normalisation is in the weights"
    assert len(find(m, "add")) == len(find(m, "nn.conv_packed")) + 2 + 1


def test_inverted_residual_has_no_transposition():
    def build(b, x):
        x = b(ops.Min, b(ops.Relu, batch_norm(b, conv(b, x, 16, 3, 2))), b.constant(6, f32))
        y = b(ops.Relu, batch_norm(b, conv(b, x, 48, 1, 1, 0)))
        y = b(ops.Relu, batch_norm(b, conv(b, y, 48, 3, 1, groups=48)))
        y = b(ops.Add, x, batch_norm(b, conv(b, y, 16, 1, 1, 0)))
        scale = b(ops.ReduceMean, y, axes=(2, 3), keepdims=True)
        scale = b(ops.Sigmoid, conv(b, scale, 16, 1, 1, 0))
        y = b(ops.Mul, y, scale)
        return b(ops.ReduceMean, y, axes=(2, 3))

    m = pipeline(build, IMAGE)
    assert not find(m, "transpose")
    assert len(find(m, "nn.depthwise")) == 1


def test_detection_head_has_no_transposition():
    """Heads of several scales, reshaped, concatenated and transposed to [N, boxes, values]."""

    def build(b, x):
        x = b(ops.Relu, conv(b, x, 16))
        small = b(ops.Relu, conv(b, x, 16, 3, 2))
        up = b(ops.Resize, small, shape=(2, 16, 9, 8), scales=(1.0, 1.0, 1.8, 2.0))
        x = b(ops.Concat, x, up, axis=1)
        heads = []
        for y in (x, small):
            both = b(ops.Concat, conv(b, y, 32), b(ops.Sigmoid, conv(b, y, 16)), axis=1)
            heads.append(b(ops.Reshape, both, shape=(2, 48, both.shape[2] * both.shape[3])))
        out = b(ops.Transpose, b(ops.Concat, *heads, axis=2), perm=(0, 2, 1))
        return b(ops.Softmax, out, axis=2)

    m = pipeline(build, IMAGE)
    assert not find(m, "transpose")


def test_small_operands_do_not_take_turns():
    """Either operand is small beside the result; only the larger one's transposition sinks."""

    def build(b, x):
        y = b(ops.Transpose, x, perm=(0, 3, 2, 1))
        rows = b(ops.ReduceMax, y, axes=(2, 3), keepdims=False)
        return b(ops.Tanh, b(ops.Add, rows, y))

    m = graph(build, [tensor(f32, 64, 2, 1, 2)])
    check_pass(m, Layout().run, Context(WIDE))


def test_flatten_permutes_the_weight():
    def build(b, x):
        x = b(ops.Relu, conv(b, x, 16))
        return b(ops.Matmul, b(ops.Reshape, x, shape=(2, 16 * 72)), weight(b, 16 * 72, 5))

    m = pipeline(build, IMAGE)
    assert not find(m, "transpose")


def test_upsampling_chain_has_one_transposition():
    """Each transposed convolution interleaves its phases: one transposition that is real work."""

    def build(b, x):
        x = b(ops.Relu, conv(b, x, 16))
        w = weight(b, 16, 8, 2, 2)
        attrs = {"strides": (2, 2), "pads": (0,) * 4, "dilations": (1, 1), "output_padding": (0, 0)}
        y = b(ops.ConvTranspose, x, w, **attrs)
        y = b(ops.Mul, y, b(ops.Sigmoid, batch_norm(b, y)))
        return b(ops.ReduceMax, conv(b, y, 32), axes=(1,))

    assert len(find(pipeline(build, IMAGE), "transpose")) == 1


def test_results_stay_channels_first():
    m = pipeline(lambda b, x: b(ops.Relu, conv(b, x, 20)), CHANNELS)
    assert names(m) == ["transpose", "nn.conv_packed", "relu", "transpose"]


def test_a_shared_transposition_is_not_doubled():
    """The result of a convolution goes out as it is and through a relu: the layout changes once."""

    def build(b, x):
        y = conv(b, x, 20)
        return y, b(ops.Relu, y)

    m = pipeline(build, CHANNELS)
    assert names(m).count("transpose") == 2


def test_nothing_moves_without_a_convolution():
    def build(b, x):
        pool = {"kernel": (2, 2), "strides": (2, 2), "pads": (0,) * 4, "dilations": (1, 1)}
        return b(ops.Relu, b(ops.MaxPool, x, **pool))

    m = graph(build, [IMAGE])
    assert not check_pass(m, Layout().run)
    assert names(m) == ["nn.max_pool", "relu"]


def test_larger_tensors_are_not_transposed_instead():
    """A resized result: the transposition stays before the growth."""

    def build(b, x):
        y = conv(b, x, 20)
        return b(ops.Resize, y, shape=(2, 20, 24, 20), scales=(1.0, 1.0, 4.0, 4.0))

    m = graph(build, [CHANNELS])
    check_pass(m, Layout(nr=16).run)
    assert [op.x.shape for op in find(m, "transpose")] == [(2, 20, 6, 5), (2, 6, 5, 20)]


def test_activation_diamond_is_pulled_through():
    """T(g(y)*y) with y = reshape(T(z)): all uses move together."""

    def build(b, x, other):
        y = b(ops.Reshape, b(ops.Transpose, x, perm=(0, 2, 1, 3)), shape=(2, 20, 30))
        y = b(ops.Mul, y, b(ops.Sigmoid, y))
        return b(ops.Exp, b(ops.Transpose, y, perm=(0, 2, 1)))

    m = graph(build, [tensor(f32, 2, 5, 20, 6), tensor(f32, 2, 30, 20)])
    check_pass(m, Layout().run)
    assert names(m).count("transpose") == 1


@pytest.mark.parametrize("dtype", [f64, f16, bf16])
def test_float_dtypes(dtype):
    def build(b, x):
        y = conv(b, x, 6)
        return b(ops.Matmul, y, weight(b, 5, 7, dtype=dtype.numpy))

    m = graph(build, [tensor(dtype, 2, 20, 6, 5)])
    check_pass(m, Layout().run)
    assert find(m, "nn.conv_packed")[0].type.dtype == (f64 if dtype == f64 else f32)
    assert find(m, "matmul_packed")
    assert m.main.results[0].dtype == dtype


def test_integers_stay():
    m = graph(lambda b, x: conv(b, x, 6), [tensor(i32, 2, 20, 5, 5)])
    assert not check_pass(m, Layout().run)


@pytest.mark.parametrize("rank", [3, 4, 5])
@pytest.mark.parametrize(
    ("channels", "out", "groups", "operator"),
    [
        (18, 6, 1, "nn.conv_packed"),
        (4, 6, 2, "nn.conv_packed"),
        (3, 3, 3, "nn.depthwise"),
        (3, 6, 3, "nn.depthwise"),
    ],
)
def test_convolutions(rank, channels, out, groups, operator):
    shape = (2, channels, 7, 5, 4)[:rank]
    m = graph(lambda b, x: conv(b, x, out, 3, 2, groups=groups), [tensor(f32, *shape)])
    check_pass(m, Layout().run)
    assert len(find(m, operator)) == 1
    assert not find(m, "nn.conv")


def test_first_layer_reads_planes():
    """Few planes are padded apart, and read as they are."""
    m = graph(lambda b, x: conv(b, x, 16), [IMAGE])
    check_pass(m, Layout().run)
    assert find(m, "pad")[0].low == (0, 0, 1, 1)
    (packed,) = find(m, "nn.conv_packed")
    assert packed.pads == (0,) * 6
    assert packed.kernel == (3, 3, 3)
    (only,) = find(m, "transpose")
    assert only.x is not m.main.args[0]
    m = graph(lambda b, x: conv(b, x, 16), [CHANNELS])
    check_pass(m, Layout().run)
    assert not find(m, "pad")


def test_few_channels_that_are_last_are_padded_apart():
    def build(b, x):
        return conv(b, b(ops.Transpose, x, perm=(0, 3, 1, 2)), 16)

    m = graph(build, [tensor(f32, 2, 9, 8, 3)])
    check_pass(m, Layout().run)
    assert find(m, "pad")[0].low == (0, 1, 1 * 3), "a row of pixels is one dimension"
    assert find(m, "nn.conv_packed")[0].pads == (0,) * 4


def test_dynamic_weight():
    m = graph(lambda b, x, w: conv(b, x, 8, w=w), [CHANNELS, tensor(f32, 8, 20, 3, 3)])
    check_pass(m, Layout().run)
    assert find(m, "nn.pack_weights")


@pytest.mark.parametrize(
    ("a", "b_", "packed"),
    [
        ((5, 7), (7, 6), True),
        ((2, 1, 5, 7), (3, 7, 6), True),
        ((7,), (7, 6), False),
        ((5, 7), (7,), False),
        ((5, 7), (7, 1), False),
        ((7,), (7,), False),
        ((3, 7), (2, 7, 6), False),
    ],
)
def test_matmul_of_activations(a, b_, packed):
    m = graph(lambda b, x, y: b(ops.Matmul, x, y), [tensor(f32, *a), tensor(f32, *b_)])
    check_pass(m, Layout().run)
    assert bool(find(m, "matmul_packed")) == packed


@pytest.mark.parametrize("rows", [(), (1,), (2, 3)])
def test_matmul_with_a_constant(rows):
    m = graph(lambda b, x: b(ops.Matmul, x, weight(b, 7, 6)), [tensor(f32, *rows, 7)])
    check_pass(m, Layout(nr=4).run)
    assert find(m, "pack")[0].nr == 4


def test_symbolic_batch_and_size():
    n, h, w = sym("N"), sym("H"), sym("W")

    def build(b, x):
        y = b(ops.Relu, conv(b, b(ops.Relu, conv(b, x, 16, 3, 2)), 16))
        pool = {"kernel": (2, 2), "strides": (2, 2), "pads": (0,) * 4, "dilations": (1, 1)}
        y = b(ops.AvgPool, y, **pool)
        y = b(ops.Reshape, y, shape=(n, 16, y.shape[2] * y.shape[3]))
        return b(ops.ReduceMean, y, axes=(2,))

    m = graph(build, [tensor(f32, n, 3, h, w)])
    before = clone(m)
    run_pipeline(m, GRAPH, Context(WIDE, verify=True))
    verify(m)
    assert not find(m, "transpose")
    x = rng.standard_normal((3, 3, 11, 14)).astype(np.float32)
    np.testing.assert_allclose(interpret(m, x)[0], interpret(before, x)[0], rtol=1e-4, atol=1e-5)


def test_worth_packing():
    assert worth_packing(1, 10, constant=True)
    assert not worth_packing(1, 10, constant=False)
    assert not worth_packing(100, 1, constant=True)
    assert worth_packing(sym("N"), 10, constant=False)
