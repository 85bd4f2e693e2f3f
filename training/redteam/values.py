"""What travels through the red team: a budget goes in; what came of attacking some images under it comes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

__all__ = ["Budget", "Norm", "Outcome"]

Norm = Literal["Linf", "L2"]


@dataclass(frozen=True)
class Budget:
    """What an attacker may spend on one image."""

    norm: Norm
    eps: float
    """The greatest change, of pixels in [0, 1]: 8/255."""
    steps: int
    """Gradient steps of each restart; of an oracle attack, the images that it may ask about in all."""
    restarts: int = 1


@dataclass(frozen=True)
class Outcome:
    """The best image found for each of B: one that fools and is least suspicious; where none fools, the original."""

    images: Tensor  # (B, 3, H, W), multiples of 1/255 within the budget
    fools: Tensor  # (B,) bool: the prediction is not that of the original
    p_value: Tensor  # (B,) float64, of the real detector, about these images
    spent: Tensor  # (B,) int: images asked about (each step of a gradient counts as one) until the best was found
    cpu_s: float
    curve: Tensor | None = None  # (steps,) the attacker's mean loss, of the first restart
