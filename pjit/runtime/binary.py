"""A compiled program as data: its code, its constants and its steps as text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from pjit.ir import ops
from pjit.ir.core import Block, Module
from pjit.ir.loops import For, kernels
from pjit.ir.program import ProgramView
from pjit.ir.text import parse_module, print_module
from pjit.ir.view import view
from pjit.runtime.container import Bytes, Container, array_sections
from pjit.runtime.mapped import owned


@dataclass
class Binary:
    """Everything that a program needs to run.

    Attributes:
        view: The program.
        code: Object code, in parts.
        constants: The constants that the program uses.
        text: The main function, and the interfaces and parallel loops of the kernels, as IR text.
        meta: Plain data for reports.
    """

    view: ProgramView
    code: tuple[bytes, ...]
    constants: Mapping[str, np.ndarray]
    text: str
    meta: dict[str, Any] = field(default_factory=dict)

    def sections(self, group: str) -> tuple[dict[str, Any], dict[str, Bytes]]:
        """The entries of ``meta`` and the sections of a container, under names of a group."""
        listed, blocks = array_sections(f"{group}/constants", self.constants)
        return {f"{group}/constants": listed, f"{group}/meta": self.meta}, {
            f"{group}/program": self.text.encode(),
            **{f"{group}/code.{i}": part for i, part in enumerate(self.code)},
            **blocks,
        }

    @staticmethod
    def read(container: Container, group: str, *, verify: bool) -> Binary:
        """Reads what ``sections`` made; the constants stay in the mapped file.

        Args:
            container: Where it is.
            group: Its group.
            verify: Whether the constants are compared with their checksums; all else always is.

        Raises:
            PjitError: Something is missing or damaged.
        """
        text = container.text(f"{group}/program")
        constants = container.arrays(f"{group}/constants", verify=verify)
        module = parse_module(text, constants, name=str(container.path))
        module.constants.update(constants)
        code = tuple(container.section(n).tobytes() for n in container.names(f"{group}/code."))
        return Binary(
            view(module), code, module.constants, text, container.meta.get(f"{group}/meta", {})
        )


def own_constants(
    module: Module, folder: Path | None = None, threads: int = 1
) -> dict[str, np.ndarray]:
    """The constants that the main function of a module uses.

    Weights are packed now, the largest first: what that takes besides is gone before most of the
    others are made. What still lies in the mapped file of a model is copied, also for the module:
    the file may change. Large arrays, as embeddings, are copied to a file without a name, of which
    only what calls read becomes resident.

    Args:
        module: The module.
        folder: Where such files may be; by default there are none.
        threads: How many pack; each takes memory beside the results.
    """
    sizes = {op.value: _size(op) for op in module.main.walk() if isinstance(op, ops.Const)}

    def own(name: str) -> None:
        module.constants[name] = owned(module.constants[name], folder)

    largest_first = sorted(sizes, key=lambda name: -sizes[name])
    with ThreadPoolExecutor(threads, "pjit-packing") as pool:
        for _ in (map if threads == 1 else pool.map)(own, largest_first):
            pass
    return {name: module.constants[name] for name in module.constants if name in sizes}


def _size(const: ops.Const) -> int:
    t = const.result.tensor
    return prod(t.static_shape) * t.dtype.itemsize


def program_text(module: Module) -> str:
    """The main function, and of each kernel what a program's view depends on, as IR text."""
    out = Module(constants=module.constants)
    out.add(module.main)
    for kernel in kernels(module):
        out.add(dataclasses.replace(kernel, body=_outline(kernel.body)))
    return print_module(out)


def _outline(source: Block) -> Block:
    """The arguments and the parallel loops of a block."""
    body = Block([a.type for a in source.args], [a.name for a in source.args])
    loop = next((o for o in source.ops if isinstance(o, For) and o.kind == "parallel"), None)
    if loop is not None:
        body.append(For((), loop.attrs, (), loop.loc, [_outline(loop.body)]))
    body.append(type(source.last)((), {}, (), source.last.loc))
    return body
