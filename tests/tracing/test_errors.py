"""What is not traced: the message has the user's line, the reason and the remedy."""

import inspect
import operator
import pickle
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import numpy as np
import pytest

from pjit.errors import TraceError

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def indexed(x: Any) -> Any:
    table = np.arange(10)
    return table[x.astype(int)]  # HERE


def formatted(x: Any) -> Any:
    return f"{x.sum():.2f}"  # HERE


def pickled(x: Any) -> Any:
    return pickle.dumps(x)  # HERE


def unknown_function(x: Any) -> Any:
    return np.linalg.inv(x[:, :2])  # HERE


def unknown_ufunc(x: Any) -> Any:
    return np.gcd(x.astype(int), 2)  # HERE


def unknown_method(x: Any) -> Any:
    return np.multiply.reduceat(x, [0, 1])  # HERE


def unknown_attribute(x: Any) -> Any:
    return x.ctypes  # HERE


def unknown_option(x: Any) -> Any:
    return np.copy(x, subok=True)  # HERE


def unknown_mode(x: Any) -> Any:
    return np.pad(x, 1, "linear_ramp")  # HERE


def complex_result(x: Any) -> Any:
    return x * 1j  # HERE


def undefined_elements(x: Any) -> Any:
    return np.sqrt(x, where=x > 0)  # HERE


def shapes(x: Any) -> Any:
    return x @ x  # HERE


def broadcast(x: Any) -> Any:
    return x + x.T  # HERE


def helper(v: Any) -> str:
    return f"{v:.1f}"  # HERE


def in_a_helper(x: Any) -> Any:
    return helper(x.sum())


def in_a_branch(x: Any) -> Any:
    if x.sum() > 0:
        return np.linalg.inv(x[:, :2])  # HERE
    return x


CASES = [
    (indexed, ["like=i"]),
    (formatted, ["formatting"]),
    (pickled, ["pickling"]),
    (unknown_function, ["np.linalg.inv is not traced"]),
    (unknown_ufunc, ["np.gcd is not traced"]),
    (unknown_method, ["np.multiply.reduceat is not traced"]),
    (unknown_attribute, ["ctypes"]),
    (unknown_option, ["np.copy with subok=True"]),
    (unknown_mode, ["mode='linear_ramp'"]),
    (complex_result, ["complex"]),
    (undefined_elements, ["where=", "np.where"]),
    (shapes, ["summed dimensions", "f32[2,3]"]),
    (broadcast, ["broadcast"]),
    (in_a_helper, ["formatting", "in helper"]),
    (in_a_branch, ["np.linalg.inv is not traced"]),
]


@pytest.mark.parametrize(("f", "parts"), CASES, ids=[f.__name__ for f, _ in CASES])
def test_message(f: Callable, parts: list[str], interpreted: Any) -> None:
    with pytest.raises(TraceError) as info:
        interpreted(f)(X)
    text = str(info.value)
    source = helper if f is in_a_helper else f
    lines, first = inspect.getsourcelines(source)
    at = next(i for i, line in enumerate(lines) if "# HERE" in line)
    assert f"test_errors.py:{first + at}, in {source.__name__}" in text
    assert lines[at].split("#")[0].strip() in text
    for part in parts:
        assert part in text, text
    assert len(text.splitlines()) <= 12
    assert "remedy" in text or f in (shapes, broadcast)


def test_the_traceback_ends_at_the_users_line(interpreted: Any) -> None:
    with pytest.raises(TraceError) as info:
        interpreted(formatted)(X)
    last = traceback.extract_tb(info.value.__traceback__)[-1]
    assert (last.filename, last.name) == (__file__, "formatted")
    assert info.value.__suppress_context__


def test_a_leaked_value_says_where_it_was_made(interpreted: Any) -> None:
    def leak(x: Any) -> Any:
        hidden.set((x + 1, x.sum()))  # HERE
        return x

    hidden: ContextVar[Any] = ContextVar("hidden")
    interpreted(leak)(X)
    kept = hidden.get()
    lines, first = inspect.getsourcelines(leak)
    made = first + next(i for i, line in enumerate(lines) if "# HERE" in line)
    for use in (
        lambda: kept[0] * 2,
        lambda: kept[0].sum(),
        lambda: interpreted(lambda x: x + kept[0])(X),
        lambda: interpreted(lambda x: kept[0])(X),
        lambda: bool(kept[1]),
        lambda: int(kept[1]),
        lambda: list(kept[0]),
    ):
        with pytest.raises(TraceError, match="after its trace has ended") as info:
            use()
        assert f"made at {__file__}:{made}" in str(info.value)
    assert f"made at {__file__}:{made}" in repr(kept[0])


def test_a_failed_trace_leaves_the_function_usable(interpreted: Any) -> None:
    f = interpreted(lambda x, flag: x + 1 if flag else np.linalg.inv(x))
    for _ in range(2):
        with pytest.raises(TraceError):
            f(X, False)
    np.testing.assert_array_equal(np.asarray(f(X, True)), X + 1)


def test_errors_of_numpy_are_those_of_numpy(interpreted: Any) -> None:
    wrong: list[tuple[Callable, type[Exception]]] = [
        (lambda x: x.sum(5), np.exceptions.AxisError),
        (lambda x: x.reshape(4, 4), ValueError),
        (lambda x: np.concatenate([x, np.float32(1)]), ValueError),
        (lambda x: np.stack([x, x[0]]), ValueError),
        (lambda x: x - (x > 0) - (x > 1) - -(x > 2), TypeError),
        (lambda x: np.max(x[:0]), ValueError),
        (lambda x: np.argmax(x[:0]), ValueError),
        (lambda x: np.split(x, 4, 1), ValueError),
        (lambda x: x.squeeze(0), ValueError),
        (lambda x: x & 1, TypeError),
        (lambda x: x.astype(int).astype("f4", casting="safe"), TypeError),
        (lambda x: x.transpose(0, 0), ValueError),
        (lambda x: np.einsum("ij,jk", x, x), ValueError),
        (lambda x: operator.iadd(x.astype(int), 0.5), TypeError),
        (lambda x: len(x.sum()), TypeError),
        (lambda x: list(x.sum()), TypeError),
        (lambda x: {x}, TypeError),
        (lambda x: x.no_such_name, AttributeError),
        (lambda x: x + object(), TypeError),
        (lambda x: np.take(x, 9), IndexError),
    ]
    for f, kind in wrong:
        with np.errstate(all="ignore"), pytest.raises(kind):
            f(X)
        with pytest.raises(kind):
            interpreted(f)(X)


def test_comparison_with_none(interpreted: Any) -> None:
    got = interpreted(lambda x: (x == None, x != None))(X)  # noqa: E711
    assert [np.asarray(g).all() for g in got] == [False, True]
    assert not np.asarray(got[0]).any()
