"""Small native programs for the worker pool, and their addresses."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable

import llvmlite.binding as llvm
from llvmlite import ir

from pjit.backends.llvm.sync import I32, I64, PTR, VOID, declare, emit_barrier

DOUBLE = ir.DoubleType()


def parse(module: ir.Module) -> llvm.ModuleRef:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    return parsed


def program(module: ir.Module) -> tuple[ir.IRBuilder, ir.Value, ir.Value, ir.Value]:
    function = ir.Function(module, ir.FunctionType(VOID, [PTR, I64, I64]), "run")
    return ir.IRBuilder(function.append_basic_block("entry")), *function.args


def at(b: ir.IRBuilder, pointer: ir.Value, index: ir.Value) -> ir.Value:
    return b.gep(pointer, [index], source_etype=I64)


def new_module() -> ir.Module:
    module = ir.Module("test")
    module.triple = llvm.get_default_triple()
    return module


def mark() -> ir.Module:
    """ctx[thread] += thread + 1; ctx[n_threads] += 1 atomically."""
    module = new_module()
    b, ctx, thread, n_threads = program(module)
    own = at(b, ctx, thread)
    b.store(b.add(b.load(own, typ=I64), b.add(thread, I64(1))), own)
    b.atomic_rmw("add", at(b, ctx, n_threads), I64(1), "monotonic")
    b.ret_void()
    return module


def append() -> ir.Module:
    """Thread 0: ctx[0][ctx[0][0] += 1] = ctx[1], a log of which job ran, in plain stores.

    The last thread: counts in ctx[2] how often it saw a log whose length is not of this job or the
    one before, which happens if a job starts before all threads have left the one before.
    """
    module = new_module()
    b, ctx, thread, n_threads = program(module)
    log = b.load(ctx, typ=PTR)
    number = b.load(at(b, ctx, I64(1)), typ=I64)
    with b.if_then(b.icmp_signed("==", thread, I64(0))):
        length = b.add(b.load(log, typ=I64), I64(1))
        b.store(number, at(b, log, length))
        b.call(declare(module, "sched_yield", I32, []), [])
        b.atomic_rmw("xchg", log, length, "seq_cst")
    with b.if_then(b.icmp_signed("==", thread, b.sub(n_threads, I64(1)))):
        length = b.load_atomic(log, "seq_cst", 8, typ=I64)
        behind = b.sub(number, length)
        wrong = b.icmp_unsigned(">", behind, I64(1))
        late = at(b, ctx, I64(2))
        b.store(b.add(b.load(late, typ=I64), b.zext(wrong, I64)), late)
    b.ret_void()
    return module


def two_phases() -> ir.Module:
    """ctx[1 + t] = t + 1; barrier on ctx[0]; add up ctx[1:]; barrier; ctx[1 + t] = the sum."""
    module = new_module()
    barrier = emit_barrier(module)
    b, ctx, thread, n_threads = program(module)
    own = at(b, ctx, b.add(thread, I64(1)))
    b.store(b.add(thread, I64(1)), own)
    b.call(barrier, [ctx, n_threads])
    entry, loop, done = (
        b.block,
        b.function.append_basic_block("loop"),
        b.function.append_basic_block("done"),
    )
    b.branch(loop)
    b.position_at_end(loop)
    i, total = b.phi(I64), b.phi(I64)
    i_next = b.add(i, I64(1))
    total_next = b.add(total, b.load(at(b, ctx, i_next), typ=I64))
    for phi, first, again in ((i, I64(0), i_next), (total, I64(0), total_next)):
        phi.add_incoming(first, entry)
        phi.add_incoming(again, loop)
    b.cbranch(b.icmp_signed("<", i_next, n_threads), loop, done)
    b.position_at_end(done)
    b.call(barrier, [ctx, b.mul(n_threads, I64(2))])
    b.store(total_next, own)
    b.ret_void()
    return module


def gate() -> ir.Module:
    """Every thread waits until ctx[0] is not zero, then adds one to ctx[1]."""
    module = new_module()
    b, ctx, _, _ = program(module)
    closed, opened = (b.function.append_basic_block(name) for name in ("closed", "opened"))
    b.branch(closed)
    b.position_at_end(closed)
    b.call(declare(module, "usleep", I32, [I32]), [I32(1000)])
    is_open = b.icmp_signed("!=", b.load_atomic(ctx, "acquire", 8, typ=I64), I64(0))
    b.cbranch(is_open, opened, closed)
    b.position_at_end(opened)
    b.atomic_rmw("add", at(b, ctx, I64(1)), I64(1), "seq_cst")
    b.ret_void()
    return module


def denormal() -> ir.Module:
    """ctx[thread] = the double ctx[n_threads] / 2."""
    module = new_module()
    b, ctx, thread, n_threads = program(module)
    value = b.load(b.gep(ctx, [n_threads], source_etype=DOUBLE), typ=DOUBLE)
    half = b.fmul(value, DOUBLE(0.5))
    b.store(half, b.gep(ctx, [thread], source_etype=DOUBLE))
    b.ret_void()
    return module


@functools.cache
def engine_of(build: Callable[[], ir.Module]) -> llvm.ExecutionEngine:
    parsed = parse(build())
    engine = llvm.create_mcjit_compiler(
        parsed, llvm.Target.from_default_triple().create_target_machine()
    )
    engine.finalize_object()
    return engine


_making = threading.Lock()  # the cache lets two threads make one engine, and forgets the first


def entry(build: Callable[[], ir.Module]) -> int:
    with _making:
        return engine_of(build).get_function_address("run")
