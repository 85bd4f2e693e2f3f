"""Images for the report, judged by the detector: typical ones of the test split, and those it judges worst.

They are left as data, in `examples.safetensors`: whoever draws them needs neither detector nor shards. `first_sources`
does not choose by verdict: of every attack, a success in the order of the shards. `worst_sources` does: of every
attack, the success that looks least attacked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from detector.detector import Detector, Verdict
from detector.errors import DataError
from detector.files import write_file
from training.config import CLEAN, TrainingConfig
from training.evaluation.scores import Scored
from training.shards import list_shards, read_columns, read_shard

__all__ = [
    "FILE",
    "Example",
    "examples",
    "first_sources",
    "pixels",
    "read_examples",
    "worst_sources",
    "write_examples",
]

FILE = "examples.safetensors"
ARRAYS = ("clean", "sent", "heat_before", "heat_after")


@dataclass(frozen=True)
class Example:
    """One image, clean and as it was sent, and what was said about both."""

    title: str
    """What was done to it, e.g. `PGD 8/255`."""
    clean: NDArray[np.uint8]  # (H, W, 3)
    sent: NDArray[np.uint8]  # (H, W, 3)
    heat_before: NDArray[np.float32]  # (g, g), signed, of the label predicted for the clean image
    heat_after: NDArray[np.float32]  # (g, g), signed, of the label predicted for the sent image
    label_before: str
    label_after: str
    probability_before: float
    probability_after: float
    flagged: bool
    p_value: float
    attacked: bool
    recovered: str = ""
    """The label found back; shown for attacked images that were flagged."""


def write_examples(folder: Path, groups: Mapping[str, Sequence[Example]]) -> None:
    """Write groups of examples by their names: arrays as such, words and numbers in the header."""
    arrays: dict[str, NDArray[Any]] = {}
    said: dict[str, list[dict[str, Any]]] = {}
    for group, rows in groups.items():
        arrays |= {f"{group}/{at}/{name}": getattr(row, name) for at, row in enumerate(rows) for name in ARRAYS}
        said[group] = [{name: value for name, value in vars(row).items() if name not in ARRAYS} for row in rows]
    write_file(folder / FILE, save(arrays, metadata={"examples": json.dumps(said)}))


def read_examples(folder: Path) -> dict[str, list[Example]]:
    """The groups of examples that an evaluation left.

    Raises:
        DataError: There are none.
    """
    try:
        with safe_open(str(folder / FILE), "np") as file:
            said = json.loads(file.metadata()["examples"])
            return {
                group: [
                    Example(**row, **{name: file.get_tensor(f"{group}/{at}/{name}") for name in ARRAYS})
                    for at, row in enumerate(rows)
                ]
                for group, rows in said.items()
            }
    except (OSError, SafetensorError) as error:
        raise DataError(f"{folder / FILE}: cannot be read ({error}); run `heatward train evaluate` again") from error


def first_sources(config: TrainingConfig) -> dict[str, int | None]:
    """A source image for every attack, one that it fooled, and for the largest noise twins: each time another one."""
    attacks = [attack.label for attack in config.every_attack]
    twins = sorted(config.twins.labels, key=config.twins.labels.__getitem__)[-1:]
    labels = enumerate((*attacks, *twins))
    return {label: _first(config, label, skip, successes_only=label in attacks) for skip, label in labels}


def worst_sources(config: TrainingConfig, scores: Mapping[str, Scored]) -> dict[str, int | None]:
    """Of every attack the success with the lowest score; of rightly classified clean images the one with the highest.

    Args:
        config: names the attacks.
        scores: label to the detector's answers, clean images among them.
    """
    clean = scores[CLEAN][scores[CLEAN].correct]
    attacks = {attack.label: scores[attack.label] for attack in config.every_attack}
    worst = {label: int(each.source[each.score.argmin()]) if len(each) else None for label, each in attacks.items()}
    return {**worst, CLEAN: int(clean.source[clean.score.argmax()]) if len(clean) else None}


def examples(
    config: TrainingConfig, detector: Detector, sources: Mapping[str, int | None], *, rate: float
) -> list[Example]:
    """One example a label, judged clean and as the label made it.

    Args:
        config: names the work folder and its attacks.
        detector: judges the images.
        sources: label to source image; None where it has none.
        rate: false-positive rate at which an image counts as flagged.
    """
    attacks = {attack.label for attack in config.every_attack}
    shown = []
    for label, source in sources.items():
        clean = None if source is None else _image(config, CLEAN, source)
        if source is not None and clean is not None:  # collected images may show what no photograph of the job shows
            pair = torch.stack([clean, _sent(config, label, source)])
            before, after = detector.detect(pair.float() / 255)
            shown.append(_example(label, pair, before, after, detector.classifier.classes, label in attacks, rate))
    return shown


def pixels(image: Tensor) -> NDArray[np.uint8]:
    """(3, H, W) uint8 to (H, W, 3)."""
    return image.permute(1, 2, 0).contiguous().numpy()


def _example(
    label: str, pair: Tensor, before: Verdict, after: Verdict, classes: tuple[str, ...], attacked: bool, rate: float
) -> Example:
    return Example(
        title=label,
        clean=pixels(pair[0]),
        sent=pixels(pair[1]),
        heat_before=before.heatmap,
        heat_after=after.heatmap,
        label_before=classes[before.label],
        label_after=classes[after.label],
        probability_before=before.probability,
        probability_after=after.probability,
        flagged=after.p_value <= rate,
        p_value=after.p_value,
        attacked=attacked,
        recovered=classes[after.recovered[0][0]],
    )


def _first(config: TrainingConfig, label: str, skip: int, *, successes_only: bool) -> int | None:
    """Source of the first row after `skip` from the first shard that has any."""
    for path in list_shards(config.work, "attack", "test", label):
        shard = read_columns(path, ("index", "prediction", "origin"))
        fits = shard["index"][shard["prediction"] != shard["origin"]] if successes_only else shard["index"]
        if len(fits):
            return int(fits[skip % len(fits)])
    return None


def _sent(config: TrainingConfig, label: str, source: int) -> Tensor:
    found = _image(config, label, source)
    if found is None:
        raise DataError(f"no {label} image of source {source} in {config.work}: run `heatward train attack` again")
    return found


def _image(config: TrainingConfig, label: str, source: int) -> Tensor | None:
    """What one label made of a source image: (3, H, W) uint8; None where it made nothing of it."""
    for path in list_shards(config.work, "attack", "test", label):
        rows = (read_columns(path, ("index",))["index"] == source).nonzero()[:, 0]
        if len(rows):
            return read_shard(path)["images"][int(rows[0])]
    return None
