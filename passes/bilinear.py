"""Matrix products by fewer products of blocks, where the cost model prefers that.

The pass runs before batches are split, so that what is chosen, and with it the bits of a result,
does not depend on the parts. Rows that are added are not those of different items of a batch: the
first dimension of the inputs of the main function is followed (``follow``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from pjit.ir.builder import Builder
from pjit.ir.core import Module, Op, Value
from pjit.ir.ops import BilinearInput, BilinearOutput, BilinearWeights, Matmul, MatmulPacked
from pjit.ir.ops.bilinear_schemes import SCHEMES, Split
from pjit.ir.target import Machine
from pjit.ir.types import f32
from pjit.passes.context import Context, Pass
from pjit.passes.cost import (
    BILINEAR_GAIN,
    Product,
    bilinear_cycles,
    product_cycles,
    tile_columns,
    worth,
)
from pjit.passes.follow import followed
from pjit.passes.pattern import is_constant
from pjit.passes.rewrite import rewrite


@dataclass(frozen=True)
class Bilinear(Pass):
    """Makes products of blocks of matrix products."""

    name: ClassVar[str] = "bilinear"
    requires: ClassVar[tuple[str, ...]] = ("graph",)

    def run(self, module: Module, context: Context) -> bool:
        """Chooses for each product with a constant matrix."""
        machine = context.machine
        if machine.direct or not machine.simd:
            return False
        products = (op for op in module.main.walk() if isinstance(op, Matmul))
        splits = ((op, split_of(op, machine)) for op in products)
        chosen: dict[Op, Split] = {op: split for op, split in splits if split is not None}
        if not chosen:
            return False
        items = _Items(module)

        def by_blocks(op: Op, b: Builder) -> Any:
            if op not in chosen or items.among_rows(op):
                return None
            return bilinear_matmul(op, b, chosen[op], machine)

        return rewrite(module, by_blocks, "bilinear")


class _Items:
    """Where the items of the first dimension of inputs are.

    Attributes:
        sizes: How many items there may be, if they are more than one.
        dims: The dimension that has them, of values for which it is known.
    """

    def __init__(self, module: Module) -> None:
        self.dims = {v: 0 for v in module.main.args if v.shape and v.shape[0] != 1}
        self.sizes = {v.shape[0] for v in self.dims}
        for op in module.main.body.ops:
            if not self.dims.keys().isdisjoint(op.operands) and not op.regions:
                found = followed(op, self.dims)
                if found is not None:
                    self.dims[op.result] = found[0]

    def among_rows(self, op: Op) -> bool:
        """Whether the rows of a product may be items."""
        a = op.operands[0]
        known, rows = self.dims.get(a), a.tensor.rank - 2
        return known == rows if known is not None else a.shape[rows] in self.sizes


def part_of(op: Matmul, split: Split) -> Product:
    """The sizes of one product of blocks of one item of the batch."""
    rows, depth, columns = (d // n for d, n in zip(_sizes(op), split, strict=True))
    return Product(rows, columns, depth)


def split_of(op: Matmul, machine: Machine) -> Split | None:
    """The best split of a product, or None where the direct one is good enough.

    What is chosen depends on the last two dimensions of the first operand: what pays for one item
    pays for more. A matrix, whose rows may be items, stays.

    Args:
        op: The product.
        machine: What it will run on.
    """
    static = all(isinstance(d, int) and d > 0 for d in (*op.a.shape[-2:], *op.b.shape))
    if op.a.dtype != f32 or op.a.tensor.rank < 3 or op.b.tensor.rank != 2 or not static:
        return None
    if not is_constant(op.b):
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


def bilinear_matmul(op: Op, b: Builder, split: Split, machine: Machine) -> Value:
    """A matrix product as products of sums of blocks."""
    assert isinstance(op, Matmul)
    nr = tile_columns(part_of(op, split), machine)
    v = b(BilinearInput, op.a, split=split)
    w = b(BilinearWeights, op.b, split=split, nr=nr)
    y = b(MatmulPacked, v, w, cols=op.b.shape[-1] // split[2])
    return b(BilinearOutput, y, split=split, shape=op.type.shape)


def _sizes(op: Matmul) -> tuple[int, int, int]:
    rows, (depth, columns) = op.a.shape[-2], op.b.shape
    return rows, depth, columns
