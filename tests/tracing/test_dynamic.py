"""Branches and loops on values: compiled functions equal plain Python on every path."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

RNG = np.random.default_rng(7)
X = np.arange(6, dtype=np.float32).reshape(2, 3)


def pytorch_93743(x: Any) -> Any:
    if x.sum() > 0:
        return x.sin() if hasattr(x, "sin") else np.sin(x)
    else:
        return np.cos(x)


def newton(x: Any) -> Any:
    guess = x / 2
    while np.abs(guess * guess - x) > 1e-10 * x:
        guess = (guess + x / guess) / 2
    return guess


def mandelbrot(re: Any, im: Any, limit: int = 40) -> Any:
    zr, zi = np.zeros_like(re), np.zeros_like(im)
    count = np.zeros(re.shape, np.int32)
    for _ in range(limit):
        inside = zr * zr + zi * zi <= 4
        if not inside.any():
            break
        count += inside
        new = zr * zr - zi * zi + re
        zi = np.where(inside, 2 * zr * zi + im, zi)
        zr = np.where(inside, new, zr)
    return count


def escape(c: Any) -> Any:
    z, n = c * 0, 0
    while np.abs(z) <= 2 and n < 50:
        z = z * z + c
        n += 1
    return n


def bellman_ford(source: Any, target: Any, weight: Any, start: Any) -> Any:
    distance = start.copy()
    changed = True
    while changed:
        new = distance.copy()
        np.minimum.at(new, target, distance[source] + weight)
        changed = (new < distance).any()
        distance = new
    return distance


def bellman_ford_rounds(source: Any, target: Any, weight: Any, start: Any) -> Any:
    distance = start.copy()
    for _ in range(len(start) - 1):
        before = distance.copy()
        np.minimum.at(distance, target, before[source] + weight)
        if np.array_equal(before, distance):
            break
    return distance


def beam_search(logits: Any, width: int = 4) -> Any:
    """logits[s, a, b]: of token b after a in step s."""
    scores = logits[0, 0].copy()
    order = np.argsort(-scores)[:width]
    scores, beams = scores[order], order[:, None]
    for s in range(1, logits.shape[0]):
        last = beams[:, -1]
        total = scores[:, None] + logits[s, last]
        flat = np.argsort(-total.ravel())[:width]
        scores = total.ravel()[flat]
        parents, tokens = flat // total.shape[1], flat % total.shape[1]
        beams = np.concatenate([beams[parents], tokens[:, None]], axis=1)
        if scores[0] < -50:
            break
    return scores, beams


def rnn(x: Any, length: Any, w: Any, u: Any) -> Any:
    h = np.zeros(w.shape[1], x.dtype)
    for t in range(int(length)):
        h = np.tanh(x[t] @ w + h @ u)
    return h


def rnn_item(x: Any, length: Any, w: Any, u: Any) -> Any:
    h = np.zeros(w.shape[1], x.dtype)
    t = 0
    while t < length.item():
        h = np.tanh(x[t] @ w + h @ u)
        t += 1
    return h, t


def early_return(x: Any) -> Any:
    for i in range(20):
        x = x * 1.5
        if x.max() > 10:
            return x, i
    return -x, -1


def item_as_index(x: Any, i: Any) -> Any:
    table = [2.0, 3.0, 5.0, 7.0]
    return x[i.item()] * table[i.item()]


def item_as_shape(x: Any, n: Any) -> Any:
    return np.ones((n.item(), 2), x.dtype) * x.sum(), x[: int(n)]


def nested(x: Any) -> Any:
    total = np.zeros((), x.dtype)
    for i in range(12):
        if (x > i).any():
            y = x - i
            while y.max() > 1:
                y = y / 2
                total += y.sum()
        else:
            total -= 1
    return total


def recursive(x: Any) -> Any:
    if x.shape[0] == 1:
        return x[0]
    half = x.shape[0] // 2
    left, right = recursive(x[:half]), recursive(x[half:])
    if left > right:
        return left - right
    return left + right


@dataclasses.dataclass
class State:
    position: Any
    extra: dict
    steps: int = 0


def containers(state: State, options: dict) -> Any:
    position, rate = state.position, options["rate"]["start"]
    n = 0
    while np.abs(position).max() > options["tolerance"]:
        position = position * rate
        n = n + 1
        if n > 3:
            rate = 0.5
    return State(position, {"was": state.position, **state.extra}, n), {"n": [n, (n, "text")]}


class Model:
    def __init__(self) -> None:
        self.scale, self.flip = 2.0, False
        self.w = np.ones(3, np.float32)

    def helper(self, x: Any) -> Any:
        return -x if self.flip else x

    def __call__(self, x: Any) -> Any:
        if x.sum() > 3:
            x = x * self.scale
        return self.helper(x) + self.w


def sign(x: Any) -> int:
    return 1 if x.sum() > 0 else -1


def hidden_operand(x: Any) -> Any:
    return x * (sign(x[0]) + 2 * sign(x[1]))


def any_of_a_generator(x: Any) -> Any:
    if any(row.sum() > 3 for row in x):
        return x + 1
    return max(x[0, 0], x[1, 1]) - x


def over_a_list(x: Any) -> Any:
    for w in [1.0, 1.0, 1.0, 2.0]:
        x = x * w
        if x.sum() > 20:
            x = x - w
    return x


def counts_in_a_list(x: Any) -> Any:
    seen = []
    while x.sum() > 1:
        x = x / 2
        seen.append(x.sum())
    return seen


def boolean_logic(x: Any) -> Any:
    a, b = x[0, 0], x[0, 1]
    if (a > 0 and not b > 2) or x.sum() == 0:
        return a + b
    return a if b else -b


def accumulators(x: Any) -> Any:
    out = np.zeros(8, np.float32)
    lr = 1.0
    for i in range(8):
        out[i] = x[0, 1] * lr + i
        lr *= 0.5
        if out.sum() > 30:
            break
    return out, lr


def mathematics(x: Any) -> Any:
    s = float(x.sum())
    if math.isnan(s):
        return 0.0
    return math.sqrt(abs(s)) + math.floor(s) + s // 3 + int(s) % 4 + round(s)


def swaps(x: Any) -> Any:
    a, b = x[0].copy(), x[1].copy()
    while a.sum() < 100:
        a, b = b + 1, a + b
    return a - b


def views(x: Any) -> Any:
    y = x.copy()
    row = y[1]
    k = 0
    while y.sum() < 60:
        row += 1
        y[0, 0] += k
        k += 1
    return y, row


def finally_and_try(x: Any) -> Any:
    try:
        if x.sum() > 5:
            raise ValueError
        return x
    except ValueError:
        return x * 3
    finally:
        x = None


def divides(n: Any) -> Any:
    n, steps = int(n), 0
    while n != 1:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        steps += 1
    return steps


def beyond_a_dtype(x: Any) -> Any:
    a, n = np.zeros(3, np.uint8), 0
    while x.sum() + n * 50 < 200:
        n += 1
    return a + n * 50, a < n * 1000


def integer_of_a_float(x: Any) -> Any:
    return int(x.sum()), round(x[0, 0].item() / 3)


def edges(seed: int, dtype: Any = np.float64) -> tuple:
    rng = np.random.default_rng(seed)
    n = 12
    start = np.full(n, 1e9, dtype)
    start[0] = 0
    source, target = rng.integers(0, n, (2, 40))
    return source, target, rng.uniform(0, 1, 40).astype(dtype), start


F = np.float32
CASES: dict[Callable, list[tuple]] = {
    pytorch_93743: [(X,), (-X,), (X * 0,)],
    newton: [(np.float64(v),) for v in (2.0, 9.0, 1e6, 1e-3)],
    mandelbrot: [
        tuple(np.meshgrid(np.linspace(a, a + s, 7), np.linspace(-1, 1, 5)))
        for a, s in ((-2.0, 3.0), (3.0, 1.0), (-0.1, 0.1))
    ],
    escape: [(np.float64(v),) for v in (0.1, 0.5, 3.0, -1.5)],
    bellman_ford: [edges(s) for s in range(3)],
    bellman_ford_rounds: [edges(s) for s in range(3)],
    beam_search: [(RNG.normal(size=(5, 6, 6)) * s,) for s in (1.0, 30.0, -30.0)],
    rnn: [
        (RNG.normal(size=(9, 3)).astype(F), np.int64(n), np.ones((3, 4), F), np.eye(4, dtype=F))
        for n in (3, 9, 0, 5)
    ],
    rnn_item: [
        (RNG.normal(size=(9, 3)).astype(F), np.array(n), np.ones((3, 4), F), np.eye(4, dtype=F))
        for n in (3, 9, 0, 5)
    ],
    early_return: [(X,), (X * 0,), (X * 100,)],
    item_as_index: [(np.arange(4.0), np.array(i)) for i in (0, 3, 1, 0)],
    item_as_shape: [(np.arange(4.0), np.array(i)) for i in (1, 3, 1, 0)],
    nested: [(X,), (X * 3,), (X * 0,)],
    recursive: [(RNG.normal(size=8),) for _ in range(4)] + [(np.arange(5.0),)],
    containers: [
        (State(X, {"k": X[0]}), {"rate": {"start": 0.9}, "tolerance": t}) for t in (0.1, 2.0, 9.0)
    ],
    hidden_operand: [(X,), (-X,), (X * np.array([[1], [-1]], F),), (X * np.array([[-1], [1]], F),)],
    any_of_a_generator: [(X,), (-X,), (X / 10,)],
    over_a_list: [(X,), (X / 10,), (X * 10,), (X + 0.2,)],
    counts_in_a_list: [(X,), (X * 10,), (X * 0,)],
    boolean_logic: [(X,), (-X,), (X * 0,), (X + 1,), (X + 5,)],
    accumulators: [(X,), (X * 100,), (-X,)],
    mathematics: [(X,), (-X,), (X * np.nan,)],
    swaps: [(X,), (X + 40,), (X - 2,)],
    views: [(X,), (X + 20,)],
    finally_and_try: [(X,), (-X,)],
    beyond_a_dtype: [(X,), (X + 20,)],
    integer_of_a_float: [(X,), (-X,), (X * 1e6,)],
    divides: [(np.int64(n),) for n in (1, 6, 27, 7)],
}


@pytest.mark.parametrize("function", CASES, ids=lambda f: f.__name__)
def test_equals_python(function: Callable, jit: Any, agree: Any) -> None:
    jf = jit(function)
    for args in [*CASES[function], *CASES[function]]:
        with np.errstate(all="ignore"):
            expected = function(*args)
        agree(jf(*args), expected, function.__name__)


@pytest.mark.parametrize(
    ("function", "argument", "error"),
    [
        (beyond_a_dtype, X - 40, OverflowError),
        (integer_of_a_float, X * np.nan, ValueError),
        (integer_of_a_float, X * np.inf, ValueError),
    ],
)
def test_numbers_that_are_refused(
    function: Callable, argument: Any, error: type[Exception], jit: Any
) -> None:
    jf = jit(function)
    jf(X)
    for f in (function, jf):
        with pytest.raises(error), np.errstate(all="ignore"):
            f(argument)
