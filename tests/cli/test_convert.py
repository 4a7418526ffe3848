"""``pjit-convert`` as a user runs it: what it writes and prints, its exit status, bad input."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import pjit
from pjit.cli.convert import main
from pjit.errors import InputError

DIGITS = Path(__file__).parents[2] / "examples" / "digits" / "digits.onnx"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PJIT_CACHE_DIR", str(tmp_path / "cache"))


def model(nodes, inputs=None, outputs=None, weights=()) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(
        nodes,
        "g",
        inputs or [x],
        outputs or [y],
        [numpy_helper.from_array(a, n) for n, a in weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def saved(tmp_path: Path, proto: onnx.ModelProto) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    return path


def test_convert_check_and_run(tmp_path, capsys):
    out = tmp_path / "digits.pjit"
    assert main([str(DIGITS), "-o", str(out), "--check"]) == 0
    printed = capsys.readouterr().out
    assert "check logits: ok" in printed
    x = np.random.default_rng(0).standard_normal((3, 1, 8, 8)).astype(np.float32)
    with pjit.load(out) as converted, pjit.load(DIGITS) as original:
        a, b = (np.asarray(m.run({"image": x})["logits"]) for m in (converted, original))
    assert a.tobytes() == b.tobytes()


def test_check_against_the_interpreter(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pjit.cli.check.onnxruntime_session", lambda *_, **__: None)
    assert main([str(DIGITS), "-o", str(tmp_path / "d.pjit"), "--check"]) == 0
    assert "reference interpreter" in capsys.readouterr().out


def test_check_fails_when_results_differ(tmp_path, capsys):
    arguments = [str(DIGITS), "-o", str(tmp_path / "d.pjit"), "--check", "--tolerance", "0"]
    assert main(arguments) == 1
    assert "DIFFERS" in capsys.readouterr().out


def test_input_fixes_a_free_size(tmp_path):
    out = tmp_path / "d.pjit"
    assert main([str(DIGITS), "-o", str(out), "--input", "image:f32[2,1,8,8]"]) == 0
    with pjit.load(out) as m:
        assert m.inputs[0].shape == (2, 1, 8, 8)
        with pytest.raises(InputError):
            m(np.zeros((3, 1, 8, 8), np.float32))


def test_bench_and_dump(tmp_path, capsys):
    folder = tmp_path / "ir"
    assert main([str(DIGITS), "--bench", "--dump-ir", str(folder)]) == 0
    assert "a call returns after" in capsys.readouterr().out
    written = {p.name for p in folder.iterdir()}
    assert any(n.endswith("-fuse.pir") for n in written)
    assert {"program.ll", "program.s"} <= written


def test_report(capsys):
    assert main([str(DIGITS), "--report", "--threads", "1"]) == 0
    shown = capsys.readouterr().out
    assert "measured us" in shown
    assert "conv_packed" in shown


def test_machine_code_only_from_trusted_files(tmp_path):
    out = tmp_path / "d.pjit"
    assert main([str(DIGITS), "-o", str(out), "--aot"]) == 0
    x = np.ones((1, 1, 8, 8), np.float32)
    with pjit.load(out, cache=False) as careful, pjit.load(out, trusted=True) as trusting:
        assert not careful.report().cached
        assert trusting.report().cached
        a, b = (np.asarray(m(x)).tobytes() for m in (careful, trusting))
    assert a == b


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["m.onnx"],
        ["m.onnx", "-o", "out.bin"],
        ["m.onnx", "-o", "o.pjit", "--input", "x"],
        ["m.onnx", "-o", "o.pjit", "--target", "tpu"],
        ["m.onnx", "-o", "o.pjit", "--no-such-option"],
    ],
)
def test_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "pjit-convert" in capsys.readouterr().err


def add(name: str, *inputs: str, output: str = "y"):
    return helper.make_node(name, list(inputs), [output], name=f"the_{name}")


BAD_MODELS = {
    "unknown operator": (model([add("Frobnicate", "x")]), "Frobnicate"),
    "two problems": (
        model([add("Frobnicate", "x", output="a"), add("Twist", "x", output="b")]),
        "Twist",
    ),
    "cycle": (model([add("Add", "x", "b", output="a"), add("Neg", "a", output="b")]), "cycle"),
    "contradicting shape": (
        model([add("MatMul", "x", "w")], weights=[("w", np.ones((5, 2), np.float32))]),
        "4",
    ),
    "undefined name": (model([add("Add", "x", "nowhere")]), "nowhere"),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_models_that_cannot_be_converted(name, tmp_path, capsys):
    proto, word = BAD_MODELS[name]
    out = tmp_path / "o.pjit"
    assert main([str(saved(tmp_path, proto)), "-o", str(out)]) == 1
    printed = capsys.readouterr().err
    assert word in printed
    assert len(printed.splitlines()) <= 13
    assert not out.exists()


BAD_FILES = {
    "text": b"this is not a model\n",
    "empty": b"",
    "random": np.random.default_rng(0).bytes(5000),
    "truncated": DIGITS.read_bytes()[:20000],
    "zip": b"PK\x03\x04" + bytes(100),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_files_that_are_no_models(name, tmp_path, capsys):
    path = tmp_path / "model.onnx"
    path.write_bytes(BAD_FILES[name])
    assert main([str(path), "-o", str(tmp_path / "o.pjit")]) == 1
    assert capsys.readouterr().err.startswith("pjit-convert: ")
    with pytest.raises(pjit.errors.PjitError):
        pjit.load(path)


def test_no_such_file(tmp_path, capsys):
    assert main([str(tmp_path / "no.onnx"), "-o", str(tmp_path / "o.pjit")]) == 1
    assert "no.onnx" in capsys.readouterr().err


def test_output_that_cannot_be_written(tmp_path, capsys):
    assert main([str(DIGITS), "-o", str(tmp_path / "no" / "folder" / "o.pjit")]) == 1
    assert "o.pjit" in capsys.readouterr().err
    folder = tmp_path / "o.pjit"
    folder.mkdir()
    assert main([str(DIGITS), "-o", str(folder)]) == 1
    assert not list(tmp_path.glob("*.tmp*"))


def test_damaged_and_foreign_pjit_files(tmp_path):
    good = tmp_path / "good.pjit"
    assert main([str(DIGITS), "-o", str(good)]) == 0
    data = good.read_bytes()
    rng = np.random.default_rng(0)
    cut = [data[:n] for n in (3, 20, 100, len(data) // 2, len(data) - 1)]
    flipped = []
    for at in rng.integers(0, len(data), 40):
        damaged = bytearray(data)
        damaged[at] ^= 0xFF
        flipped.append(bytes(damaged))
    x = np.ones((1, 1, 8, 8), np.float32)
    with pjit.load(good, cache=False) as m:
        want = np.asarray(m(x)).tobytes()
    harmless = 0
    for at, bad in enumerate([*cut, *flipped, b"PJIT", b"PJIT\x00" + bytes(500)]):
        path = tmp_path / f"bad{at}.pjit"
        path.write_bytes(bad)
        try:
            with pjit.load(path, cache=False) as m:  # only padding was damaged
                assert np.asarray(m(x)).tobytes() == want
                harmless += 1
        except pjit.errors.PjitError:
            pass
    assert harmless < 5


def test_nan_in_weights_propagates(tmp_path):
    w = np.ones((4, 2), np.float32)
    w[0, 1] = np.nan
    path = saved(tmp_path, model([add("MatMul", "x", "w")], weights=[("w", w)]))
    with pjit.load(path) as m:
        y = np.asarray(m(np.ones((3, 4), np.float32)))
    assert (y[:, 0] == 4).all()
    assert np.isnan(y[:, 1]).all()


X = np.ones((2, 4), np.float32)


@pytest.mark.parametrize(
    "feed",
    [
        {},
        {"x": X, "z": X},
        {"z": X},
        {"x": X.astype(np.float64)},
        {"x": X.astype(np.int32)},
        {"x": X[0]},
        {"x": X[None]},
        {"x": X[:, :3]},
        {"x": "four"},
        {"x": None},
    ],
)
def test_wrong_inputs(feed, tmp_path):
    path = saved(tmp_path, model([add("Relu", "x")]))
    with pjit.load(path) as m:
        with pytest.raises(InputError) as caught:
            m.run(feed)
        assert "x" in str(caught.value)
        assert np.asarray(m.run({"x": X})["y"]).tolist() == X.tolist()


@pytest.mark.parametrize("feed", [X, [X], None, 3])
def test_inputs_that_are_no_dict(feed, tmp_path):
    with pjit.load(saved(tmp_path, model([add("Relu", "x")]))) as m:
        with pytest.raises(InputError, match="no dict"):
            m.run(feed)


@pytest.mark.parametrize("path", [None, 3, b"model.onnx"])
def test_paths_that_are_none(path):
    with pytest.raises(InputError, match="path"):
        pjit.load(path)


@pytest.mark.parametrize("type_", ["f32[-2,4]", (2, 4), "f32[2"])
def test_types_that_inputs_cannot_have(type_, tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        pjit.load(saved(tmp_path, model([add("Relu", "x")])), inputs={"x": type_})


def test_check_says_what_onnxruntime_refuses(tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    wrong = helper.make_tensor_value_info("y", TensorProto.INT64, ["N", 4])
    path = saved(tmp_path, model([add("Relu", "x")], outputs=[wrong]))
    assert main([str(path), "--check"]) == 1
    said = capsys.readouterr().err
    assert "ONNX Runtime does not load the model" in said
    assert len(said.splitlines()) <= 12


def test_check_gives_equal_sizes_to_what_a_branch_adds(tmp_path, capsys):
    """The first dimension of x and the second one of y have to be equal in one of the branches."""
    x, y = (
        helper.make_tensor_value_info(n, TensorProto.FLOAT, shape)
        for n, shape in (("x", ["B", 1]), ("y", [1, "S"]))
    )
    cond = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    reshape = helper.make_node("Reshape", ["y", "column"], ["r"])
    nodes = [reshape, helper.make_node("Add", ["x", "r"], ["z"])]
    z = onnx.ValueInfoProto(name="z")
    then = helper.make_graph(nodes, "then", [], [z])
    otherwise = helper.make_graph([helper.make_node("Neg", ["x"], ["z"])], "else", [], [z])
    node = helper.make_node("If", ["c"], ["y1"], then_branch=then, else_branch=otherwise)
    column = ("column", np.array([-1, 1]))
    out = helper.make_tensor_value_info("y1", TensorProto.FLOAT, None)
    path = saved(tmp_path, model([node], [x, y, cond], [out], [column]))
    assert main([str(path), "--check"]) == 0, capsys.readouterr().err


def test_an_interrupt_leaves_nothing(tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("pjit.runtime.artifact.write", interrupted)
    assert main([str(DIGITS), "-o", str(tmp_path / "d.pjit")]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.pjit"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_cache(tmp_path, monkeypatch):
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    monkeypatch.setenv("PJIT_CACHE_DIR", str(folder))
    with pytest.warns(pjit.errors.CacheWarning), pjit.load(DIGITS) as m:
        m(np.ones((1, 1, 8, 8), np.float32))


def test_full_cache_disk(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.warns(pjit.errors.CacheWarning), pjit.load(DIGITS) as m:
        m(np.ones((1, 1, 8, 8), np.float32)).block_until_ready()
