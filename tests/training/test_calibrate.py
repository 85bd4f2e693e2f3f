"""The calibrate stage by predicted class: what the bundle holds, what is said, and what is not made again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from notes import Notes
from tiny_job import configure, write_source

from detector.bundle import load_bundle
from detector.detector import Detector
from detector.scoring.calibration import Calibration
from detector.scoring.groups import SHARED, Groups
from training import pipeline
from training.detectors import load_calibration
from training.fitting.calibration import describe
from training.job import open_job
from training.progress import SilentProgress
from training.settings import CalibrateSettings
from training.stages import calibrate

CLASSES = ("cat", "dog", "ship")


def test_groups_reach_the_bundle_and_only_what_depends_on_them_is_made_again(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")
    plain = configure(source, tmp_path)
    pipeline.run(plain, SilentProgress())
    before = load_bundle(plain.out)
    fitted = (tmp_path / "work/fit/network.safetensors").stat().st_mtime_ns
    assert before.manifest.calibration == {} and before.calibration_groups is None
    config, notes = configure(source, tmp_path, calibrate={"by": "prediction", "rate": 0.05}), Notes()
    assert not calibrate.outputs(open_job(config, SilentProgress())).finished
    pipeline.run(config, notes)
    assert (tmp_path / "work/fit/network.safetensors").stat().st_mtime_ns == fitted
    bundle = load_bundle(config.out)
    assert bundle.manifest.calibration["by"] == "prediction" and bundle.manifest.operating_points == {}
    assert bundle.manifest.calibration["groups"] == {SHARED: 24}  # four classes, too few of each
    assert any("4 of 4 predicted classes share 24 clean images" in note for note in notes.notes)
    assert torch.equal(bundle.calibration_scores, before.calibration_scores)
    detector = Detector.assemble(bundle, allow=("tiny",))
    assert detector.groups is not None
    assert torch.equal(detector.groups.calibrations[0].scores, before.calibration_scores.sort().values)
    assert load_calibration(tmp_path / "work")[1] is not None
    pipeline.run(plain, SilentProgress())
    assert load_bundle(plain.out).manifest == before.manifest


def test_a_manifest_says_who_shares_and_who_has_no_tail() -> None:
    random = np.random.default_rng(0)
    predictions = np.repeat(np.arange(3), (5, 120, 300))
    scores = random.exponential(size=425)
    groups = Groups.fit(scores, predictions, np.arange(425), classes=3, rate=0.01)
    settings = CalibrateSettings(by="prediction", tail=True)
    said, notes = describe(Calibration.fit(torch.from_numpy(scores)), groups, settings, CLASSES)
    assert said == {
        "by": "prediction",
        "rate": 0.01,
        "groups": {SHARED: 125, "ship": 300},
        "shared": ["cat", "dog"],
        "tail": True,
    }
    assert notes[0].startswith("2 of 3 predicted classes share 125 clean images") and notes[0].endswith(": cat, dog")
    assert notes[1].startswith("no tail estimate in 1 of 2 groups, the first *: a tail estimate needs at least 200")
    alone, quiet = describe(Calibration.fit(torch.from_numpy(scores)), None, CalibrateSettings(), CLASSES)
    assert (alone, quiet) == ({}, [])
