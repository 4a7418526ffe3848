"""Loads under conditions: which elements they read, and how often an address is chosen."""

from __future__ import annotations

import re

import numpy as np
import pytest
from small_kernels import check, kernel, numbers

from pjit.backends.llvm import memory
from pjit.backends.llvm.emit import emit_kernel
from pjit.backends.llvm.module import new_module
from pjit.backends.llvm.target import machine
from pjit.ir.core import Function, Value
from pjit.ir.expr import Dim
from pjit.ir.kernel_builder import ScalarBuilder
from pjit.ir.types import DType, bf16, f32, i64

ROWS, COLS, LANES = 4, 5, 16


def windows(dt: DType, otherwise: float, cols: int = COLS) -> Function:
    """Sums of 3x3 neighbours of pixels whose channels are lanes, three pixels at a time."""

    def body(b: ScalarBuilder, x: Value, y: Value) -> None:
        def element(i: Dim, j: Dim, c: Dim) -> None:
            total = b.const(0, dt)
            for di in range(-1, 2):
                for dj in range(3):
                    at = [i + di, j + dj, c]
                    total = b.add(total, b.load(x, at, [(i + di, ROWS)], otherwise))
            b.store(total, y, [i, j, c])

        def row(i: Dim) -> None:
            b.loop(
                0,
                LANES,
                lambda c: b.loop(0, cols - 2, lambda j: element(i, j, c), unroll=3),
                kind="vector",
            )

        b.loop(0, ROWS, row, kind="parallel")

    return kernel([(dt, (ROWS, cols, LANES)), (dt, (ROWS, cols - 2, LANES))], body)


@pytest.mark.parametrize("zeros", [1, 8, 64, 1 << 12])
@pytest.mark.parametrize("otherwise", [0.0, -0.0, -7.0])
@pytest.mark.parametrize("dt", [f32, bf16, i64], ids=str)
def test_rows_of_which_some_are_outside(
    native, monkeypatch, zeros: int, otherwise: float, dt: DType
) -> None:
    monkeypatch.setattr(memory, "REACH", zeros)
    arrays = [numbers(dt, ROWS, COLS, LANES), np.zeros((ROWS, COLS - 2, LANES), dt.numpy)]
    check(native, windows(dt, otherwise), arrays, 1e-2 if dt == bf16 else 1e-6)


def test_a_zero_with_a_sign_stays_one(native) -> None:
    def body(b: ScalarBuilder, x: Value, y: Value) -> None:
        def row(i: Dim) -> None:
            def one(c: Dim) -> None:
                b.store(b.load(x, [i - 1, c], [(i - 1, 1)], otherwise=-0.0), y, [i, c])

            b.loop(0, LANES, one, kind="vector")

        b.loop(0, 3, row, kind="parallel")

    x, y = np.ones((1, LANES), np.float32), np.ones((3, LANES), np.float32)
    assert native(kernel([(f32, x.shape), (f32, y.shape)], body))([x, y]) == 0
    np.testing.assert_array_equal(y, [[0.0] * LANES, [1.0] * LANES, [0.0] * LANES])
    assert np.signbit(y[[0, 2]]).all()


@pytest.mark.parametrize("cols", [COLS, memory.REACH // LANES, 3 * memory.REACH // LANES])
def test_taps_of_a_row_share_a_choice_of_the_address(cols: int) -> None:
    """One for the row above and one for the row below, in an iteration of three pixels."""
    assert choices(windows(f32, 0.0, cols)) == 2
    assert choices(windows(f32, 1.0, cols)) > 2, "only zeros are many"


def beside(guard: str, cols: int) -> Function:
    """Copies ``x``, with rows before and after it, or columns, that are not there."""

    def body(b: ScalarBuilder, x: Value, y: Value) -> None:
        def one(i: Dim, c: Dim) -> None:
            at, inside = (
                ([i - 2, c], (i - 2, ROWS)) if guard == "rows" else ([i, c - 32], (c - 32, 5))
            )
            b.store(b.load(x, at, [inside], otherwise=-3.0), y, [i, c])

        def row(i: Dim) -> None:
            b.loop(0, cols, lambda c: one(i, c), kind="vector")

        b.loop(0, 2 * ROWS, row, kind="parallel")

    shape = (ROWS, cols) if guard == "rows" else (2 * ROWS, 5)
    return kernel([(f32, shape), (f32, (2 * ROWS, cols))], body)


@pytest.mark.parametrize("cols", [48, 51])
@pytest.mark.parametrize("guard", ["rows", "columns"])
def test_rows_and_columns_beside_a_tensor(native, guard: str, cols: int) -> None:
    k = beside(guard, cols)
    check(native, k, [numbers(f32, *a.type.shape) for a in k.args])


@pytest.mark.parametrize(("guard", "cols"), [("rows", 51), ("columns", 48), ("columns", 51)])
def test_masked_loads_have_an_address_where_memory_is(guard: str, cols: int) -> None:
    """No element of a row outside is read, but to ask for its page takes hundreds of cycles."""
    emit_kernel(
        beside(guard, cols), machine("x86-64-v4"), module := new_module(machine("x86-64-v4"))
    )
    defined = dict(re.findall(r"(%\S+) = (.*)", str(module)))
    loads = re.findall(r"@\"?llvm\.masked\.load[^(]*\(ptr (%\S+?),", "".join(defined.values()))
    assert loads
    for address in loads:
        while defined.get(address, "").startswith("getelementptr"):
            address = re.search(r"ptr (%\S+?),", defined[address])[1]
        assert defined.get(address, "").startswith("select")


def choices(kernel: Function) -> int:
    """The most of them in a block with loads."""
    emit_kernel(kernel, machine("x86-64-v3"), module := new_module(machine("x86-64-v3")))
    blocks = re.split(r"\n\"?[\w.]+\"?:", str(module))
    return max(block.count("= select") for block in blocks if "= load" in block)
