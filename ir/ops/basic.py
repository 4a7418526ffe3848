"""Constants, sizes and terminators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pjit.ir.core import Value
from pjit.ir.expr import Dim
from pjit.ir.opdef import OpDef, attr, sample, variadic
from pjit.ir.types import DType, TensorType, f32, i64, tensor


class Const(OpDef, name="const"):
    """A constant of the module, by name: ``const @conv1.weight : f32[64,3,7,7]``."""

    structural = True
    value = attr(doc="the name in the module's constants")
    dtype = attr()
    shape = attr()
    __slots__ = ()

    @staticmethod
    def infer(*, value: str, dtype: DType, shape: tuple[int, ...]) -> TensorType:
        """The type is an attribute."""
        return TensorType(dtype, shape)

    @staticmethod
    def of(b: Any, array: np.ndarray, name: str = "c") -> Value:
        """Builds a constant from an array, stored in the builder's module."""
        from pjit.ir.types import dtype

        key = b.module.add_constant(array, name)
        return b(Const, value=key, dtype=dtype(array.dtype), shape=tuple(array.shape))

    @staticmethod
    def later(b: Any, make: Callable[[], np.ndarray], t: TensorType, name: str = "c") -> Value:
        """Builds a constant of a type from what makes its array."""
        key = b.module.add_constant(make, name)
        return b(Const, value=key, dtype=t.dtype, shape=t.static_shape)


class Sizes(OpDef, name="sizes"):
    """A vector of dimensions as a tensor: ``sizes {dims=[N,(H + 1)//2]} : i64[2]``."""

    dims = attr(doc="symbolic dimensions")
    __slots__ = ()

    @staticmethod
    def infer(*, dims: tuple[Dim, ...]) -> TensorType:
        """One i64 per dimension."""
        return tensor(i64, len(dims))

    @staticmethod
    def ref(*, dims: tuple[int, ...]) -> np.ndarray:
        """Dimensions are known when it runs."""
        return np.array(dims, np.int64)

    def element(self, k: Any, index: tuple[Dim, ...]) -> Any:
        """Selects the dimension at the index."""
        out = k.index(self.dims[-1])
        for i in reversed(range(len(self.dims) - 1)):
            out = k.b.select(k.inside([(index[0] - i, 1)]), k.index(self.dims[i]), out)
        return out

    samples = (sample(dims=(3, 4), dtypes=(f32,)), sample(dims=(7,), dtypes=(f32,)))


class Return(OpDef, name="return"):
    """Ends a function; its operands are the results."""

    structural = True
    terminator = True
    values = variadic()
    __slots__ = ()

    @staticmethod
    def infer(values: list[TensorType]) -> tuple:
        """No result."""
        return ()


class Yield(OpDef, name="yield"):
    """Ends a region; its operands are what the region gives to the operation that holds it."""

    structural = True
    terminator = True
    values = variadic()
    __slots__ = ()

    @staticmethod
    def infer(values: list[TensorType]) -> tuple:
        """No result."""
        return ()


__all__ = ["Const", "Return", "Sizes", "Yield"]
