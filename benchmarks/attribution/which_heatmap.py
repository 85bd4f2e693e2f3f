"""Which heatmap detects attacks best? One method at a time, a small network on its maps alone: clean or attacked?

    heatward train attack --config examples/cifar10/config.toml       # once: makes the attack shards
    python -m benchmarks.attribution.which_heatmap --config examples/cifar10/config.toml \\
        --json work/which.json --plot work/which.png

Repeats Fong & Vedaldi 2017, section 5.5 and figure 12 (there AlexNet on heatmaps of ImageNet photographs; learned masks
93.6 %), with other networks and attacks: compare the order, not the digits. n training images are n clean maps and the
n maps of their attacked versions; maps are divided by one constant per method and keep their size; every method gets
the same network, steps and seeds. Recovery: the mask is applied to the attacked image, which is classified again; a
map that is no mask stands for the part of the image where it is largest. Maps are kept in `maps` of the work folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.attribution.which_heatmap_maps import (
    NO_MAP,
    REFERENCE,
    Case,
    compute,
    control_masks,
    is_large,
    is_mask,
    ranks,
    read_cases,
    settings_of,
    top_area,
)
from benchmarks.attribution.which_heatmap_nets import SCHEDULE, learn
from benchmarks.attribution.which_heatmap_tables import NAMES, PUBLISHED, plot, tables
from detector.errors import ConfigError, HeatwardError
from detector.files import write_file
from forensics.pictures import figure_png
from training.config import Split, TrainingConfig
from training.evaluation.metrics import Bootstrap, Estimate
from training.evaluation.tables import render
from training.job import Job, open_job
from training.load import load_config
from training.progress import make_progress
from training.shards import digest, write_json

SMALL_IMAGES, LARGE_IMAGES = (800, 500), (100, 100)  # source images to learn from and to test on, at most
SMALL_ATTACKS, LARGE_ATTACKS = ("pgd-8", "cw", "square-8"), ("pgd-4", "cw")
SIZES = (25, 50, 100, 200, 400, 800)

Json = dict[str, Any]


def recover(job: Job, case: Case, masks: Tensor) -> Json:
    """How often the origin label comes first, or among five, once the mask is applied to the attacked image."""
    bootstrap = Bootstrap(case.index.numpy())
    found: Json = {"area": float(masks.mean())}
    for way, rank in ranks(job.classifier, case, masks, job.config.batch_size).items():
        for top in (1, 5):
            estimate: Estimate = bootstrap.rate((rank < top).numpy(), case.index.numpy())
            found[f"{way}_top{top}"] = estimate.as_dict()
    return found


def examine(job: Job, method: str, cases: Sequence[Case], options: argparse.Namespace, sizes: Sequence[int]) -> Json:
    """All numbers of one method; learned once, kept beside its maps."""
    made = compute(job, method, cases)
    maps = {(case.split, case.label): (case, each) for case, each in zip(cases, made, strict=True)}
    seen = hashlib.sha256()
    for each in made:
        seen.update(each.signed.numpy().data)
        seen.update(each.size.numpy().data)
    stamp = digest([seen.hexdigest(), options.attacks, sizes, options.twin, options.share, REFERENCE, SCHEDULE])
    kept = job.work / "maps" / method / "learned.json"
    if kept.exists() and (old := json.loads(kept.read_text(encoding="utf-8")))["stamp"] == stamp:
        return dict(old["found"])
    found: Json = {
        "name": NAMES.get(method, method),
        "ms": 1000 * sum(each.seconds for each in made) / sum(map(len, cases)),
        "settings": {name: str(value) for name, value in settings_of(method, job.classifier).items()},
        "attacks": {},
    }
    runs = len(options.attacks) * (len(sizes) + 1)
    with job.progress.task(f"learn {method}", total=runs, unit="curve points") as tell:
        for attack in options.attacks:
            case, of_attacked = maps["test", attack]
            masks = of_attacked.signed if is_mask(method) else top_area(of_attacked.signed, options.share)
            found["attacks"][attack] = learn(maps, attack, sizes, options.twin, tell)
            if method != NO_MAP:
                found["attacks"][attack] |= recover(job, case, masks)
    write_json(kept, {"stamp": stamp, "found": found})
    return found


def controls(job: Job, cases: Sequence[Case], options: argparse.Namespace) -> Json:
    found: dict[str, Json] = {}
    for case in cases:
        if case.split == "test" and case.label in options.attacks:
            for name, masks in control_masks(len(case), options.share, seed=0).items():
                found.setdefault(name, {})[case.label] = recover(job, case, masks)
    return found


def _complete(options: argparse.Namespace, config: TrainingConfig, large: bool) -> None:
    """What was not said: fewer images and attacks where images are large."""
    train, test = LARGE_IMAGES if large else SMALL_IMAGES
    options.train, options.test = options.train or train, options.test or test
    options.attacks = options.attacks or [*(LARGE_ATTACKS if large else SMALL_ATTACKS)]
    for label in options.attacks:
        if label not in {attack.label for attack in config.attacks if attack.train}:
            raise ConfigError(f"--attacks: the configuration has no attack {label!r} of the split fit; name others")
    twins = [*config.twins.labels]
    if options.twin not in (None, "", *twins):
        raise ConfigError(f"--twin: {options.twin!r} is none of the configuration's noise twins: {', '.join(twins)}")
    largest = "" if large or not twins else twins[-1]
    options.twin = (largest if options.twin is None else options.twin) or None


def run(options: argparse.Namespace) -> None:
    config = load_config(options.config)
    with make_progress() as progress:
        job = open_job(config, progress)
        torch.set_num_threads(options.threads)  # open_job takes every core
        _complete(options, config, is_large(job.classifier))
        for method in options.methods:
            settings_of(method, job.classifier)  # a wrong name is told before hours of work
        counts: dict[Split, int] = {"fit": options.train, "test": options.test}
        cases = read_cases(job, options.attacks, options.twin, counts)
        smallest = min(len(case) for case in cases if case.split == "fit")
        sizes = [size for size in SIZES if smallest / 20 <= size < smallest] + [smallest]
        progress.note(", ".join(f"{case.split}/{case.label} {len(case)}" for case in cases))
        result: Json = {
            "attacks": options.attacks,
            "sizes": sizes,
            "classes": job.classifier.num_classes,
            "published": PUBLISHED,
            "images": {f"{case.split}/{case.label}": len(case) for case in cases},
            "controls": controls(job, cases, options),
            "methods": {method: examine(job, method, cases, options, sizes) for method in options.methods},
        }
    print(render(tables(result)))
    if options.json:
        write_json(options.json, result)
    if options.plot:
        write_file(options.plot, figure_png(plot(result), dpi=150))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="of a job whose attack stage is finished")
    parser.add_argument("--methods", nargs="+", default=list(NAMES), metavar="METHOD")
    parser.add_argument("--attacks", nargs="+", metavar="LABEL", help=f"default: {SMALL_ATTACKS} or {LARGE_ATTACKS}")
    parser.add_argument(
        "--twin",
        metavar="LABEL",
        help="noise twins whose alarms count; '': none; default: the largest, none of large images",
    )
    parser.add_argument("--train", type=int, help="source images to learn from, at most")
    parser.add_argument("--test", type=int, help="source images to test on, of each attack at most")
    parser.add_argument("--share", type=float, default=0.15, help="area kept of a map that is no mask")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    return parser.parse_args(arguments)


def main() -> None:
    try:
        run(parse())
    except HeatwardError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
