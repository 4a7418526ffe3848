"""Choices that follow from the numbers of a machine."""

from __future__ import annotations

from pjit.ir import expr
from pjit.ir.expr import Dim
from pjit.ir.target import Machine

MAX_VECTORS = 4  # vectors side by side in a register tile
FEW_ROWS = 4  # below so many rows, packing an operand costs as much as the product


def tile_rows(vectors: int, machine: Machine) -> int:
    """Rows of a register tile that leaves room for a row of B and one element of A."""
    return max(1, (machine.vector_registers - vectors - 1) // vectors)


def tile_columns(cols: Dim, depth: Dim, machine: Machine, bits: int = 32) -> int:
    """The width, in elements, of the column blocks that a packed operand is stored in.

    The width is 1 to 4 vectors: the fewest padded columns, then the most multiplications per
    element loaded, ``rows*vectors/(rows + vectors)`` for a tile of rows by vectors. A symbolic
    number of columns has no padding to compare.

    Args:
        cols: Columns of the product.
        depth: Length of the sums.
        machine: The target.
        bits: Width of an element.
    """
    lanes = machine.lanes(bits)

    def key(vectors: int) -> tuple[int, float]:
        rows, width = tile_rows(vectors, machine), vectors * lanes
        padded = -(-cols // width) * width if isinstance(cols, int) else 0
        return padded, -rows * vectors / (rows + vectors)

    return min(range(1, MAX_VECTORS + 1), key=key) * lanes


def worth_packing(rows: Dim, cols: Dim, constant: bool) -> bool:
    """Whether a matrix product of these sizes should pack its right operand."""
    if cols == 1:
        return False
    return constant or not isinstance(rows, int) or rows >= FEW_ROWS


def weight_of(shape: tuple[Dim, ...], bits: int, assumed: int = 64) -> int:
    """Bits that a tensor holds, with ``assumed`` for each symbol."""
    size = expr.product(shape)
    known = expr.substitute(size, dict.fromkeys(expr.symbols(size), assumed))
    assert isinstance(known, int)
    return known * bits
