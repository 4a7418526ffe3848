"""Prints IR as text; see ``pjit.ir.text`` for the form."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

import numpy as np

from pjit.ir.core import Block, Function, Module, Op, Value
from pjit.ir.errors import IRError
from pjit.ir.expr import Call, Expr, Sym
from pjit.ir.opdef import REQUIRED
from pjit.ir.types import DTYPES, DType, Type, dtype

INLINE_ELEMENTS = 16  # constants of at most this many elements are written out
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
SYMBOL = re.compile(r"[\w.\-/]+")
WORDS = {"true", "false", "none", "inf", "nan", *DTYPES}


def print_module(module: Module, *, locations: bool = True) -> str:
    """The text of a module.

    Args:
        module: What to print.
        locations: Whether each operation's location follows it as a comment.

    Raises:
        IRError: An attribute has a value that the text has no form for.
    """
    printer = Printer(module.constants, locations=locations)
    for i, f in enumerate(module.functions.values()):
        if i:
            printer.lines.append("")
        printer.function(f)
    return "\n".join([*printer.lines, ""])


def print_function(
    function: Function,
    constants: Mapping[str, np.ndarray] | None = None,
    *,
    locations: bool = True,
) -> str:
    """The text of one function; of ``constants``, its module's, small ones are written out."""
    printer = Printer(constants or {}, locations=locations)
    printer.function(function)
    return "\n".join([*printer.lines, ""])


class Printer:
    """Collects the lines of functions; ``at`` says on which line each operation begins.

    With ``lenient`` broken IR is printed as far as possible (for the messages of the verifier).
    """

    def __init__(
        self,
        constants: Mapping[str, np.ndarray],
        *,
        locations: bool = True,
        lenient: bool = False,
    ) -> None:
        self.constants, self.locations, self.lenient = constants, locations, lenient
        self.lines: list[str] = []
        self.at: dict[Op, int] = {}
        self._names: dict[Value, str] = {}
        self._taken: set[str] = set()
        self._count = 0

    def function(self, f: Function) -> None:
        """Prints a function."""
        self._names, self._taken, self._count = {}, set(), 0
        keyword, attrs = f.level, dict(f.attrs)
        if keyword == "fused":
            keyword, attrs = "graph", {"level": "fused", **attrs}
        head = f"{keyword} {symbol(f.name)}({self._arguments(f.body)})"
        last = f.body.ops[-1] if f.body.ops else None
        if f.level != "kernel" and last is not None and last.op_name == "return":
            types = _types(v.type for v in last.operands)
            head += f" -> {types}" if len(last.operands) == 1 else f" -> ({types})"
        zero = sorted(n for n, s in dimension_symbols(f).items() if s.low == 0)
        if zero:
            attrs["may_be_zero"] = zero
        if attrs:
            head += f" {self._attributes(attrs)}"
        self.lines.append(head + " {")
        self._block(f.body, "  ")
        self.lines.append("}")

    def name(self, value: Value) -> str:
        """The name of a value: its own if it is unique and an identifier, else a number."""
        found = self._names.get(value)
        if found is None:
            found = value.name
            if found in self._taken or not IDENTIFIER.fullmatch(found):
                found, self._count = str(self._count), self._count + 1
            self._taken.add(found)
            self._names[value] = found
        return f"%{found}"

    def _arguments(self, block: Block) -> str:
        return ", ".join(f"{self.name(v)}: {v.type}" for v in block.args)

    def _attributes(self, attrs: Mapping[str, Any]) -> str:
        rows = (f"{k}={attribute(v, lenient=self.lenient)}" for k, v in attrs.items())
        return "{" + ", ".join(rows) + "}"

    def _block(self, block: Block, indent: str) -> None:
        for op in block.ops:
            self._op(op, indent)

    def _op(self, op: Op, indent: str) -> None:
        self.at[op] = len(self.lines)
        operands = ", ".join(self.name(v) for v in op.operands)
        body = f"{op.op_name} {operands}".rstrip()
        if op.op_name == "const":
            body += self._constant(op)
        elif attrs := shown_attributes(op):
            body += f" {self._attributes(attrs)}"
        if op.results:
            body += f" : {_types(v.type for v in op.results)}"
            body = ", ".join(self.name(v) for v in op.results) + f" = {body}"
        comment = f"   // {op.loc}" if self.locations else ""
        for i, region in enumerate(op.regions):
            body = f"{body} {{" if i == 0 else f"{indent}}} {{"
            if region.args:
                body += f" ({self._arguments(region)}):"
            self.lines.append(f"{indent}{body}{comment}" if i == 0 else body)
            self._block(region, indent + "  ")
        self.lines.append(f"{indent}}}" if op.regions else f"{indent}{body}{comment}")

    def _constant(self, op: Op) -> str:
        name = op.attrs["value"]
        if name not in self.constants or prod(op.attrs["shape"]) > INLINE_ELEMENTS:
            return f" {symbol(name)}"
        array = self.constants[name]
        dt = dtype(array.dtype)
        items = [element(x, dt) for x in np.asarray(array).reshape(-1)]
        return f" {symbol(name)} = {items[0] if array.ndim == 0 else '[' + ', '.join(items) + ']'}"


def _types(types: Iterable[Type]) -> str:
    return ", ".join(str(t) for t in types)


def dimension_symbols(f: Function) -> dict[str, Sym]:
    """The symbols of dimensions in the types and attributes of a function (not ``#0``)."""
    found: dict[str, Sym] = {}
    for value in f.attrs.values():
        _collect(value, found)
    for v in f.args:
        _collect(getattr(v.type, "shape", ()), found)
    for op in f.walk():
        for value in op.attrs.values():
            _collect(value, found)
        for v in (*op.results, *(a for r in op.regions for a in r.args)):
            _collect(getattr(v.type, "shape", ()), found)
    return found


def _collect(value: Any, found: dict[str, Sym]) -> None:
    if isinstance(value, list | tuple):
        for v in value:
            _collect(v, found)
    elif isinstance(value, Expr):
        for monomial, _ in value.terms:
            for atom in monomial:
                if isinstance(atom, Call):
                    _collect((atom.lhs, atom.rhs), found)
                elif not atom.name.startswith("#"):
                    found[atom.name] = atom


def symbol(name: str) -> str:
    """``@name``, quoted when it has unusual characters."""
    return f"@{name}" if SYMBOL.fullmatch(name) else f"@{json.dumps(name)}"


def shown_attributes(op: Op) -> dict[str, Any]:
    """The attributes that differ from their defaults, in the order of the signature."""
    defaults = {a.name: a.default for a in op.signature.attrs}
    order = [k for k in defaults if k in op.attrs] + [k for k in op.attrs if k not in defaults]
    return {k: op.attrs[k] for k in order if not identical(op.attrs[k], defaults.get(k, REQUIRED))}


def identical(a: Any, b: Any) -> bool:
    """Whether two attribute values are the same, types and signs of zero included."""
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(identical(x, y) for x, y in zip(a, b, strict=True))
    if type(a) is not type(b):
        return False
    return repr(a) == repr(b) if isinstance(a, float) else bool(a == b)


def attribute(value: Any, *, lenient: bool = False) -> str:
    """The text of an attribute value.

    Raises:
        IRError: There is no text for such a value, unless ``lenient``.
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        return "[" + ",".join(attribute(v, lenient=lenient) for v in value) + "]"
    if isinstance(value, Expr):
        text = str(value)
        return f"({text})" if text.removeprefix("-") in WORDS else text
    if type(value) in (int, float) or isinstance(value, DType):
        return str(value)
    if lenient:
        return f"<{value!r}>"
    raise IRError(
        f"an attribute cannot be a {type(value).__name__}",
        expected="int, float, bool, str, None, DType, a symbolic expression, or a list of them",
        got=repr(value),
    )


def element(x: np.generic, dt: DType) -> str:
    """The text of one element of a constant; ``parse_element`` gives back the same bits."""
    if dt.kind == "b":
        return "true" if x else "false"
    if dt.is_int:
        return str(int(x))  # type: ignore[call-overload]
    bits = x.tobytes()
    for text in (str(x), repr(float(x))):  # type: ignore[arg-type]
        if parse_element(text, dt).tobytes() == bits:
            return text
    return f"0x{int.from_bytes(bits, 'little'):0{2 * dt.itemsize}x}"


def parse_element(text: str, dt: DType) -> np.generic:
    """The element that ``element`` printed; ``0x`` gives the bits of a float.

    Raises:
        ValueError: The text is not an element of the dtype.
    """
    if dt.kind == "b":
        if text not in ("true", "false"):
            raise ValueError(f"not a bool: {text!r}")
        return np.bool_(text == "true")
    if dt.is_int:
        if not np.iinfo(dt.numpy).min <= int(text) <= np.iinfo(dt.numpy).max:
            raise ValueError(f"{text} is out of the range of {dt}")
        return dt.numpy.type(int(text))
    if text.startswith("0x"):
        bits = int(text, 16).to_bytes(dt.itemsize, "little")
        return np.frombuffer(bits, dt.numpy)[0]
    with np.errstate(over="ignore"):
        return dt.numpy.type(float(text))
