"""Convolutions with few output channels: the rewriting is right, and chosen where it pays."""

import numpy as np
import pytest
from graphs import close, graph
from hypothesis import given, settings
from hypothesis import strategies as st
from native import NativeProgram
from rewriting import find

from pjit.backends.llvm.target import machine
from pjit.ir import interpret, ops, sym, tensor
from pjit.ir.target import Machine
from pjit.ir.types import f32
from pjit.passes import widen
from pjit.passes.context import Context
from pjit.passes.layout import Layout, convolution
from pjit.passes.manager import run_pipeline
from pjit.passes.pipelines import GRAPH, KERNEL
from pjit.passes.snapshot import clone

WIDE = Machine("wide", vector_bits=512, vector_registers=32)
rng = np.random.default_rng(0)


def convolved(x, out, kernel, strides=None, pads=None, dilations=None):
    """A module with one convolution of a constant weight."""
    n = len(kernel)
    weight = rng.standard_normal((out, x.shape[1], *kernel)).astype(np.float32)
    attrs = {"strides": strides or (1,) * n, "pads": pads or (0,) * (2 * n)}
    attrs["dilations"] = dilations or (1,) * n
    return graph(lambda b, v: b(ops.Conv, v, b.constant(weight), groups=1, **attrs), [x])


def chosen(module):
    (op,) = find(module, "nn.conv")
    return widen.positions(op, convolution(op), WIDE)


@pytest.mark.parametrize(
    ("x", "out", "kernel", "strides", "expected"),
    [
        ((1, 8, 174, 302), 8, (3, 39), (1, 1), (1, 4)),  # a long kernel: almost for nothing
        ((1, 1, 44098), 1, (256,), (2,), (32,)),
        ((1, 64, 56, 56), 64, (3, 3), (1, 1), (1, 1)),  # nothing to fill
        ((1, 64, 56, 56), 8, (1, 1), (1, 1), (1, 1)),  # nothing overlaps
    ],
)
def test_where_it_pays(x, out, kernel, strides, expected):
    assert chosen(convolved(tensor(f32, *x), out, kernel, strides)) == expected


def test_dilated_dimensions_stay():
    assert chosen(convolved(tensor(f32, 1, 1, 4000), 1, (64,), dilations=(2,))) == (1,)


def test_both_dimensions():
    r = chosen(convolved(tensor(f32, 1, 8, 180, 270), 1, (5, 5)))
    assert min(r) > 1


def test_a_grouped_convolution_stays():
    x, w = tensor(f32, 1, 4, 50, 50), rng.standard_normal((2, 2, 9, 9)).astype(np.float32)
    attrs = {"strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1), "groups": 2}
    assert chosen(graph(lambda b, v: b(ops.Conv, v, b.constant(w), **attrs), [x])) == (1, 1)


@settings(max_examples=60)
@given(data=st.data())
def test_the_same_convolution(data):
    """Any number of positions side by side gives the results of the convolution."""
    n = data.draw(st.integers(1, 3))
    few = st.integers(1, 3)

    def draw(strategy):
        return tuple(data.draw(strategy) for _ in range(n))

    kernel, strides, r = draw(st.integers(1, 4)), draw(few), draw(st.integers(1, 4))
    pads = draw(st.integers(0, 2)) + draw(st.integers(0, 2))
    room = [max(1, k - sum(pads[i::n])) for i, k in enumerate(kernel)]
    spatial = tuple(data.draw(st.integers(low, low + 8)) for low in room)
    x = tensor(f32, data.draw(few), data.draw(few), *spatial)
    module = convolved(x, data.draw(few), kernel, strides, pads)
    image = rng.standard_normal(x.shape).astype(np.float32)
    (expected,) = interpret(module, image)

    def wide(b, v):
        attrs = {"strides": strides, "pads": pads, "dilations": (1,) * n, "groups": 1}
        op = b(ops.Conv, v, b.constant(next(iter(module.constants.values()))), **attrs).owner
        y = widen.widened(op, b, r).results[0]
        last = b(ops.Transpose, y, perm=(0, *range(2, n + 2), 1))
        y = widen.separated(b, last, op, r)
        return b(ops.Transpose, y, perm=(0, n + 1, *range(1, n + 1)))

    (found,) = interpret(graph(wide, [x]), image)
    assert close(found, expected, 1e-5)


@pytest.mark.parametrize("pads", [(0, 0), (3, 5)])
def test_a_free_size(pads):
    """The number of positions need not be known, nor be a multiple of what is taken together."""
    module = convolved(tensor(f32, sym("n"), 2, sym("w")), 3, (40,), (2,), pads)
    before = clone(module)
    assert chosen(module) != (1,)
    target = machine("host")
    run_pipeline(module, [*GRAPH, *KERNEL], Context(target))
    program = NativeProgram(module, target)
    for n, w in ((1, 47), (3, 80), (2, 113)):
        x = rng.standard_normal((n, 2, w)).astype(np.float32)
        assert close(program(x)[0], interpret(before, x)[0], 1e-5)


def test_layout_widens():
    module = convolved(tensor(f32, 1, 8, 60, 80), 8, (3, 39))
    Layout().run(module, Context(WIDE))
    (packed,) = find(module, "nn.conv_packed")
    assert packed.attrs["out_channels"] in (16, 32)
