"""Methods measured on the tiny problem, where it is known which pixels matter; and their pictures."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import tiny
import torch
from torch import Tensor

from benchmarks.attribution.images import Photographs, centre_maps, in_turns, photograph, random_maps
from benchmarks.attribution.metrics import wilson
from benchmarks.attribution.pictures import draw, over_grey, through
from benchmarks.attribution.rows import Plan, Row, maker, measure, measure_maps
from detector.classifier import Classifier
from detector.heatmaps import gradient

PLAN = Plan(images=32, curves=20, probes=8, batch=12, steps=8, settings={})


@pytest.fixture
def photographs(tiny_classifier: Classifier, tiny_images: tiny.TinyImages) -> Photographs:
    images, labels = tiny_images.images[:32], tiny_images.labels[:32]
    return photograph(tiny_classifier, images, torch.arange(32), labels, chunk=32)


def where_the_patch_is(tiny_images: tiny.TinyImages) -> Tensor:
    maps = torch.zeros(32, tiny.SIDE, tiny.SIDE)
    for each, (top, left) in zip(maps, tiny_images.corners[:32].tolist(), strict=True):
        each[top : top + tiny.PATCH, left : left + tiny.PATCH] = 1
    return maps


def test_the_map_of_what_matters_beats_its_opposite(
    tiny_classifier: Classifier, tiny_images: tiny.TinyImages, photographs: Photographs
) -> None:
    perfect = where_the_patch_is(tiny_images)
    counted: list[int] = []
    rows = {
        name: measure_maps(tiny_classifier, photographs, maps, PLAN, counted.append).estimates(photographs.index)
        for name, maps in (("perfect", perfect), ("opposite", -perfect), ("random", random_maps(photographs)))
    }
    assert counted == [12, 12, 8] * 3
    for name in ("random", "opposite"):
        assert rows["perfect"]["insertion"].value > rows[name]["insertion"].value + 0.05
        assert rows["perfect"]["deletion"].value < rows[name]["deletion"].value - 0.05
        assert rows["perfect"]["logit gained"].value > rows[name]["logit gained"].value


def test_everything_is_measured_of_a_method(tiny_classifier: Classifier, photographs: Photographs) -> None:
    row = measure(tiny_classifier, photographs, maker(gradient, {}), PLAN, lambda count: None)
    found = row.estimates(photographs.index)
    assert found["beats random"].count == 32 and found["insertion"].count == 20
    assert found["flip"].count == found["random weights"].count == PLAN.probes
    assert -1 <= found["random weights"].value <= 1 and row.cost["ms"] > 0
    assert sum(map(len, row.maps)) == 10


def test_a_soft_mask_is_measured_beside_random_ones_of_its_values(
    tiny_classifier: Classifier, tiny_images: tiny.TinyImages, photographs: Photographs
) -> None:
    perfect = where_the_patch_is(tiny_images) * 0.9 + 0.05
    places = {int(each): place for place, each in enumerate(photographs.index)}

    def make(_: Classifier, some: Photographs) -> Tensor:
        return torch.stack([perfect[places[int(each)]] for each in some.index])

    row = measure(tiny_classifier, photographs, make, PLAN, lambda count: None, masks=True)
    found = row.estimates(photographs.index)
    assert found["soft mask beats random"].value > 0.8 and found["soft mask, logit gained"].value > 0
    assert found["soft mask beats random"].low < found["soft mask beats random"].value  # not certain, even of all


def test_the_same_map_twice_fails_the_sanity_check(tiny_classifier: Classifier, photographs: Photographs) -> None:
    """An edge detector, say, which does not look at the classifier: correlation 1."""
    row = measure(tiny_classifier, photographs, lambda _, some: some.pixels.mean(1), PLAN, lambda count: None)
    found = row.estimates(photographs.index)
    assert found["random weights"].value == pytest.approx(1) and found["flip"].value == pytest.approx(1)
    assert abs(found["random weights, another image"].value) < 0.3  # the maps differ, so it is not their place alone


def test_constant_maps_are_left_out_of_correlations() -> None:
    row = Row()
    row.add({"beats random": torch.tensor([1.0, 0.0, 1.0]), "flip": torch.tensor([math.nan, 0.5, 0.7])})
    found = row.estimates(torch.arange(3))
    assert found["flip"].value == pytest.approx(0.6) and found["flip"].count == 2
    assert found["beats random"].low == pytest.approx(wilson(2, 3)[0])


def test_random_maps_do_not_depend_on_the_batch(photographs: Photographs) -> None:
    torch.testing.assert_close(random_maps(photographs)[5:7], random_maps(photographs[5:7]))
    middle = centre_maps(photographs)[0]
    assert middle[7:9, 7:9].min() > middle[0].max()


def test_classes_take_turns() -> None:
    assert in_turns(torch.tensor([3, 3, 1, 3, 1, 2])).tolist() == [0, 2, 5, 1, 4, 3]


def test_pictures_show_what_a_mask_keeps_and_where_a_map_is_large(tmp_path: Path) -> None:
    image, values = torch.full((3, 8, 8), 0.2), torch.zeros(8, 8)
    values[2, 2], values[5, 5] = 1, -1
    kept = through(image, values.clamp(min=0))
    assert kept[:, 2, 2].tolist() == pytest.approx([0.2] * 3) and kept[:, 0, 0].min() > 0.8
    red, _, blue = over_grey(image, values, signed=True)
    assert red[2, 2] > blue[2, 2] and blue[5, 5] > red[5, 5] and red[0, 0] == pytest.approx(float(blue[0, 0]), abs=0.01)
    maps = {"signed": values[None], "constant": torch.zeros(1, 2, 2), "mask": torch.ones(1, 8, 8)}
    draw(tmp_path / "grid.png", image[None], ["class"], maps, frozenset({"mask"}))
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")
