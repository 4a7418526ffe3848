"""Matrix products by fewer products of blocks, where the cost model prefers that."""

from __future__ import annotations

from pjit.ir.builder import Builder
from pjit.ir.core import Value
from pjit.ir.ops import (
    BilinearInput,
    BilinearOutput,
    BilinearWeights,
    Matmul,
    MatmulPacked,
)
from pjit.ir.ops.bilinear_schemes import SCHEMES, Split
from pjit.ir.target import Machine
from pjit.ir.types import f32
from pjit.passes.cost import BILINEAR_GAIN, Product, bilinear_cycles, product_cycles, worth
from pjit.passes.pattern import is_constant


def part_of(op: Matmul, split: Split) -> Product:
    """The sizes of one product of blocks of one item of the batch."""
    rows, depth, columns = (d // n for d, n in zip(_sizes(op), split, strict=True))
    return Product(rows, columns, depth)


def split_of(op: Matmul, machine: Machine) -> Split | None:
    """The best split of a product, or None where the direct one is good enough.

    Rows that are added belong to one item of a batch: all dimensions of the first operand but the
    last two. What is chosen depends on one item, as what pays for one pays for more.

    Args:
        op: The product.
        machine: What it will run on.
    """
    static = all(isinstance(d, int) and d > 0 for d in (*op.a.shape[-2:], *op.b.shape))
    if op.a.dtype != f32 or op.a.tensor.rank < 3 or op.b.tensor.rank != 2 or not static:
        return None
    if not machine.simd or not is_constant(op.b):
        return None
    rows, depth, columns = _sizes(op)
    best = BILINEAR_GAIN * product_cycles(Product(rows, columns, depth), machine)
    found = None
    for split, scheme in SCHEMES.items():
        if any(d % n for d, n in zip((rows, depth, columns), split, strict=True)):
            continue
        part = part_of(op, split)
        more = scheme.products * (depth // split[1]) * (columns // split[2]) - depth * columns
        cycles = bilinear_cycles(scheme.products, part, machine) + worth(more * 4, machine)
        if cycles < best:
            best, found = cycles, split
    return found


def bilinear_matmul(op: Matmul, b: Builder, split: Split, nr: int) -> Value:
    """A matrix product as products of sums of blocks."""
    v = b(BilinearInput, op.a, split=split)
    w = b(BilinearWeights, op.b, split=split, nr=nr)
    y = b(MatmulPacked, v, w, cols=op.b.shape[-1] // split[2])
    return b(BilinearOutput, y, split=split, shape=op.type.shape)


def _sizes(op: Matmul) -> tuple[int, int, int]:
    rows, (depth, columns) = op.a.shape[-2], op.b.shape
    return rows, depth, columns
