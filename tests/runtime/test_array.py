from __future__ import annotations

import asyncio
import copy
import pickle
import threading

import numpy as np
import pytest

import pjit
from pjit.array import Array
from pjit.errors import ExecutionError


class Later:
    """Work that ends when the test says so."""

    def __init__(self, value: np.ndarray | None = None, error: Exception | None = None) -> None:
        self.event, self.value, self.error = threading.Event(), value, error

    def ready(self) -> bool:
        return self.event.is_set()

    def wait(self) -> None:
        assert self.event.wait(30)
        if self.error is not None:
            raise self.error

    def output(self, index: int) -> np.ndarray:
        return self.value


def pending(value: np.ndarray) -> tuple[Array, Later]:
    work = Later(value)
    return Array._of(None, work, 0, (value.shape, value.dtype)), work


def test_what_is_known_early_does_not_wait() -> None:
    y, work = pending(np.ones((2, 3), np.float32))
    assert (y.shape, y.dtype, y.ndim, y.size, y.nbytes) == ((2, 3), np.float32, 2, 6, 24)
    assert len(y) == 2
    assert not y.is_ready()
    work.event.set()
    assert y.is_ready()
    assert y.block_until_ready() is y


def test_waiting_releases_the_interpreter() -> None:
    y, work = pending(np.arange(3))
    threading.Timer(0.02, work.event.set).start()
    np.testing.assert_array_equal(np.asarray(y), [0, 1, 2])


def test_await() -> None:
    y, work = pending(np.arange(3))

    async def main() -> list[int]:
        asyncio.get_running_loop().call_later(0.01, work.event.set)
        first = await y
        assert first is y
        return (await y).tolist()

    assert asyncio.run(main()) == [0, 1, 2]


def test_an_error_is_raised_at_every_wait() -> None:
    work = Later(error=ExecutionError("it failed"))
    work.event.set()
    y = Array._of(np.zeros(3), work)
    assert y.is_ready()
    for wait in (np.asarray, repr, float, list, lambda a: a + 1, lambda a: a.block_until_ready()):
        with pytest.raises(ExecutionError, match="it failed"):
            wait(y)

    async def main() -> None:
        await y

    with pytest.raises(ExecutionError, match="it failed"):
        asyncio.run(main())


def test_array_protocol() -> None:
    y = pjit.Array([[1.0, 2.0]])
    view = np.asarray(y)
    assert not view.flags.writeable
    assert np.asarray(y) is view
    assert np.array(y).flags.writeable
    assert np.asarray(y, np.float32).dtype == np.float32
    with pytest.raises(ValueError, match="copy"):
        np.asarray(y, np.float32, copy=False)
    source = np.zeros(2)
    kept = pjit.Array(source)
    source[:] = 1
    assert kept.tolist() == [0, 0]


def test_numbers() -> None:
    assert float(pjit.Array(2.5)) == 2.5
    assert int(pjit.Array(2)) == 2
    assert complex(pjit.Array(2.0)) == 2
    assert [10, 20, 30][pjit.Array(1)] == 20
    assert not pjit.Array(False)
    assert f"{pjit.Array(2.125):.1f}" == "2.1"
    assert pjit.Array([4, 5]).item(1) == 5
    with pytest.raises(ValueError, match="ambiguous"):
        bool(pjit.Array([1, 2]))
    with pytest.raises(TypeError, match="without dimensions"):
        len(pjit.Array(1))


def test_operators_give_arrays() -> None:
    y = pjit.Array([1.0, 2.0, 3.0])
    other = np.array([1.0, 1.0, 2.0])
    for result in (y + other, other + y, np.add(y, 1), -y, y @ other, y[1:], y.T, y.reshape(3, 1)):
        assert isinstance(result, Array)
    np.testing.assert_array_equal(other - y, [0, -1, -1])
    np.testing.assert_array_equal(y > 1, [False, True, True])
    np.testing.assert_array_equal(y[pjit.Array([0, 2])], [1, 3])
    np.testing.assert_array_equal(np.divmod(y, 2)[1], [1, 0, 1])
    assert [float(v) for v in y] == [1, 2, 3]
    assert 2.0 in y
    assert np.concatenate([y, y]).shape == (6,)
    assert np.add.reduce(y) == 6
    assert y.astype(np.int8).dtype == np.int8
    with pytest.raises(TypeError, match="immutable"):
        np.add(other, 1, out=y)
    with pytest.raises(TypeError):
        y[0] = 1  # type: ignore[index]


def test_printing() -> None:
    y, work = pending(np.array([1.5, 2.5], np.float32))
    work.event.set()
    assert repr(y) == "pjit.Array([1.5, 2.5], dtype=float32)"
    assert str(y) == "[1.5 2.5]"


def test_exchange() -> None:
    y = pjit.Array(np.arange(6, dtype=np.float32).reshape(2, 3))
    assert y.__dlpack_device__() == (1, 0)
    new = np.from_dlpack(y)
    np.testing.assert_array_equal(new, y)
    assert np.shares_memory(new, np.asarray(y))
    assert not new.flags.writeable
    assert y.__dlpack__() is not None  # a consumer without versions gets a copy
    with pytest.raises(BufferError, match="read-only"):
        y.__dlpack__(copy=False)
    for twin in (pickle.loads(pickle.dumps(y)), copy.deepcopy(y)):
        assert isinstance(twin, Array)
        np.testing.assert_array_equal(twin, y)
