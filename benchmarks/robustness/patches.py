"""Patches that surely do not get through: certified detection, false alarms, and attacks that try, on shards at hand.

    heatward train --config examples/cifar10/config.toml                 # once: makes the shards
    python -m benchmarks.robustness.patches --config examples/cifar10/config.toml --area .02 --masks 9 16 25 36 49
    python -m benchmarks.robustness.patches --config examples/cifar10/config.toml --masks 36 --attacked 32

Thresholds come from the clean images of the split `calibrate`, all else from the clean test images. *Certified*: the
prediction is right, and no patch of the size, wherever it sticks and whatever it shows, can make it a wrong one that is
not flagged at that rate; shares are of all test images. *Agreement*: flag where any mask changes the prediction, which
needs no calibration (Minority Reports, PatchCensor). `--weights` measures other weights of the same net, such as those
that learnt under masks (`python -m examples.cifar10.classifier --masked`). Who gets through although the image is
certified would refute the proof: the benchmark then says so and fails. Intervals are Wilson's, 95 %.
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
from detector.errors import DataError
from detector.evidence.covering import Covering
from detector.scoring.calibration import Calibration
from detector.scoring.patches import answers_under, bound, score_of
from detector.settings import PatchSettings
from examples.commands import area, check_out, count, masks, run, whole
from training.attacks.patch import Patch
from training.config import CLEAN, TrainingConfig
from training.evaluation.tables import blank_table, render
from training.load import load_config
from training.retraining.paired import wilson
from training.shards import list_shards, read_columns, write_json

RATES = (0.01, 0.05, 0.1, 0.2)
AGREEMENT = "agreement"
RULES = (*map(str, RATES), AGREEMENT)
SEED = 0


@dataclass(frozen=True)
class Images:
    images: Tensor  # (N, 3, H, W) in [0, 1]
    truth: Tensor  # (N,)
    predictions: Tensor  # (N,)


@torch.no_grad()
def read_images(config: TrainingConfig, split: str, count: int | None, classifier: Classifier) -> Images:
    """Clean images of a split, drawn, and what the classifier says of them.

    Raises:
        DataError: The attack stage of the job has not made them, or has made them for another classifier.
    """
    shards = [read_columns(path, ("images", "truth")) for path in list_shards(config.work, "attack", split, CLEAN)]
    images, truth = (torch.cat([shard[name] for shard in shards]) for name in ("images", "truth"))
    if (size := tuple(images.shape[2:])) != classifier.input_size:
        raise DataError(
            f"the images in {config.work} have {size[0]}×{size[1]} pixels, those of the classifier "
            f"{'×'.join(map(str, classifier.input_size))}: name the --bundle and the --config of one classifier"
        )
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
    alarms = _flagged(calibration, test.scores)
    certified = _flagged(calibration, bound(covering, test.answers, test.clean.truth))
    found = {
        rule: {
            "alarms": _share(alarms[rule]),
            "certified": _share(certified[rule] & right),
            "right and silent": _share(~alarms[rule] & right),
        }
        for rule in RULES
    }
    return {
        "side": covering.side,
        "masks": len(covering.windows),
        "window": covering.rows[0][1] - covering.rows[0][0],
        "images": len(right),
        "right": _share(right),
        "rates": found,
    }


def attacked(
    covering: Covering,
    classifier: Classifier,
    calibrate: Looked,
    test: Looked,
    count: int,
    steps: int,
    drawn: int | None = None,
) -> dict[str, Any]:
    """What two attackers reach on right predictions: whom they fool, and who of these is flagged."""
    calibration = Calibration.fit(calibrate.scores)
    rows = (test.clean.predictions == test.clean.truth).nonzero()[:count, 0]
    images, labels = test.clean.images[rows], test.clean.truth[rows]
    promised = _flagged(calibration, bound(covering, test.answers[rows], labels))
    torch.manual_seed(SEED)
    area = covering.side**2 / images[0, 0].numel()
    attackers: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "Patch": Patch(classifier.module, area=area),
        "informed": Informed(classifier, covering, steps, drawn=drawn),
    }
    found: dict[str, Any] = {}
    for name, attack in attackers.items():
        adversarial = (attack(images, labels) * 255).round() / 255
        with torch.no_grad():
            said = classifier(adversarial).argmax(1)
        fooled = said != labels
        found[name] = {"images": len(rows), "fooled": _share(fooled)}
        flags = _flagged(calibration, score_of(answers_under(covering, classifier, adversarial), said))
        for rule, flagged in flags.items():
            through = fooled & ~flagged
            found[name][rule] = {
                "flagged of fooled": _share(flagged[fooled]),
                "through": _share(through),
                "certified": _share(promised[rule]),
                "through although certified": int((through & promised[rule]).sum()),
            }
    return found


def _flagged(calibration: Calibration, scores: Tensor) -> dict[str, Tensor]:
    """Whom each rule flags of images with these scores; of bounds of scores: whom it is certain to flag."""
    p_values = calibration.p_value(scores)
    return {**{f"{rate}": p_values <= rate for rate in RATES}, AGREEMENT: scores > 0}


def refuted(results: list[dict[str, Any]]) -> int:
    """How many attacked images got through although that was proved to be impossible."""
    rows = [row for each in results for row in each.get("attacks", {}).values()]
    return sum(row[rule]["through although certified"] for row in rows for rule in RULES)


def _share(which: Tensor) -> float:
    return float(which.double().mean()) if len(which) else float("nan")


def _percent(value: float, count: int) -> str:
    """`26.3 % [21.6, 31.6]`; a dash of nothing."""
    if not count or value != value:
        return "–"
    low, high = wilson(value, count)
    return f"{100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def show(results: list[dict[str, Any]]) -> None:
    numbers = ("right", "rate", "false alarms", "certified", "right and silent")
    table = blank_table("certified detection, shares of all test images", "patch, masks", numbers=numbers)
    for each in results:
        name, count = f"{each['side']}×{each['side']} px, {each['masks']} masks of {each['window']} px", each["images"]
        for rate, row in each["rates"].items():
            table.add_row(name, _percent(each["right"], count), rate, *(_percent(row[key], count) for key in row))
    shown = [table]
    for each in results:
        if "attacks" not in each:
            continue
        columns = ("fooled", "rate", "flagged of fooled", "through", "certified", "through although certified")
        tried = blank_table(f"{each['side']}×{each['side']} px, {each['masks']} masks", "attacker", numbers=columns)
        for name, row in each["attacks"].items():
            count = row["images"]
            for rule in RULES:
                flagged, through, certified, broken = row[rule].values()
                tried.add_row(
                    f"{name} ({count})",
                    f"{row['fooled']:.1%}",
                    rule,
                    _percent(flagged, round(row["fooled"] * count)),
                    _percent(through, count),
                    _percent(certified, count),
                    str(broken),
                )
        shown.append(tried)
    print(render(shown))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="of a job whose attack stage is finished")
    parser.add_argument("--bundle", type=Path, default=EMBEDDED, help="whose classifier is looked at")
    parser.add_argument("--weights", type=Path, help="of another training of that net")
    parser.add_argument("--area", type=area, nargs="+", default=[0.02], help="shares of the image under a patch")
    parser.add_argument("--masks", type=masks, nargs="+", default=[36])
    parser.add_argument("--count", type=count, default=1000, help="test images, and calibration images at most")
    parser.add_argument("--calibrate", type=count, default=1000, help="calibration images at most")
    parser.add_argument("--attacked", type=whole, default=0, help="right predictions that two attackers try")
    parser.add_argument("--steps", type=count, default=30, help="of the attacker who knows the masks")
    parser.add_argument("--drawn", type=count, help="masks that he asks in a step; all where it is not given")
    parser.add_argument("--trusted", nargs="+", default=(), help="modules that a python: classifier may come from")
    parser.add_argument("--threads", type=count, default=1)
    parser.add_argument("--json", type=Path, help="write the result here, too")
    options = parser.parse_args(arguments)

    if options.json:
        check_out(options.json)
    torch.set_num_threads(options.threads)
    config, bundle = load_config(options.config), load_bundle(options.bundle)
    weights = read_weights(options.weights) if options.weights else bundle.classifier_weights
    classifier = load_classifier(bundle.manifest.classifier, state_dict=weights, allow=options.trusted)
    calibrate = read_images(config, "calibrate", min(options.count, options.calibrate), classifier)
    test = read_images(config, "test", options.count, classifier)
    results = []
    for share in options.area:
        for number in options.masks:
            covering = Covering.of(classifier.input_size, PatchSettings(area=share, masks=number))
            clean, tried = (Looked.at(each, covering, classifier) for each in (calibrate, test))
            results.append(measured(covering, clean, tried))
            if options.attacked:
                how = (options.attacked, options.steps, options.drawn)
                results[-1]["attacks"] = attacked(covering, classifier, clean, tried, *how)
    show(results)
    if options.json:
        write_json(options.json, results)
    if broken := refuted(results):
        raise SystemExit(
            f"{broken} patched images got through although they are certified: the proof or its code is wrong"
        )


if __name__ == "__main__":
    run(main)
