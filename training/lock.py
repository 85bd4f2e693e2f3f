"""One job per work folder: a folder in, held until the job ends, however it ends.

The operating system lets go of the lock when the process dies, so a killed job leaves none behind.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detector.errors import ConfigError, DataError
from detector.text import printable

__all__ = ["hold"]

FILE = ".lock"


@contextmanager
def hold(work: Path) -> Iterator[None]:
    """Hold a work folder, which is made if it is not there.

    Raises:
        ConfigError: It cannot be made or written.
        DataError: Another job holds it.
    """
    try:
        work.mkdir(parents=True, exist_ok=True)
        file = (work / FILE).open("a+", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"work: folder {work} cannot be made or written: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = printable(file.read().strip()) or "unknown"
            raise DataError(
                f"work: another job (process {holder}) uses {work}; wait for its end, or give another --work"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
        file.truncate(0)
