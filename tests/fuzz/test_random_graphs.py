"""Random graphs: text, passes and compiled programs keep what they mean.

Each run draws other graphs; a failure prints its graph and a line that repeats it. ``PJIT_FUZZ``
sets how many graphs a test draws, e.g. ``PJIT_FUZZ=2000 pytest tests/fuzz -n 2``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from native import NativeProgram, same_bits
from random_graphs import THEMES, Case, cases

from pjit.backends.llvm.target import machine, runs_here
from pjit.ir import expr
from pjit.ir.core import Module
from pjit.ir.interp import interpret
from pjit.ir.ops import Launch
from pjit.ir.text import parse_module, print_module
from pjit.ir.verify import verify
from pjit.passes.context import Context
from pjit.passes.pipelines import GRAPH, KERNEL
from pjit.passes.snapshot import clone, structure

EXAMPLES = int(os.environ.get("PJIT_FUZZ", "80"))
INTERPRETED = 4000  # element operations that the interpreter of kernels is fast enough for
profile = settings(
    max_examples=EXAMPLES,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
    phases=[p for p in Phase if p is not Phase.explain],
)
themes = pytest.mark.parametrize("theme", list(THEMES))


def of_theme(test: Callable[[Case], None], theme: str, share: float = 1.0) -> None:
    """Runs a property on graphs of a theme."""
    chosen = settings(profile, max_examples=max(1, round(EXAMPLES * share)))
    chosen(given(cases(theme))(test))()


def check_results(
    got: Sequence[np.ndarray], want: Sequence[np.ndarray], errors: Sequence[float], what: str
) -> None:
    """Fails unless results have the right types and lie within their error bounds."""
    assert len(got) == len(want), f"{what}: the number of results"
    for i, (x, y, error) in enumerate(zip(got, want, errors, strict=True)):
        x, y = np.asarray(x), np.asarray(y)
        assert (x.dtype, x.shape) == (y.dtype, y.shape), f"{what}: the type of result {i}"
        if y.dtype.kind in "iub":
            assert np.array_equal(x, y), f"{what}: result {i}\ngot {x}\nexpected {y}"
            continue
        a, b = x.astype(np.float64), y.astype(np.float64)
        assert np.array_equal(np.isnan(a), np.isnan(b)), (
            f"{what}: NaN in result {i}\ngot {x}\nexpected {y}"
        )
        with np.errstate(invalid="ignore"):
            gap = np.where((a == b) | np.isnan(a), 0.0, np.abs(a - b))
        worst = float(gap.max(initial=0.0))
        assert worst <= 2 * error, (
            f"{what}: result {i} is off by {worst}, allowed is {2 * error}\ngot {x}\nexpected {y}"
        )


def check_text(module: Module, what: str) -> None:
    """Fails unless the text of a module parses to the same module."""
    text = print_module(module)
    again = parse_module(text, constants=module.constants)
    assert print_module(again) == text, f"{what}: the text changes"
    assert structure(again)[0] == structure(module)[0], f"{what}: the text loses something"


def element_operations(module: Module, sizes: dict[str, int]) -> int:
    """The work of the kernels of a program."""
    launches = [o for o in module.main.body.ops if isinstance(o, Launch)]
    return sum(int(expr.substitute(o.flops, sizes)) for o in launches)


def compile_checked(case: Case, context: Context) -> Module:
    """Runs all passes on a copy, verifying after each."""
    module = clone(case.module)
    for step in [*GRAPH, *KERNEL]:
        step.run(module, context)
        verify(module)
    return module


@themes
def test_text_is_the_same_module(theme):
    def test(case: Case) -> None:
        verify(case.module)
        check_text(case.module, "graph")

    of_theme(test, theme)


def check_passes(case: Case) -> None:
    """Runs all passes; after each the module is valid, has a text and computes the same."""
    calls = [(s, case.arrays(s)) for s in case.sizes]
    want = [interpret(case.module, *arrays) for _, arrays in calls]
    module, context = clone(case.module), Context()
    for at, step in enumerate([*GRAPH, *KERNEL]):
        what = f"after pass {at + 1}, {step}"
        before = clone(module)
        try:
            if not step.run(module, context):
                assert structure(module) == structure(before), "it changed the module, unsaid"
                continue
            verify(module)
            check_text(module, what)
            for (sizes, arrays), expected in zip(calls, want, strict=True):
                if element_operations(module, sizes) <= INTERPRETED:
                    got = interpret(module, *arrays)
                    check_results(got, expected, case.errors, f"{what}, sizes {sizes}")
        except Exception as e:
            e.add_note(f"{what} of this module:\n{print_module(before)}")
            raise


@themes
def test_each_pass_keeps_the_results(theme):
    of_theme(check_passes, theme)


def natively(case: Case, target: str) -> None:
    """Compiles for a target; compares with the interpreter for each size, on 1 and 2 threads."""
    host = machine(target, threads=2)
    program = NativeProgram(compile_checked(case, Context(machine=host)), host)
    try:
        for sizes in case.sizes:
            arrays = case.arrays(sizes)
            got = program(*arrays)
            check_results(got, interpret(case.module, *arrays), case.errors, f"{target}, {sizes}")
            assert same_bits(got, program(*arrays)), f"{target}: a second run differs"
            assert same_bits(got, program(*arrays, threads=2)), f"{target}: two threads differ"
    finally:
        program.code.close()


@themes
def test_compiled_equals_interpreted(theme):
    of_theme(lambda case: natively(case, "host"), theme)


@themes
@pytest.mark.parametrize("target", ["x86-64-v3", "x86-64-v2"])
def test_other_instruction_sets(theme, target):
    if not runs_here(machine(target)):
        pytest.skip(f"this machine cannot run {target}")
    of_theme(lambda case: natively(case, target), theme, share=0.2)
