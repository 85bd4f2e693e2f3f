"""A bundle's files by name ⇄ one zip or one directory, read within limits and written at once.

Members are stored, not compressed (weights do not shrink, and bytes then depend on no zlib), with fixed times and
rights. Reading takes only the names a bundle has and never follows a member's path.
"""

from __future__ import annotations

import lzma
import os
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import BinaryIO

from detector.errors import BundleDamagedError, BundleError, BundleForeignError
from detector.files import replacing, temporary_name, write_file
from detector.remote import is_url, shown, uploading

__all__ = ["LIMITS", "MANIFEST", "SIGNATURE", "ZIP_SUFFIX", "read_files", "write_files", "write_zip"]

MANIFEST = "manifest.json"
SIGNATURE = "signature.json"
ZIP_SUFFIX = ".heatward"

LIMITS = {
    MANIFEST: 8 * 2**20,
    "classifier.safetensors": 8 * 2**30,
    "witness.safetensors": 8 * 2**30,
    "network.safetensors": 2**30,
    "glance.safetensors": 2**30,
    "calibration.safetensors": 2**28,
    "reliability.safetensors": 2**20,
    SIGNATURE: 2**16,
    "patches.safetensors": 2**28,
}
"""Every file a bundle may have and its largest size in bytes."""

_RATIO = 20  # a recompressed bundle shrinks by far less; a zip bomb by a thousand
_EPOCH = (1980, 1, 1, 0, 0, 0)


def read_files(path: Path, names: Collection[str] = LIMITS) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """Read a bundle's files.

    Args:
        path: A zip or a directory.
        names: Those wanted, `manifest.json` among them.

    Returns:
        The files by name; and the names of members of a zip that no bundle has, unread.

    Raises:
        BundleError: Nothing is there.
        BundleForeignError: It is no bundle, or holds what no bundle holds.
        BundleDamagedError: Truncated or changed.
    """
    if path.is_dir():
        contents = {name: _read(path / name, LIMITS[name]) for name in names if (path / name).is_file()}
        foreign: tuple[str, ...] = ()
    elif path.is_file():
        contents, foreign = _read_zip(path, names)
    else:
        raise BundleError(f"There is no bundle {path}: give a {ZIP_SUFFIX} file or a bundle's directory.")
    if MANIFEST not in contents:
        if contents:
            raise BundleDamagedError(f"{path} lacks its file {MANIFEST}: copy or train the bundle again.")
        inside = ": it is a folder of bundles, name one of them" if any(path.glob(f"*{ZIP_SUFFIX}")) else ""
        raise BundleForeignError(f"{path} is no heatward bundle: it has no {MANIFEST}{inside}.")
    return contents, foreign


def write_files(path: Path, contents: Mapping[str, bytes]) -> None:
    """Write a bundle's files under a temporary name, then put them in place of what is there.

    A zip replaces its predecessor in one step. A directory takes two (the old one moves away, the new one moves in):
    a kill between them leaves no bundle at `path`, never a mixed one. A URL takes a zip, put whole.

    Raises:
        BundleError: `path` is a directory that holds something else, or a URL that does not end in .heatward.
        StoreError: The store of a URL does not take it.
    """
    if is_url(path):
        if path.suffix != ZIP_SUFFIX:
            raise BundleError(f"{shown(path)}: a bundle at a URL is one file: its name must end in {ZIP_SUFFIX}.")
        with uploading(path) as file, file.open("wb") as stream:
            _write_zip(stream, contents)
        return
    if path.suffix == ZIP_SUFFIX:
        write_zip(path, contents)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        _write_directory(temporary, contents)
        _swap(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_zip(path: Path, contents: Mapping[str, bytes]) -> None:
    """Write a bundle's files as one zip, whatever its name; it replaces what is there in one step."""
    with replacing(path) as stream:
        _write_zip(stream, contents)


def _read(path: Path, limit: int) -> bytes:
    size = path.stat().st_size
    if size > limit:
        raise BundleForeignError(f"{path} has {size} bytes, a bundle's {path.name} has at most {limit}.")
    return path.read_bytes()


def _read_zip(path: Path, names: Collection[str]) -> tuple[dict[str, bytes], tuple[str, ...]]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if member.filename in LIMITS]
            for member in members:
                _check(member, path)
            if len({member.filename for member in members}) < len(members):
                raise BundleForeignError(f"{path} holds a file twice: it is no bundle that heatward wrote.")
            foreign = tuple(name for name in archive.namelist() if name not in LIMITS)
            return {each.filename: archive.read(each) for each in members if each.filename in names}, foreign
    except zipfile.BadZipFile as error:
        with path.open("rb") as stream:
            begins_like_a_zip = stream.read(4) == b"PK\x03\x04"
        if begins_like_a_zip:
            raise BundleDamagedError(f"{path} is truncated or damaged ({error}): copy it again.") from error
        raise BundleForeignError(f"{path} is no heatward bundle: it is not a zip file.") from error
    except PermissionError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}.") from error
    except (
        zlib.error,
        lzma.LZMAError,
        struct.error,
        EOFError,
        OSError,
        ValueError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise BundleDamagedError(f"{path} is damaged ({error}): copy it again.") from error


def _check(member: zipfile.ZipInfo, path: Path) -> None:
    limit = LIMITS[member.filename]
    if stat.S_ISLNK(member.external_attr >> 16):
        raise BundleForeignError(f"{path}: {member.filename} is a symbolic link.")
    if member.file_size > limit:
        raise BundleForeignError(
            f"{path}: {member.filename} would unpack to {member.file_size} bytes, it may have at most {limit}."
        )
    if member.file_size > _RATIO * member.compress_size + 2**16:
        raise BundleForeignError(
            f"{path}: {member.filename} would unpack from {member.compress_size} to {member.file_size} bytes: "
            "a zip bomb, not weights."
        )


def _write_zip(stream: BinaryIO, contents: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(contents):
            member = zipfile.ZipInfo(name, _EPOCH)
            member.create_system = 3  # Unix, on every system
            member.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(member, contents[name])


def _write_directory(path: Path, contents: Mapping[str, bytes]) -> None:
    for name, data in contents.items():
        write_file(path / name, data)


def _swap(new: Path, path: Path) -> None:
    if not path.exists():
        os.replace(new, path)
        return
    foreign = not path.is_dir() or {entry.name for entry in path.iterdir()} - LIMITS.keys()
    if foreign:
        raise BundleError(f"{path} is not a bundle's directory: choose another place, or remove it.")
    old = path.with_name(f"{new.name}.old")
    os.replace(path, old)
    os.replace(new, path)
    shutil.rmtree(old)
