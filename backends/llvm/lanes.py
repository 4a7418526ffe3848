"""LLVM types and values of one or more lanes: the small vocabulary of the emitters.

A value of one lane is a scalar, of more a vector. A value that is the same in all lanes stays a
scalar until an operation needs a vector of it. In registers a bool is an ``i1``, and an f16 or bf16
is an f32 that holds a number of that type; in memory they are ``i8`` and ``i16``.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from pjit.ir.types import DType

I1, I8, I16, I32, I64 = (ir.IntType(n) for n in (1, 8, 16, 32, 64))
F16, F32, F64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()
PTR, VOID = ir.PointerType(), ir.VoidType()
SCALARS = {"f64": F64, "f32": F32, "f16": F32, "bf16": F32, "bool": I1}


class Written(ir.Constant):
    """A constant as LLVM writes it."""

    def __init__(self, type: ir.Type, text: str) -> None:
        self.type, self.constant = type, text

    def _get_reference(self) -> str:
        return self.constant


def register_type(dt: DType, lanes: int = 1) -> ir.Type:
    """The type that holds values of a dtype in registers."""
    return vector(SCALARS.get(dt.name) or ir.IntType(dt.bits), lanes)


def memory_type(dt: DType, lanes: int = 1) -> ir.Type:
    """The type that holds values of a dtype in memory."""
    wide = dt.is_float and dt.bits > 16
    return vector(SCALARS[dt.name] if wide else ir.IntType(dt.bits), lanes)


def register_bits(dt: DType) -> int:
    """Bits that a lane of a dtype takes in a vector register, as a measure of how many fit."""
    return 32 if dt.is_float and dt.bits == 16 else dt.bits


def vector(element: ir.Type, lanes: int) -> ir.Type:
    """A vector type, or the element for one lane."""
    return element if lanes == 1 else ir.VectorType(element, lanes)


def lanes_of(value: Any) -> int:
    """How many lanes a value has."""
    return value.type.count if isinstance(value.type, ir.VectorType) else 1


def element_of(value: Any) -> ir.Type:
    """The type of one lane."""
    return value.type.element if isinstance(value.type, ir.VectorType) else value.type


def constant(element: ir.Type, value: float, lanes: int = 1) -> ir.Constant:
    """A constant in every lane."""
    if isinstance(element, ir.IntType):
        bits = element.width
        value = int(value) & ((1 << bits) - 1)
        if bits > 1 and value >> (bits - 1):
            value -= 1 << bits
    scalar = ir.Constant(element, value)
    return scalar if lanes == 1 else splat_constant(scalar, lanes)


def splat_constant(scalar: ir.Constant, lanes: int) -> ir.Constant:
    """A scalar constant in every lane."""
    return Written(ir.VectorType(scalar.type, lanes), f"splat ({scalar})")


def iota(element: ir.Type, lanes: int, step: int = 1) -> ir.Constant:
    """The number of the lane times a step."""
    return ir.Constant(ir.VectorType(element, lanes), [i * step for i in range(lanes)])


def undefined(type: ir.Type) -> ir.Constant:
    """A value that does not matter."""
    return Written(type, "poison")


def splat(b: ir.IRBuilder, value: Any, lanes: int) -> Any:
    """A scalar in every lane; a vector as it is."""
    if lanes == 1 or isinstance(value.type, ir.VectorType):
        return value
    if isinstance(value, ir.Constant):
        return splat_constant(value, lanes)
    type = ir.VectorType(value.type, lanes)
    first = b.insert_element(undefined(type), value, I32(0))
    return b.shuffle_vector(first, undefined(type), _lane_numbers((0,) * lanes))


def slice_lanes(b: ir.IRBuilder, value: Any, start: int, count: int) -> Any:
    """Some consecutive lanes of a vector; one of them as a scalar."""
    if count == 1:
        return b.extract_element(value, I32(start))
    return permute(b, value, range(start, start + count))


def permute(b: ir.IRBuilder, value: Any, order: Sequence[int]) -> Any:
    """The lanes in another order."""
    return b.shuffle_vector(value, undefined(value.type), _lane_numbers(tuple(order)))


@functools.cache
def _lane_numbers(order: tuple[int, ...]) -> ir.Constant:
    return ir.Constant(ir.VectorType(I32, len(order)), list(order))


def type_suffix(type: ir.Type) -> str:
    """The part of an intrinsic's name that stands for a type."""
    if isinstance(type, ir.VectorType):
        return f"v{type.count}{type_suffix(type.element)}"
    return "p0" if isinstance(type, ir.PointerType) else type.intrinsic_name


def declare(module: ir.Module, name: str, result: ir.Type, arguments: Sequence[ir.Type]) -> Any:
    """The declaration of an external function or intrinsic, made once."""
    found = module.globals.get(name)
    return found or ir.Function(module, ir.FunctionType(result, arguments), name)


def intrinsic(b: ir.IRBuilder, name: str, *xs: Any, result: ir.Type | None = None) -> Any:
    """Calls ``llvm.<name>`` overloaded by its first argument, or by its result and that."""
    out = xs[0].type if result is None else result
    suffix = type_suffix(xs[0].type)
    full = f"llvm.{name}.{suffix}" if result is None else f"llvm.{name}.{type_suffix(out)}.{suffix}"
    return b.call(declare(b.module, full, out, [x.type for x in xs]), xs)


def reduce_lanes(b: ir.IRBuilder, name: str, x: Any) -> Any:
    """All lanes of an integer vector combined by ``or``, ``smin`` or ``smax``."""
    full = f"llvm.vector.reduce.{name}.{type_suffix(x.type)}"
    return b.call(declare(b.module, full, element_of(x), [x.type]), [x])


def any_lane(b: ir.IRBuilder, mask: Any) -> Any:
    """Whether a mask is set in any lane."""
    return mask if lanes_of(mask) == 1 else reduce_lanes(b, "or", mask)


def both(b: ir.IRBuilder, x: Any, y: Any) -> Any:
    """The conjunction of two conditions, each of which may be absent; lanes are splatted."""
    if x is None or y is None:
        return y if x is None else x
    n = max(lanes_of(x), lanes_of(y))
    return b.and_(splat(b, x, n), splat(b, y, n))


def gep(b: ir.IRBuilder, pointer: Any, index: Any, element: ir.Type) -> Any:
    """The address of an element; one per lane when the index has lanes."""
    address = b.gep(pointer, [index], source_etype=element)
    if isinstance(index.type, ir.VectorType):
        address.type = ir.VectorType(PTR, index.type.count)
    return address


def fetch(b: ir.IRBuilder, address: Any, level: int, write: bool = False) -> None:
    """Asks for the line at an address, which need not exist: into the cache of a level."""
    prefetch = declare(b.module, "llvm.prefetch.p0", VOID, [PTR, I32, I32, I32])
    b.call(prefetch, [address, I32(int(write)), I32(4 - level), I32(1)])


def masked_load(b: ir.IRBuilder, pointer: Any, mask: Any, otherwise: Any, align: int) -> Any:
    """Consecutive elements where a mask is set; other lanes are ``otherwise`` and not read."""
    t = otherwise.type
    fn = declare(b.module, f"llvm.masked.load.{type_suffix(t)}.p0", t, [PTR, I32, mask.type, t])
    return b.call(fn, [pointer, I32(align), mask, otherwise])


def masked_store(b: ir.IRBuilder, value: Any, pointer: Any, mask: Any, align: int) -> None:
    """Writes consecutive elements where a mask is set."""
    t = value.type
    fn = declare(b.module, f"llvm.masked.store.{type_suffix(t)}.p0", VOID, [t, PTR, I32, mask.type])
    b.call(fn, [value, pointer, I32(align), mask])


def is_narrow(element: ir.Type) -> bool:
    """Whether no processor gathers or scatters elements of a type. What LLVM 22 makes of those may
    read a mask with an instruction that cannot name registers from 16 on, of one of these.
    """
    return isinstance(element, ir.IntType) and element.width < 32


def gather(b: ir.IRBuilder, pointers: Any, mask: Any, otherwise: Any, align: int) -> Any:
    """The elements at an address per lane, where a mask is set."""
    t = otherwise.type
    if is_narrow(t.element):
        places = b.select(
            mask, pointers, splat(b, constant_array(b.module, t.element, 0, 1), t.count)
        )
        found = undefined(t)
        for i in range(t.count):
            lane = b.load(b.extract_element(places, I32(i)), typ=t.element, align=align)
            found = b.insert_element(found, lane, I32(i))
        return b.select(mask, found, otherwise)
    name = f"llvm.masked.gather.{type_suffix(t)}.{type_suffix(pointers.type)}"
    fn = declare(b.module, name, t, [pointers.type, I32, mask.type, t])
    return b.call(fn, [pointers, I32(align), mask, otherwise])


def scatter(b: ir.IRBuilder, value: Any, pointers: Any, mask: Any, align: int) -> None:
    """Writes an element to an address per lane, where a mask is set, in the order of the lanes."""
    t = value.type
    if is_narrow(t.element):
        with b.goto_entry_block():
            nowhere = stack(b, t.element, 1)
        places = b.select(mask, pointers, splat(b, nowhere, t.count))
        for i in range(t.count):
            b.store(
                b.extract_element(value, I32(i)), b.extract_element(places, I32(i)), align=align
            )
        return
    name = f"llvm.masked.scatter.{type_suffix(t)}.{type_suffix(pointers.type)}"
    fn = declare(b.module, name, VOID, [t, pointers.type, I32, mask.type])
    b.call(fn, [value, pointers, I32(align), mask])


def stack(b: ir.IRBuilder, element: ir.Type, count: int, align: int = 64) -> Any:
    """Memory in the frame of the function; call it in the entry block."""
    slot = b.alloca(ir.ArrayType(element, count))
    slot.align = align
    slot.type = PTR
    return slot


def constant_array(module: ir.Module, element: ir.Type, value: float, count: int) -> Any:
    """The address of an array of equal elements that is never written, made once."""
    scalar = constant(element, value)
    if isinstance(element, ir.IntType):
        text = str(scalar.constant)
    else:
        text = struct.pack(">d", value).hex()
    name = f"pjit.fill.{type_suffix(element)}.{text}.{count}"
    found = module.globals.get(name)
    if found is None:
        array = ir.ArrayType(element, count)
        found = ir.GlobalVariable(module, array, name)
        found.type = PTR
        zero = not any(c in text for c in "123456789abcdef")
        body = "zeroinitializer" if zero else f"[{', '.join([str(scalar)] * count)}]"
        found.initializer = Written(array, body)
        found.linkage, found.align = "internal", 64
        found.global_constant = not zero  # zeros that are not constant take no room in object code
    return found
