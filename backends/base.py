"""The back ends by name; each is imported when it is first asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, cast

from pjit.ir.core import Module
from pjit.ir.errors import PjitError
from pjit.ir.program import ProgramView
from pjit.ir.target import Machine

_MODULES = {"cpu": "pjit.backends.llvm.backend"}
_UNFINISHED = {"cuda": "the CUDA back end emits kernels, but does not run programs yet"}


class Backend(Protocol):
    """What a back end provides.

    Attributes:
        TARGETS: The names of the machines that it knows, ``host`` among them.
        machine: ``machine(name, threads)`` describes what the code will run on.
        runs_here: Whether this process can run code for a machine.
        load_code: ``load_code(parts, entries)`` makes code runnable; the result has
            ``address(entry)`` and ``close()``.
        Pool: ``Pool(threads, store=store)`` runs entries on threads of its own; ``store(name,
            make)`` is what was stored under the name, or what ``make()`` returns, stored now.
        TimedCode: ``TimedCode(view, kernels, machine, threads)`` makes code like ``load_code``
            that also times each step, with kernels that are loaded: ``reset()`` before a call,
            ``read()`` after it, ``clock()`` for the ticks.
        Probe: ``Probe(run, threads)`` measures what the threads on which ``run(entry, ctx)`` runs
            an entry can do: ``fma()`` and ``read_all()`` once each, ``limits()`` the best so far.
    """

    TARGETS: tuple[str, ...]
    machine: Callable[..., Machine]
    runs_here: Callable[[Machine], bool]
    load_code: Callable[[Iterable[bytes], tuple[str, ...]], Any]
    Pool: Callable[..., Any]
    TimedCode: Callable[[ProgramView, Mapping[str, int], Machine, int], Any]
    Probe: Callable[[Callable[[int, int], object], int], Any]

    def prepared(self, operations: int, matrices: int, cores: int) -> AbstractContextManager[None]:
        """Surrounds the compilation of a graph of so many operations, and constant matrices, on so
        many cores.
        """

    def build(self, module: Module, view: ProgramView, machine: Machine) -> tuple[bytes, ...]:
        """The object code of a program, in parts."""

    def listings(self, module: Module, view: ProgramView, machine: Machine) -> dict[str, str]:
        """The code of a program as texts to read, by file name."""


def backends() -> tuple[str, ...]:
    """The names of all back ends."""
    return tuple(_MODULES)


def backend(name: str) -> Backend:
    """The back end of a name.

    Raises:
        PjitError: No back end has the name, or it cannot run programs yet.
    """
    if name in _UNFINISHED:
        raise PjitError(_UNFINISHED[name], got=name, expected=", ".join(_MODULES))
    if name not in _MODULES:
        raise PjitError("no such back end", got=name, expected=", ".join(_MODULES))
    return cast(Backend, importlib.import_module(_MODULES[name]))
