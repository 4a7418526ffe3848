"""Two ways to run a traced function: the interpreter of the IR, and compiled."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pjit.array import Array
from pjit.ir.interp import interpret
from pjit.ir.verify import verify
from pjit.tracing.function import CompiledFunction
from pjit.tracing.pytrees import flatten


class _Program:
    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(self, arrays: list) -> list:
        return [Array(r) for r in interpret(self.module, *(np.asarray(a) for a in arrays))]


class Interpreted(CompiledFunction):
    def _compile(self, module: Any) -> Any:
        verify(module)
        return _Program(module)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("PJIT_CACHE_DIR", str(tmp_path))


@pytest.fixture
def interpreted() -> type[CompiledFunction]:
    """Compiles for the interpreter."""
    return Interpreted


@pytest.fixture(params=["interpreted", "compiled"])
def jit(request: pytest.FixtureRequest) -> type[CompiledFunction]:
    """Both ways, one after the other."""
    return Interpreted if request.param == "interpreted" else CompiledFunction


TOLERANCE = {"float16": 4e-3, "bfloat16": 4e-2, "float32": 2e-5, "float64": 1e-12}


def _agree(actual: Any, expected: Any, name: str) -> None:
    if not isinstance(expected, np.ndarray | np.generic):
        assert type(actual) is type(expected), name
        assert actual == expected, name
        return
    got = np.asarray(actual)
    assert isinstance(actual, Array), f"{name}: {type(actual)}"
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape), name
    if str(got.dtype) not in TOLERANCE:
        np.testing.assert_array_equal(got, expected, name)
        return
    wide = [np.asarray(x).astype(np.float64) for x in (got, expected)]
    tolerance = TOLERANCE[str(got.dtype)]
    finite = np.abs(wide[1][np.isfinite(wide[1])])
    scale = finite.max() if finite.size else 1.0
    np.testing.assert_allclose(*wide, rtol=tolerance, atol=tolerance * scale, err_msg=name)


@pytest.fixture
def agree() -> Callable[..., None]:
    """Checks that a result is the expected one: structure, dtypes, shapes, values."""

    def check(actual: Any, expected: Any, name: str = "") -> None:
        got, spec = flatten(actual)
        wanted, wanted_spec = flatten(expected)
        assert spec == wanted_spec, name
        for i, (a, e) in enumerate(zip(got, wanted, strict=True)):
            _agree(a, e, f"{name}[{i}]")

    return check


@pytest.fixture(scope="module")
def interpreted_() -> type[CompiledFunction]:
    """Compiles for the interpreter; for property tests."""
    return Interpreted
