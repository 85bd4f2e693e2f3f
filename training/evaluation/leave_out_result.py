"""Refits as one typed value: what leave_out.py counted in; leave_out.json and tables out."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import JsonValue
from rich.table import Table

from training.evaluation.measures import RATES
from training.evaluation.result import Detection, Number, Result
from training.evaluation.tables import blank_table, few, percent, share, share_only
from training.shards import write_json

__all__ = ["CleanOnly", "CrossAttack", "GroupResult", "Guarded", "LeaveOutResult", "LeftOut", "TrainedOn", "tables"]


class LeftOut(Detection):
    """An attack that the networks did not learn from."""

    label: str


class GroupResult(Result):
    """A refit without a group of families, on the group's attacks."""

    group: str
    families: tuple[str, ...]
    trained_on: tuple[str, ...]
    attacks: tuple[LeftOut, ...]
    mean: Detection


class CleanOnly(Result):
    """A fit to clean images and noise twins alone, on every attack; empty where it was not asked for."""

    attacks: tuple[LeftOut, ...]
    mean: Detection | None
    worst: Detection | None


class TrainedOn(Result):
    """A fit to clean images and one attack: its AUROC on every attack."""

    trained_on: str
    auroc: tuple[Number, ...]


class CrossAttack(Result):
    """The cross-attack matrix; without rows where it was not asked for."""

    tested_on: tuple[str, ...]
    rows: tuple[TrainedOn, ...]


class Guarded(Result):
    """The classifier that is guarded."""

    source: str
    fingerprint: str


class LeaveOutResult(Result):
    """Everything that was measured of the refits."""

    format: Literal["heatward-leave-out"] = "heatward-leave-out"
    schema_version: int = 2
    heatward_version: str
    classifier: Guarded
    rates: tuple[float, ...] = RATES
    resamples: int
    fit: dict[str, JsonValue]
    groups: tuple[GroupResult, ...]
    macro: dict[str, Detection]
    clean_only: CleanOnly
    cross_attack: CrossAttack

    def write(self, folder: Path) -> None:
        """Write leave_out.json."""
        write_json(folder / "leave_out.json", self.dump())


def tables(result: LeaveOutResult) -> list[Table]:
    """The result of `run` as tables: one row an attack left out; the matrix, if there is one."""
    numbers = ("AUROC", f"flagged at {RATES[-1]:.0%}", "label recovered, top-1")
    left_out = blank_table("Attacks of a group that was left out of training", "left out", "attack", numbers=numbers)

    def row(group: str, attack: str, found: Detection) -> None:
        left_out.add_row(
            few(group, found.auroc),
            attack,
            share(found.auroc),
            percent(found.tpr[RATES[-1]]),
            percent(found.recovered.top1),
        )

    for group in result.groups:
        for found in group.attacks:
            row(group.group, found.label, found)
        if len(group.attacks) > 1:
            row(group.group, f"mean of {len(group.attacks)}", group.mean)
    for name in ("mean of groups", "worst group", "worst attack"):
        row(name, "", result.macro[name])
    shown = [left_out]
    if result.clean_only.attacks:
        shown.append(_clean_only(result.clean_only))
    if result.cross_attack.rows:
        shown.append(_matrix(result.cross_attack))
    return shown


def _clean_only(result: CleanOnly) -> Table:
    numbers = ("AUROC", *(f"flagged at {rate:.0%}" for rate in RATES))
    table = blank_table("Fitted to clean images and noise twins alone", "attack", numbers=numbers)
    rows = [*((each.label, each) for each in result.attacks), ("mean", result.mean), ("worst", result.worst)]
    for label, row in rows:
        if row is not None:
            table.add_row(few(label, row.auroc), share(row.auroc), *(percent(row.tpr[rate]) for rate in RATES))
    return table


def _matrix(crossed: CrossAttack) -> Table:
    title = "AUROC: trained on clean images and one attack (row), tested on (column)"
    table = blank_table(title, "trained on", numbers=crossed.tested_on)
    for row in crossed.rows:
        table.add_row(row.trained_on, *(share_only(each) for each in row.auroc))
    return table
