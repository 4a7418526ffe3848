"""Kernels that compute each element of the result by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pjit.ir import expr, ops
from pjit.ir.core import Op, Value
from pjit.ir.expr import Dim, Expr, unflatten
from pjit.ir.opdef import Elementwise
from pjit.ir.target import LINE, Machine
from pjit.passes.lower import KernelBuild, merged_extents
from pjit.passes.schedule import CHUNK, reads_windows, split_parallel

Index = tuple[Dim, ...]
UNROLLED_TAPS = 54  # of the pixels that are computed at once, which are four at least


def lower_loop(k: KernelBuild) -> None:
    """Loops over the result; the last dimension is the vector."""
    root = k.root
    if isinstance(root.op, ops.Concat):
        _concat(k, root.op)
        return
    simd = k.machine.simd and len(root.shape) > 1
    if isinstance(root.op, ops.Pad) and root.op.mode == "constant" and simd:
        _pad(k, root.op)
        return
    window = next((o for o in k.fused.body.ops if reads_windows(o)), None)
    if window is not None and len(root.shape) >= 3 and window.result.shape == root.shape:
        _windows(k, window)
        return
    _elements(k, root.shape, lambda index: _finish(k, index))


def _finish(k: KernelBuild, index: Index) -> None:
    """Computes and stores the results, all of one shape, at an index."""
    for value, memory in zip(k.fused.outputs, k.outputs, strict=True):
        k.b.store(k.puller.read(value, index), memory, index)


def _elements(k: KernelBuild, shape: Sequence[Dim], body: Callable[[Index], None]) -> None:
    """Parallel leading dimensions, serial middle ones, a vector loop over the last."""
    runs = _runs(k, shape)
    extents = [expr.product(shape[d] for d in run) for run in runs]

    def at(flat: Sequence[Dim]) -> Index:
        index: list[Dim] = []
        for i, run in zip(flat, runs, strict=True):
            index += unflatten(i, [shape[d] for d in run])
        return tuple(index)

    if not extents:
        k.parallel([], lambda _: body(()))
    elif len(extents) == 1:
        total = extents[0]

        def chunk(i: Sequence[Dim]) -> None:
            size = expr.minimum(CHUNK, total - i[0] * CHUNK)
            k.b.loop(0, size, lambda j: body(at([i[0] * CHUNK + j])), kind="vector")

        if isinstance(total, int) and total <= CHUNK:
            k.parallel([], lambda _: k.serial([total], lambda j: body(at(j))))
        else:
            k.parallel([expr.ceildiv(total, CHUNK)], chunk)
    else:
        n = split_parallel(extents, 1)
        k.parallel(extents[:n], lambda i: k.serial(extents[n:], lambda j: body(at([*i, *j]))))


def _runs(k: KernelBuild, shape: Sequence[Dim]) -> list[list[int]]:
    """Dimensions that one loop covers; those of size 1 join their neighbours."""
    body = [o for o in k.fused.body.ops if not o.terminator]
    if all(isinstance(o, Elementwise | ops.Const) for o in body):
        return merged_extents(shape, [v.shape for o in body for v in o.operands])
    runs: list[list[int]] = []
    for d, size in enumerate(shape):
        if runs and (size == 1 or all(shape[e] == 1 for e in runs[-1])):
            runs[-1].append(d)
        else:
            runs.append([d])
    return runs


def _windows(k: KernelBuild, window: Op) -> None:
    """Windows over a channels-last tensor: vectors of channels, within them along the row.

    What a channel's vectors need for every pixel (the weights of a depthwise convolution) stays
    in registers; the row is split where the window leaves the input, so that its middle part has
    no guards. A long middle part is walked in pieces, all channels of one after the other:
    neighbouring vectors lie in the same cache lines.
    """
    shape = k.root.shape
    lead, width, channels = shape[:-2], shape[-2], shape[-1]
    piece = _piece(window, k.machine)

    def vectors(i: Sequence[Dim], parts: Sequence[tuple[Dim, Dim, bool]]) -> None:
        def vector(c: Dim) -> None:
            for lo, hi, inside in parts:

                def pixel(w: Expr, lo: Dim = lo, inside: bool = inside) -> None:
                    with k.puller.inside_along(window, str(w) if inside else None):
                        _finish(k, (*i, w + lo, c))

                k.b.loop(0, hi - lo, pixel, unroll=_unroll(window) if inside else 1)

        k.b.loop(0, channels, vector, kind="vector")

    def row(i: Sequence[Dim]) -> None:
        parts = _parts(window, width)
        middle = next((part for part in parts if part[-1]), None)
        if middle is None or (isinstance(width, int) and width <= piece):
            vectors(i, parts)
            return
        lo, hi, _ = middle

        def walk(s: Dim) -> None:
            start = lo + s * piece
            vectors(i, [(start, expr.minimum(start + piece, hi), True)])

        if len(parts) > 1:
            vectors(i, [part for part in parts if part is not middle])
        k.b.loop(0, expr.ceildiv(hi - lo, piece), walk)

    k.parallel(lead, row)


def _piece(window: Op, machine: Machine) -> int:
    """Pixels of a row whose windows, a cache line of each pixel, fill half of the L1 cache."""
    kernel = window.attrs.get("kernel") or window.operands[1].shape[:-1]
    rows = int(expr.product(kernel[:-1]))  # type: ignore[arg-type]
    lines = machine.l1 // 2 // LINE
    return max(8, lines // (rows * window.attrs["strides"][-1] + 1))


def _unroll(window: Op) -> int:
    """Pixels at once where windows have no guards along the row."""
    kernel = window.attrs.get("kernel") or window.operands[1].shape[:-1]
    taps = int(expr.product(kernel))  # type: ignore[arg-type]
    return max(4, min(6, UNROLLED_TAPS // taps)) if taps <= UNROLLED_TAPS else 1  # type: ignore[arg-type]


def _parts(window: Op, width: Dim) -> list[tuple[Dim, Dim, bool]]:
    """The parts of the row: from, to, and whether the windows there are inside the input."""
    at = len(window.attrs["strides"]) - 1
    kernel = (
        window.operands[1].shape[at]
        if isinstance(window, ops.Depthwise)
        else window.attrs["kernel"][at]
    )
    stride, dilation = window.attrs["strides"][at], window.attrs["dilations"][at]
    pad, size = window.attrs["pads"][at], window.operands[0].shape[-2]
    first = expr.minimum(-(-pad // stride), width)
    # the last position whose window ends inside: w*stride - pad + (kernel-1)*dilation <= size - 1
    end = expr.floordiv(size - 1 + pad - (kernel - 1) * dilation, stride) + 1
    end = expr.maximum(expr.minimum(end, width), first)
    parts: list[tuple[Dim, Dim, bool]] = [
        (0, first, False),
        (first, end, True),
        (end, width, False),
    ]
    return [(lo, hi, inside) for lo, hi, inside in parts if lo != hi]


def _concat(k: KernelBuild, concat: Op) -> None:
    """One inner nest for each part, which writes its place in the result."""
    axis, shape = concat.attrs["axis"], k.root.shape
    lead = list(shape[:axis])
    n = split_parallel([*lead, 1], 1) if lead else 0

    def parts(outer: Sequence[Dim]) -> None:
        start: Dim = 0
        for v in concat.operands:

            def element(inner: Sequence[Dim], v: Value = v, start: Dim = start) -> None:
                index = (*outer, *inner)
                value = k.puller.read(v, index)
                k.b.store(value, k.output, (*index[:axis], index[axis] + start, *index[axis + 1 :]))

            k.serial(v.shape[n:], element)
            start = start + v.shape[axis]

    k.parallel(lead[:n], parts)


def _pad(k: KernelBuild, pad: ops.Pad) -> None:
    """Rows in parts: before what is padded, that, and behind it, which have no guards along it."""
    shape, low = k.root.shape, pad.low[-1]
    end = low + pad.x.shape[-1]
    parts = [(0, low, False), (low, end, True), (end, shape[-1], False)]
    n = split_parallel(list(shape), 1)

    def row(outer: Sequence[Dim]) -> None:
        if len(outer) < len(shape) - 1:
            k.b.loop(0, shape[len(outer)], lambda i: row([*outer, i]))
            return
        for lo, hi, inside in parts:

            def element(i: Expr, lo: Dim = lo, inside: bool = inside) -> None:
                with k.puller.inside_along(pad, str(i) if inside else None):
                    _finish(k, (*outer, i + lo))

            if lo != hi:
                k.b.loop(0, hi - lo, element, kind="vector" if inside else "serial")

    k.parallel(shape[:n], row)
