"""The structure of an ONNX graph: order of the nodes, cycles, undefined and repeated names."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from heapq import heapify, heappop, heappush

import onnx

from pjit.errors import Problem
from pjit.frontends.onnx.registry import node_name


def free_names(graph: onnx.GraphProto) -> set[str]:
    """The names that a subgraph uses and does not define."""
    defined = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    defined |= {t.values.name for t in graph.sparse_initializer}
    used = {v.name for v in graph.output}
    for node in graph.node:
        used |= uses(node)
        defined |= set(node.output)
    return used - defined - {""}


def uses(node: onnx.NodeProto) -> set[str]:
    """The names that a node needs, those of its subgraphs included."""
    names = set(node.input)
    for a in node.attribute:
        for graph in ([a.g] if a.HasField("g") else []) + list(a.graphs):
            names |= free_names(graph)
    return names - {""}


def ordered(
    nodes: Sequence[onnx.NodeProto], defined: Collection[str], problems: list[Problem]
) -> list[onnx.NodeProto]:
    """The nodes so that each comes after what it needs; otherwise the order of the file.

    Nodes on a cycle are left out. Cycles, undefined names and names defined twice become problems.
    """
    makers: dict[str, int] = {}
    for i, node in enumerate(nodes):
        for name in node.output:
            if name and (name in makers or name in defined):
                other = (
                    f"node {node_name(nodes[makers[name]])!r}" if name in makers else "the graph"
                )
                problems.append(
                    Problem(
                        node_name(node), node.op_type, f"{name!r} is defined by {other} too",
                        "give every output a name of its own",
                    )
                )  # fmt: skip
            elif name:
                makers[name] = i
    needs: list[set[int]] = []
    for node in nodes:
        used = uses(node)
        missing = sorted(n for n in used if n not in makers and n not in defined)
        for name in missing:
            problems.append(
                Problem(
                    node_name(node), node.op_type, f"its input {name!r} is not defined",
                    "the file is incomplete: export the model again",
                )
            )  # fmt: skip
        needs.append({makers[n] for n in used if n in makers})
    order = _sorted(needs)
    left = set(range(len(nodes))) - set(order)
    if left:
        cycle = _cycle(needs, left)
        names = ", ".join(repr(node_name(nodes[i])) for i in cycle[:8])
        more = f" ... ({len(cycle)} in all)" if len(cycle) > 8 else ""
        first = nodes[cycle[0]]
        problems.append(
            Problem(
                node_name(first), first.op_type, f"the nodes {names}{more} form a cycle",
                "a graph must have no cycle; recurrence is written with Loop or Scan",
            )
        )  # fmt: skip
    return [nodes[i] for i in order]


def _sorted(needs: Sequence[set[int]]) -> list[int]:
    users: list[list[int]] = [[] for _ in needs]
    missing = [len(n) for n in needs]
    for i, need in enumerate(needs):
        for j in need:
            users[j].append(i)
    ready = [i for i, m in enumerate(missing) if m == 0]
    heapify(ready)
    order = []
    while ready:
        i = heappop(ready)
        order.append(i)
        for j in users[i]:
            missing[j] -= 1
            if missing[j] == 0:
                heappush(ready, j)
    return order


def _cycle(needs: Sequence[set[int]], left: set[int]) -> list[int]:
    """One cycle among the nodes that could not be ordered."""
    at = min(left)
    path: list[int] = []
    seen: dict[int, int] = {}
    while at not in seen:
        seen[at] = len(path)
        path.append(at)
        at = min(needs[at] & left)
    return path[seen[at] :][::-1]


def names_of(values: Iterable[onnx.ValueInfoProto]) -> list[str]:
    """The names of inputs or outputs."""
    return [v.name for v in values]
