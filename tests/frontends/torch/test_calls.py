"""What a call of a compiled graph means: weights, memory, sizes, types of arguments and results."""

from __future__ import annotations

import copy
import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch import nn  # noqa: E402
from torch_graphs import assert_equal, check, compiled  # noqa: E402

from pjit.errors import ExecutionError, SettingError  # noqa: E402
from pjit.frontends.torch import graphs  # noqa: E402
from pjit.frontends.torch.graph import MAX_CHANGES, MAX_VARIANTS  # noqa: E402


class Block(nn.Module):
    def __init__(self, size: int = 4) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size)

    def forward(self, x):
        return torch.relu(self.linear(x))


# Weights


def test_a_weight_that_is_written_to_gives_new_answers():
    model, x = Block(), torch.randn(2, 4)
    run = compiled(model)
    for _ in range(MAX_CHANGES + 3):
        assert_equal(run(x), model(x).detach())
        with torch.no_grad():
            model.linear.weight.add_(0.5)
    graph = graphs()[-1]
    assert len(graph.programs) == 1
    assert "linear_weight" in graph.ir().splitlines()[0]  # it has become an input
    assert "const @linear.bias" in graph.ir()


def change_data(model):
    model.linear.weight.data = torch.randn(4, 4)


def load(model):
    model.load_state_dict({k: torch.randn_like(v) for k, v in model.state_dict().items()})


def assign(model):
    state = {k: torch.randn_like(v) for k, v in model.state_dict().items()}
    model.load_state_dict(state, assign=True)


def replace(model):
    model.linear.weight = nn.Parameter(torch.randn(4, 4))


def train(model):
    model(torch.randn(3, 4)).sum().backward()
    torch.optim.SGD(model.parameters(), 0.1).step()


@pytest.mark.parametrize("change", [change_data, load, assign, replace, train])
def test_other_weights_give_new_answers(change):
    model, x = Block(), torch.randn(2, 4)
    run = compiled(model)
    first = run(x)
    change(model)
    second = run(x)
    assert not torch.equal(first, second)
    assert_equal(second, model(x).detach())


def test_weights_are_constants_on_the_memory_of_torch():
    table = nn.Embedding(1000, 8)
    run = compiled(lambda i: table(i) * 2, options={"cache": False})
    run(torch.tensor([1]))
    (program,) = graphs()[-1].programs
    held = [a.__array_interface__["data"][0] for a in program.constants.values()]
    assert table.weight.data_ptr() in held


def test_weights_can_be_inputs():
    model, x = Block(), torch.randn(2, 4)
    run = compiled(model, options={"freeze": False})
    assert_equal(run(x), model(x).detach())
    model.linear.weight.data.fill_(0.25)  # torch does not count this write
    assert_equal(run(x), model(x).detach())
    assert "const @linear" not in graphs()[-1].ir()


def test_layers_share_a_graph_and_keep_their_weights():
    layers = [Block() for _ in range(MAX_VARIANTS + 2)]
    x = torch.randn(2, 4)
    for layer in layers:
        layer.compile(backend="pjit")
    with torch.no_grad():
        for _ in range(2):
            for layer in layers:
                assert_equal(layer(x), layer.forward(x))
    (graph,) = graphs()
    assert len(graph.programs) == MAX_VARIANTS + 1


def test_weights_that_are_gone_are_given_back():
    model = Block()
    run = compiled(model)
    run(torch.randn(2, 4))
    weight = weakref.ref(model.linear.weight)
    torch._dynamo.reset()
    del run, model
    gc.collect()
    assert weight() is None


def test_a_buffer_that_the_model_writes_to():
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(3))
            self.linear = nn.Linear(3, 3)

        def forward(self, x):
            self.count.add_(1)
            return self.linear(x) + self.count, self.count

    model = Counter()
    other = copy.deepcopy(model)
    run = compiled(model)
    for _ in range(4):
        with torch.no_grad():
            wanted = other(torch.ones(2, 3))
        got = run(torch.ones(2, 3))
        assert_equal(got, wanted)
        assert got[1] is model.count
    assert sum(len(g.programs) for g in graphs()) == 1


def test_inference_mode():
    with torch.inference_mode():
        model, x = Block(), torch.randn(2, 4)
        run = compiled(model)
        for _ in range(2):
            assert_equal(run(x), model(x))
            model.linear.weight.add_(1)


# Memory of arguments and results


def test_results_can_be_written_to():
    f = compiled(lambda x: (x * 2, x.clone(), x.clone(), x * 2))
    x = torch.randn(3, 4)
    a, b, c, d = f(x)
    for y in (a, b):
        y.zero_()
    assert_equal((c, d), (x, x * 2))
    assert_equal(f(x)[0], x * 2)


def test_views_among_the_results_share_memory():
    def f(x):
        y = x * 2
        return y, y.view(-1), y[0], y.t()

    results = compiled(f)(torch.ones(3, 4))
    results[0].fill_(5)
    assert all((r == 5).all() for r in results)
    assert [r.stride() for r in results] == [(4, 1), (1,), (1,), (1, 4)]


def test_a_result_twice():
    def f(x):
        y = x + 1
        return y, y

    a, b = compiled(f)(torch.ones(3))
    assert a is b


def test_results_that_are_arguments_and_views_of_them():
    x = torch.randn(3, 4)
    same, view, y = compiled(lambda x: (x, x.t(), x + 1))(x)
    assert same is x
    assert view.data_ptr() == x.data_ptr()
    assert_equal(y, x + 1)


def test_an_argument_that_is_written_to():
    def f(x):
        x.mul_(2)
        x[0] = 7
        return x + 1

    a, b = torch.ones(3, 4), torch.ones(3, 4)
    assert_equal(compiled(f)(a), f(b))
    assert_equal(a, b)


LAYOUTS = {
    "transposed": lambda: torch.randn(5, 4).t(),
    "strided": lambda: torch.randn(4, 6)[:, ::2],
    "expanded": lambda: torch.randn(1, 4).expand(3, 4),
    "offset": lambda: torch.randn(9)[1:].view(2, 4),
    "channels last": lambda: torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "permuted": lambda: torch.randn(2, 3, 4).permute(2, 0, 1),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name):
    x = LAYOUTS[name]()
    y = compiled(lambda x: x * 2 + 1)(x)
    assert_equal(y, x * 2 + 1)
    assert y.stride() == (x * 2 + 1).stride()


def test_channels_last_stays_so():
    model = nn.Conv2d(3, 8, 3, padding=1).to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)
    y = compiled(model)(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert_equal(y, model(x).detach())


# Sizes and numbers


def test_a_batch_that_changes_compiles_few_programs():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    run = compiled(model)
    for n in (1, 2, 3, 5, 8, 13, 64):
        x = torch.randn(n, 3, 9, 9)
        assert_equal(run(x), model(x).detach())
    assert sum(len(g.programs) for g in graphs()) <= 3


def test_a_size_that_is_marked_dynamic():
    x = torch.randn(3, 6)
    torch._dynamo.mark_dynamic(x, 0)
    run = compiled(lambda x: torch.cat([x, x[1:]]).reshape(-1, 2) * x.shape[0])
    assert_equal(run(x), torch.cat([x, x[1:]]).reshape(-1, 2) * 3)
    for n in (4, 7, 20):
        x = torch.randn(n, 6)
        assert_equal(run(x), torch.cat([x, x[1:]]).reshape(-1, 2) * n)
    (graph,) = graphs()
    assert len(graph.programs) == 1


def test_sizes_in_the_results():
    def f(x):
        half = x.shape[1] // 2
        return x[:, :half] / x.shape[0] ** 0.5, half, x.shape, x.numel()

    run = compiled(f, dynamic=True)
    for n, m in ((3, 4), (5, 9), (6, 6)):
        x = torch.randn(n, m)
        assert_equal(run(x), f(x))


def test_numbers_as_arguments():
    def f(x, n, scale, flag):
        return (x.repeat(n, 1) * scale if flag else x), n, scale, None, "text"

    run = compiled(f)
    for n in (2, 3, 5):
        for scale in (0.5, 1.5, -2.0):
            assert_equal(
                run(torch.ones(2, 3), n, scale, n != 3), f(torch.ones(2, 3), n, scale, n != 3)
            )


def test_a_number_that_is_no_size_of_a_tensor():
    def f(x, n):
        return torch.arange(n) + x

    run = compiled(f, dynamic=True)
    for n in (3, 4, 9):
        assert_equal(run(torch.ones(()), n), f(torch.ones(()), n))


def test_structures():
    def f(batch):
        return {"sum": batch["a"] + batch["b"][0], "rest": (batch["b"][1] * 2, [batch["a"]])}

    batch = {"a": torch.ones(2), "b": (torch.ones(2), torch.arange(3))}
    assert_equal(compiled(f)(batch), f(batch))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_element_types(dtype):
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 4)).to(dtype)
    check(model, torch.randn(3, 8, dtype=dtype), tolerance=None if dtype.itemsize == 8 else 2e-2)


def test_autocast():
    model = Block(8)

    def f(x):
        with torch.autocast("cpu", torch.bfloat16):
            return model(x)

    check(f, torch.randn(3, 8), tolerance=2e-2)


def test_an_index_that_is_out_of_range():
    table = nn.Embedding(10, 4)
    run = compiled(table)
    for i in (-1, 10):
        with pytest.raises(ExecutionError, match="out of range"):
            run(torch.tensor([i]))


def test_threads_call_at_once():
    model, x = Block(16), torch.randn(5, 16)
    run = torch.compile(model, backend="pjit")
    wanted = model(x).detach()

    def work(_: int) -> bool:
        with torch.no_grad():
            return all(torch.allclose(run(x), wanted, atol=1e-5) for _ in range(50))

    assert work(0)
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


# Options and looking at graphs


def test_options(tmp_path):
    run = compiled(Block(), options={"threads": 1, "dump": str(tmp_path), "verify": True})
    run(torch.randn(2, 4))
    graph = graphs()[-1]
    assert "1 thread" in str(graph.report())
    assert list(tmp_path.glob(f"torch-{graph.number}/*.pir"))
    assert "matmul" in graph.ir()
    assert "test_calls.py" in graph.ir()


@pytest.mark.parametrize(
    ("options", "text"),
    [({"thread": 1}, "no option thread"), ({"threads": 0}, "number of threads")],
)
def test_wrong_options(options, text):
    with pytest.raises(SettingError, match=text):
        torch._dynamo.lookup_backend("pjit")(None, [], options=options)
