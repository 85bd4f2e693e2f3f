"""An evaluation as tables: an `EvaluationResult` in, rich tables or Markdown out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from rich.table import Table

from training.deliveries import AT
from training.evaluation.metrics import FEW, Estimate
from training.evaluation.result import (
    HEATWARD,
    IN_FULL,
    AttackResult,
    CascadeResult,
    EvaluationResult,
    MeanResult,
    ReliabilityResult,
)

__all__ = [
    "accepted_table",
    "all_tables",
    "area_table",
    "attack_table",
    "blank_table",
    "cascade_table",
    "class_alarm_table",
    "corruption_tables",
    "false_positive_table",
    "few",
    "markdown",
    "percent",
    "percent_only",
    "recovery_table",
    "reliability_tables",
    "render",
    "row_name",
    "share",
    "share_only",
    "size",
    "use_table",
]


def share(estimate: Estimate) -> str:
    """`.968 [.961, .975], n 512`; `(.968, n 12)` of few images; a dash where nothing was counted."""
    return _counted(estimate, _short)


def share_only(estimate: Estimate) -> str:
    """`.968, n 512`: without its interval."""
    return _counted(estimate, _short, interval=False)


def percent(estimate: Estimate) -> str:
    """`4.1 % [3.5, 4.8], n 512`."""
    return _counted(estimate, lambda value: f"{100 * value:.1f}", " %")


def percent_only(estimate: Estimate) -> str:
    """`4.1 %, n 512`."""
    return _counted(estimate, lambda value: f"{100 * value:.1f}", " %", interval=False)


def size(estimate: Estimate, unit: float = 1) -> str:
    """`3.98, n 512`: a mean without its interval, times `unit`."""
    return _counted(estimate, lambda value: f"{unit * value:.2f}", interval=False)


def few(name: str, estimate: Estimate) -> str:
    """The name of a row; it says so where the row rests on few images."""
    return f"{name} (fewer than {FEW} images: means little)" if 0 < estimate.count < FEW else name


def _counted(estimate: Estimate, write: Callable[[float], str], unit: str = "", *, interval: bool = True) -> str:
    written, count = f"{write(estimate.value)}{unit}", estimate.count
    if math.isnan(estimate.value):
        return "–"
    if count < FEW:
        return f"({written}, n {count})"
    known = interval and not math.isnan(estimate.low + estimate.high)
    between = f" [{write(estimate.low)}, {write(estimate.high)}]" if known else ""
    return f"{written}{between}, n {count}"


def blank_table(title: str, *names: str, numbers: Iterable[str]) -> Table:
    """A table without rows; columns of numbers stand to the right."""
    table = Table(*names, title=title, title_justify="left")
    for column in numbers:
        table.add_column(column, justify="right")
    return table


def all_tables(evaluation: EvaluationResult) -> list[Table]:
    """Every table, in the order of the report."""
    return [
        attack_table(evaluation),
        recovery_table(evaluation),
        false_positive_table(evaluation),
        *corruption_tables(evaluation),
        use_table(evaluation),
        *reliability_tables(evaluation),
        *([cascade_table(evaluation, evaluation.cascade)] if evaluation.cascade is not None else []),
    ]


def row_name(row: AttackResult | MeanResult) -> str:
    """The label of an attack; `mean of 8` or `mean of 8@jpeg` for a row of `macro`."""
    if isinstance(row, AttackResult):
        return row.label
    return f"{row.label} of {row.attacks}" + (f"{AT}{row.delivery}" if row.delivery else "")


def attack_table(evaluation: EvaluationResult) -> Table:
    """One row an attack: how often it works, and how well each detector tells it from clean images."""
    title = (
        "Detection (AUROC, and share flagged at a false-positive rate: of all clean images, or of correct ones, "
        "which then set the threshold alone; of attacks that changed a right prediction)"
    )
    rates = evaluation.rates
    others = [name for name in evaluation.detectors if name != HEATWARD]
    measured = ("success", "mean L∞·255", "mean L2", "AUROC", "of each network alone")
    flagged = (*(f"flagged at {rate:.0%}" for rate in rates), *(f"at {rate:.0%} of correct" for rate in rates))
    compared = (f"AUROC {evaluation.detectors[name]}" for name in others)
    table = blank_table(title, "attack", "", numbers=(*measured, *flagged, *compared))
    for attack in evaluation.rows:
        own = attack.detectors[HEATWARD]
        made, alone = ["", "", ""], ""
        if isinstance(attack, AttackResult):
            made = [percent(attack.success_rate), size(attack.linf, 255), size(attack.l2)]
            alone = _range(attack.auroc_of_each_network) if own.auroc.count >= FEW else ""
        table.add_row(
            few(row_name(attack), own.auroc),
            "" if attack.seen else "unseen",
            *made,
            share(own.auroc),
            alone,
            *(_flagged(evaluation, own.tpr[rate], rate) for rate in rates),
            *(_flagged(evaluation, own.tpr_on_correct[rate], rate, on_correct=True) for rate in rates),
            *(share_only(attack.detectors[name].auroc) for name in others),
        )
    return table


def _range(values: Sequence[float | None]) -> str:
    """`.990–.992`."""
    known = [value for value in values if value is not None]
    return f"{_short(min(known))}–{_short(max(known))}" if known else ""


def recovery_table(evaluation: EvaluationResult) -> Table:
    """One row an attack: how often the label before the attack is named."""
    rate = evaluation.rates[-1]
    others = [name for name in evaluation.detectors if name != HEATWARD]
    compared = (f"top-1 {evaluation.detectors[name]}" for name in others)
    numbers = ("top-1", "top-2", "top-5", f"top-1, flagged at {rate:.0%}", *compared)
    table = blank_table("Label before the attack recovered", "attack", "", numbers=numbers)
    for attack in evaluation.rows:
        own = attack.detectors[HEATWARD]
        every = own.recovered
        found = [every.top1, every.top2, every.top5, own.recovered_of_flagged(rate).top1]
        table.add_row(
            few(row_name(attack), every.top1),
            "" if attack.seen else "unseen",
            *(percent(each) for each in found),
            *(percent_only(attack.detectors[name].recovered.top1) for name in others),
        )
    return table


def false_positive_table(evaluation: EvaluationResult) -> Table:
    """Alarms on images that nobody attacked."""
    rates = evaluation.rates
    table = blank_table("False alarms", "images", numbers=[f"flagged at {rate:.0%}" for rate in rates])
    own = evaluation.false_positives[HEATWARD]
    for group in sorted(own):
        table.add_row(
            few(group, own[group][rates[0]]), *(_flagged(evaluation, own[group][rate], rate) for rate in rates)
        )
    return table


def class_alarm_table(evaluation: EvaluationResult, most: int) -> Table:
    """False alarms by predicted class, the most first: with one calibration of all images, and with one of each class.

    Args:
        evaluation: Whose.
        most: Rows.
    """
    rates = evaluation.rates
    reached = [rate for rate in rates if any(rate in row.apart for row in evaluation.predicted)]
    numbers = (
        *(f"calibrated together, at {rate:.0%}" for rate in rates),
        "clean images of its own",
        *(f"calibrated apart, at {rate:.0%}" for rate in reached),
    )
    table = blank_table("False alarms by predicted class", "predicted", numbers=numbers)
    worst = sorted(evaluation.predicted, key=lambda row: row.together[rates[-1]].value, reverse=True)
    for row in worst[:most]:
        table.add_row(
            few(row.name, row.together[rates[-1]]),
            *(_flagged(evaluation, row.together[rate], rate) for rate in rates),
            str(row.calibrated or "–"),
            *(percent(row.apart[rate]) for rate in reached),
        )
    return table


def corruption_tables(evaluation: EvaluationResult) -> list[Table]:
    """Alarms on corrupted images that are still rightly classified, kinds by severity: one table a rate."""
    if not evaluation.corruptions.cells:
        return []
    reached = evaluation.thresholds[HEATWARD]
    return [_corruption_table(evaluation, rate) for rate in evaluation.rates if reached[rate] is not None]


def _corruption_table(evaluation: EvaluationResult, rate: float) -> Table:
    found = evaluation.corruptions
    severities = sorted({cell.severity for cell in found.cells})
    cells = {(cell.kind, cell.severity): cell.flagged[rate] for cell in found.cells}
    numbers = (*(f"severity {severity}" for severity in severities), "mean of 1–2", "mean of 1–5")
    title = f"False alarms on corrupted images, flagged at {rate:.0%}"
    table = blank_table(title, "corruption", numbers=numbers)
    for means in found.means:
        row = [cells.get((means.kind, severity)) for severity in severities]
        each = [percent_only(cell) if cell else "" for cell in row]
        table.add_row(few(means.kind, means.every[rate]), *each, percent(means.light[rate]), percent(means.every[rate]))
    return table


def use_table(evaluation: EvaluationResult) -> Table:
    """What the alarms are good for, and what an attacker with every attack meets. One row a detector."""
    title = "Accuracy on 80 % clean and 20 % attacked images; images with every attack on them flagged (MEAD)"
    rates = evaluation.rates
    where = [f"{answer} where flagged at {rate:.0%}" for answer in ("corrected", "recovered") for rate in rates]
    numbers = ("as predicted", *where, *(f"MEAD at {rate:.0%}" for rate in rates))
    table = blank_table(title, "detector", numbers=numbers)
    for name, title in evaluation.detectors.items():
        traffic, mead = evaluation.traffic[name], evaluation.mead.get(name)
        mended = (traffic.corrected, traffic.recovered)
        table.add_row(
            few(title, traffic.uncorrected),
            percent(traffic.uncorrected),
            *(_flagged(evaluation, each[rate], rate, detector=name) for each in mended for rate in rates),
            *(_flagged(evaluation, mead[rate], rate, detector=name) if mead else "–" for rate in rates),
        )
    return table


def reliability_tables(evaluation: EvaluationResult) -> list[Table]:
    """Area under risk–coverage by mixture; what is accepted at each promised error rate. None without a promise."""
    found = evaluation.reliability
    return [] if found is None else [area_table(found), accepted_table(found)]


def area_table(found: ReliabilityResult) -> Table:
    """Area under risk–coverage of each mixture of images: ours, the softmax's, the margin's."""
    names = list(found.curves[0].curves)
    area = "Area under risk–coverage (0 is best; each kind of images weighs alike)"
    areas = blank_table(area, "images", numbers=("n", "wrong", *names))
    for each in found.curves:
        cells = (_short(each.curves[name].area) for name in names)
        areas.add_row(each.mixture, str(each.images), f"{each.wrong:.1%}", *cells)
    return areas


def accepted_table(found: ReliabilityResult) -> Table:
    """How much of each kind of images is accepted at each promised error rate, and is wrong."""
    title = f"Predictions accepted at a promised error rate (smallest: {found.smallest_rate:.2%})"
    accepted = blank_table(title, "images", numbers=("promised", "n", "accepted", "wrong among accepted"))
    for row in found.accepted:
        share = f"{row.accepted_wrong / row.accepted:.2%}" if row.accepted else "–"
        accepted.add_row(
            row.kind, f"{row.rate:.0%}", str(row.images), f"{row.accepted / max(1, row.images):.1%}", share
        )
    return accepted


def cascade_table(evaluation: EvaluationResult, cascade: CascadeResult) -> Table:
    """What a glance lets go, and what is still flagged beside a full look at every image."""
    cost = ""
    if cascade.glance is not None:
        cost = (
            f": {cascade.on_clean:.1f} forward passes per clean image in place of {cascade.in_full:.1f}, "
            f"a glance {cascade.glance:.1f}"
        )
    title = f"Cascade, to clear {cascade.clears:.0%} of clean images{cost}"
    flagged = (f"flagged at {rate:.0%}{how}" for rate in evaluation.rates for how in ("", ", every image in full"))
    table = blank_table(title, "images", numbers=("went on", *flagged))
    rows: dict[str, tuple[dict[float, Estimate], dict[float, Estimate]]] = {
        group: (found, evaluation.false_positives[IN_FULL][group])
        for group, found in evaluation.false_positives[HEATWARD].items()
    }
    rows |= {row_name(row): (row.detectors[HEATWARD].tpr, row.detectors[IN_FULL].tpr) for row in evaluation.rows}
    for name, pair in rows.items():
        went_on = cascade.went_on.get(name)
        found = [(detector, rate) for rate in evaluation.rates for detector in (HEATWARD, IN_FULL)]
        cells = [
            "–" if evaluation.thresholds[detector][rate] is None else percent_only(pair[detector == IN_FULL][rate])
            for detector, rate in found
        ]
        table.add_row(name, percent_only(went_on) if went_on else "", *cells)
    return table


def _flagged(
    evaluation: EvaluationResult, estimate: Estimate, rate: float, *, detector: str = HEATWARD, on_correct: bool = False
) -> str:
    """A dash where so few calibration images cannot promise the rate: nothing is ever flagged at it."""
    thresholds = evaluation.thresholds_on_correct if on_correct else evaluation.thresholds
    return "–" if thresholds[detector][rate] is None else percent(estimate)


def _short(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1)


def markdown(evaluation: EvaluationResult) -> str:
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
