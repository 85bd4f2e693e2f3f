"""Every bundle that a configuration of ours makes is served by the packages of the serving image alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import serving_packages
import torch

from detector.bundle import Bundle, Manifest, save_bundle
from detector.classifier import Classifier, load_classifier
from detector.evidence import EvidenceExtractor
from detector.scoring.network import EvidenceShape, HeatmapNetwork, NetworkSettings, ensemble_weights, score
from training.config import ClassifierConfig, TrainingConfig
from training.load import load_config

ROOT = Path(__file__).parents[2]
CLASSES = tuple(f"class {number}" for number in range(10))
SETTINGS = NetworkSettings(width=16, token=8, heads=2, ensemble=1)


def untrained(config: ClassifierConfig) -> Classifier:
    config = config.model_copy(update={"weights": None, "labels": None, "classes": CLASSES})
    return load_classifier(config.spec(CLASSES))


def bundle_of(config: TrainingConfig, path: Path) -> Path:
    """As the configuration would make it, from the same sources, but for training and the number of classes."""
    classifier = untrained(config.classifier)
    witness = untrained(config.witness) if config.witness else None
    settings = config.evidence.model_copy(update={"candidates": 2})
    evidence = EvidenceExtractor(classifier, settings, witness)(torch.rand(2, 3, *classifier.input_size))
    network = HeatmapNetwork(EvidenceShape.of(evidence), 2, SETTINGS)
    network.fit_scales(evidence)
    network.eval()
    scores, _ = score([network], evidence)
    manifest = Manifest(
        heatward_version="0.1.0",
        classifier=classifier.spec,
        fingerprint=classifier.fingerprint,
        witness=witness.spec if witness else None,
        witness_fingerprint=witness.fingerprint if witness else "",
        evidence=settings.model_dump(mode="json"),
        network={
            "settings": SETTINGS.model_dump(mode="json"),
            "shape": EvidenceShape.of(evidence).model_dump(mode="json"),
        },
        families=("iterative", "minimum-norm"),
    )
    save_bundle(
        path,
        Bundle(
            manifest=manifest,
            classifier_weights=classifier.state_dict(),
            witness_weights=witness.state_dict() if witness else None,
            network_weights=ensemble_weights([network]),
            calibration_scores=scores.repeat(50),
        ),
    )
    return path


def test_every_bundle_of_a_configuration_is_served_with_the_packages_of_serve(tmp_path: Path) -> None:
    loaded = {file: load_config(file) for file in sorted((ROOT / "examples").glob("*/config.toml"))}
    configs = [
        file for file, config in loaded.items() if config.classifier.kind != "onnx"
    ]  # needs its extra and a file
    assert len(configs) >= 3
    bundles = [bundle_of(loaded[file], tmp_path / f"{file.parent.name}.heatward") for file in configs]
    done = subprocess.run(
        [sys.executable, serving_packages.__file__, *map(str, bundles)],
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'proto'}", "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == [file.parent.name for file in configs]


def test_what_only_training_needs_is_told_from_what_serving_needs() -> None:
    kept_out = serving_packages.forbidden()
    assert {"torchattacks", "matplotlib", "rich", "pytest", "training"} <= kept_out
    assert kept_out.isdisjoint({"torch", "timm", "grpc", "google", "numpy", "PIL", "detector", "server"})
