"""``pjit.from_torch``: a module through ``torch.export`` to a program."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from pjit.api import Model
from pjit.compiler import compile_module
from pjit.config import settings
from pjit.errors import ModelError, Problem
from pjit.frontends.torch.decompositions import decompositions
from pjit.frontends.torch.importer import import_graph
from pjit.frontends.torch.source import where
from pjit.ir.core import Module


def from_torch(
    module: torch.nn.Module | ExportedProgram,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    threads: int | None = None,
    exec_mode: str | None = None,
    target: str = "cpu",
    cache: bool = True,
    dump: str | os.PathLike | None = None,
    log: str | None = None,
    verify: bool | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> Model:
    """Compiles a module of PyTorch, or a program of ``torch.export``, for inference.

    The program has a copy of the weights: later changes of the module do not change it.

    Args:
        module: The module, in the mode that it is to be compiled in (``module.eval()``).
        args: Inputs to trace it with: a tuple.
        kwargs: Inputs by name.
        dynamic_shapes: The sizes that may change between calls, as ``torch.export.export`` takes
            them: ``({0: torch.export.Dim("batch")},)``.
        threads: Threads that run the network; by default the cores that the process may use.
        exec_mode: ``async`` or ``sync``.
        target: The back end.
        cache: Whether to use the compile cache.
        dump: Folder for the IR after each pass.
        log: Topics to log.
        verify: Whether to verify the IR after each pass.
        cache_dir: Folder of the compile cache.

    Returns:
        What ``pjit.load`` returns. The inputs are the tensors in ``args`` and ``kwargs``, in order.

    Raises:
        ModelError: The module cannot be converted; every problem is listed.
        SettingError: A setting has a value that it cannot have.
    """
    options = settings(
        threads=threads, dump=dump, log=log, verify=verify, cache_dir=cache_dir,
        exec_mode=exec_mode,
    )  # fmt: skip
    name = type(module).__name__
    with torch.no_grad():
        if not isinstance(module, ExportedProgram):
            module = torch.export.export(
                module, args, dict(kwargs or {}), dynamic_shapes=dynamic_shapes
            )
        exported = module.run_decompositions(decompositions())
    made = _import(exported, name)
    program = compile_module(
        made, target=target, options=options, cache=cache, source=lambda: _import(exported, name)
    )
    return Model(program, name)


def _import(exported: ExportedProgram, name: str) -> Module:
    """The module of an exported program; raises ModelError."""
    signature = exported.graph_signature
    frozen: dict[int, torch.Tensor] = {}
    names: dict[int, str] = {}
    problems = []
    for i, spec in enumerate(signature.input_specs):
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
            assert spec.target is not None
            stored = exported.state_dict if spec.target in exported.state_dict else None
            weight = (stored or exported.constants)[spec.target]
            frozen[i], names[i] = weight.detach().clone(), spec.target
        elif spec.kind != InputKind.USER_INPUT:
            problems.append(Problem(spec.arg.name, "input", f"a {spec.kind.name} is not supported"))
    for out in signature.output_specs:
        if out.kind != OutputKind.USER_OUTPUT:
            what = f"the module writes to {out.target or out.arg.name!r}"
            help = "a program has no state: return the new value instead"
            problems.append(Problem(out.arg.name, "output", what, help))
    graph = exported.graph_module
    assert isinstance(graph, GraphModule)
    imported = import_graph(graph, frozen, names, plain=True)
    for u in imported.unsupported:
        problems.append(Problem(where(u.node), str(u.node.target), u.reason, u.help))
    for i, o in enumerate(imported.outputs):
        if o.kind != "result":
            problems.append(Problem(f"output {i}", "output", "it is no tensor", "return tensors"))
    if problems:
        raise ModelError(problems, name)
    imported.module.main.attrs["outputs"] = tuple(_output_names(exported))
    return imported.module


def _output_names(exported: ExportedProgram) -> list[str]:
    """``logits`` for an output in a dict or a class, else ``output`` or ``output1``."""
    spec = exported.call_spec.out_spec
    assert spec is not None
    count = spec.num_leaves
    tree = pytree.tree_unflatten(list(range(count)), spec)
    names = []
    for i, (path, _) in enumerate(pytree.tree_flatten_with_path(tree)[0]):
        parts = [getattr(k, "key", getattr(k, "name", getattr(k, "idx", ""))) for k in path]
        plain = all(isinstance(p, int) for p in parts)
        default = "output" if count == 1 else f"output{i}"
        names.append(default if plain else ".".join(map(str, parts)))
    return names
