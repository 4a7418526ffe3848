"""Constant folding: operations on constants only are computed now, by the operator's reference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np

from pjit.ir.arrays import aligned, aligned_copy
from pjit.ir.builder import Builder
from pjit.ir.core import Module, Op, Value
from pjit.ir.expr import Expr
from pjit.ir.ops import (
    BilinearWeights,
    Const,
    Pack,
    PackWeights,
    Sizes,
    WinogradRowWeights,
    WinogradWeights,
)
from pjit.ir.types import TensorType
from pjit.passes.context import Context, Pass
from pjit.passes.pattern import constant_array, is_constant
from pjit.passes.rewrite import prune_constants, rewrite

SMALL = 4096  # elements; a result of at most that many is always worth folding
GROWTH = 4  # a larger result has at most that many times the bytes of its operands
GROWTH_BYTES = 64 << 20  # and takes at most that many bytes more
PIECE = 1 << 16  # elements that are looked at at once, while they are in a cache
# folded whatever the padding costs: the kernels read nothing else
PACKED = (Pack, PackWeights, BilinearWeights)
PACKING = (*PACKED, WinogradWeights, WinogradRowWeights)


@dataclass(frozen=True)
class Fold(Pass):
    """Replaces operations whose operands are all constants by their results.

    A large result that is much larger than its operands (a broadcast, a range) is left to be
    computed when needed. An operation whose reference raises is left too: whether it is ever run is
    not known here.
    """

    name: ClassVar[str] = "fold"
    requires: ClassVar[tuple[str, ...]] = ("graph",)

    def run(self, module: Module, context: Context) -> bool:
        """Folds until nothing folds."""
        changed = rewrite(module, _Folder(module, context).fold, "constant folding")
        return prune_constants(module) or changed


class _Folder:
    """Folds operations, and drops the arrays that nothing needs any more as it goes.

    Large weights are packed when the packed array is asked for. Subnormal weights become zero:
    products with them take some processors a hundred times as long.
    """

    def __init__(self, module: Module, context: Context) -> None:
        self.context = context
        self.refused: set[Op] = set()
        consts = (o for f in module.functions.values() for o in f.walk() if isinstance(o, Const))
        self.named = Counter(o.value for o in consts)

    def fold(self, op: Op, b: Builder) -> Any:
        if op in self.refused or not _foldable(op):
            return None
        name = _name(op.operands, op.op_name)
        if isinstance(op, PACKING) and prod(op.result.tensor.static_shape) > SMALL:
            make = _packing(op, b.module)
            return self._made(op, b, [Const.later(b, make, op.result.tensor, name)])
        arrays = [constant_array(v, b.module) for v in op.operands]
        try:
            with np.errstate(all="ignore"):
                found = op.ref(*arrays, **op.attrs)  # type: ignore[attr-defined]
        except (ArithmeticError, IndexError, ValueError) as e:
            self.refused.add(op)
            self.context.log(f"fold: {op.op_name} at {op.loc} left as it is: {e}")
            return None
        results = found if isinstance(found, tuple | list) else (found,)
        if isinstance(op, PACKING):
            results = [without_subnormals(aligned(a)) for a in results]
        made: list[Value] = [
            Const.of(b, aligned(np.asarray(a)).reshape(r.shape), name)
            for a, r in zip(results, op.results, strict=True)
        ]
        return self._made(op, b, made)

    def _made(self, op: Op, b: Builder, made: list[Value]) -> list[Value]:
        self.named.update(value.op.attrs["value"] for value in made if value.op)
        for value in dict.fromkeys(op.operands):
            self._drop(value, b.module)
        return made

    def _drop(self, value: Value, module: Module) -> None:
        """Forgets the array of a constant that only the folded operation used."""
        const = value.owner
        assert isinstance(const, Const)
        if len(value.users) == 1 and self.named[const.value] == 1:
            del module.constants[const.value]
            self.named[const.value] = 0


def _packing(op: Op, module: Module) -> Callable[[], np.ndarray]:
    """What packs the weights of an operation, without keeping the operation."""
    stored = [module.constants.stored(v.owner.value) for v in op.operands]  # type: ignore[union-attr]
    last = isinstance(op, PACKED)  # what others make is still to be packed
    ref, attrs, shape = op.ref, op.attrs, op.result.tensor.static_shape  # type: ignore[attr-defined]

    def packed() -> np.ndarray:
        arrays = [s() if callable(s) else s for s in stored]
        made = aligned(ref(*arrays, **attrs))
        return (without_subnormals(made) if last else made).reshape(shape)

    return packed


def without_subnormals(a: np.ndarray) -> np.ndarray:
    """An array with zeros for subnormal numbers, if it has any, of types as wide as f32."""
    if a.dtype.kind != "f" or a.itemsize < 4:
        return a
    flat, made = a.reshape(-1), None
    bits = flat.view(f"u{a.itemsize}")
    least = 1 << (np.finfo(a.dtype).nmant + 1)  # twice the smallest normal number, as bits
    for start in range(0, len(flat), PIECE):
        # without the sign, and such that 0 becomes the largest number
        magnitude = (bits[start : start + PIECE] << 1) - 1
        if magnitude.min() < least - 1:
            made = aligned_copy(flat) if made is None else made
            made[start : start + PIECE][magnitude < least - 1] = 0
    return a if made is None else made.reshape(a.shape)


def _foldable(op: Op) -> bool:
    if isinstance(op, Const) or op.regions or op.terminator or not hasattr(op, "ref"):
        return False
    if not op.pure or not all(is_constant(v) for v in op.operands):  # type: ignore[attr-defined]
        return False
    if not all(isinstance(r.type, TensorType) and r.type.is_static for r in op.results):
        return False
    if any(_symbolic(v) for v in op.attrs.values()):
        return False
    return isinstance(op, (Sizes, *PACKING)) or _worth_storing(op)


def _symbolic(value: Any) -> bool:
    if isinstance(value, tuple):
        return any(_symbolic(v) for v in value)
    return isinstance(value, Expr)


def _worth_storing(op: Op) -> bool:
    if all(prod(r.tensor.static_shape) <= SMALL for r in op.results):
        return True
    given, made = _bytes(op.operands), _bytes(op.results)
    return made <= GROWTH * given and made - given <= GROWTH_BYTES


def _bytes(values: tuple[Value, ...]) -> int:
    return sum(prod(v.tensor.static_shape) * v.dtype.itemsize for v in values)


def _name(operands: tuple[Value, ...], otherwise: str) -> str:
    """The name of the largest operand, so that a folded weight still says which one it is."""
    if not operands:
        return otherwise
    largest = max(operands, key=lambda v: prod(v.tensor.static_shape))
    return largest.owner.value  # type: ignore[union-attr]
