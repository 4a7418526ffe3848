"""From a program to object code: its kernels, and one native function for each segment."""

from __future__ import annotations

from collections.abc import Iterator

from llvmlite import ir as ll

from pjit.backends.llvm.emit import emit_kernel
from pjit.backends.llvm.module import compile_modules, new_module
from pjit.backends.llvm.segment import SegmentFunction
from pjit.backends.llvm.target import LlvmMachine
from pjit.ir.core import Module
from pjit.ir.loops import index_checks, kernels
from pjit.ir.program import ProgramView, Segment

KERNELS_PER_MODULE = 4


def build(module: Module, view: ProgramView, machine: LlvmMachine) -> tuple[bytes, ...]:
    """The object code of a program, in parts; each segment's ``entry`` is a symbol."""
    return compile_modules(emit(module, view, machine), machine)


def emit(module: Module, view: ProgramView, machine: LlvmMachine) -> Iterator[ll.Module]:
    """The LLVM IR of a program: its kernels, a few in each module, and last its segments."""
    types: dict[str, ll.FunctionType] = {}
    failures = 0
    todo = kernels(module)
    for first in range(0, len(todo), KERNELS_PER_MODULE):
        out = new_module(machine)
        for kernel in todo[first : first + KERNELS_PER_MODULE]:
            types[kernel.name] = emit_kernel(kernel, machine, out, failures).function_type
            failures += len(index_checks(kernel))
        yield out
    out = new_module(machine)
    declared = {name: ll.Function(out, kind, name) for name, kind in types.items()}
    for step in view.steps:
        if isinstance(step, Segment):
            SegmentFunction(out, view, step, declared).emit()
    yield out
