"""A folder that a server recorded into → **its records and labels**; what is damaged is skipped and counted.

A training job and a reviewer read while the server writes: shards are whole, and stay for ten minutes after they were
merged into others.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from detector.errors import DataError
from detector.records.schema import Label, Record, Truth, schema_of
from detector.records.shards import replaced_by, shards_in

__all__ = ["LABELS", "RECORDS", "RecordReader"]

log = logging.getLogger("heatward.records")

RECORDS, LABELS = "records", "labels"
"""Folders of the shards of each."""
SCHEMAS = {RECORDS: schema_of(Record), LABELS: schema_of(Label)}
DIGITS = frozenset("0123456789abcdef")


class RecordReader:
    """Reads what was recorded.

    Args:
        folder: The setting `record_folder` of the server.

    Raises:
        DataError: There is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DataError(f"{folder} is no folder of records: name what `record_folder` of the server names")
        self._folder = folder
        self.skipped: dict[str, str] = {}
        """Shards that cannot be read, and why."""
        self.malformed: Counter[str] = Counter()
        """Rows that are no records or labels, by what is wrong."""
        self.contradicting: set[str] = set()
        """Records whose labels contradict each other, once `labels` was called."""

    def records(
        self, *, evidence: bool = False, images: bool = False, where: pc.Expression | None = None
    ) -> Iterator[Record]:
        """Every record, in the order of writing; `evidence` and `images`, which are large, on demand.

        Args:
            evidence: Read it, too.
            images: Read them, too.
            where: What must hold for the rows; all, if nothing is said.
        """
        wanted = {"evidence": evidence, "image": images}
        columns = [each.name for each in fields(Record) if wanted.get(each.name, True)]
        for row in self._rows(RECORDS, columns, where):
            if fault := _fault(row):
                self.malformed[fault] += 1
            else:
                yield Record(**row)

    def labels(self) -> dict[str, Label]:
        """The label of each record that has one: the last that was given."""
        found: dict[str, Label] = {}
        for label in self.all_labels():
            earlier = found.get(label.record_id)
            if earlier is not None and label.contradicts(earlier):
                self.contradicting.add(label.record_id)
            found[label.record_id] = label
        return found

    def all_labels(self) -> Iterator[Label]:
        """Every label that was ever given, in their order."""
        for row in self._rows(LABELS, [each.name for each in fields(Label)]):
            if None in row.values() or not row["record_id"] or row["truth"] not in Truth.__members__.values():
                self.malformed["label"] += 1
            else:
                yield Label(**row)

    def find(self, name: str) -> list[str]:
        """The records of that record id, request id, or call id and request id (`CALL/REQUEST`)."""
        found: list[str] = []
        call, _, request = name.rpartition("/")
        for table in self.tables(RECORDS, ["record_id", "request_id", "call_id"]):
            both = pc.and_(pc.equal(table["call_id"], call), pc.equal(table["request_id"], request))
            either = pc.or_(pc.equal(table["record_id"], name), pc.equal(table["request_id"], name))
            found += table.filter(pc.or_(either, both))["record_id"].to_pylist()
        return found

    def tables(self, kind: str, columns: Sequence[str], where: pc.Expression | None = None) -> Iterator[pa.Table]:
        """A table for each shard that can be read, in the order of writing, of its rows `where` it holds."""
        return (table for _, table in self._tables(kind, columns, where))

    def _rows(self, kind: str, columns: Sequence[str], where: pc.Expression | None = None) -> Iterator[dict[str, Any]]:
        for path, table in self._tables(kind, columns, where):
            rows: list[dict[str, Any]] | None = self._read(path, lambda _, table=table: table.to_pylist())
            yield from rows or ()

    def _tables(
        self, kind: str, columns: Sequence[str], where: pc.Expression | None
    ) -> Iterator[tuple[Path, pa.Table]]:
        folder = self._folder / kind
        shards = shards_in(folder) if folder.is_dir() else []
        replaced: set[str] = set()
        for shard in [each for each in shards if each.level]:
            replaced.update(self._read(shard.path, lambda path: replaced_by(pq.read_schema(path).metadata)) or ())
        for shard in shards:
            if shard.path.name not in replaced:
                table = self._read(shard.path, lambda path: _table(path, SCHEMAS[kind], columns, where))
                if table is not None:
                    yield shard.path, table

    def _read(self, path: Path, read: Any) -> Any:
        try:
            return read(path)
        except FileNotFoundError:  # removed meanwhile: too old, or merged
            return None
        except (OSError, pa.ArrowException, ValueError, OverflowError) as error:
            self._skip(path, str(error).partition("\n")[0])
        return None

    def _skip(self, path: Path, why: str) -> None:
        if path.name not in self.skipped:
            log.warning("a shard is skipped", extra={"shard": str(path), "reason": why})
        self.skipped[path.name] = why


def _table(path: Path, schema: pa.Schema, columns: Sequence[str], where: pc.Expression | None) -> pa.Table:
    """Some columns of a shard; null where it is older than one of them.

    Raises:
        ValueError: A column is missing, or is of another kind.
        pa.ArrowException: What a column holds is not what it says.
    """
    found = pq.read_schema(path)
    for name in columns:
        if name not in found.names:
            if schema.field(name).nullable:  # the shard is older than the column
                continue
            raise ValueError(f"it has no column {name}")
        if found.field(name).type != schema.field(name).type:
            raise ValueError(f"its column {name} is of {found.field(name).type}, expected {schema.field(name).type}")
    table = pq.read_table(path, columns=list(columns), schema=schema, filters=where, page_checksum_verification=True)
    table.validate(full=True)  # text that is no UTF-8
    return table


def _fault(row: dict[str, Any]) -> str:
    """What is wrong with a record; empty where nothing is."""
    if missing := [name for name, value in row.items() if value is None and not SCHEMAS[RECORDS].field(name).nullable]:
        return f"no {missing[0]}"
    if not row["record_id"]:
        return "no record_id"
    if not 0 < row["p_value"] <= 1:
        return "p_value"
    if len(row["input_sha256"]) != 64 or not DIGITS.issuperset(row["input_sha256"]):
        return "input_sha256"
    return "" if row["height"] > 0 and row["width"] > 0 else "size"
