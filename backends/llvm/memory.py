"""Loads and stores of the kernel level: how a buffer is addressed decides the instructions.

The distance between the elements of neighbouring lanes is a constant or not. It is 0 for an element
that all lanes share, 1 for consecutive elements; others are gathered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir

from pjit.backends.llvm.indexing import Indexing
from pjit.backends.llvm.lanes import (
    I32,
    I64,
    any_lane,
    both,
    constant,
    constant_array,
    gather,
    gep,
    lanes_of,
    masked_load,
    masked_store,
    memory_type,
    permute,
    scatter,
    splat,
    undefined,
    vector,
)
from pjit.backends.llvm.prims import Prims
from pjit.ir import expr
from pjit.ir.expr import Dim
from pjit.ir.loops import Guards
from pjit.ir.types import BufferType, DType, row_major

REACH = 8192  # elements: loads under one condition in so many share its choice of an address


def linear_offset(index: Sequence[Dim], shape: Sequence[Dim]) -> Dim:
    """The offset, in elements, of an index into a row-major buffer."""
    total: Dim = 0
    for i, step in zip(index, row_major(tuple(shape)), strict=True):
        total = total + i * step
    return total


@dataclass
class Memory:
    """Emits loads and stores for the lanes of an ``Indexing``.

    Attributes:
        written: The buffers that may be written; what is read of others is read once in a block.
        mask: The lanes that are active; None for all.
    """

    b: ir.IRBuilder
    index: Indexing
    prims: Prims
    written: set[Any]
    mask: Any = None

    def condition(self, guards: Guards) -> tuple[Any, Any]:
        """The guards that are the same in all lanes, and those that differ; None for no guards."""
        uniform = lanes = None
        for e, bound in guards:
            if expr.within(e, 0, bound):
                continue
            holds = self.index.inside(e, bound)
            if lanes_of(holds) > 1:
                lanes = both(self.b, lanes, holds)
            else:
                uniform = both(self.b, uniform, holds)
        return uniform, lanes

    def load(
        self, base: Any, type: BufferType, index: Sequence[Dim], guards: Guards, otherwise: float
    ) -> Any:
        """An element per lane, or one for all lanes, in registers."""
        dt, n = type.dtype, self.index.lane.n
        offset = linear_offset(index, type.shape)
        uniform, lanes = self.condition(guards)
        step = self.index.stride(offset)
        if step == 0:
            return self._load_shared(base, dt, offset, uniform, lanes, otherwise)
        mask = both(self.b, self.mask, lanes)
        if step == 1:
            value = self._load_row(base, dt, offset, uniform, lanes, otherwise)
        elif step is not None and mask is None and uniform is None and abs(step) <= 2:
            value = self._load_steps(base, dt, offset, step)
        else:
            mask = both(self.b, mask, uniform)
            value = self._gather(base, dt, offset, mask, otherwise)
        assert lanes_of(value) == n
        return self.prims.from_memory(dt, value)

    def _otherwise(self, dt: DType, value: float) -> ir.Constant:
        """The constant as it would be in memory."""
        element = memory_type(dt)
        if dt.is_float and dt.bits > 16:
            return constant(element, value)
        with np.errstate(all="ignore"):
            stored = np.asarray(value).astype(dt.numpy)
        return constant(element, int(stored.view(f"u{dt.itemsize}")))

    def _load_shared(
        self, base: Any, dt: DType, offset: Dim, uniform: Any, lanes: Any, otherwise: float
    ) -> Any:
        b = self.b
        element = memory_type(dt)
        pointer = self.index.address(base, offset, element)
        readable = uniform if lanes is None else both(b, uniform, any_lane(b, lanes))
        if readable is not None:
            raw = self._otherwise(dt, otherwise).constant
            elsewhere = constant_array(b.module, element, raw, self.index.lane.n)
            pointer = self.index.either(readable, pointer, elsewhere)
        value = self.prims.from_memory(dt, self._read(base, pointer, element, dt.itemsize))
        if lanes is None:
            return value
        n = self.index.lane.n
        fill = splat(b, self.prims.const(otherwise, dt), n)
        return b.select(lanes, splat(b, value, n), fill)

    def _load_row(
        self, base: Any, dt: DType, offset: Dim, uniform: Any, lanes: Any, otherwise: float
    ) -> Any:
        b, n = self.b, self.index.lane.n
        fill = self._otherwise(dt, otherwise)
        if lanes is not None:
            uniform = both(b, uniform, any_lane(b, lanes))
        pointer = self._readable(base, offset, uniform, fill)
        mask = both(b, self.mask, lanes)
        if mask is not None:
            return masked_load(b, pointer, mask, splat(b, fill, n), dt.itemsize)
        return self._read(base, pointer, vector(fill.type, n), dt.itemsize)

    def _readable(self, base: Any, offset: Dim, uniform: Any, fill: ir.Constant) -> Any:
        """The address of a row of lanes, or of as many that hold ``fill`` where a condition does
        not hold: a load without active lanes is slow if no memory is there (more than a hundred
        cycles on Zen 4). Zeros are so many that the taps of a window in a row share a choice or
        two: all in the same ``REACH`` elements, around a multiple of it.
        """
        b, n, element = self.b, self.index.lane.n, fill.type
        if uniform is None:
            return self.index.address(base, offset, element)
        zero = fill.constant == 0 and math.copysign(1, fill.constant) > 0
        reach = REACH if zero else 1
        ahead = (expr.constant_term(offset) + reach // 2) % reach
        first = self.index.address(base, offset - ahead, element)
        elsewhere = constant_array(b.module, element, fill.constant, reach - 1 + n)
        return self.index.address(self.index.either(uniform, first, elsewhere), ahead, element)

    def _read(self, base: Any, pointer: Any, t: ir.Type, align: int) -> Any:
        if base in self.written:
            return self._new_read(pointer, t, align)
        return self.index.once(self._new_read, pointer, t, align)

    def _new_read(self, pointer: Any, t: ir.Type, align: int) -> Any:
        return self.b.load(pointer, typ=t, align=align)

    def _load_steps(self, base: Any, dt: DType, offset: Dim, step: int) -> Any:
        """Elements that are 1 or 2 apart, in either direction, from whole vectors."""
        b, n, element = self.b, self.index.lane.n, memory_type(dt)
        t = vector(element, n)
        first = self.index.scalar(offset)
        if step < 0:
            first = b.add(first, I64((n - 1) * step))
        low = b.load(gep(b, base, first, element), typ=t, align=dt.itemsize)
        if abs(step) == 2:
            rest = gep(b, base, b.add(first, I64(n - 1)), element)
            high = b.load(rest, typ=t, align=dt.itemsize)
            order = [2 * i if 2 * i < n else 2 * i + 1 for i in range(n)]
            low = b.shuffle_vector(low, high, ir.Constant(ir.VectorType(I32, n), order))
        return permute(b, low, range(n - 1, -1, -1)) if step < 0 else low

    def _gather(self, base: Any, dt: DType, offset: Dim, mask: Any, otherwise: float) -> Any:
        b, n, element = self.b, self.index.lane.n, memory_type(dt)
        step = self.index.stride(offset)
        if step is not None and mask is None:
            first = self.index.address(base, offset, element)
            value = undefined(vector(element, n))
            for i in range(n):
                at = gep(b, first, I64(i * step), element)
                lane = b.load(at, typ=element, align=dt.itemsize)
                value = b.insert_element(value, lane, I32(i))
            return value
        pointers = gep(b, base, self.index.lanes(offset), element)
        active = splat(b, ir.IntType(1)(1), n) if mask is None else splat(b, mask, n)
        return gather(b, pointers, active, splat(b, self._otherwise(dt, otherwise), n), dt.itemsize)

    def store(
        self, value: Any, base: Any, type: BufferType, index: Sequence[Dim], guards: Guards
    ) -> None:
        """Writes an element per active lane; of lanes that share an element the last one stays."""
        b, n, dt = self.b, self.index.lane.n, type.dtype
        offset = linear_offset(index, type.shape)
        uniform, lanes = self.condition(guards)
        step = self.index.stride(offset)
        shared = step == 0 and lanes_of(value) == 1
        if shared and lanes is not None:
            uniform, lanes = both(b, uniform, any_lane(b, both(b, lanes, self.mask))), None
        raw = self.prims.to_memory(dt, value)
        if shared:
            with _if(b, uniform):
                pointer = self.index.address(base, offset, memory_type(dt))
                b.store(raw, pointer, align=dt.itemsize)
            return
        raw, mask = splat(b, raw, n), both(b, self.mask, lanes)
        if lanes is not None:
            uniform = both(b, uniform, any_lane(b, lanes))
        with _if(b, uniform):
            if step == 1:
                self._store_row(raw, base, dt, offset, mask)
            else:
                self._scatter(raw, base, dt, offset, step, mask)

    def _store_row(self, raw: Any, base: Any, dt: DType, offset: Dim, mask: Any) -> None:
        pointer = self.index.address(base, offset, memory_type(dt))
        if mask is None:
            self.b.store(raw, pointer, align=dt.itemsize)
        else:
            masked_store(self.b, raw, pointer, mask, dt.itemsize)

    def _scatter(
        self, raw: Any, base: Any, dt: DType, offset: Dim, step: int | None, mask: Any
    ) -> None:
        b, n, element = self.b, self.index.lane.n, memory_type(dt)
        if mask is None and step is not None:
            first = self.index.address(base, offset, element)
            for i in range(n):
                at = gep(b, first, I64(i * step), element)
                b.store(b.extract_element(raw, I32(i)), at, align=dt.itemsize)
            return
        pointers = gep(b, base, self.index.lanes(offset), element)
        active = splat(b, ir.IntType(1)(1), n) if mask is None else mask
        scatter(b, raw, pointers, active, dt.itemsize)


def _if(b: ir.IRBuilder, condition: Any) -> AbstractContextManager:
    """``if_then`` of a condition that may be absent."""
    return nullcontext() if condition is None else b.if_then(condition)
