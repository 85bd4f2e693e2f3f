"""How good the heatmaps are: every method of `METHODS` on photographs that a classifier gets right, in one table.

    python -m benchmarks.attribution.quality --config examples/cifar10/config.toml \\
        --bundle detector/embedded/cifar10.heatward --json work/attributions-cifar10.json \\
        --pictures work/attributions-cifar10.png
    python -m benchmarks.attribution.quality --config examples/imagenet/config.toml \\
        --json work/attributions-imagenet.json --pictures work/attributions-imagenet.jpg

Maps are those of the predicted class, signed where the method signs them, brought to the image's size bilinearly.
Pixels that are equal in a map come in random order.

    insertion       area under the probability of the class while pixels come back into the blurred image, best first
                    (Petsiuk et al. 2018, section 4.1); higher is better
    deletion        the same while pixels take on the image's mean colour, best first; lower is better
    beats random    share of images where the logit of the class is larger through the best tenth of pixels than through
                    random smooth masks of that area (mean of eight), the rest of the image blurred
    logit gained    how much larger
    soft mask       a learned mask as it is, beside the same random masks given its values: its area and its softness
    random weights  Spearman correlation with the map of the same class after every weight was drawn anew (Adebayo et
                    al. 2018); near 0 is better. absolute: of absolute values. another image: of absolute values, with
                    the map under random weights of another image: the part of "absolute" that is place alone
    flip            Spearman correlation with the map of the mirrored image, mirrored back; higher is better
    CPU ms          per image; and as a multiple of one forward and input gradient, timed beside it

Two rows are no methods: random smooth maps, and a blob at the centre of every image, where photographers put things.
A method that optimises a mask covers the rest with something of its own (printed): where that is a blur, insertion and
the random masks are home ground to it, deletion is not.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor

from benchmarks.attribution.images import AREA, RANDOM_MASKS, SMOOTHNESS, Photographs, centre_maps, random_maps, read
from benchmarks.attribution.pictures import draw
from benchmarks.attribution.rows import PICTURED, Plan, Row, maker, measure, measure_maps
from detector.classifier import Classifier, load_classifier
from detector.detector import Detector
from detector.errors import HeatwardError
from detector.heatmaps import METHODS
from training.config import TrainingConfig
from training.data import open_splits
from training.evaluation.metrics import Estimate
from training.evaluation.tables import render
from training.load import load_config
from training.progress import make_progress
from training.shards import write_json

# What one core does in about ten minutes, of images up to LARGE a side, or in about twenty-five.
LARGE = 64
SMALL_PLAN = Plan(images=256, curves=128, probes=32, batch=64, steps=16, settings={"rise": {"samples": 256}})
LARGE_SETTINGS = {"rise": {"samples": 256, "chunk": 8}, "occlusion": {"chunk": 8}}  # batches that stay in the caches
LARGE_PLAN = Plan(images=32, curves=32, probes=8, batch=8, steps=14, settings=LARGE_SETTINGS)
RANDOM = "random smooth map"
BASELINES: dict[str, Callable[[Photographs], Tensor]] = {RANDOM: random_maps, "centre of the image": centre_maps}
MASKS = frozenset({"meaningful", "extremal"})


def open_classifier(config: TrainingConfig, bundle: Path | None, device: str) -> Classifier:
    """The bundle's classifier, or else the configuration's."""
    if bundle is not None:
        return Detector.from_bundle(bundle, device=device).classifier
    names = config.classifier.class_names()
    known = None if names else config.classifier.known_class_names()
    _, classes = open_splits(config.images, names, config.seed, known=known)
    return load_classifier(config.classifier.spec(classes), device=device)


def used_settings(name: str, plan: Plan) -> dict[str, Any]:
    """Every setting of a method, defaults included."""
    parameters = inspect.signature(METHODS[name]).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY}
    return defaults | dict(plan.settings.get(name, {}))


def in_words(name: str) -> str:
    """What a WordNet id stands for, its first name; any other name as it is."""
    try:
        return str(ImageNetInfo().label_name_to_description(name)).partition(",")[0]
    except KeyError:
        return name


Cell = Callable[[Row, Mapping[str, Estimate]], str]


def number(column: str, form: str) -> Cell:
    def cell(_: Row, found: Mapping[str, Estimate]) -> str:
        return format(found[column].value, form) if column in found and found[column].count else "–"

    return cell


def share(column: str) -> Cell:
    def cell(_: Row, found: Mapping[str, Estimate]) -> str:
        if column not in found:
            return "–"
        each = found[column]
        return f"{each.value:.0%} [{100 * each.low:.0f}, {100 * each.high:.0f}]".replace("%", " %")

    return cell


CELLS: dict[str, Cell] = {
    "insertion ↑": number("insertion", ".3f"),
    "deletion ↓": number("deletion", ".3f"),
    "beats random ↑": share("beats random"),
    "logit gained ↑": number("logit gained", "+.2f"),
    "soft mask beats random ↑": share("soft mask beats random"),
    "random weights → 0": number("random weights", "+.2f"),
    "absolute → 0": number("random weights, absolute", "+.2f"),
    "another image": number("random weights, another image", "+.2f"),
    "flip ↑": number("flip", ".2f"),
    "CPU ms": lambda row, _: f"{row.cost['ms']:.0f}" if row.cost else "–",
    "× input gradient": lambda row, _: f"{row.cost['times input gradient']:.1f}" if row.cost else "–",
}


def table(title: str, rows: Mapping[str, Row], found: Mapping[str, Mapping[str, Estimate]]) -> Table:
    shown = Table(title=title, title_justify="left")
    for column in ("method", *CELLS):
        shown.add_column(column, justify="left" if column == "method" else "right")
    for name, row in rows.items():
        shown.add_row(name.replace("_", " "), *(cell(row, found[name]) for cell in CELLS.values()))
    return shown


def described(classifier: Classifier, photographs: Photographs, plan: Plan) -> dict[str, Any]:
    """What the numbers depend on, beside the methods' settings."""
    return {
        "classifier": classifier.spec.source,
        "fingerprint": classifier.fingerprint,
        "images": len(photographs),
        "of these for insertion and deletion": min(plan.curves, len(photographs)),
        "under random weights and mirrored": min(plan.probes, len(photographs)),
        "batch": plan.batch,
        "steps of insertion and deletion": plan.steps,
        "blur, σ in pixels": min(photographs.size) / SMOOTHNESS,
        "area": AREA,
        "random masks": RANDOM_MASKS,
        "threads": torch.get_num_threads(),
        "device": str(classifier.device),
        "torch": torch.__version__,
    }


def run(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    config = load_config(options.config)
    classifier = open_classifier(config, options.bundle, options.device)
    splits, _ = open_splits(config.images, classifier.classes, config.seed)
    plan = LARGE_PLAN if max(classifier.input_size) > LARGE else SMALL_PLAN
    plan = replace(plan, images=options.limit or plan.images)
    rows: dict[str, Row] = {}
    with make_progress() as progress:
        photographs = read(classifier, splits, plan.images, plan.batch, progress)
        for name in options.methods:
            make = maker(METHODS[name], plan.settings.get(name, {}))
            with progress.task(name, len(photographs)) as advance:
                rows[name] = measure(classifier, photographs, make, plan, advance, masks=name in MASKS)
        for name, baseline in BASELINES.items():
            with progress.task(name, len(photographs)) as advance:
                rows[name] = measure_maps(classifier, photographs, baseline(photographs), plan, advance)

    found = {name: row.estimates(photographs.index) for name, row in rows.items()}
    settings = described(classifier, photographs, plan)
    methods = {name: used_settings(name, plan) for name in options.methods}
    seen = {key: found[RANDOM][f"probability, {key}"].value for key in ("whole", "blurred", "mean colour")}
    print(", ".join(f"{key} {value}" for key, value in settings.items()))
    print("mean probability of the class: " + ", ".join(f"{key} {value:.3f}" for key, value in seen.items()))
    for name, each in methods.items():
        print(f"{name}: " + (", ".join(f"{key} {value}" for key, value in each.items()) or "no settings"))
    print("\n" + render([table(f"Heatmaps, {classifier.spec.source}", rows, found)]))
    for name in options.methods:
        constant = min(plan.probes, len(photographs)) - found[name]["random weights"].count
        if constant:
            print(f"{name}: {constant} maps under random weights are constant; they are left out of the correlations")
    if options.json:
        numbers = {
            name: {**{key: each.as_dict() for key, each in found[name].items()}, "cost": row.cost}
            for name, row in rows.items()
        }
        write_json(options.json, {"settings": settings, "methods": methods, "rows": numbers})
    if options.pictures:
        few = photographs[:PICTURED]
        names = [in_words(classifier.classes[label]) for label in few.classes.tolist()]
        draw(
            options.pictures,
            few.pixels.cpu(),
            names,
            {name: torch.cat(rows[name].maps) for name in options.methods},
            MASKS,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="of a training job: its classifier and test images")
    parser.add_argument("--bundle", type=Path, help="take the classifier out of this bundle instead")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD")
    parser.add_argument("--limit", type=int, help="images")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers, with 95 %% intervals, here")
    parser.add_argument("--pictures", type=Path, metavar="FILE", help="draw ten photographs and their maps: .png, .jpg")
    options = parser.parse_args()
    try:
        run(options)
    except HeatwardError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
