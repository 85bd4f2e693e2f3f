"""How long work took in a work folder: images and seconds in, an estimate for the next run out.

One file, `rates.json`: by stage, and for shards by label as well. What was measured before counts half as much each
time, so that estimates follow changed settings.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from training.shards import write_json

__all__ = ["Rates"]

FILE = "rates.json"


@dataclass(frozen=True)
class Rates:
    """The rates of a work folder."""

    work: Path

    def record(self, name: str, images: int, seconds: float) -> None:
        """Remember that so many images took so long."""
        if images > 0:
            known = self._read()
            old_images, old_seconds = known.get(name, (0.0, 0.0))
            known[name] = (old_images / 2 + images, old_seconds / 2 + seconds)
            write_json(self.work / FILE, known)

    def seconds(self, name: str, images: int) -> float | None:
        """How long so many images take; None where it was never measured."""
        images_before, seconds_before = self._read().get(name, (0.0, 0.0))
        return images * seconds_before / images_before if images_before else None

    def _read(self) -> dict[str, tuple[float, float]]:
        try:
            found = json.loads((self.work / FILE).read_text(encoding="utf-8"))
            return {str(name): (float(images), float(seconds)) for name, (images, seconds) in found.items()}
        except (OSError, ValueError, TypeError, AttributeError):  # none yet, or damaged: measured again
            return {}
