"""The runtimes that the harness compares, behind one protocol.

Each is imported when it is first used, so that a missing peer costs nothing.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

if TYPE_CHECKING:
    from workloads import Feed  # which imports onnx: not in a process whose memory is measured


class Runtime(Protocol):
    """A model loaded by one runtime, on a fixed number of threads."""

    name: ClassVar[str]
    settings: ClassVar[str]

    def __init__(self, path: Path, threads: int) -> None:
        """Load and compile the model."""

    def run(self, feed: Feed) -> Any:
        """Run once; the results exist when this returns."""

    def outputs(self, result: Any) -> list[np.ndarray]:
        """The results of ``run`` as arrays, in the order in which the model declares them."""

    def flops(self) -> float | None:
        """Floating-point operations of a run, where the runtime knows them."""


class Pjit(Runtime):
    """pjit."""

    name = "pjit"
    settings = "threads=n"

    def __init__(self, path: Path, threads: int) -> None:
        import pjit

        self.model = pjit.load(path, threads=threads)

    def run(self, feed: Feed) -> Any:
        result = self.model.run(feed)
        for value in result.values():
            value.block_until_ready()
        return result

    def outputs(self, result: Any) -> list[np.ndarray]:
        return [np.asarray(value) for value in result.values()]

    def flops(self) -> float | None:
        flops = self.model.report().flops
        return flops if isinstance(flops, int) else None


class OnnxRuntime(Runtime):
    """ONNX Runtime, CPU provider, all graph optimizations (its default)."""

    name = "onnxruntime"
    settings = "intra_op_num_threads=n, inter_op_num_threads=1, spinning allowed (default)"

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )

    def run(self, feed: Feed) -> Any:
        return self.session.run(None, feed)

    def outputs(self, result: Any) -> list[np.ndarray]:
        return list(result)

    def flops(self) -> float | None:
        return None


class OpenVino(Runtime):
    """OpenVINO, CPU plugin; inputs and outputs are shared, not copied."""

    name = "openvino"
    settings = (
        "INFERENCE_NUM_THREADS=n, LATENCY, NUM_STREAMS=1, INFERENCE_PRECISION_HINT=f32 "
        "(its default rounds to bfloat16 where the processor multiplies that type)"
    )

    def __init__(self, path: Path, threads: int) -> None:
        import openvino

        config = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        compiled = openvino.Core().compile_model(path, "CPU", config)
        self.request = compiled.create_infer_request()

    def run(self, feed: Feed) -> Any:
        return self.request.infer(feed, share_inputs=True, share_outputs=True)

    def outputs(self, result: Any) -> list[np.ndarray]:
        return [np.array(value) for value in result.values()]

    def flops(self) -> float | None:
        return None


RUNTIMES: dict[str, type[Runtime]] = {kind.name: kind for kind in (Pjit, OnnxRuntime, OpenVino)}
PEERS = [name for name in RUNTIMES if name != Pjit.name]


def version(name: str) -> str | None:
    """The version of a runtime, or None if it is not installed."""
    if importlib.util.find_spec(name) is None:
        return None
    return importlib.metadata.version(name)
