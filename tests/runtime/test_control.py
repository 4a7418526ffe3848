"""Control flow in native programs: results of the interpreter, alike for any number of threads."""

from __future__ import annotations

import numpy as np
import pytest

from pjit.errors import ExecutionError
from pjit.ir.interp import interpret
from pjit.ir.program import BranchStep, LoopStep, Segment, TeamStep
from pjit.ir.text import parse_module

# What is small runs on one thread, what is large on all: sizes of M in the texts.
SMALL, LARGE = 3, 900

BRANCH = """
graph @main(%c: bool[], %x: f32[M,80]) -> (f32[M,80], f32[80,M], f32[M,80]) {
  %one = const @one = 1.0 : f32[]
  %y = exp %x : f32[M,80]
  %a, %b, %d = if %c : f32[M,80], f32[80,M], f32[M,80] {
    %p = add %x, %one : f32[M,80]
    %q = tanh %p : f32[M,80]
    %r = reduce.sum %q {axes=[1], keepdims=true} : f32[M,1]
    %s = mul %y, %r : f32[M,80]
    %t = reshape %s {shape=[80,M]} : f32[80,M]
    yield %y, %t, %x
  } {
    %t = transpose %y {perm=[1,0]} : f32[80,M]
    yield %x, %t, %y
  }
  %e = neg %a : f32[M,80]
  return %e, %b, %d
}
"""

SCAN = """
graph @main(%h: f32[M,80], %c: f32[M,80], %x: f32[N,M,80], %w: f32[80,80])
    -> (f32[M,80], f32[M,80], f32[N,M,80], f32[N,M,80], f32[N,M]) {
  %h0 = neg %h : f32[M,80]
  %a, %b, %ys, %zs, %rs = scan %h0, %c, %x {n_carry=2}
      : f32[M,80], f32[M,80], f32[N,M,80], f32[N,M,80], f32[N,M] {
      (%hi: f32[M,80], %ci: f32[M,80], %xi: f32[M,80]):
    %wn = tanh %w : f32[80,80]
    %p = matmul %hi, %wn : f32[M,80]
    %q = add %p, %xi : f32[M,80]
    %s = sigmoid %q : f32[M,80]
    %cn = mul %s, %ci : f32[M,80]
    %hn = tanh %cn : f32[M,80]
    %r = reduce.sum %hn {axes=[1]} : f32[M]
    yield %hn, %cn, %hn, %xi, %r
  }
  return %a, %b, %ys, %zs, %rs
}
"""

SWAP = """
graph @main(%a: f32[M,80], %b: f32[M,80], %x: f32[N,80]) -> (f32[M,80], f32[M,80], f32[M,80]) {
  %p, %q, %r = scan %a, %b, %a, %x {n_carry=3} : f32[M,80], f32[M,80], f32[M,80] {
      (%i: f32[M,80], %j: f32[M,80], %k: f32[M,80], %xi: f32[80]):
    %n = add %i, %xi : f32[M,80]
    %m = mul %n, %j : f32[M,80]
    yield %j, %m, %a
  }
  return %p, %q, %r
}
"""

COLLATZ = """
graph @main(%n: i64[], %x: f32[M,80]) -> (i64[], i64[], f32[M,80]) {
  %zero = const @zero = 0 : i64[]
  %one = const @one = 1 : i64[]
  %two = const @two = 2 : i64[]
  %three = const @three = 3 : i64[]
  %last, %steps, %y = while %n, %zero, %x : i64[], i64[], f32[M,80] {
      (%i: i64[], %k: i64[], %v: f32[M,80]):
    %more = lt %one, %i : bool[]
    yield %more
  } { (%i: i64[], %k: i64[], %v: f32[M,80]):
    %rest = mod %i, %two : i64[]
    %odd = eq %rest, %one : bool[]
    %next, %w = if %odd : i64[], f32[M,80] {
      %t = mul %three, %i : i64[]
      %u = add %t, %one : i64[]
      %s = sin %v : f32[M,80]
      %m = reduce.max %s {axes=[0], keepdims=true} : f32[1,80]
      %d = sub %v, %m : f32[M,80]
      yield %u, %d
    } {
      %u = floordiv %i, %two : i64[]
      yield %u, %v
    }
    %kn = add %k, %one : i64[]
    yield %next, %kn, %w
  }
  return %last, %steps, %y
}
"""

NESTED = """
graph @main(%x: f32[N,K,M,80], %s: f32[M,80]) -> (f32[M,80], f32[N,K,M,80]) {
  %a, %ys = scan %s, %x {n_carry=1} : f32[M,80], f32[N,K,M,80] { (%c: f32[M,80], %xi: f32[K,M,80]):
    %e = cos %c : f32[M,80]
    %b, %zs = scan %e, %xi {n_carry=1} : f32[M,80], f32[K,M,80] {
        (%d: f32[M,80], %xj: f32[M,80]):
      %f = add %d, %xj : f32[M,80]
      %g = tanh %f : f32[M,80]
      %h = reduce.mean %g {axes=[0], keepdims=true} : f32[1,80]
      %i = sub %g, %h : f32[M,80]
      yield %i, %g
    }
    %j = mul %b, %c : f32[M,80]
    yield %j, %zs
  }
  return %a, %ys
}
"""

SIBLINGS = """
graph @main(%x: f32[N,M,80], %s: f32[M,80]) -> f32[N,M,80] {
  %t = sin %s : f32[M,80]
  %a, %ys = scan %t, %x {n_carry=1} : f32[M,80], f32[N,M,80] { (%c: f32[M,80], %xi: f32[M,80]):
    %d = add %c, %xi : f32[M,80]
    %e = tanh %d : f32[M,80]
    %m = reduce.max %e {axes=[0], keepdims=true} : f32[1,80]
    %f = sub %e, %m : f32[M,80]
    yield %f, %e
  }
  %back = slice %x {starts=[N - 1,0,0], sizes=[N,M,80], steps=[-1,1,1]} : f32[N,M,80]
  %b, %zs = scan %t, %back {n_carry=1} : f32[M,80], f32[N,M,80] { (%c: f32[M,80], %xi: f32[M,80]):
    %d = mul %c, %xi : f32[M,80]
    %e = cos %d : f32[M,80]
    %m = reduce.max %e {axes=[0], keepdims=true} : f32[1,80]
    %f = sub %e, %m : f32[M,80]
    yield %f, %e
  }
  %y = add %ys, %zs : f32[N,M,80]
  %z = add %y, %a : f32[N,M,80]
  %w = add %z, %b : f32[N,M,80]
  return %w
}
"""

# Nothing is carried, so threads may run iterations each for itself.
APART = """
graph @main(%x: f32[N,900,80], %w: f32[80,80], %c: i64[N]) -> (f32[N,900,80], f32[N,80], f32[80]) {
  %zero = const @zero = 0 : i64[]
  %one = const @one = 1 : i64[]
  %v = tanh %w : f32[80,80]
  %ys, %rs = scan %x, %c {n_carry=0} : f32[N,900,80], f32[N,80] {
      (%xi: f32[900,80], %ci: i64[]):
    %a = matmul %xi, %v : f32[900,80]
    %b = sin %a : f32[900,80]
    %m = reduce.max %b {axes=[0], keepdims=true} : f32[1,80]
    %d = sub %b, %m : f32[900,80]
    %k, %e = while %ci, %d : i64[], f32[900,80] { (%i: i64[], %y: f32[900,80]):
      %more = lt %zero, %i : bool[]
      yield %more
    } { (%i: i64[], %y: f32[900,80]):
      %next = sub %i, %one : i64[]
      %s = reduce.sum %y {axes=[1], keepdims=true} : f32[900,1]
      %z = sub %y, %s : f32[900,80]
      %q = cos %z : f32[900,80]
      yield %next, %q
    }
    %small = lt %ci, %one : bool[]
    %f = if %small : f32[900,80] {
      %p = matmul %e, %v : f32[900,80]
      yield %p
    } {
      yield %d
    }
    %g = matmul %f, %v : f32[900,80]
    %r = reduce.mean %g {axes=[0]} : f32[80]
    %h = sub %g, %r : f32[900,80]
    yield %h, %r
  }
  %last = reduce.sum %rs {axes=[0]} : f32[80]
  %sum = reduce.sum %v {axes=[0]} : f32[80]
  %end = add %last, %sum : f32[80]
  return %ys, %rs, %end
}
"""


def arrays(*shapes):
    rng = np.random.default_rng(0)
    return [rng.uniform(-1, 1, s).astype(np.float32) for s in shapes]


def agree(make, queued, text, *inputs):
    """Compares the results of one thread and of two with those of the interpreter."""
    want = interpret(parse_module(text), *inputs)
    bits = []
    for threads in (1, 2, 3):
        program = queued(make(text, threads=threads))
        assert not program.report().fallbacks
        for _ in range(2):
            got = [np.asarray(a) for a in program(inputs)]
            bits.append([a.tobytes() for a in got])
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)
        assert not any(cursors_of(program)), "pieces that are taken already in the next call"
    assert all(b == bits[0] for b in bits)


def cursors_of(program):
    """The cursors in the contexts of calls that have ended."""
    frames = [f for plan in program._plans.values() for f in plan._idle]
    assert frames
    return [c for f in frames for c in f.words[program.layout.words.cursor(0) :]]


@pytest.mark.parametrize("m", [SMALL, LARGE])
@pytest.mark.parametrize("flag", [True, False])
def test_if(make, queued, flag, m):
    agree(make, queued, BRANCH, np.array(flag), *arrays((m, 80)))


@pytest.mark.parametrize(("n", "m"), [(1, SMALL), (2, SMALL), (5, SMALL), (3, LARGE), (4, LARGE)])
def test_scan_carries_stacks_and_copies(make, queued, n, m):
    agree(make, queued, SCAN, *arrays((m, 80), (m, 80), (n, m, 80), (80, 80)))


@pytest.mark.parametrize("m", [SMALL, LARGE])
@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_carried_values_may_change_places(make, queued, n, m):
    agree(make, queued, SWAP, *arrays((m, 80), (m, 80), (n, 80)))


@pytest.mark.parametrize("m", [SMALL, LARGE])
@pytest.mark.parametrize("start", [1, 2, 3, 7])
def test_while_with_an_if_inside(make, queued, start, m):
    agree(make, queued, COLLATZ, np.array(start), *arrays((m, 80)))


@pytest.mark.parametrize(("n", "k", "m"), [(1, 1, SMALL), (3, 4, SMALL), (2, 3, LARGE)])
def test_scan_in_scan(make, queued, n, k, m):
    agree(make, queued, NESTED, *arrays((n, k, m, 80), (m, 80)))


@pytest.mark.parametrize("m", [SMALL, LARGE])
def test_independent_loops(make, queued, m):
    agree(make, queued, SIBLINGS, *arrays((5, m, 80), (m, 80)))


@pytest.mark.parametrize("n", [1, 2, 3, 7, 40])
def test_iterations_that_do_not_need_each_other(make, queued, n):
    x, w = arrays((n, 900, 80), (80, 80))
    agree(make, queued, APART, x, w / 10, np.arange(n) % 3)


def test_no_iterations_that_do_not_need_each_other(make, queued):
    empty = APART.replace(") {\n", ') {may_be_zero=["N"]} {\n', 1)
    agree(make, queued, empty, *arrays((0, 900, 80), (80, 80)), np.zeros(0, np.int64))


CHOSEN = """
graph @main(%x: f32[9,900,80], %c: bool[9], %w: f32[80,80]) -> f32[K,900,80] {
  %i = nonzero %c : i64[1,K]
  %j = reshape %i {shape=[K]} : i64[K]
  %g = gather %x, %j {axis=0} : f32[K,900,80]
  %ys = scan %g {n_carry=0} : f32[K,900,80] { (%xi: f32[900,80]):
    %a = matmul %xi, %w : f32[900,80]
    %m = reduce.max %a {axes=[0], keepdims=true} : f32[1,80]
    %d = sub %a, %m : f32[900,80]
    yield %d
  }
  return %ys
}
"""


def test_iterations_that_the_data_count(make):
    x, w = arrays((9, 900, 80), (80, 80))
    c = np.arange(9) % 3 > 0
    (got,) = make(CHOSEN)([x, c, w])
    (want,) = interpret(parse_module(CHOSEN), x, c, w)
    np.testing.assert_allclose(np.asarray(got), want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("count", "apart"), [(3, False), (4, True), (6, False), (7, True)])
def test_threads_have_rooms_where_their_shares_are_about_even(make, count, apart):
    x, w = arrays((count, 900, 80), (80, 80))
    memory = []
    for threads in (1, 4):
        program = make(APART.replace("N", str(count)), threads=threads)
        program([x, w, np.zeros(count, np.int64)])
        memory.append(program.memory())
    assert memory[0]["peak"] < memory[0]["unshared"]
    assert memory[1]["peak"] < memory[1]["unshared"]
    assert (memory[1]["peak"] > 3 * memory[0]["peak"]) == apart
    assert (memory[1]["unshared"] > 3 * memory[0]["unshared"]) == apart


@pytest.mark.parametrize("m", [SMALL, LARGE])
@pytest.mark.parametrize("text", [SCAN, SWAP])
def test_no_iteration(make, queued, text, m):
    empty = text.replace(") {\n", ') {may_be_zero=["N"]} {\n', 1)
    shapes = {SCAN: [(m, 80), (m, 80), (0, m, 80), (80, 80)], SWAP: [(m, 80), (m, 80), (0, 80)]}
    for sizes in (empty, empty.replace("M", str(m))):
        agree(make, queued, sizes, *arrays(*shapes[text]))


SHRINK = """
graph @main(%c: bool[], %x: f32[N,40]) -> f32[40] {
  %y = exp %x : f32[N,40]
  %r = if %c : f32[40] {
    %s = slice %y {starts=[8,0], sizes=[N - 8,40], steps=[1,1]} : f32[N - 8,40]
    %a = reduce.sum %s {axes=[0]} : f32[40]
    %b = cumsum %s {axis=0, exclusive=false, reverse=false} : f32[N - 8,40]
    %m = reduce.max %b {axes=[0]} : f32[40]
    %q = add %a, %m : f32[40]
    yield %q
  } {
    %a = reduce.sum %y {axes=[0]} : f32[40]
    yield %a
  }
  return %r
}
"""
SHRINK_WITH_HOST = SHRINK.replace("-> f32[40] {", "-> (f32[40], i64[2,nz]) {", 1).replace(
    "  return %r\n",
    "  %i = nonzero %y : i64[2,nz]\n  return %r, %i\n",
)


@pytest.mark.parametrize(("flag", "n"), [(True, 20), (False, 3)])
def test_a_branch_may_not_fit_the_sizes_when_it_is_not_taken(make, queued, flag, n):
    (x,) = arrays((n, 40))
    agree(make, queued, SHRINK, np.array(flag), x)
    got = make(SHRINK_WITH_HOST)([np.array(flag), x])
    want = interpret(parse_module(SHRINK_WITH_HOST), np.array(flag), x)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(np.asarray(a), b, rtol=2e-5)


UNEQUAL = """
graph @main(%c: bool[], %x: f32[B,40], %y: f32[S,40], %w: f32[N,40]) -> (f32[B,40], f32[N,40]) {
  %v = exp %w : f32[N,40]
  %r = if %c : f32[B,40] {
    %t = add %x, %y : f32[B,40]
    %u = tanh %t : f32[B,40]
    yield %u
  } {
    %a = sin %y : f32[S,40]
    %z = reshape %a {shape=[B,40]} : f32[B,40]
    yield %z
  }
  return %r, %v
}
"""
ON_HOST = """
graph @main(%c: bool[], %x: f32[B,40], %y: f32[S,40]) -> (f32[B,40]) {
  %r = if %c : f32[B,40] {
    %i = nonzero %x : i64[2,K]
    %s = reduce.sum %i {axes=[0,1]} : i64[]
    %t = cast %s {dtype=f32} : f32[]
    %u = add %x, %t : f32[B,40]
    yield %u
  } {
    %v = add %x, %y : f32[B,40]
    yield %v
  }
  return %r
}
"""


@pytest.mark.parametrize("flag", [True, False])
def test_what_a_branch_needs_is_checked_where_it_is_taken(make, queued, flag):
    n = 3000  # enough for several threads to take pieces before the call stops
    good, bad = arrays((2, 40), (2, 40), (n, 40)), arrays((2, 40), (30000, 40), (n, 40))
    want = interpret(parse_module(UNEQUAL), np.array(flag), *good)
    for threads in (1, 2, 3):
        program = queued(make(UNEQUAL, threads=threads))
        for _ in range(3):
            with pytest.raises(ExecutionError, match=r"has to be equal to .* that was taken"):
                np.asarray(program([np.array(flag), *bad])[0])
            for a, b in zip(program([np.array(flag), *good]), want, strict=True):
                np.testing.assert_allclose(np.asarray(a), b, rtol=2e-5, atol=2e-5)


def test_what_a_branch_on_the_host_yields_is_checked(make):
    program = make(ON_HOST)
    good, bad = arrays((2, 40), (2, 40)), arrays((1, 40), (300, 40))  # NumPy adds these too
    np.testing.assert_array_equal(program([np.array(False), *good])[0], good[0] + good[1])
    with pytest.raises(ExecutionError, match="another type"):
        np.asarray(program([np.array(False), *bad])[0])


def steps_of(program):
    (segment,) = program.view.steps
    assert isinstance(segment, Segment)
    return list(segment.walk())


def test_loops_that_do_not_need_each_other_are_one_step(make):
    program = make(SIBLINGS)
    (team,) = [s for s in steps_of(program) if isinstance(s, TeamStep)]
    assert [type(s) for s in team.steps] == [LoopStep, LoopStep]


def test_sizes_decide_at_compile_time_where_they_are_known(make):
    for m, alone in ((SMALL, True), (LARGE, False)):
        steps = steps_of(make(NESTED.replace("M", str(m))))
        assert any(isinstance(s, TeamStep) for s in steps) == alone


def test_what_iterations_make_is_of_one_thread_and_lives_as_long_as_it_is_used(make):
    program = make(APART)
    loops = [s for s in steps_of(program) if isinstance(s, LoopStep)]
    assert [s.room is None for s in loops] == [False, True]  # the inner one carries values
    made = [s for s in program.view.slots if s.room]
    assert len(made) >= 4
    first, last = min(s.first for s in made), max(s.last for s in made)
    assert all((s.first, s.last) != (first, last) for s in made)


def test_no_copies_in_a_recurrent_loop(make):
    text = SCAN.replace(", %xi, %r\n", ", %cn, %r\n")
    (loop,) = [s for s in steps_of(make(text)) if isinstance(s, LoopStep)]
    kinds = [type(s).__name__ for s in loop.body]
    assert kinds.count("CopyStep") == 0
    assert [c.buffers for c in loop.carries] == [None, None]


def test_what_an_if_yields_is_computed_in_its_place(make):
    (branch,) = [s for s in steps_of(make(BRANCH)) if isinstance(s, BranchStep)]
    names = [[type(s).__name__ for s in side] for side in (branch.then, branch.otherwise)]
    assert names[0].count("CopyStep") == 2  # %y and %x are from outside
    assert names[1].count("CopyStep") == 2


def test_a_loop_around_a_host_operation_runs_on_the_host(make):
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
    program = make(text)
    (x,) = arrays((4, 6))
    (got,) = program([x])
    np.testing.assert_array_equal(np.asarray(got), [np.nonzero(r > 0)[0].sum() for r in x])
    (step,) = program.report().fallbacks
    assert step.kernel == "scan"
    assert "nonzero" in step.reason


def test_an_index_out_of_range_in_a_loop_fails_the_call(make):
    text = """
graph @main(%x: f32[9], %i: i64[N]) -> f32[N] {
  %y = scan %i {n_carry=0} : f32[N] { (%k: i64[]):
    %v = gather %x, %k {axis=0} : f32[]
    yield %v
  }
  return %y
}
"""
    program = make(text, exec_mode="sync")
    (x,) = arrays((9,))
    (y,) = program([x, np.array([3, -1])])
    np.testing.assert_array_equal(np.asarray(y), x[[3, -1]])
    with pytest.raises(Exception, match="out of range"):
        program([x, np.array([3, 9])])
