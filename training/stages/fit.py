"""Fit the heatmap networks: attribution shards of the split `fit` in, `fit/network.safetensors` + `.json` out.

Every image weighs so that clean images (with their noise twins) and attack families count alike, however many there
are of each. Shards are read a buffer at a time and mixed inside it: memory does not grow with the data. The same seed
gives the same bytes; a killed fit starts again from the shards.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional

from detector.errors import DataError
from detector.evidence import Evidence
from detector.scoring.network import EvidenceShape, HeatmapNetwork, NetworkSettings, ensemble_weights
from training import shards
from training.config import CLEAN, TrainingConfig
from training.job import Job, device_of
from training.progress import Progress
from training.settings import FitSettings

__all__ = ["FILES", "fit_digest", "load_networks", "run"]

FILES = ("network.safetensors", "network.json")
Sight = Callable[[Evidence], Evidence]
IGNORE = -100
UNHARMED_SHARDS = 16  # a label, for what is usual


@dataclass(frozen=True)
class Rows:
    """What one step learns from."""

    evidence: Evidence
    family: Tensor  # (B,) index into config.families
    origin: Tensor  # (B,) class index
    weight: Tensor  # (B,)


def fit_digest(job: Job) -> str:
    """Of everything that decides the networks."""
    config, settings = job.config, job.config.fit.model_dump(mode="json")
    families = {label: config.family_of(label) for label in config.labels("fit")}
    return shards.digest([job.digests("attribute", "fit"), settings, families, config.families, config.seed])


def run(
    config: TrainingConfig,
    work: Path,
    progress: Progress,
    out: Path | None = None,
    see: Sight = lambda evidence: evidence,
) -> None:
    """Fit the ensemble and write it.

    Args:
        config: `[fit]`, the seed, and the attacks to learn from.
        work: Holds the attribution shards.
        progress: Told of images seen and of losses.
        out: The networks go to its folder `fit`. Default: `work`.
        see: What of the evidence the networks get to see, in the same shapes.

    Raises:
        DataError: A label has no attribution shards.
    """
    settings = config.fit
    device = device_of(config)
    reader = ShardReader(config, work, settings, see)
    sample, clean = reader.sample(), reader.sample(UNHARMED_SHARDS, (CLEAN,))
    unharmed = reader.sample(UNHARMED_SHARDS, (CLEAN, *config.twins.labels))
    shape = EvidenceShape.of(sample)
    networks = []
    with progress.task("fit", total=settings.ensemble * settings.epochs * reader.rows, unit="images") as advance:
        for member in range(settings.ensemble):
            shards.seed_everything(shards.derived_seed(config.seed, "fit", member))
            network = HeatmapNetwork(shape, len(config.families), settings.network())
            network.fit_scales(sample)
            network.surprise.fit(clean, unharmed)
            network.to(device)
            optimiser = torch.optim.AdamW(
                network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
            )
            steps = settings.epochs * reader.steps
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimiser, settings.learning_rate, total_steps=steps, pct_start=0.1
            )
            for epoch in range(settings.epochs):
                total, count = 0.0, 0
                for rows in reader.epoch(random.Random(shards.derived_seed(config.seed, "fit", member, epoch))):
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
    weights, described = ((out or work) / "fit" / name for name in FILES)
    shards.write_file(weights, save(ensemble_weights(networks)))
    shards.write_json(
        described,
        {"settings": settings.network().model_dump(), "shape": shape.model_dump(), "families": list(config.families)},
    )


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


class ShardReader:
    """Attribution shards of the fit split as weighted, mixed batches."""

    def __init__(
        self, config: TrainingConfig, work: Path, settings: FitSettings, see: Sight = lambda evidence: evidence
    ) -> None:
        self.settings = settings
        self.see = see
        self.family: dict[Path, int] = {}
        self.label: dict[Path, str] = {}
        counts: dict[str, int] = {}
        for label in config.labels("fit"):
            for path in shards.list_shards(work, "attribute", "fit", label):
                self.family[path] = config.families.index(config.family_of(label))
                self.label[path] = label
                counts[label] = counts.get(label, 0) + shards.rows_of(path)
        self.rows = sum(counts.values())
        present = {label: count for label, count in counts.items() if count}
        families = {config.family_of(label) for label in present}
        wanted = {"clean"} | {config.family_of(attack.label) for attack in config.attacks_of("fit")}
        if "clean" not in families or (len(wanted) > 1 and len(families) == 1):
            found = ", ".join(f"{label} {count}" for label, count in counts.items())
            raise DataError(f"fit: nothing to tell apart, rows of each label: {found}; run `heatward train attack`")
        # one share a family; inside a family one share a label
        self.weight = {}
        for label, count in present.items():
            family = config.family_of(label)
            share = settings.clean_share if family == "clean" else (1 - settings.clean_share) / (len(families) - 1)
            siblings = sum(config.family_of(other) == family for other in present)
            self.weight[label] = share / siblings / count * self.rows

    @property
    def steps(self) -> int:
        """Upper bound of the batches in an epoch."""
        groups = -(-len(self.family) // self.settings.buffer_shards)
        return self.rows // self.settings.batch_size + groups

    def epoch(self, generator: random.Random) -> Iterator[Rows]:
        """All rows once, in an order drawn from `generator`."""
        paths = list(self.family)
        generator.shuffle(paths)
        for start in range(0, len(paths), self.settings.buffer_shards):
            rows = self._load(paths[start : start + self.settings.buffer_shards])
            if rows is None:
                continue
            order = torch.tensor(generator.sample(range(len(rows.evidence)), len(rows.evidence)))
            for index in torch.split(order, self.settings.batch_size):
                yield Rows(rows.evidence[index], rows.family[index], rows.origin[index], rows.weight[index])

    def sample(self, shards_a_label: int = 4, only: Sequence[str] | None = None) -> Evidence:
        """A few shards of every label, or of some labels, for statistics."""
        seen: dict[str, int] = {}
        chosen = []
        for path, label in self.label.items():
            if only is not None and label not in only:
                continue
            seen[label] = seen.get(label, 0) + 1
            if seen[label] <= shards_a_label:
                chosen.append(path)
        rows = self._load(chosen)
        if rows is None:
            raise DataError("fit: every attribution shard is empty; run `heatward train attribute`")
        return rows.evidence.float()

    def _load(self, paths: list[Path]) -> Rows | None:
        evidence, family, origin, weight = [], [], [], []
        for path in paths:
            tensors = shards.read_shard(path)
            count = len(tensors["origin"])
            if not count:
                continue
            evidence.append(self.see(Evidence.from_tensors(tensors)))
            family.append(torch.full((count,), self.family[path]))
            origin.append(tensors["origin"])
            weight.append(torch.full((count,), self.weight[self.label[path]]))
        if not evidence:
            return None
        return Rows(Evidence.cat(evidence), torch.cat(family), torch.cat(origin), torch.cat(weight))


def load_networks(work: Path) -> list[HeatmapNetwork]:
    """The networks a fit wrote, in eval mode.

    Raises:
        DataError: There are none.
    """
    try:
        described = json.loads((work / "fit" / "network.json").read_text())
        weights = load_file(str(work / "fit" / "network.safetensors"))
    except OSError as error:
        raise DataError(f"no fitted network in {work / 'fit'}: run `heatward train fit` first ({error})") from error
    settings = NetworkSettings.model_validate(described["settings"])
    shape = EvidenceShape.model_validate(described["shape"])
    return HeatmapNetwork.ensemble(shape, len(described["families"]), settings, weights)
