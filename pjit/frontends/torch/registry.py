"""How an ATen operator becomes IR: the node as its handler sees it, and the table of handlers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._prims_common import ELEMENTWISE_TYPE_PROMOTION_KIND, elementwise_dtypes
from torch.fx import Node as FxNode

from pjit.frontends.building import Math
from pjit.frontends.torch.tensors import element_type
from pjit.ir.builder import Builder
from pjit.ir.core import Value
from pjit.ir.expr import Dim, Expr
from pjit.ir.types import DType, f32


class Refused(Exception):
    """An operation cannot be converted.

    Args:
        reason: Why.
        help: What would help.
    """

    def __init__(self, reason: str, help: str = "") -> None:
        super().__init__(reason)
        self.reason, self.help = reason, help


class Node:
    """An operation of the FX graph during its import.

    Attributes:
        fx: The node of the graph.
        arguments: Its arguments in the order of the operator's schema.
        b: The builder, at the location of the user's line.
        op: The name of the operator without its overload: ``add``.
        overload: The name of the overload: ``Tensor``.
    """

    def __init__(
        self, fx: FxNode, arguments: Sequence[Any], b: Builder, dims: Callable[[Any], Dim]
    ) -> None:
        self.fx, self.arguments, self.b, self._dims = fx, arguments, b, dims
        name = str(fx.target).removeprefix("aten.").removeprefix("prims.")
        self.op, _, self.overload = name.partition(".")

    # What torch says about the results

    def _result(self, i: int = 0) -> Any:
        found = self.fx.meta["val"]
        return found[i] if isinstance(found, tuple | list) else found

    @property
    def dtype(self) -> DType:
        """The element type of the first result."""
        return element_type(self._result().dtype)

    @property
    def shape(self) -> tuple[Dim, ...]:
        """The shape of the first result."""
        return self.shape_of()

    def shape_of(self, i: int = 0) -> tuple[Dim, ...]:
        """The shape of a result."""
        return tuple(self._dims(d) for d in self._result(i).shape)

    def used(self, i: int) -> bool:
        """Whether anything uses result ``i`` of several."""
        return any(u.op == "output" or u.args[1] == i for u in self.fx.users)

    # Building

    def math(self, like: Value) -> Math:
        """The builder of operations on the dtype of a value."""
        return Math(self.b, like)

    def cast(self, x: Value, dt: DType) -> Value:
        """A value with another element type."""
        return x if x.dtype == dt else self.b("cast", x, dtype=dt)

    def operand(self, x: Any, dt: DType) -> Value:
        """A tensor, or a number that may depend on sizes, with an element type."""
        if isinstance(x, Value):
            return self.cast(x, dt)
        if isinstance(x, Expr):
            return self.cast(self.b("reshape", self.b("sizes", dims=(x,)), shape=()), dt)
        return self.b.constant(x, dt)

    def wide(self, dt: DType) -> DType:
        """The element type in which torch computes on one: f32 for the 16-bit floats."""
        return f32 if dt.is_float and dt.bits == 16 else dt

    def reshape(self, x: Value, shape: Sequence[Dim]) -> Value:
        """A value with another shape."""
        shape = tuple(shape)
        return x if tuple(x.shape) == shape else self.b("reshape", x, shape=shape)

    def transpose(self, x: Value, perm: Sequence[int]) -> Value:
        """A value with its dimensions permuted."""
        perm = tuple(perm)
        return x if perm == tuple(range(len(perm))) else self.b("transpose", x, perm=perm)

    def broadcast(self, x: Value, shape: Sequence[Dim]) -> Value:
        """A value repeated to a shape."""
        shape = tuple(shape)
        return x if tuple(x.shape) == shape else self.b("broadcast", x, shape=shape)

    def cut(self, x: Value, pieces: dict[int, tuple[Dim, Dim, int]]) -> Value:
        """A slice: ``(start, size, step)`` by axis; the other axes stay whole."""
        if all(p == (0, x.shape[a], 1) for a, p in pieces.items()):
            return x
        rows = [pieces.get(a, (0, d, 1)) for a, d in enumerate(x.shape)]
        starts, sizes, steps = zip(*rows, strict=True)
        return self.b("slice", x, starts=starts, sizes=sizes, steps=steps)

    def common(self, *positions: int) -> DType:
        """The element type to which torch promotes some of the arguments."""
        found = [self._meta(self.arguments[i]) for i in positions]
        kind = ELEMENTWISE_TYPE_PROMOTION_KIND.DEFAULT
        return element_type(elementwise_dtypes(*found, type_promotion_kind=kind)[1])

    @staticmethod
    def _meta(x: Any) -> Any:
        value = x.meta["val"] if isinstance(x, FxNode) else x
        return 1 if isinstance(value, torch.SymInt) else value


def axis(value: int, rank: int) -> int:
    """A non-negative axis."""
    return value % rank if rank else 0


def axes(values: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """Non-negative, sorted axes; all for None and for none."""
    if isinstance(values, int):
        values = (values,)
    found = sorted({axis(v, rank) for v in values}) if values else range(rank)
    return tuple(found) if rank else ()


Result = Value | Sequence[Value | None]
Handler = Callable[..., Result]
HANDLERS: dict[str, Handler] = {}


def aten(*names: str) -> Callable[[Handler], Handler]:
    """Registers the handler of operators: ``add`` for all overloads, ``add.Tensor`` for one.

    A handler gets the node and the arguments in the order of the operator's schema: tensors as
    values, sizes as ints or expressions, absent ones as their defaults.
    """

    def register(handler: Handler) -> Handler:
        for name in names:
            assert name not in HANDLERS, f"two handlers of {name}"
            HANDLERS[name] = handler
        return handler

    return register


def handler_of(target: Any) -> Handler | None:
    """The handler of an operator, if it has one."""
    name = str(target)
    for namespace in ("aten.", "prims."):
        if name.startswith(namespace):
            full = name.removeprefix(namespace)
            return HANDLERS.get(full) or HANDLERS.get(full.partition(".")[0])
    return None


__all__ = ["HANDLERS", "Node", "Refused", "aten", "axes", "axis", "handler_of"]
