from __future__ import annotations

import pytest
import torch

from detector.bundle import EMBEDDED
from detector.detector import Detector
from server.staging import Staging

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
def test_batches_of_any_size_hold_their_images_in_order(device: str):
    staging = Staging(device)
    for size in (3, 1, 5, 2):
        images = list(torch.rand(size, 3, 8, 6))
        with staging.stream():
            batch = staging.batch(images)
            assert batch.device.type == device
            assert torch.equal(batch.cpu(), torch.stack(images))


@needs_gpu
def test_a_stream_of_its_own():
    with Staging("cuda").stream():
        own = torch.cuda.current_stream()
    assert own != torch.cuda.current_stream()


@needs_gpu
def test_the_gpu_gives_the_verdicts_of_the_cpu():
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    staging = Staging("cuda")
    with staging.stream():
        there = Detector.from_bundle(EMBEDDED, device="cuda").detect(staging.batch(list(images)))
    for one, other in zip(there, Detector.from_bundle(EMBEDDED).detect(images), strict=True):
        assert one.label == other.label
        assert one.attack_score == pytest.approx(other.attack_score, abs=0.05)
