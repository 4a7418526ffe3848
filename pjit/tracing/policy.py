"""What exploring a function teaches about its loops: then it starts again, knowing more."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from pjit.ir.expr import Dim

UNROLLED = 64  # iterations of a loop over a range that asks nothing
UNROLLED_ASKING = 8  # of one that asks


class Restart(BaseException):
    """The policy changed: what was explored is void."""


@dataclass
class Policy:
    """How loops are traced.

    Attributes:
        promoted: By point, paths of numbers that differ from visit to visit: they are traced.
        pinned: What must stay a number of Python, because a value was asked for: points with
            paths, and the points of ranges.
        rolled: The points of ranges whose index is traced.
        limits: By the point of a range, sizes of dimensions that its index is used for: that it
            ends within them is asked once, before the loop.
    """

    promoted: dict[tuple, frozenset[tuple]] = field(default_factory=dict)
    pinned: set[Hashable] = field(default_factory=set)
    rolled: set[tuple] = field(default_factory=set)
    limits: dict[tuple, dict[Dim, None]] = field(default_factory=dict)

    def promote(self, point: tuple, paths: frozenset[tuple]) -> bool:
        """Lets numbers be traced; False when there is none that may."""
        known = self.promoted.get(point, frozenset())
        new = frozenset(p for p in paths if (point, p) not in self.pinned)
        if new <= known:
            return False
        self.promoted[point] = known | new
        return True

    def roll(self, point: tuple) -> bool:
        """Lets the index of a range be traced; False when it may not, or is already."""
        if point in self.pinned or point in self.rolled:
            return False
        self.rolled.add(point)
        return True

    def limit(self, point: tuple, size: Dim) -> bool:
        """Lets a range be compared with a size before its loop; False when it is."""
        known = self.limits.setdefault(point, {})
        new = size not in known
        known[size] = None
        return new

    def pin(self, origins: frozenset[Hashable]) -> bool:
        """Takes back what made a number traced, given by its origins; False if nothing did."""
        new = origins - self.pinned
        self.pinned |= new
        self.rolled -= new  # type: ignore[arg-type]
        for point, paths in list(self.promoted.items()):
            self.promoted[point] = frozenset(p for p in paths if (point, p) not in self.pinned)
        return bool(new)
