"""What a shard is asked for is read, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_fit import config_for, write

from detector.errors import DataError
from training.fitting.rows import ShardReader
from training.shards import read_columns, remove_temporary, rows_of, write_shard


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "00000.safetensors"
    write_shard(path, {"images": torch.zeros(5, 3, 4, 4), "origin": torch.arange(5)}, "digest")
    return path


def test_the_header_knows_how_many_rows_there_are(shard: Path) -> None:
    assert rows_of(shard) == 5
    # the header alone: what stands behind it is not looked at
    length = 8 + int.from_bytes(shard.read_bytes()[:8], "little")
    assert shard.stat().st_size > length


def test_columns_are_read_alone(shard: Path) -> None:
    columns = read_columns(shard, ("origin",))
    assert list(columns) == ["origin"] and columns["origin"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("damage", ["missing", "torn", "foreign", "no such tensor"])
def test_what_is_no_shard_is_named(shard: Path, damage: str) -> None:
    if damage == "missing":
        shard.unlink()
    elif damage == "no such tensor":
        write_shard(shard, {"images": torch.zeros(1)}, "digest")
    else:
        shard.write_bytes(shard.read_bytes()[:20] if damage == "torn" else b"no shard at all")
    for read in (rows_of, lambda path: read_columns(path, ("origin",))):
        with pytest.raises(DataError, match=r"00000\.safetensors: cannot be read as a shard"):
            read(shard)


def test_counting_the_rows_of_a_job_reads_no_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(2):
        write(tmp_path, "clean", 64, 0.0, seed)
        write(tmp_path, "pgd", 24, 2.0, 10 + seed)
    monkeypatch.setattr("training.shards.read_shard", lambda path: pytest.fail("read whole"))
    config = config_for(tmp_path)
    assert ShardReader(config, tmp_path, config.fit).rows == 176


def test_what_a_killed_run_left_half_written_is_removed_and_nothing_of_others(tmp_path: Path) -> None:
    for name in (".00000.safetensors.0a1b2c3d.tmp", "attack/.x.json.ffffffff.tmp", ".mine.tmp", "a.0a1b2c3d.tmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"half")
    half = tmp_path / ".my.bundle.0a1b2c3d.tmp"  # a bundle that is a folder
    half.mkdir()
    (half / "manifest.json").write_bytes(b"half")
    remove_temporary(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".mine.tmp", "a.0a1b2c3d.tmp", "attack"]
