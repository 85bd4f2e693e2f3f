"""Which files `heatward detect` sends: paths and folders go in, numbered images come out, read as they are needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from heatward.values import Failure

__all__ = ["ImageFile", "Reader", "find_images"]

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})


@dataclass(frozen=True)
class ImageFile:
    """An image to send.

    Attributes:
        path: Where it lies.
        relative: Its place below the folder that was named, or its bare name: used for what is written beside it.
    """

    path: Path
    relative: Path


def find_images(paths: Iterable[Path]) -> list[ImageFile]:
    """Files as named, and below folders every JPEG, PNG and WebP file, sorted.

    Raises:
        FileNotFoundError: A path does not exist.
    """
    found: list[ImageFile] = []
    for path in paths:
        if path.is_dir():
            below = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
            found += [ImageFile(file, file.relative_to(path)) for file in below]
        elif path.exists():
            found.append(ImageFile(path, Path(path.name)))
        else:
            raise FileNotFoundError(f"{path}: no such file or folder")
    return found


@dataclass
class Reader:
    """Feeds a stream from files; a file that cannot be read becomes a `Failure` of its own and is not sent.

    Attributes:
        sent: Which of `files` is the n-th image of the stream.
        unreadable: (position in `files`, failure), to be collected by the caller.
    """

    files: list[ImageFile]
    sent: list[int] = field(default_factory=list)
    unreadable: list[tuple[int, Failure]] = field(default_factory=list)

    def __iter__(self) -> Iterator[bytes]:
        for position, file in enumerate(self.files):
            try:
                data = file.path.read_bytes()
            except OSError as error:
                self.unreadable.append((position, Failure("NOT_FOUND", f"cannot be read: {error.strerror}")))
                continue
            self.sent.append(position)
            yield data
