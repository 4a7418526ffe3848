"""The CPU back end as ``backends.base`` hands it out."""

from __future__ import annotations

from pjit.backends.llvm.build import build, emit
from pjit.backends.llvm.helpers import prepared
from pjit.backends.llvm.limits import Probe
from pjit.backends.llvm.module import NativeCode, emit_assembly
from pjit.backends.llvm.pool import Pool
from pjit.backends.llvm.target import TARGETS, LlvmMachine, machine, runs_here
from pjit.backends.llvm.timed import TimedCode
from pjit.ir.core import Module
from pjit.ir.program import ProgramView

__all__ = [
    "TARGETS",
    "Pool",
    "Probe",
    "TimedCode",
    "build",
    "listings",
    "load_code",
    "machine",
    "prepared",
    "runs_here",
]

load_code = NativeCode


def listings(module: Module, view: ProgramView, machine: LlvmMachine) -> dict[str, str]:
    """What a reader of the code wants to see, by file name: LLVM IR and assembly."""
    sources = [str(part) for part in emit(module, view, machine)]
    assembly = [emit_assembly(source, machine) for source in sources]
    return {"program.ll": "\n".join(sources), "program.s": "\n".join(assembly)}
