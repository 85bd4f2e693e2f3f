"""Photographs in a store: fetched once, followed when they change, dealt as a local folder with the same files is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
import stores
from PIL import Image
from tiny_job import write_source

from detector import remote
from detector.bundle import load_bundle, save_bundle
from detector.errors import ConfigError, DataError, StoreError
from training import cli
from training.config import ImagesConfig
from training.data import mirror as module
from training.data.mirror import mirror
from training.data.sources import FolderSource, open_source


@pytest.fixture(params=["memory", "file", "s3"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "file":
        yield f"file://{tmp_path}/there"
    elif request.param == "memory":
        yield f"memory://{tmp_path.name}/there"
    else:
        with stores.s3_server() as variables:
            stores.environment(monkeypatch, variables)
            fsspec.filesystem("s3").mkdir("photos")
            yield "s3://photos/there"


def put(url: str, colour: str = "red", size: int = 8) -> None:
    system, path = fsspec.url_to_fs(url)
    system.makedirs(path.rpartition("/")[0], exist_ok=True)
    with system.open(path, "wb") as stream:
        Image.new("RGB", (size, size), colour).save(stream, "PNG")


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is fetched."""
    names: list[str] = []

    def noted(place: str, file: Path) -> None:
        names.append(place.rpartition("/")[2])
        remote.download(place, file)

    monkeypatch.setattr(module, "download", noted)
    return names


def test_only_what_changed_is_fetched(bucket: str, tmp_path: Path, fetched: list[str]) -> None:
    for name in ("cat/a.png", "cat/b.png", "dog/c.png"):
        put(f"{bucket}/{name}")
    system, path = fsspec.url_to_fs(bucket)
    system.pipe_file(f"{path}/dog/notes.txt", b"no image")
    source = open_source(bucket, ImagesConfig(source=bucket, root=tmp_path / "data"), train=True)
    assert isinstance(source, FolderSource)
    assert source.class_names == ("cat", "dog")
    assert [path.name for path in source.paths] == ["a.png", "b.png", "c.png"]
    assert sorted(fetched) == ["a.png", "b.png", "c.png"]
    fetched.clear()
    mirror(bucket, tmp_path / "data")
    assert fetched == []
    put(f"{bucket}/cat/b.png", "blue", 16)
    put(f"{bucket}/dog/d.png")
    system.rm_file(f"{path}/cat/a.png")
    files = mirror(bucket, tmp_path / "data")
    assert sorted(fetched) == ["b.png", "d.png"]
    assert sorted(each.name for each in files.rglob("*.png")) == ["b.png", "c.png", "d.png"]
    with Image.open(files / "cat/b.png") as changed:
        assert changed.size == (16, 16)


def test_what_was_fetched_before_a_store_failed_is_kept(
    tmp_path: Path, fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"memory://{tmp_path.name}"
    for name in ("a", "b", "c"):
        put(f"{url}/cat/{name}.png")
    noted = vars(module)["download"]

    def failing(place: str, file: Path) -> None:
        if place.endswith("c.png"):
            raise StoreError("cut")
        noted(place, file)

    monkeypatch.setattr(module, "AT_ONCE", 1)
    monkeypatch.setattr(module, "download", failing)
    with pytest.raises(StoreError):
        mirror(url, tmp_path)
    monkeypatch.setattr(module, "download", noted)
    fetched.clear()
    mirror(url, tmp_path)
    assert fetched == ["c.png"]


@pytest.mark.parametrize("name", ["../x.png", "cat/../../x.png", "cat\\x.png"])
def test_a_name_that_leads_out_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(module, "listing", lambda url: {name: {"size": 1}})
    with pytest.raises(DataError, match="no file name below a folder"):
        mirror("memory://x", tmp_path)


def test_an_empty_or_missing_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nosuch: there is no such object"):
        mirror("memory://nosuch", tmp_path)
    fsspec.filesystem("memory").pipe_file(f"/{tmp_path.name}/a.txt", b"")
    with pytest.raises(DataError, match="holds no images; expected memory://"):
        mirror(f"memory://{tmp_path.name}", tmp_path)


def test_secrets_do_not_belong_into_the_settings(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="without user and query") as caught:
        mirror("ftp://me:pw@host/photos", tmp_path)
    assert "pw" not in str(caught.value)


def test_a_job_reads_from_and_writes_to_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_source(tmp_path / "source")
    url = f"memory://{tmp_path.name}"
    system, path = fsspec.url_to_fs(url)
    system.put(str(source / "images"), f"{path}/images", recursive=True)
    words = ["--config", str(source / "config.toml"), "--set", f'images.root="{tmp_path}/data"']
    local = ["--work", f"{tmp_path}/w1", "--out", f"{tmp_path}/local.heatward"]
    remotely = ["--work", f"{tmp_path}/w2", "--out", f"{url}/my.heatward", "--images", f"{url}/images"]
    assert cli.train([*words, *local]) == 0
    assert cli.train([*words, *remotely]) == 0, capsys.readouterr().err
    assert system.cat_file(f"{path}/my.heatward") == (tmp_path / "local.heatward").read_bytes()
    assert cli.evaluate([*words, *remotely, "--bundle", f"{url}/my.heatward"]) == 0, capsys.readouterr().err
    assert load_bundle(f"{url}/my.heatward").manifest.families == ("clean", "one-step", "iterative")

    whole = load_bundle(tmp_path / "local.heatward")
    bare = str(tmp_path / "bare.heatward")
    save_bundle(bare, replace(whole, manifest=whole.manifest.model_copy(update={"measured": {}})))
    assert cli.evaluate([*words, *local, "--bundle", bare, "--out", f"{tmp_path}/told.heatward"]) == 0
    assert whole.manifest.measured
    assert load_bundle(tmp_path / "told.heatward").manifest.measured == whole.manifest.measured
    assert not load_bundle(bare).manifest.measured


@pytest.mark.parametrize(("out", "said"), [("memory://x", "give a name.heatward"), ("nosuch://a/b.heatward", "nosuch")])
def test_a_place_that_takes_no_bundle_is_said_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str, said: str
) -> None:
    source = write_source(tmp_path)
    assert cli.train(["--config", str(source / "config.toml"), "--out", out]) == 2
    assert said in capsys.readouterr().err
