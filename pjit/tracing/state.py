"""The state of a traced function where it asks for a value.

Python is deterministic: two visits of one place that agree in everything the function can still
read continue alike, whatever numbers the arrays have. So the state is where the function is (the
place in every frame), what its live variables refer to, with the arrays left open, and the position
of the loops over ``range``. Visits with equal states are one node of the trace graph: that is how
branches join and loops close. What cannot be compared (generators, files, an operand on the
interpreter's stack, ...) makes a state that is like no other; nothing is merged then.
"""

from __future__ import annotations

import enum
import types
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from pjit.array import Array
from pjit.ir.core import Value
from pjit.tracing.frames import set_local
from pjit.tracing.location import arguments
from pjit.tracing.scalar import Scalar, promoted
from pjit.tracing.sizes import Size
from pjit.tracing.tracer import Tracer

if TYPE_CHECKING:
    from pjit.tracing.trace import Trace

Path = tuple
Setter = Callable[[Any], None]
NUMBERS = (int, float)
HASHED = 1 << 20  # bytes of an array that are compared; of a larger one a sample
_FIXED = (str, bytes, complex, bool, type(None), type(Ellipsis), type(NotImplemented), range, slice)
_STATELESS: tuple = (type, types.ModuleType, np.ufunc, np.dtype, enum.Enum)
_STATELESS += (types.MethodDescriptorType, types.WrapperDescriptorType, types.CodeType, Array)
_STATELESS += (types.GetSetDescriptorType, types.MemberDescriptorType, types.GenericAlias)
_STATELESS += (types.ClassMethodDescriptorType,)


class Capture:
    """What a function that stopped can still read.

    Args:
        trace: The trace.
        asked: The array whose value is asked for.
        tag: Tells questions of one instruction apart; such a question is asked once.
        question: What Python holds while it asks.

    Attributes:
        point: Where the function is; the same for all visits of a line in a loop.
        structure: What the state consists of, without the values of numbers.
        values: The values of numbers, with their paths.
        cells: The arrays that own their elements, in order; the asked one is the first.
        unique: Why the state cannot be equal to another one; empty when it can.
    """

    def __init__(self, trace: Trace, asked: Tracer, tag: str, question: Tracer) -> None:
        self.trace = trace
        self.structure: list[Any] = []
        self.values: list[tuple[Path, str]] = []
        self.settable: set[Path] = set()
        self.cells: list[Tracer] = []
        self._memo: dict[int, int] = {}
        self._groups: dict[int, int] = {}  # arrays of NumPy whose memory others view
        self._kept: list[Any] = []
        self.frames = frames = trace.frames()
        self.point = (*frames.point, tag)
        self.promoted = trace.policy.promoted.get(self.point, frozenset())
        self.unique = frames.unique(trace.iterators, bool(tag))
        self._tracer(asked)
        if frames.keeps:
            self.walk(question, ("question",), None)
        if tag and not frames.iterates:  # our code asks, and goes on with what it was given
            self.walk(arguments(), ("argument",), None)
        dead: list[Any] = []
        for depth, (frame, at) in enumerate(frames):
            found = frame.f_locals
            always = {*frame.f_code.co_cellvars, *frame.f_code.co_freevars}
            for name in sorted(found):
                if name in at.live or name in always:
                    self.structure.append(name)
                    setter = None if name in at.held else partial(set_local, frame, name)
                    self.walk(found[name], (depth, name), setter)
                else:
                    dead.append(found[name])
        for k, iterator in enumerate(trace.iterators):
            self.walk(iterator.state(), ("for", k), None)
        if not self.unique:
            self.unique = self._hidden([*dead, question])
        del self.frames

    @property
    def key(self) -> tuple:
        """Equal for states that continue alike."""
        if self.unique:
            return (id(self),)
        return (self.point, tuple(self.structure), tuple(v for _, v in self.values))

    def similar(self, other: Capture) -> list[Path] | None:
        """The paths of numbers that differ, if nothing else does; None when something else does, or
        one cannot be replaced.
        """
        if self.unique or other.unique or self.point != other.point:
            return None
        if self.structure != other.structure:
            return None
        pairs = zip(self.values, other.values, strict=True)
        paths = [p for (p, a), (_, b) in pairs if a != b]
        return paths if self.settable.issuperset(paths) else None

    @property
    def callers(self) -> frozenset[int]:
        """The cells that are the caller's arrays, which must not be written."""
        return frozenset(i for i, c in enumerate(self.cells) if c.argument)

    def arguments(self) -> list[Value]:
        """The values of the cells."""
        return [c.value for c in self.cells]

    def bind(self, values: list[Value]) -> None:
        """Gives the cells other values."""
        for cell, v in zip(self.cells, values, strict=True):
            cell.rebind(v)

    def release(self) -> None:
        """Lets go of the objects: what they were is noted."""
        self.cells, self._kept = [], []

    # Walking

    def walk(self, x: Any, path: Path, setter: Setter | None) -> None:
        """Notes an object: at a path from a variable, which can be set or not."""
        kind = type(x)
        if kind in NUMBERS:
            self._number(x, path, setter)
        elif isinstance(x, Tracer):
            self._tracer(x)
        elif kind in _FIXED:
            self.structure.append((kind, repr(x) if kind in (complex, slice) else x))
        elif isinstance(x, np.generic):
            self.structure.append((kind, x.tobytes()))
        elif isinstance(x, types.BuiltinFunctionType | types.MethodWrapperType):
            self.structure.append((kind, x.__name__))
            self.walk(x.__self__, (*path, "self"), None)
        elif isinstance(x, type) and "<locals>" in x.__qualname__:
            if not self._seen(x):
                self._class(x, path)
        elif isinstance(x, _STATELESS):
            self.structure.append((kind, id(x)))
        elif hasattr(kind, "__pjit_stateless__"):
            self.structure.append((kind, id(x.__pjit_stateless__)))
        elif not self._seen(x):
            self._container(x, path)

    def _seen(self, x: Any) -> bool:
        found = self._memo.get(id(x))
        if found is not None:
            self.structure.append(("same", found))
            return True
        self._memo[id(x)] = len(self._memo)
        self._kept.append(x)
        return False

    def _number(self, x: Any, path: Path, setter: Setter | None) -> None:
        if setter is not None and path in self.promoted:
            scalar = promoted(self.trace, x, path, self.point)
            setter(scalar)
            self._tracer(scalar)
            return
        self.structure.append(type(x))
        self.values.append((path, repr(x)))
        if setter is not None:
            self.settable.add(path)

    def _tracer(self, x: Tracer) -> None:
        if self._seen(x):
            return
        group = self._memo.setdefault(id(x.aliases), len(self._memo)) if x.aliases else None
        self.structure.append((type(x), x.signature(), group))
        for part in getattr(x.window, "parts", ()):
            self.walk(part, (), None)
        if x.base is not None:
            self._tracer(x.base)
        elif isinstance(x, Size):
            return
        else:
            self.structure.append(str(x.raw.type))
            self.cells.append(x)

    def _container(self, x: Any, path: Path) -> None:
        kind = type(x)
        self.walk(kind, (*path, "class"), None)
        if isinstance(x, np.ndarray):
            self.structure.append((x.shape, x.dtype.str, _content(x)))
            self._memory(x)
        elif isinstance(x, list | tuple | deque):
            self.structure.append((len(x), getattr(x, "maxlen", None)))
            for i, item in enumerate(x):
                setter = None if isinstance(x, tuple) else partial(x.__setitem__, i)
                self.walk(item, (*path, i), setter)
            self._attributes(x, path)
        elif isinstance(x, dict):
            self.structure.append(tuple((type(k), _hashed(k)) for k in x))
            for k, item in x.items():
                self.walk(item, (*path, _hashed(k)), partial(x.__setitem__, k))
            self.walk(getattr(x, "default_factory", None), (*path, "default"), None)
            self._attributes(x, path)
        elif isinstance(x, set | frozenset):
            self.structure.append(tuple((type(k), _hashed(k)) for k in x))
        elif isinstance(x, types.FunctionType):
            self.structure.append(x.__code__)
            for name, cell in zip(x.__code__.co_freevars, x.__closure__ or (), strict=True):
                self._cell(cell, (*path, name))
            self.walk(x.__defaults__, (*path, "defaults"), None)
            self.walk(x.__kwdefaults__, (*path, "kwdefaults"), None)
            self._attributes(x, path)
        elif isinstance(x, types.MethodType):
            self.walk(x.__func__, (*path, "function"), None)
            self.walk(x.__self__, (*path, "self"), None)
        elif isinstance(x, property):
            self.walk((x.fget, x.fset, x.fdel), path, None)
        elif isinstance(x, staticmethod | classmethod):
            self.walk(x.__func__, path, None)
        elif isinstance(x, partial):
            self.walk((x.func, x.args, x.keywords), path, None)
        elif _is_plain(x):
            self._attributes(x, path)
        else:
            self.unique = self.unique or f"a {kind.__name__} in {path[-1]!r} cannot be compared"

    def _memory(self, x: np.ndarray) -> None:
        """Which arrays share memory, and where."""
        owner = x
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        self._kept.append(owner)
        group = self._groups.setdefault(id(owner), len(self._groups))
        start = x.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
        self.structure.append((group, start, x.strides, x.flags.writeable))

    def _class(self, x: type, path: Path) -> None:
        """A class that the function made."""
        self.structure.append((x.__qualname__, len(x.__bases__)))
        for i, base in enumerate(x.__bases__):
            self.walk(base, (*path, i), None)
        for name, value in x.__dict__.items():
            if not isinstance(value, types.GetSetDescriptorType | types.MemberDescriptorType):
                self.structure.append(name)
                self.walk(value, (*path, name), None)

    def _cell(self, cell: Any, path: Path) -> None:
        if self._seen(cell):
            return
        try:
            x = cell.cell_contents
        except ValueError:
            self.structure.append("empty")
            return
        self.structure.append(self.frames.owner(cell, path[-1]))
        self.walk(x, path, partial(setattr, cell, "cell_contents"))

    def _attributes(self, x: Any, path: Path) -> None:
        found = list(attributes(x))
        self.structure.append(len(found))
        for name, value in found:
            self.structure.append(name)
            self.walk(value, (*path, name), partial(setattr, x, name))

    def _hidden(self, dead: list[Any]) -> str:
        """Whether a traced array is alive that no variable leads to."""
        known = {id(x) for x in self._kept}
        lost = [x for x in self.trace.living() if id(x) not in known and not x.argument]
        if lost:
            seen: set[int] = set()
            known = {id(x) for x in _tracers_in(dead, seen)}
        return "an expression holds an array" if any(id(x) not in known for x in lost) else ""


def attributes(x: Any) -> Iterator[tuple[str, Any]]:
    """The attributes of an object: its ``__dict__`` and its slots."""
    yield from list(getattr(x, "__dict__", {}).items())
    for cls in type(x).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(x, name):
                yield name, getattr(x, name)


def _is_plain(x: Any) -> bool:
    """Whether an object is what its attributes are: its classes are Python's."""
    kinds = type(x).__mro__
    slots = [c.__dict__.get("__slots__", ()) for c in kinds]
    count = sum(1 if isinstance(s, str) else len(s) for s in slots)
    return (
        all(
            c is object or c.__flags__ & (1 << 9)
            for c in kinds  # Py_TPFLAGS_HEAPTYPE
        )
        and type(x).__basicsize__ <= _Plain.__basicsize__ + 8 * count
    )


class _Plain:
    pass


def _hashed(k: Any) -> Any:
    if isinstance(k, Scalar):
        return ("traced", k.weak, repr(k.answer))
    if isinstance(k, tuple | frozenset):
        return tuple((type(i), _hashed(i)) for i in k)
    return (type(k), repr(k)) if isinstance(k, float | complex) else k


def _content(x: np.ndarray) -> int:
    if x.dtype.hasobject:
        return id(x)
    if x.nbytes <= HASHED:
        return hash(x.tobytes())
    flat = x.reshape(-1)
    return hash((id(x), flat[:: max(1, flat.size // 4096)].tobytes()))


def _tracers_in(x: Any, seen: set[int]) -> Iterator[Tracer]:
    if id(x) in seen:
        return
    seen.add(id(x))
    if isinstance(x, Tracer):
        yield x
        if x.base is not None:
            yield from _tracers_in(x.base, seen)
    elif isinstance(x, list | tuple | set | frozenset | deque):
        for item in x:
            yield from _tracers_in(item, seen)
    elif isinstance(x, dict):
        yield from _tracers_in(list(x.values()), seen)
    elif isinstance(x, types.FunctionType):
        for cell in x.__closure__ or ():
            try:
                yield from _tracers_in(cell.cell_contents, seen)
            except ValueError:
                continue
    elif _is_plain(x):
        yield from _tracers_in([v for _, v in attributes(x)], seen)
