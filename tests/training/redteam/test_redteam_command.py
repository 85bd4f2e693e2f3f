"""`heatward redteam` from its words to its exit code, on the tiny classifier."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import tiny_red_team
import torch
from tiny_red_team import bundle_at, detector_of, gradient, idle, install, write_photographs

from detector.bundle import load_bundle
from detector.classifier import Classifier
from detector.detector import Detector
from detector.errors import ConfigError, DataError
from detector.load import load_settings
from forensics.report.app import redteam
from forensics.report.redteam import write_red_team
from training.redteam.access import plan, white_box_attacks
from training.redteam.oracles import DetectorOracle
from training.redteam.result import RedTeamResult
from training.redteam.settings import QuickSettings, RedTeamSettings
from training.redteam.targets import find_targets
from training.redteam.whitebox import WHITE_BOX

WORDS = ["--count", "6", "--linf", "16/255,64/255", "--steps", "6", "--restarts", "1", "--queries", "25"]
WORDS += ["--threads", "1", "--trusted", "tiny"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_classifier: Classifier) -> Path:
    """A folder with a bundle and photographs."""
    folder = tmp_path_factory.mktemp("redteam")
    bundle_at(folder / "tiny.heatward", tiny_classifier)
    write_photographs(folder / "images")
    return folder


@pytest.fixture(autouse=True)
def _few_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEATWARD_REDTEAM_CHECK_IMAGES", "3")
    monkeypatch.setenv("HEATWARD_REDTEAM_SCORE_METHODS", "square")


def words(place: Path, out: Path, *more: str) -> list[str]:
    return [str(place / "tiny.heatward"), "--images", str(place / "images"), "--out", str(out), *WORDS, *more]


def l2_at(path: Path) -> Path:
    path.write_text("l2 = [1.0, 2.0]\n")
    return path


def line(result: RedTeamResult, row: int, method: str, eps: float = 64 / 255) -> Any:
    found = result.line(row, method, "Linf", eps)
    assert found is not None
    return found


def test_every_row_runs_and_is_told(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch, gradient=gradient)
    out = tmp_path / "out"
    code = redteam(words(place, out, "--twin", str(place / "tiny.heatward"), "--json"))
    told = json.loads(capsys.readouterr().out)
    result = RedTeamResult.read(out)
    assert told["report"] == str(out / "redteam.html") and told["bundle"] == result.bundle
    assert {each.row for each in result.lines} == {0, 1, 2, 3, 4} and not any(row.refused for row in result.rows)
    assert code == (1 if result.failed_checks else 0)
    for each in result.lines:
        assert each.success[0.01].value >= each.success[0.05].value >= each.success[0.1].value  # flags grow
        assert each.robust[0.05].value == pytest.approx(1 - each.success[0.05].value)
        assert each.fooled.value >= each.success[0.01].value
        assert each.success[0.05].low <= each.success[0.05].value <= each.success[0.05].high
    assert line(result, 0, "pgd").fooled.value == 1
    assert line(result, 1, "gradient").fooled.value == line(result, 4, "gradient").fooled.value == 1  # its own twin
    checks = {check.name: check.told for check in result.checks}
    assert checks["white box ≥ black box"] == "passed" and "not run" not in checks.values()
    page = (out / "redteam.html").read_text()
    assert "get through at" in page and page.count("data:image/") == 3 and "<script" not in page


def test_finished_parts_are_not_made_again(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, gradient=gradient)
    out, rows = tmp_path / "out", ("--rows", "4")
    redteam(words(place, out, *rows))
    first, made = (out / "redteam.json").read_bytes(), len(tiny_red_team.made)
    redteam(words(place, out, *rows))
    assert len(tiny_red_team.made) == made and (out / "redteam.json").read_bytes() == first
    lost = next((out / "parts").glob("row4-*/00000.safetensors"))  # as if the job had been killed there
    lost.unlink()
    redteam(words(place, out, *rows))
    assert len(tiny_red_team.made) == made + 1 and lost.exists()
    redteam(words(place, out, *rows, "--seed", "1"))
    assert len(tiny_red_team.made) > made + 1


def test_an_attack_that_does_nothing_fails_the_checks(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch, idle=idle)
    assert redteam(words(place, tmp_path, "--rows", "2,4", "--linf", "64/255", "--queries", "60")) == 1
    failed = {check.name for check in RedTeamResult.read(tmp_path).failed_checks}
    assert {"planted image found", "inverted: planted image found", "ε = 128/255 reaches all"} <= failed
    said = capsys.readouterr().out
    assert "FAILED check: planted image found: 0 of 3" in said


def test_checks_try_the_next_attack_on_what_is_left(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    for order in ({"gradient": gradient, "idle": idle}, {"idle": idle, "gradient": gradient}):
        install(monkeypatch, **order)
        out = tmp_path / next(iter(order))
        redteam(words(place, out, "--rows", "4", "--linf", "64/255"))
        checks = {check.name: check.said for check in RedTeamResult.read(out).checks}
        assert checks["ε = 128/255 reaches all"].startswith("3 of 3")
        tried.append(len(list((out / "parts").glob("wide-*"))))
    assert tried == [1, 2]


def test_a_condition_that_holds_ends_with_1(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch)
    own = ("--rows", "0", "--fail-if")
    assert redteam(words(place, tmp_path, *own, "fooled@64/255>=1")) == 1
    assert "FAILED --fail-if fooled@64/255>=1: it is 1.000 (row 0)" in capsys.readouterr().out
    assert redteam(words(place, tmp_path, *own, "fooled@64/255<.9")) == 0


def test_rows_that_are_not_run_say_why(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    assert redteam(words(place, tmp_path, "--rows", "0,1")) == 0
    result = RedTeamResult.read(tmp_path)
    refused = {row.row: row.refused for row in result.rows}
    assert refused[1] == "not run, because no --twin was given" and refused[4] == "not asked for"
    assert refused[0] == "" and refused[2] == "not asked for"
    assert {each.row for each in result.lines} == {0}
    assert all(check.told == "not run" for check in result.checks if check.name.startswith(("planted", "ε")))


def test_what_no_row_uses_is_told(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch)
    twin = str(place / "tiny.heatward")
    redteam(words(place, tmp_path, "--rows", "0", "--twin", twin, "--server", "127.0.0.1:1"))
    said = capsys.readouterr().err
    assert "--twin: passed over" in said and "--server: passed over" in said and "--token-file" not in said


def test_who_looks_for_the_least_change_walks_once_a_norm(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, gradient=gradient, minimum=WHITE_BOX["minimum"])
    redteam(words(place, tmp_path, "--rows", "4", "--config", str(l2_at(tmp_path / "l2.toml"))))
    folders = {each.name for each in (tmp_path / "parts").glob("row4-minimum-*")}
    assert folders == {"row4-minimum-linf-least0.25098-6x1", "row4-minimum-l2-least2.00000-6x1"}
    result = RedTeamResult.read(tmp_path)
    few, many = (line(result, 4, "minimum", eps) for eps in (16 / 255, 64 / 255))
    assert few.fooled.value <= many.fooled.value and many.fooled.value > 0
    assert result.line(4, "minimum", "L2", 1.0) is not None


def test_a_classifier_without_gradients_is_asked_alone(
    place: Path, tiny_classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, gradient=gradient)
    detector: Detector = detector_of(bundle_at(place / "other.heatward", tiny_classifier))
    detector.classifier = copy.copy(detector.classifier)
    detector.classifier.differentiable, detector.classifier.no_gradient = False, "it is asked over the wire"
    made = plan(RedTeamSettings(), detector, None, white_box_attacks(), lambda: DetectorOracle(detector, 0.05))
    assert {piece.row for piece in made.pieces} == {0, 2, 3}
    assert "pgd" not in {piece.method for piece in made.pieces}
    assert made.refused[4] == "not run, because its classifier has no gradients (it is asked over the wire)"
    assert made.refused[0].startswith("pgd and cw not run, because")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--fail-if", "sr5"), "--fail-if 'sr5': expected"),
        (("--fail-if", "sr5@4/255>.5"), "no such budget is measured"),
        (("--rows", "5"), "rows.0 = '5': input should be less than or equal to 4\n"),  # and nothing of a row missing
        (("--device", "tpu"), "device: 'tpu' cannot be used"),
        (("--device", "cuda:99"), "expected cpu, cuda or cuda:1"),
        (("--out", __file__), f"out: folder {__file__} cannot be made"),
        (("--rows", ""), "rows"),
        (("--linf", "300/255"), "budgets of at most 1"),
        (("--twin", "none.heatward"), "--twin none.heatward: there is no such file"),
        (("--images", "none"), "--images none: there is no such folder"),
        (("--methods", "gradeint"), "did you mean 'gradient'"),
        (("--rate", ".2"), "expected one of rates"),
    ],
)
def test_what_is_wrong_is_one_line_and_2(
    more: tuple[str, ...],
    said: str,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    install(monkeypatch, gradient=gradient)
    assert redteam(words(place, tmp_path, *more)) == 2
    err = capsys.readouterr().err
    assert said in err and "Traceback" not in err


def test_images_that_the_classifier_gets_wrong_are_nothing_to_attack(
    place: Path, tmp_path: Path, tiny_classifier: Classifier
) -> None:
    for name, other in (("horizontal", "checker"), ("checker", "horizontal")):
        (tmp_path / other).symlink_to(place / "images" / name)
    with pytest.raises(DataError, match="gets none of 12 images right"):
        find_targets(tmp_path, tiny_classifier, 4, 0)
    (tmp_path / "other").mkdir()
    with pytest.raises(ConfigError, match="name each folder as its class"):
        find_targets(place, tiny_classifier, 4, 0)


def test_what_is_left_out_of_the_folder_is_told(tmp_path: Path, tiny_classifier: Classifier) -> None:
    write_photographs(tmp_path)
    (tmp_path / "checker").rename(tmp_path / "Checker")
    (tmp_path / "vertical" / "notes.txt").write_text("x")
    said = " ".join(find_targets(tmp_path, tiny_classifier, 8, 0).notes)
    assert "no class of the bundle are left out: Checker" in said
    assert "no folder shows these classes of the bundle: checker" in said and "1 .txt" in said


def test_errors_of_the_folder_name_no_setting_that_is_not_there(tmp_path: Path, tiny_classifier: Classifier) -> None:
    with pytest.raises(DataError, match="holds no images") as caught:
        find_targets(tmp_path, tiny_classifier, 4, 0)
    assert "images.labelled" not in str(caught.value) and ".jpeg, .jpg, .png" in str(caught.value)
    (tmp_path / "checker").mkdir()
    (tmp_path / "checker" / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"mend or remove it$"):
        find_targets(tmp_path, tiny_classifier, 4, 0)


def test_images_of_another_size_are_brought_to_the_classifiers(tmp_path: Path, tiny_classifier: Classifier) -> None:
    found = find_targets(write_photographs(tmp_path, side=64), tiny_classifier, 8, 0)
    assert found.images.shape[2:] == (16, 16) and len(found) == 8 and 0.5 < found.accuracy.value <= 1
    assert torch.equal(find_targets(tmp_path, tiny_classifier, 8, 0).images, found.images)


def test_an_attack_that_leaves_its_budget_is_named(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def far(detector: Any, images: Any, rate: Any, budget: Any, seed: Any) -> Any:
        return gradient(detector, images, rate, type(budget)("Linf", 2 * budget.eps, budget.steps), seed)

    install(monkeypatch, far=far)
    assert redteam(words(place, tmp_path, "--rows", "4")) == 1
    assert "far: changed an image by" in capsys.readouterr().err


def test_a_twin_of_another_size_is_refused(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from detector.bundle import EMBEDDED

    install(monkeypatch, gradient=gradient)
    assert redteam(words(place, tmp_path, "--rows", "1", "--twin", str(EMBEDDED))) == 2
    assert "--twin: it takes images of 32×32, the bundle of 16×16" in capsys.readouterr().err


def test_the_same_result_gives_the_same_page(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    redteam(words(place, tmp_path, "--rows", "0"))
    assert write_red_team(tmp_path).read_bytes() == write_red_team(tmp_path).read_bytes()
    (tmp_path / "redteam.json").write_text("{}")
    with pytest.raises(DataError, match="cannot be read as a red team's result"):
        write_red_team(tmp_path)


def test_settings_come_from_flags_then_the_environment_then_the_file(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, selective=idle, lagrangian=idle)
    (tmp_path / "red.toml").write_text('linf = ["32/255"]\nseed = 3\nqueries = 7\nfail_if = ["fooled@32/255>1"]\n')
    monkeypatch.setenv("HEATWARD_REDTEAM_SEED", "4")
    bundle, images = str(place / "tiny.heatward"), str(place / "images")
    given = ["--config", str(tmp_path / "red.toml"), "--queries", "9", "--quick", "--threads", "1", "--count", "3"]
    assert (
        redteam([bundle, "--images", images, "--out", str(tmp_path), "--rows", "0", "--trusted", "tiny", *given]) == 0
    )
    settings = RedTeamResult.read(tmp_path).settings
    assert (settings["seed"], settings["queries"], settings["linf"]) == (4, 9, [32 / 255])
    assert settings["steps"] == list(QuickSettings().steps)


@pytest.mark.parametrize("written", ["2/255,4/255", "[2/255, 4/255]", '["2/255", "4/255"]', "['2/255','4/255']"])
def test_a_list_in_the_environment_may_be_written_as_in_the_file(written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEATWARD_REDTEAM_LINF", written)
    monkeypatch.setenv("HEATWARD_REDTEAM_FAIL_IF", written.replace("2/255", "fooled@2/255>1"))
    settings = load_settings(RedTeamSettings, {})
    assert settings.linf == (2 / 255, 4 / 255)
    assert settings.fail_if == ("fooled@2/255>1", "4/255")


def test_a_score_oracle_without_a_budget_says_so(place: Path) -> None:
    detector = detector_of(load_bundle(place / "tiny.heatward"))
    made = plan(QuickSettings(linf=(), l2=(0.5,)), detector, None, {}, lambda: DetectorOracle(detector, 0.05))
    assert not [piece for piece in made.pieces if piece.row == 2]
    assert made.refused[2].startswith("not run, because Square knows L∞ alone: give --linf")


def test_what_is_given_twice_is_made_once() -> None:
    settings = RedTeamSettings(linf=("8/255", "8/255"), steps="5,5", rows="4,4", rates=(0.05, 0.05))
    assert (settings.linf, settings.steps, settings.rows, settings.rates) == ((8 / 255,), (5,), (4,), (0.05,))


@pytest.mark.parametrize(
    ("given", "told"), [({"oracle_linf": "8"}, "oracle_linf: .* got 8"), ({"rate": 0.07}, "rate: .*got 0.07: add it")]
)
def test_what_does_not_go_together_is_named(given: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_settings(RedTeamSettings, given)


@pytest.mark.parametrize(
    ("name", "meant"), [("STEPSS", "steps"), ("METHOD", "methods"), ("CHECK_IMAGE", "check_images")]
)
def test_a_misspelt_variable_is_named(
    name: str, meant: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"HEATWARD_REDTEAM_{name}", "5")
    assert redteam(["some.heatward", "--images", "nowhere"]) == 2
    told = capsys.readouterr().err
    assert f"unknown key '{name.lower()}'; did you mean '{meant}'? in the environment (HEATWARD_REDTEAM_{name})" in told


def test_what_a_server_with_another_bundle_answered_is_asked_again(place: Path, tiny_classifier: Classifier) -> None:
    detector = detector_of(load_bundle(place / "tiny.heatward"))

    def against(version: str) -> set[str]:
        oracle = DetectorOracle(detector, 0.05)
        oracle.version = version
        settings = RedTeamSettings(server="here:1", rows=(2, 3))
        return {piece.against for piece in plan(settings, detector, None, {}, lambda: oracle).pieces}

    assert against("v1") == against("v1") != against("v2")
