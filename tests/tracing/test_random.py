"""Random programs of NumPy calls, in-place writes and views: traced and run, against NumPy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

Step = Callable[[list], Any]

UNARY: list[Callable] = [
    np.tanh,
    np.abs,
    np.negative,
    np.square,
    np.sign,
    np.floor,
    np.cos,
    np.isfinite,
    np.logical_not,
    lambda x: np.sqrt(np.abs(x)),
    lambda x: x.T,
    lambda x: x.ravel().copy(),
    lambda x: x.sum(-1),
    lambda x: x.mean(0, keepdims=True),
    lambda x: np.max(x, axis=-1, keepdims=True),
    lambda x: np.argmin(x, axis=0),
    lambda x: np.cumsum(x, 0),
    lambda x: x[::-1],
    lambda x: x[..., :2],
    lambda x: x[0],
    lambda x: x[[0, -1]],
    lambda x: np.expand_dims(x, 1),
    lambda x: np.flip(x),
    lambda x: np.roll(x, 1),
    lambda x: np.pad(x, 1),
    lambda x: np.tile(x, 2),
    lambda x: x.astype(np.float32),
    lambda x: x > 0,
    lambda x: x * 2,
    lambda x: 1.5 - x,
    lambda x: x // 3,
    lambda x: x % 4,
    lambda x: x**2,
    lambda x: np.clip(x, -2, 2),
    lambda x: np.sort(x, -1),
]
BINARY: list[Callable] = [
    np.add,
    np.subtract,
    np.multiply,
    np.maximum,
    np.less,
    np.equal,
    np.logical_or,
    np.hypot,
    np.matmul,
    np.outer,
    lambda x, y: np.where(x > 0, x, y),
    lambda x, y: x / (np.abs(y) + 1),
    lambda x, y: np.concatenate([x, y]),
    lambda x, y: np.stack([x, y], -1),
    lambda x, y: np.tensordot(x, y, 1),
    lambda x, y: np.take(x, np.abs(y).astype(np.int64) % max(len(x), 1), 0),
]


def _add_in_place(x: Any, y: Any) -> Any:
    x += y
    return x


def _set_row(x: Any, y: Any) -> Any:
    x[0] = y
    return x


def _set_column(x: Any, y: Any) -> Any:
    x[..., ::2] = y
    return x


def _set_masked(x: Any, y: Any) -> Any:
    x[x > 1] = 0
    return x


def _scale_view(x: Any, y: Any) -> Any:
    part = x.T[1:]
    part *= 2
    return part


WRITES: list[Callable] = [_add_in_place, _set_row, _set_column, _set_masked, _scale_view]
STEPS = [
    *(("u", i) for i in range(len(UNARY))),
    *(("b", i) for i in range(len(BINARY))),
    *(("w", i) for i in range(len(WRITES))),
]


def run(values: list, program: list[tuple], feasible: list[int] | None = None) -> list[int]:
    """Runs steps on a list of arrays that grows; without ``feasible`` finds what NumPy can do."""
    done = []
    for at, ((kind, which), i, j) in enumerate(program):
        if feasible is not None and at not in feasible:
            continue
        x, y = values[i % len(values)], values[j % len(values)]
        try:
            if kind == "u":
                made = UNARY[which](x)
            elif kind == "b":
                made = BINARY[which](x, y)
            else:
                made = WRITES[which](x if x.ndim > 1 else np.stack([x, x]), y)
        except (ValueError, TypeError, IndexError):
            if feasible is not None:
                raise
            continue
        if np.size(made) > 5000:
            continue
        done.append(at)
        values.append(
            made if isinstance(made, np.ndarray) or feasible is not None else np.asarray(made)
        )
    return done


def inputs() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [
        rng.uniform(-3, 3, (3, 4)),
        rng.uniform(-3, 3, (4,)).astype(np.float32),
        rng.integers(-5, 6, (3, 4)).astype(np.int32),
        rng.integers(0, 2, (4, 3)).astype(bool),
    ]


def check(jit: Any, program: list[tuple], exact: float) -> None:
    expected = [a.copy() for a in inputs()]
    with np.errstate(all="ignore"):
        feasible = run(expected, program)

    @jit
    def f(arrays: list) -> list:
        values = [a.copy() for a in arrays]
        run(values, program, feasible)
        return values

    # The narrowest float that occurs bounds what its users can agree on.
    bits = min((e.dtype.itemsize * 8 for e in expected if e.dtype.kind == "f"), default=64)
    tolerance = {16: 1e-2, 32: 1e-4}.get(bits, exact)
    for got, e in zip(f(inputs()), expected, strict=True):
        a = np.asarray(got)
        assert (a.dtype, a.shape) == (e.dtype, e.shape)
        scale = np.abs(e[np.isfinite(e)]).max(initial=1.0) if e.dtype.kind == "f" else 0
        np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance * scale)


PROGRAMS = st.lists(
    st.tuples(st.sampled_from(STEPS), st.integers(0, 30), st.integers(0, 30)), max_size=14
)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@given(PROGRAMS)
@settings(max_examples=120, deadline=None, derandomize=True)
def test_interpreted(interpreted_: Any, program: list[tuple]) -> None:
    check(interpreted_, program, 1e-9)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("seed", range(4))
def test_compiled(seed: int, jit: Any) -> None:
    rng = np.random.default_rng(seed)
    program = [
        (STEPS[rng.integers(len(STEPS))], int(rng.integers(30)), int(rng.integers(30)))
        for _ in range(25)
    ]
    check(jit, program, 1e-4)  # what began as f32 has its rounding
