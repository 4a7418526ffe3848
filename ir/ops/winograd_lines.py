"""Winograd's method along one dimension: matrices, and transforms with few operations.

Sums of products of adjacent samples with a kernel of ``r`` taps make ``size`` outputs. Samples and
kernel are evaluated at ``size+r-2`` finite points and infinity, multiplied, and interpolated. The
points are pairs ``+p, -p``, so that the values at a pair share an even and an odd part, and 0 where
their number is odd. The usual points 0, 1, -1, 2, -2 lose more accuracy for 4 outputs of 3 taps
than these, whose coefficients are exact in f32 and whose products have magnitudes closer to each
other (Barabasz et al., "Error analysis and improving the accuracy of Winograd convolution", 2018).

With stride 2 the outer taps of three meet only even samples and the middle one only odd samples:
the former are such sums of two taps, the latter are multiplied as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from pjit.ir.core import Value
from pjit.ir.kernel_builder import ScalarBuilder

KERNEL = 3
# by the outputs of a tile and the stride
PAIRS: dict[tuple[int, int], tuple[float, ...]] = {
    (2, 1): (1.0,),
    (4, 1): (0.625, 1.5),
    (2, 2): (1.0,),
    (4, 2): (0.5, 1.25),
}


@dataclass(frozen=True)
class Sums:
    """Sums of products with ``taps`` adjacent samples, 2 or 3, at the points ``pairs``."""

    size: int
    taps: int
    pairs: tuple[float, ...]

    @property
    def zero(self) -> int:
        """How many of the points are 0, the first one or none."""
        return self.taps - 2

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
        n = len(self.finite) + 1
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
        whole, z = self.squares(), self.zero
        out = [_weighted(b, whole, d[0:-1:2])] if z else []
        for p in self.pairs:
            rest = self.squares(p)
            even, odd = (_weighted(b, rest, x) for x in (d[1 + z : -1 : 2], d[z:-2:2]))
            out += _pair(b, even, odd, p)
        return [*out, _weighted(b, whole, d[z::2])]

    def outputs(self, b: ScalarBuilder, m: Sequence[Value]) -> list[Value]:
        """``A @ m``."""
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
    """The transforms of a line of 3 taps.

    Attributes:
        size: Outputs.
        stride: 1 or 2.
    """

    size: int
    stride: int

    @property
    def side(self) -> int:
        """How many samples there are, and points."""
        return side(self.size, self.stride)

    @property
    def sums(self) -> Sums:
        """What is not multiplied as it is."""
        return Sums(self.size, KERNEL + 1 - self.stride, PAIRS[self.size, self.stride])

    def matrices(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``A [size, side]``, ``G [side, 3]`` and ``B [side, side]`` in f64: the outputs for
        ``d [side]`` and ``g [3]`` are ``A @ ((G @ g) * (B @ d))``.
        """
        a, g, b = self.sums.matrices()
        if self.stride == 1:
            return a, g, b
        n = len(b)
        whole = [np.zeros((m, k)) for m, k in ((self.size, self.side), (self.side, 3))]
        wide = np.zeros((self.side, self.side))
        whole[0][:, :n], whole[0][:, n:] = a, np.eye(self.size)
        whole[1][:n, ::2], whole[1][n:, 1] = g, 1
        wide[:n, ::2], wide[n:, 1::2] = b, np.eye(self.size)
        return whole[0], whole[1], wide

    def samples(self, b: ScalarBuilder, d: Sequence[Value]) -> list[Value]:
        """``B @ d``."""
        if self.stride == 1:
            return self.sums.samples(b, d)
        return [*self.sums.samples(b, d[::2]), *d[1::2]]

    def weights(self, b: ScalarBuilder, g: Sequence[Value]) -> list[Value]:
        """``G @ g``."""
        return [_weighted_all(b, row, g) for row in self.matrices()[1]]

    def outputs(self, b: ScalarBuilder, m: Sequence[Value]) -> list[Value]:
        """``A @ m``."""
        if self.stride == 1:
            return self.sums.outputs(b, m)
        n = self.size + 1
        return [b.add(x, y) for x, y in zip(self.sums.outputs(b, m[:n]), m[n:], strict=True)]


def side(size: int, stride: int) -> int:
    """How many samples a line of outputs comes from, which is the number of points."""
    return (size - 1) * stride + KERNEL


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
