"""Compare the backend of torch.compile with Inductor and eager: ``bench_torch.py [WORKLOAD ...]``.

All run in one process, with the same number of threads. Each round runs every one for a block of
calls; the fastest round counts. Nothing is asserted. Quote the ratios; absolute times move with the
machine. Compile times are those of the first call, with an empty compile cache.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from itertools import pairwise
from time import perf_counter

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

BACKENDS = ("eager", "inductor", "pjit")
BLOCK_SECONDS = 0.05


class Residual(nn.Module):
    """The basic block of ResNet."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(),
            nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out),
        )  # fmt: skip
        self.side = (
            nn.Identity()
            if stride == 1 and channels == out
            else nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        )

    def forward(self, x):
        return torch.relu(self.body(x) + self.side(x))


def resnet18() -> nn.Module:
    """ResNet-18 (He et al., 2016)."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
    ]  # fmt: skip
    channels = 64
    for out in (64, 128, 256, 512):
        layers += [Residual(channels, out, 1 if out == 64 else 2), Residual(out, out, 1)]
        channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))


class Inverted(nn.Module):
    """The block of MobileNetV2."""

    def __init__(self, channels: int, out: int, stride: int, factor: int) -> None:
        super().__init__()
        wide = channels * factor
        grow = [nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()]
        self.same = stride == 1 and channels == out
        self.body = nn.Sequential(
            *(grow if factor > 1 else []),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide),
            nn.ReLU6(), nn.Conv2d(wide, out, 1, bias=False), nn.BatchNorm2d(out),
        )  # fmt: skip

    def forward(self, x):
        return x + self.body(x) if self.same else self.body(x)


def mobilenet_v2() -> nn.Module:
    """MobileNetV2 (Sandler et al., 2018)."""
    rows = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
            (6, 160, 3, 2), (6, 320, 1, 1)]  # fmt: skip
    layers: list[nn.Module] = [
        nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6()
    ]  # fmt: skip
    channels = 32
    for factor, out, count, stride in rows:
        for i in range(count):
            layers.append(Inverted(channels, out, stride if i == 0 else 1, factor))
            channels = out
    layers += [nn.Conv2d(320, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000))


class Block(nn.Module):
    """A transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.heads = heads

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(y.transpose(1, 2).reshape(b, n, c))
        return x + self.feed(self.norm2(x))


def mlp(*sizes: int) -> nn.Module:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


WORKLOADS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp 64-64-10, 32 rows": (lambda: mlp(64, 64, 10), (32, 64)),
    "mlp 784-512-512-10, 64 rows": (lambda: mlp(784, 512, 512, 10), (64, 784)),
    "resnet18": (resnet18, (1, 3, 224, 224)),
    "mobilenet_v2": (mobilenet_v2, (1, 3, 224, 224)),
    "transformer 256x8, 64 tokens": (lambda: Block(256, 8), (1, 64, 256)),
    "transformer 768x12, 128 tokens": (lambda: Block(768, 12), (1, 128, 768)),
}


def usable(name: str) -> str:
    """Why a backend cannot run; empty when it can."""
    if name == "inductor" and not any(shutil.which(c) for c in ("g++", "clang++", "c++")):
        return "it needs a C++ compiler"
    if name == "pjit" and find_spec("pjit") is None:
        return "pjit is not installed"
    return ""


def prepared(model: nn.Module, backend: str, x: torch.Tensor) -> tuple[Callable, float]:
    """What to call, and the seconds of its first call."""
    run = model if backend == "eager" else torch.compile(model, backend=backend)
    began = perf_counter()
    run(x)
    return run, perf_counter() - began


def block(run: Callable, x: torch.Tensor, calls: int) -> float:
    """Seconds of one call, in a block of them."""
    began = perf_counter()
    for _ in range(calls):
        run(x)
    return (perf_counter() - began) / calls


def measure(name: str, backends: list[str], rounds: int) -> tuple[dict, dict, float]:
    """Least seconds of a call, seconds to compile, and the largest error of pjit."""
    make, shape = WORKLOADS[name]
    torch.manual_seed(0)
    torch._dynamo.reset()
    model, x = make().eval(), torch.randn(shape)
    for m in model.modules():
        if isinstance(m, nn.Conv2d):  # so that values neither vanish nor grow
            nn.init.kaiming_normal_(m.weight)
    runs, compiles = {}, {}
    for b in backends:
        runs[b], compiles[b] = prepared(model if b == "eager" else make_like(model, make), b, x)
    wanted = runs["eager"](x)
    error = max(float((r(x) - wanted).abs().max() / wanted.abs().max()) for r in runs.values())
    calls = {b: max(1, int(BLOCK_SECONDS / block(r, x, 2))) for b, r in runs.items()}
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for b, run in runs.items():
            best[b] = min(best[b], block(run, x, calls[b]))
    return best, compiles, error


def make_like(model: nn.Module, make: Callable[[], nn.Module]) -> nn.Module:
    """Another module with the same weights, so that each backend has its own."""
    other = make().eval()
    other.load_state_dict(model.state_dict())
    return other


def main(argv: list[str] | None = None) -> int:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("workload", nargs="*", help=f"parts of names of {list(WORKLOADS)}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--backends", default=",".join(BACKENDS))
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    os.environ["PJIT_NUM_THREADS"] = str(options.threads)
    backends = ["eager"]
    for b in options.backends.split(","):
        if why := usable(b):
            print(f"{b} is left out: {why}", file=sys.stderr)
        elif b not in backends:
            backends.append(b)
    table = Table(title=f"torch {torch.__version__}, {options.threads} threads, ms of a call")
    for column in ("workload", *backends, *(f"{b}/pjit" for b in backends if b != "pjit")):
        table.add_column(column, justify="left" if column == "workload" else "right")
    for b in backends[1:]:
        table.add_column(f"compile {b} s", justify="right")
    table.add_column("error", justify="right")
    chosen = [n for n in WORKLOADS if not options.workload or any(w in n for w in options.workload)]
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        os.environ["PJIT_CACHE_DIR"] = os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        for name in chosen:
            best, compiles, error = measure(name, backends, options.rounds)
            ratios = [best[b] / best["pjit"] for b in backends if b != "pjit" and "pjit" in best]
            table.add_row(
                name, *(f"{best[b] * 1e3:.3f}" for b in backends), *(f"{r:.2f}" for r in ratios),
                *(f"{compiles[b]:.1f}" for b in backends[1:]), f"{error:.0e}",
            )  # fmt: skip
            torch._dynamo.reset()
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
