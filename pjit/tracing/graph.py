"""The trace graph: what a function does between the questions that it asks about values.

A node is a question: a state of the function that waits for an answer. An edge is an answer with
the operations that follow, up to the next node or to a leaf. The parameters of a node stand for the
arrays of its state; an edge that leads there passes their values. So the graph is a control flow
graph of extended basic blocks with block arguments; branches that join lead to one node, and a loop
is an edge back.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optree

from pjit.ir.core import Block, Module, Value

Answer = bool | int | float


@dataclass(eq=False)
class Edge:
    """What follows an answer.

    Attributes:
        source: The node; None for what precedes the first question.
        answer: The answer.
        block: The operations.
        target: Where they lead; None as long as it was not explored.
        arguments: The values for the target.
    """

    source: Node | None
    answer: Answer | None
    block: Block = field(default_factory=Block)
    target: Node | Leaf | None = None
    arguments: list[Value] = field(default_factory=list)


@dataclass(eq=False)
class Node:
    """A question.

    Attributes:
        key: Equal for states that are one.
        where: The user's line.
        kind: The type of the answers.
        arrival: The edge that led here first.
        parameters: Stand for the arrays of the state; none for a state that is like no other.
        asked: The value that is asked for, a scalar.
        edges: What follows, by answer.
        unique: Why the state is like no other; empty otherwise.
        callers: The parameters that may be arrays of the caller's.
    """

    key: Hashable
    where: str
    kind: type
    arrival: Edge
    parameters: list[Value]
    asked: Value
    unique: str = ""
    callers: frozenset[int] = frozenset()
    edges: dict[Answer, Edge] = field(default_factory=dict)

    def add(self, answer: Answer) -> Edge:
        """The edge of an answer, which is new."""
        return self.edges.setdefault(answer, Edge(self, answer))


@dataclass(eq=False)
class Leaf:
    """An end."""


@dataclass(eq=False)
class Return(Leaf):
    """The function returns.

    Attributes:
        key: Equal for results that differ in the values of their arrays only.
        spec: The structure of the result.
        leaves: Its leaves; those that are computed are None.
        computed: Which leaves are computed, in order.
        numbers: The Python types of those that are Python numbers, else None.
    """

    key: Hashable
    spec: optree.PyTreeSpec
    leaves: list[Any]
    computed: list[int]
    numbers: list[type | None]


@dataclass(eq=False)
class Raised(Leaf):
    """The function raises, or does something that is not traced.

    Attributes:
        error: The exception.
        where: The user's line.
    """

    error: BaseException
    where: str


@dataclass(eq=False)
class Open(Leaf):
    """An answer that has no edge yet, or one that is not explored: the call finds out.

    Attributes:
        node: The question; its value is passed on.
        answer: The answer, if it is known.
    """

    node: Node
    answer: Answer | None = None


class Graph:
    """All that is known of a function for one signature.

    Args:
        module: Holds the constants.

    Attributes:
        root: What precedes the first question.
        nodes: By key.
        returns: The ways to return, by key.
    """

    def __init__(self, module: Module) -> None:
        self.module = module
        self.root = Edge(None, None)
        self.nodes: dict[Hashable, Node] = {}
        self.returns: dict[Hashable, Return] = {}
        self.numbers: dict[Value, Any] = {}  # of scalars that are constant, else None
        self.small: dict[Hashable, np.ndarray] = {}  # constants, each once
        self.kept: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def keep(self, array: np.ndarray) -> np.ndarray:
        """A captured array as it is now; copied unless it is read-only and owns its memory."""
        found = self.kept.get(id(array))
        if found is not None and found[1].tobytes() == array.tobytes():
            return found[1]
        frozen = array.flags.owndata and not array.flags.writeable and array.flags.c_contiguous
        kept = array if frozen else np.array(array, order="C")
        self.kept[id(array)] = (array, kept)
        return kept

    def known(self, key: Hashable, callers: frozenset[int]) -> Node | None:
        """The node of a state, of which at least these parameters may be the caller's."""
        for k in (key, (key, callers)):
            node = self.nodes.get(k)
            if node is not None and callers <= node.callers:
                return node
        return None

    @property
    def open(self) -> bool:
        """Whether a call may need an answer that is not known."""
        values = any(n.kind is not bool for n in self.nodes.values())
        return values or any(isinstance(x, Open) for x in self.leaves())

    def path(self, edge: Edge) -> list[Edge]:
        """The edges from the root to an edge, this included."""
        found = [edge]
        while found[-1].source is not None:
            found.append(found[-1].source.arrival)
        return found[::-1]

    def leaves(self) -> list[Leaf]:
        """The ends that edges lead to, each once."""
        edges = [self.root, *(e for n in self.nodes.values() for e in n.edges.values())]
        return list(dict.fromkeys(e.target for e in edges if isinstance(e.target, Leaf)))
