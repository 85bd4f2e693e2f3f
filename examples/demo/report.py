"""What the demonstration shows: answers in; terminal tables, demo.png and demo.html out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from heatward import Verdict
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from detector.files import write_file
from detector.text import printable
from examples.demo.images import CLEAN, DELIVERED, JPEG, LOSSLESS, Case
from forensics.pages import Grid, data_url, render
from forensics.pictures import draw_rows, figure_png
from training.evaluation.examples import Example, pixels

__all__ = ["Answer", "Total", "latency_ms", "picture_rows", "show", "totals", "write_report"]

TEMPLATE = Path(__file__).with_name("templates") / "demo.html"
TITLE = "What the classifier looked at gives the attack away"
DELIVERY = (
    f"{DELIVERED}: the attacked image saved as a JPEG file (quality {JPEG['quality']}, {JPEG['subsampling']}), "
    "counted where it still fools the classifier."
)


@dataclass(frozen=True)
class Answer:
    """What was sent, what came back, and how long that took."""

    case: Case
    verdict: Verdict
    latency_ms: float

    @property
    def counts(self) -> bool:
        """Attacks that did not change the prediction are shown but not counted."""
        return self.case.worked or not self.case.attacked

    @property
    def recovered(self) -> str:
        return self.verdict.recovered[0].name if self.verdict.recovered else ""


@dataclass(frozen=True)
class Total:
    """Counts of one kind."""

    kind: str
    attacked: bool
    sent: int
    worked: int  # = sent where nothing was attacked
    flagged: int  # of those that worked
    recovered: int  # of those flagged


def totals(answers: Sequence[Answer]) -> list[Total]:
    """One line a kind, in the order in which kinds were sent."""
    lines = []
    for kind in dict.fromkeys(answer.case.kind for answer in answers):
        sent = [answer for answer in answers if answer.case.kind == kind]
        counted = [answer for answer in sent if answer.counts]
        flagged = [answer for answer in counted if answer.verdict.attacked]
        recovered = sum(answer.recovered == answer.case.origin for answer in flagged)
        lines.append(Total(kind, sent[0].case.attacked, len(sent), len(counted), len(flagged), recovered))
    return lines


def latency_ms(answers: Sequence[Answer]) -> dict[str, float]:
    """Percentiles over all calls."""
    times = np.array([answer.latency_ms for answer in answers])
    return {f"p{at}": float(np.percentile(times, at)) for at in (50, 90, 99)}


def show(answers: Sequence[Answer], console: Console, *, rate: float, photographs: int) -> None:
    """Print the first photographs' answers, the totals and the latency."""
    names = list(dict.fromkeys(answer.case.photograph.name for answer in answers))
    table = _table(f"The first {min(photographs, len(names))} photographs of {len(names)} (all are in demo.html)")
    for column in ("#", "sent as", "truth", "prediction", "verdict", "p-value", "was before"):
        table.add_column(column, justify="right" if column == "p-value" else "left", no_wrap=True)
    for number, name in enumerate(names[:photographs], 1):
        for answer in (answer for answer in answers if answer.case.photograph.name == name):
            style = {"ATTACKED": "bold red", "no attack": "green"}.get(_verdict(answer), "yellow")
            _, *row = map(Text, _cells(answer))  # names are no markup
            row[3].style = style
            table.add_row(f"{number}" if answer.case.kind == CLEAN else "", *row)
        table.add_section()
    console.print(table)

    console.print(_totals_table(answers, rate))
    console.print(DELIVERY, highlight=False)
    times = ", ".join(f"{name} {value:.0f} ms" for name, value in latency_ms(answers).items())
    console.print(f"One gRPC call, image to verdict: {times}", highlight=False)


def picture_rows(answers: Sequence[Answer]) -> list[Example]:
    """One row a kind: the first rightly classified photograph that it fooled, each time another one.

    What was delivered stands below the same photograph without loss: one that fools the classifier both ways.
    """
    clean = {answer.case.photograph.name: answer for answer in answers if answer.case.kind == CLEAN}
    arrived = {answer.case.photograph.name for answer in answers if answer.case.kind == DELIVERED and answer.counts}
    used: dict[str, str] = {}  # by kind
    rows = []
    kinds = [total for total in totals(answers) if total.kind != CLEAN]
    for total in sorted(kinds, key=lambda total: not total.attacked):  # attacks first, noise last
        fits = [a for a in answers if a.case.kind == total.kind and a.counts and a.case.photograph.name in clean]
        if fits:
            chosen = min(fits, key=lambda answer: _unfitness(answer, used, arrived))
            used[total.kind] = chosen.case.photograph.name
            rows.append(_row(clean[used[total.kind]], chosen))
    return rows


def _unfitness(answer: Answer, used: Mapping[str, str], arrived: Collection[str]) -> tuple[bool, bool]:
    """Whether another photograph is wanted, and whether this one is wrongly classified; never what the verdict is."""
    kind, photograph = answer.case.kind, answer.case.photograph
    if kind == DELIVERED:
        other = photograph.name != used.get(LOSSLESS)
    else:
        other = photograph.name in used.values() or (kind == LOSSLESS and photograph.name not in arrived)
    return other, photograph.truth not in ("", answer.case.origin)


def write_report(folder: Path, answers: Sequence[Answer], *, rate: float) -> None:
    """Write demo.png and demo.html."""
    lines = totals(answers)
    attacks = [line for line in lines if line.attacked and line.kind != DELIVERED]
    delivered = [line for line in lines if line.kind == DELIVERED]
    note = f"The first rightly classified photograph that each attack fooled. Flagged when p ≤ {rate:g}."
    for line in delivered:
        note += f" {DELIVERED}: {line.worked} of {line.sent} still fool it, {line.flagged} of these are flagged."
    image = figure_png(draw_rows(picture_rows(answers), title=TITLE, note=note), dpi=120)
    write_file(folder / "demo.png", image)
    others = [line for line in lines if not line.attacked]
    flagged, worked = sum(line.flagged for line in attacks), sum(line.worked for line in attacks)
    numbers = [
        (f"{flagged}/{worked}", "attacks as PNG, flagged"),
        *((f"{line.flagged}/{line.worked}", f"{DELIVERED}, flagged") for line in delivered),
        (f"{sum(line.recovered for line in attacks)}/{flagged}", "labels recovered, of those flagged"),
        (f"{sum(o.flagged for o in others)}/{sum(o.worked for o in others)}", "false alarms"),
        (f"{latency_ms(answers)['p50']:.0f} ms", "one call, median"),
    ]
    page = render(
        TEMPLATE,
        title="heatward demo",
        heading=TITLE,
        delivery=DELIVERY,
        rate=f"{rate:g}",
        numbers=numbers,
        image=data_url(image, "png"),
        totals=Grid.of(_totals_table(answers, rate)),
        every=Grid(
            ["image", "sent as", "truth", "prediction", "verdict", "p-value", "before the attack", "ms"],
            [[*_cells(answer), f"{answer.latency_ms:.0f}"] for answer in answers],
        ),
    )
    write_file(folder / "demo.html", page.encode())


def _totals_table(answers: Sequence[Answer], rate: float) -> Table:
    table = _table(f"All {len(answers)} images, at {rate:.0%} false positives")
    for column in ("sent as", "fooled the classifier", "flagged", "label recovered"):
        table.add_column(column, justify="left" if column == "sent as" else "right")
    for total in totals(answers):
        worked = f"{total.worked}/{total.sent}" if total.attacked else "–"
        recovered = f"{total.recovered}/{total.flagged}" if total.attacked else "–"
        flagged = Text(f"{total.flagged}/{total.worked}", "red" if total.attacked else "green")
        table.add_row(total.kind, worked, flagged, recovered)
    return table


def _table(title: str) -> Table:
    """A light table that fits 80 columns."""
    return Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=0, pad_edge=False)


def _verdict(answer: Answer) -> str:
    if answer.case.attacked and not answer.case.worked:
        return "no effect" if not answer.verdict.attacked else "flagged"
    if answer.verdict.attacked:
        return "ATTACKED" if answer.case.attacked else "false alarm"
    return "missed" if answer.case.attacked else "no attack"


def _cells(answer: Answer) -> list[str]:
    """Image, kind, truth, prediction, verdict, p-value, recovered label."""
    case, verdict = answer.case, answer.verdict
    recovered = ""
    if case.worked and verdict.attacked:
        recovered = f"{answer.recovered} {'✓' if answer.recovered == case.origin else '✗'}"
    seen = f"{verdict.predicted.name} {verdict.predicted.probability:.0%}"
    photo = case.photograph
    said = [photo.name, case.kind, photo.truth or "?", seen, _verdict(answer), f"{verdict.p_value:.4f}", recovered]
    return [printable(text) for text in said]


def _row(clean: Answer, sent: Answer) -> Example:
    return Example(
        title=sent.case.kind,
        clean=pixels(clean.case.pixels),
        sent=pixels(sent.case.pixels),
        heat_before=_heat(clean.verdict),
        heat_after=_heat(sent.verdict),
        label_before=clean.verdict.predicted.name,
        label_after=sent.verdict.predicted.name,
        probability_before=clean.verdict.predicted.probability,
        probability_after=sent.verdict.predicted.probability,
        flagged=bool(sent.verdict.attacked),
        p_value=1.0 if sent.verdict.p_value is None else sent.verdict.p_value,
        attacked=sent.case.attacked,
        recovered=sent.recovered,
    )


def _heat(verdict: Verdict) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    if verdict.heatmap is None:
        return np.zeros((1, 1), dtype=np.float32)
    return np.asarray(verdict.heatmap.to_numpy(), dtype=np.float32)
