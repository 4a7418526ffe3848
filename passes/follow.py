"""Which dimension of a result has the items of a dimension of the operands, each by itself.

An operator says how an element of its result follows from elements of its operands. Where their
index along the dimension that is followed is the index of a dimension of the result, and nothing
else depends on that, an item of the result follows from the same item of the operands alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pjit.ir import expr
from pjit.ir.core import Block, Op, Value
from pjit.ir.expr import Dim
from pjit.ir.kernel_builder import ScalarBuilder
from pjit.ir.loops import Guards
from pjit.ir.opdef import Elementwise, OpDef
from pjit.ir.types import DType
from pjit.passes.pull import GroupPuller, Read, broadcast_index


class _Follower(GroupPuller):
    """Notes with which indices the operands of an operation are read, and what else depends on
    indices.
    """

    def __init__(self, op: Op) -> None:
        given = {v: self._noting(v) for v in op.operands}
        super().__init__(ScalarBuilder(Block(), op.loc), {}, given, {})
        self.reads: list[tuple[Value, tuple[Dim, ...]]] = []
        self.others: list[Dim] = []
        self._reductions = 0

    def _noting(self, v: Value) -> Read:
        def read(index: Sequence[Dim]) -> Value:
            self.reads.append((v, tuple(index)))
            return self.b.const(0, v.dtype)

        return read

    def index(self, e: Dim) -> Value:
        """Notes an index that is a value."""
        self.others.append(e)
        return super().index(e)

    def guarded(self, guards: Guards, make: Callable[[], Value], otherwise: float) -> Value:
        """Notes the guards that may not hold."""
        self._note(guards)
        return super().guarded(guards, make, otherwise)

    def inside(self, guards: Guards) -> Value:
        """Notes the guards that may not hold."""
        self._note(guards)
        return super().inside(guards)

    def _note(self, guards: Guards) -> None:
        self.others += [e for g in guards if not expr.within(g[0], 0, g[1]) for e in g]

    def reduce(
        self,
        combine: str,
        extents: Sequence[Dim],
        body: Callable[[Sequence[Dim]], Value],
        dtype: DType,
    ) -> Value:
        """Looks at one element for all of them."""
        self._reductions += 1
        names = (f"#{self._reductions}.{i}" for i in range(len(extents)))
        return body([expr.sym(n, 0, d) for n, d in zip(names, extents, strict=True)])


def followed(op: Op, dims: Mapping[Value, int]) -> tuple[int, dict[Value, int | None]] | None:
    """Follows a dimension through an operation.

    Args:
        op: The operation.
        dims: Which dimension of a value has the items; of others it is not known.

    Returns:
        The dimension of the result, and that of each operand: None for one that every item needs
        as a whole. None where an item does not follow from the same item alone.
    """
    if not isinstance(op, OpDef) or op.lowering() not in ("scalar", "element"):
        return None
    at = [expr.sym(f"#{i}", 0, d) for i, d in enumerate(op.type.shape)]
    reads, others = _reads(op, at)
    wanted = {index[dims[v]] for v, index in reads if v in dims}
    found = [i for i, s in enumerate(at) if wanted == {s}]
    if len(found) != 1:
        return None
    name, item = f"#{found[0]}", at[found[0]]
    if any(name in expr.symbols(e) for e in others):
        return None
    places: dict[Value, int | None] = {}
    for v, index in reads:
        depends = [i for i, e in enumerate(index) if name in expr.symbols(e)]
        if len(depends) > 1 or any(index[i] != item for i in depends):
            return None
        place = depends[0] if depends else None
        if place is not None and v.shape[place] != op.type.shape[found[0]]:
            return None
        if places.setdefault(v, place) != place or dims.get(v, place) != place:
            return None
    return found[0], places


def _reads(
    op: OpDef, at: Sequence[expr.Expr]
) -> tuple[list[tuple[Value, tuple[Dim, ...]]], list[Dim]]:
    if isinstance(op, Elementwise):
        return [(v, broadcast_index(at, v.shape)) for v in op.operands], []
    follower = _Follower(op)
    op.element(follower, tuple(at))  # type: ignore[attr-defined]
    return follower.reads, follower.others
