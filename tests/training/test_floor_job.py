"""A job with a floor under the witness's answer: from the configuration to the verdicts of its bundle."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from tiny_job import configure, write_source

from detector.bundle import load_bundle
from detector.detector import Detector
from detector.differentiable import DifferentiableDetector
from detector.errors import ConfigError
from detector.scoring.network import score
from training import pipeline
from training.detectors import load_detector
from training.evaluation.result import EvaluationResult
from training.job import open_job
from training.progress import SilentProgress
from training.redteam.values import Budget
from training.redteam.whitebox import WHITE_BOX

WEIGHT = 2.0
FLOOR = {"score": {"floor_weight": WEIGHT}}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def place(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("job")
    pipeline.run(configure(source, place, fit=FLOOR), SilentProgress())
    return place


def bundled(place: Path) -> Detector:
    return Detector.from_bundle(place / "detector.heatward", allow=("tiny",))


def test_the_bundle_scores_as_the_job_did_and_the_floor_decides_some(source: Path, place: Path) -> None:
    served, own = bundled(place), load_detector(open_job(configure(source, place, fit=FLOOR), SilentProgress()))
    images = tiny.images(60, seed=21).images
    scores = [each.attack_score for each in served.detect(images)]
    assert scores == [each.attack_score for each in own.detect(images)]
    floor = served.networks[0].floor
    assert floor is not None
    beside = WEIGHT * floor(served.extractor(images))
    decided = beside == torch.tensor(scores, dtype=torch.float64)
    assert 0 < int(decided.sum()) < len(scores)
    assert (torch.tensor(scores, dtype=torch.float64) >= beside).all()


def test_calibration_and_evaluation_are_of_both(place: Path) -> None:
    bundle, served = load_bundle(place / "detector.heatward"), bundled(place)
    assert "floor_weight" in bundle.manifest.model_dump_json()
    assert {network.novelty.settings.floor_weight for network in served.networks} == {WEIGHT}
    found = EvaluationResult.read(place / "work" / "evaluate")
    assert found.attacks  # measured with the same scores, by the same way
    assert torch.equal(served.calibration.scores, bundle.calibration_scores.sort().values)


def test_the_twin_of_a_floor_gives_the_same_scores(place: Path) -> None:
    detector, images = bundled(place), tiny.images(30, seed=5).images
    leaf = images.clone().requires_grad_()
    seen = DifferentiableDetector(detector)(leaf)
    with torch.no_grad():
        expected, _ = score(detector.networks, detector.extractor(images))
    torch.testing.assert_close(seen.scores.detach(), expected, rtol=1e-4, atol=1e-4)
    (gradient,) = torch.autograd.grad(seen.scores.sum(), leaf)
    assert gradient.isfinite().all() and (gradient.flatten(1).norm(dim=1) > 0).all()


def test_a_white_box_goes_through_what_the_real_detector_says(place: Path) -> None:
    detector, images = bundled(place), (tiny.images(12, seed=6).images * 255).round() / 255
    outcome = WHITE_BOX["selective"](detector, images, 0.1, Budget("Linf", 64 / 255, 10, 1), 0)
    verdicts = detector.detect(outcome.images)
    assert outcome.fools.any()
    for fools, p_value, verdict in zip(outcome.fools, outcome.p_value, verdicts, strict=True):
        assert not fools or float(p_value) == verdict.p_value


def test_a_floor_without_a_witness_is_refused_before_anything_is_made(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"fit\.score\.floor_weight = 2.*\[witness\]"):
        open_job(configure(source, tmp_path, fit=FLOOR, witness=None), SilentProgress())
    assert not (tmp_path / "work" / "attack").exists()
