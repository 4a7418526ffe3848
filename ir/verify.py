"""Checks IR: the invariants of ``ir.core``, the constraints of each operator, what a level allows.

- Every value is defined before it is used, in the same block or an enclosing one; a ``fused``
  region uses its arguments only.
- Parents, owners, indices and use lists are right; every operation has a location.
- A region, and the body of a function, ends with its terminator and has no other.
- Operands and attributes meet the signature, and ``infer`` gives the types of the results.
  Dimensions that depend on symbols agree unless they are provably different; ``obligations``
  lists what is assumed about them.
- The values that go into and come out of regions have the types that the operation says.
- Every constant is in the module, with its dtype and shape.
- The operations are those of the level, see ``LEVELS``; in control flow that runs on the host they
  are those of level graph; kernels have the structure that
  ``ir.loops`` describes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NoReturn

import numpy as np

from pjit.ir import expr
from pjit.ir.core import Block, Function, Loc, Module, Op, Value
from pjit.ir.errors import ConstraintError, IRError, VerifyError
from pjit.ir.expr import Dim, Expr
from pjit.ir.loops import COMBINE
from pjit.ir.opdef import OpDef, collecting, complete_attrs, infer_types, same_dim
from pjit.ir.ops.control import host_reason
from pjit.ir.printer import Printer, attribute
from pjit.ir.types import (
    INDEX,
    BufferType,
    IndexType,
    ScalarType,
    TensorType,
    Type,
    dtype,
)

CONTEXT = 5  # lines of text around the operation, before and after it
REGIONS = {
    "fused": 1,
    "bands": 1,
    "if": 2,
    "while": 2,
    "scan": 1,
    "k.for": 1,
    "k.contract": 1,
}  # others: 0
_SYMBOL = re.compile(r"[#%]?[A-Za-z_?][\w.?]*|#\d+")

Fail = Callable[..., NoReturn]


@dataclass(frozen=True)
class Level:
    """What is legal at a level.

    Attributes:
        doc: One sentence for the documentation.
        values: The classes of types that values have.
        allows: Which operators may occur.
        in_fused: Which operators may occur in the region of ``fused``.
        structure: Checks the function as a whole.
    """

    doc: str
    values: tuple[type, ...]
    allows: Callable[[type[OpDef]], bool]
    in_fused: Callable[[type[OpDef]], bool] | None = None
    structure: Callable[[Function, Fail], None] | None = None


def verify(target: Module | Function, constants: Mapping[str, np.ndarray] | None = None) -> None:
    """Checks a module, or one function.

    Args:
        target: What to check.
        constants: With a function: the constants of its module; without them they are not
            looked up.

    Raises:
        VerifyError: Something is wrong. ``where`` is the location of the operation, and a note on
            the error shows the text around it.
    """
    if isinstance(target, Function):
        _Verifier(target, constants).function_()
        return
    for name, function in target.functions.items():
        if name != function.name:
            raise VerifyError(f"the module lists the function @{function.name} as @{name}")
        _Verifier(function, target.constants).function_()


def obligations(body: Block) -> list[tuple[Dim, Dim]]:
    """The equalities of dimensions that the shapes of a (verified) block assume, each once.

    What a branch of an ``if`` in it assumes is no obligation: it may not be taken.
    """
    with collecting() as found:
        for op in _always(body):
            for inferred, stored in zip(_inferred(op) or (), op.results, strict=False):
                if stored.type != inferred:
                    _same_shape(stored.type, inferred, _symbols_before(op))
            for _, actual, expected in interface(op):
                for a, b in zip(actual, expected, strict=True):
                    _same_shape(a, b)
            if hasattr(op, "check_regions"):
                op.check_regions()
    return found


def _always(block: Block) -> Iterator[Op]:
    """The operations that run at every call, and those of loops; not the branches of an ``if``."""
    for op in block.ops:
        yield op
        if op.op_name != "if":
            for region in op.regions:
                yield from _always(region)


def _same_shape(a: Type, b: Type, known: frozenset[str] | None = None) -> None:
    """Asks for equal dimensions, but for those of ``b`` with a symbol that is not known yet."""
    for x, y in zip(getattr(a, "shape", ()), getattr(b, "shape", ()), strict=True):
        if known is None or expr.symbols(y) <= known:
            same_dim(x, y)


def _symbols_before(op: Op) -> frozenset[str]:
    """The symbols that an operation gets from its operands and attributes; others it makes."""
    shapes = [getattr(v.type, "shape", ()) for v in op.operands]
    return frozenset(_symbols_in([*shapes, *op.attrs.values()]))


def agree(a: Type, b: Type) -> bool:
    """Whether two types are equal or may be: no dimension is provably different."""
    if a == b:
        return True
    if not (isinstance(a, TensorType | BufferType) and type(a) is type(b)):
        return False
    assert isinstance(b, TensorType | BufferType)
    if a.dtype != b.dtype or len(a.shape) != len(b.shape):
        return False
    return all(expr.same(x, y) is not False for x, y in zip(a.shape, b.shape, strict=True))


def interface(op: Op) -> Iterator[tuple[str, list[Type], list[Type]]]:
    """How a group or a loop meets its region: what, the types there, the types it should be.

    Control flow says that itself, in its method ``check_regions``.
    """
    results, operands = _types(op.results), _types(op.operands)
    if op.op_name == "fused":
        (body,) = op.regions
        yield "the arguments of the region are the operands", _types(body.args), operands
        yield "the region yields the results", _yields(body), results
    elif op.op_name == "k.for":
        (body,) = op.regions
        carried = operands[op.attrs["n_index"] :]
        yield (
            "the region takes an index and the carried values",
            _types(body.args),
            [INDEX, *carried],
        )
        yield "the region yields the carried values", _yields(body), carried
    elif op.op_name == "k.contract":
        (body,) = op.regions
        wanted: list[Type] = [ScalarType(op.operands[1].dtype)]
        wanted += [INDEX] * (len(op.attrs["rows"]) + 1)
        yield "the region takes the element, the row and the column", _types(body.args), wanted
        yield "the region yields nothing", _yields(body), []


def _types(values: Iterable[Value]) -> list[Type]:
    return [v.type for v in values]


def _yields(block: Block) -> list[Type]:
    return _types(block.last.operands)


def _inferred(op: Op) -> tuple[Type, ...] | None:
    """The types that the operator infers; None for operators that take them as given."""
    try:
        return infer_types(type(op), op.operands, op.attrs)
    except NotImplementedError:
        return None


class _Verifier:
    def __init__(self, function: Function, constants: Mapping[str, np.ndarray] | None) -> None:
        self.function, self.constants = function, constants
        self.level: Level | None = None
        self.visible: set[Value] = set()
        self.defined: list[Value] = []
        self.ops: set[Op] = set()
        self.hosted = False  # in the regions of control flow that the interpreter runs

    def fail(
        self,
        op: Op | None,
        what: str,
        *,
        expected: object = None,
        got: object = None,
        cause: Exception | None = None,
    ) -> NoReturn:
        """Raises the error of an operation, or of the function."""
        name = f"@{self.function.name}" if op is None else op.op_name
        where = str(op.loc) if op is not None else f"{self.function.level} @{self.function.name}"
        error = VerifyError(f"{name}: {what}", where=where, expected=expected, got=got)
        printer = Printer({}, lenient=True)
        printer.function(self.function)
        at = printer.at.get(op, 0) if op is not None else 0
        first = max(at - CONTEXT, 0)
        rows = enumerate(printer.lines[first : at + CONTEXT + 1], first)
        error.add_note("\n".join(f"{'>' if i == at else ' '} {line}" for i, line in rows))
        raise error from cause

    def function_(self) -> None:
        f = self.function
        self.level = LEVELS.get(f.level)
        if self.level is None:
            self.fail(None, "there is no such level", expected=", ".join(LEVELS), got=f.level)
        if f.body.owner is not f:
            self.fail(None, "the body belongs to another owner")
        for key, value in f.attrs.items():
            self.check_printable(None, key, value)
        self.block(f.body, in_fused=False)
        if f.body.last.op_name != "return":
            self.fail(f.body.last, "a function ends with `return`")
        self.check_uses()
        if self.level.structure is not None:
            self.level.structure(f, self.fail)

    def block(self, block: Block, in_fused: bool) -> None:
        owner = block.owner if isinstance(block.owner, Op) else None
        if not block.ops:
            self.fail(owner, "a block ends with a terminator", got="an empty block")
        mine = []
        for i, v in enumerate(block.args):
            if v.owner is not block or v.index != i:
                self.fail(owner, f"argument {i} has a wrong owner or index")
            self.check_type(owner, v)
            mine.append(v)
            self.visible.add(v)
        for op in block.ops:
            if op.parent is not block:
                self.fail(op, "the operation belongs to another block")
            if op in self.ops:
                self.fail(op, "the operation occurs twice")
            self.ops.add(op)
            if op.terminator != (op is block.ops[-1]):
                self.fail(op, "a block ends with a terminator and has no other")
            self.operation(op, in_fused)
            mine += op.results
            self.visible.update(op.results)
        self.visible.difference_update(mine)
        self.defined += mine

    def operation(self, op: Op, in_fused: bool) -> None:
        if not isinstance(op.loc, Loc) or not op.loc.text.strip():
            raise VerifyError(
                f"{op.op_name}: an operation has a location", where=f"@{self.function.name}"
            )
        for i, v in enumerate(op.operands):
            if v not in self.visible:
                self.fail(
                    op, f"operand {i} is not defined before its use, in this block or around it"
                )
            if (op, i) not in v.uses:
                self.fail(op, f"operand {i} does not list this use")
        for i, v in enumerate(op.results):
            if v.owner is not op or v.index != i:
                self.fail(op, f"result {i} has a wrong owner or index")
            self.check_type(op, v)
        self.check_level(op, in_fused)
        self.check_attributes(op)
        self.check_inference(op)
        if op.op_name == "const":
            self.check_constant(op)
        self.check_regions(op, in_fused)

    def check_level(self, op: Op, in_fused: bool) -> None:
        assert self.level is not None
        allows = self.level.in_fused if in_fused else self.level.allows
        if self.hosted:
            allows = _graph
        if not isinstance(op, OpDef) or allows is None or not allows(type(op)):
            place = "a `fused` region" if in_fused else f"level {self.function.level}"
            self.fail(op, f"no operator of {place}")

    def check_type(self, op: Op | None, v: Value) -> None:
        assert self.level is not None
        if not isinstance(v.type, self.level.values):
            kinds = ", ".join(t.__name__ for t in self.level.values)
            self.fail(
                op,
                f"a value has no type of level {self.function.level}",
                expected=kinds,
                got=v.type,
            )
        for d in getattr(v.type, "shape", ()):
            if isinstance(d, int) and d < 0:
                self.fail(op, "a dimension is not negative", got=v.type)
            if isinstance(d, Expr) and not all(map(_SYMBOL.fullmatch, expr.symbols(d))):
                self.fail(op, "a symbol of a dimension is an identifier", got=v.type)

    def check_attributes(self, op: Op) -> None:
        known = [a.name for a in op.signature.attrs]
        missing = [k for k in known if k not in op.attrs]
        if missing:
            self.fail(op, "an attribute is missing", expected=", ".join(missing))
        try:
            complete_attrs(type(op), op.attrs)
        except ConstraintError as e:
            self.fail(op, e.what, expected=e.expected, got=e.got)
        for key, value in op.attrs.items():
            self.check_printable(op, key, value)

    def check_printable(self, op: Op | None, key: str, value: Any) -> None:
        try:
            attribute(value)
        except IRError as e:
            self.fail(op, f"the attribute {key!r} has no text form", expected=e.expected, got=e.got)

    def check_inference(self, op: Op) -> None:
        try:
            inferred = _inferred(op)
        except ConstraintError as e:
            got = e.got if e.got is not None else ", ".join(map(str, _types(op.operands)))
            self.fail(op, e.what, expected=e.expected, got=got)
        except (TypeError, ValueError, AttributeError, IndexError, KeyError, AssertionError) as e:
            self.fail(op, f"its attributes or operands cannot be right ({e!r})", cause=e)
        if inferred is not None:
            self.check_agree(
                op, "the results have the inferred types", _types(op.results), list(inferred)
            )

    def check_agree(
        self, op: Op, what: str, actual: Sequence[Type], expected: Sequence[Type]
    ) -> None:
        if len(actual) != len(expected) or not all(map(agree, actual, expected)):
            text = [", ".join(map(str, ts)) or "none" for ts in (expected, actual)]
            self.fail(op, what, expected=text[0], got=text[1])

    def check_constant(self, op: Op) -> None:
        if self.constants is None:
            return
        array = self.constants.get(op.attrs["value"])
        if array is None:
            self.fail(op, f"the module has no constant @{op.attrs['value']}")
        found = TensorType(dtype(array.dtype), tuple(array.shape))
        self.check_agree(op, "the constant has the type of the array", _types(op.results), [found])

    def check_regions(self, op: Op, in_fused: bool) -> None:
        wanted = REGIONS.get(op.op_name, 0)
        if len(op.regions) != wanted:
            self.fail(op, f"{op.op_name} has {wanted} regions", got=len(op.regions))
        outer, hosted = self.visible, self.hosted
        if op.op_name in _CONTROL and host_reason(op):
            self.hosted = True
        for region in op.regions:
            if region.owner is not op:
                self.fail(op, "a region belongs to another owner")
            if op.op_name == "fused":
                self.visible = set()
            self.block(region, in_fused or op.op_name == "fused")
            self.visible = outer
            wanted_end = "k.yield" if self.function.level == "kernel" else "yield"
            if region.last.op_name != wanted_end:
                self.fail(region.last, f"a region ends with `{wanted_end}`")
        self.hosted = hosted
        for what, actual, expected in interface(op):
            self.check_agree(op, what, actual, expected)
        if hasattr(op, "check_regions"):
            try:
                op.check_regions()
            except ConstraintError as e:
                self.fail(op, e.what, expected=e.expected, got=e.got)

    def check_uses(self) -> None:
        for v in self.defined:
            for user, i in v.uses:
                held = user in self.ops and i < len(user.operands) and user.operands[i] is v
                if not held:
                    self.fail(
                        v.op, "a use list names an operation that does not use the value", got=user
                    )


# Kernels


def _check_kernel(f: Function, fail: Fail) -> None:
    outputs, listed = f.attrs.get("outputs"), f.attrs.get("symbols")
    if not isinstance(outputs, int) or not 1 <= outputs <= len(f.args):
        fail(None, "the attribute `outputs` counts the buffers that the kernel writes", got=outputs)
    if not isinstance(listed, list | tuple):
        fail(None, "the attribute `symbols` lists the sizes of the kernel", got=listed)
    for v in f.args:
        if not isinstance(v.type, BufferType):
            fail(None, "the arguments of a kernel are buffers", got=v.type)
        unknown = set().union(*map(expr.symbols, v.type.shape)) - set(listed)
        if unknown:
            fail(
                None, "the attribute `symbols` lists all sizes", expected=", ".join(sorted(unknown))
            )
    _check_nest(f, fail)
    written = set(f.args[len(f.args) - outputs :])
    for op in f.walk():
        _check_kernel_op(op, set(listed), written, fail)


def _check_nest(f: Function, fail: Fail) -> None:
    ops = list(f.body.ops)
    while ops and ops[0].op_name == "k.scratch":
        ops.pop(0)
    nests = [op for op in ops if op.op_name == "k.for"]
    if len(nests) != 1 or nests[0].attrs["kind"] != "parallel":
        at = nests[-1] if nests else None
        fail(
            at,
            "a kernel has exactly one outermost loop, and it is parallel",
            got=f"{len(nests)} loops",
        )
    for op in ops:
        if op is not nests[0] and op.op_name != "return":
            fail(op, "a kernel is scratch memory, then one parallel nest, then `return`")
    nest = {nests[0]}
    inner: Op | None = nests[0]
    while (
        inner is not None
    ):  # a parallel loop holds one parallel loop and nothing else, or no parallel loop
        first = inner.regions[0].ops[0]
        perfect = first.op_name == "k.for" and first.attrs["kind"] == "parallel"
        inner = first if perfect and len(inner.regions[0].ops) == 2 else None
        if inner is not None:
            nest.add(inner)
    for op in f.walk():
        if op.op_name == "k.for" and op.attrs["kind"] == "parallel" and op not in nest:
            fail(op, "the parallel loops are one perfect nest, outside all other loops")
        if op.op_name == "k.scratch" and op.parent is not f.body:
            fail(op, "scratch memory is allocated before the first loop")


def _check_kernel_op(op: Op, sizes: set[str], written: set[Value], fail: Fail) -> None:
    if op.op_name == "k.scratch" and not all(isinstance(d, int) for d in op.attrs["shape"]):
        fail(op, "the sizes of scratch memory are static", got=op.attrs["shape"])
    if op.op_name == "k.store":
        target = op.operands[1]
        if target not in written and (target.op is None or target.op.op_name != "k.scratch"):
            fail(op, "a kernel writes its last `outputs` buffers and its scratch memory only")
    if op.op_name == "k.for":
        unknown = [c for c in op.attrs["combine"] if c not in COMBINE]
        if unknown:
            fail(
                op,
                "`combine` names primitives that join partial results",
                expected=", ".join(COMBINE),
            )
    indices = _index_operands(op)
    if not all(isinstance(v.type, IndexType) for v in indices):
        fail(op, "an index operand has the type index", got=", ".join(map(str, _types(indices))))
    positions = {f"#{i}" for i in range(len(indices))}
    for key, value in op.attrs.items():
        extra = _contraction_atoms(op, key) if op.op_name == "k.contract" else set()
        unknown_symbols = _symbols_in(value) - sizes - positions - extra
        if unknown_symbols:
            fail(
                op,
                f"an expression of `{key}` has unknown symbols",
                got=", ".join(sorted(unknown_symbols)),
            )


def _index_operands(op: Op) -> tuple[Value, ...]:
    if op.op_name == "k.for":
        return op.operands[: op.attrs["n_index"]]
    last = op.signature.operands[-1:]
    return op.operands[last[0].index :] if last and last[0].name == "index" else ()


def _contraction_atoms(op: Op, key: str) -> set[str]:
    rows = {f"#r{i}" for i in range(len(op.attrs["rows"]))}
    taps = {f"#t{i}" for i in range(len(op.attrs["taps"]))}
    atoms = {"a_map": rows | taps | {"#k"}, "a_guards": rows | taps, "b_map": taps | {"#k", "#c"}}
    return atoms.get(key, set())


def _symbols_in(value: Any) -> set[str]:
    if isinstance(value, Expr):
        return set(expr.symbols(value))
    if isinstance(value, list | tuple):
        return set(chain.from_iterable(map(_symbols_in, value)))
    return set()


# Levels

_CONTROL = {"if", "while", "scan"}
_SMALL = {"const", "sizes", "reshape", "return", "yield", "fused", *_CONTROL}


def _graph(cls: type[OpDef]) -> bool:
    return cls.level == "graph" and cls.op_name not in ("fused", "launch", "bands")


def _fused(cls: type[OpDef]) -> bool:
    return cls.op_name in _SMALL or (cls.level == "graph" and cls.lowering() == "host")


def _inside_fused(cls: type[OpDef]) -> bool:
    return _graph(cls) and cls.lowering() != "host" and cls.op_name not in {*_CONTROL, "return"}


LEVELS: dict[str, Level] = {
    "graph": Level("Operators on tensors; no `fused`.", (TensorType,), _graph),
    "fused": Level(
        "Kernels to be: `fused` groups; constants, sizes, reshapes, host operators, control flow.",
        (TensorType,),
        _fused,
        _inside_fused,
    ),
    "kernel": Level(
        "Loops over buffers, see `ir/loops.py`.",
        (BufferType, ScalarType, IndexType),
        lambda cls: cls.level == "kernel" or cls.op_name == "return",
        structure=_check_kernel,
    ),
    "program": Level(
        "Launches of kernels, in order; host operators and control flow between them.",
        (TensorType,),
        lambda cls: cls.level in ("graph", "program") and cls.op_name != "fused",
    ),
}
