"""``pjit.Array``: an immutable array whose values may still be computed."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin


class Work(Protocol):
    """A call that computes arrays."""

    def ready(self) -> bool:
        """Whether the call has ended; never waits."""

    def wait(self) -> None:
        """Returns when the call has ended; raises its error, each time."""

    def output(self, index: int) -> np.ndarray:
        """A result of a call that has ended without error."""


def _in_place(ufunc: np.ufunc) -> Any:
    """``x += y``: NumPy's rules for dtypes and shapes, but x becomes a new array."""

    def operator(self: Array, other: Any) -> Any:
        if _overrides(other):
            return ufunc(self, other)
        value = self._wait().copy()
        ufunc(value, _index(other), out=value)
        return Array(value)

    return operator


def as_numpy(x: Any) -> np.ndarray:
    """Anything NumPy makes an array of, on its own memory where that can be shared."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        from pjit.frontends.torch.tensors import argument

        return argument(x)
    if not hasattr(x, "__array__") and hasattr(x, "__dlpack__"):
        return np.from_dlpack(x)
    return np.asarray(x)


class Array(NDArrayOperatorsMixin):
    """An immutable array whose values may still be computed.

    Whoever needs the values waits: ``np.asarray(y)``, ``y.block_until_ready()``, ``await y``,
    ``float(y)``, ``y[0]``, printing it. An error of the computation is raised at each wait, as
    ``pjit.errors.ExecutionError``. Arithmetic waits, computes with NumPy at once, and gives an
    Array, and so does the namespace of the array API (``pjit.array_api``); a NumPy function that is
    not a ufunc gives a NumPy array. ``y += 1`` makes a new array.

    ``Array(x)`` holds a copy of an array, which calls then use without copying it again.

    Args:
        value: Anything NumPy makes an array of.
    """

    __slots__ = ("_index", "_type", "_value", "_work")
    __array_priority__ = 100

    _value: np.ndarray | None
    _work: Work | None
    _index: int
    _type: tuple[tuple[int, ...], np.dtype] | None

    def __init__(self, value: Any) -> None:
        copy = np.array(value, order="C")
        copy.flags.writeable = False
        self._value, self._work, self._index, self._type = copy, None, 0, None

    @classmethod
    def _of(
        cls,
        value: np.ndarray | None,
        work: Work | None,
        index: int = 0,
        type: tuple[tuple[int, ...], np.dtype] | None = None,
    ) -> Array:
        """The result of a call.

        Args:
            value: A row-major array that nobody else writes after the call; None when the call
                makes it.
            work: The call; None when it has ended.
            index: Which result it is, for ``work.output``.
            type: Shape and dtype, when they are known before the value.
        """
        self = cls.__new__(cls)
        self._value, self._work, self._index, self._type = value, work, index, type
        return self

    def _wait(self) -> np.ndarray:
        work = self._work
        if work is not None:
            work.wait()
            if self._value is None:
                self._value = work.output(self._index)
            self._work = None
        assert self._value is not None
        return self._value

    __iadd__, __isub__ = _in_place(np.add), _in_place(np.subtract)
    __imul__, __itruediv__ = _in_place(np.multiply), _in_place(np.divide)
    __ifloordiv__, __imod__ = _in_place(np.floor_divide), _in_place(np.remainder)
    __ipow__, __imatmul__ = _in_place(np.power), _in_place(np.matmul)
    __iand__, __ior__ = _in_place(np.bitwise_and), _in_place(np.bitwise_or)
    __ixor__ = _in_place(np.bitwise_xor)
    __ilshift__, __irshift__ = _in_place(np.left_shift), _in_place(np.right_shift)

    # Waiting

    def block_until_ready(self) -> Array:
        """Waits for the values and returns the array itself.

        Raises:
            ExecutionError: The computation failed.
        """
        self._wait()
        return self

    def is_ready(self) -> bool:
        """Whether the values, or the error of the computation, are there; never waits."""
        work = self._work
        return work is None or work.ready()

    def __await__(self) -> Generator[Any, None, Array]:
        if not self.is_ready():
            import asyncio  # slow to import, and whoever awaits has it

            waiting = asyncio.get_running_loop().run_in_executor(None, self._wait)
            yield from waiting.__await__()
        return self.block_until_ready()

    # What it is

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the dimensions; waits if they depend on the data."""
        if self._value is not None:
            return self._value.shape
        return self._wait().shape if self._type is None else self._type[0]

    @property
    def dtype(self) -> np.dtype:
        """The element type."""
        if self._value is not None:
            return self._value.dtype
        return self._wait().dtype if self._type is None else self._type[1]

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.size * self.itemsize

    @property
    def T(self) -> Array:
        """The transposed array."""
        return Array(self._wait().T)

    @property
    def mT(self) -> Array:
        """The array with the last two dimensions swapped."""
        return Array(self._wait().mT)

    @property
    def device(self) -> str:
        """The device, as NumPy says it."""
        return "cpu"

    def to_device(self, device: str, /, *, stream: Any = None) -> Array:
        """The array itself; there is only the device ``cpu``."""
        if device != "cpu":
            raise ValueError(f"arrays are on the device 'cpu', not {device!r}")
        return self

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        """``pjit.array_api``, the functions of the array API standard."""
        from pjit.array_api import namespace

        return namespace(api_version)

    # Its values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The values as a read-only NumPy array; a new one for another dtype or ``copy=True``."""
        value = self._wait()
        if copy:
            return np.array(value, dtype=dtype, copy=True)
        if dtype is None or dtype == value.dtype:
            return value
        if copy is False:
            raise ValueError(f"an array of {value.dtype} cannot be one of {dtype} without a copy")
        return value.astype(dtype)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if any(isinstance(x, Array) for x in kwargs.get("out", ())):
            raise TypeError("a pjit.Array is immutable: it cannot be `out`")
        if any(_overrides(x) for x in inputs):
            return NotImplemented  # such as a value being traced, which knows what to do with us
        values = [x._wait() if isinstance(x, Array) else x for x in inputs]
        result = getattr(ufunc, method)(*values, **kwargs)
        if "out" in kwargs or result is NotImplemented or result is None:
            return result
        return tuple(map(Array, result)) if isinstance(result, tuple) else Array(result)

    def astype(self, dtype: Any, *, copy: bool = True) -> Array:
        """The array with another element type; waits."""
        if not copy and self.dtype == dtype:
            return self
        return Array(self._wait().astype(dtype))

    def reshape(self, *shape: Any) -> Array:
        """The array with another shape; waits."""
        return Array(self._wait().reshape(*shape))

    def item(self, *index: Any) -> Any:
        """One element as a Python number; waits."""
        return self._wait().item(*index)

    def tolist(self) -> Any:
        """The values as nested lists; waits."""
        return self._wait().tolist()

    def __getitem__(self, key: Any) -> Array:
        key = tuple(map(_index, key)) if isinstance(key, tuple) else _index(key)
        return Array(self._wait()[key])

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of an array without dimensions")
        return self.shape[0]

    def __iter__(self) -> Iterator[Array]:
        return map(Array, self._wait())

    def __contains__(self, value: Any) -> bool:
        return value in self._wait()

    def __float__(self) -> float:
        return float(self._wait())

    def __int__(self) -> int:
        return int(self._wait())

    def __complex__(self) -> complex:
        return complex(self._wait())

    def __bool__(self) -> bool:
        return bool(self._wait())

    def __index__(self) -> int:
        return self._wait().__index__()

    def __format__(self, spec: str) -> str:
        return format(self._wait()[()], spec) if spec else str(self)

    def __repr__(self) -> str:
        return f"pjit.{np.array_repr(self._wait()).replace('array', 'Array', 1)}"

    def __str__(self) -> str:
        return str(self._wait())

    # Exchange

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: Any = None,
        copy: bool | None = None,
    ) -> Any:
        """The values as a DLPack capsule; waits.

        A consumer that knows DLPack 1.0 gets the memory itself, marked read-only; an older one,
        which knows no read-only memory, gets a copy.
        """
        value = self._wait()
        if max_version is None or max_version[0] < 1:
            if copy is False:
                raise BufferError("read-only memory needs a consumer of DLPack 1.0 or newer")
            value = value.copy()
        options = {"max_version": max_version, "dl_device": dl_device, "copy": copy}
        given = {k: v for k, v in options.items() if v is not None}
        return value.__dlpack__(stream=stream, **given)

    def __dlpack_device__(self) -> tuple[int, int]:
        """The CPU."""
        return (1, 0)

    def __reduce__(self) -> Any:
        return Array, (np.array(self._wait()),)


def _index(key: Any) -> Any:
    return key._wait() if isinstance(key, Array) else key


def _overrides(x: Any) -> bool:
    """Whether an operand handles ufuncs itself."""
    return (
        not isinstance(x, Array | np.ndarray)
        and hasattr(type(x), "__array_ufunc__")
        and not np.isscalar(x)
    )
