"""Native code that checks the arguments of a call and passes them on.

A small program is done in a microsecond or two; to look at each argument from Python takes longer.
What an array is made of is part of NumPy's ABI (``PyArrayObject_fields`` of ``ndarraytypes.h``,
which NumPy's own macros read), and a tuple is what CPython's ``PyTuple_GET_ITEM`` reads.
``LAYOUT_HOLDS`` says whether this interpreter keeps them so.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir

from pjit.backends.llvm.lanes import I1, I8, I32, I64, PTR
from pjit.backends.llvm.sync import declare, define

_DATA, _RANK, _DIMS, _DTYPE, _FLAGS = 16, 24, 32, 56, 64  # bytes into an array
_TYPE, _SCALAR = 8, 16  # bytes into any object, and to the value of a NumPy scalar
_SIZE, _ITEMS = 16, tuple.__basicsize__  # bytes into a tuple
_PLAIN = 0x0001 | 0x0100  # NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_ALIGNED
_FIXED = 6  # words of a table for an argument, before its sizes


def table(
    expected: Sequence[tuple[type, np.dtype, tuple[int, ...]]],
    words: Sequence[int],
    staged: Sequence[int],
) -> Any:
    """What ``bind`` expects, as an array for it.

    Args:
        expected: For each argument its type (``np.ndarray``, or a scalar type of NumPy), its dtype,
            which is that very object, and its shape.
        words: The words of the context that point to the arguments.
        staged: Bytes from the context to the place for a copy; -1: the argument is not copied.
    """
    numbers = [len(expected)]
    for (kind, dtype, shape), word, place in zip(expected, words, staged, strict=True):
        count = int(np.prod(shape, dtype=np.int64))
        known = id(dtype) if kind is np.ndarray else 0
        numbers += [id(kind), known, count * dtype.itemsize, 8 * word, place, len(shape), *shape]
    return (ctypes.c_int64 * len(numbers))(*numbers)


def emit_bind(module: ir.Module, name: str) -> None:
    """``i64 bind(ptr table, ptr arguments, ptr context)``: 1 when the tuple is as expected.

    Then the words of the context point to the arguments, or to copies of them. It runs with the
    GIL. An argument that is not a plain array or scalar of its type, dtype and shape gives 0.
    """
    f = define(module, name, I64, [PTR, PTR, PTR], internal=False)
    expected, arguments, context = f.args
    blocks = [f.append_basic_block(n) for n in ("entry", "argument", "array", "sizes", "size")]
    entry, argument, array, sizes, size = blocks
    more = [f.append_basic_block(n) for n in ("scalar", "pass", "copy", "point", "next")]
    scalar, pass_, copy, point, following = more
    wrong, right = f.append_basic_block("wrong"), f.append_basic_block("right")
    copies = declare(module, "llvm.memcpy.p0.p0.i64", ir.VoidType(), [PTR, PTR, I64, I1])

    def at(base: Any, offset: Any) -> Any:
        offset = I64(offset) if isinstance(offset, int) else offset
        return b.gep(base, [offset], source_etype=I8)

    def load(base: Any, offset: Any, t: ir.Type = I64) -> Any:
        return b.load(at(base, offset), typ=t)

    def go_on(condition: Any, block: ir.Block) -> None:
        b.cbranch(condition, block, wrong)

    def equal(x: Any, y: Any) -> Any:
        return b.icmp_signed("==", x, y)

    b = ir.IRBuilder(entry)
    count = load(expected, 0)
    go_on(equal(load(arguments, _SIZE), count), argument)

    b.position_at_end(argument)
    i, row = b.phi(I64, "i"), b.phi(I64, "row")
    i.add_incoming(I64(0), entry)
    row.add_incoming(I64(8), entry)
    done = b.icmp_signed(">=", i, count)
    start = f.append_basic_block("start")
    b.cbranch(done, right, start)
    b.position_at_end(start)
    spec = at(expected, row)
    x = load(at(arguments, _ITEMS), b.shl(i, I64(3)), PTR)
    kind, dtype = load(spec, 0), load(spec, 8)
    nbytes, word, place, rank = (load(spec, 8 * k) for k in range(2, _FIXED))
    typed = f.append_basic_block("typed")
    go_on(equal(load(x, _TYPE), kind), typed)
    b.position_at_end(typed)
    b.cbranch(equal(dtype, I64(0)), scalar, array)

    b.position_at_end(array)
    same = equal(load(x, _DTYPE), dtype)
    same = b.and_(same, equal(b.sext(load(x, _RANK, I32), I64), rank))
    same = b.and_(same, equal(b.and_(load(x, _FLAGS, I32), I32(_PLAIN)), I32(_PLAIN)))
    dims, data = load(x, _DIMS, PTR), load(x, _DATA, PTR)
    go_on(same, sizes)
    b.position_at_end(sizes)
    d = b.phi(I64, "d")
    d.add_incoming(I64(0), array)
    b.cbranch(b.icmp_signed("<", d, rank), size, pass_)
    b.position_at_end(size)
    offset = b.shl(d, I64(3))
    d.add_incoming(b.add(d, I64(1)), size)
    go_on(equal(load(dims, offset), load(spec, b.add(offset, I64(8 * _FIXED)))), sizes)

    b.position_at_end(scalar)
    value = at(x, _SCALAR)
    b.branch(pass_)

    b.position_at_end(pass_)
    source = b.phi(PTR, "source")
    source.add_incoming(data, sizes)
    source.add_incoming(value, scalar)
    b.cbranch(b.icmp_signed("<", place, I64(0)), point, copy)
    b.position_at_end(copy)
    target = at(context, place)
    b.call(copies, [target, source, nbytes, I1(0)])
    b.branch(point)
    b.position_at_end(point)
    passed = b.phi(PTR, "passed")
    passed.add_incoming(source, pass_)
    passed.add_incoming(target, copy)
    b.store(passed, at(context, word))
    b.branch(following)
    b.position_at_end(following)
    i.add_incoming(b.add(i, I64(1)), following)
    row.add_incoming(b.add(row, b.shl(b.add(rank, I64(_FIXED)), I64(3))), following)
    b.branch(argument)

    b.position_at_end(wrong)
    b.ret(I64(0))
    b.position_at_end(right)
    b.ret(I64(1))


def _layout_holds() -> bool:
    """Whether arrays, scalars and tuples look like what ``bind`` reads."""
    if sys.implementation.name != "cpython" or sys.maxsize < 2**32:
        return False
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return False
    a, s = np.arange(6, dtype=np.float32).reshape(2, 3), np.float64(2.5)
    pair = (a, s)

    def word(x: object, offset: int, t: Any = ctypes.c_int64) -> int:
        return t.from_address(id(x) + offset).value

    dims = (ctypes.c_int64 * 2).from_address(word(a, _DIMS))
    return (
        word(a, _TYPE) == id(np.ndarray)
        and word(a, _DATA) == a.ctypes.data
        and word(a, _RANK, ctypes.c_int32) == 2
        and tuple(dims) == (2, 3)
        and word(a, _DTYPE) == id(a.dtype)
        and word(a, _FLAGS, ctypes.c_int32) == a.flags.num
        and word(s, _TYPE) == id(np.float64)
        and word(s, _SCALAR, ctypes.c_double) == 2.5
        and word(pair, _SIZE) == 2
        and [word(pair, _ITEMS + 8 * k) for k in range(2)] == [id(a), id(s)]
    )


LAYOUT_HOLDS = _layout_holds()
