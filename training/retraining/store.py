"""A folder of bundles with a pointer and a history: bundles in; the champion, who was it when, and a way back out.

    champion.json      the pointer: replaced in one step, and alone decides what serves (detector/bundle/folder.py)
    history.jsonl      a line for each champion and for each challenger that did not become one; only ever appended to
    0007-5f2c….heatward

The pointer moves first, its line follows: where a job is killed in between, the next appends the line.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from pydantic import ValidationError

from detector.bundle import Bundle, read_manifest, save_bundle, sign_bundle
from detector.bundle.archive import MANIFEST, ZIP_SUFFIX
from detector.bundle.folder import Champion, newest, read_champion, write_champion
from detector.errors import BundleError, BusyError, ConfigError, HeatwardError
from detector.keys import SigningKey
from detector.lock import hold
from detector.remote import shown
from detector.text import printable

__all__ = ["KEPT", "History", "Store"]

HISTORY = "history.jsonl"
INCOMING = f".incoming{ZIP_SUFFIX}"
ROLLED_BACK = "rolled back"
KEPT = "kept"
"""Event of a challenger that did not become champion."""


@dataclass(frozen=True)
class History:
    """What a store remembers."""

    entries: tuple[Champion, ...]
    damaged: int
    """Lines that cannot be read, such as one that a full disk cut in half."""


@dataclass(frozen=True)
class Store:
    """A folder of bundles."""

    folder: Path

    @classmethod
    def open(cls, folder: Path) -> Store:
        """A store that is there.

        Raises:
            ConfigError: It is no folder, or holds no bundle.
        """
        store = cls.at(folder)
        if read_champion(folder) is None:
            newest(folder)
        return store

    @classmethod
    def at(cls, folder: Path) -> Store:
        """A folder that may be one, whose pointer may be damaged: to look at it, or to mend it.

        Raises:
            ConfigError: It is no folder.
        """
        if not folder.is_dir() or (folder / MANIFEST).exists():
            raise ConfigError(
                f"{shown(folder)} is no store: give a folder of this machine that holds a bundle to begin with "
                "(mkdir STORE; cp BUNDLE STORE/)"
            )
        return cls(folder)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep other jobs from making another champion meanwhile; a rollback may.

        Raises:
            BusyError: Another job does.
            ConfigError: The folder cannot be written.
        """
        with hold(self.folder, what="store", mend="wait for its end"):
            with self._moving():
                pass  # a line that is missing is written
            yield

    def champion(self) -> Champion:
        """The champion; in a folder without a pointer, the last bundle by name becomes it.

        Raises:
            HeatwardError: There is none, or the pointer is wrong.
        """
        path = newest(self.folder)
        if (found := read_champion(self.folder)) is not None:
            return found
        with self._moving():
            if (found := read_champion(self.folder)) is not None:
                return found
            digest = read_manifest(path).digest
            why = "the last bundle by name of a folder without a pointer"
            return self._point(path.name, digest, "adopted", why, None)

    def path(self, champion: Champion) -> Path:
        """Where a champion's bundle lies."""
        return self.folder / champion.bundle

    def promote(
        self, bundle: Bundle, event: str, why: str, expected: Champion, key: SigningKey | None = None
    ) -> Champion:
        """Put a bundle into the store and have the pointer name it.

        Args:
            bundle: The new champion.
            event: How it came there.
            why: Why.
            expected: The champion that it was compared with.
            key: Signs it.

        Raises:
            BusyError: Another became champion meanwhile.
            OSError: The store cannot be written; the champion stays.
        """
        with self._moving():
            now = read_champion(self.folder)
            if now is None or now.digest != expected.digest:
                raise BusyError(
                    f"store: {expected.bundle} is no longer the champion of {self.folder}, with which another was "
                    "compared: run the same command again"
                )
            name, digest = self._add(bundle, key)
            return self._point(name, digest, event, why, now.digest)

    def keep(self, name: str, digest: str, why: str) -> None:
        """Remember that a challenger did not become champion."""
        with self._moving():
            champion = read_champion(self.folder)
            parent = champion.digest if champion else None
            now = datetime.now(UTC)
            self._append(Champion(bundle=name, digest=digest, since=now, event=KEPT, why=why, parent=parent))

    def rollback(self, to: str | None = None) -> Champion:
        """Have the pointer name a bundle that is there already.

        Args:
            to: The beginning of its digest, its version on a server, or its name; None: the champion before this one.

        Raises:
            ConfigError: No bundle, or more than one, is called so.
            BundleError: There was no champion before, or its bundle is gone.
        """
        with self._moving():
            now = self.pointer()
            if to is None:
                if now is None or now.parent is None:
                    raise BundleError(f"{self.folder} had no champion before this one: name a bundle with --to")
                to = now.parent
            name, digest = self._named(to)
            entries = self.history().entries
            parents = [each.parent for each in entries if each.digest == digest and each.event != KEPT]
            why = f"instead of {now.bundle}" if now else "named by hand"
            before = now.digest if now and now.digest != digest else None
            return self._point(name, digest, ROLLED_BACK, why, parents[0] if parents else before)

    def withdrawn(self) -> dict[str, datetime]:
        """Digest of every champion that was rolled back from and has not served since, and when."""
        entries = [each for each in self.history().entries if each.event != KEPT]
        found: dict[str, datetime] = {}
        for before, after in pairwise(entries):
            if after.event == ROLLED_BACK and before.digest != after.digest:
                found[before.digest] = after.since
            found.pop(after.digest, None)  # somebody has it serve again
        return found

    def history(self) -> History:
        """Every line that can be read, oldest first, and the champion, should its line be missing."""
        found, champion = self._lines(), self.pointer()
        if champion is None or champion in found.entries:
            return found
        return History((*found.entries, champion), found.damaged)

    def _lines(self) -> History:
        try:
            lines = (self.folder / HISTORY).read_bytes().splitlines()
        except FileNotFoundError:
            return History((), 0)
        entries, damaged = [], 0
        for line in filter(None, lines):
            try:
                entries.append(Champion.model_validate_json(line))
            except ValidationError:
                damaged += 1
        return History(tuple(entries), damaged)

    @contextmanager
    def _moving(self) -> Iterator[None]:
        with hold(self.folder, what="pointer", wait=True):
            self._append_missing()
            yield

    def _append_missing(self) -> None:
        """The line of a champion whose job was killed before it was written."""
        champion = self.pointer()
        if champion is not None and champion not in self._lines().entries:
            self._append(champion)

    def pointer(self) -> Champion | None:
        """What the pointer says; None where there is none, or it is damaged."""
        try:
            return read_champion(self.folder)
        except HeatwardError:  # a rollback mends it
            return None

    def _point(self, name: str, digest: str, event: str, why: str, parent: str | None) -> Champion:
        champion = Champion(bundle=name, digest=digest, since=datetime.now(UTC), event=event, why=why, parent=parent)
        write_champion(self.folder, champion)
        self._append(champion)
        return champion

    def _append(self, entry: Champion) -> None:
        path = self.folder / HISTORY
        try:
            with path.open("a+b") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - 1))
                cut_short = size > 0 and file.read(1) != b"\n"
                file.write((b"\n" if cut_short else b"") + entry.model_dump_json().encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            error.filename = error.filename or str(path)
            raise

    def _add(self, bundle: Bundle, key: SigningKey | None) -> tuple[str, str]:
        incoming = self.folder / INCOMING
        save_bundle(incoming, bundle, key=key)
        digest = read_manifest(incoming).digest
        there = self.bundles()
        if digest in there:
            incoming.unlink()
            if key is not None:
                sign_bundle(self.folder / there[digest], key)
            return there[digest], digest
        numbers = [int(head) for name in there.values() if (head := name.partition("-")[0]).isdecimal()]
        name = f"{max(numbers, default=0) + 1:04d}-{digest[:12]}{ZIP_SUFFIX}"
        incoming.replace(self.folder / name)
        return name, digest

    def bundles(self) -> dict[str, str]:
        """Digest → name, of every bundle that can be read."""
        found = {}
        for path in sorted(self.folder.iterdir()):
            if not path.name.startswith(".") and (path.suffix == ZIP_SUFFIX or path.is_dir()):
                try:
                    found[read_manifest(path).digest] = path.name
                except (HeatwardError, OSError):
                    continue
        return found

    def _named(self, to: str) -> tuple[str, str]:
        there = self.bundles()
        wanted = to.lower()
        matches = [
            (name, digest)
            for digest, name in there.items()
            if to in (name, name.removesuffix(ZIP_SUFFIX)) or (wanted and digest.startswith(wanted))
        ]
        if len(matches) == 1:
            return matches[0]
        shown = ", ".join(f"{name} ({digest[:16]})" for digest, name in there.items()) or "none"
        problem = "is no bundle that can be read" if not matches else f"are {len(matches)} bundles"
        error = BundleError if len(to) == 64 and not matches else ConfigError
        raise error(f"{printable(to)} {problem} in {self.folder}; there are {shown}")
