"""What effort THOROUGH is worth and costs: flagged at 1 % and 5 % with and without the second look, in one run.

    heatward train second-look --config configs/cifar10.toml
    python -m benchmarks.detection.effort --config configs/cifar10.toml --threads 1 --json work/effort.json

Rows are labels of the test split, of which the attack and calibrate stages are finished: attacks that changed a right
prediction, correctly classified clean images and noise twins. Undecided images get learned masks and a p-value anew;
all others keep theirs. The cost is CPU time an image in this run.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor

from training import second_look
from training.job import Job, open_job
from training.load import load_config
from training.pipeline import load_detector
from training.progress import Progress, make_progress
from training.second_look import features_of, first_look, undecided
from training.shards import list_shards, read_shard

RATES = (0.01, 0.05)


def measure(job: Job, limit: int, progress: Progress) -> list[dict[str, float | str | int]]:
    detector, look = load_detector(job), second_look.load(job)
    if look is None:
        raise SystemExit("images.splits.tune is 0: there is no second look to measure")
    labels = [label for label in job.config.labels("test") if label not in job.config.corruptions.labels]
    table: list[dict[str, float | str | int]] = []
    with progress.task("effort", total=len(labels), unit="labels") as advance:
        for label in labels:
            shards = [read_shard(path) for path in list_shards(job.work, "attack", "test", label)]
            column = {
                name: torch.cat([s[name] for s in shards]) for name in ("images", "origin", "truth", "prediction")
            }
            counts = column["origin"] == column["truth"]
            if job.attack(label) is not None:
                counts &= column["prediction"] != column["origin"]
            rows = counts.nonzero().flatten()[:limit]
            pixels = column["images"][rows]
            started = time.process_time()
            first = first_look(detector, pixels)
            fast_s = time.process_time() - started
            again = first["p_value"].clone()
            chosen = undecided(detector, again).nonzero().flatten()
            started = time.process_time()
            if len(chosen):
                again[chosen] = look.p_value(look.score(features_of(detector, pixels, first, chosen)))
            masks_s = time.process_time() - started
            table.append(
                {
                    "label": label,
                    "images": len(rows),
                    "undecided": len(chosen) / max(1, len(rows)),
                    **{f"fast at {rate:.0%}": flagged(first["p_value"], rate) for rate in RATES},
                    **{f"thorough at {rate:.0%}": flagged(again, rate) for rate in RATES},
                    "fast ms": 1000 * fast_s / max(1, len(rows)),
                    "masks ms": 1000 * masks_s / max(1, len(chosen)),
                }
            )
            advance(1)
    return table


def flagged(p_values: Tensor, rate: float) -> float:
    return float((p_values <= rate).double().mean()) if len(p_values) else float("nan")


def mean_of(rows: list[dict[str, float | str | int]], name: str) -> dict[str, float | str | int]:
    keys = [key for key in rows[0] if key not in ("label", "images")]
    means = {key: sum(float(row[key]) for row in rows) / len(rows) for key in keys}
    return {"label": name, "images": sum(int(row["images"]) for row in rows), **means}


def printed(table: list[dict[str, float | str | int]]) -> str:
    keys = list(table[0])
    lines = ["| " + " | ".join(keys) + " |", "| --- |" + " --: |" * (len(keys) - 1)]
    for row in table:
        cells = [str(row[key]) if key in ("label", "images") else show(key, float(row[key])) for key in keys]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def show(key: str, value: float) -> str:
    return f"{value:.0f}" if key.endswith("ms") else f"{value:.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/cifar10.toml"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=int, default=500, help="images of each label, at most")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    config = load_config(arguments.config, {"threads": arguments.threads})
    with make_progress() as progress:
        job = open_job(config, progress)
        table = measure(job, arguments.limit, progress)
    attacks = [row for row in table if job.attack(str(row["label"])) is not None]
    trained = [row for row in attacks if getattr(job.attack(str(row["label"])), "train", False)]
    unseen = [row for row in attacks if row not in trained]
    harmless = [row for row in table if row not in attacks]
    shown = [*harmless, *attacks, mean_of(trained, "mean of the attacks trained on")]
    shown += [mean_of(unseen, "mean of the unseen attacks")] if unseen else []
    print(printed(shown))
    if arguments.json:
        arguments.json.write_text(json.dumps(shown, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
