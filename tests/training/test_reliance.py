"""Which predictions can be relied on: from shards to a promise, and curves that can be counted by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from notes import Notes
from tiny_evaluation import ROWS, evaluation_job

from detector.classifier import Classifier
from detector.detector import Detector
from detector.scoring.reliability import Reliability
from detector.scoring.risk import RiskHead
from forensics.report.page import write_report
from training.config import TrainingConfig
from training.evaluation import evaluate, reliance
from training.evaluation.reliance import Relied, area, foreign_images, summarise
from training.evaluation.result import EvaluationResult
from training.evaluation.tables import markdown
from training.fitting.reliability import Signed, fit_reliability, in_one_way, signs_of
from training.job import Job
from training.shards import list_shards

HEAD = RiskHead(*(torch.tensor(each, dtype=torch.float64) for each in ([0.0] * 4, [1.0] * 4, [0, 0, -1, 0, 0.0])))


def promising(detector: Detector) -> Detector:
    """One whose risk is minus the margin."""
    reliability = Reliability(HEAD, *torch.tensor([[-1.0, 0.0], [0.05, 0.1]], dtype=torch.float64))
    whole = Detector(detector.classifier, detector.extractor, detector.networks, detector.calibration)
    whole.reliability = reliability
    return whole


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, tiny_classifier: Classifier) -> tuple[TrainingConfig, Detector]:
    settings, detector = evaluation_job(tmp_path_factory.mktemp("work"), tiny_classifier)
    return settings, promising(detector)


@pytest.fixture(scope="module")
def evaluation(job: tuple[TrainingConfig, Detector]) -> EvaluationResult:
    return evaluate.run(*job, resamples=5)


def test_the_area_is_the_mean_error_over_all_coverages() -> None:
    wrong = np.array([False, True, False, True])
    assert area(np.array([1.0, 2.0, 3.0, 4.0]), wrong) == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert area(np.array([1.0, 3.0, 2.0, 4.0]), wrong) == pytest.approx((0 + 0 + 1 / 3 + 1 / 2) / 4)
    assert area(np.ones(4), wrong) == pytest.approx(1 / 2)  # ties are accepted together: no order is lucky
    doubled = area(np.array([1.0, 2.0, 3.0, 4.0]), wrong, np.array([1.0, 1.0, 2.0, 2.0]))
    assert doubled == pytest.approx((0 + 1 / 2 + 2 * 1 / 4 + 2 * 3 / 6) / 6)


def test_each_kind_weighs_alike_in_a_mixture_and_each_label_in_its_kind() -> None:
    def part(count: int, wrong: bool) -> Relied:
        risk = np.arange(count, dtype=np.float64) + (100 if wrong else 0)
        return Relied(np.full(count, wrong), {"heatward": risk, "softmax": -risk, "margin": np.zeros(count)})

    reliability = Reliability(HEAD, *torch.tensor([[2.0, 50.0], [0.01, 0.1]], dtype=torch.float64))
    found = {"clean": [part(10, False)], "attacked": [part(40, True), part(5, False)]}
    result = summarise(found, reliability)
    assert [each.mixture for each in result.curves] == ["clean", "clean + attacked"]
    assert [each.wrong for each in result.curves] == pytest.approx([0, 1 / 4])
    perfect, worst, nothing = (result.curves[1].curves[name].area for name in ("heatward", "softmax", "margin"))
    assert nothing == pytest.approx(1 / 4) and perfect < nothing < worst
    rows = {(row.kind, row.rate): (row.images, row.accepted, row.accepted_wrong) for row in result.accepted}
    assert rows["clean", 0.01] == (10, 3, 0) and rows["attacked", 0.01] == (45, 3, 0)
    assert rows["attacked", 0.1] == (45, 5, 0)


def test_an_evaluation_measures_what_a_detector_promises(evaluation: EvaluationResult) -> None:
    found = evaluation.reliability
    assert found is not None
    assert [each.mixture for each in found.curves] == ["clean", "clean + attacked", "clean + attacked + foreign"]
    clean = found.curves[0]
    assert clean.images == ROWS["test"] and clean.wrong == pytest.approx(1 - evaluation.classifier.accuracy.value)
    assert clean.curves["heatward"].area == pytest.approx(clean.curves["margin"].area, abs=0.02)  # but for its clamp
    assert clean.curves["heatward"].coverage[-1] == 1
    assert {row.rate for row in found.accepted} == {0.05, 0.1}  # no less is promised
    assert "reliability" in evaluation.measured() and "promised error rate" in markdown(evaluation)


def test_a_report_draws_the_curves_and_one_without_a_promise_does_not(
    evaluation: EvaluationResult, job: tuple[TrainingConfig, Detector], tmp_path: Path
) -> None:
    folder = job[0].work / "evaluate"
    html = write_report(folder).read_text()
    assert "can be relied on" in html and html.count("data:image/") == 7
    (tmp_path / "examples.safetensors").write_bytes((folder / "examples.safetensors").read_bytes())
    evaluation.model_copy(update={"reliability": None}).write(tmp_path)
    assert "can be relied on" not in write_report(tmp_path).read_text()


def test_a_detector_that_promises_nothing_is_not_measured(job: tuple[TrainingConfig, Detector]) -> None:
    settings, detector = job
    silent = Detector(detector.classifier, detector.extractor, detector.networks, detector.calibration)
    assert reliance.measure(settings, silent) is None


def test_of_each_photograph_one_version_is_drawn_and_every_one_may_be() -> None:
    source = torch.tensor([5, 3, 5, 3, 5, 9])
    drawn = [in_one_way(source, seed) for seed in range(60)]
    assert all(sorted(source[rows].tolist()) == [3, 5, 9] for rows in drawn)
    assert {row for rows in drawn for row in rows.tolist()} == set(range(6))
    assert torch.equal(in_one_way(source, 7), in_one_way(source, 7))


def test_images_of_unknown_class_teach_nothing(job: tuple[TrainingConfig, Detector]) -> None:
    _, detector = job
    evidence = detector.extractor(foreign_images(4, detector.classifier.input_size, 0))
    shard = {
        "truth": torch.tensor([0, -1, 2, -1]),
        "prediction": torch.tensor([0, 1, 1, 1]),
        "index": torch.arange(4),
    }
    found = Signed.of(shard, evidence, torch.zeros(4), torch.full((4, 4), 0.25))
    assert found.wrong.tolist() == [False, True] and found.source.tolist() == [0, 2]
    assert len(found.signs) == 2 and found.signs.shape[1] == 4  # without a witness


def test_foreign_images_are_pictures_and_the_same_each_time() -> None:
    images = foreign_images(8, (6, 9), 3)
    assert images.shape == (8, 3, 6, 9) and torch.equal(images, foreign_images(8, (6, 9), 3))
    assert torch.equal((images * 255).round() / 255, images) and images.min() >= 0 and images.max() <= 1
    assert len(images[0].flatten(1).unique(dim=1).T) == 1 and len(images[3].unique()) > 50  # one colour, noise


def opened(settings: TrainingConfig, detector: Detector, progress: Notes) -> Job:
    """As much of a job as the calibration looks at."""
    return cast(
        Job, SimpleNamespace(config=settings, work=settings.work, classifier=detector.classifier, progress=progress)
    )


def test_the_calibrate_split_and_the_fit_split_make_a_promise(job: tuple[TrainingConfig, Detector]) -> None:
    settings, detector = job
    paths = list_shards(settings.work, "attribute", "calibrate", "clean")
    clean = [each for path in paths if (each := signs_of(path, detector.networks, detector.classifier.device))]
    notes = Notes()
    found = fit_reliability(opened(settings, detector, notes), detector.networks, clean)
    assert found is not None and not notes.notes
    assert len(found.head.mean) == 4 and 0 < found.smallest_rate <= float(found.error_rates[-1]) <= 1
    again = fit_reliability(opened(settings, detector, notes), detector.networks, [*clean, *clean])
    assert again is not None and torch.equal(again.error_rates, found.error_rates)  # a photograph counts once


def test_where_no_class_is_known_nothing_is_promised_and_that_is_said(job: tuple[TrainingConfig, Detector]) -> None:
    settings, detector = job
    path = list_shards(settings.work, "attribute", "calibrate", "clean")[0]
    found = signs_of(path, detector.networks, detector.classifier.device)
    assert found is not None
    none = Signed(found.signs[:0], found.wrong[:0], found.source[:0])
    notes = Notes()
    assert fit_reliability(opened(settings, detector, notes), detector.networks, [none]) is None
    assert "got 0" in notes.notes[0] and "promises no error rate" in notes.notes[0]
