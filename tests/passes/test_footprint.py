"""What a kernel may touch in some iterations: native code needs nothing else, and writes nothing
else.
"""

from __future__ import annotations

import numpy as np
import pytest
from graphs import graph, lower, one_op, types_of
from native_kernel import NativeKernel

from pjit.backends.llvm.target import machine
from pjit.ir import ops, tensor
from pjit.ir.core import Function
from pjit.ir.expr import product
from pjit.ir.loops import Contraction, kernels
from pjit.ir.opdef import operators
from pjit.ir.types import f32
from pjit.passes.context import Context
from pjit.passes.footprint import footprint
from pjit.passes.manager import run_pipeline
from pjit.passes.pipelines import GRAPH, KERNEL

CASES = [
    pytest.param(cls, s, id=f"{cls.op_name}-{i}")
    for cls in operators()
    if cls.lowering() in ("scalar", "element", "line", "decompose", "tile")
    for i, s in enumerate(cls.samples)
]
GARBAGE = {"f": (7e3, -5e3), "i": (1, 0), "u": (1, 0), "b": (True, False)}


def garbage(a: np.ndarray, choice: int) -> np.ndarray:
    """One of two arrays of the same shape and type that differ everywhere."""
    return np.full_like(a, GARBAGE.get(a.dtype.kind, GARBAGE["f"])[choice])


class Partial:
    """A kernel that runs some of its iterations; where it should not look there is garbage."""

    def __init__(self, kernel: Function) -> None:
        self.native, self.ranges = NativeKernel(kernel, machine()), footprint(kernel)
        rng = np.random.default_rng(1)
        kinds = [(a.type.dtype.numpy, a.type.shape) for a in kernel.args]
        self.arrays = [rng.uniform(0, 2, shape).astype(kind) for kind, shape in kinds]
        self.written = self.ranges[-kernel.attrs["outputs"] :]
        self.count = len(self.ranges[0].first)

    def run(self, lo: int, hi: int, choice: int) -> list[np.ndarray]:
        """The outputs, flat, after some iterations."""
        arrays = []
        for a, r in zip(self.arrays, self.ranges, strict=True):
            first, end = r.over(np.array(lo), np.array(hi))
            b = garbage(a.ravel(), choice)
            b[first:end] = a.ravel()[first:end]
            arrays.append(b)
        n = len(self.written)
        arrays[-n:] = [garbage(a, 0) for a in arrays[-n:]]
        pointers = np.array([a.ctypes.data for a in arrays], np.int64)
        zero = np.zeros(1, np.int64)
        self.native.call(pointers.ctypes.data, zero.ctypes.data, zero.ctypes.data, lo, hi)
        return arrays[-n:]

    def parts(self) -> set[tuple[int, int]]:
        """Some ranges of iterations."""
        n = self.count
        return {(0, 1), (n // 3, n // 3 + max(1, n // 4)), (n - 1, n), (0, n)}


def partials(cls, sample) -> list[Partial]:
    rng = np.random.default_rng(0)
    arrays = [a.make(rng, (sample.dtypes or (f32,))[0]) for a in sample.args]
    module = lower(one_op(cls.op_name, types_of(arrays), sample.attrs), machine())
    return [Partial(k) for k in kernels(module) if all(a.type.shape.count(0) == 0 for a in k.args)]


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.tobytes() == b.tobytes()


@pytest.mark.parametrize(("cls", "sample"), CASES)
def test_iterations_need_and_write_what_their_footprint_says(cls, sample):
    for kernel in partials(cls, sample):
        for lo, hi in kernel.parts():
            first, second = kernel.run(lo, hi, 0), kernel.run(lo, hi, 1)
            for a, b, r in zip(first, second, kernel.written, strict=True):
                assert same(a, b), "it reads what is outside of the footprint"
                outside = np.ones(len(a), bool)
                outside[slice(*r.over(np.array(lo), np.array(hi)))] = False
                assert same(a[outside], garbage(a, 0)[outside]), "it writes outside of it"


@pytest.mark.parametrize(("cls", "sample"), CASES)
def test_the_iterations_that_meet_elements_are_those_that_write_them(cls, sample):
    for kernel in partials(cls, sample):
        whole = kernel.run(0, kernel.count, 0)
        for at, (a, r) in enumerate(zip(whole, kernel.written, strict=True)):
            for first in {0, len(a) // 3, len(a) - 1}:
                end = min(len(a), first + 3)
                lo, hi = (int(x) for x in r.meeting(np.array(first), np.array(end)))
                some = kernel.run(lo, hi, 1)[at]
                assert same(some[first:end], a[first:end])


def test_the_footprint_of_a_window_is_a_few_rows():
    """Of 32 rows, iteration 8 of a convolution of stride 2 reads rows 15 to 17 and writes row 8."""
    weights, x = np.zeros((3, 3, 4), np.float32), np.zeros((1, 32, 32, 4), np.float32)
    geometry = {"strides": (2, 2), "pads": (1,) * 4, "dilations": (1, 1)}
    module = lower(one_op("nn.depthwise", types_of([x, weights]), geometry), machine())
    (kernel,) = kernels(module)
    read, _, written = footprint(kernel)
    at = np.array(8), np.array(9)
    assert read.over(*at) == (15 * 32 * 4, 18 * 32 * 4)
    assert written.over(*at) == (8 * 16 * 4, 9 * 16 * 4)


def test_a_tile_at_the_end_reads_the_rows_that_it_is_moved_back_to():
    """What it computes of them is dropped, but their memory has to be there."""
    shapes = (97, 8), (1, 8, 16)
    arrays = [np.zeros(shape, np.float32) for shape in shapes]
    module = lower(one_op("matmul_packed", types_of(arrays), {"cols": 16}), machine())
    kernel = kernels(module)[-1]
    (tile,) = (op for op in kernel.walk() if isinstance(op, Contraction))
    assert 97 % tile.mr
    read = footprint(kernel)[0]
    assert read.first[-1] <= (97 - tile.mr) * 8
    assert read.end[-1] == 97 * 8


@pytest.mark.parametrize(("taps", "stride", "rows"), [(1, 1, 1), (3, 1, 3), (3, 2, 3)])
def test_tiles_of_two_images_touch_the_end_of_one_and_the_start_of_the_other(taps, stride, rows):
    """Images have 81 or 25 positions, so that tiles begin in one and end in the next."""
    pads = (taps // 2,) * 4
    geometry = {"strides": (stride,) * 2, "pads": pads, "dilations": (1, 1)}
    types = [tensor(f32, 4, 16, 9, 9), tensor(f32, 16, 16, taps, taps)]

    def build(b, x):
        return b(ops.Conv, x, b.constant(np.ones(types[1].shape, np.float32)), **geometry)

    module = graph(build, types[:1])
    run_pipeline(module, [*GRAPH, *KERNEL], Context(machine()))
    (found,) = [k for k in kernels(module) if any(isinstance(o, Contraction) for o in k.walk())]
    (tile,) = [o for o in found.walk() if isinstance(o, Contraction)]
    first = footprint(found)[0]
    positions = -(-product(tile.rows) // len(first.first)) * stride * stride
    most = (positions + 9 * (rows + 2 * stride)) * 16
    assert (first.end - first.first).max() <= most, "of 4 * 81 * 16 elements"
