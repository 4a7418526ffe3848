"""Imports the modules whose functions register themselves for NumPy's."""

from pjit.tracing import (
    arrangement,
    calls,
    curves,
    elementwise,
    indexing,
    mathematics,
    places,
    products,
    reductions,
    scans,
    selection,
    shaping,
    sorting,
    statistics,
)

__all__ = [
    "arrangement",
    "calls",
    "curves",
    "elementwise",
    "indexing",
    "mathematics",
    "places",
    "products",
    "reductions",
    "scans",
    "selection",
    "shaping",
    "sorting",
    "statistics",
]
