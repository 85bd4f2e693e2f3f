"""A folder of records → **the suspicious ones, newest first, each with its labels**; a label in, and onto the disk.

What is read is kept until the folder holds other shards. Labels are written as the server writes its own.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow.compute as pc

from detector.errors import ConfigError, DataError
from detector.records.reader import LABELS, RECORDS, RecordReader
from detector.records.schema import Label, Record, Truth, schema_of
from detector.records.shards import ShardFolder, shards_in
from detector.text import nearest, printable

__all__ = ["BORDERLINE", "Archive", "Entry", "Filter", "Found"]

BORDERLINE = 5.0
"""An image that was not flagged is borderline where it would be at so many times the false-positive rate."""
VERDICTS = ("all", "flagged", "borderline")
LABELLED = ("any", "unlabelled", "labelled", "contradicting")


@dataclass(frozen=True)
class Entry:
    """A record, without what is large, and what people said about it, oldest first."""

    record: Record
    labels: Sequence[Label]

    @property
    def flagged(self) -> str:
        """As what it was flagged: "attacked", "patched", or empty."""
        record = self.record
        patched = record.patch_p_value is not None and record.patch_p_value <= record.false_positive_rate
        return "attacked" if record.attacked else "patched" if patched else ""

    @property
    def contradicting(self) -> bool:
        """Whether two of its labels cannot both be right."""
        return any(one.contradicts(other) for one in self.labels for other in self.labels)


@dataclass(frozen=True)
class Filter:
    """Which entries to show.

    Attributes:
        verdict: One of `VERDICTS`.
        labelled: One of `LABELLED`.
        client: Its name; empty for all.
        since: First day, in UTC.
        until: Last day, in UTC.
    """

    verdict: str = "all"
    labelled: str = "any"
    client: str = ""
    since: date | None = None
    until: date | None = None

    @classmethod
    def of(cls, words: dict[str, str]) -> Filter:
        """What a person filled in.

        Raises:
            ConfigError: It is none of the choices, or no day.
        """
        for name, choices in (("verdict", VERDICTS), ("labelled", LABELLED)):
            if words.get(name) and words[name] not in choices:
                raise ConfigError(f"{name}: expected one of {', '.join(choices)}, but came '{printable(words[name])}'")
        return cls(
            words.get("verdict") or "all",
            words.get("labelled") or "any",
            words.get("client", ""),
            _day("since", words.get("since", "")),
            _day("until", words.get("until", "")),
        )

    def holds(self, entry: Entry) -> bool:
        """Whether it is to be shown."""
        record, day = entry.record, entry.record.time.date()
        return (
            (self.verdict == "all" or bool(entry.flagged) == (self.verdict == "flagged"))
            and (not self.client or record.client == self.client)
            and (self.since is None or day >= self.since)
            and (self.until is None or day <= self.until)
            and {
                "any": True,
                "unlabelled": not entry.labels,
                "labelled": bool(entry.labels),
                "contradicting": entry.contradicting,
            }[self.labelled]
        )


@dataclass(frozen=True)
class Found:
    """All that is suspicious.

    Attributes:
        entries: Newest first.
        clients: Who sent them.
        classes: Every class that is known, by name.
        skipped: Shards that cannot be read, and why.
        malformed: How many rows make no sense.
    """

    entries: Sequence[Entry]
    clients: Sequence[str]
    classes: Sequence[str]
    skipped: dict[str, str]
    malformed: int


class Archive:
    """What a server recorded; may be used from many threads.

    Args:
        folder: The setting `record_folder` of the server.
        classes: Of the classifier; where there are none, those that records name.

    Raises:
        DataError: There is no such folder.
    """

    def __init__(self, folder: Path, classes: Sequence[str] = ()) -> None:
        RecordReader(folder)
        self._folder, self._classes = folder, classes
        self._lock = threading.Lock()
        self._found: tuple[object, Found] | None = None
        self._labels: ShardFolder | None = None

    def find(self) -> Found:
        """All that is suspicious, as of now.

        Raises:
            DataError: The folder is gone, or cannot be read.
        """
        with self._lock:
            try:
                folders = [self._folder / name for name in (RECORDS, LABELS)]
                state = [[each.path.name for each in shards_in(path)] for path in folders if path.is_dir()]
                if self._found is None or self._found[0] != state:
                    self._found = state, self._read()
            except OSError as error:
                raise DataError(f"{self._folder} cannot be read: {error.strerror or error}") from error
            return self._found[1]

    def whole(self, record_id: str) -> Record | None:
        """One record with its image and its evidence, as far as they were recorded."""
        where = pc.field("record_id") == record_id
        return next(RecordReader(self._folder).records(evidence=True, images=True, where=where), None)

    def label(self, record_id: str, truth: str, true_label: str, by: str) -> None:
        """Keeps what somebody says; it is on the disk when this returns.

        Raises:
            DataError: It cannot be kept.
            ConfigError: It is no label, or there is no such record.
        """
        found = self.find()
        if all(each.record.record_id != record_id for each in found.entries):
            raise ConfigError(f"no record '{printable(record_id)}' is here: it was removed since, or never was")
        if truth not in Truth.__members__.values():
            raise ConfigError(f"truth: expected one of {', '.join(Truth)}, but came '{printable(truth)}'")
        named = true_label if truth == Truth.TRUE_LABEL else ""
        if truth == Truth.TRUE_LABEL and named not in found.classes:
            raise ConfigError(f"no class is called '{printable(named)}'{nearest(named, found.classes)}")
        label = Label(record_id=record_id, truth=truth, true_label=named, by=by, time=datetime.now(UTC))
        with self._lock:
            try:
                self._labels = self._labels or ShardFolder(self._folder / LABELS, schema_of(Label))
                self._labels.write([asdict(label)])
            except OSError as error:
                raise DataError(f"the label was not kept: {error.strerror or error}; mend that, label again") from error

    def _read(self) -> Found:
        reader = RecordReader(self._folder)
        labels = defaultdict[str, list[Label]](list)
        for label in reader.all_labels():
            if label not in labels[label.record_id]:  # twice where two processes merged the same shards
                labels[label.record_id].append(label)
        borderline = pc.field("false_positive_rate") * pc.scalar(BORDERLINE)
        near = (pc.field("p_value") <= borderline) | (pc.field("patch_p_value") <= borderline)
        records = list(reader.records(where=pc.field("attacked") | near))
        entries = [Entry(record, labels[record.record_id]) for record in records]
        entries.sort(key=lambda entry: entry.record.time, reverse=True)
        names = {name for each in records for name in (each.predicted_name, each.recovered_name, each.corrected_name)}
        return Found(
            entries=entries,
            clients=sorted({each.client for each in records}),
            classes=self._classes or sorted(names - {""}),
            skipped=reader.skipped,
            malformed=sum(reader.malformed.values()),
        )


def _day(name: str, text: str) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise ConfigError(f"{name}: expected a day like 2026-11-29, but came '{printable(text)}'") from None
