from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import pjit
from pjit.compiler import build, machine_of
from pjit.config import settings
from pjit.errors import FormatError
from pjit.ir.core import Constants, Module
from pjit.ir.text import parse_module, print_module
from pjit.passes.snapshot import clone
from pjit.runtime import artifact
from pjit.runtime.binary import own_constants
from pjit.runtime.container import write

WEIGHT = np.random.default_rng(0).standard_normal((32, 16)).astype(np.float32)
X = np.random.default_rng(1).standard_normal((3, 32)).astype(np.float32)
TEXT = """graph @main(%x: f32[N,32]) -> f32[N,16] {inputs=["x in"], outputs=["y out"]} {
  %w = const @fc/w : f32[32,16]
  %0 = matmul %x, %w : f32[N,16]   // onnx node 'fc' (Gemm)
  return %0
}
"""


def graph() -> Module:
    return parse_module(TEXT, {"fc/w": WEIGHT})


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    artifact.write(tmp_path / "plain.pjit", graph(), notes={"producer": "test"})
    return tmp_path / "plain.pjit"


@pytest.fixture
def native(tmp_path: Path) -> Path:
    options, module = settings(threads=2), graph()
    machine, again = machine_of("cpu", options), partial(clone, module)
    binary = build(again(), "cpu", machine, options, again)
    artifact.write(tmp_path / "native.pjit", module, binary=binary, machine=machine)
    return tmp_path / "native.pjit"


def test_graph(plain: Path) -> None:
    opened = artifact.read(plain)
    assert opened.meta == {"producer": "test"}
    assert not opened.has_code
    module = opened.module()
    assert print_module(module) == print_module(graph())
    np.testing.assert_array_equal(module.constants["fc/w"], WEIGHT)


@pytest.mark.parametrize("trusted", [False, True])
def test_load(plain: Path, native: Path, trusted: bool) -> None:
    for file in (plain, native):
        model = pjit.load(file, threads=2, trusted=trusted)
        assert [str(s) for s in model.inputs] == ["x in: float32[N,32]"]
        y = model.run({"x in": X})["y out"]
        np.testing.assert_allclose(y, X @ WEIGHT, rtol=1e-5, atol=1e-5)
        assert "matmul" in model.ir()
        assert "onnx node 'fc' (Gemm)" in str(model.report())


def test_machine_code_runs_only_from_trusted_files(native: Path, monkeypatch, capsys) -> None:
    from pjit.compiler import Origin

    ran = []
    monkeypatch.setattr("pjit.api.Origin", lambda *a: ran.append(1) or Origin(*a))
    pjit.load(native, threads=2, log="compile")
    assert not ran
    assert "not trusted" in capsys.readouterr().err
    pjit.load(native, threads=2, trusted=True)
    assert ran


def test_code_for_another_machine_is_made_again(native: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(artifact, "machine_key", lambda machine: "another")
    model = pjit.load(native, threads=2, trusted=True, log="compile")
    assert "another machine" in capsys.readouterr().err
    np.testing.assert_allclose(model(X), X @ WEIGHT, rtol=1e-5, atol=1e-5)


def test_code_with_other_products_is_made_again(native: Path, capsys) -> None:
    pjit.load(native, threads=2, trusted=True, log="compile", direct=True)
    assert "another machine" in capsys.readouterr().err
    pjit.load(native, threads=2, trusted=True, log="compile", direct=False)
    assert "another machine" not in capsys.readouterr().err


def test_damaged_weights(plain: Path) -> None:
    data = bytearray(plain.read_bytes())
    data[data.index(WEIGHT.tobytes()) + 9] ^= 1
    plain.write_bytes(bytes(data))
    with pytest.raises(FormatError, match="'weights/fc/w' is damaged") as e:
        pjit.load(plain)
    assert "bytes" in str(e.value.where)


@pytest.mark.parametrize(
    "text",
    [
        "graph @main(%x: f32[3]) {\n  return %y\n}\n",
        "graph @main(%x: f32[3]) {\n  %0 = nothing %x : f32[3]\n  return %0\n}\n",
        "graph @main(%x: f32[3]) {\n  %c = const @c : f32[9]\n  return %c\n}\n",
        "graph @main(%x: f32[3]) {\n  %0 = relu %x : f32[4]\n  return %0\n}\n",
        "",
    ],
)
def test_graphs_that_are_no_ir(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.pjit"
    write(file, "model", {"weights": [], "notes": {}}, {"graph": text.encode()})
    with pytest.raises(FormatError, match="not valid") as e:
        pjit.load(file)
    assert str(file) in str(e.value)


def test_inputs_of_an_artifact_are_fixed(plain: Path) -> None:
    with pytest.raises(FormatError, match="fixed"):
        pjit.load(plain, inputs={"x in": "f32[3,32]"})


@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (7, 5), (100, 3, 11)])
@pytest.mark.parametrize("permuted", [False, True])
def test_constants_in_a_mapped_file_are_copied(
    shape: tuple[int, ...], permuted: bool, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("pjit.runtime.mapped._PIECE", 256)
    want = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
    (tmp_path / "data").write_bytes(b"0123" + want.tobytes())
    mapped = np.memmap(tmp_path / "data", np.uint8, "r")[4:]
    array = np.ndarray(shape, np.float32, mapped if want.size else b"")
    if permuted:
        array, want = array.T, want.T
    module = parse_module(
        "graph @main() -> f32[] { %w = const @w : f32[] return %w }".replace(
            "f32[]", f"f32[{','.join(map(str, want.shape))}]"
        ),
        {"w": array},
    )
    copy = own_constants(module)["w"]
    np.testing.assert_array_equal(copy, want)
    assert copy.shape == want.shape
    assert not want.size or not np.shares_memory(copy, mapped)


def test_the_largest_constants_are_made_first_and_keep_their_order() -> None:
    made: list[int] = []

    def maker(n: int) -> Callable[[], np.ndarray]:
        return lambda: made.append(n) or np.full(n, n, np.float32)  # type: ignore[func-returns-value]

    sizes = [2, 5, 1, 4, 3]
    module = Module(constants=Constants({f"c{n}": maker(n) for n in (*sizes, 6)}))  # 6: unused
    lines = [f"%c{n} = const @c{n} : f32[{n}]" for n in reversed(sizes)]
    types = [f"f32[{n}]" for n in reversed(sizes)]
    returned = ", ".join(f"%c{n}" for n in reversed(sizes))
    text = f"graph @main() -> ({', '.join(types)}) {{ {' '.join(lines)} return {returned} }}"
    module.add(parse_module(text, {f"c{n}": np.zeros(n, np.float32) for n in sizes}).main)
    assert {name: len(a) for name, a in own_constants(module).items()} == {
        f"c{n}": n for n in sizes
    }
    assert list(own_constants(module)) == [f"c{n}" for n in sizes]
    assert made == [5, 4, 3, 2, 1]


def test_several_threads_pack_the_same(tmp_path: Path) -> None:
    module = Module(constants=Constants({f"c{n}": lambda n=n: np.full(n, n) for n in range(1, 9)}))
    lines = [f"%c{n} = const @c{n} : i64[{n}]" for n in range(1, 9)]
    text = f"graph @main() -> i64[1] {{ {' '.join(lines)} return %c1 }}"
    module.add(parse_module(text, {f"c{n}": np.full(n, n) for n in range(1, 9)}).main)
    found = own_constants(module, tmp_path, 4)
    assert {name: a.tolist() for name, a in found.items()} == {
        f"c{n}": [n] * n for n in range(1, 9)
    }
