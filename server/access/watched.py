"""Files that an operator replaces while the server runs: files ─▶ bytes ─▶ **a value**, anew when the bytes change.

The content decides, not the time of the change, so that a Kubernetes secret (a swapped symlink) and a copy over the old
file are seen alike. A file that cannot be read or used keeps the value from before; the fault is logged and counted
once, not with every look.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from codecs import BOM_UTF8
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

from detector.errors import ConfigError
from detector.text import plain, printable

__all__ = ["Watched", "file_name", "read_file"]

T = TypeVar("T")

LONGEST_NAME = 16
"""No token is shorter, and no key."""

log = logging.getLogger("heatward.files")


class Watched(Generic[T]):
    """The value of some files; safe to ask from many threads.

    Args:
        what: What the files hold, for the log and the metrics: "certificates", "tokens".
        files: Setting → the file that it names.
        parse: Setting → content in, the value out; raises `ConfigError`.
        on_reload: Told what was reloaded and whether it could be used.
        every_s: The files are looked at no more often than this.

    Raises:
        ConfigError: They cannot be read or used at the start.
    """

    def __init__(
        self,
        what: str,
        files: Mapping[str, Path],
        parse: Callable[[dict[str, bytes]], T],
        *,
        on_reload: Callable[[str, bool], None] = lambda what, fine: None,
        every_s: float = 0.0,
    ) -> None:
        self._what, self._files, self._parse = what, dict(files), parse
        self._on_reload, self._every_s = on_reload, every_s
        self._lock = threading.Lock()
        self._fault = ""
        contents = self._read()
        self._seen = _digest(contents)
        self._value = parse(contents)
        self._next_s = time.monotonic() + every_s

    def get(self) -> T:
        """The value of the newest files that could be used."""
        with self._lock:
            now_s = time.monotonic()
            if now_s >= self._next_s:
                self._next_s = now_s + self._every_s
                self._look()
            return self._value

    def _look(self) -> None:
        try:
            contents = self._read()
            digest = _digest(contents)
            if digest != self._seen:
                self._seen = digest
                self._value = self._parse(contents)
                log.info("%s reloaded", self._what)
                self._on_reload(self._what, True)
            self._fault = ""
        except ConfigError as error:
            if str(error) != self._fault:
                self._fault = str(error)
                log.error("the new %s cannot be used, the old ones stay: %s", self._what, error)
                self._on_reload(self._what, False)

    def _read(self) -> dict[str, bytes]:
        # joined files may have a mark in the middle
        return {name: read_file(name, file).replace(BOM_UTF8, b"") for name, file in self._files.items()}


def read_file(setting: str, file: Path) -> bytes:
    """A text file that a setting names, as UTF-8.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        return plain(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"{setting}: cannot read {file_name(file)}: {error.strerror}") from None
    except ValueError:
        raise ConfigError(f"{setting}: {file} is damaged UTF-16: save it as UTF-8") from None


def file_name(file: Path) -> str:
    """The file's name, unless it may be a secret that was given in place of a file."""
    known = len(str(file)) < LONGEST_NAME or Path(*file.parts[: 1 + file.is_absolute()]).is_dir()
    return printable(str(file)) if known else "the file that it names"


def _digest(contents: dict[str, bytes]) -> tuple[bytes, ...]:
    """Digests, so that no second copy of a secret lies in memory."""
    return tuple(hashlib.sha256(content).digest() for content in contents.values())
