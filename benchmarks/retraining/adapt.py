"""A detector adapted to another seed of its classifier: how few images are enough, and is a warm start worth it?

    python -m benchmarks.retraining.adapt detector/embedded/cifar10.heatward --weights other_seed.safetensors \
        --config examples/cifar10/config.toml --fit-images 30 60 600

Each row is a run of `heatward adapt` in one work folder, from many images to few, so that attacks are made once; beside
it the same with networks that begin anew. The slow attacks, Square and Pixle, may be limited to fewer images.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from detector.bundle import Bundle, load_bundle
from training.deliveries import AT
from training.load import load_config
from training.progress import LogProgress
from training.retraining.adapt import Options, adapt
from training.retraining.adaptation import Side
from training.retraining.recipe import recipe_in

SLOW = ("Square", "Pixle")


def limited(bundle: Bundle, limit: int | None) -> Bundle:
    """The bundle, whose recipe makes the slow attacks from at most so many images."""
    known: Any = bundle.manifest.provenance
    attacks = [
        {**each, "limit": {"fit": limit, "test": limit}} if limit and each["name"] in SLOW else each
        for each in known["attacks"]
    ]
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"provenance": {**known, "attacks": attacks}}))


def row(name: str, side: Side, seconds: float | None) -> str:
    """One line of the table: means over the attacks as they are made, not as they are delivered."""
    (mean,) = (each for each in side.attacks if each.label == "mean")
    made = [each for each in side.attacks if each is not mean and AT not in each.label]
    worst = min(made, key=lambda each: each.auroc.value)
    cells = [
        name,
        f"{mean.auroc.value:.3f} [{mean.auroc.low:.3f}, {mean.auroc.high:.3f}]",
        f"{worst.auroc.value:.3f} ({worst.label})",
        *(f"{share.value:.1%}" for share in mean.tpr.values()),
        f"{mean.recovered.value:.1%}",
        *(f"{share.value:.1%}" for share in side.false_positives.values()),
        "" if seconds is None else f"{seconds:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--weights", required=True, help="of the other seed")
    parser.add_argument("--config", type=Path, required=True, help="names the images")
    parser.add_argument("--work", type=Path, default=Path("work/adapt"))
    parser.add_argument("--data", type=Path, help="folder with train/ and test/, instead of the configuration's")
    parser.add_argument("--fit-images", type=int, nargs="+", default=[30, 60, 600])
    parser.add_argument("--measure-images", type=int, default=200)
    parser.add_argument("--calibrate", type=int, default=1000, help="images that set the thresholds")
    parser.add_argument("--slow", type=int, help="images of the slow attacks, at most")
    parser.add_argument("--shard-size", type=int, default=30, help="images a shard; a shorter shard is made anew")
    parser.add_argument("--warm-only", action="store_true", help="leave out networks that begin anew")
    arguments = parser.parse_args()
    bundle = limited(load_bundle(arguments.bundle), arguments.slow)
    recipe = recipe_in(bundle, arguments.work, ())
    recipe["classifier"] |= {"weights": arguments.weights, "labels": None}
    images: dict[str, Any] = {"splits": {"calibrate": arguments.calibrate}}
    if arguments.data:
        images |= {"source": str(arguments.data / "train"), "test_source": str(arguments.data / "test")}
    said: list[str] = []
    for count in sorted(arguments.fit_images, reverse=True):
        for warm in (True,) if arguments.warm_only else (True, False):
            out = arguments.work / f"{count}-{'warm' if warm else 'anew'}.heatward"
            config = load_config(
                arguments.config,
                {**recipe, "work": arguments.work, "out": out, "images": images, "threads": 1}
                | {"shard_size": arguments.shard_size, "corruptions": {"kinds": []}},
            )
            started = time.process_time()
            found = adapt(bundle, config, Options(None, count, arguments.measure_images, warm), LogProgress())
            seconds = time.process_time() - started
            if not said and found.before:
                said.append(row("the old detector as it was", found.before, None))
            said.append(
                row(f"{count} images, {'from the old networks' if warm else 'networks anew'}", found.after, seconds)
            )
    print("| | AUROC | worst | flagged at 1 % | at 5 % | recovered | clean flagged at 1 % | at 5 % | CPU s |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    print("\n".join(said))


if __name__ == "__main__":
    main()
