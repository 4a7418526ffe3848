"""Choices that follow from sizes and the numbers of a machine.

The model of a tile contraction counts the cycles of its inner loop. A step of the depth takes the
longest of: ``mr*nv`` fused multiply-adds at the rate of the machine, for the ``nv`` vectors that
``nr`` columns fill; ``mr + nv`` loads at two a cycle; the latency of the accumulators when there
are too few of them to hide it; and the ``nv`` vectors of the packed operand at the bandwidth of the
cache that its column block fits into. Each step costs a little beside that, and each tile beside
its steps. Rows that the last tile computes in vain, and columns that pad the last block, count like
the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

from pjit.ir import expr
from pjit.ir.core import Op
from pjit.ir.expr import Dim, Expr
from pjit.ir.ops.winograd_tiles import Grid, Pair, Tiling
from pjit.ir.target import Machine

SYMBOL_GUESS = 16  # the size that a symbolic dimension counts as
IMAGE_GUESS = 64  # the height or width of an image that is not known
MANY_ROWS = 1000  # rows that a symbolic number of rows counts as
WIDTHS = (1, 2, 3, 4, 6, 8)  # vectors side by side in a register tile
HALVES = (1, 3, 5, 7)  # vectors of half the width, where those are as fast
MOST_ROWS, MOST_POINTERS = 12, 10  # rows of a tile: a fixed distance apart, or each with an address
CACHE_PERIOD, CACHE_WAYS = 4096, 8  # addresses so many bytes apart share so many lines of L1
FMA_LATENCY = 4
SLACK = 0.5  # cycles more than the latency that must be under way where loads miss L1
SCATTERED_ROW = 10  # cycles that a tile takes to find the address of a row
STEP_COST = 0.3  # cycles of a step beside its arithmetic
WINOGRAD_SIZES = (2, 3, 4)
WINOGRAD_TILES: tuple[Pair, ...] = tuple(product(WINOGRAD_SIZES, WINOGRAD_SIZES))
WINOGRAD_GAIN = 0.9  # the share of the direct convolution's time that is worth the lost accuracy
BILINEAR_GAIN = 0.94  # the same for products of blocks of matrices
TRANSFORM_STEPS = (
    4  # cycles of a transform for one vector at one point, when memory does not bound it
)
BLOCK_STEPS = 2  # cycles for one vector of a sum of blocks
WINOGRAD_TRAFFIC = 2  # how often what is between comes from memory and goes there
# How much slower a thread gets weights from memory while others do, for choices that must not
# depend on how many there are, as results do on them. Two threads get 1.2 times as much as one.
READERS = 1.5
MEMORY_WORTH = 15e-12  # seconds that a byte of weights more than for a direct convolution must save
WAITING = 0.25  # the share of the weights' time that products wait, though they ask ahead
BLOCK_COUNT = 8  # blocks of tiles come in multiples of so many, for the threads
WIDE_COST = 1.05  # cycles for many rows that a width for few rows may take more
FEW_ROWS = 4  # below so many rows, packing an operand costs as much as the product


def guess(d: Dim) -> int:
    """A size for planning: a symbol counts as ``SYMBOL_GUESS``."""
    known = expr.substitute(d, dict.fromkeys(expr.symbols(d), SYMBOL_GUESS))
    assert isinstance(known, int)
    return max(1, known)


@dataclass(frozen=True)
class Product:
    """The sizes of a contraction: rows, columns and the length of the sums (taps times channels).

    ``scattered`` says that each row has an address of its own, as in a convolution.
    """

    rows: Dim
    cols: Dim
    depth: Dim
    scattered: bool = False
    bits: int = 32


def tile_cycles(p: Product, mr: int, nr: int, machine: Machine) -> float:
    """Cycles that one core takes for a product with register tiles of ``mr`` rows and ``nr``
    columns.
    """
    lanes = machine.filled(nr, p.bits)
    nv, row = nr // lanes, nr * p.bits // 8
    depth, cols = guess(p.depth), guess(p.cols)
    block = depth * row
    if block <= machine.l1 // 2:
        bandwidth = machine.l1_bytes_per_cycle
    elif block <= machine.l2 * 5 // 8:
        bandwidth = machine.l2_bytes_per_cycle
    else:
        bandwidth = machine.memory_bytes_per_cycle
    latency = FMA_LATENCY + (SLACK if block > machine.l1 // 2 else 0)
    fmas = mr * nv / machine.fmas(lanes, p.bits)
    step = max(fmas, (mr + nv) / 2, latency, row / bandwidth) + STEP_COST
    sets = math.gcd(guess(p.depth) * p.bits // 8, CACHE_PERIOD) / CACHE_PERIOD
    if not p.scattered and mr * sets > CACHE_WAYS:
        step *= 1.3  # the rows of A compete for the same lines
    tile = depth * step + 3 * mr * nv + 20 + (SCATTERED_ROW * mr if p.scattered else 0)
    tiles = -(-p.rows // mr) if isinstance(p.rows, int) else _many_tiles(p.rows, mr)
    blocks = -(-cols // nr)
    return tile * tiles * blocks


def _many_tiles(rows: Expr, mr: int) -> float:
    """Tiles of a symbolic number of rows; it may be a multiple of what a batch of one has."""
    least = expr.substitute(rows, dict.fromkeys(expr.symbols(rows), 1))
    unit = max(1, least) if isinstance(least, int) else 1
    return -(-unit // mr) * MANY_ROWS / unit if unit >= mr else MANY_ROWS / mr


def widths(bits: int, machine: Machine) -> list[int]:
    """How many columns a tile may have."""
    lanes = machine.lanes(bits)
    halves = HALVES if lanes > 1 and machine.fmas(lanes // 2, bits) > machine.vector_fmas else ()
    return [*(n * lanes for n in WIDTHS), *(n * lanes // 2 for n in halves)]


def tile_rows(p: Product, nr: int, machine: Machine) -> tuple[float, int]:
    """The best number of rows for tiles of ``nr`` columns, behind the cycles that it takes."""
    nv = nr // machine.filled(nr, p.bits)
    room = (machine.vector_registers - nv - 1) // nv
    most = max(1, min(room, MOST_POINTERS if p.scattered else MOST_ROWS))
    return min((tile_cycles(p, mr, nr, machine), -mr) for mr in range(1, most + 1))


def tile_columns(p: Product, machine: Machine) -> int:
    """The width, in elements, of the column blocks that a packed operand is stored in.

    A call may have a single row where their number is symbolic: wide blocks, nearly as good for
    many rows, then have more sums under way.
    """
    cycles = {nr: tile_rows(p, nr, machine) for nr in widths(p.bits, machine)}
    best = min(cycles, key=lambda nr: (*cycles[nr], nr))
    if not isinstance(p.rows, int) and not p.scattered:
        best = max(nr for nr, (n, _) in cycles.items() if n <= WIDE_COST * cycles[best][0])
    return best


def fastest(p: Product, machine: Machine) -> float:
    """Cycles of one core for a product with the best tiles."""
    return min(tile_rows(p, nr, machine)[0] for nr in widths(p.bits, machine))


@lru_cache(maxsize=1 << 12)
def product_cycles(p: Product, machine: Machine, batch: int = 1) -> float:
    """Cycles of one core for a batch of products with the best tiles and constant weights."""
    return products_cycles(((batch, p),), machine)


@lru_cache(maxsize=1 << 12)
def products_cycles(batches: tuple[tuple[int, Product], ...], machine: Machine) -> float:
    """The same for several batches, each of as many products."""
    cycles, weights = 0.0, 0
    for batch, p in batches:
        cycles += batch * fastest(p, machine)
        weights += batch * guess(p.depth) * guess(p.cols) * p.bits // 8
    return weighed(cycles, READERS * weights, machine)


def weighed(cycles: float, weights: float, machine: Machine) -> float:
    """Cycles of products whose weights, so many bytes, come from memory meanwhile."""
    reading = weights / machine.weights_bytes_per_cycle
    return max(cycles + WAITING * reading, reading)


@dataclass(frozen=True)
class Image:
    """The sizes of a convolution of images, f32: outputs, channels, and those of the window.

    ``count`` is 1 for a symbolic batch: what pays for one image pays for more. A symbolic side
    counts as ``IMAGE_GUESS``.
    """

    count: int
    height: int
    width: int
    channels: int
    out_channels: int
    taps: Pair = (3, 3)
    strides: Pair = (1, 1)


def planned_image(shape: tuple[Dim, ...], channels: Dim, taps: Pair, strides: Pair) -> Image:
    """The sizes of a convolution for planning.

    Args:
        shape: Of the result, channels last.
        channels: Of the input.
        taps: Of the kernel.
        strides: Of the windows.
    """
    count, height, width, out = shape
    assert isinstance(channels, int)
    assert isinstance(out, int)
    n = count if isinstance(count, int) else 1
    down, across = (d if isinstance(d, int) else IMAGE_GUESS for d in (height, width))
    return Image(n, down, across, channels, out, taps, strides)


def winograd_product(s: Image, sizes: Pair) -> Product:
    """One of the products, for each pair of points, that a convolution by tiles takes."""
    tiles = s.count * -(-s.height // sizes[0]) * -(-s.width // sizes[1])
    return Product(tiles, s.out_channels, s.channels)


def winograd_grid(s: Image, sizes: Pair) -> Grid:
    """The tiles of a convolution that is not done in blocks of them."""
    tiling = Tiling.of(sizes, s.taps, s.strides)
    outputs = s.height, s.width
    return Grid(tiling, (s.count, *tiling.tiles(outputs)), tiling.shortened(outputs))


def winograd_image(first: Op, last: Op) -> Image:
    """The sizes of a convolution from its ``nn.winograd_input`` and ``nn.winograd_output``."""
    shape, channels = last.results[0].shape, first.operands[0].shape[3]
    return planned_image(shape, channels, first.attrs["taps"], first.attrs["strides"])


def winograd_block(s: Image, sizes: Pair, machine: Machine) -> int:
    """How many tiles to convolve at a time so that what is between stays in the L2 cache.

    0 when all at once is better: the tensors between are small, or so few tiles fit that reading
    the weights again for each block costs more.
    """
    tiles = guess(winograd_product(s, sizes).rows)
    points = Tiling.of(sizes, s.taps, s.strides).points
    each = points * (s.channels + s.out_channels) * 4
    if tiles * each <= 2 * machine.l2 or not machine.scratch:
        return 0
    blocks = -(-tiles * each // machine.scratch)
    blocks = -(-blocks // BLOCK_COUNT) * BLOCK_COUNT
    weights = points * s.channels * s.out_channels * 4
    if blocks > tiles or blocks * weights > WINOGRAD_TRAFFIC * tiles * each:
        return 0
    return -(-tiles // blocks)


def winograd_cycles(s: Image, sizes: Pair, machine: Machine) -> float:
    """Cycles of one core for a convolution by tiles: products, transforms and their traffic."""
    one = winograd_product(s, sizes)
    tiles, points = guess(one.rows), Tiling.of(sizes, s.taps, s.strides).points
    vectors = sum(-(-c // machine.lanes(32)) for c in (s.channels, s.out_channels))
    arithmetic = tiles * vectors * points * TRANSFORM_STEPS
    block = winograd_block(s, sizes, machine)
    if block:
        blocks = -(-tiles // block)
        weights = points * s.channels * s.out_channels * 4
        some = replace(one, rows=block)
        products = blocks * points * fastest(some, machine)
        again = (blocks - 1) * weights / machine.l2_bytes_per_cycle  # later blocks' from a cache
        return weighed(products, READERS * weights, machine) + again + arithmetic
    batches = tuple((i.count, replace(one, rows=i.rows)) for i in winograd_grid(s, sizes).items())
    return transformed_cycles(batches, s.channels, machine)


def transformed_cycles(
    products: tuple[tuple[int, Product], ...], channels: int, machine: Machine
) -> float:
    """Cycles of one core for products at points, the transforms before and after, their traffic.

    Args:
        products: At how many points there is which product: its rows are tiles.
        channels: Of the input.
        machine: What it will run on.
    """
    p = products[0][1]
    columns, values = guess(p.cols), sum(n * guess(q.rows) for n, q in products)
    vectors = sum(-(-c // machine.lanes(p.bits)) for c in (channels, columns))
    arithmetic = values * vectors * TRANSFORM_STEPS
    size = values * (channels + columns) * p.bits // 8
    traffic = size / machine.l2_bytes_per_cycle
    if size > 2 * machine.l2:
        traffic = WINOGRAD_TRAFFIC * size / machine.memory_bytes_per_cycle
    launches = 2 * machine.barrier * machine.frequency
    return products_cycles(products, machine) + arithmetic + traffic + launches


def sums_cycles(count: int, rows: Dim, columns: Dim, rate: float, machine: Machine) -> float:
    """Cycles of one core to add blocks of matrices, or products of them.

    Args:
        count: The products.
        rows: Of a block.
        columns: Of a block.
        rate: Bytes a cycle of where the sums or products lie.
        machine: What it will run on.
    """
    values = count * guess(rows)
    vectors = -(-guess(columns) // machine.lanes(32))
    return values * (vectors * BLOCK_STEPS + 2 * guess(columns) * 4 / rate)


def bilinear_cycles(count: int, p: Product, machine: Machine) -> float:
    """Cycles of one core for so many products of blocks, and the sums before and after; the latter
    are in L2.
    """
    size = count * guess(p.rows) * guess(p.depth) * 4
    near, far = machine.l2_bytes_per_cycle, machine.memory_bytes_per_cycle
    before = sums_cycles(count, p.rows, p.depth, near if size <= machine.l2 else far, machine)
    after = sums_cycles(count, p.rows, p.cols, near, machine)
    launch = machine.barrier * machine.frequency
    return product_cycles(p, machine, count) + before + after + launch


def winograd_tile(s: Image, direct: float, machine: Machine) -> Pair | None:
    """The outputs of a tile of a convolution, or None where ``direct``, in cycles, is good enough
    or there are no transforms.
    """
    best, found = WINOGRAD_GAIN * direct, None
    for sizes in WINOGRAD_TILES:
        tiling = Tiling.of(sizes, s.taps, s.strides)
        if tiling.valid:
            more = (tiling.points - math.prod(s.taps)) * s.channels * s.out_channels
            cycles = winograd_cycles(s, sizes, machine) + worth(more * 4, machine)
            if cycles < best:
                best, found = cycles, sizes
    return found


def worth(nbytes: int, machine: Machine) -> float:
    """The cycles that so many bytes of weights must save."""
    return nbytes * MEMORY_WORTH * machine.frequency


def worth_packing(rows: Dim, cols: Dim, constant: bool) -> bool:
    """Whether a matrix product should pack its right operand, a constant or not."""
    if cols == 1:
        return False
    return constant or not isinstance(rows, int) or rows >= FEW_ROWS


def weight_of(shape: tuple[Dim, ...], bits: int, assumed: int = 64) -> int:
    """Bits that a tensor holds, with ``assumed`` for each symbol."""
    size = expr.product(shape)
    known = expr.substitute(size, dict.fromkeys(expr.symbols(size), assumed))
    assert isinstance(known, int)
    return known * bits
