"""From source to PTX and machine code without a GPU, for checks and dumps.

Needs numba-cuda and its CUDA wheels (the extra ``cuda``); the driver is not touched.
"""

from __future__ import annotations

import importlib.util
import linecache
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

from pjit.backends.cuda.prims import memory
from pjit.backends.cuda.source import CudaSource
from pjit.backends.cuda.target import CudaMachine
from pjit.ir.errors import PjitError

_REMEDY = "pip install 'pjit[cuda]'"
_OPCODE = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]+)", re.M)


@dataclass(frozen=True)
class Assembly:
    """What ptxas made of a kernel.

    Attributes:
        cubin: The machine code.
        registers: Registers of a thread.
        stack: Bytes of stack of a thread.
        spills: Bytes that a thread stores and loads because registers ran out.
        shared: Bytes of shared memory of a block.
    """

    cubin: bytes
    registers: int
    stack: int
    spills: int
    shared: int


def load_function(source: CudaSource) -> FunctionType:
    """The Python function of a source; importing the text needs numba-cuda."""
    file = f"<pjit {source.name}>"
    linecache.cache[file] = (len(source.text), None, source.text.splitlines(True), file)
    module: dict[str, Any] = {"__name__": f"pjit_kernel_{source.name}"}
    exec(compile(source.text, file, "exec"), module)
    return module[source.name]


def compile_ptx(source: CudaSource, machine: CudaMachine) -> str:
    """The PTX of a kernel.

    Raises:
        PjitError: numba-cuda is not installed.
    """
    if importlib.util.find_spec("numba_cuda") is None:
        raise PjitError("numba-cuda is not installed", remedy=_REMEDY)
    from numba import cuda, types

    parameters: list[Any] = [types.CPointer(getattr(types, memory(d))) for d in source.buffers]
    parameters += [types.int64] * len(source.symbols)
    if source.checks:
        parameters.append(types.CPointer(types.int64))
    x, y = source.launch.block
    ptx, _ = cuda.compile(
        load_function(source),
        types.void(*parameters),
        cc=machine.cc,
        device=False,
        abi="numba",
        output="ptx",
        launch_bounds=x * y,
    )
    return ptx


def tool(name: str) -> str | None:
    """The path of a CUDA tool: the one of the wheels, else the one on the search path."""
    spec = importlib.util.find_spec("nvidia")
    for place in spec.submodule_search_locations or () if spec else ():
        for found in sorted(Path(place).glob(f"cu*/bin/{name}")):
            return str(found)
    return shutil.which(name)


def assemble(ptx: str, machine: CudaMachine) -> Assembly:
    """Assembles PTX.

    Raises:
        PjitError: ptxas is not installed, or refuses the text.
    """
    with tempfile.TemporaryDirectory() as folder:
        text, cubin = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        text.write_text(ptx)
        log = _run("ptxas", "-v", f"-arch={machine.arch}", str(text), "-o", str(cubin))

        def figure(pattern: str) -> int:
            return sum(map(int, re.findall(pattern, log)))

        return Assembly(
            cubin.read_bytes(),
            figure(r"Used (\d+) registers"),
            figure(r"(\d+) bytes stack frame"),
            figure(r"(\d+) bytes spill"),
            figure(r"(\d+) bytes smem"),
        )


def opcodes(assembly: Assembly) -> Counter[str]:
    """How often each machine instruction occurs.

    Raises:
        PjitError: nvdisasm is not installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "kernel.cubin")
        cubin.write_bytes(assembly.cubin)
        return Counter(_OPCODE.findall(_run("nvdisasm", "-c", str(cubin))))


def _run(name: str, *arguments: str) -> str:
    path = tool(name)
    if path is None:
        raise PjitError(f"{name} is not installed", remedy=_REMEDY)
    done = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise PjitError(f"{name} failed", got=(done.stderr or done.stdout).strip())
    return done.stderr + done.stdout
