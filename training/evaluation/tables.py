"""An evaluation as tables: the dictionary of evaluate.py in, rich tables or Markdown out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

__all__ = ["attack_table", "false_positive_table", "markdown", "percent", "recovery_table", "share", "size"]

Json = Mapping[str, Any]


def share(estimate: Json) -> str:
    """`.968 [.961, .975]`, or a dash where nothing was counted."""
    if estimate["value"] is None:
        return "–"
    return f"{_short(estimate['value'])} {_between(estimate, _short)}"


def percent(estimate: Json) -> str:
    """`4.1 % [3.5, 4.8]`."""
    if estimate["value"] is None:
        return "–"
    return f"{100 * estimate['value']:.1f} % {_between(estimate, lambda x: f'{100 * x:.1f}')}"


def attack_table(evaluation: Json) -> Table:
    """One row an attack: how often it works, and how well each detector tells it from clean images."""
    table = Table(title="Detection (AUROC, and share flagged at a false-positive rate)", title_justify="left")
    for column in ("attack", "", "success", "mean L∞·255", "mean L2"):
        table.add_column(column, justify="right" if column not in ("attack", "") else "left")
    rates = [str(rate) for rate in evaluation["rates"]]
    table.add_column("AUROC", justify="right", style="bold")
    for rate in rates:
        table.add_column(f"flagged at {float(rate):.0%}", justify="right")
    others = [name for name in evaluation["detectors"] if name != "heatward"]
    for name in others:
        table.add_column(f"AUROC {evaluation['detectors'][name]}", justify="right", style="dim")
    for attack in evaluation["attacks"]:
        own = attack["detectors"]["heatward"]
        table.add_row(
            attack["label"],
            "" if attack["seen"] else "unseen",
            percent(attack["success_rate"]),
            size(attack["linf"], 255),
            size(attack["l2"]),
            share(own["auroc"]),
            *(_flagged(evaluation, own["tpr"], rate) for rate in rates),
            *(_short(attack["detectors"][name]["auroc"]["value"]) for name in others),
        )
    return table


def recovery_table(evaluation: Json) -> Table:
    """One row an attack: how often the label before the attack is named."""
    rate = evaluation["rates"][-1]
    table = Table(title="Label before the attack recovered", title_justify="left")
    table.add_column("attack")
    for column in ("top-1", "top-2", f"top-1, flagged at {rate:.0%}", f"top-2, flagged at {rate:.0%}"):
        table.add_column(column, justify="right")
    others = [name for name in evaluation["detectors"] if name != "heatward"]
    for name in others:
        table.add_column(f"top-1 {evaluation['detectors'][name]}", justify="right", style="dim")
    for attack in evaluation["attacks"]:
        own = attack["detectors"]["heatward"]["recovery"]
        found = (own["all"], own[f"flagged at {rate}"])
        table.add_row(
            attack["label"],
            *(percent(part[top]) for part in found for top in ("top1", "top2")),
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
        table.add_row(group, *(_flagged(evaluation, own[group], rate) for rate in rates))
    return table


def size(estimate: Json, unit: float = 1) -> str:
    """`3.98`: a mean without its interval, times `unit`."""
    return "–" if estimate["value"] is None else f"{unit * estimate['value']:.2f}"


def percent_only(estimate: Json) -> str:
    """`4.1 %`."""
    return "–" if estimate["value"] is None else f"{100 * estimate['value']:.1f} %"


def _flagged(evaluation: Json, estimates: Json, rate: str) -> str:
    """A dash where so few calibration images cannot promise the rate: nothing is ever flagged at it."""
    return "–" if evaluation["thresholds"]["heatward"][rate] is None else percent(estimates[rate])


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}".replace("0.", ".", 1)


def _between(estimate: Json, write: Any) -> str:
    if estimate["low"] is None or estimate["high"] is None:
        return ""
    return f"[{write(estimate['low'])}, {write(estimate['high'])}]"


def markdown(evaluation: Json) -> str:
    """All tables of an evaluation, for a document."""
    parts = []
    for table in (attack_table(evaluation), recovery_table(evaluation), false_positive_table(evaluation)):
        header = [str(column.header) or " " for column in table.columns]
        rule = ["--:" if column.justify == "right" else "---" for column in table.columns]
        rows = [[str(cell) for cell in row] for row in zip(*(column.cells for column in table.columns), strict=True)]
        lines = [f"| {' | '.join(row)} |" for row in (header, rule, *rows)]
        parts.append("\n".join([f"**{table.title}**", "", *lines]))
    return "\n\n".join(parts) + "\n"
