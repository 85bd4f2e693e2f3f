"""What does a verdict cost, in CPU time, beside the classifier's own answer?

    python -m benchmarks.detection.cost data/test                                   # the embedded bundle
    python -m benchmarks.detection.cost data/test --bundle old.heatward new.heatward

Clean photographs (`<class>/<image>`) flow in. In each round every bundle judges the same batch, with its cascade and
with every image in full, and its bare classifier answers it, so that a machine's mood meets all alike. Out comes the
median of the rounds: milliseconds of CPU per image, and how many of the classifier's answers that is. A cascade saves
what the images of a batch let it save: the share of them that went on is told.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from benchmarks.clock import cpu_seconds
from detector.bundle import EMBEDDED
from detector.detector import Detector
from detector.malloc import keep_freed_memory
from examples.demo.images import load_photographs
from training.progress import make_progress

BATCHES = (1, 8, 32)
COLUMNS = ("bundle", "images per batch", "look", "went on", "ms of CPU per image", "answers of its classifier")


def ways(detector: Detector) -> dict[str, Callable[[Tensor], object]]:
    """What may be done to a batch (B, 3, H, W), the classifier's own answer first."""

    @torch.no_grad()
    def answer(images: Tensor) -> Tensor:
        return detector.classifier(images)

    looks = {"cascade": detector.detect} if detector.cascade is not None else {}
    return {"classifier alone": answer, **looks, "in full": detector.in_full().detect}


def went_on(detector: Detector, batches: list[Tensor]) -> str:
    verdicts = [verdict for batch in batches for verdict in detector.detect(batch)]
    return f"{sum(not verdict.cleared for verdict in verdicts) / len(verdicts):.0%}".replace("%", " %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--bundle", type=Path, nargs="+", default=[EMBEDDED])
    parser.add_argument("--rounds", type=int, default=8, help="batches of each size (%(default)s)")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    detectors = {path.name: Detector.from_bundle(path) for path in arguments.bundle}
    rows = []
    with make_progress() as progress, progress.task("judge", len(BATCHES) * arguments.rounds) as advance:
        for size in BATCHES:
            took: dict[tuple[str, str], list[float]] = {}
            for name, detector in detectors.items():
                for way, work in ways(detector).items():
                    work(torch.full((size, 3, *detector.classifier.input_size), 0.5))
                    took[name, way] = []
            batches = {name: batches_of(each, arguments, size) for name, each in detectors.items()}
            for turn in range(arguments.rounds):
                for name, detector in detectors.items():
                    for way, work in ways(detector).items():
                        took[name, way].append(cpu_seconds(partial(work, batches[name][turn])) / size)
                advance(1)
            for (name, way), seconds in took.items():
                alone, share = median(took[name, "classifier alone"]), "–"
                if way == "cascade":
                    share = went_on(detectors[name], batches[name])
                measured = (f"{1000 * median(seconds):.2f}", f"{median(seconds) / alone:.1f}")
                rows.append((name, str(size), way, share, *measured))
    for cells in (COLUMNS, ("---", *["--:"] * (len(COLUMNS) - 1)), *rows):
        print(f"| {' | '.join(cells)} |")


def batches_of(detector: Detector, arguments: argparse.Namespace, size: int) -> list[Tensor]:
    """As many batches (size, 3, H, W) as there are rounds, no photograph twice."""
    found = load_photographs(arguments.photographs, detector.classifier, size * arguments.rounds)
    pixels = torch.stack([each.pixels for each in found])
    return list((pixels / 255).split(size))


if __name__ == "__main__":
    main()
