"""Trains a baseline CNN: attack shards of the fit split in, `Baseline` out, its weights kept for a resumed run.

The CNNs learn what the detector learns: the family (clean images and noise twins are family 0) and, from attacks that
changed the prediction, the origin label. What a CNN looks at is computed once and kept on disk, so that memory holds
one shard of each label and an epoch costs no backward pass through the classifier.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from detector.errors import DataError
from training.evaluation.baselines import Baseline, Cnn, Sight, look
from training.progress import Progress, SilentProgress
from training.settings import BaselineSettings
from training.shards import digest, digest_of, read_shard, write_shard

__all__ = ["train_baseline"]

LARGEST_HALF = 6e4


def train_baseline(
    sight: Sight,
    shards: Mapping[str, Sequence[Path]],
    family_of: Mapping[str, int],
    settings: BaselineSettings,
    *,
    parameters: int,
    folder: Path,
    device: torch.device,
    seed: int = 0,
    progress: Progress | None = None,
) -> Baseline:
    """Train one CNN, or read it back when `folder` holds the one that these settings and shards give.

    Args:
        sight: what the CNN looks at.
        shards: label to its attack shards of the fit split.
        family_of: label to family number; 0 for clean images and noise twins.
        settings: the schedule.
        parameters: wanted size: that of the heatmap network.
        folder: where weights go, and for a while what the CNN was shown.
        device: where to train.
        seed: of weights and order.
        progress: told of shards looked at and of rounds.

    Raises:
        DataError: no row can teach: no clean image and no attack that succeeded.
    """
    progress = progress or SilentProgress()
    made_from = [digest_of(path) for label in sorted(shards) for path in shards[label]]
    schedule = settings.model_dump(mode="json", exclude={"names", "test_images"})  # they change no weight
    says = [sight.name, sight.channels, schedule, parameters, seed, dict(family_of), made_from]
    stamp = digest(says)
    torch.manual_seed(seed)
    network = Cnn.of_size(parameters, sight.channels, max(family_of.values()), sight.origins).to(device)
    weights = folder / f"{sight.name}.safetensors"
    if digest_of(weights) == stamp:
        network.load_state_dict(read_shard(weights))
        return Baseline(sight, network.eval())

    shown_at = folder / f"{sight.name}-inputs"
    shown: dict[str, list[Path]] = {}
    with progress.task(f"baseline {sight.name}: look", sum(map(len, shards.values())), unit="shards") as advance:
        for label, paths in shards.items():
            files = _show(sight, paths, family_of[label], settings.fit_images, shown_at / label, device, stamp)
            if files:
                shown[label] = files
            advance(len(paths))
    if not shown:
        raise DataError("no row of the fit split can train a baseline: no clean image and no attack that succeeded")
    _optimise(network, shown, settings, device, seed, progress, f"baseline {sight.name}: fit")
    write_shard(weights, network.state_dict(), stamp)
    shutil.rmtree(shown_at)
    return Baseline(sight, network.eval())


def _show(
    sight: Sight, paths: Sequence[Path], family: int, limit: int, folder: Path, device: torch.device, stamp: str
) -> list[Path]:
    """Look at the rows of one label that teach: all of a clean label, the successes of an attack."""
    files = []
    for path in paths:
        if limit <= 0:
            break
        shard = read_shard(path)
        teaches = (
            shard["prediction"] != shard["origin"] if family else torch.ones_like(shard["index"], dtype=torch.bool)
        )
        chosen = teaches.nonzero()[:limit, 0]
        limit -= len(chosen)
        if len(chosen) == 0:
            continue
        target = folder / path.name
        files.append(target)
        if digest_of(target) == stamp:
            continue
        seen = [look(sight, shard["images"][part], device) for part in torch.split(chosen, 128)]
        inputs, classes = (torch.cat([pair[at].cpu() for pair in seen]) for at in (0, 1))
        write_shard(
            target,
            {
                "inputs": inputs.clamp(-LARGEST_HALF, LARGEST_HALF).half(),
                "origin": _position(classes, shard["origin"][chosen]) if family else torch.full((len(chosen),), -1),
                "family": torch.full((len(chosen),), family),
            },
            stamp,
        )
    return files


def _position(classes: Tensor, origin: Tensor) -> Tensor:
    """Where each origin stands among its row's classes (n, C); -1, which teaches nothing, where it is not."""
    found = classes == origin[:, None]
    return torch.where(found.any(1), found.int().argmax(1), -1)


def _optimise(
    network: Cnn,
    shown: Mapping[str, Sequence[Path]],
    settings: BaselineSettings,
    device: torch.device,
    seed: int,
    progress: Progress,
    title: str,
) -> None:
    """One shard of every label makes a round, so that batches are mixed and labels count alike."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    rounds = max(len(files) for files in shown.values())
    total = settings.epochs * rounds
    first = torch.cat([read_shard(files[0])["inputs"].float().flatten() for files in shown.values()])
    network.scale.fill_(max(float(first.square().mean().sqrt()), 1e-6))
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=1e-2)
    network.train()
    with progress.task(title, total, unit="rounds") as advance:
        for step in range(total):
            turn = step % rounds
            if turn == 0:
                order = {label: torch.randperm(len(files), generator=generator) for label, files in shown.items()}
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * step / total))
            parts = [read_shard(files[int(order[label][turn % len(files)])]) for label, files in shown.items()]
            inputs, origin, family = (
                torch.cat([part[key] for part in parts]) for key in ("inputs", "origin", "family")
            )
            for rows in torch.split(torch.randperm(len(family), generator=generator), settings.batch_size):
                if len(rows) > 1:  # batch statistics of one image are undefined
                    loss = _loss(network, inputs[rows].float(), family[rows], origin[rows], device)
                    optimiser.zero_grad(set_to_none=True)
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimiser.step()
            advance(1)


def _loss(network: Cnn, inputs: Tensor, family: Tensor, origin: Tensor, device: torch.device) -> Tensor:
    family_logits, origin_logits = network(inputs.to(device))
    loss = functional.cross_entropy(family_logits, family.to(device))
    taught = (origin >= 0).to(device)
    if bool(taught.any()):
        loss = loss + functional.cross_entropy(origin_logits[taught], origin.to(device)[taught])
    return loss
