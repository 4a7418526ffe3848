"""How an operator is defined: one class says everything there is to know about it.

A class declares its operands and attributes, infers its result types (raising
``ConstraintError``), has a NumPy reference ``ref``, exactly one lowering, and samples for the
tests::

    class Relu(Elementwise, name="relu", onnx="Relu"):
        '''max(x, 0); NaN propagates.'''

        x = operand(NUMERIC)

        @staticmethod
        def ref(x):
            return np.maximum(x, np.zeros((), x.dtype))

        @staticmethod
        def scalar(b, x):
            return b.max(x, b.zero(x))

        samples = unary(FLOATS)

The lowering of a graph operator is one of

- ``scalar(b, *xs, **attrs)``: the element of the result as a function of the elements of the
  operands, written with the scalar primitives of ``ir.loops`` (elementwise operators);
- ``element(self, k, index)``: the element of the result at an index, by reading operands at
  computed indices and by reducing (data movement, gathers, reductions, pooling, convolution); see
  ``pjit.ir.kernel_builder.Puller``;
- ``line(self, k, at)``: a line of the result, element by element in order, where elements depend on
  those before (scatters, running sums); ``walked`` names the dimensions of a line; see
  ``pjit.ir.kernel_builder.LineWriter``;
- ``decompose(b, *operands, **attrs)``: the same value made of other operators;
- ``tile(self) -> pjit.ir.loops.Tile``: a tile contraction of its first two operands (packed
  matrix products and convolutions);
- ``host = "reason"``: no lowering; the reference runs on the host and the report says so;
- ``structural = True``: constants, control flow and terminators, which the compiler itself knows.

What is missing is reported when the class is defined.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from pjit.ir import expr
from pjit.ir.core import Op, Value
from pjit.ir.errors import ConstraintError, OpDefError, require
from pjit.ir.expr import Dim
from pjit.ir.types import DType, ScalarType, TensorType, Type, dtype

LOWERINGS = ("scalar", "element", "line", "decompose", "tile", "host", "structural")
REQUIRED = object()


@dataclass
class operand:
    """Declares an operand: the element types it accepts, and whether it may be absent or
    repeated.
    """

    dtypes: tuple[DType, ...] = ()
    optional: bool = False
    variadic: bool = False
    name: str = ""
    index: int = -1

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, op: Op | None, owner: type | None = None) -> Any:
        if op is None:
            return self
        if self.variadic:
            return op.operands[self.index :]
        if self.index >= len(op.operands):
            return None
        return op.operands[self.index]


def variadic(dtypes: tuple[DType, ...] = ()) -> operand:
    """Declares the last operand as a list of any length."""
    return operand(dtypes, variadic=True)


@dataclass
class attr:
    """Declares an attribute, with a default unless it is required."""

    default: Any = REQUIRED
    doc: str = ""
    name: str = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, op: Op | None, owner: type | None = None) -> Any:
        return self if op is None else op.attrs[self.name]


@dataclass(frozen=True)
class Signature:
    """The declared operands and attributes of an operator, in order."""

    operands: tuple[operand, ...] = ()
    attrs: tuple[attr, ...] = ()

    @functools.cached_property
    def minimum(self) -> int:
        """The least number of operands."""
        return sum(not (o.optional or o.variadic) for o in self.operands)

    @functools.cached_property
    def maximum(self) -> int | None:
        """The largest number of operands; None when unbounded."""
        if self.operands and self.operands[-1].variadic:
            return None
        return len(self.operands)

    @functools.cached_property
    def defaults(self) -> dict[str, Any]:
        """The names of the attributes, in order, and their defaults."""
        return {a.name: a.default for a in self.attrs}

    def spec(self, at: int) -> operand:
        """The declaration of operand ``at``."""
        return self.operands[min(at, len(self.operands) - 1)]


@dataclass(frozen=True)
class Arg:
    """One operand of a sample: a shape, and for integers and bounded domains a range."""

    shape: tuple[int, ...]
    dtype: DType | None = None  # None: the dtype under test
    low: float = -3.0
    high: float = 3.0
    values: tuple | None = None

    def make(self, rng: np.random.Generator, under_test: DType) -> np.ndarray:
        """Draws the operand."""
        dt = self.dtype or under_test
        if self.values is not None:
            return np.array(self.values, dt.numpy).reshape(self.shape)
        if dt.kind == "b":
            return rng.integers(0, 2, self.shape).astype(bool)
        low = max(self.low, 0) if dt.kind == "u" else self.low
        if dt.is_int:
            return rng.integers(int(low), max(int(self.high), int(low) + 1), self.shape).astype(
                dt.numpy
            )
        return rng.uniform(low, self.high, self.shape).astype(dt.numpy)


@dataclass(frozen=True)
class Sample:
    """One test case of an operator: operands, attributes, the dtypes to run it with."""

    args: tuple[Arg, ...]
    attrs: dict[str, Any] = field(default_factory=dict)
    dtypes: tuple[DType, ...] = ()
    tolerance: dict[str, float] = field(default_factory=dict)  # by dtype name; relative to max|ref|


def sample(
    *args: Arg | tuple[int, ...],
    dtypes: Sequence[DType] = (),
    tolerance: dict[str, float] | None = None,
    low: float = -3.0,
    high: float = 3.0,
    **attrs: Any,
) -> Sample:
    """Makes a Sample; a bare shape is an operand of the dtype under test in ``[low, high)``."""
    made = tuple(a if isinstance(a, Arg) else Arg(tuple(a), None, low, high) for a in args)
    return Sample(made, attrs, tuple(dtypes), tolerance or {})


REGISTRY: dict[str, type[Op]] = {}


class OpDef(Op):
    """Base of all operators; ``class Name(OpDef, name="text.name")`` registers one."""

    onnx: ClassVar[str | None] = None
    caffe: ClassVar[str | None] = None
    level: ClassVar[str] = "graph"
    samples: ClassVar[Sequence[Sample]] = ()
    pure: ClassVar[bool] = True
    vjp: ClassVar[Callable | None] = None
    __slots__ = ()

    def __init_subclass__(
        cls, name: str | None = None, onnx: str | None = None, caffe: str | None = None
    ) -> None:
        super().__init_subclass__()
        specs: dict[str, Any] = {}
        for base in reversed(cls.__mro__):
            for key, value in vars(base).items():
                if isinstance(value, operand | attr):
                    specs[key] = value
        operands = tuple(s for s in specs.values() if isinstance(s, operand))
        for i, o in enumerate(operands):
            o.index = i
        cls.signature = Signature(operands, tuple(s for s in specs.values() if isinstance(s, attr)))
        if name is None:
            return
        cls.op_name, cls.onnx, cls.caffe = name, onnx, caffe
        _check_complete(cls)
        REGISTRY[name] = cls

    @classmethod
    def lowering(cls) -> str:
        """Which of ``LOWERINGS`` the operator has."""
        return next(k for k in LOWERINGS if getattr(cls, k, None))

    @staticmethod
    def infer(*types: Any, **attrs: Any) -> Any:
        """The result type, or a tuple of them; raises ConstraintError."""
        raise NotImplementedError


def _check_complete(cls: type[OpDef]) -> None:
    missing = []
    if not (cls.__doc__ or "").strip():
        missing.append("a docstring")
    if cls.level == "graph":
        kinds = [k for k in LOWERINGS if getattr(cls, k, None)]
        if len(kinds) != 1:
            missing.append(
                f"exactly one lowering of {', '.join(LOWERINGS)} (it has {kinds or 'none'})"
            )
        if kinds != ["structural"]:
            missing += [] if hasattr(cls, "ref") else ["a NumPy reference `ref`"]
            missing += [] if len(cls.samples) else ["`samples` for the tests"]
        if cls.infer is OpDef.infer:
            missing.append("type inference `infer`")
    if cls.op_name in REGISTRY:
        missing.append(f"a name of its own ({REGISTRY[cls.op_name]} has it)")
    if missing:
        line = inspect.getsourcelines(cls)[1]
        raise OpDefError(
            f"operator {cls.op_name!r} is incomplete",
            where=f"{inspect.getsourcefile(cls)}:{line}",
            expected="; ".join(missing),
            remedy="see the module docstring of ir/opdef.py",
        )


# Equality of symbolic dimensions. An operator that needs two dimensions to be equal asks
# `same_dim`; where that depends on the symbols, the equality becomes an obligation, which the
# compiled program checks at each call.

_obligations: ContextVar[list[tuple[Dim, Dim]] | None] = ContextVar("obligations", default=None)


@contextmanager
def collecting() -> Iterator[list[tuple[Dim, Dim]]]:
    """Collects the equalities of dimensions that inference had to assume."""
    found: list[tuple[Dim, Dim]] = []
    token = _obligations.set(found)
    try:
        yield found
    finally:
        _obligations.reset(token)


def same_dim(a: Dim, b: Dim) -> bool:
    """Whether two dimensions are or must be equal; an unprovable equality is an obligation."""
    known = expr.same(a, b)
    if known is not None:
        return known
    found = _obligations.get()
    if found is not None and (a, b) not in found:
        found.append((a, b))
    return True


def _simpler(a: Dim, b: Dim) -> Dim:
    return min((a, b), key=lambda d: (not isinstance(d, int), len(str(d)), str(d)))


def broadcast_dims(a: Dim, b: Dim) -> Dim:
    """The NumPy broadcast of two dimensions; raises ConstraintError."""
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    require(same_dim(a, b), "the shapes broadcast", got=f"dimensions {a} and {b}")
    return _simpler(a, b)


def broadcast_shapes(*shapes: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """The NumPy broadcast of shapes; raises ConstraintError."""
    out: tuple[Dim, ...] = ()
    for s in shapes:
        rank = max(len(out), len(s))
        a = (1,) * (rank - len(out)) + tuple(out)
        b = (1,) * (rank - len(s)) + tuple(s)
        try:
            out = tuple(broadcast_dims(x, y) for x, y in zip(a, b, strict=True))
        except ConstraintError:
            text = " and ".join(str(list(t)) for t in shapes)
            raise ConstraintError("the shapes broadcast", got=text) from None
    return out


class Elementwise(OpDef):
    """Operators that compute each element of the result from the elements at the same place;
    operands broadcast.

    All operands have one dtype unless the class overrides ``result_dtype``.
    """

    __slots__ = ()

    @classmethod
    def result_dtype(cls, *dtypes: DType, **attrs: Any) -> DType:
        """The dtype of the result; raises ConstraintError."""
        first = dtypes[0]
        if any(d != first for d in dtypes):
            got = ", ".join(map(str, dtypes))
            raise ConstraintError("(C1) the operands have one dtype", got=got)
        return first

    @classmethod
    def infer(cls, *types: Any, **attrs: Any) -> Any:  # type: ignore[override]
        """Broadcasts the shapes."""
        dt = cls.result_dtype(*(t.dtype for t in types), **attrs)
        if all(isinstance(t, ScalarType) for t in types):
            return ScalarType(dt)
        return TensorType(dt, broadcast_shapes(*(t.shape for t in types)))


def infer_types(
    cls: type[Op], operands: Sequence[Value], attrs: dict[str, Any]
) -> tuple[Type, ...]:
    """Checks operands and attributes against the signature and infers the result types.

    Raises:
        ConstraintError: The number or dtype of an operand, an attribute or a constraint of the
            operator is not met.
    """
    sig = cls.signature
    least, most = sig.minimum, sig.maximum
    if len(operands) < least or (most is not None and len(operands) > most):
        count = f"{least}{'' if most == least else f' to {most}'}"
        raise ConstraintError(f"{cls.op_name} has {count} operands", got=len(operands))
    for i, v in enumerate(operands):
        spec = sig.spec(i)
        if spec.dtypes and getattr(v.type, "dtype", None) not in spec.dtypes:
            raise ConstraintError(
                f"operand {spec.name!r} of {cls.op_name} has a dtype it accepts",
                expected=", ".join(map(str, spec.dtypes)),
                got=v.type,
            )
    types: list[Any] = [v.type for v in operands]
    if sig.operands and sig.operands[-1].variadic:
        n = len(sig.operands) - 1
        types = [*types[:n], types[n:]]
    result = cls.infer(*types, **attrs)  # type: ignore[attr-defined]
    return tuple(result) if isinstance(result, tuple | list) else (result,)


def complete_attrs(cls: type[Op], attrs: dict[str, Any]) -> dict[str, Any]:
    """Adds defaults, makes lists tuples, and refuses unknown and missing attributes."""
    known = cls.signature.defaults
    if not attrs.keys() <= known.keys():
        unknown = ", ".join(sorted(attrs.keys() - known.keys()))
        raise ConstraintError(
            f"{cls.op_name} has no attribute {unknown}", expected=", ".join(known)
        )
    out = {}
    for name, default in known.items():
        value = attrs.get(name, default)
        if value is REQUIRED:
            raise ConstraintError(f"{cls.op_name} needs the attribute {name!r}")
        out[name] = _plain(value)
    return out


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_plain(v) for v in value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, type | np.dtype):
        return dtype(value)
    return value


def operators(level: str = "graph") -> Iterable[type[OpDef]]:
    """All registered operators of a level, by name."""
    return [c for _, c in sorted(REGISTRY.items()) if issubclass(c, OpDef) and c.level == level]
