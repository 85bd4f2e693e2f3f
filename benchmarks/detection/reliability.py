"""Which predictions can be relied on, and is the promise kept? Risk beside softmax and margin, and what is let through.

    heatward train --config examples/cifar10/config.toml                 # once: makes the shards and the detector
    python -m benchmarks.detection.reliability --config examples/cifar10/config.toml

Of a job whose calibrate stage is finished, from its test split: risk–coverage curves of clean, corrupted, attacked and
foreign images; what becomes of wrong predictions on clean images, of blank images and of images that were changed by
hand until the label flips (`training/attacks/everyday.py`); and what more calibration images would promise, by drawing
them from the clean images of both splits and measuring on the others.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from detector.detector import Detector, Verdict
from detector.scoring.reliability import Reliability
from training.attacks import attack_images
from training.config import CLEAN, AttackSpec
from training.detectors import load_detector
from training.evaluation import reliance
from training.evaluation.tables import accepted_table, area_table, blank_table, render
from training.fitting.reliability import Signed, signs_of
from training.job import Job, open_job
from training.load import load_config
from training.progress import SilentProgress
from training.shards import list_shards, read_columns

FLAGGED = (0.01, 0.05)
BORNE = (0.01, 0.02, 0.05, 0.1)
MANUAL = ("blur", "contrast", "brightness", "noise", "cover")
CALIBRATIONS = (1000, 2000)
DRAWS = 200
BATCH = 64


def judged(detector: Detector, images: Tensor) -> list[Verdict]:
    """(n, 3, H, W) in [0, 1] → verdicts."""
    return [verdict for part in images.split(BATCH) for verdict in detector.detect(part)]


def clean_images(job: Job, *, wrong: bool, most: int) -> tuple[Tensor, Tensor]:
    """The first clean test images, wrongly or rightly classified, (n, 3, H, W) uint8, and their classes."""
    found: list[dict[str, Tensor]] = []
    for path in list_shards(job.work, "attack", "test", CLEAN):
        found.append(read_columns(path, ("images", "truth", "prediction")))
    images, truth, prediction = (torch.cat([each[name] for each in found]) for name in found[0])
    chosen = ((truth != prediction) == wrong).nonzero()[:most, 0]
    return images[chosen], truth[chosen]


def manual(job: Job, detector: Detector, count: int) -> dict[str, list[Verdict]]:
    """Verdicts on images whose label flipped, by the kind of change."""
    images, labels = clean_images(job, wrong=False, most=count)
    found = {"rightly classified": judged(detector, images.float() / 255)}
    for kind in MANUAL:
        spec = AttackSpec(name="Manual", label=f"manual-{kind}", family="manual", parameters={"kind": kind})
        changed = attack_images(spec, job.classifier, images, labels, seed=0, batch_size=BATCH)
        verdicts = judged(detector, changed.float() / 255)
        wrong = [v for v, label in zip(verdicts, labels.tolist(), strict=True) if v.label != label]
        found[f"{kind} until the label flips"] = wrong
    return found


def blank(detector: Detector) -> dict[str, list[Verdict]]:
    """Verdicts on black, grey and white."""
    size = detector.classifier.input_size
    tones = {"black": 0.0, "grey": 128 / 255, "white": 1.0}
    return {f"{name} image": detector.detect(torch.full((1, 3, *size), tone)) for name, tone in tones.items()}


def table(groups: dict[str, list[Verdict]], rates: Sequence[float]) -> Table:
    """Of each group: how many are flagged, not relied on, or either."""
    numbers = ("n", *(f"flagged at {rate:.0%}" for rate in FLAGGED))
    relied = (f"not relied on at {rate:.0%}" for rate in rates)
    either = (f"flagged at 1% or not relied on at {rate:.0%}" for rate in rates)
    found = blank_table("Flagged, or not to be relied on", "images", numbers=(*numbers, *relied, *either))
    for name, verdicts in groups.items():
        p = np.array([verdict.p_value for verdict in verdicts])
        error = np.array([verdict.error_rate for verdict in verdicts], dtype=float)
        cells = [p <= rate for rate in FLAGGED] + [error > rate for rate in rates]
        cells += [(p <= FLAGGED[0]) | (error > rate) for rate in rates]
        found.add_row(name, str(len(verdicts)), *(f"{each.mean():.0%}" for each in cells))
    return found


def calibrations(job: Job, detector: Detector, reliability: Reliability) -> Table:
    """What so many calibration images promise, and what the others then show: means over draws."""
    device = job.classifier.device
    paths = [path for split in ("calibrate", "test") for path in list_shards(job.work, "attribute", split, CLEAN)]
    found_in = (signs_of(path, detector.networks, device, detector.cascade) for path in paths)
    every = Signed.cat([each for each in found_in if each is not None])
    risks = reliability.head(every.signs)
    title = f"Promises of more calibration images: clean images of both splits, {DRAWS} draws, measured on the others"
    numbers = ("promised", "draws that can promise it", "accepted", "wrong among accepted", "draws that break it")
    found = blank_table(title, "images", numbers=numbers)
    for count in CALIBRATIONS:
        promised: dict[float, list[tuple[float, float]]] = {rate: [] for rate in BORNE}
        for draw in range(DRAWS):
            order = torch.randperm(len(risks), generator=torch.Generator().manual_seed(draw))
            chosen, others = order[:count], order[count:]
            fitted = Reliability.fit(reliability.head, reliability.levels, risks[chosen], every.wrong[chosen])
            rates = fitted.of_risk(risks[others])
            for rate in BORNE:
                accepted = rates <= rate
                if accepted.any():
                    wrong = every.wrong[others][accepted].double().mean()
                    promised[rate].append((float(accepted.double().mean()), float(wrong)))
        for rate, measured in promised.items():
            shares = np.array(measured).reshape(-1, 2)
            cells = ["–"] * 3
            if len(shares):
                broken = (shares[:, 1] > rate).mean()
                cells = [f"{shares[:, 0].mean():.1%}", f"{shares[:, 1].mean():.2%}", f"{broken:.1%}"]
            found.add_row(str(count), f"{rate:.0%}", f"{len(shares) / DRAWS:.0%}", *cells)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="of a job whose calibrate stage is finished")
    parser.add_argument("--manual", type=int, default=200, help="images changed by hand, of each kind")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    config = load_config(options.config, {"threads": options.threads})
    job = open_job(config, SilentProgress())
    detector = load_detector(job)
    if detector.reliability is None:
        raise SystemExit(f"{config.work}: nothing is promised of predictions; run `heatward train calibrate` again")
    measured = reliance.measure(config, detector)
    if measured is not None:
        print(render([area_table(measured), accepted_table(measured)]), flush=True)
    print(render([calibrations(job, detector, detector.reliability)]), flush=True)
    misread, _ = clean_images(job, wrong=True, most=len(job.splits["test"]))
    found = {"wrongly classified": judged(detector, misread.float() / 255)}
    found |= {**manual(job, detector, options.manual), **blank(detector)}
    print(render([table(found, [rate for rate in BORNE if rate >= detector.reliability.smallest_rate])]))


if __name__ == "__main__":
    main()
