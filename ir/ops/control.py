"""Structured control flow: regions are single blocks that end with ``yield`` and may use outer
values.

The result types of ``if`` and ``scan`` come from their regions: build them with explicit types
(``Builder.build(..., regions=..., types=...)``). ``check_regions`` verifies the regions against
operands and results. ``schedule`` holds what the lowering decided, as (name, value) pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pjit.ir import expr
from pjit.ir.core import Block, Function, Op, Value
from pjit.ir.errors import require
from pjit.ir.opdef import OpDef, attr, operand, same_dim, variadic
from pjit.ir.ops.basic import Yield
from pjit.ir.types import TensorType, Type, bool_, tensor


class If(OpDef, name="if"):
    """Runs the first region where ``cond`` holds, else the second; gives what it yields.

    (C1) cond is a bool scalar.
    (C2) There are two regions without arguments, and each ends with ``yield``.
    (C3) Each region yields the types of the results.

    ``checks`` are two lists of pairs of dimensions: what is equal where a region is run.
    """

    structural = True
    cond = operand((bool_,))
    checks = attr(())
    schedule = attr(())
    __slots__ = ()

    @staticmethod
    def infer(cond: TensorType, **attrs: Any) -> tuple[Type, ...]:
        """The types are those that the regions yield: build it with explicit types."""
        raise NotImplementedError("build `if` with its result types")

    @property
    def branches(self) -> tuple[Block, ...]:
        """The region for true and the one for false."""
        return self.regions

    def check_regions(self) -> None:
        """Raises ConstraintError unless the constraints hold."""
        require(self.cond.type == tensor(bool_), "(C1) cond is a bool scalar", got=self.cond.type)
        _check_count(self.regions, 2, "(C2)")
        for region in self.regions:
            _check_arguments(region, (), "(C2)")
            _check_types(
                _yielded(region, "(C2)"), self.results, "(C3) a region yields the result types"
            )


class While(OpDef, name="while"):
    """Runs ``body`` on the carried values as long as ``cond`` yields true.

    The results are the last carried values. The condition is tested before each iteration, the
    first included.

    (C1) There are two regions, ``cond`` and ``body``; their arguments have the types of the
        operands, and each ends with ``yield``.
    (C2) cond yields one bool scalar.
    (C3) body yields the types of the operands, which are the types of the results.
    """

    structural = True
    inits = variadic()
    schedule = attr(())
    __slots__ = ()

    @staticmethod
    def infer(inits: list[TensorType], **attrs: Any) -> tuple[Type, ...]:
        """The types of the initial values."""
        return tuple(inits)

    @property
    def cond(self) -> Block:
        """The region that decides whether to go on."""
        return self.regions[0]

    @property
    def body(self) -> Block:
        """The region that computes the next values."""
        return self.regions[1]

    def check_regions(self) -> None:
        """Raises ConstraintError unless the constraints hold."""
        _check_count(self.regions, 2, "(C1)")
        carried = [v.type for v in self.operands]
        for region in self.regions:
            _check_arguments(region, carried, "(C1)")
        decision = _yielded(self.cond, "(C1)")
        require(
            len(decision) == 1 and decision[0].type == tensor(bool_),
            "(C2) cond yields one bool scalar",
            got=[v.type for v in decision],
        )
        _check_types(
            _yielded(self.body, "(C1)"), self.operands, "(C3) body yields the carried types"
        )
        _check_types(self.results, self.operands, "(C3) the results have the carried types")


class Scan(OpDef, name="scan"):
    """Runs a region for each slice of its inputs along dimension 0, in order.

    The first ``n_carry`` operands are carried from one step to the next, the others are sliced. The
    region gets the carried values and the slices, and yields the next carried values and the
    elements of the stacked results; the results are the last carried values and the stacked
    results.

    (C1) 0 <= n_carry < the number of operands.
    (C2) The sliced operands have an equal first dimension.
    (C3) There is one region; its arguments have the carried types and the types of the slices; it
        ends with ``yield``.
    (C4) The region yields the carried types, which are those of the first results.
    (C5) Each other result has the yielded type with the first dimension of the sliced operands in
        front.
    """

    structural = True
    inputs = variadic()
    n_carry = attr()
    schedule = attr(())
    __slots__ = ()

    @staticmethod
    def infer(inputs: list[TensorType], **attrs: Any) -> tuple[Type, ...]:
        """The types depend on what the region yields: build it with explicit types."""
        raise NotImplementedError("build `scan` with its result types")

    @property
    def body(self) -> Block:
        """The region."""
        return self.regions[0]

    @property
    def carried(self) -> tuple[Value, ...]:
        """The initial carried values."""
        return self.operands[: self.n_carry]

    @property
    def sliced(self) -> tuple[Value, ...]:
        """The operands that the region gets slice by slice."""
        return self.operands[self.n_carry :]

    def check_regions(self) -> None:
        """Raises ConstraintError unless the constraints hold."""
        n = self.n_carry
        require(
            0 <= n < len(self.operands),
            "(C1) n_carry is at least 0 and below the number of operands",
            expected=f"0..{len(self.operands) - 1}",
            got=n,
        )
        for v in self.sliced:
            require(
                v.tensor.rank >= 1 and same_dim(v.shape[0], self.sliced[0].shape[0]),
                "(C2) the sliced operands have an equal first dimension",
                got=[x.type for x in self.sliced],
            )
        steps = self.sliced[0].shape[0]
        _check_count(self.regions, 1, "(C3)")
        slices = [v.tensor.with_shape(v.shape[1:]) for v in self.sliced]
        _check_arguments(self.body, [*(v.type for v in self.carried), *slices], "(C3)")
        values = _yielded(self.body, "(C3)")
        _check_types(values[:n], self.carried, "(C4) the region yields the carried types")
        _check_types(
            self.results[:n], self.carried, "(C4) the first results have the carried types"
        )
        stacked = [v.tensor.with_shape((steps, *v.shape)) for v in values[n:]]
        require(
            len(stacked) == len(self.results) - n
            and all(_same(r.type, t) for r, t in zip(self.results[n:], stacked, strict=True)),
            "(C5) a stacked result has the yielded type with the number of steps in front",
            expected=stacked,
            got=[r.type for r in self.results[n:]],
        )


def host_reason(op: Op) -> str:
    """Why control flow has to run on the host; empty when native code can run it."""
    known = _symbols_before(op)
    for inner in op.walk():
        if inner is not op and isinstance(inner, OpDef) and inner.lowering() == "host":
            return f"{inner.op_name} in its region runs on the host"
        if isinstance(inner, CONTROL):
            for v in inner.results:
                if not all(expr.symbols(d) <= known for d in v.shape):
                    return "the shape of a result depends on data"
    return ""


def _symbols_before(op: Op) -> set[str]:
    """The symbols of the values that are defined before an operation, around it too."""
    found: set[str] = set()
    while (block := op.parent) is not None:
        values = list(block.args)
        for earlier in block.ops:
            if earlier is op:
                break
            values += earlier.results
        for v in values:
            found.update(*map(expr.symbols, v.shape))
        if block.owner is None or isinstance(block.owner, Function):
            break
        op = block.owner
    return found


def _same(a: Type, b: Type) -> bool:
    if not (isinstance(a, TensorType) and isinstance(b, TensorType)):
        return a == b
    return (
        a.dtype == b.dtype
        and a.rank == b.rank
        and all(same_dim(x, y) for x, y in zip(a.shape, b.shape, strict=True))
    )


def _check_count(regions: Sequence[Block], count: int, constraint: str) -> None:
    require(
        len(regions) == count,
        f"{constraint} the number of regions",
        expected=count,
        got=len(regions),
    )


def _check_arguments(region: Block, types: Sequence[Type], constraint: str) -> None:
    found = [a.type for a in region.args]
    require(
        len(found) == len(types) and all(_same(f, t) for f, t in zip(found, types, strict=True)),
        f"{constraint} the region has the right arguments",
        expected=list(types),
        got=found,
    )


def _yielded(region: Block, constraint: str) -> tuple[Value, ...]:
    require(
        bool(region.ops) and isinstance(region.last, Yield),
        f"{constraint} a region ends with yield",
        got=region.last.op_name if region.ops else "an empty region",
    )
    return region.last.operands


def _check_types(values: Sequence[Value], like: Sequence[Value], constraint: str) -> None:
    require(
        len(values) == len(like)
        and all(_same(v.type, t.type) for v, t in zip(values, like, strict=True)),
        constraint,
        expected=[v.type for v in like],
        got=[v.type for v in values],
    )


CONTROL = (If, While, Scan)

__all__ = ["CONTROL", "If", "Scan", "While", "host_reason"]
