"""A job on a served model: another model under the same name is noticed, between runs and in the middle of one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from fake_model_server import ModelServer, model_server
from notes import Notes
from tiny_job import configure, write_source

from detector.bundle import load_bundle
from detector.errors import FingerprintMismatchError
from training import pipeline
from training.config import TrainingConfig
from training.detectors import open_detector
from training.job import open_job
from training.progress import SilentProgress
from training.resume import ShardResults

SQUARE = {
    "name": "Square",
    "label": "square",
    "family": "score-based",
    "parameters": {"eps": "64/255", "n_queries": 20},
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("source"))


@pytest.fixture
def served() -> Iterator[ModelServer]:
    with model_server() as server:
        yield server


def config(source: Path, place: Path, server: ModelServer) -> TrainingConfig:
    arguments: dict[str, Any] = {"wait_s": 0, "timeout_s": 5, "retries": 0}
    classifier = {"source": server.source, "weights": None, "arguments": arguments}
    return configure(source, place, classifier=classifier, attacks=[SQUARE])


def other_model() -> Any:
    net = tiny.net()
    net.load_state_dict(tiny.trained_weights(seed=9))
    return net.eval()


def test_another_model_makes_everything_again(source: Path, tmp_path: Path, served: ModelServer) -> None:
    settings = config(source, tmp_path, served)
    pipeline.run(settings, SilentProgress())
    assert ShardResults("attribute", open_job(settings, SilentProgress())).finished
    bundle = load_bundle(settings.out)

    served.net = other_model()
    notes = Notes()
    job = open_job(settings, notes, look_only=True)
    assert any("answers otherwise than in the last run" in each for each in notes.notes)
    assert not any(plan.finished for _, _, plans in job.plans("attack") for plan in plans)
    assert job.classifier.fingerprint == bundle.manifest.fingerprint  # of the name, which is all that it knows
    with pytest.raises(FingerprintMismatchError, match="it is another model"):
        open_detector(job, settings.out)


def test_a_model_that_is_replaced_in_the_middle_leaves_nothing_behind(
    source: Path, tmp_path: Path, served: ModelServer
) -> None:
    settings = config(source, tmp_path, served)
    job = open_job(settings, SilentProgress())
    before, other = served.net, other_model()

    def replaced(images: Any) -> Any:
        return (other if len(served.calls) > 12 else before)(images)

    served.calls.clear()
    served.net = replaced
    with pytest.raises(FingerprintMismatchError, match="it is another model"):
        pipeline.run_stage(job, "attack")
    served.net = before  # it is back: what both made is gone
    again = open_job(settings, SilentProgress())
    kept = [plan for _, _, plans in again.plans("attack") for plan in plans if plan.finished]
    pipeline.run_stage(again, "attack")
    fresh = config(source, tmp_path / "other", served)
    pipeline.run_stage(open_job(fresh, SilentProgress()), "attack")
    for plan in kept:
        twin = fresh.work / plan.path.relative_to(settings.work)
        assert plan.path.read_bytes() == twin.read_bytes(), plan.path
