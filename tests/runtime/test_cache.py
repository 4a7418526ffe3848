from __future__ import annotations

import mmap
import os
import stat
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pjit import compiler
from pjit.compiler import Program, compile_module
from pjit.config import settings
from pjit.errors import CacheWarning
from pjit.ir.core import Module
from pjit.ir.text import parse_module
from pjit.runtime import cache as cache_module
from pjit.runtime import container
from pjit.runtime.cache import Cache, key

TEXT = """graph @main(%x: f32[N,32]) -> (f32[N,16], i64[2,K]) {
  %w = const @w : f32[32,16]
  %0 = matmul %x, %w : f32[N,16]
  %1 = nonzero %0 : i64[2,K]
  return %0, %1
}
"""
WEIGHT = np.random.default_rng(0).standard_normal((32, 16)).astype(np.float32)
X = np.random.default_rng(1).standard_normal((3, 32)).astype(np.float32)


def compiled(weight: np.ndarray = WEIGHT, threads: int = 2, **options: object) -> Program:
    module = parse_module(TEXT, {"w": weight})
    return compile_module(module, options=settings(threads=threads, **options))


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.pjit"))


def test_a_second_compilation_is_a_hit(own_settings: Path, monkeypatch) -> None:
    first = compiled()
    assert len(entries(own_settings)) == 1
    assert stat.S_IMODE(own_settings.stat().st_mode) == 0o700

    def never(*args: object) -> None:
        raise AssertionError("a hit compiles nothing")

    monkeypatch.setattr("pjit.compiler.run_pipeline", never)
    second = compiled()
    monkeypatch.undo()
    assert second.report().cached
    assert not first.report().cached
    assert second.report().passes == first.report().passes
    assert second.report().steps == first.report().steps
    for a, b in zip(first([X]), second([X]), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    np.testing.assert_allclose(first([X])[0], X @ WEIGHT, rtol=1e-5, atol=1e-5)
    assert second.ir("lower") == first.ir("lower")


def test_what_changes_the_program_changes_the_key(own_settings: Path) -> None:
    compiled()
    compiled(WEIGHT + 1)
    compiled(threads=3)
    assert len(entries(own_settings)) == 3


def test_constants_are_mapped_from_the_entry(own_settings: Path) -> None:
    compiled()
    (array,) = (a for a in compiled().constants.values() if a.size > 16)
    base = array
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base, mmap.mmap)


@pytest.mark.parametrize("damage", ["middle", "cut", "empty", "text"])
def test_a_damaged_entry_is_made_again(own_settings: Path, damage: str, capsys) -> None:
    compiled()
    (entry,) = entries(own_settings)
    data = bytearray(entry.read_bytes())
    if damage == "middle":
        data[data.index(b"ELF")] ^= 1
    elif damage == "text":
        data[data.index(b"program @main")] ^= 1
    entry.write_bytes({"cut": data[: len(data) // 2], "empty": b""}.get(damage, bytes(data)))
    again = compiled(log="cache")
    assert not again.report().cached
    assert "made again" in capsys.readouterr().err
    np.testing.assert_allclose(again([X])[0], X @ WEIGHT, rtol=1e-5, atol=1e-5)
    assert compiled().report().cached


def test_constants_are_checked_when_verifying(own_settings: Path) -> None:
    compiled()
    (entry,) = entries(own_settings)
    data = bytearray(entry.read_bytes())
    (packed,) = (a for a in compiled().constants.values() if a.size > 16)
    data[data.index(packed.tobytes()) + 5] ^= 1
    entry.write_bytes(bytes(data))
    assert not compiled(verify=True).report().cached


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cache_module.container, "write", refuse)
    folder = tmp_path / "readonly"
    with pytest.warns(CacheWarning, match="PJIT_CACHE_DIR") as warned:
        p = compiled(cache_dir=folder)
    assert str(folder) in str(warned[0].message)
    np.testing.assert_allclose(p([X])[0], X @ WEIGHT, rtol=1e-5, atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled(cache_dir=folder)  # said once


def test_entries_that_others_may_write_are_not_used(own_settings: Path) -> None:
    compiled()
    own_settings.chmod(0o777)
    assert not compiled().report().cached
    own_settings.chmod(0o700)
    assert compiled().report().cached


def test_the_oldest_entries_go_first(own_settings: Path) -> None:
    for i in range(3):
        compiled(WEIGHT + i)
    binary = Cache(own_settings).load(entries(own_settings)[0].stem)
    assert binary is not None
    files = entries(own_settings)
    for age, file in enumerate(files):
        os.utime(file, (1000 + age, 1000 + age))
    room = sum(f.stat().st_size for f in files[1:]) + 100  # times in them differ in digits
    Cache(own_settings, limit=room).store("new", binary)
    left = {f.stem for f in entries(own_settings)}
    assert files[0].stem not in left
    assert "new" in left
    assert files[2].stem in left


def test_a_hit_makes_an_entry_young(own_settings: Path) -> None:
    compiled()
    (entry,) = entries(own_settings)
    os.utime(entry, (1000, 1000))
    compiled()
    assert entry.stat().st_mtime > 1000


def test_no_cache(own_settings: Path) -> None:
    compile_module(parse_module(TEXT, {"w": WEIGHT}), threads=2, cache=False)
    compiled(dump=own_settings / "dump")
    assert not entries(own_settings)
    assert list((own_settings / "dump").glob("*-lower.pir"))


def test_file_digests_are_remembered_and_notice_changes(tmp_path: Path, monkeypatch) -> None:
    cache, file = Cache(tmp_path / "c"), tmp_path / "model"
    file.write_bytes(b"one")
    old = time.time() - 100
    os.utime(file, (old, old))
    monkeypatch.setattr(cache_module, "_SETTLED_NS", -1)
    first = cache.file_digest(file)
    with monkeypatch.context() as m:
        m.setattr(cache_module, "_digest", None)
        assert cache.file_digest(file) == first
    file.write_bytes(b"two")
    os.utime(file, (old, old))
    assert cache.file_digest(file) != first


def test_file_digests_see_every_byte_and_its_place(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(cache_module, "_PIECE", 8)
    monkeypatch.setattr(cache_module, "_AT_ONCE", 4)
    cache, file = Cache(tmp_path / "c"), tmp_path / "model"
    data = bytes(range(19))
    variants = [data, data[:16], data[:8], data[8:16] + data[:8] + data[16:], b"", data + b"\0"]
    variants += [data[:i] + b"x" + data[i + 1 :] for i in range(len(data))]
    digests = []
    for variant in variants:
        file.write_bytes(variant)
        digests.append(cache.file_digest(file))
    assert len(set(digests)) == len(digests)


def test_fresh_files_are_hashed_again(tmp_path: Path) -> None:
    cache, file = Cache(tmp_path / "c"), tmp_path / "model"
    file.write_bytes(b"one")
    cache.file_digest(file)
    assert not (tmp_path / "c").exists()


def test_keys() -> None:
    a = np.zeros(3, np.float32)
    keys = [
        key(["a"]),
        key(["a", ""]),
        key(["ab"]),
        key(["a"], {"x": a}),
        key(["a"], {"y": a}),
        key(["a"], {"x": a.reshape(3, 1)}),
        key(["a"], {"x": a.view(np.int32)}),
        key(["a"], {"x": a + 1}),
    ]
    assert len(set(keys)) == len(keys)
    assert key(["a"], {"x": a}) == key(["a"], {"x": a.copy()})


def test_another_process_hits() -> None:
    script = (
        "import numpy as np\n"
        "from pjit.compiler import compile_module\n"
        "from pjit.ir.text import parse_module\n"
        "w = np.arange(512, dtype=np.float32).reshape(32, 16)\n"
        f"p = compile_module(parse_module({TEXT!r}, {{'w': w}}), threads=2)\n"
        "print(p.report().cached)\n"
    )
    command = [sys.executable, "-c", script]
    said = [
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
        for _ in range(2)
    ]
    assert said == ["False\n", "True\n"]


def test_code_is_made_once(tmp_path: Path) -> None:
    made: list[bytes] = []

    def make() -> bytes:
        made.append(b"code %d" % len(made))
        return made[-1]

    assert Cache(tmp_path / "c").code("a", make) == b"code 0"
    assert Cache(tmp_path / "c").code("a", make) == b"code 0"
    assert Cache(tmp_path / "c").code("b", make) == b"code 1"
    for file in (tmp_path / "c").iterdir():
        file.write_bytes(file.read_bytes().replace(b"code ", b"coda "))
    assert Cache(tmp_path / "c").code("a", make) == b"code 2", "damage is found"


def test_another_process_does_not_compile_the_pool() -> None:
    script = (
        "import sys\n"
        "import numpy as np\n"
        "import pjit.backends.llvm.pool as pool\n"
        "from pjit.compiler import compile_module\n"
        "from pjit.ir.text import parse_module\n"
        "made, make = [], pool.make_code\n"
        "pool.make_code = lambda futex: made.append(futex) or make(futex)\n"
        "text = 'graph @main(%x: f32[9]) -> f32[9] { %0 = exp %x : f32[9] return %0 }'\n"
        "p = compile_module(parse_module(text), threads=2)\n"
        "p.engine.pool._start()\n"
        "print(len(made))\n"
    )
    command = [sys.executable, "-c", script]
    said = [
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
        for _ in range(2)
    ]
    assert said == ["1\n", "0\n"]


def test_a_stamp_that_cannot_be_written_leaves_nothing(own_settings: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    file = own_settings.parent / "model.onnx"
    file.write_bytes(b"weights")
    os.utime(file, ns=(0, 0))
    monkeypatch.setattr("pjit.runtime.cache._SETTLED_NS", -1)
    monkeypatch.setattr("os.replace", full)
    assert Cache(own_settings).file_digest(file)
    assert not list(own_settings.iterdir())


def test_large_entries_are_written_beside_the_work(own_settings: Path, monkeypatch) -> None:
    monkeypatch.setattr("pjit.runtime.cache.LARGE", 0)
    write, began = container.write, threading.Event()

    def slow(*args, **kwargs) -> None:
        if threading.current_thread().name.startswith("pjit-cache"):
            assert began.wait(60)
        write(*args, **kwargs)

    monkeypatch.setattr(container, "write", slow)
    p = compiled()
    np.testing.assert_allclose(p([X])[0], X @ WEIGHT, rtol=1e-5, atol=1e-5)
    assert not entries(own_settings)
    threading.Timer(0.1, began.set).start()
    assert compiled().report().cached, "it waits for the entry"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_does_not_wait_for_entries_of_its_parent(own_settings: Path, monkeypatch) -> None:
    monkeypatch.setattr("pjit.runtime.cache.LARGE", 0)
    monkeypatch.setattr(container, "write", lambda *args: began.wait(60))
    began = threading.Event()
    compiled()
    if (child := os.fork()) == 0:
        os._exit(int(compiled().report().cached))
    began.set()
    assert os.waitpid(child, 0)[1] == 0


def test_heavy_weights_are_packed_beside_the_code(own_settings: Path, monkeypatch) -> None:
    in_turns = compiled()
    monkeypatch.setattr("pjit.compiler.HEAVY", 0)
    packing: list[str] = []
    pack = compiler.own_constants

    def noted(module: Module, *args: Any) -> dict[str, np.ndarray]:
        packing.append(threading.current_thread().name)
        return pack(module, *args)

    monkeypatch.setattr("pjit.compiler.own_constants", noted)
    beside = compiled(cache_dir=own_settings / "other")
    assert [name.partition("_")[0] for name in packing] == ["pjit-constants", "MainThread"]
    for a, b in zip(in_turns([X]), beside([X]), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_weights_that_cannot_be_packed_are_an_error(own_settings: Path, monkeypatch) -> None:
    def fail(array: np.ndarray, folder: Path) -> np.ndarray:
        raise MemoryError("no memory for the weights")

    monkeypatch.setattr("pjit.compiler.HEAVY", 0)
    monkeypatch.setattr("pjit.runtime.binary.owned", fail)
    with pytest.raises(MemoryError, match="no memory for the weights"):
        compiled()
    assert not entries(own_settings)


def test_a_folder_for_files(tmp_path: Path) -> None:
    assert Cache(tmp_path / "new").for_files() == tmp_path / "new"
    assert (tmp_path / "new").is_dir()
    (tmp_path / "file").write_text("")
    assert Cache(tmp_path / "file" / "below").for_files() is None
