"""`--fail-if`: a condition such as `sr5@4/255>.5` in; whether it holds for a result out.

    [rowN:]FIGURE@[l2:]EPS  >|>=|<|<=  NUMBER          row4:sr5@4/255>.5    ra10@8/255<.3    fooled@l2:.5>=.9

Figures: `srN`, fools and is not flagged at N %; `raN`, right or flagged; `rightN`, right after recovery; `fooled`, the
label is wrong, flagged or not. Without a row the worst of all rows counts.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from detector.errors import ConfigError
from detector.text import printable
from training.redteam.settings import ALL, NO_SCORE_BUDGET, ROWS, RedTeamSettings

if TYPE_CHECKING:  # these need torch
    from training.redteam.result import Line, RedTeamResult
    from training.redteam.values import Norm

__all__ = ["Condition", "read_condition"]

NUMBER = r"\d+(?:\.\d*)?|\.\d+"
FORM = re.compile(
    rf"(?:row(?P<row>\d+):)?(?P<figure>fooled|(?P<kind>sr|ra|right)(?P<percent>{NUMBER}))@(?P<l2>[lL]2:)?"
    rf"(?P<eps>{NUMBER})(?:/(?P<over>{NUMBER}))?\s*(?P<compare>>=|<=|>|<)\s*(?P<bound>{NUMBER})"
)
EXAMPLES = "sr5@4/255>.5, row4:ra5@8/255<.1 or fooled@l2:.5>.9"
COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}


@dataclass(frozen=True)
class Condition:
    """As the module's docstring says."""

    text: str
    row: int | None
    kind: str
    rate: float | None
    norm: Norm
    eps: float
    compare: str
    bound: float

    def check(self, settings: RedTeamSettings) -> None:
        """See that it can be judged, before hours are spent.

        Raises:
            ConfigError: It names a rate, a budget or a row that is not measured.
        """
        rows = settings.rows
        if self.rate is not None and not any(abs(self.rate - rate) < 1e-9 for rate in settings.rates):
            known = ", ".join(f"{self.kind}{100 * rate:g}" for rate in settings.rates)
            raise ConfigError(f"--fail-if {self.text}: no such rate is measured: give {known}")
        if self.row is not None and self.row not in rows:
            raise ConfigError(f"--fail-if {self.text}: row {self.row} is not among --rows {','.join(map(str, rows))}")
        counted = rows if self.row is None else (self.row,)
        budgets = dict.fromkeys(budget for row in counted for budget in settings.measured(row))
        if not budgets:
            row, mend = (2, NO_SCORE_BUDGET) if 2 in counted else (counted[0], "give --twin")
            raise ConfigError(f"--fail-if {self.text}: row {row} is not measured: {mend}")
        if not any(norm == self.norm and abs(self.eps - eps) < 1e-6 for norm, eps in budgets):
            known = ", ".join(_budget(norm, eps) for norm, eps in budgets)
            of = "" if self.row is None else f" of row {self.row}"
            raise ConfigError(f"--fail-if {self.text}: no such budget{of} is measured: give {known}")

    def judge(self, result: RedTeamResult) -> str:
        """Why it fails the run; empty where it does not."""
        found = [
            line
            for line in result.lines
            if line.method == ALL and line.norm == self.norm and abs(line.eps - self.eps) < 1e-6
        ]
        found = [line for line in found if self.row in (None, line.row)]
        if not found:
            refused = next((row.refused for row in result.rows if row.row == self.row and row.refused), "")
            return f"{self.text}: cannot be judged, nothing was measured" + (f" ({refused})" if refused else "")
        values = {line.row: self._value(line) for line in found}
        worst = (max if self.kind in ("sr", "fooled") else min)(values, key=lambda row: values[row])
        if COMPARE[self.compare](values[worst], self.bound):
            return f"{self.text}: it is {values[worst]:.3f} (row {worst})"
        return ""

    def _value(self, line: Line) -> float:
        if self.rate is None:
            return line.fooled.value
        figures = {"sr": line.success, "ra": line.robust, "right": line.recovered}[self.kind]
        return next(each.value for rate, each in figures.items() if abs(rate - self.rate) < 1e-9)


def read_condition(text: str) -> Condition:
    """A condition as people write it.

    Raises:
        ConfigError: It is none.
    """
    match = FORM.fullmatch(text.strip())
    shown = printable(text)
    if match is None:
        raise ConfigError(f"--fail-if '{shown}': expected [rowN:]FIGURE@EPS>NUMBER, such as {EXAMPLES}")
    over, bound = float(match["over"] or 1), float(match["bound"])
    if over == 0 or float(match["eps"]) == 0:
        raise ConfigError(f"--fail-if '{shown}': a budget above 0 is expected, such as 4/255")
    if bound > 1:
        raise ConfigError(f"--fail-if '{shown}': figures are shares: expected a number in [0, 1], got {bound:g}")
    row = None if match["row"] is None else int(match["row"])
    if row is not None and row not in ROWS:
        raise ConfigError(f"--fail-if '{shown}': rows are 0 to {max(ROWS)}, got {row}")
    rate = None if match["percent"] is None else float(match["percent"]) / 100
    norm: Norm = "L2" if match["l2"] else "Linf"
    kind = match["kind"] or "fooled"
    return Condition(text.strip(), row, kind, rate, norm, float(match["eps"]) / over, match["compare"], bound)


def _budget(norm: Norm, eps: float) -> str:
    return f"@l2:{eps:g}" if norm == "L2" else f"@{eps * 255:g}/255"
