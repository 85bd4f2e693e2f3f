"""What the engine makes of a detector that fails."""

from __future__ import annotations

import asyncio

import grpc
import pytest
import torch
from fake_detector import CURSED, FakeDetector
from heatward.v1 import detection_pb2 as pb
from sample_requests import picture, raw
from test_service import occupy, settle
from torch import Tensor

from detector.detector import Verdict
from detector.errors import ClassifierUnavailableError


class Small(FakeDetector):
    """Once warm, runs out of the accelerator's memory in batches above `room`."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def detect(self, images: Tensor, *, keep_evidence: bool = False) -> list[Verdict]:
        verdicts = super().detect(images)
        if len(images) > self.room and not bool((images == 0.5).all()):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return verdicts


async def flood(served, labels: range) -> list[int]:
    """Labels of the answers to images that come while the engine is busy."""
    first = await occupy(served)
    calls = [served.stub.Detect(raw(picture(label))) for label in labels]
    await settle(lambda: served.app.batcher.queued == len(labels))
    served.detector.gate.set()
    await first
    return [(await call).predicted.index for call in calls]


async def test_out_of_memory_halves_the_batches_and_answers_every_image(serving):
    async with serving(Small(room=3), max_batch=8) as served:
        assert await flood(served, range(100, 116)) == list(range(100, 116))
        served.detector.batches.clear()
        assert await flood(served, range(120, 136)) == list(range(120, 136))
        assert max(map(len, served.detector.batches)) == 2  # 8 were too many, and so were 4: halved twice, for good


class Away(FakeDetector):
    """Its remote classifier does not answer while `away`."""

    away = False

    def detect(self, images: Tensor, *, keep_evidence: bool = False) -> list[Verdict]:
        if self.away:
            self.batches.append(images[:, 0, 0, 0].tolist())
            raise ClassifierUnavailableError("kserve:upstream:8001/cats does not answer")
        return super().detect(images)


async def test_where_a_remote_classifier_is_away_its_batch_is_not_halved_and_the_next_is_answered(serving):
    async with serving(Away(), max_batch=8) as served:
        served.detector.batches.clear()
        served.detector.away = True
        calls = [served.stub.Detect(raw(picture(label))) for label in range(40, 44)]
        for answer in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(answer, grpc.aio.AioRpcError)
            assert answer.code() is grpc.StatusCode.UNAVAILABLE and "does not answer" in answer.details()
        assert sum(map(len, served.detector.batches)) == 4  # each image was tried once
        served.detector.away = False
        assert (await served.stub.Detect(raw(picture(7)))).predicted.index == 7


async def test_an_image_too_large_for_the_memory_fails_and_the_engine_goes_on(serving):
    async with serving(Small(room=0), max_batch=4) as served:
        calls = [served.stub.Detect(raw(picture(label))) for label in range(30, 33)]
        for answer in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(answer, grpc.aio.AioRpcError)
            assert answer.code() is grpc.StatusCode.INTERNAL
        served.detector.room = 8
        assert (await served.stub.Detect(raw(picture(7)))).predicted.index == 7


async def test_the_log_names_the_image_at_fault(serving, caplog: pytest.LogCaptureFixture):
    async with serving() as served:
        requests = [raw(picture(label), f"id-{label}") for label in (7, CURSED, 8)]
        answer = await served.stub.DetectBatch(pb.DetectBatchRequest(requests=requests))
    assert [result.HasField("status") for result in answer.results] == [False, True, False]
    (line,) = (record for record in caplog.records if record.message == "the detector failed on an image")
    assert vars(line)["request_id"] == f"id-{CURSED}"
