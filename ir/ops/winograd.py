"""Convolution by short polynomial products (Winograd), for 3x3 windows of stride 1.

A tile of ``m x m`` outputs comes from ``(m+2)^2`` products instead of ``9*m^2``: the windows and
the weights are evaluated at ``m+1`` points and infinity in each direction, multiplied, and
interpolated. ``nn.winograd_input``, a batch of matrix products (one for each pair of points) and
``nn.winograd_output`` make a convolution; ``nn.winograd_weights`` folds for a constant weight.

The points are 0 and pairs ``+p, -p``, so that the values at a pair share an even and an odd part,
and infinity. The usual points 0, 1, -1, 2, -2 lose more accuracy for m = 4 than these, whose
coefficients are exact in f32 and whose products have magnitudes closer to each other (Barabasz et
al., "Error analysis and improving the accuracy of Winograd convolution", 2018).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np

from pjit.ir import expr
from pjit.ir.core import Value
from pjit.ir.errors import require
from pjit.ir.expr import Dim
from pjit.ir.kernel_builder import LineWriter, ScalarBuilder
from pjit.ir.opdef import attr, operand, same_dim, sample
from pjit.ir.ops.linalg import PACKED
from pjit.ir.ops.line import LineOp
from pjit.ir.types import TensorType, f32, f64

PAIRS: dict[int, tuple[float, ...]] = {2: (1.0,), 4: (0.625, 1.5)}  # by tile size
KERNEL = 3
_CHANNELS_AT_ONCE = 32  # of the weights, so that what is computed in double precision stays small


def points(size: int) -> tuple[float, ...]:
    """The finite points, in the order of the results; infinity comes last."""
    return (0.0, *(q for p in PAIRS[size] for q in (p, -p)))


def _product_of_squares(size: int, without: float | None = None) -> list[float]:
    """The coefficients, in powers of x^2, of the product of ``x^2 - p^2``."""
    roots = [p * p for p in PAIRS[size] if p != without]
    return [float(c) for c in np.poly(roots)[::-1]] if roots else [1.0]


def matrices(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``A [tile, n]``, ``G [n, 3]`` and ``B [n, n]`` in f64, ``n = tile+2``.

    The convolution of ``d [n]`` with ``g [3]`` is ``A @ ((G @ g) * (B @ d))``.
    """
    finite = points(size)
    n = len(finite) + 1
    a, g, b = np.zeros((size, n)), np.zeros((n, KERNEL)), np.zeros((n, n))
    for i, p in enumerate(finite):
        others = [q for q in finite if q != p]
        a[:, i] = [p**j for j in range(size)]
        g[i] = np.array([1, p, p * p]) / prod(p - q for q in others)
        b[i, :-1] = np.poly(others)[::-1]
    a[-1, -1] = g[-1, -1] = 1
    b[-1] = np.poly(finite)[::-1]
    return a, g, b


def _weighted(b: ScalarBuilder, factors: Sequence[float], xs: Sequence[Value]) -> Value:
    """The sum of ``factors * xs``, from the last to the first."""
    total: Value | None = None
    for c, x in reversed(list(zip(factors, xs, strict=True))):
        if total is None:
            total = x if c == 1 else b.mul(b.const(c, x), x)
        else:
            total = b.add(x, total) if c == 1 else b.fma(b.const(c, x), x, total)
    assert total is not None
    return total


def _pair(b: ScalarBuilder, even: Value, odd: Value, p: float) -> list[Value]:
    """``even + p*odd`` and ``even - p*odd``."""
    if p == 1:
        return [b.add(even, odd), b.sub(even, odd)]
    return [b.fma(b.const(c, odd), odd, even) for c in (p, -p)]


def input_line(b: ScalarBuilder, d: Sequence[Value], size: int) -> list[Value]:
    """``B @ d``, 12 operations for tiles of 4."""
    whole = _product_of_squares(size)
    out = [_weighted(b, whole, d[0:-1:2])]
    for p in PAIRS[size]:
        rest = _product_of_squares(size, p)
        out += _pair(b, _weighted(b, rest, d[2:-1:2]), _weighted(b, rest, d[1:-2:2]), p)
    return [*out, _weighted(b, whole, d[1::2])]


def output_line(b: ScalarBuilder, m: Sequence[Value], size: int) -> list[Value]:
    """``A @ m``."""
    pairs = PAIRS[size]
    sums = [b.add(m[2 * i + 1], m[2 * i + 2]) for i in range(len(pairs))]
    differences = [b.sub(m[2 * i + 1], m[2 * i + 2]) for i in range(len(pairs))]
    out = []
    for j in range(size):
        y = _weighted(b, [p**j for p in pairs], differences if j % 2 else sums)
        y = b.add(m[0], y) if j == 0 else y
        out.append(b.add(y, m[-1]) if j == size - 1 else y)
    return out


def weights_line(b: ScalarBuilder, g: Sequence[Value], size: int) -> list[Value]:
    """``G @ g``."""
    return [_weighted_all(b, row, g) for row in matrices(size)[1]]


def _weighted_all(b: ScalarBuilder, row: np.ndarray, g: Sequence[Value]) -> Value:
    kept = [i for i, c in enumerate(row) if c]
    return _weighted(b, [float(row[i]) for i in kept], [g[i] for i in kept])


def _both_ways(
    k: LineWriter,
    line: Callable[[Sequence[Value]], list[Value]],
    extents: tuple[int, int],
    read: Callable[[int, Dim], Value],
    write: Callable[[Dim, list[Value]], None],
) -> None:
    """A 1-D transform of the columns of a square, then of its rows.

    Args:
        k: Where to build it.
        line: The transform.
        extents: The sides of the square and of its transform.
        read: The element in a row and a column.
        write: Takes a row of the transform.
    """
    n, count = extents
    if not k.has_room:
        columns = [line([read(y, x) for y in range(n)]) for x in range(n)]
        for p, row in enumerate(zip(*columns, strict=True)):
            write(p, line(row))
        return

    def column(x: Dim) -> None:
        for p, value in enumerate(line([read(y, x) for y in range(n)])):
            k.keep(p * n + x, value)

    k.b.loop(0, n, column)
    k.b.loop(0, count, lambda p: write(p, line([k.kept(p * n + x) for x in range(n)])))


def _check_size(size: int) -> None:
    require(size in PAIRS, "(C1) size is 2 or 4", got=size)


def tiles_of(extent: Dim, pads: tuple[int, int], size: int) -> Dim:
    """How many tiles cover the outputs along a dimension."""
    return expr.ceildiv(extent + sum(pads) - KERNEL + 1, size)


class WinogradInput(LineOp, name="nn.winograd_input"):
    """The windows of the tiles at the points.

    ``x`` is ``[N, H, W, C]``; the result is ``[(size+2)^2, N, tiles down, tiles across, C]``. Tile
    ``(i, j)`` has the window from ``(i*size - top, j*size - left)`` on; x is zero outside.

    (C1) size is 2 or 4.
    (C2) x has a batch, two spatial dimensions and channels.
    (C3) pads has four entries of at least 0: top, left, bottom, right.
    (C4) A 3x3 window fits into the padded input.
    """

    x = operand(PACKED)
    size = attr(doc="outputs of a tile in each direction")
    pads = attr()
    __slots__ = ()

    @staticmethod
    def infer(x: TensorType, *, size: int, pads: tuple[int, ...]) -> TensorType:
        """``[points, N, tiles down, tiles across, C]``."""
        _check_size(size)
        require(x.rank == 4, "(C2) x has four dimensions", got=x)
        require(len(pads) == 4 and min(pads) >= 0, "(C3) pads has four entries", got=pads)
        counts = []
        for extent, low, high in zip(x.shape[1:3], pads[:2], pads[2:], strict=True):
            padded = extent + low + high
            require(
                not isinstance(padded, int) or padded >= KERNEL,
                "(C4) the window fits into the padded input",
                got=padded,
            )
            counts.append(tiles_of(extent, (low, high), size))
        return x.with_shape(((size + 2) ** 2, x.shape[0], *counts, x.shape[3]))

    @staticmethod
    def ref(x: np.ndarray, *, size: int, pads: tuple[int, ...]) -> np.ndarray:
        """Pads, takes the windows and multiplies with the matrix of the points."""
        n = size + 2
        down, across = (
            tiles_of(s, (low, high), size)
            for s, low, high in zip(x.shape[1:3], pads[:2], pads[2:], strict=True)
        )
        covered = [int(tiles * size + 2) for tiles in (down, across)]  # type: ignore[arg-type]
        padded = np.zeros((x.shape[0], *covered, x.shape[3]), np.float64)
        inside = padded[:, pads[0] :, pads[1] :]
        h, w = min(x.shape[1], inside.shape[1]), min(x.shape[2], inside.shape[2])
        inside[:, :h, :w] = x[:, :h, :w]
        views = np.lib.stride_tricks.sliding_window_view(padded, (n, n), (1, 2))[:, ::size, ::size]
        b = matrices(size)[2]
        y = np.einsum("pi,qj,nhwcij->pqnhwc", b, b, views, optimize=True)
        return y.reshape(n * n, *y.shape[2:]).astype(x.dtype)

    @property
    def walked(self) -> tuple[int, ...]:
        """The points."""
        return (0,)

    @property
    def room(self) -> int:
        """The transforms of the columns, where there are many."""
        return (self.size + 2) ** 2 if self.size > 2 else 0

    def line(self, k: LineWriter, at: Sequence[Dim]) -> None:
        """The values at the points of one window in one channel."""
        n, i, j, c = at
        _, height, width, _ = self.x.shape
        top, left = i * self.size - self.pads[0], j * self.size - self.pads[1]
        side = self.size + 2

        def read(y: int, x: Dim) -> Value:
            inside = ((top + y, height), (left + x, width))
            return k.guarded(inside, lambda: k.read(self.x, (n, top + y, left + x, c)), 0.0)

        def write(p: Dim, values: list[Value]) -> None:
            for q, value in enumerate(values):
                k.write((p * side + q, *at), value)

        _both_ways(k, lambda d: input_line(k.b, d, self.size), (side, side), read, write)

    samples = (
        sample((1, 8, 8, 5), size=4, pads=(1, 1, 1, 1), dtypes=PACKED),
        sample((2, 7, 9, 3), size=4, pads=(1, 0, 2, 1), dtypes=(f32,)),
        sample((2, 5, 6, 18), size=2, pads=(1, 1, 1, 1), dtypes=PACKED),
        sample((1, 3, 3, 4), size=2, pads=(0, 0, 0, 0), dtypes=(f32,)),
        sample((0, 6, 6, 4), size=4, pads=(0, 0, 0, 0), dtypes=(f32,)),
        sample((1, 8, 8, 256), size=4, pads=(1, 1, 1, 1), dtypes=(f32,)),  # points 4096 bytes apart
    )


class WinogradWeights(LineOp, name="nn.winograd_weights"):
    """The weight of a 3x3 convolution at the points: ``[O, C, 3, 3]`` becomes ``[points, C, O]``.

    Computed in f64 and rounded once.

    (C1) size is 2 or 4.
    (C2) w has output channels, input channels and a 3x3 kernel.
    """

    w = operand(PACKED)
    size = attr(doc="outputs of a tile in each direction")
    __slots__ = ()

    @staticmethod
    def infer(w: TensorType, *, size: int) -> TensorType:
        """``[points, C, O]``."""
        _check_size(size)
        require(w.rank == 4 and w.shape[2:] == (KERNEL, KERNEL), "(C2) w has a 3x3 kernel", got=w)
        return w.with_shape(((size + 2) ** 2, w.shape[1], w.shape[0]))

    @staticmethod
    def ref(w: np.ndarray, *, size: int) -> np.ndarray:
        """Multiplies with the matrix of the points from both sides."""
        g = matrices(size)[1]
        y = np.empty((size + 2, size + 2, w.shape[1], w.shape[0]), w.dtype)
        for at in range(0, w.shape[0], _CHANNELS_AT_ONCE):
            some = w[at : at + _CHANNELS_AT_ONCE].astype(np.float64)
            rows = np.tensordot(g, some, (1, 2))  # [p, O, C, 3]
            both = np.tensordot(g, rows, (1, 3))  # [q, p, O, C]
            y[..., at : at + _CHANNELS_AT_ONCE] = both.transpose(1, 0, 3, 2)
        return y.reshape((size + 2) ** 2, w.shape[1], w.shape[0])

    @property
    def walked(self) -> tuple[int, ...]:
        """The points."""
        return (0,)

    def line(self, k: LineWriter, at: Sequence[Dim]) -> None:
        """The values at the points of one kernel."""
        c, o = at
        side = self.size + 2

        def read(y: int, x: Dim) -> Value:
            return k.b.cast(k.read(self.w, (o, c, y, x)), f64)

        def write(p: Dim, values: list[Value]) -> None:
            for q, value in enumerate(values):
                k.write((p * side + q, *at), k.b.cast(value, self.w.dtype))

        _both_ways(k, lambda g: weights_line(k.b, g, self.size), (KERNEL, side), read, write)

    samples = (
        sample((5, 6, 3, 3), size=4, dtypes=PACKED),
        sample((18, 3, 3, 3), size=2, dtypes=PACKED),
    )


class WinogradOutput(LineOp, name="nn.winograd_output"):
    """The outputs of the tiles from their products at the points.

    ``m`` is ``[(size+2)^2, N, tiles down, tiles across, O]``, the result is ``[N, *shape, O]``; of
    tiles that reach beyond it the rest is left out.

    (C1) size is 2 or 4.
    (C2) m has (size+2)^2 points, a batch, two dimensions of tiles and channels.
    (C3) The tiles cover the shape: ``ceil(size/size)`` of them along each dimension.
    """

    m = operand(PACKED)
    size = attr(doc="outputs of a tile in each direction")
    shape = attr(doc="output height and width")
    __slots__ = ()

    @staticmethod
    def infer(m: TensorType, *, size: int, shape: tuple[Dim, ...]) -> TensorType:
        """``[N, height, width, O]``."""
        _check_size(size)
        require(m.rank == 5 and m.shape[0] == (size + 2) ** 2, "(C2) m has five dimensions", got=m)
        require(
            len(shape) == 2
            and all(
                same_dim(expr.ceildiv(s, size), d) for s, d in zip(shape, m.shape[2:4], strict=True)
            ),
            "(C3) the tiles cover the shape",
            expected=list(m.shape[2:4]),
            got=list(shape),
        )
        return m.with_shape((m.shape[1], *shape, m.shape[4]))

    @staticmethod
    def ref(m: np.ndarray, *, size: int, shape: tuple[int, ...]) -> np.ndarray:
        """Interpolates each tile and puts the tiles side by side."""
        a = matrices(size)[0]
        n = size + 2
        square = m.reshape(n, n, *m.shape[1:]).astype(np.float64)
        y = np.einsum("ip,jq,pqnhwc->nhiwjc", a, a, square, optimize=True)
        y = y.reshape(y.shape[0], y.shape[1] * size, y.shape[3] * size, y.shape[5])
        return np.ascontiguousarray(y[:, : shape[0], : shape[1]]).astype(m.dtype)

    @property
    def walked(self) -> tuple[int, ...]:
        """The outputs."""
        return (1, 2)

    @property
    def lines(self) -> tuple[Dim, ...]:
        """The tiles, in every channel."""
        return tuple(self.m.shape[1:])

    @property
    def room(self) -> int:
        """The transforms of the columns, where there are many."""
        return self.size * (self.size + 2) if self.size > 2 else 0

    def line(self, k: LineWriter, at: Sequence[Dim]) -> None:
        """The outputs of one tile in one channel."""
        n, i, j, c = at
        side = self.size + 2
        height, width = self.attrs["shape"]

        def read(p: int, q: Dim) -> Value:
            return k.read(self.m, (p * side + q, *at))

        def write(dy: Dim, values: list[Value]) -> None:
            y = i * self.size + dy
            for dx, value in enumerate(values):
                x = j * self.size + dx

                def one(index: tuple[Dim, ...] = (n, y, x, c), value: Value = value) -> None:
                    k.write(index, value)

                k.where(((y, height), (x, width)), one)

        _both_ways(k, lambda m: output_line(k.b, m, self.size), (side, self.size), read, write)

    samples = (
        sample((36, 1, 2, 2, 5), size=4, shape=(8, 8), dtypes=PACKED),
        sample((36, 2, 1, 2, 3), size=4, shape=(3, 7), dtypes=(f32,)),
        sample((36, 1, 2, 2, 256), size=4, shape=(8, 7), dtypes=(f32,)),  # points 4096 bytes apart
        sample((16, 2, 3, 2, 18), size=2, shape=(5, 4), dtypes=PACKED),
    )


__all__ = ["WinogradInput", "WinogradOutput", "WinogradWeights"]
