"""A compiled program: checks the inputs of a call, gives it memory, and hands it to the engine."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from threading import get_ident, main_thread
from time import perf_counter
from typing import Any, NoReturn, Protocol

import numpy as np

from pjit.array import Array, Work, as_numpy
from pjit.errors import ExecutionError, InputError, PjitError
from pjit.ir import expr
from pjit.ir.arrays import aligned
from pjit.ir.call import ERROR_WORD, INTERRUPTED, POLL_WORD, POLLED_WORD, RAISED_WORD, RAISED_WORDS
from pjit.ir.errors import listing
from pjit.ir.program import LoopStep, ProgramView, Segment
from pjit.ir.types import TensorType
from pjit.ir.types import dtype as dtype_of
from pjit.runtime.engine import Engine, HostWork, NativeWork
from pjit.runtime.hosted import HostedCall, HostOperation
from pjit.runtime.memory import address_of, allocate, no_memory
from pjit.runtime.pace import SOON, Pace
from pjit.runtime.plan import Arena, Frame, Layout, Plan, estimated_seconds, sizes_of
from pjit.runtime.signature import Signature, Spec

MAX_PLANS = 64
MAX_PLAN_BYTES = 16 << 20
_SCALAR_BYTES = 8  # scalars of NumPy that are as long begin where all do

_main_thread = main_thread().ident


def _after_fork_in_child() -> None:
    global _main_thread
    _main_thread = main_thread().ident


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

_FIRST, _ONE = ctypes.c_int64(0), ctypes.c_int64(1)
_ENTRY = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)


class Code(Protocol):
    """Loaded machine code."""

    def address(self, symbol: str) -> int:
        """The address of a function."""

    def close(self) -> None:
        """Frees the code."""


class _Native:
    """Loaded code and its entries; freed when no program and no call uses it any more."""

    def __init__(self, code: Code, view: ProgramView) -> None:
        self.entries = {
            step.entry: code.address(step.entry) for step in view.steps if isinstance(step, Segment)
        }
        self.close = weakref.finalize(self, code.close)
        self.close.atexit = False  # workers may be running it until the process ends


class Runnable:
    """A compiled function of arrays.

    Args:
        view: What the program consists of.
        code: Its machine code.
        constants: Its constants, by name.
        engine: What runs it.
        sync: Whether a call waits until it has ended.
    """

    def __init__(
        self,
        view: ProgramView,
        code: Code,
        constants: Mapping[str, np.ndarray],
        engine: Engine,
        *,
        sync: bool = False,
    ) -> None:
        self.view, self.engine, self.sync = view, engine, sync
        self.inputs = tuple(Spec.of(n, t) for n, t in view.inputs)
        self.outputs = tuple(Spec.of(n, t) for n, _, t in view.results)
        self.signature = Signature(view.inputs, view.symbols, view.checks)
        used = {s.name for s in view.slots if s.kind == "constant"}
        self.constants = {
            name: aligned(array) if name in used else array for name, array in constants.items()
        }
        self.layout = Layout.of(view, self.constants, engine.threads)
        self._host = tuple(
            HostOperation(step, self.constants)
            for step in view.steps
            if not isinstance(step, Segment)
        )
        self._native: _Native | None = _Native(code, view)
        self._single = (
            _ENTRY(self._native.entries[view.steps[0].entry])
            if len(view.steps) == 1 and isinstance(view.steps[0], Segment)
            else None
        )
        segments = [step for step in view.steps if isinstance(step, Segment)]
        self._endless = any(
            isinstance(step, LoopStep) and step.count is None for s in segments for step in s.walk()
        )
        self._entry = next(iter(self._native.entries.values()), 0)
        self._plans: dict[tuple, Plan] = {}
        self._clock = 0
        self._arena: Arena | None = None
        self._latest: Plan | None = None  # of the last call that went the long way on its thread
        self._direct: tuple[Plan, Callable[[tuple, int], int]] | None = None

    # Calls

    def __call__(self, args: Sequence[Any]) -> list[Array]:
        """Runs the program on one array per input.

        NumPy arrays are copied unless the call ends before this returns, so the caller may change
        them; a ``pjit.Array`` is not copied, and may still be computed.

        Returns:
            One array per output.

        Raises:
            InputError: An input is missing, or its type or shape is wrong.
            ExecutionError: The program is closed; or, with ``sync``, the call failed.
        """
        dtypes = self.signature.dtypes
        if len(args) != len(dtypes):
            raise self._wrong_count(len(args))
        if self._single is None:
            return self._dispatch(args)
        values, pending = args, []
        for a, dt in zip(args, dtypes, strict=True):
            if type(a) is not np.ndarray or a.dtype is not dt:
                pending = [a for a in args if type(a) is Array and a._work is not None]
                if not all(self._runs_before(a._work) for a in pending):
                    return self._dispatch(args)
                values = [self._converted(at, a) for at, a in enumerate(args)]
                break
        key = tuple([v.shape for v in values])
        plan = self._plans.get(key) or self._new_plan(key)
        self._clock = plan.stamp = self._clock + 1
        self.engine.called()
        if self._runs_here(plan.pace) and not pending:
            results = self._call_inline(plan, args, values)
            if results is not None:
                self._prepare(plan, args)
                return results
        return self._call_native(plan, args, values, pending)

    def _runs_before(self, work: Work | None) -> bool:
        """Whether a call is in the queue that the next call goes into."""
        return type(work) is NativeWork and work.engine is self.engine

    def _call_inline(
        self, plan: Plan, args: Sequence[Any], values: Sequence[np.ndarray]
    ) -> list[Array] | None:
        """Runs a program on this thread; None when the engine has something to run first."""
        engine = self.engine
        assert self._single is not None
        with engine.lock:
            if not engine.idle():
                return None
            self._open()
            frame, made = self._frame(plan)
            inputs = self._pass_inputs(frame, values)
            code = self._run(plan, frame)
        del inputs  # alive until here
        return self._arrays(plan, made, args, values, self._failed(code) if code else None)

    def _runs_here(self, pace: Pace) -> bool:
        """Whether a call runs on this thread, if nothing else is running."""
        return pace.inline and (not pace.patient or self.engine.may_block())

    def _run(self, plan: Plan, frame: Frame) -> int:
        """Runs a program on this thread; its error code. The context is given back."""
        pace, words = plan.pace, frame.words
        timed = pace.timed()
        start = perf_counter() if timed else 0.0
        if pace.helped:
            self.engine.help(self._entry, frame.address)
        elif self._endless:
            self._run_endless(frame)
        else:
            assert self._single is not None
            self._single(frame.pointer, _FIRST, _ONE)
        if timed:
            pace.ran(perf_counter() - start)
        code = words[ERROR_WORD]
        plan.give(frame)
        if code and words[RAISED_WORD]:
            _raise(words)
        return code

    def _run_endless(self, frame: Frame) -> None:
        """Runs a program whose loops may not end, so that Python's signal handlers may run."""
        words, engine = frame.words, self.engine
        polls = get_ident() == _main_thread
        if polls:
            words[POLL_WORD], words[POLLED_WORD] = self._poll, int(perf_counter() * 1e9)
        engine.inside = True
        try:
            assert self._single is not None
            self._single(frame.pointer, _FIRST, _ONE)
        finally:
            engine.inside = False
        words[POLL_WORD] = 0

    @cached_property
    def _poll(self) -> int:
        """The address of what endless loops call."""
        return self.engine.pool.poll

    def _failed(self, code: int) -> HostWork:
        """A call that ended with an error."""
        work = HostWork()
        work.fail(self.failure(code))
        if self.sync:
            work.wait()
        return work

    def quick(self, args: tuple) -> list[Array] | None:
        """The results for arguments of the types and shapes of the last calls, which were short.

        Args:
            args: Arrays and scalars of NumPy.

        Returns:
            One array per output; None when the call has to go the long way, which says why.
        """
        direct = self._direct
        if direct is None:
            return None
        plan, bind = direct
        engine = self.engine
        if not self._runs_here(plan.pace):
            return None  # and takes note of the call there
        engine.called()
        with engine.lock:
            if not (plan.pace.inline and engine.idle()) or self._native is None:
                return None
            frame, made = self._frame(plan)
            if not bind(args, frame.address):
                plan.give(frame)
                return None
            code = self._run(plan, frame)
        self._clock = plan.stamp = self._clock + 1
        work = self._failed(code) if code else None
        return [
            Array._of(made[r.at].reshape(r.shape) if r.reshaped else made[r.at], work)
            for r in plan.results
        ]

    def _prepare(self, plan: Plan, args: Sequence[Any]) -> None:
        """Prepares ``quick`` for calls like one that went the long way, the second of its kind."""
        if self._direct is not None and self._direct[0] is plan:
            return  # these arguments are of another kind
        again, self._latest, self._direct = plan is self._latest, plan, None
        if not again or not all(r.kind == "made" for r in plan.results):
            return
        kinds = []
        for a, dtype in zip(args, self.signature.dtypes, strict=True):
            scalar = type(a) is dtype.type and a.nbytes <= _SCALAR_BYTES
            if not scalar and (type(a) is not np.ndarray or a.dtype is not dtype):
                return
            kinds.append((type(a), dtype, a.shape))
        with self.engine.lock:
            frame, _ = self._frame(plan)
            staged = [-1 if c is None else at - frame.address for c, at in frame.staged]
            plan.give(frame)
        bind = self.engine.pool.binder(kinds, self.layout.inputs, staged)
        self._direct = None if bind is None else (plan, bind)

    def _call_native(
        self, plan: Plan, args: Sequence[Any], values: Sequence[np.ndarray], pending: list[Array]
    ) -> list[Array]:
        """Puts the program into the queue of the engine."""
        engine = self.engine
        with engine.lock:
            native = self._open()
            frame, made = self._frame(plan)
            began = perf_counter()
            if self.sync and not pending:
                inputs = self._pass_inputs(frame, values)
            else:
                inputs = self._pass_copies(frame, args, values)
            keep = (native, frame, made, inputs)
            finish = partial(self._finish, plan, frame, pending, (began, perf_counter()))
            work = NativeWork(engine, finish, keep, frame.words if self._endless else None)
            engine.submit(work, self._entry, frame.address)
        if self.sync:
            work.wait()
        return self._arrays(plan, made, args, values, work)

    def _dispatch(self, args: Sequence[Any]) -> list[Array]:
        """Leaves the call to the dispatcher of the engine."""
        self._open()
        values: list[np.ndarray | Array] = []
        shapes: list[tuple[int, ...] | None] = []
        for at, a in enumerate(args):
            if type(a) is Array and a._value is None:
                if a._type is not None and a._type[1] != self.signature.dtypes[at]:
                    raise self._wrong_dtype(at, a._type[1])
                values.append(a)
                shapes.append(None if a._type is None else a._type[0])
                continue
            value = self._converted(at, a)
            shapes.append(value.shape)
            if type(a) is Array:
                values.append(a)
            else:
                values.append(value if self.sync and value.flags.carray else _copy(value))
        known = tuple([s for s in shapes if s is not None])
        plan = None
        if len(known) == len(shapes):
            plan = self._plans.get(known) or self._new_plan(known)
        work = HostWork()
        self.engine.dispatch(work, partial(self._run_hosted, values, plan))
        if self.sync:
            work.wait()
        return [
            Array._of(None, work, i, None if plan is None else self._known_type(t, plan))
            for i, (_, _, t) in enumerate(self.view.results)
        ]

    def _known_type(self, t: TensorType, plan: Plan) -> tuple[tuple[int, ...], np.dtype] | None:
        if not all(expr.symbols(d) <= plan.values.keys() for d in t.shape):
            return None
        return sizes_of(t.shape, plan.values), t.dtype.numpy

    def _run_hosted(
        self, args: Sequence[np.ndarray | Array], plan: Plan | None
    ) -> list[np.ndarray]:
        """Runs a call on the dispatcher, step by step."""
        values = [a._wait() if isinstance(a, Array) else a for a in args]
        if plan is None:
            values = [self._converted(at, v) for at, v in enumerate(values)]
            key = tuple([v.shape for v in values])
            plan = self._plans.get(key) or self._new_plan(key)
        with self.engine.lock:
            native = self._open()
            frame, made = self._frame(plan)
        try:
            call = HostedCall(self, plan, frame, made, values)
            return call.run(native.entries, self._host)
        finally:
            with self.engine.lock:
                plan.give(frame)

    def _pass_inputs(self, frame: Frame, values: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Puts the addresses of inputs that do not change during the call into a context.

        Returns:
            What has to stay alive.
        """
        keep = []
        words = frame.words
        for word, v, (copy, address) in zip(self.layout.inputs, values, frame.staged, strict=True):
            if copy is not None:
                copy[...] = v
                words[word] = address
                continue
            flags = v.flags
            if not (flags.c_contiguous and flags.aligned):
                v = _copy(v)
            words[word] = address_of(v)
            keep.append(v)
        return keep

    def _pass_copies(
        self, frame: Frame, args: Sequence[Any], values: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """The same for a call that the caller does not wait for: passes copies of its arrays.

        An ``Array``, which may still be computed, is not copied.
        """
        keep = []
        for a, word, v, (copy, address) in zip(
            args, self.layout.inputs, values, frame.staged, strict=True
        ):
            if copy is None or type(a) is Array:
                v = v if type(a) is Array else _copy(v)
                address = address_of(v)
                keep.append(v)
            else:
                copy[...] = v
            frame.words[word] = address
        return keep

    def _finish(
        self,
        plan: Plan,
        frame: Frame,
        pending: list[Array],
        times: tuple[float, float],
        awaited: float,
    ) -> PjitError | None:
        """Ends a call of the queue: takes its context back and returns its error."""
        began, passed = times
        seconds = perf_counter() - passed
        plan.pace.queued(seconds, passed - began, awaited - passed <= SOON * seconds)
        code = frame.words[ERROR_WORD]
        plan.give(frame)
        if code:
            return self.failure(code)
        for a in pending:
            error = getattr(a._work, "error", None)
            if error is not None:
                return error
        return None

    def _frame(self, plan: Plan) -> tuple[Frame, list[np.ndarray]]:
        """A context and the arrays of the results; with the engine's lock held."""
        if self.engine.inside:  # a signal handler calls while the arena may be in use
            frame = plan.take(Arena(plan.placement.peak) if plan.places else None)
            return frame, plan.make(frame)
        if plan.places and (self._arena is None or self._arena.nbytes < plan.placement.peak):
            self._arena = Arena(plan.placement.peak)
        frame = plan.take(self._arena)
        return frame, plan.make(frame)

    def _arrays(
        self,
        plan: Plan,
        made: list[np.ndarray],
        args: Sequence[Any],
        values: Sequence[np.ndarray],
        work: NativeWork | HostWork | None,
    ) -> list[Array]:
        """The results of a native program."""
        arrays = []
        for r in plan.results:
            if r.kind == "made":
                value = made[r.at]
            elif r.kind == "constant":
                value = _copy(self.constants[self.view.slots[r.at].name])
            else:
                value = values[r.at] if type(args[r.at]) is Array else _copy(values[r.at])
            arrays.append(Array._of(value.reshape(r.shape) if r.reshaped else value, work))
        return arrays

    # Sizes

    def _new_plan(self, shapes: tuple[tuple[int, ...], ...]) -> Plan:
        values = self.signature.bind(shapes)
        with self.engine.lock:
            guess = estimated_seconds(self.view, values)
            try:
                plan = Plan(self.layout, values, Pace(guess, self.engine.threads))
            except OverflowError:  # a size has more than 63 bits
                raise no_memory("sizes of more than 63 bits") from None
            self._plans[shapes] = plan
            while len(self._plans) > 1 and (
                len(self._plans) > MAX_PLANS
                or sum(p.nbytes for p in self._plans.values()) > MAX_PLAN_BYTES
            ):
                oldest = min(self._plans, key=lambda k: (k == shapes, self._plans[k].stamp))
                del self._plans[oldest]
        return plan

    def memory(self) -> dict[str, int]:
        """Bytes: of the constants, of the arena, and of the arena if nothing shared a place."""
        used = [s.name for s in self.view.slots if s.kind == "constant"]
        return {
            "constants": sum(self.constants[n].nbytes for n in set(used) if n in self.constants),
            "arena": 0 if self._arena is None else self._arena.nbytes,
            "peak": max((p.placement.peak for p in self._plans.values()), default=0),
            "unshared": max((p.placement.total for p in self._plans.values()), default=0),
        }

    # The end

    def _open(self) -> _Native:
        if self._native is None:
            raise ExecutionError(
                "the program is closed", remedy="compile or load it again, or close it later"
            )
        return self._native

    def close(self) -> None:
        """Waits for earlier calls, then frees code, constants and arena; may be repeated."""
        if self._native is None:
            return
        self.engine.drain()  # calls that have not begun need the program to be open
        with self.engine.lock:
            native, self._native, self._single = self._native, None, None
        if native is None:
            return
        self.engine.drain()
        native.close()
        self._arena, self._host = None, ()
        self._latest = self._direct = None
        self._plans.clear()
        self.constants.clear()

    # Errors

    def failure(self, code: int) -> ExecutionError:
        """The error that native code reported by its code."""
        if code == INTERRUPTED:
            return ExecutionError("the call was interrupted", remedy="call again")
        what, where, remedy = self.view.failures[code - 1]
        return ExecutionError(what, where=where, remedy=remedy)

    def _converted(self, at: int, a: Any) -> np.ndarray:
        """An input as an array of its element type, where that loses nothing."""
        dt = self.signature.dtypes[at]
        if type(a) is Array:
            assert a._value is not None
            value = a._value
        elif type(a) in (bool, int, float):
            kinds = {bool: "b", int: "iuf", float: "f"}[type(a)]
            if dtype_of(dt).kind not in kinds:
                raise self._wrong_dtype(at, type(a).__name__)
            try:
                return np.array(a, dt)
            except OverflowError:
                raise self._wrong_dtype(at, f"{a}, which is out of its range") from None
        else:
            try:
                value = as_numpy(a)
            except PjitError:
                raise
            except Exception as e:
                raise self._wrong_dtype(at, f"{type(a).__name__} ({e})") from e
        if value.dtype == dt:
            return value
        if value.dtype.newbyteorder("=") == dt:
            return value.astype(dt)
        raise self._wrong_dtype(at, value.dtype)

    def _wrong_dtype(self, at: int, got: object) -> InputError:
        spec = self.inputs[at]
        return InputError(
            f"the input {spec.name!r} has the wrong type",
            where=f"input {at}",
            expected=spec,
            got=got,
            remedy=f"convert it: np.asarray(x, {spec.dtype.name!r})",
        )

    def _wrong_count(self, n: int) -> InputError:
        return InputError(
            f"the program has {len(self.inputs)} input{'' if len(self.inputs) == 1 else 's'}",
            expected=listing(list(map(str, self.inputs))),
            got=f"{n} arrays",
        )


def _copy(a: np.ndarray) -> np.ndarray:
    copy, _ = allocate(a.shape, a.dtype, a.nbytes)
    copy[...] = a
    copy.flags.writeable = False
    return copy


def _raise(words: Any) -> NoReturn:
    """Raises what a signal handler raised while native code ran on this thread."""
    raised = [ctypes.c_void_p(words[RAISED_WORD + i]) for i in range(RAISED_WORDS)]
    for i in range(RAISED_WORDS):
        words[RAISED_WORD + i] = 0
    ctypes.pythonapi.PyErr_Restore(*raised)
    raise AssertionError("ctypes raises the exception that was restored")
