"""``pjit.from_torch`` and the exchange of arrays."""

from __future__ import annotations

import numpy as np
import pytest

import pjit
from pjit.errors import InputError, ModelError

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch import nn  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)).eval()


def close(got, wanted) -> None:
    np.testing.assert_allclose(np.asarray(got), wanted.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_a_module():
    model, x = small(), torch.randn(2, 4)
    program = pjit.from_torch(model, (x,), threads=1)
    assert str(program) == "<pjit.Model 'Sequential': input: float32[2,4] -> output: float32[2,3]>"
    close(program(x), model(x))
    close(program.run({"input": x.numpy()})["output"], model(x))
    assert "const @0.weight" in program.ir()
    assert "1 thread" in str(program.report())


def test_sizes_that_may_change():
    model = small()
    batch = torch.export.Dim("batch")
    program = pjit.from_torch(model, (torch.randn(2, 4),), dynamic_shapes=({0: batch},))
    for n in (1, 2, 7):
        x = torch.randn(n, 4)
        close(program(x), model(x))
    with pytest.raises(InputError, match="dimension 1 has to be 4"):
        program(torch.randn(2, 5))


def test_names_of_inputs_and_outputs():
    class Net(nn.Module):
        def forward(self, x, *, mask):
            return {"logits": x + mask, "rest": (x.view(-1), x)}

    x = torch.randn(2, 3)
    program = pjit.from_torch(Net(), (x,), {"mask": torch.ones(3)})
    assert [s.name for s in program.inputs] == ["x", "mask"]
    assert [s.name for s in program.outputs] == ["logits", "rest.0", "rest.1"]
    results = program.run({"mask": torch.ones(3), "x": x})
    close(results["logits"], x + 1)
    close(results["rest.1"], x)


def test_the_program_keeps_its_weights():
    table = nn.Embedding(100, 4)
    program = pjit.from_torch(table, (torch.tensor([1]),))
    wanted = table(torch.tensor([1])).detach().clone()
    with torch.no_grad():
        table.weight.zero_()
    close(program(torch.tensor([1])), wanted)


def test_an_exported_program():
    model, x = small(), torch.randn(2, 4)
    close(pjit.from_torch(torch.export.export(model, (x,)))(x), model(x))


def test_a_recurrent_layer():
    lstm, x = nn.LSTM(4, 6, batch_first=True, bidirectional=True).eval(), torch.randn(2, 5, 4)
    with pytest.warns(UserWarning, match="assigned during export"):
        program = pjit.from_torch(lstm, (x,))
    y, (h, _) = lstm(x)
    results = program(x)
    close(results[0], y)
    close(results[1], h)


def test_every_problem_is_listed():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(3))

        def forward(self, x):
            self.count.add_(1)
            return torch.fft.fft(x + self.count).real

    with pytest.raises(ModelError) as caught:
        pjit.from_torch(Net(), (torch.randn(2, 3),))
    text = str(caught.value)
    assert "the module writes to 'count' [a program has no state: return the new value" in text
    assert "aten._fft_r2c.default): pjit has no such operator" in text
    assert "test_export.py" in text


# DLPack, and torch's tensors as arguments


@pjit.compile
def product(x, y):
    return np.maximum(x @ y, 0)


def test_tensors_as_arguments_of_a_compiled_function():
    x, y = torch.randn(3, 4), torch.randn(4, 5)
    close(product(x, y), (x @ y).relu())
    close(product(x.numpy(), y), (x @ y).relu())


def test_an_argument_is_not_copied():
    program = pjit.from_torch(small(), (torch.randn(2, 4),), exec_mode="sync")
    x = torch.randn(2, 4)
    assert program._program._converted(0, x).__array_interface__["data"][0] == x.data_ptr()


def test_an_argument_whose_gradient_may_be_asked_for():
    program = pjit.from_torch(small(), (torch.randn(2, 4),))
    x = torch.randn(2, 4, requires_grad=True)
    with pytest.raises(InputError, match="requires its gradient"):
        program(x)
    with torch.no_grad():
        assert np.array_equal(program(x), program(x.detach()))


def test_bfloat16_arguments():
    model = nn.Linear(4, 3).to(torch.bfloat16)
    x = torch.randn(2, 4, dtype=torch.bfloat16)
    y = np.asarray(pjit.from_torch(model, (x,))(x)).astype("f4")
    np.testing.assert_allclose(y, model(x).detach().float(), rtol=2e-2, atol=2e-2)


def test_a_result_as_a_tensor_without_a_copy():
    result = product(np.ones((3, 4), "f4"), np.ones((4, 5), "f4"))
    tensor = torch.from_dlpack(result)
    assert tensor.data_ptr() == np.asarray(result).__array_interface__["data"][0]
    assert (tensor == 4).all()


def test_objects_that_know_dlpack_only():
    class Only:
        def __init__(self, array):
            self.array = array

        def __dlpack__(self, **options):
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

    program = pjit.from_torch(small(), (torch.randn(2, 4),))
    x = np.ones((2, 4), "f4")
    assert np.array_equal(program(Only(x)), program(x))
