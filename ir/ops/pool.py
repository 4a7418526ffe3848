"""Pooling over sliding windows.

Activations are ``[N, C, spatial...]``, or ``[N, spatial..., C]`` with ``channels_last``. ``pads``
are in ONNX order: all lows, then all highs. With ``ceil`` the output size is rounded up, as long as
the last window starts inside the input or the low padding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pjit.ir import expr
from pjit.ir.core import Value
from pjit.ir.errors import require
from pjit.ir.expr import Dim
from pjit.ir.kernel_builder import Puller
from pjit.ir.opdef import OpDef, attr, operand, sample
from pjit.ir.ops.windows import Windows, accumulator, geometry, widen
from pjit.ir.types import FLOATS, NUMERIC, DType, TensorType, f32, f64, i8, i32, u8


class Pool(OpDef):
    """What max and average pooling share.

    (C1) x has a batch, a channel and 1 to 3 spatial dimensions, as many as the kernel.
    (C2) Kernel, strides, dilations >= 1 and pads >= 0 have the right lengths.
    (C3) A pad is smaller than the window, so that every window reaches the input.
    (C4) The window fits into the padded input.
    """

    x = operand(NUMERIC)
    kernel = attr()
    strides = attr()
    pads = attr()
    dilations = attr()
    ceil = attr(False)
    channels_last = attr(False)
    __slots__ = ()

    @property
    def windows(self) -> Windows:
        """The geometry."""
        return Windows(self.kernel, self.strides, self.pads, self.dilations, self.ceil)

    @property
    def spatial(self) -> tuple[Dim, ...]:
        """The spatial sizes of x."""
        shape = self.x.shape
        return shape[1:-1] if self.channels_last else shape[2:]

    def _split(
        self, index: tuple[Dim, ...]
    ) -> tuple[tuple[Dim, ...], Callable[..., tuple[Dim, ...]]]:
        """The spatial part of an output index, and the index of x at a spatial position."""
        if self.channels_last:
            n, *at, c = index
            return tuple(at), lambda source: (n, *source, c)
        n, c, *at = index
        return tuple(at), lambda source: (n, c, *source)

    def _fold(
        self, k: Puller, index: tuple[Dim, ...], combine: str, otherwise: float, acc: DType
    ) -> Value:
        """Combines the taps of a window."""
        windows, spatial = self.windows, self.spatial
        at, place = self._split(tuple(index))

        def term(taps: Any) -> Value:
            source = windows.position(at, taps)
            return k.guarded(
                windows.guards(source, spatial),
                lambda: k.b.cast(k.read(self.x, place(source)), acc),
                otherwise,
            )

        return k.reduce(combine, windows.kernel, term, acc)


def _infer(x: TensorType, windows: Windows, channels_last: bool) -> TensorType:
    require(
        1 <= windows.rank <= 3 and x.rank == windows.rank + 2,
        "(C1) x has a batch, a channel and 1 to 3 spatial dimensions, as many as the kernel",
        got=f"{x} and a kernel of {windows.rank} dimensions",
    )
    windows.check("(C2)")
    require(
        all(
            max(lo, hi) < n
            for lo, hi, n in zip(windows.low, windows.high, windows.spans, strict=True)
        ),
        "(C3) a pad is smaller than the window",
        got=f"pads {windows.pads} and windows over {windows.spans}",
    )
    if channels_last:
        out = windows.out_shape(x.shape[1:-1], "(C4)")
        return x.with_shape((x.shape[0], *out, x.shape[-1]))
    return x.with_shape((*x.shape[:2], *windows.out_shape(x.shape[2:], "(C4)")))


def _apply(
    x: np.ndarray,
    windows: Windows,
    channels_last: bool,
    fill: Any,
    fold: Callable[[np.ndarray, tuple[int, ...]], np.ndarray],
) -> np.ndarray:
    """``fold(view, axes of the kernel)`` with channels first, moved back if needed."""
    x = np.moveaxis(x, -1, 1) if channels_last else x
    out = tuple(d for d in windows.out_shape(x.shape[2:], "(C4)") if isinstance(d, int))
    y = fold(windows.view(x, out, fill), tuple(range(-windows.rank, 0)))
    return np.ascontiguousarray(np.moveaxis(y, 1, -1) if channels_last else y)


def _lowest(dt: np.dtype | DType) -> float:
    """The identity of max."""
    plain = dt.numpy if isinstance(dt, DType) else dt
    return float(np.iinfo(plain).min) if plain.kind in "iu" else float("-inf")


class MaxPool(Pool, name="nn.max_pool"):
    """The largest element of each window; padding never counts, NaN propagates.

    (C1) x has a batch, a channel and 1 to 3 spatial dimensions, as many as the kernel.
    (C2) Kernel, strides, dilations >= 1 and pads >= 0 have the right lengths.
    (C3) A pad is smaller than the window, so that every window reaches the input.
    (C4) The window fits into the padded input.
    """

    __slots__ = ()

    @staticmethod
    def infer(
        x: TensorType,
        *,
        kernel: tuple[int, ...],
        strides: tuple[int, ...],
        pads: tuple[int, ...],
        dilations: tuple[int, ...],
        ceil: bool,
        channels_last: bool,
    ) -> TensorType:
        """The batch and channels of x, and the output sizes."""
        return _infer(x, Windows(kernel, strides, pads, dilations, ceil), channels_last)

    @staticmethod
    def ref(
        x: np.ndarray,
        *,
        kernel: tuple[int, ...],
        strides: tuple[int, ...],
        pads: tuple[int, ...],
        dilations: tuple[int, ...],
        ceil: bool,
        channels_last: bool,
    ) -> np.ndarray:
        """The maximum over a view of the windows."""
        windows, wide = Windows(kernel, strides, pads, dilations, ceil), widen(x)
        fill = np.iinfo(x.dtype).min if x.dtype.kind in "iu" else -np.inf
        y = _apply(wide, windows, channels_last, fill, lambda view, axes: view.max(axes))
        return y.astype(x.dtype)

    def element(self, k: Puller, index: tuple[Dim, ...]) -> Value:
        """The maximum over the taps."""
        dt = self.x.dtype
        return self._fold(k, index, "max", _lowest(dt), dt)

    samples = (
        sample(
            (2, 3, 8, 9), kernel=(3, 3), **geometry((2, 2), (1,) * 4), dtypes=(*FLOATS, i32, i8, u8)
        ),
        sample(
            (1, 9, 7, 5),
            kernel=(3, 2),
            **geometry((2, 3), (1, 0, 2, 1), (2, 1)),
            channels_last=True,
            dtypes=(f32, f64),
        ),
        sample((3, 2, 7, 6), kernel=(2, 3), **geometry((2, 2)), ceil=True, dtypes=(f32,)),
        sample((1, 2, 5, 6), kernel=(3, 3), **geometry((3, 3), (1,) * 4), ceil=True, dtypes=(f32,)),
        sample((2, 3, 11), kernel=(3,), **geometry((2,), (0, 1), (2,)), dtypes=(f32,)),
        sample(
            (1, 2, 4, 5, 6),
            kernel=(2, 3, 1),
            **geometry((1, 2, 2), (1, 0, 0, 0, 2, 0)),
            dtypes=(f32,),
        ),
        sample((0, 2, 4, 4), kernel=(2, 2), **geometry((2, 2)), dtypes=(f32,)),
    )


class AvgPool(Pool, name="nn.avg_pool"):
    """The mean of each window.

    The divisor is the number of taps inside the input, with ``count_include_pad`` inside the padded
    input. 16-bit floats are summed in f32 and rounded once.

    (C1) x has a batch, a channel and 1 to 3 spatial dimensions, as many as the kernel.
    (C2) Kernel, strides, dilations >= 1 and pads >= 0 have the right lengths.
    (C3) A pad is smaller than the window, so that every window reaches the input.
    (C4) The window fits into the padded input.
    """

    x = operand(FLOATS)
    count_include_pad = attr(False)
    __slots__ = ()

    @staticmethod
    def infer(
        x: TensorType,
        *,
        kernel: tuple[int, ...],
        strides: tuple[int, ...],
        pads: tuple[int, ...],
        dilations: tuple[int, ...],
        ceil: bool,
        count_include_pad: bool,
        channels_last: bool,
    ) -> TensorType:
        """The batch and channels of x, and the output sizes."""
        return _infer(x, Windows(kernel, strides, pads, dilations, ceil), channels_last)

    @staticmethod
    def ref(
        x: np.ndarray,
        *,
        kernel: tuple[int, ...],
        strides: tuple[int, ...],
        pads: tuple[int, ...],
        dilations: tuple[int, ...],
        ceil: bool,
        count_include_pad: bool,
        channels_last: bool,
    ) -> np.ndarray:
        """The sum over the windows, divided by the sum over the windows of an array of ones."""
        windows, wide = Windows(kernel, strides, pads, dilations, ceil), widen(x)
        total = _apply(wide, windows, channels_last, 0, lambda view, axes: view.sum(axes))
        spatial = x.shape[1:-1] if channels_last else x.shape[2:]
        ones = np.ones((1, 1, *spatial), wide.dtype)
        out = tuple(d for d in windows.out_shape(spatial, "(C4)") if isinstance(d, int))
        if count_include_pad:
            widths = [(0, 0), (0, 0), *zip(windows.low, windows.high, strict=True)]
            ones = np.pad(ones, widths, constant_values=1)
            windows = Windows(kernel, strides, (0,) * len(pads), dilations, ceil)
        count = windows.view(ones, out).sum(tuple(range(-windows.rank, 0)))
        count = np.moveaxis(count, 1, -1) if channels_last else count
        return (total / count).astype(x.dtype)

    def element(self, k: Puller, index: tuple[Dim, ...]) -> Value:
        """The sum over the taps, divided by their number."""
        dt = self.x.dtype
        acc = accumulator(dt)
        total = self._fold(k, index, "add", 0.0, acc)
        count = self._count(self._split(tuple(index))[0])
        divisor = k.b.const(count, acc) if isinstance(count, int) else k.b.cast(k.index(count), acc)
        return k.b.cast(k.b.div(total, divisor), dt)

    def _count(self, at: tuple[Dim, ...]) -> Dim:
        """How many taps of an output position count."""
        windows = self.windows
        total: Dim = 1
        rows = zip(
            at,
            self.spatial,
            windows.kernel,
            windows.strides,
            windows.dilations,
            windows.low,
            windows.high,
            strict=True,
        )
        for o, size, k, s, d, low, high in rows:
            if not self.ceil and (self.count_include_pad or low == high == 0):
                total = total * k
                continue
            begin, end = (-low, size + high) if self.count_include_pad else (0, size)
            start = o * s - low
            last = expr.minimum(expr.ceildiv(end - start, d), k)
            total = total * (last - expr.ceildiv(expr.maximum(begin - start, 0), d))
        return total

    samples = (
        sample((2, 3, 8, 9), kernel=(3, 3), **geometry((2, 2), (1,) * 4), dtypes=FLOATS),
        sample(
            (1, 9, 7, 5),
            kernel=(3, 2),
            **geometry((2, 3), (1, 0, 2, 1), (2, 1)),
            channels_last=True,
            dtypes=(f32, f64),
        ),
        sample(
            (1, 2, 7, 6),
            kernel=(3, 3),
            **geometry((2, 2), (1,) * 4),
            count_include_pad=True,
            dtypes=(f32,),
        ),
        sample(
            (3, 2, 7, 6),
            kernel=(2, 3),
            **geometry((2, 2), (1, 1, 0, 0)),
            ceil=True,
            count_include_pad=True,
            dtypes=(f32,),
        ),
        sample((1, 2, 5, 6), kernel=(3, 3), **geometry((3, 2), (1,) * 4), ceil=True, dtypes=(f32,)),
        sample((2, 3, 11), kernel=(3,), **geometry((2,), (0, 0), (2,)), dtypes=(f32,)),
        sample(
            (1, 2, 4, 5, 6),
            kernel=(2, 3, 1),
            **geometry((1, 2, 2), (1, 0, 0, 0, 2, 0)),
            dtypes=(f32,),
        ),
        sample((0, 2, 4, 4), kernel=(2, 2), **geometry((2, 2)), dtypes=(f32,)),
    )


__all__ = ["AvgPool", "MaxPool"]
