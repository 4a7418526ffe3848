"""Processes that run LLVM for this one.

llvmlite holds a lock while LLVM works, so that one process compiles one module at a time; and what
LLVM touches stays in the memory of the process that runs it. A large program is compiled by helpers
(``optimize``, without pjit and NumPy), which start while the passes run and end with the
compilation. Where none can be started, or one fails, this process compiles itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import llvmlite

from pjit.backends.llvm import optimize

MANY = 120  # operations of a graph that are worth the start of helpers
_OF_A_PRODUCT = 15  # operations whose code is as long as that of a product
_MOST = 4
Target = tuple[str, str, str]
_lock = threading.Lock()
_waiting: list[Helper] = []  # started, for the next compilation


class Helper:
    """One process.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(self) -> None:
        folder = str(Path(llvmlite.__file__).parent.parent)
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", optimize.__file__, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def compile(self, source: str, target: Target) -> bytes:
        """Object code of a module.

        Args:
            source: The module.
            target: The triple, the processor and its features.

        Raises:
            RuntimeError: LLVM refuses the module.
            OSError: The process does not work.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        optimize.write(self._process.stdin, json.dumps(target).encode())
        optimize.write(self._process.stdin, source.encode())
        answer = optimize.read(self._process.stdout)
        if not answer:
            raise OSError("a helper ended")
        if answer[:1] == b"-":
            raise RuntimeError(answer[1:].decode())
        return answer[1:]

    def forget(self) -> None:
        """Leaves the process to the parent of this one."""
        self._process.returncode = 0
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def close(self) -> None:
        """Lets the process end."""
        try:
            assert self._process.stdin is not None
            optimize.write(self._process.stdin, b"")  # a forked process may hold the pipe open
            self._process.communicate()
        except OSError:
            self._process.kill()
            self._process.wait()


@contextmanager
def prepared(operations: int, matrices: int, cores: int) -> Iterator[None]:
    """Has helpers for the compilation of a graph, if they are worth it.

    Args:
        operations: How many it has.
        matrices: How many constant matrices or kernels: the code of products is long.
        cores: The cores that this process may use.
    """
    _start(operations + _OF_A_PRODUCT * matrices, cores)
    try:
        yield
    finally:
        for helper in take():  # of a compilation that did not come to LLVM
            helper.close()


def _start(operations: int, cores: int) -> None:
    count = min(_MOST, cores)
    if operations < MANY or count < 2 or not sys.executable or getattr(sys, "frozen", False):
        return
    with _lock:
        try:
            while len(_waiting) < count:
                _waiting.append(Helper())
        except OSError:
            return


def compile_small(source: str, target: Target) -> bytes:
    """Object code of a small module, from a helper that waits if there is one.

    Args:
        source: The module.
        target: The triple, the processor and its features.

    Raises:
        RuntimeError: LLVM refuses the module.
    """
    with _lock:
        try:
            return _waiting[-1].compile(source, target)
        except (IndexError, OSError):
            tm = optimize.target_machine(*target)
            return tm.emit_object(optimize.optimized(source, tm))


def _after_fork_in_child() -> None:
    """The helpers that wait are the parent's."""
    global _lock
    _lock = threading.Lock()
    for helper in _waiting:
        helper.forget()
    _waiting.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def take() -> list[Helper]:
    """The helpers that wait; whoever takes them closes them."""
    with _lock:
        helpers = list(_waiting)
        _waiting.clear()
        return helpers
