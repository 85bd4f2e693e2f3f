"""What a red team found, as one typed value: redteam.json, tables and the page come from it.

Nobody else knows the keys of redteam.json. Shares are of images that the classifier gets right, with Wilson's 95 %
interval; costs with a bootstrap interval over images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import JsonValue, ValidationError

from detector.errors import DataError
from training.evaluation.parts import ByRate, Number, Result
from training.redteam.values import Norm
from training.shards import write_json

__all__ = ["FILE", "Check", "Line", "RedTeamResult", "RowResult", "Told"]

FILE = "redteam.json"
Told = Literal["passed", "failed", "not run"]


class Line(Result):
    """One method of one row under one budget."""

    row: int
    method: str
    norm: Norm
    eps: float
    steps: int
    """Gradient steps of each restart, or images an oracle may be asked about; 0 of the line of all methods."""
    restarts: int
    images: int
    fooled: Number
    """The label is wrong, flagged or not."""
    success: ByRate
    """The label is wrong and the image is not flagged at the rate."""
    robust: ByRate
    """Right or flagged: the same images seen from the other side. By Tramèr 2022 whoever could detect at
    this eps could classify as robustly at eps / 2, without regard to the time that it takes."""
    recovered: ByRate
    """Right in the end: the label, or where flagged the corrected label."""
    queries: Number | None = None
    """Images asked about (each gradient step counts as one) for one success at the rate that was aimed at."""
    cpu_s: Number | None = None
    """CPU-seconds of this process, for the same."""
    distance: float | None = None
    """Median size of the successes' changes, in the norm; None where there is none."""
    curve: tuple[float, ...] = ()
    """The attacker's mean loss by step."""


class RowResult(Result):
    """One kind of access."""

    row: int
    access: str
    refused: str = ""
    """Why it was not run, or not all of it."""


class Check(Result):
    """One check of whether the attacks work at all."""

    name: str
    told: Told
    said: str


class RedTeamResult(Result):
    """Everything that was found."""

    format: Literal["heatward-redteam"] = "heatward-redteam"
    schema_version: int = 1
    heatward_version: str
    bundle: str
    """Digest."""
    twin: str = ""
    """Digest of the attacker's own bundle."""
    classifier: str
    """Source."""
    accuracy: Number
    """Of the classifier, of the images that were looked at."""
    images: int
    rate: float
    """The rate under which attackers who know heatward wanted to stay."""
    rates: tuple[float, ...]
    clean_flagged: ByRate
    """Of the same images, as they are."""
    settings: dict[str, JsonValue]
    quick: bool
    rows: tuple[RowResult, ...]
    lines: tuple[Line, ...]
    rejected: dict[str, ByRate]
    """Of images changed by 1/255 whose label stayed right: flagged all the same."""
    checks: tuple[Check, ...]
    failures: tuple[str, ...] = ()
    """Conditions of --fail-if that hold."""
    cpu_s: float
    """Of all attacks, the checks aside; finished parts keep theirs."""

    @property
    def failed_checks(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.told == "failed")

    def line(self, row: int, method: str, norm: Norm, eps: float, steps: int | None = None) -> Line | None:
        """The line, if there is one; of several numbers of steps, the most."""
        found = [
            line
            for line in self.lines
            if (line.row, line.method, line.norm) == (row, method, norm)
            and abs(line.eps - eps) < 1e-9
            and steps in (None, line.steps)
        ]
        return max(found, key=lambda line: line.steps, default=None)

    def write(self, folder: Path) -> None:
        """Write redteam.json."""
        write_json(folder / FILE, self.dump())

    @classmethod
    def read(cls, folder: Path) -> RedTeamResult:
        """Read redteam.json.

        Raises:
            DataError: There is none, or another heatward wrote it.
        """
        try:
            found: Any = cls.model_validate_json((folder / FILE).read_bytes())
        except (OSError, ValidationError) as error:
            raise DataError(f"{folder / FILE}: cannot be read as a red team's result: {error}") from error
        return found  # type: ignore[no-any-return]
