"""Control flow: If."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from pjit.frontends.onnx.known import Known
from pjit.frontends.onnx.reader import Refused
from pjit.frontends.onnx.registry import Node, Poisoned, Tensor, onnx_op
from pjit.ir.builder import Builder
from pjit.ir.core import Block, Op, Value
from pjit.ir.opdef import same_dim
from pjit.ir.types import TensorType


def import_subgraph(
    n: Node,
    graph: onnx.GraphProto,
    b: Builder,
    given: Mapping[str, Value | Known] | None = None,
) -> list[Tensor]:
    """Imports a subgraph, which sees the names around it; gives its outputs.

    Args:
        n: The node that it belongs to.
        graph: The subgraph.
        b: Builds in the block that gets its operations.
        given: What its inputs stand for.

    Raises:
        Poisoned: The subgraph has problems, which are recorded.
    """
    from pjit.frontends.onnx.importer import Scope

    importer, scope = n.importer, Scope(n.scope)
    before = len(importer.problems)
    for name, value in (given or {}).items():
        scope.names[name] = Tensor.of(value, name)
    importer.initializers(graph, scope)
    importer.nodes(graph.node, scope, b, n.opsets)
    if len(importer.problems) > before:
        raise Poisoned
    out = []
    for info in graph.output:
        if info.name not in scope:
            raise Refused(f"the output {info.name!r} of a subgraph is not computed")
        tensor = scope[info.name]
        if tensor is None:
            raise Poisoned
        out.append(tensor)
    return out


def discard(block: Block) -> None:
    """Drops the operations of a block that nothing holds, so that no value counts them as users."""
    for op in reversed(list(block.ops)):
        for r in op.results:
            r.uses.clear()
        op.erase()


@onnx_op("If")
def if_(n: Node) -> list[Tensor | Value]:
    """Runs one of two subgraphs; a known condition chooses now."""
    branches = [n.attr(name, "graph") for name in ("then_branch", "else_branch")]
    known = n.input(0).known
    if known is not None and not known.is_symbolic:
        chosen = branches[0] if known.array.reshape(-1)[:1].any() else branches[1]
        return list(import_subgraph(n, chosen, n.b))
    regions = [Block(), Block()]
    yields: list[list[Value]] = []
    failed = False
    for region, graph in zip(regions, branches, strict=True):
        n.importer.parents[region] = n.b.block
        b = Builder(region, n.b.loc, n.b.module)
        try:
            yields.append([n.importer.data(t, b) for t in import_subgraph(n, graph, b)])
        except Poisoned:
            failed = True
    if failed:
        raise Poisoned
    condition = n[0]
    if condition.tensor.rank:
        condition = n.b("reshape", condition, shape=())
    if _squeezes(condition, branches[0], yields, n.b.module.constants):
        for region in regions:
            discard(region)
        return list(import_subgraph(n, branches[0], n.b))
    types = _joined(yields)
    for region, values in zip(regions, yields, strict=True):
        b = Builder(region, n.b.loc, n.b.module)
        fitted = [
            v if v.type == t else b("reshape", v, shape=t.shape)
            for v, t in zip(values, types, strict=True)
        ]
        b("yield", *fitted)
    return list(n.b.build("if", [condition], {}, regions, types).results)


def _squeezes(
    condition: Value,
    then: onnx.GraphProto,
    yields: list[list[Value]],
    constants: Mapping[str, np.ndarray],
) -> bool:
    """Whether this is ``squeeze`` of a dimension whose size is symbolic.

    PyTorch exports it as ``If(size == 1, Squeeze(x), x)``, whose rank depends on the size. A model
    that goes on with the squeezed rank needs the size to be 1, which each call checks.
    """
    if [node.op_type for node in then.node][-1:] != ["Squeeze"] or len(then.output) != 1:
        return False
    if yields[0][0].tensor.rank + 1 != yields[1][0].tensor.rank:
        return False
    reshape, equal = yields[0][0].op, _source(condition)
    if reshape is None or reshape.op_name != "reshape" or equal is None or equal.op_name != "eq":
        return False
    sides = [_source(v) for v in equal.operands]
    ones = [x for x in sides if x is not None and _is_one(x, constants)]
    sizes = [x for x in sides if x is not None and x.op_name == "sizes"]
    if len(ones) != 1 or len(sizes) != 1 or len(sizes[0].attrs["dims"]) != 1:
        return False
    before, after = list(reshape.operands[0].shape), list(reshape.result.shape)
    (size,) = sizes[0].attrs["dims"]
    places = [i for i, d in enumerate(before) if d == size]
    return any(before[:i] + before[i + 1 :] == after for i in places)


def _is_one(x: Op, constants: Mapping[str, np.ndarray]) -> bool:
    return x.op_name == "const" and bool((constants[x.attrs["value"]] == 1).all())


def _source(v: Value) -> Op | None:
    """The operation behind reshapes and casts."""
    op = v.op
    while op is not None and op.op_name in ("reshape", "cast"):
        op = op.operands[0].op
    return op


def _joined(yields: list[list[Value]]) -> list[TensorType]:
    """The types of the results; sizes that differ only by symbols have to be equal at run time."""
    if len(yields[0]) != len(yields[1]):
        raise Refused(f"the branches have {len(yields[0])} and {len(yields[1])} outputs")
    types = []
    for i, (x, y) in enumerate(zip(*yields, strict=True)):
        a, b = x.tensor, y.tensor
        if a.dtype != b.dtype or a.rank != b.rank or not all(map(same_dim, a.shape, b.shape)):
            raise Refused(
                f"output {i} has the type {a} in one branch and {b} in the other",
                "give both branches one shape",
            )
        types.append(a if a.is_static or not b.is_static else b)
    return types
