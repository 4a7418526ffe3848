"""Groups and the kernels made of them, checked against the graph interpreter."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import close, graph, lower, run_kernels, types_of

from pjit.ir import expr, ops
from pjit.ir.interp import interpret
from pjit.ir.target import Machine
from pjit.ir.types import f32, tensor
from pjit.ir.verify import verify

rng = np.random.default_rng(0)


def random(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def check(build, arrays, kernels: int, types=None) -> list[str]:
    """Lowers, compares with the interpreter, and returns the kinds of the launches."""
    types = types or types_of(arrays)
    want = interpret(graph(build, types), *arrays)
    module = lower(graph(build, types))
    verify(module)
    for got, expected in zip(run_kernels(module, *arrays), want, strict=True):
        assert close(got, expected, 3e-6)
    launches = [o for o in module.main.body.ops if isinstance(o, ops.Launch)]
    assert len(launches) == kernels, [o.kernel for o in launches]
    return [dict(o.schedule)["kind"] for o in launches]


def softmax(b, x, axis):
    e = b(ops.Exp, b(ops.Sub, x, b(ops.ReduceMax, x, axes=(axis,), keepdims=True)))
    return b(ops.Div, e, b(ops.ReduceSum, e, axes=(axis,), keepdims=True))


@pytest.mark.parametrize("shape", [(3, 10), (1, 1), (2, 3, 33), (5, 17)])
def test_softmax_is_one_row_kernel(shape):
    kinds = check(lambda b, x: softmax(b, x, len(shape) - 1), [random(*shape)], 1)
    assert kinds == ["row"]


def test_softmax_with_a_free_batch():
    n = expr.sym("N")
    x = random(4, 9)
    assert check(lambda b, x: softmax(b, x, 1), [x], 1, [tensor(f32, n, 9)]) == ["row"]


def test_layer_norm_spelled_out_is_one_row_kernel():
    def build(b, x, scale, bias):
        n, eps = b.constant(np.float32(16)), b.constant(np.float32(1e-5))
        mean = b(ops.Div, b(ops.ReduceSum, x, axes=(1,), keepdims=True), n)
        centred = b(ops.Sub, x, mean)
        square = b(ops.ReduceSum, b(ops.Mul, centred, centred), axes=(1,), keepdims=True)
        deviation = b(ops.Sqrt, b(ops.Add, b(ops.Div, square, n), eps))
        return b(ops.Add, b(ops.Mul, b(ops.Div, centred, deviation), scale), bias)

    assert check(build, [random(4, 16), random(16), random(16)], 1) == ["row"]


@pytest.mark.parametrize("shape", [(5,), (3, 5)])
def test_a_row_without_its_leading_dimension_is_no_row_result(shape):
    def build(b, x):
        e = b(ops.Exp, b(ops.Reshape, x, shape=(1, *shape)))
        total = b(ops.ReduceSum, e, axes=tuple(range(1, len(shape) + 1)))
        return b(ops.Add, x, total)

    assert check(build, [random(*shape)], 2) == ["row", "loop"]


def test_convolution_takes_its_epilogue_and_the_move_to_memory():
    def build(b, x, w):
        geometry = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1)}
        wp = b(ops.PackWeights, w, nr=8)
        y = b(ops.ConvPacked, x, wp, kernel=(3, 3), out_channels=8, **geometry)
        silu = b(ops.Mul, y, b(ops.Sigmoid, y))
        return b(ops.Transpose, silu, perm=(0, 3, 1, 2))

    kinds = check(build, [random(1, 6, 7, 5), random(8, 5, 3, 3)], 2)
    assert kinds == ["loop", "tile"]


@pytest.mark.parametrize("size", [1, 2, 3, 9])
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_windows_at_every_border(size, stride):
    def build(b, x, w):
        geometry = {"strides": (stride,) * 2, "pads": (1, 1, 1, 1), "dilations": (1, 1)}
        return b(ops.Relu, b(ops.Depthwise, x, w, **geometry))

    assert check(build, [random(2, 4, size, 5), random(3, 3, 5)], 1) == ["loop"]


def test_attention_reads_queries_in_place():
    def build(b, qkv):
        t = b(ops.Transpose, qkv, perm=(2, 0, 3, 1, 4))

        def part(i):
            one = b(ops.Slice, t, starts=(i, 0, 0, 0, 0), sizes=(1, 1, 2, 4, 8), steps=(1,) * 5)
            return b(ops.Reshape, one, shape=(1, 2, 4, 8))

        q, k, v = part(0), part(1), part(2)
        kp = b(ops.Pack, b(ops.Transpose, k, perm=(0, 1, 3, 2)), nr=16)
        scores = b(ops.Mul, b(ops.MatmulPacked, q, kp, cols=4), b.constant(np.float32(0.3)))
        out = b(ops.MatmulPacked, softmax(b, scores, 3), b(ops.Pack, v, nr=16), cols=8)
        return b(ops.Reshape, b(ops.Transpose, out, perm=(0, 2, 1, 3)), shape=(1, 4, 16))

    # pack K, scores, softmax, pack V, product
    assert check(build, [random(1, 4, 3, 2, 8)], 5) == ["loop", "tile", "row", "loop", "tile"]


def test_concat_of_expressions_is_one_kernel():
    def build(b, x, y):
        return b(ops.Concat, b(ops.Relu, x), y, axis=1)

    assert check(build, [random(4, 16), random(4, 3)], 1) == ["loop"]


def test_a_costly_value_is_not_recomputed_for_a_broadcast():
    def build(b, x, y):
        return b(ops.Add, b(ops.Exp, x), y)

    assert len(check(build, [random(1, 5), random(6, 5)], 2)) == 2


def test_equal_groups_share_a_kernel():
    def build(b, x):
        w = b.constant(random(1, 8, 16))
        for _ in range(3):
            x = b(
                ops.Relu,
                b(
                    ops.MatmulPacked,
                    b(ops.Slice, x, starts=(0, 0), sizes=(4, 8), steps=(1, 1)),
                    w,
                    cols=16,
                ),
            )
        return x

    module = lower(graph(build, types_of([random(4, 16)])))
    assert len([f for f in module.functions.values() if f.level == "kernel"]) == 1


@pytest.mark.parametrize("order", [1, -1])
def test_groups_whose_sizes_have_other_ranges_have_kernels_of_their_own(order):
    """A start of at least 1 never reads the padding in front, one of at least 0 may."""
    n, m = expr.sym("N"), expr.sym("M")

    def build(b, x, y):
        def part(start):
            padded = b(ops.Pad, x, low=(1,), high=(1,), value=7.0)
            return b(ops.Slice, padded, starts=(start,), sizes=(3,), steps=(1,))

        return [part(start) for start in (m, m // 2)[::order]]

    x, y = random(10), random(1)
    module = lower(graph(build, [tensor(f32, n), tensor(f32, m)]))
    padded = np.pad(x, 1, constant_values=7)
    want = [padded[1:4], padded[:3]][::order]
    np.testing.assert_array_equal(run_kernels(module, x, y), want)
    assert len([f for f in module.functions.values() if f.level == "kernel"]) == 2


@pytest.mark.parametrize("width", [17, "W"])
@pytest.mark.parametrize("root", ["pad", "depthwise"])
def test_a_row_in_parts_keeps_the_guards_of_other_operations(root, width):
    """The middle part is inside for what splits the row, not for a pad in front or beside it."""
    weights = random(1, 3, 4)

    def shape(along, others):
        lead = (others[0],) * 2
        return (*lead, others[1], along) if root == "pad" else (*lead, along, others[1])

    def pad(b, x, low, high, value):
        return b(ops.Pad, x, low=shape(low, (0, 0)), high=shape(high, (0, 0)), value=value)

    def build(b, x, y):
        inner = b(ops.Relu, pad(b, x, 2, 3, 1.0))
        if root == "pad":
            return pad(b, inner, 1, 2, 3.0)
        geometry = {"strides": (1, 1), "pads": (0, 1, 0, 1), "dilations": (1, 1)}
        return b(ops.Add, b(ops.Depthwise, y, b.constant(weights), **geometry), inner)

    size = expr.sym(width) if isinstance(width, str) else width
    module = lower(graph(build, [tensor(f32, *shape(n, (2, 4))) for n in (size, size + 5)]))
    for w in (17, 40) if isinstance(width, str) else (width,):
        x, y = (random(*shape(n, (2, 4))) for n in (w, w + 5))
        want = interpret(graph(build, types_of([x, y])), x, y)
        for got, expected in zip(run_kernels(module, x, y), want, strict=True):
            assert close(got, expected, 3e-6)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("width", [17, "W"])
def test_long_rows_of_windows_are_walked_in_pieces(dims, stride, width):
    """With a small cache: of 8 pixels."""
    machine = Machine("small", l1=1024)
    geometry = {"strides": (stride,) * dims, "pads": (1,) * 2 * dims, "dilations": (1,) * dims}

    def build(b, x):
        kernel = {"kernel": (3,) * dims, "channels_last": True}
        pooled = b(ops.MaxPool, x, **geometry, **kernel)
        return [pooled, b(ops.Depthwise, x, b.constant(weights), **geometry)]

    weights = random(*(3,) * dims, 4)
    size = expr.sym(width) if isinstance(width, str) else width
    module = lower(graph(build, [tensor(f32, 2, *(2,) * (dims - 1), size, 4)]), machine)
    for w in (17, 40) if isinstance(width, str) else (width,):
        x = random(2, *(2,) * (dims - 1), w, 4)
        want = interpret(graph(build, types_of([x])), x)
        for got, expected in zip(run_kernels(module, x), want, strict=True):
            assert close(got, expected, 3e-6)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
def test_windows_of_a_free_width(kernel, stride):
    """The parts of a row follow from its width at run time; only the middle has no guards."""
    n, w = expr.sym("N"), expr.sym("W")
    weights = random(kernel, kernel, 4)

    def build(b, x):
        geometry = {"strides": (stride,) * 2, "pads": (kernel // 2,) * 4, "dilations": (1, 1)}
        return b(ops.Relu, b(ops.Depthwise, x, b.constant(weights), **geometry))

    module = lower(graph(build, [tensor(f32, n, 3, w, 4)]))
    for width in (1, 2, 3, 4, 11):
        x = random(2, 3, width, 4)
        want = interpret(graph(build, types_of([x])), x)
        assert close(run_kernels(module, x)[0], want[0], 3e-6)


def test_groups_that_differ_in_their_expressions_share_a_kernel():
    h = expr.sym("H")

    def build(b, x, y):
        return [b(ops.Relu, x), b(ops.Relu, y)]

    types = [tensor(f32, (h + 1) // 2, 4), tensor(f32, h, 4)]
    module = lower(graph(build, types))
    assert len([f for f in module.functions.values() if f.level == "kernel"]) == 1
    launches = [o for o in module.main.body.ops if isinstance(o, ops.Launch)]
    assert [o.sizes for o in launches] == [((h + 1) // 2,), (h,)]
