"""The second look's p-values keep their promise, whatever the second scores are; its features depend on their image."""

from __future__ import annotations

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from detector.errors import CalibrationError
from detector.scoring.calibration import Calibration
from detector.second_look import SecondLook, last_rank, mask_features, rivals_of

COUNT = 39


def look_of(first: Tensor, second: Tensor) -> tuple[Calibration, SecondLook]:
    """Both calibrations from the first and second scores (n,) of clean images."""
    order = first.argsort(descending=True)
    members = second[order[1 : last_rank(len(first)) - 1]]
    unit = torch.ones(4)  # one feature in four shapes
    look = SecondLook(
        0 * unit, unit, unit.double(), torch.zeros(1).double(), members.double().sort().values, len(first)
    )
    return Calibration.fit(first), look


def final_p(calibration: Calibration, look: SecondLook, first: Tensor, second: Tensor) -> float:
    p_value = float(calibration.p_value(first[None]))
    return float(look.p_value(second[None].double())) if look.undecided(p_value) else p_value


@given(st.integers(0, 10_000), st.sampled_from(["independent", "equal", "opposite"]))
def test_every_exchangeable_image_has_its_own_rank(seed: int, kind: str) -> None:
    """Leave each of n + 1 images out in turn: their p-values are 1/(n+1) … 1, each once, so each rate holds exactly."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(COUNT + 1, generator=generator).double()
    second = {"independent": torch.randn(COUNT + 1, generator=generator).double(), "equal": first, "opposite": -first}
    p_values = []
    for new in range(COUNT + 1):
        others = torch.arange(COUNT + 1) != new
        calibration, look = look_of(first[others], second[kind][others])
        p_values.append(final_p(calibration, look, first[new], second[kind][new]))
    expected = torch.arange(1, COUNT + 2).double() / (COUNT + 1)
    torch.testing.assert_close(torch.tensor(p_values).double().sort().values, expected)


def test_the_decided_keep_their_p_value() -> None:
    _, look = look_of(torch.arange(COUNT).double(), torch.zeros(COUNT).double())
    assert not look.undecided(1 / (COUNT + 1))  # more suspect than every clean image
    assert look.undecided(2 / (COUNT + 1))
    assert look.undecided(last_rank(COUNT) / (COUNT + 1))
    assert not look.undecided((last_rank(COUNT) + 1) / (COUNT + 1))


def test_a_higher_second_score_is_more_suspect_and_ties_count_against_the_alarm() -> None:
    _, look = look_of(torch.arange(COUNT).double(), torch.arange(COUNT).double())
    low, tied, high = look.p_value(torch.tensor([-1.0, float(look.scores[3]), 1e9])).tolist()
    assert high == pytest.approx(2 / (COUNT + 1))
    assert low == pytest.approx(last_rank(COUNT) / (COUNT + 1))
    assert tied == pytest.approx((2 + len(look.scores) - 3) / (COUNT + 1))


def test_it_survives_being_stored() -> None:
    _, look = look_of(torch.randn(COUNT).double(), torch.randn(COUNT).double())
    again = SecondLook.from_tensors(look.tensors())
    features = torch.randn(5, 1)
    torch.testing.assert_close(again.p_value(again.score(features)), look.p_value(look.score(features)))


def test_what_does_not_fit_together_is_refused() -> None:
    _, look = look_of(torch.randn(COUNT).double(), torch.randn(COUNT).double())
    tensors = look.tensors()
    with pytest.raises(CalibrationError, match="incomplete"):
        SecondLook.from_tensors({name: value for name, value in tensors.items() if name != "scores"})
    with pytest.raises(CalibrationError, match=r"has 1 calibration scores, expected 8 for 39"):
        SecondLook.from_tensors(tensors | {"scores": torch.zeros(1)})
    with pytest.raises(CalibrationError, match="do not fit together"):
        SecondLook.from_tensors(tensors | {"weights": torch.zeros(2)})
    with pytest.raises(CalibrationError, match="NaN"):
        look.p_value(torch.tensor([torch.nan]))


def test_the_rival_is_the_likeliest_other_label() -> None:
    recovered = torch.tensor([[3, 1, 2], [1, 3, 2]])
    assert rivals_of(torch.tensor([3, 3]), recovered).tolist() == [1, 1]


@pytest.mark.parametrize("with_witness", [True, False])
def test_features_depend_on_their_image_alone(with_witness: bool) -> None:
    classifier, images = tiny.classifier(), tiny.images(4).images
    witness = tiny.classifier() if with_witness else None
    labels, rivals = torch.tensor([0, 1, 2, 3]), torch.tensor([1, 2, 3, 0])
    scores = torch.tensor([0.0, 0.5, 2.0, 9.0])
    together = mask_features(classifier, witness, images, labels, rivals, scores)
    assert together.shape == (4, 38 if with_witness else 23)
    assert together.isfinite().all()
    alone = [
        mask_features(classifier, witness, images[i : i + 1], labels[i : i + 1], rivals[i : i + 1], scores[i : i + 1])
        for i in range(4)
    ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-3, rtol=1e-3)
