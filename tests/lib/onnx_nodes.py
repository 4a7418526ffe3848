"""Models of one node, compared with onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pjit.frontends.onnx import import_onnx
from pjit.ir.interp import interpret


@dataclass(frozen=True)
class Case:
    """A node: operands (None is an absent one), attributes, the operator set.

    ``const`` lists the operands that are initializers; the others are inputs with symbolic sizes
    (``symbolic``), or with static ones.
    """

    op: str
    inputs: tuple[np.ndarray | None, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    opset: int = 17
    const: tuple[int, ...] = ()
    outputs: int = 1
    symbolic: bool = True
    tolerance: float = 1e-5
    label: str = ""
    reference: str = "onnxruntime"

    def __str__(self) -> str:
        text = f"{self.op}-{self.opset}-{self.label}" if self.label else f"{self.op}-{self.opset}"
        return text.replace(" ", "_")


def value_info(name: str, array: np.ndarray, symbolic: bool) -> onnx.ValueInfoProto:
    """Declares an input, each size as a symbol of its own (sizes of 1 broadcast) or as it is."""
    dims: list[Any] = list(array.shape)
    if symbolic:
        dims = [d if d == 1 else f"{name}_{i}" for i, d in enumerate(dims)]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), dims)


def build(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[str],
    constants: Mapping[str, np.ndarray] | None = None,
    opset: int = 17,
    **fields: Any,
) -> onnx.ModelProto:
    """A model; outputs have no declared type."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        list(inputs),
        [onnx.ValueInfoProto(name=o) for o in outputs],
        [numpy_helper.from_array(a, n) for n, a in (constants or {}).items()],
    )
    imports = fields.pop("opset_imports", [helper.make_opsetid("", opset)])
    return helper.make_model(graph, opset_imports=imports, ir_version=9, **fields)


def model_of(case: Case, symbolic: bool) -> onnx.ModelProto:
    """The model of a case."""
    names = ["" if x is None else f"x{i}" for i, x in enumerate(case.inputs)]
    constants, inputs = {}, []
    for i, x in enumerate(case.inputs):
        if x is not None and i in case.const:
            constants[names[i]] = x
        elif x is not None:
            inputs.append(value_info(names[i], x, symbolic))
    outputs = [f"y{i}" for i in range(case.outputs)]
    node = helper.make_node(case.op, names, outputs, name="node", **case.attrs)
    return build([node], inputs, outputs, constants, case.opset)


def run_reference(model: onnx.ModelProto, feeds: dict[str, np.ndarray], which: str) -> list[Any]:
    """The outputs by onnxruntime without optimisations, or by the reference of the standard."""
    if which == "onnx":
        from onnx.reference import ReferenceEvaluator

        return list(ReferenceEvaluator(model).run(None, feeds))
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, feeds))


def run_pjit(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs by the importer and the interpreter."""
    module = import_onnx(model.SerializeToString())
    return list(interpret(module, *(feeds[n] for n in module.main.attrs["inputs"])))


def assert_close(found: np.ndarray, wanted: np.ndarray, tolerance: float) -> None:
    """Equal types, shapes and special values; numbers relative to the largest one."""
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    if wanted.dtype.kind != "f":
        np.testing.assert_array_equal(found, wanted)
        return
    special = ~np.isfinite(wanted)
    np.testing.assert_array_equal(found[special], wanted[special])
    scale = np.abs(wanted[~special]).max(initial=0.0) + 1e-6
    error = np.abs(found[~special].astype("f8") - wanted[~special]).max(initial=0.0) / scale
    assert error <= tolerance


def check(case: Case) -> None:
    """Compares a case, with symbolic sizes when it allows them and with static ones."""
    feeds = {f"x{i}": x for i, x in enumerate(case.inputs) if x is not None and i not in case.const}
    wanted = run_reference(model_of(case, False), feeds, case.reference)
    for symbolic in (True, False) if case.symbolic else (False,):
        found = run_pjit(model_of(case, symbolic), feeds)
        assert len(found) == len(wanted)
        for f, w in zip(found, wanted, strict=True):
            assert_close(f, np.asarray(w), case.tolerance)
