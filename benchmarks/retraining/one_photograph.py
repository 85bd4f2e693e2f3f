"""What does one more photograph cost? A tiny job is run, one image is added, and it is run again, stage by stage.

The classifier and the heatmap networks are the tiny ones of the tests, the attacks those of the CIFAR-10 recipe, made
of every image. Prints a Markdown table of CPU seconds.

    python -m benchmarks.retraining.one_photograph
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import tiny
from PIL import Image
from tiny_job import configure, write_source

from benchmarks.clock import cpu_seconds
from training import pipeline
from training.config import STAGES, TrainingConfig
from training.forecast import Forecast, forecast
from training.job import Job, open_job
from training.load import load_config
from training.progress import SilentProgress

RECIPE = Path(__file__).parents[2] / "examples/cifar10/config.toml"
SPLITS = {"fit": 0.6, "calibrate": 0.2, "test": 0.2, "tune": 0.0}


def write_images(folder: Path, count: int) -> None:
    """Images in class folders; of more, the first are the same."""
    drawn = tiny.images(count, seed=17)
    for number, (image, label) in enumerate(zip(drawn.images, drawn.labels.tolist(), strict=True)):
        path = folder / tiny.CLASSES[label] / f"{number:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            Image.fromarray((image * 255).round().byte().permute(1, 2, 0).contiguous().numpy()).save(path)


def run(config: TrainingConfig) -> dict[str, float]:
    """CPU seconds of each stage."""
    jobs: list[Job] = []
    spent = {"look at images": cpu_seconds(lambda: jobs.append(open_job(config, SilentProgress())))}
    for stage in STAGES:
        spent[stage] = cpu_seconds(lambda stage=stage: pipeline.run_stage(jobs[0], stage))  # type: ignore[misc]
    return spent


def table(whole: dict[str, float], more: dict[str, float], plan: Forecast) -> str:
    said = {each.stage: each.seconds for each in plan.stages}
    lines = ["| stage | all images, s | one more, s | share | plan said, s |", "|---|--:|--:|--:|--:|"]
    shards = ("attack", "attribute")
    rows = {name: (whole[name], more[name]) for name in whole}
    rows["attack and attribute"] = tuple(sum(spent[name] for name in shards) for spent in (whole, more))  # type: ignore[assignment]
    rows["in all"] = (sum(whole.values()), sum(more.values()))
    for name, (before, after) in rows.items():
        told = plan.seconds if name == "in all" else said.get(name)  # type: ignore[call-overload]
        shown = "" if told is None else f"{told:.1f}"
        lines.append(f"| {name} | {before:.1f} | {after:.2f} | {after / before:.1%} | {shown} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        source = write_source(place / "source")
        write_images(place / "images", options.images)
        images = {"source": str(place / "images"), "grows": True, "splits": SPLITS}
        attacks = [attack.model_dump(mode="json") | {"limit": None} for attack in load_config(RECIPE).attacks]
        config = configure(source, place, images=images, attacks=attacks, shard_size=256, batch_size=128)
        whole = run(config)
        # the same images, and one that is like none of them
        noise = np.random.default_rng(1).integers(0, 256, (tiny.SIDE, tiny.SIDE, 3), dtype=np.uint8)
        Image.fromarray(noise).save(place / "images" / tiny.CLASSES[0] / "new.png")
        plan = forecast(open_job(config, SilentProgress(), look_only=True))
        more = run(config)
    made = sum(each.made for each in plan.shards)
    print(f"{options.images} images, one more: {made} shards made, {sum(each.kept for each in plan.shards)} kept\n")
    print(table(whole, more, plan))


if __name__ == "__main__":
    main()
