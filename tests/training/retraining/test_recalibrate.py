"""New thresholds from recent images: what they promise, what attacked ones among them would do, and what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from tiny_store import ALWAYS, NEVER, make_store

from detector.bundle import load_bundle, read_manifest, save_bundle
from detector.bundle.folder import newest
from detector.detector import Detector
from detector.errors import CalibrationError
from detector.scoring.calibration import Calibration
from training.retraining import cli
from training.retraining.arriving import versions, ways_of
from training.retraining.robust import breakdown, needed, suspicious, trimmed

CLEAN = torch.linspace(0, 1, 1000, dtype=torch.float64)


def write_images(folder: Path, count: int, seed: int = 77) -> Path:
    folder.mkdir(parents=True)
    for number, image in enumerate(tiny.images(count, seed=seed).images):
        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / f"{number:03d}.png")
    return folder


def recalibrate(target: Path, clean: Path, *more: str) -> int:
    return cli.recalibrate([str(target), "--clean", str(clean), "--trusted", "tiny", "--rate", "0.05", *more])


def test_a_device_that_is_not_there(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clean = write_images(tmp_path / "clean", 4)
    assert recalibrate(trained / "detector.heatward", clean, "--device", "tpu", "--out", str(tmp_path / "new")) == 2
    assert "device: 'tpu' cannot be used" in capsys.readouterr().err


def test_a_store_gets_thresholds_of_these_images(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_store(tmp_path, trained, NEVER)
    first = store.champion()
    clean = write_images(tmp_path / "clean", 40)
    (clean / "again.png").write_bytes((clean / "000.png").read_bytes())
    (clean / "bad.png").write_bytes(b"no image")
    assert recalibrate(store.folder, clean, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["images"], told["copies"], told["unreadable"], told["left_out"]) == (40, 1, 1, 0)
    assert told["flagged_before"] == 0 and told["threshold"] < told["threshold_before"]
    assert any("would reach the median score" in each for each in told["warnings"])
    new = load_bundle(newest(store.folder))
    assert new.manifest.digest == told["digest"] and new.manifest.provenance["parent"] == first.digest
    assert new.manifest.operating_points["0.05"] == told["threshold"]
    verdicts = Detector.assemble(new, allow=("tiny",)).detect(tiny.images(40, seed=77).images)
    assert sum(verdict.p_value <= 0.05 for verdict in verdicts) == 1  # the highest of its own: 2 / 41
    measured: Any = new.manifest.measured
    attack = measured["attacks"][0]
    assert "auroc" in attack and "tpr" not in attack and "false_positives" not in measured
    assert [each.event for each in store.history().entries] == ["adopted", "recalibrated"]


def test_a_bundle_goes_where_it_is_told(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clean, bundle = write_images(tmp_path / "clean", 30), trained / "detector.heatward"
    out = tmp_path / "new.heatward"
    assert recalibrate(bundle, clean) == 2
    assert "--out FILE" in capsys.readouterr().err
    assert recalibrate(bundle, clean, "--attacked-share", "0", "--out", str(out)) == 0
    said = capsys.readouterr().out
    assert "images: 30, 0 of them left out" in said and "warning: these images are taken to be clean" in said
    assert read_manifest(out).provenance["parent"] == read_manifest(bundle).digest


@pytest.mark.parametrize(
    ("count", "more", "said"),
    [
        (18, (), "18 different images that can be read, 18 without those that may be attacked: a false-positive"),
        (20, ("--attacked-share", "0.1"), "20 different images that can be read, 18 without"),
        (20, ("--rate", "0.01"), "rate of 0.01 needs 99"),
    ],
)
def test_too_few_images_are_refused_with_the_number_needed(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int, more: tuple[str, ...], said: str
) -> None:
    store = make_store(tmp_path, trained, NEVER)
    before = store.champion()
    assert recalibrate(store.folder, write_images(tmp_path / "clean", count), *more) == 1
    assert said in capsys.readouterr().err
    assert store.champion() == before
    assert recalibrate(store.folder, tmp_path / "none") == 1
    assert "there is no such folder" in capsys.readouterr().err


def test_images_that_look_attacked_are_refused_until_somebody_looked(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_store(tmp_path, trained, ALWAYS)  # its thresholds flag everything
    clean = write_images(tmp_path / "clean", 40)
    assert recalibrate(store.folder, clean) == 1
    said = capsys.readouterr().err
    assert "flag 40 of 40 images (100.0%)" in said and "--attacked-share 0.950" in said
    assert recalibrate(store.folder, clean, "--attacked-share", "0.2") == 0
    assert len(load_bundle(newest(store.folder)).calibration_scores) == 32


def test_it_may_calibrate_by_predicted_class_and_stays_so(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clean, out, again = write_images(tmp_path / "clean", 210), tmp_path / "one.heatward", tmp_path / "two.heatward"
    words = ("--attacked-share", "0", "--json")
    more = ("--by", "prediction", "--tail", "--out", str(out))
    assert recalibrate(trained / "detector.heatward", clean, *words, *more) == 0
    told = json.loads(capsys.readouterr().out)
    assert sum(told["groups"].values()) == 210 and len(told["groups"]) == 4
    assert any("fewer images for the threshold of one predicted class" in each for each in told["warnings"])
    assert any("no tail estimate in 4 of 4 groups" in each for each in told["warnings"])  # none has 200
    manifest = read_manifest(out)
    assert manifest.calibration["groups"] == told["groups"] and manifest.operating_points == {}
    verdicts = Detector.from_bundle(out, allow=("tiny",)).detect(tiny.images(210, seed=77).images)
    flagged = [each.calibration_group for each in verdicts if each.p_value <= 0.05]
    for name, size in told["groups"].items():
        assert flagged.count(name) == int(0.05 * (size + 1)) - 1  # each is one of its own
    assert recalibrate(out, clean, *words, "--out", str(again)) == 0
    assert read_manifest(again).calibration["groups"] == told["groups"]
    capsys.readouterr()
    assert recalibrate(out, clean, *words, "--by", "all", "--out", str(again)) == 0
    assert json.loads(capsys.readouterr().out)["groups"] == {}
    assert read_manifest(again).calibration == {"tail": True} and load_bundle(again).calibration_groups is None


def test_an_estimate_of_too_few_images_and_a_client_without_records_are_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clean, out = write_images(tmp_path / "clean", 30), str(tmp_path / "new.heatward")
    assert recalibrate(trained / "detector.heatward", clean, "--attacked-share", "0", "--tail", "--out", out) == 1
    assert "--tail: an estimate needs 200 images, 30 are left" in capsys.readouterr().err
    assert recalibrate(trained / "detector.heatward", clean, "--client", "shop", "--out", out) == 2
    assert "--client: whose images they are is known of --records only" in capsys.readouterr().err


def poisoned(attacked: int, scores: Any = 2.0) -> torch.Tensor:
    """So many of the thousand images are attacked instead."""
    return torch.cat([CLEAN[: 1000 - attacked], torch.full((attacked,), scores, dtype=torch.float64)])


def test_what_is_left_out_withstands_the_share_that_it_names() -> None:
    clean = Calibration.fit(CLEAN).threshold(0.01)
    assert Calibration.fit(poisoned(20)).threshold(0.01) > 2.0
    assert Calibration.fit(trimmed(poisoned(20), 0.02)).threshold(0.01) <= clean
    lost = Calibration.fit(trimmed(CLEAN, 0.02)).threshold(0.01)  # nobody attacked: some more false alarms
    assert 0.02 < float((lost <= CLEAN).double().mean()) <= 0.03 + 1e-9


def test_the_share_that_makes_a_threshold_useless_does_and_one_image_less_does_not() -> None:
    rate, median = 0.01, 1.5
    found = breakdown(CLEAN, rate, {"pgd": median, "weak": 0.2})
    assert found.attack == "pgd" and found.attacked == 20 and math.isclose(found.share, 0.02)
    for attacked, useless in ((found.attacked, True), (found.attacked - 2, False)):
        scores = torch.linspace(1.4, 1.6, attacked + 1, dtype=torch.float64)[:attacked] + 0.1 / attacked
        threshold = Calibration.fit(torch.cat([CLEAN[: 1000 - attacked], scores])).threshold(rate)
        assert (threshold > median) == useless
    assert breakdown(CLEAN, rate, {}).attacked == 20 and breakdown(CLEAN, rate, {}).attack == ""
    assert breakdown(CLEAN, rate, {"near": 0.9955}).attacked < 20


def test_chance_is_not_called_suspicious() -> None:
    assert suspicious(12, 1000, 0.01) == 0
    assert suspicious(40, 1000, 0.01) == pytest.approx(0.0195, abs=0.001)


def test_the_number_needed_reaches_the_rate_and_one_less_does_not() -> None:
    for rate in (0.001, 0.01, 0.03, 0.05):
        count = needed(rate)
        breakdown(torch.rand(count, dtype=torch.float64), rate, {})
        with pytest.raises(CalibrationError, match=f"use {count}"):
            breakdown(torch.rand(count - 1, dtype=torch.float64), rate, {})


def test_images_also_count_as_they_arrive(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clean, out = write_images(tmp_path / "clean", 40), str(tmp_path / "new.heatward")
    words = ("--attacked-share", "0", "--json", "--out", out, "--delivered")
    assert recalibrate(trained / "detector.heatward", clean, *words) == 2
    assert "--delivered: the bundle learnt no delivery" in capsys.readouterr().err

    bundle = load_bundle(trained / "detector.heatward")
    noisy: dict[str, Any] = {"label": "noisy", "steps": [{"noise": "32/255"}]}
    unlearnt: dict[str, Any] = {"label": "dark", "steps": [{"jpeg": 1}], "train": False}
    known = {
        **bundle.manifest.provenance,
        "deliveries": [noisy, {**noisy, "label": "native", "native": True}, unlearnt],
    }
    manifest = bundle.manifest.model_copy(update={"provenance": known})
    save_bundle(tmp_path / "learnt.heatward", replace(bundle, manifest=manifest))
    assert recalibrate(tmp_path / "learnt.heatward", clean, *words) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 40
    new = load_bundle(tmp_path / "new.heatward")
    said: Any = new.manifest.provenance["recalibrated"]
    assert len(new.calibration_scores) == 40 and said["delivered"] is True

    detector = Detector.assemble(new, allow=("tiny",))
    ways = ways_of(new)
    assert [way.label for way in ways] == ["noisy", "native"]
    pixels = np.asarray(Image.open(clean / "000.png"))
    seen = versions(detector.classifier, pixels, ways, seed=1)
    assert torch.equal(seen[0], detector.classifier.prepare(pixels))
    assert torch.equal(seen[1], seen[2])  # of the classifier's size, native or not is the same
    assert 0.05 < (seen[1] - seen[0]).abs().mean() < 0.2

    plain = str(tmp_path / "plain.heatward")
    assert recalibrate(tmp_path / "learnt.heatward", clean, *words[:4], plain) == 0
    before, after = (torch.as_tensor(each.calibration_scores) for each in (load_bundle(plain), new))
    assert not torch.equal(before, after)
    assert "learnt how images arrive (noisy, native)" in json.loads(capsys.readouterr().out)["warnings"][-1]

    assert recalibrate(tmp_path / "learnt.heatward", clean, "--attacked-share", "0.1", *words[2:]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["warnings"][-1].startswith("12 of 120 scores were left out")
    assert told["images"] - told["left_out"] == len(load_bundle(out).calibration_scores)
    assert not any("learnt how" in each for each in told["warnings"])
