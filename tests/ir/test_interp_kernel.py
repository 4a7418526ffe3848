"""The kernel interpreter, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from pjit.ir import Function, IRError, Loc, Module, interpret_kernel, ops, sym, verify
from pjit.ir.kernel_builder import ScalarBuilder, kernel_function
from pjit.ir.loops import PRIMS
from pjit.ir.types import BufferType, DType, bf16, bool_, f16, f32, f64, i8, i32, i64

N = sym("N")


def kernel(build, *buffers: BufferType, outputs: int = 1) -> Function:
    """A kernel of one parallel iteration, which ``build(b, i, *buffers)`` builds."""
    named = [(f"a{i}", t) for i, t in enumerate(buffers)]
    f = kernel_function("k", named, outputs)
    b = ScalarBuilder(f.body, Loc("here"))
    b.loop(0, 1, lambda i: build(b, i, *f.args), kind="parallel")
    b.emit(ops.Return, (), {})
    verify(Module({"k": f}))
    return f


def each(f: DType, g: DType, make) -> Function:
    """A kernel of 8 elements."""

    def build(b, _, x, y):
        b.loop(0, 8, lambda j: b.store(make(b, b.load(x, [j])), y, [j]), kind="vector")

    return kernel(build, BufferType(f, (8,)), BufferType(g, (8,)))


@pytest.mark.parametrize("dt", [f64, f32, f16, bf16, i64, i8])
def test_primitives_keep_the_dtype(dt):
    y = np.zeros(8, dt.numpy)
    x = np.arange(1, 9).astype(dt.numpy)
    interpret_kernel(each(dt, dt, lambda b, v: b.max(b.mul(v, v), b.const(5, v))), [x, y])
    np.testing.assert_array_equal(y, np.maximum(x * x, dt.numpy.type(5)))


@pytest.mark.parametrize("name", sorted(PRIMS))
def test_every_primitive(name):
    dt = bool_ if name in ("and", "or", "xor", "not") else i32 if name in ("shl", "shr") else f32
    prim = PRIMS[name]
    out = bool_ if name in ("eq", "ne", "lt", "le", "gt", "ge") else dt

    def make(b, v):
        xs = [v] * prim.arity
        if name == "select":
            xs[0] = b.gt(v, b.zero(v))
        return getattr(b, name)(*xs)

    x = (np.arange(8) % 2 == 0) if dt is bool_ else (np.arange(1, 9) / 8 * (8 if dt is i32 else 1))
    x = x.astype(dt.numpy)
    y = np.zeros(8, out.numpy)
    interpret_kernel(each(dt, out, make), [x, y])
    args = [x > 0, x, x] if name == "select" else [x] * prim.arity
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(y, prim.ref(*args))


def test_casts():
    x = np.array([-1.9, -0.5, 0, 0.5, 1.9, 2.5, 100, -100], np.float32)
    for dt, want in ((i8, x.astype(np.int8)), (bool_, x != 0), (f16, x.astype(np.float16))):
        y = np.zeros(8, dt.numpy)
        interpret_kernel(each(f32, dt, lambda b, v, dt=dt: b.cast(v, dt)), [x, y])
        np.testing.assert_array_equal(y, want)


def test_guards_and_symbolic_sizes():
    def build(b, _, x, y):
        def body(j):
            value = b.load(x, [j - 1], [(j - 1, N)], 7.0)
            b.store(value, y, [j], [(j, N + 1)])

        b.loop(0, N + 2, body)

    f = kernel(build, BufferType(f32, (N,)), BufferType(f32, (N + 2,)))
    for n in (1, 4):
        y = np.full(n + 2, -1, np.float32)
        interpret_kernel(f, [np.arange(n, dtype=np.float32), y], {"N": n})
        assert y.tolist() == [7, *range(n), -1]


def test_carried_values_and_index_values():
    def build(b, _, x, y):
        init = [b.const(0, f32), b.const(0, i64)]

        def step(j, s, at):
            v = b.load(x, [j])
            return [b.add(s, v), b.select(b.gt(v, b.const(2.5, v)), b.index(3 * j + 1), at)]

        total, at = b.loop(0, 5, step, init=init)
        b.store(b.add(total, b.cast(at, f32)), y, [0])

    f = kernel(build, BufferType(f32, (5,)), BufferType(f32, (1,)))
    y = np.zeros(1, np.float32)
    interpret_kernel(f, [np.arange(5, dtype=np.float32), y])
    assert y[0] == 10 + 13


def gather() -> Function:
    def build(b, _, x, i, y):
        def body(j):
            at = b.to_index(b.load(i, [j]), N, "index of gather")
            b.store(b.load(x, [at]), y, [j])

        b.loop(0, 3, body)

    return kernel(build, BufferType(f32, (N,)), BufferType(i64, (3,)), BufferType(f32, (3,)))


def test_data_dependent_indices():
    x, y = np.arange(5, dtype=np.float32), np.zeros(3, np.float32)
    interpret_kernel(gather(), [x, np.array([4, -1, -5]), y], {"N": 5})
    assert y.tolist() == [4, 4, 0]
    for bad in (5, -6):
        with pytest.raises(IRError, match="index of gather out of range") as caught:
            interpret_kernel(gather(), [x, np.array([0, bad, 0]), y], {"N": 5})
        assert caught.value.where == "here"


def test_out_of_bounds_is_an_error():
    def build(b, _, x, y):
        b.loop(0, 5, lambda j: b.store(b.load(x, [j]), y, [j]))

    f = kernel(build, BufferType(f32, (4,)), BufferType(f32, (5,)))
    with pytest.raises(IRError, match=r"k\.load goes out of bounds"):
        interpret_kernel(f, [np.zeros(4, np.float32), np.zeros(5, np.float32)])


def test_arrays_must_fit_their_buffers():
    f = each(f32, f32, lambda b, v: v)
    x = np.zeros(8, np.float32)
    with pytest.raises(IRError, match="does not fit its buffer"):
        interpret_kernel(f, [x, np.zeros(7, np.float32)])
    with pytest.raises(IRError, match="has 2 buffers"):
        interpret_kernel(f, [x])


def test_scratch_is_not_zero():
    f = kernel_function("k", [("y", BufferType(f32, (2,)))], 1)
    b = ScalarBuilder(f.body, Loc("here"))
    s = b.scratch(f32, (2,))

    def body(i):
        b.store(b.const(1, f32), s, [0])
        b.loop(0, 2, lambda j: b.store(b.load(s, [j]), f.args[0], [j]))

    b.loop(0, 1, body, kind="parallel")
    b.emit(ops.Return, (), {})
    y = np.zeros(2, np.float32)
    interpret_kernel(f, [y])
    assert y[0] == 1
    assert np.isnan(y[1])


@pytest.mark.parametrize("m", [1, 4, 5])
def test_contraction_of_a_product(m):
    depth, cols, mr, nr = 5, 6, 2, 4
    blocks = 2

    def build(b, _, x, w, y):
        def tile(i, j):
            b.contract(
                x,
                w,
                rows=[N],
                taps=[],
                depth=depth,
                cols=cols,
                tile=(mr, nr),
                row0=mr * i,
                col0=nr * j,
                a_index=lambda r, t, k: [r[0], k],
                a_guards=lambda r, t: [],
                b_index=lambda t, k, c: [j, k, c],
                finish=lambda acc, r, c: b.store(b.neg(acc), y, [r[0], c]),
            )

        b.loop(0, (N + 1) // 2, lambda i: b.loop(0, blocks, lambda j: tile(i, j)))

    types = (
        BufferType(f32, (N, depth)),
        BufferType(f32, (blocks, depth, nr)),
        BufferType(f32, (N, cols)),
    )
    f = kernel(build, *types)
    rng = np.random.default_rng(0)
    x = rng.integers(-4, 5, (m, depth)).astype(np.float32)
    w = rng.integers(-4, 5, (blocks, depth, nr)).astype(np.float32)
    y = np.full((m, cols), np.nan, np.float32)
    interpret_kernel(f, [x, w, y], {"N": m})
    full = w.transpose(1, 0, 2).reshape(depth, blocks * nr)
    np.testing.assert_array_equal(y, -(x @ full)[:, :cols])


def test_contraction_with_taps_and_guards():
    size, channels, taps, nr = 5, 2, 3, 4

    def build(b, _, x, w, y):
        b.contract(
            x,
            w,
            rows=[size],
            taps=[taps],
            depth=channels,
            cols=nr,
            tile=(8, nr),
            row0=0,
            col0=0,
            a_index=lambda r, t, k: [r[0] + t[0] - 1, k],
            a_guards=lambda r, t: [(r[0] + t[0] - 1, size)],
            b_index=lambda t, k, c: [t[0] * channels + k, c],
            finish=lambda acc, r, c: b.store(acc, y, [r[0], c]),
        )

    types = BufferType(f32, (size, channels)), BufferType(f32, (taps * channels, nr))
    f = kernel(build, *types, BufferType(f32, (size, nr)))
    rng = np.random.default_rng(0)
    x = rng.integers(-4, 5, (size, channels)).astype(np.float32)
    w = rng.integers(-4, 5, (taps * channels, nr)).astype(np.float32)
    y = np.zeros((size, nr), np.float32)
    interpret_kernel(f, [x, w, y])
    padded = np.pad(x, ((1, 1), (0, 0)))
    windows = np.stack([padded[i : i + taps].reshape(-1) for i in range(size)])
    np.testing.assert_array_equal(y, windows @ w)
