"""Launches in bands: what one kernel makes is read by the next while it is in a cache.

A chain of launches that nobody else reads but for the last one runs part by part: some iterations
of the last kernel, before them those of the kernel before it that make what these read, and so on
backwards (``footprint``). A thread runs bands by itself, without waiting for others, and keeps what
is between the kernels in memory of its own, which the next band overwrites. Elements that its next
band needs too, as the rows between windows, are moved there; where another thread takes over, they
are computed again. The kernels are the same, and so are the bits.

The model compares the time that the tensors between take from where they would lie with that from
the cache that a band fits into, and with that of what is moved, computed or read again. It takes
the chains and the numbers of bands that save most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from typing import Any, ClassVar

import numpy as np

from pjit.ir import ops
from pjit.ir.builder import Builder
from pjit.ir.core import Block, Function, Module, Op, Value
from pjit.ir.loops import index_checks, parallel_extent
from pjit.ir.ops.movement import behind_reshapes
from pjit.ir.ops.program import Bands, Launch
from pjit.ir.target import LINE, Machine
from pjit.passes.batch import L3_SHARE
from pjit.passes.context import Context, Pass
from pjit.passes.footprint import Range, footprint
from pjit.passes.predict import predicted_seconds

GAIN = 0.03  # the share of a chain's predicted time that has to be saved
MOST_LAUNCHES = 6  # in a chain
MOST_BANDS = 1024
MOST_ITERATIONS = 1 << 16  # of a kernel: the footprint looks at each
TRIES = 3  # numbers of bands that are tried for each cache
L2_SHARE = 2 / 3  # for what a band reads, keeps and writes
WRITING = 2  # moves for a line that is written beyond L2: it is read before
OTHER_RATE = 1 / 2  # of the FMA rate, for kernels that are not tiles

Bounds = tuple[np.ndarray, np.ndarray]  # from, to before, in each band
Kept = tuple[int, tuple[int, ...]]  # how many elements, and the first of them in each band
Readers = dict[Value, list[tuple[Launch, Range]]]


@dataclass(frozen=True)
class Banding(Pass):
    """Finds the chains that are worth it."""

    name: ClassVar[str] = "bands"
    requires: ClassVar[tuple[str, ...]] = ("program",)

    def run(self, module: Module, context: Context) -> bool:
        """Chooses among the chains of the main function, its loops and its branches."""
        machine = context.machine
        if not machine.simd:
            return False
        # Threads run the iterations of a loop that carries nothing each for itself.
        single = replace(machine, threads=1, l3=machine.l3 // machine.threads)
        together, apart = Finder(module, machine), Finder(module, single)
        found = [x for run in _runs(module, module.main.body) for x in together.best(run)]
        for op in module.main.body.walk():
            finder = apart if isinstance(op, ops.Scan) and op.n_carry == 0 else together
            for region in () if isinstance(op, Bands) else op.regions:
                found += [x for run in _runs(module, region) for x in finder.best(run)]
        for launches, plan in found:
            build(module, launches, plan)
        return bool(found)


def _runs(module: Module, block: Block) -> Iterator[list[Launch]]:
    """Launches that follow each other, as long as all sizes are known."""
    run: list[Launch] = []
    for op in block.ops:
        if isinstance(op, Launch) and _may_be_parted(op, module.functions[op.kernel]):
            run.append(op)
        elif not isinstance(op, ops.Const | ops.Reshape):
            yield run
            run = []
    yield run


@dataclass(frozen=True)
class Plan:
    """How a chain runs.

    Attributes:
        made: The iterations of each launch.
        kept: For each result of all launches but the last what is kept of it.
        saved: Cycles that the model expects to be saved.
    """

    made: list[Bounds]
    kept: list[Kept]
    saved: float


@dataclass(frozen=True)
class Chain:
    """Launches of which only the last one has other readers.

    Attributes:
        launches: The launches, in order.
        kernels: Their kernels.
        machine: What they are for.
    """

    launches: Sequence[Launch]
    kernels: Sequence[Function]
    machine: Machine

    @cached_property
    def key(self) -> Any:
        """What plans depend on: the kernels, and who reads what."""
        made = {r: i for i, r in enumerate(r for op in self.launches for r in op.results)}
        origins = ([behind_reshapes(v) for v in op.operands] for op in self.launches)
        return tuple(
            (op.kernel, tuple(made.get(v, -1 - isinstance(v.op, ops.Const)) for v in read))
            for op, read in zip(self.launches, origins, strict=True)
        )

    @cached_property
    def between(self) -> list[Value]:
        """The results of all launches but the last."""
        return [r for op in self.launches[:-1] for r in op.results]

    @cached_property
    def outer(self) -> set[Value]:
        """What the launches read of others."""
        inside = {r for op in self.launches for r in op.results}
        return {behind_reshapes(v) for op in self.launches for v in op.operands} - inside

    @cached_property
    def extents(self) -> list[int]:
        """The iterations of each launch."""
        found = [parallel_extent(k) for k in self.kernels]
        return [n for n in found if isinstance(n, int)]

    @cached_property
    def arithmetic(self) -> list[float]:
        """Cycles that each launch takes on all threads beside the traffic of what is between."""
        m, out = self.machine, []
        for op in self.launches:
            cycles = op.flops / (OTHER_RATE * m.flops_per_cycle)
            if dict(op.schedule).get("kind") in ("tile", "winograd", "bilinear"):
                cycles = (predicted_seconds(op, 1, m, {}) or 0.0) * m.frequency
            out.append(cycles / m.threads)
        return out

    @cached_property
    def whole(self) -> float:
        """Cycles of the launches one after the other."""
        m, moving = self.machine, 0.0
        for nbytes in map(_nbytes, self.between):
            if nbytes // m.threads <= m.l2 // 2:
                rate = m.l2_bytes_per_cycle
            elif nbytes <= m.l3 // L3_SHARE:
                rate = m.memory_bytes_per_cycle
            else:
                rate = m.weights_bytes_per_cycle / m.threads
            moving += self._moves(rate) * nbytes / rate / m.threads
        return sum(self.arithmetic) + moving

    @cached_property
    def moved(self) -> int:
        """Bytes of what is between, written and read."""
        return 2 * sum(map(_nbytes, self.between))

    @cached_property
    def ideal(self) -> float:
        """Cycles if bands fit into L2, share nothing, and are as many for each thread."""
        m = self.machine
        return sum(self.arithmetic) + self.moved / m.l2_bytes_per_cycle / m.threads

    def banded(self, again: Sequence[float], repeated: float, count: int, rate: float) -> float:
        """Cycles in bands.

        Args:
            again: How often each launch is made, 1 where threads share nothing.
            repeated: Bytes that are read or moved beside what is between.
            count: The number of bands.
            rate: Bytes a cycle of the cache that a band fits into.
        """
        threads = self.machine.threads
        made = zip(self._written, again, strict=False)
        moved = self._moves(rate) * sum(n * nbytes for nbytes, n in made) + repeated
        cycles = sum(n * c for n, c in zip(again, self.arithmetic, strict=True))
        return (cycles + moved / rate / threads) * -(-count // threads) * threads / count

    def _moves(self, rate: float) -> int:
        """How often an element moves that is written and read at a rate."""
        return 2 if rate >= self.machine.l2_bytes_per_cycle else 1 + WRITING

    @cached_property
    def _written(self) -> list[int]:
        """Bytes that each launch but the last writes."""
        return [sum(map(_nbytes, op.results)) for op in self.launches[:-1]]

    def rate(self, held: int) -> float | None:
        """Bytes a cycle of the cache that bands of so many bytes fit into; None: there is none."""
        m = self.machine
        if held <= m.l2 * L2_SHARE:
            return m.l2_bytes_per_cycle
        return m.memory_bytes_per_cycle if held * m.threads <= m.l3 // L3_SHARE else None


@dataclass
class Finder:
    """Looks for chains.

    Attributes:
        module: The program.
        machine: What it is for, with the threads that run a chain together.
    """

    module: Module
    machine: Machine
    _footprints: dict[str, list[Range]] = field(default_factory=dict)
    _plans: dict[Any, Plan | None] = field(default_factory=dict)

    def best(self, run: Sequence[Launch]) -> list[tuple[Sequence[Launch], Plan]]:
        """Chains of a run of launches that share none and together save most."""
        best: list[tuple[float, list[tuple[Sequence[Launch], Plan]]]] = [(0.0, [])]
        for at in range(len(run) - 1, -1, -1):  # best[n]: of those from at + 1 + n on
            options = [best[0]]
            for n in range(2, min(MOST_LAUNCHES, len(run) - at) + 1):
                launches = run[at : at + n]
                plan = self.plan(launches) if _is_chain(launches) else None
                if plan is not None:
                    saved, rest = best[n - 1]
                    options.append((saved + plan.saved, [(launches, plan), *rest]))
            best.insert(0, max(options, key=lambda option: option[0]))
        return best[0][1]

    def plan(self, launches: Sequence[Launch]) -> Plan | None:
        """The plan of a chain that saves most, if it is enough."""
        kernels = [self.module.functions[op.kernel] for op in launches]
        chain = Chain(launches, kernels, self.machine)
        if chain.key not in self._plans:
            self._plans[chain.key] = self._best_plan(chain)
        return self._plans[chain.key]

    def _best_plan(self, chain: Chain) -> Plan | None:
        """Among numbers of bands that divide the iterations of a launch."""
        best, saved = None, GAIN * chain.whole
        if chain.whole - chain.ideal <= saved:
            return None
        once, tries, readers = [1.0] * len(chain.launches), Counter[float](), self._readers(chain)
        for count in range(2, min(chain.extents[-1], MOST_BANDS) + 1):
            if all(n % count for n in chain.extents):
                continue
            at_best = chain.rate(chain.moved // 2 // count)
            if at_best is None or tries[at_best] == TRIES:
                continue
            if chain.whole - chain.banded(once, 0, count, at_best) <= saved:
                continue
            made, kept = self._in_bands(chain, readers, count)
            if any((hi <= lo).any() for lo, hi in made.values()):
                return None  # somebody reads what nobody makes
            held, repeated = self._beside(chain, readers, made, kept)
            rate = chain.rate(held)
            if rate is None:
                continue
            tries[rate] += 1
            starts = self._starts(count)
            iterations = zip(made.values(), reversed(chain.extents), strict=True)
            extra = [float((hi - lo).sum() / n - 1) for (lo, hi), n in iterations][::-1]
            again = [1 + x * (starts if x > 0 else 1) for x in extra]
            found = chain.whole - chain.banded(again, repeated, count, rate)
            if found > saved:
                parts = [made[op] for op in chain.launches]
                best, saved = Plan(parts, [kept[r] for r in chain.between], found), found
        return best

    def _starts(self, count: int) -> float:
        """The share of the bands that follow no other in their thread."""
        return min(1.0, self.machine.threads / count)

    def _beside(
        self, chain: Chain, readers: Readers, made: dict[Launch, Bounds], kept: dict[Value, Kept]
    ) -> tuple[int, float]:
        """Bytes that a band holds, and that are moved or read again for bands."""
        count = len(made[chain.launches[-1]][0])
        starts, repeated = self._starts(count), 0.0
        held = sum(_nbytes(v) // count for v in chain.launches[-1].results)
        for v, (n, firsts) in kept.items():
            shared = float(np.maximum(0, n - np.diff(firsts)).sum())
            held += n * v.dtype.itemsize
            repeated += 2 * (1 - starts) * shared * v.dtype.itemsize
        if chain.rate(held) is None:
            return held, repeated
        going_on = {op: (_not_made_before(lo, hi), hi) for op, (lo, hi) in made.items()}
        for v in chain.outer:
            size, nbytes = _nbytes(v) // v.dtype.itemsize, v.dtype.itemsize
            part, again = _part(_wanted(readers[v], made), size)
            _, still = _part(_wanted(readers[v], going_on), size)
            held += part * nbytes
            repeated += (starts * again + (1 - starts) * still) * nbytes
        return held, repeated

    def _in_bands(
        self, chain: Chain, readers: Readers, count: int
    ) -> tuple[dict[Launch, Bounds], dict[Value, Kept]]:
        """The iterations of each launch, from the last to the first, and what is kept."""
        ends = chain.extents[-1] * np.arange(count + 1) // count
        made: dict[Launch, Bounds] = {chain.launches[-1]: (ends[:-1], ends[1:])}
        kept: dict[Value, Kept] = {}
        for op in chain.launches[-2::-1]:
            ranges = self._ranges(op)[len(op.operands) :]
            wanted = [_wanted(readers[r], made) for r in op.results]
            made[op] = _hull([x.meeting(*w) for x, w in zip(ranges, wanted, strict=True)])
            for r, x, w in zip(op.results, ranges, wanted, strict=True):
                kept[r] = _kept(_hull([w, x.over(*made[op])]), LINE // r.dtype.itemsize)
        return made, kept

    def _readers(self, chain: Chain) -> Readers:
        """What reads each value, and which elements."""
        found: Readers = {}
        for op in chain.launches:
            for v, x in zip(op.operands, self._ranges(op), strict=False):
                found.setdefault(behind_reshapes(v), []).append((op, x))
        return found

    def _ranges(self, op: Launch) -> list[Range]:
        if op.kernel not in self._footprints:
            self._footprints[op.kernel] = footprint(self.module.functions[op.kernel])
        return self._footprints[op.kernel]


def build(module: Module, launches: Sequence[Launch], plan: Plan) -> None:
    """Moves the launches of a chain into the region of a ``bands``."""
    last = launches[-1]
    block = last.parent
    assert block is not None
    inside = {v for op in launches[:-1] for v in op.results}
    moved: list[Op] = []
    for op in block.ops:
        between = isinstance(op, ops.Reshape) and op.x in inside
        if between:
            inside.add(op.result)
        if between or op in launches:
            moved.append(op)
    body = Block([])
    attrs: dict[str, Any] = {
        "ranges": tuple(tuple(zip(lo.tolist(), hi.tolist(), strict=True)) for lo, hi in plan.made),
        "kept": tuple(plan.kept),
    }
    attrs["schedule"] = (("bands", len(attrs["ranges"][0])),)
    types = [r.type for r in last.results]
    bands = Builder(block, last.loc, module, last).build(Bands, [], attrs, [body], types)
    for old, new in zip(last.results, bands.results, strict=True):
        new.name = old.name
        old.replace_by(new)
    for op in moved:
        block.ops.remove(op)
        op.parent = body
        body.ops.append(op)
    Builder(body, last.loc, module)(ops.Yield, *last.results)


def _is_chain(launches: Sequence[Launch]) -> bool:
    """Whether the results of all but the last have readers, and none that is not here."""
    readers = [set(_readers(r)) for op in launches[:-1] for r in op.results]
    return all(found and found <= set(launches) for found in readers)


def _may_be_parted(op: Launch, kernel: Function) -> bool:
    """Whether all sizes are known, and no iteration may fail: bands leave out what nobody reads."""
    values = (*op.operands, *op.results)
    static = not op.sizes and all(isinstance(d, int) and d > 0 for v in values for d in v.shape)
    extent = parallel_extent(kernel)
    few = isinstance(extent, int) and extent <= MOST_ITERATIONS
    return static and few and not index_checks(kernel)


def _not_made_before(lo: np.ndarray, hi: np.ndarray) -> np.ndarray:
    """Where bands begin if the one before was made; each keeps an iteration at least."""
    return np.minimum(np.maximum(lo, np.concatenate([lo[:1], hi[:-1]])), hi - 1)


def _wanted(readers: list[tuple[Launch, Range]], made: dict[Launch, Bounds]) -> Bounds:
    """The elements that those launches that are made need in each band."""
    return _hull([x.over(*made[op]) for op, x in readers if op in made])


def _hull(found: Sequence[Bounds]) -> Bounds:
    """From the least to the greatest, in each band."""
    return reduce(np.minimum, [lo for lo, _ in found]), reduce(np.maximum, [hi for _, hi in found])


def _part(bounds: Bounds, size: int) -> tuple[int, int]:
    """Elements of a value that a band reads, and that all bands read more than once.

    Long ranges that begin one after the other are of bands that read a part of each row.
    """
    lo, hi = bounds
    total = int((hi - lo).sum())
    if total > 2 * size and (np.diff(lo) > 0).all():
        return size // len(lo), 0
    return int((hi - lo).max()), max(0, total - size)


def _kept(bounds: Bounds, line: int) -> Kept:
    """What to keep of a value: from the start of a cache line on, which has so many elements."""
    firsts = bounds[0] // line * line
    return int((bounds[1] - firsts).max()), tuple(firsts.tolist())


def _nbytes(v: Value) -> int:
    size = v.tensor.size
    assert isinstance(size, int)
    return size * v.dtype.itemsize


def _readers(v: Value) -> Iterator[Op]:
    """What reads a value, through reshapes."""
    for op in v.users:
        if isinstance(op, ops.Reshape):
            yield from _readers(op.result)
        else:
            yield op
