"""Workers on a Ray cluster make what a worker in this process makes, whatever dies meanwhile."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from tiny_job import configure, write_source

from detector.errors import ClusterError, ConfigError
from training import pipeline
from training.config import Stage
from training.job import Job, open_job
from training.progress import Advance, SilentProgress
from training.runners.cluster import Actor, opening

STAGES: tuple[Stage, ...] = ("attack", "attribute")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="needs the extra `scale`")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))  # workers find what the tests find
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
        yield ray
        ray.shutdown()


@pytest.fixture(scope="module")
def local(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the local engine makes."""
    return made_by(open_job(configure(source, tmp_path_factory.mktemp("local")), SilentProgress()))


def made_by(job: Job, stages: tuple[Stage, ...] = STAGES) -> dict[str, bytes]:
    """Every shard's bytes, by its place in the work folder."""
    for stage in stages:
        pipeline.run_stage(job, stage)
    return {path.relative_to(job.work).as_posix(): path.read_bytes() for path in job.work.rglob("*.safetensors")}


class KillsAWorker(SilentProgress):
    """Kills every worker when the first shard of an attack is there."""

    def __init__(self) -> None:
        self.killed: list[int] = []

    @contextmanager
    def task(self, title: str, total: int, done: int = 0, unit: str = "images") -> Iterator[Advance]:
        left = ["pgd"] if title == "attack fit/pgd" else []

        def advance(count: int) -> None:
            if left:
                left.pop()
                for process in psutil.Process().children(recursive=True):
                    if "ray::Actor" in " ".join(process.cmdline()):
                        process.kill()
                        self.killed.append(process.pid)

        yield advance


def test_workers_make_the_same_bytes(source: Path, local: dict[str, bytes], ray: Any, tmp_path: Path) -> None:
    job = open_job(configure(source, tmp_path, engine="ray"), SilentProgress())
    assert made_by(job) == local
    assert len({name.split("/")[0] for name in local}) == len(STAGES)


def test_killed_workers_change_nothing(source: Path, local: dict[str, bytes], ray: Any, tmp_path: Path) -> None:
    progress = KillsAWorker()
    job = open_job(configure(source, tmp_path, engine="ray"), progress)
    made = made_by(job, ("attack",))
    assert progress.killed
    assert made == {name: data for name, data in local.items() if name.startswith("attack/")}


def test_a_lost_head_keeps_what_is_finished_and_the_same_job_goes_on(
    source: Path, local: dict[str, bytes], ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = open_job(configure(source, tmp_path, engine="ray"), SilentProgress())
    wait = ray.wait

    def lost(calls: list[Any]) -> Any:
        if any(job.work.rglob("*.safetensors")):
            raise ConnectionError("Client is shutting down.")  # as `ray://` says it
        return wait(calls)

    monkeypatch.setattr(ray, "wait", lost)
    with pytest.raises(ClusterError, match=r"head was lost.*Client is shutting down.*same command"):
        made_by(job)
    (kept,) = job.work.rglob("*.safetensors")
    written = kept.stat().st_mtime_ns
    assert made_by(open_job(configure(source, tmp_path), SilentProgress())) == local
    assert kept.stat().st_mtime_ns == written


def test_a_worker_needs_no_file_of_weights(source: Path, tmp_path: Path) -> None:
    job = open_job(configure(source, tmp_path), SilentProgress())
    needed = opening(job.worker, {})
    needed["settings"]["classifier"]["weights"] = "gone.safetensors"
    Actor(needed).open()


def test_a_worker_that_builds_another_classifier_says_so(source: Path, tmp_path: Path) -> None:
    job = open_job(configure(source, tmp_path), SilentProgress())
    needed = opening(job.worker, {})
    needed["fingerprints"] = ["another"]
    with pytest.raises(ClusterError, match=r"a worker built other classifiers .*another"):
        Actor(needed).open()


def test_a_worker_that_asks_for_more_than_there_is_says_so(source: Path, ray: Any, tmp_path: Path) -> None:
    job = open_job(configure(source, tmp_path, engine="ray", ray={"gpus": 3}), SilentProgress())
    with pytest.raises(ClusterError, match="room for no worker of 1 CPUs and 3 GPUs"):
        made_by(job)


def test_without_ray_the_extra_is_named(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    job = open_job(configure(source, tmp_path, engine="ray"), SilentProgress())
    with pytest.raises(ConfigError, match=r"heatward\[scale\]"):
        made_by(job)
