"""What is attacked: a folder of photographs, one folder a class, in; those that the classifier gets right out.

Photographs are brought to the classifier's size as `heatward detect` would; attacks change what the classifier sees.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from detector.classifier import Classifier
from detector.errors import ConfigError, DataError
from detector.text import printable
from training.data.sources import FolderSource
from training.evaluation.metrics import Estimate
from training.redteam.oracles import ClassifierOracle
from training.redteam.statistics import share
from training.shards import digest

__all__ = ["Targets", "find_targets"]

LOOKED_AT = 4
"""Times the images wanted are looked at, at most, for those that are right."""
BATCH = 64


@dataclass(frozen=True)
class Targets:
    """N images that the classifier gets right."""

    images: Tensor  # (N, 3, H, W) float32, multiples of 1/255
    truth: Tensor  # (N,)
    accuracy: Estimate
    """Of all that were looked at."""
    notes: tuple[str, ...] = ()
    """What the user should know of the folder, a line each."""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def digest(self) -> str:
        """Tells one set of images from another."""
        pixels = self.images.mul(255).round().to(torch.uint8).numpy().tobytes()
        return digest([pixels.hex(), self.truth.tolist()])

    def __getitem__(self, rows: slice | Tensor) -> Targets:
        """Some of them."""
        return Targets(self.images[rows], self.truth[rows], self.accuracy)


def find_targets(folder: Path, classifier: Classifier, count: int, seed: int) -> Targets:
    """Draw images until enough are right.

    Raises:
        ConfigError: No class folder has the name of a class.
        DataError: The folder cannot be used, or the classifier gets no image right.
    """
    source = FolderSource(folder, of_settings=False)
    known = {name: at for at, name in enumerate(classifier.classes)}
    if not set(source.class_names) & known.keys():
        raise ConfigError(
            f"--images {folder}: its folders are {_some(source.class_names)}, the classes of the bundle "
            f"{_some(classifier.classes)}: name each folder as its class"
        )
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed)).tolist()
    labelled = [place for place in order if source.class_names[source.group(place)] in known]
    oracle, images, truth, looked, right = ClassifierOracle(classifier), [], [], 0, 0
    for start in range(0, min(len(labelled), LOOKED_AT * count + BATCH), BATCH):
        places = labelled[start : start + BATCH]
        batch = torch.stack([classifier.prepare(source.pixels(place)) for place in places])
        label = torch.tensor([known[source.class_names[source.group(place)]] for place in places])
        good = oracle.ask(batch).label == label
        images.append(batch[good])
        truth.append(label[good])
        looked, right = looked + len(places), right + int(good.sum())
        if right >= count:
            break
    if not right:
        raise DataError(
            f"--images {folder}: the classifier gets none of {looked} images right, so there is nothing to attack: see "
            "that each lies in the folder of its class, and that the bundle is the one for these images"
        )
    strange = tuple(sorted(set(source.class_names) - known.keys()))
    lacking = tuple(name for name in classifier.classes if name not in source.class_names)
    notes = [
        *source.notes,
        *([f"folders that are no class of the bundle are left out: {_some(strange)}"] if strange else []),
        *([f"no folder shows these classes of the bundle: {_some(lacking)}"] if lacking else []),
    ]
    return Targets(torch.cat(images)[:count], torch.cat(truth)[:count], share(right, looked), tuple(notes))


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(printable(name) for name in names[:5]) + (", …" if len(names) > 5 else "")
