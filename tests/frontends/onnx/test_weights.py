"""Large weights stay in the file of the model; what is read is the same."""

from __future__ import annotations

import contextlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import pjit
from pjit.frontends.onnx import import_onnx
from pjit.frontends.onnx.reader import load_tensor, read_model
from pjit.frontends.onnx.weights import LARGE, NotWalked, detached


def saved(path, shapes=((300, 200), (7, 3), (200, 128)), dtype=np.float32):
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(s).astype(dtype) for s in shapes]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w0"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 300])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    onnx.save(model, path)
    return model, weights


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64])
def test_tensors_are_those_of_the_file(tmp_path, dtype):
    path = tmp_path / "m.onnx"
    model, weights = saved(path, dtype=dtype)
    read, folder, _ = read_model(path)
    external = [t.data_location == TensorProto.EXTERNAL for t in read.graph.initializer]
    assert external == [w.nbytes >= LARGE for w in weights]
    for tensor, w in zip(read.graph.initializer, weights, strict=True):
        np.testing.assert_array_equal(load_tensor(tensor, folder), w)
    for tensor in read.graph.initializer:
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) >= LARGE:
            tensor.ClearField("raw_data")
    assert read.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)


def test_a_program_does_not_need_the_file_any_more(tmp_path, monkeypatch):
    monkeypatch.setenv("PJIT_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "m.onnx"
    _, weights = saved(path)
    x = np.ones((2, 300), np.float32)
    with pjit.load(path) as m:
        path.write_bytes(b"gone")
        np.testing.assert_allclose(m(x), np.maximum(x @ weights[0], 0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["link.onnx", "m.onnx"])
def test_large_weights_behind_a_link_stay_in_the_file(tmp_path, name):
    (tmp_path / "store").mkdir()
    path = tmp_path / "store" / "m.onnx"
    saved(path)
    link = tmp_path / name
    link.symlink_to(path)
    model, *_ = read_model(link)
    assert any(t.data_location for t in model.graph.initializer)
    a, b = import_onnx(path), import_onnx(link)
    for name, array in a.constants.items():
        np.testing.assert_array_equal(array, b.constants[name])


def test_a_network_behind_a_link_is_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("PJIT_CACHE_DIR", str(tmp_path / "cache"))
    folder = tmp_path / "st\u00f6re"
    folder.mkdir()
    _, weights = saved(folder / "m.onnx")
    link = tmp_path / "link.onnx"
    link.symlink_to(folder / "m.onnx")
    x = np.ones((2, 300), np.float32)
    for _ in range(2):
        with pjit.load(link) as m:
            np.testing.assert_allclose(m(x), np.maximum(x @ weights[0], 0), rtol=1e-4, atol=1e-4)


def test_damaged_files_are_not_walked_and_refused(tmp_path):
    path = tmp_path / "m.onnx"
    saved(path)
    data = path.read_bytes()
    with pytest.raises(NotWalked):
        detached(memoryview(data[:-100000]), "m.onnx")
    rng = np.random.default_rng(0)
    for at in rng.integers(0, 400, 60):
        damaged = bytearray(data)
        damaged[at] ^= rng.integers(1, 256)
        path.write_bytes(damaged)
        with contextlib.suppress(pjit.errors.ModelError):
            import_onnx(path)
