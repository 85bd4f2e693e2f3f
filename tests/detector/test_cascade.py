"""Two looks as one score: who is cleared, who goes on, and that p-values stay exact over both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import tiny
import tiny_cascade
import torch

from detector.bundle import Bundle, Manifest
from detector.bundle.contents import cascade_of
from detector.classifier import Classifier, load_classifier
from detector.detector import Detector, Verdict
from detector.errors import BundleDamagedError, CalibrationError, ConfigError
from detector.evidence import EvidenceExtractor, EvidenceSettings, EvidenceShape
from detector.scoring.calibration import Calibration
from detector.scoring.cascade import CascadeSettings, check_vouched, threshold_of
from detector.scoring.network import ensemble_weights, score

IMAGES = tiny.images(24, seed=11).images


@pytest.fixture(scope="module")
def detector(tiny_classifier: Classifier) -> Detector:
    return tiny_cascade.detector(tiny_classifier)


@pytest.fixture(scope="module")
def verdicts(detector: Detector) -> list[Verdict]:
    return detector.detect(IMAGES, keep_evidence=True)


@pytest.fixture
def asked(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many images each forward pass of the classifier saw."""
    sizes: list[int] = []
    kind, observed = type(detector.classifier), type(detector.classifier).activations

    def counted(self: Classifier, images: torch.Tensor, layers: tuple[str, ...]) -> object:
        sizes.append(len(images))
        return observed(self, images, layers)

    monkeypatch.setattr(kind, "activations", counted)
    yield sizes


def test_some_are_cleared_and_some_go_on_and_none_of_the_first_is_ranked_above_one_of_the_second(
    verdicts: list[Verdict],
) -> None:
    cleared = [each for each in verdicts if each.cleared]
    went_on = [each for each in verdicts if not each.cleared]
    assert len(cleared) > 4 and len(went_on) > 4
    assert max(each.attack_score for each in cleared) < 0 <= min(each.attack_score for each in went_on)
    assert min(each.p_value for each in cleared) >= max(each.p_value for each in went_on)


def test_who_goes_on_has_the_score_and_labels_of_the_full_look_and_the_others_those_of_the_glance(
    detector: Detector, verdicts: list[Verdict]
) -> None:
    assert detector.cascade is not None
    evidence = detector.extractor(IMAGES)
    full, full_origin = score(detector.networks, evidence)
    first, first_origin = score(detector.cascade.networks, evidence.at_a_glance())
    for i, each in enumerate(verdicts):
        expected = float(first[i]) - detector.cascade.threshold if each.cleared else float(full[i])
        origin = (first_origin if each.cleared else full_origin)[i]
        assert each.attack_score == pytest.approx(expected, abs=1e-4)
        assert each.corrected[0] == int(evidence.candidates[i][origin.argmax()])
        assert each.corrected[1] == pytest.approx(float(origin.max()), abs=1e-4)


def test_views_are_asked_for_only_where_an_image_goes_on_and_nothing_twice(
    detector: Detector, verdicts: list[Verdict], asked: list[int]
) -> None:
    went_on = sum(not each.cleared for each in verdicts)
    detector.detect(IMAGES)
    assert asked == [len(IMAGES), len(detector.extractor.views) * went_on]
    asked.clear()
    cleared = torch.stack([image for image, each in zip(IMAGES, verdicts, strict=True) if each.cleared])
    detector.detect(cleared)
    assert asked == [len(cleared)]


def test_warming_up_takes_the_views_whatever_the_glance_says(detector: Detector, asked: list[int]) -> None:
    detector.warm_up([4])
    assert asked == [4, 4 * len(detector.extractor.views)]


def test_an_image_is_judged_alone(detector: Detector, verdicts: list[Verdict]) -> None:
    for one, together in zip([detector.detect(image[None])[0] for image in IMAGES], verdicts, strict=True):
        assert (one.label, one.cleared) == (together.label, together.cleared)
        assert one.attack_score == pytest.approx(together.attack_score, abs=1e-4)
        assert one.heatmap == pytest.approx(together.heatmap, abs=1e-4)


def test_small_forward_batches_keep_the_order(tiny_classifier: Classifier, detector: Detector) -> None:
    settings = tiny_cascade.EVIDENCE.model_copy(update={"forward_batch": 5})
    small = Detector(
        tiny_classifier,
        EvidenceExtractor(tiny_classifier, settings),
        detector.networks,
        detector.calibration,
        cascade=detector.cascade,
    )
    for one, other in zip(small.detect(IMAGES), detector.detect(IMAGES), strict=True):
        assert one.attack_score == pytest.approx(other.attack_score, abs=1e-4)


def test_the_kept_evidence_is_what_was_looked_at(detector: Detector, verdicts: list[Verdict]) -> None:
    whole = detector.extractor(IMAGES).tensors()
    for i, each in enumerate(verdicts):
        assert each.evidence is not None
        seen = {name for name in whole if not (each.cleared and name.startswith("views."))}
        assert set(each.evidence) == seen
        for name in seen:
            torch.testing.assert_close(
                torch.from_numpy(each.evidence[name].copy()), whole[name][i], rtol=1e-3, atol=1e-4
            )


def test_no_images_have_no_verdicts(detector: Detector) -> None:
    assert detector.detect(IMAGES[:0]) == []


def test_over_all_choices_of_the_new_image_the_p_value_takes_every_rank_once(tiny_classifier: Classifier) -> None:
    images = tiny.images(24, seed=5).images
    detector = tiny_cascade.detector(tiny_classifier, images)
    scores = torch.tensor([each.attack_score for each in detector.detect(images)]).double()
    assert 4 < int((scores < 0).sum()) < 20  # both looks take part
    found = []
    for new in range(len(scores)):
        others = torch.cat([scores[:new], scores[new + 1 :]])
        found.append(float(Calibration.fit(others).p_value(scores[new])))
    assert sorted(found) == pytest.approx([rank / len(scores) for rank in range(1, len(scores) + 1)])


def test_the_threshold_clears_at_least_the_share_and_no_more_than_it_must() -> None:
    scores = torch.rand(50, generator=torch.Generator().manual_seed(0)).double()
    assert [int((scores < threshold_of(scores, share)).sum()) for share in (0.02, 0.5, 0.71)] == [1, 25, 36]


def test_an_operating_point_among_the_cleared_is_refused() -> None:
    scores = torch.linspace(-0.9, 0.1, 100)
    check_vouched(Calibration.fit(scores))
    with pytest.raises(CalibrationError, match=r"9 of 100 .* too few to flag at 0.1: clear a smaller share"):
        check_vouched(Calibration.fit(scores - 0.01))


def test_views_that_propose_the_classes_leave_nothing_for_a_glance() -> None:
    many = tuple(f"class {number}" for number in range(20))
    spec = tiny.SPEC.model_copy(update={"classes": many, "arguments": {"classes": len(many)}})
    classifier = load_classifier(spec, state_dict=tiny.net(classes=len(many)).state_dict(), allow=("tiny",))
    extractor = EvidenceExtractor(classifier, EvidenceSettings())
    assert not extractor.glances and EvidenceExtractor(classifier, EvidenceSettings(), classifier).glances
    with pytest.raises(ConfigError, match=r"needs a \[witness\] where there are more than 16 classes, here 20"):
        extractor.glance(IMAGES[:2])


@pytest.mark.parametrize("black_box", [False, True])
def test_the_second_step_goes_on_from_the_first(tiny_classifier: Classifier, black_box: bool) -> None:
    witness = load_classifier(tiny.SPEC, state_dict=tiny.trained_weights(seed=1), allow=("tiny",))
    extractor = EvidenceExtractor(tiny_classifier, EvidenceSettings(forward_batch=7), witness, black_box=black_box)
    whole, rows = extractor(IMAGES[:10]), torch.tensor([1, 4, 9])
    glance = extractor.glance(IMAGES[:10])
    assert set(whole.at_a_glance().tensors()) == set(glance.evidence.tensors())
    found = extractor.look(glance[rows]).tensors()
    assert found.keys() == whole.tensors().keys()
    for name, each in whole.tensors().items():
        torch.testing.assert_close(found[name], each[rows], rtol=1e-3, atol=1e-4, msg=name)


def bundle_of(detector: Detector) -> Bundle:
    assert detector.cascade is not None
    shape = EvidenceShape.of(detector.extractor(IMAGES[:1]).at_a_glance())
    settings = CascadeSettings(
        clears=detector.cascade.clears,
        threshold=detector.cascade.threshold,
        shape=shape,
        settings=tiny_cascade.NETWORK,
    )
    manifest = Manifest(
        heatward_version="0",
        classifier=tiny.SPEC,
        fingerprint=detector.classifier.fingerprint,
        families=tuple("abc"),
        cascade=settings.model_dump(mode="json"),
    )
    weights = ensemble_weights(detector.cascade.networks)
    return Bundle(manifest, None, {}, detector.calibration.scores, glance_weights=weights)


def test_a_bundle_gives_the_cascade_back(detector: Detector) -> None:
    assert detector.cascade is not None
    bundle = bundle_of(detector)
    found = cascade_of(bundle)
    assert found is not None and (found.threshold, found.clears) == (
        detector.cascade.threshold,
        detector.cascade.clears,
    )
    evidence = detector.extractor(IMAGES).at_a_glance()
    torch.testing.assert_close(
        score(found.networks, evidence)[0], score(detector.cascade.networks, evidence)[0], rtol=1e-2, atol=1e-2
    )
    assert cascade_of(replace(bundle, manifest=bundle.manifest.model_copy(update={"cascade": None}))) is None


def test_a_bundle_whose_cascade_clears_too_much_is_damaged(detector: Detector) -> None:
    bundle = bundle_of(detector)
    stored = {**(bundle.manifest.cascade or {}), "clears": 0.99}
    with pytest.raises(BundleDamagedError, match=r"bad cascade\.clears"):
        cascade_of(replace(bundle, manifest=bundle.manifest.model_copy(update={"cascade": stored})))
