"""Control flow: what the regions mean, and the constraints on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from pjit.ir import ops
from pjit.ir.builder import Builder
from pjit.ir.core import Block, Function, Loc, Module, Op, Value
from pjit.ir.errors import ConstraintError
from pjit.ir.expr import sym
from pjit.ir.interp import interpret
from pjit.ir.types import TensorType, bool_, f32, i64, tensor
from pjit.ir.verify import verify

N = sym("N")


class Net:
    """A function under construction."""

    def __init__(self, *types: TensorType) -> None:
        self.module = Module()
        self.block = Block(types)
        self.args = self.block.args
        self.b = Builder(self.block, Loc("test"), self.module)

    def region(
        self, types: Sequence[TensorType], body: Callable[..., Sequence[Value]], ends: bool = True
    ) -> Block:
        block = Block(types)
        b = Builder(block, Loc("test"), self.module)
        values = body(b, *block.args)
        if ends:
            b(ops.Yield, *values)
        return block

    def run(self, results: Sequence[Value], *arrays: np.ndarray) -> list[np.ndarray]:
        self.b(ops.Return, *results)
        self.module.add(Function("main", self.block))
        verify(self.module)
        return list(interpret(self.module, *arrays))


def branch(net: Net, types: Sequence[TensorType], then: Block, otherwise: Block) -> Op:
    return net.b.build(ops.If, net.args[:1], {}, [then, otherwise], types)


def scalar(value: float) -> np.ndarray:
    return np.array(value, np.float32)


@pytest.mark.parametrize("flag", [True, False])
def test_if_runs_one_region(flag):
    net = Net(tensor(bool_), tensor(f32, N))
    x = net.args[1]
    then = net.region([], lambda b: [b(ops.Neg, x)])
    otherwise = net.region([], lambda b: [b(ops.Exp, x)])
    op = branch(net, [x.type], then, otherwise)
    assert op.branches == (then, otherwise)
    data = np.array([1, 2, 3], np.float32)
    (y,) = net.run(op.results, np.array(flag), data)
    np.testing.assert_allclose(y, -data if flag else np.exp(data), rtol=1e-6)


def make_while(net: Net, **change: Block) -> Op:
    types = [v.type for v in net.args]

    def cond(b: Builder, i: Value, x: Value) -> list[Value]:
        return [b(ops.Lt, i, b.constant(np.array(5, np.int64)))]

    def body(b: Builder, i: Value, x: Value) -> list[Value]:
        return [b(ops.Add, i, b.constant(np.array(1, np.int64))), b(ops.Add, x, x)]

    regions = [
        change.get("cond") or net.region(types, cond),
        change.get("body") or net.region(types, body),
    ]
    return net.b.build(ops.While, net.args, {}, regions)


@pytest.mark.parametrize(("start", "factor"), [(0, 32), (4, 2), (5, 1), (9, 1)])
def test_while_tests_before_each_iteration(start, factor):
    net = Net(tensor(i64), tensor(f32, 2))
    op = make_while(net)
    assert [r.type for r in op.results] == [v.type for v in net.args]
    i, x = net.run(op.results, np.array(start), np.array([1, 3], np.float32))
    assert i == max(start, 5)
    np.testing.assert_array_equal(x, np.array([1, 3], np.float32) * factor)


def make_scan(net: Net, types: Sequence[TensorType], n_carry: int = 1, **change: Block) -> Op:
    arguments = [net.args[0].type, *(TensorType(v.dtype, v.shape[1:]) for v in net.args[1:])]

    def body(b: Builder, total: Value, x: Value, y: Value) -> list[Value]:
        following = b(ops.Add, total, b(ops.Mul, x, y))
        return [following, b(ops.Neg, following)]

    region = change.get("body") or net.region(arguments, body)
    return net.b.build(ops.Scan, net.args, {"n_carry": n_carry}, [region], types)


@pytest.mark.parametrize("steps", [4, 1])
def test_scan_carries_and_stacks(steps):
    net = Net(tensor(f32, 3), tensor(f32, N, 3), tensor(f32, N, 3))
    op = make_scan(net, [tensor(f32, 3), tensor(f32, N, 3)])
    assert op.carried == tuple(net.args[:1])
    assert op.sliced == tuple(net.args[1:])
    rng = np.random.default_rng(0)
    start, x, y = (rng.standard_normal(s).astype(np.float32) for s in [3, (steps, 3), (steps, 3)])
    last, ys = net.run(op.results, start, x, y)
    expected = start + np.cumsum(x * y, 0)
    np.testing.assert_allclose(last, expected[-1], rtol=1e-5)
    np.testing.assert_allclose(ys, -expected, rtol=1e-5)


def test_if_constraints():
    def check(number: str, cond: TensorType, then: Callable, **region) -> None:
        net = Net(cond, tensor(f32, 4))
        x = net.args[1]
        arguments = region.get("arguments", [])
        first = net.region(arguments, lambda b, *a: then(b, x), region.get("ends", True))
        second = net.region([], lambda b: [b(ops.Exp, x)])
        op = branch(net, [x.type], first, second)
        with pytest.raises(ConstraintError, match=number):
            op.check_regions()

    def negate(b: Builder, x: Value) -> list[Value]:
        return [b(ops.Neg, x)]

    check("C1", tensor(bool_, 1), negate)
    check("C2", tensor(bool_), negate, arguments=[tensor(f32)])
    check("C2", tensor(bool_), negate, ends=False)
    check("C3", tensor(bool_), lambda b, x: [x, x])
    check("C3", tensor(bool_), lambda b, x: [b(ops.Reshape, x, shape=(2, 2))])
    net = Net(tensor(bool_))
    op = net.b.build(ops.If, net.args, {}, [net.region([], lambda b: [])], [])
    with pytest.raises(ConstraintError, match="C2"):
        op.check_regions()


def test_while_constraints():
    types = [tensor(i64), tensor(f32, 2)]

    def check(number: str, region: str, arguments: Sequence[TensorType], body: Callable) -> None:
        net = Net(*types)
        op = make_while(net, **{region: net.region(arguments, body)})
        with pytest.raises(ConstraintError, match=number):
            op.check_regions()

    check("C1", "body", types[:1], lambda b, i: [i])
    check("C2", "cond", types, lambda b, i, x: [i])
    check("C3", "body", types, lambda b, i, x: [x, i])


def test_scan_constraints():
    carry, inner = tensor(f32, 3), tensor(f32, N, 3)

    def check(number: str, op: Op) -> None:
        with pytest.raises(ConstraintError, match=number):
            op.check_regions()

    check("C1", make_scan(Net(carry, inner, inner), [carry, inner], n_carry=3))
    check("C2", make_scan(Net(carry, inner, tensor(f32, N + 1, 3)), [carry, inner]))
    net = Net(carry, inner, inner)
    check("C3", make_scan(net, [carry, inner], body=net.region([carry], lambda b, c: [c])))
    net = Net(carry, inner, inner)
    swapped = net.region([carry] * 3, lambda b, c, x, y: [b(ops.Reshape, c, shape=(1, 3)), x])
    check("C4", make_scan(net, [carry, inner], body=swapped))
    check("C5", make_scan(Net(carry, inner, inner), [carry, tensor(f32, N, 4)]))
