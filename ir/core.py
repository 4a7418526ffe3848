"""The IR: modules of functions of blocks of operations in SSA form.

Invariants (checked by ``ir.verify``): every value is defined before it is used, in the same block
or an enclosing one; every operation knows its block; a value's use list holds each (operation,
operand position) exactly once; every operation has a location; a block that belongs to an
operation ends with a terminator.

Control flow is structured: a region is one block, run by the operation that holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pjit.ir.types import TensorType, Type

if TYPE_CHECKING:
    from pjit.ir.opdef import Signature


@dataclass(frozen=True)
class Loc:
    """Where an operation comes from: a Python file and line, an ONNX node, a Caffe layer."""

    text: str

    def __post_init__(self) -> None:
        if not self.text.strip() or "\n" in self.text:
            raise ValueError("a location is one non-empty line")

    @staticmethod
    def python(file: str, line: int) -> Loc:
        """A line of a Python file."""
        return Loc(f"{file}:{line}")

    @staticmethod
    def node(format: str, name: str, op: str) -> Loc:
        """A node of an imported file."""
        return Loc(" ".join(f"{format} node {name!r} ({op})".split()))

    @staticmethod
    def merge(locs: Iterable[Loc], limit: int = 4) -> Loc:
        """The location of an operation that stands for several."""
        parts = list(dict.fromkeys(p for x in locs for p in x.text.split("; ")))
        shown = [p for p in parts[:limit] if p != "..."]
        return Loc("; ".join([*shown, "..."] if len(parts) > limit else shown))

    def __str__(self) -> str:
        return self.text


class Value:
    """A value in SSA form: defined once, by an operation or as a block argument."""

    __slots__ = ("index", "name", "owner", "type", "uses")

    def __init__(self, type: Type, owner: Op | Block, index: int, name: str = "") -> None:
        self.type = type
        self.owner = owner
        self.index = index
        self.name = name
        self.uses: dict[tuple[Op, int], None] = {}

    @property
    def op(self) -> Op | None:
        """The operation that defines the value; None for a block argument."""
        return self.owner if isinstance(self.owner, Op) else None

    @property
    def users(self) -> list[Op]:
        """The operations that use the value, each once, in the order of the uses."""
        return list(dict.fromkeys(op for op, _ in self.uses))

    @property
    def tensor(self) -> TensorType:
        """The type, known to be a tensor."""
        assert isinstance(self.type, TensorType), self.type
        return self.type

    @property
    def shape(self) -> tuple:
        """The shape of a tensor or buffer."""
        return self.type.shape  # type: ignore[union-attr]

    @property
    def dtype(self):
        """The element type."""
        return self.type.dtype  # type: ignore[union-attr]

    def replace_by(self, other: Value) -> None:
        """Makes every user use the other value."""
        for op, at in list(self.uses):
            op.set_operand(at, other)

    def __repr__(self) -> str:
        return f"<Value {self.name or '?'} : {self.type}>"


class Op:
    """An operation. Each operator is a subclass (see ``ir.opdef``); it has no state of its own."""

    op_name: ClassVar[str] = "?"
    signature: ClassVar[Signature]
    terminator: ClassVar[bool] = False

    __slots__ = ("_operands", "attrs", "loc", "parent", "regions", "results")

    def __init__(
        self,
        operands: Iterable[Value],
        attrs: Mapping[str, Any],
        result_types: Iterable[Type],
        loc: Loc,
        regions: Iterable[Block] = (),
    ) -> None:
        self.attrs = dict(attrs)
        self.loc = loc
        self.parent: Block | None = None
        self._operands: tuple[Value, ...] = ()
        self.operands = tuple(operands)
        self.results = tuple(Value(t, self, i) for i, t in enumerate(result_types))
        self.regions = tuple(regions)
        for r in self.regions:
            r.owner = self

    @property
    def operands(self) -> tuple[Value, ...]:
        """The operands, in order; assigning keeps the use lists right."""
        return self._operands

    @operands.setter
    def operands(self, values: Iterable[Value]) -> None:
        for i, v in enumerate(self._operands):
            v.uses.pop((self, i), None)
        self._operands = tuple(values)
        for i, v in enumerate(self._operands):
            v.uses[self, i] = None

    def set_operand(self, at: int, value: Value) -> None:
        """Replaces one operand."""
        self._operands[at].uses.pop((self, at), None)
        self._operands = (*self._operands[:at], value, *self._operands[at + 1 :])
        value.uses[self, at] = None

    @property
    def result(self) -> Value:
        """The only result."""
        assert len(self.results) == 1, f"{self.op_name} has {len(self.results)} results"
        return self.results[0]

    @property
    def type(self) -> TensorType:
        """The tensor type of the only result."""
        return self.result.tensor

    def walk(self) -> Iterator[Op]:
        """This operation and those in its regions, outer first."""
        yield self
        for r in self.regions:
            yield from r.walk()

    def erase(self) -> None:
        """Takes the operation out of its block; its results must be unused."""
        for r in self.results:
            assert not r.uses, f"{self.op_name} at {self.loc} is still used"
        for region in self.regions:
            for inner in reversed(list(region.ops)):
                for r in inner.results:
                    r.uses.clear()
                inner.erase()
        self.operands = ()
        if self.parent is not None:
            self.parent.ops.remove(self)
            self.parent = None

    def __repr__(self) -> str:
        return f"<{self.op_name} at {self.loc}>"


class Block:
    """A list of operations with arguments; the body of a function or a region of an operation."""

    __slots__ = ("args", "ops", "owner")

    def __init__(self, arg_types: Iterable[Type] = (), names: Iterable[str] = ()) -> None:
        self.args: list[Value] = []
        self.ops: list[Op] = []
        self.owner: Op | Function | None = None
        names = list(names)
        for i, t in enumerate(arg_types):
            self.add_arg(t, names[i] if i < len(names) else "")

    def add_arg(self, type: Type, name: str = "") -> Value:
        """Appends a block argument."""
        value = Value(type, self, len(self.args), name)
        self.args.append(value)
        return value

    def append(self, op: Op) -> Op:
        """Adds an operation at the end."""
        return self.insert(len(self.ops), op)

    def insert(self, at: int, op: Op) -> Op:
        """Adds an operation before position ``at``."""
        assert op.parent is None, f"{op.op_name} is in a block already"
        self.ops.insert(at, op)
        op.parent = self
        return op

    def insert_before(self, anchor: Op, op: Op) -> Op:
        """Adds an operation before another one of this block."""
        return self.insert(self.ops.index(anchor), op)

    @property
    def last(self) -> Op:
        """The terminator."""
        return self.ops[-1]

    def walk(self) -> Iterator[Op]:
        """All operations, those in regions after the operation that holds them."""
        for op in list(self.ops):
            yield from op.walk()

    def __repr__(self) -> str:
        return f"<Block of {len(self.ops)} operations>"


@dataclass(eq=False)
class Function:
    """A named block. ``level`` is ``graph``, ``fused``, ``kernel`` or ``program`` (see
    ``ir.verify``).
    """

    name: str
    body: Block
    level: str = "graph"
    attrs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.body.owner = self

    @property
    def args(self) -> list[Value]:
        """The arguments."""
        return self.body.args

    @property
    def results(self) -> tuple[Value, ...]:
        """The operands of the ``return``."""
        return self.body.last.operands

    def walk(self) -> Iterator[Op]:
        """All operations, those in regions included."""
        return self.body.walk()


class Constants(MutableMapping[str, np.ndarray]):
    """The arrays of a module by name.

    One may be stored as the function that makes it, which runs when the array is first asked for:
    packed weights take memory from the time on when the code that reads them is made.
    """

    __slots__ = ("_arrays",)

    def __init__(self, arrays: Mapping[str, np.ndarray] = MappingProxyType({})) -> None:
        self._arrays: dict[str, np.ndarray | Callable[[], np.ndarray]] = {}
        self._arrays.update(arrays._arrays if isinstance(arrays, Constants) else arrays)

    def __getitem__(self, name: str) -> np.ndarray:
        found = self._arrays[name]
        if callable(found):
            found = self._arrays[name] = found()
        return found

    def __setitem__(self, name: str, array: np.ndarray | Callable[[], np.ndarray]) -> None:
        self._arrays[name] = array

    def __delitem__(self, name: str) -> None:
        del self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __contains__(self, name: object) -> bool:
        return name in self._arrays

    def stored(self, name: str) -> object:
        """The array, or the function that makes it: one object for what is one constant."""
        return self._arrays[name]


@dataclass(eq=False)
class Module:
    """Functions and the constants that they share, by name."""

    functions: dict[str, Function] = field(default_factory=dict)
    constants: Constants = field(default_factory=Constants)

    def add(self, function: Function) -> Function:
        """Adds a function, whose name must be new."""
        assert function.name not in self.functions, function.name
        self.functions[function.name] = function
        return function

    @property
    def main(self) -> Function:
        """The function that a call runs: the first one."""
        return next(iter(self.functions.values()))

    def add_constant(self, array: np.ndarray | Callable[[], np.ndarray], name: str = "c") -> str:
        """Stores an array, or what makes it, under a fresh name made from ``name``; the same object
        is stored once.
        """
        base = "".join(ch if ch.isalnum() or ch in "_.-/" else "_" for ch in name) or "c"
        fresh, n = base, 1
        while fresh in self.constants:
            if self.constants.stored(fresh) is array:
                return fresh
            fresh, n = f"{base}.{n}", n + 1
        self.constants[fresh] = array
        return fresh
