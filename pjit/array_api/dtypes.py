"""The dtypes of the array API standard, and the functions that answer questions about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pjit.array_api.functions import check_device

KINDS = {
    "bool": ("bool",),
    "signed integer": ("int8", "int16", "int32", "int64"),
    "unsigned integer": ("uint8", "uint16", "uint32", "uint64"),
    "real floating": ("float32", "float64"),
    "complex floating": ("complex64", "complex128"),
}
KINDS["integral"] = KINDS["signed integer"] + KINDS["unsigned integer"]
KINDS["numeric"] = KINDS["integral"] + KINDS["real floating"] + KINDS["complex floating"]
DTYPES = {name: np.dtype(name) for name in (*KINDS["bool"], *KINDS["numeric"])}


def _dtype_of(x: Any) -> Any:
    """The dtype of an array; a dtype or a Python number stays itself."""
    return x.dtype if hasattr(x, "__array_namespace__") else x


@dataclass(frozen=True)
class _Finfo:
    """The limits of a floating-point dtype; Python numbers, as the standard wants."""

    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float
    dtype: np.dtype


def finfo(type: Any, /) -> _Finfo:
    """The limits of a floating-point dtype, or of that of an array."""
    x = np.finfo(_dtype_of(type))
    eps, high, low, normal = map(float, (x.eps, x.max, x.min, x.smallest_normal))
    return _Finfo(int(x.bits), eps, high, low, normal, np.dtype(x.dtype))


def iinfo(type: Any, /) -> Any:
    """The limits of an integer dtype, or of that of an array."""
    return np.iinfo(_dtype_of(type))


def isdtype(dtype: Any, kind: Any) -> bool:
    """Whether a dtype is of a kind: a dtype, a name such as ``integral``, or a tuple of them."""
    return np.isdtype(dtype, kind)


def can_cast(from_: Any, to: Any, /) -> bool:
    """Whether the promotion rules lead from a dtype, or that of an array, to another one."""
    return np.can_cast(_dtype_of(from_), to)


def result_type(*arrays_and_dtypes: Any) -> np.dtype:
    """The dtype that arrays, dtypes and Python numbers promote to."""
    return np.result_type(*map(_dtype_of, arrays_and_dtypes))


class __array_namespace_info__:
    """What the namespace has; all arrays are on the device ``cpu``."""

    def capabilities(self) -> dict[str, Any]:
        """What arrays can do outside of compiled functions."""
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": 64}

    def default_device(self) -> str:
        """The device of new arrays."""
        return "cpu"

    def devices(self) -> list[str]:
        """All devices."""
        return ["cpu"]

    def default_dtypes(self, *, device: Any = None) -> dict[str, np.dtype]:
        """The dtypes of arrays of Python numbers, and of indices."""
        check_device(device)
        return {
            "real floating": DTYPES["float64"],
            "complex floating": DTYPES["complex128"],
            "integral": DTYPES["int64"],
            "indexing": DTYPES["int64"],
        }

    def dtypes(
        self, *, device: Any = None, kind: str | Sequence[str] | None = None
    ) -> dict[str, np.dtype]:
        """The dtypes of the namespace, of a kind or of several."""
        check_device(device)
        kinds = ("bool", "numeric") if kind is None else (kind,) if isinstance(kind, str) else kind
        return {name: DTYPES[name] for k in kinds for name in KINDS[k]}


QUESTIONS: tuple[Callable, ...] = (can_cast, finfo, iinfo, isdtype, result_type)
