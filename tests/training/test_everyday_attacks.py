"""Attacks that need no gradient, and patches: they flip labels by the kind of change they promise, and by no other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from detector.errors import ConfigError
from training.attacks.deepfool import DeepFool
from training.attacks.everyday import Colour, Everyday, Manual, Spatial
from training.attacks.patch import Patch, square
from training.attacks.rays import RayS


class Edges(nn.Module):
    """Class 1 where neighbours differ, 0 where the image is smooth."""

    def forward(self, images: Tensor) -> Tensor:
        edges = images.diff(dim=-1).abs().mean((1, 2, 3))
        return torch.stack([0.05 - edges, edges - 0.05], dim=1)


class Brightness(nn.Module):
    """Class 1 where the image is brighter than grey."""

    def __init__(self, rows: slice = slice(None)) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, images: Tensor) -> Tensor:
        light = images[:, :, self.rows].mean((1, 2, 3)) - 0.5
        return torch.stack([-light, light], dim=1)


class Redness(nn.Module):
    """Class 1 where red is stronger than green."""

    def forward(self, images: Tensor) -> Tensor:
        red = (images[:, 0] - images[:, 1]).mean((1, 2))
        return torch.stack([-red, red], dim=1)


def rough(count: int = 3) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def flat(value: float, count: int = 3) -> Tensor:
    return torch.full((count, 3, 16, 16), value)


def attacked(attack: nn.Module, images: Tensor, label: int) -> Tensor:
    torch.manual_seed(0)
    answer: Tensor = attack(images, torch.full((len(images),), label))
    assert answer.shape == images.shape
    assert float(answer.min()) >= 0 and float(answer.max()) <= 1
    return answer


@pytest.mark.parametrize("kind", ["blur", "contrast"])
def test_smoothing_flips_what_looks_at_edges(kind: str) -> None:
    answer = attacked(Manual(Edges(), kind=kind), rough(), 1)
    assert Edges()(answer).argmax(1).tolist() == [0, 0, 0]


def test_noise_flips_what_looks_at_edges() -> None:
    answer = attacked(Manual(Edges(), kind="noise"), flat(0.5), 0)
    assert Edges()(answer).argmax(1).tolist() == [1, 1, 1]


@pytest.mark.parametrize(("value", "label"), [(0.3, 0), (0.7, 1)])
def test_brightness_flips_what_looks_at_light(value: float, label: int) -> None:
    answer = attacked(Manual(Brightness(), kind="brightness"), flat(value), label)
    assert Brightness()(answer).argmax(1).tolist() == [1 - label] * 3


def test_a_cover_is_one_grey_square() -> None:
    answer = attacked(Manual(Edges(), kind="cover"), flat(0.0), 0)
    assert Edges()(answer).argmax(1).tolist() == [0, 0, 0], "one edge is not enough: the images stay"
    assert torch.equal(answer, flat(0.0))
    covered = next(iter(Manual(Edges(), kind="cover", steps=2).tries(flat(0.0))))
    assert set(covered.unique().tolist()) == {0.0, 0.5}


def test_the_mildest_change_that_flips_is_taken() -> None:
    class Steps(Everyday):
        def __init__(self) -> None:
            super().__init__("Steps", Brightness())
            self.asked = 0

        def tries(self, images: Tensor) -> list[Tensor]:  # type: ignore[override]
            return [images + step / 10 for step in range(1, 5)]

    images = torch.cat([flat(0.45, 1), flat(0.25, 1), flat(-0.5, 1).clamp(0, 1)])
    answer = attacked(Steps(), images, 0)
    assert [round(float(each.mean()), 2) for each in answer] == [0.55, 0.55, 0.0], "the last never flips: it stays"


def test_shifted_images_lose_what_stood_at_the_edge() -> None:
    images = flat(0.0)
    images[:, :, :2] = 1
    top = Brightness(slice(0, 2))
    answer = attacked(Spatial(top, degrees=0, shift=0.3), images, 1)
    assert top(answer).argmax(1).tolist() == [0, 0, 0]
    assert float(answer.mean()) > 0.05, "the bar only moved"


def test_rotation_keeps_the_shape_of_long_images() -> None:
    images = torch.zeros(1, 3, 16, 32)
    images[:, :, 6:10, 14:18] = 1
    moved = next(iter(Spatial(Edges(), degrees=360, shift=0, steps=4, directions=1).tries(images)))
    middle = (..., slice(8, 24))
    assert torch.allclose(moved[middle], images[middle], atol=1e-3), "a square turned by a right angle is itself"


def test_another_hue_flips_what_looks_at_red_and_keeps_light() -> None:
    images = torch.tensor([0.8, 0.4, 0.4]).view(1, 3, 1, 1).expand(2, 3, 16, 16).contiguous()
    answer = attacked(Colour(Redness()), images, 1)
    assert Redness()(answer).argmax(1).tolist() == [0, 0]
    assert torch.allclose(answer.amax(1), images.amax(1), atol=0.01)


def test_a_patch_is_one_square_and_flips() -> None:
    top = Brightness()
    answer = attacked(Patch(top, area=0.25, steps=10), flat(0.45), 0)
    assert top(answer).argmax(1).tolist() == [1, 1, 1]
    changed = (answer != flat(0.45)).any(1)
    for each in changed:
        rows, columns = each.any(1).sum(), each.any(0).sum()
        assert (rows, columns) == (8, 8)
        assert each.sum() <= 64


def test_squares_lie_inside_the_image() -> None:
    images = torch.zeros(2, 3, 10, 20)
    inside = square(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), 0.5, images)
    assert inside.sum((1, 2, 3)).tolist() == [50, 50]
    assert inside[0, 0, :5, :10].all() and inside[1, 0, 5:, 10:].all()


def test_rays_find_the_boundary_by_labels_alone() -> None:
    class Labels(Brightness):
        def forward(self, images: Tensor) -> Tensor:
            return nn.functional.one_hot(super().forward(images).argmax(1), 2).float()

    answer = attacked(RayS(Labels(), eps=0.2, queries=60), flat(0.4), 0)
    assert Labels()(answer).argmax(1).tolist() == [1, 1, 1]
    assert float((answer - 0.4).abs().max()) < 0.105, "the boundary is .1 away"


def test_rays_leave_what_is_too_far() -> None:
    answer = attacked(RayS(Brightness(), eps=0.05, queries=40), flat(0.4), 0)
    assert torch.equal(answer, flat(0.4))


def test_rays_turn_signs_where_that_helps() -> None:
    class Halves(nn.Module):
        """Class 1 where the upper half is brighter than the lower."""

        def forward(self, images: Tensor) -> Tensor:
            light = images[:, :, :8].mean((1, 2, 3)) - images[:, :, 8:].mean((1, 2, 3)) - 0.1
            return torch.stack([-light, light], dim=1)

    answer = attacked(RayS(Halves(), eps=0.2, queries=400), flat(0.5), 0)
    assert Halves()(answer).argmax(1).tolist() == [1, 1, 1], "all signs alike never flips it"


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda net: Manual(net, kind="blurr"), "Manual kind: expected one of blur, contrast"),
        (lambda net: Manual(net, steps=0), "Manual steps"),
        (lambda net: Spatial(net, directions=0), "Spatial directions"),
        (lambda net: Colour(net, hue=0.7), "Colour hue"),
        (lambda net: Colour(net, saturation=0.5), "Colour saturation"),
        (lambda net: Patch(net, area=1.5), "Patch area"),
        (lambda net: Patch(net, steps=0), "Patch steps"),
        (lambda net: RayS(net, eps=0), "RayS eps"),
        (lambda net: RayS(net, queries=0), "RayS queries"),
    ],
)
def test_parameters_out_of_range_are_errors(make: object, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make(Brightness())  # type: ignore[operator]


@pytest.mark.parametrize(
    ("kind", "parameters", "told"),
    [
        (Manual, {"steps": 2.5}, "Manual steps: expected a whole number"),
        (Spatial, {"steps": 0}, "Spatial steps: expected a whole number"),
        (Spatial, {"shift": -3.0}, "Spatial shift: expected a share"),
        (Spatial, {"degrees": float("inf")}, "Spatial degrees: expected a number"),
        (Colour, {"saturation": float("nan")}, "Colour saturation: expected a number"),
        (Patch, {"steps": 2.5}, "Patch steps: expected a whole number"),
        (Patch, {"alpha": -1.0}, "Patch alpha: expected a number between 0 and 1"),
        (RayS, {"queries": 0.5}, "RayS queries: expected a whole number"),
        (DeepFool, {"steps": 1.5}, "DeepFool steps: expected a whole number"),
    ],
)
def test_a_parameter_that_means_nothing_is_refused_before_an_image_is_seen(
    kind: type[nn.Module], parameters: dict[str, float], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        kind(Edges(), **parameters)
