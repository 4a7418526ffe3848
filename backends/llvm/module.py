"""From LLVM IR to code in memory: modules, object code, assembly text, loaded code."""

from __future__ import annotations

import functools
import gc
import itertools
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from queue import Empty, SimpleQueue

import llvmlite.binding as llvm
from llvmlite import ir

from pjit.backends.llvm.helpers import Helper, take
from pjit.backends.llvm.optimize import optimized
from pjit.backends.llvm.resident import release
from pjit.backends.llvm.target import LlvmMachine, initialize, target_machine
from pjit.ir.errors import PjitError

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

    LLVM works on the modules while Python makes the next: in the helpers that were prepared, else
    on a thread of this process.

    Raises:
        PjitError: LLVM refuses a module: a bug of the emitters.
    """
    helpers = take()
    idle: SimpleQueue[Helper] = SimpleQueue()
    for helper in helpers:
        idle.put(helper)
    try:
        with ThreadPoolExecutor(max(1, len(helpers)), "pjit-llvm") as threads:
            parts: list[Future[bytes]] = []
            for source in sources:
                if len(parts) > len(helpers):  # the text of a module takes megabytes
                    wait([parts[-1 - len(helpers)]])
                parts.append(threads.submit(_compile, _text(source), machine, idle))
            return tuple(part.result() for part in parts)
    finally:
        for helper in helpers:
            helper.close()
        release()


def _compile(source: str, machine: LlvmMachine, idle: SimpleQueue[Helper]) -> bytes:
    """Compiles in one of the idle helpers; here if there is none, or if it fails."""
    try:
        helper = idle.get_nowait()
        code = helper.compile(source, machine.llvm)
    except (Empty, OSError):
        return compile_module(source, machine)
    except RuntimeError as e:
        raise _refused(e) from None
    idle.put(helper)
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
        return optimized(source, tm)
    except RuntimeError as e:
        raise _refused(e) from None


def _refused(e: RuntimeError) -> PjitError:
    return PjitError("LLVM refuses the code made for a kernel", got=str(e))


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
