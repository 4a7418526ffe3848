"""Winograd's method along one dimension: matrices, and transforms with few operations.

Sums of products of adjacent samples with a kernel of ``r`` taps make ``size`` outputs. Samples and
kernel are evaluated at ``size+r-2`` finite points and infinity, multiplied, and interpolated. The
points are pairs ``+p, -p``, so that the values at a pair share an even and an odd part, and 0 where
their number is odd. The usual points 0, 1, -1, 2, -2 lose more accuracy for 4 outputs of 3 taps
than these, whose coefficients are exact in f32 and whose products have magnitudes closer to each
other (Barabasz et al., "Error analysis and improving the accuracy of Winograd convolution", 2018).

With stride 2 half of the taps meet only even samples and the others only odd samples: these are two
such sums, and of three taps the middle one is multiplied as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from pjit.ir.core import Value
from pjit.ir.kernel_builder import ScalarBuilder

# by the number of points
PAIRS: dict[int, tuple[float, ...]] = {
    3: (1.0,),
    4: (1.0,),
    5: (0.5, 1.25),
    6: (0.625, 1.5),
    7: (0.375, 0.875, 1.75),
    8: (0.5, 1.0, 2.0),
}


@dataclass(frozen=True)
class Sums:
    """Sums of products with ``taps`` adjacent samples; with one tap they are products."""

    size: int
    taps: int

    @property
    def count(self) -> int:
        """The number of points."""
        return self.size + self.taps - 1

    @property
    def pairs(self) -> tuple[float, ...]:
        """The points that come with both signs."""
        return PAIRS[self.count] if self.taps > 1 else ()

    @property
    def zero(self) -> int:
        """How many of the points are 0, the first one or none."""
        return self.count - 1 - 2 * len(self.pairs)

    @property
    def finite(self) -> tuple[float, ...]:
        """The finite points, in the order of the results; infinity comes last."""
        return (0.0,) * self.zero + tuple(q for p in self.pairs for q in (p, -p))

    def squares(self, without: float | None = None) -> list[float]:
        """The coefficients, in powers of x^2, of the product of ``x^2 - p^2``."""
        roots = [p * p for p in self.pairs if p != without]
        return [float(c) for c in np.poly(roots)[::-1]] if roots else [1.0]

    def matrices(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``A [size, n]``, ``G [n, taps]`` and ``B [n, n]`` in f64, ``n = size+taps-1``: the sums
        of ``d [n]`` with ``g [taps]`` are ``A @ ((G @ g) * (B @ d))``.
        """
        n = self.count
        if self.taps == 1:
            return np.eye(n), np.ones((n, 1)), np.eye(n)
        a, g, b = np.zeros((self.size, n)), np.zeros((n, self.taps)), np.zeros((n, n))
        for i, p in enumerate(self.finite):
            others = [q for q in self.finite if q != p]
            a[:, i] = [p**j for j in range(self.size)]
            g[i] = np.array([p**j for j in range(self.taps)]) / prod(p - q for q in others)
            b[i, :-1] = np.poly(others)[::-1]
        a[-1, -1] = g[-1, -1] = 1
        b[-1] = np.poly(self.finite)[::-1]
        return a, g, b

    def samples(self, b: ScalarBuilder, d: Sequence[Value]) -> list[Value]:
        """``B @ d``, 12 operations for 4 outputs of 3 taps."""
        if self.taps == 1:
            return list(d)
        whole, z = self.squares(), self.zero
        out = [_weighted(b, whole, d[0:-1:2])] if z else []
        for p in self.pairs:
            rest = self.squares(p)
            even, odd = (_weighted(b, rest, x) for x in (d[1 + z : -1 : 2], d[z:-2:2]))
            out += _pair(b, even, odd, p)
        return [*out, _weighted(b, whole, d[z::2])]

    def outputs(self, b: ScalarBuilder, m: Sequence[Value]) -> list[Value]:
        """``A @ m``."""
        if self.taps == 1:
            return list(m)
        places = range(self.zero, 2 * len(self.pairs), 2)
        sums = [b.add(m[i], m[i + 1]) for i in places]
        differences = [b.sub(m[i], m[i + 1]) for i in places]
        out = []
        for j in range(self.size):
            y = _weighted(b, [p**j for p in self.pairs], differences if j % 2 else sums)
            y = b.add(m[0], y) if self.zero and j == 0 else y
            out.append(b.add(y, m[-1]) if j == self.size - 1 else y)
        return out


@dataclass(frozen=True)
class Lines:
    """The transforms of a line.

    Attributes:
        size: Outputs.
        stride: 1 or 2.
        taps: Of the kernel, more than the stride.
    """

    size: int
    stride: int
    taps: int = 3

    @property
    def extent(self) -> int:
        """How many samples the outputs come from."""
        return (self.size - 1) * self.stride + self.taps

    @property
    def parts(self) -> list[Sums]:
        """Of all samples, or of the even and the odd ones."""
        return [Sums(self.size, -(-(self.taps - i) // self.stride)) for i in range(self.stride)]

    @property
    def points(self) -> int:
        """How many products there are."""
        return sum(part.count for part in self.parts)

    def valid(self, most: int) -> bool:
        """Whether there are such transforms, with at most so many points for the even samples."""
        numbers = self.size >= 2 and self.stride in (1, 2) and self.taps > self.stride
        return numbers and self.parts[0].count <= min(most, max(PAIRS))

    def matrices(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``A [size, points]``, ``G [points, taps]`` and ``B [points, extent]`` in f64: the outputs
        for ``d [extent]`` and ``g [taps]`` are ``A @ ((G @ g) * (B @ d))``.
        """
        a = np.zeros((self.size, self.points))
        g, b = np.zeros((self.points, self.taps)), np.zeros((self.points, self.extent))
        at = 0
        for i, part in enumerate(self.parts):
            here = slice(at, at + part.count)
            a[:, here], g[here, i :: self.stride], b[here, i :: self.stride] = part.matrices()
            at += part.count
        return a, g, b

    def samples(self, b: ScalarBuilder, d: Sequence[Value]) -> list[Value]:
        """``B @ d``."""
        parts = enumerate(self.parts)
        return [x for i, part in parts for x in part.samples(b, d[i :: self.stride])]

    def weights(self, b: ScalarBuilder, g: Sequence[Value]) -> list[Value]:
        """``G @ g``."""
        return [_weighted_all(b, row, g) for row in self.matrices()[1]]

    def outputs(self, b: ScalarBuilder, m: Sequence[Value]) -> list[Value]:
        """``A @ m``."""
        first, *rest = self.parts
        out = first.outputs(b, m[: first.count])
        for part in rest:
            more = part.outputs(b, m[first.count :])
            out = [b.add(x, y) for x, y in zip(out, more, strict=True)]
        return out


def _weighted(b: ScalarBuilder, factors: Sequence[float], xs: Sequence[Value]) -> Value:
    """The sum of ``factors * xs``, from the last to the first."""
    total: Value | None = None
    for c, x in reversed(list(zip(factors, xs, strict=True))):
        if total is None:
            total = x if c == 1 else b.mul(b.const(c, x), x)
        else:
            total = b.add(x, total) if c == 1 else b.fma(b.const(c, x), x, total)
    assert total is not None
    return total


def _weighted_all(b: ScalarBuilder, row: np.ndarray, g: Sequence[Value]) -> Value:
    kept = [i for i, c in enumerate(row) if c]
    return _weighted(b, [float(row[i]) for i in kept], [g[i] for i in kept])


def _pair(b: ScalarBuilder, even: Value, odd: Value, p: float) -> list[Value]:
    """``even + p*odd`` and ``even - p*odd``."""
    if p == 1:
        return [b.add(even, odd), b.sub(even, odd)]
    return [b.fma(b.const(c, odd), odd, even) for c in (p, -p)]
