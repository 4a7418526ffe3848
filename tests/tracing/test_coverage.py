"""docs/numpy.md is current, and users get the reasons that it gives."""

from functools import partial
from typing import Any

import numpy as np
import pytest

from pjit.errors import TraceError
from pjit.tracing import coverage
from pjit.tracing.coverage import ACCEPTED, MISSING, REFUSED_, SECTIONS
from pjit.tracing.elementwise import UFUNCS
from pjit.tracing.refusals import REFUSED
from pjit.tracing.tracer import FUNCTIONS

X = np.ones((3, 3), np.float32)


def test_the_page_is_up_to_date() -> None:
    (version,) = coverage.TABLES["versions"]()
    if version not in coverage.PAGE.read_text():
        pytest.skip(f"the page is of another NumPy: {version}")
    assert coverage.main(["--check"]) == 0, "run `python -m pjit.tracing.coverage`"


def resolved(name: str) -> Any:
    value: Any = np
    for part in name.split(".")[1:]:
        value = getattr(value, part)
    return value


def ask(function: Any, x: Any) -> Any:
    if isinstance(function, np.ufunc):
        return function(*(x,) * function.nin)
    return x.__array_function__(function, (type(x),), (x,), {})


@pytest.mark.parametrize("name", [n for n in REFUSED if n.startswith("np.")])
def test_functions_are_refused_with_their_reason(name: str, interpreted: Any) -> None:
    function = resolved(name)
    assert function not in FUNCTIONS
    assert function not in UFUNCS

    with pytest.raises(TraceError) as found:
        interpreted(partial(ask, function))(X)
    assert str(found.value).startswith(f"{name} is not traced: {REFUSED[name].why}")
    assert REFUSED[name].remedy in str(found.value)


@pytest.mark.parametrize("name", [n for n in REFUSED if n.startswith("ndarray.")])
def test_attributes_are_refused_with_their_reason(name: str, interpreted: Any) -> None:
    attribute = name.partition(".")[2]
    assert hasattr(np.ndarray, attribute)
    with pytest.raises(TraceError, match=f"^{name} is not traced: {REFUSED[name].why}"):
        interpreted(lambda x: getattr(x, attribute))(X)


def test_what_rows_say(interpreted: Any) -> None:
    rows = {name: (state, notes) for make in SECTIONS.values() for name, state, notes in make()}
    assert rows["np.sort"] == (ACCEPTED, "only `order=None`")
    assert rows["np.unique"] == (REFUSED_, "the shape of its result depends on data")
    assert rows["ndarray.nonzero"] == rows["np.nonzero"] == rows["np.unique"]
    assert rows["np.add"] == (ACCEPTED, "`reduce`, `accumulate`, `at`, `outer`")
    assert rows["ndarray.sum"] == (ACCEPTED, "")
    missing = [name for name, (state, _) in rows.items() if state == MISSING]
    assert len(missing) < len(rows) / 20
    for name in missing:
        with pytest.raises(TraceError, match=f"^{name} is not traced\n"):
            interpreted(partial(ask, resolved(name)))(X)
