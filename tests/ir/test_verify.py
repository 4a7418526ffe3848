"""The verifier: each invariant, broken once, is reported at its operation."""

from __future__ import annotations

import re

import numpy as np
import pytest

from pjit.ir import (
    Block,
    Builder,
    Function,
    Loc,
    Module,
    VerifyError,
    obligations,
    ops,
    parse_module,
    sym,
    verify,
)
from pjit.ir.types import bool_, f32, i64, tensor


def chain(level: str = "graph") -> tuple[Module, Function]:
    """``x -> neg -> abs -> return``."""
    module = Module()
    f = module.add(Function("main", Block([tensor(f32, 2, 3)], ["x"]), level))
    b = Builder(f.body, Loc("net.py:1"), module)
    b(ops.Return, b(ops.Abs, b(ops.Neg, f.args[0])))
    return module, f


def expect(target: Module | Function, message: str) -> VerifyError:
    with pytest.raises(VerifyError, match=re.escape(message)) as caught:
        verify(target)
    return caught.value


def test_valid():
    module, f = chain()
    verify(module)
    verify(f)


def test_the_error_names_the_operation_and_shows_the_text_around_it():
    module, f = chain()
    f.body.ops[1].results[0].type = tensor(f32, 4)
    error = expect(module, "abs: the results have the inferred types")
    assert error.where == "net.py:1"
    assert (error.expected, error.got) == ("f32[2,3]", "f32[4]")
    assert "> " + "  %1 = abs %0 : f32[4]   // net.py:1" in error.__notes__[0]
    assert len(error.__notes__[0].splitlines()) <= 11


def test_use_before_definition():
    module, f = chain()
    neg, absolute, _ = f.body.ops
    f.body.ops[:2] = [absolute, neg]
    expect(module, "abs: operand 0 is not defined before its use")


def test_a_value_of_a_region_is_not_visible_outside():
    module = Module()
    f = module.add(Function("main", Block([tensor(bool_), tensor(f32, 2)])))
    b = Builder(f.body, Loc("here"), module)
    regions = []
    for _ in range(2):
        inner = Builder(Block(), b.loc, module)
        hidden = inner(ops.Neg, f.args[1])
        inner(ops.Yield, hidden)
        regions.append(inner.block)
    b.build(ops.If, f.args[:1], {}, regions, [tensor(f32, 2)])
    b(ops.Return, hidden)
    expect(module, "return: operand 0 is not defined before its use")


def test_use_lists():
    module, f = chain()
    neg = f.body.ops[0]
    f.args[0].uses.clear()
    expect(module, "neg: operand 0 does not list this use")
    f.args[0].uses[neg, 0] = None
    verify(module)
    Builder(Block(), neg.loc, module)(ops.Exp, neg.result)
    expect(module, "neg: a use list names an operation that does not use the value")


def test_owners_and_parents():
    module, f = chain()
    f.body.ops[0].parent = None
    expect(module, "neg: the operation belongs to another block")
    module, f = chain()
    f.body.ops[0].results[0].index = 1
    expect(module, "neg: result 0 has a wrong owner or index")
    module, f = chain()
    f.args[0].owner = f.body.ops[0]
    expect(module, "@main: argument 0 has a wrong owner or index")
    module, f = chain()
    f.body.owner = None
    expect(module, "@main: the body belongs to another owner")
    module, f = chain()
    module.functions["other"] = module.functions.pop("main")
    expect(module, "lists the function @main as @other")


def test_terminators():
    module, f = chain()
    f.body.last.erase()
    expect(module, "abs: a block ends with a terminator and has no other")
    module, f = chain()
    b = Builder.before_op(f.body.ops[1], module)
    b(ops.Return, f.args[0])
    expect(module, "return: a block ends with a terminator and has no other")
    module, f = chain()
    f.body.last.erase()
    Builder(f.body, Loc("x"), module)(ops.Yield, f.args[0])
    expect(module, "yield: a function ends with `return`")
    expect(Function("empty", Block()), "@empty: a block ends with a terminator")


def test_locations():
    module, f = chain()
    f.body.ops[0].loc = None
    expect(module, "neg: an operation has a location")


def test_attributes():
    module, f = chain()
    f.body.ops[0].attrs["a"] = 1
    expect(module, "neg: neg has no attribute a")
    module = parse_module(
        "graph @f(%x: f32[2,3]) -> f32[3,2] {\n"
        "  %y = transpose %x {perm=[1,0]} : f32[3,2]\n  return %y\n}\n"
    )
    transpose = module.main.body.ops[0]
    transpose.attrs["perm"] = {1: 0}
    assert expect(module, "transpose: the attribute 'perm' has no text form").got == "{1: 0}"
    transpose.attrs["perm"] = 7
    expect(module, "transpose: ")
    del transpose.attrs["perm"]
    assert expect(module, "transpose: an attribute is missing").expected == "perm"


def test_constraints():
    module, f = chain()
    f.body.ops[1].results[0].type = f.body.ops[0].results[0].type = tensor(bool_, 2, 3)
    expect(module, "neg: the results have the inferred types")
    f.args[0].type = tensor(bool_, 2, 3)
    error = expect(module, "neg: operand 'x' of neg has a dtype it accepts")
    assert error.got == tensor(bool_, 2, 3)


def test_constants():
    module, f = chain()
    b = Builder.before_op(f.body.ops[0], module)
    value = b.constant(np.arange(3), i64, "k")
    verify(module)
    verify(f)  # without the module's constants they are not looked up
    module.constants["k"] = np.arange(4)
    assert expect(module, "const: the constant has the type of the array").got == "i64[3]"
    module.constants["k"] = np.arange(3, dtype=np.float32)
    expect(module, "const: the constant has the type of the array")
    del module.constants["k"]
    expect(module, "const: the module has no constant @k")
    assert value.op is not None


def test_types_of_a_level():
    module, _ = chain("nonsense")
    expect(module, "@main: there is no such level")
    module, _ = chain("kernel")
    expect(module, "@main: a value has no type of level kernel")


def test_fused_is_no_operator_of_the_graph_level():
    text = """\
graph @f(%x: f32[2]) -> f32[2] {level="fused"} {
  %y = fused %x {kind="loop"} : f32[2] { (%p: f32[2]):
    %q = neg %p : f32[2]
    yield %q
  }
  return %y
}
"""
    verify(parse_module(text))
    expect(parse_module(text.replace(' {level="fused"}', "")), "fused: no operator of level graph")
    bare = text.replace("  return", "  %z = neg %y : f32[2]\n  return")
    expect(parse_module(bare), "neg: no operator of level fused")
    expect(parse_module(text.replace("neg %p", "neg %x")), "neg: operand 0 is not defined before")
    other = text.replace("(%p: f32[2])", "(%p: f32[3])").replace(
        "neg %p : f32[2]", "neg %p : f32[3]"
    )
    expect(parse_module(other), "fused: the arguments of the region are the operands")
    nonzero = text.replace("%q = neg", "%i = nonzero %p : i64[1,nz1]\n    %q = neg")
    error = expect(parse_module(nonzero), "nonzero: no operator of a `fused` region")
    assert error.where == "<text>:3"


def test_control_flow_is_checked_by_its_operator():
    module = parse_module("""\
graph @f(%c: bool[], %x: f32[2], %z: f32[3]) -> f32[2] {
  %y = if %c : f32[2] {
    yield %x
  } {
    yield %z
  }
  return %y
}
""")
    assert expect(module, "if: (C3) a region yields the result types").where == "<text>:2"


def test_symbols():
    module, f = chain()
    f.args[0].type = tensor(f32, sym("batch size"), 3)
    expect(module, "a symbol of a dimension is an identifier")


KERNEL = """\
kernel @k(%x: buf f32[N,4], %y: buf f32[N,4]) {symbols=["N"], outputs=1} {
  %s = k.scratch {dtype=f32, shape=[4]} : buf f32[4]
  k.for {hi=N, kind="parallel"} { (%i: index):
    k.for {hi=4, kind="vector"} { (%j: index):
      %a = k.load %x, %i, %j {map=[#0,#1]} : f32
      k.store %a, %y, %i, %j {map=[#0,#1]}
      k.yield
    }
    k.yield
  }
  return
}
"""
NESTED = """\
    k.for {hi=2, kind="parallel"} { (%k: index):
      k.yield
    }
"""
KERNELS = [
    ("buf f32[N,4], %y", "buf f32[M,4], %y", "`symbols` lists all sizes", "kernel @k"),
    ("outputs=1", "outputs=3", "`outputs` counts the buffers", "kernel @k"),
    ("outputs=1", "outputs=none", "`outputs` counts the buffers", "kernel @k"),
    ('symbols=["N"], ', "", "`symbols` lists the sizes", "kernel @k"),
    ("shape=[4]} : buf f32[4]", "shape=[N]} : buf f32[N]", "static", "<text>:2"),
    ('kind="parallel"', 'kind="serial"', "exactly one outermost loop", "<text>:3"),
    (
        "  return\n",
        NESTED[2:].replace("\n    ", "\n  ") + "  return\n",
        "exactly one outer",
        "<text>:11",
    ),
    ('kind="vector"', 'kind="parallel"', None, None),
    ("%i: index):\n", "%i: index):\n" + NESTED, "one perfect nest", "<text>:4"),
    (
        'kind="vector"} { (%j: index):\n',
        'kind="vector"} { (%j: index):\n' + NESTED,
        "perfect",
        "<text>:5",
    ),
    ("k.store %a, %y", "k.store %a, %x", "last `outputs` buffers", "<text>:6"),
    ("k.store %a, %y, %i, %j {map=[#0,#1]}", "k.store %a, %s, %j {map=[#0]}", None, None),
    ("%j {map=[#0,#1]} :", "%j {map=[#0,#2]} :", "unknown symbols", "<text>:5"),
    ("%j {map=[#0,#1]} :", "%j {map=[#0,M]} :", "unknown symbols", "<text>:5"),
    ("%i, %j {map=[#0,#1]}\n", "%i, %a {map=[#0,#1]}\n", "has the type index", "<text>:6"),
    ("%j: index", "%j: f32", "takes an index and the carried values", "<text>:4"),
    ("hi=4, ", 'hi=4, combine=["sub"], ', "(C4)", None),
    ("      k.yield", "      k.yield %a", "yields the carried values", "<text>:4"),
    ("      k.yield", "      yield", "no operator of level kernel", "<text>:7"),
    ("  return", "  k.yield", "ends with `return`", "<text>:11"),
]


@pytest.mark.parametrize(("old", "new", "message", "where"), KERNELS)
def test_kernels(old, new, message, where):
    verify(parse_module(KERNEL))
    assert old in KERNEL
    text = KERNEL.replace(old, new)
    if message is None:
        verify(parse_module(text))
    elif message == "(C4)":  # the operator's own inference sees it first
        with pytest.raises(Exception, match=re.escape(message)):
            parse_module(text)
    else:
        assert expect(parse_module(text), message).where == where


def test_obligations():
    module = parse_module("""\
graph @f(%x: f32[N,4], %y: f32[M,K], %b: bool[N]) -> (f32[N,4], i64[1,nz0]) {
  %z = add %x, %y : f32[N,4]
  %i = nonzero %b : i64[1,nz0]
  return %z, %i
}
""")
    found = {frozenset(map(str, pair)) for pair in obligations(module.main.body)}
    assert found == {frozenset(("N", "M")), frozenset(("4", "K"))}
    module = parse_module(
        "graph @f(%x: f32[N,4]) -> f32[N,4] {\n  %y = neg %x : f32[N,4]\n  return %y\n}"
    )
    assert obligations(module.main.body) == []


def test_a_type_that_assumes_an_equality_is_an_obligation():
    module = parse_module(
        "graph @f(%x: f32[N]) -> f32[M] {\n  %y = neg %x : f32[M]\n  return %y\n}"
    )
    verify(module)
    assert [set(map(str, p)) for p in obligations(module.main.body)] == [{"M", "N"}]
