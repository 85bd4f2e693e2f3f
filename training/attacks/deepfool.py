"""Batched DeepFool: images (B, 3, H, W) in [0,1] and labels flow in, images just across a decision boundary come out.

Moosavi-Dezfooli, Fawzi & Frossard, "DeepFool: a simple and accurate method to fool deep neural networks" (2016),
algorithm 2. Three things make it fast: images step together, images that have crossed leave the batch, and gradients
are computed only for classes that can be the nearest (`reach`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchattacks.attack import Attack

from detector.errors import ConfigError
from training.attacks.numbers import finite, whole

__all__ = ["DeepFool"]

SMALLEST_NORM = 1e-12  # a vanished gradient must give no step, not NaN
CLEAR_MARGIN = 1e-4  # in logits: a label that changed by less may change back in a batch of another size


class DeepFool(Attack):  # type: ignore[misc]  # torchattacks is not typed
    """The smallest L2 step over the nearest linearised boundary, repeated until the label changes.

    Args:
        model: Images in [0,1] → logits (B, K).
        steps: Steps at most; an image that has crossed takes none.
        overshoot: Each step is this fraction longer than the linearised distance.
        candidates: Classes looked at, the label included: the label and the highest `candidates` - 1 others.
        reach: Of these, only classes whose margin is at most `reach` times the smallest margin get a gradient: their
            gradients would have to be that much longer than the runner-up's to be nearest. `inf` looks at all; 1.1
            takes 0.3 % more L2 on the embedded classifier.
        chunk: Rows a pass through the model, at most: bounds memory, changes nothing else.

    Raises:
        ConfigError: A parameter is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        steps: int = 50,
        overshoot: float = 0.02,
        candidates: int = 10,
        reach: float = 1.1,
        chunk: int = 256,
    ) -> None:
        super().__init__("DeepFool", model)
        for name, value, low in (
            ("steps", steps, 1),
            ("overshoot", overshoot, 0),
            ("candidates", candidates, 2),
            ("reach", reach, 1),
            ("chunk", chunk, 1),
        ):
            if not value >= low:
                raise ConfigError(f"DeepFool {name}: expected a number >= {low}, got {value!r}")
        self.steps, self.candidates = whole("DeepFool steps", steps), whole("DeepFool candidates", candidates)
        self.overshoot, self.reach = finite("DeepFool overshoot", overshoot), reach
        self.chunk = whole("DeepFool chunk", chunk)
        self.supported_mode = ["default"]

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Attack `images` away from `labels` (B,), or from the current predictions when None.

        An image whose prediction is not its label already, comes back as it is. Call the attack itself, as with
        every torchattacks attack: that puts the model into eval mode first.
        """
        adversarial = images.detach().clone().to(self.device)
        labels = self._predictions(adversarial) if labels is None else labels.detach().to(self.device)
        active = torch.arange(len(adversarial), device=adversarial.device)
        for _ in range(self.steps):
            staying = []
            for part in torch.split(active, self.chunk):
                stays, step = self._step_to_boundary(adversarial[part], labels[part])
                part = part[stays]
                adversarial[part] = (adversarial[part] + (1 + self.overshoot) * step).clamp(0, 1)
                staying.append(part)
            active = torch.cat(staying)
            if not len(active):
                break
        return adversarial

    @torch.no_grad()
    def _predictions(self, images: Tensor) -> Tensor:
        return torch.cat([self.get_logits(part).argmax(1) for part in torch.split(images, self.chunk)])

    def _step_to_boundary(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Which rows (m,) still have their label, and for these the step (m, 3, H, W) to the nearest linear boundary.

        The pass that finds the margins also gives every image the gradient of its smallest margin.
        """
        leaf, logits = self._forward(images)
        margins = _margins(logits.detach(), labels)
        stays = (margins.amin(1) > -CLEAR_MARGIN).nonzero().flatten()
        if not len(stays):
            return stays, images[stays]
        others = min(self.candidates, margins.shape[1]) - 1
        margins, classes = margins[stays].clamp_min(CLEAR_MARGIN).topk(others, largest=False)  # nearest first
        gradients = _rise_gradients(leaf, logits, stays, labels[stays], classes[:, 0])[stays]
        pair_row = torch.arange(len(stays), device=stays.device)
        pair_rank = torch.zeros_like(pair_row)
        row, rank = (margins[:, 1:] <= self.reach * margins[:, :1]).nonzero(as_tuple=True)
        if len(row):  # pairs of image and class that are worth a gradient of their own
            rank = rank + 1
            further = [
                self._margin_gradients(images[stays[r]], labels[stays[r]], classes[r, k])
                for r, k in zip(torch.split(row, self.chunk), torch.split(rank, self.chunk), strict=True)
            ]
            gradients = torch.cat([gradients, *further])
            pair_row, pair_rank = torch.cat([pair_row, row]), torch.cat([pair_rank, rank])
        norms = gradients.flatten(1).norm(dim=1).clamp_min(SMALLEST_NORM)
        pair_of = torch.zeros_like(classes)
        pair_of[pair_row, pair_rank] = torch.arange(len(pair_row), device=stays.device)
        distances = torch.full_like(margins, torch.inf)
        distances[pair_row, pair_rank] = margins[pair_row, pair_rank] / norms
        nearest = distances.argmin(1, keepdim=True)  # (m, 1)
        pair = pair_of.gather(1, nearest).flatten()
        length = margins.gather(1, nearest).flatten() / norms[pair].square()
        return stays, gradients[pair] * length[:, None, None, None]

    def _margin_gradients(self, images: Tensor, labels: Tensor, classes: Tensor) -> Tensor:
        """Gradients of logit(class) - logit(label), a row each."""
        leaf, logits = self._forward(images)
        return _rise_gradients(leaf, logits, torch.arange(len(images), device=images.device), labels, classes)

    def _forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        leaf = images.detach().requires_grad_()
        with torch.enable_grad():
            return leaf, self.get_logits(leaf).float()


def _rise_gradients(leaf: Tensor, logits: Tensor, rows: Tensor, labels: Tensor, classes: Tensor) -> Tensor:
    """Gradient of logit(class) - logit(label), summed over `rows`; zero in the others."""
    with torch.enable_grad():
        rise = (logits[rows, classes] - logits[rows, labels]).sum()
    return torch.autograd.grad(rise, leaf)[0]


def _margins(logits: Tensor, labels: Tensor) -> Tensor:
    """(n, K): the label's logit less each other's; infinite for the label itself."""
    return (logits.gather(1, labels[:, None]) - logits).scatter(1, labels[:, None], torch.inf)
