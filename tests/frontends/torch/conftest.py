"""Each test starts with what Dynamo knows at first, and sees its own graphs only."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _fresh():
    import torch

    from pjit.frontends.torch import graph

    torch.manual_seed(0)
    torch._dynamo.reset()
    graph._graphs.clear()  # those of other tests live until the next collection of cycles
    yield
    torch._dynamo.reset()
