"""What a loop without a known end calls from time to time: it lets Python's signal handlers run.

A handler runs only when its thread comes back to the interpreter, and a loop in native code that
does not end does not. ``poll(ctx)`` does what CPython's own loops in C do, at most every 50 ms: it
takes the GIL and asks for pending signals. If a handler raises, such as for Ctrl-C, the exception
goes into the context of the call and the error word ends the loop.
"""

from __future__ import annotations

import ctypes
import sys

from llvmlite import ir

from pjit.backends.llvm.lanes import I32, I64, PTR, VOID
from pjit.backends.llvm.sync import declare, define
from pjit.ir.call import ERROR_WORD, INTERRUPTED, POLLED_WORD, RAISED_WORD, RAISED_WORDS

_PERIOD_NS = 50_000_000
_CLOCK_MONOTONIC = 1
_API = ("PyGILState_Ensure", "PyGILState_Release", "PyErr_CheckSignals", "PyErr_Fetch")

CAN_POLL = sys.platform == "linux" and sys.implementation.name == "cpython"


def python_functions() -> dict[str, int]:
    """The addresses of what ``poll`` calls."""
    address = ctypes.c_void_p
    return {name: ctypes.cast(getattr(ctypes.pythonapi, name), address).value or 0 for name in _API}


def emit_poll(module: ir.Module, name: str) -> None:
    """``void poll(ptr ctx)``; the thread is one of Python's and does not hold the GIL."""
    ensure = declare(module, "PyGILState_Ensure", I32, [])
    let_go = declare(module, "PyGILState_Release", VOID, [I32])
    check = declare(module, "PyErr_CheckSignals", I32, [])
    fetch = declare(module, "PyErr_Fetch", VOID, [PTR] * RAISED_WORDS)
    clock = declare(module, "clock_gettime", I32, [I32, PTR])
    function = define(module, name, VOID, [PTR], internal=False)
    (ctx,) = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))

    def word(at: int) -> ir.Value:
        return b.gep(ctx, [I64(at)], source_etype=I64)

    time = b.alloca(ir.ArrayType(I64, 2))
    b.call(clock, [I32(_CLOCK_MONOTONIC), b.bitcast(time, PTR)])
    seconds, rest = (b.load(b.gep(time, [I64(i)], source_etype=I64), typ=I64) for i in range(2))
    now = b.add(b.mul(seconds, I64(10**9)), rest)
    passed = b.sub(now, b.load(word(POLLED_WORD), typ=I64))
    no_error = b.icmp_signed("==", b.load(word(ERROR_WORD), typ=I64), I64(0))
    due = b.and_(no_error, b.icmp_signed(">=", passed, I64(_PERIOD_NS)))
    with b.if_then(due, likely=False):
        b.store(now, word(POLLED_WORD))
        state = b.call(ensure, [])
        with b.if_then(b.icmp_signed("!=", b.call(check, []), I32(0)), likely=False):
            b.call(fetch, [word(RAISED_WORD + i) for i in range(RAISED_WORDS)])
            b.cmpxchg(word(ERROR_WORD), I64(0), I64(INTERRUPTED), "monotonic", "monotonic")
        b.call(let_go, [state])
    b.ret_void()
