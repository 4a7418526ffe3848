"""``pjit.load`` and ``pjit.compile``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pjit.array import Array
from pjit.compiler import (
    Origin,
    Program,
    compile_module,
    machine_of,
    open_cache,
    program_key,
)
from pjit.config import Settings, settings
from pjit.errors import FormatError, InputError
from pjit.ir.core import Module
from pjit.ir.errors import listing
from pjit.report import Report
from pjit.runtime import artifact
from pjit.runtime.cache import Cache, key
from pjit.runtime.signature import Spec
from pjit.sources import external_files, kind_of

__all__ = ["Model", "compile", "load"]


class Model:
    """A network that was loaded from a file.

    Attributes:
        inputs: Names, element types and shapes of the inputs.
        outputs: The same of the outputs.
        stages: The names of the stages that ``ir`` knows.
    """

    def __init__(self, program: Program, path: str) -> None:
        self._program, self._path = program, path
        self._names = [s.name for s in program.inputs]
        self._result_names = [s.name for s in program.outputs]

    @property
    def inputs(self) -> tuple[Spec, ...]:
        """Names, element types and shapes of the inputs."""
        return self._program.inputs

    @property
    def outputs(self) -> tuple[Spec, ...]:
        """Names, element types and shapes of the outputs."""
        return self._program.outputs

    @property
    def stages(self) -> tuple[str, ...]:
        """The names of the stages that ``ir`` knows, in order."""
        return self._program.stages

    def __call__(self, *inputs: Any) -> Array | tuple[Array, ...]:
        """Runs the network on its inputs in order; returns its output, or a tuple of several.

        The arrays may still be computed when this returns.

        Raises:
            InputError: The number, a type or a shape of the inputs is wrong.
        """
        results = self._program.quick(inputs) or self._program(inputs)
        return results[0] if len(results) == 1 else tuple(results)

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """Runs the network on inputs by name; returns the outputs by name.

        The arrays may still be computed when this returns.

        Raises:
            InputError: An input is missing, unknown, or has a wrong type or shape.
        """
        try:
            values = [inputs[n] for n in self._names]
        except KeyError:
            raise self._wrong_names(inputs) from None
        except (TypeError, IndexError):
            raise InputError(
                "the inputs are no dict",
                where=self._path,
                expected=f"arrays by name: {listing([str(s) for s in self.inputs])}",
                got=type(inputs).__name__,
                remedy="call the model itself to pass arrays in order: model(x)",
            ) from None
        if len(inputs) != len(values):
            raise self._wrong_names(inputs)
        results = self._program.quick(tuple(values)) or self._program(values)
        return dict(zip(self._result_names, results, strict=True))

    def ir(self, stage: str | None = None) -> str:
        """The IR as text: the graph, or what it is after a stage; raises PjitError."""
        return self._program.ir(stage)

    def report(self, *inputs: Any) -> Report:
        """What was compiled, and how; with inputs, also what each step takes.

        Args:
            inputs: Those of a call, in order. The network then runs on them for about a second,
                its kernels between clocks, and each step shows its least time and how near that
                is to what the machine can do, which is measured meanwhile.

        Raises:
            InputError: The number, a type or a shape of the inputs is wrong.
        """
        return self._program.report(*inputs)

    def close(self) -> None:
        """Waits for the calls that were made, then frees code, constants and memory."""
        self._program.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        inputs, outputs = (", ".join(map(str, s)) for s in (self.inputs, self.outputs))
        return f"<pjit.Model {self._path!r}: {inputs} -> {outputs}>"

    def _wrong_names(self, inputs: Mapping[str, Any]) -> InputError:
        missing = [n for n in self._names if n not in inputs]
        unknown = [str(n) for n in inputs if n not in self._names]
        parts = [f"missing: {listing(missing)}"] if missing else []
        parts += [f"unknown: {listing(unknown)}"] if unknown else []
        return InputError(
            "the inputs are not those of the model",
            where=self._path,
            expected=listing([str(s) for s in self.inputs]),
            got="; ".join(parts),
        )


def load(
    path: str | os.PathLike,
    *,
    threads: int | None = None,
    inputs: Mapping[str, str] | None = None,
    exec_mode: str | None = None,
    target: str = "cpu",
    trusted: bool = False,
    cache: bool = True,
    dump: str | os.PathLike | None = None,
    log: str | None = None,
    verify: bool | None = None,
    cache_dir: str | os.PathLike | None = None,
    isa: str | None = None,
    direct: bool | None = None,
) -> Model:
    """Loads a network from an ONNX file, or from a ``.pjit`` file that ``pjit-convert`` wrote.

    Args:
        path: The file; its content says which kind it is.
        threads: Threads that run the network; by default the cores that the process may use.
        inputs: Types that replace the declared ones, by name: ``{"x": "f32[1,3,224,224]"}`` (ONNX).
        exec_mode: ``async`` or ``sync``.
        target: The back end.
        trusted: Whether machine code in a ``.pjit`` file may be run; otherwise it is compiled
            again.
        cache: Whether to use the compile cache.
        dump: Folder for the IR after each pass.
        log: Topics to log.
        verify: Whether to verify the IR after each pass.
        cache_dir: Folder of the compile cache.
        isa: The instruction set to compile for; by default all that the processor has.
        direct: Whether to make products and convolutions as they are defined, also where methods of
            fewer multiplications, which round more, are faster.

    Raises:
        FileNotFoundError: There is no such file.
        FormatError: The file is damaged or of a kind that pjit does not read.
        ModelError: The network cannot be converted; every problem is listed.
        SettingError: A setting has a value that it cannot have.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError("the model is given as a path", expected="a string", got=repr(path)[:60])
    file = Path(path)
    options = settings(
        threads=threads,
        dump=dump,
        log=log,
        verify=verify,
        cache_dir=cache_dir,
        exec_mode=exec_mode,
        isa=isa,
        direct=direct,
    )
    kind = kind_of(file)
    if kind == "pjit":
        if inputs:
            raise FormatError(
                "the inputs of a .pjit file are fixed",
                where=str(file),
                remedy="give the types of the inputs when the model is converted",
            )
        program = _load_artifact(file, target, options, trusted, cache)
    else:
        program = _load_onnx(file, target, options, dict(inputs or {}), cache)
    return Model(program, str(file))


def _load_onnx(
    file: Path, target: str, options: Settings, inputs: dict[str, str], cache: bool
) -> Program:
    """Loads an ONNX file; with a hit in the cache neither onnx nor a pass runs."""

    def source() -> Module:
        from pjit.frontends.onnx import import_onnx

        return import_onnx(file, inputs)

    if not cache or options.dump is not None:
        return compile_module(source(), target=target, options=options, cache=False, source=source)
    store = open_cache(options)
    machine = machine_of(target, options)
    content = key(["onnx", store.file_digest(file), sorted(inputs.items())])
    name = program_key(target, machine, content)
    found = store.load(name)
    if found is not None and _unchanged(store, file, found.meta.get("files", {})):
        return Program(found, Origin(source, machine), target, options, cached=True, store=store)
    module = source()
    files = {f: store.file_digest(file.parent / f) for f in external_files(file)}
    return compile_module(
        module,
        target=target,
        options=options,
        source=source,
        name=name,
        notes={"files": files},
    )


def _unchanged(store: Cache, file: Path, files: Mapping[str, str]) -> bool:
    """Whether the external data of a model are what they were."""
    try:
        return all(store.file_digest(file.parent / f) == digest for f, digest in files.items())
    except OSError:
        return False


def _load_artifact(
    file: Path, target: str, options: Settings, trusted: bool, cache: bool
) -> Program:
    opened = artifact.read(file, verify=True)
    machine = machine_of(target, options)
    if opened.has_code:
        why = opened.why_not(target, machine) if trusted else "the file is not trusted"
        if not why:
            origin = Origin(opened.module, machine)
            store = open_cache(options) if cache else None
            return Program(opened.binary(), origin, target, options, cached=True, store=store)
        options.say("compile", f"the machine code in {file} is not used: {why}")
    return compile_module(
        opened.module(), target=target, options=options, cache=cache, source=opened.module
    )


def compile(function: Any = None, /, **options: Any) -> Any:
    """Compiles a Python function of arrays; see ``pjit.tracing.function.compile``."""
    from pjit.tracing.function import compile as traced

    return traced(function, **options) if function is not None else traced(**options)
