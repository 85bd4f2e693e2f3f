"""Which images show the same photograph: images in, groups of copies out.

Copies have the same pixels once decoded, whatever their files are called and however they are packed. Near copies, if
asked for, were saved again, scaled or slightly cropped: their difference hashes (N. Krawetz, "Kind of Like That", 2013:
is each of 8×8 cells brighter than its right neighbour?) differ in few bits, and the colours of the cells in little for
what there is to see: on plain backgrounds most bits are alike, whatever stands before them.
What was decoded is remembered in a file, so that a job that goes on decodes nothing again and notices where an image
was replaced by another one of its name and size.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detector.cpus import available_cpus
from detector.errors import DataError
from detector.files import write_file
from training.data.sources import Item, Source
from training.progress import Progress

__all__ = ["Copies", "Memory", "cells_of", "divide", "groups_of", "sign"]

CELLS = 8
Signature = tuple[str, str, str]
"""Digest of the pixels, difference hash, red, green and blue of 8×8 cells; all in hex digits."""
UNREADABLE: Signature = ("", "", "")
DIGITS = {"hash": 16, "colours": 2 * CELLS * CELLS * 3}
MOST_APART = 0.25
"""Of their contrast: so far may the cells of near copies differ (root mean square). Saved again (quality 60) or scaled:
0.15; other photographs: above 0.45; other objects on white: above 0.29."""
LEAST_APART = 2.0
"""Of 255: in plain images that much is rounding."""
ROWS_AT_ONCE, IMAGES_AT_ONCE = 1024, 64


def sign(source: Source, position: int) -> Signature:
    """The signature of one image; `UNREADABLE` where it cannot be decoded."""
    try:
        pixels = source.pixels(position)
    except DataError:
        return UNREADABLE
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    image = Image.fromarray(pixels)
    grey = np.asarray(image.convert("L").resize((CELLS + 1, CELLS), Image.Resampling.BOX))
    bits = np.packbits(grey[:, :-1] > grey[:, 1:])
    colours = image.resize((CELLS, CELLS), Image.Resampling.BOX)
    return digest.hexdigest(), bits.tobytes().hex(), colours.tobytes().hex()


class Memory:
    """Signatures by what an image is (its place, size and time), kept in a file; None keeps nothing.

    Size and time are hints that save looking again; what decides whether an image is another one is its pixels.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.known: dict[str, Signature] = {}
        """Oldest first."""
        try:
            stored = json.loads(path.read_text(encoding="utf-8")) if path else {}
            self.known = {
                key: (digest, bits, colours)
                for key, (digest, bits, colours) in stored.items()
                if len(bits) == DIGITS["hash"] and len(colours) == DIGITS["colours"]  # an older release had others
            }
        except (OSError, ValueError, TypeError, AttributeError):  # none yet, or damaged: looked at again
            pass
        self.first: dict[str, str] = {}
        """Place and size → digest of the pixels that were seen there first."""
        self._note(self.known)

    def _note(self, keys: Iterable[str]) -> None:
        for key in keys:
            if digest := self.known[key][0]:
                self.first.setdefault(_lasting(key), digest)

    def signatures(self, source: Source, positions: Sequence[int], advance: Callable[[int], None]) -> list[Signature]:
        """One signature a position; what is not known yet is decoded, in as many threads as there are processors."""
        keys = [source.version(position) for position in positions]
        new = [at for at, key in enumerate(keys) if key not in self.known]
        advance(len(keys) - len(new))
        with ThreadPoolExecutor(available_cpus()) as threads:
            for start in range(0, len(new), IMAGES_AT_ONCE):  # what an interruption waits for
                some = new[start : start + IMAGES_AT_ONCE]
                signed = threads.map(lambda at: sign(source, positions[at]), some)
                self.known.update(zip((keys[at] for at in some), signed, strict=True))
                self._note(keys[at] for at in some)
                advance(len(some))
        return [self.known[key] for key in keys]

    def named(self, source: Source, item: Item, signature: Signature) -> Item:
        """The item; where it is not the first image of its name and size, its fingerprint tells its pixels, too.

        So shards that were made before are known by the name and the size alone, and a shard of what lies there now is
        another one.
        """
        digest = signature[0]
        if digest and digest == self.first.get(_lasting(source.version(item.position)), digest):
            return item
        return replace(item, fingerprint=f"{item.fingerprint}:{digest or 'unreadable'}")

    def store(self) -> None:
        """Write the file, whole or not at all."""
        if self.path is not None:
            kept = {key: signature for key, signature in self.known.items() if signature != UNREADABLE}
            write_file(self.path, json.dumps(kept, separators=(",", ":")).encode())


@dataclass(frozen=True)
class Copies:
    """Which source images (by id) show the same photograph, and which cannot be decoded."""

    group: Mapping[int, int]
    unreadable: frozenset[int]
    shown: Mapping[int, str]
    """Digest of the pixels; empty where an image cannot be decoded."""
    named: Mapping[int, Item]
    """The items, each with a fingerprint that no other image had before it (`Memory.named`)."""

    @classmethod
    def among(
        cls,
        parts: Sequence[tuple[Source, Sequence[Item]]],
        near: int,
        progress: Progress,
        memory: Path | None,
        remember: bool = True,
    ) -> Copies:
        """Look at every image once.

        Args:
            parts: Sources, and which of their images to look at.
            near: Bits by which difference hashes of copies may differ; 0: only the same pixels are copies.
            progress: Told of images, and of photographs under several classes.
            memory: A file that remembers what was seen; None: nothing is remembered.
            remember: False reads the file, and writes nothing.
        """
        items = [item for _, some in parts for item in some]
        remembered, signatures = Memory(memory), []
        try:
            with progress.task("look for copies", total=len(items)) as advance:
                for source, some in parts:
                    signatures += remembered.signatures(source, [item.position for item in some], advance)
        finally:
            if remember:
                remembered.store()
        groups = groups_of(signatures, near)
        sources = [source for source, some in parts for _ in some]
        copies = cls(
            {item.index: group for item, group in zip(items, groups, strict=True)},
            frozenset(item.index for item, each in zip(items, signatures, strict=True) if each == UNREADABLE),
            {item.index: digest for item, (digest, _, _) in zip(items, signatures, strict=True)},
            {each[1].index: remembered.named(*each) for each in zip(sources, items, signatures, strict=True)},
        )
        if torn := copies._torn(items):
            names = " and ".join(item.name for item in torn[0])
            progress.note(f"images: {len(torn)} photographs lie in several classes, as copies: {names}, …")
        return copies

    def count(self, items: Sequence[Item]) -> int:
        """How many are copies of another one among them."""
        return len(items) - len({self.group[item.index] for item in items})

    def _torn(self, items: Sequence[Item]) -> list[list[Item]]:
        """Of each photograph under several classes one image a class."""
        classes: dict[int, dict[int, Item]] = {}
        for item in items:
            classes.setdefault(self.group[item.index], {}).setdefault(item.truth, item)
        return [list(each.values()) for each in classes.values() if len(each) > 1]


def divide(groups: Sequence[int], room: Mapping[str, int]) -> list[str]:
    """Which split each image goes to: the first with room for it and its copies; `fit` takes what fits nowhere.

    Args:
        groups: The group of each image, in order.
        room: Split → how many images it takes. Without copies each split gets exactly so many, in this order.
    """
    sizes, left, home = Counter(groups), dict(room), {}
    for group in dict.fromkeys(groups):
        home[group] = next((split for split, count in left.items() if count >= sizes[group]), "fit")
        left[home[group]] -= sizes[group]
    return [home[group] for group in groups]


def groups_of(signatures: Sequence[Signature], near: int) -> list[int]:
    """A number for each image, the same for copies: the place of the group's first image.

    Args:
        signatures: Those of all images.
        near: Bits by which difference hashes of copies may differ; 0: only the same pixels are copies.
    """
    parent = list(range(len(signatures)))

    def root(at: int) -> int:
        while parent[at] != at:
            parent[at] = parent[parent[at]]
            at = parent[at]
        return at

    first: dict[str, int] = {}
    for at, (digest, _, _) in enumerate(signatures):
        if digest:
            parent[at] = first.setdefault(digest, at)
    if near:
        for one, other in _near_pairs(signatures, sorted(first.values()), near):
            low, high = sorted((root(one), root(other)))
            parent[high] = low
    return [root(at) for at in range(len(signatures))]


def _near_pairs(signatures: Sequence[Signature], chosen: Sequence[int], near: int) -> list[tuple[int, int]]:
    """Pairs among `chosen` whose hashes and colours are close. Every pair is compared, in blocks of matrix products."""
    if not chosen:
        return []
    places = np.array(chosen)
    signs: NDArray[np.float32] = np.unpackbits(_bytes(signatures[at][1] for at in chosen), axis=1) * np.float32(2) - 1
    seen = cells_of([signatures[at] for at in chosen])
    most = np.maximum(MOST_APART * (seen - seen.mean(1, keepdims=True)).std((1, 2)), LEAST_APART)  # (N,)
    pairs = []
    for start in range(0, len(places), ROWS_AT_ONCE):
        agreeing = signs[start : start + ROWS_AT_ONCE] @ signs[start:].T  # equal bits less differing ones
        rows, columns = (found + start for found in np.nonzero(agreeing >= 64 - 2 * near))
        rows, columns = rows[rows < columns], columns[rows < columns]
        for first in range(0, len(rows), ROWS_AT_ONCE):
            row, column = rows[first : first + ROWS_AT_ONCE], columns[first : first + ROWS_AT_ONCE]
            apart = np.sqrt(np.square(seen[row] - seen[column]).mean((1, 2)))
            alike = apart <= np.minimum(most[row], most[column])
            pairs += list(zip(places[row[alike]].tolist(), places[column[alike]].tolist(), strict=True))
    return pairs


def cells_of(signatures: Sequence[Signature]) -> NDArray[np.float32]:
    """(N, 64, 3) colours of the cells of N images that can be read."""
    colours = _bytes(colours for _, _, colours in signatures)
    return colours.reshape(len(signatures), -1, 3).astype(np.float32)


def _lasting(version: str) -> str:
    """Place and size of what has this version."""
    return version.rpartition(":")[0]


def _bytes(digits: Iterable[str]) -> NDArray[np.uint8]:
    """(N, n) of N words of 2·n hex digits."""
    words = list(digits)
    return np.frombuffer(bytes.fromhex("".join(words)), np.uint8).reshape(len(words), -1)
