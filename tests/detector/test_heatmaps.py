"""Every heatmap method on one tiny network, and what each paper promises on networks where the answer is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from detector.classifier import Classifier, ClassifierSpec
from detector.classifier.sources import Net
from detector.errors import HeatmapError, LayerNotFoundError, NoGradientError
from detector.heatmaps import (
    METHODS,
    Heatmap,
    Method,
    attribute_classes,
    attribute_margin,
    channel_attribution,
    class_activation_gradients,
    integrated_gradients,
    occlusion,
    smoothgrad,
)

CLASSES = 5
GRADIENT_METHODS = sorted(set(METHODS) - {"occlusion", "rise"})
LINEAR_IN_THE_LOGITS = sorted(set(METHODS) - {"rise", "meaningful", "extremal"})


class Guarded(Classifier):
    """A classifier around any small network, which counts its forwards."""

    def __init__(self, module: nn.Module, *, classes: int = CLASSES, size: tuple[int, int] = (16, 16)) -> None:
        spec = ClassifierSpec(
            source="python:tiny:net", input_size=size, classes=tuple(f"class {index}" for index in range(classes))
        )
        super().__init__(spec, Net(module.eval(), embeddable=True, identity="tiny"))
        self.net: Any = module
        self.forwards = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.forwards += 1
        return super().__call__(images)


def black_box() -> Guarded:
    guarded = Guarded(tiny_net())
    guarded.differentiable = False
    return guarded


def tiny_net(kind: type[nn.Sequential] = nn.Sequential) -> nn.Sequential:
    torch.manual_seed(0)
    return kind(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.GELU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, CLASSES),
    )


@pytest.fixture
def classifier() -> Guarded:
    return Guarded(tiny_net())


@pytest.fixture
def images() -> Tensor:
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=sorted(METHODS))
def method(request: pytest.FixtureRequest) -> Method:
    return METHODS[request.param]


# --- every method ------------------------------------------------------------------------------------------------


def test_maps_have_one_entry_per_image_and_class(method: Method, classifier: Guarded, images: Tensor) -> None:
    heatmap = method(classifier, images, torch.tensor([[0, 4, 2]]).expand(4, 3))
    assert heatmap.maps.shape[:2] == (4, 3)
    assert heatmap.maps.ndim == 4
    assert heatmap.maps.abs().amax((2, 3)).min() > 0
    torch.testing.assert_close(heatmap.logits, classifier(images))


def test_no_classes_means_the_predicted_class(method: Method, classifier: Guarded, images: Tensor) -> None:
    predicted = classifier(images).argmax(1, keepdim=True)
    torch.testing.assert_close(method(classifier, images, None).maps, method(classifier, images, predicted).maps)


def test_a_batch_of_n_equals_n_batches_of_one(method: Method, classifier: Guarded, images: Tensor) -> None:
    classes = torch.tensor([[0, 1], [2, 0], [4, 3], [1, 1]])
    together = method(classifier, images, classes)
    alone = [method(classifier, images[i : i + 1], classes[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(together.maps, torch.cat([one.maps for one in alone]))
    torch.testing.assert_close(together.logits, torch.cat([one.logits for one in alone]))


def test_permuting_classes_permutes_maps(method: Method, classifier: Guarded, images: Tensor) -> None:
    order = torch.tensor([3, 0, 4, 1, 2])
    straight = method(classifier, images, torch.arange(CLASSES).expand(4, CLASSES))
    permuted = method(classifier, images, order.expand(4, CLASSES))
    torch.testing.assert_close(permuted.maps, straight.maps[:, order])


@pytest.mark.parametrize("name", LINEAR_IN_THE_LOGITS)
def test_doubling_the_logits_doubles_the_map(name: str, classifier: Guarded, images: Tensor) -> None:
    class Doubled(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            doubled: Tensor = 2 * super().forward(x)
            return doubled

    doubled, method = Guarded(tiny_net(Doubled)), METHODS[name]
    torch.testing.assert_close(method(doubled, images, None).maps, 2 * method(classifier, images, None).maps)


def test_nothing_is_left_on_module_or_images(method: Method, classifier: Guarded, images: Tensor) -> None:
    before = images.clone()
    method(classifier, images, None)
    assert not any(module._forward_hooks or module._backward_hooks for module in classifier.module.modules())
    assert all(p.grad is None and not p.requires_grad for p in classifier.module.parameters())
    assert images.grad is None
    assert not images.requires_grad
    assert torch.equal(images, before)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_works_under_the_callers_no_grad(method: Method, classifier: Guarded, images: Tensor, mode: Any) -> None:
    expected = method(classifier, images, None)
    with mode():
        found = method(classifier, images.clone(), None)
    torch.testing.assert_close(found.maps, expected.maps)
    assert not found.maps.requires_grad


def test_an_empty_batch_gives_no_maps(method: Method, classifier: Guarded, images: Tensor) -> None:
    assert method(classifier, images[:0], None).maps.shape[:2] == (0, 1)


@pytest.mark.parametrize(
    "classes",
    [torch.tensor([0, 1, 2, 3]), torch.zeros(3, 1, dtype=torch.long), torch.zeros(4, 1), torch.full((4, 1), CLASSES)],
    ids=["one dimension", "other batch", "float", "out of range"],
)
def test_unusable_classes_are_named(method: Method, classifier: Guarded, images: Tensor, classes: Tensor) -> None:
    with pytest.raises(HeatmapError, match="classes: expected"):
        method(classifier, images, classes)


@pytest.mark.parametrize("name", GRADIENT_METHODS)
def test_a_black_box_has_no_gradient_maps(name: str, images: Tensor) -> None:
    with pytest.raises(NoGradientError, match="occlusion"):
        METHODS[name](black_box(), images, None)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("integrated_gradients", {"steps": 0}),
        ("integrated_gradients", {"baseline": 1.5}),
        ("integrated_gradients", {"baseline": torch.zeros(2, 2)}),
        ("smoothgrad", {"samples": 0}),
        ("smoothgrad", {"noise": 0.0}),
        ("occlusion", {"grid": 17}),
        ("occlusion", {"grid": 2.5}),
        ("occlusion", {"fill": "black"}),
        ("occlusion", {"fill": -0.1}),
        ("occlusion", {"chunk": 0}),
    ],
)
def test_settings_out_of_range_are_named(
    name: str, settings: dict[str, Any], classifier: Guarded, images: Tensor
) -> None:
    setting = next(iter(settings))
    with pytest.raises(HeatmapError, match=f"^{setting}: expected .* got"):
        METHODS[name](classifier, images, None, **settings)


# --- what each paper promises ------------------------------------------------------------------------------------


def test_gradient_times_input_sums_to_a_linear_classifiers_logit(images: Tensor) -> None:
    torch.manual_seed(2)
    linear = Guarded(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, CLASSES)))
    heatmap = METHODS["gradient_times_input"](linear, images, torch.arange(CLASSES).expand(4, CLASSES))
    torch.testing.assert_close(heatmap.maps.sum((2, 3)), heatmap.logits - linear.net[1].bias)


@pytest.mark.parametrize("baseline", [0.0, 0.5, torch.rand(3, 1, 1)])
def test_integrated_gradients_sum_to_the_logit_difference(
    classifier: Guarded, images: Tensor, baseline: float | Tensor
) -> None:
    classes = torch.arange(CLASSES).expand(4, CLASSES)
    heatmap = integrated_gradients(classifier, images, classes, steps=64, baseline=baseline)
    difference = heatmap.logits - classifier(torch.zeros_like(images) + baseline)
    torch.testing.assert_close(heatmap.maps.sum((2, 3)), difference, atol=1e-4, rtol=1e-2)


def test_smoothgrad_follows_its_seed(classifier: Guarded, images: Tensor) -> None:
    torch.manual_seed(5)
    first = smoothgrad(classifier, images, seed=3)
    torch.manual_seed(6)
    assert torch.equal(first.maps, smoothgrad(classifier, images, seed=3).maps)
    assert not torch.equal(first.maps, smoothgrad(classifier, images, seed=4).maps)


def test_smoothgrad_tends_to_the_gradient_without_noise(classifier: Guarded, images: Tensor) -> None:
    smooth = smoothgrad(classifier, images, samples=2, noise=1e-6)
    torch.testing.assert_close(smooth.maps, METHODS["gradient"](classifier, images, None).maps, atol=1e-5, rtol=1e-3)


def test_grad_cam_is_cam_where_the_network_ends_in_pool_and_linear(classifier: Guarded, images: Tensor) -> None:
    classes = torch.arange(CLASSES).expand(4, CLASSES)
    with torch.no_grad():
        activation, head = classifier.net[:5](images), classifier.net[7]
    positions = activation.shape[2] * activation.shape[3]
    exact = torch.einsum("kd,bdhw->bkhw", head.weight, activation) / positions
    signed: Heatmap = METHODS["cam"](classifier, images, classes, relu=False)
    torch.testing.assert_close(signed.maps, exact)
    torch.testing.assert_close(METHODS["cam"](classifier, images, classes).maps, exact.relu())
    torch.testing.assert_close(signed.maps.sum((2, 3)), signed.logits - head.bias)


def test_cam_takes_the_layer_it_is_told(classifier: Guarded, images: Tensor) -> None:
    assert METHODS["cam"](classifier, images, None).maps.shape == (4, 1, 8, 8)
    assert METHODS["cam"](classifier, images, None, layer="1").maps.shape == (4, 1, 16, 16)


def test_cam_of_a_classifier_that_shows_no_layers(images: Tensor) -> None:
    hidden = Guarded(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, CLASSES)))
    with pytest.raises(LayerNotFoundError, match="shows no layers"):
        METHODS["cam"](hidden, images, None)


class ReadsOnePatch(nn.Module):
    """Logit 1 is the redness of rows 4-7, columns 8-11; logit 0 is nothing."""

    def forward(self, x: Tensor) -> Tensor:
        patch = x[:, 0, 4:8, 8:12].mean((1, 2))
        return torch.stack([torch.zeros_like(patch), 10 * patch], 1)


@pytest.mark.parametrize("fill", ["mean", "blur", 0.0])
def test_occlusion_finds_the_planted_patch(fill: Literal["mean", "blur"] | float) -> None:
    scene = torch.full((2, 3, 16, 16), 0.2)
    scene[:, 0, 4:8, 8:12] = 1
    patch = Guarded(ReadsOnePatch(), classes=2)
    maps = occlusion(patch, scene, grid=4, fill=fill).maps
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[1, 2] = True
    assert torch.equal(maps[0, 0] > 0.5, expected)
    assert maps[0, 0][~expected].abs().max() < 1e-5


def test_occlusion_chunks_change_nothing_but_memory(classifier: Guarded, images: Tensor) -> None:
    whole = occlusion(classifier, images, grid=5)
    assert classifier.forwards == 2
    torch.testing.assert_close(whole.maps, occlusion(classifier, images, grid=5, chunk=7).maps)


def test_occlusion_covers_every_pixel_of_an_odd_size() -> None:
    class Total(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sum((2, 3))

    ones = torch.ones(1, 3, 13, 10)
    maps = occlusion(Guarded(Total(), classes=3, size=(13, 10)), ones, torch.tensor([[0]]), grid=4, fill=0.0).maps
    assert maps.sum() == 130
    assert maps.min() >= 6


# --- channels ----------------------------------------------------------------------------------------------------


def margin_by_hand(classifier: Guarded, image: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    logits, activations = classifier.activations(image[None].clone(), [layer])
    best, second = logits[0].topk(2).indices
    (gradient,) = torch.autograd.grad(logits[0, best] - logits[0, second], activations[layer])
    return activations[layer][0].detach(), gradient[0]


@pytest.mark.parametrize("layer", ["1", "4"])
def test_channel_attribution_equals_a_loop_over_images(classifier: Guarded, images: Tensor, layer: str) -> None:
    found = channel_attribution(classifier, images, ["4", "1"])
    assert list(found.layers) == ["4", "1"]
    one = found.layers[layer]
    for index, image in enumerate(images):
        activation, gradient = margin_by_hand(classifier, image, layer)
        torch.testing.assert_close(one.attribution[index], (activation * gradient).sum((1, 2)))
        torch.testing.assert_close(one.weights[index], gradient.mean((1, 2)))
        torch.testing.assert_close(one.gradient_norm[index], gradient.square().sum((1, 2)).sqrt())
        torch.testing.assert_close(one.activation[index], activation.mean((1, 2)))


def test_channel_attribution_is_one_forward_and_one_backward(
    classifier: Guarded, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    backwards: list[object] = []
    grad: Callable[..., Any] = torch.autograd.grad

    def counted(*arguments: Any, **options: Any) -> Any:
        backwards.append(None)
        return grad(*arguments, **options)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    channel_attribution(classifier, images, ["1", "4"])
    assert (classifier.forwards, len(backwards)) == (1, 1)


def test_channel_attribution_sums_to_the_margin_behind_pool_and_linear(classifier: Guarded, images: Tensor) -> None:
    found = channel_attribution(classifier, images, ["4"])
    best = found.logits.topk(2)
    bias = classifier.net[7].bias[best.indices]
    margin = (best.values - bias)[:, 0] - (best.values - bias)[:, 1]
    torch.testing.assert_close(found.layers["4"].attribution.sum(1), margin)


def test_swapping_the_pair_flips_the_sign(classifier: Guarded, images: Tensor) -> None:
    pair = torch.tensor([[0, 1], [2, 3], [4, 0], [1, 2]])
    straight = channel_attribution(classifier, images, ["1"], pair=pair).layers["1"]
    swapped = channel_attribution(classifier, images, ["1"], pair=pair.flip(1)).layers["1"]
    torch.testing.assert_close(straight.attribution, -swapped.attribution)
    torch.testing.assert_close(straight.gradient_norm, swapped.gradient_norm)


def test_class_activation_gradients_differ_by_the_margin(classifier: Guarded, images: Tensor) -> None:
    both = class_activation_gradients(classifier, images, "1", torch.tensor([[3, 1]]).expand(4, 2))
    margin = channel_attribution(classifier, images, ["1"], pair=torch.tensor([[3, 1]]).expand(4, 2)).layers["1"]
    torch.testing.assert_close(both.channels[:, 0] - both.channels[:, 1], margin.attribution)
    assert both.maps.min() < 0


def test_channels_need_layers_gradients_and_a_pair(classifier: Guarded, images: Tensor) -> None:
    with pytest.raises(HeatmapError, match="layers: expected at least one"):
        channel_attribution(classifier, images, [])
    with pytest.raises(HeatmapError, match="pair: expected shape"):
        channel_attribution(classifier, images, ["1"], pair=torch.zeros(4, 3, dtype=torch.long))
    with pytest.raises(NoGradientError):
        channel_attribution(black_box(), images, ["1"])
    with pytest.raises(LayerNotFoundError):
        class_activation_gradients(classifier, images, "99")


def test_one_forward_serves_margin_and_classes(classifier: Guarded, images: Tensor) -> None:
    logits, activations = classifier.activations(images, ["1", "4"])
    margin = attribute_margin(logits, activations, retain_graph=True)
    maps, channels = attribute_classes(logits, activations["1"], logits.topk(3).indices)
    torch.testing.assert_close(maps.sum((2, 3)), channels.sum(2))
    torch.testing.assert_close(margin["1"].attribution, channels[:, 0] - channels[:, 1])
