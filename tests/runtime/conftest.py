"""Programs for the tests of the runtime, compiled into a cache folder of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path

import pytest

from pjit.compiler import Program, compile_module
from pjit.config import settings
from pjit.ir.text import parse_module
from pjit.runtime.pace import Pace

Make = Callable[..., Program]


@pytest.fixture(autouse=True)
def own_settings(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("NUM_THREADS", "DUMP", "LOG", "VERIFY", "EXEC_MODE"):
        monkeypatch.delenv(f"PJIT_{name}", raising=False)
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("PJIT_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def make() -> Iterator[Make]:
    """Compiles IR text, without the cache; closes the programs at the end."""
    made: list[Program] = []

    def compiled(text: str, threads: int = 2, exec_mode: str = "async") -> Program:
        options = settings(threads=threads, exec_mode=exec_mode)
        made.append(compile_module(parse_module(text), options=options, cache=False))
        return made[-1]

    yield compiled
    for p in made:
        p.close()


@pytest.fixture
def queued() -> Callable[[Program], Program]:
    """Makes the calls of a program go to the workers, however short they are."""
    return _queued


def _queued(program: Program) -> Program:
    make_plan = program._new_plan

    def slow(shapes):
        plan = make_plan(shapes)
        plan.pace = Pace(inf, 1)
        return plan

    program._new_plan = slow
    for plan in program._plans.values():
        plan.pace = Pace(inf, 1)
    return program
