"""Every ufunc that is traced, over dtypes and shapes, against NumPy."""

import operator
import warnings
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from pjit.errors import TraceError
from pjit.tracing.elementwise import UFUNCS

DTYPES = ["f4", "f8", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u1", "?"]
POSITIVE = {np.log, np.log2, np.log10, np.sqrt, np.log1p, np.arccosh, np.power, np.float_power}
UNIT = {np.arcsin, np.arccos, np.arctanh}
SHIFTS = {np.left_shift, np.right_shift}
PRODUCTS = {u for u in UFUNCS if u.signature is not None}
ELEMENTWISE = sorted((u for u in UFUNCS if u.signature is None), key=lambda u: u.__name__)


def sample(rng: np.random.Generator, dtype: Any, shape: tuple, ufunc: Any) -> np.ndarray:
    dt = np.dtype(dtype)
    if dt.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if dt.kind in "iu":
        low = 0 if dt.kind == "u" or ufunc in SHIFTS | POSITIVE | UNIT else -7
        return rng.integers(low, 2 if ufunc in UNIT else 7, shape).astype(dt)
    low, high = (-0.9, 0.9) if ufunc in UNIT else (1.0, 4.0) if ufunc in POSITIVE else (-3.0, 3.0)
    return rng.uniform(low, high, shape).astype(dt)


def numpy_loop(ufunc: np.ufunc, args: list) -> Any:
    """What NumPy gives; None where it has no loop or one that is not traced."""
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            out = ufunc(*args)
    except TypeError:
        return None
    outs = out if isinstance(out, tuple) else (out,)
    return None if any(o.dtype.kind in "cO" or o.dtype == np.longdouble for o in outs) else out


@pytest.mark.parametrize("ufunc", ELEMENTWISE, ids=lambda u: u.__name__)
def test_every_dtype(ufunc: np.ufunc, interpreted: Any, agree: Any) -> None:
    rng = np.random.default_rng(0)
    seen = 0
    for i, dtype in enumerate(DTYPES):
        args = [sample(rng, dtype, (3, 5), ufunc) for _ in range(ufunc.nin)]
        others = [args]
        if ufunc.nin == 2:
            mixed = sample(rng, DTYPES[(i + 3) % len(DTYPES)], (4, 1, 5), ufunc)
            others.append([args[0], mixed])
            others.append([mixed, args[0]])
        for case in others:
            expected = numpy_loop(ufunc, case)
            if expected is None:
                with pytest.raises((TypeError, TraceError)):
                    interpreted(ufunc)(*case)
                continue
            agree(interpreted(lambda *a: ufunc(*a))(*case), expected, str([a.dtype for a in case]))
            seen += 1
    assert seen


def test_all_compiled(agree: Any, jit: Any) -> None:
    """All ufuncs on f32 in one program."""
    rng = np.random.default_rng(1)
    inputs, expected = {}, {}
    for u in ELEMENTWISE:
        dtype = "i4" if u in SHIFTS or "f->" not in "".join(u.types) + "f->" else "f4"
        case = [sample(rng, dtype, (2, 9), u) for _ in range(u.nin)]
        if numpy_loop(u, case) is None:
            case = [sample(rng, "i4", (2, 9), u) for _ in range(u.nin)]
        inputs[u.__name__], expected[u.__name__] = case, numpy_loop(u, case)

    @jit
    def every(xs: dict) -> dict:
        return {name: getattr(np, name)(*case) for name, case in xs.items()}

    agree(every(inputs), expected)


SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.5, -1.5, 2.0, -3.0], np.float32)


@pytest.mark.parametrize("ufunc", ELEMENTWISE, ids=lambda u: u.__name__)
def test_special_values(ufunc: np.ufunc, interpreted: Any) -> None:
    args = np.meshgrid(SPECIAL, SPECIAL) if ufunc.nin == 2 else [SPECIAL]
    expected = numpy_loop(ufunc, args)
    if expected is None:
        pytest.skip("no loop for floats")
    got = interpreted(lambda *a: ufunc(*a))(*args)
    pairs = zip(got, expected, strict=True) if isinstance(expected, tuple) else [(got, expected)]
    for g, e in pairs:
        np.testing.assert_allclose(np.asarray(g), e, rtol=1e-5)


SCALARS: list[Any] = [2, -3, 0.5, True, np.float32(2), np.float64(2), np.int8(3), np.bool_(True)]
OPERATORS = [
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    operator.floordiv,
    operator.mod,
    operator.lt,
    operator.ge,
    operator.eq,
    operator.ne,
    divmod,
]


@pytest.mark.parametrize("dtype", [*DTYPES, ml_dtypes.bfloat16], ids=str)
def test_promotion_with_scalars(dtype: Any, interpreted: Any, agree: Any) -> None:
    x = np.arange(1, 6).astype(dtype)
    for op in OPERATORS:
        for s in SCALARS:
            for name, f in (
                ("x?s", lambda x, op=op, s=s: op(x, s)),
                ("s?x", lambda x, op=op, s=s: op(s, x)),
            ):
                try:
                    with np.errstate(all="ignore"):
                        expected = f(x)
                except (TypeError, OverflowError) as e:
                    with pytest.raises(type(e)):
                        interpreted(f)(x)
                    continue
                got = interpreted(f)(x)
                agree(got, expected, f"{op.__name__} {name} {s!r}")


def test_power_of_scalars(interpreted: Any, agree: Any) -> None:
    arrays = (np.linspace(0.5, 3, 6, dtype=np.float32), np.arange(6), np.arange(3) > 0)
    for x in (*arrays, np.arange(3, dtype=np.int8)):
        for e in (0, 1, 2, 3, 0.5, 2.5, -1.0, np.float32(2)):
            with np.errstate(all="ignore"):
                agree(interpreted(lambda x, e=e: x**e)(x), x**e, f"{x.dtype} ** {e!r}")
        agree(interpreted(lambda x: 2**x)(x), 2**x)


def test_integers_to_negative_powers(interpreted: Any) -> None:
    with pytest.raises(ValueError, match="negative integer powers"):
        interpreted(lambda x: x**-1)(np.arange(3))


def test_comparison_beyond_the_dtype(interpreted: Any, agree: Any) -> None:
    x = np.arange(3, dtype=np.uint8)
    for f in (lambda x: x < 300, lambda x: x == -1, lambda x: 1000 >= x, lambda x: x != 256):
        agree(interpreted(f)(x), f(x))
    with pytest.raises(OverflowError):
        interpreted(lambda x: x + 300)(x)


def test_signed_with_unsigned_comparison(jit: Any, agree: Any) -> None:
    a = np.array([-1, 0, 5, 2**62], np.int64)
    b = np.array([2**64 - 1, 0, 4, 2**62], np.uint64)

    def f(a: Any, b: Any) -> tuple:
        ops = (operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne)
        return tuple(op(x, y) for op in ops for x, y in ((a, b), (b, a)))

    agree(jit(f)(a, b), f(a, b))


def test_unary_operators(jit: Any, agree: Any) -> None:
    def f(x: Any, n: Any) -> list:
        return [
            -x,
            +x,
            abs(x),
            ~n,
            n & 6,
            5 | n,
            n ^ 3,
            n << 2,
            n >> 1,
            1 << n,
            round(x),
            round(x, 2),
        ]

    x, n = np.linspace(-2, 2, 7, dtype=np.float32), np.arange(7)
    agree(
        jit(f)(x, n),
        [
            np.round(x, 2) if i == 11 else v
            for i, v in enumerate(
                [-x, +x, abs(x), ~n, n & 6, 5 | n, n ^ 3, n << 2, n >> 1, 1 << n, np.round(x), None]
            )
        ],
    )


def test_matrix_products(jit: Any, agree: Any) -> None:
    rng = np.random.default_rng(0)
    pairs = [
        ((3, 4), (4, 5)),
        ((4,), (4,)),
        ((4,), (4, 5)),
        ((3, 4), (4,)),
        ((2, 3, 4), (4, 5)),
        ((2, 1, 3, 4), (5, 4, 2)),
    ]
    arrays = [tuple(rng.standard_normal(s).astype(np.float32) for s in p) for p in pairs]
    arrays += [(rng.integers(0, 9, (3, 4)), rng.integers(0, 9, (4, 2), dtype=np.int8))]
    arrays += [(rng.random((3, 4)) > 0.5, rng.random((4, 2)) > 0.5)]

    def f(arrays: list) -> list:
        return [a @ b for a, b in arrays]

    agree(jit(f)(arrays), f(arrays))
    v, m = arrays[2][0], arrays[0][0]
    names = [n for n in ("vecdot", "matvec") if hasattr(np, n)]
    for n in names:
        agree(jit(lambda m, v, n=n: getattr(np, n)(m, v))(m, v), getattr(np, n)(m, v))
    if hasattr(np, "vecmat"):
        agree(jit(lambda a, b: np.vecmat(a, b))(v, arrays[0][1]), np.vecmat(v, arrays[0][1]))


def test_methods_of_ufuncs(interpreted: Any, agree: Any) -> None:
    x = np.arange(12, dtype=np.int16).reshape(3, 4)

    def f(x: Any) -> list:
        y = x.astype(np.float32)
        z = y.copy()
        np.add.at(z, [0, 0, 2], 1.0)
        return [
            np.add.reduce(x),
            np.add.reduce(x, axis=(0, 1)),
            np.multiply.reduce(y, axis=1, keepdims=True),
            np.maximum.reduce(x, axis=1, initial=5),
            np.minimum.reduce(x, axis=None),
            np.logical_and.reduce(x),
            np.logical_or.reduce(x, axis=1),
            np.add.accumulate(x, axis=1),
            np.add.accumulate(y),
            np.multiply.outer(x, y[0]),
            np.subtract.outer(x[0], 2),
            z,
        ]

    agree(interpreted(f)(x), f(x))


def test_out_and_where(jit: Any, agree: Any) -> None:
    def f(x: Any, m: Any) -> list:
        a = np.zeros_like(x)
        b = a[1:]
        r = np.add(x, 1, out=a)
        np.multiply(x, 2, out=a, where=m)
        c = x.copy()
        c += 1
        c *= m
        d = c
        d[0] -= 5
        np.sum(x, axis=0, out=d[1])
        return [a, b, r, c, np.add(x, x, dtype=np.float64), np.add(1, 2, out=np.zeros_like(x))]

    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    m = np.array([True, False, True])
    agree(jit(f)(x, m), f(x, m))
