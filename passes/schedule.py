"""Chooses how each group runs: tile shapes, chunks, grain; see ``passes.cost`` for the model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar

from pjit.ir import expr, ops
from pjit.ir.core import Block, Module, Op
from pjit.ir.expr import Dim
from pjit.ir.loops import Tile
from pjit.ir.ops.control import host_reason
from pjit.ir.ops.fused import Fused
from pjit.ir.target import Machine
from pjit.passes.context import Context, Pass
from pjit.passes.cost import FMA_LATENCY, Product, guess, tile_rows, winograd_block, winograd_image

PARALLEL_TARGET = 64  # iterations of a parallel nest beyond which it is not split further
MIN_WORK = 30_000  # element operations that are worth a second thread
TILE_CHUNK = 4  # row tiles that one parallel iteration makes at most
LONG_CHUNK = 32  # the same where its rows stay in a cache
# The shares of the time of reading rows, and weights, that products of blocks wait for it.
ROWS_WAIT, WEIGHTS_WAIT = 1 / 2, 1 / 4
SPREAD = 2 * TILE_CHUNK  # row tiles for each thread from which on threads share out the rows
CHUNK = 4096  # elements of a flat loop that one parallel iteration handles


@dataclass(frozen=True)
class Schedule(Pass):
    """Sets the schedule of every group."""

    name: ClassVar[str] = "schedule"
    requires: ClassVar[tuple[str, ...]] = ("fused",)
    ensures: ClassVar[str] = "fused"

    def run(self, module: Module, context: Context) -> bool:
        """Orders the loops and annotates the groups of the main function."""
        changed = _defer_loops(module.main.body)
        schedules = {
            "tile": tile_schedule,
            "winograd": winograd_schedule,
            "bilinear": bilinear_schedule,
        }
        groups = [o for o in module.main.walk() if isinstance(o, Fused) and o.kind in schedules]
        for op in groups:
            choices = dict(op.schedule) | schedules[op.kind](op, context.machine)
            op.attrs["schedule"] = tuple(choices.items())
        return changed or bool(groups)


def _defer_loops(block: Block) -> bool:
    """Moves loops behind what does not need them; returns whether anything moved.

    Loops that do not need each other come one after the other, so that threads can share them out.
    """
    order: list[Op] = []
    waiting: list[Op] = []
    changed = False
    for op in block.ops:
        for region in op.regions:
            changed |= _defer_loops(region)
        used = {v.owner for inner in op.walk() for v in inner.operands}
        if op.terminator or not used.isdisjoint(waiting):
            order += waiting
            waiting = []
        loop = isinstance(op, ops.Scan | ops.While) and not host_reason(op)
        (waiting if loop else order).append(op)
    changed |= order != block.ops
    block.ops = order
    return changed


def anchor_of(fused: Fused) -> Op:
    """The contraction of a group."""
    return next(o for o in fused.body.ops if getattr(o, "tile", None))


def contraction(fused: Fused) -> list[tuple[Dim, Product]]:
    """How many products the contraction of a group makes, and the sizes of one; several, the
    largest first, where they differ in their rows.
    """
    anchor = anchor_of(fused)
    tile: Tile = anchor.tile()  # type: ignore[attr-defined]
    product = Product(
        rows=expr.product(tile.rows),
        cols=tile.cols,
        depth=tile.depth * prod(tile.taps),
        scattered=len(tile.rows) > 1 or len(tile.taps) > 0,
        bits=anchor.operands[1].dtype.bits,
    )
    if tile.ragged:
        return [(items.count, replace(product, rows=items.rows)) for items in tile.ragged]
    return [(expr.product(tile.batch), product)]


def tile_schedule(fused: Fused, machine: Machine) -> dict[str, Any]:
    """Rows of the register tile, and the order in which tiles are made; ``fewer``: of the tiles of
    items with fewer rows.
    """
    anchor = anchor_of(fused)
    tile: Tile = anchor.tile()  # type: ignore[attr-defined]
    nr = anchor.operands[1].shape[-1]
    products = [p for _, p in contraction(fused)]
    mr, *fewer = (-tile_rows(p, nr, machine)[1] for p in products)
    sizes = products[0]
    order, chunk = tile_order(sizes, mr, nr, machine)
    if order == "rows" and shares_rows(anchor, machine):
        order = "rows of groups"
    few = 0
    if not isinstance(sizes.rows, int) and not sizes.scattered:
        few = few_rows(nr // machine.filled(nr, sizes.bits), mr)
    choices = {"mr": mr, "nr": nr, "order": order, "chunk": chunk, "few": few}
    return choices | ({"fewer": tuple(fewer)} if tile.ragged else {})


def shares_rows(anchor: Op, machine: Machine) -> bool:
    """Whether a contraction has groups that read, and write, parts of the same rows, and whose
    weights stay in L2 together: then each of several threads makes all groups of its rows. What is
    before and after, which is made row by row, is in its caches.
    """
    if not isinstance(anchor, ops.ConvPacked) or anchor.groups == 1 or machine.threads == 1:
        return False
    weights = anchor.operands[1].tensor
    return guess(weights.size) * weights.dtype.itemsize <= machine.l2 // 2


def few_rows(nv: int, mr: int) -> int:
    """Rows of the tiles of a product that turns out to have fewer than ``mr``; 0: no such tiles.

    So many sums as the latency of their additions hides cost what one costs.
    """
    rows = -(-2 * FMA_LATENCY // nv)
    return rows if rows < mr else 0


def winograd_schedule(fused: Fused, machine: Machine) -> dict[str, Any]:
    """Tiles in a block, and the register tile of their products."""
    first, last = (
        next(o for o in fused.body.ops if isinstance(o, kind))
        for kind in (ops.WinogradInput, ops.WinogradOutput)
    )
    s = winograd_image(first, last)
    block = winograd_block(s, first.attrs["sizes"], machine)
    packed = anchor_of(fused).operands[1]
    nr = packed.shape[-1]
    sizes = Product(block, s.out_channels, s.channels)
    mr = -tile_rows(sizes, nr, machine)[1]
    return {"block": block, "mr": mr, "nr": nr}


def bilinear_schedule(fused: Fused, machine: Machine) -> dict[str, Any]:
    """The register tile of the products of blocks, and the parts of the result that are made at
    once: so many rows and column blocks that all products there stay in the L2 cache.

    Each part reads its rows of all sums, from L2 if they fit beside the products, and its columns
    of all weights, which are asked for ahead. As many parts as there are threads, or a multiple,
    end together.
    """
    ((count, sizes),) = contraction(fused)
    nr = anchor_of(fused).operands[1].shape[-1]
    mr = -tile_rows(sizes, nr, machine)[1]
    rows = expr.substitute(sizes.rows, dict.fromkeys(expr.symbols(sizes.rows), 1))  # of one item
    tiles, blocks = -(-guess(rows) // mr), -(-guess(sizes.cols) // nr)
    element = guess(count) * sizes.bits // 8
    rate = machine.lanes(sizes.bits) * machine.vector_fmas
    far = machine.memory_bytes_per_cycle

    def cost(part: tuple[int, int]) -> float:
        height, width = part[0] * mr, part[1] * nr
        parts = -(-tiles // part[0]) * -(-blocks // part[1])
        held = element * height * (width + guess(sizes.depth))
        near = machine.l2_bytes_per_cycle if held <= machine.l2 // 2 else far
        reading = ROWS_WAIT * height / near + WEIGHTS_WAIT * width / far
        rounds = -(-parts // machine.threads)
        return rounds * (height * width / rate + reading * sizes.bits / 8)

    heights = dict.fromkeys(-(-tiles // n) for n in range(1, tiles + 1))
    choices = [(h, w) for h in heights for w in range(1, blocks + 1)]
    room = machine.scratch // 2 // element
    fitting = [(h, w) for h, w in choices if h * mr * w * nr <= room] or [(1, 1)]
    height, width = min(fitting, key=cost)
    return {"mr": mr, "nr": nr, "rows": height * mr, "blocks": width}


def tile_order(p: Product, mr: int, nr: int, machine: Machine) -> tuple[str, int]:
    """What stays in the L2 cache while the other operand passes, and row tiles in one iteration.

    ``rows``: the rows of an iteration, and B passes. ``columns``: a column block of B, and all rows
    pass; then B, which may come from memory, comes once.

    Rows that fit into the cache pass, and else a B that does. Where neither does, iterations have
    as many rows as do, if reading B for each takes less than all rows for each column block. Where
    both do, several threads share out the rows: what they read is then mostly what they made.
    """
    row = guess(p.depth) * p.bits // 8
    a, b = guess(p.rows) * row, guess(p.cols) * row
    tiles = -(-guess(p.rows) // mr)
    shared_out = machine.threads > 1 and isinstance(p.rows, int)
    if shared_out and max(a, b) <= machine.l2 // 2 and tiles >= SPREAD * machine.threads:
        return "rows", TILE_CHUNK
    if b <= machine.l2 // 2 < a:
        shared = tiles // 64 if isinstance(p.rows, int) else TILE_CHUNK
        return "rows", max(1, min(shared, TILE_CHUNK))
    if isinstance(p.rows, int) and a + nr * row > machine.l2:
        fitting = max(1, min(machine.l2 // 2 // (mr * row), LONG_CHUNK))
        weights = b * -(-tiles // fitting) / machine.weights_bytes_per_cycle
        if weights < a * -(-guess(p.cols) // nr) / machine.memory_bytes_per_cycle:
            return "rows", fitting
    return "columns", max(1, min(tiles, TILE_CHUNK))


def flops(fused: Fused) -> Dim:
    """Arithmetic operations of a group: exact for contractions, else one per element and op."""
    total: Dim = 0
    for op in fused.body.ops:
        if op.terminator or isinstance(op, ops.Const):
            continue
        if getattr(op, "tile", None):
            products = ((n, p.rows, p.depth, p.cols) for n, p in contraction(fused))
            total = total + 2 * sum(map(expr.product, products), start=0)
        elif reads_windows(op):
            kernel = op.attrs.get("kernel") or op.operands[1].shape[:-1]
            total = total + 2 * op.type.size * expr.product(kernel)
        else:
            sizes = [v.tensor.size for v in (*op.operands, op.result)]
            total = total + max(sizes, key=guess)
    return total


def grain(kind: str, count: Dim, iterations: Dim) -> int:
    """Parallel iterations a thread should get at least, so that work outweighs the hand-over."""
    each = guess(count) / _speed(kind) / max(1, guess(iterations))
    return max(1, round(MIN_WORK / max(each, 1)))


def work(fused: Fused) -> Dim:
    """The work of a group, in the unit of ``MIN_WORK``."""
    return expr.floordiv(flops(fused), _speed(fused.kind))


def _speed(kind: str) -> int:
    return 4 if kind in ("tile", "bilinear") else 1


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
