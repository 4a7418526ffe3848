"""Dimensions that are followed: an item of a result follows from the same item of the operands."""

from __future__ import annotations

import numpy as np
import pytest

from pjit.ir.builder import Builder
from pjit.ir.core import Block, Loc, Module, Op
from pjit.ir.opdef import Sample, operators
from pjit.ir.text import parse_module
from pjit.ir.types import f32, type_of
from pjit.passes.batch import attributes
from pjit.passes.follow import followed

CASES = [
    pytest.param(cls, s, id=f"{cls.op_name}-{i}")
    for cls in operators()
    if cls.lowering() in ("scalar", "element")
    for i, s in enumerate(cls.samples)
    if s.args and s.args[0].shape
]


def built(cls: type[Op], s: Sample) -> tuple[Op, list[np.ndarray]]:
    dt = (s.dtypes or (f32,))[0]
    rng = np.random.default_rng(0)
    arrays = [a.make(rng, dt) for a in s.args]
    block = Block([type_of(a) for a in arrays])
    return Builder(block, Loc("test"), Module()).build(cls, block.args, s.attrs), arrays


def part(a: np.ndarray, at: int | None, i: int) -> np.ndarray:
    return a if at is None else a[(slice(None),) * at + (slice(i, i + 1),)]


@pytest.mark.parametrize(("cls", "s"), CASES)
def test_what_is_followed_can_be_computed_item_by_item(cls, s):
    op, arrays = built(cls, s)
    whole = cls.ref(*arrays, **op.attrs)
    values = dict(zip(op.operands, arrays, strict=True))
    for d, size in enumerate(op.operands[0].shape):
        found = followed(op, {op.operands[0]: d})
        if found is None:
            continue
        at, places = found
        assert places[op.operands[0]] == d
        for i in range(size):
            items = [part(a, places.get(v), i) for v, a in values.items()]
            one = cls.ref(*items, **attributes(op, at, 1))
            expected = part(whole, at, i)
            assert one.shape == expected.shape
            near = {"rtol": 1e-5, "atol": 1e-5, "equal_nan": True}  # NumPy sums in any order
            np.testing.assert_allclose(one.astype("f8"), expected.astype("f8"), **near)


def test_the_batch_is_followed_where_it_can_be():
    reached = set()
    for case in CASES:
        op, _ = built(*case.values)
        if op.operands[0].shape[0] > 1 and followed(op, {op.operands[0]: 0}):
            reached.add(op.op_name)
    layers = {"nn.conv", "nn.max_pool", "nn.avg_pool", "nn.depthwise", "matmul", "add", "where"}
    moves = {"transpose", "slice", "pad", "concat", "gather", "nn.resize", "reduce.sum", "argmax"}
    assert layers | moves <= reached


def first_op(args: str, line: str) -> Op:
    result = line.split(" : ")[1]
    text = f"graph @main({args}) -> {result} {{\n  %z = {line}\n  return %z\n}}"
    return parse_module(text).main.body.ops[0]


@pytest.mark.parametrize(
    ("line", "at"),
    [
        ("reshape %x {shape=[8,48]} : f32[8,48]", 0),
        ("reshape %x {shape=[8,3,4,4]} : f32[8,3,4,4]", 0),
        ("reshape %x {shape=[96,4]} : f32[96,4]", None),
        ("reshape %x {shape=[4,8,12]} : f32[4,8,12]", None),
        ("transpose %x {perm=[2,0,1]} : f32[4,8,12]", 1),
        ("slice %x {starts=[7,0,0], sizes=[8,12,4], steps=[-1,1,1]} : f32[8,12,4]", None),
        ("slice %x {starts=[0,3,0], sizes=[8,5,4], steps=[1,2,1]} : f32[8,5,4]", 0),
        ("pad %x {low=[1,0,0], high=[0,0,0]} : f32[9,12,4]", None),
        ("concat %x, %x {axis=0} : f32[16,12,4]", None),
        ("gather %x, %i {axis=0} : f32[8,12,4]", None),
        ("gather %x, %i {axis=1} : f32[8,8,4]", 0),
        ("reduce.max %x {axes=[0], keepdims=true} : f32[1,12,4]", None),
    ],
)
def test_movement(line, at):
    op = first_op("%x: f32[8,12,4], %i: i64[8]", line)
    found = followed(op, {op.operands[0]: 0})
    assert (found and found[0]) == at


def test_a_product_has_the_items_of_its_rows():
    op = first_op("%x: f32[8,12,8], %w: f32[8,4]", "matmul %x, %w : f32[8,12,4]")
    x, w = op.operands
    assert followed(op, {x: 0}) == (0, {x: 0, w: None})
    assert followed(op, {w: 0}) is None
    assert followed(op, {x: 0, w: 0}) is None


def test_an_operand_is_needed_by_item_or_as_a_whole():
    op = first_op("%x: f32[4,4], %y: f32[4]", "add %x, %y : f32[4,4]")
    x, y = op.operands
    assert followed(op, {x: 0}) == (0, {x: 0, y: None})
    assert followed(op, {x: 1}) == (1, {x: 1, y: 0})
    assert followed(op, {x: 0, y: 0}) is None  # an item of x needs all of y
