"""The native part of the worker pool: its memory, and what threads do in it; see ``pool``."""

from __future__ import annotations

from enum import IntEnum

import llvmlite.binding as llvm
from llvmlite import ir

from pjit.backends.llvm.arguments import emit_bind
from pjit.backends.llvm.helpers import compile_small
from pjit.backends.llvm.poll import CAN_POLL, emit_poll
from pjit.backends.llvm.resident import release
from pjit.backends.llvm.sync import (
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

CAPACITY = 256  # jobs that may be outstanding; a power of two
NOBODY = 2**63 - 1  # the ticket in WAKE_AT when no thread waits


class Cell(IntEnum):
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


CELLS = Cell.RING + 2 * CAPACITY
FUNCTIONS = tuple(f"pool_{n}" for n in "worker_loop wait run submit close fence spin bind".split())
FUNCTIONS += ("pool_poll",) * CAN_POLL
_RUN_TYPE = ir.FunctionType(VOID, [PTR, I64, I64])
_IDLE, _LEAVE = I64(-1), I64(-2)  # what a worker does instead of a job, whose numbers begin at 0


def _cell(b: ir.IRBuilder, state: ir.Value, cell: Cell) -> ir.Value:
    return b.gep(state, [I64(int(cell))], source_etype=I64, name=cell.name.lower())


def _load(b: ir.IRBuilder, state: ir.Value, cell: Cell) -> ir.Value:
    return b.load_atomic(_cell(b, state, cell), "seq_cst", 8, typ=I64)


def _store(b: ir.IRBuilder, state: ir.Value, cell: Cell, value: ir.Value) -> None:
    b.atomic_rmw("xchg", _cell(b, state, cell), value, "seq_cst")


def _load_event(b: ir.IRBuilder, state: ir.Value, cell: Cell) -> ir.Value:
    return b.load_atomic(_cell(b, state, cell), "seq_cst", 4, typ=I32)


def _slot(b: ir.IRBuilder, state: ir.Value, job: ir.Value, part: int) -> ir.Value:
    index = b.shl(b.and_(job, I64(CAPACITY - 1)), I64(1))
    return b.gep(state, [b.add(index, I64(Cell.RING + part))], source_etype=I64)


def _blocks(function: ir.Function, *names: str) -> list[ir.Block]:
    return [function.append_basic_block(name) for name in names]


def _emit_next_job(module: ir.Module) -> ir.Function:
    """``i64 next_job(state, thread, job)``: what a worker that has left ``job`` jobs does now."""
    function = define(module, "next_job", I64, [PTR, I64, I64])
    state, thread, job = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    closing = b.icmp_signed("!=", _load(b, state, Cell.CLOSING), I64(0))
    submitted = _load(b, state, Cell.SUBMITTED)
    called = _load(b, state, Cell.CALLED)  # a caller writes it before SUBMITTED
    is_first = b.icmp_signed("==", thread, I64(0))
    skips = b.and_(is_first, b.icmp_signed(">", called, job))
    job = b.select(skips, called, job)
    more = b.icmp_signed(">", submitted, job)
    free = b.icmp_signed(">=", _load(b, state, Cell.COMPLETED), job)
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
    rounds = b.load(_cell(b, state, Cell.SPIN_ROUNDS), typ=I64)
    is_first = b.icmp_signed("==", thread, I64(0))
    word, sleepers = (
        b.select(is_first, _cell(b, state, first), _cell(b, state, others))
        for first, others in (
            (Cell.FIRST_EVENT, Cell.OTHERS_EVENT),
            (Cell.FIRST_SLEEPERS, Cell.OTHERS_SLEEPERS),
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
    module: ir.Module, name: str, event: Cell, sleepers: Cell, futex: bool
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
    events = Cell.FIRST_EVENT, Cell.FIRST_SLEEPERS
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
    _store(b, state, Cell.COMPLETED, count)
    awaited = b.icmp_signed("<=", _load(b, state, Cell.WAKE_AT), count)
    b.cbranch(awaited, notify, check)
    b.position_at_end(notify)
    # A thread that announced itself before this store read the event word before it, so it will
    # find the word changed and announce itself again.
    _store(b, state, Cell.WAKE_AT, I64(NOBODY))
    b.call(emit_wake(module, futex), [_cell(b, state, Cell.DONE_EVENT)])
    b.branch(check)
    b.position_at_end(check)
    b.cbranch(b.icmp_signed(">", _load(b, state, Cell.SUBMITTED), count), more, done)
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
    n_threads = b.load(_cell(b, state, Cell.N_THREADS), typ=I64)
    address = b.load(_slot(b, state, job, 0), typ=I64)
    ctx = b.load(_slot(b, state, job, 1), typ=PTR)
    program = b.inttoptr(address, _RUN_TYPE.as_pointer())
    b.call(program, [ctx, thread, n_threads])
    count = b.add(job, I64(1))
    left = b.atomic_rmw("add", _cell(b, state, Cell.LEFT), I64(1), "acq_rel")
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
    first = b.load(_cell(b, state, Cell.FIRST), typ=I64)
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
    submitted = _load(b, state, Cell.SUBMITTED)
    outstanding = b.sub(submitted, _load(b, state, Cell.COMPLETED))
    b.cbranch(b.icmp_signed("<", outstanding, I64(CAPACITY)), put, full)
    b.position_at_end(put)
    b.store(run, _slot(b, state, submitted, 0))
    b.store(ctx, _slot(b, state, submitted, 1))
    ticket = b.add(submitted, I64(1))
    _store(b, state, Cell.SUBMITTED, ticket)
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
    job = _load(b, state, Cell.SUBMITTED)
    b.cbranch(b.icmp_signed("==", _load(b, state, Cell.COMPLETED), job), put, busy)

    b.position_at_end(put)
    b.store(run, _slot(b, state, job, 0))
    b.store(ctx, _slot(b, state, job, 1))
    count = b.add(job, I64(1))
    _store(b, state, Cell.CALLED, count)
    _store(b, state, Cell.SUBMITTED, count)
    b.call(notify_others, [state])
    b.call(take_part, [state, I64(0), job])
    b.branch(spin)

    b.position_at_end(spin)
    round_ = b.phi(I64, "round")
    complete = b.icmp_signed(">=", _load(b, state, Cell.COMPLETED), count)
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
    rounds = b.load(_cell(b, state, Cell.WAIT_ROUNDS), typ=I64)
    b.branch(spin)

    def complete() -> ir.Value:
        return b.icmp_signed(">=", _load(b, state, Cell.COMPLETED), ticket)

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
    event = _load_event(b, state, Cell.DONE_EVENT)
    b.atomic_rmw("min", _cell(b, state, Cell.WAKE_AT), ticket, "seq_cst")
    b.cbranch(complete(), done, sleep)
    b.position_at_end(sleep)
    word = _cell(b, state, Cell.DONE_EVENT)
    b.call(emit_sleep(module, futex), [word, event, timeout_ns])
    b.ret(b.zext(complete(), I64))
    b.position_at_end(done)
    b.ret(I64(1))


def _emit_close(module: ir.Module, notify_workers: ir.Function) -> None:
    """``void pool_close(state)``: tells the workers to leave after the last submitted job."""
    function = define(module, "pool_close", VOID, [PTR], internal=False)
    (state,) = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    _store(b, state, Cell.CLOSING, I64(1))
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
    _load(b, state, Cell.COMPLETED)
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
    events = Cell.OTHERS_EVENT, Cell.OTHERS_SLEEPERS
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
    if CAN_POLL:
        emit_poll(module, "pool_poll")
    return module


def make_code(futex: bool) -> bytes:
    """The object code of the native part of the pool."""
    triple = llvm.get_default_triple()
    code = compile_small(str(build_module(triple, futex)), (triple, "", ""))
    release()
    return code
