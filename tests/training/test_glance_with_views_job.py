"""A job whose glance takes a view: what it fits, what its bundle says, and that jobs without stay what they were."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
from tiny_job import configure, write_source

from detector.bundle import load_bundle
from detector.detector import Detector
from detector.errors import ConfigError
from detector.evidence import EvidenceShape
from training import pipeline
from training.config import TrainingConfig
from training.detectors import load_detector
from training.evaluation.result import EvaluationResult
from training.fitting.glance import results
from training.fitting.held_out import ONE_OF
from training.fitting.networks import results as fit_results
from training.job import Job, open_job
from training.progress import SilentProgress
from training.retraining.recipe import recipe_in
from training.shards import digest

SPLITS = {"calibrate": 80, "test": 40, "tune": 0}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("source"), 320)


def config_of(source: Path, place: Path, views: tuple[str, ...]) -> TrainingConfig:
    return configure(source, place, cascade={"clears": 0.6, "views": views}, images={"splits": SPLITS})


@pytest.fixture(scope="module")
def job(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    config = config_of(source, tmp_path_factory.mktemp("job"), ("flip",))
    pipeline.run(config, SilentProgress())
    return open_job(config, SilentProgress())


def test_the_bundle_judges_as_the_job_does(job: Job) -> None:
    served, own = Detector.from_bundle(job.config.out, allow=("tiny",)), load_detector(job)
    assert served.cascade is not None and own.cascade is not None
    assert served.cascade.views == own.cascade.views == (1,)  # after the noise
    images = tiny.images(40, seed=21).images
    verdicts = served.detect(images)
    assert [each.attack_score for each in verdicts] == [each.attack_score for each in own.detect(images)]
    assert {each.cleared for each in verdicts} == {True, False}


def test_its_manifest_names_the_views(job: Job) -> None:
    manifest = load_bundle(job.config.out).manifest
    assert manifest.cascade is not None and manifest.cascade["views"] == ["flip"]
    shape = EvidenceShape.model_validate(manifest.cascade["shape"])
    assert shape == EvidenceShape.model_validate(manifest.network["shape"]).at_a_glance(1)
    assert shape.groups["views.logit"] == (1,)


def test_the_evaluation_counts_the_view_as_a_part_of_the_glance(job: Job) -> None:
    found = EvaluationResult.read(job.work / "evaluate").cascade
    assert found is not None and found.glance is not None and found.in_full is not None
    assert found.in_full - found.glance == pytest.approx(1, abs=0.05)  # the noise is left


def test_a_recipe_asks_for_the_views_again(job: Job, tmp_path: Path) -> None:
    recipe = recipe_in(load_bundle(job.config.out), tmp_path, ("tiny",))
    assert recipe["cascade"] == {"clears": 0.6, "views": ["flip"]}


def test_a_glance_may_have_fewer_networks(source: Path, tmp_path: Path) -> None:
    config = configure(
        source,
        tmp_path,
        cascade={"clears": 0.6, "ensemble": 1},
        fit={"ensemble": 2, "epochs": 1},
        images={"splits": SPLITS},
    )
    pipeline.run(config, SilentProgress())
    bundle = load_bundle(config.out)
    served = Detector.assemble(bundle, allow=("tiny",))
    assert served.cascade is not None
    assert (len(served.cascade.networks), len(served.networks)) == (1, 2)
    assert recipe_in(bundle, tmp_path, ("tiny",))["cascade"]["ensemble"] == 1
    more = config.model_copy(update={"cascade": config.cascade.model_copy(update={"ensemble": 2})})
    other = open_job(more, SilentProgress())
    assert not results(other).finished and fit_results(other, other.work / "fit").finished


def test_other_views_are_another_glance_and_no_other_fit(job: Job, source: Path) -> None:
    other = open_job(config_of(source, job.work.parent, ("noise-8-0",)), SilentProgress())
    none = open_job(config_of(source, job.work.parent, ()), SilentProgress())
    assert results(job).finished and not results(other).finished and not results(none).finished
    for each in (other, none):
        assert fit_results(each, each.work / "fit").finished
    fitted = fit_results(none, none.work / "glance").made_from
    assert results(none).made_from == digest([fitted, ONE_OF, False])  # as before there were views


def test_without_views_the_manifest_says_nothing_of_them(job: Job, source: Path) -> None:
    none = open_job(config_of(source, job.work.parent, ()), SilentProgress())
    for stage in ("glance", "calibrate", "bundle"):
        pipeline.run_stage(none, stage)
    cascade = load_bundle(job.config.out).manifest.cascade
    assert cascade is not None and set(cascade) == {"clears", "threshold", "shape", "settings"}


@pytest.mark.parametrize(
    ("views", "said"),
    [
        (("mirror",), r"cascade\.views.*the evidence has no view 'mirror'; it has noise-8-0, flip"),
        (("flip", "noise-8-0"), r"cascade\.views.*takes every view"),
    ],
)
def test_views_that_there_are_not_are_no_setting(
    source: Path, tmp_path: Path, views: tuple[str, ...], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        config_of(source, tmp_path, views)
