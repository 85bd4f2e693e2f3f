"""Maps and back: tokens beside the grid stay, and what has no layout is left out with a reason."""

from __future__ import annotations

from typing import Any

import architectures
import pytest
import torch
from torch import Tensor, nn

from detector.classifier.layouts import Layout, candidates
from detector.classifier.taps import first_tensor, with_first
from detector.errors import ImageShapeError, LayerNotFoundError

SIDE, PATCH, WIDTH = 24, 4, 8
GRID = SIDE // PATCH
LAYOUTS = [
    (Layout("NCHW", (2, 3)), (4, 5, 2, 3)),
    (Layout("NHWC", (2, 3)), (4, 2, 3, 5)),
    (Layout("NLC", (2, 3)), (4, 6, 5)),
    (Layout("NLC", (2, 3), before=2), (4, 8, 5)),
    (Layout("NLC", (2, 3), before=1, after=2), (4, 9, 5)),
    (Layout("LNC", (2, 3), before=1), (7, 4, 5)),
]


@pytest.mark.parametrize(("layout", "shape"), LAYOUTS)
def test_maps_go_back_where_they_came_from(layout: Layout, shape: tuple[int, ...]) -> None:
    output = torch.rand(shape)
    maps = layout.to_maps(output)
    assert maps.shape == (4, 5, 2, 3)
    assert torch.equal(layout.back(maps, output), output)
    changed = layout.back(maps + 1, output)
    assert torch.equal(layout.to_maps(changed), maps + 1)
    assert int((changed != output).sum()) == maps.numel()


def test_shapes_leave_these_layouts_open() -> None:
    def of(*shape: int, batch: int = 0) -> list[Layout]:
        shapes = {n: (*shape[:batch], n * shape[batch], *shape[batch + 1 :]) for n in (2, 1, 3)}
        return candidates(shapes, (64, 128))

    assert of(1, 5, 8, 16) == [Layout("NCHW", (8, 16))]
    assert of(1, 8, 16, 5) == [Layout("NCHW", (16, 5)), Layout("NHWC", (8, 16))]
    assert of(1, 128, 9)[0] == Layout("NLC", (8, 16))
    assert of(1, 129, 9)[:2] == [Layout("NLC", (8, 16), before=1), Layout("NLC", (8, 16), after=1)]
    assert of(128, 1, 9, batch=1)[0] == Layout("LNC", (8, 16))
    assert of(4, 32, 9) == []  # windows: four times as many as images
    assert of(1, 9) == of(1, 1, 9) == []


def test_the_first_tensor_counts_and_the_rest_stays() -> None:
    one, two = torch.zeros(1), torch.ones(1)
    for output in (one, (one, two), [None, one], {"a": None, "b": (one, two)}):
        assert first_tensor(output) is one
        replaced = with_first(output, two)
        assert type(replaced) is type(output) and first_tensor(replaced) is two and first_tensor(output) is one
    assert first_tensor((None, "text")) is None


class Attention(nn.Module):
    """A transformer block in any order of tokens, which answers a tuple."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(WIDTH), nn.MultiheadAttention(WIDTH, 2, batch_first=not first)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU())

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        y = self.norm(x)
        x = x + self.attention(y, y, y)[0]
        return x + self.mlp(x), None


class Tokens(nn.Module):
    """A vision transformer whose tokens are ordered as its arguments say."""

    def __init__(self, *, first: bool = False, order: str = "rows", token: str = "before", mean: bool = False) -> None:
        super().__init__()
        self.first, self.order, self.token, self.mean = first, order, token, mean
        self.embed = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.cls = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.blocks = nn.ModuleList(Attention(first) for _ in range(3))
        self.head = nn.Linear(WIDTH, len(architectures.CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        if self.order == "columns":
            x = x.transpose(2, 3)
        if self.order == "quarters":
            x = x.unflatten(2, (2, -1)).unflatten(4, (2, -1)).permute(0, 1, 2, 4, 3, 5)
        x = x.flatten(2).transpose(1, 2)
        cls = self.cls.expand(len(x), -1, -1)
        x = torch.cat([cls, x] if self.token == "before" else [x, cls], 1)
        x = x.transpose(0, 1) if self.first else x
        for block in self.blocks:
            x, _ = block(x)
        x = x.transpose(0, 1) if self.first else x
        logits: Tensor = self.head(x.mean(1) if self.mean else x[:, 0 if self.token == "before" else -1])
        return logits


class Patches(nn.Module):
    """Tokens of patches (height, width) of any shape, by a convolution or by a linear layer."""

    def __init__(self, patch: tuple[int, int], convolution: bool) -> None:
        super().__init__()
        self.patch = patch
        self.convolution = nn.Conv2d(3, WIDTH, patch, patch) if convolution else None
        self.embed = nn.Linear(3 * patch[0] * patch[1], WIDTH)
        self.cls = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.blocks = nn.ModuleList(Attention(False) for _ in range(3))
        self.head = nn.Linear(WIDTH, len(architectures.CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        if self.convolution is not None:
            x = self.convolution(x).flatten(2).transpose(1, 2)
        else:
            x = self.embed(nn.functional.unfold(x, self.patch, stride=self.patch).transpose(1, 2))
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x, _ = block(x)
        logits: Tensor = self.head(x.mean(1))
        return logits


@pytest.mark.parametrize("convolution", [True, False])
@pytest.mark.parametrize(
    ("size", "patch", "side"),
    [((32, 64), (4, 16), (8, 4)), ((32, 32), (2, 8), (16, 4)), ((32, 32), (8, 2), (4, 16))],
)
def test_patches_need_not_be_square(
    size: tuple[int, int], patch: tuple[int, int], side: tuple[int, int], convolution: bool
) -> None:
    """The corners of 8 by 4 tokens are those of 4 by 8, and an image of 32 by 64 suggests the wrong ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = architectures.load(Patches(patch, convolution), size)
    found = {tap.name: tap.layout for tap in classifier.taps}
    assert [found.get(f"blocks.{index}") for index in range(3)] == [Layout("NLC", side, before=1)] * 3


def tokens(**arguments: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return architectures.load(Tokens(**arguments), SIDE)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("token", ["before", "after"])
def test_tokens_are_found_in_any_order_of_axes(first: bool, token: str) -> None:
    classifier = tokens(first=first, token=token, mean=True)
    before, after = (1, 0) if token == "before" else (0, 1)
    expected = Layout("LNC" if first else "NLC", (GRID, GRID), before, after)
    found = {tap.name: tap.layout for tap in classifier.taps}
    assert [found[f"blocks.{index}"] for index in range(3)] == [expected] * 3
    assert classifier.depths(3) == ("blocks.0", "blocks.1", "blocks.2")


@pytest.mark.parametrize("order", ["columns", "quarters"])
def test_tokens_in_another_order_than_the_image_are_no_layers(order: str) -> None:
    classifier = tokens(order=order, mean=True)
    assert classifier.layers == ("embed",)
    with pytest.raises(LayerNotFoundError, match="does not change where the image does"):
        classifier.activations(torch.rand(1, 3, SIDE, SIDE), ["blocks.1"])


class Columns(nn.Module):
    """Tokens column by column, without a class token, into torch's own block."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.block = nn.TransformerEncoderLayer(WIDTH, 2, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, len(architectures.CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.block(self.embed(x).transpose(2, 3).flatten(2).transpose(1, 2)).mean(1))
        return logits


def test_where_some_tokens_lie_in_another_order_those_that_mix_them_all_are_no_layers_either() -> None:
    """Attention without its residual answers nearly the same everywhere, which contradicts no order."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = architectures.load(Columns(), SIDE)
    assert classifier.layers == ("embed",)


@pytest.mark.parametrize(
    ("size", "before", "after"),
    [((16, 16), 1, 4), ((16, 16), 1, 8), ((16, 16), 9, 0), ((32, 16), 0, 0), ((32, 16), 4, 0)],
)
def test_tokens_beside_the_grid_are_not_taken_for_places(size: tuple[int, int], before: int, after: int) -> None:
    """16 places, a class token and 8 others make 25, which look like 5 by 5."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Tokens(mean=True)
        net.cls = nn.Parameter(torch.randn(1, before, WIDTH))
        last = nn.Parameter(torch.randn(1, after, WIDTH))
        net.blocks[0].register_forward_pre_hook(lambda _, x: torch.cat([x[0], last.expand(len(x[0]), -1, -1)], 1))
        classifier = architectures.load(net, size)
    expected = Layout("NLC", (size[0] // PATCH, size[1] // PATCH), before, after)
    assert [tap.layout for tap in classifier.taps if tap.name == "blocks.1"] == [expected]


def test_maps_on_which_no_logit_depends_are_left_out() -> None:
    classifier = tokens()
    assert classifier.depths(2) == ("blocks.0", "blocks.1") and classifier.deepest == "blocks.1"
    with pytest.raises(LayerNotFoundError, match=r"'blocks\.2' .* class token"):
        classifier.activations(torch.rand(1, 3, SIDE, SIDE), ["blocks.2"])


def test_a_changed_layer_keeps_its_class_token() -> None:
    classifier = tokens()
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    seen: list[Tensor] = []
    handle = classifier.module.net.blocks[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    classifier(images)
    classifier.changed(images, "blocks.0", lambda maps: maps * 0)
    handle.remove()
    assert torch.equal(seen[0][:, 0], seen[1][:, 0]) and not seen[1][:, 1:].any()


def test_images_of_another_size() -> None:
    classifier = tokens(mean=True)
    _, maps = classifier.activations(torch.rand(1, 3, SIDE, 2 * SIDE), ["blocks.0"])
    assert maps["blocks.0"].shape == (1, WIDTH, GRID, 2 * GRID)
    net = classifier.module.net
    net.embed.stride = (PATCH, PATCH // 2)  # as if it cut wide images otherwise
    with pytest.raises(ImageShapeError, match=r"'blocks\.0' answers .* resize them to 24×24"):
        classifier.activations(torch.rand(1, 3, SIDE, 2 * SIDE), ["blocks.0"])
