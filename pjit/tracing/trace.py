"""A run of a function on tracers, along known answers and one step beyond."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import ref

import numpy as np

from pjit.errors import TraceError
from pjit.ir.builder import Builder
from pjit.ir.core import Loc, Op, Value
from pjit.ir.errors import ConstraintError
from pjit.ir.expr import Dim
from pjit.ir.ops.basic import Const
from pjit.ir.types import DType, dtype
from pjit.tracing.frames import Frames
from pjit.tracing.location import expression, location, user_frame, variable, where
from pjit.tracing.refusals import REFUSED

if TYPE_CHECKING:
    from pjit.tracing.explore import Explorer
    from pjit.tracing.graph import Answer, Edge
    from pjit.tracing.scalar import RangeIterator
    from pjit.tracing.state import Capture
    from pjit.tracing.tracer import Tracer

RUNNING = threading.local()  # its trace is the one that runs in this thread
SMALL = 64  # bytes: constants up to this size are shared by value


class Trace:
    """Appends operations with the user's location; ``trace(Add, x, y)`` builds one.

    A run repeats what is known up to an edge: there, operations are not built but looked up in the
    order in which they were built before. What comes after is new.

    Args:
        name: The name of the traced function, for messages.
        explorer: Answers its questions.
        path: The edges from the root to the one that is new.

    Attributes:
        closed: Whether the trace is over; its tracers are dead then.
        stopped: What ended the run early.
        base: The frame that runs the function.
        intact: Raises TraceError if the function changed what it did not make.
        refused: What was refused, which the function may have caught.
        visits: The states at the questions so far.
    """

    __pjit_stateless__ = None

    def __init__(self, name: str, explorer: Explorer, path: list[Edge]) -> None:
        self.name, self.explorer = name, explorer
        self.graph, self.policy = explorer.graph, explorer.policy
        self.closed = False
        self.stopped: BaseException | None = None
        self.module = self.graph.module
        self.base: FrameType | None = None
        self.visits: list[Capture] = []
        self.rebinder: Any = None
        self.intact: Callable[[], None] | None = None
        self.refused: TraceError | None = None
        self._loops: list[ref[RangeIterator]] = []
        self._born: list[ref[Tracer]] = []
        self._path = iter(path)
        self._last = path[-1]
        self.enter(next(self._path))

    # Where the run is

    def enter(self, edge: Edge) -> None:
        """Goes on along an edge."""
        self.edge = edge
        self.block = edge.block
        self._known: Iterator[Op] | None = None if edge is self._last else iter(edge.block.ops)
        self.builder = Builder(self.block, Loc("unknown"), self.module)
        self._small: dict[tuple[str, tuple[int, ...], bytes], Value] = {}
        self._captured: dict[int, Value] = {}  # by identity, in graph.kept
        self._sizes: dict[Dim, Value] = {}

    @property
    def repeats(self) -> bool:
        """Whether what happens is known."""
        return self._known is not None

    def follow(self) -> Edge:
        """The next edge of the path."""
        return next(self._path)

    def frames(self) -> Frames:
        """The frames of the function, down to where it is."""
        assert self.base is not None
        return Frames(self.base)

    def stop(self, reason: BaseException) -> BaseException:
        """Ends the run by an exception, which is returned; also if the function catches it."""
        self.stopped = self.stopped or reason
        return self.stopped

    def go_on(self) -> None:
        """Raises what ended the run, if the function caught it."""
        if self.stopped is not None:
            raise self.stopped

    def record(self, edge: Edge) -> None:
        """Goes on along an edge that is new."""
        self._last = edge
        self.enter(edge)

    def born(self, tracer: Tracer) -> None:
        """Notes a tracer."""
        self._born.append(ref(tracer))

    def living(self) -> list[Tracer]:
        """The tracers that something refers to."""
        alive = [(r, x) for r in self._born if (x := r()) is not None]
        self._born = [r for r, _ in alive]
        return [x for _, x in alive]

    def check(self) -> None:
        """Raises TraceError if the function did what is not traced, also if it caught the error."""
        if self.stopped is not None:
            raise self.stopped
        if self.refused is None and self.intact is not None:
            try:
                self.intact()
            except TraceError as e:
                self.refused = e
        if self.refused is not None:
            raise self.refused

    # Loops over ranges

    @property
    def iterators(self) -> list[RangeIterator]:
        """The loops over ranges that the function is in, outermost first."""
        return [i for r in self._loops if (i := r()) is not None]

    def open(self, iterator: RangeIterator) -> None:
        """A loop begins."""
        self._loops.append(ref(iterator))

    def leave(self, iterator: RangeIterator) -> None:
        """A loop ends."""
        self._loops = [r for r in self._loops if r() is not iterator]

    # Questions

    def ask(self, x: Any, tag: str = "", likely: bool = False) -> bool:
        """Whether a number is not zero.

        Args:
            x: An array of one element, or an answer that is known.
            tag: Tells questions of one instruction of the user apart.
            likely: Whether it nearly always is: the other way is explored when a call needs it.
        """
        self.go_on()
        return x if isinstance(x, bool) else self.explorer.ask(self, x, tag, likely)

    def demand(self, x: Tracer, kind: type) -> Answer:
        """The value of an array of one element, as an int or a float."""
        self.go_on()
        return self.explorer.demand(self, x, kind)

    # Operations

    def __call__(self, cls: type[Op], *operands: Value, **attrs: Any) -> Any:
        """Builds an operation and returns its result, or a tuple of them.

        Raises:
            TraceError: A constraint of the operator does not hold.
        """
        from pjit.tracing.sizes import plain

        self.go_on()
        if self._known is not None:
            return self._repeated(cls)
        self.builder.loc = location()
        attrs = {k: plain(v) for k, v in attrs.items()}
        try:
            return self.builder(cls, *operands, **attrs)
        except ConstraintError as e:
            types = ", ".join(str(v.type) for v in operands)
            raise refused(
                f"`{expression()}` is not possible: {e.what}" if expression() else e.what,
                where=where(),
                expected=e.expected,
                got=types if e.got is None or e.got == types else f"{e.got}, of {types}",
                remedy=e.remedy,
            ) from None

    def _repeated(self, cls: type[Op]) -> Any:
        assert self._known is not None
        op = next(self._known, None)
        if type(op) is not cls:
            raise changed()
        assert op is not None
        return op.results[0] if len(op.results) == 1 else (op.results or None)

    def constant(self, array: np.ndarray) -> Value:
        """A constant of the module; the array is copied unless it is read-only and owns its memory.

        Raises:
            TraceError: pjit has no such element type.
        """
        try:
            element = dtype(array.dtype)
        except TypeError as e:
            raise refused(
                f"a value of dtype {array.dtype} cannot be traced", where=where(), got=str(e)
            ) from None
        if array.nbytes <= SMALL:
            key = (element.name, array.shape, array.tobytes())
            if key not in self._small:
                name = variable(array, user_frame()) if array.ndim else "c"
                kept = self.graph.small.setdefault(key, np.array(array))
                self._small[key] = self._const(kept, name)
            return self._small[key]
        if id(array) not in self._captured:
            kept = self.graph.keep(array)
            self._captured[id(array)] = self._const(kept, variable(array, user_frame()))
        return self._captured[id(array)]

    def _const(self, array: np.ndarray, name: str) -> Value:
        if self._known is not None:
            return self._repeated(Const)
        self.builder.loc = location()
        return Const.of(self.builder, array, name)

    def size(self, dim: Dim) -> Value:
        """A dimension that varies, as a scalar."""
        from pjit.tracing.sizes import scalar_of

        if dim not in self._sizes:
            self._sizes[dim] = scalar_of(self, dim)
        return self._sizes[dim]

    def scalar(self, value: Any, element: DType) -> Value:
        """A constant of rank 0."""
        return self.constant(np.asarray(value, element.numpy))


def changed() -> TraceError:
    """The error for a function that does something else when it is run again."""
    return TraceError(
        "the function does something else when it is traced again",
        where=where(),
        remedy="compiled functions may depend on their arguments only: no random numbers, clocks, "
        "counters or files",
    )


def refuse(what: str, *, got: object = None, remedy: str | None = None) -> NoReturn:
    """Raises a TraceError at the user's line."""
    raise refused(what, where=where(), got=got, remedy=remedy)


def refused(what: str, **details: Any) -> TraceError:
    """The error for what is not traced; a run that goes on in spite of it is not valid."""
    error = TraceError(what, **details)
    running = getattr(RUNNING, "trace", None)
    if running is not None:
        running.refused = running.refused or error
    return error


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
_OUTSIDE = "return the value, and do this outside of the compiled function"


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
    remedy = _OUTSIDE
    if asks == "np.asarray()" or (text and line.startswith(text) and _STORES.match(line)):
        remedy = _array_remedy(line)
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
