"""What is no batch of images is refused by name, at every door of the library."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from torch import Tensor

from detector import heatmaps
from detector.classifier import Classifier
from detector.classifier.black_box import BlackBox
from detector.errors import HeatmapError, ImageShapeError
from detector.evidence import EvidenceExtractor, EvidenceSettings
from detector.heatmaps import METHODS, channel_attribution, channel_mask, class_activation_gradients, input_gradients
from detector.images.batch import check_images

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))

Door = Callable[[Classifier, Any], Any]


def judged_by(method: Callable[..., Any], net: Classifier, images: Any) -> Any:
    return method(net, images)


MAPS: dict[str, Door] = {
    **{name: partial(judged_by, method) for name, method in METHODS.items()},
    "input_gradients": lambda net, images: input_gradients(net, images),
    "channel_attribution": lambda net, images: channel_attribution(net, images, ["block1"]),
    "class_activation_gradients": lambda net, images: class_activation_gradients(net, images, "block1"),
    "channel_mask": lambda net, images: channel_mask(net, images, "block3"),
    "evidence": lambda net, images: EvidenceExtractor(net, EvidenceSettings())(images),
}
CALLS: dict[str, Door] = {
    "a call": lambda net, images: net(images),
    "activations": lambda net, images: net.activations(images, ["block1"]),
    "changed": lambda net, images: net.changed(images, "block1", lambda answer: answer),
}
SHAPES: dict[str, tuple[Any, str]] = {
    "one image": (IMAGES[0], r"\(3, 16, 16\): for one image give images\[None\]"),
    "one image, channels last": (IMAGES[0].permute(1, 2, 0), r"permute\(2, 0, 1\)\[None\]"),
    "a grey image": (IMAGES[0, 0], r"expand\(1, 3, -1, -1\)"),
    "a batch of batches": (IMAGES[None], r"got \(1, 2, 3, 16, 16\)"),
    "channels last": (IMAGES.permute(0, 2, 3, 1), r"permute\(0, 3, 1, 2\)"),
    "grey images": (IMAGES[:, :1], r"expand\(-1, 3, -1, -1\)"),
    "alpha": (torch.cat([IMAGES, IMAGES[:, :1]], 1), r"images\[:, :3\]"),
    "no pixels": (IMAGES[..., :0], "without pixels"),
    "uint8": ((IMAGES * 255).byte(), r"uint8: give images\.float\(\) / 255"),
    "int64": ((IMAGES * 255).long(), r"int64: give images\.float\(\) / 255"),
    "float64": (IMAGES.double(), r"float64: give images\.float\(\)$"),
    "float16": (IMAGES.half(), r"float16: give images\.float\(\)$"),
    "an array": (IMAGES.numpy(), "got a ndarray: .*from_numpy"),
    "a list": (list(IMAGES), r"got a list: give torch\.stack"),
    "a photograph": (Image.fromarray(np.zeros((16, 16, 3), np.uint8)), "got a Image: .*classifier.prepare"),
    "another device": (IMAGES.to("meta"), r"on meta, the classifier is on cpu: give images\.to\('cpu'\)"),
}
VALUES: dict[str, tuple[Tensor, str]] = {
    "of 255": (IMAGES * 255, "divide by 255"),
    "normalised": ((IMAGES - 0.5) / 0.25, "undo the normalisation"),
    "a little too bright": (IMAGES + 0.5, r"clamp\(0, 1\)"),
    "NaN": (IMAGES.clone().fill_(torch.nan), "NaN or infinity"),
    "infinity": (IMAGES / 0, "NaN or infinity"),
}


@pytest.fixture(scope="module")
def net() -> Classifier:
    return tiny.classifier()


def test_every_public_method_is_looked_at() -> None:
    of_graphs = {"attribute_margin", "attribute_classes"}  # take logits, no images
    functions = {name for name in heatmaps.__all__ if name[0].islower()}
    assert functions - of_graphs <= MAPS.keys()


@pytest.mark.parametrize("what", SHAPES)
@pytest.mark.parametrize("door", [*MAPS, *CALLS])
def test_what_is_no_batch_is_refused(door: str, what: str, net: Classifier) -> None:
    images, told = SHAPES[what]
    with pytest.raises(ImageShapeError, match=told):
        (MAPS | CALLS)[door](net, images)


@pytest.mark.parametrize("what", VALUES)
@pytest.mark.parametrize("door", MAPS)
def test_values_out_of_range_are_refused(door: str, what: str, net: Classifier) -> None:
    images, told = VALUES[what]
    with pytest.raises(ImageShapeError, match=told):
        MAPS[door](net, images)


@pytest.mark.parametrize("door", MAPS)
def test_images_with_a_graph_and_rounding_errors_are_taken(door: str, net: Classifier) -> None:
    images = (IMAGES * 1.00001).requires_grad_()
    MAPS[door](net, images)
    assert images.grad is None


@pytest.mark.parametrize("door", MAPS)
def test_an_empty_batch_is_a_batch(door: str, net: Classifier) -> None:
    MAPS[door](net, IMAGES[:0])


def test_evidence_needs_the_classifiers_size(net: Classifier) -> None:
    with pytest.raises(ImageShapeError, match="expected 16×16 pixels, the classifier's input_size, got 32×24"):
        EvidenceExtractor(net, EvidenceSettings())(torch.rand(1, 3, 32, 24))


def test_another_size_is_fine_where_the_net_takes_it(net: Classifier) -> None:
    assert METHODS["gradient"](net, torch.rand(1, 3, 32, 24), None).maps.shape == (1, 1, 32, 24)
    with pytest.raises(ImageShapeError, match=r"takes images of 16×16, got \(1, 3, 1, 24\)"):
        net.changed(torch.rand(1, 3, 1, 24), "block1", lambda answer: answer.view(1, 8, 16, 16))


@pytest.mark.parametrize("what", [each for each in SHAPES if each != "another device"])
@pytest.mark.parametrize("door", ["rise", "occlusion"])
def test_black_boxes_have_the_same_door(door: str, what: str) -> None:
    box = BlackBox(lambda images: torch.full((len(images), 2), 0.5), ("a", "b"), (16, 16))
    images, told = SHAPES[what]
    with pytest.raises(ImageShapeError, match=told):
        MAPS[door](box, images)  # type: ignore[arg-type]
    with pytest.raises(ImageShapeError, match="expected 16×16 pixels"):
        MAPS[door](box, torch.rand(1, 3, 8, 8))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("classes", "told"),
    [
        ([[0], [1]], "got a list: use torch.tensor"),
        (1, "got a int"),
        (torch.tensor([0, 1]), r"got \(2,\): for a class each give classes\[:, None\]"),
        (torch.tensor([[0.0], [1.0]]), "expected integers, got torch.float32"),
        (torch.tensor([[0], [4]]), "expected values in 0 … 3, got 0 … 4"),
        (torch.tensor([[-1], [0]]), "expected values in 0 … 3, got -1 … 0"),
    ],
)
@pytest.mark.parametrize("method", METHODS.values())
def test_classes_that_cannot_be_are_refused(method: Any, classes: Any, told: str, net: Classifier) -> None:
    with pytest.raises(HeatmapError, match=f"classes: .*{told}"):
        method(net, IMAGES, classes)


def test_a_tensor_without_data_is_refused() -> None:
    with pytest.raises(ImageShapeError, match="without data"):
        check_images(torch.empty(1, 3, 4, 4, device="meta"))
