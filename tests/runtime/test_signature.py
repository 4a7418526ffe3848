from __future__ import annotations

import numpy as np
import pytest

from pjit.errors import InputError
from pjit.ir.expr import parse, symbols
from pjit.ir.types import parse_type
from pjit.runtime.signature import Signature, Spec


def signature(*types: str, checks: tuple[tuple[str, str], ...] = ()) -> Signature:
    inputs = [(f"x{i}", parse_type(t)) for i, t in enumerate(types)]
    names = {s for _, t in inputs for d in t.shape for s in symbols(d)}
    return Signature(inputs, names, [(parse(a), parse(b)) for a, b in checks])


@pytest.mark.parametrize(
    ("types", "shapes", "values"),
    [
        (["f32[3]"], [(3,)], {}),
        (["f32[N,4]"], [(7, 4)], {"N": 7}),
        (["f32[N]", "f32[N,M]"], [(0,), (0, 5)], {"N": 0, "M": 5}),
        (["f32[2*N + 1]"], [(9,)], {"N": 4}),
        (["f32[N*M]", "f32[M]"], [(12,), (3,)], {"N": 4, "M": 3}),
        (["f32[N + M,N]"], [(9, 2)], {"N": 2, "M": 7}),
        (["f32[(N + 1)//2]", "f32[N]"], [(4,), (7,)], {"N": 7}),
    ],
)
def test_symbols_are_bound(types: list[str], shapes: list[tuple], values: dict) -> None:
    assert signature(*types).bind(shapes) == values


@pytest.mark.parametrize(
    ("types", "shapes", "part"),
    [
        (["f32[3]"], [(4,)], "dimension 0 has to be 3, not 4"),
        (["f32[N,4]"], [(7,)], "1 dimensions, not 2"),
        (["f32[N]", "f32[N]"], [(3,), (4,)], "dimension 0 has to be N, which is 3, not 4"),
        (["f32[2*N + 1]"], [(8,)], "cannot be 2*N + 1"),
        (["f32[N + 4]"], [(3,)], "cannot be N + 4"),
        (["f32[(N + 1)//2]", "f32[N]"], [(3,), (7,)], "which is 4, not 3"),
    ],
)
def test_wrong_shapes_say_which_and_why(types: list[str], shapes: list[tuple], part: str) -> None:
    with pytest.raises(InputError) as e:
        signature(*types).bind(shapes)
    assert part in str(e.value)
    assert f"'x{len(shapes) - 1}'" in str(e.value) or "'x0'" in str(e.value)
    assert "expected: f32[" in str(e.value)


def test_other_equalities_are_checked() -> None:
    s = signature("f32[N]", "f32[M]", checks=(("N", "2*M"),))
    assert s.bind([(6,), (3,)]) == {"N": 6, "M": 3}
    with pytest.raises(InputError, match=r"N has to be equal to 2\*M") as e:
        s.bind([(6,), (4,)])
    assert "N = 6" in str(e.value)


def test_a_symbol_that_no_input_determines() -> None:
    with pytest.raises(InputError, match="do not determine N"):
        signature("f32[N*N]")


def test_spec_is_readable() -> None:
    spec = Spec.of("x", parse_type("f32[N,(N + 1)//2,3]"))
    assert spec.dtype == np.float32
    assert spec.shape == ("N", "(N + 1)//2", 3)
    assert str(spec) == "x: float32[N,(N + 1)//2,3]"
