"""The worker pool, driven by small native programs."""

from __future__ import annotations

import gc
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import llvmlite.binding as llvm
import numpy as np
import pytest
from llvmlite import ir
from pool_programs import append, denormal, entry, gate, mark, new_module, parse, two_phases

from pjit.backends.llvm.pool import Pool
from pjit.backends.llvm.pool_code import CAPACITY, build_module
from pjit.backends.llvm.sync import HAS_FUTEX, emit_barrier

THREADS = (1, 2, 4)


@pytest.fixture(params=[pytest.param(True, id="futex"), pytest.param(False, id="naps")])
def make_pool(request: pytest.FixtureRequest) -> Iterator[Callable[[int], Pool]]:
    if request.param and not HAS_FUTEX:
        pytest.skip("no futex here")
    pools: list[Pool] = []

    def make(n_threads: int) -> Pool:
        pools.append(Pool(n_threads, futex=request.param))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


MakePool = Callable[[int], Pool]


@pytest.fixture
def make_gate(make_pool: MakePool) -> Iterator[Callable[[], np.ndarray]]:
    """Contexts of ``gate``; those that are still closed are opened, for pools to close."""
    gates: list[np.ndarray] = []

    def make() -> np.ndarray:
        gates.append(np.zeros(2, np.int64))
        return gates[-1]

    yield make
    for closed in gates:
        closed[0] = 1


MakeGate = Callable[[], np.ndarray]


@pytest.fixture
def worker_names() -> Callable[[], list[str]]:
    """The workers that are alive and were not when the test began."""
    gc.collect()
    others = set(threading.enumerate())

    def names() -> list[str]:
        new = [thread for thread in threading.enumerate() if thread not in others]
        return [thread.name for thread in new if thread.name.startswith("pjit-worker")]

    return names


@pytest.mark.parametrize("n", THREADS)
def test_every_worker_runs_every_job(make_pool: MakePool, n: int) -> None:
    pool, ctx, jobs = make_pool(n), np.zeros(n + 1, np.int64), 3 * CAPACITY + 7
    tickets = [pool.submit(entry(mark), ctx.ctypes.data) for _ in range(jobs)]
    assert tickets == list(range(1, jobs + 1))
    pool.wait(tickets[-1])
    assert all(pool.done(ticket) for ticket in tickets)
    assert ctx[:n].tolist() == [jobs * (thread + 1) for thread in range(n)]
    assert ctx[n] == jobs * n


@pytest.mark.parametrize("n", THREADS)
def test_jobs_run_one_after_another(make_pool: MakePool, n: int) -> None:
    pool, jobs = make_pool(n), 2000
    log = np.zeros(jobs + 1, np.int64)
    contexts = np.zeros((jobs, 3), np.int64)
    contexts[:, 0] = log.ctypes.data
    contexts[:, 1] = np.arange(1, jobs + 1)
    for context in contexts:
        last = pool.submit(entry(append), context.ctypes.data)
    pool.wait(last)
    assert log[0] == jobs
    assert log[1:].tolist() == list(range(1, jobs + 1))
    assert not contexts[:, 2].any()


@pytest.mark.parametrize("n", THREADS)
def test_a_caller_takes_the_place_of_the_first_worker(make_pool: MakePool, n: int) -> None:
    """In turn with jobs of the workers alone, and after pauses in which they fall asleep."""
    pool, ran = make_pool(n), 0
    contexts = np.zeros((300, n + 1), np.int64)
    for i, context in enumerate(contexts):
        address = context.ctypes.data
        if i % 3 == 0:
            pool.wait(pool.submit(entry(two_phases), address))
        else:
            assert pool.run(entry(two_phases), address)
            assert (context[1:] == n * (n + 1) // 2).all(), "it is complete"
            ran += 1
        if i % 50 == 0:
            time.sleep(0.002)
    assert ran == 200
    assert (contexts[:, 0] == 2 * n).all()
    assert pool.submit(entry(two_phases), np.zeros(n + 1, np.int64).ctypes.data) == 301


@pytest.mark.parametrize("n", THREADS)
def test_nothing_runs_beside_outstanding_jobs(
    make_pool: MakePool, make_gate: MakeGate, n: int
) -> None:
    pool, ctx, counts = make_pool(n), make_gate(), np.zeros(n + 1, np.int64)
    ticket = pool.submit(entry(gate), ctx.ctypes.data)
    assert not pool.run(entry(mark), counts.ctypes.data)
    assert not counts.any()
    ctx[0] = 1
    pool.wait(ticket)
    assert pool.run(entry(mark), counts.ctypes.data)
    assert counts.tolist() == [*range(1, n + 1), n]


def test_many_python_threads_run_and_submit(make_pool: MakePool) -> None:
    pool, jobs = make_pool(2), 200
    contexts = np.zeros((4, 3), np.int64)

    def work(index: int) -> None:
        address = contexts[index].ctypes.data
        for i in range(jobs):
            if i % 2 or not pool.run(entry(mark), address):
                pool.wait(pool.submit(entry(mark), address))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (contexts == [jobs, 2 * jobs, 2 * jobs]).all()


@pytest.mark.parametrize("n", THREADS)
def test_barrier_separates_phases(make_pool: MakePool, n: int) -> None:
    pool = make_pool(n)
    contexts = np.zeros((200, n + 1), np.int64)
    for context in contexts:
        last = pool.submit(entry(two_phases), context.ctypes.data)
    pool.wait(last)
    assert (contexts[:, 0] == 2 * n).all(), "arrivals at the two barriers"
    assert (contexts[:, 1:] == n * (n + 1) // 2).all()


def test_barrier_is_defined_once_per_module() -> None:
    module = new_module()
    barrier = emit_barrier(module)
    assert emit_barrier(module) is barrier
    assert barrier.linkage == "internal"
    parse(module)


def test_barrier_needs_a_target_triple() -> None:
    with pytest.raises(ValueError, match=r"set module\.triple first"):
        emit_barrier(ir.Module("nameless"))


@pytest.mark.parametrize("futex", [True, False])
@pytest.mark.parametrize(
    ("triple", "hint"),
    [
        ("x86_64-unknown-linux-gnu", "pause"),
        ("aarch64-unknown-linux-gnu", "yield"),
        ("riscv64-unknown-linux-gnu", None),
    ],
)
def test_compiles_for_other_targets(triple: str, hint: str | None, futex: bool) -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module = build_module(triple, futex)
    emit_barrier(module).linkage = "external"  # nothing calls it here
    machine = llvm.Target.from_triple(triple).create_target_machine(opt=2)
    assembly = machine.emit_assembly(parse(module)).split()
    assert {"pause", "yield"} & set(assembly) == ({hint} if hint else set())


def test_not_done_before_the_last_worker_left(make_pool: MakePool, make_gate: MakeGate) -> None:
    pool, ctx = make_pool(2), make_gate()
    ticket = pool.submit(entry(gate), ctx.ctypes.data)
    assert not pool.done(ticket)
    ctx[0] = 1
    pool.wait(ticket)
    assert pool.done(ticket)
    assert ctx[1] == 2


def test_many_python_threads_submit_and_wait(make_pool: MakePool) -> None:
    pool, n, jobs = make_pool(2), 8, 150
    contexts = np.zeros((n, 3), np.int64)
    tickets: list[int] = []
    failures: list[BaseException] = []

    def work(index: int) -> None:
        try:
            for done in range(1, jobs + 1):
                ticket = pool.submit(entry(mark), contexts[index].ctypes.data)
                tickets.append(ticket)
                if done % (index + 1) == 0:
                    pool.wait(ticket)
                    assert contexts[index, 2] == 2 * done
            pool.wait(ticket)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert sorted(tickets) == list(range(1, n * jobs + 1))
    assert (contexts[:, 2] == 2 * jobs).all()


def test_many_python_threads_wait_for_different_jobs(
    make_pool: MakePool, make_gate: MakeGate
) -> None:
    pool, n = make_pool(2), 12
    contexts = [make_gate() for _ in range(n)]
    tickets = [pool.submit(entry(gate), context.ctypes.data) for context in contexts]
    seen: dict[int, list[int]] = {}

    def work(index: int) -> None:
        pool.wait(tickets[index])
        seen[index] = [int(context[1]) for context in contexts[: index + 1]]

    threads = [threading.Thread(target=work, args=(index,)) for index in reversed(range(n))]
    for thread in threads:
        thread.start()
    for index, context in enumerate(contexts):
        assert index not in seen
        context[0] = 1
    for thread in threads:
        thread.join()
    assert seen == {index: [2] * (index + 1) for index in range(n)}


def test_submit_waits_for_a_free_slot(make_pool: MakePool, make_gate: MakeGate) -> None:
    pool, ctx, counts = make_pool(2), make_gate(), np.zeros(3, np.int64)
    first = pool.submit(entry(gate), ctx.ctypes.data)
    for _ in range(CAPACITY - 1):
        pool.submit(entry(mark), counts.ctypes.data)
    assert not pool.done(first), "the ring is full and nothing has waited"
    timer = threading.Timer(0.05, ctx.__setitem__, (0, 1))
    timer.start()
    last = pool.submit(entry(mark), counts.ctypes.data)
    assert pool.done(first), "there is a slot only once the first job is complete"
    assert last == CAPACITY + 1
    pool.wait(last)
    timer.join()
    assert counts[2] == 2 * CAPACITY


def test_idle_workers_burn_no_cpu(make_pool: MakePool) -> None:
    pool, ctx = make_pool(2), np.zeros(3, np.int64)
    pool.wait(pool.submit(entry(mark), ctx.ctypes.data))
    time.sleep(0.1)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.15, "two spinning workers would take 1 s"
    pool.wait(pool.submit(entry(mark), ctx.ctypes.data))
    assert ctx[2] == 4


@pytest.mark.skipif(not hasattr(resource, "RUSAGE_THREAD"), reason="no CPU time per thread here")
def test_a_waiting_thread_burns_no_cpu(make_pool: MakePool, make_gate: MakeGate) -> None:
    pool, ctx = make_pool(2), make_gate()
    timer = threading.Timer(0.4, ctx.__setitem__, (0, 1))
    before = resource.getrusage(resource.RUSAGE_THREAD)
    ticket = pool.submit(entry(gate), ctx.ctypes.data)
    timer.start()
    pool.wait(ticket)
    after = resource.getrusage(resource.RUSAGE_THREAD)
    timer.join()
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.2


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises, also in a process of a shell's background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_signal_interrupts_wait(
    make_pool: MakePool, make_gate: MakeGate, interruptible: None
) -> None:
    pool, ctx = make_pool(1), make_gate()
    ticket = pool.submit(entry(gate), ctx.ctypes.data)
    timer = threading.Timer(0.05, signal.pthread_kill, (threading.get_ident(), signal.SIGINT))

    def wait() -> None:
        timer.start()  # which may take longer than the time it is set to
        pool.wait(ticket)

    with pytest.raises(KeyboardInterrupt):
        wait()
    timer.join()
    assert not pool.done(ticket)
    ctx[0] = 1
    pool.wait(ticket)
    assert ctx[1] == 1


@pytest.mark.parametrize("n", THREADS)
def test_workers_keep_denormals(make_pool: MakePool, n: int) -> None:
    pool, smallest = make_pool(n), np.finfo(np.float64).tiny
    ctx = np.full(n + 1, smallest)
    pool.wait(pool.submit(entry(denormal), ctx.ctypes.data))
    assert (ctx[:n] == smallest / 2).all()
    assert smallest / 2 > 0


def test_close_finishes_what_was_submitted(
    worker_names: Callable[[], list[str]], make_pool: MakePool, make_gate: MakeGate
) -> None:
    pool, first, ctx = make_pool(2), make_gate(), np.zeros(3, np.int64)
    pool.submit(entry(gate), first.ctypes.data)
    tickets = [pool.submit(entry(mark), ctx.ctypes.data) for _ in range(50)]
    timer = threading.Timer(0.05, first.__setitem__, (0, 1))
    timer.start()
    pool.close()
    timer.join()
    assert ctx[2] == 100
    assert pool.done(tickets[-1])
    pool.wait(tickets[-1])
    assert not worker_names()


def test_close_twice_and_then_use(make_pool: MakePool) -> None:
    pool, ctx = make_pool(2), np.zeros(3, np.int64)
    pool.wait(pool.submit(entry(mark), ctx.ctypes.data))
    pool.close()
    pool.close()
    with pytest.raises(RuntimeError, match="the worker pool is closed"):
        pool.submit(entry(mark), ctx.ctypes.data)
    with pytest.raises(ValueError, match="closed pool has no job 2; its last job is 1"):
        pool.wait(2)


def test_close_before_the_first_job(make_pool: MakePool) -> None:
    pool = make_pool(2)
    pool.close()
    with pytest.raises(RuntimeError, match="the worker pool is closed"):
        pool.submit(entry(mark), 0)


def test_threads_start_at_the_first_job_and_end_with_the_pool(
    worker_names: Callable[[], list[str]],
) -> None:
    pool, ctx = Pool(3), np.zeros(4, np.int64)
    assert not worker_names()
    pool.wait(pool.submit(entry(mark), ctx.ctypes.data))
    assert worker_names() == [f"pjit-worker-{i}" for i in range(3)]
    del pool
    gc.collect()
    assert not worker_names()


def test_wrong_arguments(make_pool: MakePool) -> None:
    with pytest.raises(ValueError, match="n_threads=0"):
        Pool(0)
    pool = make_pool(1)
    with pytest.raises(ValueError, match="program is null"):
        pool.submit(0, 0)
    with pytest.raises(ValueError, match="this pool has no job 1; its last job is 0"):
        pool.wait(1)


def in_child(work: Callable[[], None], seconds: float = 20) -> int:
    """Forks, runs ``work`` in the child and returns the child's exit status; kills a hung child."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    pytest.fail(f"the child still ran after {seconds} s")


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_fork(make_pool: MakePool, make_gate: MakeGate) -> None:
    pool, ctx, slow = make_pool(2), np.zeros(3, np.int64), make_gate()
    finished = pool.submit(entry(mark), ctx.ctypes.data)
    pool.wait(finished)
    pending = pool.submit(entry(gate), slow.ctypes.data)
    queued = pool.submit(entry(mark), ctx.ctypes.data)

    def child() -> None:
        assert pool.done(finished)
        pool.wait(finished)
        for lost in (pending, queued):
            assert not pool.done(lost)
            with pytest.raises(RuntimeError, match=rf"job {lost} was submitted before os\.fork"):
                pool.wait(lost)
        own = np.zeros(3, np.int64)
        tickets = [pool.submit(entry(mark), own.ctypes.data) for _ in range(2 * CAPACITY)]
        assert tickets[0] == queued + 1
        pool.wait(tickets[-1])
        assert own.tolist() == [2 * CAPACITY, 4 * CAPACITY, 4 * CAPACITY]
        assert not pool.done(pending)
        assert in_child(lambda: pool.wait(pool.submit(entry(mark), own.ctypes.data))) == 0
        pool.close()

    assert in_child(child) == 0
    slow[0] = 1
    pool.wait(queued)
    assert ctx[2] == 4, "the parent ran its jobs"


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_fork_while_another_thread_submits(make_pool: MakePool) -> None:
    pool, ctx, run = make_pool(2), np.zeros(3, np.int64), entry(mark)
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            pool.wait(pool.submit(run, ctx.ctypes.data))

    thread = threading.Thread(target=work)
    thread.start()
    own = np.zeros(3, np.int64)
    try:
        for _ in range(5):
            assert in_child(lambda: pool.wait(pool.submit(run, own.ctypes.data))) == 0
    finally:
        stop.set()
        thread.join()


EXIT_SCRIPT = """
import llvmlite.binding as llvm
from pjit.backends.llvm.pool import Pool
llvm.initialize_native_target()
llvm.initialize_native_asmprinter()
module = llvm.parse_assembly(r'''
@text = constant [5 x i8] c"left\\0A"
declare i32 @usleep(i32)
declare i64 @write(i32, ptr, i64)
define void @run(ptr %ctx, i64 %thread, i64 %n) {
  call i32 @usleep(i32 100000)
  call i64 @write(i32 1, ptr @text, i64 5)
  ret void
}''')
machine = llvm.Target.from_default_triple().create_target_machine()
engine = llvm.create_mcjit_compiler(module, machine)
engine.finalize_object()
pool = Pool(2)
pool.submit(engine.get_function_address("run"), 0)
"""


def test_interpreter_exits_after_the_job_under_way() -> None:
    result = subprocess.run(
        [sys.executable, "-c", EXIT_SCRIPT], capture_output=True, text=True, timeout=60
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "left\n" * 2, "")


def test_state_is_not_shared_between_pools(make_pool: MakePool) -> None:
    pools = [make_pool(n) for n in (1, 2)]
    contexts = [np.zeros(3, np.int64) for _ in pools]
    for _ in range(100):
        for pool, ctx in zip(pools, contexts, strict=True):
            pool.submit(entry(mark), ctx.ctypes.data)
    for pool in pools:
        pool.wait(100)
    assert contexts[0].tolist() == [100, 100, 0]
    assert contexts[1].tolist() == [100, 200, 200]
