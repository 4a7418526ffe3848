"""The trace of one call: the module under construction, and the refusals of what is not traced."""

from __future__ import annotations

import re
from typing import Any, NoReturn

import numpy as np

from pjit.errors import TraceError
from pjit.ir.builder import Builder
from pjit.ir.core import Block, Function, Loc, Module, Op, Value
from pjit.ir.errors import ConstraintError
from pjit.ir.ops.basic import Const
from pjit.ir.types import DType, dtype
from pjit.tracing.location import expression, location, user_frame, variable, where
from pjit.tracing.refusals import REFUSED

SMALL = 64  # bytes: constants up to this size are shared by value


class Trace:
    """Appends operations with the user's location; ``trace(Add, x, y)`` builds one.

    Attributes:
        module: The module under construction; its main function is ``main``.
        name: The name of the traced function, for messages.
        closed: Whether the trace is over; its tracers are dead then.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.closed = False
        self.module = Module()
        self.block = Block()
        self.function = self.module.add(Function("main", self.block, "graph"))
        self.builder = Builder(self.block, Loc("unknown"), self.module)
        self._small: dict[tuple[str, tuple[int, ...], bytes], Value] = {}
        self._captured: dict[int, tuple[np.ndarray, np.ndarray, Value]] = {}

    def __call__(self, cls: type[Op], *operands: Value, **attrs: Any) -> Any:
        """Builds an operation and returns its result, or a tuple of them.

        Raises:
            TraceError: A constraint of the operator does not hold.
        """
        self.builder.loc = location()
        try:
            return self.builder(cls, *operands, **attrs)
        except ConstraintError as e:
            types = ", ".join(str(v.type) for v in operands)
            raise TraceError(
                f"`{expression()}` is not possible: {e.what}" if expression() else e.what,
                where=where(),
                expected=e.expected,
                got=types if e.got is None or e.got == types else f"{e.got}, of {types}",
                remedy=e.remedy,
            ) from None

    def constant(self, array: np.ndarray) -> Value:
        """A constant of the module; the array is copied unless it is read-only and owns its memory.

        Raises:
            TraceError: pjit has no such element type.
        """
        try:
            element = dtype(array.dtype)
        except TypeError as e:
            raise TraceError(
                f"a value of dtype {array.dtype} cannot be traced", where=where(), got=str(e)
            ) from None
        if array.nbytes <= SMALL:
            key = (element.name, array.shape, array.tobytes())
            if key not in self._small:
                name = variable(array, user_frame()) if array.ndim else "c"
                self._small[key] = self._const(np.array(array), name)
            return self._small[key]
        found = self._captured.get(id(array))
        if found is not None and found[1].tobytes() == array.tobytes():
            return found[2]
        frozen = array.flags.owndata and not array.flags.writeable and array.flags.c_contiguous
        kept = array if frozen else np.array(array, order="C")
        value = self._const(kept, variable(array, user_frame()))
        self._captured[id(array)] = (array, kept, value)
        return value

    def _const(self, array: np.ndarray, name: str) -> Value:
        self.builder.loc = location()
        return Const.of(self.builder, array, name)

    def scalar(self, value: Any, element: DType) -> Value:
        """A constant of rank 0."""
        return self.constant(np.asarray(value, element.numpy))


def refuse(what: str, *, got: object = None, remedy: str | None = None) -> NoReturn:
    """Raises a TraceError at the user's line."""
    raise TraceError(what, where=where(), got=got, remedy=remedy)


def refuse_function(name: str, remedy: str | None = None) -> NoReturn:
    """Refuses a NumPy function, for the reason that is known if there is one."""
    reason = REFUSED.get(name)
    if reason is not None:
        refuse(f"{name} is not traced: {reason.why}", remedy=remedy or reason.remedy)
    refuse(
        f"{name} is not traced",
        remedy=remedy
        or "write it with functions that are (elementwise functions, reductions, indexing, matrix "
        "products, ...), or call it outside of the compiled function",
    )


_STORES = re.compile(r"[\w.]+\s*\[.*\]\s*([-+*/%@&|^]|//|\*\*|<<|>>)?=(?!=)")
_INDEXES = re.compile(r"[\w.]+\s*\[.*\]")
_STATIC = (
    "choose between arrays with np.where(condition, a, b); a setting can be a Python value (bool, "
    "int, str, ...) instead of an array, or be named in static_argnames"
)


def refuse_question(asks: str, got: str) -> NoReturn:
    """Refuses to tell a number that exists only when the compiled function runs.

    Args:
        asks: What asked for it, e.g. ``bool()``.
        got: The traced value.
    """
    frame = user_frame()
    text = expression(frame)
    line = where(frame).split(": ", 1)[-1]
    shown = f" in `{text}`" if text else ""
    remedy = _STATIC
    if asks == "np.asarray()" or (text and line.startswith(text) and _STORES.match(line)):
        remedy = _array_remedy(line)
    elif asks in ("int()", "operator.index()", "float()", "complex()", ".item()", ".tolist()"):
        remedy = (
            "compute with the array itself; sizes, axes and loop counts must be Python numbers: "
            "take them from x.shape, pass them as Python values, or name them in static_argnames"
        )
    refuse(
        f"{asks} needs a number{shown}, which does not exist while the function is traced",
        got=got,
        remedy=remedy,
    )


def _array_remedy(line: str) -> str:
    if _STORES.match(line):
        return (
            "a NumPy array cannot hold traced values: build the result with np.stack, "
            "np.concatenate or np.where, or assign to np.zeros_like(x)"
        )
    if "array(" in line or "asarray(" in line or "full(" in line:
        return "join traced values with np.stack([...]) or np.concatenate; fill with np.full_like"
    if _INDEXES.search(line):
        return "pass the indexed array as an argument, or write np.asarray(table, like=i)[i]"
    if "take(" in line:
        return "pass the array as an argument, or write np.take(np.asarray(table, like=i), i, axis)"
    return "use NumPy functions that are traced; move the others out of the compiled function"


def describe(value: Value) -> str:
    """The type of a value and where it was made."""
    if value.op is None:
        return f"{value.type}, the argument {value.name or value.index}"
    return f"{value.type}, made at {value.op.loc}"
