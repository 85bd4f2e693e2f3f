"""An evaluation as plots: an `EvaluationResult` in, matplotlib figures out."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence

from forensics.drawing import Axes, Figure, mpl
from forensics.theme import THEME
from training.evaluation.metrics import Estimate
from training.evaluation.result import HEATWARD, AttackResult, Detection, EvaluationResult

__all__ = ["auroc_plot", "false_positive_plot", "recovery_plot", "roc_plot", "svg"]

Find = Callable[[Detection], Estimate]

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


def false_positive_plot(evaluation: EvaluationResult) -> Figure:
    """Alarms on images that nobody attacked, beside the rate that was asked for."""
    groups = evaluation.false_positives[HEATWARD]
    names = sorted(groups)
    figure = Figure(figsize=(7.6, 0.9 + 0.42 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    rates = evaluation.rates
    for at, rate in enumerate(rates):
        color = RAMP[at]
        axes.axvline(rate, color=color, lw=1, ls=":", zorder=0)
        estimates = [groups[name][rate] for name in names]
        places = [place + 0.14 * (at - (len(rates) - 1) / 2) for place in range(len(names))]
        _dots(axes, estimates, places, color, "o", f"asked for {rate:.0%}")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("images flagged")
    axes.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0))
    _tidy(axes)
    axes.legend(frameon=False, fontsize=9)
    return figure


def svg(figure: Figure) -> bytes:
    """The figure as SVG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "heatward"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _compare(evaluation: EvaluationResult, find: Find, label: str, chance: float | None = None) -> Figure:
    attacks = evaluation.attacks
    figure = Figure(figsize=(7.6, 1.1 + 0.42 * len(attacks)), layout="constrained")
    axes = figure.add_subplot()
    names = list(evaluation.detectors)
    for at, name in enumerate(names):
        color, mark = MARKS.get(name, (THEME["ink"], "x"))
        estimates = [find(attack.detectors[name]) for attack in attacks]
        places = [place + 0.14 * (at - (len(names) - 1) / 2) for place in range(len(attacks))]
        _dots(axes, estimates, places, color, mark, evaluation.detectors[name])
    axes.set_yticks(range(len(attacks)), [_named(attack, find(attack.detectors[HEATWARD])) for attack in attacks])
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.set_xlim(0, 1.01)
    if chance is not None:
        axes.axvline(chance, color=THEME["edge"], lw=1, zorder=0)
    _tidy(axes)
    figure.legend(loc="outside upper left", ncols=len(names), frameon=False, fontsize=9)
    return figure


def _named(attack: AttackResult, estimate: Estimate) -> str:
    return f"{attack.label}{'' if attack.seen else ' (unseen)'}, n {estimate.count}"


def _dots(
    axes: Axes, estimates: Sequence[Estimate], places: Sequence[float], color: str, mark: str, label: str
) -> None:
    known = [(e, place) for e, place in zip(estimates, places, strict=True) if not math.isnan(e.value)]
    for estimate, place in known:
        if not math.isnan(estimate.low):
            axes.plot([estimate.low, estimate.high], [place, place], color=color, lw=1.4, alpha=0.6)
    axes.plot([e.value for e, _ in known], [place for _, place in known], mark, color=color, ms=5, label=label)


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(THEME["edge"])
    axes.tick_params(colors=THEME["muted"], labelcolor=THEME["ink"], labelsize=9)
    axes.xaxis.label.set(color=THEME["ink"], fontsize=10)
    axes.yaxis.label.set(color=THEME["ink"], fontsize=10)
    axes.grid(axis="x", color=THEME["edge"], lw=0.5, alpha=0.7)
    axes.set_axisbelow(True)
