"""A glance that takes some views itself: what it asks, what it knows, and that the full look is what it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import tiny
import tiny_cascade
import torch

from detector.bundle import Bundle, Manifest
from detector.bundle.contents import cascade_of
from detector.classifier import Classifier, load_classifier
from detector.detector import Detector
from detector.errors import BundleDamagedError
from detector.evidence import EvidenceExtractor, EvidenceSettings, EvidenceShape
from detector.evidence.views import make_views
from detector.scoring.cascade import CascadeSettings, score_of_both
from detector.scoring.network import ensemble_weights, score
from detector.scoring.reliability import Reliability
from detector.scoring.risk import RiskHead
from detector.settings import ViewSettings

IMAGES = tiny.images(24, seed=11).images
FLIP = (1,)  # of tiny_cascade's two views


@pytest.fixture(scope="module")
def witness() -> Classifier:
    return load_classifier(tiny.SPEC, state_dict=tiny.trained_weights(seed=1), allow=("tiny",))


@pytest.fixture(scope="module", params=[False, True], ids=["opened", "black-box"])
def detector(tiny_classifier: Classifier, witness: Classifier, request: pytest.FixtureRequest) -> Detector:
    return tiny_cascade.detector(tiny_classifier, views=FLIP, witness=witness, black_box=request.param)


@pytest.fixture
def asked(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many images each forward pass of the classifier under guard saw."""
    sizes: list[int] = []
    kind, name = type(detector.classifier), "__call__" if detector.extractor.black_box else "activations"
    answered = getattr(kind, name)

    def counted(self: Classifier, images: torch.Tensor, *layers: tuple[str, ...]) -> object:
        if self is detector.classifier:
            sizes.append(len(images))
        return answered(self, images, *layers)

    monkeypatch.setattr(kind, name, counted)
    yield sizes


@pytest.mark.parametrize("black_box", [False, True], ids=["opened", "black-box"])
@pytest.mark.parametrize("views", [(), (0,), (8,), (2, 8, 14)])
def test_both_looks_together_are_the_full_evidence_to_the_last_digit(
    tiny_classifier: Classifier, witness: Classifier, views: tuple[int, ...], black_box: bool
) -> None:
    settings = EvidenceSettings(forward_batch=1)  # an image's last digits depend on how many are computed with it
    extractor = EvidenceExtractor(tiny_classifier, settings, witness, black_box=black_box)
    assert len(extractor.views) == 15
    whole, rows = extractor(IMAGES[:6]), torch.tensor([0, 2, 5])
    glance = extractor.glance(IMAGES[:6], views)
    known = whole.at_a_glance(views).tensors()
    assert glance.evidence.tensors().keys() == known.keys()
    assert all(torch.equal(glance.evidence.tensors()[name], each) for name, each in known.items())
    found = extractor.look(glance[rows]).tensors()
    assert list(found) == list(whole.tensors())
    for name, each in whole.tensors().items():
        assert torch.equal(found[name], each[rows]), name


def test_what_is_known_at_a_glance_are_the_columns_of_its_views(
    tiny_classifier: Classifier, witness: Classifier
) -> None:
    whole = EvidenceExtractor(tiny_classifier, EvidenceSettings(), witness)(IMAGES[:4])
    found = whole.at_a_glance((3, 8))
    assert torch.equal(found.groups["views.stability"], whole.groups["views.stability"][:, [3, 8]])
    assert torch.equal(found.groups["views.logit"], whole.groups["views.logit"][..., [3, 8]])
    assert torch.equal(found.groups["witness.logit"], whole.groups["witness.logit"])
    assert EvidenceShape.of(found) == EvidenceShape.of(whole).at_a_glance(2)
    assert not any(name.startswith("views.") for name in whole.at_a_glance().groups)


def test_a_view_is_asked_about_once_and_of_a_black_box_together_with_the_image(
    detector: Detector, asked: list[int]
) -> None:
    count, views = len(IMAGES), len(detector.extractor.views)
    went_on = sum(not each.cleared for each in detector.detect(IMAGES))
    assert 4 < went_on < 20
    first = [2 * count] if detector.extractor.black_box else [count, count]
    assert asked == [*first, (views - len(FLIP)) * went_on]
    asked.clear()
    detector.warm_up([4])
    assert sum(asked) == 4 * (1 + views)


def test_verdicts_are_those_of_the_evidence_in_full(detector: Detector) -> None:
    assert detector.cascade is not None
    evidence = detector.extractor(IMAGES)
    scores, _ = score_of_both(detector.cascade, detector.networks, evidence)
    glanced, _ = score(detector.cascade.networks, evidence.at_a_glance(FLIP))
    full, _ = score(detector.networks, evidence)
    verdicts = detector.detect(IMAGES)
    for i, each in enumerate(verdicts):
        expected = float(glanced[i]) - detector.cascade.threshold if each.cleared else float(full[i])
        assert each.attack_score == pytest.approx(expected, abs=1e-4) == pytest.approx(float(scores[i]), abs=1e-4)
    assert {each.cleared for each in verdicts} == {True, False}


def test_the_kept_evidence_of_a_cleared_image_has_the_views_of_the_glance(detector: Detector) -> None:
    whole = detector.extractor(IMAGES)
    for i, each in enumerate(detector.detect(IMAGES, keep_evidence=True)):
        expected = (whole.at_a_glance(FLIP) if each.cleared else whole).tensors()
        assert each.evidence is not None and each.evidence.keys() == expected.keys()
        for name, group in expected.items():
            torch.testing.assert_close(torch.from_numpy(each.evidence[name].copy()), group[i], rtol=1e-3, atol=1e-4)


def test_a_head_that_reads_all_views_is_refused_although_the_glance_has_one(detector: Detector) -> None:
    count = 5  # signs: score, origin, margin, views, witness
    head = RiskHead(torch.zeros(count).double(), torch.ones(count).double(), torch.ones(count + 1).double())
    rate = torch.full((1,), 0.5, dtype=torch.float64)
    promising = Detector(
        detector.classifier,
        detector.extractor,
        detector.networks,
        detector.calibration,
        reliability=Reliability(head, torch.zeros(1, dtype=torch.float64), rate),
        cascade=detector.cascade,
    )
    with pytest.raises(BundleDamagedError, match=r"reads 'views\.log_probability'.*train the bundle again"):
        promising.detect(IMAGES[:4])


def test_settings_name_the_views_in_the_order_of_the_evidence() -> None:
    for settings in (ViewSettings(), ViewSettings(flip=False, blur=False), tiny_cascade.VIEWS):
        assert tuple(make_views(settings, (16, 16))) == settings.names
    twice = ViewSettings(noise=(4.0, 4.0), noise_draws=1, shifts=())
    assert list(make_views(twice, (16, 16))) == ["noise-4-0", "flip", "blur", "rescale-0.875"]
    assert twice.places(["blur", "flip"]) == (1, 2) and twice.places([]) == ()


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["mirror"], "no view 'mirror'; it has noise-4-0, flip"),
        (["flip", "noise-4-0"], "takes every view.*leave at least one to the full look"),
    ],
)
def test_views_that_there_are_not_or_that_are_all(names: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tiny_cascade.VIEWS.places(names)


def bundle_of(detector: Detector, **changed: object) -> Bundle:
    assert detector.cascade is not None
    shape = EvidenceShape.of(detector.extractor(IMAGES[:1])).at_a_glance(len(detector.cascade.views))
    settings = CascadeSettings(
        clears=detector.cascade.clears,
        threshold=detector.cascade.threshold,
        shape=shape,
        settings=tiny_cascade.NETWORK,
        views=("flip",),
    )
    manifest = Manifest(
        heatward_version="0",
        classifier=tiny.SPEC,
        fingerprint=detector.classifier.fingerprint,
        evidence=tiny_cascade.EVIDENCE.model_dump(mode="json"),
        families=tuple("abc"),
        cascade={**settings.model_dump(mode="json"), **changed},
    )
    weights = ensemble_weights(detector.cascade.networks)
    return Bundle(manifest, None, {}, detector.calibration.scores, glance_weights=weights)


def test_a_bundle_gives_the_views_back(detector: Detector) -> None:
    found = cascade_of(bundle_of(detector))
    assert found is not None and found.views == FLIP
    evidence = detector.extractor(IMAGES)
    own, _ = score_of_both(detector.cascade, detector.networks, evidence)
    torch.testing.assert_close(score_of_both(found, detector.networks, evidence)[0], own, rtol=1e-2, atol=1e-2)


def test_one_whose_cascade_has_other_views_than_its_evidence_or_its_networks_is_damaged(detector: Detector) -> None:
    with pytest.raises(BundleDamagedError, match=r"bad cascade\.views \(the evidence has no view 'blur'; it has noise"):
        cascade_of(bundle_of(detector, views=["blur"]))
    with pytest.raises(BundleDamagedError, match=r"bad cascade\.shape \(of other views than cascade\.views, 0\)"):
        cascade_of(bundle_of(detector, views=[]))


def test_a_field_of_a_later_release_is_refused_by_name(detector: Detector) -> None:
    """As releases that know of no views refuse a bundle whose cascade takes some."""
    with pytest.raises(BundleDamagedError, match=r"bad cascade\.later \(Extra inputs are not permitted\)"):
        cascade_of(bundle_of(detector, later=["flip"]))
