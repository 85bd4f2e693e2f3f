"""Heatmaps of transformers find the patch that the class is about: two small ones learn it in seconds."""

from __future__ import annotations

import architectures
import pytest
import torch
import torchvision
from torch import Tensor, nn

from detector.classifier import Classifier
from detector.heatmaps import cam, channel_mask, extremal

SIDE, PATCH = 32, 8
CLASSES = ("red", "green", "blue")


def scenes(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Grey noise with one coloured patch: images, colours, and the patch's (row, column) in units of its side."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.3 + 0.2 * torch.rand(count, 1, SIDE, SIDE, generator=generator).repeat(1, 3, 1, 1)
    labels = torch.arange(count) % len(CLASSES)
    places = torch.randint(0, SIDE // PATCH, (count, 2), generator=generator)
    for image, label, (row, column) in zip(images, labels, (places * PATCH).tolist(), strict=True):
        image[label, row : row + PATCH, column : column + PATCH] += 0.4
    return images, labels, places


def vit() -> nn.Module:
    return torchvision.models.VisionTransformer(SIDE, 4, 3, 2, 32, 64, num_classes=len(CLASSES))


def swin() -> nn.Module:
    return torchvision.models.SwinTransformer([2, 2], 16, [1, 1], [2, 2], [4, 4], num_classes=len(CLASSES))


@pytest.fixture(scope="module", params=[vit, swin])
def trained(request: pytest.FixtureRequest) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = request.param()
        optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
        for step in range(60):
            images, labels, _ = scenes(48, 100 + step)
            loss = nn.functional.cross_entropy(net(images), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return architectures.load(net, SIDE, CLASSES)


def hits(maps: Tensor, places: Tensor) -> float:
    """Share of maps (B, h, w) whose largest of 4×4 parts is the patch's."""
    parts = nn.functional.adaptive_avg_pool2d(maps[:, None], SIDE // PATCH)[:, 0]
    found = parts.flatten(1).argmax(1)
    return float((found == places[:, 0] * (SIDE // PATCH) + places[:, 1]).float().mean())


def test_grad_cam_and_masks_find_the_patch(trained: Classifier) -> None:
    images, labels, places = scenes(48, 7)
    assert (trained(images).argmax(1) == labels).float().mean() > 0.95
    masks = extremal(trained, images, areas=(0.06, 0.12)).maps[:, 0]
    maps = cam(trained, images).maps[:, 0]
    assert hits(masks, places) > 0.85
    assert hits(maps, places) > 0.4  # one of 16 parts by chance; a class token mixes all positions before it answers
    assert hits(maps.transpose(1, 2), places) < hits(maps, places) - 0.2


def test_few_channels_keep_the_class(trained: Classifier) -> None:
    images, _, _ = scenes(12, 8)
    layer = trained.depths(2)[0]
    found = channel_mask(trained, images, layer, share=0.3)
    shuffled = found.weights[:, 0][
        :, torch.randperm(found.weights.shape[2], generator=torch.Generator().manual_seed(0))
    ]
    labels = found.logits.argmax(1, keepdim=True)
    random = trained.changed(images, layer, lambda maps: maps * shuffled[:, :, None, None]).gather(1, labels)
    assert (found.kept > random).float().mean() > 0.8
