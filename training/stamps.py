"""Stamps: a folder's `settings.json` holds the digest of what its files were made from, and is written last.

A kill before that leaves no stamp, and the work is done again; what carries the expected stamp is not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path

from training.progress import Progress
from training.shards import write_json

__all__ = ["finished", "once"]

STAMP = "settings.json"


def finished(folder: Path, made_from: str, names: Collection[str]) -> bool:
    """Whether the files `names` are there and were made from this."""
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return stamp == {"digest": made_from} and all((folder / name).is_file() for name in names)


def once(folder: Path, made_from: str, work: Callable[[], object], progress: Progress, what: str) -> None:
    """Do the work that fills a folder, after removing an old stamp and saying so; then stamp it."""
    stamp = folder / STAMP
    if stamp.exists():
        progress.note(f"{what}: settings or shards changed; made again")
        stamp.unlink()
    work()
    write_json(stamp, {"digest": made_from})
