"""What pjit does not compile: torch runs it, and one message says so."""

from __future__ import annotations

import warnings

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch import nn  # noqa: E402
from torch_graphs import assert_equal  # noqa: E402

from pjit.errors import FallbackWarning  # noqa: E402
from pjit.frontends.torch import graphs  # noqa: E402


def messages(function, *calls, **options) -> list[str]:
    """Runs calls compiled and eager; returns what was said."""
    run = torch.compile(function, backend="pjit", **options)
    with torch.no_grad(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for args in calls:
            assert_equal(run(*args), function(*args), tolerance=1e-4)
    return [str(w.message) for w in caught if issubclass(w.category, FallbackWarning)]


def test_an_operator_that_pjit_does_not_have():
    def f(x):
        y = torch.relu(x) * 2
        z = torch.fft.rfft(y).abs()
        return torch.exp(-z).sum(-1)

    said = messages(f, (torch.randn(3, 8),), (torch.randn(3, 8),))
    assert len(said) == 1
    assert said[0].startswith("2 operations of a graph run in eager torch, pjit runs the others:")
    assert "aten._fft_r2c.default at " in said[0]
    assert "test_fallback.py" in said[0]
    assert "z = torch.fft.rfft(y).abs()" in said[0]
    assert "pjit has no such operator" in said[0]
    assert len(graphs()) == 2  # what comes before, and what comes after


def test_parts_with_sizes_that_change():
    def f(x):
        y = x * 2
        return torch.linalg.inv(y @ y.mT + torch.eye(x.shape[-2])) @ y + x.shape[0]

    calls = [(torch.randn(n, 3, 4),) for n in (2, 3, 5, 7)]
    assert 1 <= len(messages(f, *calls)) <= 2


def test_random_numbers_are_those_of_torch():
    def f(x):
        return nn.functional.dropout(x * 2, 0.5, training=True) + 1

    run = torch.compile(f, backend="pjit")
    with torch.no_grad(), pytest.warns(FallbackWarning, match=r"native_dropout|bernoulli|rand"):
        y = run(torch.ones(1000))
    assert set(y.tolist()) == {1.0, 5.0}
    assert 300 < (y == 1).sum() < 700


def test_complex_numbers():
    said = messages(lambda x: (x + 1) * 2, (torch.randn(3, dtype=torch.complex64),))
    assert "the element type complex64 is not supported" in said[0]


def test_integers_divided_by_tensors():
    """Torch refuses a division by 0, which pjit would not notice."""
    said = messages(lambda x, y: (x + 1) // y, (torch.arange(3), torch.tensor([1, 2, 3])))
    assert "integers are divided by a tensor" in said[0]
    run = torch.compile(lambda x, y: (x + 1) // y, backend="pjit")
    with pytest.raises(RuntimeError, match="ZeroDivision"), pytest.warns(FallbackWarning):
        run(torch.arange(3), torch.zeros(3, dtype=torch.int64))


def test_a_size_that_is_not_positive():
    def f(x, n):
        return torch.full((2,), n) + x

    run = torch.compile(f, backend="pjit", dynamic=True)
    with torch.no_grad():
        assert_equal(run(torch.ones(2), 5), f(torch.ones(2), 5))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FallbackWarning)
            assert_equal(run(torch.ones(2), -5), f(torch.ones(2), -5))


def test_gradients_are_left_to_torch():
    model, x = nn.Linear(3, 3), torch.randn(2, 3)
    run = torch.compile(model, backend="pjit")
    with pytest.warns(FallbackWarning) as caught:
        y = run(x)
    y.sum().backward()
    run(x)
    assert len(caught) == 1
    assert "its gradient may be asked for" in str(caught[0].message)
    assert "torch.no_grad()" in str(caught[0].message)
    assert model.weight.grad is not None
    assert not graphs()
    with torch.no_grad():  # the mode is a guard: this compiles
        assert_equal(run(x), model(x))
    assert len(graphs()) == 1


def test_values_that_torch_asserts():
    run = torch.compile(lambda i: nn.functional.one_hot(i, 4) * 2, backend="pjit")
    i = torch.tensor([0, 3])
    with warnings.catch_warnings():
        warnings.simplefilter("error", FallbackWarning)
        assert_equal(run(i), nn.functional.one_hot(i, 4) * 2)
    with pytest.raises(RuntimeError, match="smaller than"):
        run(torch.tensor([4]))
