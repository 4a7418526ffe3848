"""``pjit.array_api``: every function, eager and compiled, against array-api-strict."""

import inspect
import operator
from collections.abc import Callable
from typing import Any

import array_api_strict
import numpy as np
import pytest
from array_api_calls import BOOLS, CALLS, FLOATS, INTS, NUMBERS, Call, array, pair
from hypothesis import given, settings
from hypothesis import strategies as st

import pjit
from pjit import array_api
from pjit.array import Array
from pjit.errors import PjitError
from pjit.tracing.refusals import ARRAY_API, COMPLEX

LATER = {"broadcast_shapes", "isin"}  # than 2024.12
STRICTS_OWN = {"Device", "fft", "linalg", "__version__"}
NAMES = {
    n for n in array_api_strict.__all__ if "flags" not in n.lower() and n not in LATER | STRICTS_OWN
}
FUNCTIONS = sorted(n for n in NAMES if callable(getattr(array_api, n)))
EXAMPLES = settings(max_examples=20, deadline=None, derandomize=True, database=None)
FEW = settings(EXAMPLES, max_examples=3)
RELATIVE = {"float32": 2e-5, "complex64": 2e-5, "float64": 1e-12, "complex128": 1e-12}


@pytest.fixture(autouse=True, scope="module")
def _version() -> Any:
    array_api_strict.set_array_api_strict_flags(api_version="2024.12")
    yield
    array_api_strict.reset_array_api_strict_flags()


def leaves(x: Any) -> list:
    """What a result consists of: NumPy arrays, names of dtypes, Python values."""
    if isinstance(x, list | tuple):
        return [leaf for item in x for leaf in leaves(item)]
    if hasattr(x, "__array_namespace__"):
        return [np.asarray(x)]
    return [str(x).rpartition(".")[2] if "dtype" in type(x).__name__.lower() else x]


def expected(call: Call) -> list:
    with np.errstate(all="ignore"):
        arrays = [array_api_strict.asarray(a) for a in call.arrays]
        return leaves(call.run(array_api_strict, *arrays))


def check(actual: Any, wanted: list) -> None:
    got = leaves(actual)
    assert len(got) == len(wanted)
    for g, w in zip(got, wanted, strict=True):
        if not isinstance(w, np.ndarray):
            assert g == w
            assert type(g) is type(w)
            continue
        assert (g.dtype, g.shape) == (w.dtype, w.shape)
        tolerance = RELATIVE.get(str(w.dtype))
        if tolerance is None:
            np.testing.assert_array_equal(g, w)
            continue
        finite = np.abs(w[np.isfinite(w)])
        scale = finite.max() if finite.size else 0
        np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance * scale)


def all_arrays(x: Any) -> bool:
    """Whether every array of a result is a ``pjit.Array``."""
    if isinstance(x, list | tuple):
        return all(map(all_arrays, x))
    return isinstance(x, Array) or not isinstance(x, np.ndarray | np.generic)


def run(jit: Any, call: Call) -> Any:
    """Compiles a call; one without arrays gives constants, which then meet a traced array."""
    if call.arrays:
        return jit(lambda *xs: call.run(array_api, *xs))(*call.arrays)

    def constants(flag: Any) -> Any:
        made = call.run(array_api)
        return array_api.where(flag, made, made) if isinstance(made, Array) else made

    return jit(constants)(np.asarray(True))


def test_every_name_is_there_and_has_calls() -> None:
    assert set(array_api.__all__) == NAMES
    assert len(FUNCTIONS) >= 130
    assert set(CALLS) == set(FUNCTIONS)
    assert array_api.__array_api_version__ == "2024.12"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signature(name: str) -> None:
    ours, theirs = (inspect.signature(getattr(x, name)) for x in (array_api, array_api_strict))
    found = [(p.name, p.kind) for p in theirs.parameters.values()]
    assert [(p.name, p.kind) for p in ours.parameters.values()] == found


@pytest.mark.parametrize("name", FUNCTIONS)
def test_eager(name: str) -> None:
    @EXAMPLES
    @given(CALLS[name])
    def check_eager(call: Call) -> None:
        with np.errstate(all="ignore"):
            result = call.run(array_api, *map(Array, call.arrays))
        assert all_arrays(result)
        check(result, expected(call))

    check_eager()


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - set(ARRAY_API)))
def test_traced(name: str, interpreted: Any) -> None:
    @EXAMPLES
    @given(CALLS[name])
    def check_traced(call: Call) -> None:
        check(run(interpreted, call), expected(call))

    check_traced()


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - set(ARRAY_API)))
def test_compiled(name: str) -> None:
    @FEW
    @given(CALLS[name])
    def check_compiled(call: Call) -> None:
        check(run(pjit.compile, call), expected(call))

    check_compiled()


@pytest.mark.parametrize("name", sorted(ARRAY_API))
def test_refused(name: str) -> None:
    why = "complex" if ARRAY_API[name] is COMPLEX else ARRAY_API[name].why

    @FEW
    @given(CALLS[name])
    def check_refused(call: Call) -> None:
        with pytest.raises(PjitError, match=why):
            run(pjit.compile, call)

    check_refused()


BINARY = {
    "add sub mul truediv floordiv mod pow lt le gt ge": FLOATS,
    "sub mul floordiv mod pow eq ne lt": INTS,
    "and_ or_ xor eq ne": BOOLS,
    "lshift rshift and_ or_ xor": INTS,
    "iadd isub imul itruediv ifloordiv imod ipow": FLOATS,
    "iadd isub imul ifloordiv iand ior ixor ilshift irshift": INTS,
}
OPERATORS = [(n, dtypes) for names, dtypes in BINARY.items() for n in names.split()]
UNARY = [("neg", NUMBERS), ("pos", NUMBERS), ("abs", NUMBERS), ("invert", (*BOOLS, *INTS))]


@st.composite
def operations(draw: Any, name: str, dtypes: tuple, number: bool) -> Call:
    function = getattr(operator, name)
    first = draw(st.sampled_from(dtypes))
    in_place = name.startswith("i") and name != "invert"
    second = first if in_place else pair(draw, (first,))[1]
    x = array(draw, first, (2, 3), 1, 4)
    if (name, dtypes) in UNARY:
        return Call(name, [x], lambda xp, x: function(x))
    y = array(draw, second, draw(st.sampled_from([(2, 3), (3,), (1, 3), ()])), 1, 4)
    value = True if first == "bool" else y.ravel()[0].item() or 1
    if first != "bool":
        x, y = (np.where(a == 0, a.dtype.type(1), a) for a in (x, y))
    if number and in_place:  # a copy, since the argument of a compiled function is the caller's
        return Call(name, [x], lambda xp, x: function(xp.asarray(x, copy=True), value))
    if number:
        return Call(name, [x], lambda xp, x: [function(x, value), function(value, x)])
    return Call(name, [x, y], lambda xp, x, y: function(xp.asarray(x, copy=True), y))


@pytest.mark.parametrize(("name", "dtypes"), [*OPERATORS, *UNARY])
@pytest.mark.parametrize("number", [False, True])
def test_operator(name: str, dtypes: tuple, number: bool, interpreted: Any) -> None:
    @FEW
    @given(operations(name, dtypes, number))
    def check_operator(call: Call) -> None:
        wanted = expected(call)
        result = call.run(array_api, *map(Array, call.arrays))
        assert all_arrays(result)
        check(result, wanted)
        check(run(interpreted, call), wanted)

    check_operator()


def test_matmul_operator(agree: Any) -> None:
    x, y = np.arange(6.0).reshape(2, 3), np.arange(9.0).reshape(3, 3)
    z = Array(x)
    z @= y
    agree([Array(x) @ Array(y), x @ Array(y), Array(x) @ y, z], [x @ y] * 4)


def test_in_place_makes_a_new_array() -> None:
    x = y = Array([1, 2, 3])
    x += 1
    assert (x.tolist(), y.tolist()) == ([2, 3, 4], [1, 2, 3])
    with pytest.raises(TypeError, match="same_kind"):
        x += 1.5
    with pytest.raises(ValueError, match="broadcast"):
        x += Array([[1], [2]])


ATTRIBUTES = ("dtype", "device", "mT", "ndim", "shape", "size", "T")


def test_attributes_and_methods(jit: Any, agree: Any) -> None:
    x = np.arange(6.0).reshape(2, 3)

    def described(x: Any) -> list:
        moved = x.to_device("cpu")
        with pytest.raises(ValueError, match="cpu"):
            x.to_device("gpu")
        return [*(getattr(x, n) for n in ATTRIBUTES), moved, x[1, ...], x[0, 1:], x[:, None]]

    wanted = [getattr(x, n) for n in ATTRIBUTES]
    wanted += [x, x[1, ...], x[0, 1:], x[:, None]]
    agree(described(Array(x)), wanted)
    agree(jit(described)(x), wanted)


def test_namespace(interpreted: Any) -> None:
    x = Array([1.0])
    assert x.__array_namespace__() is pjit.array_api
    assert x.__array_namespace__(api_version="2024.12") is array_api
    with pytest.raises(ValueError, match=r"2019\.01"):
        x.__array_namespace__(api_version="2019.01")
    assert interpreted(lambda x: x.__array_namespace__(api_version=None) is array_api)(x)
    with pytest.raises(ValueError, match=r"2019\.01"):
        interpreted(lambda x: x.__array_namespace__(api_version="2019.01"))(x)
    with pytest.raises(AttributeError, match="no 'linalg'"):
        array_api.linalg  # noqa: B018


@settings(EXAMPLES, max_examples=30)
@given(st.data())
def test_complex_numbers_are_eager_only(data: Any) -> None:
    name = data.draw(st.sampled_from(["add", "exp", "conj", "sum", "matmul", "isnan", "equal"]))
    x = array(data.draw, "float64", (3, 3)) * (1 + 2j)
    call = Call(name, [x, x] if name in ("add", "matmul", "equal") else [x], _named(name))
    check(call.run(array_api, *map(Array, call.arrays)), expected(call))
    with pytest.raises(PjitError, match="complex"):
        run(pjit.compile, call)


def _named(name: str) -> Callable:
    return lambda xp, *xs: getattr(xp, name)(*xs)


def test_copies() -> None:
    x = Array([1, 2])
    assert array_api.asarray(x, copy=False).tolist() == [1, 2]
    with pytest.raises(ValueError, match="copy"):
        array_api.asarray([1, 2], copy=False)
    with pytest.raises(BufferError, match="copy"):
        array_api.from_dlpack(np.ones(2), copy=False)
    with pytest.raises(TypeError, match="complex"):
        array_api.astype(array_api.asarray(1j), array_api.float32)


def test_mixed_sequences_of_traced_and_eager_arrays(jit: Any, agree: Any) -> None:
    x, known = np.ones(3, np.float32), Array(np.arange(3.0, dtype=np.float32))

    def joined(x: Any) -> list:
        xp = x.__array_namespace__()
        joins = [xp.concat([x, known]), xp.asarray([x, x]), xp.stack([known, x])]
        return [*joins, known + x, x + known]

    k = np.asarray(known)
    agree(
        jit(joined)(x),
        [np.concatenate([x, k]), np.stack([x, x]), np.stack([k, x]), k + x, k + x],
    )


def test_nine_in_ten_functions_compile() -> None:
    assert set(ARRAY_API) <= set(FUNCTIONS)
    assert len(ARRAY_API) <= len(FUNCTIONS) / 10
