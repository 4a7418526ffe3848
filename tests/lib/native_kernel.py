"""Runs one kernel natively on arrays, as a program would."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence

import numpy as np
from llvmlite import ir

from pjit.backends.llvm.emit import emit_kernel
from pjit.backends.llvm.lanes import I64, PTR, VOID
from pjit.backends.llvm.module import NativeCode, compile_module, new_module
from pjit.backends.llvm.target import LlvmMachine
from pjit.ir import expr
from pjit.ir.core import Function
from pjit.ir.loops import parallel_extent


def module_of(kernel: Function, target: LlvmMachine, error_base: int = 0) -> ir.Module:
    """A module with the kernel and ``call(ptr buffers, ptr sizes, ptr error, i64 lo, i64 hi)``."""
    module = new_module(target)
    function = emit_kernel(kernel, target, module, error_base)
    call = ir.Function(module, ir.FunctionType(VOID, [PTR, PTR, PTR, I64, I64]), "call")
    buffers, sizes, error, lo, hi = call.args
    b = ir.IRBuilder(call.append_basic_block())
    arguments = [
        b.load(b.gep(buffers, [I64(i)], source_etype=I64), typ=PTR) for i in range(len(kernel.args))
    ]
    arguments += [
        b.load(b.gep(sizes, [I64(i)], source_etype=I64), typ=I64)
        for i in range(len(kernel.attrs["symbols"]))
    ]
    b.call(function, [*arguments, error, lo, hi])
    b.ret_void()
    return module


class NativeKernel:
    """A kernel compiled for a machine.

    Args:
        kernel: The kernel.
        target: The machine.
        error_base: See ``emit_kernel``.
        instead: Functions, by name, to be called instead of LLVM's intrinsics.
    """

    def __init__(
        self,
        kernel: Function,
        target: LlvmMachine,
        error_base: int = 0,
        instead: Mapping[str, ctypes._CFuncPtr] | None = None,
    ) -> None:
        self.kernel = kernel
        text = str(module_of(kernel, target, error_base))
        used = {}
        for at, (name, function) in enumerate((instead or {}).items()):
            text = text.replace(f'@"{name}"', f"@instead_{at}")
            used[f"instead_{at}"] = ctypes.cast(function, ctypes.c_void_p).value or 0
        self.code = NativeCode([compile_module(text, target)], ("call",), used)
        signature = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, *[ctypes.c_int64] * 2)
        self.call = signature(self.code.address("call"))

    def __call__(
        self, arrays: Sequence[np.ndarray], sizes: Mapping[str, int] | None = None, parts: int = 1
    ) -> int:
        """Runs the whole parallel extent in some parts; the error word."""
        sizes = dict(sizes or {})
        pointers = np.array([a.ctypes.data for a in arrays], np.int64)
        values = np.array([sizes[s] for s in self.kernel.attrs["symbols"]] or [0], np.int64)
        error = np.zeros(1, np.int64)
        extent = expr.substitute(parallel_extent(self.kernel), sizes)
        assert isinstance(extent, int)
        for p in range(parts):
            lo, hi = extent * p // parts, extent * (p + 1) // parts
            if lo < hi:
                self.call(pointers.ctypes.data, values.ctypes.data, error.ctypes.data, lo, hi)
        return int(error[0])
