"""Convolutions of stride 2 and few channels: adjacent positions of the image as channels.

A convolution of stride 2 is also one of stride 1, of an image of half the height and width whose
channels are those of 2x2 adjacent positions (space to depth). A kernel of 7x7 taps becomes one of
4x4, of which a few are zero. Winograd's method makes its products of all channels, of which there
are enough then: 36 products for 3x3 outputs, of 12 channels, instead of 49 for each, of 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from pjit.ir.builder import Builder
from pjit.ir.core import Value
from pjit.ir.ops import Conv, Pad, Reshape, Transpose
from pjit.ir.ops.winograd_tiles import Pair
from pjit.passes.cost import Image, guess, planned_image
from pjit.passes.routes import to_first
from pjit.passes.transposes import permuted

STRIDE = 2


@dataclass(frozen=True)
class Deep:
    """The convolution of the deeper image.

    Attributes:
        taps: Down and across.
        zeros: Taps in front of the kernel's own, before each two become one.
        pads: Top, left, bottom, right.
    """

    taps: Pair
    zeros: Pair
    pads: tuple[int, int, int, int]

    @staticmethod
    def of(op: Conv) -> Deep | None:
        """For a convolution of images of stride 2, with as many positions as there are pairs of
        rows and columns; else None.
        """
        sides = op.x.shape[2:]
        even = all(isinstance(d, int) and d % STRIDE == 0 for d in sides)
        if tuple(op.strides) != (STRIDE, STRIDE) or max(op.dilations) > 1 or not even:
            return None
        found = []
        for side, out, taps, pad in zip(
            sides, op.type.shape[2:], op.w.shape[2:], op.pads[:2], strict=True
        ):
            low = -(-pad // STRIDE)
            zeros = STRIDE * low - pad
            pairs = -(-(taps + zeros) // STRIDE)
            found.append((pairs, zeros, low, out - 1 + pairs - side // STRIDE - low))
        taps, zeros, low, high = zip(*found, strict=True)
        return Deep(taps, zeros, (*low, *high)) if min(high) >= 0 else None

    def image(self, op: Conv, count: int) -> Image:
        """Its sizes, for planning, with so many items of the batch."""
        _, out, *sides = op.type.shape
        channels = op.x.shape[1] * STRIDE**2
        return planned_image((count, *sides, out), channels, self.taps, (1, 1))

    def conv(self, op: Conv, b: Builder) -> Conv:
        """The convolution; channel ``(c, i, j)`` is channel c at place ``(i, j)`` of a pair."""
        n, c, h, w = op.x.shape
        x = b(Reshape, op.x, shape=(n, c, h // STRIDE, STRIDE, w // STRIDE, STRIDE))
        x = b(Transpose, x, perm=(0, 2, 4, 1, 3, 5))
        x = b(Reshape, x, shape=(n, h // STRIDE, w // STRIDE, c * STRIDE**2))
        y = b(
            Conv,
            permuted(b, x, to_first(4)),
            self._weights(op.w, b),
            strides=(1, 1),
            pads=self.pads,
            dilations=(1, 1),
            groups=1,
        )
        assert isinstance(y.owner, Conv)
        return y.owner

    def _weights(self, w: Value, b: Builder) -> Value:
        out, c, *kernel = w.shape
        whole = [STRIDE * n for n in self.taps]
        high = [n - k - z for n, k, z in zip(whole, kernel, self.zeros, strict=True)]
        w = b(Pad, w, low=(0, 0, *self.zeros), high=(0, 0, *high))
        down, across = self.taps
        w = b(Reshape, w, shape=(out, c, down, STRIDE, across, STRIDE))
        w = b(Transpose, w, perm=(0, 1, 3, 5, 2, 4))
        return b(Reshape, w, shape=(out, c * STRIDE**2, down, across))


def moved_bytes(op: Conv, count: int) -> int:
    """Bytes read and written to make the deeper images of so many items."""
    return 2 * count * prod(guess(d) for d in op.x.shape[1:]) * 4
