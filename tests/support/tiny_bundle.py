"""A bundle of the tiny classifier, with an untrained network."""

from __future__ import annotations

import tiny
import torch

from detector.bundle import Bundle, Manifest
from detector.classifier import Classifier
from detector.evidence import EvidenceExtractor, EvidenceSettings
from detector.evidence.views import ViewSettings
from detector.scoring.network import EvidenceShape, HeatmapNetwork, NetworkSettings, ensemble_weights, score


def tiny_bundle(classifier: Classifier, witness: Classifier | None = None) -> Bundle:
    views = ViewSettings(noise=(4.0,), noise_draws=1, shifts=(), blur=False, rescale=())
    settings = EvidenceSettings(views=views)
    evidence = EvidenceExtractor(classifier, settings, witness)(tiny.images(99, seed=9).images)
    shape, network_settings = EvidenceShape.of(evidence), NetworkSettings(width=16, token=16, ensemble=1)
    torch.manual_seed(0)
    network = HeatmapNetwork(shape, 2, network_settings).eval()
    scores, _ = score([network], evidence)
    manifest = Manifest(
        heatward_version="0.1.0",
        classifier=classifier.spec,
        fingerprint=classifier.fingerprint,
        witness=witness.spec if witness else None,
        witness_fingerprint=witness.fingerprint if witness else "",
        evidence=settings.model_dump(mode="json"),
        network={"settings": network_settings.model_dump(mode="json"), "shape": shape.model_dump(mode="json")},
        families=("clean", "one-step"),
    )
    return Bundle(
        manifest,
        classifier.state_dict() if classifier.embeddable else None,
        ensemble_weights([network]),
        scores.double(),
        witness.state_dict() if witness else None,
    )
