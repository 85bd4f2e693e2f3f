"""A shard plan is plain data, and whoever carries it out makes the same bytes."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from tiny_job import configure, write_source

from training.config import CLEAN
from training.job import Job, open_job
from training.progress import SilentProgress
from training.runners import ShardPlan
from training.runners.worker import Worker
from training.shards import digest_of
from training.stages import attack, attribute

PLANS = TypeAdapter(list[ShardPlan])


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    source = write_source(tmp_path_factory.mktemp("source"))
    made = open_job(configure(source, tmp_path_factory.mktemp("place")), SilentProgress())
    attack.run(made)
    attribute.run(made)
    return made


def some_plans(job: Job) -> list[ShardPlan]:
    """A clean shard and what follows from it, in the order in which they must be made."""
    labels = (CLEAN, "twin-8", "fgsm")
    return [job.plan(stage, "fit", label)[1] for stage in ("attack", "attribute") for label in labels]


def carry_out(settings: str, classes: tuple[str, ...], plans: str) -> list[tuple[str, int, int]]:
    """In a process that knows nothing but JSON."""
    worker = Worker.open(json.loads(settings), classes)
    made = [worker.make(plan) for plan in PLANS.validate_json(plans)]
    return [(each.plan.digest, each.rows, each.changed) for each in made]


def test_another_process_makes_the_same_bytes_from_json(job: Job) -> None:
    plans = some_plans(job)
    before = [plan.path.read_bytes() for plan in plans]
    for plan in plans:
        plan.path.unlink()
    settings = json.dumps(job.config.model_dump(mode="json"))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
        made = processes.submit(carry_out, settings, job.classifier.classes, PLANS.dump_json(plans).decode()).result()
    assert [digest for digest, _, _ in made] == [plan.digest for plan in plans]
    assert [plan.path.read_bytes() for plan in plans] == before
    assert all(plan.finished for plan in plans)


def test_a_plan_survives_json(job: Job) -> None:
    plans = [plan for stage in ("attack", "attribute") for _, _, some in job.plans(stage) for plan in some]
    assert PLANS.validate_json(PLANS.dump_json(plans)) == plans


def test_every_stage_of_shards_goes_through_the_runner(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[ShardPlan] = []
    carried_out = Worker.make

    def make(worker: Worker, plan: ShardPlan) -> Any:
        assert worker is job.worker
        handed.append(plan)
        return carried_out(worker, plan)

    monkeypatch.setattr(Worker, "make", make)
    lost: list[Path] = [plan.path for plan in some_plans(job)]
    for path in lost:
        path.unlink()
    attack.run(job)
    attribute.run(job)
    assert [plan.path for plan in handed] == lost
    assert [digest_of(plan.path) for plan in handed] == [plan.digest for plan in handed]
