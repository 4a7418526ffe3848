"""Builds IR from an FX graph of ATen operators."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch.fx import GraphModule
from torch.fx import Node as FxNode

from pjit.frontends.torch import (  # noqa: F401  (each registers its operators)
    ops_index,
    ops_math,
    ops_nn,
    ops_reduce,
    ops_shape,
)
from pjit.frontends.torch.dims import dim_of
from pjit.frontends.torch.registry import Node, Refused, handler_of
from pjit.frontends.torch.source import location
from pjit.frontends.torch.tensors import element_type, to_numpy
from pjit.ir import ops as _operators  # noqa: F401  (registers the operators)
from pjit.ir.builder import Builder
from pjit.ir.core import Block, Function, Loc, Module, Value
from pjit.ir.errors import ConstraintError
from pjit.ir.expr import Dim, linear, symbols
from pjit.ir.types import TensorType, bool_, f64


@dataclass(frozen=True)
class Unsupported:
    """An operation that cannot be converted: its node, why, and what would help."""

    node: FxNode
    reason: str
    help: str = ""


@dataclass(frozen=True)
class Input:
    """An input of the program.

    Attributes:
        at: Which input of the graph it is made of.
        kind: ``tensor``; ``float``, a number as a tensor; ``size``, a number as the length of a
            vector, so that the program knows it as a size.
        order: The order of the tensor's dimensions in memory, if it is not row-major.
    """

    at: int
    kind: str = "tensor"
    order: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Output:
    """An output of the graph.

    Attributes:
        kind: ``result`` of the program, ``input`` of the graph, ``size``, or a ``constant``.
        at: Which result or input.
        order: The order of the dimensions in memory that torch has for it, if not row-major.
        value: The size or the constant.
    """

    kind: str
    at: int = -1
    order: tuple[int, ...] | None = None
    value: Any = None


@dataclass
class Imported:
    """A graph as IR, and how its inputs and outputs are those of a program.

    Attributes:
        module: The module; a function ``main`` of level ``graph``.
        unsupported: The operations that cannot be converted; the module is of no use then.
    """

    module: Module = field(default_factory=Module)
    inputs: list[Input] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    unsupported: list[Unsupported] = field(default_factory=list)


class Failed(Exception):
    """A value that the importer does not have."""


def import_graph(
    graph: GraphModule,
    frozen: Mapping[int, torch.Tensor] | None = None,
    names: Mapping[int, str] | None = None,
    plain: bool = False,
) -> Imported:
    """Imports a graph whose nodes know their results (``node.meta["val"]``).

    Args:
        graph: The graph, of ATen operators without side effects.
        frozen: The inputs that are constants, by position.
        names: The names of inputs, by position; else those of the nodes.
        plain: Whether the program has all inputs and outputs of the graph, and row-major.
    """
    return _Importer(graph, dict(frozen or {}), dict(names or {}), plain).run()


class _Importer:
    def __init__(
        self,
        graph: GraphModule,
        frozen: dict[int, torch.Tensor],
        names: dict[int, str],
        plain: bool,
    ) -> None:
        self.graph, self.frozen, self.names, self.plain = graph, frozen, names, plain
        self.found = Imported()
        self.body = Block()
        self.b = Builder(self.body, Loc("torch graph"), self.found.module)
        self.env: dict[FxNode, Any] = {}

    def run(self) -> Imported:
        placeholders = [n for n in self.graph.graph.nodes if n.op == "placeholder"]
        for at, node in enumerate(placeholders):
            self.attempt(node, partial(self.placeholder, at, node))
        self.sizes(placeholders)
        for node in self.graph.graph.nodes:
            if node.op == "output":
                self.attempt(node, partial(self.output, node, placeholders))
            elif node.op != "placeholder":
                self.attempt(node, partial(self.node, node))
        return self.found

    def attempt(self, node: FxNode, build: Callable[[], Any]) -> None:
        """Imports a node; notes why it cannot be, and makes up its results then."""
        try:
            with self.b.at(location(node)):
                self.env[node] = build()
            return
        except Refused as e:
            problem = Unsupported(node, e.reason, e.help)
        except ConstraintError as e:
            parts = [e.what, e.expected and f"expected {e.expected}", e.got and f"got {e.got}"]
            problem = Unsupported(node, "; ".join(str(p) for p in parts if p), e.remedy or "")
        except TypeError as e:
            problem = Unsupported(node, str(e))
        self.found.unsupported.append(problem)
        self.env[node] = self.made_up(node.meta.get("val"))

    def made_up(self, meta: Any) -> Any:
        """What stands for the results of a node that is not converted, to look at the others."""
        if isinstance(meta, tuple | list):
            return [self.made_up(m) for m in meta]
        try:
            if isinstance(meta, torch.Tensor):
                return self.body.add_arg(_type(meta))
            if isinstance(meta, torch.SymInt):
                return dim_of(meta)
        except (Refused, TypeError):
            pass
        return Failed

    # Inputs

    def placeholder(self, at: int, node: FxNode) -> Any:
        meta = node.meta.get("val")
        name = self.names.get(at) or node.name
        if isinstance(meta, torch.SymInt):
            return dim_of(meta)
        if isinstance(meta, torch.SymFloat):
            self.found.inputs.append(Input(at, "float"))
            return self.body.add_arg(TensorType(f64, ()), _identifier(name))
        if not isinstance(meta, torch.Tensor):
            return meta
        type = _type(meta)
        if at in self.frozen:
            return self.b.constant(to_numpy(self.frozen[at]), name=name)
        if not node.users and not self.plain:
            return Failed
        order = None if self.plain else order_in_memory(meta)
        self.found.inputs.append(Input(at, "tensor", order))
        if order is None:
            return self.body.add_arg(type, _identifier(name))
        shape = tuple(type.shape[d] for d in order)
        arg = self.body.add_arg(type.with_shape(shape), _identifier(name))
        return self.b("transpose", arg, perm=tuple(order.index(d) for d in range(len(order))))

    def sizes(self, placeholders: Sequence[FxNode]) -> None:
        """Adds inputs for the sizes that no dimension of a tensor tells."""
        known: set[str] = set()
        dims = [d for a in self.body.args for d in a.shape if not isinstance(d, int)]
        while new := {s for d in dims for s in symbols(d) - known if _solvable(d, s, known)}:
            known |= new
        for at, node in enumerate(placeholders):
            size = self.env[node]
            if isinstance(node.meta.get("val"), torch.SymInt) and not isinstance(size, int):
                if size is not Failed and not symbols(size) <= known:
                    known |= symbols(size)
                    self.found.inputs.append(Input(at, "size"))
                    self.body.add_arg(TensorType(bool_, (size,)), f"size_{_identifier(node.name)}")

    # Operations

    def node(self, node: FxNode) -> Any:
        meta = node.meta.get("val")
        if node.op == "get_attr":
            value = _attribute(self.graph, str(node.target))
            if not isinstance(value, torch.Tensor):
                raise Refused(f"{type(value).__name__} {node.target!r} is not supported")
            _type(value)
            return self.b.constant(to_numpy(value), name=str(node.target))
        if node.op != "call_function":
            raise Refused(f"{node.op} of {node.target!r} is not supported")
        if node.target is operator.getitem:
            return self.value(node.args[0])[node.args[1]]
        if isinstance(meta, torch.SymInt):
            return dim_of(meta)
        if isinstance(meta, int | float | bool) and not isinstance(meta, torch.Tensor):
            return meta
        if isinstance(meta, torch.SymFloat):
            return self.number(node)
        handler = handler_of(node.target)
        if handler is None:
            raise Refused("pjit has no such operator")
        arguments = _bound(node)
        for m in _flat(meta):
            if isinstance(m, torch.Tensor):
                _type(m)
        n = Node(node, arguments, self.b, dim_of)
        result = handler(n, *(self.value(a) for a in arguments))
        results = [result] if isinstance(result, Value) else list(result)
        metas = meta if isinstance(meta, tuple | list) else [meta]
        for value, m in zip(results, metas, strict=False):
            if value is not None and isinstance(m, torch.Tensor):
                _require_type(value, _type(m))
        return result

    def number(self, node: FxNode) -> Value:
        """A float that depends on sizes."""
        build = _NUMBERS.get(node.target)
        if build is None:
            raise Refused("numbers that depend on sizes are not computed so")
        n = Node(node, node.args, self.b, dim_of)
        xs = [n.operand(self.value(a), f64) for a in node.args]
        return build(self.b, *xs)

    def value(self, x: Any) -> Any:
        """An argument of a node: nodes become what they stand for."""
        if isinstance(x, FxNode):
            value = self.env[x]
            if value is Failed or value is None:
                raise Refused(f"it uses {x.name!r}, which is not converted")
            return value
        if isinstance(x, list | tuple):
            return [self.value(v) for v in x]
        return x

    # Outputs

    def output(self, node: FxNode, placeholders: Sequence[FxNode]) -> None:
        results: list[Value] = []
        known: dict[FxNode, Output] = {}
        for x in _flat(node.args[0]):
            if not isinstance(x, FxNode):
                self.found.outputs.append(Output("constant", value=x))
                continue
            if x.op == "placeholder" and _is_tensor(x) and not self.plain:
                self.found.outputs.append(Output("input", placeholders.index(x)))
                continue
            if x in known and not self.plain:
                self.found.outputs.append(known[x])
                continue
            value = self.value(x)
            if not isinstance(value, Value):
                self.found.outputs.append(Output("size", value=value))
                continue
            order = None if self.plain else order_in_memory(x.meta["val"])
            if order is not None:
                value = self.b("transpose", value, perm=order)
            known[x] = Output("result", len(results), order)
            self.found.outputs.append(known[x])
            results.append(value)
        self.b("return", *results)
        attrs = {
            "inputs": tuple(a.name for a in self.body.args),
            "outputs": tuple(f"output{i}" if len(results) > 1 else "output"
                             for i in range(len(results))),
            "format": "torch",
        }  # fmt: skip
        self.found.module.add(Function("main", self.body, "graph", attrs))


_NUMBERS: dict[Any, Callable[..., Value]] = {
    torch.sym_float: lambda b, x: x,
    operator.truediv: lambda b, x, y: b("div", x, y),
    operator.mul: lambda b, x, y: b("mul", x, y),
    operator.add: lambda b, x, y: b("add", x, y),
    operator.sub: lambda b, x, y: b("sub", x, y),
    operator.pow: lambda b, x, y: b("pow", x, y),
    operator.neg: lambda b, x: b("neg", x),
    math.sqrt: lambda b, x: b("sqrt", x),
    torch._sym_sqrt: lambda b, x: b("sqrt", x),  # type: ignore[attr-defined]
}


def _type(meta: torch.Tensor) -> TensorType:
    """The type of a tensor; raises Refused or TypeError."""
    if meta.device.type != "cpu":
        raise Refused(f"a tensor is on {meta.device}", "move the model and its inputs to the CPU")
    if meta.layout is not torch.strided or meta.is_quantized:
        raise Refused(f"a tensor has the layout {meta.layout}", "use dense tensors")
    return TensorType(element_type(meta.dtype), tuple(dim_of(d) for d in meta.shape))


def _require_type(value: Value, wanted: TensorType) -> None:
    """Refuses a result that is not of the type that torch gives it."""
    got = value.tensor
    fits = got.dtype == wanted.dtype and got.rank == wanted.rank
    for d, w in zip(got.shape, wanted.shape, strict=False):
        fits = fits and (d == w or not (isinstance(d, int) and isinstance(w, int)))
    if not fits:
        raise Refused(f"the result would be {got}, where torch has {wanted}")


def order_in_memory(meta: torch.Tensor) -> tuple[int, ...] | None:
    """The dimensions from the one that varies slowest in memory; None for row-major tensors, and
    for those that are not dense.
    """
    sizes = [_hint(d) for d in meta.shape]
    strides = [_hint(d) for d in meta.stride()]
    if None in sizes or None in strides or 0 in sizes:
        return None
    real = [d for d, size in enumerate(sizes) if size != 1]
    order = sorted(real, key=lambda d: -(strides[d] or 0))
    step = 1
    for d in reversed(order):
        if strides[d] != step:
            return None
        step *= sizes[d] or 0
    if order == real:
        return None
    slots = iter(order)
    return tuple(next(slots) if d in real else d for d in range(len(sizes)))


def _hint(size: Any) -> int | None:
    """A size for the inputs that the graph was made with."""
    if isinstance(size, int):
        return size
    try:
        return int(size.node.hint)
    except Exception:
        return None


def _solvable(d: Dim, symbol: str, known: set[str]) -> bool:
    return symbols(d) - {symbol} <= known and linear(d, symbol) is not None


def _bound(node: FxNode) -> list[Any]:
    """The arguments of a node in the order of the operator's schema."""
    bound = []
    for i, a in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if i < len(node.args):
            bound.append(node.args[i])
        else:
            bound.append(node.kwargs.get(a.name, a.default_value))
    return bound


def _is_tensor(node: FxNode) -> bool:
    return isinstance(node.meta.get("val"), torch.Tensor)


def _flat(x: Any) -> list[Any]:
    return [v for part in x for v in _flat(part)] if isinstance(x, list | tuple) else [x]


def _attribute(graph: GraphModule, target: str) -> Any:
    value: Any = graph
    for part in target.split("."):
        value = getattr(value, part)
    return value


def _identifier(name: str) -> str:
    return "".join(c if c.isalnum() or c == "_" else "_" for c in name)


__all__ = ["Imported", "Input", "Output", "Unsupported", "import_graph", "order_in_memory"]
