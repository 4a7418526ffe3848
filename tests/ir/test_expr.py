"""Symbolic integers: simplification must not change a value."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pjit.ir.expr import (
    flatten,
    floordiv,
    lower_bound,
    maximum,
    minimum,
    mod,
    parse,
    same,
    substitute,
    sym,
    unflatten,
    upper_bound,
    within,
)

SMALL = st.integers(-7, 12)
N, D = sym("N"), sym("d")


@st.composite
def cases(draw):
    """A polynomial over two loop variables and a dimension, a divisor, and values."""
    extents = draw(st.integers(1, 40)), draw(st.integers(1, 33))
    i, j = sym("i", 0, extents[0]), sym("j", 0, extents[1])
    values = {"i": draw(st.integers(0, extents[0] - 1)), "j": draw(st.integers(0, extents[1] - 1))}
    values["N"] = draw(st.integers(1, 9))
    factors = [draw(st.sampled_from([0, 1, 2, 3, 6, extents[1], 2 * extents[1]])) for _ in "ij"]
    e = i * factors[0] + j * factors[1] + N * draw(st.sampled_from([0, 0, 1, 4])) + draw(SMALL)
    b = draw(st.sampled_from([1, 2, 3, 4, 6, 12, extents[1], extents[0] * extents[1]]))
    return e, b, draw(st.integers(1, 6)), values


@given(cases())
@settings(max_examples=600, deadline=None)
def test_division_keeps_values(case):
    e, b, c, values = case
    n = substitute(e, values)
    assert substitute(floordiv(e, b), values) == n // b
    assert substitute(mod(e, b), values) == n % b
    assert substitute(mod(floordiv(e, b), c), values) == n // b % c
    assert substitute(floordiv(floordiv(e, b), c), values) == n // b // c
    more = floordiv(e, b) + N * 5
    assert substitute(floordiv(more, c), values) == (n // b + values["N"] * 5) // c
    linear = floordiv(e, b * c) * (b * c) + mod(floordiv(e, b), c) * b + mod(e, b)
    assert substitute(linear, values) == n
    for x, y in ((floordiv(e, b), c), (mod(e, b), N)):
        assert substitute(minimum(x, y), values) == min(
            substitute(x, values), substitute(y, values)
        )
        assert substitute(maximum(x, y), values) == max(
            substitute(x, values), substitute(y, values)
        )


@given(cases())
@settings(max_examples=400, deadline=None)
def test_bounds_hold_and_text_parses(case):
    e, b, _, values = case
    for x in (e, floordiv(e, b), mod(e, b), floordiv(e, b) * N):
        n = substitute(x, values)
        low, high = lower_bound(x), upper_bound(x)
        assert low is None or low <= n
        assert high is None or n <= high
        if within(x, 0, b):
            assert 0 <= n < b
        again = parse(str(x))
        assert substitute(again, values) == n


@pytest.mark.parametrize("batch", [N, 2])
def test_a_row_number_becomes_coordinates_and_back(batch):
    height, width, channels = sym("H"), sym("W"), 32
    r = sym("r", 0, batch * height * width)
    n, h, w = floordiv(r, height * width), mod(floordiv(r, width), height), mod(r, width)
    assert ((n * height + h) * width + w) * channels == r * channels


@pytest.mark.parametrize("shape", [(D, 7500, 64), (D, 30, 20, 48), (3, D, 7, 16)])
def test_an_element_of_a_chunk_becomes_coordinates_and_back(shape):
    x = 4096 * sym("i", 0) + sym("j", 0)
    assert flatten(unflatten(x, shape), shape) == x


def test_lanes_below_the_stride_do_not_matter():
    r, c = sym("r", 0, 1600 * D), sym("c", 0, 32)
    assert floordiv(32 * r + c, 51200) == floordiv(r, 1600)
    assert mod(floordiv(32 * r + c, 51200), D) == floordiv(r, 1600)
    assert mod(32 * r + c, 1280) == 32 * mod(r, 40) + c


def test_equality():
    assert same(N + 1, 1 + N) is True
    assert same(N, N + 2) is False
    assert same(N, sym("M")) is None
