"""Large blocks serve again when nothing refers to them, and not before."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pjit.runtime import blocks
from pjit.runtime.blocks import LARGE, block, kept
from pjit.runtime.memory import allocate

SIZE = LARGE + 64


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    gc.collect()
    blocks._free.clear()
    yield
    blocks._free.clear()


def address(memory: Any) -> int:
    return np.frombuffer(memory, np.uint8).ctypes.data


def test_a_block_serves_again() -> None:
    first = block(SIZE)
    at = address(first)
    del first
    assert kept() == SIZE
    again, other = block(SIZE), block(SIZE)
    assert address(again) == at
    assert address(other) != at
    assert kept() == 0


def test_not_while_an_array_refers_to_it() -> None:
    array, _ = allocate((LARGE // 4,), np.dtype(np.float32), LARGE)
    view = array[5:].reshape(-1, 1)
    inner = np.frombuffer(array.base, np.uint8)[3:9]
    del array
    assert kept() == 0
    del view
    assert kept() == 0
    assert inner.size == 6
    del inner
    assert kept() == LARGE + 64


def test_other_sizes_and_small_blocks_are_new() -> None:
    del_me = block(SIZE)
    del del_me
    assert len(block(SIZE + 1)) == SIZE + 1
    assert kept() == SIZE + SIZE + 1
    small = block(LARGE - 1)
    assert type(small) is np.ndarray


def test_the_oldest_sizes_go_when_there_are_too_many_bytes(monkeypatch) -> None:
    monkeypatch.setattr(blocks, "LIMIT", 3 * SIZE)
    for extra in range(4):
        made = block(SIZE - extra)
        del made
    assert kept() <= 3 * SIZE
    assert SIZE not in blocks._free
    assert SIZE - 3 in blocks._free
    made = block(3 * SIZE + 1)
    del made
    assert 3 * SIZE + 1 not in blocks._free


def test_nothing_is_kept_when_the_interpreter_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of the module may be gone by then."""
    memory = block(SIZE)
    with monkeypatch.context() as patch:
        patch.setattr(blocks, "_give", None)
        type(memory).__del__(memory, lambda: True)
    assert kept() == 0
