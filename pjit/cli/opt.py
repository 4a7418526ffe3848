"""``pjit-opt FILE.pir -p PASSES``: runs passes over IR text and prints the result."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pjit.errors import PjitError
from pjit.ir.text import parse_module, print_module


def main(argv: list[str] | None = None) -> int:
    """The command; returns 0 done, 1 the input or a pass is wrong, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="pjit-opt", description=__doc__)
    parser.add_argument("file", help="IR text, or - for standard input")
    parser.add_argument("-p", "--passes", default="", help="such as 'canonicalize,cse,fuse'")
    parser.add_argument("--threads", type=int, default=1, help="threads to schedule for")
    parser.add_argument("--no-locations", action="store_true", help="leave locations out")
    options = parser.parse_args(argv)
    try:
        text = sys.stdin.read() if options.file == "-" else Path(options.file).read_text()
        module = parse_module(text)
        if options.passes:
            from pjit.compiler import machine_of
            from pjit.config import settings
            from pjit.passes.context import Context
            from pjit.passes.manager import run_pipeline

            machine = machine_of("cpu", settings(threads=options.threads))
            run_pipeline(module, options.passes, Context(machine=machine, verify=True))
        print(print_module(module, locations=not options.no_locations), end="")
    except (OSError, UnicodeDecodeError, PjitError) as error:
        print(f"pjit-opt: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
