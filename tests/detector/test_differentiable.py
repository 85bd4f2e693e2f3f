"""The differentiable twin: the detector's own scores, and gradients that finite differences confirm."""

from __future__ import annotations

from copy import copy
from pathlib import Path

import hidden
import pytest
import smooth
import tiny
import tiny_cascade
import torch
from torch import Tensor, nn

from detector.bundle import EMBEDDED
from detector.classifier import Classifier, load_classifier
from detector.detector import Detector
from detector.differentiable import DifferentiableDetector
from detector.errors import CalibrationError, ConfigError
from detector.evidence import EvidenceExtractor, EvidenceSettings, EvidenceShape
from detector.evidence.compression import compress
from detector.evidence.views import ViewSettings
from detector.images import decode
from detector.scoring.calibration import Calibration
from detector.scoring.groups import Groups
from detector.scoring.novelty import Novelty
from detector.settings import ScoreSettings
from detector.surrogate import SmoothSlopes

VIEWS = ViewSettings(noise=(4.0,), noise_draws=1, shifts=((0, 1),), rescale=())
SETTINGS = EvidenceSettings(views=VIEWS, spread=True)
IMAGES = 0.3 + 0.4 * tiny.images(3, seed=5).images
STEP = 0.02


def embedded_images(detector: Detector) -> Tensor:
    """Photographs and noisy copies of them, which score higher."""
    paths = sorted((Path(EMBEDDED).parent / "samples").glob("*/0000.jpg"))[:4]
    clean = torch.stack([detector.classifier.prepare(decode(path.read_bytes())) for path in paths])
    noise = 0.03 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    return torch.cat([clean, ((clean + noise).clamp(0, 1) * 255).round() / 255])


def scores_of(detector: Detector, images: Tensor) -> Tensor:
    return torch.tensor([verdict.attack_score for verdict in detector.detect(images)], dtype=torch.float64)


def test_the_twin_of_the_embedded_detector_gives_its_scores() -> None:
    detector = Detector.from_bundle(EMBEDDED)
    images = embedded_images(detector)
    before, twin = scores_of(detector, images), DifferentiableDetector(detector)
    seen = twin(images.clone().requires_grad_())
    assert seen.scores.requires_grad and seen.logits.requires_grad and seen.origin.requires_grad
    torch.testing.assert_close(seen.scores.detach(), before, rtol=1e-5, atol=1e-5)
    assert seen.candidates[:, 0].tolist() == [verdict.label for verdict in detector.detect(images)]
    assert torch.equal(scores_of(detector, images), before)  # a twin leaves the detector as it is


@pytest.mark.parametrize("views", [(), (1,)])
@pytest.mark.parametrize("with_witness", [False, True])
def test_the_twin_of_a_cascade_gives_the_score_of_the_look_that_decides(
    tiny_classifier: Classifier, views: tuple[int, ...], with_witness: bool
) -> None:
    witness = load_classifier(tiny.SPEC, state_dict=tiny.trained_weights(seed=1)) if with_witness else None
    detector = tiny_cascade.detector(tiny_classifier, views=views, witness=witness)
    images = tiny.images(20, seed=6).images
    leaf = images.clone().requires_grad_()
    twin = DifferentiableDetector(detector)
    seen = twin(leaf)
    scores = scores_of(detector, images)
    torch.testing.assert_close(seen.scores.detach(), scores, rtol=1e-5, atol=1e-5)
    assert 0 < int((scores < 0).sum()) < len(scores)  # some cleared, some not
    assert seen.glance is not None
    assert ((seen.glance < 0) == (scores < 0)).all()
    (gradient,) = torch.autograd.grad(seen.scores.sum(), leaf)
    assert (gradient.flatten(1).norm(dim=1) > 0).all()


def test_with_a_cascade_the_nearer_way_out_counts(tiny_classifier: Classifier) -> None:
    twin = DifferentiableDetector(tiny_cascade.detector(tiny_classifier))
    images = tiny.images(20, seed=6).images
    seen = twin(images)
    assert seen.glance is not None
    never = torch.full((4,), -1e6, dtype=torch.float64)  # in full, no score is low enough
    torch.testing.assert_close(twin.excess(seen, never), seen.glance)
    always = torch.full((4,), 1e6, dtype=torch.float64)
    assert (twin.excess(seen, always) < 0).all()


@pytest.mark.parametrize("black_box", [False, True])
def test_finite_differences_confirm_the_gradient_of_every_group(black_box: bool) -> None:
    net = smooth.classifier()
    settings = EvidenceSettings(views=VIEWS) if black_box else SETTINGS
    extractor = copy(EvidenceExtractor(net, settings, smooth.classifier(seed=1), black_box=black_box))
    extractor.on_graph = True
    leaf = IMAGES.clone().requires_grad_()
    evidence = extractor(leaf)
    names = list(evidence.groups)
    assert black_box or {"margin.channels", "views.stability", "margin.spread", "witness.channels"} <= {*names}
    generator = torch.Generator().manual_seed(0)
    for name in names:
        group = evidence.groups[name]
        weights = torch.randn(group.shape, generator=generator)
        (gradient,) = torch.autograd.grad((group * weights).sum(), leaf, retain_graph=True)
        direction = gradient / gradient.norm()
        with torch.no_grad():
            ahead, behind = (
                (extractor(IMAGES + sign * STEP * direction).groups[name] * weights).double().sum() for sign in (1, -1)
            )
        slope = float(ahead - behind) / (2 * STEP)
        assert slope == pytest.approx(float(gradient.norm()), rel=0.05), name


def test_finite_differences_confirm_the_gradient_of_the_score() -> None:
    net, witness = smooth.classifier(), smooth.classifier(seed=1)
    extractor = EvidenceExtractor(net, SETTINGS, witness)
    evidence = extractor(tiny.images(80, seed=3).images)
    network = tiny_cascade.network_for(EvidenceShape.of(evidence), 0)
    network.fit_scales(evidence)
    detector = Detector(net, extractor, [network], Calibration.fit(torch.arange(20.0)))
    twin, leaf = DifferentiableDetector(detector), IMAGES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(twin(leaf).scores.sum(), leaf)
    direction = gradient / gradient.norm()
    ahead, behind = (scores_of(detector, IMAGES + sign * STEP * direction).sum() for sign in (1, -1))
    assert float(ahead - behind) / (2 * STEP) == pytest.approx(float(gradient.norm()), rel=0.05)


def test_a_jpeg_view_is_the_same_and_has_a_gradient() -> None:
    leaf = IMAGES.clone().requires_grad_()
    view = compress(leaf, 60)
    assert torch.equal(view.detach(), compress(IMAGES, 60))
    (gradient,) = torch.autograd.grad(view[:, :, 4:12, 4:12].sum(), leaf)
    assert float(gradient.sum()) == pytest.approx(3 * 3 * 64, rel=0.02)  # of each value summed, about 1 in all


def test_novelty_is_the_same_and_its_table_has_a_slope() -> None:
    evidence = EvidenceExtractor(smooth.classifier(), SETTINGS, smooth.classifier(seed=1))(tiny.images(60).images)
    novelty = Novelty(EvidenceShape.of(evidence), ScoreSettings(quantiles=8))
    novelty.fit(evidence, evidence)
    numbers = novelty._numbers(evidence).T
    leaf = numbers.clone().requires_grad_()
    novelty._numbers = lambda evidence: leaf.T  # type: ignore[method-assign]
    found = novelty(evidence)
    (gradient,) = torch.autograd.grad(found.sum(), leaf)
    with torch.no_grad():
        assert torch.equal(found, novelty(evidence))
    outside = numbers < novelty.clean[:, :1]
    assert outside.any() and (gradient[outside] == 0).all() and (gradient[~outside] > 0).all()
    low, high = novelty.clean[:, 3], novelty.clean[:, 4]  # crossed at the slope of the table
    inside = (numbers > low[:, None]) & (numbers < high[:, None])
    rise = torch.log(torch.tensor(6 / 5))  # 6 of 9 have a higher number, then 5
    expected = (rise / (high - low))[:, None].expand_as(numbers)
    torch.testing.assert_close(gradient[inside], expected[inside])


def test_the_slope_of_a_relu_has_a_gradient_and_answers_stay() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(inplace=True), nn.Linear(5, 1))
    x = torch.randn(4, 3, requires_grad=True)

    def second() -> tuple[Tensor, Tensor, Tensor]:
        answer = net(x)
        (first,) = torch.autograd.grad(answer.sum(), x, create_graph=True)
        again = torch.autograd.grad(first.square().sum(), x, allow_unused=True)[0]
        return answer, first, torch.zeros_like(x) if again is None else again

    plain = second()
    with SmoothSlopes():
        smoothed = second()
    assert torch.equal(plain[0], smoothed[0]) and torch.equal(plain[1], smoothed[1])
    assert not plain[2].any() and smoothed[2].any()


def test_thresholds_are_those_of_the_group_of_each_class(tiny_classifier: Classifier) -> None:
    detector = tiny_cascade.detector(tiny_classifier)
    one = DifferentiableDetector(detector).thresholds(0.05)
    assert one.tolist() == [detector.calibration.threshold(0.05)] * 4
    few, many = Calibration.fit(torch.arange(19.0)), Calibration.fit(torch.arange(300.0))
    detector.groups = Groups((few, many), torch.tensor([0, 1, 1, 1]))
    assert DifferentiableDetector(detector).thresholds(0.01).tolist() == [torch.inf, *[many.threshold(0.01)] * 3]
    with pytest.raises(CalibrationError, match="between 0 and 1"):
        DifferentiableDetector(detector).thresholds(1.5)


def test_who_gives_no_gradients_is_refused_by_name(tiny_classifier: Classifier) -> None:
    closed = load_classifier(
        tiny.SPEC.model_copy(update={"source": "python:hidden:net"}), state_dict=hidden.weights(), allow=("hidden",)
    )
    guarded = tiny_cascade.detector(closed, witness=tiny_classifier)
    with pytest.raises(ConfigError, match=r"white box refused: classifier 'python:hidden:net' gives no gradients \("):
        DifferentiableDetector(guarded)
    with pytest.raises(ConfigError, match="white box refused: witness 'python:hidden:net'"):
        DifferentiableDetector(tiny_cascade.detector(tiny_classifier, witness=closed))
