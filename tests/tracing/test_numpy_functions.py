"""NumPy's less common functions: sorting, statistics, curves, places and arrangements."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import pjit
from pjit.errors import TraceError

RNG = np.random.default_rng(3)


def floats(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return RNG.uniform(-3, 3, shape).astype(dtype)


X, V, D, H = floats(3, 4), floats(7), floats(3, 4, dtype="f8"), floats(3, 4, dtype="f2")
C = floats(2, 3, 4)
I32 = RNG.integers(-9, 9, (3, 4)).astype(np.int32)
I64 = RNG.integers(-9, 9, 7)
U8 = RNG.integers(0, 9, (2, 5)).astype(np.uint8)
B = RNG.integers(0, 2, (3, 4)).astype(bool)
E = np.zeros((0, 3), np.float32)
S = np.float64(1.5)
NAN = np.where(RNG.random((3, 4)) > 0.6, np.float32(np.nan), X)
NAN[1] = np.nan
STEPS = np.sort(floats(9, dtype="f8"))
Row = tuple[str, Callable, tuple]


def row(name: str, f: Callable, *args: Any) -> Row:
    return name, f, args


def over(name: str, f: Callable, *arrays: Any) -> list[Row]:
    return [(f"{name}-{a.dtype}{list(a.shape)}", f, (a,)) for a in arrays]


def _changed(f: Callable) -> Callable:
    """Applies a function that writes into an array, on a copy."""

    def written(x: Any, *args: Any) -> Any:
        y = x.copy()
        f(y, *args)
        return y

    return written


SCANS = [
    *over(
        "cumprod",
        lambda x: [np.cumprod(x), x.cumprod(0), np.cumprod(x, -1, np.float64)],
        *(X, D, H, I32, U8, B, S, E),
    ),
    *over(
        "accumulate",
        lambda x: [
            np.maximum.accumulate(x),
            np.minimum.accumulate(x, -1),
            np.multiply.accumulate(x, 1),
            np.add.accumulate(x, axis=0),
            np.logical_and.accumulate(x),
            np.logical_or.accumulate(x, 1),
        ],
        *(X, I32, U8, B, NAN),
    ),
    *over(
        "cumulative",
        lambda x: [
            np.cumulative_sum(x, axis=0, include_initial=True),
            np.cumulative_prod(x, axis=1),
            np.cumulative_prod(x, axis=-1, include_initial=True, dtype=np.float64),
        ],
        *(X, I32, U8),
    ),
    *over("nan", lambda x: [np.nancumsum(x), np.nancumprod(x, 0), np.nancumsum(x, 1)], NAN, I32),
]
SORTING = [
    *over(
        "sort",
        lambda x: [np.sort(x, stable=True), np.argsort(x, 0, stable=True), np.lexsort((x, x % 2))],
        *(I32, U8, X),
    ),
    row("lexsort", lambda a, b: [np.lexsort((a, b)), np.lexsort((b, a, b), 0)], I32 % 3, I32 % 2),
    row("partition", lambda x: [np.partition(x, 2)[..., 2], np.partition(x, (0, 1), 0)[:2]], X),
    row("partition-method", lambda x: _changed(lambda y: y.partition(1, 0))(x)[1], X),
    row("argpartition", lambda x: [np.argpartition(x, 1)[:, 1], x.argpartition(2)[:, 2]], X),
    *over(
        "searchsorted",
        lambda x: [
            np.searchsorted(np.sort(x.ravel()), x),
            np.searchsorted(np.sort(x.ravel()), x[0], "right"),
            np.searchsorted(np.array([-1, 0, 2], x.dtype), x),
            np.sort(x.ravel()).searchsorted(2),
            np.searchsorted(x.ravel(), x, sorter=np.argsort(x.ravel(), kind="stable")),
        ],
        *(X, D, I32, NAN),
    ),
    row("searchsorted-mixed", lambda i, x: [i.searchsorted(x), np.searchsorted([], x)], I64, V),
    *over(
        "digitize",
        lambda x: [
            np.digitize(x, [-1.0, 0.5, 2.0]),
            np.digitize(x, [2, 0, -1], right=True),
            np.digitize(x, [2, 0, -1]),
            np.digitize(x, [1], True),
        ],
        *(X, I32),
    ),
    row(
        "digitize-traced",
        lambda x, b: [np.digitize(x, b), np.digitize(x, -b, True), np.digitize(x, b[::-1])],
        *(V, np.array([-2.0, 0, 1])),
    ),
    *over("isin", lambda x: [np.isin(x, [1, 2]), np.isin(x, x[0], invert=True)], I32, X),
]
METHODS = (
    "linear lower higher nearest midpoint interpolated_inverted_cdf hazen weibull median_unbiased "
    "normal_unbiased"
).split()
QUANTILES = [
    *(
        row(
            f"quantile-{m}",
            lambda x, i, m=m: [
                np.quantile(x, [0, 0.1, 0.5, 0.83, 1], 1, method=m),
                np.percentile(i, 30, 0, method=m),
            ],
            *(D, I32),
        )
        for m in METHODS
    ),
    *(
        row(
            f"nanquantile-{m}",
            lambda x, m=m: np.nanquantile(x, [0, 0.1, 0.5, 0.83, 1], 1, method=m),
            NAN.astype(np.float64),
        )
        for m in METHODS
    ),
]
STATISTICS = [
    *over(
        "quantile",
        lambda x: [
            np.quantile(x, 0.3),
            np.quantile(x, [0.0, 0.25, 1.0], axis=0),
            np.quantile(x, 0.7, axis=(0, 1), keepdims=True),
            np.quantile(x, np.float32(0.5), 1),
            np.quantile(x, 1, -1),
            np.percentile(x, 40, axis=1, keepdims=True),
            np.percentile(x, [[5, 95]], 0),
            np.percentile(x, 62.5),
        ],
        *(X, D, I32, NAN),
    ),
    *over(
        "nanquantile",
        lambda x: [
            np.nanquantile(x, 0.3),
            np.nanpercentile(x, [0, 60.0], axis=0),
            np.nanpercentile(x, 55, axis=1, keepdims=True),
            np.nanmedian(x),
            np.nanmedian(x, 0),
            np.nanmedian(x, -1, keepdims=True),
        ],
        *(NAN, NAN.astype("f8"), X, I32),
    ),
    *over(
        "histogram",
        lambda x: [
            np.histogram(x),
            np.histogram(x, 4, (-2, 3)),
            np.histogram(x, [-3, -1, 0, 4]),
            np.histogram(x, 5, density=True),
            np.histogram(x, 3, weights=np.abs(x)),
            np.histogram_bin_edges(x, 3),
            np.histogram_bin_edges(x, [1, 2]),
        ],
        *(X, D, I32),
    ),
    row("histogram-equal", lambda x: np.histogram(x * 0 + 1, 4), X),
    row("histogram-traced-edges", lambda x, b: np.histogram(x, b), V, np.array([-2.0, 0, 1, 3])),
    row("histogram-nan", lambda x: np.histogram(x, 4, (-3, 3)), NAN),
    *over(
        "cov",
        lambda x: [
            np.cov(x),
            np.cov(x, rowvar=False),
            np.cov(x[0], x[1]),
            np.cov(x, bias=True),
            np.cov(x, ddof=0, dtype=np.float32),
            np.cov(x, aweights=[1, 2, 3, 4.0]),
            np.cov(x, fweights=[1, 2, 1, 4], aweights=np.array([0.5, 1, 1, 2])),
            np.cov(x[0]),
            np.corrcoef(x),
            np.corrcoef(x[0], x[2]),
            np.corrcoef(x[1]),
        ],
        *(X, D, I32),
    ),
]
CURVES = [
    row(
        "interp",
        lambda x, a, b: [
            np.interp(x, a, b),
            np.interp(x, a, b, -9, 9),
            np.interp(x[0, 0], a, b),
            np.interp(x, a, b, period=2.5),
            np.interp(x, [1.0, 2.0], [3.0, 0.5]),
            np.interp(x, a[:1], b[:1], left=0),
            np.interp(a, a, b),
            np.interp(a, np.array([-1, 0, 0, 1.0]), np.array([2, 3, 4, np.inf])),
        ],
        *(X, STEPS, floats(9)),
    ),
    row("interp-nan", lambda x, a, b: np.interp(x, a, b), NAN, STEPS, floats(9)),
    *over(
        "gradient",
        lambda x: [
            *np.gradient(x),
            np.gradient(x, axis=0),
            np.gradient(x, 0.5, axis=-1),
            np.gradient(x, [0.0, 1.0, 3.0, 3.5], axis=1),
            np.gradient(x, [0.0, 1.0, 3.0, 3.5], axis=1, edge_order=2),
            np.gradient(x, 2, axis=1, edge_order=2),
            *np.gradient(x, 2.0, np.array([0, 1, 3, 4])),
        ],
        *(X, D, H, I32),
    ),
    row("gradient-traced", lambda x, s: np.gradient(x, s, edge_order=2), STEPS, STEPS**3),
    *(
        row(
            f"convolve-{m}",
            lambda a, b, i, m=m: [
                np.convolve(a, b, m),
                np.convolve(b, a, m),
                np.convolve(i, [1, 2, 3], m),
                np.convolve(i, np.array([1, 2], np.int8), m),
                np.convolve(a > 0, b > 0, m),
                np.correlate(a, b, m),
                np.correlate(b, a, m),
                np.correlate(a, b[:2], m),
                np.correlate(i, i, m),
            ],
            *(V, floats(4), I64),
        )
        for m in ("full", "same", "valid")
    ),
    *over("unwrap", lambda x: [np.unwrap(x * 3), np.unwrap(x * 4, axis=0, discont=4)], X, D, I32),
    row("unwrap-int", lambda i: [np.unwrap(i, period=4), np.unwrap(i, period=5)], I64),
    *over(
        "ediff1d", lambda x: [np.ediff1d(x), np.ediff1d(x, to_begin=0), np.ediff1d(x, [1, 2])], I32
    ),
    row(
        "polynomials",
        lambda p, q, i: [
            np.polyadd(p, q),
            np.polysub(q, p),
            np.polyder(p),
            np.polyder(p, 2),
            np.polyint(p),
            np.polyint(i, 2),
            np.polyint(p, 2, k=3),
            np.polyint(p, 2, k=[1, 2]),
            np.polyval(p, q),
        ],
        *(floats(5), floats(3), I64),
    ),
    *over(
        "vander",
        lambda x: [np.vander(x), np.vander(x, 3), np.vander(x, 4, increasing=True)],
        V,
        I64,
    ),
    row(
        "linspace",
        lambda a, b, x: [
            np.linspace(a, b, 5),
            np.linspace(0, b, 4, endpoint=False),
            np.linspace(x, 1, 3),
            np.linspace(x, x * 2, 3, axis=-1),
            np.linspace(a, b, 5, retstep=True),
            np.linspace(a, b, 5, dtype=np.int32),
            np.linspace(a, b, 1),
            np.logspace(a, b, 4),
            np.logspace(a, 2, 3, base=2),
        ],
        *(np.float32(-2), np.float64(3), X),
    ),
    row("trapezoid", lambda x: [np.trapezoid(x), np.trapezoid(x, dx=2, axis=0)], X),
]
PLACES = [
    row("put", _changed(lambda x: np.put(x, [0, -1, 5], [1, 2])), X),
    row("put-traced", _changed(lambda x, i: x.put(i, x[0], mode="wrap")), X, I64),
    row("take-bool", lambda x, b: np.take(x, b), X, B),
    row("put-clip", _changed(lambda x, i: np.put(x, i, -1, mode="clip")), X, I64),
    row("putmask", _changed(lambda x, m: np.putmask(x, m, [1, 2, 3])), X, B),
    row("place", _changed(lambda x, m: np.place(x, m, [1, 2, 3])), X, B),
    row(
        "put_along_axis",
        _changed(lambda x, i: np.put_along_axis(x, i, 9, 1)),
        *(X, np.array([[0], [2], [3]])),
    ),
    row(
        "put_along_axis-0",
        _changed(lambda x, i, v: np.put_along_axis(x, i, v, 0)),
        *(I32, np.array([[0, 2, 1, 1]], np.int8), np.array([[1, 2, 3, 4]])),
    ),
    row("put_along_axis-flat", _changed(lambda x: np.put_along_axis(x, np.array([1]), 5, None)), X),
    row("fill_diagonal", _changed(lambda x: np.fill_diagonal(x, 7)), X),
    row("fill_diagonal-tall", _changed(lambda x: np.fill_diagonal(x, [1, 2], True)), floats(7, 2)),
    row("fill_diagonal-cube", _changed(lambda x: np.fill_diagonal(x, 7)), floats(3, 3, 3)),
    row(
        "choose",
        lambda i, x: [
            np.choose(i, [x, x + 1, 5]),
            np.choose(i + 4, [x, 0 * x], mode="clip"),
            i.choose([x, -x, x], mode="wrap"),
        ],
        *(np.abs(I32) % 3, X),
    ),
    row(
        "piecewise",
        lambda x: [
            np.piecewise(x, [x < 0, x >= 1], [-1, lambda v: v * 2]),
            np.piecewise(x, [x < 0, x >= 1], [np.square, 3, lambda v: v - 1]),
            np.piecewise(x[0], x[0] < 0, [lambda v, k: v * k, 0], 3),
            np.piecewise(x[0, 0], [x[0, 0] < 0, x[0, 0] >= 0], [4, 5]),
            np.piecewise(x[0], [True, False, True, False], [4, 5]),
        ],
        X,
    ),
    row("apply_over_axes", lambda x: np.apply_over_axes(np.sum, x, [0, -1]), C),
    row(
        "indices",
        lambda x, i: [
            np.unravel_index(np.argmax(x), x.shape),
            np.unravel_index(np.abs(i), (3, 4)),
            np.ravel_multi_index((np.abs(i) % 3, np.abs(i) % 2), (3, 4)),
            np.ravel_multi_index((i, i), (3, 4), mode=("wrap", "clip")),
            x[np.ix_(np.abs(i) % 3, np.abs(i[:2]) % 4)],
            np.tril_indices_from(x),
            np.triu_indices_from(x, 1),
            np.diag_indices_from(x[:, :3]),
            x[np.triu_indices_from(x)],
        ],
        *(X, I64),
    ),
]
ARRANGEMENTS = [
    row(
        "block",
        lambda x, v: [
            np.block([[x, x], [x * 2, np.zeros((3, 4))]]),
            np.block([v, 1, v]),
            np.block([[v[:3], 2.0]]),
            np.block([[[x]], [[x]]]),
            np.block(x),
        ],
        *(X, V),
    ),
    row("dsplit", lambda c: [*np.dsplit(c, 2), *np.dsplit(c, [1, 3])], C),
    row(
        "insert",
        lambda x, v: [
            np.insert(x, 1, 5),
            np.insert(x, 1, v[:4], 0),
            np.insert(x, [1, 3], [[1], [2], [3]], 1),
            np.insert(x, [0, 2, 2], 9, axis=1),
            np.insert(x, -1, x[0], axis=0),
            np.insert(v, slice(1, 4), [1, 2, 3]),
            np.insert(v, [1], [7, 8]),
            np.insert(x, 2, 1, axis=-1),
            np.insert(v, [], []),
        ],
        *(X, V),
    ),
    row("resize", lambda x: [np.resize(x, (2, 9)), np.resize(x, 5), np.resize(x, (0, 2))], X),
    row("diagflat", lambda x: [np.diagflat(x), np.diagflat(x[0], 1)], X),
    row(
        "windows",
        lambda x, v: [
            np.lib.stride_tricks.sliding_window_view(v, 3),
            np.lib.stride_tricks.sliding_window_view(x, (2, 3)),
            np.lib.stride_tricks.sliding_window_view(x, 2, axis=0),
            np.lib.stride_tricks.sliding_window_view(v, (3, 2), (0, 0)),
        ],
        *(X, V),
    ),
    row(
        "shift",
        lambda x: [np.fft.fftshift(x), np.fft.ifftshift(x, 1), np.fft.fftshift(x, (0,))],
        X,
    ),
]
QUESTIONS = [
    *over(
        "kinds",
        lambda x: [
            np.isreal(x),
            np.iscomplex(x),
            np.isrealobj(x),
            np.angle(x),
            np.angle(x, True),
            np.angle(x.astype(np.int8)),
            np.astype(x, np.float64),
            np.logical_not(np.array_equiv(x, x[:1])),
            np.array_equiv(x, [1, 2, 3]),
        ],
        *(X, D, I32),
    ),
    *over("conj", lambda x: [x.conj(), np.conj(x), np.clip(x, -300, 2)], U8, B, I32),
    *over("bits", lambda x: np.bitwise_count(x), I32, U8, I64, I64.astype("i1"), I64.astype("u8")),
    *over("spacing", lambda x: [np.spacing(x), np.nextafter(x, 1)], X, D, H),
    row(
        "linalg",
        lambda x, v: [
            np.linalg.diagonal(x, offset=1),
            np.linalg.trace(x),
            np.linalg.cross(v[:3], v[3:6]),
            np.einsum_path("ij,jk->ik", x, x.T)[0],
        ],
        *(X, V),
    ),
]

GROUPS = {
    "scans": SCANS,
    "sorting": SORTING,
    "quantiles": QUANTILES,
    "statistics": STATISTICS,
    "curves": CURVES,
    "places": PLACES,
    "arrangements": ARRANGEMENTS,
    "questions": QUESTIONS,
}
ROWS = [pytest.param(f, args, id=f"{g}-{n}") for g, rows in GROUPS.items() for n, f, args in rows]


def expect(f: Callable, args: tuple) -> Any:
    with np.errstate(all="ignore"):
        return f(*args)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("f", "args"), ROWS)
def test_as_in_numpy(f: Callable, args: tuple, interpreted: Any, agree: Any) -> None:
    agree(interpreted(f)(*args), expect(f, args))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("group", [g for g in GROUPS if g != "quantiles"])
def test_compiled(group: str, agree: Any) -> None:
    """The first row of every name, all of a group in one program."""
    rows = list(
        {name.partition("-")[0]: r for r in reversed(GROUPS[group]) for name in r[:1]}.values()
    )

    @pjit.compile
    def every(arguments: list) -> list:
        return [f(*args) for (_, f, _), args in zip(rows, arguments, strict=True)]

    arguments = [args for _, _, args in rows]
    agree(every(arguments), [expect(f, args) for _, f, args in rows], group)


ERRORS: list[tuple[Callable, type[Exception]]] = [
    (lambda x: np.searchsorted(x, 1, "middle"), ValueError),
    (lambda x: np.searchsorted(x[0], 1, "middle"), ValueError),
    (lambda x: np.digitize(x, [1, 3, 2]), ValueError),
    (lambda x: np.quantile(x, 1.5), ValueError),
    (lambda x: np.percentile(x, [50, 101]), ValueError),
    (lambda x: np.cov(x[None]), ValueError),
    (lambda x: np.linspace(x, 1, -1), ValueError),
    (lambda x: np.interp(x, [], []), ValueError),
    (lambda x: np.interp(x, [1, 2], [1]), ValueError),
    (lambda x: np.interp(x, [1, 2], [1, 2], period=0), ValueError),
    (lambda x: np.gradient(x[:1]), ValueError),
    (lambda x: np.gradient(x, 1, 2, 3), TypeError),
    (lambda x: np.gradient(x, edge_order=3), ValueError),
    (lambda x: np.gradient(x, [1.0], axis=0), ValueError),
    (lambda x: np.convolve(x, [1]), ValueError),
    (lambda x: np.convolve(x[0], []), ValueError),
    (lambda x: np.convolve(x[0], [1], "half"), ValueError),
    (lambda x: np.ediff1d(x.astype(int), to_end=1.5), TypeError),
    (lambda x: np.polyder(x[0], -1), ValueError),
    (lambda x: np.polyint(x[0], 3, k=[1, 2]), ValueError),
    (lambda x: np.vander(x), ValueError),
    (lambda x: np.choose(x, [1, 2]), TypeError),
    (lambda x: np.piecewise(x, [x > 0, x < 0], [1]), ValueError),
    (lambda x: np.put_along_axis(x.copy(), np.array([1]), 1, 0), ValueError),
    (lambda x: np.block([[x], x]), ValueError),
    (lambda x: np.block([x, []]), ValueError),
    (lambda x: np.dsplit(x, 2), ValueError),
    (lambda x: np.resize(x, (-1, 2)), ValueError),
    (lambda x: np.ix_(x), ValueError),
    (lambda x: np.tril_indices_from(x[0]), ValueError),
    (lambda x: np.lib.stride_tricks.sliding_window_view(x, 3), ValueError),
    (lambda x: np.lib.stride_tricks.sliding_window_view(x[0], 9), ValueError),
    (lambda x: np.lib.stride_tricks.sliding_window_view(x[0], -1), ValueError),
    (lambda x: np.diff(x, -1), ValueError),
    (lambda x: np.take(x, x), TypeError),
    (lambda x: np.take_along_axis(x, x, 0), IndexError),
    (lambda x: np.put_along_axis(x.copy(), x, 1, 0), IndexError),
    (lambda x: np.put(x.copy(), x, 1), TypeError),
    (lambda x: np.choose(x.astype(np.uint64), [x, x]), TypeError),
    (lambda x: np.unravel_index(x, (3, 4)), TypeError),
    (lambda x: np.gradient(x > 0), TypeError),
]


@pytest.mark.parametrize(("f", "error"), ERRORS)
def test_errors_as_in_numpy(f: Callable, error: type[Exception], interpreted: Any) -> None:
    for call in (f, interpreted(f)):
        with pytest.raises(error) as found:
            call(X)
        assert type(found.value) is error


REFUSED: list[tuple[Callable, str]] = [
    (lambda x: np.quantile(x, x[0, 0]), "np.quantile with a traced q"),
    (lambda x: np.quantile(x, 0.5, method="inverted_cdf", weights=x), "quantile with weights"),
    (lambda x: np.percentile(x, 5, method="inverted_cdf"), "method='inverted_cdf'"),
    (lambda x: np.histogram(x, "auto"), "bins='auto'"),
    (lambda x: np.put(np.array([0.0]), [0], x[0, 0]), "cannot hold traced values"),
    (lambda x: np.ix_(x[0] > 0), "depends on data"),
    (lambda x: np.bincount(x[0].astype(int)), "np.bincount is not traced: the shape"),
    (lambda x: np.linalg.inv(x[:, :3]), "np.linalg.inv is not traced: pjit has no solvers"),
    (lambda x: np.fft.fft(x), "np.fft.fft is not traced: pjit has no complex numbers"),
    (lambda x: x.flat, "ndarray.flat is not traced: a traced array has no memory"),
    (lambda x: np.gcd(x.astype(int), 2), "np.gcd is not traced: how long its loop runs"),
    (lambda x: np.nanargmax(x), "np.nanargmax is not traced: whether it raises an error"),
    (lambda x: np.save("file", x), "np.save is not traced: it writes a file"),
]


@pytest.mark.parametrize(("f", "message"), REFUSED)
def test_refusals_have_their_reason(f: Callable, message: str, interpreted: Any) -> None:
    with pytest.raises(TraceError, match=message.replace("(", r"\(")):
        interpreted(f)(X)
