"""From the trace graph to structured control flow: ``if`` and ``while``.

The graph is reducible, as it comes from structured code. A question becomes an ``if``; branches
that lead to one node meet after the ``if`` of the question that dominates it, which yields the
values for it; a loop becomes a ``while``. Where branches lead to several places, a number says
which (after N. Ramsey, "Beyond Relooper", ICFP 2022, with values instead of jumps).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optree

from pjit.ir import ops
from pjit.ir.builder import Builder
from pjit.ir.core import Block, Constants, Function, Loc, Module, Op, Value
from pjit.ir.opdef import Elementwise
from pjit.ir.ops.basic import Return as Ret
from pjit.ir.ops.reduce import Reduction
from pjit.ir.types import TensorType, i64, tensor
from pjit.tracing.flowgraph import FlowGraph, Target
from pjit.tracing.graph import Edge, Graph, Leaf, Node, Open, Return


@dataclass
class Flow:
    """Where control leads from here, and with which values.

    Attributes:
        values: The arguments for each target.
        code: Which target it is, by its number; None when there is only one.
    """

    values: dict[Target, list[Value]]
    code: Value | None = None


@dataclass
class _Slot:
    """A result of an ``if`` or a carried value: what each side puts there."""

    type: TensorType
    sides: list[Value | None]


@dataclass
class Structured:
    """A function of structured control flow.

    Attributes:
        module: The graph as IR. Its main function returns the number of the leaf that was reached,
            if there are several, and then the results.
        leaves: The leaves that can be reached.
        slots: For each leaf, which results are its.
        numbers: The leaves by their numbers.
    """

    module: Module
    leaves: list[Leaf]
    slots: dict[Leaf, list[int]] = field(default_factory=dict)
    numbers: dict[int, Leaf] = field(default_factory=dict)

    @property
    def coded(self) -> bool:
        """Whether the first result says which leaf was reached."""
        return len(self.leaves) > 1

    def reached(self, results: Sequence[Any]) -> tuple[Leaf, list[Any]]:
        """The leaf that a call reached, and its values."""
        leaf = self.leaves[0]
        if self.coded:
            leaf = self.numbers[int(np.asarray(results[0]))]
        return leaf, [results[i] for i in self.slots.get(leaf, ())]

    def outputs(self) -> tuple[str, ...]:
        """Names for the results."""
        only = self.leaves[0]
        if not self.coded and isinstance(only, Return):
            paths = optree.treespec_paths(only.spec)
            return tuple(".".join(map(str, ("result", *paths[i]))) for i in only.computed)
        count = len(self.module.main.results)
        return tuple("reached" if i == 0 and self.coded else f"value.{i}" for i in range(count))


def structured(graph: Graph, arguments: Sequence[Value], home: Loc) -> Structured:
    """Structures the graph.

    Args:
        graph: What was traced.
        arguments: The arguments of the function.
        home: The location of the function.
    """
    return _Structurer(graph, arguments, home).run()


class _Structurer:
    def __init__(self, graph: Graph, arguments: Sequence[Value], home: Loc) -> None:
        self.graph, self.arguments, self.home = graph, arguments, home
        self.module = Module(constants=Constants(graph.module.constants))
        self.flow = FlowGraph(graph, arguments)
        self.leaves: list[Leaf] = []
        self.numbers: dict[Target, int] = {}
        self.loops: list[Node] = []  # open ones

    # Building

    def run(self) -> Structured:
        block = Block([v.type for v in self.arguments], [v.name for v in self.arguments])
        env = dict(zip(self.arguments, block.args, strict=True))
        self.module.add(Function("main", block, "graph"))
        b = Builder(block, self.home, self.module)
        flow = self.settle(b, self.along(b, self.flow.root, env), {self.flow.root}, env)
        b.loc = self.home
        self.leaves = sorted(
            (x for x in flow.values if isinstance(x, Leaf)), key=lambda x: self.number(x)
        )
        results: list[Value] = [] if flow.code is None else [flow.code]
        out = Structured(self.module, self.leaves)
        for leaf in self.leaves:
            taken: set[int] = set()
            for v in flow.values[leaf]:
                at = next((i for i, r in enumerate(results) if r is v and i not in taken), None)
                if at is None:
                    at = len(results)
                    results.append(v)
                taken.add(at)
                out.slots.setdefault(leaf, []).append(at)
        b(Ret, *results)
        out.numbers = {self.number(x): x for x in self.leaves}
        return out

    def number(self, target: Target) -> int:
        return self.numbers.setdefault(target, len(self.numbers))

    def value(self, v: Value, env: dict[Value, Value]) -> Value:
        return env[self.flow.same.get(v, v)]

    def along(self, b: Builder, edge: Edge, env: dict[Value, Value]) -> Flow:
        """Builds what an edge does, and goes to its target."""
        for op in edge.block.ops:
            if op in self.flow.needed:
                self.copy(b, op, env)
        assert edge.target is not None
        return self.go(b, edge.target, self.passed(edge, env), env)

    def copy(self, b: Builder, op: Op, env: dict[Value, Value]) -> None:
        operands = [self.value(v, env) for v in op.operands]
        new = type(op)(operands, op.attrs, [r.type for r in op.results], op.loc, ())
        b.block.append(new)
        for old, made in zip(op.results, new.results, strict=True):
            made.name = old.name
            env[old] = made

    def passed(self, edge: Edge, env: dict[Value, Value]) -> list[Value]:
        target = edge.target
        if isinstance(target, Node):
            keep = self.flow.kept(target)
            return [self.value(edge.arguments[i], env) for i in keep]
        if isinstance(target, Open):
            return []
        return [self.value(v, env) for v in edge.arguments]

    def go(self, b: Builder, target: Target, values: list[Value], env: dict[Value, Value]) -> Flow:
        inside = not self.loops or target in self.flow.bodies[self.loops[-1]]
        if isinstance(target, Leaf) or target in self.loops:
            return Flow({target: values})
        values = [*values, *(env[v] for v in self.flow.live[target])]
        if not inside or self.flow.forward(target) > 1:
            return Flow({target: values})
        return self.node(b, target, values, env)

    def node(self, b: Builder, node: Node, values: list[Value], env: dict[Value, Value]) -> Flow:
        count = len(self.flow.kept(node))
        env.update(zip(self.flow.live[node], values[count:], strict=True))
        if node in self.flow.bodies:
            return self.loop(b, node, values[:count], env)
        self.enter(node, values[:count], env)
        return self.branch(b, node, env)

    def enter(self, node: Node, values: Sequence[Value], env: dict[Value, Value]) -> None:
        params = [node.parameters[i] for i in self.flow.kept(node)]
        env.update(zip(params, values, strict=True))

    def branch(self, b: Builder, node: Node, env: dict[Value, Value]) -> Flow:
        b.loc = Loc(node.where.split(", in ")[0])
        asked = self.value(node.asked, env)
        if node.kind is bool:
            yes, no = (node.edges[a] for a in (True, False))
            flow = self.fork(
                b, asked, lambda c, e: self.along(c, yes, e), lambda c, e: self.along(c, no, e), env
            )
        else:
            flow = self.cases(b, node, asked, list(node.edges.values()), env)
        return self.settle(b, flow, {node}, env)

    def cases(
        self, b: Builder, node: Node, asked: Value, edges: list[Edge], env: dict[Value, Value]
    ) -> Flow:
        """A question about a value: one answer after the other."""
        if not edges:
            return Flow({self.flow.open_leaf(node): [asked]})
        first, *rest = edges
        answer = b.constant(np.asarray(first.answer), asked.dtype.numpy)
        equal = b(ops.Eq, asked, answer)
        return self.fork(
            b,
            equal,
            lambda c, e: self.along(c, first, e),
            lambda c, e: self.cases(c, node, asked, rest, e),
            env,
        )

    def fork(
        self,
        b: Builder,
        flag: Value,
        yes: Callable[[Builder, dict], Flow],
        no: Callable[[Builder, dict], Flow],
        env: dict[Value, Value],
    ) -> Flow:
        """An ``if`` and where its two sides lead."""
        blocks, flows, builders = [], [], []
        loc = b.loc
        for side in (yes, no):
            block = Block()
            inner = Builder(block, loc, self.module)
            flows.append(side(inner, dict(env)))
            blocks.append(block)
            builders.append(inner)
        targets = list(dict.fromkeys(t for f in flows for t in f.values))
        if self.loops:
            for k in (0, 1):
                if self.leaves_loop(flows[k], blocks[k]) and _speculative(blocks[1 - k]):
                    return self.speculated(b, flag, k, flows, blocks[1 - k])
        slots: list[_Slot] = []
        places: dict[Target, list[int | Value]] = {}
        for t in sorted(targets, key=self.number):
            places[t] = self.place(slots, [f.values.get(t) for f in flows], blocks)
        coded = len(targets) > 1
        if not coded and not slots:
            for op in [op for side in blocks for op in reversed(list(side.ops))]:
                op.erase()
            return Flow({t: [p for p in at if isinstance(p, Value)] for t, at in places.items()})
        types = [s.type for s in slots]
        for k, (flow, inner) in enumerate(zip(flows, builders, strict=True)):
            inner.loc = loc
            given = [s.sides[k] or self.dummy(inner, s.type) for s in slots]
            if coded:
                given.append(self.code(inner, flow))
            inner(ops.Yield, *given)
        b.loc = loc
        if coded:
            types.append(tensor(i64))
        op = b.build(ops.If, [flag], {}, blocks, types)
        results = op.results
        values = {
            t: [results[p] if isinstance(p, int) else p for p in at] for t, at in places.items()
        }
        return Flow(values, results[-1] if coded else None)

    def leaves_loop(self, flow: Flow, block: Block) -> bool:
        """Whether a side does nothing but leave the loop, with values from outside the side."""
        body = self.flow.bodies[self.loops[-1]]
        return not block.ops and not any(t in body for t in flow.values)

    def speculated(
        self, b: Builder, flag: Value, side: int, flows: list[Flow], other: Block
    ) -> Flow:
        """Runs the side that stays in a loop also when the loop is left, which happens once: then
        nobody reads what it computes, and the loop has no branch.
        """
        for op in list(other.ops):
            op.parent = None
            b.block.append(op)
        leaving, staying = flows[side], flows[1 - side]
        codes = [self.code(b, f) for f in (leaving, staying)]
        if side:
            flag = b(ops.Not, flag)
        values = dict(staying.values)
        for t, given in leaving.values.items():
            known = values.get(t)
            if known is not None:
                given = [
                    v if v is k else b(ops.Where, flag, v, k)
                    for v, k in zip(given, known, strict=True)
                ]
            values[t] = given
        return Flow(values, b(ops.Where, flag, *codes) if len(values) > 1 else None)

    def code(self, b: Builder, flow: Flow) -> Value:
        """The number of the target."""
        if flow.code is not None:
            return flow.code
        return b.constant(np.asarray(self.number(next(iter(flow.values)))), i64)

    def place(
        self, slots: list[_Slot], sides: list[list[Value] | None], blocks: Sequence[Block]
    ) -> list[int | Value]:
        """Where the values of a target go: slots that hold them, or that are free."""
        count = len(next(s for s in sides if s is not None))
        out: list[int | Value] = []
        for i in range(count):
            wanted = [None if s is None else s[i] for s in sides]
            given = [v for v in wanted if v is not None]
            if all(v is given[0] for v in given) and not any(_inside(given[0], k) for k in blocks):
                out.append(given[0])
                continue
            out.append(
                self.slot(slots, wanted, given[0].tensor, {p for p in out if type(p) is int})
            )
        return out

    def slot(
        self, slots: list[_Slot], wanted: list[Value | None], type: TensorType, taken: set[int]
    ) -> int:
        for k, s in enumerate(slots):
            free = all(
                a is None or w is None or a is w for a, w in zip(s.sides, wanted, strict=True)
            )
            exact = all(a is w for a, w in zip(s.sides, wanted, strict=True))
            if s.type == type and (exact or (free and k not in taken)):
                s.sides = [a if w is None else w for a, w in zip(s.sides, wanted, strict=True)]
                return k
        slots.append(_Slot(type, list(wanted)))
        return len(slots) - 1

    def dummy(self, b: Builder, type: TensorType) -> Value:
        """A value that nobody reads."""
        zero = b.constant(np.zeros((), type.dtype.numpy))
        return zero if not type.shape else b(ops.Broadcast, zero, shape=type.shape)

    def settle(
        self, b: Builder, flow: Flow, owners: set, env: dict[Value, Value] | None = None
    ) -> Flow:
        """Continues with the nodes at which branches meet, those that the owners dominate."""
        scope: dict[Value, Value] = {} if env is None else env
        while True:
            ready = [
                t
                for t in flow.values
                if isinstance(t, Node)
                and t not in self.loops
                and self.flow.dominator[t] in owners
                and (not self.loops or t in self.flow.bodies[self.loops[-1]])
            ]
            if not ready:
                return flow
            flow = self.resume(b, flow, min(ready, key=self.flow.order.__getitem__), scope)

    def resume(self, b: Builder, flow: Flow, node: Node, env: dict[Value, Value]) -> Flow:
        values = flow.values.pop(node)
        if not flow.values:
            return self.node(b, node, values, env)
        assert flow.code is not None
        b.loc = Loc(node.where.split(", in ")[0])
        here = b(ops.Eq, flow.code, b.constant(np.asarray(self.number(node)), i64))
        rest = Flow(flow.values, flow.code if len(flow.values) > 1 else None)
        return self.fork(
            b, here, lambda c, e: self.node(c, node, values, e), lambda c, e: rest, env
        )

    # Loops

    def loop(self, b: Builder, head: Node, values: list[Value], env: dict[Value, Value]) -> Flow:
        tested = self.tested(head)
        self.loops.append(head)
        types = [v.tensor for v in values]
        body = Block(types)
        bb = self.inner(body, head)
        inside = dict(env)
        self.enter(head, body.args, inside)
        if tested is None:
            flow = self.branch(bb, head, inside)
        else:
            flow = self.settle(bb, self.along(bb, tested[0], inside), {head}, inside)
        self.loops.pop()
        slots = [_Slot(t, [v]) for t, v in zip(types, flow.values[head], strict=True)]
        exits = sorted((t for t in flow.values if t is not head), key=self.number)
        places = {t: self.exit_slots(slots, flow.values[t], body) for t in exits}
        carried = [v for s in slots if (v := s.sides[0]) is not None]
        bb.loc = b.loc = Loc(head.where.split(", in ")[0])
        here = np.asarray(self.number(head))
        inits = [*values, *(self.dummy(b, s.type) for s in slots[len(types) :])]
        if exits:
            carried.append(self.code(bb, flow))
            inits.append(b.constant(here, i64))
        bb(ops.Yield, *carried)
        for v in inits[len(types) :]:
            body.add_arg(v.tensor)
        test = Block([v.tensor for v in inits])
        tb = self.inner(test, head)
        going: Any = tb(ops.Eq, test.args[-1], tb.constant(here, i64)) if exits else None
        if tested is not None:
            inside = dict(env)
            self.enter(head, test.args[: len(types)], inside)
            flag = self.value(head.asked, inside)
            if tested[0].answer is False:
                flag = tb(ops.Not, flag)
            going = flag if going is None else tb(ops.And, going, flag)
        tb(ops.Yield, going)
        op = b.build(ops.While, inits, {}, [test, body], [v.tensor for v in inits])
        left = {
            t: [op.results[p] if isinstance(p, int) else p for p in at] for t, at in places.items()
        }
        code = op.results[-1]
        if tested is None:
            flow = Flow(left, code if len(exits) > 1 else None)
        else:
            self.enter(head, op.results[: len(types)], env)
            flow = self.after(b, code, Flow(left), tested[1], here, env)
        return self.settle(b, flow, self.flow.bodies[head], env)

    def after(
        self,
        b: Builder,
        code: Value,
        left: Flow,
        leave: Edge,
        here: np.ndarray,
        env: dict[Value, Value],
    ) -> Flow:
        """Where control goes when the test of a loop has failed, or the loop was left inside."""
        if not left.values:
            return self.along(b, leave, env)
        left.code = code if len(left.values) > 1 else None
        failed = b(ops.Eq, code, b.constant(here, i64))
        return self.fork(b, failed, lambda c, e: self.along(c, leave, e), lambda c, e: left, env)

    def tested(self, head: Node) -> tuple[Edge, Edge] | None:
        """The edge that stays and the one that leaves, if the question of the head is the test of
        the loop.
        """
        if head.kind is not bool:
            return None
        body = self.flow.bodies[head]
        yes, no = head.edges[True], head.edges[False]
        if (yes.target in body) == (no.target in body):
            return None
        return (yes, no) if yes.target in body else (no, yes)

    def exit_slots(self, slots: list[_Slot], values: list[Value], body: Block) -> list[int | Value]:
        out: list[int | Value] = []
        for v in values:
            if not _inside(v, body):
                out.append(v)
                continue
            found = next((k for k, s in enumerate(slots) if s.sides[0] is v), None)
            if found is None:
                slots.append(_Slot(v.tensor, [v]))
                found = len(slots) - 1
            out.append(found)
        return out

    def inner(self, block: Block, node: Node) -> Builder:
        return Builder(block, Loc(node.where.split(", in ")[0]), self.module)


_PASSES: tuple = (
    ops.Const,
    ops.Broadcast,
    ops.Reshape,
    ops.Transpose,
    ops.Slice,
    ops.Pad,
    ops.Concat,
)
_PASSES += (ops.Iota, ops.Sizes, ops.ReduceMean, Reduction, Elementwise)
_DIVISIONS = (ops.Div, ops.Floordiv, ops.Mod)


def _speculative(block: Block) -> bool:
    """Whether operations may run although their results are not used: they cannot fail, and cost
    no more than a pass over memory.
    """
    return all(
        isinstance(op, _PASSES) and not (isinstance(op, _DIVISIONS) and op.type.dtype.is_int)
        for op in block.ops
    )


def _inside(v: Value, block: Block) -> bool:
    """Whether a value is defined in a block or in a region within."""
    at: Block | None = v.owner if isinstance(v.owner, Block) else v.owner.parent
    while at is not None:
        if at is block:
            return True
        owner = at.owner
        at = owner.parent if isinstance(owner, Op) else None
    return False
