"""The mask over channels finds the channel that was planted, and says what its settings may be."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from detector.classifier import Classifier, ClassifierSpec
from detector.classifier.sources import Net
from detector.errors import HeatmapError, LayerNotFoundError
from detector.heatmaps import channel_mask

CHANNELS = 12
DECISIVE = {0: 3, 1: 7}  # class: the one channel that speaks for it


class OneChannelDecides(nn.Module):
    """Twelve random filters; each class reads one of them, and every other a thousandth."""

    def __init__(self) -> None:
        super().__init__()
        convolution: Any = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.filters = nn.Sequential(convolution, nn.ReLU())
        self.head = nn.Linear(CHANNELS, len(DECISIVE))
        nn.init.constant_(self.head.weight, 1e-3)
        with torch.no_grad():
            for label, channel in DECISIVE.items():
                convolution.bias[channel] = 0.5
                self.head.weight[label, channel] = 5.0

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.head(self.filters(x).mean((2, 3)))
        return answer


@pytest.fixture
def planted() -> Classifier:
    torch.manual_seed(0)
    spec = ClassifierSpec(source="python:tiny:net", input_size=(16, 16), classes=("a", "b"))
    return Classifier(spec, Net(OneChannelDecides().eval(), embeddable=True, identity="planted"))


@pytest.fixture
def images() -> Tensor:
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_the_planted_channel_comes_first(planted: Classifier, images: Tensor) -> None:
    found = channel_mask(planted, images, "filters.1", torch.tensor([[0, 1]]).expand(4, 2))
    assert found.top.shape == (4, 2, 5)
    for label, channel in DECISIVE.items():
        assert (found.top[:, label, 0] == channel).all()
        assert (found.weights[:, label, channel] > 2 * found.weights[:, label].mean(1)).all()


def test_the_weights_have_the_share_asked_for(planted: Classifier, images: Tensor) -> None:
    found = channel_mask(planted, images, "filters.1", share=0.25, top=99)
    assert found.weights.min() >= 0
    assert found.weights.max() <= 1
    torch.testing.assert_close(found.weights.mean(2), torch.full((4, 1), 0.25), rtol=1e-3, atol=0)
    assert found.top.shape == (4, 1, CHANNELS)


def test_activations_are_those_of_the_top_channels(planted: Classifier, images: Tensor) -> None:
    found = channel_mask(planted, images, "filters.1", top=2)
    _, answers = planted.activations(images, ["filters.1"])
    expected = answers["filters.1"].detach()[torch.arange(4)[:, None, None], found.top]
    torch.testing.assert_close(found.activations, expected)


def test_the_channels_kept_keep_more_than_random_channels() -> None:
    classifier, images = tiny.classifier(), tiny.images(6).images
    layer = classifier.depths(4)[-1]
    found = channel_mask(classifier, images, layer, share=0.2)
    labels = found.logits.argmax(1)
    shuffled = found.weights[:, 0, torch.randperm(found.weights.shape[2], generator=torch.Generator().manual_seed(0))]
    random = classifier.changed(images, layer, lambda answer: answer * shuffled[:, :, None, None])
    assert (found.kept[:, 0] > random.gather(1, labels[:, None])[:, 0]).all()


def test_a_batch_of_n_equals_n_batches_of_one(planted: Classifier, images: Tensor) -> None:
    classes = torch.tensor([[0, 1]]).expand(4, 2)
    together = channel_mask(planted, images, "filters.1", classes, chunk=3)
    alone = [channel_mask(planted, images[i : i + 1], "filters.1", classes[i : i + 1]).weights for i in range(4)]
    torch.testing.assert_close(together.weights, torch.cat(alone))


def test_nothing_is_left_on_the_classifier(planted: Classifier, images: Tensor) -> None:
    before = planted.state_dict()
    channel_mask(planted, images, "filters.1")
    assert all(torch.equal(value, before[name]) for name, value in planted.state_dict().items())
    assert not any(module._forward_hooks for module in planted.module.modules())


def test_bad_input_is_named(planted: Classifier, images: Tensor) -> None:
    with pytest.raises(LayerNotFoundError, match=r"no layer 'filter\.1'.*did you mean 'filters\.1'"):
        channel_mask(planted, images, "filter.1")
    with pytest.raises(HeatmapError, match=r"share: expected a share in \(0, 1\)"):
        channel_mask(planted, images, "filters.1", share=1.0)
    with pytest.raises(HeatmapError, match="top: expected an integer >= 1"):
        channel_mask(planted, images, "filters.1", top=0)
