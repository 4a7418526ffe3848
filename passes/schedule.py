"""Chooses how each group runs: tile shapes, chunks, grain; by a cost model of the target.

The model of a tile contraction counts cycles of the inner loop: per step of the depth, ``mr*nv``
fused multiply-adds at two a cycle, ``mr + nv`` loads at two a cycle, and the latency of the
accumulators (four cycles); plus a fixed cost for each tile. What the last tile computes in vain
counts like the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

from pjit.ir import expr, ops
from pjit.ir.core import Module, Op
from pjit.ir.expr import Dim
from pjit.ir.loops import Tile
from pjit.ir.ops.fused import Fused
from pjit.ir.target import Machine
from pjit.passes.context import Context, Pass

SYMBOL_GUESS = 16  # the size that a symbolic dimension counts as
FMA_LATENCY = 4
PARALLEL_TARGET = 64  # iterations of a parallel nest beyond which it is not split further
MIN_WORK = 30_000  # element operations that are worth a second thread
CHUNK = 4096  # elements of a flat loop that one parallel iteration handles


def guess(d: Dim) -> int:
    """A size for planning: a symbol counts as ``SYMBOL_GUESS``."""
    if isinstance(d, int):
        return d
    return max(1, int(expr.substitute(d, dict.fromkeys(expr.symbols(d), SYMBOL_GUESS))))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Schedule(Pass):
    """Sets the schedule of every group."""

    name: ClassVar[str] = "schedule"
    requires: ClassVar[tuple[str, ...]] = ("fused",)
    ensures: ClassVar[str] = "fused"

    def run(self, module: Module, context: Context) -> bool:
        """Annotates the groups of the main function."""
        tiles = [o for o in module.main.body.ops if isinstance(o, Fused) and o.kind == "tile"]
        for op in tiles:
            choices = dict(op.schedule) | tile_schedule(op, context.machine)
            op.attrs["schedule"] = tuple(choices.items())
        return bool(tiles)


def anchor_of(fused: Fused) -> Op:
    """The contraction of a tile group."""
    return next(o for o in fused.body.ops if getattr(o, "tile", None))


def tile_schedule(fused: Fused, machine: Machine) -> dict[str, Any]:
    """Rows of the register tile, row tiles in one chunk, grain."""
    anchor = anchor_of(fused)
    tile: Tile = anchor.tile()  # type: ignore[attr-defined]
    packed = anchor.operands[1]
    nr = packed.shape[-1]
    nv = max(1, nr // machine.lanes(packed.dtype.bits))
    rows, depth = guess(expr.product(tile.rows)), guess(tile.depth) * prod(tile.taps)
    pointers = len(tile.rows) > 1 or len(tile.taps) > 0
    static = all(isinstance(d, int) for d in tile.rows)
    mr = tile_rows(rows if static else None, depth, nv, pointers, machine)
    tiles = -(-rows // mr)
    chunk_bytes = mr * guess(tile.depth) * packed.dtype.itemsize * (1 + (len(tile.taps) > 0))
    chunk = max(1, min(tiles, machine.l2 // 4 // max(1, chunk_bytes)))
    blocks = guess(packed.shape[-3]) * prod(guess(d) for d in tile.batch)
    while chunk > 1 and blocks * -(-tiles // chunk) < 16 * machine.threads:
        chunk = -(-chunk // 2)
    return {"mr": mr, "nr": nr, "chunk": chunk}


def flops(fused: Fused) -> Dim:
    """Arithmetic operations of a group: exact for contractions, else one an element and operator."""
    total: Dim = 0
    for op in fused.body.ops:
        if op.terminator or isinstance(op, ops.Const):
            continue
        if getattr(op, "tile", None):
            t: Tile = op.tile()  # type: ignore[attr-defined]
            total = total + 2 * expr.product((*t.batch, *t.rows, *t.taps, t.depth, t.cols))
        elif reads_windows(op):
            kernel = op.attrs.get("kernel") or op.operands[1].shape[:-1]
            total = total + 2 * op.type.size * expr.product(kernel)
        else:
            sizes = [v.tensor.size for v in (*op.operands, op.result)]
            total = total + max(sizes, key=guess)
    return total


def grain(fused: Fused, iterations: Dim) -> int:
    """Parallel iterations a thread should get at least, so that work outweighs the hand-over."""
    speed = 4 if fused.kind == "tile" else 1
    each = guess(flops(fused)) / speed / max(1, guess(iterations))
    return max(1, round(MIN_WORK / max(each, 1)))


def tile_rows(rows: int | None, depth: int, nv: int, pointers: bool, machine: Machine) -> int:
    """The rows of the register tile: the fewest cycles for ``rows`` rows (None: many)."""
    room = machine.vector_registers - nv - 1
    most = max(1, min(room // nv, 8 if pointers else 14))
    if machine.vector_registers <= 16:
        most = max(1, min(most, 6))

    def cycles(mr: int) -> float:
        step = max(mr * nv / 2, (mr + nv) / 2, FMA_LATENCY if mr * nv < 2 * FMA_LATENCY else 0)
        tile = depth * step + 3 * mr * nv + 20
        return tile * (-(-rows // mr) if rows is not None else 1024 / mr)

    return min(range(1, most + 1), key=lambda mr: (cycles(mr), -mr))


def split_parallel(extents: list[Dim], keep: int) -> int:
    """How many leading extents make the parallel nest: enough iterations, but not the last
    ``keep``.
    """
    count = 0
    total = 1
    while count < len(extents) - keep and (total < PARALLEL_TARGET or count == 0):
        total *= guess(extents[count])
        count += 1
    return count


def reads_windows(op: Op) -> bool:
    """Whether an operation reads channels-last windows: neighbours along a row share reads."""
    if isinstance(op, ops.MaxPool | ops.AvgPool):
        return op.channels_last
    return isinstance(op, ops.Depthwise)
