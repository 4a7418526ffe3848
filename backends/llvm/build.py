"""From a program to object code: its kernels, and one native function for each segment.

A segment function ``void entry(ptr ctx, i64 thread, i64 threads)`` is entered by all threads. Each
takes its contiguous share of every launch; they meet where a launch needs what another one wrote.
The context is an array of 8-byte words: ``[0]`` the barrier counter and ``[8]`` the error word, each
on a cache line of its own; from ``[16]`` on the sizes of the program, then one pointer per slot.
"""

from __future__ import annotations

from llvmlite import ir as ll

from pjit.backends.llvm.emit import emit_kernel
from pjit.backends.llvm.module import compile_module, new_module
from pjit.backends.llvm.sync import emit_barrier
from pjit.backends.llvm.target import LlvmMachine
from pjit.ir.core import Module
from pjit.ir.loops import index_checks, kernels
from pjit.ir.program import LaunchStep, ProgramView, Segment

BARRIER_WORD, ERROR_WORD, FIRST_SIZE = 0, 8, 16
_I64, _PTR = ll.IntType(64), ll.PointerType()


def build(module: Module, view: ProgramView, machine: LlvmMachine) -> bytes:
    """The object code of a program; each segment's ``entry`` is an exported symbol."""
    return compile_module(build_ir(module, view, machine), machine)


def build_ir(module: Module, view: ProgramView, machine: LlvmMachine) -> ll.Module:
    """The LLVM IR of a program."""
    out = new_module(machine)
    emitted: dict[str, ll.Function] = {}
    failures = 0
    for kernel in kernels(module):
        emitted[kernel.name] = emit_kernel(kernel, machine, out, failures)
        failures += len(index_checks(kernel))
    for step in view.steps:
        if isinstance(step, Segment):
            _Run(out, view, step, emitted).emit()
    return out


class _Run:
    """The function of one segment."""

    def __init__(
        self, module: ll.Module, view: ProgramView, segment: Segment, kernels: dict[str, ll.Function]
    ) -> None:
        self.view, self.segment, self.kernels = view, segment, kernels
        kind = ll.FunctionType(ll.VoidType(), [_PTR, _I64, _I64])
        self.function = ll.Function(module, kind, segment.entry)
        self.ctx, self.thread, self.threads = self.function.args
        self.b = ll.IRBuilder(self.function.append_basic_block())
        self.barrier = emit_barrier(module)
        self.barriers = 0

    def emit(self) -> None:
        for step in self.segment.steps:
            if step.barrier:
                self._meet()
            self._launch(step)
        self.b.ret_void()

    def _word(self, at: int) -> ll.Value:
        return self.b.gep(self.ctx, [_I64(at)], source_etype=_I64)

    def _size(self, at: int) -> ll.Value:
        known = self.view.sizes[at]
        if isinstance(known, int):
            return _I64(known)
        return self.b.load(self._word(FIRST_SIZE + at), typ=_I64)

    def _slot(self, at: int) -> ll.Value:
        return self.b.load(self._word(FIRST_SIZE + len(self.view.sizes) + at), typ=_PTR)

    def _meet(self) -> None:
        self.barriers += 1
        target = self.b.mul(self.threads, _I64(self.barriers))
        self.b.call(self.barrier, [self._word(BARRIER_WORD), target])

    def _launch(self, step: LaunchStep) -> None:
        """Calls the kernel on this thread's share, unless it is empty."""
        b, extent = self.b, self._size(step.extent)
        wanted = b.sdiv(extent, _I64(step.grain)) if step.grain > 1 else extent
        many = b.icmp_signed("<", wanted, self.threads)
        sharing = b.select(many, wanted, self.threads)
        sharing = b.select(b.icmp_signed("<", sharing, _I64(1)), _I64(1), sharing)
        with b.if_then(b.icmp_signed("<", self.thread, sharing)):
            lo = b.sdiv(b.mul(extent, self.thread), sharing)
            hi = b.sdiv(b.mul(extent, b.add(self.thread, _I64(1))), sharing)
            with b.if_then(b.icmp_signed("<", lo, hi)):
                buffers = [self._slot(s) for s in step.slots]
                sizes = [self._size(s) for s in step.sizes]
                error = self._word(ERROR_WORD)
                b.call(self.kernels[step.kernel], [*buffers, *sizes, error, lo, hi])
