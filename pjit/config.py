"""Settings: from arguments, else from the environment, else defaults.

Every setting is checked when it is read, and an error names the variable or the argument, what it
may be, and what it was.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pjit.errors import SettingError
from pjit.runtime import threads as thread_count

EXEC_MODES = ("async", "sync")
LOG_TOPICS = ("all", "cache", "compile", "passes", "recompiles")
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")
_LOGGER = logging.getLogger("pjit")


@dataclass(frozen=True)
class Settings:
    """What a compilation and its program obey.

    Attributes:
        threads: Threads that run a program, at least 1.
        dump: Folder for the IR after each pass that changed it, or None.
        log: Topics to log: ``cache``, ``compile``, ``passes``, ``recompiles`` or ``all``.
        verify: Whether the IR is verified after each pass and cache entries are checked in full.
        cache_dir: Folder of the compile cache; None: the user's cache folder.
        exec_mode: ``async`` (a call returns at once) or ``sync`` (a call returns when its results
            exist).
        isa: The instruction set to compile for: ``host``, all that this processor has, or a level
            of it, such as ``x86-64-v2``.
        direct: Whether products and convolutions are made as they are defined, also where methods
            of fewer multiplications, which round more, are faster.
    """

    threads: int
    dump: Path | None = None
    log: frozenset[str] = frozenset()
    verify: bool = False
    cache_dir: Path | None = None
    exec_mode: str = "async"
    isa: str = "host"
    direct: bool = False

    @property
    def sync(self) -> bool:
        """Whether calls wait for their results."""
        return self.exec_mode == "sync"

    def logs(self, topic: str) -> bool:
        """Whether a topic is logged."""
        return topic in self.log or "all" in self.log

    def say(self, topic: str, line: str) -> None:
        """Logs a line to the logger ``pjit.topic``, and to stderr if the user asked for it."""
        _LOGGER.getChild(topic).debug("%s", line)
        if self.logs(topic):
            print(f"pjit {topic}: {line}", file=sys.stderr)


def settings(
    *,
    threads: int | None = None,
    dump: str | os.PathLike | None = None,
    log: str | None = None,
    verify: bool | None = None,
    cache_dir: str | os.PathLike | None = None,
    exec_mode: str | None = None,
    isa: str | None = None,
    direct: bool | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """Reads the settings; an argument that is not None goes before the environment.

    Raises:
        SettingError: A value is not one that the setting can have.
    """
    folder = dump if dump is not None else environ.get("PJIT_DUMP") or None
    cache = cache_dir if cache_dir is not None else environ.get("PJIT_CACHE_DIR") or None
    return Settings(
        threads=_threads(threads, environ),
        dump=None if folder is None else _folder("dump", "PJIT_DUMP", folder),
        log=_topics(log if log is not None else environ.get("PJIT_LOG", "")),
        verify=_flag("PJIT_VERIFY", environ.get("PJIT_VERIFY", "")) if verify is None else verify,
        cache_dir=None if cache is None else _folder("cache_dir", "PJIT_CACHE_DIR", cache),
        exec_mode=_mode(exec_mode, environ),
        isa=isa if isa is not None else environ.get("PJIT_ISA") or "host",
        direct=_flag("PJIT_DIRECT", environ.get("PJIT_DIRECT", "")) if direct is None else direct,
    )


def _threads(argument: int | None, environ: Mapping[str, str]) -> int:
    if argument is None:
        try:
            return thread_count.thread_count(environ)
        except ValueError as e:
            raise SettingError(str(e)) from None
    if isinstance(argument, bool) or not isinstance(argument, int) or argument < 1:
        raise SettingError(
            "the argument `threads` is not a number of threads",
            expected="a positive whole number",
            got=repr(argument),
            remedy="leave it out to use every core that this process may use",
        )
    return argument


def _flag(name: str, text: str) -> bool:
    value = text.strip().lower()
    if value in _TRUE or value in _FALSE:
        return value in _TRUE
    raise SettingError(f"{name} is neither on nor off", expected="1 or 0", got=repr(text))


def _topics(text: str) -> frozenset[str]:
    topics = frozenset(t.strip() for t in text.split(",") if t.strip())
    if unknown := sorted(topics - set(LOG_TOPICS)):
        raise SettingError(
            f"PJIT_LOG (or the argument `log`) has no topic {', '.join(unknown)}",
            expected=f"some of {', '.join(LOG_TOPICS)}, with commas between them",
            got=repr(text),
        )
    return topics


def _mode(argument: str | None, environ: Mapping[str, str]) -> str:
    name = "PJIT_EXEC_MODE" if argument is None else "the argument `exec_mode`"
    mode = argument if argument is not None else environ.get("PJIT_EXEC_MODE") or "async"
    if mode not in EXEC_MODES:
        raise SettingError(
            f"{name} is not an execution mode", expected=" or ".join(EXEC_MODES), got=repr(mode)
        )
    return mode


def _folder(argument: str, variable: str, value: str | os.PathLike) -> Path:
    path = Path(value).expanduser()
    if path.exists() and not path.is_dir():
        raise SettingError(
            f"{variable} (or the argument `{argument}`) is not a folder", got=str(path)
        )
    return path
