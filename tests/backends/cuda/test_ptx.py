"""PTX and machine code of the emitted kernels: under the extra ``cuda``, without a GPU."""

from __future__ import annotations

import re

import pytest

from pjit.backends.cuda.emit import emit_source
from pjit.backends.cuda.ptx import assemble, compile_ptx, opcodes, tool
from pjit.backends.cuda.target import machine

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed (the extra `cuda`)")
needs_ptxas = pytest.mark.skipif(tool("ptxas") is None, reason="ptxas is not installed")
needs_nvdisasm = pytest.mark.skipif(tool("nvdisasm") is None, reason="nvdisasm is not installed")


@needs_ptxas
def test_assembles_without_spills(case):
    kernel, gpu = case.kernel(), machine("sm_90")
    source = emit_source(kernel, gpu)
    ptx = compile_ptx(source, gpu)
    made = assemble(ptx, gpu)
    assert (made.stack, made.spills) == (0, 0)
    assert made.registers <= 64
    assert made.shared == source.launch.shared
    doubles = any(v.dtype.name == "f64" for v in kernel.args)
    assert (".f64" in ptx) == doubles


@needs_ptxas
def test_assembles_for_sm_80(cases):
    gpu = machine("sm_80")
    made = assemble(compile_ptx(emit_source(cases["softmax"].kernel(), gpu), gpu), gpu)
    assert made.spills == 0


def test_parameters_are_pointers_and_sizes(cases):
    gpu = machine()
    ptx = compile_ptx(emit_source(cases["chain"].kernel(), gpu), gpu)
    assert len(re.findall(r"\.param \.u64", ptx)) == 4


@needs_ptxas
@needs_nvdisasm
@pytest.mark.parametrize("name", ["chain", "chain_rows"])
def test_wide_loads_and_stores(name, cases):
    gpu = machine()
    found = opcodes(assemble(compile_ptx(emit_source(cases[name].kernel(), gpu), gpu), gpu))
    assert any(o.startswith("LDG.E.128") for o in found)
    assert not any(o.startswith("STG.E") and "128" not in o for o in found)


@needs_ptxas
@needs_nvdisasm
def test_instructions(cases):
    gpu = machine()
    found = opcodes(
        assemble(compile_ptx(emit_source(cases["softmax_block"].kernel(), gpu), gpu), gpu)
    )
    assert found["SHFL.BFLY"] == 10
    assert any(o.startswith("BAR.SYNC") for o in found)
    assert any(o.startswith("FMNMX.NAN") for o in found)
    assert not any(o.startswith(("LDL", "STL", "DADD", "DMUL", "DFMA")) for o in found)
