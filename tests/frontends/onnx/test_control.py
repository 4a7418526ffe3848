"""If, functions of the model and functions of the standard."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_nodes import Case, assert_close, build, check, run_pjit, run_reference

from pjit.errors import ModelError
from pjit.frontends.onnx import import_onnx
from pjit.ir.verify import obligations, verify

NODE = helper.make_node
X = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
COND = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
DATA = np.random.default_rng(5).uniform(-1, 1, (3, 4)).astype("f4")


def branch(*nodes: onnx.NodeProto, outputs=("z",), **constants: np.ndarray) -> onnx.GraphProto:
    return helper.make_graph(
        list(nodes),
        "branch",
        [],
        [onnx.ValueInfoProto(name=o) for o in outputs],
        [numpy_helper.from_array(a, n) for n, a in constants.items()],
    )


def compare(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> None:
    pytest.importorskip("onnxruntime")
    wanted = run_reference(model, feeds, "onnxruntime")
    for f, w in zip(run_pjit(model, feeds), wanted, strict=True):
        assert_close(f, np.asarray(w), 1e-5)


@pytest.mark.parametrize("choice", [True, False])
def test_if_uses_outer_values(choice):
    """A value and an initializer from outside, an initializer of the branch."""
    model = build(
        [
            NODE("Exp", ["x"], ["e"]),
            NODE(
                "If",
                ["c"],
                ["y"],
                then_branch=branch(NODE("Mul", ["e", "w"], ["z"])),
                else_branch=branch(NODE("Sub", ["x", "v"], ["z"]), v=np.full(4, 2.0, "f4")),
            ),
        ],
        [X, COND],
        ["y"],
        {"w": np.arange(4, dtype="f4")},
    )
    compare(model, {"x": DATA, "c": np.array(choice)})


def test_if_with_a_known_condition_takes_one_branch():
    bad = branch(NODE("StringNormalizer", ["x"], ["z"]))
    good = branch(NODE("Neg", ["x"], ["z"]))
    model = build(
        [
            NODE("Shape", ["x"], ["s"]),
            NODE("Size", ["s"], ["rank"]),
            NODE("Constant", [], ["two"], value_int=2),
            NODE("Equal", ["rank", "two"], ["c"]),
            NODE("If", ["c"], ["y"], then_branch=good, else_branch=bad),
        ],
        [X],
        ["y"],
    )
    module = import_onnx(model.SerializeToString())
    assert [op.op_name for op in module.main.body.ops] == ["neg", "return"]


def test_problems_in_branches_are_listed_once():
    bad = [branch(NODE("StringNormalizer", ["x"], ["z"], name=n)) for n in ("p", "q")]
    model = build(
        [NODE("If", ["c"], ["y"], then_branch=bad[0], else_branch=bad[1])], [X, COND], ["y"]
    )
    with pytest.raises(ModelError) as caught:
        import_onnx(model.SerializeToString())
    assert [p.node for p in caught.value.problems] == ["p", "q"]


def test_branches_of_different_shape():
    model = build(
        [
            NODE(
                "If",
                ["c"],
                ["y"],
                then_branch=branch(NODE("Neg", ["x"], ["z"])),
                else_branch=branch(NODE("ReduceSum", ["x"], ["z"], keepdims=0)),
            )
        ],
        [X, COND],
        ["y"],
    )
    with pytest.raises(ModelError, match="in one branch"):
        import_onnx(model.SerializeToString())


def body(inputs: list, *nodes: onnx.NodeProto, outputs: list) -> onnx.GraphProto:
    return helper.make_graph(
        list(nodes),
        "body",
        [helper.make_tensor_value_info(n, t, s) for n, t, s in inputs],
        [onnx.ValueInfoProto(name=o) for o in outputs],
    )


ITERATION = [("i", TensorProto.INT64, []), ("go", TensorProto.BOOL, [])]
STATE = ("s", TensorProto.FLOAT, ["N", 4])


def operators(model: onnx.ModelProto) -> set[str]:
    return {op.op_name for op in import_onnx(model.SerializeToString()).main.body.ops}


def test_loop_over_a_size_is_a_scan():
    """The count is a size; the body uses the index and an outer value, and stacks an output."""
    step = body(
        [*ITERATION, STATE],
        NODE("Identity", ["go"], ["on"]),
        NODE("Cast", ["i"], ["if"], to=TensorProto.FLOAT),
        NODE("Mul", ["x", "if"], ["t"]),
        NODE("Add", ["s", "t"], ["s2"]),
        NODE("ReduceSum", ["s2"], ["r"], keepdims=0),
        outputs=["on", "s2", "r"],
    )
    model = build(
        [
            NODE("Shape", ["x"], ["shape"]),
            NODE("Constant", [], ["zero"], value_int=0),
            NODE("Gather", ["shape", "zero"], ["n"]),
            NODE("Loop", ["n", "", "x"], ["y", "ys"], body=step),
        ],
        [X],
        ["y", "ys"],
    )
    assert "scan" in operators(model)
    compare(model, {"x": DATA})


def test_loop_until_a_condition_is_a_while():
    step = body(
        [*ITERATION, STATE],
        NODE("Mul", ["s", "half"], ["s2"]),
        NODE("ReduceMax", ["s2"], ["top"], keepdims=0),
        NODE("Greater", ["top", "bound"], ["on"]),
        outputs=["on", "s2"],
    )
    constants = {"half": np.array(0.5, "f4"), "bound": np.array(0.1, "f4")}
    limit = {"limit": np.array(100, "i8"), "go0": np.array(True)}
    loop = NODE("Loop", ["limit", "go0", "x"], ["y"], body=step)
    model = build([loop], [X], ["y"], constants | limit)
    assert "while" in operators(model)
    compare(model, {"x": DATA})


def test_loop_whose_steps_depend_on_data_cannot_stack():
    step = body(
        [*ITERATION, STATE],
        NODE("Identity", ["go"], ["on"]),
        NODE("Identity", ["s"], ["s2"]),
        outputs=["on", "s2", "s2"],
    )
    count = helper.make_tensor_value_info("n", TensorProto.INT64, [])
    model = build([NODE("Loop", ["n", "", "x"], ["y", "z"], body=step)], [X, count], ["y", "z"])
    with pytest.raises(ModelError, match="as data decides"):
        import_onnx(model.SerializeToString())


def test_loop_that_grows_a_value():
    step = body(
        [*ITERATION, ("s", TensorProto.FLOAT, ["N", "M"])],
        NODE("Identity", ["go"], ["on"]),
        NODE("Concat", ["s", "s"], ["s2"], axis=1),
        outputs=["on", "s2"],
    )
    count = {"n": np.array(3, "i8")}
    model = build([NODE("Loop", ["n", "", "x"], ["y"], body=step)], [X], ["y"], count)
    with pytest.raises(ModelError, match="changes its type"):
        import_onnx(model.SerializeToString())


@pytest.mark.parametrize("way", [0, 1])
def test_scan(way):
    step = body(
        [("s", TensorProto.FLOAT, ["N"]), ("e", TensorProto.FLOAT, ["N"])],
        NODE("Add", ["s", "e"], ["s2"]),
        NODE("Mul", ["s2", "e"], ["o"]),
        outputs=["s2", "o"],
    )
    scan = NODE(
        "Scan", ["init", "x"], ["y", "ys"], body=step, num_scan_inputs=1, scan_input_axes=[1],
        scan_input_directions=[way], scan_output_axes=[1], scan_output_directions=[way],
    )  # fmt: skip
    model = build([scan], [X], ["y", "ys"], {"init": np.zeros(3, "f4")})
    compare(model, {"x": DATA})


def test_squeeze_of_a_symbolic_size():
    """PyTorch exports it as an If on the size; the program then needs the size to be 1."""
    model = build(
        [
            NODE("Shape", ["x"], ["shape"]),
            NODE("Constant", [], ["zero"], value_int=0),
            NODE("Gather", ["shape", "zero"], ["n"]),
            NODE("Constant", [], ["one"], value_int=1),
            NODE("Constant", [], ["axes"], value_ints=[0]),
            NODE("Equal", ["n", "one"], ["c"]),
            NODE(
                "If",
                ["c"],
                ["y"],
                then_branch=branch(NODE("Squeeze", ["x", "axes"], ["z"])),
                else_branch=branch(NODE("Identity", ["x"], ["z"])),
            ),
        ],
        [X],
        ["y"],
    )
    module = import_onnx(model.SerializeToString())
    verify(module)
    assert str(module.main.results[0].type) == "f32[4]"
    assert [sorted(map(str, pair)) for pair in obligations(module.main.body)] == [["4", "4*N"]]
    compare(model, {"x": DATA[:1]})


def function(name: str, *nodes: onnx.NodeProto, inputs=("a", "b"), attributes=()) -> object:
    return helper.make_function(
        "local", name, list(inputs), ["r"], list(nodes), [helper.make_opsetid("", 17),
        helper.make_opsetid("local", 1)], list(attributes),
    )  # fmt: skip


def with_functions(nodes: list[onnx.NodeProto], functions: list) -> onnx.ModelProto:
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return build(nodes, [X], ["y"], opset_imports=imports, functions=functions)


def test_functions_of_the_model():
    """Nested calls, an attribute of the caller, an absent optional input."""
    scaled = NODE("LeakyRelu", ["a"], ["r"])
    scaled.attribute.append(
        onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    )
    inner = function("Leaky", scaled, inputs=["a"], attributes=["slope"])
    clip = function("Top", NODE("Clip", ["a", "b"], ["r"]))
    outer = function(
        "Twice",
        NODE("Leaky", ["a"], ["t"], domain="local", slope=0.3),
        NODE("Top", ["t"], ["u"], domain="local"),
        NODE("Mul", ["u", "b"], ["r"]),
    )
    nodes = [NODE("Twice", ["x", "x"], ["y"], domain="local")]
    compare(with_functions(nodes, [inner, clip, outer]), {"x": DATA})


def test_functions_that_use_themselves():
    loop = function("Loop_", NODE("Loop_", ["a"], ["r"], domain="local"), inputs=["a"])
    model = with_functions([NODE("Loop_", ["x"], ["y"], domain="local", name="call")], [loop])
    with pytest.raises(ModelError, match="uses itself") as caught:
        import_onnx(model.SerializeToString())
    assert [p.node for p in caught.value.problems] == ["call"]


def test_functions_that_grow_without_bound(monkeypatch):
    """Each calls the one before twice."""
    monkeypatch.setattr("pjit.frontends.onnx.functions.MAX_NODES", 3000)
    functions = [function("F0", NODE("Neg", ["a"], ["r"]), inputs=["a"])]
    for i in range(1, 40):
        calls = [
            NODE(f"F{i - 1}", ["a"], ["t"], domain="local"),
            NODE(f"F{i - 1}", ["t"], ["r"], domain="local"),
        ]
        functions.append(function(f"F{i}", *calls, inputs=["a"]))
    model = with_functions([NODE("F39", ["x"], ["y"], domain="local")], functions)
    with pytest.raises(ModelError, match="expand to more than"):
        import_onnx(model.SerializeToString())


@pytest.mark.parametrize("op", ["HannWindow", "BlackmanWindow"])
def test_functions_of_the_standard(op):
    pytest.importorskip("onnxruntime")
    check(Case(op, (np.array(8, "i8"),), const=(0,), tolerance=1e-4))
