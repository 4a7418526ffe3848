"""What this machine can do: its FMA rate and its read bandwidth, measured in native loops."""

from __future__ import annotations

import functools
from collections.abc import Callable
from time import perf_counter

import numpy as np
from llvmlite import ir

from pjit.backends.llvm.module import NativeCode, compile_module, new_module
from pjit.backends.llvm.target import function_attributes, host_machine
from pjit.ir.target import Limits

READ_SIZES = (1 << 15, 1 << 18, 1 << 20, 1 << 22, 1 << 24, 1 << 26)  # of the buffer of a thread
MOST_BYTES = 1 << 29  # of the buffers of all threads
FMA_ITERATIONS = 200_000  # of one measurement: half a millisecond
READ_BYTES = 1 << 23  # read in one measurement at least, a thread
READ_STREAMS = 8
_LINE = 64  # bytes
_COUNT, _MASK, _DATA = 0, 1, 2  # words of a job: iterations, the mask, one pointer a thread
_F32, _I64, _PTR = ir.FloatType(), ir.IntType(64), ir.PointerType()

Body = Callable[[ir.IRBuilder, ir.Value, ir.Value, list[ir.Value]], list[ir.Value]]


class Probe:
    """Measures what some threads can do together; each measurement takes about a millisecond.

    On a machine that does other things too the best of many measurements is the limit.

    Args:
        run: ``run(entry, job)`` runs a native program on all of the threads and waits for it.
        threads: How many threads.
        n_bytes: The size of the largest buffer that a thread reads, a power of two.
    """

    def __init__(
        self, run: Callable[[int, int], object], threads: int, n_bytes: int = READ_SIZES[-1]
    ) -> None:
        while n_bytes * threads > MOST_BYTES and n_bytes > READ_SIZES[0]:
            n_bytes //= 2
        self.threads, self.n_bytes, self._job = threads, n_bytes, run
        self._buffers = [_buffer(n_bytes) for _ in range(threads)]
        self._flops = 0.0
        self._rates: dict[int, float] = {}

    def fma(self) -> float:
        """f32 operations a second in registers only, an FMA counting as two."""
        loops = _loops()
        seconds = self._run("fma", FMA_ITERATIONS, 0)
        rate = 2 * loops.accumulators * loops.lanes * FMA_ITERATIONS * self.threads / seconds
        self._flops = max(self._flops, rate)
        return rate

    def read(self, n_bytes: int) -> float:
        """Bytes a second when each thread reads ``n_bytes`` of its own, over and over.

        ``n_bytes`` is a power of two, 4 KiB or more.
        """
        step = READ_STREAMS * _loops().lanes * 4
        count = max(READ_BYTES, n_bytes) // step
        seconds = self._run("read", count, n_bytes // (_loops().lanes * 4) - 1)
        rate = count * step * self.threads / seconds
        self._rates[n_bytes] = max(self._rates.get(n_bytes, 0.0), rate)
        return rate

    def read_all(self) -> None:
        """Reads from buffers of every size once."""
        for n in READ_SIZES:
            if n <= self.n_bytes:
                self.read(n)

    def limits(self) -> Limits:
        """The best of all measurements so far."""
        levels = tuple((n * self.threads, rate) for n, rate in sorted(self._rates.items()))
        return Limits(self.threads, self._flops, levels)

    def _run(self, name: str, count: int, mask: int) -> float:
        job = np.array([count, mask, *(a.ctypes.data for a in self._buffers)], np.int64)
        entry = _loops().code.address(name)
        start = perf_counter()
        self._job(entry, job.ctypes.data)
        return perf_counter() - start


class _Loops:
    """The two loops, compiled for this machine."""

    def __init__(self) -> None:
        self.machine = host_machine()
        self.lanes = self.machine.lanes(32)
        self.accumulators = self.machine.vector_registers * 3 // 4
        self.vector = ir.VectorType(_F32, self.lanes)
        module = new_module(self.machine, "limits")
        self._emit(module, "fma", self._fma, self.accumulators)
        self._emit(module, "read", self._read, READ_STREAMS)
        self.code = NativeCode([compile_module(module, self.machine)], ("fma", "read"))

    def _emit(self, module: ir.Module, name: str, body: Body, width: int) -> None:
        """``void name(ptr job, i64 thread, i64 threads)``: ``body`` on ``width`` registers, as
        often as the job says.

        ``body`` gets the first vector's index, a multiple of ``width`` masked to wrap around in
        ``data``, and returns the registers' new values. They start from ``data`` and end there, so
        nothing can be folded away.
        """
        fn = ir.Function(module, ir.FunctionType(ir.VoidType(), [_PTR, _I64, _I64]), name)
        for text in function_attributes(self.machine):
            set.add(fn.attributes, text)
        job, thread, _ = fn.args
        entry, loop, done = (fn.append_basic_block(label) for label in ("entry", "loop", "done"))
        b = ir.IRBuilder(entry)

        def word(at: ir.Value, kind: ir.Type) -> ir.Value:
            return b.load(b.gep(job, [at], source_etype=_I64), typ=kind)

        count, mask = word(_I64(_COUNT), _I64), word(_I64(_MASK), _I64)
        data = word(b.add(thread, _I64(_DATA)), _PTR)
        slots = [self._at(b, data, _I64(i)) for i in range(width)]
        initial = [b.load(slot, typ=self.vector, align=4) for slot in slots]
        b.branch(loop)
        b.position_at_end(loop)
        index = b.phi(_I64)
        registers = [b.phi(self.vector) for _ in slots]
        updated = body(b, data, b.and_(b.mul(index, _I64(width)), mask), registers)
        following = b.add(index, _I64(1))
        for phi, start, end in [
            (index, _I64(0), following),
            *zip(registers, initial, updated, strict=True),
        ]:
            phi.add_incoming(start, entry)
            phi.add_incoming(end, loop)
        b.cbranch(b.icmp_signed("<", following, count), loop, done)
        b.position_at_end(done)
        for slot, value in zip(slots, updated, strict=True):
            b.store(value, slot, align=4)
        b.ret_void()

    def _at(self, b: ir.IRBuilder, data: ir.Value, vector_index: ir.Value) -> ir.Value:
        return b.gep(data, [vector_index], source_etype=self.vector)

    def _fma(
        self, b: ir.IRBuilder, data: ir.Value, base: ir.Value, registers: list[ir.Value]
    ) -> list[ir.Value]:
        """Independent ``a = a * a + a``: every operand is a register of its own chain."""
        if not self.machine.fma:
            return [b.fadd(b.fmul(a, a), a) for a in registers]
        signature = ir.FunctionType(self.vector, [self.vector] * 3)
        fma = ir.Function(b.module, signature, f"llvm.fma.v{self.lanes}f32")
        return [b.call(fma, [a, a, a]) for a in registers]

    def _read(
        self, b: ir.IRBuilder, data: ir.Value, base: ir.Value, registers: list[ir.Value]
    ) -> list[ir.Value]:
        """Adds the next ``READ_STREAMS`` consecutive vectors to as many sums."""
        loads = [
            b.load(self._at(b, data, b.add(base, _I64(i))), typ=self.vector, align=4)
            for i in range(len(registers))
        ]
        return [b.fadd(a, x) for a, x in zip(registers, loads, strict=True)]


@functools.cache
def _loops() -> _Loops:
    return _Loops()


def _buffer(n_bytes: int) -> np.ndarray:
    """Ones, as pages of zeros that nobody wrote are one page; vectors lie in one cache line."""
    memory = np.ones(n_bytes // 4 + _LINE // 4, np.float32)
    start = -memory.ctypes.data % _LINE // 4
    return memory[start : start + n_bytes // 4]
