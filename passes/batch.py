"""A batch in parts: networks whose tensors leave the caches run on a few items at a time.

The operations from the inputs on, as far as each item of their results follows from the same item
of their operands (``follow``), become the region of a ``scan`` over parts of the batch. Nothing is
carried, so threads run parts each for itself: tensors stay in the caches, threads do not wait for
each other, and memory holds the intermediate results of as many parts as there are threads. The
weights are read for each part instead. The pass runs before layouts are chosen.

The model compares, for the contractions and windows of the network, the cycles of products and the
time that their tensors take from where they lie. How many items make a part, and where the whole
batch goes on, is what saves most. An item has the same bits in any part: where layouts
are chosen in a way that changes sums, a batch that is split counts as a whole (``layout.items``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from pjit.ir import expr, ops
from pjit.ir.builder import Builder
from pjit.ir.core import Block, Module, Op, Value
from pjit.ir.errors import ConstraintError
from pjit.ir.expr import Dim
from pjit.ir.opdef import infer_types
from pjit.ir.target import Machine
from pjit.passes.context import Context, Pass
from pjit.passes.cost import Product, guess, product_cycles
from pjit.passes.follow import followed
from pjit.passes.layout import convolution
from pjit.passes.pattern import is_constant

GAIN = 0.05  # the share of the predicted time that has to be saved
L3_SHARE = 4  # what an operation reads and writes stays in the last cache up to this part of it
SHAPES = ("shape", "sizes")  # attributes that have, here, an entry for each result dimension


@dataclass(frozen=True)
class Batch(Pass):
    """Splits the batch where the cost model expects that to be faster."""

    name: ClassVar[str] = "batch"
    requires: ClassVar[tuple[str, ...]] = ("graph",)

    def run(self, module: Module, context: Context) -> bool:
        """Takes the commonest first dimension of the inputs of the main function as the batch."""
        machine, sizes = context.machine, [v.shape[0] for v in module.main.args if v.shape]
        size = max(sizes, key=sizes.count, default=1)
        heavy = any(_is_heavy(op) for op in module.main.body.ops)
        if not (heavy and machine.simd and isinstance(size, int) and size > 1):
            return False
        region = reach(module, size)
        count, part = choose(region, machine)
        if not count:
            return False
        split(module, region.until(count), part)
        return True


@dataclass(frozen=True)
class Region:
    """Operations that can run item by item, in order.

    Attributes:
        size: Items in the batch.
        ops: The operations.
        dims: The dimension that has the items, of results and of what is read by item. No operation
            needs one of these values as a whole.
    """

    size: int
    ops: list[Op]
    dims: dict[Value, int]

    def until(self, count: int) -> Region:
        """The first ``count`` operations."""
        return replace(self, ops=self.ops[:count])


def reach(module: Module, size: int) -> Region:
    """Follows the batch from the inputs of the main function as far as possible."""
    dims = {v: 0 for v in module.main.args if v.shape and v.shape[0] == size}
    whole: set[Value] = set()  # what every item needs all of
    inside: list[Op] = []
    beyond: set[Value] = set()  # what needs more than one item
    for op in module.main.body.ops:
        used = {v for inner in op.walk() for v in inner.operands}
        if used.isdisjoint(dims) and used.isdisjoint(beyond):
            continue
        found = followed(op, dims) if used.isdisjoint(beyond) and not op.regions else None
        by_item = {v for v, place in found[1].items() if place is not None} if found else whole
        alike = found is not None and by_item.isdisjoint(whole) and not _has_weights(op, by_item)
        if found is None or not alike or not _splits(op, *found, dims):
            beyond.update(op.results)
            continue
        whole.update(v for v in op.operands if v not in by_item)
        dims |= {v: 0 for v in by_item if v not in dims}
        dims[op.result] = found[0]
        inside.append(op)
    return Region(size, inside, dims)


def _has_weights(op: Op, by_item: set[Value]) -> bool:
    """Whether items have constant weights of their own: parts of them would be packed in each call,
    the whole is packed once.
    """
    weights = op.operands[1:2] if isinstance(op, ops.Matmul | ops.Conv) else ()
    return any(v in by_item and is_constant(v) for v in weights)


def _splits(op: Op, at: int, places: dict[Value, int | None], dims: dict[Value, int]) -> bool:
    """Whether an operation has an equivalent on one item; what others give is sliced in front."""
    if any(p and v not in dims for v, p in places.items()):
        return False
    if not all(isinstance(d, int) for d in op.type.shape):
        return False  # threads run parts each for itself only if it is known to pay
    block, operands = Block(), []
    for v in op.operands:
        place = places.get(v)
        t = v.tensor if place is None else v.tensor.with_shape(_resized(v.shape, place, 1))
        operands.append(block.add_arg(t))
    try:
        (found,) = infer_types(type(op), operands, attributes(op, at, 1))
    except ConstraintError:
        return False
    return found == op.type.with_shape(_resized(op.type.shape, at, 1))


def attributes(op: Op, at: int, part: int) -> dict[str, Any]:
    """The attributes of an operation for a part of its result along a dimension."""
    attrs = dict(op.attrs)
    for name in SHAPES:
        if name in attrs:
            attrs[name] = _resized(attrs[name], at, part)
    return attrs


def _resized(shape: tuple[Dim, ...], at: int, n: int) -> tuple[Dim, ...]:
    return (*shape[:at], n, *shape[at + 1 :])


def choose(region: Region, machine: Machine) -> tuple[int, int]:
    """How many operations to run in parts, and how many items to a part; (0, 0): none."""
    size, threads = region.size, machine.threads
    heavy = [i for i, op in enumerate(region.ops) if _is_heavy(op)]
    if not heavy:
        return 0, 0
    whole = {i: cycles(region, i, size, threads, machine) / threads for i in heavy}
    ends = [*heavy[1:], len(region.ops)]  # what follows a contraction goes with it
    best = (GAIN * sum(whole.values()), 0, 0)
    for part in range(1, size // max(2, threads) + 1):
        if size % part:
            continue
        rounds, saved = -(-size // part // threads), 0.0
        for i, end in zip(heavy, ends, strict=True):
            saved += whole[i] - rounds * cycles(region, i, part, 1, machine)
            best = max(best, (saved, end, part))
    return best[1], best[2]


def _is_heavy(op: Op) -> bool:
    return isinstance(op, ops.Conv | ops.Matmul | ops.MaxPool | ops.AvgPool)


def cycles(region: Region, at: int, items: int, sharing: int, machine: Machine) -> float:
    """Cycles of one core for an operation on some items, where so many threads share them.

    What the last cache can be counted on to hold is read at its bandwidth; for the rest all threads
    wait for the same memory.
    """
    op = region.ops[at]
    tensors = [v for v in (op.operands[0], op.result) if v in region.dims]
    nbytes = sum(guess(v.tensor.size) * v.dtype.itemsize for v in tensors) * items // region.size
    each = nbytes // sharing
    if each <= machine.l2:
        moving = nbytes / machine.l2_bytes_per_cycle
    elif each * machine.threads <= machine.l3 // L3_SHARE:
        moving = nbytes / machine.memory_bytes_per_cycle
    else:
        moving = nbytes * machine.threads / machine.weights_bytes_per_cycle
    product = _product(op, region, items)
    return moving + (0 if product is None else product_cycles(product, machine))


def _product(op: Op, region: Region, items: int) -> Product | None:
    """The contraction of an operation on some items with one weight for all; else None, as its
    arithmetic does not depend on how many there are at a time.
    """
    if isinstance(op, ops.Conv) and op.groups == 1 and op.w not in region.dims:
        sizes = convolution(op)
    elif isinstance(op, ops.Matmul) and op.b not in region.dims and op.b.tensor.rank == 2:
        bits = max(32, op.type.dtype.bits)
        sizes = Product(expr.product(op.a.shape[:-1]), op.b.shape[1], op.b.shape[0], bits=bits)
    else:
        return None
    return replace(sizes, rows=expr.floordiv(sizes.rows * items, region.size))


def split(module: Module, region: Region, part: int) -> None:
    """Makes the operations of a region the body of a loop over parts of the batch."""
    block, inside = module.main.body, set(region.ops)
    beyond = {op.result for op in region.ops}
    after: list[Op] = []
    for op in block.ops:
        if op in inside:
            continue
        if op.terminator or any(v in beyond for inner in op.walk() for v in inner.operands):
            after.append(op)
            beyond.update(op.results)
    later = {*after, *inside}
    block.ops = [*(o for o in block.ops if o not in later), *region.ops, *after]

    b = Builder(block, region.ops[0].loc, module, after[0])
    parts, made = region.size // part, [op.result for op in region.ops]
    used = dict.fromkeys(v for op in region.ops for v in op.operands if v in region.dims)
    entering = [v for v in used if v.op not in inside]
    leaving = [v for v in made if any(u not in inside for u in v.users)]
    sliced = [b(ops.Reshape, v, shape=(parts, part, *v.shape[1:])) for v in entering]
    body = Block([v.tensor.with_shape(v.shape[1:]) for v in sliced])
    values = dict(zip(entering, body.args, strict=True))
    inner = Builder(body, b.loc, module)
    for op in region.ops:
        with inner.at(op.loc):
            operands = [values.get(v, v) for v in op.operands]
            attrs = attributes(op, region.dims[op.result], part)
            values[op.result] = inner.build(type(op), operands, attrs).result
    inner(ops.Yield, *(values[v] for v in leaving))
    types = [v.tensor.with_shape((parts, *values[v].shape)) for v in leaving]
    scan = b.build(ops.Scan, sliced, {"n_carry": 0}, [body], types)
    for v, stacked in zip(leaving, scan.results, strict=True):
        at, rank = region.dims[v], v.tensor.rank
        if at:
            perm = (*range(1, at + 1), 0, *range(at + 1, rank + 1))
            stacked = b(ops.Transpose, stacked, perm=perm)
        v.replace_by(b(ops.Reshape, stacked, shape=v.shape))
    for op in reversed(region.ops):
        op.erase()
