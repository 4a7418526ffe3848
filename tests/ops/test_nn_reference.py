"""The references of the neural-network operators against ONNX Runtime."""

from __future__ import annotations

import itertools

import numpy as np
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from pjit.ir.builder import Builder
from pjit.ir.core import Block, Function, Loc, Module
from pjit.ir.errors import ConstraintError
from pjit.ir.interp import interpret
from pjit.ir.ops.basic import Return
from pjit.ir.ops.conv_transpose import ConvTranspose
from pjit.ir.ops.linalg import Matmul
from pjit.ir.ops.nn import Conv, ConvPacked, Depthwise, PackWeights
from pjit.ir.ops.norm import BatchNorm, LayerNorm, LogSoftmax, Softmax
from pjit.ir.ops.pool import AvgPool, MaxPool
from pjit.ir.ops.resize import Resize
from pjit.ir.types import type_of
from pjit.ir.verify import verify

OPSET = 19


def peer(op: str, arrays: list[np.ndarray | None], **attrs) -> np.ndarray:
    """The result of one ONNX node; operands after the first are constants, None is absent."""
    names = ["" if a is None else f"x{i}" for i, a in enumerate(arrays)]
    node = helper.make_node(op, names, ["y"], **attrs)
    dt = helper.np_dtype_to_tensor_dtype(arrays[0].dtype)
    constants = [
        numpy_helper.from_array(a, n)
        for a, n in zip(arrays[1:], names[1:], strict=True)
        if a is not None
    ]
    graph = helper.make_graph(
        [node],
        op,
        [helper.make_tensor_value_info("x0", dt, arrays[0].shape)],
        [helper.make_tensor_value_info("y", dt, None)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x0": arrays[0]})[0]


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).uniform(-2, 2, shape).astype(np.float32)


def agree(got: np.ndarray, expected: np.ndarray, tolerance: float = 3e-6) -> None:
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    bound = tolerance * max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(got, expected, rtol=0, atol=bound)


def windows(kernel, strides=None, pads=None, dilations=None) -> dict:
    n = len(kernel)
    return {
        "strides": tuple(strides or (1,) * n),
        "pads": tuple(pads or (0,) * 2 * n),
        "dilations": tuple(dilations or (1,) * n),
    }


CONVS = [
    ((2, 3, 8, 9), (4, 3, 3, 3), windows((3, 3), pads=(1, 1, 1, 1)), 1),
    ((1, 4, 9, 7), (6, 2, 3, 2), windows((3, 2), (2, 3), (0, 1, 2, 1), (2, 1)), 2),
    ((3, 6, 7, 7), (6, 1, 3, 3), windows((3, 3), (2, 2), (1, 1, 1, 1)), 6),
    ((2, 5, 6, 5), (7, 5, 1, 1), windows((1, 1)), 1),
    ((2, 3, 17), (5, 3, 4), windows((4,), (2,), (2, 1), (3,)), 1),
    ((1, 2, 5, 6, 4), (3, 2, 2, 3, 1), windows((2, 3, 1), (1, 2, 1), (1, 0, 0, 0, 2, 1)), 1),
]


@pytest.mark.parametrize(("x", "w", "geometry", "groups"), CONVS)
def test_conv(x, w, geometry, groups):
    a, b = draw(*x), draw(*w, seed=1)
    expected = peer("Conv", [a, b], group=groups, **geometry)
    agree(Conv.ref(a, b, groups=groups, **geometry), expected)
    assert Conv.infer(type_of(a), type_of(b), groups=groups, **geometry).shape == expected.shape


@pytest.mark.parametrize(("x", "w", "geometry", "groups"), CONVS)
@pytest.mark.parametrize("nr", [4, 16])
def test_packed_conv_is_conv(x, w, geometry, groups, nr):
    a, b = draw(*x), draw(*w, seed=1)
    packed = PackWeights.ref(b, groups=groups, nr=nr)
    attrs = {"kernel": w[2:], "groups": groups, "out_channels": w[0], **geometry}
    last = np.ascontiguousarray(np.moveaxis(a, 1, -1))
    y = ConvPacked.ref(last, packed, **attrs)
    agree(np.moveaxis(y, -1, 1), Conv.ref(a, b, groups=groups, **geometry))
    assert ConvPacked.infer(type_of(last), type_of(packed), **attrs) == type_of(y)


def test_depthwise():
    x, w = draw(2, 6, 9, 8), draw(6, 1, 3, 2, seed=1)
    geometry = windows((3, 2), (2, 1), (1, 0, 2, 1), (1, 2))
    last = np.moveaxis(x, 1, -1)
    y = Depthwise.ref(last, np.ascontiguousarray(w[:, 0].transpose(1, 2, 0)), **geometry)
    agree(np.moveaxis(y, -1, 1), peer("Conv", [x, w], group=6, **geometry))


TRANSPOSED = [
    ((2, 3, 5, 4), (3, 4, 3, 3), windows((3, 3), (2, 2), (1, 1, 1, 1)), 1, (1, 1)),
    ((1, 4, 4, 5), (4, 3, 2, 4), windows((2, 4), (3, 2), (0, 1, 0, 2)), 2, (2, 0)),
    ((1, 6, 3, 3), (6, 1, 4, 4), windows((4, 4), (2, 2), (1, 1, 1, 1)), 6, (0, 0)),
    ((1, 2, 5, 4), (2, 3, 3, 2), windows((3, 2), (2, 1), (1, 0, 0, 1), (2, 3)), 1, (1, 0)),
    ((2, 2, 6), (2, 3, 4), windows((4,)), 1, (0,)),
    (
        (1, 2, 3, 2, 4),
        (2, 2, 2, 3, 1),
        windows((2, 3, 1), (2, 1, 2), (0, 1, 0, 0, 0, 0)),
        1,
        (0, 0, 1),
    ),
]


@pytest.mark.parametrize(("x", "w", "geometry", "groups", "extra"), TRANSPOSED)
def test_conv_transpose(x, w, geometry, groups, extra):
    a, b = draw(*x), draw(*w, seed=1)
    expected = peer("ConvTranspose", [a, b], group=groups, output_padding=extra, **geometry)
    attrs = {"groups": groups, "output_padding": extra, **geometry}
    agree(ConvTranspose.ref(a, b, **attrs), expected)
    assert ConvTranspose.infer(type_of(a), type_of(b), **attrs).shape == expected.shape


@pytest.mark.parametrize("seed", range(60))
def test_conv_transpose_is_its_decomposition(seed):
    rng = np.random.default_rng(seed)
    rank, groups, channels = (int(v) for v in rng.integers(1, 4, 3))
    spatial, kernel, strides, dilations = (tuple(rng.integers(1, 5, rank).tolist()) for _ in "1234")
    sizes = zip(spatial, strides, dilations, kernel, strict=True)
    whole = [(h - 1) * s + d * (k - 1) + 1 for h, s, d, k in sizes]
    pads = tuple(int(rng.integers(0, (n + 1) // 2)) for n in whole * 2)
    attrs = {
        **windows(kernel, strides, pads, dilations),
        "groups": groups,
        "output_padding": tuple(rng.integers(0, 3, rank).tolist()),
    }
    x = draw(2, groups * channels, *spatial)
    w = draw(groups * channels, int(rng.integers(1, 4)), *kernel, seed=1)
    expected = ConvTranspose.ref(x, w, **attrs)
    module = Module()
    block = Block([type_of(x), type_of(w)])
    b = Builder(block, Loc("test"), module)
    y = ConvTranspose.decompose(b, *block.args, **attrs)
    b(Return, y)
    module.add(Function("main", block))
    verify(module)
    agree(interpret(module, x, w)[0], expected)


POOLS = [
    ((2, 3, 8, 9), (3, 3), windows((3, 3), (2, 2), (1, 1, 1, 1))),
    ((1, 2, 9, 7), (3, 2), windows((3, 2), (2, 3), (1, 0, 2, 1))),
    ((1, 2, 9, 10), (3, 2), windows((3, 2), (2, 1), (1, 0, 1, 1), (2, 3))),
    ((3, 2, 7, 6), (2, 3), windows((2, 3), (2, 2))),
    ((1, 2, 5, 6), (3, 3), windows((3, 3), (3, 3), (1, 1, 1, 1))),
    ((1, 1, 6, 6), (2, 2), windows((2, 2), (3, 3), (1, 1, 0, 0))),
    ((2, 3, 11), (3,), windows((3,), (2,), (0, 1))),
    ((1, 2, 4, 5, 6), (2, 3, 1), windows((2, 3, 1), (1, 2, 2), (1, 0, 0, 0, 2, 0))),
]


@pytest.mark.parametrize(("x", "kernel", "geometry"), POOLS)
@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_max_pool(x, kernel, geometry, ceil, channels_last):
    a = draw(*x)
    expected = peer("MaxPool", [a], kernel_shape=kernel, ceil_mode=int(ceil), **geometry)
    attrs = {"kernel": kernel, "ceil": ceil, "channels_last": channels_last, **geometry}
    given = np.moveaxis(a, 1, -1) if channels_last else a
    y = MaxPool.ref(given, **attrs)
    assert MaxPool.infer(type_of(given), **attrs) == type_of(y)
    agree(np.moveaxis(y, -1, 1) if channels_last else y, expected)


@pytest.mark.parametrize(("x", "kernel", "geometry"), POOLS)
@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("count_include_pad", [False, True])
def test_avg_pool(x, kernel, geometry, ceil, count_include_pad):
    a = draw(*x)
    expected = peer(
        "AveragePool",
        [a],
        kernel_shape=kernel,
        ceil_mode=int(ceil),
        count_include_pad=int(count_include_pad),
        **geometry,
    )
    attrs = {"kernel": kernel, "ceil": ceil, "count_include_pad": count_include_pad, **geometry}
    y = AvgPool.ref(a, channels_last=False, **attrs)
    agree(y, expected)
    last = AvgPool.ref(np.moveaxis(a, 1, -1), channels_last=True, **attrs)
    agree(np.moveaxis(last, -1, 1), expected)


RESIZES = [
    *itertools.product(
        ["nearest"],
        ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"],
        ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"],
    ),
    *itertools.product(
        ["linear", "cubic"],
        ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"],
        ["floor"],
    ),
]
SIZES = [(4, 8), (7, 9), (2, 3), (1, 1), (8, 2), (4, 5)]


def resize_attrs(mode, coordinates, nearest, **more) -> dict:
    base = {"scales": (), "cubic_a": -0.75, "exclude_outside": False}
    return {**base, "mode": mode, "coordinates": coordinates, "nearest": nearest, **more}


def resize_peer(x, mode, coordinates, nearest, sizes=None, scales=None, **more) -> np.ndarray:
    return peer(
        "Resize",
        [
            x,
            None,
            None if scales is None else np.array(scales, np.float32),
            *([] if sizes is None else [np.array(sizes, np.int64)]),
        ],
        mode=mode,
        coordinate_transformation_mode=coordinates,
        **({"nearest_mode": nearest} if mode == "nearest" else {}),
        **more,
    )


@pytest.mark.parametrize(("mode", "coordinates", "nearest"), RESIZES)
@pytest.mark.parametrize("size", SIZES)
def test_resize_to_sizes(mode, coordinates, nearest, size):
    x = draw(1, 2, 4, 5)
    expected = resize_peer(x, mode, coordinates, nearest, sizes=(1, 2, *size))
    y = Resize.ref(x, shape=(1, 2, *size), **resize_attrs(mode, coordinates, nearest))
    agree(y, expected)


@pytest.mark.parametrize(("mode", "coordinates", "nearest"), RESIZES)
@pytest.mark.parametrize("scale", [(2.0, 3.0), (1.6, 0.8), (0.5, 0.4), (1.2, 1.0)])
def test_resize_by_scales(mode, coordinates, nearest, scale):
    x = draw(1, 1, 6, 5)
    scales = (1.0, 1.0, *scale)
    expected = resize_peer(x, mode, coordinates, nearest, scales=scales)
    attrs = resize_attrs(mode, coordinates, nearest, scales=scales)
    agree(Resize.ref(x, shape=expected.shape, **attrs), expected)


def test_resize_cubic_options():
    x = draw(1, 1, 5, 6)
    scales = (1.0, 1.0, 1.7, 0.7)
    more = {"cubic_coeff_a": -0.5, "exclude_outside": 1}
    expected = resize_peer(x, "cubic", "half_pixel", "floor", scales=scales, **more)
    attrs = resize_attrs(
        "cubic", "half_pixel", "floor", scales=scales, cubic_a=-0.5, exclude_outside=True
    )
    agree(Resize.ref(x, shape=expected.shape, **attrs), expected)


def test_resize_follows_the_specification():
    """Worked examples of the ONNX operator page."""
    x = np.arange(1, 17, dtype=np.float32).reshape(1, 1, 4, 4)
    attrs = resize_attrs("linear", "half_pixel", "floor", scales=(1, 1, 0.6, 0.6))
    expected = np.array([[2.6666665, 4.3333331], [9.333333, 11.0]], np.float32)
    agree(Resize.ref(x[:, :, :2], shape=(1, 1, 1, 2), **attrs)[0, 0], expected[:1])
    x = np.array([[[[1, 2], [3, 4]]]], np.float32)
    attrs = resize_attrs("linear", "align_corners", "floor", scales=(1, 1, 2, 2))
    row = np.array([1, 4 / 3, 5 / 3, 2], np.float32)
    expected = np.stack([row, row + 2 / 3, row + 4 / 3, row + 2]).astype(np.float32)
    agree(Resize.ref(x, shape=(1, 1, 4, 4), **attrs)[0, 0], expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("biased", [False, True])
def test_layer_norm(axis, biased):
    x = draw(3, 4, 5)
    scale, bias = draw(*x.shape[axis:], seed=1), draw(*x.shape[axis:], seed=2)
    operands = [scale, bias] if biased else [scale]
    expected = peer("LayerNormalization", [x, *operands], axis=axis, epsilon=1e-3)
    agree(LayerNorm.ref(x, *operands, axis=axis, epsilon=1e-3), expected)


def test_batch_norm():
    x = draw(2, 3, 4, 5)
    scale, bias, mean = (draw(3, seed=s) for s in (1, 2, 3))
    var = np.abs(draw(3, seed=4)) + 0.1
    operands = [scale, bias, mean, var.astype(np.float32)]
    expected = peer("BatchNormalization", [x, *operands], epsilon=1e-3)
    agree(BatchNorm.ref(x, *operands, epsilon=1e-3), expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_softmax(axis):
    x = draw(3, 4, 5) * 20
    agree(Softmax.ref(x, axis=axis), peer("Softmax", [x], axis=axis))
    agree(LogSoftmax.ref(x, axis=axis), peer("LogSoftmax", [x], axis=axis))


@pytest.mark.parametrize(
    ("a", "b"), [((3, 4), (4, 5)), ((2, 1, 3, 4), (5, 4, 2)), ((4,), (2, 4, 3)), ((3, 4), (4,))]
)
def test_matmul(a, b):
    x, y = draw(*a), draw(*b, seed=1)
    expected = peer("MatMul", [x, y])
    agree(Matmul.ref(x, y), expected)
    assert Matmul.infer(type_of(x), type_of(y)).shape == expected.shape


@pytest.mark.parametrize(
    ("x", "w", "changes", "number"),
    [
        ((1, 3, 8, 8), (4, 2, 3, 3), {}, "C5"),
        ((1, 3, 8), (4, 3, 3, 3), {}, "C2"),
        ((1, 3, 2, 8), (4, 3, 3, 3), {}, "C6"),
        ((1, 3, 8, 8), (4, 3, 3, 3), {"groups": 3}, "C4"),
        ((1, 3, 8, 8), (4, 3, 3, 3), {"strides": (1,)}, "C3"),
        ((1, 3, 8, 8), (4, 3, 3, 3), {"pads": (0, 0, -1, 0)}, "C3"),
    ],
)
def test_conv_constraints(x, w, changes, number):
    attrs = {**windows((3, 3)), "groups": 1, **changes}
    with pytest.raises(ConstraintError, match=number):
        Conv.infer(type_of(draw(*x)), type_of(draw(*w)), **attrs)


def test_half_precision_is_summed_in_single():
    x = draw(1, 64, 5, 5).astype(np.float16)
    w = draw(8, 64, 3, 3, seed=1).astype(np.float16)
    geometry = windows((3, 3))
    exact = Conv.ref(x.astype(np.float64), w.astype(np.float64), groups=1, **geometry)
    y = Conv.ref(x, w, groups=1, **geometry)
    assert y.dtype == np.float16
    np.testing.assert_allclose(
        y.astype(np.float64), exact, rtol=1e-3, atol=2e-4 * np.abs(exact).max()
    )
