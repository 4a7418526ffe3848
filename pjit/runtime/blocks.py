"""Large blocks of memory, kept for the next calls when their arrays are gone.

The system clears the pages of new memory when they are first touched, which takes longer than a
kernel takes to fill them. A block that nothing refers to any more serves the next call that asks
for as many bytes.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

LARGE = 1 << 20  # bytes from which on blocks are kept
LIMIT = 256 << 20  # bytes that are kept at most

_BYTE = np.dtype(np.uint8)
_free: dict[int, list[np.ndarray]] = {}  # by size; no lock: a finalizer may come at any time


@functools.lru_cache(256)
def _kind(nbytes: int) -> type[ctypes.Array]:
    """The type of blocks of a size. It is no array: NumPy would look through that to its memory."""

    def give(self: Any, finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if not finalizing():  # else this module may be gone
            _give(self.memory)

    return type("Block", (ctypes.c_byte * nbytes,), {"__del__": give})


def block(nbytes: int) -> Any:
    """So many bytes, uninitialised, to make arrays in; free again when none refers to them.

    Raises:
        MemoryError: There is not so much memory.
        ValueError: There are not so many addresses.
    """
    if nbytes < LARGE:
        return np.empty(nbytes, _BYTE)
    blocks = _free.pop(nbytes, None)
    memory: Any = blocks.pop() if blocks else np.empty(nbytes, _BYTE)
    if blocks:
        _free[nbytes] = blocks
    found: Any = _kind(nbytes).from_buffer(memory)
    found.memory = memory
    return found


def kept() -> int:
    """The bytes that are kept."""
    return sum(size * len(blocks) for size, blocks in list(_free.items()))


def _give(memory: np.ndarray) -> None:
    size = memory.nbytes
    if size > LIMIT:
        return
    blocks = _free.pop(size, [])
    blocks.append(memory)
    _free[size] = blocks  # the sizes that came last are last
    while kept() > LIMIT:
        del _free[next(iter(_free))]
