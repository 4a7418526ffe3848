"""The text of IR: parsing what is printed gives the same IR, and errors point at the place."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pjit.ir import (
    Block,
    Builder,
    Function,
    IRError,
    Loc,
    Module,
    Op,
    ParseError,
    Value,
    ops,
    parse_module,
    print_module,
    sym,
)
from pjit.ir.expr import Expr
from pjit.ir.kernel_builder import ScalarBuilder, kernel_function
from pjit.ir.opdef import operators
from pjit.ir.printer import attribute, element, identical, parse_element
from pjit.ir.types import DTYPES, BufferType, DType, TensorType, f32, f64, i64, tensor

N, H = sym("N"), sym("H")


def same(a: Module, b: Module) -> bool:
    """Whether two modules are equal in all but names that are no identifiers."""
    if list(a.functions) != list(b.functions):
        return False
    numbers: dict[Value, int] = {}

    def values(xs, ys) -> bool:
        if len(xs) != len(ys):
            return False
        for x, y in zip(xs, ys, strict=True):
            numbers[x] = numbers[y] = len(numbers)
            if x.type != y.type:
                return False
        return True

    def blocks(x: Block, y: Block) -> bool:
        return (
            values(x.args, y.args)
            and len(x.ops) == len(y.ops)
            and all(operations(p, q) for p, q in zip(x.ops, y.ops, strict=True))
        )

    def operations(x: Op, y: Op) -> bool:
        return (
            type(x) is type(y)
            and [numbers[v] for v in x.operands] == [numbers[v] for v in y.operands]
            and x.attrs.keys() == y.attrs.keys()
            and all(identical(v, y.attrs[k]) for k, v in x.attrs.items())
            and x.loc == y.loc
            and len(x.regions) == len(y.regions)
            and all(blocks(p, q) for p, q in zip(x.regions, y.regions, strict=True))
            and values(x.results, y.results)
        )

    return all(
        (f.level, f.attrs) == (g.level, g.attrs) and blocks(f.body, g.body)
        for f, g in zip(a.functions.values(), b.functions.values(), strict=True)
    )


def check_round_trip(module: Module) -> str:
    text = print_module(module)
    parsed = parse_module(text, module.constants)
    assert print_module(parsed) == text
    assert same(module, parsed), text
    assert parsed.constants.keys() <= module.constants.keys()
    bare = print_module(module, locations=False)
    assert print_module(parse_module(bare, module.constants), locations=False) == bare
    return text


def new(name: str = "main", **args: TensorType) -> tuple[Module, Function, Builder]:
    module = Module()
    function = module.add(Function(name, Block(args.values(), args)))
    return module, function, Builder(function.body, Loc.python("net.py", 12), module)


def test_graph_text():
    module, f, b = new("net", x=tensor(f32, N, 4))
    y = b(ops.Add, f.args[0], b.constant([0.5, 2.0, 0.0, -0.0], f32, "bias"))
    y.name = "y"
    with b.at(Loc.node("ONNX", "Relu_1", "Relu")):
        z = b(ops.Relu, y)
    b(ops.Return, z, y)
    text = """\
graph @net(%x: f32[N,4]) -> (f32[N,4], f32[N,4]) {
  %0 = const @bias = [0.5, 2.0, 0.0, -0.0] : f32[4]   // net.py:12
  %y = add %x, %0 : f32[N,4]   // net.py:12
  %1 = relu %y : f32[N,4]   // ONNX node 'Relu_1' (Relu)
  return %1, %y   // net.py:12
}
"""
    assert check_round_trip(module) == text


def test_regions_and_several_results():
    module, f, b = new(c=tensor("bool"), x=tensor(f32, N, 7))
    cond, x = f.args
    values, _ = b(ops.Topk, x, k=3, axis=1)
    regions = []
    for cls in (ops.Neg, ops.Abs):
        inner = Builder(Block(), b.loc, module)
        inner(ops.Yield, inner(cls, values))
        regions.append(inner.block)
    op = b.build(ops.If, (cond,), {}, regions, [values.type])
    b(ops.Return, op.result)
    text = check_round_trip(module)
    assert "%1, %2 = topk %x {k=3, axis=1} : f32[N,3], i64[N,3]" in text.replace("%0, %1", "%1, %2")
    assert "  } {\n" in text


def test_fused_level_and_region_arguments():
    module, f, b = new(x=tensor(f32, (H + 1) // 2, 3))
    f.level = "fused"
    body = Block([f.args[0].type], ["p"])
    inner = Builder(body, b.loc, module)
    inner(ops.Yield, inner(ops.Exp, body.args[0]))
    op = b.build(
        ops.Fused, f.args, {"kind": "loop", "schedule": (("lanes", 16),)}, [body], [f.args[0].type]
    )
    b(ops.Return, op.result)
    text = check_round_trip(module)
    assert '{level="fused"}' in text
    head = f'%0 = fused %x {{kind="loop", schedule=[["lanes",16]]}} : {op.type} {{ (%p: {op.type}):'
    assert head in text


def test_names_that_are_not_unique_or_not_identifiers_become_numbers():
    module, f, b = new(x=tensor(f32, 2))
    x = f.args[0]
    for name in ("x", "a b", "7", "t", "t"):
        x = b(ops.Neg, x)
        x.name = name
    b(ops.Return, x)
    text = check_round_trip(module)
    assert [line.split()[0] for line in text.splitlines()[1:6]] == ["%0", "%1", "%2", "%t", "%3"]


def test_dimensions_that_may_be_zero():
    module, f, b = new(x=tensor(f32, 3, 4))
    b(ops.Return, b(ops.Nonzero, f.args[0]))
    text = check_round_trip(module)
    assert "may_be_zero=" in text


def test_large_constants_come_from_the_mapping():
    module, _, b = new()
    big = b.constant(np.arange(17), i64, "layer/1.weight")
    odd = b.constant(np.float32(2), f32, "x")
    module.constants["odd name"] = module.constants.pop(odd.op.attrs["value"])
    odd.op.attrs["value"] = "odd name"
    b(ops.Return, big, odd)
    text = check_round_trip(module)
    assert "const @layer/1.weight : i64[17]" in text
    assert 'const @"odd name" = 2.0 : f32[]' in text
    assert list(parse_module(text).constants) == ["odd name"]


def test_the_location_is_the_line_of_the_text_where_none_is_given():
    text = "graph @f(%x: f32[2]) -> f32[2] {\n\n  %y = neg %x : f32[2]\n  return %y // here\n}\n"
    neg, ret = parse_module(text, name="f.pir").main.body.ops
    assert (neg.loc, ret.loc) == (Loc("f.pir:3"), Loc("here"))


def test_comments_and_floor_division():
    text = """\
// A page of text, with "one quote.
graph @f(%x: f32[N//2, 3]) -> f32[N//2,3] { // not a location
  %y = sizes {dims=[(N + 1)//2,N]} : i64[2]   // http://a.b/c // d
  return %x
}
"""
    module = parse_module(text)
    assert module.main.args[0].type == tensor(f32, N // 2, 3)
    assert module.main.body.ops[0].loc.text == "http://a.b/c // d"
    check_round_trip(module)


def test_kernel():
    x, y = BufferType(f32, (N, 64)), BufferType(f32, (N, 64))
    f = kernel_function("scale", [("x", x), ("y", y)], 1)
    b = ScalarBuilder(f.body, Loc("scale.py:1"))
    scratch = b.scratch(f64, (8,))

    def column(i, j):
        v = b.load(f.args[0], [i, j - 1], [(j - 1, 64)], 0.5)
        b.store(b.select(b.lt(v, b.zero(v)), v, b.one(v)), f.args[1], [i, j])

    def row(i):
        init = b.const(math.inf, f64)
        kwargs = {"kind": "vector", "init": [init], "combine": ["min"]}
        b.loop(0, 8, lambda j, m: [b.min(m, b.load(scratch, [j]))], **kwargs)
        b.loop(0, 64, lambda j: column(i, j), kind="vector", unroll=4)

    b.loop(0, N, row, kind="parallel")
    b.emit(ops.Return, (), {})
    module = Module({"scale": f})
    text = check_round_trip(module)
    assert (
        'kernel @scale(%x: buf f32[N,64], %y: buf f32[N,64]) {symbols=["N"], outputs=1} {' in text
    )
    assert "{map=[#0,#1 - 1], guards=[[#1 - 1,64]], otherwise=0.5} : f32" in text


def test_contraction_coordinates_keep_their_extents():
    a, p = BufferType(f32, (N, 5)), BufferType(f32, (1, 5, 4))
    f = kernel_function("mm", [("a", a), ("b", p), ("y", BufferType(f32, (N, 3)))], 1)
    b = ScalarBuilder(f.body, Loc("mm"))
    b.loop(
        0,
        (N + 1) // 2,
        lambda i: b.contract(
            *f.args[:2],
            rows=[N],
            taps=[],
            depth=5,
            cols=3,
            tile=(2, 4),
            row0=2 * i,
            col0=0,
            a_index=lambda r, t, k: [r[0], k],
            a_guards=lambda r, t: [],
            b_index=lambda t, k, c: [0, k, c],
            finish=lambda acc, r, c: b.store(acc, f.args[2], [r[0], c]),
        ),
        kind="parallel",
    )
    b.emit(ops.Return, (), {})
    check_round_trip(Module({"mm": f}))


@pytest.mark.parametrize("cls", [c for c in operators() if c.samples], ids=lambda c: c.op_name)
def test_samples_of_all_operators(cls):
    rng = np.random.default_rng(0)
    for s in cls.samples:
        dt = s.dtypes[0] if s.dtypes else f32
        arrays = [a.make(rng, dt) for a in s.args]
        types = {f"x{i}": tensor(a.dtype, *a.shape) for i, a in enumerate(arrays)}
        module, f, b = new(**types)
        attrs = {k: dt if v is DType else v for k, v in s.attrs.items()}
        b(ops.Return, *b.build(cls, f.args, attrs).results)
        check_round_trip(module)


FLOATS = st.floats(allow_nan=True, allow_infinity=True)
WORDS = st.sampled_from(["N", "H", "inf", "nan", "f32", "true", "#0", "T_1"])
DIMS = st.recursive(
    st.integers(1, 9) | WORDS.map(lambda n: sym(n, 0 if n[0] == "#" else 1)),
    lambda d: st.tuples(d, d, st.sampled_from("+*-/%")).map(lambda t: _combined(*t)),
    max_leaves=5,
)
ATOMS = st.none() | st.booleans() | st.integers() | FLOATS | st.text() | DIMS
VALUES = st.recursive(
    ATOMS | st.sampled_from(list(DTYPES.values())), lambda v: st.lists(v).map(tuple), max_leaves=8
)


def _combined(a, b, op):
    if op in "/%":
        return a // abs(b) if isinstance(b, int) and b and op == "/" else a % 7
    return a + b if op == "+" else a - b if op == "-" else a * b


@given(st.lists(VALUES, max_size=4))
@example([-sym("inf"), -sym("nan"), sym("inf"), float("-inf")])
@settings(max_examples=200, deadline=None)
def test_attribute_values(values):
    text = f"graph @f() {{v={attribute(values)}}} {{\n  return\n}}\n"
    parsed = parse_module(text).main.attrs["v"]
    assert identical(parsed, values), text


def test_a_value_without_a_text_form_is_refused():
    with pytest.raises(IRError, match="cannot be a dict"):
        attribute([{}])


@given(st.sampled_from(list(DTYPES.values())), st.binary(min_size=8, max_size=8))
@settings(max_examples=300, deadline=None)
def test_elements_keep_their_bits(dt, data):
    x = np.frombuffer(data[: dt.itemsize], dt.numpy)[0]
    if dt.kind == "b":
        x = np.bool_(data[0] & 1)
    text = element(x, dt)
    assert parse_element(text, dt).tobytes() == x.tobytes(), text


def test_elements_are_short():
    assert element(np.float32(0.1), f32) == "0.1"
    assert element(np.float32("nan"), f32) == "nan"
    assert element(np.array([0xFFC00001], np.uint32).view(np.float32)[0], f32) == "0xffc00001"


LINE = "graph @f(%x: f32[2]) -> f32[2] {\n"
ERRORS = [
    ("loop @f() {\n}\n", 1, 1, "starts no function"),
    ("graph f() {\n}\n", 1, 7, "expected: a name: @name"),
    (LINE + "  %y = neg %z : f32[2]\n}\n", 2, 12, "%z is not defined here"),
    (LINE + "  %y = nag %x : f32[2]\n}\n", 2, 8, "such as neg"),
    (LINE + "  %y = neg %x : f33[2]\n}\n", 2, 17, "not a type"),
    (LINE + "  %y = neg %x : f32[3]\n}\n", 2, 3, "expected: f32[2]"),
    (LINE + "  %y = neg %x\n}\n", 2, 3, "expected: f32[2]"),
    (LINE + "  %x = neg %x : f32[2]\n}\n", 2, 3, "defined twice"),
    (LINE + "  %y = neg %x {a=1} : f32[2]\n}\n", 2, 3, "no attribute a"),
    (LINE + "  %y, %z = neg %x : f32[2]\n}\n", 2, 3, "2 results have 1 types"),
    (LINE + "  %y = add %x : f32[2]\n}\n", 2, 3, "add has 2 operands"),
    (LINE + "  %y = transpose %x {perm=[a b]} : f32[2]\n}\n", 2, 28, "not a value: 'a b'"),
    (LINE + "  %y = transpose %x {perm=7} : f32[2]\n}\n", 2, 3, "transpose"),
    (LINE + "  return %x\n", 3, 1, "ends inside a block"),
    ("graph @f(%x: f32[2]) -> f32[3] {\n  return %x\n}\n", 1, 22, "not those of `return`"),
    (LINE + "  return %x\n}\n" + LINE + "  return %x\n}\n", 4, 1, "defined twice"),
    ("graph @f() {\n  %c = const @c = [1, 2] : i64[3]\n}\n", 2, 3, "2 elements for i64[3]"),
    ("graph @f() {\n  %c = const @c = [1, 300] : u8[2]\n}\n", 2, 23, "out of the range of u8"),
    ("graph @f() {\n  %c = const @c = [1] : i64[N]\n}\n", 2, 24, "static shape"),
    ("graph @f() {a=1, a=2} {\n}\n", 1, 18, "given twice"),
    ('graph @f() {a="x} {\n}\n', 1, 15, "a string"),
    (
        "graph @f() {\n  %c = const @c = 1 : i64[]\n  %d = const @c = 2 : i64[]\n}\n",
        3,
        3,
        "two values",
    ),
]


@pytest.mark.parametrize(("text", "line", "column", "message"), ERRORS)
def test_errors(text, line, column, message):
    with pytest.raises(ParseError) as caught:
        parse_module(text)
    assert message in str(caught.value)
    assert caught.value.where == f"<text>:{line}:{column}"


def test_an_expression_named_like_a_keyword_is_no_keyword():
    assert attribute(sym("nan")) == "(nan)"
    assert isinstance(parse_module("graph @f() {v=(nan)} {\n return\n}").main.attrs["v"], Expr)
