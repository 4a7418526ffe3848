"""Shapes that a model computes with nodes stay symbolic, and no operation is left of the chain."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_nodes import assert_close, build, run_pjit, run_reference

from pjit.errors import InputError, ModelError
from pjit.frontends.onnx import import_onnx

NODE = helper.make_node
RNG = np.random.default_rng(3)


def info(name: str, *dims, dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, dims)


def const(name: str, value, dtype: str = "i8") -> onnx.NodeProto:
    array = np.array(value, dtype)
    return NODE("Constant", [], [name], value=numpy_helper.from_array(array))


def chain(*nodes: onnx.NodeProto, dims=("N", 3, "H", "W"), opset: int = 17, x="x"):
    """A model from ``x`` to ``y``."""
    return build(nodes, [info(x, *dims)], ["y"], opset=opset)


def imported(model: onnx.ModelProto, **inputs: str):
    return import_onnx(model.SerializeToString(), inputs or None)


def result(model: onnx.ModelProto) -> str:
    return str(imported(model).main.results[0].type)


def names(model: onnx.ModelProto) -> list[str]:
    return [op.op_name for op in imported(model).main.body.ops]


def compare(model: onnx.ModelProto, *shapes: tuple[int, ...]) -> None:
    pytest.importorskip("onnxruntime")
    for shape in shapes:
        feeds = {"x": RNG.uniform(-1, 1, shape).astype("f4")}
        wanted = run_reference(model, feeds, "onnxruntime")
        for f, w in zip(run_pjit(model, feeds), wanted, strict=True):
            assert_close(f, np.asarray(w), 1e-5)


def dim(source: str, index: int, name: str) -> list[onnx.NodeProto]:
    """One size of a tensor, as PyTorch exports it."""
    return [
        NODE("Shape", [source], [f"{name}_shape"]),
        const(f"{name}_index", index),
        NODE("Gather", [f"{name}_shape", f"{name}_index"], [name], axis=0),
    ]


def test_flatten_by_shape_gather_concat():
    model = chain(
        *dim("x", 0, "n"),
        const("axes", [0]),
        NODE("Unsqueeze", ["n", "axes"], ["n1"]),
        const("rest", [-1]),
        NODE("Concat", ["n1", "rest"], ["shape"], axis=0),
        NODE("Reshape", ["x", "shape"], ["y"]),
    )
    assert result(model) == "f32[N,3*H*W]"
    assert names(model) == ["reshape", "return"]
    compare(model, (2, 3, 4, 5), (1, 3, 2, 2))


def test_window_partition_divides_sizes():
    model = chain(
        *dim("x", 2, "h"),
        const("four", 4),
        NODE("Div", ["h", "four"], ["rows"]),
        const("axes", [0]),
        NODE("Unsqueeze", ["rows", "axes"], ["rows1"]),
        const("head", [0, 3]),
        const("tail", [4, -1]),
        NODE("Concat", ["head", "rows1", "tail"], ["shape"], axis=0),
        NODE("Reshape", ["x", "shape"], ["y"]),
        dims=("N", 3, 8, "W"),
    )
    assert result(model) == "f32[N,3,2,4,W]"


def test_resize_by_a_float_chain():
    """``Cast -> Mul 2.0 -> Floor -> Cast``, as interpolate(scale_factor=2) is exported."""
    model = chain(
        NODE("Shape", ["x"], ["s"]),
        const("two", [2]),
        const("four", [4]),
        const("zero", [0]),
        NODE("Slice", ["s", "two", "four", "zero"], ["hw"]),
        NODE("Cast", ["hw"], ["float"], to=TensorProto.FLOAT),
        const("scale", [1.5, 0.7], "f4"),
        NODE("Mul", ["float", "scale"], ["scaled"]),
        NODE("Floor", ["scaled"], ["floor"]),
        NODE("Cast", ["floor"], ["sizes"], to=TensorProto.INT64),
        NODE("Slice", ["s", "zero", "two", "zero"], ["nc"]),
        NODE("Concat", ["nc", "sizes"], ["target"], axis=0),
        NODE("Resize", ["x", "", "", "target"], ["y"], mode="nearest", nearest_mode="floor"),
    )
    assert _plain(result(model)) == "f32[N,3,3*H//2,7*W//10]"
    assert names(model) == ["nn.resize", "return"]
    compare(model, (1, 3, 10, 10), (2, 3, 7, 13))


def test_resize_to_the_size_of_another_tensor_by_scales():
    """Scales computed as a quotient of sizes cancel."""
    model = build(
        [
            NODE("Shape", ["z"], ["zs"]),
            NODE("Cast", ["zs"], ["zf"], to=TensorProto.FLOAT),
            NODE("Shape", ["x"], ["xs"]),
            NODE("Cast", ["xs"], ["xf"], to=TensorProto.FLOAT),
            NODE("Div", ["zf", "xf"], ["scales"]),
            NODE("Resize", ["x", "", "scales"], ["y"], mode="nearest"),
        ],
        [info("x", "N", 3, "H", "W"), info("z", "N", 3, "A", "B")],
        ["y"],
    )
    assert result(model) == "f32[N,3,A,B]"


def test_expand_with_where_equal_constant_of_shape():
    """``Tensor.expand(n, -1, -1)`` as PyTorch exports it."""
    model = build(
        [
            *dim("x", 0, "n"),
            const("axes", [0]),
            NODE("Unsqueeze", ["n", "axes"], ["n1"]),
            const("keep", [-1, -1]),
            NODE("Concat", ["n1", "keep"], ["want"], axis=0),
            const("three", [3]),
            NODE(
                "ConstantOfShape",
                ["three"],
                ["ones"],
                value=helper.make_tensor("v", TensorProto.INT64, [1], [1]),
            ),
            const("minus", -1),
            NODE("Mul", ["ones", "minus"], ["all"]),
            NODE("Equal", ["want", "all"], ["free"]),
            NODE("Where", ["free", "ones", "want"], ["shape"]),
            NODE("Expand", ["token", "shape"], ["y"]),
        ],
        [info("x", "N", 3, 4)],
        ["y"],
        {"token": np.ones((1, 1, 8), np.float32)},
    )
    assert result(model) == "f32[N,1,8]"
    assert names(model) == ["const", "broadcast", "return"]


def test_range_over_a_size():
    model = chain(
        *dim("x", 1, "t"),
        const("zero", 0),
        const("two", 2),
        NODE("Range", ["zero", "t", "two"], ["y"]),
        dims=("N", "T"),
    )
    assert _plain(result(model)) == "i64[T+1//2]"
    compare(model, (1, 7), (2, 4))


def test_slice_by_symbolic_ends():
    """Crops to half of the size, and from a negative start."""
    model = chain(
        *dim("x", 1, "t"),
        const("two", [2]),
        const("axis", [1]),
        const("zero", [0]),
        NODE("Unsqueeze", ["t", "zero"], ["t1"]),
        NODE("Div", ["t1", "two"], ["half"]),
        NODE("Neg", ["half"], ["minus"]),
        NODE("Slice", ["x", "zero", "half", "axis"], ["a"]),
        const("end", [np.iinfo(np.int64).max]),
        NODE("Slice", ["x", "minus", "end", "axis"], ["b"]),
        NODE("Add", ["a", "b"], ["y"]),
        dims=("N", "T"),
    )
    assert _plain(result(model)) == "f32[N,T//2]"
    compare(model, (2, 8), (1, 9))


def test_slice_whose_sign_depends_on_the_size():
    """``x[:, :T - 5]`` counts from the end when T < 5."""
    model = chain(
        *dim("x", 1, "t"),
        const("five", [5]),
        const("axis", [1]),
        const("zero", [0]),
        NODE("Sub", ["t", "five"], ["end"]),
        NODE("Slice", ["x", "zero", "end", "axis"], ["y"]),
        dims=("N", "T"),
    )
    compare(model, (2, 8), (1, 4), (1, 5))


def test_pad_to_a_multiple():
    model = chain(
        *dim("x", 1, "t"),
        const("eight", 8),
        NODE("Mod", ["t", "eight"], ["over"]),
        NODE("Sub", ["eight", "over"], ["missing"]),
        const("zero", [0]),
        NODE("Unsqueeze", ["missing", "zero"], ["missing1"]),
        const("none", [0, 0, 0]),
        NODE("Concat", ["none", "missing1"], ["pads"], axis=0),
        NODE("Pad", ["x", "pads"], ["y"]),
        dims=("N", "T"),
    )
    assert result(model).startswith("f32[N,T - (T%8) + 8") or "8*(T//8) + 8" in result(model)
    compare(model, (2, 8), (1, 13))


def test_a_shape_used_as_data_becomes_sizes():
    model = chain(NODE("Shape", ["x"], ["y"]))
    assert names(model) == ["sizes", "return"]
    compare(model, (2, 3, 4, 5))


def test_float_shape_values_used_as_data():
    """The scale 1/sqrt(d) of attention with a symbolic d, and a mean by division."""
    model = chain(
        *dim("x", 1, "t"),
        NODE("Cast", ["t"], ["tf"], to=TensorProto.FLOAT),
        NODE("Sqrt", ["tf"], ["root"]),
        const("three", 3.0, "f4"),
        NODE("Div", ["tf", "three"], ["third"]),
        NODE("Div", ["x", "root"], ["a"]),
        NODE("Mul", ["a", "third"], ["y"]),
        dims=("N", "T"),
    )
    compare(model, (2, 4), (1, 7))


@pytest.mark.parametrize(
    ("nodes", "wanted"),
    [
        ([NODE("ReduceProd", ["s"], ["v"], keepdims=0)], "i64[3*H*N*W]"),
        ([const("i", [3, 0]), NODE("Gather", ["s", "i"], ["v"])], "i64[W,N]"),
        ([NODE("Split", ["s"], ["v", "w"], axis=0)], "i64[N,3]"),
        (
            [
                const("r", [2, 2]),
                NODE("Reshape", ["s", "r"], ["q"]),
                NODE("Transpose", ["q"], ["t"]),
                const("f", [-1]),
                NODE("Reshape", ["t", "f"], ["v"]),
            ],
            "i64[N,H,3,W]",
        ),
        ([const("two", 2), NODE("Add", ["s", "two"], ["v"])], "i64[N + 2,5,H + 2,W + 2]"),
        ([const("m", [4, 4, 1, 0]), NODE("Max", ["s", "m"], ["v"])], None),
        (
            [
                NODE("Cast", ["s"], ["h"], to=1),
                const("d", [1, 1, 2, 2], "f4"),
                NODE("Div", ["h", "d"], ["q"]),
                NODE("Ceil", ["q"], ["c"]),
                NODE("Cast", ["c"], ["v"], to=7),
            ],
            "i64[N,3,(H + 1)//2,(W + 1)//2]",
        ),
        (
            [NODE("Size", ["x"], ["k"]), const("a", [0]), NODE("Unsqueeze", ["k", "a"], ["v"])],
            "i64[3*H*N*W]",
        ),
    ],
)
def test_values(nodes, wanted):
    """What a chain computes, read off the shape of a ``ConstantOfShape``."""
    scalar = [const("a0", [-1]), NODE("Reshape", ["v", "a0"], ["v1"])]
    fill = NODE("ConstantOfShape", ["v1"], ["y"], value=helper.make_tensor("v", 7, [1], [1]))
    model = chain(NODE("Shape", ["x"], ["s"]), *nodes, *scalar, fill)
    found = result(model)
    if wanted is None:
        assert found == "i64[max(4, N),4,H,W]"
    else:
        assert _plain(found) == _plain(wanted)


def _plain(text: str) -> str:
    return text.replace("(", "").replace(")", "").replace(" ", "")


@pytest.mark.parametrize(
    ("shape", "target", "wanted"),
    [
        (("N", "T", 12), [0, 0, 3, -1], "f32[N,T,3,4]"),
        (("N", "T", 12), [-1, 12], "f32[N*T,12]"),
        (("N", "T", 12), [0, -1], "f32[N,12*T]"),
        ((2, 6), [3, -1], "f32[3,4]"),
        (("N", 0), [0, 0], "f32[N,0]"),
    ],
)
def test_reshape_targets(shape, target, wanted):
    dims = [d if d != 0 else None for d in shape]
    model = chain(const("t", target), NODE("Reshape", ["x", "t"], ["y"]), dims=dims)
    if 0 in shape:
        assert result(model) == "f32[N,x_d1]"
    else:
        assert result(model) == wanted


def test_reshape_of_attribute():
    model = chain(NODE("Reshape", ["x"], ["y"], shape=[0, -1]), opset=4)
    assert result(model) == "f32[N,3*H*W]"


def test_symbol_names():
    """Equal ``dim_param``s are one symbol; odd names stay distinct; unknown sizes are fresh."""
    model = chain(NODE("Relu", ["x"], ["y"]), dims=("a.b", "a b", "?", None))
    assert result(model) == "f32[a_b,a_b_1,x_d2,x_d3]"
    model = chain(NODE("Relu", ["x"], ["y"]), dims=("min", "0", -1, "n"))
    assert result(model) == "f32[d_min,d_0,x_d2,n]"


def test_input_types_can_be_given():
    model = chain(NODE("Relu", ["x"], ["y"]))
    module = imported(model, x="f32[1,3,B,2*B]")
    assert str(module.main.args[0].type) == "f32[1,3,B,2*B]"
    assert module.main.args[0].name == "x"


@pytest.mark.parametrize(
    ("name", "text"),
    [("z", "f32[1]"), ("x", "f32[1,3]"), ("x", "i64[1,3,2,2]"), ("x", "f32[1,"), ("x", "f32")],
)
def test_wrong_input_types(name, text):
    with pytest.raises(InputError) as error:
        imported(chain(NODE("Relu", ["x"], ["y"])), **{name: text})
    assert name in str(error.value)


def test_constants_that_are_listed_as_inputs():
    model = build(
        [NODE("Add", ["x", "w"], ["y"])],
        [info("x", 2), info("w", 2)],
        ["y"],
        {"w": np.ones(2, np.float32)},
    )
    module = imported(model)
    assert [a.name for a in module.main.args] == ["x"]
    assert list(module.constants) == ["w"]
    with pytest.raises(InputError, match="constant"):
        imported(model, w="f32[2]")


def test_shape_from_data_is_a_problem():
    model = build(
        [NODE("Reshape", ["x", "s"], ["y"])],
        [info("x", "N", 4), info("s", 2, dtype=TensorProto.INT64)],
        ["y"],
    )
    with pytest.raises(ModelError) as error:
        imported(model)
    assert "computed from data" in error.value.problems[0].reason
