"""What a detector is worth that never looks inside the classifier: black-box evidence, on shards that are there.

    heatward train --config examples/cifar10/config.toml                 # once: makes the shards
    python -m benchmarks.detection.black_box --config examples/cifar10/config.toml --json work/black_box.json

The groups that need gradients or layers are left out of the evidence, in fitting, calibrating and testing alike; all
else is the recipe's: networks, epochs, seed, images, attacks. `--learn` fits to some of the attacks only, and measures
on all. `--all-groups` keeps every group, for a row beside it. Positives are attacks that changed a right prediction,
negatives rightly classified clean images; thresholds come from all clean calibration images.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from benchmarks.detection.fitted import fitted
from detector.evidence import Evidence
from detector.evidence.groups import INSIDE
from training.config import CLEAN, TrainingConfig
from training.evaluation.measures import Thresholds
from training.evaluation.metrics import auroc, flagged
from training.evaluation.tables import blank_table, render
from training.load import load_config
from training.progress import make_progress
from training.shards import write_json

RATES = (0.01, 0.05)


def outside(evidence: Evidence) -> Evidence:
    """What is left where nobody can look inside the classifier."""
    return replace(evidence, groups={name: group for name, group in evidence.groups.items() if name not in INSIDE})


def learning(config: TrainingConfig, labels: Sequence[str]) -> TrainingConfig:
    """The configuration, with these attacks alone to learn from."""
    attacks = tuple(each.model_copy(update={"train": each.label in labels}) for each in config.attacks)
    return config.model_copy(update={"attacks": attacks})


def measured(config: TrainingConfig, whole: bool, device: torch.device) -> dict[str, Any]:
    """Fit and measure; AUROC, TPR and recovery of every test attack, false-positive rates of what is harmless."""
    with make_progress() as progress:
        scored = fitted(config, (lambda evidence: evidence) if whole else outside, progress, device)
    cuts = Thresholds.of(scored("calibrate", CLEAN)).served
    clean = scored("test", CLEAN)
    right = clean[clean.correct]
    rows: dict[str, Any] = {}
    for attack in config.attacks:
        found = scored("test", attack.label)
        found = found[found.fair]
        rows[attack.label] = {
            "family": attack.family,
            "seen": attack.train,
            "images": len(found),
            "auroc": float(auroc(found.score, right.score)),
            **{f"tpr {rate}": float(flagged(found.score, cuts[rate]).mean()) for rate in RATES},
            "recovered": float((found.recovered[:, 0] == found.origin).mean()),
        }
    harmless = {CLEAN: clean} | {label: scored("test", label) for label in config.twins.labels}
    alarms = {
        label: {f"{rate}": float(flagged(each.score, cuts[rate]).mean()) for rate in RATES}
        for label, each in harmless.items()
    }
    return {"attacks": rows, "alarms": alarms}


def means(rows: dict[str, Any], families: bool) -> dict[str, float]:
    """Over attacks learnt from, each counting alike, or each of their families."""
    seen = [row for row in rows.values() if row["seen"]]
    groups = [[row for row in seen if row["family"] == name] for name in dict.fromkeys(row["family"] for row in seen)]
    parts = groups if families else [[row] for row in seen]
    names = ("auroc", *(f"tpr {rate}" for rate in RATES), "recovered")
    return {name: float(np.mean([np.mean([row[name] for row in part]) for part in parts])) for name in names}


def table(found: dict[str, Any], title: str) -> Table:
    numbers = ("images", "AUROC", "flagged at 1 %", "flagged at 5 %", "label recovered")
    shown = blank_table(title, "attack", numbers=numbers)

    def add(name: str, images: str, row: dict[str, Any]) -> None:
        shares = [f"{row[each]:.1%}" for each in ("tpr 0.01", "tpr 0.05", "recovered")]
        shown.add_row(name, images, f"{row['auroc']:.4f}", *shares)

    for label, row in found["attacks"].items():
        add(label if row["seen"] else f"{label} (unseen)", str(row["images"]), row)
    add("mean of attacks learnt from", "", means(found["attacks"], families=False))
    add("mean of their families", "", means(found["attacks"], families=True))
    for label, row in found["alarms"].items():
        shown.add_row(f"{label}: false alarms", "", "", f"{row['0.01']:.1%}", f"{row['0.05']:.1%}", "")
    return shown


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="of a job whose attribute stage is finished")
    parser.add_argument("--learn", nargs="+", help="labels of the attacks to learn from; default: the recipe's")
    parser.add_argument("--all-groups", action="store_true", help="leave nothing out")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the result here, too")
    options = parser.parse_args(arguments)

    torch.set_num_threads(options.threads)
    config = load_config(options.config)
    if options.learn:
        config = learning(config, options.learn)
    found = measured(config, options.all_groups, torch.device("cpu"))
    print(render([table(found, "every group" if options.all_groups else "black-box evidence")]))
    if options.json:
        write_json(options.json, found)


if __name__ == "__main__":
    main()
