"""Einsum: products of tensors by subscripts, made of transposes, reshapes and matrix products."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pjit.frontends.onnx.reader import Refused
from pjit.frontends.onnx.registry import Node, onnx_op
from pjit.ir.builder import Builder
from pjit.ir.core import Value
from pjit.ir.expr import Dim, product
from pjit.ir.opdef import broadcast_dims


@dataclass(frozen=True)
class _Term:
    """A value and the label of each of its dimensions."""

    value: Value
    labels: tuple[str, ...]

    def dim(self, label: str) -> Dim:
        return self.value.shape[self.labels.index(label)]


def _parse(equation: str, ranks: list[int]) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """Labels of the operands and the result; an ellipsis is ``.0``, ``.1``, ... from the right."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    parts = left.split(",")
    if len(parts) != len(ranks):
        raise Refused(f"the equation {equation!r} has {len(parts)} terms for {len(ranks)} inputs")
    terms, widest = [], 0
    for part, rank in zip(parts, ranks, strict=True):
        letters = part.replace("...", "", 1)
        hidden = rank - len(letters) if "..." in part else 0
        if not all(c.isalpha() for c in letters) or len(letters) + hidden != rank or hidden < 0:
            raise Refused(f"the term {part!r} of {equation!r} does not fit an input of rank {rank}")
        widest = max(widest, hidden)
        terms.append(_labels(part, hidden))
    if arrow:
        if not all(c.isalpha() for c in right.replace("...", "", 1)):
            raise Refused(f"the result {right!r} of {equation!r} is not understood")
        out = _labels(right, widest)
    else:
        flat = [c for t in terms for c in t]
        single = sorted(c for c in set(flat) if flat.count(c) == 1 and not c.startswith("."))
        out = (*_labels("...", widest), *single)
    known = {c for t in terms for c in t}
    if len(set(out)) != len(out) or not set(out) <= known:
        raise Refused(f"the result of {equation!r} repeats a label or has an unknown one")
    return terms, out


def _labels(part: str, hidden: int) -> tuple[str, ...]:
    before, dots, after = part.partition("...")
    middle = [f".{i}" for i in reversed(range(hidden))] if dots else []
    return (*before, *middle, *after)


def _arranged(b: Builder, term: _Term, labels: Iterable[str]) -> Value:
    """The value with its dimensions in another order."""
    perm = tuple(term.labels.index(c) for c in labels)
    if perm == tuple(range(len(perm))):
        return term.value
    return b("transpose", term.value, perm=perm)


def _sum_out(b: Builder, term: _Term, keep: set[str]) -> _Term:
    """Sums over the labels that nothing else needs."""
    axes = tuple(i for i, c in enumerate(term.labels) if c not in keep)
    if not axes:
        return term
    value = b("reduce.sum", term.value, axes=axes)
    return _Term(value, tuple(c for c in term.labels if c in keep))


def _contract(b: Builder, x: _Term, y: _Term, keep: set[str]) -> _Term:
    """The product of two terms, summed over what they share and nothing else needs."""
    x = _sum_out(b, x, keep | set(y.labels))
    y = _sum_out(b, y, keep | set(x.labels))
    shared = [c for c in x.labels if c in y.labels]
    sizes = {c: broadcast_dims(x.dim(c), y.dim(c)) for c in shared}
    batch = [c for c in shared if c in keep]
    inner = [c for c in shared if c not in keep]
    rows = [c for c in x.labels if c not in shared]
    columns = [c for c in y.labels if c not in shared]
    left, right = (
        _arranged(b, x, [*batch, *rows, *inner]),
        _arranged(b, y, [*batch, *inner, *columns]),
    )
    row_dims, column_dims = [x.dim(c) for c in rows], [y.dim(c) for c in columns]
    batch_dims, inner_dims = [sizes[c] for c in batch], [sizes[c] for c in inner]

    def fitted(value: Value, wanted: list[Dim], shape: list[Dim]) -> Value:
        if list(value.shape) != wanted and any(
            d == 1 != w for d, w in zip(value.shape, wanted, strict=True)
        ):
            value = b("broadcast", value, shape=wanted)
        return value if list(value.shape) == shape else b("reshape", value, shape=shape)

    m, k, n = product(row_dims), product(inner_dims), product(column_dims)
    left = fitted(left, [*batch_dims, *row_dims, *inner_dims], [*batch_dims, m, k])
    right = fitted(right, [*batch_dims, *inner_dims, *column_dims], [*batch_dims, k, n])
    y_ = b("matmul", left, right)
    shape = [*batch_dims, *row_dims, *column_dims]
    if list(y_.shape) != shape:
        y_ = b("reshape", y_, shape=shape)
    return _Term(y_, (*batch, *rows, *columns))


@onnx_op("Einsum")
def einsum(n: Node) -> Value:
    """A sum of products by subscripts; repeated labels in one operand are not supported."""
    values, equation = n.data, n.attr("equation", "string")
    labels, out = _parse(equation, [v.tensor.rank for v in values])
    if any(len(set(t)) != len(t) for t in labels):
        raise Refused(f"{equation!r} takes a diagonal, which is not supported")
    terms = [_Term(v, t) for v, t in zip(values, labels, strict=True)]
    total = terms[0]
    for i, term in enumerate(terms[1:], 1):
        later = {c for t in terms[i + 1 :] for c in t.labels}
        total = _contract(n.b, total, term, set(out) | later)
    total = _sum_out(n.b, total, set(out))
    return _arranged(n.b, total, out)
