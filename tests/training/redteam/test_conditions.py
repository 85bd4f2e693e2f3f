"""`--fail-if`: what is read, what is refused, and what holds of a result."""

from __future__ import annotations

from pathlib import Path

import pytest

from detector.errors import ConfigError
from training.evaluation.metrics import Estimate
from training.redteam.conditions import read_condition
from training.redteam.result import Line, RedTeamResult, RowResult
from training.redteam.settings import ALL, QuickSettings, RedTeamSettings
from training.redteam.values import Norm

RATES = (0.01, 0.05)
SETTINGS = RedTeamSettings(rates=RATES, rows=(0, 4), linf=(4 / 255,), l2=(0.5,))


def line(row: int, success: float, *, norm: Norm = "Linf", eps: float = 4 / 255) -> Line:
    def of(value: float) -> Estimate:
        return Estimate(value, 0.0, 1.0, 10)

    by_rate = {0.01: of(0.9), 0.05: of(success)}
    return Line(
        row=row,
        method=ALL,
        norm=norm,
        eps=eps,
        steps=0,
        restarts=0,
        images=10,
        fooled=of(0.95),
        success=by_rate,
        robust={0.01: of(0.1), 0.05: of(1 - success)},
        recovered=by_rate,
    )


RESULT = RedTeamResult(
    heatward_version="0",
    bundle="b",
    classifier="c",
    accuracy=Estimate(0.9, 0.8, 1.0, 10),
    images=10,
    rate=0.05,
    rates=RATES,
    clean_flagged={},
    settings={},
    quick=False,
    rows=(RowResult(row=3, access="decision", refused="not asked for"),),
    lines=(line(0, 0.2), line(4, 0.7), line(4, 0.5, norm="L2", eps=0.5)),
    rejected={},
    checks=(),
    cpu_s=0.0,
)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("sr5@4/255>.5", "it is 0.700 (row 4)"),  # the worst row counts
        ("sr5@4/255 > 0.7", ""),
        ("sr5@4/255>=.7", "it is 0.700"),
        ("row0:sr5@4/255>.5", ""),
        ("ra5@4/255<.4", "it is 0.300 (row 4)"),
        ("ra5@4/255<=0.2", ""),
        ("right5@4/255<.3", "it is 0.200 (row 0)"),
        ("sr1@4/255>.89", "it is 0.900"),
        ("fooled@4/255>.9", "it is 0.950"),
        ("sr5@l2:.5>.4", "it is 0.500 (row 4)"),
        ("sr5@.5>.4", "cannot be judged"),
        ("row3:sr5@4/255>.5", "cannot be judged, nothing was measured (not asked for)"),
    ],
)
def test_a_condition_holds_or_not(text: str, holds: str) -> None:
    told = read_condition(text).judge(RESULT)
    assert holds in told if holds else told == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected [rowN:]FIGURE@EPS>NUMBER"),
        ("sr5@4/255", "expected [rowN:]FIGURE@EPS>NUMBER"),
        ("sr5>.5", "such as sr5@4/255>.5"),
        ("sr@4/255>.5", "expected"),
        ("srr5@4/255>.5", "expected"),
        ("sr5@4/255=.5", "expected"),
        ("sr5@4/255>.5 and more", "expected"),
        ("sr5@4/0>.5", "budget above 0"),
        ("sr5@4/255>50", "expected a number in [0, 1], got 50"),
        ("row7:sr5@4/255>.5", "rows are 0 to 4, got 7"),
        ("sr5@4/255>.5\x1b[2K", "\\x1b[2K"),
    ],
)
def test_what_is_no_condition_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_condition(text)
    assert said in str(caught.value) and "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sr10@4/255>.5", "no such rate is measured: give sr1, sr5"),
        ("sr5@8/255>.5", "no such budget is measured: give @4/255, @l2:0.5"),
        ("row2:sr5@4/255>.5", "row 2 is not among --rows 0,4"),
        ("sr5@4/255>.5", ""),
        ("fooled@l2:.5>.5", ""),
    ],
)
def test_what_nobody_measures_is_said_before_hours_are_spent(text: str, said: str) -> None:
    condition = read_condition(text)
    if not said:
        condition.check(SETTINGS)
        return
    with pytest.raises(ConfigError) as caught:
        condition.check(SETTINGS)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "text", "said"),
    [
        (RedTeamSettings(), "row2:sr5@2/255>.5", "no such budget of row 2 is measured: give @4/255, @8/255"),
        (RedTeamSettings(), "row1:sr5@2/255>.5", "row 1 is not measured: give --twin"),
        (QuickSettings(linf=(), l2=(0.5,)), "row2:sr5@l2:.5>.5", "row 2 is not measured: Square knows L∞ alone"),
        (RedTeamSettings(rows=(2,)), "sr5@16/255>.5", "no such budget is measured: give @4/255, @8/255"),
        (QuickSettings(l2=(0.5,)), "row2:sr5@l2:.5>.5", "give @8/255"),  # Square alone
        (RedTeamSettings(l2=(0.5,)), "row2:sr5@l2:.5>.5", ""),
        (RedTeamSettings(twin=Path("twin.heatward")), "row1:sr5@2/255>.5", ""),
        (RedTeamSettings(oracle_linf=(6 / 255,)), "row2:sr5@6/255>.5", ""),
        (RedTeamSettings(oracle_linf=(6 / 255,)), "row3:sr5@6/255>.5", "no such budget of row 3"),
    ],
)
def test_each_row_has_budgets_of_its_own(settings: RedTeamSettings, text: str, said: str) -> None:
    condition = read_condition(text)
    if not said:
        condition.check(settings)
        return
    with pytest.raises(ConfigError) as caught:
        condition.check(settings)
    assert said in str(caught.value)
