"""Explores a function: runs it again and again, each time beyond one more answer.

A run repeats the answers on the way to an unexplored edge and records what follows. At a question
it stops to look: if a known node has the same state, the edge leads there and the run ends; else
the question is a new node, and the run goes on along one of its answers. Questions about truth are
explored both ways, without numbers; those about values when a call needs them.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from pjit.array import Array
from pjit.errors import TraceError
from pjit.ir import ops
from pjit.ir.core import Block, Module, Value
from pjit.tracing.elementwise import as_bool
from pjit.tracing.graph import Answer, Edge, Graph, Node, Open, Raised, Return
from pjit.tracing.indexing import reshaped
from pjit.tracing.location import user_traceback, where
from pjit.tracing.policy import UNROLLED_ASKING, Policy, Restart
from pjit.tracing.pytrees import flatten, orders
from pjit.tracing.scalar import Scalar, without_keys
from pjit.tracing.signature import static_key
from pjit.tracing.state import Capture
from pjit.tracing.trace import Trace, changed
from pjit.tracing.tracer import Tracer, value_of

MAX_NODES = 200  # questions that are explored without need
MAX_UNIQUE = 40  # of those, states that are like no other
MAX_VISITS = 12  # of one place on one path, that are explored without need
MAX_DEPTH = 12  # frames in which a question is explored without need
MAX_RESTARTS = 100
GROWING = 4  # visits of a place with a new structure, after which a loop is unrolled


class Stop(BaseException):
    """The run has done its work."""


class Explorer:
    """Finds the trace graph of a function for one signature.

    Args:
        name: The name of the function, for messages.
        inputs: Names and types of the traced leaves of the arguments.
        call: Runs the function: gets the trace and a tracer for each input.

    Attributes:
        graph: What is known.
        policy: What was learned about loops.
        runs: How often the function ran.
    """

    def __init__(
        self, name: str, inputs: Sequence[tuple[str, Any]], call: Callable[[Trace, list], Any]
    ) -> None:
        self.name, self.inputs, self.call = name, inputs, call
        self.policy = Policy()
        self.runs = self.restarts = 0
        self._reset()

    def _reset(self) -> None:
        self.graph = Graph(Module())
        self.arguments = [
            Value(t, self.graph.root.block, i, name) for i, (name, t) in enumerate(self.inputs)
        ]
        self.todo: list[Edge] = [self.graph.root]

    def explore(self, edge: Edge | None = None) -> None:
        """Explores an edge, or all, and what can be explored from there without need.

        Raises:
            TraceError: The function does something that is not traced, before any question.
        """
        if edge is not None:
            self.todo.append(edge)
        while self.todo:
            try:
                self._run(self.todo.pop())
            except Restart:
                self.restarts += 1
                if self.restarts > MAX_RESTARTS:
                    raise TraceError(
                        "the loops of the function do not settle",
                        where=self.name,
                        remedy="keep the types and shapes of what a loop changes",
                    ) from None
                self._reset()

    def _run(self, edge: Edge) -> None:
        """Runs the function up to an edge and records it."""
        t = Trace(self.name, self, self.graph.path(edge))
        self.runs += 1
        edge.target = None
        try:
            tracers = [
                Tracer(t, v, name) for v, (name, _) in zip(self.arguments, self.inputs, strict=True)
            ]
            result = self.call(t, tracers)
            del tracers
            if t.stopped is not None:  # which something caught
                raise t.stopped
            if t.repeats:
                raise changed()
            self._return(t, result)
        except Stop:
            pass
        except Exception as e:
            if isinstance(t.stopped, Stop):
                return
            if t.stopped is not None and not isinstance(t.stopped, Exception):
                raise t.stopped from None  # which the function caught
            error = traced_error(t.stopped or e)
            if t.edge.source is None or t.repeats:
                raise error from (None if error is not e else e.__cause__)
            line = error.where if isinstance(error, TraceError) else where_of(error)
            t.edge.target = Raised(error.with_traceback(None), line or self.name)
        finally:
            t.closed = True

    def _return(self, t: Trace, result: Any) -> None:
        result = without_keys(result)
        leaves, spec = flatten(result)
        asks = t.edge.source is not None
        computed = [
            i
            for i, x in enumerate(leaves)
            if isinstance(x, Tracer) or (asks and isinstance(x, np.ndarray | np.generic | Array))
        ]
        values = [value_of(t, leaves[i]) for i in computed]
        numbers = [x.weak if isinstance(x, Tracer) else None for x in leaves]
        kept = [Array(x) if isinstance(x, np.ndarray) else x for x in leaves]
        for i in computed:
            kept[i] = None
        key = (
            spec,
            orders(result),
            tuple(_static(x) for x in kept),
            tuple((i, str(v.type), numbers[i]) for i, v in zip(computed, values, strict=True)),
        )
        made = Return(key, spec, kept, computed, numbers)
        t.edge.target = self.graph.returns.setdefault(key, made)
        t.edge.arguments = values

    # Questions

    def ask(self, t: Trace, x: Tracer, tag: str, likely: bool) -> bool:
        """See ``Trace.ask``."""
        flag = Tracer(t, as_bool(t, reshaped(t, x.value, ())))
        known = constant_of(flag.raw, t.graph)
        if known is not None:
            return bool(known)
        t.check()
        if t.repeats:
            return bool(self._repeat(t, flag, tag, x))
        self._roll(t)
        capture = Capture(t, flag, tag, x)
        t.edge.arguments = [] if capture.unique else capture.arguments()
        known_node = self.graph.known(capture.key, capture.callers)
        if known_node is not None:
            t.edge.target = known_node
            raise t.stop(Stop())
        self._widen(t, capture)
        node = self._add(t, bool, flag, capture)
        if not self._within(t, capture):
            for answer in (True, False):
                node.add(answer).target = Open(node, answer)
            raise t.stop(Stop())
        other = node.add(False)
        if likely:
            other.target = Open(node, False)
        else:
            self.todo.append(other)
        t.record(node.add(True))
        return True

    def demand(self, t: Trace, x: Tracer, kind: type) -> Answer:
        """See ``Trace.demand``."""
        scalar = Tracer(t, reshaped(t, x.value, ()))
        known = constant_of(scalar.raw, t.graph)
        if known is not None:
            return kind(known)
        t.check()
        if self.policy.pin(origins_of(x)):
            raise t.stop(Restart())
        if t.repeats:
            following = t.follow()
            t.enter(following)
            assert following.answer is not None
            return kind(following.answer)
        t.edge.arguments = []
        self._add(t, kind, scalar, None)
        raise t.stop(Stop())

    def _add(self, t: Trace, kind: type, x: Tracer, capture: Capture | None) -> Node:
        """A new node, to which the edge leads."""
        if capture is None or capture.unique:
            why = capture.unique if capture else "its value is asked for"
            node = Node(object(), where(), kind, t.edge, [], x.raw, why)
        else:
            block = Block([v.type for v in t.edge.arguments])
            key = capture.key
            if key in self.graph.nodes:  # the arrays that may be written are others
                key = (key, capture.callers)
            node = Node(key, where(), kind, t.edge, block.args, block.args[0])
            node.callers = capture.callers
        self.graph.nodes[node.key] = node
        t.edge.target = node
        if capture is not None:
            self._pass(t, node, capture)
        return node

    def _pass(self, t: Trace, node: Node, capture: Capture) -> None:
        if node.parameters:
            capture.bind(node.parameters)
        capture.release()
        t.visits.append(capture)

    def _repeat(self, t: Trace, flag: Tracer, tag: str, x: Tracer) -> Answer:
        """The known answer to a question on the way."""
        following = t.follow()
        node = following.source
        assert node is not None
        assert following.answer is not None
        capture = Capture(t, flag, tag, x)
        if node.parameters and capture.unique:
            gc.collect()  # arrays in garbage look like operands on the stack
            capture = Capture(t, flag, tag, x)
        if node.parameters and capture.key not in (node.key, node.key[0]):  # type: ignore[index]
            raise changed()
        self._pass(t, node, capture)
        t.enter(following)
        return following.answer

    # Loops

    def _roll(self, t: Trace) -> None:
        """A long loop over a range that asks something runs natively."""
        for i in t.iterators:
            if not i.rolled and i.count > UNROLLED_ASKING and self.policy.roll(i.point):
                raise t.stop(Restart())

    def _widen(self, t: Trace, capture: Capture) -> None:
        """Numbers that differ between visits of a place on one path become traced."""
        before = [c for c in t.visits if c.point == capture.point]
        for c in before:
            paths = capture.similar(c)
            if paths and self.policy.promote(capture.point, frozenset(paths)):
                raise t.stop(Restart())
        if len(before) >= GROWING:
            rolled = frozenset[Hashable](i.point for i in t.iterators if i.rolled and i.known)
            if rolled and self.policy.pin(rolled):
                raise t.stop(Restart())

    def _within(self, t: Trace, capture: Capture) -> bool:
        """Whether a new question is explored without need."""
        visits = sum(1 for c in t.visits if c.point == capture.point)
        unique = sum(1 for n in self.graph.nodes.values() if n.unique)
        return (
            len(self.graph.nodes) <= MAX_NODES
            and unique <= MAX_UNIQUE
            and visits <= MAX_VISITS
            and len(capture.point) <= MAX_DEPTH
        )


def origins_of(x: Tracer) -> frozenset[Hashable]:
    """What made a Python number traced."""
    return x.origins if isinstance(x, Scalar) else frozenset()


def constant_of(v: Value, graph: Graph) -> Any:
    """The number of a scalar that is computed from constants alone; None of another."""
    if v not in graph.numbers:
        graph.numbers[v] = _constant(v, graph)
    return graph.numbers[v]


def _constant(v: Value, graph: Graph) -> Any:
    op = v.op
    if op is None or v.tensor.shape:
        return None
    if isinstance(op, ops.Const):
        return graph.module.constants[op.attrs["value"]][()]
    ref = getattr(op, "ref", None)
    if ref is None or op.regions or not op.operands or len(op.results) > 1:
        return None
    operands = []
    for x in op.operands:
        operands.append(constant_of(x, graph))
        if operands[-1] is None:
            return None
    with np.errstate(all="ignore"):
        return np.asarray(ref(*map(np.asarray, operands), **op.attrs))[()]


def _static(x: Any) -> Hashable:
    with suppress(TypeError):
        return static_key(x)
    return id(x)


def traced_error(error: Exception) -> Exception:
    """An error of a traced function; ours without our frames, also if NumPy wrapped it."""
    for e in (error, error.__cause__, error.__context__):
        if isinstance(e, TraceError):
            return e.with_traceback(user_traceback(e.__traceback__))
    if isinstance(error, RecursionError):
        return TraceError(
            "the function calls itself without end",
            where=where_of(error),
            remedy="end the recursion by a condition on shapes, or on values that change",
        )
    return error


def where_of(error: BaseException) -> str:
    """The user's line where an error was raised; where a recursion goes on, for one without end."""
    tb = user_traceback(error.__traceback__)
    frames = []
    while tb is not None:
        frames.append(tb.tb_frame)
        tb = tb.tb_next
    if isinstance(error, RecursionError):
        count = Counter(f.f_code for f in frames)
        most = max(count.values(), default=0)
        frames = [f for f in frames if count[f.f_code] == most][:1]
    return where(frames[-1]) if frames else "unknown"
