"""What cannot be imported: every problem is listed once, and nothing but ModelError comes out."""

from __future__ import annotations

import pickle

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_nodes import build

from pjit.errors import ModelError, Problem
from pjit.frontends.onnx import import_onnx

NODE = helper.make_node
X = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])


def failure(model: onnx.ModelProto | bytes) -> ModelError:
    data = model if isinstance(model, bytes) else model.SerializeToString()
    with pytest.raises(ModelError) as caught:
        import_onnx(data)
    return caught.value


def problems(*nodes: onnx.NodeProto, outputs=("y",), constants=None, opset=17) -> list[Problem]:
    return failure(build(nodes, [X], outputs, constants, opset)).problems


def test_all_problems_at_once_and_no_echo():
    """Followers of a failed node add nothing; independent problems are all found."""
    found = problems(
        NODE("StringNormalizer", ["x"], ["a"], name="first"),
        NODE("Relu", ["a"], ["b"], name="follower"),
        NODE("Conv", ["x", "w"], ["c"], name="contradiction"),
        NODE("Reshape", ["x", "none"], ["d"], name="undefined"),
        NODE("Transpose", ["x"], ["e"], name="attribute", perm="no"),
        NODE("Concat", ["b", "c", "d", "e"], ["y"], name="last", axis=0),
        constants={"w": np.ones((4, 5, 3, 3), np.float32)},
    )
    assert [p.node for p in found] == ["undefined", "first", "contradiction", "attribute"]
    reasons = {p.node: p.reason for p in found}
    assert "not supported" in reasons["first"]
    assert "operator set 17" in reasons["first"]
    assert "'none' is not defined" in reasons["undefined"]
    assert "bad attribute 'perm'" in reasons["attribute"]
    assert "nn.conv" in reasons["contradiction"]


def test_unknown_domain_and_misspelt_operator():
    model = build(
        [
            NODE("FancyOp", ["x"], ["a"], name="one", domain="com.acme"),
            NODE("Convv", ["x", "x"], ["b"], name="two"),
            NODE("Add", ["a", "b"], ["y"]),
        ],
        [X],
        ["y"],
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.acme", 1)],
    )
    one, two = failure(model).problems
    assert one.operator == "com.acme::FancyOp"
    assert "domain 'com.acme'" in one.reason
    assert two.help == "did the exporter mean Conv?"


def test_cycle():
    (found,) = problems(
        NODE("Add", ["x", "c"], ["a"], name="A"),
        NODE("Relu", ["a"], ["b"], name="B"),
        NODE("Exp", ["b"], ["c"], name="C"),
        NODE("Neg", ["b"], ["y"], name="D"),
    )
    assert "form a cycle" in found.reason
    for name in ("'A'", "'B'", "'C'"):
        assert name in found.reason
    assert "'D'" not in found.reason


def test_nodes_out_of_order_are_sorted():
    model = build([NODE("Exp", ["a"], ["y"]), NODE("Neg", ["x"], ["a"])], [X], ["y"])
    module = import_onnx(model.SerializeToString())
    assert [op.op_name for op in module.main.body.ops] == ["neg", "exp", "return"]


def test_output_defined_twice():
    (found,) = problems(
        NODE("Exp", ["x"], ["y"], name="one"), NODE("Neg", ["x"], ["y"], name="two")
    )
    assert found.node == "two"
    assert "'y' is defined by node 'one' too" in found.reason


def test_output_that_no_node_computes():
    (found,) = problems(NODE("Exp", ["x"], ["a"]), outputs=("missing",))
    assert (found.node, found.operator) == ("missing", "output")


@pytest.mark.parametrize(
    ("node", "text"),
    [
        (NODE("Softmax", ["x"], ["y"], axis=9), "axis 9 is out of range"),
        (NODE("Flatten", ["x"], ["y"], nonsense=1), "bad attribute 'nonsense'"),
        (NODE("Relu", [], ["y"]), "operands"),
        (NODE("Add", ["x", ""], ["y"]), "operands"),
        (NODE("MaxPool", ["x"], ["y"]), "'kernel_shape' is missing"),
        (NODE("Cast", ["x"], ["y"], to=TensorProto.STRING), "no element type for STRING"),
        (NODE("Cast", ["x"], ["y"], to=999), "no element type for 999"),
        (NODE("Transpose", ["x"], ["y"], perm=[0, 0, 1, 2]), "transpose"),
        (NODE("Einsum", ["x"], ["y"], equation="ii->i"), "does not fit"),
        (NODE("Einsum", ["x"], ["y"], equation="iijk->i"), "diagonal"),
        (NODE("Resize", ["x"], ["y"]), "neither scales nor sizes"),
        (NODE("Einsum", ["x", "x"], ["y"], equation="abcd,abce->aa"), "repeats a label"),
        (NODE("BatchNormalization", ["x"] * 5, ["y"], training_mode=1), "training"),
    ],
)  # fmt: skip
def test_bad_nodes(node, text):
    node.name = "bad"
    (found,) = problems(node)
    assert found.node == "bad"
    assert text in found.line()


def test_outputs_that_are_not_supported_count_when_used():
    pool = NODE("MaxPool", ["x"], ["y", "i"], name="pool", kernel_shape=[2, 2])
    import_onnx(build([pool], [X], ["y"]).SerializeToString())
    (found,) = problems(pool, NODE("Neg", ["i"], ["z"]), outputs=("y", "z"))
    assert found.node == "pool"
    assert "output 'i' is used" in found.reason
    (found,) = problems(pool, outputs=("y", "i"))
    assert found.node == "pool"


def test_contradicting_shapes_name_both():
    (found,) = problems(
        NODE("MatMul", ["x", "w"], ["y"], name="mm"), constants={"w": np.ones((9, 2), np.float32)}
    )
    assert found.node == "mm"
    assert "8" in found.reason
    assert "9" in found.reason


def test_message_lists_all_in_twelve_lines():
    nodes = [NODE("Exp", [f"missing{i}"], [f"y{i}"], name=f"n{i}") for i in range(30)]
    error = failure(build(nodes, [X], [f"y{i}" for i in range(30)]))
    lines = str(error).splitlines()
    assert len(error.problems) == 30
    assert len(lines) == 12
    assert lines[0].endswith("30 problems")
    assert lines[-1].strip() == "... and 20 more"
    same = [NODE("Bernoulli", ["x"], [f"y{i}"], name=f"n{i}") for i in range(30)]
    error = failure(build(same, [X], [f"y{i}" for i in range(30)]))
    assert len(error.problems) == 30
    assert "n0 and 29 more (Bernoulli)" in str(error)


def test_model_error_pickles():
    error = ModelError([Problem("n", "Conv", "why", "how")], "file.onnx")
    again = pickle.loads(pickle.dumps(error))
    assert again.problems == error.problems
    assert str(again) == str(error)


@pytest.mark.parametrize(
    "data",
    [b"", b"hello, this is text\n" * 9, b"\x00" * 64, b"{}", bytes(range(256)), b"\x08\x07"],
    ids=["empty", "text", "zeros", "json", "bytes", "only a version"],
)
def test_not_onnx(data):
    error = failure(data)
    assert len(error.problems) == 1
    assert len(str(error).splitlines()) <= 3


def test_file_errors_name_the_file(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"model\.onnx"):
        import_onnx(path)
    with pytest.raises(FileNotFoundError):
        import_onnx(tmp_path / "missing.onnx")


def small_model() -> bytes:
    return build(
        [
            NODE("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
            NODE("Shape", ["a"], ["s"]),
            NODE("Reshape", ["a", "t"], ["b"], name="r"),
            NODE("Softmax", ["b"], ["y"], axis=1),
        ],
        [X],
        ["y"],
        {"w": np.ones((2, 3, 3, 3), np.float32), "t": np.array([0, -1], np.int64)},
    ).SerializeToString()


def test_names_that_are_no_text():
    data = small_model().replace(b"Softmax", b"Soft\xff\xfe\xfa")
    assert "UTF-8" in failure(data).problems[0].reason


def test_truncated_files():
    data = small_model()
    import_onnx(data)
    for end in range(len(data)):
        failure(data[:end])


def outcome(data: bytes) -> ModelError | None:
    try:
        import_onnx(data)
    except ModelError as e:
        return e
    return None


def test_damaged_files_never_crash():
    """Flipped bytes give a module or a ModelError."""
    data, rng = small_model(), np.random.default_rng(1)
    found = []
    for _ in range(600):
        damaged = bytearray(data)
        for at in rng.integers(0, len(data), 3):
            damaged[at] = rng.integers(0, 256)
        found.append(outcome(bytes(damaged)))
    errors = [e for e in found if e is not None]
    assert len(errors) > 100
    assert all(e.problems and len(str(e).splitlines()) <= 12 for e in errors)


def test_initializer_whose_data_is_short():
    """A shape larger than the data is refused before memory is taken."""
    tensor = numpy_helper.from_array(np.ones(4, np.float32), "w")
    tensor.dims[:] = [1 << 40]
    model = build([NODE("Mul", ["x", "w"], ["y"])], [X], ["y"])
    model.graph.initializer.append(tensor)
    (found,) = failure(model).problems
    assert (found.node, found.operator) == ("w", "initializer")
    assert "16 bytes" in found.reason


def test_inputs_that_are_no_tensors():
    model = build([NODE("Identity", ["x"], ["y"])], [], ["y"])
    model.graph.input.append(helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, [1]))
    (found,) = failure(model).problems
    assert "sequence_type" in found.reason
    no_shape = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
    model = build([NODE("Identity", ["x"], ["y"])], [no_shape], ["y"])
    (found,) = failure(model).problems
    assert "no declared shape" in found.reason
    assert import_onnx(model.SerializeToString(), {"x": "f32[2,N]"}).main.args[0].name == "x"


def test_unsupported_operator_sets():
    model = build([NODE("Relu", ["x"], ["y"])], [X], ["y"], opset=99)
    assert "operator set 99" in failure(model).problems[0].reason
