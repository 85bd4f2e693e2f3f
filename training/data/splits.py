"""Images for training: a source in, its images divided into splits out, read a shard at a time.

A source image has one id for life; it, its copies and everything made from it stay in one split. Within a split,
classes take turns, so that the first n images of a split are balanced, whatever n is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detector.errors import ConfigError, DataError
from training.config import SPLITS, ImagesConfig, Split, Splits
from training.data.copies import Copies, divide
from training.data.sources import UNKNOWN, Item, Source, open_named
from training.load import nearest
from training.progress import LogProgress, Progress
from training.shards import derived_seed, digest

__all__ = ["Images", "SplitImages", "open_splits", "read_items"]


@dataclass(frozen=True)
class Images:
    """Images as the classifier sees them. pixels (n, 3, H, W) uint8; index, truth (n,) int64."""

    pixels: Tensor
    index: Tensor
    truth: Tensor
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class SplitImages:
    """The source images of one split, in order."""

    name: Split
    sources: Mapping[str, Source]
    """Key of `[images]` → source."""
    items: tuple[Item, ...]
    copies: int = 0
    """Items that are copies of an earlier one."""
    unreadable: tuple[str, ...] = ()
    """Names of items that cannot be decoded."""
    _digests: dict[tuple[int, int], str] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def usable(self) -> int:
        """Different photographs that can be read: what a statistic rests on."""
        return len(self.items) - self.copies - len(self.unreadable)

    def digest(self, start: int, stop: int) -> str:
        """Of the names, sizes and truths of items `start:stop`."""
        if (start, stop) not in self._digests:
            told = [[item.index, item.truth, item.fingerprint] for item in self.items[start:stop]]
            self._digests[start, stop] = digest(told)
        return self._digests[start, stop]

    def pixels(self, item: Item) -> NDArray[np.uint8]:
        """(H, W, 3) RGB of one of its images.

        Raises:
            DataError: It cannot be read.
        """
        return self.sources[item.source].pixels(item.position)

    def read(
        self, start: int, stop: int, prepare: Callable[[NDArray[np.uint8]], Tensor], *, skip_unreadable: bool = False
    ) -> Images:
        """Read items `start:stop`, as `read_items` does."""
        return read_items(
            self.items[start:stop], lambda item: self.sources[item.source], prepare, skip_unreadable=skip_unreadable
        )


def read_items(
    items: Sequence[Item],
    source_of: Callable[[Item], Source],
    prepare: Callable[[NDArray[np.uint8]], Tensor],
    *,
    skip_unreadable: bool = False,
) -> Images:
    """Read images.

    Args:
        items: Which.
        source_of: The source that an image lies in.
        prepare: (H, W, 3) uint8 → (3, h, w) in [0, 1]: `Classifier.prepare`.
        skip_unreadable: Leave out what cannot be read and name it in `skipped`.

    Raises:
        DataError: An image cannot be read.
    """
    pixels, kept, skipped = [], [], []
    for item in items:
        try:
            image = source_of(item).pixels(item.position)
        except DataError:
            if not skip_unreadable:
                raise
            skipped.append(item.name)
            continue
        pixels.append(prepare(image).mul(255).round().to(torch.uint8))
        kept.append(item)
    size = prepare(np.zeros((1, 1, 3), dtype=np.uint8)).shape
    return Images(
        pixels=torch.stack(pixels) if pixels else torch.zeros((0, *size), dtype=torch.uint8),
        index=torch.tensor([item.index for item in kept], dtype=torch.int64),
        truth=torch.tensor([item.truth for item in kept], dtype=torch.int64),
        skipped=tuple(skipped),
    )


def open_splits(
    config: ImagesConfig,
    classes: tuple[str, ...] | None,
    seed: int,
    progress: Progress | None = None,
    memory: Path | None = None,
) -> tuple[dict[Split, SplitImages], tuple[str, ...]]:
    """Open the images and divide them; copies of one photograph go to one split.

    Args:
        config: Where the images are and how many each split gets.
        classes: Class names in the order of the logits; None takes the class folders, sorted.
        seed: Decides who goes where.
        progress: Told of images looked at, of what was left out and of copies. Default: the log.
        memory: A file that remembers which images are copies, so that they are decoded once.

    Returns:
        The splits and the class names.

    Raises:
        DataError: A source is empty, has a class folder that is not in `classes`, or is too small for the splits.
        ConfigError: No class names are known.
    """
    progress = progress or LogProgress()
    sources = {"source": open_named(config, "source")}
    source = sources["source"]
    _say(progress, config.source, source.notes)
    classes = classes or source.class_names
    if not classes:
        raise ConfigError("class names are unknown: give classifier.classes or classifier.labels")
    pool = _items("source", source, classes, offset=0, what=config.source)
    pool = _in_turns(_ends(pool, config), derived_seed(seed, "images"))[: config.limit]
    test_source, tested = source, []
    if config.test_source is not None:
        test_source = sources["test_source"] = open_named(config, "test_source")
        _say(progress, config.test_source, test_source.notes)
        tested = _items("test_source", test_source, classes, offset=len(source), what=config.test_source)
        tested = _in_turns(tested, derived_seed(seed, "test images"))
        tested = tested[: _count("test", config.splits.test, len(tested), default=len(tested))]
    copies = Copies.among(((test_source, tested), (source, pool)), config.near_copies, progress, memory)
    known = {copies.group[item.index] for item in tested}
    leaked = [item for item in pool if copies.group[item.index] in known]
    if leaked:
        pool = [item for item in pool if copies.group[item.index] not in known]
        progress.note(
            f"images: {len(leaked)} of {config.source} are copies of images in {config.test_source}, such as "
            f"{leaked[0].name}: left out, for a detector is not tested on what it has learnt"
        )
    counts = _counts(config.splits, len(pool), own_test=config.test_source is not None)
    homes = divide([copies.group[item.index] for item in pool], counts)
    items: dict[Split, list[Item]] = {
        split: [item for item, home in zip(pool, homes, strict=True) if home == split] for split in SPLITS
    }
    items["test"] += tested
    for split in SPLITS:
        if not items[split] and split != "tune":
            different = len({copies.group[item.index] for item in pool})
            raise DataError(
                f"split {split!r} gets no image: {len(pool)} images in {config.source}, splits {counts}"
                + (f"; they show {different} photographs, and copies stay in the same split" * (different < len(pool)))
            )
    splits = {
        split: SplitImages(
            split,
            sources,
            tuple(each),
            copies.count(each),
            tuple(item.name for item in each if item.index in copies.unreadable),
        )
        for split, each in items.items()
    }
    if any(each.copies for each in splits.values()):
        counted = ", ".join(f"{each.copies} of {len(each)} in {name}" for name, each in splits.items() if each.copies)
        progress.note(f"images: copies of another image, which stay in one split with it: {counted}")
    return splits, classes


def _say(progress: Progress, what: str, notes: Sequence[str]) -> None:
    for note in notes:
        progress.note(f"{what}: {note}")


def _items(key: str, source: Source, classes: tuple[str, ...], offset: int, what: str) -> list[Item]:
    index_of = {name: index for index, name in enumerate(classes)}
    for name in source.class_names:
        if name not in index_of:
            raise DataError(
                f"{what}: class folder {name!r} is not a class of the classifier{nearest(name, list(classes[:50]))}; "
                "if its folders are not classes, set images.labelled = false"
            )
    # a data set without class names numbers its classes as the classifier does
    truths = [index_of[name] for name in source.class_names] or list(range(len(classes)))
    return [
        Item(
            source=key,
            index=offset + position,
            position=position,
            name=source.name(position),
            truth=truths[group] if (group := source.group(position)) >= 0 else UNKNOWN,
            fingerprint=source.fingerprint(position),
        )
        for position in range(len(source))
    ]


def _by_class(items: Sequence[Item]) -> list[list[Item]]:
    groups: dict[int, list[Item]] = {}
    for item in items:
        groups.setdefault(item.truth, []).append(item)
    return [groups[truth] for truth in sorted(groups)]


def _ends(items: list[Item], config: ImagesConfig) -> list[Item]:
    """The first or the last images of each class."""
    if config.first is None and config.last is None:
        return items
    ends = slice(None, config.first) if config.first is not None else slice(-(config.last or 0), None)
    return [item for group in _by_class(items) for item in group[ends]]


def _in_turns(items: list[Item], seed: int) -> list[Item]:
    """Shuffle each class, then deal the classes in turn: every prefix is balanced."""
    generator = torch.Generator().manual_seed(seed)
    turns: list[tuple[float, int, Item]] = []
    for number, group in enumerate(_by_class(items)):
        order = torch.randperm(len(group), generator=generator).tolist()
        # place k of n sits at (k + ½) / n of the way, so that unequal classes run out together
        turns += [((place + 0.5) / len(group), number, group[chosen]) for place, chosen in enumerate(order)]
    return [item for _, _, item in sorted(turns, key=lambda turn: turn[:2])]


def _count(split: str, wanted: int | float | None, available: int, default: int) -> int:
    if wanted is None:
        return default
    count = wanted if isinstance(wanted, int) else round(wanted * available)
    if count < 0 or (isinstance(wanted, float) and wanted > 1):
        raise ConfigError(f"images.splits.{split}: {wanted} is neither a share in [0, 1] nor a count of images")
    if count > available:
        raise DataError(f"images.splits.{split}: {count} images wanted, {available} there")
    return count


def _counts(splits: Splits, available: int, own_test: bool) -> dict[str, int]:
    test = 0 if own_test else _count("test", splits.test, available, default=round(0.2 * available))
    calibrate = _count("calibrate", splits.calibrate, available, default=0)
    tune = _count("tune", splits.tune, available, default=0)
    fit = _count("fit", splits.fit, available, default=max(0, available - test - calibrate - tune))
    if fit + calibrate + tune + test > available:
        raise DataError(
            f"images.splits want {fit} + {calibrate} + {tune} + {test} images (fit, calibrate, tune, test), "
            f"{available} there"
        )
    unused = available - fit - calibrate - tune - test
    return {"calibrate": calibrate, "fit": fit, "tune": tune, "unused": unused, "test": test}
