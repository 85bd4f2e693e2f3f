"""Who asks for patches is told of them, and pays; nobody else is told, or waits for it.

The fake detector's p-value of a patch is the label, out of 255.
"""

from __future__ import annotations

import grpc
import pytest
import torch
from fake_detector import SIZE, FakeDetector
from heatward.v1 import detection_pb2 as pb
from sample_requests import fields_at_fault, picture, raw, status_of

from detector.evidence.covering import Covering
from detector.scoring.calibration import Calibration
from detector.scoring.patches import Patches
from detector.settings import PatchSettings


def made_for_patches() -> FakeDetector:
    found = FakeDetector()
    covering = Covering.of((SIZE, SIZE), PatchSettings(area=0.05, masks=9))
    found.patches = Patches(covering, Calibration.fit(torch.arange(199.0)))
    return found


async def test_only_who_asks_is_told(serving):
    async with serving(made_for_patches()) as served:
        info = await served.stub.GetDetector(pb.GetDetectorRequest())
        low, high = [
            await served.stub.Detect(raw(picture(label), look_for_patches=True, false_positive_rate=0.05))
            for label in (12, 14)
        ]
        unasked = await served.stub.Detect(raw(picture(12)))
    assert (info.patches.area, info.patches.side, info.patches.masks) == (0.05, 2, 9)
    assert (low.patch_p_value, low.patched) == (pytest.approx(12 / 255), True)
    assert (high.patch_p_value, high.patched) == (pytest.approx(14 / 255), False)
    assert low.detector_version == unasked.detector_version == info.version
    assert not (unasked.HasField("patch_p_value") or unasked.HasField("patched"))


async def test_a_batch_holds_both_kinds(serving):
    async with serving(made_for_patches()) as served:
        requests = [raw(picture(label), look_for_patches=label % 2 == 0) for label in range(20, 28)]
        answer = await served.stub.DetectBatch(pb.DetectBatchRequest(requests=requests))
    verdicts = [each.verdict for each in answer.results]
    assert [each.predicted.index for each in verdicts] == list(range(20, 28))
    assert [each.HasField("patched") for each in verdicts] == [True, False] * 4


async def test_a_bundle_that_was_not_made_for_it_refuses_and_names_the_field(serving):
    async with serving() as served:
        info = await served.stub.GetDetector(pb.GetDetectorRequest())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.stub.Detect(raw(picture(7), look_for_patches=True))
    assert not info.HasField("patches")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert fields_at_fault(status_of(caught.value)) == ["options.look_for_patches"]
    assert "not made to look for patches" in status_of(caught.value).message
