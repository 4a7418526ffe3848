"""Runs the `.pir` files of this folder; README.md says how they are written."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from pjit.ir import Module, PjitError, dtype, expr, interpret, parse_module, print_module, verify
from pjit.ir.types import DType

HERE = Path(__file__).parent
RUN, SEPARATOR = "// run:", "// ----"
ERROR = re.compile(r"\s*// error: (.*)$")
TOLERANCE = {"f64": 1e-10, "f32": 1e-5, "f16": 1e-2, "bf16": 5e-2}


@dataclass(frozen=True)
class Case:
    """One case of a file: the lines before its IR (with ``// run:``), its IR, what is expected."""

    name: str
    start: int  # lines of the file before the IR
    head: tuple[str, ...]
    body: tuple[str, ...]
    expected: str | None

    @property
    def command(self) -> tuple[str, str]:
        """The kind of run and its argument."""
        kind, _, argument = self.head[-1].removeprefix(RUN).strip().partition(" ")
        return kind, argument.strip()

    @property
    def errors(self) -> dict[int, str]:
        """The words of the error that a line must raise, by line of the file."""
        found = {self.start + i + 1: ERROR.search(line) for i, line in enumerate(self.body)}
        return {line: match[1].strip() for line, match in found.items() if match}

    @property
    def text(self) -> str:
        """The IR, with lines numbered as in the file."""
        return "\n" * self.start + "\n".join(ERROR.sub("", line) for line in self.body) + "\n"

    @property
    def printed(self) -> str:
        """The text that must come out: what is expected, else the IR itself."""
        return self.expected if self.expected is not None else self.text.strip() + "\n"

    def lines(self) -> list[str]:
        """The lines of the file."""
        out = [*self.head, *self.body]
        if self.expected is not None:
            while not out[-1].strip():
                out.pop()
            out += ["", SEPARATOR, "", *self.expected.splitlines(), ""]
        return out


def split(name: str, source: str) -> list[Case]:
    """The cases of a file; the comment right before ``// run:`` belongs to its case."""
    lines = source.splitlines()
    runs = [i for i, line in enumerate(lines) if line.startswith(RUN)]
    assert runs, f"{name}: no line begins with `{RUN}`"
    starts = [0]
    for at in runs[1:]:
        while lines[at - 1].startswith("// ") and lines[at - 1] != SEPARATOR:
            at -= 1
        starts.append(at)
    cases = []
    for n, at in enumerate(runs, 1):
        head = tuple(lines[starts[n - 1] : at + 1])
        body, expected = lines[at + 1 : starts[n] if n < len(runs) else len(lines)], None
        if SEPARATOR in body:
            cut = body.index(SEPARATOR)
            expected = "\n".join(body[cut + 1 :]).strip() + "\n"
            body = body[:cut]
        label = name if len(runs) == 1 else f"{name}-{n}"
        cases.append(Case(label, at + 1, head, tuple(body), expected))
    return cases


def random_inputs(module: Module) -> tuple[dict[str, int], list[np.ndarray]]:
    """Sizes for the symbols, different ones, and arrays for the arguments of the main function."""
    rng = np.random.default_rng(0)
    types = [v.tensor for v in module.main.args]
    names = sorted({s for t in types for d in t.shape for s in expr.symbols(d)})
    sizes = dict(zip(names, (3, 5, 2, 7, 4, 6, 9, 8), strict=False))
    assert len(sizes) == len(names), f"more symbols than sizes: {names}"
    fixed = [t.substitute(sizes) for t in types]
    return sizes, [random_array(rng, t.dtype, t.static_shape) for t in fixed]


def random_array(rng: np.random.Generator, dt: DType, shape: tuple[int, ...]) -> np.ndarray:
    """Integers are 0 or 1, so that they are indices of any dimension of at least 2."""
    if dt.is_float:
        return rng.uniform(-3, 3, shape).astype(dt.numpy)
    return rng.integers(0, 2, shape).astype(dt.numpy)


def check_same_results(before: list[np.ndarray], after: list[np.ndarray]) -> None:
    assert len(before) == len(after), "the number of results changed"
    for i, (x, y) in enumerate(zip(before, after, strict=True)):
        note = f"the interpreter gives another result {i} after the passes"
        assert (x.dtype, x.shape) == (y.dtype, y.shape), note
        tolerance = TOLERANCE.get(str(dtype(x.dtype)), 0)
        scale = max(1.0, float(np.max(np.abs(x.astype(np.float64)), initial=0)))
        np.testing.assert_allclose(
            y.astype(np.float64),
            x.astype(np.float64),
            rtol=tolerance,
            atol=tolerance * scale,
            err_msg=note,
        )


def optimised(module: Module, pipeline: str) -> None:
    """Runs passes, and compares what the interpreter computes before and after."""
    from pjit.passes.context import Context
    from pjit.passes.manager import run_pipeline

    sizes, arrays = random_inputs(module)
    before = interpret(module, *arrays, symbols=sizes)
    run_pipeline(module, pipeline, Context(verify=True))
    check_same_results(list(before), list(interpret(module, *arrays, symbols=sizes)))


def outcome(case: Case, file: str) -> str | None:
    """What the case prints; None for runs that print nothing."""
    kind, argument = case.command
    module = parse_module(case.text, name=file)
    if kind == "parse":
        text = print_module(module, locations=False)
        again = print_module(parse_module(text), locations=False)
        assert again == text, "what is printed does not parse back to itself"
        return text
    verify(module)
    if kind == "opt":
        optimised(module, argument)
        return print_module(module, locations=False)
    assert kind == "verify", f"`{RUN} {kind}`: write parse, verify or opt"
    assert case.expected is None, "a verify case prints nothing"
    return None


def check_error(case: Case, file: str) -> None:
    assert len(case.errors) == 1, "a case stops at its first error: write one `// error:`"
    ((line, words),) = case.errors.items()
    with pytest.raises(PjitError) as caught:
        outcome(case, file)
    message = str(caught.value)
    assert words in message
    place = re.search(rf"{re.escape(file)}:(\d+)", message)
    assert place, f"the error names no line:\n{message}"
    assert int(place[1]) == line, message


def check(case: Case, file: str) -> str | None:
    """Runs a case; returns the text that came out if it is not the expected one."""
    if case.errors:
        check_error(case, file)
        return None
    text = outcome(case, file)
    return None if text is None or text == case.printed else text


def explain(case: Case, text: str) -> str:
    """The message of a case whose text is not the expected one."""
    lines = case.printed.splitlines(), text.splitlines()
    diff = "\n".join(difflib.unified_diff(*lines, "expected", "now", lineterm=""))
    one = f"pytest 'tests/filetests/{Path(__file__).name}::test_file[{case.name}]'"
    return f"{diff}\n\nthis test alone:    {one}\nto accept the text: {one} --bless"


def bless(path: Path, case: Case, text: str) -> None:
    """Writes the text into the file as what the case expects."""
    name = case.name if path.stem == Path(case.name).name else case.name.rpartition("-")[0]
    cases = split(name, path.read_text())
    lines = [
        line
        for c in cases
        for line in (replace(c, expected=text) if c.name == case.name else c).lines()
    ]
    path.write_text("\n".join(lines).rstrip() + "\n")


def collect() -> list:
    found = []
    for path in sorted(HERE.rglob("*.pir")):
        name = path.relative_to(HERE).with_suffix("").as_posix()
        found += [pytest.param(path, c, id=c.name) for c in split(name, path.read_text())]
    return found


@pytest.mark.parametrize(("path", "case"), collect())
def test_file(path: Path, case: Case, request: pytest.FixtureRequest):
    text = check(case, path.name)
    if text is None:
        return
    if request.config.getoption("--bless"):
        bless(path, case, text)
        return
    pytest.fail(explain(case, text), pytrace=False)


# The runner itself

GOOD = """\
// A page.
// run: parse
graph @f(%x: f32[2]) -> f32[2] {
  return %x
}
"""
BAD = """\
// run: verify
graph @f(%x: f32[2]) -> f32[2] {
  %y = neg %z : f32[2]  // error: %z is not defined
  return %y
}
"""


def test_runner_accepts_and_refuses():
    (case,) = split("good", GOOD)
    assert check(case, "good.pir") is None
    (other,) = split("other", GOOD.replace("%x", "%0").replace("%0: f32", "%y: f32", 1))
    with pytest.raises(PjitError, match=r"other.pir:4:"):
        check(other, "other.pir")
    (wide,) = split("wide", GOOD.replace("  return", "\n      return"))
    text = check(wide, "wide.pir")
    assert text is not None
    message = explain(wide, text)
    assert "-      return %x\n+  return %x" in message
    assert "pytest 'tests/filetests/test_filetests.py::test_file[wide]' --bless" in message


def test_runner_checks_the_line_and_the_words_of_an_error():
    (case,) = split("bad", BAD)
    assert check(case, "bad.pir") is None
    for wrong in (BAD.replace("not defined", "missing"), BAD.replace("%z :", "%x :")):
        (case,) = split("bad", wrong)
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            check(case, "bad.pir")
    moved = BAD.replace("  // error: %z is not defined", "").replace(
        "return %y", "return %y // error: %z is not defined"
    )
    (case,) = split("bad", moved)
    with pytest.raises(AssertionError):
        check(case, "bad.pir")


def test_runner_compares_results():
    x = np.ones(3, np.float32)
    check_same_results([x], [x + np.float32(1e-6)])
    for other in (
        x + np.float32(1e-3),
        x.astype(np.float64),
        x[:2],
        np.array([1, 1, np.nan], x.dtype),
    ):
        with pytest.raises(AssertionError):
            check_same_results([x], [other])


PASSES = """\
// run: opt dce
graph @f(%x: f32[N,2]) -> f32[N,2] {
  %0 = neg %x : f32[N,2]
  %1 = abs %x : f32[N,2]
  return %0
}

// ----

graph @f(%x: f32[N,2]) -> f32[N,2] {
  %0 = neg %x : f32[N,2]
  return %0
}
"""


def test_runner_runs_passes():
    (case,) = split("dce", PASSES)
    assert check(case, "dce.pir") is None
    (case,) = split("dce", PASSES.replace("opt dce", "opt "))
    assert check(case, "dce.pir") == case.text.strip() + "\n"


def test_bless_changes_only_its_case(tmp_path):
    path = tmp_path / "two.pir"
    source = GOOD + BAD + GOOD.replace("// A page.\n", "").replace("  return", "return")
    path.write_text(source)
    cases = split("two", source)
    assert [c.name for c in cases] == ["two-1", "two-2", "two-3"]
    text = check(cases[2], "two.pir")
    assert text is not None
    bless(path, cases[2], text)
    assert path.read_text() == source + "\n// ----\n\n" + text
    again = split("two", path.read_text())
    assert [check(c, "two.pir") for c in again] == [None] * 3
