"""Random Python functions of arrays: branches, loops, mutation, containers, closures.

A program is source text that one integer determines. Its statements are checked while it is
written: an expression is evaluated on sample values of the types that its variables have, and is
dropped if that raises. What decides a branch is computed exactly (small whole numbers, sums,
products, comparisons), so that a different result is a fault and not rounding.
"""

from __future__ import annotations

import linecache
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

DTYPES = ("f4", "f8", "i4", "i8", "u1", "?")
SHAPES = ((), (3,), (2, 3))
MAX_SIZE = 24
PRELUDE = """\
import math
import numpy as np

SCALE = 2
LIMITS = [1, 3, 5]
TABLE = {"a": 1, "b": 2.0}
ROWS = np.arange(6.0).reshape(2, 3)


class Counter:
    def __init__(self, n, step=1):
        self.n, self.step, self.seen = n, step, []

    def bump(self, x):
        self.n += self.step if x > 1 else 2
        self.seen.append(self.n)
        return self.n

    def reset(self, x):
        old = self.n
        if x < 0:
            self.n = 0
        return old

    @property
    def total(self):
        return self.n + len(self.seen)


class Logged:
    def __init__(self, log, n):
        self.log, self.n = log, n

    def __enter__(self):
        return self.n

    def __exit__(self, *error):
        self.log.append(self.n)


def sign(x):
    if x > 0:
        return 1
    return -1 if x < 0 else 0


def pick(x, a, b=3):
    return a if x > 1 else b


def collatz(n):
    steps = 0
    while n > 1 and steps < 9:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        steps += 1
    return steps


def halve(x, depth):
    if depth == 0 or x.sum() < 2:
        return x
    return halve(x - 1, depth - 1) + (1 if x.max() > 2 else 0)


def adder(k):
    def add(x):
        return x + k if x > k else x - k

    return add


def counter():
    n = 0

    def up(x):
        nonlocal n
        n += 1 if x > 0 else 2
        return n

    return up


def clipped(x, low=-8, high=8):
    return np.clip(x, low, high)
"""


@dataclass(frozen=True)
class Type:
    """What is known of a variable.

    Attributes:
        kind: ``array``, ``int``, ``float``, ``bool``, ``str``, ``list``, ``dict``, ``tuple``,
            ``object`` or ``any``.
        dtype: Of an array.
        shape: Of an array.
        own: Whether the function made the array, so that it may write into it.
        items: The types in a container; a list has at least these.
        sample: A value of an object.
    """

    kind: str
    dtype: str = ""
    shape: tuple[int, ...] = ()
    own: bool = False
    items: tuple[Any, ...] = ()
    sample: Any = field(default=None, compare=False)


INT, FLOAT, BOOL, ANY = Type("int"), Type("float"), Type("bool"), Type("any")
OBJECTS = {
    "Counter": "Counter({I}, {N})",
    "add": "adder({N})",
    "up": "counter()",
}


def sample(t: Type) -> Any:
    """A value of a type."""
    if t.kind == "array":
        made = np.ones(t.shape, t.dtype)
        return made if t.shape else made[()]
    if t.kind in ("list", "tuple"):
        return {"list": list, "tuple": tuple}[t.kind](sample(i) for i in t.items)
    if t.kind == "dict":
        return {k: sample(i) for k, i in t.items}
    if t.kind == "any":
        raise TypeError
    return (
        t.sample
        if t.kind == "object"
        else {"int": 1, "float": 1.0, "bool": True, "str": "s"}[t.kind]
    )


def type_of(x: Any, own: bool = True) -> Type:
    """The type of a value."""
    if isinstance(x, np.ndarray | np.generic):
        if x.dtype.kind not in "biuf" or x.size > MAX_SIZE or x.ndim > 2:
            raise ValueError
        return Type("array", x.dtype.str[1:] if x.dtype != bool else "?", x.shape, own)
    if isinstance(x, list | tuple):
        return Type(type(x).__name__, items=tuple(type_of(i, False) for i in x))
    if isinstance(x, dict):
        return Type("dict", items=tuple((k, type_of(i, False)) for k, i in x.items()))
    if x is None:
        return ANY
    name = type(x).__name__
    return Type(name) if name in ("int", "float", "bool", "str") else Type("object", name, sample=x)


ARRAYS = (
    "{A} + {A}", "{A} - {A}", "{A} + {N}", "{A} - {I}", "{N} - {A}", "{A} * {N}", "-{A}",
    "abs({A})",
    "np.maximum({A}, {N})", "np.minimum({A}, {A})", "np.where({A} > {N}, {A}, {A})",
    "np.where({C}, {A}, {N})", "np.clip({A}, 0, 4)", "np.sort({A}, axis=-1)", "np.floor({A})",
    "np.cumsum({A}, axis=-1)", "np.concatenate([{A}, {A}])", "np.stack([{A}, {A}])", "{A} > {A}",
    "{A} <= {N}", "{A} == {A}", "{A} & {A}", "{A} | {A}", "~{A}", "{A}.astype(np.{D})",
    "{A}.sum(axis=0)", "{A}.max(axis=-1)", "np.zeros_like({A})", "np.zeros((2, 3), np.{D})",
    "np.ones(3, np.{D})", "np.full((3,), {I})", "np.arange(3.0) * {N}", "{A}.copy()", "{A} * {A}",
    "np.array([{I}, {I}, {I}])", "np.array([{F}, {F}, {F}], np.float32)", "np.sign({A})",
    "({A} if {C} else {A}) + {N}", "{A} + {S}", "{A} * {I}", "{A} + {F}", "np.roll({A}, 1)",
    "clipped({A})", "clipped({A}, high={N})", "halve({A}, 2)", "ROWS + {A}", "{A} * SCALE",
    "{A} % 5", "{A} // 2", "np.flip({A})", "{A}[::-1] + {N}", "np.argsort({A}, kind='stable')",
    "np.logical_not({A})", "np.isfinite({A})", "{A}.argmax(axis=-1)", "{A} + ({I} if {C} else {F})",
    "np.square(np.clip({A}, 0, 3))", "np.stack([{S}, {S}, {S}])",
)  # fmt: skip
SCALARS = (
    "{A}.sum()", "{A}.max()", "{A}.min()", "{A1}[0]", "{A1}[-1]", "{A2}[1, 2]", "{A1}[{I} % 2]",
    "np.sum({A} > {N})", "{A}.argmax()", "np.abs({A}.min())", "{S} + {S}", "{S} * {N}", "-{S}",
    "{S} - {I}", "np.maximum({S}, {S})", "({S} if {C} else {S})", "{A1} @ {A1}", "{A}.any()",
    "max({S}, {S})", "{S} + {F}", "{A2}[{I} % 2].sum()", "np.prod(np.clip({A1}, 0, 2))",
    "np.where({S} > {N}, {S}, {N})", "{A}.sum() % 4",
)  # fmt: skip
INTS = (
    "{I} + {I}", "{I} - {N}", "{I} * {N}", "{I} % 3", "{I} // 2", "-{I}", "abs({I})",
    "max({I}, {N})",
    "min({I}, {I})", "({I} if {C} else {I})", "int({T})", "{T}.item()", "int({F})", "len({L})",
    "{A1}.shape[0]", "{A2}.ndim", "sign({T})", "collatz({I})", "pick({S}, {I}, {N})",
    "pick({S}, {I})",
    "sum([{I}, {I}])", "LIMITS[{I} % 3]", "SCALE", "{C} + {I}", "int({C})", "({I} and {I})",
    "({I} or {I})", "sum(1 for v in {A1} if v > {N})", "sign({T}) + 2 * sign({S})", "round({F})",
    "{I} + pick({S}, {N}, {I})", "{I} * 2 + sign({S})", "sum(sign(v) for v in {A1})", "{I} ^ 1",
    "len([v for v in {A1} if v > {N}])", "(lambda v: v + 1 if v > {N} else v)({T})", "{I} << 1",
    "divmod({I}, 3)[1]", "max([{I}, {I}], key=lambda v: -v)", "[{I}, {I}][{C}]", "int({S} > {N})",
    "{I} + (1 if {C} else 2) + {I}", "pick({S}, {I}, pick({S}, {I}))",
)  # fmt: skip
FLOATS = (
    "{F} + {F}", "{F} - {N}", "{F} * 0.5", "-{F}", "float({T})", "max({F}, {N}.0)", "abs({F})",
    "({F} if {C} else {F})", "float({I})", "{I} / 2", "{I} * 0.5", "pick({S}, {F}, 0.5)",
    "({F} or 1.5)", "{F} // 2", "{F} % 4", "min({F}, {F})", "TABLE['b']",
    "{F} * (2 if {C} else -1)",
    "math.floor({F}) + 0.5", "float({C})", "{F} + sign({S}) * 0.5",
)  # fmt: skip
BOOLS = (
    "bool({S} > {N})", "{I} > {N}", "not {C}", "{F} < {F}", "{I} == {I}", "True", "False",
    "isinstance({I}, int)", "{I} in ({I}, {N})", "bool({I})", "(bool({C}) is bool({I}))",
    "any(v > {N} for v in {A1})",
    "all(v < {N} for v in {A1})", "{B} & {B}", "{B} | {B}", "{I} < {N} < {I}", "{N} in LIMITS",
)  # fmt: skip
CONDITIONS = (
    "{S} > {N}", "{S} < {S}", "{A}.sum() > {N}", "({A} > {N}).any()", "({A} < {N}).all()",
    "{S} <= {N}", "{I} < {N}", "{I} % 2 == 0", "{F} > 1", "not {S}", "{S} == {N}", "{S} != {S}",
    "{C} and {C}", "{C} or {C}", "not {C}", "-{N} < {S} <= {N}", "{B}", "{S} > {I}", "{S} > {F}",
    "np.array_equal({A}, {A})", "{I} > {I}", "{S} and {I} > {N}", "sign({S}) > 0", "{A}.any()",
    "({C} if {C} else {C})", "{I} < {S} < {I}", "np.any({A} == {N})", "{S} > pick({S}, {N}, {I})",
    "{T} in (1, 2)", "{C} and not {C} or {C}", "any([{S} > {N}, {S} < {N}])",
)  # fmt: skip
TEMPLATES = {"A": ARRAYS, "S": SCALARS, "I": INTS, "F": FLOATS, "B": BOOLS, "C": CONDITIONS}
INEXACT = (
    "np.sqrt(np.abs({A}))", "np.tanh({A})", "{A}.mean()", "{A} / 3", "np.exp(-np.abs({A}))",
    "{A}.std()", "np.sin({A} * 0.1)", "math.sqrt(abs({F}))", "{I} / 3", "{S} / 7",
)  # fmt: skip


@dataclass
class Program:
    """A function as source text, and the arguments of some calls.

    Attributes:
        seed: What determines it.
        source: The text; the function is called ``program``.
        calls: Arguments.
        between: Statements that are run before a call, by its number.
    """

    seed: int
    source: str
    calls: list[tuple]
    between: dict[int, str]

    def load(self) -> dict[str, Any]:
        """The names that the text defines; tracebacks show its lines."""
        file = f"/random/program_{self.seed}.py"
        text = PRELUDE + self.source
        linecache.cache[file] = (len(text), None, text.splitlines(True), file)
        names: dict[str, Any] = {"__name__": "random_program"}
        exec(compile(text, file, "exec"), names)
        return names


class Writer:
    """Writes the body of a function.

    Args:
        rng: Decides.
        names: What the prelude and earlier functions define, to evaluate samples.
    """

    def __init__(self, rng: random.Random, names: dict[str, Any]) -> None:
        self.rng, self.names = rng, names
        self.lines: list[str] = []
        self.vars: dict[str, Type] = {}
        self.maybe: list[str] = []  # bound on some paths
        self.fixed: set[str] = set()  # must keep their types: a loop or a handler sees them
        self.reserved: set[str] = set()  # must not be assigned: counters that bound loops
        self.inexact: list[str] = []
        self.indent = 1
        self.loops = self.trys = self.made = self.cost = 0
        self.trips = 1
        self.budget = rng.randint(4, 16)
        self.returns: Type | None = None

    # Text

    def write(self, line: str) -> None:
        self.lines.append("    " * self.indent + line)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        self.write(head)
        self.indent += 1
        at = len(self.lines)
        yield
        if len(self.lines) == at:
            self.write("pass")
        self.indent -= 1

    def new(self, prefix: str = "v") -> str:
        self.made += 1
        return f"{prefix}{self.made}"

    # Expressions

    def value(self, text: str) -> Any:
        """The value of an expression on samples; raises what it raises."""
        names = {n: sample(t) for n, t in self.vars.items() if t.kind != "any"}
        with np.errstate(all="ignore"):
            return eval(text, {**self.names, **names})

    def matching(self, fits: Callable[[Type], bool]) -> list[str]:
        return [n for n, t in self.vars.items() if fits(t)]

    def atom(self, kind: str, depth: int = 2) -> str:
        """An expression of a kind; raises LookupError when there is none."""
        rng = self.rng
        fits: dict[str, Callable[[Type], bool]] = {
            "A": lambda t: t.kind == "array" and bool(t.shape),
            "A1": lambda t: t.kind == "array" and len(t.shape) == 1,
            "A2": lambda t: t.kind == "array" and len(t.shape) == 2,
            "S": lambda t: t.kind == "array" and not t.shape,
            "T": lambda t: t.kind == "array" and not t.shape and t.dtype[0] in "iu?",
            "I": lambda t: t.kind == "int",
            "F": lambda t: t.kind == "float",
            "B": lambda t: t.kind == "bool",
            "C": lambda t: t.kind == "bool",
            "L": lambda t: t.kind == "list",
        }
        if kind == "N":
            return str(rng.choice((0, 1, 1, 2, 2, 3, 4, 6)))
        if kind == "D":
            return rng.choice(("float32", "float64", "int32", "int64"))
        known = self.matching(fits[kind])
        if known and (rng.random() < 0.65 or depth <= 0 or kind in ("A1", "A2", "L")):
            return rng.choice(known[-6:]) if rng.random() < 0.6 else rng.choice(known)
        if depth > 0 and kind in TEMPLATES:
            return f"({self.expression(kind, depth - 1)})"
        simple = {
            "I": lambda: str(rng.randint(-2, 5)),
            "F": lambda: str(rng.choice((0.5, 1.0, -1.5, 2.0))),
            "B": lambda: rng.choice(("True", "False")),
            "C": lambda: f"{self.atom('S', 0)} > {self.atom('N')}",
            "S": lambda: f"{self.atom('A', 0)}.{rng.choice(('sum', 'max', 'min'))}()",
            "T": lambda: f"np.sum({self.atom('A', 0)} > {self.atom('N')})",
            "A1": lambda: "np.arange(3)",
            "A2": lambda: "np.ones((2, 3))",
            "A": lambda: "np.arange(3.0)",
        }
        if kind not in simple:
            raise LookupError
        return simple[kind]()

    def fill(self, template: str, depth: int) -> str:
        out, rest = "", template
        while "{" in rest:
            before, _, rest = rest.partition("{")
            kind, _, rest = rest.partition("}")
            out += before + self.atom(kind, depth)
        return out + rest

    def expression(self, kind: str, depth: int = 2) -> str:
        """An expression that works on the samples."""
        for _ in range(30):
            try:
                text = self.fill(self.rng.choice(TEMPLATES[kind]), depth)
                made = self.value(text)
            except Exception:
                continue
            if kind in "IFB" and type(made) is not {"I": int, "F": float, "B": bool}[kind]:
                continue
            try:
                t = type_of(made)
            except ValueError:
                continue
            if (kind == "A" and not t.shape) or (kind == "S" and t.shape):
                continue
            return text
        return self.atom(kind, 0)

    def condition(self) -> str:
        return self.expression("C", 1)

    def bounded(self, text: str, t: Type) -> str:
        """An expression whose values stay small."""
        if t.kind == "int":
            return f"({text}) % 11 - 3"
        if t.kind == "float":
            return f"max(-9.0, min(9.0, {text}))"
        if t.kind == "array" and t.shape and t.dtype[0] not in "?u" and self.rng.random() < 0.7:
            return f"np.clip({text}, -9, 9)"
        if t.kind == "array" and not t.shape and t.dtype[0] not in "?u":
            return f"np.clip({text}, -9, 9)"
        return text

    def typed(self, t: Type) -> str:
        """An expression of a type."""
        kind = {"int": "I", "float": "F", "bool": "B", "array": "A" if t.shape else "S"}.get(t.kind)
        same = [n for n, v in self.vars.items() if v == t]
        if kind is None or (same and self.rng.random() < 0.3):
            if not same:
                raise LookupError
            return self.rng.choice(same)
        for _ in range(25):
            text = self.expression(kind)
            try:
                made = type_of(self.value(self.bounded(text, t)))
            except Exception:
                continue
            if (made.kind, made.dtype, made.shape) == (t.kind, t.dtype, t.shape):
                if t.own and text in self.vars and not self.vars[text].own:
                    text += ".copy()"
                return self.bounded(text, t)
        if t.kind == "array":
            return (
                f"np.full({t.shape}, 2, '{t.dtype}')" if t.shape else f"np.{np.dtype(t.dtype)}(2)"
            )
        return self.bounded(self.atom(kind, 0), t)

    # Statements

    def any_of(self, *options: tuple[float, Callable[[], None]]) -> None:
        weights, choices = zip(*options, strict=True)
        for _ in range(12):
            mark = len(self.lines), dict(self.vars)
            try:
                self.rng.choices(choices, weights)[0]()
                return
            except LookupError:
                del self.lines[mark[0] :]
                self.vars = mark[1]

    def statement(self) -> None:
        self.budget -= 1
        simple = [
            (10, self.assign), (5, self.augment), (5, self.write_array), (2, self.view),
            (4, self.listing), (2, self.mapping), (2, self.pairs), (2, self.call_object),
            (1, self.define), (1.2, self.delete), (1, self.checks), (1, self.trouble),
            (1, self.walrus), (1.5, self.inexactly), (1, self.anything), (1, self.text),
            (1, self.alias),
        ]  # fmt: skip
        compound = [
            (12, self.branch), (4, self.loop_range), (4, self.loop_while), (2.5, self.loop_items),
            (2, self.attempt), (1, self.context),
        ]  # fmt: skip
        leave = [(1.5, self.leave)]
        if self.indent > 4 or self.budget < 0:
            compound = []
        self.any_of(*simple, *compound, *(leave if self.indent > 1 else []))

    def suite(self, count: int) -> bool:
        """Some statements; whether control can reach the end."""
        for _ in range(count):
            self.statement()
            last = self.lines[-1].strip() if self.lines else ""
            depth = (len(self.lines[-1]) - len(last)) // 4 if self.lines else 0
            if depth == self.indent and last.split(" ")[0] in (
                "return",
                "break",
                "continue",
                "raise",
            ):
                return False
        return True

    def put(self, name: str, text: str, t: Type) -> None:
        self.write(f"{name} = {text}")
        self.vars.pop(name, None)
        self.vars[name] = t

    def target(self, t: Type) -> str:
        """A variable to assign to: a new one, or one that may take the type."""
        known = [n for n in self.vars if n not in self.reserved]
        if known and self.rng.random() < 0.6:
            name = self.rng.choice(known)
            old = self.vars[name]
            if name not in self.fixed or old == t or old == replace(t, own=False):
                return name
        return self.new()

    def assign(self) -> None:
        if self.vars and self.rng.random() < 0.45:
            name = self.rng.choice(list(self.vars))
            t = self.vars[name]
            if name in self.reserved or t.kind not in ("int", "float", "bool", "array"):
                raise LookupError
            self.put(name, self.typed(t), t)
            return
        kind = self.rng.choice("AAASSIIFB")
        text = self.expression(kind)
        t = type_of(self.value(text), own=text not in self.vars and "if" not in text)
        text = self.bounded(text, t)
        t = replace(type_of(self.value(text)), own=t.own or "clip" in text)
        if t.kind == "array" and not t.shape:
            t = replace(t, own=False)
        self.put(self.target(t), text, t)

    def alias(self) -> None:
        name = self.rng.choice(self.matching(lambda t: t.kind in ("array", "list", "dict")))
        t = self.vars[name]
        self.put(self.target(t), name, t)

    def augment(self) -> None:
        rng = self.rng
        names = self.matching(
            lambda t: t.kind in ("int", "float") or (t.kind == "array" and (t.own or not t.shape))
        )
        name = rng.choice([n for n in names if n not in self.reserved])
        t = self.vars[name]
        if t.kind == "int":
            step = rng.choice(("1", "2", "1", "len(LIMITS)", f"({self.atom('C', 1)})", "SCALE"))
            self.write(f"{name} {rng.choice(('+=', '+=', '-='))} {step}")
        elif t.kind == "float":
            self.write(f"{name} {rng.choice(('+= 0.5', '*= 0.5', '-= 1', '*= -1'))}")
        else:
            text = f"{name} {rng.choice(('+=', '-=', '+=', '*='))} "
            text += rng.choice(
                (self.atom("N"), self.atom("A", 1) if t.shape else self.atom("S", 1))
            )
            if "*=" in text:
                text = (
                    f"{name} *= {rng.choice((0, 1, -1))}"
                    if t.dtype not in "?u1"
                    else f"{name} += 1"
                )
            self.tried(text, name)

    def tried(self, text: str, name: str) -> None:
        """Writes a statement on an array if it works on samples and keeps its type."""
        names = {n: sample(t) for n, t in self.vars.items() if t.kind != "any"}
        scope = {**self.names, **names}
        try:
            exec(text, scope)
            kept = type_of(scope[name])
        except Exception:
            raise LookupError from None
        t = self.vars[name]
        if (kept.dtype, kept.shape) != (t.dtype, t.shape):
            if name in self.fixed:
                raise LookupError
            self.vars[name] = replace(kept, own=False)
        self.write(text)

    def write_array(self) -> None:
        rng = self.rng
        names = self.matching(lambda t: t.kind == "array" and t.own and bool(t.shape))
        if not names:
            source = rng.choice(self.matching(lambda t: t.kind == "array" and bool(t.shape)))
            t = replace(self.vars[source], own=True)
            name = source if source not in self.fixed else self.new()
            self.put(name, f"{source}.copy()", t)
            names = [name]
        name = rng.choice(names)
        t = self.vars[name]
        index = rng.choice(("0", "-1", "...", "1:", "::2", f"{name} > {self.atom('N')}", "I", "W"))
        if index == "I":
            index = f"({self.atom('I', 1)}) % {t.shape[0]}"
        if index == "W":
            index = f"np.arange({t.shape[0]}) > {self.atom('N')}"
        value = rng.choice(("N", "S", "I", "S"))
        value = self.atom(value, 1)
        operator = "=" if ">" in index else rng.choice(("=", "=", "+=", "-="))
        if t.dtype[0] in "?u":
            operator, value = "=", rng.choice(("1", "0"))
        elif t.dtype.startswith("i"):
            value = rng.choice((self.atom("N"), self.atom("I", 1), f"int({self.atom('T', 1)})"))
        self.tried(f"{name}[{index}] {operator} {value}", name)

    def view(self) -> None:
        name = self.rng.choice(self.matching(lambda t: t.kind == "array" and bool(t.shape)))
        index = self.rng.choice(("[1:]", "[0]", "[::-1]", "[-1]", "[...]", ".T", "[:, 1]", "[:2]"))
        text = name + index
        try:
            t = type_of(self.value(text), self.vars[name].own)
        except Exception:
            raise LookupError from None
        self.put(self.target(t), text, replace(t, own=t.own and bool(t.shape)))

    def item(self) -> tuple[str, Type]:
        text = self.expression(self.rng.choice("IIFSAB"), 1)
        t = type_of(self.value(text), False)
        text = self.bounded(text, t)
        return text, replace(type_of(self.value(text)), own=False)

    def listing(self) -> None:
        rng = self.rng
        lists = [n for n in self.matching(lambda t: t.kind == "list") if n not in self.reserved]
        if not lists or rng.random() < 0.3:
            items = [self.item() for _ in range(rng.choice((0, 1, 2, 3)))]
            name = self.new("l")
            t = Type("list", items=tuple(t for _, t in items))
            self.put(name, f"[{', '.join(x for x, _ in items)}]", t)
            return
        name = rng.choice(lists)
        t = self.vars[name]
        text, _ = self.item()
        what = rng.choice(
            ("append", "append", "set", "augment", "insert", "plus", "get", "reverse")
        )
        if what == "append":
            self.write(f"{name}.append({text})")
        elif what == "insert":
            self.write(f"{name}.extend([{text}, {self.atom('I', 1)}])")
        elif what == "plus":
            self.write(f"{name} = {name} + [{text}]")
        elif not t.items:
            raise LookupError
        elif what == "reverse":
            if len(set(t.items)) > 1:
                raise LookupError
            self.write(f"{name}.reverse()")
        else:
            at = rng.randrange(len(t.items))
            if what == "get":
                self.put(self.target(t.items[at]), f"{name}[{at}]", t.items[at])
            elif what == "set":
                if t.items[at].kind not in ("int", "float", "bool", "array"):
                    raise LookupError
                self.write(f"{name}[{at}] = {self.typed(t.items[at])}")
            elif t.items[at].kind in ("int", "float"):
                self.write(f"{name}[{at}] += {rng.choice((1, 2, f'({self.condition()})'))}")
            else:
                raise LookupError

    def mapping(self) -> None:
        rng = self.rng
        dicts = self.matching(lambda t: t.kind == "dict")
        if not dicts or rng.random() < 0.3:
            items = [(k, *self.item()) for k in rng.sample(("a", "b", "c"), rng.randint(1, 2))]
            t = Type("dict", items=tuple((k, t) for k, _, t in items))
            self.put(self.new("d"), f"{{{', '.join(f'{k!r}: {x}' for k, x, _ in items)}}}", t)
            return
        name = rng.choice(dicts)
        key, t = rng.choice(self.vars[name].items)
        what = rng.choice(("set", "get", "new", "add", "number"))
        if what == "set" and t.kind in ("int", "float", "bool", "array"):
            self.write(f"{name}[{key!r}] = {self.typed(t)}")
        elif what == "get":
            self.put(self.target(t), f"{name}[{key!r}]", t)
        elif what == "new":
            self.write(f"{name}[{rng.choice(('z', 'y'))!r}] = {self.item()[0]}")
        elif what == "number":
            self.write(f"{name}[{self.atom('I', 0)}] = {self.item()[0]}")
        elif t.kind in ("int", "float"):
            self.write(f"{name}[{key!r}] += 1")
        else:
            raise LookupError

    def pairs(self) -> None:
        rng = self.rng
        if rng.random() < 0.6:
            names = self.matching(lambda t: t.kind in ("int", "float", "bool", "array", "list"))
            names = [n for n in names if n not in self.reserved]
            a, b = rng.sample(names, 2) if len(names) > 1 else ("", "")
            if not a:
                raise LookupError
            if self.vars[a] != self.vars[b] and {a, b} & self.fixed:
                raise LookupError
            self.write(f"{a}, {b} = {b}, {a}")
            self.vars[a], self.vars[b] = self.vars[b], self.vars[a]
            return
        items = [self.item() for _ in range(rng.randint(2, 3))]
        name = self.new("t")
        t = Type("tuple", items=tuple(t for _, t in items))
        self.put(name, f"({', '.join(x for x, _ in items)})", t)
        if rng.random() < 0.5:
            parts = [self.new() for _ in items]
            self.write(f"{', '.join(parts)} = {name}")
            self.vars |= dict(zip(parts, t.items, strict=True))

    def call_object(self) -> None:
        rng = self.rng
        known = self.matching(lambda t: t.kind == "object")
        if not known or rng.random() < 0.3:
            text = self.fill(rng.choice(list(OBJECTS.values())), 1)
            made = self.value(text)
            self.put(self.new("o"), text, Type("object", type(made).__name__, sample=made))
            return
        name = rng.choice(known)
        if self.vars[name].dtype == "Counter":
            text = rng.choice((
                f"{name}.bump({self.atom('S', 1)})", f"{name}.n + {name}.bump({self.atom('S', 1)})",
                f"{name}.total", f"{name}.n", f"{name}.reset({self.atom('S', 1)})",
                f"{name}.bump({self.atom('S', 1)}) * 2 + {name}.reset({self.atom('S', 1)})",
            ))  # fmt: skip
            if rng.random() < 0.2:
                self.write(f"{name}.n = {self.atom('I', 1)}")
                return
        else:
            argument = self.atom(rng.choice("IS"), 1)
            text = f"{name}({argument}) + {name}({self.atom('I', 0)})"
        self.put(self.new(), f"({text}) % 7", ANY)
        last = list(self.vars)[-1]
        self.write(f"{last} = int({last})")
        self.vars[last] = INT

    def define(self) -> None:
        """A nested function, which may change variables of the outer one."""
        rng = self.rng
        numbers = [n for n in self.matching(lambda t: t.kind == "int") if n not in self.reserved]
        if self.loops or not numbers:
            raise LookupError
        n = rng.choice([n for n in numbers if n != "x"])
        name = self.new("f")
        other = rng.choice(numbers)
        with self.block(f"def {name}(x, k={other}):"):
            if rng.random() < 0.6:
                self.write(f"nonlocal {n}")
                self.write(f"{n} = ({n} + (1 if x > {self.atom('N')} else 2)) % 9")
            self.write(f"return k + {n} if x > {self.atom('N')} else k - {n}")

        def stand_in(x: Any, k: int = 1) -> int:
            return 1

        self.vars[name] = Type("object", "function", sample=stand_in)
        self.put(self.new(), f"{n} + {name}({self.atom('S', 1)}) + {n}", INT)

    def delete(self) -> None:
        names = [n for n in self.vars if n not in self.fixed | self.reserved and n not in "xyz"]
        if len(names) < 3:
            raise LookupError
        name = self.rng.choice(names)
        self.write(f"del {name}")
        del self.vars[name]
        if self.rng.random() < 0.3:
            self.maybe.append(name)

    def checks(self) -> None:
        self.write(f"assert {self.condition()} or {self.atom('S', 0)} < 9, {self.atom('N')}")

    def trouble(self) -> None:
        """Something that may raise."""
        rng = self.rng
        lists = self.matching(lambda t: t.kind == "list")
        options = [
            f"{self.new()} = 6 // ({self.atom('I', 1)})",
            f"{self.new()} = LIMITS[{self.atom('I', 0)}]",
        ]
        if lists:
            options.append(f"{rng.choice(lists)}[{self.atom('N')}]")
        if self.maybe:
            options += [f"{self.new()} = {rng.choice(self.maybe)}"] * 2
        if not self.trys and rng.random() < 0.7:
            raise LookupError
        self.write(rng.choice(options))

    def walrus(self) -> None:
        kind = self.rng.choice("IS")
        name = self.new("w")
        text = self.expression(kind, 1)
        t = replace(type_of(self.value(text)), own=False)
        with self.block(f"if ({name} := {text}) > {self.atom('N')}:"):
            self.vars[name] = t
            self.quiet(2)
        self.vars[name] = t

    def inexactly(self) -> None:
        text = self.fill(self.rng.choice(INEXACT), 1)
        try:
            self.value(text)
        except Exception:
            raise LookupError from None
        name = self.rng.choice(self.inexact) if self.inexact and self.rng.random() < 0.5 else "q"
        if self.indent > 1 and name not in self.inexact:
            raise LookupError
        self.write(f"{name} = {text}")
        self.inexact = [*{*self.inexact, name}]

    def anything(self) -> None:
        """A variable that has one of several types."""
        name = self.rng.choice(
            self.matching(lambda t: t.kind == "any") or self.matching(lambda t: t.kind == "int")
        )
        if name in self.reserved:
            raise LookupError
        if self.vars[name].kind == "any" and self.rng.random() < 0.4:
            self.put(self.new(), f"isinstance({name}, int)", BOOL)
            return
        a, b = self.item()[0], self.item()[0]
        new = self.new()
        self.put(new, f"{a} if {self.condition()} else {b}", ANY)

    def text(self) -> None:
        self.put(self.new("s"), self.rng.choice((
            f"'low' if {self.condition()} else 'high'", f"str({self.atom('I', 1)})",
            f"f'n={{{self.atom('I', 0)}}}'",
            f"{{True: 'yes', False: 'no'}}[bool({self.condition()})]",
        )), Type("str"))  # fmt: skip

    # Compound statements

    def quiet(self, count: int) -> bool:
        """A suite after which variables have the types that they had."""
        before, fixed = dict(self.vars), self.fixed
        free = self.rng.random() < 0.25 and not self.loops
        self.fixed = fixed if free else fixed | set(before)
        ends = self.suite(count)
        self.fixed = fixed
        self.joined(before, self.vars)
        return ends

    def joined(self, a: dict[str, Type], b: dict[str, Type]) -> None:
        """Goes on with what two paths have in common."""
        out = {}
        for n in a:
            if n not in b:
                self.maybe.append(n)
            elif a[n] == b[n]:
                out[n] = a[n]
            elif replace(a[n], own=False) == replace(b[n], own=False):
                out[n] = replace(a[n], own=False)
            else:
                out[n] = self._common(a[n], b[n])
        self.maybe += [n for n in b if n not in a]
        self.vars = out

    def _common(self, a: Type, b: Type) -> Type:
        if a.kind == b.kind == "list":
            items = [s for s, t in zip(a.items, b.items, strict=False) if s == t]
            return Type("list", items=tuple(items))
        return ANY

    def branch(self) -> None:
        before, fixed = dict(self.vars), self.fixed
        free = self.rng.random() < 0.3
        self.fixed = fixed if free else fixed | set(before)
        ways = []
        heads = [f"if {self.condition()}:"]
        heads += [f"elif {self.condition()}:" for _ in range(self.rng.choice((0, 0, 0, 1, 2)))]
        heads += ["else:"] if self.rng.random() < 0.6 else []
        for head in heads:
            self.vars = dict(before)
            with self.block(head):
                if self.suite(self.rng.choice((1, 1, 2, 3))):
                    ways.append(self.vars)
        if heads[-1] != "else:":
            ways.append(before)
        self.fixed = fixed
        self.vars = ways[0] if ways else before
        for other in ways[1:]:
            self.joined(self.vars, other)

    def looped(self, head: str, count: int, prepare: Callable[[], None]) -> None:
        before, fixed = dict(self.vars), self.fixed
        self.fixed = fixed | set(before)
        self.loops += 1
        self.trips *= 4
        with self.block(head):
            prepare()
            self.suite(count)
        after = self.vars
        self.loops -= 1
        self.trips //= 4
        if self.rng.random() < 0.2:
            self.vars = dict(before)
            with self.block("else:"):
                self.quiet(1)
        self.fixed = fixed
        self.joined(before, after)

    def loop_range(self) -> None:
        rng = self.rng
        if self.loops > 1:
            raise LookupError
        bound = rng.choice((
            "2", "3", "4", "7", "10" if not self.loops else "2", f"abs({self.atom('I', 1)}) % 5",
            f"int(np.clip({self.atom('T', 1)}, 0, 4))", f"min(int({self.atom('T', 1)}), 5)",
            "1, 6, 2", "4, 0, -1", f"{self.atom('I', 0)}, 4", "5, -1, -2",
            f"len({self.atom('A', 0)})",
            f"{self.atom('A1', 0)}.shape[0]",
        ))  # fmt: skip
        name = self.new("i")
        kind = rng.choice(("range",) * 8 + ("reversed(range",))
        head = f"for {name} in {kind}({bound}){')' if kind != 'range' else ''}:"

        def prepare() -> None:
            self.vars[name] = INT
            self.reserved.add(name)

        self.looped(head, rng.randint(1, 4), prepare)

    def loop_while(self) -> None:
        rng = self.rng
        if self.loops > 1:
            raise LookupError
        name, limit = self.new("k"), rng.choice((2, 3, 5, 9 if not self.loops else 3))
        self.put(name, rng.choice(("0", "0", "1")), INT)
        self.reserved.add(name)
        test = f"{name} < {limit}"
        if rng.random() < 0.75:
            parts = [test, self.expression("C", 1)]
            rng.shuffle(parts)
            test = f"({parts[0]}) and ({parts[1]})"
        elif rng.random() < 0.5:
            test = "True"

        def prepare() -> None:
            self.write(f"{name} += 1")
            if test == "True":
                with self.block(f"if {name} > {limit} or {self.expression('C', 1)}:"):
                    self.write("break")

        self.looped(f"while {test}:", rng.randint(1, 4), prepare)

    def loop_items(self) -> None:
        rng = self.rng
        if self.loops > 1:
            raise LookupError
        name = self.new("e")
        new: dict[str, Type] = {name: ANY}
        arrays = self.matching(lambda t: t.kind == "array" and bool(t.shape))
        numbers = "1, 2, 4"
        what = rng.choice(
            ("numbers", "list", "array", "enumerate", "zip", "limits", "dict", "comp")
        )
        if what == "array" and arrays:
            source = rng.choice(arrays)
            t = self.vars[source]
            head, new = f"for {name} in {source}:", {name: replace(t, shape=t.shape[1:], own=False)}
        elif what == "enumerate":
            other = self.new("j")
            head = f"for {other}, {name} in enumerate([{numbers}]):"
            new = {name: INT, other: INT}
        elif what == "zip":
            other = self.new("j")
            head = f"for {name}, {other} in zip([0.5, 1.5], range(2)):"
            new = {name: FLOAT, other: INT}
        elif what == "limits":
            head, new = f"for {name} in LIMITS:", {name: INT}
        elif what == "dict":
            dicts = self.matching(lambda t: t.kind == "dict")
            other = self.new("j")
            if not dicts or self.loops:
                raise LookupError
            head, new = (
                f"for {name}, {other} in list({rng.choice(dicts)}.items()):",
                {name: ANY, other: ANY},
            )
        elif what == "list":
            lists = self.matching(lambda t: t.kind == "list")
            if not lists or self.loops:
                raise LookupError
            head = f"for {name} in list({rng.choice(lists)}):"
        elif what == "comp":
            a1 = self.atom("A1", 0)
            test = f"v > {self.atom('N')}"
            made = self.new("l")
            self.put(made, rng.choice((
                f"[v + 1 for v in {a1} if {test}]", f"[pick(v, {self.atom('I', 0)}) for v in {a1}]",
                f"[i for i in range(3) if {a1}[i] > {self.atom('N')}]",
                f"{{i: sign(v) for i, v in enumerate({a1})}}",
                f"sorted([sign(v) for v in {a1}])",
            )), ANY)  # fmt: skip
            return
        else:
            head, new = f"for {name} in ({numbers}):", {name: INT}

        def prepare() -> None:
            self.vars |= new
            self.reserved |= set(new)

        self.looped(head, rng.randint(1, 3), prepare)

    def attempt(self) -> None:
        before, fixed = dict(self.vars), self.fixed
        rng = self.rng
        self.fixed = fixed | set(before)
        self.trys += 1
        caught = rng.choice(("ValueError", "(ValueError, ZeroDivisionError)", "Exception"))
        with self.block("try:"):
            if rng.random() < 0.6:
                with self.block(f"if {self.condition()}:"):
                    self.write(
                        f"raise {rng.choice(('ValueError', 'KeyError(1)', 'ZeroDivisionError'))}"
                    )
            self.suite(rng.randint(1, 2))
        after = self.vars
        self.trys -= 1
        if rng.random() < 0.85:
            self.vars = dict(before)
            with self.block(f"except {caught}{rng.choice((':', ' as error:'))}"):
                if self.suite(1):
                    pass
            self.joined(after, self.vars)
            if rng.random() < 0.2:
                with self.block("else:"):
                    self.quiet(1)
            self.vars, after = {n: t for n, t in before.items() if n in self.vars}, self.vars
            if rng.random() < 0.2:
                with self.block("finally:"):
                    self.quiet(1)
        else:
            self.vars = dict(before)
            with self.block("finally:"):
                self.quiet(1)
        self.fixed = fixed
        self.joined(before, self.vars)

    def context(self) -> None:
        log = self.new("l")
        self.put(log, "[]", Type("list"))
        self.reserved.add(log)
        name = self.new()
        source = self.rng.choice((f"Logged({log}, {self.atom('I', 2)})", "M"))
        if source == "M":
            source = self.new("m")
            self.write(f"{source} = Logged({log}, {self.atom('I', 2)})")
        with self.block(f"with {source} as {name}:"):
            self.vars[name] = INT
            self.quiet(2)

    def leave(self) -> None:
        """Leaves a loop or the function."""
        if self.loops and self.rng.random() < 0.6:
            self.write(self.rng.choice(("break", "continue")))
        else:
            self.write(f"return {self.result()}")

    def result(self) -> str:
        rng = self.rng
        names = list(self.vars)
        chosen = [n for n in rng.sample(names, min(len(names), rng.randint(1, 4)))]
        chosen = [n for n in chosen if self.vars[n].kind != "object"] or ["0"]
        if rng.random() < 0.2:
            chosen.append(self.expression(rng.choice("AIF"), 1))
        form = rng.choice(("one", "tuple", "tuple", "list", "dict"))
        if form == "one":
            return chosen[0]
        if form == "dict":
            return "{" + ", ".join(f"'r{i}': {n}" for i, n in enumerate(chosen)) + "}"
        return f"[{', '.join(chosen)}]" if form == "list" else f"({', '.join(chosen)},)"


def _arrays(rng: random.Random, types: list[Type], call: int) -> tuple:
    """Arguments; those of calls differ in sign and size."""
    out: list[Any] = []
    shift = (0, 3, -3, 1, -1, 6)[call % 6]
    for t in types:
        if t.kind != "array":
            out.append(t.sample)
            continue
        numbers = [rng.randint(-3, 4) + shift for _ in range(int(np.prod(t.shape)))]
        if t.dtype in ("u1", "?"):
            numbers = [max(0, n) for n in numbers]
        values = np.array(numbers, np.int64)
        made = (values % 2 if t.dtype == "?" else values).astype(t.dtype).reshape(t.shape)
        out.append(made if t.shape else made[()])
    return tuple(out)


def program(seed: int, calls: int = 4) -> Program:
    """The program of a seed."""
    rng = random.Random(seed)
    names: dict[str, Any] = {}
    exec(PRELUDE, names)
    types = [Type("array", rng.choice(DTYPES[:2]), rng.choice(SHAPES[1:]))]
    types += [
        Type("array", rng.choice(DTYPES), rng.choice(SHAPES)) for _ in range(rng.randint(0, 2))
    ]
    parameters = [*"xyz"[: len(types)]]
    settings = []
    if rng.random() < 0.5:
        settings.append(("n", Type("int", sample=rng.randint(-1, 4))))
    if rng.random() < 0.3:
        settings.append(("rate", Type("float", sample=rng.choice((0.5, -1.0, 2.0)))))
    if rng.random() < 0.2:
        settings.append(("flag", Type("bool", sample=rng.random() < 0.5)))
    w = Writer(rng, names)
    w.vars = dict(zip(parameters, types, strict=True)) | {k: Type(t.kind) for k, t in settings}
    w.fixed = set()
    everything = ", ".join([*parameters, *(k for k, _ in settings)])
    w.lines.append(f"\n\ndef program({everything}):")
    open_end = True
    while w.budget > 0 and open_end:
        open_end = w.suite(1)
    if open_end:
        w.inexact = [n for n in w.inexact]
        w.write(f"return {', '.join([w.result(), *w.inexact])}")
    all_types = [*types, *(t for _, t in settings)]
    made = [_arrays(rng, all_types, k) for k in range(calls)]
    between = {}
    if rng.random() < 0.15:
        between[calls - 1] = rng.choice(
            ("SCALE = 3", "LIMITS.append(2)", "TABLE['b'] = 4.0", "ROWS[0] = 3")
        )
    return Program(seed, "\n".join(w.lines) + "\n", made, between)


# Comparison


def difference(actual: Any, expected: Any) -> str:
    """What differs between two results; empty when nothing does."""
    if isinstance(expected, np.ndarray | np.generic):
        if not (isinstance(actual, np.ndarray | np.generic) or type(actual).__name__ == "Array"):
            return f"{type(actual).__name__} instead of {expected.dtype}{list(expected.shape)}"
        got = np.asarray(actual)
        if (got.dtype, got.shape) != (expected.dtype, expected.shape):
            return f"{got.dtype}{list(got.shape)} not {expected.dtype}{list(expected.shape)}"
        if got.dtype.kind != "f":
            return "" if np.array_equal(got, expected) else f"{got} instead of {expected}"
        near = 1e-4 if got.dtype == np.float32 else 1e-9
        same = np.allclose(got, expected, rtol=near, atol=near, equal_nan=True)
        return "" if same else f"{got} instead of {expected}"
    if type(actual) is not type(expected):
        return f"{type(actual).__name__} {actual!r} instead of {expected!r}"
    if isinstance(expected, dict):
        if [(type(k), k) for k in actual] != [(type(k), k) for k in expected]:
            return f"keys {list(actual)} instead of {list(expected)}"
        pairs = [(actual[k], expected[k]) for k in expected]
    elif isinstance(expected, list | tuple):
        if len(actual) != len(expected):
            return f"{len(actual)} items instead of {len(expected)}"
        pairs = list(zip(actual, expected, strict=True))
    elif isinstance(expected, float):
        same = actual == expected or np.isclose(actual, expected, 1e-9, 1e-9, equal_nan=True)
        return "" if same else f"{actual!r} instead of {expected!r}"
    elif hasattr(expected, "__dict__") and not callable(expected):
        return difference(vars(actual), vars(expected))
    else:
        same = actual == expected or callable(expected)
        return "" if same else f"{actual!r} instead of {expected!r}"
    return next((d for a, e in pairs if (d := difference(a, e))), "")
