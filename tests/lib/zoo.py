"""The folder of real networks, which is not part of the project: where it is, and what is in it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(os.environ.get("PJIT_MODELS") or Path(__file__).parents[3] / "shared" / "models")


def onnx_model(name: str) -> Path:
    """The file of a model; skips the test when it is not there."""
    path = FOLDER / "onnx" / name / "model.onnx"
    if not FOLDER.is_dir():
        pytest.skip(f"no folder of real networks at {FOLDER} (PJIT_MODELS names another)")
    if not path.exists():
        pytest.skip(f"{path} was not fetched: run fetch_large.py there")
    return path


def cases(model: Path) -> Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """The stored inputs and reference outputs of a model."""
    stored = np.load(model.parent / "cases.npz")
    for k in range(len(stored.files)):
        prefixes = (f"case{k}/in/", f"case{k}/out/")
        feed, want = (
            {n.removeprefix(p): stored[n] for n in stored.files if n.startswith(p)}
            for p in prefixes
        )
        if not want:
            return
        yield feed, want


def tolerance(model: Path) -> float:
    """The error that a model allows: max|a - b| / max|reference|."""
    return float(json.loads((model.parent / "meta.json").read_text()).get("tol", 1e-3))
