"""What a function reads beside its arguments: globals, closures, defaults, attributes.

It is found in the names that the bytecode of the function mentions, of the functions that it can
reach through what it reads, and of the classes of the objects. An attribute counts as read when
some of that code has its name and an object within reach has the attribute; where code reads
attributes without naming them, all of the user's objects count. Python's own library, NumPy and
pjit are not followed.
"""

from __future__ import annotations

import dis
import random
import sys
import sysconfig
import types
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from pjit.array import Array
from pjit.errors import FallbackWarning
from pjit.tracing.guards import (
    CONTAINERS,
    GENERATORS,
    MISSING,
    VALUES,
    Attribute,
    Content,
    Elements,
    Entry,
    Guards,
    Member,
    Randomness,
    Strong,
)
from pjit.tracing.location import internal

MAX_VALUES = 2000  # objects that are compared at each call
_STANDARD = tuple({sysconfig.get_path(n) for n in ("stdlib", "platstdlib")})
_INSTALLED = tuple({sysconfig.get_path(n) for n in ("purelib", "platlib")})
_GLOBALS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
_ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR", "STORE_ATTR", "DELETE_ATTR")
_BUILT_IN = (types.BuiltinFunctionType, types.MethodDescriptorType, np.ufunc)
_SLOTS = (types.MemberDescriptorType, types.GetSetDescriptorType)
_ALL = {"vars", "__dict__", "attrgetter", "asdict", "astuple", "deepcopy", "getmembers"}
_ALL |= {"__getattribute__"}  # names of what reads attributes without naming them
_MAKING = {"__init__", "__new__", "__post_init__"}
_UNUSED = {"__repr__", "__init_subclass__", "__class_getitem__", "__del__", "__getstate__"}
_UNUSED |= {"__reduce__", "__setstate__", "__weakref__", "__dict__"}
_OWN = {"function", "target", "threads", "exec_mode", "home"}  # of a compiled function


def found(function: Callable, objects: Iterable[tuple[str, Any]]) -> Guards:
    """See ``Guards.of``."""
    return _Finder().find(function, objects)


class _Finder:
    """Attributes:
    names: Of attributes that the code mentions.
    tested: Of attributes that the code asks for by ``hasattr`` or ``getattr``.
    all: Whether code reads attributes without naming them.
    above: Whether code calls methods of base classes.
    random: Whether code may use the random generators that all code shares.
    """

    def __init__(self) -> None:
        self.guards = Guards()
        self.names: set[str] = set()
        self.tested: set[str] = set()
        self.all = self.above = self.random = False
        self.seen: set[tuple] = set()
        self.values: dict[int, Any] = {}
        self.objects: dict[int, tuple[str, Callable[[], Any]]] = {}
        self.made: set[int] = set()  # classes that the code can call
        self.weak: set[int] = set()

    def find(self, function: Callable, objects: Iterable[tuple[str, Any]]) -> Guards:
        for name, x in objects:
            self.weak.add(id(x))
            self.value(name, x)
        self.value(getattr(function, "__name__", "function"), function)
        before: tuple = ()
        while before != (now := self.extent()) and not self.full:
            before = now
            for name, owner in list(self.objects.values()):
                if not self.full:
                    self.members(name, owner)
        if self.full:
            warnings.warn(
                f"{getattr(function, '__name__', 'a function')} can read more than {MAX_VALUES} "
                "objects beside its arguments; changes of others are not noticed",
                FallbackWarning,
                stacklevel=2,
            )
        self.guards.objects = [
            (name, owner)
            for name, owner in self.objects.values()
            if not isinstance(owner(), type) and not hasattr(owner(), "__pjit_function__")
        ]
        if self.random or "random" in self.names:
            self.guards.shared = [
                Randomness("np.random", np.random.mtrand._rand),
                Randomness("random", random._inst),  # type: ignore[attr-defined]
            ]
        self.guards.settle()
        return self.guards

    @property
    def full(self) -> bool:
        """Whether no more can be compared at each call."""
        return len(self.values) >= MAX_VALUES or len(self.guards.all) >= MAX_VALUES

    def extent(self) -> tuple:
        return (
            len(self.seen),
            len(self.names),
            len(self.tested),
            len(self.values),
            len(self.objects),
            self.all,
        )

    def first(self, *key: Any) -> bool:
        if key in self.seen:
            return False
        self.seen.add(key)
        return True

    # Values

    def value(self, name: str, x: Any) -> None:
        """Follows a value to what can be read through it."""
        if isinstance(x, _BUILT_IN):  # of a container: values.append
            x = getattr(x, "__self__", None)
            if isinstance(x, types.ModuleType):
                return
        if isinstance(x, VALUES) or id(x) in self.values or self.full:
            return
        self.values[id(x)] = x if id(x) not in self.weak else None
        if isinstance(x, np.ndarray):
            self.guards.all.append(Elements(name, x))
        elif isinstance(x, GENERATORS):
            self.guards.all.append(Randomness(name, x))
        elif isinstance(x, types.FunctionType):
            self.function(x)
        elif isinstance(x, types.MethodType):
            self.value(name, x.__func__)
            self.value("self", x.__self__)
        elif isinstance(x, partial):
            self.value(name, x.func)
            self.items(name, [*x.args, *x.keywords.values()])
        elif isinstance(x, property):
            self.items(name, [x.fget, x.fset])
        elif isinstance(x, staticmethod | classmethod):
            self.value(name, x.__func__)
        elif isinstance(x, tuple | frozenset):
            self.items(name, x)
        elif isinstance(x, types.ModuleType):
            if _followed(x):
                self.object(name, x)
        elif not isinstance(x, Array) and not _tracer(x):
            self.instance(name, x)

    def items(self, name: str, xs: Iterable[Any]) -> None:
        for i, item in enumerate(xs):
            self.value(f"{name}[{i}]", item)

    def instance(self, name: str, x: Any) -> None:
        if isinstance(x, CONTAINERS):
            self.guards.all.append(Content(name, x))
            if isinstance(x, dict):
                for k, item in list(x.items()):
                    self.value(f"{name}[{k!r}]", item)
            else:
                self.items(name, list(x))
        if hasattr(type(x), "__pjit_function__"):
            self.value(name, x.__pjit_function__)
        own = getattr(x, "__dict__", {})
        for wrapped in ("__wrapped__", "func"):  # of functools
            self.value(name, own.get(wrapped))
        if isinstance(x, type):
            self.made.add(id(x))
            if _followed(x):
                self.object(name, x)
        elif hasattr(x, "__dict__") or _members(type(x)):
            self.object(name, x)

    def object(self, name: str, x: Any) -> None:
        """Notes an object whose attributes may be read."""
        if id(x) in self.objects:
            return
        owner: Callable[[], Any] = Strong(x)
        if id(x) in self.weak:
            with suppress(TypeError):
                owner = weakref.ref(x)
        self.objects[id(x)] = (name, owner)
        if not isinstance(x, type | types.ModuleType) and _followed(type(x)):
            if self.first(Attribute, id(x), "__class__"):
                self.guards.all.append(Attribute(f"the class of {name}", owner, "__class__"))

    # Functions

    def function(self, f: types.FunctionType) -> None:
        if internal(f.__code__.co_filename) or _standard(f.__code__.co_filename):
            return
        for code in _codes(f.__code__):
            self.guards.codes.append(code)
            self.code(code, f.__globals__)
        for name, cell in zip(f.__code__.co_freevars, f.__closure__ or (), strict=True):
            self.watch(Attribute, name, Strong(cell), "cell_contents")
        if f.__defaults__ is not None:
            self.watch(Attribute, f"a default of {f.__name__}", Strong(f), "__defaults__")
        if f.__kwdefaults__ is not None:
            self.watch(Attribute, f"a default of {f.__name__}", Strong(f), "__kwdefaults__")
        if f.__dict__:
            self.object(f.__name__, f)

    def code(self, code: types.CodeType, scope: dict[str, Any]) -> None:
        """Notes the names that code mentions."""
        asks = {"hasattr", "getattr"} & set(code.co_names)
        for i in dis.get_instructions(code):
            if i.opname in _GLOBALS and not i.argval.startswith("@"):  # of pytest
                self.entry(i.argval, scope, i.argval)
                self.all |= i.argval in _ALL
                self.above |= i.argval == "super"
            elif i.opname in _ATTRIBUTES:
                self.names.add(i.argval)
                self.all |= i.argval in _ALL
            elif i.opname == "IMPORT_NAME":
                self.module(i.argval)
            elif i.opname == "IMPORT_FROM":
                self.names.add(i.argval)
            elif asks and i.opname == "LOAD_CONST" and isinstance(i.argval, str):
                if i.argval.isidentifier():
                    self.names.add(i.argval)
                    self.tested.add(i.argval)
        if "getattr" in asks and not _literal(code):
            self.all |= not code.co_filename.startswith(_INSTALLED)

    def module(self, name: str) -> None:
        """A module that the function imports; one that is not imported yet is noted."""
        x: Any = sys.modules.get(name)
        if x is None and name:
            self.guards.missing.append(name)
        while isinstance(x, types.ModuleType):
            self.value(x.__name__, x)
            parent, _, last = x.__name__.rpartition(".")
            self.names.add(last)
            x = sys.modules.get(parent)

    # What is read

    def entry(self, name: str, scope: dict[str, Any], key: str) -> None:
        if self.first("entry", id(scope), key):
            g = Entry(name, scope, key)
            self.guards.all.append(g)
            self.all |= any(g.value is sys.modules.get(m) for m in ("copy", "dataclasses"))
            self.random |= isinstance(getattr(g.value, "__self__", None), GENERATORS)
            self.random |= g.value is random or g.value is np.random
            self.value(name, g.value)

    def watch(self, kind: type[Attribute], name: str, owner: Callable[[], Any], key: str) -> None:
        x = owner()
        if self.first(kind, id(x), key):
            g = kind(name, owner, key)
            self.guards.all.append(g)
            if g.value is not MISSING:
                self.value(name, g.value)

    def members(self, name: str, owner: Callable[[], Any]) -> None:
        """The attributes of an object that may be read."""
        x = owner()
        if isinstance(x, types.ModuleType):
            scope = vars(x)
            known = (self.names & scope.keys()) | self.tested
            if self.all and not _installed(x):
                known |= {n for n, v in scope.items() if not isinstance(v, types.ModuleType)}
            for n in sorted(known):
                self.entry(f"{name}.{n}", scope, n)
        elif isinstance(x, type):
            self.methods(name, owner, x, id(x) in self.made)
            for n in sorted(_members(x).keys() & self.names):
                self.static(f"{name}.{n}", Strong(x), n, _members(x)[n])
        elif hasattr(x, "__pjit_function__"):
            for n in sorted((self.names & vars(x).keys()) - _OWN):
                self.watch(Attribute, f"{name}.{n}", owner, n)
        else:
            self.attributes(name, owner, x)

    def attributes(self, name: str, owner: Callable[[], Any], x: Any) -> None:
        cls = type(x)
        own = getattr(x, "__dict__", {})
        known = _members(cls)
        self.methods(name, Strong(cls), cls, False)
        if self.above:
            for c in filter(_followed, cls.__mro__):
                self.object(c.__name__, c)
        wanted = self.names & (own.keys() | known.keys())
        if self.all and not _installed(cls):
            self.everything(name, own)
            wanted |= {n for n, v in known.items() if isinstance(v, _SLOTS)}
            wanted |= {n for n, v in known.items() if not hasattr(v, "__get__")}
        if not hasattr(cls, "__getattr__"):
            wanted |= self.tested
        for n in sorted(wanted):
            member = known.get(n, MISSING)
            if isinstance(member, _SLOTS) or not hasattr(member, "__get__"):
                self.watch(Attribute, f"{name}.{n}", owner, n)
                continue
            self.static(f"{cls.__name__}.{n}", Strong(cls), n, member)
            if not hasattr(member, "__set__"):
                self.watch(Member, f"{name}.{n}", owner, n)

    def everything(self, name: str, own: dict[str, Any]) -> None:
        """Code may read all attributes, and which there are."""
        if own and self.first("everything", id(own)):
            self.guards.all.append(Content(name, own))
            for n, item in list(own.items()):
                self.value(f"{name}.{n}", item)

    def methods(self, name: str, owner: Callable[[], Any], cls: type, made: bool) -> None:
        """Methods that Python calls itself: ``__call__``, ``__len__``, ``__add__``, ..."""
        if not self.first("methods", id(cls), made):
            return
        for n, member in _members(cls).items():
            special = n.startswith("__") and n.endswith("__") and n not in _UNUSED
            if special and hasattr(member, "__get__") and (made or n not in _MAKING):
                self.static(f"{cls.__name__}.{n}", Strong(cls), n, member)

    def static(self, name: str, owner: Callable[[], Any], key: str, member: Any) -> None:
        """What a class has; its descriptors are not run."""
        plain = isinstance(member, types.FunctionType) or not hasattr(member, "__get__")
        self.watch(Attribute if plain else Member, name, owner, key)


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for c in code.co_consts:
        if isinstance(c, types.CodeType):
            yield from _codes(c)


def _literal(code: types.CodeType) -> bool:
    """Whether each ``getattr`` in the code names the attribute by a literal."""
    asked = False
    literal = True
    for i in dis.get_instructions(code):
        if i.opname in _GLOBALS and i.argval == "getattr":
            asked, literal = True, False
        elif asked and i.opname == "LOAD_CONST" and isinstance(i.argval, str):
            literal = True
        elif asked and i.opname.startswith(("FORMAT", "BUILD_STRING", "BINARY")):
            return False
        elif asked and i.opname.startswith("CALL"):
            if not literal:
                return False
            asked = False
    return literal


def _members(cls: type) -> dict[str, Any]:
    """What the user's classes of an object define, by name."""
    out: dict[str, Any] = {}
    for c in reversed(cls.__mro__):
        if c is not object and _followed(c):
            out |= c.__dict__
    return out


def _followed(x: Any) -> bool:
    """Whether attributes of a class or a module can be the user's."""
    name = x.__name__ if isinstance(x, types.ModuleType) else getattr(x, "__module__", None)
    module = sys.modules.get(name) if isinstance(name, str) else None
    if module is None:
        return True
    file = getattr(module, "__file__", None)
    if file is None:
        spec = getattr(module, "__spec__", None)
        return spec is None or spec.origin not in ("built-in", "frozen")
    return not internal(file) and not _standard(file)


def _installed(x: Any) -> bool:
    """Whether a class or a module is of an installed package."""
    name = x.__name__ if isinstance(x, types.ModuleType) else x.__module__
    file = getattr(sys.modules.get(name), "__file__", None)
    return file is not None and file.startswith(_INSTALLED)


def _standard(file: str) -> bool:
    """Whether a file is of Python's own library."""
    if file.startswith("<frozen"):
        return True
    return file.startswith(_STANDARD) and not file.startswith(_INSTALLED)


def _tracer(x: Any) -> bool:
    return hasattr(type(x), "__array_function__") and internal(
        getattr(sys.modules.get(type(x).__module__), "__file__", None) or ""
    )
