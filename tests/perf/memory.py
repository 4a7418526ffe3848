"""The peak memory of one runtime with one model, measured in a process of its own.

``python memory.py RUNTIME MODEL.onnx THREADS FEED.npz`` prints the peak resident set in bytes, as
JSON: after the imports, and after loading the model and ``RUNS`` runs. The resident set includes
the pages of libraries and mapped files that the process has touched.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from peers import RUNTIMES, Pjit

if TYPE_CHECKING:
    from workloads import Workload

RUNS = 3
TIMEOUT_S = 600


class MeasurementError(Exception):
    """The measuring process failed."""


def measure(runtime: str, workload: Workload, threads: int, scratch: Path) -> list[dict[str, int]]:
    """Run the measuring process: ``imports_bytes`` and ``peak_bytes``, with empty caches, and again
    with what the first left in them.

    The inputs and the caches go to a new folder below ``scratch``.

    Raises:
        MeasurementError: It failed; the message is the last line that it printed.
    """
    folder = Path(tempfile.mkdtemp(dir=scratch))
    feed = folder / "feed.npz"
    np.savez(feed, **workload.feed)  # type: ignore[arg-type]  # inputs may have any name
    arguments = [runtime, str(workload.path), str(threads), str(feed)]
    return [_measured(arguments, folder) for _ in range(2)]


def _measured(arguments: list[str], cache: Path) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), *arguments],
        env={**os.environ, "PJIT_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise MeasurementError(
            (done.stderr.strip() or f"status {done.returncode}").splitlines()[-1]
        )
    return json.loads(done.stdout.splitlines()[-1])


def _peak_bytes() -> int:
    """The peak resident set of this process.

    Linux carries the parent's ru_maxrss over to the program that a child executes; VmHWM belongs
    to the program alone.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _main() -> None:
    runtime, path, threads, feed_path = sys.argv[1:]
    with np.load(feed_path) as stored:
        feed = dict(stored)
    __import__(runtime)
    before = _peak_bytes()
    model = RUNTIMES[runtime](Path(path), int(threads))
    for _ in range(RUNS):
        model.run(feed)
    print(json.dumps({"imports_bytes": before, "peak_bytes": _peak_bytes()}), flush=True)
    if runtime == Pjit.name:
        from pjit.runtime import cache

        cache.flush()
    os._exit(0)  # nothing that a runtime does at exit may spoil the figure


if __name__ == "__main__":
    _main()
