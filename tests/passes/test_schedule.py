"""The order of the tiles of a product: what stays in a cache while the rest passes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from graphs import graph
from native import NativeProgram
from rewriting import find

from pjit.backends.llvm.target import machine
from pjit.ir import ops, sym, tensor
from pjit.ir.target import Machine
from pjit.ir.types import f32
from pjit.passes.context import Context
from pjit.passes.cost import Product
from pjit.passes.manager import run_pipeline
from pjit.passes.pipelines import GRAPH, KERNEL
from pjit.passes.schedule import LONG_CHUNK, TILE_CHUNK, tile_order

MACHINE = Machine("small", l1=32 << 10, l2=512 << 10)
MR, NR = 6, 16


def order(rows, depth, cols):
    return tile_order(Product(rows, cols, depth), MR, NR, MACHINE)


@pytest.mark.parametrize("rows", [3136, sym("N") * 196], ids=str)
def test_a_small_right_operand_stays(rows):
    assert order(rows, 64, 256) == ("rows", TILE_CHUNK)


@pytest.mark.parametrize("cols", [64, 4096])
def test_few_rows_pass_for_each_column_block(cols):
    assert order(16, 256, cols) == ("columns", 3)


def test_rows_that_fit_into_the_cache_pass_for_each_column_block():
    assert order(128, 768, 3072) == ("columns", TILE_CHUNK)


def test_where_both_fit_the_right_operand_is_read_once():
    """It may be one of many that do not fit together, each of which comes from memory."""
    assert order(49, 256, 256)[0] == "columns"


def test_threads_share_out_rows_where_both_fit():
    p = Product(196, 384, 64)
    assert tile_order(p, MR, NR, MACHINE)[0] == "columns"
    assert tile_order(p, MR, NR, replace(MACHINE, threads=2)) == ("rows", TILE_CHUNK)
    assert tile_order(p, MR, NR, replace(MACHINE, threads=16))[0] == "columns", "too few rows"


def test_the_order_of_tiles_does_not_change_a_bit():
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in ((1, 196, 64), (64, 390)))
    orders, results = [], []
    for threads in (1, 2):
        target = machine("host", threads)
        m = graph(lambda b, v: b(ops.Matmul, v, b.constant(w, f32)), [tensor(f32, *x.shape)])
        run_pipeline(m, [*GRAPH, *KERNEL], Context(target))
        orders += [dict(o.schedule)["order"] for o in find(m, "launch")]
        results.append(NativeProgram(m, target)(x, threads=threads)[0].tobytes())
    assert orders == ["columns", "rows"]
    assert results[0] == results[1]


def test_of_two_large_operands_rows_stay_that_fit():
    kind, chunk = order(6272, 256, 512)
    assert kind == "rows"
    assert TILE_CHUNK < chunk <= LONG_CHUNK
    assert chunk * MR * 256 * 4 <= MACHINE.l2 // 2


def test_large_weights_are_read_once():
    """For a few rows at a time they would come from memory more often than the rows do now."""
    assert order(196, 3072, 3072) == ("columns", TILE_CHUNK)
    assert order(sym("N") * 196, 3072, 768)[0] == "columns", "the number of rows is not known"
