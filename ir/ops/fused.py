"""Groups of operations that become one kernel."""

from __future__ import annotations

from typing import Any

from pjit.ir.core import Block, Value
from pjit.ir.opdef import OpDef, attr, variadic
from pjit.ir.types import TensorType


class Fused(OpDef, name="fused"):
    """Operations that run as one kernel; the region computes on the operands (its arguments) and
    yields the results.

    ``kind`` says how it is scheduled: ``loop`` (each element of the results by itself), ``row``
    (reductions over the trailing dimensions and what surrounds them, a row at a time), ``tile``
    (a contraction with its epilogue), ``line`` (lines of the result in order),
    ``winograd`` (a convolution in blocks of tiles). ``schedule`` holds what the fuser and the
    schedule pass decided, as (name, value) pairs.
    """

    structural = True
    inputs = variadic()
    kind = attr()
    schedule = attr(())
    __slots__ = ()

    @staticmethod
    def infer(inputs: list[TensorType], **attrs: Any) -> tuple:
        """The types are those that the region yields: build it with explicit types."""
        raise NotImplementedError("build `fused` with its result types")

    def choice(self, name: str) -> Any:
        """A choice of the schedule."""
        return dict(self.schedule)[name]

    @property
    def body(self) -> Block:
        """The region."""
        return self.regions[0]

    @property
    def outputs(self) -> tuple[Value, ...]:
        """The values that the region yields."""
        return self.body.last.operands
