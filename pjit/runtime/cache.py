"""The compile cache: programs in a private folder, under a hash of all that they were made from.

An entry is one file, written under another name and renamed. A damaged entry is compiled again.
When the folder cannot be written, a warning says so once and compilation goes on without the cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import llvmlite
import numpy as np
import platformdirs

import pjit
from pjit.errors import CacheWarning, PjitError
from pjit.runtime import container
from pjit.runtime.binary import Binary
from pjit.runtime.threads import thread_count

LIMIT = 4 << 30  # bytes
LARGE = 8 << 20  # bytes of constants that take a while to write
_KIND, _GROUP = "cache", "cache"
_SUFFIX, _CODE_SUFFIX, _STAMP = ".pjit", ".code", ".stamp"
_PIECE, _AT_ONCE = 8 << 20, 1 << 18  # bytes of a file with a hash of its own, and read at once
_SETTLED_NS = 2_000_000_000  # a file changed more recently may change again unnoticed
_VERSIONS = (pjit.__version__, llvmlite.__version__, np.__version__)

Log = Callable[[str], None]
_warned: set[Path] = set()
_writes: dict[Path, Future] = {}  # entries that are being written


class Cache:
    """A folder of compiled programs.

    Args:
        folder: The folder; None for the user's cache folder.
        log: Takes a line about each hit and miss.
        verify: Whether the constants of entries are compared with their checksums.
        limit: Bytes that the entries may take together; those used longest ago are removed.
    """

    def __init__(
        self,
        folder: Path | None = None,
        log: Log = lambda line: None,
        *,
        verify: bool = False,
        limit: int = LIMIT,
    ) -> None:
        self.folder = folder if folder is not None else default_folder()
        self._log, self._verify, self._limit = log, verify, limit

    def load(self, key: str) -> Binary | None:
        """The program of a key, or None; a damaged entry is removed."""
        path = self.folder / (key + _SUFFIX)
        if (writing := _writes.get(path)) is not None:
            writing.result()
        try:
            if not self._is_private(path):
                return None
            entry = container.Container.open(path, _KIND)
            binary = Binary.read(entry, _GROUP, verify=self._verify)
        except FileNotFoundError:
            self._log(f"no entry {key}")
            return None
        except (OSError, PjitError) as e:
            self._log(f"the entry {key} cannot be used and is made again: {e}")
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        self._log(f"entry {key}")
        return binary

    def store(self, key: str, binary: Binary) -> None:
        """Writes the program of a key, and removes old entries when there are too many bytes.

        A large one is written by a thread of its own, which the end of the process waits for, as
        does ``load``.
        """
        path = self.folder / (key + _SUFFIX)
        if sum(a.nbytes for a in binary.constants.values()) < LARGE:
            self._write(path, *binary.sections(_GROUP))
            return
        writing = _writer().submit(self._write, path, *binary.sections(_GROUP))
        _writes[path] = writing
        writing.add_done_callback(lambda _: _writes.pop(path, None))

    def code(self, name: str, make: Callable[[], bytes]) -> bytes:
        """Object code that does not depend on a program: what is stored under a name, or else what
        ``make`` returns, which is stored now.
        """
        path = self.folder / (key(["code", name]) + _CODE_SUFFIX)
        with contextlib.suppress(OSError, PjitError):
            if self._is_private(path):
                return container.Container.open(path, _KIND).section(name).tobytes()
        made = make()
        self._write(path, {}, {name: made})
        return made

    def for_files(self) -> Path | None:
        """The folder, for files without a name; None where there is none and none can be made."""
        with contextlib.suppress(OSError):
            self._make_folder()
            return self.folder
        return None

    def _write(
        self, path: Path, meta: Mapping[str, Any], sections: Mapping[str, container.Bytes]
    ) -> None:
        try:
            self._make_folder()
            container.write(path, _KIND, meta, sections)
            self._trim()
        except OSError as e:
            self._warn(e)

    def file_digest(self, path: Path) -> str:
        """A hash of the bytes of a file, remembered with the file's size and times.

        Raises:
            OSError: The file cannot be read.
        """
        status = path.stat()
        identity = [
            status.st_dev,
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
        ]
        stamp = self.folder / (_hash(str(path.resolve()).encode()) + _STAMP)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            if self._is_private(stamp):
                known = json.loads(stamp.read_text())
                if known["identity"] == identity:
                    return str(known["digest"])
        with open(path, "rb") as file:
            digest = _digest(file)
        if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > _SETTLED_NS:
            with contextlib.suppress(OSError):
                self._make_folder()
                text = json.dumps({"identity": identity, "digest": digest})
                temporary = stamp.with_name(f".{stamp.name}.{os.getpid()}")
                try:
                    temporary.write_text(text)
                    os.replace(temporary, stamp)
                finally:
                    temporary.unlink(missing_ok=True)
        return digest

    def _make_folder(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _is_private(self, path: Path) -> bool:
        """Whether nobody else can have written a file; raises OSError when it is missing."""
        if sys.platform == "win32":
            return path.exists()
        for p in (self.folder, path):
            status = p.stat()
            if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                self._log(f"{p} is not used: other users may write it")
                return False
        return True

    def _trim(self) -> None:
        found = []
        for path in self.folder.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(OSError):
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found)[:-1]:
            if total <= self._limit:
                break
            self._log(f"{path.stem} is removed: the cache holds {total} bytes")
            with contextlib.suppress(OSError):
                path.unlink()
                total -= size

    def _warn(self, error: OSError) -> None:
        self._log(f"not written: {error}")
        if self.folder not in _warned:
            _warned.add(self.folder)
            warnings.warn(
                f"pjit cannot write its compile cache {self.folder} ({error.strerror or error}); "
                "programs are compiled again in each process. Set PJIT_CACHE_DIR to a folder that "
                "can be written",
                CacheWarning,
                stacklevel=2,
            )


@cache
def _writer() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "pjit-cache")


def flush() -> None:
    """Waits for the entries that are being written."""
    for writing in list(_writes.values()):
        writing.result()


def _forget_writes() -> None:
    """In the child of a fork, which does not have the thread."""
    _writes.clear()
    _writer.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_writes)


def default_folder() -> Path:
    """The cache folder of the user."""
    return Path(platformdirs.user_cache_dir("pjit"))


def key(parts: Iterable[object], arrays: Mapping[str, np.ndarray] | None = None) -> str:
    """A hash of texts, numbers and arrays, and of this version of pjit."""
    digest = hashlib.blake2b(digest_size=20)
    for part in (_fingerprint(), *parts):
        data = str(part).encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    for name, array in sorted((arrays or {}).items()):
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _digest(file: BinaryIO) -> str:
    """A hash of the hashes of the pieces of a file, which all cores make together."""
    reading = Lock()

    def piece(start: int) -> bytes:
        digest = hashlib.sha256()
        for at in range(start, start + _PIECE, _AT_ONCE):
            with reading:
                file.seek(at)
                data = file.read(_AT_ONCE)
            digest.update(data)
        return digest.digest()

    pieces = range(0, os.fstat(file.fileno()).st_size, _PIECE)
    with ThreadPoolExecutor(thread_count({}), "pjit-digest") as threads:
        return hashlib.sha256(b"".join(threads.map(piece, pieces))).hexdigest()


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=20).hexdigest()


@cache
def _fingerprint() -> str:
    """A hash of what compiles: the sources of pjit and the versions of its libraries."""
    import pjit.backends
    import pjit.ir
    import pjit.passes

    digest = hashlib.blake2b(digest_size=20)
    digest.update(repr(_VERSIONS).encode())
    packages: tuple[Any, ...] = (pjit, pjit.ir, pjit.passes, pjit.backends)
    for package in packages:
        root = Path(package.__file__).parent
        for file in sorted(root.rglob("*.py")):
            digest.update(str(file.relative_to(root)).encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()
