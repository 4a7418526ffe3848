"""The machines that kernels are tested on."""

from __future__ import annotations

import pytest
from native_kernel import NativeKernel

from pjit.backends.llvm.target import LlvmMachine, machine, runs_here
from pjit.ir.core import Function

TARGETS = ("host", "x86-64-v3", "x86-64-v2")


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> LlvmMachine:
    """Each machine whose code this one can run."""
    found = machine(request.param)
    if not runs_here(found):
        pytest.skip(f"this machine does not run {request.param}")
    return found


@pytest.fixture
def native(target: LlvmMachine):
    """Compiles a kernel for the machine under test."""

    def make(kernel: Function, error_base: int = 0) -> NativeKernel:
        return NativeKernel(kernel, target, error_base)

    return make
