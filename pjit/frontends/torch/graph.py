"""A compiled FX graph: its programs, the weights that they hold, and its calls."""

from __future__ import annotations

import dataclasses
import itertools
import operator
import threading
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.fx import GraphModule

from pjit.compiler import Program, compile_module
from pjit.config import Settings
from pjit.errors import FallbackWarning, InputError, PjitError
from pjit.frontends.torch.importer import Imported, Output, import_graph
from pjit.frontends.torch.tensors import to_numpy, to_torch
from pjit.ir.errors import listing
from pjit.ir.expr import substitute
from pjit.report import Report

MAX_VARIANTS = 16  # sets of weights that a graph holds as constants
MAX_CHANGES = 2  # times that a weight is compiled in anew; then it becomes an input

_version = operator.attrgetter("_version")
_pointer = torch.Tensor.data_ptr
_numbers = itertools.count()
_graphs: weakref.WeakSet[Graph] = weakref.WeakSet()


def graphs() -> list[Graph]:
    """The graphs that were compiled for torch and are still in use, oldest first."""
    return sorted(_graphs, key=lambda g: g.number)


@dataclass
class _Variant:
    """A program, and the weights that it holds as constants.

    Attributes:
        program: The program.
        imported: How the inputs and outputs of the graph are those of the program.
        held: The positions of those weights among the weights of the graph.
        weights: The weights themselves.
        versions: Their version counters, which torch increases when it writes to a tensor.
        pointers: Their addresses.
        shared: The results that lie in the memory of another one.
    """

    program: Program
    imported: Imported
    held: tuple[int, ...]
    weights: list[weakref.ref]
    versions: list[int]
    pointers: list[int]
    shared: frozenset[int]

    def state(self, weights: Sequence[torch.Tensor]) -> list[bool] | None:
        """Which of the weights are as they were; None where they are others."""
        found = [weights[i] for i in self.held]
        if not self._are(found):
            return None
        rows = zip(found, self.versions, self.pointers, strict=True)
        return [_version(w) == v and _pointer(w) == p for w, v, p in rows]

    def fits(self, weights: Sequence[torch.Tensor]) -> bool:
        """Whether the program holds these weights, as they are now."""
        found = [weights[i] for i in self.held]
        return (
            self._are(found)
            and list(map(_version, found)) == self.versions
            and list(map(_pointer, found)) == self.pointers
        )

    def _are(self, found: Sequence[torch.Tensor]) -> bool:
        return all(map(operator.is_, map(operator.call, self.weights), found))


class Graph:
    """An FX graph of operators that pjit has; it is compiled when it is first called.

    A program holds the weights as constants, so that they are packed once. It is left when a weight
    has been replaced or written to, and another one is compiled.

    Attributes:
        number: The number of the graph in this process.
    """

    def __init__(
        self,
        module: GraphModule,
        weights: Mapping[int, str],
        options: Settings,
        imported: Imported,
        cache: bool,
    ) -> None:
        self.number = next(_numbers)
        self._module, self._names = module, dict(weights)
        self._weights = tuple(weights)
        folder = None if options.dump is None else options.dump / f"torch-{self.number}"
        self._options = dataclasses.replace(options, dump=folder)
        self._outputs, self._cache = imported.outputs, cache
        output = module.graph.output_node().args[0]
        self._single = not isinstance(output, list | tuple)
        self._variants: list[_Variant] = []
        self._changes = [0] * len(self._weights)
        self._lock = threading.Lock()
        self._failed = False
        _graphs.add(self)

    # Looking at it

    @property
    def programs(self) -> list[Program]:
        """The programs that the graph has now, one for each set of weights; newest last."""
        return [v.program for v in self._variants]

    def ir(self, stage: str | None = None) -> str:
        """The IR of the newest program as text: the graph, or what it is after a stage.

        Raises:
            PjitError: The graph was not called yet, or no stage has the name.
        """
        return self._newest().ir(stage)

    def report(self, *inputs: Any) -> Report:
        """What was compiled, and how; see ``pjit.Model.report``.

        Raises:
            PjitError: The graph was not called yet.
        """
        return self._newest().report(*inputs)

    def _newest(self) -> Program:
        if not self._variants:
            raise PjitError(f"the torch graph {self.number} was not compiled yet", remedy="call it")
        return self._variants[-1].program

    def __repr__(self) -> str:
        count = sum(n.op == "call_function" for n in self._module.graph.nodes)
        return f"<torch graph {self.number}: {count} operations, {len(self._variants)} programs>"

    # Calls

    def __call__(self, *args: Any) -> Any:
        """Runs the graph on its inputs."""
        if self._failed:
            return self._eager(args)
        weights = [args[i] for i in self._weights]
        variant = self._variants[-1] if self._variants else None
        try:
            if variant is None or not variant.fits(weights):
                variant = self._variant(weights)
            results = self._run(variant, args)
        except InputError as e:
            _warn(f"a call of a compiled graph runs in eager torch: {e}")
            return self._eager(args)
        return results[0] if self._single else results

    def _run(self, variant: _Variant, args: Sequence[Any]) -> tuple[Any, ...]:
        values = []
        for given in variant.imported.inputs:
            x = args[given.at]
            if given.kind == "tensor":
                a = to_numpy(x)
                values.append(a if given.order is None else a.transpose(given.order))
            elif given.kind == "float":
                values.append(torch.tensor(float(x), dtype=torch.float64).numpy())
            else:
                values.append(_length(int(x)))
        arrays = variant.program.quick(tuple(values)) or variant.program(values)
        results = [to_torch(a._wait()) for a in arrays]
        for i in variant.shared:
            results[i] = results[i].clone()
        return tuple([self._result(o, results, args, variant, values) for o in self._outputs])

    def _result(
        self,
        output: Output,
        results: Sequence[torch.Tensor],
        args: Sequence[Any],
        variant: _Variant,
        values: Sequence[Any],
    ) -> Any:
        if output.kind == "result":
            y = results[output.at]
            if output.order is None:
                return y
            order = output.order
            return y.permute([order.index(d) for d in range(len(order))])
        if output.kind == "input":
            return args[output.at]
        if output.kind == "constant":
            return output.value
        sizes = variant.program.signature.bind([v.shape for v in values])
        return substitute(output.value, sizes)

    def _eager(self, args: Sequence[Any]) -> Any:
        with torch.no_grad():
            return self._module(*args)

    # Programs

    def _variant(self, weights: Sequence[torch.Tensor]) -> _Variant:
        """The program for weights as they are; compiles it if there is none."""
        with self._lock:
            for variant in reversed(self._variants):  # one that holds nothing comes first
                if variant.fits(weights):
                    return self._add(variant)
            kept, changed = [], set()
            for variant in self._variants:
                state = variant.state(weights)
                if state is None and all(r() is not None for r in variant.weights):
                    kept.append(variant)
                changed |= {
                    i for i, same in zip(variant.held, state or (), strict=False) if not same
                }
            for i in changed:
                self._changes[i] += 1
            if changed:
                names = listing([self._names[self._weights[i]] for i in sorted(changed)])
                say = self._options.say
                say("recompiles", f"torch graph {self.number}: {names} changed")
            self._variants = kept
            return self._add(self._compile(weights))

    def _add(self, variant: _Variant) -> _Variant:
        """Puts a variant at the end, where calls look first."""
        rest = [v for v in self._variants if v is not variant]
        self._variants = [*rest, variant] if variant.held else [variant, *rest]
        return variant

    def _compile(self, weights: Sequence[torch.Tensor]) -> _Variant:
        held = tuple(
            i
            for i, w in enumerate(weights)
            if len(self._variants) < MAX_VARIANTS
            and self._changes[i] < MAX_CHANGES
            and not w.is_inference()
        )
        refs = [weakref.ref(weights[i]) for i in held]
        versions = [_version(weights[i]) for i in held]
        pointers = [_pointer(weights[i]) for i in held]
        source = partial(_source, self._module, [self._weights[i] for i in held], refs, self._names)
        imported = source()
        program = compile_module(
            imported.module,
            options=self._options,
            cache=self._cache and not any(self._changes),  # weights that change do not come back
            source=lambda: source().module,
        )
        slots = [slot for _, slot, _ in program.view.results]
        shared = frozenset(i for i, s in enumerate(slots) if s in slots[:i])
        return _Variant(program, imported, held, refs, versions, pointers, shared)


def _source(
    module: GraphModule, positions: Sequence[int], refs: Sequence[weakref.ref],
    names: Mapping[int, str],
) -> Imported:  # fmt: skip
    """Imports the graph with weights as constants.

    Raises:
        PjitError: The weights do not exist any more.
    """
    frozen: dict[int, torch.Tensor] = {}
    for at, r in zip(positions, refs, strict=True):
        weight = r()
        if weight is None:
            raise PjitError("the weights of the graph do not exist any more")
        frozen[at] = weight
    return import_graph(module, frozen, names)


def _length(n: int) -> Any:
    """An array whose length is a number."""
    if n < 1:
        raise InputError("a number that is a size is not positive", expected="1 or more", got=n)
    return torch.zeros(n, dtype=torch.bool).numpy()


def _warn(text: str) -> None:
    warnings.warn(text, FallbackWarning, stacklevel=3)


Boxed = Callable[[list[Any]], Any]


def boxed(function: Callable[..., Any]) -> Boxed:
    """A function of one list, which it empties, as AOTAutograd calls it."""

    def call(args: list[Any]) -> Any:
        inputs = tuple(args)
        args.clear()
        return function(*inputs)

    call._boxed_call = True  # type: ignore[attr-defined]
    return call


__all__ = ["Graph", "boxed", "graphs"]
