from __future__ import annotations

import numpy as np
import pytest
import torch

from detector.bundle import EMBEDDED
from detector.classifier import Classifier
from detector.detector import Detector
from server.inference.staging import Staging

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
def test_batches_of_any_size_hold_their_images_in_order(device: str):
    staging = Staging(device)
    for size in (3, 1, 5, 2):
        images = list(np.random.default_rng(size).integers(0, 256, (size, 8, 6, 3), np.uint8))
        with staging.stream():
            batch = staging.batch(images)
            assert batch.device.type == device
            assert torch.equal(batch.cpu(), torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255)


def test_an_image_in_a_batch_is_what_the_classifier_prepares(tiny_classifier: Classifier):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    batch = Staging("cpu").batch([tiny_classifier.fit(pixels)])
    assert torch.equal(batch[0], tiny_classifier.prepare(pixels))


@needs_gpu
def test_a_stream_of_its_own():
    with Staging("cuda").stream():
        own = torch.cuda.current_stream()
    assert own != torch.cuda.current_stream()


@needs_gpu
def test_the_gpu_gives_the_verdicts_of_the_cpu():
    images = list(np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8))
    staging, host = Staging("cuda"), Staging("cpu")
    with staging.stream():
        there = Detector.from_bundle(EMBEDDED, device="cuda").detect(staging.batch(images))
    for one, other in zip(there, Detector.from_bundle(EMBEDDED).detect(host.batch(images)), strict=True):
        assert one.label == other.label
        assert one.attack_score == pytest.approx(other.attack_score, abs=0.05)
