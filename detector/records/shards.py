"""Rows → **a folder of Parquet shards**, each whole or not there; read in the order in which they were written.

    write ─▶ 000000000041.0.c0ffee00.parquet ─┬─▶ 60 of a level, or 64 MiB, are merged into one of the next
             sequence, level, chance          └─▶ the oldest are removed: too much in all, or too old

A merged shard names those that it replaces, which are removed ten minutes later, by whoever writes then: whoever reads
has found either these or that one, and no row counts twice.
The sequence decides what is older, not the clock, which may jump, or be wrong when a server starts.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from detector.files import TEMPORARY, write_file

__all__ = ["ShardFolder", "replaced_by", "shards_in"]

log = logging.getLogger("heatward.records")

NAME = re.compile(r"(\d{12})\.(\d)\.[0-9a-f]{8}\.parquet")
REPLACES = b"heatward-replaces"
TOGETHER = 60
FULL_BYTES = 64 * 2**20
LAST_LEVEL = 2
JUMP_S = 60.0
PATIENCE_S = 3600.0
"""What a clock has to run on evenly before it is believed that much time passed while nothing was written."""
ABSENT_S = 3 * 86_400.0
"""A pause between what is to be removed for its age and what is to stay that needs no explanation."""
READING_S = 600.0


@dataclass(frozen=True, order=True)
class Shard:
    """A file of rows."""

    sequence: int
    path: Path
    level: int
    size: int
    written_s: float


def shards_in(folder: Path) -> list[Shard]:
    """The shards of a folder, oldest first, those included that others replace.

    Raises:
        OSError: It cannot be read.
    """
    found = []
    for path in folder.iterdir():
        if match := NAME.fullmatch(path.name):
            try:
                stat = path.stat()
            except FileNotFoundError:  # removed meanwhile
                continue
            found.append(Shard(int(match[1]), path, int(match[2]), stat.st_size, stat.st_mtime))
    return sorted(found)


def replaced_by(metadata: dict[bytes, bytes] | None) -> list[str]:
    """Names of the shards that one with this metadata replaces.

    Raises:
        ValueError: It does not say so in JSON.
    """
    names = json.loads((metadata or {}).get(REPLACES, b"[]"))
    if not isinstance(names, list):
        raise ValueError(f"{REPLACES.decode()}: expected a list")
    return [name for name in names if NAME.fullmatch(str(name))]


class ShardFolder:
    """Writes shards; one thread at a time does. What another process writes meanwhile counts, and is left alone.

    Args:
        folder: Is made, once.
        schema: Of the rows.

    Raises:
        OSError: The folder cannot be made or read.
    """

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._schema = folder, schema
        self._forget_halves()
        self._shards = shards_in(folder)
        self._clock = time.time(), time.monotonic()
        self._replaced = self._found_replaced()  # each with the time of `time.monotonic` when it may go
        self._shards = [each for each in self._shards if each not in [shard for _, shard in self._replaced]]
        self._remove_replaced()
        self._trusts_clock_s = 0.0
        self._believes_clock_s = self._clock[1] + PATIENCE_S
        self._told = False

    def _forget_halves(self) -> None:
        """Removes what killed processes left half written; what is young may be another's that is writing now."""
        for path in self._folder.glob(f".*{TEMPORARY}"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > READING_S:
                    path.unlink()

    def _found_replaced(self) -> list[tuple[float, Shard]]:
        """What was replaced before this start, which somebody may be reading."""
        found = []
        for merged in [each for each in self._shards if each.level]:
            replaced = _replaced(merged.path)
            left_s = READING_S - min(max(self._clock[0] - _renamed_s(merged.path), 0), READING_S)
            found += [(self._clock[1] + left_s, each) for each in self._shards if each.path.name in replaced]
        return sorted(found)

    def _remove_replaced(self) -> None:
        while self._replaced and self._replaced[0][0] <= time.monotonic():
            self._remove([self._replaced.pop(0)[1].path.name])

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Writes rows; they are on the disk when this returns.

        Raises:
            OSError: They cannot be written: nothing of them was.
        """
        self._put(pa.Table.from_pylist(list(rows), schema=self._schema), 0)
        try:
            self._merge()
            self._remove_replaced()
        except OSError as error:  # the parts are still there
            log.warning("shards cannot be merged", extra={"folder": str(self._folder), "error": str(error)})

    def remove_old(self, max_bytes: float, max_age_s: float) -> None:
        """Removes the oldest shards until the others are no larger and no older.

        Nothing is removed for its age for an hour after the clock jumped; nor in the first hour, where nothing was
        written for days before what is to stay: the clock may be wrong.

        Raises:
            OSError: One cannot be removed.
        """
        now_s, age_counts = time.time(), self._clock_is_right()
        self._remove_replaced()
        excess = sum(each.size for each in (*self._shards, *(shard for _, shard in self._replaced))) - max_bytes
        while self._replaced and excess > 0:
            _, shard = self._replaced.pop(0)
            excess -= shard.size
            self._remove([shard.path.name])
        too_old = self._too_old(now_s, max_age_s) if age_counts else 0
        for at, shard in enumerate(list(self._shards)):
            if excess <= 0 and at >= too_old:
                break
            excess -= shard.size
            self._remove([shard.path.name])

    def _too_old(self, now_s: float, max_age_s: float) -> int:
        """How many of the oldest shards are, unless the clock is to be doubted."""
        times_s = [now_s]  # youngest first
        for shard in reversed(self._shards):  # one of a clock that was ahead is no younger than the next one
            times_s.append(shard.written_s if shard.written_s <= now_s + JUMP_S else times_s[-1])
        times_s.reverse()
        count = next(at for at, time_s in enumerate(times_s) if now_s - time_s <= max_age_s)
        pause_s = times_s[count] - times_s[count - 1] if count else 0
        if pause_s <= ABSENT_S or time.monotonic() >= self._believes_clock_s:
            return count
        if not self._told:
            log.warning(
                "nothing was written for days, or the clock is wrong: for an hour no shard is removed for its age",
                extra={"folder": str(self._folder), "shards": count, "days": round(pause_s / 86_400, 1)},
            )
        self._told = True
        return 0

    def _put(self, table: pa.Table, level: int, replaces: Sequence[Shard] = ()) -> None:
        # Fails where the folder is gone: it may have been a disk, and another one is not to be filled instead.
        last = max((each.sequence for each in shards_in(self._folder)), default=0)
        if replaces:
            names = json.dumps([each.path.name for each in replaces])
            table = table.replace_schema_metadata({REPLACES: names.encode()})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        content = sink.getvalue()
        sequence = replaces[-1].sequence if replaces else 1 + last
        path = self._folder / f"{sequence:012d}.{level}.{secrets.token_hex(4)}.parquet"
        write_file(path, content)
        if replaces:  # as old as the youngest of its rows
            os.utime(path, (replaces[-1].written_s, replaces[-1].written_s))
        self._shards.append(Shard(sequence, path, level, content.size, path.stat().st_mtime))
        self._shards.sort()

    def _merge(self) -> None:
        for level in range(LAST_LEVEL):
            if not _enough(parts := self._in_a_row(level)):
                continue
            size = sum(each.size for each in parts)
            found = [(each, table) for each in parts if (table := self._readable(each)) is not None]
            if not found:
                continue
            parts = [each for each, _ in found]
            tables = pa.concat_tables(table for _, table in found)
            self._put(tables, LAST_LEVEL if size >= FULL_BYTES else level + 1, parts)
            self._replaced += [(time.monotonic() + READING_S, each) for each in parts]
            self._shards = [each for each in self._shards if each not in parts]

    def _in_a_row(self, level: int) -> list[Shard]:
        """Shards of a level with no other one between, such as another process': rows keep their order."""
        parts = [each for each in self._shards if each.level == level]
        if not _enough(parts):  # most often: nobody looks at the folder
            return parts
        passed_over = {shard.path for shard in parts} | {shard.path for _, shard in self._replaced}
        between = [each.sequence for each in shards_in(self._folder) if each.path not in passed_over]
        runs: list[list[Shard]] = []
        for shard in parts:
            if not runs or any(runs[-1][-1].sequence <= each < shard.sequence for each in between):
                runs.append([])
            runs[-1].append(shard)
        return max(runs, key=lambda run: sum(each.size for each in run) if len(run) > 1 else 0)

    def _readable(self, shard: Shard) -> pa.Table | None:
        """Its rows; a damaged one is left alone from now on."""
        try:
            table = pq.read_table(shard.path, schema=self._schema, page_checksum_verification=True)
            table.validate(full=True)
            return table
        except (OSError, pa.ArrowException) as error:
            log.warning("a shard cannot be merged", extra={"shard": str(shard.path), "error": str(error)})
            self._shards[self._shards.index(shard)] = replace(shard, level=LAST_LEVEL)
            return None

    def _remove(self, names: Sequence[str]) -> None:
        for name in names:
            (self._folder / name).unlink(missing_ok=True)
        self._shards = [each for each in self._shards if each.path.name not in names]

    def _clock_is_right(self) -> bool:
        """Whether the clock ran on evenly for the last hour."""
        (wall_s, steady_s), self._clock = self._clock, (time.time(), time.monotonic())
        jump_s = self._clock[0] - wall_s - (self._clock[1] - steady_s)
        if abs(jump_s) > JUMP_S:
            self._trusts_clock_s = self._clock[1] + PATIENCE_S
            log.warning("the clock jumped: for an hour no shard is removed for its age", extra={"jump_s": jump_s})
        return self._clock[1] >= self._trusts_clock_s


def _enough(parts: Sequence[Shard]) -> bool:
    """Whether it is time to merge them."""
    return len(parts) > 1 and (len(parts) >= TOGETHER or sum(each.size for each in parts) >= FULL_BYTES)


def _renamed_s(path: Path) -> float:
    """When a shard came to be, which the time of a merged one does not tell; long ago where it is gone."""
    try:
        return path.stat().st_ctime
    except FileNotFoundError:
        return 0.0


def _replaced(path: Path) -> list[str]:
    try:
        return replaced_by(pq.read_schema(path).metadata)
    except (OSError, pa.ArrowException, ValueError):  # damaged: the reader counts it
        return []
