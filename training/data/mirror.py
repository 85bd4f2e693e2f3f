"""A URL of photographs → **a local folder with the same files**: new and changed ones are fetched, lost ones removed.

A whole folder, and no cache that fills while images are read: a job looks at every image anyway, to find copies and to
deal splits, and reads it again for its shards, from several processes. So the store is asked once, and a store that
fails does so before hours are spent. A file keeps its relative name and its size, hence its place in splits and shards
is that of a local folder with the same files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from detector.errors import ConfigError, DataError
from detector.files import temporary_name, write_file
from detector.remote import download, is_url, listing, shown, version_of
from detector.text import printable
from training.data.folders import SUFFIXES, is_image, is_ours
from training.progress import LogProgress

__all__ = ["mirror"]

INDEX = "index.json"
BLOCK = 1000
"""Files after which the index is written: what a kill can cost."""
AT_ONCE = 16
"""Files fetched at a time: what a store takes to answer is mostly waiting."""


def mirror(url: str, root: Path) -> Path:
    """Bring a local copy of a folder in a store up to date.

    Args:
        url: The folder.
        root: Where copies lie, each in a folder of its own.

    Raises:
        StoreError: The store does not list it or does not give one of its files.
        DataError: It holds no image, or one whose name leads out of the folder.
        ConfigError: The URL holds a user or a query, or there is no driver for it.
    """
    if shown(url) != str(url) or not is_url(url):
        raise ConfigError(f"images: {shown(url)}: give it without user and query: drivers find credentials themselves")
    wanted = {
        name: f"{version_of(info)} {info.get('size')}" for name, info in listing(url).items() if _is_wanted(name, url)
    }
    if not wanted:
        raise DataError(
            f"image folder {url} holds no images; expected {url}/<class>/<image> with {', '.join(sorted(SUFFIXES))}"
        )
    place = root / "mirrors" / f"{PurePosixPath(url).name}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
    files = place / "files"
    with _index(place / INDEX) as have:
        for name in have.keys() - wanted.keys():
            (files / name).unlink(missing_ok=True)
            del have[name]
        missing = [
            name for name, version in wanted.items() if have.get(name) != version or not (files / name).is_file()
        ]
    for at in range(0, len(missing), BLOCK):
        with _index(place / INDEX) as have:
            _fetch(url, files, missing[at : at + BLOCK], wanted, have)
    if missing:
        LogProgress().note(
            f"images: fetched {len(missing)} of {len(wanted)} files of {printable(url, None)} to {files}"
        )
    return files


def _is_wanted(name: str, url: str) -> bool:
    parts = name.split("/")
    if not is_image(Path(name)) or not all(is_ours(part) for part in parts if part not in ("", ".", "..")):
        return False
    if any(part in ("", ".", "..") for part in parts) or "\\" in name or "\0" in name:
        raise DataError(f"{url} holds {printable(name)!r}, which is no file name below a folder: rename it")
    return True


def _fetch(url: str, files: Path, names: list[str], wanted: dict[str, str], have: dict[str, str]) -> None:
    def fetch(name: str) -> str:
        file = files / name
        file.parent.mkdir(parents=True, exist_ok=True)
        half = temporary_name(file)  # hidden, and no other job's
        try:
            download(f"{url.rstrip('/')}/{name}", half)
            half.replace(file)
        finally:
            half.unlink(missing_ok=True)
        return name

    with ThreadPoolExecutor(AT_ONCE) as pool:
        fetched = [pool.submit(fetch, name) for name in names]
        try:
            for each in as_completed(fetched):
                have[each.result()] = wanted[each.result()]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _index(file: Path) -> Iterator[dict[str, str]]:
    """Name → version of what was fetched, kept also where a fetch fails, so that the next one goes on from there."""
    try:
        have: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet, or torn: fetch anew
        have = {}
    try:
        yield have
    finally:
        write_file(file, json.dumps(have, indent=0, sort_keys=True).encode())
