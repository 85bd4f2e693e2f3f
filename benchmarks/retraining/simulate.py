"""Where is the next bottleneck? Measured costs in; how many workers, and how many servers, still help out.

A job on a cluster: one driver reads and sends what a shard is made from, and writes what comes back, one shard at a
time; each worker makes one shard after another and has the next one waiting; a label begins when the one before is
finished. A service: calls arrive at random and go to replicas in turn, and a replica takes what waits, up to a batch.
The same every time: nothing here knows the clock. docs/scaling.md explains the figures.

    python -m benchmarks.retraining.simulate
"""

from __future__ import annotations

import argparse
import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

__all__ = ["Recipe", "Replica", "makespan", "waits"]

AHEAD = 2
"""As in training/runners/cluster.py."""


@dataclass(frozen=True)
class Recipe:
    """What a shard costs, in seconds."""

    name: str
    labels: tuple[tuple[str, float, float], ...]
    """Label, share of the images that it is made of, seconds an image."""
    driver: float
    """Of one shard, reading, sending, receiving and writing."""
    shard_size: int = 256


@dataclass(frozen=True)
class Replica:
    """What a server needs for a batch, in seconds."""

    fixed: float
    image: float
    batch: int

    @property
    def capacity(self) -> float:
        """Images a second."""
        return self.batch / (self.fixed + self.batch * self.image)


# One core of a shared EPYC. Attacks: the log of the CIFAR-10 recipe, 2026-11-29, --threads 1, before others came.
# Heatmaps: 20 ms an image (docs/results/serving.md); images whose prediction an attack changed, so success × limit.
CIFAR10 = Recipe(
    "CIFAR-10, 32 px",
    (
        ("clean and twins", 3.0, 1 / 450),
        ("fgsm-8", 1.0, 1 / 151.9),
        ("pgd-few", 0.597, 1 / 63.8),
        ("pgd-8", 0.597, 1 / 21.9),
        ("pgd-2", 1.0, 1 / 21.9),
        ("pgd-1", 1.0, 1 / 21.8),
        ("cw", 0.597, 1 / 10.1),
        ("deepfool", 0.597, 1 / 37.9),
        ("square-8", 0.427, 1 / 3.8),
        ("pixle", 0.341, 1 / 1.7),
        ("heatmaps", 7.7, 0.020),
    ),
    driver=0.005,
)
EMBEDDED = Replica(fixed=0.020, image=0.020, batch=16)
"""40 ms for one image, 20 ms each in batches: docs/results/serving.md, part d."""


def makespan(shards: Sequence[float], workers: int, driver: float) -> float:
    """Seconds until the shards of one label are made and written; `driver` is what each costs the driver."""
    free = [0.0] * workers  # when a worker has made all that it was given
    # when a worker may be given another one; each has one before any has two
    calls = [(0.0, turn, worker) for turn in range(AHEAD) for worker in range(workers)]
    driver_free, end = 0.0, 0.0
    for cost in shards:
        asked, turn, worker = heapq.heappop(calls)
        driver_free = max(driver_free, asked) + driver
        free[worker] = max(free[worker], driver_free) + cost
        end = max(end, free[worker])
        heapq.heappush(calls, (free[worker], turn, worker))
    return max(end, driver_free)


def job_seconds(recipe: Recipe, images: int, workers: int) -> float:
    """Attack and attribute of so many images to fit."""
    total = 0.0
    for _, share, seconds in recipe.labels:
        whole, rest = divmod(round(images * share), recipe.shard_size)
        sizes = [recipe.shard_size] * whole + [rest] * bool(rest)
        total += makespan([size * seconds for size in sizes], workers, recipe.driver)
    return total


def waits(replica: Replica, replicas: int, rate: float, calls: int = 100_000, seed: int = 0) -> np.ndarray:
    """Seconds from arrival to answer (calls,), of single images that arrive at random and go to replicas in turn."""
    arrivals = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, calls))
    latency = np.empty(calls)
    for first in range(replicas):
        mine = arrivals[first::replicas]
        answered = np.empty(len(mine))
        at, free = 0, 0.0
        while at < len(mine):
            start = max(free, mine[at])
            end = min(at + replica.batch, int(np.searchsorted(mine, start, "right")))
            free = start + replica.fixed + (end - at) * replica.image
            answered[at:end] = free
            at = end
        latency[first::replicas] = answered - mine
    return latency


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[3_000, 1_000_000], help="images to fit")
    parser.add_argument("--rate", type=float, default=10_000, help="images a second")
    options = parser.parse_args()
    print("| images to fit | shard_size | workers | hours | times one | busy |\n|--:|--:|--:|--:|--:|--:|")
    for images in options.images:
        for size in (256, 32):
            recipe = replace(CIFAR10, shard_size=size)
            one = job_seconds(recipe, images, 1)
            for workers in (1, 2, 4, 8, 16, 64, 256, 1024):
                seconds = job_seconds(recipe, images, workers)
                times = one / seconds
                cells = (
                    f"{images:,} | {size} | {workers:,} | {seconds / 3600:.2f} | {times:.1f} | {times / workers:.0%}"
                )
                print(f"| {cells} |")
    print("\n| replicas | of their capacity | p50, ms | p99, ms |\n|--:|--:|--:|--:|")
    for share in (0.5, 0.7, 0.8, 0.9, 0.95):
        replicas = round(options.rate / EMBEDDED.capacity / share)
        took = np.quantile(waits(EMBEDDED, replicas, options.rate), (0.5, 0.99)) * 1000
        print(f"| {replicas} | {share:.0%} | {took[0]:.0f} | {took[1]:.0f} |")


if __name__ == "__main__":
    main()
