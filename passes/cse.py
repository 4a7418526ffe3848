"""Common subexpressions: of two operations that compute the same, the first one stays."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

from pjit.ir.core import Block, Module, Op
from pjit.ir.ops import Const
from pjit.passes.context import Context, Pass
from pjit.passes.rewrite import prune_constants

COMPARED_BYTES = 1 << 16  # larger constants are equal when they are one array


@dataclass(frozen=True)
class Cse(Pass):
    """Merges operations with equal operators, operands, attributes and types; constants by their
    content.

    An operation in a region is merged with one before it in the same block or an enclosing one.
    Operations with regions or effects are not merged.
    """

    name: ClassVar[str] = "cse"
    requires: ClassVar[tuple[str, ...]] = ("graph",)

    def run(self, module: Module, context: Context) -> bool:
        """Merges in one walk, since operands come first."""
        changed = merge_equal(module)
        return (prune_constants(module) if changed else False) or changed


def merge_equal(module: Module) -> bool:
    """Merges equal operations of all functions; returns whether there were any."""
    return any([_merge(f.body, {}, module) for f in module.functions.values()])


def _merge(block: Block, outer: dict[tuple, Op], module: Module) -> bool:
    known = dict(outer) if outer else {}
    kept: list[Op] = []
    changed = False
    for op in block.ops:
        for region in op.regions:
            changed |= _merge(region, known, module)
        if op.regions or op.terminator or not op.pure:  # type: ignore[attr-defined]
            kept.append(op)
            continue
        first = known.setdefault(_key(op, module), op)
        if first is op:
            kept.append(op)
            continue
        for mine, other in zip(op.results, first.results, strict=True):
            mine.replace_by(other)
        op.operands = ()
        op.parent = None
        changed = True
    block.ops = kept
    return changed


def _key(op: Op, module: Module) -> tuple:
    if isinstance(op, Const):
        if prod(op.shape) * op.dtype.itemsize <= COMPARED_BYTES:
            return Const, op.type, module.constants[op.value].tobytes()
        return Const, op.type, id(module.constants.stored(op.value))
    attrs = tuple((k, _exact(v)) for k, v in op.attrs.items())
    types = tuple(r.type for r in op.results)
    return type(op), tuple(id(v) for v in op.operands), attrs, types


def _exact(value: Any) -> Any:
    """An attribute such that 0.0 and -0.0, and 1 and 1.0, differ."""
    if isinstance(value, tuple):
        return tuple(_exact(v) for v in value)
    return value.hex() if isinstance(value, float) else value
