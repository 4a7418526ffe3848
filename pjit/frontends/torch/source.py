"""Where an operation of an FX graph comes from: the user's line, and the names of weights."""

from __future__ import annotations

import os
import re

import torch
from torch.fx import Node

from pjit.ir.core import Loc

_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)\n(?:[ \t]+(?!File ")(\S.*))?')
_TORCH = os.path.dirname(torch.__file__) + os.sep


def _frame(node: Node) -> tuple[str, int, str] | None:
    """File, line and text of the innermost frame outside torch, if any is known."""
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    own = [f for f in frames if not f[0].startswith(_TORCH)]
    return (own[-1][0], int(own[-1][1]), own[-1][3].strip()) if own else None


def _name(node: Node) -> str:
    """The module that a node belongs to, else its own name."""
    modules = node.meta.get("nn_module_stack")
    path = list(modules.values())[-1][0] if modules else ""
    return path or node.name


def location(node: Node) -> Loc:
    """The location of a node: the user's line, or the module or node where none is known."""
    frame = _frame(node)
    if frame is None:
        return Loc.node("torch", _name(node), str(node.target))
    return Loc.python(frame[0], frame[1])


def where(node: Node) -> str:
    """``model.py:12: return self.fc(x)``, or the name of the module or node."""
    frame = _frame(node)
    if frame is None:
        return f"node {_name(node)!r}"
    file, line, text = frame
    return f"{file}:{line}: {text}" if text else f"{file}:{line}"


def weight_name(placeholder: Node) -> str:
    """``layer.0.weight`` for the input that Dynamo made of a weight."""
    name = placeholder.name
    for text in ("l_self_", "l_fn_", "modules_", "parameters_", "buffers_"):
        name = name.removeprefix(text)
    for text in ("_modules_", "_parameters_", "_buffers_"):
        name = name.replace(text, ".")
    return name.rstrip("_")
