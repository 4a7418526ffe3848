"""What a schedule needs to know of a machine: data only, made by the back end."""

from __future__ import annotations

import sys
from dataclasses import dataclass

LINE = 64  # bytes of a line of the caches


@dataclass(frozen=True)
class Machine:
    """Constants of one target.

    Attributes:
        name: For reports and cache keys, e.g. ``x86-64-v4``.
        vector_bits: Width of a vector register in bits.
        vector_registers: How many there are.
        fma: Whether a fused multiply-add is one instruction.
        simd: Whether one thread runs all lanes of a vector loop; else each is a thread of its own.
        masked: Whether masked vector loads and stores are one instruction.
        direct: Whether products and convolutions are made as they are defined, also where methods
            of fewer multiplications are faster.
        threads: Threads that run a program.
        l1, l2: Data cache of one core, bytes.
        l3: The last cache, which cores share, bytes.
        scratch: Bytes of scratch memory that a kernel may use for blocking.
        flops_per_cycle: Peak f32 FLOP a cycle of one core.
        frequency: Cycles a second.
        l1_bytes_per_cycle, l2_bytes_per_cycle, memory_bytes_per_cycle: What one core reads in a
            cycle from L1, from L2, and from beyond.
        weights_bytes_per_cycle: What one core reads in a cycle of what no cache holds, as weights.
        barrier: Seconds that a barrier between the threads costs.
    """

    name: str
    vector_bits: int = 512
    vector_registers: int = 32
    fma: bool = True
    simd: bool = True
    masked: bool = True
    direct: bool = False
    threads: int = 1
    l1: int = 32 << 10
    l2: int = 1 << 20
    l3: int = 32 << 20
    scratch: int = 1 << 20
    flops_per_cycle: int = 64
    frequency: float = 3.7e9
    l1_bytes_per_cycle: float = 128.0
    l2_bytes_per_cycle: float = 40.0
    memory_bytes_per_cycle: float = 20.0
    weights_bytes_per_cycle: float = 11.0
    barrier: float = 0.3e-6

    def lanes(self, bits: int) -> int:
        """Elements of a width in one vector register, at least 1."""
        return max(1, self.vector_bits // bits)

    def filled(self, columns: int, bits: int) -> int:
        """Elements of the widest vectors that so many elements of a width fill."""
        lanes = self.lanes(bits)
        while columns % lanes:
            lanes //= 2
        return lanes

    def fmas(self, lanes: int, bits: int) -> float:
        """Multiply-adds of vectors of so many elements that a core does in a cycle: two of narrow
        ones where it takes wide ones in parts.
        """
        whole = self.vector_fmas
        if not self.fma:  # a multiplication and an addition
            return whole
        return max(whole, min(2.0, whole * self.lanes(bits) / lanes))

    @property
    def vector_fmas(self) -> float:
        """Fused multiply-adds of whole f32 vectors that a core does in a cycle."""
        return self.flops_per_cycle / (2 * self.lanes(32))

    @property
    def peak(self) -> float:
        """Peak f32 FLOP a second of one core."""
        return self.flops_per_cycle * self.frequency


@dataclass(frozen=True)
class Limits:
    """What some threads of a machine can do together at most.

    Attributes:
        threads: How many.
        flops: f32 operations a second, a fused multiply-add counting as two.
        bandwidth: Bytes a second that they read, over and over, from so many bytes together:
            (bytes, rate) pairs, from few bytes to many.
    """

    threads: int
    flops: float
    bandwidth: tuple[tuple[int, float], ...]

    @staticmethod
    def of(machine: Machine, threads: int) -> Limits:
        """What the constants of a machine say."""
        rates = (
            (machine.l1, machine.l1_bytes_per_cycle),
            (machine.l2, machine.l2_bytes_per_cycle),
            (sys.maxsize, machine.memory_bytes_per_cycle),
        )
        levels = tuple((n * threads, r * machine.frequency * threads) for n, r in rates)
        return Limits(threads, machine.peak * threads, levels)

    def compute_seconds(self, flops: int, bits: int = 32) -> float:
        """The time of arithmetic on elements of a width; narrow ones count as f32."""
        return flops / self.flops * max(bits, 32) / 32

    def memory_seconds(self, nbytes: int, kept: int | None = None) -> float:
        """The time to read bytes that lie among ``kept`` bytes, by default themselves alone, that
        are read again and again.
        """
        kept = nbytes if kept is None else kept
        rate = next((r for n, r in self.bandwidth if kept <= n), self.bandwidth[-1][1])
        return nbytes / rate
