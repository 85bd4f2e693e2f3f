"""A server on a folder with a pointer serves what it names and follows it; where it is wrong, the old one stays."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fake_detector import FakeDetector
from small_bundles import save_small
from test_reload import Shop, reload, serving, version

from detector.bundle import read_manifest
from detector.bundle.folder import POINTER, Champion, write_champion


class Store(Shop):
    """Real files of bundles; the letter that one tells names the detector."""

    def load(self, path: Path, device: str) -> FakeDetector:
        return FakeDetector(name=str(read_manifest(path).provenance["letter"]))

    def add(self, letter: str) -> None:
        save_small(self.folder / f"{letter}.heatward", letter)

    def point(self, letter: str, digest: str = "") -> None:
        name = f"{letter}.heatward"
        digest = digest or read_manifest(self.folder / name).digest
        write_champion(self.folder, Champion(bundle=name, digest=digest, since=datetime.now(UTC), why="a test"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    store.add("a")
    store.add("b")
    store.point("a")
    return store


async def test_the_server_follows_the_pointer_there_and_back_and_fails_no_request(store: Store):
    async with serving(store, bundle=store.folder, watch_s=0.01) as (_, channel):
        seen: list[str] = []
        done = asyncio.Event()

        async def load() -> None:
            while not done.is_set():
                seen.append((await version(channel))[0])

        callers = [asyncio.create_task(load()) for _ in range(3)]
        for letter in "ba":
            store.point(letter)
            while await version(channel) != letter * 16:
                pass
        done.set()
        await asyncio.gather(*callers)
        assert {"a", "b"} <= set(seen)


async def test_another_bundle_beside_the_champion_changes_nothing(store: Store):
    async with serving(store, bundle=store.folder) as (_, channel):
        store.add("z")
        assert [(each.changed, each.error) for each in await reload(channel)] == [(False, "")]
        assert await version(channel) == "a" * 16


async def test_a_wrong_pointer_is_told_once_and_the_champion_keeps_serving(
    store: Store, caplog: pytest.LogCaptureFixture
):
    async with serving(store, bundle=store.folder) as (_, channel):
        for letter, digest, said in (("c", "0" * 64, "c.heatward, which is gone"), ("b", "0" * 64, "with the digest")):
            store.point(letter, digest)
            (outcome,) = await reload(channel)
            assert said in outcome.error
            assert [each.error for each in await reload(channel)] == [""]
            assert await version(channel) == "a" * 16
        (store.folder / POINTER).write_text("{")
        assert "is no pointer to a bundle" in (await reload(channel))[0].error
        assert await version(channel) == "a" * 16
        assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 3
        store.point("b")  # mended: the same file, another pointer
        assert [each.changed for each in await reload(channel)] == [True]
        assert await version(channel) == "b" * 16


async def test_the_pointer_may_lie_in_a_store(store: Store):
    fsspec = pytest.importorskip("fsspec", reason="the extra `remote` is not installed")
    import stores

    with stores.troubled() as system:
        files, root = fsspec.url_to_fs("troubled://models")

        def publish(*names: str) -> None:
            for name in names:
                files.pipe_file(f"{root}/{name}", (store.folder / name).read_bytes())

        publish("a.heatward", "b.heatward", POINTER)
        async with serving(store, bundle=f"troubled://models/{POINTER}") as (_, channel):
            assert await version(channel) == "a" * 16
            assert [each.changed for each in await reload(channel)] == [False]
            store.point("b")
            publish(POINTER)
            assert [each.changed for each in await reload(channel)] == [True]
            assert await version(channel) == "b" * 16
            store.point("a", digest="0" * 64)
            publish(POINTER)
            (outcome,) = await reload(channel)
            assert "names a.heatward with the digest 0000000000000000…" in outcome.error
            store.add("c")
            store.point("c")  # its bundle is not there yet
            publish(POINTER)
            (outcome,) = await reload(channel)
            assert "c.heatward: there is no such object" in outcome.error
            assert await version(channel) == "b" * 16
            publish("c.heatward")
            assert [each.changed for each in await reload(channel)] == [True]
            assert await version(channel) == "c" * 16
            system.trouble = "refuses"
            (outcome,) = await reload(channel)
            assert "(403)" in outcome.error and await version(channel) == "c" * 16
