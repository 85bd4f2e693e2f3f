"""Which predictions a caller may rely on, in every protocol; a rate that cannot be promised is refused with the number.

The fake detector's error rate is the label, out of 255.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from fake_detector import FakeDetector
from heatward.inference import grpc_service_pb2 as kserve
from heatward.v1 import detection_pb2 as pb
from sample_requests import fields_at_fault, picture, raw, status_of
from served_models import inference_result
from test_guard import parameters
from test_inference import asking, pixels, stub_of, values

from detector.scoring.reliability import Reliability
from detector.scoring.risk import RiskHead
from server.protocols.guard.findings import Finding, annotation


def promising(smallest: float = 10 / 255) -> FakeDetector:
    """Its smallest error rate is 10 / 255."""
    found = FakeDetector()
    nothing = torch.zeros(1, dtype=torch.float64)
    found.reliability = Reliability(RiskHead(nothing, nothing, nothing), nothing, nothing + smallest)
    return found


async def test_a_prediction_is_relied_on_up_to_the_rate_that_the_caller_bears(serving):
    async with serving(promising()) as served:
        info = await served.stub.GetDetector(pb.GetDetectorRequest())
        sure, risky = [await served.stub.Detect(raw(picture(label), max_error_rate=0.1)) for label in (25, 26)]
        unasked = await served.stub.Detect(raw(picture(25)))
    assert info.smallest_error_rate == pytest.approx(10 / 255)
    assert (sure.error_rate, sure.reliable) == (pytest.approx(25 / 255), True)
    assert (risky.error_rate, risky.reliable) == (pytest.approx(26 / 255), False)
    assert unasked.HasField("error_rate") and not unasked.HasField("reliable")


async def test_a_bundle_that_promises_nothing_says_nothing(serving):
    async with serving() as served:
        info = await served.stub.GetDetector(pb.GetDetectorRequest())
        verdict = await served.stub.Detect(raw(picture(7)))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.stub.Detect(raw(picture(7), max_error_rate=0.1))
    assert not (info.HasField("smallest_error_rate") or verdict.HasField("error_rate") or verdict.HasField("reliable"))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "promises no error rate" in status_of(caught.value).message


async def test_a_calibration_that_can_promise_no_rate_names_none(serving):
    async with serving(promising(1.0)) as served:
        info = await served.stub.GetDetector(pb.GetDetectorRequest())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.stub.Detect(raw(picture(7), max_error_rate=0.1))
    assert not info.HasField("smallest_error_rate")
    assert "promises no error rate" in status_of(caught.value).message


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        (0.0, "between 0 and 1"),
        (1.0, "between 0 and 1"),
        (-0.1, "between 0 and 1"),
        (math.nan, "between 0 and 1"),
        (0.03, "the smallest error rate is 0.0392"),
    ],
)
async def test_a_rate_that_cannot_be_promised_is_refused_with_the_smallest(serving, rate: float, said: str):
    theirs = pixels(7, parameters={"max_error_rate": kserve.InferParameter(double_param=rate)})
    async with serving(promising()) as served:
        with pytest.raises(grpc.aio.AioRpcError) as ours:
            await served.stub.Detect(raw(picture(7), max_error_rate=rate))
        with pytest.raises(grpc.aio.AioRpcError) as other:
            await stub_of(served).ModelInfer(theirs)
    for caught, field in ((ours, "options.max_error_rate"), (other, "parameters[max_error_rate]")):
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert fields_at_fault(status_of(caught.value)) == [field] and said in status_of(caught.value).message


async def test_kserve_has_both_where_they_are_asked_for(serving):
    borne: dict[str, Any] = {"max_error_rate": kserve.InferParameter(double_param=0.1)}
    async with serving(promising()) as served:
        stub = stub_of(served)
        answer = await stub.ModelInfer(pixels(25, 26, outputs=asking("error_rate", "reliable"), parameters=borne))
        usual = await stub.ModelInfer(pixels(25))
        unnamed = await stub.ModelInfer(pixels(25, outputs=asking("reliable")))
    assert values(answer, "error_rate") == pytest.approx([25 / 255, 26 / 255])
    assert values(answer, "reliable") == [True, False]
    assert {"error_rate", "reliable"}.isdisjoint(output.name for output in usual.outputs)
    assert values(unnamed, "reliable") == [False]  # at no rate, nothing is said to be reliable
    async with serving() as served:
        answer = await stub_of(served).ModelInfer(pixels(25, outputs=asking("error_rate")))
    assert np.isnan(values(answer, "error_rate")).all()


def test_the_guard_adds_the_error_rate_where_there_is_one():
    result = inference_result(7)
    assert "error_rate" not in parameters(annotation([Finding(result)]))
    result.verdict = replace(result.verdict, error_rate=0.25)
    assert parameters(annotation([Finding(result)]))["error_rate"] == 0.25
