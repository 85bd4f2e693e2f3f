"""Where images lie: the name of a folder or a torchvision data set in, a list of images that decode on demand out."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from detector.errors import ConfigError, DataError, ImageError
from detector.images import decode
from detector.remote import is_url
from detector.text import printable
from training.config import ImagesConfig
from training.data.folders import SUFFIXES, class_folders, find_images, is_image
from training.data.mirror import mirror
from training.load import nearest

__all__ = [
    "UNKNOWN",
    "FolderSource",
    "Item",
    "Source",
    "TorchvisionSource",
    "names_of",
    "open_named",
    "open_source",
    "place_of",
]

UNKNOWN = -1
NAMED = 10


@dataclass(frozen=True)
class Item:
    """One source image, as plain data."""

    source: str
    """Name of its source: a key of `[images]`, and for one of `fit_sources` its place, as in `fit_sources.0`."""

    index: int
    """Its id, unique over all splits."""
    position: int
    """Where it is in its source."""
    name: str
    truth: int
    """Class index, or -1 when unknown."""
    fingerprint: str
    """Its name within its source and its size; and a digest of its pixels where another image had both before it.
    Where images grow, the digest alone."""


class Source(Protocol):
    """A list of images."""

    class_names: tuple[str, ...]
    notes: tuple[str, ...]
    """What the user should know of it, a line each."""

    def __len__(self) -> int: ...

    def name(self, position: int) -> str:
        """How to tell a person which image this is."""

    def group(self, position: int) -> int:
        """Index into `class_names`, or -1."""

    def fingerprint(self, position: int) -> str:
        """Tells images apart, wherever the source lies."""

    def version(self, position: int) -> str:
        """Changes when the image changes, without reading it; place and size, a colon, and what else may tell."""

    def pixels(self, position: int) -> NDArray[np.uint8]:
        """(H, W, 3) RGB."""


class FolderSource:
    """A folder of class folders; or, unlabelled, every image below a folder.

    Args:
        root: The folder.
        labelled: Whether it has class folders.
        of_settings: Whether it is named in `[images]`, so that errors name the settings there that mend them.
    """

    def __init__(self, root: Path, labelled: bool = True, *, of_settings: bool = True) -> None:
        self.of_settings = of_settings
        folders, loose = class_folders(root)
        if not labelled:
            folders, loose = [root], []
        for folder in folders if labelled else ():
            if not _is_text(folder.name):
                raise DataError(f"class folder {printable(str(folder))} has a name that is no UTF-8: rename it")
        found = find_images(folders)
        found.others.update(path.suffix.lower() for path in loose if not is_image(path))
        self.root = root
        self.paths = [path for files in found.files for path in files]
        self.groups = [at if labelled else UNKNOWN for at, files in enumerate(found.files) for _ in files]
        self.class_names = tuple(path.name for path in folders) if labelled else ()
        if not self.paths:
            layout = f"{root}/<class>/<image>" if labelled else f"{root}/**/<image>"
            raise DataError(
                f"image folder {root} holds no images; expected {layout} with {', '.join(sorted(SUFFIXES))}"
                + ("; images without class folders need images.labelled = false" if labelled and of_settings else "")
                + "".join(f"; {note}" for note in found.notes())
            )
        empty = [printable(path.name) for path, files in zip(folders, found.files, strict=True) if not files]
        beside = sum(map(is_image, loose))
        self.notes = (
            *found.notes(),
            *([f"left out {beside} images that lie beside the class folders"] if beside else []),
            *([f"{len(empty)} class folders hold no image: {', '.join(empty[:NAMED])}"] if empty else []),
        )

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, position: int) -> str:
        return str(self.paths[position])

    def group(self, position: int) -> int:
        return self.groups[position]

    def fingerprint(self, position: int) -> str:
        path = self.paths[position]
        return f"{path.relative_to(self.root).as_posix()}:{path.stat().st_size}"

    def version(self, position: int) -> str:
        path = self.paths[position]
        status = path.stat()
        return f"{path}:{status.st_size}:{status.st_mtime_ns}"

    def pixels(self, position: int) -> NDArray[np.uint8]:
        path = self.paths[position]
        try:
            return decode(path.read_bytes())
        except (OSError, ImageError) as error:
            otherwise = ", or set images.skip_unreadable = true" if self.of_settings else ""
            raise DataError(f"{path} cannot be read: {error}; mend or remove it{otherwise}") from error


class TorchvisionSource:
    """A data set of `torchvision.datasets`, by name. Never downloads."""

    notes: tuple[str, ...] = ()

    def __init__(self, name: str, root: Path, train: bool) -> None:
        from torchvision import datasets

        kind = getattr(datasets, name, None)
        if kind is None or name not in datasets.__all__:
            raise ConfigError(f"images: torchvision has no data set {name!r}{nearest(name, list(datasets.__all__))}")
        accepted = inspect.signature(kind).parameters
        which: dict[str, Any] = {"train": train} if "train" in accepted else {}
        if "split" in accepted:
            which = {"split": "train" if train else "test"}
        try:
            self.data = kind(str(root), **which)
        except Exception as error:
            raise DataError(f"torchvision data set {name} cannot be opened in {root}: {error}") from error
        self.root = root
        self.label = f"torchvision:{name}:{'train' if train else 'test'}"
        self.class_names = tuple(str(each) for each in getattr(self.data, "classes", ()))
        targets = getattr(self.data, "targets", getattr(self.data, "labels", None))
        self.groups = [UNKNOWN] * len(self.data) if targets is None else [int(target) for target in targets]

    def __len__(self) -> int:
        return len(self.data)

    def name(self, position: int) -> str:
        return f"{self.label}[{position}]"

    def group(self, position: int) -> int:
        return self.groups[position]

    def fingerprint(self, position: int) -> str:
        return f"{self.label}[{position}]:{self.groups[position]}"

    def version(self, position: int) -> str:
        return f"{self.root}:{self.fingerprint(position)}"

    def pixels(self, position: int) -> NDArray[np.uint8]:
        try:
            image = self.data[position][0]
        except OSError as error:
            raise DataError(f"{self.name(position)} cannot be read: {error}") from error
        return np.asarray(image.convert("RGB"), dtype=np.uint8)


def open_source(text: str, config: ImagesConfig, train: bool) -> Source:
    """Open `torchvision:NAME`, a folder, or a copy of one that a URL names.

    Raises:
        DataError: There is nothing there.
        StoreError: The store of a URL does not give it.
        ConfigError: torchvision has no such data set.
    """
    scheme, _, name = text.partition(":")
    if scheme == "torchvision" and name:
        return TorchvisionSource(name, config.root, train)
    return FolderSource(mirror(text, config.root) if is_url(text) else Path(text), config.labelled)


def open_named(config: ImagesConfig, name: str) -> Source:
    """Open the source that a key of `[images]` names.

    Raises:
        DataError: There is nothing there.
        ConfigError: torchvision has no such data set.
    """
    return open_source(place_of(config, name), config, train=name != "test_source")


def names_of(config: ImagesConfig) -> list[str]:
    """Names of the sources, in the order in which their images are numbered."""
    given = ["source", *(name for name in ("test_source", "calibrate_source") if getattr(config, name) is not None)]
    return given + [f"fit_sources.{at}" for at in range(len(config.fit_sources))]


def place_of(config: ImagesConfig, name: str) -> str:
    """Where a source lies, as it was given."""
    key, _, at = name.partition(".")
    return str(config.fit_sources[int(at)] if at else getattr(config, key))


def _is_text(name: str) -> bool:
    """Whether a name can be written anywhere: Python holds bytes that are no UTF-8 as surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in name)
