"""pjit compiles neural-network graphs to native code.

``pjit.compile`` compiles Python functions of arrays, ``pjit.load`` loads networks from files.
Importing pjit is cheap: the compiler is imported when it is first used.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pjit import array_api, errors
    from pjit.api import Model, compile, load
    from pjit.array import Array
    from pjit.frontends.torch.export import from_torch

__version__ = "0.1.0"

# In a checkout `ir`, `passes` and `backends` lie beside this folder, not in it.
_CHECKOUT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if os.path.isfile(os.path.join(_CHECKOUT, "ir", "core.py")):
    __path__.append(_CHECKOUT)

__all__ = [
    "Array", "Model", "__version__", "array_api", "compile", "errors", "from_torch", "load",
]  # fmt: skip

_FROM = {
    "Array": "pjit.array",
    "Model": "pjit.api",
    "compile": "pjit.api",
    "from_torch": "pjit.frontends.torch.export",
    "load": "pjit.api",
}


def __getattr__(name: str) -> Any:
    if name in ("array_api", "errors"):
        return importlib.import_module(f"pjit.{name}")
    if name not in _FROM:
        raise AttributeError(f"module 'pjit' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_FROM[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
