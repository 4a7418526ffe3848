"""The worker pool of the CPU backend: threads that live in native code and run compiled programs.

Every worker runs every job: a program is one function ``void run(ptr ctx, i64 thread, i64
n_threads)`` that all workers enter with the same ``ctx``. Jobs go through a ring in native memory
and run one after another; the workers start job k+1 when all of them have left job k. Nothing here
needs the interpreter between two jobs, and workers never hold the GIL. While no job is outstanding
a caller may take the place of the first worker in a job of its own; that worker sleeps on.

An idle worker spins for a tenth of a millisecond and then sleeps in the OS; a thread that waits for
a job does so sooner. Sleepers and wakers follow one protocol: the sleeper announces itself, reads
the event word, checks its condition once more, and sleeps only if the event word has not changed;
the waker makes the condition true, then looks for sleepers, then changes the event word. All of
these accesses are sequentially consistent, so one of the two always sees the other.
"""

from __future__ import annotations

import ctypes
import os
import platform
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import partial

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir

from pjit.backends.llvm.arguments import LAYOUT_HOLDS, emit_bind, table
from pjit.backends.llvm.module import NativeCode
from pjit.backends.llvm.resident import release
from pjit.backends.llvm.sync import (
    HAS_FUTEX,
    I32,
    I64,
    PAUSES_BEFORE_YIELD,
    PTR,
    VOID,
    define,
    emit_pause,
    emit_relax,
    emit_sleep,
    emit_wake,
    emit_yield,
)
from pjit.backends.llvm.target import initialize

CAPACITY = 256  # jobs that may be outstanding; a power of two
_IDLE_SECONDS = 100e-6  # how long a worker spins, for the next call of a caller in a loop
_WAIT_SECONDS = 30e-6  # how long a thread that waits for a job spins
_WAIT_SLICE_NS = 100_000_000  # a waiting thread returns to the interpreter this often
_NOBODY = 2**63 - 1  # the ticket in WAKE_AT when no thread waits
_ALIGNMENT = 128  # keeps groups of cells apart, also where cache lines are fetched in pairs

# What was stored under a name; else what a function makes, which is stored now.
Store = Callable[[str, Callable[[], bytes]], bytes]

# Machines whose plain loads are acquire loads: there a reader needs no fence.
_LOADS_ACQUIRE = platform.machine() in ("x86_64", "AMD64")


class _Cell(IntEnum):
    """Where things are in the pool's memory, in units of 8 bytes.

    Cells that different threads write are 128 bytes apart. Those called EVENT are i32.
    """

    SUBMITTED = 0  # jobs put into the ring, which is the last ticket
    CLOSING = 1
    CALLED = 2  # jobs up to the last one in which a caller was the first thread
    COMPLETED = 16  # jobs that all threads have left
    LEFT = 32  # times that a thread has left a job
    FIRST_EVENT = 48  # the first worker sleeps on it
    FIRST_SLEEPERS = 49  # 1 while it sleeps or is about to
    OTHERS_EVENT = 64  # the same for the other workers
    OTHERS_SLEEPERS = 65
    DONE_EVENT = 80  # threads in wait() sleep on it
    WAKE_AT = 81  # the lowest ticket that such a thread waits for
    N_THREADS = 96
    SPIN_ROUNDS = 97  # rounds of spinning of an idle worker
    WAIT_ROUNDS = 98  # the same of a thread in wait()
    FIRST = 99  # jobs that were complete when the pool started
    RING = 112  # CAPACITY pairs: the address of the program, the address of ctx


_CELLS = _Cell.RING + 2 * CAPACITY
_FUNCTIONS = tuple(f"pool_{n}" for n in "worker_loop wait run submit close fence spin bind".split())
_RUN_TYPE = ir.FunctionType(VOID, [PTR, I64, I64])
_IDLE, _LEAVE = I64(-1), I64(-2)  # what a worker does instead of a job, whose numbers begin at 0


def _cell(b: ir.IRBuilder, state: ir.Value, cell: _Cell) -> ir.Value:
    return b.gep(state, [I64(int(cell))], source_etype=I64, name=cell.name.lower())


def _load(b: ir.IRBuilder, state: ir.Value, cell: _Cell) -> ir.Value:
    return b.load_atomic(_cell(b, state, cell), "seq_cst", 8, typ=I64)


def _store(b: ir.IRBuilder, state: ir.Value, cell: _Cell, value: ir.Value) -> None:
    b.atomic_rmw("xchg", _cell(b, state, cell), value, "seq_cst")


def _load_event(b: ir.IRBuilder, state: ir.Value, cell: _Cell) -> ir.Value:
    return b.load_atomic(_cell(b, state, cell), "seq_cst", 4, typ=I32)


def _slot(b: ir.IRBuilder, state: ir.Value, job: ir.Value, part: int) -> ir.Value:
    index = b.shl(b.and_(job, I64(CAPACITY - 1)), I64(1))
    return b.gep(state, [b.add(index, I64(_Cell.RING + part))], source_etype=I64)


def _blocks(function: ir.Function, *names: str) -> list[ir.Block]:
    return [function.append_basic_block(name) for name in names]


def _emit_next_job(module: ir.Module) -> ir.Function:
    """``i64 next_job(state, thread, job)``: what a worker that has left ``job`` jobs does now."""
    function = define(module, "next_job", I64, [PTR, I64, I64])
    state, thread, job = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    closing = b.icmp_signed("!=", _load(b, state, _Cell.CLOSING), I64(0))
    submitted = _load(b, state, _Cell.SUBMITTED)
    called = _load(b, state, _Cell.CALLED)  # a caller writes it before SUBMITTED
    is_first = b.icmp_signed("==", thread, I64(0))
    skips = b.and_(is_first, b.icmp_signed(">", called, job))
    job = b.select(skips, called, job)
    more = b.icmp_signed(">", submitted, job)
    free = b.icmp_signed(">=", _load(b, state, _Cell.COMPLETED), job)
    at_end = b.select(closing, _LEAVE, _IDLE)
    b.ret(b.select(more, b.select(free, job, _IDLE), at_end))
    return function


def _emit_await_job(module: ir.Module, futex: bool) -> ir.Function:
    """``i64 await_job(state, thread, job)``: spins, then sleeps, until ``next_job`` is not idle."""
    next_job = _emit_next_job(module)
    function = define(module, "await_job", I64, [PTR, I64, I64])
    state, thread, job = function.args
    entry, spin, pause, doze, sleep, wake, done = _blocks(
        function, "entry", "spin", "pause", "doze", "sleep", "wake", "done"
    )
    b = ir.IRBuilder(entry)
    rounds = b.load(_cell(b, state, _Cell.SPIN_ROUNDS), typ=I64)
    is_first = b.icmp_signed("==", thread, I64(0))
    word, sleepers = (
        b.select(is_first, _cell(b, state, first), _cell(b, state, others))
        for first, others in (
            (_Cell.FIRST_EVENT, _Cell.OTHERS_EVENT),
            (_Cell.FIRST_SLEEPERS, _Cell.OTHERS_SLEEPERS),
        )
    )
    b.branch(spin)

    b.position_at_end(spin)
    round_ = b.phi(I64, "round")
    found = b.call(next_job, [state, thread, job])
    b.cbranch(b.icmp_signed("==", found, _IDLE), pause, done)
    b.position_at_end(pause)
    b.call(emit_relax(module), [round_])
    next_round = b.add(round_, I64(1))
    b.cbranch(b.icmp_signed("<", next_round, rounds), spin, doze)

    b.position_at_end(doze)
    b.atomic_rmw("add", sleepers, I64(1), "seq_cst")
    event = b.load_atomic(word, "seq_cst", 4, typ=I32)
    idle = b.icmp_signed("==", b.call(next_job, [state, thread, job]), _IDLE)
    b.cbranch(idle, sleep, wake)
    b.position_at_end(sleep)
    b.call(emit_sleep(module, futex), [word, event, I64(-1)])
    b.branch(wake)
    b.position_at_end(wake)
    b.atomic_rmw("sub", sleepers, I64(1), "seq_cst")
    b.branch(spin)
    round_.add_incoming(I64(0), entry)
    round_.add_incoming(next_round, pause)
    round_.add_incoming(I64(0), wake)

    b.position_at_end(done)
    b.ret(found)
    return function


def _emit_notify(
    module: ir.Module, name: str, event: _Cell, sleepers: _Cell, futex: bool
) -> ir.Function:
    """``void name(state)``: wakes the workers of a group if one of them sleeps."""
    function = define(module, name, VOID, [PTR])
    (state,) = function.args
    entry, notify, done = _blocks(function, "entry", "notify", "done")
    b = ir.IRBuilder(entry)
    b.cbranch(b.icmp_signed("!=", _load(b, state, sleepers), I64(0)), notify, done)
    b.position_at_end(notify)
    b.call(emit_wake(module, futex), [_cell(b, state, event)])
    b.branch(done)
    b.position_at_end(done)
    b.ret_void()
    return function


def _emit_notify_workers(module: ir.Module, notify_others: ir.Function, futex: bool) -> ir.Function:
    """``void notify_workers(state)``: wakes the workers that sleep."""
    events = _Cell.FIRST_EVENT, _Cell.FIRST_SLEEPERS
    notify_first = _emit_notify(module, "notify_first", *events, futex)
    function = define(module, "notify_workers", VOID, [PTR])
    (state,) = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    b.call(notify_first, [state])
    b.call(notify_others, [state])
    b.ret_void()
    return function


def _emit_complete(module: ir.Module, notify_workers: ir.Function, futex: bool) -> ir.Function:
    """``void complete(state, n)``: publishes that ``n`` jobs are complete and wakes who waits."""
    function = define(module, "complete", VOID, [PTR, I64])
    state, count = function.args
    entry, notify, check, more, done = _blocks(function, "entry", "notify", "check", "more", "done")
    b = ir.IRBuilder(entry)
    _store(b, state, _Cell.COMPLETED, count)
    awaited = b.icmp_signed("<=", _load(b, state, _Cell.WAKE_AT), count)
    b.cbranch(awaited, notify, check)
    b.position_at_end(notify)
    # A thread that announced itself before this store read the event word before it, so it will
    # find the word changed and announce itself again.
    _store(b, state, _Cell.WAKE_AT, I64(_NOBODY))
    b.call(emit_wake(module, futex), [_cell(b, state, _Cell.DONE_EVENT)])
    b.branch(check)
    b.position_at_end(check)
    b.cbranch(b.icmp_signed(">", _load(b, state, _Cell.SUBMITTED), count), more, done)
    b.position_at_end(more)
    b.call(notify_workers, [state])
    b.branch(done)
    b.position_at_end(done)
    b.ret_void()
    return function


def _emit_take_part(module: ir.Module, complete: ir.Function) -> ir.Function:
    """``i64 take_part(state, thread, job)``: runs a thread's part of a job; returns ``job + 1``."""
    function = define(module, "take_part", I64, [PTR, I64, I64])
    state, thread, job = function.args
    entry, last, done = _blocks(function, "entry", "last", "done")
    b = ir.IRBuilder(entry)
    n_threads = b.load(_cell(b, state, _Cell.N_THREADS), typ=I64)
    address = b.load(_slot(b, state, job, 0), typ=I64)
    ctx = b.load(_slot(b, state, job, 1), typ=PTR)
    program = b.inttoptr(address, _RUN_TYPE.as_pointer())
    b.call(program, [ctx, thread, n_threads])
    count = b.add(job, I64(1))
    left = b.atomic_rmw("add", _cell(b, state, _Cell.LEFT), I64(1), "acq_rel")
    all_left = b.icmp_signed("==", b.add(left, I64(1)), b.mul(count, n_threads))
    b.cbranch(all_left, last, done)
    b.position_at_end(last)
    b.call(complete, [state, count])
    b.branch(done)
    b.position_at_end(done)
    b.ret(count)
    return function


def _emit_worker_loop(module: ir.Module, take_part: ir.Function, futex: bool) -> None:
    """``void pool_worker_loop(state, thread)``: runs jobs until the pool closes."""
    await_job = _emit_await_job(module, futex)
    function = define(module, "pool_worker_loop", VOID, [PTR, I64], internal=False)
    state, thread = function.args
    entry, loop, run, done = _blocks(function, "entry", "loop", "run", "done")
    b = ir.IRBuilder(entry)
    first = b.load(_cell(b, state, _Cell.FIRST), typ=I64)
    b.branch(loop)

    b.position_at_end(loop)
    before = b.phi(I64, "before")
    job = b.call(await_job, [state, thread, before])
    b.cbranch(b.icmp_signed(">=", job, I64(0)), run, done)

    b.position_at_end(run)
    count = b.call(take_part, [state, thread, job])
    b.branch(loop)
    before.add_incoming(first, entry)
    before.add_incoming(count, run)

    b.position_at_end(done)
    b.ret_void()


def _emit_submit(module: ir.Module, notify_workers: ir.Function) -> None:
    """``i64 pool_submit(state, run, ctx)``: the ticket of the new job, or 0 if the ring is full.

    One thread at a time may call it.
    """
    function = define(module, "pool_submit", I64, [PTR, I64, I64], internal=False)
    state, run, ctx = function.args
    entry, put, full = _blocks(function, "entry", "put", "full")
    b = ir.IRBuilder(entry)
    submitted = _load(b, state, _Cell.SUBMITTED)
    outstanding = b.sub(submitted, _load(b, state, _Cell.COMPLETED))
    b.cbranch(b.icmp_signed("<", outstanding, I64(CAPACITY)), put, full)
    b.position_at_end(put)
    b.store(run, _slot(b, state, submitted, 0))
    b.store(ctx, _slot(b, state, submitted, 1))
    ticket = b.add(submitted, I64(1))
    _store(b, state, _Cell.SUBMITTED, ticket)
    b.call(notify_workers, [state])
    b.ret(ticket)
    b.position_at_end(full)
    b.ret(I64(0))


def _emit_run(module: ir.Module, notify_others: ir.Function, take_part: ir.Function) -> None:
    """``i64 pool_run(state, run, ctx)``: runs a job with the caller as its first thread; returns
    1 when it is complete, or 0, without running it, while jobs are outstanding.

    One thread at a time may call it or ``pool_submit``.
    """
    function = define(module, "pool_run", I64, [PTR, I64, I64], internal=False)
    state, run, ctx = function.args
    entry, put, spin, late, offer, again, done, busy = _blocks(
        function, "entry", "put", "spin", "late", "offer", "again", "done", "busy"
    )
    b = ir.IRBuilder(entry)
    job = _load(b, state, _Cell.SUBMITTED)
    b.cbranch(b.icmp_signed("==", _load(b, state, _Cell.COMPLETED), job), put, busy)

    b.position_at_end(put)
    b.store(run, _slot(b, state, job, 0))
    b.store(ctx, _slot(b, state, job, 1))
    count = b.add(job, I64(1))
    _store(b, state, _Cell.CALLED, count)
    _store(b, state, _Cell.SUBMITTED, count)
    b.call(notify_others, [state])
    b.call(take_part, [state, I64(0), job])
    b.branch(spin)

    b.position_at_end(spin)
    round_ = b.phi(I64, "round")
    complete = b.icmp_signed(">=", _load(b, state, _Cell.COMPLETED), count)
    b.cbranch(complete, done, late)
    b.position_at_end(late)
    emit_pause(b)
    next_round = b.add(round_, I64(1))
    b.cbranch(b.icmp_signed("<", round_, I64(PAUSES_BEFORE_YIELD)), again, offer)
    b.position_at_end(offer)
    emit_yield(b)
    b.branch(again)
    b.position_at_end(again)
    b.branch(spin)
    round_.add_incoming(I64(0), put)
    round_.add_incoming(next_round, again)

    b.position_at_end(done)
    b.ret(I64(1))
    b.position_at_end(busy)
    b.ret(I64(0))


def _emit_wait(module: ir.Module, futex: bool) -> None:
    """``i64 pool_wait(state, ticket, timeout_ns)``: 1 once the job is complete, 0 if not yet."""
    function = define(module, "pool_wait", I64, [PTR, I64, I64], internal=False)
    state, ticket, timeout_ns = function.args
    entry, spin, pause, doze, sleep, done = _blocks(
        function, "entry", "spin", "pause", "doze", "sleep", "done"
    )
    b = ir.IRBuilder(entry)
    rounds = b.load(_cell(b, state, _Cell.WAIT_ROUNDS), typ=I64)
    b.branch(spin)

    def complete() -> ir.Value:
        return b.icmp_signed(">=", _load(b, state, _Cell.COMPLETED), ticket)

    b.position_at_end(spin)
    round_ = b.phi(I64, "round")
    b.cbranch(complete(), done, pause)
    b.position_at_end(pause)
    b.call(emit_relax(module), [round_])
    next_round = b.add(round_, I64(1))
    b.cbranch(b.icmp_signed("<", next_round, rounds), spin, doze)
    round_.add_incoming(I64(0), entry)
    round_.add_incoming(next_round, pause)

    b.position_at_end(doze)
    event = _load_event(b, state, _Cell.DONE_EVENT)
    b.atomic_rmw("min", _cell(b, state, _Cell.WAKE_AT), ticket, "seq_cst")
    b.cbranch(complete(), done, sleep)
    b.position_at_end(sleep)
    word = _cell(b, state, _Cell.DONE_EVENT)
    b.call(emit_sleep(module, futex), [word, event, timeout_ns])
    b.ret(b.zext(complete(), I64))
    b.position_at_end(done)
    b.ret(I64(1))


def _emit_close(module: ir.Module, notify_workers: ir.Function) -> None:
    """``void pool_close(state)``: tells the workers to leave after the last submitted job."""
    function = define(module, "pool_close", VOID, [PTR], internal=False)
    (state,) = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    _store(b, state, _Cell.CLOSING, I64(1))
    b.call(notify_workers, [state])
    b.ret_void()


def _emit_fence(module: ir.Module) -> None:
    """``void pool_fence()``: orders the caller's earlier loads before its later ones."""
    function = define(module, "pool_fence", VOID, [], internal=False)
    b = ir.IRBuilder(function.append_basic_block("entry"))
    b.fence("acquire")
    b.ret_void()


def _emit_spin(module: ir.Module) -> None:
    """``void pool_spin(state, rounds)``: as many rounds of waiting, to measure one."""
    function = define(module, "pool_spin", VOID, [PTR, I64], internal=False)
    state, rounds = function.args
    entry, spin, done = _blocks(function, "entry", "spin", "done")
    b = ir.IRBuilder(entry)
    b.branch(spin)
    b.position_at_end(spin)
    round_ = b.phi(I64, "round")
    _load(b, state, _Cell.COMPLETED)
    b.call(emit_relax(module), [round_])
    next_round = b.add(round_, I64(1))
    b.cbranch(b.icmp_signed("<", next_round, rounds), spin, done)
    round_.add_incoming(I64(0), entry)
    round_.add_incoming(next_round, spin)
    b.position_at_end(done)
    b.ret_void()


def build_module(triple: str, futex: bool) -> ir.Module:
    """Builds the native part of the pool.

    Args:
        triple: the LLVM target triple.
        futex: whether threads sleep on a Linux futex or poll between short naps.
    """
    module = ir.Module("pjit_pool")
    module.triple = triple
    events = _Cell.OTHERS_EVENT, _Cell.OTHERS_SLEEPERS
    notify_others = _emit_notify(module, "notify_others", *events, futex)
    notify_workers = _emit_notify_workers(module, notify_others, futex)
    take_part = _emit_take_part(module, _emit_complete(module, notify_workers, futex))
    _emit_worker_loop(module, take_part, futex)
    _emit_submit(module, notify_workers)
    _emit_run(module, notify_others, take_part)
    _emit_wait(module, futex)
    _emit_close(module, notify_workers)
    _emit_fence(module)
    _emit_spin(module)
    emit_bind(module, "pool_bind")
    return module


def make_code(futex: bool) -> bytes:
    """The object code of the native part of the pool."""
    initialize(llvm.get_default_triple())
    machine = llvm.Target.from_default_triple().create_target_machine(
        opt=2, reloc="pic", codemodel="small"
    )
    module = llvm.parse_assembly(str(build_module(machine.triple, futex)))
    module.verify()
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=2))
    builder.getModulePassManager().run(module, builder)
    code = machine.emit_object(module)
    release()
    return code


class _Native:
    """The compiled functions of the pool, for Python."""

    def __init__(self, code: bytes) -> None:
        self._code = NativeCode([code], _FUNCTIONS)
        address, i64, ptr = self._code.address, ctypes.c_int64, ctypes.c_void_p
        # CFUNCTYPE releases the GIL. PYFUNCTYPE keeps it: for what takes about a microsecond.
        self.worker_loop = ctypes.CFUNCTYPE(None, ptr, i64)(address("pool_worker_loop"))
        self.wait = ctypes.CFUNCTYPE(i64, ptr, i64, i64)(address("pool_wait"))
        self.run = ctypes.CFUNCTYPE(i64, ptr, ptr, ptr)(address("pool_run"))
        self.submit = ctypes.PYFUNCTYPE(i64, ptr, ptr, ptr)(address("pool_submit"))
        self.close = ctypes.PYFUNCTYPE(None, ptr)(address("pool_close"))
        self.fence = ctypes.PYFUNCTYPE(None)(address("pool_fence"))
        self._spin = ctypes.PYFUNCTYPE(None, ptr, i64)(address("pool_spin"))
        self.bind = ctypes.PYFUNCTYPE(i64, ptr, ctypes.py_object, ptr)(address("pool_bind"))
        self.spin_rounds, self.wait_rounds = self._rounds_in(_IDLE_SECONDS, _WAIT_SECONDS)

    def _rounds_in(self, *seconds: float) -> list[int]:
        """Measures how many rounds take some times; a pause takes from 10 to 500 cycles."""
        cells = (ctypes.c_int64 * _CELLS)()
        rounds, fastest = 500, float("inf")
        for _ in range(5):
            start = time.perf_counter()
            self._spin(ctypes.addressof(cells), rounds)
            fastest = min(fastest, time.perf_counter() - start)
        return [max(1, int(rounds * s / fastest)) for s in seconds]


_natives: dict[bool, _Native] = {}


def _native(futex: bool, store: Store | None) -> _Native:
    found = _natives.get(futex)
    if found is None:
        make = partial(make_code, futex)
        name = f"pool {llvm.get_default_triple()} {futex}"
        found = _natives[futex] = _Native(make() if store is None else store(name, make))
    return found


class _Workers:
    """The running threads of a pool in one process, and the memory they share."""

    def __init__(self, n_threads: int, first: int, futex: bool, store: Store | None) -> None:
        self.native = native = _native(futex, store)
        self.pid = os.getpid()
        self.closed = False
        self._memory = ctypes.create_string_buffer(8 * _CELLS + _ALIGNMENT)
        self.state = -(-ctypes.addressof(self._memory) // _ALIGNMENT) * _ALIGNMENT
        self.cells = cells = (ctypes.c_int64 * _CELLS).from_address(self.state)
        cells[_Cell.SUBMITTED] = cells[_Cell.COMPLETED] = cells[_Cell.FIRST] = first
        self.completed = ctypes.c_int64.from_address(self.state + 8 * _Cell.COMPLETED)
        cells[_Cell.LEFT] = first * n_threads
        cells[_Cell.WAKE_AT] = _NOBODY
        cells[_Cell.N_THREADS] = n_threads
        cells[_Cell.SPIN_ROUNDS] = native.spin_rounds
        cells[_Cell.WAIT_ROUNDS] = native.wait_rounds
        self._threads: list[threading.Thread] = []
        try:
            for i in range(n_threads):
                thread = threading.Thread(
                    target=native.worker_loop,
                    args=(self.state, i),
                    name=f"pjit-worker-{i}",
                    daemon=True,
                )
                thread.start()
                self._threads.append(thread)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Lets the workers finish all submitted jobs and joins them."""
        if os.getpid() != self.pid:
            return  # the threads are in the parent of this process
        self.stop()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def stop(self) -> None:
        """Tells the workers to leave after the last submitted job."""
        if not self.closed:
            self.closed = True
            self.native.close(self.state)


class Pool:
    """Runs native programs on a fixed number of threads, one program after another.

    The threads start at the first :meth:`submit`. They end at :meth:`close`, when the pool is
    collected, or at the exit of the interpreter, and finish what was submitted before. All methods
    may be called from several Python threads.

    A child made by ``os.fork`` has no worker threads: there the pool starts new ones at the next
    ``submit``. Jobs that were complete at the fork stay complete in the child; the others are lost
    there (the parent still runs them), and to wait for them is an error.

    Args:
        n_threads: how many threads enter each program, one or more.
        futex: whether idle threads sleep on a Linux futex; otherwise they poll between naps of up
            to a millisecond.
        store: Where the pool's own object code is kept; by default it is made in each process.

    Raises:
        ValueError: ``n_threads`` is less than one.
    """

    def __init__(
        self, n_threads: int, *, futex: bool = HAS_FUTEX, store: Store | None = None
    ) -> None:
        if n_threads < 1:
            raise ValueError(f"a pool needs at least one thread, got n_threads={n_threads}")
        if futex and not HAS_FUTEX:
            raise ValueError("this system has no futex that pjit can use: pass futex=False")
        self.n_threads = n_threads
        self._futex, self._store = futex, store
        # Reentrant: a signal handler may submit while its thread is in submit().
        self._lock = threading.RLock()
        self._closed = False
        self._workers: _Workers | None = None
        self._finalizer: weakref.finalize | None = None
        self._first = 0  # the last ticket before the present workers
        self._lost: list[range] = []
        _pools.add(self)

    def prepare(self) -> None:
        """Makes the pool's own code, which otherwise the first :meth:`submit` does."""
        _native(self._futex, self._store)

    def submit(self, entry: int, ctx: int) -> int:
        """Puts a job into the queue and returns at once, unless CAPACITY jobs are outstanding.

        Args:
            entry: the address of ``void run(ptr ctx, i64 thread, i64 n_threads)``; its code must
                stay loaded until the job is complete.
            ctx: the address given to every worker; what it points to must live as long.

        Returns:
            The ticket of the job: 1 for the first one, then 2 and so on.

        Raises:
            RuntimeError: the pool is closed, or the system cannot start threads.
            ValueError: ``entry`` is null.
        """
        if not entry:
            raise ValueError("the address of the program is null")
        while True:
            with self._lock:
                workers = self._workers or self._start()
                if workers.closed:
                    raise RuntimeError("the worker pool is closed: it takes no more jobs")
                ticket = workers.native.submit(workers.state, entry, ctx)
            if ticket:
                return ticket
            self.wait(workers.cells[_Cell.SUBMITTED] - CAPACITY + 1)

    def run(self, entry: int, ctx: int) -> bool:
        """Runs a job in which the calling thread takes the place of the first worker.

        Args:
            entry: as for :meth:`submit`.
            ctx: as for :meth:`submit`.

        Returns:
            True when the job is complete; False, without running it, while jobs are outstanding.

        Raises:
            RuntimeError: the pool is closed, or the system cannot start threads.
        """
        with self._lock:
            workers = self._workers or self._start()
            if workers.closed:
                raise RuntimeError("the worker pool is closed: it takes no more jobs")
            return bool(workers.native.run(workers.state, entry, ctx))

    def binder(
        self,
        expected: Sequence[tuple[type, np.dtype, tuple[int, ...]]],
        words: Sequence[int],
        staged: Sequence[int],
    ) -> Callable[[tuple, int], int] | None:
        """A function ``bind(arguments, ctx)`` that passes a tuple to a program, or returns 0.

        Args:
            expected: For each argument its type, its dtype and its shape.
            words: The words of the context that point to the arguments.
            staged: Bytes from the context to the place for a copy; -1: the argument is not copied.

        Returns:
            The function; None where it is not known how this interpreter stores arrays.
        """
        if not LAYOUT_HOLDS:
            return None
        native = _native(self._futex, self._store)
        return partial(native.bind, table(expected, words, staged))

    def done(self, ticket: int) -> bool:
        """Whether all workers have left the job; what they wrote is then visible."""
        workers = self._workers
        if workers is None:
            return ticket <= self._first and not self._is_lost(ticket)
        if workers.completed.value < ticket or (self._lost and self._is_lost(ticket)):
            return False
        if not _LOADS_ACQUIRE:
            workers.native.fence()
        return True

    def wait(self, ticket: int) -> None:
        """Returns when the job is complete. The GIL is released meanwhile; Ctrl-C interrupts.

        Raises:
            RuntimeError: the job was lost in this process by a fork.
            ValueError: the pool never returned this ticket.
        """
        if self.done(ticket):
            return
        if self._is_lost(ticket):
            raise RuntimeError(
                f"job {ticket} was submitted before os.fork() and had not finished: it runs in "
                f"the parent, not in process {os.getpid()}. Wait for results before forking, or "
                "submit the job again in the child"
            )
        workers = self._workers
        last = self._first if workers is None else workers.cells[_Cell.SUBMITTED]
        if workers is None or ticket > last:
            state = "closed " if self._closed else ""
            raise ValueError(f"this {state}pool has no job {ticket}; its last job is {last}")
        while not workers.native.wait(workers.state, ticket, _WAIT_SLICE_NS):
            pass

    def close(self) -> None:
        """Finishes all submitted jobs and ends the threads; a second call does nothing."""
        with self._lock:
            self._closed = True
            workers = self._workers
            if workers is not None:
                workers.stop()
        if workers is not None:
            workers.close()

    def _is_lost(self, ticket: int) -> bool:
        return any(ticket in tickets for tickets in self._lost)

    def _start(self) -> _Workers:
        if self._closed:
            raise RuntimeError("the worker pool is closed: it takes no more jobs")
        self._workers = workers = _Workers(self.n_threads, self._first, self._futex, self._store)
        self._finalizer = weakref.finalize(self, workers.close)
        return workers

    def _forget_workers(self) -> None:
        """Called in the child of a fork, which has the pool's memory but not its threads."""
        self._lock = threading.RLock()
        workers, self._workers = self._workers, None
        if workers is None:
            return
        if self._finalizer is not None:
            self._finalizer.detach()
        completed, submitted = workers.completed.value, workers.cells[_Cell.SUBMITTED]
        if completed < submitted:
            self._lost.append(range(completed + 1, submitted + 1))
        self._first = submitted


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for pool in list(_pools):
        pool._forget_workers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
