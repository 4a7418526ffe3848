"""What a compilation did, and what a program takes: ``fn.report()`` and ``model.report()``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from pjit.explain import NOT_KERNELS, Step
from pjit.ir import expr
from pjit.ir.expr import Dim
from pjit.profile import Profile

WORST = 5  # kernels that are listed as furthest from their limit
WIDEST = 32  # characters of a cell; two cells are wider


@dataclass(frozen=True)
class PassTime:
    """One pass: its time, whether it changed the IR, and the operations before and after."""

    name: str
    seconds: float
    changed: bool
    ops_before: int
    ops_after: int


@dataclass(frozen=True)
class Control:
    """What the questions about values became that a traced function asks.

    Attributes:
        questions: The questions; each is a branch, or the test of a loop.
        loops: The loops that run natively.
        runs: How often the function ran on traced arrays to find the ways through it.
        restarts: How often that began again, because a loop was understood.
        grown: The answers that calls added later.
        compiled: How often the program was compiled.
        programs: The programs of the function, for other signatures and other values read.
        python: Lines and reasons: calls that come there run in Python.
        raising: Lines and errors: calls that come there raise.
        open: Lines and reasons: what follows is compiled when a call comes there.
    """

    questions: int
    loops: int
    runs: int
    restarts: int
    grown: int
    compiled: int
    programs: int
    python: tuple[tuple[str, str], ...] = ()
    raising: tuple[tuple[str, str], ...] = ()
    open: tuple[tuple[str, str], ...] = ()

    def lines(self) -> list[str]:
        """The text."""
        restarts = f", begun again {_times(self.restarts)}" if self.restarts else ""
        grown = f", {self.grown} answers added by calls" if self.grown else ""
        rows = [("in Python", self.python), ("raises", self.raising), ("not met yet", self.open)]
        return [
            f"control flow: {self.questions} questions, {self.loops} native loops; traced in "
            f"{self.runs} runs{restarts}, compiled {_times(self.compiled)}{grown}; "
            f"{self.programs} programs",
            *(f"{what}: {where}: {why}" for what, found in rows for where, why in found),
        ]


def _times(n: int) -> str:
    return "once" if n == 1 else f"{n} times"


@dataclass(frozen=True)
class Report:
    """What was compiled, how, and what it takes.

    Attributes:
        target: The back end.
        machine: The machine that the code is for.
        threads: The threads that run it.
        steps: The steps in order, what a step holds after it.
        profile: The times of the steps, with the limits of the machine; None without inputs.
        passes: The passes in order; those of the first compilation when ``cached``.
        build_seconds: The time to make machine code.
        load_seconds: The time to load it.
        cached: Whether the program came from the compile cache or from a file.
        memory: Bytes: ``constants``, ``arena`` (as allocated), ``peak`` (as planned), ``unshared``
            (without sharing), ``code``.
        control: What dynamic control flow became; None for a model from a file.
    """

    target: str
    machine: str
    threads: int
    steps: tuple[Step, ...]
    profile: Profile | None
    passes: tuple[PassTime, ...]
    build_seconds: float
    load_seconds: float
    cached: bool
    memory: Mapping[str, int]
    control: Control | None = None

    @property
    def flops(self) -> Dim:
        """Floating-point operations of a call; an expression where sizes are free."""
        return sum((s.flops for s in self.steps), start=0)

    @property
    def kernels(self) -> tuple[str, ...]:
        """The kernels, each once."""
        return tuple(dict.fromkeys(s.kernel for s in self.steps if s.kind not in NOT_KERNELS))

    @property
    def fallbacks(self) -> tuple[Step, ...]:
        """The steps that run on the host."""
        return tuple(s for s in self.steps if s.kind == "host")

    @property
    def compile_seconds(self) -> float:
        """The time of all passes and of making machine code."""
        return sum(p.seconds for p in self.passes) + self.build_seconds

    @property
    def by_kernel(self) -> tuple[Step, ...]:
        """The steps with all launches of a kernel as one, where the first of them is."""
        rows: dict[Any, Step] = {}
        for at, s in enumerate(self.steps):
            key = at if s.kind in NOT_KERNELS else s.kernel
            rows[key] = _together(rows[key], s) if key in rows else s
        return tuple(rows.values())

    @property
    def worst(self) -> tuple[Step, ...]:
        """The kernels that lose most time against the limit of the machine, at most five."""
        rows = [s for s in self.by_kernel if s.lost > 0]
        return tuple(sorted(rows, key=lambda s: -s.lost)[:WORST])

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; expressions as text."""
        totals = {"flops": self.flops, "compile_seconds": self.compile_seconds}
        return _plain({**_fields(self), **totals})

    def __str__(self) -> str:
        lines = [self._summary(), self._times(), self._memory()]
        if self.control is not None:
            lines += self.control.lines()
        if self.profile is not None:
            lines += _measured(self.profile)
        lines += _table(self.by_kernel, self.profile is not None)
        lines += [f"on the host: {s.kernel} at {s.where}: {s.reason}" for s in self.fallbacks]
        worst = ", ".join(f"{s.kernel} {_us(s.lost)} us ({_share(s)})" for s in self.worst)
        if worst:
            lines.append(f"most time above the limit: {worst}")
        counts = [s.count for s in self.steps if s.count is not None]
        free = {n for d in (self.flops, *counts) for n in expr.symbols(d)}
        if free and self.profile is None:
            names = ", ".join(sorted(free))
            lines.append(f"free sizes: {names}; report(*inputs) measures with those of inputs")
        return "\n".join(lines)

    def _summary(self) -> str:
        native = len(self.steps) - len(self.fallbacks)
        share = f"{native} of {len(self.steps)} steps native" if self.steps else "no steps"
        flops = self.flops
        work = f"{_millions(flops)} MFLOP" if isinstance(flops, int) else f"{flops} FLOP"
        return (
            f"{self.target} ({self.machine}, {self.threads} threads): {share}, "
            f"{len(self.kernels)} kernels, {work}"
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


def passes_of(records: Iterable[Mapping[str, Any]]) -> tuple[PassTime, ...]:
    """The passes from plain data."""
    return tuple(PassTime(**r) for r in records)


def _together(a: Step, b: Step) -> Step:
    """Two launches of one kernel as one step; it is bound by what bounds the longer one."""
    counts = None if a.count is None or b.count is None else a.count + b.count
    longer = a if (a.least or 0) >= (b.least or 0) else b
    return replace(
        a,
        count=counts,
        flops=a.flops + b.flops,
        nbytes=a.nbytes + b.nbytes,
        predicted=_sum(a.predicted, b.predicted),
        measured=_sum(a.measured, b.measured),
        limit=longer.limit,
        least=_sum(a.least, b.least),
    )


def _sum(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b


def _fields(x: Any) -> dict[str, Any]:
    return {f.name: getattr(x, f.name) for f in fields(x)}


def _plain(x: Any) -> Any:
    if isinstance(x, expr.Expr):
        return str(x)
    if isinstance(x, Step):
        return _plain({**_fields(x), "share": x.share})
    if is_dataclass(x):
        return _plain(_fields(x))
    if isinstance(x, Mapping):
        return {k: _plain(v) for k, v in x.items()}
    return [_plain(v) for v in x] if isinstance(x, tuple | list) else x


# The text


def _measured(p: Profile) -> list[str]:
    steps = sum(s.seconds for s in p.steps)
    rates = ", ".join(f"{_bytes(n)} {rate / 1e9:.0f}" for n, rate in p.limits.bandwidth)
    sizes = "".join(f", {k}={v}" for k, v in p.sizes.items())
    return [
        f"a call takes {_us(p.call_seconds)} us, its steps {_us(steps)} us "
        f"(least of {p.calls} calls{sizes})",
        f"limits: {p.limits.flops / 1e9:.0f} GFLOP/s; GB/s of reads from {rates}",
    ]


def _table(steps: tuple[Step, ...], measured: bool) -> list[str]:
    free = any(isinstance(d, expr.Expr) for s in steps for d in (s.flops, s.nbytes))
    amounts, amount = (["FLOP", "bytes"], str) if free else (["MFLOP", "MB"], _millions)
    head = ["kernel", "operators", "count", "sizes", "schedule", *amounts, "predicted us"]
    rows = [[*head, *(["measured us", "of limit"] if measured else []), "where"]]
    for s in steps:
        cells = [s.kernel, "+".join(s.operators), _size(s.count), _problem(s), _choices(s)]
        cells += [amount(s.flops), amount(s.nbytes), _us(s.predicted)]
        if measured:
            cells += [_us(s.measured), _share(s)]
        cut = [*map(_cut, cells), _cut(s.where, 2 * WIDEST)]
        cut[head.index("schedule")] = _cut(_choices(s), 3 * WIDEST // 2)
        rows.append(cut)
    if measured:
        sums: list[Any] = [_total(s.flops for s in steps), _total(s.nbytes for s in steps)]
        predicted, took, least = (
            sum(getattr(s, f) or 0 for s in steps) for f in ("predicted", "measured", "least")
        )
        share = f"{100 * least / took:.0f} %" if took else ""
        cells = ["total", "", "", "", "", *map(amount, sums), _us(predicted), _us(took), share]
        rows.append([*cells, ""])
    numbers = {rows[0].index(n) for n in rows[0] if n in ("count", *amounts) or " us" in n}
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    lines = []
    for r in rows:
        cells = [
            c.rjust(w) if i in numbers else c.ljust(w)
            for i, (c, w) in enumerate(zip(r, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _total(dims: Iterable[Dim]) -> Dim:
    return sum(dims, start=0)


def _problem(s: Step) -> str:
    """The sizes of a contraction: batch * rows x depth x columns; several batches where items of
    one differ in their rows.
    """
    p = s.problem or {}
    if s.kind in ("tile", "bilinear"):
        ends = ["", *(k.removeprefix("batch") for k in p if k.startswith("batch."))]
        parts = [
            ("" if p[f"batch{e}"] == 1 else f"{p[f'batch{e}']} * ") + str(p[f"rows{e}"])
            for e in ends
        ]
        rows = parts[0] if len(parts) == 1 else f"({' + '.join(parts)})"
        return f"{rows}x{p['depth']}x{p['cols']}"
    if s.kind == "winograd":
        images = "" if p["count"] == 1 else f"{p['count']} * "
        size = f"{images}{p['height']}x{p['width']}, {p['channels']} to {p['out_channels']}"
        for name, usual in (("taps", "3x3"), ("stride", "1x1")):
            pair = f"{p.get(f'{name} down')}x{p.get(f'{name} across')}"
            if f"{name} down" in p and pair != usual:
                size += f", {name} {pair}"
        return size
    return ""


def _choices(s: Step) -> str:
    """The kind and the choices; tiles as rows x columns."""
    choices = dict(s.schedule or {})
    parts = [s.kind]
    if "mr" in choices:
        heights = (choices.pop("mr"), *choices.pop("fewer", ()))
        parts.append(f"{','.join(map(str, dict.fromkeys(heights)))}x{choices.pop('nr')}")
    p = s.problem or {}
    if s.kind == "winograd" and "size down" in p:
        parts.append(f"F({p['size down']}x{p['size across']})")
    if "order" in choices:
        parts.append(f"by {choices.pop('order')}")
    parts += [f"{k}={v}" for k, v in choices.items() if not (k == "few" and v == 0)]
    return " ".join(parts)


def _share(s: Step) -> str:
    return "" if s.share is None or not s.limit else f"{s.limit} {100 * s.share:.0f} %"


def _millions(d: Dim) -> str:
    assert isinstance(d, int)
    return f"{d / 1e6:.3f}"


def _size(d: Dim | None) -> str:
    return "?" if d is None else str(d)


def _us(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e6:.1f}"


def _cut(text: str, width: int = WIDEST) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def _bytes(n: int) -> str:
    return f"{n / 1e6:.2f} MB" if n >= 10_000 else f"{n} B"
