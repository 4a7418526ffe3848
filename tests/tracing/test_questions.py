"""Questions about values that Python asks: numbers, indices, bounds, buffers of NumPy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def if_positive(x: Any) -> Any:
    if x.sum() > 0:
        return x
    return -x


def while_large(x: Any) -> Any:
    while np.max(x) > 1:
        x = x / 2
    return x


def conjunction(x: Any) -> Any:
    return x[0, 0] > 0 and x[0, 1] > 0


def as_int(x: Any) -> Any:
    return np.zeros(int(x[0, 0]))


def as_float(x: Any) -> Any:
    return float(x.mean())


def as_index(x: Any) -> Any:
    return [1, 2, 3][x.astype(int)[0, 0]]


def slice_bound(x: Any) -> Any:
    n = x.astype(int)[0, 1]
    return x[:n]


def for_range(x: Any) -> Any:
    for _ in range(np.argmax(x)):
        x = x + 1
    return x


def item(x: Any) -> Any:
    return x[0, 0].item()


def to_list(x: Any) -> Any:
    return x.tolist()


def to_array(x: Any) -> Any:
    return np.asarray(x)


def array_of(x: Any) -> Any:
    return np.array([x[0], x[1]])


def stored(x: Any) -> Any:
    out = np.zeros(3)
    out[0] = x[0, 0]
    return out


def added(x: Any) -> Any:
    out = np.zeros((2, 3))
    out += x
    return out


def contains(x: Any) -> Any:
    return 3 in x


def filled(x: Any) -> Any:
    return np.full(3, x.max())


def formatted(x: Any) -> Any:
    return f"{x.sum():.2f}"


def helper(v: Any) -> bool:
    return bool(v)


def in_a_helper(x: Any) -> Any:
    return x if helper(x.any()) else -x


def in_branches_of_unlike_types(x: Any) -> Any:
    if x.sum() > 20:
        return x.sum()
    if x.sum() > 10:
        return "many", 3
    if x.sum() > 0:
        return {"x": x.astype(np.float64)}
    return None if x[0, 0] < 0 else 7


FUNCTIONS: list[Callable] = [
    if_positive,
    while_large,
    conjunction,
    as_int,
    as_float,
    as_index,
    slice_bound,
    for_range,
    item,
    to_list,
    to_array,
    array_of,
    stored,
    added,
    contains,
    filled,
    formatted,
    in_a_helper,
    in_branches_of_unlike_types,
]
VALUES = (X, X + 1, -X, X * 3, X % 3, X * 0)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_equals_python(function: Callable, jit: Any, agree: Any) -> None:
    jf = jit(function)
    for x in [*VALUES, *VALUES[::-1]]:
        agree(jf(x), function(x))
