"""Batched DeepFool against geometry, against torchattacks' own, and against what training does to it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchattacks
from torch import Tensor, nn

from detector.errors import ConfigError
from training.attacks.deepfool import DeepFool

CLASSES = 6


def tiny_net() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.GELU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(12 * 16, CLASSES),
    )
    return net.eval().requires_grad_(False)


@pytest.fixture
def net() -> nn.Module:
    return tiny_net()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def norms(adversarial: Tensor, images: Tensor) -> Tensor:
    return (adversarial - images).flatten(1).norm(dim=1)


def test_a_linear_classifier_is_left_by_the_exact_distance() -> None:
    torch.manual_seed(3)
    linear: Any = nn.Sequential(nn.Flatten(), nn.Linear(48, 4)).requires_grad_(False)
    images = 0.5 + 0.01 * torch.rand(5, 3, 4, 4)
    logits, weight = linear(images), linear[1].weight
    label = logits.argmax(1)
    margins = logits.gather(1, label[:, None]) - logits
    distances = margins / (weight[label][:, None] - weight).norm(dim=2)
    nearest = distances.scatter(1, label[:, None], torch.inf).amin(1)
    adversarial = DeepFool(linear, overshoot=0.02, reach=torch.inf)(images, label)
    torch.testing.assert_close(norms(adversarial, images), 1.02 * nearest, rtol=1e-3, atol=1e-6)
    assert (linear(adversarial).argmax(1) != label).all()


def test_as_successful_and_as_small_as_torchattacks(net: nn.Module, images: Tensor) -> None:
    labels = net(images).argmax(1)
    ours, theirs = DeepFool(net)(images, labels), torchattacks.DeepFool(net)(images, labels)
    assert (net(ours).argmax(1) != labels).all()
    mean, expected = norms(ours, images).mean(), norms(theirs, images).mean()
    assert abs(mean - expected) <= 0.05 * expected


def test_a_batch_of_n_equals_n_batches_of_one(net: nn.Module, images: Tensor) -> None:
    labels = net(images).argmax(1)
    attack = DeepFool(net)
    alone = torch.cat([attack(images[i : i + 1], labels[i : i + 1]) for i in range(8)])
    torch.testing.assert_close(attack(images[:8], labels[:8]), alone, atol=1e-4, rtol=1e-3)


def test_chunks_change_nothing_but_memory(net: nn.Module, images: Tensor) -> None:
    labels = net(images).argmax(1)
    torch.testing.assert_close(
        DeepFool(net, chunk=5)(images, labels), DeepFool(net)(images, labels), atol=1e-4, rtol=1e-3
    )


def test_no_labels_means_the_current_predictions(net: nn.Module, images: Tensor) -> None:
    attack = DeepFool(net)
    assert torch.equal(attack(images), attack(images, net(images).argmax(1)))


def test_an_image_that_is_wrong_already_comes_back_as_it_is(net: nn.Module, images: Tensor) -> None:
    labels = net(images).argmax(1)
    labels[::2] = (labels[::2] + 1) % CLASSES
    adversarial = DeepFool(net)(images, labels)
    assert torch.equal(adversarial[::2], images[::2])
    assert (norms(adversarial, images)[1::2] > 0).all()


def test_images_that_have_crossed_cost_nothing_more(net: nn.Module, images: Tensor) -> None:
    rows: list[int] = []
    handle = net.register_forward_pre_hook(lambda _module, inputs: rows.append(len(inputs[0])))
    labels = net(images).argmax(1)
    labels[4:] = (labels[4:] + 1) % CLASSES
    rows.clear()
    DeepFool(net, candidates=2)(images, labels)
    handle.remove()
    assert rows[0] == len(images)
    assert max(rows[1:]) <= 4


def test_pixels_stay_in_range(net: nn.Module) -> None:
    extremes = torch.randint(0, 2, (8, 3, 8, 8), generator=torch.Generator().manual_seed(2)).float()
    adversarial = DeepFool(net)(extremes, net(extremes).argmax(1))
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    assert adversarial.isfinite().all()


def test_channels_last_images_and_the_callers_no_grad(net: nn.Module, images: Tensor) -> None:
    labels = net(images).argmax(1)
    expected = DeepFool(net)(images, labels)
    with torch.no_grad():
        found = DeepFool(net)(images.contiguous(memory_format=torch.channels_last), labels)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    assert not found.requires_grad


def test_the_model_and_the_images_stay_as_they_were(images: Tensor) -> None:
    model = tiny_net().requires_grad_(True).train()
    before = images.clone()
    DeepFool(model)(images)
    assert model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.equal(images, before)
    assert images.grad is None


def test_a_model_without_slope_gives_the_image_back(images: Tensor) -> None:
    flat: Any = nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).requires_grad_(False)
    flat[1].weight.zero_()
    assert torch.equal(DeepFool(flat, steps=3)(images), images)


def test_an_empty_batch_gives_an_empty_batch(net: nn.Module, images: Tensor) -> None:
    assert DeepFool(net)(images[:0]).shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    "parameter", [{"steps": 0}, {"overshoot": -0.1}, {"candidates": 1}, {"reach": 0.5}, {"chunk": 0}]
)
def test_parameters_out_of_range_are_named(net: nn.Module, parameter: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"DeepFool {next(iter(parameter))}: expected"):
        DeepFool(net, **parameter)
