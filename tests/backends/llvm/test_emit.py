"""Kernels as native code, against the interpreter of the kernel level or NumPy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from small_kernels import check, kernel, numbers, once, same

from pjit.backends.llvm.emit import emit_kernel, index_checks
from pjit.backends.llvm.module import compile_module, emit_assembly, new_module
from pjit.backends.llvm.target import machine
from pjit.ir import expr
from pjit.ir.core import Function, Value
from pjit.ir.errors import IRError
from pjit.ir.expr import Dim
from pjit.ir.kernel_builder import ScalarBuilder
from pjit.ir.types import (
    FLOATS,
    INTS,
    DType,
    bf16,
    bool_,
    f16,
    f32,
    f64,
    i8,
    i32,
    i64,
    u8,
    u64,
)

N = expr.sym("N")
NUMPY = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "max": "maximum",
    "min": "minimum",
    "and_": "bitwise_and",
    "or_": "bitwise_or",
    "xor": "bitwise_xor",
}


# Vector loops


@pytest.mark.parametrize("unroll", [1, 2, 3])
def test_every_length_of_a_vector_loop(native, unroll: int) -> None:
    def body(b: ScalarBuilder, x: Value, y: Value) -> None:
        def one(j: Dim) -> None:
            v = b.load(x, [j])
            b.store(b.add(b.mul(v, v), b.const(1, v)), y, [j])

        once(b, lambda: b.loop(0, N, one, kind="vector", unroll=unroll))

    run = native(kernel([(f32, (N,)), (f32, (N,))], body))
    for n in range(1, 41):
        x, y = numbers(f32, n), np.full(n + 1, 7, np.float32)
        assert run([x, y], {"N": n}) == 0
        np.testing.assert_allclose(y[:n], x * x + 1, rtol=1e-6)
        assert y[n] == 7


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 8, 15, 16, 17, 33, 64])
def test_static_lengths(native, n: int) -> None:
    def body(b: ScalarBuilder, x: Value, y: Value) -> None:
        def one(j: Dim) -> None:
            b.store(b.sub(b.load(x, [j]), b.const(2, f32)), y, [j])

        once(b, lambda: b.loop(0, n, one, kind="vector", unroll=2))

    check(native, kernel([(f32, (n,)), (f32, (n,))], body), [numbers(f32, n), numbers(f32, n)])


@pytest.mark.parametrize("combine", ["add", "mul", "max", "min"])
@pytest.mark.parametrize("unroll", [1, 4])
def test_reductions_of_a_vector_loop(native, combine: str, unroll: int) -> None:
    def body(b: ScalarBuilder, x: Value, y: Value) -> None:
        def row(i: Dim) -> None:
            def step(j: Dim, c: Value) -> list[Value]:
                return [getattr(b, combine)(c, b.load(x, [i, j]))]

            start = b.const(1.5, f32)
            (total,) = b.loop(
                0, N, step, kind="vector", init=[start], combine=[combine], unroll=unroll
            )
            b.store(total, y, [i])

        b.loop(0, 2, row, kind="parallel")

    run = native(kernel([(f32, (2, N)), (f32, (2,))], body))
    numpy = getattr(np, NUMPY[combine])
    for n in (1, 2, 15, 16, 17, 31, 64, 65, 130):
        x, y = numbers(f32, 2, n), np.zeros(2, np.float32)
        assert run([x, y], {"N": n}) == 0
        wide = numpy(numpy.reduce(x.astype(np.float64), axis=1), 1.5)
        np.testing.assert_allclose(y, wide, rtol=1e-4, atol=1e-5)


def test_extrema_propagate_nan(native) -> None:
    def body(b: ScalarBuilder, x: Value, y: Value) -> None:
        def step(j: Dim, c: Value) -> list[Value]:
            return [b.max(c, b.load(x, [j]))]

        def all_() -> None:
            (m,) = b.loop(0, 20, step, kind="vector", init=[b.const(0, f32)], combine=["max"])
            b.store(m, y, [0])

        once(b, all_)

    x, y = numbers(f32, 20), np.zeros(1, np.float32)
    x[18] = np.nan
    assert native(kernel([(f32, (20,)), (f32, (1,))], body))([x, y]) == 0
    assert np.isnan(y[0])


@pytest.mark.parametrize("step", [2, 3, -1, -2])
@pytest.mark.parametrize("n", [16, 21])
def test_strided_loads_and_stores(native, step: int, n: int) -> None:
    size = abs(step) * (n - 1) + 1
    start = 0 if step > 0 else size - 1

    def body(b: ScalarBuilder, x: Value, y: Value, z: Value) -> None:
        def one(j: Dim) -> None:
            b.store(b.load(x, [start + j * step]), y, [j])
            b.store(b.load(x, [j]), z, [start + j * step])

        once(b, lambda: b.loop(0, n, one, kind="vector"))

    function = kernel([(f32, (size,)), (f32, (n,)), (f32, (size,))], body, 2)
    check(native, function, [numbers(f32, size), numbers(f32, n), numbers(f32, size)])


@pytest.mark.parametrize("channels", [1, 3, 16, 32])
def test_indices_with_division_and_remainder(native, channels: int) -> None:
    """y[i] = x[i] + bias[i % C] * scale[i // C], in one loop over all elements."""
    total = 4 * channels

    def body(b: ScalarBuilder, x: Value, bias: Value, scale: Value, y: Value) -> None:
        def one(i: Dim) -> None:
            v = b.mul(b.load(bias, [i % channels]), b.load(scale, [i // channels]))
            b.store(b.add(b.load(x, [i]), v), y, [i])

        once(b, lambda: b.loop(0, total, one, kind="vector"))

    shapes = [(total,), (channels,), (4,), (total,)]
    function = kernel([(f32, s) for s in shapes], body)
    check(native, function, [numbers(f32, *s) for s in shapes])


def test_division_by_a_symbol(native) -> None:
    m = expr.sym("M")

    def body(b: ScalarBuilder, x: Value, y: Value) -> None:
        def one(i: Dim) -> None:
            b.store(b.load(x, [i % m, i // m]), y, [i])

        once(b, lambda: b.loop(0, N * m, one, kind="vector"))

    function = kernel([(f32, (m, N)), (f32, (N * m,))], body)
    check(native, function, [numbers(f32, 5, 7), numbers(f32, 35)], N=7, M=5)


@pytest.mark.parametrize("shift", [-3, 0, 4])
def test_guards_that_differ_between_lanes(native, shift: int) -> None:
    def body(b: ScalarBuilder, x: Value, y: Value) -> None:
        def one(i: Dim) -> None:
            v = b.load(x, [i + shift], [(i + shift, N)], otherwise=9.0)
            b.store(v, y, [i + shift], [(i + shift, N)])
            b.store(v, y, [i + N], [(3 * i - 7, N)])

        once(b, lambda: b.loop(0, N, one, kind="vector"))

    function = kernel([(f32, (N,)), (f32, (2 * N,))], body)
    for n in (5, 16, 37):
        check(native, function, [numbers(f32, n), numbers(f32, 2 * n)], N=n)


def test_guards_that_hold_for_all_lanes_or_none(native) -> None:
    """Rows shifted by one: the first and the last read nothing."""

    def body(b: ScalarBuilder, x: Value, y: Value) -> None:
        def row(i: Dim) -> None:
            def one(j: Dim) -> None:
                g = [(i - 1, 4)]
                v = b.load(x, [i - 1, j], g, otherwise=-1.0)
                w = b.load(x, [i - 1, 2 * j], [*g, (2 * j, N)], otherwise=-2.0)
                u = b.load(x, [i - 1, 0], g, otherwise=0.5)
                b.store(b.add(b.add(v, w), u), y, [i, j])
                b.store(v, y, [i - 1, j], g)

            b.loop(0, N, one, kind="vector")

        b.loop(0, 6, row, kind="parallel")

    function = kernel([(f32, (4, N)), (f32, (6, N))], body)
    for n in (4, 16, 19):
        check(native, function, [numbers(f32, 4, n), numbers(f32, 6, n)], N=n)


def test_inside(native) -> None:
    def body(b: ScalarBuilder, x: Value, y: Value) -> None:
        def one(i: Dim) -> None:
            inside = b.inside([(i - 2, 9), (20 - i, N)])
            assert inside is not None
            b.store(b.select(inside, b.load(x, [i]), b.const(0, f32)), y, [i])

        once(b, lambda: b.loop(0, N, one, kind="vector"))

    function = kernel([(f32, (N,)), (f32, (N,))], body)
    check(native, function, [numbers(f32, 23), numbers(f32, 23)], N=23)


# Loops in loops


@pytest.mark.parametrize("kind", ["serial", "unroll"])
@pytest.mark.parametrize("unroll", [1, 3])
def test_loops_in_a_vector_loop(native, kind: str, unroll: int) -> None:
    """Sums over a window, one channel in each lane."""

    def body(b: ScalarBuilder, x: Value, y: Value) -> None:
        def one(c: Dim) -> None:
            def step(i: Dim, total: Value) -> list[Value]:
                return [b.add(total, b.load(x, [i, c]))]

            (total,) = b.loop(0, 7, step, kind=kind, init=[b.const(0, f32)], unroll=unroll)
            b.store(total, y, [c])

        once(b, lambda: b.loop(0, N, one, kind="vector"))

    function = kernel([(f32, (7, N)), (f32, (N,))], body)
    for n in (3, 16, 21):
        check(native, function, [numbers(f32, 7, n), numbers(f32, n)], 1e-5, N=n)


def test_a_loop_whose_bound_differs_between_lanes(native) -> None:
    """Prefix sums, the quadratic way; and sums over the last i - 3 elements."""

    def body(b: ScalarBuilder, x: Value, y: Value, z: Value) -> None:
        def one(i: Dim) -> None:
            def step(j: Dim, total: Value) -> list[Value]:
                return [b.add(total, b.load(x, [j]))]

            zero = [b.const(0, f32)]
            (total,) = b.loop(0, i + 1, step, init=zero)
            b.store(total, y, [i])
            (total,) = b.loop(i, expr.minimum(i + 4, N), step, init=zero)
            b.store(total, z, [i])

        once(b, lambda: b.loop(0, N, one, kind="vector"))

    function = kernel([(f32, (N,)), (f32, (N,)), (f32, (N,))], body, 2)
    for n in (1, 16, 19):
        check(native, function, [numbers(f32, n)] * 3, 1e-5, N=n)


def test_serial_reduction_with_two_carried_values(native) -> None:
    """The largest element and where it is."""

    def body(b: ScalarBuilder, x: Value, y: Value, at: Value) -> None:
        def step(i: Dim, best: Value, where: Value) -> list[Value]:
            v = b.load(x, [i])
            more = b.gt(v, best)
            return [b.select(more, v, best), b.select(more, b.index(i), where)]

        def all_() -> None:
            start = [b.const(float("-inf"), f32), b.const(-1, i64)]
            best, where = b.loop(0, N, step, init=start, unroll=2)
            b.store(best, y, [0])
            b.store(where, at, [0])

        once(b, all_)

    function = kernel([(f32, (N,)), (f32, (1,)), (i64, (1,))], body, 2)
    for n in (1, 2, 17):
        check(native, function, [numbers(f32, n), numbers(f32, 1), numbers(i64, 1)], N=n)


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_the_parallel_extent_is_divided(native, parts: int) -> None:
    m = expr.sym("M")

    def body(b: ScalarBuilder, x: Value, y: Value) -> None:
        def inner(i: Dim, j: Dim, k: Dim) -> None:
            b.store(b.add(b.load(x, [i, j, k]), b.load(x, [0, 0, 0])), y, [i, j, k])

        def nest(i: Dim) -> None:
            b.loop(
                0,
                m,
                lambda j: b.loop(0, 3, lambda k: inner(i, j, k), kind="parallel"),
                kind="parallel",
            )

        b.loop(0, N, nest, kind="parallel")

    function = kernel([(f32, (N, m, 3)), (f32, (N, m, 3))], body)
    for n, k in ((1, 1), (2, 5), (4, 1)):
        arrays = [numbers(f32, n, k, 3), numbers(f32, n, k, 3)]
        check(native, function, arrays, parts=parts, N=n, M=k)


def test_scratch_keeps_a_row(native) -> None:
    """Softmax over a row that is kept between two passes."""

    def body(b: ScalarBuilder, x: Value, y: Value) -> None:
        memory = b.scratch(f32, [21])

        def row(i: Dim) -> None:
            def keep(j: Dim, total: Value) -> list[Value]:
                e = b.exp(b.load(x, [i, j]))
                b.store(e, memory, [j])
                return [b.add(total, e)]

            zero = b.const(0, f32)
            (total,) = b.loop(0, 21, keep, kind="vector", init=[zero], combine=["add"], unroll=4)

            def last(j: Dim) -> None:
                b.store(b.div(b.load(memory, [j]), total), y, [i, j])

            b.loop(0, 21, last, kind="vector")

        b.loop(0, 3, row, kind="parallel")

    function = kernel([(f32, (3, 21)), (f32, (3, 21))], body)
    check(native, function, [numbers(f32, 3, 21), numbers(f32, 3, 21)], 1e-5)


# Data-dependent indices


@pytest.mark.parametrize("lanes", [True, False])
def test_gather(native, lanes: bool) -> None:
    def body(b: ScalarBuilder, table: Value, at: Value, y: Value) -> None:
        def row(i: Dim) -> None:
            def one(j: Dim) -> None:
                index = b.load(at, [j if lanes else i])
                b.store(b.load(table, [b.to_index(index, 5), j]), y, [i, j])

            b.loop(0, N, one, kind="vector")

        b.loop(0, 2, row, kind="parallel")

    function = kernel([(f32, (5, N)), (i64, (N,)), (f32, (2, N))], body)
    for n in (2, 16, 27):
        at = np.random.default_rng(n).integers(-5, 5, n)
        check(native, function, [numbers(f32, 5, n), at, numbers(f32, 2, n)], N=n)


@pytest.mark.parametrize("bad", [5, -6, 2**62, -(2**63)])
def test_an_index_out_of_range_sets_the_error_word(native, bad: int) -> None:
    def body(b: ScalarBuilder, table: Value, at: Value, y: Value) -> None:
        def one(j: Dim) -> None:
            first = b.to_index(b.load(at, [0, j]), 5)
            second = b.to_index(b.load(at, [1, j]), 5)
            b.store(b.add(b.load(table, [first]), b.load(table, [second])), y, [j])

        once(b, lambda: b.loop(0, N, one, kind="vector"))

    function = kernel([(f32, (5,)), (i64, (2, N)), (f32, (N,))], body)
    assert len(index_checks(function)) == 2
    run = native(function, error_base=10)
    table, y = numbers(f32, 5), numbers(f32, 20)
    for row in (0, 1):
        at = np.zeros((2, 20), np.int64)
        assert run([table, at, y], {"N": 20}) == 0
        at[row, 19] = bad
        assert run([table, at, y], {"N": 20}) == 11 + row


@pytest.mark.parametrize("dt", [i32, u8])
def test_indices_of_other_integer_types(native, dt: DType) -> None:
    def body(b: ScalarBuilder, table: Value, at: Value, y: Value) -> None:
        def one(j: Dim) -> None:
            b.store(b.load(table, [b.to_index(b.load(at, [j]), 9)]), y, [j])

        once(b, lambda: b.loop(0, 11, one, kind="vector"))

    function = kernel([(f32, (9,)), (dt, (11,)), (f32, (11,))], body)
    check(native, function, [numbers(f32, 9), numbers(dt, 11) % 9, numbers(f32, 11)])


# Primitives and dtypes


def apply(
    dt: DType, names: Sequence[str], arity: int, n: int = 19, out: DType | None = None
) -> Function:
    """y[k] = names[k](x0, x1, ...) in a vector loop."""

    def body(b: ScalarBuilder, *buffers: Value) -> None:
        xs, y = buffers[:-1], buffers[-1]

        def one(j: Dim) -> None:
            loaded = [b.load(x, [j]) for x in xs]
            for k, name in enumerate(names):
                b.store(getattr(b, name)(*loaded), y, [k, j])

        once(b, lambda: b.loop(0, n, one, kind="vector"))

    return kernel([(dt, (n,))] * arity + [(out or dt, (len(names), n))], body)


@pytest.mark.parametrize("dt", FLOATS, ids=str)
def test_float_arithmetic(native, dt: DType) -> None:
    names = ["add", "sub", "mul", "div", "min", "max", "copysign", "floordiv", "mod", "fmod"]
    tolerance = {"f16": 1e-3, "bf16": 1e-2}.get(dt.name, 1e-6)
    x, y = numbers(dt, 19), numbers(dt, 19, seed=1)
    check(native, apply(dt, names, 2), [x, y, np.zeros((len(names), 19), dt.numpy)], tolerance)
    unary = ["neg", "abs", "sqrt", "exp", "tanh", "floor", "ceil", "round", "trunc"]
    x = np.abs(x) + dt.numpy.type(0.1)
    check(native, apply(dt, unary, 1), [x, np.zeros((len(unary), 19), dt.numpy)], tolerance)


@pytest.mark.parametrize("dt", [f16, bf16], ids=str)
def test_narrow_floats_round_after_each_primitive(native, dt: DType) -> None:
    x, y = numbers(dt, 19), numbers(dt, 19, seed=1)
    names = ["add", "sub", "mul", "div", "max"]
    out = np.zeros((len(names), 19), dt.numpy)
    check(native, apply(dt, names, 2), [x, y, out])


@pytest.mark.parametrize("dt", INTS, ids=str)
def test_integer_arithmetic(native, dt: DType) -> None:
    info = np.iinfo(dt.numpy)
    rng = np.random.default_rng(0)
    x = rng.integers(info.min, info.max, 19, dtype=dt.numpy, endpoint=True)
    y = numbers(dt, 19)
    x[:4], y[:4] = (info.min, info.max, 0, 1), (1, info.max, 0, 0)
    names = [
        "add",
        "sub",
        "mul",
        "min",
        "max",
        "and_",
        "or_",
        "xor",
        "div",
        "floordiv",
        "mod",
        "fmod",
    ]
    run = native(apply(dt, names, 2))
    out = np.zeros((len(names), 19), dt.numpy)
    assert run([x, y, out]) == 0
    with np.errstate(all="ignore"):
        for k, name in enumerate(names[:8]):
            np.testing.assert_array_equal(out[k], getattr(np, NUMPY[name])(x, y), name)
        floor, rest = np.floor_divide(x, y), np.mod(x, y)
        np.testing.assert_array_equal(out[9], floor)
        np.testing.assert_array_equal(out[10], rest)
        np.testing.assert_array_equal(out[11], np.fmod(x, y))
    for a, b, got in zip(x.tolist(), y.tolist(), out[8].tolist(), strict=True):
        sign = 1 if (a < 0) == (b < 0) else -1
        assert got == (0 if b == 0 else sign * (abs(a) // abs(b)))


@pytest.mark.parametrize("dt", [i8, i32, i64], ids=str)
def test_the_smallest_integer_divided_by_minus_one_wraps(native, dt: DType) -> None:
    low = np.iinfo(dt.numpy).min
    x, y = np.full(19, low, dt.numpy), np.full(19, -1, dt.numpy)
    out = np.zeros((3, 19), dt.numpy)
    assert native(apply(dt, ["div", "floordiv", "mod"], 2))([x, y, out]) == 0
    assert (out[:2] == low).all()
    assert (out[2] == 0).all()


@pytest.mark.parametrize("dt", [i8, u8, i32, u64], ids=str)
def test_shifts_and_powers(native, dt: DType) -> None:
    x, y = numbers(dt, 19), np.arange(19).astype(dt.numpy) * 5 % 90
    out = np.zeros((2, 19), dt.numpy)
    assert native(apply(dt, ["shl", "shr"], 2))([x, y, out]) == 0
    np.testing.assert_array_equal(out, [np.left_shift(x, y), np.right_shift(x, y)])
    y, out = np.arange(19).astype(dt.numpy), np.zeros((1, 19), dt.numpy)
    assert native(apply(dt, ["pow"], 2))([x, y, out]) == 0
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(out[0], np.power(x, y))


def test_negative_powers_of_integers(native) -> None:
    x = np.array([1, -1, -1, 2, -3, 0], np.int32)
    y = np.array([-5, -3, -4, -1, -2, -1], np.int32)
    out = np.zeros((1, 6), np.int32)
    assert native(apply(i32, ["pow"], 2, 6))([x, y, out]) == 0
    assert out[0].tolist() == [1, -1, 1, 0, 0, 0]


@pytest.mark.parametrize("dt", [f32, bf16, f64, i8, u64, bool_], ids=str)
def test_comparisons_and_select(native, dt: DType) -> None:
    names = ["eq", "ne", "lt", "le", "gt", "ge"]
    x, y = numbers(dt, 19), numbers(dt, 19, seed=1)
    y[:5] = x[:5]
    if dt.is_float:
        x[7], y[8] = np.nan, np.nan
    out = np.zeros((6, 19), bool)
    check(native, apply(dt, names, 2, out=bool_), [x, y, out])


def test_bools(native) -> None:
    names = ["and_", "or_", "xor", "max", "mul", "eq"]
    arrays = [numbers(bool_, 19), numbers(bool_, 19, seed=1), np.zeros((6, 19), bool)]
    assert native(apply(bool_, names, 2))(arrays) == 0
    x, y, out = arrays
    np.testing.assert_array_equal(out, [x & y, x | y, x ^ y, x | y, x & y, x == y])


ALL = [*FLOATS, *INTS, bool_]


@pytest.mark.parametrize("source", ALL, ids=str)
def test_casts(native, source: DType) -> None:
    n = 19

    def body(b: ScalarBuilder, x: Value, *outs: Value) -> None:
        def one(j: Dim) -> None:
            v = b.load(x, [j])
            for dt, out in zip(ALL, outs, strict=True):
                b.store(b.cast(v, dt), out, [j])

        once(b, lambda: b.loop(0, n, one, kind="vector"))

    function = kernel([(source, (n,)), *[(dt, (n,)) for dt in ALL]], body, len(ALL))
    x = numbers(source, n)
    if source.kind == "i":
        x[0] = np.iinfo(source.numpy).min
    arrays = [x, *[np.zeros(n, dt.numpy) for dt in ALL]]
    assert native(function)(arrays) == 0
    with np.errstate(all="ignore"):
        for dt, got in zip(ALL, arrays[1:], strict=True):
            if source.is_float and dt.kind == "u":
                continue  # of a negative number: undefined
            same(got, x.astype(dt.numpy))


def convert(source: DType, target: DType, n: int) -> Function:
    def body(b: ScalarBuilder, x: Value, y: Value) -> None:
        def one(j: Dim) -> None:
            b.store(b.cast(b.load(x, [j]), target), y, [j])

        once(b, lambda: b.loop(0, n, one, kind="vector"))

    return kernel([(source, (n,)), (target, (n,))], body)


@pytest.mark.parametrize("dt", [f16, bf16], ids=str)
def test_every_narrow_float_is_widened(native, dt: DType) -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(dt.numpy)
    wide = np.zeros(1 << 16, np.float32)
    assert native(convert(dt, f32, 1 << 16))([every, wide]) == 0
    np.testing.assert_array_equal(wide, every.astype(np.float32))


@pytest.mark.parametrize("dt", [f16, bf16], ids=str)
def test_conversions_to_narrow_floats_round_once(native, dt: DType) -> None:
    """f64 numbers on and beside the midpoints of neighbours, ties to even."""
    every = np.arange(1 << 16, dtype=np.uint16).view(dt.numpy)
    finite = np.unique(every[np.isfinite(every.astype(np.float32))].astype(np.float64))
    low, high = finite[:-1], finite[1:]
    middle = (low + high) / 2
    even = (low.astype(dt.numpy).view(np.uint16) & 1) == 0
    tie = np.where(even, low, high)
    x = np.concatenate([middle, np.nextafter(middle, np.inf), np.nextafter(middle, -np.inf)])
    out = np.zeros(x.size, dt.numpy)
    assert native(convert(f64, dt, x.size))([x, out]) == 0
    np.testing.assert_array_equal(out.astype(np.float64), np.concatenate([tie, high, low]))


# The module


def test_a_kernel_with_two_nests_is_refused() -> None:
    def body(b: ScalarBuilder, x: Value) -> None:
        for _ in range(2):
            b.loop(0, 4, lambda i: b.store(b.const(1, f32), x, [i]), kind="parallel")

    target = machine("host")
    with pytest.raises(IRError, match="perfect nest"):
        emit_kernel(kernel([(f32, (4,))], body), target, new_module(target))


def test_code_for_aarch64() -> None:
    """It compiles there; this machine does not run it."""
    target = machine("aarch64")

    def body(b: ScalarBuilder, x: Value, y: Value) -> None:
        def one(j: Dim) -> None:
            b.store(b.exp(b.load(x, [j])), y, [j])

        once(b, lambda: b.loop(0, N, one, kind="vector"))

    module = new_module(target)
    function = emit_kernel(kernel([(f32, (N,)), (f32, (N,))], body), target, module)
    function.linkage = "external"
    assert compile_module(module, target)[:4] == b"\x7fELF"
    assert "fmla" in emit_assembly(module, target)
