"""Compare pjit with other runtimes: ``python tests/perf/bench.py MODEL.onnx ...``.

All runtimes live in one process, with the same number of threads and the same prepared inputs.
Each round runs every runtime for a block of calls; the fastest round counts. Nothing is asserted:
the harness prints, a person judges. Quote the ratios; absolute times move with the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

# Both force OpenBLAS's kernels to another processor's, for all that NumPy multiplies in this
# process; OpenBLAS reads them when NumPy is imported, so they go first.
for _variable in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(_variable, None)

import machine  # noqa: E402
import memory  # noqa: E402
from measure import Result, geometric_mean, measure  # noqa: E402
from peers import PEERS, RUNTIMES, Pjit, version  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from workloads import Workload, WorkloadError, find_model, prepare  # noqa: E402

MIB = 2**20
FILE_WIDTH = 160  # columns, where the output is no terminal


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])

    def numbers(text: str) -> list[int]:
        values = [int(part) for part in text.split(",")]
        if min(values) < 1:
            raise ValueError
        return values

    def names(text: str) -> list[str]:
        chosen = [part for part in text.split(",") if part]
        unknown = set(chosen) - set(PEERS)
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}; known: {PEERS}")
        return chosen

    def size(text: str) -> tuple[str, int]:
        name, _, value = text.rpartition("=")
        return name, int(value)

    add = parser.add_argument
    add("model", nargs="*", help="a path, or a name below --models or --nets; none: all of both")
    add("--nets", type=Path, help="folder of NAME.onnx; inputs are random")
    add("--models", type=Path, help="folder of NAME/model.onnx with NAME/cases.npz")
    add("--threads", type=numbers, default=[1], help="thread counts, e.g. 1,2 (default 1)")
    add("--rounds", type=int, default=10, help="rounds; the fastest counts (default 10)")
    add("--peers", type=names, default=PEERS, help=f"default {','.join(PEERS)}; '' for none")
    add("--batch", type=numbers, help="batch sizes, e.g. 1,8 (default: as recorded, or 1)")
    add("--dim", type=size, action="append", default=[], metavar="NAME=SIZE", help="symbolic size")
    add("--memory", action="store_true", help="peak memory too, one process per runtime")
    add("--json", type=Path, help="write all figures to this file")
    arguments = parser.parse_args(argv)
    if not (arguments.model or arguments.nets or arguments.models):
        parser.error("name a model, or a folder with --nets or --models")
    if arguments.rounds < 1:
        parser.error("--rounds must be 1 or more")
    return arguments


def chosen_paths(arguments: argparse.Namespace) -> list[Path]:
    """The model files to measure.

    Raises:
        WorkloadError: A name means no file.
    """
    if arguments.model:
        return [find_model(name, arguments.nets, arguments.models) for name in arguments.model]
    paths: list[Path] = []
    if arguments.nets:
        paths += sorted(arguments.nets.glob("*.onnx"))
    if arguments.models:
        paths += sorted(arguments.models.glob("*/model.onnx"))
    return paths


def milliseconds(seconds: float | None) -> str:
    """A time in ms with three significant digits."""
    return "-" if seconds is None else f"{seconds * 1e3:#.3g}".rstrip(".")


def number(value: float | None, form: str) -> str:
    """A formatted number, or a dash."""
    return "-" if value is None else format(value, form)


def mebibytes(value: int | None) -> str:
    """A number of bytes in MiB, or a dash."""
    return number(None if value is None else value / MIB, ".0f")


def time_table(results: list[Result], names: list[str], threads: int) -> Table:
    """Times, ratios and rates of all models at one thread count, with the geometric mean."""
    table = Table(title=f"{threads} thread(s)")
    table.add_column("model")
    for name in names:
        table.add_column(f"{name} ms", justify="right")
    for heading in ("pjit / best", "difference", "GFLOP", "GFLOP/s", "of limit"):
        table.add_column(heading, justify="right")
    for result in results:
        timings = result.runtimes
        ours = timings.get(Pjit.name)
        table.add_row(
            result.model,
            *("failed" if timings[n].error else milliseconds(timings[n].seconds) for n in names),
            number(result.ratio, ".2f"),
            number(ours.difference if ours else None, ".0e"),
            number(None if result.flops is None else result.flops / 1e9, ".3g"),
            number(result.gflops, ".0f"),
            number(result.share_of_limit, ".0%"),
        )
    # Times are averaged over the models that every runtime ran, so that they compare.
    complete = [r for r in results if all(r.runtimes[n].seconds is not None for n in names)]
    means = [geometric_mean([r.runtimes[n].seconds or 0.0 for r in complete]) for n in names]
    ratio = geometric_mean([r.ratio for r in results if r.ratio is not None])
    table.add_section()
    label = f"geometric mean ({len(complete)} models)"
    table.add_row(label, *map(milliseconds, means), number(ratio, ".2f"), *[""] * 4)
    return table


def cost_table(results: list[Result], names: list[str], threads: int) -> Table:
    """Time from the file to the first result, and peak memory where it was measured."""
    with_memory = any(t.peak_bytes for r in results for t in r.runtimes.values())
    title = f"{threads} thread(s): seconds to the first result"
    table = Table(title=title + (", peak memory in MiB" if with_memory else ""))
    table.add_column("model")
    ours = [name for name in names if name == Pjit.name]
    for name in ours:
        for heading in (f"{name} cold s", f"{name} cached s"):
            table.add_column(heading, justify="right")
    peers = [name for name in names if name != Pjit.name]
    for name in peers:
        table.add_column(f"{name} s", justify="right")
    if with_memory:
        headings = [f"{name}{state} MiB" for name in ours for state in (" cold", " cached")]
        for heading in headings + [f"{name} MiB" for name in peers]:
            table.add_column(heading, justify="right")
    for result in results:
        timings = result.runtimes
        cells = [result.model]
        for name in ours:
            cells += [
                number(timings[name].load_s, ".2f"),
                number(timings[name].cached_load_s, ".2f"),
            ]
        cells += [number(timings[name].load_s, ".2f") for name in peers]
        if with_memory:
            for name in ours:
                cells += [mebibytes(timings[name].peak_bytes)]
                cells += [mebibytes(timings[name].cached_peak_bytes)]
            cells += [mebibytes(timings[name].peak_bytes) for name in peers]
        table.add_row(*cells)
    return table


def print_notes(console: Console, results: list[Result]) -> None:
    """Every failure, once per model, thread count and runtime."""
    for result in results:
        for name, timing in result.runtimes.items():
            if timing.error:
                line = " ".join(timing.error.split())
                where = f"{result.model}, {result.threads} thread(s)"
                text = f"{where}: {name}: {line}"
                console.print(text, markup=False, highlight=False, soft_wrap=True)


def add_memory(result: Result, workload: Workload, scratch: Path) -> None:
    """Fill in the peak memory of every runtime that ran the workload."""
    for name, timing in result.runtimes.items():
        if timing.error is None:
            try:
                cold, cached = memory.measure(name, workload, result.threads, scratch)
            except memory.MeasurementError as error:
                timing.error = f"memory: {error}"
            else:
                timing.imports_bytes = cold["imports_bytes"]
                timing.peak_bytes = cold["peak_bytes"]
                timing.cached_peak_bytes = cached["peak_bytes"]


def main(argv: list[str] | None = None) -> int:
    """Measure and print; 2 for a wrong command line, 0 otherwise."""
    arguments = parse_arguments(argv)
    console = Console()
    if not console.is_terminal:
        console = Console(width=FILE_WIDTH)
    versions = {name: version(name) for name in [Pjit.name, *arguments.peers]}
    names = [name for name, found in versions.items() if found is not None]
    for name, found in versions.items():
        about = f"{found}: {RUNTIMES[name].settings}" if found else "not installed, left out"
        console.print(f"{name} {about}", markup=False, highlight=False)
    about_machine = machine.describe()
    console.print(about_machine, highlight=False)
    if max(arguments.threads) > about_machine["cores"]:
        console.print("More threads than cores: the times below say little.")

    dims = dict(arguments.dim)
    workloads: list[Workload] = []
    try:
        paths = chosen_paths(arguments)
    except WorkloadError as error:
        console.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        return 2
    for path in paths:
        for batch in arguments.batch or [None]:
            try:
                workloads.append(prepare(path, batch, dims))
            except WorkloadError as error:
                console.print(f"skipped: {error}", markup=False, highlight=False, soft_wrap=True)
    if not workloads:
        console.print("error: nothing to measure")
        return 2

    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="pjit-bench-") as scratch:
        for threads in arguments.threads:
            at_count: list[Result] = []
            for workload in workloads:
                with console.status(f"{workload.name}, {threads} thread(s)"):
                    result = measure(workload, names, threads, arguments.rounds, Path(scratch))
                    if arguments.memory:
                        add_memory(result, workload, Path(scratch))
                at_count.append(result)
            console.print(time_table(at_count, names, threads))
            console.print(cost_table(at_count, names, threads))
            limit = max(result.fma_limit_gflops for result in at_count)
            console.print(f"FMA limit of {threads} thread(s), this run: {limit:.0f} GFLOP/s")
            results += at_count
    print_notes(console, results)

    if arguments.json:
        document = {
            "machine": about_machine,
            "versions": versions,
            "rounds": arguments.rounds,
            "results": [result.to_json() for result in results],
        }
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
