"""Layouts: convolutions on channels-last activations, packed weights, and as few transpositions as
possible.

The order: each convolution is written as ``transpose(conv_packed(transpose(x), pack(w)))``, and in
the same walk, from the inputs to the results, transpositions sink (``transposes``) until they meet
the next convolution and cancel. Then those that are left are pulled up where that leaves less to
transpose. Last, matrix products pack their right operands.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar

from pjit.ir import expr
from pjit.ir.builder import Builder
from pjit.ir.core import Module, Op, Value
from pjit.ir.expr import Dim
from pjit.ir.ops import (
    Broadcast,
    Cast,
    Conv,
    ConvPacked,
    Depthwise,
    Matmul,
    MatmulPacked,
    Pack,
    PackWeights,
    Pad,
    Reshape,
    Scan,
    Transpose,
    WinogradInput,
    WinogradOutput,
    WinogradProduct,
    WinogradWeights,
)
from pjit.ir.ops.nn import MERGED_DEPTH, SPATIAL
from pjit.ir.ops.winograd_tiles import Pair, Tiling
from pjit.ir.target import Machine
from pjit.ir.types import f32
from pjit.passes.context import Context, Pass
from pjit.passes.cost import (
    Image,
    Product,
    planned_image,
    product_cycles,
    tile_columns,
    winograd_block,
    winograd_product,
    winograd_tile,
    worth_packing,
)
from pjit.passes.cse import merge_equal
from pjit.passes.deepen import Deep, moved_bytes
from pjit.passes.hoist import is_invariant
from pjit.passes.pattern import is_constant
from pjit.passes.rewrite import rewrite
from pjit.passes.routes import to_first, to_last
from pjit.passes.snapshot import structure
from pjit.passes.transposes import permuted, pull, sink
from pjit.passes.widen import Positions, beside, positions, separated, widened
from pjit.passes.winograd_rows import row_conv, rows_of

PLANES = 4  # up to so many channels a convolution reads them as planes


@dataclass(frozen=True)
class Layout(Pass):
    """Chooses layouts of activations and weights for the tile contraction.

    Attributes:
        nr: Columns in a block of packed weights; 0 leaves the choice to ``cost.tile_columns``.
    """

    name: ClassVar[str] = "layout"
    requires: ClassVar[tuple[str, ...]] = ("graph",)
    nr: int = 0

    def run(self, module: Module, context: Context) -> bool:
        """Chooses, sinks, pulls, packs."""
        before = structure(module)  # what sinks may be pulled back to where it was
        rewrite(module, lambda op, b: self._choose(op, b, context), "layout")
        merge_equal(module)
        rewrite(module, pull, "layout")
        merge_equal(module)
        rewrite(module, lambda op, b: self._pack(op, b, context), "layout")
        return structure(module) != before

    def _choose(self, op: Op, b: Builder, context: Context) -> Any:
        if isinstance(op, Conv) and convertible(op):
            return self._convolution(op, b, context)
        return sink(op, b)

    def _convolution(self, op: Conv, b: Builder, context: Context) -> Value:
        """By channel, by tiles of the image or of a dimension, or as a contraction."""
        first = to_first(op.x.tensor.rank)
        if is_depthwise(op):
            return permuted(b, depthwise(op, b), first)
        machine = context.machine
        sizes = convolution(op)
        r = positions(op, sizes, machine)
        if not machine.direct:
            y = self._with_fewer_products(op, b, r, context)
            if y is not None:
                return permuted(b, y, first)
        if max(r) == 1:
            return permuted(b, packed_conv(op, b, self._columns(sizes, context)), first)
        wide = widened(op, b, r)
        y = packed_conv(wide, b, self._columns(convolution(wide), context))
        return permuted(b, separated(b, y, op, r), first)

    def _with_fewer_products(
        self, op: Conv, b: Builder, r: Positions, context: Context
    ) -> Value | None:
        """By Winograd's method, channels last, if that is better than ``r`` positions side by
        side.
        """
        machine = context.machine
        if suits_winograd(op):
            planned, direct = image(op), _image_cycles(op, r, machine)
            if tile := winograd_tile(planned, direct, machine):
                return self._by_tiles(op, b, tile, context)
            if is_planar(op) and (deep := Deep.of(op)) is not None:
                moving = moved_bytes(op, planned.count) / machine.memory_bytes_per_cycle
                inner = deep.image(op, planned.count)
                if tile := winograd_tile(inner, direct - moving, machine):
                    return self._by_tiles(deep.conv(op, b), b, tile, context)
        sizes = convolution(op)
        rows = rows_of(op, sizes, r, machine)
        if rows is None:
            return None
        return row_conv(op, b, rows, self._columns(rows.product(op, sizes.rows), context))

    def _by_tiles(self, op: Conv, b: Builder, tile: Pair, context: Context) -> Value:
        """By Winograd's method in tiles of the image, channels last."""
        columns = self._columns(winograd_product(image(op), tile), context)
        whole = winograd_block(image(op), tile, context.machine) == 0
        return winograd_conv(op, b, tile, columns, exact=whole)

    def _columns(self, sizes: Product, context: Context) -> int:
        return self.nr or tile_columns(sizes, context.machine)

    def _pack(self, op: Op, b: Builder, context: Context) -> Any:
        if not isinstance(op, Matmul) or not op.type.dtype.is_float or 0 in op.b.shape:
            return None
        rows: Dim = op.a.shape[-2] if op.a.tensor.rank > 1 else 1
        cols: Dim = op.b.shape[-1] if op.b.tensor.rank > 1 else 1
        if not worth_packing(rows, cols, is_constant(op.b) or is_invariant(op.b, op)):
            return None
        if op.b.tensor.rank == 2:
            rows = expr.product(op.a.shape[:-1])
        sizes = Product(rows, cols, op.a.shape[-1], bits=max(32, op.type.dtype.bits))
        return packed_matmul(op, b, self._columns(sizes, context))


def _image_cycles(op: Conv, r: Positions, machine: Machine) -> float:
    """Cycles of a convolution of images, with ``r`` positions side by side."""
    planned = image(op)
    rows = planned.count * planned.height * planned.width
    return product_cycles(beside(op, replace(convolution(op), rows=rows), r), machine)


def convolution(op: Conv) -> Product:
    """The sizes of a convolution as a contraction."""
    return Product(
        rows=expr.product((items(op), *op.type.shape[2:])),
        cols=op.w.shape[0] // op.groups,
        depth=prod(op.w.shape[1:]),
        scattered=max(op.w.shape[2:]) > 1 or max(op.strides) > 1,
        bits=max(32, op.type.dtype.bits),
    )


def convertible(op: Conv) -> bool:
    """Whether a convolution has floats, and the static channels and kernel to pack."""
    static = all(isinstance(d, int) and d > 0 for d in op.w.shape)
    return op.x.dtype.is_float and static and isinstance(op.x.shape[1], int)


def is_depthwise(op: Conv) -> bool:
    """Whether each group has one input channel."""
    return op.groups > 1 and op.w.shape[1] == 1


def suits_winograd(op: Conv) -> bool:
    """Whether a convolution is of images, has stride 1 in both directions, or static sizes, and
    constant weights, in f32.
    """
    static = all(isinstance(d, int) for d in op.type.shape[2:])
    return (
        op.x.dtype == f32
        and op.groups == 1
        and op.x.tensor.rank == 4
        and (max(op.strides) == 1 or static)
        and max(op.dilations) == 1
        and min(op.w.shape[2:]) > 1
        and all(d != 0 for d in op.type.shape)
        and is_constant(op.w)
    )


def items(op: Conv) -> Dim:
    """The items of the batch: of one that is split all of them, so that what is chosen, and with it
    the bits of a result, does not depend on how it is split.
    """
    n, block = op.type.shape[0], op.parent
    while block is not None and isinstance(block.owner, Op):
        if isinstance(block.owner, Scan) and block.owner.n_carry == 0:
            n = n * block.owner.sliced[0].shape[0]
        block = block.owner.parent
    return n


def image(op: Conv) -> Image:
    """The sizes of a convolution that suits Winograd's method."""
    _, out, *sides = op.type.shape
    n = items(op)
    taps, strides = tuple(op.w.shape[2:]), tuple(op.strides)
    return planned_image((n, *sides, out), op.w.shape[1], taps, strides)


def wide(b: Builder, x: Value) -> Value:
    """16-bit floats as f32, in which their products are summed."""
    return b(Cast, x, dtype=f32) if x.dtype.bits == 16 else x


def narrow(b: Builder, x: Value, like: Value) -> Value:
    """Back in the dtype of another value."""
    return x if x.dtype == like.dtype else b(Cast, x, dtype=like.dtype)


def packed_conv(op: Conv, b: Builder, nr: int) -> Value:
    """A convolution on channels-last activations with a packed weight; so is the result.

    With few input channels the padding becomes an operation of its own, so that the kernel reads a
    row of the window as one contiguous piece.
    """
    if is_planar(op):
        return planar_conv(op, b, nr)
    rank = op.x.tensor.rank
    x = wide(b, permuted(b, op.x, to_last(rank)))
    pads = op.pads
    kernel = tuple(op.w.shape[2:])
    few = op.groups == 1 and op.x.shape[1] < MERGED_DEPTH
    if few and any(pads) and kernel[-1] > 1 and op.dilations[-1] == 1:
        x = padded(b, x, pads)
        pads = (0,) * len(pads)
    y = b(
        ConvPacked,
        x,
        b(PackWeights, wide(b, op.w), groups=op.groups, nr=nr),
        kernel=kernel,
        strides=op.strides,
        pads=pads,
        dilations=op.dilations,
        groups=op.groups,
        out_channels=op.w.shape[0],
    )
    return narrow(b, y, op.x)


def padded(b: Builder, x: Value, pads: tuple[int, ...]) -> Value:
    """Pads an image, channels last; of one in memory a row of pixels is one dimension for that."""
    n = len(pads) // 2
    low, high = (0, *pads[:n]), (0, *pads[n:])
    if x.op is not None:
        return b(Pad, x, low=(*low, 0), high=(*high, 0))
    *lead, width, channels = x.shape
    rows = b(Reshape, x, shape=(*lead, width * channels))
    low, high = (*low[:-1], low[-1] * channels), (*high[:-1], high[-1] * channels)
    rows = b(Pad, rows, low=low, high=high)
    return b(Reshape, rows, shape=(*rows.shape[:-1], width + pads[n - 1] + pads[-1], channels))


def is_planar(op: Conv) -> bool:
    """Whether the input of a convolution is a few planes that nothing has put channels last."""
    few = op.groups == 1 and op.x.shape[1] <= PLANES and len(op.strides) < max(SPATIAL)
    return few and op.dilations[-1] == 1 and not isinstance(op.x.owner, Transpose)


def planar_conv(op: Conv, b: Builder, nr: int) -> Value:
    """A convolution of a few planes, as one over the planes too, of a single channel.

    The kernel then reads pieces of the rows of the planes: nothing is transposed. The result is
    channels last.
    """
    n, x, w = len(op.strides), wide(b, op.x), wide(b, op.w)
    if any(op.pads):
        x = b(Pad, x, low=(0, 0, *op.pads[:n]), high=(0, 0, *op.pads[n:]))
    y = b(
        ConvPacked,
        b(Reshape, x, shape=(*x.shape, 1)),
        b(PackWeights, b(Reshape, w, shape=(w.shape[0], 1, *w.shape[1:])), groups=1, nr=nr),
        kernel=tuple(op.w.shape[1:]),
        strides=(1, *op.strides),
        pads=(0,) * (2 * n + 2),
        dilations=(1, *op.dilations),
        groups=1,
        out_channels=w.shape[0],
    )
    y = b(Reshape, y, shape=(y.shape[0], *y.shape[2:]))
    return narrow(b, y, op.x)


def winograd_conv(op: Conv, b: Builder, tile: Pair, nr: int, exact: bool) -> Value:
    """A convolution as products at the points of tiles of images, channels last; ``exact``: some
    make one output less where there is no more.
    """
    _, out, *sides = op.type.shape
    x = permuted(b, op.x, to_last(4))
    method = {"sizes": tile, "taps": tuple(op.w.shape[2:]), "strides": tuple(op.strides)}
    tiling = Tiling.of(**method)
    tiles = (x.shape[0], *tiling.tiles(sides))
    short = tiling.shortened(sides) if exact else (0, 0)
    v = b(WinogradInput, x, pads=op.pads, short=short, **method)
    w = b(Pack, b(WinogradWeights, op.w, **method), nr=nr)
    m = b(WinogradProduct, v, w, tiles=tiles, short=short, cols=out, **method)
    return b(WinogradOutput, m, images=x.shape[0], shape=tuple(sides), short=short, **method)


def depthwise(op: Conv, b: Builder) -> Value:
    """Each channel by itself, channels last; with several filters a channel, channels are
    repeated.
    """
    rank = op.x.tensor.rank
    x = permuted(b, op.x, to_last(rank))
    filters = op.w.shape[0] // op.groups
    if filters > 1:
        lead = x.shape
        x = b(Reshape, x, shape=(*lead, 1))
        x = b(Broadcast, x, shape=(*lead, filters))
        x = b(Reshape, x, shape=(*lead[:-1], lead[-1] * filters))
    w = b(Reshape, op.w, shape=(op.w.shape[0], *op.w.shape[2:]))
    w = b(Transpose, w, perm=(*range(1, rank - 1), 0))
    return b(Depthwise, x, w, strides=op.strides, pads=op.pads, dilations=op.dilations)


def packed_matmul(op: Matmul, b: Builder, nr: int) -> Value:
    """A matrix product with a packed right operand."""
    x = wide(b, op.a)
    if op.a.tensor.rank == 1:
        x = b(Reshape, x, shape=(1, *op.a.shape))
    y = b(MatmulPacked, x, b(Pack, wide(b, op.b), nr=nr), cols=op.b.shape[-1])
    if op.a.tensor.rank == 1:
        y = b(Reshape, y, shape=op.type.shape)
    return narrow(b, y, op.a)
