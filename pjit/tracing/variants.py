"""The programs of a compiled function: one for each signature, and for what it read beside."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from pjit.array import Array
from pjit.config import settings
from pjit.errors import FallbackWarning, InputError, PjitError, TraceError
from pjit.ir import expr, ops
from pjit.ir.expr import Dim
from pjit.ir.types import TensorType
from pjit.report import Control
from pjit.runtime.program import Runnable
from pjit.tracing import handlers  # noqa: F401  (they register themselves)
from pjit.tracing.explore import Explorer
from pjit.tracing.graph import Graph, Node, Open, Raised, Return
from pjit.tracing.guards import Guards
from pjit.tracing.pytrees import flatten, unflatten
from pjit.tracing.sizes import SMALLEST
from pjit.tracing.structure import Structured, structured
from pjit.tracing.walk import Walk

if TYPE_CHECKING:
    from pjit.tracing.function import CompiledFunction

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

    def result(self, outputs: Sequence[Any]) -> Any:
        """What a call returns; None also if it did not come to an end."""
        if self.one_array:
            return outputs[0]
        leaf, values = (self.one, outputs) if self.one else self.made.reached(outputs)
        return result(leaf, values) if isinstance(leaf, Return) else None


class Quick:
    """The last variant that was called, for calls on arguments of the same types and shapes.

    Args:
        family: The signature.
        variant: The variant, whose inputs are the positional arguments.
    """

    __slots__ = ("_now", "family", "variant")

    def __init__(self, family: Family, variant: Variant) -> None:
        self.family, self.variant, self._now = family, variant, variant.now

    def serves(self, variant: Variant) -> bool:
        """Whether it is for calls of a variant as it is now."""
        return self.variant is variant and self._now is variant.now

    def __call__(self, args: tuple) -> Any:
        """What the function returns; None if that is not known so quickly."""
        now = self._now
        if self.variant.now is not now or not self.variant.guards.holds():
            return None
        outputs = now.program.quick(args)
        return None if outputs is None else now.result(outputs)


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


def pattern_of(key: tuple) -> tuple:
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


def _first_line(e: BaseException) -> str:
    text = str(e).partition("\n")[0]
    return text if isinstance(e, PjitError) else f"{type(e).__name__}: {text}"


def result(leaf: Return, values: Sequence[Any]) -> Any:
    """What a call returns."""
    leaves = list(leaf.leaves)
    for at, array in zip(leaf.computed, values, strict=True):
        kind = leaf.numbers[at]
        leaves[at] = array if kind is None else kind(array.item())
    return unflatten(leaf.spec, leaves)
