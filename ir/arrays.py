"""Arrays in memory as kernels want them: row-major, from a multiple of 64 bytes on."""

from __future__ import annotations

from math import prod

import numpy as np

ALIGNMENT = 64


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
