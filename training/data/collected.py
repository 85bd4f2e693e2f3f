"""Images that somebody attacked already: folders in, the images of each split out, with their originals where known.

    files:FOLDER         FOLDER/<class>/<image>, by the class that it shows, not the one that it is taken for
    originals = FOLDER   the photographs that they were made from, of the same names; their suffixes may be others

An attacked image goes to the split of its original, so that no photograph lies in two: to that of the job's photograph
which the original is a copy of, or to the split that a hash of the original gives it. Where nobody named the original,
a photograph of the job that looks alike is taken for it (`training.data.likeness`), and the class folder for the
prediction before the attack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from detector.errors import ConfigError, DataError
from detector.text import printable
from training.config import AttackSpec, ImagesConfig, Split
from training.data.copies import UNREADABLE, Memory, Signature, groups_of
from training.data.dealing import in_turns, items_of
from training.data.growth import home_of
from training.data.likeness import likest
from training.data.sources import FolderSource, Item, Source, open_source
from training.data.splits import SplitImages
from training.progress import Progress
from training.shards import derived_seed, digest

__all__ = ["Collected", "collect", "open_collected", "source_name"]

ALIKE = 16
"""Bits by which the difference hashes of a photograph and its attacked version may differ. PGD, FGSM and DeepFool at
8/255 changed at most 15 on 80 CIFAR-10 photographs; the colours keep other photographs apart."""
PREFIX, ORIGINALS = "attacks.", ".originals"
LOSSY = (".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Collected:
    """What one attack of files gives a job."""

    sources: Mapping[str, Source]
    splits: Mapping[Split, SplitImages]
    originals: Mapping[int, Item]
    """Position of an attacked image in its folder → its original."""

    def originals_of(self, items: Sequence[Item]) -> tuple[Item | None, ...]:
        """The original of each attacked image; None where it is not known."""
        return tuple(self.originals.get(item.position) for item in items)


def source_name(spec: AttackSpec, *, originals: bool = False) -> str:
    """The name of its source, which an `Item` bears."""
    return f"{PREFIX}{spec.label}{ORIGINALS if originals else ''}"


def open_collected(config: ImagesConfig, attacks: Sequence[AttackSpec], name: str) -> Source | None:
    """Open the source of that name; None where it is not of a collected attack.

    Raises:
        DataError: It holds no images.
    """
    for spec in attacks:
        for place, originals in ((spec.folder, False), (spec.originals, True)):
            if place is not None and name == source_name(spec, originals=originals):
                try:
                    return open_source(place, config, train=True)
                except DataError as error:
                    raise DataError(f"attack {spec.label!r}: {error}") from error
    return None


def collect(
    spec: AttackSpec,
    config: ImagesConfig,
    splits: Mapping[Split, SplitImages],
    classes: tuple[str, ...],
    seed: int,
    progress: Progress,
    memory: Path | None = None,
    remember: bool = True,
) -> Collected:
    """Deal the images of one attack into the splits of the job's photographs.

    Args:
        spec: The attack; its `folder` is not None.
        config: Whether folders are classes.
        splits: The job's photographs.
        classes: Class names in the order of the logits.
        seed: Decides their order.
        progress: Told of what was left out, and why.
        memory: The file that remembers what images show.
        remember: False reads the file, and writes nothing.

    Raises:
        DataError: A folder holds no images, has a class folder that is no class, or no image has an original.
        ConfigError: Nobody knows what the images showed.
    """
    source = open_collected(config, [spec], source_name(spec))
    beside = open_collected(config, [spec], source_name(spec, originals=True))
    if source is None:
        raise ConfigError(f"attack {spec.label!r}: {spec.name} is no folder of images")
    if not config.labelled and beside is None:
        raise ConfigError(
            f"attack {spec.label!r}: images.labelled is false, and no originals are given, so nobody knows what the "
            "images showed: give parameters = { originals = FOLDER }"
        )
    for note in source.notes:
        progress.note(f"attack {spec.label!r}: {note}")
    items = items_of(source_name(spec), source, classes, 0, f"attack {spec.label!r}: {spec.folder}")
    originals = _originals(spec, source, beside, items)
    known = Memory(memory)
    with progress.task(f"look at {spec.label}", total=len(items)) as advance:
        shown = known.signatures(source, [item.position for item in items], advance)
        if beside is not None:
            at = sorted(originals)
            before = known.signatures(beside, [originals[position].position for position in at], lambda count: None)
            by_original = dict(zip(at, before, strict=True))
            originals = {at: known.named(beside, item, by_original[at]) for at, item in originals.items()}
        else:
            by_original = {}
    readable: list[tuple[Item, Signature]] = []
    unreadable, seen = 0, set()
    for item, signature in sorted(zip(items, shown, strict=True), key=lambda pair: pair[0].position not in by_original):
        original = by_original.get(item.position, signature)
        if UNREADABLE in (signature, original):
            unreadable += 1
        elif signature[0] not in seen:  # nothing counts twice
            readable.append((known.named(source, item, signature), original))
        seen.add(signature[0])
    copies = len(items) - unreadable - len(readable)
    if remember:
        known.store()
    named = [item.position in by_original for item, _ in readable]
    homes = _homes(spec, [signature for _, signature in readable], named, splits, config.near_copies, known)
    placed: dict[Split, list[Item]] = {split: [] for split in splits}
    elsewhere = 0
    for (item, _), (split, index) in zip(readable, homes, strict=True):
        if split in spec.splits:
            placed[split].append(replace(item, index=index))
        else:
            elsewhere += 1
    said = [
        f"attack {spec.label!r}: {len(items)} images of {spec.folder}",
        f"{unreadable} unreadable ones left out",
        *([f"{copies} copies of others left out"] if copies else []),
        f"{elsewhere} left out whose photographs serve another purpose",
        f"{len(items) - len(originals)} without an original, whose class folder is taken for the prediction before",
    ]
    progress.note(", ".join(said))
    _warn_of_files(spec, source, splits, progress)
    sources = {source_name(spec): source} | ({source_name(spec, originals=True): beside} if beside is not None else {})
    return Collected(
        sources,
        {
            split: _split(split, sources, in_turns(some, derived_seed(seed, spec.label)))
            for split, some in placed.items()
        },
        originals,
    )


def _split(split: Split, sources: Mapping[str, Source], items: Sequence[Item]) -> SplitImages:
    # a split without an image has one shard without a row: whoever reads shards finds it
    return SplitImages(split, sources, tuple(items), dealt=None if items else ((0, 0, 0),))


def _originals(spec: AttackSpec, source: Source, beside: Source | None, items: Sequence[Item]) -> dict[int, Item]:
    """Position of an attacked image → its original."""
    if beside is None:
        return {}
    at: dict[str, list[int]] = {}
    for position in range(len(beside)):
        at.setdefault(_stem(beside, position), []).append(position)
    found = {
        item.position: _original(spec, source, item, beside, at[stem])
        for item in items
        if (stem := _stem(source, item.position)) in at
    }
    if not found:
        raise DataError(
            f"attack {spec.label!r}: no image of {spec.folder} has an original in {spec.originals}: expected the same "
            f"names, such as {printable(_stem(source, 0))}, and found {printable(_stem(beside, 0))}"
        )
    return {
        item.position: replace(
            item,
            source=source_name(spec, originals=True),
            position=found[item.position],
            name=beside.name(found[item.position]),
            fingerprint=beside.fingerprint(found[item.position]),
        )
        for item in items
        if item.position in found
    }


def _original(spec: AttackSpec, source: Source, item: Item, beside: Source, named: Sequence[int]) -> int:
    """The one of that name, or of several the one whose suffix is the same, too."""
    same = [position for position in named if _path(beside, position) == _path(source, item.position)]
    if len(named) > 1 and not same:
        several = " and ".join(printable(_path(beside, position)) for position in named[:2])
        raise DataError(
            f"attack {spec.label!r}: {item.name} may have been made from {several} of {spec.originals}: expected one "
            "original of its name, rename or remove the others"
        )
    return (same or list(named))[0]


def _path(source: Source, position: int) -> str:
    """A file's place in its folder."""
    return source.fingerprint(position).rpartition(":")[0]


def _stem(source: Source, position: int) -> str:
    """A file's place in its folder, without its suffix."""
    return str(Path(_path(source, position)).with_suffix(""))


def _homes(
    spec: AttackSpec,
    signatures: Sequence[Signature],
    named: Sequence[bool],
    splits: Mapping[Split, SplitImages],
    near: int,
    known: Memory,
) -> list[tuple[Split | str, int]]:
    """Split and id of the photograph that each image shows; a photograph of nobody's is given both.

    Where the original is named, it is the signature's, and copies are what they are everywhere; otherwise the signature
    is the attacked image's own, and what looks alike is taken for the same.
    """
    there: list[tuple[Split, Item]] = []
    shown: list[Signature] = []
    for split, images in splits.items():
        for name, photographs in images.sources.items():
            some = [item for item in images.items if item.source == name]
            there += [(split, item) for item in some]
            shown += known.signatures(photographs, [item.position for item in some], lambda count: None)
    groups = {sure: groups_of([*shown, *signatures], near if sure else max(near, ALIKE)) for sure in {*named}}
    homes: dict[bool, dict[int, tuple[Split, int]]] = {sure: {} for sure in groups}
    for sure, found in groups.items():
        for (split, item), group in zip(there, found, strict=False):
            homes[sure].setdefault(group, (split, item.index))
    if False in groups:  # what was changed too much for a copy may still be known again
        found, unnamed = groups[False], [at for at, sure in enumerate(named) if not sure]
        for at, photograph in zip(unnamed, likest([signatures[at] for at in unnamed], shown, found), strict=True):
            if photograph is not None:
                split, item = there[photograph]
                homes[False].setdefault(found[len(there) + at], (split, item.index))
    sizes = {split: len(images) for split, images in splits.items() if split in spec.splits}
    shares = {split: count / max(1, sum(sizes.values())) for split, count in sizes.items()}
    first: dict[tuple[bool, int], str] = {}

    def home(at: int, sure: bool) -> tuple[Split | str, int]:
        group = groups[sure][len(there) + at]
        identity = first.setdefault((sure, group), signatures[at][0])
        drawn = home_of(identity, shares), int(digest(["collected", identity])[:15], 16)
        return homes[sure].get(group) or drawn

    return [home(at, sure) for at, sure in enumerate(named)]


def _warn_of_files(spec: AttackSpec, source: Source, splits: Mapping[Split, SplitImages], progress: Progress) -> None:
    """Say where the kind of file alone tells attacked images from others."""
    photographs = next(iter(splits.values())).sources.get("source")
    if not isinstance(source, FolderSource) or not isinstance(photographs, FolderSource):
        return
    attacked, clean = ({path.suffix.lower() in LOSSY for path in each.paths} for each in (source, photographs))
    if len(attacked) == len(clean) == 1 and attacked != clean:
        kinds = ("compressed with loss", "lossless")
        one, other = (kinds[not each.pop()] for each in (attacked, clean))
        progress.note(
            f"attack {spec.label!r}: its images are {one}, the photographs {other}: a detector can learn to tell such "
            "files apart (docs/attacks.md)"
        )
