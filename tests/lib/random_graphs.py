"""Random graphs for property tests: hypothesis strategies of small, valid modules at graph level.

``cases(theme)`` draws a module, the arrays to run it with, and how far the results of correct
programs may lie apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import random_layers as layers
import random_steps as steps
from hypothesis import strategies as st
from random_values import ALL_TYPES, FLOAT_TYPES, LARGEST_SYMBOL, Drawing, Input, Known

from pjit.ir import ops
from pjit.ir.core import Module
from pjit.ir.expr import sym
from pjit.ir.text import print_module
from pjit.ir.types import DTYPES, f32

Step = Callable[[Drawing], object]
ELEMENTWISE: list[Step] = [
    steps.arithmetic,
    steps.arithmetic,
    steps.unary_function,
    steps.unary_exact,
    steps.compare,
    steps.choose,
    steps.cast,
    steps.bits,
]
MOVEMENT: list[Step] = [
    steps.transpose,
    steps.reshape,
    steps.slice_,
    steps.pad,
    steps.concat,
    steps.broadcast,
    steps.gather,
    steps.gather_elements,
    steps.gather_nd,
    steps.iota,
]
ROWS: list[Step] = [
    steps.reduce_values,
    steps.reduce_values,
    steps.arg_reduce,
    layers.softmax,
    layers.layer_norm,
    layers.matmul,
    layers.matmul,
    layers.attention,
    layers.activation,
    layers.residual,
]
IMAGES: list[Step] = [
    layers.conv,
    layers.conv,
    layers.conv,
    layers.pool,
    layers.conv_transpose,
    layers.resize,
    layers.batch_norm,
    layers.activation,
    layers.gate,
    layers.residual,
]
WHOLE = tuple(DTYPES[n] for n in ("i32", "i64", "bool", "u8", "i8"))
THEMES: dict[str, list[Step]] = {
    "elements": [*ELEMENTWISE, *ELEMENTWISE, *MOVEMENT, steps.reduce_values],
    "movement": [*ELEMENTWISE, *MOVEMENT, *MOVEMENT, steps.reduce_values],
    "rows": [*ROWS, *ROWS, *ELEMENTWISE, *MOVEMENT],
    "images": [*IMAGES, *IMAGES, *ELEMENTWISE, *MOVEMENT],
}


@dataclass(frozen=True)
class Case:
    """A graph to test.

    Attributes:
        module: The graph; tests work on copies.
        inputs: How its arguments are drawn.
        errors: For each result, how far apart those of correct programs may lie.
        sizes: Values for the symbols, one dict for each call.
        seed: Of the arrays.
    """

    module: Module
    inputs: tuple[Input, ...]
    errors: tuple[float, ...]
    sizes: tuple[dict[str, int], ...]
    seed: int

    def arrays(self, sizes: dict[str, int]) -> list[np.ndarray]:
        """The arguments of a call."""
        rng = np.random.default_rng(self.seed)
        return [i.make(rng, sizes) for i in self.inputs]

    def __repr__(self) -> str:
        header = f"// sizes {list(self.sizes)}, seed {self.seed}, errors {self.errors}"
        inputs = [f"//   x{i}: {x}" for i, x in enumerate(self.inputs)]
        text = print_module(self.module, locations=False)
        return "\n".join(["", header, *inputs, text])

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """How hypothesis prints a failing case."""
        printer.text(repr(self))


@st.composite
def cases(draw: Callable, theme: str, most: int = 20) -> Case:
    """Graphs of up to ``most`` steps of a theme."""
    symbol = sym("N") if draw(st.integers(0, 2)) == 2 else None
    g = Drawing(draw, symbol, nan=draw(st.integers(0, 9)) == 9)
    first_input(g, theme)
    if g.chance(30):
        g.input(g.one_of(ALL_TYPES), g.shape(g.number(0, 4)))
    for _ in range(g.one_of([n for n in (1, 8, 12, 5, 3, 16, 20) if n <= most])):
        before = len(g.values)
        for _ in range(3):
            g.one_of(THEMES[theme])(g)
            if len(g.values) > before:
                break
    results = finish(g)
    sizes: Sequence[dict[str, int]] = [{}]
    if symbol is not None:
        numbers = st.lists(st.integers(1, LARGEST_SYMBOL), min_size=2, max_size=2, unique=True)
        sizes = [{"N": n} for n in draw(numbers)]
    return Case(
        g.module,
        tuple(g.inputs),
        tuple(k.error for k in results),
        tuple(sizes),
        draw(st.integers(0, 999)),
    )


def first_input(g: Drawing, theme: str) -> None:
    """The argument that fits the theme."""
    if theme == "images":
        dt = g.one_of((f32, f32, *FLOAT_TYPES))
        rank = g.one_of((4, 4, 3, 5))
        g.input(dt, g.shape(rank, limit=1500))
    elif theme == "rows":
        g.input(g.one_of((f32, *FLOAT_TYPES)), g.shape(g.one_of((3, 2, 4))))
    else:
        dt = g.one_of((*FLOAT_TYPES, *WHOLE))
        g.input(dt, g.shape(g.number(0, 4)))


def finish(g: Drawing) -> list[Known]:
    """Ends the function with one to four results: unused values, and sometimes any others."""
    unused = [k for k in reversed(g.values) if not k.value.uses and k.value.op is not None]
    results = [*unused[: g.one_of((2, 1, 3))]] or [g.values[-1]]
    if g.chance(20):
        results.append(g.one_of(g.values))
    if g.chance(4):
        results.append(g.constant(f32, (3,)))
    g.b(ops.Return, *(k.value for k in results))
    return results
