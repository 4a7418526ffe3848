"""The graph interpreter: sizes, control flow, groups, and its errors."""

from __future__ import annotations

import numpy as np
import pytest

from pjit.ir import IRError, interpret, parse_module

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_symbols_are_bound_by_the_arguments():
    module = parse_module("""\
graph @f(%x: f32[N,M], %y: f32[N + M]) -> (f32[M*N], i64[2]) {
  %z = reshape %x {shape=[M*N]} : f32[M*N]
  %s = sizes {dims=[N,2*M]} : i64[2]
  return %z, %s
}
""")
    z, s = interpret(module, X, np.zeros(5, np.float32))
    np.testing.assert_array_equal(z, X.reshape(6))
    assert s.tolist() == [2, 6]
    with pytest.raises(IRError, match="does not fit the sizes of the others"):
        interpret(module, X, np.zeros(4, np.float32))
    with pytest.raises(IRError, match="an argument has another type"):
        interpret(module, X.astype(np.float64), np.zeros(5, np.float32))
    with pytest.raises(IRError, match="has 2 arguments"):
        interpret(module, X)


def test_symbols_can_be_given():
    module = parse_module(
        "graph @f() -> i64[1] {\n  %s = sizes {dims=[N + 1]} : i64[1]\n  return %s\n}"
    )
    assert interpret(module, symbols={"N": 4})[0].tolist() == [5]
    with pytest.raises(IRError, match="sizes that are not known") as caught:
        interpret(module)
    assert caught.value.where == "<text>:2"


def test_sizes_that_depend_on_data():
    module = parse_module("""\
graph @f(%x: bool[N]) -> (i64[1,nz0], i64[1]) {may_be_zero=["nz0"]} {
  %i = nonzero %x : i64[1,nz0]
  %n = sizes {dims=[nz0]} : i64[1]
  return %i, %n
}
""")
    for data in ([True, False, True], [False, False, False]):
        i, n = interpret(module, np.array(data))
        assert n.tolist() == [sum(data)]
        assert i.shape == (1, sum(data))


def test_if():
    module = parse_module("""\
graph @f(%c: bool[], %x: f32[2,3]) -> f32[2,3] {
  %y = if %c : f32[2,3] {
    %a = neg %x : f32[2,3]
    yield %a
  } {
    yield %x
  }
  return %y
}
""")
    np.testing.assert_array_equal(interpret(module, np.bool_(True), X)[0], -X)
    np.testing.assert_array_equal(interpret(module, np.bool_(False), X)[0], X)


def test_while():
    module = parse_module("""\
graph @f(%n: i64[]) -> (i64[], i64[]) {
  %zero = const @zero = 0 : i64[]
  %one = const @one = 1 : i64[]
  %i, %s = while %zero, %zero : i64[], i64[] { (%i: i64[], %s: i64[]):
    %c = lt %i, %n : bool[]
    yield %c
  } { (%i: i64[], %s: i64[]):
    %j = add %i, %one : i64[]
    %t = add %s, %j : i64[]
    yield %j, %t
  }
  return %i, %s
}
""")
    for n in (0, 1, 5):
        assert [a.item() for a in interpret(module, np.int64(n))] == [n, n * (n + 1) // 2]


def test_scan():
    module = parse_module("""\
graph @f(%s: f32[3], %x: f32[N,3]) -> (f32[3], f32[N,3]) {
  %total, %sums = scan %s, %x {n_carry=1} : f32[3], f32[N,3] { (%c: f32[3], %row: f32[3]):
    %d = add %c, %row : f32[3]
    yield %d, %d
  }
  return %total, %sums
}
""")
    start = np.ones(3, np.float32)
    total, sums = interpret(module, start, X)
    np.testing.assert_array_equal(sums, 1 + np.cumsum(X, 0))
    np.testing.assert_array_equal(total, sums[-1])
    total, sums = interpret(module, start, X[:0])
    assert sums.shape == (0, 3)
    np.testing.assert_array_equal(total, start)


def test_fused():
    module = parse_module("""\
graph @f(%x: f32[2,3]) -> f32[2,3] {level="fused"} {
  %y = fused %x {kind="loop"} : f32[2,3] { (%p: f32[2,3]):
    %two = const @two = 2.0 : f32[]
    %q = mul %p, %two : f32[2,3]
    yield %q
  }
  return %y
}
""")
    np.testing.assert_array_equal(interpret(module, X)[0], 2 * X)


def test_launches_run_their_kernels():
    module = parse_module("""\
program @main(%x: f32[B,3]) -> f32[B,3] {
  %y = launch %x {kernel="twice", sizes=[B]} : f32[B,3]
  return %y
}

kernel @twice(%x: buf f32[N,3], %y: buf f32[N,3]) {symbols=["N"], outputs=1} {
  k.for {hi=N, kind="parallel"} { (%i: index):
    k.for {hi=3, kind="vector"} { (%j: index):
      %a = k.load %x, %i, %j {map=[#0,#1]} : f32
      %b = k.add %a, %a : f32
      k.store %b, %y, %i, %j {map=[#0,#1]}
      k.yield
    }
    k.yield
  }
  return
}
""")
    np.testing.assert_array_equal(interpret(module, X)[0], 2 * X)


def test_a_result_of_another_type_is_refused():
    module = parse_module(
        "graph @f(%x: f32[2,3]) -> f32[N,3] {\n  %y = neg %x : f32[N,3]\n  return %y\n}"
    )
    assert interpret(module, X)[0].shape == (2, 3)  # N becomes known
    with pytest.raises(IRError, match="neg computed another type") as caught:
        interpret(module, X, symbols={"N": 5})
    assert (caught.value.where, str(caught.value.expected)) == ("<text>:2", "f32[5,3]")


def test_a_missing_constant_is_named():
    text = "graph @f() -> f32[20] {\n  %c = const @big : f32[20]\n  return %c\n}"
    with pytest.raises(IRError, match="no constant @big"):
        interpret(parse_module(text))
    big = np.ones(20, np.float32)
    np.testing.assert_array_equal(interpret(parse_module(text, {"big": big}))[0], big)
