"""Steps of a program: what is left when every group has become a kernel."""

from __future__ import annotations

from pjit.ir.opdef import OpDef, attr, variadic
from pjit.ir.types import TensorType


class Launch(OpDef, name="launch"):
    """Runs a kernel of the module on its operands; the results are the buffers that the kernel
    writes.

    ``sizes`` are the values of the kernel's symbols, in their order. ``flops`` counts the launch's
    arithmetic operations; ``schedule`` is what chose the kernel, for reports.
    """

    level = "program"
    structural = True
    inputs = variadic()
    kernel = attr(doc="the name of the kernel")
    sizes = attr(())
    schedule = attr(())
    flops = attr(0)
    __slots__ = ()

    @staticmethod
    def infer(inputs: list[TensorType], **attrs: object) -> tuple:
        """The types are those of the kernel's outputs: build it with explicit types."""
        raise NotImplementedError("build `launch` with its result types")
