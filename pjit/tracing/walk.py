"""Follows a call through the trace graph, to the answer that it needs next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pjit.ir.core import Value
from pjit.ir.interp import Runner, solve
from pjit.tracing.graph import Edge, Graph, Node, Open, Raised, Return


class Walk:
    """A call on its way through the graph; operations are evaluated by their references.

    Args:
        graph: What is known.
        arguments: The arguments of the function.
        arrays: Their values in the call.
    """

    def __init__(self, graph: Graph, arguments: Sequence[Value], arrays: Sequence[Any]) -> None:
        self.graph = graph
        self._runner = Runner(graph.module)
        for v, a in zip(arguments, arrays, strict=True):
            array = self._runner.values[v] = np.asarray(a)
            solve(v.shape, array.shape, self._runner.sizes)
        self._edge: Edge = graph.root
        self._done = False  # whether the operations of the edge were evaluated

    def open(self) -> tuple[Open, np.ndarray] | None:
        """The next answer that is not known, and the value asked for; None when the call ends."""
        with np.errstate(all="ignore"):
            while True:
                values, target = self._runner.values, self._edge.target
                if isinstance(target, Return | Raised):
                    return None
                if isinstance(target, Open):
                    return target, values[target.node.asked]
                if not self._done:
                    for op in self._edge.block.ops:
                        if all(v in values for v in op.operands):  # else it is dead on this way
                            self._runner.step(op)
                    self._done = True
                assert isinstance(target, Node)
                given = zip(target.parameters, self._edge.arguments, strict=True)
                values.update({p: values[v] for p, v in given if v in values})
                asked = values[target.asked]
                following = target.edges.get(target.kind(asked))
                if following is None:
                    return Open(target), asked
                self._edge, self._done = following, False
