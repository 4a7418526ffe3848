"""Indexing, assignment and views of traced arrays, against NumPy."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, basic_indices, integer_array_indices

from pjit.errors import TraceError

X = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
I = np.array([2, 0, -1])  # noqa: E741
J = np.array([[1], [2]])
INDICES: list[Any] = [
    0,
    -1,
    np.int64(1),
    (1, 2),
    (1, 2, 3),
    slice(1, None),
    slice(None, None, -1),
    (slice(None, None, 2), slice(3, 0, -2)),
    (..., 1),
    (0, ..., slice(1, 4)),
    (None, 0, None, ..., None),
    (slice(5, 9), 0),
    ...,
    None,
    (),
    [0, 2],
    ([0, 1], [1, 2]),
    (slice(None), [0, 1]),
    (I, 1),
    (1, slice(None), I),
    (slice(None), I, I),
    (I, slice(None), I),
    (J, I),
    (J, slice(1, 3), I[:2]),
    (I, None, I),
    (None, I, I),
    np.array(1),
    (np.array([], np.int64),),
    [],
    X[:, 0, 0] > 10,
    X > 30,
    (slice(None), np.array([True, False, True, True])),
    (np.array([True, False, True]), [0, 1]),
    np.zeros((2, 2), np.uint8),
]
IDS = [str(i).replace("\n", "") for i in INDICES]


@pytest.mark.parametrize("index", INDICES, ids=IDS)
def test_getitem(index: Any, interpreted: Any, agree: Any) -> None:
    agree(interpreted(lambda x: x[index])(X), np.asarray(X[index]))


@pytest.mark.parametrize("index", INDICES, ids=IDS)
def test_setitem(index: Any, interpreted: Any, agree: Any) -> None:
    part = np.asarray(X[index])
    for value in (7, -1.5, part * 2 + 1, part[..., :1] if part.ndim else part):

        def f(x: Any, value: Any) -> Any:
            y = x.copy()
            y[index] = value
            return y

        agree(interpreted(f)(X, value), f(X, value))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_basic_index(interpreted_: Any, data: st.DataObject) -> None:
    shape = data.draw(array_shapes(max_dims=3, max_side=4))
    x = np.arange(np.prod(shape)).reshape(shape)
    index = data.draw(basic_indices(shape, allow_newaxis=True))

    def f(x: Any) -> Any:
        y = x.copy()
        y[index] = -1
        return x[index], y

    got, expected = interpreted_(f)(x), f(x)
    for g, e in zip(got, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(g), e)
        assert np.shape(g) == np.shape(e)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_any_integer_arrays(interpreted_: Any, data: st.DataObject) -> None:
    shape = data.draw(array_shapes(min_dims=1, max_dims=3, max_side=4))
    x = np.arange(np.prod(shape)).reshape(shape)
    index = data.draw(integer_array_indices(shape))
    np.testing.assert_array_equal(
        np.asarray(interpreted_(lambda x, i: x[tuple(i)])(x, list(index))), x[index]
    )


def test_traced_indices(jit: Any, agree: Any) -> None:
    def f(x: Any, i: Any, j: Any, n: Any) -> list:
        y = x.copy()
        y[i] = 0
        y[:, i] += 1
        z = np.zeros_like(x)
        np.add.at(z, (i, slice(None), n), 1)
        np.maximum.at(z, i, 2)
        return [x[i], x[:, j], x[i, :, i], x[j, i], x[n], x[..., n, None], y, z]

    args = (X, I, J, np.int32(-2))
    agree(jit(f)(*args), f(*args))


def test_masks_in_assignment(jit: Any, agree: Any) -> None:
    def f(x: Any, m: Any, v: Any) -> list:
        y = x.copy()
        y[y < 20] = 0
        y[m] = v
        y[m, 1] = 3
        y[(x > 40) & (x < 50)] *= 1
        return [y]

    def g(x: Any, m: Any, v: Any) -> list:
        y = x.copy()
        y[y < 20] = 0
        y[m] = v
        y[0, 1] = y[2, 1] = 3
        return [y]

    m = np.array([True, False, True])
    with pytest.raises(TraceError, match="traced mask"):
        jit(f)(X, m, X[0, 0])
    agree(jit(g)(X, m, X[0, 0]), g(X, m, X[0, 0]))


def test_views_see_writes_and_write_through(jit: Any, agree: Any) -> None:
    def f(x: Any) -> list:
        a = x + 0
        rows = a[1:]
        turned = a.T
        back = rows[:, ::-1]
        one = a[0, 0]
        col = a[:, 2:3, None]
        spread = np.broadcast_to(a[0], (2, 4))
        a[1, 1] = -5
        turned[2] = 9
        back[0] *= 2
        np.squeeze(col)[:] = -col[:, 0, 0]
        a.swapaxes(0, 1)[0] += 100
        b = a
        b -= 1
        for r in a:
            r[3] = 4
        n = a[0, 1]
        n += 5
        flat = np.expand_dims(a[2], 0).reshape(4)
        flat[0] = 77
        a.fill(a[0, 0]) if x.shape[0] == 1 else None
        return [a, rows, turned, back, one, col, spread, n, flat]

    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    agree(jit(f)(x), [np.asarray(v) for v in f(x)])


def test_swap_of_rows(jit: Any, agree: Any) -> None:
    def f(x: Any) -> Any:
        a = x.copy()
        a[0], a[1] = a[1].copy(), a[0].copy()
        a[:, 0], a[2:, ::2] = 1, [[5, 6]]
        return a

    agree(jit(f)(X[:, :3, 0]), f(X[:, :3, 0]))


def refused(interpreted: Any, f: Any, *args: Any) -> str:
    with pytest.raises(TraceError) as e:
        interpreted(f)(*args)
    return str(e.value)


def test_writing_into_an_argument_is_refused(interpreted: Any) -> None:
    def item(x: Any) -> Any:
        x[0] = 1
        return x

    def add(x: Any) -> Any:
        x += 1
        return x

    def through_a_view(x: Any) -> Any:
        x[0].T[1] = 2
        return x

    def through_reshape(x: Any) -> Any:
        x = x.reshape(-1)
        x[0] = 1
        return x

    for f in (item, add, through_a_view, through_reshape):
        assert "argument x" in refused(interpreted, f, X)


def test_writing_while_memory_may_be_shared_is_refused(interpreted: Any, agree: Any) -> None:
    def shared(x: Any) -> Any:
        a = x + 1
        b = a.reshape(-1)
        b[0] = 0
        return a

    def alone(x: Any) -> Any:
        b = (x + 1).reshape(-1)
        b[0] = 0
        return b

    def copied(x: Any) -> Any:
        a = x + 1
        b = a.ravel().copy()
        b[0] = 0
        return a, b

    assert "share memory" in refused(interpreted, shared, X)
    for f in (alone, copied):
        agree(interpreted(f)(X), f(X))


def test_read_only_view(interpreted: Any) -> None:
    def f(x: Any) -> Any:
        y = np.broadcast_to(x + 1, (2, *x.shape))
        y[0] = 1
        return y

    assert "read-only" in refused(interpreted, f, X)


@pytest.mark.parametrize(
    "index",
    [3, (0, 4), (0, 0, 0, 0), (..., ...), [5], 1.5, ([0.5],), np.array([4])],
    ids=str,
)
def test_wrong_indices_fail_as_in_numpy(index: Any, interpreted: Any) -> None:
    with pytest.raises(IndexError):
        X[index]
    with pytest.raises(IndexError):
        interpreted(lambda x: x[index])(X)


def test_wrong_shapes_of_values(interpreted: Any) -> None:
    def f(x: Any) -> Any:
        y = x.copy()
        y[0] = np.zeros(3)
        return y

    with pytest.raises(ValueError, match="could not broadcast"):
        interpreted(f)(X)


def test_masks_that_select_are_refused(interpreted: Any) -> None:
    for f in (lambda x: x[x > 0], lambda x: np.nonzero(x), lambda x: np.unique(x)):
        text = refused(interpreted, f, X)
        assert "depends on data" in text
        assert "np.where" in text
