"""The tile contraction against NumPy: products and convolutions of many shapes."""

from __future__ import annotations

import ctypes
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from native_kernel import NativeKernel

from pjit.backends.llvm import contract_rows
from pjit.backends.llvm.contract import UNROLL
from pjit.backends.llvm.emit import emit_kernel
from pjit.backends.llvm.module import emit_assembly, new_module
from pjit.backends.llvm.target import LlvmMachine, machine
from pjit.ir import expr
from pjit.ir.core import Function, Loc, Value
from pjit.ir.errors import IRError
from pjit.ir.expr import Dim
from pjit.ir.kernel_builder import ScalarBuilder, kernel_function
from pjit.ir.ops.basic import Return
from pjit.ir.target import LINE
from pjit.ir.types import BufferType, DType, bf16, f16, f32, f64

Epilogue = Callable[[ScalarBuilder, Value, Value, Value], Value]
B, M, K = expr.sym("B"), expr.sym("M"), expr.sym("K")


def plain(b: ScalarBuilder, acc: Value, bias: Value, residual: Value) -> Value:
    return b.add(acc, bias)


def costly(b: ScalarBuilder, acc: Value, bias: Value, residual: Value) -> Value:
    return b.add(b.tanh(b.add(acc, bias)), residual)


@dataclass
class Problem:
    """A convolution; a product when it has no taps. ``free`` makes the batch (or rows) symbolic."""

    tile: tuple[int, int]
    batch: int = 1
    size: tuple[int, ...] = ()
    depth: int = 8
    cols: int = 32
    kernel: tuple[int, ...] = ()
    stride: int = 1
    pad: int = 0
    dilation: int = 1
    dtype: DType = f32
    a_dtype: DType | None = None
    free: bool = False
    free_depth: bool = False
    sharing: int = 1
    epilogue: Epilogue = plain

    @property
    def out(self) -> tuple[int, ...]:
        """The extents of the rows but the batch."""
        reach = [(k - 1) * self.dilation + 1 for k in self.kernel]
        return tuple(
            (s + 2 * self.pad - r) // self.stride + 1 for s, r in zip(self.size, reach, strict=True)
        )

    def build(self) -> Function:
        mr, nr = self.tile
        batch = B if self.free else self.batch
        depth = K if self.free_depth else self.depth
        taps = int(np.prod(self.kernel)) if self.kernel else 1
        blocks = -(-self.cols // nr)
        a_type = BufferType(self.a_dtype or self.dtype, (batch, *self.size, depth))
        y_type = BufferType(self.dtype, (batch, *self.out, self.cols))
        function = kernel_function(
            "contract",
            [
                ("a", a_type),
                ("b", BufferType(self.dtype, (blocks, taps * depth, nr))),
                ("bias", BufferType(self.dtype, (self.cols,))),
                ("z", y_type),
                ("y", y_type),
            ],
            1,
        )
        b = ScalarBuilder(function.body, Loc("test.py:1"))
        a, panels, bias, z, y = function.args
        rows = [batch, *self.out]

        def position(r: Sequence[Dim], t: Sequence[Dim]) -> list[Dim]:
            return [
                x * self.stride + i * self.dilation - self.pad
                for x, i in zip(r[1:], t, strict=True)
            ]

        def guards(r: Sequence[Dim], t: Sequence[Dim]) -> list[tuple[Dim, Dim]]:
            return list(zip(position(r, t), self.size, strict=True)) if self.pad else []

        def flat(t: Sequence[Dim]) -> Dim:
            total: Dim = 0
            for i, extent in zip(t, self.kernel, strict=True):
                total = total * extent + i
            return total

        def tile(block: Dim, t: Dim) -> None:
            def finish(acc: Value, r: Sequence[Dim], c: Dim) -> None:
                value = self.epilogue(b, acc, b.load(bias, [c]), b.load(z, [*r, c]))
                b.store(value, y, [*r, c])

            b.contract(
                a,
                panels,
                rows=rows,
                taps=self.kernel,
                depth=depth,
                cols=self.cols,
                tile=self.tile,
                sharing=self.sharing,
                row0=t * mr,
                col0=block * nr,
                a_index=lambda r, t, k: (r[0], *position(r, t), k),
                a_guards=guards,
                b_index=lambda t, k, c: (block, flat(t) * depth + k, c),
                finish=finish,
            )

        tiles = expr.ceildiv(expr.product(rows), mr)
        b.loop(0, blocks, lambda i: b.loop(0, tiles, lambda t: tile(i, t)), kind="parallel")
        b.emit(Return, (), {})
        return function

    def check(self, native) -> None:
        rng = np.random.default_rng(0)
        nr = self.tile[1]
        dt = self.dtype.numpy
        taps = int(np.prod(self.kernel)) if self.kernel else 1
        blocks = -(-self.cols // nr)
        a = rng.uniform(-1, 1, (self.batch, *self.size, self.depth))
        a = a.astype((self.a_dtype or self.dtype).numpy)
        w = rng.uniform(-1, 1, (taps * self.depth, self.cols)).astype(dt)
        panels = np.zeros((taps * self.depth, blocks * nr), dt)
        panels[:, : self.cols] = w
        panels = np.ascontiguousarray(panels.reshape(-1, blocks, nr).transpose(1, 0, 2))
        bias = rng.uniform(-1, 1, self.cols).astype(dt)
        z = rng.uniform(-1, 1, (self.batch, *self.out, self.cols)).astype(dt)
        y = np.full(z.size + 64, 7, dt)
        sizes = {"B": self.batch} if self.free else {}
        sizes |= {"K": self.depth} if self.free_depth else {}
        assert native(self.build())([a, panels, bias, z, y], sizes) == 0
        got = y[: z.size].reshape(z.shape)
        wanted = self.expected(a.astype(np.float64), w.astype(np.float64)) + bias
        if self.epilogue is costly:
            wanted = np.tanh(wanted) + z
        tolerance = 1e-12 if self.dtype is f64 else 1e-5
        np.testing.assert_allclose(
            got, wanted, rtol=tolerance, atol=tolerance * np.sqrt(taps * self.depth)
        )
        assert (y[z.size :] == 7).all()

    def expected(self, a: np.ndarray, w: np.ndarray) -> np.ndarray:
        rank = len(self.kernel)
        padded = np.pad(a, [(0, 0), *[(self.pad, self.pad)] * rank, (0, 0)])
        w = w.reshape(-1, self.depth, self.cols)
        total: np.ndarray | float = 0.0
        for t, at in enumerate(itertools.product(*map(range, self.kernel))):
            cut = [
                slice(i * self.dilation, i * self.dilation + (o - 1) * self.stride + 1, self.stride)
                for i, o in zip(at, self.out, strict=True)
            ]
            total = total + padded[(slice(None), *cut)] @ w[t]
        return np.asarray(total)


def tiles_of(target: LlvmMachine) -> list[tuple[int, int]]:
    n = target.lanes(32)
    return [(1, n), (4, 2 * n), (6, n), (7, 2 * n)]


@pytest.mark.parametrize("rows", [1, 12, 29])
@pytest.mark.parametrize("depth", [1, 7, 64])
@pytest.mark.parametrize("free", [False, True])
def test_products(native, target: LlvmMachine, rows: int, depth: int, free: bool) -> None:
    tiles = tiles_of(target)
    for i in (depth % 2, 2 + depth % 2):
        nr = tiles[i][1]
        cols = (3, nr, 2 * nr, 2 * nr + 5)[(i + rows) % 4]
        Problem(tiles[i], rows, depth=depth, cols=cols, free=free).check(native)


@pytest.mark.parametrize("dtype", [f32, f64], ids=str)
def test_columns_that_fill_narrow_vectors(native, target: LlvmMachine, dtype: DType) -> None:
    n = target.lanes(dtype.bits)
    tiles = [(9, 3 * n // 2), (5, 5 * n // 2), (7, n // 2)] if n > 2 else []
    for mr, nr in (*tiles, (3, 3 * n)):
        for cols in (nr, 2 * nr + 1):
            Problem((mr, nr), 29, depth=13, cols=cols, dtype=dtype).check(native)


def test_columns_that_fill_no_vectors_are_refused(native) -> None:
    with pytest.raises(IRError, match="vectors of two"):
        Problem((2, 3), 4, depth=5, cols=3).check(native)


@pytest.mark.parametrize("free", [False, True])
def test_symbolic_depth(native, free: bool) -> None:
    for depth in (1, 4, 9):
        Problem((5, 32), 11, depth=depth, cols=37, free=free, free_depth=True).check(native)


@pytest.mark.parametrize("dtype", [f32, f64], ids=str)
@pytest.mark.parametrize("cols", [32, 35])
def test_costly_regions(native, dtype: DType, cols: int) -> None:
    for free in (False, True):
        Problem((4, 16), 10, depth=9, cols=cols, dtype=dtype, free=free, epilogue=costly).check(
            native
        )


@pytest.mark.parametrize("a_dtype", [f16, bf16], ids=str)
def test_narrow_rows_are_widened(native, a_dtype: DType) -> None:
    Problem((4, 16), 9, depth=13, cols=16, a_dtype=a_dtype).check(native)
    Problem((4, 16), 1, (5, 5), 13, 16, (3, 3), pad=1, a_dtype=a_dtype).check(native)


@pytest.mark.parametrize(
    ("size", "kernel"), [((9,), (3,)), ((5, 7), (3, 3)), ((6, 6), (1, 2)), ((3, 4, 3), (2, 3, 2))]
)
@pytest.mark.parametrize(
    ("stride", "pad", "dilation"), [(1, 0, 1), (1, 1, 1), (2, 1, 1), (1, 2, 2), (2, 0, 1)]
)
def test_convolutions(
    native, size: tuple, kernel: tuple, stride: int, pad: int, dilation: int
) -> None:
    if (stride + pad + len(size)) % 2:
        problem = Problem((5, 16), 2, size, 3, 19, kernel, stride, pad, dilation)
    else:
        problem = Problem((12, 32), 2, size, 17, 32, kernel, stride, pad, dilation, free=True)
    if min(problem.out) > 0:
        problem.check(native)


def test_fewer_rows_than_the_tile(native) -> None:
    for free in (False, True):
        Problem((12, 32), 1, (2, 2), 5, 32, (3, 3), pad=1, free=free).check(native)
        Problem((12, 32), 3, depth=5, cols=32, free=free).check(native)


def test_one_by_one_convolution_has_rows_at_a_stride() -> None:
    """No table: the offset is affine in the flattened row."""
    problem = Problem((4, 32), 2, (5, 6), 16, 32, (1, 1))
    function = problem.build()
    target = machine("host")
    module = new_module(target)
    emit_kernel(function, target, module)
    assert "ptrtoint" not in str(module)


class Asked:
    """The addresses that a kernel asks for ahead of time, and whether to write there."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []
        signature = ctypes.CFUNCTYPE(None, ctypes.c_void_p, *[ctypes.c_int32] * 3)
        self.callback = signature(lambda at, write, *_: self.seen.append((at, write)))

    def native(self, kernel: Function, target: LlvmMachine) -> NativeKernel:
        """The kernel with a call for each request."""
        return NativeKernel(kernel, target, instead={"llvm.prefetch.p0": self.callback})

    def lines(self, array: np.ndarray, write: bool = False) -> set[int]:
        """The lines of an array that were asked for, counted from its start."""
        ahead = [at - array.ctypes.data for at, w in self.seen if w == write]
        return {x // LINE for x in ahead if 0 <= x < array.nbytes}


def arrays_of(kernel: Function) -> list[np.ndarray]:
    return [np.zeros(a.type.shape, a.type.dtype.numpy) for a in kernel.args]


@pytest.mark.parametrize("tile", [(4, 16), (2, 48), (6, 8)])
@pytest.mark.parametrize("tiles", [1, 2, 5, 40])
@pytest.mark.parametrize("depth", [32, 48])
def test_tiles_that_share_a_column_block_ask_for_the_next_one(
    tile: tuple[int, int], tiles: int, depth: int
) -> None:
    mr, nr = tile
    problem = Problem(tile, mr * tiles, depth=depth, cols=3 * nr, sharing=tiles)
    kernel, asked = problem.build(), Asked()
    arrays = arrays_of(kernel)
    target = replace(machine("x86-64-v2"), l2=1 << 10, weights_bytes_per_cycle=0.1)
    asked.native(kernel, target)(arrays)
    block = depth * nr * 4 // LINE
    ahead = asked.lines(arrays[1])
    assert ahead == (set(range(block, 3 * block)) if tiles > 1 else set())
    asked = Asked()
    asked.native(kernel, replace(target, l2=1 << 20))(arrays)
    assert not asked.seen, "the cache holds all of it"


@pytest.mark.parametrize("rate", [0.1, 100.0])
def test_a_single_tile_asks_ahead_where_reading_takes_less_than_multiplying(rate: float) -> None:
    problem = Problem((4, 16), 4, depth=32, cols=48, sharing=1)
    kernel, asked = problem.build(), Asked()
    arrays = arrays_of(kernel)
    target = replace(machine("x86-64-v2"), l2=1 << 10, weights_bytes_per_cycle=rate)
    asked.native(kernel, target)(arrays)
    block = 32 * 16 * 4 // LINE
    assert asked.lines(arrays[1]) == (set(range(block, 3 * block)) if rate > 1 else set())


@pytest.mark.parametrize("free", [False, True])
def test_a_region_asks_for_its_rows_of_large_tensors(free: bool) -> None:
    problem = Problem((4, 16), 3, (3, 7), 8, 40, (3, 3), pad=1, free=free, epilogue=costly)
    kernel, asked = problem.build(), Asked()
    sizes = {"B": 3}
    arrays = [
        np.zeros(expr.product(expr.substitute(d, sizes) for d in a.type.shape), np.float32)
        for a in kernel.args
    ]
    asked.native(kernel, replace(machine("x86-64-v2"), l2=1 << 10))(arrays, sizes)
    z, y = arrays[3:]
    every = set(range(y.nbytes // LINE))
    assert every <= asked.lines(z)
    assert every <= asked.lines(y, write=True)
    assert not asked.lines(arrays[2]), "all rows share the bias"


def test_depth_beyond_the_row_of_zeros(native, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract_rows, "ZEROS", 8)
    for depth in (7, 8, 21):
        for free_depth in (False, True):
            Problem((4, 16), 1, (4, 4), depth, 16, (3, 3), pad=1, free_depth=free_depth).check(
                native
            )


@pytest.mark.parametrize(
    ("name", "tile"),
    [
        ("x86-64-v4", (12, 32)),
        ("x86-64-v4", (6, 64)),
        ("x86-64-v3", (6, 16)),
        ("x86-64-v2", (4, 8)),
    ],
)
@pytest.mark.parametrize("window", [False, True])
def test_accumulators_stay_in_registers(name: str, tile: tuple[int, int], window: bool) -> None:
    """The loops that multiply move no vector to or from the stack."""
    problem = Problem(tile, 60, depth=64, cols=2 * tile[1])
    if window:
        problem = Problem(tile, 1, (16, 16), 64, 2 * tile[1], (3, 3), pad=1)
    for body in inner_loops(problem, machine(name)):
        assert not re.findall(r"mov[au]ps\s.*\(%rsp\)", body)


def inner_loops(problem: Problem, target: LlvmMachine) -> list[str]:
    """The assembly of the loops of x86 that multiply a whole tile."""
    mr, nr = problem.tile
    module = new_module(target)
    emit_kernel(problem.build(), target, module).linkage = "external"
    text = emit_assembly(module, target)
    loops = re.findall(r"^(\.L\w+):((?:(?!^\.L)[\s\S])*?)j\w+\t\1$", text, re.M)
    multiply = "vfmadd" if target.fma else "mulps"
    found = [body for _, body in loops if body.count(multiply) >= mr * nr // target.lanes(32)]
    assert found
    return found


@pytest.mark.parametrize(
    ("name", "tile", "depth", "free"),
    [
        ("x86-64-v4", (12, 32), 64, False),
        ("x86-64-v3", (6, 16), 64, False),
        ("x86-64-v3", (4, 24), 11, False),
        ("x86-64-v3", (4, 24), 8, True),
    ],
)
def test_steps_share_the_counting_of_their_loop(
    name: str, tile: tuple[int, int], depth: int, free: bool
) -> None:
    """Four steps an iteration, of loads, multiplications, and a few instructions that count."""
    target = machine(name)
    mr, vectors = tile[0], tile[1] // target.lanes(32)
    problem = Problem(tile, 60, depth=depth, cols=2 * tile[1], free_depth=free)
    body = max(inner_loops(problem, target), key=len)
    lines = [x for x in body.splitlines() if x.startswith("\t") and not x.startswith("\t#")]
    assert body.count("vfmadd") == UNROLL * mr * vectors
    assert len(lines) <= UNROLL * (mr * vectors + mr + vectors) + 6
