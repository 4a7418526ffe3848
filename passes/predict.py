"""What a kernel has to do, noted with its launch, and the time that the cost model gives it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from pjit.ir import expr, ops
from pjit.ir.core import Value
from pjit.ir.expr import Dim
from pjit.ir.ops.fused import Fused
from pjit.ir.ops.movement import behind_reshapes
from pjit.ir.ops.program import Launch
from pjit.ir.target import Limits, Machine
from pjit.passes.cost import (
    Image,
    Product,
    sums_cycles,
    tile_cycles,
    weighed,
    winograd_cycles,
    winograd_image,
)
from pjit.passes.schedule import contraction

_MOVES = (ops.Const, ops.Reshape, ops.Broadcast, ops.Yield)
SIDES = ("down", "across")  # the parts of pairs in a problem
_PARTS = (ops.Gather, ops.GatherNd, ops.GatherElements, ops.Slice)  # they read some elements only


def notes(fused: Fused) -> dict[str, Any]:
    """The attributes ``operators``, ``problem``, ``nbytes`` and ``weights`` of a group's launch."""
    reads = list(zip(fused.operands, map(_read, fused.body.args), strict=True))
    weights = sum((n for v, n in reads if _constant(v)), start=0)
    written = sum((v.tensor.size * v.dtype.itemsize for v in fused.outputs), start=0)
    named = (o.op_name.split(".")[-1] for o in fused.body.ops if not isinstance(o, _MOVES))
    return {
        "operators": tuple(dict.fromkeys(named)),
        "problem": problem(fused),
        "nbytes": sum((n for _, n in reads), start=written),
        "weights": weights,
    }


def problem(fused: Fused) -> tuple[tuple[str, Dim], ...]:
    """The sizes that the cost model looks at, by name; none where it is a matter of bytes."""
    if fused.kind in ("tile", "bilinear"):
        (batch, p), *others = contraction(fused)
        sizes = [("batch", batch), ("rows", p.rows), ("cols", p.cols), ("depth", p.depth)]
        for i, (n, other) in enumerate(others):
            sizes += [(f"batch.{i}", n), (f"rows.{i}", other.rows)]
        return (*sizes, ("scattered", int(p.scattered)), ("bits", p.bits))
    if fused.kind == "winograd":
        first, last = (
            next(o for o in fused.body.ops if isinstance(o, kind))
            for kind in (ops.WinogradInput, ops.WinogradOutput)
        )
        s = winograd_image(first, last)
        pairs = {"size": first.attrs["sizes"], "taps": s.taps, "stride": s.strides}
        numbers = {k: v for k, v in asdict(s).items() if isinstance(v, int)}
        sides = {f"{k} {SIDES[i]}": v[i] for k, v in pairs.items() for i in (0, 1)}
        return (*numbers.items(), *sides.items())
    return ()


def predicted_seconds(
    launch: Launch, threads: int, machine: Machine, values: Mapping[str, int]
) -> float | None:
    """The time of one launch by the cost model; by its operations and bytes where there is none.

    Args:
        launch: The launch.
        threads: How many threads share it.
        machine: The machine that the program was compiled for.
        values: The sizes; None is returned when one that matters is missing.
    """
    known = {k: _known(v, values) for k, v in launch.problem}
    flops, nbytes, weights = (
        _known(launch.attrs[a], values) for a in ("flops", "nbytes", "weights")
    )
    if flops is None or nbytes is None or weights is None or None in known.values():
        return None
    sizes = {k: v for k, v in known.items() if v is not None}
    choices = dict(launch.schedule)
    if choices.get("kind") == "tile":
        cycles = _tiles(sizes, choices, weights, machine)
    elif choices.get("kind") == "winograd" and "size down" in sizes:  # not in earlier files
        size, taps, strides = (
            (sizes.pop(f"{k} {SIDES[0]}"), sizes.pop(f"{k} {SIDES[1]}"))
            for k in ("size", "taps", "stride")
        )
        cycles = winograd_cycles(Image(**sizes, taps=taps, strides=strides), size, machine)
    elif choices.get("kind") == "bilinear":
        cycles = _products_of_blocks(sizes, choices, weights, machine)
    else:
        limits = Limits.of(machine, threads)
        return max(limits.compute_seconds(flops), limits.memory_seconds(nbytes))
    return cycles / threads / machine.frequency


def _tiles(
    sizes: Mapping[str, int], choices: Mapping[str, Any], weights: int, machine: Machine
) -> float:
    p = Product(
        sizes["rows"], sizes["cols"], sizes["depth"], bool(sizes["scattered"]), sizes["bits"]
    )
    few, nr, fewer = choices["few"], choices["nr"], choices.get("fewer", ())
    cycles = 0.0
    for end, mr in [("", choices["mr"]), *((f".{i}", mr) for i, mr in enumerate(fewer))]:
        rows = sizes[f"rows{end}"]
        height = few if few and rows < mr else mr
        cycles += sizes[f"batch{end}"] * tile_cycles(replace(p, rows=rows), height, nr, machine)
    return weighed(cycles, weights, machine)


def _products_of_blocks(
    sizes: Mapping[str, int], choices: Mapping[str, Any], weights: int, machine: Machine
) -> float:
    p = Product(sizes["rows"], sizes["cols"], sizes["depth"], bits=sizes["bits"])
    near = machine.l2_bytes_per_cycle
    cycles = sizes["batch"] * tile_cycles(p, choices["mr"], choices["nr"], machine)
    cycles += sums_cycles(sizes["batch"], p.rows, p.cols, near, machine)
    return weighed(cycles, weights, machine)


def _known(d: Dim, values: Mapping[str, int]) -> int | None:
    known = expr.substitute(d, values) if expr.symbols(d) <= values.keys() else None
    assert not isinstance(known, expr.Expr)
    return known


def _read(arg: Value) -> Dim:
    """The bytes of an operand that a group reads, each once."""
    size = arg.tensor.size
    users = [(user, at) for user, at in arg.uses]
    if users and all(isinstance(user, _PARTS) and at == 0 for user, at in users):
        parts = sum((user.result.tensor.size for user, _ in users), start=0)
        size = expr.minimum(size, parts)
    return size * arg.dtype.itemsize


def _constant(v: Value) -> bool:
    return isinstance(behind_reshapes(v).op, ops.Const)
