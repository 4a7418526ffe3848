"""Shape propagation: computes nodes whose inputs are all known, symbolically where dimensions are.

``evaluate`` is asked first for every node. When it gives a value, the node makes no operation; so
the chains by which exporters compute shapes vanish, and what they feed (``Reshape``, ``Resize``,
...) gets symbolic dimensions.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

from pjit.frontends.onnx import exact
from pjit.frontends.onnx.exact import Number, Ratio, Unknown
from pjit.frontends.onnx.known import Known
from pjit.frontends.onnx.reader import Refused, element_type
from pjit.frontends.onnx.registry import Node
from pjit.ir.expr import Expr
from pjit.ir.types import DType, bool_, f32, i64

MAX_ELEMENTS = 1024  # larger constants are left to constant folding

Evaluator = Callable[[Node], Known | list[Known]]
EVALUATORS: dict[str, Evaluator] = {}


def evaluate(node: Node) -> list[Known] | None:
    """The results of a node when they are known, else None."""
    evaluator = EVALUATORS.get(node.op)
    if evaluator is None or node.proto.domain not in ("", "ai.onnx"):
        return None
    if node.op not in ("Shape", "Size"):
        for x in node.inputs:
            if x is not None and (x.known is None or x.known.array.size > MAX_ELEMENTS):
                return None
    try:
        with np.errstate(all="ignore"):
            result = evaluator(node)
    except Unknown:
        return None
    return result if isinstance(result, list) else [result]


def known_op(*names: str) -> Callable[[Evaluator], Evaluator]:
    """Registers the evaluator of operators."""

    def register(evaluator: Evaluator) -> Evaluator:
        EVALUATORS.update(dict.fromkeys(names, evaluator))
        return evaluator

    return register


def _known(node: Node, i: int) -> Known:
    known = node.input(i).known
    if known is None:
        raise Unknown
    return known


def _indices(node: Node, i: int) -> list[int]:
    known = _known(node, i)
    if known.is_symbolic:
        raise Unknown
    return [int(v) for v in known.array.reshape(-1)]


def _small(shape: tuple[int, ...]) -> tuple[int, ...]:
    if int(np.prod(shape, dtype=object)) > MAX_ELEMENTS or any(d < 0 for d in shape):
        raise Unknown
    return shape


# Sources


@known_op("Shape")
def _shape(n: Node) -> Known:
    dims = n.type(0).shape
    start, end = n.attr("start", "int", 0), n.attr("end", "int", len(dims))
    return Known.dims(dims[slice(start, end)])


@known_op("Size")
def _size(n: Node) -> Known:
    size = n.type(0).size
    return Known.exact(np.array([size], object), i64, ())


@known_op("Constant")
def _constant(n: Node) -> Known:
    return Known.of(constant_array(n))


def constant_array(n: Node) -> np.ndarray:
    """The array of a ``Constant`` node; raises Refused for strings."""
    kinds = {
        "value_float": ("float", f32), "value_floats": ("floats", f32),
        "value_int": ("int", i64), "value_ints": ("ints", i64),
    }  # fmt: skip
    if "value" in n.attributes:
        return n.attr("value", "tensor")
    if "sparse_value" in n.attributes:
        return n.importer.load_sparse(n.attributes["sparse_value"].sparse_tensor)
    for name, (kind, dt) in kinds.items():
        if name in n.attributes:
            return np.array(n.attr(name, kind), dt.numpy)
    raise Refused("a constant without a numeric value", "pjit has no strings")


@known_op("ConstantOfShape")
def _constant_of_shape(n: Node) -> Known:
    shape = _small(tuple(_indices(n, 0)))
    value = n.attr("value", "tensor", np.zeros(1, np.float32))
    if value.size != 1:
        raise Refused("the value of ConstantOfShape has more than one element")
    return Known.of(np.full(shape, value.reshape(()), value.dtype))


@known_op("Range")
def _range(n: Node) -> Known:
    first = _known(n, 0)
    start, limit, delta = (_known(n, i).numbers().reshape(-1)[0] for i in range(3))
    span, step = limit - start, delta
    if isinstance(span, Ratio):
        count = (span / step).ceil()
    elif isinstance(step, int) and step != 0:
        count = -((span if step < 0 else -span) // abs(step))
    else:
        raise Unknown
    if isinstance(count, Expr):
        raise Unknown
    _small((max(count, 0),))
    items = np.empty(max(count, 0), object)
    for i in range(len(items)):
        items[i] = start + (Ratio(i) * delta if isinstance(delta, Ratio) else i * delta)
    return Known.exact(items, first.dtype, items.shape)


# Rearranging elements


@known_op("Identity", "Dropout")
def _identity(n: Node) -> Known:
    if n.result_count() > 1:
        raise Unknown
    return _known(n, 0)


@known_op("Gather")
def _gather(n: Node) -> Known:
    x, indices = _known(n, 0), _known(n, 1)
    axis = n.axis(n.attr("axis", "int", 0), len(x.shape))
    if indices.is_symbolic:
        raise Unknown
    index = indices.array.astype(np.int64)
    size = x.shape[axis]
    if ((index < -size) | (index >= size)).any():
        raise Refused(f"an index is out of range for axis {axis} of size {size}")
    return x.with_array(np.asarray(np.take(x.array, index, axis), x.array.dtype))


@known_op("Slice")
def _slice(n: Node) -> Known:
    x = _known(n, 0)
    rank = len(x.shape)
    if n.version < 10:
        starts, ends = n.attr("starts", "ints"), n.attr("ends", "ints")
        axes = n.attr("axes", "ints", tuple(range(len(starts))))
        steps: Any = [1] * len(starts)
    else:
        starts, ends = _indices(n, 1), _indices(n, 2)
        axes = _indices(n, 3) if n.has(3) else range(len(starts))
        steps = _indices(n, 4) if n.has(4) else [1] * len(starts)
    index = [slice(None)] * rank
    for s, e, a, k in zip(starts, ends, axes, steps, strict=True):
        axis = n.axis(a, rank)
        if k == 0:
            raise Refused("a step of a slice is 0")
        low = -x.shape[axis] - 1
        index[axis] = slice(s, None if k < 0 and e <= low else e, k)
    return x.with_array(x.array[tuple(index)])


@known_op("Concat")
def _concat(n: Node) -> Known:
    parts = [_known(n, i) for i in range(len(n.inputs))]
    axis = n.attr("axis", "int", 1 if n.version < 4 else 0)
    dt = parts[0].dtype
    if any(p.dtype != dt for p in parts):
        raise Unknown
    axis = n.axis(axis, len(parts[0].shape))
    symbolic = any(p.is_symbolic for p in parts)
    arrays = [p.numbers() if symbolic else p.array for p in parts]
    return parts[0].with_array(np.concatenate(arrays, axis))


def axes_of(n: Node, i: int) -> tuple[int, ...] | None:
    """The axes of Squeeze and Unsqueeze: an attribute before opset 13, then an input."""
    if n.version < 13:
        return n.attr("axes", "ints", None)
    return n.ints(i, "axes") if n.has(i) else None


@known_op("Unsqueeze")
def _unsqueeze(n: Node) -> Known:
    x, axes = _known(n, 0), axes_of(n, 1)
    if axes is None:
        raise Refused("axes is missing")
    return x.with_array(np.expand_dims(x.array, n.axes(axes, len(x.shape) + len(axes))))


@known_op("Squeeze")
def _squeeze(n: Node) -> Known:
    x, axes = _known(n, 0), axes_of(n, 1)
    chosen = None if axes is None else n.axes(axes, len(x.shape))
    if chosen and any(x.shape[a] != 1 for a in chosen):
        raise Refused(f"axes {list(chosen)} of {list(x.shape)} are not all of size 1")
    return x.with_array(np.squeeze(x.array, chosen))


@known_op("Reshape")
def _reshape(n: Node) -> Known:
    x = _known(n, 0)
    target = list(n.attr("shape", "ints")) if n.version < 5 else _indices(n, 1)
    if not n.flag("allowzero"):
        if any(d == 0 and i >= len(x.shape) for i, d in enumerate(target)):
            raise Unknown
        target = [x.shape[i] if d == 0 else d for i, d in enumerate(target)]
    try:
        return x.with_array(x.array.reshape(target))
    except ValueError:
        raise Refused(f"cannot reshape {list(x.shape)} to {target}") from None


@known_op("Flatten")
def _flatten(n: Node) -> Known:
    x = _known(n, 0)
    at = n.attr("axis", "int", 1)
    at += len(x.shape) if at < 0 else 0
    rows = int(np.prod(x.shape[:at], dtype=np.int64))
    return x.with_array(x.array.reshape(rows, x.array.size // max(rows, 1)))


@known_op("Transpose")
def _transpose(n: Node) -> Known:
    x = _known(n, 0)
    perm = n.attr("perm", "ints", tuple(reversed(range(len(x.shape)))))
    if sorted(perm) != list(range(len(x.shape))):
        raise Refused(f"perm {list(perm)} is no permutation of {len(x.shape)} axes")
    return x.with_array(x.array.transpose(perm))


@known_op("Expand")
def _expand(n: Node) -> Known:
    x = _known(n, 0)
    target = tuple(_indices(n, 1))
    try:
        shape = _small(np.broadcast_shapes(x.shape, target))
    except ValueError:
        raise Refused(f"cannot expand {list(x.shape)} to {list(target)}") from None
    return x.with_array(np.broadcast_to(x.array, shape).copy())


@known_op("Tile")
def _tile(n: Node) -> Known:
    x, repeats = _known(n, 0), _indices(n, 1)
    if len(repeats) != len(x.shape):
        raise Unknown
    _small(tuple(d * r for d, r in zip(x.shape, repeats, strict=True)))
    return x.with_array(np.tile(x.array, repeats))


@known_op("Split")
def _split(n: Node) -> list[Known]:
    x = _known(n, 0)
    axis = n.axis(n.attr("axis", "int", 0), len(x.shape))
    size, count = x.shape[axis], n.result_count()
    parts = list(n.attr("split", "ints", ())) or (_indices(n, 1) if n.has(1) else [])
    if not parts:
        each = -(-size // count)
        parts = [min(each, size - i * each) for i in range(count)]
    if sum(parts) != size or min(parts) < 0:
        raise Refused(f"cannot split an axis of size {size} into {parts}")
    ends = np.cumsum(parts)[:-1]
    return [x.with_array(a) for a in np.split(x.array, ends, axis)]


@known_op("Where")
def _where(n: Node) -> Known:
    cond, x, y = (_known(n, i) for i in range(3))
    if cond.is_symbolic or x.dtype != y.dtype:
        raise Unknown
    symbolic = x.is_symbolic or y.is_symbolic
    a, b = (k.numbers() if symbolic else k.array for k in (x, y))
    _small(_broadcast(cond.shape, x.shape, y.shape))
    return x.with_array(np.where(cond.array, a, b))


@known_op("NonZero")
def _nonzero(n: Node) -> Known:
    x = _known(n, 0)
    if x.is_symbolic:
        raise Unknown
    found = np.array(np.nonzero(np.atleast_1d(x.array)), np.int64)
    return Known.of(found if x.shape else found[:0])


@known_op("Cast")
def _cast(n: Node) -> Known:
    x, to = _known(n, 0), element_type(n.attr("to", "int"))
    if not x.is_symbolic:
        return Known.of(x.array.astype(to.numpy))
    numbers = x.numbers().reshape(-1)
    if to.kind == "b":
        items: list[Number] = [
            not exact.equal(v, Ratio(0) if x.dtype.is_float else 0) for v in numbers
        ]
    elif to.is_int:
        items = [v.truncate() if isinstance(v, Ratio) else v for v in numbers]
    else:
        items = [v if isinstance(v, Ratio) else Ratio(v) for v in numbers]
    flat = np.empty(len(items), object)
    flat[:] = items
    return Known.exact(flat, to, x.shape)


# Arithmetic: a NumPy function for constants, an exact one when a symbol occurs


def _broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        raise Refused(
            f"the shapes {' and '.join(str(list(s)) for s in shapes)} do not broadcast"
        ) from None


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind not in "iu":
        return np.divide(a, b)
    if not np.all(b):
        raise Unknown
    quotient = np.floor_divide(a, b)
    return quotient + ((np.remainder(a, b) != 0) & ((a < 0) != (b < 0)))


def _integer_mod(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if not np.all(b):
        raise Unknown
    return np.mod(a, b)


_ARITHMETIC: dict[str, tuple[Callable, Callable | None]] = {
    "Add": (np.add, operator.add),
    "Sub": (np.subtract, operator.sub),
    "Mul": (np.multiply, operator.mul),
    "Div": (_divide, exact.divide),
    "Pow": (np.power, exact.power),
    "Min": (np.minimum, exact.minimum),
    "Max": (np.maximum, exact.maximum),
    "Neg": (np.negative, operator.neg),
    "Abs": (np.abs, exact.absolute),
    "Floor": (np.floor, lambda a: Ratio(a.floor())),
    "Ceil": (np.ceil, lambda a: Ratio(a.ceil())),
    "Sqrt": (np.sqrt, None),
    "Reciprocal": (np.reciprocal, lambda a: Ratio(1) / a),
}
_COMPARISONS: dict[str, tuple[Callable, Callable]] = {
    "Equal": (np.equal, exact.equal),
    "Less": (np.less, exact.less),
    "Greater": (np.greater, lambda a, b: exact.less(b, a)),
    "LessOrEqual": (np.less_equal, lambda a, b: not exact.less(b, a)),
    "GreaterOrEqual": (np.greater_equal, lambda a, b: not exact.less(a, b)),
}
_LOGIC = {"And": np.logical_and, "Or": np.logical_or, "Xor": np.logical_xor, "Not": np.logical_not}


def _apply(parts: list[Known], plain: Callable, symbolic: Callable | None, dt: DType) -> Known:
    _small(_broadcast(*(p.shape for p in parts)))
    if not any(p.is_symbolic for p in parts):
        return Known.of(np.asarray(plain(*(p.array for p in parts)), dt.numpy))
    if symbolic is None:
        raise Unknown
    arrays = np.broadcast_arrays(*(p.numbers() for p in parts))
    flat = np.empty(arrays[0].size, object)
    flat[:] = [symbolic(*row) for row in zip(*(a.reshape(-1) for a in arrays), strict=True)]
    return Known.exact(flat, dt, arrays[0].shape)


@known_op(*_ARITHMETIC)
def _arithmetic(n: Node) -> Known:
    parts = [_known(n, i) for i in range(len(n.inputs))]
    dt = parts[0].dtype
    if (n.version < 7 and "axis" in n.attributes) or dt.kind == "b":
        raise Unknown
    if any(p.dtype != dt for p in parts):
        raise Unknown
    plain, symbolic = _ARITHMETIC[n.op]
    if n.op == "Pow" and dt.is_int and not parts[1].is_symbolic and (parts[1].array < 0).any():
        raise Unknown
    if len(parts) <= 2:
        return _apply(parts, plain, symbolic, dt)
    return reduce(lambda a, b: _apply([a, b], plain, symbolic, dt), parts)


@known_op("Mod")
def _mod(n: Node) -> Known:
    a, b = _known(n, 0), _known(n, 1)
    truncated = n.flag("fmod")
    if a.dtype != b.dtype:
        raise Unknown
    plain = np.fmod if truncated else _integer_mod
    return _apply(
        [a, b], plain, exact.truncated_remainder if truncated else exact.remainder, a.dtype
    )


@known_op(*_COMPARISONS)
def _compare(n: Node) -> Known:
    a, b = _known(n, 0), _known(n, 1)
    if a.dtype != b.dtype:
        raise Unknown
    plain, symbolic = _COMPARISONS[n.op]
    return _apply([a, b], plain, symbolic, bool_)


@known_op(*_LOGIC)
def _logic(n: Node) -> Known:
    parts = [_known(n, i) for i in range(len(n.inputs))]
    return _apply(parts, _LOGIC[n.op], None, bool_)


_FOLDS: dict[str, Callable[[Any, Any], Any]] = {
    "ReduceProd": operator.mul,
    "ReduceSum": operator.add,
    "ReduceMax": exact.maximum,
    "ReduceMin": exact.minimum,
}


@known_op(*_FOLDS)
def _reduce(n: Node) -> Known:
    x = _known(n, 0)
    axes = n.attr("axes", "ints", None)
    if axes is None and n.has(1):
        axes = tuple(_indices(n, 1))
    if not x.dtype.is_int or len(x.shape) != 1 or not x.array.size:
        raise Unknown
    if axes:
        n.axes(axes, 1)
    elif n.flag("noop_with_empty_axes"):
        return x
    total = reduce(_FOLDS[n.op], x.numbers())
    shape = (1,) if n.flag("keepdims", True) else ()
    return Known.exact(np.array([total], object), x.dtype, shape)
