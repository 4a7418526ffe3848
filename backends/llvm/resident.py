"""Unmaps LLVM's code and tables between uses.

To start LLVM and to compile each touch some 40 MB of its library. They would stay in the resident
set of the process, though only the next compilation needs them; for that they come back from the
system's cache of the file.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
from collections.abc import Iterator
from pathlib import Path

import llvmlite.binding as llvm


def release() -> None:
    """Unmaps what is resident of LLVM's library and as in its file (Linux; elsewhere nothing)."""
    for start, size in _clean():
        _libc().madvise(start, size, mmap.MADV_DONTNEED)


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return libc


@functools.cache
def _clean() -> tuple[tuple[int, int], ...]:
    """Start and size of the library's mappings that are never written."""
    smaps = Path("/proc/self/smaps")
    if not smaps.exists() or not hasattr(mmap, "MADV_DONTNEED"):
        return ()
    return tuple(clean_mappings(smaps.read_text(), str(Path(llvm.__file__).parent)))


def clean_mappings(smaps: str, folder: str) -> Iterator[tuple[int, int]]:
    """Start and size of the read-only mappings of files in a folder that have no page of their own.

    The loader makes what it has relocated read-only too; that is not in the file.

    Args:
        smaps: The text of ``/proc/PID/smaps``.
        folder: The folder.
    """
    start = size = 0
    for line in smaps.splitlines():
        first, *rest = line.split(maxsplit=5)
        if not first.endswith(":"):
            begin, end = (int(part, 16) for part in first.split("-"))
            ours = len(rest) == 5 and rest[4].startswith(folder) and "w" not in rest[0]
            start, size = (begin, end - begin) if ours else (0, 0)
        elif first == "Anonymous:" and rest[0] == "0" and size:
            yield start, size
