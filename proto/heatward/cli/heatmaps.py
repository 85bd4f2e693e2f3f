"""Where `heatward detect --save-heatmaps` writes: answers go in, PNG files lie below a folder as their images do."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from heatward.cli.files import ImageFile
from heatward.client.values import Failure, Verdict

__all__ = ["HeatmapFiles"]

ENDING = ".heatmap.png"
LONGEST_NAME = 200
"""Bytes of an image's name that its heatmap's name repeats; file systems allow 255 in all."""


class HeatmapFiles:
    """Writes heatmaps; equal names get a number.

    Attributes:
        lost: How many could not be written.
        first_loss: Why the first of them could not.

    Raises:
        OSError: The folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._taken: set[Path] = set()
        self.lost = 0
        self.first_loss = ""

    def write(self, file: ImageFile, answer: Verdict | Failure) -> Path | None:
        """The file that holds the answer's heatmap, or None where there is none."""
        if isinstance(answer, Failure) or answer.heatmap_png is None:
            return None
        path = self._free(file.relative)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, answer.heatmap_png)
        except OSError as error:
            self.lost += 1
            self.first_loss = self.first_loss or str(error)
            return None
        return path

    def lost_line(self) -> str:
        """Empty where all were written."""
        heatmaps = "1 heatmap was" if self.lost == 1 else f"{self.lost} heatmaps were"
        return f"{heatmaps} not written, the first: {self.first_loss}" if self.lost else ""

    def _free(self, relative: Path) -> Path:
        folder, name = self._folder / relative.parent, _shortened(relative.name)
        path, number = folder / f"{name}{ENDING}", 2
        while path in self._taken:
            path, number = folder / f"{name}-{number}{ENDING}", number + 1
        self._taken.add(path)
        return path


def _write(path: Path, png: bytes) -> None:
    """The whole file or nothing: on a full disk no half of a picture stays."""
    half = path.with_name(f".{path.name}.part")
    try:
        half.write_bytes(png)
        half.replace(path)
    except OSError:
        with suppress(OSError):
            half.unlink()
        raise


def _shortened(name: str) -> str:
    encoded = name.encode("utf-8", "surrogateescape")
    return name if len(encoded) <= LONGEST_NAME else encoded[:LONGEST_NAME].decode("utf-8", "ignore")
