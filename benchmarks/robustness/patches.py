"""Patches that surely do not get through: certified detection, false alarms, and attacks that try, on shards at hand.

    heatward train --config examples/cifar10/config.toml                 # once: makes the shards
    python -m benchmarks.robustness.patches --config examples/cifar10/config.toml --area .02 --masks 9 16 25 36 49
    python -m benchmarks.robustness.patches --config examples/cifar10/config.toml --masks 36 --attacked 32

Thresholds come from the clean images of the split `calibrate`, all else from the clean test images. *Certified*: the
prediction is right, and no patch of the size, wherever it sticks and whatever it shows, can make it a wrong one that is
not flagged at that rate; shares are of all test images. *Agreement*: flag where any mask changes the prediction, which
needs no calibration (Minority Reports, PatchCensor). `--weights` measures other weights of the same net.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.robustness.patch_attacks import Informed
from detector.bundle import EMBEDDED, load_bundle
from detector.classifier import Classifier, load_classifier
from detector.classifier.weights import read_weights
from detector.evidence.covering import Covering
from detector.scoring.calibration import Calibration
from detector.scoring.patches import answers_under, bound, score_of
from detector.settings import PatchSettings
from training.attacks.patch import Patch
from training.config import CLEAN, TrainingConfig
from training.evaluation.tables import blank_table, render
from training.load import load_config
from training.shards import list_shards, read_columns, write_json

RATES = (0.01, 0.05, 0.1, 0.2)
SEED = 0


@dataclass(frozen=True)
class Images:
    images: Tensor  # (N, 3, H, W) in [0, 1]
    truth: Tensor  # (N,)
    predictions: Tensor  # (N,)


@torch.no_grad()
def read_images(config: TrainingConfig, split: str, count: int | None, classifier: Classifier) -> Images:
    """Clean images of a split, drawn, and what the classifier says of them."""
    shards = [read_columns(path, ("images", "truth")) for path in list_shards(config.work, "attack", split, CLEAN)]
    images, truth = (torch.cat([shard[name] for shard in shards]) for name in ("images", "truth"))
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(SEED))[:count]
    images = images[chosen].float() / 255
    said = torch.cat([classifier(part).argmax(1) for part in images.split(128)])
    return Images(images, truth[chosen], said)


@dataclass(frozen=True)
class Looked:
    """Clean images, and what is said of them under masks."""

    clean: Images
    answers: Tensor  # (N, n, K)

    @classmethod
    def at(cls, clean: Images, covering: Covering, classifier: Classifier) -> Looked:
        return cls(clean, answers_under(covering, classifier, clean.images))

    @property
    def scores(self) -> Tensor:
        return score_of(self.answers, self.clean.predictions)


def measured(covering: Covering, calibrate: Looked, test: Looked) -> dict[str, Any]:
    """False alarms and certified shares at every rate, and by agreement."""
    calibration, right = Calibration.fit(calibrate.scores), test.clean.predictions == test.clean.truth
    least = bound(covering, test.answers, test.clean.truth)
    alarms, certified = calibration.p_value(test.scores), calibration.p_value(least)
    found = {
        f"{rate}": {
            "alarms": _share(alarms <= rate),
            "certified": _share((certified <= rate) & right),
            "right and silent": _share((alarms > rate) & right),
        }
        for rate in RATES
    }
    disagree = (test.answers.argmax(2) != test.clean.predictions[:, None]).any(1)
    found["agreement"] = {
        "alarms": _share(disagree),
        "certified": _share((least > 0) & right),
        "right and silent": _share(~disagree & right),
    }
    return {
        "side": covering.side,
        "masks": len(covering.windows),
        "window": covering.rows[0][1] - covering.rows[0][0],
        "right": _share(right),
        "rates": found,
    }


def attacked(
    covering: Covering, classifier: Classifier, calibrate: Looked, test: Looked, count: int, steps: int
) -> dict[str, Any]:
    """What two attackers reach on right predictions: whom they fool, and who of these is flagged."""
    calibration = Calibration.fit(calibrate.scores)
    rows = (test.clean.predictions == test.clean.truth).nonzero()[:count, 0]
    images, labels = test.clean.images[rows], test.clean.truth[rows]
    certificates = calibration.p_value(bound(covering, test.answers[rows], labels))
    torch.manual_seed(SEED)
    area = covering.side**2 / images[0, 0].numel()
    attackers: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "Patch": Patch(classifier.module, area=area),
        "informed": Informed(classifier, covering, steps),
    }
    found: dict[str, Any] = {}
    for name, attack in attackers.items():
        adversarial = (attack(images, labels) * 255).round() / 255
        with torch.no_grad():
            said = classifier(adversarial).argmax(1)
        fooled = said != labels
        p_values = calibration.p_value(score_of(answers_under(covering, classifier, adversarial), said))
        found[name] = {"images": len(rows), "fooled": _share(fooled)}
        for rate in RATES:
            through = fooled & (p_values > rate)
            found[name][f"{rate}"] = {
                "flagged of fooled": _share((p_values <= rate)[fooled]),
                "through": _share(through),
                "through although certified": int((through & (certificates <= rate)).sum()),
            }
    return found


def _share(which: Tensor) -> float:
    return float(which.double().mean()) if len(which) else float("nan")


def show(results: list[dict[str, Any]]) -> None:
    numbers = ("right", "rate", "false alarms", "certified", "right and silent")
    table = blank_table("certified detection, shares of all test images", "patch, masks", numbers=numbers)
    for each in results:
        name = f"{each['side']}×{each['side']} px, {each['masks']} masks of {each['window']} px"
        for rate, row in each["rates"].items():
            table.add_row(name, f"{each['right']:.1%}", rate, *(f"{value:.1%}" for value in row.values()))
    shown = [table]
    for each in results:
        if "attacks" not in each:
            continue
        numbers = ("fooled", "rate", "flagged of fooled", "through", "through although certified")
        tried = blank_table(f"{each['side']}×{each['side']} px, {each['masks']} masks", "attacker", numbers=numbers)
        for name, row in each["attacks"].items():
            for rate in map(str, RATES):
                flagged, through, broken = row[rate].values()
                tried.add_row(
                    f"{name} ({row['images']})",
                    f"{row['fooled']:.1%}",
                    rate,
                    f"{flagged:.1%}",
                    f"{through:.1%}",
                    str(broken),
                )
        shown.append(tried)
    print(render(shown))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="of a job whose attack stage is finished")
    parser.add_argument("--bundle", type=Path, default=EMBEDDED, help="whose classifier is looked at")
    parser.add_argument("--weights", type=Path, help="of another training of that net")
    parser.add_argument("--area", type=float, nargs="+", default=[0.02], help="shares of the image under a patch")
    parser.add_argument("--masks", type=int, nargs="+", default=[36])
    parser.add_argument("--count", type=int, default=1000, help="images of each split")
    parser.add_argument("--attacked", type=int, default=0, help="right predictions that two attackers try")
    parser.add_argument("--steps", type=int, default=30, help="of the attacker who knows the masks")
    parser.add_argument("--trusted", nargs="+", default=(), help="modules that a python: classifier may come from")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the result here, too")
    options = parser.parse_args(arguments)

    torch.set_num_threads(options.threads)
    config, bundle = load_config(options.config), load_bundle(options.bundle)
    weights = read_weights(options.weights) if options.weights else bundle.classifier_weights
    classifier = load_classifier(bundle.manifest.classifier, state_dict=weights, allow=options.trusted)
    calibrate, test = (read_images(config, split, options.count, classifier) for split in ("calibrate", "test"))
    results = []
    for area in options.area:
        for masks in options.masks:
            covering = Covering.of(classifier.input_size, PatchSettings(area=area, masks=masks))
            clean, tried = (Looked.at(each, covering, classifier) for each in (calibrate, test))
            results.append(measured(covering, clean, tried))
            if options.attacked:
                results[-1]["attacks"] = attacked(covering, classifier, clean, tried, options.attacked, options.steps)
    show(results)
    if options.json:
        write_json(options.json, results)


if __name__ == "__main__":
    main()
