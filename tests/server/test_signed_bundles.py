"""With `bundle_keys` a server takes only bundles that a trusted key signed, at the start and whenever one changes."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fake_detector import FakeDetector
from pydantic import ValidationError
from signers import pair
from small_bundles import save_small, small_bundle
from test_champion import Store
from test_real_detector import bundle, config_for  # noqa: F401  # a fixture
from test_reload import Shop, reload, serving, version

from detector.bundle import load_bundle, save_bundle, sign_bundle
from detector.detector import Detector
from detector.errors import ConfigError, SignatureError
from detector.keys import PublicKeys, SigningKey
from server.app import App, load_detector, serve
from server.config import ServerConfig


class Signed(Shop):
    """Bundles whose letter names the detector, and the keys of who may sign them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.key, _ = pair(folder.parent, "key")
        self.keys = folder.parent / "key.pub"

    def save(self, letter: str, key: SigningKey | None = None) -> Path:
        save_bundle(self.folder / "a.heatward", small_bundle(letter), key=key)
        return self.folder / "a.heatward"

    def load(self, path: Path, device: str) -> FakeDetector:
        trusted = PublicKeys.read("bundle_keys", [self.keys])
        return FakeDetector(name=str(load_bundle(path, trusted).manifest.provenance["letter"]))


@pytest.fixture
def shop(tmp_path: Path) -> Signed:
    (tmp_path / "bundles").mkdir()
    return Signed(tmp_path / "bundles")


def refused(app: App) -> float:
    return float(app.metrics._reloads.labels("signature", "failed")._value.get())


def test_no_file_at_all_is_a_mistake_and_not_the_end_of_checking():
    for given in ((), "", "[]", ["a.pub", ""]):
        with pytest.raises(ValidationError, match="expected files of public keys, none came, or an empty name"):
            ServerConfig(bundle_keys=given)
    assert ServerConfig(bundle_keys="a.pub, b.pub").bundle_keys == (Path("a.pub"), Path("b.pub"))


def test_the_detector_is_loaded_only_if_a_trusted_key_signed_it(bundle: Path, tmp_path: Path):  # noqa: F811
    key, _ = pair(tmp_path)
    copy = Path(shutil.copy(bundle, tmp_path / "copy.heatward"))
    config = config_for(copy, bundle_keys=(tmp_path / "key.pub",))
    with pytest.raises(SignatureError, match="is not signed, and only signed bundles are taken"):
        load_detector(config, copy, "cpu")
    sign_bundle(copy, key)
    assert isinstance(load_detector(config, copy, "cpu"), Detector)
    pair(tmp_path, "other")
    with pytest.raises(SignatureError, match=f"signed by the key {key.name[:16]}, trusted are "):
        load_detector(config_for(copy, bundle_keys=(tmp_path / "other.pub",)), copy, "cpu")


async def test_a_server_that_starts_with_an_unsigned_bundle_ends(shop: Signed):
    with pytest.raises(SignatureError, match=r"a\.heatward is not signed"):
        async with serving(shop, bundle=shop.save("a"), bundle_keys=(shop.keys,)):
            pass


@pytest.mark.parametrize("role", ["canary", "shadow"])
async def test_so_does_one_whose_canary_or_shadow_is_unsigned(shop: Signed, role: str):
    current, second = shop.save("a", shop.key), shop.folder / "second.heatward"
    save_small(second, "b")
    with pytest.raises(SignatureError, match=r"second\.heatward is not signed"):
        async with serving(shop, bundle=current, bundle_keys=(shop.keys,), **{role: second}):
            pass


@pytest.mark.parametrize(
    ("content", "said"), [(None, "cannot read"), (b"", "holds no public key"), ("private", "holds a private key")]
)
async def test_keys_that_cannot_be_used_are_a_mistake_before_anything_is_loaded(
    shop: Signed, content: Any, said: str, caplog: pytest.LogCaptureFixture
):
    file = shop.folder / "keys"
    if content is not None:
        file.write_bytes((shop.folder.parent / "key.pem").read_bytes() if content == "private" else content)

    def never(path: Path, device: str) -> FakeDetector:
        raise AssertionError("loaded without keys")

    settings: Any = {"port": 0, "metrics_port": None, "threads": 1, "bundle_keys": (file,)}
    assert await serve(ServerConfig(**settings), never) == 2
    (record,) = [each for each in caplog.records if each.levelname == "ERROR"]
    assert record.getMessage().startswith("bundle_keys: ") and said in record.getMessage()


async def test_an_unsigned_bundle_is_refused_the_old_one_stays_and_this_is_told(
    shop: Signed, caplog: pytest.LogCaptureFixture
):
    async with serving(shop, bundle=shop.save("a", shop.key), bundle_keys=(shop.keys,)) as (app, channel):
        shop.save("b")
        with caplog.at_level(logging.ERROR, "heatward.reload"):
            (outcome,) = await reload(channel)
        assert "is not signed" in outcome.error and not outcome.changed
        assert [each.message for each in caplog.records] == ["the new bundle is refused, the old one stays"]
        assert refused(app) == 1 and app.metrics._reloads.labels("detector", "failed")._value.get() == 1
        assert await version(channel) == "a" * 16
        sign_bundle(shop.folder / "a.heatward", shop.key)  # somebody approves of it
        assert [each.changed for each in await reload(channel)] == [True]
        assert await version(channel) == "b" * 16 and refused(app) == 1


async def test_a_damaged_bundle_is_no_matter_of_signatures(shop: Signed):
    async with serving(shop, bundle=shop.save("a", shop.key), bundle_keys=(shop.keys,)) as (app, channel):
        (shop.folder / "a.heatward").write_bytes(b"PK\3\4")
        (outcome,) = await reload(channel)
        assert outcome.error and refused(app) == 0


async def test_a_bundle_of_an_unknown_key_is_taken_once_the_key_is_trusted(shop: Signed):
    async with serving(shop, bundle=shop.save("a", shop.key), bundle_keys=(shop.keys,)) as (_, channel):
        new, _trusted = pair(shop.folder.parent, "new")
        shop.save("b", new)
        (outcome,) = await reload(channel)
        assert "have the new key's public half trusted, too" in outcome.error
        assert [each.error for each in await reload(channel)] == [""]  # told once
        shop.keys.write_bytes(shop.keys.read_bytes() + (shop.folder.parent / "new.pub").read_bytes())
        assert [each.changed for each in await reload(channel)] == [True]
        assert await version(channel) == "b" * 16


async def test_a_key_that_is_trusted_no_more_is_told_of_what_serves(shop: Signed):
    async with serving(shop, bundle=shop.save("a", shop.key), bundle_keys=(shop.keys,)) as (app, channel):
        pair(shop.folder.parent, "new")
        shop.keys.write_bytes((shop.folder.parent / "new.pub").read_bytes())
        (outcome,) = await reload(channel)
        assert "signed by the key" in outcome.error and refused(app) == 1
        assert await version(channel) == "a" * 16


async def test_keys_that_vanish_let_nothing_new_in(shop: Signed):
    async with serving(shop, bundle=shop.save("a", shop.key), bundle_keys=(shop.keys,)) as (_, channel):
        shop.keys.unlink()
        shop.save("b", shop.key)
        (outcome,) = await reload(channel)
        assert "bundle_keys: cannot read" in outcome.error
        assert await version(channel) == "a" * 16


async def test_a_champion_that_nobody_signed_does_not_serve(shop: Signed):
    store = Store(shop.folder)
    for letter in "ab":
        store.add(letter)
    sign_bundle(shop.folder / "a.heatward", shop.key)
    store.point("a")
    async with serving(shop, bundle=shop.folder, bundle_keys=(shop.keys,)) as (_, channel):
        store.point("b")
        (outcome,) = await reload(channel)
        assert "is not signed" in outcome.error and await version(channel) == "a" * 16
        sign_bundle(shop.folder / "b.heatward", shop.key)
        assert [each.changed for each in await reload(channel)] == [True]


async def test_a_bundle_by_url_has_to_be_signed_too(shop: Signed):
    system, url = fsspec.filesystem("memory"), "memory://signed-bundles/a.heatward"

    def put(path: Path) -> None:
        system.pipe_file("/signed-bundles/a.heatward", path.read_bytes())

    put(shop.save("a", shop.key))
    async with serving(shop, bundle=url, bundle_keys=(shop.keys,)) as (app, channel):
        put(shop.save("b"))
        (outcome,) = await reload(channel)
        assert outcome.error.startswith(f"{url} is not signed") and refused(app) == 1
        assert await version(channel) == "a" * 16
        put(shop.save("b", shop.key))
        assert [each.changed for each in await reload(channel)] == [True]


def test_keys_are_read_anew_for_each_bundle(bundle: Path, tmp_path: Path):  # noqa: F811
    key, _ = pair(tmp_path)
    copy = Path(shutil.copy(bundle, tmp_path / "copy.heatward"))
    sign_bundle(copy, key)
    config = config_for(copy, bundle_keys=(tmp_path / "key.pub",))
    load_detector(config, copy, "cpu")
    (tmp_path / "key.pub").unlink()
    with pytest.raises(ConfigError, match="bundle_keys: cannot read"):
        load_detector(config, copy, "cpu")
