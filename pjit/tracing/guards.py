"""What a function reads beside its arguments: globals, closures, attributes.

It is found in the names that the bytecode of the function, and of the functions that it can call by
name, mentions. A program holds while all of it is what it was when the function was traced. The
same guards show whether the function changed something that it did not make.
"""

from __future__ import annotations

import ctypes
import dis
import sys
import sysconfig
import types
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from pjit.array import Array
from pjit.errors import TraceError
from pjit.tracing.location import internal, shorten

MISSING = object()
_VALUES = (bool, int, str, bytes, type(None), float, complex, np.generic, np.dtype)
_MUTABLE = (list, dict, set)
_LIBRARIES = tuple({sysconfig.get_path(n) for n in ("stdlib", "platstdlib", "purelib", "platlib")})
_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes, _memcmp.restype = (
    (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t),
    ctypes.c_int,
)


@dataclass
class Guard:
    """One value that a function reads.

    Attributes:
        name: What it is called in messages: ``SCALE``, ``self.rate``.
        read: Reads it.
        value: What it was.
        content: What was in it; None for what is compared by identity.
        restore: Puts back what it was; None: it cannot be changed in place.
    """

    name: str
    read: Callable[[], Any]
    value: Any
    content: Any = None

    def holds(self) -> bool:
        """Whether it is what it was."""
        now = self.read()
        if now is self.value:
            return self.content is None or _same_content(now, self.content)
        return isinstance(now, _VALUES) and _key(now) == _key(self.value)


@dataclass
class Guards:
    """All that a function reads beside its arguments.

    Attributes:
        all: The guards.
        codes: The code that it may run, to find lines.
    """

    all: list[Guard] = field(default_factory=list)
    codes: list[types.CodeType] = field(default_factory=list)

    @staticmethod
    def of(function: Callable, objects: Iterable[tuple[str, Any]]) -> Guards:
        """The guards of a function.

        Args:
            function: The function.
            objects: Names and values of arguments that are not traced.
        """
        return _Finder().find(function, objects)

    def missed(self) -> Guard | None:
        """The first guard that does not hold."""
        for g in self.all:
            if not g.holds():
                return g
        return None

    def undo(self) -> None:
        """Puts back what a trace changed.

        Raises:
            TraceError: It changed something.
        """
        broken = [g for g in self.all if not g.holds()]
        for g in broken:
            _put_back(g)
        if broken:
            raise TraceError(
                f"the function changes {broken[0].name}, which is not its own",
                where=self._line(broken[0].name),
                remedy="return the new value instead: a compiled function runs in Python only when "
                "it is traced",
            )

    def _line(self, name: str) -> str:
        """The line that seems to change something."""
        last = name.split(".")[-1].split("[")[0]
        for code in self.codes:
            line, found = code.co_firstlineno, False
            for i in dis.get_instructions(code):
                line = getattr(i, "starts_line", None) or line
                if line is True:
                    line = i.line_number  # type: ignore[attr-defined]
                changes = i.opname in ("STORE_SUBSCR", "STORE_ATTR", "STORE_DEREF", "STORE_GLOBAL")
                if found and (i.argval in _MUTATORS or changes):
                    return f"{code.co_filename}:{line}, in {code.co_name}"
                found = (found and i.opname != "POP_TOP") or i.argval == last
        return self.codes[0].co_name if self.codes else name


_MUTATORS = {"append", "extend", "insert", "pop", "remove", "clear", "update", "add", "sort"}
_MUTATORS |= {"setdefault", "popitem", "discard", "reverse", "appendleft", "popleft"}


class _Finder:
    def __init__(self) -> None:
        self.guards = Guards()
        self.names: set[str] = set()
        self.seen: set[tuple[int, str]] = set()
        self.functions: dict[int, Any] = {}
        self.objects: dict[int, tuple[str, Any]] = {}

    def find(self, function: Callable, objects: Iterable[tuple[str, Any]]) -> Guards:
        self.value(getattr(function, "__name__", "function"), function)
        for name, x in objects:
            self.value(name, x)
        before = -1
        while before != len(self.seen) + len(self.names):
            before = len(self.seen) + len(self.names)
            for name, x in list(self.objects.values()):
                self.attributes(name, x)
        return self.guards

    def watch(self, name: str, owner: Any, key: str, read: Callable[[], Any]) -> None:
        if (id(owner), key) in self.seen:
            return
        self.seen.add((id(owner), key))
        x = read()
        if isinstance(x, types.ModuleType | types.BuiltinFunctionType | np.ufunc):
            self.value(name, x)
            return
        self.guards.all.append(Guard(name, read, x, _content(x)))
        self.value(name, x)

    def value(self, name: str, x: Any) -> None:
        """Follows a value to what can be read through it."""
        if isinstance(x, types.MethodType):
            self.value(name, x.__func__)
            self.value("self", x.__self__)
        elif isinstance(x, partial):
            self.value(name, x.func)
        elif isinstance(x, types.FunctionType):
            self.function(x)
        elif isinstance(x, property):
            self.value(name, x.fget)
        elif isinstance(x, staticmethod | classmethod):
            self.value(name, x.__func__)
        elif hasattr(x, "__pjit_function__"):
            self.value(name, x.__pjit_function__)
        elif isinstance(x, list | tuple | set | frozenset):
            for i, item in enumerate(x):
                if not isinstance(item, _VALUES):
                    self.value(f"{name}[{i}]", item)
        elif isinstance(x, dict):
            for k, item in x.items():
                if not isinstance(item, _VALUES):
                    self.value(f"{name}[{k!r}]", item)
        elif not isinstance(x, (*_VALUES, np.ndarray, Array)) and _followed(x):
            self.objects.setdefault(id(x), (name, x))

    def function(self, f: types.FunctionType) -> None:
        if id(f) in self.functions or internal(f.__code__.co_filename):
            return
        self.functions[id(f)] = f
        scope = f.__globals__
        for code in _codes(f.__code__):
            self.guards.codes.append(code)
            self.names.update(code.co_names)
            for name in code.co_names:
                if name in scope:
                    self.watch(name, scope, name, partial(scope.get, name, MISSING))
        for name, cell in zip(f.__code__.co_freevars, f.__closure__ or (), strict=True):
            self.watch(name, cell, "", partial(_cell, cell))
        if f.__defaults__ or f.__kwdefaults__:
            read = partial(_defaults, f)
            self.watch(f"a default of {f.__name__}", f, "defaults", read)

    def attributes(self, name: str, x: Any) -> None:
        known = _members(x)
        for attribute in sorted(self.names & known.keys()):
            if isinstance(x, type) and attribute.startswith("__"):
                continue
            read = partial(_member, _reference(x), attribute)
            self.watch(f"{name}.{attribute}", x, attribute, read)
        if not isinstance(x, type | types.ModuleType):
            for cls in type(x).__mro__:
                if _followed(cls):
                    self.objects.setdefault(id(cls), (cls.__name__, cls))


def _members(x: Any) -> dict[str, Any]:
    found = dict(getattr(x, "__dict__", {}))
    if not isinstance(x, type):
        for cls in type(x).__mro__:
            slots = cls.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if hasattr(x, name):
                    found[name] = None
    return found


def _reference(x: Any) -> Callable[[], Any]:
    """Refers to an object without keeping it alive, if that is possible."""
    try:
        return weakref.ref(x)
    except TypeError:
        return lambda: x


def _member(owner: Callable[[], Any], name: str) -> Any:
    x = owner()
    own = getattr(x, "__dict__", None)
    if own is not None and name in own:
        return own[name]
    return MISSING if isinstance(x, type) else getattr(x, name, MISSING)


def _followed(x: Any) -> bool:
    """Whether attributes of an object can be the user's."""
    owner = x if isinstance(x, type | types.ModuleType) else type(x)
    name = owner.__name__ if isinstance(owner, types.ModuleType) else owner.__module__
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if module is None or file is None:
        return name == "__main__" or (module is not None and not _frozen(module))
    return not internal(file) and not file.startswith(_LIBRARIES)


def _frozen(module: types.ModuleType) -> bool:
    spec = getattr(module, "__spec__", None)
    return spec is not None and spec.origin in ("built-in", "frozen")


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for c in code.co_consts:
        if isinstance(c, types.CodeType):
            yield from _codes(c)


def _cell(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return MISSING


def _defaults(f: types.FunctionType) -> Any:
    kept = f.__defaults__
    return kept if not f.__kwdefaults__ else f.__kwdefaults__


def _key(x: Any) -> Any:
    """Equal for values that are equal in type and value."""
    if isinstance(x, float | complex):
        return (type(x), repr(x))
    if isinstance(x, np.generic):
        return (type(x), x.tobytes())
    return (type(x), x)


def _content(x: Any) -> Any:
    """What is in a value that can change in place; None if it cannot."""
    if isinstance(x, np.ndarray):
        return x.copy() if x.flags.writeable or x.base is not None else None
    if isinstance(x, _MUTABLE) or (
        isinstance(x, tuple) and any(_content(i) is not None for i in x)
    ):
        items = list(x.items()) if isinstance(x, dict) else list(x)
        return [(i, _content(i)) for i in items]
    return None


def _same_content(x: Any, content: Any) -> bool:
    if isinstance(x, np.ndarray):
        if x.shape != content.shape or x.dtype != content.dtype:
            return False
        if x.flags.c_contiguous and content.flags.c_contiguous:
            return not _memcmp(x.ctypes.data, content.ctypes.data, x.nbytes)
        return x.tobytes() == content.tobytes()
    items = list(x.items()) if isinstance(x, dict) else list(x)
    return len(items) == len(content) and all(
        _same_item(a, b, inner) for a, (b, inner) in zip(items, content, strict=True)
    )


def _same_item(a: Any, b: Any, content: Any) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple) and content is None:
        return len(a) == len(b) and all(_same_item(x, y, None) for x, y in zip(a, b, strict=True))
    if a is b:
        return content is None or _same_content(a, content)
    return isinstance(a, _VALUES) and type(a) is type(b) and _key(a) == _key(b)


def _put_back(g: Guard) -> None:
    """Restores a container, or what a cell, an attribute or a global referred to."""
    now = g.read()
    if now is not g.value:
        owner = g.read.args[0] if isinstance(g.read, partial) else None  # type: ignore[attr-defined]
        if isinstance(g.read, partial) and g.read.func is _cell:
            owner.cell_contents = g.value
        elif isinstance(g.read, partial) and g.read.func is _member:
            owner = owner()
            if g.value is MISSING:
                delattr(owner, g.read.args[1])
            else:
                setattr(owner, g.read.args[1], g.value)
    if g.content is None:
        return
    items = [i for i, _ in g.content] if not isinstance(g.value, np.ndarray) else g.content
    if isinstance(g.value, list):
        g.value[:] = items
    elif isinstance(g.value, dict):
        g.value.clear()
        g.value.update(items)
    elif isinstance(g.value, set):
        g.value.clear()
        g.value.update(items)
    elif isinstance(g.value, np.ndarray):
        g.value[...] = items


def describe(x: Any) -> str:
    """A value for a message."""
    return "nothing" if x is MISSING else shorten(repr(x).replace("\n", " "))
