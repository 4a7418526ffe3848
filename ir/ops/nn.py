"""Convolutions.

Activations are ``[N, C, spatial...]`` unless the operator says channels-last. ``pads`` are in ONNX
order: all lows, then all highs. No operator has a bias: a bias is an ``add``. 16-bit floats are
summed in f32 and rounded once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pjit.ir import expr
from pjit.ir.core import Value
from pjit.ir.errors import require
from pjit.ir.expr import Dim, flatten, unflatten
from pjit.ir.kernel_builder import Puller
from pjit.ir.loops import Tile
from pjit.ir.opdef import OpDef, attr, operand, same_dim, sample
from pjit.ir.ops.linalg import PACKED
from pjit.ir.ops.windows import Windows, accumulator, geometry, widen
from pjit.ir.types import FLOATS, NUMERIC, TensorType, f32, f64, i32

SPATIAL = (1, 2, 3)  # numbers of spatial dimensions
MERGED_DEPTH = 16  # with fewer channels, the last kernel dimension joins the depth of a tile


def check_rank(x: TensorType, kernel: tuple, constraint: str) -> None:
    require(
        len(kernel) in SPATIAL and x.rank == len(kernel) + 2,
        f"{constraint} x has a batch, a channel and the 1 to 3 spatial dimensions of the kernel",
        got=f"{x} and a kernel of {len(kernel)} dimensions",
    )


def check_groups(channels: Dim, groups: int, constraint: str) -> None:
    require(
        groups == 1 or (groups > 1 and isinstance(channels, int) and channels % groups == 0),
        f"{constraint} groups divides the channels",
        expected=f"a multiple of {groups}",
        got=channels,
    )


class Conv(OpDef, name="nn.conv"):
    """Convolution (cross-correlation) of x with w.

    ``x`` is ``[N, C, spatial...]``, ``w`` is ``[O, C/groups, kernel...]``, and
    ``y[n, o, p] = sum over c, t of x[n, first + c, p*strides + t*dilations - low] * w[o, c, t]``
    with first the first channel of the group of o; x is zero outside. An output size is
    ``(H + low + high - dilation*(kernel - 1) - 1)//stride + 1``.

    (C1) Both operands have one dtype.
    (C2) x has a batch, a channel and 1 to 3 spatial dimensions; w has the same rank.
    (C3) The kernel sizes are static; strides, dilations >= 1 and pads >= 0 have the right lengths.
    (C4) groups divides the output channels.
    (C5) C equals groups times the second dimension of w.
    (C6) The window fits into the padded input.
    """

    x = operand(NUMERIC)
    w = operand(NUMERIC)
    strides = attr()
    pads = attr()
    dilations = attr()
    groups = attr(1)
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
    ) -> TensorType:
        """``[N, O, out...]``."""
        require(x.dtype == w.dtype, "(C1) the operands have one dtype", got=f"{x} and {w}")
        check_rank(x, w.shape[2:], "(C2)")
        windows = Windows(static_kernel(w.shape[2:], "(C3)"), strides, pads, dilations)
        windows.check("(C3)")
        check_groups(w.shape[0], groups, "(C4)")
        require(
            same_dim(x.shape[1], w.shape[1] * groups),
            "(C5) x has groups times the input channels of w",
            expected=w.shape[1] * groups,
            got=x.shape[1],
        )
        return x.with_shape((x.shape[0], w.shape[0], *windows.out_shape(x.shape[2:], "(C6)")))

    @staticmethod
    def ref(
        x: np.ndarray,
        w: np.ndarray,
        *,
        strides: tuple[int, ...],
        pads: tuple[int, ...],
        dilations: tuple[int, ...],
        groups: int,
    ) -> np.ndarray:
        """A patch matrix times the weight matrix, by group."""
        windows = Windows(w.shape[2:], strides, pads, dilations)
        spatial, n = windows.rank, x.shape[0]
        out = static_part(windows.out_shape(x.shape[2:], "(C6)"))
        view = windows.view(widen(x), out)  # [n, c, out, kernel]
        view = view.reshape(n, groups, w.shape[1], *view.shape[2:])
        order = (0, 1, *range(3, 3 + spatial), 2, *range(3 + spatial, 3 + 2 * spatial))
        rows, depth = int(np.prod(out)), int(np.prod(w.shape[1:]))
        patches = view.transpose(order).reshape(n, groups, rows, depth)
        matrix = widen(w).reshape(groups, w.shape[0] // groups, depth)
        y = np.matmul(matrix, patches.swapaxes(2, 3))  # [n, groups, o, rows]
        return y.reshape(n, w.shape[0], *out).astype(x.dtype)

    @property
    def windows(self) -> Windows:
        """The geometry."""
        return Windows(self.w.tensor.shape[2:], self.strides, self.pads, self.dilations)

    def element(self, k: Puller, index: tuple[Dim, ...]) -> Value:
        """A sum over the channels of the group and the taps."""
        x, w, windows = self.x.tensor, self.w.tensor, self.windows
        n, o, *at = index
        per_group = w.shape[1]
        first = 0 if self.groups == 1 else o // (w.shape[0] // self.groups) * per_group
        acc = accumulator(x.dtype)

        def term(i: Any) -> Value:
            source = windows.position(at, i[1:])
            return k.b.mul(
                k.guarded(
                    windows.guards(source, x.shape[2:]),
                    lambda: k.b.cast(k.read(self.x, (n, first + i[0], *source)), acc),
                    0.0,
                ),
                k.b.cast(k.read(self.w, (o, *i)), acc),
            )

        return k.b.cast(k.reduce("add", (per_group, *windows.kernel), term, acc), x.dtype)

    samples = (
        sample((1, 3, 8, 9), (4, 3, 3, 3), **geometry((1, 1), (1, 1, 1, 1)), dtypes=(*FLOATS, i32)),
        sample(
            (3, 4, 9, 7),
            (6, 2, 3, 2),
            **geometry((2, 3), (0, 1, 2, 1), (2, 1)),
            groups=2,
            dtypes=(f32, f64),
        ),
        sample((2, 3, 6, 6), (3, 1, 3, 3), **geometry((1, 1), (1,) * 4), groups=3, dtypes=(f32,)),
        sample((2, 5, 7, 5), (8, 5, 1, 1), **geometry((1, 1)), dtypes=(f32,)),
        sample((2, 3, 17), (5, 3, 4), **geometry((2,), (2, 1), (3,)), dtypes=(f32,)),
        sample(
            (1, 2, 5, 6, 4),
            (3, 2, 2, 3, 1),
            **geometry((1, 2, 1), (1, 0, 0, 0, 2, 1)),
            dtypes=(f32,),
        ),
        sample((0, 2, 5, 5), (3, 2, 3, 3), **geometry((1, 1)), dtypes=(f32,)),
    )


class PackWeights(OpDef, name="nn.pack_weights"):
    """Packs the weight of a convolution for ``nn.conv_packed``.

    ``[O, C/G, kernel...]`` becomes ``[G, blocks, taps*C/G, nr]``. A row of a block is one tap and
    one channel (taps outer, channels inner), a column an output channel of the group. There are
    ceil(O/G/nr) blocks, and the missing columns are zero.

    (C1) The operand has 3 to 5 dimensions.
    (C2) groups divides the output channels.
    (C3) nr is at least 1.
    """

    w = operand(NUMERIC)
    groups = attr(1)
    nr = attr(doc="columns in a block")
    __slots__ = ()

    @staticmethod
    def infer(w: TensorType, *, groups: int, nr: int) -> TensorType:
        """``[G, blocks, taps*C/G, nr]``."""
        require(w.rank - 2 in SPATIAL, "(C1) the weight has 1 to 3 spatial dimensions", got=w)
        check_groups(w.shape[0], groups, "(C2)")
        require(nr >= 1, "(C3) nr is at least 1", got=nr)
        blocks = expr.ceildiv(w.shape[0] // groups, nr)
        return w.with_shape((groups, blocks, expr.product(w.shape[1:]), nr))

    @staticmethod
    def ref(w: np.ndarray, *, groups: int, nr: int) -> np.ndarray:
        """Moves the channels last, pads the output channels and splits them."""
        cols, depth = w.shape[0] // groups, int(np.prod(w.shape[1:]))
        rows = np.moveaxis(w, 1, -1).reshape(groups, cols, depth)
        blocks = -(-cols // nr)
        padded = rows
        if cols % nr:
            padded = np.zeros((groups, blocks * nr, depth), w.dtype)
            padded[:, :cols] = rows
        return padded.reshape(groups, blocks, nr, depth).swapaxes(2, 3)

    def element(self, k: Puller, index: tuple[Dim, ...]) -> Value:
        """A copy, or zero past the last output channel of the group."""
        w = self.w.tensor
        g, block, row, j = index
        cols, channels = w.shape[0] // self.groups, w.shape[1]
        o = block * self.nr + j
        taps = unflatten(row // channels, w.shape[2:])
        source = (g * cols + o, row % channels, *taps)
        return k.guarded(((o, cols),), lambda: k.read(self.w, source), 0.0)

    samples = (
        sample((10, 3, 3, 2), groups=1, nr=4, dtypes=(*FLOATS, i32)),
        sample((6, 2, 3, 3), groups=3, nr=8, dtypes=(f32,)),
        sample((8, 5, 1, 1), groups=1, nr=8, dtypes=(f32,)),
        sample((5, 3, 4), groups=1, nr=2, dtypes=(f32,)),
        sample((4, 2, 2, 1, 3), groups=2, nr=2, dtypes=(f32,)),
    )


class ConvPacked(OpDef, name="nn.conv_packed"):
    """``nn.conv`` on channels-last tensors with a packed weight: a tile contraction.

    ``x`` is ``[N, spatial..., C]``, ``wp`` comes from ``nn.pack_weights``, the result is
    ``[N, out..., out_channels]``.

    (C1) Both operands have one dtype.
    (C2) x has a batch, 1 to 3 spatial dimensions and channels.
    (C3) Kernel, strides, dilations >= 1 and pads >= 0 have the right lengths.
    (C4) groups divides the input and the output channels.
    (C5) wp is ``[groups, ceil(out_channels/groups/nr), taps*C/groups, nr]``.
    (C6) The window fits into the padded input.
    """

    x = operand(PACKED)
    wp = operand(PACKED)
    kernel = attr()
    strides = attr()
    pads = attr()
    dilations = attr()
    groups = attr(1)
    out_channels = attr()
    __slots__ = ()

    @staticmethod
    def infer(
        x: TensorType,
        wp: TensorType,
        *,
        kernel: tuple[int, ...],
        strides: tuple[int, ...],
        pads: tuple[int, ...],
        dilations: tuple[int, ...],
        groups: int,
        out_channels: int,
    ) -> TensorType:
        """``[N, out..., out_channels]``."""
        require(x.dtype == wp.dtype, "(C1) the operands have one dtype", got=f"{x} and {wp}")
        check_rank(x, kernel, "(C2)")
        windows = Windows(kernel, strides, pads, dilations)
        windows.check("(C3)")
        check_groups(x.shape[-1], groups, "(C4)")
        check_groups(out_channels, groups, "(C4)")
        require(wp.rank == 4, "(C5) wp has four dimensions", got=wp)
        blocks = expr.ceildiv(out_channels // groups, wp.shape[3])
        depth = expr.product(kernel) * (x.shape[-1] // groups)
        expected = (groups, blocks, depth, wp.shape[3])
        require(
            all(same_dim(d, e) for d, e in zip(wp.shape, expected, strict=True)),
            "(C5) wp is [groups, ceil(out_channels/groups/nr), taps*C/groups, nr]",
            expected=list(expected),
            got=wp,
        )
        out = windows.out_shape(x.shape[1:-1], "(C6)")
        return x.with_shape((x.shape[0], *out, out_channels))

    @staticmethod
    def ref(
        x: np.ndarray,
        wp: np.ndarray,
        *,
        kernel: tuple[int, ...],
        strides: tuple[int, ...],
        pads: tuple[int, ...],
        dilations: tuple[int, ...],
        groups: int,
        out_channels: int,
    ) -> np.ndarray:
        """Unpacks and convolves."""
        _, blocks, depth, nr = wp.shape
        cols = out_channels // groups
        rows = wp.swapaxes(2, 3).reshape(groups, blocks * nr, depth)[:, :cols]
        w = np.moveaxis(rows.reshape(out_channels, *kernel, x.shape[-1] // groups), -1, 1)
        given = geometry(strides, pads, dilations)
        y = Conv.ref(np.moveaxis(x, -1, 1), w, groups=groups, **given)
        return np.ascontiguousarray(np.moveaxis(y, 1, -1))

    def tile(self) -> Tile:
        """Rows are the output pixels, taps the kernel dimensions above 1.

        Where the output pixels are the input pixels (a kernel of ones, no stride or padding), the
        rows are one dimension. Where the last kernel dimension reads contiguous memory and there
        are few channels, it is part of the depth.
        """
        x, out = self.x.tensor, self.type
        windows = Windows(self.kernel, self.strides, self.pads, self.dilations)
        per_group, cols = x.shape[-1] // self.groups, self.out_channels // self.groups
        lead = out.shape[:-1]
        pointwise = max(self.kernel) == 1 and max(self.strides) == 1 and max(self.pads) == 0
        if pointwise:
            return Tile(
                batch=(self.groups,),
                rows=(expr.product(lead),),
                taps=(),
                depth=per_group,
                cols=cols,
                a_index=lambda g, r, t, k: (*unflatten(r[0], lead), g[0] * per_group + k),
                a_guards=lambda g, r, t: (),
                b_index=lambda g, n, t, k, c: (g[0], n, k, c),
                out_index=lambda g, r, c: (*unflatten(r[0], lead), g[0] * cols + c),
            )
        width = self.kernel[-1]
        merged = (
            width > 1
            and self.groups == 1
            and self.dilations[-1] == 1
            and windows.low[-1] == windows.high[-1] == 0
            and isinstance(per_group, int)
            and per_group < MERGED_DEPTH
        )
        outer = self.kernel[:-1] if merged else self.kernel
        walked = [i for i, size in enumerate(outer) if size > 1]

        def full(t: Any) -> tuple[Dim, ...]:
            taps: list[Dim] = [0] * len(self.kernel)
            for i, tap in zip(walked, t, strict=True):
                taps[i] = tap
            return tuple(taps)

        def a_index(g: Any, r: Any, t: Any, k: Any) -> tuple[Dim, ...]:
            *source, last = windows.position(r[1:], full(t))
            if merged:
                return (r[0], *source, last + k // per_group, k % per_group)
            return (r[0], *source, last, g[0] * per_group + k)

        def a_guards(g: Any, r: Any, t: Any) -> tuple[tuple[Dim, Dim], ...]:
            return windows.guards(windows.position(r[1:], full(t)), x.shape[1:-1])

        depth = width * per_group if merged else per_group

        def b_index(g: Any, n: Any, t: Any, k: Any, c: Any) -> tuple[Dim, ...]:
            tap = flatten(full(t)[: len(outer)], outer)
            return (g[0], n, tap * depth + k, c)

        return Tile(
            batch=(self.groups,),
            rows=lead,
            taps=tuple(outer[i] for i in walked),
            depth=depth,
            cols=cols,
            a_index=a_index,
            a_guards=a_guards,
            b_index=b_index,
            out_index=lambda g, r, c: (*r, g[0] * cols + c),
        )

    samples = (
        sample(
            (1, 8, 9, 3),
            (1, 2, 27, 8),
            kernel=(3, 3),
            **geometry((1, 1), (1, 1, 1, 1)),
            out_channels=12,
            dtypes=PACKED,
        ),
        sample(
            (2, 11, 10, 3),
            (1, 1, 63, 16),
            kernel=(7, 3),
            **geometry((2, 2), (3, 0, 2, 0)),
            out_channels=16,
            dtypes=(f32,),
        ),
        sample(
            (3, 9, 7, 4),
            (2, 1, 12, 4),
            kernel=(3, 2),
            **geometry((2, 3), (0, 1, 2, 1), (2, 1)),
            groups=2,
            out_channels=6,
            dtypes=(f32,),
        ),
        sample(
            (3, 7, 5, 20),
            (1, 3, 20, 16),
            kernel=(1, 1),
            **geometry((1, 1)),
            out_channels=40,
            dtypes=(f32,),
        ),
        sample(
            (2, 7, 5, 4),
            (2, 1, 2, 8),
            kernel=(1, 1),
            **geometry((2, 2)),
            groups=2,
            out_channels=6,
            dtypes=(f32,),
        ),
        sample(
            (2, 6, 6, 18),
            (1, 1, 54, 8),
            kernel=(1, 3),
            **geometry((1, 1), (0, 1, 0, 1)),
            out_channels=5,
            dtypes=(f32,),
        ),
        sample(
            (2, 17, 3),
            (1, 2, 12, 4),
            kernel=(4,),
            **geometry((2,), (2, 1), (3,)),
            out_channels=5,
            dtypes=(f32,),
        ),
        sample(
            (1, 5, 6, 4, 2),
            (1, 1, 12, 4),
            kernel=(2, 3, 1),
            **geometry((1, 2, 1), (1, 0, 0, 0, 2, 1)),
            out_channels=3,
            dtypes=(f32,),
        ),
        sample(
            (0, 5, 5, 2),
            (1, 1, 18, 4),
            kernel=(3, 3),
            **geometry((1, 1)),
            out_channels=3,
            dtypes=(f32,),
        ),
    )


class Depthwise(OpDef, name="nn.depthwise"):
    """A convolution of each channel by itself, channels-last.

    ``x`` is ``[N, spatial..., C]``, ``w`` is ``[kernel..., C]``.

    (C1) Both operands have one dtype.
    (C2) x has a batch, 1 to 3 spatial dimensions and channels; w has the rank of x less one.
    (C3) The kernel sizes are static; strides, dilations >= 1 and pads >= 0 have the right lengths.
    (C4) The channels are equal.
    (C5) The window fits into the padded input.
    """

    x = operand(NUMERIC)
    w = operand(NUMERIC)
    strides = attr()
    pads = attr()
    dilations = attr()
    __slots__ = ()

    @staticmethod
    def infer(
        x: TensorType,
        w: TensorType,
        *,
        strides: tuple[int, ...],
        pads: tuple[int, ...],
        dilations: tuple[int, ...],
    ) -> TensorType:
        """``[N, out..., C]``."""
        require(x.dtype == w.dtype, "(C1) the operands have one dtype", got=f"{x} and {w}")
        check_rank(x, w.shape[:-1], "(C2)")
        windows = Windows(static_kernel(w.shape[:-1], "(C3)"), strides, pads, dilations)
        windows.check("(C3)")
        require(
            same_dim(x.shape[-1], w.shape[-1]),
            "(C4) the channels are equal",
            expected=x.shape[-1],
            got=w.shape[-1],
        )
        out = windows.out_shape(x.shape[1:-1], "(C5)")
        return x.with_shape((x.shape[0], *out, x.shape[-1]))

    @staticmethod
    def ref(
        x: np.ndarray,
        w: np.ndarray,
        *,
        strides: tuple[int, ...],
        pads: tuple[int, ...],
        dilations: tuple[int, ...],
    ) -> np.ndarray:
        """A sum over the windows of each channel."""
        windows = Windows(w.shape[:-1], strides, pads, dilations)
        out = static_part(windows.out_shape(x.shape[1:-1], "(C5)"))
        view = windows.view(np.moveaxis(widen(x), -1, 1), out)  # [n, c, out, kernel]
        taps = np.moveaxis(widen(w), -1, 0).reshape(
            w.shape[-1], *(1,) * windows.rank, *windows.kernel
        )
        axes = tuple(range(-windows.rank, 0))
        y = (view * taps).sum(axes, dtype=view.dtype)
        return np.moveaxis(y, 1, -1).astype(x.dtype)

    def element(self, k: Puller, index: tuple[Dim, ...]) -> Value:
        """A sum over the taps."""
        x = self.x.tensor
        windows = Windows(self.w.tensor.shape[:-1], self.strides, self.pads, self.dilations)
        n, *at, c = index
        acc = accumulator(x.dtype)

        def term(taps: Any) -> Value:
            source = windows.position(at, taps)
            return k.b.mul(
                k.guarded(
                    windows.guards(source, x.shape[1:-1]),
                    lambda: k.b.cast(k.read(self.x, (n, *source, c)), acc),
                    0.0,
                ),
                k.b.cast(k.read(self.w, (*taps, c)), acc),
            )

        return k.b.cast(k.reduce("add", windows.kernel, term, acc), x.dtype)

    samples = (
        sample((1, 8, 9, 5), (3, 3, 5), **geometry((1, 1), (1,) * 4), dtypes=(*FLOATS, i32)),
        sample(
            (3, 9, 7, 16), (3, 2, 16), **geometry((2, 3), (0, 1, 2, 1), (2, 1)), dtypes=(f32, f64)
        ),
        sample((2, 17, 3), (4, 3), **geometry((2,), (2, 1), (3,)), dtypes=(f32,)),
        sample(
            (1, 4, 5, 6, 3), (2, 3, 1, 3), **geometry((1, 2, 1), (1, 0, 0, 0, 2, 1)), dtypes=(f32,)
        ),
        sample((2, 6, 6, 40), (5, 5, 40), **geometry((2, 2)), dtypes=(f32,)),
        sample((0, 6, 6, 4), (3, 3, 4), **geometry((1, 1), (1,) * 4), dtypes=(f32,)),
    )


def static_kernel(dims: tuple[Dim, ...], constraint: str) -> tuple[int, ...]:
    found = static_part(dims)
    require(len(found) == len(dims), f"{constraint} the kernel sizes are static", got=list(dims))
    return found


def static_part(dims: tuple[Dim, ...]) -> tuple[int, ...]:
    return tuple(d for d in dims if isinstance(d, int))


__all__ = ["Conv", "ConvPacked", "Depthwise", "PackWeights"]
