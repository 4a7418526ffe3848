"""Why NumPy functions, ufuncs and attributes of arrays are not traced, for messages and the docs.

A name that is neither here nor implemented is merely missing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reason:
    """A reason, which completes "np.f is not traced: ", and what to do instead."""

    why: str
    remedy: str


OUTSIDE = "call it outside of the compiled function"
DATA = Reason(
    "the shape of its result depends on data",
    "keep the shape with np.where(condition, a, b); sum over a selection with "
    "np.sum(x, where=mask)",
)
FAILS = Reason(
    "whether it raises an error depends on data",
    "fill the NaNs with np.where(np.isnan(x), value, x) and call the function without nan",
)
VALUE = Reason("its result in Python depends on data", OUTSIDE)
MATRICES = Reason("pjit has no solvers and decompositions of matrices", OUTSIDE)
COMPLEX = Reason("pjit has no complex numbers", "keep real and imaginary parts as two arrays")
BITS = Reason("pjit has no operator on the bits of floats", OUTSIDE)
LOOPS = Reason("how long its loop runs depends on data", OUTSIDE)
DATES = Reason("pjit has no dates", "convert them to integers outside of the compiled function")
FILES = Reason("it writes a file, which a compiled function cannot", OUTSIDE)
MEMORY = Reason(
    "a traced array has no memory", "use the array's values with NumPy functions, or copy()"
)
SLICES = Reason(
    "it calls Python for every slice", "write the function for the whole array, with its axis"
)
TRANSFORMS = Reason("pjit has no complex numbers", "multiply with matrices of cosines and sines")

_NAMES = {
    DATA: """np.nonzero np.flatnonzero np.argwhere np.unique np.unique_all np.unique_counts
        np.unique_inverse np.unique_values np.compress np.extract np.trim_zeros np.union1d
        np.intersect1d np.setdiff1d np.setxor1d np.bincount np.polymul np.polydiv np.roots
        ndarray.compress""",
    FAILS: "np.nanargmax np.nanargmin",
    VALUE: "np.min_scalar_type",
    MATRICES: """np.linalg.cholesky np.linalg.cond np.linalg.det np.linalg.eigh np.linalg.eigvalsh
        np.linalg.inv np.linalg.lstsq np.linalg.matrix_rank np.linalg.pinv np.linalg.qr
        np.linalg.slogdet np.linalg.solve np.linalg.svd np.linalg.svdvals np.linalg.tensorinv
        np.linalg.tensorsolve np.poly np.polyfit""",
    COMPLEX: """np.linalg.eig np.linalg.eigvals np.sort_complex np.lib.scimath.arccos
        np.lib.scimath.arcsin np.lib.scimath.arctanh np.lib.scimath.log np.lib.scimath.log10
        np.lib.scimath.log2 np.lib.scimath.logn np.lib.scimath.power np.lib.scimath.sqrt""",
    TRANSFORMS: """np.fft.fft np.fft.fft2 np.fft.fftn np.fft.hfft np.fft.ifft np.fft.ifft2
        np.fft.ifftn np.fft.ihfft np.fft.irfft np.fft.irfft2 np.fft.irfftn np.fft.rfft np.fft.rfft2
        np.fft.rfftn""",
    BITS: "np.frexp np.ldexp ndarray.byteswap ndarray.getfield ndarray.setfield ndarray.view",
    LOOPS: "np.gcd np.lcm",
    DATES: "np.busday_count np.busday_offset np.is_busday np.datetime_as_string np.isnat",
    FILES: "np.save np.savetxt np.savez np.savez_compressed ndarray.tofile ndarray.dump",
    MEMORY: """array_api.from_dlpack np.may_share_memory np.shares_memory ndarray.ctypes
        ndarray.data ndarray.flags
        ndarray.flat ndarray.resize ndarray.setflags ndarray.strides ndarray.dumps""",
    SLICES: "np.apply_along_axis",
}
# Functions of ``pjit.array_api`` that cannot be compiled.
ARRAY_API = {
    **dict.fromkeys(
        ("nonzero", "unique_all", "unique_counts", "unique_inverse", "unique_values"), DATA
    ),
    **dict.fromkeys(("real", "imag"), COMPLEX),
    "from_dlpack": MEMORY,
}
REFUSED = {name: reason for reason, names in _NAMES.items() for name in names.split()}
