"""The shape of the project: which way imports go, what an import loads, that examples run."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "ir": ("pjit.ir",),
    "passes": ("pjit.ir", "pjit.passes"),
    "backends": ("pjit.ir", "pjit.backends"),
}
FILES = [p for folder in (*MAY_IMPORT, "pjit") for p in sorted((ROOT / folder).rglob("*.py"))]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, a.name) for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            assert node.module
            yield from ((node.lineno, f"{node.module}.{a.name}") for a in node.names)


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_go_one_way(folder):
    allowed = tuple(f"{a}." for a in MAY_IMPORT[folder])
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in FILES
        if path.relative_to(ROOT).parts[0] == folder
        for line, name in imports(path)
        if name.split(".")[0] == "pjit" and not f"{name}.".startswith(allowed)
    ]
    assert not wrong


def test_nobody_imports_the_folders_by_themselves():
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in FILES
        for line, name in imports(path)
        if name.split(".")[0] in MAY_IMPORT
    ]
    assert not wrong
    assert "ir" not in sys.modules


def test_only_the_registry_names_a_back_end():
    names = [p.name for p in (ROOT / "backends").iterdir() if p.is_dir()]
    backends = tuple(f"pjit.backends.{n}" for n in names)
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in FILES
        if path.relative_to(ROOT).parts[0] != "backends"
        for line, name in imports(path)
        if name.startswith(backends)
    ]
    assert not wrong


def run(*arguments: str) -> str:
    """The output of a Python process in a folder of its own."""
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=250,
        env={**os.environ, "PJIT_NUM_THREADS": "2"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_cheap():
    loaded = run("-c", "import pjit.array_api, sys; print(*sys.modules)").split()
    assert not {"llvmlite", "onnx", "numba", "pjit.ir"} & set(loaded)


def test_a_checkout_can_be_used_in_place():
    code = "import pjit.ir, sys; print(pjit.ir.__file__, 'ir' in sys.modules)"
    where, double = run("-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}").split()
    assert Path(where) == ROOT / "ir" / "__init__.py"
    assert double == "False"


def test_digits_example():
    out = run(str(ROOT / "examples" / "digits" / "classify.py"))
    accuracy = next(float(w.rstrip("%")) for w in out.replace(" %", "%").split() if "%" in w)
    assert accuracy > 97


def test_tutorial_example():
    out = run(str(ROOT / "examples" / "tutorial_core.py"))
    assert out.count("equal to NumPy's result") == 3
    assert "fmul <8 x float>" in out


def test_dynamic_example():
    out = run(str(ROOT / "examples" / "dynamic.py"))
    plain, compiled, loops = out.splitlines()
    assert plain.rpartition(",")[0] == compiled.rpartition(",")[0]
    assert int(loops.rpartition(" ")[2]) > 0


def test_mlp_example():
    out = run(str(ROOT / "examples" / "mlp.py"))
    assert "graph @main" in out
    assert "k" in out
