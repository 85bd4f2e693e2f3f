"""Folders of bundles as they are found in the field: half-copied, hidden, linked, gone for a while, oddly named."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from test_reload import Shop, reload, serving, version
from test_service import settle

from server.models.folder import newest, stamp


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@pytest.mark.parametrize(
    "name",
    [".v2.heatward", "._v2.heatward", ".v2.heatward.tmp", ".v2.heatward.Xy12Ab", "v2.heatward.part", "v2.heatward~"],
)
def test_hidden_and_temporary_files_are_no_bundles(tmp_path: Path, name: str):
    (tmp_path / "v1.heatward").write_text("a")
    (tmp_path / name).write_text("b")
    assert newest(tmp_path).name == "v1.heatward"


@pytest.mark.parametrize("name", [".snapshot", "..data", "..2026_11_29_00_00_00.1"])
def test_hidden_folders_are_no_bundles(tmp_path: Path, name: str):
    (tmp_path / "a.heatward").write_text("a")
    (tmp_path / name).mkdir()
    (tmp_path / name / "manifest.json").write_text("{}")
    assert newest(tmp_path).name == "a.heatward"


def test_a_folder_closed_to_us_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.heatward").write_text("a")
    (tmp_path / "lost+found").mkdir()
    exists = Path.exists

    def closed(path: Path) -> bool:
        if path.parent.name == "lost+found":
            raise PermissionError(13, "Permission denied")
        return exists(path)

    monkeypatch.setattr(Path, "exists", closed)  # tests may run as root, whom no rights keep out
    assert newest(tmp_path).name == "a.heatward"


@pytest.mark.parametrize(("earlier", "later"), [("v9", "v10"), ("2", "²"), ("a", "v1"), ("1", "٣")])
def test_any_name_has_its_place(tmp_path: Path, earlier: str, later: str):
    for name in (earlier, later):
        (tmp_path / f"{name}.heatward").write_text("a")
    assert newest(tmp_path).name in (f"{earlier}.heatward", f"{later}.heatward")
    if later == "v10":
        assert newest(tmp_path).stem == "v10"


async def test_a_name_that_is_no_utf8_serves_and_is_shown_escaped(tmp_path: Path):
    shop = Shop(Path(os.fsdecode(bytes(tmp_path) + b"/f")))
    shop.folder.mkdir()
    path = Path(os.fsdecode(bytes(shop.folder) + b"/v\xff\x1b1.heatward"))
    path.write_text("a")
    async with serving(shop, bundle=shop.folder) as (app, channel):
        assert await version(channel) == "a" * 16
        assert app._registry.current.name == r"v\xff\x1b1"


async def test_a_bundle_that_is_being_written_is_waited_for(shop: Shop, caplog: pytest.LogCaptureFixture):
    shop.put("v1", "a")
    async with serving(shop, bundle=shop.folder, watch_s=0.1) as (_, channel):
        half = shop.folder / "v2.heatward"
        half.write_text("!")
        looks = [0]
        monkeyed = half.stat().st_mtime_ns

        def grow() -> bool:  # at every look it has changed
            looks[0] += 1
            os.utime(half, ns=(monkeyed + looks[0], monkeyed + looks[0]))
            return looks[0] >= 60

        await settle(grow)
        assert "the old one stays" not in caplog.text
        shop.put("v2", "b")
        await settle(lambda: len(shop.made) == 2)
        while await version(channel) != "b" * 16:
            pass
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_file_becomes_a_folder_and_a_link_is_switched(shop: Shop):
    load = shop.load
    shop.load = lambda path, device: load(path / "manifest.json" if path.is_dir() else path, device)  # type: ignore[method-assign]
    bundle = shop.put("a", "a")
    async with serving(shop, bundle=bundle) as (_, channel):
        bundle.unlink()
        bundle.mkdir()
        (bundle / "manifest.json").write_text("b")
        assert [each.changed for each in await reload(channel)] == [True]
        assert await version(channel) == "b" * 16


async def test_a_kubernetes_volume_is_switched_by_its_link(shop: Shop):
    """..data → ..1, and a.heatward → ..data/a.heatward; the switch replaces ..data."""

    def fill(number: int, letter: str) -> None:
        (shop.folder / f"..{number}").mkdir()
        (shop.folder / f"..{number}" / "a.heatward").write_text(letter)
        (shop.folder / "..data_tmp").symlink_to(f"..{number}")
        (shop.folder / "..data_tmp").rename(shop.folder / "..data")

    fill(1, "a")
    (shop.folder / "a.heatward").symlink_to("..data/a.heatward")
    for bundle in (shop.folder, shop.folder / "a.heatward"):
        async with serving(shop, bundle=bundle, watch_s=0.01) as (_, channel):
            before = await version(channel)
            fill(len(list(shop.folder.glob("..[0-9]*"))) + 1, "b" if before[0] == "a" else "a")
            while await version(channel) == before:
                pass


async def test_a_bundle_that_is_gone_is_told_once_and_may_come_back(shop: Shop, caplog: pytest.LogCaptureFixture):
    path = shop.put("v1", "a")
    async with serving(shop, bundle=shop.folder) as (_, channel):
        path.rename(path.with_suffix(".away"))
        (outcome,) = await reload(channel)
        assert "holds no bundle" in outcome.error
        assert [each.error for each in await reload(channel)] == [""]
        path.with_suffix(".away").rename(path)
        assert [(each.changed, each.error) for each in await reload(channel)] == [(False, "")]
        assert len(shop.made) == 1  # nothing was loaded twice
        assert await version(channel) == "a" * 16
    assert [vars(record)["error"] for record in caplog.records if record.levelno >= logging.ERROR] == [
        f"{shop.folder} holds no bundle: put a .heatward file there (no hidden one), or name one"
    ]


def test_a_stamp_changes_with_what_a_link_points_to(tmp_path: Path):
    (tmp_path / "one").write_text("a")
    (tmp_path / "two").write_text("a")
    link = tmp_path / "a.heatward"
    link.symlink_to("one")
    before = stamp(link)
    link.unlink()
    link.symlink_to("two")
    assert stamp(link) != before
