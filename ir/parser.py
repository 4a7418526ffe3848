"""Parses the text of IR in one pass; see ``pjit.ir.text`` for the form."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import numpy as np

from pjit.ir import expr
from pjit.ir.core import Block, Function, Loc, Module, Op, Value
from pjit.ir.errors import ConstraintError, ParseError
from pjit.ir.expr import Dim
from pjit.ir.opdef import REGISTRY, complete_attrs, infer_types
from pjit.ir.printer import parse_element
from pjit.ir.types import DTYPES, TensorType, Type, parse_type
from pjit.ir.verify import agree

T = TypeVar("T")
LEVELS = ("graph", "kernel", "program")

_STRING = r'"(?:[^"\\]|\\.)*"'
_COMMENT = re.compile(rf'^((?:{_STRING}|[^"])*?)(?:(?<=\s)|^)//(.*)$')
_SPACE = re.compile(r"\s*")
_VALUE = re.compile(r"%([A-Za-z_][A-Za-z0-9_.]*|\d+)")
_SYMBOL = re.compile(rf"@(?:([\w.\-/]+)|({_STRING}))")
_WORD = re.compile(r"[A-Za-z_][\w.]*")
_TYPE = re.compile(r"(?:buf\s+)?[A-Za-z]\w*(?:\[[^\[\]{}]*\])?")
_ATTRIBUTES = re.compile(r"\{\s*(?:\}|[A-Za-z_]\w*\s*=)")
_MAY_BE_ZERO = re.compile(r"[^\n]*[{ ]may_be_zero=(\[[^\]\n]*\])")
_INT = re.compile(r"-?\d+")
_FLOAT = re.compile(r"-?(?:\d+\.\d*(?:e[+-]?\d+)?|\d+e[+-]?\d+|inf|nan)")
_ELEMENT = re.compile(r"[-+\w.]+")
_CONSTANTS = {"true": True, "false": False, "none": None}


def parse_module(
    text: str, constants: Mapping[str, np.ndarray] | None = None, *, name: str = "<text>"
) -> Module:
    """Parses a module; the inverse of ``print_module``.

    Args:
        text: The text.
        constants: Arrays of the constants that the text does not write out. Those that the text
            names become the constants of the module; one that is neither given nor written out is
            missing from it.
        name: What the text is called in errors and in locations.

    Raises:
        ParseError: The text is not IR; ``where`` has the line and the column.
    """
    import pjit.ir.loops
    import pjit.ir.ops  # noqa: F401  (both register the operators)

    return _Parser(text, constants or {}, name).module()


class _Parser:
    def __init__(self, text: str, constants: Mapping[str, np.ndarray], name: str) -> None:
        self.name, self.given = name, constants
        self.source = text.split("\n")
        self.comments: dict[int, str] = {}
        lines = []
        for at, line in enumerate(self.source):
            match = _COMMENT.match(line) if "//" in line else None
            if match:
                self.comments[at] = match[2].removeprefix(" ")
                line = match[1].ljust(len(line))
            lines.append(line)
        self.text = "\n".join(lines)
        self.starts = [0]
        for line in lines:
            self.starts.append(self.starts[-1] + len(line) + 1)
        self.pos = 0
        self.scope: dict[str, Value] = {}
        self.zero: frozenset[str] = frozenset()  # the dimensions that may be 0
        self.result = Module()

    # Reading

    def line(self, at: int) -> int:
        return bisect_right(self.starts, at) - 1

    def fail(
        self, what: str, *, at: int | None = None, cause: Exception | None = None, **more: Any
    ) -> NoReturn:
        """Raises a ParseError at a position (by default the present one)."""
        at = min(self.pos if at is None else at, len(self.text))
        line = self.line(at)
        where = f"{self.name}:{line + 1}:{at - self.starts[line] + 1}"
        more.setdefault("got", self.source[line].strip() or "an empty line")
        raise ParseError(what, where=where, **more) from cause

    def space(self) -> None:
        match = _SPACE.match(self.text, self.pos)
        assert match
        self.pos = match.end()

    def peek(self, token: str) -> bool:
        self.space()
        return self.text.startswith(token, self.pos)

    def accept(self, token: str) -> bool:
        if not self.peek(token):
            return False
        self.pos += len(token)
        return True

    def expect(self, token: str) -> None:
        if not self.accept(token):
            self.fail("the text of the IR has a syntax error", expected=repr(token))

    def match(self, pattern: re.Pattern[str], expected: str) -> re.Match[str]:
        self.space()
        match = pattern.match(self.text, self.pos)
        if match is None:
            self.fail("the text of the IR has a syntax error", expected=expected)
        self.pos = match.end()
        return match

    def listed(self, item: Callable[[], T], end: str) -> list[T]:
        """Items between commas up to the closing token, which is read too."""
        items: list[T] = []
        if self.accept(end):
            return items
        items.append(item())
        while self.accept(","):
            items.append(item())
        self.expect(end)
        return items

    # Module and functions

    def module(self) -> Module:
        self.space()
        while self.pos < len(self.text):
            at = self.pos
            function = self.function()
            if function.name in self.result.functions:
                self.fail(f"the function @{function.name} is defined twice", at=at)
            self.result.add(function)
            self.space()
        return self.result

    def function(self) -> Function:
        at = self.pos
        level = self.match(_WORD, "graph, kernel or program")[0]
        if level not in LEVELS:
            self.fail(f"{level!r} starts no function", at=at, expected="graph, kernel or program")
        name = self.symbol()
        self.scope, self.zero = {}, self.may_be_zero()
        block = Block()
        self.expect("(")
        self.listed(lambda: self.argument(block), ")")
        self.space()
        types_at, types = self.pos, self.result_types()
        attrs = self.attributes() if self.attributes_follow() else {}
        level = attrs.pop("level", level)
        attrs.pop("may_be_zero", None)
        self.expect("{")
        self.operations(block)
        if types is not None:
            self.check_results(block, types, types_at)
        return Function(name, block, level, attrs)

    def may_be_zero(self) -> frozenset[str]:
        """The function attribute of that name, which the types before it need."""
        match = _MAY_BE_ZERO.match(self.text, self.pos)
        return frozenset(re.findall(r'"(.*?)"', match[1])) if match else frozenset()

    def result_types(self) -> list[Type] | None:
        if not self.accept("->"):
            return None
        return self.listed(self.value_type, ")") if self.accept("(") else [self.value_type()]

    def check_results(self, block: Block, types: Sequence[Type], at: int) -> None:
        if not block.ops or block.last.op_name != "return":
            self.fail("a function with result types ends with `return`", at=at)
        found = [v.type for v in block.last.operands]
        if len(found) != len(types) or not all(map(agree, found, types)):
            self.fail("the result types are not those of `return`", at=at, expected=str(found))

    def symbol(self) -> str:
        match = self.match(_SYMBOL, "a name: @name")
        return match[1] if match[1] is not None else json.loads(match[2])

    def argument(self, block: Block) -> None:
        at, name = self.new_name()
        self.expect(":")
        self.define(at, name, block.add_arg(self.value_type()))

    def new_name(self) -> tuple[int, str]:
        self.space()
        return self.pos, self.match(_VALUE, "a value: %name")[1]

    def define(self, at: int, name: str, value: Value) -> None:
        if name in self.scope:
            self.fail(f"%{name} is defined twice", at=at)
        self.scope[name] = value
        if not name.isdigit():
            value.name = name

    def use(self) -> Value:
        at, name = self.new_name()
        if name not in self.scope:
            self.fail(f"%{name} is not defined here", at=at)
        return self.scope[name]

    def value_type(self) -> Type:
        match = self.match(_TYPE, "a type: f32[N,3], buf f32[N,3], f32, index")
        try:
            return parse_type(match[0], self.size)
        except ValueError as e:
            self.fail(
                str(e), at=match.start(), expected="a type: f32[N,3], buf f32[N,3], f32, index"
            )

    def size(self, name: str) -> Dim:
        return expr.sym(name, 0 if name in self.zero else 1)

    # Operations

    def operations(self, block: Block) -> None:
        """Operations up to the closing brace."""
        while not self.accept("}"):
            if self.pos >= len(self.text):
                self.fail("the text ends inside a block", expected="'}'")
            block.append(self.operation())

    def operation(self) -> Op:
        self.space()
        at, names = self.pos, []
        if self.peek("%"):
            names = [self.new_name()]
            while self.accept(","):
                names.append(self.new_name())
            self.expect("=")
        self.space()
        name_at, name = self.pos, self.match(_WORD, "an operation or '}'")[0]
        cls = REGISTRY.get(name)
        if cls is None:
            self.fail(f"no operator is called {name!r}", at=name_at, expected=self.similar(name))
        operands, attrs = [], {}
        if name == "const":
            return self.constant(cls, at, names)
        if self.peek("%"):
            operands.append(self.use())
            while self.accept(","):
                operands.append(self.use())
        if self.attributes_follow():
            attrs = self.attributes()
        types = self.types()
        regions = []
        while self.peek("{"):
            regions.append(self.region())
        return self.build(cls, at, names, operands, attrs, types, regions)

    @staticmethod
    def similar(name: str) -> str | None:
        import difflib

        found = difflib.get_close_matches(name, REGISTRY, 3)
        return f"an operator, such as {', '.join(found)}" if found else "an operator"

    def types(self) -> list[Type]:
        if not self.accept(":"):
            return []
        types = [self.value_type()]
        while self.accept(","):
            types.append(self.value_type())
        return types

    def region(self) -> Block:
        self.expect("{")
        outer, self.scope = self.scope, dict(self.scope)
        block = Block()
        if self.accept("("):
            self.listed(lambda: self.argument(block), ")")
            self.expect(":")
        self.operations(block)
        self.scope = outer
        return block

    def build(
        self,
        cls: type[Op],
        at: int,
        names: Sequence[tuple[int, str]],
        operands: Sequence[Value],
        attrs: dict[str, Any],
        types: Sequence[Type],
        regions: Sequence[Block] = (),
    ) -> Op:
        try:
            full = complete_attrs(cls, attrs)
            inferred: tuple[Type, ...] | None = infer_types(cls, operands, full)
        except NotImplementedError:
            inferred = None
        except ConstraintError as e:
            got = e.got if e.got is not None else ", ".join(str(v.type) for v in operands)
            self.fail(f"{cls.op_name}: {e.what}", at=at, expected=e.expected, got=got)
        except (TypeError, ValueError, AttributeError, IndexError, KeyError, AssertionError) as e:
            what = f"{cls.op_name}: its attributes or operands cannot be right ({e!r})"
            self.fail(what, at=at, cause=e)
        if inferred is not None:
            same = len(inferred) == len(types) and all(map(agree, types, inferred))
            if not same:
                wanted = ", ".join(map(str, inferred)) or "no result"
                self.fail(f"{cls.op_name} has other result types", at=at, expected=wanted)
        if len(names) != len(types):
            self.fail(f"{len(names)} results have {len(types)} types", at=at)
        line = self.line(at)
        loc = self.comments.get(line, "")
        op = cls(
            operands, full, types, Loc(loc if loc.strip() else f"{self.name}:{line + 1}"), regions
        )
        for (name_at, name), value in zip(names, op.results, strict=True):
            self.define(name_at, name, value)
        return op

    # Constants and attributes

    def constant(self, cls: type[Op], at: int, names: Sequence[tuple[int, str]]) -> Op:
        key = self.symbol()
        items: list[tuple[int, str]] | None = None
        if self.accept("="):
            if self.accept("["):
                items = self.listed(self.element, "]")
            else:
                items = [self.element()]
        self.expect(":")
        type_at = self.pos
        found = self.value_type()
        if not isinstance(found, TensorType) or not found.is_static:
            self.fail("a constant is a tensor of static shape", at=type_at)
        if items is not None:
            self.keep(key, self.array(items, found, at), at)
        elif key in self.given:
            self.keep(key, self.given[key], at)
        attrs = {"value": key, "dtype": found.dtype, "shape": found.shape}
        return self.build(cls, at, names, (), attrs, [found])

    def element(self) -> tuple[int, str]:
        self.space()
        return self.pos, self.match(_ELEMENT, "a number, true or false")[0]

    def array(self, items: Sequence[tuple[int, str]], t: TensorType, at: int) -> np.ndarray:
        if len(items) != t.size:
            self.fail(f"{len(items)} elements for {t}", at=at, expected=f"{t.size} elements")
        out = np.zeros(len(items), t.dtype.numpy)
        for i, (item_at, text) in enumerate(items):
            try:
                out[i] = parse_element(text, t.dtype)
            except (ValueError, OverflowError) as e:
                self.fail(str(e), at=item_at, expected=f"an element of {t.dtype}")
        return out.reshape(t.static_shape)

    def keep(self, key: str, array: np.ndarray, at: int) -> None:
        known = self.result.constants.setdefault(key, array)
        if known is not array and (
            known.dtype != array.dtype
            or known.shape != array.shape
            or known.tobytes() != array.tobytes()
        ):
            self.fail(f"the constant @{key} has two values", at=at)

    def attributes_follow(self) -> bool:
        return self.peek("{") and _ATTRIBUTES.match(self.text, self.pos) is not None

    def attributes(self) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def item() -> None:
            name = self.match(_WORD, "an attribute: name=value")
            if name[0] in found:
                self.fail(f"the attribute {name[0]!r} is given twice", at=name.start())
            self.expect("=")
            found[name[0]] = self.value(found)

        self.expect("{")
        self.listed(item, "}")
        return found

    def value(self, before: Mapping[str, Any]) -> Any:
        """An attribute value; ``before`` are the attributes to the left of it."""
        if self.accept("["):
            return tuple(self.listed(lambda: self.value(before), "]"))
        if self.peek('"'):
            match = self.match(re.compile(_STRING), "a string")
            try:
                return json.loads(match[0])
            except ValueError as e:
                self.fail(f"not a string: {e}", at=match.start())
        at, depth = self.pos, 0
        while self.pos < len(self.text):
            ch = self.text[self.pos]
            if depth == 0 and ch in ",]}":
                break
            depth += (ch == "(") - (ch == ")")
            self.pos += 1
        return self.atom(self.text[at : self.pos].strip(), at, before)

    def atom(self, raw: str, at: int, before: Mapping[str, Any]) -> Any:
        if _INT.fullmatch(raw):
            return int(raw)
        if _FLOAT.fullmatch(raw):
            return float(raw)
        if raw in _CONSTANTS:
            return _CONSTANTS[raw]
        if raw in DTYPES:
            return DTYPES[raw]
        try:
            return expr.parse(raw, lambda name: self.position(name, before))
        except (ValueError, IndexError, ZeroDivisionError) as e:
            self.fail(f"not a value: {raw!r}", at=at, expected=f"an attribute value ({e})")

    def position(self, name: str, before: Mapping[str, Any]) -> Dim:
        """A symbol of an attribute; the coordinates of a contraction have its extents."""
        if not name.startswith("#") or name[1:].isdigit():
            return expr.sym(name, 0) if name.startswith("#") else self.size(name)
        try:
            if name in ("#k", "#c"):
                return expr.sym(name, 0, before["depth" if name == "#k" else "nr"])
            return expr.sym(name, 0, before[{"r": "rows", "t": "taps"}[name[1]]][int(name[2:])])
        except (KeyError, IndexError, ValueError):
            raise ValueError(f"{name} is no coordinate here") from None
