"""What values of indices are known to be: below which size all elements of a tensor are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pjit.ir import expr, ops
from pjit.ir.core import Op, Value
from pjit.ir.expr import Dim
from pjit.ir.ops.fused import Fused

MOVED = (ops.Reshape, ops.Transpose, ops.Broadcast, ops.Slice)
GATHERS = (ops.Gather, ops.GatherElements, ops.GatherNd)


def bound_of(
    v: Value, constants: Mapping[str, np.ndarray], inputs: Mapping[Value, Value] | None = None
) -> Dim | None:
    """A size n such that every element is at least 0 and less than n; None when none is known.

    Args:
        v: A tensor of level ``graph`` or ``fused``.
        constants: The module's constants.
        inputs: What the arguments of a group are outside of it.
    """
    inputs = inputs or {}
    if v in inputs:
        return bound_of(inputs[v], constants)
    op = v.op
    if isinstance(op, Fused):
        at = op.results.index(v)
        outside = dict(zip(op.body.args, op.operands, strict=True))
        return bound_of(op.outputs[at], constants, outside)
    if isinstance(op, ops.Const):
        return _of_constant(op, constants)
    if isinstance(op, ops.Iota):
        return op.attrs["size"]
    if isinstance(op, (*MOVED, *GATHERS)):
        return bound_of(op.operands[0], constants, inputs)
    return None


def _of_constant(op: Op, constants: Mapping[str, np.ndarray]) -> Dim | None:
    values = constants[op.attrs["value"]]
    if values.dtype.kind not in "iu" or not values.size or values.min() < 0:
        return None
    return int(values.max()) + 1


def is_below(bound: Dim | None, size: Dim) -> bool:
    """Whether what is below a bound is surely below a size."""
    return bound is not None and expr.at_least(size - bound, 0)
