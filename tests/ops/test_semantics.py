"""Corner cases of operators with hand-written results, and the constraints of inference."""

from typing import Any

import numpy as np
import pytest

from pjit.ir import ops
from pjit.ir.builder import Builder
from pjit.ir.core import Block, Loc, Module
from pjit.ir.errors import ConstraintError
from pjit.ir.expr import sym
from pjit.ir.opdef import complete_attrs
from pjit.ir.types import bool_, f32, i8, i64, tensor

I8, I64 = np.int8, np.int64
NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    ("cls", "xs", "attrs", "want"),
    [
        (
            ops.Div,
            [I8([7, -7, 7, -7, 5, -128]), I8([2, 2, -2, -2, 0, -1])],
            {},
            [3, -3, -3, 3, 0, -128],
        ),
        (ops.Floordiv, [I8([7, -7, 7, -7, 5]), I8([2, 2, -2, -2, 0])], {}, [3, -4, -4, 3, 0]),
        (ops.Mod, [I8([7, -7, 7, -7, 5]), I8([3, 3, -3, -3, 0])], {}, [1, 2, -2, -1, 0]),
        (ops.Fmod, [I8([7, -7, 7, -7, 5]), I8([3, 3, -3, -3, 0])], {}, [1, -1, 1, -1, 0]),
        (
            ops.Pow,
            [I8([2, 1, -1, -1, 0, 2, -2, 5]), I8([-1, -3, -3, -2, -1, 7, 7, 0])],
            {},
            [0, 1, -1, 1, 0, -128, -128, 1],
        ),
        (ops.Shl, [I8([1, 1, 1]), I8([3, 7, 8])], {}, [8, -128, 0]),
        (ops.Shr, [I8([-8, -8, 8]), I8([2, 9, 9])], {}, [-2, -1, 0]),
        (ops.Round, [np.array([0.5, 1.5, -0.5, 2.5])], {}, [0, 2, 0, 2]),
        (ops.Relu, [np.array([NAN, -1.0, 2.0])], {}, [NAN, 0, 2]),
        (ops.Sign, [np.array([NAN, -3.0, 0.0])], {}, [NAN, -1, 0]),
        (ops.ReduceMax, [np.array([[1.0, NAN], [2.0, 3.0]])], {"axes": (1,)}, [NAN, 3]),
        (ops.ReduceSum, [I8([100, 100])], {"axes": (0,)}, -56),
        (ops.Argmax, [np.array([1, NAN, 5, NAN])], {"axis": 0}, 1),
        (ops.Argmax, [np.array([1, NAN, 5, NAN])], {"axis": 0, "last": True}, 3),
        (ops.Argmin, [np.array([2, 1, 1])], {"axis": 0, "last": True}, 2),
        (ops.Slice, [np.arange(6)], {"starts": (5,), "sizes": (3,), "steps": (-2,)}, [5, 3, 1]),
        (
            ops.Pad,
            [np.arange(3)],
            {"low": (2,), "high": (1,), "mode": "reflect"},
            [2, 1, 0, 1, 2, 1],
        ),
        (ops.Gather, [np.arange(5), I64([-1, 0])], {"axis": 0}, [4, 0]),
        (
            ops.ScatterNd,
            [np.zeros(3), I64([[1], [1]]), np.array([2.0, 3.0])],
            {"reduction": "add"},
            [0, 5, 0],
        ),
        (
            ops.ScatterElements,
            [np.zeros(3), I64([-1, -1]), np.array([2.0, 3.0])],
            {"axis": 0},
            [0, 0, 3],
        ),
        (
            ops.Cumsum,
            [np.array([1, 2, 3])],
            {"axis": 0, "exclusive": True, "reverse": True},
            [5, 3, 0],
        ),
        (ops.Nonzero, [np.array([[0, 2], [3, 0]])], {}, [[0, 1], [1, 0]]),
    ],
)
def test_result(cls: Any, xs: list[np.ndarray], attrs: dict[str, Any], want: Any) -> None:
    np.testing.assert_array_equal(cls.ref(*xs, **complete_attrs(cls, attrs)), want)


@pytest.mark.parametrize(("largest", "want"), [(True, [0, 2, 1]), (False, [3, 1, 0])])
def test_topk_keeps_the_order_of_equal_elements(largest: bool, want: list[int]) -> None:
    x = np.array([2, 1, 2, 0], np.uint8)
    values, positions = ops.Topk.ref(x, k=3, axis=0, largest=largest)
    np.testing.assert_array_equal(positions, want)
    np.testing.assert_array_equal(values, x[want])


@pytest.mark.parametrize(
    ("cls", "types", "attrs", "constraint"),
    [
        (ops.Add, [tensor(f32, 2), tensor(i64, 2)], {}, "one dtype"),
        (ops.Add, [tensor(f32, 2), tensor(f32, 3)], {}, "shapes broadcast"),
        (ops.Sqrt, [tensor(i64, 2)], {}, "dtype it accepts"),
        (ops.Where, [tensor(bool_, 2), tensor(f32, 2), tensor(i64, 2)], {}, "one dtype"),
        (ops.Cast, [tensor(f32, 2)], {"dtype": "no such"}, "(C1)"),
        (ops.Reshape, [tensor(f32, 2, 3)], {"shape": (-2, -3)}, "(C1)"),
        (ops.Reshape, [tensor(f32, 2, 3)], {"shape": (5,)}, "(C2)"),
        (ops.Reshape, [tensor(f32, sym("n"), 3)], {"shape": (sym("n"), 4)}, "(C2)"),
        (ops.Transpose, [tensor(f32, 2, 3)], {"perm": (0, 0)}, "(C1)"),
        (ops.Broadcast, [tensor(f32, 3)], {"shape": (1,)}, "(C1)"),
        (ops.Slice, [tensor(f32, 4)], {"starts": (2,), "sizes": (3,), "steps": (1,)}, "(C3)"),
        (ops.Slice, [tensor(f32, 4)], {"starts": (1,), "sizes": (3,), "steps": (-1,)}, "(C3)"),
        (ops.Slice, [tensor(f32, 4)], {"starts": (1,), "sizes": (1,), "steps": (0,)}, "(C2)"),
        (ops.Pad, [tensor(f32, 4)], {"low": (-1,), "high": (0,)}, "(C1)"),
        (ops.Pad, [tensor(f32, 4)], {"low": (4,), "high": (0,), "mode": "reflect"}, "(C3)"),
        (ops.Concat, [tensor(f32, 2, 3), tensor(f32, 2, 4)], {"axis": 0}, "(C3)"),
        (ops.Concat, [], {"axis": 0}, "(C1)"),
        (ops.Iota, [], {"size": 3, "dtype": bool_}, "(C1)"),
        (ops.Gather, [tensor(f32, 2), tensor(i64, 2)], {"axis": 1}, "(C1)"),
        (ops.Gather, [tensor(f32, 2), tensor(i8, 2)], {"axis": 0}, "dtype it accepts"),
        (ops.GatherElements, [tensor(f32, 2, 3), tensor(i64, 2, 4)], {"axis": 0}, "(C3)"),
        (ops.GatherNd, [tensor(f32, 2), tensor(i64, 5, 2)], {}, "(C1)"),
        (ops.GatherNd, [tensor(f32, 2, 3), tensor(i64, 4, 1)], {"batch_dims": 1}, "(C3)"),
        (ops.ScatterNd, [tensor(f32, 4), tensor(i64, 2, 1), tensor(f32, 3)], {}, "(C7)"),
        (ops.Topk, [tensor(f32, 4)], {"k": 5, "axis": 0}, "(C2)"),
        (ops.Nonzero, [tensor(f32)], {}, "(C1)"),
        (ops.ReduceSum, [tensor(f32, 2, 3)], {"axes": (1, 0)}, "(C1)"),
        (ops.ReduceMean, [tensor(f32, 2, 3)], {"axes": (2,)}, "(C1)"),
        (ops.Argmax, [tensor(f32, 2, 0)], {"axis": 1}, "(C2)"),
    ],
)
def test_constraint(cls: Any, types: list, attrs: dict[str, Any], constraint: str) -> None:
    block = Block(types)
    with pytest.raises(ConstraintError) as caught:
        Builder(block, Loc("net.py:7"), Module())(cls, *block.args, **attrs)
    assert constraint in str(caught.value)
    assert "where: net.py:7" in str(caught.value)


@pytest.mark.parametrize("index", [3, -4])
def test_an_index_out_of_range_fails(index: int) -> None:
    with pytest.raises(IndexError):
        ops.Gather.ref(np.zeros(3), np.array([index]), axis=0)
    with pytest.raises(IndexError):
        ops.ScatterElements.ref(
            np.zeros(3), np.array([index]), np.ones(1), axis=0, reduction="none"
        )


def test_views_push_what_they_pull() -> None:
    """``push`` is the inverse of the index map of ``element``."""
    block = Block([tensor(f32, 2, 3, 4)])
    b = Builder(block, Loc("test"), Module())
    x = np.arange(24).reshape(2, 3, 4)
    for cls, attrs in ((ops.Reshape, {"shape": (6, 4)}), (ops.Transpose, {"perm": (2, 0, 1)})):
        op = b(cls, block.args[0], **attrs).op
        y = cls.ref(x, **op.attrs)  # type: ignore[attr-defined]
        for index in np.ndindex(2, 3, 4):
            assert y[op.push(index)] == x[index]
