"""Every sample of every operator, compiled to native code, equals ``ref``; one and two threads
agree in every bit.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
from graphs import close, lower, one_op, types_of
from native import NativeProgram, same_bits
from native_kernel import module_of

from pjit.backends.llvm.optimize import optimized
from pjit.backends.llvm.target import machine, runs_here, target_machine
from pjit.ir import expr, ops, tensor  # noqa: F401  (ops registers the operators)
from pjit.ir.loops import kernels
from pjit.ir.opdef import operators
from pjit.ir.types import f32

TOLERANCE = {"f64": 1e-12, "f32": 2e-6, "f16": 2e-3, "bf16": 2e-2}
NATIVE = ("scalar", "element", "line", "decompose", "tile")
COMPILED = [cls for cls in operators() if cls.lowering() in NATIVE]
CASES = [
    pytest.param(cls, dt, id=f"{cls.op_name}-{dt}")
    for cls in COMPILED
    for dt in dict.fromkeys(d for s in cls.samples for d in (s.dtypes or (f32,)))
]


@pytest.mark.parametrize(("cls", "dt"), CASES)
def test_compiled_equals_reference(cls, dt):
    _check(cls, dt, machine("host", threads=2))


@pytest.mark.parametrize("target", ["x86-64-v3", "x86-64-v2"])
@pytest.mark.parametrize("cls", COMPILED, ids=lambda c: c.op_name)
def test_other_instruction_sets(cls, target):
    other = machine(target, threads=2)
    if not runs_here(other):
        pytest.skip(f"this machine cannot run {target}")
    _check(cls, f32, other)


@pytest.mark.parametrize(
    ("cls", "dt"), [c for c in CASES if c.values[1].bits < 32 and c.values[1].name != "bool"]
)
def test_instructions_without_registers_from_16_on_name_none(cls, dt):
    """LLVM's assembler drops the upper bit of such a register without a word."""
    target = machine("x86-64-v4")
    rng = np.random.default_rng(0)
    for sample in cls.samples:
        if dt in sample.dtypes:
            arrays = [a.make(rng, dt) for a in sample.args]
            module = lower(one_op(cls.op_name, types_of(arrays), sample.attrs), target)
            for kernel in kernels(module):
                text = str(module_of(kernel, target))
                made = target_machine(target).emit_assembly(optimized(text, target_machine(target)))
                assert not re.search(
                    r"v(p?movmsk\w+|ptest|testp[sd])\s.*mm(1[6-9]|2\d|3[01])\b", made
                )


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_a_size_that_stays_as_it_is_keeps_values_that_are_not_finite(mode):
    """As where that is known before the call: a neighbour of weight 0 does not count."""
    target = machine("host", threads=1)
    rows = tensor(f32, expr.sym("N"), 3)
    module = lower(one_op("nn.resize", [rows], {"shape": (4, 3), "mode": mode}), target)
    x = np.array([[1, np.nan, 2], [np.inf, 3, 4], [5, -np.inf, 6], [7, 8, np.nan]], np.float32)
    (got,) = NativeProgram(module, target)(x)
    np.testing.assert_array_equal(got, x)


def _check(cls, dt, target):
    rng = np.random.default_rng(0)
    for sample in cls.samples:
        if dt not in (sample.dtypes or (f32,)):
            continue
        arrays = [a.make(rng, dt) for a in sample.args]
        attrs = {a.name: sample.attrs.get(a.name, a.default) for a in cls.signature.attrs}
        want = cls.ref(*arrays, **attrs)
        module = lower(one_op(cls.op_name, types_of(arrays), sample.attrs), target)
        program = NativeProgram(module, target)
        got = program(*arrays)
        tolerance = sample.tolerance.get(dt.name, TOLERANCE.get(dt.name, 0.0))
        for g, w in zip(got, want if isinstance(want, tuple) else (want,), strict=True):
            assert close(g, np.asarray(w), tolerance), f"{cls.op_name} {attrs}\n{g}\n{w}"
        assert same_bits(got, program(*arrays, threads=2))
        program.code.close()
