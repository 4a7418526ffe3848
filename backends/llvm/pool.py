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
from functools import partial

import llvmlite.binding as llvm
import numpy as np

from pjit.backends.llvm.arguments import LAYOUT_HOLDS, table
from pjit.backends.llvm.module import NativeCode
from pjit.backends.llvm.poll import CAN_POLL, python_functions
from pjit.backends.llvm.pool_code import (
    CAPACITY,
    CELLS,
    FUNCTIONS,
    NOBODY,
    Cell,
    make_code,
)
from pjit.backends.llvm.sync import HAS_FUTEX

_IDLE_SECONDS = 100e-6  # how long a worker spins, for the next call of a caller in a loop
_WAIT_SECONDS = 30e-6  # how long a thread that waits for a job spins
_WAIT_SLICE_NS = 100_000_000  # a waiting thread returns to the interpreter this often
_ALIGNMENT = 128  # keeps groups of cells apart, also where cache lines are fetched in pairs

# What was stored under a name; else what a function makes, which is stored now.
Store = Callable[[str, Callable[[], bytes]], bytes]

# Machines whose plain loads are acquire loads: there a reader needs no fence.
_LOADS_ACQUIRE = platform.machine() in ("x86_64", "AMD64")


class _Native:
    """The compiled functions of the pool, for Python."""

    def __init__(self, code: bytes) -> None:
        self._code = NativeCode([code], FUNCTIONS, python_functions() if CAN_POLL else None)
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
        self.poll = address("pool_poll") if CAN_POLL else 0
        self.spin_rounds, self.wait_rounds = self._rounds_in(_IDLE_SECONDS, _WAIT_SECONDS)

    def _rounds_in(self, *seconds: float) -> list[int]:
        """Measures how many rounds take some times; a pause takes from 10 to 500 cycles."""
        cells = (ctypes.c_int64 * CELLS)()
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
        self._memory = ctypes.create_string_buffer(8 * CELLS + _ALIGNMENT)
        self.state = -(-ctypes.addressof(self._memory) // _ALIGNMENT) * _ALIGNMENT
        self.cells = cells = (ctypes.c_int64 * CELLS).from_address(self.state)
        cells[Cell.SUBMITTED] = cells[Cell.COMPLETED] = cells[Cell.FIRST] = first
        self.completed = ctypes.c_int64.from_address(self.state + 8 * Cell.COMPLETED)
        cells[Cell.LEFT] = first * n_threads
        cells[Cell.WAKE_AT] = NOBODY
        cells[Cell.N_THREADS] = n_threads
        cells[Cell.SPIN_ROUNDS] = native.spin_rounds
        cells[Cell.WAIT_ROUNDS] = native.wait_rounds
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
            self.wait(workers.cells[Cell.SUBMITTED] - CAPACITY + 1)

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

    @property
    def poll(self) -> int:
        """The address of what a long loop in a thread of Python calls; 0 where there is none."""
        return _native(self._futex, self._store).poll

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
        last = self._first if workers is None else workers.cells[Cell.SUBMITTED]
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
        completed, submitted = workers.completed.value, workers.cells[Cell.SUBMITTED]
        if completed < submitted:
            self._lost.append(range(completed + 1, submitted + 1))
        self._first = submitted


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for pool in list(_pools):
        pool._forget_workers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
