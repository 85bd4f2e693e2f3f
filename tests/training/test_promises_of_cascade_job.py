"""A cascade whose job calibrates by predicted class, estimates a tail and promises error rates: all in one bundle."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from notes import Notes
from PIL import Image
from safetensors.torch import save_file
from tiny_job import configure, write_source

from detector.bundle import load_bundle, read_manifest
from detector.detector import Detector
from detector.errors import CalibrationError
from detector.evidence import Evidence
from detector.scoring.calibration import Calibration
from detector.scoring.cascade import score_of_both
from detector.scoring.groups import Groups
from detector.scoring.risk import signs
from training import pipeline
from training.config import TrainingConfig
from training.detectors import load_detector, open_detector
from training.evaluation import evaluate
from training.evaluation.result import HEATWARD, IN_FULL, EvaluationResult
from training.evaluation.tables import cascade_table
from training.job import open_job
from training.progress import SilentProgress
from training.retraining.adapt import Options as AdaptOptions
from training.retraining.adapt import adapt
from training.retraining.measure import Scores, open_contestant
from training.retraining.recalibrate import Options, recalibrate
from training.retraining.recipe import recipe_in
from training.settings import CascadeConfig
from training.shards import list_shards, read_shard

SPLITS = {"calibrate": 240, "test": 40, "tune": 0}
RATE = 0.05
CLEARS = 0.15
"""A small share: a tiny glance clears one class first, and each must vouch for its own thresholds."""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainingConfig:
    source = write_source(tmp_path_factory.mktemp("source"), 480)
    return configure(
        source,
        tmp_path_factory.mktemp("job"),
        images={"splits": SPLITS},
        cascade={"clears": CLEARS},
        calibrate={"by": "prediction", "rate": RATE, "tail": True},
    )


@pytest.fixture(scope="module")
def notes(config: TrainingConfig) -> list[str]:
    """What the job said."""
    said = Notes()
    pipeline.run(config, said)
    return said.notes


@pytest.fixture(scope="module")
def detector(config: TrainingConfig, notes: list[str]) -> Detector:
    return Detector.from_bundle(config.out, allow=("tiny",))


def shards(config: TrainingConfig, stage: str, name: str) -> torch.Tensor:
    """A column of the clean calibration images."""
    return torch.cat([read_shard(path)[name] for path in list_shards(config.work, stage, "calibrate", "clean")])


def test_one_bundle_holds_them_all(config: TrainingConfig, detector: Detector, notes: list[str]) -> None:
    manifest = read_manifest(config.out)
    assert manifest.cascade is not None and manifest.cascade["clears"] == CLEARS
    assert manifest.calibration["by"] == "prediction" and manifest.calibration["tail"] is True
    assert {"glance.safetensors", "reliability.safetensors"} < set(manifest.files)
    assert detector.cascade is not None and detector.groups is not None and detector.reliability is not None
    assert not detector.reliability.head.views
    assert len(detector.groups.calibrations) == len(detector.tails) == 4
    for each in detector.groups.calibrations:
        assert each.threshold(0.1) >= 0
    assert any(bool((each.scores < 0).any()) for each in detector.groups.calibrations)
    assert any("no tail estimate in 4 of 4 groups" in note for note in notes)  # none has 200 images


def test_served_images_have_the_p_values_and_error_rates_of_the_calibration(
    config: TrainingConfig, detector: Detector
) -> None:
    images = shards(config, "attack", "images").float() / 255
    verdicts = detector.detect(images)
    evidence = Evidence.cat(
        [
            Evidence.from_tensors(read_shard(path))
            for path in list_shards(config.work, "attribute", "calibrate", "clean")
        ]
    ).float()
    scores, origin = score_of_both(detector.cascade, detector.networks, evidence)
    reliability = detector.reliability
    assert reliability is not None and detector.groups is not None
    risks = reliability.head(signs(evidence, scores, origin, views=False))
    low, high = reliability.of_risk(risks - 1e-3), reliability.of_risk(risks + 1e-3)  # stored in half precision
    for row, verdict in enumerate(verdicts):
        assert verdict.cleared == bool(scores[row] < 0)
        assert verdict.error_rate is not None
        assert float(low[row]) <= verdict.error_rate <= float(high[row])
    for cleared in (True, False):
        assert sum(each.cleared == cleared for each in verdicts) > 15
    assert len({each.error_rate for each in verdicts}) > 1
    own = sorted(each.attack_score for each in verdicts if each.label == 0)
    stored = detector.groups.calibrations[int(detector.groups.of_class[0])].scores
    assert own == pytest.approx(stored.tolist(), abs=0.05)


def test_the_job_judges_as_its_bundle_does(config: TrainingConfig, detector: Detector) -> None:
    job = open_job(config, SilentProgress())
    images = shards(config, "attack", "images")[:24].float() / 255
    _, opened, _ = open_detector(job, config.out)
    contestant = open_contestant(job, "champion", load_bundle(config.out))
    verdicts = detector.detect(images)
    for other in (load_detector(job), opened, contestant.detector):
        told = other.detect(images)
        for name in ("attack_score", "p_value", "error_rate", "calibration_group", "cleared", "tail"):
            assert [getattr(each, name) for each in told] == [getattr(each, name) for each in verdicts], name
    scored = Scores(
        np.array([each.attack_score for each in verdicts]),
        np.array([each.label for each in verdicts], dtype=np.int64),
    )
    assert contestant.flags(scored, 0.1).tolist() == [each.p_value <= 0.1 for each in verdicts]


def test_an_evaluation_measures_them_all_of_the_job_and_of_a_bundle(config: TrainingConfig, detector: Detector) -> None:
    found = EvaluationResult.read(config.work / "evaluate")
    assert found.cascade is not None and found.reliability is not None and len(found.predicted) == 4
    assert found.thresholds[HEATWARD][0.01] is None and found.thresholds[IN_FULL][0.01] is None  # too few of a class
    assert found.thresholds[HEATWARD][RATE] is not None and found.thresholds[IN_FULL][RATE] is not None
    cells = list(cascade_table(found, found.cascade).columns[2].cells)
    assert set(cells) == {"–"}
    assert {"cascade", "reliability"} < set(found.measured())
    again = evaluate.run(config, detector, resamples=10)
    assert again.reliability == found.reliability and again.cascade == found.cascade
    assert again.attacks == found.attacks


def test_a_recipe_asks_for_them_again(config: TrainingConfig, notes: list[str], tmp_path: Path) -> None:
    recipe = recipe_in(load_bundle(config.out), tmp_path, ("tiny",))
    assert recipe["cascade"] == {"clears": CLEARS}
    assert recipe["calibrate"] == {"by": "prediction", "rate": RATE, "tail": True}


def test_the_calibration_checks_each_group(
    config: TrainingConfig, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(calibration: Calibration, groups: Groups | None, classes: tuple[str, ...]) -> None:
        assert groups is not None
        raise CalibrationError(f"{len(groups.calibrations)} groups of {', '.join(classes)}")

    monkeypatch.setattr("training.stages.calibrate.check_vouched", refuse)
    monkeypatch.setattr("training.retraining.recalibrate.check_vouched", refuse)
    fewer = config.model_copy(update={"cascade": CascadeConfig(clears=0.2)})
    with pytest.raises(CalibrationError, match="4 groups of horizontal"):
        pipeline.run_stage(open_job(fewer, SilentProgress()), "calibrate")
    images = files(100)
    with pytest.raises(CalibrationError, match="4 groups of horizontal"):
        recalibrate(load_bundle(config.out), images, Options(RATE, 0.0), SilentProgress(), allow=("tiny",))


def files(count: int) -> list[tuple[str, bytes]]:
    """Images as files."""
    found = []
    for number, image in enumerate(tiny.images(count, seed=77).images):
        content = io.BytesIO()
        Image.fromarray((image * 255).round().byte().permute(1, 2, 0).contiguous().numpy()).save(content, "png")
        found.append((f"{number}.png", content.getvalue()))
    return found


def test_new_thresholds_are_of_both_looks_and_leave_the_rest(config: TrainingConfig, detector: Detector) -> None:
    before = load_bundle(config.out)
    new, told = recalibrate(before, files(160), Options(RATE, 0.0), SilentProgress(), allow=("tiny",))
    assert sum(told.groups.values()) == 160 and new.calibration_groups is not None
    assert new.manifest.cascade == before.manifest.cascade and new.glance_weights is before.glance_weights
    assert new.reliability is before.reliability
    assert new.manifest.calibration["tail"] is True and new.manifest.calibration["by"] == "prediction"
    assert 8 < int((new.calibration_scores < 0).sum()) < 100
    images = tiny.images(8, seed=3).images
    for one, other in zip(Detector.assemble(new, allow=("tiny",)).detect(images), detector.detect(images), strict=True):
        assert (one.attack_score, one.error_rate, one.cleared) == (other.attack_score, other.error_rate, other.cleared)


def test_few_images_of_a_new_classifier_are_looked_at_in_full(config: TrainingConfig, tmp_path: Path) -> None:
    weights = tmp_path / "new.safetensors"
    save_file(tiny.trained_weights(seed=5), str(weights))
    changed = {"classifier": config.classifier.model_copy(update={"weights": str(weights)})}
    place = {"work": tmp_path / "work", "out": tmp_path / "new.heatward"}
    asked, said = config.model_copy(update={**changed, **place}), Notes()
    assert asked.cascade.clears == CLEARS
    adapt(load_bundle(config.out), asked, AdaptOptions(fraction=None, images=40, test=20), said)
    note = next(note for note in said.notes if "has no cascade, and looks at every image in full" in note)
    assert "about 5 clean images would choose the glance's threshold" in note
    made = read_manifest(place["out"])
    assert made.cascade is None and made.calibration["by"] == "prediction"
    detector = Detector.from_bundle(place["out"], allow=("tiny",))
    assert detector.cascade is None and detector.reliability is not None and detector.reliability.head.views
