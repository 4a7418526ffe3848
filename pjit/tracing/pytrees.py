"""Pytrees of arguments and results: optree's containers, and dataclasses."""

from __future__ import annotations

import dataclasses
from typing import Any

import optree

NAMESPACE = "pjit"
_known: set[type] = set()


def flatten(tree: Any) -> tuple[list[Any], optree.PyTreeSpec]:
    """The leaves of a tree and its structure; dataclasses are containers of their fields."""
    leaves, spec = optree.tree_flatten(tree, none_is_leaf=False, namespace=NAMESPACE)
    new = {type(x) for x in leaves if hasattr(type(x), "__dataclass_fields__")}
    if not new:
        return leaves, spec
    for cls in new:
        _register(cls)
    return flatten(tree)


def _register(cls: type) -> None:
    names = tuple(f.name for f in dataclasses.fields(cls))

    def split(x: Any) -> tuple:
        kept = tuple(n for n in names if hasattr(x, n))
        return tuple(getattr(x, n) for n in kept), kept, kept

    def join(kept: Any, values: Any) -> Any:
        x: Any = object.__new__(cls)
        for n, v in zip(kept, values, strict=True):
            object.__setattr__(x, n, v)
        return x

    optree.register_pytree_node(cls, split, join, namespace=NAMESPACE)


def orders(tree: Any) -> tuple:
    """The orders of the keys of the dicts in a tree, which its structure does not tell."""
    if isinstance(tree, dict):
        return (tuple(tree), *(orders(x) for x in tree.values()))
    if isinstance(tree, list | tuple):
        return tuple(orders(x) for x in tree)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        names = (f.name for f in dataclasses.fields(tree))
        return tuple(orders(getattr(tree, n, None)) for n in names)
    return ()


def unflatten(spec: optree.PyTreeSpec, leaves: Any) -> Any:
    """The tree of a structure and its leaves."""
    return optree.tree_unflatten(spec, leaves)
