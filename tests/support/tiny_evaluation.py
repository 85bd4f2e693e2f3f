"""A work folder of the tiny classifier with finished attack and attribute shards, ready to be evaluated."""

from __future__ import annotations

from pathlib import Path

import tiny
import torch
from torch import Tensor

from detector.classifier import Classifier
from detector.detector import Detector
from detector.evidence import EvidenceExtractor, EvidenceSettings
from detector.evidence.views import ViewSettings
from detector.scoring.calibration import Calibration
from detector.scoring.network import EvidenceShape, HeatmapNetwork, NetworkSettings, score
from training.attacks import Distance, attack_images, noise_twin
from training.config import TrainingConfig
from training.shards import shard_path, write_shard

ROWS = {"fit": 24, "calibrate": 40, "test": 32}
EVIDENCE = EvidenceSettings(views=ViewSettings(noise=(4.0,), noise_draws=1, shifts=(), blur=False, rescale=()))


def config(work: Path) -> TrainingConfig:
    return TrainingConfig.model_validate(
        {
            "work": work,
            "classifier": tiny.SPEC.model_dump(include={"source", "input_size", "classes"}),
            "images": {"source": "not read here"},
            "twins": {"sizes": ["8/255"]},
            "attacks": [
                {"name": "FGSM", "label": "fgsm", "family": "one-step", "parameters": {"eps": "32/255"}},
                {"name": "PGD", "label": "pgd", "family": "iterative", "parameters": {"eps": "16/255"}, "train": False},
            ],
        }
    )


def prediction(classifier: Classifier, pixels: Tensor) -> Tensor:
    return classifier(pixels.float() / 255).argmax(1)


def write(work: Path, split: str, label: str, extractor: EvidenceExtractor, rows: dict[str, Tensor]) -> None:
    """Two shards of each stage, as the attack and attribute stages leave them."""
    half = len(rows["index"]) // 2
    for number, part in enumerate((slice(0, half), slice(half, None))):
        shard = {name: column[part] for name, column in rows.items()}
        write_shard(shard_path(work, "attack", split, label, number), shard, f"{split}/{label}/{number}")
        kept = shard["prediction"] != shard["origin"]
        kept |= label in ("clean", "twin-8")
        evidence = extractor(shard["images"][kept].float() / 255) if kept.any() else None
        columns = {name: shard[name][kept] for name in ("index", "truth", "origin", "prediction", "linf", "l2")}
        assert evidence is not None, "this test wants a success in every shard"
        write_shard(shard_path(work, "attribute", split, label, number), evidence.tensors() | columns, "")


def evaluation_job(work: Path, tiny_classifier: Classifier) -> tuple[TrainingConfig, Detector]:
    """Shards of every split, and a detector with an untrained network."""
    settings = config(work)
    extractor = EvidenceExtractor(tiny_classifier, EVIDENCE)
    for seed, (split, count) in enumerate(ROWS.items()):
        drawn = tiny.images(count, seed=seed)
        clean = (drawn.images * 255).round().to(torch.uint8)
        origin = prediction(tiny_classifier, clean)
        made = {"clean": clean, "twin-8": noise_twin(clean, 8 / 255, 0)}
        for attack in settings.attacks:
            made[attack.label] = attack_images(attack, tiny_classifier, clean, origin, seed=0, batch_size=16)
        for label, pixels in made.items():
            distance = Distance.between(clean, pixels)
            rows = {
                "images": pixels,
                "index": 1000 * seed + torch.arange(count),
                "truth": drawn.labels,
                "origin": origin,
                "prediction": prediction(tiny_classifier, pixels),
                "linf": distance.linf,
                "l2": distance.l2,
            }
            write(work, split, label, extractor, rows)
    torch.manual_seed(0)
    calibration = extractor(tiny.images(99, seed=9).images)
    network = HeatmapNetwork(EvidenceShape.of(calibration), 2, NetworkSettings(width=16, token=16)).eval()
    scores, _ = score([network], calibration)
    return settings, Detector(tiny_classifier, extractor, [network], Calibration.fit(scores.double()))
