"""Random programs of Python: a compiled call gives what the call of the plain function gives.

Every run takes new seeds; a failure prints the seed of its program, and
``PJIT_PROGRAMS_SEED=<seed> PJIT_PROGRAMS=1`` runs that program alone. ``PJIT_PROGRAMS`` is the
number of programs.
"""

import copy
import os
import secrets
import warnings
from collections import Counter
from typing import Any

import numpy as np
import pytest
from random_programs import Program, difference, program

from pjit.errors import FallbackWarning, TraceError
from pjit.tracing import explore, variants
from pjit.tracing.function import CompiledFunction

COUNT = int(os.environ.get("PJIT_PROGRAMS", "500"))
CHUNK = 50
COMPILED = 10  # one program of so many runs natively, the others in the interpreter
BOUNDS = ((explore, "MAX_NODES", 60), (explore, "MAX_UNIQUE", 16), (variants, "MAX_GROWTH", 40))
REFUSED = 0.08  # the share of a chunk's calls that may be refused; 0.002 are on the average


def run(function: Any, arguments: tuple) -> Any:
    """The result of a call or the exception that it raises."""
    try:
        return function(*arguments)
    except Exception as e:
        return e


def check(p: Program, jit: Any, counts: Counter) -> str:
    """Calls a program, plain and compiled; what differs."""
    names = p.load()
    plain, compiled = names["program"], jit(names["program"])
    for k, arguments in enumerate(p.calls):
        exec(p.between.get(k, ""), names)
        with np.errstate(all="ignore"), warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            expected = run(plain, copy.deepcopy(arguments))
            given = copy.deepcopy(arguments)
            actual = run(compiled, given)
        counts["calls"] += 1
        counts["in Python"] += any(issubclass(w.category, FallbackWarning) for w in warned)
        if isinstance(actual, TraceError):
            counts["refused"] += 1
            counts[f"refused: {str(actual).splitlines()[0]}"] += 1
            continue
        differs = ""
        if isinstance(actual, Exception) or isinstance(expected, Exception):
            if type(actual) is not type(expected):
                differs = f"{actual!r} instead of {expected!r}"
        else:
            differs = difference(actual, expected)
        differs = differs or difference(given, arguments)
        if differs:
            return (
                f"program {p.seed}, call {k}: {differs}\n{p.source}\n"
                f"arguments: {arguments}\nexpected: {expected!r}\nactual: {actual!r}\n"
            )
    return ""


@pytest.fixture(scope="module")
def first(request: pytest.FixtureRequest) -> int:
    """The seed of the first program; the workers of one run share it."""
    given = os.environ.get("PJIT_PROGRAMS_SEED") or os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if given is None:
        return secrets.randbits(40)
    return int(given) if given.isdigit() else int(given, 16) >> 88


@pytest.fixture(autouse=True)
def bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs have more paths than programs of users: calls that go far run in Python."""
    for module, name, bound in BOUNDS:
        monkeypatch.setattr(module, name, bound)


@pytest.mark.parametrize("chunk", range(-(-COUNT // CHUNK)))
def test_random_programs(chunk: int, first: int, interpreted: Any) -> None:
    counts: Counter = Counter()
    failures = []
    for k in range(chunk * CHUNK, min(COUNT, (chunk + 1) * CHUNK)):
        jit = CompiledFunction if k % COMPILED == COMPILED - 1 else interpreted
        failures.append(check(program(first + k), jit, counts))
    print(f"seeds from {first + chunk * CHUNK}:", dict(counts))
    assert not any(failures), "\n".join(filter(None, failures))
    assert counts["refused"] <= max(8, REFUSED * counts["calls"]), dict(counts)
