"""From LLVM IR to code in memory: modules, object code, assembly text, loaded code."""

from __future__ import annotations

import functools
import gc
import itertools
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import llvmlite.binding as llvm
from llvmlite import ir

from pjit.backends.llvm.resident import release
from pjit.backends.llvm.target import LlvmMachine, initialize, target_machine
from pjit.ir.errors import PjitError

# What the emitters leave to be done: they vectorise, unroll and hoist themselves. LLVM's own
# pipeline takes five times as long, and lengthens the lives of values in loops until they spill.
_PASSES = ("sroa", "new_gvn", "instruction_combine", "simplify_cfg")
_counter = itertools.count()
_lock = threading.Lock()


def new_module(machine: LlvmMachine, name: str = "pjit") -> ir.Module:
    """An empty module for a machine."""
    module = ir.Module(name)
    module.triple = machine.triple
    return module


def compile_module(source: ir.Module | str, machine: LlvmMachine) -> bytes:
    """Optimises a module and makes object code of it.

    Raises:
        PjitError: LLVM refuses the module: a bug of the emitters.
    """
    tm = target_machine(machine)
    return tm.emit_object(_optimized(str(source), machine, tm))


def compile_modules(sources: Iterable[ir.Module], machine: LlvmMachine) -> tuple[bytes, ...]:
    """The object code of each module.

    LLVM works on one module, on a thread of its own, while Python makes the next.

    Raises:
        PjitError: LLVM refuses a module: a bug of the emitters.
    """
    with ThreadPoolExecutor(1, "pjit-llvm") as llvm_thread:
        parts = [llvm_thread.submit(compile_module, _text(s), machine) for s in sources]
        code = tuple(part.result() for part in parts)
    release()
    return code


def emit_assembly(source: ir.Module | str, machine: LlvmMachine) -> str:
    """The assembly text of the optimised module."""
    tm = target_machine(machine)
    return tm.emit_assembly(_optimized(str(source), machine, tm))


def _text(module: ir.Module) -> str:
    """The text of a module, which is used up."""
    text = str(module)
    for function in module.functions:
        for block in function.blocks:
            block.instructions.clear()
    gc.collect(0)
    return text


def _optimized(source: str, machine: LlvmMachine, tm: llvm.TargetMachine) -> llvm.ModuleRef:
    try:
        module = llvm.parse_assembly(source, llvm.create_context())
        module.triple = machine.triple
        module.data_layout = str(tm.target_data)
        module.verify()
    except RuntimeError as e:
        raise PjitError("LLVM refuses the code made for a kernel", got=str(e)) from None
    passes = llvm.create_new_function_pass_manager()
    for name in _PASSES:
        getattr(passes, f"add_{name}_pass")()
    builder = llvm.create_pass_builder(tm, llvm.create_pipeline_tuning_options())
    for function in module.functions:
        if not function.is_declaration:
            passes.run(function, builder)
    return module


@functools.cache
def _jit() -> llvm.LLJIT:
    initialize(llvm.get_default_triple())
    return llvm.create_lljit_compiler(use_jit_link=True)


class NativeCode:
    """Object code in memory, ready to run.

    Args:
        parts: What ``compile_module`` returned for each module, for this machine.
        symbols: The names of the functions to call.
        imports: The addresses of functions outside of the process's own that the code calls.

    Raises:
        PjitError: The object code refers to a function that the process does not have.
    """

    def __init__(
        self,
        parts: Iterable[bytes],
        symbols: tuple[str, ...] = ("run",),
        imports: Mapping[str, int] | None = None,
    ) -> None:
        library = llvm.JITLibraryBuilder().add_current_process()
        for name, address in (imports or {}).items():
            library.import_symbol(name, address)
        for part in parts:
            library.add_object_img(part)
        for name in symbols:
            library.export_symbol(name)
        with _lock:
            try:
                self._tracker = library.link(_jit(), f"pjit.{next(_counter)}")
            except RuntimeError as e:
                raise PjitError("object code cannot be loaded", got=str(e)) from None
        release()

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

    def __del__(self, _finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if not _finalizing() and hasattr(self, "_tracker"):  # else threads may be running it
            self.close()
