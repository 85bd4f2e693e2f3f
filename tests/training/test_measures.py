"""Numbers that can be counted by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from training.evaluation import measures, scores
from training.evaluation.measures import Thresholds
from training.evaluation.metrics import Bootstrap, Estimate
from training.evaluation.result import AttackResult, Curve, DetectionWithCurve, Tops
from training.evaluation.scores import Answers, Attempts, Scored

BOOTSTRAP = Bootstrap(np.arange(100), resamples=50)
CUTS = {0.05: 0.5}


def scored(
    score: list[float],
    *,
    truth: list[int],
    prediction: list[int],
    recovered: list[int],
    source: list[int] | None = None,
    corrected: list[int] | None = None,
) -> Scored:
    """The origin label is the truth."""
    return Scored(
        source=np.array(source or range(len(score)), dtype=np.int64),
        truth=np.array(truth),
        origin=np.array(truth),
        prediction=np.array(prediction),
        score=np.array(score, dtype=np.float64),
        recovered=np.stack([np.array(recovered), np.array(prediction)], axis=1),
        corrected=np.array(recovered if corrected is None else corrected),
    )


@pytest.fixture
def clean() -> Scored:
    """Four images: right, right and flagged (recovery spoils it), wrong, wrong and flagged (recovery mends it)."""
    return scored([0.1, 0.9, 0.2, 0.8], truth=[0, 1, 2, 0], prediction=[0, 1, 0, 1], recovered=[0, 2, 0, 0])


@pytest.fixture
def attacked() -> list[Scored]:
    """Of the first attack one is caught and mended, one missed; of the second its only one is caught and misread."""
    return [
        scored([0.9, 0.1], truth=[0, 1], prediction=[1, 0], recovered=[0, 1]),
        scored([0.7], truth=[0], prediction=[2], recovered=[1]),
    ]


def test_traffic_mixes_by_share_and_mends_only_what_is_flagged(clean: Scored, attacked: list[Scored]) -> None:
    found = measures.traffic(clean, attacked, CUTS, BOOTSTRAP)
    assert found.uncorrected.value == pytest.approx(0.8 * 2 / 4 + 0.2 * 0)
    assert found.corrected[0.05].value == pytest.approx(0.8 * 2 / 4 + 0.2 * (1 / 2 + 0) / 2)


def test_traffic_is_measured_with_either_answer() -> None:
    clean = scored(
        [0.9, 0.9, 0.9, 0.1],
        truth=[0, 1, 2, 3],
        prediction=[0, 1, 0, 3],
        recovered=[1, 0, 2, 0],
        corrected=[0, 1, 2, 3],
    )
    attacked = [scored([0.9, 0.9], truth=[0, 1], prediction=[1, 0], recovered=[0, 1], corrected=[0, 0])]
    found = measures.traffic(clean, attacked, CUTS, BOOTSTRAP)
    assert found.recovered[0.05].value == pytest.approx(0.8 * 2 / 4 + 0.2 * 1)
    assert found.corrected[0.05].value == pytest.approx(0.8 * 4 / 4 + 0.2 * 1 / 2)


def test_recovered_is_never_the_prediction_and_corrected_may_be() -> None:
    rows = [{name: torch.tensor([3, 1]) for name in ("index", "truth", "origin", "prediction")}]
    found = scores.table_of(rows, [Answers(torch.tensor([0.1, 0.2]), torch.tensor([[3, 2, 1], [2, 1, 0]]))])
    assert found.recovered.tolist() == [[2, 1, 3], [2, 0, 1]]
    assert found.corrected.tolist() == [3, 2]


def test_traffic_without_a_successful_attack_is_no_number(clean: Scored) -> None:
    never = clean[np.zeros(4, dtype=np.bool_)]
    found = measures.traffic(clean, [never], CUTS, BOOTSTRAP)
    assert found.dump()["corrected"]["0.05"]["value"] is None


def test_mead_needs_every_attack_on_an_image_to_be_flagged() -> None:
    def attempts(sources: list[int]) -> Attempts:
        blank = np.zeros(len(sources))
        return Attempts(np.array(sources), blank.astype(np.bool_), blank, blank)

    def successes(source: list[int], score: list[float]) -> Scored:
        labels = [0] * len(source)
        return scored(score, truth=labels, prediction=labels, recovered=labels, source=source)

    first, second = successes([0, 1, 2], [0.9, 0.9, 0.1]), successes([0, 1, 9], [0.9, 0.2, 0.9])
    # 0: both caught; 1: one missed; 2: its only one missed; 3: never fooled; 9: the first attack was not tried on it
    found = measures.mead([attempts([0, 1, 2, 3]), attempts([0, 1, 2, 3, 9])], [first, second], CUTS, BOOTSTRAP)
    assert (found[0.05].value, found[0.05].count) == (pytest.approx(1 / 3), 3)


def test_thresholds_may_come_from_rightly_classified_images_alone() -> None:
    score = list(np.linspace(0, 1, 200))
    right = [0] * 150 + [1] * 50  # the most suspicious quarter is misclassified
    thresholds = Thresholds.of(scored(score, truth=[0] * 200, prediction=right, recovered=right))
    assert thresholds.on_correct[0.05] < 0.75 < thresholds.served[0.05]
    elsewhere = np.linspace(5, 6, 99)
    assert Thresholds.of(scored(score, truth=right, prediction=right, recovered=right), elsewhere).served[0.05] > 5


def test_corruptions_count_only_what_is_still_rightly_classified(clean: Scored) -> None:
    labels = {"jpeg-1": ("jpeg", 1), "jpeg-4": ("jpeg", 4), "contrast-2": ("contrast", 2)}
    quiet = scored([0.1] * 4, truth=[0] * 4, prediction=[0] * 4, recovered=[0] * 4)
    found = measures.corruption_alarms(labels, {"jpeg-1": clean, "jpeg-4": quiet, "contrast-2": quiet}, CUTS, BOOTSTRAP)
    jpeg = found.cells[0]
    assert (jpeg.images, jpeg.flagged[0.05].count, jpeg.flagged[0.05].value) == (4, 2, 0.5)
    means = {row.kind: (row.light[0.05].value, row.every[0.05].value) for row in found.means}
    assert means == {"jpeg": (0.5, 0.25), "contrast": (0, 0), "mean": (0.25, pytest.approx(0.5 / 3))}
    assert measures.corruption_alarms({}, {}, CUTS, BOOTSTRAP).cells == ()


def test_class_errors_count_clean_images_by_truth_and_attacks_by_origin(clean: Scored, attacked: list[Scored]) -> None:
    zero, one, two = measures.class_errors(clean, attacked, 0.5, ["zero", "one", "two", "never seen"])
    assert zero.dump() == {
        "class": "zero",
        "clean": 2,
        "false_positives": 1,
        "attacks": 2,
        "misses": 0,
        "wrong_recoveries": 1,
    }
    assert one.dump() == {
        "class": "one",
        "clean": 1,
        "false_positives": 1,
        "attacks": 1,
        "misses": 1,
        "wrong_recoveries": 0,
    }
    assert two.dump() == {
        "class": "two",
        "clean": 1,
        "false_positives": 0,
        "attacks": 0,
        "misses": 0,
        "wrong_recoveries": 0,
    }


def test_macro_gives_mean_and_worst_of_seen_and_unseen_attacks_apart() -> None:
    def attack(seen: bool, auroc: float) -> AttackResult:
        each = Estimate(auroc, auroc, auroc, 10, np.full(5, auroc))
        found = DetectionWithCurve(
            auroc=each,
            tpr={0.05: each},
            tpr_on_correct={0.05: each},
            recovery={"all": Tops(top1=each, top2=each, top5=each)},
            roc=Curve(fpr=(0.0, 1.0), tpr=(0.0, 1.0)),
        )
        return AttackResult(
            label="pgd", name="PGD", family="iterative", seen=seen, parameters={}, attempts=10, success_rate=each,
            linf=each, l2=each, detectors={"heatward": found}, auroc_of_each_network=(),
        )  # fmt: skip

    rows = measures.macro([attack(True, 0.9), attack(True, 0.7), attack(False, 0.6), attack(True, np.nan)])
    found = {(row.seen, row.label): row.detectors["heatward"].tpr[0.05].value for row in rows}
    expected = {(True, "mean"): 0.8, (True, "worst"): 0.7, (False, "mean"): 0.6}
    assert found == pytest.approx(expected)
    assert rows[0].detectors["heatward"].recovered.top5.value == pytest.approx(0.8)
    dumped = [row.dump() for row in rows]
    assert "roc" not in dumped[0]["detectors"]["heatward"]
    json.dumps(dumped, allow_nan=False)


def test_attacks_on_wrongly_classified_images_do_not_count(clean: Scored) -> None:
    # the second image was taken for class 2 before the attack
    attacked = scored([0.9, 0.0], truth=[0, 1], prediction=[1, 0], recovered=[0, 1])
    attacked.origin[1] = 2
    thresholds = Thresholds(served=CUTS, on_correct=CUTS)
    found = measures.detected(attacked, clean, thresholds, BOOTSTRAP)
    assert found.tpr[0.05].value == 1 and found.auroc.count == 1
    assert found.recovered.top1.value == 1
    assert measures.aurocs([attacked], [clean]) == [found.auroc.value]
