"""What is left of an attack that arrives as a JPEG file, and how much of it is caught?

    python -m benchmarks.detection.delivered data/test                 # 500 photographs, about 8 minutes of one core
    python -m benchmarks.detection.delivered data/test --bundle my.heatward

Photographs that training did not use (`<class>/<image>`) flow in. They are attacked, with and without an attacker who
foresees JPEG, and delivered as PNG and as JPEG. Out comes, of photographs that the classifier gets right, how many
still fool it on arrival; of those that do, how many are flagged or not to be relied on and how often the label before
the attack comes back; and how many clean photographs are flagged or not relied on, delivered the same ways. Detectors
that keep their promised 1 % differently well are compared by the last column of rates: flagged where exactly 1 % of
these clean photographs are, as PNG and as quality 90 together.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from detector.bundle import EMBEDDED
from detector.detector import Detector, Verdict
from detector.malloc import keep_freed_memory
from examples.demo.images import load_photographs
from training.attacks import attack_images
from training.attacks.deliver import deliver
from training.attacks.through import foreseeing
from training.config import AttackSpec
from training.deliveries import Step
from training.progress import make_progress
from training.stages.attack import predict

BATCH = 50
RATES = (0.01, 0.05)
WAYS = {
    "PNG": (),
    "quality 90": (Step(jpeg=90),),
    "quality 75": (Step(jpeg=75),),
    "quality 90, 4:4:4": (Step(jpeg=90, subsampling=("4:4:4",)),),
}
"""What arrives. Colours are subsampled 4:2:0 where nothing else is said."""
FORESEEN = (Step(jpeg={"uniform": [60, 98]}),)
SIZES = {"eps": "8/255", "alpha": "2/255", "steps": 10}
PGD = AttackSpec(name="PGD", label="pgd-8", family="iterative", parameters=SIZES)
MOMENTUM = AttackSpec(name="MIFGSM", label="momentum-8", family="iterative", parameters=SIZES)
ATTACKS = {
    "PGD": (PGD, ()),
    "PGD with momentum": (MOMENTUM, ()),
    "PGD through JPEG": (PGD, FORESEEN),
}
WRONG = 0.05
"""Error rate that is borne: a prediction that is promised a higher one is not relied on."""
COLUMNS = (
    "attack",
    "arrives as",
    "still fool",
    "flagged at 1 %",
    "at 5 %",
    f"not relied on at {WRONG:.0%}".replace("%", " %"),
    "flagged at 1 % or not relied on",
    "flagged at 1 % of these clean ones",
    "label recovered",
    "images",
)


@dataclass(frozen=True)
class Photographs:
    """pixels (n, 3, H, W) uint8; truth and origin, the prediction on them, (n,)."""

    pixels: Tensor
    truth: Tensor
    origin: Tensor

    @property
    def right(self) -> Tensor:
        """(n,) bool: where the classifier is right, so that there is something to attack."""
        return self.truth == self.origin


def judged(detector: Detector, pixels: Tensor) -> list[Verdict]:
    return [verdict for part in pixels.split(BATCH) for verdict in detector.detect(part / 255)]


def flagged(verdicts: Sequence[Verdict], rate: float) -> str:
    return share([verdict.p_value <= rate for verdict in verdicts])


def not_relied_on(verdict: Verdict) -> bool:
    return verdict.error_rate is None or verdict.error_rate > WRONG


def score_of_one_percent(detector: Detector, photographs: Photographs) -> float:
    """The attack score that 1 % of the clean photographs exceed, as PNG and as quality 90 together."""
    arrived = [deliver(photographs.pixels, WAYS[way], seed=0) for way in ("PNG", "quality 90")]
    scores = torch.tensor([verdict.attack_score for verdict in judged(detector, torch.cat(arrived))])
    return scores.double().quantile(1 - min(RATES)).item()


def stopped(verdicts: Sequence[Verdict], score: float) -> list[str]:
    """Cells of what is flagged, not relied on, either, and of a higher score."""
    return [
        *(flagged(verdicts, rate) for rate in RATES),
        share([not_relied_on(verdict) for verdict in verdicts]),
        share([verdict.p_value <= min(RATES) or not_relied_on(verdict) for verdict in verdicts]),
        share([verdict.attack_score > score for verdict in verdicts]),
    ]


def share(these: Sequence[bool]) -> str:
    return f"{sum(these) / len(these):.1%}".replace("%", " %") if these else "–"


def attacked_row(
    detector: Detector, photographs: Photographs, attacked: Tensor, way: Sequence[Step], score: float
) -> list[str]:
    """Cells of `COLUMNS` after the second, of attacked images (n, 3, H, W) that are yet to be delivered."""
    arrived = deliver(attacked, way, seed=0)
    label = predict(detector.classifier, arrived, BATCH)
    fools = (label != photographs.origin) & photographs.right
    verdicts = judged(detector, arrived[fools])
    origin = photographs.origin[fools].tolist()
    recovered = [verdict.recovered[0][0] == before for verdict, before in zip(verdicts, origin, strict=True)]
    still = share(fools[photographs.right].tolist())
    return [still, *stopped(verdicts, score), share(recovered), str(len(verdicts))]


def clean_row(detector: Detector, photographs: Photographs, way: Sequence[Step], score: float) -> list[str]:
    """As `attacked_row`, of clean photographs, those that the classifier gets wrong among them."""
    arrived = deliver(photographs.pixels, way, seed=0)
    other = predict(detector.classifier, arrived, BATCH) != photographs.origin
    verdicts = judged(detector, arrived)
    return [share(other[photographs.right].tolist()), *stopped(verdicts, score), "–", str(len(other))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--bundle", type=Path, default=EMBEDDED)
    parser.add_argument("--images", type=int, default=500, help="photographs (%(default)s)")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    detector = Detector.from_bundle(arguments.bundle)
    classifier = detector.classifier
    found = load_photographs(arguments.photographs, classifier, arguments.images)
    pixels = torch.stack([each.pixels for each in found])
    truth = torch.tensor([classifier.classes.index(each.truth) for each in found])
    photographs = Photographs(pixels, truth, predict(classifier, pixels, BATCH))

    score = score_of_one_percent(detector, photographs)
    rows = []
    with make_progress() as progress, progress.task("attack, deliver, judge", len(ATTACKS) + 1) as advance:
        for name, (attack, foreseen) in ATTACKS.items():
            target = foreseeing(classifier, foreseen)
            attacked = attack_images(attack, target, pixels, photographs.origin, seed=0, batch_size=BATCH)
            for way, steps in WAYS.items():
                rows.append([name, way, *attacked_row(detector, photographs, attacked, steps, score)])
            advance(1)
        for way, steps in WAYS.items():
            rows.append(["none", way, *clean_row(detector, photographs, steps, score)])
        advance(1)
    print(f"\n{len(pixels)} photographs, {int(photographs.right.sum())} of which the classifier gets right\n")
    for cells in (COLUMNS, ("---", "---", *["--:"] * (len(COLUMNS) - 2)), *rows):
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
