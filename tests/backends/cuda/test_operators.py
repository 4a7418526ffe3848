"""Every sample of every operator that lowers to loops: emitted for CUDA and emulated."""

from __future__ import annotations

import graphs
import numpy as np
import pytest
from graphs import close, lower, one_op, run_kernels, types_of

from pjit.backends.cuda.emit import emit_source
from pjit.backends.cuda.target import machine
from pjit.ir import ops  # noqa: F401  (registers the operators)
from pjit.ir.interp import interpret_kernel
from pjit.ir.opdef import operators
from pjit.ir.types import bool_, f16, f32, i32, u8

TOLERANCE = {"f32": 4e-6, "f16": 4e-3}
LARGEST = 1000  # elements; more take long in the interpreter of the kernel level
CASES = [
    pytest.param(cls, s, dt, id=f"{cls.op_name}-{i}-{dt}")
    for cls in operators()
    if cls.lowering() not in ("tile", "host", "structural")
    for i, s in enumerate(cls.samples)
    for dt in (s.dtypes or (f32,))
    if dt in (f32, f16, i32, u8, bool_)
]


@pytest.mark.parametrize(("cls", "sample", "dt"), CASES)
def test_emulated_kernels_compute_what_they_say(cls, sample, dt, emulate, monkeypatch):
    arrays = [a.make(np.random.default_rng(0), dt) for a in sample.args]
    if sum(a.size for a in arrays) > LARGEST:
        pytest.skip("too slow for the scalar interpreter")
    module = lower(one_op(cls.op_name, types_of(arrays), sample.attrs), machine())
    ran = []

    def both(kernel, buffers, sizes):
        got = [a.copy() for a in buffers]
        interpret_kernel(kernel, buffers, sizes)
        source = emit_source(kernel, machine())
        assert emulate(source, got, sizes) == 0
        for v, a, b in zip(kernel.args, got, buffers, strict=True):
            tolerance = sample.tolerance.get(dt.name, TOLERANCE.get(v.dtype.name, 0.0))
            assert close(a, b, tolerance), f"%{v.name} is {a}, not {b}\n{source.text}"
        ran.append(kernel.name)

    monkeypatch.setattr(graphs, "interpret_kernel", both)
    run_kernels(module, *arrays)
    assert ran or all(a.size == 0 for a in arrays) or cls.op_name == "reshape"
