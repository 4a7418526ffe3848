"""Checks of the backend of ``torch.compile`` against eager torch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from pjit.errors import FallbackWarning
from pjit.frontends.torch import Graph, graphs

TOLERANCES = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}


def assert_equal(got: Any, wanted: Any, name: str = "", tolerance: float | None = None) -> None:
    """The same structure, types, shapes, strides and, within rounding, values."""
    found, spec = pytree.tree_flatten(got)
    expected, wanted_spec = pytree.tree_flatten(wanted)
    assert spec == wanted_spec, name
    for g, w in zip(found, expected, strict=True):
        if not isinstance(w, torch.Tensor):
            assert type(g) is type(w), name
            assert g == w, name
            continue
        limit = TOLERANCES.get(w.dtype, 0) if tolerance is None else tolerance
        torch.testing.assert_close(
            g, w, rtol=limit, atol=limit, equal_nan=True, msg=lambda text: f"{name}: {text}"
        )


def compiled(function: Callable, **options: Any) -> Callable:
    """A function compiled by pjit; it fails where a part of it would not be."""
    inner = torch.compile(function, backend="pjit", fullgraph=True, **options)

    def call(*args: Any, **kwargs: Any) -> Any:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("error", FallbackWarning)
            return inner(*args, **kwargs)

    return call


def check(function: Callable, *args: Any, tolerance: float | None = None, **kwargs: Any) -> Graph:
    """Compares compiled with eager, twice; returns the graph."""
    before = set(graphs())
    run = compiled(function)
    with torch.no_grad():
        wanted = function(*args, **kwargs)
    for _ in range(2):
        assert_equal(run(*args, **kwargs), wanted, tolerance=tolerance)
    (graph,) = set(graphs()) - before
    return graph
