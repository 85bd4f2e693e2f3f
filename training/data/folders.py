"""Folders of photographs: folders in, their image files out; what was left out is counted.

Hidden files and what systems and programs leave beside pictures are none. A linked folder is followed once; one that
leads to a folder already seen, as a loop does, is counted.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from heatward.cli.files import SUFFIXES, is_ours

from detector.errors import DataError
from detector.text import printable

__all__ = ["SUFFIXES", "Found", "class_folders", "find_images", "is_ours"]

KINDS_NAMED = 6


def is_image(path: Path) -> bool:
    """Whether a file's name says that it can be read."""
    return path.suffix.lower() in SUFFIXES


@dataclass(frozen=True)
class Found:
    """Image files of each folder, sorted, and what was left out."""

    files: list[list[Path]]
    others: Counter[str] = field(default_factory=Counter)
    """Suffix → files that are no images."""
    links: list[Path] = field(default_factory=list)
    """Linked folders that lead to one already seen."""

    def notes(self) -> list[str]:
        """What was left out, a line each."""
        said = []
        if self.others:
            kinds = [f"{count} {printable(suffix) or 'without suffix'}" for suffix, count in self.others.most_common()]
            named = ", ".join(kinds[:KINDS_NAMED]) + ("" if len(kinds) <= KINDS_NAMED else ", …")
            said.append(f"left out {self.others.total()} files that are no JPEG, PNG or WebP: {named}")
        if self.links:
            said.append(f"left out {len(self.links)} linked folders whose images are there already: {self.links[0]}, …")
        return said


def class_folders(root: Path) -> tuple[list[Path], list[Path]]:
    """The user's folders in a folder, sorted, and the files that lie beside them.

    Raises:
        DataError: It is no folder, or cannot be read.
    """
    if not root.is_dir():
        raise DataError(f"image folder {root} {'is no folder' if root.exists() else 'does not exist'}")
    try:
        ours = sorted(path for path in root.iterdir() if is_ours(path.name))
    except OSError as error:
        raise DataError(f"image folder {root} cannot be read: {error.strerror}") from error
    return [path for path in ours if path.is_dir()], [path for path in ours if not path.is_dir()]


def find_images(folders: Sequence[Path]) -> Found:
    """Image files below each of several folders. No file is found twice: where a link leads to it, its own place wins.

    Raises:
        DataError: A folder cannot be read.
    """
    found = Found([[] for _ in folders])
    # a link back to the folder above the named ones is a loop: what lies beside them belongs to none of them
    own = {_identity(folder) for folder in folders}
    seen = {_identity(Path(os.path.abspath(folder)).parent) for folder in folders} - own
    # links stand at the end: they wait until all that needs no link has been seen
    waiting = deque(sorted(((path, at) for at, path in enumerate(folders)), key=lambda each: each[0].is_symlink()))
    while waiting:
        folder, at = waiting.popleft()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(f"folder {folder} cannot be read: {error.strerror}") from error
        if (identity := _identity(folder)) in seen:
            found.links.append(folder)
            continue
        seen.add(identity)
        for entry in entries:
            path = folder / entry.name
            if not is_ours(entry.name):
                continue
            if entry.is_dir():
                (waiting.append if entry.is_symlink() else waiting.appendleft)((path, at))
            elif entry.is_file() and is_image(path):
                found.files[at].append(path)
            else:
                found.others[path.suffix.lower() if path.exists() else "links to nothing"] += 1
    for files in found.files:
        files.sort()
    return found


def _identity(folder: Path) -> tuple[int, int]:
    try:
        status = folder.stat()
    except OSError as error:
        raise DataError(f"folder {folder} cannot be read: {error.strerror}") from error
    return status.st_dev, status.st_ino
