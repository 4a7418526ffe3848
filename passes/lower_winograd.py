"""Kernels of whole convolutions by Winograd's method, a block of tiles at a time.

The values of a block at the points and their products stay in scratch memory, which fits the L2
cache; only the input, the weights and the output come from and go to memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pjit.ir import expr
from pjit.ir.core import Value
from pjit.ir.expr import Dim, unflatten
from pjit.ir.ops import WinogradInput, WinogradOutput, WinogradProduct
from pjit.passes.lower import KernelBuild
from pjit.passes.lower_line import Writer, epilogue_of, room_of

Index = tuple[Dim, ...]


def lower_winograd(k: KernelBuild) -> None:
    """Parallel over blocks of tiles: in each the input's values, the products, the outputs."""
    body = k.fused.body.ops
    first = next(o for o in body if isinstance(o, WinogradInput))
    product = next(o for o in body if isinstance(o, WinogradProduct))
    last = next(o for o in body if isinstance(o, WinogradOutput))
    points, grid = first.tiling.points, first.grid.tiles
    channels, columns = first.type.shape[-1], last.type.shape[-1]
    assert isinstance(channels, int)
    assert isinstance(columns, int)
    block, mr, nr = (k.fused.choice(c) for c in ("block", "mr", "nr"))
    total = expr.product(grid)
    values = k.b.scratch(first.type.dtype, (points, block, channels))
    products = k.b.scratch(first.type.dtype, (points, block, columns))
    weights = k.memory[product.operands[1]]
    rooms = {op: room_of(k, op) for op in (first, last)}
    blocks, rows = -(-columns // nr), -(-block // mr)

    def writer(op: WinogradInput | WinogradOutput, at: Index) -> Writer:
        room = rooms[op]
        one = Writer(k, op.result, epilogue_of(k, op))
        one.room = None if room is None else (room, at[-1])
        return one

    def place(p: Dim, q: Dim, t: Dim, c: Dim) -> Index:
        return p * first.tiling.across.points + q, t, c

    def run(i: Sequence[Dim]) -> None:
        start = i[0] * block
        count = expr.minimum(block, total - start)

        def each(extent: int, body: Callable[[Dim, Index], None]) -> None:
            """``body(tile in the block, place of the line)`` for vectors of channels."""

            def tile(t: Dim) -> None:
                at = unflatten(start + t, grid)
                k.b.loop(0, extent, lambda c: body(t, (*at, c)), kind="vector")

            k.b.loop(0, count, tile)

        def transform(t: Dim, at: Index) -> None:
            def store(p: Dim, q: Dim, value: Value) -> None:
                k.b.store(value, values, place(p, q, t, at[-1]))

            first.values(writer(first, at), at, store)

        def multiply(p: Dim, column: Dim, row: Dim) -> None:
            k.b.contract(
                values,
                weights,
                rows=(block,),
                taps=(),
                depth=channels,
                cols=columns,
                tile=(mr, nr),
                sharing=rows,
                row0=row * mr,
                col0=column * nr,
                a_index=lambda r, t, d: (p, r[0], d),
                a_guards=lambda r, t: (),
                b_index=lambda t, d, c: (p, column, d, c),
                finish=lambda acc, r, c: k.b.store(acc, products, (p, r[0], c)),
            )

        def interpolate(t: Dim, at: Index) -> None:
            last.outputs(
                writer(last, at), at, lambda p, q: k.b.load(products, place(p, q, t, at[-1]))
            )

        each(channels, transform)
        k.b.loop(
            0,
            points,
            lambda p: k.b.loop(0, blocks, lambda c: k.b.loop(0, rows, lambda r: multiply(p, c, r))),
        )
        each(columns, interpolate)

    k.parallel([expr.ceildiv(total, block)], run)
