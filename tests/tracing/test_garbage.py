"""Objects that only the garbage collector can free: when it comes must not matter.

A traced array that is alive but that no variable leads to may be an operand on the stack of the
interpreter: its state is like no other. Cycles keep dead arrays alive until the collector comes.
"""

import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pjit.tracing.explore import Explorer
from pjit.tracing.trace import Trace

X = np.arange(6, dtype=np.float32).reshape(2, 3)


class Box:
    def __init__(self, x: Any) -> None:
        self.x, self.me = x, self


def listed(x: Any) -> Any:
    for i in range(3):
        y = x + i
        if 2 in [k for k in range(3) if y[0, k] > 1]:
            y = -y
        if y.sum() > 20:
            return y
        x = x * 2
    return x


def cyclic(x: Any) -> Any:
    for i in range(3):
        Box(x + i)
        if x.sum() > 20:
            x = -x
        x = x * 2
    return x


@pytest.fixture
def no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("function", [listed, cyclic])
def test_collections_between_two_runs(
    function: Any, monkeypatch: pytest.MonkeyPatch, interpreted: Any, no_collection: None
) -> None:
    roll = Explorer._roll

    def collected(self: Explorer, t: Trace) -> None:
        gc.collect()  # before what is asked the first time: later runs see garbage
        roll(self, t)

    monkeypatch.setattr(Explorer, "_roll", collected)
    for x in (X, X * 3, -X):
        np.testing.assert_array_equal(interpreted(function)(x), function(x))
