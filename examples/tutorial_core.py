"""The core of pjit in one file, on NumPy and llvmlite alone: ``python tutorial_core.py``.

A function is traced into a graph, the graph is cut into groups, and each group becomes one loop
nest, made by *pulling*: to compute an element of the result, ask its operator which elements of
its operands that takes, and so on back to memory. Fusion needs nothing else. A transpose or a
broadcast between two operators never exists as an array: it only changes an index.

Read from top to bottom. Each part begins with what it does and says what pjit does differently,
and where. To keep it short, arrays are contiguous f32, shapes are fixed and one thread runs.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numpy.lib.mixins import NDArrayOperatorsMixin

Shape = tuple[int, ...]
Index = Sequence[str | None]  # per dimension: the name of a loop variable; None is 0

# ---- 1. The graph ---------------------------------------------------------------------------
#
# An operation is an instance of its operator's class: operands, attributes and the shape of its
# one result, so that it can stand for that value. Each value is defined once (SSA form).
#
# In pjit (ir/core.py) values are objects of their own, as operations may have several results and
# regions, the bodies of branches and loops. Types have 13 dtypes and symbolic sizes
# (ir/types.py, ir/expr.py), each operation knows the user's line, and ir/verify.py checks it all.


class Op:
    """An operation, and its result."""

    infer: Callable  # the shape of the result, from those of the operands
    ref: Callable  # the result, from NumPy arrays
    element: Callable  # element(self, k, at): emits the code of one element of the result

    def __init__(self, *operands: Op, **attrs: Any) -> None:
        self.operands, self.attrs = operands, attrs
        self.shape: Shape = self.infer(*(x.shape for x in operands), **attrs)


class Input(Op):
    """An argument of the function."""

    infer = staticmethod(lambda shape: shape)


class Const(Op):
    """A number."""

    infer = staticmethod(lambda value: ())


def walk(result: Op) -> list[Op]:
    """The operations that a result needs, each after its operands."""
    order: dict[Op, None] = {}

    def visit(op: Op) -> None:
        for x in op.operands:
            if x not in order:
                visit(x)
        order[op] = None

    visit(result)
    return list(order)


def show(result: Op) -> str:
    """The graph as text, one operation a line."""
    order = walk(result)
    names = {op: f"%{i}" for i, op in enumerate(order)}
    lines = []
    for op in order:
        items = [names[x] for x in op.operands] + [f"{k}={v}" for k, v in op.attrs.items()]
        lines.append(f"  {names[op]} = {type(op).__name__}({', '.join(items)}): {list(op.shape)}")
    return "\n".join(lines)


# ---- 2. The operators -----------------------------------------------------------------------
#
# One class says everything about an operator: the shape of its result (`infer`), what it means in
# NumPy (`ref`), and its code. An elementwise operator has `scalar`, a function of the elements at
# one place; any other has an `element` of its own, which reads operands at the indices it computes.
# `k` is the kernel where the code goes (part 5).
#
# In pjit (ir/opdef.py, operators in ir/ops/) a class also has constraints with numbers, and
# samples with which tests/ops checks it in every dtype. Code is written with the scalar primitives
# of ir/loops.py, for all back ends. Further kinds of code are `decompose` (softmax is made of
# other operators), `tile` (matrix products, convolutions), `line` (scatters) and `host`.


class Elementwise(Op):
    """Operators on the elements at one place; defined by a NumPy ufunc and its code."""

    infer = staticmethod(np.broadcast_shapes)
    scalar: Callable

    def __init_subclass__(cls, ref: np.ufunc, scalar: Callable) -> None:
        cls.ref, cls.scalar = ref, staticmethod(scalar)

    def element(self, k: Kernel, at: Index) -> ir.Value:
        """Where an operand has size 1, its index is 0: that is all that broadcasting takes."""
        xs = []
        for x in self.operands:
            tail = at[len(at) - len(x.shape) :]
            xs.append(k.read(x, [i if n > 1 else None for i, n in zip(tail, x.shape, strict=True)]))
        return self.scalar(k, *xs)


class Add(Elementwise, ref=np.add, scalar=lambda k, x, y: k.b.fadd(x, y)):
    """The sum."""


class Mul(Elementwise, ref=np.multiply, scalar=lambda k, x, y: k.b.fmul(x, y)):
    """The product."""


class Div(Elementwise, ref=np.divide, scalar=lambda k, x, y: k.b.fdiv(x, y)):
    """The quotient."""


class Max(Elementwise, ref=np.maximum, scalar=lambda k, x, y: k.intrinsic("maximum", x, y)):
    """The larger; NaN propagates."""


class Sqrt(Elementwise, ref=np.sqrt, scalar=lambda k, x: k.intrinsic("sqrt", x)):
    """The square root."""


class Transpose(Op):
    """Dimension d of the result is dimension axes[d] of x."""

    ref = staticmethod(np.transpose)
    infer = staticmethod(lambda x, axes: tuple(x[a] for a in axes))

    def element(self, k: Kernel, at: Index) -> ir.Value:
        """The same indices in another order."""
        axes = self.attrs["axes"]
        return k.read(self.operands[0], [at[axes.index(d)] for d in range(len(axes))])


class ExpandDims(Op):
    """A new dimension of size 1."""

    ref = staticmethod(np.expand_dims)
    infer = staticmethod(lambda x, axis: (*x[:axis], 1, *x[axis:]))

    def element(self, k: Kernel, at: Index) -> ir.Value:
        """One index less."""
        axis = self.attrs["axis"]
        return k.read(self.operands[0], [*at[:axis], *at[axis + 1 :]])


class Sum(Op):
    """The sum along one dimension."""

    ref = staticmethod(np.sum)
    infer = staticmethod(lambda x, axis: (*x[:axis], *x[axis + 1 :]))

    def element(self, k: Kernel, at: Index) -> ir.Value:
        """A loop over one more index."""
        x, axis = self.operands[0], self.attrs["axis"]
        return k.sum(x.shape[axis], lambda i: k.read(x, [*at[:axis], i, *at[axis:]]))


# ---- 3. Tracing -----------------------------------------------------------------------------
#
# NumPy asks its arguments before it works on them: `__array_ufunc__` for np.add and its like,
# `__array_function__` for the rest. Called with tracers, the user's function thereby records its
# graph. For what is not in the tables NumPy raises a TypeError.
#
# In pjit (pjit/tracing/) a tracer is a cell, so that in-place writes and views mean what they mean
# in NumPy; dtypes are promoted as NumPy does, and a branch on a traced value is refused with the
# user's line. function.py there keeps one program per signature, and makes symbolic the sizes that
# change from call to call.


@dataclass(eq=False)
class Tracer(NDArrayOperatorsMixin):
    """Stands for an array while a function is traced."""

    op: Op

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *xs: Any, **options: Any) -> Any:
        if method != "__call__" or options or ufunc not in UFUNCS:
            return NotImplemented
        return Tracer(UFUNCS[ufunc](*(operation(x) for x in xs)))

    def __array_function__(self, f: Callable, types: Any, args: Any, options: Any) -> Any:
        return Tracer(FUNCTIONS[f](*args, **options)) if f in FUNCTIONS else NotImplemented


def operation(x: Any) -> Op:
    """The operation behind an operand; numbers become constants."""
    if isinstance(x, Tracer):
        return x.op
    if isinstance(x, int | float):
        return Const(value=float(x))
    raise TypeError(f"expected a tracer or a Python number, got {type(x).__name__}")


UFUNCS = {cls.ref: cls for cls in (Add, Mul, Div, Max, Sqrt)}
FUNCTIONS: dict[Callable, Callable] = {
    np.transpose: lambda x: Transpose(x.op, axes=tuple(reversed(range(len(x.op.shape))))),
    np.expand_dims: lambda x, axis: ExpandDims(x.op, axis=axis % (len(x.op.shape) + 1)),
    np.sum: lambda x, axis: Sum(x.op, axis=axis % len(x.op.shape)),
}


def interpret(result: Op, values: dict[Op, np.ndarray]) -> np.ndarray:
    """Runs the reference of each operation: what compiled code must agree with."""
    values = dict(values)
    for op in walk(result):
        if isinstance(op, Const):
            values[op] = np.array(op.attrs["value"], np.float32)
        elif op not in values:
            values[op] = type(op).ref(*(values[x] for x in op.operands), **op.attrs)
    return values[result]


# ---- 4. Groups ------------------------------------------------------------------------------
#
# Fusion is the choice of what is written to memory; all else is pulled. Going backward from a
# result, an operation joins the group if all its users are in it: its array is needed nowhere else.
# A sum must not be repeated for each element that it is broadcast to, so one joins only if the
# result of the group has its size.
#
# In pjit (passes/fuse.py) this is the `loop` group. A `row` group has the reductions of a row and
# what is around them, so that a softmax reads its input once; a `tile` group has a matrix product
# or convolution with its epilogue. The passes before (passes/pipelines.py) simplify the graph and
# choose layouts; passes/schedule.py then decides block sizes.


@dataclass
class Group:
    """Operations that become one kernel: it reads ``inputs`` and writes the result of ``root``."""

    root: Op
    members: set[Op]
    inputs: list[Op]


def groups_of(result: Op) -> list[Group]:
    """The groups of a graph, in the order in which they run."""
    everything = walk(result)
    order = [op for op in everything if not isinstance(op, Input | Const)]
    users = {x: {op for op in order if x in op.operands} for x in everything}
    groups: list[Group] = []
    grouped: set[Op] = set()
    for root in reversed(order):
        if root in grouped:
            continue
        members, has_sum = {root}, isinstance(root, Sum)
        for op in reversed(order[: order.index(root)]):
            if op in grouped or not users[op] <= members:
                continue
            if isinstance(op, Sum):
                if has_sum or prod(op.shape) != prod(root.shape):
                    continue
                has_sum = True
            members.add(op)
        grouped |= members
        border = {x for op in members for x in op.operands} - members
        inputs = [x for x in everything if x in border and not isinstance(x, Const)]
        groups.insert(0, Group(root, members, inputs))
    return groups


# ---- 5. Kernels -----------------------------------------------------------------------------
#
# A kernel is a loop nest over the result, the last dimension in vectors. `read` pulls: inside the
# group it asks the operator, at its border it loads. The stride that the vector loop's variable
# has in memory says how: 1 is a vector load, 0 one element for all lanes, else each lane loads. So
# that choice is made after transposes and broadcasts have cancelled or combined.
#
# In pjit pulling (passes/pull.py, passes/lower_loop.py) makes kernel IR (ir/loops.py), which has an
# interpreter, and backends/llvm/emit.py makes LLVM IR of that. Indices are polynomials with // and
# % over ranges (ir/expr.py), so slices, pads and reshapes are pulled too. passes/lower_row.py and
# lower_tile.py sum in vectors and register tiles. A kernel runs a share lo..hi of its outermost
# loop, so that threads divide it.

F32, I32, I64, PTR = ir.FloatType(), ir.IntType(32), ir.IntType(64), ir.PointerType()
LANES = 8


class Kernel:
    """The LLVM function of a group: a pointer per input, then one to the result."""

    def __init__(self, group: Group, name: str, module: ir.Module) -> None:
        buffers = [*group.inputs, group.root]
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [PTR] * len(buffers)), name)
        self.group, self.memory = group, dict(zip(buffers, function.args, strict=True))
        self.b = ir.IRBuilder(function.append_basic_block("entry"))
        self.variables: dict[str, ir.Value] = {}
        self.known: dict[tuple, ir.Value] = {}  # elements computed in this block or around it
        self.lanes, self.lane_variable = 1, f"i{len(group.root.shape) - 1}"
        self._nest([])
        self.b.ret_void()

    def _nest(self, at: list[str]) -> None:
        """The loops over the dimensions that have no index yet."""
        root, axis = self.group.root, len(at)
        if axis == len(root.shape):
            element = self.read(root, at)
            self.b.store(element, self._address(root, at)[0], align=4)
            return
        size = root.shape[axis]
        whole = size - size % LANES if axis == len(root.shape) - 1 else 0
        for over, lanes in ((range(0, whole, LANES), LANES), (range(whole, size), 1)):
            self.lanes = lanes
            self._loop(f"i{axis}", over, lambda i, _: self._nest([*at, i]))

    def _loop(self, name: str, over: range, body: Callable, start: Any = None) -> Any:
        """A loop of ``total = body(variable, total)``; returns the last total."""
        if not over:
            return start
        b, before, outside = self.b, self.b.block, self.known
        head = b.append_basic_block(f"loop.{name}")
        b.branch(head)
        b.position_at_end(head)
        i = self.variables[name] = b.phi(I64, name)
        total = None if start is None else b.phi(start.type, "total")
        self.known = dict(outside)
        result = body(name, total)
        self.known = outside
        following = b.add(i, I64(over.step))
        for phi, first, then in ((i, I64(over.start), following), (total, start, result)):
            if phi is not None:
                phi.add_incoming(first, before)
                phi.add_incoming(then, b.block)
        end = b.append_basic_block(f"end.{name}")
        b.cbranch(b.icmp_signed("<", following, I64(over.stop)), head, end)
        b.position_at_end(end)
        return result

    def read(self, x: Op, at: Index) -> ir.Value:
        """The element of a value at an index, in every lane: pulled or loaded."""
        key = (x, *at)
        if key not in self.known:
            if isinstance(x, Const):
                self.known[key] = self.constant(x.attrs["value"])
            elif x in self.group.members:
                self.known[key] = x.element(self, at)
            else:
                self.known[key] = self._load(x, at)
        return self.known[key]

    def sum(self, size: int, body: Callable[[str], ir.Value]) -> ir.Value:
        """The sum of ``body(i)`` for i < size, in that order."""
        zero = self.constant(0.0)
        return self._loop("k", range(size), lambda i, total: self.b.fadd(total, body(i)), zero)

    def constant(self, value: float) -> ir.Value:
        """A number in every lane."""
        if self.lanes == 1:
            return F32(value)
        return ir.Constant(ir.VectorType(F32, self.lanes), [F32(value)] * self.lanes)

    def intrinsic(self, name: str, *xs: ir.Value) -> ir.Value:
        """Calls ``llvm.<name>``."""
        full = f"llvm.{name}.{'f32' if self.lanes == 1 else f'v{self.lanes}f32'}"
        made = self.b.module.globals.get(full)
        type = ir.FunctionType(xs[0].type, [x.type for x in xs])
        return self.b.call(made or ir.Function(self.b.module, type, full), xs)

    def _address(self, x: Op, at: Index) -> tuple[ir.Value, int]:
        """The address of the first lane's element, and the stride from lane to lane."""
        offset, lane_stride = I64(0), 0
        for d, i in enumerate(at):
            stride = prod(x.shape[d + 1 :])
            if i is not None:
                offset = self.b.add(offset, self.b.mul(self.variables[i], I64(stride)))
                lane_stride += stride if i == self.lane_variable else 0
        return self.b.gep(self.memory[x], [offset], source_etype=F32), lane_stride

    def _load(self, x: Op, at: Index) -> ir.Value:
        address, stride = self._address(x, at)
        if self.lanes == 1 or stride == 1:
            return self.b.load(address, typ=self.constant(0.0).type, align=4)
        element = self.b.load(address, typ=F32)
        value = self.b.insert_element(self.constant(0.0), element, I32(0))
        for lane in range(1, self.lanes):
            if stride:
                place = self.b.gep(address, [I64(lane * stride)], source_etype=F32)
                element = self.b.load(place, typ=F32)
            value = self.b.insert_element(value, element, I32(lane))
        return value


# ---- 6. Running -----------------------------------------------------------------------------
#
# LLVM optimises the kernels and makes machine code of them; a call allocates the results of the
# groups and runs one kernel after the other.
#
# In pjit the kernels and the code between them are native functions that all threads enter
# (backends/llvm/build.py); memory is an arena, planned once for each set of sizes
# (pjit/runtime/plan.py); a call returns before its results exist (pjit/runtime/engine.py), and
# programs are kept on disk (pjit/runtime/cache.py).


class Program:
    """A function compiled for some shapes of its arguments."""

    def __init__(self, f: Callable, shapes: Sequence[Shape]) -> None:
        self.inputs = [Input(shape=s) for s in shapes]
        self.result = operation(f(*map(Tracer, self.inputs)))
        self.groups = {f"{f.__name__}{i}": g for i, g in enumerate(groups_of(self.result))}
        module = ir.Module(f.__name__)
        for name, group in self.groups.items():
            Kernel(group, name, module)
        self.llvm_ir = str(module)
        self.code = machine_code(self.llvm_ir, list(self.groups))

    def __call__(self, *arrays: np.ndarray) -> np.ndarray:
        """Runs the kernels on f32 arrays of these shapes."""
        values: dict[Op, np.ndarray] = {}
        for x, a in zip(self.inputs, arrays, strict=True):
            if a.dtype != np.float32 or a.shape != x.shape:
                raise TypeError(f"expected f32{list(x.shape)}, got {a.dtype}{list(a.shape)}")
            values[x] = np.ascontiguousarray(a)
        for name, group in self.groups.items():
            values[group.root] = np.empty(group.root.shape, np.float32)
            pointers = [values[x].ctypes.data for x in (*group.inputs, group.root)]
            kernel = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(pointers))
            kernel(self.code[name])(*pointers)
        return values[self.result]


def machine_code(llvm_ir: str, names: Sequence[str]) -> llvm.ResourceTracker:
    """Optimised code in memory; indexed by a name, it gives the address of that function."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    cpu, features = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    target = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(
        cpu=cpu, features=features, opt=2, reloc="pic", codemodel="small"
    )
    module = llvm.parse_assembly(llvm_ir)
    module.triple, module.data_layout = target.triple, str(target.target_data)
    module.verify()
    passes = llvm.create_pass_builder(target, llvm.create_pipeline_tuning_options(speed_level=2))
    passes.getModulePassManager().run(module, passes)
    library = llvm.JITLibraryBuilder().add_object_img(target.emit_object(module))
    for name in names:
        library.export_symbol(name)
    return library.link(llvm.create_lljit_compiler(use_jit_link=True), names[0])


# ---- 7. Examples ----------------------------------------------------------------------------
#
# Ordinary NumPy functions, compared with NumPy itself and with the references of the graph. In
# pjit such comparisons cover every operator and dtype (tests/ops/) and random graphs (tests/fuzz/).


def scale(x, w, b):
    """Three ways to fill the lanes: x element by element, w as a vector, b one for all."""
    return np.maximum(np.transpose(x) * w + np.expand_dims(b, 1), 0)


def dense(x, w, b):
    """A layer of a network, in one kernel: the [M, K, N] array of products never exists."""
    return np.maximum(np.sum(np.expand_dims(x, 2) * w, axis=1) + b, 0)


def normalize(x):
    """Rows of length 1, in two kernels, since each row uses its sum all along."""
    return x / np.sqrt(np.expand_dims(np.sum(x * x, axis=1), 1) + 1e-6)


def check(f: Callable, shapes: Sequence[Shape], kernels: int) -> Program:
    """Compiles a function, compares its results and prints its graph."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s).astype(np.float32) for s in shapes]
    program, expected = Program(f, shapes), f(*arrays)
    interpreted = interpret(program.result, dict(zip(program.inputs, arrays, strict=True)))
    np.testing.assert_allclose(interpreted, expected, rtol=1e-6)
    np.testing.assert_allclose(program(*arrays), expected, rtol=1e-4, atol=1e-5)
    assert len(program.groups) == kernels
    print(f"{f.__name__}: {f.__doc__}\n{show(program.result)}")
    print(f"  equal to NumPy's result; kernels: {', '.join(program.groups)}\n")
    return program


def main() -> None:
    """Run the examples and print what was made of them."""
    program = check(scale, [(37, 5), (37,), (5,)], kernels=1)
    check(dense, [(7, 24), (24, 19), (19,)], kernels=1)
    check(normalize, [(9, 33)], kernels=2)
    print(f"The kernel of `scale`, before LLVM optimises it:\n{program.llvm_ir}")
    vectors = program.llvm_ir.split("loop.i1:")[1].split("end.i1:")[0]
    assert vectors.count("load <8 x float>") == 1  # w
    assert vectors.count("load float") == LANES + 1  # x for each lane, and b
    assert vectors.count("store <8 x float>") == 1


if __name__ == "__main__":
    main()
