"""Functions: operators that the model, or the ONNX standard, defines by means of other operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from pjit.frontends.onnx.reader import Refused
from pjit.frontends.onnx.registry import Node, Tensor

if TYPE_CHECKING:
    from pjit.frontends.onnx.importer import Scope

MAX_DEPTH = 32


class Functions:
    """Finds and expands functions. A model may not define them in terms of themselves."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.local = {(_plain(f.domain), f.name, f.overload): f for f in model.functions}
        self.depth = 0

    def find(self, domain: str, name: str, overload: str, version: int) -> onnx.FunctionProto | None:
        """The function that defines an operator: of the model, or of the standard when its body is fixed."""
        found = self.local.get((domain, name, overload))
        if found is not None or domain:
            return found
        try:
            schema = onnx.defs.get_schema(name, version, domain)
        except onnx.defs.SchemaError:
            return None
        return schema.function_body if schema.has_function else None

    def call(self, node: Node, function: onnx.FunctionProto) -> list[Tensor]:
        """Imports the body of a function in the place of the node that calls it; raises Refused."""
        from pjit.frontends.onnx.importer import Scope

        if self.depth >= MAX_DEPTH:
            raise Refused("functions call each other without end", "a function must not use itself")
        scope: Scope = Scope()
        for i, name in enumerate(function.input):
            if node.has(i):
                scope.names[name] = node.input(i)
        importer = node.importer
        given = dict(node.attributes)
        for default in function.attribute_proto:
            given.setdefault(default.name, default)
        body = [_bound(n, given, set(scope.names), function) for n in function.node]
        opsets = {_plain(o.domain): o.version for o in function.opset_import}
        before = len(importer.problems)
        self.depth += 1
        try:
            importer.nodes(body, scope, node.b, opsets, node.b.loc)
        finally:
            self.depth -= 1
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


def _plain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _bound(
    proto: onnx.NodeProto,
    given: dict[str, onnx.AttributeProto],
    known: set[str],
    function: onnx.FunctionProto,
) -> onnx.NodeProto:
    """A node of a function body with the caller's attributes; absent optional inputs become empty."""
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
