import dataclasses
import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from heatward import Heatmap, Label, Timings, Verdict
from markupsafe import escape
from PIL import Image, JpegImagePlugin
from rich.console import Console
from tiny_bundle import tiny_bundle

from detector.bundle import save_bundle
from detector.classifier import Classifier
from detector.errors import DataError
from detector.text import printable
from examples.demo.app import ask, run
from examples.demo.images import (
    ATTACKS,
    CLEAN,
    DELIVERED,
    LOSSLESS,
    TWIN,
    Case,
    Photograph,
    load_photographs,
    make_cases,
)
from examples.demo.report import Answer, picture_rows, show, totals, write_report
from examples.demo.server import ServerProcess, ServerProcessError

ROOT = Path(__file__).parents[2]


def program(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", text)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    drawn = tiny.images(8, seed=3)
    for number, (image, label) in enumerate(zip(drawn.images, drawn.labels.tolist(), strict=True)):
        folder = tmp_path / "photographs" / tiny.CLASSES[label]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "photographs"


def answer(kind: str, *, attacked: bool, worked: bool, flagged: bool, recovered: str = "vertical") -> Answer:
    label = Label(1, "vertical", 0.9)
    verdict = Verdict(
        attacked=flagged,
        p_value=0.01 if flagged else 0.6,
        attack_score=1.0,
        false_positive_rate=0.05,
        predicted=Label(0, "horizontal", 0.8) if worked else label,
        top=(label,),
        recovered=(Label(1, recovered, 0.7),),
        corrected=Label(1, recovered, 0.6),
        timings=Timings(0, 0, 1, 1, 1),
        detector_version="0",
        heatmap=Heatmap(1, 2, b"\0\0\x80?\0\0\x80?"),
    )
    photograph = Photograph("vertical/0.png", "vertical", torch.zeros(3, 4, 4, dtype=torch.uint8))
    return Answer(Case(kind, photograph, photograph.pixels, "vertical", attacked, worked), verdict, 12.0)


ANSWERS = [
    answer(CLEAN, attacked=False, worked=False, flagged=False),
    answer("PGD 8/255", attacked=True, worked=True, flagged=True),
    answer("PGD 8/255", attacked=True, worked=True, flagged=True, recovered="<b>checker"),
    answer("PGD 8/255", attacked=True, worked=True, flagged=False),
    answer("PGD 8/255", attacked=True, worked=False, flagged=True),
    answer(TWIN, attacked=False, worked=False, flagged=True),
]


def test_photographs_come_from_every_class_in_turn(photographs: Path, tiny_classifier: Classifier) -> None:
    found = load_photographs(photographs, tiny_classifier, 4)
    assert sorted(photograph.truth for photograph in found) == sorted(tiny.CLASSES)
    with pytest.raises(DataError, match="no photographs"):
        load_photographs(photographs / "nowhere", tiny_classifier, 4)


def test_only_attacks_that_changed_the_prediction_have_worked(photographs: Path, tiny_classifier: Classifier) -> None:
    cases = make_cases(load_photographs(photographs, tiny_classifier, 4), tiny_classifier)
    kinds = [CLEAN, TWIN, *ATTACKS]
    kinds.insert(kinds.index(LOSSLESS) + 1, DELIVERED)
    assert [case.kind for case in cases[::4]] == kinds
    seen = tiny_classifier(torch.stack([case.pixels for case in cases]).float() / 255).argmax(1).tolist()
    for case, label in zip(cases, seen, strict=True):
        assert case.worked == (case.attacked and tiny_classifier.classes[label] != case.origin)


def test_a_delivered_attack_is_the_attack_read_from_a_small_jpeg_file(
    photographs: Path, tiny_classifier: Classifier
) -> None:
    cases = make_cases(load_photographs(photographs, tiny_classifier, 4), tiny_classifier)
    lossless, delivered = ([case for case in cases if case.kind == kind] for kind in (LOSSLESS, DELIVERED))
    for made, arrived in zip(lossless, delivered, strict=True):
        assert made.photograph is arrived.photograph and arrived.attacked and made.file is None
        with Image.open(io.BytesIO(arrived.file or b"")) as file:
            assert file.format == "JPEG" and JpegImagePlugin.get_sampling(file) == 2  # 4:2:0
            assert torch.equal(torch.from_numpy(np.array(file)).permute(2, 0, 1), arrived.pixels)
        assert not torch.equal(made.pixels, arrived.pixels)


def test_a_delivered_attack_stands_below_the_same_photograph_whatever_its_verdict() -> None:
    def named(name: str, kind: str, *, worked: bool, flagged: bool) -> Answer:
        attacked = kind != CLEAN
        found = answer(kind, attacked=attacked, worked=worked, flagged=flagged)
        photograph = dataclasses.replace(found.case.photograph, name=name)
        return dataclasses.replace(found, case=dataclasses.replace(found.case, photograph=photograph))

    answers = [named(name, CLEAN, worked=False, flagged=False) for name in "abc"]
    answers += [named(name, LOSSLESS, worked=True, flagged=True) for name in "abc"]
    answers += [named(name, DELIVERED, worked=name != "a", flagged=name == "c") for name in "abc"]
    answers += [named(name, "CW", worked=True, flagged=True) for name in "abc"]
    assert [(row.title, row.flagged) for row in picture_rows(answers)] == [
        (LOSSLESS, True),
        (DELIVERED, False),
        ("CW", True),
    ]
    chosen = [row.title for row in picture_rows(answers[:3] + answers[6:])]
    assert chosen == [DELIVERED, "CW"], "it needs no lossless one"


def test_totals_count_attacks_that_worked_and_labels_of_flagged_ones() -> None:
    clean, pgd, twin = totals(ANSWERS)
    assert (pgd.sent, pgd.worked, pgd.flagged, pgd.recovered) == (4, 3, 2, 1)
    assert (clean.flagged, twin.flagged) == (0, 1)


def test_the_report_is_complete_and_escapes_what_it_is_told(tmp_path: Path) -> None:
    arrived = [
        answer(DELIVERED, attacked=True, worked=True, flagged=True),
        *[answer(DELIVERED, attacked=True, worked=True, flagged=False)] * 4,
    ]
    write_report(tmp_path, [*ANSWERS, *arrived], rate=0.05)
    html = (tmp_path / "demo.html").read_text()
    assert "2/3" in html and "1/5" in html and "false alarm" in html and "missed" in html
    assert "&lt;b&gt;checker" in html and "<b>checker" not in html
    with Image.open(tmp_path / "demo.png") as image:
        assert image.width > 800
    assert [row.attacked for row in picture_rows(ANSWERS)] == [True, False]


def test_the_table_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show(ANSWERS, Console(width=80), rate=0.05, photographs=4)
    printed = capsys.readouterr().out
    assert "vertical 90%" in printed and "vertical ✓" in printed and "p50 12 ms" in printed
    assert "…" not in printed


@pytest.mark.parametrize("name", ["[red]x", "[/]", "[/red]", "a\x1b[2K\nb", ":smile:", "caf\udce9"])
def test_names_are_neither_markup_nor_commands(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = dataclasses.replace(ANSWERS[1].case.photograph, name=f"{name}.png", truth=name)
    verdict = dataclasses.replace(ANSWERS[1].verdict, predicted=Label(0, name, 0.8), recovered=(Label(1, name, 0.7),))
    changed = [
        dataclasses.replace(each, case=dataclasses.replace(each.case, photograph=shown), verdict=verdict)
        for each in ANSWERS
    ]
    show(changed, Console(width=200), rate=0.05, photographs=4)
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and printable(name) in printed
    write_report(tmp_path, changed, rate=0.05)
    assert f"{escape(printable(name))}.png" in (tmp_path / "demo.html").read_text(encoding="utf-8")


def test_a_server_that_dies_is_reported_with_its_last_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with (
        ServerProcess(None, log, command=program("import sys; sys.exit('no such bundle')")) as server,
        pytest.raises(ServerProcessError, match=r"status 1 before it was ready(.|\n)*no such bundle"),
    ):
        server.address()


def test_a_server_that_ends_badly_is_reported(tmp_path: Path) -> None:
    text = """
import json, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
print('hello'); print(json.dumps({'event': 'ready', 'address': '127.0.0.1:1'}), flush=True)
time.sleep(60)
"""
    with ServerProcess(None, tmp_path / "log", command=program(text)) as server:
        assert server.address() == "127.0.0.1:1"
        with pytest.raises(ServerProcessError, match="status 3"):
            server.stop()


def test_wrong_words_are_refused_before_anything_starts(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--count", "0"], ["--false-positive-rate", "5"]):
        with pytest.raises(SystemExit):
            run(words)
    assert "between 0 and 1" in capsys.readouterr().err


def test_a_real_server_answers_every_case_and_stops_cleanly(
    tmp_path: Path, photographs: Path, tiny_classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "tiny.heatward"
    save_bundle(bundle, tiny_bundle(tiny_classifier))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(str(ROOT / part) for part in ("", "proto", "tests/support")))
    command = program("import sys; from server.cli import serve; sys.exit(serve(sys.argv[1:]))")
    options = ("--trusted", "tiny", "--threads", "1")
    with ServerProcess(bundle, tmp_path / "log", command=command, options=options) as server:
        cases = make_cases(load_photographs(photographs, tiny_classifier, 2), tiny_classifier)
        answers = ask(server.address(), cases, 0.05)
        server.stop()
    assert [given.case for given in answers] == cases
    for given in answers:
        label = int(tiny_classifier(given.case.pixels[None].float() / 255).argmax())
        assert given.verdict.predicted.name == tiny_classifier.classes[label]  # the very pixels arrived
        assert given.verdict.heatmap is not None
        assert given.verdict.p_value is not None
        assert given.verdict.attacked == (given.verdict.p_value <= 0.05)
