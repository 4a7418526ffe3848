"""The back ends by name; each is imported when it is first asked for."""

from __future__ import annotations

import importlib
from types import ModuleType

from pjit.ir.errors import PjitError

_MODULES = {"cpu": "pjit.backends.llvm.backend", "cuda": "pjit.backends.cuda.backend"}


def backends() -> tuple[str, ...]:
    """The names of all back ends."""
    return tuple(_MODULES)


def backend(name: str) -> ModuleType:
    """The module of a back end.

    Raises:
        PjitError: No back end has the name.
    """
    if name not in _MODULES:
        raise PjitError("no such back end", got=name, expected=", ".join(_MODULES))
    return importlib.import_module(_MODULES[name])
