"""The backend of ``torch.compile``: from the graph that Dynamo found to what torch calls."""

from __future__ import annotations

import operator
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch._dynamo.backends.common import aot_autograd
from torch._guards import TracingContext
from torch.fx import GraphModule
from torch.fx import Node as FxNode
from torch.fx.passes.split_module import split_module
from torch.utils._python_dispatch import _disable_current_modes

from pjit.config import Settings, settings
from pjit.errors import FallbackWarning, SettingError
from pjit.frontends.torch.decompositions import decompositions
from pjit.frontends.torch.graph import Graph, boxed
from pjit.frontends.torch.importer import Imported, Unsupported, import_graph
from pjit.frontends.torch.source import weight_name, where
from pjit.ir.errors import listing

OPTIONS = ("cache", "cache_dir", "dump", "freeze", "log", "threads", "verify")
SHOWN = 8  # operations that a message lists
_VIEWS = (
    "view", "permute", "t", "transpose", "expand", "select", "slice", "squeeze",
    "unsqueeze", "alias", "detach", "split_with_sizes", "split", "unbind", "diagonal",
)  # fmt: skip


class _NeedsGradient(Exception):
    """A graph was traced for training."""


def pjit(
    graph: GraphModule,
    example_inputs: Sequence[Any],
    *,
    options: Mapping[str, Any] | None = None,
    mode: str | None = None,
) -> Callable[..., Any]:
    """Compiles a graph of Dynamo for inference.

    Args:
        graph: The graph.
        example_inputs: Its inputs, without values.
        options: ``threads``, ``cache``, ``cache_dir``, ``dump``, ``log``, ``verify`` (see
            ``pjit.load``), and ``freeze``: whether weights become constants of the programs;
            otherwise they are inputs.
        mode: The mode of ``torch.compile``; only the default one is known.

    Raises:
        SettingError: An option is unknown or has a value that it cannot have.
    """
    given = dict(options or {})
    if unknown := sorted(set(given) - set(OPTIONS)):
        raise SettingError(
            f"the backend pjit has no option {listing(unknown)}", expected=", ".join(OPTIONS)
        )
    if mode not in (None, "default"):
        raise SettingError(f"the backend pjit has no mode {mode!r}", expected="no mode")
    freeze, cache = bool(given.pop("freeze", True)), bool(given.pop("cache", True))
    chosen = _settings(given)
    names = [weight_name(n) for n in graph.graph.nodes if n.op == "placeholder"]

    def for_inference(aten: GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        weights = _weights(aten, names) if freeze else {}
        with _disable_current_modes():  # the constants of the graph have values
            return boxed(compiled(aten, weights, chosen, cache))

    def for_training(aten: GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        raise _NeedsGradient

    compile = aot_autograd(
        fw_compiler=for_training,
        inference_compiler=for_inference,
        decompositions=decompositions(),
    )
    try:
        return compile(graph, example_inputs)
    except _NeedsGradient:
        _say_gradient(graph)
        return graph.forward


def _settings(given: dict[str, Any]) -> Settings:
    """The settings; by default as many threads as torch has."""
    threads = given.pop("threads", None)
    if threads is None and not os.environ.get("PJIT_NUM_THREADS"):
        threads = torch.get_num_threads()
    return settings(exec_mode="sync", threads=threads, **given)


def _weights(graph: GraphModule, names: Sequence[str]) -> dict[int, str]:
    """The inputs that are parameters or buffers and that the graph does not change, by position."""
    context = TracingContext.try_get()
    found = context.fw_metadata if context is not None else None
    if found is None:
        return {}
    changed = set(found.mutated_inp_runtime_indices)
    placeholders = [n for n in graph.graph.nodes if n.op == "placeholder"]
    same = len(names) == len(placeholders)
    return {
        i: names[i] if same else placeholders[i].name
        for i in found.static_input_indices
        if i not in changed and isinstance(placeholders[i].meta.get("val"), torch.Tensor)
    }


def compiled(
    graph: GraphModule, weights: Mapping[int, str], options: Settings, cache: bool = True
) -> Callable[..., Any]:
    """What runs a graph of ATen operators: a program, or programs and torch in turn."""
    last = {*_output_views(graph), *_assertions(graph)}
    imported = import_graph(graph)
    missing = [u for u in imported.unsupported if u.node not in last]
    if missing:
        _say_unsupported(missing)
    if missing or last:
        return _split(graph, {*last, *(u.node for u in missing)}, weights, options, cache)
    return _part(graph, imported, weights, options, cache)


def _assertions(graph: GraphModule) -> list[FxNode]:
    """Moves assertions about values, which are torch's to make, to the end; returns them."""
    found = [n for n in graph.graph.nodes if str(n.target).startswith("aten._assert_async")]
    for node in found:
        graph.graph.output_node().prepend(node)
    return found


def _output_views(graph: GraphModule) -> list[FxNode]:
    """Moves views that are outputs to the end where they have memory in common with other outputs.

    Torch makes those views itself, so that writing to one output writes to the others.

    Returns:
        The views.
    """
    output = graph.graph.output_node()
    outputs = [n for n in output.all_input_nodes if isinstance(n.meta.get("val"), torch.Tensor)]
    chains = {n: _chain(n) for n in outputs}
    owners = [chain[-1] for chain in chains.values()]
    moved: list[FxNode] = []
    for node, (*views, owner) in chains.items():
        if not views or (owners.count(owner) == 1 and owner.op != "placeholder"):
            continue
        copies = {owner: owner}
        with graph.graph.inserting_before(output):
            for view in reversed(views):
                copies[view] = graph.graph.node_copy(view, partial(_copy_of, copies))
        output.replace_input_with(node, copies[node])
        moved += [c for n, c in copies.items() if n is not owner]
    graph.graph.eliminate_dead_code()
    return moved


def _copy_of(copies: Mapping[FxNode, FxNode], node: FxNode) -> FxNode:
    return copies.get(node, node)


def _chain(node: FxNode) -> list[FxNode]:
    """A node, what it is a view of, and so on to the owner of the memory."""
    chain = [node]
    while chain[-1].op == "call_function" and _is_view(chain[-1]):
        chain.append(_operand(chain[-1]))
    return chain


def _operand(node: FxNode) -> FxNode:
    """The first argument of a node."""
    found = node.args[0]
    assert isinstance(found, FxNode)
    return found


def _is_view(node: FxNode) -> bool:
    if node.target is operator.getitem:
        return _is_view(_operand(node))
    return str(node.target).removeprefix("aten.").partition(".")[0] in _VIEWS


def _part(
    graph: GraphModule,
    imported: Imported,
    weights: Mapping[int, str],
    options: Settings,
    cache: bool,
) -> Callable[..., Any]:
    """What runs a graph all of whose operators pjit has; torch makes views at no cost."""
    if all(_is_free(n) for n in graph.graph.nodes if n.op == "call_function"):
        return graph
    return Graph(graph, weights, options, imported, cache)


def _is_free(node: FxNode) -> bool:
    if node.target is operator.getitem or not isinstance(node.meta.get("val"), torch.Tensor):
        return True
    return _is_view(node)


def _split(
    graph: GraphModule,
    unsupported: set[FxNode],
    weights: Mapping[int, str],
    options: Settings,
    cache: bool,
) -> Callable[..., Any]:
    """Lets torch run some operations, and compiles what lies between them."""
    if any(n.op in ("placeholder", "output") for n in unsupported):
        return graph
    part: dict[FxNode, int] = {}
    at, eager = 0, False
    for node in graph.graph.nodes:
        if node.op in ("placeholder", "output"):
            continue
        if node.target is operator.getitem:
            part[node] = part[_operand(node)]
            continue
        if (node in unsupported) != eager:
            at, eager = at + 1, not eager
        part[node] = at
    whole = split_module(graph, graph, lambda n: part[n], keep_original_order=True)
    names = {n.name: weights.get(i) for i, n in enumerate(graph.graph.find_nodes(op="placeholder"))}
    for name, module in list(whole.named_children()):
        if not name.startswith("submod_") or int(name.removeprefix("submod_")) % 2:
            continue
        assert isinstance(module, GraphModule)
        imported = import_graph(module)
        if imported.unsupported:  # it uses what only the whole graph has
            continue
        inputs = enumerate(module.graph.find_nodes(op="placeholder"))
        own = {i: found for i, n in inputs if (found := names.get(n.name)) is not None}
        runner = _part(module, imported, own, options, cache)
        delattr(whole, name)
        setattr(whole, name, runner)

    def run(*args: Any) -> Any:
        with torch.no_grad():
            return whole(*args)

    return run


# Messages


def _say_unsupported(unsupported: Sequence[Unsupported]) -> None:
    lines = []
    unsupported = [u for u in unsupported if u.node.op != "get_attr"] or unsupported
    for u in unsupported:
        help = f" [{u.help}]" if u.help else ""
        lines.append(f"{u.node.target} at {where(u.node)}: {u.reason}{help}")
    lines = list(dict.fromkeys(lines))
    shown = lines if len(lines) <= SHOWN else [*lines[:SHOWN], f"... {len(lines) - SHOWN} more"]
    count = f"{len(unsupported)} operation{'s' if len(unsupported) > 1 else ''}"
    text = f"{count} of a graph run in eager torch, pjit runs the others:"
    _warn("\n  ".join([text, *shown]))


def _say_gradient(graph: GraphModule) -> None:
    nodes = [n for n in graph.graph.nodes if n.op in ("call_function", "call_method")]
    place = f" at {where(nodes[0])}" if nodes else ""
    _warn(
        f"a graph of {len(nodes)} operations{place} runs in eager torch: its gradient may be asked"
        " for, and pjit compiles for inference only [call the model under torch.no_grad() or"
        " torch.inference_mode(), or use model.requires_grad_(False)]"
    )


def _warn(text: str) -> None:
    warnings.warn(text, FallbackWarning, stacklevel=2)
