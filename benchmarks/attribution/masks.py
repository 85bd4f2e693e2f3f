"""Our extremal masks beside the paper's recipe: CPU time, the logit that a mask keeps, cost of a step, memory.

    python -m benchmarks.attribution.masks --config examples/cifar10/config.toml \\
        --bundle detector/embedded/cifar10.heatward --json work/masks-cifar10.json
    python -m benchmarks.attribution.masks --config examples/imagenet/config.toml --json work/masks-imagenet.json

One thread, and ratios within one run. The recipe (`published_recipe.py`: 800 steps, one image per call) and
`detector.heatmaps.extremal` at its defaults look for the tenth of a photograph that keeps most of the logit of its
class; all photographs are rightly classified.

    speed      CPU seconds per image: the recipe on `--timed` photographs, ours on a batch before, between and after
               them; medians
    quality    the logit of the class through either mask, the rest of the photograph under our blur (σ an eighth of
               the side; ours was made for it) and under the recipe's blurs (the recipe's were made for those)
    step       CPU time of one of our steps, by the difference of runs of 2 and 10 steps, as a multiple of one forward
               and input gradient of the same batch; median
    memory     most bytes that tensors held at once, by batch size, and a straight line through them

The recipe takes about 15 s per image of 32 px and 80 s of 224 px, so its masks are kept under `work/masks` and a killed
run goes on. `--stored` makes no more of them: quality is then that of the photographs whose masks are there.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from benchmarks.attribution import mask_measures as measures
from benchmarks.attribution.images import AREA, Photographs, read
from benchmarks.attribution.metrics import wilson
from benchmarks.attribution.published_recipe import Recipe
from benchmarks.attribution.quality import LARGE, open_classifier
from detector.classifier import Classifier
from detector.errors import DataError, HeatwardError
from detector.heatmaps import extremal, input_gradients
from training.data import open_splits
from training.evaluation.metrics import Bootstrap
from training.evaluation.tables import render
from training.load import load_config
from training.progress import Progress, make_progress
from training.shards import write_json

SMALL_BATCHES, LARGE_BATCHES = (1, 4, 16, 32), (1, 4, 16)  # the last is what is timed
SMALL_GOAL, LARGE_GOAL = 200, 80  # times faster than the recipe
STEP_GOAL = 1.3
STRAIGHT = 0.05  # a deviation of memory from the line that still counts as a line

RECIPE, OURS, OURS_FOR_BLURS = "recipe", "ours", "ours, for those blurs"
MADE_FOR = dict(zip((OURS, OURS_FOR_BLURS), measures.COVERS, strict=True))

Json = dict[str, Any]


def compare(
    classifier: Classifier, photographs: Photographs, masks: dict[str, Tensor], recipe: Recipe, batch: int
) -> Json:
    """Kept logits of each kind of masks (N, H, W) under either blur, and how far ours is above the recipe's."""
    sources = photographs.index.numpy()
    bootstrap = Bootstrap(sources)
    found: Json = {name: {"areas": each.mean((1, 2)).tolist()} for name, each in masks.items()}
    answers = {
        name: measures.seen_through(classifier, photographs, each, recipe, batch) for name, each in masks.items()
    }
    for cover in measures.COVERS:
        theirs, _ = answers["recipe"][cover]
        found[cover] = {}
        for name, answer in answers.items():
            logits, kept = answer[cover]
            higher = int((logits > theirs).sum())
            low, high = wilson(higher, len(photographs))
            found[cover][name] = {
                "logits": logits.tolist(),
                "class kept": float(kept.double().mean()),
                "above the recipe": bootstrap.mean((logits - theirs).double().numpy(), sources).as_dict(),
                "higher": {"value": higher / len(photographs), "low": low, "high": high, "count": len(photographs)},
            }
    return found


def memory(classifier: Classifier, photographs: Photographs, batches: Sequence[int]) -> Json:
    """Peaks by batch size, of our masks and of an input gradient, and the line through them."""
    works = {
        "ours": lambda some: measures.ours(classifier, some, steps=2, patience=measures.NEVER),
        "input gradient": lambda some: input_gradients(classifier, some.pixels, some.classes[:, None]),
    }
    found: Json = {}
    for name, work in works.items():
        held = measures.peaks(work, photographs, batches)
        row, fixed, deviation = measures.line_through(batches, held)
        found[name] = {"batches": list(batches), "bytes": held, "row": row, "fixed": fixed, "deviation": deviation}
    return found


def goals(found: Json, large: bool) -> Table:
    """What came out beside what was wanted."""
    shown = a_table("Learned masks, beside the paper's recipe", "measured", "value", "goal", "")
    goal = LARGE_GOAL if large else SMALL_GOAL
    for name, cover in MADE_FOR.items():
        ratio, each = found["speed"]["ratios"][name], found["quality"][cover][name]["above the recipe"]
        text = f"{each['value']:+.2f} [{each['low']:+.2f}, {each['high']:+.2f}]"
        shown.add_row(f"CPU time per image, recipe / {name}", f"{ratio:.0f}×", f"≥ {goal}×", met(ratio >= goal))
        shown.add_row(f"kept logit under {cover}, {name} - recipe", text, "> 0", met(each["value"] > 0))
    cost = found["step"]["median"]
    shown.add_row("CPU time, step / input gradient", f"{cost:.2f}", f"≤ {STEP_GOAL}", met(cost <= STEP_GOAL))
    apart = found["memory"]["ours"]["deviation"]
    shown.add_row("memory, largest deviation from a line", f"{apart:.1%}", f"≤ {STRAIGHT:.0%}", met(apart <= STRAIGHT))
    return shown


def quality_table(quality: Json) -> Table:
    columns = ("the rest under", "masks", "area", "kept logit", "class kept", "above the recipe's on")
    shown = a_table("Quality", *columns)
    for cover in measures.COVERS:
        for name in (*MADE_FOR, RECIPE):
            areas, each = quality[name]["areas"], quality[cover][name]
            share = each["higher"]
            shown.add_row(
                cover if name == OURS else "",
                name,
                f"{sum(areas) / len(areas):.3f} ({min(areas):.3f}–{max(areas):.3f})",
                f"{sum(each['logits']) / len(areas):.2f}",
                f"{each['class kept']:.0%}",
                f"{share['value']:.0%} [{100 * share['low']:.0f}, {100 * share['high']:.0f}]" if name != RECIPE else "",
            )
    return shown


def cost_table(found: Json) -> Table:
    shown = a_table("Cost", "", "CPU seconds per image", "measured", "MB per row", "MB whatever the batch")
    for name in (RECIPE, *MADE_FOR):
        seconds, held = found["speed"]["seconds"][name], found["memory"].get(name)
        shown.add_row(
            name,
            f"{median(seconds):.4g}",
            f"{len(seconds)} times, {min(seconds):.4g}–{max(seconds):.4g}",
            *((f"{held['row'] / 1e6:.2f}", f"{held['fixed'] / 1e6:.2f}") if held else ("", "")),
        )
    held = found["memory"]["input gradient"]
    shown.add_row("one forward and input gradient", "", "", f"{held['row'] / 1e6:.2f}", f"{held['fixed'] / 1e6:.2f}")
    return shown


def a_table(title: str, first: str, *others: str) -> Table:
    shown = Table(title=title, title_justify="left")
    shown.add_column(first)
    for column in others:
        shown.add_column(column, justify="right")
    return shown


def met(reached: bool) -> str:
    return "met" if reached else "missed"


def run(options: argparse.Namespace, progress: Progress) -> None:
    config = load_config(options.config)
    classifier = open_classifier(config, options.bundle, "cpu")
    splits, _ = open_splits(config.images, classifier.classes, config.seed)
    large = max(classifier.input_size) > LARGE
    batches = LARGE_BATCHES if large else SMALL_BATCHES
    batch, recipe = batches[-1], Recipe()
    photographs = read(classifier, splits, max(options.limit, batch), batch, progress)
    stored = measures.StoredMasks(classifier, options.work, recipe)
    chosen = photographs[: options.limit]
    if options.stored:
        there = [stored.has(each) for each in measures.one_by_one(chosen)]
        chosen = chosen[torch.tensor(there).nonzero()[:, 0]]
    if not len(chosen):
        raise DataError(f"{options.work} holds no mask of these photographs: run without --stored to make some")

    with progress.task("the recipe", len(chosen)) as advance:
        masks, seconds = stored.get(chosen, advance)
    kinds = {RECIPE: masks}
    with progress.task("ours", 2 * len(chosen)) as advance:
        for name, settings in ((OURS, {}), (OURS_FOR_BLURS, measures.FOR_BLURS)):
            kinds[name] = measures.ours(classifier, chosen, chunk=batch, **settings)
            advance(len(chosen))
    found: Json = {"quality": compare(classifier, chosen, kinds, recipe, batch)}
    found["memory"] = memory(classifier, photographs, batches)
    with progress.task("cost of a step", options.repeats, unit="repeats") as advance:
        costs = measures.step_cost(classifier, photographs[:batch], options.repeats, advance)
    found["step"] = {"ratios": costs, "median": median(costs)}
    with progress.task("speed", options.timed) as advance:
        times = measures.speed(classifier, photographs, stored, batch, options.timed, advance)
    spent = {RECIPE: times.recipe, OURS: times.ours, OURS_FOR_BLURS: times.ours_for_blurs}
    found["speed"] = {
        "seconds": spent,
        "ratios": {name: median(times.recipe) / median(spent[name]) for name in MADE_FOR},
        "recipe, every image": seconds.tolist(),
    }
    found["settings"] = {
        "classifier": classifier.spec.source,
        "fingerprint": classifier.fingerprint,
        "photographs": len(chosen),
        "batch": batch,
        "area": AREA,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "recipe": asdict(recipe),
        "ours, for those blurs": measures.FOR_BLURS,
        "ours": {
            name: each.default
            for name, each in inspect.signature(extremal).parameters.items()
            if each.kind is each.KEYWORD_ONLY
        },
    }
    print(", ".join(f"{key} {value}" for key, value in found["settings"].items()))
    print("\n" + render([goals(found, large), quality_table(found["quality"]), cost_table(found)]))
    if options.json:
        write_json(options.json, found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="of a training job: its classifier and test images")
    parser.add_argument("--bundle", type=Path, help="take the classifier out of this bundle instead")
    parser.add_argument("--limit", type=int, default=32, help="photographs whose masks are compared")
    parser.add_argument("--timed", type=int, default=2, help="photographs on which the recipe is timed")
    parser.add_argument("--repeats", type=int, default=5, help="of the cost of a step")
    parser.add_argument("--stored", action="store_true", help="compare only masks of the recipe that are there already")
    parser.add_argument("--work", type=Path, default=Path("work/masks"), help="where the recipe's masks are kept")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        with make_progress() as progress:
            run(options, progress)
    except HeatwardError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
