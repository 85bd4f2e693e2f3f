"""Maps for which_heatmap.py: attack shards in; one map per image out, resampled to 32 × 32 and kept on disk.

A map is of the PREDICTED class, never of the truth. Shards of maps lie at `work/<config>/maps/<method>/<split>/<label>`
and carry the digest of images, classifier and settings (the method's defaults included): a killed run goes on, changed
settings compute again. Below: the mask that a map stands for, and what the classifier says once it is applied.
"""

from __future__ import annotations

import hashlib
import inspect
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2.functional import gaussian_blur

from detector.classifier import Classifier
from detector.errors import ConfigError, DataError
from detector.heatmaps import METHODS, Heatmap, Method
from detector.heatmaps.masks import blend
from detector.heatmaps.reference import Reference, cover
from training.config import CLEAN, Split
from training.job import Job
from training.resume import ShardResults
from training.shards import digest, digest_of, list_shards, read_shard, shard_path, write_shard

SIDE = 32
FORMAT = 1
MASKS = ("meaningful", "extremal")
NO_MAP = "logits"
RANDOM, WHOLE = "control: a random place", "control: all blurred (deleted), as attacked (kept)"
SMALL = 64  # pixels a side: up to here everything costs little
REFERENCE: Reference = "blur"  # what replaces pixels when a mask is applied; the learned masks' own default


@dataclass(frozen=True)
class Case:
    """Images of one split and label."""

    split: Split
    label: str
    images: Tensor  # (n, 3, H, W) uint8
    index: Tensor  # (n,) source image
    origin: Tensor  # (n,) prediction on the clean image

    def __len__(self) -> int:
        return len(self.index)

    def of(self, sources: Tensor) -> Tensor:
        """Rows of these source images, in their order."""
        row_of = {int(source): row for row, source in enumerate(self.index)}
        return torch.tensor([row_of[int(source)] for source in sources])


@dataclass(frozen=True)
class Maps:
    """Maps of a case, float32, never rescaled."""

    signed: Tensor  # (n, SIDE, SIDE): mean of the map over each cell
    size: Tensor  # (n, SIDE, SIDE): mean of |map|
    seconds: float  # CPU time of all n


def read_cases(job: Job, attacks: Sequence[str], twin: str | None, counts: Mapping[Split, int]) -> list[Case]:
    """Successful attacks on rightly classified images, the first `counts` of each split; the same images clean.

    Raises:
        DataError: The attack stage is not finished, or an attack has no success.
    """
    ShardResults("attack", job).require()
    cases = []
    for split, count in counts.items():
        attacked = [_read(job, split, label, count, successes=True) for label in attacks]
        sources = torch.cat([case.index for case in attacked]).unique()
        clean = _read(job, split, CLEAN, None)
        cases += [_rows(clean, torch.isin(clean.index, sources)), *attacked]
        if split == "test" and twin is not None:
            cases.append(_read(job, split, twin, count))
    return cases


def _read(job: Job, split: Split, label: str, count: int | None, *, successes: bool = False) -> Case:
    shards = [read_shard(path) for path in list_shards(job.work, "attack", split, label)]
    rows = {name: torch.cat([shard[name] for shard in shards]) for name in shards[0]}
    chosen = (rows["truth"] == rows["origin"]) | (rows["truth"] < 0)
    if successes:
        chosen &= rows["prediction"] != rows["origin"]
    if not chosen.any():
        raise DataError(f"{split}/{label}: no successful attack on a rightly classified image; name other --attacks")
    return _rows(Case(split, label, rows["images"], rows["index"], rows["origin"]), chosen.nonzero()[:count, 0])


def _rows(case: Case, rows: Tensor) -> Case:
    return Case(case.split, case.label, case.images[rows], case.index[rows], case.origin[rows])


def logits_as_map(classifier: Classifier, images: Tensor, classes: Tensor | None = None) -> Heatmap:
    """No heatmap, a control: the highest logit on the left, its lead over the second on the right; (B, 1, 2, 2)."""
    with torch.no_grad():
        logits = classifier(images)
    first, second = logits.topk(2, dim=1).values.unbind(1)
    return Heatmap(logits, torch.stack([first, first - second], 1)[:, None, None].expand(-1, 1, 2, 2))


CONTESTANTS: dict[str, Method] = {NO_MAP: logits_as_map, **METHODS}


def is_mask(method: str) -> bool:
    """Whether its maps are masks: in [0, 1], to be applied as they are."""
    return method in MASKS


def is_large(classifier: Classifier) -> bool:
    """Whether its images are so large that maps must be made with fewer forwards."""
    return max(classifier.input_size) > SMALL


def settings_of(method: str, classifier: Classifier) -> dict[str, Any]:
    """All settings of a method, its own defaults included.

    Raises:
        ConfigError: No such method.
    """
    if method not in CONTESTANTS:
        raise ConfigError(f"method {method!r} is not known; known: {', '.join(CONTESTANTS)}")
    large = is_large(classifier)
    chosen: dict[str, dict[str, Any]] = {
        "integrated_gradients": {"steps": 8 if large else 16},
        "occlusion": {"grid": 7 if large else 8},
        "rise": {"samples": 64},
    }
    parameters = inspect.signature(CONTESTANTS[method]).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY}
    return defaults | chosen.get(method, {})


def compute(job: Job, method: str, cases: Sequence[Case]) -> list[Maps]:
    """The maps of every case, read where they are, made where they are not."""
    settings = settings_of(method, job.classifier)
    plans = [list(_plan(job, method, settings, case)) for case in cases]
    rows = sum(map(len, cases))
    left = sum(len(images) for plan in plans for path, stamp, images in plan if digest_of(path) != stamp)
    with job.progress.task(f"maps {method}", total=rows, done=rows - left, unit="maps") as advance:
        for plan in plans:
            for path, stamp, images in plan:
                if digest_of(path) != stamp:
                    write_shard(path, _make(job.classifier, method, settings, images), stamp)
                    advance(len(images))
    return [_join([read_shard(path) for path, _, _ in plan]) for plan in plans]


def _plan(job: Job, method: str, settings: dict[str, Any], case: Case) -> Iterator[tuple[Path, str, Tensor]]:
    for number, images in enumerate(torch.split(case.images, job.config.batch_size)):
        pixels = hashlib.sha256(images.contiguous().numpy().data).hexdigest()
        told = [FORMAT, SIDE, job.classifier.fingerprint, method, settings, pixels]
        yield shard_path(job.work / "maps", method, case.split, case.label, number), digest(told), images


def _make(classifier: Classifier, method: str, settings: dict[str, Any], images: Tensor) -> dict[str, Tensor]:
    start = time.process_time()
    maps = CONTESTANTS[method](classifier, images.to(classifier.device).float() / 255, None, **settings).maps[:, 0]
    seconds = time.process_time() - start
    maps = maps.detach().float().cpu()
    return {
        "signed": resample(maps).half(),
        "size": resample(maps.abs()).half(),
        "seconds": torch.tensor(seconds),
    }


def _join(shards: Sequence[Mapping[str, Tensor]]) -> Maps:
    signed, size = (torch.cat([shard[name] for shard in shards]).float() for name in ("signed", "size"))
    return Maps(signed, size, float(sum(shard["seconds"] for shard in shards)))


def resample(maps: Tensor) -> Tensor:
    """(n, h, w) to (n, SIDE, SIDE): means over cells where the map is larger, interpolated where it is smaller."""
    larger = max(maps.shape[1:]) >= SIDE
    way: dict[str, Any] = {"mode": "area"} if larger else {"mode": "bilinear", "align_corners": False}
    return functional.interpolate(maps[:, None], (SIDE, SIDE), **way)[:, 0]


def top_area(maps: Tensor, share: float) -> Tensor:
    """The mask that a map stands for: 1 on the `share` of the area with most evidence, smooth edges; (n, s, s)."""
    smooth = gaussian_blur(maps[:, None], [7, 7], [1.5, 1.5]).flatten(1)
    best = smooth.topk(max(1, round(share * smooth.shape[1])), dim=1).indices
    hard = torch.zeros_like(smooth).scatter_(1, best, 1.0).view(len(maps), 1, *maps.shape[1:])
    return gaussian_blur(hard, [5, 5], [1.0, 1.0])[:, 0]


def ranks(classifier: Classifier, case: Case, masks: Tensor, batch_size: int) -> dict[str, Tensor]:
    """How many classes score above the origin label once the mask is applied: (n,) each for "keep" and "delete".

    Args:
        classifier: Classifies again.
        case: Attacked images and their origin labels.
        masks: (n, s, s) in [0, 1], 1 = evidence. Pixels outside it (keep) or inside it (delete) are blurred.
        batch_size: Images a forward.
    """
    found: dict[str, list[Tensor]] = {"keep": [], "delete": []}
    parts = (torch.split(each, batch_size) for each in (case.images, masks, case.origin))
    with torch.no_grad():
        for pixels, mask, origin in zip(*parts, strict=True):
            images = pixels.to(classifier.device).float() / 255
            covers = cover(images, REFERENCE)
            kept = functional.interpolate(mask[:, None].to(images), images.shape[2:], mode="bilinear")[:, 0].clamp(0, 1)
            for way, weight in (("keep", kept), ("delete", 1 - kept)):
                logits = classifier(blend(images, covers, weight)).cpu()
                found[way].append((logits > logits.gather(1, origin[:, None])).sum(1))
    return {way: torch.cat(each) for way, each in found.items()}


def control_masks(count: int, share: float, seed: int) -> dict[str, Tensor]:
    """Masks that know nothing of the image: what masking alone is worth."""
    noise = torch.randn(count, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    smooth = gaussian_blur(noise[:, None], [25, 25], [4.0, 4.0])[:, 0]
    return {RANDOM: top_area(smooth, share), WHOLE: torch.ones(count, SIDE, SIDE)}
