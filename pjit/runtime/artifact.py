"""The ``.pjit`` file: a converted network, and optionally its machine code.

The graph is IR text, its weights are sections of a container (see ``container``). Machine code can
do anything, so it is only loaded from files that the caller trusts, on a machine that it was made
for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from pjit.errors import FormatError, IRError
from pjit.ir.core import Module
from pjit.ir.target import Machine
from pjit.ir.text import parse_module, print_module
from pjit.ir.verify import verify as verify_ir
from pjit.runtime import container
from pjit.runtime.binary import Binary

_KIND, _GRAPH, _WEIGHTS, _CODE = "model", "graph", "weights", "native"


class Artifact:
    """An open ``.pjit`` file.

    Args:
        opened: The container.
        verify: Whether the weights are compared with their checksums.

    Attributes:
        meta: What the writer noted: strings, numbers, lists and dicts.
    """

    def __init__(self, opened: container.Container, verify: bool) -> None:
        self._container, self._verify = opened, verify
        self.meta: dict[str, Any] = opened.meta.get("notes", {})
        machine = opened.meta.get("machine")
        self._machine: dict[str, Any] = machine if isinstance(machine, dict) else {}

    def module(self) -> Module:
        """The graph; its weights stay in the mapped file.

        Raises:
            FormatError: The file is damaged, or what it holds is no valid IR.
        """
        weights = self._container.arrays(_WEIGHTS, verify=self._verify)
        path = str(self._container.path)
        try:
            module = parse_module(self._container.text(_GRAPH), weights, name=path)
            verify_ir(module)
            if not module.functions or module.main.level != "graph":
                raise IRError("it has no function of level graph")
        except IRError as e:
            raise FormatError(
                f"the graph of the file is not valid: {e.what}",
                where=f"{path}, {e.where}" if e.where else path,
                expected=e.expected,
                got=e.got,
                remedy="convert the model again",
            ) from e
        return module

    @property
    def has_code(self) -> bool:
        """Whether the file holds machine code."""
        return f"{_CODE}/program" in self._container

    def why_not(self, target: str, machine: Machine) -> str:
        """Why the machine code cannot run here; empty when it can.

        Args:
            target: The back end that is asked for.
            machine: The machine that would run it.
        """
        if self._machine.get("target") != target:
            return f"it is for the target {self._machine.get('target')!r}, not {target!r}"
        made_for = self._machine.get("key")
        return "" if made_for == machine_key(machine) else f"it is for another machine: {made_for}"

    def binary(self) -> Binary:
        """The machine code and all it needs; only for files that are trusted.

        Raises:
            PjitError: The file is damaged.
        """
        return Binary.read(self._container, _CODE, verify=self._verify)


def machine_key(machine: Machine) -> str:
    """Names the instructions that code may use, and whether its products are direct."""
    return str(getattr(machine, "key", machine.name)) + ("/direct" if machine.direct else "")


def write(
    path: str | os.PathLike,
    module: Module,
    *,
    notes: Mapping[str, Any] | None = None,
    binary: Binary | None = None,
    target: str = "cpu",
    machine: Machine | None = None,
) -> None:
    """Writes a ``.pjit`` file; it appears at once, complete.

    Args:
        path: The file.
        module: The graph, of level ``graph``.
        notes: Plain data about the model.
        binary: Its machine code, of ``compiler.build`` on a copy of the module.
        target: The back end of the code.
        machine: The machine of the code.

    Raises:
        OSError: The file cannot be written.
    """
    weights, sections = container.array_sections(_WEIGHTS, module.constants)
    meta: dict[str, Any] = {_WEIGHTS: weights, "notes": dict(notes or {})}
    sections[_GRAPH] = print_module(module).encode()
    if binary is not None:
        assert machine is not None
        more, blocks = binary.sections(_CODE)
        meta |= more
        meta["machine"] = {"target": target, "name": machine.name, "key": machine_key(machine)}
        sections |= blocks
    container.write(path, _KIND, meta, sections)


def read(path: str | os.PathLike, *, verify: bool = True) -> Artifact:
    """Opens a ``.pjit`` file.

    Raises:
        FormatError: It is not one, or it is damaged.
        OSError: It cannot be read.
    """
    return Artifact(container.Container.open(path, _KIND), verify)
