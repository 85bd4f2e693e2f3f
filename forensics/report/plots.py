"""An evaluation as plots: an `EvaluationResult` in, matplotlib figures out."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence

from forensics.drawing import Axes, Figure, mpl
from forensics.theme import THEME
from training.evaluation.metrics import Estimate
from training.evaluation.result import HEATWARD, Detection, EvaluationResult

__all__ = ["auroc_plot", "false_positive_plot", "recovery_plot", "risk_coverage_plot", "roc_plot", "svg"]

Find = Callable[[Detection], Estimate]
Series = tuple[str, str, str, Sequence[Estimate]]
"""Name, colour, mark, an estimate for each row."""

MARKS = {
    HEATWARD: (THEME["alarm"], "o"),
    "runner-up": ("#8a94a3", "v"),
}
RAMP = (
    THEME["alarm"],
    "#3a6ea5",
    THEME["calm"],
    "#c77f12",
    "#7a5ea8",
    "#1f9aa8",
    "#b4527f",
    THEME["muted"],
    "#7c8a1e",
    "#94532b",
)


def auroc_plot(evaluation: EvaluationResult) -> Figure:
    """AUROC of every detector against every attack."""
    return _compare(evaluation, lambda found: found.auroc, "AUROC, positives: attacks that worked", chance=0.5)


def recovery_plot(evaluation: EvaluationResult) -> Figure:
    """How often the label before the attack is named, of all attacks that worked."""
    return _compare(evaluation, lambda found: found.recovered.top1, "label before the attack recovered, top-1")


def roc_plot(evaluation: EvaluationResult) -> Figure:
    """One curve an attack, the false-positive rate in logarithms: alarms must be rare to be heeded."""
    figure = Figure(figsize=(7.6, 4.6), layout="constrained")
    axes = figure.add_subplot()
    for number, attack in enumerate(evaluation.attacks):
        curve = attack.detectors[HEATWARD].roc
        name = attack.label + ("" if attack.seen else " (unseen)")
        style = "-" if attack.seen else "--"
        axes.step(curve.fpr, curve.tpr, style, where="post", color=RAMP[number % len(RAMP)], label=name, lw=1.7)
    for rate in evaluation.rates:
        axes.axvline(rate, color=THEME["edge"], lw=1, zorder=0)
    axes.set(xscale="log", xlim=(1e-3, 1), ylim=(0, 1.01), xlabel="false-positive rate", ylabel="attacks flagged")
    _tidy(axes)
    figure.legend(loc="outside right center", frameon=False, fontsize=9)
    return figure


def risk_coverage_plot(evaluation: EvaluationResult) -> Figure | None:
    """A panel a mixture, a curve for ours, the softmax and the margin; None where nothing is promised."""
    if evaluation.reliability is None:
        return None
    mixtures = evaluation.reliability.curves
    figure = Figure(figsize=(7.6, 2.9 * -(-len(mixtures) // 2)), layout="constrained")
    panels = figure.subplots(-(-len(mixtures) // 2), 2, squeeze=False).flatten()
    for axes, mixture in zip(panels, mixtures, strict=False):
        for number, (name, curve) in enumerate(mixture.curves.items()):
            label = f"{name}, area {curve.area:.3f}"
            axes.plot(curve.coverage, curve.error, color=RAMP[number], label=label, lw=1.7)
        axes.set(xlim=(0, 1), ylim=(0, None), xlabel="accepted", ylabel="wrong among accepted")
        axes.set_title(mixture.mixture, fontsize=9, color=THEME["ink"])
        axes.legend(frameon=False, fontsize=8)
        _tidy(axes)
    for axes in panels[len(mixtures) :]:  # a place without a mixture
        axes.set_axis_off()
    return figure


def false_positive_plot(evaluation: EvaluationResult) -> Figure:
    """Alarms on images that nobody attacked, beside the rate that was asked for."""
    groups = evaluation.false_positives[HEATWARD]
    names = sorted(groups)
    asked = list(zip(evaluation.rates, RAMP, strict=False))
    series = [(f"asked for {rate:.0%}", color, "o", [groups[name][rate] for name in names]) for rate, color in asked]
    figure, axes = _dot_plot(names, series, "images flagged")
    for rate, color in asked:
        axes.axvline(rate, color=color, lw=1, ls=":", zorder=0)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0))
    return figure


def svg(figure: Figure) -> bytes:
    """The figure as SVG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "heatward"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _compare(evaluation: EvaluationResult, find: Find, label: str, chance: float | None = None) -> Figure:
    """A row an attack, a mark a detector."""
    attacks = evaluation.attacks
    rows = [
        f"{attack.label}{'' if attack.seen else ' (unseen)'}, n {find(attack.detectors[HEATWARD]).count}"
        for attack in attacks
    ]
    series = [
        (title, *MARKS.get(name, (THEME["ink"], "x")), [find(attack.detectors[name]) for attack in attacks])
        for name, title in evaluation.detectors.items()
    ]
    figure, axes = _dot_plot(rows, series, label)
    axes.set_xlim(0, 1.01)
    if chance is not None:
        axes.axvline(chance, color=THEME["edge"], lw=1, zorder=0)
    return figure


def _dot_plot(rows: Sequence[str], series: Sequence[Series], label: str) -> tuple[Figure, Axes]:
    """Estimates with their intervals, one line a row, one colour a series."""
    figure = Figure(figsize=(7.6, 1.1 + 0.42 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for at, (name, color, mark, estimates) in enumerate(series):
        shift = 0.14 * (at - (len(series) - 1) / 2)
        known = [(place + shift, each) for place, each in enumerate(estimates) if not math.isnan(each.value)]
        for place, each in known:
            axes.plot([each.low, each.high], [place, place], color=color, lw=1.4, alpha=0.6)
        axes.plot([each.value for _, each in known], [place for place, _ in known], mark, color=color, ms=5, label=name)
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    _tidy(axes)
    figure.legend(loc="outside upper left", ncols=len(series), frameon=False, fontsize=9)
    return figure, axes


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(THEME["edge"])
    axes.tick_params(colors=THEME["muted"], labelcolor=THEME["ink"], labelsize=9)
    axes.xaxis.label.set(color=THEME["ink"], fontsize=10)
    axes.yaxis.label.set(color=THEME["ink"], fontsize=10)
    axes.grid(axis="x", color=THEME["edge"], lw=0.5, alpha=0.7)
    axes.set_axisbelow(True)
