from __future__ import annotations

import numpy as np

from pjit.ir import ops
from pjit.ir.arrays import LARGE
from pjit.ir.core import Module
from pjit.ir.text import parse_module
from pjit.runtime.binary import own_constants

ROWS = LARGE // 2 // 256  # of 256 bytes: half of what is large


def module(count: int) -> Module:
    """A sum of small constants."""
    arrays = {f"c{i}": np.full((ROWS, 64), i, np.float32) for i in range(count)}
    lines = [f"  %c{i} = const @c{i} : f32[{ROWS},64]" for i in range(count)]
    total = "%x"
    for i in range(count):
        lines.append(f"  %s{i} = add {total}, %c{i} : f32[{ROWS},64]")
        total = f"%s{i}"
    text = "\n".join(
        [f"graph @main(%x: f32[{ROWS},64]) -> f32[{ROWS},64] {{", *lines, f"  return {total}", "}"]
    )
    return parse_module(text, arrays)


def memory(array: np.ndarray) -> np.ndarray:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def test_many_small_constants_lie_side_by_side() -> None:
    m = module(3)
    assert len([o for o in m.main.walk() if isinstance(o, ops.Const)]) == 3
    before = {name: array.copy() for name, array in m.constants.items()}
    kept = own_constants(m)
    assert len({id(memory(a)) for a in kept.values()}) == 1
    for name, array in kept.items():
        np.testing.assert_array_equal(array, before[name])
    again = own_constants(m)
    assert all(again[name] is kept[name] for name in kept)


def test_a_few_small_constants_stay_where_they_are() -> None:
    m = module(1)
    before = dict(m.constants)
    assert all(own_constants(m)[name] is array for name, array in before.items())
