"""What a verdict answers: a label given an attack, and a label over all images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detector import detector as detector_module
from detector.bundle import EMBEDDED, Bundle, load_bundle
from detector.detector import Detector
from detector.errors import BundleDamagedError, ImageShapeError
from detector.images import decode
from detector.scoring.labels import recovered
from detector.scoring.reliability import Reliability
from detector.scoring.risk import RiskHead

SAMPLES = sorted((Path(EMBEDDED).parent / "samples").glob("*/0000.jpg"))


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.from_bundle(EMBEDDED)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """The embedded one, which looks at every image in full."""
    found = load_bundle(EMBEDDED)
    manifest = found.manifest.model_copy(update={"cascade": None})
    return replace(found, manifest=manifest, glance_weights=None)


@pytest.fixture(scope="module")
def whole(bundle: Bundle) -> Detector:
    return Detector.assemble(bundle)


@pytest.fixture(scope="module")
def images(detector: Detector) -> torch.Tensor:
    return torch.stack([detector.classifier.prepare(decode(path.read_bytes())) for path in SAMPLES])


def test_recovered_answers_given_an_attack_and_corrected_over_all(detector: Detector, images: torch.Tensor) -> None:
    verdicts = detector.detect(images)
    for verdict in verdicts:
        labels, shares = zip(*verdict.recovered, strict=True)
        assert sorted((verdict.label, *labels)) == list(range(10))
        assert sum(shares) == pytest.approx(1) and list(shares) == sorted(shares, reverse=True)
        label, share = verdict.corrected
        assert label in (verdict.label, labels[0]) and 0 < share <= 1
    # nothing attacked them: most keep their label
    assert sum(verdict.corrected[0] == verdict.label for verdict in verdicts) >= 8


def test_the_prediction_is_left_out_and_the_others_share_the_whole(
    whole: Detector, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = torch.zeros(3, 10)
    origin[0, :3] = torch.tensor([0.6, 0.1, 0.3])
    origin[1, :3] = torch.tensor([0.2, 0.5, 0.3])
    origin[2, 0] = 1.0  # the others underflow
    monkeypatch.setattr(detector_module, "score", lambda networks, evidence: (torch.ones(3).double(), origin))
    order = whole.classifier(images[:3]).argsort(1, descending=True).tolist()  # candidates, by falling logit
    kept, mended, sure = whole.detect(images[:3])
    assert kept.recovered[:2] == ((order[0][2], pytest.approx(0.75)), (order[0][1], pytest.approx(0.25)))
    assert kept.corrected == (order[0][0], pytest.approx(0.6))
    assert mended.recovered[:2] == ((order[1][1], pytest.approx(0.625)), (order[1][2], pytest.approx(0.375)))
    assert mended.corrected == (order[1][1], pytest.approx(0.5))
    assert sure.recovered == tuple((label, pytest.approx(1 / 9)) for label in order[2][1:])
    assert sure.corrected == (order[2][0], 1.0)


def test_no_images_have_no_verdicts(detector: Detector, images: torch.Tensor) -> None:
    assert detector.detect(images[:0]) == []


def test_two_classes_recover_the_other_one() -> None:
    candidates, origin = torch.tensor([[1, 0], [0, 1]]), torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    assert recovered(candidates, origin) == [((0, 1.0),), ((1, 1.0),)]


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (torch.rand(3, 32, 32), r"images\[None\]"),
        (torch.rand(1, 3, 16, 16), "expected 32×32 pixels"),
        ((torch.rand(1, 3, 32, 32) * 255).byte(), r"\.float\(\) / 255"),
        (torch.rand(1, 3, 32, 32) * 255, "divide by 255"),
        (torch.full((1, 3, 32, 32), torch.nan), "NaN"),
        ([[0.5]], "got a list"),
    ],
)
def test_the_door_is_that_of_the_heatmaps(detector: Detector, images: torch.Tensor, told: str) -> None:
    with pytest.raises(ImageShapeError, match=told):
        detector.detect(images)


def test_a_verdict_promises_an_error_rate_where_the_bundle_does(
    bundle: Bundle, whole: Detector, images: torch.Tensor
) -> None:
    silent = Detector.assemble(replace(bundle, reliability=None))
    assert {verdict.error_rate for verdict in silent.detect(images)} == {None}
    own = [verdict.error_rate or 0.0 for verdict in whole.detect(images)]
    assert whole.reliability is not None and min(own) == whole.reliability.smallest_rate < max(own) <= 1
    weights = torch.tensor([0, 0, -1, 0, 0, 0], dtype=torch.float64)  # the margin alone
    head = RiskHead(torch.zeros(5, dtype=torch.float64), torch.full((5,), 10.0, dtype=torch.float64), weights)
    levels, rates = torch.tensor([[-0.3, -0.2], [0.01, 0.2]], dtype=torch.float64)
    found = Detector.assemble(replace(bundle, reliability=Reliability(head, levels, rates).tensors()))
    first, second = whole.classifier(images).double().topk(2).values.unbind(1)
    expected = [0.01 if m >= 3 else 0.2 if m >= 2 else 1.0 for m in (first - second).tolist()]
    verdicts = found.detect(images)
    assert [verdict.error_rate for verdict in verdicts] == expected and len(set(expected)) == 3
    assert [v.p_value for v in verdicts] == [v.p_value for v in whole.detect(images)]  # nothing else changes
    narrow = Reliability(RiskHead(torch.zeros(4), torch.ones(4), torch.zeros(5)), levels, rates)
    with pytest.raises(BundleDamagedError, match="reads 4 signs, its evidence has 5"):
        Detector.assemble(replace(bundle, reliability=narrow.tensors())).detect(images)
