"""Transposed convolution: one convolution whose channels are the phases of the stride."""

from __future__ import annotations

from typing import Any

import numpy as np

from pjit.ir.core import Value
from pjit.ir.errors import require
from pjit.ir.expr import Dim
from pjit.ir.opdef import OpDef, attr, operand, same_dim, sample
from pjit.ir.ops.nn import check_groups, check_rank, static_kernel, static_part
from pjit.ir.ops.windows import Windows, geometry, widen
from pjit.ir.types import FLOATS, TensorType, f32


class ConvTranspose(OpDef, name="nn.conv_transpose"):
    """Transposed convolution of x with w, with gaps between the elements of x.

    ``x`` is ``[N, C, spatial...]``, ``w`` is ``[C, O/groups, kernel...]``.
    Input position i adds ``x[i] * w[t]`` to output position ``i*stride + t*dilation - low``. An
    output size is ``(H - 1)*stride + dilation*(kernel - 1) + 1 - low - high + output_padding``.

    (C1) Both operands have one dtype.
    (C2) x has a batch, a channel and 1 to 3 spatial dimensions; w has the same rank.
    (C3) The kernel sizes are static; strides, dilations >= 1 and pads, output_padding >= 0 have the
        right lengths.
    (C4) groups divides the input channels, which are static if groups > 1.
    (C5) x and w have the same input channels.
    (C6) The output sizes are at least 1.
    """

    x = operand(FLOATS)
    w = operand(FLOATS)
    strides = attr()
    pads = attr()
    dilations = attr()
    groups = attr(1)
    output_padding = attr()
    __slots__ = ()

    @staticmethod
    def infer(
        x: TensorType,
        w: TensorType,
        *,
        strides: tuple[int, ...],
        pads: tuple[int, ...],
        dilations: tuple[int, ...],
        groups: int,
        output_padding: tuple[int, ...],
    ) -> TensorType:
        """``[N, O, out...]``."""
        require(x.dtype == w.dtype, "(C1) the operands have one dtype", got=f"{x} and {w}")
        check_rank(x, w.shape[2:], "(C2)")
        windows = Windows(static_kernel(w.shape[2:], "(C3)"), strides, pads, dilations)
        windows.check("(C3)")
        require(
            len(output_padding) == windows.rank and min(output_padding) >= 0,
            "(C3) output_padding has one entry of at least 0 a spatial dimension",
            got=output_padding,
        )
        check_groups(w.shape[0], groups, "(C4)")
        require(
            same_dim(x.shape[1], w.shape[0]),
            "(C5) the input channels are equal",
            expected=w.shape[0],
            got=x.shape[1],
        )
        out = _transposed_shape(x.shape[2:], windows, output_padding)
        require(
            all(not isinstance(d, int) or d >= 1 for d in out),
            "(C6) the output sizes are at least 1",
            got=list(out),
        )
        return x.with_shape((x.shape[0], w.shape[1] * groups, *out))

    @staticmethod
    def ref(
        x: np.ndarray,
        w: np.ndarray,
        *,
        strides: tuple[int, ...],
        pads: tuple[int, ...],
        dilations: tuple[int, ...],
        groups: int,
        output_padding: tuple[int, ...],
    ) -> np.ndarray:
        """Scatters the product of each tap."""
        windows = Windows(w.shape[2:], strides, pads, dilations)
        n, spatial = x.shape[0], x.shape[2:]
        out = static_part(_transposed_shape(spatial, windows, output_padding))
        xs = widen(x).reshape(n, groups, x.shape[1] // groups, *spatial)
        ws = widen(w).reshape(groups, w.shape[0] // groups, *w.shape[1:])
        rows = zip(windows.low, windows.high, out, strict=True)
        whole = np.zeros((n, groups, w.shape[1], *(o + lo + hi for lo, hi, o in rows)), xs.dtype)
        for tap in np.ndindex(*windows.kernel):
            part = np.einsum("ngc...,gco->ngo...", xs, ws[(..., *tap)])
            at: list[Any] = [
                slice(t * d, t * d + (size - 1) * s + 1, s)
                for t, d, s, size in zip(tap, dilations, strides, spatial, strict=True)
            ]
            whole[(..., *at)] += part
        crop: list[Any] = [slice(lo, lo + o) for lo, o in zip(windows.low, out, strict=True)]
        return whole[(..., *crop)].reshape(n, groups * w.shape[1], *out).astype(x.dtype)

    @staticmethod
    def decompose(
        b: Any,
        x: Value,
        w: Value,
        *,
        strides: tuple[int, ...],
        pads: tuple[int, ...],
        dilations: tuple[int, ...],
        groups: int,
        output_padding: tuple[int, ...],
    ) -> Value:
        """One convolution with all phases of the stride as channels, interleaved afterwards.

        Along a dimension, write a position of the full output as ``q*s + r``. Only the taps
        ``r + s*j`` of phase r reach it, from input position ``q - j``: phase r is a convolution
        with ``ceil(K/s)`` flipped taps. ``first`` is the lowest q that the cropped result needs.
        (Sub-pixel convolution: Shi et al., arXiv:1609.07009.)
        """
        from pjit.ir import ops

        windows = Windows(static_part(w.shape[2:]), strides, pads, dilations)
        out = _transposed_shape(x.shape[2:], windows, output_padding)
        spans, n = windows.spans, windows.rank
        taps = tuple(-(-k // s) for k, s in zip(spans, strides, strict=True))
        first = tuple(
            min(lo // s, j - 1) for lo, s, j in zip(windows.low, strides, taps, strict=True)
        )
        low = tuple(j - 1 - f for j, f in zip(taps, first, strict=True))
        rows = zip(spans, output_padding, windows.high, strides, strict=True)
        high = tuple(max(0, (k - 1 + extra - hi) // s) for k, extra, hi, s in rows)
        weight = _phase_weight(b, w, windows, taps, groups)
        y = b(
            ops.Conv,
            x,
            weight,
            strides=(1,) * n,
            pads=low + high,
            dilations=(1,) * n,
            groups=groups,
        )
        batch, per_group, grid = x.shape[0], w.shape[1], y.shape[2:]
        if max(strides) > 1:
            y = b(ops.Reshape, y, shape=(batch, groups, *strides, per_group, *grid))
            perm = (0, 1, 2 + n, *(i for d in range(n) for i in (3 + n + d, 2 + d)))
            y = b(ops.Transpose, y, perm=perm)
            fine = tuple(q * s for q, s in zip(grid, strides, strict=True))
            y = b(ops.Reshape, y, shape=(batch, groups * per_group, *fine))
        starts = tuple(lo - f * s for lo, f, s in zip(windows.low, first, strides, strict=True))
        if any(starts) or y.shape[2:] != out:
            y = b(
                ops.Slice,
                y,
                starts=(0, 0, *starts),
                sizes=(*y.shape[:2], *out),
                steps=(1,) * (n + 2),
            )
        return y

    samples = (
        sample(
            (2, 3, 5, 4),
            (3, 4, 3, 3),
            **geometry((2, 2), (1, 1, 1, 1)),
            output_padding=(1, 1),
            dtypes=FLOATS,
        ),
        sample(
            (1, 4, 4, 5),
            (4, 3, 2, 4),
            **geometry((3, 2), (0, 1, 0, 2), (2, 1)),
            groups=2,
            output_padding=(2, 0),
            dtypes=(f32,),
        ),
        sample((2, 2, 6), (2, 3, 4), **geometry((1,), (1, 0)), output_padding=(0,), dtypes=(f32,)),
        sample(
            (1, 2, 3, 2, 4),
            (2, 2, 2, 3, 1),
            **geometry((2, 1, 2), (0, 1, 0, 0, 0, 0)),
            output_padding=(0, 0, 1),
            dtypes=(f32,),
        ),
    )


def _phase_weight(b: Any, w: Value, windows: Windows, taps: tuple[int, ...], groups: int) -> Value:
    """Rearranges ``[C, O/G, kernel]`` to ``[G*phases*O/G, C/G, taps]``, flipped and zero-filled."""
    from pjit.ir import ops

    n, strides = windows.rank, windows.strides
    channels, per_group = w.shape[0] // groups, w.shape[1]
    lead = (groups, channels, per_group)
    if max(windows.dilations) > 1:
        for i, (size, d) in enumerate(zip(windows.kernel, windows.dilations, strict=True)):
            w = _spread(b, w, 2 + i, size, d)
    short = tuple(j * s - k for j, s, k in zip(taps, strides, windows.spans, strict=True))
    if any(short):
        w = b(ops.Pad, w, low=(0,) * (n + 2), high=(0, 0, *short))
    w = b(
        ops.Reshape,
        w,
        shape=(*lead, *(i for pair in zip(taps, strides, strict=True) for i in pair)),
    )
    if max(taps) > 1:
        flip = [2 * i + 3 for i, j in enumerate(taps) if j > 1]
        starts = tuple(w.shape[i] - 1 if i in flip else 0 for i in range(len(w.shape)))
        steps = tuple(-1 if i in flip else 1 for i in range(len(w.shape)))
        w = b(ops.Slice, w, starts=starts, sizes=tuple(w.shape), steps=steps)
    perm = (0, *(4 + 2 * i for i in range(n)), 2, 1, *(3 + 2 * i for i in range(n)))
    w = b(ops.Transpose, w, perm=perm)
    phases = int(np.prod(strides))
    return b(ops.Reshape, w, shape=(groups * phases * per_group, channels, *taps))


def _spread(b: Any, w: Value, axis: int, size: int, dilation: int) -> Value:
    """Puts ``dilation - 1`` zeros between the elements of an axis."""
    from pjit.ir import ops

    if dilation == 1:
        return w
    shape = list(w.shape)
    w = b(ops.Reshape, w, shape=(*shape[: axis + 1], 1, *shape[axis + 1 :]))
    zeros = [0] * len(w.shape)
    high = list(zeros)
    high[axis + 1] = dilation - 1
    w = b(ops.Pad, w, low=tuple(zeros), high=tuple(high))
    shape[axis] = size * dilation
    w = b(ops.Reshape, w, shape=tuple(shape))
    sizes = list(shape)
    sizes[axis] = (size - 1) * dilation + 1
    return b(ops.Slice, w, starts=(0,) * len(shape), sizes=tuple(sizes), steps=(1,) * len(shape))


def _transposed_shape(
    spatial: tuple[Dim, ...], windows: Windows, output_padding: tuple[int, ...]
) -> tuple[Dim, ...]:
    rows = zip(
        spatial,
        windows.strides,
        windows.spans,
        windows.low,
        windows.high,
        output_padding,
        strict=True,
    )
    return tuple((size - 1) * s + k - lo - hi + extra for size, s, k, lo, hi, extra in rows)


__all__ = ["ConvTranspose"]
