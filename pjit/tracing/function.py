"""``pjit.compile``: a function of arrays that is traced and compiled once per signature."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial, update_wrapper
from threading import RLock
from time import perf_counter
from types import MethodType
from typing import Any, overload

import numpy as np
import optree

from pjit.array import Array
from pjit.config import settings
from pjit.errors import FallbackWarning, PjitError, TraceError
from pjit.ir.core import Loc, Module
from pjit.ir.text import print_module
from pjit.ir.types import type_of
from pjit.runtime.program import Runnable
from pjit.tracing import handlers  # noqa: F401  (they register themselves)
from pjit.tracing.explore import Explorer
from pjit.tracing.frames import TRANSPARENT
from pjit.tracing.guards import Guards, reader_of
from pjit.tracing.location import user_traceback
from pjit.tracing.pytrees import flatten, unflatten
from pjit.tracing.rebind import rebound
from pjit.tracing.signature import Parameters, _ById, alive, describe_leaf, leaf_key, tensor_type
from pjit.tracing.sizes import Undecided, Unsized
from pjit.tracing.trace import RUNNING, Trace
from pjit.tracing.tracer import Tracer
from pjit.tracing.variants import (
    MAX_VARIANTS,
    Family,
    Quick,
    Variant,
    pattern_of,
    varying,
)

MAX_PROGRAMS = 64


def _intact(t: Trace, guards: Guards) -> None:
    """Raises TraceError if a function that is traced changed what it did not make."""
    try:
        t.rebinder.check()
    finally:
        guards.undo()


def _held(x: Any, key: tuple) -> Callable[[], Any]:
    """Gives a leaf that is not traced again; an object is not kept alive for it."""
    if len(key) == 2:
        return lambda: None
    if isinstance(key[2], _ById):
        return key[2].ref
    return lambda: x


class CompiledFunction:
    """A function that is compiled for every signature that it is called with.

    A signature is the structure of the arguments, the dtypes and shapes of their arrays, and the
    values of the other leaves. The function runs in Python once per signature, on tracers; what it
    captures (arrays and numbers of closures, globals and attributes) is compared at each call.
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
        self._families: dict[tuple, Family] = {}
        self._sized: set[tuple] = set()  # patterns of signatures whose sizes cannot vary
        self._short: dict[tuple, Family] = {}  # by dtypes and shapes of positional arrays alone
        self._quick: Quick | None = None
        self._clock = 0
        self._last: Variant | None = None
        self._last_key: tuple | None = None
        code = getattr(function, "__code__", None)
        self.home = Loc.python(code.co_filename, code.co_firstlineno) if code else Loc(self._name)
        self._lock = RLock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the function; results may still be computed when it returns.

        Raises:
            TraceError: The function does something that is not traced.
            InputError: An argument is neither an array nor hashable, or its dtype is not traced.
        """
        quick = self._quick
        try:
            if quick is not None and not kwargs:
                made = quick(args)
                if made is not None:
                    self._clock = quick.family.stamp = self._clock + 1
                    self._last = quick.variant
                    return made
            short = () if kwargs else self._short_key(args)
            family = self._short.get(short) if short else None
            leaves: Sequence[Any] = args
            if family is None:
                flat, spec = flatten((args, kwargs))
                tracer = next((x for x in flat if isinstance(x, Tracer)), None)
                if tracer is not None:
                    return rebound(tracer.context, self.function)(*args, **kwargs)
                key = self._key(spec, flat)
                family = self._families.get(key) or self._family(key)
                leaves = flat
                if short:
                    self._short[short] = family
            self._clock = family.stamp = self._clock + 1
            variant = family.find() or self._add(family, leaves)
            self._last = variant
            made = variant(leaves, args, kwargs)
            if quick is None or not quick.serves(variant):
                whole = short and len(variant.inputs) == len(args)
                runs = whole and isinstance(variant.program, Runnable)
                self._quick = Quick(family, variant) if runs else None
            return made
        except Exception as e:
            kept = user_traceback(e.__traceback__)
            e.__traceback__ = None if kept is e.__traceback__ and type(e) is TraceError else kept
            raise

    def _short_key(self, args: tuple) -> tuple:
        """Types and shapes of arguments that are all arrays and scalars of NumPy; else nothing."""
        found: list[Any] = []
        for x in args:
            kind = type(x)
            if kind is np.ndarray or kind is Array:
                found += (x.dtype, x.shape)
            elif isinstance(x, np.number | np.bool_) and not self._parameters.static:
                found.append(kind)
            else:
                return ()
        return tuple(found)

    @property
    def __pjit_stateless__(self) -> Callable:
        """What tells it from others."""
        return self.function

    @property
    def __pjit_function__(self) -> Callable:
        """The function itself."""
        return self.function

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

    def _family(self, key: tuple) -> Family:
        """The signature of a key: one with sizes that vary, if there is one or reason for it."""
        with self._lock:
            for old in [k for k in self._families if not alive(k)]:
                self._forget(old)
            if len(self._families) >= MAX_PROGRAMS:
                self._forget(min(self._families, key=lambda k: self._families[k].stamp))
            names = self._parameters.names(key[0])
            types = [tensor_type(k, n) for k, n in zip(key[1], names, strict=True) if len(k) == 2]
            pattern = pattern_of(key)
            alike = [f for f in self._families.values() if pattern_of(f.key) == pattern]
            for f in alike:
                if f.symbolic and f.fits(types):
                    self._families[key] = f
                    return f
            made = Family(key, types)
            if alike and pattern not in self._sized:
                latest = max(alike, key=lambda f: f.stamp)
                made = Family(key, varying(latest.types, types))
            return self._families.setdefault(key, made)

    def _forget(self, key: tuple) -> None:
        family = self._families.pop(key)
        self._quick = None
        self._short = {k: f for k, f in self._short.items() if f is not family}

    def _settle(self, family: Family, leaves: Sequence[Any]) -> Variant:
        """Traces a signature with sizes that vary; with its own sizes if that is not possible."""
        try:
            return self._trace(family, leaves)
        except (Undecided, Unsized, PjitError, TypeError, ValueError, IndexError) as e:
            if not family.symbolic:
                raise
            settings().say("recompiles", f"{self._name} is compiled for one size: {e!r:.200}")
            self._sized.add(pattern_of(family.key))
            names = self._parameters.names(family.key[0])
            keys = zip(family.key[1], names, strict=True)
            family.types = [tensor_type(k, n) for k, n in keys if len(k) == 2]
            return self._trace(family, leaves)

    def _add(self, family: Family, leaves: Sequence[Any]) -> Variant:
        """Traces and compiles the function for a signature."""
        with self._lock:
            found = family.find()
            if found is not None:
                return found
            began = perf_counter()
            variant = self._settle(family, leaves)
            self._log(family, variant, perf_counter() - began)
            family.variants = [variant, *family.variants[: MAX_VARIANTS - 1]]
            return variant

    def _drop(self, variant: Variant) -> None:
        """Forgets a program whose exploration was broken off."""
        self._quick = None
        for f in self._families.values():
            f.variants = [v for v in f.variants if v is not variant]

    def _trace(self, family: Family, leaves: Sequence[Any]) -> Variant:
        spec, keys = family.key
        names = self._parameters.names(spec)
        inputs = tuple(i for i, k in enumerate(keys) if len(k) == 2)
        fixed = [(names[i], x) for i, x in enumerate(leaves) if i not in inputs]
        guards = Guards.of(self.function, fixed)
        types = [(names[i], t) for i, t in zip(inputs, family.types, strict=True)]
        kept = [_held(x, k) for x, k in zip(leaves, keys, strict=True)]
        explorer = Explorer(self._name, types, partial(self._run, spec, kept, inputs, guards))
        explorer.explore()
        if any(m in sys.modules for m in guards.missing):
            guards = Guards.of(self.function, fixed)
        variant = Variant(self, explorer, guards, inputs)
        variant.build([leaves[i] for i in inputs])
        if family.symbolic and not variant.accepts(
            [type_of(np.asarray(leaves[i])) for i in inputs]
        ):
            raise Undecided
        return variant

    def _run(
        self,
        spec: optree.PyTreeSpec,
        leaves: list[Callable[[], Any]],
        inputs: tuple[int, ...],
        guards: Guards,
        t: Trace,
        tracers: list[Tracer],
    ) -> Any:
        """Runs the function on tracers."""
        passed = [read() for read in leaves]
        for i, x in zip(inputs, tracers, strict=True):
            passed[i] = x
        args, kwargs = unflatten(spec, passed)
        function = rebound(t, self.function)
        t.base = sys._getframe()
        t.intact = partial(_intact, t, guards)
        outer, RUNNING.trace = getattr(RUNNING, "trace", None), t
        try:
            made = function(*args, **kwargs)
        except Exception:
            t.check()
            raise
        except BaseException:
            with suppress(TraceError):
                t.intact()
            raise
        finally:
            RUNNING.trace = outer
        t.check()
        after, same = flatten((args, kwargs))
        if same != spec or any(a is not b for a, b in zip(after, passed, strict=True)):
            raise TraceError(
                "the function changes a container that is its argument",
                where=str(self.home),
                remedy="return the new value; begin with a copy of the container",
            )
        return made

    def _compile(self, module: Module) -> Any:
        from pjit.compiler import compile_module

        options = settings(threads=self.threads, exec_mode=self.exec_mode)
        return compile_module(module, target=self.target, options=options)

    def _log(self, family: Family, variant: Variant, seconds: float) -> None:
        """Says what differs from the call before when a function is compiled again."""
        key, before = family.key, self._last_key
        self._last_key = key
        if before is None:
            return
        old = dict(zip(self._parameters.names(before[0]), before[1], strict=True))
        new = dict(zip(self._parameters.names(key[0]), key[1], strict=True))
        changes = [
            f"{n} {describe_leaf(old[n]) if n in old else 'absent'} -> {describe_leaf(k)}"
            for n, k in new.items()
            if old.get(n) != k
        ]
        guard = next((g for v in family.variants if (g := v.guards.missed()) is not None), None)
        if guard is not None:
            changes.append(guard.change())
            line = reader_of(variant.guards.codes, guard.name)
            changes[-1] += f", read at {line}" if line else ""
        count = sum(len(f.variants) for f in self._families.values()) + 1
        settings().say(
            "recompiles",
            f"{self._name} ({count} programs, {seconds * 1e3:.0f} ms): "
            + ("; ".join(changes) or "another structure of the arguments"),
        )
        if guard is not None and len(family.variants) >= MAX_VARIANTS and not family.told:
            family.told = True
            warnings.warn(
                f"{self._name} is compiled again for each of many values: {changes[-1]}; pass it "
                "as an argument that is an array",
                FallbackWarning,
                stacklevel=4,
            )

    # What was compiled

    def _shown(self, what: str) -> Variant:
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
        return print_module(entry.now.made.module)

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
        leaves, spec = flatten((args, kwargs))
        self._key(spec, leaves)  # makes foreign arrays NumPy's
        inputs = [leaves[i] for i in entry.inputs] if args or kwargs else []
        programs = {id(v) for f in self._families.values() for v in f.variants}
        return replace(entry.program.report(*inputs), control=entry.control(len(programs)))


TRANSPARENT.add(CompiledFunction.__call__.__code__)


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
