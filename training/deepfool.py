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
            gradients would have to be that much longer than the runner-up's to be nearest. `inf` looks at all.
        chunk: Rows a pass through the model, at most: bounds memory, changes nothing else.
        bfloat16: Directions (not logits) in bfloat16; None for yes where the processor computes in it.

    Raises:
        ConfigError: A parameter is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        steps: int = 50,
        overshoot: float = 0.02,
        candidates: int = 10,
        reach: float = 1.5,
        chunk: int = 256,
        bfloat16: bool | None = None,
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
        self.steps, self.overshoot, self.candidates = steps, overshoot, candidates
        self.reach, self.chunk = reach, chunk
        self.bfloat16 = _computes_bfloat16(self.device) if bfloat16 is None else bfloat16
        self.supported_mode = ["default"]

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Attack `images` away from `labels` (B,), or from the current predictions when None.

        An image whose prediction is not its label already, comes back as it is. Call the attack itself, as with
        every torchattacks attack: that puts the model into eval mode first.
        """
        adversarial = images.detach().clone().to(self.device)
        logits = self._logits(adversarial)
        labels = logits.argmax(1) if labels is None else labels.detach().to(self.device)
        active = torch.arange(len(adversarial), device=adversarial.device)
        for _ in range(self.steps):
            margins = _margins(logits, labels[active])
            holds = margins.amin(1) > -CLEAR_MARGIN
            active, margins = active[holds], margins[holds]
            if not len(active):
                break
            here = adversarial[active]
            step = (1 + self.overshoot) * self._step_to_boundary(here, labels[active], margins)
            adversarial[active] = (here + step).clamp(0, 1)
            logits = self._logits(adversarial[active])
        return adversarial

    def _logits(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            rows: list[Tensor] = [self.get_logits(part) for part in _split(images, self.chunk)]
            return torch.cat(rows).float()

    def _step_to_boundary(self, images: Tensor, labels: Tensor, margins: Tensor) -> Tensor:
        others = min(self.candidates, margins.shape[1]) - 1
        margins, classes = margins.clamp_min(CLEAR_MARGIN).topk(others, largest=False)  # (n, others), nearest first
        within = margins <= self.reach * margins[:, :1]
        within[:, 0] = True
        row, rank = within.nonzero(as_tuple=True)  # (P,): the pairs of image and class that are worth a gradient
        gradients = self._margin_gradients(images[row], labels[row], classes[row, rank])  # (P, 3, H, W)
        norms = gradients.flatten(1).norm(dim=1).clamp_min(SMALLEST_NORM)
        distances = torch.full_like(margins, torch.inf)
        distances[row, rank] = margins[row, rank] / norms
        nearest = (rank == distances.argmin(1)[row]).nonzero().flatten()  # (n,): one pair an image, in their order
        length: Tensor = margins[row, rank][nearest] / norms[nearest].square()
        return gradients[nearest] * length[:, None, None, None]

    def _margin_gradients(self, images: Tensor, labels: Tensor, classes: Tensor) -> Tensor:
        """Gradients of logit(class) - logit(label), a row each."""
        parts = []
        with torch.enable_grad():
            for pixels, label, other in zip(
                *(_split(tensor, self.chunk) for tensor in (images, labels, classes)), strict=True
            ):
                leaf = pixels.detach().requires_grad_()
                with torch.autocast(leaf.device.type, torch.bfloat16, enabled=self.bfloat16):
                    logits = self.get_logits(leaf).float()
                rise = logits.gather(1, other[:, None]).sum() - logits.gather(1, label[:, None]).sum()
                parts.append(torch.autograd.grad(rise, leaf)[0])
        return torch.cat(parts)


def _margins(logits: Tensor, labels: Tensor) -> Tensor:
    """(n, K): the label's logit less each other's; infinite for the label itself."""
    return (logits.gather(1, labels[:, None]) - logits).scatter(1, labels[:, None], torch.inf)


def _computes_bfloat16(device: torch.device | None) -> bool:
    if device is not None and device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


def _split(tensor: Tensor, size: int) -> list[Tensor]:
    return [tensor[start : start + size] for start in range(0, max(1, len(tensor)), size)]
