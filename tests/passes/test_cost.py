"""The widths of tiles by the cost model."""

from __future__ import annotations

import pytest

from pjit.ir.target import Machine
from pjit.passes.cost import Product, tile_columns, tile_cycles

WHOLE = Machine("whole", vector_bits=512, flops_per_cycle=64)
PLAIN = Machine("plain", vector_bits=128, fma=False, flops_per_cycle=8)
PARTS = Machine("parts", vector_bits=512, flops_per_cycle=32)  # two halves, one after the other


@pytest.mark.parametrize(
    ("columns", "bits", "lanes"), [(32, 32, 16), (24, 32, 8), (24, 64, 8), (6, 32, 2)]
)
def test_the_widest_vectors_that_columns_fill(columns: int, bits: int, lanes: int) -> None:
    assert WHOLE.filled(columns, bits) == lanes


@pytest.mark.parametrize(
    ("machine", "rates"), [(WHOLE, [2, 2, 2]), (PARTS, [1, 2, 2]), (PLAIN, [1, 1, 1])], ids=str
)
def test_narrow_vectors_are_as_fast_where_wide_ones_take_parts(machine: Machine, rates) -> None:
    lanes = machine.lanes(32)
    assert [machine.fmas(n, 32) for n in (lanes, lanes // 2, lanes // 4)] == rates


@pytest.mark.parametrize("columns", [8, 24, 40, 56])
def test_columns_that_do_not_fill_wide_vectors(columns: int) -> None:
    p = Product(3136, columns, 144)
    assert tile_columns(p, PARTS) == columns
    assert tile_columns(p, WHOLE) % 16 == 0


@pytest.mark.parametrize("columns", [64, 96, 3072])
def test_columns_that_fill_wide_vectors(columns: int) -> None:
    assert tile_columns(Product(128, columns, 768), PARTS) % 16 == 0


def test_a_product_costs_what_its_columns_do() -> None:
    p = Product(3136, 24, 144)
    ratio = tile_cycles(p, 8, 24, PARTS) / tile_cycles(p, 8, 32, PARTS)
    assert ratio == pytest.approx(24 / 32, rel=0.05)
