"""Builds IR from a checked ONNX model."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx

from pjit.errors import InputError, ModelError, Problem
from pjit.frontends.onnx import (  # noqa: F401  (each registers its operators)
    ops_control,
    ops_einsum,
    ops_index,
    ops_loop,
    ops_math,
    ops_nn,
    ops_quant,
    ops_recurrent,
    ops_reduce,
    ops_resize,
    ops_shape,
)
from pjit.frontends.onnx.exact import Unknown
from pjit.frontends.onnx.functions import Functions
from pjit.frontends.onnx.graph import names_of, ordered
from pjit.frontends.onnx.known import Known
from pjit.frontends.onnx.reader import Refused, element_type, load_tensor, read_model
from pjit.frontends.onnx.registry import (
    HANDLERS,
    Node,
    Poisoned,
    Result,
    Tensor,
    location,
    node_name,
)
from pjit.frontends.onnx.shapes import EVALUATORS, evaluate
from pjit.ir import ops as _operators  # noqa: F401  (registers the operators)
from pjit.ir.builder import Builder
from pjit.ir.core import Block, Function, Loc, Module, Value
from pjit.ir.errors import ConstraintError
from pjit.ir.expr import Dim, at_least, sym
from pjit.ir.opdef import REGISTRY, OpDef
from pjit.ir.types import TensorType, i64, parse_type

OPSETS = range(1, 26)
MAX_DENSE = 1 << 26  # elements of a sparse tensor that is made dense
MALFORMED = (ValueError, TypeError, IndexError, KeyError, ArithmeticError, AssertionError)


def import_onnx(
    source: str | os.PathLike | bytes, inputs: Mapping[str, str] | None = None
) -> Module:
    """Imports an ONNX model as a module with one graph function, ``main``.

    Args:
        source: The path of the file, or its bytes.
        inputs: Types that replace the declared ones, by input name:
            ``{"x": "f32[1,3,224,224]"}``; names in the place of sizes are symbols.

    Returns:
        The module. The arguments are called as the inputs of the model; the function has the
        attributes ``inputs`` and ``outputs`` (names), ``format``, ``opset`` and ``producer``.

    Raises:
        ModelError: The model cannot be converted; it lists every problem.
        InputError: ``inputs`` names an input that is not there, or has a type that does not fit.
        OSError: The file cannot be read.
    """
    model, folder, name = read_model(source)
    importer = Importer(model, folder)
    module = importer.run(dict(inputs or {}))
    if importer.problems:
        raise ModelError(importer.problems, name)
    return module


class Scope:
    """The names that are visible in a graph: its own and those of the graphs around it."""

    def __init__(self, parent: Scope | None = None) -> None:
        self.parent = parent
        self.names: dict[str, Tensor | None] = {}  # None: its node failed

    def __contains__(self, name: str) -> bool:
        return name in self.names or (self.parent is not None and name in self.parent)

    def __getitem__(self, name: str) -> Tensor | None:
        if name in self.names or self.parent is None:
            return self.names[name]
        return self.parent[name]

    def visible(self) -> set[str]:
        """All names."""
        return set(self.names) | (self.parent.visible() if self.parent else set())


class Importer:
    """Imports one model: collects problems and owns what the nodes share."""

    def __init__(self, model: onnx.ModelProto, folder: Path | None) -> None:
        self.model, self.folder = model, folder
        self.module = Module()
        self.problems: list[Problem] = []
        self.functions = Functions(model)
        self.opsets = {_domain(o.domain): o.version for o in model.opset_import}
        self.symbols: dict[str, str] = {}  # dim_param -> symbol
        self.absent: dict[str, Problem] = {}  # outputs that are a problem when something uses them
        self.parents: dict[Block, Block] = {}  # of a region: the block around it

    # Tensors

    def load(self, tensor: onnx.TensorProto) -> np.ndarray:
        """The array of a tensor; raises Refused."""
        return load_tensor(tensor, self.folder)

    def load_sparse(self, tensor: onnx.SparseTensorProto) -> np.ndarray:
        """A sparse tensor as a dense array; raises Refused."""
        values, indices = self.load(tensor.values), self.load(tensor.indices)
        shape = tuple(tensor.dims)
        if np.prod(shape, dtype=object) > MAX_DENSE:
            raise Refused(
                f"a sparse tensor of the shape {list(shape)} is too large to be made dense"
            )
        out = np.zeros(shape, values.dtype)
        if indices.ndim == 1:
            out.reshape(-1)[indices] = values
        else:
            out[tuple(indices.T)] = values
        return out

    def data(self, tensor: Tensor, b: Builder) -> Value:
        """A tensor as a value; a known one becomes a constant or ``sizes`` in the block."""
        block: Block | None = b.block
        while block is not None:
            if block in tensor.values:
                return tensor.values[block]
            block = self.parents.get(block)
        if tensor.known is None:
            raise Refused(f"the value {tensor.name!r} is not visible in this subgraph")
        value = _materialise(tensor.known, b, tensor.name)
        tensor.values[b.block] = value
        return value

    def symbol(self, name: str) -> Dim:
        """The symbol for a ``dim_param``, one for each name."""
        if name not in self.symbols:
            base = re.sub(r"\W", "_", name, flags=re.ASCII)
            if not re.match(r"[A-Za-z_]", base) or base in ("min", "max"):
                base = f"d_{base}"
            fresh, n, taken = base, 1, set(self.symbols.values())
            while fresh in taken:
                fresh, n = f"{base}_{n}", n + 1
            self.symbols[name] = fresh
        return sym(self.symbols[name])

    # The model

    def run(self, overrides: dict[str, str]) -> Module:
        """Imports the graph; problems are in ``problems``."""
        self._check_opsets()
        graph = self.model.graph
        body, scope = Block(), Scope()
        self.initializers(graph, scope)
        given = [v for v in graph.input if v.name not in scope.names]
        self._check_overrides(overrides, names_of(given), set(scope.names))
        seen: set[str] = set()
        for info in given:
            if info.name in seen:
                self.problem(info.name, "", "two inputs have this name")
                continue
            seen.add(info.name)
            try:
                type = self._input_type(info, overrides.get(info.name))
            except Refused as e:
                self.problem(info.name, "input", e.reason, e.help)
                scope.names[info.name] = None
                continue
            scope.names[info.name] = Tensor.of(body.add_arg(type, info.name), info.name)
        b = Builder(body, Loc(f"onnx graph {graph.name!r}".replace("\n", " ")), self.module)
        self.nodes(graph.node, scope, b, self.opsets)
        results = self.outputs(graph, scope, b)
        outputs = names_of(graph.output)
        if not outputs:
            self.problem(graph.name or "graph", "", "the graph has no outputs")
        attrs = {
            "inputs": tuple(a.name for a in body.args),
            "outputs": tuple(outputs),
            "format": "onnx",
            "opset": self.opsets.get("", 0),
            "producer": f"{self.model.producer_name} {self.model.producer_version}".strip(),
        }
        if not self.problems:
            b("return", *results)
            self.module.add(Function("main", body, "graph", attrs))
        return self.module

    def problem(self, node: str, operator: str, reason: str, help: str = "") -> None:
        """Records a problem."""
        self.problems.append(Problem(node, operator, reason, help))

    def _check_opsets(self) -> None:
        version = self.opsets.get("")
        if version is not None and version not in OPSETS:
            self.problem(
                "opset_import", "", f"operator set {version} is not supported",
                f"pjit reads operator sets {OPSETS[0]} to {OPSETS[-1]}",
            )  # fmt: skip

    def _check_overrides(
        self, overrides: dict[str, str], names: list[str], constants: set[str]
    ) -> None:
        for name in overrides:
            if name not in names:
                what = "is a constant of the model" if name in constants else "is not there"
                raise InputError(
                    f"the input {name!r} {what}", expected=", ".join(names) or "no inputs", got=name
                )

    def _input_type(self, info: onnx.ValueInfoProto, override: str | None) -> TensorType:
        if not info.type.HasField("tensor_type"):
            kind = info.type.WhichOneof("value")
            raise Refused(f"the input is no tensor but a {(kind or 'thing of unknown type')}")
        declared = info.type.tensor_type
        dt = element_type(declared.elem_type)
        if override is not None:
            try:
                type = parse_type(override)
                if isinstance(type, TensorType) and any(at_least(-d, 1) for d in type.shape):
                    raise ValueError("a size is negative")
            except (ValueError, AttributeError, TypeError) as e:
                raise InputError(
                    f"the type of the input {info.name!r} cannot be read: {e}",
                    expected='a type such as "f32[1,3,224,224]"', got=override,
                ) from None  # fmt: skip
            rank = len(declared.shape.dim) if declared.HasField("shape") else None
            if (
                not isinstance(type, TensorType)
                or type.dtype != dt
                or rank not in (None, type.rank)
            ):
                raise InputError(
                    f"the input {info.name!r} cannot have the type {override}",
                    expected=f"{dt} of rank {'any' if rank is None else rank}", got=override,
                )  # fmt: skip
            return type
        if not declared.HasField("shape"):
            raise Refused(
                "the input has no declared shape", f'give inputs={{{info.name!r}: "{dt}[...]"}}'
            )
        dims: list[Dim] = []
        for i, d in enumerate(declared.shape.dim):
            if d.dim_value > 0:
                dims.append(d.dim_value)
            elif d.dim_param.strip() and d.dim_param.strip() not in ("?", "-1", "None"):
                dims.append(self.symbol(d.dim_param))
            else:
                dims.append(self.symbol(f"{info.name}_d{i}"))
        return TensorType(dt, tuple(dims))

    def initializers(self, graph: onnx.GraphProto, scope: Scope) -> None:
        """Adds the constants of a graph to its scope."""
        rows: list[tuple[str, Callable[[], np.ndarray]]] = []
        rows += [(t.name, partial(self.load, t)) for t in graph.initializer]
        rows += [(t.values.name, partial(self.load_sparse, t)) for t in graph.sparse_initializer]
        for name, load in rows:
            if name in scope.names:
                self.problem(name, "initializer", "two initializers have this name")
                continue
            scope.names[name] = None
            try:
                scope.names[name] = Tensor.of(Known.of(load()), name)
            except Refused as e:
                self.problem(name, "initializer", e.reason, e.help)

    def outputs(self, graph: onnx.GraphProto, scope: Scope, b: Builder) -> list[Value]:
        """The values of the outputs of a graph."""
        values = []
        for name in names_of(graph.output):
            if name not in scope:
                self.problem(name, "output", "no node computes this output")
                continue
            self._require_present([name])
            tensor = scope[name]
            if tensor is not None:
                with b.at(Loc.node("onnx", name, "output")):
                    values.append(self.data(tensor, b))
        return values

    def nodes(
        self,
        nodes: Sequence[onnx.NodeProto],
        scope: Scope,
        b: Builder,
        opsets: Mapping[str, int],
        loc: Loc | None = None,
    ) -> None:
        """Imports nodes; the outputs of one that fails are marked, and its followers skipped."""
        done = ordered(nodes, scope.visible(), self.problems)
        for proto in done:
            self._node(proto, scope, b, opsets, loc or location(proto))
        for proto in nodes:
            for name in proto.output:
                if name and name not in scope.names:
                    scope.names[name] = None

    def _node(
        self, proto: onnx.NodeProto, scope: Scope, b: Builder, opsets: Mapping[str, int], loc: Loc
    ) -> None:
        self._require_present(proto.input)
        inputs = [scope[n] if n and n in scope else None for n in proto.input]
        broken = any(n and x is None for n, x in zip(proto.input, inputs, strict=True))
        results: Sequence[Tensor | None] = [None] * len(proto.output)
        try:
            version = self._version(proto, opsets)
            self._require_support(proto, version)
            if not broken:
                node = Node(self, scope, proto, version, opsets, inputs, b)
                with b.at(loc):
                    results = self.translate(node)
        except Poisoned:
            pass
        except Refused as e:
            self.problem(node_name(proto), self._label(proto), e.reason, e.help)
        except ConstraintError as e:
            reason = e.what if e.expected is None else f"{e.what}; expected {e.expected}"
            reason = reason if e.got is None else f"{reason}; got {e.got}"
            self.problem(node_name(proto), self._label(proto), reason, e.remedy or "")
        except Unknown:
            self.problem(
                node_name(proto), self._label(proto),
                "a size depends on symbolic sizes in a way that is not supported",
                "give the inputs static sizes",
            )  # fmt: skip
        except MALFORMED as e:
            self.problem(
                node_name(proto), self._label(proto), f"malformed node: {type(e).__name__}: {e}"
            )
        for name, result in zip(proto.output, results, strict=False):
            if name and name not in scope.names:
                scope.names[name] = result

    def _require_present(self, names: Iterable[str]) -> None:
        """Records a problem for each name that its node does not compute."""
        self.problems += [self.absent.pop(n) for n in names if n in self.absent]

    def _label(self, proto: onnx.NodeProto) -> str:
        domain = _domain(proto.domain)
        return f"{domain}::{proto.op_type}" if domain else proto.op_type

    def _version(self, proto: onnx.NodeProto, opsets: Mapping[str, int]) -> int:
        domain = _domain(proto.domain)
        if domain in opsets:
            return opsets[domain]
        if domain == "":
            raise Refused("the model imports no operator set for it", "add it to opset_import")
        return 1

    def _require_support(self, proto: onnx.NodeProto, version: int) -> None:
        """Raises Refused when the operator is not supported."""
        domain = _domain(proto.domain)
        if proto.op_type in ONE_TO_ONE and not domain:
            return
        if (domain, proto.op_type) in HANDLERS or (not domain and proto.op_type in EVALUATORS):
            return
        if self.functions.find(domain, proto.op_type, proto.overload, version) is not None:
            return
        where = f"domain {domain!r}" if domain else f"operator set {version}"
        names = [n for d, n in HANDLERS if d == domain] + ([] if domain else list(ONE_TO_ONE))
        near = difflib.get_close_matches(proto.op_type, names, 1, 0.75)
        if near and not onnx.defs.has(proto.op_type, domain):
            help = f"did the exporter mean {near[0]}?"
        elif domain:
            help = "export with standard operators, or define it as a function in the model"
        else:
            help = "export another form of the model, or compute this part outside of it"
        raise Refused(f"the operator is not supported ({where})", help)

    def translate(self, node: Node) -> list[Tensor]:
        """The results of a node.

        Raises:
            Refused: It cannot be converted.
            ConstraintError: Its operands do not fit.
        """
        domain, proto = _domain(node.proto.domain), node.proto
        _check_attributes(node, domain)
        found: Result | Iterable[Result] | None = evaluate(node)
        if found is None and (domain, node.op) in HANDLERS:
            found = HANDLERS[domain, node.op](node)
        if found is None and not domain and node.op in ONE_TO_ONE:
            found = _one_to_one(node, ONE_TO_ONE[node.op])
        if found is None:
            function = self.functions.find(domain, node.op, proto.overload, node.version)
            if function is None:
                raise Refused("the result is computed from data, which is not supported")
            found = self.functions.call(node, function)
        results = [found] if isinstance(found, Tensor | Known | Value) else list(found)
        names = list(proto.output)
        for name in names[len(results) :]:
            reason = f"its output {name!r} is used and not supported"
            self.absent[name] = Problem(node_name(proto), self._label(proto), reason)
        return [Tensor.of(r, names[i] if i < len(names) else "") for i, r in enumerate(results)]


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _materialise(known: Known, b: Builder, name: str) -> Value:
    if not known.is_symbolic:
        return b.constant(known.array, name=name or "c")
    numbers = list(known.array.reshape(-1))
    if known.dtype.is_float:
        tops = b("sizes", dims=[v.num for v in numbers])
        bottoms = [v.den for v in numbers]
        value = b("cast", tops, dtype=known.dtype)
        if any(d != 1 for d in bottoms):
            value = b("div", value, b("cast", b("sizes", dims=bottoms), dtype=known.dtype))
    else:
        value = b("sizes", dims=numbers)
        if known.dtype != i64:
            value = b("cast", value, dtype=known.dtype)
    if known.shape != (len(numbers),):
        value = b("reshape", value, shape=known.shape)
    return value


def _check_attributes(node: Node, domain: str) -> None:
    """Refuses attributes that the operator does not have, which may change what it means."""
    if domain or not node.attributes:
        return
    try:
        schema = onnx.defs.get_schema(node.op, node.version, domain)
    except onnx.defs.SchemaError:
        return
    unknown = [a for a in node.attributes if a not in schema.attributes]
    if unknown:
        raise Refused(
            f"bad attribute {unknown[0]!r}: operator set {node.version} has no such attribute",
            f"known: {', '.join(schema.attributes)}" if schema.attributes else "",
        )


def _one_to_one(node: Node, cls: type[OpDef]) -> Result | Sequence[Result]:
    kinds = {
        onnx.AttributeProto.FLOAT: "float", onnx.AttributeProto.INT: "int",
        onnx.AttributeProto.STRING: "string", onnx.AttributeProto.INTS: "ints",
        onnx.AttributeProto.FLOATS: "floats",
    }  # fmt: skip
    attrs = {}
    for a in node.proto.attribute:
        if a.type not in kinds:
            raise Refused(f"bad attribute {a.name!r}")
        attrs[a.name] = node.attr(a.name, kinds[a.type])
    return node.b(cls, *node.data, **attrs)


ONE_TO_ONE: dict[str, type[OpDef]] = {
    cls.onnx: cls for cls in REGISTRY.values() if issubclass(cls, OpDef) and cls.onnx
}

__all__ = ["ONE_TO_ONE", "OPSETS", "Importer", "Scope", "import_onnx"]
