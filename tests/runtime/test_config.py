from __future__ import annotations

from pathlib import Path

import pytest

from pjit.config import settings
from pjit.errors import SettingError


def test_defaults() -> None:
    s = settings(environ={})
    assert s.threads >= 1
    assert (s.dump, s.log, s.verify, s.cache_dir, s.exec_mode, s.isa, s.direct) == (
        None,
        frozenset(),
        False,
        None,
        "async",
        "host",
        False,
    )


def test_environment(tmp_path: Path) -> None:
    s = settings(
        environ={
            "PJIT_NUM_THREADS": "3",
            "PJIT_DUMP": str(tmp_path),
            "PJIT_LOG": "cache, recompiles",
            "PJIT_VERIFY": "1",
            "PJIT_CACHE_DIR": str(tmp_path / "new"),
            "PJIT_EXEC_MODE": "sync",
            "PJIT_ISA": "x86-64-v2",
            "PJIT_DIRECT": "1",
        }
    )
    assert s.direct
    assert s.isa == "x86-64-v2"
    assert (s.threads, s.dump, s.verify, s.sync) == (3, tmp_path, True, True)
    assert s.cache_dir == tmp_path / "new"
    assert s.logs("cache")
    assert not s.logs("passes")


def test_arguments_go_first() -> None:
    environ = {"PJIT_NUM_THREADS": "3", "PJIT_VERIFY": "1", "PJIT_EXEC_MODE": "sync"}
    s = settings(threads=1, verify=False, exec_mode="async", log="all", environ=environ)
    assert (s.threads, s.verify, s.sync) == (1, False, False)
    assert s.logs("passes")


@pytest.mark.parametrize(
    ("environ", "arguments", "parts"),
    [
        ({"PJIT_NUM_THREADS": "many"}, {}, ["PJIT_NUM_THREADS", "'many'"]),
        ({}, {"threads": 0}, ["threads", "0"]),
        ({}, {"threads": True}, ["threads", "True"]),
        ({"PJIT_VERIFY": "maybe"}, {}, ["PJIT_VERIFY", "1 or 0", "'maybe'"]),
        ({"PJIT_DIRECT": "maybe"}, {}, ["PJIT_DIRECT", "1 or 0", "'maybe'"]),
        ({"PJIT_LOG": "cache,noise"}, {}, ["PJIT_LOG", "noise", "recompiles"]),
        ({"PJIT_EXEC_MODE": "fast"}, {}, ["PJIT_EXEC_MODE", "async or sync", "'fast'"]),
        ({}, {"exec_mode": ""}, ["exec_mode", "async or sync"]),
        ({"PJIT_DUMP": __file__}, {}, ["PJIT_DUMP", __file__]),
        ({"PJIT_CACHE_DIR": __file__}, {}, ["PJIT_CACHE_DIR", __file__]),
    ],
)
def test_wrong_values(environ: dict, arguments: dict, parts: list[str]) -> None:
    with pytest.raises(SettingError) as e:
        settings(environ=environ, **arguments)
    assert all(p in str(e.value) for p in parts), str(e.value)


def test_log_lines_are_asked_for(capsys: pytest.CaptureFixture) -> None:
    s = settings(log="cache", environ={})
    s.say("cache", "hit")
    s.say("passes", "fuse")
    assert capsys.readouterr().err == "pjit cache: hit\n"
