"""The tracer: stands for an array while a function is traced, and records what is done with it.

A tracer is a cell that holds an SSA value, so that in-place writes (``x += 1``, ``x[0] = y``,
``out=x``) mean what they mean in NumPy: a write replaces the value. A view (``x[1:]``, ``x.T``)
knows how to read its value from its base and how to write it back. Where NumPy may or may not copy
(``reshape``), a write is refused as long as both arrays are in use; so is a write into an argument,
which would have to change the caller's array.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import wraps
from typing import Any, NoReturn, Protocol
from weakref import ref

import numpy as np

from pjit.errors import TraceError
from pjit.ir import ops
from pjit.ir.core import Op, Value
from pjit.ir.types import dtype as element_type
from pjit.tracing.elementwise import cast
from pjit.tracing.location import where
from pjit.tracing.trace import Trace, describe, refuse, refuse_function, refuse_question

FUNCTIONS: dict[Callable, Callable] = {}
ONLY: dict[Callable, dict[str, tuple]] = {}  # options of functions that have these values only
UFUNC_METHODS: dict[str, Callable] = {}
CREATION: set[Callable] = {np.array, np.asarray, np.zeros, np.ones, np.empty, np.full, np.arange}
CREATION |= {np.eye, np.identity, np.tri}
xp: Any = np  # NumPy, where operands may be tracers
WEAK = (int, float, complex)  # Python numbers take the dtype of the array beside them


class View(Protocol):
    """How a view follows from its base; equal for views that are made alike."""

    @property
    def writable(self) -> bool:
        """Whether ``write`` may be called."""

    def read(self, t: Trace, base: Value) -> Value:
        """The value of the view."""

    def write(self, t: Trace, base: Value, new: Value) -> Value:
        """The base after the view was written."""


@dataclass(frozen=True)
class Whole:
    """A view of all elements as they are."""

    writable = True

    def read(self, t: Trace, base: Value) -> Value:
        """The base."""
        return base

    def write(self, t: Trace, base: Value, new: Value) -> Value:
        """The new elements."""
        return new


def implements(*functions: Callable, **only: tuple) -> Callable[[Callable], Callable]:
    """Registers what is traced for NumPy functions.

    Args:
        functions: The NumPy functions.
        only: Keyword arguments of NumPy that are accepted with these values only, and dropped.
    """

    def register(handler: Callable) -> Callable:
        @wraps(handler)
        def call(function: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
            for name in only.keys() & kwargs.keys():
                value = kwargs.pop(name)
                if not any(value is v or (isinstance(v, str) and value == v) for v in only[name]):
                    refuse_function(f"{qualified(function)} with {name}={value!r}")
            return handler(*args, **kwargs)

        for function in functions:
            FUNCTIONS[function], ONLY[function] = call, only
        return handler

    return register


def qualified(function: Callable) -> str:
    """``np.linalg.norm``."""
    module = getattr(function, "__module__", None) or "numpy"
    return f"{module.replace('numpy', 'np', 1)}.{getattr(function, '__name__', function)}"


def tracers(x: Any) -> Iterator[Tracer]:
    """The tracers in an argument, those in lists, tuples and dicts included."""
    if isinstance(x, Tracer):
        yield x
    elif isinstance(x, list | tuple):
        for item in x:
            yield from tracers(item)
    elif isinstance(x, dict):
        yield from tracers(list(x.values()))


def weak(x: Any) -> Any:
    """A number of Python that has the type of ``x``, if ``x`` is one, traced or not; else None."""
    if type(x) in WEAK:
        return x
    kind = getattr(type(x), "weak", None) and x.weak
    return kind(1) if kind in WEAK else None


def trace_of(*args: Any) -> Trace:
    """The trace of the first tracer among the arguments, which must be one."""
    return next(tracers(args)).context


def value_of(t: Trace, x: Any, dtype: Any = None) -> Value:
    """The value of a tracer or the constant of an array, cast to a dtype."""
    if isinstance(x, Tracer):
        if x.context is not t:
            _refuse_dead(x)
        return x.value if dtype is None else cast(t, x.value, _element(dtype))
    if isinstance(x, list | tuple) and any(True for _ in tracers(x)):
        return value_of(t, xp.stack([as_tracer(t, i) for i in x]), dtype)
    array = np.asarray(x, dtype if type(x) in WEAK else None)
    return t.constant(array if dtype is None else array.astype(dtype, copy=False))


def as_tracer(t: Trace, x: Any, dtype: Any = None) -> Tracer:
    """The tracer itself, or one for a constant or another dtype."""
    if isinstance(x, Tracer) and (dtype is None or x.dtype == dtype):
        value_of(t, x)
        return x
    return Tracer(t, value_of(t, x, dtype))


def _element(dtype: Any) -> Any:
    try:
        return element_type(np.dtype(dtype))
    except TypeError as e:
        refuse(f"arrays of dtype {np.dtype(dtype)} cannot be traced", got=str(e))


def _refuse_dead(x: Tracer) -> NoReturn:
    raise TraceError(
        f"a traced value of {x.context.name} is used after its trace has ended",
        where=where(),
        got=describe(x.raw),
        remedy="return the value from the function; do not keep it in an attribute, global or list",
    )


def _operand(x: Any) -> bool:
    known = Tracer | np.ndarray | np.generic | bool | int | float | complex | list | tuple
    return isinstance(x, known) or hasattr(x, "__array__")


def _binary(ufunc: np.ufunc) -> Any:
    def operator(self: Tracer, other: Any) -> Any:
        return ufunc(self, other) if _operand(other) else NotImplemented

    return operator


def _reflected(ufunc: np.ufunc) -> Any:
    def operator(self: Tracer, other: Any) -> Any:
        return ufunc(other, self) if _operand(other) else NotImplemented

    return operator


def _in_place(ufunc: np.ufunc) -> Any:
    """Writes into the array; a result of rank 0 is a NumPy scalar, which nothing writes into."""

    def operator(self: Tracer, other: Any) -> Any:
        if not _operand(other):
            return NotImplemented
        scalar = not self.shape and self.base is None
        return ufunc(self, other) if scalar else ufunc(self, other, out=(self,))

    return operator


def _comparison(ufunc: np.ufunc, on_none: bool | None = None) -> Any:
    def operator(self: Tracer, other: Any) -> Any:
        if other is None and on_none is not None:
            return xp.full_like(self, on_none, bool)
        return ufunc(self, other) if _operand(other) else NotImplemented

    return operator


def _method(function: Callable, name: str) -> Any:
    def method(self: Tracer, *args: Any, **kwargs: Any) -> Any:
        return function(self, *args, **kwargs)

    method.__name__, method.__doc__ = name, f"As ``np.ndarray.{name}``."
    return method


def _question(asks: str) -> Any:
    def question(self: Tracer, *args: Any, **kwargs: Any) -> NoReturn:
        refuse_question(asks, describe(self.value))

    return question


def _number(kind: type) -> Any:
    def number(self: Tracer) -> Any:
        if self.size != 1:
            raise TypeError("only length-1 arrays can be converted to Python scalars")
        return self.context.demand(self, kind)

    return number


class Tracer:
    """An array of a function that is being traced; it has a dtype and a shape but no numbers."""

    __slots__ = (
        "__weakref__",
        "aliases",
        "argument",
        "base",
        "context",
        "raw",
        "seen",
        "version",
        "window",
    )
    __hash__ = None  # type: ignore[assignment]
    __array_priority__ = 1000
    weak: type | None = None  # the type of a number of Python

    def __init__(self, trace: Trace, value: Value, argument: str = "") -> None:
        self.context, self.raw, self.argument = trace, value, argument
        self.version = self.seen = 0
        self.base: Tracer | None = None
        self.window: View | None = None
        self.aliases: list[ref[Tracer]] = []  # roots that may share memory, one list for all
        trace.born(self)

    # State

    @property
    def value(self) -> Value:
        """The value now."""
        if self.context.closed:
            _refuse_dead(self)
        if self.base is not None and self.seen != self.root.version:
            assert self.window is not None
            self.raw = self.window.read(self.context, self.base.value)
            self.seen = self.root.version
        return self.raw

    @property
    def root(self) -> Tracer:
        """The array that a view is a view of."""
        x = self
        while x.base is not None:
            x = x.base
        return x

    def emit(self, cls: type[Op], *others: Any, **attrs: Any) -> Tracer:
        """A new array: an operator of this one and others, with one result."""
        values = [value_of(self.context, x) for x in others]
        return Tracer(self.context, self.context(cls, self.value, *values, **attrs))

    def derive(self, view: View) -> Tracer:
        """A view of this array."""
        out = Tracer(self.context, view.read(self.context, self.value))
        out.base, out.window, out.seen = self, view, self.root.version
        return out

    def rebind(self, value: Value) -> None:
        """Lets an array that is no view continue with another value, its views too."""
        self.raw, self.version = value, self.version + 1

    def signature(self) -> Any:
        """What two arrays have in common that a trace treats alike, but for their type."""
        return self.window

    def alias(self, value: Value) -> Tracer:
        """An array that may share memory with this one."""
        out, root = Tracer(self.context, value), self.root
        out.argument = root.argument
        if not root.aliases:
            root.aliases.append(ref(root))
        out.aliases = root.aliases
        out.aliases.append(ref(out))
        return out

    def assign(self, value: Value) -> None:
        """Writes the whole array in place.

        Raises:
            TraceError: The array is or may be an argument, is read-only, or may share memory with
                an array in use.
        """
        root = self.root
        if root.argument:
            refuse(
                f"the function writes into its argument {root.argument}, which is the caller's",
                remedy="make a new array: `x = x + y` instead of `x += y`, or begin with "
                "`x = x.copy()`",
            )
        if any(r() is not None and r() is not root for r in root.aliases):
            refuse(
                "the array that is written may share memory with another one (reshape, ravel)",
                remedy="add .copy() to the reshape or ravel, or make a new array (`x = x + y`)",
            )
        self._store(value)

    def _store(self, value: Value) -> None:
        if self.base is None:
            self.raw, self.version = value, self.version + 1
            return
        assert self.window is not None
        if not self.window.writable:
            refuse(
                "the array that is written is a read-only view", remedy="write to a .copy() of it"
            )
        self.base._store(self.window.write(self.context, self.base.value, value))
        self.raw, self.seen = value, self.root.version

    # Protocols

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method not in UFUNC_METHODS:
            refuse_function(f"np.{ufunc.__name__}.{method}")
        return UFUNC_METHODS[method](trace_of(inputs, kwargs), ufunc, *inputs, **kwargs)

    def __array_function__(
        self, function: Callable, types: Iterable[type], args: tuple, kwargs: dict[str, Any]
    ) -> Any:
        handler = FUNCTIONS.get(function)
        if function in CREATION:  # like=self
            if any(True for _ in tracers(args)):
                return as_tracer(self.context, args[0], kwargs.get("dtype")).copy()
            return as_tracer(self.context, function(*args, **kwargs))
        if handler is None:
            refuse_function(qualified(function))
        return handler(function, args, kwargs)

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        """The array API standard, whose functions accept tracers."""
        from pjit.array_api import namespace

        return namespace(api_version)

    def to_device(self, device: str, /, *, stream: Any = None) -> Tracer:
        """The array itself; there is only the device ``cpu``."""
        if device != "cpu":
            raise ValueError(f"arrays are on the device 'cpu', not {device!r}")
        return self

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ValueError(
                "The truth value of an array with more than one element is ambiguous. Use a.any() "
                "or a.all()"
            )
        return self.context.ask(self)

    def __index__(self) -> int:
        if self.shape or (self.dtype.kind not in "iu" and self.weak is not bool):
            raise TypeError("only integer scalar arrays can be converted to a scalar index")
        return int(self.context.demand(self, int))

    __int__, __float__ = _number(int), _number(float)
    __complex__ = _question("complex()")
    __array__ = _question("np.asarray()")
    __dlpack__ = _question("__dlpack__()")

    def item(self, *index: Any) -> Any:
        """An element as a number of Python, which is traced."""
        from pjit.tracing.scalar import element

        return element(self, index)

    def tolist(self) -> Any:
        """The elements as numbers of Python in nested lists."""
        return [x.tolist() for x in self] if self.shape else self.item()

    tobytes = _question(".tobytes()")
    __reduce_ex__ = _question("pickling")

    def __repr__(self) -> str:
        if type(sys._getframe(1).f_globals) is not dict and not self.context.closed:
            return repr(shown(self))  # for the function that is traced
        return f"<traced {describe(self.raw)}>"

    def __str__(self) -> str:
        return repr(self) if self.context.closed else str(shown(self))

    def __format__(self, spec: str) -> str:
        return repr(self) if self.context.closed else format(shown(self), spec)

    def __copy__(self) -> Tracer:
        return self.copy()

    def __deepcopy__(self, memo: dict) -> Tracer:
        return self.copy()

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of unsized object")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tracer]:
        if not self.shape:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(self.shape[0]))

    def __contains__(self, item: Any) -> bool:
        return bool(xp.any(self == item))

    def __getitem__(self, index: Any) -> Any:
        from pjit.tracing.indexing import getitem

        return getitem(self, index)

    def __setitem__(self, index: Any, new: Any) -> None:
        from pjit.tracing.indexing import setitem

        setitem(self, index, new)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and hasattr(np.ndarray, name):
            refuse_function(f"ndarray.{name}")
        raise AttributeError(f"a traced array has no attribute {name!r}")

    # Operators

    __add__, __radd__, __iadd__ = _binary(np.add), _reflected(np.add), _in_place(np.add)
    __sub__, __rsub__ = _binary(np.subtract), _reflected(np.subtract)
    __isub__ = _in_place(np.subtract)
    __mul__, __rmul__ = _binary(np.multiply), _reflected(np.multiply)
    __imul__ = _in_place(np.multiply)
    __truediv__, __rtruediv__ = _binary(np.divide), _reflected(np.divide)
    __itruediv__ = _in_place(np.divide)
    __floordiv__, __rfloordiv__ = _binary(np.floor_divide), _reflected(np.floor_divide)
    __ifloordiv__ = _in_place(np.floor_divide)
    __mod__, __rmod__ = _binary(np.remainder), _reflected(np.remainder)
    __imod__ = _in_place(np.remainder)
    __divmod__, __rdivmod__ = _binary(np.divmod), _reflected(np.divmod)
    __matmul__, __rmatmul__ = _binary(np.matmul), _reflected(np.matmul)
    __imatmul__ = _in_place(np.matmul)
    __and__, __rand__ = _binary(np.bitwise_and), _reflected(np.bitwise_and)
    __iand__ = _in_place(np.bitwise_and)
    __or__, __ror__ = _binary(np.bitwise_or), _reflected(np.bitwise_or)
    __ior__ = _in_place(np.bitwise_or)
    __xor__, __rxor__ = _binary(np.bitwise_xor), _reflected(np.bitwise_xor)
    __ixor__ = _in_place(np.bitwise_xor)
    __lshift__, __rlshift__ = _binary(np.left_shift), _reflected(np.left_shift)
    __ilshift__ = _in_place(np.left_shift)
    __rshift__, __rrshift__ = _binary(np.right_shift), _reflected(np.right_shift)
    __irshift__ = _in_place(np.right_shift)
    __rpow__, __ipow__ = _reflected(np.power), _in_place(np.power)
    __eq__, __ne__ = _comparison(np.equal, False), _comparison(np.not_equal, True)
    __lt__, __le__ = _comparison(np.less), _comparison(np.less_equal)
    __gt__, __ge__ = _comparison(np.greater), _comparison(np.greater_equal)

    def __neg__(self) -> Any:
        return xp.negative(self)

    def __pos__(self) -> Any:
        return xp.positive(self)

    def __abs__(self) -> Any:
        return xp.absolute(self)

    def __invert__(self) -> Any:
        return xp.invert(self)

    def __pow__(self, other: Any) -> Any:
        """A power; NumPy computes some scalar exponents as other functions."""
        if type(other) in (int, float) and self.dtype.kind == "f":
            short = {1: np.positive, 2: np.square, -1: np.reciprocal, 0.5: np.sqrt}.get(other)
            if short is not None:
                return short(self)
        if type(other) is int and other == 2 and self.dtype.kind in "biu":
            return xp.square(self)
        return xp.power(self, other) if _operand(other) else NotImplemented

    # Attributes

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape."""
        from pjit.tracing.sizes import size

        t = self.context
        return tuple([d if type(d) is int else size(t, d) for d in self.raw.tensor.shape])

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return self.raw.tensor.rank

    @property
    def size(self) -> int:
        """The number of elements."""
        from pjit.tracing.sizes import product

        return product(self.shape)

    @property
    def dtype(self) -> np.dtype:
        """The NumPy dtype."""
        return self.raw.dtype.numpy

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.size * self.itemsize

    @property
    def device(self) -> str:
        """The device, as NumPy says it."""
        return "cpu"

    @property
    def T(self) -> Tracer:
        """The view with the dimensions reversed."""
        return xp.transpose(self)

    @property
    def mT(self) -> Tracer:
        """The view with the last two dimensions swapped."""
        return xp.matrix_transpose(self)

    @property
    def real(self) -> Tracer:
        """The array itself, as a view."""
        return self.derive(Whole())

    @property
    def imag(self) -> Tracer:
        """Zeros."""
        return xp.zeros_like(self)

    # Methods

    all, any = _method(np.all, "all"), _method(np.any, "any")
    argmax, argmin = _method(np.argmax, "argmax"), _method(np.argmin, "argmin")
    argsort, clip = _method(np.argsort, "argsort"), _method(np.clip, "clip")
    argpartition = _method(np.argpartition, "argpartition")
    choose, put = _method(np.choose, "choose"), _method(np.put, "put")
    searchsorted = _method(np.searchsorted, "searchsorted")
    conj = conjugate = _method(lambda x: x, "conjugate")
    cumprod, cumsum = _method(np.cumprod, "cumprod"), _method(np.cumsum, "cumsum")
    diagonal, dot = _method(np.diagonal, "diagonal"), _method(np.dot, "dot")
    max, min = _method(np.max, "max"), _method(np.min, "min")
    mean, std, var = _method(np.mean, "mean"), _method(np.std, "std"), _method(np.var, "var")
    nonzero, prod = _method(np.nonzero, "nonzero"), _method(np.prod, "prod")
    ravel, repeat = _method(np.ravel, "ravel"), _method(np.repeat, "repeat")
    round, squeeze = _method(np.round, "round"), _method(np.squeeze, "squeeze")
    sum, swapaxes = _method(np.sum, "sum"), _method(np.swapaxes, "swapaxes")
    take, trace = _method(np.take, "take"), _method(np.trace, "trace")

    def __round__(self, digits: int | None = None) -> Tracer:
        return xp.round(self, digits or 0)

    def astype(
        self,
        dtype: Any,
        order: str = "K",
        casting: Any = "unsafe",
        subok: bool = True,
        copy: bool = True,
    ) -> Tracer:
        """As ``np.ndarray.astype``."""
        if not np.can_cast(self.dtype, dtype, casting):
            raise TypeError(
                f"Cannot cast array data from {self.dtype!r} to {np.dtype(dtype)!r} according to "
                f"the rule {casting!r}"
            )
        if not copy and self.dtype == dtype:
            return self
        return Tracer(self.context, value_of(self.context, self, dtype))

    def copy(self, order: str = "C") -> Tracer:
        """A copy."""
        return Tracer(self.context, self.value)

    def flatten(self, order: str = "C") -> Tracer:
        """A copy of one dimension."""
        return xp.ravel(self, order=order).copy()

    def reshape(self, *shape: Any, order: str = "C", copy: bool | None = None) -> Tracer:
        """As ``np.ndarray.reshape``."""
        wanted = shape[0] if len(shape) == 1 else shape
        return xp.reshape(self, wanted, order=order, copy=copy)  # type: ignore[call-overload]

    def transpose(self, *axes: Any) -> Tracer:
        """As ``np.ndarray.transpose``."""
        wanted = axes[0] if len(axes) == 1 else axes or None
        return xp.transpose(self, wanted)

    def sort(self, axis: int = -1, kind: Any = None, order: Any = None) -> None:
        """Sorts in place."""
        self.assign(xp.sort(self, axis, kind=kind).value)

    def partition(self, kth: Any, axis: int = -1, kind: str = "introselect") -> None:
        """Sorts in place, which is a partition."""
        self.assign(xp.partition(self, kth, axis).value)

    def fill(self, value: Any) -> None:
        """Sets every element."""
        self[...] = value


def shown(x: Tracer) -> Any:
    """The number whose text the function asks for."""
    if x.shape:
        refuse_question("the text of an array", describe(x.value))
    kinds: dict[str, type] = {"b": bool, "f": float}
    kind = x.weak or kinds.get(x.dtype.kind, int)
    answer = x.context.ask(x) if kind is bool else x.context.demand(x, kind)
    return answer if x.weak else x.dtype.type(answer)


def new(t: Trace, cls: type[Op], **attrs: Any) -> Tracer:
    """An operator without operands."""
    return Tracer(t, t(cls, **attrs))


def constant_like(t: Trace, number: Any, shape: tuple[int, ...], dtype: Any) -> Tracer:
    """A number, or a value that broadcasts, in a shape."""
    return Tracer(t, t(ops.Broadcast, value_of(t, number, dtype), shape=shape))
