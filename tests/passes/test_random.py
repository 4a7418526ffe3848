"""Random graphs: every pass keeps the IR valid and the interpreter's results."""

from typing import Any

import numpy as np
import pytest
from graphs import graph
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rewriting import check_pass

from pjit.ir import ConstraintError, ops, tensor
from pjit.ir.target import Machine
from pjit.ir.types import f32
from pjit.passes.batch import reach, split
from pjit.passes.context import Context
from pjit.passes.manager import run_pipeline
from pjit.passes.pipelines import GRAPH, PASSES
from pjit.passes.snapshot import clone, structure

UNARY = (ops.Neg, ops.Relu, ops.Sigmoid, ops.Abs)
BINARY = (ops.Add, ops.Mul, ops.Sub, ops.Max)
SHAPES = ((2, 4, 6, 5), (1, 3, 5, 5), (3, 8), (2, 3, 4), (4, 4, 4))


def factors(draw: Any, n: int) -> list[int]:
    out = []
    while n > 1:
        f = draw(st.sampled_from([d for d in range(2, n + 1) if n % d == 0]))
        out.append(f)
        n //= f
    return out or [1]


class Drawn:
    """Draws operations onto a builder; an operation that does not fit its operands is left out."""

    def __init__(self, draw: Any, b: Any, values: list) -> None:
        self.draw, self.b, self.values = draw, b, values

    def pick(self, choices: Any) -> Any:
        return self.draw(st.sampled_from(list(choices)))

    def array(self, *shape: int) -> Any:
        seed = self.draw(st.integers(0, 3))
        values = np.random.default_rng(seed).uniform(-1, 1, shape)
        return self.b.constant(values.astype(np.float32), name="c")

    def step(self) -> None:
        x = self.pick(self.values)
        kinds = (
            "unary binary constant transpose reshape slice pad concat reduce broadcast matmul conv "
            "pool softmax"
        )
        try:
            y = getattr(self, self.pick(kinds.split()))(x)
        except ConstraintError:
            return
        if y is not None and y.tensor.size <= 2000:
            self.values.append(y)

    def unary(self, x):
        return self.b(self.pick(UNARY), x)

    def binary(self, x):
        fitting = [v for v in self.values if v.shape == x.shape]
        return self.b(self.pick(BINARY), x, self.pick(fitting))

    def constant(self, x):
        shape = [self.pick((1, d)) for d in x.shape]
        c = self.array(*shape[self.draw(st.integers(0, len(shape))) :])
        return self.b(self.pick((*BINARY, ops.Div)), x, c)

    def transpose(self, x):
        perm = self.draw(st.permutations(range(len(x.shape))))
        return self.b(ops.Transpose, x, perm=tuple(perm))

    def reshape(self, x):
        shape = self.draw(st.permutations([*factors(self.draw, x.tensor.size), 1]))
        dims = [d for i, d in enumerate(shape) if d > 1 or i % 2]
        return self.b(ops.Reshape, x, shape=tuple(dims[:1] + dims[1:5])) if len(dims) < 6 else None

    def slice(self, x):
        starts, sizes, steps = [], [], []
        for d in x.shape:
            lo, hi = sorted(self.draw(st.lists(st.integers(0, d - 1), min_size=2, max_size=2)))
            back = self.draw(st.booleans()) and hi > lo
            starts.append(hi if back else lo)
            sizes.append(hi - lo + 1)
            steps.append(-1 if back else 1)
        return self.b(ops.Slice, x, starts=starts, sizes=sizes, steps=steps)

    def pad(self, x):
        ends = [self.draw(st.integers(0, 1)) for _ in range(2 * len(x.shape))]
        n = len(x.shape)
        return self.b(ops.Pad, x, low=ends[:n], high=ends[n:], value=self.pick((0.0, 1.5)))

    def concat(self, x):
        axis = self.draw(st.integers(0, len(x.shape) - 1))
        fitting = [
            v
            for v in self.values
            if len(v.shape) == len(x.shape)
            and all(
                a == c or i == axis for i, (a, c) in enumerate(zip(v.shape, x.shape, strict=True))
            )
        ]
        return self.b(ops.Concat, x, self.pick(fitting), axis=axis)

    def reduce(self, x):
        axes = sorted(self.draw(st.sets(st.integers(0, len(x.shape) - 1), min_size=1, max_size=2)))
        cls = self.pick((ops.ReduceSum, ops.ReduceMax, ops.ReduceMean))
        keep = self.draw(st.booleans())
        return (
            self.b(cls, x, axes=axes, keepdims=keep) if keep or len(axes) < len(x.shape) else None
        )

    def broadcast(self, x):
        extra = self.draw(st.integers(0, 1))
        shape = [2] * extra + [self.pick((1, 3)) if d == 1 else d for d in x.shape]
        return self.b(ops.Broadcast, x, shape=shape) if len(shape) < 6 else None

    def matmul(self, x):
        return self.b(ops.Matmul, x, self.array(x.shape[-1], self.pick((1, 3, 8))))

    def windows(self, x, k):
        n = len(x.shape) - 2
        pads = tuple(self.draw(st.integers(0, 1)) if k > 1 else 0 for _ in range(2 * n))
        return {"strides": (self.pick((1, 2)),) * n, "pads": pads, "dilations": (1,) * n}

    def conv(self, x):
        if not 3 <= len(x.shape) <= 5:
            return None
        n, c, k = len(x.shape) - 2, x.shape[1], self.pick((1, 3))
        groups = self.pick([g for g in (1, 2, c) if c % g == 0])
        w = self.array(groups * self.pick((1, 2)), c // groups, *[k] * n)
        return self.b(ops.Conv, x, w, groups=groups, **self.windows(x, k))

    def pool(self, x):
        if not 3 <= len(x.shape) <= 5:
            return None
        n = len(x.shape) - 2
        cls = self.pick((ops.MaxPool, ops.AvgPool))
        return self.b(cls, x, kernel=(2,) * n, **self.windows(x, 2))

    def softmax(self, x):
        return self.b(ops.Softmax, x, axis=self.draw(st.integers(0, len(x.shape) - 1)))


@st.composite
def modules(draw):
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=2))

    def build(b, *args):
        drawn = Drawn(draw, b, [v for v in args if v.shape])
        for _ in range(draw(st.integers(1, 9))):
            drawn.step()
        values = drawn.values
        results = [v for v in values if not v.uses] or values[-1:]
        return results[-3:]

    return graph(build, [tensor(f32, *s) for s in shapes])


SETTINGS = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
GRAPH_PASSES = sorted({p.name for p in GRAPH})


@SETTINGS
@given(modules())
def test_pipeline(module):
    context = Context(Machine("test", vector_bits=128), verify=True)

    before = clone(module)

    def run(m, _):
        run_pipeline(m, GRAPH, context)
        return structure(m) != structure(before)

    check_pass(module, run)
    assert [v.type for v in module.main.results] == [v.type for v in before.main.results]


@pytest.mark.parametrize("name", GRAPH_PASSES)
@settings(parent=SETTINGS, max_examples=25)
@given(modules())
def test_one_pass(name, module):
    step = PASSES[name]()
    check_pass(module, step.run)
    if name != "layout":  # which sinks what it has pulled, and pulls it again
        assert not step.run(clone(module), Context()), "a second run changes something"


@settings(parent=SETTINGS, max_examples=100)
@given(modules(), st.data())
def test_a_batch_may_be_split_anywhere(module, data):
    size = module.main.args[0].shape[0]
    region = reach(module, size)
    if size == 1 or not region.ops:
        return
    count = data.draw(st.integers(1, len(region.ops)))
    part = data.draw(st.sampled_from([n for n in range(1, size) if size % n == 0]))

    def run(m, context):
        split(m, region.until(count), part)
        return True

    check_pass(module, run)
    (loop,) = [op for op in module.main.body.ops if isinstance(op, ops.Scan)]
    assert loop.sliced[0].shape[:2] == (size // part, part)
    assert len(loop.body.ops) == count + 1
    run_pipeline(module, GRAPH, Context(Machine("test", vector_bits=128), verify=True))
