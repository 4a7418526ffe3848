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
from pjit.errors import FallbackWarning, InputError, PjitError, TraceError
from pjit.ir import expr, ops
from pjit.ir.core import Loc, Module
from pjit.ir.expr import Dim
from pjit.ir.text import print_module
from pjit.ir.types import TensorType, type_of
from pjit.report import Control
from pjit.runtime.program import Runnable
from pjit.tracing import handlers  # noqa: F401  (they register themselves)
from pjit.tracing.explore import Explorer
from pjit.tracing.frames import TRANSPARENT
from pjit.tracing.graph import Graph, Node, Open, Raised, Return
from pjit.tracing.guards import Guards, reader_of
from pjit.tracing.location import user_traceback
from pjit.tracing.pytrees import flatten, unflatten
from pjit.tracing.rebind import rebound
from pjit.tracing.signature import Parameters, _ById, alive, describe_leaf, leaf_key, tensor_type
from pjit.tracing.sizes import SMALLEST, Undecided, Unsized
from pjit.tracing.structure import Structured, structured
from pjit.tracing.trace import RUNNING, Trace
from pjit.tracing.tracer import Tracer
from pjit.tracing.walk import Walk

MAX_PROGRAMS = 64
MAX_VARIANTS = 8  # of one signature, for different values of what the function reads
MAX_ANSWERS = {bool: 2, int: 64, float: 8}  # of one question that are learned from calls
MAX_ROUNDS = 64  # of a loop that cannot run natively
MAX_GROWTH = 1000  # answers of one signature that are learned from calls


class Family:
    """A signature: its programs, for different values of what the function reads beside.

    Attributes:
        key: The structure of the arguments and the keys of their leaves.
        types: The types of the traced leaves; a size that varies is a symbol.
        stamp: When it was last used.
        told: Whether it was said that programs come and go.
    """

    def __init__(self, key: tuple, types: list[TensorType]) -> None:
        self.key, self.types = key, types
        self.stamp = 0
        self.told = False
        self.variants: list[Variant] = []

    @property
    def symbolic(self) -> bool:
        """Whether sizes vary."""
        return not all(t.is_static for t in self.types)

    def fits(self, types: Sequence[TensorType]) -> bool:
        """Whether arrays of static types can be passed."""
        sizes: dict[Any, int] = {}
        for own, given in zip(self.types, types, strict=True):
            for d, n in zip(own.shape, given.static_shape, strict=True):
                if d != n if isinstance(d, int) else n < SMALLEST or sizes.setdefault(d, n) != n:
                    return False
        return all(v.accepts(types) for v in self.variants)

    def find(self) -> Variant | None:
        """The program that holds now."""
        for i, v in enumerate(self.variants):
            if v.guards.holds():
                if i:
                    self.variants = [v, *(w for w in self.variants if w is not v)]
                return v
        return None


class Built:
    """What is known of a function, compiled.

    Attributes:
        made: The function as structured control flow.
        program: Runs it; None when nothing of the result is computed.
        one: The only way that a call can end; None where there are several.
        one_array: Whether the result is one array.
    """

    def __init__(self, owner: CompiledFunction, made: Structured) -> None:
        self.made = made
        only = made.leaves[0] if len(made.leaves) == 1 else None
        self.one = only if isinstance(only, Return) else None
        needless = self.one is not None and not self.one.computed
        self.program: Any = None if needless else owner._compile(made.module)
        self.one_array = (
            self.one is not None
            and not any(self.one.numbers)
            and self.one.spec.is_leaf()
            and len(self.one.computed) == 1
        )


class Variant:
    """A function for one signature, and for what it read when it was traced.

    Attributes:
        explorer: What is known of the function.
        guards: What it depends on.
        now: What is known, compiled; replaced as a whole.
        growth: How many answers calls have added.
        built: How often it was compiled.
        told: What calls run in Python for, by line.
    """

    def __init__(
        self, owner: CompiledFunction, explorer: Explorer, guards: Guards, inputs: tuple[int, ...]
    ) -> None:
        self.owner, self.explorer, self.guards, self.inputs = owner, explorer, guards, inputs
        self.now: Built
        self.growth = self.built = 0
        self.told: dict[str, str] = {}

    @property
    def program(self) -> Any:
        """Runs what is known; None when nothing of the result is computed."""
        return self.now.program

    def accepts(self, types: Sequence[TensorType]) -> bool:
        """Whether the sizes agree where the program needs it."""
        if self.program is None or not isinstance(self.program, Runnable):
            return True
        try:
            self.program.signature.bind([t.static_shape for t in types])
        except InputError:
            return False
        return True

    def build(self, arrays: Sequence[Any]) -> None:
        """Compiles what is known, with the answers that a call on these arrays needs."""
        graph: Graph | None = None
        while self.explorer.graph.open:
            if graph is not self.explorer.graph:  # which starts again when it learns of loops
                graph = self.explorer.graph
                walk = Walk(graph, self.explorer.arguments, arrays)
            found = walk.open()
            if found is None or not self.grow(*found):
                break
        made = structured(self.explorer.graph, self.explorer.arguments, self.owner.home)
        names = [n for n, _ in self.explorer.inputs]
        made.module.main.attrs |= {"inputs": tuple(names), "outputs": made.outputs()}
        self.now = Built(self.owner, made)
        self.built += 1

    def grow(self, leaf: Open, value: Any) -> bool:
        """Explores the answer that a call met; False when the bound is reached."""
        node = leaf.node
        if self.bound(node):
            return False
        self.growth += 1
        answer = leaf.answer if leaf.answer is not None else node.kind(np.asarray(value))
        self.explorer.explore(node.add(answer))
        return True

    def bound(self, node: Node) -> str:
        """Why no answers to a question are learned any more; empty otherwise."""
        if len(node.edges) > MAX_ANSWERS[node.kind]:
            return f"the question has too many answers ({node.unique})"
        path = self.explorer.graph.path(node.arrival)
        rounds = sum(1 for e in path if e.source is not None and e.source.where == node.where)
        if rounds >= MAX_ROUNDS:
            return (
                f"{rounds} rounds of the loop had each another structure of variables, such as a "
                "list that grows or a shape that changes"
            )
        return f"it has {MAX_GROWTH} answers" if self.growth >= MAX_GROWTH else ""

    def __call__(self, leaves: Sequence[Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        """Runs the function on the leaves of a call."""
        if len(self.inputs) < len(leaves):
            leaves = [leaves[i] for i in self.inputs]
        while True:
            now = self.now
            if now.one_array:
                return now.program(leaves)[0]
            outputs = [] if now.program is None else now.program(leaves)
            if now.one is not None:
                return result(now.one, outputs)
            leaf, values = now.made.reached(outputs)
            if isinstance(leaf, Return):
                return result(leaf, values)
            if isinstance(leaf, Raised):
                if isinstance(leaf.error, TraceError):
                    raise leaf.error.with_traceback(None)
                made = self.plain(args, kwargs)  # which raises
                error = f"{type(leaf.error).__name__}: {leaf.error}"
                self.tell(leaf.where, f"it cannot be traced: {error:.200}")
                return made
            assert isinstance(leaf, Open)
            if not self.extend(leaf, values, leaves):
                self.tell(leaf.node.where, self.bound(leaf.node))
                return self.plain(args, kwargs)

    def extend(self, leaf: Open, values: list[Any], leaves: Sequence[Any]) -> bool:
        """Explores and compiles the answer that a call met; False when the bound is reached."""
        with self.owner._lock:
            if leaf not in self.now.made.leaves:  # another thread did
                return True
            began = perf_counter()
            try:
                if not self.grow(leaf, values[0] if values else None):
                    return False
                self.build(leaves)
            except BaseException:
                self.owner._drop(self)
                raise
            settings().say(
                "recompiles",
                f"{self.owner._name} ({(perf_counter() - began) * 1e3:.0f} ms): a new answer at "
                f"{leaf.node.where}",
            )
            return True

    def control(self, programs: int) -> Control:
        """What dynamic control flow became."""
        explorer, leaves = self.explorer, self.now.made.leaves
        nodes = explorer.graph.nodes.values()
        raising = [x for x in leaves if isinstance(x, Raised) and x.where not in self.told]
        unmet = [x.node for x in leaves if isinstance(x, Open) and x.node.where not in self.told]
        return Control(
            questions=len(nodes),
            loops=sum(isinstance(op, ops.While) for op in self.now.made.module.main.walk()),
            runs=explorer.runs,
            restarts=explorer.restarts,
            grown=self.growth,
            compiled=self.built,
            programs=programs,
            python=tuple(self.told.items()),
            raising=tuple((x.where, _first_line(x.error)) for x in raising),
            open=tuple((n.where, n.unique or "few calls come so far") for n in unmet),
        )

    def tell(self, where: str, why: str) -> None:
        """Says, once for a line, that calls which come there run in Python."""
        if where in self.told:
            return
        self.told[where] = why
        warnings.warn(
            f"calls of {self.owner._name} that come to {where} run in Python: {why}",
            FallbackWarning,
            stacklevel=4,
        )

    def plain(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Runs the function in Python, on NumPy arrays."""
        leaves, spec = flatten((args, kwargs))
        leaves = [np.array(x) if isinstance(x, Array) else x for x in leaves]
        args, kwargs = unflatten(spec, leaves)
        made, spec = flatten(self.owner.function(*args, **kwargs))
        return unflatten(
            spec, [Array(x) if isinstance(x, np.ndarray | np.generic) else x for x in made]
        )


def _pattern(key: tuple) -> tuple:
    """What signatures that differ in sizes have in common."""
    spec, keys = key
    return spec, tuple((k[0], len(k[1])) if len(k) == 2 else k for k in keys)


def varying(before: Sequence[TensorType], now: Sequence[TensorType]) -> list[TensorType]:
    """Types where the sizes that differ from those of another call are symbols.

    Sizes that were equal in both calls get one symbol. Where a size is too small to stand for all,
    the types are those of the call.
    """
    symbols: dict[tuple, Dim] = {}
    made = []
    for old, new in zip(before, now, strict=True):
        shape: list[Dim] = []
        for a, b in zip(old.shape, new.static_shape, strict=True):
            if a == b:
                shape.append(b)
                continue
            if b < SMALLEST:
                return list(now)
            known = symbols.get((a, b))
            if known is None:
                known = symbols[a, b] = expr.sym(f"N{len(symbols) or ''}", low=SMALLEST)
            shape.append(known)
        made.append(new.with_shape(tuple(shape)))
    return made


def _intact(t: Trace, guards: Guards) -> None:
    """Raises TraceError if a function that is traced changed what it did not make."""
    try:
        t.rebinder.check()
    finally:
        guards.undo()


def _first_line(e: BaseException) -> str:
    text = str(e).partition("\n")[0]
    return text if isinstance(e, PjitError) else f"{type(e).__name__}: {text}"


def _held(x: Any, key: tuple) -> Callable[[], Any]:
    """Gives a leaf that is not traced again; an object is not kept alive for it."""
    if len(key) == 2:
        return lambda: None
    if isinstance(key[2], _ById):
        return key[2].ref
    return lambda: x


def result(leaf: Return, values: Sequence[Any]) -> Any:
    """What a call returns."""
    leaves = list(leaf.leaves)
    for at, array in zip(leaf.computed, values, strict=True):
        kind = leaf.numbers[at]
        leaves[at] = array if kind is None else kind(array.item())
    return unflatten(leaf.spec, leaves)


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
        short: list[Any] = []
        if not kwargs:
            for x in args:
                kind = type(x)
                if kind is not np.ndarray and kind is not Array:
                    short.clear()
                    break
                short += (x.dtype, x.shape)
        family = self._short.get(tuple(short)) if short else None
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
                self._short[tuple(short)] = family
        self._clock = family.stamp = self._clock + 1
        try:
            variant = family.find() or self._add(family, leaves)
            self._last = variant
            return variant(leaves, args, kwargs)
        except Exception as e:
            kept = user_traceback(e.__traceback__)
            e.__traceback__ = None if kept is e.__traceback__ and type(e) is TraceError else kept
            raise

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
            pattern = _pattern(key)
            alike = [f for f in self._families.values() if _pattern(f.key) == pattern]
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
        self._short = {k: f for k, f in self._short.items() if f is not family}

    def _settle(self, family: Family, leaves: Sequence[Any]) -> Variant:
        """Traces a signature with sizes that vary; with its own sizes if that is not possible."""
        try:
            return self._trace(family, leaves)
        except (Undecided, Unsized, PjitError, TypeError, ValueError, IndexError) as e:
            if not family.symbolic:
                raise
            settings().say("recompiles", f"{self._name} is compiled for one size: {e!r:.200}")
            self._sized.add(_pattern(family.key))
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
