"""The decorator: signatures, pytrees, static arguments, methods, results, what is shown."""

import gc
import itertools
import re
import threading
import weakref
from collections import namedtuple
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from pjit.array import Array
from pjit.errors import FallbackWarning, InputError, PjitError, SettingError
from pjit.tracing import function as tracing
from pjit.tracing.function import CompiledFunction, compile

X = np.arange(6, dtype=np.float32).reshape(2, 3)
Pair = namedtuple("Pair", "left right")


class Counted:
    """A function that counts how often Python runs it, where a trace does not see it."""

    def __init__(self, f: Any) -> None:
        self.f, self._calls = f, itertools.count()

    @property
    def count(self) -> int:
        return int(repr(self._calls)[len("count(") : -1])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        next(self._calls)
        return self.f(*args, **kwargs)


def test_a_signature_is_traced_once(interpreted: Any) -> None:
    f = Counted(lambda x, n=1: x * n)
    jf = interpreted(f)
    for _ in range(2):
        jf(X)
        jf(X * 2)
        jf(X.astype(np.float64))
        jf(X[:1])
        jf(X, 1)
        jf(X, 1.0)
        jf(X, True)
        jf(X, n=1)
        jf(X, n=-0.0)
        jf(X, n=0.0)
        jf(X, n=float("nan"))
        jf(np.float32(3))
    assert f.count == 11


def test_values(jit: Any, agree: Any) -> None:
    def f(x: Any, *rest: Any, scale: float = 1.0, **more: Any) -> Any:
        return {
            "a": x * scale,
            "b": (rest[0] @ more["w"], [x.sum(), None]),
            "n": x.shape,
            "s": "text",
        }

    w = np.ones((3, 2), np.float32)
    agree(jit(f)(X, X, scale=2, w=w), f(X, X, scale=2, w=w))


def test_pytrees(interpreted: Any, agree: Any) -> None:
    def f(params: dict, pair: Pair, xs: list) -> Any:
        total = sum(xs[1:], xs[0])
        return Pair(params["w"] @ pair.left.T, {**params, "b": total}), pair.right

    args = ({"w": X, "b": X[0], "k": 3}, Pair(X, None), [X, X, X * 2])
    agree(interpreted(f)(*args), f(*args))


def test_results_that_are_not_computed(interpreted: Any) -> None:
    table = np.arange(3)
    f = interpreted(lambda x, n: (x, n, x.shape, table, np.float64(2)))
    x, n, shape, array, scalar = f(X, 5)
    assert isinstance(x, Array)
    assert (n, shape) == (5, (2, 3))
    assert isinstance(array, Array)
    table[0] = 9
    assert np.asarray(array).tolist() == [0, 1, 2]
    assert type(scalar) is np.float64
    assert interpreted(lambda x: (x.ndim, "a"))(X) == (2, "a")


def test_arrays_of_all_kinds(jit: Any, agree: Any) -> None:
    class Foreign:
        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            return X

    f = jit(lambda x: x + 1)
    for x in (X, X.T, X[:, ::2], np.float32(2), np.array(3), X.astype(ml_dtypes.bfloat16)):
        agree(f(x), x + 1)
    agree(f(Array(X)), X + 1)
    agree(f(f(X)), X + 2)
    agree(f(Foreign()), X + 1)


@pytest.mark.parametrize("x", [X.astype(complex), np.array(["a"]), np.array([None])], ids=str)
def test_dtypes_that_are_not_traced(x: Any, interpreted: Any) -> None:
    with pytest.raises(InputError, match="argument x "):
        interpreted(lambda x: x)(x)


def test_arguments_that_are_no_arrays(interpreted: Any) -> None:
    with pytest.raises(InputError, match=r"argument p\.s is neither an array nor hashable"):
        interpreted(lambda p: p)({"s": {1, 2}})
    with pytest.raises(InputError, match="MaskedArray"):
        interpreted(lambda p: p)(np.ma.masked_array(X))


def test_static_arguments(interpreted: Any, agree: Any) -> None:
    f = Counted(lambda x, axis, options=(): x.sum(axis) * len(options))
    f.__signature__ = __import__("inspect").signature(f.f)
    jf = interpreted(f, static_argnames=("axis", "options"))
    agree(jf(X, np.int64(1), [1, 2]), X.sum(1) * 2)
    agree(jf(X, np.int64(1), [1, 2]), X.sum(1) * 2)
    agree(jf(X, axis=0, options=(1,)), X.sum(0))
    assert f.count == 2
    with pytest.raises(InputError, match="static and not hashable"):
        jf(X, np.arange(2))
    with pytest.raises(InputError, match="axs"):
        interpreted(lambda x, axis: x, static_argnames="axs")


def test_python_control_flow_on_static_values(interpreted: Any, agree: Any) -> None:
    def f(x: Any, deep: bool, n: int, kind: str | None = None) -> Any:
        for i in range(n):
            if deep and kind != "relu":
                x = np.tanh(x) + i
        while x.ndim < 3:
            x = x[None]
        return x if len(x) else None

    jf = interpreted(f)
    for args in ((X, True, 3), (X, False, 2, "relu"), (X, True, 1, "tanh")):
        agree(jf(*args), f(*args))


def test_types_and_functions_are_static(interpreted: Any, agree: Any) -> None:
    f = interpreted(lambda x, dtype, act: act(x).astype(dtype))
    agree(f(X, np.float64, np.tanh), np.tanh(X).astype(np.float64))
    agree(f(X, np.dtype("i4"), abs), abs(X).astype("i4"))


class Model:
    def __init__(self, k: float) -> None:
        self.w = np.full((3, 2), k, np.float32)

    @compile
    def __call__(self, x: Any) -> Any:
        return x @ self.w

    @compile(target="cpu", exec_mode="sync")
    def scaled(self, x: Any, by: float) -> Any:
        """Doc."""
        return self(x) * by

    @staticmethod
    @compile
    def double(x: Any) -> Any:
        return x * 2


def test_methods(agree: Any) -> None:
    a, b = Model(1), Model(2)
    agree(a(X), X @ a.w)
    agree(b(X), X @ b.w)
    agree(a.scaled(X, 3), X @ a.w * 3)
    agree(Model.double(X), X * 2)
    assert "@self.w" in a.scaled.ir()
    assert Model.scaled.__doc__ == "Doc."
    assert Model.scaled.__name__ == "scaled"
    assert isinstance(Model.scaled, CompiledFunction)


def test_an_object_is_not_kept_alive(interpreted: Any) -> None:
    f = interpreted(lambda m, x: x @ m.w)
    m = Model(1)
    f(m, X)
    gone = weakref.ref(m)
    del m
    gc.collect()
    assert gone() is None
    f(Model(3), X)
    assert len(f._families) == 1


def test_captured_arrays_are_constants_until_they_change(jit: Any, agree: Any) -> None:
    table = np.arange(30, dtype=np.float32).reshape(3, 10)
    small = np.float32([1, 2, 3])

    def f(x: Any) -> Any:
        y = x @ table + small[:1]
        buffer = np.zeros(10, np.float32)
        for i in range(3):
            buffer[i] = i
            y = y + buffer
        return y @ table.T

    expected = f(X)
    jf = jit(f)
    agree(jf(X), expected)
    text = jf.ir() if jit is CompiledFunction else ""
    assert jit is not CompiledFunction or text.count("@table") == 1 + text.count("@table.1")
    table[:] = 0
    agree(jf(X), f(X))


def test_nested_functions_join_the_trace(interpreted: Any, agree: Any) -> None:
    inner = Counted(lambda x: np.exp(x))
    compiled = interpreted(inner)
    outer = interpreted(lambda x: compiled(x) + compiled(x * 2))
    agree(outer(X), np.exp(X) + np.exp(X * 2))
    assert inner.count == 2
    agree(interpreted(lambda x: x + compiled(X))(X), X + np.exp(X))


def test_exceptions_of_the_function_pass(interpreted: Any) -> None:
    def f(x: Any) -> Any:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        interpreted(f)(X)
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        interpreted(lambda x, y: x)(X)


def test_programs_are_bounded(interpreted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "MAX_PROGRAMS", 3)
    f = Counted(lambda x, n: x + n)
    jf = interpreted(f)
    for n in (0, 1, 2, 0, 3, 0, 1):
        jf(X, n)
    assert len(jf._families) == 3
    assert f.count == 5  # 1 was the one that was not used longest


def test_calls_from_threads(interpreted: Any) -> None:
    f = Counted(lambda x: np.tanh(x) * 2)
    jf = interpreted(f)
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(np.asarray(jf(X)))) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert f.count == 1
    assert all(np.array_equal(r, results[0]) for r in results)


def test_what_is_shown(agree: Any) -> None:
    @compile
    def f(x: Any, p: dict) -> Any:
        return {"y": np.exp(x) + p["b"]}

    for ask in (f.ir, f.report, lambda: f.stages):
        with pytest.raises(PjitError, match="was not called"):
            ask()
    f(X, {"b": X})
    graph = f.ir()
    assert "graph @main(%x: f32[2,3], %p.b: f32[2,3])" in graph
    assert 'outputs=["result.y"]' in graph
    assert "test_compile.py:" in graph
    assert f.stages[0] == "graph"
    assert f.ir("graph") == graph
    assert f.ir(f.stages[-1]) != graph
    assert "kernels" in str(f.report())
    assert f.report().profile is None
    assert f.report(X, p={"b": X}).profile.sizes == {}
    with pytest.raises(PjitError, match="no stage"):
        f.ir("no-such-stage")
    assert "f" in repr(f)


def test_what_is_shown_without_a_program() -> None:
    f = compile(lambda x: x.ndim)
    assert f(X) == 2
    assert f.stages == ("graph",)
    assert "return" in f.ir()
    with pytest.raises(PjitError, match="no report"):
        f.report()


def test_recompilations_are_logged(interpreted: Any, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setenv("PJIT_LOG", "recompiles")
    f = interpreted(lambda x, n: x + n)
    f(X, 1)
    assert capsys.readouterr().err == ""
    f(X[:1], 2)
    text = capsys.readouterr().err
    assert "x float32[2, 3] -> float32[1, 3]; n 1 -> 2" in text


def test_options(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingError):
        compile(exec_mode="later")(lambda x: x + 1)(X)
    with pytest.raises(SettingError):
        compile(threads=0)(lambda x: x + 1)(X)
    with pytest.raises(PjitError, match="nowhere"):
        compile(target="nowhere")(lambda x: x + 1)(X)


def test_the_report_says_what_control_flow_became() -> None:
    def f(x: Any) -> Any:
        while x.sum() > 100:
            x = x / 2
        if x[0, 0] > 5:
            raise ValueError("large")
        if x[0, 0] > 4:
            return np.linalg.inv(x[:, :2])
        return x * [1.0, 2.0, 3.0][x[0, 0].astype(int)]

    jf = compile(f)
    for x in (X, X + 1, X * 1000):
        jf(x)
    control = jf.report().control
    assert control is not None
    assert (control.questions, control.loops, control.programs) == (4, 1, 1)
    assert (control.grown, control.compiled, control.python) == (2, 2, ())
    assert control.runs >= 5
    (_, large), (_, inverse) = sorted(control.raising)
    assert (large, inverse.partition(":")[0]) == (
        "ValueError: large",
        "np.linalg.inv is not traced",
    )
    (at, why), *_ = control.open
    assert ("in f: return x * [1.0" in at, why) == (True, "its value is asked for")
    text = str(jf.report())
    assert "control flow: 4 questions, 1 native loops" in text
    assert "compiled 2 times, 2 answers added by calls; 1 programs" in text
    assert re.search(r"raises: .*test_compile.py:\d+, in f: raise Val.*: ValueError: large", text)
    assert jf.report().to_dict()["control"]["loops"] == 1


def test_the_report_names_what_runs_in_python() -> None:
    def f(x: Any) -> Any:
        seen = []
        while x.sum() > 1:
            x = x / 2
            seen.append(x.sum())
        return seen

    jf = compile(f)
    with pytest.warns(FallbackWarning):
        jf(X * np.float32(1e30))
    ((where, why),) = jf.report().control.python
    assert "in f: while x.sum() > 1" in where
    assert "a list that grows" in why
    assert f"in Python: {where}" in str(jf.report())


def test_recompilations_name_the_guard(interpreted: Any, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setenv("PJIT_LOG", "recompiles")
    model, table = Model(2.0), [1, 2]
    model.rate = 2  # type: ignore[attr-defined]

    def f(x: Any) -> Any:
        return x * model.rate + table[1] * len(x) * [1, 2, 3][int(x[0, 0])]  # type: ignore

    jf = interpreted(f)
    line = f.__code__.co_firstlineno + 1
    for change, wanted in (
        (lambda: None, ""),
        (lambda: setattr(model, "rate", 3), "model.rate 2 -> 3"),
        (lambda: table.append(5), "table [1, 2] -> [1, 2, 5]"),
        (lambda: setattr(model, "rate", 2), "model.rate 3 -> 2"),
    ):
        change()
        jf(X)
        text = capsys.readouterr().err
        assert (text == "") == (not wanted)
        if wanted:
            assert re.search(r"\(\d programs, \d+ ms\)", text)
            assert wanted in text
            assert f"read at {__file__}:{line}, in f: return x * model.rate" in text
    jf(X + 1)
    text = capsys.readouterr().err
    assert re.search(rf"ms\): a new answer at {re.escape(__file__)}:{line}, in f", text)
