"""Which predictions can be relied on: a detector and attribution shards of the test split in, risk–coverage curves out.

    clean ─┐                                   ┌─▶ risk–coverage curve and its area, of each mixture
    corrupted ─┤ risk, softmax, margin; wrong? ┤
    attacked ──┤                               └─▶ of each kind: share accepted at a promised error rate, and how much
    foreign ───┘                                   of what is accepted is wrong

A mixture holds several kinds of images; each kind weighs alike in it, and inside a kind each label. Wrong is a
prediction that is not the photograph's class; of foreign images, which show nothing, every one. Attacks are those that
changed the prediction. Sources: El-Yaniv & Wiener 2010; Geifman, Uziel & El-Yaniv 2019 (area under risk–coverage).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detector.detector import Detector
from detector.evidence import Evidence
from detector.scoring.cascade import score_of_both
from detector.scoring.reliability import Reliability
from detector.scoring.risk import signs
from training.config import CLEAN, TrainingConfig
from training.evaluation.result import HEATWARD, AcceptedResult, ReliabilityResult, RiskCoverage, RiskCurve
from training.progress import Progress, SilentProgress
from training.shards import list_shards, read_shard

__all__ = ["RATES", "Relied", "area", "foreign_images", "measure", "read", "relied", "summarise"]

Floats = NDArray[np.float64]
RATES = (0.01, 0.02, 0.05, 0.1)
SOFTMAX, MARGIN = "softmax", "margin"
KINDS = (CLEAN, "corrupted", "attacked", "foreign")
FOREIGN = 64
POINTS = 100
ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Relied:
    """n predictions of one label, and how risky each is said to be."""

    wrong: NDArray[np.bool_]  # (n,)
    risks: Mapping[str, Floats]  # by detector, (n,) higher = riskier

    @classmethod
    def cat(cls, parts: Sequence[Relied]) -> Relied:
        """Several as one."""
        names = parts[0].risks
        return cls(
            np.concatenate([part.wrong for part in parts]),
            {name: np.concatenate([part.risks[name] for part in parts]) for name in names},
        )

    def __len__(self) -> int:
        return len(self.wrong)


def measure(config: TrainingConfig, detector: Detector, progress: Progress | None = None) -> ReliabilityResult | None:
    """Measure on the test split; None where the detector promises nothing."""
    if detector.reliability is None:
        return None
    return summarise(read(config, detector, progress or SilentProgress()), detector.reliability)


def read(config: TrainingConfig, detector: Detector, progress: Progress) -> dict[str, list[Relied]]:
    """Every kind of images that there is, label by label.

    Raises:
        DataError: Shards are missing.
    """
    labels = {
        CLEAN: [CLEAN],
        "corrupted": list(config.corruptions.labels),
        "attacked": [attack.label for attack in config.every_attack],
    }
    found: dict[str, list[Relied]] = {}
    with progress.task("evaluate reliability", sum(map(len, labels.values())), unit="labels") as advance:
        for kind, names in labels.items():
            for name in names:
                parts = list(_read_label(config, name, detector))
                advance(1)
                if parts:
                    found.setdefault(kind, []).append(Relied.cat(parts))
    images = foreign_images(FOREIGN, detector.classifier.input_size, config.seed).to(detector.classifier.device)
    found["foreign"] = [relied(detector, detector.extractor(images), torch.full((FOREIGN,), True))]
    return found


def relied(detector: Detector, evidence: Evidence, wrong: Tensor) -> Relied:
    """What is said of n predictions."""
    if detector.reliability is None:
        raise ValueError("the detector has no reliability: it was not calibrated for it")
    judged = score_of_both(detector.cascade, detector.networks, evidence)
    found = signs(evidence, *judged, views=detector.reliability.head.views)
    logits = evidence.logits.double().cpu()
    first, second = logits.topk(2).values.unbind(1)
    others = (logits.logsumexp(1, keepdim=True) - first[:, None]).squeeze(1)
    risks = {HEATWARD: detector.reliability.head(found), SOFTMAX: others, MARGIN: second - first}
    return Relied(wrong.cpu().numpy(), {name: each.numpy() for name, each in risks.items()})


def _read_label(config: TrainingConfig, label: str, detector: Detector) -> Iterator[Relied]:
    for path in list_shards(config.work, "attribute", "test", label):
        shard = read_shard(path)
        known = shard["truth"] >= 0
        evidence = Evidence.from_tensors(shard)[known]
        wrong = (shard["prediction"] != shard["truth"])[known]
        for start in range(0, len(evidence), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            yield relied(detector, evidence[rows].float().to(detector.classifier.device), wrong[rows])


def summarise(found: Mapping[str, Sequence[Relied]], reliability: Reliability) -> ReliabilityResult:
    """Curves of each mixture, and what is accepted of each kind."""
    present = [kind for kind in KINDS if kind in found]
    mixtures = [present[: count + 1] for count in range(len(present))]
    reached = [rate for rate in RATES if rate >= reliability.smallest_rate]
    return ReliabilityResult(
        smallest_rate=reliability.smallest_rate,
        curves=tuple(_curves({kind: found[kind] for kind in kinds}) for kinds in mixtures),
        accepted=tuple(
            _accepted(kind, Relied.cat(found[kind]), reliability, rate) for rate in reached for kind in present
        ),
    )


def _curves(found: Mapping[str, Sequence[Relied]]) -> RiskCoverage:
    labels = [each for parts in found.values() for each in parts]
    share = [1 / len(parts) / len(each) / len(found) for parts in found.values() for each in parts]
    every = Relied.cat(labels)
    weight = np.repeat(share, [len(each) for each in labels])
    return RiskCoverage(
        mixture=" + ".join(found),
        images=len(every),
        wrong=float(weight @ every.wrong),
        curves={name: _curve(risk, every.wrong, weight) for name, risk in every.risks.items()},
    )


def _curve(risk: Floats, wrong: NDArray[np.bool_], weight: Floats) -> RiskCurve:
    coverage, error = _risk_coverage(risk, wrong, weight)
    at = np.unique(np.searchsorted(coverage, np.linspace(0, 1, POINTS + 1)[1:-1]).clip(0, len(coverage) - 1))
    at = np.union1d(at, [len(coverage) - 1])
    return RiskCurve(
        area=area(risk, wrong, weight),
        coverage=np.round(coverage[at], 5).tolist(),
        error=np.round(error[at], 5).tolist(),
    )


def area(risk: Floats, wrong: NDArray[np.bool_], weight: Floats | None = None) -> float:
    """Area under risk–coverage: the mean, over all coverages, of the share of accepted predictions that are wrong.

    Args:
        risk: (n,) the least risky are accepted first; of a tie, all are accepted together.
        wrong: (n,).
        weight: (n,) of each image; None: all alike.
    """
    weight = np.ones(len(risk)) if weight is None else weight
    coverage, error = _risk_coverage(risk, wrong, weight)
    return float(np.diff(coverage, prepend=0) @ error)


def _risk_coverage(risk: Floats, wrong: NDArray[np.bool_], weight: Floats) -> tuple[Floats, Floats]:
    """Coverage, ascending to 1, and the share of wrong ones among the accepted; a point for each risk."""
    order = np.argsort(risk, kind="stable")
    last = np.append(np.diff(risk[order]) > 0, True)  # of each tie
    mass = np.cumsum(weight[order])[last]
    return mass / mass[-1], np.cumsum((weight * wrong)[order])[last] / mass


def _accepted(kind: str, found: Relied, reliability: Reliability, rate: float) -> AcceptedResult:
    within = (reliability.of_risk(torch.from_numpy(found.risks[HEATWARD])) <= rate).numpy()
    return AcceptedResult(
        kind=kind,
        rate=rate,
        images=len(found),
        accepted=int(within.sum()),
        accepted_wrong=int((within & found.wrong).sum()),
    )


def foreign_images(count: int, size: tuple[int, int], seed: int) -> Tensor:
    """(count, 3, H, W) in [0, 1] that show nothing: in turn one colour, stripes, a gradient, and noise."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    row, column = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)[None]
    drawn = []
    for number in range(count):
        one, other = torch.rand(2, 3, 1, 1, generator=generator)
        across, down = torch.rand(2, generator=generator)
        slope = (across * row + down * column) / (across + down)
        share = {
            0: torch.zeros(height, width),
            1: ((4 + 8 * across) * torch.pi * slope).sin().sign() / 2 + 0.5,
            2: slope.expand(height, width),
            3: torch.rand(3, height, width, generator=generator),
        }[number % 4]
        drawn.append((one + (other - one) * share).expand(3, height, width))
    return torch.stack(drawn).mul(255).round().div(255)
