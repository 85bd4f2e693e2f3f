"""A job on a classifier that gives no gradients: its own witness, attacks by transfer, a bundle that judges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hidden
import pytest
import tiny
import torch
from notes import Notes
from safetensors.torch import save_file
from tiny_job import configure, write_source

from detector.bundle import load_bundle
from detector.detector import Detector
from detector.errors import ConfigError
from training import pipeline
from training.config import STAGES, TrainingConfig
from training.detectors import open_detector
from training.forecast import forecast
from training.job import open_job
from training.progress import SilentProgress
from training.shards import list_shards, read_shard

SQUARE = {
    "name": "Square",
    "label": "square",
    "family": "score-based",
    "parameters": {"eps": "32/255", "n_queries": 30},
}
PGD = {
    "name": "PGD",
    "label": "pgd",
    "family": "iterative",
    "parameters": {"eps": "80/255", "alpha": {"of_eps": 0.25}, "steps": 5},
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_source(tmp_path_factory.mktemp("source"))
    save_file(hidden.weights(), str(folder / "hidden.safetensors"))
    return folder


def config(source: Path, place: Path, **changes: Any) -> TrainingConfig:
    classifier = {"source": "python:hidden:net", "weights": str(source / "hidden.safetensors")}
    settings: dict[str, Any] = {
        "classifier": classifier,
        "attacks": [PGD, SQUARE],
        "distillation": {"copies": 4, "epochs": 10, "batch_size": 16, "widths": [8, 16, 16], "noise": 0},
    }
    base = configure(source, place, **(settings | changes))
    return base if "witness" in changes else base.model_copy(update={"witness": None})


@pytest.fixture(scope="module")
def made(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingConfig, Notes]:
    settings, notes = config(source, tmp_path_factory.mktemp("place")), Notes()
    job = open_job(settings, notes)
    for stage in STAGES:
        pipeline.run_stage(job, stage)
    return settings, notes


def test_the_witness_learns_what_the_classifier_says(made: tuple[TrainingConfig, Notes]) -> None:
    (said,) = (each for each in made[1].notes if "says the same" in each)
    assert float(said.split("about ")[1].split("%")[0]) > 60  # by chance a quarter


def test_attacks_on_the_witness_count_where_they_fool_the_classifier(made: tuple[TrainingConfig, Notes]) -> None:
    classifier = tiny.classifier()
    fooled = 0
    for path in list_shards(made[0].work, "attack", "fit", "pgd"):
        shard = read_shard(path)
        assert torch.equal(shard["prediction"], classifier(shard["images"].float() / 255).argmax(1))
        assert shard["linf"].max() <= 80.5 / 255
        fooled += int((shard["prediction"] != shard["origin"]).sum())
    assert fooled > 0


def test_the_bundle_says_what_it_is_and_judges(made: tuple[TrainingConfig, Notes]) -> None:
    manifest = load_bundle(made[0].out).manifest
    assert "margin.channels" not in manifest.network["shape"]["groups"]  # type: ignore[index,operator,call-overload]
    assert "no gradients" in str(manifest.provenance["black_box"])
    detector = Detector.from_bundle(made[0].out, allow=("hidden",))
    assert detector.extractor.black_box and detector.extractor.map_from is detector.extractor.witness
    images = tiny.images(6, seed=5).images
    verdicts = detector.detect(images)
    assert [each.label for each in verdicts] == tiny.classifier()(images).argmax(1).tolist()
    assert all(each.heatmap.shape == (7, 7) for each in verdicts)


def test_a_second_run_makes_nothing_and_the_plan_says_so(made: tuple[TrainingConfig, Notes]) -> None:
    found = forecast(open_job(made[0], SilentProgress(), look_only=True))
    assert [each.stage for each in found.stages] == ["bundle"]
    before = (made[0].work / "witness/witness.safetensors").stat().st_mtime_ns
    pipeline.run_stage(open_job(made[0], SilentProgress()), "witness")
    assert (made[0].work / "witness/witness.safetensors").stat().st_mtime_ns == before


def test_the_plan_of_a_new_job_begins_with_the_witness(source: Path, tmp_path: Path) -> None:
    found = forecast(open_job(config(source, tmp_path), SilentProgress(), look_only=True))
    assert found.stages[0].stage == "witness" and "stage witness" in "\n".join(found.lines())
    assert not (tmp_path / "work" / "witness").exists()


def test_other_settings_make_another_witness_and_all_that_follows(
    made: tuple[TrainingConfig, Notes], source: Path
) -> None:
    changed = made[0].model_copy(update={"distillation": made[0].distillation.model_copy(update={"epochs": 11})})
    found = forecast(open_job(changed, SilentProgress(), look_only=True))
    again = {each.label for each in found.shards if each.made and each.stage == "attack"}
    assert again == {"pgd"}  # made on the witness; Square asks the classifier itself
    assert all(each.made for each in found.shards if each.stage == "attribute")


def test_a_gradient_attack_needs_gradients_somewhere(source: Path, tmp_path: Path) -> None:
    opaque = {"source": "python:hidden:net", "input_size": [16, 16], "weights": str(source / "hidden.safetensors")}
    with pytest.raises(ConfigError, match=r"attack 'pgd': PGD needs gradients.*nor the witness"):
        open_job(config(source, tmp_path, witness=opaque), SilentProgress())
    assert open_job(config(source, tmp_path, witness=opaque, attacks=[SQUARE]), SilentProgress()).witness is not None


def test_an_attack_on_a_given_witness_is_built_before_hours_are_spent(source: Path, tmp_path: Path) -> None:
    wrong = {"name": "DeepFool", "label": "deep", "family": "minimum-norm", "parameters": {"steps": 0}}
    with pytest.raises(ConfigError, match="attack 'deep': DeepFool steps: expected"):
        open_job(config(source, tmp_path, witness={}, attacks=[wrong]), SilentProgress())


def test_the_manifest_is_json(made: tuple[TrainingConfig, Notes]) -> None:
    assert json.loads(load_bundle(made[0].out).manifest.model_dump_json())["provenance"]["witness"]["copies"] == 4


def test_a_bundle_is_evaluated_on_other_images_with_its_own_witness(
    made: tuple[TrainingConfig, Notes], source: Path, tmp_path: Path
) -> None:
    elsewhere = config(source, tmp_path, seed=4)  # other splits: another witness would come of them
    job, detector, _ = open_detector(open_job(elsewhere, SilentProgress()), made[0].out)
    assert not job.distils and job.witness is detector.extractor.witness
    assert job.witness is not None
    assert job.witness.fingerprint == load_bundle(made[0].out).manifest.witness_fingerprint
