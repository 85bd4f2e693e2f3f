"""Who goes where: images of a source in, the order of all and how many each split gets out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from detector.errors import ConfigError, DataError
from training.config import ImagesConfig
from training.data.sources import UNKNOWN, Item, Source, place_of
from training.load import nearest
from training.progress import Progress
from training.shards import derived_seed

__all__ = ["count_of", "counts_of", "in_order", "in_turns", "items_of"]


def in_order(
    config: ImagesConfig, sources: Mapping[str, Source], classes: tuple[str, ...], seed: int, progress: Progress
) -> dict[str, list[Item]]:
    """The images of each source that are used, in the order in which they are dealt."""
    found: dict[str, list[Item]] = {}
    offset = 0
    for name, source in sources.items():
        place = place_of(config, name)
        for note in source.notes:
            progress.note(f"{place}: {note}")
        items = items_of(name, source, classes, offset, place)
        offset += len(source)
        if name == "source":
            found[name] = in_turns(_ends(items, config), derived_seed(seed, "images"))[: config.limit]
        else:
            split = name.removesuffix("_source")
            count = count_of(split, getattr(config.splits, split, None), len(items), default=len(items))
            found[name] = in_turns(items, derived_seed(seed, f"{split} images"))[:count]
    return found


def _by_class(items: Sequence[Item]) -> list[list[Item]]:
    groups: dict[int, list[Item]] = {}
    for item in items:
        groups.setdefault(item.truth, []).append(item)
    return [groups[truth] for truth in sorted(groups)]


def _ends(items: list[Item], config: ImagesConfig) -> list[Item]:
    """The first or the last images of each class."""
    if config.first is None and config.last is None:
        return items
    end = slice(None, config.first) if config.first is not None else slice(-(config.last or 0), None)
    return [item for group in _by_class(items) for item in group[end]]


def in_turns(items: list[Item], seed: int) -> list[Item]:
    """Shuffle each class, then deal the classes in turn: every prefix is balanced."""
    generator = torch.Generator().manual_seed(seed)
    turns: list[tuple[float, int, Item]] = []
    for number, group in enumerate(_by_class(items)):
        order = torch.randperm(len(group), generator=generator).tolist()
        # place k of n sits at (k + ½) / n of the way, so that unequal classes run out together
        turns += [((place + 0.5) / len(group), number, group[chosen]) for place, chosen in enumerate(order)]
    return [item for _, _, item in sorted(turns, key=lambda turn: turn[:2])]


def count_of(split: str, wanted: int | float | None, available: int, default: int) -> int:
    """How many images a split wants.

    Raises:
        ConfigError: It is neither a count nor a share.
        DataError: More than there are.
    """
    if wanted is None:
        return default
    count = wanted if isinstance(wanted, int) else round(wanted * available)
    if count < 0 or (isinstance(wanted, float) and wanted > 1):
        raise ConfigError(f"images.splits.{split}: {wanted} is neither a share in [0, 1] nor a count of images")
    if count > available:
        raise DataError(f"images.splits.{split}: {count} images wanted, {available} there")
    return count


def counts_of(config: ImagesConfig, available: int) -> dict[str, int]:
    """How many images of `source` each split gets, in the order in which they are dealt.

    Raises:
        ConfigError: A split is neither a count nor a share.
        DataError: More are wanted than there are.
    """
    splits, fifth = config.splits, round(0.2 * available)
    test = 0 if config.test_source else count_of("test", splits.test, available, default=fifth)
    calibrate = 0 if config.calibrate_source else count_of("calibrate", splits.calibrate, available, default=fifth)
    tune = count_of("tune", splits.tune, available, default=0)
    fit = count_of("fit", splits.fit, available, default=max(0, available - test - calibrate - tune))
    if fit + calibrate + tune + test > available:
        raise DataError(
            f"images.splits want {fit} + {calibrate} + {tune} + {test} images (fit, calibrate, tune, test), "
            f"{available} there"
        )
    unused = available - fit - calibrate - tune - test
    return {"calibrate": calibrate, "fit": fit, "tune": tune, "unused": unused, "test": test}


def items_of(key: str, source: Source, classes: tuple[str, ...], offset: int, what: str) -> list[Item]:
    """Every image of a source.

    Args:
        key: The source's name.
        source: The source.
        classes: Class names in the order of the logits.
        offset: Id of the first.
        what: How to tell a person which source it is.

    Raises:
        DataError: A class folder is not in `classes`.
    """
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
