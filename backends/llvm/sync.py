"""How native threads wait for each other: LLVM IR for spinning, sleeping and barriers.

Every ``emit_*`` function defines one internal function in the given module, once, and returns it.
The code refers to libc by name (``sched_yield``, and ``syscall`` or ``usleep``); MCJIT resolves
these in the process.
"""

from __future__ import annotations

import platform
import sys

from llvmlite import ir

I32, I64, PTR, VOID = ir.IntType(32), ir.IntType(64), ir.PointerType(), ir.VoidType()

# Pauses in a barrier before the thread offers its core to others at every round. A barrier of
# threads that all run ends sooner; with more threads than cores a larger number costs as much
# time as it lasts, at every barrier.
PAUSES_BEFORE_YIELD = 32
# Rounds of idle spinning between two such offers; a power of two.
_ROUNDS_PER_YIELD = 16

# The number of futex(2) on the 64-bit Linux ports, by machine and by LLVM's name for it.
_FUTEX_NUMBERS = {
    "x86_64": 202,
    "aarch64": 98,
    "riscv64": 98,
    "loongarch64": 98,
    "ppc64le": 221,
    "powerpc64le": 221,
    "s390x": 238,
}
_FUTEX_WAIT_PRIVATE, _FUTEX_WAKE_PRIVATE = 128, 129
_FIRST_NAP_US, _LONGEST_NAP_US = 50, 1000

HAS_FUTEX = sys.platform == "linux" and sys.maxsize > 2**32 and platform.machine() in _FUTEX_NUMBERS


def define(
    module: ir.Module, name: str, result: ir.Type, arguments: list[ir.Type], internal: bool = True
) -> ir.Function:
    """Starts the definition of a function; the caller adds its blocks."""
    function = ir.Function(module, ir.FunctionType(result, arguments), name)
    function.attributes.add("nounwind")
    if internal:
        function.linkage = "internal"
    return function


def declare(
    module: ir.Module,
    name: str,
    result: ir.Type,
    arguments: list[ir.Type],
    var_arg: bool = False,
) -> ir.Function:
    """Declares an external function or an intrinsic, or returns its declaration."""
    if name in module.globals:
        return module.globals[name]
    return ir.Function(module, ir.FunctionType(result, arguments, var_arg=var_arg), name)


def emit_pause(builder: ir.IRBuilder) -> None:
    """Emits the hint that this thread spins: ``pause`` on x86, ``yield`` on AArch64, else nothing.

    Raises:
        ValueError: the module has no target triple, so the instruction set is unknown.
    """
    module = builder.module
    arch = _architecture(module)
    if arch in ("x86_64", "amd64") or (arch.startswith("i") and arch.endswith("86")):
        builder.call(declare(module, "llvm.x86.sse2.pause", VOID, []), [])
    elif arch.startswith(("aarch64", "arm64")):
        # An intrinsic, since inline assembly needs an assembly parser to be initialised.
        hint_yield = I32(1)
        builder.call(declare(module, "llvm.aarch64.hint", VOID, [I32]), [hint_yield])


def _architecture(module: ir.Module) -> str:
    arch = module.triple.split("-")[0]
    if arch == "unknown":
        raise ValueError(f"module {module.name!r} has no target triple: set module.triple first")
    return arch


def emit_yield(builder: ir.IRBuilder) -> None:
    """Emits a call of ``sched_yield()``."""
    builder.call(declare(builder.module, "sched_yield", I32, []), [])


def emit_relax(module: ir.Module) -> ir.Function:
    """Defines ``void pjit_relax(i64 round)``: one round of idle spinning.

    Every few rounds it offers the core to others. With as many workers as cores, the interpreter
    needs one of these cores to submit the next job.
    """
    if "pjit_relax" in module.globals:
        return module.globals["pjit_relax"]
    function = define(module, "pjit_relax", VOID, [I64])
    (round_,) = function.args
    entry, offer, done = (function.append_basic_block(name) for name in ("entry", "offer", "done"))
    b = ir.IRBuilder(entry)
    emit_pause(b)
    phase = b.and_(round_, I64(_ROUNDS_PER_YIELD - 1))
    b.cbranch(b.icmp_signed("==", phase, I64(_ROUNDS_PER_YIELD - 1)), offer, done)
    b.position_at_end(offer)
    emit_yield(b)
    b.branch(done)
    b.position_at_end(done)
    b.ret_void()
    return function


def emit_barrier(module: ir.Module) -> ir.Function:
    """Defines ``void pjit_barrier(ptr counter, i64 target)``.

    It adds one to the i64 at ``counter`` and returns when that has reached ``target``. All
    threads of a program call it; the first barrier has ``target = n_threads``, the next
    ``2 * n_threads`` and so on, with one counter that starts at zero. What a thread wrote before
    the barrier is visible to every thread after it.
    """
    if "pjit_barrier" in module.globals:
        return module.globals["pjit_barrier"]
    function = define(module, "pjit_barrier", VOID, [PTR, I64])
    function.attributes.add("noinline")
    counter, target = function.args
    counter.name, target.name = "counter", "target"
    entry, spin, late, yielding, again, done = (
        function.append_basic_block(name)
        for name in ("entry", "spin", "late", "yield", "again", "done")
    )
    b = ir.IRBuilder(entry)
    before = b.atomic_rmw("add", counter, I64(1), "acq_rel")
    b.cbranch(b.icmp_signed(">=", b.add(before, I64(1)), target), done, spin)

    b.position_at_end(spin)
    round_ = b.phi(I64, "round")
    arrived = b.load_atomic(counter, "acquire", 8, typ=I64)
    b.cbranch(b.icmp_signed(">=", arrived, target), done, late)

    b.position_at_end(late)
    emit_pause(b)
    next_round = b.add(round_, I64(1))
    b.cbranch(b.icmp_signed("<", round_, I64(PAUSES_BEFORE_YIELD)), again, yielding)
    b.position_at_end(yielding)
    emit_yield(b)
    b.branch(again)
    b.position_at_end(again)
    b.branch(spin)
    round_.add_incoming(I64(0), entry)
    round_.add_incoming(next_round, again)

    b.position_at_end(done)
    b.ret_void()
    return function


def emit_take(module: ir.Module) -> ir.Function:
    """Defines ``i64 pjit_take(ptr cursors, i64 row, ptr owner, i64 thread, i64 threads, i64
    pieces)``.

    Each of the threads has a share of so many pieces. It takes a piece of the share of ``owner``,
    or of the next one that has any left, and returns its number among the pieces of all, or -1 when
    none is left. ``cursors`` is where the first thread counts the pieces that are taken of its
    share; that of another thread is a row of words further for each. ``owner`` is at first the
    thread itself, whose share comes first.
    """
    if "pjit_take" in module.globals:
        return module.globals["pjit_take"]
    function = define(module, "pjit_take", I64, [PTR, I64, PTR, I64, I64, I64])
    function.attributes.add("noinline")
    cursors, row, owner, thread, threads, pieces = function.args
    entry, single, whole, find, look, found, further, none = (
        function.append_basic_block(name)
        for name in ("entry", "single", "whole", "find", "look", "found", "further", "none")
    )
    b = ir.IRBuilder(entry)
    first = b.load(owner, typ=I64)
    b.cbranch(b.icmp_signed("<", first, I64(0)), none, single)
    b.position_at_end(single)
    alone = b.icmp_signed("==", b.mul(threads, pieces), I64(1))
    b.cbranch(alone, whole, find)
    b.position_at_end(whole)
    b.store(I64(-1), owner)
    b.ret(I64(0))

    b.position_at_end(find)
    b.branch(look)
    b.position_at_end(look)
    at = b.phi(I64, "at")
    at.add_incoming(first, find)
    cursor = b.gep(cursors, [b.mul(at, row)], source_etype=I64)
    taken = b.atomic_rmw("add", cursor, I64(1), "monotonic")
    b.cbranch(b.icmp_signed("<", taken, pieces), found, further)
    b.position_at_end(found)
    b.store(at, owner)
    b.ret(b.add(b.mul(at, pieces), taken))
    b.position_at_end(further)
    following = b.add(at, I64(1))
    following = b.select(b.icmp_signed("<", following, threads), following, I64(0))
    at.add_incoming(following, further)
    b.cbranch(b.icmp_signed("==", following, thread), none, look)
    b.position_at_end(none)
    b.store(I64(-1), owner)
    b.ret(I64(-1))
    return function


def emit_sleep(module: ir.Module, futex: bool) -> ir.Function:
    """Defines ``void pjit_sleep(ptr word, i32 expected, i64 timeout_ns)``.

    It sleeps while the i32 at ``word`` is ``expected``, for ``timeout_ns`` at most (without limit
    when negative); it may return early. With ``futex`` the thread blocks in the kernel and
    :func:`emit_wake` wakes it, otherwise it polls between naps of up to a millisecond.
    """
    if "pjit_sleep" in module.globals:
        return module.globals["pjit_sleep"]
    function = define(module, "pjit_sleep", VOID, [PTR, I32, I64])
    function.attributes.add("noinline")
    if futex:
        _futex_sleep(function)
    else:
        _nap_sleep(function)
    return function


def emit_wake(module: ir.Module, futex: bool) -> ir.Function:
    """Defines ``void pjit_wake(ptr word)``: changes the i32 at ``word`` and wakes its sleepers."""
    if "pjit_wake" in module.globals:
        return module.globals["pjit_wake"]
    function = define(module, "pjit_wake", VOID, [PTR])
    function.attributes.add("noinline")
    (word,) = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    b.atomic_rmw("add", word, I32(1), "seq_cst")
    if futex:
        _call_futex(b, word, _FUTEX_WAKE_PRIVATE, I32(2**31 - 1), PTR(None))
    b.ret_void()
    return function


def _call_futex(
    b: ir.IRBuilder, word: ir.Value, operation: int, value: ir.Value, timeout: ir.Value
) -> None:
    syscall = declare(b.module, "syscall", I64, [I64], var_arg=True)
    number = I64(_FUTEX_NUMBERS[_architecture(b.module)])
    b.call(syscall, [number, word, I32(operation), value, timeout, PTR(None), I32(0)])


def _futex_sleep(function: ir.Function) -> None:
    word, expected, timeout_ns = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    timespec = b.alloca(I64, 2)  # struct timespec of a 64-bit system: seconds, nanoseconds
    b.store(b.sdiv(timeout_ns, I64(10**9)), timespec)
    b.store(b.srem(timeout_ns, I64(10**9)), b.gep(timespec, [I64(1)]))
    forever = b.icmp_signed("<", timeout_ns, I64(0))
    limit = b.select(forever, PTR(None), b.bitcast(timespec, PTR))
    _call_futex(b, word, _FUTEX_WAIT_PRIVATE, expected, limit)
    b.ret_void()


def _nap_sleep(function: ir.Function) -> None:
    word, expected, timeout_ns = function.args
    entry, check, nap, done = (
        function.append_basic_block(name) for name in ("entry", "check", "nap", "done")
    )
    b = ir.IRBuilder(entry)
    forever = b.icmp_signed("<", timeout_ns, I64(0))
    b.branch(check)

    b.position_at_end(check)
    slept_us, nap_us = b.phi(I64, "slept_us"), b.phi(I32, "nap_us")
    same = b.icmp_signed("==", b.load_atomic(word, "seq_cst", 4, typ=I32), expected)
    in_time = b.icmp_signed("<", b.mul(slept_us, I64(1000)), timeout_ns)
    b.cbranch(b.and_(same, b.or_(forever, in_time)), nap, done)

    b.position_at_end(nap)
    b.call(declare(b.module, "usleep", I32, [I32]), [nap_us])
    slept_after = b.add(slept_us, b.zext(nap_us, I64))
    doubled = b.mul(nap_us, I32(2))
    too_long = b.icmp_signed(">", doubled, I32(_LONGEST_NAP_US))
    next_nap = b.select(too_long, I32(_LONGEST_NAP_US), doubled)
    b.branch(check)
    slept_us.add_incoming(I64(0), entry)
    slept_us.add_incoming(slept_after, nap)
    nap_us.add_incoming(I32(_FIRST_NAP_US), entry)
    nap_us.add_incoming(next_nap, nap)

    b.position_at_end(done)
    b.ret_void()
