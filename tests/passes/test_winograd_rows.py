"""Winograd's method along one dimension: where it is chosen, its values, how accurate it is."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from graphs import close, graph
from native import NativeProgram
from rewriting import check_pass, find

from pjit.backends.llvm.target import machine
from pjit.ir import interpret, ops, sym, tensor
from pjit.ir.ops.winograd_rows import Method
from pjit.ir.target import Machine
from pjit.ir.types import f16, f32, f64
from pjit.passes import cost, layout, schedule
from pjit.passes.batch import reach, split
from pjit.passes.context import Context
from pjit.passes.layout import Layout
from pjit.passes.manager import run_pipeline
from pjit.passes.pipelines import GRAPH, KERNEL, LAYOUT
from pjit.passes.snapshot import clone
from pjit.passes.winograd_rows import Rows

WIDE = Machine("wide", vector_bits=512, vector_registers=32)
rng = np.random.default_rng(0)


@dataclass
class Case:
    """A convolution; ``pads`` are those of both ends of each dimension."""

    x: tuple
    out: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    groups: int = 1
    dtype: type = f32
    w: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        n = len(self.kernel)
        self.strides = self.strides or (1,) * n
        self.dilations = self.dilations or (1,) * n
        self.pads = 2 * (self.pads or tuple(k // 2 for k in self.kernel))
        shape = (self.out, self.x[1] // self.groups, *self.kernel)
        self.w = rng.standard_normal(shape).astype(np.float32)

    @property
    def attrs(self) -> dict:
        return {
            "strides": self.strides,
            "dilations": self.dilations,
            "pads": self.pads,
            "groups": self.groups,
        }

    def graph(self):
        def build(b, x):
            y = b(ops.Conv, x, b.constant(self.w, self.dtype.numpy, "w"), **self.attrs)
            return b(ops.Relu, b(ops.Add, y, b.constant([0.5], self.dtype.numpy, "bias")))

        return graph(build, [tensor(self.dtype, *self.x)])

    def chosen(self) -> list[tuple[int, int]]:
        """The dimension and the size of the tiles."""
        m = self.graph()
        Layout().run(m, Context(WIDE))
        return [(op.axis - 1, op.size) for op in find(m, "nn.winograd_row_output")]


@pytest.mark.parametrize(
    ("case", "chosen"),
    [
        (Case((1, 128, 7500), 128, (3,)), (0, 4)),
        (Case((1, 128, 7500), 128, (3,), dilations=(64,), pads=(64,)), (0, 4)),
        (Case((1, 256, 512, 1), 512, (5, 1)), (0, 4)),
        (Case((1, 128, 1, 512), 128, (1, 5)), (1, 4)),
        (Case((1, 128, 2000), 128, (5,), strides=(2,)), (0, 4)),
        (Case((1, 128, 20, 200), 128, (3, 3), dilations=(2, 1)), (1, 4)),
    ],
    ids=["1-D", "dilated", "down", "across", "stride 2", "2-D"],
)
def test_where_it_pays(case: Case, chosen: tuple[int, int]) -> None:
    check_pass(case.graph(), Layout().run, Context(WIDE))
    assert case.chosen() == [chosen]


def test_more_weights_must_save_time(monkeypatch) -> None:
    case = Case((1, 64, 4096), 64, (3,))
    assert case.chosen()
    monkeypatch.setattr(cost, "MEMORY_WORTH", 1e-6)
    assert not case.chosen()


@pytest.mark.parametrize(
    "case",
    [
        Case((1, 128, 500), 128, (1,)),
        Case((1, 128, 500), 128, (2,), strides=(2,)),
        Case((1, 128, 500), 128, (5,), strides=(3,)),
        Case((1, 128, 500), 128, (5,), strides=(2,), dilations=(2,)),
        Case((1, 128, 500), 128, (9,)),
        Case((1, 128, 500), 128, (3,), groups=2),
        Case((1, 128, 500), 128, (3,), dtype=f64),
        Case((1, 128, 500), 128, (3,), dtype=f16),
        Case((1, 4, 500), 4, (3,)),
        Case((1, 128, sym("L")), 128, (3,)),
        Case((1, 128, 40, 40), 128, (3, 3)),
    ],
    ids=[
        *("one tap", "no overlap", "stride 3", "stride and dilation", "many taps", "groups"),
        *("f64", "f16", "few channels", "free length", "both dimensions are better"),
    ],
)
def test_where_it_is_not_used(case: Case) -> None:
    assert not case.chosen()


VALUES = [
    (Case((2, 20, 37), 33, (3,)), 0),
    (Case((1, 20, 50), 16, (3,), dilations=(7,), pads=(7,)), 0),
    (Case((1, 17, 41), 9, (5,), strides=(2,), pads=(1,)), 0),
    (Case((1, 3, 40, 11), 20, (7, 7), strides=(2, 2)), 0),
    (Case((1, 3, 15, 30), 20, (7, 7), strides=(2, 2)), 1),
    (Case((2, 16, 9, 14), 24, (5, 3), strides=(1, 2), pads=(2, 0)), 0),
    (Case((2, 16, 9, 14), 24, (3, 5), dilations=(3, 2), pads=(3, 4)), 1),
    (Case((1, 8, 5, 6, 13), 16, (2, 3, 4), pads=(0, 1, 2)), 2),
    (Case((1, 8, 3), 16, (3,), pads=(0,)), 0),
]


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize(("case", "at"), VALUES)
def test_values(monkeypatch, case: Case, at: int, size: int) -> None:
    method = Method(size, case.kernel[at], case.strides[at], case.dilations[at])
    assert method.valid
    monkeypatch.setattr(layout, "rows_of", lambda *_: Rows(at, method))
    m = case.graph()
    x = rng.standard_normal(case.x).astype(np.float32)
    (want,) = interpret(m, x)
    run_pipeline(m, [*GRAPH, *KERNEL], Context(machine("host")))
    assert any("winograd_row" in o.kernel for o in find(m, "launch"))
    program = NativeProgram(m, machine("host"))
    one, two = (program(x, threads=n)[0] for n in (1, 2))
    assert close(one, want, 1e-4)
    assert one.tobytes() == two.tobytes()


def test_threads_make_all_groups_of_their_rows(monkeypatch) -> None:
    monkeypatch.setattr(schedule, "tile_order", lambda *_: ("rows", 2))
    case = Case((2, 32, 150), 48, (3,))
    x = rng.standard_normal(case.x).astype(np.float32)
    (want,) = interpret(case.graph(), x)
    results = []
    for threads, order in ((1, "rows"), (2, "rows of groups")):
        m, target = case.graph(), machine("host", threads)
        run_pipeline(m, [*GRAPH, *KERNEL], Context(target))
        orders = [dict(o.schedule).get("order") for o in find(m, "launch")]
        assert [o for o in orders if o] == [order]
        (y,) = NativeProgram(m, target)(x, threads=threads)
        assert close(y, want, 1e-4)
        results.append(y.tobytes())
    assert results[0] == results[1]


def test_a_free_batch() -> None:
    m = Case((sym("N"), 128, 200), 128, (3,)).graph()
    kept = clone(m)
    run_pipeline(m, [*GRAPH, *KERNEL], Context(machine("host")))
    assert any("winograd_row" in o.kernel for o in find(m, "launch"))
    program = NativeProgram(m, machine("host"))
    for n in (1, 3):
        x = rng.standard_normal((n, 128, 200)).astype(np.float32)
        (want,) = interpret(kept, x)
        assert close(program(x)[0], want, 1e-4)


@pytest.mark.parametrize("part", [1, 2])
def test_a_batch_in_parts_has_the_same_bits(part: int) -> None:
    case, results = Case((4, 128, 61), 128, (3,)), []
    x = rng.standard_normal(case.x).astype(np.float32)
    for splits in (False, True):
        m = case.graph()
        if splits:
            region = reach(m, 4)
            split(m, region.until(len(region.ops)), part)
            assert find(m, "scan")
        run_pipeline(m, [*LAYOUT, *KERNEL], Context(machine("host")))
        assert any("winograd_row" in o.kernel for o in m.main.walk() if isinstance(o, ops.Launch))
        results.append(NativeProgram(m, machine("host"))(x)[0].tobytes())
    assert results[0] == results[1]


def error(monkeypatch, case: Case, choice: Rows | None, x, want) -> np.ndarray:
    """Root mean square and largest error."""
    monkeypatch.setattr(layout, "rows_of", lambda *_: choice)
    monkeypatch.setattr(layout, "winograd_tile", lambda *_: None)
    m = case.graph()
    run_pipeline(m, [*GRAPH, *KERNEL], Context(machine("host")))
    gap = NativeProgram(m, machine("host"))(x)[0] - want
    return np.array([np.sqrt(np.mean(gap**2)), np.abs(gap).max()])


@pytest.mark.parametrize("channels", [16, 128])
@pytest.mark.parametrize(
    ("taps", "stride"), [(3, 1), (4, 1), (5, 1), (6, 1), (7, 1), (3, 2), (5, 2), (7, 2), (9, 2)]
)
def test_error_is_at_most_four_times_the_direct_one(monkeypatch, channels, taps, stride) -> None:
    case = Case((1, channels, 800), 48, (taps,), strides=(stride,), pads=(0,))
    x = rng.standard_normal(case.x).astype(np.float32)
    exact = ops.Conv.ref(x.astype(np.float64), case.w.astype(np.float64), **case.attrs)
    want = np.maximum(exact + 0.5, 0)
    direct = error(monkeypatch, case, None, x, want)
    methods = [m for size in (2, 3, 4) if (m := Method(size, taps, stride)).valid]
    assert methods
    for method in methods:
        found = error(monkeypatch, case, Rows(0, method), x, want)
        assert (found <= 4 * direct).all(), (method, found, direct)
