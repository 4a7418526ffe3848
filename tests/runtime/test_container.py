from __future__ import annotations

import io
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from pjit.errors import FormatError
from pjit.runtime import container
from pjit.runtime.container import MAGIC, Container, array_sections, write

ARRAYS = {
    "w": np.arange(12, dtype=np.float32).reshape(3, 4),
    "half": np.ones(5, ml_dtypes.bfloat16),
    "scalar": np.array(3, np.int64),
    "number": np.float64(3.5),
    "empty": np.zeros((0, 7), np.uint8),
    "flags": np.array([True, False]),
    "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    listed, sections = array_sections("weights", ARRAYS)
    file = tmp_path / "a.pjit"
    write(file, "model", {"weights": listed, "n": 3}, {"text": b"graph", **sections})
    return file


def test_round_trip(path: Path) -> None:
    c = Container.open(path, "model")
    assert c.meta["n"] == 3
    assert c.text("text") == "graph"
    assert "text" in c
    assert "other" not in c
    for verify in (False, True):
        arrays = c.arrays("weights", verify=verify)
        assert list(arrays) == list(ARRAYS)
        for name, a in arrays.items():
            assert a.dtype == ARRAYS[name].dtype
            assert a.tobytes() == np.ascontiguousarray(ARRAYS[name]).tobytes()
            assert a.shape == ARRAYS[name].shape
            assert a.ctypes.data % 64 == 0 or a.size == 0
            assert not a.flags.writeable


def test_only_the_file_itself_is_left(path: Path) -> None:
    assert [p.name for p in path.parent.iterdir()] == ["a.pjit"]
    write(path, "model", {}, {})
    assert Container.open(path, "model").meta == {}
    assert [p.name for p in path.parent.iterdir()] == ["a.pjit"]


def test_a_failed_write_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pjit.runtime.container.os.replace", fail)
    with pytest.raises(OSError, match="No space"):
        write(path, "model", {}, {"text": b"new"})
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["a.pjit"]


def read_all(path: Path) -> None:
    c = Container.open(path, "model")
    c.text("text")
    c.arrays("weights", verify=True)


def test_every_damaged_byte_is_found(path: Path) -> None:
    data = path.read_bytes()
    read_all(path)
    header = data.index(b"]}", 24) + 2  # the end of the JSON; then padding
    inside = [*range(0, 20), *range(24, header, 5)]
    c = Container.open(path, "model")
    for s in c._sections.values():
        inside += range(s.offset, s.offset + s.size)
    del c
    for at in inside:
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :])
        with pytest.raises(FormatError) as e:
            read_all(path)
        assert str(path) in str(e.value)


def test_every_truncation_is_found(path: Path) -> None:
    data = path.read_bytes()
    for n in [*range(0, len(data), 17), len(data) - 1]:
        path.write_bytes(data[:n])
        with pytest.raises(FormatError):
            read_all(path)


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (b"", ["0 bytes"]),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, ["not a .pjit file", "byte 0"]),
        (MAGIC + (9).to_bytes(4, "little") + b"\0" * 40, ["version 1", "version 9", "convert"]),
        (MAGIC + (1).to_bytes(4, "little") + b"\xff" * 40, ["damaged"]),
    ],
)
def test_foreign_files(tmp_path: Path, data: bytes, parts: list[str]) -> None:
    file = tmp_path / "b.pjit"
    file.write_bytes(data)
    with pytest.raises(FormatError) as e:
        Container.open(file, "model")
    assert all(p in str(e.value) for p in parts), str(e.value)


def test_headers_that_lie(path: Path) -> None:
    with pytest.raises(FormatError, match="kind 'model'"):
        Container.open(path, "cache")
    write(path, "model", {"weights": [["w", "f32", [1 << 40]]]}, {"weights/w": b"\0" * 4})
    with pytest.raises(FormatError, match="damaged"):
        Container.open(path, "model").arrays("weights", verify=True)
    for wrong in ([["w", "object", [1]]], [["w", "f32", [-1]]], [["w"]], 5):
        write(path, "model", {"weights": wrong}, {"weights/w": b"\0" * 4})
        with pytest.raises(FormatError):
            Container.open(path, "model").arrays("weights", verify=True)


@pytest.mark.parametrize("size", [1, 7, 64, 1 << 20])
def test_a_file_is_the_same_in_pieces_of_any_size(
    path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = path.read_bytes()
    monkeypatch.setattr("pjit.runtime.container._PIECE", size)
    listed, sections = array_sections("weights", ARRAYS)
    write(path, "model", {"weights": listed, "n": 3}, {"text": b"graph", **sections})
    assert path.read_bytes() == whole
    sizes = [len(p) for p in container._pieces([(0, b"head"), (64, whole), (64 + len(whole), b"")])]
    assert sizes[:-1] == [size] * (sum(sizes) // size)
    assert sum(sizes) == 64 + len(whole)


def test_an_empty_or_short_file_is_damaged(path: Path) -> None:
    for data in (b"", path.read_bytes()[:100]):
        path.write_bytes(data)
        with pytest.raises(FormatError):
            Container.open(path, "model")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_of_arrays_in_a_mapped_file_a_piece_at_a_time_is_resident(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(container, "_PIECE", 1 << 16)
    want = np.random.default_rng(0).integers(0, 256, 24 << 20, np.uint8)
    want.tofile(tmp_path / "data")
    mapped = np.memmap(tmp_path / "data", np.uint8, "r")

    def resident() -> int:
        smaps = Path("/proc/self/smaps").read_text()
        after = smaps[smaps.index(str(tmp_path / "data")) :]
        return int(after[after.index("Rss:") :].split()[1])

    most = 0

    class File(io.BufferedWriter):
        def write(self, data) -> int:
            nonlocal most
            most = max(most, resident())
            return super().write(data)

    def opened(path, mode):
        return File(io.FileIO(path, mode))

    monkeypatch.setattr(container, "open", opened, raising=False)
    container.write(tmp_path / "out", "model", {}, {"a": want[:9], "b": mapped})
    monkeypatch.undo()
    assert most <= 6 << 10, "KiB: pages have up to 2 MB"
    read = container.Container.open(tmp_path / "out", "model")
    np.testing.assert_array_equal(read.section("b"), want)


def test_what_was_written_to_a_private_mapping_stays(tmp_path: Path) -> None:
    np.zeros(1 << 16, np.uint8).tofile(tmp_path / "data")
    changed = np.memmap(tmp_path / "data", np.uint8, "c")
    changed[:] = 7
    write(tmp_path / "out", "model", {}, {"a": changed})
    assert (changed == 7).all()
    assert (Container.open(tmp_path / "out", "model").section("a") == 7).all()
