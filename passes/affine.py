"""Scales and shifts by constants: chains become one multiplication and one addition, and the
multiplication goes into the weight.

Batch normalisation after a convolution or a matrix product disappears this way. The rules
reassociate, so results differ from the unfolded ones by rounding; weights are multiplied in their
own dtype, which rounds each of them once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pjit.ir.builder import Builder
from pjit.ir.core import Module, Op, Value
from pjit.ir.ops import Add, Conv, ConvTranspose, Div, Matmul, Mul, Neg, Sub
from pjit.passes.context import Context, Pass
from pjit.passes.pattern import Match, RuleTable, const, is_constant, op, p, rule, single_use
from pjit.passes.rules_arithmetic import constant_like

LINEAR = (Conv, ConvTranspose, Matmul)


def channel_axis(linear: Op) -> int:
    """The dimension of the result that the output channels of the weight make."""
    return len(linear.type.shape) - 1 if isinstance(linear, Matmul) else 1


def scaled_weight(linear: Op, weight: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """The weight with output channel c multiplied by ``factor[c]`` (or all by ``factor[0]``)."""
    if factor.size == 1:
        return weight * factor.reshape(())
    if isinstance(linear, Matmul):
        return weight * factor
    if isinstance(linear, Conv):
        return weight * factor.reshape(-1, *(1,) * (weight.ndim - 1))
    groups = linear.attrs["groups"]
    grouped = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    by_channel = factor.reshape(groups, 1, weight.shape[1], *(1,) * (weight.ndim - 2))
    return (grouped * by_channel).reshape(weight.shape)


def channel_factor(linear: Op, factor: np.ndarray) -> np.ndarray | None:
    """A factor of the result as a vector over its channels; None when other dimensions vary."""
    rank, axis = len(linear.type.shape), channel_axis(linear)
    if factor.size == 1:
        return factor.reshape(1)
    if factor.ndim > rank or (isinstance(linear, Matmul) and linear.b.tensor.rank < 2):
        return None
    shape = (1,) * (rank - factor.ndim) + factor.shape
    return factor.reshape(-1) if factor.size == shape[axis] else None


def _scales_weight(m: Match) -> bool | str:
    linear = m.y.op
    if not m.y.dtype.is_float:
        return "not a float"
    if not single_use(m.y):
        return "the unscaled result has other uses"
    if m.y.type != m.root.result.type:
        return "the factor changes the shape"
    fits = channel_factor(linear, m.array(m.c)) is not None
    return fits or "the factor varies along another dimension than the channels"


def _scale_weight(b: Builder, m: Match) -> Value:
    linear = m.y.op
    factor = channel_factor(linear, m.array(m.c))
    assert factor is not None
    weight = scaled_weight(linear, m.array(m.w), factor)
    return b(type(linear), m.x, constant_like(b, weight, m.w), **linear.attrs)


def absorbs(value: Value) -> bool:
    """Whether a factor of the value ends up in a constant that is there already."""
    source = value.op
    if source is None or not single_use(value):
        return False
    if isinstance(source, LINEAR):
        return is_constant(source.operands[1])
    if isinstance(source, Mul):
        return is_constant(source.operands[1])
    return (
        isinstance(source, Add) and is_constant(source.operands[1]) and absorbs(source.operands[0])
    )


def _joins(m: Match) -> bool | str:
    """Whether two constants that follow one another can be one."""
    if not m.x.dtype.is_float:
        return "not a float"
    if not single_use(m.y):
        return "the inner result has other uses"
    if m.x.type != m.root.result.type:
        return "a constant changes the shape"
    first, second = m.array(m.a), m.array(m.c)
    size = np.prod(np.broadcast_shapes(first.shape, second.shape))
    if size > max(first.size, second.size):
        return "the joined constant is larger"
    return True


def _joins_product(m: Match) -> bool | str:
    verdict = _joins(m)
    if verdict is not True:
        return verdict
    with np.errstate(all="ignore"):
        product = m.array(m.a) * m.array(m.c)
    vanished = (product == 0) & (m.array(m.a) != 0) & (m.array(m.c) != 0)
    return bool(np.isfinite(product).all() and not vanished.any()) or "the product is out of range"


def _moves_inside(m: Match) -> bool | str:
    if not absorbs(m.x):
        return "nothing inside takes the factor"
    return _joins_product(m)


def _mul_add(b: Builder, m: Match) -> Value:
    shift = constant_like(b, m.array(m.a) * m.array(m.c), m.a)
    return b(Add, b(Mul, m.x, m.c), shift)


def _into(m: Match) -> bool | str:
    if not m.x.dtype.is_float:
        return "not a float"
    if m.x.type != m.root.result.type:
        return "the shape changes"
    return absorbs(m.x) or "nothing inside takes the factor"


def _minus_one(b: Builder, x: Value) -> Value:
    return b(Mul, x, b.constant(-1, x.dtype, "minus_one"))


TABLE = RuleTable(
    "affine",
    (
        rule(
            "scale-weight",
            op(Mul, op(LINEAR, p.x, const("w")).named("y"), const("c")),
            _scale_weight,
            when=_scales_weight,
        ),
        rule(
            "mul-mul",
            op(Mul, op(Mul, p.x, const("a")).named("y"), const("c")),
            lambda b, m: b(Mul, m.x, constant_like(b, m.array(m.a) * m.array(m.c), m.a)),
            when=_joins_product,
        ),
        rule(
            "add-add",
            op(Add, op(Add, p.x, const("a")).named("y"), const("c")),
            lambda b, m: b(Add, m.x, constant_like(b, m.array(m.a) + m.array(m.c), m.a)),
            when=_joins,
        ),
        rule(
            "mul-inside-add",
            op(Mul, op(Add, p.x, const("a")).named("y"), const("c")),
            _mul_add,
            when=_moves_inside,
        ),
        rule(
            "div-inside",
            op(Div, p.x, const("c")),
            lambda b, m: b(Mul, m.x, constant_like(b, 1 / m.array(m.c).astype(np.float64), m.c)),
            when=_into,
        ),
        rule("neg-inside", op(Neg, p.x), lambda b, m: _minus_one(b, m.x), when=_into),
        rule(
            "rsub-inside",
            op(Sub, const("c"), p.x),
            lambda b, m: b(Add, _minus_one(b, m.x), m.c),
            when=_into,
        ),
    ),
)


@dataclass(frozen=True)
class Affine(Pass):
    """Joins constant factors and terms, and moves factors into the weights before them."""

    name: ClassVar[str] = "affine"
    requires: ClassVar[tuple[str, ...]] = ("graph",)

    def run(self, module: Module, context: Context) -> bool:
        """Rewrites to a fixpoint; constants have to be on the right (``canonicalize``)."""
        return TABLE.apply(module, context)
