from __future__ import annotations

import ctypes
import functools
import math
import platform

import llvmlite.binding as llvm
import llvmlite.ir as llir
import numpy as np
import pytest

from pjit.backends.llvm import vecmath

I64, PTR = llir.IntType(64), llir.PointerType()
F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
ELEMENT = {F32: llir.FloatType(), F64: llir.DoubleType()}
INTEGER: dict[np.dtype, np.dtype] = {F32: np.dtype(np.int32), F64: np.dtype(np.int64)}
WIDE: dict[np.dtype, np.dtype] = {F32: F64, F64: np.dtype(np.longdouble)}
ALL = [name for names in vecmath.NAMES.values() for name in names]
BOTH = pytest.mark.parametrize("dtype", [F32, F64], ids=["f32", "f64"])

TARGET_FEATURES = {
    "host": (),
    "x86-64-v3": ("avx2", "fma", "bmi2"),
    "x86-64-v2": ("sse4.1", "ssse3", "popcnt"),
}
HAS_FMA = {"host": True, "x86-64-v3": True, "x86-64-v2": False}

# units in the last place from the correctly rounded result: (f32, f64)
LIMITS = {
    **dict.fromkeys(("asin", "acos", "asinh", "acosh", "atanh"), (1, 3)),
    **dict.fromkeys(("sin", "cos"), (2, 1)),
    "tan": (3, 1),
    "gelu": (4, 5),
    "pow": (1, 1),
    **dict.fromkeys(("floor", "ceil", "trunc", "round"), (0, 0)),
    **dict.fromkeys(("fmod", "mod", "copysign", "maximum", "minimum"), (0, 0)),
    "sqrt": (0, 1),  # 1: the reference rounds twice
}
DEFAULT_LIMIT = (2, 2)


class Loops:
    """The functions of vecmath, each compiled as a loop over arrays."""

    def __init__(self, dtype: np.dtype, lanes: int | None, cpu: str = "host"):
        self.dtype, self.lanes = dtype, lanes
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        host = cpu == "host"
        machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name() if host else cpu,
            features=llvm.get_host_cpu_features().flatten() if host else "",
            opt=3,
        )
        module = llvm.parse_assembly(str(self._module(HAS_FMA[cpu])))
        module.verify()
        options = llvm.create_pipeline_tuning_options(speed_level=3)
        options.loop_vectorization = options.slp_vectorization = options.loop_unrolling = False
        builder = llvm.create_pass_builder(machine, options)
        builder.getModulePassManager().run(module, builder)
        self.engine = llvm.create_mcjit_compiler(module, machine)
        self.engine.finalize_object()

    def _module(self, has_fma: bool) -> llir.Module:
        module = llir.Module()
        module.triple = llvm.get_default_triple()
        element = ELEMENT[self.dtype]
        step = element if self.lanes is None else llir.VectorType(element, self.lanes)
        align = self.dtype.itemsize
        for arity, names in vecmath.NAMES.items():
            for name in names:
                ty = llir.FunctionType(llir.VoidType(), [I64, PTR, *[PTR] * arity])
                fn = llir.Function(module, ty, f"loop_{name}")
                count, out, *inputs = fn.args
                before, inside, after = (fn.append_basic_block() for _ in range(3))
                b = llir.IRBuilder(before)
                b.branch(inside)
                b.position_at_end(inside)
                i = b.phi(I64)
                at = [b.gep(p, [i], source_etype=element) for p in (out, *inputs)]
                xs = [b.load(p, typ=step, align=align) for p in at[1:]]
                b.store(vecmath.emit(name, b, *xs, has_fma=has_fma), at[0], align=align)
                i_next = b.add(i, I64(self.lanes or 1))
                i.add_incoming(I64(0), before)
                i.add_incoming(i_next, inside)
                b.cbranch(b.icmp_signed("<", i_next, count), inside, after)
                b.position_at_end(after)
                b.ret_void()
        return module

    def __call__(self, name: str, *xs: np.ndarray) -> np.ndarray:
        width = self.lanes or 1
        padded = [np.resize(x, -(-x.size // width) * width) for x in xs]
        assert all(x.dtype == self.dtype for x in padded)
        out = np.empty_like(padded[0])
        address = self.engine.get_function_address(f"loop_{name}")
        signature = ctypes.CFUNCTYPE(None, ctypes.c_int64, *[ctypes.c_void_p] * (1 + len(xs)))
        signature(address)(out.size, out.ctypes.data, *[x.ctypes.data for x in padded])
        return out[: xs[0].size]


@functools.cache
def loops(dtype: np.dtype, lanes: int | None, cpu: str = "host") -> Loops:
    if TARGET_FEATURES[cpu]:
        if platform.machine().lower() not in ("x86_64", "amd64"):
            pytest.skip(f"{cpu} needs an x86-64 processor")
        features = llvm.get_host_cpu_features()
        if not all(features.get(f, False) for f in TARGET_FEATURES[cpu]):
            pytest.skip(f"this processor is below {cpu}")
    return Loops(dtype, lanes, cpu)


def specials(dtype: np.dtype) -> np.ndarray:
    info = np.finfo(dtype)
    positive = [0, 0.5, 1, 1.5, 2, 2.5, 3, 4, 7.25, 88, 1e6, info.max, info.tiny, info.eps]
    positive += [info.smallest_subnormal, math.pi / 2, 2.0**info.nmant, math.inf]
    return np.array([*positive, *[-p for p in positive], math.nan], dtype)


@functools.cache
def sweep(dtype: np.dtype, count: int) -> np.ndarray:
    """All exponents and signs by bit pattern, the common range more densely, special values."""
    step = (256**dtype.itemsize - 1) // (count - 1)
    patterns = np.arange(count, dtype=np.uint64) * np.uint64(step)
    by_exponent = patterns.astype(f"u{dtype.itemsize}").view(dtype)
    rng = np.random.default_rng(1)
    near = [rng.uniform(-bound, bound, count // 8) for bound in (1, 6, 100, 750)]
    near.append(1 + rng.uniform(-1e-3, 1e-3, count // 8))
    return np.concatenate([by_exponent, *[x.astype(dtype) for x in near], specials(dtype)])


def erf_series(x: np.ndarray) -> np.ndarray:
    """erf(x) = 2 / sqrt(pi) * exp(-x**2) * sum of 2**n * x**(2 * n + 1) / (2 * n + 1)!!."""
    c = np.clip(x, -7, 7)
    term, total = c.copy(), c.copy()
    for n in range(1, 200):
        term = term * (2 * c * c / (2 * n + 1))
        total = total + term
    scale = 2 / np.sqrt(np.arccos(x.dtype.type(-1)))
    return np.where(np.abs(x) > 7, np.sign(x), scale * np.exp(-c * c) * total)


def reference(name: str, *xs: np.ndarray) -> np.ndarray:
    """The function in the dtype of the arguments."""
    x = xs[0]
    match name:
        case "erf" if x.dtype == F64:
            return np.array([math.erf(v) for v in x])
        case "erf":
            return erf_series(x)
        case "gelu":
            tail = 1 + reference("erf", x * np.sqrt(x.dtype.type(0.5)))
            return x / 2 * np.maximum(tail, 0)
        case "sigmoid":
            return 1 / (1 + np.exp(-x))
        case "softplus":
            return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))
        case "rsqrt":
            return 1 / np.sqrt(x)
        case "round":
            return np.rint(x)
    numpy_names = {"pow": "power", "atan2": "arctan2"}
    if name[0] == "a":
        numpy_names.setdefault(name, "arc" + name[1:])
    return getattr(np, numpy_names.get(name, name))(*xs)


def ordered(x: np.ndarray) -> np.ndarray:
    """Integers in the order of the floats, neighbours one apart."""
    i = x.view(INTEGER[x.dtype])
    return np.where(i < 0, np.iinfo(i.dtype).min - i, i)


def check(name: str, got: np.ndarray, exact: np.ndarray, xs: tuple[np.ndarray, ...]) -> None:
    dtype = got.dtype
    want = exact.astype(dtype)
    nan = np.isnan(want)
    distance = np.abs(ordered(got).astype(np.longdouble) - ordered(want).astype(np.longdouble))
    limit = LIMITS.get(name, DEFAULT_LIMIT)[dtype == F64]
    if name == "gelu":  # where the result is small, of x / 16
        error = np.abs(got - exact) / np.spacing(np.abs(xs[0]) / 16)
        distance = np.fmin(distance, error)
    wrong = np.where(nan, ~np.isnan(got), ~(distance <= limit))
    if name not in ("maximum", "minimum"):
        wrong |= ~nan & (np.signbit(got) != np.signbit(want))
    if wrong.any():
        i = int(np.flatnonzero(wrong)[np.argmax(distance[wrong])])
        arguments = ", ".join(repr(x[i]) for x in xs)
        pytest.fail(f"{name}({arguments}) = {got[i]!r}, want {want[i]!r}; {wrong.sum()} such cases")


def need_wide(dtype: np.dtype) -> None:
    if np.finfo(WIDE[dtype]).nmant < np.finfo(dtype).nmant + 8:
        pytest.skip("long double is no wider than double here")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("cpu", TARGET_FEATURES)
@pytest.mark.parametrize("name", vecmath.NAMES[1])
@BOTH
def test_unary_accuracy(name, dtype, cpu):
    need_wide(dtype)
    x = sweep(dtype, 200_000 if dtype == F32 else 8_000)
    if name == "erf" and dtype == F32:
        x = x[::2]
    check(name, loops(dtype, 16, cpu)(name, x), reference(name, x.astype(WIDE[dtype])), (x,))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("cpu", TARGET_FEATURES)
@pytest.mark.parametrize("name", vecmath.NAMES[2])
@BOTH
def test_binary_accuracy(name, dtype, cpu):
    need_wide(dtype)
    rng = np.random.default_rng(2)
    values = sweep(dtype, 8_000)
    grid = [g.ravel() for g in np.meshgrid(specials(dtype), specials(dtype))]
    base, exponent = rng.uniform(0, 30, 4_000), rng.uniform(-25, 25, 4_000)
    x = np.concatenate([values, grid[0], base, np.rint(exponent), exponent]).astype(dtype)
    shuffled = rng.permutation(values)
    y = np.concatenate([shuffled, grid[1], exponent, np.rint(base), -base]).astype(dtype)
    wide = dtype if name in ("mod", "fmod") else WIDE[dtype]  # exact in their own type
    exact = reference(name, x.astype(wide), y.astype(wide))
    check(name, loops(dtype, 16, cpu)(name, x, y), exact, (x, y))


@pytest.mark.parametrize("name", ["sin", "cos", "tan"])
def test_arguments_near_multiples_of_half_pi(name):
    multiples = (np.arange(1, 20_001) * (math.pi / 2)).astype(F32)
    hardest = np.float32(16367173) * np.float32(2.0**72)  # 1.6e-9 from a multiple of pi / 2
    x = np.concatenate([multiples, -multiples, [hardest]]).astype(F32)
    check(name, loops(F32, 16)(name, x), reference(name, x.astype(F64)), (x,))


@BOTH
def test_fma_rounds_once_where_the_target_has_it(dtype):
    eps = dtype.type(np.finfo(dtype).eps)
    x = np.array([1 + eps, 1 - eps, 3], dtype)
    y = np.array([1 - eps, 1 + eps, 5], dtype)
    z = np.array([-1, -1, 2], dtype)
    np.testing.assert_array_equal(
        loops(dtype, 16)("fma", x, y, z), np.array([-eps * eps, -eps * eps, 17], dtype)
    )
    np.testing.assert_array_equal(loops(dtype, 16, "x86-64-v2")("fma", x, y, z), x * y + z)


@pytest.mark.parametrize("lanes", [None, 4, 8])
@BOTH
def test_every_width_gives_the_same_bits(dtype, lanes):
    x = sweep(dtype, 4_000)
    shuffled = [np.random.default_rng(seed).permutation(x) for seed in (3, 4)]
    for arity, names in vecmath.NAMES.items():
        for name in names:
            arguments = (x, *shuffled)[:arity]
            narrow, vector = (loops(dtype, n)(name, *arguments) for n in (lanes, 16))
            np.testing.assert_array_equal(narrow, vector, name)
            number = ~np.isnan(vector)  # the sign of a NaN is open
            np.testing.assert_array_equal(np.signbit(narrow[number]), np.signbit(vector[number]))


@BOTH
@pytest.mark.parametrize("name", ALL)
def test_code_is_straight_line(name, dtype):
    ty = llir.VectorType(ELEMENT[dtype], 8)
    arity = next(n for n, names in vecmath.NAMES.items() if name in names)
    fn = llir.Function(llir.Module(), llir.FunctionType(ty, [ty] * arity), "f")
    b = llir.IRBuilder(fn.append_basic_block())
    value = vecmath.emit(name, b, *fn.args)
    assert value.type == ty
    assert len(fn.blocks) == 1
    assert not any(word in str(fn).split() for word in ("fast", "afn", "arcp", "reassoc", "nnan"))


def test_repeated_use_in_a_module_declares_once():
    ty = llir.VectorType(llir.FloatType(), 8)
    module = llir.Module()
    fn = llir.Function(module, llir.FunctionType(ty, [ty, ty]), "f")
    b = llir.IRBuilder(fn.append_basic_block())
    x = vecmath.emit("mod", b, vecmath.emit("exp", b, fn.args[0]), fn.args[1])
    b.ret(vecmath.emit("mod", b, vecmath.emit("exp", b, x), fn.args[1]))
    llvm.parse_assembly(str(module)).verify()
    assert str(module).count('@"fmodf"(float') == str(module).count('call float @"fmodf"') + 1


def test_wrong_use_is_refused():
    f, d = llir.FloatType(), llir.DoubleType()
    fn = llir.Function(
        llir.Module(), llir.FunctionType(f, [f, d, llir.IntType(32), llir.HalfType()]), "f"
    )
    b = llir.IRBuilder(fn.append_basic_block())
    x, wide, integer, half = fn.args
    with pytest.raises(ValueError, match="'gamma' of 1"):
        vecmath.emit("gamma", b, x)
    with pytest.raises(ValueError, match="'pow' of 1"):
        vecmath.emit("pow", b, x)
    with pytest.raises(TypeError, match="got float, double"):
        vecmath.emit("pow", b, x, wide)
    with pytest.raises(TypeError, match="got i32"):
        vecmath.emit("exp", b, integer)
    with pytest.raises(TypeError, match="got half"):
        vecmath.emit("exp", b, half)
