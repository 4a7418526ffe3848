"""Steps of a program: what is left when every group has become a kernel."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

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


def _grows(numbers: Sequence[int]) -> bool:
    return all(a <= b for a, b in pairwise(numbers))


class Bands(OpDef, name="bands"):
    """Runs the launches of its region part by part: each thread takes bands, and runs in each of
    them some iterations of one kernel after the other.

    The region has no arguments and yields the results of its last launch. ``ranges`` say for each
    launch the iterations (from, to before) in each band. Those of the last one are all its
    iterations; those of others overlap where the next one needs the same elements in two bands, and
    leave out what nobody reads. ``kept`` are, for each result of the others, how many elements a
    thread keeps of it, and for each band the first of these, which begins a cache line: the next
    launches read no others. A thread that takes a band behind its last one moves what it has of the
    elements, and makes the iterations that it has not made. ``schedule`` is for reports.

    (C1) There is one region without arguments, of launches and reshapes.
    (C2) It yields the results of its last launch, and their types are those of the results.
    (C3) Each launch has a range for each band, which does not begin or end before that of the band
         before, and those of the last one follow each other.
    (C4) What each result of the others keeps begins in each band at an element of it, and not
         before that of the band before.
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
        body, launches = self.regions[0], self.launches
        known = all(isinstance(o, Launch | Reshape | Yield) for o in body.ops)
        require(known and not body.args, "(C1) the region holds launches and reshapes")
        require(bool(launches), "(C1) it holds launches")
        last, types = launches[-1].results, [r.type for r in self.results]
        same = body.last.operands == last and [r.type for r in last] == types
        require(same, "(C2) it yields the results of the last launch")
        ranges = [[(lo, hi) for lo, hi in made] for made in self.ranges]
        ordered = all(0 <= lo < hi for made in ranges for lo, hi in made)
        ordered &= all(_grows([part[at] for part in made]) for made in ranges for at in (0, 1))
        counts = {len(made) for made in ranges}
        require(
            len(ranges) == len(launches) and counts == {self.count} and ordered,
            "(C3) each launch has a range for each band",
            got=self.ranges,
        )
        ends = [0, *(hi for _, hi in ranges[-1])]
        require(
            [lo for lo, _ in ranges[-1]] == ends[:-1],
            "(C3) the ranges of the last launch follow each other",
            got=self.ranges[-1],
        )
        between = [r for op in launches[:-1] for r in op.results]
        require(
            len(self.kept) == len(between)
            and all(
                0 < n <= r.tensor.size
                and len(starts) == self.count
                and min(starts) >= 0
                and _grows(starts)
                for r, (n, starts) in zip(between, self.kept, strict=True)
            ),
            "(C4) each result but those of the last launch is kept",
            got=self.kept,
        )
