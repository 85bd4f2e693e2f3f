"""Networks that begin with the champion's: only where no image that it learnt from is tested, and all of it fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from notes import Notes
from tiny_job import configure
from tiny_store import NEVER, make_store, words

from detector.bundle import Bundle, load_bundle, save_bundle
from detector.scoring.network import HeatmapNetwork
from training import pipeline
from training.config import TrainingConfig
from training.fitting import networks
from training.job import open_job
from training.progress import SilentProgress
from training.retraining import cli
from training.retraining.retrain import Options, retrain
from training.retraining.store import Store
from training.retraining.warm import begin_with

GROWS = {"grows": True, "splits": {"fit": 0.4, "calibrate": 0.35, "test": 0.25, "tune": 0.0}}


@pytest.fixture(scope="module")
def grown(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work folder and bundle of images that may grow."""
    place = tmp_path_factory.mktemp("grown")
    pipeline.run(growing(source, place), SilentProgress())
    return place


def growing(source: Path, place: Path, **settings: Any) -> TrainingConfig:
    return configure(source, place, images=GROWS, **settings)


def test_where_images_do_not_grow_it_is_refused(
    source: Path, trained: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_store(place, trained, NEVER)
    assert cli.retrain([*words(source, place), "--warm-epochs", "1"]) == 2
    assert "--warm-epochs: networks that begin with the champion's know" in capsys.readouterr().err
    assert not (place / "work" / "retrain").exists()


def test_a_challenger_begins_with_the_champions_networks(
    source: Path, grown: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "store").mkdir()
    bundle = load_bundle(grown / "detector.heatward")
    save_bundle(tmp_path / "store" / "first.heatward", bundle)
    began: list[Bundle] = []
    begin = networks._begin_with

    def beginning(network: HeatmapNetwork, start: Bundle, member: int) -> None:
        began.append(start)
        begin(network, start, member)

    monkeypatch.setattr(networks, "_begin_with", beginning)
    notes = Notes()
    options = Options(rate=0.05, tolerance=0.9, warm_epochs=1)
    retrain(growing(source, grown, fit={"epochs": 7}), Store.open(tmp_path / "store"), options, notes)
    assert [each.manifest.files for each in began] == [bundle.manifest.files]
    epochs = [note for note in notes.notes if "epoch" in note]
    assert len(epochs) == 1 and epochs[0].startswith("network 1/1 epoch 1:")
    made: Any = load_bundle(grown / "work" / "retrain" / "challenger.heatward").manifest.provenance
    assert made["fit"]["epochs"] == 7, "who adapts it later needs as many"


def other_families(bundle: Bundle) -> dict[str, Any]:
    return {"families": (*bundle.manifest.families, "new")}


def wider(bundle: Bundle) -> dict[str, Any]:
    return {"network": bundle.manifest.network | {"settings": {"width": 24, "token": 8, "heads": 2}}}


def other_witness(bundle: Bundle) -> dict[str, Any]:
    return {"witness_fingerprint": "0" * 64}


def other_views(bundle: Bundle) -> dict[str, Any]:
    return {"evidence": bundle.manifest.evidence | {"witness_noise": 3.0}}


@pytest.mark.parametrize(
    ("change", "named"),
    [(other_families, "families"), (wider, "sizes of networks"), (other_witness, "witness"), (other_views, "evidence")],
)
def test_what_the_champions_networks_do_not_know_begins_anew(
    source: Path, grown: Path, change: Callable[[Bundle], dict[str, Any]], named: str
) -> None:
    notes = Notes()
    job, bundle = open_job(growing(source, grown), notes), load_bundle(grown / "detector.heatward")
    assert (job.epochs, begin_with(job, bundle, 7).epochs) == (2, 7)
    other = replace(bundle, manifest=bundle.manifest.model_copy(update=change(bundle)))
    assert begin_with(job, other, 1).start is None
    assert notes.notes[-1] == f"fit: the champion has other {named}, so the networks begin anew"


def test_a_floor_or_another_weight_of_the_score_is_no_reason_to_begin_anew(source: Path, grown: Path) -> None:
    weighed = {"score": {"floor_weight": 1.5, "novelty_weight": 0.3}}
    job, bundle = open_job(growing(source, grown, fit=weighed), Notes()), load_bundle(grown / "detector.heatward")
    begun = begin_with(job, bundle, 7)
    assert (begun.start, begun.epochs) == (bundle, 7)
