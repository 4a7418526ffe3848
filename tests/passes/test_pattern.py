"""Rules as data: matching, capture, order, reasons, locations, and the end of rewriting."""

import pytest
from graphs import graph
from rewriting import check_pass, find, names

from pjit.ir import Block, Builder, IRError, Loc, ops, tensor
from pjit.ir.types import f32
from pjit.passes.context import Context
from pjit.passes.pattern import RuleTable, const, op, p, rule, uniform
from pjit.passes.rewrite import rewrite

X = tensor(f32, 2, 3)


def neg_abs(b, x):
    return b(ops.Neg, b(ops.Abs, x))


def test_first_rule_wins():
    table = RuleTable(
        "t",
        [
            rule("one", op(ops.Neg, p.x), op(ops.Exp, p.x)),
            rule("two", op(ops.Neg, p.x), op(ops.Sin, p.x)),
        ],
    )
    m = graph(neg_abs, [X])
    assert table.apply(m, Context())
    assert names(m) == ["abs", "exp"]


def test_same_variable_twice():
    table = RuleTable("t", [rule("double", op(ops.Add, p.x, p.x), op(ops.Neg, p.x))])
    m = graph(lambda b, x, y: (b(ops.Add, x, y), b(ops.Add, x, x)), [X, X])
    assert table.apply(m, Context())
    assert names(m) == ["add", "neg"]


def test_attributes_match_by_value_and_are_captured():
    table = RuleTable(
        "t",
        [
            rule(
                "pair",
                op(ops.ReduceSum, op(ops.ReduceMax, p.x, axes=p.a, keepdims=True), axes=p.a),
                op(ops.ReduceMin, p.x, axes=p.a, keepdims=False),
            )
        ],
    )

    def build(b, x):
        top = b(ops.ReduceMax, x, axes=(1,), keepdims=True)
        return b(ops.ReduceSum, top, axes=(1,)), b(ops.ReduceSum, top, axes=(0,))

    m = graph(build, [X])
    assert table.apply(m, Context())
    assert names(m) == ["reduce.max", "reduce.min", "reduce.sum"]
    assert find(m, "reduce.min")[0].axes == (1,)


def test_reasons_are_recorded():
    table = RuleTable(
        "t", [rule("never", op(ops.Neg, p.x), p.x, when=lambda m: f"x has rank {m.x.tensor.rank}")]
    )
    context = Context(rule_events=[])
    assert not table.apply(graph(neg_abs, [X]), context)
    ((name, loc, reason),) = context.rule_events
    assert (name, str(loc), reason) == ("never", "test.py:1", "x has rank 2")


def test_locations_are_merged():
    m = graph(neg_abs, [X])
    for at, each in enumerate(m.main.body.ops):
        each.loc = Loc(f"net.py:{at}")
    RuleTable("t", [rule("r", op(ops.Neg, op(ops.Abs, p.x)), op(ops.Exp, p.x))]).apply(m, Context())
    assert str(find(m, "exp")[0].loc) == "net.py:1; net.py:0"


def test_names_are_kept():
    m = graph(neg_abs, [X])
    find(m, "neg")[0].result.name = "y"
    RuleTable("t", [rule("r", op(ops.Neg, p.x), op(ops.Exp, p.x))]).apply(m, Context())
    assert find(m, "exp")[0].result.name == "y"


def test_rules_that_never_end():
    table = RuleTable(
        "ping-pong",
        [
            rule("there", op(ops.Neg, p.x), op(ops.Abs, p.x)),
            rule("back", op(ops.Abs, p.x), op(ops.Neg, p.x)),
        ],
    )
    with pytest.raises(IRError, match="ping-pong does not come to an end"):
        table.apply(graph(neg_abs, [X]), Context())


def test_a_rule_may_not_change_the_type():
    table = RuleTable("t", [rule("r", op(ops.Neg, p.x), op(ops.ReduceSum, p.x, axes=(0,)))])
    with pytest.raises(IRError, match="changed the type of neg") as caught:
        table.apply(graph(neg_abs, [X]), Context())
    assert "f32[2,3]" in str(caught.value)
    assert "f32[3]" in str(caught.value)


def test_two_rules_with_one_name():
    one = rule("r", op(ops.Neg, p.x), p.x)
    with pytest.raises(AssertionError, match="one name"):
        RuleTable("t", [one, one])


def test_regions_are_rewritten_and_see_outer_constants():
    def build(b, x):
        c = b.constant(1, f32)
        regions = []
        for _ in range(2):
            region = Block()
            inner = Builder(region, b.loc, b.module)
            inner(ops.Yield, inner(ops.Mul, x, c))
            regions.append(region)
        cond = b(ops.Lt, b(ops.ReduceSum, x, axes=(0, 1)), c)
        return b.build(ops.If, [cond], {}, regions, [x.type]).result

    table = RuleTable("t", [rule("one", op(ops.Mul, p.x, const("c")), op(ops.Neg, p.x))])
    m = graph(build, [X])

    m2 = graph(build, [X])
    RuleTable("same", [rule("one", op(ops.Mul, p.x, const("c")), p.x)]).apply(m2, Context())
    assert names(m2) == ["reduce.sum", "lt", "if", "yield", "yield"]
    assert table.apply(m, Context())
    assert names(m).count("neg") == 2


def test_uses_are_counted_while_rewriting():
    """What a replacement leaves unused no longer counts as a use for the rules that follow."""
    seen = []

    def visit(operation, b):
        if isinstance(operation, ops.Neg):
            return b(ops.Exp, operation.operands[0].op.operands[0])
        if isinstance(operation, ops.Sin):
            seen.append(len(operation.operands[0].uses))
        return None

    m = graph(lambda b, x: (lambda y: (b(ops.Neg, y), b(ops.Sin, y)))(b(ops.Abs, x)), [X])
    assert rewrite(m, visit, "test")
    assert seen[0] == 1
    assert names(m) == ["abs", "exp", "sin"]


def test_unused_operations_go():
    def build(b, x):
        b(ops.Exp, b(ops.Sin, x))
        return b(ops.Neg, x)

    m = graph(build, [X])
    assert check_pass(m, lambda module, _: rewrite(module, lambda o, b: None, "nothing"))
    assert names(m) == ["neg"]


def test_uniform():
    def build(b, x):
        values = [[1, 1], [1, 2], [0.0, -0.0], [-0.0, -0.0], [float("nan")] * 2, []]
        return [b.constant(v, f32) for v in values]

    m = graph(build, [X])
    found = [uniform(v, m) for v in m.main.results]
    assert found[:4] == [1, None, None, 0]
    assert found[4:] == [None, None]
    assert uniform(m.main.args[0], m) is None
