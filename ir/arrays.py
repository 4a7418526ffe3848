"""Arrays in memory as kernels want them: row-major, from a multiple of 64 bytes on."""

from __future__ import annotations

from math import prod

import numpy as np

ALIGNMENT = 64
LARGE = 4 << 20  # bytes of an array from which on NumPy asks the system for large pages


def aligned(array: np.ndarray) -> np.ndarray:
    """The array itself if it is row-major and aligned to ``ALIGNMENT``, else such a copy."""
    if array.flags.c_contiguous and array.__array_interface__["data"][0] % ALIGNMENT == 0:
        return array
    return aligned_copy(array)


def aligned_copy(array: np.ndarray) -> np.ndarray:
    """A row-major copy, aligned to ``ALIGNMENT``."""
    copy = aligned_empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A row-major array with any content, aligned to ``ALIGNMENT``."""
    nbytes = prod(shape) * dtype.itemsize
    memory = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -memory.__array_interface__["data"][0] % ALIGNMENT
    return np.ndarray(shape, dtype, memory, start)


class Shelf:
    """Keeps small arrays side by side in memory of large pages, for which the processor needs fewer
    steps to find them.
    """

    def __init__(self) -> None:
        self._block = np.empty(0, np.uint8)
        self._at = 0

    def put(self, array: np.ndarray) -> np.ndarray:
        """A copy of a small array, or the array itself if its memory is large."""
        base = array
        while isinstance(base.base, np.ndarray):
            base = base.base
        if max(base.nbytes, array.nbytes) >= LARGE:
            return array
        room = -(-array.nbytes // ALIGNMENT) * ALIGNMENT
        if self._at + room > self._block.nbytes:
            self._block, self._at = aligned_empty((4 * LARGE,), np.dtype(np.uint8)), 0
        copy = np.ndarray(array.shape, array.dtype, self._block, self._at)
        copy[...] = array
        self._at += room
        return copy
