"""The array API standard, version 2024.12: the namespace of ``pjit.Array`` and of traced arrays.

Every function takes arrays of both kinds. On ``pjit.Array`` it waits for the values, computes with
NumPy and gives a ``pjit.Array``; on an array that is being traced it is recorded, as NumPy's own
function would be. Names, signatures and meaning are those of https://data-apis.org/array-api; the
extensions ``linalg`` and ``fft`` are not part of it. ``docs/numpy.md`` says what cannot be traced.

Arrays are immutable: ``x[i] = y`` is an error, and ``x += y`` makes a new array.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from pjit.array_api.dtypes import DTYPES, QUESTIONS, __array_namespace_info__
from pjit.array_api.functions import STANDARD

__array_api_version__ = "2024.12"
VERSIONS = ("2021.12", "2022.12", "2023.12", "2024.12")

e, inf, nan, pi, newaxis = np.e, np.inf, np.nan, np.pi, None
_NAMES = {**DTYPES, **STANDARD, **{f.__name__: f for f in QUESTIONS}}
globals().update(_NAMES)
__all__ = ["__array_api_version__", "__array_namespace_info__", "e", "inf", "nan", "newaxis", "pi"]
__all__ += sorted(_NAMES)


def __getattr__(name: str) -> Any:
    raise AttributeError(f"the array API namespace of pjit has no {name!r}")


def namespace(api_version: str | None) -> Any:
    """This module, for ``x.__array_namespace__``; raises ValueError for an unknown version."""
    if api_version not in (None, *VERSIONS):
        raise ValueError(f"version {api_version!r} of the array API is not one of {VERSIONS}")
    return sys.modules[__name__]
