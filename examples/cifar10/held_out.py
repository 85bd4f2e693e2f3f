"""CIFAR-10 test photographs that no table measured on, in two halves: to calibrate with, and to measure on once.

    python -m examples.cifar10.held_out data      # data/test → data/calibrate and data/final, links

`<class>/<image>` of `data/test` flows in. The tables of `config.toml` measured on the 2,000 that it deals to the test
split, docs/results/delivered.md on the first 50 of each class. The others go, by file name, in turn into both folders.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from detector.errors import DataError
from examples.commands import count, run
from training.data.splits import open_splits
from training.load import load_config

__all__ = ["FIRST", "divide", "main"]

CONFIG = Path(__file__).with_name("config.toml")
FIRST = 50
FOLDERS = ("calibrate", "final")


def divide(data: Path, images: int, config: Path) -> dict[str, list[Path]]:
    """Photographs of each class, none of which was measured on, for each of `FOLDERS`.

    Args:
        data: Holds `train` and `test`, as the configuration names them.
        images: Of each class, in each folder.
        config: Whose test split was measured on.

    Raises:
        DataError: A class has too few.
    """
    settings = load_config(config)
    places = {"source": str(data / "train"), "test_source": str(data / "test")}
    splits, classes = open_splits(settings.images.model_copy(update=places), None, settings.seed, remember=False)
    measured = {Path(item.name).resolve() for item in splits["test"].items}
    parts: dict[str, list[Path]] = {folder: [] for folder in FOLDERS}
    for name in classes:
        files = sorted((data / "test" / name).iterdir())[FIRST:]
        left = [file for file in files if file.resolve() not in measured]
        if len(left) < images * len(FOLDERS):
            raise DataError(f"{data / 'test' / name}: {len(left)} images are left, {images * len(FOLDERS)} wanted")
        for place, folder in enumerate(FOLDERS):
            parts[folder] += left[place :: len(FOLDERS)][:images]
    return parts


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=count, default=200, help="of each class, in each folder (%(default)s)")
    parser.add_argument("--config", type=Path, default=CONFIG, help="whose test split was measured on (%(default)s)")
    given = parser.parse_args(arguments)
    for folder, files in divide(given.data, given.images, given.config).items():
        for file in files:
            link = given.data / folder / file.parent.name / file.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.hardlink_to(file.resolve())
        print(f"{given.data / folder}: {len(files)} images")


if __name__ == "__main__":
    run(main)
