"""Kernels as LLVM functions: loops over lanes, threads' shares, data-dependent indices.

A kernel becomes ``void name(ptr buffers..., i64 sizes..., ptr error, i64 lo, i64 hi)``: it runs the
iterations ``lo <= i < hi`` of its parallel nest, flattened in row-major order. A vector loop runs
its body on one value per lane; what is the same in all lanes is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from pjit.backends.llvm.indexing import Indexing, Lane
from pjit.backends.llvm.lanes import (
    I1,
    I64,
    PTR,
    VOID,
    any_lane,
    constant,
    intrinsic,
    lanes_of,
    memory_type,
    reduce_lanes,
    register_bits,
    slice_lanes,
    splat,
    stack,
    vector,
)
from pjit.backends.llvm.memory import Memory
from pjit.backends.llvm.optimize import UNROLL_COUNT
from pjit.backends.llvm.prims import Prims
from pjit.backends.llvm.target import function_attributes
from pjit.ir import expr
from pjit.ir.core import Block, Function, Op, Value
from pjit.ir.errors import IRError
from pjit.ir.expr import Dim
from pjit.ir.loops import (
    Contraction,
    For,
    IndexValue,
    Inside,
    KCast,
    KConst,
    KYield,
    Load,
    Prim,
    Scratch,
    Store,
    ToIndex,
    index_checks,
)
from pjit.ir.ops.basic import Return
from pjit.ir.target import Machine
from pjit.ir.types import DType, ScalarType

_NEUTRAL = (Scratch, KConst, IndexValue, Return, KYield)


def parallel_nest(kernel: Function) -> list[For]:
    """The loops whose iterations the threads share, outermost first.

    Raises:
        IRError: Something other than constants and scratch memory surrounds or separates the loops.
    """
    loops: list[For] = []
    block = kernel.body
    while True:
        inner = [op for op in block.ops if isinstance(op, For) and op.kind == "parallel"]
        if not inner:
            return loops
        others = [op for op in block.ops if op is not inner[0] and not isinstance(op, _NEUTRAL)]
        if others or inner[0].lo != 0 or inner[0].n_index:
            raise IRError(
                "a kernel has one perfect nest of parallel loops from 0",
                where=str(inner[0].loc),
                got=f"@{kernel.name}",
            )
        loops.append(inner[0])
        block = inner[0].body


def emit_kernel(
    kernel: Function, machine: Machine, module: ir.Module, error_base: int = 0
) -> ir.Function:
    """Defines the function of a kernel, for use within the module.

    Args:
        kernel: A function of the kernel level.
        machine: The target.
        module: Where to define it, under the kernel's name.
        error_base: Added to the code of an index that is out of range (see ``index_checks``).
    """
    return KernelEmitter(kernel, machine, module, error_base).emit()


class KernelEmitter:
    """The emission of one kernel.

    Attributes:
        b: The builder.
        machine: The target.
        index: Index expressions and the lanes of the loop being emitted.
        memory: Loads and stores, with the mask of active lanes.
        prims: Primitives.
        buffers: The address of each buffer.
        scalars: The LLVM value of each scalar.
        exprs: What each index value is, as an expression over the symbols of ``index``.
    """

    def __init__(
        self, kernel: Function, machine: Machine, module: ir.Module, error_base: int
    ) -> None:
        self.kernel, self.machine, self.module = kernel, machine, module
        symbols = kernel.attrs["symbols"]
        n = len(kernel.args)
        types = [PTR] * n + [I64] * len(symbols) + [PTR, I64, I64]
        fn = ir.Function(module, ir.FunctionType(VOID, types), kernel.name)
        fn.attributes.add("noinline")
        fn.attributes.add("nounwind")
        for text in function_attributes(machine):
            set.add(fn.attributes, text)
        for arg in fn.args[:n]:
            arg.add_attribute("noalias")
        self.function = fn
        self.error, self.lo, self.hi = fn.args[-3:]
        self.b = ir.IRBuilder(fn.append_basic_block("entry"))
        self.index = Indexing(self.b, dict(zip(symbols, fn.args[n:], strict=False)))
        self.prims = Prims(self.b, machine)
        self.buffers: dict[Value, Any] = dict(zip(kernel.args, fn.args, strict=False))
        stores = [op.buffer for op in kernel.walk() if isinstance(op, Store)]
        written = {self.buffers[v] for v in stores if v in self.buffers}
        self.memory = Memory(self.b, self.index, self.prims, written)
        self.scalars: dict[Value, Any] = {}
        self.exprs: dict[Value, Dim] = {}
        self.codes = {op: error_base + 1 + i for i, op in enumerate(index_checks(kernel))}

    # The function and its parallel nest

    def emit(self) -> ir.Function:
        """Emits the whole function."""
        nest = parallel_nest(self.kernel)
        for op in self.kernel.body.ops:
            if nest and op is nest[0]:
                self._parallel(nest)
            elif not nest and isinstance(op, For):
                self._once(op)
            else:
                self.op(op)
        self.b.ret_void()
        return self.function

    def _once(self, op: Op) -> None:
        """Runs an operation in the one thread whose share is not empty."""
        with self.b.if_then(self.b.icmp_signed("<", self.lo, self.hi)):
            self.op(op)

    def _parallel(self, nest: list[For]) -> None:
        """Runs ``lo <= i < hi``: the first indices by division, the next by counting with carry."""
        b = self.b
        extents = [loop.hi for loop in nest]
        sizes = [self.index.scalar(e) for e in extents]
        first: list[Any] = []
        left = self.lo
        for at in range(len(nest) - 1, 0, -1):
            if extents[at] == 1:
                first.insert(0, I64(0))
                continue
            first.insert(0, b.urem(left, sizes[at]))
            left = b.udiv(left, sizes[at])
        first.insert(0, left)

        def body(i: Any, at: list[Any]) -> list[Any]:
            for loop, value, extent in zip(nest, at, extents, strict=True):
                variable = self.index.fresh(value, 0, extent) if extent != 1 else 0
                self.exprs[loop.body.args[0]] = variable
            for loop in nest:
                for op in loop.body.ops:
                    if op not in nest:
                        self.op(op)
            following: list[Any] = []
            carry: Any = None
            for k in range(len(nest) - 1, -1, -1):
                step = I64(1) if carry is None else b.zext(carry, I64)
                value = b.add(at[k], step, flags=("nsw",)) if extents[k] != 1 or k == 0 else at[k]
                if k == 0:
                    following.insert(0, value)
                elif extents[k] == 1:
                    following.insert(0, value)
                    carry = I1(1) if carry is None else carry
                else:
                    carry = b.icmp_signed("==", value, sizes[k])
                    following.insert(0, b.select(carry, I64(0), value))
            return following

        self.loop(self.lo, self.hi, 1, first, body)

    # Operations

    def block(self, block: Block) -> list[Any]:
        """Emits a region; what it yields."""
        for op in block.ops[:-1]:
            self.op(op)
        return [self.scalars[v] for v in block.last.operands]

    def op(self, op: Op) -> None:
        """Emits one operation."""
        if isinstance(op, Prim):
            xs = [self.scalars[v] for v in op.operands]
            name = op.op_name.removeprefix("k.")
            self.scalars[op.result] = self.prims.emit(name, op.operands[-1].dtype, *xs)
            return
        handlers: dict[type, Callable] = {
            For: self._for,
            Load: self._load,
            Store: self._store,
            KConst: self._const,
            KCast: self._cast,
            IndexValue: self._index_value,
            Inside: self._inside,
            ToIndex: self._to_index,
            Scratch: self._scratch,
            Contraction: self._contraction,
            Return: lambda op: None,
            KYield: lambda op: None,
        }
        if type(op) not in handlers:
            raise IRError(
                "an operation is not of the kernel level", where=str(op.loc), got=op.op_name
            )
        handlers[type(op)](op)

    def mapped(self, operands: Sequence[Value]) -> Callable[[Dim], Dim]:
        """Replaces ``#0 ..`` in expressions by what the index operands are."""
        known = {f"#{i}": self.exprs[v] for i, v in enumerate(operands)}
        return lambda e: expr.substitute(e, known)

    def guards(self, pairs: Any, of: Callable[[Dim], Dim]) -> list[tuple[Dim, Dim]]:
        """Guards with ``#0 ..`` replaced."""
        return [(of(e), of(bound)) for e, bound in pairs]

    def _load(self, op: Load) -> None:
        of = self.mapped(op.index)
        self.scalars[op.result] = self.memory.load(
            self.buffers[op.buffer],
            op.buffer.type,
            [of(e) for e in op.map],
            self.guards(op.guards, of),
            op.otherwise,
        )

    def _store(self, op: Store) -> None:
        of = self.mapped(op.index)
        self.memory.store(
            self.scalars[op.value],
            self.buffers[op.buffer],
            op.buffer.type,
            [of(e) for e in op.map],
            self.guards(op.guards, of),
        )

    def _const(self, op: KConst) -> None:
        self.scalars[op.result] = self.prims.const(op.attrs["value"], op.attrs["dtype"])

    def _cast(self, op: KCast) -> None:
        x = op.operands[0]
        self.scalars[op.result] = self.prims.cast(self.scalars[x], x.dtype, op.attrs["dtype"])

    def _index_value(self, op: IndexValue) -> None:
        self.scalars[op.result] = self.index.value(self.mapped(op.index)(op.map[0]))

    def _inside(self, op: Inside) -> None:
        uniform, lanes = self.memory.condition(self.guards(op.guards, self.mapped(op.index)))
        if uniform is not None and lanes is not None:
            lanes = self.b.and_(lanes, splat(self.b, uniform, lanes_of(lanes)))
        found = lanes if lanes is not None else uniform
        self.scalars[op.result] = I1(1) if found is None else found

    def _scratch(self, op: Scratch) -> None:
        count = expr.product(op.attrs["shape"])
        assert isinstance(count, int)
        with self.b.goto_entry_block():
            self.buffers[op.result] = stack(self.b, memory_type(op.attrs["dtype"]), count)
        self.memory.written.add(self.buffers[op.result])

    def _to_index(self, op: ToIndex) -> None:
        b = self.b
        x, dt = self.scalars[op.value], op.value.dtype
        extent = self.mapped(op.index)(op.extent)
        n = lanes_of(x)
        if self.index.varies(extent):
            n = self.index.lane.n
        i64 = vector(I64, n)
        x = splat(b, x, n)
        if dt.bits < 64:
            x = b.sext(x, i64) if dt.kind == "i" else b.zext(x, i64)
        if op.known:
            self.exprs[op.result] = self.index.fresh(x, 0, extent)
            return
        size = splat(b, self.index.value(extent), n)
        zero = constant(I64, 0, n)
        if dt.kind == "i":
            x = b.select(b.icmp_signed("<", x, zero), b.add(x, size), x)
        wrong = b.icmp_unsigned(">=", x, size)
        if self.memory.mask is not None:
            wrong = b.and_(splat(b, wrong, self.index.lane.n), self.memory.mask)
        with b.if_then(any_lane(b, wrong), likely=False):
            b.cmpxchg(self.error, I64(0), I64(self.codes[op]), "monotonic", "monotonic")
        x = intrinsic(b, "smin", x, b.sub(size, constant(I64, 1, n)))
        self.exprs[op.result] = self.index.fresh(intrinsic(b, "smax", x, zero), 0, extent)

    def _contraction(self, op: Contraction) -> None:
        from pjit.backends.llvm.contract import emit_contraction

        emit_contraction(self, op)

    # Loops

    def loop(
        self,
        start: Any,
        stop: Any,
        step: int,
        carried: Sequence[Any],
        body: Callable,
        unroll: int = 1,
    ) -> list[Any]:
        """A counted loop of ``body(i, carried) -> carried``; bounds are ints or LLVM values.

        It runs while ``i < stop``. LLVM is to make one iteration of each ``unroll``.
        """
        b = self.b
        carried = list(carried)
        static = isinstance(start, int) and isinstance(stop, int)
        if static and stop <= start:
            return carried
        if static and stop - start <= step:
            return body(I64(start), carried)
        start, stop = (I64(x) if isinstance(x, int) else x for x in (start, stop))
        before, inside, after = (
            b.block,
            b.append_basic_block("loop"),
            b.append_basic_block("after"),
        )
        if static:
            b.branch(inside)
        else:
            b.cbranch(b.icmp_signed("<", start, stop), inside, after)
        b.position_at_end(inside)
        i = b.phi(I64)
        phis = [b.phi(v.type) for v in carried]
        with self.index.loop(before):
            following = body(i, list(phis))
        i_next = b.add(i, I64(step), flags=("nsw",))
        latch = b.block
        back = b.cbranch(b.icmp_signed("<", i_next, stop), inside, after)
        back.set_metadata("llvm.loop", self._unrolling(unroll))
        i.add_incoming(start, before)
        i.add_incoming(i_next, latch)
        b.position_at_end(after)
        results = []
        for phi, first, again in zip(phis, carried, following, strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(again, latch)
            if static:
                results.append(again)
                continue
            result = b.phi(first.type)
            result.add_incoming(first, before)
            result.add_incoming(again, latch)
            results.append(result)
        return results

    def _unrolling(self, count: int) -> ir.MDValue:
        """What tells LLVM to make one iteration of so many: a node that refers to itself first."""
        module = self.b.module
        how = [UNROLL_COUNT, ir.IntType(32)(count)] if count > 1 else ["llvm.loop.unroll.disable"]
        loop = module.add_metadata([f"loops of {count}"])
        loop.operands = (loop, module.add_metadata(how))
        return loop

    def _for(self, op: For) -> None:
        of = self.mapped(op.operands[: op.n_index])
        lo, hi = of(op.lo), of(op.hi)
        init = [self.scalars[v] for v in op.carried]
        if op.kind == "vector" and self.index.lane.n == 1:
            results = self._vector(op, lo, hi, init)
        elif self.index.varies(lo) or self.index.varies(hi):
            results = self._ragged(op, lo, hi, init)
        else:
            if self.index.lane.n > 1:
                init = [splat(self.b, v, self.index.lane.n) for v in init]
            results = self._serial(op, lo, hi, init)
        self.scalars.update(zip(op.results, results, strict=True))

    def _iteration(self, op: For, i: Dim, carried: Sequence[Any]) -> list[Any]:
        """One run of the body."""
        variable, *arguments = op.body.args
        self.exprs[variable] = i
        self.scalars.update(zip(arguments, carried, strict=True))
        n = self.index.lane.n
        return [splat(self.b, v, n) for v in self.block(op.body)]

    def _bound(self, x: Dim) -> Any:
        return x if isinstance(x, int) else self.index.scalar(x)

    def _variable(self, value: Any, lo: Dim, hi: Dim) -> Dim:
        if isinstance(lo, int):
            return self.index.fresh(value, lo, hi - lo)
        return self.index.fresh(value, 0)

    def _serial(self, op: For, lo: Dim, hi: Dim, carried: list[Any]) -> list[Any]:
        trips = hi - lo
        copies = op.unroll
        if op.kind == "unroll" and isinstance(trips, int):
            copies = max(trips, 1)

        def body(i: Any, values: list[Any]) -> list[Any]:
            first: Dim = i.constant if isinstance(i, ir.Constant) else self._variable(i, lo, hi)
            if count > 1 and not values and _apart(op):
                self._abreast(op, [first + k for k in range(count)])
                return values
            for k in range(count):
                values = self._iteration(op, first + k, values)
            return values

        middle = lo + trips // copies * copies
        for start, stop, count in ((lo, middle, copies), (middle, hi, 1)):
            if start != stop:
                carried = self.loop(self._bound(start), self._bound(stop), count, carried, body)
        return carried

    def _abreast(self, op: For, at: Sequence[Dim]) -> None:
        """Several iterations, one operation of all after the other: what they share is loaded once,
        and used up soon.
        """
        scalars, exprs = self.scalars, self.exprs
        maps = [(dict(scalars), {**exprs, op.body.args[0]: i}) for i in at]
        for inner in op.body.ops:
            for self.scalars, self.exprs in maps:
                self.op(inner)
        self.scalars, self.exprs = scalars, exprs

    def _ragged(self, op: For, lo: Dim, hi: Dim, init: list[Any]) -> list[Any]:
        """A loop whose bounds differ between the lanes: each takes part in its own iterations."""
        b, n = self.b, self.index.lane.n
        init = [splat(b, v, n) for v in init]
        low, high = self.index.lanes(lo), self.index.lanes(hi)
        outer = self.memory.mask
        if outer is not None:  # lanes that are off have no iterations
            high = b.select(outer, high, low)
        first, end = reduce_lanes(b, "smin", low), reduce_lanes(b, "smax", high)

        def body(i: Any, values: list[Any]) -> list[Any]:
            at = splat(b, i, n)
            mask = b.and_(b.icmp_signed(">=", at, low), b.icmp_signed("<", at, high))
            skipped = b.block
            some, after = b.append_basic_block("some"), b.append_basic_block("none")
            b.cbranch(any_lane(b, mask), some, after)
            b.position_at_end(some)
            self.memory.mask = mask
            following = self._iteration(op, self.index.fresh(i), values)
            self.memory.mask = outer
            last = b.block
            b.branch(after)
            b.position_at_end(after)
            out = []
            for x, old in zip(following, values, strict=True):
                phi = b.phi(x.type)
                phi.add_incoming(old, skipped)
                phi.add_incoming(x, last)
                out.append(b.select(mask, phi, old))
            return out

        return self.loop(first, end, 1, init, body)

    # Vector loops

    def _lanes(self, op: For, trips: Dim) -> int:
        """Lanes of a vector loop: one vector register of the widest scalar in its body."""
        bits = [8]
        for inner in op.body.walk():
            values = [*inner.results, *(a for r in inner.regions for a in r.args), *inner.operands]
            bits += [register_bits(v.dtype) for v in values if isinstance(v.type, ScalarType)]
        n = self.machine.lanes(max(bits))
        if isinstance(trips, int):
            n = min(n, 1 << max(trips - 1, 0).bit_length())
        return n

    def _vector(self, op: For, lo: Dim, hi: Dim, init: list[Any]) -> list[Any]:
        """Whole vectors, ``unroll`` of them at once; the rest by masks or one element at a time."""
        trips = hi - lo
        n = self._lanes(op, trips)
        if not self.machine.masked and isinstance(trips, int) and 0 < trips < n:
            n = 1 << (trips.bit_length() - 1)  # a scalar rest is dear
        dtypes = [v.dtype for v in op.carried]
        start: Dim = lo
        partial = [self.prims.identity(c, d) for c, d in zip(op.combine, dtypes, strict=True)]
        wide = n * op.unroll
        sizes = (
            [wide]
            if wide == n or (self.machine.masked and not isinstance(trips, int))
            else [wide, n]
        )
        partial = [splat(self.b, v, wide) for v in partial]
        at = wide
        for size in sizes:
            partial = self._fold_all(op, dtypes, partial, at, size)
            at = size
            stop = lo + trips // size * size
            partial = self._stage(op, start, stop, lo, hi, size, False, partial)
            start = stop
        partial = self._fold_all(op, dtypes, partial, at, n)
        if start != hi and self.machine.masked:
            partial = self._stage(op, start, hi, lo, hi, n, True, partial)
            start = hi
        partial = self._fold_all(op, dtypes, partial, n, 1)
        if start != hi:
            partial = self._stage(op, start, hi, lo, hi, 1, False, partial)
        return [
            self.prims.emit(c, d, first, x)
            for c, d, first, x in zip(op.combine, dtypes, init, partial, strict=True)
        ]

    def _stage(
        self, op: For, start: Dim, stop: Dim, lo: Dim, hi: Dim, n: int, masked: bool, partial: list
    ) -> list[Any]:
        """The iterations from start to stop, n at once."""
        if start == stop:
            return partial
        first, end = self._bound(start), self._bound(stop)
        saved = self.index.lane, self.memory.mask

        def body(i: Any, values: list[Any]) -> list[Any]:
            variable = self._variable(i, lo, hi)
            name = str(variable)
            aligned = expr.mod(lo, n) == 0
            self.index.lane = Lane(n, name if n > 1 else None, aligned)
            if masked:
                self.memory.mask = self.index.below(i, I64(end) if isinstance(end, int) else end)
            following = self._iteration(op, variable, values)
            if masked:
                mask = self.memory.mask
                following = [
                    self.b.select(mask, x, old) for x, old in zip(following, values, strict=True)
                ]
            self.index.lane, self.memory.mask = saved
            return following

        return self.loop(first, end, n, partial, body)

    def _fold_all(
        self, op: For, dtypes: list[DType], values: list[Any], lanes: int, to: int
    ) -> list[Any]:
        return [
            self._fold(c, d, v, lanes, to)
            for c, d, v in zip(op.combine, dtypes, values, strict=True)
        ]

    def _fold(self, combine: str, dt: DType, value: Any, lanes: int, to: int) -> Any:
        """Combines lanes that are a multiple of ``to`` apart, in a fixed order."""
        if lanes == to:
            return value
        if lanes // to & (lanes // to - 1) == 0:
            half = lanes // 2
            low, high = (slice_lanes(self.b, value, i, half) for i in (0, half))
            return self._fold(combine, dt, self.prims.emit(combine, dt, low, high), half, to)
        first, *rest = (slice_lanes(self.b, value, i, to) for i in range(0, lanes, to))
        for x in rest:
            first = self.prims.emit(combine, dt, first, x)
        return first


def _apart(op: For) -> bool:
    """Whether the iterations of a loop have no loops in them and read nothing that one writes."""
    loaded = {inner.buffer for inner in op.body.ops if isinstance(inner, Load)}
    stored = {inner.buffer for inner in op.body.ops if isinstance(inner, Store)}
    return not (loaded & stored) and not any(inner.regions for inner in op.body.ops)
