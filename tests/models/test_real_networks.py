"""Networks that other people trained, loaded with free dimensions free, against stored results."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import close
from zoo import cases, onnx_model, tolerance

import pjit
from pjit.cli.convert import main as convert

NAMES = [
    "mnist_cntk",
    "mtcnn_pnet",
    "mtcnn_rnet",
    "mtcnn_onet",
    "open_nsfw_op9",
    "orinet",
    "ultraface_rfb320",
    "ppocr_v2_cls",
    "ppocr_v4_det",
    "ppocr_v4_rec",
    "basic_pitch_nmp",
    "caustic_painn_gnn",
    "spindle_unet1d",
    "magika_v3_3",
    "gpt2_tiny_rand",
    "vit_s_focus",
    "ddddocr_yolox_det",
    "arabic_gru_encoder",
    "arabic_gru_decoder",
    "byte_sb_bidi_lstm",
    "ddddocr_crnn",
    "oww_hey_mycroft",
    "silero_vad_op18_ifless",
    "silero_vad_v6",
    "tashkeel_rawi_v2_int8",
]

pytestmark = pytest.mark.models


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """A cache of this test run."""
    folder = tmp_path_factory.getbasetemp().parent / "pjit-cache"
    monkeypatch.setenv("PJIT_CACHE_DIR", str(folder))


def check_cases(model, path):
    for feed, want in cases(path):
        got = model.run(feed)
        for name, expected in want.items():
            assert close(np.asarray(got[name]), expected, tolerance(path)), name


@pytest.mark.parametrize("name", NAMES)
def test_onnx_and_converted_file_give_the_stored_results(name, tmp_path):
    path = onnx_model(name)
    with pjit.load(path, threads=2) as model:
        check_cases(model, path)
        assert not [s for s in model.report().steps if s.kind == "host"]
    converted = tmp_path / f"{name}.pjit"
    assert convert([str(path), "-o", str(converted)]) == 0
    with pjit.load(converted, threads=2) as model:
        check_cases(model, path)


@pytest.mark.parametrize("name", NAMES)
def test_threads_do_not_change_a_bit(name):
    path = onnx_model(name)
    feed, _ = next(cases(path))
    runs = []
    for threads in (1, 2, 2):
        with pjit.load(path, threads=threads) as model:
            results = [model.run(feed) for _ in range(2)]
            runs += [{n: np.asarray(a).tobytes() for n, a in r.items()} for r in results]
    assert all(r == runs[0] for r in runs)


@pytest.mark.parametrize("name", ["mnist_cntk", "mtcnn_pnet", "gpt2_tiny_rand"])
def test_convert_check(name, tmp_path, capsys):
    path = onnx_model(name)
    assert convert([str(path), "-o", str(tmp_path / "m.pjit"), "--check"]) == 0
    assert "DIFFERS" not in capsys.readouterr().out
