"""Pictures for the report, judged by the detector: typical images of the test split, and those it judges worst.

`examples` does not choose by verdict: of every attack, the first successes in the order of the shards.
`worst_examples` does: of every attack, the success that looks least attacked.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detector.detector import Detector
from detector.errors import DataError
from training.config import CLEAN, TrainingConfig
from training.evaluation.pictures import Row
from training.evaluation.scores import Scored
from training.shards import list_shards, read_columns

__all__ = ["examples", "pixels", "worst_examples"]


def examples(config: TrainingConfig, detector: Detector, *, rate: float) -> list[Row]:
    """A row for every attack and one for the largest noise twins.

    Args:
        config: names the work folder and its attacks.
        detector: judges clean and attacked images.
        rate: false-positive rate at which an image counts as flagged.
    """
    rows: list[Row] = []
    twins = sorted(config.twins.labels, key=config.twins.labels.__getitem__)[-1:]
    for number, label in enumerate((*(attack.label for attack in config.attacks), *twins)):
        # not always the first, so that attacks do not all show the same photograph
        source = _source_of(config, label, number, successes_only=label not in twins)
        if source is not None:
            rows.append(_judged(config, detector, label, source, label not in twins, rate))
    return rows


def worst_examples(
    config: TrainingConfig, detector: Detector, scores: Mapping[str, Scored], *, rate: float
) -> list[Row]:
    """Of every attack the success with the lowest score; of rightly classified clean images the one with the highest.

    Args:
        config: names the work folder and its attacks.
        detector: judges the images.
        scores: label to the detector's answers, clean images among them.
        rate: false-positive rate at which an image counts as flagged.
    """
    clean = scores[CLEAN][scores[CLEAN].correct]
    worst = {attack.label: _source(scores[attack.label], lowest=True) for attack in config.attacks}
    worst[CLEAN] = _source(clean, lowest=False)
    rows = []
    for label, source in worst.items():
        if source is not None:
            rows.append(_judged(config, detector, label, source, label != CLEAN, rate))
    return rows


def _source(scored: Scored, *, lowest: bool) -> int | None:
    """The source image with the lowest or highest attack score; None when there is no image."""
    if not len(scored):
        return None
    return int(scored.source[scored.score.argmin() if lowest else scored.score.argmax()])


def pixels(image: Tensor) -> NDArray[np.uint8]:
    """(3, H, W) uint8 to (H, W, 3)."""
    return image.permute(1, 2, 0).contiguous().numpy()


def _judged(config: TrainingConfig, detector: Detector, label: str, source: int, attacked: bool, rate: float) -> Row:
    """What the detector says of one image before and after."""
    pair = torch.stack([_image(config, each, source) for each in (CLEAN, label)])
    before, after = detector.detect(pair.float() / 255)
    classes = detector.classifier.classes
    return Row(
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


def _source_of(config: TrainingConfig, label: str, number: int, *, successes_only: bool) -> int | None:
    """The source image of a row, counted round, of the first shard that has any; None where no shard has."""
    for path in list_shards(config.work, "attack", "test", label):
        shard = read_columns(path, ("index", "prediction", "origin"))
        found = shard["index"][shard["prediction"] != shard["origin"]] if successes_only else shard["index"]
        if len(found):
            return int(found[number % len(found)])
    return None


def _image(config: TrainingConfig, label: str, source: int) -> Tensor:
    """What one label made of a source image."""
    for path in list_shards(config.work, "attack", "test", label):
        rows = (read_columns(path, ("index",))["index"] == source).nonzero()[:, 0]
        if len(rows):
            return read_columns(path, ("images",))["images"][rows[0]]
    raise DataError(f"no shard of test/{label} holds image {source}: run `heatward train attack` again")
