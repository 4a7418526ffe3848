"""Runs pipelines: times, verifies and dumps each pass, and says which one broke the IR."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from pjit.ir.core import Module
from pjit.ir.errors import PassError, PjitError
from pjit.ir.text import print_module
from pjit.ir.verify import verify
from pjit.passes.context import Context, Pass
from pjit.passes.snapshot import clone, clone_block, count_ops, structure

__all__ = [
    "PassRecord",
    "clone",
    "clone_block",
    "parse_pipeline",
    "run_pipeline",
    "structure",
]


@dataclass(frozen=True)
class PassRecord:
    """What one pass did.

    Attributes:
        name: The name of the pass.
        pipeline: The pass with its options, as pipelines write it.
        seconds: The time it took, without verification and dumps.
        changed: Whether it changed the module.
        ops_before: Operations in the module before, those in regions included.
        ops_after: Operations after.
        text: The IR after, when it was asked for.
    """

    name: str
    pipeline: str
    seconds: float
    changed: bool
    ops_before: int
    ops_after: int
    text: str | None = None


def run_pipeline(
    module: Module,
    passes: Sequence[Pass] | str,
    context: Context,
    stop_after: int | None = None,
    *,
    keep: bool = False,
    again: Callable[[], Module] | None = None,
) -> list[PassRecord]:
    """Runs passes on a module, in place.

    Args:
        module: What to transform.
        passes: The passes, or their text: ``canonicalize,cse,fuse{max_ops=8}``.
        context: The machine and where to report.
        stop_after: Run only that many passes.
        keep: Whether the records hold the IR text after each pass.
        again: Makes the module as it is now once more, for the report of a failure; by default a
            copy is kept, and with it every constant.

    Returns:
        One record a pass.

    Raises:
        PassError: A pass failed, left the module broken, or (checked when ``context.verify``) says
            something wrong about whether it changed the module. The error names a file with the IR
            before that pass.
    """
    if isinstance(passes, str):
        from pjit.passes.pipelines import PASSES

        passes = parse_pipeline(passes, PASSES)
    again = again or partial(clone, clone(module))
    records: list[PassRecord] = []
    for at, step in enumerate(passes[:stop_after]):
        before = count_ops(module)
        fingerprint = structure(module) if context.verify else ()
        began = perf_counter()
        try:
            _check_level(module, step.requires, "before")
            changed = step.run(module, context)
            seconds = perf_counter() - began
            _check_level(module, (step.ensures,) if step.ensures else (), "after")
            if context.verify:
                verify(module)
                _check_changed(changed, structure(module) != fingerprint)
        except Exception as e:
            raise _failure(e, again(), passes[:at], step, context) from e
        text = print_module(module) if keep or (changed and context.dump) else None
        if changed and context.dump is not None and text is not None:
            context.dump.mkdir(parents=True, exist_ok=True)
            (context.dump / f"{at + 1:02d}-{step.name}.pir").write_text(text)
        after = count_ops(module)
        context.log(f"{step}: {before} -> {after} operations, {seconds * 1e3:.1f} ms")
        records.append(
            PassRecord(
                step.name, str(step), seconds, changed, before, after, text if keep else None
            )
        )
    return records


def _check_level(module: Module, levels: tuple[str, ...], when: str) -> None:
    level = module.main.level
    if levels and level not in levels:
        raise PassError(
            f"the main function has the wrong level {when} the pass",
            expected=" or ".join(levels),
            got=level,
        )


def _check_changed(said: bool, found: bool) -> None:
    if said != found:
        raise PassError(
            "the pass is wrong about whether it changed the module", expected=found, got=said
        )


def _failure(
    cause: Exception, start: Module, done: Sequence[Pass], step: Pass, context: Context
) -> PassError:
    """The error that names the pass, the operation, its line, and a command that repeats the
    failure.

    Passes are deterministic, so the IR before the pass is what the passes before it make of the
    first module.
    """
    quiet = Context(context.machine)
    for earlier in done:
        earlier.run(start, quiet)
    folder = context.dump or Path(tempfile.mkdtemp(prefix="pjit-"))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{len(done):02d}-before-{step.name}.pir"
    path.write_text(print_module(start))
    known = isinstance(cause, PjitError)
    first = cause.what if isinstance(cause, PjitError) else f"{type(cause).__name__}: {cause}"
    error = PassError(
        f"the pass {step.name!r} failed: {first}",
        where=getattr(cause, "where", None),
        expected=cause.expected if isinstance(cause, PjitError) else None,
        got=cause.got if isinstance(cause, PjitError) else None,
        remedy=f"to repeat it: pjit-opt {path} -p '{step}'",
    )
    for note in getattr(cause, "__notes__", ()) if known else ():
        error.add_note(note)
    return error


_STEP = re.compile(r"\s*([\w.-]+)\s*(?:\{([^{}]*)\})?\s*(?:,|$)")


def parse_pipeline(text: str, registry: Mapping[str, type[Pass]]) -> list[Pass]:
    """The passes that a text names: ``canonicalize,fuse{max_ops=8}``; the parts of a tuple are
    joined with ``+``.

    Raises:
        PassError: The text is malformed, or names an unknown pass or option.
    """
    passes: list[Pass] = []
    at, text = 0, text.strip().rstrip(",")
    while at < len(text):
        step = _STEP.match(text, at)
        if step is None:
            raise PassError(
                "the pipeline is malformed",
                expected="pass,pass{option=value}",
                got=text[at:],
            )
        at = step.end()
        cls = registry.get(step[1])
        if cls is None:
            raise PassError(f"no pass is called {step[1]!r}", expected=", ".join(sorted(registry)))
        passes.append(cls(**_parse_options(cls, step[2] or "")))
    return passes


def _parse_options(cls: type[Pass], text: str) -> dict[str, Any]:
    known = {f.name: f for f in fields(cls)}
    options: dict[str, Any] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        key, _, value = (s.strip() for s in part.partition("="))
        if key not in known:
            raise PassError(
                f"{cls.name} has no option {key!r}", expected=", ".join(known) or "none"
            )
        try:
            options[key] = _convert(value, getattr(cls(), key))
        except ValueError:
            raise PassError(
                f"the option {key!r} of {cls.name} has another type",
                expected=type(getattr(cls(), key)).__name__,
                got=value,
            ) from None
    return options


def _convert(text: str, default: Any) -> Any:
    """An option's text as a value of the type of its default."""
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    if isinstance(default, tuple):
        return tuple(filter(None, text.split("+")))
    return type(default)(text)
