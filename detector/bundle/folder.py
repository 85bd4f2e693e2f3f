"""A path that somebody names → **the bundle there that should serve**; in a folder of bundles, its champion.

`champion.json` names the champion by file and digest, and is replaced in one step. A folder without it has the last
bundle by name for its champion. In a store the pointer itself is named by its URL, `s3://shop/models/champion.json`,
and the bundles lie beside it.
"""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from detector.bundle.archive import MANIFEST, ZIP_SUFFIX
from detector.bundle.bundle import read_manifest
from detector.errors import BundleDamagedError, BundleError, ConfigError
from detector.files import write_file
from detector.remote import is_url, local_copy, shown
from detector.text import printable

__all__ = ["POINTER", "Champion", "newest", "read_champion", "write_champion"]

POINTER = "champion.json"
LONGEST = 2**16
"""Bytes of a pointer."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Champion(BaseModel):
    """What `champion.json` says, and each line of a store's history: which bundle of its folder serves, and why."""

    model_config = ConfigDict(frozen=True)

    bundle: str
    """Its name in the folder."""
    digest: Digest
    """`Manifest.digest` of it."""
    since: datetime
    """When it was put there, in UTC."""
    event: str = "named"
    """How it came there: adopted, promoted, recalibrated, rolled back, or named by hand."""
    why: str
    parent: Digest | None = None
    """Digest of the champion before; None of the first."""

    @field_validator("bundle")
    @classmethod
    def _beside(cls, name: str) -> str:
        if not name or name.startswith(".") or Path(name).name != name:
            raise ValueError(f"expected the name of a bundle beside {POINTER}, got {printable(name)!r}")
        return name


def read_champion(folder: Path) -> Champion | None:
    """What the pointer of a folder says; None where it has none.

    Raises:
        BundleDamagedError: It cannot be read as a pointer.
        OSError: It cannot be read at all.
    """
    try:
        return _read(folder / POINTER)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _read(path: Path) -> Champion:
    try:
        with path.open("rb") as stream:
            return Champion.model_validate_json(stream.read(LONGEST))
    except ValidationError as error:
        first = error.errors()[0]
        said = ": ".join([*map(str, first["loc"]), first["msg"]])
        raise BundleDamagedError(
            f"{path} is no pointer to a bundle: {said}; put the old one back, or name a bundle by `heatward rollback`"
        ) from error


def write_champion(folder: Path, champion: Champion) -> None:
    """Have a folder's pointer name this champion: whoever looks finds the old one or the new one.

    Raises:
        OSError: The pointer cannot be written; the old one stays.
    """
    write_file(folder / POINTER, (champion.model_dump_json(indent=2) + "\n").encode())


def newest(path: Path, *, verify: bool = True) -> Path:
    """The bundle at `path`: itself or, in a folder of bundles, its champion or the last by name (v9, v10).

    Hidden names are passed over: copies not yet complete (`.v10.heatward.Xy12`), `._v10.heatward`, `..data`,
    `.snapshot`; and folders that are closed to us, like `lost+found`.

    Args:
        path: A bundle, or a folder of bundles; or the URL of a bundle or of a pointer.
        verify: Compare the champion's digest with the pointer's.

    Raises:
        ConfigError: The folder holds none.
        StoreError: A store does not give the pointer or the bundle.
        BundleError: Its pointer is damaged, or names a bundle that is gone or another than is there.
        OSError: It cannot be read.
    """
    if is_url(path):
        return _pointed_to_by_url(path, verify) if Path(shown(path)).name == POINTER else path
    if not path.is_dir() or (path / MANIFEST).exists():
        return path
    champion = read_champion(path)
    if champion is not None:
        return _pointed_to(path, champion, verify)
    bundles = [each for each in path.iterdir() if not each.name.startswith(".") and _is_bundle(each)]
    if not bundles:
        raise ConfigError(f"{path} holds no bundle: put a {ZIP_SUFFIX} file there (no hidden one), or name one")
    return max(bundles, key=_order)


def _pointed_to(folder: Path, champion: Champion, verify: bool) -> Path:
    bundle = folder / champion.bundle
    mend = f"put it back, or name another by `heatward rollback {printable(str(folder))}`"
    if not bundle.exists():
        raise BundleError(f"{folder / POINTER} names {printable(champion.bundle)}, which is gone: {mend}")
    if verify:
        _compare(str(folder / POINTER), champion, bundle, mend)
    return bundle


def _pointed_to_by_url(pointer: Path, verify: bool) -> Path:
    with local_copy(pointer) as file:
        champion = _read(file)
    bundle = pointer.with_name(champion.bundle)
    if verify:
        with local_copy(bundle) as file:
            _compare(shown(pointer), champion, file, "put bundles into the store before the pointer")
    return bundle


def _compare(pointer: str, champion: Champion, bundle: Path, mend: str) -> None:
    if (found := read_manifest(bundle).digest) != champion.digest:
        raise BundleDamagedError(
            f"{pointer} names {printable(champion.bundle)} with the digest {champion.digest[:16]}…, the one "
            f"there has {found[:16]}…: {mend}"
        )


def _is_bundle(path: Path) -> bool:
    try:
        return path.suffix == ZIP_SUFFIX or (path / MANIFEST).exists()
    except PermissionError:
        return False


def _order(path: Path) -> list[tuple[int, str]]:
    parts = [part for part in re.split(r"(\d+)", path.name) if part]
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
