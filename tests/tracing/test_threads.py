"""Calls from several threads, from coroutines, and of compiled functions in compiled functions."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from pjit.tracing.function import compile

X = np.arange(6, dtype=np.float32).reshape(2, 3)
SCALE = 2.0


def table(x: Any) -> Any:
    return x * [1.0, 3.0, 5.0, 7.0, 11.0, 13.0, 17.0, 19.0][int(x[0, 0])]


def counts(x: Any) -> Any:
    seen = []
    while x.sum() > 1:
        x = x / 2
        seen.append(x.sum())
    return seen


def scaled(x: Any) -> Any:
    return x * SCALE if x.sum() > 0 else x - SCALE


@pytest.mark.parametrize("function", [table, counts, scaled], ids=lambda f: f.__name__)
def test_threads_that_call_while_a_function_grows(
    function: Callable, interpreted: Any, agree: Any
) -> None:
    jf = interpreted(function)
    inputs = [X * 0 + np.float32(i) for i in range(8)]
    expected = [function(x) for x in inputs]
    start = threading.Barrier(4)

    def work(k: int) -> None:
        start.wait()
        for i in range(24):
            at = (i * (2 * k + 1) + k) % 8
            agree(jf(inputs[at]), expected[at])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


def test_threads_with_other_signatures(interpreted: Any, agree: Any) -> None:
    jf = interpreted(scaled)
    inputs = [np.ones((k + 2, n + 2), np.float32) for k in range(3) for n in range(3)]
    with ThreadPoolExecutor(3) as pool:
        for got, x in zip(pool.map(jf, inputs * 3), inputs * 3, strict=True):
            agree(got, scaled(x))


def test_one_function_in_another(interpreted: Any, agree: Any) -> None:
    def inner(x: Any) -> Any:
        return x * 2 if x.sum() > 5 else x - SCALE

    compiled = interpreted(inner)
    x0 = X - 1

    def outer(x: Any, f: Callable = inner) -> Any:
        y = f(x)
        while y.sum() < 40:
            y = f(y) + 1
        return y + np.asarray(f(x0))  # on arrays: another trace

    jf = interpreted(lambda x: outer(x, compiled))
    for x in (X, X * 9, -X + 4, X):
        agree(jf(x), outer(x))
        agree(compiled(x), inner(x))


def test_recursion_through_the_compiled_name(interpreted: Any, agree: Any) -> None:
    def halve(x: Any) -> Any:
        return x if x.shape[0] == 1 else again(x[: x.shape[0] // 2]) + 1

    again = halve
    x = np.arange(8.0)
    expected = halve(x)
    again = interpreted(halve)
    agree(again(x), expected)


def test_methods_of_many_objects(agree: Any) -> None:
    class Layer:
        def __init__(self, rate: float) -> None:
            self.rate = rate

        def plain(self, x: Any) -> Any:
            return x * self.rate if x.max() > 1 else x / self.rate

        call = compile(plain)

    layers = [Layer(r) for r in (1.5, 2.5)]
    for layer in (*layers, *layers):
        for x in (X, X / 9):
            agree(layer.call(x), layer.plain(x))
    layers[0].rate = 4.0
    agree(layers[0].call(X), layers[0].plain(X))


def test_in_coroutines(interpreted: Any, agree: Any) -> None:
    jf = interpreted(table)

    async def ask(i: int) -> Any:
        await asyncio.sleep(0)
        return await asyncio.to_thread(jf, X * 0 + np.float32(i)) if i % 2 else jf(X * 0 + i)

    async def all_of() -> Any:
        return await asyncio.gather(*(ask(i) for i in range(6)))

    for i, got in enumerate(asyncio.run(all_of())):
        agree(got, table(X * 0 + np.float32(i)))
