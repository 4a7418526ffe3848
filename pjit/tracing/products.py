"""NumPy's products of arrays and norms on tracers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from pjit.tracing.reductions import axes_of, finish
from pjit.tracing.sizes import product
from pjit.tracing.trace import refuse_function
from pjit.tracing.tracer import Tracer, as_tracer, implements, trace_of, xp


def _pair(a: Any, b: Any) -> tuple[Tracer, Tracer]:
    t = trace_of(a, b)
    return as_tracer(t, a), as_tracer(t, b)


@implements(np.dot)
def dot(a: Any, b: Any, out: Any = None) -> Tracer:
    """np.dot."""
    x, y = _pair(a, b)
    if not x.ndim or not y.ndim:
        return finish(xp.multiply(x, y), out)
    if (x.ndim <= 2 and y.ndim <= 2) or y.ndim == 1:
        return finish(xp.matmul(x, y), out)
    return finish(xp.tensordot(x, y, (-1, -2)), out)


@implements(np.inner)
def inner(a: Any, b: Any, /) -> Tracer:
    """np.inner."""
    x, y = _pair(a, b)
    if not x.ndim or not y.ndim:
        return xp.multiply(x, y)
    return xp.tensordot(x, y, (-1, -1))


@implements(np.outer)
def outer(a: Any, b: Any, out: Any = None) -> Tracer:
    """np.outer."""
    x, y = _pair(a, b)
    return finish(xp.ravel(x)[:, None] * xp.ravel(y)[None, :], out)


@implements(np.linalg.outer)
def linalg_outer(x1: Any, x2: Any, /) -> Tracer:
    """np.linalg.outer."""
    if xp.ndim(x1) != 1 or xp.ndim(x2) != 1:
        raise ValueError("Input arrays must be one-dimensional")
    return outer(x1, x2)


@implements(np.vdot)
def vdot(a: Any, b: Any, /) -> Tracer:
    """np.vdot."""
    x, y = _pair(a, b)
    return xp.matmul(xp.ravel(x), xp.ravel(y))


@implements(np.linalg.matmul)
def linalg_matmul(x1: Any, x2: Any, /) -> Tracer:
    """np.linalg.matmul."""
    return xp.matmul(x1, x2)


@implements(np.linalg.vecdot)
def linalg_vecdot(x1: Any, x2: Any, /, *, axis: int = -1) -> Tracer:
    """np.linalg.vecdot."""
    x, y = _pair(x1, x2)
    return xp.vecdot(xp.moveaxis(x, axis, -1), xp.moveaxis(y, axis, -1))


@implements(np.linalg.multi_dot)
def multi_dot(arrays: Any, *, out: Any = None) -> Tracer:
    """np.linalg.multi_dot, from left to right."""
    result = arrays[0]
    for a in arrays[1:]:
        result = xp.dot(result, a)
    return finish(result, out)


@implements(np.linalg.matrix_power)
def matrix_power(a: Any, n: int) -> Tracer:
    """np.linalg.matrix_power for n >= 0, by repeated squaring."""
    if n < 0:
        refuse_function("np.linalg.matrix_power with a negative exponent")
    result = None
    square = a
    while n:
        if n & 1:
            result = square if result is None else xp.matmul(result, square)
        n >>= 1
        square = xp.matmul(square, square) if n else square
    if result is None:
        return xp.broadcast_to(xp.eye(a.shape[-1], dtype=a.dtype), a.shape) + xp.zeros_like(a)
    return result


@implements(np.tensordot, np.linalg.tensordot)
def tensordot(a: Any, b: Any, axes: Any = 2) -> Tracer:
    """np.tensordot."""
    x, y = _pair(a, b)
    if isinstance(axes, int):
        left: Any = tuple(range(x.ndim - axes, x.ndim))
        right: Any = tuple(range(axes))
    else:
        left, right = axes
    left = normalize_axis_tuple(left, x.ndim)
    right = normalize_axis_tuple(right, y.ndim)
    if [x.shape[d] for d in left] != [y.shape[d] for d in right]:
        raise ValueError("shape-mismatch for sum")
    rows = [d for d in range(x.ndim) if d not in left]
    cols = [d for d in range(y.ndim) if d not in right]
    depth = product(x.shape[d] for d in left)
    shape = [*(x.shape[d] for d in rows), *(y.shape[d] for d in cols)]
    x2 = xp.transpose(x, [*rows, *left]).reshape(_size(x, rows), depth)
    y2 = xp.transpose(y, [*right, *cols]).reshape(depth, _size(y, cols))
    return xp.matmul(x2, y2).reshape(shape).copy()


def _size(x: Tracer, axes: Any) -> int:
    return product(x.shape[d] for d in axes)


@implements(np.kron)
def kron(a: Any, b: Any) -> Tracer:
    """np.kron."""
    x, y = _pair(a, b)
    rank = max(x.ndim, y.ndim)
    shape_x = (1,) * (rank - x.ndim) + x.shape
    shape_y = (1,) * (rank - y.ndim) + y.shape
    wide = x.reshape([n for d in shape_x for n in (d, 1)])
    wide = wide * y.reshape([n for d in shape_y for n in (1, d)])
    return wide.reshape([m * n for m, n in zip(shape_x, shape_y, strict=True)]).copy()


@implements(np.cross)
def cross(
    a: Any, b: Any, axisa: int = -1, axisb: int = -1, axisc: int = -1, axis: int | None = None
) -> Tracer:
    """np.cross of vectors of three elements."""
    if axis is not None:
        axisa = axisb = axisc = axis
    x, y = _pair(a, b)
    x, y = xp.moveaxis(x, axisa, -1), xp.moveaxis(y, axisb, -1)
    if x.shape[-1] != 3 or y.shape[-1] != 3:
        refuse_function("np.cross of vectors of other than three elements")
    x0, x1, x2 = (x[..., i] for i in range(3))
    y0, y1, y2 = (y[..., i] for i in range(3))
    parts = [x1 * y2 - x2 * y1, x2 * y0 - x0 * y2, x0 * y1 - x1 * y0]
    return xp.stack(parts, axisc)


# einsum


@implements(np.linalg.cross)
def linalg_cross(x1: Any, x2: Any, /, *, axis: int = -1) -> Tracer:
    """np.linalg.cross."""
    return cross(x1, x2, axis=axis)


@implements(np.linalg.diagonal)
def linalg_diagonal(x: Any, /, *, offset: int = 0) -> Tracer:
    """np.linalg.diagonal."""
    return xp.diagonal(x, offset, -2, -1)


@implements(np.linalg.trace)
def linalg_trace(x: Any, /, *, offset: int = 0, dtype: Any = None) -> Tracer:
    """np.linalg.trace."""
    return xp.trace(x, offset, -2, -1, dtype)


@implements(np.einsum, order=("K", "C", "A"))
def einsum(
    *operands: Any, out: Any = None, optimize: Any = False, dtype: Any = None, casting: Any = "safe"
) -> Tracer:
    """np.einsum with subscripts as a string; contracts pairs as ``np.einsum_path`` says."""
    subscripts, *arrays = operands
    if not isinstance(subscripts, str):
        refuse_function("np.einsum with lists of subscripts", "write the subscripts as a string")
    t = trace_of(arrays, out)
    xs = [as_tracer(t, a) for a in arrays]
    element = np.dtype(dtype) if dtype is not None else np.result_type(*(x.dtype for x in xs))
    inputs, output = _parse(subscripts, [x.ndim for x in xs])
    terms = [
        _diagonal(as_tracer(t, x, element), labels) for x, labels in zip(xs, inputs, strict=True)
    ]
    while len(terms) > 1:
        first, second = _next_pair(terms, output)
        pair = [terms.pop(max(first, second)), terms.pop(min(first, second))]
        keep = set(output).union(*(labels for _, labels in terms))
        terms.append(_contract(pair[1], pair[0], keep))
    x, labels = _sum_out(terms[0], set(output))
    if set(labels) != set(output):
        raise ValueError(
            "einstein sum subscripts string included an output label that is no input's"
        )
    return finish(xp.transpose(x, [labels.index(c) for c in output]).copy(), out)


@implements(np.einsum_path)
def einsum_path(*operands: Any, optimize: Any = "greedy", einsum_call: bool = False) -> Any:
    """np.einsum_path, which shapes decide."""
    known = [
        xp.broadcast_to(x.dtype.type(0), x.shape) if isinstance(x, Tracer) else x for x in operands
    ]
    return xp.einsum_path(*known, optimize=optimize, einsum_call=einsum_call)


def _parse(subscripts: str, ranks: list[int]) -> tuple[list[str], str]:
    """Labels per operand and of the output; an ellipsis becomes labels of its own."""
    text = subscripts.replace(" ", "")
    left, arrow, right = text.partition("->")
    inputs = left.split(",")
    if len(inputs) != len(ranks):
        raise ValueError("more operands provided to einstein sum function than specified, or fewer")
    spare = [chr(c) for c in range(0x3B1, 0x3B1 + 64)]
    most = max(
        (rank - len(s) + 3 for s, rank in zip(inputs, ranks, strict=True) if "..." in s), default=0
    )
    made = []
    for s, rank in zip(inputs, ranks, strict=True):
        n = rank - len(s) + 3
        labels = s.replace("...", "".join(spare[most - n : most]) if "..." in s and n else "")
        if len(labels) != rank:
            raise ValueError(f"the subscripts {s!r} do not match an operand of {rank} dimensions")
        made.append(labels)
    if arrow:
        return made, right.replace("...", "".join(spare[:most]))
    counts = Counter(c for s in inputs for c in s.replace("...", ""))
    once = sorted(c for c, n in counts.items() if n == 1)
    return made, "".join([*spare[:most], *once])


Term = tuple[Tracer, str]


def _diagonal(x: Tracer, labels: str) -> Term:
    """Takes the diagonal of repeated labels."""
    for c in dict.fromkeys(labels):
        while labels.count(c) > 1:
            i = labels.index(c)
            j = labels.index(c, i + 1)
            if x.shape[i] != x.shape[j]:
                raise ValueError(
                    f"dimensions in single operand for collapsing index {c!r} don't match"
                )
            x = xp.diagonal(x, 0, i, j)
            labels = labels[:i] + labels[i + 1 : j] + labels[j + 1 :] + c
    return x, labels


def _sum_out(term: Term, keep: set[str]) -> Term:
    x, labels = term
    gone = tuple(d for d, c in enumerate(labels) if c not in keep)
    if gone:
        x = xp.sum(x, gone, x.dtype)
    return x, "".join(c for c in labels if c in keep)


def _next_pair(terms: list[Term], output: str) -> tuple[int, int]:
    """Which two operands to contract next, by NumPy's greedy search."""
    if len(terms) == 2:
        return 0, 1
    text = ",".join(labels for _, labels in terms) + "->" + output
    used = sorted(set(text) - set(",->"))
    letters = dict(zip(used, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", strict=False))
    if len(used) > len(letters):
        return 0, 1
    shapes = [xp.broadcast_to(np.float32(0), x.shape) for x, _ in terms]
    path, _ = np.einsum_path("".join(letters.get(c, c) for c in text), *shapes, optimize="greedy")
    first = path[1]
    return (first[0], first[1]) if len(first) == 2 else (0, 1)


def _contract(left: Term, right: Term, keep: set[str]) -> Term:
    """The product of two operands, summed over the labels that nothing else needs."""
    left = _without_ones(_sum_out(left, keep | set(right[1])), right)
    right = _without_ones(_sum_out(right, keep | set(left[1])), left)
    (x, a), (y, b) = left, right
    shared = [c for c in a if c in b]
    if any(x.shape[a.index(c)] != y.shape[b.index(c)] for c in shared):
        raise ValueError("operands could not be broadcast together: a label has two sizes")
    batch = [c for c in shared if c in keep]
    summed = [c for c in shared if c not in keep]
    rows = [c for c in a if c not in shared]
    cols = [c for c in b if c not in shared]
    sizes = dict(zip(a, x.shape, strict=True)) | dict(zip(b, y.shape, strict=True))

    def arranged(z: Tracer, labels: str, *groups: list[str]) -> Tracer:
        z = xp.transpose(z, [labels.index(c) for g in groups for c in g])
        shape = [sizes[c] for c in groups[0]]
        return z.reshape([*shape, *(product(sizes[c] for c in g) for g in groups[1:])])

    if summed:
        z = xp.matmul(arranged(x, a, batch, rows, summed), arranged(y, b, batch, summed, cols))
    else:
        z = arranged(x, a, batch, rows, []) * arranged(y, b, batch, [], cols)
    labels = [*batch, *rows, *cols]
    return z.reshape([sizes[c] for c in labels]), "".join(labels)


def _without_ones(term: Term, other: Term) -> Term:
    """Drops dimensions of size 1 that broadcast against a larger one of the other operand."""
    x, labels = term
    larger = dict(zip(other[1], other[0].shape, strict=True))
    gone = tuple(
        d for d, c in enumerate(labels) if x.shape[d] == 1 and c in larger and larger[c] != 1
    )
    if gone:
        x = xp.squeeze(x, gone)
    return x, "".join(c for d, c in enumerate(labels) if d not in gone)


# Norms


@implements(np.linalg.norm)
def norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Tracer:
    """np.linalg.norm of vectors, and of matrices but the spectral and nuclear norms."""
    if x.dtype.kind in "biu":
        x = x.astype(np.float64)
    if axis is None and (
        ord is None or (ord in ("f", "fro") and x.ndim == 2) or (ord == 2 and x.ndim == 1)
    ):
        flat = xp.ravel(x)
        result = xp.sqrt(xp.sum(flat * flat))
        return result.reshape((1,) * x.ndim) if keepdims else result
    axes = tuple(range(x.ndim)) if axis is None else normalize_axis_tuple(axis, x.ndim)
    if len(axes) == 1:
        return _vector_norm(x, ord, axes, keepdims)
    if len(axes) != 2:
        raise ValueError("Improper number of dimensions to norm.")
    if ord in (None, "fro", "f"):
        return xp.sqrt(xp.sum(x * x, axes, keepdims=keepdims))
    if ord not in (1, -1, np.inf, -np.inf):
        refuse_function(f"np.linalg.norm of a matrix with ord={ord!r}")
    summed, kept = axes if abs(ord) == 1 else axes[::-1]
    sums = xp.sum(xp.abs(x), summed, keepdims=True)
    result = (np.max if ord > 0 else np.min)(sums, kept, keepdims=True)
    return result if keepdims else xp.squeeze(result, axes)


def _vector_norm(x: Tracer, ord: Any, axes: Any, keepdims: bool) -> Tracer:
    if ord == np.inf:
        return xp.max(xp.abs(x), axes, keepdims=keepdims)
    if ord == -np.inf:
        return xp.min(xp.abs(x), axes, keepdims=keepdims)
    if ord == 0:
        return xp.sum((x != 0).astype(x.dtype), axes, keepdims=keepdims)
    if ord == 1:
        return xp.sum(xp.abs(x), axes, keepdims=keepdims)
    if ord is None or ord == 2:
        return xp.sqrt(xp.sum(x * x, axes, keepdims=keepdims))
    if isinstance(ord, str):
        raise ValueError(f"Invalid norm order '{ord}' for vectors")
    return xp.sum(xp.abs(x) ** ord, axes, keepdims=keepdims) ** x.dtype.type(1 / ord)


@implements(np.linalg.vector_norm)
def vector_norm(x: Any, /, *, axis: Any = None, keepdims: bool = False, ord: Any = 2) -> Tracer:
    """np.linalg.vector_norm."""
    if x.dtype.kind in "biu":
        x = x.astype(np.float64)
    axes = axes_of(x, axis)
    return _vector_norm(x, ord, axes, keepdims)


@implements(np.linalg.matrix_norm)
def matrix_norm(x: Any, /, *, keepdims: bool = False, ord: Any = "fro") -> Tracer:
    """np.linalg.matrix_norm but the spectral and nuclear norms."""
    return norm(x, ord, (-2, -1), keepdims)
