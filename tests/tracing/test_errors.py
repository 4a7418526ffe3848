"""What is not traced: the message has the user's line, the reason and the remedy."""

import copy
import inspect
import json
import operator
import pickle
import re
import signal
import traceback
import warnings
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import numpy as np
import pytest

from pjit.errors import FallbackWarning, TraceError

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def indexed(x: Any) -> Any:
    table = np.arange(10)
    return table[x.astype(int)]  # HERE


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
    return pickle.dumps(v).hex()  # HERE


def in_a_helper(x: Any) -> Any:
    return helper(x.sum())


def in_a_branch(x: Any) -> Any:
    if x.sum() > 0:
        return np.linalg.inv(x[:, :2])  # HERE
    return x


CASES = [
    (indexed, ["like=i"]),
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
    (in_a_helper, ["pickling", "in helper"]),
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
        interpreted(pickled)(X)
    last = traceback.extract_tb(info.value.__traceback__)[-1]
    assert (last.filename, last.name) == (__file__, "pickled")
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


# In a branch, in a loop, after what was traced


TABLE, NAMES, SEEN = [1, 2, 3], {"a": 1}, {1}


class Owner:
    total = 0
    values: list[int] = []


OWNER, COUNT = Owner(), 0


def changes_a_list(x: Any) -> Any:
    if x.sum() > 20:
        TABLE.append(4)  # HERE
    return x + 1 if x.max() > 1 else x


def changes_a_dict(x: Any) -> Any:
    if x.sum() > 20:
        NAMES["b"] = x  # HERE
    return x + len(NAMES)


def changes_a_set(x: Any) -> Any:
    if x.sum() > 20:
        SEEN.discard(1)  # HERE
    return x + len(SEEN)


def changes_an_attribute(x: Any) -> Any:
    if x.sum() > 20:
        OWNER.total += 1  # HERE
    return x


def makes_an_attribute(x: Any) -> Any:
    if x.sum() > 20:
        OWNER.last = x  # type: ignore[attr-defined]  # HERE
    return x


def changes_a_class(x: Any) -> Any:
    if x.sum() > 20:
        Owner.values.append(1)  # HERE
    return x


def changes_a_global(x: Any) -> Any:
    global COUNT
    if x.sum() > 20:
        COUNT += 1  # HERE
    return x


def prints(x: Any) -> Any:
    if x.sum() > 20:
        print(x)  # HERE
    return x


def does_what_is_not_traced(x: Any) -> Any:
    if x.sum() > 20:
        return np.linalg.inv(x[:, :2])  # HERE
    return x


def catches_it(x: Any) -> Any:
    try:
        return np.linalg.inv(x[:, :2]) if x.sum() > 20 else x  # HERE
    except Exception:
        return x


def writes_to_the_argument(x: Any) -> Any:
    if x.sum() > 20:
        x += 1  # HERE
    return x


REFUSED = [
    (changes_a_list, "changes TABLE"),
    (changes_a_dict, "changes NAMES"),
    (changes_a_set, "changes SEEN"),
    (changes_an_attribute, "changes OWNER.total"),
    (makes_an_attribute, "changes OWNER.last"),
    (changes_a_class, "changes Owner.values"),
    (changes_a_global, "global variable COUNT"),
    (prints, "print()"),
    (does_what_is_not_traced, "np.linalg.inv is not traced"),
    (catches_it, "np.linalg.inv is not traced"),
    (writes_to_the_argument, "its argument x"),
]


def state() -> Any:
    """What the functions could change."""
    return copy.deepcopy((TABLE, NAMES, SEEN, vars(OWNER), Owner.total, Owner.values, COUNT))


@pytest.mark.parametrize(("f", "message"), REFUSED, ids=[f.__name__ for f, _ in REFUSED])
def test_in_a_branch(f: Callable, message: str, jit: Any, agree: Any) -> None:
    jf, before = jit(f), state()
    for x in (X, X * 3, X, X * 3, X * 0, X - 9):
        if x.sum() <= 20:
            agree(jf(x), f(x))
            continue
        with pytest.raises(TraceError, match=re.escape(message)) as info:
            jf(x)
        at = next(i for i, s in enumerate(inspect.getsourcelines(f)[0]) if "# HERE" in s)
        text = str(info.value)
        assert f"test_errors.py:{f.__code__.co_firstlineno + at}, in {f.__name__}" in text
        assert len(text.splitlines()) <= 12
        assert state() == before


def test_self_is_not_changed(interpreted: Any) -> None:
    class Model:
        @interpreted
        def count(self, x: Any) -> Any:
            self.calls = getattr(self, "calls", 0) + 1
            return x

        @interpreted
        def keep(self, x: Any) -> Any:
            self.last = x + 1
            return x

        @interpreted
        def use(self, x: Any) -> Any:
            return x * 2

    m = Model()
    for method in (m.count, m.keep):
        with pytest.raises(TraceError, match=r"changes self\."):
            method(X)
    assert vars(m) == {}
    np.testing.assert_array_equal(np.asarray(m.use(X)), X * 2)


def raises(x: Any) -> Any:
    if x.sum() > 20:
        raise ValueError("too large")
    return x


def chained(x: Any) -> Any:
    try:
        return raises(x)
    except ValueError as e:
        raise KeyError("mine") from e


def asserts(x: Any) -> Any:
    assert x.sum() <= 20, "large"
    return x


def divides(x: Any) -> Any:
    return 1 // int(x.sum() <= 20) + x


def divides_floats(x: Any) -> Any:
    return x * (1 / float(x.sum() <= 20))


def takes_of_a_list(x: Any) -> Any:
    return x * [1.0, 2.0][int(x.sum() / 15)]


def takes_of_an_array(x: Any) -> Any:
    return x[int(x.sum() / 15)]


def reads_a_key(x: Any) -> Any:
    return x * {0: 1.0, 1: 2.0}[int(x.sum() / 15)]


def of_a_library(x: Any) -> Any:
    return x * json.loads("1" if x.sum() <= 20 else "!")


RAISING = [raises, chained, asserts, divides, divides_floats, takes_of_a_list]
RAISING += [takes_of_an_array, reads_a_key, of_a_library]


@pytest.mark.parametrize("f", RAISING, ids=lambda f: f.__name__)
def test_exceptions_are_those_of_python(f: Callable, jit: Any, agree: Any) -> None:
    jf = jit(f)
    for x in (X, X * 3, X, X * 3, X * 0):
        if x.sum() <= 20:
            agree(jf(x), f(x))
            continue
        found = []
        for function in (f, jf):
            with pytest.raises(Exception) as info:
                function(x)
            found.append(info.value)
        wanted, got = found
        assert (type(got), str(got)) == (type(wanted), str(wanted))
        frames = [traceback.extract_tb(e.__traceback__)[1:] for e in found]
        assert [(s.filename, s.lineno) for s in frames[1]] == [
            (s.filename, s.lineno) for s in frames[0]
        ]
        assert type(got.__cause__) is type(wanted.__cause__)


def test_a_traced_array_of_a_question_is_an_array_to_isinstance(interpreted: Any) -> None:
    def checks(x: Any) -> Any:
        kinds = (np.ndarray, np.generic, float, int, np.float32)
        return [isinstance(y, k) for y in (x, x.sum(), x.sum().item()) for k in kinds]

    assert interpreted(checks)(X) == checks(X)


def test_what_only_fails_while_it_is_traced_runs_in_python(jit: Any, agree: Any) -> None:
    def typed(x: Any) -> Any:
        if x.sum() > 20:
            return x * np.ndarray.sum(x)
        return x

    jf = jit(typed)
    agree(jf(X), typed(X))
    with pytest.warns(FallbackWarning, match=r"in typed: .*TypeError"):
        agree(jf(X * 3), typed(X * 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agree(jf(X * 3), typed(X * 3))


def test_a_list_that_grows_for_ever_runs_in_python(interpreted: Any, agree: Any) -> None:
    def halves(x: Any) -> Any:
        seen = []
        while x.sum() > 1:
            x = x / 2
            seen.append(x.sum())
        return seen

    jf = interpreted(halves)
    agree(jf(X), halves(X))
    with pytest.warns(FallbackWarning, match="in halves: while x.sum") as found:
        agree(jf(X * np.float32(1e30)), halves(X * np.float32(1e30)))
    assert len(found) == 1
    assert found[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agree(jf(X * np.float32(1e30)), halves(X * np.float32(1e30)))
        agree(jf(X * 100), halves(X * 100))


def test_recursion_without_end(interpreted: Any, agree: Any) -> None:
    def plain(x: Any) -> Any:
        return plain(x + 1)

    def dependent(x: Any) -> Any:
        return dependent(x + 1) if x.sum() > 20 else x

    with pytest.raises(TraceError, match=r"calls itself without end\n.*in plain: ") as info:
        interpreted(plain)(X)
    assert len(str(info.value).splitlines()) <= 12
    jf = interpreted(dependent)
    agree(jf(X), X)
    with pytest.warns(FallbackWarning, match="in dependent"), pytest.raises(RecursionError):
        jf(X * 3)
    agree(jf(X), X)


def test_a_trace_can_be_interrupted(interpreted: Any, agree: Any) -> None:
    class Interrupted(KeyboardInterrupt):
        pass

    active: list[int] = []

    def interrupt(*_: Any) -> None:
        if active:  # one in a finalizer is lost: it comes again
            raise Interrupted

    def endless(x: Any, n: int) -> Any:
        y = x
        while n > 3:
            y = y + 1
        return y if x.sum() > 20 else -y

    def grows(x: Any) -> Any:
        table = [1.0, 2.0]
        k = int(x[0, 1])
        while k == 3 and ENDLESS[0]:
            x = x + 1
        return x * table[k % 2]

    ENDLESS = [1]
    f, g = interpreted(endless), interpreted(grows)
    agree(g(X), grows(X))
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for call in (lambda: f(X, 4), lambda: g(X * 3)):
            active.append(1)
            signal.setitimer(signal.ITIMER_REAL, 0.3, 0.3)
            with pytest.raises(Interrupted):
                call()
            active.clear()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    agree(f(X, 2), endless(X, 2))
    agree(g(X), grows(X))
    ENDLESS[0] = 0
    agree(g(X * 3), grows(X * 3))
