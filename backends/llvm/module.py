"""From LLVM IR to code in memory: modules, object code, assembly text, loaded code."""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading

import llvmlite.binding as llvm
from llvmlite import ir

from pjit.backends.llvm.target import LlvmMachine, initialize, target_machine
from pjit.ir.errors import PjitError

_OPTIMIZATION = 2
_counter = itertools.count()
_lock = threading.Lock()


def new_module(machine: LlvmMachine, name: str = "pjit") -> ir.Module:
    """An empty module for a machine."""
    module = ir.Module(name)
    module.triple = machine.triple
    return module


def compile_module(source: ir.Module | str, machine: LlvmMachine) -> bytes:
    """Optimises a module and makes object code of it.

    Loops are vectorised and unrolled by the emitters, so LLVM's passes for that are off.

    Raises:
        PjitError: LLVM refuses the module: a bug of the emitters.
    """
    tm = target_machine(machine)
    return tm.emit_object(_optimized(source, machine, tm))


def emit_assembly(source: ir.Module | str, machine: LlvmMachine) -> str:
    """The assembly text of the optimised module."""
    tm = target_machine(machine)
    return tm.emit_assembly(_optimized(source, machine, tm))


def _optimized(
    source: ir.Module | str, machine: LlvmMachine, tm: llvm.TargetMachine
) -> llvm.ModuleRef:
    try:
        module = llvm.parse_assembly(str(source))
        module.triple = machine.triple
        module.data_layout = str(tm.target_data)
        module.verify()
    except RuntimeError as e:
        raise PjitError("LLVM refuses the code made for a kernel", got=str(e)) from None
    options = llvm.create_pipeline_tuning_options(speed_level=_OPTIMIZATION)
    options.loop_vectorization = options.slp_vectorization = False
    options.loop_interleaving = options.loop_unrolling = False
    builder = llvm.create_pass_builder(tm, options)
    passes = builder.getFunctionPassManager()
    for function in module.functions:
        if not function.is_declaration:
            passes.run(function, builder)
    return module


@functools.cache
def _jit() -> llvm.LLJIT:
    initialize()
    return llvm.create_lljit_compiler(use_jit_link=True)


class NativeCode:
    """Object code in memory, ready to run.

    Args:
        object_code: What ``compile_module`` returned, for this machine.
        symbols: The names of the functions to call.

    Raises:
        PjitError: The object code refers to a function that the process does not have.
    """

    def __init__(self, object_code: bytes, symbols: tuple[str, ...] = ("run",)) -> None:
        self.size = len(object_code)
        library = llvm.JITLibraryBuilder().add_object_img(object_code).add_current_process()
        for name in symbols:
            library.export_symbol(name)
        with _lock:
            try:
                self._tracker = library.link(_jit(), f"pjit.{next(_counter)}")
            except RuntimeError as e:
                raise PjitError("object code cannot be loaded", got=str(e)) from None

    def address(self, symbol: str = "run") -> int:
        """The address of an exported function.

        Raises:
            PjitError: The code was closed.
        """
        if self._tracker is None:
            raise PjitError("the code was closed")
        return self._tracker[symbol]

    def close(self) -> None:
        """Frees the code; nothing may be running it. Closing twice is allowed."""
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            with _lock:
                tracker.close()

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):
            self.close()


def load_object(object_code: bytes, symbols: tuple[str, ...] = ("run",)) -> NativeCode:
    """Loads object code; see ``NativeCode``."""
    return NativeCode(object_code, symbols)
