"""Memory of programs: aligned arrays, and the places of buffers in an arena.

Two buffers may lie on the same bytes of an arena only if the ranges of epochs in which they are
alive are disjoint. The buffers are placed by decreasing size, each in the smallest gap that is free
during its whole life (best fit), or else behind everything that lives then.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pjit.errors import ExecutionError
from pjit.ir.arrays import ALIGNMENT
from pjit.runtime.blocks import block

SMALL = 4 << 10  # bytes that ctypes, which clears them, gives sooner than NumPy
_byte_at: Callable[[Any], ctypes.c_byte] = ctypes.c_byte.from_buffer


@dataclass(frozen=True)
class Interval:
    """A buffer of an arena: its bytes, and the epochs of its first write and its last use."""

    nbytes: int
    first: int
    last: int


@dataclass(frozen=True)
class Placement:
    """Where the buffers of an arena lie.

    Attributes:
        offsets: The offset of each buffer in bytes, a multiple of ``ALIGNMENT``.
        peak: The size of the arena in bytes.
        total: The size it would have without sharing.
    """

    offsets: tuple[int, ...]
    peak: int
    total: int


def rounded(nbytes: int) -> int:
    """A size rounded up to the alignment."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def place(buffers: Sequence[Interval]) -> Placement:
    """Places buffers in an arena."""
    sizes = [rounded(b.nbytes) for b in buffers]
    order = sorted(range(len(buffers)), key=lambda i: (-sizes[i], buffers[i].first, i))
    offsets = [0] * len(buffers)
    placed: list[tuple[int, int]] = []  # (offset, buffer), by offset
    peak = 0
    for i in order:
        if sizes[i] == 0:
            continue
        offset = _best_gap(sizes[i], _alive_with(buffers, i, placed), sizes)
        offsets[i] = offset
        placed.append((offset, i))
        placed.sort()
        peak = max(peak, offset + sizes[i])
    return Placement(tuple(offsets), peak, sum(sizes))


def _alive_with(
    buffers: Sequence[Interval], i: int, placed: list[tuple[int, int]]
) -> list[tuple[int, int]]:
    b = buffers[i]
    return [
        (at, j) for at, j in placed if buffers[j].first <= b.last and b.first <= buffers[j].last
    ]


def _best_gap(size: int, busy: list[tuple[int, int]], sizes: list[int]) -> int:
    """The offset of the smallest gap of ``size`` bytes or more, else the end of what is busy."""
    end, best, width = 0, -1, 0
    for at, j in busy:
        gap = at - end
        if gap >= size and (best < 0 or gap < width):
            best, width = end, gap
        end = max(end, at + sizes[j])
    return end if best < 0 else best


def address_of(array: np.ndarray) -> int:
    """The address of the first element of an array."""
    if array.flags.carray and array.nbytes:  # five times as fast, but for these only
        try:
            return ctypes.addressof(_byte_at(array))
        except ValueError:  # the element types of ml_dtypes have no buffer
            pass
    return array.__array_interface__["data"][0]


def allocate(shape: tuple[int, ...], dtype: np.dtype, nbytes: int) -> tuple[np.ndarray, int]:
    """An uninitialised row-major array, aligned to ``ALIGNMENT``, and its address."""
    memory, offset, address = reserve(nbytes)
    return np.ndarray(shape, dtype, memory, offset), address


def reserve(nbytes: int) -> tuple[Any, int, int]:
    """Memory that has ``nbytes`` from an offset on, and the aligned address there.

    Its content is arbitrary. NumPy arrays may be made in it.

    Raises:
        ExecutionError: There is not so much memory.
    """
    memory: Any
    if nbytes <= SMALL:
        memory = _small(nbytes)()
        start = ctypes.addressof(memory)
    else:
        try:
            memory = block(nbytes + ALIGNMENT)
        except (MemoryError, ValueError):  # the latter for more bytes than there are addresses
            raise no_memory(f"{nbytes} bytes") from None
        start = ctypes.addressof(_byte_at(memory))
    offset = -start % ALIGNMENT
    return memory, offset, start + offset


def no_memory(amount: str) -> ExecutionError:
    """The error of a call that asks for too much."""
    return ExecutionError(
        "there is not enough memory for a tensor or for the intermediate results",
        got=amount,
        remedy="pass smaller inputs",
    )


@functools.lru_cache(256)
def _small(nbytes: int) -> type[ctypes.Array]:
    return ctypes.c_byte * (nbytes + ALIGNMENT)
