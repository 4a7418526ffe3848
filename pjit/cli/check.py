"""Runs a converted model on random inputs against ONNX Runtime, or against the interpreter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from pjit.api import Model
from pjit.errors import ExecutionError, InputError
from pjit.ir import expr
from pjit.ir.core import Module
from pjit.ir.interp import interpret
from pjit.ir.types import TensorType
from pjit.ir.verify import obligations

BATCH = 2  # the size tried for a free first dimension
SIZES = (64, 32, 96, 128, 224, 16, 8, 1)  # and for the others, until one fits the model
SMALL = 1e-3  # outputs below this are compared with it: a sigmoid near 0 has only rounding left
INTEGERS = 8  # integers are drawn below this, so that they index any reasonable table


@dataclass(frozen=True)
class Check:
    """How a model compares with a reference.

    Attributes:
        reference: What it was compared with.
        errors: Name of each output -> max|a - b| / max(max|reference|, SMALL); inf where NaNs,
            shapes or dtypes differ.
    """

    reference: str
    errors: dict[str, float]

    @property
    def worst(self) -> float:
        """The largest error."""
        return max(self.errors.values(), default=0.0)


def random_inputs(module: Module, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs of a module; free dimensions get sizes that its equalities allow.

    Raises:
        InputError: No size that is tried fits.
    """
    main = module.main
    types = {n: v.tensor for n, v in zip(main.attrs["inputs"], main.args, strict=True)}
    rng = np.random.default_rng(seed)
    checks = [
        pair
        for block in (main.body, *(r for o in main.walk() for r in o.regions))
        for pair in obligations(block)
    ]
    sizes = _sizes(types, checks, [v.tensor for o in main.walk() for v in o.results])
    return {n: _draw(rng, t.substitute(sizes)) for n, t in types.items()}


def _sizes(
    types: Mapping[str, TensorType], checks: list[tuple[Any, Any]], inner: list[Any]
) -> dict[str, int]:
    first = {s for t in types.values() for d in t.shape[:1] for s in expr.symbols(d)}
    free = {s for t in types.values() for d in t.shape for s in expr.symbols(d)}
    equals = [tuple(map(str, pair)) for pair in checks if {str(d) for d in pair} <= free]
    for _ in equals:  # what equals a first dimension is as large
        first |= {s for pair in equals if not first.isdisjoint(pair) for s in pair}
    for size in SIZES:
        sizes = {s: BATCH if s in first else size for s in free}
        equal = all(expr.substitute(a, sizes) == expr.substitute(b, sizes) for a, b in checks)
        open_dims = (d for t in inner for d in t.shape if isinstance(d, expr.Expr))
        known = [expr.substitute(d, sizes) for d in open_dims]
        if equal and all(d > 0 for d in known if isinstance(d, int)):
            return sizes
    raise InputError(
        "no sizes that were tried for the free dimensions fit the model",
        expected="sizes that all operations accept",
        got=", ".join(map(str, SIZES)),
        remedy="name the shapes with --input NAME:DTYPE[SHAPE]",
    )


def _draw(rng: np.random.Generator, t: TensorType) -> np.ndarray:
    shape, dt = t.static_shape, t.dtype
    if dt.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if dt.is_int:
        return rng.integers(0, INTEGERS, shape).astype(dt.numpy)
    return rng.standard_normal(shape).astype(dt.numpy)


def check(model: Model, source: Path, module: Module, seed: int = 0) -> Check:
    """Compares a model with ONNX Runtime where that is installed, else with the interpreter."""
    feed = random_inputs(module, seed)
    got = {n: np.asarray(v) for n, v in model.run(feed).items()}
    session = onnxruntime_session(source, threads=0)
    if session is not None:
        names = [o.name for o in session.get_outputs()]
        want = dict(zip(names, _run(session, feed), strict=True))
        reference = "ONNX Runtime"
    else:
        values = interpret(module, *feed.values())
        want = dict(zip(module.main.attrs["outputs"], values, strict=True))
        reference = "the reference interpreter (onnxruntime is not installed)"
    return Check(reference, {n: _error(got[n], np.asarray(want[n])) for n in got})


def onnxruntime_session(source: Path, threads: int) -> Any:
    """A session of ONNX Runtime on the file, or None where it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(str(source), options, ["CPUExecutionProvider"])
    except Exception as e:  # its errors have no common class
        raise _refused("load", e) from None


def _run(session: Any, feed: Mapping[str, np.ndarray]) -> list[Any]:
    try:
        return session.run(None, feed)
    except Exception as e:  # its errors have no common class
        raise _refused("run", e) from None


def _refused(what: str, error: Exception) -> ExecutionError:
    text = " ".join(str(error).split())
    return ExecutionError(
        f"ONNX Runtime does not {what} the model, so there is nothing to compare with",
        got=text if len(text) <= 300 else text[:297] + "...",
        remedy="give sizes with --input NAME:DTYPE[SHAPE], or leave --check and --bench out",
    )


def _error(got: np.ndarray, want: np.ndarray) -> float:
    if got.shape != want.shape or got.dtype != want.dtype:
        return float("inf")
    if want.dtype.kind in "iub":
        return 0.0 if np.array_equal(got, want) else float("inf")
    a, b = got.astype(np.float64), want.astype(np.float64)
    if not np.array_equal(np.isnan(a), np.isnan(b)):
        return float("inf")
    if not a.size:
        return 0.0
    gap = np.where((a == b) | np.isnan(a), 0.0, np.abs(a - b))
    return float(gap.max() / max(np.abs(np.nan_to_num(b)).max(), SMALL))


@dataclass(frozen=True)
class Times:
    """Seconds of a call: until it returns, and until its results are there (minimum and median)."""

    returned: float
    least: float
    median: float
    other: float | None  # the least time of ONNX Runtime, where it is installed


def bench(model: Model, source: Path, module: Module, threads: int, seconds: float = 2.0) -> Times:
    """Times a model, in turns with ONNX Runtime where that is installed, on the same threads."""
    feed = random_inputs(module)
    session = onnxruntime_session(source, threads)
    returned: list[float] = []
    waited: list[float] = []
    other: list[float] = []
    end = perf_counter() + seconds
    while perf_counter() < end or len(waited) < 3:
        start = perf_counter()
        results = model.run(feed)
        returned.append(perf_counter() - start)
        for r in results.values():
            r.block_until_ready()
        waited.append(perf_counter() - start)
        if session is not None:
            start = perf_counter()
            _run(session, feed)
            other.append(perf_counter() - start)
    middle = sorted(waited)[len(waited) // 2]
    return Times(min(returned), min(waited), middle, min(other) if other else None)
