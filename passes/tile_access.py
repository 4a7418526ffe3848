"""Whether a contraction can read its first operand through views, without a copy."""

from __future__ import annotations

from collections.abc import Sequence

from pjit.ir import expr
from pjit.ir.core import Op, Value
from pjit.ir.expr import Dim, Expr
from pjit.ir.loops import Tile
from pjit.ir.types import row_major


class ViewPuller:
    """Follows an index through views back to the value that they look at; a ``Puller`` for views
    only.
    """

    def __init__(self, stop: Value) -> None:
        self.stop = stop
        self.index_at_stop: tuple[Dim, ...] | None = None

    def read(self, value: Value, index: Sequence[Dim]) -> None:
        """Records the index when the source is reached."""
        if value is self.stop:
            self.index_at_stop = tuple(index)
            return
        assert value.op is not None
        value.op.element(self, tuple(index))  # type: ignore[attr-defined]


def source_index(value: Value, source: Value, index: Sequence[Dim]) -> tuple[Dim, ...]:
    """The index into ``source`` of the element of ``value`` at ``index``, through views only."""
    puller = ViewPuller(source)
    puller.read(value, index)
    assert puller.index_at_stop is not None
    return puller.index_at_stop


def tile_symbols(tile: Tile) -> tuple[list[Expr], list[Expr], list[Expr], Expr]:
    """Symbols for batch, rows, taps and depth of a tile."""
    batch = [expr.sym(f"#b{i}", 0, e) for i, e in enumerate(tile.batch)]
    rows = [expr.sym(f"#r{i}", 0, e) for i, e in enumerate(tile.rows)]
    taps = [expr.sym(f"#t{i}", 0, e) for i, e in enumerate(tile.taps)]
    return batch, rows, taps, expr.sym("#k", 0, tile.depth)


def reads_affine(anchor: Op, views: list[Op]) -> bool:
    """Whether the contraction's offset into the source of the views is affine in rows, taps and
    depth.
    """
    tile: Tile = anchor.tile()  # type: ignore[attr-defined]
    batch, rows, taps, k = tile_symbols(tile)
    source = views[0].operands[0]
    index = source_index(anchor.operands[0], source, tile.a_index(batch, rows, taps, k))
    strides = row_major(source.shape)
    offset: Dim = 0
    for i, s in zip(index, strides, strict=True):
        offset = offset + i * s
    for name in [
        *(f"#r{i}" for i in range(len(rows))),
        *(f"#t{i}" for i in range(len(taps))),
        "#k",
    ]:
        found = expr.linear(offset, name)
        if found is None:
            return False
        if name == "#k" and not (isinstance(found[0], int) and found[0] in (0, 1)):
            return False
    guards = tile.a_guards(batch, rows, taps)
    return not guards or all(o.op_name == "transpose" for o in views)
