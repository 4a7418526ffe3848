"""Tensors: where their data lies, and what is refused."""

from __future__ import annotations

import os

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_nodes import build

from pjit.errors import ModelError
from pjit.frontends.onnx import import_onnx
from pjit.frontends.onnx.reader import Refused, load_tensor
from pjit.ir.interp import interpret

DTYPES = ["f4", "f8", "f2", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "bool"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_raw_and_typed_data(dtype):
    array = np.array([[0, 1, 2], [3, 1, 0]]).astype(dtype)
    number = helper.np_dtype_to_tensor_dtype(array.dtype)
    raw = numpy_helper.from_array(array)
    typed = helper.make_tensor("t", number, array.shape, array.flatten().tolist())
    for tensor in (raw, typed):
        found = load_tensor(tensor, None)
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


def test_bfloat16():
    array = np.array([1.5, -2.0], ml_dtypes.bfloat16)
    tensor = TensorProto(data_type=TensorProto.BFLOAT16, dims=[2], raw_data=array.tobytes())
    np.testing.assert_array_equal(load_tensor(tensor, None), array)
    typed = helper.make_tensor("t", TensorProto.BFLOAT16, [2], [1.5, -2.0])
    np.testing.assert_array_equal(load_tensor(typed, None), array)


def test_raw_data_is_not_copied():
    tensor = numpy_helper.from_array(np.arange(1000, dtype=np.float32))
    assert not load_tensor(tensor, None).flags.owndata


def test_bool_bytes_other_than_one_are_true():
    tensor = TensorProto(data_type=TensorProto.BOOL, dims=[3], raw_data=b"\x00\x02\xff")
    assert load_tensor(tensor, None).view("u1").tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    "tensor",
    [
        TensorProto(data_type=TensorProto.FLOAT, dims=[2], raw_data=b"123"),
        TensorProto(data_type=TensorProto.FLOAT, dims=[2], float_data=[1.0]),
        TensorProto(data_type=TensorProto.FLOAT, dims=[-2], float_data=[1.0]),
        TensorProto(data_type=TensorProto.STRING, dims=[1], string_data=[b"a"]),
        TensorProto(data_type=77, dims=[1], raw_data=b"1"),
    ],
)
def test_refused_tensors(tensor):
    with pytest.raises(Refused):
        load_tensor(tensor, None)


def external(tmp_path, location: str, **fields) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])
    model = build([helper.make_node("Add", ["x", "w"], ["y"])], [x], ["y"])
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **fields}.items():
        tensor.external_data.add(key=key, value=str(value))
    model.graph.initializer.append(tensor)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    return model


def test_external_data(tmp_path):
    weights = np.arange(8, dtype=np.float32)
    (tmp_path / "sub").mkdir()
    weights.tofile(tmp_path / "sub" / "w.bin")
    external(tmp_path, "sub/w.bin", offset=8, length=12)
    module = import_onnx(tmp_path / "model.onnx")
    (y,) = interpret(module, np.zeros(3, np.float32))
    np.testing.assert_array_equal(y, weights[2:5])


def refusal(tmp_path) -> str:
    with pytest.raises(ModelError) as caught:
        import_onnx(tmp_path / "model.onnx")
    (found,) = caught.value.problems
    assert found.node == "w"
    return found.reason


@pytest.mark.parametrize("location", ["../w.bin", "/etc/passwd", "a/../../w.bin", "", "a\0b"])
def test_external_data_outside_the_folder(tmp_path, location):
    (tmp_path.parent / "w.bin").write_bytes(bytes(12))
    external(tmp_path, location)
    assert "outside the folder" in refusal(tmp_path)


def test_external_data_through_links(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(12))
    os.symlink(tmp_path / "w.bin", folder / "link.bin")
    external(folder, "link.bin")
    assert "link out of the folder" in refusal(folder)
    os.symlink(tmp_path, folder / "up")
    external(folder, "up/w.bin")
    assert "link out of the folder" in refusal(folder)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"offset": 4}, "ends at byte 16"),
        ({"offset": -4}, "begins at byte -4"),
        ({"length": 8}, "8 bytes"),
        ({"offset": "x"}, "bad offset"),
    ],
)
def test_external_data_of_the_wrong_size(tmp_path, fields, text):
    (tmp_path / "w.bin").write_bytes(bytes(12))
    external(tmp_path, "w.bin", **fields)
    assert text in refusal(tmp_path)


def test_external_data_that_is_no_plain_file(tmp_path):
    external(tmp_path, "missing.bin")
    assert "cannot open" in refusal(tmp_path)
    (tmp_path / "folder").mkdir()
    external(tmp_path, "folder")
    assert "not a plain file" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    external(tmp_path, "pipe")
    assert "not a plain file" in refusal(tmp_path)


def test_external_data_of_bytes(tmp_path):
    (tmp_path / "w.bin").write_bytes(bytes(12))
    model = external(tmp_path, "w.bin")
    with pytest.raises(ModelError, match="from its path"):
        import_onnx(model.SerializeToString())


def test_sparse_initializer():
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])
    model = build([helper.make_node("Add", ["x", "w"], ["y"])], [x], ["y"])
    values = helper.make_tensor("w", TensorProto.FLOAT, [2], [5.0, 7.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [2], [1, 5])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2, 3]))
    (y,) = interpret(import_onnx(model.SerializeToString()), np.zeros((2, 3), np.float32))
    np.testing.assert_array_equal(y, [[0, 5, 0], [0, 0, 7]])
