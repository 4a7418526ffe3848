"""The machines that the LLVM back end compiles for: the host and the named targets."""

from __future__ import annotations

import functools
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

from pjit.backends.llvm import optimize
from pjit.backends.llvm.resident import release
from pjit.ir.errors import PjitError
from pjit.ir.target import Machine


@dataclass(frozen=True)
class LlvmMachine(Machine):
    """A machine with what LLVM needs to know of it.

    Attributes:
        triple: The target triple.
        cpu: The processor, by LLVM's name.
        features: LLVM's feature string.
        f16c: Whether converting between f16 and f32 is an instruction.
    """

    triple: str = ""
    cpu: str = ""
    features: str = ""
    f16c: bool = True

    @property
    def llvm(self) -> tuple[str, str, str]:
        """What LLVM is told of it."""
        return self.triple, self.cpu, self.features

    @property
    def key(self) -> str:
        """Names the code that is generated for the machine, for caches."""
        return f"{self.triple}/{self.cpu}/{self.features}"


_LEVELS: dict[str, dict[str, Any]] = {
    "x86-64-v4": {
        "vector_bits": 512,
        "vector_registers": 32,
        "fma": True,
        "masked": True,
        "flops_per_cycle": 64,
    },
    "x86-64-v3": {
        "vector_bits": 256,
        "vector_registers": 16,
        "fma": True,
        "masked": False,
        "flops_per_cycle": 32,
        "l1_bytes_per_cycle": 64.0,
        "l2_bytes_per_cycle": 20.0,
        "memory_bytes_per_cycle": 10.0,
        "weights_bytes_per_cycle": 7.0,
    },
    "x86-64-v2": {
        "vector_bits": 128,
        "vector_registers": 16,
        "fma": False,
        "masked": False,
        "flops_per_cycle": 8,
        "l1_bytes_per_cycle": 32.0,
        "l2_bytes_per_cycle": 16.0,
        "memory_bytes_per_cycle": 8.0,
        "weights_bytes_per_cycle": 6.0,
        "f16c": False,
    },
    "aarch64": {
        "vector_bits": 128,
        "vector_registers": 32,
        "fma": True,
        "masked": False,
        "flops_per_cycle": 16,
        "l1_bytes_per_cycle": 32.0,
        "l2_bytes_per_cycle": 16.0,
        "memory_bytes_per_cycle": 8.0,
        "weights_bytes_per_cycle": 6.0,
    },
}
# Processors that differ from the others with AVX-512, by LLVM's names. Intel's servers: cores reach
# the last cache and the memory over a mesh; as measured on Emerald Rapids, 25 to 28 GB/s from the
# last cache, 19 from memory, at 2.7 GHz. Zen 4: units of 256 bits take two cycles for 512.
_MESH = (
    *("skylake-avx512", "cascadelake", "cooperlake", "icelake-server"),
    *("sapphirerapids", "emeraldrapids", "graniterapids", "graniterapids-d"),
)
_PROCESSORS: dict[str, dict[str, Any]] = {
    **{cpu: {"memory_bytes_per_cycle": 10.0, "weights_bytes_per_cycle": 7.0} for cpu in _MESH},
    "znver4": {
        "flops_per_cycle": 32,
        "l1_bytes_per_cycle": 64.0,
        "l2_bytes_per_cycle": 22.0,
        "memory_bytes_per_cycle": 12.0,
        "weights_bytes_per_cycle": 9.0,
    },
}
_V4 = ("avx512f", "avx512bw", "avx512dq", "avx512vl")
TARGETS = ("host", *_LEVELS)


@functools.cache
def initialize(triple: str) -> None:
    """Makes the target of a triple available, once."""
    optimize.initialize(triple)
    release()


def machine(name: str = "host", threads: int = 1) -> LlvmMachine:
    """The machine of a target's name, one of ``TARGETS``.

    Args:
        name: The target; all but ``host`` are instruction sets, with the host's cache sizes.
        threads: Threads that run a program.

    Raises:
        PjitError: No target has the name.
    """
    if name == "host":
        return host_machine(threads)
    if name not in _LEVELS:
        raise PjitError("no such target", got=name, expected=", ".join(TARGETS))
    is_arm = name == "aarch64"
    same_arch = platform.machine() in (("aarch64", "arm64") if is_arm else ("x86_64", "AMD64"))
    foreign = "aarch64-unknown-linux-gnu" if is_arm else "x86_64-unknown-linux-gnu"
    return LlvmMachine(
        name=name,
        threads=threads,
        triple=llvm.get_default_triple() if same_arch else foreign,
        cpu="generic" if is_arm else name,
        **_cache_sizes(),
        **_LEVELS[name],
    )


def host_machine(threads: int = 1) -> LlvmMachine:
    """The machine that this process runs on."""
    features, cpu = _host_features(), llvm.get_host_cpu_name()
    level = _host_level(features)
    return LlvmMachine(
        name="host",
        threads=threads,
        triple=llvm.get_default_triple(),
        cpu=cpu,
        features=_host_feature_string(),
        **_cache_sizes(),
        **{
            **_LEVELS[level],
            **(_PROCESSORS.get(cpu, {}) if level == "x86-64-v4" else {}),
            "f16c": _host_converts_f16(features),
        },
    )


def runs_here(target: Machine) -> bool:
    """Whether this process can run code made for a machine."""
    if target.name == "host":
        return True
    features = _host_features()
    level = _host_level(features)
    if target.name == "aarch64" or level == "aarch64":
        return target.name == level
    order = ("x86-64-v2", "x86-64-v3", "x86-64-v4")
    return order.index(target.name) <= order.index(level)


@functools.cache
def _host_features() -> frozenset[str]:
    found = frozenset(k for k, on in llvm.get_host_cpu_features().items() if on)
    release()  # what the loader touched of LLVM, before a model is read
    return found


@functools.cache
def _host_feature_string() -> str:
    return llvm.get_host_cpu_features().flatten()


def _host_level(features: frozenset[str]) -> str:
    if platform.machine() in ("aarch64", "arm64"):
        return "aarch64"
    if all(f in features for f in _V4):
        return "x86-64-v4"
    return "x86-64-v3" if {"avx2", "fma", "f16c"} <= features else "x86-64-v2"


def _host_converts_f16(features: frozenset[str]) -> bool:
    return platform.machine() in ("aarch64", "arm64") or "f16c" in features


@functools.cache
def _cache_sizes() -> dict[str, Any]:
    """Bytes of the data caches of one core, where the system tells (Linux)."""
    sizes: dict[str, int] = {}
    for entry in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            kind, level, text = ((entry / f).read_text().strip() for f in ("type", "level", "size"))
        except OSError:
            continue
        if kind != "Instruction" and level in ("1", "2", "3"):
            unit = {"K": 10, "M": 20}.get(text[-1:], 0)
            sizes[f"l{level}"] = int(text.rstrip("KM")) << unit
    return sizes


def target_machine(target: LlvmMachine) -> llvm.TargetMachine:
    """LLVM's description of a machine, for code that can be loaded at any address."""
    initialize(target.triple)
    return optimize.target_machine(*target.llvm)


def function_attributes(target: Machine) -> tuple[str, ...]:
    """Attributes that make LLVM keep vectors of the machine's full width."""
    if target.vector_bits < 512:
        return ()
    return ('"prefer-vector-width"="512"', '"min-legal-vector-width"="512"')
