"""Records of a server and their labels in; recent images out: clean ones, reported false alarms, reported attacks.

An image counts once, however often it was sent. What nobody labelled an attack is taken to be clean. Every second
reported false alarm and attack, by a hash of the image, is there to learn from; the others are there to measure on,
and the fate of an image never changes. Of the labels of an image, the last that says *attack* or *false alarm* counts,
and the last that says what it shows.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detector.errors import ConfigError, DataError, ImageError
from detector.files import replacing
from detector.images import decode
from detector.text import nearest, printable
from training.progress import Progress
from training.shards import digest

if TYPE_CHECKING:
    from detector.records.reader import RecordReader

__all__ = ["Recorded", "Traffic", "held_out", "lessons", "read_traffic", "write_lessons"]


@dataclass(frozen=True)
class Recorded:
    """A recorded image."""

    name: str
    """The record's id."""
    identity: str
    """sha256 of the file or pixels as they came."""
    predicted: str
    """Class that the server named."""
    true_label: str
    """Class that somebody named; empty where nobody did."""
    content: bytes

    @property
    def shows(self) -> str:
        """Class: the one that somebody named, or else the prediction."""
        return self.true_label or self.predicted

    @property
    def is_lesson(self) -> bool:
        """Whether it may be learnt from, should it be a false alarm or an attack."""
        return int(digest(["lesson", self.identity])[:8], 16) % 2 == 0

    def pixels(self) -> NDArray[np.uint8]:
        """(H, W, 3) RGB.

        Raises:
            ImageError: It cannot be read.
        """
        return decode(self.content)


@dataclass(frozen=True)
class Traffic:
    """Recent images, each once, newest last."""

    clean: tuple[Recorded, ...] = ()
    """Nobody said anything of them, or only what they show."""
    false_alarms: tuple[Recorded, ...] = ()
    attacks: tuple[Recorded, ...] = ()

    @property
    def to_calibrate(self) -> Iterator[tuple[str, bytes]]:
        """Name and file of every image that is taken to be clean and was not learnt from."""
        for each in (*self.clean, *held_out(self.false_alarms)):
            yield each.name, each.content


def lessons(reported: Iterable[Recorded]) -> tuple[Recorded, ...]:
    """Those to learn from."""
    return tuple(each for each in reported if each.is_lesson)


def held_out(reported: Iterable[Recorded]) -> tuple[Recorded, ...]:
    """Those to measure on."""
    return tuple(each for each in reported if not each.is_lesson)


@dataclass
class _Chosen:
    """Records by what they are for."""

    clean: deque[str]
    false_alarms: dict[str, str] = field(default_factory=dict)
    attacks: dict[str, str] = field(default_factory=dict)
    true_labels: dict[str, str] = field(default_factory=dict)


def read_traffic(folder: Path, limit: int, progress: Progress, *, client: str | None = None) -> Traffic:
    """Read what a server recorded.

    Args:
        folder: Its setting `record_folder`.
        limit: At most so many clean images, the newest.
        progress: Told of what could not be used.
        client: Only what this one sent: the name of its token, or its address. None: what anybody sent.

    Raises:
        DataError: There is no such folder, or nothing of this client in it.
        ConfigError: What reads records is not installed.
    """
    try:
        from detector.records.reader import RecordReader
        from detector.records.schema import Truth
    except ModuleNotFoundError as error:
        raise ConfigError(f'--records: {error.name} is not installed: pip install -e ".[record]"') from error
    reader = RecordReader(folder)
    said, shown, contradicting = _read_labels(reader)
    chosen, without = _Chosen(deque(maxlen=limit)), 0
    seen, known = set[str](), set[str]()
    clients = set[str]()
    for record in reader.records():
        known.add(record.record_id)
        clients.add(record.client)
        if record.record_id in shown:
            chosen.true_labels[record.input_sha256] = shown[record.record_id]
        if said.get(record.record_id) == Truth.ATTACK:
            chosen.attacks[record.input_sha256] = record.record_id  # whoever sent it: nobody's copy of it is clean
        elif client is not None and record.client != client:
            continue
        elif said.get(record.record_id) == Truth.FALSE_ALARM:
            chosen.false_alarms[record.input_sha256] = record.record_id
        elif record.input_sha256 not in seen:
            chosen.clean.append(record.record_id)
        seen.add(record.input_sha256)
    if client is not None and client not in clients:
        raise DataError(f"{folder}: nothing of client {printable(client)!r}{nearest(client, sorted(clients))}")
    malformed = reader.malformed.total()
    # a label of one copy holds for all
    told = {*chosen.attacks, *chosen.false_alarms}
    disputed = {*chosen.attacks} & {*chosen.false_alarms}
    wanted = {*chosen.clean, *chosen.false_alarms.values(), *chosen.attacks.values()}
    found: dict[str, Recorded] = {}
    for record in reader.records(images=True):
        if record.record_id in wanted and record.image is None:
            without += 1
        elif record.record_id in wanted and record.image is not None:
            sha, name = record.input_sha256, record.record_id
            true_label = chosen.true_labels.get(sha, "")
            found[name] = Recorded(name, sha, record.predicted_name, true_label, record.image)
    _tell(progress, folder, reader.skipped, malformed, contradicting, disputed)
    if strange := (said.keys() | shown.keys()) - known:
        progress.note(f"{folder}: {len(strange)} labels belong to images that are not recorded (any more)")
    if without:
        progress.note(f"{folder}: {without} records have no image (record_images of the server is off)")
    return Traffic(
        clean=tuple(found[each] for each in chosen.clean if each in found and found[each].identity not in told),
        false_alarms=tuple(
            found[each] for sha, each in chosen.false_alarms.items() if each in found and sha not in disputed
        ),
        attacks=tuple(found[each] for sha, each in chosen.attacks.items() if each in found and sha not in disputed),
    )


def _read_labels(reader: RecordReader) -> tuple[dict[str, str], dict[str, str], set[str]]:
    """Record → the last verdict, and → the last class that it shows; records with labels that contradict each other."""
    said: dict[str, str] = {}
    shown: dict[str, str] = {}
    contradicting = set[str]()
    for label in reader.all_labels():
        known, now = (shown, label.true_label) if label.true_label else (said, label.truth)
        if known.setdefault(label.record_id, now) != now:
            contradicting.add(label.record_id)
        known[label.record_id] = now
    return said, shown, contradicting


def write_lessons(folder: Path, images: Collection[Recorded], classes: Collection[str], progress: Progress) -> bool:
    """Write images to learn from into class folders, and remove all others: what a server forgets is forgotten here.

    Returns:
        Whether there are any.
    """
    wanted: dict[Path, Recorded] = {}
    for each in images:
        if each.shows in classes and Path(each.shows).name == each.shows and not each.shows.startswith("."):
            wanted[folder / each.shows / f"{each.identity}.png"] = each
        else:
            progress.note(f"{each.name}: left out, for {printable(each.shows)!r} is no class, or no name of a folder")
    for path in sorted(folder.glob("*/*")):
        if path not in wanted:
            path.unlink()
    written = 0
    for path, each in wanted.items():
        try:
            if not path.exists():
                picture = Image.fromarray(each.pixels())
                with replacing(path) as stream:
                    picture.save(stream, "PNG")
            written += 1
        except ImageError as error:
            progress.note(f"{each.name}: left out: {error}")
    if not written:
        shutil.rmtree(folder, ignore_errors=True)
    return written > 0


def _tell(
    progress: Progress,
    folder: Path,
    skipped: Collection[str],
    malformed: int,
    contradicting: Collection[str],
    disputed: Collection[str],
) -> None:
    if skipped:
        progress.note(f"{folder}: {len(skipped)} damaged shards were skipped, such as {sorted(skipped)[0]}")
    if malformed:
        progress.note(f"{folder}: {malformed} rows that make no sense were skipped")
    if contradicting:
        progress.note(f"{folder}: {len(contradicting)} images have contradicting labels: the last one counts")
    if disputed:
        progress.note(f"{folder}: {len(disputed)} images came more than once, with other labels, and were left out")
