"""Bundles by URL: served, followed, and kept while the store is in trouble."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import stores
from test_reload import Shop, reload, serving, version
from test_service import settle

from detector import remote
from detector.errors import StoreError

URL = "troubled://models/a.heatward"


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@pytest.fixture
def store() -> Iterator[type[stores.TroubledFileSystem]]:
    with stores.troubled() as system:
        yield system


def put(letter: str, url: str = URL) -> None:
    system, path = fsspec.url_to_fs(url)
    system.pipe_file(path, letter.encode())


async def test_a_new_bundle_in_a_store_takes_the_place_of_the_old(shop: Shop, store: type[stores.TroubledFileSystem]):
    put("a")
    async with serving(shop, bundle=URL) as (app, channel):
        assert await version(channel) == "a" * 16
        assert app._registry.current.name == "a"
        assert [each.changed for each in await reload(channel)] == [False]
        put("b")
        assert [each.changed for each in await reload(channel)] == [True]
        assert await version(channel) == "b" * 16


@pytest.mark.parametrize("trouble", ["refuses", "cuts", "fails"])
async def test_a_store_in_trouble_keeps_the_old_bundle(
    shop: Shop, store: type[stores.TroubledFileSystem], trouble: str, caplog: pytest.LogCaptureFixture
):
    put("a")
    async with serving(shop, bundle=URL) as (app, channel):
        put("b")
        store.trouble = trouble
        with caplog.at_level(logging.ERROR, "heatward.reload"):
            (outcome,) = await reload(channel)
        assert outcome.error.startswith(URL)
        assert "secret" not in outcome.error
        assert [record.message for record in caplog.records] == ["the new bundle is refused, the old one stays"]
        assert app.metrics._reloads.labels("detector", "failed")._value.get() == 1
        assert await version(channel) == "a" * 16
        store.trouble = ""
        assert [each.changed for each in await reload(channel)] == [True]
        assert await version(channel) == "b" * 16


async def test_a_store_is_watched_and_an_outage_is_told_once(
    shop: Shop, store: type[stores.TroubledFileSystem], caplog: pytest.LogCaptureFixture
):
    put("a")
    async with serving(shop, bundle=URL, watch_s=0.02) as (app, channel):
        failed = app.metrics._reloads.labels("detector", "failed")._value
        store.trouble = "refuses"
        await settle(lambda: failed.get() == 1)
        store.trouble = ""
        put("b")
        await settle(lambda: app._registry.current.version == "b" * 16)
        assert failed.get() == 1
        assert await version(channel) == "b" * 16


async def test_a_silent_store_is_given_up_and_holds_up_no_request(
    shop: Shop, store: type[stores.TroubledFileSystem], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(remote, "PATIENCE_S", 0.2)
    put("a")
    async with serving(shop, bundle=URL) as (_, channel):
        store.trouble = "is silent"
        asked = asyncio.create_task(reload(channel))
        assert await version(channel) == "a" * 16
        (outcome,) = await asked
        assert "did not answer within 0.2 s" in outcome.error
        assert await version(channel) == "a" * 16


async def test_canary_and_shadow_may_lie_in_a_store(shop: Shop, store: type[stores.TroubledFileSystem]):
    put("c", "troubled://models/c.heatward")
    put("s", "troubled://models/s.heatward")
    settings = {"canary": "troubled://models/c.heatward", "shadow": "troubled://models/s.heatward", "canary_weight": 1}
    async with serving(shop, bundle=shop.put("a", "a"), **settings) as (_, channel):
        assert await version(channel) == "c" * 16
        assert len(shop.made) == 3


async def test_a_server_does_not_start_without_its_bundle(shop: Shop, store: type[stores.TroubledFileSystem]):
    with pytest.raises(StoreError, match=r"a\.heatward: there is no such object or bucket"):
        async with serving(shop, bundle=URL):
            pass


async def test_a_running_server_follows_a_bucket(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    with stores.s3_server() as variables:
        stores.environment(monkeypatch, variables)
        url = "s3://models/a.heatward"
        fsspec.filesystem("s3").mkdir("models")
        put("a", url)
        async with serving(shop, bundle=url) as (_, channel):
            assert await version(channel) == "a" * 16
            put("b", url)
            assert [each.changed for each in await reload(channel)] == [True]
            stores.require_keys(variables)
            (outcome,) = await reload(channel)
            assert "(403)" in outcome.error
            assert await version(channel) == "b" * 16
