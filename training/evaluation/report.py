"""One self-contained HTML file: an evaluation and pictures in, a page with plots, tables and examples out.

Nothing is fetched when the page is opened: style and pictures lie inside.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from rich.table import Table

from training.evaluation import plots
from training.evaluation.pictures import Row, draw_rows, png
from training.evaluation.result import HEATWARD, AttackResult, EvaluationResult
from training.evaluation.tables import corruption_tables, few, percent, row_name, share, size, use_table
from training.shards import write_file

__all__ = ["cards", "html_table", "page", "picture", "write_report"]

MOST_CLASSES = 50

STYLE = """
body{font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color:#1b2330;background:#f4f6f9;margin:0}
main{max-width:1060px;margin:0 auto;padding:2.5rem 1.5rem 4rem}
h1{font-size:1.7rem;margin:0 0 .3rem}h2{font-size:1.15rem;margin:2.4rem 0 .4rem}
p{max-width:46rem;margin:.4rem 0 .8rem;color:#3d4757}
.cards{display:flex;flex-wrap:wrap;gap:.8rem;margin:1.2rem 0}
.card{background:#fff;border:1px solid #d9dee6;border-radius:10px;padding:.8rem 1.1rem;min-width:9rem}
.card b{display:block;font-size:1.45rem;line-height:1.3}.card span{font-size:.84rem;color:#6b7686}
figure{background:#fff;border:1px solid #d9dee6;border-radius:10px;margin:.8rem 0;padding:1rem;overflow-x:auto}
figure img{display:block;max-width:100%;margin:0 auto}
.scroll{overflow-x:auto;background:#fff;border:1px solid #d9dee6;border-radius:10px}
table{border-collapse:collapse;font-size:.86rem;font-variant-numeric:tabular-nums;width:100%}
th,td{padding:.42rem .7rem;text-align:right;white-space:nowrap}th:first-child,td:first-child{text-align:left}
th{color:#6b7686;font-weight:600;border-bottom:1px solid #d9dee6}tr+tr td{border-top:1px solid #eef1f5}
footer{margin-top:3rem;font-size:.84rem;color:#6b7686}code{font-size:.88em}
"""


def write_report(
    path: Path, evaluation: EvaluationResult, rows: Sequence[Row], worst: Sequence[Row], *, rate: float
) -> None:
    """Write the report of an evaluation.

    Args:
        path: the HTML file, written whole or not at all.
        evaluation: as made by `training.evaluation.evaluate.run`.
        rows: images to show first.
        worst: images that the detector judges worst, to show last.
        rate: the false-positive rate at which those images were judged.
    """
    classifier, images = evaluation.classifier, evaluation.images
    parts = [
        "<h1>Does the heatmap give the attack away?</h1>",
        f"<p>Classifier <code>{escape(classifier.source)}</code> with {classifier.classes} classes, "
        f"{percent(classifier.accuracy)} right on {images['test']} test images. Thresholds come from "
        f"{images['calibrate']} other clean images. Brackets are 95&nbsp;% bootstrap intervals over source images, "
        f"n is what a figure was counted on.{_copies(evaluation.copies)}</p>",
        _cards(evaluation, rate),
    ]
    if rows:
        note = f"The first image of the test split that each attack fooled. Flagged when p ≤ {rate:g}."
        parts += ["<h2>Examples</h2>", picture(png(draw_rows(rows, note=note)), "examples of attacked images")]
    parts += [
        "<h2>Detection</h2>",
        "<p>Positives are attacks that changed a right prediction; negatives are clean images that the classifier gets "
        "right. An <i>unseen</i> attack was never trained on. <i>Of correct</i>: at the threshold that only rightly "
        "classified calibration images set.</p>",
        picture(plots.svg(plots.auroc_plot(evaluation)), "AUROC by attack and detector", "svg+xml"),
        picture(plots.svg(plots.roc_plot(evaluation)), "ROC curves", "svg+xml"),
        _attack_table(evaluation),
        "<h2>The label before the attack</h2>",
        picture(plots.svg(plots.recovery_plot(evaluation)), "recovered labels", "svg+xml"),
        _recovery_table(evaluation, rate),
        "<h2>False alarms</h2>",
        "<p>On images that nobody attacked. A <i>noise twin</i> is a clean image plus random-sign noise of an "
        "attack's size, given in 1/255: it must not be flagged.</p>",
        picture(plots.svg(plots.false_positive_plot(evaluation)), "false alarms", "svg+xml"),
        _alarm_table(evaluation),
        *map(_as_html, corruption_tables(evaluation)),
        "<h2>In use</h2>",
        "<p>In traffic of 80&nbsp;% clean images and 20&nbsp;% successful attacks (an equal share of each), flagged "
        "images get their corrected label (the likeliest one, attacked or not) or their recovered one (the likeliest, "
        "given an attack). MEAD: of the images that every attack was tried on, those whose successful attacks were all "
        "flagged.</p>",
        _as_html(use_table(evaluation)),
        f"<h2>Errors by class, flagged at {rate:.0%}</h2>",
        _class_table(evaluation),
        *_worst(worst, rate),
        f"<footer>heatward {escape(evaluation.heatward_version)} · classifier fingerprint "
        f"<code>{escape(classifier.fingerprint[:16])}</code> · the numbers are in evaluation.json beside this file"
        "</footer>",
    ]
    write_file(path, page("heatward evaluation", "\n".join(parts)).encode())


def _copies(copies: Mapping[str, int]) -> str:
    counted = ", ".join(f"{count} in {split}" for split, count in copies.items() if count)
    return f" Images that are copies of another one, always in the same split: {escape(counted)}." if counted else ""


def page(title: str, body: str) -> str:
    """A whole HTML document; `body` is trusted markup."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{STYLE}</style></head>'
        f"<body><main>\n{body}\n</main></body></html>\n"
    )


def picture(content: bytes, description: str, kind: str = "png") -> str:
    """An image inside the page."""
    data = base64.b64encode(content).decode()
    return f'<figure><img alt="{escape(description)}" src="data:image/{kind};base64,{data}"></figure>'


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; every cell is escaped."""

    def line(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "\n".join(line("td", row) for row in rows)
    return f'<div class="scroll"><table>\n{line("th", head)}\n{body}\n</table></div>'


def cards(values: Sequence[tuple[str, str]]) -> str:
    """Large numbers with what they mean."""
    each = (f'<div class="card"><b>{escape(value)}</b><span>{escape(text)}</span></div>' for value, text in values)
    return f'<div class="cards">{"".join(each)}</div>'


def _cards(evaluation: EvaluationResult, rate: float) -> str:
    means = {row.seen: row.detectors[HEATWARD] for row in evaluation.macro if row.label == "mean"}
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
    return cards(shown)


def _attack_table(evaluation: EvaluationResult) -> str:
    names, rates = evaluation.detectors, evaluation.rates
    head = ["attack", "family", "attempts", "success", "L∞ · 255", "L2"]
    for title in names.values():
        head += [f"AUROC: {title}", *(f"flagged at {rate:.0%}" for rate in rates)]
        head += [f"at {rate:.0%} of correct" for rate in rates]
    rows = []
    for attack in evaluation.rows:
        row = [few(row_name(attack), attack.detectors[HEATWARD].auroc)]
        if isinstance(attack, AttackResult):
            row += [attack.family + ("" if attack.seen else ", unseen"), str(attack.attempts)]
            row += [percent(attack.success_rate), size(attack.linf, 255), size(attack.l2)]
        else:
            row += ["seen" if attack.seen else "unseen", "", "", "", ""]
        for name in names:
            found = attack.detectors[name]
            row += [share(found.auroc), *(percent(found.tpr[rate]) for rate in rates)]
            row += [percent(found.tpr_on_correct[rate]) for rate in rates]
        rows.append(row)
    return html_table(head, rows)


def _recovery_table(evaluation: EvaluationResult, rate: float) -> str:
    names = evaluation.detectors
    head = ["attack"]
    for title in names.values():
        head += [f"top-1: {title}", "top-2", "top-5", f"top-1, flagged at {rate:.0%}"]
    rows = []
    for attack in evaluation.attacks:
        name = attack.label + ("" if attack.seen else " (unseen)")
        row = [few(name, attack.detectors[HEATWARD].recovered.top1)]
        for name in names:
            found = attack.detectors[name]
            row += [percent(each) for each in (found.recovered.top1, found.recovered.top2, found.recovered.top5)]
            row.append(percent(found.recovered_of_flagged(rate).top1))
        rows.append(row)
    return html_table(head, rows)


def _alarm_table(evaluation: EvaluationResult) -> str:
    names, rates = evaluation.detectors, evaluation.rates
    head = ["images", *(f"flagged at {rate:.0%}: {title}" for title in names.values() for rate in rates)]
    alarms = evaluation.false_positives
    rows = [
        [
            few(group, alarms[HEATWARD][group][rates[0]]),
            *(percent(alarms[name][group][rate]) for name in names for rate in rates),
        ]
        for group in sorted(alarms[HEATWARD])
    ]
    return html_table(head, rows)


def _class_table(evaluation: EvaluationResult) -> str:
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
    return html_table(head, rows)


def _of(count: int, total: int) -> str:
    return f"{count} ({count / total:.1%})" if total else "–"


def _worst(rows: Sequence[Row], rate: float) -> list[str]:
    if not rows:
        return []
    note = f"Of every attack the least suspicious success; the most suspicious clean image. Flagged when p ≤ {rate:g}."
    return ["<h2>Judged worst</h2>", picture(png(draw_rows(rows, note=note)), "images that the detector judges worst")]


def _as_html(table: Table) -> str:
    """A table of tables.py, its title as a caption before it."""
    rows = [[str(cell) for cell in row] for row in zip(*(column.cells for column in table.columns), strict=True)]
    return f"<p>{escape(str(table.title))}</p>" + html_table([str(column.header) for column in table.columns], rows)
