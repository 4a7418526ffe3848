"""Progress of work that takes longer than a second, on standard error."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

PATIENCE = 1.0  # seconds before anything is shown


@contextmanager
def progress(what: str) -> Iterator[None]:
    """Shows what is being done, if it takes longer than a second: a spinner, or a line in a log."""
    console = Console(stderr=True)
    status = console.status(what)
    show = status.start if console.is_terminal else lambda: console.print(f"{what} ...")
    timer = threading.Timer(PATIENCE, show)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        status.stop()
