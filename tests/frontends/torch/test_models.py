"""Whole models against eager torch."""

from __future__ import annotations

import importlib.util
import sys

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402
from torch_graphs import assert_equal, check, compiled  # noqa: E402

from pjit.frontends.torch import graphs  # noqa: E402


def shaken(model: nn.Module) -> nn.Module:
    """A model for inference whose normalisations do something."""
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.running_mean, -0.2, 0.2)
            nn.init.uniform_(m.running_var, 0.5, 1.5)
    return model.eval()


class Residual(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.down = nn.Sequential(
            nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
        )

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + self.down(x))


def test_mlp():
    check(
        nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 8)).eval(),
        torch.randn(4, 16),
    )


def test_resnet():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
        Residual(8, 8, 1), Residual(8, 16, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 10),
    )  # fmt: skip
    graph = check(shaken(model), torch.randn(2, 3, 32, 32), tolerance=1e-4)
    assert "nn.batch_norm" in graph.ir()


def test_inverted_residual():
    model = nn.Sequential(
        nn.Conv2d(8, 24, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU6(),
        nn.Conv2d(24, 24, 3, 2, 1, groups=24, bias=False), nn.BatchNorm2d(24), nn.Hardswish(),
        nn.Conv2d(24, 8, 1, bias=False), nn.BatchNorm2d(8),
    )  # fmt: skip
    check(shaken(model), torch.randn(1, 8, 14, 14), tolerance=1e-4)


class Transformer(nn.Module):
    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width))
        self.heads = heads

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(b, n, c))
        return x + self.feed(self.norm2(x))


def test_transformer_with_any_length():
    model = Transformer().eval()
    run = compiled(model)
    for shape in ((2, 5, 32), (2, 6, 32), (3, 17, 32), (4, 9, 32)):
        x = torch.randn(shape)
        assert_equal(run(x), model(x).detach(), tolerance=1e-4)
    assert sum(len(g.programs) for g in graphs()) <= 3


@pytest.mark.parametrize("norm_first", [True, False])
def test_encoder_layer(norm_first):
    """Torch makes one operator of it, which is taken apart again."""
    layer = nn.TransformerEncoderLayer(
        32, 4, 64, batch_first=True, activation="gelu", norm_first=norm_first
    )
    check(layer.eval(), torch.randn(2, 5, 32), tolerance=1e-4)


def test_encoder_with_a_padding_mask():
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
    mask = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])

    def f(x, mask):
        return layer(x, src_key_padding_mask=mask)[:, :3] * 1

    check(f, torch.randn(2, 5, 32), mask, tolerance=1e-4)


@pytest.mark.parametrize("need_weights", [True, False])
def test_multihead_attention(need_weights):
    attention = nn.MultiheadAttention(32, 4, batch_first=True).eval()
    x = torch.randn(2, 5, 32)
    check(lambda x: attention(x, x, x, need_weights=need_weights), x, tolerance=1e-4)
    check(lambda x: attention(x, x[:, :3], x[:, :3], need_weights=need_weights), x, tolerance=1e-4)


def test_batch_norm_that_learns_its_statistics():
    model, other = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
    run, x = compiled(model), torch.randn(8, 4)
    for _ in range(3):
        with torch.no_grad():
            assert_equal(run(x), other(x), tolerance=1e-4)
    assert_equal(model.running_var, other.running_var, tolerance=1e-4)
    assert model.num_batches_tracked == 3


def test_recurrent_cells():
    cell = nn.LSTMCell(4, 6)

    def f(xs):
        h = c = torch.zeros(2, 6)
        for x in xs:
            h, c = cell(x, (h, c))
        return h, c

    check(f, torch.randn(3, 2, 4))


def test_lstm_is_left_to_torch():
    """Dynamo breaks the graph at recurrent layers; what is around them is compiled."""
    table, lstm, head = nn.Embedding(20, 8), nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 3)

    def f(i):
        y, _ = lstm(table(i) * 2)
        return head(y[:, -1]).softmax(-1)

    run = torch.compile(f, backend="pjit")
    i = torch.randint(0, 20, (2, 5))
    with torch.no_grad():
        assert_equal(run(i), f(i))


def test_control_flow_that_depends_on_data():
    linear = nn.Linear(4, 4)

    def f(x):
        y = linear(x)
        if y.sum() > 0:
            return torch.relu(y) + 1
        for _ in range(int(y.argmin()) % 3):
            y = y.sigmoid() - 0.5
        return y * 2

    run = torch.compile(f, backend="pjit")
    with torch.no_grad():
        for _ in range(6):
            x = torch.randn(2, 4)
            assert_equal(run(x), f(x))
    assert len(graphs()) >= 2


def test_a_module_that_is_compiled_in_place():
    model = Transformer().eval()
    x = torch.randn(2, 5, 32)
    with torch.no_grad():
        wanted = model(x)
        model.compile(backend="pjit")
        assert_equal(model(x), wanted, tolerance=1e-4)


def torchvision_models():
    """The models of torchvision, also of one that was built for another torch."""
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    try:
        return importlib.import_module("torchvision.models")
    except RuntimeError:  # its own operators are missing, which these models do not use
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor a, Tensor b, float c) -> Tensor")
        for name in [m for m in sys.modules if m.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        return importlib.import_module("torchvision.models")


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_torchvision(name):
    model = shaken(getattr(torchvision_models(), name)())
    check(model, torch.randn(1, 3, 64, 64), tolerance=1e-3)


def test_bert_and_gpt():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    if importlib.util.find_spec("torchvision") is not None:
        torchvision_models()  # transformers imports it, if it is there
    small = {"vocab_size": 50, "bos_token_id": 0, "eos_token_id": 0}
    bert = transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=32,
    )  # fmt: skip
    gpt = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=32, **small)
    tokens = torch.randint(0, 50, (2, 7))
    encoder = transformers.BertModel(bert).eval()
    check(lambda i: encoder(i).last_hidden_state, tokens, tolerance=1e-4)
    decoder = transformers.GPT2LMHeadModel(gpt).eval()
    check(lambda i: decoder(i, use_cache=False).logits, tokens, tolerance=1e-4)
