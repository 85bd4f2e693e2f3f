"""One self-contained HTML file: the folder of an evaluation in, a page with plots, tables and examples out.

Nothing is fetched when the page is opened: style and pictures lie inside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from detector.files import write_file
from forensics.drawing import Figure
from forensics.pages import Grid, data_url, render
from forensics.pictures import draw_rows, figure_png
from forensics.report import plots
from training.evaluation.examples import Example, read_examples
from training.evaluation.result import HEATWARD, EvaluationResult
from training.evaluation.tables import (
    attack_table,
    class_alarm_table,
    corruption_tables,
    false_positive_table,
    few,
    percent,
    recovery_table,
    reliability_tables,
    use_table,
)

__all__ = ["write_report"]

MOST_CLASSES = 50

TEMPLATE = Path(__file__).with_name("templates") / "report.html"


def write_report(folder: Path) -> Path:
    """Write `report.html` into the folder that holds an evaluation, whole or not at all; returns its path.

    Raises:
        DataError: There is no evaluation, or another heatward wrote it.
    """
    evaluation, shown = EvaluationResult.read(folder), read_examples(folder)
    rate = evaluation.rates[-1]
    judged = f"Flagged when p ≤ {rate:g}."
    first = f"The first image of the test split that each attack fooled. {judged}"
    least = f"Of every attack the least suspicious success; the most suspicious clean image. {judged}"
    page = render(
        TEMPLATE,
        title="heatward evaluation",
        evaluation=evaluation,
        accuracy=percent(evaluation.classifier.accuracy),
        copies=", ".join(f"{count} in {split}" for split, count in evaluation.copies.items() if count),
        numbers=_numbers(evaluation, rate),
        examples=_picture(shown["first"], first),
        worst=_picture(shown["worst"], least),
        plots={
            "auroc": _plot(plots.auroc_plot(evaluation)),
            "roc": _plot(plots.roc_plot(evaluation)),
            "recovery": _plot(plots.recovery_plot(evaluation)),
            "alarms": _plot(plots.false_positive_plot(evaluation)),
            "reliability": _plot(relied) if (relied := plots.risk_coverage_plot(evaluation)) else "",
        },
        tables={
            "attacks": Grid.of(attack_table(evaluation)),
            "recovery": Grid.of(recovery_table(evaluation)),
            "alarms": Grid.of(false_positive_table(evaluation)),
            "use": Grid.of(use_table(evaluation)),
            "classes": _class_table(evaluation),
            "predicted": Grid.of(class_alarm_table(evaluation, MOST_CLASSES)),
        },
        corruptions=[Grid.of(table) for table in corruption_tables(evaluation)],
        reliability=[Grid.of(table) for table in reliability_tables(evaluation)],
        rate=f"{rate:.0%}",
    )
    path = folder / "report.html"
    write_file(path, page.encode())
    return path


def _picture(rows: Sequence[Example], note: str) -> str:
    return data_url(figure_png(draw_rows(rows, note=note)), "png") if rows else ""


def _plot(figure: Figure) -> str:
    return data_url(plots.svg(figure), "svg+xml")


def _numbers(evaluation: EvaluationResult, rate: float) -> list[tuple[str, str]]:
    """Large numbers with what they mean."""
    means = {row.seen: row.detectors[HEATWARD] for row in evaluation.macro if row.label == "mean" and not row.delivery}
    shown = []
    for seen, word in ((True, "attacks trained on"), (False, "unseen attacks")):
        if seen in means and not math.isnan(means[seen].auroc.value):
            auroc, tpr = means[seen].auroc, means[seen].tpr[rate]
            shown.append((f"{auroc.value:.3f}", few(f"mean AUROC, {word}, n {auroc.count}", auroc)))
            shown.append((f"{tpr.value:.0%}", few(f"flagged, {word}, n {tpr.count}", tpr)))
    if True in means and not math.isnan((recovered := means[True].recovered.top1).value):
        said = few(f"labels recovered, attacks trained on, n {recovered.count}", recovered)
        shown.append((f"{recovered.value:.0%}", said))
    alarms = evaluation.false_positives[HEATWARD]["clean"][rate]
    if not math.isnan(alarms.value):
        said = few(f"of clean images flagged ({rate:.0%} asked for), n {alarms.count}", alarms)
        shown.append((f"{alarms.value:.1%}", said))
    return shown


def _class_table(evaluation: EvaluationResult) -> Grid:
    """Classes with the most misses first."""
    head = ["class", "clean images", "flagged in error", "attacks", "missed", "label recovered wrongly"]
    worst = sorted(evaluation.classes, key=lambda each: (each.misses, each.false_positives), reverse=True)
    rows = [
        [
            each.name,
            str(each.clean),
            _of(each.false_positives, each.clean),
            str(each.attacks),
            _of(each.misses, each.attacks),
            _of(each.wrong_recoveries, each.attacks),
        ]
        for each in worst[:MOST_CLASSES]
    ]
    return Grid(head, rows)


def _of(count: int, total: int) -> str:
    return f"{count} ({count / total:.1%})" if total else "–"
