"""An evaluation as tables: the dictionary of evaluate.py in, rich tables or Markdown out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.table import Table

from training.evaluation.metrics import FEW

__all__ = [
    "all_tables",
    "attack_table",
    "corruption_tables",
    "false_positive_table",
    "few",
    "markdown",
    "percent",
    "percent_only",
    "recovery_table",
    "render",
    "row_name",
    "share",
    "share_only",
    "size",
    "use_table",
]

Json = Mapping[str, Any]


def share(estimate: Json) -> str:
    """`.968 [.961, .975], n 512`; `(.968, n 12)` of few images; a dash where nothing was counted."""
    return _counted(estimate, _short)


def share_only(estimate: Json) -> str:
    """`.968, n 512`: without its interval."""
    return _counted(estimate, _short, interval=False)


def percent(estimate: Json) -> str:
    """`4.1 % [3.5, 4.8], n 512`."""
    return _counted(estimate, lambda value: f"{100 * value:.1f}", " %")


def percent_only(estimate: Json) -> str:
    """`4.1 %, n 512`."""
    return _counted(estimate, lambda value: f"{100 * value:.1f}", " %", interval=False)


def size(estimate: Json, unit: float = 1) -> str:
    """`3.98, n 512`: a mean without its interval, times `unit`."""
    return _counted(estimate, lambda value: f"{unit * value:.2f}", interval=False)


def few(name: str, estimate: Json) -> str:
    """The name of a row; it says so where the row rests on few images."""
    return f"{name} (fewer than {FEW} images: means little)" if 0 < estimate["count"] < FEW else name


def _counted(estimate: Json, write: Callable[[float], str], unit: str = "", *, interval: bool = True) -> str:
    value, low, high, count = (estimate[key] for key in ("value", "low", "high", "count"))
    if value is None:
        return "–"
    if count < FEW:
        return f"({write(value)}{unit}, n {count})"
    between = f" [{write(low)}, {write(high)}]" if interval and low is not None and high is not None else ""
    return f"{write(value)}{unit}{between}, n {count}"


def all_tables(evaluation: Json) -> list[Table]:
    """Every table, in the order of the report."""
    return [
        attack_table(evaluation),
        recovery_table(evaluation),
        false_positive_table(evaluation),
        *corruption_tables(evaluation),
        use_table(evaluation),
    ]


def row_name(row: Json) -> str:
    """The label of an attack; `mean of 8` for a row of `macro`."""
    return f"{row['label']} of {row['attacks']}" if "attacks" in row else str(row["label"])


def attack_table(evaluation: Json) -> Table:
    """One row an attack: how often it works, and how well each detector tells it from clean images."""
    title = (
        "Detection (AUROC, and share flagged at a false-positive rate: of all clean images, or of correct ones, "
        "which then set the threshold alone; of attacks that changed a right prediction)"
    )
    table = Table(title=title, title_justify="left")
    for column in ("attack", "", "success", "mean L∞·255", "mean L2"):
        table.add_column(column, justify="right" if column not in ("attack", "") else "left")
    rates = [str(rate) for rate in evaluation["rates"]]
    table.add_column("AUROC", justify="right", style="bold")
    table.add_column("of each network alone", justify="right", style="dim")
    for rate in rates:
        table.add_column(f"flagged at {float(rate):.0%}", justify="right")
    for rate in rates:
        table.add_column(f"at {float(rate):.0%} of correct", justify="right")
    others = [name for name in evaluation["detectors"] if name != "heatward"]
    for name in others:
        table.add_column(f"AUROC {evaluation['detectors'][name]}", justify="right", style="dim")
    for attack in (*evaluation["attacks"], *evaluation["macro"]):
        own = attack["detectors"]["heatward"]
        made = "success_rate" in attack
        table.add_row(
            few(row_name(attack), own["auroc"]),
            "" if attack["seen"] else "unseen",
            percent(attack["success_rate"]) if made else "",
            size(attack["linf"], 255) if made else "",
            size(attack["l2"]) if made else "",
            share(own["auroc"]),
            _range(attack.get("auroc_of_each_network", [])) if own["auroc"]["count"] >= FEW else "",
            *(_flagged(evaluation, own["tpr"], rate) for rate in rates),
            *(_flagged(evaluation, own["tpr_on_correct"], rate, "thresholds_on_correct") for rate in rates),
            *(share_only(attack["detectors"][name]["auroc"]) for name in others),
        )
    return table


def _range(values: Sequence[float | None]) -> str:
    """`.990–.992`."""
    known = [value for value in values if value is not None]
    return f"{_short(min(known))}–{_short(max(known))}" if known else ""


def recovery_table(evaluation: Json) -> Table:
    """One row an attack: how often the label before the attack is named."""
    rate = evaluation["rates"][-1]
    table = Table(title="Label before the attack recovered", title_justify="left")
    for column in ("attack", ""):
        table.add_column(column)
    for column in ("top-1", "top-2", "top-5", f"top-1, flagged at {rate:.0%}"):
        table.add_column(column, justify="right")
    others = [name for name in evaluation["detectors"] if name != "heatward"]
    for name in others:
        table.add_column(f"top-1 {evaluation['detectors'][name]}", justify="right", style="dim")
    for attack in (*evaluation["attacks"], *evaluation["macro"]):
        own = attack["detectors"]["heatward"]["recovery"]
        found = [own["all"][top] for top in ("top1", "top2", "top5")] + [own[f"flagged at {rate}"]["top1"]]
        table.add_row(
            few(row_name(attack), own["all"]["top1"]),
            "" if attack["seen"] else "unseen",
            *(percent(each) for each in found),
            *(percent_only(attack["detectors"][name]["recovery"]["all"]["top1"]) for name in others),
        )
    return table


def false_positive_table(evaluation: Json) -> Table:
    """Alarms on images that nobody attacked."""
    table = Table(title="False alarms", title_justify="left")
    table.add_column("images")
    rates = [str(rate) for rate in evaluation["rates"]]
    for rate in rates:
        table.add_column(f"flagged at {float(rate):.0%}", justify="right")
    own = evaluation["false_positives"]["heatward"]
    for group in sorted(own):
        table.add_row(few(group, own[group][rates[0]]), *(_flagged(evaluation, own[group], rate) for rate in rates))
    return table


def corruption_tables(evaluation: Json) -> list[Table]:
    """Alarms on corrupted images that are still rightly classified, kinds by severity: one table a rate."""
    if not evaluation["corruptions"]["cells"]:
        return []
    reached = evaluation["thresholds"]["heatward"]
    return [_corruption_table(evaluation, rate) for rate in evaluation["rates"] if reached[str(rate)] is not None]


def _corruption_table(evaluation: Json, rate: float) -> Table:
    found, key = evaluation["corruptions"], str(rate)
    table = Table(title=f"False alarms on corrupted images, flagged at {rate:.0%}", title_justify="left")
    severities = sorted({cell["severity"] for cell in found["cells"]})
    cells = {(cell["kind"], cell["severity"]): cell["flagged"][key] for cell in found["cells"]}
    table.add_column("corruption")
    for column in (*(f"severity {severity}" for severity in severities), "mean of 1–2", "mean of 1–5"):
        table.add_column(column, justify="right")
    for means in found["means"]:
        row = [cells.get((means["kind"], severity)) for severity in severities]
        each = [percent_only(cell) if cell else "" for cell in row]
        table.add_row(
            few(means["kind"], means["1-5"][key]), *each, percent(means["1-2"][key]), percent(means["1-5"][key])
        )
    return table


def use_table(evaluation: Json) -> Table:
    """What the alarms are good for, and what an attacker with every attack meets. One row a detector."""
    title = "Accuracy on 80 % clean and 20 % attacked images; images with every attack on them flagged (MEAD)"
    table = Table(title=title, title_justify="left")
    rates = [str(rate) for rate in evaluation["rates"]]
    table.add_column("detector")
    answers = ("corrected", "recovered")
    where = [f"{answer} where flagged at {float(rate):.0%}" for answer in answers for rate in rates]
    for column in ("as predicted", *where):
        table.add_column(column, justify="right")
    for rate in rates:
        table.add_column(f"MEAD at {float(rate):.0%}", justify="right")
    for name, title in evaluation["detectors"].items():
        accuracy, mead = evaluation["traffic"][name], evaluation["mead"].get(name)
        table.add_row(
            few(title, accuracy["uncorrected"]),
            percent(accuracy["uncorrected"]),
            *(_flagged(evaluation, accuracy[answer], rate, detector=name) for answer in answers for rate in rates),
            *(_flagged(evaluation, mead, rate, detector=name) if mead else "–" for rate in rates),
        )
    return table


def _flagged(
    evaluation: Json, estimates: Json, rate: str, thresholds: str = "thresholds", detector: str = "heatward"
) -> str:
    """A dash where so few calibration images cannot promise the rate: nothing is ever flagged at it."""
    return "–" if evaluation[thresholds][detector][rate] is None else percent(estimates[rate])


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}".replace("0.", ".", 1)


def markdown(evaluation: Json) -> str:
    """All tables of an evaluation, for a document."""
    return render(all_tables(evaluation))


def render(tables: Sequence[Table]) -> str:
    """Tables as Markdown."""
    parts = []
    for table in tables:
        header = [str(column.header) or " " for column in table.columns]
        rule = ["--:" if column.justify == "right" else "---" for column in table.columns]
        rows = [[str(cell) for cell in row] for row in zip(*(column.cells for column in table.columns), strict=True)]
        lines = [f"| {' | '.join(row)} |" for row in (header, rule, *rows)]
        parts.append("\n".join([f"**{table.title}**", "", *lines]))
    return "\n\n".join(parts) + "\n"
