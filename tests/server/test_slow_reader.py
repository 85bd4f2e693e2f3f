"""A caller that does not read its answers: its stream stops, at a bounded cost, and nobody else notices."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import grpc
import numpy as np
from fake_detector import FakeDetector
from heatward.v1 import detection_pb2 as pb
from heatward.v1 import detection_pb2_grpc
from sample_requests import picture, raw
from test_service import settle
from torch import Tensor

from detector.detector import Verdict

SLOW, OTHER = 7, 8  # labels
WINDOW_BYTES = 2**16
SMALL_WINDOW = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", WINDOW_BYTES)]
IMAGES, WINDOW = 400, 8
ANSWER_BYTES = 2**14
MOST = WINDOW + 4 * WINDOW_BYTES // ANSWER_BYTES  # what the caller lets in, and what gRPC takes beforehand, twice


class Wordy(FakeDetector):
    """Answers with large heatmaps."""

    def detect(self, images: Tensor, *, keep_evidence: bool = False) -> list[Verdict]:
        heatmap = np.zeros((64, 64), np.float32)
        return [replace(verdict, heatmap=heatmap) for verdict in super().detect(images)]


async def test_a_stream_that_is_not_read_stops_and_others_are_answered(serving):
    async with (
        serving(Wordy(), in_flight_per_call=WINDOW) as served,
        grpc.aio.insecure_channel(served.app.address, SMALL_WINDOW) as channel,
    ):
        other, slow = served.stub, detection_pb2_grpc.DetectionServiceStub(channel)
        call = slow.DetectStream()

        async def write() -> None:
            for i in range(IMAGES):
                await call.write(raw(picture(SLOW, 64, 64), str(i), heatmap=pb.HEATMAP_FORMAT_FLOAT))
            await call.done_writing()

        def judged() -> int:
            return sum(batch.count(SLOW) for batch in served.detector.batches)

        writing = asyncio.create_task(write())
        before = -1
        while judged() != before or not before:
            before = judged()
            for _ in range(20):
                assert (await other.Detect(raw(picture(OTHER)), timeout=20)).predicted.index == OTHER
        assert before <= MOST
        assert not writing.done()  # the caller feels it too
        assert served.app.batcher.pending == 0
        answers = Counter([result.request_id async for result in call])
        await writing
        assert answers == Counter(map(str, range(IMAGES)))
        await settle(lambda: not served.app.rpcs.in_flight)


async def test_a_stream_that_is_not_read_is_given_up_when_its_caller_goes(serving):
    async with (
        serving(Wordy(), in_flight_per_call=WINDOW) as served,
        grpc.aio.insecure_channel(served.app.address, SMALL_WINDOW) as channel,
    ):
        call = detection_pb2_grpc.DetectionServiceStub(channel).DetectStream(
            iter([raw(picture(SLOW), str(i), heatmap=pb.HEATMAP_FORMAT_FLOAT) for i in range(IMAGES)])
        )
        await settle(lambda: sum(map(len, served.detector.batches)) > WINDOW)
        call.cancel()
        await settle(lambda: not served.app.rpcs.in_flight)
        assert served.app.batcher.pending == 0
        assert sum(map(len, served.detector.batches)) <= MOST
