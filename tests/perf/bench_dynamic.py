"""Compare compiled Python with data-dependent control flow: ``python tests/perf/bench_dynamic.py``.

Each workload is one plain NumPy function. pjit compiles it as it is; for the others it is written
as they need it: explicit loops for numba, ``lax.while_loop`` and ``lax.fori_loop`` for JAX. What
one of them cannot do is said. The fastest of interleaved rounds counts; nothing is asserted.
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

for _variable in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(_variable, None)

import numpy as np  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

import pjit  # noqa: E402

Runner = Callable[[], Any]


# The functions, as users of NumPy write them


def newton(a: Any) -> Any:
    """Square roots by Newton's iteration, until all have converged."""
    x = np.ones_like(a)
    while np.abs(x * x - a).max() > 1e-9:
        x = 0.5 * (x + a / x)
    return x


def mandelbrot(re: Any, im: Any, limit: int = 60) -> Any:
    """The number of iterations until a point escapes."""
    zr, zi = np.zeros_like(re), np.zeros_like(im)
    count = np.zeros(re.shape, np.int32)
    for _ in range(limit):
        inside = zr * zr + zi * zi <= 4
        if not inside.any():
            break
        count += inside
        new = np.where(inside, zr * zr - zi * zi + re, zr)
        zi = np.where(inside, 2 * zr * zi + im, zi)
        zr = new
    return count


def bellman_ford(source: Any, target: Any, weight: Any, start: Any) -> Any:
    """Shortest distances: relaxes all edges until nothing changes."""
    distance = start.copy()
    changed = True
    while changed:
        new = distance.copy()
        np.minimum.at(new, target, distance[source] + weight)
        changed = (new < distance).any()
        distance = new
    return distance


def rnn(x: Any, length: Any, w: Any, u: Any) -> Any:
    """An Elman network over as many steps as data says."""
    h = np.zeros(u.shape[0], x.dtype)
    for t in range(int(length)):
        h = np.tanh(x[t] @ w + h @ u)
    return h


# The same for the others


def numba_functions() -> dict[str, Callable]:
    """Loops over elements."""
    import numba

    @numba.njit
    def newton(a):
        x = np.ones_like(a)
        while True:
            worst = 0.0
            for i in range(a.size):
                worst = max(worst, abs(x[i] * x[i] - a[i]))
            if not worst > 1e-9:
                return x
            for i in range(a.size):
                x[i] = 0.5 * (x[i] + a[i] / x[i])

    @numba.njit
    def mandelbrot(re, im, limit=60):
        count = np.zeros(re.shape, np.int32)
        for i in range(re.shape[0]):
            for j in range(re.shape[1]):
                zr = zi = 0.0
                for _ in range(limit):
                    if not zr * zr + zi * zi <= 4:
                        break
                    count[i, j] += 1
                    zr, zi = zr * zr - zi * zi + re[i, j], 2 * zr * zi + im[i, j]
        return count

    @numba.njit
    def bellman_ford(source, target, weight, start):
        distance = start.copy()
        changed = True
        while changed:
            new = distance.copy()
            for e in range(source.size):
                new[target[e]] = min(new[target[e]], distance[source[e]] + weight[e])
            changed = False
            for i in range(new.size):
                changed = changed or new[i] < distance[i]
            distance = new
        return distance

    @numba.njit
    def rnn(x, length, w, u):
        h = np.zeros(u.shape[0], x.dtype)
        for t in range(length):
            h = np.tanh(x[t] @ w + h @ u)
        return h

    return {f.__name__: f for f in (newton, mandelbrot, bellman_ford, rnn)}


def jax_functions() -> dict[str, Callable]:
    """Loops of ``lax``."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    jax.config.update("jax_enable_x64", True)

    def newton(a):
        def goes_on(x):
            return jnp.abs(x * x - a).max() > 1e-9

        return lax.while_loop(goes_on, lambda x: 0.5 * (x + a / x), jnp.ones_like(a))

    def mandelbrot(re, im, limit=60):
        def goes_on(s):
            return (s[0] < limit) & (s[1] * s[1] + s[2] * s[2] <= 4).any()

        def step(s):
            i, zr, zi, count = s
            inside = zr * zr + zi * zi <= 4
            new = jnp.where(inside, zr * zr - zi * zi + re, zr)
            zi = jnp.where(inside, 2 * zr * zi + im, zi)
            return i + 1, new, zi, count + inside

        start = (0, jnp.zeros_like(re), jnp.zeros_like(im), jnp.zeros(re.shape, jnp.int32))
        return lax.while_loop(goes_on, step, start)[3]

    def bellman_ford(source, target, weight, start):
        def step(s):
            distance, _ = s
            new = distance.at[target].min(distance[source] + weight)
            return new, (new < distance).any()

        return lax.while_loop(lambda s: s[1], step, (start, jnp.array(True)))[0]

    def rnn(x, length, w, u):
        def step(t, h):
            return jnp.tanh(x[t] @ w + h @ u)

        return lax.fori_loop(0, length, step, jnp.zeros(u.shape[0], x.dtype))

    return {f.__name__: jax.jit(f) for f in (newton, mandelbrot, bellman_ford, rnn)}


def torch_functions() -> dict[str, Callable]:
    """``torch.compile``: a question about a value breaks the graph."""
    import torch

    def newton(a):
        x = torch.ones_like(a)
        while (x * x - a).abs().max() > 1e-9:
            x = 0.5 * (x + a / x)
        return x

    def mandelbrot(re, im, limit=60):
        zr, zi = torch.zeros_like(re), torch.zeros_like(im)
        count = torch.zeros(re.shape, dtype=torch.int32)
        for _ in range(limit):
            inside = zr * zr + zi * zi <= 4
            if not inside.any():
                break
            count = count + inside
            new = torch.where(inside, zr * zr - zi * zi + re, zr)
            zi = torch.where(inside, 2 * zr * zi + im, zi)
            zr = new
        return count

    def bellman_ford(source, target, weight, start):
        distance, changed = start.clone(), True
        while changed:
            new = distance.scatter_reduce(0, target, distance[source] + weight, "amin")
            changed = bool((new < distance).any())
            distance = new
        return distance

    def rnn(x, length, w, u):
        h = torch.zeros(u.shape[0], dtype=x.dtype)
        for t in range(int(length)):
            h = torch.tanh(x[t] @ w + h @ u)
        return h

    return {f.__name__: torch.compile(f) for f in (newton, mandelbrot, bellman_ford, rnn)}


def workloads() -> Iterator[tuple[Callable, tuple]]:
    """The functions with arguments."""
    rng = np.random.default_rng(0)
    yield newton, (rng.uniform(0.5, 100, 4096),)
    im, re = np.mgrid[-1.2:1.2:512j, -2.0:0.6:512j]
    yield mandelbrot, (re, im)
    n = 500
    start = np.full(n, 1e9)
    start[0] = 0
    source, target = rng.integers(0, n, (2, 2000))
    yield bellman_ford, (source, target, rng.uniform(0, 1, 2000), start)
    f4 = np.float32
    x, w = rng.normal(size=(100, 64)).astype(f4), rng.normal(size=(64, 64)).astype(f4) / 8
    yield rnn, (x, np.int64(80), w, w.T.copy())


def runners(function: Callable, args: tuple) -> dict[str, Runner | str]:
    """How each of the peers runs a workload, or why it does not."""
    name = function.__name__
    compiled = pjit.compile(function)
    made: dict[str, Runner | str] = {
        "numpy": lambda: function(*args),
        "pjit": lambda: np.asarray(compiled(*args)),
    }
    try:
        f = numba_functions()[name]
        made["numba"] = lambda: f(*args)
    except ImportError:
        made["numba"] = "not installed"
    try:
        g = jax_functions()[name]
        made["jax"] = lambda: np.asarray(g(*args))
    except ImportError:
        made["jax"] = "not installed"
    try:
        import torch

        h = torch_functions()[name]
        tensors = [torch.as_tensor(a) for a in args]
        made["torch"] = lambda: h(*tensors).numpy()
    except ImportError:
        made["torch"] = "not installed"
    return made


def measure(run: Runner, seconds: float) -> float:
    """The fastest call within a time."""
    best, end = float("inf"), perf_counter() + seconds
    while perf_counter() < end:
        began = perf_counter()
        run()
        best = min(best, perf_counter() - began)
    return best


def overhead() -> dict[str, Runner | str]:
    """A small network from and to NumPy: what a call costs."""
    rng = np.random.default_rng(0)
    f4 = np.float32
    x, w1 = rng.normal(size=64).astype(f4), rng.normal(size=(64, 64)).astype(f4)
    w2 = rng.normal(size=(64, 10)).astype(f4)

    def mlp(x: Any, w1: Any, w2: Any) -> Any:
        return np.maximum(x @ w1, 0) @ w2

    compiled = pjit.compile(mlp)
    made: dict[str, Runner | str] = {
        "numpy": lambda: mlp(x, w1, w2),
        "pjit": lambda: np.asarray(compiled(x, w1, w2)),
    }
    try:
        import jax
        import jax.numpy as jnp

        g = jax.jit(lambda x, w1, w2: jnp.maximum(x @ w1, 0) @ w2)
        made["jax"] = lambda: np.asarray(g(x, w1, w2))
    except ImportError:
        made["jax"] = "not installed"
    try:
        import torch

        h = torch.compile(lambda x, w1, w2: torch.relu(x @ w1) @ w2)
        make = torch.from_numpy
        made["torch"] = lambda: h(make(x), make(w1), make(w2)).numpy()
    except ImportError:
        made["torch"] = "not installed"
    return made


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="the fastest counts (default 5)")
    parser.add_argument("--only", help="one workload")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ.setdefault("TORCHDYNAMO_VERBOSE", "0")
    peers = ("numpy", "pjit", "numba", "jax", "torch")
    table = Table(title="milliseconds, fastest call; first call in brackets")
    for column in ("workload", *peers, "numpy / pjit", "pjit / best other"):
        table.add_column(column, justify="right" if column != "workload" else "left")
    cases = [(f.__name__, runners(f, args)) for f, args in workloads()]
    cases.append(("small network", overhead()))
    for name, found in cases:
        if arguments.only not in (None, name):
            continue
        times: dict[str, float] = {}
        first: dict[str, float] = {}
        notes: dict[str, str] = {}
        expected = found["numpy"]()  # type: ignore[operator]
        for peer, run in list(found.items()):
            if isinstance(run, str):
                notes[peer] = run
                continue
            began = perf_counter()
            try:
                np.testing.assert_allclose(run(), expected, rtol=1e-3, atol=1e-4)
            except Exception as e:
                notes[peer] = f"{type(e).__name__}"
                continue
            first[peer] = perf_counter() - began
        for _ in range(arguments.rounds):
            for peer in first:
                took = measure(found[peer], 0.3)  # type: ignore[arg-type]
                times[peer] = min(times.get(peer, float("inf")), took)
        cells = [
            f"{times[p] * 1e3:.4g} ({first[p]:.2g} s)" if p in times else notes.get(p, "-")
            for p in peers
        ]
        others = [t for p, t in times.items() if p not in ("numpy", "pjit")]
        ratios = [f"{times['numpy'] / times['pjit']:.2f}" if "pjit" in times else "-"]
        ratios.append(f"{times['pjit'] / min(others):.2f}" if others and "pjit" in times else "-")
        table.add_row(name, *cells, *ratios)
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
