"""Steps that extend a random graph: elementwise operators, reductions and movement."""

from __future__ import annotations

from collections.abc import Callable
from math import acos, asin, asinh, atan, atanh, cosh, exp, expm1, log, log1p, sinh, sqrt, tan
from typing import Any

import numpy as np
from random_values import (
    ALL_TYPES,
    LARGEST_VALUE,
    SIZES,
    Drawing,
    Known,
    broadcastable,
    capped,
    count,
    rounding,
)

from pjit.ir import expr, ops
from pjit.ir.expr import Dim
from pjit.ir.types import bool_, i32, i64

INF = float("inf")

# name: (least, most, function, largest slope as a function of the range)
Slope = Callable[[float, float], float]
MONOTONE: dict[str, tuple[float, float, Callable[[float], float], Slope]] = {
    "exp": (-50, 5, exp, lambda lo, hi: exp(hi)),
    "expm1": (-50, 5, expm1, lambda lo, hi: exp(hi)),
    "log": (0.05, INF, log, lambda lo, hi: 1 / lo),
    "log1p": (-0.9, INF, log1p, lambda lo, hi: 1 / (1 + lo)),
    "sqrt": (0.05, INF, sqrt, lambda lo, hi: 0.5 / sqrt(lo)),
    "rsqrt": (0.05, INF, lambda x: 1 / sqrt(x), lambda lo, hi: 0.5 / lo**1.5),
    "reciprocal": (0.05, INF, lambda x: 1 / x, lambda lo, hi: 1 / lo**2),
    "tanh": (-INF, INF, lambda x: float(np.tanh(x)), lambda lo, hi: 1),
    "sigmoid": (-80, 80, lambda x: 1 / (1 + exp(-x)), lambda lo, hi: 1),
    "erf": (-INF, INF, lambda x: float(np.sign(x)), lambda lo, hi: 1.2),
    "sinh": (-5, 5, sinh, lambda lo, hi: cosh(max(-lo, hi))),
    "asinh": (-INF, INF, asinh, lambda lo, hi: 1),
    "atan": (-INF, INF, atan, lambda lo, hi: 1),
    "asin": (-0.9, 0.9, asin, lambda lo, hi: 3),
    "acos": (-0.9, 0.9, acos, lambda lo, hi: 3),
    "atanh": (-0.9, 0.9, atanh, lambda lo, hi: 6),
    "tan": (-1.2, 1.2, tan, lambda lo, hi: 8),
}
WAVES = {"sin": (-1.0, 1.0), "cos": (-1.0, 1.0)}
ROUNDINGS = {"floor": np.floor, "ceil": np.ceil, "round": np.rint, "trunc": np.trunc}


def number(k: Known) -> bool:
    return k.dtype != bool_


def floating(k: Known) -> bool:
    return k.dtype.is_float


def unary_function(g: Drawing) -> None:
    """A smooth function of floats."""
    x = g.pick(floating)
    if x is None:
        return
    fitting = [
        n for n, (least, most, _, _) in MONOTONE.items() if least <= x.low and x.high <= most
    ]
    name = g.one_of([*fitting, *WAVES])
    if name in WAVES:
        if x.bound < 1e3:
            g.emit(name, [x], *WAVES[name], x.error + rounding(x.dtype, 1, 8 + x.bound))
        return
    _, _, f, slope = MONOTONE[name]
    low, high = sorted((f(x.low), f(x.high)))
    bound = max(-low, high)
    error = x.error * slope(x.low, x.high) + rounding(x.dtype, max(bound, 1e-3), 16)
    g.emit(name, [x], low, high, error)


def unary_exact(g: Drawing) -> None:
    """Sign changes, rounding and what else has no rounding error."""
    x = g.pick()
    if x is None:
        return
    names = ["not"] if not x.dtype.is_float else []
    if x.dtype != bool_:
        names += ["neg", "abs", "relu"]
        names += ["sign"] if x.exact else []
    if x.dtype.is_float:
        names += ["isnan", "isinf"]
        names += ["floor", "ceil", "round", "trunc"] if x.exact else []
    name = g.one_of(names)
    whole = x.whole or name in ("sign", *ROUNDINGS)
    if name == "neg":
        low, high = -x.high, -x.low
    elif name == "abs":
        low, high = 0.0 if x.low <= 0 <= x.high else min(abs(x.low), abs(x.high)), x.bound
    elif name == "relu":
        low, high = max(x.low, 0.0), max(x.high, 0.0)
    elif name == "not":
        low, high = (0, 1) if x.dtype == bool_ else (-INF, INF)
    elif name in ROUNDINGS:
        low, high = float(np.floor(x.low)), float(np.ceil(x.high))
    else:
        low, high = (0, 1) if name.startswith("is") else (-1, 1)
    if x.dtype.kind == "u" and name == "neg":
        low, high = -INF, INF
    g.emit(name, [x], low, high, 0.0 if name.startswith("is") else x.error, whole)


def arithmetic(g: Drawing) -> None:
    """Sums, products, quotients, minima."""
    x = g.pick(number)
    y = g.partner(x) if x is not None else None
    if x is None or y is None:
        return
    if g.chance(30):
        x, y = y, x
    names = ["add", "mul", "sub", "max", "min"]
    away = min(abs(y.low), abs(y.high)) if y.low * y.high > 0 else 0.0
    if x.dtype.is_int or away >= 0.1:
        names.append("div")
    if x.dtype.is_float and x.positive and x.bound <= 3 and y.bound <= 3:
        names.append("pow")
    if x.dtype.is_float and x.positive:
        names.append("atan2")
    if x.dtype.is_int or (x.exact and y.exact and x.whole and y.whole and away):
        names += ["mod", "floordiv", "fmod"]
    if x.dtype.is_float and y.exact and away:
        names.append("copysign")
    apply_arithmetic(g, g.one_of(names), x, y, away)


def apply_arithmetic(g: Drawing, name: str, x: Known, y: Known, away: float) -> Known | None:
    """One binary operator, with the range and the error of its result."""
    if name == "atan2":
        x, y = y, x  # the second operand is the positive one
    ends = [(a, b) for a in (x.low, x.high) for b in (y.low, y.high)]
    whole, steps = x.whole and y.whole, 2.0
    if name == "add":
        low, high, error = x.low + y.low, x.high + y.high, x.error + y.error
    elif name == "sub":
        low, high, error = x.low - y.high, x.high - y.low, x.error + y.error
    elif name == "mul":
        low, high = min(a * b for a, b in ends), max(a * b for a, b in ends)
        error = x.error * y.bound + y.error * x.bound
    elif name in ("max", "min"):
        f = max if name == "max" else min
        low, high, error, steps = (
            f(x.low, y.low),
            f(x.high, y.high),
            max(x.error, y.error),
            0,
        )
    elif name == "div" and x.dtype.is_float:
        low, high = min(a / b for a, b in ends), max(a / b for a, b in ends)
        error = (x.error + y.error * max(abs(low), abs(high))) / away
        whole = False
    elif name == "pow":
        low, high = min(a**b for a, b in ends), max(max(a**b for a, b in ends), 1.0)
        low = min(low, 1.0)
        error = high * (x.error * y.bound / x.low + y.error * 3)
        whole, steps = False, 32
    elif name == "atan2":
        low, high, error, whole, steps = -1.6, 1.6, (x.error + y.error) / y.low, False, 16
    elif name == "copysign":
        low, high, error, steps = -x.bound, x.bound, x.error, 0
    else:
        most = max(x.bound, y.bound) + 1
        low, high, error, steps = -most, most, 0.0, 0
    if not x.dtype.is_float:
        error = 0.0
    else:
        error += rounding(x.dtype, max(abs(low), abs(high)), steps)
    return g.emit(name, [x, y], low, high, error, whole)


def bits(g: Drawing) -> None:
    """Logic and shifts."""
    x = g.pick(lambda k: not k.dtype.is_float)
    if x is None:
        return
    if x.dtype.is_int and g.chance(30):
        y = g.constant(x.dtype, g.part_of(x.shape), 0, 11)
        g.emit(g.one_of(("shl", "shr")), [x, y], -INF, INF, 0.0)
        return
    y = g.partner(x)  # type: ignore[assignment]
    if y is not None:
        low, high = (0.0, 1.0) if x.dtype == bool_ else (-INF, INF)
        g.emit(g.one_of(("and", "or", "xor")), [x, y], low, high, 0.0)


def compare(g: Drawing) -> None:
    """A comparison."""
    x = g.pick(lambda k: k.exact)
    y = g.partner(x, lambda k: k.exact) if x is not None else None
    if x is not None and y is not None:
        names = ["eq", "ne"] if x.dtype == bool_ else ["lt", "le", "gt", "ge", "eq", "ne"]
        g.emit(g.one_of(names), [x, y], 0, 1, 0.0)


def choose(g: Drawing) -> None:
    """Where, with a condition from the graph or a new one."""
    x = g.pick()
    if x is None:
        return
    c = g.pick(lambda k: k.dtype == bool_ and broadcastable(k.shape, x.shape))
    c = c if c is not None else g.source(bool_, g.part_of(x.shape))
    y = g.partner(x, lambda k: broadcastable(k.shape, c.shape))
    if y is not None:
        low, high = min(x.low, y.low), max(x.high, y.high)
        g.emit(ops.Where, [c, x, y], low, high, max(x.error, y.error), x.whole and y.whole)


def cast(g: Drawing) -> None:
    """A conversion whose result is specified."""
    x = g.pick()
    if x is None:
        return
    dt = g.one_of(ALL_TYPES)
    if dt.is_int and x.dtype.is_float:
        info = np.iinfo(dt.numpy)
        if x.nan or not x.exact or x.low <= info.min or x.high >= min(info.max, 2**31):
            return
    if dt == bool_ and not x.exact:
        return
    if dt == bool_:
        g.emit(ops.Cast, [x], 0, 1, 0.0, dtype=dt)
        return
    if dt.is_int and x.dtype.is_int and not np.can_cast(x.dtype.numpy, dt.numpy):
        info = np.iinfo(dt.numpy)
        inside = info.min <= x.low and x.high <= info.max
        low, high = (x.low, x.high) if inside else (info.min, info.max)
        g.emit(ops.Cast, [x], low, high, 0.0, True, dtype=dt)
        return
    error = x.error + (rounding(dt, x.bound) if x.error else 0.0)
    slack = 0.01 * x.bound if dt.is_float and dt.bits == 16 else 0.0
    low, high = (
        (np.trunc(x.low), np.trunc(x.high)) if dt.is_int else (x.low - slack, x.high + slack)
    )
    whole = x.whole and x.bound < 250
    g.emit(ops.Cast, [x], low, high, error, whole, dtype=dt)


# Reductions


def axes_of(g: Drawing, x: Known) -> tuple[int, ...]:
    """Some axes, the trailing ones more often."""
    if g.chance(40):
        return tuple(a for a in range(x.rank) if g.chance(50))
    return tuple(range(x.rank - g.number(0, x.rank), x.rank))


def reduce_values(g: Drawing) -> None:
    """A reduction over any axes."""
    x = g.pick(lambda k: k.rank > 0)
    if x is None:
        return
    axes, keep = axes_of(g, x), g.chance(50)
    n = count([x.shape[a] for a in axes])
    names = ["max", "min"]
    if x.dtype != bool_:
        names += ["sum", "mean"]
        small = n * log(max(x.bound, 1.0)) < 7
        names += ["prod"] if x.dtype.is_int or small else []
    name = g.one_of(names)
    attrs: dict[str, Any] = {"axes": axes, "keepdims": keep}
    if name in ("max", "min"):
        g.emit(f"reduce.{name}", [x], x.low, x.high, x.error, x.whole, **attrs)
    elif name == "prod":
        most = max(x.bound, 1.0) ** n if x.dtype.is_float else INF
        error = n * most * (x.error + rounding(x.dtype, 1)) if x.dtype.is_float else 0.0
        low, high = -most, most
        g.emit("reduce.prod", [x], low, high, error, x.whole, **attrs)
    else:
        total = x.bound * n
        error = n * x.error + rounding(x.dtype, total, n + 2)
        low, high = min(x.low, x.low * n), max(x.high, x.high * n)
        if name == "mean":
            low, high, error = x.low, x.high, error / n + rounding(x.dtype, x.bound)
        if not x.dtype.is_float:
            error = 0.0
            if name == "sum" and total > np.iinfo(x.dtype.numpy).max:
                low, high = -INF, INF
        g.emit(f"reduce.{name}", [x], low, high, error, x.whole and name == "sum", **attrs)


def arg_reduce(g: Drawing) -> None:
    """The position of the largest or smallest element."""
    x = g.pick(lambda k: k.rank > 0 and k.exact and number(k))
    if x is None:
        return
    axis = g.number(0, x.rank - 1)
    attrs: dict[str, Any] = {"axis": axis, "keepdims": g.chance(40), "last": g.chance(30)}
    g.emit(g.one_of(("argmax", "argmin")), [x], 0, capped(x.shape[axis]) - 1, 0.0, **attrs)


# Movement


def transpose(g: Drawing) -> None:
    """Any permutation."""
    x = g.pick(lambda k: k.rank > 1)
    if x is None:
        return
    left = list(range(x.rank))
    perm = [left.pop(g.number(0, len(left) - 1)) for _ in range(x.rank)]
    g.moved(ops.Transpose, x, perm=tuple(perm))


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def reshape(g: Drawing) -> None:
    """Merges, splits, inserts or drops dimensions, or takes another factorisation."""
    x = g.pick()
    if x is None:
        return
    shape = list(x.shape)
    kind = g.one_of(("merge", "split", "insert", "drop", "flatten", "any"))
    if kind == "merge" and len(shape) > 1:
        at = g.number(0, len(shape) - 2)
        shape[at : at + 2] = [shape[at] * shape[at + 1]]
    elif kind == "split" and any(isinstance(d, int) for d in shape):
        at = g.one_of([i for i, d in enumerate(shape) if isinstance(d, int)])
        part = g.one_of(divisors(shape[at]))  # type: ignore[arg-type]
        shape[at : at + 1] = [part, shape[at] // part]
    elif kind == "insert":
        shape.insert(g.number(0, len(shape)), 1)
    elif kind == "drop":
        shape = [d for d in shape if d != 1]
    elif kind == "flatten":
        shape = [expr.product(shape)]
    elif kind == "any" and all(isinstance(d, int) for d in shape):
        left, shape = count(shape), []
        while left > 1 and len(shape) < 4:
            part = g.one_of(divisors(left))
            shape.append(part)
            left //= part
        shape.append(left)
    if len(shape) <= 6:
        g.moved(ops.Reshape, x, shape=tuple(shape))


def slice_(g: Drawing) -> None:
    """A part of each dimension, with steps of either sign."""
    x = g.pick(lambda k: k.rank > 0)
    if x is None:
        return
    parts = [_slice_of(g, d) if g.chance(60) else (0, d, 1) for d in x.shape]
    starts, sizes, steps = zip(*parts, strict=True)
    g.moved(ops.Slice, x, starts=starts, sizes=sizes, steps=steps)


def _slice_of(g: Drawing, d: Dim) -> tuple[Dim, Dim, int]:
    if not isinstance(d, int):
        every = g.one_of((1, 2, 3))
        return g.one_of(
            (
                (0, d, 1),
                (d - 1, d, -1),
                (0, expr.ceildiv(d, every), every),
                (d - 1, expr.ceildiv(d, every), -every),
                (d - 1, 1, 1),
                (0, 1, 1),
            )
        )
    step = g.one_of((1, 2, 3, -1, -2, -3))
    size = g.number(1, -(-d // abs(step)))
    slack = d - 1 - (size - 1) * abs(step)
    offset = g.number(0, slack)
    return (offset if step > 0 else d - 1 - offset), size, step


def pad(g: Drawing) -> None:
    """Padding of any mode."""
    x = g.pick(lambda k: k.rank > 0)
    if x is None:
        return
    mode = g.one_of(("constant", "edge", "reflect"))

    def width(d: Dim) -> int:
        least = d if isinstance(d, int) else 1
        return g.number(0, min(3, least - 1) if mode == "reflect" else 3) if g.chance(50) else 0

    low = tuple(width(d) for d in x.shape)
    high = tuple(width(d) for d in x.shape)
    value = 0.0
    if mode == "constant" and x.dtype != bool_:
        value = float(g.one_of((0.0, 1.0, 2.0) if x.dtype.kind == "u" else (0.0, 1.0, -2.0)))
    out = g.b(ops.Pad, x.value, low=low, high=high, mode=mode, value=value)
    padded = mode == "constant"
    least, most = (min(x.low, value), max(x.high, value)) if padded else (x.low, x.high)
    g.take(out, [x], least, most, x.error, x.whole)


def concat(g: Drawing) -> None:
    """Joins values that fit; often pieces of one value."""
    x = g.pick(lambda k: k.rank > 0)
    if x is None:
        return
    axis = g.number(0, x.rank - 1)

    def fits(k: Known) -> bool:
        return (
            k.dtype == x.dtype
            and k.rank == x.rank
            and all(
                d == axis or a == b for d, (a, b) in enumerate(zip(k.shape, x.shape, strict=True))
            )
        )

    parts = [x]
    for _ in range(g.number(1, 2)):
        other = g.pick(fits)
        static = all(isinstance(d, int) for i, d in enumerate(x.shape) if i != axis)
        if static and g.chance(30):
            shape = list(x.shape)
            shape[axis] = g.number(1, 5)
            other = g.source(x.dtype, tuple(shape))
        assert other is not None
        parts.insert(g.number(0, len(parts)), other)
    low, high = min(k.low for k in parts), max(k.high for k in parts)
    error, whole = max(k.error for k in parts), all(k.whole for k in parts)
    g.emit(ops.Concat, parts, low, high, error, whole, axis=axis)


def broadcast(g: Drawing) -> None:
    """Repeats dimensions of 1 and adds leading ones."""
    x = g.pick(lambda k: k.rank < 5)
    if x is None:
        return
    room = max(1, LARGEST_VALUE // max(1, count(x.shape)))
    shape: list[Dim] = []
    lead: list[Dim] = []
    for d in x.shape:
        new = g.one_of([s for s in SIZES if s <= room]) if d == 1 and g.chance(60) else d
        room //= capped(new) if d == 1 else 1
        shape.append(new)
    if g.chance(50):
        lead.append(g.one_of([s for s in SIZES if s <= max(1, room)]))
    g.moved(ops.Broadcast, x, shape=(*lead, *shape))


def iota(g: Drawing) -> None:
    """A row of numbers, for later use as indices or values."""
    bound = any(g.symbol in i.type.shape for i in g.inputs)
    size = g.symbol if g.symbol is not None and bound and g.chance(40) else g.one_of(SIZES)
    dt = g.one_of([t for t in ALL_TYPES if t != bool_])
    g.emit(ops.Iota, [], 0, capped(size) - 1, 0.0, True, size=size, dtype=dt)


def index_source(g: Drawing, shape: tuple[Dim, ...], extent: Dim) -> Known:
    """Indices into a dimension: a value of the graph that fits, or a new source."""
    least = extent if isinstance(extent, int) else 1
    k = g.pick(lambda k: k.dtype in (i32, i64) and k.low >= -least and k.high < least)
    if k is not None and k.rank <= 2 and len(shape) != 0 and g.chance(40):
        return k
    return g.source(g.one_of((i64, i32)), shape, -least, least - 1)


def gather(g: Drawing) -> None:
    """Elements along an axis by their indices."""
    x = g.pick(lambda k: 0 < k.rank < 5)
    if x is None:
        return
    axis = g.number(0, x.rank - 1)
    shape = tuple(g.one_of(SIZES[:7]) for _ in range(g.number(0, 2)))
    indices = index_source(g, shape, x.shape[axis])
    out = g.b(ops.Gather, x.value, indices.value, axis=axis)
    g.take(out, [x], x.low, x.high, x.error, x.whole)


def gather_elements(g: Drawing) -> None:
    """Elements by one index each."""
    x = g.pick(lambda k: k.rank > 0 and all(isinstance(d, int) for d in k.shape))
    if x is None:
        return
    axis = g.number(0, x.rank - 1)
    shape = tuple(
        g.one_of(SIZES[:7]) if d == axis else g.number(1, capped(n)) for d, n in enumerate(x.shape)
    )
    extent = capped(x.shape[axis])
    indices = g.source(g.one_of((i64, i32)), shape, -extent, extent - 1)
    out = g.b(ops.GatherElements, x.value, indices.value, axis=axis)
    g.take(out, [x], x.low, x.high, x.error, x.whole)


def gather_nd(g: Drawing) -> None:
    """Slices by vectors of coordinates."""
    x = g.pick(lambda k: k.rank > 0 and all(isinstance(d, int) for d in k.shape))
    if x is None:
        return
    batch = g.number(0, min(1, x.rank - 1))
    n = g.number(1, x.rank - batch)
    least = min(capped(d) for d in x.shape[batch : batch + n])
    shape = (*x.shape[:batch], g.one_of(SIZES[:7]), n)
    indices = g.source(g.one_of((i64, i32)), shape, -least, least - 1)
    out = g.b(ops.GatherNd, x.value, indices.value, batch_dims=batch)
    g.take(out, [x], x.low, x.high, x.error, x.whole)
