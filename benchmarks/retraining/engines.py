"""What are two Ray workers worth? The same attack and attribute shards, by this process, one worker and two, in turn.

A CIFAR-10 net without training on drawn images, one thread each. Workers are open before the clock starts. Prints a
Markdown table: images a second (medians), and the median of the ratios within a round.

    python -m benchmarks.retraining.engines
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny_job import configure, write_source

from benchmarks.retraining.one_photograph import write_images
from detector.architectures import cifar10_net
from training.config import CLEAN
from training.job import Job, open_job
from training.progress import SilentProgress
from training.runners import Runner, ShardPlan, ShardStage
from training.runners.cluster import RayRunner
from training.runners.local import LocalRunner
from training.runners.worker import Worker
from training.settings import RaySettings

STAGES: tuple[ShardStage, ...] = ("attack", "attribute")
LABELS = ("fgsm", "pgd")


def open_here(place: Path, images: int) -> Job:
    source = write_source(place / "source")
    write_images(place / "images", images)
    torch.manual_seed(0)
    save_file(cifar10_net().state_dict(), str(place / "net.safetensors"))
    net = {
        "source": "python:detector.architectures:cifar10_net",
        "input_size": [32, 32],
        "weights": str(place / "net.safetensors"),
        "classes": [str(number) for number in range(10)],
    }
    config = configure(
        source,
        place,
        engine="ray",
        ray={"address": "local"},
        shard_size=32,
        batch_size=32,
        classifier=net,
        witness=net,
        images={"source": str(place / "images"), "labelled": False},
    )
    return open_job(config, SilentProgress())


def plans_of(job: Job, stage: ShardStage) -> list[ShardPlan]:
    return [plan for label in LABELS for plan in job.plan(stage, "fit", label)]


def rate(runner: Runner, plans: list[ShardPlan]) -> float:
    """Source images a second."""
    started_s = time.perf_counter()
    images = sum(made.plan.rows for made in runner.run(plans))
    return images / (time.perf_counter() - started_s)


def workers(job: Job, count: int) -> RayRunner:
    config = job.config.model_copy(update={"ray": RaySettings(address="local", workers=count)})
    return RayRunner(Worker(config, job.classifier, job.witness))


def round_of(job: Job, stage: ShardStage) -> dict[str, float]:
    plans = plans_of(job, stage)
    found = {"local": rate(LocalRunner(job.worker), plans)}
    for name, count in (("one worker", 1), ("two workers", 2)):
        runner = workers(job, count)
        list(runner.run(plans[:count]))  # opens them
        found[name] = rate(runner, plans)
        runner.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))  # workers find what this process finds
    print("| stage | local, images/s | one worker | two workers | two / one |\n|---|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        job = open_here(Path(folder), options.images)
        list(LocalRunner(job.worker).run(job.plan("attack", "fit", CLEAN)))
        for stage in STAGES:
            rounds = [round_of(job, stage) for _ in range(options.rounds)]
            middle = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
            ratio = statistics.median(each["two workers"] / each["one worker"] for each in rounds)
            cells = " | ".join(f"{value:.1f}" for value in middle.values())
            print(f"| {stage} | {cells} | {ratio:.2f} × |", flush=True)


if __name__ == "__main__":
    main()
