"""Images for training: a source in, its images divided into splits out, read a shard at a time.

A source image has one id for life; it, its copies and everything made from it stay in one split. Within a split,
classes take turns, so that the first n images of a split are balanced, whatever n is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detector.errors import ConfigError, DataError
from training.config import SPLITS, ImagesConfig, Split
from training.data.copies import Copies, divide
from training.data.dealing import counts_of, in_order
from training.data.growth import Ledger, named_for_life
from training.data.sources import Item, Source, names_of, open_named, place_of
from training.progress import LogProgress, Progress
from training.shards import digest

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
    dealt: tuple[tuple[int, int, int], ...] | None = None
    """Where images grow, number, first item and one past the last of each shard."""
    _digests: dict[tuple[int, int], str] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def usable(self) -> int:
        """Different photographs that can be read: what a statistic rests on."""
        return len(self.items) - self.copies - len(self.unreadable)

    @property
    def source(self) -> Source:
        """The source of its images, where that is one; `pixels` reads an image whichever it lies in.

        Raises:
            DataError: They lie in several.
        """
        names = {item.source for item in self.items} or set(self.sources)
        if len(names) > 1:
            raise DataError(f"split {self.name}: its images lie in {', '.join(sorted(names))}: read them by `pixels`")
        return self.sources[names.pop()]

    def shards(self, size: int) -> Sequence[tuple[int, int, int]]:
        """Number, first item and one past the last of each shard; of at most `size` images, unless they were dealt."""
        if self.dealt is not None:
            return self.dealt
        return [(at, start, min(start + size, len(self))) for at, start in enumerate(range(0, len(self), size))]

    def digest(self, start: int, stop: int) -> str:
        """Of what tells items `start:stop` from others, and of their truths."""
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
    *,
    ledger: Ledger | None = None,
    shard_size: int = 256,
    remember: bool = True,
    known: tuple[str, ...] | None = None,
) -> tuple[dict[Split, SplitImages], tuple[str, ...]]:
    """Open the images and divide them; copies of one photograph go to one split.

    Args:
        config: Where the images are and how many each split gets.
        classes: Class names in the order of the logits; None takes those of `known`, or the class folders, sorted.
        seed: Decides who goes where.
        progress: Told of images looked at, of what was left out and of copies. Default: the log.
        memory: A file that remembers which images are copies, so that they are decoded once.
        ledger: Where images grow, what was decided before; it is told of what is decided now, and not stored.
        shard_size: Where images grow, images of a new shard.
        remember: False writes no file.
        known: Class names that the classifier knows; taken where every class folder is among them.

    Returns:
        The splits and the class names.

    Raises:
        DataError: A source is empty, has a class folder that is not in `classes`, or is too small for the splits.
        ConfigError: No class names are known.
    """
    progress = progress or LogProgress()
    sources = {name: open_named(config, name) for name in names_of(config)}
    classes = classes or _class_names(sources["source"].class_names, known or (), progress)
    if not classes:
        raise ConfigError("class names are unknown: give classifier.classes or classifier.labels")
    found = in_order(config, sources, classes, seed, progress)
    tested, calibrating = found.pop("test_source", []), found.pop("calibrate_source", [])
    pool = found.pop("source")
    parts = {"test_source": tested, "calibrate_source": calibrating, "source": pool, **found}
    listed = [(sources[name], items) for name, items in parts.items() if name in sources]
    copies = Copies.among(listed, config.near_copies, progress, memory, remember)

    def others(items: list[Item], where: str, held: Sequence[Item], there: str) -> list[Item]:
        """The items that show nothing of what is held out."""
        known = {copies.group[item.index] for item in held}
        leaked = [item for item in items if copies.group[item.index] in known]
        if leaked:
            progress.note(
                f"images: {len(leaked)} of {where} are copies of images in {there}, such as {leaked[0].name}: left "
                "out, for a detector is not tested on what it has learnt"
            )
        return [item for item in items if copies.group[item.index] not in known]

    calibrating = others(calibrating, str(config.calibrate_source), tested, str(config.test_source))
    pool = others(pool, config.source, tested, str(config.test_source))
    pool = others(pool, config.source, calibrating, str(config.calibrate_source))
    groups = [copies.group[item.index] for item in pool]
    ledger = ledger or Ledger()
    counts: Mapping[Any, float] = config.shares if config.grows else counts_of(config, len(pool))
    if config.grows:
        homes = ledger.settle([copies.shown[item.index] or item.fingerprint for item in pool], groups, config.shares)
    else:
        homes = divide(groups, counts_of(config, len(pool)))
    items: dict[str, list[Item]] = {split: [] for split in (*SPLITS, "unused")}

    def put(some: Sequence[Item], into: Sequence[str]) -> None:
        """Into these splits, unless the ledger knows better: an image may lie in another source now."""
        for item, split in zip(some, into, strict=True):
            items[ledger.homes.get(copies.shown[item.index], split)].append(item)

    put(pool, homes)
    put(tested, ["test"] * len(tested))
    put(calibrating, ["calibrate"] * len(calibrating))
    held_out = [item for split in ("calibrate", "test", "tune") for item in items[split]]
    for name, more in found.items():
        more = others(more, place_of(config, name), held_out, "other splits")
        put(more, ["fit"] * len(more))
    for split in SPLITS:
        if not items[split] and split != "tune":
            different = len({*groups})
            raise DataError(
                f"split {split!r} gets no image: {len(pool)} images in {config.source}, splits {dict(counts)}"
                + (f"; they show {different} photographs, and copies stay in the same split" * (different < len(pool)))
            )
    splits: dict[Split, SplitImages] = {}
    for split in SPLITS:
        each = items[split]
        unreadable = tuple(item.name for item in each if item.index in copies.unreadable)
        named = tuple(each if config.grows else [copies.named[item.index] for item in each])
        splits[split] = SplitImages(split, sources, named, copies.count(each), unreadable)
        if config.grows:
            splits[split] = _for_life(splits[split], copies, ledger, shard_size)
    if any(each.copies for each in splits.values()):
        counted = ", ".join(f"{each.copies} of {len(each)} in {name}" for name, each in splits.items() if each.copies)
        progress.note(f"images: copies of another image, which stay in one split with it: {counted}")
    return splits, classes


def _class_names(folders: tuple[str, ...], known: tuple[str, ...], progress: Progress) -> tuple[str, ...]:
    strange = [name for name in folders if name not in known]
    if known and strange:
        progress.note(
            f"images: class folder {strange[0]!r} is no class that the classifier knows, such as {known[0]!r}: the "
            "names of its classes are taken to be those of the folders, sorted"
        )
    return folders if strange else known or folders


def _for_life(split: SplitImages, copies: Copies, ledger: Ledger, size: int) -> SplitImages:
    """The split with ids that stay, in shards that stay."""
    items = {}
    for item in split.items:
        shown = copies.shown[item.index]
        if shown:
            ledger.homes.setdefault(shown, split.name)
        kept = named_for_life(item, shown or item.fingerprint)
        items[kept.index] = kept
    dealt = ledger.deal(split.name, list(items.values()), size)
    bounds, start = [], 0
    for number, some in dealt:
        bounds.append((number, start, start + len(some)))
        start += len(some)
    return replace(split, items=tuple(item for _, some in dealt for item in some), dealt=tuple(bounds))
