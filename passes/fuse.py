"""Groups operations that become one kernel.

Six kinds of group, formed in this order:

- ``tile``: a packed contraction, the views through which its first operand is read, reshapes of the
  result and the elementwise operations that follow on the same elements (bias, residual,
  activation), then views that only move the result;
- ``row``: reductions over trailing dimensions and the elementwise operations around them
  (softmax, LayerNorm): one row is read, reduced and written while it is in cache;
- ``line``: an operator that writes lines of its result in order, and the elementwise operations
  that follow on the same elements unless it reads back what it wrote, then views that move it;
- ``winograd``: a convolution by Winograd's method whose intermediate tensors are too large to leave
  the cache, with the elementwise operations that follow;
- ``bilinear``: the products of blocks of matrices and the result made of them, with the elementwise
  operations that follow;
- ``loop``: everything else that computes element by element, with its producers pulled in.

A group has one result; a loop group also gives what it computes for the end of the block on the
way. A producer joins when all its other uses are inside (so no cycle can arise);
movement of inputs and constants of one element are repeated in every group that wants them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from pjit.ir import expr, ops
from pjit.ir.core import Block, Loc, Module, Op, Value
from pjit.ir.opdef import Elementwise, OpDef
from pjit.ir.ops.control import CONTROL, host_reason
from pjit.ir.ops.fused import Fused
from pjit.ir.ops.line import LineOp
from pjit.ir.target import Machine
from pjit.passes.bounds import GATHERS
from pjit.passes.context import Context, Pass
from pjit.passes.cost import winograd_block, winograd_image
from pjit.passes.tile_access import reads_affine

VIEWS = (ops.Reshape, ops.Transpose, ops.Broadcast, ops.Slice)
POINTWISE = (
    Elementwise,
    *VIEWS,
    ops.Pad,
    ops.Iota,
    ops.Sizes,
    ops.Gather,
    ops.GatherElements,
    ops.GatherNd,
    ops.Pack,
    ops.PackWeights,
)
LIGHT = (
    ops.Add,
    ops.Sub,
    ops.Mul,
    ops.Neg,
    ops.Max,
    ops.Min,
    ops.Where,
    ops.Eq,
    ops.Lt,
    ops.Gt,
    ops.Not,
)
SCATTERS = (ops.ScatterElements, ops.ScatterNd)
ROW_REDUCTIONS = (ops.ReduceSum, ops.ReduceProd, ops.ReduceMax, ops.ReduceMin)


def is_tile(op: Op) -> bool:
    """Whether the operation is a tile contraction."""
    return isinstance(op, OpDef) and op.lowering() == "tile"


def is_pulled(op: Op) -> bool:
    """Whether the operation has scalar code per element."""
    return isinstance(op, OpDef) and op.lowering() in ("scalar", "element", "line")


def is_small_constant(op: Op | None) -> bool:
    """Whether the operation is a constant of one element, which kernels hold as an immediate."""
    return isinstance(op, ops.Const) and all(d == 1 for d in op.shape)


def trailing_axes(op: Op) -> int | None:
    """How many trailing dimensions a reduction removes; None when others are reduced."""
    rank, axes = len(op.operands[0].shape), op.attrs["axes"]
    return len(axes) if axes and tuple(axes) == tuple(range(rank - len(axes), rank)) else None


@dataclass(frozen=True)
class Fuse(Pass):
    """Makes groups; ``max_ops`` bounds the operations of one."""

    name: ClassVar[str] = "fuse"
    ensures: ClassVar[str] = "fused"
    max_ops: int = 48

    def run(self, module: Module, context: Context) -> bool:
        """Rewrites the main function to level ``fused``."""
        for function in module.functions.values():
            if function.level == "graph":
                self._group(function.body, context)
                function.level = "fused"
        return True

    def _group(self, block: Block, context: Context) -> None:
        """Groups a block, after the regions of control flow that runs natively."""
        for op in block.ops:
            if isinstance(op, CONTROL) and not host_reason(op):
                for region in op.regions:
                    self._group(region, context)
        _Grouping(block, self.max_ops, context.machine).run()


class _Grouping:
    """The grouping of one block; values of the blocks around it are inputs of its groups."""

    def __init__(self, block: Block, max_ops: int, machine: Machine) -> None:
        self.block, self.max_ops, self.machine = block, max_ops, machine
        self.order: dict[Op, int] = {}
        self.group_of: dict[Op, Op] = {}  # operation -> root of its group
        self.kinds: dict[Op, str] = {}  # root -> kind
        self.members: dict[Op, list[Op]] = {}
        self.depth: dict[Op, int] = {}  # row groups: number of reduced trailing dimensions
        self.made: dict[Op, Value] = {}  # root -> what its group gives

    def run(self) -> None:
        self._repeat_views()
        self.order = {op: i for i, op in enumerate(self.block.ops)}
        for op in self.block.ops:
            if isinstance(op, ops.WinogradInput):
                self._grow_winograd(op)
            elif isinstance(op, ops.BilinearOutput):
                self._grow_bilinear(op)
        for op in self.block.ops:
            if op in self.group_of:
                continue
            if is_tile(op):
                self._grow_tile(op)
            elif isinstance(op, LineOp) and not op.rereads:
                self._grow_line(op)
        for op in reversed(self.block.ops):
            if op not in self.group_of and self._can_root(op):
                self._grow(op)
        self._build()

    def _repeat_views(self) -> None:
        """Gives every user of a view its own, so that each can pull it in."""
        rebuilt: list[Op] = []
        for op in reversed(self.block.ops):
            rebuilt.append(op)
            if not isinstance(op, VIEWS) or is_small_constant(op.operands[0].op):
                continue
            for user in op.result.users[1:]:
                if user.parent is self.block and not user.terminator:
                    copy = _clone(op, op.operands)
                    copy.parent = self.block
                    for at, v in enumerate(user.operands):
                        if v is op.result:
                            user.set_operand(at, copy.results[0])
                    rebuilt.append(copy)
        self.block.ops = rebuilt[::-1]

    # Tile and line groups: forward from the operator

    def _grow_tile(self, anchor: Op) -> None:
        group = [*self._views(anchor), anchor]
        while self._add_epilogue(group) or self._add_moves(group, ops.Reshape):
            pass
        self._add_final_moves(group)
        self._close(group, "tile")

    def _grow_line(self, op: Op) -> None:
        group = [op]
        self._add_epilogue(group)
        self._add_final_moves(group)
        self._close(group, "line")

    def _grow_winograd(self, op: ops.WinogradInput) -> None:
        """The chain from the input's values to the outputs, if it is better run in blocks."""
        group: list[Op] = [op]
        for kind in (ops.WinogradProduct, ops.WinogradOutput):
            users = group[-1].result.users
            if len(users) != 1 or not isinstance(users[0], kind):
                return
            group.append(users[0])
        _, product, last = group
        if any(op.short) or product.operands[0] is not op.result:
            return
        if winograd_block(winograd_image(op, last), op.attrs["sizes"], self.machine):
            self._add_epilogue(group)
            self._close(group, "winograd")

    def _grow_bilinear(self, op: ops.BilinearOutput) -> None:
        """The products and what is made of them."""
        product = op.y.op
        if not isinstance(product, ops.MatmulPacked) or len(product.result.uses) != 1:
            return
        if product.parent is self.block and product.bp.shape[0] == op.scheme.products:
            group: list[Op] = [product, op]
            self._add_epilogue(group)
            self._add_final_moves(group)
            self._close(group, "bilinear")

    def _close(self, group: list[Op], kind: str) -> None:
        root = group[-1]
        for op in group:
            self.group_of[op] = root
        self.kinds[root] = kind
        self.members[root] = group

    def _add_epilogue(self, group: list[Op]) -> bool:
        """Adds the elementwise operations that follow; returns whether there are any."""
        size, shape = len(group), group[-1].type.shape
        while step := self._elementwise_step(group, group[-1].result, shape):
            group += step
        return len(group) > size

    def _views(self, anchor: Op) -> list[Op]:
        """The views through which the contraction can read its first operand; the first one is no
        reshape, which is the same memory.
        """
        views: list[Op] = []
        value = anchor.operands[0]
        while (
            isinstance(value.op, VIEWS)
            and len(value.op.result.uses) == 1
            and value.op.parent is self.block
            and value.op not in self.group_of
        ):
            views.insert(0, value.op)
            value = value.op.operands[0]
        while views and (isinstance(views[0], ops.Reshape) or not reads_affine(anchor, views)):
            views.pop(0)
        return views

    def _elementwise_step(self, group: list[Op], end: Value, shape: tuple) -> list[Op] | None:
        """The next elementwise operations after which one value is all that leaves the group."""
        if not end.uses or any(u.terminator for u in end.users):
            return None
        step: list[Op] = []
        values = {end}
        while len(step) < 12 and len(group) + len(step) < self.max_ops:
            users = {u for v in values for u in v.users if u not in step}
            if not users:
                return None
            nxt = min(users, key=lambda u: self.order.get(u, 1 << 30))
            if (
                not isinstance(nxt, Elementwise)
                or nxt in self.group_of
                or nxt.parent is not self.block
            ):
                return None
            if nxt.type.shape != shape:
                return None
            step.append(nxt)
            values.add(nxt.result)
            inside = set(step)
            escaping = [v for v in values if not v.uses or any(u not in inside for u in v.users)]
            if escaping == [nxt.result]:
                return step
        return None

    def _add_moves(self, group: list[Op], *kinds: type[Op]) -> bool:
        """Adds operations that only say where the result goes; returns whether there are any."""
        size = len(group)
        while len(users := group[-1].result.users) == 1:
            if not isinstance(users[0], kinds) or users[0].parent is not self.block:
                break
            group.append(users[0])
        return len(group) > size

    def _add_final_moves(self, group: list[Op]) -> None:
        """Adds the moves that nothing follows, but for reshapes, which are the same memory."""
        self._add_moves(group, ops.Reshape, ops.Transpose)
        while isinstance(group[-1], ops.Reshape):
            group.pop()

    # Loop and row groups: backward from the result

    def _can_root(self, op: Op) -> bool:
        return is_pulled(op) and op.parent is self.block and not isinstance(op, ops.Reshape)

    def _is_alias(self, op: Op) -> bool:
        """Whether an operation is the same memory under another shape."""
        if not isinstance(op, ops.Reshape):
            return False
        source = op.operands[0].op
        return source is None or isinstance(source, ops.Const) or not self._joins_alone(source)

    def _joins_alone(self, op: Op) -> bool:
        return (
            isinstance(op, POINTWISE)
            and op.parent is self.block
            and op not in self.group_of
            and len(op.result.users) == 1
        )

    def _grow(self, root: Op) -> None:
        row = self._row_group(root)
        if row is not None:
            group, depth = row
            self.kinds[root], self.depth[root] = "row", depth
        else:
            group = self._loop_group(root)
            self.kinds[root] = "line" if isinstance(root, LineOp) else "loop"
        self.members[root] = group
        for op in group:
            self.group_of[op] = root

    def _free(self, op: Op | None, inside: set[Op], yielded: bool = False) -> bool:
        """Whether a producer is in no group yet and all its uses are inside, or ``yielded`` and
        the end of the block.
        """
        return (
            op is not None
            and len(op.results) == 1
            and op.parent is self.block
            and op not in self.group_of
            and all(u in inside or (yielded and u is self.block.last) for u in op.result.users)
        )

    def _loop_group(self, root: Op) -> list[Op]:
        inside, queue = {root}, [root]
        aligned = {root}  # operations that are read at the same index as the root
        while queue and len(inside) < self.max_ops:
            op = max(queue, key=lambda o: self.order[o])
            queue.remove(op)
            operands = op.operands
            if isinstance(op, SCATTERS):
                operands = operands[2:]  # each update is read once
            elif not isinstance(op, (*POINTWISE, ops.Concat, *ROW_REDUCTIONS)):
                continue
            for v in operands:
                p = v.op
                same = v.shape == root.type.shape and isinstance(op, Elementwise) and op in aligned
                yielded = same and isinstance(p, Elementwise)
                if p is None or p in inside or not self._free(p, inside, yielded):
                    continue
                if not self._joins(p, op, root, same):
                    continue
                inside.add(p)
                queue.append(p)
                if same:
                    aligned.add(p)
        return sorted(inside, key=lambda o: self.order[o])

    def _joins(self, p: Op, user: Op, root: Op, aligned: bool) -> bool:
        """Whether pulling a producer into its user's loop does no work twice, nor replaces an alias
        by arithmetic on indices.
        """
        if self._is_alias(p):
            return False
        if isinstance(root, SCATTERS):  # which computes one element at a time
            return isinstance(p, (*LIGHT, *GATHERS)) or _cheap(p)
        if not isinstance(p, POINTWISE):
            return aligned and is_pulled(p) and not isinstance(p, ops.Concat | LineOp)
        if isinstance(user, GATHERS):
            return _cheap(p)
        grows = isinstance(user, Elementwise | ops.Broadcast) and p.type.shape != user.type.shape
        return not grows or _cheap(p) or isinstance(p, LIGHT)

    def _row_group(self, root: Op) -> tuple[list[Op], int] | None:
        """The row group that ends at ``root``, with the number of reduced dimensions, if there is
        one.
        """
        if not isinstance(root, (*ROW_REDUCTIONS, Elementwise)):
            return None
        reduction = self._nearest_reduction(root)
        if reduction is None:
            return None
        depth = trailing_axes(reduction)
        full = reduction.operands[0].shape
        if depth is None or any(isinstance(d, int) and d == 0 for d in full):
            return None
        shapes = _row_shapes(full, depth)
        if root.result.shape not in _result_shapes(full, depth):
            return None
        inside: set[Op] = {root}
        queue: list[Op] = [root]
        while queue and len(inside) < self.max_ops:
            op = max(queue, key=lambda o: self.order[o])
            queue.remove(op)
            for v in op.operands:
                p = v.op
                if p is None or p in inside or not self._free(p, inside):
                    continue
                if self._fits_row(p, full, depth, shapes):
                    inside.add(p)
                    queue.append(p)
        if not any(isinstance(o, ROW_REDUCTIONS) for o in inside):
            return None
        return sorted(inside, key=lambda o: self.order[o]), depth

    def _nearest_reduction(self, root: Op) -> Op | None:
        seen, queue = {root}, [root]
        while queue and len(seen) < 24:
            op = queue.pop(0)
            if isinstance(op, ROW_REDUCTIONS):
                return op
            for v in op.operands:
                p = v.op
                if p in seen or p is None or p in self.group_of or p.parent is not self.block:
                    continue
                if isinstance(p, (*ROW_REDUCTIONS, Elementwise, ops.Reshape, ops.Broadcast)):
                    seen.add(p)
                    queue.append(p)
        return None

    def _fits_row(self, op: Op, full: tuple, depth: int, shapes: set[tuple]) -> bool:
        if isinstance(op, ROW_REDUCTIONS):
            return op.operands[0].shape == full and trailing_axes(op) == depth
        if isinstance(op, ops.Reshape | ops.Broadcast):
            source = op.operands[0]
            return op.result.shape in shapes and source.shape in shapes
        return isinstance(op, Elementwise) and op.result.shape in shapes

    # Building the fused operations

    def _build(self) -> None:
        views: dict[tuple, Op] = {}
        for root in [op for op in self.block.ops if op in self.kinds]:
            if isinstance(root, VIEWS) and self.members[root] == [root]:
                key = (type(root), root.operands, tuple(root.attrs.items()))
                if (twin := views.setdefault(key, root)) is not root:  # repeated to no avail
                    root.result.replace_by(self.made[twin])
                    continue
            self._outline(root, self.members[root], self.kinds[root], self.depth.get(root, 0))
        self._drop_unused()

    def _outline(self, root: Op, group: list[Op], kind: str, depth: int) -> None:
        inside = set(group)
        body = Block()
        copies: dict[Value, Value] = {}
        inputs: dict[Value, Value] = {}

        def mapped(v: Value) -> Value:
            if v in copies:
                return copies[v]
            if is_small_constant(v.op):
                copies[v] = body.append(_clone(v.op, ())).results[0]  # type: ignore[arg-type]
                return copies[v]
            if v not in inputs:
                inputs[v] = body.add_arg(v.type, v.name)
            return inputs[v]

        for op in group:
            new = _clone(op, [mapped(v) for v in op.operands])
            body.append(new)
            copies[op.result] = new.results[0]
        results = [root.result]
        results += [
            op.result for op in group if op is not root and self.block.last in op.result.users
        ]
        body.append(ops.Yield([copies[r] for r in results], {}, (), root.loc))
        fused = Fused(
            list(inputs),
            {"kind": kind, "schedule": (("depth", depth),) if depth else ()},
            [r.type for r in results],
            Loc.merge(o.loc for o in group if o in inside),
            [body],
        )
        self.block.insert_before(root, fused)
        for old, result in zip(results, fused.results, strict=True):
            result.name = old.name
            old.replace_by(result)
        self.made[root] = fused.results[0]

    def _drop_unused(self) -> None:
        for op in reversed(list(self.block.ops)):
            if not op.terminator and op.results and all(not r.uses for r in op.results):
                if getattr(op, "pure", True):
                    op.erase()


def _clone(op: Op, operands: Iterable[Value]) -> Op:
    new = type(op)(operands, op.attrs, [r.type for r in op.results], op.loc)
    for a, b in zip(new.results, op.results, strict=True):
        a.name = b.name
    return new


def _cheap(op: Op) -> bool:
    return isinstance(op, (*VIEWS, ops.Cast, ops.Iota))


def _result_shapes(full: tuple, depth: int) -> set[tuple]:
    """The shapes that the result of a row group may have: a full row, or one element per row."""
    lead = full[: len(full) - depth]
    return {full, *(lead + (1,) * k for k in range(depth + 1))}


def _row_shapes(full: tuple, depth: int) -> set[tuple]:
    """The shapes of values in a row group: those of results, and what broadcasts to a row."""
    shapes = _result_shapes(full, depth)
    tails = {full[len(full) - k :] for k in range(depth + 1)}
    return {*shapes, *tails, ()} if expr.product(full) != 1 else shapes
