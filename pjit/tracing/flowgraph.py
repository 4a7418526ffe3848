"""The trace graph as a flow graph: loops, dominators, and what is needed where."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import networkx as nx

from pjit.ir.core import Value
from pjit.tracing.graph import Edge, Graph, Leaf, Node, Open, Return

Target = Node | Leaf


class FlowGraph:
    """Facts about a trace graph.

    Args:
        graph: The graph.
        arguments: The arguments of the function.

    Attributes:
        needed: The operations and parameters that results and questions depend on.
        same: For a parameter that gets one value on all edges, that value.
        live: By node, the values from before it that are used from there on, beside its parameters.
        order: The reverse postorder of the nodes and leaves.
        dominator: The immediate dominators; that of a first node is the root edge.
        bodies: By the head of a loop, the nodes in it.
        root: Where the graph begins; every loop in it has one entry.
    """

    def __init__(self, graph: Graph, arguments: Sequence[Value]) -> None:
        self.graph, self.arguments = graph, arguments
        self.needed, self.same = _simplified(graph)
        self.live = self._liveness()
        self.root = reducible(graph.root)
        for n in nodes_from(self.root):
            self.live.setdefault(n, self.live[graph.nodes[n.key]])
        self.open_leaves: dict[Node, Open] = {}
        self._shape()

    def _shape(self) -> None:
        g = nx.DiGraph()
        start = self.root
        g.add_node(start)
        edges = [start]
        seen: set[Target] = set()
        self.incoming: dict[Target, int] = {}
        while edges:
            e = edges.pop()
            assert e.target is not None
            g.add_edge(e.source or start, e.target)
            self.incoming[e.target] = self.incoming.get(e.target, 0) + 1
            if e.target in seen or not isinstance(e.target, Node):
                continue
            seen.add(e.target)
            edges += list(e.target.edges.values())
            if e.target.kind is not bool:
                g.add_edge(e.target, self.open_leaf(e.target))
        self.order = {n: i for i, n in enumerate(reversed(list(nx.dfs_postorder_nodes(g, start))))}
        self.dominator = nx.immediate_dominators(g, start)
        self.dominator[start] = None
        self.back = [(a, b) for a, b in g.edges if self.order[b] <= self.order[a]]
        self.bodies: dict[Node, set] = {}
        for a, b in self.back:
            assert self._dominates(b, a)
            body = self.bodies.setdefault(b, {b})
            todo = [a]
            while todo:
                n = todo.pop()
                if n not in body:
                    body.add(n)
                    todo += list(g.predecessors(n))

    def _dominates(self, a: Target, b: Target | None) -> bool:
        while b is not None and b is not a:
            b = self.dominator[b]
        return b is a

    def kept(self, node: Node) -> list[int]:
        """The parameters that are needed and not the same as another value."""
        return [i for i, p in enumerate(node.parameters) if p in self.needed and p not in self.same]

    def forward(self, target: Target) -> int:
        """How many edges lead to a node, but for those of its own loop."""
        back = sum(1 for _, t in self.back if t is target)
        return self.incoming[target] - back

    def open_leaf(self, node: Node) -> Open:
        """Where a question about a value leads for other answers."""
        return self.open_leaves.setdefault(node, Open(self.graph.nodes[node.key]))

    def _liveness(self) -> dict[Node, list[Value]]:
        """The values from before a node that it and what follows use, beside its parameters."""
        nodes = list(self.graph.nodes.values())
        live: dict[Node, dict[Value, None]] = {n: {} for n in nodes}
        fixed = set(self.arguments)
        changed = True
        while changed:
            changed = False
            for n in nodes:
                found = {self.same.get(n.asked, n.asked): None}
                for e in n.edges.values():
                    found |= self._used(e, live)
                for p in n.parameters:
                    found.pop(p, None)
                found = {v: None for v in found if v not in fixed}
                if found.keys() != live[n].keys():
                    live[n], changed = found, True
        return {n: list(found) for n, found in live.items()}

    def _used(self, edge: Edge, live: dict[Node, dict[Value, None]]) -> dict[Value, None]:
        """The values that an edge and what follows use."""
        target = edge.target
        found: dict[Value, None] = {}
        if isinstance(target, Node):
            found |= live[target]
            found |= {edge.arguments[i]: None for i in self.kept(target)}
        elif not isinstance(target, Open):
            found |= dict.fromkeys(edge.arguments)
        made = [op for op in edge.block.ops if op in self.needed]
        for op in made:
            found |= dict.fromkeys(op.operands)
        found = {self.same.get(v, v): None for v in found}
        for op in made:
            for r in op.results:
                found.pop(r, None)
        return found


def nodes_from(root: Edge) -> list[Node]:
    """The nodes that an edge leads to."""
    found: dict[Node, None] = {}
    todo = [root]
    while todo:
        n = todo.pop().target
        if isinstance(n, Node) and n not in found:
            found[n] = None
            todo += n.edges.values()
    return list(found)


def reducible(root: Edge, own: bool = False) -> Edge:
    """A graph in which every loop has one entry: the others lead to copies of what is behind them.

    Args:
        root: Where the graph begins.
        own: Whether the graph may be changed.
    """
    todo: list[set[Target]] = [set(nodes_from(root))]
    while todo:
        inside = todo.pop()
        g = nx.DiGraph((n, e.target) for n in inside for e in n.edges.values())  # type: ignore
        for loop in list(nx.strongly_connected_components(g.subgraph(inside))):
            edges = [root, *(e for n in nodes_from(root) for e in n.edges.values())]
            entering = [e for e in edges if e.target in loop and e.source not in loop]
            heads = [e.target for e in entering]
            if len(loop) == 1 or not heads:  # no loop, or only copies of it are left
                continue
            head = max(heads, key=heads.count)
            if any(h is not head for h in heads):
                if not own:
                    made = _copies(nodes_from(root))
                    first = Edge(None, None, root.block, root.target, root.arguments)
                    first.target = made.get(root.target, root.target)
                    return reducible(first, True)
                made = _copies(loop - {head})
                for e in entering:
                    e.target = made.get(e.target, e.target)
                todo.append(set(made.values()))
            todo.append(loop - {head})
    return root


def _copies(nodes: Iterable[Node]) -> dict[Target | None, Node]:
    """Copies of nodes, with the edges among them."""
    made: dict[Target | None, Node] = {n: replace(n, edges={}) for n in nodes}
    for n in nodes:
        copy = made[n]
        for answer, e in n.edges.items():
            target = made.get(e.target, e.target)
            copy.edges[answer] = Edge(copy, answer, e.block, target, e.arguments)
    return made


def _simplified(graph: Graph) -> tuple[set, dict[Value, Value]]:
    """What is needed, and which parameters are always another value.

    Returns:
        The operations and parameters that results or questions depend on, and for each parameter
        that gets one value on all edges, that value.
    """
    nodes: list[Node] = []
    edges: list[Edge] = []
    todo = [graph.root]
    seen: set = set()
    while todo:
        e = todo.pop()
        edges.append(e)
        if isinstance(e.target, Node) and e.target not in seen:
            seen.add(e.target)
            nodes.append(e.target)
            todo += list(e.target.edges.values())
    into: dict[Node, list[Edge]] = {n: [] for n in nodes}
    for e in edges:
        if isinstance(e.target, Node):
            into[e.target].append(e)
    same: dict[Value, Value] = {}

    def final(v: Value) -> Value:
        while v in same:
            v = same[v]
        return v

    changed = True
    while changed:
        changed = False
        for n in nodes:
            for i, p in enumerate(n.parameters):
                if p in same:
                    continue
                given = {final(e.arguments[i]) for e in into[n]} - {p}
                if len(given) == 1:
                    same[p] = given.pop()
                    changed = True
    owner = {p: (n, i) for n in nodes for i, p in enumerate(n.parameters)}
    needed: set = set()
    wanted: list[Value] = []

    def need(values: Iterable[Value]) -> None:
        wanted.extend(final(v) for v in values)

    for n in nodes:
        need([n.asked])
    for e in edges:
        if isinstance(e.target, Return):
            need(e.arguments)
    while wanted:
        v = wanted.pop()
        if v in needed:
            continue
        needed.add(v)
        if v in owner:
            n, i = owner[v]
            need(e.arguments[i] for e in into[n])
        elif v.op is not None and v.op not in needed:
            needed.add(v.op)
            need(v.op.operands)
    return needed, {p: final(p) for p in same}
