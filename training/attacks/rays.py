"""An attack that sees labels only: images and labels in, the nearest images along a ray of signs that flip them out.

Chen & Gu 2020, "RayS: A Ray Searching Method for Hard-label Adversarial Attack": the direction is a vector of signs;
ever smaller blocks of it are turned round, a turn is kept where the boundary comes nearer, and the distance to the
boundary is found by halving. All images of a batch search side by side.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchattacks.attack import Attack

from detector.errors import ConfigError
from training.attacks.numbers import whole

__all__ = ["RayS"]

HALVINGS = 8  # of a distance that is at most 1: to 1/256


class RayS(Attack):  # type: ignore[misc]  # torchattacks is not typed
    """Decision-based, L∞.

    Args:
        model: Images in [0,1] → logits (B, K), of which only the highest counts.
        eps: The largest change in [0, 1] units; an image whose boundary lies further comes back as it was.
        queries: Answers asked of the model for each image, at most.
    """

    def __init__(self, model: nn.Module, eps: float = 8 / 255, queries: int = 300) -> None:
        super().__init__("RayS", model)
        if not 0 < eps <= 1:
            raise ConfigError(f"RayS eps: expected a number between 0 and 1, got {eps!r}")
        self.eps, self.queries = eps, whole("RayS queries", queries)
        self.supported_mode = ["default"]

    @torch.no_grad()
    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """The nearest flipped image found; the image itself where it is further than `eps`."""
        images, labels = images.detach().to(self.device), labels.to(self.device)
        count, size = len(images), images[0].numel()
        sign = torch.ones(count, size, device=images.device)
        distance = torch.full((count,), torch.inf, device=images.device)
        asked = torch.zeros(count, dtype=torch.long, device=images.device)
        blocks, block = 1, 0
        while bool((asked < self.queries).any()):
            turned = sign.clone()
            width = -(-size // blocks)
            turned[:, block * width : (block + 1) * width] *= -1
            self._search(images, labels, turned, sign, distance, asked)
            block += 1
            if block * width >= size:  # every block had its turn: halve them
                blocks, block = min(2 * blocks, size), 0
        near = distance <= self.eps
        return torch.where(near.view(-1, 1, 1, 1), self._at(images, sign, distance.nan_to_num(posinf=0.0)), images)

    def _search(
        self, images: Tensor, labels: Tensor, turned: Tensor, sign: Tensor, distance: Tensor, asked: Tensor
    ) -> None:
        """Where the boundary is nearer along `turned`, take it; all in place."""
        start = distance.clamp_max(1)
        rows = (asked < self.queries).nonzero()[:, 0]
        flips = self._flips(images[rows], labels[rows], turned[rows], start[rows])
        asked[rows] += 1
        rows = rows[flips]
        if not len(rows):
            return
        low, high = torch.zeros_like(start[rows]), start[rows].clone()
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            inside = self._flips(images[rows], labels[rows], turned[rows], middle)
            high, low = torch.where(inside, middle, high), torch.where(inside, low, middle)
            asked[rows] += 1
        nearer = high < distance[rows]
        sign[rows[nearer]], distance[rows[nearer]] = turned[rows[nearer]], high[nearer]

    def _flips(self, images: Tensor, labels: Tensor, sign: Tensor, distance: Tensor) -> Tensor:
        if not len(images):
            return torch.zeros(0, dtype=torch.bool, device=images.device)
        flips: Tensor = self.get_logits(self._at(images, sign, distance)).argmax(1) != labels
        return flips

    @staticmethod
    def _at(images: Tensor, sign: Tensor, distance: Tensor) -> Tensor:
        return (images + distance.view(-1, 1, 1, 1) * sign.view_as(images)).clamp(0, 1)
