"""The service with a real detector: loaded from a bundle file, judged over gRPC, the same as judged directly."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tiny
import torch
from heatward.v1 import detection_pb2 as pb
from heatward.v1 import detection_pb2_grpc
from safetensors.torch import load
from sample_requests import raw

from detector.bundle import Bundle, Manifest, load_bundle, save_bundle
from detector.classifier import Classifier
from detector.detector import Detector
from detector.errors import BundleDamagedError, CalibrationError
from detector.evidence import EvidenceExtractor, EvidenceSettings
from detector.scoring.groups import Groups
from detector.scoring.network import EvidenceShape, HeatmapNetwork, NetworkSettings, ensemble_weights, score
from server.app import App, load_detector
from server.config import ServerConfig

SETTINGS = NetworkSettings(width=16, token=8, heads=2, ensemble=1)
FAMILIES = ("iterative", "minimum-norm")


@pytest.fixture(scope="module")
def bundle(tiny_classifier: Classifier, tiny_images: tiny.TinyImages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle around the tiny classifier, its heatmap network untrained."""
    extractor = EvidenceExtractor(tiny_classifier, EvidenceSettings())
    evidence = extractor(tiny_images.images)
    torch.manual_seed(0)
    network = HeatmapNetwork(EvidenceShape.of(evidence), len(FAMILIES), SETTINGS)
    network.fit_scales(evidence)
    network.eval()
    scores, _ = score([network], evidence)
    path = tmp_path_factory.mktemp("bundle") / "tiny.heatward"
    manifest = Manifest(
        heatward_version="0.1.0",
        classifier=tiny_classifier.spec,
        fingerprint=tiny_classifier.fingerprint,
        evidence=EvidenceSettings().model_dump(mode="json"),
        network={
            "settings": SETTINGS.model_dump(mode="json"),
            "shape": EvidenceShape.of(evidence).model_dump(mode="json"),
        },
        families=FAMILIES,
        measured={"attacks": [{"label": "pgd-8", "auroc": {"value": 0.9}, "tpr": {"0.01": {"value": None}}}]},
    )
    save_bundle(path, Bundle(manifest, tiny_classifier.state_dict(), ensemble_weights([network]), scores))
    return path


def config_for(bundle: Path, **settings: Any) -> ServerConfig:
    common: dict[str, Any] = {
        "port": 0,
        "metrics_port": None,
        "threads": 1,
        "device": "cpu",
        "trusted": ("tiny",),
        "max_batch": 4,
    }
    return ServerConfig(bundle=bundle, false_positive_rate=0.05, **(common | settings))


async def test_over_grpc_is_the_same_as_directly(bundle: Path, tiny_images: tiny.TinyImages):
    pixels = (tiny_images.images[:6] * 255).round().byte().permute(0, 2, 3, 1).numpy()  # (6, H, W, 3)
    direct = Detector.from_bundle(bundle, allow=("tiny",)).detect(tiny_images.images[:6])
    app = App(config_for(bundle), partial(load_detector, config_for(bundle)))
    try:
        await app.listen()
        await app.begin()
        async with grpc.aio.insecure_channel(app.address) as channel:
            stub = detection_pb2_grpc.DetectionServiceStub(channel)
            requests = [raw(image, heatmap=pb.HEATMAP_FORMAT_FLOAT) for image in pixels]
            results = (await stub.DetectBatch(pb.DetectBatchRequest(requests=requests))).results
            info = await stub.GetDetector(pb.GetDetectorRequest())
    finally:
        await app.close()
    assert [result.verdict.predicted.index for result in results] == [verdict.label for verdict in direct]
    for result, verdict in zip(results, direct, strict=True):
        assert result.verdict.attack_score == pytest.approx(verdict.attack_score, rel=1e-3, abs=1e-4)
        assert result.verdict.recovered[0].index == verdict.recovered[0][0]
        assert result.verdict.corrected.index == verdict.corrected[0]
        values = np.frombuffer(result.verdict.heatmap.map.data, "<f4").reshape(verdict.heatmap.shape)
        np.testing.assert_allclose(values, verdict.heatmap, rtol=1e-3, atol=1e-4)
    assert info.name == "tiny"
    assert info.classifier.source == "python:tiny:net"
    assert list(info.classifier.classes) == list(tiny.CLASSES)
    assert list(info.families) == list(FAMILIES)
    assert {"margin.channels", "views.stability"} <= set(info.evidence)
    assert info.measured[0].auroc == 0.9
    assert not info.measured[0].HasField("tpr_at_1_percent")


async def test_a_damaged_bundle_never_serves(bundle: Path, tmp_path: Path):
    damaged = tmp_path / "damaged.heatward"
    data = bytearray(bundle.read_bytes())
    data[len(data) // 2] ^= 0xFF
    damaged.write_bytes(data)
    app = App(config_for(damaged), partial(load_detector, config_for(damaged)))
    try:
        await app.listen()
        with pytest.raises(BundleDamagedError):
            await app.begin()
    finally:
        await app.close()


async def test_few_calibration_images_raise_the_default_rate(bundle: Path):
    config = config_for(bundle).model_copy(update={"false_positive_rate": None})
    app = App(config, partial(load_detector, config))
    try:
        await app.listen()
        await app.begin()
        async with grpc.aio.insecure_channel(app.address) as channel:
            info = await detection_pb2_grpc.DetectionServiceStub(channel).GetDetector(pb.GetDetectorRequest())
    finally:
        await app.close()
    assert info.smallest_false_positive_rate > 0.01
    assert info.default_false_positive_rate == 0.05


async def test_a_calibration_by_group_and_a_tail_are_told_and_no_group_is_asked_for_too_much(
    bundle: Path, tiny_images: tiny.TinyImages, tmp_path: Path
):
    stored = load_bundle(bundle)
    random = torch.Generator().manual_seed(0)
    scores = torch.empty(299, dtype=torch.float64).exponential_(generator=random) * 1e-9  # every image scores higher
    half = len(tiny.CLASSES) // 2
    predictions = np.repeat(np.arange(2) * half, (60, 239))
    groups = Groups.fit(scores.numpy(), predictions, np.arange(299), classes=len(tiny.CLASSES), rate=0.02)
    manifest = stored.manifest.model_copy(update={"calibration": {"by": "prediction", "tail": True}})
    place = tmp_path / "grouped.heatward"
    calibrated: dict[str, Any] = {"calibration_scores": scores, "calibration_groups": groups.tensors()}
    save_bundle(place, replace(stored, manifest=manifest, **calibrated))
    config = config_for(place)
    app = App(config, partial(load_detector, config))
    pixels = (tiny_images.images[:16] * 255).round().byte().permute(0, 2, 3, 1).numpy()
    try:
        await app.listen()
        await app.begin()
        async with grpc.aio.insecure_channel(app.address) as channel:
            stub = detection_pb2_grpc.DetectionServiceStub(channel)
            info = await stub.GetDetector(pb.GetDetectorRequest())
            requests = [raw(each) for each in pixels]
            answers = await stub.DetectBatch(pb.DetectBatchRequest(requests=requests))
            small = raw(pixels[0])
            small.options.false_positive_rate = 0.005  # the larger group could promise it
            with pytest.raises(grpc.aio.AioRpcError, match="smallest rate"):
                await stub.Detect(small)
    finally:
        await app.close()
    sizes = {group.name: group.size for group in info.calibration_groups}
    assert sorted(sizes.values()) == [60, 239] and info.calibration_size == 299
    assert info.smallest_false_positive_rate == pytest.approx(1 / 61)
    assert not info.operating_points and info.has_tail
    assert [point.false_positive_rate for point in info.calibration_groups[0].operating_points]
    for result in answers.results:
        verdict = result.verdict
        assert verdict.p_value == 1 / (sizes[verdict.calibration_group] + 1)
        assert verdict.HasField("tail_estimate") == (sizes[verdict.calibration_group] == 239)


async def test_a_default_rate_that_cannot_be_promised_is_refused_at_the_start(bundle: Path):
    config = config_for(bundle).model_copy(update={"false_positive_rate": 0.001})
    app = App(config, partial(load_detector, config))
    try:
        await app.listen()
        with pytest.raises(CalibrationError, match="clean images"):
            await app.begin()
    finally:
        await app.close()


async def test_recorded_evidence_is_what_the_network_read(bundle: Path, tiny_images: tiny.TinyImages, tmp_path: Path):
    pytest.importorskip("pyarrow", reason="the extra `record` is not installed")
    from detector.records.reader import RecordReader

    pixels = (tiny_images.images[0] * 255).round().byte()
    config = config_for(bundle, record_folder=tmp_path / "recorded", record_evidence=True)
    app = App(config, partial(load_detector, config))
    try:
        await app.listen()
        await app.begin()
        async with grpc.aio.insecure_channel(app.address) as channel:
            await detection_pb2_grpc.DetectionServiceStub(channel).Detect(raw(pixels.permute(1, 2, 0).numpy()))
    finally:
        await app.close()
    (record,) = RecordReader(tmp_path / "recorded").records(evidence=True)
    detector = Detector.from_bundle(bundle, allow=("tiny",))
    expected = detector.extractor(pixels[None] / 255).tensors()
    found = load(record.evidence or b"")
    assert found.keys() == {*expected, "heatmap"}
    (verdict,) = detector.detect(pixels[None] / 255)
    assert np.allclose(found["heatmap"], verdict.heatmap, rtol=1e-3, atol=1e-4)
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor[0], rtol=1e-3, atol=1e-4), name
    assert record.bundle_sha256.startswith(record.model_version) and len(record.bundle_sha256) == 64
