from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pjit.runtime.memory import (
    ALIGNMENT,
    SMALL,
    Interval,
    address_of,
    allocate,
    place,
    reserve,
)

intervals = st.builds(
    lambda size, first, length: Interval(size, first, first + length),
    st.integers(0, 5000),
    st.integers(0, 12),
    st.integers(0, 6),
)


@given(st.lists(intervals, max_size=24))
def test_buffers_that_live_together_do_not_overlap(buffers: list[Interval]) -> None:
    placed = place(buffers)
    for i, a in enumerate(buffers):
        start, end = placed.offsets[i], placed.offsets[i] + a.nbytes
        assert start % ALIGNMENT == 0
        assert end <= placed.peak or a.nbytes == 0
        for j, b in enumerate(buffers[:i]):
            if a.first <= b.last and b.first <= a.last and a.nbytes and b.nbytes:
                other = placed.offsets[j]
                assert end <= other or other + b.nbytes <= start
    assert placed.peak <= placed.total


def test_memory_is_used_again_in_a_later_epoch() -> None:
    placed = place([Interval(1000, 0, 1), Interval(900, 1, 2), Interval(1000, 2, 3)])
    assert placed.offsets[0] == placed.offsets[2]
    assert placed.peak == 1024 + 960
    assert placed.total == 1024 + 960 + 1024


def test_the_smallest_gap_that_fits_is_taken() -> None:
    blocks = [Interval(640, 0, 9), Interval(320, 0, 0), Interval(256, 0, 9)]
    blocks += [Interval(192, 0, 0), Interval(192, 0, 9), Interval(192, 5, 5)]
    offsets = place(blocks).offsets
    assert offsets[:5] == (0, 640, 960, 1216, 1408)
    assert offsets[5] == offsets[3]


@pytest.mark.parametrize("shape", [(), (3,), (0, 4), (5, 7)])
@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.bool_])
def test_allocated_arrays_are_aligned(shape: tuple[int, ...], dtype: type) -> None:
    dt = np.dtype(dtype)
    array, address = allocate(shape, dt, int(np.prod(shape)) * dt.itemsize)
    assert array.shape == shape
    assert array.dtype == dt
    assert address % ALIGNMENT == 0
    if array.size:
        assert address_of(array) == address


@pytest.mark.parametrize("nbytes", [0, 1, 100, SMALL, SMALL + 1, 1 << 20])
def test_reserved_memory_is_as_large_as_asked_for(nbytes: int) -> None:
    memory, offset, address = reserve(nbytes)
    array = np.ndarray(nbytes, np.uint8, memory, offset)
    array[:] = 7
    assert address % ALIGNMENT == 0
    assert nbytes == 0 or array.ctypes.data == address


def test_the_address_of_any_array() -> None:
    x = np.zeros((4, 6), np.float32)
    readonly = x.copy()
    readonly.flags.writeable = False
    for a in (x, readonly, x[1:, ::2], x.T, x[:0], np.array(1.0)):
        assert address_of(a) == a.ctypes.data
