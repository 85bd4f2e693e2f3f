"""A folder of bundles has one champion: the one its pointer names, or an error that says how to mend it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from small_bundles import save_small

from detector.bundle import load_bundle, read_manifest
from detector.bundle.archive import MANIFEST
from detector.bundle.folder import POINTER, Champion, newest, read_champion, write_champion
from detector.errors import BundleDamagedError, BundleError


def point(folder: Path, name: str, **fields: Any) -> Champion:
    fields = {"digest": read_manifest(folder / name).digest, "since": datetime.now(UTC), "why": "a test"} | fields
    champion = Champion(bundle=name, **fields)
    write_champion(folder, champion)
    return champion


def test_the_pointer_decides_and_not_the_last_by_name(tmp_path: Path) -> None:
    save_small(tmp_path / "v1.heatward", "a")
    save_small(tmp_path / "v2.heatward", "b")
    assert read_champion(tmp_path) is None
    assert newest(tmp_path).name == "v2.heatward"
    champion = point(tmp_path, "v1.heatward")
    assert read_champion(tmp_path) == champion
    assert newest(tmp_path).name == "v1.heatward"


def test_a_pointer_may_name_a_bundle_that_is_a_folder(tmp_path: Path) -> None:
    save_small(tmp_path / "v1", "a")
    save_small(tmp_path / "v2.heatward", "b")
    point(tmp_path, "v1")
    assert newest(tmp_path) == tmp_path / "v1"


def test_a_pointer_to_what_is_gone_or_another_is_refused_and_says_how_to_mend_it(tmp_path: Path) -> None:
    save_small(tmp_path / "v1.heatward", "a")
    save_small(tmp_path / "v2.heatward", "b")
    point(tmp_path, "v1.heatward", digest="0" * 64)
    with pytest.raises(BundleDamagedError, match=r"names v1\.heatward with the digest 0000000000000000….*rollback"):
        newest(tmp_path)
    assert newest(tmp_path, verify=False).name == "v1.heatward"
    point(tmp_path, "v1.heatward")
    (tmp_path / "v1.heatward").unlink()
    with pytest.raises(BundleError, match=r"names v1\.heatward, which is gone: .*rollback"):
        newest(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"bundle": "../v1.heatward"},
        {"bundle": "/etc/v1.heatward"},
        {"bundle": ".hidden"},
        {"bundle": ""},
        {"digest": "short"},
        {"since": "long ago"},
        {"why": None},
    ],
)
def test_a_damaged_pointer_is_no_pointer(tmp_path: Path, change: dict[str, Any]) -> None:
    save_small(tmp_path / "v1.heatward", "a")
    point(tmp_path, "v1.heatward")
    found = json.loads((tmp_path / POINTER).read_text())
    (tmp_path / POINTER).write_text(json.dumps(found | change))
    with pytest.raises(BundleDamagedError, match=f"is no pointer to a bundle: {next(iter(change))}"):
        newest(tmp_path)
    (tmp_path / POINTER).write_text(json.dumps(found)[:-5])
    with pytest.raises(BundleDamagedError, match="is no pointer to a bundle"):
        newest(tmp_path)


def test_a_manifest_is_read_and_verified_without_the_weights(tmp_path: Path) -> None:
    digest = save_small(tmp_path / "a.heatward", "a")
    assert digest == load_bundle(tmp_path / "a.heatward").manifest.digest
    assert len(digest) == 64 and digest != save_small(tmp_path / "b.heatward", "b")
    save_small(tmp_path / "folder", "a")
    (tmp_path / "folder" / "network.safetensors").write_bytes(b"")
    assert read_manifest(tmp_path / "folder").digest == digest
    text = (tmp_path / "folder" / MANIFEST).read_text()
    (tmp_path / "folder" / MANIFEST).write_text(text.replace('"letter": "a"', '"letter": "z"'))
    with pytest.raises(BundleDamagedError, match="differs from its own sha256"):
        read_manifest(tmp_path / "folder")
