"""Device functions that the emitted kernels call; importing it needs numba-cuda.

Each is one or two instructions that numba has no name for. Index arithmetic in numba is signed and
of 64 bits; where the emitter knows that a dividend is not negative (and fits 32 bits), it calls
these instead of ``//`` and ``%``, whose signed forms take several times the instructions.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import cuda, types
from numba.cuda.extending import intrinsic

_F32, _I16, _I32, _I64 = ir.FloatType(), ir.IntType(16), ir.IntType(32), ir.IntType(64)
_INDEX = types.int64(types.int64, types.int64)


def _extremum(name: str):
    def make(typing, x, y):
        def generate(context, builder, signature, args):
            function = ir.FunctionType(_F32, [_F32, _F32])
            asm = ir.InlineAsm(function, f"{name}.NaN.f32 $0, $1, $2;", "=f,f,f")
            return builder.call(asm, args)

        return types.float32(types.float32, types.float32), generate

    make.__name__ = f"{name}imum"
    make.__doc__ = f"The {name} of two f32; NaN propagates (sm_80 and later)."
    return intrinsic(make)


minimum, maximum = _extremum("min"), _extremum("max")


@intrinsic
def udiv(typing, x, y):
    """``x // y`` for x >= 0 and y > 0."""

    def generate(context, builder, signature, args):
        return builder.udiv(*args)

    return _INDEX, generate


@intrinsic
def urem(typing, x, y):
    """``x % y`` for x >= 0 and y > 0."""

    def generate(context, builder, signature, args):
        return builder.urem(*args)

    return _INDEX, generate


@intrinsic
def udiv32(typing, x, y):
    """``x // y`` for 0 <= x < 2**32 and 0 < y < 2**32."""

    def generate(context, builder, signature, args):
        narrow = [builder.trunc(a, _I32) for a in args]
        return builder.zext(builder.udiv(*narrow), _I64)

    return _INDEX, generate


@intrinsic
def urem32(typing, x, y):
    """``x % y`` for 0 <= x < 2**32 and 0 < y < 2**32."""

    def generate(context, builder, signature, args):
        narrow = [builder.trunc(a, _I32) for a in args]
        return builder.zext(builder.urem(*narrow), _I64)

    return _INDEX, generate


def _from_half(asm: str):
    def make(typing, bits):
        def generate(context, builder, signature, args):
            function = ir.FunctionType(_F32, [_I16])
            return builder.call(ir.InlineAsm(function, asm, "=f,h"), args)

        return types.float32(types.uint16), generate

    return make


def _to_half(asm: str):
    def make(typing, x):
        def generate(context, builder, signature, args):
            function = ir.FunctionType(_I16, [_F32])
            return builder.call(ir.InlineAsm(function, asm, "=h,f"), args)

        return types.uint16(types.float32), generate

    return make


def _named(name: str, doc: str, make):
    make.__name__, make.__doc__ = name, doc
    return intrinsic(make)


f16_to_f32 = _named(
    "f16_to_f32", "The f32 of the bits of an f16.", _from_half("cvt.f32.f16 $0, $1;")
)
bf16_to_f32 = _named(
    "bf16_to_f32", "The f32 of the bits of a bf16.", _from_half("mov.b32 $0, {0, $1};")
)
f32_to_f16 = _named(
    "f32_to_f16", "The bits of an f32 rounded to f16.", _to_half("cvt.rn.f16.f32 $0, $1;")
)
f32_to_bf16 = _named(
    "f32_to_bf16", "The bits of an f32 rounded to bf16.", _to_half("cvt.rn.bf16.f32 $0, $1;")
)


@cuda.jit(device=True)
def power(x, y):
    """``x**y`` of two u64, by squaring."""
    result = np.uint64(1)
    while y:
        if y & np.uint64(1):
            result = result * x
        x = x * x
        y = y >> np.uint64(1)
    return result


@intrinsic
def fail(typing, error, code):
    """Keeps the first code that any thread reports in ``error[0]``, which is 0 before."""

    def generate(context, builder, signature, args):
        builder.cmpxchg(args[0], _I64(0), args[1], "monotonic", "monotonic")
        return context.get_dummy_value()

    return types.void(error, types.int64), generate


@intrinsic
def load4(typing, pointer, at):
    """Four f32 from ``pointer[at]`` on, in one load; the address is a multiple of 16."""

    def generate(context, builder, signature, args):
        vector = ir.VectorType(_F32, 4)
        address = builder.gep(args[0], [args[1]])
        wide = builder.load(builder.bitcast(address, vector.as_pointer()))
        wide.align = 16
        values = [builder.extract_element(wide, _I32(i)) for i in range(4)]
        return context.make_tuple(builder, signature.return_type, values)

    return types.UniTuple(types.float32, 4)(pointer, types.int64), generate


@intrinsic
def store4(typing, pointer, at, v0, v1, v2, v3):
    """Writes four f32 from ``pointer[at]`` on, in one store; the address is a multiple of 16."""

    def generate(context, builder, signature, args):
        vector = ir.VectorType(_F32, 4)
        address = builder.gep(args[0], [args[1]])
        wide = ir.Constant(vector, ir.Undefined)
        for i, v in enumerate(args[2:]):
            wide = builder.insert_element(wide, v, _I32(i))
        builder.store(wide, builder.bitcast(address, vector.as_pointer())).align = 16
        return context.get_dummy_value()

    f32 = types.float32
    return types.void(pointer, types.int64, f32, f32, f32, f32), generate
