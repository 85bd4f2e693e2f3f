"""Which files `heatward detect` sends: paths and folders go in, the images below them and a count of the rest come out.

Linked folders are followed, each once, so that a loop of links ends. What systems and programs leave beside pictures
(`._a.png`, `__MACOSX`, `Thumbs.db`) is passed over below a folder; what is named itself is always used.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from heatward.cli.text import printable

__all__ = ["STANDARD_INPUT", "SUFFIXES", "Found", "ImageFile", "find_images", "is_ours"]

SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jif", ".jfif", ".png", ".webp"})
SYSTEM_NAMES = {
    "__macosx", "icon\r", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin",
    "system volume information", "@eadir", "@recycle", "#recycle", "lost+found",
}  # fmt: skip
"""What systems and programs leave beside pictures, in lower case."""
KINDS_NAMED = 6
LONGEST_SUFFIX = 12


@dataclass(frozen=True)
class ImageFile:
    """An image to send.

    Attributes:
        path: Where it lies.
        relative: Its place below the folder that was named, or its bare name: used for what is written beside it.
        trouble: Why there is nothing to read: `path` is a folder that cannot be looked into.
    """

    path: Path
    relative: Path
    trouble: OSError | None = None


STANDARD_INPUT = ImageFile(Path("-"), Path("stdin"))


@dataclass
class Found:
    """What the command line names: images, and how many other files of each kind the folders hold."""

    files: list[ImageFile] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def left_out_line(self) -> str:
        """Such as "3 files left out: 2 .tif, 1 .bmp: heatward reads JPEG, PNG and WebP"; empty where none was."""
        total = self.left_out.total()
        if not total:
            return ""
        named = self.left_out.most_common(KINDS_NAMED)
        kinds = [f"{number} {kind}" for kind, number in named]
        if others := total - sum(number for _, number in named):
            kinds.append(f"{others} of other kinds")
        files = "file" if total == 1 else "files"
        return f"{total} {files} left out: {', '.join(kinds)}: heatward reads JPEG, PNG and WebP"


def is_ours(name: str) -> bool:
    """Whether a file or folder is the user's: neither hidden nor of a system."""
    return not name.startswith(".") and name.lower() not in SYSTEM_NAMES


def find_images(paths: Iterable[str]) -> Found:
    """Files as named, "-" for standard input, and below folders every JPEG, PNG and WebP file, sorted.

    What is named twice, such as a folder and a file in it, is there twice.

    Raises:
        OSError: A path does not exist, or cannot be looked at.
        ValueError: Standard input is named twice.
    """
    found = Found()
    for text in paths:
        path = Path(text)
        if text == "-":
            if STANDARD_INPUT in found.files:
                raise ValueError("- is standard input, which holds one image: name it once")
            found.files.append(STANDARD_INPUT)
        elif not text or not path.exists():
            link = " (a link to nothing)" if text and path.is_symlink() else ""
            raise FileNotFoundError(f"{printable(text, None) or 'an empty path'}: no such file or folder{link}")
        elif path.is_dir():
            below = sorted(_below(path, found.left_out), key=lambda file: file.path)
            found.files += below
        else:
            found.files.append(ImageFile(path, Path(path.name)))
    return found


def _below(root: Path, left_out: Counter[str]) -> Iterator[ImageFile]:
    """Real folders before linked ones, so that a folder with two names goes by its own."""
    seen: set[tuple[int, int]] = set()
    real, linked = deque([root]), deque[Path]()
    while real or linked:
        folder = real.popleft() if real else linked.popleft()
        try:
            state = folder.stat()
            place = (state.st_dev, state.st_ino)
            if place in seen:
                continue
            seen.add(place)
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            yield ImageFile(folder, folder.relative_to(root), error)
            continue
        for entry in entries:
            path = folder / entry.name
            if not is_ours(entry.name):
                continue
            if _is_folder(entry):
                (linked if entry.is_symlink() else real).append(path)
            elif path.suffix.lower() in SUFFIXES:
                yield ImageFile(path, path.relative_to(root))
            else:
                left_out[_kind(entry)] += 1


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into a folder that is closed to us
        return False


def _kind(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink() and not os.path.exists(entry):
        return "broken link"
    suffix = os.path.splitext(entry.name)[1].lower()
    return printable(suffix) if 0 < len(suffix) <= LONGEST_SUFFIX else "without a known ending"
