"""Helpers of the tests of passes: random inputs, and the same results before and after."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pjit.ir.core import Module, Op
from pjit.ir.interp import interpret
from pjit.ir.verify import verify
from pjit.passes.context import Context
from pjit.passes.snapshot import clone, structure

TOLERANCE = {2: 2e-2, 4: 1e-5, 8: 1e-12}  # by the size of a float


def random_arrays(module: Module, seed: int = 0) -> list[np.ndarray]:
    """Arrays for the arguments of a static module; integers and bools are 0 or 1."""
    rng = np.random.default_rng(seed)
    arrays = []
    for v in module.main.args:
        shape = v.tensor.static_shape
        floats = v.dtype.is_float
        array = rng.uniform(-2, 2, shape) if floats else rng.integers(0, 2, shape)
        arrays.append(np.asarray(array).astype(v.dtype.numpy))
    return arrays


def assert_close(got: np.ndarray, want: np.ndarray) -> None:
    """Compares dtype, shape, NaNs and values; exactly unless they are floats."""
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    if want.dtype.kind not in "fV":
        np.testing.assert_array_equal(got, want)
        return
    wide = want.astype(np.float64)
    scale = max(1.0, float(np.max(np.abs(wide[np.isfinite(wide)]), initial=0)))
    tolerance = TOLERANCE[want.dtype.itemsize] * scale
    np.testing.assert_allclose(got.astype(np.float64), wide, rtol=tolerance, atol=tolerance)


def check_pass(
    module: Module, run: Callable[[Module, Context], bool], context: Context | None = None
) -> bool:
    """Runs a transformation; checks the IR, the results, and what it says of its changes."""
    before, context = clone(module), context or Context()
    verify(module)
    changed = run(module, context)
    verify(module)
    assert changed == (structure(module) != structure(before)), "wrong about its changes"
    arrays = random_arrays(before)
    for got, want in zip(interpret(module, *arrays), interpret(before, *arrays), strict=True):
        assert_close(got, want)
    return changed


def names(module: Module) -> list[str]:
    """The operators of the main function in order, without constants and the return."""
    skipped = ("const", "return")
    return [op.op_name for op in module.main.walk() if op.op_name not in skipped]


def find(module: Module, name: str) -> list[Op]:
    """The operations of an operator."""
    return [op for op in module.main.walk() if op.op_name == name]
