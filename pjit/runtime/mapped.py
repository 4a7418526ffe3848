"""Arrays in mapped files: what was read is unmapped, and what others may change is copied."""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from pjit.ir.arrays import aligned_empty

_PIECE = 8 << 20  # bytes of a mapped file that are copied at a time
_IN_FILE = 32 << 20  # bytes of an array from which on its copy is a file


class OwnFile(mmap.mmap):
    """A shared mapping of a file that only this process can reach."""


def mapping_of(array: np.ndarray) -> mmap.mmap | None:
    """The mapping that an array lies in, if it does."""
    base: Any = array
    while base is not None:
        if isinstance(base, mmap.mmap):
            return base
        base = getattr(base, "base", None)
    return None


def unmap(mapped: mmap.mmap | None) -> None:
    """Leaves what was read of a mapped file to the system's cache, if it can.

    A private mapping that can be written stays: what was written to it is nowhere else.
    """
    if mapped is None or not hasattr(mmap, "MADV_DONTNEED"):
        return
    if isinstance(mapped, OwnFile) or memoryview(mapped).readonly:
        mapped.madvise(mmap.MADV_DONTNEED)


def owned(array: np.ndarray, folder: Path | None) -> np.ndarray:
    """The array, copied if its memory is a mapped file that others can write.

    Args:
        array: The array.
        folder: Where a large copy may be a file without a name.
    """
    mapped = mapping_of(array)
    if mapped is None or isinstance(mapped, OwnFile):
        return array
    return _copied(array, mapped, folder)


def _copied(array: np.ndarray, mapped: mmap.mmap, folder: Path | None) -> np.ndarray:
    """An aligned copy of an array in a mapped file, of which a piece at a time is resident."""
    copy = _room(array, folder)
    rows = max(1, _PIECE * len(array) // array.nbytes) if array.ndim and array.nbytes else 1
    pieces = range(0, len(array), rows) if array.ndim else [0]
    for at in pieces:
        part = slice(at, at + rows) if array.ndim else ()
        copy[part] = array[part]
        unmap(mapped)
        unmap(mapping_of(copy))
    copy.flags.writeable = False
    return copy


def _room(array: np.ndarray, folder: Path | None) -> np.ndarray:
    """Aligned memory for a copy of an array: a file's where that is worth it and possible."""
    if folder is not None and array.nbytes >= _IN_FILE and hasattr(os, "posix_fallocate"):
        with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, array.nbytes)  # else writing may fail later
            return np.ndarray(array.shape, array.dtype, OwnFile(file.fileno(), array.nbytes))
    return aligned_empty(array.shape, array.dtype)
