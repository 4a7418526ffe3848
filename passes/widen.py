"""Convolutions with few output channels: several positions side by side as channels.

The columns of a contraction are output channels; fewer than a vector has lanes leave lanes empty. A
convolution of ``c`` channels and kernel ``k`` is also one of ``r*c`` channels, kernel ``k+(r-1)*s``
and stride ``r*s``, whose channels are those of ``r`` adjacent positions. Each channel's kernel is
the old one among zeros. That multiplies with zeros in vain, but fills the vectors: worth it where
``(k+(r-1)*s)/k`` is less than what the empty lanes cost.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from math import prod

from pjit.ir.builder import Builder
from pjit.ir.core import Value
from pjit.ir.ops import Concat, Conv, Pad, Reshape, Slice, Transpose
from pjit.ir.target import Machine
from pjit.passes.cost import Product, guess, product_cycles
from pjit.passes.pattern import is_constant

GAIN = 0.85  # the share of the cycles without it that is worth moving the results
MOST_VECTORS = 2  # vectors that the channels side by side fill at most

Positions = tuple[int, ...]  # how many adjacent positions are taken together, by spatial dimension


def positions(op: Conv, sizes: Product, machine: Machine) -> Positions:
    """How many positions to compute side by side; all ones where that does not pay.

    Args:
        op: A convolution.
        sizes: Its sizes as a contraction.
        machine: What it will run on.
    """
    one = (1,) * len(op.strides)
    if op.groups > 1 or not is_constant(op.w) or guess(sizes.rows) == 0:
        return one
    cycles = {r: _cycles(op, sizes, r, machine) for r in _candidates(op, sizes, machine)}
    best = min(cycles, key=lambda r: (cycles[r], r))
    return best if cycles[best] < GAIN * cycles[one] else one


def _candidates(op: Conv, sizes: Product, machine: Machine) -> Iterator[Positions]:
    room = MOST_VECTORS * machine.lanes(sizes.bits) // guess(sizes.cols)
    most = [
        min(room, n if isinstance(n, int) else room) if k > 1 and d == 1 else 1
        for n, k, d in zip(op.type.shape[2:], op.w.shape[2:], op.dilations, strict=True)
    ]
    for r in product(*(range(1, max(1, m) + 1) for m in most)):
        if prod(r) <= max(1, room):
            yield r


def _cycles(op: Conv, sizes: Product, r: Positions, machine: Machine) -> float:
    """Cycles for all rows, and for moving the results to their places."""
    many = prod(r)
    cycles = product_cycles(beside(op, sizes, r), machine)
    if not isinstance(sizes.rows, int):
        cycles /= many  # the model takes any symbolic number of rows for the same
    elif many > 1:
        moved = 2 * sizes.rows * guess(sizes.cols) * sizes.bits // 8
        cycles += moved / machine.l2_bytes_per_cycle
    return cycles


def beside(op: Conv, sizes: Product, r: Positions) -> Product:
    """The sizes of the contraction that computes positions side by side."""
    many, rows = prod(r), sizes.rows
    return replace(
        sizes,
        rows=-(-rows // many) if isinstance(rows, int) else rows,
        cols=guess(sizes.cols) * many,
        depth=op.w.shape[1] * prod(kernel(op, r)),
    )


def kernel(op: Conv, r: Positions) -> tuple[int, ...]:
    """The kernel that covers the windows of adjacent positions."""
    return tuple(k + (m - 1) * s for k, m, s in zip(op.w.shape[2:], r, op.strides, strict=True))


def widened(op: Conv, b: Builder, r: Positions) -> Conv:
    """The convolution of positions side by side: channel ``(j..., c)`` is channel ``c`` at the
    ``j``-th position of a group.
    """
    n = len(r)
    beside = [(m - 1) * s for m, s in zip(r, op.strides, strict=True)]
    kernels = []
    for j in product(*(range(m) for m in r)):
        low = [i * s for i, s in zip(j, op.strides, strict=True)]
        high = [a - i for a, i in zip(beside, low, strict=True)]
        kernels.append(b(Pad, op.w, low=(0, 0, *low), high=(0, 0, *high)))
    pads = (*op.pads[:n], *(p + a for p, a in zip(op.pads[n:], beside, strict=True)))
    wide = b(
        Conv,
        op.x,
        b(Concat, *kernels, axis=0),
        strides=tuple(m * s for m, s in zip(r, op.strides, strict=True)),
        pads=pads,
        dilations=op.dilations,
        groups=1,
    )
    assert isinstance(wide.owner, Conv)
    return wide.owner


def separated(b: Builder, y: Value, op: Conv, r: Positions) -> Value:
    """The result of ``op``, channels last, from that of the widened convolution, channels last."""
    n = len(r)
    batch, *groups, _ = y.shape
    channels, out = op.w.shape[0], op.type.shape[2:]
    y = b(Reshape, y, shape=(batch, *groups, *r, channels))
    order = [0, *(i for d in range(n) for i in (1 + d, 1 + n + d)), 1 + 2 * n]
    y = b(Transpose, y, perm=tuple(order))
    y = b(Reshape, y, shape=(batch, *(g * m for g, m in zip(groups, r, strict=True)), channels))
    return b(Slice, y, starts=(0,) * (n + 2), sizes=(batch, *out, channels), steps=(1,) * (n + 2))
