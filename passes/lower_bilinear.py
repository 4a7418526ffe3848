"""Kernels of products of blocks of matrices and of the result that is made of them.

The products of some rows and columns of all blocks stay in scratch memory, which fits the L2 cache,
until the elements of the result there are made of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from pjit.ir import expr
from pjit.ir.expr import Dim
from pjit.ir.ops import BilinearOutput, MatmulPacked
from pjit.passes.lower import KernelBuild
from pjit.passes.lower_line import Writer, epilogue_of, moves_of


def lower_bilinear(k: KernelBuild) -> None:
    """Parallel over parts of the rows and of the columns of a block: in each all products, then
    the result.
    """
    body = k.fused.body.ops
    product = next(o for o in body if isinstance(o, MatmulPacked))
    last = next(o for o in body if isinstance(o, BilinearOutput))
    a, weights = (k.memory[v] for v in product.operands)
    count, rows, depth = product.a.shape
    columns, blocks = product.cols, product.bp.shape[1]
    mr, nr, height, width = (k.fused.choice(c) for c in ("mr", "nr", "rows", "blocks"))
    products = k.b.scratch(last.type.dtype, (count, height, width * nr))
    epilogue, moves = epilogue_of(k, last), moves_of(k, last)

    def run(i: Sequence[Dim]) -> None:
        first, start = i[0] * height, i[1] * width
        some = expr.minimum(height, rows - first)
        many = expr.minimum(width, blocks - start)

        def multiply(p: Dim, block: Dim, tile: Dim) -> None:
            k.b.contract(
                a,
                weights,
                rows=(rows,),
                taps=(),
                depth=depth,
                cols=columns,
                tile=(mr, nr),
                sharing=height // mr,
                row0=first + tile * mr,
                col0=(start + block) * nr,
                a_index=lambda r, t, d: (p, r[0], d),
                a_guards=lambda r, t: (),
                b_index=lambda t, d, c: (p, start + block, d, c),
                finish=lambda acc, r, c: k.b.store(
                    acc, products, (p, r[0] - first, c - start * nr)
                ),
            )

        def interpolate(r: Dim, c: Dim) -> None:
            writer = Writer(k, last.result, epilogue, moves=moves)
            last.outputs(
                writer,
                (first + r, start * nr + c),
                lambda p: k.b.load(products, (p, r, c)),
            )

        tiles = expr.ceildiv(some, mr)
        k.b.loop(
            0,
            count,
            lambda p: k.b.loop(0, many, lambda c: k.b.loop(0, tiles, lambda t: multiply(p, c, t))),
        )
        wide = expr.minimum(width * nr, columns - start * nr)
        k.b.loop(0, some, lambda r: k.b.loop(0, wide, lambda c: interpolate(r, c), kind="vector"))

    k.parallel([expr.ceildiv(rows, height), expr.ceildiv(blocks, width)], run)
