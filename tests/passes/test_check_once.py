"""Indices that a loop uses again are checked in front of it, and only there."""

from __future__ import annotations

import numpy as np
import pytest

import pjit
from pjit.errors import ExecutionError
from pjit.ir.core import Module
from pjit.ir.loops import ToIndex, kernels
from pjit.ir.text import parse_module
from pjit.passes.bounds import bound_of
from pjit.passes.check_once import CheckOnce
from pjit.passes.context import Context
from pjit.passes.fuse import Fuse
from pjit.passes.lower import Lower
from pjit.passes.manager import run_pipeline
from pjit.passes.schedule import Schedule

LOOP = """
graph @main(%x: f32[N], %i: i64[M], %w: f32[M], %go: bool[]) -> f32[N] {{
  {first}
  %g, %r = while %go, %x : bool[], f32[N] {{ (%c: bool[], %v: f32[N]):
    yield %c
  }} {{ (%c2: bool[], %v2: f32[N]):
    %t = gather %v2, %i {{axis=0}} : f32[M]
    %u = add %t, %w : f32[M]
    %j = reshape %i {{shape=[M,1]}} : i64[M,1]
    %s = scatter_nd %v2, %j, %u {{reduction="min"}} : f32[N]
    %f = const @false = false : bool[]
    yield %f, %s
  }}
  return %r
}}
"""


def lowered(first: str) -> Module:
    module = parse_module(LOOP.format(first=first))
    passes = [CheckOnce(), Fuse(), Schedule(), Lower()]
    run_pipeline(module, passes, Context(verify=True))
    return module


def checks(module: Module) -> tuple[int, int]:
    """Indices that are checked, and that are not."""
    found = [op.known for k in kernels(module) for op in k.walk() if isinstance(op, ToIndex)]
    return found.count(False), found.count(True)


def test_what_was_checked_before_a_loop_is_known_in_it() -> None:
    module = lowered("%a = gather %x, %i {axis=0} : f32[M]")
    assert checks(module) == (2, 1), "the scatter reads other indices, of another shape"


def test_a_loop_that_may_not_run_checks_for_itself() -> None:
    assert checks(lowered(""))[1] == 0


@pytest.mark.parametrize(
    "first", ["%a = gather %w, %i {axis=0} : f32[M]", "%a = gather %x, %k {axis=0} : f32[M]"]
)
def test_another_size_or_other_indices_are_no_check(first: str) -> None:
    text = LOOP.replace("%i: i64[M],", "%i: i64[M], %k: i64[M],").format(first=first)
    module = parse_module(text)
    run_pipeline(module, [CheckOnce(), Fuse(), Schedule(), Lower()], Context(verify=True))
    assert checks(module)[1] == 0


def test_bounds() -> None:
    module = parse_module("""
graph @main(%x: f32[7], %i: i64[3]) -> (i64[1,3], i64[3], i64[3], f32[3]) {
  %n = iota {size=7, dtype=i64} : i64[7]
  %g = gather %n, %i {axis=0} : i64[3]
  %r = reshape %g {shape=[1,3]} : i64[1,3]
  %c = const @c = [0,4,2] : i64[3]
  %m = const @m = [0,-1,2] : i64[3]
  %f = gather %x, %i {axis=0} : f32[3]
  return %r, %c, %m, %f
}
""")
    returned = module.main.body.last.operands
    assert [bound_of(v, module.constants) for v in returned] == [7, 5, None, None]


def relaxed(source, target, weight, start):
    distance, changed = start.copy(), True
    while changed:
        new = distance.copy()
        np.minimum.at(new, target, distance[source] + weight)
        changed = (new < distance).any()
        distance = new
    return distance


def test_a_scatter_in_a_loop_computes_its_updates() -> None:
    rng = np.random.default_rng(0)
    source, target = rng.integers(-20, 20, (2, 100))
    start = np.full(20, 1e9)
    start[0] = 0
    arguments = (source, target, rng.uniform(0, 1, 100), start)
    compiled = pjit.compile(relaxed)
    np.testing.assert_array_equal(compiled(*arguments), relaxed(*arguments))
    assert "gather+add+scatter_nd" in str(compiled.report())


@pytest.mark.parametrize(("wrong", "at"), [(20, 0), (-21, 1)])
def test_an_index_out_of_range_fails(wrong: int, at: int) -> None:
    rng = np.random.default_rng(0)
    edges = rng.integers(0, 20, (2, 100))
    edges[at, 57] = wrong
    compiled = pjit.compile(relaxed)
    result = compiled(*edges, rng.uniform(0, 1, 100), np.zeros(20))
    with pytest.raises(ExecutionError, match="index is out of range"):
        result.block_until_ready()


TABLE = np.arange(200)[::-1].copy()


def narrowed(x, i):
    return x[np.asarray(TABLE, like=i)[i].astype(np.int8)]


def rounded(x, i):
    return x[(np.asarray(TABLE, like=i)[i] + 2051 - 199).astype(np.float16).astype(np.int64)]


def test_what_a_cast_changes_is_checked() -> None:
    x, i = np.arange(200.0), np.array([0, 50, 150, 199])
    np.testing.assert_array_equal(pjit.compile(narrowed)(x, i), narrowed(x, i))
    x = np.arange(2052.0)
    with pytest.raises(IndexError):
        rounded(x, i)
    with pytest.raises(ExecutionError, match="index is out of range"):
        pjit.compile(rounded)(x, i).block_until_ready()


def indexed_by_constants(x, i):
    return x[np.asarray(TABLE, like=i)[i]]


def test_constants_are_known_to_be_in_range() -> None:
    x, i = np.arange(200.0), np.array([0, 50, -1])
    compiled = pjit.compile(indexed_by_constants)
    np.testing.assert_array_equal(compiled(x, i), indexed_by_constants(x, i))
    with pytest.raises(ExecutionError, match="index is out of range"):
        compiled(x[:199], i).block_until_ready()
