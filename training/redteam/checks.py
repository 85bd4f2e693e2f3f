"""Does the red team attack at all? Finished lines and a few more attacks in, checks (passed, failed, not run) out.

11 of 13 published evaluations fail such tests (Zimmermann et al. 2022; Carlini et al. 2019, "On Evaluating Adversarial
Robustness"). A red team whose checks fail says nothing by getting nowhere, so they fail the report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from detector.detector import Detector
from detector.errors import DataError
from training.redteam.figures import Seen, seen_under
from training.redteam.parts import Judged, Piece, Workshop
from training.redteam.planted import last_layer, plant
from training.redteam.result import Check, Line, Told
from training.redteam.settings import RedTeamSettings
from training.redteam.statistics import share
from training.redteam.targets import Targets
from training.redteam.values import Budget, Norm, Outcome
from training.redteam.whitebox import Attack
from training.retraining.paired import paired_difference
from training.shards import derived_seed

__all__ = ["FOUND", "Strongest", "run_checks"]

FOUND = 0.95
"""Share of planted images that is to be found."""
WIDE = 128 / 255
"""With this budget a grey image, and any other, lies within reach of every image: all must succeed."""
PLANTED_EPS = 8 / 255
BLACK = (2, 3)
WHITE = 4
NAMES = ("planted image found", "inverted: planted image found", "ε = 128/255 reaches all", "more steps never hurt")


@dataclass(frozen=True)
class Strongest:
    """The white-box attacks together, as the checks try them.

    Attributes:
        attacks: By name.
        detector: Is attacked.
        workshop: Makes the pieces.
        targets: A few images.
        clean: What the detector says of them.
    """

    attacks: dict[str, Attack]
    detector: Detector
    workshop: Workshop
    targets: Targets
    clean: Judged
    settings: RedTeamSettings

    def successes(self, purpose: str, budget: Budget, *, planted: bool = False, inverted: bool = False) -> Tensor:
        """(N,) bool: images with which any of the attacks succeeds; each tries those that are left.

        With `planted`, success is what the detector says in which an image was planted.
        """
        found = torch.zeros(len(self.targets), dtype=torch.bool)
        for name, attack in self.attacks.items():
            left = (~found).nonzero()[:, 0]
            if not len(left):
                break
            run = self._on_planted(attack, budget, inverted) if planted else self._plain(attack, budget)
            part = self.workshop.make(Piece(WHITE, name, budget, run, purpose=purpose), self.targets[left])
            if planted:
                found[left] = part.spent > 0  # the workshop's detector knows nothing of what was planted
            else:
                seen = seen_under(part, self.targets[left], self.clean[left], budget.norm, budget.eps)
                found[left] = seen.success(self.settings.rate)
        return found

    def _plain(self, attack: Attack, budget: Budget) -> Callable[[Tensor, int], Outcome]:
        def run(images: Tensor, seed: int) -> Outcome:
            return attack(self.detector, images, self.settings.rate, budget, seed)

        return run

    def _on_planted(self, attack: Attack, budget: Budget, inverted: bool) -> Callable[[Tensor, int], Outcome]:
        """Attacks a detector of its own for each image; `spent` is 0 where the planted image was not found."""

        def run(images: Tensor, seed: int) -> Outcome:
            outcomes = []
            for row, image in enumerate(images):
                own = derived_seed(seed, row)
                planted = plant(self.detector, image, budget, self.settings.rate, own, inverted=inverted).detector
                outcome = attack(planted, image[None], self.settings.rate, budget, own)
                (before, after) = planted.detect(torch.cat([image[None], outcome.images]))
                there = after.label != before.label and after.p_value > self.settings.rate
                outcomes.append(replace(outcome, spent=outcome.spent.clamp_min(1) * there))
            return Outcome(
                torch.cat([each.images for each in outcomes]),
                torch.cat([each.fools for each in outcomes]),
                torch.cat([each.p_value for each in outcomes]),
                torch.cat([each.spent for each in outcomes]),
                sum(each.cpu_s for each in outcomes),
            )

        return run


def run_checks(
    strongest: Strongest | None, why: str, lines: Sequence[Line], seen: dict[int, list[Seen]]
) -> list[Check]:
    """Every check.

    Args:
        strongest: The white box; None where it was not run.
        why: Then the reason.
        lines: Of the report.
        seen: Row → what counts at the widest budget that white box and oracles share.
    """
    if strongest is None:
        found = [Check(name=name, told="not run", said=why) for name in NAMES]
    else:
        found = [*_active(strongest), _wide(strongest), _more(strongest)]
    return [*found, _order(seen, why), _curves(lines)]


def _active(strongest: Strongest) -> Iterable[Check]:
    settings = strongest.settings
    budget = Budget("Linf", PLANTED_EPS, max(settings.steps), settings.restarts)
    for name, inverted in zip(NAMES[:2], (False, True), strict=True):
        if not last_layer(strongest.detector.classifier):
            said = "the classifier does not end in a linear layer, so nothing can be planted in it"
            yield Check(name=name, told="not run", said=said)
            continue
        purpose = "inverted" if inverted else "planted"
        try:
            found = strongest.successes(purpose, budget, planted=True, inverted=inverted)
        except DataError as error:
            yield Check(name=name, told="not run", said=str(error))
            continue
        yield _check(name, float(found.double().mean()) >= FOUND, f"{_of(found)}, at least {FOUND:.0%} expected")


def _wide(strongest: Strongest) -> Check:
    settings = strongest.settings
    found = strongest.successes("wide", Budget("Linf", WIDE, max(settings.steps), settings.restarts))
    return _check(NAMES[2], bool(found.all()), f"{_of(found)}, all expected")


def _more(strongest: Strongest) -> Check:
    """Half of the steps and one restart beside the whole budget, at the middle size."""
    settings = strongest.settings
    norm, eps = settings.budgets[len(settings.budgets) // 2]
    steps = max(settings.steps)
    few = strongest.successes("few", Budget(norm, eps, max(1, steps // 2), 1))
    many = strongest.successes("many", Budget(norm, eps, steps, settings.restarts + 1))
    said = f"{_of(few)} with {max(1, steps // 2)} steps, {_of(many)} with {steps} and {settings.restarts + 1} restarts"
    return _check(NAMES[3], _no_worse(few, many), f"{said}, {_size(norm, eps)}")


def _order(seen: dict[int, list[Seen]], why: str) -> Check:
    name = "white box ≥ black box"
    if WHITE not in seen or not set(BLACK) & seen.keys():
        missing = why if WHITE not in seen and why else "no oracle was asked at a budget of the white box"
        return Check(name=name, told="not run", said=missing)

    def fooled(row: int) -> Tensor:
        return torch.stack([each.fooled & (each.judged.p_value > 0.05) for each in seen[row]]).any(0)

    white = fooled(WHITE)
    worse = [row for row in BLACK if row in seen and not _no_worse(fooled(row), white)]
    said = ", ".join(f"row {row} {_of(fooled(row))}" for row in (*BLACK, WHITE) if row in seen)
    return _check(name, not worse, said)


def _curves(lines: Sequence[Line]) -> Check:
    """A loss that does not fall is no attack; one that lies at 0 has nothing to fall."""
    name = "loss curves fall"
    drawn = [line for line in lines if len(line.curve) >= 4]
    if not drawn:
        return Check(name=name, told="not run", said="no attack told its losses")
    rising = []
    for line in drawn:
        quarter = max(1, len(line.curve) // 4)
        first, last = sum(line.curve[:quarter]) / quarter, sum(line.curve[-quarter:]) / quarter
        if last > first + 1e-6 + 0.02 * abs(first):
            rising.append(f"row {line.row} {line.method} {_size(line.norm, line.eps)}")
    return _check(name, not rising, f"{len(drawn)} curves" + (f"; rising: {', '.join(rising)}" if rising else ""))


def _no_worse(fewer: Tensor, more: Tensor) -> bool:
    """Whether it is not surely less: a single image may go either way."""
    return paired_difference(fewer.numpy(), more.numpy()).high >= 0


def _check(name: str, good: bool, said: str) -> Check:
    told: Told = "passed" if good else "failed"
    return Check(name=name, told=told, said=said)


def _of(found: Tensor) -> str:
    hits, count = int(found.sum()), len(found)
    estimate = share(hits, count)
    return f"{hits} of {count} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _size(norm: Norm, eps: float) -> str:
    return f"{eps * 255:g}/255" if norm == "Linf" else f"L2 {eps:g}"
