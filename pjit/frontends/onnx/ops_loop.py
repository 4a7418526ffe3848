"""Loop and Scan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from pjit.frontends.onnx.known import Known
from pjit.frontends.onnx.ops_control import discard, import_subgraph
from pjit.frontends.onnx.reader import Refused
from pjit.frontends.onnx.registry import Node, Tensor, onnx_op
from pjit.ir.builder import Builder
from pjit.ir.core import Block, Value
from pjit.ir.expr import Dim
from pjit.ir.opdef import same_dim
from pjit.ir.types import TensorType, bool_, i64, tensor

TRUE = Known(bool_, np.array(True))


def _region(n: Node, types: Sequence[TensorType]) -> tuple[Block, Builder]:
    block = Block(types)
    n.importer.parents[block] = n.b.block
    return block, Builder(block, n.b.loc, n.b.module)


def _fitted(b: Builder, values: Sequence[Value], types: Sequence[TensorType]) -> list[Value]:
    """Carried values with the types that they came with; raises Refused when they change shape."""
    out = []
    for i, (v, t) in enumerate(zip(values, types, strict=True)):
        same = (
            v.dtype == t.dtype and v.tensor.rank == t.rank and all(map(same_dim, v.shape, t.shape))
        )
        if not same:
            raise Refused(
                f"carried value {i} changes its type from {t} to {v.type}",
                "a loop carries values of one shape",
            )
        out.append(v if v.type == t else b("reshape", v, shape=t.shape))
    return out


def _scanned(
    n: Node, region: Block, b: Builder, ys: Sequence[Value], carried: Sequence[Value],
    xs: Sequence[Value], steps: Dim,
) -> list[Value]:  # fmt: skip
    """Builds the scan: the last carried values, then the stacked ones."""
    types = [v.tensor for v in carried]
    after = _fitted(b, ys[: len(types)], types)
    extra = list(ys[len(types) :])
    b("yield", *after, *extra)
    stacked = [TensorType(v.dtype, (steps, *v.shape)) for v in extra]
    attrs = {"n_carry": len(types)}
    return list(n.b.build("scan", [*carried, *xs], attrs, [region], [*types, *stacked]).results)


def _check_arity(body: onnx.GraphProto, inputs: int, outputs: int) -> None:
    if len(body.input) != inputs or len(body.output) < outputs:
        raise Refused(
            f"the body has {len(body.input)} inputs and {len(body.output)} outputs, "
            f"it needs {inputs} and at least {outputs}"
        )


@onnx_op("Loop")
def loop(n: Node) -> list[Value]:
    """Repeats a body: a ``scan`` when the count follows from shapes, else a ``while``."""
    body: onnx.GraphProto = n.attr("body", "graph")
    names = [i.name for i in body.input]
    carried = [n[i] for i in range(2, len(n.inputs))]
    types = [v.tensor for v in carried]
    _check_arity(body, 2 + len(carried), 1 + len(carried))
    start = n.input(1).known if n.has(1) else TRUE
    count = n.input(0).known if n.has(0) else None
    if count is not None and start is not None and not start.is_symbolic and start.array.all():
        region, b = _region(n, [*types, tensor(i64)])
        given: dict[str, Value | Known] = {names[0]: region.args[-1], names[1]: TRUE}
        given |= dict(zip(names[2:], region.args, strict=False))
        results = import_subgraph(n, body, b, given)
        goes_on = results[0].known
        if goes_on is not None and not goes_on.is_symbolic and goes_on.array.all():
            (steps,) = count.integers()
            ys = [n.importer.data(t, b) for t in results[1:]]
            index = n.b("iota", size=steps, dtype=i64)
            return _scanned(n, region, b, ys, carried, [index], steps)
        discard(region)
    if len(body.output) > 1 + len(carried):
        raise Refused(
            "it stacks outputs of as many steps as data decides",
            "give the number of iterations as a constant or compute it from shapes",
        )
    return _while(n, body, names, carried)


def _while(
    n: Node, body: onnx.GraphProto, names: Sequence[str], carried: Sequence[Value]
) -> list[Value]:
    first = n.b("reshape", n[1], shape=()) if n.has(1) else n.const(True, bool_)
    limit = n.b("reshape", n[0], shape=()) if n.has(0) else None
    inits = [n.const(0, i64), first, *carried]
    types = [v.tensor for v in inits]
    test, tb = _region(n, types)
    goes_on = test.args[1]
    if limit is not None:
        goes_on = tb("and", goes_on, tb("lt", test.args[0], limit))
    tb("yield", goes_on)
    region, b = _region(n, types)
    results = import_subgraph(n, body, b, dict(zip(names, region.args, strict=True)))
    values = [n.importer.data(t, b) for t in results]
    values[0] = b("reshape", values[0], shape=())
    following = b("add", region.args[0], b.constant(1, i64))
    b("yield", following, *_fitted(b, values, types[1:]))
    return list(n.b.build("while", inits, {}, [test, region], types).results[2:])


def _ints(n: Node, name: str, count: int) -> tuple[int, ...]:
    values = n.attr(name, "ints", None) or (0,) * count
    if len(values) != count:
        raise Refused(f"{name} has {len(values)} entries, not {count}")
    return values


def _moved(n: Node, x: Value, source: int, target: int) -> Value:
    """Moves one dimension."""
    order = [a for a in range(x.tensor.rank) if a != source]
    order.insert(target, source)
    return x if order == sorted(order) else n.b("transpose", x, perm=order)


def _flipped(n: Node, x: Value) -> Value:
    rank = x.tensor.rank
    starts = (x.shape[0] - 1, *(0,) * (rank - 1))
    return n.b("slice", x, starts=starts, sizes=x.shape, steps=(-1, *(1,) * (rank - 1)))


@onnx_op("Scan")
def scan(n: Node) -> list[Value]:
    """Runs a body along an axis of its inputs."""
    if n.version < 9:
        raise Refused("Scan of operator set 8 is not supported", "use a later operator set")
    body: onnx.GraphProto = n.attr("body", "graph")
    sliced = n.attr("num_scan_inputs", "int")
    if not 0 < sliced <= len(n.inputs):
        raise Refused(f"num_scan_inputs={sliced} with {len(n.inputs)} inputs")
    data = n.data
    carried, xs = data[: len(data) - sliced], data[len(data) - sliced :]
    _check_arity(body, len(data), len(carried))
    stacked = len(body.output) - len(carried)
    axes, ways = _ints(n, "scan_input_axes", sliced), _ints(n, "scan_input_directions", sliced)
    xs = [_moved(n, x, n.axis(a, x.tensor.rank), 0) for x, a in zip(xs, axes, strict=True)]
    xs = [_flipped(n, x) if way else x for x, way in zip(xs, ways, strict=True)]
    types = [v.tensor for v in carried]
    region, b = _region(n, [*types, *(TensorType(x.dtype, x.shape[1:]) for x in xs)])
    given: dict[str, Value | Known] = {}
    given |= dict(zip((i.name for i in body.input), region.args, strict=True))
    results: list[Tensor] = import_subgraph(n, body, b, given)
    ys = [n.importer.data(t, b) for t in results]
    out = _scanned(n, region, b, ys, carried, xs, xs[0].shape[0])
    last, stacks = out[: len(carried)], out[len(carried) :]
    axes, ways = _ints(n, "scan_output_axes", stacked), _ints(n, "scan_output_directions", stacked)
    stacks = [_flipped(n, y) if way else y for y, way in zip(stacks, ways, strict=True)]
    moved = [_moved(n, y, 0, n.axis(a, y.tensor.rank)) for y, a in zip(stacks, axes, strict=True)]
    return [*last, *moved]
