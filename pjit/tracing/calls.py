"""Calls of ufuncs and their methods (``reduce``, ``accumulate``, ``outer``, ``at``) on tracers."""

from __future__ import annotations

from typing import Any

import numpy as np

from pjit.ir import ops
from pjit.ir.core import Value
from pjit.ir.opdef import broadcast_shapes
from pjit.ir.types import dtype as element_type
from pjit.tracing.elementwise import COMPARISONS, UFUNCS, cast
from pjit.tracing.indexing import update
from pjit.tracing.trace import Trace, refuse, refuse_function
from pjit.tracing.tracer import UFUNC_METHODS, WEAK, Tracer, as_tracer, tracers, value_of, weak

REDUCTIONS: dict[Any, Any] = {
    np.add: np.sum,
    np.multiply: np.prod,
    np.maximum: np.max,
    np.minimum: np.min,
    np.logical_and: np.all,
    np.logical_or: np.any,
}
SCATTERS = {np.add: "add", np.multiply: "mul", np.maximum: "max", np.minimum: "min"}


def loop(
    ufunc: np.ufunc, inputs: list[Any], dtype: Any = None, casting: Any = "same_kind"
) -> list[np.dtype]:
    """The dtypes of the loop that NumPy would run: operands, then results.

    Raises:
        TypeError: NumPy has no loop.
    """
    types = [x.dtype if (n := weak(x)) is None else type(n) for x in inputs]
    options: dict[str, Any] = {"casting": casting}
    if dtype is not None:
        options["signature"] = (*(None,) * ufunc.nin, *(np.dtype(dtype),) * ufunc.nout)
    found = ufunc.resolve_dtypes((*types, *(None,) * ufunc.nout), **options)
    for d in found:
        try:
            element_type(d)
        except TypeError:
            names = ", ".join(str(getattr(x, "dtype", x)) for x in inputs)
            refuse(
                f"np.{ufunc.__name__} would compute in {d}, which is not traced",
                got=names,
                remedy="convert the operands to bool, integers of up to 64 bits, or floats",
            )
    return list(found)


def _plain(t: Trace, x: Any) -> Any:
    """A Python number, a tracer, or else an array."""
    if type(x) in WEAK or isinstance(x, Tracer):
        return x
    return as_tracer(t, x) if any(True for _ in tracers(x)) else np.asarray(x)


def _outputs(ufunc: np.ufunc, out: Any) -> tuple[Tracer | None, ...]:
    outs = out if isinstance(out, tuple) else (out,) * ufunc.nout
    for x in outs:
        if x is not None and not isinstance(x, Tracer):
            refuse(
                f"np.{ufunc.__name__} cannot write a traced result into a NumPy array",
                remedy="make a new array: `a = a + x` instead of `a += x`, and no out=",
            )
    return outs


def call(
    t: Trace,
    ufunc: np.ufunc,
    *inputs: Any,
    out: Any = None,
    where: Any = True,
    dtype: Any = None,
    casting: Any = "same_kind",
    order: str = "K",
    subok: bool = True,
    **others: Any,
) -> Any:
    """``ufunc(*inputs, ...)``.

    Raises:
        TraceError: The ufunc or an option is not traced.
        TypeError: NumPy has no loop for the dtypes, or does not cast the result to that of ``out``.
    """
    rule = UFUNCS.get(ufunc)
    if rule is None or others:
        with_ = f" with {', '.join(others)}" if others else ""
        refuse_function(f"np.{ufunc.__name__}{with_}")
    outs = _outputs(ufunc, out)
    if where is not True and any(o is None for o in outs):
        refuse(
            f"np.{ufunc.__name__} with where= and without out= leaves elements undefined",
            remedy="np.where(condition, f(x), other)",
        )
    operands = [_plain(t, x) for x in inputs]
    if ufunc is np.power:
        _check_exponent(operands)
    types = loop(ufunc, operands, dtype, casting)
    for i, (x, d) in enumerate(zip(operands, types, strict=False)):
        if _beyond(x, d) and ufunc in COMPARISONS and d != np.uint64:
            types[: ufunc.nin] = [np.dtype(np.int64)] * ufunc.nin
            break
        if _beyond(x, d) and t.ask((x < _limits(d)[0]) | (x > _limits(d)[1]), f"fits {i}"):
            raise OverflowError(f"Python integer out of bounds for {d}")
    try:
        values = [value_of(t, x, d) for x, d in zip(operands, types[: ufunc.nin], strict=True)]
    except OverflowError:
        if ufunc not in COMPARISONS:
            raise
        return _compare_beyond(t, ufunc, operands)
    results = rule(t, *values)
    results = results if isinstance(results, tuple) else (results,)
    made = [
        _finish(t, r, d, o, where)
        for r, d, o in zip(results, types[ufunc.nin :], outs, strict=True)
    ]
    return made[0] if len(made) == 1 else tuple(made)


def _limits(dtype: np.dtype) -> tuple[int, int]:
    """The least and the greatest number of a dtype that a traced number can be."""
    info, most = np.iinfo(dtype), np.iinfo(np.int64)
    return max(int(info.min), int(most.min)), min(int(info.max), int(most.max))


def _beyond(x: Any, dtype: np.dtype) -> bool:
    """Whether an operand is a traced int that a dtype may not hold."""
    if not isinstance(x, Tracer) or x.weak is not int or dtype.kind not in "iu":
        return False
    if dtype == np.int64:
        return False
    low, high = _limits(dtype)
    least, most = getattr(x, "low", None), getattr(x, "high", None)
    return least is None or least < low or most is None or most > high


def _check_exponent(operands: list[Any]) -> None:
    base, exponent = operands
    kind = "i" if type(base) is int else getattr(getattr(base, "dtype", None), "kind", "")
    known = not isinstance(exponent, Tracer) and np.asarray(exponent).dtype.kind == "i"
    if kind in ("i", "b") and known and np.any(np.asarray(exponent) < 0):
        raise ValueError("Integers to negative integer powers are not allowed.")


def _compare_beyond(t: Trace, ufunc: np.ufunc, operands: list[Any]) -> Tracer:
    """A comparison with a Python integer that the dtype does not hold has one answer."""
    traced = next(x for x in operands if isinstance(x, Tracer))
    sample = [np.zeros((), x.dtype) if isinstance(x, Tracer) else x for x in operands]
    return Tracer(t, t(ops.Broadcast, t.constant(np.asarray(ufunc(*sample))), shape=traced.shape))


def _finish(t: Trace, result: Value, dtype: np.dtype, out: Tracer | None, where: Any) -> Tracer:
    result = cast(t, result, element_type(dtype))
    if out is None:
        return Tracer(t, result)
    write(t, out, result, where)
    return out


def write(t: Trace, out: Tracer, result: Value, where: Any = True) -> None:
    """Writes a result into ``out`` as NumPy does.

    It is cast by the rule same_kind, broadcast, and masked by ``where``.

    Raises:
        TypeError: The result is of another kind than ``out``.
        ValueError: The shapes do not fit.
    """
    if not np.can_cast(result.dtype.numpy, out.dtype, "same_kind"):
        raise TypeError(
            f"Cannot cast ufunc output from {result.dtype.numpy!r} to {out.dtype!r} with casting "
            "rule 'same_kind'"
        )
    shape = broadcast_shapes(result.shape, out.shape)
    if shape != out.shape:
        raise ValueError(
            f"non-broadcastable output operand with shape {out.shape} doesn't match the broadcast "
            f"shape {shape}"
        )
    value = cast(t, result, element_type(out.dtype))
    if where is not True:
        value = t(ops.Where, value_of(t, where, bool), value, out.value)
    if value.shape != out.shape:
        value = t(ops.Broadcast, value, shape=out.shape)
    out.assign(value)


def reduce(
    t: Trace,
    ufunc: np.ufunc,
    x: Any,
    axis: Any = 0,
    dtype: Any = None,
    out: Any = None,
    keepdims: bool = False,
    initial: Any = np._NoValue,
    where: Any = True,
) -> Any:
    """``ufunc.reduce``."""
    function = REDUCTIONS.get(ufunc)
    if function is None:
        refuse_function(f"np.{ufunc.__name__}.reduce")
    if isinstance(out, tuple):
        (out,) = out
    options: dict[str, Any] = {"axis": axis, "keepdims": keepdims, "out": out}
    options |= {"where": where} if where is not True else {}
    options |= {"initial": initial} if initial is not np._NoValue else {}
    options |= {"dtype": dtype} if dtype is not None else {}
    return function(as_tracer(t, x), **options)


def outer(t: Trace, ufunc: np.ufunc, a: Any, b: Any, **options: Any) -> Any:
    """``ufunc.outer``: every element of a with every one of b."""
    x, y = as_tracer(t, a), as_tracer(t, b)
    return ufunc(x[(..., *(None,) * y.ndim)], y, **options)


def at(t: Trace, ufunc: np.ufunc, x: Any, index: Any, values: Any = None) -> None:
    """``ufunc.at``: in place, repeated indices count repeatedly."""
    if ufunc not in SCATTERS or not isinstance(x, Tracer):
        refuse_function(
            f"np.{ufunc.__name__}.at" + ("" if isinstance(x, Tracer) else " of an array")
        )
    update(x, index, values, SCATTERS[ufunc])


UFUNC_METHODS |= {
    "__call__": call,
    "reduce": reduce,
    "outer": outer,
    "at": at,
}
