"""Runs modules at program level natively, on one thread of the caller or several of its own."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence

import numpy as np

from pjit.backends.llvm.build import build
from pjit.backends.llvm.module import NativeCode
from pjit.backends.llvm.target import LlvmMachine
from pjit.ir import expr
from pjit.ir.arrays import aligned_copy
from pjit.ir.call import ERROR_WORD, CallWords
from pjit.ir.core import Module
from pjit.ir.program import Segment
from pjit.ir.types import TensorType
from pjit.ir.view import view

ENTRY = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)


class NativeProgram:
    """A program of native segments; calling it runs them."""

    def __init__(self, module: Module, machine: LlvmMachine) -> None:
        self.module, self.view = module, view(module)
        segments = [s for s in self.view.steps if isinstance(s, Segment)]
        assert len(segments) == len(self.view.steps), "no host operations here"
        names = tuple(s.entry for s in segments)
        self.code = NativeCode(build(module, self.view, machine), names)
        self.entries = [ENTRY(self.code.address(n)) for n in names]

    def __call__(self, *arrays: np.ndarray, threads: int = 1) -> list[np.ndarray]:
        v = self.view
        symbols: dict[str, int] = {}
        for (_, t), a in zip(v.inputs, arrays, strict=True):
            for d, s in zip(t.shape, a.shape, strict=True):
                if isinstance(d, expr.Expr):
                    symbols[str(d)] = s
        inputs = [n for n, _ in v.inputs]

        def shape(t: TensorType) -> tuple[int, ...]:
            return tuple(int(expr.substitute(d, symbols)) for d in t.shape)

        rooms = {s.room for s in v.slots if s.room}
        largest = max((expr.product(shape(s.type)) * 8 for s in v.slots if s.room), default=0)
        memory = []
        for s in v.slots:
            if s.kind == "constant":
                source = self.module.constants[s.name]
            elif s.kind == "input":
                source = arrays[inputs.index(s.name)]
            elif s.room:  # one for each thread, as far apart as the largest needs
                source = np.zeros(threads * largest, np.uint8)
            else:
                source = np.full(shape(s.type), 77, s.type.dtype.numpy)
            memory.append(aligned_copy(source))
        words = CallWords.of(v)
        ctx = np.zeros(words.count(threads), np.int64)
        for i, d in enumerate(v.sizes):
            ctx[words.size(i)] = expr.substitute(d, symbols)
        for room in rooms:
            ctx[words.size(room.size)] = largest
        for i, m in enumerate(memory):
            ctx[words.slot(i)] = m.ctypes.data
        for entry in self.entries:
            ctx[0] = 0
            others = [
                threading.Thread(target=entry, args=(ctx.ctypes.data, t, threads))
                for t in range(1, threads)
            ]
            for other in others:
                other.start()
            entry(ctx.ctypes.data, 0, threads)
            for other in others:
                other.join()
        assert ctx[ERROR_WORD] == 0, f"the program failed with code {ctx[ERROR_WORD]}"
        assert not ctx[words.cursor(0) :].any(), "pieces that are taken already in the next call"
        return [memory[s].reshape(shape(t)) for _, s, t in v.results]


def same_bits(xs: Sequence[np.ndarray], ys: Sequence[np.ndarray]) -> bool:
    """Whether two results are equal bit for bit."""
    return all(x.tobytes() == y.tobytes() for x, y in zip(xs, ys, strict=True))
