"""Two jobs never write into one work folder, and one that cannot write says so."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from tiny_job import write_source

from detector.errors import ConfigError, DataError
from detector.lock import hold
from training import cli


def hold_until_death(work: Path, held: Event) -> None:
    with hold(work):
        held.set()
        signal.pause()


def test_a_second_job_is_refused_until_the_first_ends_however_it_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    processes = multiprocessing.get_context("spawn")
    held = processes.Event()
    job = processes.Process(target=hold_until_death, args=(tmp_path / "work", held))
    job.start()
    assert held.wait(60)
    with (
        pytest.raises(DataError, match=rf"another job \(process {job.pid} on .*\) uses .*work; wait .*--work"),
        hold(tmp_path / "work"),
    ):
        pass
    config = Path(__file__).parents[2] / "examples/own_classifier/config.toml"
    for command in (cli.train, cli.evaluate):
        assert command(["--config", str(config), "--work", str(tmp_path / "work"), "--out", str(tmp_path / "o")]) == 75
        assert "another job" in capsys.readouterr().err
    os.kill(job.pid or 0, signal.SIGKILL)
    job.join(60)
    with hold(tmp_path / "work"), pytest.raises(DataError, match="another job"), hold(tmp_path / "work"):
        pass
    with hold(tmp_path / "work"):
        pass


def test_a_full_disk_is_said_and_leaves_nothing_torn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    source = write_source(tmp_path)
    words = ["attack", "--config", str(source / "config.toml"), "--work", str(tmp_path / "work")]
    words += ["--out", str(tmp_path / "a.heatward")]
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert cli.train(words) == 1
    assert "work/images.json: No space left on device" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "work").iterdir()] == [".lock"]
    assert cli.train(words) == 0


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file/work cannot be made or written"), hold(tmp_path / "file" / "work"):
        pass
