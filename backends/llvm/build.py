"""From a program to object code: its kernels, and one native function for each segment."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from llvmlite import ir as ll

from pjit.backends.llvm.emit import emit_kernel
from pjit.backends.llvm.module import compile_modules, new_module
from pjit.backends.llvm.optimize import TILES
from pjit.backends.llvm.segment import SegmentFunction
from pjit.backends.llvm.target import LlvmMachine
from pjit.ir.core import Function, Module
from pjit.ir.loops import Contraction, For, index_checks, kernels
from pjit.ir.program import ProgramView, Segment

KERNELS_PER_MODULE = 4
LOOPS = "loops"  # the name of modules of other kernels


def build(module: Module, view: ProgramView, machine: LlvmMachine) -> tuple[bytes, ...]:
    """The object code of a program, in parts; each segment's ``entry`` is a symbol."""
    return compile_modules(emit(module, view, machine), machine)


def emit(module: Module, view: ProgramView, machine: LlvmMachine) -> Iterator[ll.Module]:
    """The LLVM IR of a program: its kernels, a few in each module, and last its segments."""
    types: dict[str, ll.FunctionType] = {}
    todo = kernels(module)
    failures = [0, *accumulate(len(index_checks(kernel)) for kernel in todo)]
    groups: dict[str, list[tuple[Function, int]]] = {TILES: [], LOOPS: []}
    for kernel, base in zip(todo, failures, strict=False):
        groups[TILES if _only_tiles(kernel) else LOOPS].append((kernel, base))
    for name, group in groups.items():
        for first in range(0, len(group), KERNELS_PER_MODULE):
            out = new_module(machine, name)
            for kernel, base in group[first : first + KERNELS_PER_MODULE]:
                types[kernel.name] = emit_kernel(kernel, machine, out, base).function_type
            yield out
    out = new_module(machine)
    declared = {name: ll.Function(out, kind, name) for name, kind in types.items()}
    for step in view.steps:
        if isinstance(step, Segment):
            SegmentFunction(out, view, step, declared).emit()
    yield out


def _only_tiles(kernel: Function) -> bool:
    """Whether a kernel makes tile contractions, and has no other loops over lanes."""
    ops = list(kernel.walk())
    vectors = any(isinstance(op, For) and op.kind == "vector" for op in ops)
    return not vectors and any(isinstance(op, Contraction) for op in ops)
