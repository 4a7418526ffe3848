"""The user's frames between the start of a trace and the place where it asks for a value."""

from __future__ import annotations

import builtins
import ctypes
import inspect
import sys
import types
from collections.abc import Iterator, Sequence
from functools import partial
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from pjit.tracing.bytecode import LOADED, Item, Place, opname, place, rebinds
from pjit.tracing.location import internal, user_frame

if TYPE_CHECKING:
    from pjit.tracing.scalar import RangeIterator

_GENERATORS = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_TESTS = ("POP_JUMP", "JUMP_IF", "TO_BOOL", "UNARY_NOT")
_CODE: tuple = (
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
    types.ModuleType,
    type,
)
_CODE += (types.MethodWrapperType,)
_OPERATORS = ("BINARY_", "UNARY_", "LOAD_ATTR", "LOAD_METHOD", "STORE_", "POP_JUMP", "TO_BOOL")
TRANSPARENT: set[CodeType] = set()  # code of ours that calls a user's function once


def set_local(frame: FrameType, name: str, value: Any) -> None:
    """Assigns a local variable of a function that is running."""
    frame.f_locals[name] = value
    if sys.version_info < (3, 13):  # PEP 667: f_locals writes through since then
        ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))


class Frames:
    """The frames of user code, outermost first, each with its place.

    Args:
        base: The frame that started the trace.
    """

    def __init__(self, base: FrameType) -> None:
        frames: list[FrameType] = []
        self._between = False  # frames of ours or of a library that are not transparent
        at: FrameType | None = user_frame()
        while at is not None and at is not base:
            if not internal(at.f_code.co_filename):
                frames.append(at)
            elif at.f_code not in TRANSPARENT:
                self._between = True
            at = at.f_back
        frames.reverse()
        self.frames = frames
        self.places = [place(f.f_code, f.f_lasti) for f in frames]

    def __iter__(self) -> Iterator[tuple[FrameType, Place]]:
        return iter(zip(self.frames, self.places, strict=True))

    @property
    def point(self) -> tuple:
        """Where the function is: equal for all visits of a place along the same calls."""
        return tuple((f.f_code, p.name) for f, p in self)

    @property
    def iterates(self) -> bool:
        """Whether the innermost function takes the next element of a ``for`` loop."""
        return self.places[-1].iterates

    @property
    def keeps(self) -> bool:
        """Whether what is asked about stays on the stack: the value of ``and`` and ``or``."""
        frame = self.frames[-1]
        return opname(frame.f_code, frame.f_lasti).startswith("JUMP_IF")

    def unique(self, iterators: Sequence[RangeIterator], once: bool) -> str:
        """Why two visits may differ in what no variable shows; empty when they cannot.

        Args:
            iterators: The loops over ranges.
            once: Whether it is known that the innermost instruction asks this once.
        """
        if self._between:
            return "a library calls back"
        for k, (frame, at) in enumerate(self):
            if frame.f_code.co_flags & _GENERATORS:
                return "a generator is running"
            loops = sum(1 for item in at.hidden if item[0] == "iter")
            if loops != sum(1 for i in iterators if i.frame is frame and i.direct):
                return "a for loop runs over something other than a range"
            if not all(item[0] == "iter" or self._follows(frame, item) for item in at.hidden):
                return "an expression is half evaluated"
            if not frame.f_code.co_flags & inspect.CO_OPTIMIZED:
                return "a class is being defined"
            inner = self.frames[k + 1] if k + 1 < len(self.frames) else None
            if not (once and inner is None) and not _once(frame, at, inner):
                return "it is called by a function that is not Python"
        return ""

    def owner(self, cell: types.CellType, name: str) -> int:
        """Which frame a variable of a closure belongs to; -1: one that has ended."""
        known = cell.cell_contents
        probe = cell.cell_contents = object()
        try:
            for depth, frame in enumerate(self.frames):
                code = frame.f_code
                if name in code.co_cellvars + code.co_freevars:
                    if frame.f_locals.get(name) is probe:
                        return depth
        finally:
            cell.cell_contents = known
        return -1

    def _follows(self, frame: FrameType, item: Item) -> bool:
        """Whether an item of the stack is what the variable that it came from is now."""
        kind = item[0]
        if kind == "built":
            return all(self._follows(frame, x) for x in item[1:])
        if kind == "cell":
            owners = [f.f_code for f in self.frames if item[1] in f.f_code.co_cellvars]
            if owners:
                return not any(rebinds(code, item[1]) for code in owners)
            return isinstance(called(frame, item), _CODE)
        if kind == "attr" and _root(item)[0] != "global":
            owner = called(frame, item[1])
            own = getattr(owner, "__dict__", {})
            fixed = isinstance(called(frame, item), _CODE) and item[2] not in own
            return fixed and self._follows(frame, item[1])
        return kind in LOADED


def _root(item: Item) -> Item:
    return _root(item[1]) if item[0] == "attr" else item


def _once(frame: FrameType, at: Place, inner: FrameType | None) -> bool:
    """Whether the instruction asks, or enters the inner frame, exactly once."""
    name = opname(frame.f_code, frame.f_lasti)
    if inner is None:
        if name.startswith(_TESTS) or at.iterates:
            return True
        return at.calls and called(frame, at.callee) is bool
    if not at.calls:
        return name.startswith(_OPERATORS)
    return inner.f_code is _code(called(frame, at.callee))


def called(frame: FrameType, item: Item) -> Any:
    """What an item of the stack refers to; None when that is not known."""
    kind = item[0]
    if kind in ("local", "cell"):
        return frame.f_locals.get(item[1])
    if kind == "global":
        try:
            return frame.f_globals[item[1]]
        except KeyError:
            return getattr(builtins, item[1], None)
    if kind == "attr":
        owner = called(frame, item[1])
        return None if owner is None else getattr(owner, item[2], None)
    return None


def _code(f: Any) -> CodeType | None:
    """The code that a call of an object runs once."""
    while True:
        if isinstance(f, partial):
            f = f.func
        elif isinstance(f, types.MethodType):
            f = f.__func__
        elif isinstance(f, types.FunctionType):
            return f.__code__
        elif isinstance(f, type):
            f = f.__init__ if f.__init__ is not object.__init__ else None  # type: ignore[misc]
        elif hasattr(f, "__pjit_function__"):
            f = f.__pjit_function__
        else:
            call = vars(type(f)).get("__call__")
            if not isinstance(call, types.FunctionType):
                return None
            f = call
