"""Three ways to calibrate the same scores: by predicted class, beyond the smallest p-value, for a batch together.

    heatward train --config examples/cifar10/config.toml                 # once: makes networks and shards
    python -m benchmarks.detection.calibrations --config examples/cifar10/config.toml

False alarms by predicted class, with one calibration and with one of each class. The tail estimate beside the share of
clean images that were not used for it and score as high. The false discovery rate of batches that mix clean and
attacked images. The job's own split is one draw, so clean images of the calibrate and test splits are also dealt anew,
many times, and the mean of all deals is told; attacks are those of images that do not calibrate.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from heatward.client.discoveries import discoveries
from numpy.typing import NDArray
from rich.table import Table

from detector.errors import CalibrationError, ConfigError, DataError, HeatwardError
from detector.scoring.calibration import Calibration
from detector.scoring.groups import Groups
from detector.scoring.tail import Tail
from training.config import CLEAN
from training.evaluation.scores import Scored, by_network, from_evidence
from training.evaluation.tables import render
from training.fitting.glance import load_cascade
from training.fitting.networks import load_networks
from training.job import open_job
from training.load import load_config
from training.progress import make_progress
from training.shards import list_shards

RATES = (0.01, 0.05)
SEED = 0
CALIBRATED = (1000, 2000)
TAILS = (200, 500, 1000)
BATCH = 1000
SHARES = (0.0, 0.01, 0.05, 0.1)
DISCOVERY_RATES = (0.05, 0.1)


def deals(clean: Scored, calibrated: int, draws: int) -> Iterator[tuple[Scored, Scored]]:
    """Clean images to calibrate on and others, dealt anew each time."""
    random = np.random.default_rng(SEED)
    for _ in range(draws):
        chosen = np.isin(np.arange(len(clean)), random.permutation(len(clean))[:calibrated])
        yield clean[chosen], clean[~chosen]


def flagged(calibrate: Scored, test: Scored, rate: float, classes: int, *, apart: bool) -> NDArray[np.bool_]:
    """Which test images (n,) are flagged."""
    scores, predictions = torch.from_numpy(test.score), torch.from_numpy(test.prediction)
    if apart:
        own = (calibrate.score, calibrate.prediction, calibrate.source)
        p_values = Groups.fit(*own, classes=classes, rate=rate).p_value(scores, predictions)
    else:
        p_values = Calibration.fit(torch.from_numpy(calibrate.score)).p_value(scores)
    found: NDArray[np.bool_] = p_values.numpy() <= rate
    return found


def alarms(calibrate: Scored, test: Scored, rate: float, classes: int, *, apart: bool) -> NDArray[np.float64]:
    """(K,) share of test images flagged, by predicted class."""
    flags = flagged(calibrate, test, rate, classes, apart=apart)
    counts = np.bincount(test.prediction, minlength=classes)
    with np.errstate(invalid="ignore"):
        return np.bincount(test.prediction[flags], minlength=classes) / counts


def by_class(calibrate: Scored, test: Scored, attacked: Scored, classes: Sequence[str], draws: int) -> Table:
    """One row a predicted class: the job's own split, and the mean of `draws` deals; attacks flagged, at last."""
    columns: dict[str, NDArray[np.float64]] = {}
    caught: list[str] = []
    both = Scored.cat([calibrate, test])
    for rate in RATES:
        for name, apart in (("together", False), ("apart", True)):
            columns[f"{name}, {rate:.0%}"] = alarms(calibrate, test, rate, len(classes), apart=apart)
            caught += [f"{flagged(calibrate, attacked, rate, len(classes), apart=apart).mean():.1%}", ""]
            dealt = deals(both, len(calibrate), draws)
            found = [alarms(*deal, rate, len(classes), apart=apart) for deal in dealt]
            columns[f"{name}, {rate:.0%}, mean of {draws} deals"] = np.nanmean(found, axis=0)
    own = (calibrate.score, calibrate.prediction, calibrate.source)
    table = Table("predicted", "calibrate", "test", *columns, title="False alarms by predicted class")
    for number, name in enumerate(classes):
        counts = (str(int((each.prediction == number).sum())) for each in (calibrate, test))
        table.add_row(name, *counts, *(f"{column[number]:.1%}" for column in columns.values()))
    spread = (f"{np.nanmin(each):.1%} to {np.nanmax(each):.1%}" for each in columns.values())
    table.add_row("lowest to highest", "", "", *spread)
    table.add_row("attacks", "", str(len(attacked)), *caught)
    sizes = {rate: Groups.fit(*own, classes=len(classes), rate=rate).sizes for rate in RATES}
    table.caption = "; ".join(f"at {rate:.0%} groups of {sizes[rate]}" for rate in RATES)
    return table


def tails(clean: Scored, draws: int) -> Table:
    """One row a number of calibration images and a share: the estimate divided by the truth."""
    head = ("calibrated on", "true share", "of 1/(n + 1)", "estimate / truth, median", "10 % and 90 %", "truth covered")
    table = Table(*head, "refused", title="Tail estimate beside the share of other clean images")
    for calibrated in TAILS:
        rows: dict[int, list[tuple[float, bool]]] = {}
        refused = 0
        for calibrate, others in deals(clean, calibrated, draws):
            highest = np.sort(others.score)[::-1]
            try:
                tail = Tail.fit(calibrate.score)
            except CalibrationError:
                refused += 1
                continue
            for rank in (1, 2, 4, 8):
                share = rank / len(others)
                if share <= 1 / (calibrated + 1) and highest[rank - 1] > calibrate.score.max():
                    found = tail.estimate(float(highest[rank - 1]))
                    rows.setdefault(rank, []).append((found.probability / share, found.low <= share <= found.high))
        for rank, said in rows.items():
            ratios, covered = zip(*said, strict=True)
            share = rank / (len(clean) - calibrated)
            low, middle, high = np.quantile(ratios, [0.1, 0.5, 0.9])
            table.add_row(
                str(calibrated),
                f"{share:.2%}",
                f"{share * (calibrated + 1):.2f}",
                f"{middle:.2f}",
                f"{low:.2f}, {high:.2f}",
                f"{np.mean(covered):.0%} of {len(said)}",
                str(refused),
            )
    return table


def batches(clean: Scored, attacked: Scored, draws: int) -> Table:
    """One row a number of calibration images and a share of attacked images in a batch.

    Raises:
        DataError: Too few clean images, or too few attacks that succeeded on images that do not calibrate.
    """
    needed = max(CALIBRATED) + BATCH
    if len(clean) < needed:
        raise DataError(f"batches of {BATCH} need {needed} clean images, here are {len(clean)}: test on more images")
    head = [f"{what}, {rate:.0%}" for rate in DISCOVERY_RATES for what in ("false discoveries", "attacks found")]
    flagged = ("false among flagged at 1 %", "attacks flagged at 1 %")
    table = Table("calibrated on", "attacked", *head, *flagged, title=f"Batches of {BATCH} images")
    random = np.random.default_rng(SEED)
    for calibrated in CALIBRATED:
        for share in SHARES:
            count, said = round(share * BATCH), []
            for calibrate, others in deals(clean, calibrated, draws):
                usable = np.flatnonzero(~np.isin(attacked.source, calibrate.source))
                if len(usable) < count:
                    raise DataError(
                        f"batches of {BATCH}, {share:.0%} of them attacked, need {count} successful attacks on images "
                        f"that do not calibrate, here are {len(usable)}: name more --attacks, or test on more images"
                    )
                hit = attacked.score[random.choice(usable, count, replace=False)]
                scores = np.concatenate([hit, random.choice(others.score, BATCH - count, replace=False)])
                fitted = Calibration.fit(torch.from_numpy(calibrate.score))
                p_values = fitted.p_value(torch.from_numpy(scores)).numpy()
                calls = [np.array(discoveries(p_values.tolist(), rate)) for rate in DISCOVERY_RATES]
                calls.append(p_values <= 0.01)
                said.append([each for call in calls for each in (_false(call, count), _found(call, count))])
            means = np.mean(said, axis=0)
            table.add_row(str(calibrated), f"{share:.0%}", *("–" if np.isnan(m) else f"{m:.1%}" for m in means))
    return table


def _false(call: NDArray[np.bool_], attacked: int) -> float:
    return float(call[attacked:].sum() / max(1, call.sum()))


def _found(call: NDArray[np.bool_], attacked: int) -> float:
    return float(call[:attacked].mean()) if attacked else float("nan")


def main() -> None:
    """Read the command line, print the tables."""
    try:
        run()
    except HeatwardError as error:
        raise SystemExit(f"error: {error}") from error


def run(argv: Sequence[str] | None = None) -> None:
    """As `main`.

    Raises:
        HeatwardError: The configuration, or what its job has made, cannot be used.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="of the job, which has fitted and attributed")
    parser.add_argument("--draws", type=int, default=200, help="deals (%(default)d)")
    parser.add_argument("--attacks", nargs="+", metavar="LABEL", help="only these, of the configuration's")
    arguments = parser.parse_args(argv)
    config = load_config(arguments.config, {"threads": 1})
    known = [attack.label for attack in config.attacks]
    wanted = arguments.attacks or known
    if unknown := sorted({*wanted}.difference(known)):
        raise ConfigError(f"--attacks: the configuration has no {unknown[0]!r}; name some of {', '.join(known)}")
    with make_progress() as progress:
        job = open_job(config, progress)
    answer = by_network(load_networks(job.work / "fit"), torch.device("cpu"), load_cascade(job))

    def scored(split: str, label: str) -> Scored:
        return from_evidence(list_shards(job.work, "attribute", split, label), {"": answer})[""]

    calibrate, test = scored("calibrate", CLEAN), scored("test", CLEAN)
    apart = int(test.source.max()) + 1  # a test image is no calibration image
    calibrate = replace(calibrate, source=calibrate.source + apart)
    clean = Scored.cat([calibrate, test])
    attacked = Scored.cat([scored("test", label) for label in known if label in wanted])
    tables = [
        by_class(calibrate, test, attacked, job.classifier.classes, arguments.draws),
        tails(clean, arguments.draws),
    ]
    try:
        tables.append(batches(clean, attacked, arguments.draws))
    except DataError as error:  # the other tables need fewer
        print(f"No batches: {error}")
    print(render(tables))
    print(tables[0].caption)


if __name__ == "__main__":
    main()
