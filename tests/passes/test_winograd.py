"""Winograd convolutions: where they are chosen, how they fuse, how accurate they are."""

from dataclasses import replace
from math import inf

import numpy as np
import pytest
from graphs import close, graph, lower, run_kernels
from native import NativeProgram
from rewriting import check_pass, find

from pjit.backends.llvm.target import machine
from pjit.ir import interpret, ops, sym, tensor
from pjit.ir.ops.fused import Fused
from pjit.ir.ops.winograd_tiles import Tiling
from pjit.ir.target import Machine
from pjit.ir.types import f32, f64, i64
from pjit.passes import cost, layout, schedule
from pjit.passes.context import Context
from pjit.passes.cost import (
    WINOGRAD_TILES,
    Image,
    winograd_block,
    winograd_cycles,
    winograd_grid,
    winograd_tile,
)
from pjit.passes.fuse import Fuse
from pjit.passes.layout import Layout
from pjit.passes.manager import run_pipeline
from pjit.passes.pipelines import GRAPH, KERNEL
from pjit.passes.predict import _tiles
from pjit.passes.snapshot import clone

WIDE = Machine("wide", vector_bits=512, vector_registers=32)
CHANNELS = 128
RESNET = [(56, 64), (28, 128), (14, 256)]  # height and width, channels
rng = np.random.default_rng(0)


def conv(b, x, w, stride=1, dilation=1, groups=1, pad=1):
    attrs = {"strides": (stride,) * 2, "pads": (pad,) * 4, "dilations": (dilation,) * 2}
    return b(ops.Conv, x, w, groups=groups, **attrs)


def weight(b, out, channels, dtype=np.float32, kernel=3):
    return b.constant(rng.standard_normal((out, channels, kernel, kernel)), dtype, "w")


def large(*, dtype=f32, batch=1, size=28):
    return tensor(dtype, batch, CHANNELS, size, size)


def sizes(m):
    """The tile sizes of the convolutions that go by tiles."""
    return [op.attrs["sizes"] for op in find(m, "nn.winograd_output")]


def laid_out(build, *types):
    m = graph(build, types)
    Layout().run(m, Context(WIDE))
    return m


@pytest.mark.parametrize("pad", [0, 1])
@pytest.mark.parametrize("stride", [1, 2])
def test_large_convolution_goes_by_tiles(pad, stride):
    m = graph(
        lambda b, x: conv(b, x, weight(b, 128, CHANNELS), stride, pad=pad),
        [large(size=32 * stride)],
    )
    check_pass(m, Layout().run, Context(WIDE))
    assert sizes(m) == [(4, 4)]
    assert not find(m, "nn.conv_packed")


@pytest.mark.parametrize(
    "build",
    [
        lambda b, x: conv(b, x, weight(b, 128, CHANNELS), stride=3),
        lambda b, x: conv(b, x, weight(b, 128, CHANNELS), dilation=2),
        lambda b, x: conv(b, x, weight(b, 128, CHANNELS // 2), groups=2),
        lambda b, x: conv(b, x, weight(b, 128, CHANNELS, kernel=7)),
    ],
    ids=["stride 3", "dilated", "grouped", "other kernel"],
)
def test_other_convolutions_stay_direct(build):
    m = laid_out(build, large())
    assert find(m, "nn.conv_packed")
    assert not sizes(m)


@pytest.mark.parametrize("shape", [(16, 4, 4), (3, 224, 224)], ids=["small", "few channels"])
def test_where_transforms_cost_more_than_they_save(shape):
    m = laid_out(lambda b, x: conv(b, x, weight(b, 32, shape[0])), tensor(f32, 1, *shape))
    assert not sizes(m)


def test_dynamic_weights_and_f64_stay_direct():
    kernel = tensor(f32, 128, CHANNELS, 3, 3)
    assert not sizes(laid_out(lambda b, x, w: conv(b, x, w), large(), kernel))
    m = laid_out(lambda b, x: conv(b, x, weight(b, 128, CHANNELS, np.float64)), large(dtype=f64))
    assert not sizes(m)


def test_none_where_products_are_to_be_direct():
    def build(b, x):
        return conv(b, x, weight(b, 128, CHANNELS))

    assert sizes(laid_out(build, large()))
    m = graph(build, [large()])
    Layout().run(m, Context(replace(WIDE, direct=True)))
    assert not sizes(m)


def test_weights_from_memory_favour_smaller_tiles():
    """With few tiles the weights decide: those of size 4 are more than twice as large."""
    few = Image(1, 7, 7, 512, 512)
    slow = Machine("slow", weights_bytes_per_cycle=4.0)
    assert winograd_cycles(few, (2, 2), slow) < winograd_cycles(few, (4, 4), slow)
    many = Image(16, 7, 7, 512, 512)
    assert winograd_cycles(many, (4, 4), slow) < winograd_cycles(many, (2, 2), slow)


@pytest.mark.parametrize(
    ("extent", "short", "products"), [(14, 2, 22**2), (13, 3, 21**2), (16, 0, 24**2), (5, 0, 12**2)]
)
def test_tiles_that_do_not_divide_an_image_make_one_output_less(extent, short, products):
    """Tiles of 4+4+3+3 outputs take fewer products than of 4+4+4+2 with 6 points each; where more
    is left over than there are tiles they all have 6.
    """
    grid = winograd_grid(Image(3, extent, extent, 8, 8), (4, 4))
    assert grid.short == (short, short)
    assert grid.rows == sum(i.rows * i.count for i in grid.items()) == 3 * products


def images(n):
    """A convolution of 10x10 pixels: with tiles of four outputs these are of 4+3+3."""
    return graph(lambda b, x: conv(b, x, weight(b, 3, 2)), [tensor(f32, n, 2, 10, 10)])


def ragged(monkeypatch, m):
    """Lowers it by such tiles; the launch of the products."""
    monkeypatch.setattr(layout, "winograd_tile", lambda *_: (4, 4))
    run_pipeline(m, [*GRAPH, *KERNEL], Context(WIDE))
    (launch,) = (o for o in find(m, "launch") if "fewer" in dict(o.attrs["schedule"]))
    return launch


def test_operations_and_time_of_products_with_different_numbers_of_rows(monkeypatch):
    launch = ragged(monkeypatch, images(5))
    grid = winograd_grid(Image(5, 10, 10, 2, 3), (4, 4))
    assert grid.short == (2, 2)
    assert launch.attrs["flops"] == 2 * grid.rows * 2 * 3
    choices, times = dict(launch.attrs["schedule"]), []
    for more in ({}, {"batch.0": 40}, {"batch.1": 30}):
        sizes = dict(launch.attrs["problem"]) | more
        times.append(_tiles(sizes, choices, 0, WIDE))
    assert times[0] < min(times[1:])


def test_few_rows_of_a_free_batch_are_made_once(monkeypatch):
    """Other items of the batch have more parts; the interpreter refuses tiles behind the rows."""
    monkeypatch.setattr(schedule, "few_rows", lambda *_: 1)
    monkeypatch.setattr(schedule, "tile_rows", lambda *_: (0.0, -2))
    m = images(sym("N"))
    kept = clone(m)
    launch = ragged(monkeypatch, m)
    assert dict(launch.attrs["schedule"])["few"] == 1
    image = rng.standard_normal((1, 2, 10, 10)).astype(np.float32)
    assert close(run_kernels(m, image)[0], interpret(kept, image)[0], 1e-5)


def residual(b, rows):
    """relu(conv(x) + bias + x), channels-last."""
    x = b(ops.Transpose, rows, perm=(0, 3, 1, 2))
    bias = b.constant(rng.standard_normal((CHANNELS, 1, 1)), np.float32, "bias")
    y = b(ops.Add, conv(b, x, weight(b, CHANNELS, CHANNELS)), bias)
    y = b(ops.Relu, b(ops.Add, y, x))
    return b(ops.Transpose, y, perm=(0, 2, 3, 1))


def test_weights_fold_and_the_epilogue_joins_the_output():
    m = graph(residual, [tensor(f32, 1, 28, 28, CHANNELS)])
    run_pipeline(m, [*GRAPH, Fuse()], Context(WIDE))
    groups = [o for o in m.main.body.ops if isinstance(o, Fused)]
    assert [(g.kind, [o.op_name for o in g.body.ops if not o.terminator]) for g in groups] == [
        ("line", ["nn.winograd_input"]),
        ("tile", ["nn.winograd_product"]),
        ("line", ["nn.winograd_output", "add", "add", "relu"]),
    ]


@pytest.mark.parametrize("channels", [32, CHANNELS], ids=["in memory", "in blocks"])
def test_a_free_image(channels):
    """One compilation serves all sizes of images."""

    def build(b, rows):
        y = conv(b, b(ops.Transpose, rows, perm=(0, 3, 1, 2)), weight(b, channels, channels))
        return b(ops.Transpose, b(ops.Relu, y), perm=(0, 2, 3, 1))

    m = graph(build, [tensor(f32, sym("N"), sym("H"), sym("W"), channels)])
    kept = clone(m)
    run_pipeline(m, [*GRAPH, *KERNEL], Context(machine("host")))
    assert any("winograd" in o.kernel for o in find(m, "launch"))
    program = NativeProgram(m, machine("host"))
    for shape in ((1, 1, 1), (2, 3, 4), (1, 30, 17), (1, 9, 64)):
        x = rng.standard_normal((*shape, channels)).astype(np.float32)
        (want,) = interpret(kept, x)
        one, two = (program(x, threads=t)[0] for t in (1, 2))
        assert close(one, want, 1e-5)
        assert np.array_equal(one, two)


@pytest.mark.parametrize("extent", [28, 112])
def test_a_free_batch(extent):
    """One compilation serves all batches, with the tensors between in memory or in blocks."""
    m = graph(residual, [tensor(f32, sym("N"), extent, extent, CHANNELS)])
    kept = clone(m)
    run_pipeline(m, [*GRAPH, *KERNEL], Context(machine("host")))
    assert any("winograd" in o.kernel for o in find(m, "launch"))
    program = NativeProgram(m, machine("host"))
    for n in (1, 3):
        x = rng.standard_normal((n, extent, extent, CHANNELS)).astype(np.float32)
        (want,) = interpret(kept, x)
        one, two = (program(x, threads=t)[0] for t in (1, 2))
        assert close(one, want, 1e-5)
        assert one.tobytes() == two.tobytes()


@pytest.mark.parametrize("extent", [28, 13])
def test_epilogue_at_the_border(extent):
    m = graph(residual, [tensor(f32, 2, extent, extent, CHANNELS)])
    x = rng.standard_normal((2, extent, extent, CHANNELS)).astype(np.float32)
    (want,) = interpret(m, x)
    run_pipeline(m, [*GRAPH, *KERNEL], Context(machine("host")))
    assert len(find(m, "launch")) == 3
    one, two = (NativeProgram(m, machine("host"))(x, threads=n)[0] for n in (1, 2))
    assert close(one, want, 1e-5)
    assert one.tobytes() == two.tobytes()


@pytest.mark.parametrize(
    ("shape", "size", "stride"),
    [
        ((2, 25, 26, 20), (4, 4), 1),
        ((1, 21, 13, 33), (2, 2), 1),
        ((1, 25, 17, 20), (4, 2), 1),
        ((2, 39, 48, 20), (4, 4), 2),
        ((1, 41, 26, 33), (2, 2), 2),
    ],
)
def test_blocks_of_tiles(monkeypatch, shape, size, stride):
    """Where the tensors between do not fit the cache, one kernel does all, a block at a time."""
    monkeypatch.setattr(layout, "winograd_tile", lambda *_: size)
    target = replace(machine("host"), l2=1 << 13, scratch=1 << 17)

    def build(b, rows):
        x = b(ops.Transpose, rows, perm=(0, 3, 1, 2))
        y = conv(b, x, weight(b, shape[3], shape[3]), stride)
        y = b(ops.Relu, b(ops.Add, y, x) if stride == 1 else y)
        return b(ops.Transpose, y, perm=(0, 2, 3, 1))

    m = graph(build, [tensor(f32, *shape)])
    x = rng.standard_normal(shape).astype(np.float32)
    (want,) = interpret(m, x)
    run_pipeline(m, [*GRAPH, *KERNEL], Context(target))
    (launch,) = find(m, "launch")
    schedule = dict(launch.schedule)
    assert schedule["kind"] == "winograd"
    tiles = shape[0] * -(-shape[1] // (size[0] * stride)) * -(-shape[2] // (size[1] * stride))
    assert tiles % schedule["block"], "the last block is smaller"
    one, two = (NativeProgram(m, target)(x, threads=n)[0] for n in (1, 2))
    assert close(one, want, 1e-5)
    assert one.tobytes() == two.tobytes()


def test_blocks_need_scratch_memory_and_enough_tiles():
    s = Image(1, 112, 112, 64, 64)
    assert 0 < winograd_block(s, (4, 4), WIDE) < 28 * 28 / 8
    assert winograd_block(s, (4, 4), replace(WIDE, scratch=0)) == 0
    assert winograd_block(Image(1, 14, 14, 256, 256), (4, 4), WIDE) == 0, "fits the cache"
    assert winograd_block(Image(2, 28, 28, 1024, 1024), (4, 4), WIDE) == 0, "weights are larger"
    blocked = winograd_cycles(s, (4, 4), WIDE)
    assert blocked < winograd_cycles(s, (4, 4), replace(WIDE, scratch=0))


def lowered(build, *types):
    return lower(graph(build, types))


def test_elementwise_operations_join_a_line():
    def build(b, x, y):
        return b(ops.Relu, b(ops.Mul, b(ops.Cumsum, x, axis=0), y))

    m = lowered(build, tensor(f32, 5, 7), tensor(f32, 7))
    assert len(find(m, "launch")) == 1
    x, y = rng.standard_normal((5, 7)).astype("f4"), rng.standard_normal(7).astype("f4")
    want = np.maximum(np.cumsum(x, 0) * y, 0).astype("f4")
    assert close(run_kernels(m, x, y)[0], want, 1e-6)
    assert close(NativeProgram(m, machine("host"))(x, y)[0], want, 1e-6)


@pytest.mark.parametrize("axis", [0, 1])
def test_moves_join_a_line(axis):
    def build(b, x):
        y = b(ops.Transpose, b(ops.Neg, b(ops.Cumsum, x, axis=axis)), perm=(1, 0, 2))
        return b(ops.Transpose, b(ops.Reshape, y, shape=(7, 5, 2, 10)), perm=(0, 2, 1, 3))

    m = lowered(build, tensor(f32, 5, 7, 20))
    assert len(find(m, "launch")) == 1
    x = rng.standard_normal((5, 7, 20)).astype("f4")
    y = -np.cumsum(x, axis, dtype="f4").transpose(1, 0, 2)
    want = y.reshape(7, 5, 2, 10).transpose(0, 2, 1, 3)
    assert close(run_kernels(m, x)[0], want, 1e-6)
    assert close(NativeProgram(m, machine("host"))(x)[0], want, 1e-6)


@pytest.mark.parametrize(("reduction", "launches"), [("none", 1), ("add", 2)])
def test_lines_that_read_back_stay_alone(reduction, launches):
    def build(b, x, i, u):
        return b(ops.Neg, b(ops.ScatterElements, x, i, u, axis=0, reduction=reduction))

    m = lowered(build, tensor(f32, 6), tensor(i64, 3), tensor(f32, 3))
    assert len(find(m, "launch")) == launches
    x, u = rng.standard_normal(6).astype("f4"), rng.standard_normal(3).astype("f4")
    i = np.array([4, 1, 4])
    want = -ops.ScatterElements.ref(x, i, u, axis=0, reduction=reduction)
    assert close(run_kernels(m, x, i, u)[0], want, 1e-6)


def error(monkeypatch, size, attrs, x, w, want):
    """Root mean square and largest error of a convolution with tiles of a size, None for direct."""
    monkeypatch.setattr(layout, "winograd_tile", lambda *_: size)
    monkeypatch.setattr(layout, "rows_of", lambda *_: None)
    m = graph(
        lambda b, v: b(ops.Conv, v, b.constant(w, f32, "w"), **attrs), [tensor(f32, *x.shape)]
    )
    run_pipeline(m, [*GRAPH, *KERNEL], Context(machine("host")))
    gap = NativeProgram(m, machine("host"))(x)[0] - want
    return np.sqrt(np.mean(gap**2)), np.abs(gap).max()


@pytest.mark.parametrize(("extent", "channels"), RESNET)
@pytest.mark.parametrize(
    ("taps", "strides"),
    [
        *(((3, 3), (1, 1)), ((3, 3), (2, 2)), ((2, 2), (1, 1)), ((4, 4), (1, 1))),
        *(((5, 5), (1, 1)), ((3, 5), (1, 2)), ((2, 3), (1, 1))),
    ],
)
def test_error_is_at_most_four_times_the_direct_one(monkeypatch, extent, channels, taps, strides):
    x = rng.standard_normal((1, channels, extent, extent)).astype(np.float32)
    w = rng.standard_normal((16, channels, *taps)).astype(np.float32)
    attrs = {"strides": strides, "pads": (1,) * 4, "dilations": (1, 1), "groups": 1}
    want = ops.Conv.ref(x.astype(np.float64), w.astype(np.float64), **attrs)
    direct = error(monkeypatch, None, attrs, x, w, want)
    sizes = [s for s in WINOGRAD_TILES if Tiling.of(s, taps, strides).valid]
    assert sizes
    for size in sizes:
        found = error(monkeypatch, size, attrs, x, w, want)
        assert all(f <= 4 * d for f, d in zip(found, direct, strict=True)), (size, found, direct)


@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (2, 1, 0, 2)])
@pytest.mark.parametrize(
    ("taps", "strides", "size"),
    [((3, 3), (1, 1), (4, 2)), ((3, 2), (2, 1), (3, 4)), ((5, 3), (1, 2), (2, 4))],
)
def test_windows_that_are_no_squares(monkeypatch, taps, strides, size, pads):
    attrs = {"strides": strides, "pads": pads, "dilations": (1, 1), "groups": 1}
    x = rng.standard_normal((2, 20, 15, 13)).astype(np.float32)
    w = rng.standard_normal((17, 20, *taps)).astype(np.float32)
    want = ops.Conv.ref(x.astype(np.float64), w.astype(np.float64), **attrs)
    assert error(monkeypatch, size, attrs, x, w, want)[1] < 1e-3


def test_more_weights_must_save_time(monkeypatch):
    few = Image(1, 7, 7, 512, 512)
    m = Machine("m", vector_bits=512, flops_per_cycle=32, weights_bytes_per_cycle=9.0)

    def points(seconds):
        monkeypatch.setattr(cost, "MEMORY_WORTH", seconds)
        tile = winograd_tile(few, inf, m)
        return Tiling.of(tile, (3, 3), (1, 1)).points

    assert points(0.0) > points(1e-10) == 4 * 4
    direct = 1.2 * winograd_cycles(few, (2, 2), m)
    monkeypatch.setattr(cost, "MEMORY_WORTH", 0.0)
    assert winograd_tile(few, direct, m)
    monkeypatch.setattr(cost, "MEMORY_WORTH", 1e-10)
    assert not winograd_tile(few, direct, m)


def test_small_images_take_tiles_that_are_no_squares():
    """7x7 outputs by tiles of 3x2: fewer products than by 2x2, fewer weights than by 4x4."""
    m = Machine("m", vector_bits=512, flops_per_cycle=32, weights_bytes_per_cycle=9.0)
    assert sorted(winograd_tile(Image(1, 7, 7, 512, 512), inf, m)) == [2, 3]
    assert winograd_tile(Image(1, 28, 28, 128, 128), inf, m) == (4, 4)
