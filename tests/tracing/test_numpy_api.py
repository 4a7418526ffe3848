"""NumPy functions and methods of arrays that are traced, one row each, against NumPy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

RNG = np.random.default_rng(0)


def floats(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return RNG.uniform(-3, 3, shape).astype(dtype)


X = floats(3, 4)
V = floats(5)
C = floats(2, 3, 4)
D = floats(3, 4, dtype=np.float64)
H = floats(3, 4, dtype=np.float16)
I32 = RNG.integers(-9, 9, (3, 4)).astype(np.int32)
I8 = RNG.integers(-9, 9, (2, 5)).astype(np.int8)
U8 = RNG.integers(0, 9, (2, 5)).astype(np.uint8)
B = RNG.integers(0, 2, (3, 4)).astype(bool)
E = np.zeros((0, 3), np.float32)
S = np.float32(1.5)
NAN = np.where(RNG.random((3, 4)) > 0.6, np.float32(np.nan), X)
IDX = np.array([[0, 2], [1, -1]])

Row = tuple[str, Callable, tuple]


def row(name: str, f: Callable, *args: Any) -> Row:
    return name, f, args


def over(name: str, f: Callable, *arrays: Any) -> list[Row]:
    return [(f"{name}-{a.dtype}{list(a.shape)}", f, (a,)) for a in arrays]


REDUCED = (X, C, D, H, I32, I8, U8, B, V)
REDUCTIONS = [
    *over("sum", lambda x: [np.sum(x), x.sum(-1), x.sum(axis=0, keepdims=True)], *REDUCED, E),
    *over("sum-dtype", lambda x: [x.sum(dtype=np.float64), np.sum(x, 0, np.int32)], *REDUCED),
    *over(
        "prod",
        lambda x: [np.prod(x), x.prod(0), np.prod(x, axis=-1, keepdims=True)],
        X,
        D,
        I8,
        U8,
        B,
        E,
    ),
    *over("mean", lambda x: [np.mean(x), x.mean(0), x.mean(-1, keepdims=True)], *REDUCED),
    *over("max", lambda x: [np.max(x), x.max(0), x.max(axis=-1, keepdims=True)], *REDUCED),
    *over("min", lambda x: [np.amin(x), x.min(0), x.min(axis=-1, keepdims=True)], *REDUCED),
    *over(
        "var", lambda x: [np.var(x), x.var(0), x.var(-1, ddof=1, keepdims=True)], X, C, D, H, I32, B
    ),
    *over("std", lambda x: [np.std(x), x.std(0), x.std(-1, None, None, 1)], X, C, D, H, I32),
    *over(
        "argmax", lambda x: [np.argmax(x), x.argmax(0), np.argmax(x, -1, keepdims=True)], *REDUCED
    ),
    *over("argmin", lambda x: [np.argmin(x), x.argmin(0), np.argmin(x, keepdims=True)], *REDUCED),
    *over("all", lambda x: [np.all(x), x.all(0), x.all(axis=-1, keepdims=True)], X, I32, B, E),
    *over("any", lambda x: [np.any(x), x.any(0), np.any(x, where=x > 1)], X, I32, B, E),
    *over("cumsum", lambda x: [np.cumsum(x), x.cumsum(0), x.cumsum(-1)], X, D, I32, I8, U8, B),
    *over("ptp", lambda x: [np.ptp(x), np.ptp(x, 0), np.ptp(x, 1, keepdims=True)], X, I32),
    *over(
        "sort",
        lambda x: [np.sort(x), np.sort(x, 0), np.sort(x, None), np.argsort(x, kind="stable")],
        X,
        D,
        I32,
        U8,
        B,
        V,
    ),
    *over(
        "median",
        lambda x: [np.median(x), np.median(x, 0), np.median(x, -1, keepdims=True)],
        X,
        D,
        I32,
        V,
        NAN,
    ),
    *over(
        "diff",
        lambda x: [np.diff(x), np.diff(x, 2), np.diff(x, axis=0, prepend=0, append=x[:1])],
        X,
        I32,
    ),
    *over("diff-bool", lambda x: np.diff(x), B),
    *over(
        "nan",
        lambda x: [np.nansum(x), np.nanmean(x, 0), np.nanmax(x, 1), np.nanmin(x), np.nanstd(x)],
        NAN,
        I32,
    ),
    *over("median-empty", lambda x: x.sum((0, 1)), E),
    row("no-axes", lambda x: [x.sum(()), np.max(x, ())], X),
    row("axes", lambda x: [x.sum((0, -1)), x.mean((1, 2)), x.max((2, 0)), x.var((0, 1))], C),
    row(
        "where",
        lambda x, m: [
            np.sum(x, where=m),
            np.mean(x, 0, where=m),
            np.max(x, 1, where=m, initial=-1),
            np.all(x > 0, where=m),
            np.var(x, where=m),
            np.prod(x, 0, where=m),
        ],
        X,
        B,
    ),
    row(
        "initial",
        lambda x: [np.sum(x, initial=2), np.prod(x, 1, initial=3), np.min(x, initial=-9)],
        X,
    ),
    row(
        "count_nonzero",
        lambda b: [np.count_nonzero(b, 0), np.count_nonzero(b, 1, keepdims=True)],
        B,
    ),
    row(
        "average",
        lambda x, w: [np.average(x), np.average(x, 1, w), np.average(x, 0, returned=True)],
        X,
        floats(4) + 4,
    ),
    row("average-int", lambda x: [np.average(x), np.average(x, weights=np.abs(x) + 1)], I32),
    row(
        "std-mean",
        lambda x: [np.var(x, 1, mean=x.mean(1, keepdims=True)), np.std(x, correction=1)],
        X,
    ),
    row("scalar", lambda s: [s.sum(), s.mean(), s.max(), np.argmax(s), s.var()], S),
    row("sort-method", lambda x: _sorted_copy(x), X),
    row("argsort-last", lambda x: np.argsort(x), floats(7)),
]


def _table(a: np.ndarray, i: Any) -> Any:
    return np.asarray(a, like=i)


def _sorted_copy(x: Any) -> Any:
    y = x.copy()
    y.sort()
    z = x.copy()
    z.sort(axis=0)
    return y, z


SHAPES = [
    row(
        "reshape",
        lambda x: [x.reshape(4, 3), x.reshape((2, -1)), np.reshape(x, -1), x.reshape(12)],
        X,
    ),
    row(
        "reshape-F", lambda x: [x.reshape(4, 3, order="F"), np.ravel(x, "F"), x.T.reshape(2, 6)], X
    ),
    row("ravel", lambda x: [x.ravel(), x.flatten(), np.ravel(x), x.T.flatten()], C),
    row(
        "transpose",
        lambda x: [
            x.T,
            x.transpose(),
            x.transpose(2, 0, 1),
            np.transpose(x, (1, 0, 2)),
            x.transpose((0, -1, 1)),
            x.mT,
        ],
        C,
    ),
    row(
        "axes",
        lambda x: [
            np.moveaxis(x, 0, -1),
            np.moveaxis(x, (0, 1), (2, 0)),
            x.swapaxes(0, 2),
            np.swapaxes(x, -1, 1),
            np.rollaxis(x, 2),
            np.rollaxis(x, 0, 3),
            np.matrix_transpose(x),
        ],
        C,
    ),
    row(
        "dims",
        lambda x: [
            np.expand_dims(x, 0),
            np.expand_dims(x, (0, -1)),
            np.squeeze(x[:, None]),
            np.squeeze(x[None], 0),
            x[None].squeeze(axis=0),
        ],
        X,
    ),
    row(
        "atleast",
        lambda x, v, s: [
            np.atleast_1d(s),
            np.atleast_2d(v),
            np.atleast_3d(x),
            np.atleast_3d(v),
            np.atleast_2d(x, v),
        ],
        X,
        V,
        S,
    ),
    row("broadcast", lambda x, v: [np.broadcast_to(v, (3, 5)), np.broadcast_arrays(x[0], x)], X, V),
    row(
        "concatenate",
        lambda x, i: [
            np.concatenate([x, i]),
            np.concatenate((x, x), 1),
            np.concatenate([x, i], None),
            np.concatenate([x, [[1, 2, 3, 4]]]),
            np.concat([x, x], axis=-1),
            np.concatenate([i, i], dtype=np.float64),
        ],
        X,
        I32,
    ),
    row(
        "stack",
        lambda x, v: [
            np.stack([x, x]),
            np.stack([x, x * 2], -1),
            np.stack(x),
            np.hstack([x, x]),
            np.hstack([v, v]),
            np.vstack([x, x]),
            np.vstack([v, v]),
            np.dstack([x, x]),
            np.column_stack([v, v]),
            np.append(v, 1.0),
            np.append(x, x, 0),
        ],
        X,
        V,
    ),
    row(
        "split",
        lambda x: [
            np.split(x, 2, 1),
            np.split(x, [1, 2]),
            np.array_split(x, 3, axis=1),
            np.hsplit(x, 2),
            np.vsplit(x, 3),
        ],
        X,
    ),
    row("tile", lambda x, v: [np.tile(x, 2), np.tile(v, (2, 3)), np.tile(x, (2, 1, 2))], X, V),
    row("repeat", lambda x: [np.repeat(x, 2), x.repeat(3, axis=1), np.repeat(x, [1, 0, 2], 0)], X),
    row(
        "flip",
        lambda x: [np.flip(x), np.flip(x, 1), np.fliplr(x), np.flipud(x), np.flip(x, (0, 1))],
        X,
    ),
    row("rot90", lambda x: [np.rot90(x, k) for k in range(-1, 4)], X),
    row(
        "roll",
        lambda x: [np.roll(x, 2), np.roll(x, -1, 1), np.roll(x, (1, 2), (0, 1)), np.roll(x, 7, 0)],
        X,
    ),
    row(
        "pad",
        lambda x: [
            np.pad(x, 1),
            np.pad(x, ((1, 2), (0, 3)), constant_values=2),
            np.pad(x, 2, "edge"),
            np.pad(x, (1, 2), "reflect"),
            np.pad(x, 2, "symmetric"),
            np.pad(x, 3, "wrap"),
            np.pad(x, ((0, 1), (2, 0)), constant_values=((1, 2), (3, 4))),
        ],
        X,
    ),
    row(
        "pad-types",
        lambda i, b: [
            np.pad(i, 1, constant_values=7),
            np.pad(b, 1),
            np.pad(b, 1, constant_values=True),
        ],
        I32,
        B,
    ),
    row(
        "diagonal",
        lambda x, v: [
            np.diagonal(x),
            x.diagonal(1),
            np.diagonal(x, -1),
            np.diag(v),
            np.diag(v, 1),
            np.diag(v, -2),
            np.diag(x),
            np.trace(x),
            x.trace(1),
        ],
        X,
        V,
    ),
    row("trace-int", lambda x: [np.trace(x), np.trace(x, dtype=np.float32)], I32),
    row("diagonal-3d", lambda x: [np.diagonal(x, 0, 1, 2), np.diagonal(x, -1, 2, 0)], C),
    row("triangles", lambda x: [np.tril(x), np.triu(x), np.tril(x, -1), np.triu(x, 2)], C),
    row(
        "meshgrid",
        lambda a, b: [
            list(np.meshgrid(a, b)),
            list(np.meshgrid(a, b, indexing="ij")),
            list(np.meshgrid(a, b, sparse=True)),
        ],
        V,
        X[0],
    ),
    row("unstack", lambda x: [list(x), [r * 2 for r in x]], X),
    row("delete", lambda x: [np.delete(x, 1, 0), np.delete(x, [0, 2], 1), np.delete(x, 3)], X),
    row("empty", lambda e: [e.reshape(3, 0), e.T, np.concatenate([e, e]), e.sum(0), e.mean(1)], E),
]

SELECTION = [
    row(
        "where",
        lambda b, x, i: [
            np.where(b, x, i),
            np.where(b, x, 0),
            np.where(i, 1, x),
            np.where(x > 0, x, 0.5),
            np.where(b, i, 1),
            np.where(b, 1, 2),
            np.where(b[0], True, b),
        ],
        B,
        X,
        I32,
    ),
    row("select", lambda x: np.select([x > 1, x < -1], [x, x * 2], 0.5), X),
    row(
        "take",
        lambda x, i: [
            np.take(x, i),
            np.take(x, i, 0),
            x.take(i, axis=1),
            np.take(x, 1, 0),
            np.take(x, [0, 1]),
            np.take(x, i + 9, 0, mode="clip"),
            np.take(x, i - 20, 1, mode="wrap"),
        ],
        X,
        IDX,
    ),
    row("take-constant", lambda i: [_table(X, i)[i], np.take(_table(np.arange(5), i), i)], IDX),
    row(
        "take_along_axis",
        lambda x: [
            np.take_along_axis(x, np.argsort(x, 1), 1),
            np.take_along_axis(x, np.argmax(x, 0)[None], 0),
        ],
        X,
    ),
    row(
        "clip",
        lambda x, v: [
            np.clip(x, -1, 1),
            x.clip(0),
            x.clip(max=1),
            np.clip(x, None, v[:4]),
            np.clip(x, x[0], 2),
            np.clip(x, min=-1, max=0.5),
        ],
        X,
        V,
    ),
    row(
        "clip-types",
        lambda i, u: [
            np.clip(i, -1, 3),
            np.clip(i, 0.5, 3),
            np.clip(u, 1, np.int64(4)),
            i.clip(0, 2),
        ],
        I32,
        U8,
    ),
    row(
        "like",
        lambda x: [
            np.zeros_like(x),
            np.ones_like(x, dtype=np.int8),
            np.full_like(x, 2.5),
            np.full_like(x, x.max()),
            np.zeros_like(x, shape=(2, 2)),
            np.zeros(3, like=x),
            np.arange(3, like=x),
            np.asarray([1, 2], like=x),
        ],
        X,
    ),
    row("isin", lambda i: [np.isin(i, [1, 2, 3]), np.isin(i, [4], invert=True)], I32),
]

MATHEMATICS = [
    row(
        "round",
        lambda x, i, h: [
            np.round(x),
            x.round(1),
            np.around(x, 2),
            np.round(i),
            np.round(i, 2),
            i.round(-1),
            np.round(h, 1),
            np.round(x, -1),
            np.fix(x),
        ],
        X,
        I32,
        H,
    ),
    row("softmax", lambda x: [_softmax(x), np.log(np.sum(np.exp(x), -1))], X),
    row(
        "layernorm",
        lambda x: (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5),
        X,
    ),
    row(
        "isclose",
        lambda x, y: [np.isclose(x, y), np.isclose(x, x + 1e-9), np.isclose(x, x, equal_nan=True)],
        NAN,
        X,
    ),
    row("nan_to_num", lambda x: [np.nan_to_num(x), np.nan_to_num(x / 0, posinf=1, neginf=-1)], NAN),
    row(
        "infinite",
        lambda x: [np.isposinf(x), np.isneginf(x)],
        np.array([np.inf, -np.inf, 1, np.nan]),
    ),
    row("sinc", lambda x: [np.sinc(x), np.sinc(x * 0)], X),
    row("polyval", lambda x: [np.polyval([1, 2, 3], x), np.polyval(x[0], 2.0)], X),
    row(
        "trapezoid",
        lambda x: [np.trapezoid(x), np.trapezoid(x, dx=0.5, axis=0), np.trapezoid(x, np.arange(4))],
        X,
    ),
    row("parts", lambda x: [np.real(x), x.real, np.imag(x), np.conj(x), x.conj()], X),
    row(
        "astype",
        lambda x, i: [
            x.astype(np.float64),
            x.astype("i4"),
            i.astype(bool),
            i.astype(np.uint8),
            x.astype(int),
            i.astype(np.float16),
            x.astype(np.float32, copy=False),
        ],
        X,
        I32,
    ),
    row("copy", lambda x: [np.copy(x), x.copy()], X),
    row(
        "queries",
        lambda x: [
            x.shape,
            x.ndim,
            x.size,
            x.nbytes,
            x.itemsize,
            len(x),
            np.shape(x),
            np.ndim(x),
            np.size(x),
            np.size(x, 1),
            str(x.dtype),
            np.iscomplexobj(x),
        ],
        X,
    ),
    row(
        "result_type",
        lambda x: [
            str(np.result_type(x, 1)),
            str(np.result_type(x, np.float64)),
            np.can_cast(x, int),
        ],
        X,
    ),
    row("namespace", lambda x: x.__array_namespace__().exp(x), X),
    row("static", lambda x: [x.shape[0] * 2, "text", 1.5, None, (x.ndim, True)], X),
]


def _softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


M = [floats(3, 4), floats(4, 5), floats(2, 3, 4), floats(2, 4, 5), floats(4), floats(3)]
PRODUCTS = [
    row(
        "dot",
        lambda a, b, c, d, v, w: [
            np.dot(a, b),
            a.dot(v),
            np.dot(v, v),
            np.dot(w, a),
            np.dot(c, v),
            np.dot(c, d),
            np.dot(a, 2),
            np.dot(v, b),
        ],
        *M,
    ),
    row(
        "inner-outer",
        lambda a, b, c, d, v, w: [
            np.inner(v, v),
            np.inner(c, a),
            np.inner(a, v),
            np.outer(v, w),
            np.outer(a, v),
            np.vdot(a, a),
            np.kron(v, w),
            np.kron(a, b),
            np.linalg.outer(v, w),
        ],
        *M,
    ),
    row(
        "tensordot",
        lambda a, b, c, d, v, w: [
            np.tensordot(a, b, 1),
            np.tensordot(c, d, ([2, 0], [1, 0])),
            np.tensordot(c, a, ((1, 2), (0, 1))),
            np.tensordot(v, w, 0),
        ],
        *M,
    ),
    row(
        "linalg",
        lambda a, b, c, d, v, w: [
            np.linalg.matmul(c, d),
            np.linalg.vecdot(a, v),
            np.linalg.multi_dot([w, a, b]),
            np.linalg.matrix_power(a[:, :3], 3),
            np.linalg.matrix_power(a[:, :3], 0),
        ],
        *M,
    ),
    row("cross", lambda a, w: [np.cross(w, w * 2 + 1), np.cross(a.T, w)], M[0], M[5]),
    row(
        "norm",
        lambda x, v: [
            np.linalg.norm(x),
            np.linalg.norm(v),
            np.linalg.norm(x, axis=1),
            np.linalg.norm(x, 1, 0),
            np.linalg.norm(x, np.inf, axis=1, keepdims=True),
            np.linalg.norm(v, -np.inf),
            np.linalg.norm(v, 3),
            np.linalg.norm(v, 0),
            np.linalg.norm(x, "fro"),
            np.linalg.norm(x, 1),
            np.linalg.norm(x, -np.inf),
            np.linalg.norm(x, np.inf, keepdims=True),
            np.linalg.vector_norm(x, axis=0),
            np.linalg.matrix_norm(x),
        ],
        X,
        V,
    ),
    row("norm-int", lambda i: [np.linalg.norm(i), np.linalg.norm(i, axis=0)], I32),
    row(
        "integers",
        lambda i: [
            i @ i.T,
            np.dot(i, 3),
            np.tensordot(i, i, ([0, 1], [0, 1])),
            np.einsum("ij->", i),
        ],
        I32,
    ),
]

EINSUM: list[tuple[str, list[tuple[int, ...]]]] = [
    ("ij,jk->ik", [(3, 4), (4, 5)]),
    ("ij,jk", [(3, 4), (4, 5)]),
    ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)]),
    ("bhqd,bhkd->bhqk", [(2, 3, 4, 5), (2, 3, 6, 5)]),
    ("bhqk,bhkd->bqhd", [(2, 3, 4, 6), (2, 3, 6, 5)]),
    ("i,j->ij", [(3,), (4,)]),
    ("i,i", [(4,), (4,)]),
    ("ij->ji", [(3, 4)]),
    ("ij->", [(3, 4)]),
    ("ij->i", [(3, 4)]),
    ("ii", [(4, 4)]),
    ("ii->i", [(4, 4)]),
    ("iij->ji", [(3, 3, 2)]),
    ("...ij,...jk->...ik", [(2, 3, 4), (4, 5)]),
    ("...i,...i", [(2, 3, 4), (3, 4)]),
    ("i...->...", [(3, 4, 2)]),
    ("ij,ij->ij", [(3, 4), (3, 4)]),
    ("ij,j->ij", [(3, 4), (4,)]),
    ("ij,jk,kl->il", [(3, 4), (4, 5), (5, 2)]),
    ("a,ab,abc->abc", [(2,), (2, 3), (2, 3, 4)]),
    ("ij,kj->", [(3, 4), (2, 4)]),
    ("ijk,ilm,njm,nlk->", [(2, 3, 4), (2, 5, 3), (6, 3, 3), (6, 5, 4)]),
    ("ij,jk->ik", [(3, 1), (4, 5)]),
    ("z,a->az", [(3,), (4,)]),
]
EINSUMS = [
    row(f"einsum {s} {shapes}", lambda *xs, s=s: np.einsum(s, *xs), *(floats(*d) for d in shapes))
    for s, shapes in EINSUM
]

GROUPS = {
    "reductions": REDUCTIONS,
    "shapes": SHAPES,
    "selection": SELECTION,
    "mathematics": MATHEMATICS,
    "products": PRODUCTS,
    "einsum": EINSUMS,
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
@pytest.mark.parametrize("group", GROUPS)
def test_compiled(group: str, jit: Any, agree: Any) -> None:
    """All rows of a group in one program."""
    rows = GROUPS[group]

    @jit
    def every(arguments: list) -> list:
        return [f(*args) for (_, f, _), args in zip(rows, arguments, strict=True)]

    arguments = [args for _, _, args in rows]
    agree(every(arguments), [expect(f, args) for _, f, args in rows], group)
