"""The container of ``.pjit`` files and of cache entries: a header and named sections of bytes.

Layout, little-endian::

    0   8 bytes   magic
    8   u32       version of the format
    12  u32       size of the header in bytes
    16  u32       CRC-32 of the header
    20  u32       zero
    24            header: JSON {"kind": ..., "meta": {...}, "sections": [{"name", "offset", "size",
    "crc"}, ...]} ...           sections, each at a multiple of 64 bytes

A file is written under another name and renamed, so a reader sees all of it or none. Sections are
read in place from a mapping of the file.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from pjit.errors import FormatError
from pjit.ir.types import DTYPES, dtype
from pjit.runtime.mapped import mapping_of, unmap

MAGIC = b"\x89PJIT\r\n\x1a"
VERSION = 1
_HEAD = struct.Struct("<8sIIII")
_ALIGNMENT = 64
_PIECE = 2 << 20  # bytes that are written at a time: a large page
_MAX_HEADER = 64 << 20

Bytes = bytes | np.ndarray


@dataclass(frozen=True)
class _Section:
    offset: int
    size: int
    crc: int


class Container:
    """An open container; sections are views of the mapped file.

    Attributes:
        path: The file.
        kind: What the file holds, ``model`` or ``cache``.
        meta: Plain data: strings, numbers, lists and dicts.
    """

    def __init__(
        self, path: Path, data: np.ndarray, kind: str, meta: dict, sections: dict[str, _Section]
    ) -> None:
        self.path, self.kind, self.meta = path, kind, meta
        self._data, self._sections = data, sections

    @staticmethod
    def open(path: str | os.PathLike, kind: str) -> Container:
        """Opens a file and checks its header.

        Raises:
            FormatError: It is not such a file, or it is damaged or truncated.
            OSError: The file cannot be read.
        """
        path = Path(path)
        mapped = _mapped(path)
        length = len(mapped)
        if length < _HEAD.size:
            raise _damaged(path, f"at least {_HEAD.size} bytes", f"{length} bytes")
        data = np.ndarray((length,), np.uint8, mapped)
        magic, version, size, crc, _ = _HEAD.unpack(data[: _HEAD.size].tobytes())
        if magic != MAGIC:
            raise FormatError(
                "not a .pjit file", where=f"{path}, byte 0", expected=MAGIC, got=magic
            )
        if version != VERSION:
            raise FormatError(
                "a .pjit file of another version",
                where=f"{path}, byte 8",
                expected=f"version {VERSION}",
                got=f"version {version}",
                remedy="convert the model again with this version of pjit",
            )
        header = data[_HEAD.size : _HEAD.size + size].tobytes()
        if size > _MAX_HEADER or len(header) != size or zlib.crc32(header) != crc:
            raise _damaged(path, "an intact header", f"{len(header)} bytes of {size}, or others")
        try:
            fields = json.loads(header)
            sections = {
                str(s["name"]): _Section(int(s["offset"]), int(s["size"]), int(s["crc"]))
                for s in fields["sections"]
            }
            found, meta = str(fields["kind"]), dict(fields["meta"])
        except (ValueError, KeyError, TypeError, OverflowError) as e:
            raise _damaged(path, "a header with kind, meta and sections", repr(e)) from None
        if found != kind:
            raise FormatError(
                f"a file of the kind {found!r}", where=str(path), expected=f"the kind {kind!r}"
            )
        for name, s in sections.items():
            if s.offset < 0 or s.size < 0 or s.offset + s.size > length:
                raise _damaged(
                    path, f"the section {name!r} up to byte {s.offset + s.size}", f"{length} bytes"
                )
        return Container(path, data, found, meta, sections)

    def __contains__(self, name: str) -> bool:
        return name in self._sections

    def names(self, prefix: str) -> list[str]:
        """The names of the sections that begin so, in the order of the file."""
        return [n for n in self._sections if n.startswith(prefix)]

    def section(self, name: str, *, verify: bool = True) -> np.ndarray:
        """The bytes of a section, in place; with ``verify`` they are compared with their checksum.

        Raises:
            FormatError: The section is missing or damaged.
        """
        s = self._sections.get(name)
        if s is None:
            raise _damaged(self.path, f"a section {name!r}", ", ".join(self._sections) or "none")
        data = self._data[s.offset : s.offset + s.size]
        if verify and (found := zlib.crc32(data.data)) != s.crc:
            raise FormatError(
                f"the section {name!r} is damaged",
                where=f"{self.path}, bytes {s.offset} to {s.offset + s.size}",
                expected=f"CRC-32 {s.crc:08x}",
                got=f"{found:08x}",
                remedy="copy or convert the file again",
            )
        return data

    def text(self, name: str) -> str:
        """A section of UTF-8 text; raises FormatError."""
        try:
            return self.section(name).tobytes().decode()
        except UnicodeDecodeError as e:
            raise _damaged(self.path, f"text in the section {name!r}", str(e)) from None

    def arrays(self, group: str, *, verify: bool) -> dict[str, np.ndarray]:
        """The arrays of ``array_sections``, in place; raises FormatError."""
        out = {}
        for name, kind, shape in self._listed_arrays(group):
            data = self.section(f"{group}/{name}", verify=verify)
            if data.nbytes != DTYPES[kind].itemsize * int(np.prod(shape, dtype=object)):
                raise _damaged(self.path, f"{kind}{shape} as {name!r}", f"{data.nbytes} bytes")
            out[name] = np.ndarray(tuple(shape), DTYPES[kind].numpy, data)
        return out

    def _listed_arrays(self, group: str) -> list[tuple[str, str, list[int]]]:
        listed = self.meta.get(group)
        try:
            rows = [(str(n), str(k), [int(d) for d in shape]) for n, k, shape in listed or ()]
        except (TypeError, ValueError, OverflowError) as e:
            raise _damaged(self.path, "a list of arrays", repr(e)) from None
        for name, kind, shape in rows:
            if kind not in DTYPES or any(d < 0 for d in shape):
                raise _damaged(self.path, f"an array type for {name!r}", f"{kind}{shape}")
        return rows


def _damaged(path: Path, expected: str, got: str) -> FormatError:
    return FormatError(
        "a damaged or truncated .pjit file",
        where=str(path),
        expected=expected,
        got=got,
        remedy="copy or convert the file again",
    )


def array_sections(group: str, arrays: Mapping[str, np.ndarray]) -> tuple[list, dict[str, Bytes]]:
    """A group of arrays: the entry of ``meta`` under its name, and its sections."""
    listed = [[n, str(dtype(a.dtype)), list(a.shape)] for n, a in arrays.items()]
    return listed, {f"{group}/{n}": np.asarray(a) for n, a in arrays.items()}  # of scalars too


def write(
    path: str | os.PathLike, kind: str, meta: Mapping[str, Any], sections: Mapping[str, Bytes]
) -> None:
    """Writes a container; the file appears at once, complete.

    Raises:
        OSError: The file cannot be written; nothing is left of it.
    """
    path = Path(path)
    table: list[dict[str, Any]] = [
        {"name": n, "offset": 0, "size": _size(b), "crc": _crc(b)} for n, b in sections.items()
    ]
    header = _placed(kind, dict(meta), table)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        with open(temporary, "xb") as file:
            head = _HEAD.pack(MAGIC, VERSION, len(header), zlib.crc32(header), 0)
            placed = zip((r["offset"] for r in table), sections.values(), strict=True)
            for piece in _pieces([(0, head), (len(head), header), *placed]):
                file.write(piece)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _mapped(path: Path) -> mmap.mmap | bytes:
    """The file, in large pages where the system can; an empty one cannot be mapped."""
    with open(path, "rb") as file:
        try:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            return b""
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            mapped.madvise(mmap.MADV_HUGEPAGE)
    return mapped


def _parts(block: Bytes) -> Iterator[memoryview]:
    """The bytes of a block, of one in a mapped file a piece at a time."""
    mapped = mapping_of(block) if isinstance(block, np.ndarray) else None
    whole = _flat(block)
    step = len(whole) if mapped is None else _PIECE
    for at in range(0, len(whole), step or 1):
        yield whole[at : at + step]
        unmap(mapped)


def _size(block: Bytes) -> int:
    return block.nbytes if isinstance(block, np.ndarray) else len(block)


def _crc(block: Bytes) -> int:
    crc = 0
    for part in _parts(block):
        crc = zlib.crc32(part, crc)
    return crc


def _pieces(placed: Iterable[tuple[int, Bytes]]) -> Iterator[bytearray]:
    """What stands at offsets in a file, with zeros between, in aligned pieces.

    Systems that keep what is written to a file in large pages keep such pieces in them, and map
    them so later: the processor then finds weights with fewer steps.
    """
    piece = bytearray()
    end = 0
    for offset, block in placed:
        for part in chain([memoryview(bytes(offset - end))], _parts(block)):
            at = 0
            while at < len(part):
                count = min(len(part) - at, _PIECE - len(piece))
                piece += part[at : at + count]
                at += count
                if len(piece) == _PIECE:
                    yield piece
                    piece.clear()
        end = offset + _size(block)
    yield piece


def _flat(block: Bytes) -> memoryview:
    if isinstance(block, np.ndarray):
        return np.ascontiguousarray(block).reshape(-1).view(np.uint8).data
    return memoryview(block)


def _placed(kind: str, meta: dict, table: list[dict]) -> bytes:
    """The header with the offsets filled in; padded, so that its size does not depend on them."""
    room = len(json.dumps({"kind": kind, "meta": meta, "sections": table})) + 20 * len(table)
    at = _HEAD.size + room
    for row in table:
        row["offset"] = at = _rounded(at)
        at += row["size"]
    return json.dumps({"kind": kind, "meta": meta, "sections": table}).ljust(room).encode()


def _rounded(n: int) -> int:
    return -(-n // _ALIGNMENT) * _ALIGNMENT
