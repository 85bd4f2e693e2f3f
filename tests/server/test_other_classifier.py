"""A bundle for another classifier, or with other classes: refused unless a setting allows it, and told why."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from pathlib import Path

import pytest
from fake_detector import FakeDetector
from test_reload import Shop, reload, serving, version
from test_service import settle

from detector.errors import FingerprintMismatchError

A, B = "a" * 64, "b" * 64


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def renamed(letter: str) -> FakeDetector:
    """The same classifier under other class names."""
    detector = FakeDetector(name="a")
    if letter != "a":
        detector.classifier.classes = ("tench\x1b[2J", "shark", *detector.classifier.classes[2:], "one more")
    return detector


@pytest.fixture
def strict() -> dict[str, object]:
    return {"allow_other_classifier": False}


async def test_reload_refuses_another_classifier_and_names_both(
    shop: Shop, strict: dict[str, object], caplog: pytest.LogCaptureFixture
):
    async with serving(shop, bundle=shop.put("a", "a"), **strict) as (app, channel):
        shop.put("a", "b")
        (outcome,) = await reload(channel)
        assert (outcome.version, outcome.changed) == ("a" * 16, False)
        assert A in outcome.error and B in outcome.error and "allow_other_classifier" in outcome.error
        assert await version(channel) == "a" * 16
        failed = app.metrics.registry.get_sample_value
        assert failed("heatward_reloads_total", {"what": "detector", "outcome": "failed"}) == 1
    (line,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert A in vars(line)["error"] and B in vars(line)["error"]


async def test_reload_refuses_other_classes_and_names_them(shop: Shop, strict: dict[str, object]):
    shop.make = renamed
    async with serving(shop, bundle=shop.put("a", "a"), **strict) as (_, channel):
        shop.put("a", "b")
        (outcome,) = await reload(channel)
        assert "256 → 257 classes" in outcome.error
        assert r"0: 'class-0' → 'tench\x1b[2J', 1: 'class-1' → 'shark', 256: none → 'one more'" in outcome.error


async def test_classes_in_another_order_are_other_classes(shop: Shop, strict: dict[str, object]):
    def reversed_for_b(letter: str) -> FakeDetector:
        detector = FakeDetector(name="a")
        if letter == "b":
            detector.classifier.classes = detector.classifier.classes[::-1]
        return detector

    shop.make = reversed_for_b
    async with serving(shop, bundle=shop.put("a", "a"), **strict) as (_, channel):
        shop.put("a", "b")
        (outcome,) = await reload(channel)
        assert "0: 'class-0' → 'class-255'" in outcome.error and "and 253 more" in outcome.error


async def test_a_detector_trained_anew_for_the_same_classifier_is_taken(shop: Shop, strict: dict[str, object]):
    shop.make = lambda letter: FakeDetector(name="a")
    async with serving(shop, bundle=shop.put("a", "a"), **strict) as (_, channel):
        shop.put("a", "b")
        assert [each.error for each in await reload(channel)] == [""]
        assert len(shop.made) == 2


async def test_it_is_refused_before_it_is_warmed_up(shop: Shop, strict: dict[str, object]):
    made: list[FakeDetector] = []

    def make(letter: str) -> FakeDetector:
        made.append(FakeDetector(name=letter))
        return made[-1]

    shop.make = make
    async with serving(shop, bundle=shop.put("a", "a"), **strict) as (_, channel):
        shop.put("a", "b")
        await reload(channel)
    assert [bool(each.batches) for each in made] == [True, False]


@pytest.mark.parametrize("role", ["canary", "shadow"])
async def test_canary_and_shadow_guard_the_current_classifier(shop: Shop, strict: dict[str, object], role: str):
    paths = {"bundle": shop.put("a", "a"), role: shop.put("b", "b")}
    with pytest.raises(FingerprintMismatchError, match=f"{role} .*b.heatward guards another classifier"):
        async with serving(shop, **paths, **strict):
            pass
    shop.put("b", "a")
    async with serving(shop, **paths, **strict) as (_, channel):
        shop.put("b", "b")
        current, other = await reload(channel)
        assert current.error == "" and "guards another classifier" in other.error
        assert await version(channel, detector_version="a" * 16) == "a" * 16
    shop.put("b", "b")
    async with serving(shop, **paths, allow_other_classifier=True) as (_, channel):
        assert await version(channel, detector_version="b" * 16) == "b" * 16


async def test_sighup_refuses_it_too(shop: Shop, strict: dict[str, object], caplog: pytest.LogCaptureFixture):
    async with serving(shop, bundle=shop.put("a", "a"), **strict) as (app, channel):
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, app.reload_soon)
        try:
            shop.put("a", "b")
            os.kill(os.getpid(), signal.SIGHUP)
            await settle(lambda: "the old one stays" in caplog.text)
        finally:
            asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
        assert await version(channel) == "a" * 16


async def test_a_watched_folder_refuses_it_once_and_takes_the_next(
    shop: Shop, strict: dict[str, object], caplog: pytest.LogCaptureFixture
):
    shop.make = lambda letter: FakeDetector(name="b" if letter == "b" else "a")
    shop.put("v1", "a")
    async with serving(shop, bundle=shop.folder, watch_s=0.01, **strict) as (app, channel):
        shop.put("v2", "b")
        await settle(lambda: "the old one stays" in caplog.text)
        shop.put("v3", "c")
        await settle(lambda: app.reloader._served == app.reloader._tried and len(shop.made) == 3)
        assert await version(channel) == "a" * 16
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
