"""Runs calls without blocking the interpreter: a queue of native programs, one of host work.

Native programs go to a pool of worker threads, which runs them one after another. What needs Python
between native programs (operations without a lowering, calls that wait for such results) goes to
one dispatcher thread per engine, in order. A call keeps what it uses alive until it has ended; it
is looked after when its result is waited for, and when the next call begins.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pjit.backends.base import backend
from pjit.errors import ExecutionError, PjitError
from pjit.ir.call import ERROR_WORD, INTERRUPTED

if TYPE_CHECKING:
    from pjit.runtime.cache import Cache

CAPACITY = 256  # calls of the dispatcher that may be outstanding
SHARED = 1000  # calls after that of another thread for which the engine counts as shared


class Pool(Protocol):
    """Worker threads that run native programs, one program after another."""

    n_threads: int
    poll: int  # the address of what a long loop in a thread of Python calls, or 0

    def prepare(self) -> None:
        """Makes the pool's own code."""

    def submit(self, entry: int, ctx: int) -> int:
        """Queues ``entry(ctx, thread, n_threads)`` on all workers; returns a ticket."""

    def done(self, ticket: int) -> bool:
        """Whether all workers have left the program."""

    def wait(self, ticket: int) -> None:
        """Returns when the program is done; RuntimeError when a fork lost it."""

    def run(self, entry: int, ctx: int) -> bool:
        """Runs a program with the caller as one of the threads; False while another one runs."""

    def binder(
        self,
        expected: Sequence[tuple[type, np.dtype, tuple[int, ...]]],
        words: Sequence[int],
        staged: Sequence[int],
    ) -> Callable[[tuple, int], int] | None:
        """A function that passes arguments of known types to the context of a program, if it can.

        Args:
            expected: The type of each argument, its dtype and its shape.
            words: The words of the context that point to the arguments.
            staged: Bytes from the context to the place for a copy; -1: the argument is not copied.
        """


class NativeWork:
    """A call that is one native program in the queue of an engine.

    Args:
        engine: The engine that runs it.
        finish: Called once when the program is done, with the time (``perf_counter``) since when a
            thread waits for the result that has nothing else to do, or infinity; returns the error
            or None.
        keep: What has to stay alive until then.
        words: The context of a program that may run without end, else None.
    """

    __slots__ = ("_awaited", "_finish", "_keep", "_words", "engine", "error", "finished", "ticket")

    def __init__(
        self,
        engine: Engine,
        finish: Callable[[float], PjitError | None],
        keep: tuple[Any, ...],
        words: Any = None,
    ) -> None:
        self.engine, self._finish, self._keep, self._words = engine, finish, keep, words
        self.ticket, self.finished, self._awaited = 0, False, inf
        self.error: PjitError | None = None

    def ready(self) -> bool:
        """Whether the call has ended."""
        return self.finished or self.engine.pool.done(self.ticket)

    def wait(self) -> None:
        """Returns when the call has ended; raises its error."""
        if not self.finished:
            if self.engine.may_block():
                self._awaited = min(self._awaited, perf_counter())
            self.engine.settle(self)
        if self.error is not None:
            raise self.error.with_traceback(None)

    def output(self, index: int) -> np.ndarray:
        """Never asked for: the arrays of the results exist before the call ends."""
        raise AssertionError("the results of a native program are known before it runs")

    def interrupt(self) -> None:
        """Ends the loops of the program whose data decide how long they run."""
        words = self._words
        if words is not None and not words[ERROR_WORD]:
            words[ERROR_WORD] = INTERRUPTED

    def end(self, error: PjitError | None = None) -> None:
        """Marks the call as ended; only the engine calls it, once."""
        self.error = self._finish(self._awaited) if error is None else error
        self.finished = True
        self._words = None
        del self._finish, self._keep


class HostWork:
    """A call that the dispatcher runs."""

    __slots__ = ("__weakref__", "_event", "_outputs", "error")

    def __init__(self) -> None:
        self._event = threading.Event()
        self._outputs: Sequence[np.ndarray] = ()
        self.error: PjitError | None = None

    def ready(self) -> bool:
        """Whether the call has ended."""
        return self._event.is_set()

    def wait(self) -> None:
        """Returns when the call has ended; raises its error."""
        self._event.wait()
        if self.error is not None:
            raise self.error.with_traceback(None)

    def output(self, index: int) -> np.ndarray:
        """A result; the call has ended without error."""
        return self._outputs[index]

    def run(self, task: Callable[[], Sequence[np.ndarray]]) -> None:
        """Runs the call; every error becomes that of the call."""
        try:
            self._outputs = task()
        except PjitError as e:
            self.error = e
        except BaseException as e:
            self.error = ExecutionError("a call failed", got=f"{type(e).__name__}: {e}")
            self.error.__cause__ = e
        self._event.set()

    def fail(self, error: PjitError) -> None:
        """Ends a call that no thread runs."""
        self.error = error
        self._event = threading.Event()
        self._event.set()


class _Dispatcher:
    """One daemon thread that runs calls in order; it starts with the first one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        self._room = threading.BoundedSemaphore(CAPACITY)
        self._thread: threading.Thread | None = None
        self.works: weakref.WeakSet[HostWork] = weakref.WeakSet()

    def submit(self, work: HostWork, task: Callable[[], Sequence[np.ndarray]]) -> None:
        """Queues a call; waits only while ``CAPACITY`` calls are outstanding."""
        self._room.acquire()
        self.works.add(work)
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._loop, name="pjit-dispatcher", daemon=True
                )
                self._thread.start()
        self._queue.put((work, task))

    def drain(self) -> None:
        """Waits for the calls that were queued so far."""
        if self._thread is not None:
            last = HostWork()
            self.submit(last, tuple)
            last.wait()

    def _loop(self) -> None:
        while True:
            work, task = self._queue.get()
            work.run(task)
            del work, task  # nothing stays alive while the thread waits
            self._room.release()


class Engine:
    """Runs the calls of all programs of one back end and one number of threads.

    Args:
        pool: The worker threads.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        # Reentrant: a finalizer or a signal handler may wait for a call inside of it.
        self.lock = threading.RLock()
        self._last = self._ended = 0  # the last ticket, and one that is known to be done
        self._running: deque[NativeWork] = deque()  # in the order of their tickets
        self._dispatcher = _Dispatcher()
        self._at_exit: weakref.finalize | None = None
        self._caller: int | None = None  # the thread that called last
        self._shared = 0
        # Whether the thread with the lock runs a native program: a signal handler may see it.
        self.inside = False
        _engines.add(self)

    @property
    def threads(self) -> int:
        """The number of worker threads."""
        return self.pool.n_threads

    def called(self) -> None:
        """Takes note of a call, before the lock is taken: a thread that runs programs by itself has
        to learn that others want to call.
        """
        caller = threading.get_ident()
        if caller == self._caller:
            self._shared -= self._shared > 0
        else:
            self._shared = 0 if self._caller is None else SHARED
            self._caller = caller

    def may_block(self) -> bool:
        """Whether nothing has to wait while a call runs on this thread: no other thread called of
        late, and this one has no event loop.
        """
        asyncio = sys.modules.get("asyncio")
        return not self._shared and (asyncio is None or asyncio._get_running_loop() is None)

    def submit(self, work: NativeWork, entry: int, ctx: int) -> None:
        """Queues a native program and returns at once, unless the queue of the pool is full."""
        with self.lock:
            self._reap()
            work.ticket = self._last = self.pool.submit(entry, ctx)
            self._running.append(work)
            if self._at_exit is None:  # made after that of the pool, which waits, and called before
                self._at_exit = weakref.finalize(self, _interrupt, self._running)

    def dispatch(self, work: HostWork, task: Callable[[], Sequence[np.ndarray]]) -> None:
        """Queues a call for the dispatcher."""
        self._dispatcher.submit(work, task)

    def run(self, entry: int, ctx: int) -> None:
        """Runs a native program and waits for it."""
        with self.lock:
            self._last = ticket = self.pool.submit(entry, ctx)
        self._await(ticket)

    def help(self, entry: int, ctx: int) -> None:
        """Runs a native program on this thread and the workers; with the lock held."""
        if not self.pool.run(entry, ctx):
            self.run(entry, ctx)

    def idle(self) -> bool:
        """Whether no native program is running or queued; ask with the lock held."""
        if self.inside:
            return False
        if self._ended != self._last and self.pool.done(self._last):
            self._ended = self._last
        return self._ended == self._last

    def settle(self, work: NativeWork) -> None:
        """Waits for a call, and ends it and those before it."""
        try:
            self._await(work.ticket)
        except ExecutionError as e:
            with self.lock:
                if not work.finished:
                    work.end(e)
            return
        with self.lock:
            self._reap()

    def drain(self) -> None:
        """Waits for every call that was made so far."""
        self._dispatcher.drain()
        with self.lock:
            works = list(self._running)
        if works:
            self.settle(works[-1])

    def _await(self, ticket: int) -> None:
        try:
            self.pool.wait(ticket)
        except RuntimeError as e:
            raise _lost() from e
        except BaseException:  # of a signal handler
            with self.lock:
                _interrupt([w for w in self._running if w.ticket <= ticket])
            raise

    def _reap(self) -> None:
        """Ends the calls whose programs are done; with the lock held."""
        running, done = self._running, self.pool.done
        while running and done(running[0].ticket):
            running.popleft().end()

    def after_fork(self) -> None:
        """In the child of a fork: the threads are gone, and so is what they had not finished."""
        self.lock = threading.RLock()
        self._reap()
        for work in self._running:
            work.end(_lost())
        self._running.clear()
        self._last = self._ended = 0
        self.inside = False
        if self._at_exit is not None:  # made again after that of the new pool
            self._at_exit.detach()
            self._at_exit = None
        lost = [w for w in self._dispatcher.works if not w.ready()]
        self._dispatcher = _Dispatcher()
        for host in lost:
            host.fail(_lost())


def _interrupt(works: Iterable[NativeWork]) -> None:
    for work in list(works):
        work.interrupt()


def _lost() -> ExecutionError:
    return ExecutionError(
        "the call was made before os.fork() and had not ended: it runs in the parent process",
        got=f"a wait in process {os.getpid()}",
        remedy="wait for results before the fork, or call again in the child",
    )


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()
_by_key: dict[tuple[str, int], Engine] = {}
_key_lock = threading.Lock()


def engine(target: str, threads: int, store: Cache | None = None) -> Engine:
    """The engine of this process for a back end and a number of threads.

    Args:
        target: The back end.
        threads: The number of threads.
        store: Where a new pool looks for its own code, and stores it.

    Raises:
        PjitError: No back end is called ``target``.
    """
    with _key_lock:
        found = _by_key.get((target, threads))
        if found is None:
            code = None if store is None else store.code
            found = _by_key[target, threads] = Engine(backend(target).Pool(threads, store=code))
        return found


def _after_fork_in_child() -> None:
    global _key_lock
    _key_lock = threading.Lock()
    for e in list(_engines):
        e.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
