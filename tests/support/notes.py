"""A progress that keeps what a job notes."""

from __future__ import annotations

from training.progress import SilentProgress


class Notes(SilentProgress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)
