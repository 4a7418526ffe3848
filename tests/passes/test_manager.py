"""The manager: order, records, dumps, options in text, and errors that name the pass."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from graphs import graph
from rewriting import find, names

from pjit.ir import PassError, interpret, ops, parse_module, tensor, verify
from pjit.ir.types import f32, f64
from pjit.passes.canonicalize import Canonicalize
from pjit.passes.context import Context, Pass
from pjit.passes.cse import Cse
from pjit.passes.dce import Dce
from pjit.passes.decompose import Decompose
from pjit.passes.manager import parse_pipeline, run_pipeline
from pjit.passes.pipelines import GRAPH, PASSES
from pjit.passes.snapshot import clone, structure

X = tensor(f32, 2, 3)


@dataclass(frozen=True)
class Breaks(Pass):
    """Gives a result another type."""

    name: ClassVar[str] = "breaks"

    def run(self, module, context):
        find(module, "exp")[0].result.type = tensor(f64, 7)
        return True


@dataclass(frozen=True)
class Raises(Pass):
    name: ClassVar[str] = "raises"
    words: str = "no idea"

    def run(self, module, context):
        raise ValueError(self.words)


@dataclass(frozen=True)
class Lies(Pass):
    name: ClassVar[str] = "lies"
    answer: bool = True

    def run(self, module, context):
        if not self.answer:
            find(module, "exp")[0].attrs["note"] = 1
        return self.answer


@dataclass(frozen=True)
class Options(Pass):
    name: ClassVar[str] = "options"
    depth: int = 3
    deep: bool = False
    rate: float = 0.5
    skip: tuple[str, ...] = ()

    def run(self, module, context):
        return False


def module():
    def build(b, x):
        y = b(ops.Softmax, b(ops.Neg, b(ops.Neg, x)), axis=1)
        b(ops.Abs, x)
        return b(ops.Exp, y)

    return graph(build, [X])


def test_records():
    m, lines = module(), []
    records = run_pipeline(
        m, [Canonicalize(), Decompose(), Cse(), Dce()], Context(log=lines.append), keep=True
    )
    assert [r.name for r in records] == ["canonicalize", "decompose", "cse", "dce"]
    assert [r.changed for r in records] == [True, True, False, False]
    assert (records[0].ops_before, records[0].ops_after) == (6, 3)
    assert all(r.seconds >= 0 for r in records)
    assert "softmax" in records[0].text
    assert "softmax" not in records[1].text
    assert len(lines) == 4
    assert lines[0].startswith("canonicalize: 6 -> 3 operations")
    assert records[0].text != run_pipeline(module(), [Cse()], Context())[0].text is None


def test_stop_after():
    m = module()
    assert len(run_pipeline(m, GRAPH, Context(), stop_after=2)) == 2
    assert "softmax" in names(m)


def test_pipeline_as_text():
    m = module()
    run_pipeline(m, "canonicalize, decompose{skip=softmax+reduce.mean}", Context(verify=True))
    assert names(m) == ["softmax", "exp"]


def test_text_round_trip():
    registry = {**PASSES, "options": Options}
    text = "cse,options{depth=8,deep=true,rate=0.25,skip=a+b},options"
    passes = parse_pipeline(text, registry)
    assert passes == [Cse(), Options(8, True, 0.25, ("a", "b")), Options()]
    assert str(passes[1]) == "options{depth=8,deep=True,rate=0.25,skip=a+b}"
    assert parse_pipeline(",".join(map(str, passes)), registry) == passes
    assert parse_pipeline("", registry) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("csf", "no pass is called 'csf'"),
        ("cse{n=1}", "cse has no option 'n'"),
        ("options{depth=x}", "'depth' of options has another type"),
        ("options{deep=1}", "'deep' of options has another type"),
        ("cse,{", "malformed"),
        ("cse dce", "malformed"),
    ],
)
def test_malformed_pipeline(text, words):
    with pytest.raises(PassError, match=words):
        parse_pipeline(text, {**PASSES, "options": Options})


def test_dumps_only_changes(tmp_path):
    run_pipeline(module(), [Canonicalize(), Cse(), Decompose()], Context(dump=tmp_path / "ir"))
    dumped = sorted(p.name for p in (tmp_path / "ir").iterdir())
    assert dumped == ["01-canonicalize.pir", "03-decompose.pir"]
    again = parse_module((tmp_path / "ir" / "03-decompose.pir").read_text())
    verify(again)
    x = np.array([[1, 2, 3], [-1, 0, 1]], np.float32)
    np.testing.assert_allclose(interpret(again, x)[0], interpret(module(), x)[0], rtol=1e-6)


def failure(passes, tmp_path, **options) -> tuple[PassError, str]:
    with pytest.raises(PassError) as caught:
        run_pipeline(module(), passes, Context(dump=tmp_path, **options))
    message = str(caught.value)
    path = message.split("pjit-opt ")[1].split(" -p ")[0]
    return caught.value, Path(path).read_text()


def test_broken_ir_names_the_pass_and_the_operation(tmp_path):
    error, before = failure([Canonicalize(), Breaks()], tmp_path, verify=True)
    assert "the pass 'breaks' failed: exp:" in str(error)
    assert "where: test.py:1" in str(error)
    assert "-p 'breaks'" in str(error)
    assert any("exp" in note for note in error.__notes__)
    assert "neg" not in before
    assert "softmax" in before


def test_exception_of_a_pass(tmp_path):
    error, before = failure([Raises("too odd")], tmp_path)
    assert "the pass 'raises' failed: ValueError: too odd" in str(error)
    assert "-p 'raises{words=too odd}'" in str(error)
    assert isinstance(error.__cause__, ValueError)
    assert before.count("neg") == 2


@pytest.mark.parametrize("answer", [True, False])
def test_wrong_about_its_changes(tmp_path, answer):
    with pytest.raises(PassError):
        run_pipeline(module(), [Lies(answer)], Context(dump=tmp_path, verify=True))


def test_level(tmp_path):
    m = module()
    m.main.level = "kernel"
    with pytest.raises(PassError, match="wrong level before"):
        run_pipeline(m, [Cse()], Context(dump=tmp_path))


def test_clone_is_equal_and_independent():
    m = module()
    copy = clone(m)
    assert structure(copy) == structure(m)
    Canonicalize().run(copy, Context())
    assert structure(copy) != structure(m)
    assert names(m) == ["neg", "neg", "softmax", "abs", "exp"]
    verify(m)
    verify(copy)


def test_passes_by_name():
    for name, cls in PASSES.items():
        assert cls.name == name
        assert str(cls()) == name
