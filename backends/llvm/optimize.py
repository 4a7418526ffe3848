"""LLVM's part of a compilation: from the text of a module to object code.

Run as a program it does so for another process (``helpers``), which is why it imports nothing of
pjit: it reads messages from its standard input and writes answers, each a length of 8 bytes and
that many bytes. A request is two messages: the triple, the processor and its features as JSON, then
the module. An answer is ``+`` and object code, or ``-`` and what LLVM says is wrong.
"""

from __future__ import annotations

import functools
import json
import sys
from typing import IO

if __name__ == "__main__":
    sys.path.append(sys.argv[1])  # where llvmlite is

import llvmlite.binding as llvm

TILES = "tiles"  # the name of modules of tile contractions
UNROLL_COUNT = "llvm.loop.unroll.count"  # marks the loops that are to be unrolled
# What the emitters leave to be done: they vectorise, hoist and mostly unroll themselves. LLVM's own
# pipeline takes five times as long, and lengthens the lives of values in loops until they spill.
_PASSES = ("sroa", "new_gvn", "instruction_combine", "simplify_cfg")


@functools.cache
def initialize(triple: str) -> None:
    """Makes the target of a triple available, once; all of LLVM's take 10 MB more."""
    if triple == llvm.get_default_triple():
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
    else:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()


def target_machine(triple: str, cpu: str, features: str) -> llvm.TargetMachine:
    """LLVM's description of a machine, for code that can be loaded at any address."""
    initialize(triple)
    return llvm.Target.from_triple(triple).create_target_machine(
        cpu=cpu, features=features, opt=1, reloc="pic", codemodel="small"
    )


def optimized(source: str, tm: llvm.TargetMachine) -> llvm.ModuleRef:
    """A module after the passes.

    Raises:
        RuntimeError: LLVM refuses it.
    """
    module = llvm.parse_assembly(source, llvm.create_context())
    module.triple = tm.triple
    module.data_layout = str(tm.target_data)
    module.verify()
    passes = llvm.create_new_function_pass_manager()
    for name in _PASSES:
        getattr(passes, f"add_{name}_pass")()
    if UNROLL_COUNT in source:
        passes.add_loop_unroll_pass()
    builder = llvm.create_pass_builder(tm, llvm.create_pipeline_tuning_options())
    for function in module.functions:
        if not function.is_declaration:
            passes.run(function, builder)
    return module


def read(stream: IO[bytes]) -> bytes:
    """A message; nothing at the end of the stream."""
    return stream.read(int.from_bytes(stream.read(8), "little"))


def write(stream: IO[bytes], *parts: bytes) -> None:
    """Sends a message, given in parts."""
    stream.write(sum(map(len, parts)).to_bytes(8, "little"))
    stream.writelines(parts)
    stream.flush()


def is_of_tiles(source: str) -> bool:
    """Whether the text of a module is that of tile contractions, by its name."""
    return source.startswith(f'; ModuleID = "{TILES}"')


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answers requests until there are no more.

    Tile contractions are compiled without LLVM's reduction of the strength of loops: it takes half
    of the time that they take, and makes them no faster, for their loops count with few variables.
    It can only be chosen for a whole process, so that it is not in one that belongs to others.
    """
    machines: dict[bytes, llvm.TargetMachine] = {}
    while target := read(requests):
        source = read(requests).decode()
        try:
            tm = machines.get(target)
            if tm is None:
                tm = machines[target] = target_machine(*json.loads(target))
            llvm.set_option("pjit", f"-disable-lsr={str(is_of_tiles(source)).lower()}")
            code = tm.emit_object(optimized(source, tm))
        except RuntimeError as e:
            write(answers, b"-", str(e).encode())
        else:
            write(answers, b"+", code)


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
