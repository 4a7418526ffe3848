"""Object code: made, loaded, called, closed."""

from __future__ import annotations

import ctypes

import pytest
from llvmlite import ir

from pjit.backends.base import backend, backends
from pjit.backends.llvm.module import (
    NativeCode,
    compile_module,
    compile_modules,
    emit_assembly,
    new_module,
)
from pjit.backends.llvm.target import TARGETS, host_machine, machine, runs_here
from pjit.ir.errors import PjitError

F64 = ir.DoubleType()


def calls(callee: str, name: str = "f") -> ir.Module:
    """``double name(double x)``, which calls an external function."""
    module = new_module(machine())
    kind = ir.FunctionType(F64, [F64])
    function = ir.Function(module, kind, name)
    b = ir.IRBuilder(function.append_basic_block())
    b.ret(b.call(ir.Function(module, kind, callee), function.args))
    return module


def test_code_calls_the_c_library() -> None:
    code = NativeCode([compile_module(calls("cbrt"), machine())], ("f",))
    f = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)(code.address("f"))
    assert f(27.0) == pytest.approx(3.0)
    code.close()
    code.close()
    with pytest.raises(PjitError, match="closed"):
        code.address("f")


def test_parts_call_each_other() -> None:
    parts = compile_modules((calls("g", name="f"), calls("cbrt", name="g")), machine())
    code = NativeCode(parts, ("f",))
    assert ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)(code.address("f"))(
        27.0
    ) == pytest.approx(3.0)
    code.close()


def test_a_fault_in_any_part_is_reported() -> None:
    wrong = new_module(machine())
    function = ir.Function(wrong, ir.FunctionType(F64, [F64]), "g")
    ir.IRBuilder(function.append_basic_block()).ret_void()
    with pytest.raises(PjitError, match="LLVM refuses"):
        compile_modules((calls("cbrt"), wrong), machine())


def test_the_same_code_can_be_loaded_twice() -> None:
    object_code = compile_module(calls("cbrt"), machine())
    codes = [NativeCode([object_code], ("f",)) for _ in range(2)]
    assert codes[0].address("f") != codes[1].address("f")
    for code in codes:
        code.close()


def test_an_unknown_function_is_refused() -> None:
    object_code = compile_module(calls("no_such_function_anywhere"), machine())
    with pytest.raises(PjitError, match="cannot be loaded"):
        NativeCode([object_code], ("f",))


def test_malformed_code_is_refused() -> None:
    with pytest.raises(PjitError, match="LLVM refuses"):
        compile_module("define void @f() { ret i32 %x }", machine())


@pytest.mark.parametrize("name", TARGETS)
def test_targets(name: str) -> None:
    target = machine(name, threads=3)
    assert target.threads == 3
    assert target.key.startswith(target.triple)
    assert "cbrt" in emit_assembly(calls("cbrt"), target)


def test_the_host_runs_its_own_code() -> None:
    assert runs_here(host_machine())
    assert host_machine().vector_bits == max(
        machine(n).vector_bits for n in TARGETS if runs_here(machine(n))
    )


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(PjitError, match="no such target"):
        machine("z80")


def test_back_ends_are_found_by_name() -> None:
    assert "cpu" in backends()
    assert backend("cpu").machine(threads=2).threads == 2
    with pytest.raises(PjitError, match="no such back end"):
        backend("abacus")
