"""The attacker who knows the masks, and the benchmark that lets him try."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
import torch
from tiny_job import configure, write_source

from benchmarks.robustness import patches
from benchmarks.robustness.patch_attacks import Informed, weakest
from detector.classifier import Classifier
from detector.evidence.covering import Covering
from detector.scoring.patches import answers_under, bound, contradiction, score_of
from detector.settings import PatchSettings
from training import pipeline
from training.progress import SilentProgress


@pytest.fixture(scope="module")
def covering() -> Covering:
    return Covering.of((tiny.SIDE, tiny.SIDE), PatchSettings(area=0.06, masks=9))


def test_he_changes_one_square_fools_and_stays_above_the_bound(tiny_classifier: Classifier, covering: Covering) -> None:
    torch.manual_seed(0)
    images = tiny.images(12, seed=41).images
    with torch.no_grad():
        labels = tiny_classifier(images).argmax(1)
    answers = answers_under(covering, tiny_classifier, images)
    attacked = Informed(tiny_classifier, covering, steps=15)(images, labels)
    changed = ((attacked - images).abs().amax(1) > 0.5 / 255).nonzero()
    for at in changed[:, 0].unique():
        rows = changed[changed[:, 0] == at][:, 1:]
        assert (rows.amax(0) - rows.amin(0) < covering.side).all()
    with torch.no_grad():
        said = tiny_classifier(attacked).argmax(1)
    fooled = said != labels
    assert fooled.sum() >= 3
    scores = score_of(answers_under(covering, tiny_classifier, attacked), said)
    assert (scores >= bound(covering, answers, labels))[fooled].all()


def test_he_takes_the_place_and_the_class_that_the_bound_is_of(covering: Covering) -> None:
    torch.manual_seed(1)
    answers = torch.randn(1, len(covering.windows), 5)
    (top, left), claim = weakest(covering, answers[0], 2)
    holders = [
        at
        for at, window in enumerate(covering.windows)
        if window.top <= top <= window.bottom - covering.side and window.left <= left <= window.right - covering.side
    ]
    least = contradiction(answers[0])[holders, claim].max()
    assert claim != 2
    torch.testing.assert_close(least, bound(covering, answers, torch.tensor([2]))[0], atol=2e-3, rtol=0)


def test_the_benchmark_prints_what_is_certified_and_who_gets_through(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_source(tmp_path / "source")
    pipeline.run(configure(source, tmp_path), SilentProgress())
    config = (source / "config.toml").read_text().replace("seed = 3", f'seed = 3\nwork = "{tmp_path / "work"}"')
    (tmp_path / "it.toml").write_text(config)
    patches.main(
        f"--config {tmp_path / 'it.toml'} --bundle {tmp_path / 'detector.heatward'} --trusted tiny "
        f"--area .06 --masks 9 --attacked 3 --json {tmp_path / 'found.json'}".split()
    )
    (found,) = json.loads((tmp_path / "found.json").read_text())
    assert (found["side"], found["masks"]) == (4, 9)
    agreement = found["rates"]["agreement"]
    assert 0 <= agreement["certified"] <= found["right"] <= 1
    assert agreement["right and silent"] == pytest.approx(found["right"] - agreement["alarms"], abs=1 - found["right"])
    assert found["attacks"].keys() == {"Patch", "informed"}
    for attacker in found["attacks"].values():
        assert all(attacker[rule]["through although certified"] == 0 for rule in patches.RULES)
        assert all(attacker[rule]["through"] <= 1 - attacker[rule]["certified"] for rule in patches.RULES)
    said = capsys.readouterr().out
    assert "4×4 px, 9 masks of" in said and "through although certified" in said


def test_who_gets_through_although_certified_fails_the_benchmark(
    tiny_classifier: Classifier, covering: Covering, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = tiny.images(20, seed=41)
    with torch.no_grad():
        clean = patches.Images(drawn.images, drawn.labels, tiny_classifier(drawn.images).argmax(1))
    looked = patches.Looked.at(clean, covering, tiny_classifier)
    found = patches.attacked(covering, tiny_classifier, looked, looked, count=12, steps=15, drawn=5)
    assert found["informed"]["0.01"]["through"] > 0
    assert patches.refuted([{"attacks": found}]) == 0
    monkeypatch.setattr(patches, "bound", lambda covering, answers, labels: torch.full((len(labels),), torch.inf))
    wrong = patches.attacked(covering, tiny_classifier, looked, looked, count=12, steps=15, drawn=5)
    assert patches.refuted([{}, {"attacks": wrong}]) > 0
