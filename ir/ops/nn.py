"""Convolutions.

Activations are ``[N, C, spatial...]`` unless the operator says channels-last. ``pads`` are in ONNX order: all lows,
then all highs. No operator has a bias: a bias is an ``add``. 16-bit floats are summed in f32 and rounded once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pjit.ir import expr
from pjit.ir.core import Value
from pjit.ir.errors import require
from pjit.ir.expr import Dim
from pjit.ir.loops import Puller, Tile
from pjit.ir.opdef import OpDef, attr, operand, same_dim, sample
from pjit.ir.ops.linalg import PACKED
from pjit.ir.ops.windows import Windows, accumulator, delinearise, linearise, widen
from pjit.ir.types import FLOATS, NUMERIC, TensorType, f32, f64, i32

SPATIAL = (1, 2, 3)  # numbers of spatial dimensions
MERGED_DEPTH = 16  # channels below which the last kernel dimension joins the depth of a tile


def _check_rank(x: TensorType, kernel: tuple, constraint: str) -> None:
    require(
        len(kernel) in SPATIAL and x.rank == len(kernel) + 2,
        f"{constraint} x has a batch, a channel and 1 to 3 spatial dimensions, as many as the kernel",
        got=f"{x} and a kernel of {len(kernel)} dimensions",
    )


def _check_groups(channels: Dim, groups: int, constraint: str) -> None:
    require(
        groups == 1 or (groups > 1 and isinstance(channels, int) and channels % groups == 0),
        f"{constraint} groups divides the channels",
        expected=f"a multiple of {groups}",
        got=channels,
    )


class Conv(OpDef, name="nn.conv"):
    """Convolution (cross-correlation) of ``x`` ``[N, C, spatial...]`` with ``w`` ``[O, C/groups, kernel...]``.

    ``y[n, o, p] = sum over c, t of x[n, g*C/groups + c, p*strides + t*dilations - low] * w[o, c, t]`` with g the group
    of output channel o; x is zero outside. An output size is ``(H + low + high - dilation*(kernel - 1) - 1)//stride + 1``.

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
        _check_rank(x, w.shape[2:], "(C2)")
        windows = Windows(_static(w.shape[2:], "(C3)"), strides, pads, dilations)
        windows.check("(C3)")
        _check_groups(w.shape[0], groups, "(C4)")
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
        out = _ints(windows.out_shape(x.shape[2:], "(C6)"))
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
        sample(
            (1, 3, 8, 9),
            (4, 3, 3, 3),
            strides=(1, 1),
            pads=(1, 1, 1, 1),
            dilations=(1, 1),
            dtypes=(*FLOATS, i32),
        ),
        sample(
            (3, 4, 9, 7),
            (6, 2, 3, 2),
            strides=(2, 3),
            pads=(0, 1, 2, 1),
            dilations=(2, 1),
            groups=2,
            dtypes=(f32, f64),
        ),
        sample(
            (2, 3, 6, 6), (3, 1, 3, 3), strides=(1, 1), pads=(1,) * 4, dilations=(1, 1), groups=3, dtypes=(f32,)
        ),
        sample((2, 5, 7, 5), (8, 5, 1, 1), strides=(1, 1), pads=(0,) * 4, dilations=(1, 1), dtypes=(f32,)),
        sample((2, 3, 17), (5, 3, 4), strides=(2,), pads=(2, 1), dilations=(3,), dtypes=(f32,)),
        sample(
            (1, 2, 5, 6, 4),
            (3, 2, 2, 3, 1),
            strides=(1, 2, 1),
            pads=(1, 0, 0, 0, 2, 1),
            dilations=(1, 1, 1),
            dtypes=(f32,),
        ),
        sample((0, 2, 5, 5), (3, 2, 3, 3), strides=(1, 1), pads=(0,) * 4, dilations=(1, 1), dtypes=(f32,)),
    )


class PackWeights(OpDef, name="nn.pack_weights"):
    """Packs the weight of a convolution for ``nn.conv_packed``: ``[O, C/G, kernel...]`` to ``[G, blocks, taps*C/G, nr]``.

    A row of a block is one tap and one channel (taps outer, channels inner), a column an output channel of the group;
    blocks = ceil(O/G/nr) and the missing columns are zero.

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
        _check_groups(w.shape[0], groups, "(C2)")
        require(nr >= 1, "(C3) nr is at least 1", got=nr)
        blocks = expr.ceildiv(w.shape[0] // groups, nr)
        return w.with_shape((groups, blocks, expr.product(w.shape[1:]), nr))

    @staticmethod
    def ref(w: np.ndarray, *, groups: int, nr: int) -> np.ndarray:
        """Moves the channels last, pads the output channels and splits them."""
        cols, depth = w.shape[0] // groups, int(np.prod(w.shape[1:]))
        rows = np.moveaxis(w, 1, -1).reshape(groups, cols, depth)
        blocks = -(-cols // nr)
        padded = np.zeros((groups, blocks * nr, depth), w.dtype)
        padded[:, :cols] = rows
        return np.ascontiguousarray(padded.reshape(groups, blocks, nr, depth).swapaxes(2, 3))

    def element(self, k: Puller, index: tuple[Dim, ...]) -> Value:
        """A copy, or zero past the last output channel of the group."""
        w = self.w.tensor
        g, block, row, j = index
        cols, channels = w.shape[0] // self.groups, w.shape[1]
        o = block * self.nr + j
        taps = delinearise(row // channels, w.shape[2:])
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

    ``x`` is ``[N, spatial..., C]``, ``wp`` comes from ``nn.pack_weights``, the result is ``[N, out..., out_channels]``.

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
        _check_rank(x, kernel, "(C2)")
        windows = Windows(kernel, strides, pads, dilations)
        windows.check("(C3)")
        _check_groups(x.shape[-1], groups, "(C4)")
        _check_groups(out_channels, groups, "(C4)")
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
        geometry: dict[str, Any] = {"strides": strides, "pads": pads, "dilations": dilations}
        y = Conv.ref(np.moveaxis(x, -1, 1), w, groups=groups, **geometry)
        return np.ascontiguousarray(np.moveaxis(y, 1, -1))

    def tile(self) -> Tile:
        """Rows are the output pixels, taps the kernel dimensions above 1.

        Where the output pixels are the input pixels (a kernel of ones, no stride or padding), the rows are one
        dimension. Where the last kernel dimension reads contiguous memory and there are few channels, it is part of the
        depth.
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
                a_index=lambda g, r, t, k: (*delinearise(r[0], lead), g[0] * per_group + k),
                a_guards=lambda g, r, t: (),
                b_index=lambda g, n, t, k, c: (g[0], n, k, c),
                out_index=lambda g, r, c: (*delinearise(r[0], lead), g[0] * cols + c),
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
            tap = linearise(full(t)[: len(outer)], outer)
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
            strides=(1, 1),
            pads=(1, 1, 1, 1),
            dilations=(1, 1),
            out_channels=12,
            dtypes=PACKED,
        ),
        sample(
            (2, 11, 10, 3),
            (1, 1, 63, 16),
            kernel=(7, 3),
            strides=(2, 2),
            pads=(3, 0, 2, 0),
            dilations=(1, 1),
            out_channels=16,
            dtypes=(f32,),
        ),
        sample(
            (3, 9, 7, 4),
            (2, 1, 12, 4),
            kernel=(3, 2),
            strides=(2, 3),
            pads=(0, 1, 2, 1),
            dilations=(2, 1),
            groups=2,
            out_channels=6,
            dtypes=(f32,),
        ),
        sample(
            (3, 7, 5, 20),
            (1, 3, 20, 16),
            kernel=(1, 1),
            strides=(1, 1),
            pads=(0,) * 4,
            dilations=(1, 1),
            out_channels=40,
            dtypes=(f32,),
        ),
        sample(
            (2, 7, 5, 4),
            (2, 1, 2, 8),
            kernel=(1, 1),
            strides=(2, 2),
            pads=(0,) * 4,
            dilations=(1, 1),
            groups=2,
            out_channels=6,
            dtypes=(f32,),
        ),
        sample(
            (2, 6, 6, 18),
            (1, 1, 54, 8),
            kernel=(1, 3),
            strides=(1, 1),
            pads=(0, 1, 0, 1),
            dilations=(1, 1),
            out_channels=5,
            dtypes=(f32,),
        ),
        sample(
            (2, 17, 3),
            (1, 2, 12, 4),
            kernel=(4,),
            strides=(2,),
            pads=(2, 1),
            dilations=(3,),
            out_channels=5,
            dtypes=(f32,),
        ),
        sample(
            (1, 5, 6, 4, 2),
            (1, 1, 12, 4),
            kernel=(2, 3, 1),
            strides=(1, 2, 1),
            pads=(1, 0, 0, 0, 2, 1),
            dilations=(1, 1, 1),
            out_channels=3,
            dtypes=(f32,),
        ),
        sample(
            (0, 5, 5, 2),
            (1, 1, 18, 4),
            kernel=(3, 3),
            strides=(1, 1),
            pads=(0,) * 4,
            dilations=(1, 1),
            out_channels=3,
            dtypes=(f32,),
        ),
    )


class Depthwise(OpDef, name="nn.depthwise"):
    """A convolution of each channel by itself: ``x`` ``[N, spatial..., C]``, ``w`` ``[kernel..., C]``, channels-last.

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
        _check_rank(x, w.shape[:-1], "(C2)")
        windows = Windows(_static(w.shape[:-1], "(C3)"), strides, pads, dilations)
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
        out = _ints(windows.out_shape(x.shape[1:-1], "(C5)"))
        view = windows.view(np.moveaxis(widen(x), -1, 1), out)  # [n, c, out, kernel]
        taps = np.moveaxis(widen(w), -1, 0).reshape(w.shape[-1], *(1,) * windows.rank, *windows.kernel)
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
        sample((1, 8, 9, 5), (3, 3, 5), strides=(1, 1), pads=(1,) * 4, dilations=(1, 1), dtypes=(*FLOATS, i32)),
        sample((3, 9, 7, 16), (3, 2, 16), strides=(2, 3), pads=(0, 1, 2, 1), dilations=(2, 1), dtypes=(f32, f64)),
        sample((2, 17, 3), (4, 3), strides=(2,), pads=(2, 1), dilations=(3,), dtypes=(f32,)),
        sample(
            (1, 4, 5, 6, 3),
            (2, 3, 1, 3),
            strides=(1, 2, 1),
            pads=(1, 0, 0, 0, 2, 1),
            dilations=(1, 1, 1),
            dtypes=(f32,),
        ),
        sample((2, 6, 6, 40), (5, 5, 40), strides=(2, 2), pads=(0,) * 4, dilations=(1, 1), dtypes=(f32,)),
        sample((0, 6, 6, 4), (3, 3, 4), strides=(1, 1), pads=(1,) * 4, dilations=(1, 1), dtypes=(f32,)),
    )


class ConvTranspose(OpDef, name="nn.conv_transpose"):
    """Transposed convolution of ``x`` ``[N, C, spatial...]`` with ``w`` ``[C, O/groups, kernel...]``.

    Input position i adds ``x[i] * w[t]`` to output position ``i*stride + t*dilation - low``. An output size is
    ``(H - 1)*stride + dilation*(kernel - 1) + 1 - low - high + output_padding``.

    (C1) Both operands have one dtype.
    (C2) x has a batch, a channel and 1 to 3 spatial dimensions; w has the same rank.
    (C3) The kernel sizes are static; strides, dilations >= 1 and pads, output_padding >= 0 have the right lengths.
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
        _check_rank(x, w.shape[2:], "(C2)")
        windows = Windows(_static(w.shape[2:], "(C3)"), strides, pads, dilations)
        windows.check("(C3)")
        require(
            len(output_padding) == windows.rank and min(output_padding) >= 0,
            "(C3) output_padding has one entry of at least 0 a spatial dimension",
            got=output_padding,
        )
        _check_groups(w.shape[0], groups, "(C4)")
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
        out = _ints(_transposed_shape(spatial, windows, output_padding))
        xs = widen(x).reshape(n, groups, x.shape[1] // groups, *spatial)
        ws = widen(w).reshape(groups, w.shape[0] // groups, *w.shape[1:])
        rows = zip(windows.low, windows.high, out, strict=True)
        whole = np.zeros((n, groups, w.shape[1], *(o + lo + hi for lo, hi, o in rows)), xs.dtype)
        for tap in np.ndindex(*windows.kernel):
            part = np.einsum("ngc...,gco->ngo...", xs, ws[(..., *tap)])
            at = [
                slice(t * d, t * d + (size - 1) * s + 1, s)
                for t, d, s, size in zip(tap, dilations, strides, spatial, strict=True)
            ]
            whole[(..., *at)] += part
        crop = [slice(lo, lo + o) for lo, o in zip(windows.low, out, strict=True)]
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
        """One convolution that computes all phases of the stride as channels, interleaved afterwards.

        Along a dimension, write a position of the full output as ``q*s + r``. Only the taps ``r + s*j`` of phase r
        reach it, from input position ``q - j``: phase r is a convolution with ``J = ceil(K/s)`` flipped taps. ``first`` is
        the lowest q that the cropped result needs. (Sub-pixel convolution: Shi et al., arXiv:1609.07009.)
        """
        from pjit.ir import ops

        windows = Windows(w.tensor.shape[2:], strides, pads, dilations)
        out = _transposed_shape(x.shape[2:], windows, output_padding)
        spans, n = windows.spans, windows.rank
        taps = tuple(-(-k // s) for k, s in zip(spans, strides, strict=True))
        first = tuple(min(lo // s, j - 1) for lo, s, j in zip(windows.low, strides, taps, strict=True))
        low = tuple(j - 1 - f for j, f in zip(taps, first, strict=True))
        rows = zip(spans, output_padding, windows.high, strides, strict=True)
        high = tuple(max(0, (k - 1 + extra - hi) // s) for k, extra, hi, s in rows)
        weight = _phase_weight(b, w, windows, taps, groups)
        y = b(
            ops.Conv, x, weight, strides=(1,) * n, pads=low + high, dilations=(1,) * n, groups=groups
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
            strides=(2, 2),
            pads=(1, 1, 1, 1),
            dilations=(1, 1),
            output_padding=(1, 1),
            dtypes=FLOATS,
        ),
        sample(
            (1, 4, 4, 5),
            (4, 3, 2, 4),
            strides=(3, 2),
            pads=(0, 1, 0, 2),
            dilations=(2, 1),
            groups=2,
            output_padding=(2, 0),
            dtypes=(f32,),
        ),
        sample(
            (2, 2, 6),
            (2, 3, 4),
            strides=(1,),
            pads=(1, 0),
            dilations=(1,),
            output_padding=(0,),
            dtypes=(f32,),
        ),
        sample(
            (1, 2, 3, 2, 4),
            (2, 2, 2, 3, 1),
            strides=(2, 1, 2),
            pads=(0, 1, 0, 0, 0, 0),
            dilations=(1, 1, 1),
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
    w = b(ops.Reshape, w, shape=(*lead, *(i for pair in zip(taps, strides, strict=True) for i in pair)))
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
    return b(
        ops.Slice, w, starts=(0,) * len(shape), sizes=tuple(sizes), steps=(1,) * len(shape)
    )


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


def _static(dims: tuple[Dim, ...], constraint: str) -> tuple[int, ...]:
    found = _ints(dims)
    require(len(found) == len(dims), f"{constraint} the kernel sizes are static", got=list(dims))
    return found


def _ints(dims: tuple[Dim, ...]) -> tuple[int, ...]:
    return tuple(d for d in dims if isinstance(d, int))


__all__ = ["Conv", "ConvPacked", "ConvTranspose", "Depthwise", "PackWeights"]
