"""Sizes that vary between calls: a function is compiled a few times, whatever the sizes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

RNG = np.random.default_rng(3)
W = RNG.normal(size=(6, 4)).astype(np.float32)


def layer(x: Any) -> Any:
    h = np.maximum(x @ W + 1, 0)
    h = h - h.max(axis=-1, keepdims=True)
    e = np.exp(h)
    return e / e.sum(-1, keepdims=True), h.mean(0), h.T


def shapes(x: Any) -> Any:
    y = x.reshape(x.shape[0], 2, -1)[:, 0] * x.shape[0]
    z = np.concatenate([y, np.zeros((len(x), 1), x.dtype)], axis=1)
    return z, z.shape, x[1:] - x[:-1], x[::-1], x[None, :, 2]


def branches(x: Any) -> Any:
    if len(x) > 10 and x.sum() > 0:
        return x.sum(0) / len(x)
    if x.shape == (5, 6):
        return x[0]
    return -x[-1]


def recurrent(x: Any) -> Any:
    h = np.zeros(x.shape[1], x.dtype)
    for t in range(x.shape[0]):
        h = np.tanh(x[t] + 0.5 * h)
    return h


def backwards(x: Any) -> Any:
    total = np.zeros((), x.dtype)
    for t in range(len(x) - 1, -1, -1):
        total = total * 0.5 + x[t, 0]
    return total


def pairs(x: Any) -> Any:
    scores = x @ x.T
    scores = scores - np.max(scores, axis=1, keepdims=True)
    weights = np.exp(scores) / np.sum(np.exp(scores), axis=1, keepdims=True)
    return np.where(weights > 0.5, weights, 0) @ x


@pytest.mark.parametrize("function", [layer, shapes, branches, recurrent, backwards, pairs])
def test_any_number_of_rows_compiles_three_times_at_most(
    function: Callable, jit: Any, agree: Any
) -> None:
    jf = jit(function)
    programs = []
    make = jf._compile
    jf._compile = lambda module: programs.append(module) or make(module)
    for rows in RNG.permutation(np.arange(1, 65))[:: 3 if jit.__name__ == "Interpreted" else 6]:
        x = RNG.normal(size=(rows, 6)).astype(np.float32)
        agree(jf(x), function(x), f"{rows} rows")
    one = RNG.normal(size=(1, 6)).astype(np.float32)
    agree(jf(one), function(one), "one row")
    assert len(programs) <= 3


def test_two_sizes_vary(jit: Any, agree: Any) -> None:
    def f(x: Any, y: Any) -> Any:
        return x[:, None] * y + x.shape[0], (x.sum() + y).mean()

    jf = jit(f)
    for n, m in ((3, 4), (5, 4), (5, 7), (6, 6), (2, 9), (1, 9), (9, 2), (4, 3)):
        x, y = RNG.normal(size=n), RNG.normal(size=m)
        agree(jf(x, y), f(x, y), f"{n} {m}")


def test_sizes_that_must_agree(jit: Any, agree: Any) -> None:
    def f(x: Any, y: Any) -> Any:
        return x + y

    jf = jit(f)
    for n, m in ((3, 3), (5, 5), (7, 7), (7, 1), (1, 7), (4, 4), (1, 1)):
        x, y = RNG.normal(size=n), RNG.normal(size=m)
        agree(jf(x, y), f(x, y), f"{n} {m}")
    with pytest.raises(Exception, match="shape"):
        jf(np.ones(3), np.ones(4))


def test_what_needs_the_size_compiles_for_each(jit: Any, agree: Any) -> None:
    def f(x: Any) -> Any:
        return x * np.arange(x.shape[0]), [x[i] for i in range(min(3, x.shape[0]))]

    jf = jit(f)
    for n in (3, 5, 2, 7):
        x = RNG.normal(size=n)
        agree(jf(x), f(x), str(n))
