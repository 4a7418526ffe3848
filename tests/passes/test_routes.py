"""How operators carry permutations, against NumPy, for every permutation."""

from itertools import permutations

import numpy as np
import pytest
from graphs import graph
from rewriting import assert_close, random_arrays

from pjit.ir import Builder, interpret, ops, sym, tensor
from pjit.ir.types import f32, i64
from pjit.passes.routes import reshape_perm, route, route_back, to_first, to_last
from pjit.passes.rules_movement import compose, inverse, moves_units_only
from pjit.passes.transposes import permuted

N = sym("N")
X = tensor(f32, 2, 3, 4)
POOL = {"kernel": (2, 3), "strides": (1, 2), "pads": (1, 0, 0, 1), "dilations": (1, 1)}
CASES = {
    "elementwise": ([X, tensor(f32, 3, 1)], lambda b, x, y: b(ops.Sub, x, y)),
    "where": ([X, X], lambda b, x, y: b(ops.Where, b(ops.Lt, x, y), x, y)),
    "concat": ([X, tensor(f32, 2, 5, 4)], lambda b, x, y: b(ops.Concat, x, y, axis=1)),
    "slice": (
        [X],
        lambda b, x: b(ops.Slice, x, starts=(1, 2, 0), sizes=(1, 2, 2), steps=(1, -1, 3)),
    ),
    "pad": ([X], lambda b, x: b(ops.Pad, x, low=(1, 0, 2), high=(0, 3, 1), value=2.0)),
    "broadcast": ([tensor(f32, 2, 1, 4)], lambda b, x: b(ops.Broadcast, x, shape=(2, 3, 4))),
    "broadcast-rank": ([tensor(f32, 3, 1)], lambda b, x: b(ops.Broadcast, x, shape=(2, 3, 4))),
    "resize": (
        [X],
        lambda b, x: b(ops.Resize, x, shape=(2, 6, 10), scales=(1.0, 2.0, 2.5), mode="linear"),
    ),
    "reduce": ([X], lambda b, x: b(ops.ReduceSum, x, axes=(0, 2))),
    "reduce-keep": ([X], lambda b, x: b(ops.ReduceMax, x, axes=(1,), keepdims=True)),
    "argmax": ([X], lambda b, x: b(ops.Argmax, x, axis=1)),
    "cumsum": ([X], lambda b, x: b(ops.Cumsum, x, axis=2)),
    "topk": ([X], lambda b, x: b(ops.Topk, x, k=2, axis=1)),
    "gather": ([X, tensor(i64, 2, 2)], lambda b, x, i: b(ops.Gather, x, i, axis=1)),
    "gather-vector": ([X, tensor(i64, 5)], lambda b, x, i: b(ops.Gather, x, i, axis=1)),
    "gather-elements": (
        [X, tensor(i64, 2, 2, 4)],
        lambda b, x, i: b(ops.GatherElements, x, i, axis=1),
    ),
    "scatter": (
        [X, tensor(i64, 1, 1, 1), tensor(f32, 1, 1, 1)],
        lambda b, x, i, u: b(ops.ScatterElements, x, i, u, axis=1, reduction="add"),
    ),
    "reshape": ([tensor(f32, 4, 3, 4)], lambda b, x: b(ops.Reshape, x, shape=(2, 2, 1, 12))),
    "max-pool": ([tensor(f32, 2, 3, 5, 4)], lambda b, x: b(ops.MaxPool, x, **POOL)),
    "avg-pool-last": (
        [tensor(f32, 2, 5, 4, 3)],
        lambda b, x: b(ops.AvgPool, x, channels_last=True, **POOL),
    ),
}
ALWAYS = set(CASES) - {"reshape", "max-pool", "avg-pool-last"}


def apply_route(b: Builder, op, r):
    """The results of an operation, computed by a route."""
    made = b.build(
        type(op),
        [
            v if q is None else permuted(b, v, q)
            for v, q in zip(op.operands, r.operands, strict=True)
        ],
        r.attrs,
    )
    return [permuted(b, v, inverse(r.result)) for v in made.results]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("backwards", [False, True])
def test_route(case, backwards):
    types, build = CASES[case]
    taken = 0
    rank = len(types[0].shape)
    if backwards:
        probe = graph(build, types)
        rank = probe.main.results[0].tensor.rank
    for q in permutations(range(rank)):

        def both(b, *xs, q=q):
            nonlocal taken
            found = build(b, *xs)
            results = found if isinstance(found, tuple) else (found,)
            op = results[0].op
            r = (route_back if backwards else route)(op, q)
            if r is None:
                return results[0], results[0]
            assert not backwards or r.result == q
            taken += 1
            return (*results, *apply_route(b, op, r))

        m = graph(both, types)
        got = interpret(m, *random_arrays(m))
        for one, other in zip(got[: len(got) // 2], got[len(got) // 2 :], strict=True):
            assert_close(other, one)
    full = len(list(permutations(range(rank))))
    if case in ALWAYS and not (backwards and case == "gather"):
        assert taken == full
    else:
        assert 0 <= taken < full
        assert taken or (backwards and case == "gather")


SHAPES = [
    ((2, 3, 4, 5), (2, 3, 20)),
    ((2, 3, 20), (2, 3, 4, 5)),
    ((1, 3, 4, 5), (1, 3, 20)),
    ((2, 12, 5), (2, 1, 3, 4, 5)),
    ((2, 6, 1, 1), (2, 6)),
    ((6, 4), (4, 6)),
    ((2, 3, 4), (24,)),
    ((1, 1), ()),
    ((2, 3, 4), (6, 2, 2)),
]


@pytest.mark.parametrize(("source", "target"), SHAPES)
def test_reshape_perm(source, target):
    x = np.arange(np.prod(source)).reshape(source)
    y = x.reshape(target)
    for q in permutations(range(len(source))):
        r = reshape_perm(source, target, q)
        if r is not None:
            moved = y.transpose(r)
            np.testing.assert_array_equal(x.transpose(q).reshape(moved.shape), moved)
        elif all(d > 1 for d in (*source, *target)):
            for any_r in permutations(range(len(target))):
                moved = y.transpose(any_r)
                assert (x.transpose(q).reshape(moved.shape) != moved).any(), (q, any_r)


def test_reshape_perm_of_symbols():
    h = sym("H")
    assert reshape_perm((N, 3, h, h), (N, 3, h * h), (0, 2, 3, 1)) == (0, 2, 1)
    assert reshape_perm((N, 3, h * 4), (N, 3, h, 4), (0, 2, 1)) == (0, 2, 3, 1)
    assert reshape_perm((N, 3, h), (N, 3 * h), (0, 2, 1)) is None
    assert reshape_perm((N, 3, h), (h, 3, N), (0, 2, 1)) is None
    assert reshape_perm((0, 3), (3, 0), (1, 0)) is None


def test_permutations():
    x = np.zeros((2, 3, 4))
    for a in permutations(range(3)):
        assert compose(a, inverse(a)) == (0, 1, 2)
        for c in permutations(range(3)):
            assert x.transpose(a).transpose(c).shape == x.transpose(compose(a, c)).shape
    assert compose(to_last(5), to_first(5)) == (0, 1, 2, 3, 4)
    assert to_last(4) == (0, 2, 3, 1)
    assert moves_units_only((0, 2, 1), (4, 1, N))
    assert not moves_units_only((0, 2, 1), (4, 2, N))
