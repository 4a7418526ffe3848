"""Kernels to emit for CUDA, and an emulation of a GPU's threads that runs the emitted source.

The emulation needs neither numba nor a GPU: barriers and shuffles become ``yield``, so that each
thread is a generator. It checks what a GPU would not: bounds of every access, races in shared
memory, elements that two threads write, barriers that not all threads reach, and f64 where there
should be f32.
"""

from __future__ import annotations

import ast
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import erf, erfc, prod
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from graphs import graph, lower

from pjit.backends.cuda.source import CudaSource
from pjit.backends.cuda.target import machine
from pjit.ir import ops
from pjit.ir.core import Function, Module
from pjit.ir.expr import substitute
from pjit.ir.loops import kernels
from pjit.ir.types import DTYPES, parse_type

WARP = 32
Build = Callable[..., Any]


@dataclass(frozen=True)
class Case:
    """A graph that lowers to one kernel, and values of its symbols and index inputs."""

    name: str
    build: Build
    inputs: tuple[str, ...]
    sizes: Mapping[str, int] = field(default_factory=dict)
    below: int = 5  # integer inputs lie in [-below, below)

    def lowered(self) -> Module:
        """The graph, lowered for a GPU."""
        kinds = [parse_type(t) for t in self.inputs]
        return lower(graph(self.build, kinds), machine())  # type: ignore[arg-type]

    def kernel(self) -> Function:
        """The kernel."""
        (kernel,) = kernels(self.lowered())
        return kernel

    def arguments(self) -> dict[str, int]:
        """The kernel's symbols with their values."""
        module = self.lowered()
        (kernel,) = kernels(module)
        launch = next(o for o in module.main.body.ops if o.op_name == "launch")
        values = [int(substitute(d, self.sizes)) for d in launch.attrs["sizes"]]
        return dict(zip(kernel.attrs["symbols"], values, strict=True))

    def arrays(self, kernel: Function) -> list[np.ndarray]:
        """Inputs, and outputs that hold no result yet."""
        rng = np.random.default_rng(1)
        made, sizes = [], self.arguments()
        for at, v in enumerate(kernel.args):
            shape = tuple(int(substitute(d, sizes)) for d in v.shape)
            dt = v.dtype
            if at >= len(kernel.args) - kernel.attrs["outputs"]:
                made.append(np.full(shape, 77).astype(dt.numpy))
            elif dt.is_float:
                made.append(rng.standard_normal(shape).astype(dt.numpy))
            else:
                low = 0 if dt.kind in "ub" else -self.below
                made.append(rng.integers(low, self.below, shape).astype(dt.numpy))
        return made


def softmax(b, x):
    last = len(x.shape) - 1
    return b(ops.Softmax, x, axis=last)


def chain(b, x, y):
    half = b.constant(np.asarray(0.5, x.dtype.numpy))
    return b(ops.Relu, b(ops.Add, b(ops.Mul, x, half), y))


def integers(b, x, y):
    a = b(ops.Floordiv, x, y)
    m = b(ops.Mod, x, y)
    d = b(ops.Fmod, x, y)
    s = b(ops.Shr, b(ops.Shl, x, b(ops.Abs, y)), b(ops.Abs, y))
    return b(ops.Add, b(ops.Add, a, b(ops.Mul, m, d)), b(ops.Add, s, b(ops.Div, x, y)))


def floats(b, x, y):
    a = b(ops.Floordiv, x, y)
    m = b(ops.Mod, x, y)
    w = b(ops.Where, b(ops.And, b(ops.Lt, x, y), b(ops.Isnan, a)), x, m)
    return b(ops.Min, b(ops.Add, w, a), b(ops.Copysign, b(ops.Erf, x), y))


def masks(b, x, y):
    return b(ops.Xor, b(ops.Or, b(ops.Gt, x, y), b(ops.Not, b(ops.Eq, x, x))), b(ops.Ge, y, x))


CASES = [
    Case("chain", chain, ("f32[N,64]", "f32[64]"), {"N": 5}),
    Case("chain_narrow", chain, ("f32[3,65]", "f32[65]")),
    Case("chain_rows", chain, ("f32[N,2,64]", "f32[N,2,1]"), {"N": 3}),
    Case("chain_columns", chain, ("f32[N,66]", "f32[66]"), {"N": 6}),
    Case("chain_chunks", lambda b, x: b(ops.Sigmoid, x), ("f32[70,131]",)),
    Case("chain_f16", chain, ("f16[3,50]", "f16[50]")),
    Case("chain_bf16", chain, ("bf16[3,50]", "bf16[50]")),
    Case("chain_f64", chain, ("f64[3,50]", "f64[50]")),
    Case("scalar", lambda b, x: b(ops.Exp, x), ("f32[]",)),
    Case("integers", integers, ("i32[40]", "i32[40]"), below=9),
    Case("bytes", integers, ("i8[40]", "i8[40]"), below=120),
    Case("unsigned", integers, ("u32[40]", "u32[40]"), below=9),
    Case("floats", floats, ("f32[40]", "f32[40]")),
    Case("masks", masks, ("f32[40]", "f32[40]")),
    Case(
        "casts",
        lambda b, x: b(ops.Cast, b(ops.Cast, x, dtype=DTYPES["i8"]), dtype=DTYPES["f32"]),
        ("f32[40]",),
    ),
    Case("transpose", lambda b, x: b(ops.Transpose, x, perm=(1, 0)), ("f32[33,70]",)),
    Case(
        "transpose_serial", lambda b, x: b(ops.Transpose, x, perm=(0, 2, 3, 1)), ("f32[9,3,9,7]",)
    ),
    Case("pad", lambda b, x: b(ops.Pad, x, low=(1, 2), high=(2, 1)), ("f32[M,9]",), {"M": 7}),
    Case(
        "pad_edge",
        lambda b, x: b(ops.Pad, b(ops.Exp, x), low=(1, 2), high=(2, 1), mode="edge"),
        ("f32[5,9]",),
    ),
    Case("gather", lambda b, x, i: b(ops.Gather, x, i, axis=0), ("f32[6,35]", "i64[4]"), below=6),
    Case(
        "concat", lambda b, x, y: b(ops.Concat, b(ops.Relu, x), y, axis=1), ("f32[5,6]", "f32[5,3]")
    ),
    Case("argmax", lambda b, x: b(ops.Argmax, x, axis=1), ("f32[4,23]",)),
    Case(
        "scatter",
        lambda b, x, i, u: b(ops.ScatterNd, x, i, u, reduction="add"),
        ("f32[6,40]", "i64[9,1]", "f32[9,40]"),
        below=6,
    ),
    Case("cumsum", lambda b, x: b(ops.Cumsum, x, axis=1), ("f32[4,9]",)),
    Case("reduce", lambda b, x: b(ops.ReduceSum, x, axes=(1, 2)), ("f32[5,7,9]",)),
    Case("reduce_block", lambda b, x: b(ops.ReduceMin, x, axes=(1,)), ("f32[2,1500]",)),
    Case("reduce_bytes", lambda b, x: b(ops.ReduceMax, x, axes=(1,)), ("i8[5,40]",), below=100),
    Case("reduce_u64", lambda b, x: b(ops.ReduceSum, x, axes=(1,)), ("u64[5,40]",), below=100),
    Case("reduce_f16", lambda b, x: b(ops.ReduceSum, x, axes=(1,)), ("f16[5,40]",)),
    Case("reduce_columns", lambda b, x: b(ops.ReduceSum, x, axes=(0,)), ("f32[13,9]",)),
    Case("softmax", softmax, ("f32[N,37]",), {"N": 11}),
    Case("softmax_short", softmax, ("f32[19,10]",)),
    Case("softmax_block", softmax, ("f32[3,1100]",)),
    Case("softmax_symbolic", softmax, ("f32[3,L]",), {"L": 70}),
    Case(
        "layer_norm",
        lambda b, x, g, c: b(ops.LayerNorm, x, g, c, axis=1, epsilon=1e-5),
        ("f32[5,48]", "f32[48]", "f32[48]"),
    ),
    Case(
        "max_pool",
        lambda b, x: b(
            ops.MaxPool,
            x,
            kernel=(3, 3),
            strides=(2, 2),
            pads=(1, 1, 1, 1),
            dilations=(1, 1),
            channels_last=True,
        ),
        ("f32[1,7,9,5]",),
    ),
]


@pytest.fixture(params=CASES, ids=lambda c: c.name)
def case(request: pytest.FixtureRequest) -> Case:
    """Each case."""
    return request.param


@pytest.fixture
def emulate() -> Callable[..., int]:
    """``emulate(source, arrays, sizes, reverse=False, blocks=3)``: a failed check's code or 0."""
    return _emulate


@pytest.fixture
def cases() -> dict[str, Case]:
    """All cases by name."""
    return {c.name: c for c in CASES}


class EmulationError(AssertionError):
    """The source does what a GPU must not be asked to do."""


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise EmulationError(what)


# Memory


class _Pointer:
    """A buffer: elements by linear offset. Threads pass them on with a barrier in between."""

    def __init__(self, gpu: _Gpu, name: str, array: np.ndarray) -> None:
        self.gpu, self.name = gpu, name
        kind = array.dtype
        if kind.kind == "b":
            kind = np.dtype(np.uint8)
        elif kind.itemsize == 2 and kind.kind not in "iu":
            kind = np.dtype(np.uint16)
        self.flat = array.reshape(-1).view(kind)
        self.writers: dict[int, tuple] = {}

    def _at(self, at: Any) -> int:
        _require(0 <= at < len(self.flat), f"{self.name}[{at}] of {len(self.flat)}")
        return int(at)

    def _ordered(self, at: int) -> bool:
        if at not in self.writers:
            return True
        block, *then = self.writers[at]
        return block == self.gpu.block and _ordered(tuple(then), self.gpu.now())

    def __getitem__(self, at: Any) -> Any:
        at = self._at(at)
        _require(self._ordered(at), f"{self.name}[{at}] is read in a race with its writer")
        return self.flat[at]

    def __setitem__(self, at: Any, value: Any) -> None:
        at = self._at(at)
        self.gpu.check_type(value, self.flat.dtype)
        _require(self._ordered(at), f"two threads write {self.name}[{at}]")
        self.writers[at] = (self.gpu.block, *self.gpu.now())
        self.flat[at] = value


def _ordered(then: tuple, now: tuple) -> bool:
    """Whether a barrier lies between what two threads do, each with the barriers it passed."""
    same_warp = then[0] // WARP == now[0] // WARP
    return then[0] == now[0] or then[1] != now[1] or (same_warp and then[2] != now[2])


class _Shared:
    """Shared memory; notes who touched an element when, to find races."""

    def __init__(self, gpu: _Gpu, size: int, kind: np.dtype) -> None:
        self.gpu = gpu
        self.array = np.zeros(size, kind)
        self.writer: dict[int, tuple] = {}
        self.readers: dict[int, dict[int, tuple]] = {}

    def __getitem__(self, at: Any) -> Any:
        _require(0 <= at < len(self.array), f"shared memory at {at} of {len(self.array)}")
        _require(at in self.writer, "shared memory is read before it is written")
        now = self.gpu.now()
        _require(_ordered(self.writer[at], now), "a read races with a write")
        self.readers.setdefault(int(at), {})[now[0]] = now
        return self.array[at]

    def __setitem__(self, at: Any, value: Any) -> None:
        _require(0 <= at < len(self.array), f"shared memory at {at} of {len(self.array)}")
        now = self.gpu.now()
        before = [*self.readers.pop(int(at), {}).values()]
        before += [self.writer[at]] if at in self.writer else []
        _require(all(_ordered(b, now) for b in before), "a write races")
        self.gpu.check_type(value, self.array.dtype)
        self.writer[int(at)] = now
        self.array[at] = value


# Functions


def _typed(kind: type, f: Callable) -> Callable:
    def call(*xs: Any) -> Any:
        _require(all(type(x) is kind for x in xs), f"{f} gets {[type(x) for x in xs]}")
        return kind(f(*xs))

    return call


_UFUNCS = {n: getattr(np, n) for n in "sqrt exp expm1 log log1p tanh sinh cosh sin cos tan".split()}
_UFUNCS |= {n: getattr(np, n) for n in "floor ceil trunc rint copysign fmod fabs".split()}
_UFUNCS |= {"a" + n: getattr(np, "arc" + n) for n in "sin cos tan sinh cosh tanh tan2".split()}
_UFUNCS |= {"erf": erf, "normcdf": lambda x: erfc(-x * 0.5**0.5) / 2}
_UFUNCS |= {"pow": np.power, "fma": lambda x, y, z: np.float64(x) * y + z}
LIBDEVICE = types.SimpleNamespace(
    **{n: _typed(np.float64, f) for n, f in _UFUNCS.items()},
    **{n + "f": _typed(np.float32, f) for n, f in _UFUNCS.items()},
)


def _quotient(limit: int, f: Callable) -> Callable:
    def call(x: Any, y: Any) -> int:
        _require(0 <= x < limit and 0 < y < limit, f"the quotient of {x} and {y}")
        return int(f(int(x), int(y)))

    return call


def _fail(error: np.ndarray, code: int) -> None:
    error[0] = error[0] or code


def _four(at: Any) -> range:
    _require(at % 4 == 0, f"an access of four elements at {at}")
    return range(4)


def _bits(kind: Any) -> tuple[Callable, Callable]:
    widen = lambda x: np.asarray(x, np.uint16).view(kind).astype(np.float32)[()]  # noqa: E731
    narrow = lambda x: np.asarray(x, np.float32).astype(kind).view(np.uint16)[()]  # noqa: E731
    return widen, narrow


_F16, _BF16 = _bits(np.float16), _bits(ml_dtypes.bfloat16)
INTRINSICS = types.SimpleNamespace(
    power=lambda x, y: np.uint64(pow(int(x), int(y), 1 << 64)),
    minimum=_typed(np.float32, np.minimum),
    maximum=_typed(np.float32, np.maximum),
    udiv=_quotient(1 << 63, lambda x, y: x // y),
    urem=_quotient(1 << 63, lambda x, y: x % y),
    udiv32=_quotient(1 << 32, lambda x, y: x // y),
    urem32=_quotient(1 << 32, lambda x, y: x % y),
    f16_to_f32=_F16[0],
    f32_to_f16=_F16[1],
    bf16_to_f32=_BF16[0],
    f32_to_bf16=_BF16[1],
    fail=_fail,
    load4=lambda pointer, at: tuple(pointer[at + k] for k in _four(at)),
    store4=lambda pointer, at, *xs: [pointer.__setitem__(at + k, xs[k]) for k in _four(at)],
)


# Threads


class _Gpu:
    """One block after the other; ``cuda`` is what the source sees under that name."""

    def __init__(self, source: CudaSource, blocks: int) -> None:
        self.shape, self.blocks, self.block, self.thread = source.launch.block, blocks, 0, 0
        self.threads = prod(self.shape)
        self.cuda = types.SimpleNamespace(
            grid=lambda n: self.block * self.shape[0] + self.thread,
            gridsize=lambda n: self.blocks * self.shape[0],
            threadIdx=_Position(
                self, lambda: (self.thread % self.shape[0], self.thread // self.shape[0])
            ),
            blockIdx=_Position(self, lambda: (self.block, 0)),
            gridDim=_Position(self, lambda: (self.blocks, 1)),
            shared=types.SimpleNamespace(array=self._allocate),
        )

    def start_block(self) -> None:
        self.arrays: list[_Shared] = []
        self.allocated = [0] * self.threads
        self.block_barriers, self.warp_barriers = 0, [0] * (self.threads // WARP)

    def _allocate(self, size: int, kind: Any) -> _Shared:
        at = self.allocated[self.thread]
        self.allocated[self.thread] += 1
        if at == len(self.arrays):
            self.arrays.append(_Shared(self, size, np.dtype(kind)))
        return self.arrays[at]

    def now(self) -> tuple[int, int, int]:
        """The thread, and how many barriers of the block and of its warp it passed."""
        return self.thread, self.block_barriers, self.warp_barriers[self.thread // WARP]

    def check_type(self, value: Any, kind: np.dtype) -> None:
        _require(np.asarray(value).dtype == kind, f"{type(value)} is stored where {kind} belongs")


class _Position:
    def __init__(self, gpu: _Gpu, of: Callable[[], tuple[int, int]]) -> None:
        self._of = of

    @property
    def x(self) -> np.int32:
        return np.int32(self._of()[0])

    @property
    def y(self) -> np.int32:
        return np.int32(self._of()[1])


class _Yields(ast.NodeTransformer):
    """Makes the collective operations of a thread ``yield (name, arguments...)``."""

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        name = ast.unparse(node.func)
        if name not in ("cuda.syncthreads", "cuda.syncwarp", "cuda.shfl_xor_sync"):
            return node
        return ast.Yield(ast.Tuple([ast.Constant(name), *node.args], ast.Load()))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self.generic_visit(node)
        node.body.insert(0, ast.parse("if False: yield").body[0])
        return node


def _function(source: CudaSource, gpu: _Gpu) -> Callable[..., Iterator]:
    tree = ast.fix_missing_locations(_Yields().visit(ast.parse(source.text)))
    modules = {
        "numpy": np,
        "numba": types.SimpleNamespace(cuda=gpu.cuda),
        "numba.cuda": types.SimpleNamespace(libdevice=LIBDEVICE),
        "pjit.backends.cuda.intrinsics": INTRINSICS,
    }
    builtins = {f.__name__: f for f in (min, max, abs, range)}
    builtins["__import__"] = lambda name, *rest: modules[name]
    scope: dict[str, Any] = {"__builtins__": builtins}
    exec(compile(tree, source.name, "exec"), scope)
    return scope[source.name]


def _emulate(
    source: CudaSource,
    arrays: Sequence[np.ndarray],
    sizes: Mapping[str, int],
    reverse: bool = False,
    blocks: int = 3,
) -> int:
    gpu = _Gpu(source, min(source.launch.grid(sizes), blocks))
    _require(gpu.threads % WARP == 0, "a block is whole warps")
    function = _function(source, gpu)
    pointers = [_Pointer(gpu, f"buffer {i}", a) for i, a in enumerate(arrays)]
    error = np.zeros(1, np.int64)
    arguments = [*pointers, *(sizes[s] for s in source.symbols)]
    arguments += [error] if source.checks else []
    with np.errstate(all="ignore"):
        for block in range(gpu.blocks):
            gpu.block = block
            gpu.start_block()
            _run_block(gpu, [function(*arguments) for _ in range(gpu.threads)], reverse)
            used = sum(a.array.nbytes for a in gpu.arrays)
            _require(used == source.launch.shared, "the launch tells the shared memory")
    return int(error[0])


def _run_block(gpu: _Gpu, threads: list[Iterator], reverse: bool) -> None:
    warps = [range(w, w + WARP) for w in range(0, gpu.threads, WARP)]
    answers: list[Any] = [None] * gpu.threads
    asked: list[Any] = [()] * gpu.threads
    while True:
        for w in reversed(warps) if reverse else warps:
            while _run_warp(gpu, w, threads, asked, answers, reverse):
                pass
        if all(a is None for a in asked):
            return
        _require(all(a == ("cuda.syncthreads",) for a in asked), "not all threads reach a barrier")
        gpu.block_barriers += 1
        asked[:] = [()] * gpu.threads


def _run_warp(
    gpu: _Gpu, warp: range, threads: list[Iterator], asked: list, answers: list, reverse: bool
) -> bool:
    """Runs a warp to its next collective operation; whether it can go on from there."""
    for k in reversed(warp) if reverse else warp:
        if asked[k] == ():
            gpu.thread = k
            try:
                asked[k] = threads[k].send(answers[k])
            except StopIteration:
                asked[k] = None
            answers[k] = None
    kinds = {None if asked[k] is None else asked[k][0] for k in warp}
    _require(len(kinds) == 1, f"the threads of a warp diverge: {kinds}")
    kind = kinds.pop()
    if kind in (None, "cuda.syncthreads"):
        return False
    if kind == "cuda.syncwarp":
        gpu.warp_barriers[warp.start // WARP] += 1
    else:
        _require(all(asked[k][1] == 0xFFFFFFFF for k in warp), "all lanes take part in a shuffle")
        _require(len({asked[k][3] for k in warp}) == 1, "the lanes shuffle alike")
        for k in warp:
            answers[k] = asked[k ^ asked[k][3]][2]
    for k in warp:
        asked[k] = ()
    return True
