"""Places by URL: whole or not at all; a store in trouble is a clear error without secrets."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import stores
import tiny
from tiny_bundle import tiny_bundle

from detector import remote
from detector.bundle import Bundle, load_bundle, save_bundle
from detector.errors import BundleDamagedError, BundleError, ConfigError, StoreError


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    with stores.s3_server() as variables:
        yield variables


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny_bundle(tiny.classifier())


@pytest.fixture(params=["memory", "file", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "file":
        return f"file://{tmp_path}"
    if request.param == "memory":
        return f"memory://{tmp_path.name}"
    stores.environment(monkeypatch, request.getfixturevalue("s3"))
    fsspec.filesystem("s3").mkdirs("models", exist_ok=True)
    return f"s3://models/{tmp_path.name}"


@pytest.fixture
def store() -> Iterator[type[stores.TroubledFileSystem]]:
    with stores.troubled() as system:
        yield system


def put(url: str, content: bytes) -> None:
    system, path = fsspec.url_to_fs(url)
    system.pipe_file(path, content)


@pytest.mark.parametrize("url", ["s3://b/x.heatward", "hf://user/x", "memory://a", "file:///a/b"])
def test_a_path_made_of_a_url_is_that_url(url: str) -> None:
    assert remote.is_url(Path(url))
    assert remote.shown(Path(url)) == url


@pytest.mark.parametrize("path", ["/a/b", "a", "c:/x", "./s3/x", "host:50051", "torchvision:CIFAR10"])
def test_what_is_no_url_is_a_path(path: str) -> None:
    assert not remote.is_url(path)


def test_secrets_of_a_url_are_not_shown() -> None:
    assert remote.shown("ftp://me:pw@host/a?key=1#x") == "ftp://host/a"


def test_no_driver_is_imported_without_a_url() -> None:
    code = "import sys, detector, detector.remote; sys.exit('fsspec' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_bundle_goes_to_a_store_and_comes_back(folder: str, bundle: Bundle, tmp_path: Path) -> None:
    place = Path(f"{folder}/my.heatward")
    save_bundle(place, bundle)
    save_bundle(tmp_path / "local.heatward", bundle)
    assert load_bundle(place).manifest == load_bundle(tmp_path / "local.heatward").manifest
    assert set(remote.listing(folder)) >= {"my.heatward"}


def test_a_stamp_changes_with_the_object(folder: str) -> None:
    url = f"{folder}/a"
    put(url, b"one")
    first = remote.stamp(url)
    assert remote.stamp(url) == first
    put(url, b"two")
    assert remote.stamp(url) != first


def test_what_is_not_there_is_said(folder: str) -> None:
    with pytest.raises(StoreError, match=r"none\.heatward: there is no such object or bucket \(404\)"):
        load_bundle(f"{folder}/none.heatward")


def test_a_web_server_that_does_not_answer_is_no_missing_object() -> None:
    with socket.socket() as once:
        once.bind(("127.0.0.1", 0))
        port = once.getsockname()[1]
    with pytest.raises(StoreError, match=rf"127\.0\.0\.1:{port}/a\.heatward: the store failed: .*[Cc]annot connect"):
        load_bundle(f"http://127.0.0.1:{port}/a.heatward")


def test_a_damaged_bundle_is_told_by_its_url(folder: str, bundle: Bundle) -> None:
    url = f"{folder}/bad.heatward"
    save_bundle(url, bundle)
    system, path = fsspec.url_to_fs(url)
    put(url, system.cat_file(path)[:-500])
    with pytest.raises(BundleDamagedError) as caught:
        load_bundle(url)
    assert url in str(caught.value)
    assert "/tmp" not in str(caught.value).replace(url, "")


def test_a_place_that_can_be_written_is_left_as_it_was(folder: str) -> None:
    put(f"{folder}/a", b"a")
    remote.check_writable(f"{folder}/my.heatward")
    assert set(remote.listing(folder)) == {"a"}


def test_wrong_keys_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with stores.s3_server() as variables:
        stores.environment(monkeypatch, variables)
        system = fsspec.filesystem("s3", skip_instance_cache=True)
        system.mkdir("models")
        system.pipe_file("models/a.heatward", b"a")
        stores.require_keys(variables)
        with pytest.raises(StoreError, match=r"s3://models/a\.heatward: the store refuses it \(403\): check the cred"):
            load_bundle("s3://models/a.heatward")
        with pytest.raises(StoreError, match=r"refuses it \(403\)"):
            remote.check_writable("s3://models/a.heatward")


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("refuses", r"refuses it \(403\)"),
        ("cuts", "was announced with 10 bytes, 3 came"),
        ("sends more", "was announced with 3 bytes, 10 came"),
        ("announces too much", "at most"),
    ],
)
def test_trouble_of_a_store_is_an_error(store: type[stores.TroubledFileSystem], trouble: str, said: str) -> None:
    put("troubled://a.heatward", b"0123456789" if trouble == "sends more" else b"012")
    store.trouble = trouble
    with pytest.raises(StoreError, match=said):
        load_bundle("troubled://a.heatward")


def test_a_silent_store_is_given_up(store: type[stores.TroubledFileSystem], monkeypatch: pytest.MonkeyPatch) -> None:
    put("troubled://a.heatward", b"a")
    monkeypatch.setattr(remote, "PATIENCE_S", 0.05)
    store.trouble = "is silent"
    with pytest.raises(StoreError, match=r"troubled://a\.heatward: the store did not answer within 0\.05 s"):
        load_bundle("troubled://a.heatward")


def test_a_drivers_own_error_shows_no_secret(store: type[stores.TroubledFileSystem]) -> None:
    store.trouble = "fails"
    with pytest.raises(StoreError, match="RuntimeError: GET http://host/") as caught:
        load_bundle("troubled://me:secret@a.heatward?key=secret")
    assert "secret" not in str(caught.value)


def test_an_upload_that_fails_leaves_what_was_there(store: type[stores.TroubledFileSystem], bundle: Bundle) -> None:
    put("troubled://a.heatward", b"old")
    store.trouble = "takes nothing"
    with pytest.raises(StoreError, match="refuses it"):
        save_bundle("troubled://a.heatward", bundle)
    store.trouble = ""
    system, path = fsspec.url_to_fs("troubled://a.heatward")
    assert system.cat_file(path) == b"old"


def test_a_bundle_at_a_url_is_one_file(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match=r"memory://folder: a bundle at a URL is one file"):
        save_bundle("memory://folder", bundle)


def test_a_driver_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "gcsfs"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ConfigError, match=r"gs://b/x: the driver of gs:// is not installed: pip install gcsfs"):
        load_bundle("gs://b/x")
    with pytest.raises(ConfigError, match="no driver knows nosuch://"):
        load_bundle("nosuch://b/x")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(ConfigError, match=r"pip install 'heatward\[remote\]'"):
        load_bundle("s3://b/x")
