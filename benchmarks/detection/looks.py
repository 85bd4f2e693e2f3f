"""Looks at an image: networks that read a part of the views, fitted on stored evidence; what they say of every image.

A look without views is a glance: it costs one forward pass, the margin's backward and the witness. Each view costs one
forward pass more. Each look's networks leave out the photographs that thresholds are chosen on
(`training.fitting.held_out`), so that any two can be made a cascade. Answers are kept under a folder, by what they were
made from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detector.evidence import Evidence
from detector.scoring.network import HeatmapNetwork
from training.config import CLEAN, Split, TrainingConfig
from training.evaluation.scores import Scored, by_network, from_evidence
from training.fitting.glance import results as glance_results
from training.fitting.held_out import is_held_out
from training.fitting.networks import fit_networks, load_networks, results
from training.job import Job
from training.shards import digest, digest_of, list_shards, read_shard, write_shard

__all__ = ["LOOKS", "OWN_GLANCE", "Answers", "answers_of", "columns_of", "glance_answers", "job_answers"]

LOOKS: dict[str, tuple[str, ...] | None] = {
    "no view": (),
    "mirror": ("flip",),
    "3 views": ("noise-8-0", "flip", "shift+0+1"),
    "4 views": ("noise-4-0", "noise-16-0", "flip", "shift+0+1"),
    "6 views": ("noise-4-0", "noise-16-0", "flip", "shift+0+1", "blur", "rescale-0.875"),
    "all views": None,
}
"""Look → its views; None: every view of the evidence."""
OWN_GLANCE = "own glance"
"""Of a job with a cascade: what its `glance` stage fitted."""

Answers = Mapping[tuple[str, str], Scored]
"""Split and label → what a look says."""


def columns_of(config: TrainingConfig, look: str) -> list[int]:
    """Places of the look's views among those of the evidence."""
    wanted = config.cascade.views if look == OWN_GLANCE else LOOKS[look]
    there = dict.fromkeys(config.evidence.views.names)
    return [at for at, name in enumerate(there) if wanted is None or name in wanted]


def answers_of(job: Job, config: TrainingConfig, look: str, folder: Path) -> Answers:
    """Fit a look's networks and ask them about the held-out, calibrate and test images; or read what they said."""
    columns = columns_of(config, look)
    place = folder / look.replace(" ", "-")

    def fit() -> list[HeatmapNetwork]:
        def part(evidence: Evidence) -> Evidence:
            return evidence.at_a_glance(columns)

        fit_networks(config, config.work, job.progress, place, part, learns=lambda index: ~is_held_out(index))
        return load_networks(place)

    told = [columns, config.fit.model_dump(mode="json"), config.seed]
    learnt = job.digests("attribute", "fit")
    return _answers(job, place.with_suffix(".safetensors"), told, learnt, columns, fit)


def job_answers(job: Job, folder: Path) -> Answers:
    """The same of the networks that the job itself fitted, to all views and all photographs."""
    columns = columns_of(job.config, "all views")
    learnt = [results(job, job.work / "fit").made_from]
    return _answers(job, folder / "own.safetensors", [], learnt, columns, lambda: load_networks(job.work / "fit"))


def glance_answers(job: Job, folder: Path) -> Answers:
    """The same of the glance networks that the job itself fitted."""
    found, columns = glance_results(job), columns_of(job.config, OWN_GLANCE)
    found.require()
    path = folder / "own-glance.safetensors"
    return _answers(job, path, [], [found.made_from], columns, lambda: load_networks(found.folder))


def _answers(
    job: Job,
    path: Path,
    told: list[Any],
    learnt: list[str],
    columns: list[int],
    networks: Callable[[], list[HeatmapNetwork]],
) -> Answers:
    wanted = list(_wanted(job.config))
    shards = [plan.digest for split, label in wanted for plan in job.plan("attribute", split, label)]
    made_from = digest([*told, shards, learnt])
    if digest_of(path) != made_from:
        answer = by_network(networks(), job.classifier.device)
        said: dict[str, Tensor] = {}
        for split, label in wanted:
            paths = list_shards(job.work, "attribute", split, label)
            scored = from_evidence(paths, {"": lambda evidence: answer(evidence.float().at_a_glance(columns))})[""]
            said |= {f"{split}/{label}/{key}": torch.from_numpy(each) for key, each in asdict(scored).items()}
        write_shard(path, said, made_from)
    stored = read_shard(path)
    return {
        (split, label): Scored(**{each.name: stored[f"{split}/{label}/{each.name}"].numpy() for each in fields(Scored)})
        for split, label in wanted
    }


def _wanted(config: TrainingConfig) -> Iterator[tuple[Split, str]]:
    yield "fit", CLEAN  # thresholds are chosen on those that are held out
    yield "calibrate", CLEAN
    for label in (*config.unharmed("test"), *(attack.label for attack in config.every_attack)):
        yield "test", label
