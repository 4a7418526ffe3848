"""Torch tensors as NumPy arrays, and back, on the same memory."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import torch

from pjit.errors import InputError
from pjit.ir.types import DType, dtype

_NUMPY = {
    torch.float64: np.float64, torch.float32: np.float32, torch.float16: np.float16,
    torch.bfloat16: ml_dtypes.bfloat16, torch.int64: np.int64, torch.int32: np.int32,
    torch.int16: np.int16, torch.int8: np.int8, torch.uint64: np.uint64, torch.uint32: np.uint32,
    torch.uint16: np.uint16, torch.uint8: np.uint8, torch.bool: np.bool_,
}  # fmt: skip
DTYPES: dict[torch.dtype, DType] = {t: dtype(np.dtype(n)) for t, n in _NUMPY.items()}


def element_type(t: torch.dtype) -> DType:
    """The DType of a torch dtype.

    Raises:
        TypeError: pjit has no such element type.
    """
    found = DTYPES.get(t)
    if found is None:
        raise TypeError(f"the element type {str(t).removeprefix('torch.')} is not supported")
    return found


def to_numpy(t: torch.Tensor) -> np.ndarray:
    """A CPU tensor as an array on its memory, whose gradient nobody asks for."""
    if t.requires_grad:
        t = t.detach()
    if t.is_neg() or t.is_conj():
        t = t.resolve_neg().resolve_conj()
    if t.dtype is torch.bfloat16:
        return t.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return t.numpy()


def argument(t: torch.Tensor) -> np.ndarray:
    """A tensor that a user passes to a program, as an array on its memory.

    Raises:
        InputError: Its gradient may be asked for.
    """
    if t.requires_grad and torch.is_grad_enabled():
        raise InputError(
            "a tensor requires its gradient, which pjit does not compute",
            got=f"{t.dtype}{list(t.shape)}",
            remedy="pass x.detach(), or call under torch.no_grad()",
        )
    return to_numpy(t)


def to_torch(a: np.ndarray) -> torch.Tensor:
    """An array that nobody else uses as a tensor on its memory."""
    a.flags.writeable = True
    if a.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(a.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(a)
