from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from random_evidence import evidence_of

from detector.errors import DataError
from detector.evidence import Evidence
from detector.scoring.network import NetworkOutput, score
from training import shards
from training.config import TrainingConfig
from training.fitting.networks import fit_networks, load_networks, loss_of
from training.fitting.rows import Rows, ShardReader
from training.progress import SilentProgress

FIT = {"width": 16, "token": 8, "heads": 2, "ensemble": 2, "epochs": 12, "batch_size": 32, "learning_rate": 5e-3}


def config_for(work: Path, **settings: object) -> TrainingConfig:
    return TrainingConfig.model_validate(
        {
            "work": work,
            "classifier": {"source": "python:tiny:net", "input_size": tiny.SPEC.input_size, "classes": tiny.CLASSES},
            "images": {"source": "images"},
            "attacks": [{"name": "PGD", "label": "pgd", "family": "iterative"}],
            "twins": {"sizes": []},
            "fit": FIT | settings,
        }
    )


def write(work: Path, label: str, count: int, shift: float, seed: int) -> Evidence:
    """A shard whose channels give the attack away and whose logits give the origin away."""
    evidence = evidence_of(count, 4, 4, seed)
    origin = torch.randint(0, 4, (count,), generator=torch.Generator().manual_seed(seed))
    told = {
        "margin.channels": evidence.groups["margin.channels"] + shift,
        "classes.logit": 4.0 * (evidence.candidates == origin[:, None])[..., None],
    }
    alone = {name: group for name, group in evidence.groups.items() if not name.startswith("witness.")}
    evidence = replace(evidence, groups=alone | told)
    path = shards.shard_path(work, "attribute", "fit", label, seed)
    shards.write_shard(path, evidence.tensors() | {"origin": origin}, "digest")
    return evidence


@pytest.fixture
def work(tmp_path: Path) -> Path:
    for seed in range(2):
        write(tmp_path, "clean", 64, 0.0, seed)
        write(tmp_path, "pgd", 24, 2.0, 10 + seed)
    return tmp_path


def test_it_learns_attacks_and_origins(work: Path, tmp_path: Path) -> None:
    fit_networks(config_for(work), work, SilentProgress(), work / "fit")
    networks = load_networks(work / "fit")
    clean, attacked = write(tmp_path / "new", "clean", 100, 0.0, 50), write(tmp_path / "new", "pgd", 100, 2.0, 51)
    gap = score(networks, attacked)[0].median() - score(networks, clean)[0].median()
    assert gap > 1
    found = attacked.candidates.gather(1, score(networks, attacked)[1].argmax(1, keepdim=True))[:, 0]
    origin = shards.read_shard(shards.shard_path(tmp_path / "new", "attribute", "fit", "pgd", 51))["origin"]
    assert (found == origin).float().mean() > 0.8


def test_a_fit_may_have_any_number_of_steps(work: Path) -> None:
    """Of 10, torch's schedule would divide by zero."""
    for epochs in (1, 4, 5, 6):  # two steps each
        fit_networks(config_for(work, ensemble=1, batch_size=176, epochs=epochs), work, SilentProgress(), work / "fit")


def test_the_same_seed_gives_the_same_bytes(work: Path) -> None:
    contents = []
    for _ in range(2):
        fit_networks(config_for(work, epochs=2), work, SilentProgress(), work / "fit")
        contents.append((work / "fit" / "network.safetensors").read_bytes())
    assert contents[0] == contents[1]


def test_families_weigh_alike_however_many_images_they_have(work: Path) -> None:
    config = config_for(work)
    reader = ShardReader(config, work, config.fit)
    weights = {0: 0.0, 1: 0.0}
    for rows in reader.epoch(random.Random(0)):
        for family in weights:
            weights[family] += float(rows.weight[rows.family == family].sum())
    assert weights[1] / (weights[0] + weights[1]) == pytest.approx(0.6)


def test_an_epoch_sees_every_row_once_whatever_the_buffer(work: Path) -> None:
    config = config_for(work, buffer_shards=1)
    reader = ShardReader(config, work, config.fit)
    seen = torch.cat([rows.evidence.logits[:, 0] for rows in reader.epoch(random.Random(0))])
    assert len(seen) == reader.rows == 176
    assert len(seen.unique()) == 176


def test_an_origin_outside_the_candidates_is_not_learnt() -> None:
    logits = torch.zeros(2, 2, requires_grad=True)
    evidence = Evidence(logits, torch.tensor([[0, 1], [0, 1]]), {})
    rows = Rows(evidence, torch.zeros(2, dtype=torch.int64), torch.tensor([1, 7]), torch.ones(2))

    class Echo(torch.nn.Module):
        def forward(self, evidence: Evidence) -> NetworkOutput:
            return NetworkOutput(torch.zeros(2, 2), evidence.logits)

    echo: Any = Echo()
    loss_of(echo, rows, 1.0, "cpu").backward()
    assert logits.grad is not None
    assert logits.grad[0].abs().sum() > 0 and logits.grad[1].abs().sum() == 0


def test_errors_name_what_to_mend(work: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="heatward train attribute"):
        fit_networks(config_for(tmp_path / "empty"), tmp_path / "empty", SilentProgress(), tmp_path)
    with pytest.raises(DataError, match="heatward train fit"):
        load_networks(tmp_path / "empty")
