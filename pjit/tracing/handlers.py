"""Imports the modules whose functions register themselves for NumPy's."""

from pjit.tracing import (
    calls,
    elementwise,
    indexing,
    mathematics,
    products,
    reductions,
    scans,
    selection,
    shaping,
    sorting,
    statistics,
)

__all__ = [
    "calls",
    "elementwise",
    "indexing",
    "mathematics",
    "products",
    "reductions",
    "scans",
    "selection",
    "shaping",
    "sorting",
    "statistics",
]
