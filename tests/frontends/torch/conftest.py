"""These tests need PyTorch; they keep what Dynamo knows from one another."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")


@pytest.fixture(autouse=True)
def _fresh():
    from pjit.frontends.torch import graph

    torch.manual_seed(0)
    torch._dynamo.reset()
    graph._graphs.clear()  # those of other tests live until the next collection of cycles
    yield
    torch._dynamo.reset()
