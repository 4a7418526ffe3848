"""Calls that need the interpreter: operations run by their reference, between native segments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from pjit.errors import ExecutionError, PjitError
from pjit.ir import expr, ops
from pjit.ir.call import BARRIER_WORD, ERROR_WORD
from pjit.ir.core import Block, Constants, Function, Module, Value
from pjit.ir.expr import Expr
from pjit.ir.interp import evaluate, interpret
from pjit.ir.program import HostStep, Segment
from pjit.passes.snapshot import clone_block
from pjit.runtime.memory import address_of, allocate
from pjit.runtime.plan import Frame, Plan, sizes_of

if TYPE_CHECKING:
    from pjit.runtime.program import Runnable


class HostOperation:
    """An operation of a program that runs on the host, as a function of its own.

    Args:
        step: The operation and the slots that it reads and writes.
        constants: The constants of the program.
    """

    def __init__(self, step: HostStep, constants: Mapping[str, np.ndarray]) -> None:
        self.step = step
        op = step.op
        outer = [v for v, _ in step.captured]
        body = Block([v.type for v in (*op.operands, *outer)])
        values: dict[Value, Value] = dict(zip(outer, body.args[len(op.operands) :], strict=True))
        regions = [clone_block(r, values) for r in op.regions]
        types = [r.type for r in op.results]
        copy = body.append(
            type(op)(body.args[: len(op.operands)], op.attrs, types, op.loc, regions)
        )
        body.append(ops.Return(copy.results, {}, (), op.loc))
        self._module = Module(constants=Constants(constants))
        self._module.add(Function("host", body))
        self.slots = [s for s, _ in step.inputs] + [s for _, s in step.captured]
        self.types = [t for _, t in step.inputs] + [v.tensor for v in outer]

    def run(self, arrays: Sequence[np.ndarray], values: Mapping[str, int]) -> list[np.ndarray]:
        """The results, row-major and in memory of their own.

        Raises:
            ExecutionError: The operation failed.
        """
        op = self.step.op
        try:
            results = interpret(self._module, *arrays, symbols=values)
        except PjitError as e:
            raise ExecutionError(
                f"{op.op_name} failed: {e.what}", where=str(op.loc), expected=e.expected, got=e.got
            ) from e
        except Exception as e:
            raise ExecutionError(
                f"{op.op_name} failed", where=str(op.loc), got=f"{type(e).__name__}: {e}"
            ) from e
        return [_own(r, arrays) for r in results]


def _possible(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the negative sizes of a branch that is not taken."""
    return tuple(max(0, d) for d in shape)


def _own(result: np.ndarray, operands: Sequence[np.ndarray]) -> np.ndarray:
    shared = any(np.may_share_memory(result, a) for a in operands)
    return np.array(result, order="C", copy=True if shared else None)


class HostedCall:
    """One call, run step by step by the dispatcher.

    Args:
        program: The program.
        plan: Its sizes.
        frame: The context.
        made: The arrays of ``plan.outputs``.
        inputs: The inputs.
    """

    def __init__(
        self,
        program: Runnable,
        plan: Plan,
        frame: Frame,
        made: Sequence[np.ndarray],
        inputs: Sequence[np.ndarray],
    ) -> None:
        self.program, self.layout, self.frame = program, program.layout, frame
        self.values = dict(plan.values)
        self.memory: dict[int, np.ndarray] = {}  # by slot
        view = self.layout.view
        for i, v in enumerate(inputs):
            self._bind(i, v)
        for o, array in zip(plan.outputs, made, strict=True):
            self.memory[o.slot] = array
        for s in view.slots:
            if s.kind == "constant":
                self.memory[s.index] = self.layout.constants[s.name]
        for i, offset in plan.places.items():
            t = view.slots[i].type
            assert frame.arena is not None
            shape = _possible(sizes_of(t.shape, self.values))
            self.memory[i] = np.ndarray(shape, t.dtype.numpy, frame.arena.memory, offset)

    def run(
        self, entries: Mapping[str, int], operations: Sequence[HostOperation]
    ) -> list[np.ndarray]:
        """Runs all steps.

        Returns:
            The results, read-only.

        Raises:
            ExecutionError: A step failed.
        """
        pending = iter(operations)
        for step in self.layout.view.steps:
            if isinstance(step, Segment):
                self._segment(step, entries[step.entry])
            else:
                self._operation(next(pending))
        return [self._result(slot, t.shape) for _, slot, t in self.layout.view.results]

    def _bind(self, slot: int, array: np.ndarray) -> None:
        self.memory[slot] = array
        self.frame.words[self.layout.words.slot(slot)] = address_of(array)

    def _segment(self, segment: Segment, entry: int) -> None:
        layout, words = self.layout, self.frame.words
        for i in layout.late_sizes:
            d = layout.view.sizes[i]
            if expr.symbols(d) <= self.values.keys():
                words[layout.words.size(i)] = evaluate(d, self.values)
        for slot in segment.slots():
            if slot in layout.late and slot not in self.memory:
                t = layout.view.slots[slot].type
                shape = _possible(sizes_of(t.shape, self.values))
                nbytes = prod(shape) * t.dtype.itemsize
                self._bind(slot, allocate(shape, t.dtype.numpy, nbytes)[0])
        words[BARRIER_WORD] = 0
        self.program.engine.run(entry, self.frame.address)
        if code := words[ERROR_WORD]:
            raise self.program.failure(code)

    def _operation(self, operation: HostOperation) -> None:
        arrays = [
            self.memory[s].reshape(sizes_of(t.shape, self.values))
            for s, t in zip(operation.slots, operation.types, strict=True)
        ]
        results = operation.run(arrays, self.values)
        for (slot, t), array in zip(operation.step.outputs, results, strict=True):
            for d, n in zip(t.shape, array.shape, strict=True):
                if isinstance(d, Expr) and str(d) in expr.symbols(d):
                    self.values.setdefault(str(d), n)
            self._bind(slot, array)
        self.program.signature.check_late(self.values)

    def _result(self, slot: int, shape: tuple) -> np.ndarray:
        array = self.memory[slot]
        if self.layout.view.slots[slot].kind in ("input", "constant"):
            array = array.copy()
        array = array.reshape(sizes_of(shape, self.values))
        array.flags.writeable = False
        return array
