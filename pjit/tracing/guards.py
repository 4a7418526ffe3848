"""Guards: a program holds while all that its function reads beside its arguments is what it was.

``pjit.tracing.reads`` finds what that is. A value is compared by identity, which is cheap, and only
if that fails by type and value. What can change in place is compared by its content: the items of
containers, the bytes of arrays, the states of random generators. The same guards show whether a
function changed something that it did not make, and put that back.
"""

from __future__ import annotations

import ctypes
import dis
import linecache
import operator
import pickle
import random
import types
from collections import deque
from collections.abc import Callable, Iterable
from itertools import repeat
from typing import Any

import numpy as np

from pjit.errors import TraceError
from pjit.tracing.location import shorten

MISSING = object()
VALUES = (bool, int, str, bytes, type(None), float, complex, np.generic, np.dtype)
CONTAINERS = (list, dict, set, deque, bytearray)
GENERATORS = (np.random.Generator, np.random.RandomState, np.random.BitGenerator, random.Random)
SHORT = 2048  # bytes of an array that are compared as an object of Python
_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes, _memcmp.restype = (
    (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t),
    ctypes.c_int,
)


class Guard:
    """One value that a function reads.

    Attributes:
        name: What it is called in messages: ``SCALE``, ``self.rate``.
        value: What it was.
    """

    __slots__ = ("name", "value")

    def __init__(self, name: str, value: Any) -> None:
        self.name, self.value = name, value

    def read(self) -> Any:
        """What it is now; MISSING when there is none."""
        raise NotImplementedError

    def write(self, x: Any) -> None:
        """Puts a value there."""
        raise NotImplementedError

    def holds(self) -> bool:
        """Whether it is what it was. An equal number is noted as the one to compare with."""
        now = self.read()
        if now is not self.value:
            if not same_value(now, self.value):
                return False
            self.value = now
        return True

    def same(self) -> bool:
        """Whether it is the same object, with the same content."""
        return self.read() is self.value

    def change(self) -> str:
        """What it was and what it is, for messages."""
        return f"{self.name} {describe(self.value)} -> {describe(self.read())}"

    def restore(self) -> None:
        """Puts back what was there."""
        if self.read() is not self.value:
            self.write(self.value)


class Entry(Guard):
    """An entry of a dictionary of variables: of globals, of a module."""

    __slots__ = ("key", "scope")

    def __init__(self, name: str, scope: dict[str, Any], key: str) -> None:
        self.scope, self.key = scope, key
        super().__init__(name, self.read())

    def read(self) -> Any:
        """See ``Guard``."""
        return self.scope.get(self.key, MISSING)

    def write(self, x: Any) -> None:
        """See ``Guard``."""
        if x is MISSING:
            self.scope.pop(self.key, None)
        else:
            self.scope[self.key] = x


class Attribute(Guard):
    """An attribute that can be read without running code of the user's.

    Args:
        name: What it is called.
        owner: Gives the object; None when it is gone.
        key: The name of the attribute.
    """

    __slots__ = ("key", "owner")

    def __init__(self, name: str, owner: Callable[[], Any], key: str) -> None:
        self.owner, self.key = owner, key
        super().__init__(name, self.read())

    def read(self) -> Any:
        """See ``Guard``."""
        try:
            return getattr(self.owner(), self.key, MISSING)
        except ValueError:  # an empty cell
            return MISSING

    def write(self, x: Any) -> None:
        """See ``Guard``."""
        if x is MISSING:
            delattr(self.owner(), self.key)
        else:
            setattr(self.owner(), self.key, x)


class Member(Attribute):
    """What a class, or the dictionary of an object, holds under a name; descriptors are not run."""

    __slots__ = ()

    def read(self) -> Any:
        """See ``Guard``."""
        x = self.owner()
        if not isinstance(x, type):
            return getattr(x, "__dict__", {}).get(self.key, MISSING)
        return next((c.__dict__[self.key] for c in x.__mro__ if self.key in c.__dict__), MISSING)


class Content(Guard):
    """What is in an object that can change in place.

    Args:
        name: What it is called.
        x: The object.
    """

    __slots__ = ("held", "items", "keys")

    def __init__(self, name: str, x: Any) -> None:
        self.held = x
        self.keys: list[Any] | None = list(x) if isinstance(x, dict) else None
        self.items = list(x.values()) if isinstance(x, dict) else list(x)
        super().__init__(name, None)

    def read(self) -> Any:
        """A copy of the object."""
        return self.held.copy()

    def same(self) -> bool:
        """Whether the items are the same objects."""
        x = self.held
        if len(x) != len(self.items):
            return False
        if self.keys is not None:
            return all(map(operator.is_, x.values(), self.items)) and all(
                map(operator.is_, x, self.keys)
            )
        return all(map(operator.is_, x, self.items))

    def holds(self) -> bool:
        """See ``Guard``."""
        if self.same():
            return True
        x = self.held
        now = list(x.values()) if self.keys is not None else list(x)
        was = self.items
        if self.keys is not None:
            now, was = [*x, *now], [*self.keys, *was]
        if len(now) != len(was) or not all(map(same_value, now, was)):
            return False
        if self.keys is not None:
            self.keys = list(x)
        self.items = now[-len(self.items) :] if self.items else []
        return True

    def change(self) -> str:
        """See ``Guard``."""
        if self.keys is None:
            was: Any = type(self.held)(self.items) if type(self.held) in CONTAINERS else self.items
        else:
            was = dict(zip(self.keys, self.items, strict=True))
        return f"{self.name} {describe(was)} -> {describe(self.held)}"

    def restore(self) -> None:
        """See ``Guard``."""
        if self.same():
            return
        self.held.clear()
        if self.keys is not None:
            self.held.update(zip(self.keys, self.items, strict=True))
        elif isinstance(self.held, set):
            self.held.update(self.items)
        else:
            self.held.extend(self.items)


class Elements(Guard):
    """The elements of an array. One that is read-only and owns its memory cannot change."""

    __slots__ = ("address", "contiguous", "held", "kept", "short")

    def __init__(self, name: str, x: np.ndarray) -> None:
        self.held = x
        self.kept = x.copy() if x.flags.writeable or x.base is not None else None
        self.contiguous = x.flags.c_contiguous
        self.short = x.tobytes() if self.kept is not None and x.nbytes <= SHORT else None
        self.address = 0
        if self.kept is not None and self.contiguous:
            self.address = self.kept.ctypes.data
        super().__init__(name, None)

    def read(self) -> Any:
        """A copy of the array."""
        return self.held.copy()

    def holds(self) -> bool:
        """See ``Guard``."""
        x, kept = self.held, self.kept
        if kept is None:
            return not x.flags.writeable
        if x.shape != kept.shape or x.dtype != kept.dtype:
            return False
        if self.short is not None:
            return x.tobytes() == self.short
        if self.contiguous and x.flags.c_contiguous:
            return not _memcmp(x.ctypes.data, self.address, x.nbytes)
        return x.tobytes() == kept.tobytes()

    def same(self) -> bool:
        """See ``Guard``."""
        return self.holds()

    def change(self) -> str:
        """See ``Guard``."""
        x, kept = self.held, self.kept
        if kept is None or x.shape != kept.shape or x.dtype != kept.dtype:
            return f"{self.name}: an array of another shape or dtype, or that is writable now"
        at = tuple(int(i[0]) for i in np.nonzero(x != kept)) if x.ndim else ()
        place = f"[{', '.join(map(str, at))}]" if at else ""
        return f"{self.name}{place} {describe(kept[at])} -> {describe(x[at])}"

    def restore(self) -> None:
        """See ``Guard``."""
        if self.kept is not None and not self.holds():
            self.held[...] = self.kept


class Randomness(Guard):
    """The state of a random generator."""

    __slots__ = ("held", "state")

    def __init__(self, name: str, x: Any) -> None:
        self.held = x
        self.state = self._now()
        super().__init__(name, None)

    def _now(self) -> bytes:
        x = self.held
        if isinstance(x, np.random.Generator):
            return pickle.dumps(x.bit_generator.state)
        if isinstance(x, np.random.BitGenerator):
            return pickle.dumps(x.state)
        return pickle.dumps(x.getstate() if isinstance(x, random.Random) else x.get_state())

    def read(self) -> Any:
        """The generator."""
        return self.held

    def holds(self) -> bool:
        """See ``Guard``."""
        return self._now() == self.state

    def same(self) -> bool:
        """See ``Guard``."""
        return self.holds()

    def change(self) -> str:
        """See ``Guard``."""
        return f"the state of {self.name}"

    def restore(self) -> None:
        """See ``Guard``."""
        x, state = self.held, pickle.loads(self.state)
        if isinstance(x, np.random.Generator):
            x.bit_generator.state = state
        elif isinstance(x, np.random.BitGenerator):
            x.state = state
        elif isinstance(x, random.Random):
            x.setstate(state)
        else:
            x.set_state(state)


class Guards:
    """All that a function reads beside its arguments.

    Attributes:
        all: The guards, in the order in which they were found.
        codes: The code that the function may run.
        objects: Gives the objects, other than functions and arrays, whose attributes are read.
        shared: What the function must not change, but does not depend on.
        missing: Modules that the function may import, which were not imported.
    """

    def __init__(self) -> None:
        self.all: list[Guard] = []
        self.shared: list[Guard] = []
        self.missing: list[str] = []
        self.codes: list[types.CodeType] = []
        self.objects: list[tuple[str, Callable[[], Any]]] = []
        self.settle()

    @staticmethod
    def of(function: Callable, objects: Iterable[tuple[str, Any]]) -> Guards:
        """The guards of a function.

        Args:
            function: The function.
            objects: Names and values of arguments that are not traced.
        """
        from pjit.tracing.reads import found

        return found(function, objects)

    def settle(self) -> None:
        """Arranges the guards for ``holds``, after they were found."""
        self._before = [
            (name, owner, set(getattr(owner(), "__dict__", ()))) for name, owner in self.objects
        ]
        self.note()

    def note(self) -> None:
        """Notes the values to compare with: identities in lists, which are compared in C."""
        entries = [g for g in self.all if type(g) is Entry]
        self._entries = (
            [g.scope for g in entries], [g.key for g in entries], [g.value for g in entries],
        )  # fmt: skip
        owners: dict[int, tuple[Callable, list, list, list]] = {}
        strong: tuple[list, list, list] = ([], [], [])
        others: list[Any] = []
        for g in self.all:
            if type(g) is Attribute and isinstance(g.owner, Strong):
                for found, x in zip(strong, (g.owner(), g.key, g.value), strict=True):
                    found.append(x)
            elif isinstance(g, Attribute) and not isinstance(g.owner(), type):
                _, keys, values, absent = owners.setdefault(id(g.owner()), (g.owner, [], [], []))
                if type(g) is Attribute:
                    keys.append(g.key)
                    values.append(g.value)
                elif g.value is MISSING:
                    absent.append(g.key)
                else:
                    others.append(g.same)
            elif isinstance(g, Elements) and g.short is not None:
                pass
            elif type(g) is not Entry:
                others.append(g.same)
        self._strong, self._owners, self._others = strong, list(owners.values()), others
        self._short = [
            (g.held, g.short, g.kept.shape, g.kept.dtype)
            for g in self.all
            if isinstance(g, Elements) and g.short is not None and g.kept is not None
        ]

    def holds(self) -> bool:
        """Whether all is what it was."""
        return not self.all or self._quick() or self.missed() is None

    def _quick(self) -> bool:
        """Whether all values are the same objects, with the same content."""
        scopes, keys, values = self._entries
        if scopes and not all(
            map(operator.is_, map(dict.get, scopes, keys, repeat(MISSING)), values)
        ):
            return False
        try:
            objects, keys, values = self._strong
            if objects and not all(
                map(operator.is_, map(getattr, objects, keys, repeat(MISSING)), values)
            ):
                return False
            for owner, keys, values, absent in self._owners:
                x = owner()
                if not all(
                    map(operator.is_, map(getattr, repeat(x), keys, repeat(MISSING)), values)
                ):
                    return False
                if absent and not x.__dict__.keys().isdisjoint(absent):
                    return False
        except (ValueError, AttributeError):  # an empty cell; an object that is gone
            return False
        for x, short, shape, dtype in self._short:
            if x.tobytes() != short or x.shape != shape or x.dtype is not dtype:
                return False
        for same in self._others:
            if not same():
                return False
        return True

    def missed(self) -> Guard | None:
        """The first guard that does not hold."""
        for g in self.all:
            if not g.holds():
                return g
        self.note()
        return None

    def undo(self) -> None:
        """Puts back what a trace changed.

        Raises:
            TraceError: It changed something.
        """
        changed = [(f"{n}.{a}", o, a) for n, o, before in self._before for a in _added(o, before)]
        for _, owner, a in changed:
            delattr(owner(), a)
        names = [name for name, _, _ in changed]
        broken = [g for g in self.shared if not g.holds()]
        if not self._quick():
            broken += [g for g in self.all if not g.holds()]
            self.note()
        for g in broken:
            g.restore()
        names = [g.name for g in broken] + names
        if not names:
            return
        what = f"the function changes {names[0]}, which is not its own"
        remedy = "return the new value: a compiled function runs in Python only when it is traced"
        if broken and isinstance(broken[0], Randomness):
            what = f"the function draws random numbers from {names[0]}, which calls would repeat"
            remedy = "draw the numbers outside and pass them as an argument"
        raise TraceError(what, where=line_of(self.codes, names[0]), remedy=remedy)


def _added(owner: Callable[[], Any], before: set[str]) -> list[str]:
    """Attributes that an object did not have; a value that is cached by itself is none."""
    x = owner()
    own = getattr(x, "__dict__", before)
    if len(own) == len(before):
        return []
    new = [a for a in own if a not in before]
    cached = [a for a in new if hasattr(getattr(type(x), a, None), "attrname")]
    for a in cached:
        delattr(x, a)
    return [a for a in new if a not in cached]


class Strong:
    """Refers to an object as a weak reference does, but keeps it alive."""

    __slots__ = ("x",)

    def __init__(self, x: Any) -> None:
        self.x = x

    def __call__(self) -> Any:
        """The object."""
        return self.x


def same_value(a: Any, b: Any) -> bool:
    """Whether a value may stand for another one: equal in type and value."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same_value, a, b))
    return isinstance(a, VALUES) and _key(a) == _key(b)


def _key(x: Any) -> Any:
    if isinstance(x, float | complex) and not isinstance(x, np.generic):
        return repr(x)  # -0.0 is not 0.0, nan is nan
    return x.tobytes() if isinstance(x, np.generic) else x


# Messages


def reader_of(codes: Iterable[types.CodeType], name: str) -> str:
    """The line that reads a variable; empty when none names it."""
    last = name.split(".")[-1].split("[")[0]
    for code in codes:
        for i in dis.get_instructions(code):
            if i.argval == last and i.opname.startswith("LOAD_") and i.positions:
                return _place(code, i.positions.lineno or code.co_firstlineno)
    return ""


_MUTATORS = {"append", "extend", "insert", "pop", "remove", "clear", "update", "add", "sort"}
_MUTATORS |= {"setdefault", "popitem", "discard", "reverse", "appendleft", "popleft", "fill"}
_STORES = ("STORE_ATTR", "STORE_DEREF", "STORE_GLOBAL", "DELETE_ATTR", "DELETE_GLOBAL")


def line_of(codes: Iterable[types.CodeType], name: str) -> str:
    """The line that seems to change a variable: ``model.py:12, in forward: SEEN.append(x)``."""
    last = name.split(".")[-1].split("[")[0]
    first = ""
    for code in codes:
        first = first or _place(code, code.co_firstlineno)
        found = False
        for i in dis.get_instructions(code):
            line = i.positions.lineno if i.positions else None
            stores = i.opname in _STORES and i.argval == last
            changes = i.argval in _MUTATORS or i.opname in ("STORE_SUBSCR", "DELETE_SUBSCR")
            if stores or (found and (changes or i.opname.startswith("CALL"))):
                return _place(code, line or code.co_firstlineno)
            found = (found and i.opname != "POP_TOP") or i.argval == last
    return first or name


def _place(code: types.CodeType, line: int) -> str:
    text = linecache.getline(code.co_filename, line).strip()
    place = f"{code.co_filename}:{line}, in {code.co_name}"
    return f"{place}: {shorten(text)}" if text else place


def describe(x: Any) -> str:
    """A value for a message."""
    return "nothing" if x is MISSING else shorten(repr(x).replace("\n", " "))
