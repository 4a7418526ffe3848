"""Bilinear algorithms for products of matrices that are split into blocks.

A scheme of ``m x k`` times ``k x n`` blocks with P products computes, for p below P, the product of
``sum(a[p, i] * A_i)`` and ``sum(b[p, j] * B_j)``, and of these the blocks
``C_l = sum(c[p, l] * product_p)``; blocks count by rows. All coefficients are -1, 0 and 1.

- ``2x2x2`` with 7 products instead of 8: V. Strassen, Gaussian elimination is not optimal, 1969.
- ``2x3x3`` with 15 instead of 18: as few as J. Hopcroft and L. Kerr, On minimizing the number of
  multiplications necessary for matrix multiplication, 1971.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

Split = tuple[int, int, int]  # parts of the rows, of the depth and of the columns
_SIGNS = {"+": 1, "-": -1, ".": 0}


@dataclass(frozen=True)
class Scheme:
    """A bilinear algorithm.

    Attributes:
        text: A line for each product: the coefficients ``a``, ``b`` and ``c``.
    """

    text: str

    @cached_property
    def _parts(self) -> list[np.ndarray]:
        lines = [line.split() for line in self.text.strip().splitlines()]
        return [
            np.array([[_SIGNS[s] for s in part] for part in column], np.int8)
            for column in zip(*lines, strict=True)
        ]

    @property
    def products(self) -> int:
        """How many products of blocks there are."""
        return len(self.a)

    @property
    def a(self) -> np.ndarray:
        """Coefficients of the first matrix, ``[products, m * k]``."""
        return self._parts[0]

    @property
    def b(self) -> np.ndarray:
        """Coefficients of the second matrix, ``[products, k * n]``."""
        return self._parts[1]

    @property
    def c(self) -> np.ndarray:
        """Coefficients of the products in the result, ``[products, m * n]``."""
        return self._parts[2]

    def terms(self, part: str) -> list[list[tuple[int, int]]]:
        """Signs and indices of what is added: for ``a`` and ``b`` of the blocks for each product,
        for ``c`` of the products for each block.
        """
        rows = self.c.T if part == "c" else getattr(self, part)
        return [[(int(row[i]), int(i)) for i in np.flatnonzero(row)] for row in rows]


SCHEMES: dict[Split, Scheme] = {
    (2, 2, 2): Scheme("""
        +..+ +..+ +..+
        ..++ +... ..+-
        +... .+.- .+.+
        ...+ -.+. +.+.
        ++.. ...+ -+..
        -.+. ++.. ...+
        .+.- ..++ +...
    """),
    (2, 3, 3): Scheme("""
        ...+.. +.+-..... +..+..
        +..-.. +-....+.. +.....
        .+.... .-..++... .+..+.
        ++.... .+....... ++....
        .+.+.. .-.+..... +...-.
        -.+... ..-...... -.+-.+
        ..+... ..+....++ ..+...
        -.++.. ..-...+.. +..+.-
        .+..-. ...+-..-. ....+.
        ...++. ...+..... ...++.
        ....-+ .....-... .-+.-+
        .....+ .....++.+ .....+
        .-+.+- .......-. .-+...
        .+..-+ .....+.-. .-+.-.
        -.++.- ......+.. ...-.+
    """),
}

__all__ = ["SCHEMES", "Scheme", "Split"]
