"""What launches note about their work, and what the model predicts from it."""

from __future__ import annotations

import numpy as np
import pytest

from pjit.ir import expr
from pjit.ir.ops.program import Launch
from pjit.ir.target import Limits, Machine
from pjit.ir.text import parse_module, print_module
from pjit.passes.context import Context
from pjit.passes.manager import run_pipeline
from pjit.passes.pipelines import GRAPH, KERNEL
from pjit.passes.predict import predicted_seconds

MACHINE = Machine("test")
GATHER = """graph @main(%t: f32[1000,8], %i: i64[K]) -> f32[K,8] {
  %0 = gather %t, %i {axis=0} : f32[K,8]
  %1 = exp %0 : f32[K,8]
  return %1
}
"""
PRODUCT = """graph @main(%x: f32[B,N,256]) -> f32[B,N,128] {
  %w = const @w : f32[256,128]
  %0 = matmul %x, %w : f32[B,N,128]
  return %0
}
"""


def launches(text: str) -> list[Launch]:
    module = parse_module(text, {"w": np.ones((256, 128), np.float32)})
    run_pipeline(module, [*GRAPH, *KERNEL], Context(MACHINE))
    again = parse_module(print_module(module), module.constants)
    return [op for op in again.main.walk() if isinstance(op, Launch)]


def test_a_gather_reads_what_it_takes() -> None:
    (launch,) = launches(GATHER)
    assert launch.operators == ("gather", "exp")
    assert launch.problem == ()
    assert launch.weights == 0
    sizes = [expr.substitute(launch.nbytes, {"K": k}) for k in (10, 5000)]
    assert sizes == [10 * (8 + 32 + 32), 5000 * (8 + 32) + 1000 * 32]


def test_a_product_is_predicted_when_its_sizes_are_known() -> None:
    (launch,) = [op for op in launches(PRODUCT) if "matmul_packed" in op.operators]
    assert launch.weights == 256 * 128 * 4
    assert predicted_seconds(launch, 1, MACHINE, {}) is None
    one = predicted_seconds(launch, 1, MACHINE, {"B": 2, "N": 60})
    assert one is not None
    assert predicted_seconds(launch, 2, MACHINE, {"B": 2, "N": 60}) == pytest.approx(one / 2)
    more = predicted_seconds(launch, 1, MACHINE, {"B": 4, "N": 60})
    assert more is not None
    assert more > one >= 2 * 120 * 256 * 128 / MACHINE.peak


def test_limits_of_a_machine() -> None:
    limits = Limits.of(MACHINE, 2)
    assert limits.compute_seconds(10**9) == pytest.approx(1e9 / (2 * MACHINE.peak))
    assert limits.compute_seconds(10**9, 64) == pytest.approx(1e9 / MACHINE.peak)
    near, far = limits.memory_seconds(1000), limits.memory_seconds(1000, 1 << 30)
    assert (
        near < far == pytest.approx(1000 / (2 * MACHINE.memory_bytes_per_cycle * MACHINE.frequency))
    )
