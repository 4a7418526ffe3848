"""Matrix products, plain and with a packed right operand."""

from __future__ import annotations

from typing import Any

import numpy as np

from pjit.ir import expr
from pjit.ir.core import Value
from pjit.ir.errors import require
from pjit.ir.expr import Dim, unflatten
from pjit.ir.kernel_builder import Puller
from pjit.ir.loops import Tile
from pjit.ir.opdef import OpDef, attr, broadcast_shapes, operand, same_dim, sample
from pjit.ir.ops.windows import accumulator, widen
from pjit.ir.types import FLOATS, NUMERIC, TensorType, f32, f64, i32

PACKED = (f64, f32)  # what the tile contraction multiplies


class Matmul(OpDef, name="matmul", onnx="MatMul"):
    """The matrix product with the semantics of ``np.matmul``.

    A 1-D operand is a row (first operand) or a column (second one) whose extra dimension is absent
    from the result. 16-bit floats are summed in f32 and rounded once.

    (C1) Both operands have one dtype.
    (C2) Both operands have at least one dimension.
    (C3) The last dimension of ``a`` equals the last but one of ``b`` (the only one of a 1-D ``b``).
    (C4) The leading dimensions broadcast.
    """

    a = operand(NUMERIC)
    b = operand(NUMERIC)
    __slots__ = ()

    @staticmethod
    def infer(a: TensorType, b: TensorType) -> TensorType:
        """``[broadcast batch, M, N]``."""
        require(a.dtype == b.dtype, "(C1) the operands have one dtype", got=f"{a} and {b}")
        require(
            a.rank >= 1 and b.rank >= 1, "(C2) the operands are not scalars", got=f"{a} and {b}"
        )
        inner = b.shape[-2] if b.rank > 1 else b.shape[-1]
        require(
            same_dim(a.shape[-1], inner),
            "(C3) the summed dimensions are equal",
            expected=a.shape[-1],
            got=inner,
        )
        batch = broadcast_shapes(a.shape[:-2], b.shape[:-2])
        rows = a.shape[-2:-1]
        cols = b.shape[-1:] if b.rank > 1 else ()
        return TensorType(a.dtype, (*batch, *rows, *cols))

    @staticmethod
    def ref(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """``np.matmul``."""
        return np.asarray(np.matmul(widen(a), widen(b))).astype(a.dtype)

    def element(self, k: Puller, index: tuple[Dim, ...]) -> Value:
        """The inner product of a row and a column."""
        a, b = self.a.tensor, self.b.tensor
        index = tuple(index)
        col = index[len(index) - 1 :] if b.rank > 1 else ()
        index = index[: len(index) - len(col)]
        row = index[len(index) - 1 :] if a.rank > 1 else ()
        batch = index[: len(index) - len(row)]
        at_a, at_b = _broadcast_index(batch, a.shape[:-2]), _broadcast_index(batch, b.shape[:-2])
        acc = accumulator(a.dtype)

        def term(i: Any) -> Value:
            x = k.b.cast(k.read(self.a, (*at_a, *row, i[0])), acc)
            return k.b.mul(x, k.b.cast(k.read(self.b, (*at_b, i[0], *col)), acc))

        return k.b.cast(k.reduce("add", (a.shape[-1],), term, acc), a.dtype)

    samples = (
        sample((5, 7), (7, 6), dtypes=(*FLOATS, i32)),
        sample((3, 5, 4), (4, 9), dtypes=(f32, f64)),
        sample((2, 1, 3, 4), (5, 4, 2), dtypes=(f32,)),
        sample((4,), (4,), dtypes=(f32,)),
        sample((3, 4), (4,), dtypes=(f32, i32)),
        sample((4,), (2, 4, 3), dtypes=(f32,)),
        sample((0, 4), (4, 3), dtypes=(f32,)),
        sample((3, 0), (0, 2), dtypes=(f32,)),
    )


class Pack(OpDef, name="pack"):
    """Packs the right operand of a matrix product into column blocks.

    ``[..., K, N]`` becomes ``[..., ceil(N/nr), K, nr]``. Columns from N on are zero.

    (C1) The operand has at least two dimensions.
    (C2) ``nr`` is at least 1.
    """

    b = operand(NUMERIC)
    nr = attr(doc="columns in a block")
    __slots__ = ()

    @staticmethod
    def infer(b: TensorType, *, nr: int) -> TensorType:
        """``[..., ceil(N/nr), K, nr]``."""
        require(b.rank >= 2, "(C1) the operand is a matrix or a batch of them", got=b)
        require(nr >= 1, "(C2) nr is at least 1", got=nr)
        *batch, depth, cols = b.shape
        return b.with_shape((*batch, expr.ceildiv(cols, nr), depth, nr))

    @staticmethod
    def ref(b: np.ndarray, *, nr: int) -> np.ndarray:
        """Pads the columns, splits them and swaps."""
        *batch, depth, cols = b.shape
        blocks = -(-cols // nr)
        padded = b
        if cols % nr:
            padded = np.zeros((*batch, depth, blocks * nr), b.dtype)
            padded[..., :cols] = b
        return np.moveaxis(padded.reshape(*batch, depth, blocks, nr), -2, -3)

    def element(self, k: Puller, index: tuple[Dim, ...]) -> Value:
        """A copy, or zero past the last column."""
        *batch, block, depth, j = index
        col = block * self.nr + j
        guards = ((col, self.b.shape[-1]),)
        return k.guarded(guards, lambda: k.read(self.b, (*batch, depth, col)), 0.0)

    samples = (
        sample((7, 10), nr=4, dtypes=(*FLOATS, i32)),
        sample((2, 3, 5, 8), nr=8, dtypes=(f32,)),
        sample((3, 5), nr=16, dtypes=(f32,)),
    )


class MatmulPacked(OpDef, name="matmul_packed"):
    """The matrix product of a matrix and a packed one: a tile contraction.

    ``a`` is ``[..., M, K]``, ``bp`` is ``[batch..., ceil(cols/nr), K, nr]`` and the result is
    ``[broadcast batch, M, cols]``. Columns of ``bp`` from ``cols`` on are ignored.

    (C1) Both operands have one dtype.
    (C2) ``a`` has at least two dimensions, ``bp`` at least three.
    (C3) The K of both are equal.
    (C4) ``bp`` has ceil(cols/nr) blocks.
    (C5) The batch dimensions broadcast.
    """

    a = operand(PACKED)
    bp = operand(PACKED)
    cols = attr(doc="columns of the result")
    __slots__ = ()

    @staticmethod
    def infer(a: TensorType, bp: TensorType, *, cols: Dim) -> TensorType:
        """``[broadcast batch, M, cols]``."""
        require(a.dtype == bp.dtype, "(C1) the operands have one dtype", got=f"{a} and {bp}")
        require(
            a.rank >= 2 and bp.rank >= 3,
            "(C2) a has at least two dimensions, bp at least three",
            got=f"{a} and {bp}",
        )
        require(
            same_dim(a.shape[-1], bp.shape[-2]),
            "(C3) the summed dimensions are equal",
            expected=a.shape[-1],
            got=bp.shape[-2],
        )
        blocks = expr.ceildiv(cols, bp.shape[-1])
        require(
            same_dim(bp.shape[-3], blocks),
            "(C4) bp has ceil(cols/nr) blocks",
            expected=blocks,
            got=bp.shape[-3],
        )
        batch = broadcast_shapes(a.shape[:-2], bp.shape[:-3])
        return TensorType(a.dtype, (*batch, a.shape[-2], cols))

    @staticmethod
    def ref(a: np.ndarray, bp: np.ndarray, *, cols: int) -> np.ndarray:
        """Unpacks and multiplies."""
        *batch, blocks, depth, nr = bp.shape
        b = np.moveaxis(bp, -3, -2).reshape(*batch, depth, blocks * nr)
        return np.matmul(a, b[..., :cols])

    def tile(self) -> Tile:
        """Rows are M; for a single matrix ``bp`` all leading dimensions of ``a`` together."""
        a, bp, out = self.a.tensor, self.bp.tensor, self.type
        extra = out.rank - a.rank
        outer, shared = bp.shape[:-3], bp.rank - 3
        if all(d == 1 for d in outer):
            lead = a.shape[:-1]
            return Tile(
                batch=(),
                rows=(expr.product(lead),),
                taps=(),
                depth=a.shape[-1],
                cols=self.cols,
                a_index=lambda g, r, t, k: (*unflatten(r[0], lead), k),
                a_guards=lambda g, r, t: (),
                b_index=lambda g, n, t, k, c: (*(0,) * shared, n, k, c),
                out_index=lambda g, r, c: (*(0,) * extra, *unflatten(r[0], lead), c),
            )
        return Tile(
            batch=out.shape[:-2],
            rows=(a.shape[-2],),
            taps=(),
            depth=a.shape[-1],
            cols=self.cols,
            a_index=lambda g, r, t, k: (*_broadcast_index(g, a.shape[:-2]), r[0], k),
            a_guards=lambda g, r, t: (),
            b_index=lambda g, n, t, k, c: (*_broadcast_index(g, outer), n, k, c),
            out_index=lambda g, r, c: (*g, r[0], c),
        )

    samples = (
        sample((5, 7), (2, 7, 4), cols=6, dtypes=PACKED),
        sample((3, 5, 4), (1, 4, 8), cols=8, dtypes=(f32,)),
        sample((3, 5, 4), (3, 2, 4, 8), cols=9, dtypes=(f32,)),
        sample((2, 1, 6, 3), (5, 1, 3, 16), cols=11, dtypes=(f32,)),
        sample((6, 3), (1, 1, 3, 16), cols=11, dtypes=(f32,)),
        sample((0, 3), (1, 3, 8), cols=5, dtypes=(f32,)),
        sample((33, 70), (3, 70, 32), cols=70, dtypes=(f32,)),
    )


def _broadcast_index(batch: tuple[Dim, ...], shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """The index into an operand's leading dimensions for one of the broadcast batch."""
    own = tuple(batch)[len(batch) - len(shape) :]
    return tuple(0 if d == 1 else i for i, d in zip(own, shape, strict=True))


__all__ = ["Matmul", "MatmulPacked", "Pack"]
