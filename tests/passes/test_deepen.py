"""Convolutions of stride 2 on deeper images: the same convolution, where it is chosen, accuracy."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import graph
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from native import NativeProgram
from rewriting import check_pass, find

from pjit.backends.llvm.target import machine
from pjit.ir import ops, sym, tensor
from pjit.ir.core import Module
from pjit.ir.target import Machine
from pjit.ir.types import f32, f64
from pjit.passes import layout
from pjit.passes.context import Context
from pjit.passes.deepen import Deep
from pjit.passes.layout import Layout
from pjit.passes.manager import run_pipeline
from pjit.passes.pipelines import GRAPH, KERNEL

WIDE = Machine("wide", vector_bits=512, vector_registers=32)
HOST = machine("host")
rng = np.random.default_rng(0)


def weight(x: tuple, out: int, kernel: tuple, groups: int = 1) -> np.ndarray:
    return rng.standard_normal((out, x[1] // groups, *kernel)).astype(np.float32)


def net(x: tuple, w: np.ndarray, pads: tuple, *, dtype=f32, **attrs) -> Module:
    attrs = {"strides": (2, 2), "dilations": (1, 1), "groups": 1, "pads": pads} | attrs

    def build(b, v):
        y = b(ops.Conv, v, b.constant(w, dtype.numpy), **attrs)
        return b(ops.Relu, b(ops.Add, y, b.constant([0.5], dtype.numpy)))

    return graph(build, [tensor(dtype, *x)])


def chosen(m: Module) -> list[tuple]:
    """Tiles and taps of the convolutions by Winograd's method with stride 1."""
    Layout().run(m, Context(WIDE))
    found = find(m, "nn.winograd_output")
    return [(op.sizes, op.taps) for op in found if op.strides == (1, 1)]


@pytest.mark.parametrize("count", [1, 8, sym("N")])
@pytest.mark.parametrize("pads", [(3, 3, 3, 3), (2, 2, 3, 3), (0, 0, 5, 5)])
def test_where_it_pays(count, pads: tuple) -> None:
    x = (count, 3, 224, 224)
    assert chosen(net(x, weight(x, 64, (7, 7)), pads)) == [((3, 3), (4, 4))]


@pytest.mark.parametrize(
    ("x", "out", "kernel", "attrs"),
    [
        ((1, 3, 224, 224), 32, (3, 3), {}),
        ((1, 3, 223, 224), 64, (7, 7), {}),
        ((1, 3, sym("H"), 224), 64, (7, 7), {}),
        ((1, 3, 224, 224), 64, (7, 7), {"strides": (3, 3)}),
        ((1, 3, 224, 224), 64, (7, 7), {"strides": (2, 1)}),
        ((1, 3, 224, 224), 64, (7, 7), {"dilations": (2, 2)}),
        ((1, 3, 224, 224), 63, (7, 7), {"groups": 3}),
        ((1, 3, 224, 224), 64, (7, 7), {"dtype": f64}),
        ((1, 32, 112, 112), 64, (7, 7), {}),
    ],
    ids=[
        *("few taps", "odd side", "free side", "stride 3", "two strides", "dilated", "groups"),
        *("f64", "many channels"),
    ],
)
def test_where_it_is_not_used(x: tuple, out: int, kernel: tuple, attrs: dict) -> None:
    pads = tuple(k // 2 for k in kernel) * 2
    w = weight(x, out, kernel, attrs.get("groups", 1))
    assert not chosen(net(x, w, pads, **attrs))


@pytest.mark.parametrize(
    ("kernel", "pads", "deep"),
    [
        ((7, 7), (3, 3, 3, 3), Deep((4, 4), (1, 1), (2, 2, 1, 1))),
        ((3, 4), (0, 1, 1, 0), Deep((2, 3), (0, 1), (0, 1, 1, 0))),
        ((1, 1), (0, 0, 0, 0), Deep((1, 1), (0, 0), (0, 0, 0, 0))),
        ((5, 5), (0, 0, 0, 0), Deep((3, 3), (0, 0), (0, 0, 0, 0))),
        ((2, 2), (0, 0, 0, 0), Deep((1, 1), (0, 0), (0, 0, 0, 0))),
    ],
)
def test_taps_and_pads(kernel: tuple, pads: tuple, deep: Deep) -> None:
    x = (1, 3, 40, 40)
    (conv,) = find(net(x, weight(x, 8, kernel), pads), "nn.conv")
    assert Deep.of(conv) == deep


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(4, 12), st.integers(4, 12)),
    st.tuples(st.integers(2, 7), st.integers(2, 7)),
    st.tuples(*[st.integers(0, 5)] * 4),
    st.sampled_from([2, 3]),
)
def test_the_same_convolution(x: tuple, kernel: tuple, pads: tuple, size: int) -> None:
    n, c, *half = x
    shape = (n, c, 2 * half[0], 2 * half[1])
    m = net(shape, weight(shape, 5, kernel), pads)
    (conv,) = find(m, "nn.conv")
    deep = Deep.of(conv)
    assume(deep is not None and min(deep.taps) > 1)
    tile = tuple(min(size, 7 - taps) for taps in deep.taps)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "winograd_tile", lambda s, *_: tile if s.strides == (1, 1) else None)
        check_pass(m, Layout().run, Context(WIDE))
    (made,) = find(m, "nn.winograd_output")
    assert (made.taps, made.strides) == (deep.taps, (1, 1))


def test_values_and_errors() -> None:
    shape, pads = (1, 3, 64, 96), (3, 3, 3, 3)
    w = weight(shape, 64, (7, 7))
    x = rng.standard_normal(shape).astype(np.float32)
    attrs = {"strides": (2, 2), "dilations": (1, 1), "groups": 1, "pads": pads}
    exact = ops.Conv.ref(x.astype(np.float64), w.astype(np.float64), **attrs)
    exact = np.maximum(exact + 0.5, 0)
    errors = []
    for tile in (None, (3, 3)):
        m = net(shape, w, pads)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                layout, "winograd_tile", lambda s, *_, t=tile: t if s.strides == (1, 1) else None
            )
            patch.setattr(layout, "rows_of", lambda *_: None)
            run_pipeline(m, [*GRAPH, *KERNEL], Context(HOST))
        assert any("winograd" in op.kernel for op in find(m, "launch")) == (tile is not None)
        one, two = (NativeProgram(m, HOST)(x, threads=t)[0] for t in (1, 2))
        assert one.tobytes() == two.tobytes()
        errors.append(one - exact)
    direct, ours = errors
    assert np.sqrt((ours**2).mean()) <= 4 * np.sqrt((direct**2).mean())
    assert np.abs(ours).max() <= 4 * np.abs(direct).max()
