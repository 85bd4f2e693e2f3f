"""What a cascade costs and what it misses: looks with few views before looks with many, on evidence that is there.

    heatward train --config examples/cifar10/config.toml                 # once: makes the shards and the full networks
    python -m benchmarks.detection.cascade --config examples/cifar10/config.toml --work work/looks --plot cascade.png

Each look is fitted once, without the photographs that thresholds are chosen on (benchmarks/detection/looks.py), and
kept under --work. Every pair of looks is a cascade: the first clears a share of the clean images, the second ranks the
others, and p-values are ranks of both as one score. "All views" are the networks that the job itself fitted; with
--alike, they are fitted as the other looks are. Where the configuration has a [cascade], "own glance" are the glance
networks that the job fitted. TPR is of attacks on rightly classified images, at thresholds of clean
calibration images, mean over the attacks of training. Cost is in forward passes of the classifier, on clean traffic.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table

from benchmarks.detection.looks import (
    LOOKS,
    OWN_GLANCE,
    Answers,
    answers_of,
    columns_of,
    glance_answers,
    job_answers,
)
from detector.evidence import EvidenceExtractor
from detector.malloc import keep_freed_memory
from detector.scoring.calibration import one_of_each
from detector.scoring.cascade import threshold_of
from detector.settings import MOST_CLEARED
from training.config import CLEAN, TrainingConfig
from training.evaluation.cost import Cost, cost_of
from training.evaluation.measures import Thresholds
from training.evaluation.scores import Scored
from training.evaluation.tables import render
from training.fitting.held_out import is_held_out
from training.job import open_job
from training.load import load_config
from training.progress import make_progress
from training.resume import ShardResults
from training.shards import write_json

__all__ = ["Point", "cascaded", "front", "measured"]

CLEARED = (0.0, 0.3, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.82, 0.84, MOST_CLEARED)
RATES = (0.01, 0.05)
WHOLE = "all views"
LOSS = 0.5  # points of mean TPR at 1 % that `standard` may cost
ECONOMY = 3.5  # forward passes that `economy` may cost


@dataclass(frozen=True)
class Point:
    """One cascade, or a look alone where it clears nothing."""

    first: str
    second: str
    clears: float
    went_on: float  # of clean test images
    attacked_went_on: float  # mean of the attacks
    cost: float
    tpr: Mapping[float, float]  # mean, by rate
    worst: float  # attack, at the first rate
    false_alarms: Mapping[float, float]
    recovered: float

    @property
    def name(self) -> str:
        return self.second if not self.clears else f"{self.first} clears {self.clears:.0%}, then {self.second}"


def cascaded(first: Answers, second: Answers, clears: float) -> Answers:
    """What the pair says: cleared images below 0, in the order of the first look, and labelled by it."""
    if not clears:
        return {key: replace(each, score=np.maximum(each.score, 0)) for key, each in second.items()}
    held = first["fit", CLEAN]
    held = held[is_held_out(torch.from_numpy(held.source)).numpy()]
    threshold = threshold_of(torch.from_numpy(one_of_each(held.score, held.source)), clears)
    return {key: _pair(first[key], second[key], threshold) for key in second}


def _pair(first: Scored, second: Scored, threshold: float) -> Scored:
    below = first.score - threshold
    on = below >= 0

    def chosen(name: str) -> NDArray[np.int64]:
        one, other = getattr(first, name), getattr(second, name)
        return np.where(on if one.ndim == 1 else on[:, None], other, one)

    score = np.where(on, np.maximum(second.score, 0), below)
    return replace(second, score=score, recovered=chosen("recovered"), corrected=chosen("corrected"))


def measured(names: tuple[str, str], said: Answers, clears: float, attacks: Sequence[str], cost: Cost) -> Point:
    """Rates of one cascade.

    Args:
        names: Of its looks.
        said: What it says.
        clears: The share that was to be cleared.
        attacks: Labels that the mean is of.
        cost: Of the first look, and of what goes on besides.
    """
    cuts = Thresholds.of(said["calibrate", CLEAN]).served
    clean = said["test", CLEAN].score
    found = [fair for label in attacks if len(fair := _fair(said["test", label]))]
    tpr = {rate: [float((each.score > cuts[rate]).mean()) for each in found] for rate in RATES}
    went_on = float((clean >= 0).mean())
    return Point(
        first=names[0],
        second=names[1],
        clears=clears,
        went_on=went_on,
        attacked_went_on=float(np.mean([(each.score >= 0).mean() for each in found])),
        cost=cost.mean(went_on),
        tpr={rate: float(np.mean(each)) for rate, each in tpr.items()},
        worst=min(tpr[RATES[0]]),
        false_alarms={rate: float((clean > cuts[rate]).mean()) for rate in RATES},
        recovered=float(np.mean([(each.recovered[:, 0] == each.origin).mean() for each in found])),
    )


def _fair(scored: Scored) -> Scored:
    return scored[scored.fair]


def front(points: Sequence[Point]) -> list[Point]:
    """Those that nothing cheaper equals, cheapest first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda each: (each.cost, -each.tpr[RATES[0]])):
        if not best or point.tpr[RATES[0]] > best[-1].tpr[RATES[0]]:
            best.append(point)
    return best


def operating_points(points: Sequence[Point]) -> dict[str, Point]:
    """`full`: no cascade; `standard`: the cheapest that misses hardly more; `economy`: the best that costs little."""
    rate = RATES[0]
    whole = next(each for each in points if each.second == WHOLE and not each.clears)
    close = [each for each in points if each.tpr[rate] >= whole.tpr[rate] - LOSS / 100]
    cheap = [each for each in points if each.cost <= ECONOMY]
    chosen = {"standard": min(close, key=lambda each: each.cost), "full": whole}
    return ({"economy": max(cheap, key=lambda each: each.tpr[rate])} if cheap else {}) | chosen


def every_point(
    config: TrainingConfig,
    said: Mapping[str, Answers],
    places: Mapping[str, Sequence[int]],
    alone: Cost,
) -> list[Point]:
    """Each look alone, and each before each that sees more.

    Args:
        config: Names the attacks.
        said: Look → answers.
        places: Look → its views.
        alone: Of a glance, and of all views besides.
    """
    attacks = [attack.label for attack in config.every_attack if attack.train]
    view = alone.views / len(places[WHOLE])
    points = []
    for second, answers in said.items():
        whole = Cost(alone.glance + view * len(places[second]), 0)
        points.append(measured((second, second), cascaded(answers, answers, 0), 0, attacks, whole))
        for first, glanced in said.items():
            more = set(places[second]) - set(places[first])
            if not more or not set(places[first]) <= set(places[second]):
                continue
            cost = Cost(alone.glance + view * len(places[first]), view * len(more))
            points += [
                measured((first, second), cascaded(glanced, answers, clears), clears, attacks, cost)
                for clears in CLEARED
                if clears
            ]
    return points


def table(points: Sequence[Point], named: Mapping[str, Point], title: str) -> Table:
    shown = Table(title=title, title_justify="left")
    for column in ("", "look", "forward passes", "clean went on", "attacks went on"):
        shown.add_column(column, justify="left" if column in ("", "look") else "right")
    for column in ("TPR at 1 %", "at 5 %", "worst at 1 %", "clean flagged at 1 %", "label recovered"):
        shown.add_column(column, justify="right")
    for point in points:
        role = ", ".join(name for name, each in named.items() if each == point)
        rates = (point.went_on, point.attacked_went_on, *point.tpr.values(), point.worst)
        numbers = [f"{100 * each:.1f} %" for each in (*rates, point.false_alarms[RATES[0]], point.recovered)]
        shown.add_row(role, point.name, f"{point.cost:.1f}", *numbers)
    return shown


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="of a job whose fit stage is finished")
    parser.add_argument("--work", type=Path, default=Path("work/looks"), help="keeps the looks' networks and answers")
    parser.add_argument("--looks", nargs="*", default=list(LOOKS), choices=list(LOOKS), help="default: all")
    parser.add_argument("--alike", action="store_true", help="fit all views as the other looks are, too")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--ensemble", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--plot", type=Path, help="draw the front here")
    parser.add_argument("--json", type=Path, help="write every point here, too")
    options = parser.parse_args(arguments)

    keep_freed_memory()
    config = load_config(options.config, {"threads": options.threads})
    few = {"ensemble": options.ensemble, "epochs": options.epochs, "buffer_shards": 8}
    fewer = config.model_copy(update={"fit": config.fit.model_copy(update=few)})
    with make_progress() as progress:
        job = open_job(config, progress)
        ShardResults("attribute", job).require()
        said = {
            look: answers_of(job, fewer, look, options.work)
            if look != WHOLE or options.alike
            else job_answers(job, options.work)
            for look in dict.fromkeys((*options.looks, WHOLE))
        }
        if config.cascade.clears:
            said = {OWN_GLANCE: glance_answers(job, options.work), **said}
        alone = cost_of(EvidenceExtractor(job.classifier, config.evidence, job.witness))
    if alone is None:
        raise SystemExit("the classifier's operations cannot be seen: nothing to measure cost in")
    places = {look: columns_of(config, look) for look in said}
    points = every_point(config, said, places, alone)
    named = operating_points(points)
    shown = {"Operating points": list(named.values()), "Front": front(points), "Every cascade": points}
    print(render([table(each, named, title) for title, each in shown.items()]))
    if options.json:
        write_json(options.json, [asdict(point) for point in points])
    if options.plot:
        from benchmarks.detection.cascade_plot import draw  # matplotlib: only where it is asked for

        draw(points, front(points), named, options.plot)


if __name__ == "__main__":
    main()
