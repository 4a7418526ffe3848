"""Random calls of every function of the array API standard: arrays, and what is done with them.

``CALLS`` has a strategy for each function. A call is made with the namespace as an argument, so
that the oracle, pjit's eager arrays and a compiled function run the same code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

BOOLS, SIGNED, UNSIGNED = ("bool",), ("int8", "int16", "int32", "int64"), ("uint8", "uint32")
FLOATS = ("float32", "float64")
INTS = (*SIGNED, *UNSIGNED, "uint16", "uint64")
NUMBERS = (*INTS, *FLOATS)
ALL = (*BOOLS, *NUMBERS)
SHAPES = [(), (0,), (1,), (3,), (7,), (2, 3), (0, 3), (3, 0), (1, 5), (3, 1, 2), (2, 3, 0), (4, 4)]
FULL = [s for s in SHAPES if 0 not in s]  # with elements
SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0])
Draw = Callable[[st.SearchStrategy], Any]


@dataclass
class Call:
    """``run(namespace, *arrays)``; ``text`` says what it does."""

    text: str
    arrays: list[np.ndarray]
    run: Callable[..., Any]

    def __repr__(self) -> str:
        shown = ", ".join(f"{a.dtype}{list(a.shape)}" for a in self.arrays)
        return f"{self.text} of {shown}: {[a.tolist() for a in self.arrays]}"


def pick(draw: Draw, *options: Any) -> Any:
    """One of some values."""
    return draw(st.sampled_from(options))


def array(
    draw: Draw, dtype: str, shape: Any, low: float = -4, high: float = 4, special: float = 0
) -> np.ndarray:
    """Random elements in low..high; of floats, a share are NaN, infinities and zeros."""
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    kind = np.dtype(dtype).kind
    if kind == "b":
        return np.asarray(rng.integers(0, 2, shape), bool)
    if kind in "iu":
        return np.asarray(rng.integers(0 if kind == "u" else low, high + 1, shape)).astype(dtype)
    values = rng.uniform(low, high, shape)
    values = np.where(rng.random(shape) < 0.3, np.round(values), values)
    return np.where(rng.random(shape) < special, rng.choice(SPECIAL, shape), values).astype(dtype)


def pair(draw: Draw, dtypes: tuple[str, ...]) -> tuple[str, str]:
    """Two dtypes that the standard promotes."""
    first = pick(draw, *dtypes)
    kind = np.dtype(first).kind
    same = [d for d in dtypes if np.dtype(d).kind == kind]
    if kind in "iu" and first != "uint64":
        same += [d for d in dtypes if np.dtype(d).kind in "iu" and d != "uint64"]
    return first, pick(draw, *same)


def broadcasting(draw: Draw) -> tuple[tuple, tuple]:
    """Two shapes that broadcast."""
    shape = pick(draw, *SHAPES)
    other = tuple(pick(draw, n, 1) for n in shape)[draw(st.integers(0, len(shape))) :]
    return pick(draw, (shape, shape), (shape, other), (other, shape))


CALLS: dict[str, st.SearchStrategy[Call]] = {}


def calls(*names: str) -> Callable[[Callable[[Draw, str], Call]], None]:
    """Makes a strategy of a function that draws a call, for functions with these names."""

    def register(make: Callable[[Draw, str], Call]) -> None:
        for name in names:
            CALLS[name] = st.composite(lambda draw, name=name: make(draw, name))()

    return register


def call(name: str, *arrays: np.ndarray, **kwargs: Any) -> Call:
    """``xp.name(*arrays, **kwargs)``."""
    options = {k: v for k, v in kwargs.items() if v is not ...}
    text = f"{name}(..., {options})"

    def run(xp: Any, *xs: Any) -> Any:
        given = {k: getattr(xp, v) if k == "dtype" and v else v for k, v in options.items()}
        return getattr(xp, name)(*xs, **given)

    return Call(text, list(arrays), run)


# Elementwise functions

DOMAIN = {
    **dict.fromkeys(("acos", "asin", "atanh"), (-0.99, 0.99)),
    **dict.fromkeys(("log", "log2", "log10", "log1p", "sqrt"), (0, 4)),
    "acosh": (1, 9),
}
UNARY = {
    FLOATS: "acos acosh asin asinh atan atanh cos cosh exp expm1 log log10 log1p log2 reciprocal "
    "signbit sin sinh sqrt tan tanh",
    NUMBERS: "abs ceil conj floor isfinite isinf isnan negative positive round sign square trunc",
    BOOLS: "logical_not",
    (*BOOLS, *INTS): "bitwise_invert",
}
BINARY = {
    FLOATS: "atan2 copysign divide hypot logaddexp nextafter",
    NUMBERS: "add floor_divide greater greater_equal less less_equal maximum minimum multiply pow "
    "remainder subtract",
    BOOLS: "logical_and logical_or logical_xor",
    (*BOOLS, *INTS): "bitwise_and bitwise_or bitwise_xor",
    INTS: "bitwise_left_shift bitwise_right_shift",
    ALL: "equal not_equal",
}
DTYPES_OF = {
    name: dtypes for t in (UNARY, BINARY) for dtypes, names in t.items() for name in names.split()
}


@calls(*" ".join(UNARY.values()).split())
def _unary(draw: Draw, name: str) -> Call:
    low, high = DOMAIN.get(name, (-4, 4))
    dtype = pick(draw, *DTYPES_OF[name])
    return call(name, array(draw, dtype, pick(draw, *SHAPES), low, high, 0.2))


@calls(*" ".join(BINARY.values()).split())
def _binary(draw: Draw, name: str) -> Call:
    first, second = pair(draw, DTYPES_OF[name])
    shapes = broadcasting(draw)
    special = 0.0 if name in ("pow", "floor_divide", "remainder") else 0.2
    x = array(draw, first, shapes[0], 0 if name == "pow" else -4, 4, special)
    y = array(draw, second, shapes[1], 0 if name == "pow" or "shift" in name else -4, 4, special)
    if name in ("floor_divide", "remainder"):
        y = np.where(y == 0, y.dtype.type(3), y)
    number = {"b": True, "i": 3, "u": 3, "f": 1.5}[x.dtype.kind]
    kind = pick(draw, "arrays", "arrays", "number", "other way")
    if kind == "number":
        return Call(f"{name}(x, {number})", [x], lambda xp, x: getattr(xp, name)(x, number))
    if kind == "other way":
        return Call(f"{name}({number}, y)", [y], lambda xp, y: getattr(xp, name)(_like(y), y))
    return call(name, x, y)


def _like(y: Any) -> Any:
    return {"b": True, "i": 2, "u": 2, "f": 2.5}[np.dtype(str(y.dtype).rpartition(".")[2]).kind]


@calls("clip")
def _clip(draw: Draw, name: str) -> Call:
    dtype = pick(draw, *NUMBERS, *FLOATS, *FLOATS)
    shape, other = sorted(broadcasting(draw), key=len, reverse=True)
    x = array(draw, dtype, shape, special=0.2)
    if draw(st.booleans()):
        low, high = pick(draw, (None, None), (0, None), (None, 2), (1, 3), (-200, 100_000))
        return call(name, x, min=low, max=high)
    bounds = np.stack([array(draw, dtype, other, special=0.3) for _ in range(2)])
    low, high = bounds.min(0), bounds.max(0)
    return pick(
        draw,
        call(name, x, low, high),
        Call("clip(x, low)", [x, low], lambda xp, x, b: xp.clip(x, b)),
        Call("clip(x, max=high)", [x, high], lambda xp, x, b: xp.clip(x, max=b)),
        Call("clip(x, 1, high)", [x, high + 1], lambda xp, x, b: xp.clip(x, -4, b)),
    )


@calls("real", "imag")
def _complex(draw: Draw, name: str) -> Call:
    x = array(draw, "float32", pick(draw, *SHAPES))
    return call(name, (x + 1j * x).astype(pick(draw, "complex64", "complex128")))


# Creation functions


@calls("zeros", "ones", "empty", "zeros_like", "ones_like", "empty_like", "full", "full_like")
def _filled(draw: Draw, name: str) -> Call:
    shape, dtype = pick(draw, *SHAPES), pick(draw, None, *ALL)
    number = pick(draw, True, 1, 2.5) if dtype is None else np.dtype(dtype).type(1).item()
    given = {"fill_value": number} if name.startswith("full") else {}
    empty = name.startswith("empty")
    arrays = []
    if name.endswith("_like"):
        like = pick(draw, *ALL)
        arrays = [array(draw, like, shape)]
        if dtype is None and given:
            given = {"fill_value": np.dtype(like).type(1).item()}
    else:
        given["shape"] = shape

    def run(xp: Any, *xs: Any) -> Any:
        options = {**given, "dtype": dtype and getattr(xp, dtype)}
        like = [*xs] or [options.pop("shape")]
        rest = [options.pop("fill_value")] if "fill_value" in options else []
        made = getattr(xp, name)(*like, *rest, **options)
        return (made.dtype, made.shape) if empty else made

    return Call(f"{name}({given}, {dtype})", arrays, run)


@calls("arange")
def _arange(draw: Draw, name: str) -> Call:
    args = pick(draw, (5,), (0,), (2, 7), (7, 2, -2), (0.0, 1.0, 0.25), (1, 4, 0.5))
    dtype = pick(draw, None, "float32", "int16" if all(type(a) is int for a in args) else "float64")
    return Call(
        f"arange{args}", [], lambda xp: xp.arange(*args, dtype=dtype and getattr(xp, dtype))
    )


@calls("linspace")
def _linspace(draw: Draw, name: str) -> Call:
    args = pick(draw, (0.0, 1.0, 5), (2, -3, 4), (0.0, 1.0, 1), (1.0, 1.0, 0))
    dtype, end = pick(draw, None, "float32"), draw(st.booleans())
    return Call(
        f"linspace{args}",
        [],
        lambda xp: xp.linspace(*args, dtype=dtype and getattr(xp, dtype), endpoint=end),
    )


@calls("eye")
def _eye(draw: Draw, name: str) -> Call:
    args = pick(draw, (3,), (2, 4), (0,), (3, 1))
    k, dtype = draw(st.integers(-2, 2)), pick(draw, None, "int8", "bool")
    return Call(f"eye{args}", [], lambda xp: xp.eye(*args, k=k, dtype=dtype and getattr(xp, dtype)))


@calls("asarray")
def _asarray(draw: Draw, name: str) -> Call:
    dtype = pick(draw, None, "float32", "int64")
    nested = pick(draw, True, 1, [1, 2], [[1.5, 2.0]], (True, False), [])
    if draw(st.booleans()):
        return Call(
            f"asarray({nested})",
            [],
            lambda xp: xp.asarray(nested, dtype=dtype and getattr(xp, dtype)),
        )
    x = array(draw, pick(draw, *ALL), pick(draw, *SHAPES))
    copy = pick(draw, None, True)
    return call(name, x, dtype=dtype, copy=copy)


@calls("from_dlpack")
def _from_dlpack(draw: Draw, name: str) -> Call:
    return call(name, array(draw, pick(draw, *ALL), pick(draw, *SHAPES)))


@calls("meshgrid", "broadcast_arrays")
def _several(draw: Draw, name: str) -> Call:
    dtype = pick(draw, *ALL)
    if name == "meshgrid":
        shapes = [pick(draw, (3,), (1,), (0,), (2,)) for _ in range(draw(st.integers(1, 3)))]
        indexing = pick(draw, "xy", "ij")
        return call(name, *(array(draw, dtype, s) for s in shapes), indexing=indexing)
    return call(name, *(array(draw, dtype, s) for s in broadcasting(draw)))


@calls("tril", "triu")
def _triangle(draw: Draw, name: str) -> Call:
    shape = pick(draw, *(s for s in SHAPES if len(s) > 1))
    return call(name, array(draw, pick(draw, *ALL), shape), k=draw(st.integers(-3, 3)))


# Manipulation


@calls("concat", "stack")
def _joined(draw: Draw, name: str) -> Call:
    dtypes = pair(draw, ALL)
    shape = pick(draw, *(s for s in SHAPES if s))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    other = list(shape)
    if name == "concat":
        other[axis] = draw(st.integers(0, 3))
    arrays = [array(draw, dtypes[0], shape), array(draw, dtypes[1], other)]

    def run(xp: Any, *xs: Any) -> Any:
        return getattr(xp, name)(xs, axis=axis)

    return Call(f"{name}(axis={axis})", arrays, run)


@calls("broadcast_to", "expand_dims", "flip", "moveaxis", "permute_dims", "reshape", "roll")
def _moved(draw: Draw, name: str) -> Call:
    shape = pick(draw, *(s for s in SHAPES if s or name != "moveaxis"))
    n, x = len(shape), array(draw, pick(draw, *ALL), shape)
    axis = draw(st.integers(-n, n - 1)) if n else None
    axes = draw(st.permutations(range(n)))
    options: dict[str, Any] = {
        "broadcast_to": lambda: {"shape": (2, *shape)},
        "expand_dims": lambda: {"axis": draw(st.integers(-n - 1, n))},
        "flip": lambda: {"axis": pick(draw, None, axis, tuple(axes[:2]))},
        "permute_dims": lambda: {"axes": tuple(axes)},
        "reshape": lambda: {"shape": pick(draw, shape[::-1], (x.size,), (1, *shape))},
        "roll": lambda: pick(
            draw,
            {"shift": draw(st.integers(-9, 9)), "axis": axis},
            {"shift": 2},
            {"shift": tuple(range(1, n + 1)), "axis": tuple(axes)} if n else {"shift": -1},
        ),
    }.get(name, dict)()
    if name == "moveaxis":
        ends = pick(draw, (axis, 0), (0, -1), (tuple(axes[:2]), tuple(range(n))[:2]))
        return Call(f"moveaxis{ends}", [x], lambda xp, x: xp.moveaxis(x, *ends))
    return call(name, x, **options)


@calls("squeeze")
def _squeeze(draw: Draw, name: str) -> Call:
    shape, axis = pick(draw, ((1, 3), 0), ((2, 1, 1), (1, -1)), ((2, 1), -1), ((1, 0), (0,)))
    return call(name, array(draw, pick(draw, *ALL), shape), axis=axis)


@calls("repeat")
def _repeat(draw: Draw, name: str) -> Call:
    shape = pick(draw, *(s for s in SHAPES if s))
    axis = pick(draw, None, *range(-len(shape), len(shape)))
    x = array(draw, pick(draw, *ALL), shape)
    n = x.size if axis is None else shape[axis]
    count = pick(draw, 0, 1, 3, list(range(n)))

    def run(xp: Any, x: Any) -> Any:
        counts = count if isinstance(count, int) else xp.asarray(count, dtype=xp.int64)
        return xp.repeat(x, counts, axis=axis)

    return Call(f"repeat({count}, axis={axis})", [x], run)


@calls("tile")
def _tile(draw: Draw, name: str) -> Call:
    reps = pick(draw, (2,), (1, 3), (2, 1, 2), (0,), ())
    x = array(draw, pick(draw, *ALL), pick(draw, *SHAPES))
    return Call(f"tile{reps}", [x], lambda xp, x: xp.tile(x, reps))


@calls("unstack")
def _unstack(draw: Draw, name: str) -> Call:
    shape = pick(draw, *(s for s in SHAPES if s))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    return call(name, array(draw, pick(draw, *ALL), shape), axis=axis)


# Indexing, searching, sorting, sets


@calls("take", "take_along_axis")
def _take(draw: Draw, name: str) -> Call:
    shape = pick(draw, *(s for s in FULL if s))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    x, n = array(draw, pick(draw, *ALL), shape), shape[axis]
    wanted = list(shape)
    wanted[axis] = draw(st.integers(0, 4))
    if name == "take":
        wanted = [wanted[axis]]
    dtype = pick(draw, "int64", "int32", "uint8")
    low = 0 if dtype == "uint8" else -n
    return call(name, x, array(draw, dtype, wanted, low, n - 1), axis=axis)


@calls("argmax", "argmin", "max", "min")
def _extreme(draw: Draw, name: str) -> Call:
    shape = pick(draw, *FULL)
    dtype = pick(draw, *NUMBERS)
    axis = pick(draw, None, *range(-len(shape), len(shape)))
    special = 0.2 if name in ("max", "min") else 0
    x = array(draw, dtype, shape, special=special)
    return call(name, x, axis=axis, keepdims=draw(st.booleans()))


@calls("nonzero", "unique_all", "unique_counts", "unique_inverse", "unique_values")
def _counted(draw: Draw, name: str) -> Call:
    shapes = FULL[1:] if name == "nonzero" else FULL
    return call(name, array(draw, pick(draw, *ALL), pick(draw, *shapes)))


@calls("searchsorted")
def _searchsorted(draw: Draw, name: str) -> Call:
    first, second = pair(draw, NUMBERS)
    x = array(draw, first, pick(draw, (0,), (1,), (5,), (16,), (33,)))
    y = array(draw, second, pick(draw, *SHAPES))
    side = pick(draw, "left", "right")
    if draw(st.booleans()):
        order = np.argsort(x, stable=True)
        return Call(
            f"searchsorted({side}, sorter)",
            [x, y, order],
            lambda xp, x, y, o: xp.searchsorted(x, y, side=side, sorter=o),
        )
    return call(name, np.sort(x), y, side=side)


@calls("where")
def _where(draw: Draw, name: str) -> Call:
    first, second = pair(draw, ALL)
    shapes = broadcasting(draw)
    condition = array(draw, "bool", pick(draw, *shapes))
    return call(name, condition, array(draw, first, shapes[0]), array(draw, second, shapes[1]))


@calls("sort", "argsort")
def _sort(draw: Draw, name: str) -> Call:
    shape = pick(draw, *(s for s in SHAPES if s))
    x = array(draw, pick(draw, *NUMBERS), shape, -2, 2)
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    return call(name, x, axis=axis, descending=draw(st.booleans()))


# Statistics, utilities, linear algebra


@calls("all", "any", "count_nonzero")
def _truth(draw: Draw, name: str) -> Call:
    shape = pick(draw, *SHAPES)
    axis = pick(draw, None, *range(-len(shape), len(shape)))
    x = array(draw, pick(draw, *ALL), shape, -1, 1)
    return call(name, x, axis=axis, keepdims=draw(st.booleans()))


@calls("sum", "prod", "mean", "std", "var")
def _reduced(draw: Draw, name: str) -> Call:
    shape = pick(draw, *(SHAPES if name in ("sum", "prod") else FULL))
    dtype = pick(draw, *(NUMBERS if name in ("sum", "prod") else FLOATS))
    options: dict[str, Any] = {"axis": pick(draw, None, *range(-len(shape), len(shape)))}
    if len(shape) > 1:
        options["axis"] = pick(draw, options["axis"], (0, -1), ())
    if name in ("sum", "prod"):
        options["dtype"] = pick(draw, None, "float64")
    if name in ("std", "var"):
        options["correction"] = pick(draw, 0, 0.5)
    return call(name, array(draw, dtype, shape), **options, keepdims=draw(st.booleans()))


@calls("cumulative_sum", "cumulative_prod")
def _scan(draw: Draw, name: str) -> Call:
    shape = pick(draw, *(s for s in SHAPES if s))
    axis = pick(draw, *range(-len(shape), len(shape)), *([None] if len(shape) == 1 else []))
    options = {"dtype": pick(draw, None, "float64"), "include_initial": draw(st.booleans())}
    return call(name, array(draw, pick(draw, *NUMBERS), shape), axis=axis, **options)


@calls("diff")
def _diff(draw: Draw, name: str) -> Call:
    shape, n = pick(draw, (4,), (3, 5), (2, 3, 4), (1,), (0, 3)), draw(st.integers(0, 2))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    dtype = pick(draw, *NUMBERS)
    x, ends = array(draw, dtype, shape), draw(st.booleans())
    if not ends:
        return call(name, x, axis=axis, n=n)
    end = list(shape)
    end[axis] = 2
    return Call(
        f"diff(n={n}, axis={axis}, prepend, append)",
        [x, array(draw, dtype, end)],
        lambda xp, x, e: xp.diff(x, n=n, axis=axis, prepend=e, append=e),
    )


@calls("matmul")
def _matmul(draw: Draw, name: str) -> Call:
    first, second = pair(draw, NUMBERS)
    shapes = pick(
        draw,
        ((2, 3), (3, 4)),
        ((3,), (3, 4)),
        ((2, 3), (3,)),
        ((3,), (3,)),
        ((5, 2, 3), (3, 1)),
        ((2, 1, 1, 3), (4, 3, 2)),
        ((0, 3), (3, 2)),
        ((2, 0), (0, 3)),
    )
    return call(name, array(draw, first, shapes[0]), array(draw, second, shapes[1]))


@calls("matrix_transpose")
def _matrix_transpose(draw: Draw, name: str) -> Call:
    return call(name, array(draw, pick(draw, *ALL), pick(draw, (2, 3), (0, 3), (2, 1, 3))))


@calls("tensordot")
def _tensordot(draw: Draw, name: str) -> Call:
    first, second = pair(draw, NUMBERS)
    a, b, axes = pick(
        draw,
        ((2, 3), (3, 4), 1),
        ((2, 3, 4), (3, 4, 5), 2),
        ((2, 3), (4,), 0),
        ((2, 3), (3, 2), ((0, 1), (1, 0))),
        ((2, 3), (4, 3), ((-1,), (-1,))),
        ((0, 3), (3, 2), 1),
        ((), (2,), 0),
    )
    return call(name, array(draw, first, a), array(draw, second, b), axes=axes)


@calls("vecdot")
def _vecdot(draw: Draw, name: str) -> Call:
    first, second = pair(draw, NUMBERS)
    a, b, axis = pick(
        draw, ((3,), (3,), -1), ((2, 3), (3,), -1), ((2, 3), (2, 3), -2), ((2, 1, 0), (3, 0), -1)
    )
    return call(name, array(draw, first, a), array(draw, second, b), axis=axis)


# Dtypes


@calls("astype")
def _astype(draw: Draw, name: str) -> Call:
    x, dtype = array(draw, pick(draw, *ALL), pick(draw, *SHAPES), 0, 4), pick(draw, *ALL)
    copy = draw(st.booleans())
    return Call(f"astype({dtype})", [x], lambda xp, x: xp.astype(x, getattr(xp, dtype), copy=copy))


@calls("can_cast", "result_type")
def _promoted(draw: Draw, name: str) -> Call:
    first, second = pair(draw, ALL)
    x = array(draw, first, pick(draw, *SHAPES))
    return Call(
        f"{name}({first}, {second})",
        [x],
        lambda xp, x: [
            getattr(xp, name)(x, getattr(xp, second)),
            getattr(xp, name)(getattr(xp, first), getattr(xp, second)),
        ],
    )


@calls("finfo", "iinfo")
def _limits(draw: Draw, name: str) -> Call:
    dtype = pick(draw, *(FLOATS if name == "finfo" else INTS))
    names = "bits max min dtype" + (" eps smallest_normal" if name == "finfo" else "")
    x = array(draw, dtype, (2,))

    def run(xp: Any, x: Any) -> list:
        found = [getattr(xp, name)(x), getattr(xp, name)(getattr(xp, dtype))]
        return [getattr(f, n) for f in found for n in names.split()]

    return Call(f"{name}({dtype})", [x], run)


@calls("isdtype")
def _isdtype(draw: Draw, name: str) -> Call:
    kind = pick(draw, "bool", "integral", "numeric", ("signed integer", "real floating"))
    x = array(draw, pick(draw, *ALL), ())
    return Call(f"isdtype({kind})", [x], lambda xp, x: xp.isdtype(x.dtype, kind))


@calls("__array_namespace_info__")
def _info(draw: Draw, name: str) -> Call:
    kind = pick(draw, None, "bool", "integral", "numeric", ("signed integer", "real floating"))

    def run(xp: Any) -> list:
        info = xp.__array_namespace_info__()
        answers = [info.dtypes(kind=kind), info.default_dtypes()]
        limits = [info.capabilities()["max dimensions"], len(info.devices()) > 0]
        return [x for a in answers for pair in sorted(a.items()) for x in pair] + limits

    return Call(f"info({kind})", [], run)
