"""Helpers of the tests: small modules from functions, run by the interpreters or natively."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pjit.ir import expr, ops
from pjit.ir.builder import Builder
from pjit.ir.core import Block, Function, Loc, Module, Value
from pjit.ir.interp import interpret_kernel
from pjit.ir.program import Segment
from pjit.ir.target import Machine
from pjit.ir.types import TensorType, dtype
from pjit.ir.view import view
from pjit.passes.context import Context
from pjit.passes.decompose import Decompose
from pjit.passes.fuse import Fuse
from pjit.passes.lower import Lower
from pjit.passes.schedule import Schedule

LOC = Loc("test.py:1")


def types_of(arrays: Sequence[np.ndarray]) -> list[TensorType]:
    """Static types of arrays."""
    return [TensorType(dtype(a), tuple(a.shape)) for a in arrays]


def graph(build: Callable[..., Any], types: Sequence[TensorType]) -> Module:
    """A module whose main function is what ``build(builder, *values)`` builds."""
    module = Module()
    body = Block(types, [f"x{i}" for i in range(len(types))])
    module.add(Function("main", body))
    b = Builder(body, LOC, module)
    result = build(b, *body.args)
    b(ops.Return, *(result if isinstance(result, tuple | list) else [result]))
    return module


def lower(module: Module, machine: Machine | None = None) -> Module:
    """Decomposes, groups and lowers a module in place."""
    context = Context(machine=machine or Machine("test"))
    for p in (Decompose(), Fuse(), Schedule(), Lower()):
        p.run(module, context)
    return module


def run_kernels(module: Module, *arrays: np.ndarray) -> list[np.ndarray]:
    """Runs a module at program level through the interpreter of the kernel level."""
    v = view(module)
    symbols: dict[str, int] = {}
    for (_, t), a in zip(v.inputs, arrays, strict=True):
        for d, s in zip(t.shape, a.shape, strict=True):
            if isinstance(d, expr.Expr):
                symbols[str(d)] = s
    names = [n for n, _ in v.inputs]

    def shape(t: TensorType) -> tuple[int, ...]:
        return tuple(int(expr.substitute(d, symbols)) for d in t.shape)

    memory: dict[int, np.ndarray] = {}
    for s in v.slots:
        if s.kind == "constant":
            memory[s.index] = module.constants[s.name]
        elif s.kind == "input":
            memory[s.index] = arrays[names.index(s.name)]
        else:
            memory[s.index] = np.zeros(shape(s.type), s.type.dtype.numpy)
    sizes = [int(expr.substitute(d, symbols)) for d in v.sizes]
    for step in v.steps:
        assert isinstance(step, Segment), "no host operations here"
        for launch in step.steps:
            kernel = module.functions[launch.kernel]
            bound = dict(
                zip(kernel.attrs["symbols"], [sizes[i] for i in launch.sizes], strict=True)
            )
            views = [
                memory[i].reshape(tuple(int(expr.substitute(d, bound)) for d in a.shape))
                for i, a in zip(launch.slots, kernel.args, strict=True)
            ]
            interpret_kernel(kernel, views, bound)
    return [memory[s].reshape(shape(t)) for _, s, t in v.results]


def one_op(op: str, types: Sequence[TensorType], attrs: dict[str, Any]) -> Module:
    """A module of one operation."""

    def build(b: Builder, *xs: Value) -> Any:
        return b(op, *xs, **attrs)

    return graph(build, types)


def close(got: np.ndarray, want: np.ndarray, tolerance: float) -> bool:
    """Equal shape, dtype and NaNs, and max|a-b| at most ``tolerance * max|want|`` (exact for
    ints).
    """
    got, want = np.asarray(got), np.asarray(want)
    if got.shape != want.shape or got.dtype != want.dtype:
        return False
    if want.dtype.kind in "iub":
        return bool(np.array_equal(got, want))
    a, b = got.astype(np.float64), want.astype(np.float64)
    if not np.array_equal(np.isnan(a), np.isnan(b)):
        return False
    with np.errstate(invalid="ignore"):
        gap = np.where(a == b, 0.0, np.abs(a - b))
    finite = np.abs(b[np.isfinite(b)])
    scale = finite.max() if finite.size else 0.0
    return bool(np.nanmax(gap, initial=0.0) <= tolerance * (scale + 1e-6))
