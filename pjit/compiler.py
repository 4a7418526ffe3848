"""From a module to a program: passes, machine code, and the way back to every stage as text."""

from __future__ import annotations

import ctypes
import dataclasses
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from pjit.backends.base import backend
from pjit.config import Settings, settings
from pjit.errors import PjitError, SettingError
from pjit.explain import steps_of
from pjit.ir.core import Module
from pjit.ir.loops import kernels
from pjit.ir.ops import If
from pjit.ir.program import Segment
from pjit.ir.target import Machine
from pjit.ir.text import print_module
from pjit.ir.verify import obligations
from pjit.ir.view import view
from pjit.passes.context import Context, Pass
from pjit.passes.manager import run_pipeline
from pjit.passes.pipelines import GRAPH, KERNEL
from pjit.passes.snapshot import clone
from pjit.profile import profile
from pjit.report import Report, passes_of
from pjit.runtime.binary import Binary, own_constants, program_text
from pjit.runtime.cache import LARGE, Cache, key
from pjit.runtime.engine import engine
from pjit.runtime.program import Runnable
from pjit.runtime.threads import thread_count

GRAPH_STAGE = "graph"
HEAVY = 256 << 20  # bytes of constants whose packing takes as long as the code
PACKERS = 4  # threads that pack those at most


@dataclass
class Origin:
    """What a program was compiled from, and the texts of its stages.

    Passes are deterministic, so a stage is computed when it is asked for.

    Attributes:
        source: Makes the graph again.
        machine: The machine it was compiled for.
    """

    source: Callable[[], Module]
    machine: Machine
    _texts: dict[str, str] = field(default_factory=dict)

    @property
    def stages(self) -> tuple[str, ...]:
        """``graph`` and the passes in order; what occurs again has its count: ``fold.2``."""
        return (GRAPH_STAGE, *stage_names(pipeline()))

    def ir(self, stage: str | None = None) -> str:
        """The IR after a stage; None: the graph.

        Raises:
            PjitError: No stage has the name.
        """
        stage = stage or GRAPH_STAGE
        if stage not in self.stages:
            raise PjitError(
                f"no stage is called {stage!r}", expected=", ".join(dict.fromkeys(self.stages))
            )
        if stage not in self._texts:
            module = with_checks(self.source())
            passes = pipeline()[: self.stages.index(stage)]
            run_pipeline(module, passes, Context(self.machine))
            self._texts[stage] = print_module(module)
        return self._texts[stage]


class Program(Runnable):
    """A compiled function of arrays, and how it came about.

    Attributes:
        origin: What it was compiled from.
    """

    def __init__(
        self,
        binary: Binary,
        origin: Origin,
        target: str,
        options: Settings,
        *,
        cached: bool,
        store: Cache | None = None,
    ) -> None:
        began = perf_counter()
        entries = tuple(s.entry for s in binary.view.steps if isinstance(s, Segment))
        kernels = tuple(dict.fromkeys(step.kernel for step, _ in binary.view.launches()))
        code = backend(target).load_code(binary.code, (*entries, *kernels))
        super().__init__(
            binary.view,
            code,
            binary.constants,
            engine(target, options.threads, store),
            sync=options.sync,
        )
        self.origin = origin
        self._meta, self._code_size = binary.meta, sum(map(len, binary.code))
        self._target, self._cached = target, cached
        self._kernels = {name: code.address(name) for name in kernels}
        self._load_seconds = perf_counter() - began

    @property
    def stages(self) -> tuple[str, ...]:
        """The names of the stages that ``ir`` knows, in order."""
        return self.origin.stages

    def ir(self, stage: str | None = None) -> str:
        """The IR as text: the graph, or what it is after a stage; raises PjitError."""
        return self.origin.ir(stage)

    def report(self, *inputs: Any) -> Report:
        """What was compiled, and how; with inputs, also what each step takes.

        Args:
            inputs: Those of a call. The program then runs on them for about a second: the kernels
                that calls use, between clocks. What the machine can do is measured meanwhile.

        Raises:
            InputError: The number, a type or a shape of the inputs is wrong.
            ExecutionError: The program is closed, or a call failed.
        """
        meta, machine = self._meta, self.origin.machine
        times = profile(self, self._kernels, inputs, self._target, machine) if inputs else None
        return Report(
            target=self._target,
            machine=machine.name,
            threads=self.engine.threads,
            steps=steps_of(self.view, machine, self.engine.threads, times),
            profile=times,
            passes=passes_of(meta.get("passes", ())),
            build_seconds=meta.get("build_seconds", 0.0),
            load_seconds=self._load_seconds,
            cached=self._cached,
            memory={**self.memory(), "code": self._code_size},
        )


def pipeline() -> list[Pass]:
    """All passes, from the graph to the program."""
    return [*GRAPH, *KERNEL]


def stage_names(passes: Sequence[Pass]) -> list[str]:
    """The names of passes; the second ``fold`` is ``fold.2``."""
    seen: dict[str, int] = {}
    names = []
    for p in passes:
        seen[p.name] = seen.get(p.name, 0) + 1
        names.append(p.name if seen[p.name] == 1 else f"{p.name}.{seen[p.name]}")
    return names


def compile_module(
    module: Module,
    *,
    target: str = "cpu",
    threads: int | None = None,
    options: Settings | None = None,
    cache: bool = True,
    source: Callable[[], Module] | None = None,
    name: str | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Program:
    """Compiles the main function of a module of level ``graph``.

    Args:
        module: What to compile. It is not changed, unless ``source`` can make it again: then it is
            used up, which saves a copy of its weights.
        target: The back end.
        threads: Threads that run the program; the settings' number by default.
        options: The settings; by default those of the environment.
        cache: Whether to look for the program in the compile cache, and to store it there.
        source: Makes the module again, for ``Program.ir``; by default a copy is kept.
        name: The key under which it is stored in the cache, where it is known not to be; by default
            the text and the constants are hashed.
        notes: Plain data to keep with the program in the cache.

    Raises:
        PjitError: A setting is wrong, or a pass or the back end failed.
    """
    options = _options(options, threads)
    machine = machine_of(target, options)
    again = source or partial(clone, clone(module))
    store = open_cache(options) if cache and options.dump is None else None
    if store is not None and name is None:
        name = program_key(target, machine, key([print_module(module)], module.constants))
        if (found := store.load(name)) is not None:
            return Program(found, Origin(again, machine), target, options, cached=True, store=store)
    operations = sum(1 for _ in module.main.walk())
    matrices = sum(a.ndim > 1 for a in module.constants.values())
    with backend(target).prepared(operations, matrices, thread_count({})):
        if sum(a.nbytes for a in module.constants.values()) >= LARGE:
            engine(target, options.threads, store).pool.prepare()  # before the packing
        used = clone(module) if source is None else module
        folder = None if store is None else store.for_files()
        binary = build(used, target, machine, options, again, folder)
    binary.meta.update(notes or {})
    if store is not None and name is not None:
        store.store(name, binary)
    return Program(binary, Origin(again, machine), target, options, cached=False, store=store)


def build(
    module: Module,
    target: str,
    machine: Machine,
    options: Settings,
    source: Callable[[], Module],
    folder: Path | None = None,
) -> Binary:
    """Runs all passes on a module, in place, and makes machine code of it.

    Args:
        module: A module of level ``graph``; it is used up.
        target: The back end.
        machine: What the code will run on.
        options: The settings.
        source: Makes the module again, to show what came before a pass that failed.
        folder: Where large constants may be in files that this process alone can reach.

    Raises:
        PjitError: A pass or the back end failed.
    """
    with uncollected():
        return _build(module, target, machine, options, source, folder)


def _build(
    module: Module,
    target: str,
    machine: Machine,
    options: Settings,
    source: Callable[[], Module],
    folder: Path | None,
) -> Binary:
    with_checks(module)
    heavy = sum(a.nbytes for a in module.constants.values()) >= HEAVY
    context = Context(
        machine,
        verify=options.verify,
        dump=options.dump,
        log=lambda line: options.say("passes", line),
    )
    records = run_pipeline(module, pipeline(), context, again=lambda: with_checks(source()))
    trim()
    began = perf_counter()
    program = view(module)
    with ThreadPoolExecutor(1, "pjit-constants") as beside:
        if heavy:  # else in turns, for the memory's sake; what fails there fails again below
            beside.submit(own_constants, module, folder, min(PACKERS, thread_count({})))
        code = backend(target).build(module, program, machine)
        if options.dump is not None:
            for name, text in backend(target).listings(module, program, machine).items():
                (options.dump / name).write_text(text)
        seconds = perf_counter() - began
    fields = ("name", "seconds", "changed", "ops_before", "ops_after")
    passes = [{f: getattr(r, f) for f in fields} for r in records]
    options.say("compile", f"{sum(r.seconds for r in records):.3f} s passes, {seconds:.3f} s code")
    text = program_text(module)
    for kernel in kernels(module):
        del module.functions[kernel.name]
    trim(again=True)
    constants = own_constants(module, folder)
    module.constants.clear()
    module.functions.clear()
    trim()
    meta = {"passes": passes, "build_seconds": seconds}
    return Binary(program, code, constants, text, meta)


@contextmanager
def uncollected() -> Iterator[None]:
    """Holds Python's collector of cycles.

    A compilation makes many objects that stay; again and again visiting them all would take as long
    as the compilation.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def trim(*, again: bool = False) -> None:
    """Frees new objects that only refer to each other, and gives memory that is free back to the
    system, where the C library can (glibc).

    Args:
        again: Whether to look also at objects that were found in use when they were new.
    """
    gc.collect(1 if again else 0)
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def with_checks(module: Module) -> Module:
    """Notes which dimensions the graph takes as equal, so that each call checks them: all of them
    at its start, those of a branch where it is taken.
    """
    main = module.main
    if found := obligations(main.body):
        main.attrs["checks"] = tuple(found)
    known = set(found)
    for op in main.walk():
        if isinstance(op, If):
            pairs = [tuple(p for p in obligations(b) if p not in known) for b in op.branches]
            op.attrs["checks"] = tuple(pairs) if any(pairs) else ()
    return module


def machine_of(target: str, options: Settings) -> Machine:
    """What programs of a back end are compiled for: this machine, as far as the settings let it be
    used.

    Raises:
        SettingError: The processor does not have the instruction set of the settings.
        PjitError: No back end is called ``target``.
    """
    known = backend(target)
    here = {n: m for n in known.TARGETS if known.runs_here(m := known.machine(n, options.threads))}
    if options.isa not in here:
        raise SettingError(
            "PJIT_ISA (or the argument `isa`) is no instruction set of this processor",
            expected=", ".join(here),
            got=repr(options.isa),
        )
    return dataclasses.replace(here[options.isa], direct=options.direct)


def open_cache(options: Settings) -> Cache:
    """The compile cache of the settings."""
    return Cache(options.cache_dir, lambda line: options.say("cache", line), verify=options.verify)


def program_key(target: str, machine: Machine, content: str) -> str:
    """The key of a program in the cache."""
    fields = {f.name: getattr(machine, f.name) for f in dataclasses.fields(machine)}
    return key(["program", target, sorted(fields.items()), content])


def _options(options: Settings | None, threads: int | None) -> Settings:
    if options is None:
        return settings(threads=threads)
    return options if threads is None else dataclasses.replace(options, threads=threads)
