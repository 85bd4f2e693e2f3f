import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from tiny_evaluation import ROWS, evaluation_job

from detector.classifier import Classifier
from detector.detector import Detector
from detector.errors import DataError
from detector.scoring.groups import Groups
from training.config import TrainingConfig
from training.evaluation import evaluate
from training.evaluation.examples import read_examples
from training.evaluation.result import EvaluationResult
from training.evaluation.scores import by_network, from_evidence, runner_up
from training.evaluation.tables import all_tables, class_alarm_table, markdown
from training.shards import list_shards


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, tiny_classifier: Classifier) -> tuple[TrainingConfig, Detector]:
    return evaluation_job(tmp_path_factory.mktemp("work"), tiny_classifier)


@pytest.fixture(scope="module")
def evaluation(job: tuple[TrainingConfig, Detector]) -> EvaluationResult:
    settings, detector = job
    return evaluate.run(settings, detector, resamples=50)


def test_counts_every_attempt_and_marks_unseen_attacks(evaluation: EvaluationResult) -> None:
    fgsm, pgd = evaluation.attacks
    assert (fgsm.seen, pgd.seen) == (True, False)
    assert fgsm.attempts == pgd.attempts == ROWS["test"]
    assert 0 < pgd.success_rate.value <= 1
    assert pgd.linf.value <= 16.5 / 255


def test_detection_counts_only_attacks_that_worked(evaluation: EvaluationResult) -> None:
    for attack in evaluation.attacks:
        worked = round(attack.success_rate.value * attack.attempts)
        assert attack.detectors["heatward"].auroc.count == worked


def test_one_network_is_its_own_ensemble(evaluation: EvaluationResult) -> None:
    for attack in evaluation.attacks:
        (alone,) = attack.auroc_of_each_network
        assert alone == pytest.approx(attack.detectors["heatward"].auroc.value, abs=1e-6)


def test_every_baseline_stands_beside_the_detector(evaluation: EvaluationResult) -> None:
    assert set(evaluation.detectors) == {"heatward", "runner-up"}
    for attack in evaluation.attacks:
        for found in attack.detectors.values():
            assert 0 <= found.auroc.low <= found.auroc.high <= 1
            recovery = found.recovered
            assert recovery.top1.value <= recovery.top2.value


def test_runner_up_names_the_prediction_itself_last() -> None:
    answers = runner_up(torch.tensor([[1.0, 5.0, 4.0, 2.0], [9.0, 0.0, 1.0, 2.0]]))
    assert answers.recovered.tolist() == [[2, 3, 0, 1], [3, 2, 1, 0]]
    assert answers.score[0] > answers.score[1]  # the closer call is the more suspicious


def test_false_alarms_are_told_apart(evaluation: EvaluationResult) -> None:
    alarms = evaluation.false_positives["heatward"]
    own = "clean, correct (own threshold)"
    assert set(alarms) == {"clean", "clean, correct", own, "clean, misclassified", "twin-8"}
    assert alarms["clean"][0.05].count == ROWS["test"]
    parts = alarms["clean, correct"][0.05].count + alarms["clean, misclassified"][0.05].count
    assert parts == ROWS["test"]


def test_too_few_calibration_images_for_a_rate_flag_nothing(evaluation: EvaluationResult) -> None:
    # 40 clean images cannot promise 1 %: the baselines' threshold is out of reach, the detector has 99
    assert evaluation.thresholds["runner-up"][0.01] is None
    assert evaluation.thresholds["heatward"][0.01] is not None
    assert evaluation.attacks[0].detectors["runner-up"].tpr[0.01].value == 0


def test_writes_json_tables_and_examples(evaluation: EvaluationResult, job: tuple[TrainingConfig, Detector]) -> None:
    folder = job[0].work / "evaluate"
    assert EvaluationResult.read(folder).dump() == evaluation.dump()
    assert "diagonal" not in (folder / "evaluation.md").read_text()
    shown = read_examples(folder)
    assert [row.title for row in shown["first"]] == ["fgsm", "pgd", "twin-8"]
    assert [(row.title, row.attacked) for row in shown["worst"]] == [("fgsm", True), ("pgd", True), ("clean", False)]
    assert all(row.sent.shape == (tiny.SIDE, tiny.SIDE, 3) and row.heat_after.ndim == 2 for row in shown["first"])
    with pytest.raises(DataError, match=r"examples\.safetensors.*heatward train evaluate"):
        read_examples(folder / "nowhere")


def test_running_again_gives_the_same_numbers(
    evaluation: EvaluationResult, job: tuple[TrainingConfig, Detector]
) -> None:
    assert evaluate.run(*job, resamples=50) == evaluation


def test_tables_name_every_attack(evaluation: EvaluationResult) -> None:
    printed = markdown(evaluation)
    assert "fgsm" in printed and "twin-8" in printed


def test_an_evaluation_is_read_back_as_it_was_and_errors_say_what_to_do(
    evaluation: EvaluationResult, tmp_path: Path
) -> None:
    evaluation.write(tmp_path)
    path = tmp_path / "evaluation.json"
    assert EvaluationResult.read(tmp_path) == evaluation
    written = json.loads(path.read_text())
    assert written["attacks"][0]["detectors"]["heatward"]["tpr"]["0.05"].keys() == {"value", "low", "high", "count"}
    for change, said in (
        ({"schema_version": 3}, "expected an evaluation of schema version 5, got version 3"),
        ({"images": {"calibrate": "many", "test": 1}}, r"images\.calibrate"),
        ({"classifier": written["classifier"] | {"accuracy": {"value": 1}}}, r"accuracy.*expected value, low, high"),
        ({"surprise": 1}, "surprise"),
    ):
        path.write_text(json.dumps(written | change))
        with pytest.raises(DataError, match=rf"{said}.*heatward train evaluate"):
            EvaluationResult.read(tmp_path)
    path.write_text("[")
    with pytest.raises(DataError, match="cannot be read"):
        EvaluationResult.read(tmp_path)


def test_a_bundle_is_told_of_the_detector_alone(evaluation: EvaluationResult) -> None:
    measured = evaluation.measured()
    assert [attack["auroc"] for attack in measured["attacks"]] == [
        attack.detectors["heatward"].auroc.as_dict() for attack in evaluation.attacks
    ]
    assert not {"detectors", "roc"} & measured["attacks"][0].keys()
    assert measured["false_positives"]["clean"]["0.05"]["count"] == ROWS["test"]


def test_every_row_of_every_table_says_how_many_images_it_rests_on(evaluation: EvaluationResult) -> None:
    for table in all_tables(evaluation):
        for cells in zip(*(column.cells for column in table.columns), strict=True):
            figures = [cell for cell in cells[1:] if any(map(str.isdigit, cell)) and "–." not in cell]
            assert all(", n " in cell for cell in figures), cells
            doubtful = [cell for cell in figures if cell.startswith("(")]
            if "means little" in cells[0]:
                assert doubtful, cells
            elif figures:
                assert len(doubtful) < len(figures), cells


def test_missing_shards_say_which_stage_makes_them(job: tuple[TrainingConfig, Detector], tmp_path: Path) -> None:
    settings, detector = job
    with pytest.raises(DataError, match="attribute"):
        evaluate.run(settings.model_copy(update={"work": tmp_path}), detector, resamples=10)


def test_alarms_are_told_by_predicted_class_with_one_calibration_and_with_one_of_each(
    evaluation: EvaluationResult,
) -> None:
    assert sum(row.together[0.05].count for row in evaluation.predicted) == ROWS["test"]
    assert {row.calibrated for row in evaluation.predicted} <= {*range(19, 41)}
    assert all(0.01 not in row.apart and 0.05 in row.apart for row in evaluation.predicted)
    table = class_alarm_table(evaluation, 2)
    assert table.row_count == 2 and str(table.columns[-1].header) == "calibrated apart, at 5%"


def test_a_detector_by_groups_is_measured_by_its_own_thresholds(
    job: tuple[TrainingConfig, Detector], tmp_path: Path
) -> None:
    settings, detector = job
    scored = from_evidence(
        list_shards(settings.work, "attribute", "calibrate", "clean"),
        {"": by_network(detector.networks, torch.device("cpu"))},
    )[""]
    groups = Groups.fit(
        np.full(len(scored), -1.0), scored.prediction, scored.source, classes=len(tiny.CLASSES), rate=0.05
    )
    grouped = Detector(detector.classifier, detector.extractor, detector.networks, detector.calibration, groups=groups)
    found = evaluate.run(settings, grouped, resamples=10)  # every image scores higher than all clean ones
    assert found.attacks[0].detectors["heatward"].tpr[0.05].value == 1
    assert found.false_positives["heatward"]["clean"][0.05].value == 1
    assert found.thresholds["heatward"][0.01] is None  # 19 or 40 images of a class promise no 1 %
    assert found.attacks[0].detectors["heatward"].tpr[0.01].value == 0
