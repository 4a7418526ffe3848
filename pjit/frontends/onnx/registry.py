"""How an ONNX operator becomes IR: the node as its importer sees it, and the table of importers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import onnx

from pjit.frontends.onnx.known import Known
from pjit.frontends.onnx.reader import Refused
from pjit.ir.builder import Builder
from pjit.ir.core import Loc, Value
from pjit.ir.expr import Dim
from pjit.ir.types import DType, TensorType

if TYPE_CHECKING:
    from pjit.frontends.onnx.importer import Importer, Scope

REQUIRED: Any = object()
KINDS = {
    "float": onnx.AttributeProto.FLOAT,
    "int": onnx.AttributeProto.INT,
    "string": onnx.AttributeProto.STRING,
    "tensor": onnx.AttributeProto.TENSOR,
    "graph": onnx.AttributeProto.GRAPH,
    "floats": onnx.AttributeProto.FLOATS,
    "ints": onnx.AttributeProto.INTS,
    "strings": onnx.AttributeProto.STRINGS,
}


class Poisoned(Exception):
    """A node cannot be imported for reasons that are recorded already."""


class Tensor:
    """What a name of the graph stands for: a value of the IR, a known value, or both.

    A known value becomes an operation only when a node uses it as data.
    """

    __slots__ = ("known", "name", "type", "values")

    def __init__(
        self,
        type: TensorType,
        value: Value | None = None,
        known: Known | None = None,
        name: str = "",
    ) -> None:
        self.type, self.known, self.name = type, known, name
        self.values: dict[Any, Value] = {}  # by block: a region cannot lend a value to its parent
        if value is not None:
            self.values[value.op.parent if value.op else value.owner] = value

    @staticmethod
    def of(result: Tensor | Known | Value, name: str = "") -> Tensor:
        """Wraps what an importer returns."""
        if isinstance(result, Tensor):
            return result
        if isinstance(result, Known):
            return Tensor(TensorType(result.dtype, result.shape), None, result, name)
        return Tensor(result.tensor, result, None, name)


class Node:
    """A node during its import: attributes, operands and the builder.

    Operands are asked for as data (``node[0]``), as known values (``node.known(1)``) or as both
    (``node.inputs``).
    """

    def __init__(
        self,
        importer: Importer,
        scope: Scope,
        proto: onnx.NodeProto,
        version: int,
        opsets: Mapping[str, int],
        inputs: Sequence[Tensor | None],
        b: Builder,
    ) -> None:
        self.importer, self.scope, self.proto = importer, scope, proto
        self.version, self.opsets = version, opsets
        self.op = proto.op_type
        self.inputs = list(inputs)
        while self.inputs and self.inputs[-1] is None:
            self.inputs.pop()
        self.b = b

    @cached_property
    def attributes(self) -> dict[str, onnx.AttributeProto]:
        """The attributes by name."""
        return {a.name: a for a in self.proto.attribute}

    def attr(self, name: str, kind: str, default: Any = REQUIRED) -> Any:
        """An attribute of a kind (``int``, ``ints``, ``float``, ``string``, ...); lists are tuples.

        Raises:
            Refused: It is missing and has no default, or is of another kind.
        """
        found = self.attributes.get(name)
        if found is None:
            if default is REQUIRED:
                raise Refused(f"the attribute {name!r} is missing")
            return default
        if found.type != KINDS[kind]:
            got = onnx.AttributeProto.AttributeType.Name(found.type).lower()
            raise Refused(f"bad attribute {name!r}: expected {kind}, got {got}")
        value = {
            "float": lambda: found.f,
            "int": lambda: found.i,
            "string": lambda: found.s.decode("utf-8", "replace"),
            "tensor": lambda: self.importer.load(found.t),
            "graph": lambda: found.g,
            "floats": lambda: tuple(found.floats),
            "ints": lambda: tuple(found.ints),
            "strings": lambda: tuple(s.decode("utf-8", "replace") for s in found.strings),
        }
        return value[kind]()

    def choice(self, name: str, default: str, allowed: Iterable[str]) -> str:
        """A string attribute that must be one of some words."""
        value, known = self.attr(name, "string", default), list(allowed)
        if value not in known:
            raise Refused(f"{name}={value!r} is not supported", f"supported: {', '.join(known)}")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """An int attribute that stands for a truth value."""
        return bool(self.attr(name, "int", int(default)))

    def has(self, i: int) -> bool:
        """Whether input ``i`` is given."""
        return i < len(self.inputs) and self.inputs[i] is not None

    def input(self, i: int) -> Tensor:
        """Input ``i``; raises Refused when it is absent."""
        found = self.inputs[i] if i < len(self.inputs) else None
        if found is None:
            raise Refused(f"input {i} is missing")
        return found

    def __getitem__(self, i: int) -> Value:
        """Input ``i`` as data."""
        return self.importer.data(self.input(i), self.b)

    def optional(self, i: int) -> Value | None:
        """Input ``i`` as data; None when it is absent."""
        return self[i] if self.has(i) else None

    @property
    def data(self) -> list[Value]:
        """All inputs as data; raises Refused when one is absent."""
        return [self[i] for i in range(len(self.inputs))]

    def type(self, i: int) -> TensorType:
        """The type of input ``i``."""
        return self.input(i).type

    def rank(self, i: int = 0) -> int:
        """The rank of input ``i``."""
        return self.type(i).rank

    def axis(self, value: int, rank: int) -> int:
        """A non-negative axis; raises Refused when it is out of range."""
        if not -rank <= value < rank:
            raise Refused(f"axis {value} is out of range for a tensor of rank {rank}")
        return value % rank

    def axes(self, values: Iterable[int], rank: int) -> tuple[int, ...]:
        """Non-negative, sorted, distinct axes."""
        found = [self.axis(int(v), rank) for v in values]
        if len(set(found)) != len(found):
            raise Refused(f"the axes {sorted(found)} repeat")
        return tuple(sorted(found))

    def known(self, i: int, what: str) -> Known:
        """Input ``i``, which has to be known now; ``what`` names it in messages."""
        found = self.input(i)
        if found.known is None:
            raise Refused(
                f"{what} is computed from data (input {i}, {found.name or 'unnamed'!r})",
                "make it a constant or compute it from shapes only",
            )
        return found.known

    def dims(self, i: int, what: str) -> tuple[Dim, ...]:
        """Input ``i`` as a vector of dimensions."""
        known = self.known(i, what)
        if not known.dtype.is_int:
            raise Refused(f"{what} has the element type {known.dtype}, not i64")
        return known.integers()

    def ints(self, i: int, what: str) -> tuple[int, ...]:
        """Input ``i`` as a vector of ints without symbols."""
        dims = self.dims(i, what)
        if not all(isinstance(d, int) for d in dims):
            raise Refused(
                f"{what} depends on a symbolic dimension: {list(dims)}", "fix that dimension"
            )
        return tuple(int(d) for d in dims if isinstance(d, int))

    def scalar(self, i: int, what: str) -> Any:
        """Input ``i`` as one Python number without symbols."""
        known = self.known(i, what)
        if known.is_symbolic or known.array.size != 1:
            raise Refused(f"{what} is not one constant number")
        return known.array.reshape(()).item()

    def const(self, value: Any, dt: DType) -> Value:
        """A constant operand."""
        return self.b.constant(value, dt)

    def result_count(self) -> int:
        """The number of outputs that are asked for."""
        names = list(self.proto.output)
        while names and not names[-1]:
            names.pop()
        return len(names)


Result: TypeAlias = Tensor | Known | Value
Handler = Callable[[Node], Result | Sequence[Result]]
HANDLERS: dict[tuple[str, str], Handler] = {}


def onnx_op(*names: str, domain: str = "") -> Callable[[Handler], Handler]:
    """Registers the importer of operators: it takes a node and gives its results."""

    def register(handler: Handler) -> Handler:
        for name in names:
            key = (domain, name)
            assert key not in HANDLERS, f"two importers of {name}"
            HANDLERS[key] = handler
        return handler

    return register


def location(proto: onnx.NodeProto) -> Loc:
    """The location of a node: its name, or that of its first output."""
    return Loc.node("onnx", node_name(proto), proto.op_type or "?")


def node_name(proto: onnx.NodeProto) -> str:
    """What to call a node in messages."""
    return proto.name or next((o for o in proto.output if o), "") or "?"
