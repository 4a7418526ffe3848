"""Kernels of packed contractions with their epilogue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pjit.ir import expr
from pjit.ir.core import Value
from pjit.ir.expr import Dim
from pjit.ir.loops import Tile
from pjit.ir.opdef import Elementwise
from pjit.passes.lower import KernelBuild, pushed
from pjit.passes.schedule import anchor_of
from pjit.passes.tile_access import source_index

MANY_TILES = 32  # of a symbolic number of rows


@dataclass(frozen=True)
class Kind:
    """The items of the batch that have one number of rows.

    Attributes:
        rows: Their rows.
        mr: The rows of a tile.
        chosen: 1 for the indices of such an item, else 0.
    """

    rows: tuple[Dim, ...]
    mr: int
    chosen: Callable[[Sequence[Dim]], Dim] = lambda batch: 1

    @property
    def tiles(self) -> Dim:
        """How many tiles of rows there are."""
        return expr.ceildiv(expr.product(self.rows), self.mr)


def lower_tile(k: KernelBuild) -> None:
    """Parallel over the batch, chunks of row tiles and column blocks; in a chunk one tile after
    the other, or the smaller tiles of ``few`` rows when the call has too few rows for one.

    By rows, a chunk's rows of A stay in the L2 cache while the column blocks pass, of one item of
    the batch or of all groups; by columns, a column block of B stays there while all chunks pass.
    """
    anchor = anchor_of(k.fused)
    tile: Tile = anchor.tile()  # type: ignore[attr-defined]
    mr, nr, chunk, few = (k.fused.choice(c) for c in ("mr", "nr", "chunk", "few"))
    kinds = [Kind(tile.rows, mr)]
    if tile.ragged:
        mrs = (mr, *k.fused.choice("fewer"))
        kinds = [Kind((x.rows,), n, x.chosen) for x, n in zip(tile.ragged, mrs, strict=True)]
    tiles = kinds[0].tiles
    chunks: Dim = 0
    for kind in kinds:
        chunks = expr.maximum(chunks, expr.ceildiv(kind.tiles, chunk))
    blocks = anchor.operands[1].shape[-3]
    a_source = anchor.operands[0]
    while a_source not in k.memory:
        assert a_source.op is not None
        a_source = a_source.op.operands[0]
    order = k.fused.choice("order")
    sharing = chunk if order != "columns" else tiles if isinstance(tiles, int) else MANY_TILES

    def body(i: Sequence[Dim]) -> None:
        if order == "rows of groups":
            part, *batch, block = i
        elif order == "rows":
            *batch, part, block = i
        else:
            *batch, block, part = i

        def one(kind: Kind, t: Dim, mr: int) -> None:
            k.b.contract(
                k.memory[a_source],
                k.memory[anchor.operands[1]],
                rows=kind.rows,
                taps=tile.taps,
                depth=tile.depth,
                cols=tile.cols,
                tile=(mr, nr),
                sharing=sharing,
                row0=(part * chunk + t) * mr,
                col0=block * nr,
                a_index=lambda r, t, d: source_index(
                    anchor.operands[0], a_source, tile.a_index(batch, r, t, d)
                ),
                a_guards=lambda r, t: tile.a_guards(batch, r, t),
                b_index=lambda t, d, c: tile.b_index(batch, block, t, d, c),
                finish=lambda acc, r, c: _finish(k, anchor.result, tile, batch, acc, r, c),
            )

        for kind in kinds:
            count = kind.tiles
            if chunks != 1:
                count = expr.minimum(chunk, expr.maximum(kind.tiles - part * chunk, 0))
            count = kind.chosen(batch) * count
            if few:
                total = expr.product(kind.rows)
                enough = expr.minimum(total // kind.mr, 1)
                first = 1 - expr.minimum(part, 1)  # with so few rows one part is enough
                less = (1 - enough) * first * kind.chosen(batch) * expr.ceildiv(total, few)
                k.b.loop(0, enough * count, lambda t, kind=kind: one(kind, t, kind.mr))
                k.b.loop(0, less, lambda t, kind=kind: one(kind, t, few))
            elif count == 1:
                one(kind, 0, kind.mr)
            else:
                k.b.loop(0, count, lambda t, kind=kind: one(kind, t, kind.mr))

    orders = {
        "rows": [*tile.batch, chunks, blocks],
        "columns": [*tile.batch, blocks, chunks],
        "rows of groups": [chunks, *tile.batch, blocks],
    }
    k.parallel(orders[order], body)


def _finish(
    k: KernelBuild,
    contracted: Value,
    tile: Tile,
    batch: Sequence[Dim],
    acc: Value,
    rows: Sequence[Dim],
    column: Dim,
) -> None:
    """Applies the epilogue to an accumulated element and stores it."""
    index = tuple(tile.out_index(batch, rows, column))
    k.puller.given[contracted] = lambda _: k.b.cast(acc, contracted.dtype)
    assert contracted.op is not None
    after = k.fused.body.ops[k.fused.body.ops.index(contracted.op) + 1 : -1]
    ends = [n for n, op in enumerate(after, 1) if isinstance(op, Elementwise)]
    end = ends[-1] if ends else 0  # of what is computed; then it only moves
    for op in after[:end]:
        index = pushed(op, index)
    result = k.puller.read(after[end - 1].results[0] if end else contracted, index)
    for op in after[end:]:
        index = pushed(op, index)
    k.b.store(result, k.output, index)
