"""From a detector to one that is ready to serve."""

from __future__ import annotations

import time

import pytest
import torch
from fake_detector import FakeDetector
from torch import Tensor

from detector.detector import Verdict
from server.models.warm_up import warm_up


def sizes(detector: FakeDetector) -> set[int]:
    return {len(batch) for batch in detector.batches}


def test_every_size_is_judged_before_anyone_asks():
    detector = FakeDetector()
    latency = warm_up(detector, 12, goal_s=60.0)
    assert sizes(detector) == {1, 2, 4, 8, 12}
    assert 1 <= latency.limit <= 12


def test_sizes_that_take_longer_than_the_goal_are_not_tried(monkeypatch: pytest.MonkeyPatch):
    now_s = 0.0

    class Slow(FakeDetector):
        def detect(self, images: Tensor, *, keep_evidence: bool = False) -> list[Verdict]:
            nonlocal now_s
            now_s += 5 * len(images)
            return super().detect(images)

    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    detector = Slow()
    latency = warm_up(detector, 1024, goal_s=18)
    assert max(sizes(detector)) == 4
    assert latency.limit <= 2


def test_sizes_that_do_not_fit_into_memory_are_not_used():
    class Small(FakeDetector):
        def detect(self, images: Tensor, *, keep_evidence: bool = False) -> list[Verdict]:
            if len(images) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().detect(images)

    assert warm_up(Small(), 64, goal_s=60.0).limit == 2
