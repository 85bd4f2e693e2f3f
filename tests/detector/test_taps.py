"""Maps of many architectures lie where the image does, whatever the layout in which a net keeps them."""

from __future__ import annotations

import architectures
import pytest
import torch
from torch import Tensor

from detector.classifier import Classifier
from detector.heatmaps import channel_attribution

GRID = 3
"""Places a side at which the image is changed."""


def noise(side: int, seed: int) -> Tensor:
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(seed))


def changes(classifier: Classifier, layers: tuple[str, ...], seed: int) -> dict[str, Tensor]:
    """By layer, how each position of the maps moves when one of nine parts of the image is inverted: (9, h, w)."""
    side = classifier.input_size[0]
    image = noise(side, seed)
    images = image.repeat(1 + GRID**2, 1, 1, 1)
    for index in range(GRID**2):
        row, column = divmod(index, GRID)
        rows = slice(row * side // GRID, (row + 1) * side // GRID)
        columns = slice(column * side // GRID, (column + 1) * side // GRID)
        images[1 + index, :, rows, columns] = 1 - images[1 + index, :, rows, columns]
    with torch.no_grad():
        _, maps = classifier.activations(images, layers)
    return {name: (each[1:] - each[:1]).square().sum(1).sqrt() for name, each in maps.items()}


def correlation(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one, other]))[0, 1])


def follows(change: Tensor) -> tuple[float, float, float]:
    """How well rows follow rows, columns follow columns, and (wrongly) rows follow columns, over the nine changes."""
    count, height, width = change.shape
    share = change / change.mean(0).clamp(min=1e-12)  # a position that always moves counts no more than others
    share = share / share.sum((1, 2), keepdim=True)
    rows = (share.sum(2) * torch.arange(height)).sum(1)
    columns = (share.sum(1) * torch.arange(width)).sum(1)
    row, column = (torch.arange(count) // GRID).float(), (torch.arange(count) % GRID).float()
    return correlation(rows, row), correlation(columns, column), abs(correlation(rows, column))


@pytest.mark.parametrize("name", architectures.ARCHITECTURES)
def test_maps_move_with_the_image(name: str) -> None:
    expected, classifier = architectures.build(name)
    layers = classifier.depths(4)
    images = noise(expected.side, 5).repeat(2, 1, 1, 1)
    images[1] = 1 - images[1]
    found = channel_attribution(classifier, images, layers).layers

    assert tuple(each.attribution.shape[1] for each in found.values()) == expected.channels
    taps = {tap.name: tap.layout for tap in classifier.taps}
    assert (taps[layers[-1]].axes, taps[layers[-1]].before) == (expected.axes, expected.before)
    assert all(each.spatial.shape[1:] == taps[layer].side for layer, each in found.items())
    assert all(each.gradient_norm.any(1).all() for each in found.values()), "a layer without gradient"

    moved = [changes(classifier, layers, seed) for seed in (1, 2)]
    for layer in layers:
        if min(taps[layer].side) >= GRID:
            rows, columns, crossed = follows(torch.stack([each[layer] for each in moved]).sum(0))
            assert min(rows, columns) > 0.7, (layer, rows, columns)
            assert crossed < 0.5, (layer, crossed)


@pytest.mark.parametrize("name", ["resnet18", "swin", "vit", "timm deit, distilled", "hf swin"])
def test_looking_on_changes_nothing(name: str) -> None:
    _, classifier = architectures.build(name)
    images = torch.cat([noise(classifier.input_size[0], seed) for seed in (1, 2)])
    with torch.no_grad():
        logits, maps = classifier.activations(images, classifier.layers)
        torch.testing.assert_close(logits, classifier(images), rtol=0, atol=0)
        for layer in (classifier.layers[0], *classifier.depths(2)):
            same = classifier.changed(images, layer, lambda answer: answer)
            torch.testing.assert_close(same, logits, rtol=0, atol=0)
            other = classifier.changed(images, layer, lambda answer: answer.flip(3) * 1.5)
            assert (other - logits).abs().max() > 0
            alone = classifier.activations(images[:1], [layer])[1][layer]
            torch.testing.assert_close(maps[layer][:1], alone, rtol=1e-4, atol=1e-5)
