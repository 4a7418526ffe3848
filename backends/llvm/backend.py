"""The CPU back end as ``backends.base`` hands it out."""

from __future__ import annotations

from pjit.backends.llvm.build import build, build_ir
from pjit.backends.llvm.module import emit_assembly, load_object
from pjit.backends.llvm.pool import Pool
from pjit.backends.llvm.target import LlvmMachine, machine
from pjit.ir.core import Module
from pjit.ir.program import ProgramView

__all__ = ["Pool", "build", "listings", "load_object", "machine"]


def listings(module: Module, view: ProgramView, machine: LlvmMachine) -> dict[str, str]:
    """What a reader of the code wants to see, by file name: LLVM IR and assembly."""
    source = str(build_ir(module, view, machine))
    return {"program.ll": source, "program.s": emit_assembly(source, machine)}
