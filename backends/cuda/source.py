"""What the CUDA emitter makes of a kernel: Python source for numba.cuda and how to launch it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pjit.ir import expr
from pjit.ir.core import Loc
from pjit.ir.expr import Dim
from pjit.ir.types import DType


@dataclass(frozen=True)
class Launch:
    """The shape of a launch.

    Attributes:
        block: Threads of a block, along x and y.
        work: Iterations that the blocks share, an expression over the kernel's symbols.
        per_block: How many of them one block takes at once.
        max_blocks: More blocks than this do not run at the same time.
        shared: Bytes of static shared memory that the source allocates.
    """

    block: tuple[int, int]
    work: Dim
    per_block: int
    max_blocks: int
    shared: int = 0

    def grid(self, sizes: Mapping[str, int]) -> int:
        """The number of blocks for the values of the kernel's symbols; 0 when there is no work."""
        work = expr.substitute(self.work, sizes)
        assert isinstance(work, int), f"no value for {', '.join(expr.symbols(work))}"
        return min(-(-work // self.per_block), self.max_blocks)


@dataclass(frozen=True)
class Check:
    """A check that can fail while the kernel runs; its code is its place in the list, from 1."""

    what: str
    loc: Loc


@dataclass(frozen=True)
class CudaSource:
    """A kernel as numba.cuda source.

    The parameters are one pointer for each buffer, the sizes as i64, and, when there are checks, a
    pointer to one i64 that is 0 and gets the code of a check that fails.

    Attributes:
        name: The function's name.
        text: The module's text; it imports numba-cuda.
        buffers: The element type of each buffer; bool is stored as bytes, f16 and bf16 as bits.
        symbols: The kernel's symbols, in the order of the size parameters.
        launch: How to launch it.
        checks: What can fail.
        aligned: Whether the addresses of the buffers have to be multiples of 16.
    """

    name: str
    text: str
    buffers: tuple[DType, ...]
    symbols: tuple[str, ...]
    launch: Launch
    checks: tuple[Check, ...] = ()
    aligned: bool = False
