"""A job with a cascade: what it leaves, what it makes again, and what it refuses before the long part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from notes import Notes
from tiny_job import configure, write_source

from detector.bundle import load_bundle
from detector.detector import Detector
from detector.errors import CalibrationError, ConfigError
from training import pipeline
from training.config import Stage
from training.detectors import load_detector
from training.evaluation.result import IN_FULL, EvaluationResult
from training.evaluation.tables import cascade_table
from training.fitting import glance
from training.fitting.glance import check_vouched_for
from training.fitting.held_out import ONE_OF, is_held_out
from training.fitting.rows import ShardReader
from training.job import Job, open_job
from training.progress import SilentProgress

CLEARS = 0.6
SPLITS = {"calibrate": 80, "test": 40, "tune": 0}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("source"), 320)


def opened(source: Path, place: Path, clears: float = CLEARS) -> Job:
    config = configure(source, place, cascade={"clears": clears}, images={"splits": SPLITS})
    return open_job(config, SilentProgress())


@pytest.fixture(scope="module")
def place(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("job")
    pipeline.run(opened(source, place).config, SilentProgress())
    return place


def finished(job: Job, stage: Stage) -> bool:
    outputs = pipeline.MODULES[stage].outputs(job)
    return outputs is not None and outputs.finished


def test_the_bundle_clears_what_the_job_cleared(source: Path, place: Path) -> None:
    job = opened(source, place)
    served, own = Detector.from_bundle(place / "detector.heatward", allow=("tiny",)), load_detector(job)
    assert served.cascade is not None and own.cascade is not None
    assert served.cascade.clears == CLEARS and served.cascade.threshold == own.cascade.threshold
    images = tiny.images(40, seed=21).images
    verdicts = served.detect(images)
    assert [each.attack_score for each in verdicts] == [each.attack_score for each in own.detect(images)]
    assert 0.3 < sum(each.cleared for each in verdicts) / len(verdicts) < 0.9


def test_calibration_is_of_both_looks_and_clears_about_the_share(place: Path) -> None:
    scores = load_bundle(place / "detector.heatward").calibration_scores
    assert len(scores) == SPLITS["calibrate"]
    assert 0.35 < float((scores < 0).double().mean()) < 0.85


def test_the_evaluation_says_what_went_on_and_what_it_cost(place: Path) -> None:
    found = EvaluationResult.read(place / "work" / "evaluate")
    cascade = found.cascade
    assert cascade is not None and cascade.clears == CLEARS
    assert {"clean", "twin-8", "fgsm", "pgd"} == set(cascade.went_on)
    share = cascade.went_on["clean"].value
    assert cascade.glance is not None and cascade.in_full is not None
    assert cascade.on_clean == pytest.approx(cascade.glance + share * (cascade.in_full - cascade.glance))
    assert cascade.in_full - cascade.glance == pytest.approx(2, abs=0.1)  # two views, noise and mirror
    assert found.measured()["cascade"]["on_clean"] == pytest.approx(cascade.on_clean)
    assert IN_FULL in found.detectors and IN_FULL in found.attacks[0].detectors
    table = cascade_table(found, cascade)
    assert "to clear 60% of clean images" in str(table.title)
    assert table.row_count == len(found.false_positives["heatward"]) + len(found.rows)


def test_another_share_fits_nothing_again(source: Path, place: Path) -> None:
    networks = [place / "work" / stage / "network.safetensors" for stage in ("fit", "glance")]
    before = [path.stat().st_mtime_ns for path in networks]
    job = opened(source, place, clears=0.5)
    for stage in pipeline.MODULES:
        pipeline.run_stage(job, stage)
    assert [path.stat().st_mtime_ns for path in networks] == before
    cascade = load_bundle(place / "detector.heatward").manifest.cascade
    assert cascade is not None and cascade["clears"] == 0.5
    again = opened(source, place)  # as it was, for the other tests
    for stage in pipeline.MODULES:
        pipeline.run_stage(again, stage)


def test_without_a_cascade_a_job_is_what_it_was(source: Path, place: Path) -> None:
    job, other = opened(source, place, clears=0), opened(source, place)
    assert finished(job, "fit") and finished(job, "attribute") and finished(job, "glance")
    stages: tuple[Stage, ...] = ("calibrate", "evaluate")
    for stage in stages:  # their numbers are those of another detector
        assert not finished(job, stage) and finished(other, stage)
    assert load_detector(other).cascade is not None and load_detector(job).cascade is None


def test_the_threshold_is_chosen_on_photographs_that_the_glance_did_not_learn_from(source: Path, place: Path) -> None:
    job = opened(source, place)
    reader = ShardReader(job.config, job.work, job.config.fit, learns=lambda index: ~is_held_out(index))
    everything = ShardReader(job.config, job.work, job.config.fit)
    learnt, every = len(reader.sample(100)), len(everything.sample(100))
    assert 0.75 < learnt / every < 0.98


def test_the_glance_learns_from_what_is_not_held_out(
    source: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Told(Exception):
        pass

    def fit_networks(*_: object, learns: Callable[[torch.Tensor], torch.Tensor], **__: object) -> None:
        index = torch.arange(400)
        assert torch.equal(learns(index), ~is_held_out(index)) and 0 < int(is_held_out(index).sum()) < 400
        raise Told

    monkeypatch.setattr(glance, "fit_networks", fit_networks)
    with pytest.raises(Told):
        glance.fit_glance(opened(source, place))


def test_one_of_eight_is_held_out_of_every_class() -> None:
    for step in (1, 10, 600):  # images may be dealt by class, in turns or one after the other
        held = is_held_out(torch.arange(0, 4000 * step, step)).double().mean()
        assert float(held) == pytest.approx(1 / ONE_OF, abs=0.02)


@pytest.mark.parametrize(
    ("fit", "calibrate", "said"),
    [
        (100, 1000, r"about 12 clean images would choose the glance's threshold.*raise images\.splits\.fit to 152"),
        (1000, 50, r"lets about 15 of 50 calibration images go on.*raise images\.splits\.calibrate"),
    ],
)
def test_a_cascade_that_nothing_vouches_for_is_refused(fit: int, calibrate: int, said: str) -> None:
    check_vouched_for(0, fit, calibrate)
    check_vouched_for(0.7, 152, 64)
    with pytest.raises(CalibrationError, match=said):
        check_vouched_for(0.7, fit, calibrate)


def test_it_is_refused_before_anything_is_attacked(source: Path, tmp_path: Path) -> None:
    config = configure(source, tmp_path, cascade={"clears": 0.8}, images={"splits": {**SPLITS, "fit": 60}})
    with pytest.raises(CalibrationError, match="about 7 clean images"):
        pipeline.run_stage(open_job(config, Notes()), "attack")
    assert not list((tmp_path / "work").rglob("*.safetensors"))


def test_a_share_that_leaves_no_thresholds_is_no_setting(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cascade\.clears.*clears 0\.95 leaves too few.*clear at most 0\.85"):
        configure(source, tmp_path, cascade={"clears": 0.95})
