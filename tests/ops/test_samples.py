"""Every operator on its own samples: the reference agrees with inference, static and symbolic."""

from typing import Any

import numpy as np
import pytest

from pjit.ir import expr
from pjit.ir.errors import ConstraintError
from pjit.ir.expr import Dim, sym
from pjit.ir.opdef import OpDef, Sample, collecting, complete_attrs, operators
from pjit.ir.ops import Reshape
from pjit.ir.types import DType, TensorType, f32, type_of

WITH_REF = [c for c in operators() if hasattr(c, "ref")]
CASES = [
    pytest.param(cls, s, dt, id=f"{cls.op_name}-{i}-{dt}")
    for cls in WITH_REF
    for i, s in enumerate(cls.samples)
    for dt in s.dtypes or (f32,)
]


def arrays(s: Sample, dt: DType) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [np.asarray(a.make(rng, dt)) for a in s.args]


def infer(cls: type[OpDef], types: list[TensorType], attrs: dict[str, Any]) -> tuple:
    operands: list[Any] = list(types)
    if cls.signature.operands and cls.signature.operands[-1].variadic:
        n = len(cls.signature.operands) - 1
        operands = [*operands[:n], operands[n:]]
    out = cls.infer(*operands, **attrs)
    return tuple(out) if isinstance(out, tuple | list) else (out,)


def check(inferred: TensorType, actual: TensorType) -> None:
    """Dimensions that only the data decides are symbols and may be anything."""
    assert inferred.dtype == actual.dtype
    assert inferred.rank == actual.rank
    for a, b in zip(inferred.shape, actual.shape, strict=True):
        assert a == b or not isinstance(a, int)


@pytest.mark.parametrize(("cls", "s", "dt"), CASES)
def test_reference_has_the_inferred_type(cls: type[OpDef], s: Sample, dt: DType) -> None:
    xs, attrs = arrays(s, dt), complete_attrs(cls, s.attrs)
    for x, arg in zip(xs, s.args, strict=True):
        assert x.dtype == (arg.dtype or dt).numpy
    before = [x.copy() for x in xs]
    inferred = infer(cls, [type_of(x) for x in xs], attrs)
    results = cls.ref(*xs, **attrs)  # type: ignore[attr-defined]
    results = results if isinstance(results, tuple) else (results,)
    assert len(results) == len(inferred)
    for t, r in zip(inferred, results, strict=True):
        check(t, type_of(np.asarray(r)))
    for x, b in zip(xs, before, strict=True):
        assert x.tobytes() == b.tobytes(), "the reference wrote to an operand"


@pytest.mark.parametrize(
    ("cls", "s"),
    [
        pytest.param(c, s, id=f"{c.op_name}-{i}")
        for c in WITH_REF
        for i, s in enumerate(c.samples)
        if s.args
    ],
)
def test_symbolic_inference_agrees_with_static(cls: type[OpDef], s: Sample) -> None:
    """Sizes become symbols, one at a time and all together; the shapes are compared at the sizes.

    An operator may refuse a symbol where it needs a static size; that it accepts some is tested
    below.
    """
    attrs = complete_attrs(cls, s.attrs)
    types = [type_of(x) for x in arrays(s, (s.dtypes or (f32,))[0])]
    static = infer(cls, types, attrs)
    sizes = sorted({d for t in types for d in t.static_shape if d > 1})
    for chosen in [[n] for n in sizes] + [sizes]:
        symbols: dict[int, Dim] = {n: sym(f"s{n}") for n in chosen}
        values = {f"s{n}": n for n in chosen}
        symbolic = [t.with_shape(tuple(symbols.get(d, d) for d in t.static_shape)) for t in types]
        try:
            with collecting() as obligations:
                inferred = infer(cls, symbolic, attrs)
        except ConstraintError:
            continue
        for a, b in obligations:
            assert expr.substitute(a, values) == expr.substitute(b, values)
        assert len(inferred) == len(static)
        for t, u in zip(inferred, static, strict=True):
            check(t.substitute(values), u)


@pytest.mark.parametrize("cls", [c for c in WITH_REF if any(s.args for s in c.samples)])
def test_some_dimension_may_be_symbolic(cls: type[OpDef]) -> None:
    refused = []
    for s in cls.samples:
        attrs = complete_attrs(cls, s.attrs)
        types = [type_of(x) for x in arrays(s, (s.dtypes or (f32,))[0])]
        for n in {d for t in types for d in t.static_shape if d > 1}:
            dims = [tuple(sym("n") if d == n else d for d in t.static_shape) for t in types]
            try:
                infer(cls, [t.with_shape(d) for t, d in zip(types, dims, strict=True)], attrs)
            except ConstraintError as e:
                refused.append(e)
            else:
                return
    pytest.fail(f"{cls.op_name} refuses every symbol: {refused[:3]}")


def test_a_size_that_cannot_be_proven_is_an_obligation() -> None:
    with collecting() as obligations:
        out = Reshape.infer(TensorType(f32, (sym("n"), 4)), shape=(6, sym("m")))
    assert out.shape == (6, sym("m"))
    assert obligations == [(sym("n") * 4, sym("m") * 6)]
