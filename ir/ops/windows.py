"""Geometry of sliding windows: sizes, source positions, NumPy views.

Along one dimension, tap ``t`` of output position ``o`` reads the input at
``o*stride + t*dilation - low``, where ``low`` is the padding before the first element. ``pads``
are in ONNX order: all lows, then all highs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pjit.ir import expr
from pjit.ir.errors import require
from pjit.ir.expr import Dim
from pjit.ir.types import DType, bf16, f16, f32


@dataclass(frozen=True)
class Windows:
    """The windows of an operator, one entry a spatial dimension.

    Attributes:
        kernel: Taps.
        strides: Steps from one output position to the next.
        pads: Padding, all lows then all highs.
        dilations: Steps from one tap to the next.
        ceil: Whether a window may reach past the high padding, as long as it starts in the input or
            the low padding.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    ceil: bool = False

    @property
    def rank(self) -> int:
        """The number of spatial dimensions."""
        return len(self.kernel)

    @property
    def low(self) -> tuple[int, ...]:
        """The padding before the first element."""
        return self.pads[: self.rank]

    @property
    def high(self) -> tuple[int, ...]:
        """The padding after the last element."""
        return self.pads[self.rank :]

    @property
    def spans(self) -> tuple[int, ...]:
        """How many input positions a window covers, from its first to its last tap."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    def check(self, constraint: str) -> None:
        """Requires well-formed sizes; raises ConstraintError with the constraint's number."""
        n = self.rank
        require(
            all(isinstance(k, int) and k >= 1 for k in self.kernel),
            f"{constraint} the window has static sizes of at least 1",
            got=list(self.kernel),
        )
        require(
            len(self.strides) == len(self.dilations) == n and len(self.pads) == 2 * n,
            f"{constraint} strides and dilations have one entry a spatial dimension, pads have two",
            expected=f"{n} spatial dimensions",
            got=f"strides {self.strides}, dilations {self.dilations}, pads {self.pads}",
        )
        require(
            min((*self.strides, *self.dilations), default=1) >= 1
            and min(self.pads, default=0) >= 0,
            f"{constraint} strides and dilations are at least 1, pads at least 0",
            got=f"strides {self.strides}, dilations {self.dilations}, pads {self.pads}",
        )

    def out_shape(self, spatial: Sequence[Dim], constraint: str) -> tuple[Dim, ...]:
        """The output sizes for input sizes; raises ConstraintError when no window fits."""
        out: list[Dim] = []
        rows = zip(spatial, self.spans, self.strides, self.low, self.high, strict=True)
        for size, span, s, low, high in rows:
            slack = size + low + high - span
            require(
                not isinstance(slack, int) or slack >= 0,
                f"{constraint} the window fits into the padded input",
                expected=f"a padded size of at least {span}",
                got=size + low + high,
            )
            if self.ceil:  # the last window starts at (out - 1)*s, which must be below size + low
                out.append(expr.minimum(expr.ceildiv(slack, s), (size + low - 1) // s) + 1)
            else:
                out.append(slack // s + 1)
        return tuple(out)

    def position(self, out: Sequence[Dim], taps: Sequence[Dim]) -> tuple[Dim, ...]:
        """Where the taps of output positions read the input; out of range in the padding."""
        rows = zip(out, taps, self.strides, self.dilations, self.low, strict=True)
        return tuple(o * s + t * d - low for o, t, s, d, low in rows)

    def guards(
        self, position: Sequence[Dim], spatial: Sequence[Dim]
    ) -> tuple[tuple[Dim, Dim], ...]:
        """The conditions for positions to be inside, for the dimensions where they may not be."""
        rows = zip(position, spatial, self.low, self.high, strict=True)
        return tuple((p, size) for p, size, low, high in rows if low or high or self.ceil)

    def view(self, x: np.ndarray, out: Sequence[int], fill: float = 0) -> np.ndarray:
        """The windows of ``[..., spatial]`` as ``[..., out, kernel]``; padding is ``fill``."""
        n = self.rank
        axes = tuple(range(x.ndim - n, x.ndim))
        need = [(o - 1) * s + e for o, s, e in zip(out, self.strides, self.spans, strict=True)]
        high = [
            max(0, m - low - size)
            for m, low, size in zip(need, self.low, x.shape[x.ndim - n :], strict=True)
        ]
        widths = [(0, 0)] * (x.ndim - n) + list(zip(self.low, high, strict=True))
        padded = np.pad(x, widths, constant_values=fill)
        views = np.lib.stride_tricks.sliding_window_view(padded, self.spans, axes)
        picked: list[Any] = [slice(None, o * s, s) for o, s in zip(out, self.strides, strict=True)]
        picked += [slice(None, None, d) for d in self.dilations]
        return views[(..., *picked)]


def geometry(
    strides: tuple[int, ...],
    pads: tuple[int, ...] | None = None,
    dilations: tuple[int, ...] | None = None,
) -> dict[str, Any]:
    """The attributes of an operator with windows; no padding and no dilation by default."""
    n = len(strides)
    return {"strides": strides, "pads": pads or (0,) * 2 * n, "dilations": dilations or (1,) * n}


def accumulator(dt: DType) -> DType:
    """The dtype that sums are kept in: f32 for the 16-bit floats, else the dtype itself."""
    return f32 if dt in (f16, bf16) else dt


def widen(x: np.ndarray) -> np.ndarray:
    """The array in the accumulator's dtype of its own."""
    narrow = x.dtype in (f16.numpy, bf16.numpy)
    return x.astype(np.float32) if narrow else x
