"""The result of which_heatmap.py as Markdown tables, and as the plot of Fong & Vedaldi 2017, figure 12."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from benchmarks.attribution.which_heatmap_maps import NO_MAP, is_mask
from forensics.drawing import Axes, Figure
from forensics.report.plots import RAMP
from forensics.theme import THEME
from training.evaluation.metrics import Estimate
from training.evaluation.tables import percent, percent_only, share, share_only

PUBLISHED = {"accuracy": 0.936, "top1": 0.4064, "top5": 1.0}
NAMES = {
    "meaningful": "meaningful mask",
    "extremal": "extremal mask",
    "gradient": "gradient",
    "gradient_times_input": "gradient × input",
    "integrated_gradients": "integrated gradients",
    "cam": "Grad-CAM",
    "occlusion": "occlusion",
    "rise": "RISE",
    NO_MAP: "no heatmap: two highest logits",
}
COLOURS = dict(zip(NAMES, (*RAMP[:7], *RAMP[8:]), strict=False)) | {NO_MAP: THEME["muted"]}  # RAMP[7] is grey, too

Json = dict[str, Any]
read = Estimate.read


def tables(result: Json) -> list[Table]:
    """Detection, one row per method, one table per attack; recovery likewise."""
    shown = []
    sizes, largest = result["sizes"], result["sizes"][-1]
    for attack in result["attacks"]:
        table = _table(
            f"Detection of {attack} from one map: accuracy by training images (the rest at {largest})",
            ["heatmap", *map(str, sizes), "AUROC", "AUROC, shape alone", "noise twins flagged", "CPU ms per map"],
        )
        for row in result["methods"].values():
            found = row["attacks"][attack]
            *fewer, last = found["curve"]
            table.add_row(
                row["name"],
                *(percent_only(read(point["accuracy"])) for point in fewer),
                percent(read(last["accuracy"])),
                share(read(last["auroc"])),
                share_only(read(found["shape_alone"]["auroc"])),
                percent_only(read(found["twins_flagged"])) if "twins_flagged" in found else "–",
                f"{row['ms']:.1f}",
            )
        table.add_row("published: learned mask", *[""] * (len(sizes) - 1), _published("accuracy"), *[""] * 4)
        shown.append(table)
    for attack in result["attacks"]:
        table = _table(
            f"Label before {attack} once the mask is applied ({result['classes']} classes)",
            ["mask from", "area", "deleted: top-1", "deleted: top-5", "kept: top-1", "kept: top-5"],
        )
        made = [(row["name"], row["attacks"][attack]) for row in result["methods"].values()]
        rows = [(name, found) for name, found in made if "area" in found]
        rows += [(name, row[attack]) for name, row in result["controls"].items()]
        for name, found in rows:
            cells = [percent(read(found[f"{way}_top{top}"])) for way in ("delete", "keep") for top in (1, 5)]
            table.add_row(name, f"{found['area']:.0%}", *cells)
        table.add_row("published: learned mask", "", _published("top1"), _published("top5"), "", "")
        shown.append(table)
    return shown


def _published(what: str) -> str:
    return f"{PUBLISHED[what]:.1%}".replace("%", " %")


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for at, column in enumerate(columns):
        table.add_column(column, justify="right" if at else "left")
    return table


def plot(result: Json) -> Figure:
    """Accuracy and AUROC against the number of training images: one column per attack, one line per method."""
    attacks, sizes = result["attacks"], result["sizes"]
    figure = Figure(figsize=(2.6 + 3.0 * len(attacks), 5.8), layout="constrained")
    grid = figure.subplots(2, len(attacks), sharex=True, sharey="row", squeeze=False)
    lines = {}
    for column, attack in enumerate(attacks):
        for axes, what in zip(grid[:, column], ("accuracy", "auroc"), strict=True):
            for name, row in result["methods"].items():
                heights = [point[what]["value"] for point in row["attacks"][attack]["curve"]]
                style = {"color": COLOURS.get(name, THEME["ink"]), "lw": 2.4 if is_mask(name) else 1.4}
                dashes = "--" if name == NO_MAP else "-"
                (lines[name],) = axes.plot(sizes, heights, dashes, marker="o", ms=3, **style)
            _tidy(axes, sizes)
        published = grid[0, column].axhline(PUBLISHED["accuracy"], color=THEME["ink"], lw=1, ls=":", zorder=0)
        grid[0, column].set_title(attack, fontsize=11, color=THEME["ink"])
        grid[1, column].set_xlabel("training images, clean and attacked", fontsize=9, color=THEME["ink"])
    grid[0, 0].set_ylabel("accuracy, balanced", color=THEME["ink"])
    grid[1, 0].set_ylabel("AUROC", color=THEME["ink"])
    best = sorted(lines, key=lambda name: -_last_accuracy(result["methods"][name]))
    figure.legend(
        [*(lines[name] for name in best), published],
        [f"{100 * _last_accuracy(result['methods'][name]):.1f} %  {result['methods'][name]['name']}" for name in best]
        + [f"{_published('accuracy')}  published: learned masks"],
        loc="outside right center",
        frameon=False,
        fontsize=9,
        title=f"mean accuracy at {sizes[-1]}",
        title_fontsize=9,
        alignment="left",
    )
    return figure


def _tidy(axes: Axes, sizes: Sequence[int]) -> None:
    axes.axhline(0.5, color=THEME["edge"], lw=1, zorder=0)  # chance
    axes.set_ylim(0.45, 1.01)
    axes.set_xscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(THEME["edge"])
    axes.tick_params(colors=THEME["muted"], labelcolor=THEME["ink"], labelsize=9)
    axes.grid(axis="y", color=THEME["edge"], lw=0.5, alpha=0.7)


def _last_accuracy(row: Json) -> float:
    ends = [found["curve"][-1]["accuracy"]["value"] for found in row["attacks"].values()]
    return float(sum(ends) / len(ends))
