"""The benchmark harness runs and writes its figures. No timing is asserted."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
DIGITS = HERE.parents[1] / "examples" / "digits" / "digits.onnx"


def run_bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(HERE / "bench.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.parametrize("peer", ["onnxruntime", "openvino"])
def test_pjit_and_a_peer_on_the_example_network(peer, tmp_path):
    if importlib.util.find_spec(peer) is None:
        pytest.skip(f"{peer} is not installed")
    figures = tmp_path / "figures.json"
    done = run_bench(
        DIGITS, "--rounds", 1, "--batch", 3, "--peers", peer, "--memory", "--json", figures
    )
    assert done.returncode == 0, done.stderr
    assert "geometric mean" in done.stdout

    document = json.loads(figures.read_text())
    assert document["versions"][peer]
    (result,) = document["results"]
    assert result["model"] == "digits x3"
    assert result["threads"] == 1
    assert result["fma_limit_gflops"] > 0
    assert set(result["runtimes"]) == {"pjit", peer}
    for name, timing in result["runtimes"].items():
        assert timing["error"] is None, (name, timing["error"])
        assert timing["seconds"] > 0
        assert timing["load_s"] > 0
        assert timing["peak_bytes"] >= timing["imports_bytes"] > 0
    ours = result["runtimes"]["pjit"]
    assert ours["cached_load_s"] > 0
    assert ours["difference"] < 1e-4
    assert result["ratio"] == pytest.approx(ours["seconds"] / result["runtimes"][peer]["seconds"])


def test_an_unknown_model_is_a_usage_error():
    done = run_bench("no-such-network", "--peers", "")
    assert done.returncode == 2
    assert "no-such-network" in done.stdout


def test_a_free_dimension_without_a_size_is_named(tmp_path):
    onnx = pytest.importorskip("onnx")
    tensor = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        "free",
        [onnx.helper.make_tensor_value_info("x", tensor, ["N", "length"])],
        [onnx.helper.make_tensor_value_info("y", tensor, ["N", "length"])],
    )
    onnx.save(onnx.helper.make_model(graph), tmp_path / "free.onnx")
    done = run_bench("free", "--nets", tmp_path)
    assert done.returncode == 2
    assert "--dim length=SIZE" in done.stdout
