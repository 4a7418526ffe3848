"""What this machine can do: the FMA rate and the read bandwidth, measured with LLVM kernels.

``python tests/perf/machine.py`` prints both; ``bench.py`` measures the FMA rate in every run.
"""

from __future__ import annotations

import ctypes
import os
import platform
import threading
import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import llvmlite.binding as llvm
import llvmlite.ir as ll
import numpy as np

F32, I64, POINTER = ll.FloatType(), ll.IntType(64), ll.PointerType()
FMA_ITERATIONS = 1_000_000
READ_STREAMS = 8
READ_BYTES = 2**28  # read in one measurement, a thread


class _Jit:
    """The host's LLVM target, the vector shape it suggests, and the two compiled kernels."""

    def __init__(self) -> None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        features = llvm.get_host_cpu_features()
        arm = platform.machine().lower() in ("aarch64", "arm64")
        self.has_fma = arm or bool(features.get("fma"))
        if features.get("avx512f"):
            self.lanes, self.accumulators = 16, 24  # 32 registers
        elif features.get("avx"):
            self.lanes, self.accumulators = 8, 12  # 16 registers
        else:
            self.lanes, self.accumulators = 4, 24 if arm else 12
        self.vector = ll.VectorType(F32, self.lanes)
        module = ll.Module("machine")
        module.triple = llvm.get_process_triple()
        self._emit_loop(module, "fma", self._fma_body, self.accumulators)
        self._emit_loop(module, "read", self._read_body, READ_STREAMS)
        machine = llvm.Target.from_triple(module.triple).create_target_machine(
            cpu=llvm.get_host_cpu_name(), features=features.flatten(), opt=3, jit=True
        )
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(str(module)), machine)
        self._engine.finalize_object()
        signature = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
        self.fma = signature(self._engine.get_function_address("fma"))
        self.read = signature(self._engine.get_function_address("read"))

    def _emit_loop(
        self,
        module: ll.Module,
        name: str,
        body: Callable[[ll.IRBuilder, ll.Value, ll.Value, list[ll.Value]], list[ll.Value]],
        width: int,
    ) -> None:
        """``void name(ptr data, i64 n, i64 mask)``: n times ``body`` on ``width`` registers.

        ``body`` gets the first vector's index, a multiple of ``width`` masked to wrap around in
        ``data``, and returns the registers' new values. They start
        from ``data`` and end there, so nothing can be folded away.
        """
        fn = ll.Function(module, ll.FunctionType(ll.VoidType(), [POINTER, I64, I64]), name)
        data, count, mask = fn.args
        entry, loop, done = (fn.append_basic_block(label) for label in ("entry", "loop", "done"))
        b = ll.IRBuilder(entry)
        slots = [self._at(b, data, I64(i)) for i in range(width)]
        initial = [b.load(slot, typ=self.vector, align=4) for slot in slots]
        b.branch(loop)
        b.position_at_end(loop)
        index = b.phi(I64)
        registers = [b.phi(self.vector) for _ in slots]
        updated = body(b, data, b.and_(b.mul(index, I64(width)), mask), registers)
        following = b.add(index, I64(1))
        for phi, start, end in [
            (index, I64(0), following),
            *zip(registers, initial, updated, strict=True),
        ]:
            phi.add_incoming(start, entry)
            phi.add_incoming(end, loop)
        b.cbranch(b.icmp_signed("<", following, count), loop, done)
        b.position_at_end(done)
        for slot, value in zip(slots, updated, strict=True):
            b.store(value, slot, align=4)
        b.ret_void()

    def _at(self, b: ll.IRBuilder, data: ll.Value, vector_index: ll.Value) -> ll.Value:
        return b.gep(data, [vector_index], source_etype=self.vector)

    def _fma_body(
        self, b: ll.IRBuilder, data: ll.Value, base: ll.Value, registers: list[ll.Value]
    ) -> list[ll.Value]:
        """Independent ``a = a * a + a``: every operand is a register of its own chain."""
        if not self.has_fma:
            return [b.fadd(b.fmul(a, a), a) for a in registers]
        signature = ll.FunctionType(self.vector, [self.vector] * 3)
        intrinsic = ll.Function(b.module, signature, f"llvm.fma.v{self.lanes}f32")
        return [b.call(intrinsic, [a, a, a]) for a in registers]

    def _read_body(
        self, b: ll.IRBuilder, data: ll.Value, base: ll.Value, registers: list[ll.Value]
    ) -> list[ll.Value]:
        """Add the next ``READ_STREAMS`` consecutive vectors to as many sums."""
        loads = [
            b.load(self._at(b, data, b.add(base, I64(i))), typ=self.vector, align=4)
            for i in range(len(registers))
        ]
        return [b.fadd(a, x) for a, x in zip(registers, loads, strict=True)]


@cache
def _jit() -> _Jit:
    return _Jit()


def _concurrently(calls: list[Callable[[], Any]]) -> float:
    """Seconds from a common start to the end of the last call, one thread a call."""
    gate = threading.Barrier(len(calls) + 1)

    def work(call: Callable[[], Any]) -> None:
        gate.wait()
        call()

    workers = [threading.Thread(target=work, args=(call,)) for call in calls]
    for worker in workers:
        worker.start()
    gate.wait()
    start = time.perf_counter()
    for worker in workers:
        worker.join()
    return time.perf_counter() - start


def fma_rate(threads: int) -> float:
    """f32 GFLOP/s (an FMA counts as two) of ``threads`` threads at once, in registers only.

    One call lasts a few milliseconds; the maximum over calls is the limit.
    """
    jit = _jit()
    size = jit.accumulators * jit.lanes
    buffers = [np.zeros(size, np.float32) for _ in range(threads)]
    seconds = _concurrently(
        [partial(jit.fma, data.ctypes.data, FMA_ITERATIONS, 0) for data in buffers]
    )
    return 2 * size * FMA_ITERATIONS * threads / seconds / 1e9


def read_bandwidth(n_bytes: int, threads: int) -> float:
    """GB/s at which ``threads`` threads read a buffer of ``n_bytes`` each, over and over.

    ``n_bytes`` is a power of two, 4 KiB or more.
    """
    jit = _jit()
    mask = n_bytes // (jit.lanes * 4) - 1
    iterations = READ_BYTES // (READ_STREAMS * jit.lanes * 4)
    buffers = [np.zeros(n_bytes // 4, np.float32) for _ in range(threads)]
    seconds = _concurrently(
        [partial(jit.read, data.ctypes.data, iterations, mask) for data in buffers]
    )
    return READ_BYTES * threads / seconds / 1e9


def describe() -> dict[str, Any]:
    """The processor's name, its usable core count and the vector width in bits."""
    return {
        "cpu": llvm.get_host_cpu_name(),
        "cores": available_cores(),
        "vector_bits": _jit().lanes * 32,
        "system": platform.platform(),
    }


def available_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def main() -> None:
    """Print the limits of one thread and of all."""
    print(describe())
    for threads in sorted({1, available_cores()}):
        best = max(fma_rate(threads) for _ in range(10))
        print(f"{threads} thread(s): {best:.0f} GFLOP/s f32")
        for label, n_bytes in [("32 KiB", 2**15), ("512 KiB", 2**19), ("256 MiB", 2**28)]:
            best = max(read_bandwidth(n_bytes, threads) for _ in range(5))
            print(f"  reads of {label} a thread: {best:.0f} GB/s")


if __name__ == "__main__":
    main()
