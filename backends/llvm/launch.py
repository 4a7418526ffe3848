"""How a thread takes part in a launch: it calls the kernel on piece after piece.

Each thread has a contiguous share of the kernel's parallel iterations. It takes that piece by
piece, and then pieces of the shares of those that are slower, because their core is or because it
was taken from them. A cursor per launch and thread counts the pieces that are taken of that share.
Which thread computes a piece makes no difference to the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from llvmlite import ir

from pjit.backends.llvm.sync import I64, PTR, VOID, define, emit_take
from pjit.ir.call import ERROR_WORD, CallWords
from pjit.ir.program import LaunchStep

PIECES = 16  # of a thread's share of a launch, at most
_EXTENT, _GRAIN, _CURSOR, _SLOTS = 0, 1, 2, 3  # where a plan has what; then come the sizes


def plan(module: ir.Module, step: LaunchStep, words: CallWords, cursor: int) -> ir.Value:
    """A constant that says where the launcher finds what the kernel needs: words of the context."""
    at = [words.size(step.extent), step.grain, words.cursor(cursor)]
    at += [words.slot(s) for s in step.slots] + [words.size(s) for s in step.sizes]
    kind = ir.ArrayType(I64, len(at))
    found = ir.GlobalVariable(module, kind, module.get_unique_name("plan"))
    found.initializer = ir.Constant(kind, at)
    found.global_constant, found.linkage = True, "internal"
    return found


def emit_launcher(kernel: ir.Function, n_slots: int, row: int) -> ir.Function:
    """Defines ``void launch(ptr kernel, ptr plan, ptr ctx, i64 thread, i64 threads)``, which serves
    all kernels of a module with so many arguments.

    Args:
        kernel: Such a kernel.
        n_slots: How many of its arguments are buffers.
        row: Words between the cursors of two threads.
    """
    module = kernel.module
    n_sizes = len(kernel.args) - n_slots - 3
    name = f"pjit_launch_{n_slots}_{n_sizes}"
    if name in module.globals:
        return module.globals[name]
    function = define(module, name, VOID, [PTR, PTR, PTR, I64, I64])
    function.attributes.add("noinline")
    callee, its_plan, ctx, thread, threads = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))

    def planned(at: int) -> ir.Value:
        return b.load(b.gep(its_plan, [I64(at)], source_etype=I64), typ=I64)

    def word(at: ir.Value) -> ir.Value:
        return b.gep(ctx, [at], source_etype=I64)

    extent = b.load(word(planned(_EXTENT)), typ=I64)
    slots = [b.load(word(planned(_SLOTS + i)), typ=PTR) for i in range(n_slots)]
    sizes = [b.load(word(planned(_SLOTS + n_slots + i)), typ=I64) for i in range(n_sizes)]
    cursors = word(planned(_CURSOR)), I64(row)
    with taken(b, extent, planned(_GRAIN), thread, threads, cursors) as bounds:
        address = b.ptrtoint(callee, I64)  # a detour to a pointer that llvmlite can call
        run = b.inttoptr(address, kernel.function_type.as_pointer())
        b.call(run, [*slots, *sizes, word(I64(ERROR_WORD)), *bounds])
    b.ret_void()
    return function


@contextmanager
def taken(
    b: ir.IRBuilder,
    extent: ir.Value,
    grain: ir.Value,
    thread: ir.Value,
    threads: ir.Value,
    cursors: tuple[ir.Value, ir.Value],
) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Emits what follows for the bounds of each piece that this thread takes.

    Args:
        b: Where to emit.
        extent: The iterations.
        grain: What a thread gets of them at least.
        thread: This thread.
        threads: How many there are.
        cursors: The address of the first thread's cursor, and the words from one to the next.
    """
    with b.goto_entry_block():
        owner = b.alloca(I64)  # of the share that pieces are taken from
    b.store(thread, owner)
    sharing, pieces = shares(b, extent, grain, threads, PIECES)
    with b.if_then(b.icmp_signed("<", thread, sharing)):
        head, body, end = (b.append_basic_block(name) for name in ("take", "run", "end"))
        b.branch(head)
        b.position_at_end(head)
        take = emit_take(b.module)
        piece = b.call(take, [*cursors, owner, thread, sharing, pieces], "piece")
        b.cbranch(b.icmp_signed("<", piece, I64(0)), end, body)
        b.position_at_end(body)
        with part(b, extent, piece, b.mul(pieces, sharing)) as bounds:
            yield bounds
        b.branch(head)
        b.position_at_end(end)


def shares(
    b: ir.IRBuilder, extent: ir.Value, grain: ir.Value, threads: ir.Value, pieces: int
) -> tuple[ir.Value, ir.Value]:
    """How many threads share so many iterations, and in how many pieces each takes its share.

    A piece has ``grain`` iterations or more, and a share has at most so many pieces.
    """
    grains = extent if _is_one(grain) else b.sdiv(extent, grain)
    sharing = _within(b, grains, threads)
    return sharing, I64(1) if pieces == 1 else _within(b, b.udiv(grains, sharing), I64(pieces))


@contextmanager
def part(
    b: ir.IRBuilder, extent: ir.Value, at: ir.Value, count: ir.Value
) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Emits what follows for the bounds of one of ``count`` equal parts, unless it is empty."""
    lo = b.sdiv(b.mul(extent, at), count)
    hi = b.sdiv(b.mul(extent, b.add(at, I64(1))), count)
    with b.if_then(b.icmp_signed("<", lo, hi)):
        yield lo, hi


def _within(b: ir.IRBuilder, value: ir.Value, most: ir.Value) -> ir.Value:
    """At least 1 and at most ``most``."""
    value = b.select(b.icmp_signed("<", value, most), value, most)
    return b.select(b.icmp_signed("<", value, I64(1)), I64(1), value)


def _is_one(value: ir.Value) -> bool:
    return isinstance(value, ir.Constant) and value.constant == 1
