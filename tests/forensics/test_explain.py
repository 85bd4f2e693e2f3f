"""`heatward explain`: what its page and its picture hold, and what it says to mistakes."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from markupsafe import escape
from PIL import Image
from tiny_bundle import tiny_bundle

from detector import heatmaps
from detector.bundle import save_bundle
from detector.classifier import Classifier
from detector.detector import Detector
from detector.errors import ConfigError, HeatmapError
from detector.heatmaps import METHODS
from detector.heatmaps.overlay import enlarge, overlay, through
from detector.scoring.tail import TailEstimate
from forensics.explain import words
from forensics.explain.app import main
from forensics.explain.captions import CAPTIONS
from forensics.explain.choices import choose_class, choose_methods
from forensics.explain.compute import Explanation, explain
from forensics.explain.figure import DPI, WIDTH, draw, render_png
from forensics.explain.page import render_page

CHEAP = ("gradient", "cam")


@pytest.fixture(scope="module")
def detector(tiny_classifier: Classifier) -> Detector:
    return Detector.assemble(tiny_bundle(tiny_classifier), allow=("tiny",))


@pytest.fixture(scope="module")
def explanation(detector: Detector) -> Explanation:
    """Every method, for the predicted class and another one."""
    image = tiny.images(1, seed=3).images[0]
    (verdict,) = detector.detect(image[None])
    return explain(detector, image, name="<b>$x$.png", methods=tuple(METHODS), label=(verdict.label + 1) % 4)


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    pixels = (tiny.images(1, seed=3).images[0] * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def bundle(tmp_path: Path, tiny_classifier: Classifier) -> Path:
    save_bundle(tmp_path / "tiny.heatward", tiny_bundle(tiny_classifier))
    return tmp_path / "tiny.heatward"


class Elements(HTMLParser):
    """Tags with their attributes, and tags left open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_holds_the_verdict_and_every_method_for_both_classes(explanation: Explanation) -> None:
    html = render_page([explanation], source="tiny")
    assert words.flagged_words(explanation) in html and f"{explanation.verdict.p_value:.4f}" in html
    for name in METHODS:
        assert f"<h4>{CAPTIONS[name].title}</h4>" in html
        for target in explanation.targets:
            assert f'alt="{CAPTIONS[name].title} for {target.role}: {target.name}"' in html
    assert [target.role for target in explanation.targets] == ["predicted", "asked for"]
    assert "channel " in html and "Not computed" not in html


def test_the_page_fetches_nothing_escapes_names_and_describes_its_pictures(explanation: Explanation) -> None:
    html = render_page([explanation, explanation], source="tiny")
    elements = Elements(html)
    assert elements.open == []
    assert not re.search(r"https?:|url\(|<script|@import", html)
    assert "&lt;b&gt;" in html and "<b>$x$" not in html
    images = [attributes for tag, attributes in elements.found if tag == "img"]
    assert all((image["src"] or "").startswith("data:image/png;base64,") and image["alt"] for image in images)
    anchors = {attributes["id"] for tag, attributes in elements.found if tag == "section"}
    assert {attributes["href"] for tag, attributes in elements.found if tag == "a"} == {f"#{at}" for at in anchors}


def test_masks_show_the_image_through_them_and_what_the_part_is_worth(explanation: Explanation) -> None:
    results = [result for result in explanation.methods if result.masks]
    assert {result.name for result in results} >= {"meaningful", "extremal"}
    html = render_page([explanation], source="tiny")
    for result in results:
        assert all(mask.shown.shape == (tiny.SIDE, tiny.SIDE) for mask in result.masks)
        for target, mask in zip(explanation.targets, result.masks, strict=True):
            assert escape(words.mask_words(target, mask)) in html
    assert html.count("the image through the mask") == len(results) * len(explanation.targets)


def test_the_picture_has_the_width_of_its_grid_and_grows_with_images_and_classes(explanation: Explanation) -> None:
    few = dataclasses.replace(explanation, methods=explanation.methods[:2])
    channels = dataclasses.replace(few.channels, top=few.channels.top[:1])
    one_class = dataclasses.replace(few, targets=few.targets[:1], channels=channels)
    with Image.open(io.BytesIO(render_png([few, one_class], source="tiny"))) as image:
        image.load()
        assert image.width == int(WIDTH * DPI)
        heights = [draw(each, "tiny").get_size_inches()[1] * DPI for each in (few, one_class)]
        assert heights[0] > heights[1] and abs(image.height - sum(heights)) <= 2
        assert np.asarray(image.convert("RGB")).std() > 10  # not a blank sheet


def test_a_method_that_fails_says_why_in_its_cell(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **settings: object) -> heatmaps.Heatmap:
        raise HeatmapError("grid: expected <= 16, got 32")

    monkeypatch.setitem(METHODS, "occlusion", broken)
    image = tiny.images(1, seed=3).images[0]
    found = explain(detector, image, name="x", methods=("occlusion", "cam"))
    html = render_page([found], source="tiny")
    assert "Not computed. grid: expected &lt;= 16, got 32" in html
    assert 'alt="Grad-CAM for predicted' in html
    assert render_png([found], source="tiny")


def test_the_class_predicted_is_not_shown_twice(detector: Detector) -> None:
    image = tiny.images(1, seed=3).images[0]
    (verdict,) = detector.detect(image[None])
    found = explain(detector, image, name="x", methods=CHEAP, label=verdict.label)
    assert [target.role for target in found.targets] == ["predicted"]
    other = next(label for label, _ in verdict.recovered if label != verdict.label)
    recovered = dataclasses.replace(verdict, recovered=((other, 0.9),))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detector, "detect", lambda images: [recovered])
        found = explain(detector, image, name="x", methods=CHEAP)
    assert [(target.role, target.label) for target in found.targets] == [
        ("predicted", verdict.label),
        ("recovered", other),
    ]


def test_channels_come_from_the_layer_asked_for_and_so_does_cam(detector: Detector) -> None:
    image = tiny.images(1, seed=3).images[0]
    found = explain(detector, image, name="x", methods=("cam",), layer="block1")
    assert found.methods[0].maps[0].shape == (16, 16)
    assert (found.channels.layer, found.channels.count) == ("block1", 8)
    for (channel, *others), count in zip(found.channels.top, found.channels.open, strict=True):
        assert channel.activation.shape == (16, 16) and 0 < count < 8
        assert all(0 <= other.weight <= channel.weight <= 1 for other in others)
    assert explain(detector, image, name="x", methods=()).channels.layer == detector.extractor.map_layer


def test_colours_say_for_against_and_nothing() -> None:
    image = np.full((32, 32, 3), 128, np.uint8)
    values = np.zeros((32, 32), np.float32)
    values[:8, :8], values[:8, 24:] = 1, -1
    shown = overlay(image, values, "signed").astype(int)  # 256 × 256
    red, blue, nothing = shown[20, 20], shown[20, 230], shown[200, 128]
    assert red[0] > red[2] + 50 and blue[2] > blue[0] + 50
    assert nothing[0] == nothing[1] == nothing[2]
    flat = overlay(image, np.full((8, 8), 0.7, np.float32), "size")
    assert (flat == flat[0, 0]).all() and flat[0, 0].std() == 0  # no contrast, no colour
    broken = overlay(image, np.array([[np.nan, np.inf], [1, 0]], np.float32), "size")
    assert broken[250, 5].std() > broken[250, 250].std() == 0


def test_small_images_grow_without_blur_and_large_ones_stay() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 24, 3), dtype=np.uint8)
    assert (enlarge(image)[::8, ::8] == image).all() and enlarge(image).shape == (256, 192, 3)
    large = np.zeros((300, 200, 3), np.uint8)
    assert enlarge(large).shape == large.shape
    mask = np.zeros((32, 24), np.float32)
    mask[:16] = 1
    seen = through(image, mask)
    assert (seen[:128] == enlarge(image)[:128]).all() and (seen[128:] == seen[-1, -1]).all()


@pytest.mark.parametrize(
    ("p_value", "total", "badge", "said"),
    [
        (1 / 1001, 1000, "Attacked", "Flagged at 1 % and at 5 % false positives."),
        (0.03, 1000, "Suspicious", "Flagged at 5 %, not at 1 % false positives."),
        (0.6, 1000, "Not flagged", "Not flagged at 1 % nor at 5 % false positives."),
        (0.04, 24, "Suspicious", "Flagged at 5 % false positives. 1 % is out of reach with 24 calibration images."),
    ],
)
def test_the_verdict_in_words(explanation: Explanation, p_value: float, total: int, badge: str, said: str) -> None:
    verdict = dataclasses.replace(explanation.verdict, p_value=p_value)
    changed = dataclasses.replace(explanation, verdict=verdict, calibration_images=total)
    assert words.badge(changed)[0] == badge
    assert words.flagged_words(changed) == said
    count = round(p_value * (total + 1)) - 1
    assert words.p_words(changed).startswith(f"{count or 'None'} of {total:,} clean calibration images")
    grouped = dataclasses.replace(changed, verdict=dataclasses.replace(verdict, calibration_group="cat"))
    assert f" of {total:,} clean images of its calibration group (cat) look" in words.p_words(grouped)


def test_a_tail_is_told_as_an_estimate_in_page_and_picture(explanation: Explanation) -> None:
    assert explanation.verdict.tail is None and words.tail_words(explanation) == ""
    verdict = dataclasses.replace(explanation.verdict, tail=TailEstimate(1e-4, 2e-6, 3e-3))
    told = dataclasses.replace(explanation, verdict=verdict)
    said = words.tail_words(told)
    assert "0.0001 of clean images (2e-06 to 0.003)" in said and "no promise" in said
    assert said in render_page([told], source="")
    drawn, without = ("\n".join(text.get_text() for text in draw(each, "").texts) for each in (told, explanation))
    assert said in drawn and said not in without


def test_shares_are_not_rounded_to_certainty() -> None:
    assert [words.percent(share) for share in (1, 0.9996, 0.87, 0.001, 0)] == ["100 %", ">99 %", "87 %", "<1 %", "0 %"]


def test_a_class_is_named_or_numbered() -> None:
    assert choose_class("Frog", ("cat", "frog")) == 1
    assert choose_class("1", ("cat", "frog")) == 1
    assert choose_class("1", ("1", "0")) == 0  # a name wins
    with pytest.raises(ConfigError, match=r"no class 'frgo'; did you mean 'frog'"):
        choose_class("frgo", ("cat", "frog"))
    with pytest.raises(ConfigError, match="0 … 1, got 2"):
        choose_class("2", ("cat", "frog"))


def test_methods_keep_their_order_and_come_once() -> None:
    assert choose_methods("cam, gradient,cam") == ("cam", "gradient")
    assert choose_methods("Grad-CAM,smoothgrad") == ("cam", "smoothgrad")
    assert choose_methods(None) == tuple(METHODS)  # each has a caption
    with pytest.raises(ConfigError, match="did you mean 'smoothgrad'"):
        choose_methods("smothgrad")


def test_the_command_writes_a_page_or_a_picture(
    tmp_path: Path, photograph: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(photograph), "--bundle", str(bundle), "--trusted", "tiny", "--threads", "1", "--methods", "cam"]
    for name in ("a.html", "a.PNG"):
        assert main([*given, "--class", "checker", "--layer", "block3", "--out", str(tmp_path / name)]) == 0
        printed = capsys.readouterr()
        assert printed.out == f"{tmp_path / name}\n" and "explaining image 1 of 1: 3/3 steps" in printed.err
    html = (tmp_path / "a.html").read_text()
    assert "python:tiny:net" in html and "tiny.heatward" in html and "Grad-CAM" in html and "SmoothGrad" not in html
    with Image.open(tmp_path / "a.PNG") as image:
        assert image.format == "PNG" and image.width == int(WIDTH * DPI)


@pytest.mark.parametrize(
    ("words_", "said"),
    [
        (["{folder}/none.png"], "none.png: cannot be read: No such file or directory"),
        (["{folder}"], "cannot be read: Is a directory"),
        (["{folder}/tiny.heatward"], "tiny.heatward: The data is not an image"),
        (["{photo}", "--methods", "cams"], "no heatmap method 'cams'; did you mean 'cam'"),
        (["{photo}", "--methods", ","], "expected names"),
        (["{photo}", "--class", "chequer"], "no class 'chequer'; did you mean 'checker'"),
        (["{photo}", "--layer", "blok3"], "no layer 'blok3'"),
        (["{photo}", "--bundle", "{folder}/none.heatward"], "none.heatward"),
        (["{photo}", "--trusted", "other"], "'tiny', which is not trusted"),
        (["{photo}", "--out", "{folder}/a.jpg"], "ends in .html or .png"),
        (["{photo}", "--out", "{folder}/none/a.html"], "there is no folder"),
    ],
)
def test_mistakes_end_with_2_and_one_line(
    tmp_path: Path,
    photograph: Path,
    bundle: Path,
    words_: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [word.format(folder=tmp_path, photo=photograph) for word in words_]
    defaults = {"--bundle": str(bundle), "--trusted": "tiny", "--out": str(tmp_path / "a.html"), "--threads": "1"}
    for option, value in defaults.items():
        given += [] if option in given else [option, value]
    assert main(given) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("heatward explain: ") and said in errors and errors.count("\n") == 1
    assert not (tmp_path / "a.html").exists()


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "no such backend", "TkAgg"])
def test_a_picture_needs_no_backend(tmp_path: Path, photograph: Path, bundle: Path, backend: str) -> None:
    """Nor does it follow what somebody else has set; a process of its own, for this one has imported matplotlib."""
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfigure.dpi: 7\n")
    words_ = ["explain", str(photograph), "--bundle", str(bundle), "--trusted", "tiny", "--methods", "cam"]
    environment = {**os.environ, "MPLBACKEND": backend, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = [sys.executable, "-m", "heatward", *words_, "--out", "a.png"]
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "a.png") as image:
        assert image.width == int(WIDTH * DPI)


def test_any_file_name_is_shown_on_one_line(
    tmp_path: Path, photograph: Path, bundle: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    for suffix in ("html", "png"):
        name = os.fsdecode(b"[red]\x1b[2K$x$\n" + b"caf\xe9.png")
        (tmp_path / name).write_bytes(photograph.read_bytes())
        out = tmp_path / f"{name}.{suffix}"
        given = [str(tmp_path / name), "--bundle", str(bundle), "--trusted", "tiny", "--threads", "1"]
        assert main([*given, "--methods", "cam", "--out", str(out)]) == 0
        printed = capfdbinary.readouterr().out
        assert b"\x1b" not in printed and printed.count(b"\n") == 1 and b"caf\\xe9.png" in printed
        assert out.exists()
    html = (tmp_path / f"{name}.html").read_text(encoding="utf-8")
    assert "<h2>[red]\\x1b[2K$x$\\ncaf\\xe9.png</h2>" in html


def test_images_of_one_name_are_told_apart_by_their_folders(tmp_path: Path, photograph: Path, bundle: Path) -> None:
    for folder in ("cat", "dog"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "0.png").write_bytes(photograph.read_bytes())
    images = [str(tmp_path / folder / "0.png") for folder in ("cat", "dog")]
    options = ["--bundle", str(bundle), "--trusted", "tiny", "--threads", "1", "--methods", "cam"]
    assert main([*images, *options, "--out", str(tmp_path / "a.html")]) == 0
    html = (tmp_path / "a.html").read_text()
    assert "<h2>cat/0.png</h2>" in html and "<h2>dog/0.png</h2>" in html and str(tmp_path) not in html


def test_a_bundle_may_lie_in_a_store(
    tmp_path: Path, photograph: Path, tiny_classifier: Classifier, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"memory://{tmp_path.name}/my.heatward"
    save_bundle(url, tiny_bundle(tiny_classifier))
    options = ["--trusted", "tiny", "--threads", "1", "--methods", "cam", "--out", str(tmp_path / "a.html")]
    assert main([str(photograph), "--bundle", url, *options]) == 0
    assert "judged by my.heatward" in (tmp_path / "a.html").read_text()
    assert main([str(photograph), "--bundle", f"{url}2?key=secret", *options]) == 2
    said = capsys.readouterr().err
    assert "my.heatward2: there is no such object" in said and "secret" not in said
