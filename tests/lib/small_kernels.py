"""Small kernels for tests: built by a function, checked against the interpreter."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pjit.ir.core import Function, Loc
from pjit.ir.expr import Dim
from pjit.ir.interp import interpret_kernel
from pjit.ir.kernel_builder import ScalarBuilder, kernel_function
from pjit.ir.ops.basic import Return
from pjit.ir.types import BufferType, DType

Body = Callable[..., None]


def kernel(
    buffers: Sequence[tuple[DType, tuple[Dim, ...]]], body: Body, outputs: int = 1
) -> Function:
    """A kernel whose body gets a ScalarBuilder and the buffers."""
    types = [(f"b{i}", BufferType(dt, shape)) for i, (dt, shape) in enumerate(buffers)]
    function = kernel_function("kernel", types, outputs)
    b = ScalarBuilder(function.body, Loc("test.py:1"))
    body(b, *function.args)
    b.emit(Return, (), {})
    return function


def once(b: ScalarBuilder, body: Callable[[], None]) -> None:
    b.loop(0, 1, lambda i: body(), kind="parallel")


def check(
    native,
    function: Function,
    arrays: Sequence[np.ndarray],
    tolerance: float = 0.0,
    parts: int = 1,
    **sizes: int,
) -> None:
    """The native kernel writes what the interpreter writes."""
    expected = [a.copy() for a in arrays]
    interpret_kernel(function, expected, sizes)
    got = [a.copy() for a in arrays]
    assert native(function)(got, sizes, parts) == 0
    for x, y in zip(got, expected, strict=True):
        same(x, y, tolerance)


def same(x: np.ndarray, y: np.ndarray, tolerance: float = 0.0) -> None:
    if x.dtype.kind in "biu":
        np.testing.assert_array_equal(x, y)
    else:
        np.testing.assert_allclose(
            x.astype(np.float64), y.astype(np.float64), rtol=tolerance, atol=tolerance
        )


def numbers(dt: DType, *shape: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dt.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if dt.is_int:
        return rng.integers(0 if dt.kind == "u" else -9, 10, shape).astype(dt.numpy)
    return rng.uniform(-3, 3, shape).astype(dt.numpy)
