"""What each part of the evidence is worth: one network fitted without it, and what its heatmaps cost.

    heatward train --config examples/cifar10/config.toml                 # once: makes the shards
    python -m benchmarks.detection.ablation --config examples/cifar10/config.toml --threads 2 --json work/ablation.json

A part is removed by zeros, in fitting, calibrating and testing alike. Every row has the same seed, epochs and images.
Positives are attacks that changed the prediction, negatives rightly classified clean images.
Costs are floating-point operations per image in forward passes of the classifier ("forward-equivalents"), counted, and
images per second of the whole extraction, timed beside the classifier's own forward pass in the same run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from benchmarks.clock import seconds
from benchmarks.detection.fitted import fitted
from detector.evidence import Evidence, EvidenceExtractor
from detector.settings import ScoreSettings
from training.config import CLEAN, TrainingConfig
from training.evaluation.cost import operations
from training.evaluation.measures import Thresholds
from training.evaluation.metrics import auroc
from training.evaluation.tables import render
from training.job import Job, open_job
from training.load import load_config
from training.progress import make_progress
from training.resume import ShardResults
from training.shards import write_json

RATE = 0.05
BATCH, PASSES = 32, 3


PARTS: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "novelty": (),
    "views": ("views.",),
    "witness": ("witness.",),
    "channel attribution": ("margin.",),
}
"""Part → how the names of its groups begin."""


def without(evidence: Evidence, part: str) -> Evidence:
    """The same groups, those of the part all zeros."""
    groups = {
        name: torch.zeros_like(group) if name.startswith(PARTS[part]) else group
        for name, group in evidence.groups.items()
    }
    return replace(evidence, groups=groups)


def measured(job: Job, config: TrainingConfig, part: str) -> dict[str, Any]:
    """Fit without a part; AUROC, TPR and recovery of every test attack."""
    if part == "novelty":
        fit_without = config.fit.model_copy(update={"score": ScoreSettings(novelty_weight=0.0)})
        config = config.model_copy(update={"fit": fit_without})
    scored = fitted(config, lambda evidence: without(evidence, part), job.progress, job.classifier.device)
    cut = Thresholds.of(scored("calibrate", CLEAN)).served[RATE]
    clean = scored("test", CLEAN)
    clean = clean[clean.correct]
    rows = {}
    for attack in config.attacks:
        found = scored("test", attack.label)
        rows[attack.label] = {
            "auroc": float(auroc(found.score, clean.score)),
            "tpr": float((found.score > cut).mean()),
            "recovered": float((found.recovered[:, 0] == found.origin).mean()),
        }
    return rows


def costs(job: Job) -> dict[str, float]:
    """Forward-equivalents of the whole extraction with each part removed, and its speed."""
    classifier, settings = job.classifier, job.config.evidence
    images = job.splits["test"].read(0, BATCH, classifier.prepare).pixels.to(classifier.device).float() / 255
    whole = EvidenceExtractor(classifier, settings, job.witness)
    with torch.no_grad():
        forward = operations(lambda: classifier(images))
    every = operations(lambda: whole(images)) / forward
    alone = operations(lambda: EvidenceExtractor(classifier, settings)(images)) / forward
    with torch.no_grad():
        seconds_forward = fastest(lambda: classifier(images), classifier.device)
    seconds_whole = fastest(lambda: whole(images), classifier.device)
    return {
        "nothing": every,
        "novelty": every,
        "views": every - len(whole.views),
        "witness": alone,
        "channel attribution": every,
        "images_per_second": BATCH / seconds_whole,
        "forward_images_per_second": BATCH / seconds_forward,
    }


def fastest(work: Callable[[], object], device: torch.device) -> float:
    work()
    return min(seconds(work, device) for _ in range(PASSES))


def table(config: TrainingConfig, rows: dict[str, dict[str, Any]], cost: dict[str, float]) -> Table:
    seen = [attack.label for attack in config.attacks if attack.train]
    shown = Table(title="AUROC without a part", title_justify="left")
    for column in ("without", *seen, "mean", f"mean TPR at {RATE:.0%}", "label recovered", "forward-equivalents"):
        shown.add_column(column, justify="left" if column == "without" else "right")

    def mean(part: str, what: str) -> float:
        return float(np.mean([rows[part][label][what] for label in seen]))

    for part in rows:
        each = [f"{rows[part][label]['auroc']:.3f}" for label in seen]
        averages = [f"{mean(part, 'auroc'):.4f}", f"{mean(part, 'tpr'):.1%}", f"{mean(part, 'recovered'):.1%}"]
        shown.add_row(part, *each, *averages, f"{cost[part]:.1f}")
    return shown


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="of a job whose attribute stage is finished")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the result here, too")
    options = parser.parse_args(arguments)

    config = load_config(options.config, {"threads": options.threads})
    with make_progress() as progress:
        job = open_job(config, progress)
        ShardResults("attribute", job).require()
        fewer = config.model_copy(
            update={"fit": config.fit.model_copy(update={"ensemble": 1, "epochs": options.epochs})}
        )
        cost = costs(job)
        rows = {part: measured(job, fewer, part) for part in PARTS}
    print(render([table(config, rows, cost)]))
    print(
        f"extraction {cost['images_per_second']:.1f} images/s, the classifier alone "
        f"{cost['forward_images_per_second']:.1f} images/s, {options.threads} threads, batches of {BATCH}"
    )
    if options.json:
        write_json(options.json, {"rows": rows, "costs": cost, "epochs": options.epochs, "threads": options.threads})


if __name__ == "__main__":
    main()
