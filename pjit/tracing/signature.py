"""The signature of a call: what a trace depends on.

A call's arguments are a pytree. Arrays are traced, and the signature has their dtype and shape;
every other leaf is static, and the signature has its type and value (its identity for objects that
compare by identity).
"""

from __future__ import annotations

import inspect
import re
import weakref
from collections.abc import Callable, Hashable, Iterable
from types import NoneType
from typing import Any

import numpy as np
import optree

from pjit.array import Array, as_numpy
from pjit.errors import InputError
from pjit.ir.types import TensorType
from pjit.ir.types import dtype as element_type

ArrayKey = tuple[np.dtype, tuple[int, ...]]
_BY_VALUE = (bool, int, str, bytes, NoneType)
_IDENTIFIER = re.compile(r"[^A-Za-z0-9_.]+")


class _ById:
    """A key for an object that compares by identity; it does not keep the object alive."""

    __slots__ = ("hash", "ref")

    def __init__(self, x: Any) -> None:
        self.ref, self.hash = weakref.ref(x), id(x)

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        mine = self.ref()
        return isinstance(other, _ById) and mine is not None and mine is other.ref()


def alive(key: tuple) -> bool:
    """Whether a call can have the signature again: no object that it is about is gone."""
    return all(k[2].ref() is not None for k in key[1] if len(k) == 3 and isinstance(k[2], _ById))


def static_key(x: Any) -> tuple:
    """The key of a static leaf; raises TypeError when it has none."""
    kind = type(x)
    if kind in _BY_VALUE:
        return ("static", kind, x)
    if kind in (float, complex):
        return ("static", kind, repr(x))  # -0.0 is not 0.0, nan is nan
    if kind.__hash__ in (object.__hash__, None) and not isinstance(x, _CONTAINERS):
        try:
            return ("static", kind, _ById(x))
        except TypeError:  # no weak references to it
            pass
    hash(x)
    return ("static", kind, x)


_CONTAINERS = (list, dict, set, bytearray, np.ndarray)


def is_array(x: Any) -> bool:
    """Whether a leaf is traced."""
    if isinstance(x, np.ndarray | np.generic | Array):
        return True
    return hasattr(x, "__array__") and not isinstance(x, type)  # np.float32 is a setting


class Parameters:
    """Names the leaves of calls of a function, and says which parameters are static.

    Args:
        function: The function.
        static: Names of parameters whose leaves are static whatever they are.

    Raises:
        InputError: The function has no parameter of a name in ``static``.
    """

    def __init__(self, function: Callable, static: Iterable[str]) -> None:
        self.static = frozenset((static,) if isinstance(static, str) else static)
        self.positional: list[str] = []
        self.rest = "args"
        parameters = inspect.signature(function).parameters.values()
        for p in parameters:
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD):
                self.positional.append(p.name)
            elif p.kind is p.VAR_POSITIONAL:
                self.rest = p.name
        known = {p.name for p in parameters}
        unknown = self.static - known
        if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters):
            raise InputError(
                f"static_argnames names no parameter: {', '.join(sorted(unknown))}",
                expected=f"some of {', '.join(known)}",
            )
        self._masks: dict[Any, tuple[bool, ...]] = {}

    def names(self, spec: optree.PyTreeSpec) -> list[str]:
        """A name for every leaf: ``x``, ``params.w``, ``args.0``."""
        return [".".join(self._path(p)) for p in optree.treespec_paths(spec)]

    def name(self, spec: optree.PyTreeSpec, at: int) -> str:
        """The name of one leaf."""
        return self.names(spec)[at]

    def _path(self, path: tuple) -> list[str]:
        place, first, *rest = path
        if place == 1:
            parts = [first, *rest]
        elif first < len(self.positional):
            parts = [self.positional[first], *rest]
        else:
            parts = [self.rest, first - len(self.positional), *rest]
        return [_IDENTIFIER.sub("_", str(p)) or "_" for p in parts]

    def mask(self, spec: optree.PyTreeSpec) -> tuple[bool, ...]:
        """Which leaves belong to static parameters."""
        found = self._masks.get(spec)
        if found is None:
            if len(self._masks) > 256:
                self._masks.clear()
            found = tuple(self._path(p)[0] in self.static for p in optree.treespec_paths(spec))
            self._masks[spec] = found
        return found


def leaf_key(x: Any, name: Callable[[], str], static: bool = False) -> tuple[Any, tuple]:
    """A leaf as it is passed on, and its part of the signature.

    Raises:
        InputError: The leaf is neither an array nor hashable, or is static and not hashable.
    """
    kind = type(x)
    if not static:
        if kind is np.ndarray or kind is Array:
            return x, (x.dtype, x.shape)
        if kind in _BY_VALUE:
            return x, ("static", kind, x)
        if is_array(x):
            array = _converted(x, name)
            return array, (array.dtype, array.shape)
    try:
        return x, static_key(x)
    except TypeError:
        because = "static and not" if static else "neither an array nor"
        raise InputError(
            f"the argument {name()} is {because} hashable",
            got=f"{kind.__name__}",
            remedy="pass an array, a pytree of arrays, or a hashable value such as a tuple",
        ) from None


def _converted(x: Any, name: Callable[[], str]) -> np.ndarray:
    if isinstance(x, np.ma.MaskedArray | np.matrix):
        raise InputError(
            f"the argument {name()} is a {type(x).__name__}, which computes unlike an array",
            remedy="pass np.asarray(x)",
        )
    return as_numpy(x)


def tensor_type(key: ArrayKey, name: str) -> TensorType:
    """The type of a traced leaf.

    Raises:
        InputError: pjit has no such element type.
    """
    try:
        return TensorType(element_type(key[0]), key[1])
    except TypeError as e:
        raise InputError(
            f"the argument {name} has a dtype that cannot be traced",
            got=key[0],
            remedy=f"convert it with .astype ({e})",
        ) from None


def describe_leaf(key: Hashable) -> str:
    """A part of the signature as text: ``f32[3,4]``, ``'mean'``."""
    assert isinstance(key, tuple)
    if len(key) == 2:
        return f"{key[0]}{list(key[1])}"
    value = key[2].ref() if isinstance(key[2], _ById) else key[2]
    return str(value) if key[1] in (float, complex) else repr(value)
