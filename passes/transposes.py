"""Moves transpositions through a graph so that they cancel.

Two directions, both built on ``routes``. *Sinking* replaces ``op(transpose(y), ...)`` by
``transpose(op'(y, ...))`` when the other operands can be permuted for nothing; it never makes more
transpositions than there were. So it does with what a loop without carried values stacks. *Pulling*
moves one transposition up the tree of operations that only it uses, when what is then left to
transpose is less than before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pjit.ir.builder import Builder
from pjit.ir.core import Op, Value
from pjit.ir.ops import Const, Matmul, Reshape, Scan, Transpose
from pjit.passes.cost import weight_of
from pjit.passes.pattern import constant_array, is_constant, single_use
from pjit.passes.routes import ANY_OPERAND, Perm, Route, route, route_back
from pjit.passes.rules_movement import compose, inverse, moves_units_only

SMALL_SHARE = (
    8  # an operand so many times smaller than the result may be transposed to let a larger one sink
)

REGION_LIMIT = 256  # operations looked at for pulling one transposition


def bits(value: Value) -> int:
    """The size of a value, with a guess for symbols."""
    return weight_of(value.shape, value.dtype.bits)


def lifted(value: Value, rank: int) -> tuple:
    """The shape with leading dimensions of size 1 up to a rank."""
    return (1,) * (rank - len(value.shape)) + tuple(value.shape)


def is_identity(q: Perm) -> bool:
    """Whether a permutation moves nothing."""
    return q == tuple(range(len(q)))


def is_free(value: Value, q: Perm) -> bool:
    """Whether permuting a value costs nothing, or only changes a transposition of it."""
    if is_constant(value) or is_identity(q) or moves_units_only(q, lifted(value, len(q))):
        return True
    owner = value.owner
    if not isinstance(owner, Transpose) or len(owner.perm) != len(q):
        return False
    return is_identity(compose(owner.perm, q)) or single_use(value)


def permuted(b: Builder, value: Value, q: Perm) -> Value:
    """``transpose(value, q)`` in its simplest form; a lower rank gets leading ones."""
    shape = lifted(value, len(q))
    if is_identity(q) or all(d == 1 for d in value.shape):
        return value
    if is_constant(value):
        return _permuted_constant(b, value, shape, q)
    if len(value.shape) < len(q):
        value = b(Reshape, value, shape=shape)
    if isinstance(value.owner, Transpose):
        q, value = compose(value.owner.perm, q), value.owner.x
        if is_identity(q):
            return value
    if moves_units_only(q, value.shape):
        return b(Reshape, value, shape=tuple(value.shape[i] for i in q))
    return b(Transpose, value, perm=q)


def _permuted_constant(b: Builder, value: Value, shape: tuple, q: Perm) -> Value:
    array = constant_array(value, b.module).reshape(shape).transpose(q)
    if len(value.shape) < len(q):
        while array.shape and array.shape[0] == 1:
            array = array[0]
    assert isinstance(value.owner, Const)
    return Const.of(b, np.ascontiguousarray(array), value.owner.value)


def rebuilt(b: Builder, op: Op, r: Route, operands: list[Value]) -> list[Value]:
    """The results of an operation, from an operation on permuted operands."""
    made = b.build(type(op), operands, r.attrs)
    back = inverse(r.result)
    return [permuted(b, v, back) for v in made.results]


def sink(op: Op, b: Builder) -> list[Value] | None:
    """Moves transpositions of operands to the results, or returns None."""
    if isinstance(op, Matmul):
        return _sink_into_weight(op, b)
    if isinstance(op, Scan):
        return _sink_out_of(op, b)
    r = _best_route(op)
    if r is None:
        return None
    operands = [
        v if q is None else permuted(b, v, q) for v, q in zip(op.operands, r.operands, strict=True)
    ]
    return rebuilt(b, op, r, operands)


def _sink_out_of(op: Scan, b: Builder) -> list[Value] | None:
    """Moves transpositions of what a loop stacks behind it, where nothing is carried."""
    last = op.body.last
    moved = {i: v.op for i, v in enumerate(last.operands) if isinstance(v.op, Transpose)}
    moved = {i: t for i, t in moved.items() if t.parent is op.body and len(t.result.uses) == 1}
    if op.n_carry or not moved:
        return None
    for i, t in moved.items():
        last.set_operand(i, t.x)
    steps, regions, op.regions = op.sliced[0].shape[0], op.regions, ()
    types = [v.tensor.with_shape((steps, *v.shape)) for v in last.operands]
    loop = b.build(Scan, op.operands, op.attrs, regions, types)
    results = list(loop.results)
    for i, t in moved.items():
        results[i] = permuted(b, results[i], (0, *(p + 1 for p in t.perm)))
    return results


def _best_route(op: Op) -> Route | None:
    """The route that undoes the transposition of the largest operand, if the rest is free."""
    if op.regions or not op.results:
        return None
    found: dict[Perm, int] = {}
    for v in op.operands if isinstance(op, ANY_OPERAND) else op.operands[:1]:
        if isinstance(v.owner, Transpose) and not is_identity(v.owner.perm):
            if not isinstance(op, ANY_OPERAND) or len(v.shape) == len(op.results[0].shape):
                q = inverse(v.owner.perm)
                found[q] = found.get(q, 0) + bits(v)
    for q in sorted(found, key=lambda k: -found[k]):
        r = route(op, q)
        if r is not None and _all_free(op, r, found[q]):
            return r
    return None


def _all_free(op: Op, r: Route, gone: int) -> bool:
    """Whether the other operands can be permuted for nothing, or for little: less than what sinks,
    so that this comes to an end.
    """
    total = sum(bits(v) for v in op.results)
    return all(
        q is None or is_free(v, q) or (bits(v) * SMALL_SHARE <= total and bits(v) < gone)
        for v, q in zip(op.operands, r.operands, strict=True)
    )


def _sink_into_weight(op: Matmul, b: Builder) -> list[Value] | None:
    """Turns ``matmul(reshape(transpose(y)), w)`` into one on y by permuting the rows of w."""
    view, weight = op.a.owner, op.b
    if not (isinstance(view, Reshape) and is_constant(weight) and weight.tensor.rank == 2):
        return None
    source = view.x.owner
    if not isinstance(source, Transpose) or not op.a.tensor.rank:
        return None
    shape, perm = source.result.shape, source.perm
    depth = op.a.shape[-1]
    mixed, at = 1, len(shape)  # the trailing dimensions shape[at:] make up the depth
    while at > 0 and mixed != depth:
        at -= 1
        mixed = mixed * shape[at]
    if mixed != depth or not all(isinstance(d, int) for d in shape[at:]):
        return None
    lead = [i for i in inverse(perm) if i < at]
    order = [i for i in inverse(perm) if i >= at]
    if lead != list(range(at)) or [*lead, *order] != [i for i in inverse(perm)]:
        return None
    array = constant_array(weight, b.module)
    rows = array.reshape(*shape[at:], array.shape[1])
    rows = rows.transpose(*(i - at for i in order), rows.ndim - 1).reshape(array.shape)
    assert isinstance(weight.owner, Const)
    w = Const.of(b, np.ascontiguousarray(rows), weight.owner.value)
    return [b(Matmul, b(Reshape, source.x, shape=view.shape), w)]


@dataclass(frozen=True)
class Plan:
    """Makes a permuted value: by transposing it, or by its operation on permuted operands."""

    cost: int
    value: Value
    perm: Perm
    route: Route | None = None
    operands: tuple[Plan | None, ...] = ()


def _routed(plan: Plan) -> Iterator[tuple[Value, Perm]]:
    if plan.route is not None:
        yield plan.value, plan.perm
        for operand in plan.operands:
            if operand is not None:
                yield from _routed(operand)


class Puller:
    """Finds the cheapest way to make ``transpose(value, q)``, in bits left to transpose."""

    def __init__(self, root: Op) -> None:
        self.root = root
        self.region = _only_for(root)
        self.plans: dict[tuple[Value, Perm], Plan] = {}

    def plan(self, value: Value, q: Perm) -> Plan:
        """The plan for one value; one that is used twice is made, and counted, once."""
        known = self.plans.get((value, q))
        if known is not None:
            return Plan(0, known.value, known.perm, known.route, known.operands)
        found = self._plan(value, q)
        self.plans[value, q] = found
        return found

    def _plan(self, value: Value, q: Perm) -> Plan:
        owner = value.op
        if isinstance(owner, Transpose) and len(owner.perm) == len(q):
            gone = bits(value) if owner in self.region else 0
            cancels = moves_units_only(compose(owner.perm, q), owner.x.shape)
            return Plan((0 if cancels else bits(value)) - gone, value, q)
        if is_free(value, q) or self._made_already(value, q):
            return Plan(0, value, q)
        direct = Plan(bits(value), value, q)
        if owner not in self.region or len(q) != len(value.shape):
            return direct
        r = route_back(owner, q)
        if r is None:
            return direct
        operands = tuple(
            None if p is None else self.plan(v, p)
            for v, p in zip(owner.operands, r.operands, strict=True)
        )
        cost = sum(p.cost for p in operands if p is not None)
        return Plan(cost, value, q, r, operands) if cost < direct.cost else direct

    def repeats_nothing(self, plan: Plan) -> bool:
        """Whether a plan leaves no operation that it routes to be computed a second time."""
        found = set(_routed(plan))
        values = {v for v, _ in found}
        users = {u for v in values for u in v.users}
        return len(values) == len(found) and users <= {self.root, *(v.op for v in values)}

    def _made_already(self, value: Value, q: Perm) -> bool:
        return any(
            isinstance(u, Transpose) and u is not self.root and u.perm == q for u in value.users
        )

    def build(self, b: Builder, plan: Plan, done: dict[tuple[Value, Perm], Value]) -> Value:
        """Builds what a plan says."""
        key = plan.value, plan.perm
        if key in done:
            return done[key]
        if plan.route is None:
            done[key] = permuted(b, plan.value, plan.perm)
            return done[key]
        owner = plan.value.op
        assert owner is not None
        operands = [
            v if p is None else self.build(b, p, done)
            for v, p in zip(owner.operands, plan.operands, strict=True)
        ]
        with b.at(owner.loc):
            done[key] = b(type(owner), *operands, **plan.route.attrs)
        return done[key]


def pull(op: Op, b: Builder) -> Any:
    """Moves a transposition to where less has to be transposed, or returns None."""
    if not isinstance(op, Transpose) or is_constant(op.x):
        return None
    puller = Puller(op)
    plan = puller.plan(op.x, op.perm)
    if plan.cost >= bits(op.x) or (plan.route is None and not isinstance(op.x.owner, Transpose)):
        return None
    return puller.build(b, plan, {}) if puller.repeats_nothing(plan) else None


def _only_for(root: Op) -> set[Op]:
    """The operations before one, of one result and without regions, whose results only serve it."""
    region, pending = {root}, [root]
    while pending:
        for v in pending.pop().operands:
            source = v.op
            if source is None or source in region or len(source.results) != 1 or source.regions:
                continue
            if len(region) < REGION_LIMIT and region.issuperset(v.users):
                region.add(source)
                pending.append(source)
    return region - {root}
