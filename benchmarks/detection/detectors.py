"""heatward beside other detectors of adversarial examples, in one run: the same classifier, images and attacks for all.

    pip install -c constraints.txt -e ".[bench]"
    heatward train attack --config examples/cifar10/config.toml               # once: makes the attack shards
    python -m benchmarks.detection.detectors --config examples/cifar10/config.toml --json work/detectors.json
    python -m benchmarks.detection.detectors --config examples/cifar10/config.toml --limit 300 --lesson 1000  # quicker

What learns, learns from the fit split: clean images alone, or clean images and noise twins against the attacks that
changed the prediction, as heatward does. Thresholds come from clean calibration images. Positives are attacks of the
test split that changed a correct prediction, negatives its correctly classified clean images. Cost is from image to
answer for one batch, all of a detector's forward passes included. The best of each column is bold; the columns that
heatward does not win are listed at the end. `rivals.py` says what each detector is.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.clock import seconds
from benchmarks.detection.columns import Column, losses, markdown
from benchmarks.detection.images import from_images
from benchmarks.detection.rivals import DETECTORS, Judge, Lesson, unit
from detector.bundle import EMBEDDED
from detector.classifier import Classifier
from detector.detector import Detector
from detector.errors import DataError, HeatwardError
from training.config import CLEAN, TrainingConfig
from training.data import open_splits
from training.evaluation.metrics import Bootstrap, Estimate, flagged, threshold_at
from training.evaluation.scores import Answers, Scored
from training.job import Job
from training.load import load_config
from training.progress import SilentProgress, make_progress
from training.resume import ShardResults
from training.shards import list_shards, read_shard, seed_everything, write_json

RATE = 0.05  # false positives
TIMED_IMAGES, PASSES = 128, 4


def read_lesson(config: TrainingConfig, detector: Detector, limit: int | None) -> Lesson:
    unharmed = (CLEAN, *config.twins.labels)
    images, attacked = [], []
    for label in config.labels("fit"):
        shards = [read_shard(path) for path in list_shards(config.work, "attack", "fit", label)]
        pixels, origin, prediction = (
            torch.cat([shard[key] for shard in shards]) for key in ("images", "origin", "prediction")
        )
        if label == CLEAN:
            clean, predictions = pixels[:limit], prediction[:limit]
        images.append((pixels if label in unharmed else pixels[prediction != origin])[:limit])
        attacked.append(torch.full((len(images[-1]),), label not in unharmed))
    return Lesson(detector, clean, predictions, torch.cat(images), torch.cat(attacked))


def learn(lesson: Lesson, seed: int) -> dict[str, Judge]:
    judges = {}
    for name, make in DETECTORS.items():
        print(f"prepare {name}", file=sys.stderr)
        seed_everything(seed)  # each by itself, so that none depends on those before it
        judges[name] = make(lesson)
    return judges


def score_all(
    config: TrainingConfig, judges: Mapping[str, Judge], device: torch.device, limit: int | None
) -> dict[str, dict[str, Scored]]:
    """Folder of the attack stage, e.g. "test/clean" → detector → its answers."""
    attacks = [attack.label for attack in config.attacks]
    folders = [("calibrate", CLEAN), *(("test", label) for label in (CLEAN, *config.twins.labels, *attacks))]
    shards = {folder: list_shards(config.work, "attack", *folder) for folder in folders}
    scored: dict[str, dict[str, Scored]] = {}
    with (
        make_progress() as progress,
        progress.task("score", len(judges) * sum(map(len, shards.values())), unit="shards") as advance,
    ):
        for (split, label), paths in shards.items():
            won = label in attacks
            most = None if label == CLEAN else limit
            said = {
                name: from_images(paths, on(device, judge), successes_only=won, limit=most, advance=advance)
                for name, judge in judges.items()
            }
            scored[f"{split}/{label}"] = {name: each[each.fair] if won else each for name, each in said.items()}
    return scored


def on(device: torch.device, judge: Judge) -> Judge:
    """The same judge for uint8 images on the CPU."""

    @torch.no_grad()
    def answer(images: Tensor) -> Answers:
        answers = judge(unit(images, device))
        return Answers(answers.score.cpu(), answers.recovered.cpu())

    return answer


def compare(config: TrainingConfig, scored: Mapping[str, Mapping[str, Scored]]) -> list[Column]:
    """Every quality, one column each."""
    clean = scored[f"test/{CLEAN}"]
    cuts = {name: threshold_at(answers.score, RATE) for name, answers in scored[f"calibrate/{CLEAN}"].items()}
    sources = [answers["heatward"].source for answers in scored.values()]
    bootstrap = Bootstrap(np.concatenate(sources), seed=config.seed)

    def auroc(name: str, attacked: Scored) -> Estimate:
        negative = clean[name][clean[name].correct]
        return bootstrap.auroc(attacked.score, attacked.source, negative.score, negative.source)

    def flagged_share(name: str, answers: Scored) -> Estimate:
        return bootstrap.rate(flagged(answers.score, cuts[name]), answers.source)

    def recovered(name: str, attacked: Scored) -> Estimate:
        offered = attacked[attacked.recovered[:, 0] >= 0]
        return bootstrap.rate(offered.recovered[:, 0] == offered.origin, offered.source)

    attacks = {attack.label: attack.label + ("" if attack.train else " (unseen)") for attack in config.attacks}
    unharmed = {label: label for label in (CLEAN, *config.twins.labels)}
    return [
        Column(
            table,
            title,
            form,
            labels is unharmed,
            {name: measure(name, answers) for name, answers in scored[f"test/{label}"].items()},
        )
        for table, form, measure, labels in (
            ("AUROC", ".3f", auroc, attacks),
            (f"TPR at {RATE:.0%} FPR", ".1%", flagged_share, attacks),
            ("Recovered label, top-1", ".1%", recovered, attacks),
            (f"FPR, set to {RATE:.0%}", ".1%", flagged_share, unharmed),
        )
        for label, title in labels.items()
    ]


def costs(judges: Mapping[str, Judge], classifier: Classifier, images: Tensor) -> list[Column]:
    """Milliseconds per image: the fastest of a few passes over one batch, taken in turns."""
    works: dict[str, Callable[[Tensor], object]] = {"forward": classifier, **judges}
    with torch.no_grad():
        passes = [
            {name: seconds(partial(work, images), images.device) for name, work in works.items()} for _ in range(PASSES)
        ]
    taken = {name: 1000 * min(each[name] for each in passes) / len(images) for name in works}
    forward = taken.pop("forward")
    units = (("ms/image", ".2f", 1.0), (f"times the forward pass ({forward:.2f} ms)", ".1f", forward))
    without = math.nan, math.nan  # no interval
    return [
        Column("Cost", title, form, True, {n: Estimate(ms / per, *without, len(images)) for n, ms in taken.items()})
        for title, form, per in units
    ]


def run(arguments: argparse.Namespace) -> None:
    config = load_config(arguments.config)
    torch.set_num_threads(arguments.threads)
    torch.backends.cudnn.deterministic = True
    detector = Detector.from_bundle(arguments.bundle, device=arguments.device)
    splits, _ = open_splits(config.images, detector.classifier.classes, config.seed)
    try:
        ShardResults("attack", Job(config, detector.classifier, splits, SilentProgress())).require()
    except DataError as error:
        raise DataError(f"{error}; and give the --bundle that guards its classifier, not another's") from error

    lesson = read_lesson(config, detector, arguments.lesson)
    judges = learn(lesson, arguments.seed)
    device = detector.classifier.device
    timed = read_shard(list_shards(config.work, "attack", "test", CLEAN)[0])["images"][:TIMED_IMAGES]
    columns = [
        *compare(config, score_all(config, judges, device, arguments.limit)),
        *costs(judges, detector.classifier, unit(timed, device)),
    ]
    settings = {
        "bundle": arguments.bundle.name,
        "config": arguments.config.name,
        "second classifier": "the bundle's witness" if detector.extractor.witness else "trained here",
        "limit": arguments.limit,
        "lesson": arguments.lesson,
        "seed": arguments.seed,
        "threads": torch.get_num_threads(),
        "device": str(device),
        "torch": torch.__version__,
    }
    print(", ".join(f"{key} {value}" for key, value in settings.items()))
    print(f"\n{markdown(columns)}\n")
    worse = losses(columns)
    print(f"heatward is not the best in {len(worse)} of {len(columns)} columns:")
    print("\n".join(worse))
    if arguments.json:
        described = [
            {
                "table": column.table,
                "column": column.name,
                "best": column.best,
                "detectors": {name: cell.as_dict() for name, cell in column.cells.items()},
            }
            for column in columns
        ]
        write_json(arguments.json, {"settings": settings, "columns": described, "not_best": worse})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="of the training job whose attacks are read")
    parser.add_argument("--bundle", type=Path, default=EMBEDDED, help="must guard the classifier of --config")
    parser.add_argument("--limit", type=int, help="score at most so many attacked images and noise twins of each label")
    parser.add_argument("--lesson", type=int, help="learn from at most so many images of each label")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers, with 95 %% intervals, here")
    arguments = parser.parse_args()
    try:
        run(arguments)
    except HeatwardError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
