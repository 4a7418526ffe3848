"""The native check of a call's arguments."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pjit.backends.llvm.arguments import LAYOUT_HOLDS
from pjit.backends.llvm.pool import Pool

pytestmark = pytest.mark.skipif(not LAYOUT_HOLDS, reason="this interpreter stores arrays otherwise")

F32, I64, SHAPE = np.dtype(np.float32), np.dtype(np.int64), (2, 3)
EXPECTED = [(np.ndarray, F32, SHAPE), (np.int64, I64, ()), (np.ndarray, F32, SHAPE)]
WORDS, STAGED = (1, 2, 3), (-1, 40, 48)


@pytest.fixture
def bind() -> Iterator[Any]:
    """Binds arguments; returns what bind returned and the context."""
    pool = Pool(1)
    native = pool.binder(EXPECTED, WORDS, STAGED)
    assert native is not None

    def call(*arguments: Any) -> tuple[int, Any]:
        context = (ctypes.c_int64 * 16)()
        return native(arguments, ctypes.addressof(context)), context

    yield call
    pool.close()


def values(start: float = 0) -> np.ndarray:
    return np.arange(start, start + 6, dtype=np.float32).reshape(SHAPE)


def test_arguments_as_expected(bind: Any) -> None:
    x, n, y = values(), np.int64(-7), values(10)
    taken, context = bind(x, n, y)
    assert taken == 1
    base = ctypes.addressof(context)
    assert list(context[:4]) == [0, x.ctypes.data, base + 40, base + 48]
    assert context[5] == -7
    copied = np.frombuffer((ctypes.c_char * 24).from_address(base + 48), np.float32)
    np.testing.assert_array_equal(copied, y.ravel())
    assert list(context[9:]) == [0] * 7, "nothing is written behind a copy"


class Sub(np.ndarray):
    """A subclass may be anything."""


SPACED = np.zeros((2, 6), np.float32)[:, ::2]
UNALIGNED = np.zeros(25, np.int8)[1:].view(np.float32).reshape(SHAPE)


@pytest.mark.parametrize(
    "wrong",
    [
        values().astype(np.float64),
        values().astype(">f4"),
        values().reshape(3, 2),
        values().ravel(),
        values()[None],
        np.asfortranarray(values()),
        SPACED,
        UNALIGNED,
        values().view(Sub),
        values().tolist(),
        None,
        np.float32(1),
    ],
    ids=lambda x: f"{type(x).__name__} {getattr(x, 'dtype', '')} {getattr(x, 'shape', '')}",
)
@pytest.mark.parametrize("at", [0, 2])
def test_another_array(bind: Any, wrong: Any, at: int) -> None:
    arguments = [values(), np.int64(0), values()]
    arguments[at] = wrong
    assert bind(*arguments)[0] == 0


@pytest.mark.parametrize("wrong", [3, np.int32(3), np.float64(3), np.array(3), True, values()])
def test_another_scalar(bind: Any, wrong: Any) -> None:
    assert bind(values(), wrong, values())[0] == 0


@pytest.mark.parametrize("count", [0, 2, 4])
def test_another_number_of_arguments(bind: Any, count: int) -> None:
    assert bind(*[values(), np.int64(0), values(), values()][:count])[0] == 0
