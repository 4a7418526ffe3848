"""Convolutions by Winograd's method along one dimension, where the cost model prefers that."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from pjit.ir import expr
from pjit.ir.builder import Builder
from pjit.ir.core import Value
from pjit.ir.expr import Dim
from pjit.ir.ops import (
    Conv,
    ConvPacked,
    PackWeights,
    WinogradRowInput,
    WinogradRowOutput,
    WinogradRowWeights,
)
from pjit.ir.ops.winograd_rows import Method
from pjit.ir.target import Machine
from pjit.ir.types import f32
from pjit.passes.cost import (
    WINOGRAD_GAIN,
    WINOGRAD_SIZES,
    Product,
    guess,
    product_cycles,
    transformed_cycles,
    worth,
)
from pjit.passes.pattern import is_constant
from pjit.passes.routes import to_last
from pjit.passes.transposes import permuted
from pjit.passes.widen import Positions, beside


@dataclass(frozen=True)
class Rows:
    """A choice: the spatial dimension of the kernel, counted from 0, and how it is convolved."""

    at: int
    method: Method

    def product(self, op: Conv, rows: Dim) -> Product:
        """The sizes of the product at one point.

        Args:
            op: The convolution.
            rows: The output positions of all items of the batch.
        """
        outputs = op.type.shape[2 + self.at]
        others = prod(op.w.shape[1:]) // self.method.taps
        return Product(
            rows=expr.floordiv(rows, outputs) * self.method.tiles(outputs),
            cols=op.w.shape[0],
            depth=others,
            scattered=others > op.w.shape[1] or max(op.strides) > 1,
        )


def rows_of(op: Conv, sizes: Product, r: Positions, machine: Machine) -> Rows | None:
    """The best choice for a convolution, or None where another way is good enough.

    Args:
        op: The convolution.
        sizes: Its sizes as a contraction, with all items of the batch; of a symbolic number one
            counts, as what pays for that pays for more.
        r: The positions side by side that are the other way.
        machine: What it will run on.
    """
    *sides, channels = *op.type.shape[2:], op.w.shape[1]
    static = all(isinstance(d, int) and d > 0 for d in (*sides, channels))
    if op.x.dtype != f32 or op.groups > 1 or not static or not is_constant(op.w):
        return None
    if not isinstance(sizes.rows, int):
        sizes = replace(sizes, rows=expr.product(sides))
    best, found = WINOGRAD_GAIN * product_cycles(beside(op, sizes, r), machine), None
    for at, steps in enumerate(zip(op.w.shape[2:], op.strides, op.dilations, strict=True)):
        for size in WINOGRAD_SIZES:
            choice = Rows(at, Method(size, *steps))
            if choice.method.valid:
                p, points = choice.product(op, sizes.rows), choice.method.lines.points
                more = (points - steps[0]) * guess(p.depth) * op.w.shape[0]
                cycles = transformed_cycles(((points, p),), channels, machine)
                cycles += worth(more * 4, machine)
                if cycles < best:
                    best, found = cycles, choice
    return found


def row_conv(op: Conv, b: Builder, choice: Rows, nr: int) -> Value:
    """A convolution as products at the points of tiles along one dimension, channels last."""
    at, m = choice.at, choice.method
    n, out = len(op.strides), op.w.shape[0]
    method = {"size": m.size, "taps": m.taps, "stride": m.stride, "dilation": m.dilation}
    points = m.lines.points
    x = permuted(b, op.x, to_last(op.x.tensor.rank))
    x = b(WinogradRowInput, x, axis=1 + at, pads=(op.pads[at], op.pads[n + at]), **method)
    w = b(WinogradRowWeights, op.w, axis=2 + at, **method)

    def without(values: tuple[int, ...], otherwise: int) -> tuple[int, ...]:
        return tuple(otherwise if i % n == at else v for i, v in enumerate(values))

    y = b(
        ConvPacked,
        x,
        b(PackWeights, w, groups=points, nr=nr),
        kernel=without(tuple(op.w.shape[2:]), 1),
        strides=without(op.strides, 1),
        pads=without(op.pads, 0),
        dilations=without(op.dilations, 1),
        groups=points,
        out_channels=points * out,
    )
    return b(WinogradRowOutput, y, axis=1 + at, extent=op.type.shape[2 + at], **method)
