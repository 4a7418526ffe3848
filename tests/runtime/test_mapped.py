"""Arrays in mapped files are copied, large ones to a file without a name."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from pjit.runtime.mapped import mapping_of, owned


def in_a_file(tmp_path: Path) -> tuple[np.ndarray, np.ndarray]:
    """An array in a mapped file, and its value."""
    want = np.arange(6000, dtype=np.float32).reshape(60, 100)
    (tmp_path / "data").write_bytes(want.tobytes())
    mapped = np.memmap(tmp_path / "data", np.uint8, "r")
    return np.ndarray(want.shape, np.float32, mapped), want


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="no such files here")
def test_a_large_array_in_a_mapped_file_becomes_a_file_without_a_name(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("pjit.runtime.mapped._IN_FILE", 24000)
    monkeypatch.setattr("pjit.runtime.mapped._PIECE", 4096)
    array, want = in_a_file(tmp_path)
    (folder := tmp_path / "cache").mkdir()
    copy = owned(array, folder)
    assert isinstance(mapping_of(copy), mmap.mmap)
    assert not any(folder.iterdir())
    np.testing.assert_array_equal(copy, want)
    (tmp_path / "data").write_bytes(bytes(want.nbytes))  # others change the model's file
    np.testing.assert_array_equal(copy, want)
    assert owned(copy, folder) is copy
    assert not copy.flags.writeable  # a child of a fork shares it


@pytest.mark.parametrize("folder", ["missing", None])
def test_a_large_array_is_in_memory_where_there_can_be_no_file(
    tmp_path: Path, monkeypatch, folder: str | None
) -> None:
    monkeypatch.setattr("pjit.runtime.mapped._IN_FILE", 24000)
    array, want = in_a_file(tmp_path)
    copy = owned(array, tmp_path / folder if folder else None)
    assert mapping_of(copy) is None
    np.testing.assert_array_equal(copy, want)
