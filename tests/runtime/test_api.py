from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import pjit
from pjit.backends.llvm.target import machine, runs_here
from pjit.errors import FormatError, InputError, ModelError, SettingError

WEIGHT = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
X = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)


def save(path: Path, weight: np.ndarray = WEIGHT, external: str | None = None) -> Path:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="fc"),
        helper.make_node("Relu", ["h"], ["y"], name="act"),
        helper.make_node("Neg", ["h"], ["z"], name="neg"),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])]
    outputs = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 4]) for n in ("y", "z")
    ]
    graph = helper.make_graph(nodes, "net", inputs, outputs, [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    if external is None:
        onnx.save(model, path)
    else:
        onnx.save(model, path, save_as_external_data=True, location=external, size_threshold=0)
    return path


def check(model: pjit.Model, weight: np.ndarray = WEIGHT) -> None:
    outputs = model.run({"x": X})
    h = X @ weight
    assert list(outputs) == ["y", "z"]
    np.testing.assert_allclose(outputs["y"], np.maximum(h, 0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(outputs["z"], -h, rtol=1e-5, atol=1e-5)


def test_load_and_run(tmp_path: Path) -> None:
    with pjit.load(save(tmp_path / "net.onnx"), threads=2) as model:
        assert [str(s) for s in model.inputs] == ["x: float32[batch,8]"]
        assert [s.name for s in model.outputs] == ["y", "z"]
        check(model)
        y, z = model(X)
        assert isinstance(y, pjit.Array)
        np.testing.assert_array_equal(np.maximum(-np.asarray(z), 0), y)
        assert "relu" in model.ir()
        assert "launch" in model.ir(model.stages[-1])
        assert "fc" in str(model.report())
        assert "net.onnx" in repr(model)


def test_a_hit_imports_no_onnx(tmp_path: Path) -> None:
    path = save(tmp_path / "net.onnx")
    script = (
        "import sys, pjit\n"
        "assert not {'llvmlite', 'numpy', 'onnx'} & sys.modules.keys()\n"
        f"m = pjit.load({str(path)!r}, threads=2)\n"
        "print(m.report().cached, 'onnx' in sys.modules)\n"
        "assert 'matmul' in m.ir()\n"
    )
    lines = [
        subprocess.run(
            [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=120
        ).stdout.split()
        for _ in range(2)
    ]
    assert lines == [["False", "True"], ["True", "False"]]


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    path = save(tmp_path / "net.onnx")
    check(pjit.load(path, threads=2))
    twin = path.rename(tmp_path / "renamed.bin")
    assert pjit.load(twin, threads=2).report().cached
    check(pjit.load(save(path, WEIGHT + 1), threads=2), WEIGHT + 1)


def test_external_data_is_part_of_the_content(tmp_path: Path) -> None:
    path = save(tmp_path / "net.onnx", external="net.bin")
    check(pjit.load(path, threads=2))
    hit = pjit.load(path, threads=2)
    assert hit.report().cached
    check(hit)
    (tmp_path / "net.bin").write_bytes((WEIGHT * 2).tobytes())
    changed = pjit.load(path, threads=2)
    assert not changed.report().cached
    check(changed, WEIGHT * 2)
    (tmp_path / "net.bin").unlink()
    with pytest.raises(ModelError, match=r"net\.bin"):
        pjit.load(path, threads=2)


def test_types_of_inputs_can_be_given(tmp_path: Path) -> None:
    path = save(tmp_path / "net.onnx")
    model = pjit.load(path, threads=2, inputs={"x": "f32[3,8]"})
    assert model.inputs[0].shape == (3, 8)
    check(model)
    assert pjit.load(path, threads=2).inputs[0].shape == ("batch", 8)
    with pytest.raises(InputError, match="'w'"):
        pjit.load(path, inputs={"w": "f32[3,8]"})


def test_settings_are_arguments(tmp_path: Path) -> None:
    path = save(tmp_path / "net.onnx")
    model = pjit.load(path, threads=1, exec_mode="sync", dump=tmp_path / "ir", verify=True)
    assert model.report().threads == 1
    assert model(X)[0].is_ready()
    assert any(p.name.endswith("-fuse.pir") for p in (tmp_path / "ir").iterdir())
    with pytest.raises(SettingError, match="exec_mode"):
        pjit.load(path, exec_mode="now")


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="levels of x86-64")
def test_the_instruction_set_is_a_setting(tmp_path: Path, monkeypatch) -> None:
    path = save(tmp_path / "net.onnx")
    monkeypatch.setenv("PJIT_ISA", "x86-64-v2")
    model = pjit.load(path, threads=2, dump=tmp_path / "v2")
    check(model)
    assert "x86-64-v2" in str(model.report())
    assert "ymm" not in (tmp_path / "v2" / "program.s").read_text()
    if runs_here(machine("x86-64-v3")):
        check(pjit.load(path, threads=2, isa="x86-64-v3", dump=tmp_path / "v3"))
        assert "ymm" in (tmp_path / "v3" / "program.s").read_text()
    with pytest.raises(SettingError, match=r"(?s)PJIT_ISA.*host, x86-64-.*x86-64-v2.*'z80'"):
        pjit.load(path, isa="z80")


def test_direct_products_are_a_setting(tmp_path: Path, monkeypatch) -> None:
    """The programs of both ways are different entries of the cache."""
    path = save(tmp_path / "net.onnx")
    folder = tmp_path / "cache"
    check(pjit.load(path, threads=1, cache_dir=folder))
    assert pjit.load(path, threads=1, cache_dir=folder).report().cached
    model = pjit.load(path, threads=1, cache_dir=folder, direct=True)
    assert not model.report().cached
    check(model)
    monkeypatch.setenv("PJIT_DIRECT", "1")
    assert pjit.load(path, threads=1, cache_dir=folder).report().cached


@pytest.mark.parametrize(
    ("inputs", "parts"),
    [
        ({}, ["missing: x"]),
        ({"y": X}, ["missing: x", "unknown: y"]),
        ({"x": X, "mask": X}, ["unknown: mask", "x: float32[batch,8]"]),
        ({"x": X.astype(np.float64)}, ["'x'", "float64"]),
        ({"x": X[:, :5]}, ["'x'", "dimension 1"]),
    ],
)
def test_wrong_inputs(tmp_path: Path, inputs: dict, parts: list[str]) -> None:
    model = pjit.load(save(tmp_path / "net.onnx"), threads=2)
    with pytest.raises(InputError) as e:
        model.run(inputs)
    assert all(p in str(e.value) for p in parts), str(e.value)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ["empty"]),
        (b'name: "net"\nlayer {\n}\n', ["text file", 'name: "net"']),
        (b"PK\x03\x04" + b"\0" * 50, ["ZIP", "PyTorch", "export it to ONNX"]),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 50, ["HDF5"]),
        (b"\x80\x02}q\0.", ["pickle"]),
        (b"\x1c\0\0\0TFL3" + b"\0" * 50, ["TensorFlow Lite"]),
        (b"\x89PJIT\r\n\x1a" + b"\0" * 4, [".pjit"]),
    ],
)
def test_other_files(tmp_path: Path, content: bytes, parts: list[str]) -> None:
    file = tmp_path / "model"
    file.write_bytes(content)
    with pytest.raises(FormatError) as e:
        pjit.load(file)
    text = str(e.value)
    assert all(p in text for p in [*parts, str(file)]), text


def test_bytes_that_are_no_model(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"\x08\x07\xff\xfe" * 20)
    with pytest.raises(ModelError, match="ONNX"):
        pjit.load(file)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    save(tmp_path / "resnet50.onnx")
    with pytest.raises(FileNotFoundError, match=r"resnet\.onnx.*resnet50\.onnx"):
        pjit.load(tmp_path / "resnet.onnx")
    with pytest.raises(FormatError, match="folder"):
        pjit.load(tmp_path)


def test_the_facade() -> None:
    assert set(dir(pjit)) >= {"Array", "compile", "load", "errors"}
    assert pjit.errors.InputError is InputError
    with pytest.raises(AttributeError, match="no attribute 'compiler_'"):
        _ = pjit.compiler_


def test_after_equal_calls_others_are_right_or_refused(tmp_path: Path) -> None:
    with pjit.load(save(tmp_path / "net.onnx"), threads=2) as model:
        for _ in range(8):
            check(model)
        kept = model(X)[0]
        for x in (X[:2], X[::-1], np.asfortranarray(X), pjit.Array(X)):
            y = model(x)[0]
            np.testing.assert_allclose(y, np.maximum(np.asarray(x) @ WEIGHT, 0), atol=1e-5)
        np.testing.assert_allclose(kept, np.maximum(X @ WEIGHT, 0), atol=1e-5)
        with pytest.raises(InputError, match="wrong type"):
            model(X.astype(np.float64))
        with pytest.raises(InputError, match="1 input"):
            model(X, X)
        with pytest.raises(InputError):
            model.run({"w": X})
    with pytest.raises(pjit.errors.ExecutionError, match="closed"):
        model(X)
