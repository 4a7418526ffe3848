"""Processes that run LLVM for this one."""

from __future__ import annotations

import io
import json
import os
import signal
import time
from collections.abc import Iterator

import pytest
from graphs import graph

from pjit.backends.llvm import helpers, optimize
from pjit.backends.llvm.build import LOOPS, _only_tiles
from pjit.backends.llvm.helpers import MANY, Helper, prepared, take
from pjit.backends.llvm.module import NativeCode, compile_module, compile_modules, new_module
from pjit.backends.llvm.optimize import TILES
from pjit.backends.llvm.target import machine
from pjit.ir import ops
from pjit.ir.errors import PjitError
from pjit.ir.loops import kernels
from pjit.ir.types import f32, tensor
from pjit.passes.context import Context
from pjit.passes.manager import run_pipeline
from pjit.passes.pipelines import GRAPH, KERNEL
from tests.backends.llvm.test_module import calls

WRONG = "define void @f() { ret i32 %x }"


@pytest.fixture
def helper() -> Iterator[Helper]:
    h = Helper()
    yield h
    h.close()
    assert h._process.returncode == 0


def test_object_code_is_that_of_this_process(helper: Helper) -> None:
    for name in ("cbrt", "exp"):
        source = str(calls(name))
        assert helper.compile(source, machine().llvm) == compile_module(source, machine())


def test_another_machine(helper: Helper) -> None:
    source = str(calls("cbrt"))
    arm = machine("aarch64")
    for m in (arm, machine(), arm):
        assert helper.compile(source, m.llvm) == compile_module(source, m)


def test_code_that_llvm_refuses(helper: Helper) -> None:
    with pytest.raises(RuntimeError, match="function result type"):
        helper.compile(WRONG, machine().llvm)
    assert helper.compile(str(calls("cbrt")), machine().llvm)[:4] == b"\x7fELF"


def test_requests_and_answers() -> None:
    m = machine()
    requests, answers = io.BytesIO(), io.BytesIO()
    for source in (str(calls("cbrt")), WRONG):
        optimize.write(requests, json.dumps(m.llvm).encode())
        optimize.write(requests, source.encode())
    requests.seek(0)
    optimize.serve(requests, answers)
    answers.seek(0)
    assert optimize.read(answers) == b"+" + compile_module(calls("cbrt"), m)
    assert optimize.read(answers)[:1] == b"-"
    assert optimize.read(answers) == b""
    optimize.serve(io.BytesIO(), answers)


@pytest.fixture
def pids() -> Iterator[list[int]]:
    with prepared(MANY, 0, 2):
        yield [h._process.pid for h in helpers._waiting]
    assert not helpers._waiting


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_helpers_compile_and_end(pids: list[int]) -> None:
    assert len(pids) >= 2
    parts = compile_modules((calls("cbrt", name="f"), calls("exp", name="g")), machine())
    assert parts == tuple(
        compile_module(calls(n, name=f), machine()) for n, f in (("cbrt", "f"), ("exp", "g"))
    )
    assert take() == []
    assert not any(map(is_alive, pids))


def test_without_helpers_that_work_this_process_compiles(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    code = NativeCode(compile_modules((calls("cbrt"), new_module(machine())), machine()), ("f",))
    assert code.address("f")


@pytest.mark.usefixtures("pids")
def test_an_error_of_a_helper_is_that_of_the_compilation() -> None:
    class Wrong:
        functions = ()

        def __str__(self) -> str:
            return WRONG

    with pytest.raises(PjitError, match="LLVM refuses"):
        compile_modules((calls("cbrt"), Wrong()), machine())  # type: ignore[arg-type]
    assert take() == []


def test_small_graphs_need_no_helpers() -> None:
    with prepared(MANY - 1, 0, 2):
        assert take() == []


def test_helpers_that_nobody_takes_end() -> None:
    with prepared(MANY, 0, 2):
        pids = [h._process.pid for h in helpers._waiting]
    assert not any(map(is_alive, pids))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_helpers_and_forks() -> None:
    with prepared(MANY, 0, 2):
        pids = [h._process.pid for h in helpers._waiting]
        child = os.fork()
        if child == 0:
            time.sleep(20 if not helpers._waiting else 0)
            os._exit(1)
        started = time.perf_counter()
    assert time.perf_counter() - started < 10, "the child holds the pipes, and still they end"
    assert not any(map(is_alive, pids))
    assert os.waitpid(child, os.WNOHANG) == (0, 0), "the child does not have the parent's helpers"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_one_core_has_no_helpers() -> None:
    with prepared(MANY, 0, 1):
        assert take() == []


def test_modules_of_tile_contractions_are_told_by_their_name() -> None:
    """A helper sees only the text of a module."""
    names = {
        name: optimize.is_of_tiles(str(new_module(machine(), name))) for name in (TILES, LOOPS)
    }
    assert names == {TILES: True, LOOPS: False}


def test_kernels_of_tile_contractions_alone() -> None:
    def build(b, x, w):
        return b(ops.Matmul, b(ops.Cumsum, x, axis=0), w)

    module = graph(build, [tensor(f32, 40, 64), tensor(f32, 64, 96)])
    run_pipeline(module, [*GRAPH, *KERNEL], Context(machine()))
    found = {k.name: _only_tiles(k) for k in kernels(module)}
    assert {name: "matmul" in name for name in found} == found
    assert set(found.values()) == {True, False}
