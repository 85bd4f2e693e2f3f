"""Changes that anybody can make in an image editor, made stronger until the label flips; no gradients are needed.

    Manual    blur, contrast, brightness, noise or a covered square: what reported incidents used
    Spatial   rotated and shifted (Engstrom et al. 2019, "Exploring the Landscape of Spatial Robustness")
    Colour    hue and saturation (Hosseini & Poovendran 2018, "Semantic Adversarial Examples")

Images (B, 3, H, W) in [0,1] and labels flow in; of each image the mildest change tried that flips the label comes out,
or the image as it was where none does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torchattacks.attack import Attack
from torchvision.transforms.v2 import functional as transforms

from detector.errors import ConfigError
from training.attacks.corruptions import moved
from training.attacks.numbers import finite, whole
from training.attacks.patch import square

__all__ = ["Colour", "Manual", "Spatial"]

Change = Callable[[Tensor, float], Tensor]  # images, strength in (0, 1] → images


class Everyday(Attack):  # type: ignore[misc]  # torchattacks is not typed
    """Tries changes from mild to strong; an image that has flipped takes no further one."""

    def __init__(self, name: str, model: nn.Module) -> None:
        super().__init__(name, model)
        self.supported_mode = ["default"]

    def tries(self, images: Tensor) -> Iterator[Tensor]:
        """Changed images (B, 3, H, W), the mildest change first."""
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """The mildest change of each image that flips its label; the image itself where none does."""
        images, labels = images.detach().to(self.device), labels.to(self.device)
        found, open_ = images.clone(), torch.ones(len(images), dtype=torch.bool, device=self.device)
        for changed in self.tries(images):
            changed = changed.clamp(0, 1).mul(255).round().div(255)  # what is judged is a picture
            flipped = open_.clone()
            flipped[open_] = self.get_logits(changed[open_]).argmax(1) != labels[open_]
            found[flipped] = changed[flipped]
            open_ &= ~flipped
            if not open_.any():
                break
        return found


class Manual(Everyday):
    """One kind of change, stronger and stronger.

    Args:
        model: Images in [0,1] → logits (B, K).
        kind: blur, contrast, brightness, noise or cover.
        steps: Strengths tried.
    """

    def __init__(self, model: nn.Module, kind: str = "blur", steps: int = 20) -> None:
        super().__init__("Manual", model)
        if kind not in _CHANGES:
            raise ConfigError(f"Manual kind: expected one of {', '.join(_CHANGES)}, got {kind!r}")
        self.kind, self.steps = kind, whole("Manual steps", steps)

    def tries(self, images: Tensor) -> Iterator[Tensor]:
        change = _CHANGES[self.kind]()
        return (change(images, step / self.steps) for step in range(1, self.steps + 1))


class Spatial(Everyday):
    """Rotated and shifted, edges mirrored.

    Args:
        model: Images in [0,1] → logits (B, K).
        degrees: The largest rotation.
        shift: The largest shift, as a share of the side.
        steps: Strengths tried.
        directions: Directions tried at each strength.
    """

    def __init__(
        self, model: nn.Module, degrees: float = 30.0, shift: float = 0.1, steps: int = 6, directions: int = 8
    ) -> None:
        super().__init__("Spatial", model)
        if not 0 <= shift <= 0.5:
            raise ConfigError(f"Spatial shift: expected a share of the side from 0 to 0.5, got {shift!r}")
        self.degrees, self.shift = finite("Spatial degrees", degrees), shift
        self.steps = whole("Spatial steps", steps)
        self.directions = whole("Spatial directions", directions)

    def tries(self, images: Tensor) -> Iterator[Tensor]:
        for step in range(1, self.steps + 1):
            for direction in range(self.directions):
                turn = 2 * math.pi * direction / self.directions
                strength = step / self.steps
                sign = 1 if direction % 2 else -1
                angle = torch.full((len(images),), math.radians(sign * strength * self.degrees), device=images.device)
                shift = strength * self.shift
                yield moved(images, angle, shift * math.cos(turn), shift * math.sin(turn))


class Colour(Everyday):
    """Another hue, then another saturation as well: shapes and brightness stay.

    Args:
        model: Images in [0,1] → logits (B, K).
        hue: The largest turn of the hue, at most .5: half the circle.
        saturation: The largest factor of the saturation, and its inverse the smallest.
        steps: Strengths tried.
    """

    def __init__(self, model: nn.Module, hue: float = 0.5, saturation: float = 3.0, steps: int = 8) -> None:
        super().__init__("Colour", model)
        if not 0 <= hue <= 0.5:
            raise ConfigError(f"Colour hue: expected a number from 0 to 0.5, got {hue!r}")
        if not finite("Colour saturation", saturation) >= 1:
            raise ConfigError(f"Colour saturation: expected a number >= 1, got {saturation!r}")
        self.hue, self.saturation = hue, saturation
        self.steps = whole("Colour steps", steps)

    def tries(self, images: Tensor) -> Iterator[Tensor]:
        for step in range(1, self.steps + 1):
            strength = step / self.steps
            for sign in (1, -1):
                turned = transforms.adjust_hue(images, sign * strength * self.hue)
                yield turned
                for factor in (self.saturation**strength, self.saturation**-strength):
                    yield transforms.adjust_saturation(turned, factor)


def _blur() -> Change:
    def change(images: Tensor, strength: float) -> Tensor:
        sigma = strength * min(images.shape[-2:]) / 8  # at full strength only colours are left
        radius = min(math.ceil(3 * sigma), min(images.shape[-2:]) - 1)
        blurred: Tensor = transforms.gaussian_blur(images, kernel_size=2 * radius + 1, sigma=sigma)
        return blurred

    return change


def _contrast() -> Change:
    return lambda images, strength: torch.lerp(images, images.mean((1, 2, 3), keepdim=True), strength)


def _brightness() -> Change:
    def change(images: Tensor, strength: float) -> Tensor:
        dark = images.mean((1, 2, 3), keepdim=True) < 0.5
        return torch.lerp(images, dark.float().expand_as(images), 0.9 * strength)  # dark ones fade to white

    return change


def _noise() -> Change:
    drawn: list[Tensor] = []

    def change(images: Tensor, strength: float) -> Tensor:
        if not drawn:  # the same noise, only louder
            drawn.append(torch.randn(images.shape, device=images.device))
        return images + 0.5 * strength * drawn[0]

    return change


def _cover() -> Change:
    places: list[Tensor] = []

    def change(images: Tensor, strength: float) -> Tensor:
        if not places:
            places.append(torch.rand(len(images), 2, device=images.device))
        return torch.where(square(places[0], 0.7 * strength, images), 0.5, images)

    return change


_CHANGES: dict[str, Callable[[], Change]] = {
    "blur": _blur,
    "contrast": _contrast,
    "brightness": _brightness,
    "noise": _noise,
    "cover": _cover,
}
