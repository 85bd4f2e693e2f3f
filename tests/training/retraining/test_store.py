"""A store names one champion, whatever happens while it moves, and knows the way back."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from small_bundles import save_small, small_bundle

from detector.bundle import read_manifest
from detector.bundle.folder import POINTER, newest, read_champion
from detector.errors import BundleError, BusyError, ConfigError
from detector.lock import hold
from training.retraining.store import HISTORY, KEPT, Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    save_small(tmp_path / "first.heatward", "a")
    return Store.open(tmp_path)


def letter(store: Store) -> str:
    return str(read_manifest(newest(store.folder)).provenance["letter"])


def promote(store: Store, name: str) -> None:
    store.promote(small_bundle(name), "promoted", "better", store.champion())


def events(store: Store) -> list[tuple[str, str]]:
    return [(each.event, each.bundle.partition("-")[0]) for each in store.history().entries]


def test_a_folder_with_a_bundle_becomes_a_store_and_others_are_told_how(tmp_path: Path, store: Store) -> None:
    champion = store.champion()
    assert (champion.event, champion.bundle, champion.parent) == ("adopted", "first.heatward", None)
    assert store.champion() == champion and store.history().entries == (champion,)
    for wrong in (tmp_path / "none", tmp_path / "first.heatward"):
        with pytest.raises(ConfigError, match="is no store: give a folder of this machine that holds"):
            Store.open(wrong)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no bundle"):
        Store.open(tmp_path / "empty")


def test_the_way_there_and_back(store: Store) -> None:
    first = store.champion()
    promote(store, "b")
    promote(store, "c")
    assert letter(store) == "c"
    assert [each.parent for each in store.history().entries][1] == first.digest
    store.rollback()
    assert letter(store) == "b"
    store.rollback()
    assert letter(store) == "a"
    with pytest.raises(BundleError, match="had no champion before this one"):
        store.rollback()
    third = store.history().entries[2].digest
    for to in (third, third[:16], third[:8].upper(), f"0002-{third[:12]}", f"0002-{third[:12]}.heatward"):
        store.rollback("first")
        assert store.rollback(to).digest == third
    assert events(store)[:5] == [
        ("adopted", "first.heatward"), ("promoted", "0001"), ("promoted", "0002"), ("rolled back", "0001"),
        ("rolled back", "first.heatward"),
    ]  # fmt: skip


def test_a_bundle_that_was_put_there_by_hand_can_be_gone_back_from(store: Store) -> None:
    store.champion()
    save_small(store.folder / "by-hand.heatward", "x")
    store.rollback("by-hand")
    assert letter(store) == "x"
    store.rollback()
    assert letter(store) == "a"


def test_what_serves_again_is_not_withdrawn_any_more(store: Store) -> None:
    store.champion()
    promote(store, "b")
    second = store.champion().digest
    store.rollback()
    assert list(store.withdrawn()) == [second]
    store.rollback(second)
    assert second not in store.withdrawn()


def test_a_bundle_that_is_no_longer_there_cannot_be_gone_back_to(store: Store) -> None:
    promote(store, "b")
    (store.folder / "first.heatward").unlink()
    with pytest.raises(BundleError, match=r"is no bundle that can be read in .*; there are 0001-"):
        store.rollback()
    with pytest.raises(ConfigError, match="nonsense is no bundle that can be read"):
        store.rollback("nonsense")
    assert letter(store) == "b"


def test_a_store_whose_champion_is_gone_is_mended_by_a_rollback(store: Store) -> None:
    promote(store, "b")
    (store.folder / store.champion().bundle).unlink()
    with pytest.raises(BundleError, match="which is gone"):
        store.champion()
    store.rollback()
    assert letter(store) == "a"
    (store.folder / POINTER).write_text("{")
    store.rollback("first")
    assert letter(store) == "a"


def test_what_was_compared_with_another_champion_is_not_promoted(store: Store) -> None:
    first = store.champion()
    promote(store, "b")
    with pytest.raises(BusyError, match=r"first\.heatward is no longer the champion"):
        store.promote(small_bundle("c"), "promoted", "better", first)
    assert letter(store) == "b"


def test_a_kill_between_pointer_and_history_costs_no_line(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = store.champion()
    with monkeypatch.context() as patch:
        patch.setattr(Store, "_append", lambda self, entry: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store.promote(small_bundle("b"), "promoted", "better", first)
    assert letter(store) == "b" and len((store.folder / HISTORY).read_text().splitlines()) == 1
    assert [each.event for each in store.history().entries] == ["adopted", "promoted"]
    store.keep("c.heatward", "0" * 64, "not better")
    assert events(store) == [("adopted", "first.heatward"), ("promoted", "0001"), (KEPT, "c.heatward")]


def test_a_kill_before_the_pointer_leaves_the_champion(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first, replace = store.champion(), os.replace

    def deadly(temporary: str, path: str) -> None:
        if str(path).endswith(POINTER):
            raise KeyboardInterrupt
        replace(temporary, path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", deadly)
        with pytest.raises(KeyboardInterrupt):
            store.promote(small_bundle("b"), "promoted", "better", first)
    assert read_champion(store.folder) == first
    store.promote(small_bundle("b"), "promoted", "better", first)
    names = sorted(path.name for path in store.folder.glob("*.heatward"))
    assert len(names) == 2 and letter(store) == "b"  # the same bundle is there once


def test_half_a_line_of_history_costs_that_line_alone(store: Store) -> None:
    store.champion()
    with (store.folder / HISTORY).open("a") as file:
        file.write('{"bundle": "0001-')
    promote(store, "b")
    history = store.history()
    assert [each.event for each in history.entries] == ["adopted", "promoted"] and history.damaged == 1


def test_two_jobs_do_not_share_a_store_but_a_rollback_may_come_between(store: Store) -> None:
    promote(store, "b")
    with store.hold():
        with pytest.raises(BusyError, match=rf"store: another job \(process {os.getpid()} on .*\) uses"), store.hold():
            pass
        store.rollback()
    assert letter(store) == "a"
    with store.hold():
        pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigError, match=r"store: folder .*file/x cannot be made or written"),
        hold(tmp_path / "file" / "x", what="store"),
    ):
        pass


def test_a_full_disk_names_the_file_and_leaves_the_champion(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = store.champion()

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left on device: .*/\.incoming\.heatward") as caught:
            store.promote(small_bundle("b"), "promoted", "better", first)
        assert caught.value.errno == errno.ENOSPC
    assert store.champion() == first
    assert [path.name for path in store.folder.glob(".*.tmp")] == []
