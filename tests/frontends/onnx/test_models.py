"""Real networks: stored cases through the importer and the interpreter."""

from __future__ import annotations

import numpy as np
import pytest
from zoo import cases, onnx_model, tolerance

from pjit.frontends.onnx import import_onnx
from pjit.ir.interp import interpret

NAMES = [
    "mnist_cntk", "mtcnn_pnet", "mtcnn_rnet", "mtcnn_onet", "ultraface_rfb320", "ppocr_v2_cls",
    "ppocr_v4_det", "ppocr_v4_rec", "magika_v3_3", "gpt2_tiny_rand", "arabic_gru_decoder",
    "caustic_painn_gnn", "silero_vad_op18_ifless",
]  # fmt: skip
IMPORT_ONLY = ["spindle_unet1d", "vit_s_focus"]

pytestmark = pytest.mark.models


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
    path = onnx_model(name)
    module = import_onnx(path)
    attrs = module.main.attrs
    count = 0
    for inputs, outputs in cases(path):
        found = dict(
            zip(
                attrs["outputs"],
                interpret(module, *(inputs[n] for n in attrs["inputs"])),
                strict=True,
            )
        )
        for output, wanted in outputs.items():
            assert error(found[output], wanted) <= tolerance(path)
        count += 1
    assert count


@pytest.mark.parametrize("name", IMPORT_ONLY)
def test_sizes_stay_free(name):
    """The batch stays symbolic from the inputs to the outputs."""
    main = import_onnx(onnx_model(name)).main
    assert str(main.args[0].shape[0]) == "batch_size"
    for value in main.results:
        assert str(value.shape[0]) == "batch_size"
        assert all(isinstance(d, int) for d in value.shape[1:])
