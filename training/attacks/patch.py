"""A small square that is learnt, anywhere in the image: images and labels in, images with one patch each out.

Brown et al. 2017 ("Adversarial Patch") and Karmon et al. 2018 ("LaVAN"): the place is fixed, the colours are free. A
patch for each image, pushed away from its label by signed steps on the margin.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torchattacks.attack import Attack

from detector.errors import ConfigError
from training.attacks.numbers import whole

__all__ = ["Patch", "square"]


class Patch(Attack):  # type: ignore[misc]  # torchattacks is not typed
    """One square patch an image.

    Args:
        model: Images in [0,1] → logits (B, K).
        area: Share of the image that it covers.
        steps: Gradient steps.
        alpha: Size of a step, in [0, 1] units.
    """

    def __init__(self, model: nn.Module, area: float = 0.05, steps: int = 30, alpha: float = 0.1) -> None:
        super().__init__("Patch", model)
        if not 0 < area < 1:
            raise ConfigError(f"Patch area: expected a share between 0 and 1, got {area!r}")
        if not 0 < alpha <= 1:
            raise ConfigError(f"Patch alpha: expected a number between 0 and 1, got {alpha!r}")
        self.area, self.steps, self.alpha = area, whole("Patch steps", steps), alpha
        self.supported_mode = ["default"]

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """The best patch found for each image."""
        images, labels = images.detach().to(self.device), labels.to(self.device)
        mask = self._places(images)
        colours = torch.rand_like(images)
        best, lowest = images.clone(), torch.full((len(images),), torch.inf, device=images.device)
        for _ in range(self.steps + 1):
            colours.requires_grad_()
            with torch.enable_grad():
                pasted = torch.where(mask, colours, images)
                logits = self.get_logits(pasted).float()
                own = logits.gather(1, labels[:, None])[:, 0]
                margin = own - logits.scatter(1, labels[:, None], -torch.inf).amax(1)
                (gradient,) = torch.autograd.grad(margin.sum(), colours)
            better = margin.detach() < lowest
            best[better], lowest[better] = pasted.detach()[better], margin.detach()[better]
            colours = (colours.detach() - self.alpha * gradient.sign()).clamp(0, 1)
        return best

    def _places(self, images: Tensor) -> Tensor:
        """(B, 1, H, W) bool: a square for each image."""
        return square(torch.rand(len(images), 2, device=images.device), math.sqrt(self.area), images)


def square(place: Tensor, side: float, images: Tensor) -> Tensor:
    """(B, 1, H, W) bool: a square of each image.

    Args:
        place: (B, 2) down and right, 0 to 1 of the room that there is.
        side: Share of the image's sides.
        images: (B, C, H, W).
    """
    height, width = images.shape[-2:]
    tall, wide = max(1, round(side * height)), max(1, round(side * width))
    corner = (place * place.new_tensor([height - tall, width - wide])).round()
    top, left = corner[:, :1], corner[:, 1:]
    rows = torch.arange(height, device=images.device)[None]
    columns = torch.arange(width, device=images.device)[None]
    in_rows = (rows >= top) & (rows < top + tall)
    in_columns = (columns >= left) & (columns < left + wide)
    inside: Tensor = in_rows[:, :, None] & in_columns[:, None]
    return inside[:, None]
