"""The decision: what is lost on one old attack outweighs every gain, and nothing is promoted for nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from training.evaluation.tables import render
from training.retraining.comparison import Comparison, Flags, Group, decide, table
from training.retraining.paired import paired_difference


def flags(group: Group, champion: float, challenger: float, count: int = 400) -> Flags:
    """Both flag the same images first, as far as their rates reach."""
    place = np.arange(count)
    return Flags(group, place, place < round(champion * count), place < round(challenger * count))


def decided(
    fresh: bool = False,
    missing: tuple[str, ...] = (),
    forget: tuple[str, ...] = (),
    tolerance: float = 0.05,
    **labels: Flags,
) -> Comparison:
    settings: dict[str, Any] = {"champion": "a" * 64, "challenger": "b" * 64, "rate": 0.01, "resamples": 200}
    return decide(labels, tolerance=tolerance, missing=missing, forget=forget, fresh=fresh, **settings)


SAME: dict[str, Any] = {"clean": flags("clean", 0.01, 0.01), "pgd": flags("old attack", 0.9, 0.9)}


def test_better_on_a_new_attack_and_no_worse_elsewhere_is_promoted() -> None:
    found = decided(**SAME, cw=flags("new attack", 0.2, 0.8))
    assert found.promoted and found.reasons[0].startswith("better on the new attacks (+60.0% [")
    assert {row.label: row.told for row in found.rows} == {"clean": "no worse", "pgd": "no worse", "cw": "better"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fgsm": flags("old attack", 0.9, 0.8)}, "fgsm: the challenger flags less (90.0% → 80.0%"),
        ({"clean": flags("clean", 0.01, 0.06)}, "clean: the challenger raises more false alarms (1.0% → 6.0%"),
        ({"traffic": flags("traffic", 0.01, 0.06)}, "traffic: the challenger raises more false alarms"),
        ({"fgsm": flags("old attack", 0.9, 0.9, 40)}, "fgsm: 40 images are too few to exclude"),
        ({"cw": flags("new attack", 0.2, 0.2)}, "the challenger is not better on the new attacks"),
        ({"reported": flags("reported attack", 0.6, 0.2)}, "reported: the challenger flags less"),
    ],
)
def test_one_loss_or_no_gain_keeps_the_champion(change: dict[str, Flags], said: str) -> None:
    found = decided(**{**SAME, "cw": flags("new attack", 0.2, 0.8), **change})
    assert not found.promoted and len(found.reasons) == 1 and found.reasons[0].startswith(said)


def test_an_old_attack_that_was_not_measured_keeps_the_champion() -> None:
    found = decided(**SAME, cw=flags("new attack", 0.2, 0.8), missing=("square",))
    assert not found.promoted and "square: the champion knows this attack" in found.reasons[0]


def test_where_nothing_is_new_only_a_gain_or_other_images_promote() -> None:
    assert not decided(**SAME).promoted
    assert "nothing is new" in decided(**SAME).reasons[0]
    assert decided(**SAME, fresh=True).promoted
    assert decided(clean=SAME["clean"], pgd=flags("old attack", 0.8, 0.9)).promoted
    assert not decided(clean=SAME["clean"], pgd=flags("old attack", 0.9, 0.8), fresh=True).promoted


def test_fewer_false_alarms_are_no_loss() -> None:
    found = decided(clean=flags("clean", 0.06, 0.01), pgd=SAME["pgd"], fresh=True)
    assert found.promoted and found.rows[0].told == "better"


def test_an_old_attack_without_an_image_keeps_the_champion_unless_it_was_given_up() -> None:
    none: dict[str, Any] = {"none": flags("old attack", 0, 0, 0)}
    found = decided(**SAME, **none, fresh=True)
    assert not found.promoted and found.reasons[0].startswith("none: the champion knows this attack, and no test image")
    assert decided(**SAME, **none, fresh=True, forget=("none",)).promoted


def test_other_labels_without_an_image_count_for_nothing() -> None:
    found = decided(**SAME, none=flags("new attack", 0, 0, 0), fresh=True)
    assert found.promoted and [row.label for row in found.rows] == ["clean", "pgd"]


def test_a_comparison_is_read_back_and_shown(tmp_path: Any) -> None:
    found = decided(**SAME, cw=flags("new attack", 0.2, 0.8))
    found.write(tmp_path)
    assert Comparison.read(tmp_path).dump() == found.dump()
    shown = render([table(found)])
    assert "| cw | new attack | 400 | 20.0% | 80.0% | +60.0%" in shown and "mean of new attacks" in shown


def paired(both: int, only_first: int, only_second: int, neither: int) -> tuple[float, float]:
    first = np.repeat([True, True, False, False], [both, only_first, only_second, neither])
    second = np.repeat([True, False, True, False], [both, only_first, only_second, neither])
    found = paired_difference(second, first)
    return round(found.low, 4), round(found.high, 4)


def test_the_interval_is_that_of_newcombe() -> None:
    assert paired(36, 12, 2, 0) == (0.0569, 0.3404)  # Newcombe 1998, table II, method 10
    assert paired(2, 12, 36, 0)[0] < -0.5


def test_agreement_on_few_images_is_no_certainty() -> None:
    assert paired(20, 0, 0, 0) == (-0.1611, 0.1611)
    low, high = paired(1000, 0, 0, 0)
    assert -0.004 < low < 0 < high < 0.004
