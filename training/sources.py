"""Where images lie: the name of a folder or a torchvision data set in, a list of images that decode on demand out."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from detector.errors import ConfigError, DataError, ImageError
from detector.images import decode
from training.config import ImagesConfig
from training.load import nearest

__all__ = ["UNKNOWN", "FolderSource", "Source", "TorchvisionSource", "open_source"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
UNKNOWN = -1


class Source(Protocol):
    """A list of images."""

    class_names: tuple[str, ...]

    def __len__(self) -> int: ...

    def name(self, position: int) -> str:
        """How to tell a person which image this is."""

    def group(self, position: int) -> int:
        """Index into `class_names`, or -1."""

    def fingerprint(self, position: int) -> str:
        """Changes when the image changes, without reading it."""

    def pixels(self, position: int) -> NDArray[np.uint8]:
        """(H, W, 3) RGB."""


class FolderSource:
    """A folder of class folders; or, unlabelled, every image below a folder."""

    def __init__(self, root: Path, labelled: bool = True) -> None:
        if not root.is_dir():
            raise DataError(f"image folder {root} does not exist")
        self.root = root
        self.paths: list[Path] = []
        self.groups: list[int] = []
        folders = sorted(path for path in root.iterdir() if path.is_dir()) if labelled else [root]
        self.class_names = tuple(path.name for path in folders) if labelled else ()
        for group, directory in enumerate(folders):
            found = sorted(path for path in directory.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
            self.paths += found
            self.groups += [group if labelled else UNKNOWN] * len(found)
        if not self.paths:
            layout = f"{root}/<class>/<image>" if labelled else f"{root}/**/<image>"
            raise DataError(
                f"image folder {root} holds no images; expected {layout} with {', '.join(SUFFIXES)}"
                + ("; images without class folders need images.labelled = false" if labelled else "")
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

    def pixels(self, position: int) -> NDArray[np.uint8]:
        path = self.paths[position]
        try:
            return decode(path.read_bytes())
        except (OSError, ImageError) as error:
            raise DataError(
                f"{path} cannot be read: {error}; mend or remove it, or set images.skip_unreadable = true"
            ) from error


class TorchvisionSource:
    """A data set of `torchvision.datasets`, by name. Never downloads."""

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

    def pixels(self, position: int) -> NDArray[np.uint8]:
        image = self.data[position][0]
        return np.asarray(image.convert("RGB"), dtype=np.uint8)


def open_source(text: str, config: ImagesConfig, train: bool) -> Source:
    """Open `torchvision:NAME` or a folder.

    Raises:
        DataError: There is nothing there.
        ConfigError: torchvision has no such data set.
    """
    scheme, _, name = text.partition(":")
    if scheme == "torchvision" and name:
        return TorchvisionSource(name, config.root, train)
    return FolderSource(Path(text), config.labelled)
