"""Every error of the runtime has the fixed form, and fits on a screen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import pjit
from pjit.compiler import compile_module
from pjit.config import settings
from pjit.errors import (
    CacheWarning,
    ExecutionError,
    FormatError,
    InputError,
    PjitError,
    SettingError,
)
from pjit.ir.text import parse_module

WIDE = ", ".join(f"%x{i}: f32[N,{i + 1}]" for i in range(40))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PJIT_CACHE_DIR", str(tmp_path / "cache"))


def program(text: str):
    return compile_module(parse_module(text), options=settings(threads=1), cache=False)


def gather():
    return program(
        "graph @main(%x: f32[N,4], %i: i64[K]) -> f32[K,4] {\n"
        "  %0 = gather %x, %i {axis=0} : f32[K,4]   // net.py:7\n  return %0\n}\n"
    )


def wrong_count(folder: Path) -> None:
    program(f"graph @main({WIDE}) {{\n  return %x0\n}}\n")([1])


def wrong_dtype(folder: Path) -> None:
    gather()([np.ones((2, 4)), np.zeros(1, np.int64)])


def wrong_shape(folder: Path) -> None:
    gather()([np.ones((2, 5), np.float32), np.zeros(1, np.int64)])


def out_of_range(folder: Path) -> None:
    gather()([np.ones((2, 4), np.float32), np.full(1, 9)])[0].block_until_ready()


def too_large(folder: Path) -> None:
    p = program(
        "graph @main(%x: f32[N,1]) -> f32[N,1000000] {\n"
        "  %0 = broadcast %x {shape=[N,1000000]} : f32[N,1000000]   // net.py:7\n  return %0\n}\n"
    )
    p([np.ones((1 << 26, 1), np.float32)])[0].block_until_ready()


def too_large_to_count(folder: Path) -> None:
    size = 1 << 60
    p = program(
        f"graph @main(%x: f32[N,1]) -> f32[N,{size}] {{\n"
        f"  %0 = broadcast %x {{shape=[N,{size}]}} : f32[N,{size}]   // net.py:7\n"
        "  return %0\n}\n"
    )
    p([np.ones((64, 1), np.float32)])[0].block_until_ready()


def closed(folder: Path) -> None:
    p = gather()
    p.close()
    p([np.ones((2, 4), np.float32), np.zeros(1, np.int64)])


def damaged(folder: Path) -> None:
    (folder / "m.pjit").write_bytes(b"\x89PJIT\r\n\x1a" + b"\1\0\0\0" + b"\xff" * 90)
    pjit.load(folder / "m.pjit")


def foreign(folder: Path) -> None:
    (folder / "m.pt").write_bytes(b"PK\x03\x04")
    pjit.load(folder / "m.pt")


def setting(folder: Path) -> None:
    pjit.load(folder / "m.pt", threads=-3)


def stage(folder: Path) -> None:
    gather().ir("nothing")


@pytest.mark.parametrize(
    ("cause", "kind", "fields"),
    [
        (wrong_count, InputError, {"expected", "got"}),
        (wrong_dtype, InputError, {"where", "expected", "got", "remedy"}),
        (wrong_shape, InputError, {"where", "expected", "got"}),
        (out_of_range, ExecutionError, {"where", "remedy"}),
        (too_large, ExecutionError, {"got", "remedy"}),
        (too_large_to_count, ExecutionError, {"got", "remedy"}),
        (closed, ExecutionError, {"remedy"}),
        (damaged, FormatError, {"where", "expected", "got", "remedy"}),
        (foreign, FormatError, {"where", "expected", "remedy"}),
        (setting, SettingError, {"expected", "got", "remedy"}),
        (stage, PjitError, {"expected"}),
    ],
)
def test_form(
    cause: Callable[[Path], None], kind: type[PjitError], fields: set[str], tmp_path: Path
) -> None:
    with pytest.raises(kind) as e:
        cause(tmp_path)
    lines = str(e.value).splitlines()
    assert len(lines) <= 12
    assert lines[0] == e.value.what
    assert {line.split(":")[0].strip() for line in lines[1:]} >= fields


def test_the_line_of_the_user_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExecutionError) as e:
        out_of_range(tmp_path)
    assert "net.py:7" in str(e.value)


def test_warnings_are_warnings() -> None:
    assert issubclass(CacheWarning, UserWarning)
