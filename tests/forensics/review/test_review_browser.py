"""A person in a real browser labels three images by keyboard, and the labels are on the disk."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="the extra `review` is not installed")
pytest.importorskip("pyarrow", reason="the extra `review` is not installed")
pytest.importorskip("playwright", reason="playwright is not installed")

from playwright.sync_api import sync_playwright
from suspicious import evidence, png, record, write_records

from detector.records.reader import RecordReader

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")
ROOT = Path(__file__).parents[3]
SCRIPT = "import sys; from forensics.review.app import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_records(tmp_path, *(record(number, image=png(), evidence=evidence()) for number in range(1, 5)))
    return tmp_path


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    words = [sys.executable, "-c", SCRIPT, str(folder), "--port", "0", "--as", "mara"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "proto"), *sys.path])}
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) as review:
        assert review.stdout is not None
        yield review.stdout.readline().strip()
        review.send_signal(signal.SIGINT)


def test_three_images_are_labelled_by_keyboard(folder: Path, address: str) -> None:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        current = page.locator(".record.current")
        assert current.get_attribute("id") == "r=r4"
        widths = "() => [...document.images].every(image => image.complete && image.naturalWidth >= 256)"
        page.wait_for_function(widths)
        page.keyboard.press("j")
        page.keyboard.press("k")
        with page.expect_navigation():
            page.keyboard.press("a")
        assert current.get_attribute("id") == "r=r3"  # the next one
        with page.expect_navigation():
            page.keyboard.press("f")
        page.keyboard.press("j")
        page.keyboard.press("t")
        page.keyboard.type("dog")
        with page.expect_navigation():
            page.keyboard.press("Enter")
        assert page.locator(".labels").count() == 3
        browser.close()
    labels = RecordReader(folder).labels()
    assert {name: (label.truth, label.true_label, label.by) for name, label in labels.items()} == {
        "r4": ("attack", "", "mara"),
        "r3": ("false-alarm", "", "mara"),
        "r1": ("true-label", "dog", "mara"),
    }
    assert not errors
