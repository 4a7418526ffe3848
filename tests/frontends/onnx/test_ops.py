"""Every ONNX operator that is imported, as a model of one node, against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_nodes import Case, check

pytest.importorskip("onnxruntime")

RNG = np.random.default_rng(7)


def f(*shape: int, low: float = -3.0, high: float = 3.0, dtype: str = "f4") -> np.ndarray:
    return RNG.uniform(low, high, shape).astype(dtype)


def ints(*shape: int, low: int = -5, high: int = 6, dtype: str = "i8") -> np.ndarray:
    return RNG.integers(low, high, shape).astype(dtype)


def bools(*shape: int) -> np.ndarray:
    return RNG.integers(0, 2, shape).astype(bool)


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def scalar(value: Any, dtype: str = "f4") -> np.ndarray:
    return np.array(value, dtype)


SPECIAL = f32(0.0, -0.0, 1.5, -2.5, np.nan, np.inf, -np.inf, 0.5, 2.5)
UNIT, POSITIVE = f(2, 3, low=-0.9, high=0.9), f(2, 3, low=0.1)

UNARY = [
    *(Case(op, (f(2, 3),)) for op in ("Abs", "Neg", "Exp", "Tanh", "Sin", "Cos", "Tan", "Atan")),
    *(Case(op, (f(2, 3),)) for op in ("Sinh", "Cosh", "Asinh", "Erf", "Sigmoid", "Relu", "Sign")),
    *(Case(op, (f(2, 3),)) for op in ("Floor", "Ceil", "Round", "Softsign", "Softplus")),
    *(Case(op, (UNIT,)) for op in ("Asin", "Acos", "Atanh")),
    *(Case(op, (POSITIVE,)) for op in ("Log", "Sqrt", "Reciprocal")),
    *(Case(op, (SPECIAL,), label="special") for op in ("IsNaN", "Relu", "Round", "Floor")),
    *(Case(op, (SPECIAL,), label="special") for op in ("Sign", "Abs", "LeakyRelu", "Softplus")),
    Case("Acosh", (f(2, 3, low=1.0),)),
    Case("Not", (bools(2, 3),)),
    Case("BitwiseNot", (ints(2, 3),), opset=18),
    Case("IsInf", (SPECIAL,)),
    Case("IsInf", (SPECIAL,), {"detect_negative": 0}, label="positive"),
    Case("Identity", (f(2, 3),)),
    Case("Dropout", (f(2, 3),)),
    Case("Dropout", (f(2, 3),), {}, opset=12, outputs=2, label="mask"),
    Case("Elu", (f(2, 3),), {"alpha": 0.7}),
    Case("Selu", (f(2, 3),)),
    Case("Mish", (f(2, 3),), opset=18),
    Case("Celu", (f(2, 3),), {"alpha": 1.7}),
    Case("Gelu", (f(2, 3),), opset=20),
    Case("Gelu", (f(2, 3),), {"approximate": "tanh"}, opset=20, label="tanh"),
    Case("LeakyRelu", (f(2, 3),), {"alpha": 0.2}),
    Case("HardSigmoid", (f(2, 3),), {"alpha": 0.3, "beta": 0.4}),
    Case("HardSwish", (f(2, 3, low=-5, high=5),)),
    Case("ThresholdedRelu", (f(2, 3),), {"alpha": 0.6}),
    Case("Shrink", (f(2, 3),), {"lambd": 1.0, "bias": 0.5}),
    Case("PRelu", (f(2, 3, 4, 5), f(3, 1, 1))),
    Case("PRelu", (f(2, 3), f(1))),
    Case("Clip", (f(2, 3), scalar(-1.0), scalar(0.5)), const=(1, 2)),
    Case("Clip", (f(2, 3), None, scalar(0.5)), label="max"),
    Case("Clip", (f(2, 3),), label="none"),
    Case("Clip", (f(2, 3),), {"min": -0.5}, opset=6, label="attributes"),
    Case("Cast", (f(2, 3),), {"to": onnx.TensorProto.INT64}),
    Case("Cast", (SPECIAL[:4],), {"to": onnx.TensorProto.BOOL}, label="bool"),
    Case("Cast", (ints(2, 3),), {"to": onnx.TensorProto.FLOAT}, label="float"),
    Case("Cast", (f(2, 3),), {"to": onnx.TensorProto.FLOAT16}, label="half"),
    Case("CastLike", (f(2, 3), ints(1))),
]

NUMBERS, OTHERS = f(2, 1, 3), f(4, 1)
WHOLE, DIVISORS = ints(2, 3), np.array([[2, -3, 4]], "i8")
BINARY = [
    *(Case(op, (NUMBERS, OTHERS)) for op in ("Add", "Sub", "Mul", "Div", "Less", "Greater")),
    *(Case(op, (NUMBERS, OTHERS)) for op in ("LessOrEqual", "GreaterOrEqual", "Equal")),
    *(Case(op, (WHOLE, DIVISORS), label="ints") for op in ("Add", "Mul", "Div", "Mod", "Equal")),
    *(Case(op, (bools(2, 3), bools(3))) for op in ("And", "Or", "Xor", "Equal")),
    *(Case(op, (WHOLE, DIVISORS), opset=18) for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")),
    Case("Mod", (WHOLE, DIVISORS), {"fmod": 1}, label="fmod"),
    Case("Mod", (f(2, 3), f(3)), {"fmod": 1}, label="floats"),
    Case("Pow", (POSITIVE, f(3))),
    Case("Pow", (POSITIVE, np.array([2, 3, 1], "i8")), label="int exponent"),
    Case(
        "BitShift",
        (ints(2, 3, low=0, dtype="u1"), np.array([1, 2, 3], "u1")),
        {"direction": "LEFT"},
    ),
    Case(
        "BitShift",
        (ints(2, 3, low=0, dtype="u4"), np.array([1, 2, 3], "u4")),
        {"direction": "RIGHT"},
    ),
    *(Case(op, (f(2, 3), f(3), f(2, 1)), symbolic=False) for op in ("Min", "Max", "Sum", "Mean")),
    Case("Max", (f(2, 3),), label="one"),
    Case("Where", (bools(2, 1), f(2, 3), f(3))),
    Case("Where", (bools(3), ints(2, 3), i64(7)), const=(2,), label="ints"),
]

X = f(2, 3, 4)
AXES_ATTRIBUTE = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2")
AXES_ATTRIBUTE += ("ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp")
REDUCE = [
    *(Case(op, (POSITIVE,), {"axes": [1], "keepdims": 0}) for op in AXES_ATTRIBUTE),
    *(Case(op, (np.abs(X),), {"axes": [-1, 0]}, opset=11, label="two") for op in AXES_ATTRIBUTE),
    *(Case(op, (np.abs(X), i64(1)), opset=18, const=(1,)) for op in (*AXES_ATTRIBUTE, "ReduceSum")),
    *(Case(op, (np.abs(X),), label="all") for op in ("ReduceSum", "ReduceMax", "ReduceL2")),
    Case("ReduceSum", (X, i64(0, 2)), {"keepdims": 0}, opset=13, const=(1,)),
    Case("ReduceSum", (X,), {"noop_with_empty_axes": 1}, opset=13, label="noop"),
    Case("ReduceSum", (X,), {"axes": [1]}, opset=11),
    Case("ReduceMax", (ints(2, 3),), {"axes": [0]}, label="ints"),
    Case("ReduceMax", (bools(2, 3), i64(0)), opset=20, const=(1,), label="bool"),
    Case("ArgMax", (X,), {"axis": 1}),
    Case("ArgMin", (X,), {"axis": -1, "keepdims": 0}),
    Case("ArgMax", (ints(3, 9, high=-2),), {"axis": 1, "select_last_index": 1}, label="last"),
    Case("TopK", (X, i64(2)), {"axis": 1}, const=(1,), outputs=2),
    Case("TopK", (X, i64(3)), {"largest": 0}, const=(1,), outputs=2, label="smallest"),
    Case("TopK", (X,), {"k": 2}, opset=9, outputs=2, label="attribute"),
    Case("CumSum", (X, scalar(1, "i8")), const=(1,)),
    Case("CumSum", (X, scalar(-1, "i8")), {"exclusive": 1, "reverse": 1}, const=(1,), label="back"),
    Case("Softmax", (X,), {"axis": 1}),
    Case("Softmax", (X,), label="last"),
    Case("Softmax", (X,), {"axis": 1}, opset=11),
    Case("Softmax", (X,), opset=9, label="default"),
    Case("LogSoftmax", (X,), {"axis": 1}, opset=12),
    Case("LogSoftmax", (X,), {"axis": 0}),
    Case("Hardmax", (X,), {"axis": 1}),
    Case("Hardmax", (X,), {"axis": 1}, opset=11),
    Case("LpNormalization", (X,), {"axis": 1}),
    Case("LpNormalization", (X,), {"axis": 1, "p": 1}, label="l1"),
    Case("MeanVarianceNormalization", (f(2, 3, 4, 5),)),
]

SHAPE = [
    Case("Reshape", (X, i64(4, 6)), const=(1,), symbolic=False),
    Case("Reshape", (X, i64(0, -1)), const=(1,), label="zero"),
    Case("Flatten", (X,), {"axis": 2}),
    Case("Flatten", (X,), {"axis": -1}, label="negative"),
    Case("Flatten", (X,), {"axis": 0}, label="zero"),
    Case("Squeeze", (f(1, 3, 1), i64(0, -1)), const=(1,)),
    Case("Squeeze", (f(1, 3, 1),), {"axes": [2]}, opset=11),
    Case("Squeeze", (f(1, 3, 1),), symbolic=False, label="all"),
    Case("Unsqueeze", (f(3, 4), i64(0, -1)), const=(1,)),
    Case("Unsqueeze", (f(3, 4),), {"axes": [1]}, opset=11),
    Case("Transpose", (X,), {"perm": [2, 0, 1]}),
    Case("Transpose", (X,), label="default"),
    Case("Expand", (f(3, 1), i64(2, 1, 4)), const=(1,)),
    Case("Expand", (f(3, 4), i64(1, 1)), const=(1,), label="same"),
    Case("Tile", (f(2, 3), i64(2, 3)), const=(1,)),
    Case("Concat", (f(2, 3), f(2, 4)), {"axis": -1}),
    Case("Split", (f(2, 7), i64(3, 4)), {"axis": 1}, const=(1,), outputs=2, symbolic=False),
    Case("Split", (f(6, 2),), {"axis": 0}, outputs=3, label="equal"),
    Case("Split", (f(2, 7),), {"axis": 1, "split": [5, 2]}, opset=11, outputs=2, symbolic=False),
    Case("Split", (f(2, 7),), {"axis": 1, "num_outputs": 3}, opset=18, outputs=3),
    Case("Slice", (f(5, 7), i64(1, -4), i64(4, 9999), i64(0, 1)), const=(1, 2, 3)),
    Case(
        "Slice", (f(5, 7), i64(-1), i64(-9999), i64(1), i64(-2)), const=(1, 2, 3, 4), label="back"
    ),
    Case("Slice", (f(5, 7), i64(4), i64(1), i64(0), i64(-1)), const=(1, 2, 3, 4), label="down"),
    Case("Slice", (f(5, 7), i64(3), i64(2), i64(0)), const=(1, 2, 3), label="empty"),
    Case("Slice", (f(5, 7),), {"starts": [1], "ends": [-1], "axes": [1]}, opset=9),
    Case("Pad", (f(2, 3), i64(0, 1, 2, 0), scalar(1.5)), const=(1, 2)),
    Case("Pad", (f(3, 4), i64(1, 2, 0, 1)), {"mode": "reflect"}, const=(1,), label="reflect"),
    Case("Pad", (f(3, 4), i64(1, 2, 0, 1)), {"mode": "edge"}, const=(1,), label="edge"),
    Case("Pad", (f(3, 4), i64(-1, 1, 1, -2)), const=(1,), label="negative"),
    Case("Pad", (f(3, 4), i64(1, 1), None, i64(1)), opset=18, const=(1, 3), label="axes"),
    Case("Pad", (ints(3, 4), i64(1, 1, 0, 0), scalar(9, "i8")), const=(1, 2), label="ints"),
    Case("Pad", (f(2, 3),), {"pads": [0, 1, 1, 0], "value": 2.0}, opset=10),
    Case("Shape", (X,)),
    Case("Shape", (X,), {"start": -2, "end": 3}, label="part"),
    Case("Size", (X,)),
    Case(
        "ConstantOfShape", (i64(2, 3),), {"value": helper.make_tensor("v", 7, [1], [5])}, const=(0,)
    ),
    Case("ConstantOfShape", (i64(64, 32),), const=(0,), label="large"),
    Case("Range", (scalar(1, "i8"), scalar(9, "i8"), scalar(3, "i8")), const=(0, 1, 2)),
    Case("Range", (scalar(5), scalar(1), scalar(-0.5)), const=(0, 1, 2), label="floats"),
    Case(
        "Range",
        (scalar(0, "i8"), scalar(2000, "i8"), scalar(1, "i8")),
        const=(0, 1, 2),
        label="long",
    ),
    Case("DepthToSpace", (f(2, 8, 3, 2),), {"blocksize": 2}, symbolic=False),
    Case(
        "DepthToSpace",
        (f(2, 8, 3, 2),),
        {"blocksize": 2, "mode": "CRD"},
        symbolic=False,
        label="crd",
    ),
    Case("SpaceToDepth", (f(2, 3, 4, 6),), {"blocksize": 2}, symbolic=False),
    Case("EyeLike", (f(3, 4),), {"k": 1}),
    Case("EyeLike", (f(3, 4),), {"k": -1, "dtype": onnx.TensorProto.INT64}, label="below"),
    Case("Trilu", (f(2, 4, 3),)),
    Case("Trilu", (f(4, 5), scalar(-1, "i8")), {"upper": 0}, label="lower"),
    Case("Trilu", (ints(4, 5), scalar(2, "i8")), const=(1,), label="ints"),
    Case("Constant", (), {"value": helper.make_tensor("v", 1, [2], [1.0, 2.0])}),
    Case("Constant", (), {"value_ints": [1, 2, 3]}, label="ints"),
    Case("Constant", (), {"value_float": 2.5}, label="float"),
]

INDEX = [
    Case("Gather", (X, np.array([[0, 2], [-1, 1]], "i8")), {"axis": 1}),
    Case("Gather", (X, scalar(1, "i8")), {"axis": 2}, const=(1,), label="scalar"),
    Case("Gather", (X, scalar(-1, "i8")), {"axis": 2}, const=(1,), label="last"),
    Case("Gather", (X, ints(3, low=0, high=2, dtype="i4")), label="i32"),
    Case("GatherElements", (f(3, 4), ints(2, 4, low=-3, high=3)), {"axis": 0}),
    Case("GatherND", (X, np.array([[0, 2], [1, -1]], "i8")), symbolic=False),
    Case("GatherND", (X, np.array([[2], [1]], "i8")), {"batch_dims": 1}, const=(1,), label="batch"),
    Case("ScatterElements", (f(3, 4), np.array([[0, 1, 2, 0]], "i8"), f(1, 4))),
    Case(
        "ScatterElements",
        (f(3, 4), np.array([[1, 1], [0, 0], [3, 2]], "i8"), f(3, 2)),
        {"axis": 1, "reduction": "add"},
        opset=18,
        label="add",
    ),
    Case("Scatter", (f(3, 4), np.array([[0, 1, 2, 0]], "i8"), f(1, 4)), opset=9),
    Case("ScatterND", (f(4, 3), np.array([[3], [0]], "i8"), f(2, 3)), symbolic=False),
    Case(
        "ScatterND",
        (f(4, 3), np.array([[3], [3]], "i8"), f(2, 3)),
        {"reduction": "mul"},
        opset=16,
        const=(1,),
        label="mul",
    ),
    Case("OneHot", (np.array([0, 2, -1, 9], "i8"), scalar(3, "i8"), f32(0.5, 2.0)), const=(1,)),
    Case(
        "OneHot",
        (ints(2, 2, low=0, high=4), i64(4), f32(0, 1)),
        {"axis": 0},
        const=(1, 2),
        label="front",
    ),
    Case("NonZero", (ints(3, 4, low=0, high=2),)),
    Case("Compress", (f(3, 4), np.array([True, False, True])), {"axis": 0}, const=(1,)),
    Case("Compress", (f(3, 4), np.array([True, False, True])), const=(1,), label="flat"),
]

IMAGE, WEIGHT = f(2, 4, 7, 6), f(6, 4, 3, 3)
CHANNELS = tuple(f(4, low=0.5) for _ in range(4))
NN = [
    Case("Conv", (IMAGE, WEIGHT, f(6)), {"pads": [1, 0, 1, 2], "strides": [2, 1]}, const=(1, 2)),
    Case(
        "Conv", (IMAGE, f(6, 2, 3, 2)), {"group": 2, "dilations": [2, 1]}, const=(1,), label="group"
    ),
    Case(
        "Conv",
        (IMAGE, f(4, 1, 3, 3)),
        {"group": 4, "auto_pad": "SAME_UPPER"},
        const=(1,),
        label="same",
    ),
    Case(
        "Conv",
        (IMAGE, WEIGHT),
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        const=(1,),
        label="upper",
    ),
    Case(
        "Conv",
        (IMAGE, WEIGHT),
        {"auto_pad": "SAME_LOWER", "strides": [3, 2]},
        const=(1,),
        label="lower",
    ),
    Case("Conv", (IMAGE, WEIGHT), {"auto_pad": "VALID"}, const=(1,), label="valid"),
    Case("Conv", (f(2, 3, 9), f(5, 3, 4)), {"strides": [2]}, const=(1,), label="1d"),
    Case("Conv", (f(1, 2, 4, 5, 3), f(3, 2, 2, 2, 2)), const=(1,), label="3d"),
    Case(
        "ConvTranspose",
        (f(2, 4, 3, 5), f(4, 3, 3, 2), f(3)),
        {"strides": [2, 1], "pads": [1, 0, 0, 1], "output_padding": [1, 0]},
        const=(1, 2),
    ),
    Case(
        "ConvTranspose",
        (f(2, 4, 5), f(4, 2, 3)),
        {"group": 2, "strides": [3]},
        const=(1,),
        label="1d",
    ),
    Case(
        "ConvTranspose",
        (f(1, 2, 4, 4), f(2, 3, 3, 3)),
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        const=(1,),
        label="same",
    ),
    Case(
        "ConvTranspose",
        (f(1, 2, 4, 4), f(2, 3, 3, 3)),
        {"output_shape": [9, 10], "strides": [2, 2]},
        const=(1,),
        symbolic=False,
        label="shape",
    ),
    Case("MaxPool", (IMAGE,), {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]}),
    Case(
        "MaxPool",
        (IMAGE,),
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
        label="ceil",
    ),
    Case(
        "MaxPool",
        (IMAGE,),
        {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER", "strides": [2, 2]},
        label="same",
    ),
    Case("MaxPool", (f(2, 3, 9),), {"kernel_shape": [3], "dilations": [2]}, label="1d"),
    Case(
        "AveragePool", (IMAGE,), {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]}
    ),
    Case(
        "AveragePool",
        (IMAGE,),
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1},
        label="counted",
    ),
    Case("AveragePool", (IMAGE,), {"kernel_shape": [2, 2], "auto_pad": "SAME_LOWER"}, label="same"),
    Case("GlobalAveragePool", (IMAGE,)),
    Case("GlobalMaxPool", (IMAGE,)),
    Case("GlobalLpPool", (IMAGE,), {"p": 3}, symbolic=False),
    Case("BatchNormalization", (IMAGE, *CHANNELS), {"epsilon": 1e-3}, const=(1, 2, 3, 4)),
    Case("BatchNormalization", (IMAGE, *CHANNELS), opset=7, const=(1, 2, 3, 4)),
    Case("InstanceNormalization", (IMAGE, *CHANNELS[:2]), const=(1, 2)),
    Case(
        "GroupNormalization",
        (IMAGE, *(f(2) for _ in range(2))),
        {"num_groups": 2},
        opset=18,
        const=(1, 2),
        reference="onnx",
        symbolic=False,
    ),
    Case("GroupNormalization", (IMAGE, *CHANNELS[:2]), {"num_groups": 2}, opset=21, const=(1, 2)),
    Case("LayerNormalization", (X, f(4), f(4)), const=(1, 2)),
    Case("LayerNormalization", (X, f(3, 4)), {"axis": 1, "epsilon": 1e-2}, const=(1,), label="two"),
    Case("RMSNormalization", (X, f(4)), opset=23, const=(1,), reference="onnx"),
    Case("LRN", (IMAGE,), {"size": 3, "alpha": 0.1}),
    Case(
        "LRN",
        (f(4, 4, 3, 3),),
        {"size": 2, "beta": 0.5, "bias": 2.0},
        label="even",
        reference="onnx",
    ),
    Case("Gemm", (f(3, 4), f(4, 5), f(5))),
    Case(
        "Gemm",
        (f(4, 3), f(5, 4), f(3, 1)),
        {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0},
        label="transposed",
    ),
    Case("Gemm", (f(3, 4), f(4, 5)), label="plain"),
    Case("MatMul", (f(2, 1, 3, 4), f(5, 4, 2))),
    Case("MatMul", (f(4), f(4, 2)), label="vector"),
]

EINSUM = [
    Case("Einsum", args, {"equation": equation}, label=equation.replace(",", "_"))
    for equation, args in {
        "ij,jk->ik": (f(2, 3), f(3, 4)),
        "bhid,bhjd->bhij": (f(2, 3, 4, 5), f(2, 3, 6, 5)),
        "bij,bjk": (f(2, 3, 4), f(2, 4, 5)),
        "ij->ji": (f(2, 3),),
        "ijk->j": (f(2, 3, 4),),
        "i,j->ij": (f(2), f(3)),
        "ij,ij->": (f(2, 3), f(2, 3)),
        "...ij,jk->...ik": (f(2, 5, 3, 4), f(4, 2)),
        "ab,bc,cd->ad": (f(2, 3), f(3, 4), f(4, 2)),
        "bcd,bd->bc": (f(2, 3, 4), f(2, 4)),
    }.items()
]

RESIZE = [
    Case(
        "Resize",
        (IMAGE, None, f32(1, 1, 2, 2)),
        {"mode": mode, "coordinate_transformation_mode": c},
        const=(2,),
        label=f"{mode} {c}",
        tolerance=1e-4,
    )
    for mode in ("nearest", "linear", "cubic")
    for c in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
] + [
    *(
        Case(
            "Resize",
            (IMAGE, None, f32(1, 1, 0.6, 1.5)),
            {"nearest_mode": m, "mode": "nearest"},
            const=(2,),
            label=m,
        )
        for m in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    ),
    Case(
        "Resize",
        (IMAGE, None, None, i64(2, 4, 10, 3)),
        {"mode": "linear"},
        const=(3,),
        label="sizes",
        symbolic=False,
    ),
    Case(
        "Resize",
        (IMAGE, None, None, i64(10, 3)),
        {"mode": "linear", "axes": [2, 3]},
        opset=18,
        const=(3,),
        label="axes",
    ),
    Case(
        "Resize",
        (IMAGE, None, f32(1, 1, 0.7, 0.8)),
        {"mode": "cubic", "exclude_outside": 1, "cubic_coeff_a": -0.5},
        const=(2,),
        label="exclude",
        tolerance=1e-4,
    ),
    Case("Resize", (IMAGE, f32(), f32(1, 1, 2, 3)), opset=11, const=(1, 2), label="empty roi"),
    Case("Resize", (IMAGE, f32(1, 1, 2, 2)), opset=10, const=(1,)),
    Case("Resize", (IMAGE, f32(1, 1, 0.5, 0.5)), opset=10, const=(1,), label="shrink"),
    Case(
        "Resize",
        (IMAGE, f32(1, 1, 2, 1.5)),
        {"mode": "linear"},
        opset=10,
        const=(1,),
        label="linear",
    ),
    Case("Upsample", (IMAGE, f32(1, 1, 2, 3)), opset=9, const=(1,)),
    Case("Upsample", (IMAGE,), {"scales": [1.0, 1.0, 2.0, 2.0], "mode": "linear"}, opset=7),
]

U8, I8 = ints(3, 4, low=0, high=255, dtype="u1"), ints(4, 5, low=-128, high=127, dtype="i1")
QUANTISED = [
    Case("QuantizeLinear", (f(3, 4), scalar(0.02), scalar(120, "u1")), const=(1, 2)),
    Case(
        "QuantizeLinear",
        (f(3, 4), f32(0.1, 0.01, 0.05), np.array([0, 5, -7], "i1")),
        {"axis": 0},
        const=(1, 2),
        label="axis",
    ),
    Case("QuantizeLinear", (f(3, 4), scalar(0.02)), const=(1,), label="no zero"),
    Case("DequantizeLinear", (U8, scalar(0.02), scalar(120, "u1")), const=(1, 2)),
    Case("DequantizeLinear", (I8, f32(0.1, 0.2, 0.3, 0.4, 0.5)), const=(1,), label="axis"),
    Case("DynamicQuantizeLinear", (f(3, 4),), outputs=3),
    # Not by onnxruntime: it saturates sums of two products to 16 bits on CPUs without VNNI.
    Case(
        "MatMulInteger",
        (U8, I8, scalar(3, "u1"), scalar(-2, "i1")),
        const=(2, 3),
        reference="onnx",
    ),
    Case("MatMulInteger", (U8, I8), label="no zero", reference="onnx"),
    Case(
        "QLinearMatMul",
        (
            U8,
            scalar(0.1),
            scalar(3, "u1"),
            I8,
            scalar(0.2),
            scalar(-2, "i1"),
            scalar(2.0),
            scalar(128, "u1"),
        ),
        const=(1, 2, 4, 5, 6, 7),
    ),
    Case(
        "ConvInteger",
        (
            ints(1, 2, 5, 5, low=0, high=255, dtype="u1"),
            ints(3, 2, 3, 3, low=0, high=9, dtype="u1"),
            scalar(7, "u1"),
        ),
        {"pads": [1, 1, 1, 1]},
        const=(1, 2),
    ),
    Case(
        "QLinearConv",
        (
            ints(1, 2, 5, 5, low=0, high=255, dtype="u1"),
            scalar(0.1),
            scalar(7, "u1"),
            ints(3, 2, 3, 3, dtype="i1"),
            f32(0.1, 0.2, 0.3),
            np.zeros(3, "i1"),
            scalar(2.0),
            scalar(100, "u1"),
            ints(3, low=-99, high=99, dtype="i4"),
        ),
        {"pads": [1, 1, 1, 1]},
        const=tuple(range(1, 9)),
    ),
]


def recurrent(op: str, gates: int, **attrs: Any) -> Case:
    """A layer with T=5, N=2, I=3, H=4; ``lens``, ``states`` and ``peepholes`` add operands."""
    label, opset = attrs.pop("label", ""), attrs.pop("opset", 17)
    lens, states, peepholes = (attrs.pop(k, False) for k in ("lens", "states", "peepholes"))
    directions = 2 if attrs.get("direction") == "bidirectional" else 1
    inputs: list[Any] = [f(5, 2, 3), f(directions, gates * 4, 3), f(directions, gates * 4, 4)]
    inputs += [f(directions, gates * 8), np.array([5, 2], "i4") if lens else None]
    count = 2 if op == "LSTM" else 1
    inputs += [f(directions, 2, 4) if states else None for _ in range(count)]
    inputs += [f(directions, 12)] if peepholes else []
    if attrs.get("layout"):
        inputs[0] = f(2, 5, 3)
    return Case(
        op,
        tuple(inputs),
        {"hidden_size": 4, **attrs},
        opset=opset,
        const=(1, 2, 3, 7),
        outputs=1 + count,
        label=label,
        symbolic=not states,
    )


RECURRENT = [
    recurrent("RNN", 1),
    recurrent(
        "RNN",
        1,
        direction="reverse",
        activations=["LeakyRelu"],
        activation_alpha=[0.2],
        label="reverse",
    ),
    recurrent("GRU", 3),
    recurrent("GRU", 3, linear_before_reset=1, states=True, label="after"),
    recurrent("GRU", 3, direction="bidirectional", lens=True, label="both"),
    recurrent("LSTM", 4),
    recurrent("LSTM", 4, direction="bidirectional", lens=True, states=True, label="both"),
    recurrent("LSTM", 4, direction="reverse", peepholes=True, clip=0.5, label="peepholes"),
    recurrent("LSTM", 4, opset=7, label="old"),
]

ALL = [*UNARY, *BINARY, *REDUCE, *SHAPE, *INDEX, *NN, *EINSUM, *RESIZE, *QUANTISED, *RECURRENT]


@pytest.mark.parametrize("case", ALL, ids=str)
def test_node(case):
    check(case)
