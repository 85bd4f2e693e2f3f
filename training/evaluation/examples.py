"""Pictures for the report, judged by the detector: typical images of the test split, and those it judges worst.

`examples` does not choose by verdict: of every attack, the first successes in the order of the shards.
`worst_examples` does: of every attack, the success that looks least attacked.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detector.detector import Detector, Verdict
from training.config import CLEAN, TrainingConfig
from training.evaluation.pictures import Row
from training.evaluation.scores import Scored
from training.shards import list_shards, read_shard

__all__ = ["examples", "pixels", "worst_examples"]


def examples(config: TrainingConfig, detector: Detector, *, rate: float, count: int = 1) -> list[Row]:
    """`count` rows for every attack and one for the largest noise twins.

    Args:
        config: names the work folder and its attacks.
        detector: judges clean and attacked images.
        rate: false-positive rate at which an image counts as flagged.
        count: rows an attack.
    """
    rows: list[Row] = []
    skip = 0  # so that attacks do not all show the same photograph
    twins = sorted(config.twins.labels, key=config.twins.labels.__getitem__)[-1:]
    for label in (*(attack.label for attack in config.attacks), *twins):
        attacked = label not in twins
        found = _first(config, label, skip, count, successes_only=attacked)
        clean = _images(config, CLEAN, found)
        skip += count
        for index, (shard, row) in found.items():
            if index not in clean:
                continue
            pair = torch.stack([clean[index], shard["images"][row]])
            before, after = detector.detect(pair.float() / 255)
            rows.append(_row(label, pair, before, after, detector.classifier.classes, attacked, rate))
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
            pair = torch.stack([_images(config, each, [source])[source] for each in (CLEAN, label)])
            before, after = detector.detect(pair.float() / 255)
            rows.append(_row(label, pair, before, after, detector.classifier.classes, label != CLEAN, rate))
    return rows


def _source(scored: Scored, *, lowest: bool) -> int | None:
    """The source image with the lowest or highest attack score; None when there is no image."""
    if not len(scored):
        return None
    return int(scored.source[scored.score.argmin() if lowest else scored.score.argmax()])


def pixels(image: Tensor) -> NDArray[np.uint8]:
    """(3, H, W) uint8 to (H, W, 3)."""
    return image.permute(1, 2, 0).contiguous().numpy()


def _row(
    label: str, pair: Tensor, before: Verdict, after: Verdict, classes: tuple[str, ...], attacked: bool, rate: float
) -> Row:
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


def _first(
    config: TrainingConfig, label: str, skip: int, count: int, *, successes_only: bool
) -> dict[int, tuple[dict[str, Tensor], int]]:
    """Source image → (shard, row) of the first rows after `skip` from the first shard that has any."""
    for path in list_shards(config.work, "attack", "test", label):
        shard = read_shard(path)
        changed = shard["prediction"] != shard["origin"]
        rows = changed.nonzero()[:, 0] if successes_only else torch.arange(len(changed))
        if len(rows):
            start = skip % len(rows)
            return {int(shard["index"][row]): (shard, int(row)) for row in rows[start : start + count]}
    return {}


def _images(config: TrainingConfig, label: str, wanted: Collection[int]) -> dict[int, Tensor]:
    """What one label made of these source images."""
    found: dict[int, Tensor] = {}
    for path in list_shards(config.work, "attack", "test", label):
        if len(found) == len(wanted):
            break
        shard = read_shard(path)
        for row, index in enumerate(shard["index"].tolist()):
            if index in wanted:
                found[index] = shard["images"][row]
    return found
