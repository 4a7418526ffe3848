"""Real networks: stored cases through the importer and the interpreter.

The folder is ``PJIT_MODELS``, or ``../shared/models`` beside the repository.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pjit.frontends.onnx import import_onnx
from pjit.ir.interp import interpret

REPOSITORY = Path(__file__).resolve().parents[3]
MODELS = Path(os.environ.get("PJIT_MODELS", REPOSITORY.parent / "shared" / "models")) / "onnx"
NAMES = [
    "mnist_cntk", "mtcnn_pnet", "mtcnn_rnet", "mtcnn_onet", "ultraface_rfb320", "ppocr_v2_cls",
    "ppocr_v4_det", "ppocr_v4_rec", "magika_v3_3", "gpt2_tiny_rand", "arabic_gru_decoder",
    "caustic_painn_gnn", "silero_vad_op18_ifless",
]  # fmt: skip
IMPORT_ONLY = ["spindle_unet1d", "vit_s_focus"]

pytestmark = [
    pytest.mark.models,
    pytest.mark.skipif(not MODELS.is_dir(), reason=f"no real networks in {MODELS}"),
]


def cases(folder: Path) -> Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    stored = np.load(folder / "cases.npz")
    k = 0
    while any(name.startswith(f"case{k}/") for name in stored.files):
        parts: list[dict[str, np.ndarray]] = [{}, {}]
        for side, kind in enumerate(("in", "out")):
            prefix = f"case{k}/{kind}/"
            for name in stored.files:
                if name.startswith(prefix):
                    parts[side][name.removeprefix(prefix)] = stored[name]
        yield parts[0], parts[1]
        k += 1


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    """``max|a - b| / max|b|``; NaN must coincide."""
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    if wanted.dtype.kind != "f":
        np.testing.assert_array_equal(found, wanted)
        return 0.0
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
    a, b = np.nan_to_num(found).astype("f8"), np.nan_to_num(wanted)
    return float(np.abs(a - b).max(initial=0) / (np.abs(b).max(initial=0) + 1e-6))


@pytest.mark.parametrize("name", NAMES)
def test_stored_cases(name):
    folder = MODELS / name
    module = import_onnx(folder / "model.onnx")
    attrs = module.main.attrs
    tolerance = json.loads((folder / "meta.json").read_text()).get("tol", 1e-3)
    count = 0
    for inputs, outputs in cases(folder):
        found = dict(
            zip(
                attrs["outputs"],
                interpret(module, *(inputs[n] for n in attrs["inputs"])),
                strict=True,
            )
        )
        for output, wanted in outputs.items():
            assert error(found[output], wanted) <= tolerance
        count += 1
    assert count


@pytest.mark.parametrize("name", IMPORT_ONLY)
def test_sizes_stay_free(name):
    """The batch stays symbolic from the inputs to the outputs."""
    main = import_onnx(MODELS / name / "model.onnx").main
    assert str(main.args[0].shape[0]) == "batch_size"
    for value in main.results:
        assert str(value.shape[0]) == "batch_size"
        assert all(isinstance(d, int) for d in value.shape[1:])
