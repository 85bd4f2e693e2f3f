"""Fit the heatmap networks: attribution shards of the split `fit` in, `network.safetensors` and `network.json` out.

The same seed gives the same bytes; a killed fit starts again from the shards.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional

from detector.bundle import Bundle
from detector.errors import DataError
from detector.files import write_file
from detector.scoring.network import EvidenceShape, HeatmapNetwork, NetworkSettings, ensemble_weights
from training.config import CLEAN, TrainingConfig
from training.fitting.rows import EvidenceFilter, RowFilter, Rows, ShardReader
from training.job import Job
from training.progress import Progress
from training.resume import Results
from training.runners.worker import device_of
from training.shards import derived_seed, digest, seed_everything, write_json

__all__ = ["fit_networks", "load_networks", "results"]

NETWORK = "network.safetensors"
DESCRIPTION = "network.json"
FILES = (NETWORK, DESCRIPTION)
IGNORE = -100
UNHARMED_SHARDS = 16  # a label, for what is usual


def results(job: Job, folder: Path, name: str = "fit") -> Results:
    """The networks in `folder`, with the digest of everything that decides them."""
    config, settings = job.config, job.config.fit.model_dump(mode="json")
    families = {label: config.family_of(label) for label in config.labels("fit")}
    told = [job.digests("attribute", "fit"), settings, families, config.families, config.seed]
    if job.start is not None:
        told.append({"start": job.start.manifest.files[NETWORK]})
        if job.start_epochs is not None:
            told.append({"epochs": job.start_epochs})
    return Results(name, folder, FILES, digest(told))


def fit_networks(
    config: TrainingConfig,
    work: Path,
    progress: Progress,
    folder: Path,
    keep: EvidenceFilter = lambda evidence: evidence,
    *,
    learns: RowFilter | None = None,
    start: Bundle | None = None,
    epochs: int | None = None,
) -> None:
    """Fit the ensemble and write it.

    Args:
        config: `[fit]`, the seed, and the attacks to learn from.
        work: Holds the attribution shards.
        progress: Told of images seen and of losses.
        folder: Where the networks go.
        keep: What of the evidence the networks get to see.
        learns: Which source images they learn from; None: all.
        start: A bundle whose networks they begin with, as far as shapes are equal; what is usual is learnt anew.
        epochs: In place of those of the configuration.

    Raises:
        DataError: A label has no attribution shards.
    """
    settings = config.fit
    epochs = epochs or settings.epochs
    device = device_of(config)
    reader = ShardReader(config, work, settings, keep, learns)
    sample, clean = reader.sample(), reader.sample(UNHARMED_SHARDS, (CLEAN,))
    unharmed = reader.sample(UNHARMED_SHARDS, config.unharmed("fit"))
    shape = EvidenceShape.of(sample)
    networks = []
    with progress.task("fit", total=settings.ensemble * epochs * reader.rows, unit="images") as advance:
        for member in range(settings.ensemble):
            seed_everything(derived_seed(config.seed, "fit", member))
            network = HeatmapNetwork(shape, len(config.families), settings.network())
            network.fit_scales(sample)
            network.fit_usual(clean, unharmed)
            if start is not None:
                _begin_with(network, start, member)
            network.to(device)
            optimiser = torch.optim.AdamW(
                network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
            )
            steps = epochs * reader.steps
            steps += steps == 10  # the warm-up of one step: torch would divide by its last step, 0
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimiser, settings.learning_rate, total_steps=steps, pct_start=0.1
            )
            for epoch in range(epochs):
                total, count = 0.0, 0
                for rows in reader.epoch(random.Random(derived_seed(config.seed, "fit", member, epoch))):
                    loss = loss_of(network, rows, settings.origin_weight, device)
                    optimiser.zero_grad(set_to_none=True)
                    loss.backward()  # type: ignore[no-untyped-call]
                    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                    optimiser.step()
                    schedule.step()
                    total, count = total + loss.item(), count + 1
                    advance(len(rows.evidence))
                progress.note(f"network {member + 1}/{settings.ensemble} epoch {epoch + 1}: loss {total / count:.4f}")
            networks.append(network.cpu().eval())
    weights, described = (folder / name for name in FILES)
    write_file(weights, save(ensemble_weights(networks)))
    write_json(
        described,
        {"settings": settings.network().model_dump(), "shape": shape.model_dump(), "families": list(config.families)},
    )


def _begin_with(network: HeatmapNetwork, start: Bundle, member: int) -> None:
    """Take over what another ensemble's member learnt, where names and shapes are the same.

    The scales of its evidence, too: weights belong to them, and few images tell them badly. The novelty stays.
    """
    own, prefix = network.state_dict(), f"{member % max(1, _members(start))}."
    old = {name.removeprefix(prefix): each for name, each in start.network_weights.items() if name.startswith(prefix)}
    kept = {name: each.float() for name, each in old.items() if name in own and each.shape == own[name].shape}
    network.load_state_dict(own | kept)


def _members(bundle: Bundle) -> int:
    return len({name.partition(".")[0] for name in bundle.network_weights if name[0].isdigit()})


def loss_of(network: HeatmapNetwork, rows: Rows, origin_weight: float, device: torch.device | str) -> Tensor:
    """Weighted cross-entropy of the family, plus that of the origin label where it is a candidate."""
    evidence = rows.evidence.to(device).float()
    weight = rows.weight.to(device)
    output = network(evidence)
    family = functional.cross_entropy(output.family_logits, rows.family.to(device), reduction="none")
    matches = evidence.candidates == rows.origin.to(device)[:, None]
    position = torch.where(matches.any(1), matches.int().argmax(1), IGNORE)
    origin = functional.cross_entropy(output.origin_logits, position, reduction="none", ignore_index=IGNORE)
    return ((family + origin_weight * origin) * weight).mean()


def load_networks(folder: Path) -> list[HeatmapNetwork]:
    """The networks that a fit wrote to a folder, in eval mode.

    Raises:
        DataError: There are none, or they are damaged.
    """
    try:
        described = json.loads((folder / DESCRIPTION).read_text())
        weights = load_file(str(folder / NETWORK))
        settings = NetworkSettings.model_validate(described["settings"])
        shape = EvidenceShape.model_validate(described["shape"])
    except OSError as error:
        raise DataError(f"no fitted network in {folder}: run `heatward train fit` first ({error})") from error
    except (SafetensorError, ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"{folder} holds no fitted network: delete it and run `heatward train fit` ({error})"
        ) from error
    return HeatmapNetwork.ensemble(shape, len(described["families"]), settings, weights)
