"""Control flow in the passes: what leaves loops, what becomes kernels inside of them."""

from __future__ import annotations

import pytest

from pjit.ir.core import Module, Op
from pjit.ir.text import parse_module
from pjit.ir.verify import verify
from pjit.passes.context import Context
from pjit.passes.fuse import Fuse
from pjit.passes.hoist import Hoist
from pjit.passes.layout import Layout
from pjit.passes.lower import Lower
from pjit.passes.manager import run_pipeline
from pjit.passes.schedule import Schedule

CELL = """
graph @main(%h: f32[1,64], %c: f32[1,64], %x: f32[T,1,256], %w: f32[64,256])
    -> (f32[1,64], f32[1,64], f32[T,1,64]) {
  %hn, %cn, %ys = scan %h, %c, %x {n_carry=2} : f32[1,64], f32[1,64], f32[T,1,64] {
      (%hi: f32[1,64], %ci: f32[1,64], %xi: f32[1,256]):
    %p = matmul %hi, %w : f32[1,256]
    %g = add %p, %xi : f32[1,256]
    %gi = slice %g {starts=[0,0], sizes=[1,64], steps=[1,1]} : f32[1,64]
    %go = slice %g {starts=[0,64], sizes=[1,64], steps=[1,1]} : f32[1,64]
    %gf = slice %g {starts=[0,128], sizes=[1,64], steps=[1,1]} : f32[1,64]
    %gc = slice %g {starts=[0,192], sizes=[1,64], steps=[1,1]} : f32[1,64]
    %i = sigmoid %gi : f32[1,64]
    %o = sigmoid %go : f32[1,64]
    %f = sigmoid %gf : f32[1,64]
    %n = tanh %gc : f32[1,64]
    %keep = mul %f, %ci : f32[1,64]
    %take = mul %i, %n : f32[1,64]
    %cell = add %keep, %take : f32[1,64]
    %t = tanh %cell : f32[1,64]
    %out = mul %o, %t : f32[1,64]
    yield %out, %cell, %out
  }
  return %hn, %cn, %ys
}
"""


def after(text: str, *passes) -> Module:
    module = parse_module(text)
    run_pipeline(module, list(passes), Context(verify=True))
    return module


def inside(module: Module, name: str) -> list[str]:
    """The operators in the regions of the operations of a name."""
    found: list[Op] = [o for o in module.main.walk() if o.op_name == name]
    return [o.op_name for loop in found for r in loop.regions for o in r.ops]


def test_a_recurrent_cell_is_two_kernels_and_the_weight_is_packed_before_the_loop():
    module = after(CELL, Layout(), Hoist(), Fuse(), Schedule(), Lower())
    (loop,) = [o for o in module.main.body.ops if o.op_name == "scan"]
    product, gates, end = loop.body.ops
    assert "matmul_packed" in product.kernel
    assert [r.type for r in gates.results] == [v.type for v in loop.carried]
    assert len(gates.results) == 2
    assert end.operands == (gates.results[0], gates.results[1], gates.results[0])
    before = module.main.body.ops[: module.main.body.ops.index(loop)]
    assert [o.op_name for o in before] == ["launch"]
    assert dict(loop.schedule)["share"] == 0


def test_the_levels_of_nested_control_flow_verify():
    text = """
graph @main(%p: bool[], %x: f32[N,8]) -> f32[N,8] {
  %y = if %p : f32[N,8] {
    %a = scan %x {n_carry=0} : f32[N,8] { (%v: f32[8]):
      %b = exp %v : f32[8]
      yield %b
    }
    yield %a
  } {
    %a = neg %x : f32[N,8]
    yield %a
  }
  return %y
}
"""
    module = after(text, Fuse(), Schedule(), Lower())
    assert inside(module, "scan") == ["launch", "yield"]
    assert inside(module, "if") == ["scan", "yield", "launch", "yield"]


def test_invariant_operations_leave_all_loops_but_no_branch():
    text = """
graph @main(%p: bool[], %x: f32[N,K,8], %w: f32[8], %s: f32[8]) -> f32[8] {
  %r = scan %s, %x {n_carry=1} : f32[8] { (%c: f32[8], %xi: f32[K,8]):
    %d = scan %c, %xi {n_carry=1} : f32[8] { (%e: f32[8], %xj: f32[8]):
      %a = exp %w : f32[8]
      %f = tanh %a : f32[8]
      %g = mul %f, %xj : f32[8]
      %h = if %p : f32[8] {
        %i = sin %w : f32[8]
        yield %i
      } {
        yield %g
      }
      %j = add %h, %e : f32[8]
      yield %j
    }
    yield %d
  }
  return %r
}
"""
    module = after(text, Hoist())
    assert [o.op_name for o in module.main.body.ops] == ["exp", "tanh", "scan", "return"]
    assert inside(module, "scan") == ["scan", "yield", "mul", "if", "add", "yield"]
    assert inside(module, "if") == ["sin", "yield", "yield"]


def test_what_may_fail_or_is_cheap_to_read_through_stays_in_the_loop():
    text = """
graph @main(%t: f32[9,8], %k: i64[4], %x: f32[N,4,8]) -> f32[N,4,8] {
  %y = scan %x {n_carry=0} : f32[N,4,8] { (%v: f32[4,8]):
    %a = gather %t, %k {axis=0} : f32[4,8]
    %b = slice %t {starts=[0,0], sizes=[4,8], steps=[2,1]} : f32[4,8]
    %c = add %a, %b : f32[4,8]
    %d = add %c, %v : f32[4,8]
    yield %d
  }
  return %y
}
"""
    module = parse_module(text)
    assert not Hoist().run(module, Context())
    verify(module)


@pytest.mark.parametrize("used", ["exp", "neg"])
def test_movement_leaves_with_what_needs_it(used):
    text = f"""
graph @main(%t: f32[9,8], %x: f32[N,4,8]) -> f32[N,4,8] {{
  %y = scan %x {{n_carry=0}} : f32[N,4,8] {{ (%v: f32[4,8]):
    %b = slice %t {{starts=[0,0], sizes=[4,8], steps=[2,1]}} : f32[4,8]
    %c = {used} %b : f32[4,8]
    %d = add %c, %v : f32[4,8]
    yield %d
  }}
  return %y
}}
"""
    module = after(text, Hoist())
    assert [o.op_name for o in module.main.body.ops] == ["slice", used, "scan", "return"]


def test_what_runs_on_the_host_keeps_its_operators_at_all_levels():
    text = """
graph @main(%x: f32[N,6]) -> i64[N] {
  %a = scan %x {n_carry=0} : i64[N] { (%v: f32[6]):
    %zero = const @zero = 0.0 : f32[]
    %p = lt %zero, %v : bool[6]
    %i = nonzero %p : i64[1,nz]
    %s = reduce.sum %i {axes=[0,1]} : i64[]
    yield %s
  }
  return %a
}
"""
    module = after(text, Fuse(), Schedule(), Lower())
    assert inside(module, "scan") == ["const", "lt", "nonzero", "reduce.sum", "yield"]


def test_a_view_that_two_products_need_copied_is_copied_once():
    text = """
graph @main(%x: f32[B,16,96], %w: f32[2,96,32], %v: f32[2,96,32])
    -> (f32[16,B,64], f32[16,B,64]) {
  %t = transpose %x {perm=[1,0,2]} : f32[16,B,96]
  %p = matmul_packed %t, %w {cols=64} : f32[16,B,64]
  %q = matmul_packed %t, %v {cols=64} : f32[16,B,64]
  return %p, %q
}
"""
    module = after(text, Fuse(), Schedule(), Lower())
    assert len([o for o in module.main.body.ops if o.op_name == "launch"]) == 3


def test_independent_loops_become_neighbours():
    text = """
graph @main(%x: f32[N,8]) -> f32[N,8] {
  %a = scan %x {n_carry=0} : f32[N,8] { (%v: f32[8]):
    %b = exp %v : f32[8]
    yield %b
  }
  %n = neg %x : f32[N,8]
  %r = reduce.sum %n {axes=[0]} : f32[8]
  %c = scan %r, %n {n_carry=1} : f32[8] { (%s: f32[8], %v: f32[8]):
    %b = mul %v, %s : f32[8]
    yield %b
  }
  %y = add %a, %c : f32[N,8]
  return %y
}
"""
    module = after(text, Fuse(), Schedule())
    names = [o.op_name for o in module.main.body.ops]
    assert names[-4:] == ["scan", "scan", "fused", "return"]
