"""Data that grows: images in, a split for life and a shard for each out, remembered in a ledger.

    split   a hash of what the image shows decides, or the split of the image that it is a copy of
    shard   an image stays in the shard it was first put into; new images make new shards, and a shard that lost images
            is made again from the rest

The ledger is one file of the work folder. Without it the hash decides alone and every shard is dealt anew; one that is
damaged is an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from detector.errors import DataError
from detector.files import write_file
from training.config import SPLITS, Split
from training.data.sources import Item
from training.shards import digest

__all__ = ["Ledger", "home_of", "named_for_life"]

FORMAT = 1
SPACE = 16**13


@dataclass
class Ledger:
    """What was decided of images."""

    path: Path | None = None
    """None: nothing is remembered."""
    homes: dict[str, Split] = field(default_factory=dict)
    """What an image shows (digest of its pixels) → its split for life, oldest first; also of images that are gone."""
    shards: dict[Split, dict[int, list[int]]] = field(default_factory=dict)
    """Split → number of a shard → ids of its images."""

    @classmethod
    def read(cls, path: Path) -> Ledger:
        """The ledger of a work folder; an empty one where there is none.

        Raises:
            DataError: There is one, and it cannot be read: to go on without it might deal images anew.
        """
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["format"] != FORMAT:
                raise ValueError(f"format {found['format']!r}, expected {FORMAT}")
            homes = {str(identity): split for identity, split in found["homes"].items()}
            if strange := sorted({str(split) for split in homes.values()} - {*SPLITS}):
                raise ValueError(f"a split {strange[0]!r}, expected {', '.join(SPLITS)}")
            kept = found.get("shards", {})
            shards: dict[Split, dict[int, list[int]]] = {
                split: {int(number): list(map(int, ids)) for number, ids in kept.get(split, {}).items()}
                for split in SPLITS
            }
        except FileNotFoundError:
            return cls(path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path}: the ledger, which keeps each image in its split for life, cannot be read "
                f"({type(error).__name__}: {error}): put a copy of it back. If there is none, remove it: a hash gives "
                "each image its split again as long as images.splits are the same shares, but near copies may change "
                "theirs, and every shard is made again"
            ) from error
        return cls(path, homes, shards)

    def store(self) -> None:
        """Write the file, whole or not at all."""
        if self.path is not None:
            told = {"format": FORMAT, "homes": self.homes, "shards": self.shards}
            write_file(self.path, json.dumps(told, separators=(",", ":")).encode())

    def settle(self, identities: Sequence[str], groups: Sequence[int], shares: Mapping[Split, float]) -> list[str]:
        """The split of each image, or `unused`.

        Args:
            identities: What each image shows.
            groups: The same number for copies of one photograph.
            shares: How much of all images each split gets.
        """
        age = {identity: at for at, identity in enumerate(self.homes)}
        members: dict[int, set[str]] = {}
        for identity, group in zip(identities, groups, strict=True):
            members.setdefault(group, set()).add(identity)
        chosen: dict[int, str] = {}
        for group, alike in members.items():
            known = [identity for identity in alike if identity in age]
            oldest = min(known, key=age.__getitem__) if known else None
            chosen[group] = self.homes[oldest] if oldest else home_of(min(alike), shares)
        return [self.homes.get(identity) or chosen[group] for identity, group in zip(identities, groups, strict=True)]

    def deal(self, split: Split, items: Sequence[Item], size: int) -> list[tuple[int, list[Item]]]:
        """Number and images of each shard of a split.

        Args:
            split: Which.
            items: Its images; new ones are dealt in this order.
            size: Images of a new shard, at most.
        """
        present = {item.index: item for item in items}
        before = self.shards.get(split, {})
        dealt = {number: [index for index in ids if index in present] for number, ids in before.items()}
        placed = {index for ids in dealt.values() for index in ids}
        new = [index for index in present if index not in placed]
        first = max(before, default=-1) + 1
        dealt |= {first + at: new[start : start + size] for at, start in enumerate(range(0, len(new), size))}
        self.shards[split] = {number: ids for number, ids in sorted(dealt.items()) if ids}
        return [(number, [present[index] for index in ids]) for number, ids in self.shards[split].items()]


def home_of(identity: str, shares: Mapping[Split, float]) -> str:
    """The split that a hash gives an image."""
    place, edge = int(digest(["split", identity])[:13], 16) / SPACE, 0.0
    for split, share in shares.items():
        edge += share
        if place < edge:
            return split
    return "unused"


def named_for_life(item: Item, identity: str) -> Item:
    """The image with an id and a fingerprint that stay, whatever is added beside it."""
    return replace(item, index=int(digest([identity, item.fingerprint])[:15], 16), fingerprint=identity)
