"""Each rule of the tables is instantiated: it fires, keeps the results, gives what it should."""

import numpy as np
import pytest
from graphs import graph
from rewriting import check_pass, names

from pjit.ir import Builder, Module, Value, ops, tensor
from pjit.ir.core import Block
from pjit.ir.types import bool_, f16, f32, f64, i8, i32, i64, u8
from pjit.passes import affine, canonicalize
from pjit.passes.context import Context
from pjit.passes.rules_arithmetic import lossless

X = tensor(f32, 2, 3, 4)
IMAGE = tensor(f32, 2, 3, 6, 5)
rng = np.random.default_rng(1)


def array(*shape: int) -> np.ndarray:
    return rng.uniform(0.5, 2, shape).astype(np.float32)


def with_constant(cls, value, left: bool = False, dtype=np.float32):
    def build(b: Builder, x: Value):
        c = b.constant(value, dtype)
        return b(cls, c, x) if left else b(cls, x, c)

    return build


def twice(cls, **attrs):
    return lambda b, x: b(cls, b(cls, x, **attrs), **attrs)


def padded(b: Builder, x: Value, at: int, value: float = 0.0) -> Value:
    edge = tuple(int(i == at) for i in range(len(x.shape)))
    return b(ops.Pad, x, low=edge, high=edge, value=value)


def sliced(b: Builder, x: Value, axis: int, start: int, size: int, step: int = 1) -> Value:
    starts, sizes, steps = [0] * len(x.shape), list(x.shape), [1] * len(x.shape)
    starts[axis], sizes[axis], steps[axis] = start, size, step
    return b(ops.Slice, x, starts=starts, sizes=sizes, steps=steps)


def conv(b: Builder, x: Value, out: int = 4, k: int = 3, pads: int = 1, groups: int = 1) -> Value:
    n = len(x.shape) - 2
    w = b.constant(array(out, x.shape[1] // groups, *[k] * n), name="w")
    windows = {"strides": (1,) * n, "pads": (pads,) * 2 * n, "dilations": (1,) * n}
    return b(ops.Conv, x, w, groups=groups, **windows)


def conditional(b: Builder, x: Value) -> Value:
    regions = []
    for cls in (ops.Neg, ops.Abs):
        region = Block()
        inner = Builder(region, b.loc, b.module)
        inner(ops.Yield, inner(ops.Exp, inner(cls, x)))
        region.owner = None
        regions.append(region)
    cond = b.constant(False)
    return b.build(ops.If, [cond], {}, regions, [x.type]).result


def gelu(order: str, scale: float = 2**0.5, dtype=f32):
    """``x * half * (1 + erf(x / scale))``, the factors in one of the orders, x being a sum."""

    def build(b: Builder, x: Value):
        x = b(ops.Add, x, b.constant(1.5, dtype))
        half, s = b.constant(0.5, dtype), b.constant(scale, dtype)
        inner = b(ops.Erf, b(ops.Div if scale > 1 else ops.Mul, x, s))
        both = b(ops.Add, inner, b.constant(1, dtype))
        if order == "(xh)e":
            return b(ops.Mul, b(ops.Mul, x, half), both)
        if order == "(xe)h":
            return b(ops.Mul, b(ops.Mul, x, both), half)
        return b(ops.Mul, x, b(ops.Mul, both, half))

    return build


# rule -> [(argument types, graph, operators afterwards)]
CANONICALIZE = {
    "reshape-same": [([X], lambda b, x: b(ops.Reshape, x, shape=(2, 3, 4)), [])],
    "reshape-reshape": [
        (
            [X],
            lambda b, x: b(ops.Reshape, b(ops.Reshape, x, shape=(6, 4)), shape=(4, 6)),
            ["reshape"],
        )
    ],
    "transpose-same": [([X], lambda b, x: b(ops.Transpose, x, perm=(0, 1, 2)), [])],
    "transpose-transpose": [
        ([X], twice(ops.Transpose, perm=(1, 2, 0)), ["transpose"]),
        ([X], twice(ops.Transpose, perm=(0, 2, 1)), []),
    ],
    "transpose-units": [
        (
            [tensor(f32, 1, 3, 1, 4)],
            lambda b, x: b(ops.Transpose, x, perm=(1, 0, 3, 2)),
            ["reshape"],
        )
    ],
    "slice-same": [([X], lambda b, x: sliced(b, x, 1, 0, 3), [])],
    "slice-slice": [
        ([X], lambda b, x: sliced(b, sliced(b, x, 2, 3, 4, -1), 2, 1, 2, 2), ["slice"]),
    ],
    "slice-concat": [
        ([X, X], lambda b, x, y: sliced(b, b(ops.Concat, x, y, axis=1), 1, 4, 2), ["slice"]),
        (
            [X, X],
            lambda b, x, y: sliced(b, b(ops.Concat, x, y, axis=1), 1, 5, 2, -2),
            ["slice"],
        ),
    ],
    "pad-nothing": [([X], lambda b, x: b(ops.Pad, x, low=(0,) * 3, high=(0,) * 3), [])],
    "pad-pad": [([X], lambda b, x: padded(b, padded(b, x, 1, 2.0), 2, 2.0), ["pad"])],
    "conv-pad": [([IMAGE], lambda b, x: conv(b, padded(b, x, 3)), ["nn.conv"])],
    "broadcast-same": [([X], lambda b, x: b(ops.Broadcast, x, shape=X.shape), [])],
    "broadcast-broadcast": [
        (
            [tensor(f32, 4)],
            lambda b, x: b(ops.Broadcast, b(ops.Broadcast, x, shape=(3, 4)), shape=(2, 3, 4)),
            ["broadcast"],
        )
    ],
    "broadcast-units": [
        ([tensor(f32, 4)], lambda b, x: b(ops.Broadcast, x, shape=(1, 1, 4)), ["reshape"])
    ],
    "broadcast-elementwise": [
        (
            [X, tensor(f32, 3, 1)],
            lambda b, x, y: b(ops.Sub, b(ops.Broadcast, y, shape=X.shape), x),
            ["sub"],
        ),
        (
            [tensor(bool_, 1), X, tensor(f32)],
            lambda b, c, x, y: b(
                ops.Where, c, b(ops.Broadcast, x, shape=X.shape), b(ops.Broadcast, y, shape=X.shape)
            ),
            ["where"],
        ),
    ],
    "concat-one": [([X], lambda b, x: b(ops.Concat, x, axis=1), [])],
    "concat-empty": [
        (
            [X, tensor(f32, 2, 0, 4)],
            lambda b, x, y: b(ops.Concat, y, x, b(ops.Neg, x), axis=1),
            ["neg", "concat"],
        )
    ],
    "concat-slices": [
        (
            [X],
            lambda b, x: b(ops.Concat, sliced(b, x, 2, 0, 3), sliced(b, x, 2, 3, 1), axis=2),
            [],
        )
    ],
    "concat-concat": [
        (
            [X, X],
            lambda b, x, y: b(ops.Concat, x, b(ops.Concat, y, x, axis=0), axis=0),
            ["concat"],
        )
    ],
    "gather-slice": [
        (
            [X],
            lambda b, x: b(ops.Gather, x, b.constant(-1, np.int64), axis=1),
            ["slice", "reshape"],
        ),
        ([X], lambda b, x: b(ops.Gather, x, b.constant([3, 1], np.int32), axis=2), ["slice"]),
        ([X], lambda b, x: b(ops.Gather, x, b.constant([[2]], np.int64), axis=1), None),
    ],
    "reduce-units": [
        (
            [tensor(f32, 2, 1, 4)],
            lambda b, x: b(ops.ReduceMax, x, axes=(1,), keepdims=False),
            ["reshape"],
        )
    ],
    "if-constant": [([X], conditional, ["abs", "exp"])],
    "constant-right": [
        ([X], with_constant(ops.Mul, 3, left=True), ["mul"]),
        ([X], with_constant(ops.Eq, 1, left=True), ["eq"]),
    ],
    "mul-one": [
        ([X], with_constant(ops.Mul, np.ones((3, 1))), []),
        ([tensor(i32, 3)], with_constant(ops.Mul, 1, dtype=np.int32), []),
    ],
    "div-one": [([X], with_constant(ops.Div, 1), [])],
    "pow-one": [([X], with_constant(ops.Pow, 1), [])],
    "add-zero": [
        ([X], with_constant(ops.Add, -0.0), []),
        ([tensor(u8, 3)], with_constant(ops.Add, 0, dtype=np.uint8), []),
    ],
    "sub-zero": [([X], with_constant(ops.Sub, 0.0), [])],
    "sub-constant": [([X], with_constant(ops.Sub, 1.5), ["add"])],
    "gelu": [
        ([X], gelu("(xh)e"), ["add", "gelu"]),
        ([X], gelu("(xe)h"), ["add", "gelu"]),
        ([X], gelu("x(eh)", 0.5**0.5), ["add", "gelu"]),
        ([tensor(f64, 3)], gelu("(xh)e", dtype=f64), ["add", "gelu"]),
    ],
    "pow-two": [([X], with_constant(ops.Pow, 2), ["mul"])],
    "pow-half": [
        ([X], lambda b, x: b(ops.Pow, b(ops.Exp, x), b.constant(0.5, f32)), ["exp", "sqrt"])
    ],
    "pow-three": [([X], with_constant(ops.Pow, 3), ["mul", "mul"])],
    "pow-minus-one": [([X], with_constant(ops.Pow, -1), ["reciprocal"])],
    "div-power-of-two": [([X], with_constant(ops.Div, [1, -8, 0.25, 2]), ["mul"])],
    "neg-neg": [([X], twice(ops.Neg), [])],
    "not-not": [([tensor(bool_, 4)], twice(ops.Not), [])],
    "relu-relu": [([X], twice(ops.Relu), ["relu"])],
    "max-zero": [([X], with_constant(ops.Max, 0), ["relu"])],
    "where-constant": [
        ([X, X], lambda b, x, y: b(ops.Where, b.constant([[True]]), x, y), []),
        ([X, X], lambda b, x, y: b(ops.Where, b.constant(False), b(ops.Neg, x), y), []),
    ],
    "cast-same": [([X], lambda b, x: b(ops.Cast, x, dtype=f32), [])],
    "cast-cast": [
        ([X], lambda b, x: b(ops.Cast, b(ops.Cast, x, dtype=f64), dtype=i32), ["cast"]),
        ([X], lambda b, x: b(ops.Cast, b(ops.Cast, x, dtype=f64), dtype=f32), []),
    ],
}

AFFINE = {
    "scale-weight": [
        ([IMAGE], lambda b, x: b(ops.Mul, conv(b, x), b.constant(array(4, 1, 1))), ["nn.conv"]),
        (
            [tensor(f32, 2, 6, 5)],
            lambda b, x: b(ops.Mul, conv(b, x, groups=3, out=9), b.constant(array(1, 9, 1))),
            ["nn.conv"],
        ),
        (
            [X],
            lambda b, x: b(
                ops.Mul, b(ops.Matmul, x, b.constant(array(4, 5))), b.constant(array(5))
            ),
            ["matmul"],
        ),
        (
            [X],
            lambda b, x: b(ops.Mul, b(ops.Matmul, x, b.constant(array(4))), b.constant(array(1))),
            ["matmul"],
        ),
        (
            [IMAGE],
            lambda b, x: b(
                ops.Mul,
                b(
                    ops.ConvTranspose,
                    b(ops.Concat, x, x, axis=1),
                    b.constant(array(6, 2, 3, 3)),
                    strides=(2, 2),
                    pads=(1,) * 4,
                    dilations=(1, 1),
                    groups=3,
                    output_padding=(0, 0),
                ),
                b.constant(array(6, 1, 1)),
            ),
            ["concat", "nn.conv_transpose"],
        ),
    ],
    "mul-mul": [
        (
            [X],
            lambda b, x: b(ops.Mul, b(ops.Mul, x, b.constant(array(4))), b.constant(3, f32)),
            ["mul"],
        )
    ],
    "add-add": [
        (
            [X],
            lambda b, x: b(ops.Add, b(ops.Add, x, b.constant(array(3, 1))), b.constant(3, f32)),
            ["add"],
        )
    ],
    "mul-inside-add": [
        (
            [IMAGE],
            lambda b, x: b(
                ops.Mul, b(ops.Add, conv(b, x), b.constant(array(4, 1, 1))), b.constant(3, f32)
            ),
            ["nn.conv", "add"],
        ),
        (
            [X],
            lambda b, x: b(
                ops.Mul,
                b(ops.Add, b(ops.Mul, x, b.constant(array(4))), b.constant(array(4))),
                b.constant(array(4)),
            ),
            ["mul", "add"],
        ),
    ],
    "div-inside": [
        ([IMAGE], lambda b, x: b(ops.Div, conv(b, x), b.constant(array(4, 1, 1))), ["nn.conv"])
    ],
    "neg-inside": [([IMAGE], lambda b, x: b(ops.Neg, conv(b, x)), ["nn.conv"])],
    "rsub-inside": [
        (
            [IMAGE],
            lambda b, x: b(ops.Sub, b.constant(array(4, 1, 1)), conv(b, x)),
            ["nn.conv", "add"],
        )
    ],
}

TABLES = {"canonicalize": (canonicalize.TABLE, CANONICALIZE), "affine": (affine.TABLE, AFFINE)}
CASES = [
    pytest.param(table, rule, types, build, after, id=f"{rule}-{i}")
    for table, cases in TABLES.values()
    for rule, rows in cases.items()
    for i, (types, build, after) in enumerate(rows)
]


@pytest.mark.parametrize("name", TABLES)
def test_every_rule_has_a_case(name):
    table, cases = TABLES[name]
    assert {r.name for r in table.rules} == set(cases)


def gelu_of_a_half(b: Builder, z: Value):
    """``z * x * (1 + erf(x / sqrt(2)))`` with an x of 0.5: x is no half beside itself."""
    x = b.constant(np.full(3, 0.5), f32)
    inner = b(ops.Erf, b(ops.Div, x, b.constant(2**0.5, f32)))
    return b(ops.Mul, b(ops.Mul, z, x), b(ops.Add, inner, b.constant(1, f32)))


@pytest.mark.parametrize(
    ("build", "dtype"),
    [(gelu("(xh)e", 1.4), f32), (gelu("(xe)h", dtype=f16), f16), (gelu_of_a_half, f32)],
)
def test_what_is_not_quite_gelu_stays(build, dtype):
    module = graph(build, [tensor(dtype, 3)])
    canonicalize.TABLE.apply(module, Context())
    assert "gelu" not in names(module)


@pytest.mark.parametrize(("table", "rule", "types", "build", "after"), CASES)
def test_rule(table, rule, types, build, after):
    module = graph(build, types)
    context = Context(rule_events=[])
    check_pass(module, table.apply, context)
    fired = {e.rule for e in context.rule_events if not e.reason}
    assert rule in fired
    if after is not None:
        assert names(module) == after
    assert not table.apply(module, context), "a second run changes something"


# What must not be rewritten, and the reason that is recorded.
REFUSED = [
    ("add-zero", [X], with_constant(ops.Add, 0.0), "zero of the other sign"),
    ("sub-zero", [X], with_constant(ops.Sub, -0.0), "zero of the other sign"),
    ("mul-one", [tensor(f32, 3, 1)], with_constant(ops.Mul, np.ones(4)), "another type"),
    ("mul-one", [X], with_constant(ops.Mul, [1, 1, 1, 2]), "not 1"),
    ("div-power-of-two", [X], with_constant(ops.Div, [2, 2, 2, 3]), "not a power of two"),
    ("div-power-of-two", [X], with_constant(ops.Div, 0), "not a power of two"),
    (
        "div-power-of-two",
        [tensor(f16, 3)],
        with_constant(ops.Div, 2.0**-16, dtype=np.float16),
        "may not be exact",
    ),
    (
        "div-power-of-two",
        [tensor(i32, 3)],
        with_constant(ops.Div, 2, dtype=np.int32),
        "not a float",
    ),
    (
        "cast-cast",
        [X],
        lambda b, x: b(ops.Cast, b(ops.Cast, x, dtype=f16), dtype=f32),
        "loses values",
    ),
    ("slice-concat", [X], lambda b, x: sliced(b, b(ops.Concat, x, x, axis=1), 1, 2, 2), "several"),
    (
        "concat-slices",
        [X],
        lambda b, x: b(ops.Concat, sliced(b, x, 2, 0, 2), sliced(b, x, 2, 3, 1), axis=2),
        "next to",
    ),
    ("conv-pad", [IMAGE], lambda b, x: conv(b, padded(b, x, 3, 1.0)), "not 0"),
    ("pad-pad", [X], lambda b, x: padded(b, padded(b, x, 1, 2.0), 2, 0.0), "differ"),
    (
        "gather-slice",
        [X],
        lambda b, x: b(ops.Gather, x, b.constant([0, 1, 0]), axis=1),
        "not a range",
    ),
    (
        "broadcast-elementwise",
        [tensor(f32, 4)],
        lambda b, x: b(ops.Neg, b(ops.Broadcast, x, shape=(3, 4))),
        "makes the shape",
    ),
    (
        "scale-weight",
        [IMAGE],
        lambda b, x: b(ops.Mul, conv(b, x), b.constant(array(6, 1))),
        "another dimension",
    ),
    (
        "scale-weight",
        [IMAGE],
        lambda b, x: (lambda y: b(ops.Sub, b(ops.Mul, y, b.constant(2, f32)), b(ops.Exp, y)))(
            conv(b, x)
        ),
        "other uses",
    ),
    (
        "mul-mul",
        [X],
        lambda b, x: b(ops.Mul, b(ops.Mul, x, b.constant(1e-30, f32)), b.constant(1e-30, f32)),
        "out of range",
    ),
    (
        "add-add",
        [X],
        lambda b, x: b(ops.Add, b(ops.Add, x, b.constant(array(4))), b.constant(array(3, 1))),
        "larger",
    ),
]


@pytest.mark.parametrize(
    ("rule", "types", "build", "words"), [pytest.param(*r, id=f"{r[0]}-{r[3]}") for r in REFUSED]
)
def test_refused(rule, types, build, words):
    module = graph(build, types)
    context = Context(rule_events=[])
    table = next(t for t, cases in TABLES.values() if rule in cases)
    check_pass(module, table.apply, context)
    mine = [e.reason for e in context.rule_events if e.rule == rule]
    assert any(words in reason for reason in mine), mine
    assert all(mine), "the rule was applied"


def test_minus_zero_survives():
    """x + 0.0 is not x for x = -0.0, but x - 0.0 is."""
    from pjit.ir import interpret

    module: Module = graph(
        lambda b, x: (b(ops.Add, x, b.constant(0, f32)), b(ops.Sub, x, b.constant(0, f32))),
        [tensor(f32, 1)],
    )
    canonicalize.Canonicalize().run(module, Context())
    x = np.array([-0.0], np.float32)
    plus, minus = interpret(module, x)
    assert not np.signbit(plus[0])
    assert np.signbit(minus[0])


def test_lossless():
    assert lossless(i8, i32)
    assert lossless(u8, i32)
    assert lossless(u8, f16)
    assert lossless(f16, f32)
    assert lossless(bool_, i8)
    assert not lossless(i8, u8)
    assert not lossless(i32, f32)
    assert not lossless(i64, f64)
    assert not lossless(f64, f32)
    assert not lossless(f32, f16)
