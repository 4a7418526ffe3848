"""The steps of a program as a report shows them: what each does, should take, and took."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pjit.ir import expr
from pjit.ir.core import Op
from pjit.ir.expr import Dim
from pjit.ir.interp import evaluate
from pjit.ir.ops.control import host_reason
from pjit.ir.ops.program import Launch
from pjit.ir.program import (
    BandStep,
    BranchStep,
    CopyStep,
    HostStep,
    LaunchStep,
    LoopStep,
    NativeStep,
    ProgramView,
    TeamStep,
    children,
)
from pjit.ir.target import Machine
from pjit.passes.predict import predicted_seconds
from pjit.profile import Profile, StepTime

PRODUCTS = {"conv", "conv_packed", "depthwise", "matmul", "matmul_packed", "winograd_product"}
NOT_KERNELS = ("control", "copy", "host")


@dataclass(frozen=True)
class Step:
    """One step of a program. Numbers are of one call.

    Attributes:
        kernel: The name of the kernel, or of the operator (control flow, or on the host).
        kind: ``loop``, ``row``, ``tile``, ``line``, ``winograd``, ``bilinear``; ``copy``,
            ``control``, ``host``.
        operators: The operators that it computes.
        problem: The sizes that the cost model looked at, by name.
        schedule: The choices that made the kernel.
        count: How often it runs; None where the data decide and it was not measured. Both ways of
            a branch count until they are measured.
        flops: Floating-point operations, exact for products and windows, else one per element and
            operator; where ``count`` is None, each time.
        nbytes: Bytes that are read and written, each once; where ``count`` is None, each time.
        predicted: Seconds by the cost model, or None while sizes or the count are not known.
        measured: Seconds, with the wait for the slowest thread; for control flow those between the
            steps that it holds. None without a profile.
        limit: What bounds it: ``FMA`` (only products) or ``memory``; empty without a profile.
        least: Seconds that it takes at this limit of all threads; None without a profile.
        where: The location of what it computes.
        reason: Why it runs on the host; empty for others.
    """

    kernel: str
    kind: str
    operators: tuple[str, ...] = ()
    problem: Mapping[str, Dim] | None = None
    schedule: Mapping[str, Any] | None = None
    count: Dim | None = 1
    flops: Dim = 0
    nbytes: Dim = 0
    predicted: float | None = None
    measured: float | None = None
    limit: str = ""
    least: float | None = None
    where: str = ""
    reason: str = ""

    @property
    def share(self) -> float | None:
        """The share of the machine's limit that it reaches: 1 is the limit."""
        return self.least / self.measured if self.least is not None and self.measured else None

    @property
    def lost(self) -> float:
        """Seconds above the time at the limit; 0 where that is not known."""
        known = self.least is not None and self.measured is not None
        return max(0.0, self.measured - self.least) if known else 0.0  # type: ignore[operator]


def steps_of(
    view: ProgramView, machine: Machine, threads: int, profile: Profile | None = None
) -> tuple[Step, ...]:
    """The steps of a program.

    Args:
        view: The program.
        machine: What it was compiled for.
        threads: The threads that run it.
        profile: What its steps took.
    """
    return tuple(_Steps(view, machine, threads, profile).all())


class _Steps:
    def __init__(
        self, view: ProgramView, machine: Machine, threads: int, profile: Profile | None
    ) -> None:
        self.view, self.machine, self.threads, self.profile = view, machine, threads, profile
        self.sizes: Mapping[str, int] = {} if profile is None else profile.sizes
        self.times = iter(() if profile is None else profile.steps)
        constants = [self.known(s.nbytes) for s in view.slots if s.kind == "constant"]
        self.constants = sum(n for n in constants if isinstance(n, int))

    def all(self) -> Iterator[Step]:
        """All steps, those inside of others after what holds them."""
        for part in self.view.steps:
            if isinstance(part, HostStep):
                yield self.host(part.op)
                continue
            for step in part.steps:
                yield from self.native(step, 1, self.threads, ())

    def known(self, d: Dim) -> Dim:
        """An expression with the sizes of the profile put in."""
        return expr.substitute(d, self.sizes)

    def time(self) -> StepTime | None:
        """What the next step took."""
        return next(self.times) if self.profile is not None else None

    def host(self, op: Op) -> Step:
        """An operation on the host."""
        reason = getattr(op, "host", None) or host_reason(op)
        took = self.time()
        return Step(
            op.op_name,
            "host",
            (op.op_name,),
            measured=None if took is None else took.seconds,
            where=str(op.loc),
            reason=str(reason),
        )

    def native(
        self, step: NativeStep, times: Dim | None, threads: int, loops: tuple[Op, ...]
    ) -> Iterator[Step]:
        """A native step that runs ``times`` on so many threads, and what it holds."""
        took = self.time()
        count = times if took is None else took.count
        if isinstance(step, LaunchStep):
            yield self.launch(step, count, threads, took, bool(loops))
            return
        if isinstance(step, CopyStep):
            yield self.copy(step, count, took)
            return
        seconds = None if took is None else took.seconds
        if isinstance(step, TeamStep):
            share = self.known(self.view.sizes[step.share])
            schedule: Mapping[str, Any] = {"share": share}
            yield Step("team", "control", schedule=schedule, count=count, measured=seconds)
            threads = 1 if share == 0 or threads <= len(step.steps) else threads
        else:
            op = step.op
            yield Step(
                op.op_name,
                "control",
                schedule=dict(op.attrs["schedule"]),
                count=count,
                measured=seconds,
                where=str(op.loc),
            )
            if isinstance(step, BandStep):
                for part in step.launches:
                    time = self.time()
                    whole = time and StepTime(time.seconds, took.count if took else 1)
                    yield self.launch(part, count, threads, whole, bool(loops))
                return
            if isinstance(step, LoopStep):
                loops = (*loops, op)
                often = None if step.count is None else self.known(self.view.sizes[step.count])
                times = None if times is None or often is None else times * often
        assert isinstance(step, LoopStep | BranchStep | TeamStep)
        for inner in children(step):
            yield from self.native(inner, times, threads, loops)

    def launch(
        self, step: LaunchStep, count: Dim | None, threads: int, took: StepTime | None, looped: bool
    ) -> Step:
        """A launch of a kernel."""
        op = step.op
        assert isinstance(op, Launch)
        schedule = dict(op.schedule)
        kind = str(schedule.pop("kind", "loop"))
        extent = self.known(self.view.sizes[step.extent])
        if isinstance(extent, int):
            threads = max(1, min(threads, extent // step.grain))
        each = predicted_seconds(op, threads, self.machine, self.sizes)
        often = 1 if count is None else count
        flops, nbytes = self.known(op.flops), self.known(op.nbytes)
        limit, least = "", None
        if took is not None and not expr.symbols(flops) | expr.symbols(nbytes):
            limit, least = self.limit(op, looped)
            least *= took.count
        return Step(
            step.kernel,
            kind,
            tuple(op.operators),
            {k: self.known(v) for k, v in op.problem},
            {k: self.known(v) if isinstance(v, expr.Expr) else v for k, v in schedule.items()},
            count,
            flops * often,
            nbytes * often,
            each * count if each is not None and isinstance(count, int) else None,
            None if took is None else took.seconds,
            limit,
            least,
            str(op.loc),
        )

    def limit(self, op: Launch, looped: bool) -> tuple[str, float]:
        """What bounds a launch on this machine, and its seconds then; its sizes are known.

        Constants come from where all constants of the program fit, or, in a loop, those of the
        launch; everything else from where it fits itself.
        """
        assert self.profile is not None
        limits = self.profile.limits
        flops, nbytes, weights = (
            evaluate(d, self.sizes) for d in (op.flops, op.nbytes, op.weights)
        )
        kept = weights if looped else self.constants
        memory = limits.memory_seconds(weights, kept) + limits.memory_seconds(nbytes - weights)
        if PRODUCTS.isdisjoint(op.operators):
            return "memory", memory
        compute = limits.compute_seconds(flops, op.results[0].tensor.dtype.bits)
        return ("FMA", compute) if compute >= memory else ("memory", memory)

    def copy(self, step: CopyStep, count: Dim | None, took: StepTime | None) -> Step:
        """A copy."""
        nbytes = self.known(self.view.sizes[step.nbytes]) * 2
        limit, least = "", None
        if took is not None and isinstance(nbytes, int) and self.profile is not None:
            limit, least = "memory", took.count * self.profile.limits.memory_seconds(nbytes)
        return Step(
            "copy",
            "copy",
            count=count,
            nbytes=nbytes * (1 if count is None else count),
            measured=None if took is None else took.seconds,
            limit=limit,
            least=least,
        )
