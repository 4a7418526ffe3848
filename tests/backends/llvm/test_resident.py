"""Which pages of LLVM's library are unmapped, and that it runs on."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import llvmlite.binding as llvm
import pytest
from llvmlite import ir

from pjit.backends.llvm.module import NativeCode, compile_module, new_module
from pjit.backends.llvm.resident import clean_mappings, release
from pjit.backends.llvm.target import _host_features, machine

SMAPS = """\
1000-3000 r--p 00000000 fe:00 5 /lib/llvmlite/binding/lib name.so
Rss:                   8 kB
Anonymous:             0 kB
VmFlags: rd mr mw me
3000-5000 r-xp 00002000 fe:00 5 /lib/llvmlite/binding/lib name.so
Anonymous:             0 kB
5000-6000 r--p 00004000 fe:00 5 /lib/llvmlite/binding/lib name.so
Anonymous:             4 kB
6000-7000 rw-p 00005000 fe:00 5 /lib/llvmlite/binding/lib name.so
Anonymous:             0 kB
7000-8000 r-xp 00000000 fe:00 6 /lib/other.so
Anonymous:             0 kB
8000-9000 rw-p 00000000 00:00 0
Anonymous:             0 kB
9000-a000 r--p 00000000 00:00 0 [vvar]
Anonymous:             0 kB
"""


def test_mappings_with_pages_of_the_process_are_left_alone() -> None:
    found = list(clean_mappings(SMAPS, "/lib/llvmlite/binding"))
    assert found == [(0x1000, 0x2000), (0x3000, 0x2000)]


def resident() -> int:
    """Resident KiB of LLVM's code."""
    folder, total, ours = str(Path(llvm.__file__).parent), 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, *rest = line.split(maxsplit=5)
        if not first.endswith(":"):
            ours = len(rest) == 5 and rest[4].startswith(folder) and rest[0] == "r-xp"
        elif first == "Rss:" and ours:
            total += int(rest[0])
    return total


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_the_import_of_llvm_touched_is_unmapped_before_a_model_is_read() -> None:
    module = new_module(machine())
    compile_module(module, machine())
    touched = resident()
    _host_features.cache_clear()
    machine()
    assert resident() < touched / 2


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_llvm_runs_on_after_a_release() -> None:
    def three() -> int:
        module = new_module(machine())
        function = ir.Function(module, ir.FunctionType(ir.IntType(64), []), "f")
        ir.IRBuilder(function.append_basic_block()).ret(ir.Constant(ir.IntType(64), 3))
        code = NativeCode([compile_module(module, machine())], ("f",))
        return ctypes.CFUNCTYPE(ctypes.c_int64)(code.address("f"))()

    for _ in range(2):
        assert three() == 3  # and closes the code, by LLVM
        assert resident() > 0
        release()
        assert resident() == 0
