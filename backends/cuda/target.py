"""The machines that the CUDA back end compiles for: NVIDIA GPUs by compute capability.

The figures are those of the vendor's data sheets; nothing here asks a driver, so that kernels can
be made where there is no GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pjit.ir.errors import PjitError
from pjit.ir.target import Machine


@dataclass(frozen=True)
class CudaMachine(Machine):
    """A GPU with what the emitter needs to know of it.

    A warp counts as the vector register of ``Machine``: 32 lanes of 32 bits. ``threads`` are its
    multiprocessors; ``l1``, ``flops_per_cycle`` are those of one.

    Attributes:
        cc: The compute capability, e.g. ``(9, 0)``.
        warp: Threads of a warp.
        block_threads: Threads of a block, unless one row keeps more busy.
        max_block_threads: The most that a block may have.
        resident_threads: Threads that one multiprocessor holds.
        shared: Bytes of static shared memory that a block may have.
    """

    cc: tuple[int, int] = (9, 0)
    warp: int = 32
    block_threads: int = 256
    max_block_threads: int = 1024
    resident_threads: int = 2048
    shared: int = 48 << 10

    @property
    def arch(self) -> str:
        """The architecture as ptxas names it."""
        return f"sm_{self.cc[0]}{self.cc[1]}"

    @property
    def key(self) -> str:
        """Names the code that is generated for the machine, for caches."""
        return self.arch


_COMMON: dict[str, Any] = {
    "vector_bits": 1024,
    "simd": False,
    "vector_registers": 64,
    "barrier": 3e-6,
    "scratch": 0,
}
_MACHINES: dict[str, dict[str, Any]] = {
    "sm_80": {
        "cc": (8, 0),
        "threads": 108,
        "l1": 164 << 10,
        "l2": 40 << 20,
        "flops_per_cycle": 128,
        "frequency": 1.41e9,
    },
    "sm_90": {
        "cc": (9, 0),
        "threads": 132,
        "l1": 228 << 10,
        "l2": 50 << 20,
        "flops_per_cycle": 256,
        "frequency": 1.83e9,
    },
}
TARGETS = tuple(_MACHINES)


def machine(name: str = "sm_90") -> CudaMachine:
    """The machine of an architecture's name, one of ``TARGETS``.

    Raises:
        PjitError: No target has the name.
    """
    if name not in _MACHINES:
        raise PjitError("no such target", got=name, expected=", ".join(TARGETS))
    return CudaMachine(name=name, **_COMMON, **_MACHINES[name])
