"""docs/ir.md: its tables are those of the operators, and its examples run."""

from __future__ import annotations

import contextlib
import io
import re

import numpy as np
import pytest

from pjit.ir import PjitError, docs, parse_module, print_module, verify
from pjit.ir.opdef import operators


def blocks(language: str) -> list[str]:
    pattern = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    found = pattern.findall(docs.PAGE.read_text())
    return [text for name, text in found if name == language]


def test_the_tables_are_up_to_date():
    assert docs.main(["--check"]) == 0, "run `python -m pjit.ir.docs`"


def test_every_operator_is_listed():
    page = docs.PAGE.read_text()
    for level in ("graph", "kernel"):
        missing = [c.op_name for c in operators(level) if f"| `{c.op_name}` |" not in page]
        assert not missing


def test_the_generator_replaces_what_is_between_the_markers(tmp_path):
    page = tmp_path / "ir.md"
    old = docs.PAGE.read_text()
    page.write_text(old.replace("| `relu` |", "| `rely` |"))
    assert docs.main([str(page), "--check"]) == 1
    assert docs.main([str(page)]) == 0
    assert page.read_text() == old
    with pytest.raises(PjitError, match="no table of operators"):
        docs.updated(old.replace("<!-- end: operators -->", ""))


def test_the_example_prints_what_the_page_says():
    out = io.StringIO()
    scope: dict = {}
    with contextlib.redirect_stdout(out):
        exec(blocks("python")[0], scope)
    assert out.getvalue().strip() == blocks("")[0].strip()
    np.testing.assert_array_equal(scope["y"], np.ones((2, 3), np.float32))


def test_the_texts_are_valid():
    texts = [t for t in blocks("") if t.startswith(("graph", "kernel"))]
    assert len(texts) == 3
    for text in texts:
        module = parse_module(text, {"fc.weight": np.ones((8, 5), np.float32)})
        verify(module)
        locations = "//" in text
        assert print_module(module, locations=locations).strip() == text.strip()
