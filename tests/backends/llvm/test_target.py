"""The constants of the machines that code is made for."""

from __future__ import annotations

import pytest

from pjit.backends.llvm import target


@pytest.mark.parametrize(
    ("cpu", "rate"), [("emeraldrapids", 10.0), ("icelake-server", 10.0), ("znver5", 20.0)]
)
def test_a_mesh_is_slower_than_a_ring_of_few_cores(
    monkeypatch: pytest.MonkeyPatch, cpu: str, rate: float
) -> None:
    features = frozenset(("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl"))
    monkeypatch.setattr(target, "_host_features", lambda: features)
    monkeypatch.setattr(target.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(target.llvm, "get_host_cpu_name", lambda: cpu)
    host = target.machine("host")
    assert host.vector_bits == 512
    assert host.memory_bytes_per_cycle == rate
    assert host.weights_bytes_per_cycle < rate


@pytest.mark.parametrize(("cpu", "fmas"), [("znver4", 1), ("znver5", 2), ("emeraldrapids", 2)])
def test_vectors_of_512_bits_may_take_two_cycles(
    monkeypatch: pytest.MonkeyPatch, cpu: str, fmas: int
) -> None:
    monkeypatch.setattr(target, "_host_level", lambda features: "x86-64-v4")
    monkeypatch.setattr(target.llvm, "get_host_cpu_name", lambda: cpu)
    assert target.machine("host").vector_fmas == fmas
    assert target.machine("x86-64-v4").vector_fmas == 2
    monkeypatch.setattr(target, "_host_level", lambda features: "x86-64-v3")
    level = target.machine("x86-64-v3")
    assert target.machine("host").l2_bytes_per_cycle == level.l2_bytes_per_cycle
    assert target.machine("host").vector_fmas == level.vector_fmas == 2
