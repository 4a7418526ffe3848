"""Values known while a model is imported: constants, and small tensors computed from shapes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pjit.frontends.onnx.exact import Number, Ratio, Unknown, from_float
from pjit.ir.expr import Dim, Expr
from pjit.ir.types import DType, dtype, i64


@dataclass(frozen=True)
class Known:
    """A tensor whose elements are known: an array, or an object array of symbolic numbers.

    The elements of an object array are ints and ``Expr`` for an integer dtype, ``Ratio`` for a
    float dtype.
    """

    dtype: DType
    array: np.ndarray

    @staticmethod
    def of(array: np.ndarray) -> Known:
        """A constant."""
        return Known(dtype(array.dtype), array)

    @staticmethod
    def exact(elements: object, dt: DType, shape: tuple[int, ...]) -> Known:
        """From exact numbers; a plain constant when no symbol occurs."""
        flat = np.empty(shape, object)
        flat.reshape(-1)[:] = list(np.asarray(elements, object).reshape(-1))
        values = list(flat.reshape(-1))
        if any(isinstance(v, Expr) or (isinstance(v, Ratio) and not v.is_constant) for v in values):
            return Known(dt, flat)
        try:
            plain = [float(v) if isinstance(v, Ratio) else v for v in values]
            return Known(dt, np.array(plain, dt.numpy).reshape(shape))
        except OverflowError:
            raise Unknown from None

    @staticmethod
    def dims(dims: Iterable[Dim]) -> Known:
        """A vector of dimensions, i64."""
        values = tuple(dims)
        flat = np.empty(len(values), object)
        flat[:] = values
        return Known.exact(flat, i64, (len(values),))

    @property
    def is_symbolic(self) -> bool:
        """Whether an element holds a symbol."""
        return self.array.dtype == object

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape, which is always static."""
        return self.array.shape

    def numbers(self) -> np.ndarray:
        """The elements as exact numbers; raises Unknown for infinities."""
        if self.is_symbolic:
            return self.array
        out = np.empty(self.array.shape, object)
        flat = self.array.reshape(-1)
        items: list[Number]
        if self.dtype.is_float:
            items = [from_float(x) for x in flat]
        else:
            items = [x.item() for x in flat]
        out.reshape(-1)[:] = items
        return out

    def with_array(self, array: np.ndarray) -> Known:
        """The same element type with rearranged elements."""
        if array.dtype == object:
            return Known.exact(array, self.dtype, array.shape)
        return Known(self.dtype, array)

    def integers(self) -> tuple[Dim, ...]:
        """The elements, flat, of an integer tensor."""
        assert self.dtype.is_int, self.dtype
        return tuple(self.numbers().reshape(-1))
