"""What a compilation did: ``fn.report()`` and ``model.report()``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pjit.ir import expr
from pjit.ir.expr import Dim
from pjit.ir.interp import evaluate
from pjit.ir.ops.control import host_reason
from pjit.ir.program import (
    BranchStep,
    HostStep,
    LaunchStep,
    LoopStep,
    NativeStep,
    ProgramView,
    TeamStep,
    children,
)


@dataclass(frozen=True)
class Step:
    """One step of a program.

    Attributes:
        kernel: The name of the kernel, or of the operator (control flow, or on the host).
        kind: ``loop``, ``row``, ``tile``, ``line``, ``control`` or ``host``.
        schedule: The choices that made the kernel.
        flops: Floating-point operations of a call, symbolic sizes counted as 1, and ``while``
            as one iteration.
        where: The location of what it computes.
        reason: Why it runs on the host; empty for a kernel.
    """

    kernel: str
    kind: str
    schedule: dict[str, Any]
    flops: int
    where: str
    reason: str = ""


@dataclass(frozen=True)
class PassTime:
    """One pass: its time, whether it changed the IR, and the operations before and after."""

    name: str
    seconds: float
    changed: bool
    ops_before: int
    ops_after: int


@dataclass(frozen=True)
class Report:
    """What was compiled, and how.

    Attributes:
        target: The back end.
        machine: The machine that the code is for.
        threads: The threads that run it.
        steps: The steps in order.
        passes: The passes in order; those of the first compilation when ``cached``.
        build_seconds: The time to make machine code.
        load_seconds: The time to load it.
        cached: Whether the program came from the compile cache or from a file.
        memory: Bytes: ``constants``, ``arena`` (as allocated), ``peak`` (as planned), ``unshared``
            (without sharing), ``code``.
    """

    target: str
    machine: str
    threads: int
    steps: tuple[Step, ...]
    passes: tuple[PassTime, ...]
    build_seconds: float
    load_seconds: float
    cached: bool
    memory: Mapping[str, int]

    @property
    def flops(self) -> int:
        """Floating-point operations of a call, symbolic sizes counted as 1."""
        return sum(s.flops for s in self.steps)

    @property
    def kernels(self) -> tuple[str, ...]:
        """The kernels, each once."""
        native = [s.kernel for s in self.steps if s.kind not in ("host", "control")]
        return tuple(dict.fromkeys(native))

    @property
    def fallbacks(self) -> tuple[Step, ...]:
        """The steps that run on the host."""
        return tuple(s for s in self.steps if s.kind == "host")

    @property
    def compile_seconds(self) -> float:
        """The time of all passes and of making machine code."""
        return sum(p.seconds for p in self.passes) + self.build_seconds

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {**asdict(self), "flops": self.flops, "compile_seconds": self.compile_seconds}

    def __str__(self) -> str:
        lines = [self._summary(), self._times(), self._memory()]
        rows: list[tuple[str, ...]] = [("step", "kind", "MFLOP", "schedule", "where")]
        rows += [
            (s.kernel, s.kind, f"{s.flops / 1e6:.3f}", _choices(s.schedule), s.where)
            for s in self.steps
        ]
        lines += _table(rows)
        lines += [f"on the host: {s.kernel} at {s.where}: {s.reason}" for s in self.fallbacks]
        return "\n".join(lines)

    def _summary(self) -> str:
        native = len(self.steps) - len(self.fallbacks)
        share = f"{native} of {len(self.steps)} steps native" if self.steps else "no steps"
        return (
            f"{self.target} ({self.machine}, {self.threads} threads): {share}, "
            f"{len(self.kernels)} kernels, {self.flops / 1e6:.3f} MFLOP"
        )

    def _times(self) -> str:
        slowest = sorted(self.passes, key=lambda p: -p.seconds)[:3]
        parts = ", ".join(f"{p.name} {p.seconds * 1e3:.1f} ms" for p in slowest)
        origin = "cached; compiled once in" if self.cached else "compiled in"
        return (
            f"{origin} {self.compile_seconds * 1e3:.1f} ms (machine code "
            f"{self.build_seconds * 1e3:.1f} ms{', ' if parts else ''}{parts}), "
            f"loaded in {self.load_seconds * 1e3:.1f} ms"
        )

    def _memory(self) -> str:
        sizes = ", ".join(f"{k} {_bytes(v)}" for k, v in self.memory.items())
        return f"memory: {sizes}"


def steps_of(view: ProgramView) -> tuple[Step, ...]:
    """The steps of a program, for a report."""
    steps: list[Step] = []
    for part in view.steps:
        if isinstance(part, HostStep):
            op = part.op
            reason = getattr(op, "host", None) or host_reason(op)
            steps.append(Step(op.op_name, "host", {}, 0, str(op.loc), str(reason)))
            continue
        steps += _native(part.steps, 1)
    return tuple(steps)


def _native(parts: Iterable[NativeStep], times: int) -> Iterator[Step]:
    """Native steps, those inside of others after what holds them; copies are left out."""
    for part in parts:
        where = str(part.op.loc) if isinstance(part, LaunchStep | LoopStep | BranchStep) else ""
        if isinstance(part, LaunchStep):
            schedule = dict(part.op.attrs["schedule"])
            kind = str(schedule.pop("kind", "loop"))
            flops = _ones(part.op.attrs["flops"]) * times
            yield Step(part.kernel, kind, schedule, flops, where)
        elif isinstance(part, LoopStep | BranchStep):
            yield Step(part.op.op_name, "control", dict(part.op.attrs["schedule"]), 0, where)
            count = part.op.operands[-1].shape[0] if part.op.op_name == "scan" else 1
            yield from _native(children(part), times * _ones(count))
        elif isinstance(part, TeamStep):
            yield from _native(part.steps, times)


def _ones(d: Dim) -> int:
    return evaluate(d, dict.fromkeys(expr.symbols(d), 1))


def passes_of(records: Iterable[Mapping[str, Any]]) -> tuple[PassTime, ...]:
    """The passes from plain data."""
    return tuple(PassTime(**r) for r in records)


def _choices(schedule: Mapping[str, Any]) -> str:
    return " ".join(f"{k}={v}" for k, v in schedule.items())


def _bytes(n: int) -> str:
    return f"{n / 1e6:.2f} MB" if n >= 10_000 else f"{n} B"


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [min(40, max(len(r[i]) for r in rows)) for i in range(len(rows[0]) - 1)]
    return [
        "  ".join([*(c.ljust(w) for c, w in zip(r, widths, strict=False)), r[-1]]) for r in rows
    ]
