"""The emitted source: its text, what it computes in an emulation, what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from graphs import close, graph, lower

from pjit.backends.cuda.emit import emit_source
from pjit.backends.cuda.target import TARGETS, machine
from pjit.ir import ops
from pjit.ir.core import Function, Loc
from pjit.ir.errors import PjitError
from pjit.ir.interp import interpret_kernel
from pjit.ir.kernel_builder import ScalarBuilder, kernel_function
from pjit.ir.loops import kernels
from pjit.ir.types import f32, parse_type

GOLDEN = Path(__file__).parent / "golden"
TOLERANCE = {"f16": 2e-3, "bf16": 2e-2, "f32": 2e-6, "f64": 1e-14}
NAMES = (
    "chain",
    "chain_narrow",
    "transpose",
    "pad",
    "gather",
    "reduce",
    "softmax",
    "softmax_short",
    "softmax_block",
    "layer_norm",
)


def test_source_computes_what_the_kernel_says(case, emulate):
    kernel = case.kernel()
    source = emit_source(kernel, machine())
    want = case.arrays(kernel)
    sizes = case.arguments()
    interpret_kernel(kernel, want, sizes)
    for reverse in (False, True):
        got = case.arrays(kernel)
        assert emulate(source, got, sizes, reverse=reverse) == 0
        for v, a, b in zip(kernel.args, got, want, strict=True):
            assert close(a, b, TOLERANCE.get(v.dtype.name, 0.0)), v.name


@pytest.mark.parametrize("name", NAMES)
def test_text(name, cases, request):
    source = emit_source(cases[name].kernel(), machine())
    path = GOLDEN / f"{name}.txt"
    if request.config.getoption("--bless"):
        path.write_text(source.text)
    assert source.text == path.read_text(), "run pytest with --bless to accept the text"


def test_flat_chunks_are_one_loop_without_guards(cases):
    source = emit_source(cases["chain_chunks"].kernel(), machine())
    assert "while t < 9170:" in source.text
    assert "//" not in source.text
    assert "div" not in source.text
    assert source.launch.work == 70 * 131


@pytest.mark.parametrize(
    ("name", "wide"),
    [("chain", True), ("chain_rows", True), ("chain_columns", False), ("chain_narrow", False)],
)
def test_four_elements_at_once(name, wide, cases):
    """Where rows are multiples of four, so that four neighbours are in one row."""
    source = emit_source(cases[name].kernel(), machine())
    assert source.aligned == wide
    assert ("load4" in source.text) == ("store4" in source.text) == wide


def test_short_rows_share_a_warp(cases):
    launch = emit_source(cases["softmax_short"].kernel(), machine()).launch
    assert launch.block == (16, 16)
    assert launch.grid({}) == 2


def test_grid_is_capped(cases):
    gpu = dataclasses.replace(machine(), threads=2)
    launch = emit_source(cases["chain"].kernel(), gpu).launch
    assert launch.grid({"d0": 1}) == 1
    assert launch.grid({"d0": 1 << 20}) == 2 * 8


def test_index_out_of_range_is_reported(cases, emulate):
    case = cases["gather"]
    kernel = case.kernel()
    source = emit_source(kernel, machine())
    arrays = case.arrays(kernel)
    arrays[1][2] = -7
    assert emulate(source, arrays, {}) == 1
    assert source.checks[0].what == "gather index"
    assert source.checks[0].loc == Loc("test.py:1")


# Kernels made by hand


def hand_made(body, *buffers: str, outputs: int = 1) -> Function:
    """A kernel; ``body(builder, *buffers)`` builds it."""
    kinds = [(f"a{i}", parse_type("buf " + t)) for i, t in enumerate(buffers)]
    kernel = kernel_function("k", kinds, outputs)  # type: ignore[arg-type]
    b = ScalarBuilder(kernel.body, Loc("test.py:9"))
    body(b, *kernel.args)
    b.emit(ops.Return, (), {})
    return kernel


def reversed_rows(rows: int, length: int) -> Function:
    """Reverses rows through scratch memory, so that threads read what others wrote."""

    def body(b, x, y):
        kept = b.scratch(f32, [length])

        def row(i):
            b.loop(0, length, lambda j: b.store(b.load(x, [i, j]), kept, [j]), kind="vector")

            def read(j):
                b.store(b.load(kept, [length - 1 - j]), y, [i, j])

            b.loop(0, length, read, kind="vector")

        b.loop(0, rows, row, kind="parallel")

    return hand_made(body, f"f32[{rows},{length}]", f"f32[{rows},{length}]")


@pytest.mark.parametrize(("rows", "length"), [(7, 40), (70, 5), (5, 1100)])
def test_threads_meet_between_loops_that_share_scratch(rows, length, emulate):
    source = emit_source(reversed_rows(rows, length), machine())
    x = np.arange(rows * length, dtype=np.float32).reshape(rows, length)
    y = np.zeros_like(x)
    emulate(source, [x, y], {}, blocks=2)
    np.testing.assert_array_equal(y, x[:, ::-1])


@pytest.mark.parametrize("at", [0, 1])
def test_emulation_finds_a_missing_barrier(at, emulate):
    """Both barriers matter: after the writes, and before those of the next row."""
    source = emit_source(reversed_rows(5, 1100), machine())
    parts = source.text.split("cuda.syncthreads()")
    assert len(parts) == 3
    parts[at : at + 2] = [parts[at] + "pass" + parts[at + 1]]
    broken = dataclasses.replace(source, text="cuda.syncthreads()".join(parts))
    x = np.zeros((5, 1100), np.float32)
    with pytest.raises(AssertionError, match=r"race|before it is written"):
        emulate(broken, [x, x.copy()], {}, blocks=2)


def test_serial_loop_of_a_team(emulate):
    """Each step of a loop around vector loops uses the scratch memory of the last one."""

    def body(b, x, y):
        kept = b.scratch(f32, [33])

        def row(i):
            def step(s):
                b.loop(0, 33, lambda j: b.store(b.load(x, [i, s, j]), kept, [j]), kind="vector")
                b.loop(
                    0, 33, lambda j: b.store(b.load(kept, [32 - j]), y, [i, s, j]), kind="vector"
                )

            b.loop(0, 4, step)

        b.loop(0, 3, row, kind="parallel")

    source = emit_source(hand_made(body, "f32[3,4,33]", "f32[3,4,33]"), machine())
    x = np.random.default_rng(0).standard_normal((3, 4, 33), np.float32)
    y = np.zeros_like(x)
    emulate(source, [x, y], {}, reverse=True, blocks=1)
    np.testing.assert_array_equal(y, x[..., ::-1])


def test_uniform_store_is_one_threads(emulate):
    """What all threads compute is stored once, also to scratch memory."""

    def body(b, x, y):
        kept = b.scratch(f32, [1])

        def row(i):
            b.store(b.load(x, [i, 0]), kept, [0])
            b.loop(
                0,
                40,
                lambda j: b.store(b.add(b.load(kept, [0]), b.load(x, [i, j])), y, [i, j]),
                kind="vector",
            )

        b.loop(0, 9, row, kind="parallel")

    source = emit_source(hand_made(body, "f32[9,40]", "f32[9,40]"), machine())
    x = np.random.default_rng(0).standard_normal((9, 40), np.float32)
    y = np.zeros_like(x)
    emulate(source, [x, y], {})
    np.testing.assert_array_equal(y, x + x[:, :1])


def test_serial_loop_whose_steps_overwrite_each_other_stays_in_the_thread(emulate):
    def body(b, x, y):
        def row(i):
            b.loop(
                0,
                6,
                lambda s: b.loop(
                    0, 8, lambda j: b.store(b.load(x, [i, s, j]), y, [i, j]), kind="vector"
                ),
            )

        b.loop(0, 3, row, kind="parallel")

    source = emit_source(hand_made(body, "f32[3,6,8]", "f32[3,8]"), machine())
    x = np.random.default_rng(0).standard_normal((3, 6, 8), np.float32)
    y = np.zeros((3, 8), np.float32)
    emulate(source, [x, y], {})
    np.testing.assert_array_equal(y, x[:, -1])


@pytest.mark.parametrize("size", ["lambda", "maximum", "range", "t"])
def test_names_that_are_taken(size, emulate):
    def body(b, x, y):
        b.loop(0, x.shape[0], lambda i: b.store(b.load(x, [i]), y, [i]), kind="parallel")

    kernel = hand_made(body, f"f32[{size}]", f"f32[{size}]")
    kernel.name = "class"
    source = emit_source(kernel, machine())
    assert source.symbols == (size,)
    x = np.ones(5, np.float32)
    y = np.zeros(5, np.float32)
    emulate(source, [x, y], {size: 5})
    np.testing.assert_array_equal(x, y)


def test_threads_meet_between_loops_that_share_an_output(emulate):
    def body(b, x, y, z):
        def row(i):
            b.loop(0, 40, lambda j: b.store(b.neg(b.load(x, [i, j])), y, [i, j]), kind="vector")
            b.loop(0, 40, lambda j: b.store(b.load(y, [i, 39 - j]), z, [i, j]), kind="vector")

        b.loop(0, 9, row, kind="parallel")

    kernel = hand_made(body, "f32[9,40]", "f32[9,40]", "f32[9,40]", outputs=2)
    source = emit_source(kernel, machine())
    assert source.text.count("cuda.syncwarp()") == 2
    x = np.random.default_rng(0).standard_normal((9, 40), np.float32)
    y, z = np.zeros_like(x), np.zeros_like(x)
    emulate(source, [x, y, z], {})
    np.testing.assert_array_equal(z, -x[:, ::-1])


# Refusals


def test_contraction_is_refused():
    kinds = [parse_type("f32[4,8]"), parse_type("f32[1,8,16]")]
    module = graph(lambda b, x, w: b(ops.MatmulPacked, x, w, cols=16), kinds)
    (kernel,) = kernels(lower(module))
    with pytest.raises(PjitError, match="no tile contractions yet") as caught:
        emit_source(kernel, machine())
    assert caught.value.where == "test.py:1"


def test_scratch_that_does_not_fit_is_refused():
    with pytest.raises(PjitError, match="static shared memory") as caught:
        emit_source(reversed_rows(3, 20000), machine())
    assert caught.value.got == 80000


def test_primitive_of_a_dtype_it_lacks():
    def body(b, x, y):
        b.loop(0, 4, lambda i: b.store(b.exp(b.load(x, [i])), y, [i]), kind="parallel")

    with pytest.raises(PjitError, match="no exp of i64 yet"):
        emit_source(hand_made(body, "i64[4]", "i64[4]"), machine())


def test_machines():
    assert [machine(n).arch for n in TARGETS] == list(TARGETS)
    assert machine().lanes(32) == 32
    with pytest.raises(PjitError, match="no such target"):
        machine("sm_12")
