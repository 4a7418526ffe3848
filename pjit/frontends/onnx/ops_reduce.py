"""Reductions, softmax and the norms that are made of reductions."""

from __future__ import annotations

from typing import Any

from pjit.frontends.onnx.ops_math import Math, math_of
from pjit.frontends.onnx.reader import Refused
from pjit.frontends.onnx.registry import Node, onnx_op
from pjit.ir.core import Value
from pjit.ir.expr import product
from pjit.ir.types import f64, i64


def _axes(n: Node) -> tuple[int, ...] | None:
    """The axes, an attribute or an input; None when nothing is to be reduced."""
    axes = n.attr("axes", "ints", None)
    if axes is None and n.has(1):
        axes = n.ints(1, "axes")
    if not axes:
        return None if n.flag("noop_with_empty_axes") else tuple(range(n.rank()))
    return n.axes(axes, n.rank())


def _before(n: Node, x: Value, m: Math) -> Value:
    """What the operator does to each element first."""
    if n.op == "ReduceL1":
        return m.abs(x)
    if n.op in ("ReduceL2", "ReduceSumSquare"):
        return m.mul(x, x)
    return x


_KINDS = {
    "ReduceMax": "reduce.max", "ReduceMin": "reduce.min", "ReduceProd": "reduce.prod",
    "ReduceMean": "reduce.mean",
}  # fmt: skip


@onnx_op(
    "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
    "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp",
)  # fmt: skip
def reduction(n: Node) -> Value:
    """All reductions."""
    x, m = math_of(n)
    axes, keep = _axes(n), n.flag("keepdims", True)
    if axes is None or not n.rank():
        return _after(n, m, _before(n, x, m))
    if n.op == "ReduceLogSumExp":
        return _log_sum_exp(n, m, x, axes, keep)
    y = n.b(_KINDS.get(n.op, "reduce.sum"), _before(n, x, m), axes=axes, keepdims=keep)
    return _after(n, m, y)


def _after(n: Node, m: Math, y: Value) -> Value:
    """What the operator does to the total."""
    if n.op == "ReduceLogSum":
        return m.log(y)
    if n.op != "ReduceL2":
        return y
    if y.dtype.is_float:
        return m.sqrt(y)
    wide = n.b("cast", y, dtype=f64)
    return n.b("cast", n.b("sqrt", wide), dtype=y.dtype)


def _log_sum_exp(n: Node, m: Math, x: Value, axes: tuple[int, ...], keep: bool) -> Value:
    top = n.b("reduce.max", x, axes=axes, keepdims=True)
    finite = m.where(m.isinf(top), 0.0, top)
    total = n.b("reduce.sum", m.exp(m.sub(x, finite)), axes=axes, keepdims=True)
    y = m.add(m.log(total), finite)
    if keep:
        return y
    return n.b("reshape", y, shape=[d for i, d in enumerate(x.shape) if i not in axes])


@onnx_op("ArgMax", "ArgMin")
def arg_reduction(n: Node) -> Value:
    """Where the largest or smallest element is."""
    return n.b(
        n.op.lower(), n[0],
        axis=n.axis(n.attr("axis", "int", 0), n.rank()),
        keepdims=n.flag("keepdims", True),
        last=n.flag("select_last_index"),
    )  # fmt: skip


@onnx_op("TopK")
def topk(n: Node) -> Any:
    """The largest or smallest elements, sorted, and where they are."""
    axis = n.axis(n.attr("axis", "int", -1), n.rank())
    if n.version < 10:
        k: Any = n.attr("k", "int")
    else:
        dims = n.dims(1, "k")
        if len(dims) != 1:
            raise Refused(f"k has {len(dims)} elements")
        k = dims[0]
    return n.b("topk", n[0], k=k, axis=axis, largest=n.flag("largest", True))


def _last_axes(n: Node, build: Any) -> Value:
    """Applies ``build(x, axis)`` along one axis; before opset 13 along all from ``axis`` on."""
    x = n[0]
    rank = x.tensor.rank
    if n.version >= 13:
        return build(x, n.axis(n.attr("axis", "int", -1), rank))
    axis = n.attr("axis", "int", 1)
    if not -rank <= axis <= rank:
        raise Refused(f"axis {axis} is out of range for a tensor of rank {rank}")
    axis += rank if axis < 0 else 0
    if axis == rank - 1:
        return build(x, axis)
    if all(d == 1 for d in x.shape[axis + 1 :]):
        return build(x, axis)
    flat = n.b("reshape", x, shape=(product(x.shape[:axis]), product(x.shape[axis:])))
    return n.b("reshape", build(flat, 1), shape=x.shape)


@onnx_op("Softmax")
def softmax(n: Node) -> Value:
    """exp(x) over its sum."""
    return _last_axes(n, lambda x, axis: n.b("softmax", x, axis=axis))


@onnx_op("LogSoftmax")
def log_softmax(n: Node) -> Value:
    """The logarithm of the softmax."""
    return _last_axes(n, lambda x, axis: n.b("log_softmax", x, axis=axis))


@onnx_op("Hardmax")
def hardmax(n: Node) -> Value:
    """One at the first largest element, else zero."""

    def build(x: Value, axis: int) -> Value:
        at = n.b("argmax", x, axis=axis, keepdims=True)
        line = [1] * x.tensor.rank
        line[axis] = x.shape[axis]
        index = n.b("reshape", n.b("iota", size=x.shape[axis], dtype=i64), shape=line)
        return n.b("cast", n.b("eq", index, at), dtype=x.dtype)

    return _last_axes(n, build)


@onnx_op("LpNormalization")
def lp_normalization(n: Node) -> Value:
    """``x`` over its L1 or L2 norm along an axis; 0 where the norm is 0."""
    x, m = math_of(n)
    axis, p = n.axis(n.attr("axis", "int", -1), n.rank()), n.attr("p", "int", 2)
    if p not in (1, 2):
        raise Refused(f"p={p} is not supported", "supported: 1, 2")
    powers = m.abs(x) if p == 1 else m.mul(x, x)
    norm = n.b("reduce.sum", powers, axes=(axis,), keepdims=True)
    norm = norm if p == 1 else m.sqrt(norm)
    return m.div(x, m.where(m.eq(norm, 0), 1, norm))


@onnx_op("MeanVarianceNormalization")
def mean_variance_normalization(n: Node) -> Value:
    """(x - mean) / (standard deviation + 1e-9)."""
    x, m = math_of(n)
    axes = n.axes(n.attr("axes", "ints", (0, 2, 3)), n.rank())
    centred = m.sub(x, n.b("reduce.mean", x, axes=axes, keepdims=True))
    variance = n.b("reduce.mean", m.mul(centred, centred), axes=axes, keepdims=True)
    return m.div(centred, m.add(m.sqrt(variance), 1e-9))
