"""Interpreters: a graph by the references of its operators, a kernel element by element.

Both are oracles: slow, simple, and strict about types, shapes and bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from pjit.ir import expr
from pjit.ir.core import Block, Function, Module, Op, Value
from pjit.ir.errors import IRError
from pjit.ir.expr import Call, Dim, Expr
from pjit.ir.loops import Prim
from pjit.ir.types import BufferType, TensorType, dtype

Arrays = tuple[np.ndarray, ...]


def interpret(module: Module, *arrays: Any, symbols: Mapping[str, int] | None = None) -> Arrays:
    """Runs the main function of a module (level graph, fused or program) on the host.

    Args:
        module: What to run.
        arrays: One array per argument, of the argument's dtype; anything NumPy makes an array of.
        symbols: Sizes that the shapes of the arguments do not determine.

    Returns:
        The results.

    Raises:
        IRError: An argument does not fit its type, or an operation computes something else than
            its type says.
    """
    function = module.main
    if len(arrays) != len(function.args):
        raise IRError(
            f"@{function.name} has {len(function.args)} arguments", got=f"{len(arrays)} arrays"
        )
    runner = _Graph(module, symbols)
    values = [np.asarray(a) for a in arrays]
    runner.bind_arguments(function, values)
    with np.errstate(all="ignore"):
        return runner.run(function.body, values)


class _Graph:
    """Runs blocks of tensor operations; ``sizes`` holds the symbols known so far."""

    def __init__(self, module: Module, symbols: Mapping[str, int] | None = None) -> None:
        self.module, self.sizes = module, dict(symbols or {})
        self.values: dict[Value, np.ndarray] = {}
        self.introduced: dict[str, Op] = {}  # symbols that a result's shape defined

    def bind_arguments(self, function: Function, arrays: Sequence[np.ndarray]) -> None:
        """Solves the sizes of the arguments, and checks them against the types."""
        for v, a in zip(function.args, arrays, strict=True):
            where = f"argument {v.index}{f' (%{v.name})' if v.name else ''} of @{function.name}"
            if a.ndim != v.tensor.rank or dtype(a.dtype) != v.dtype:
                raise IRError(
                    "an argument has another type", where=where, expected=v.type, got=_text(a)
                )
            solve(v.shape, a.shape, self.sizes)
        for v, a in zip(function.args, arrays, strict=True):
            wanted = v.tensor.substitute(self.sizes)
            if wanted.shape != a.shape:
                where = f"argument {v.index} of @{function.name}"
                raise IRError(
                    "the shape of an argument does not fit the sizes of the others",
                    where=where,
                    expected=f"{v.type}, which is {wanted} for {self.sizes}",
                    got=_text(a),
                )

    def run(self, block: Block, arguments: Sequence[np.ndarray]) -> Arrays:
        """Runs a block; returns the operands of its terminator."""
        self.values.update(zip(block.args, arguments, strict=True))
        for op in block.ops[:-1]:
            self.step(op)
        return tuple(self.values[v] for v in block.last.operands)

    def step(self, op: Op) -> None:
        """Runs one operation."""
        results = self.evaluate(op)
        if len(results) != len(op.results):
            raise IRError(f"{op.op_name} gave {len(results)} results", where=str(op.loc))
        for v, a in zip(op.results, results, strict=True):
            self.values[v] = self.checked(op, v, np.asarray(a))

    def evaluate(self, op: Op) -> Sequence[np.ndarray]:
        """The results of an operation."""
        operands = [self.values[v] for v in op.operands]
        if op.op_name in _STRUCTURAL:
            return _STRUCTURAL[op.op_name](self, op, operands)
        ref = getattr(op, "ref", None)
        if ref is None:
            raise IRError(f"{op.op_name} has no reference to interpret", where=str(op.loc))
        attrs = {k: self.known(op, v) for k, v in op.attrs.items()}
        results = ref(*operands, **attrs)
        return results if isinstance(results, tuple | list) else (results,)

    def known(self, op: Op, value: Any) -> Any:
        """An attribute with its sizes put in."""
        if isinstance(value, tuple | list):
            return tuple(self.known(op, v) for v in value)
        if not isinstance(value, Expr):
            return value
        result = expr.substitute(value, self.sizes)
        if isinstance(result, Expr):
            unknown = ", ".join(sorted(expr.symbols(result)))
            raise IRError(
                f"{op.op_name} uses sizes that are not known",
                where=str(op.loc),
                got=unknown,
                remedy="pass them as `symbols`",
            )
        return result

    def checked(self, op: Op, v: Value, a: np.ndarray) -> np.ndarray:
        """The result, if it has the value's type; sizes that depend on data become known here."""
        if dtype(a.dtype) != v.dtype or a.ndim != v.tensor.rank:
            self.wrong(op, v.tensor, a)
        for d, n in zip(v.shape, a.shape, strict=True):
            name = str(d)
            new = isinstance(d, Expr) and name in expr.symbols(d) and name not in self.sizes
            if new or self.introduced.get(name) is op:
                self.sizes[name], self.introduced[name] = n, op
        wanted = v.tensor.substitute(self.sizes)
        if wanted.shape != a.shape:
            self.wrong(op, wanted, a)
        return a

    def wrong(self, op: Op, wanted: TensorType, a: np.ndarray) -> None:
        """Raises an IRError: a result has another type than it should."""
        raise IRError(
            f"{op.op_name} computed another type than its result has",
            where=str(op.loc),
            expected=wanted,
            got=_text(a),
        )

    def constant(self, op: Op, operands: Sequence[np.ndarray]) -> Arrays:
        """The array of a constant."""
        array = self.module.constants.get(op.attrs["value"])
        if array is None:
            raise IRError(f"the module has no constant @{op.attrs['value']}", where=str(op.loc))
        return (array,)

    def fused(self, op: Op, operands: Sequence[np.ndarray]) -> Arrays:
        """Runs a group."""
        return self.run(op.regions[0], operands)

    def launch(self, op: Op, operands: Sequence[np.ndarray]) -> Arrays:
        """Runs a kernel."""
        kernel = self.module.functions[op.attrs["kernel"]]
        types = [v.tensor.substitute(self.sizes) for v in op.results]
        outputs = tuple(np.empty(t.static_shape, t.dtype.numpy) for t in types)
        values = [int(expr.substitute(d, self.sizes)) for d in op.attrs["sizes"]]  # type: ignore[arg-type]
        sizes = dict(zip(kernel.attrs["symbols"], values, strict=True))
        interpret_kernel(kernel, (*operands, *outputs), sizes)
        return outputs

    def bands(self, op: Op, operands: Sequence[np.ndarray]) -> Arrays:
        """Runs the launches one after the other."""
        return self.run(op.regions[0], ())

    def if_(self, op: Op, operands: Sequence[np.ndarray]) -> Arrays:
        """Runs one of the two regions."""
        return self.run(op.regions[0 if operands[0].item() else 1], ())

    def while_(self, op: Op, operands: Sequence[np.ndarray]) -> Arrays:
        """Runs a loop."""
        cond, body = op.regions
        carried = tuple(operands)
        while self.run(cond, carried)[0].item():
            carried = self.run(body, carried)
        return carried

    def scan(self, op: Op, operands: Sequence[np.ndarray]) -> Arrays:
        """Runs a region for each slice."""
        n = op.attrs["n_carry"]
        carried, xs = tuple(operands[:n]), operands[n:]
        stacks: list[list[np.ndarray]] = [[] for _ in op.results[n:]]
        for i in range(len(xs[0])):
            out = self.run(op.regions[0], (*carried, *(x[i] for x in xs)))
            carried = out[:n]
            for stack, y in zip(stacks, out[n:], strict=True):
                stack.append(y)
        ys = []
        for v, stack in zip(op.results[n:], stacks, strict=True):
            shape = v.tensor.substitute(self.sizes).static_shape
            ys.append(np.stack(stack) if stack else np.zeros((0, *shape[1:]), v.dtype.numpy))
        return (*carried, *ys)


_STRUCTURAL: dict[str, Callable[..., Sequence[np.ndarray]]] = {
    "const": _Graph.constant,
    "fused": _Graph.fused,
    "launch": _Graph.launch,
    "bands": _Graph.bands,
    "if": _Graph.if_,
    "while": _Graph.while_,
    "scan": _Graph.scan,
}
Runner = _Graph  # runs operations one by one: ``step``


def solve(dims: Sequence[Dim], shape: Sequence[int], sizes: dict[str, int]) -> None:
    """Adds what the dimensions that are bare symbols are in a shape, unless they are known."""
    for d, n in zip(dims, shape, strict=True):
        if isinstance(d, Expr) and str(d) in expr.symbols(d):
            sizes.setdefault(str(d), n)


def _text(a: np.ndarray) -> str:
    return f"{a.dtype}{list(a.shape)}"


# Kernels


def evaluate(x: Dim, values: Mapping[str, int]) -> int:
    """The number that an expression stands for; every symbol must have a value."""
    if isinstance(x, int):
        return x
    total = 0
    for monomial, coefficient in x.terms:
        term = coefficient
        for atom in monomial:
            if isinstance(atom, Call):
                left, right = evaluate(atom.lhs, values), evaluate(atom.rhs, values)
                term *= _CALLS[atom.op](left, right)
            else:
                term *= values[atom.name]
        total += term
    return total


_CALLS: dict[str, Callable[[int, int], int]] = {
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "min": min,
    "max": max,
}


def interpret_kernel(
    function: Function, arrays: Sequence[np.ndarray], sizes: Mapping[str, int] | None = None
) -> None:
    """Runs a kernel one element at a time; loops of every kind run in order.

    Args:
        function: A function of level ``kernel``.
        arrays: One array per buffer, the inputs and then the outputs, which are written.
        sizes: The values of the kernel's symbols.

    Raises:
        IRError: An array does not fit its buffer, an access is out of bounds, or a data-dependent
            index is out of range.
    """
    sizes = dict(sizes or {})
    if len(arrays) != len(function.args):
        raise IRError(
            f"@{function.name} has {len(function.args)} buffers", got=f"{len(arrays)} arrays"
        )
    for v, a in zip(function.args, arrays, strict=True):
        assert isinstance(v.type, BufferType), v.type
        shape = tuple(evaluate(d, sizes) for d in v.type.shape)
        if a.shape != shape or dtype(a.dtype) != v.dtype:
            raise IRError(
                "an array does not fit its buffer",
                where=f"buffer {v.index} of @{function.name}",
                expected=f"{v.type}, with shape {list(shape)}",
                got=_text(a),
            )
    with np.errstate(all="ignore"):
        _Kernel(sizes).run(function.body, arrays)


class _Kernel:
    def __init__(self, sizes: dict[str, int]) -> None:
        self.sizes = sizes
        self.values: dict[Value, Any] = {}

    def run(self, block: Block, arguments: Sequence[Any]) -> tuple[Any, ...]:
        """Runs a block; returns the operands of its terminator."""
        self.values.update(zip(block.args, arguments, strict=True))
        for op in block.ops[:-1]:
            if isinstance(op, Prim):
                self.values[op.result] = self.primitive(op)
            elif op.op_name in _KERNEL:
                results = _KERNEL[op.op_name](self, op)
                self.values.update(zip(op.results, results, strict=True))
            else:
                raise IRError(f"{op.op_name} is no operation of a kernel", where=str(op.loc))
        return tuple(self.values[v] for v in block.last.operands)

    def primitive(self, op: Prim) -> Any:
        result = np.asarray(op.ref(*(self.values[v] for v in op.operands)))
        if result.dtype != op.result.dtype.numpy:
            raise IRError(
                f"{op.op_name} computed another type than its result has",
                where=str(op.loc),
                expected=op.result.type,
                got=result.dtype,
            )
        return result[()]

    def environment(self, indices: Sequence[Value]) -> dict[str, int]:
        return {**self.sizes, **{f"#{i}": self.values[v] for i, v in enumerate(indices)}}

    def access(
        self, op: Op, buffer: np.ndarray, exprs: Sequence[Dim], env: Mapping[str, int]
    ) -> tuple:
        """An index, which must lie in the buffer."""
        at = tuple(evaluate(e, env) for e in exprs)
        if not all(0 <= i < n for i, n in zip(at, buffer.shape, strict=True)):
            raise IRError(
                f"{op.op_name} goes out of bounds",
                where=str(op.loc),
                expected=f"an index below {list(buffer.shape)}",
                got=f"{list(at)}, from [{', '.join(map(str, exprs))}]",
            )
        return at

    # Operations, each giving its results

    def for_(self, op: Op) -> tuple[Any, ...]:
        n = op.attrs["n_index"]
        env = self.environment(op.operands[:n])
        carried = tuple(self.values[v] for v in op.operands[n:])
        for i in range(evaluate(op.attrs["lo"], env), evaluate(op.attrs["hi"], env)):
            carried = self.run(op.regions[0], (i, *carried))
        return carried

    def load(self, op: Op) -> tuple[Any, ...]:
        buffer, env = self.values[op.operands[0]], self.environment(op.operands[1:])
        if not holds(op.attrs["guards"], env):
            return (scalar(op.attrs["otherwise"], op.result),)
        return (buffer[self.access(op, buffer, op.attrs["map"], env)],)

    def store(self, op: Op) -> tuple[Any, ...]:
        value, buffer = (self.values[v] for v in op.operands[:2])
        env = self.environment(op.operands[2:])
        if holds(op.attrs["guards"], env):
            buffer[self.access(op, buffer, op.attrs["map"], env)] = value
        return ()

    def scratch(self, op: Op) -> tuple[Any, ...]:
        dt = op.attrs["dtype"]
        memory = np.ones(op.attrs["shape"], dt.numpy)
        if dt.kind != "b":  # what is read before it is written must show: NaN, or -1
            memory.view(np.uint8)[...] = 0xFF
        return (memory,)

    def const(self, op: Op) -> tuple[Any, ...]:
        return (scalar(op.attrs["value"], op.result),)

    def index(self, op: Op) -> tuple[Any, ...]:
        return (np.int64(evaluate(op.attrs["map"][0], self.environment(op.operands))),)

    def to_index(self, op: Op) -> tuple[Any, ...]:
        value = int(self.values[op.operands[0]])
        extent = evaluate(op.attrs["extent"], self.environment(op.operands[1:]))
        least = 0 if op.attrs["known"] else -extent
        if not least <= value < extent:
            raise IRError(
                f"{op.attrs['what']} out of range",
                where=str(op.loc),
                expected=f"{least} <= index < {extent}",
                got=value,
            )
        return (value + extent if value < 0 else value,)

    def inside(self, op: Op) -> tuple[Any, ...]:
        return (np.bool_(holds(op.attrs["guards"], self.environment(op.operands))),)

    def cast(self, op: Op) -> tuple[Any, ...]:
        return (self.values[op.operands[0]].astype(op.attrs["dtype"].numpy),)

    def contract(self, op: Op) -> tuple[Any, ...]:
        """One tile, by the definition in ``ir.loops.Contraction``."""
        a, b = (self.values[v] for v in op.operands[:2])
        env = self.environment(op.operands[2:])
        attrs, of = op.attrs, b.dtype.type
        rows = [evaluate(d, env) for d in attrs["rows"]]
        row0, col0 = evaluate(attrs["row0"], env), evaluate(attrs["col0"], env)
        depth, cols = evaluate(attrs["depth"], env), evaluate(attrs["cols"], env)
        taps = list(product(*map(range, attrs["taps"])))
        total = int(np.prod(rows))
        if total and not 0 <= row0 < total:
            raise IRError(
                "a tile begins at one of the rows",
                where=str(op.loc),
                expected=f"row 0 to {total - 1}",
                got=row0,
            )
        for row in range(row0, min(row0 + attrs["mr"], total)):
            coordinates = [int(i) for i in np.unravel_index(row, rows)] if rows else []
            env.update({f"#r{i}": r for i, r in enumerate(coordinates)})
            sums = [of(0)] * attrs["nr"]
            for tap, k in product(taps, range(depth)):
                env.update({f"#t{i}": t for i, t in enumerate(tap)}, **{"#k": k})
                left = of(0)
                if holds(attrs["a_guards"], env):
                    left = of(a[self.access(op, a, attrs["a_map"], env)])
                for c in range(attrs["nr"]):
                    env["#c"] = c
                    sums[c] = sums[c] + left * b[self.access(op, b, attrs["b_map"], env)]
            for c in range(min(attrs["nr"], cols - col0)):
                self.run(op.regions[0], (sums[c], *coordinates, col0 + c))
        return ()


_KERNEL: dict[str, Callable[[_Kernel, Op], tuple[Any, ...]]] = {
    "k.for": _Kernel.for_,
    "k.load": _Kernel.load,
    "k.store": _Kernel.store,
    "k.scratch": _Kernel.scratch,
    "k.const": _Kernel.const,
    "k.index": _Kernel.index,
    "k.to_index": _Kernel.to_index,
    "k.inside": _Kernel.inside,
    "k.cast": _Kernel.cast,
    "k.contract": _Kernel.contract,
}


def holds(guards: Sequence[tuple[Dim, Dim]], values: Mapping[str, int]) -> bool:
    """Whether ``0 <= expression < bound`` for all guards."""
    return all(0 <= evaluate(e, values) < evaluate(bound, values) for e, bound in guards)


def scalar(value: Any, like: Value) -> Any:
    """A number with the dtype of a value."""
    return np.asarray(value).astype(like.dtype.numpy)[()]
