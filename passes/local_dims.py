"""Gives the dimensions of a group names of its own.

In a network whose sizes are free, a dimension may be a long expression such as ``((H + 1)//2 +
1)//2``. In a kernel it is just a number: here each such part becomes a symbol, whose value the
launch passes as an argument. Index arithmetic then simplifies (``(i//d)*d + i%d`` is recognised
when ``d`` is a symbol), and groups that differ in their expressions only have one kernel.
"""

from __future__ import annotations

from typing import Any

from pjit.ir import expr
from pjit.ir.core import Block, Op, Value
from pjit.ir.expr import Atom, Call, Dim, Expr
from pjit.ir.ops.fused import Fused
from pjit.ir.types import TensorType

UNBOUNDED = -(1 << 40)  # the least value of a part of which nothing is known


class LocalDims:
    """Renames the symbols and the divisions, minima and maxima of a group's dimensions, in place.

    Attributes:
        actual: Name of each symbol -> what it is in the function that holds the group.
    """

    def __init__(self, fused: Fused) -> None:
        self.actual: dict[str, Dim] = {}
        self._atoms: dict[Atom, Expr] = {}
        self._block(fused.body)

    def _block(self, block: Block) -> None:
        for v in block.args:
            self._value(v)
        for op in block.ops:
            self._op(op)

    def _op(self, op: Op) -> None:
        for v in op.results:
            self._value(v)
        op.attrs = {k: self._attribute(x) for k, x in op.attrs.items()}

    def _value(self, v: Value) -> None:
        if isinstance(v.type, TensorType):
            v.type = v.type.with_shape(tuple(self.dim(d) for d in v.type.shape))

    def _attribute(self, x: Any) -> Any:
        if isinstance(x, tuple):
            return tuple(self._attribute(part) for part in x)
        return self.dim(x) if isinstance(x, Expr) else x

    def dim(self, d: Dim) -> Dim:
        """A dimension in terms of the group's own symbols."""
        if isinstance(d, int):
            return d
        total: Dim = 0
        for monomial, c in d.terms:
            term: Dim = c
            for atom in monomial:
                term = term * self._symbol(atom)
            total = total + term
        return total

    def _symbol(self, atom: Atom) -> Expr:
        if atom not in self._atoms:
            name = f"d{len(self._atoms)}"
            whole = expr.atom(atom)
            low = expr.lower_bound(whole) if isinstance(atom, Call) else atom.low
            self._atoms[atom] = expr.sym(name, UNBOUNDED if low is None else low)
            self.actual[name] = whole
        return self._atoms[atom]
