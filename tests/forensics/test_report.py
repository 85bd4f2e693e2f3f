"""The report that is drawn from what an evaluation left in its folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_evaluation import evaluation_job

from detector.classifier import Classifier
from detector.errors import DataError
from forensics.report.page import write_report
from training.evaluation import evaluate


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_classifier: Classifier) -> Path:
    settings, detector = evaluation_job(tmp_path_factory.mktemp("work"), tiny_classifier)
    evaluate.run(settings, detector, resamples=10, copies={"fit": 0, "calibrate": 3, "test": 2})
    return settings.work / "evaluate"


def test_the_report_is_one_file_that_needs_no_network(folder: Path) -> None:
    html = write_report(folder).read_text()
    assert "fgsm" in html and "unseen" in html
    assert 'src="http' not in html and "<script" not in html and "<link" not in html
    assert html.count("data:image/") == 6
    assert "Judged worst" in html and "Errors by class" in html and "diagonal" in html
    assert "copies of another one, always in the same split: 3 in calibrate, 2 in test." in html


def test_the_same_evaluation_gives_the_same_report(folder: Path) -> None:
    assert write_report(folder).read_bytes() == write_report(folder).read_bytes()


def test_a_folder_without_an_evaluation_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="heatward train evaluate"):
        write_report(tmp_path)
