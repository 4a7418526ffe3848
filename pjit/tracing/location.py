"""Where traced code is: the user's frame, its line, and the expression that is being evaluated.

The user's frame is the innermost one outside pjit, NumPy and optree.
"""

from __future__ import annotations

import linecache
import os
import sys
from functools import lru_cache
from inspect import CO_VARARGS, CO_VARKEYWORDS
from itertools import islice
from pathlib import Path
from types import FrameType, TracebackType

import numpy as np
import optree

import pjit.errors
import pjit.ir
from pjit.ir.core import Loc

_INTERNAL = tuple(
    str(Path(m.__file__).parent) + os.sep for m in (pjit.errors, pjit.ir, np, optree) if m.__file__
)
SHOWN = 90  # characters of source text in a message


@lru_cache(maxsize=4096)
def internal(file: str) -> bool:
    """Whether a file is part of pjit or of a library that calls its protocols."""
    return file.startswith(_INTERNAL)


@lru_cache(maxsize=4096)
def _loc(file: str, line: int) -> Loc:
    return Loc.python(file, line)


def user_frame() -> FrameType:
    """The innermost frame of the user's code."""
    frame = sys._getframe(1)
    while internal(frame.f_code.co_filename) and frame.f_back is not None:
        frame = frame.f_back
    return frame


def arguments() -> list[object]:
    """What the innermost frame of the user's code passed to the code that it called."""
    frame = sys._getframe(1)
    while frame.f_back is not None and internal(frame.f_back.f_code.co_filename):
        frame = frame.f_back
    code = frame.f_code
    flags = bool(code.co_flags & CO_VARARGS) + bool(code.co_flags & CO_VARKEYWORDS)
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + flags]
    return [code, *(frame.f_locals.get(n) for n in names)]


def location() -> Loc:
    """The location of the user's line."""
    frame = user_frame()
    return _loc(frame.f_code.co_filename, frame.f_lineno)


def where(frame: FrameType | None = None) -> str:
    """``model.py:12, in forward: if x.sum() > 0:``."""
    frame = frame or user_frame()
    code = frame.f_code
    text = linecache.getline(code.co_filename, frame.f_lineno, frame.f_globals).strip()
    place = f"{code.co_filename}:{frame.f_lineno}, in {code.co_name}"
    return f"{place}: {shorten(text)}" if text else place


def shorten(text: str) -> str:
    """At most ``SHOWN`` characters."""
    return text if len(text) <= SHOWN else text[: SHOWN - 4] + " ..."


def expression(frame: FrameType | None = None) -> str:
    """The source text of the expression that the user's frame evaluates; empty when unknown."""
    frame = frame or user_frame()
    code = frame.f_code
    position = next(islice(code.co_positions(), frame.f_lasti // 2, None), None)
    if position is None or None in position:
        return ""
    first, last, start, end = position
    line = linecache.getline(code.co_filename, first or 0, frame.f_globals).encode()
    text = line[start : end if first == last else None].decode(errors="replace").strip()
    return shorten(text)


def variable(array: object, frame: FrameType) -> str:
    """The name under which the user's frame knows an object: a variable or ``self.name``."""
    for scope in (frame.f_locals, frame.f_globals):
        for name, value in scope.items():
            if value is array:
                return name
    for name, value in getattr(frame.f_locals.get("self"), "__dict__", {}).items():
        if value is array:
            return f"self.{name}"
    return "c"


def user_traceback(traceback: TracebackType | None) -> TracebackType | None:
    """A traceback without the frames of pjit and NumPy; unchanged when no frame would be left."""
    frames = []
    at = traceback
    while at is not None:
        if not internal(at.tb_frame.f_code.co_filename):
            frames.append(at)
        at = at.tb_next
    kept: TracebackType | None = None
    for tb in reversed(frames):
        kept = TracebackType(kept, tb.tb_frame, tb.tb_lasti, tb.tb_lineno)
    return kept or traceback
