"""A part of the evidence that is left out: all of it, and nothing else."""

from __future__ import annotations

import pytest
from random_evidence import evidence_of

from benchmarks.detection.ablation import PARTS, without

EVIDENCE = evidence_of(3, 4, 4)
BLIND = {"nothing", "novelty"}  # these take no number away


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_zeros_and_the_rest_is_untouched(part: str) -> None:
    left = without(EVIDENCE, part).groups
    assert list(left) == list(EVIDENCE.groups)
    gone = {name for name, group in left.items() if not group.any()}
    assert bool(gone) == (part not in BLIND)
    assert all(left[name] is group for name, group in EVIDENCE.groups.items() if name not in gone)


def test_the_parts_leave_the_classifiers_answer_alone() -> None:
    gone = {name for part in PARTS for name, group in without(EVIDENCE, part).groups.items() if not group.any()}
    assert set(EVIDENCE.groups) - gone == {"classes.logit", "classes.log_probability"}
