"""Steps of a program: what is left when every group has become a kernel."""

from __future__ import annotations

from pjit.ir.errors import require
from pjit.ir.opdef import OpDef, attr, variadic
from pjit.ir.ops.basic import Yield
from pjit.ir.ops.movement import Reshape
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


class Bands(OpDef, name="bands"):
    """Runs the launches of its region part by part: each thread takes bands, and runs in each of
    them some iterations of one kernel after the other.

    The region has no arguments and yields the results of its last launch. ``ranges`` say for each
    launch the iterations (from, to before) in each band; those of the last one are all its
    iterations, those of others overlap where the next one needs the same elements in two bands.
    ``kept`` are, for each result of the others, the elements that a thread keeps of it, and for
    each band the first of these: the next launches read no others. ``schedule`` is for reports.

    (C1) There is one region without arguments, of launches and reshapes.
    (C2) It yields the types of the results.
    (C3) Each launch has a range for each band.
    """

    level = "program"
    structural = True
    ranges = attr(doc="the iterations of each launch in each band")
    kept = attr(doc="what is kept of the results that only the region uses")
    schedule = attr(())
    __slots__ = ()

    @staticmethod
    def infer(**attrs: object) -> tuple:
        """The types are those that the region yields: build it with explicit types."""
        raise NotImplementedError("build `bands` with its result types")

    @property
    def launches(self) -> list[Launch]:
        """The launches, in order."""
        return [op for op in self.regions[0].ops if isinstance(op, Launch)]

    @property
    def count(self) -> int:
        """How many bands there are."""
        return len(self.ranges[0])

    def check_regions(self) -> None:
        """Raises ConstraintError unless the constraints hold."""
        require(len(self.regions) == 1, "(C1) there is one region", got=len(self.regions))
        body = self.regions[0]
        known = all(isinstance(o, Launch | Reshape | Yield) for o in body.ops)
        require(known and not body.args, "(C1) the region holds launches and reshapes")
        yielded = [v.type for v in body.last.operands]
        require(
            yielded == [r.type for r in self.results], "(C2) the region yields the result types"
        )
        require(
            len(self.ranges) == len(self.launches)
            and all(len(r) == self.count for r in self.ranges),
            "(C3) each launch has a range for each band",
        )
