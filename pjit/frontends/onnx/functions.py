"""Functions: operators that the model, or the ONNX standard, defines by other operators."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import onnx

from pjit.frontends.onnx.reader import Refused
from pjit.frontends.onnx.registry import Node, Tensor

if TYPE_CHECKING:
    from pjit.frontends.onnx.importer import Scope

MAX_NODES = 50_000  # that functions may expand to


class Functions:
    """Finds and expands functions. A model may not define them in terms of themselves."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.local = {(_plain(f.domain), f.name, f.overload): f for f in model.functions}
        self.standard: dict[tuple[str, int], onnx.FunctionProto | None] = {}
        self.active: list[int] = []  # the functions that are being expanded
        self.expanded = 0

    def find(
        self, domain: str, name: str, overload: str, version: int
    ) -> onnx.FunctionProto | None:
        """The function that defines an operator: of the model, or of the standard."""
        found = self.local.get((domain, name, overload))
        if found is not None or domain:
            return found
        if (name, version) not in self.standard:
            try:
                schema = onnx.defs.get_schema(name, version, domain)
                found = schema.has_function  # type: ignore[attr-defined]
                body = schema.function_body if found else None
            except onnx.defs.SchemaError:
                body = None
            self.standard[name, version] = body
        return self.standard[name, version]

    def call(self, node: Node, function: onnx.FunctionProto) -> list[Tensor]:
        """Imports the body of a function in the place of the node that calls it; raises Refused."""
        from pjit.frontends.onnx.importer import Scope

        if id(function) in self.active:
            raise Refused(f"the function {function.name!r} uses itself")
        self.expanded += len(function.node)
        if self.expanded > MAX_NODES:
            raise Refused(f"the functions of the model expand to more than {MAX_NODES} nodes")
        scope: Scope = Scope()
        for i, name in enumerate(function.input):
            if node.has(i):
                scope.names[name] = node.input(i)
        importer = node.importer
        given = dict(node.attributes)
        for default in (*function.attribute_proto, *_standard_defaults(node, function)):
            given.setdefault(default.name, default)
        body = [_bound(n, given, set(scope.names), function) for n in function.node]
        opsets = {_plain(o.domain): o.version for o in function.opset_import}
        before = len(importer.problems)
        self.active.append(id(function))
        try:
            importer.nodes(body, scope, node.b, opsets, node.b.loc)
        finally:
            self.active.pop()
        inner = importer.problems[before:]
        if inner:
            del importer.problems[before:]
            first = inner[0]
            raise Refused(f"in its function body, {first.operator}: {first.reason}", first.help)
        results = []
        for name in function.output:
            tensor = scope[name] if name in scope else None
            if tensor is None:
                raise Refused(f"its function does not compute {name!r}")
            results.append(tensor)
        return results


def _standard_defaults(node: Node, function: onnx.FunctionProto) -> Iterator[onnx.AttributeProto]:
    """Defaults of the attributes of a standard operator, which its function body leaves out."""
    if _plain(function.domain) or not function.attribute:
        return
    schema = onnx.defs.get_schema(node.op, node.version, "")
    for name in function.attribute:
        default = schema.attributes[name].default_value
        if default.type != onnx.AttributeProto.UNDEFINED:
            yield default


def _plain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _bound(
    proto: onnx.NodeProto,
    given: dict[str, onnx.AttributeProto],
    known: set[str],
    function: onnx.FunctionProto,
) -> onnx.NodeProto:
    """A node of a body with the caller's attributes; absent optional inputs become empty."""
    out = onnx.NodeProto()
    out.CopyFrom(proto)
    absent = set(function.input) - known
    for i, name in enumerate(out.input):
        if name in absent:
            out.input[i] = ""
    del out.attribute[:]
    for a in proto.attribute:
        bound = onnx.AttributeProto()
        bound.CopyFrom(a)
        if a.ref_attr_name:
            if a.ref_attr_name not in given:
                continue
            bound.CopyFrom(given[a.ref_attr_name])
            bound.name = a.name
        for graph in [bound.g] if bound.HasField("g") else []:
            for i, inner in enumerate(graph.node):
                graph.node[i].CopyFrom(_bound(inner, given, known, function))
        out.attribute.append(bound)
    return out
