"""Every sample of every operator, lowered and run by the interpreter of the kernel level, equals
``ref``.
"""

from __future__ import annotations

import numpy as np
import pytest
from graphs import close, lower, one_op, run_kernels, types_of

from pjit.ir import ops  # noqa: F401  (registers the operators)
from pjit.ir.errors import ConstraintError
from pjit.ir.opdef import operators
from pjit.ir.types import f32

TOLERANCE = {"f64": 1e-12, "f32": 2e-6, "f16": 2e-3, "bf16": 2e-2}
CASES = [
    pytest.param(cls, s, dt, id=f"{cls.op_name}-{i}-{dt}")
    for cls in operators()
    if cls.lowering() in ("scalar", "element", "line", "decompose", "tile")
    for i, s in enumerate(cls.samples)
    for dt in (s.dtypes or (f32,))
]


@pytest.mark.parametrize(("cls", "sample", "dt"), CASES)
def test_kernel_equals_reference(cls, sample, dt):
    rng = np.random.default_rng(0)
    arrays = [a.make(rng, dt) for a in sample.args]
    if sum(a.size for a in arrays) > 3000:
        pytest.skip("too slow for the scalar interpreter; the compiled test covers it")
    want = cls.ref(*arrays, **_full(cls, sample.attrs))
    try:
        module = lower(one_op(cls.op_name, types_of(arrays), sample.attrs))
    except ConstraintError as e:
        pytest.fail(str(e))
    got = run_kernels(module, *arrays)
    wants = want if isinstance(want, tuple) else (want,)
    tolerance = sample.tolerance.get(dt.name, TOLERANCE.get(dt.name, 0.0))
    for g, w in zip(got, wants, strict=True):
        assert close(g, np.asarray(w), tolerance), f"{cls.op_name} {sample.attrs}\n{g}\n{w}"


def _full(cls, attrs):
    return {a.name: attrs.get(a.name, a.default) for a in cls.signature.attrs}
