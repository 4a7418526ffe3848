"""``pjit-convert``: converts a network file to a ``.pjit`` file, checks and times the result."""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.table import Table

from pjit.cli.progress import progress
from pjit.errors import FormatError, PjitError

TOLERANCE = 1e-3  # of --check: max|a - b| / max|reference|
DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        print(f"pjit-convert: {message}", file=sys.stderr)
        raise SystemExit(USAGE)


def _parser() -> argparse.ArgumentParser:
    p = _Parser(prog="pjit-convert", description="Converts a network to a .pjit file.")
    p.add_argument("model", type=Path, help="an ONNX file")
    p.add_argument("-o", "--output", type=Path, help="the .pjit file to write")
    p.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="NAME:DTYPE[SHAPE]",
        help="the type of an input, such as x:f32[1,3,224,224]; names stand for free sizes",
    )
    p.add_argument("--target", default="cpu", choices=["cpu"], help="what to compile for")
    p.add_argument("--aot", action="store_true", help="put machine code for this CPU in the file")
    p.add_argument("--check", action="store_true", help="compare with a reference on random inputs")
    p.add_argument("--tolerance", type=float, default=TOLERANCE, help="of --check, relative")
    p.add_argument("--bench", action="store_true", help="time the converted model")
    p.add_argument("--report", action="store_true", help="time each kernel")
    p.add_argument("--threads", type=int, help="threads of --check, --bench and --report")
    p.add_argument("--dump-ir", type=Path, metavar="DIR", help="write the IR after each pass")
    return p


def main(argv: list[str] | None = None) -> int:
    """The command; returns 0 done, 1 the model cannot be converted, 2 wrong usage."""
    parser = _parser()
    options = parser.parse_args(argv)
    runs = options.check or options.bench or options.report
    if options.output is None and not (runs or options.dump_ir):
        parser.error("nothing to do: give -o OUT.pjit, --check, --bench, --report or --dump-ir")
    if options.output is not None and options.output.suffix != ".pjit":
        parser.error(f"the output is a .pjit file, not {str(options.output)!r}")
    inputs = {}
    for text in options.input:
        name, colon, type_text = text.rpartition(":")
        if not colon or not name:
            parser.error(f"--input is NAME:DTYPE[SHAPE], not {text!r}")
        inputs[name] = type_text
    try:
        return _Conversion(options, inputs).run()
    except (PjitError, OSError) as e:
        print(f"pjit-convert: {e}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("pjit-convert: interrupted", file=sys.stderr)
        return INTERRUPTED


class _Conversion:
    def __init__(self, options: argparse.Namespace, inputs: dict[str, str]) -> None:
        self.options, self.inputs = options, inputs
        self.console = Console(highlight=False, markup=False)

    def run(self) -> int:
        from pjit.frontends.onnx import import_onnx
        from pjit.sources import kind_of

        options = self.options
        if kind_of(options.model) != "onnx":
            raise FormatError(
                "the model is converted already",
                where=str(options.model),
                expected="an ONNX file",
                remedy="give the file that it was converted from",
            )
        with progress(f"reading {options.model}"):
            self.module = import_onnx(options.model, self.inputs)
        if options.output is not None or options.aot or options.dump_ir is not None:
            self._write()
        status = DONE
        if options.check or options.bench or options.report:
            self._load()
        if options.check:
            status = self._check()
        if options.bench:
            self._bench()
        if options.report:
            self._report()
        return status

    def _write(self) -> None:
        from pjit.compiler import build, machine_of
        from pjit.config import settings
        from pjit.passes.snapshot import clone
        from pjit.runtime import artifact

        options, binary = self.options, None
        chosen = settings(threads=options.threads, dump=options.dump_ir)
        machine = machine_of(options.target, chosen)
        if options.aot or options.dump_ir is not None:
            with progress("compiling"):
                again = partial(clone, self.module)
                binary = build(again(), options.target, machine, chosen, again)
        if options.dump_ir is not None:
            self.console.print(f"IR of each pass in {options.dump_ir}")
        if options.output is None:
            return
        attrs = self.module.main.attrs
        known = ("format", "opset", "producer")
        notes: dict[str, object] = {k: attrs[k] for k in known if k in attrs}
        with progress(f"writing {options.output}"):
            artifact.write(
                options.output,
                self.module,
                notes={**notes, "source": options.model.name},
                binary=binary if options.aot else None,
                target=options.target,
                machine=machine,
            )
        size = os.path.getsize(options.output) / 1e6
        cpu = "this CPU" if machine.name == "host" else machine.name
        code = f", with machine code for {cpu}" if options.aot else ""
        self.console.print(f"{options.output}: {size:.1f} MB{code}")

    def _load(self) -> None:
        import pjit

        options = self.options
        with progress("compiling"):
            if options.output is not None:
                self.model = pjit.load(options.output, threads=options.threads)
            else:
                self.model = pjit.load(options.model, inputs=self.inputs, threads=options.threads)
        self._summary()

    def _summary(self) -> None:
        report = self.model.report()
        host = [s for s in report.steps if s.kind == "host"]
        table = Table(show_header=False, box=None)
        table.add_row("inputs", ", ".join(map(str, self.model.inputs)))
        table.add_row("outputs", ", ".join(map(str, self.model.outputs)))
        table.add_row("steps", f"{len(report.steps)}, of which {len(host)} on the host")
        for s in host:
            table.add_row("", f"{s.kernel} ({s.where}): {s.reason}")
        self.console.print(table)

    def _check(self) -> int:
        from pjit.cli.check import check

        with progress("checking"):
            result = check(self.model, self.options.model, self.module)
        for name, error in result.errors.items():
            verdict = "ok" if error <= self.options.tolerance else "DIFFERS"
            self.console.print(f"check {name}: {verdict}, relative error {error:.1e}")
        self.console.print(f"against {result.reference}, tolerance {self.options.tolerance:.0e}")
        return DONE if result.worst <= self.options.tolerance else FAILED

    def _bench(self) -> None:
        from pjit.cli.check import bench

        threads = self.model.report().threads
        with progress("timing"):
            t = bench(self.model, self.options.model, self.module, threads)
        line = f"bench, {threads} threads: {t.least * 1e3:.3f} ms (median {t.median * 1e3:.3f} ms)"
        self.console.print(f"{line}, a call returns after {t.returned * 1e6:.0f} us")
        if t.other is not None:
            ratio = t.least / t.other
            self.console.print(f"ONNX Runtime: {t.other * 1e3:.3f} ms, ratio {ratio:.2f}")

    def _report(self) -> None:
        from pjit.cli.check import random_inputs

        inputs = random_inputs(self.module).values()
        with progress("timing kernels"):
            report = self.model.report(*inputs)
        print(report)


if __name__ == "__main__":
    sys.exit(main())
