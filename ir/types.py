"""Types of values: tensors with symbolic dimensions, kernel buffers, scalars and indices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from pjit.ir import expr
from pjit.ir.expr import Dim


@dataclass(frozen=True)
class DType:
    """An element type. ``kind`` is one of ``f i u b`` (float, signed, unsigned, bool)."""

    name: str
    kind: str
    bits: int
    numpy: np.dtype

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.numpy.itemsize

    @property
    def is_float(self) -> bool:
        """Whether this is a floating-point type."""
        return self.kind == "f"

    @property
    def is_int(self) -> bool:
        """Whether this is a signed or unsigned integer type (bool is not)."""
        return self.kind in "iu"

    def __str__(self) -> str:
        return self.name

    __repr__ = __str__

    def __reduce__(self):
        return dtype, (self.name,)


def _table() -> dict[str, DType]:
    rows = [DType(f"f{n}", "f", n, np.dtype(f"float{n}")) for n in (64, 32, 16)]
    rows.append(DType("bf16", "f", 16, np.dtype(ml_dtypes.bfloat16)))
    rows += [DType(f"i{n}", "i", n, np.dtype(f"int{n}")) for n in (64, 32, 16, 8)]
    rows += [DType(f"u{n}", "u", n, np.dtype(f"uint{n}")) for n in (64, 32, 16, 8)]
    rows.append(DType("bool", "b", 8, np.dtype(bool)))
    return {d.name: d for d in rows}


DTYPES = _table()
_BY_NUMPY = {d.numpy: d for d in DTYPES.values()}
f64, f32, f16, bf16 = (DTYPES[n] for n in ("f64", "f32", "f16", "bf16"))
i64, i32, i16, i8 = (DTYPES[n] for n in ("i64", "i32", "i16", "i8"))
u64, u32, u16, u8 = (DTYPES[n] for n in ("u64", "u32", "u16", "u8"))
bool_ = DTYPES["bool"]
FLOATS = (f64, f32, f16, bf16)
INTS = (i64, i32, i16, i8, u64, u32, u16, u8)
NUMERIC = FLOATS + INTS


def dtype(x: object) -> DType:
    """The DType of a name, a NumPy dtype or an array.

    Raises:
        TypeError: pjit has no such element type (complex, strings, objects).
    """
    if isinstance(x, DType):
        return x
    if isinstance(x, str) and x in DTYPES:
        return DTYPES[x]
    found = _BY_NUMPY.get(np.dtype(getattr(x, "dtype", x)))  # type: ignore[call-overload]
    if found is None:
        raise TypeError(f"no element type for {x!r}; pjit has {', '.join(DTYPES)}")
    return found


def _shape_text(shape: tuple[Dim, ...]) -> str:
    return ",".join(str(d) for d in shape)


@dataclass(frozen=True)
class TensorType:
    """A dense tensor; ``f32[N,3,224,224]``. Rank 0 is ``f32[]``."""

    dtype: DType
    shape: tuple[Dim, ...]

    @property
    def rank(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> Dim:
        """The number of elements."""
        return expr.product(self.shape)

    @property
    def is_static(self) -> bool:
        """Whether every dimension is an int."""
        return all(isinstance(d, int) for d in self.shape)

    @property
    def static_shape(self) -> tuple[int, ...]:
        """The shape as ints; only for a static type."""
        assert self.is_static, self
        return tuple(d for d in self.shape if isinstance(d, int))

    def with_shape(self, shape: tuple[Dim, ...]) -> TensorType:
        """The same element type with another shape."""
        return TensorType(self.dtype, tuple(shape))

    def with_dtype(self, dt: DType) -> TensorType:
        """The same shape with another element type."""
        return TensorType(dt, self.shape)

    def substitute(self, values: Mapping[str, Dim]) -> TensorType:
        """Replaces symbols in the shape."""
        return self.with_shape(tuple(expr.substitute(d, values) for d in self.shape))

    def __str__(self) -> str:
        return f"{self.dtype}[{_shape_text(self.shape)}]"

    __repr__ = __str__


@dataclass(frozen=True)
class BufferType:
    """Row-major memory that a kernel reads or writes; ``buf f32[N,64]``."""

    dtype: DType
    shape: tuple[Dim, ...]

    @property
    def size(self) -> Dim:
        """The number of elements."""
        return expr.product(self.shape)

    @property
    def strides(self) -> tuple[Dim, ...]:
        """Row-major strides in elements."""
        return row_major(self.shape)

    def __str__(self) -> str:
        return f"buf {self.dtype}[{_shape_text(self.shape)}]"

    __repr__ = __str__


@dataclass(frozen=True)
class ScalarType:
    """One element in a kernel; ``f32``. A vector loop holds one per lane."""

    dtype: DType

    def __str__(self) -> str:
        return str(self.dtype)

    __repr__ = __str__


@dataclass(frozen=True)
class IndexType:
    """A loop variable or size in a kernel; a 64-bit signed integer."""

    def __str__(self) -> str:
        return "index"

    __repr__ = __str__


Type = TensorType | BufferType | ScalarType | IndexType
INDEX = IndexType()


def row_major(shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """Row-major strides, in elements, of a shape."""
    strides: list[Dim] = []
    step: Dim = 1
    for d in reversed(shape):
        strides.append(step)
        step = step * d
    return tuple(reversed(strides))


def tensor(dt: object, *shape: Dim) -> TensorType:
    """``tensor("f32", 1, 3)`` is ``f32[1,3]``."""
    return TensorType(dtype(dt), tuple(shape))


def type_of(array: np.ndarray) -> TensorType:
    """The static type of an array."""
    return TensorType(dtype(array.dtype), tuple(array.shape))


def split_dims(text: str) -> list[str]:
    """Splits ``N,(H + 1)//2,min(a, b)`` at its top-level commas."""
    parts, depth, start = [], 0, 0
    for at, ch in enumerate(text):
        depth += (ch == "(") - (ch == ")")
        if ch == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    last = text[start:]
    return [*parts, last] if last.strip() or parts else []


def parse_type(text: str, make: Callable[[str], Dim] = expr.sym) -> Type:
    """Parses the printed form of a type; ``make`` turns a name into a symbol.

    Raises:
        ValueError: The text is not a type.
    """
    text = text.strip()
    if text == "index":
        return INDEX
    if text in DTYPES:
        return ScalarType(DTYPES[text])
    body = text.removeprefix("buf ")
    name, bracket, rest = body.partition("[")
    if name not in DTYPES or not bracket or not rest.endswith("]"):
        raise ValueError(f"not a type: {text!r}")
    shape = tuple(expr.parse(p, make) for p in split_dims(rest[:-1]))
    return (BufferType if body is not text else TensorType)(DTYPES[name], shape)
