"""Matrix products by fewer multiplications of blocks: bilinear algorithms, as Strassen's.

Both matrices are split into blocks. Each of some sums of blocks of the first is multiplied with a
sum of blocks of the second, and the blocks of the result are sums of these products
(``bilinear_schemes``). ``nn.bilinear_input``, a batch of matrix products (``matmul_packed``) and
``nn.bilinear_output`` make a product; ``nn.bilinear_weights`` folds for a constant weight.

Rows that are added are those of the last but one dimension; the matrices of the dimensions before
it do not depend on each other. Infinities and NaNs spread over the rows and columns that are added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from pjit.ir import expr
from pjit.ir.arrays import aligned_empty
from pjit.ir.core import Value
from pjit.ir.errors import require
from pjit.ir.expr import Dim, unflatten
from pjit.ir.kernel_builder import LineWriter, ScalarBuilder
from pjit.ir.opdef import OpDef, attr, operand, same_dim, sample
from pjit.ir.ops.bilinear_schemes import SCHEMES, Scheme, Split
from pjit.ir.ops.linalg import PACKED
from pjit.ir.ops.line import LineOp
from pjit.ir.types import TensorType, f32, f64

_ROWS_AT_ONCE = 32  # of the weights, so that what is computed in double precision stays small


def _check(split: Split, *extents: tuple[Dim, int]) -> Scheme:
    """The scheme of a split; checks (C1) and (C2)."""
    require(split in SCHEMES, "(C1) there is a scheme of the split", got=split)
    for extent, parts in extents:
        whole = parts * expr.floordiv(extent, parts)
        require(same_dim(whole, extent), f"(C2) the dimension has {parts} equal parts", got=extent)
    return SCHEMES[split]


def _sum(b: ScalarBuilder, terms: Iterable[tuple[int, Value]]) -> Value:
    """The sum of values with the signs 1 and -1."""
    total: Value | None = None
    for sign, value in sorted(terms, key=lambda term: -term[0]):
        if total is None:
            total = value if sign > 0 else b.neg(value)
        else:
            total = b.add(total, value) if sign > 0 else b.sub(total, value)
    assert total is not None
    return total


class BilinearOp(OpDef):
    """Base of the operators on blocks of matrices."""

    split = attr(doc="parts of the rows, of the depth and of the columns")
    __slots__ = ()

    @property
    def scheme(self) -> Scheme:
        """What is added and multiplied."""
        return SCHEMES[self.split]


class BilinearInput(BilinearOp, LineOp, name="nn.bilinear_input"):
    """The sums of blocks of the first matrix.

    ``x`` is ``[..., M, K]``; the result is ``[products, rows, K/k]``, where the rows are those of a
    block of each matrix.

    (C1) There is a scheme of the split.
    (C2) The split divides M and K.
    (C3) x has at least two dimensions.
    """

    x = operand(PACKED)
    __slots__ = ()

    @staticmethod
    def infer(x: TensorType, *, split: Split) -> TensorType:
        """``[products, rows, K/k]``."""
        require(x.rank >= 2, "(C3) x has at least two dimensions", got=x)
        scheme = _check(split, (x.shape[-2], split[0]), (x.shape[-1], split[1]))
        *lead, m, k = x.shape
        rows = expr.product(lead) * expr.floordiv(m, split[0])
        return x.with_shape((scheme.products, rows, expr.floordiv(k, split[1])))

    @staticmethod
    def ref(x: np.ndarray, *, split: Split) -> np.ndarray:
        """Adds the blocks in f64."""
        down, across, _ = split
        *lead, m, k = x.shape
        blocks = x.reshape(*lead, down, m // down, across, k // across).astype(np.float64)
        a = SCHEMES[split].a.reshape(-1, down, across)
        y = np.einsum("pij,...imjk->p...mk", a, blocks)
        return y.reshape(len(a), -1, k // across).astype(x.dtype)

    @property
    def walked(self) -> tuple[int, ...]:
        """The products."""
        return (0,)

    def line(self, k: LineWriter, at: Sequence[Dim]) -> None:
        """The sums of the elements at one place in all blocks."""
        row, column = at
        *lead, extent, _ = self.x.shape
        height, width = expr.floordiv(extent, self.split[0]), self.type.shape[-1]
        *item, y = unflatten(row, (*lead, height))
        blocks = [
            k.read(self.x, (*item, i * height + y, j * width + column))
            for i in range(self.split[0])
            for j in range(self.split[1])
        ]
        for p, terms in enumerate(self.scheme.terms("a")):
            k.write((p, row, column), _sum(k.b, ((s, blocks[i]) for s, i in terms)))

    samples = (
        sample((6, 9), split=(2, 3, 3), dtypes=PACKED),
        sample((2, 4, 18), split=(2, 3, 3), dtypes=(f32,)),
        sample((2, 3, 2, 36), split=(2, 2, 2), dtypes=PACKED),
        sample((0, 2, 6), split=(2, 2, 2), dtypes=(f32,)),
    )


class BilinearWeights(BilinearOp, LineOp, name="nn.bilinear_weights"):
    """The sums of blocks of the second matrix, packed.

    ``[K, N]`` becomes ``[products, ceil(N/n/nr), K/k, nr]``; columns from N/n on are zero. Computed
    in f64 and rounded once.

    (C1) There is a scheme of the split.
    (C2) The split divides K and N.
    (C3) w is a matrix.
    (C4) nr is at least 1.
    """

    w = operand(PACKED)
    nr = attr(doc="columns in a block of packed weights")
    __slots__ = ()

    @staticmethod
    def infer(w: TensorType, *, split: Split, nr: int) -> TensorType:
        """``[products, ceil(N/n/nr), K/k, nr]``."""
        require(w.rank == 2, "(C3) w is a matrix", got=w)
        require(nr >= 1, "(C4) nr is at least 1", got=nr)
        scheme = _check(split, (w.shape[0], split[1]), (w.shape[1], split[2]))
        depth, columns = (expr.floordiv(d, n) for d, n in zip(w.shape, split[1:], strict=True))
        return w.with_shape((scheme.products, expr.ceildiv(columns, nr), depth, nr))

    @staticmethod
    def ref(w: np.ndarray, *, split: Split, nr: int) -> np.ndarray:
        """Adds the blocks in f64, some rows at a time."""
        _, down, across = split
        scheme, (k, n) = SCHEMES[split], w.shape
        height, width = k // down, n // across
        count = -(-width // nr)
        blocks = w.reshape(down, height, across, width)
        packed = aligned_empty((scheme.products, count, height, nr), w.dtype)
        for at in range(0, height, _ROWS_AT_ONCE):
            rows = slice(at, at + _ROWS_AT_ONCE)
            total = np.zeros((len(range(height)[rows]), count * nr))
            for p, terms in enumerate(scheme.terms("b")):
                total[:, :width] = 0.0
                for sign, i in terms:
                    add = np.add if sign > 0 else np.subtract
                    add(total[:, :width], blocks[i // across, rows, i % across], total[:, :width])
                packed[p, :, rows] = total.reshape(-1, count, nr).swapaxes(0, 1)
        return packed

    @property
    def walked(self) -> tuple[int, ...]:
        """The products."""
        return (0,)

    def line(self, k: LineWriter, at: Sequence[Dim]) -> None:
        """The sums of the elements at one place in all blocks."""
        block, row, lane = at
        height, width = self.type.shape[2], expr.floordiv(self.w.shape[1], self.split[2])
        column = block * self.nr + lane

        def read(i: int, j: int) -> Value:
            at = (i * height + row, j * width + column)
            value = k.guarded(((column, width),), lambda: k.read(self.w, at), 0.0)
            return k.b.cast(value, f64)

        blocks = [read(i, j) for i in range(self.split[1]) for j in range(self.split[2])]
        for p, terms in enumerate(self.scheme.terms("b")):
            total = _sum(k.b, ((s, blocks[i]) for s, i in terms))
            k.write((p, block, row, lane), k.b.cast(total, self.w.dtype))

    samples = (
        sample((9, 6), split=(2, 3, 3), nr=4, dtypes=PACKED),
        sample((6, 33), split=(2, 3, 3), nr=8, dtypes=(f32,)),
        sample((4, 36), split=(2, 2, 2), nr=6, dtypes=(f32,)),
    )


class BilinearOutput(BilinearOp, LineOp, name="nn.bilinear_output"):
    """The blocks of the result from the products.

    ``y`` is ``[products, rows, N/n]``; the result is a matrix ``[..., M, N]`` of the shape.

    (C1) There is a scheme of the split.
    (C2) The split divides M and N.
    (C3) The shape has at least two dimensions.
    (C4) y has the products, and the rows and columns of a block.
    """

    y = operand(PACKED)
    shape = attr(doc="the shape of the result")
    __slots__ = ()

    @staticmethod
    def infer(y: TensorType, *, split: Split, shape: tuple[Dim, ...]) -> TensorType:
        """The shape."""
        require(len(shape) >= 2, "(C3) the shape has at least two dimensions", got=shape)
        scheme = _check(split, (shape[-2], split[0]), (shape[-1], split[2]))
        rows = expr.product(shape[:-2]) * expr.floordiv(shape[-2], split[0])
        expected = (scheme.products, rows, expr.floordiv(shape[-1], split[2]))
        same = len(y.shape) == 3 and all(map(same_dim, y.shape, expected))
        require(
            same,
            "(C4) y has the products, and the rows and columns of a block",
            expected=expected,
            got=y,
        )
        return y.with_shape(shape)

    @staticmethod
    def ref(y: np.ndarray, *, split: Split, shape: tuple[int, ...]) -> np.ndarray:
        """Adds the products in f64."""
        down, _, across = split
        *lead, m, n = shape
        c = SCHEMES[split].c.reshape(-1, down, across)
        products = y.reshape(len(c), *lead, m // down, n // across).astype(np.float64)
        return np.einsum("pij,p...mn->...imjn", c, products).reshape(shape).astype(y.dtype)

    @property
    def walked(self) -> tuple[int, ...]:
        """The rows; a line has those of the blocks."""
        return (self.type.rank - 2,)

    @property
    def lines(self) -> tuple[Dim, ...]:
        """The places in a block."""
        return self.y.shape[1:]

    def outputs(self, k: LineWriter, at: Sequence[Dim], read: Callable[[int], Value]) -> None:
        """Writes the elements at one place in all blocks; ``read`` gives the products there."""
        row, column = at
        down, _, across = self.split
        *lead, extent, columns = self.type.shape
        height, width = expr.floordiv(extent, down), expr.floordiv(columns, across)
        *item, y = unflatten(row, (*lead, height))
        products = [read(p) for p in range(self.scheme.products)]
        for block, terms in enumerate(self.scheme.terms("c")):
            i, j = divmod(block, across)
            value = _sum(k.b, ((s, products[p]) for s, p in terms))
            k.write((*item, i * height + y, j * width + column), value)

    def line(self, k: LineWriter, at: Sequence[Dim]) -> None:
        """The elements at one place in all blocks."""
        self.outputs(k, at, lambda p: k.read(self.y, (p, *at)))

    samples = (
        sample((15, 3, 5), split=(2, 3, 3), shape=(6, 15), dtypes=PACKED),
        sample((15, 4, 18), split=(2, 3, 3), shape=(2, 4, 54), dtypes=(f32,)),
        sample((7, 6, 18), split=(2, 2, 2), shape=(2, 3, 2, 36), dtypes=PACKED),
        sample((7, 0, 3), split=(2, 2, 2), shape=(0, 2, 6), dtypes=(f32,)),
    )


__all__ = ["BilinearInput", "BilinearOutput", "BilinearWeights"]
