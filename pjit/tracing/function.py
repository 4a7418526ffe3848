"""``pjit.compile``: a function of arrays that is traced and compiled once per signature."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial, update_wrapper
from threading import RLock
from time import perf_counter
from types import MethodType
from typing import Any, NoReturn, cast, overload

import numpy as np
import optree

from pjit.array import Array
from pjit.config import settings
from pjit.errors import PjitError, TraceError
from pjit.ir.core import Loc, Module
from pjit.ir.ops.basic import Return
from pjit.ir.text import print_module
from pjit.tracing import handlers  # noqa: F401  (they register themselves)
from pjit.tracing.location import user_traceback
from pjit.tracing.signature import (
    Parameters,
    alive,
    describe_leaf,
    leaf_key,
    tensor_type,
)
from pjit.tracing.trace import Trace
from pjit.tracing.tracer import Tracer, value_of

MAX_PROGRAMS = 64


@dataclass
class Traced:
    """What a trace gives: the graph, and how to make the result of a call.

    Attributes:
        module: The graph; its arguments are the traced leaves in order.
        spec: The structure of the result.
        leaves: Its leaves; those that are computed are None.
        computed: Which leaves are the outputs of the program, in order.
    """

    module: Module
    spec: optree.PyTreeSpec
    leaves: list[Any]
    computed: list[int]


@dataclass
class Entry:
    """A signature and its program; there is none when nothing of the result is computed."""

    traced: Traced
    program: Any
    inputs: tuple[int, ...]
    key: tuple = field(repr=False)
    stamp: int = 0

    def __post_init__(self) -> None:
        traced = self.traced
        self.one_array = traced.spec.is_leaf() and len(traced.computed) == 1

    def __call__(self, leaves: Sequence[Any]) -> Any:
        """Runs the program on the leaves of a call."""
        if len(self.inputs) < len(leaves):
            leaves = [leaves[i] for i in self.inputs]
        if self.one_array:
            return self.program(leaves)[0]
        result = list(self.traced.leaves)
        if self.program is not None:
            for at, array in zip(self.traced.computed, self.program(leaves), strict=True):
                result[at] = array
        return optree.tree_unflatten(self.traced.spec, result)


def trace(
    function: Callable, spec: optree.PyTreeSpec, leaves: list[Any], keys: tuple, names: list[str]
) -> Traced:
    """Runs a function on tracers.

    Args:
        function: What to trace.
        spec: The structure of ``(args, kwargs)``.
        leaves: The leaves of the call.
        keys: Their parts of the signature.
        names: Their names.

    Raises:
        TraceError: The function does something that is not traced.
        InputError: An argument has a dtype that is not traced.
    """
    t = Trace(getattr(function, "__qualname__", repr(function)))
    code = getattr(function, "__code__", None)
    home = Loc.python(code.co_filename, code.co_firstlineno) if code else Loc(t.name)
    inputs, passed = [], []
    for leaf, key, name in zip(leaves, keys, names, strict=True):
        if len(key) == 3:
            passed.append(leaf)
            continue
        inputs.append(name)
        passed.append(Tracer(t, t.block.add_arg(tensor_type(key, name), name), name))
    args, kwargs = optree.tree_unflatten(spec, passed)
    try:
        result = function(*args, **kwargs)
        out_leaves, out_spec = optree.tree_flatten(result)
        computed = [i for i, x in enumerate(out_leaves) if isinstance(x, Tracer)]
        values = [value_of(t, out_leaves[i]) for i in computed]
    except Exception as e:
        _raise(e)
    finally:
        t.closed = True
    t.builder.loc = home
    t.builder(Return, *values)
    paths = optree.treespec_paths(out_spec)
    outputs = [".".join(map(str, ("result", *paths[i]))) for i in computed]
    t.function.attrs |= {"inputs": tuple(inputs), "outputs": tuple(outputs)}
    kept = [Array(x) if isinstance(x, np.ndarray) else x for x in out_leaves]
    for i in computed:
        kept[i] = None
    return Traced(t.module, out_spec, kept, computed)


def _raise(error: Exception) -> NoReturn:
    """Raises an error of a traced function; ours without our frames, also if NumPy wrapped it."""
    for e in (error, error.__cause__, error.__context__):
        if isinstance(e, TraceError):
            raise e.with_traceback(user_traceback(e.__traceback__)) from None
    raise error


class CompiledFunction:
    """A function that is compiled for every signature that it is called with.

    A signature is the structure of the arguments, the dtypes and shapes of their arrays, and the
    values of the other leaves. The function runs in Python once per signature, on tracers; what it
    captures (arrays and numbers of closures, globals and attributes) is taken as it is then.
    Results are ``pjit.Array``; what does not depend on an argument array stays what it is. Called
    while another function is traced, it becomes part of that trace.

    Args:
        function: What to compile.
        target: The back end.
        threads: Threads that run it; default: the setting.
        static_argnames: Parameters whose leaves are static, also NumPy scalars.
        exec_mode: ``async`` or ``sync``; default: the setting.
    """

    def __init__(
        self,
        function: Callable,
        *,
        target: str = "cpu",
        threads: int | None = None,
        static_argnames: str | Iterable[str] = (),
        exec_mode: str | None = None,
    ) -> None:
        update_wrapper(self, function)
        self.function = function
        self._name = getattr(function, "__qualname__", repr(function))
        self.target, self.threads, self.exec_mode = target, threads, exec_mode
        self._parameters = Parameters(function, static_argnames)
        self._entries: dict[tuple, Entry] = {}
        self._short: dict[tuple, Entry] = {}  # by dtypes and shapes of positional arrays alone
        self._clock = 0
        self._last: Entry | None = None
        self._lock = RLock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the function; results may still be computed when it returns.

        Raises:
            TraceError: The function does something that is not traced.
            InputError: An argument is neither an array nor hashable, or its dtype is not traced.
        """
        short: list[Any] = []
        if not kwargs:
            for x in args:
                kind = type(x)
                if kind is not np.ndarray and kind is not Array:
                    short.clear()
                    break
                short += (x.dtype, x.shape)
        entry = self._short.get(tuple(short)) if short else None
        leaves: Sequence[Any] = args
        if entry is None:
            flat, spec = optree.tree_flatten(cast(Any, (args, kwargs)))
            if any(isinstance(x, Tracer) for x in flat):
                return self.function(*args, **kwargs)
            key = self._key(spec, flat)
            entry = self._entries.get(key) or self._add(key, flat)
            leaves = flat
            if short:
                self._short[tuple(short)] = entry
        self._clock = entry.stamp = self._clock + 1
        self._last = entry
        return entry(leaves)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """A method of an object, which is its first argument."""
        return self if instance is None else MethodType(self, instance)

    def __repr__(self) -> str:
        return f"<pjit.compile of {self._name}>"

    def _key(self, spec: optree.PyTreeSpec, leaves: list[Any]) -> tuple:
        """The signature of a call; in ``leaves``, foreign arrays become NumPy arrays."""
        static = self._parameters.mask(spec) if self._parameters.static else (False,) * len(leaves)
        keys = []
        for i, x in enumerate(leaves):
            leaves[i], key = leaf_key(x, partial(self._parameters.name, spec, i), static[i])
            keys.append(key)
        return spec, tuple(keys)

    def _add(self, key: tuple, leaves: list[Any]) -> Entry:
        with self._lock:
            if key in self._entries:
                return self._entries[key]
            began = perf_counter()
            spec, keys = key
            traced = trace(self.function, spec, leaves, keys, self._parameters.names(spec))
            program = self._compile(traced.module) if traced.computed else None
            inputs = tuple(i for i, k in enumerate(keys) if len(k) == 2)
            entry = Entry(traced, program, inputs, key)
            self._log(key, perf_counter() - began)
            for old in [k for k in self._entries if not alive(k)]:
                self._forget(old)
            if len(self._entries) >= MAX_PROGRAMS:
                self._forget(min(self._entries, key=lambda k: self._entries[k].stamp))
            self._entries[key] = entry
            return entry

    def _forget(self, key: tuple) -> None:
        entry = self._entries.pop(key)
        self._short = {k: e for k, e in self._short.items() if e is not entry}

    def _compile(self, module: Module) -> Any:
        from pjit.compiler import compile_module

        options = settings(threads=self.threads, exec_mode=self.exec_mode)
        return compile_module(module, target=self.target, options=options)

    def _log(self, key: tuple, seconds: float) -> None:
        """Says what differs from the call before when a function is compiled again."""
        if self._last is None:
            return
        old = dict(zip(self._parameters.names(self._last.key[0]), self._last.key[1], strict=True))
        new = dict(zip(self._parameters.names(key[0]), key[1], strict=True))
        changes = [
            f"{n} {describe_leaf(old[n]) if n in old else 'absent'} -> {describe_leaf(k)}"
            for n, k in new.items()
            if old.get(n) != k
        ]
        settings().say(
            "recompiles",
            f"{self._name} ({len(self._entries) + 1} programs, {seconds * 1e3:.0f} ms): "
            + ("; ".join(changes) or "another structure of the arguments"),
        )

    # What was compiled

    def _shown(self, what: str) -> Entry:
        if self._last is None:
            raise PjitError(
                f"{self._name} has no {what} yet: it was not called",
                remedy="call it; it is compiled for the arguments of a call",
            )
        return self._last

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that ``ir`` knows, of the last call."""
        program = self._shown("stages").program
        return ("graph",) if program is None else program.stages

    def ir(self, stage: str | None = None) -> str:
        """The IR of the last call as text: the graph, or what it is after a stage.

        Raises:
            PjitError: The function was not called, or no stage has the name.
        """
        entry = self._shown("IR")
        if entry.program is not None:
            return entry.program.ir(stage)
        if stage not in (None, "graph"):
            raise PjitError(f"no stage is called {stage!r}", expected="graph")
        return print_module(entry.traced.module)

    def report(self, *args: Any, **kwargs: Any) -> Any:
        """What was compiled and how: a ``pjit.report.Report``.

        Args:
            args: Arguments of a call. The program for them then runs on them for about a second,
                and the report says what each step takes; without any it is that of the last call.
            kwargs: Named ones.

        Raises:
            PjitError: The function was not called, or nothing of its result is computed.
        """
        if args or kwargs:
            self(*args, **kwargs)
        entry = self._shown("report")
        if entry.program is None:
            raise PjitError(f"{self._name} has no report: its result does not depend on an array")
        if not (args or kwargs):
            return entry.program.report()
        leaves, spec = optree.tree_flatten(cast(Any, (args, kwargs)))
        self._key(spec, leaves)  # makes foreign arrays NumPy's
        return entry.program.report(*(leaves[i] for i in entry.inputs))


@overload
def compile(function: Callable, /) -> CompiledFunction: ...
@overload
def compile(
    *,
    target: str = "cpu",
    threads: int | None = None,
    static_argnames: str | Iterable[str] = (),
    exec_mode: str | None = None,
) -> Callable[[Callable], CompiledFunction]: ...
def compile(function: Callable | None = None, /, **options: Any) -> Any:
    """Compiles a function of NumPy arrays: ``@pjit.compile`` or ``@pjit.compile(threads=2)``.

    Args:
        function: What to compile.
        options: See ``CompiledFunction``.
    """
    if function is None:
        return lambda f: CompiledFunction(f, **options)
    return CompiledFunction(function, **options)
