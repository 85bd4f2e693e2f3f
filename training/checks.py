"""What makes a detector worthless, found before hours are spent on it: a job in, notes or an error out.

before the first image is read   check_images: too few of a split, unreadable ones, classes without images
before the first shard           try_attacks: does every attack run?
before the first attack          check_classifier: is it right more often than chance?
before the first heatmap         check_attacks: did any attack change a prediction?
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from detector.errors import CalibrationError, DataError
from detector.scoring.calibration import FEWEST_SCORES, rank_at
from detector.scoring.tail import FEWEST_FOR_TAIL
from detector.text import printable
from training.attacks.native import at_size
from training.attacks.through import foreseeing
from training.attacks.trial import IMAGES, try_attack
from training.config import CLEAN, SPLITS, Split
from training.data.splits import read_items
from training.evaluation.metrics import FEW
from training.fitting.glance import check_vouched_for
from training.job import Job
from training.runners import ShardPlan
from training.runners.worker import predict
from training.settings import CalibrateSettings
from training.shards import list_shards, read_columns

__all__ = [
    "check_attacks",
    "check_classifier",
    "check_groups",
    "check_images",
    "check_tail",
    "near_chance",
    "try_attacks",
]

FEWEST_FOR_1_PERCENT = 99
FEWEST_SUCCESSES = 10
NAMED = 3


def check_images(job: Job) -> None:
    """Say what is wrong with the number of images.

    Raises:
        DataError: An image cannot be read and `skip_unreadable` is false, or a split has none that can.
        CalibrationError: Too few calibration images to flag anything, or for the cascade.
    """
    for split in job.splits.values():
        if split.unreadable and not job.config.images.skip_unreadable:
            bad = next(item for item in split.items if item.name == split.unreadable[0])
            try:
                split.pixels(bad)
            except DataError as error:
                count = sum(len(each.unreadable) for each in job.splits.values())
                raise DataError(f"{count} images cannot be read, the first: {error}") from error
    usable = {name: split.usable for name, split in job.splits.items()}
    told = "different images that can be read"
    if usable["calibrate"] < FEWEST_SCORES:
        raise CalibrationError(
            f"images.splits.calibrate: {usable['calibrate']} {told}, at least {FEWEST_SCORES} are needed to flag at "
            f"5 %, {FEWEST_FOR_1_PERCENT} to flag at 1 %: use more images, or raise images.splits.calibrate"
        )
    check_vouched_for(job.config.cascade.clears, usable["fit"], usable["calibrate"])
    if usable["calibrate"] < FEWEST_FOR_1_PERCENT:
        job.progress.note(
            f"images.splits.calibrate: with {usable['calibrate']} {told} nothing can be flagged at less than "
            f"{1 / (usable['calibrate'] + 1):.1%}; flagging at 1 % needs {FEWEST_FOR_1_PERCENT}"
        )
    _check_calibration(job, usable["calibrate"])
    for name in ("fit", "test"):
        if not usable[name]:
            raise DataError(f"images.splits.{name}: none of its {len(job.splits[name])} images can be read")
        if usable[name] < FEW:
            job.progress.note(f"images.splits.{name}: {usable[name]} {told}: what rests on so few means little")
    classes = job.classifier.classes
    present = {item.truth for split in job.splits.values() for item in split.items}
    missing = [printable(name) for at, name in enumerate(classes) if at not in present]
    if missing and present != {-1}:
        named = ", ".join(missing[:NAMED]) + (", …" if len(missing) > NAMED else "")
        job.progress.note(f"images: {len(missing)} of {len(classes)} classes have no image: {named}")


def try_attacks(job: Job, plans: Iterable[ShardPlan]) -> None:
    """Run every attack of which no shard was ever made, as it will be made, on two images; a native one on one.

    Not on a cluster, whose workers may have a device that is not here.

    Raises:
        ConfigError: One fails.
        DataError: One went further than its epsilon.
    """
    made: dict[str, bool] = {}
    for plan in plans:
        made[plan.label] = made.get(plan.label, False) or plan.finished
    attacks = [each for each in job.config.attacks if each.folder is None and made.get(each.label) is False]
    if not attacks or job.config.engine == "ray":
        return
    split = job.splits["fit"]
    items = [item for item in split.items if item.name not in split.unreadable][:IMAGES]
    pixels = read_items(items, lambda item: split.sources[item.source], job.classifier.prepare).pixels
    origin = predict(job.classifier, pixels, job.config.batch_size)
    with job.progress.task("try attacks", total=len(attacks)) as advance:
        for attack in attacks:
            target = job.worker.target(attack)
            if attack.native:
                photograph = torch.from_numpy(np.array(split.pixels(items[0]))).permute(2, 0, 1)
                size = (photograph.shape[1], photograph.shape[2])
                behind = foreseeing(at_size(target, job.classifier, size), job.config.foreseen(attack, native=True))
                try_attack(attack, behind, photograph[None], origin[:1])
            else:
                try_attack(attack, target, pixels, origin, batch_size=job.config.batch_size)
            advance(1)


def _check_calibration(job: Job, usable: int) -> None:
    """What `[calibrate]` asks of so many images."""
    settings, classes = job.config.calibrate, job.classifier.num_classes
    check_tail(settings, usable)
    check_groups(settings, usable)
    if settings.by is not None and rank_at(settings.rate, usable // classes) < 1:
        job.progress.note(
            f"calibrate: {usable} images are about {usable / classes:.0f} for each of {classes} predicted classes; too "
            f"few for a false-positive rate of {settings.rate:g} in many of them, which will share a group"
        )


def check_tail(settings: CalibrateSettings, usable: int) -> None:
    """See that so many calibration images are enough for the tail estimate, if there is one.

    Raises:
        CalibrationError: They are not.
    """
    if settings.tail and usable < FEWEST_FOR_TAIL:
        raise CalibrationError(
            f"calibrate.tail: an estimate needs at least {FEWEST_FOR_TAIL} calibration images that can be read, "
            f"images.splits.calibrate has {usable}: use more images, or leave it out"
        )


def check_groups(settings: CalibrateSettings, usable: int) -> None:
    """See that so many calibration images reach the rate of each group, if there are groups.

    Raises:
        CalibrationError: They do not.
    """
    if settings.by is not None and rank_at(settings.rate, usable) < 1:
        raise CalibrationError(
            f"calibrate.rate: {usable} calibration images that can be read do not reach {settings.rate:g}: use more "
            "images, or a larger rate"
        )


def check_classifier(job: Job) -> None:
    """Say how often the classifier is right on the clean images.

    Raises:
        DataError: Hardly more often than chance, and `allow_inaccurate` is false.
    """
    parts = [
        read_columns(path, ("truth", "origin"))
        for split in SPLITS
        if len(job.splits[split])
        for path in list_shards(job.work, "attack", split, CLEAN)
    ]
    truth, prediction = (torch.cat([part[name] for part in parts]) for name in ("truth", "origin"))
    truth, prediction = truth[truth >= 0], prediction[truth >= 0]
    if not len(truth):
        job.progress.note("classifier: the images have no labels, so nobody knows how often it is right")
        return
    right, chance = int((truth == prediction).sum()), chance_of(truth, prediction, job.classifier.num_classes)
    said = f"right on {right} of {len(truth)} images ({right / len(truth):.1%}), by chance it would be on {chance:.1%}"
    if not near_chance(right, len(truth), chance):
        job.progress.note(f"classifier: {said}")
        return
    problem = (
        f"the classifier is {said}: what guards it would be worth nothing. Check that classifier.classes (or labels) "
        "stand in the order of the logits, that the class folders hold what they say, the preprocessing (resize, crop, "
        f"mean, std, channel_order) and the weights{_mistaken(truth, prediction, job.classifier.classes)}"
    )
    if not job.config.allow_inaccurate:
        raise DataError(f"{problem}. If this is what it can do: --allow-inaccurate")
    job.progress.note(problem)


def chance_of(truth: Tensor, prediction: Tensor, classes: int) -> float:
    """How often answers like these (n,) would be right if they had nothing to do with the images.

    Cohen 1960 ("A coefficient of agreement for nominal scales"): an answer that is always the same is no achievement
    where most images are of one class. Images of one class alone cannot tell: one in `classes` then.
    """
    share = [torch.bincount(each, minlength=classes) / len(truth) for each in (truth, prediction)]
    return 1 / classes if bool((truth == truth[0]).all()) else max(1 / classes, float((share[0] * share[1]).sum()))


def near_chance(right: int, count: int, chance: float) -> bool:
    """Whether a classifier is hardly better than guessing.

    It is where its accuracy is no better than twice chance, or than a fifth of the way from chance to always right,
    whichever is less; where it is below one in ten; or where luck may explain it (one-sided, 1 %).
    """
    lucky = count * chance + 2.33 * math.sqrt(count * chance * (1 - chance))
    low = max(0.1, min(2 * chance, chance + 0.2 * (1 - chance)))
    return right <= lucky or right / count <= low


def check_attacks(job: Job) -> None:
    """Say which attacks gave nothing to learn from.

    Raises:
        DataError: None of those to learn from did.
    """
    learnt = job.config.attacks_of("fit")
    made = {attack.label: _successes(job, "fit", attack.label) for attack in learnt}
    total = sum(worked for worked, _ in made.values())
    rates = ", ".join(f"{label} {worked} of {tried}" for label, (worked, tried) in made.items())
    if total < FEWEST_SUCCESSES:
        raise DataError(
            f"the attacks changed the prediction of {total} images, at least {FEWEST_SUCCESSES} are needed to learn "
            f"from ({rates}). Look at their size (eps is a share of the full range, such as 8/255) and number of "
            "steps, and at the classifier: weights that were never trained, a preprocessing that is not its own, "
            "probabilities instead of logits and rounding inside the net hide its gradients"
        )
    for family in dict.fromkeys(attack.family for attack in learnt):
        if not sum(made[attack.label][0] for attack in learnt if attack.family == family):
            job.progress.note(f"no attack of family {family} changed a prediction: it cannot be learnt ({rates})")
    if not sum(_successes(job, "test", attack.label)[0] for attack in job.config.every_attack):
        job.progress.note("no attack changed a prediction of the test split: there is nothing to measure")


def _successes(job: Job, split: Split, label: str) -> tuple[int, int]:
    """How many images changed their prediction, and how many were attacked."""
    parts = [read_columns(path, ("origin", "prediction")) for path in list_shards(job.work, "attack", split, label)]
    return sum(int((part["origin"] != part["prediction"]).sum()) for part in parts), sum(
        len(part["origin"]) for part in parts
    )


def _mistaken(truth: Tensor, prediction: Tensor, classes: tuple[str, ...]) -> str:
    """Classes most of whose images are called otherwise, all alike: a sign of another order."""
    said = []
    for label in sorted(set(truth.tolist())):
        answers = prediction[truth == label]
        mode = int(answers.mode().values)
        if mode != label and int((answers == mode).sum()) * 2 > len(answers):
            said.append(f"most images of {printable(classes[label])!r} are called {printable(classes[mode])!r}")
    return f" ({'; '.join(said[:NAMED])})" if said else ""
