"""Runs a function with the built-ins that tracing needs: ``range``, ``int``, ``len`` and so on.

A function that is traced, and the functions that it calls by a global name or from its closure, run
as copies whose globals are looked up through ``Globals``. Source and bytecode are the user's.
"""

from __future__ import annotations

import builtins
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from pjit.errors import TraceError
from pjit.tracing import modules
from pjit.tracing.bytecode import calls_global
from pjit.tracing.guards import line_of
from pjit.tracing.location import internal
from pjit.tracing.scalar import Range, kind_of, to_number
from pjit.tracing.trace import Trace, refuse
from pjit.tracing.tracer import Tracer, shown

MISSING = object()


def _isinstance(t: Trace, x: Any, kinds: Any) -> bool:
    kind = _class(x)
    return isinstance(x, kinds) or (kind is not type(x) and issubclass(kind, kinds))


def _class(x: Any) -> type:
    """The type of what a traced value stands for."""
    if isinstance(x, Range):
        return range
    if not isinstance(x, Tracer):
        return type(x)
    weak = kind_of(x)
    return weak or (np.ndarray if x.shape else x.dtype.type)


def _type(t: Trace, *args: Any, **options: Any) -> type:
    return type(*args, **options) if options or len(args) != 1 else _class(args[0])


def _repr(t: Trace, x: Any) -> str:
    return repr(shown(x)) if isinstance(x, Tracer) else repr(x)


def _print(t: Trace, *values: Any, **options: Any) -> None:
    refuse(
        "print() has an effect beside the result, which a compiled call would not repeat",
        remedy="return what is to be printed, and print it outside",
    )


def _len(t: Trace, x: Any) -> Any:
    if isinstance(x, Tracer) and x.shape:
        return x.shape[0]
    return len(x)


def _globals(t: Trace) -> Any:
    refuse("globals() is not traced", remedy="name the global variables")


BUILTINS: dict[str, Callable] = {
    "range": Range,
    "int": to_number(int),
    "float": to_number(float),
    "isinstance": _isinstance,
    "type": _type,
    "repr": _repr,
    "len": _len,
    "print": _print,
    "globals": _globals,
}


class Globals(dict):
    """The globals of a function, as it sees them while it is traced.

    Args:
        trace: The trace.
        real: The globals.
        rebinder: Makes the copies of functions.
    """

    def __init__(self, trace: Trace, real: dict[str, Any], rebinder: Rebinder) -> None:
        super().__init__(real)
        self.trace, self.real, self.rebinder = trace, real, rebinder

    def __getitem__(self, name: str) -> Any:
        found = self.real.get(name, MISSING)
        if found is not MISSING:
            return self.rebinder.seen(found)
        special = BUILTINS.get(name)
        if special is not None and not self.trace.closed:
            frame = sys._getframe(1)
            if calls_global(frame.f_code, frame.f_lasti):
                return types.MethodType(special, self.trace) if name != "range" else self._range
        return builtins.__dict__[name]

    def _range(self, *bounds: Any) -> Any:
        if any(isinstance(x, float) for x in bounds) or not 1 <= len(bounds) <= 3:
            return range(*bounds)
        return Range(self.trace, *bounds)


class Rebinder:
    """Copies functions for one trace, each once."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self._globals: dict[int, Globals] = {}
        self._copies: dict[int, tuple[types.FunctionType, types.FunctionType]] = {}

    def seen(self, x: Any) -> Any:
        """An object as the function sees it: functions of the user's are copies."""
        if type(x) is not types.FunctionType or internal(x.__code__.co_filename):
            return modules.seen(self.trace, x)
        if isinstance(x.__globals__, Globals):
            return x
        return self.function(x)

    def function(self, f: types.FunctionType) -> types.FunctionType:
        """The copy of a function."""
        found = self._copies.get(id(f))
        if found is not None:
            return found[1]
        known = self._globals.get(id(f.__globals__))
        if known is None:
            known = Globals(self.trace, f.__globals__, self)
            self._globals[id(f.__globals__)] = known
        copy = types.FunctionType(f.__code__, known, f.__name__, f.__defaults__, f.__closure__)
        self._copies[id(f)] = (f, copy)
        copy.__kwdefaults__ = f.__kwdefaults__
        copy.__dict__.update(f.__dict__)
        copy.__qualname__, copy.__module__ = f.__qualname__, f.__module__
        if f.__closure__:
            cells = tuple(self._cell(c) for c in f.__closure__)
            if any(a is not b for a, b in zip(cells, f.__closure__, strict=True)):
                inner = types.FunctionType(f.__code__, known, f.__name__, f.__defaults__, cells)
                inner.__kwdefaults__ = f.__kwdefaults__
                inner.__dict__.update(f.__dict__)
                self._copies[id(f)] = (f, inner)
                return inner
        return copy

    def _cell(self, cell: types.CellType) -> types.CellType:
        """The cell of a free variable; a function in it is replaced in a cell of our own."""
        try:
            x = cell.cell_contents
        except ValueError:
            return cell
        seen = self.seen(x)
        return cell if seen is x else types.CellType(seen)

    def check(self) -> None:
        """Raises TraceError if a global variable, or an attribute of a function, was assigned."""
        for f, copy in self._copies.values():
            if copy.__dict__.keys() != f.__dict__.keys() or any(
                x is not f.__dict__[name] for name, x in copy.__dict__.items()
            ):
                refuse(
                    f"the function changes an attribute of {f.__name__}, which is not its own",
                    remedy="return the new value instead",
                )
        for g in self._globals.values():
            for name, x in dict.items(g):
                if g.real.get(name, MISSING) is not x:
                    codes = [f.__code__ for f, _ in self._copies.values()]
                    raise TraceError(
                        f"the function assigns the global variable {name}",
                        where=line_of(codes, name),
                        remedy="return the new value instead",
                    )


def rebound(t: Trace, function: Callable) -> Callable:
    """A function as it is run for a trace."""
    if t.rebinder is None:
        t.rebinder = Rebinder(t)
    if isinstance(function, types.MethodType) and isinstance(function.__func__, types.FunctionType):
        return types.MethodType(t.rebinder.seen(function.__func__), function.__self__)
    return t.rebinder.seen(function)
