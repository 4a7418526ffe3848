"""Steps of a program: what is left when every group has become a kernel."""

from __future__ import annotations

from pjit.ir.opdef import OpDef, attr, variadic
from pjit.ir.types import TensorType


class Launch(OpDef, name="launch"):
    """Runs a kernel of the module on its operands; the results are the buffers that the kernel
    writes.

    ``sizes`` are the values of the kernel's symbols, in their order. The other attributes are for
    reports: ``schedule`` is what chose the kernel; ``operators`` are those it computes; ``problem``
    holds the sizes that the cost model looks at, by name; ``flops`` counts the arithmetic
    operations, ``nbytes`` what is read and written, of which ``weights`` are constants.
    """

    level = "program"
    structural = True
    inputs = variadic()
    kernel = attr(doc="the name of the kernel")
    sizes = attr(())
    schedule = attr(())
    operators = attr(())
    problem = attr(())
    flops = attr(0)
    nbytes = attr(0)
    weights = attr(0)
    __slots__ = ()

    @staticmethod
    def infer(inputs: list[TensorType], **attrs: object) -> tuple:
        """The types are those of the kernel's outputs: build it with explicit types."""
        raise NotImplementedError("build `launch` with its result types")
