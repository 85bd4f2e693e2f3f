"""One process per folder: a folder in, held until the process lets go of it, however it ends.

The operating system lets go of the lock when the process dies, so a killed job leaves none behind.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detector.errors import BusyError, ConfigError
from detector.text import printable

__all__ = ["hold"]

FILE = ".lock"


@contextmanager
def hold(
    work: Path,
    *,
    what: str = "work",
    mend: str = "wait for its end, or give another --work",
    wait: bool = False,
    lock: str = "",
) -> Iterator[None]:
    """Hold a folder, which is made if it is not there.

    Args:
        work: The folder.
        what: What the errors call it; folders are held apart by this, too, unless `lock` is given.
        mend: What to do where it is held.
        wait: Wait for a lock that nobody holds for long.
        lock: The `what` of others who must not hold it either.

    Raises:
        BusyError: Another job holds it.
        ConfigError: It cannot be made or written.
    """
    try:
        work.mkdir(parents=True, exist_ok=True)
        file = (work / (FILE if what == "work" else f"{FILE}-{lock or what}")).open("a+", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{what}: folder {work} cannot be made or written: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            file.seek(0)
            holder = printable(file.read().strip()) or "unknown"
            raise BusyError(f"{what}: another job (process {holder}) uses {work}; {mend}") from error
        file.truncate(0)
        file.write(f"{os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
        file.truncate(0)
