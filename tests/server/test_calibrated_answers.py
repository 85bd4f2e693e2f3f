"""How rare a score may be, and among which clean images it ranks, wherever a verdict goes; what a cascade clears."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_detector import FakeDetector
from heatward.v1 import detection_pb2 as pb
from sample_requests import picture, raw
from served_models import inference_result
from test_guard import parameters
from test_inference import asking, pixels, stub_of, values
from test_reliable import promising

from detector.scoring.calibration import Calibration
from detector.scoring.cascade import Cascade
from detector.scoring.tail import TailEstimate
from server.protocols.guard.findings import Finding, annotation

TAIL = TailEstimate(1e-4, 1e-6, 1e-3)


@pytest.fixture
def grouped() -> FakeDetector:
    """Estimates a tail for every image."""
    found = FakeDetector()
    found.group, found.tail = "cat", TAIL
    return found


async def test_kserve_tells_both_where_they_are_asked_for(serving, grouped: FakeDetector):
    async with serving(grouped) as served:
        answer = await stub_of(served).ModelInfer(pixels(25, 26, outputs=asking("tail_estimate", "calibration_group")))
        usual = await stub_of(served).ModelInfer(pixels(25))
    assert values(answer, "tail_estimate") == [[1e-4, 1e-6, 1e-3]] * 2
    assert list(answer.outputs[0].shape) == [2, 3]
    assert values(answer, "calibration_group") == [b"cat", b"cat"]
    assert {"tail_estimate", "calibration_group"}.isdisjoint(output.name for output in usual.outputs)


async def test_kserve_has_no_number_and_no_name_where_there_is_none(serving):
    async with serving() as served:
        answer = await stub_of(served).ModelInfer(pixels(25, outputs=asking("tail_estimate", "calibration_group")))
    assert np.isnan(values(answer, "tail_estimate")).all() and values(answer, "calibration_group") == [b""]


def test_the_guard_adds_both_where_they_are():
    plain, told = inference_result(), inference_result()
    told.verdict = replace(told.verdict, tail=TAIL, calibration_group="cat")
    assert {"tail_estimate", "calibration_group"}.isdisjoint(parameters(annotation([Finding(plain)])))
    one = parameters(annotation([Finding(told)]))
    assert (one["tail_estimate"], one["calibration_group"]) == (1e-4, "cat")
    two = parameters(annotation([Finding(plain), Finding(told)]))
    assert [json.loads(two[name]) for name in ("tail_estimate", "calibration_group")] == [[None, 1e-4], [None, "cat"]]


async def test_records_keep_both_and_the_error_rate(serving, grouped: FakeDetector, tmp_path: Path):
    pytest.importorskip("pyarrow", reason="the extra `record` is not installed")
    from detector.records.reader import RecordReader

    for detector in (grouped, promising()):
        async with serving(detector, record_folder=tmp_path / "recorded") as served:
            await served.stub.Detect(raw(picture(51)))
    first, second = RecordReader(tmp_path / "recorded").records()
    assert (first.tail_estimate, first.calibration_group, first.error_rate) == (1e-4, "cat", None)
    assert (second.tail_estimate, second.calibration_group, second.error_rate) == (None, None, 0.2)


async def test_what_a_cascade_clears_is_told_as_asked_and_as_measured(serving):
    cascading = FakeDetector()
    cascading.cascade = Cascade((), threshold=0.0, clears=0.65)
    cascading.calibration = Calibration.fit(torch.arange(200.0) - 120)
    async with serving(cascading) as served:
        info = await served.stub.GetDetector(pb.GetDetectorRequest())
    assert (info.cascade.share_asked, info.cascade.share_cleared) == (0.65, 0.6)
    async with serving() as served:
        info = await served.stub.GetDetector(pb.GetDetectorRequest())
    assert not info.HasField("cascade")
