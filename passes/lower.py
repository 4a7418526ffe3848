"""Turns each group into a kernel, and the function into a program of launches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pjit.ir import expr
from pjit.ir.core import Block, Function, Module, Op, Value
from pjit.ir.expr import Dim
from pjit.ir.kernel_builder import ScalarBuilder, kernel_function
from pjit.ir.loops import index_checks, kernel_symbols, kernels, parallel_extent
from pjit.ir.opdef import Elementwise, OpDef
from pjit.ir.ops.basic import Const, Return
from pjit.ir.ops.control import CONTROL, Scan, host_reason
from pjit.ir.ops.fused import Fused
from pjit.ir.ops.index import INDICES
from pjit.ir.ops.program import Launch
from pjit.ir.target import Machine
from pjit.ir.types import BufferType
from pjit.passes.bounds import bound_of
from pjit.passes.context import Context, Pass
from pjit.passes.local_dims import LocalDims
from pjit.passes.predict import notes
from pjit.passes.pull import GroupPuller
from pjit.passes.schedule import MIN_WORK, flops, grain, work


class KernelBuild:
    """A kernel under construction: its builder, its buffers, and a puller that reads the group's
    inputs.
    """

    def __init__(
        self,
        fused: Fused,
        name: str,
        constants: Mapping[str, np.ndarray],
        machine: Machine,
        bounds: Sequence[Dim | None],
    ):
        self.fused, self.machine = fused, machine
        buffers = [(f"a{i}", _buffer(v)) for i, v in enumerate(fused.body.args)]
        outputs = fused.outputs
        buffers += [(f"y{i}", _buffer(v)) for i, v in enumerate(outputs)]
        self.function = kernel_function(name, buffers, len(outputs))
        self.b = ScalarBuilder(self.function.body, fused.loc)
        memory = self.function.args
        self.memory = dict(zip(fused.body.args, memory[: len(fused.body.args)], strict=True))
        self.outputs = memory[len(fused.body.args) :]
        self.output = self.outputs[0]
        known = {m: n for m, n in zip(memory, bounds, strict=False) if n is not None}
        self.puller = GroupPuller(self.b, constants, {}, known)
        for v, m in self.memory.items():
            self.puller.given[v] = self.puller.buffer(m)

    @property
    def root(self) -> Value:
        """The value of the group's result."""
        return self.fused.outputs[0]

    def parallel(self, extents: Sequence[Dim], body: Callable[[list[Dim]], None]) -> None:
        """The parallel nest; ``body(indices)``. Extents of 1 need no loop; one loop there is."""
        looped = [i for i, e in enumerate(extents) if e != 1]

        def nest(done: list[Dim]) -> None:
            at = len(done)
            if at < max(1, len(looped)):
                extent = extents[looped[at]] if looped else 1
                self.b.loop(0, extent, lambda i: nest([*done, i]), kind="parallel")
                return
            index: list[Dim] = [0] * len(extents)
            for i, x in zip(looped, done, strict=False):
                index[i] = x
            body(index)

        nest([])

    def serial(
        self, extents: Sequence[Dim], body: Callable[[list[Dim]], None], unroll: int = 1
    ) -> None:
        """Serial loops around a vector loop over the last extent above 1; ``body(indices)``.

        ``unroll`` vectors are computed at once.
        """
        last = max((i for i, e in enumerate(extents) if e != 1), default=-1)

        def nest(done: list[Dim]) -> None:
            at = len(done)
            if at == len(extents):
                body(done)
            elif extents[at] == 1:
                nest([*done, 0])
            else:
                kind, n = ("vector", unroll) if at == last else ("serial", 1)
                self.b.loop(0, extents[at], lambda i: nest([*done, i]), kind=kind, unroll=n)

        nest([])

    def finish(self) -> Function:
        """Ends the kernel."""
        self.b.emit(Return, (), {})
        self.function.attrs["symbols"] = kernel_symbols(self.function)
        return self.function


def _buffer(v: Value) -> BufferType:
    return BufferType(v.dtype, v.shape)


_REMEDY = "check the indices that the call got"


@dataclass(frozen=True)
class Lower(Pass):
    """Makes kernels of groups; groups of the same structure share one."""

    name: ClassVar[str] = "lower"
    requires: ClassVar[tuple[str, ...]] = ("fused",)
    ensures: ClassVar[str] = "program"

    def run(self, module: Module, context: Context) -> bool:
        """Adds the kernels to the module and rewrites the main function to level ``program``."""
        main = module.main
        _Lowering(module, context.machine).block(main.body)
        main.level = "program"
        main.attrs["failures"] = tuple(
            (f"{check.attrs['what']} is out of range", str(check.loc), _REMEDY)
            for kernel in kernels(module)
            for check in index_checks(kernel)
        )
        return True


class _Lowering:
    """The lowering of one module.

    ``kernels`` are its kernels by the structure of their groups, ``known`` by their own: groups
    that differ may still have one kernel.
    """

    def __init__(self, module: Module, machine: Machine) -> None:
        self.module, self.machine = module, machine
        self.kernels: dict[Any, Function] = {}
        self.known: dict[Any, Function] = {}
        self.bounds = {
            op: [_index_bound(v, module) for v in op.operands]
            for op in module.main.walk()
            if isinstance(op, Fused)
        }

    def block(self, block: Block) -> Dim:
        """Lowers a block; returns the work of its largest launch.

        Control flow gets the number of shares that a largest launch makes: with less than one, a
        barrier costs more than a second thread is worth. Where threads can run iterations each for
        itself, it is that of the largest launches of all iterations.
        """
        most: Dim = 0
        for op in list(block.ops):
            if isinstance(op, Fused):
                largest = work(op)
                self.launch(op)
            elif isinstance(op, CONTROL) and not host_reason(op):
                largest = 0
                for region in op.regions:
                    largest = expr.maximum(largest, self.block(region))
                share = expr.floordiv(largest, 2 * MIN_WORK)
                if isinstance(op, Scan) and op.n_carry == 0 and isinstance(share, int):
                    steps = op.sliced[0].shape[0]
                    all_steps = expr.floordiv(largest * steps, 2 * MIN_WORK)
                    share = all_steps if isinstance(steps, int) else share
                op.attrs["schedule"] = (("share", share),)
            else:
                continue
            most = expr.maximum(most, largest)
        return most

    def launch(self, op: Fused) -> None:
        """Replaces a group by a launch."""
        count, about, types = flops(op), notes(op), [r.type for r in op.results]
        dims = LocalDims(op)
        bounds = [None if n is None else dims.dim(n) for n in self.bounds[op]]
        kernel, actual = self._kernel(op, bounds), dims.actual
        extent = expr.substitute(parallel_extent(kernel), actual)
        schedule = (("kind", op.kind), *op.schedule, ("grain", grain(op.kind, count, extent)))
        attrs = {"kernel": kernel.name, "schedule": schedule, "flops": count, **about}
        attrs["sizes"] = tuple(actual[s] for s in kernel.attrs["symbols"])
        launch = Launch(op.operands, attrs, types, op.loc)
        assert op.parent is not None
        op.parent.insert_before(op, launch)
        for old, new in zip(op.results, launch.results, strict=True):
            new.name = old.name
            old.replace_by(new)
        op.erase()

    def _kernel(self, op: Fused, bounds: Sequence[Dim | None]) -> Function:
        """The kernel of a group whose dimensions have names of their own."""
        constants = self.module.constants
        key = (op.kind, op.schedule, tuple(bounds), structure(op.body, constants))
        kernel = self.kernels.get(key)
        if kernel is None:
            name = f"k{len(self.known)}_{_label(op)}"
            kernel = lower_group(op, name, constants, self.machine, bounds)
            same = structure(kernel.body, {}), tuple(kernel.attrs["symbols"])
            if same not in self.known:
                self.known[same] = kernel
                self.module.add(kernel)
            kernel = self.kernels[key] = self.known[same]
        return kernel


def _index_bound(v: Value, module: Module) -> Dim | None:
    return bound_of(v, module.constants) if v.dtype in INDICES else None


def lower_group(
    fused: Fused,
    name: str,
    constants: Mapping[str, np.ndarray],
    machine: Machine,
    bounds: Sequence[Dim | None] = (),
) -> Function:
    """The kernel of one group.

    Args:
        fused: The group.
        name: The name of the kernel.
        constants: The module's constants.
        machine: What it is for.
        bounds: For each input of the group what ``passes.bounds`` says of it.
    """
    from pjit.passes.lower_bilinear import lower_bilinear
    from pjit.passes.lower_line import lower_line
    from pjit.passes.lower_loop import lower_loop
    from pjit.passes.lower_row import lower_row
    from pjit.passes.lower_tile import lower_tile
    from pjit.passes.lower_winograd import lower_winograd

    build = KernelBuild(fused, name, constants, machine, bounds)
    kinds = {
        "loop": lower_loop,
        "row": lower_row,
        "tile": lower_tile,
        "line": lower_line,
        "winograd": lower_winograd,
        "bilinear": lower_bilinear,
    }
    kinds[fused.kind](build)
    return build.finish()


def pushed(op: Op, index: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """Where an element at ``index`` is after an operation that moves it, or does not."""
    return index if isinstance(op, Elementwise | Const) else tuple(op.push(index))  # type: ignore[attr-defined]


HEAVY = (
    "conv_packed",
    "matmul_packed",
    "depthwise",
    "max_pool",
    "bilinear_output",
    "winograd_product",
    "winograd_output",
    "winograd_row_output",
)


def _label(fused: Fused) -> str:
    """A name from the operators that matter, for profiles."""
    names = [o.op_name.split(".")[-1] for o in fused.body.ops if isinstance(o, OpDef)]
    names = [n for n in names if n not in ("const", "yield", "reshape", "broadcast")]
    heavy = [n for n in names if n in HEAVY]
    return "_".join(dict.fromkeys(heavy + names[-2:])) or "copy"


def structure(body: Block, constants: Mapping[str, np.ndarray]) -> Any:
    """A key that is equal for blocks that differ in names and locations only.

    Args:
        body: The block, of a kernel or of a group.
        constants: The module's constants: the kernel of a group holds those of one element.
    """
    numbers: dict[Value, int] = {}

    def number(v: Value) -> int:
        return numbers.setdefault(v, len(numbers))

    def block(b: Block) -> tuple:
        args = tuple((number(a), a.type) for a in b.args)
        return args, tuple(operation(o) for o in b.ops)

    def operation(op: Op) -> tuple:
        inputs = tuple(number(v) for v in op.operands)
        regions = tuple(block(r) for r in op.regions)
        outputs = tuple((number(r), r.type) for r in op.results)
        attrs = tuple(sorted((k, v) for k, v in op.attrs.items() if k != "what"))
        if isinstance(op, Const):
            return op.op_name, constants[op.value].tobytes(), outputs
        # The text tells 1 from 1.0, the values a size of at least 0 from one of at least 1.
        return op.op_name, inputs, repr(attrs), attrs, regions, outputs

    return block(body)


def merged_extents(shape: Sequence[Dim], operands: Sequence[Sequence[Dim]]) -> list[list[int]]:
    """Runs of dimensions that every operand either has in full or broadcasts, so that one loop
    covers a run.
    """
    rank = len(shape)
    patterns = []
    for s in operands:
        full = (1,) * (rank - len(s)) + tuple(s)
        patterns.append([f == d or d == 1 for f, d in zip(full, shape, strict=True)])
    runs: list[list[int]] = []
    for d in range(rank):
        joins = runs and all(p[d] == p[d - 1] or shape[d] == 1 for p in patterns)
        if joins:
            runs[-1].append(d)
        else:
            runs.append([d])
    return runs
